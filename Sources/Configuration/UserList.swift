import Foundation
import Primitives

/// PgBouncer's userlist: lines of `"user" "secret"`, quotes inside doubled, `;` begins a comment.
/// Immutable, any thread.
package struct UserList: Sendable, Equatable {
    /// By user: plain text, `md5…` or `SCRAM-SHA-256$…`.
    package let secrets: NameTable<String>

    package init(secrets: NameTable<String>) { self.secrets = secrets }

    package static func load(path: String) throws(SettingsError) -> UserList {
        try parse(text: BoundedFile.text(path, bytesMax: SettingsLimits.usersFileBytesMax), path: path)
    }

    package static func parse(text: String, path: String) throws(SettingsError) -> UserList {
        var secrets = NameTable<String>()
        // By bytes: "\r\n" is one Character.
        let lines = text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            var fields = Fields(rest: line, path: path, line: index + 1)
            guard let user = try fields.next() else { continue }
            guard let secret = try fields.next() else {
                throw fields.error(.expected("a secret in quotes", found: "the end of the line"))
            }
            try fields.end()
            if user.isEmpty { throw fields.error(.expected("a user's name", found: "\"\"")) }
            if secrets[user] != nil {
                throw SettingsError(path: path, line: index + 1, key: user, .duplicateKey)
            }
            secrets[user] = secret
            if secrets.count > SettingsLimits.usersMax {
                throw fields.error(.tooManyNodes(max: SettingsLimits.usersMax))
            }
        }
        return UserList(secrets: secrets)
    }

    private struct Fields {
        var rest: Substring.UTF8View.SubSequence
        let path: String
        let line: Int

        init(rest: Substring.UTF8View, path: String, line: Int) {
            self.rest = rest
            self.path = path
            self.line = line
        }

        func error(_ reason: SettingsError.Reason) -> SettingsError {
            SettingsError(path: path, line: line, key: "", reason)
        }

        private mutating func skipBlanks() {
            rest = rest.drop { $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }
        }

        /// The next "…"; nil at the end of the line or a comment.
        mutating func next() throws(SettingsError) -> String? {
            skipBlanks()
            guard let first = rest.first, first != UInt8(ascii: ";") else { return nil }
            guard first == UInt8(ascii: "\"") else {
                let found = "\"\(Character(Unicode.Scalar(first)))\""
                throw error(.expected("a name or secret in double quotes", found: found))
            }
            rest = rest.dropFirst()
            var bytes: [UInt8] = []
            while let byte = rest.first {
                rest = rest.dropFirst()
                if byte == UInt8(ascii: "\"") {
                    if rest.first != UInt8(ascii: "\"") { return String(decoding: bytes, as: UTF8.self) }
                    rest = rest.dropFirst()
                }
                if byte == 0 { throw error(.expected("text without NUL", found: "NUL")) }
                bytes.append(byte)
                if bytes.count > SettingsLimits.userFieldBytesMax {
                    throw error(.tooLarge(bytes.count, max: SettingsLimits.userFieldBytesMax))
                }
            }
            throw error(.expected("a closing quote", found: "the end of the line"))
        }

        /// PgBouncer ignores what follows the secret; old files have a third field there, in quotes.
        mutating func end() throws(SettingsError) {
            while try next() != nil {}
        }
    }
}
