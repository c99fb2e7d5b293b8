/// Who belongs to a cohort. A value, any thread.
package enum CohortMembers: Sendable, Equatable {
    case keys([String])
    case file(CohortFile)
    case pattern(LinearPattern)
    /// Keys that are whole numbers, both ends included.
    case range(ClosedRange<Int64>)

    /// The name of the kind: the key in the file.
    package var kind: String {
        switch self {
        case .keys: "keys"
        case .file: "file"
        case .pattern(let pattern): pattern.isGlob ? "pattern" : "regex"
        case .range: "range"
        }
    }

    /// How many keys it lists; nil: it lists none.
    package var count: Int? {
        switch self {
        case .keys(let keys): keys.count
        case .file(let file): file.count
        case .pattern, .range: nil
        }
    }
}

/// A table's name as the catalog has it: case counts. Without a schema it means the table in any schema.
package struct TableName: Sendable, Hashable, CustomStringConvertible {
    package var schema: String?
    package var name: String

    package init(schema: String? = nil, name: String) {
        self.schema = schema
        self.name = name
    }

    /// `table` or `schema.table`.
    package init?(_ text: String) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        guard (1...2).contains(parts.count), parts.allSatisfy({ (1...63).contains($0.utf8.count) }) else { return nil }
        self.init(schema: parts.count == 2 ? parts[0] : nil, name: parts[parts.count - 1])
    }

    package var description: String { schema.map { "\($0).\(name)" } ?? name }
}

/// One entry of `rules`: what it matches (all that is given) and what is done. A value, any thread.
package struct RuleSettings: Sendable, Equatable {
    package enum Action: Sendable, Equatable {
        case old
        /// Reads only.
        case new
        case deny
        case rewrite(table: TableName, to: TableName)
    }

    package var name: String
    /// An example statement: texts that differ in literals only are the same.
    package var shape: String?
    package var table: TableName?
    package var schema: String?
    package var regex: LinearPattern?
    package var user: String?
    package var action: Action

    package init(name: String, action: Action) {
        self.name = name
        self.action = action
    }

    package var actionName: String {
        switch action {
        case .old: "old"
        case .new: "new"
        case .deny: "deny"
        case .rewrite(let table, let other): "rewrite \(table) to \(other)"
        }
    }

    /// What it matches, in words.
    package var matchText: String {
        var parts: [String] = []
        if let shape { parts.append("shape \(shape)") }
        if let table { parts.append("table \(table)") }
        if let schema { parts.append("schema \(schema)") }
        if let regex { parts.append("regex \(regex)") }
        if let user { parts.append("user \(user)") }
        return parts.isEmpty ? "every statement" : parts.joined(separator: ", ")
    }
}
