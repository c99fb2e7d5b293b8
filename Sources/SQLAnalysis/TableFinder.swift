import CPgQuery

/// A table's name in a text, as the grammar found it.
struct FoundRelation: Equatable {
    var schema: String?
    var name: String
    var offset: Int
    var parts: Int
    var takesAlias: Bool
    var isTable: Bool
}

/// Collects the tables that a statement names. No state, any thread.
enum TableFinder {
    /// Of one statement; what is beyond is not seen by rules.
    private static let relationsMax = 1000
    private static let depthMax = 10_000

    private struct Search {
        var relations: [FoundRelation] = []
        var queries: Set<String> = []
    }

    static func relations(in statement: SyntaxTree.Message, _ kinds: inout NodeKinds) -> [FoundRelation] {
        var search = Search()
        visit(statement, under: .other, depth: 0, &kinds, &search)
        if search.queries.isEmpty { return search.relations }
        return search.relations.map { relation in
            var relation = relation
            if relation.schema == nil, search.queries.contains(relation.name) { relation.isTable = false }
            return relation
        }
    }

    private static func visit(
        _ message: SyntaxTree.Message, under parent: NodeKind, depth: Int, _ kinds: inout NodeKinds,
        _ search: inout Search
    ) {
        if depth > depthMax || search.relations.count >= relationsMax { return }
        let kind = kinds.kind(of: message)
        if kind == .rangeVar {
            let node = SyntaxTree.cast(message, to: PgQuery__RangeVar.self).pointee
            search.relations.append(found(node, under: parent))
        } else if kind == .commonTableExpr {
            let node = SyntaxTree.cast(message, to: PgQuery__CommonTableExpr.self).pointee
            search.queries.insert(SyntaxTree.string(node.ctename))
        }
        SyntaxTree.forEachChild(of: message) {
            visit($0, under: kind, depth: depth + 1, &kinds, &search)
        }
    }

    private static func found(_ node: PgQuery__RangeVar, under parent: NodeKind) -> FoundRelation {
        let schema = SyntaxTree.string(node.schemaname)
        let hasCatalog = !SyntaxTree.string(node.catalogname).isEmpty
        let takesAlias: Bool
        switch parent {
        case .selectStmt, .joinExpr, .insertStmt, .updateStmt, .deleteStmt, .mergeStmt, .tableSample:
            takesAlias = node.alias == nil
        default: takesAlias = false
        }
        return FoundRelation(
            schema: schema.isEmpty ? nil : schema, name: SyntaxTree.string(node.relname), offset: Int(node.location),
            parts: hasCatalog ? 3 : schema.isEmpty ? 1 : 2, takesAlias: takesAlias, isTable: parent != .lockingClause)
    }
}
