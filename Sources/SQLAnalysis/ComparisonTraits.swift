import CPgQuery

/// How two answers to one read are to be held against each other, as far as its text tells. Immutable, any thread.
package struct ComparisonTraits: Sendable, Equatable {
    /// A column of the result that rows are sorted by.
    package enum SortKey: Sendable, Equatable {
        /// From 0.
        case position(Int)
        /// As the result has it; nothing is known where several columns have it.
        case name(String)
    }

    /// The leading sort keys, up to the first that is no column of the result. Empty: rows may come in any order.
    package var sortKeys: [SortKey] = []
    /// LIMIT, OFFSET or FETCH at the outermost level: which of several rows with equal keys come is left open.
    package var isLimited = false
    /// What else SQL leaves open: DISTINCT ON, a LIMIT within, aggregates and windows that depend on the order of rows.
    package var leavesChoice = false
    /// It asks for the time, or for chance.
    package var isVolatile = false
    /// It calls aggregates, which may add floating-point numbers in any order.
    package var aggregates = false
    /// It waits on purpose.
    package var sleeps = false

    /// - Returns: nil for what is not one SELECT, VALUES or TABLE by the grammar.
    package init?(_ text: [UInt8]) {
        var kinds = NodeKinds()
        var found: ComparisonTraits?
        var statements = 0
        let isParsed = text.withUnsafeBytes { bytes in
            do throws(SyntaxTree.Failure) {
                try SyntaxTree.parse(bytes) { message, _ in
                    statements += 1
                    if kinds.kind(of: message) == .selectStmt { found = ComparisonTraits(message, &kinds) }
                }
                return true
            } catch {
                return false
            }
        }
        guard isParsed, statements == 1, let found else { return nil }
        self = found
    }

    private init(_ statement: SyntaxTree.Message, _ kinds: inout NodeKinds) {
        let select = SyntaxTree.cast(statement, to: PgQuery__SelectStmt.self).pointee
        isLimited = select.limit_count != nil || select.limit_offset != nil
        readSortKeys(select)
        visit(statement, isOutermost: true, depth: 0, &kinds)
    }

    // MARK: ORDER BY

    private mutating func readSortKeys(_ select: PgQuery__SelectStmt) {
        for index in 0..<select.n_sort_clause {
            guard let node = select.sort_clause?[index], node.pointee.node_case == PG_QUERY__NODE__NODE_SORT_BY,
                let key = Self.sortKey(node.pointee.sort_by.pointee.node, select)
            else { return }
            sortKeys.append(key)
        }
    }

    private static func sortKey(
        _ node: UnsafeMutablePointer<PgQuery__Node>?, _ select: PgQuery__SelectStmt
    ) -> SortKey? {
        if let text = SyntaxTree.constant(node) { return Int(text).flatMap { $0 > 0 ? .position($0 - 1) : nil } }
        guard let fields = columnFields(node), let name = fields.last else { return nil }
        // A name alone is a column of the result before it is one of a table.
        if fields.count == 1 {
            let hasName = select.op != PG_QUERY__SET_OPERATION__SETOP_NONE || targets(select).contains { target in
                target.name == name || target.name.isEmpty && (target.fields?.last == name || target.isStar)
            }
            return hasName ? .name(name) : nil
        }
        let isShown = targets(select).contains { target in
            target.isStar || target.name.isEmpty && target.fields == fields
        }
        let isTaken = targets(select).contains { $0.name == name }
        return isShown && !isTaken ? .name(name) : nil
    }

    private typealias Target = (name: String, fields: [String]?, isStar: Bool)

    private static func targets(_ select: PgQuery__SelectStmt) -> [Target] {
        (0..<select.n_target_list).compactMap { index in
            guard let node = select.target_list?[index], node.pointee.node_case == PG_QUERY__NODE__NODE_RES_TARGET,
                let target = node.pointee.res_target
            else { return nil }
            let fields = columnFields(target.pointee.val)
            return (SyntaxTree.string(target.pointee.name), fields, isStar(target.pointee.val))
        }
    }

    /// nil: it is no column, or has a star.
    private static func columnFields(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> [String]? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_COLUMN_REF,
            let column = node.pointee.column_ref
        else { return nil }
        let names = SyntaxTree.strings(column.pointee.fields, column.pointee.n_fields)
        return names.count == column.pointee.n_fields ? names : nil
    }

    private static func isStar(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> Bool {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_COLUMN_REF else { return false }
        return columnFields(node) == nil
    }

    // MARK: the whole of it

    private static let depthMax = 10_000
    private static let volatileFunctions: Set<String> = [
        "now", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "timeofday", "age", "random",
        "random_normal", "gen_random_uuid", "uuidv4", "uuidv7", "uuid_generate_v1", "uuid_generate_v1mc",
        "uuid_generate_v4", "array_shuffle", "array_sample",
    ]
    private static let sleepingFunctions: Set<String> = ["pg_sleep", "pg_sleep_for", "pg_sleep_until"]
    /// Their values depend on the order in which rows come to them, unless they sort.
    private static let orderedAggregates: Set<String> = [
        "array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "xmlagg",
        "any_value", "json_agg_strict", "jsonb_agg_strict", "json_object_agg_strict", "jsonb_object_agg_strict",
        "json_object_agg_unique", "jsonb_object_agg_unique", "json_object_agg_unique_strict",
        "jsonb_object_agg_unique_strict", "range_agg", "first", "last",
    ]
    private static let summingAggregates: Set<String> = [
        "sum", "avg", "stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp", "corr", "covar_pop",
        "covar_samp", "regr_avgx", "regr_avgy", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy",
        "regr_syy",
    ]
    /// Rows with equal keys get equal values of them.
    private static let peerWindows: Set<String> = ["rank", "dense_rank", "percent_rank", "cume_dist"]

    private mutating func visit(
        _ message: SyntaxTree.Message, isOutermost: Bool, depth: Int, _ kinds: inout NodeKinds
    ) {
        // So deep a text is nothing that the proxy takes for a read.
        if depth > Self.depthMax { return leavesChoice = true }
        switch kinds.kind(of: message) {
        case .selectStmt:
            let select = SyntaxTree.cast(message, to: PgQuery__SelectStmt.self).pointee
            if !isOutermost && (select.limit_count != nil || select.limit_offset != nil) { leavesChoice = true }
            // DISTINCT without ON is a list of one node that holds nothing.
            if select.n_distinct_clause > 0, SyntaxTree.content(of: select.distinct_clause?[0]) != nil {
                leavesChoice = true
            }
        case .funcCall: note(SyntaxTree.cast(message, to: PgQuery__FuncCall.self).pointee)
        case .tableSample: leavesChoice = true
        case .subLink:
            let link = SyntaxTree.cast(message, to: PgQuery__SubLink.self).pointee
            if Self.gathersAnyhow(link) { leavesChoice = true }
        case .valueFunction:
            switch SyntaxTree.cast(message, to: PgQuery__SQLValueFunction.self).pointee.op {
            case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_CATALOG,
                PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_USER, PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_USER,
                PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_ROLE,
                PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_SESSION_USER,
                PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_SCHEMA: break
            default: isVolatile = true
            }
        default: break
        }
        SyntaxTree.forEachChild(of: message) { visit($0, isOutermost: false, depth: depth + 1, &kinds) }
    }

    /// `ARRAY(SELECT …)` of rows that are not sorted.
    private static func gathersAnyhow(_ link: PgQuery__SubLink) -> Bool {
        guard link.sub_link_type == PG_QUERY__SUB_LINK_TYPE__ARRAY_SUBLINK, let query = link.subselect,
            query.pointee.node_case == PG_QUERY__NODE__NODE_SELECT_STMT
        else { return false }
        return query.pointee.select_stmt?.pointee.n_sort_clause == 0
    }

    private mutating func note(_ call: PgQuery__FuncCall) {
        guard let name = SyntaxTree.strings(call.funcname, call.n_funcname).last else { return }
        // age(x) asks for the date; age(x, y) does not.
        if Self.volatileFunctions.contains(name), name != "age" || call.n_args < 2 { isVolatile = true }
        if Self.sleepingFunctions.contains(name) { sleeps = true }
        if Self.orderedAggregates.contains(name) && call.n_agg_order == 0 { leavesChoice = true }
        if Self.summingAggregates.contains(name) { aggregates = true }
        if call.over != nil && !Self.peerWindows.contains(name) { leavesChoice = true }
    }
}
