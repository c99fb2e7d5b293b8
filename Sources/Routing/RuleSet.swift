import Configuration
import Primitives
import SQLAnalysis

/// The rules of one database. Immutable, any thread.
package final class RuleSet: Sendable {
    /// What a rule says of a statement.
    package enum Outcome: Sendable, Equatable {
        case old, new, deny
    }

    package struct Match: Sendable, Equatable {
        /// Index in `rules`.
        package var rule: Int
        package var outcome: Outcome
    }

    /// Bytes of a text that regular expressions look at: the rest cannot make a statement match.
    package static let regexBytesMax = 64 << 10

    package let rules: [RuleSettings]
    /// The shape of each rule's example; nil: it has none, or its example has no shape.
    private let shapes: [ShapeID?]
    private let deciding: [Int]
    private let rewriting: [(rule: Int, table: TableName, other: TableName)]

    package init(_ rules: [RuleSettings]) {
        self.rules = rules
        forcesNew = rules.contains { $0.action == .new }
        shapes = rules.map { rule in rule.shape.flatMap { ShapeID(ofText: $0) } }
        var deciding: [Int] = []
        var rewriting: [(Int, TableName, TableName)] = []
        for (index, rule) in rules.enumerated() {
            if case .rewrite(let table, let other) = rule.action {
                rewriting.append((index, table, other))
            } else {
                deciding.append(index)
            }
        }
        self.deciding = deciding
        self.rewriting = rewriting
    }

    package var isEmpty: Bool { rules.isEmpty }
    package var rewrites: Bool { !rewriting.isEmpty }
    /// Reads of users beyond all shares, or of nobody, may go to NEW.
    package let forcesNew: Bool

    /// The first rule that says where, or whether, the statement runs.
    package func match(_ statement: AnalysedStatement, _ text: UnsafeRawBufferPointer, user: String) -> Match? {
        for index in deciding where matches(index, statement, text, user) {
            switch rules[index].action {
            case .old: return Match(rule: index, outcome: .old)
            case .new: return Match(rule: index, outcome: .new)
            case .deny: return Match(rule: index, outcome: .deny)
            case .rewrite: break
            }
        }
        return nil
    }

    private func matches(
        _ index: Int, _ statement: AnalysedStatement, _ text: UnsafeRawBufferPointer, _ user: String
    ) -> Bool {
        let rule = rules[index]
        if let wanted = rule.user, !wanted.hasSameBytes(as: user) { return false }
        if rule.shape != nil {
            guard let shape = shapes[index], shape == statement.shape else { return false }
        }
        if let table = rule.table, !statement.relations.contains(where: { Self.isSame($0, table) }) { return false }
        if let schema = rule.schema, !statement.relations.contains(where: { $0.schema == schema }) { return false }
        if let regex = rule.regex {
            let head = UnsafeRawBufferPointer(rebasing: text[0..<min(text.count, Self.regexBytesMax)])
            if !regex.matches(head) { return false }
        }
        return true
    }

    /// A name without a schema may be any schema's: the session's search_path decides.
    private static func isSame(_ relation: RelationReference, _ table: TableName) -> Bool {
        guard relation.name == table.name else { return false }
        guard let schema = table.schema, let own = relation.schema else { return true }
        return schema == own
    }

    // MARK: rewriting

    /// The text with its tables' names replaced, and the rules that did so; nil: none applies.
    ///
    /// Names are replaced where the grammar has seen a table, so never in strings or comments, nor those of columns.
    /// A table without an alias keeps its old name as one, so that `old.column` still means it.
    package func rewritten(
        _ text: UnsafeRawBufferPointer, _ statement: AnalysedStatement, user: String
    ) -> (text: [UInt8], rules: [Int])? {
        if statement.relations.isEmpty { return nil }
        var edits: [TableEdit] = []
        var applied: [Int] = []
        for relation in statement.relations where relation.isTable {
            let entry = rewriting.first { entry in
                Self.isSame(relation, entry.table) && matches(entry.rule, statement, text, user)
            }
            guard let entry else { continue }
            edits.append(TableEdit(relation, schema: entry.other.schema, name: entry.other.name))
            if !applied.contains(entry.rule) { applied.append(entry.rule) }
        }
        if edits.isEmpty { return nil }
        return TableRewriter.apply(edits, to: text).map { ($0, applied) }
    }
}
