import Configuration
import Console
import PGWire
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// DDL within a client's own transaction, which runs on both sides: see `FollowedTransaction`.
extension ClientConnection {
    enum FollowStep {
        case passes
        /// It stays at the front of the input.
        case waits
        /// A message that fails went in its place.
        case isRefused
    }

    /// What a message does to a transaction that has DDL, or is to have.
    private enum FollowedEffect {
        case none
        /// nil: its text is no text.
        case runs(String?)
        /// `isCommit`: COMMIT alone.
        case ends(isCommit: Bool)
        case refused(ErrorResponse)
    }

    /// How others know it whom writes are held for.
    var asker: GateAsker { GateAsker(worker: worker.index, client: id.value) }

    /// DDL that both sides can run needs no denial where it is asked for when it runs: within a transaction.
    var isFollowable: Bool {
        if followed?.isGranted == true { return true }
        guard let server else { return lazy != nil || unit.borders.begins && !unit.borders.ends }
        return isBlockOpen(on: server) || server.session.status == .failed
    }

    /// An explicit transaction is open. All that was sent is answered, or belongs to the batch that is being sent.
    private func isBlockOpen(on server: ServerConnection) -> Bool {
        followed?.border ?? (server.session.status == .inTransaction)
    }

    // MARK: before a message goes to the server

    /// - Parameter isNoted: `note` has seen it.
    func follow(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection,
        isNoted: Bool
    ) -> FollowStep {
        guard let database, database.followsDDL || followed != nil, !server.isReadOnly else { return .passes }
        if let followed {
            if followed.isRefused {
                followed.isRefused = false
                refuse(frame, bytes, &run, server, isNoted: isNoted)
                return .isRefused
            }
            let isAtStart = server.session.isAtBatchStart
            if isAtStart { followed.border = nil }
            // What may have committed it has to be answered first.
            if followed.state == .mayCommit && isAtStart && !followed.isGranted { return .waits }
        }
        if server.session.skipsNext { return .passes }
        // Nearly all traffic: nothing is open, and nothing on its way could open it.
        if followed == nil, server.session.isQuiet, server.session.status == .idle, server.session.isAtBatchStart {
            return .passes
        }
        let body = UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart..<frame.end])
        let effect: FollowedEffect
        var portal: FollowedTransaction.Portal?
        switch frame.tag {
        case FrontendTag.query:
            var reader = BodyReader(body)
            guard let text = reader.cString() else { return .passes }
            effect = self.effect(ofQuery: text, database)
        case FrontendTag.execute:
            var reader = BodyReader(body)
            portal = reader.cString().flatMap { followed?.portals[Array($0)] }
            guard let portal else { return .passes }
            effect = self.effect(of: portal.analysis, database, mayHaveBorder: portal.mayHaveBorder) { portal.text }
        default: return .passes
        }
        if followed?.isGranted == true || isNone(effect) {
            if let portal { noteBorder(portal) }
            return .passes
        }
        if waitsForAnswers(server) { return .waits }
        if server.session.expectedCount > 0 {
            close(with: FollowedTransaction.duringCopy)
            return .waits
        }
        let step = decide(effect, isQuery: frame.tag == FrontendTag.query, server, database)
        switch step {
        case .passes: if let portal { noteBorder(portal) }
        case .waits: break
        case .isRefused: refuse(frame, bytes, &run, server, isNoted: isNoted)
        }
        return step
    }

    private func isNone(_ effect: FollowedEffect) -> Bool { if case .none = effect { true } else { false } }

    /// What it leaves open for the rest of its batch.
    private func noteBorder(_ portal: FollowedTransaction.Portal) {
        let classification = portal.analysis.classification
        if classification.kind == .unknown {
            if portal.mayHaveBorder { followed?.border = false }
        } else if classification.borders.ends {
            followed?.border = classification.borders.chains
        } else if classification.borders.begins {
            followed?.border = true
        }
    }

    private func effect(ofQuery text: UnsafeRawBufferPointer, _ database: DatabaseState) -> FollowedEffect {
        let analysis = database.analyse(text).0
        let rules = database.route.table.rules
        if !rules.isEmpty, rules.match(analysis, text, user: user)?.outcome == .deny { return .none }
        // Only so may its end be where it looks to be.
        let isPlain = isTextTrusted || text.allSatisfy { $0 < 0x80 && $0 != 0x27 && $0 != 0x5C }
        if !isPlain && followed?.hasChange == true { return .refused(FollowedTransaction.isUnseen) }
        return effect(of: analysis, database, mayHaveBorder: AnalysisCache.mayHaveBorder(text)) {
            let own = rewritten(text, database)
            return own.map { String(validating: $0, as: UTF8.self) } ?? String(validating: text, as: UTF8.self)
        }
    }

    private func effect(
        of analysis: AnalysedStatement, _ database: DatabaseState, mayHaveBorder: @autoclosure () -> Bool,
        _ text: () -> String?
    ) -> FollowedEffect {
        if analysis.isPlainRead { return .none }
        let classification = analysis.classification
        let hasChange = followed?.hasChange == true
        switch classification.barrier {
        case .fits where isMirrors(analysis, database): return .runs(text())
        case .comesAlong where hasChange && classification.changesSchema: return .runs(text())
        case .fits, .comesAlong, .notNeeded, .unfit: break
        }
        if !hasChange { return .none }
        if classification.kind == .unknown { return mayHaveBorder() ? .refused(FollowedTransaction.isUnseen) : .none }
        if classification.rollsBackToSavepoint && classification.borders.ends {
            return .refused(FollowedTransaction.goesBackAndEnds)
        }
        if classification.preparesTransaction { return .refused(FollowedTransaction.isPrepared) }
        if classification.borders.chains { return .refused(FollowedTransaction.chains) }
        guard classification.borders.ends, classification.kind != .rollback else { return .none }
        return .ends(isCommit: classification.kind == .commit)
    }

    /// Everything before it is answered.
    private func decide(
        _ effect: FollowedEffect, isQuery: Bool, _ server: ServerConnection, _ database: DatabaseState
    ) -> FollowStep {
        let followed = self.followed ?? FollowedTransaction(change: worker.nextToken())
        self.followed = followed
        func refused(_ error: ErrorResponse) -> FollowStep {
            followed.refusal = error
            return .isRefused
        }
        let hasFailed = server.session.status == .failed && followed.border == nil
        switch effect {
        case .none: return .passes
        case .refused(let error): return refused(error)
        case .runs(let text):
            // There the server itself refuses it, and as a query it is denied where no transaction is open.
            if hasFailed { return .passes }
            guard isBlockOpen(on: server) else {
                return isQuery && !followed.hasChange ? .passes : refused(refusalOfChange)
            }
            if followed.state == .mayCommit { return refused(FollowedTransaction.behindCommit) }
            if isQuery && !server.session.isAtBatchStart { return refused(FollowedTransaction.isMixed) }
            guard let text, !text.utf8.contains(0), isSentInUnicode(text) else {
                return refused(FollowedTransaction.isOtherEncoding)
            }
            if !isTextTrusted { return refused(FollowedTransaction.isUnseen) }
            let ledger = unit.session.settledSoFar(ledger)
            if followed.hasChange && ledger.isUncertain { return refused(FollowedTransaction.isUncertain) }
            guard let local = Self.localSettings(ledger) else { return refused(FollowedTransaction.hasSet) }
            if pins.contains(.untrackedSetting) { return refused(FollowedTransaction.hasUnknownSetting) }
            followed.standing = ledger.standingChanges
            ask(followed, .statement, ChangeOrder(
                database: databaseName, user: user, part: .statement, change: followed.change, statement: text,
                settings: settings.statements(from: nil) ?? "", localSettings: local, standing: followed.standing,
                hasSavepoint: ledger.hasSavepoint, mayHoldLocks: mayHoldLocks))
            return .waits
        case .ends(let isCommit):
            // It can only roll back there.
            if hasFailed && isCommit || followed.state == .mayCommit { return .passes }
            if isQuery && !server.session.isAtBatchStart { return refused(FollowedTransaction.isMixed) }
            guard let number = followed.number else {
                if followed.hasAskedNumber { return refused(FollowedTransaction.isUnnumbered) }
                if !server.session.isAtBatchStart { return refused(FollowedTransaction.isMixed) }
                askNumber(followed, on: server)
                // A failed transaction that goes on behind its end is not asked.
                if !followed.asksNumber { return refused(FollowedTransaction.isUnnumbered) }
                repliesAwaited = 0
                return .waits
            }
            let ledger = unit.session.settledSoFar(ledger)
            if ledger.isUncertain { return refused(FollowedTransaction.isUncertain) }
            ask(followed, .commit, ChangeOrder(
                database: databaseName, user: user, part: .commit(transaction: number), change: followed.change,
                standing: ledger.standingChanges))
            return .waits
        }
    }

    private func ask(
        _ followed: FollowedTransaction, _ question: FollowedTransaction.Question, _ order: ChangeOrder
    ) {
        followed.question = question
        phase = .changing
        worker.control.post(.change(order, worker: worker.index, client: id))
    }

    private func refuse(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection,
        isNoted: Bool
    ) {
        if notedAhead > 0 {
            notedAhead -= frame.end - frame.start
        } else if !isNoted {
            let steps = unit.session.stepCount
            note(frame, bytes)
            unit.session.removeSteps(from: steps)
        }
        unit.notes.deny(.followed)
        run.replace(frame, with: standIn(forDenied: frame, on: server), server)
    }

    /// Of a unit that came whole, its first statement counts as done when it is sent.
    private var mayHoldLocks: Bool {
        transaction.hasWritten && (transaction.hasRead || unit.session.completedCount > 1)
    }

    /// It asks for its first DDL in a transaction that has done nothing yet, or for one outside of transactions, and
    /// keeps its server meanwhile: others' DDL need not wait for its end.
    var awaitsTurn: Bool {
        guard let followed, let question = followed.question else { return phase == .changing }
        return question == .statement && !followed.hasChange && !mayHoldLocks
    }

    /// What the open transaction has set, as SQL; nil: it cannot be told.
    private static func localSettings(_ ledger: SessionLedger) -> String? {
        if ledger.isUncertain { return nil }
        var local = SessionSettings()
        for effect in ledger.openEffects {
            switch effect {
            case .sets(let change) where SessionSettings.isOfMoment(change.name): break
            case .sets(let change):
                guard let value = change.value else { return nil }
                local.set(name: change.name, value: value)
            case .resets, .resetsAll, .discards, .pins(.untrackedSetting), .pins(.unknownStatement): return nil
            case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .changesBothSides: break
            }
        }
        return local.statements(from: SessionSettings()) ?? ""
    }

    // MARK: portals

    /// A Bind goes to the server: what an Execute of the portal will run.
    func followBind(_ portal: UnsafeRawBufferPointer, _ name: UnsafeRawBufferPointer) {
        guard let database else { return }
        var known: (analysis: AnalysedStatement, parseBody: [UInt8])?
        if name.isEmpty {
            known = unnamed.map { ($0.analysis, $0.parseBody) }
        } else if let id = statements.find(name) ?? names.own.find(name) {
            known = (database.analysis(of: id).0, database.statements[id].parseBody)
        }
        // What only SQL has prepared ends nothing and changes no table.
        guard let known, Self.matters(known.analysis) else {
            if let followed, !followed.portals.isEmpty { followed.portals[Array(portal)] = nil }
            return
        }
        let followed = self.followed ?? FollowedTransaction(change: worker.nextToken())
        self.followed = followed
        if followed.portals.count >= FollowedTransaction.portalsMax {
            return close(with: FollowedTransaction.tooManyPortals)
        }
        followed.portals[Array(portal)] = known.parseBody.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            let text = reader.cString() ?? UnsafeRawBufferPointer(start: nil, count: 0)
            let isDoubtful = !isTextTrusted || names.areDoubtful && statements.find(name) == nil && !name.isEmpty
            let isNeeded = known.analysis.classification.barrier != .notNeeded
            return FollowedTransaction.Portal(
                analysis: known.analysis, text: isNeeded ? String(validating: text, as: UTF8.self) : nil,
                mayHaveBorder: isDoubtful || AnalysisCache.mayHaveBorder(text))
        }
    }

    private static func matters(_ analysis: AnalysedStatement) -> Bool {
        if analysis.isPlainRead { return false }
        let classification = analysis.classification
        return classification.barrier != .notNeeded || classification.borders.begins || classification.borders.ends
            || classification.kind == .unknown || classification.kind == .savepoint
    }

    // MARK: answers

    /// The control plane has answered.
    func followAnswered(
        _ followed: FollowedTransaction, _ question: FollowedTransaction.Question, _ outcome: ControlOutcome
    ) {
        followed.question = nil
        phase = .leased
        let isGranted = if case .noticed = outcome { true } else { false }
        if question == .end { return followSettled(followed, isOpen: isGranted) }
        if isGranted {
            followed.state = question == .commit ? .mayCommit : .open
            followed.isGranted = true
            if question == .statement {
                followed.standing += 1
                unit.session.noteChange()
            }
        } else {
            followed.isRefused = true
            followed.refusal = Self.refusal(outcome)
        }
        resumeSoon()
    }

    private static func refusal(_ outcome: ControlOutcome) -> ErrorResponse {
        guard case .failed(var error) = outcome else {
            return ErrorResponse(.error, .cannotConnectNow, "Godwit takes no DDL now", hint: "Try again.")
        }
        error.severity = .error
        return error
    }

    /// What has become of a transaction that may have committed is known, and done on the other side.
    private func followSettled(_ followed: FollowedTransaction, isOpen: Bool) {
        if isOpen { followed.state = .open } else { self.followed = nil }
        if batchAwaited == Self.untilSettled { sendKept() }
        guard phase == .leased, let server else { return }
        if server.session.isFree && mayGiveBack { return giveBack(server) }
        if worker.isDraining { drain() }
        resumeSoon()
    }

    /// Output is kept back, and not for a batch.
    private static var untilSettled: UInt64 { .max }

    // MARK: the end of a unit

    /// ReadyForQuery has come, and has not gone to the client yet.
    func followEnd(_ status: TransactionStatus, on server: ServerConnection) {
        guard let followed else { return }
        switch followed.state {
        case .untouched: break
        case .mayCommit:
            phase = .changing
            followed.question = .end
            if batchAwaited == nil { batchAwaited = Self.untilSettled }
            return tellEnd(followed, ChangeEnd(isOver: status == .idle, waits: true))
        case .open:
            if status == .inTransaction { goBack(followed) }
            if status != .idle { return }
            tellEnd(followed, ChangeEnd(isOver: true, waits: false))
            let next = FollowedTransaction(change: worker.nextToken())
            next.portals = followed.portals
            next.border = followed.border
            self.followed = next
        }
        // Portals of messages in flight are looked for yet.
        if status == .idle && server.session.isQuiet { self.followed = nil }
    }

    /// What was rolled back to a savepoint goes on the other side, too, and lets go of its locks.
    private func goBack(_ followed: FollowedTransaction) {
        let standing = ledger.standingChanges
        if ledger.isUncertain || standing >= followed.standing { return }
        followed.standing = standing
        if standing == 0 { followed.state = .untouched }
        worker.control.post(.change(
            ChangeOrder(
                database: databaseName, user: user, part: .goBack, change: followed.change, standing: standing),
            worker: worker.index, client: id))
    }

    /// Behind the first DDL: it may be the last statement that leaves room for it.
    func askNumber(_ followed: FollowedTransaction, on server: ServerConnection) {
        guard followed.state == .open, followed.number == nil, !followed.hasAskedNumber, phase == .leased,
            server.session.status == .inTransaction, server.session.isQuiet, server.session.isAtBatchStart
        else { return }
        followed.asksNumber = true
        followed.hasAskedNumber = true
        server.runQuietly(FollowedTransaction.numberQuery)
    }

    private func tellEnd(_ followed: FollowedTransaction, _ end: ChangeEnd) {
        worker.control.post(.change(
            ChangeOrder(database: databaseName, user: user, part: .end(end), change: followed.change),
            worker: worker.index, client: id))
    }

    /// The client, or its server, is gone.
    func leaveFollowed() {
        guard let followed else { return }
        self.followed = nil
        if followed.hasChange || followed.question != nil {
            tellEnd(followed, ChangeEnd(isOver: true, waits: false))
        }
    }

    /// The control plane has given the transaction up.
    func endFollowed(_ change: UInt64, _ error: ErrorResponse) {
        guard let followed, followed.change == change, followed.hasChange else { return }
        terminate(with: error)
    }
}
