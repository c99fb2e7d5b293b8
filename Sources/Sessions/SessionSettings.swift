import PGWire
import Primitives

/// The session parameters that a client has set, each with the statement that sets it on another server.
/// A value; equal contents mean that a server needs nothing done.
package struct SessionSettings: Equatable, Sendable {
    package struct Entry: Equatable, Sendable {
        /// Lower case, as PostgreSQL compares names.
        package var name: String
        /// One SQL statement without a semicolon.
        package var statement: String
        /// The parameter's whole text.
        package var value: String

        /// By bytes: a role's or a schema's name in another Unicode form is another's.
        package static func == (left: Entry, right: Entry) -> Bool {
            left.name.hasSameBytes(as: right.name) && left.statement.hasSameBytes(as: right.statement)
        }
    }

    /// Parameters one session may set; beyond it the client is pinned.
    package static let entriesMax = 200

    package private(set) var entries: [Entry] = [] {
        didSet {
            saysReadOnly = entries.contains { Self.readOnlyNames.contains($0.name) }
            isSerializable = entries.contains { entry in
                entry.name == "default_transaction_isolation"
                    && entry.statement.lowercased().contains("'serializable'")
            }
        }
    }
    /// Some of it would let a session write that must not, or keep one from it.
    package private(set) var saysReadOnly = false
    /// Transactions that say nothing else are SERIALIZABLE, each statement by itself as well.
    package private(set) var isSerializable = false
    private static let readOnlyNames = ["default_transaction_read_only", "transaction_read_only"]

    package init() {}

    package var isEmpty: Bool { entries.isEmpty }

    /// - Parameter value: the parameter's whole text, as set_config takes it, also for lists such as search_path.
    package mutating func set(name: String, value: String) {
        let name = name.lowercased()
        if name == Self.authorization { reset(name: name) }
        let value = name == Self.dateStyle ? wholeDateStyle(value) : value
        entries.removeAll { $0.name == name }
        entries.append(Entry(name: name, statement: Self.statement(name, value, isLocal: false), value: value))
    }

    /// The same value in other words, at the same place.
    package mutating func respell(name: String, value: String) {
        guard let index = entries.firstIndex(where: { $0.name == name }) else { return }
        entries[index].statement = Self.statement(name, value, isLocal: false)
        entries[index].value = value
    }

    /// - Parameter name: in lower case.
    /// - Returns: nil: the session has not set it.
    package func value(of name: String) -> String? { entries.first { $0.name == name }?.value }

    /// What SET gives to the open transaction, or does at once, and no session keeps. It cannot be repeated elsewhere:
    /// another isolation level is refused behind a snapshot, which a SELECT has (25001), and from PostgreSQL 16 on
    /// RESET is refused as well.
    package static func isOfMoment(_ name: String) -> Bool {
        switch name {
        case "transaction_isolation", "transaction_read_only", "transaction_deferrable", "seed": true
        default: false
        }
    }

    /// Texts are UTF-8, as servers of ours read them by themselves, or are not converted.
    package var sendsUnicode: Bool {
        guard let entry = entries.first(where: { $0.name == "client_encoding" }) else { return true }
        return ["UTF8", "UTF-8", "UNICODE", "SQL_ASCII"].contains {
            Self.statement(entry.name, $0, isLocal: false).lowercased() == entry.statement.lowercased()
        }
    }

    /// Puts an entry back as it was.
    package mutating func restore(_ entry: Entry) {
        entries.removeAll { $0.name == entry.name }
        entries.append(entry)
    }

    /// For a server that must not write, whatever its client wants.
    package var withoutReadOnly: SessionSettings {
        if !saysReadOnly { return self }
        var rest = self
        rest.entries.removeAll { Self.readOnlyNames.contains($0.name) }
        return rest
    }

    package mutating func reset(name: String) {
        let name = name.lowercased()
        // Whoever changes the session's user has no role from then on.
        entries.removeAll { $0.name == name || (name == Self.authorization && $0.name == Self.role) }
    }

    /// RESET ALL, which reaches neither the session's user nor its role.
    ///
    /// - Parameter start: what the session began with.
    package mutating func resetAll(to start: SessionSettings) {
        entries = start.entries.filter { !Self.isIdentity($0) } + entries.filter(Self.isIdentity)
    }

    /// What RESET ALL brings back.
    package var reachedByResetAll: [Entry] { entries.filter { !Self.isIdentity($0) } }

    /// Whether both have the same. If so they share their memory from then on, always that of the same of the two, so
    /// that all who have the same come to share it, and the next question is one of two addresses.
    package static func unify(_ one: inout SessionSettings, _ other: inout SessionSettings) -> Bool {
        if one.entries.isEmpty { return other.entries.isEmpty }
        // unsafe: the addresses are compared and not followed.
        let first = one.entries.withUnsafeBufferPointer { UInt(bitPattern: $0.baseAddress) }
        let second = other.entries.withUnsafeBufferPointer { UInt(bitPattern: $0.baseAddress) }
        if first == second { return one.entries.count == other.entries.count }
        if one.entries != other.entries { return false }
        if first < second { other = one } else { one = other }
        return true
    }

    /// Whether a server that prepares a text takes its literals for the same values in both, and its names for the same
    /// things.
    package func readsLiterals(as other: SessionSettings) -> Bool {
        agrees(with: other) { Self.isOfLiterals($0) || Self.isOfNames($0) }
    }

    /// The same of a text that has no such literals.
    package func readsNames(as other: SessionSettings) -> Bool { agrees(with: other, on: Self.isOfNames) }

    private func agrees(with other: SessionSettings, on isMeant: (String) -> Bool) -> Bool {
        if entries == other.entries { return true }
        // Asked with each Bind of clients that differ in anything, as their names: without memory for it. Each has a
        // name once.
        var mine = 0
        for entry in entries where isMeant(entry.name) {
            if !other.entries.contains(entry) { return false }
            mine += 1
        }
        return mine == other.entries.count { isMeant($0.name) }
    }

    /// Which table, function or type a name is, and so of what type a parameter: `$user` in the path is the role. And
    /// what the grammar's own words are taken for. PostgreSQL looks names up again when the path is another one, but
    /// keeps the types of parameters, and refuses the statement (0A000) where its result is of another type.
    package static func isOfNames(_ name: String) -> Bool {
        switch name {
        case "search_path", authorization, role, "transform_null_equals": true
        default: false
        }
    }

    /// Which character a byte is, what a backslash does, and what a text in quotes is as a value of its type.
    package static func isOfLiterals(_ name: String) -> Bool {
        switch name {
        case "client_encoding", "standard_conforming_strings", "backslash_quote", "datestyle", "timezone",
            "timezone_abbreviations", "intervalstyle", "lc_monetary", "array_nulls", "xmloption":
            true
        default: false
        }
    }

    /// The SQL that turns a server with `current` settings into one with these; nil when nothing is to do.
    ///
    /// Who may set a parameter depends on who one is: where the user or the role of either session is not that of the
    /// login, everything else is done as the login user, and they come last.
    package func statements(from current: SessionSettings?) -> String? {
        guard let current else {
            // Nobody knows what is set there: start from the defaults. RESET ALL does not reach the role.
            return (Self.toLoginUser + ["RESET ALL"] + reachedByResetAll.map(\.statement) + identity)
                .joined(separator: ";")
        }
        if entries == current.entries { return nil }
        var statements: [String] = []
        for entry in current.reachedByResetAll where !entries.contains(where: { $0.name == entry.name }) {
            statements.append(Self.reset(entry.name))
        }
        for entry in reachedByResetAll where !current.entries.contains(entry) {
            if Self.isPart(entry) && current.value(of: entry.name) != nil { statements.append(Self.reset(entry.name)) }
            statements.append(entry.statement)
        }
        let identities = [self, current].map { $0.entries.filter(Self.isIdentity) }
        if identities[0] != identities[1] || (!identities[0].isEmpty && !statements.isEmpty) {
            statements = Self.toLoginUser + statements + identity
        }
        return statements.isEmpty ? nil : statements.joined(separator: ";")
    }

    /// The SQL that asks a server for its own spelling of values: one row with one text for each, in their order. It
    /// starts from what the login has, for a value may be a part of the whole only (DateStyle), and leaves all as it
    /// was: a query of several statements is a transaction.
    package static func spellingQuery(_ parameters: [StartupPacket.Parameter]) -> String {
        let resets = parameters.map { "SET LOCAL \(quotedName($0.name)) TO DEFAULT" }
        return (resets + parameters.map { statement($0.name, $0.value, isLocal: true) }).joined(separator: ";")
    }

    private static func statement(_ name: String, _ value: String, isLocal: Bool) -> String {
        "SELECT pg_catalog.set_config(\(literal(name)), \(literal(value)), \(isLocal))"
    }

    /// In ASCII, as values are: by a name that the server reads in another encoding it would reset another parameter,
    /// and leave this one to whoever has it next.
    private static func reset(_ name: String) -> String {
        name.utf8.contains { $0 >= 0x80 }
            ? "SELECT pg_catalog.set_config(\(literal(name)), NULL, false)" : "RESET \(quotedName(name))"
    }

    /// Of its two parts a value may name one; the other stays as it was, which another server does not know.
    private func wholeDateStyle(_ value: String) -> String {
        guard let former = entries.first(where: { $0.name == Self.dateStyle })?.statement else { return value }
        let (style, order) = Self.dateParts(value)
        let (formerStyle, formerOrder) = Self.dateParts(former)
        if let style, order == nil, let formerOrder { return "\(style), \(formerOrder)" }
        if let order, style == nil, let formerStyle { return "\(formerStyle), \(order)" }
        return value
    }

    /// Of what it leaves open the session has the default, and not what another one has left on the server.
    private static func isPart(_ entry: Entry) -> Bool {
        if entry.name != dateStyle { return false }
        let (style, order) = dateParts(entry.value)
        return style == nil || order == nil
    }

    /// As check_datestyle takes words, in a value or about it. German dates have an order of their own.
    private static func dateParts(_ text: String) -> (style: String?, order: String?) {
        var (style, order): (String?, String?) = (nil, nil)
        for word in text.lowercased().split(whereSeparator: { !$0.isLetter }).map(String.init) {
            switch word {
            case "iso": style = word
            case "ymd", "dmy", "mdy", "us": order = word
            case _ where ["sql", "postgres", "german"].contains(where: word.hasPrefix): style = word
            case _ where word.hasPrefix("euro") || word.hasPrefix("noneuro"): order = word
            default: break
            }
        }
        if order == nil, let style, style.hasPrefix("german") { order = "dmy" }
        return (style, order)
    }

    private static let dateStyle = "datestyle"
    private static let authorization = "session_authorization"
    private static let role = "role"
    private static let toLoginUser = ["RESET SESSION AUTHORIZATION", "SET ROLE NONE"]

    private static func isIdentity(_ entry: Entry) -> Bool { entry.name == authorization || entry.name == role }

    /// From the login user to the session's. A login may have a role of its own, to which RESET goes back.
    private var identity: [String] {
        let user = entries.filter { $0.name == Self.authorization }
        let role = entries.filter { $0.name == Self.role }
        return user.isEmpty && role.isEmpty ? ["RESET ROLE"] : (user + role).map(\.statement)
    }

    /// In ASCII, for the server takes the text for one in the encoding that another client may have left. Else by its
    /// bytes: `\U` in a literal is refused where the database has no encoding (SQL_ASCII), and before 13 where that is
    /// not UTF-8.
    private static func literal(_ text: String) -> String {
        if text.utf8.contains(where: { $0 >= 0x80 }) {
            return "pg_catalog.convert_from(pg_catalog.decode('\(text.utf8.hex)', 'hex'), 'UTF8')"
        }
        let quoted = text.replacing("'", with: "''")
        return text.contains("\\") ? " E'\(quoted.replacing("\\", with: "\\\\"))'" : "'\(quoted)'"
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
