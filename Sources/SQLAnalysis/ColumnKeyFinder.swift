import CPgQuery

/// What of a shape answers a `column` source: the literal in this place among the shape's literals, or a parameter.
package struct ColumnKey: Sendable, Equatable {
    package enum Value: Sendable, Equatable { case literal(Int), parameter(Int) }

    package var source: Int
    package var value: Value
}

/// The same, as the grammar gives it: literals by their offset in the text.
struct ColumnCandidate: Equatable {
    enum Value: Equatable { case offset(Int), parameter(Int) }

    var source: Int
    var value: Value
}

/// Finds `column = literal` or `column = $n` among the top-level ANDs of WHERE, and the column's value in a one-row
/// INSERT … VALUES. Immutable, one thread.
struct ColumnKeyFinder {
    private typealias NodePointer = UnsafeMutablePointer<PgQuery__Node>
    private typealias NodeList = UnsafeMutablePointer<NodePointer?>

    private let columns: [(source: Int, name: String)]

    init(keyPlan: KeyPlan) {
        columns = keyPlan.sources.enumerated().compactMap { index, source in
            if case .column(let name) = source { (index, name) } else { nil }
        }
    }

    func find(in statement: SyntaxTree.Message, _ kinds: inout NodeKinds) -> ColumnCandidate? {
        if columns.isEmpty { return nil }
        switch kinds.kind(of: statement) {
        case .selectStmt:
            return find(where: SyntaxTree.cast(statement, to: PgQuery__SelectStmt.self).pointee.where_clause)
        case .updateStmt:
            return find(where: SyntaxTree.cast(statement, to: PgQuery__UpdateStmt.self).pointee.where_clause)
        case .deleteStmt:
            return find(where: SyntaxTree.cast(statement, to: PgQuery__DeleteStmt.self).pointee.where_clause)
        case .insertStmt:
            return find(insert: SyntaxTree.cast(statement, to: PgQuery__InsertStmt.self).pointee)
        default: return nil
        }
    }

    private func find(where clause: NodePointer?) -> ColumnCandidate? {
        for (source, name) in columns {
            if let value = value(of: name, in: clause) { return ColumnCandidate(source: source, value: value) }
        }
        return nil
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
            expression.pointee.kind == PG_QUERY__A__EXPR__KIND__AEXPR_OP,
            SyntaxTree.strings(expression.pointee.name, expression.pointee.n_name) == ["="]
        else { return nil }
        if isColumn(expression.pointee.lexpr, column) { return value(expression.pointee.rexpr) }
        if isColumn(expression.pointee.rexpr, column) { return value(expression.pointee.lexpr) }
        return nil
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
            return .offset(Int(constant.pointee.location))
        case PG_QUERY__NODE__NODE_PARAM_REF:
            return node.pointee.param_ref.map { .parameter(Int($0.pointee.number)) }
        case PG_QUERY__NODE__NODE_TYPE_CAST:
            return node.pointee.type_cast.flatMap { value($0.pointee.arg) }
        default: return nil
        }
    }

    private func find(insert node: PgQuery__InsertStmt) -> ColumnCandidate? {
        guard let cols = node.cols, let rows = node.select_stmt,
            rows.pointee.node_case == PG_QUERY__NODE__NODE_SELECT_STMT, let select = rows.pointee.select_stmt,
            select.pointee.n_values_lists == 1, let list = select.pointee.values_lists?[0],
            list.pointee.node_case == PG_QUERY__NODE__NODE_LIST, let values = list.pointee.list
        else { return nil }
        for (source, name) in columns {
            for index in 0..<min(node.n_cols, values.pointee.n_items) {
                guard let target = cols[index], target.pointee.node_case == PG_QUERY__NODE__NODE_RES_TARGET,
                    SyntaxTree.string(target.pointee.res_target?.pointee.name) == name,
                    let value = value(values.pointee.items?[index])
                else { continue }
                return ColumnCandidate(source: source, value: value)
            }
        }
        return nil
    }
}
