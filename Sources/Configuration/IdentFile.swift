import Primitives

/// Which system user (or name in a certificate) may be which PostgreSQL user: a file in pg_ident.conf's form.
/// Immutable, any thread.
package struct IdentFile: Sendable, Equatable {
    enum SystemName: Sendable, Equatable {
        case exact(ExactName)
        case pattern(LinearPattern)
        /// A text with anything (`atLeast` bytes of it) in the middle, which the user's name may refer to as `\1`.
        case around(prefix: String, suffix: String, atLeast: Int)
    }

    enum UserName: Sendable, Equatable {
        case all
        case exact(ExactName)
        case pattern(LinearPattern)
        /// What stands before and behind `\1`.
        case captured(prefix: String, suffix: String)
    }

    private struct Entry: Sendable, Equatable {
        var map: ExactName
        var system: SystemName
        var user: UserName
    }

    private let entries: [Entry]

    package static let empty = IdentFile(entries: [])

    private init(entries: [Entry]) { self.entries = entries }

    package static func load(path: String) throws(SettingsError) -> IdentFile {
        try IdentFile(AccessFileLines(path: path))
    }

    package static func parse(text: String, path: String) throws(SettingsError) -> IdentFile {
        try IdentFile(AccessFileLines(text: text, path: path))
    }

    private init(_ lines: AccessFileLines) throws(SettingsError) {
        var entries: [Entry] = []
        for line in lines.lines {
            func error(_ reason: SettingsError.Reason) -> SettingsError {
                SettingsError(path: lines.path, line: line.number, key: "", reason)
            }
            guard line.fields.count == 3, line.fields.allSatisfy({ $0.count == 1 }) else {
                let what = "a map's name, a system user's name and a PostgreSQL user's name"
                throw error(.expected(what, found: "\(line.fields.count) fields"))
            }
            let (system, user) = (line.fields[1][0], line.fields[2][0])
            let refersBack = user.text.contains("\\1")
            var entry = Entry(
                map: ExactName(line.fields[0][0].text), system: .exact(ExactName(system.text)),
                user: .exact(ExactName(user.text)))
            do {
                if !system.isQuoted && system.text.hasPrefix("/") {
                    let text = String(system.text.dropFirst())
                    if refersBack {
                        guard let around = Self.around(text) else {
                            throw error(.unsupported(
                                "\\1 behind a regular expression that is not of the form ^text(.*)text$"))
                        }
                        entry.system = around
                    } else {
                        entry.system = .pattern(try LinearPattern(regex: text))
                    }
                }
                if !user.isQuoted && user.text == "all" {
                    entry.user = .all
                } else if !user.isQuoted && user.text.hasPrefix("+") {
                    throw error(.unsupported("\(user.text): Godwit does not know who is a member of which role;"))
                } else if !user.isQuoted && user.text.hasPrefix("/") {
                    entry.user = .pattern(try LinearPattern(regex: String(user.text.dropFirst())))
                } else if refersBack, case .around = entry.system, let at = user.text.firstRange(of: "\\1") {
                    entry.user = .captured(
                        prefix: String(user.text[..<at.lowerBound]), suffix: String(user.text[at.upperBound...]))
                }
            } catch let failure as LinearPattern.Failure {
                throw error(.expected("a regular expression", found: "\(failure)"))
            } catch let failure as SettingsError {
                throw failure
            } catch {
                throw SettingsError(path: lines.path, line: line.number, key: "", .syntax("\(error)"))
            }
            entries.append(entry)
        }
        self.entries = entries
    }

    /// `^text(.*)text$` and `^text(.+)text$`, with backslashes before punctuation in the texts.
    private static func around(_ regex: String) -> SystemName? {
        let form = #/
            \^ ((?:[^\\.*+?()\[\]{}|^$]|\\[^A-Za-z0-9])*)
            \(\.([*+])\)
            ((?:[^\\.*+?()\[\]{}|^$]|\\[^A-Za-z0-9])*) \$
            /#
        guard let match = regex.wholeMatch(of: form) else { return nil }
        func plain(_ text: Substring) -> String { String(text).replacing(/\\(.)/) { "\($0.output.1)" } }
        return .around(
            prefix: plain(match.output.1), suffix: plain(match.output.3), atLeast: match.output.2 == "+" ? 1 : 0)
    }

    package func has(map: String) -> Bool { entries.contains { $0.map == ExactName(map) } }

    /// Whether `system` may be `user`. Without a map their names must be the same.
    package func allows(map: String?, system: String, user: String) -> Bool {
        guard let map else { return system.hasSameBytes(as: user) }
        let wanted = ExactName(map)
        return entries.contains { $0.map == wanted && Self.matches($0, system, user) }
    }

    private static func matches(_ entry: Entry, _ system: String, _ user: String) -> Bool {
        var captured = ""
        switch entry.system {
        case .exact(let name):
            if name != ExactName(system) { return false }
        case .pattern(let pattern):
            if !pattern.matches(system) { return false }
        case .around(let prefix, let suffix, let atLeast):
            let bytes = Array(system.utf8)
            let middle = bytes.count - prefix.utf8.count - suffix.utf8.count
            guard middle >= atLeast, bytes.starts(with: prefix.utf8),
                bytes.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
            else { return false }
            captured = String(decoding: bytes.dropFirst(prefix.utf8.count).prefix(middle), as: UTF8.self)
        }
        switch entry.user {
        case .all: return true
        case .exact(let name): return name == ExactName(user)
        case .pattern(let pattern): return pattern.matches(user)
        case .captured(let prefix, let suffix): return (prefix + captured + suffix).hasSameBytes(as: user)
        }
    }
}
