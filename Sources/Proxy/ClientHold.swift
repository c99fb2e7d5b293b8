import Configuration
import Console
import PGWire
import Pooling
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// Units that wait for an operator: PAUSE and its kin.
extension ClientConnection {
    /// Whether the unit has to wait. Of an open transaction that has its server none does, or it could not end.
    func isHeld(_ decision: RouteDecision, _ database: DatabaseState) -> Bool {
        switch database.hold {
        case nil: mayWrite(on: decision.side, database) && worker.holdsForLease(database)
        case .all: true
        case .writes: mayWrite(on: decision.side, database)
        }
    }

    /// A lazy transaction that comes to the authority may write there from then on.
    func mayWrite(on side: Side, _ database: DatabaseState) -> Bool {
        side == database.authority && (unit.routedKind != .read || lazy != nil)
    }

    /// The unit stays where it is, at the front of the input, and is looked at anew when the hold is over: shares,
    /// sides and servers may be others then.
    func hold(_ database: DatabaseState) {
        abandonProbe()
        if worker.isDraining { return sayGoodbye() }
        if phase == .greeting && !database.greetings.isEmpty { return greet() }
        let since = heldSince ?? (phase == .waiting || phase == .greeting ? waitingSince : worker.now)
        if !database.held.append(self, token: worker.nextToken()) {
            return refuseUnit(ErrorResponse(
                .error, .tooManyConnections,
                "too many clients of database \"\(database.name)\" wait for RESUME already",
                detail: "At most \(database.held.bound) may wait.", hint: "Raise pool.waiters_max."))
        }
        heldSince = since
        waitingSince = since
        if phase != .greeting { phase = .held }
        // So that SHOW POOLS counts it.
        _ = poolEntry(database.authority)
        let limit = database.route.settings.pool.queryWaitTimeoutSeconds
        if limit > 0 { worker.schedule(.held(id, token: holdToken), at: since.advanced(bySeconds: limit)) }
    }

    /// The operator has let go, or holds something else: the unit is routed again.
    func leaveHold() {
        holdToken = 0
        if phase == .greeting { return waitForServer(authority) }
        guard phase == .held else { return }
        routeAgain()
    }

    /// The unit waits in a pool, or was held: it is gathered and routed as if it had just come.
    func routeAgain() {
        phase = .idle
        if unit.carriesBegin { lazy = nil }
        noteAgain()
        resumeSoon()
    }

    /// The unit is looked at again from its first byte.
    private func noteAgain() {
        let (isReplay, hasWaited) = (unit.isReplay, unit.hasWaited)
        scanner = UnitScanner(packetMax: worker.packetMax)
        unit = Unit()
        unit.isReplay = isReplay
        unit.hasWaited = hasWaited
    }

    /// Texts may mean something else from now on, or be others': what was noted of the present unit may not hold. What
    /// is on its way stays there, and is taken for anybody's.
    func analysisOutdated() {
        if unitPlace == nil || phase == .held || phase == .awaitingHorizon { return }
        if phase == .idle && server == nil { return noteAgain() }
        unit.lone = nil
        unit.unnamed = nil
        transaction.isAnybodys = true
    }

    /// Another side takes the writes from now on. What waits for a server is routed anew; what has one goes on to its
    /// end: nothing of it can write, or the switch would have waited for it.
    func authorityChanged() {
        divertedSince = nil
        switch phase {
        case .waiting:
            _ = poolEntry(waitingSide)?.pool.abandon(id)
            unit.isProbe = false
            routeAgain()
        case .greeting where holdToken == 0 && server == nil:
            _ = poolEntry(waitingSide)?.pool.abandon(id)
            waitForServer(authority)
        default: break
        }
    }

    /// The database is held from now on: what waits in a pool goes on waiting here.
    func moveIntoHold(_ database: DatabaseState) {
        switch phase {
        case .waiting where database.hold == .all
            || waitingSide == database.authority && (unit.routedKind != .read || lazy != nil),
            .greeting where database.hold == .all && holdToken == 0 && server == nil:
            _ = poolEntry(waitingSide)?.pool.abandon(id)
            hold(database)
        default: break
        }
    }

    func holdTimedOut() {
        guard let database else { return }
        leaveHeld()
        let limit = database.route.settings.pool.queryWaitTimeoutSeconds
        refuseUnit(ErrorResponse(
            .error, .cannotConnectNow,
            "database \"\(database.name)\" is paused, for longer than query_wait_timeout (\(limit) s)",
            hint: "Try again when the operator has resumed it."))
    }

    /// It does not wait any more, whatever the operator does.
    func leaveHeld() {
        if holdToken == 0 { return }
        holdToken = 0
        database?.held.left()
    }

    /// A client that keeps its server, or sends on without waiting for answers, stops before its next unit.
    func waitsAtBorder(_ tag: UInt8, _ server: ServerConnection) -> Bool {
        guard database?.hold == .writes, !server.isReadOnly, server.session.status == .idle,
            server.session.isAtBatchStart
        else { return false }
        // A COPY that has begun goes on to its end.
        if FrontendTag.isOfCopy(tag) || tag == FrontendTag.terminate { return false }
        isAtBorder = true
        if !server.session.isQuiet { repliesAwaited = 0 }
        return true
    }

    /// Something of it runs on the authority, or is about to, that is not surely a read.
    var mayBeWriting: Bool {
        guard let server, !server.isReadOnly else { return false }
        if server.session.isFree && unit.byteCount == 0 && passToServer == 0 { return false }
        if server.session.status != .idle || lazy != nil || transaction.hasWritten { return true }
        return unit.statementCount == 0 || !unit.isAllReads
    }

    /// Its open transaction rests, and has only read or taken locks. Tools keep one so beside their DDL (Flyway an
    /// advisory lock, Ecto one of a table): whoever waited for its end would wait for himself.
    var restsUnchanged: Bool {
        guard let server, server.session.status == .inTransaction, server.session.isQuiet else { return false }
        return unit.byteCount == 0 && passToServer == 0 && !transaction.hasChanged
    }

    /// Ends the connection from outside; its server is cancelled and closed if it is at work.
    func terminate(_ message: String) { terminate(with: ErrorResponse(.fatal, .adminShutdown, message)) }

    func terminate(with error: ErrorResponse) {
        if phase == .closed { return }
        // It has been told before, and does not read it.
        if isClosingAfterFlush { return close() }
        let isCutOff = server?.isWithinMessage == true
        letGo(of: phase)
        dropHeld()
        if isCutOff { return close() }
        close(with: error)
    }
}

/// Clients that are held, in their order. A client that goes away leaves a hole that is skipped; by its number, for the
/// socket of one that is closed meanwhile is closed with the last that holds on to it, and its peer waits for that.
struct HeldClients {
    private var queue: [(client: ClientID, token: UInt64)] = []
    private(set) var count = 0
    /// A reload may change it; who waits already goes on.
    var bound: Int

    init(bound: Int) { self.bound = bound }

    /// - Returns: false when as many wait as may.
    mutating func append(_ client: ClientConnection, token: UInt64) -> Bool {
        if count >= bound { return false }
        if queue.count >= 2 * bound {
            let clients = client.worker.clients
            queue.removeAll { clients[$0.client]?.holdToken != $0.token }
        }
        client.holdToken = token
        queue.append((client.id, token))
        count += 1
        return true
    }

    mutating func left() {
        count -= 1
        if count == 0 { queue = [] }
    }

    /// - Parameter clients: of the thread.
    mutating func takeAll(of clients: [ClientID: ClientConnection]) -> [ClientConnection] {
        let waiting = queue.compactMap { place in
            clients[place.client].flatMap { $0.holdToken == place.token ? $0 : nil }
        }
        queue = []
        count = 0
        return waiting
    }
}
