import Capture
import Configuration
import Logging
import PGWire
import Pooling
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// What a server's answers mean for its client: results, ends of units, failures.
extension ClientConnection {
    // MARK: within a unit

    /// A part of the result is there: the unit cannot be run elsewhere any more.
    func resultBegan() { stopHolding() }

    /// - Parameter isServersOwn: it tells of the server and not of the application's SQL.
    func errorForwarded(_ error: ErrorResponse, isServersOwn: Bool) {
        unit.hasFailed = true
        unit.session.hasFailed = true
        if isServersOwn { unit.serverError = error.message }
        if error.isOfChangedResult { database?.statements.retireAll() }
    }

    /// The unit may be run again: NEW has it, and the client has seen nothing of the answer.
    var canRetry: Bool { isHolding }

    /// COMMIT may be answered by ROLLBACK: the tag tells whether settings stay.
    func commandCompleted(_ body: UnsafeRawBufferPointer) {
        unit.notes.noteRows(body)
        unit.session.noteCompleted(body)
        if transaction.hasWritten { stampCompleted(tag: body) }
    }

    /// A setting was reported as changed.
    ///
    /// - Parameter loginValue: what the server reported before anybody had set anything.
    func parameterReported(_ name: String, _ value: String, loginValue: String?, isAuthority: Bool) {
        let name = name.lowercased()
        noteParameter(name, value)
        if name == "default_transaction_read_only" { return readOnlyReported(name) }
        guard isAuthority, startupRestores == 0, Self.reportedSettings.contains(name) else { return }
        let isDefault = value == loginValue && !startupSettings.entries.contains { $0.name == name }
        unit.session.noteReported(
            name, isDefault ? .resets(name) : .sets(SettingChange(name: name, value: value, isLocal: false)))
    }

    /// Settings that servers report and sessions may change; `application_name` has an account of its own.
    private static let reportedSettings: Set<String> = [
        "client_encoding", "datestyle", "intervalstyle", "search_path", "standard_conforming_strings", "timezone",
    ]

    /// RESET has put back the name that our login gave to the server: the client's own name is this one. nil: it has
    /// called itself so.
    var nameBehindReset: String? {
        unit.session.sets("application_name", to: ServerConnection.ownName) ? nil : startupName
    }

    /// Our analysis reads quotes as the standard has it, and bytes as UTF-8 or one by one.
    func noteParameter(_ name: String, _ value: String) {
        switch name {
        case "standard_conforming_strings": hasStandardStrings = value.lowercased() == "on"
        case "client_encoding": hasSafeEncoding = Self.isSafeEncoding(value)
        default: break
        }
    }

    /// Encodings in which no byte of a longer character looks like a quote or backslash.
    static func isSafeEncoding(_ name: String) -> Bool {
        let plain = name.lowercased().filter { $0.isLetter || $0.isNumber }
        let unsafe = ["sjis", "shiftjis", "mskanji", "win932", "windows932", "shiftjis2004", "shiftjisx0213", "big5",
            "win950", "windows950", "gbk", "win936", "windows936", "gb18030", "johab", "uhc", "win949", "windows949"]
        return !unsafe.contains(plain)
    }

    // MARK: the end of a unit

    func unitEnded(_ status: TransactionStatus, on server: ServerConnection) {
        guard let database else { return }
        stampWrites(status, database)
        let effects = unit.session.batchEnded(status, &ledger)
        settledEffects += effects
        if !effects.isEmpty { noteUntold(effects) }
        let micros = worker.now.microseconds(since: unit.startedAt)
        database.counters.queries += 1
        database.counters.queryMicros += micros
        database.times.add(micros, .query, server.side, isRead: unit.isAllReads && unit.executes)
        noteEnd(status, on: server.side, micros: micros, database)
        if let serverError = unit.serverError {
            worker.tell(database, server.side, .failure(isProbe: unit.isProbe), because: serverError)
        } else {
            worker.answered(database, server.side, isProbe: unit.isProbe)
        }
        unit.isProbe = false
        if followed != nil { followEnd(status, on: server) }
        if !server.isReadOnly && mayShow {
            stampReads(database)
            stampOtherReads(database)
        }
        if changes.hasUnsettled && !server.session.owesReady {
            // An unfinished batch may be behind it, whose answers come with its own Sync.
            for id in changes.settleEarlier() { database.statements.release(id) }
        }
        if server.session.isQuiet { return unitsSettled(status, on: server) }
        unit.startedAt = worker.now  // the next of the pipeline's
    }

    /// Everything that the client has sent is answered.
    private func unitsSettled(_ status: TransactionStatus, on server: ServerConnection) {
        guard let database else { return }
        settleNames()
        if !startupSettings.isEmpty { noteResets(settledEffects, in: &resetsCommitted) }
        if status != .idle { restoreStartup(status, on: server) }
        applySettled(status, on: server)
        if server.isReadOnly && status != .idle {
            fixOnNew()
            let takesSnapshot = unit.isAllReads || unit.declaresCursor
            if takesSnapshot && unit.executes && !unit.hasFailed { transaction.isSurelyReadOnly = true }
        }
        if unit.mayWrite && database.sequenceReaders.contains(user) { pin(.sequence) }
        switch unit.kind {
        case .begin, .set, .setTransaction, .show, .empty: if unit.statementCount > 1 { transaction.hasRead = true }
        default: transaction.hasRead = true
        }
        if unit.notes.changesSchema && !pins.isEmpty { maySetFree = true }
        renewUnit(isOpen: status != .idle)
        if status == .idle {
            if !names.boundDrops.isEmpty { names.boundDrops.removeAll() }
            if !pins.isEmpty { verifyPins(on: server) }
            database.counters.transactions += 1
            let micros = worker.now.microseconds(since: transaction.startedAt)
            database.counters.transactionMicros += micros
            database.times.add(micros, .transaction, server.side, isRead: !transaction.hasWritten)
            transaction = TransactionFacts()
        }
        if let followed, followed.hasChange { askNumber(followed, on: server) }
    }

    /// Before the client learns of the commit: from now on its user reads on NEW only what includes it.
    private func stampWrites(_ status: TransactionStatus, _ database: DatabaseState) {
        guard transaction.hasWritten else { return }
        stampWriters(database)
        if status == .idle || unit.mayCommit, !transaction.isCommitTold || unit.hasFailed { committed(database) }
    }

    private func applySettled(_ status: TransactionStatus, on server: ServerConnection) {
        for effect in settledEffects { apply(effect, on: server) }
        if !settledEffects.isEmpty { settledEffects = [] }
        if ledger.isUncertain && status == .idle {
            ledger.removeAll()
            pin(.untrackedSetting)
        }
        if status == .idle {
            if hasRestoredStartup {
                hasRestoredStartup = false
                server.settings = nil
            }
            if !resetsCommitted.isEmpty {
                if pin != nil { restoreStartup(of: resetsCommitted, on: server) }
                resetsCommitted = []
            }
        }
        // Nobody may keep a server of NEW. What pins is not sent there, so that only a broken promise leads here.
        if server.isReadOnly && pin != nil { refuseOnNew() }
    }

    private func apply(_ effect: SessionEffect, on server: ServerConnection) {
        switch effect {
        case .sets(let change):
            if change.isLocal || SessionSettings.isOfMoment(change.name) { return }
            let isKey = database?.route.table.keySettings.contains(change.name) == true
            if isKey {
                keyValues.set(change.name, to: change.value)
                routingChanged()
            }
            if isKey && KeyValues.isOurs(change.name) {
                server.settings = nil  // it is set there too, and the next client must not see it
            } else if let value = change.value {
                set(change.name, value, on: server)
            } else {
                reset(change.name, on: server)
            }
        case .resets(let name):
            reset(name, on: server)
            if keyValues.reset(name) { routingChanged() }
        case .resetsAll:
            settings.resetAll(to: startupSettings)
            server.settings?.resetAll(to: SessionSettings())
            named(startupName)
            if keyValues.resetAll() { routingChanged() }
        case .pins(let reason):
            pin(reason)
            maySetFree = true  // a temporary table may be gone with its transaction, a lock not be granted
        case .prepares:
            names.areOwn = true
            pin(.preparedInSQL)
        case .discards(.all):
            settings = startupSettings
            server.settings = SessionSettings()
            named(startupName)
            if keyValues.resetAll() { routingChanged() }
            pins = limits?.mode == .session ? [.poolMode] : []
            names = StatementNames()
        case .discards(.sequences):
            unpin(.sequence)
        case .closesCursor, .unlistens, .unlocks, .discards(.temporary):
            maySetFree = true
        case .deallocates, .discards, .changesBothSides:
            break
        }
    }

    private func set(_ name: String, _ value: String, on server: ServerConnection) {
        // Another encoding's bytes that look like UTF-8 are something else. (Of a name PostgreSQL takes ASCII only.)
        let isKnown = isSentInUnicode(value) || name == "application_name"
        if settings.entries.count >= SessionSettings.entriesMax || !isKnown {
            settings.reset(name: name)  // what it was is no account of it: a reload may make a key of it
            return pin(.untrackedSetting)
        }
        settings.set(name: name, value: value)
        server.settings?.set(name: name, value: value)
        if name == "application_name" { named(value) }
    }

    private func named(_ name: String) {
        if name == applicationName { return }
        applicationName = name
        routingChanged()
    }

    /// RESET goes back to what the session started with; the server only knows its own default.
    private func reset(_ name: String, on server: ServerConnection) {
        server.settings?.reset(name: name)
        settings.reset(name: name)
        if name == "application_name" { named(startupName) }
        if let entry = startupSettings.entries.first(where: { $0.name == name }) {
            settings.restore(entry)
        }
    }

    // MARK: names of statements

    /// Changes of names that the server skipped or refused do not hold.
    func undefine(_ dropped: [ExpectedReply], on server: ServerConnection) {
        for reply in dropped.reversed() {
            switch reply {
            case .parse(nil, let definition):
                if definition == 0 { continue }  // of a name that was taken
                server.unnamedToken = ServerConnection.unknownToken
                takeBackUnnamed(definition, isRefused: definition == server.session.refusedDefinition)
            case .closeUnnamed(let change), .queryInBatch(let change):
                server.unnamedToken = ServerConnection.unknownToken
                takeBackUnnamed(change, isRefused: false)
            case .parse(let id?, let definition):
                doubt(id, on: server)
                takeBack(definition)
            case .answerParse(let change), .answerClose(let change), .executeDropping(let change),
                .ownParseInBatch(let change):
                takeBack(change)
            case .quietClose:
                // It may have been to take away what another client left unnamed.
                if server.unnamedToken == 0 { server.unnamedToken = ServerConnection.unknownToken }
                server.statements.doubtEvicted()
            case .quietParse(nil):
                server.unnamedToken = ServerConnection.unknownToken
            case .quietParse(let id?):
                doubt(id, on: server)
            case .query, .functionCall, .sync, .bind, .describe, .execute, .close, .quietQuery, .answer, .ownParse,
                .quietSync:
                break
            }
        }
    }

    /// Unless a later batch prepares it again.
    private func doubt(_ id: StatementID, on server: ServerConnection) {
        let batch = server.preparedIn[id] ?? server.session.batchesAnswered
        if Int32(bitPattern: batch &- server.session.batchesAnswered) <= 0 {
            server.preparedIn[id] = nil
            server.statements.doubt(id)
        }
    }

    private func takeBack(_ change: UInt32) {
        if let unused = changes.takeBack(change, in: &statements) { database?.statements.release(unused) }
    }

    /// - Parameter isRefused: a Parse that fails has dropped the statement before; one that is skipped has not.
    private func takeBackUnnamed(_ change: UInt32, isRefused: Bool) {
        var before = UnnamedChange(change: change, previousChange: 0, statement: nil)
        // Of many that are skipped the last comes first: no search through all others for each.
        var place = 0
        if let index = unnamedBefore.lastIndex(where: { $0.change == change }) {
            before = unnamedBefore.remove(at: index)
            if isRefused { before.statement = nil }
            place = index
        }
        if let later = unnamedBefore[place...].firstIndex(where: { $0.previousChange == change }) {
            unnamedBefore[later].statement = before.statement
            unnamedBefore[later].previousChange = before.previousChange
        } else if lastUnnamedChange == change {
            restoreUnnamed(before)
            lastUnnamedChange = before.previousChange
        }
    }

    private func restoreUnnamed(_ before: UnnamedChange) {
        unnamed = nil
        guard let database, let (parseBody, token) = before.statement else { return }
        let (analysis, key) = analyse(parseBody: parseBody, database)
        unnamed = UnnamedStatement(
            parseBody: parseBody, token: token, analysis: analysis, key: key,
            generation: database.statements.generation(of: analysis))
    }

    /// Everything is answered: what was taken for done is done.
    func settleNames() {
        unnamedBefore.removeAll(keepingCapacity: true)
        replacedBytes = 0
        server?.unnamedPreparedIn = nil
        server?.statements.settle()
        if let server, !server.preparedIn.isEmpty { server.preparedIn.removeAll(keepingCapacity: true) }
        if !changes.isEmpty {
            for id in changes.settle() { database?.statements.release(id) }
        }
    }

    /// The unit is run again elsewhere, as if it had not been seen yet.
    private func takeBackNames() {
        if let first = unnamedBefore.first { restoreUnnamed(first) }
        unnamedBefore = []
        for id in changes.takeBackAll(in: &statements) { database?.statements.release(id) }
    }

    // MARK: giving the server back

    var mayGiveBack: Bool { phase == .leased && pin == nil && passToServer == 0 && unit.byteCount == 0 }

    /// - Parameter lacksSync: something was prepared only, and answered up to Flush. Drivers decide about Bind when
    ///   they have the description: that is routed on its own.
    func giveBack(_ server: ServerConnection, lacksSync: Bool = false) {
        if lacksSync { settleNames() }
        self.server = nil
        phase = .idle
        lazy = nil
        repliesAwaited = nil
        startNextUnit()
        if lacksSync { server.detachWithSync() } else { server.release() }
        if worker.isDraining { return drain() }
        if hasParkedBytes { resumeSoon() }
    }

    /// What the client has sent since its last Sync leaves nothing but prepared statements, which follow it anywhere.
    var hasOnlyPrepared: Bool { !unit.binds && !unit.executes && !unit.isStreamed }

    // MARK: failures

    /// NEW has failed a read for reasons of its own, and the client has seen nothing: the authority answers it.
    func retryOnAuthority(because error: ErrorResponse) {
        guard let database, let failing = server else { return }
        // A write that hid in a read is the statement's fault, not NEW's.
        if error.state == .readOnlyTransaction {
            worker.answered(database, failing.side, isProbe: unit.isProbe)
        } else {
            noteFailure(on: failing.side, database, error.message)
        }
        unit.isProbe = false
        server = nil
        failing.detach()
        runAgainOnAuthority()
    }

    private func noteFailure(on side: Side, _ database: DatabaseState, _ cause: String) {
        worker.tell(database, side, .failure(isProbe: unit.isProbe), because: cause)
        guard unit.isAllReads && unit.executes else { return }
        worker.sample(
            database, side, micros: worker.now.microseconds(since: unit.startedAt), isError: true,
            shape: unit.notes.statement?.shape?.value ?? 0)
    }

    /// Whether a read of this client has no whole answer yet, and may still be run elsewhere.
    func awaitsAnswer(of server: ServerConnection) -> Bool {
        guard self.server === server else { return false }
        return phase == .applyingSettings || phase == .leased && canRetry && !server.session.isQuiet
    }

    /// The other side has not answered a read in time: the authority does. That is no failure of the side yet: the read
    /// may be a long one. The cancel request finds out whether the server lives (see `Worker.checkReads`).
    func answerTimedOut(on late: ServerConnection) {
        guard let database else { return }
        let cause = "no answer in time"
        server = nil
        if phase == .leased {
            if unit.isProbe { worker.tell(database, late.side, .failure(isProbe: true), because: cause) }
            unit.isProbe = false
            if unit.isAllReads && unit.executes {
                worker.sample(
                    database, late.side, micros: worker.now.microseconds(since: unit.startedAt), isError: false,
                    shape: unit.notes.statement?.shape?.value ?? 0)
            }
            _ = CancelConnection.start(to: late, on: worker, for: nil)
            // What it has prepared by then nobody knows: it is looked at once more, and not used again.
            late.isOutdated = true
            late.detach()
            return runAgainOnAuthority()
        }
        // What it was to set in its session is not known: nobody else gets it.
        late.close()
        noteFailure(on: late.side, database, cause)
        unit.isProbe = false
        sideFailed()
    }

    /// What a server has of a unit is put back to be run again, before what came behind it: once, for the next server
    /// may be lost before it has anything. Not while bytes are being processed.
    private func runAgainOnAuthority() {
        dropHeld()
        takeBackNames()
        precondition(!isProcessing, "a unit put back into bytes that are being processed")
        inbox = replay + inbox
        replay = []
        unit.isReplay = true
        sideFailed()
    }

    /// The server's connection ended while the client had it.
    func serverLost(_ lost: ServerConnection, _ error: ErrorResponse) {
        server = nil
        leaveFollowed()
        startupRestores = 0
        hasRestoredStartup = false
        resetsCommitted = []
        guard let database, phase != .closed else { return }
        if phase == .idle { return parkedServerLost(lost, database, error) }
        // What the client has sent made the server close: as a COPY that something else than its data interrupts.
        if let farewell = lost.farewell, farewell.state == .protocolViolation, phase == .leased {
            if transaction.hasWritten { stampWrites(.idle, database) }
            return close(with: farewell)
        }
        if error.state.isOfTimeLimit {
            worker.answered(database, lost.side, isProbe: unit.isProbe)
        } else {
            worker.logger.warning("lost a server of \(lost.side) of \"\(database.name)\" in use: \(error.message)")
            noteFailure(on: lost.side, database, error.message)
        }
        unit.isProbe = false
        if phase == .greeting { return greetAnyway() }
        if phase == .applyingSettings { return lostInSetup(lost, error) }
        undefine(lost.session.takeDropped(), on: lost)
        if canRetry { return runAgainOnAuthority() }
        // The client has not heard that what is unanswered was prepared or closed, and may send it again.
        undefine(lost.session.unanswered, on: lost)
        // It has heard of these, and its next server is to have them.
        for effect in settledEffects { apply(effect, on: lost) }
        settledEffects = []
        // Whether it was committed is not known: read where the answer is.
        if transaction.hasWritten { stampWrites(.idle, database) }
        let isPlain = lost.session.status == .idle && pin == nil && unit.endsWithReady && !unit.isStreamed
            && !lost.isWithinMessage && passToServer == 0 && lost.session.owesOneReady
            // A transaction that was begun for it there has failed: to go on would run its rest by itself.
            && !lost.session.owesOurs
        let lostError = ErrorResponse.ofLost(
            isPlain ? .error : .fatal, because: error,
            detail: transaction.hasWritten ? "It is not known whether the last statement took effect." : nil)
        transaction = TransactionFacts()
        ledger.removeAll()
        if !isPlain {
            return lost.isWithinMessage ? close() : close(with: lostError)
        }
        phase = .idle
        startNextUnit()
        var writer = MessageWriter()
        lostError.write(to: &writer)
        writer.readyForQuery(.idle)
        send(writer.bytes)
        resumeSoon()
    }

    /// Nothing of the unit was sent: another server gets it. Two that go are enough to tell the client.
    private func lostInSetup(_ lost: ServerConnection, _ error: ErrorResponse) {
        if lost.isReadOnly { return sideFailed() }
        if unit.hasRetriedSetup {
            return refuseUnit(ErrorResponse(
                .error, .connectionFailure, "the connection to the database was lost: \(error.message)"))
        }
        routeAgain()
        unit.hasRetriedSetup = true
    }

    /// NEW went away between two reads of a transaction: nothing of it is needed any more, unless it had failed.
    private func parkedServerLost(_ lost: ServerConnection, _ database: DatabaseState, _ error: ErrorResponse) {
        if !error.state.isOfTimeLimit {
            worker.tell(database, lost.side, .failure(isProbe: false), because: error.message)
        }
        lazy?.isOnNew = false
        if lost.session.status == .failed || lazy?.isFixed == true {
            close(with: ErrorResponse.ofLost(.fatal, because: error))
        }
    }

    /// The client is gone: its server must not keep anything of it.
    func letGo(of last: Phase) {
        leaveHeld()
        leaveFollowed()
        if last == .consoleWaiting { worker.control.post(.consoleGone(worker: worker.index, client: id)) }
        if last == .waiting || last == .greeting { _ = poolEntry(waitingSide)?.pool.abandon(id) }
        abandonProbe()
        guard let server else { return }
        self.server = nil
        let isQuiet = server.session.isQuiet && passToServer == 0
        if !isQuiet, let database { stampWrites(.idle, database) }  // a COMMIT may be among what it does not wait for
        if last == .applyingSettings {
            server.settings = nil
            server.detach()
        } else if last == .greeting {
            server.detach()
        } else if isQuiet && server.session.isFree && unit.byteCount == 0 {
            server.settings = pin == nil ? server.settings : SessionSettings()
            if pin == nil { return server.detach() }
            server.statements.removeAll()
            server.settle(with: "DISCARD ALL")
        } else if isQuiet && pin == nil && unit.byteCount == 0 && !keepsLocks {
            server.settings = ledger.isEmpty ? server.settings : nil
            server.settle(with: "ROLLBACK")
        } else if !isQuiet && passToServer == 0 && !hasBrokenOff && !server.session.awaitsCopyData {
            server.abandon()
        } else {
            // What it does not have whole cannot be waited for. It may be at work on what came before that.
            if !server.session.isQuiet { _ = CancelConnection.start(to: server, on: worker, for: nil) }
            server.close()
        }
    }

    /// Once, however often it is let go of.
    func abandonProbe() {
        guard unit.isProbe, let database else { return }
        unit.isProbe = false
        worker.tell(database, database.health.other, .probeAbandoned)
    }

    /// What was done so far in the open transaction, or batch, may have left what no ROLLBACK takes away: a lock of the
    /// session. It pins only with the end of that.
    private var keepsLocks: Bool {
        unit.session.pins || ledger.isUncertain
            || ledger.openEffects.contains { if case .pins = $0 { true } else { false } }
    }

    // MARK: from outside

    /// A cancel request for this client.
    ///
    /// - Parameter canceller: is told when the request has been passed on; not when there is nothing to pass on.
    /// - Returns: whether it is on its way to a server.
    func cancelRunning(for canceller: Canceller) -> Bool {
        tap?.canceled(at: worker.now)
        switch phase {
        case .waiting:
            _ = poolEntry(waitingSide)?.pool.abandon(id)
            abandonProbe()
            refuseUnit(ErrorResponse(.error, .queryCanceled, "canceling statement due to user request"))
        case .awaitingHorizon, .held:
            refuseUnit(ErrorResponse(.error, .queryCanceled, "canceling statement due to user request"))
        case .consoleWaiting:
            worker.control.post(.consoleCanceled(worker: worker.index, client: id))
        case .leased:
            // What puts settings back is not the client's to cancel.
            if let server, !server.session.isQuiet, startupRestores == 0 || server.session.owesReady {
                return CancelConnection.start(to: server, on: worker, for: canceller)
            }
        case .login, .handshake, .cancelling, .greeting, .idle, .changing, .applyingSettings, .console, .closed:
            break
        }
        return false
    }

    /// Godwit is ending: who has no transaction goes now, but for consoles, which see it end.
    func drain() {
        switch phase {
        case .login, .handshake, .greeting, .held:
            sayGoodbye()
        case .cancelling:
            close()
        case .idle:
            if lazy == nil { sayGoodbye() }
        case .leased:
            if let server, server.session.isFree, unit.byteCount == 0 { sayGoodbye() }
        case .waiting, .awaitingHorizon, .changing, .applyingSettings, .console, .consoleWaiting, .closed:
            break
        }
    }

    func sayGoodbye() {
        close(with: ErrorResponse(.fatal, .adminShutdown, "Godwit is shutting down", hint: "Connect again."))
    }

    func databaseWasRemoved() {
        close(with: ErrorResponse(.fatal, .adminShutdown, "database \"\(databaseName)\" was removed by a reload"))
    }
}
