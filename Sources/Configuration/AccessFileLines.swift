import Foundation

/// The lines of a file in pg_hba.conf's form as fields of words: `#` begins a comment, a backslash at its end joins a
/// line with the next, commas make a list of one field, quotes take a word for what it is. Lives within one call.
struct AccessFileLines {
    struct Word: Equatable {
        var text: String
        /// `"all"` is a name, `all` a keyword.
        var isQuoted: Bool

        func isKeyword(_ keyword: String) -> Bool { !isQuoted && text == keyword }
    }

    struct Line {
        /// From 1: where it begins.
        var number: Int
        var fields: [[Word]]
    }

    let path: String
    let lines: [Line]

    init(path: String) throws(SettingsError) {
        try self.init(
            text: BoundedFile.text(path, bytesMax: SettingsLimits.accessFileBytesMax), path: path)
    }

    init(text: String, path: String) throws(SettingsError) {
        self.path = path
        var lines: [Line] = []
        var joined: [UInt8] = []
        var start = 1
        // By bytes: "\r\n" is one Character.
        let pieces = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        for (index, piece) in pieces.enumerated() {
            if joined.isEmpty { start = index + 1 }
            var line = Array(piece)
            while line.last == 0x0D { line.removeLast() }
            if line.last == UInt8(ascii: "\\"), index + 1 < pieces.count {
                joined += line.dropLast() + [0x20]
                continue
            }
            joined += line
            let fields = try Self.fields(joined, path: path, line: start)
            joined = []
            if fields.isEmpty { continue }
            lines.append(Line(number: start, fields: fields))
            if lines.count > SettingsLimits.accessRulesMax {
                throw SettingsError(
                    path: path, line: start, key: "",
                    .expected("at most \(SettingsLimits.accessRulesMax) lines", found: "more"))
            }
        }
        self.lines = lines
    }

    private static func fields(_ line: [UInt8], path: String, line number: Int) throws(SettingsError) -> [[Word]] {
        var fields: [[Word]] = []
        var offset = 0
        var continuesList = false
        while true {
            while offset < line.count, isBlank(line[offset]) || line[offset] == UInt8(ascii: ",") { offset += 1 }
            if offset == line.count || line[offset] == UInt8(ascii: "#") { break }
            var word: [UInt8] = []
            var isQuoted = false
            var isInQuotes = false
            var endsWithComma = false
            while offset < line.count {
                let byte = line[offset]
                if !isInQuotes {
                    if isBlank(byte) || byte == UInt8(ascii: "#") { break }
                    if byte == UInt8(ascii: ",") {
                        endsWithComma = true
                        break
                    }
                }
                offset += 1
                if byte == UInt8(ascii: "\"") {
                    // Two within quotes are one quote.
                    if isInQuotes, offset < line.count, line[offset] == byte {
                        word.append(byte)
                        offset += 1
                    } else {
                        isInQuotes.toggle()
                        isQuoted = true
                    }
                } else {
                    word.append(byte)
                }
            }
            if isInQuotes {
                throw SettingsError(
                    path: path, line: number, key: "", .expected("a closing quote", found: "the end of the line"))
            }
            if word.contains(0) {
                throw SettingsError(path: path, line: number, key: "", .expected("text without NUL", found: "NUL"))
            }
            let found = Word(text: String(decoding: word, as: UTF8.self), isQuoted: isQuoted)
            if continuesList, !fields.isEmpty {
                fields[fields.count - 1].append(found)
            } else {
                fields.append([found])
            }
            continuesList = endsWithComma
        }
        return fields
    }

    private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0D }

    // MARK: lists

    /// A field with the words of the files that it names by `@file` in the place of those names.
    func expanded(_ words: [Word], line: Int, depth: Int = 0) throws(SettingsError) -> [Word] {
        var all: [Word] = []
        for word in words {
            guard !word.isQuoted, word.text.utf8.count > 1, word.text.hasPrefix("@") else {
                all.append(word)
                continue
            }
            if depth == Self.depthMax {
                throw SettingsError(path: path, line: line, key: "", .tooDeep(max: Self.depthMax))
            }
            let name = String(word.text.dropFirst())
            let file = SettingsReader.place(of: name, besides: path)
            let list = try AccessFileLines(path: file)
            for entry in list.lines {
                all += try list.expanded(entry.fields.flatMap { $0 }, line: entry.number, depth: depth + 1)
            }
            if all.count > SettingsLimits.accessRulesMax {
                throw SettingsError(
                    path: path, line: line, key: "",
                    .expected("at most \(SettingsLimits.accessRulesMax) names", found: "more"))
            }
        }
        return all
    }

    /// Lists that name lists.
    private static let depthMax = 10
}
