import Foundation
import Yams

/// Reads the configuration file, strictly: what it does not know it refuses. No state, any thread.
package enum SettingsFile {
    package static func load(path: String) throws(SettingsError) -> Settings {
        try parse(text: text(path: path), path: path)
    }

    package static func text(path: String) throws(SettingsError) -> String {
        try BoundedFile.text(path, bytesMax: SettingsLimits.fileBytesMax)
    }

    /// - Parameters:
    ///   - path: for errors, and as the place that relative paths in the file start from.
    ///   - overrides: in the place of what the text says; a later one of the same setting counts.
    package static func parse(
        text: String, path: String, overrides: [SettingOverride] = []
    ) throws(SettingsError) -> Settings {
        if text.utf8.count > SettingsLimits.fileBytesMax {
            throw SettingsError(
                path: path, line: 0, key: "", .tooLarge(text.utf8.count, max: SettingsLimits.fileBytesMax))
        }
        guard var root = try tree(text, path: path) else {
            throw SettingsError(path: path, line: 1, key: "databases", .missing)
        }
        for override in overrides { try override.apply(to: &root, file: path) }
        return try SettingsReader(path: path).read(root)
    }

    /// nil: there is nothing in it.
    static func tree(_ text: String, path: String) throws(SettingsError) -> Node? {
        try YAMLGuard.check(text, path: path)
        return try compose(text, path)
    }

    private static func compose(_ text: String, _ path: String) throws(SettingsError) -> Node? {
        do {
            return try Yams.compose(yaml: text)
        } catch {
            throw self.error(from: error, text, path)
        }
    }

    private static func error(from error: any Error, _ text: String, _ path: String) -> SettingsError {
        guard let error = error as? YamlError else {
            return SettingsError(path: path, line: 1, key: "", .syntax("\(error)"))
        }
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            return SettingsError(path: path, line: mark.line, key: "", .syntax(problem))
        case .reader(let problem, let offset, _, _):
            let before = text.utf8.prefix(offset ?? 0)
            let line = 1 + before.reduce(0) { $0 + ($1 == UInt8(ascii: "\n") ? 1 : 0) }
            return SettingsError(path: path, line: line, key: "", .syntax(problem))
        case .duplicatedKeysInMapping(let duplicates, let context):
            let key = duplicates.first ?? ""
            let line = secondLine(of: key, in: text, from: context.mark.line)
            return SettingsError(path: path, line: line, key: key, .duplicateKey)
        case .no, .memory, .writer, .emitter, .representer, .dataCouldNotBeDecoded:
            return SettingsError(path: path, line: 1, key: "", .syntax("\(error)"))
        }
    }

    /// The parser names the mapping that holds a key twice; the operator wants the second of the two lines.
    private static func secondLine(of key: String, in text: String, from start: Int) -> Int {
        var seen = 0
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated()
        where index + 1 >= start {
            let trimmed = line.drop { $0 == " " || $0 == "-" }
            guard trimmed.hasPrefix("\(key):") || trimmed.hasPrefix("\"\(key)\":") else { continue }
            seen += 1
            if seen == 2 { return index + 1 }
        }
        return start
    }
}

/// Files of at most so many bytes. No state, any thread.
enum BoundedFile {
    /// The whole file as UTF-8; an error names the file.
    static func text(_ path: String, bytesMax: Int) throws(SettingsError) -> String {
        let data: Data
        do {
            data = try read(path, bytesMax: bytesMax)
        } catch {
            throw SettingsError(path: path, line: 0, key: "", error)
        }
        guard let text = String(data: data, encoding: .utf8) else {
            throw SettingsError(path: path, line: 0, key: "", .syntax("not UTF-8"))
        }
        return text
    }

    private static func read(_ path: String, bytesMax: Int) throws(SettingsError.Reason) -> Data {
        guard let file = FileHandle(forReadingAtPath: path) else {
            throw .unreadable(FileManager.default.fileExists(atPath: path) ? "no permission" : "no such file")
        }
        defer { try? file.close() }
        let data: Data
        do {
            data = try file.read(upToCount: bytesMax + 1) ?? Data()
        } catch {
            throw .unreadable("\(error.localizedDescription)")
        }
        if data.count > bytesMax { throw .tooLarge(data.count, max: bytesMax) }
        return data
    }
}

extension SettingsError.Reason: Error {}
