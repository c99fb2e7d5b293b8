import CPgQuery

/// What a walk over one statement's tree found. The worst finding wins; of equals the first, but any other write over
/// what takes locks only. A value, one thread.
struct Findings {
    private(set) var kind: StatementKind = .read
    private(set) var reason: ClassificationReason = .surelyRead
    private(set) var effects: [SessionEffect] = []
    var seesTransactionTime = false
    /// SELECT INTO.
    var makesTable = false
    var readsSequence = false
    var readsUnmirrored = false
    var statementNames: [String] = []
    var boundSettings: [BoundSetting] = []
    /// Calls of set_config.
    var settingCalls = 0
    /// It is judged by a literal.
    var hangsOnLiterals = false

    mutating func add(_ kind: StatementKind, _ reason: ClassificationReason) {
        let (severity, known) = (Findings.severity(kind), Findings.severity(self.kind))
        guard severity > known || severity == known && self.reason == .takesLocks else { return }
        self.kind = kind
        self.reason = reason
    }

    mutating func add(_ effect: SessionEffect) {
        // Of settings the last counts, also where it says again what an earlier one has said.
        if case .sets = effect { return effects.append(effect) }
        if !effects.contains(effect) { effects.append(effect) }
    }

    private static func severity(_ kind: StatementKind) -> Int {
        switch kind {
        case .read: 0
        case .sideDependent: 1
        default: 2
        }
    }
}

/// Visits every node of a statement and judges each: reads are what holds nothing but nodes known to be harmless.
struct TreeWalk {
    /// Far above what `AnalysisLimits.depthMax` lets through to the grammar.
    private static let depthMax = 10_000

    let facts: CatalogFacts
    var kinds: NodeKinds
    var findings = Findings()

    init(facts: CatalogFacts, kinds: NodeKinds) {
        self.facts = facts
        self.kinds = kinds
    }

    /// What it leaves, where nobody is told what parameters are.
    var effectsUnbound: [SessionEffect] {
        findings.effects + (findings.boundSettings.isEmpty ? [] : [.pins(.untrackedSetting)])
    }

    mutating func visit(_ message: SyntaxTree.Message, depth: Int = 0) {
        guard depth < TreeWalk.depthMax else {
            findings.add(.write, .tooDeep)
            return
        }
        judge(message)
        SyntaxTree.forEachChild(of: message) { visit($0, depth: depth + 1) }
    }

    private mutating func judge(_ message: SyntaxTree.Message) {
        switch kinds.kind(of: message) {
        case .selectStmt where facts.hasHarmfulImplicitCast: findings.add(.write, .harmfulOperator)
        case .insertStmt, .updateStmt, .deleteStmt, .mergeStmt: findings.add(.write, .dataModifyingCTE)
        case .lockingClause: findings.add(.write, .lockingClause)
        case .intoClause:
            findings.makesTable = true
            findings.add(.write, .selectInto)
        case .funcCall: judge(call: SyntaxTree.cast(message, to: PgQuery__FuncCall.self).pointee)
        case .rangeVar: judge(relation: SyntaxTree.cast(message, to: PgQuery__RangeVar.self).pointee)
        case .columnRef: judge(column: SyntaxTree.cast(message, to: PgQuery__ColumnRef.self).pointee)
        case .indirection:
            let node = SyntaxTree.cast(message, to: PgQuery__AIndirection.self).pointee
            for name in SyntaxTree.strings(node.indirection, node.n_indirection) {
                if Self.systemColumns.contains(name) { findings.add(.sideDependent, .systemColumn) }
                if facts.isFunction(name) { judge(function: name, nil) }
            }
        case .expression:
            let node = SyntaxTree.cast(message, to: PgQuery__AExpr.self).pointee
            judge(operation: SyntaxTree.strings(node.name, node.n_name).last)
        case .sortBy:
            let node = SyntaxTree.cast(message, to: PgQuery__SortBy.self).pointee
            judge(operation: SyntaxTree.strings(node.use_op, node.n_use_op).last)
        case .subLink:
            let node = SyntaxTree.cast(message, to: PgQuery__SubLink.self).pointee
            judge(operation: SyntaxTree.strings(node.oper_name, node.n_oper_name).last)
        case .typeName:
            let node = SyntaxTree.cast(message, to: PgQuery__TypeName.self).pointee
            judge(type: SyntaxTree.strings(node.names, node.n_names).last)
        case .tableSample:
            let node = SyntaxTree.cast(message, to: PgQuery__RangeTableSample.self).pointee
            let method = SyntaxTree.strings(node.method, node.n_method).last ?? ""
            if method != "system" && method != "bernoulli" { findings.add(.write, .unknownFunction) }
        case .valueFunction:
            let node = SyntaxTree.cast(message, to: PgQuery__SQLValueFunction.self).pointee
            switch node.op {
            case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_CATALOG: findings.add(.sideDependent, .serverState)
            case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_USER, PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_USER,
                PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_ROLE,
                PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_SESSION_USER,
                PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_SCHEMA: break
            default: findings.seesTransactionTime = true
            }
        case .selectStmt, .alias, .resTarget, .star, .constant, .integer, .float, .boolean, .string, .bitString,
            .boolExpr, .nullTest, .booleanTest, .typeCast, .joinExpr, .rangeSubselect, .rangeFunction,
            .rangeTableFunc, .rangeTableFuncCol, .columnDef, .caseExpr, .caseWhen, .coalesceExpr, .minMaxExpr,
            .arrayExpr, .rowExpr, .paramRef, .windowDef, .withClause, .commonTableExpr, .cteSearchClause,
            .cteCycleClause, .list, .indices, .collateClause, .xmlExpr, .xmlSerialize, .namedArgExpr, .groupingSet,
            .groupingFunc:
            break
        case .executeStmt:
            findings.add(.write, .unknownNode)
            findings.statementNames.append(
                SyntaxTree.string(SyntaxTree.cast(message, to: PgQuery__ExecuteStmt.self).pointee.name))
        case .transactionStmt, .variableSetStmt, .variableShowStmt, .copyStmt, .explainStmt, .prepareStmt,
            .deallocateStmt, .declareCursorStmt, .fetchStmt, .closePortalStmt, .listenStmt,
            .unlistenStmt, .discardStmt, .loadStmt, .truncateStmt, .notifyStmt, .lockStmt, .constraintsSetStmt,
            .checkPointStmt, .vacuumStmt, .clusterStmt, .reindexStmt, .refreshMatViewStmt, .doStmt, .callStmt,
            .alterSystemStmt, .other:
            findings.add(.write, .unknownNode)
        }
    }

    private mutating func judge(call: PgQuery__FuncCall) {
        let name = SyntaxTree.strings(call.funcname, call.n_funcname)
        guard let function = name.last else {
            findings.add(.write, .unknownFunction)
            return
        }
        let schema = name.count > 1 ? name[name.count - 2] : nil
        if function == "set_config", schema == nil || schema == "pg_catalog" {
            findings.settingCalls += 1
            if let bound = boundSetting(call) {
                findings.boundSettings.append(bound)
                return findings.add(.sideDependent, .sessionState)
            }
            let effect = setConfigEffect(call)
            findings.add(effect)
            // A SET by another name: the authority's, but it writes no data.
            if case .sets = effect {
                findings.add(.sideDependent, .sessionState)
            } else {
                findings.add(.write, .harmfulFunction)
            }
            return
        }
        if function == "current_setting", schema == nil || schema == "pg_catalog", namesOwnSetting(call),
            facts.verdict(function: function, schema: schema) == .harmless
        {
            return findings.hangsOnLiterals = true
        }
        judge(function: function, schema)
    }

    /// A setting of the application's own is what the session has set. PostgreSQL's have other values on another
    /// server: its version, where its files are, and that it takes no writes from here.
    private func namesOwnSetting(_ call: PgQuery__FuncCall) -> Bool {
        guard call.n_args > 0, let args = call.args, let name = SyntaxTree.constant(args[0]) else { return false }
        return name.contains(".")
    }

    private mutating func judge(function: String, _ schema: String?) {
        switch facts.verdict(function: function, schema: schema) {
        case .harmless: break
        case .serverState: findings.add(.sideDependent, .serverState)
        case .harmful:
            let isLock = (schema == nil || schema == "pg_catalog")
                && (function.hasPrefix("pg_advisory_") || function.hasPrefix("pg_try_advisory_"))
            findings.add(.write, isLock ? .takesLocks : .harmfulFunction)
        case .volatile: findings.add(.write, .volatileFunction)
        case .unknown: findings.add(.write, .unknownFunction)
        }
        if facts.leavesSomething(function: function) { findings.add(.pins(.function)) }
        guard schema == nil || schema == "pg_catalog" else { return }
        switch function {
        case "now", "transaction_timestamp", "age": findings.seesTransactionTime = true
        case "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared":
            findings.add(.pins(.advisoryLock))
        case "pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all":
            findings.add(.unlocks)
        case "currval", "lastval": findings.readsSequence = true
        case "current_setting":
            findings.hangsOnLiterals = true
            findings.add(.sideDependent, .serverState)
        default: break
        }
    }

    /// set_config with three constants is a SET; anything else cannot be repeated elsewhere.
    private func setConfigEffect(_ call: PgQuery__FuncCall) -> SessionEffect {
        guard call.n_args == 3, let args = call.args, let name = SyntaxTree.constant(args[0]),
            let value = SyntaxTree.constant(args[1]), let local = boolean(args[2])
        else { return .pins(.untrackedSetting) }
        return .sets(SettingChange(name: name.lowercased(), value: value, isLocal: local))
    }

    private func boundSetting(_ call: PgQuery__FuncCall) -> BoundSetting? {
        guard call.n_args == 3, let args = call.args, let name = SyntaxTree.constant(args[0]),
            let parameter = SyntaxTree.parameter(args[1]), let local = boolean(args[2])
        else { return nil }
        return BoundSetting(name: name.lowercased(), parameter: parameter, isLocal: local)
    }

    /// `true` comes as a cast of 't' to bool from older grammars, as a Boolean constant from newer ones.
    private func boolean(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> Bool? {
        guard let text = SyntaxTree.constant(node)?.lowercased() else { return nil }
        switch text {
        case "true", "t", "on", "yes", "1": return true
        case "false", "f", "off", "no", "0": return false
        default: return nil
        }
    }

    private mutating func judge(relation: PgQuery__RangeVar) {
        let schema = SyntaxTree.string(relation.schemaname)
        let name = SyntaxTree.string(relation.relname)
        if SyntaxTree.string(relation.relpersistence) == "t" || schema.hasPrefix("pg_temp") {
            findings.add(.write, .temporaryObject)
            findings.add(.pins(.temporaryTable))
        } else if schema == "pg_catalog" || schema == "information_schema" || schema.hasPrefix("pg_toast")
            || schema.isEmpty && name.hasPrefix("pg_")
        {
            findings.add(.sideDependent, .systemCatalog)
        } else {
            switch facts.verdict(relation: name, schema: schema.isEmpty ? nil : schema) {
            case .harmless: break
            case .serverState:
                findings.readsUnmirrored = true
                findings.add(.sideDependent, .unmirroredRelation)
            case .harmful, .volatile, .unknown: findings.add(.write, .volatileFunction)
            }
        }
    }

    /// Also of a whole row: `(t).xmin`.
    private static let systemColumns: Set<String> = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"]

    /// `t.f` is the column f of t, or else the function f(t); t may also be single values, of a function in FROM.
    /// Columns bear many names that functions have, so only those count whose call would do something.
    private mutating func judge(column: PgQuery__ColumnRef) {
        guard let name = SyntaxTree.strings(column.fields, column.n_fields).last else { return }
        if Self.systemColumns.contains(name) {
            findings.add(.sideDependent, .systemColumn)
        } else if column.n_fields > 1, facts.hasEffects(attribute: name) {
            judge(function: name, nil)
        }
    }

    private mutating func judge(operation name: String?) {
        if let name, facts.isHarmful(operation: name) { findings.add(.write, .harmfulOperator) }
    }

    /// Object identifiers differ between two databases: what is made of names here may not be used there.
    private mutating func judge(type name: String?) {
        guard let name else { return }
        if facts.isHarmful(type: name) { findings.add(.write, .harmfulOperator) }
        if BuiltinFunctions.identifierTypes.contains(name) { findings.add(.sideDependent, .systemCatalog) }
    }
}
