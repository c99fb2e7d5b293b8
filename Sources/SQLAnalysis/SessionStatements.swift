import CPgQuery

/// Statements about the session or the transaction, not about data. No state, any thread.
enum SessionStatements {
    static func transaction(_ statement: SyntaxTree.Message) -> Classification {
        let node = SyntaxTree.cast(statement, to: PgQuery__TransactionStmt.self).pointee
        var result: Classification
        switch node.kind {
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_BEGIN, PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_START:
            result = Classification(.begin, .transactionControl)
            result.mark = .begin
            result.transaction = options(SyntaxTree.options(node.options, node.n_options))
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_COMMIT:
            result = Classification(.commit, .transactionControl)
            result.mark = .commit(chains: node.chain != 0)
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_ROLLBACK:
            result = Classification(.rollback, .transactionControl)
            result.mark = .rollback(chains: node.chain != 0)
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_SAVEPOINT,
            PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_RELEASE,
            PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_ROLLBACK_TO:
            result = Classification(.savepoint, .transactionControl)
            let name = SyntaxTree.string(node.savepoint_name)
            result.objectName = name
            switch node.kind {
            case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_SAVEPOINT: result.mark = .savepoint(name)
            case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_RELEASE: result.mark = .release(name)
            default: result.mark = .rollbackTo(name)
            }
        default:
            result = Classification(.preparedTransaction, .transactionControl)
            result.objectName = SyntaxTree.string(node.gid)
            if node.kind == PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_PREPARE {
                result.mark = .commit(chains: false)
                result.preparesTransaction = true
            }
        }
        result.chains = node.chain != 0
        result.borders = TransactionBorders(result.kind, chains: result.chains)
        return result
    }

    private static func options(_ given: [SyntaxTree.Option]) -> TransactionOptions {
        var options = TransactionOptions()
        for option in given {
            switch option.name {
            case "transaction_isolation":
                // What we do not know is taken at the strictest.
                options.isolation = TransactionOptions.Isolation(rawValue: option.value ?? "") ?? .serializable
            case "transaction_read_only": options.readOnly = option.isOn
            case "transaction_deferrable": options.deferrable = option.isOn
            default: options.isolation = .serializable
            }
        }
        return options
    }

    // MARK: DO

    /// In another language than PL/pgSQL a block is not read.
    static func effects(ofBlock statement: SyntaxTree.Message, _ facts: CatalogFacts) -> [SessionEffect] {
        let node = SyntaxTree.cast(statement, to: PgQuery__DoStmt.self).pointee
        var body = ""
        for option in SyntaxTree.options(node.args, node.n_args) {
            switch option.name {
            case "as": body = option.value ?? ""
            case "language" where option.value == "plpgsql": break
            default: return [.pins(.unknownStatement)]
            }
        }
        return Array(body.utf8).withUnsafeBytes {
            LexicalScan.effects(ofBlock: $0, leaves: facts.leavesSomething(function:))
        }
    }

    // MARK: set_config

    /// Calls of set_config that run whatever rows there are: columns of a SELECT without any clause, or the one
    /// function that it is FROM.
    static func certainCalls(_ statement: SyntaxTree.Message) -> Int {
        let node = SyntaxTree.cast(statement, to: PgQuery__SelectStmt.self).pointee
        guard node.where_clause == nil, node.having_clause == nil, node.limit_count == nil, node.limit_offset == nil,
            node.with_clause == nil, node.n_group_clause == 0, node.n_distinct_clause == 0, node.n_values_lists == 0,
            node.op == PG_QUERY__SET_OPERATION__SETOP_NONE
        else { return 0 }
        if node.n_from_clause == 1 { return isCall(function(node.from_clause?[0])) ? 1 : 0 }
        if node.n_from_clause > 0 { return 0 }
        return (0..<node.n_target_list).count { index in
            guard let target = node.target_list?[index], target.pointee.node_case == PG_QUERY__NODE__NODE_RES_TARGET
            else { return false }
            return isCall(target.pointee.res_target?.pointee.val)
        }
    }

    /// The only one of `FROM f()`.
    private static func function(
        _ node: UnsafeMutablePointer<PgQuery__Node>?
    ) -> UnsafeMutablePointer<PgQuery__Node>? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_RANGE_FUNCTION,
            let range = node.pointee.range_function, range.pointee.n_functions == 1,
            let first = range.pointee.functions?[0], first.pointee.node_case == PG_QUERY__NODE__NODE_LIST,
            let list = first.pointee.list, list.pointee.n_items > 0
        else { return nil }
        return list.pointee.items?[0]
    }

    private static func isCall(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> Bool {
        guard let node else { return false }
        if node.pointee.node_case == PG_QUERY__NODE__NODE_TYPE_CAST {
            return isCall(node.pointee.type_cast?.pointee.arg)
        }
        guard node.pointee.node_case == PG_QUERY__NODE__NODE_FUNC_CALL, let call = node.pointee.func_call
        else { return false }
        return SyntaxTree.strings(call.pointee.funcname, call.pointee.n_funcname).last == "set_config"
    }

    // MARK: SET and RESET

    static func set(_ statement: SyntaxTree.Message) -> Classification {
        let node = SyntaxTree.cast(statement, to: PgQuery__VariableSetStmt.self).pointee
        let name = SyntaxTree.string(node.name).lowercased()
        let isLocal = node.is_local != 0
        switch node.kind {
        case PG_QUERY__VARIABLE_SET_KIND__VAR_SET_MULTI: return setTransaction(node, name)
        case PG_QUERY__VARIABLE_SET_KIND__VAR_RESET:
            return one(.reset, name, .resets(name))
        case PG_QUERY__VARIABLE_SET_KIND__VAR_RESET_ALL:
            return one(.reset, nil, .resetsAll)
        case PG_QUERY__VARIABLE_SET_KIND__VAR_SET_DEFAULT:
            return one(.set, name, .sets(SettingChange(name: name, value: nil, isLocal: isLocal)))
        case PG_QUERY__VARIABLE_SET_KIND__VAR_SET_VALUE:
            guard let value = value(node, name) else { return one(.set, name, .pins(.untrackedSetting)) }
            return one(.set, name, .sets(SettingChange(name: name, value: value, isLocal: isLocal)))
        default:
            return one(.set, name, .pins(.untrackedSetting))
        }
    }

    private static func setTransaction(_ node: PgQuery__VariableSetStmt, _ name: String) -> Classification {
        var result = Classification(.setTransaction, .transactionControl)
        if name == "transaction snapshot" {
            result.transaction.usesSnapshot = true
            return result
        }
        result.transaction = options(SyntaxTree.options(node.args, node.n_args))
        if name == "session characteristics" {
            result.transaction.isForSession = true
            result.effects = characteristics(result.transaction)
        }
        return result
    }

    /// SET SESSION CHARACTERISTICS sets the three defaults.
    private static func characteristics(_ options: TransactionOptions) -> [SessionEffect] {
        var effects: [SessionEffect] = []
        func add(_ name: String, _ value: String?) {
            guard let value else { return }
            effects.append(.sets(SettingChange(name: name, value: value, isLocal: false)))
        }
        add("default_transaction_isolation", options.isolation?.rawValue)
        add("default_transaction_read_only", options.readOnly.map { $0 ? "on" : "off" })
        add("default_transaction_deferrable", options.deferrable.map { $0 ? "on" : "off" })
        return effects
    }

    private static func one(_ kind: StatementKind, _ name: String?, _ effect: SessionEffect) -> Classification {
        var result = Classification(kind, .sessionState)
        result.objectName = name
        result.effects = [effect]
        return result
    }

    /// As guc.c's flatten_set_variable_args: what set_config takes. nil: a form that cannot be given as text.
    private static func value(_ node: PgQuery__VariableSetStmt, _ name: String) -> String? {
        guard let args = node.args, node.n_args > 0 else { return nil }
        var parts: [String] = []
        for index in 0..<node.n_args {
            guard let part = SyntaxTree.constant(args[index]) ?? zoneInterval(args[index]) else { return nil }
            parts.append(isQuotedList(name) ? quotedIdentifier(part) : part)
        }
        return parts.joined(separator: ", ")
    }

    /// `INTERVAL '+05:30' HOUR TO MINUTE`, by which some ORMs give each session its zone. Only of hours and minutes:
    /// what other texts are hangs on the fields behind them, which the setting's text has not.
    private static func zoneInterval(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> String? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_TYPE_CAST, let cast = node.pointee.type_cast,
            let type = cast.pointee.type_name?.pointee, let text = SyntaxTree.constant(cast.pointee.arg),
            SyntaxTree.strings(type.names, type.n_names).last == "interval"
        else { return nil }
        let fields = (0..<type.n_typmods).map { SyntaxTree.constant(type.typmods?[$0]) }
        let numbers = (text.hasPrefix("+") || text.hasPrefix("-") ? text.dropFirst() : text[...])
            .split(separator: ":", omittingEmptySubsequences: false)
        guard fields.isEmpty || fields == [hourToMinute], numbers.count == 2,
            numbers.allSatisfy({ 1...2 ~= $0.utf8.count && $0.utf8.allSatisfy { 0x30...0x39 ~= $0 } })
        else { return nil }
        return "INTERVAL '\(text)'"
    }

    /// INTERVAL_MASK(HOUR) | INTERVAL_MASK(MINUTE) of PostgreSQL's datetime.h.
    private static let hourToMinute = "\(1 << 10 | 1 << 11)"

    /// The settings that hold lists of identifiers (GUC_LIST_QUOTE).
    private static func isQuotedList(_ name: String) -> Bool {
        switch name {
        case "search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries",
            "shared_preload_libraries", "unix_socket_directories":
            true
        default: false
        }
    }

    /// As PostgreSQL's quote_identifier, but for keywords, which need no quotes in a setting's text.
    private static func quotedIdentifier(_ part: String) -> String {
        let isPlain = part.utf8.allSatisfy { 0x61...0x7A ~= $0 || 0x30...0x39 ~= $0 || $0 == 0x5F }
        if isPlain, let first = part.utf8.first, !(0x30...0x39 ~= first) { return part }
        return "\"" + part.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
    }

    // MARK: the others

    static func other(_ statement: SyntaxTree.Message, _ kind: NodeKind) -> Classification {
        switch kind {
        case .variableShowStmt:
            var result = Classification(.show, .sessionState)
            result.objectName = SyntaxTree.string(
                SyntaxTree.cast(statement, to: PgQuery__VariableShowStmt.self).pointee.name)
            return result
        case .prepareStmt:
            let name = SyntaxTree.string(SyntaxTree.cast(statement, to: PgQuery__PrepareStmt.self).pointee.name)
            var result = one(.prepare, name, .prepares(name))
            result.statementNames = [name]
            return result
        case .executeStmt:
            var result = Classification(.execute, .sessionState)
            let name = SyntaxTree.string(SyntaxTree.cast(statement, to: PgQuery__ExecuteStmt.self).pointee.name)
            result.objectName = name
            result.statementNames = [name]
            return result
        case .deallocateStmt:
            let name = name(SyntaxTree.cast(statement, to: PgQuery__DeallocateStmt.self).pointee.name)
            return one(.deallocate, name, .deallocates(name))
        case .declareCursorStmt: return declare(statement)
        case .fetchStmt:
            var result = Classification(.cursor, .sessionState)
            result.objectName = SyntaxTree.string(
                SyntaxTree.cast(statement, to: PgQuery__FetchStmt.self).pointee.portalname)
            return result
        case .closePortalStmt:
            let name = name(SyntaxTree.cast(statement, to: PgQuery__ClosePortalStmt.self).pointee.portalname)
            return one(.cursor, name, .closesCursor(name))
        case .listenStmt:
            let name = SyntaxTree.string(
                SyntaxTree.cast(statement, to: PgQuery__ListenStmt.self).pointee.conditionname)
            return one(.listen, name, .pins(.listen))
        case .unlistenStmt:
            let name = name(SyntaxTree.cast(statement, to: PgQuery__UnlistenStmt.self).pointee.conditionname)
            return one(.unlisten, name, .unlistens(name))
        case .discardStmt:
            return discard(SyntaxTree.cast(statement, to: PgQuery__DiscardStmt.self).pointee.target)
        case .loadStmt:
            return one(.write, nil, .pins(.library))
        default:
            preconditionFailure("not a statement about the session")
        }
    }

    private static func declare(_ statement: SyntaxTree.Message) -> Classification {
        let node = SyntaxTree.cast(statement, to: PgQuery__DeclareCursorStmt.self).pointee
        var result = Classification(.cursor, .sessionState)
        result.objectName = SyntaxTree.string(node.portalname)
        result.declaresCursor = true
        if node.options & 0x20 != 0 { result.effects.append(.pins(.holdCursor)) }     // CURSOR_OPT_HOLD
        return result
    }

    private static func discard(_ target: PgQuery__DiscardMode) -> Classification {
        switch target {
        case PG_QUERY__DISCARD_MODE__DISCARD_PLANS: one(.discard, nil, .discards(.plans))
        case PG_QUERY__DISCARD_MODE__DISCARD_SEQUENCES: one(.discard, nil, .discards(.sequences))
        case PG_QUERY__DISCARD_MODE__DISCARD_TEMP: one(.discard, nil, .discards(.temporary))
        default: one(.discard, nil, .discards(.all))
        }
    }

    /// nil for ALL, which the grammar gives as no name.
    private static func name(_ pointer: UnsafePointer<CChar>?) -> String? {
        let name = SyntaxTree.string(pointer)
        return name.isEmpty ? nil : name
    }
}

extension SyntaxTree {
    /// One `name value` of an option list; no value means on.
    struct Option {
        var name: String
        var value: String?

        var isOn: Bool {
            switch value?.lowercased() {
            case nil: true
            case "0", "false", "off", "f", "no", "n": false
            default: true                            // unsure: on
            }
        }
    }

    static func options(_ list: UnsafeMutablePointer<UnsafeMutablePointer<PgQuery__Node>?>?, _ count: Int) -> [Option] {
        guard let list else { return [] }
        return (0..<count).map { index in
            guard let node = list[index], node.pointee.node_case == PG_QUERY__NODE__NODE_DEF_ELEM,
                let element = node.pointee.def_elem
            else { return Option(name: "", value: nil) }
            let value = constant(element.pointee.arg) ?? stringValue(element.pointee.arg)
                ?? integerValue(element.pointee.arg)
            return Option(name: string(element.pointee.defname), value: value)
        }
    }

    private static func integerValue(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> String? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_INTEGER else { return nil }
        return node.pointee.integer.map { String($0.pointee.ival) }
    }
}
