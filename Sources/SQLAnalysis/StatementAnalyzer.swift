import CPgQuery

/// Asks the grammar about one text and judges the answer. No memory but of the grammar's names; one thread.
struct StatementAnalyzer {
    struct Result {
        var classification: Classification
        var columnKey: ColumnCandidate?
        /// A statement that may write has a column that is a key.
        var writesForUser = false
        /// The verdict would be the same for every text of the same shape.
        var isByShape: Bool
        var relations: [FoundRelation] = []
    }

    private let facts: CatalogFacts
    private let columns: ColumnKeyFinder
    private let keySettings: [String]
    private var kinds = NodeKinds()

    init(facts: CatalogFacts, keyPlan: KeyPlan) {
        self.facts = facts
        columns = ColumnKeyFinder(keyPlan: keyPlan)
        keySettings = keyPlan.sources.compactMap { if case .setting(let name) = $0 { name } else { nil } }
    }

    mutating func analyse(_ text: UnsafeRawBufferPointer) -> Result {
        var statements: [Classification] = []
        var columnKey: ColumnCandidate?
        var writesForUser = false
        var isByShape = true
        var relations: [FoundRelation] = []
        var kinds = self.kinds
        do throws(SyntaxTree.Failure) {
            try SyntaxTree.parse(text) { statement, _ in
                let (one, dependsOnLiterals) = classify(statement, &kinds)
                relations += TableFinder.relations(in: statement, &kinds)
                let candidates = columns.findAll(in: statement, &kinds)
                if statements.isEmpty { columnKey = candidates.count == 1 ? candidates[0] : nil }
                if !candidates.isEmpty && one.mayWrite { writesForUser = true }
                statements.append(one)
                isByShape = isByShape && !dependsOnLiterals
            }
        } catch {
            var refused = Classification(.unknown, .refusedByGrammar)
            refused.effects = LexicalScan.effects(of: text)
            if !LexicalScan.mayMoveBorders(text) { refused.borders = .none }
            if LexicalScan.mayChangeTables(text) { TableChange.note(unknown: &refused) }
            return Result(classification: refused, columnKey: nil, isByShape: false)
        }
        self.kinds = kinds
        return Result(
            classification: combine(statements), columnKey: statements.count == 1 ? columnKey : nil,
            writesForUser: writesForUser, isByShape: isByShape, relations: relations)
    }

    // MARK: several statements

    /// - Returns: nil: nothing ends in it, or nothing follows.
    mutating func cut(_ text: UnsafeRawBufferPointer) -> TextCut? {
        var kinds = self.kinds
        var end: Int?
        try? SyntaxTree.parse(text) { statement, endOfStatement in
            if end == nil, classify(statement, &kinds).0.borders.ends { end = endOfStatement }
        }
        self.kinds = kinds
        return end.flatMap { $0 < text.count ? TextCut(text, end: $0) : nil }
    }

    private func combine(_ statements: [Classification]) -> Classification {
        guard let first = statements.first else {
            var empty = Classification(.empty, .emptyText)
            empty.statementCount = 0
            return empty
        }
        if statements.count == 1 { return first }
        var all = Classification(.multiple, .severalStatements)
        all.isMixtureOfReads = statements.allSatisfy { !$0.mayWrite }
        all.statementCount = statements.count
        all.effects = statements.flatMap(\.effects)
        if statements.contains(where: { !$0.boundSettings.isEmpty }) { all.effects.append(.pins(.untrackedSetting)) }
        for one in statements {
            all.statementNames += one.statementNames
            if one.kind == .deallocate, let name = one.objectName { all.statementNames.append(name) }
        }
        for (index, one) in statements.enumerated() {
            all.stepsOfSeveral += one.steps.map { SessionStep(statement: index, $0.action) }
        }
        // Behind CREATE TEMP TABLE a bare name may mean that table.
        all.changesTables = statements.contains(where: \.changesTables)
            && !all.effects.contains { $0 == .pins(.temporaryTable) }
        all.barrier = TableChange.form(of: statements.map(\.barrier))
        all.changesSchema = statements.contains(where: \.changesSchema)
        all.preparesTransaction = statements.contains(where: \.preparesTransaction)
        all.borders = .none
        for one in statements { all.borders.append(one.borders, isRead: one.kind == .read) }
        all.readsSequence = statements.contains(where: \.readsSequence)
        all.readsUnmirrored = statements.contains(where: \.readsUnmirrored)
        all.drawsSequenceFirst = statements.first { $0.readsSequence || $0.mayWrite }?.readsSequence == false
        all.copy = statements.lazy.compactMap(\.copy).first
        return all
    }

    // MARK: one statement

    private func classify(
        _ statement: SyntaxTree.Message, _ kinds: inout NodeKinds
    ) -> (Classification, dependsOnLiterals: Bool) {
        let kind = kinds.kind(of: statement)
        var walk = TreeWalk(facts: facts, kinds: kinds)
        defer { kinds = walk.kinds }
        var result: Classification
        switch kind {
        case .selectStmt: result = select(statement, &walk)
        case .insertStmt, .updateStmt, .deleteStmt, .mergeStmt, .truncateStmt:
            result = write(statement, .dataModifying, &walk)
        case .copyStmt: result = copy(statement, &walk)
        case .explainStmt: return explain(statement, &kinds)
        case .transactionStmt: result = SessionStatements.transaction(statement)
        case .variableSetStmt: result = SessionStatements.set(statement)
        case .variableShowStmt, .prepareStmt, .executeStmt, .deallocateStmt, .declareCursorStmt, .fetchStmt,
            .closePortalStmt, .listenStmt, .unlistenStmt, .discardStmt, .loadStmt:
            result = SessionStatements.other(statement, kind)
            if kind == .declareCursorStmt || kind == .prepareStmt {
                walk.visit(statement)
                // When a prepared statement runs, nobody looks at it.
                let effects = walk.effectsUnbound
                result.effects += kind == .prepareStmt && !effects.isEmpty ? [.pins(.unknownStatement)] : effects
                // FETCH calls what is in a cursor.
                if kind == .declareCursorStmt { doubtSettings(&result) }
            }
        case .lockStmt: result = write(statement, .takesLocks, &walk)
        case .notifyStmt, .constraintsSetStmt, .checkPointStmt, .vacuumStmt, .clusterStmt, .reindexStmt,
            .refreshMatViewStmt, .alterSystemStmt, .callStmt:
            result = write(statement, .utility, &walk)
            // Frameworks have deferred constraints checked before ALTER TABLE, in one text with it.
            if kind == .constraintsSetStmt { result.barrier = .comesAlong }
        case .doStmt:
            result = write(statement, .utility, &walk)
            result.effects += SessionStatements.effects(ofBlock: statement, facts)
            return (result, dependsOnLiterals: true)  // the block is one
        default:
            result = write(statement, .schemaChange, &walk)
            result.changesSchema = true
            var isTemporary = result.effects.contains { $0 == .pins(.temporaryTable) }
            if !isTemporary && TableChange.isTemporary(statement) {
                isTemporary = true
                result.effects.append(.pins(.temporaryTable))
            }
            result.changesTables = !isTemporary && TableChange.isOne(statement)
            result.barrier = isTemporary ? .notNeeded : TableChange.form(of: statement)
        }
        if !walk.findings.boundSettings.isEmpty && kind != .selectStmt && kind != .prepareStmt {
            result.effects.append(.pins(.untrackedSetting))
        }
        result.readsUnmirrored = walk.findings.readsUnmirrored
        let isVerdictOnly = [.read, .write, .sideDependent].contains(result.kind)
        let hasOnlyPins = result.effects.allSatisfy { effect in
            if case .pins(let reason) = effect { reason != .untrackedSetting } else { false }
        }
        // A bound value's setting is named by a literal.
        let dependsOnLiterals = !isVerdictOnly || !hasOnlyPins || !result.boundSettings.isEmpty
            || walk.findings.hangsOnLiterals
        return (result, dependsOnLiterals)
    }

    private func select(_ statement: SyntaxTree.Message, _ walk: inout TreeWalk) -> Classification {
        walk.visit(statement)
        var result = Classification(walk.findings.kind, walk.findings.reason)
        result.seesTransactionTime = walk.findings.seesTransactionTime
        result.readsSequence = walk.findings.readsSequence
        result.effects = walk.findings.effects
        result.boundSettings = walk.findings.boundSettings
        if walk.findings.settingCalls > SessionStatements.certainCalls(statement) { doubtSettings(&result) }
        result.changesSchema = walk.findings.makesTable
        result.changesTables = result.changesSchema
        if result.changesTables { result.barrier = .unfit }
        return result
    }

    /// A call that rows or conditions decide about: whether it has set anything nobody tells. Of a routing key it
    /// counts as done, for else nobody would know whose the writes behind it are.
    private func doubtSettings(_ result: inout Classification) {
        let count = result.effects.count + result.boundSettings.count
        result.effects.removeAll { effect in
            if case .sets(let change) = effect { !change.isLocal && !keySettings.contains(change.name) } else { false }
        }
        result.boundSettings.removeAll { !$0.isLocal && !keySettings.contains($0.name) }
        let isCertain = result.effects.count + result.boundSettings.count == count
        if !isCertain && !result.effects.contains(.pins(.untrackedSetting)) {
            result.effects.append(.pins(.untrackedSetting))
        }
    }

    private func write(
        _ statement: SyntaxTree.Message, _ reason: ClassificationReason, _ walk: inout TreeWalk
    ) -> Classification {
        walk.visit(statement)
        var result = Classification(.write, reason)
        result.readsSequence = walk.findings.readsSequence
        result.effects = walk.findings.effects
        doubtSettings(&result)
        result.statementNames = walk.findings.statementNames
        return result
    }

    private func copy(_ statement: SyntaxTree.Message, _ walk: inout TreeWalk) -> Classification {
        let node = SyntaxTree.cast(statement, to: PgQuery__CopyStmt.self).pointee
        if node.is_from != 0 {
            var result = write(statement, .copyIn, &walk)
            if node.is_program == 0, SyntaxTree.string(node.filename).isEmpty { result.copy = .fromStdin }
            return result
        }
        if node.is_program != 0 || !SyntaxTree.string(node.filename).isEmpty {
            return write(statement, .copyToServer, &walk)
        }
        // Not the statement itself: its options are no part of a read.
        if let query = SyntaxTree.content(of: node.query) { walk.visit(query) }
        if let relation = SyntaxTree.message(node.relation) {
            if facts.hasHarmfulImplicitCast { walk.findings.add(.write, .harmfulOperator) }
            walk.visit(relation)
        }
        var result = Classification(walk.findings.kind, walk.findings.reason)
        result.seesTransactionTime = walk.findings.seesTransactionTime
        result.readsSequence = walk.findings.readsSequence
        result.effects = walk.findings.effects
        doubtSettings(&result)
        result.copy = .toStdout
        return result
    }

    /// EXPLAIN plans, and runs nothing unless ANALYZE says so; planning evaluates no volatile function.
    private func explain(
        _ statement: SyntaxTree.Message, _ kinds: inout NodeKinds
    ) -> (Classification, dependsOnLiterals: Bool) {
        let node = SyntaxTree.cast(statement, to: PgQuery__ExplainStmt.self).pointee
        guard let query = SyntaxTree.content(of: node.query) else {
            return (Classification(.write, .unknownNode), true)
        }
        let isRun = SyntaxTree.options(node.options, node.n_options).contains { $0.name == "analyze" && $0.isOn }
        let (inner, _) = classify(query, &kinds)
        if inner.kind == .read { return (Classification(.read, .surelyRead), true) }
        let leavesNothing = inner.effects.isEmpty && inner.boundSettings.isEmpty
        if inner.kind == .sideDependent, leavesNothing || !isRun {
            return (Classification(.sideDependent, inner.reason), true)
        }
        if !isRun, inner.kind != .execute { return (Classification(.sideDependent, .serverState), true) }
        var result = Classification(.write, .explainAnalyze)
        result.effects = inner.effects + (inner.boundSettings.isEmpty ? [] : [.pins(.untrackedSetting)])
        result.statementNames = inner.statementNames
        result.changesSchema = inner.changesSchema
        result.changesTables = inner.changesTables
        result.barrier = inner.barrier.isNeeded ? .unfit : .notNeeded
        return (result, true)
    }
}
