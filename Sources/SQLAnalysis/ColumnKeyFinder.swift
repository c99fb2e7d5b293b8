import CPgQuery

/// What of a shape answers a `column` source: literals by their places among the shape's literals, or parameters.
/// Several must all have one value: they are the rows of one INSERT.
package struct ColumnKey: Sendable, Equatable {
    package enum Value: Sendable, Equatable { case literals([Int]), parameters([Int]) }

    package var source: Int
    package var value: Value
}

/// The same, as the grammar gives it: literals by their offset in the text.
struct ColumnCandidate: Equatable {
    enum Value: Equatable {
        /// `items`: elements of the IN list that begins here; 1 for anything else.
        case offset(Int, items: Int)
        case parameter(Int)
    }

    var source: Int
    /// Empty: there are more rows than are looked at.
    var values: [Value]
}

/// Finds `column = literal` or `column = $n` among the top-level ANDs of WHERE and of inner joins, `column IN (one)`,
/// and the column's values in INSERT … VALUES. Immutable, one thread.
struct ColumnKeyFinder {
    /// Rows of one INSERT that are looked at; a longer one has no key.
    private static let rowsMax = 64
    /// Joins below each other that are looked at.
    private static let joinDepthMax = 64

    private typealias NodePointer = UnsafeMutablePointer<PgQuery__Node>
    private typealias NodeList = UnsafeMutablePointer<NodePointer?>

    private let columns: [(source: Int, name: String)]

    init(keyPlan: KeyPlan) {
        columns = keyPlan.sources.enumerated().compactMap { index, source in
            if case .column(let name) = source { (index, name) } else { nil }
        }
    }

    /// Of the statement itself and of what its WITH queries write.
    ///
    /// - Returns: several where these do not say the same.
    func findAll(in statement: SyntaxTree.Message, _ kinds: inout NodeKinds) -> [ColumnCandidate] {
        if columns.isEmpty { return [] }
        var found = find(in: statement, &kinds).map { [$0] } ?? []
        guard let clause = withClause(of: statement, &kinds)?.pointee else { return found }
        for index in 0..<clause.n_ctes {
            guard let node = clause.ctes?[index], node.pointee.node_case == PG_QUERY__NODE__NODE_COMMON_TABLE_EXPR,
                let query = SyntaxTree.content(of: node.pointee.common_table_expr?.pointee.ctequery),
                kinds.kind(of: query) != .selectStmt, let candidate = find(in: query, &kinds)
            else { continue }
            if !found.contains(candidate) { found.append(candidate) }
        }
        return found
    }

    private func withClause(
        of statement: SyntaxTree.Message, _ kinds: inout NodeKinds
    ) -> UnsafeMutablePointer<PgQuery__WithClause>? {
        switch kinds.kind(of: statement) {
        case .selectStmt: SyntaxTree.cast(statement, to: PgQuery__SelectStmt.self).pointee.with_clause
        case .updateStmt: SyntaxTree.cast(statement, to: PgQuery__UpdateStmt.self).pointee.with_clause
        case .deleteStmt: SyntaxTree.cast(statement, to: PgQuery__DeleteStmt.self).pointee.with_clause
        case .insertStmt: SyntaxTree.cast(statement, to: PgQuery__InsertStmt.self).pointee.with_clause
        case .mergeStmt: SyntaxTree.cast(statement, to: PgQuery__MergeStmt.self).pointee.with_clause
        default: nil
        }
    }

    private func find(in statement: SyntaxTree.Message, _ kinds: inout NodeKinds) -> ColumnCandidate? {
        switch kinds.kind(of: statement) {
        case .selectStmt:
            let node = SyntaxTree.cast(statement, to: PgQuery__SelectStmt.self).pointee
            return find(where: node.where_clause, from: node.from_clause, node.n_from_clause)
        case .updateStmt:
            let node = SyntaxTree.cast(statement, to: PgQuery__UpdateStmt.self).pointee
            return find(where: node.where_clause, from: nil, 0)
        case .deleteStmt:
            let node = SyntaxTree.cast(statement, to: PgQuery__DeleteStmt.self).pointee
            return find(where: node.where_clause, from: nil, 0)
        case .insertStmt:
            return find(insert: SyntaxTree.cast(statement, to: PgQuery__InsertStmt.self).pointee)
        default: return nil
        }
    }

    // MARK: conditions

    private func find(where clause: NodePointer?, from list: NodeList?, _ count: Int) -> ColumnCandidate? {
        for (source, name) in columns {
            if let value = value(of: name, in: clause) { return ColumnCandidate(source: source, values: [value]) }
            guard let list else { continue }
            for index in 0..<count {
                if let value = value(of: name, joinedIn: list[index], depth: 0) {
                    return ColumnCandidate(source: source, values: [value])
                }
            }
        }
        return nil
    }

    /// ON of an inner join filters as WHERE does; that of an outer join does not.
    private func value(of column: String, joinedIn node: NodePointer?, depth: Int) -> ColumnCandidate.Value? {
        guard depth < Self.joinDepthMax, let node, node.pointee.node_case == PG_QUERY__NODE__NODE_JOIN_EXPR,
            let join = node.pointee.join_expr, join.pointee.jointype == PG_QUERY__JOIN_TYPE__JOIN_INNER
        else { return nil }
        return value(of: column, in: join.pointee.quals)
            ?? value(of: column, joinedIn: join.pointee.larg, depth: depth + 1)
            ?? value(of: column, joinedIn: join.pointee.rarg, depth: depth + 1)
    }

    private func value(of column: String, in node: NodePointer?) -> ColumnCandidate.Value? {
        guard let node else { return nil }
        if node.pointee.node_case == PG_QUERY__NODE__NODE_BOOL_EXPR, let and = node.pointee.bool_expr {
            guard and.pointee.boolop == PG_QUERY__BOOL_EXPR_TYPE__AND_EXPR, let args = and.pointee.args
            else { return nil }
            for index in 0..<and.pointee.n_args {
                if let found = value(of: column, in: args[index]) { return found }
            }
            return nil
        }
        guard node.pointee.node_case == PG_QUERY__NODE__NODE_A_EXPR, let expression = node.pointee.a_expr,
            SyntaxTree.strings(expression.pointee.name, expression.pointee.n_name) == ["="]
        else { return nil }
        switch expression.pointee.kind {
        case PG_QUERY__A__EXPR__KIND__AEXPR_OP:
            if isColumn(expression.pointee.lexpr, column) { return value(expression.pointee.rexpr) }
            if isColumn(expression.pointee.rexpr, column) { return value(expression.pointee.lexpr) }
            return nil
        case PG_QUERY__A__EXPR__KIND__AEXPR_IN:
            return isColumn(expression.pointee.lexpr, column) ? value(list: expression.pointee.rexpr) : nil
        default: return nil
        }
    }

    /// The first element and how many there are: lists of all lengths may share a shape, so the text decides.
    private func value(list node: NodePointer?) -> ColumnCandidate.Value? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_LIST, let list = node.pointee.list,
            list.pointee.n_items > 0, let first = value(list.pointee.items?[0])
        else { return nil }
        switch first {
        case .offset(let offset, _): return .offset(offset, items: list.pointee.n_items)
        case .parameter: return list.pointee.n_items == 1 ? first : nil
        }
    }

    private func isColumn(_ node: NodePointer?, _ column: String) -> Bool {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_COLUMN_REF,
            let reference = node.pointee.column_ref
        else { return false }
        return SyntaxTree.strings(reference.pointee.fields, reference.pointee.n_fields).last == column
    }

    /// A literal's offset or a parameter's number, also under casts.
    private func value(_ node: NodePointer?) -> ColumnCandidate.Value? {
        guard let node else { return nil }
        switch node.pointee.node_case {
        case PG_QUERY__NODE__NODE_A_CONST:
            guard let constant = node.pointee.a_const, constant.pointee.isnull == 0 else { return nil }
            return .offset(Int(constant.pointee.location), items: 1)
        case PG_QUERY__NODE__NODE_PARAM_REF:
            return node.pointee.param_ref.map { .parameter(Int($0.pointee.number)) }
        case PG_QUERY__NODE__NODE_TYPE_CAST:
            return node.pointee.type_cast.flatMap { value($0.pointee.arg) }
        default: return nil
        }
    }

    // MARK: INSERT

    private func find(insert node: PgQuery__InsertStmt) -> ColumnCandidate? {
        guard let cols = node.cols, let rows = node.select_stmt,
            rows.pointee.node_case == PG_QUERY__NODE__NODE_SELECT_STMT, let select = rows.pointee.select_stmt,
            select.pointee.n_values_lists > 0, let lists = select.pointee.values_lists
        else { return nil }
        for (source, name) in columns {
            let place = (0..<node.n_cols).first { index in
                guard let target = cols[index], target.pointee.node_case == PG_QUERY__NODE__NODE_RES_TARGET
                else { return false }
                return SyntaxTree.string(target.pointee.res_target?.pointee.name) == name
            }
            guard let place else { continue }
            if select.pointee.n_values_lists > Self.rowsMax { return ColumnCandidate(source: source, values: []) }
            var values: [ColumnCandidate.Value] = []
            for row in 0..<select.pointee.n_values_lists {
                guard let list = lists[row], list.pointee.node_case == PG_QUERY__NODE__NODE_LIST,
                    let items = list.pointee.list, place < items.pointee.n_items,
                    let value = value(items.pointee.items?[place])
                else { break }
                values.append(value)
            }
            if values.count == select.pointee.n_values_lists {
                return ColumnCandidate(source: source, values: values)
            }
        }
        return nil
    }
}
