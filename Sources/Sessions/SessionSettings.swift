import PGWire

/// The session parameters that a client has set, each with the statement that sets it on another server.
/// A value; equal contents mean that a server needs nothing done.
package struct SessionSettings: Equatable, Sendable {
    package struct Entry: Equatable, Sendable {
        /// Lower case, as PostgreSQL compares names.
        package var name: String
        /// One SQL statement without a semicolon.
        package var statement: String
    }

    /// Parameters one session may set; beyond it the client is pinned.
    package static let entriesMax = 200

    package private(set) var entries: [Entry] = []

    package init() {}

    package var isEmpty: Bool { entries.isEmpty }

    /// - Parameter value: the parameter's whole text, as set_config takes it, also for lists such as search_path.
    package mutating func set(name: String, value: String) {
        let name = name.lowercased()
        let statement =
            "SELECT pg_catalog.set_config(\(Self.literal(name)), \(Self.literal(value)), false)"
        entries.removeAll { $0.name == name }
        entries.append(Entry(name: name, statement: statement))
    }

    /// Puts an entry back as it was.
    package mutating func restore(_ entry: Entry) {
        entries.removeAll { $0.name == entry.name }
        entries.append(entry)
    }

    package func removing(_ names: String...) -> SessionSettings {
        if !entries.contains(where: { names.contains($0.name) }) { return self }
        var rest = self
        rest.entries.removeAll { names.contains($0.name) }
        return rest
    }

    package mutating func reset(name: String) {
        let name = name.lowercased()
        entries.removeAll { $0.name == name }
    }

    /// The SQL that turns a server with `current` settings into one with these; nil when nothing is to do.
    package func statements(from current: SessionSettings?) -> String? {
        guard let current else {
            // Nobody knows what is set there: start from the defaults. RESET ALL does not reach the role.
            return (["RESET SESSION AUTHORIZATION", "RESET ALL"] + entries.map(\.statement)).joined(separator: ";")
        }
        if entries == current.entries { return nil }
        var statements: [String] = []
        for entry in current.entries where !entries.contains(where: { $0.name == entry.name }) {
            statements.append("RESET \(Self.quotedName(entry.name))")
        }
        for entry in entries where !current.entries.contains(entry) { statements.append(entry.statement) }
        return statements.isEmpty ? nil : statements.joined(separator: ";")
    }

    /// By scalars, not characters: a quote with a combining accent behind it is one Character that is no quote.
    private static func literal(_ text: String) -> String {
        let hasBackslash = text.utf8.contains(UInt8(ascii: "\\"))
        var quoted = hasBackslash ? " E'" : "'"
        for scalar in text.unicodeScalars {
            if scalar == "'" || scalar == "\\" { quoted.unicodeScalars.append(scalar) }
            quoted.unicodeScalars.append(scalar)
        }
        return quoted + "'"
    }

    /// `work_mem`, or `"my"."setting"` part by part.
    private static func quotedName(_ name: String) -> String {
        var quoted = "\""
        for scalar in name.unicodeScalars {
            switch scalar {
            case ".": quoted += "\".\""
            case "\"": quoted += "\"\""
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
