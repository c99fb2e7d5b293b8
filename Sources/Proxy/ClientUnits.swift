import Configuration
import Console
import Logging
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions

/// From bytes to a routed unit.
extension ClientConnection {
    /// Gathers the next unit, which is no lone read, and sends it on its way.
    ///
    /// - Returns: bytes that are done with. A unit that waits for a server stays where it is.
    func processIdle(_ bytes: UnsafeRawBufferPointer) -> Int {
        let progress = scanner.scan(bytes) { note($0, bytes) }
        switch progress {
        case .needsMore:
            if bytes.count < Self.unitBytesMax { return 0 }
            unit.isStreamed = true
            unit.endsWithReady = false
            unit.byteCount = scanner.offset
            unit.mayWrite = true
            unit.mayChange = true
            dispatch()
            return 0
        case .simple(let end):
            unit.byteCount = end
            if answerLocally(simple: bytes, end: end) {
                startNextUnit()
                return end
            }
            if beginChange(UnsafeRawBufferPointer(rebasing: bytes[..<end])) { return 0 }
            dispatch()
            return 0
        case .functionCall(let end):
            unit.byteCount = end
            dispatch()
            return 0
        case .extended(let end, let endsWithSync):
            unit.byteCount = end
            unit.endsWithReady = endsWithSync
            if answerLocally(batch: bytes, end: end) || answerLazily(batch: bytes, end: end) {
                startNextUnit()
                if worker.isDraining { drain() }
                return end
            }
            if endsWithSync, beginChange(UnsafeRawBufferPointer(rebasing: bytes[..<end])) { return 0 }
            if unit.kind == .begin && unit.executeCount > 0 {
                unit.isBeginAnswerable = isAnswerable(bytes, from: 0, to: unit.firstExecuteEnd)
                    && !executesAgain(bytes, from: unit.firstExecuteEnd, to: end)
            }
            dispatch()
            return 0
        case .stray(let end):
            skipUnit(end)
            return 0
        case .terminate:
            close()
            return bytes.count
        case .violation(let error):
            violated(error)
            return bytes.count
        }
    }

    func violated(_ error: WireError) {
        switch error {
        case .lengthOutOfRange(let tag, let length):
            close(with: ErrorResponse(
                .fatal, .protocolViolation, "invalid length \(length) of message type \(tag)"))
        case .unexpectedMessage(let tag), .malformedBody(let tag):
            close(with: ErrorResponse(.fatal, .protocolViolation, "invalid message of type \(tag)"))
        case .packetTooLong(let length):
            close(with: ErrorResponse(
                .fatal, .programLimitExceeded, "a message of \(length) bytes is longer than max_packet_size",
                detail: "listen.max_packet_size is \(worker.packetMax) bytes."))
        case .unsupportedProtocol, .malformedStartup, .nameNotUTF8:
            close(with: ErrorResponse(.fatal, .protocolViolation, "invalid message"))
        }
    }

    func startNextUnit() {
        scanner = UnitScanner(packetMax: worker.packetMax)
        idleSince = worker.now
        renewUnit(isOpen: server != nil)
        if server == nil { giveBackUnit() }
        isForcedToAuthority = false
        heldSince = nil
    }

    // MARK: what is in it

    /// Looks at one message: what it would do, and whose it is.
    func note(_ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer) {
        guard let database else { preconditionFailure("a unit without a database") }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart..<frame.end]))
        switch frame.tag {
        case FrontendTag.query:
            unit.executes = true
            guard let text = reader.cString(), reader.isAtEnd else { return unit.addUnknown() }
            let (analysis, key) = look(at: text, database)
            noteBegin(analysis, text)
            addStatement(analysis, key, database)
            unit.session.note(analysis)
        case FrontendTag.parse:
            guard let name = reader.cString(), let text = reader.cString() else { return unit.addUnknown() }
            let (analysis, key) = DatabaseState.judged(look(at: text, database), types: reader)
            unit.notes.noteParse(name, analysis, key, types: reader)
            noteBegin(analysis, text)
            addStatement(analysis, key, database)
            unit.session.prepare(name, analysis)
            if name.isEmpty {
                if unit.parsesUnnamed { unit.parsesUnnamedAgain = true }
                unit.parsesUnnamed = true
                unit.unnamed = (analysis, key)
            } else {
                unit.parsesNamed = true
                if (statements.find(name) ?? names.own.find(name)) != nil { unit.renamed.insert(Array(name)) }
            }
        case FrontendTag.bind:
            noteBind(&reader, database)
        case FrontendTag.execute:
            if unit.executeCount == 0 {
                unit.statementsAtFirstExecute = unit.statementCount
                unit.firstExecuteEnd = frame.end
            }
            unit.executeCount += 1
            if unit.cutOffset == 0 && unit.borders.ends { unit.cutOffset = frame.end }
            unit.executes = true
            let portal = reader.cString()
            if let portal { unit.session.execute(portal) }
            // Of another portal than the unnamed one, or a part of its rows only.
            if portal?.isEmpty != true || reader.int32() != 0 { unit.leavesPortal = true }
        case FrontendTag.functionCall:
            unit.executes = true
            noteFunctionCall(&reader, database)
        default:
            break
        }
        switch frame.tag {
        case FrontendTag.query, FrontendTag.functionCall, FrontendTag.sync:
            unit.session.noteBatchEnd()
            // From now on the client's own names tell.
            if !unit.renamed.isEmpty { unit.renamed = [] }
        default: break
        }
        if unit.hasKeyless { unit.noteSession(sessionKey) }
        if unit.notes.denials > 0 && unit.notes.deniedStart == nil { unit.notes.deniedStart = frame.start }
    }

    func noteBind(_ reader: inout BodyReader, _ database: DatabaseState) {
        unit.binds = true
        guard let portal = reader.cString(), let name = reader.cString() else { return unit.addUnknown() }
        if !portal.isEmpty { unit.leavesPortal = true }
        var known: AnalysedStatement?
        let values = reader
        defer { noteUsers(ofEffects: unit.session.bind(portal, to: name, known: known, values), database) }
        if name.isEmpty {
            if unit.parsesUnnamed { return noteKey(ofParsed: name, reader, database) }
            renewUnnamed(database)
            guard let unnamed else { return unit.addUnknown(endsNothing: true) }
            unnamed.parseBody.withUnsafeBytes {
                noteBegin(unnamed.analysis, $0)
                noteStatement(unnamed.analysis, $0, database)
            }
            addStatement(unnamed.analysis, unnamed.key, database)
            known = unnamed.analysis
            noteKey(unnamed.analysis, unnamed.key, reader, parseBody: unnamed.parseBody, database)
        } else if unit.renamed.isEmpty || !unit.renamed.contains(Array(name)),
            let id = statements.find(name) ?? names.own.find(name)
        {
            let statement = database.statement(id)
            let (analysis, key) = statement.parseBody.withUnsafeBytes { body in
                let found = analysedLoosely(UnsafeRawBufferPointer(rebasing: body.prefix { $0 != 0 }), database)
                    ?? (statement.analysis, statement.key)
                noteBegin(found.0, body)
                noteStatement(found.0, body, database)
                return found
            }
            addStatement(analysis, key, database)
            known = analysis
            noteKey(analysis, key, reader, parseBody: statement.parseBody, database)
        } else if unit.parsesNamed {
            noteKey(ofParsed: name, reader, database)
        } else {
            // All that a client parses is known, so that at most SQL has prepared it, and PREPARE takes no COMMIT.
            unit.addUnknown(endsNothing: true)
        }
    }

    func noteFunctionCall(_ reader: inout BodyReader, _ database: DatabaseState) {
        if let function = reader.int32(),
            let text = FunctionCallText.ofSession(function: UInt32(bitPattern: function))
        {
            let bytes = UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
            let (analysis, key) = database.analyse(bytes)
            addStatement(analysis, key, database)
            unit.session.note(analysis)
        }
        // In a failed transaction PostgreSQL refuses it.
        unit.addUnknown(endsNothing: server?.session.status == .failed && !unit.borders.ends)
    }

    /// Keeps the words of a BEGIN that comes first: they may be needed on the authority later.
    private func noteBegin(_ analysis: AnalysedStatement, _ text: UnsafeRawBufferPointer) {
        guard analysis.kind == .begin, unit.statementCount == 0 else { return }
        unit.beginSQL = String(wire: UnsafeRawBufferPointer(rebasing: text.prefix { $0 != 0 }))
    }

    // MARK: answers of our own

    /// `SET godwit.user = '42'` and its kin, and DEALLOCATE of a name that the server does not know.
    private func answerLocally(simple bytes: UnsafeRawBufferPointer, end: Int) -> Bool {
        if let tag = lazyTag() {
            answer(tag: tag)
            return true
        }
        guard unit.statementCount == 1, let effect = unit.session.onlyEffect, let database else { return false }
        if status != .idle { keyValues.setInTransaction() }
        switch (unit.kind, effect) {
        case (.set, .sets(let change))
        where !change.isLocal && KeyValues.isOurs(change.name)
            && database.route.table.keySettings.contains(change.name):
            keyValues.set(change.name, to: change.value)
            routingChanged()
            forgetWriters()
            answer(tag: "SET")
        case (.reset, .resets(let name))
        where KeyValues.isOurs(name) && database.route.table.keySettings.contains(name):
            if keyValues.reset(name) { routingChanged() }
            forgetWriters()
            answer(tag: "RESET")
        case (.deallocate, .deallocates(let name?)):
            guard deallocate(Array(name.utf8)) else { return false }
            answer(tag: "DEALLOCATE")
        default:
            return false
        }
        return true
    }

    /// What a transaction has set without a server goes with it.
    func keysSettled(isRolledBack: Bool) {
        if keyValues.transactionEnded(isRolledBack: isRolledBack) { routingChanged() }
    }

    /// What the session's key is from now on it is at once: see `noteUsers(ofEffects:)`.
    private func forgetWriters() {
        if !transaction.isOpen { transaction = TransactionFacts() }
    }

    /// Drivers drop in SQL what they prepared by protocol; servers know the statement under another name.
    ///
    /// - Returns: false when the client has no such name, or in a failed transaction: PostgreSQL has the error for it.
    func deallocate(_ name: [UInt8]) -> Bool {
        guard status != .failed, let database, let id = name.withUnsafeBytes({ statements.remove($0) })
        else { return false }
        database.statements.release(id)
        return true
    }

    private func answer(tag: String) {
        dropUnnamedLocally()
        var writer = MessageWriter()
        writer.commandComplete(tag)
        writer.readyForQuery(status)
        send(writer.bytes)
        if worker.isDraining { drain() }
    }

    /// A batch of nothing but Sync and Close needs no server: without one there are no portals to close.
    private func answerLocally(batch bytes: UnsafeRawBufferPointer, end: Int) -> Bool {
        guard unit.statementCount == 0, !unit.executes, unit.endsWithReady, server == nil else { return false }
        var closes = 0
        var offset = 0
        while let header = FrameHeader.parse(bytes, at: offset), offset < end {
            switch header.tag {
            case FrontendTag.close:
                var reader = BodyReader(UnsafeRawBufferPointer(
                    rebasing: bytes[(offset + FrameHeader.size)..<(offset + header.frameSize)]))
                // A malformed one is for PostgreSQL to refuse.
                guard reader.byte() != nil, reader.cString() != nil, reader.isAtEnd else { return false }
                closes += 1
            case FrontendTag.sync, FrontendTag.flush: break
            default: return false
            }
            offset += header.frameSize
        }
        if closes > 0 { forgetClosed(bytes, end: end) }
        for _ in 0..<closes { queueAnswer(BackendTag.closeComplete) }
        var writer = MessageWriter()
        writer.readyForQuery(status)
        send(writer.bytes)
        return true
    }

    private func forgetClosed(_ bytes: UnsafeRawBufferPointer, end: Int) {
        var offset = 0
        while let header = FrameHeader.parse(bytes, at: offset), offset < end {
            if header.tag == FrontendTag.close {
                var reader = BodyReader(UnsafeRawBufferPointer(
                    rebasing: bytes[(offset + FrameHeader.size)..<(offset + header.frameSize)]))
                if reader.byte() == UInt8(ascii: "S"), let name = reader.cString() { forget(name) }
            }
            offset += header.frameSize
        }
    }

    func forget(_ name: UnsafeRawBufferPointer) {
        if name.isEmpty {
            unnamed = nil
        } else if let id = statements.remove(name) {
            database?.statements.release(id)
        }
    }

    // MARK: where it goes

    /// Decides on the side and asks its pool for a server.
    func dispatch() {
        guard let database else { preconditionFailure("a unit without a database") }
        unit.startedAt = worker.now
        if let refusal = refusalOnItsOwn { return refuseUnit(refusal) }
        if database.hold == .all && server == nil { return hold(database) }
        if splitsBegin(), let text = unit.beginSQL {
            unit.carriesBegin = true
            lazy = LazyTransaction(beginSQL: text)
        }
        guard let decision = route(database) else { return }
        unit.isProbe = decision.isProbe
        if server == nil && isHeld(decision, database) { return hold(database) }
        database.count(decision, isRead: unit.routedKind == .read || unit.carriesBegin)
        database.count((unitKey ?? sessionKey)?.identity)
        if decision.side != database.authority {
            divertedSince = nil
            worker.watchReads()
        }
        if goesOnOnNew(decision.side) { return }
        if isHeld(decision, database) { return hold(database) }
        phase = .waiting
        waitForServer(decision.side)
    }

    /// - Returns: nil when the read waits for NEW to catch up first.
    private func route(_ database: DatabaseState) -> RouteDecision? {
        let authority = database.authority
        if isForcedToAuthority { return RouteDecision(authority, .newFailed) }
        if unit.notes.deniedBy != nil { return RouteDecision(authority, .rule) }
        if isOfSessionMode { return RouteDecision(authority, .pinned) }
        let route = database.route
        var request = RouteRequest(
            kind: unit.carriesBegin ? .read : unit.routedKind, horizon: HorizonFacts(route.horizon))
        // A BEGIN that says READ ONLY is a read whatever the catalog says.
        if route.facts.isGuarded { request.horizon.isReadable = false }
        if lazy != nil && (request.kind != .read || !isMovable) || unit.kind == .begin && unit.leavesPortal {
            request.kind = .unknown
        }
        // Each of its reads would have to wait there for itself: see `isBarredFromNew`.
        if unit.kind == .begin, lazy == nil, database.isGloballyConsistent, readsCommitted(unit.options) {
            request.kind = .unknown
        }
        // As one that says so itself: it would have to be checked against the authority's other transactions.
        if settings.isSerializable, lazy == nil, unit.options.isolation == nil { request.kind = .unknown }
        request.authority = authority
        request.transaction = unit.options
        request.isTextTrusted = isTextTrusted
        request.identity = (unitKey ?? sessionKey)?.identity
        request.rule = unit.notes.outcome
        request.batchNeeded = max(batchNeeded, database.batchNeededByAll)
        if let reached = unit.batchReached {
            // What others of its user have done since it came is promised to those who come later. It would be more
            // with each wait where one key is everybody's, and nobody would read on NEW again.
            request.batchNeeded = max(request.batchNeeded, reached)
        } else if let identity = request.identity {
            request.batchNeeded = max(request.batchNeeded, route.stamps.needed(by: identity.hash))
        }
        // Also of what has no key: a rule may send it to NEW.
        if database.isGloballyConsistent && !unit.hasWaited { request.batchNeeded = route.horizon.taking + 1 }
        var decision = Router.decide(request, by: route.table)
        if decision.side != authority {
            // Asked last, for it counts trials and probes.
            request.shape = database.askShape(unit, now: worker.now)
            decision = Router.decide(request, by: route.table)
        }
        if decision.side != authority {
            let (verdict, change) = database.health.ask(now: worker.now)
            request.breaker = verdict
            worker.announce(change, of: database)
            decision = Router.decide(request, by: route.table)
        }
        if decision.reason == .ownWrite && waits(for: request.batchNeeded, database) { return nil }
        return decision
    }

    /// The text's key, unless the session has one from a source that stands before it.
    var unitKey: StatementKey? {
        guard let key = unit.key else { return nil }
        if let sessionKey, sessionKey.source < key.source { return sessionKey }
        return key
    }

    /// Shares, sources or the session's own keys are others now.
    func routingChanged() {
        sessionKey = sessionKey(with: keyValues, name: applicationName)
    }

    func sessionKey(with values: KeyValues, name: String) -> StatementKey? {
        database?.sessionKey(user: user, applicationName: name, clientAddress: address.host, keyValues: values)
    }

    func waitForServer(_ side: Side) {
        // The client has it; should it be closed on the way, the thread has every pool that opens servers.
        let isAsked: Void? = withPoolEntry(side) { waitForServer(side, of: $0) }
        precondition(isAsked != nil, "a wait without a database")
    }

    @inline(__always)
    private func waitForServer(_ side: Side, of entry: PoolEntry) {
        waitingSince = heldSince ?? worker.now
        if phase == .greeting, let database, database.hold == .all { return hold(database) }
        waitingSide = side
        // NEW has refused this user's login, and it is not time to try again: nobody waits for that.
        if entry.pool.idleCount == 0, side == entry.database.health.other, entry.pool.isPaused(now: worker.now) {
            return sideFailed(isOwnTrouble: true)
        }
        worker.acquire(self, from: entry)
    }

    // MARK: the pool's answers

    /// A server is ours; the bytes follow now, or at the end of the batch.
    func granted(_ server: ServerConnection) {
        self.server = server
        heldSince = nil
        server.lease(to: self)
        // The client has it, as in `processLone`.
        let wait = worker.now.microseconds(since: waitingSince)
        withUncounted(database) { $0.count(wait: wait, for: server.side, isRead: unit.isAllReads && unit.executes) }
        if phase == .greeting {
            database?.noteGreeting(of: server)
            if asksForSpelling(server) { return }
            self.server = nil
            server.release()
            return greet()
        }
        // It waited for the server, or for its login, while we slept. Who has not waited was asked about a moment ago.
        if waitingSince < worker.now, let database, database.hold == nil, mayWrite(on: server.side, database),
            worker.holdsForLease(database)
        {
            self.server = nil
            server.release()
            return hold(database)
        }
        if waitingSince < worker.now && leavesUnreadable(server) { return }
        if reported != nil && asksForSpelling(server) {
            unit.lone = nil
            phase = .applyingSettings
            return
        }
        if unit.lone != nil && beginLone(on: server) { return }
        unit.lone = nil
        prepare(server)
    }

    /// The session becomes the client's, then the unit goes on.
    func prepare(_ server: ServerConnection) {
        var preparation = settings(for: server).statements(from: server.settings)
        if discardsSequences(on: server) {
            preparation = "DISCARD SEQUENCES" + (preparation.map { ";" + $0 } ?? "")
        }
        if let sql = preparation {
            phase = .applyingSettings
            server.runQuietly(sql)
            return
        }
        begin()
    }

    /// What the session has set, but for what would let a read write on NEW.
    func settings(for server: ServerConnection) -> SessionSettings { Self.settings(settings, for: server) }

    /// Our own READ ONLY is not the client's to change.
    static func settings(_ settings: SessionSettings, for server: ServerConnection) -> SessionSettings {
        server.isReadOnly ? settings.withoutReadOnly : settings
    }

    var isApplyingSettings: Bool { phase == .applyingSettings }

    func settingsApplied(on server: ServerConnection, failure: ErrorResponse?) {
        guard phase == .applyingSettings else { return }
        if let failure {
            server.settings = nil
            self.server = nil
            server.detach()
            if server.isReadOnly { return sideFailed(isOwnTrouble: !failure.state.isServersOwn) }
            if !unit.hasRetriedSetup {
                // It may be what others have left that it did not take: without an account of that all is reset. Routed
                // anew, for what it is for may be held meanwhile.
                routeAgain()
                unit.hasRetriedSetup = true
                return
            }
            return setupFailed(failure, on: server)
        }
        server.settings = settings(for: server)
        if leavesUnreadable(server) { return }
        begin()
    }

    /// The authority does not take what the session has set (any more): nothing may run without it.
    func setupFailed(_ failure: ErrorResponse, on server: ServerConnection) {
        close(with: ErrorResponse(
            .fatal, failure.state, "cannot set up the session on \(server.side): \(failure.message)"))
    }

    private func begin() {
        phase = .leased
        if isOfSessionMode { pin(.poolMode) }
        if let server { beginLazily(on: server) }
        isHolding = server?.isReadOnly == true && !unit.isStreamed && unit.endsWithReady
        resumeSoon()
    }

    /// The unit's answer, instead of a server's. The client goes on where the protocol allows it.
    func refuseUnit(_ error: ErrorResponse) {
        leaveHeld()
        if phase == .greeting { return greeting == nil ? close(with: fatal(error)) : greet() }
        // Its own BEGIN has not been answered.
        if unit.carriesBegin { lazy = nil }
        // Within a transaction the client would have to be told that it has failed: it begins anew instead.
        if !unit.endsWithReady || unit.isStreamed || lazy != nil { return close(with: fatal(error)) }
        skipUnit(unit.byteCount)
        var writer = MessageWriter()
        error.write(to: &writer)
        writer.readyForQuery(.idle)
        phase = .idle
        startNextUnit()
        send(writer.bytes)
        if worker.isDraining { return drain() }
        resumeSoon()
    }

    func fatal(_ error: ErrorResponse) -> ErrorResponse {
        var fatal = error
        fatal.severity = .fatal
        return fatal
    }

    func waitTimedOut(_ entry: PoolEntry) {
        // Nobody needs one of the other side, and OLD may have one.
        if entry.key.side == entry.database.health.other { return sideFailed(isOwnTrouble: true) }
        let limit = Double(entry.pool.limits.waitMaxNanos) / 1e9
        refuseUnit(ErrorResponse(
            .error, .tooManyConnections,
            "no server of database \"\(entry.key.database)\" became free within query_wait_timeout (\(limit) s)",
            detail: entry.lastFailure?.message,
            hint: entry.lastFailure == nil ? Self.advice(entry) : "Godwit goes on trying to connect."))
    }

    /// What keeps the pool from one server more: its own size, or a limit over several pools.
    private static func advice(_ entry: PoolEntry) -> String {
        let (taken, size) = (entry.places.pool.taken, entry.pool.limits.serversMax)
        return taken < size
            ? "The pool has \(taken) of its \(size) servers: raise max_db_connections or max_user_connections, or end "
                + "long transactions."
            : "All \(size) servers are in use: raise pool.size (the user's own pool_size, where it has one), or end "
                + "long transactions."
    }

    /// The authority has refused our login for good.
    func loginRefused(_ error: ErrorResponse) {
        refuseUnit(ErrorResponse(
            .error, error.state, "the login to the database failed: \(error.message)", detail: error.detail,
            hint: error.hint))
    }

    /// NEW cannot be had: the unit goes to the authority instead.
    ///
    /// - Parameter isOwnTrouble: it is this user's, or session's, alone, and says nothing of NEW.
    func sideFailed(isOwnTrouble: Bool = false) {
        if unit.isProbe, let database {
            worker.tell(database, database.health.other, isOwnTrouble ? .probeAbandoned : .failure(isProbe: true))
        }
        isHolding = false
        phase = .idle
        lazy?.isOnNew = false
        if unit.carriesBegin { lazy = nil }
        let wasReplay = unit.isReplay
        scanner = UnitScanner(packetMax: worker.packetMax)
        unit = Unit()
        unit.isReplay = wasReplay
        isForcedToAuthority = true
        database?.retries += 1
        resumeSoon()
    }
}
