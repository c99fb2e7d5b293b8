import PGWire
import SQLAnalysis
import Sessions

/// What a unit leaves in its session and does to its transaction, by batch: a pipeline holds several, each of which
/// ends with a ReadyForQuery of its own. Costs nothing for units that do neither, and no allocation for a lone COMMIT.
struct UnitSession {
    private struct Step {
        var batch: Int
        var step: SessionStep
    }

    /// What a portal's statement does to the session, once it is executed.
    private struct Portal {
        var name: [UInt8]
        var classification: Classification
        /// Settings whose values came with Bind.
        var bound: [SessionEffect]
    }

    /// Statements and portals of a unit whose effects are followed; further ones count as executed at once.
    private static let followedMax = 64

    private var steps: [Step] = []
    /// Of the very first statement, where that has nothing else.
    private var firstMark: TransactionMark?
    /// Something is in it that must stay on its server.
    private(set) var pins = false
    /// Names of prepared statements that its SQL uses.
    private(set) var statementNames: [String] = []
    /// All names of prepared statements may go with it.
    var dropsStatements = false

    // What was noted so far.
    private var batch = 0
    /// Statements of the batch that have a place in it: in the extended protocol, that were executed.
    private var places = 0
    /// What the unit has prepared and not executed yet, where it leaves anything.
    private var prepared: [(name: [UInt8], classification: Classification)] = []
    private var portals: [Portal] = []
    /// Which of its statements failed cannot be told.
    private var isAmbiguous = false

    // What was answered so far.
    private var readyCount = 0
    /// Statements of the batch that is being answered.
    private(set) var completedCount = 0
    private var rolledBackBits: UInt64 = 0
    private var borderTagCount = 0
    var hasFailed = false
    /// The last end of a transaction that was answered with the batch took back what that had done.
    private(set) var wasRolledBack = false

    /// The only step of a unit of one statement.
    var onlyEffect: SessionEffect? {
        guard steps.count == 1, case .effect(let effect) = steps[0].step.action else { return nil }
        return effect
    }

    // MARK: what is sent

    /// A Query, or what an Execute runs.
    mutating func note(_ analysis: AnalysedStatement) {
        if analysis.isWithoutTrace { return }
        noteNames(analysis.classification)
        add(analysis.classification)
    }

    private mutating func noteNames(_ classification: Classification) {
        if !classification.statementNames.isEmpty { statementNames += classification.statementNames }
        if classification.dropsStatements { dropsStatements = true }
    }

    private mutating func add(_ classification: Classification) {
        if classification.effects.isEmpty, classification.kind != .multiple {
            guard let mark = classification.mark else { return }
            if batch == 0 && places == 0 && steps.isEmpty && firstMark == nil {
                firstMark = mark
            } else {
                append(.mark(mark), at: places)
            }
            return
        }
        for step in classification.steps { append(step.action, at: places + step.statement) }
    }

    /// A Parse. Its effects are those of whatever executes it.
    mutating func prepare(_ name: UnsafeRawBufferPointer, _ analysis: AnalysedStatement) {
        if !prepared.isEmpty { prepared.removeAll { $0.name.elementsEqual(name) } }
        if analysis.isWithoutTrace { return }
        let classification = analysis.classification
        noteNames(classification)
        if classification.leavesNothing { return }
        if prepared.count >= Self.followedMax {
            add(classification)
            if !classification.boundSettings.isEmpty { pin(.untrackedSetting) }
            return
        }
        prepared.append((Array(name), classification))
    }

    /// A Bind.
    ///
    /// - Parameters:
    ///   - known: the statement, where the unit has not prepared it.
    ///   - reader: positioned behind the statement's name.
    /// - Returns: what the values that came with it set once it is executed.
    mutating func bind(
        _ portal: UnsafeRawBufferPointer, to statement: UnsafeRawBufferPointer, known: AnalysedStatement?,
        _ reader: BodyReader
    ) -> [SessionEffect] {
        if !portals.isEmpty { portals.removeAll { $0.name.elementsEqual(portal) } }
        if prepared.isEmpty && known?.isWithoutTrace != false { return [] }
        if let known { noteNames(known.classification) }
        let own = prepared.isEmpty ? nil : prepared.first { $0.name.elementsEqual(statement) }?.classification
        // Forgotten where an earlier batch of the unit only prepares.
        if let own { noteNames(own) }
        if own == nil && known?.classification.leavesNothing != false { return [] }
        guard let classification = own ?? known?.classification else { return [] }
        let bound = Self.effects(of: classification.boundSettings, reader)
        if portals.count < Self.followedMax {
            portals.append(Portal(name: Array(portal), classification: classification, bound: bound))
        } else {
            add(classification)
            for effect in bound { append(.effect(effect), at: places) }
        }
        return bound
    }

    private static func effects(of settings: [BoundSetting], _ reader: BodyReader) -> [SessionEffect] {
        if settings.isEmpty { return [] }
        // Each value is looked for from the first parameter on.
        guard settings.count <= followedMax, let values = BindParameters(reader) else {
            return [.pins(.untrackedSetting)]
        }
        return settings.map { setting in
            // NULL is the default. Text is the same in both formats.
            let text = values.value(setting.parameter).map { String(validating: $0.bytes, as: UTF8.self) }
            if case .some(nil) = text { return .pins(.untrackedSetting) }
            if text == nil && !values.reaches(setting.parameter) { return .pins(.untrackedSetting) }
            return .sets(SettingChange(name: setting.name, value: text ?? nil, isLocal: setting.isLocal))
        }
    }

    /// An Execute.
    mutating func execute(_ portal: UnsafeRawBufferPointer) {
        if !portals.isEmpty, let index = portals.firstIndex(where: { $0.name.elementsEqual(portal) }) {
            let executed = portals.remove(at: index)
            add(executed.classification)
            for effect in executed.bound { append(.effect(effect), at: places) }
        }
        places += 1
    }

    mutating func forgetStatementNames() { statementNames = [] }

    /// What cannot be seen may have done anything: see the pins that follow.
    mutating func noteUnknown() { isAmbiguous = true }

    mutating func pin(_ reason: PinReason) { append(.effect(.pins(reason)), at: places) }

    var hasPortals: Bool { !portals.isEmpty }

    /// The next unit of the same transaction may execute what this one has bound.
    mutating func takePortals(from earlier: inout UnitSession) { swap(&portals, &earlier.portals) }

    /// The batch that is answered now goes on behind them (PROTOCOL-COPY).
    mutating func ignoreBatchEnds(_ count: Int) {
        if count == 0 { return }
        batch -= count
        for index in steps.indices where steps[index].batch > readyCount {
            steps[index].batch = max(readyCount, steps[index].batch - count)
            if steps[index].batch == readyCount { isAmbiguous = true }
        }
    }

    /// An error skips queries as well, which then end no batch, and all up to the Sync behind them.
    mutating func skipBatchEnds(_ count: Int) {
        if count == 0 { return }
        let last = readyCount + count
        steps.removeAll { $0.batch > readyCount && $0.batch <= last }
        for index in steps.indices where steps[index].batch > last { steps[index].batch -= count }
        batch -= count
        // What comes before that Sync does not run, however many of the batch's statements have.
        if batch == readyCount { places += 1 << 32 }
    }

    @inline(__always)
    mutating func noteBatchEnd() {
        // From now on the client's own names tell; a Parse may have been refused.
        if !prepared.isEmpty { prepared.removeAll { !$0.name.isEmpty } }
        batch += 1
        places = 0
    }

    /// Takes back the only `noteBatchEnd`, of which no answer was noted.
    mutating func removeBatchEnd() { batch = 0 }

    private mutating func append(_ action: SessionStep.Action, at place: Int) {
        placeFirstMark()
        if case .effect(.pins) = action { pins = true }
        steps.append(Step(batch: batch, step: SessionStep(statement: place, action)))
    }

    private mutating func placeFirstMark() {
        guard let firstMark else { return }
        self.firstMark = nil
        steps.append(Step(batch: 0, step: SessionStep(statement: 0, .mark(firstMark))))
    }

    /// Nothing of it runs.
    mutating func removeAll() { self = UnitSession() }

    var isEmpty: Bool { steps.isEmpty }
    /// It is one statement that begins or ends a transaction or a part of it.
    var hasMark: Bool { firstMark != nil }

    /// How much was noted; `removeSteps(from:)` takes back what was noted since.
    var stepCount: Int { steps.count }

    mutating func removeSteps(from count: Int) { steps.removeSubrange(count...) }

    /// Whether it takes settings back to what the session was started with.
    var resets: Bool {
        steps.contains { step in
            guard case .effect(let effect) = step.step.action else { return false }
            switch effect {
            case .resets, .resetsAll, .discards(.all): return true
            case .sets(let change): return change.value == nil && !change.isLocal
            case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides:
                return false
            }
        }
    }

    /// Whether any of its statements leaves something of that kind.
    func hasEffect(_ isMeant: (SessionEffect) -> Bool) -> Bool {
        steps.contains { if case .effect(let effect) = $0.step.action { isMeant(effect) } else { false } }
    }

    /// Whether it gives the setting this value.
    func sets(_ name: String, to value: String) -> Bool {
        steps.contains { step in
            guard case .effect(.sets(let change)) = step.step.action else { return false }
            return change.name == name && change.value == value
        }
    }

    /// DDL that the other side has is what comes next; all that was sent before it is answered, and has not failed.
    mutating func noteChange() {
        placeFirstMark()
        let index = steps.firstIndex { ($0.batch, $0.step.statement) >= (readyCount, completedCount) }
        let step = SessionStep(statement: completedCount, .effect(.changesBothSides))
        steps.insert(Step(batch: readyCount, step: step), at: index ?? steps.endIndex)
    }

    // MARK: what is answered

    /// A statement of the batch that is being answered was seen to change the setting.
    func explains(_ name: String) -> Bool {
        steps.contains { step in
            guard step.batch == readyCount, case .effect(let known) = step.step.action else { return false }
            switch known {
            case .sets(let change): return change.name == name
            case .resets(let reset): return reset == name
            case .resetsAll, .discards(.all): return true
            case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides:
                return false
            }
        }
    }

    /// A setting was reported as changed, and no statement of the batch was seen to do it: a function has, or the end
    /// of a transaction has taken a change back. PostgreSQL reports right before ReadyForQuery.
    mutating func noteReported(_ name: String, _ effect: SessionEffect) {
        if explains(name) || isRollbackToSavepoint { return }
        placeFirstMark()
        steps.append(Step(
            batch: readyCount, step: SessionStep(statement: max(0, completedCount - 1), .effect(effect))))
    }

    /// The batch that is being answered is nothing else: what is set now the ledger has of the statements before.
    private var isRollbackToSavepoint: Bool {
        func goesBack(_ mark: TransactionMark?) -> Bool { if case .rollbackTo? = mark { true } else { false } }
        if let firstMark { return readyCount == 0 && goesBack(firstMark) }
        let own = steps.filter { $0.batch == readyCount }
        return !own.isEmpty && own.allSatisfy {
            if case .mark(let mark) = $0.step.action { goesBack(mark) } else { false }
        }
    }

    /// An Execute has ended without a CommandComplete: of an empty statement, or of a part of the rows.
    mutating func notePartCompleted() { completedCount += 1 }

    /// - Parameter tag: a CommandComplete's body.
    mutating func noteCompleted(_ tag: UnsafeRawBufferPointer) {
        completedCount += 1
        if steps.isEmpty && firstMark == nil { return }
        let isRollback = tag.elementsEqual("ROLLBACK\0".utf8)
        guard isRollback || tag.elementsEqual("COMMIT\0".utf8) || tag.elementsEqual("PREPARE TRANSACTION\0".utf8)
        else { return }
        if isRollback && borderTagCount < UInt64.bitWidth { rolledBackBits |= 1 << UInt64(borderTagCount) }
        borderTagCount += 1
    }

    /// A ReadyForQuery has come.
    ///
    /// - Returns: what stays for good, in order.
    mutating func batchEnded(_ status: TransactionStatus, _ ledger: inout SessionLedger) -> [SessionEffect] {
        wasRolledBack = borderTagCount > 0 ? rolledBackBits >> UInt64(borderTagCount - 1) & 1 == 1 : hasFailed
        defer {
            readyCount += 1
            completedCount = 0
            rolledBackBits = 0
            borderTagCount = 0
            hasFailed = false
        }
        var own: [SessionStep] = []
        if !steps.isEmpty {
            for step in steps where step.batch == readyCount { own.append(step.step) }
        } else if let firstMark, readyCount == 0, !ledger.isEmpty {
            own = [SessionStep(statement: 0, .mark(firstMark))]
        }
        if own.isEmpty && ledger.isEmpty {
            if case .savepoint? = firstMark, readyCount == 0, status == .inTransaction {
                ledger.noteSavepoint()
            } else {
                ledger.note(status)
            }
            return []
        }
        return ledger.settle(own, SessionLedger.Outcome(
            hasFailed: hasFailed, status: status, completed: isAmbiguous ? nil : completedCount,
            rolledBack: rolledBack))
    }

    private var rolledBack: [Bool]? {
        if borderTagCount > UInt64.bitWidth { return nil }
        return (0..<borderTagCount).map { rolledBackBits & 1 << UInt64($0) != 0 }
    }

    /// The ledger as it is amid a batch, of which all that was sent so far is answered and has not failed.
    func settledSoFar(_ ledger: SessionLedger) -> SessionLedger {
        if completedCount == 0 { return ledger }
        var steps = steps.filter { $0.batch == readyCount && $0.step.statement < completedCount }.map(\.step)
        if let firstMark, readyCount == 0 { steps = [SessionStep(statement: 0, .mark(firstMark))] }
        var ledger = ledger
        _ = ledger.settle(steps, SessionLedger.Outcome(
            hasFailed: false, status: .inTransaction, completed: completedCount, rolledBack: rolledBack))
        return ledger
    }
}
