import CPgQuery

/// The nodes of the grammar that we know by name. What is not here is `other`, and no read. Immutable, any thread.
enum NodeKind: String {
    // Statements.
    case selectStmt = "SelectStmt"
    case insertStmt = "InsertStmt"
    case updateStmt = "UpdateStmt"
    case deleteStmt = "DeleteStmt"
    case mergeStmt = "MergeStmt"
    case transactionStmt = "TransactionStmt"
    case variableSetStmt = "VariableSetStmt"
    case variableShowStmt = "VariableShowStmt"
    case copyStmt = "CopyStmt"
    case explainStmt = "ExplainStmt"
    case prepareStmt = "PrepareStmt"
    case executeStmt = "ExecuteStmt"
    case deallocateStmt = "DeallocateStmt"
    case declareCursorStmt = "DeclareCursorStmt"
    case fetchStmt = "FetchStmt"
    case closePortalStmt = "ClosePortalStmt"
    case listenStmt = "ListenStmt"
    case unlistenStmt = "UnlistenStmt"
    case discardStmt = "DiscardStmt"
    case loadStmt = "LoadStmt"
    case truncateStmt = "TruncateStmt"
    /// Neither a read nor a change of the schema.
    case notifyStmt = "NotifyStmt"
    case lockStmt = "LockStmt"
    case constraintsSetStmt = "ConstraintsSetStmt"
    case checkPointStmt = "CheckPointStmt"
    case vacuumStmt = "VacuumStmt"
    case clusterStmt = "ClusterStmt"
    case reindexStmt = "ReindexStmt"
    case refreshMatViewStmt = "RefreshMatViewStmt"
    case doStmt = "DoStmt"
    case callStmt = "CallStmt"
    case alterSystemStmt = "AlterSystemStmt"

    // What a read may be made of and needs a closer look.
    case funcCall = "FuncCall"
    case rangeVar = "RangeVar"
    case columnRef = "ColumnRef"
    case indirection = "A_Indirection"
    case expression = "A_Expr"
    case typeName = "TypeName"
    case tableSample = "RangeTableSample"
    case valueFunction = "SQLValueFunction"
    case sortBy = "SortBy"
    case subLink = "SubLink"
    case lockingClause = "LockingClause"
    case intoClause = "IntoClause"

    // What a read may be made of as it stands.
    case alias = "Alias"
    case resTarget = "ResTarget"
    case star = "A_Star"
    case constant = "A_Const"
    case integer = "Integer"
    case float = "Float"
    case boolean = "Boolean"
    case string = "String"
    case bitString = "BitString"
    case boolExpr = "BoolExpr"
    case nullTest = "NullTest"
    case booleanTest = "BooleanTest"
    case typeCast = "TypeCast"
    case joinExpr = "JoinExpr"
    case rangeSubselect = "RangeSubselect"
    case rangeFunction = "RangeFunction"
    case rangeTableFunc = "RangeTableFunc"
    case rangeTableFuncCol = "RangeTableFuncCol"
    case columnDef = "ColumnDef"
    case caseExpr = "CaseExpr"
    case caseWhen = "CaseWhen"
    case coalesceExpr = "CoalesceExpr"
    case minMaxExpr = "MinMaxExpr"
    case arrayExpr = "A_ArrayExpr"
    case rowExpr = "RowExpr"
    case paramRef = "ParamRef"
    case windowDef = "WindowDef"
    case withClause = "WithClause"
    case commonTableExpr = "CommonTableExpr"
    case cteSearchClause = "CTESearchClause"
    case cteCycleClause = "CTECycleClause"
    case list = "List"
    case indices = "A_Indices"
    case collateClause = "CollateClause"
    case xmlExpr = "XmlExpr"
    case xmlSerialize = "XmlSerialize"
    case namedArgExpr = "NamedArgExpr"
    case groupingSet = "GroupingSet"
    case groupingFunc = "GroupingFunc"

    case other
}

/// From a message's descriptor to its kind, without comparing names each time. One thread.
struct NodeKinds {
    private var known: [UnsafePointer<ProtobufCMessageDescriptor>: NodeKind] = [:]

    mutating func kind(of message: SyntaxTree.Message) -> NodeKind {
        guard let descriptor = message.pointee.descriptor else { return .other }
        if let kind = known[descriptor] { return kind }
        let kind = NodeKind(rawValue: SyntaxTree.name(of: descriptor)) ?? .other
        known[descriptor] = kind
        return kind
    }
}
