/// pg_ident.conf: which name outside (a certificate's) may be which user. Immutable, any thread.
///
/// Lines of `map system-name user`; `#` begins a comment, double quotes keep blanks. A system name that begins with
/// `/` is a regular expression; `\1` in its user stands for the group `(.*)`, before and behind which may be plain
/// text only. The user `all` is every user (quoted, it is the user of that name), as since PostgreSQL 16.
package struct IdentMap: Sendable, Equatable {
    private struct Line: Sendable, Equatable {
        var name: SystemName
        /// nil: every user.
        var user: [UInt8]?
    }

    /// By bytes: names that only look alike are not the same.
    private enum SystemName: Sendable, Equatable {
        case exact([UInt8])
        case pattern(LinearPattern)
        /// `^before(.*)behind$`
        case group(before: [UInt8], behind: [UInt8])
    }

    private let lines: [Line]
    private static let groupMark = Array("\\1".utf8)

    /// Whether one line of the map lets this name be this user.
    package func allows(_ systemName: String, as user: String) -> Bool {
        let name = Array(systemName.utf8)
        let user = Array(user.utf8)
        return lines.contains { line in
            switch line.name {
            case .exact(let wanted):
                return name == wanted && (line.user == nil || line.user == user)
            case .pattern(let pattern):
                return pattern.matches(name) && (line.user == nil || line.user == user)
            case .group(let before, let behind):
                guard name.count >= before.count + behind.count, name.starts(with: before),
                    name.suffix(behind.count).elementsEqual(behind), let wanted = line.user
                else { return false }
                let group = name[before.count..<name.count - behind.count]
                return wanted.replacing(Self.groupMark, with: group, maxReplacements: 1) == user
            }
        }
    }

    package static func load(path: String, map: String) throws(SettingsError) -> IdentMap {
        try parse(text: BoundedFile.text(path, bytesMax: SettingsLimits.usersFileBytesMax), path: path, map: map)
    }

    /// - Throws: for a malformed line of any map, and when there is no line of this one.
    package static func parse(text: String, path: String, map: String) throws(SettingsError) -> IdentMap {
        var lines: [Line] = []
        for (index, text) in text.unicodeScalars.split(
            separator: "\n", omittingEmptySubsequences: false
        ).enumerated() {
            let fields = try fields(of: text, path: path, line: index + 1)
            if fields.isEmpty { continue }
            func error(_ reason: SettingsError.Reason) -> SettingsError {
                SettingsError(path: path, line: index + 1, key: "", reason)
            }
            if fields.count != 3 {
                throw error(.expected("map, system name and user", found: "\(fields.count) words"))
            }
            let user = fields[2].isQuoted || fields[2].text != "all" ? fields[2].text : nil
            let name = try systemName(fields[1].text, groupIsUsed: user?.contains("\\1") == true, error)
            if fields[0].text == map { lines.append(Line(name: name, user: user.map { Array($0.utf8) })) }
        }
        if lines.isEmpty {
            throw SettingsError(path: path, line: 0, key: "", .expected("lines of the map \"\(map)\"", found: "none"))
        }
        return IdentMap(lines: lines)
    }

    private static func systemName(
        _ text: String, groupIsUsed: Bool, _ error: (SettingsError.Reason) -> SettingsError
    ) throws(SettingsError) -> SystemName {
        guard text.hasPrefix("/") else {
            if groupIsUsed { throw error(.conflict("\\1 needs a regular expression as system name")) }
            return .exact(Array(text.utf8))
        }
        let expression = String(text.dropFirst())
        if groupIsUsed {
            guard let group = expression.wholeMatch(of: /\^((?:[\w@ -]|\\[^\w])*)\(\.[*+]\)((?:[\w@ -]|\\[^\w])*)\$/)
            else {
                throw error(.conflict("\\1 needs a regular expression of the form ^text(.*)text$"))
            }
            return .group(
                before: group.output.1.utf8.filter { $0 != UInt8(ascii: "\\") },
                behind: group.output.2.utf8.filter { $0 != UInt8(ascii: "\\") })
        }
        do throws(LinearPattern.Failure) {
            return .pattern(try LinearPattern(regex: expression))
        } catch let failure {
            throw error(.conflict("cannot read the regular expression \"\(expression)\": \(failure)"))
        }
    }

    private static func fields(
        of line: Substring.UnicodeScalarView, path: String, line number: Int
    ) throws(SettingsError) -> [(text: String, isQuoted: Bool)] {
        var fields: [(text: String, isQuoted: Bool)] = []
        var rest = line
        while true {
            rest = rest.drop { $0 == " " || $0 == "\t" || $0 == "\r" }
            guard let first = rest.first, first != "#" else { return fields }
            if first == "\"" {
                rest = rest.dropFirst()
                guard let end = rest.firstIndex(of: "\"") else {
                    throw SettingsError(
                        path: path, line: number, key: "",
                        .expected("a closing quote", found: "the end of the line"))
                }
                fields.append((String(rest[..<end]), true))
                rest = rest[end...].dropFirst()
            } else {
                let end = rest.firstIndex { [" ", "\t", "\r"].contains($0) } ?? rest.endIndex
                fields.append((String(rest[..<end]), false))
                rest = rest[end...]
            }
        }
    }
}
