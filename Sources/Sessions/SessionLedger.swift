import PGWire
import SQLAnalysis

/// What the open transaction of a session has changed in it, in order, until it is known what of that stays: SET is
/// undone by ROLLBACK and by ROLLBACK TO a savepoint before it, PREPARE and DEALLOCATE are not. Pure; used on its
/// reactor's thread.
package struct SessionLedger {
    /// How a batch (a simple query, or an extended one up to its Sync) has ended.
    package struct Outcome {
        package var hasFailed: Bool
        /// As the last ReadyForQuery said.
        package var status: TransactionStatus
        /// Statements that were completed before the one that failed; nil: it cannot be told.
        package var completed: Int?
        /// Of each COMMIT, ROLLBACK and ROLLBACK TO that was answered: whether by the tag ROLLBACK. nil: not known.
        package var rolledBack: [Bool]?

        package init(hasFailed: Bool, status: TransactionStatus, completed: Int?, rolledBack: [Bool]?) {
            self.hasFailed = hasFailed
            self.status = status
            self.completed = completed
            self.rolledBack = rolledBack
        }
    }

    fileprivate enum Entry {
        case effect(SessionEffect)
        case savepoint(String)
    }

    /// Effects and savepoints of one transaction that are kept apart; beyond it nothing is certain.
    package static let entriesMax = 4096

    private var entries: [Entry] = []
    private var status: TransactionStatus = .idle
    /// One was set in the open transaction; it may be gone.
    package private(set) var hasSavepoint = false
    /// What was done is not known: the session's state can only stay where it is.
    package private(set) var isUncertain = false

    package init() {}

    package var isEmpty: Bool { entries.isEmpty && !isUncertain }

    /// - Returns: what stays for good, in order.
    package mutating func settle(_ steps: [SessionStep], _ outcome: Outcome) -> [SessionEffect] {
        var settled: [SessionEffect] = []
        var answered = (outcome.rolledBack ?? [])[...]
        let isExact = outcome.rolledBack != nil && !(outcome.hasFailed && outcome.completed == nil)
        if !isExact {
            // A failed transaction refuses all but what ends it or goes back in it.
            let mayRun = status == .failed ? steps.drop { !$0.leavesFailure } : steps[...]
            if mayRun.contains(where: \.isUncertainIfSkipped)
                || standingChanges > 0 && mayRun.contains(where: \.isOfSavepoint) { isUncertain = true }
        }
        steps: for step in steps {
            if outcome.hasFailed, let completed = outcome.completed, step.statement >= completed {
                // What was done before the error may have stayed: an advisory lock does.
                guard step.statement == completed, status != .failed, case .effect(.pins) = step.action
                else { continue }
                add(step.action)
                continue
            }
            switch step.action {
            case .effect(let effect) where effect.isOutsideTransactions:
                if status != .failed { settled.append(effect) }
            case .effect, .mark(.savepoint), .mark(.begin), .mark(.release):
                if status == .failed { continue }  // it was refused
                add(step.action)
                if case .mark(.savepoint) = step.action { hasSavepoint = true }
            case .mark(.rollbackTo(let name)):
                guard answered.popFirst() != nil else { break steps }
                rollBack(to: name, &settled)
                status = .inTransaction
            case .mark(.commit(let chains)), .mark(.rollback(let chains)):
                guard let isRollback = answered.popFirst() else { break steps }
                if isRollback { rollBack(&settled) } else { commit(&settled) }
                status = chains ? .inTransaction : .idle
            }
        }
        if outcome.status == .idle {
            if outcome.hasFailed { rollBack(&settled) } else { commit(&settled) }
        }
        note(outcome.status)
        return settled
    }

    /// What ReadyForQuery said after a batch without steps, or what was begun without one.
    package mutating func note(_ status: TransactionStatus) {
        self.status = status
        if status == .idle { hasSavepoint = false }
    }

    /// A savepoint was set, and nothing else done.
    package mutating func noteSavepoint() {
        status = .inTransaction
        hasSavepoint = true
    }

    /// What the open transaction has done so far.
    package var openEffects: [SessionEffect] {
        entries.compactMap { if case .effect(let effect) = $0 { effect } else { nil } }
    }

    /// Of the DDL that the other side has as well, how much stands: what was rolled back was the last.
    package var standingChanges: Int {
        entries.count { if case .effect(.changesBothSides) = $0 { true } else { false } }
    }

    package mutating func removeAll() { self = SessionLedger() }

    private mutating func add(_ action: SessionStep.Action) {
        if entries.count >= Self.entriesMax {
            isUncertain = true
            return
        }
        switch action {
        case .effect(let effect): entries.append(.effect(effect))
        // One that stands before all effects needs no place: to go back to a name that is not here undoes them all.
        case .mark(.savepoint(let name)): if !entries.isEmpty { entries.append(.savepoint(name)) }
        case .mark(.begin): status = .inTransaction
        case .mark(.release(let name)): release(name)
        case .mark: break
        }
    }

    private func place(of name: String) -> Int {
        entries.lastIndex { if case .savepoint(name) = $0 { true } else { false } } ?? -1
    }

    /// The savepoint and those behind it are gone; what was done since is the transaction's.
    private mutating func release(_ name: String) {
        let start = max(0, place(of: name))
        entries.replaceSubrange(start..., with: entries[start...].filter { entry in
            if case .effect = entry { true } else { false }
        })
    }

    private mutating func rollBack(to name: String, _ settled: inout [SessionEffect]) {
        let start = place(of: name) + 1
        settled += entries[start...].compactMap(\.stayingEffect)
        entries.removeSubrange(start...)
    }

    private mutating func rollBack(_ settled: inout [SessionEffect]) {
        settled += entries.compactMap(\.stayingEffect)
        entries = []
        hasSavepoint = false
    }

    private mutating func commit(_ settled: inout [SessionEffect]) {
        for case .effect(let effect) in entries { settled.append(effect) }
        entries = []
        hasSavepoint = false
    }
}

extension SessionLedger.Entry {
    /// A lock of the session, once taken, is not given back. DISCARD ALL runs outside of transactions only.
    fileprivate var stayingEffect: SessionEffect? {
        guard case .effect(let effect) = self else { return nil }
        switch effect {
        case .pins, .unlocks, .discards(.all): return effect
        case .sets, .resets, .resetsAll, .prepares, .deallocates, .closesCursor, .unlistens, .discards,
            .changesBothSides:
            return nil
        }
    }
}

extension SessionEffect {
    /// PostgreSQL keeps prepared statements outside of transactions: what is prepared or deallocated is so at once, and
    /// no ROLLBACK undoes it.
    fileprivate var isOutsideTransactions: Bool {
        switch self {
        case .prepares, .deallocates: true
        case .pins, .sets, .resets, .resetsAll, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides: false
        }
    }
}

extension SessionStep {
    fileprivate var isOfSavepoint: Bool {
        switch action {
        case .mark(.savepoint), .mark(.release), .mark(.rollbackTo): true
        case .effect, .mark(.begin), .mark(.commit), .mark(.rollback): false
        }
    }

    /// It runs in a failed transaction as well.
    fileprivate var leavesFailure: Bool {
        switch action {
        case .mark(.rollbackTo), .mark(.commit), .mark(.rollback): true
        case .effect, .mark(.begin), .mark(.savepoint), .mark(.release): false
        }
    }

    /// It matters whether the statement ran, and a failure does not undo it.
    fileprivate var isUncertainIfSkipped: Bool {
        switch action {
        case .effect(.pins), .effect(.unlocks), .mark: false
        case .effect: true
        }
    }
}
