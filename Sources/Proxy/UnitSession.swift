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
    private var lastPlace = -1
    /// Settings of the statement that was noted last whose values are in a Bind to come, and its place.
    private var unbound: (settings: [BoundSetting], place: Int)?
    /// Two statements were prepared before either was executed: which of them failed cannot be told.
    private var isAmbiguous = false

    // What was answered so far.
    private var readyCount = 0
    private var completedCount = 0
    private var rolledBackBits: UInt64 = 0
    private var borderTagCount = 0
    var hasFailed = false

    /// The only step of a unit of one statement.
    var onlyEffect: SessionEffect? {
        guard steps.count == 1, case .effect(let effect) = steps[0].step.action else { return nil }
        return effect
    }

    // MARK: what is sent

    mutating func note(_ classification: Classification) {
        let place = places
        if place == lastPlace { isAmbiguous = true }
        lastPlace = place + max(0, classification.statementCount - 1)
        pinUnbound()
        if !classification.boundSettings.isEmpty { unbound = (classification.boundSettings, place) }
        if !classification.statementNames.isEmpty { statementNames += classification.statementNames }
        if classification.effects.isEmpty, classification.kind != .multiple {
            guard let mark = classification.mark else { return }
            if batch == 0 && place == 0 && steps.isEmpty && firstMark == nil {
                firstMark = mark
            } else {
                append(.mark(mark), at: place)
            }
            return
        }
        if classification.dropsStatements { dropsStatements = true }
        for step in classification.steps { append(step.action, at: place + step.statement) }
    }

    /// A Bind of the statement that was noted last.
    ///
    /// - Parameter reader: positioned behind the statement's name.
    mutating func bind(_ reader: BodyReader) {
        guard let (settings, place) = unbound else { return }
        unbound = nil
        guard let values = BindParameters(reader) else { return append(.effect(.pins(.untrackedSetting)), at: place) }
        for setting in settings {
            // NULL is the default. Text is the same in both formats.
            let text = values.value(setting.parameter).map { String(validating: $0.bytes, as: UTF8.self) }
            if case .some(nil) = text {
                append(.effect(.pins(.untrackedSetting)), at: place)
            } else {
                append(.effect(.sets(SettingChange(
                    name: setting.name, value: text ?? nil, isLocal: setting.isLocal))), at: place)
            }
        }
    }

    private mutating func pinUnbound() {
        guard let (_, place) = unbound else { return }
        unbound = nil
        append(.effect(.pins(.untrackedSetting)), at: place)
    }

    mutating func forgetStatementNames() { statementNames = [] }

    /// What cannot be seen may have done anything: see the pins that follow.
    mutating func noteUnknown() { isAmbiguous = true }

    mutating func pin(_ reason: PinReason) { append(.effect(.pins(reason)), at: places) }

    mutating func noteExecute() { places += 1 }

    mutating func noteBatchEnd() {
        batch += 1
        places = 0
        lastPlace = -1
    }

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

    /// Whether it gives the setting this value.
    func sets(_ name: String, to value: String) -> Bool {
        steps.contains { step in
            guard case .effect(.sets(let change)) = step.step.action else { return false }
            return change.name == name && change.value == value
        }
    }

    // MARK: what is answered

    /// A setting was reported as changed, and no statement of the batch was seen to do it: a function has, or the end
    /// of a transaction has taken a change back. PostgreSQL reports right before ReadyForQuery.
    mutating func noteReported(_ name: String, _ effect: SessionEffect) {
        let isExplained = steps.contains { step in
            guard step.batch == readyCount, case .effect(let known) = step.step.action else { return false }
            switch known {
            case .sets(let change): return change.name == name
            case .resets(let reset): return reset == name
            case .resetsAll, .discards(.all): return true
            case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards: return false
            }
        }
        if isExplained { return }
        placeFirstMark()
        steps.append(Step(
            batch: readyCount, step: SessionStep(statement: max(0, completedCount - 1), .effect(effect))))
    }

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
            ledger.note(status)
            return []
        }
        let isCounted = borderTagCount <= UInt64.bitWidth
        return ledger.settle(own, SessionLedger.Outcome(
            hasFailed: hasFailed, status: status, completed: isAmbiguous ? nil : completedCount,
            rolledBack: isCounted ? (0..<borderTagCount).map { rolledBackBits & 1 << UInt64($0) != 0 } : nil))
    }
}
