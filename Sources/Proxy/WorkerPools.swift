import Configuration
import Digests
import Logging
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions

/// A pool and what its thread needs to fill it. Used on its reactor's thread.
final class PoolEntry {
    let key: PoolKey
    var pool: Pool
    let database: DatabaseState
    /// Why the last attempt to open a server failed: for the clients that give up waiting.
    var lastFailure: ErrorResponse?
    /// What the latest client of this user has proven at its login.
    var proof: ServerProof?
    fileprivate(set) var isRetired = false
    var isToBeServed = false
    var hasTimer = false

    init(_ key: PoolKey, _ limits: PoolLimits, _ database: DatabaseState) {
        self.key = key
        self.database = database
        pool = Pool(limits: limits)
    }
}

extension Worker {
    // MARK: pools

    func poolEntry(_ database: DatabaseState, user: String, side: Side) -> PoolEntry {
        let endpoint = database.route.endpoint(side)
        let key = PoolKey(database: database.name, user: endpoint.user ?? user, side: side)
        if let entry = pools[key] { return entry }
        let entry = PoolEntry(key, limits(database.route.settings.pool, side: side), database)
        pools[key] = entry
        return entry
    }

    /// The thread's part of the pool's size: parts differ by one at most and add up to the size.
    private func limits(_ settings: PoolSettings, side: Side) -> PoolLimits {
        func nanos(_ seconds: Double) -> UInt64 { UInt64(seconds * 1e9) }
        let share = settings.size / peers.count + (index < settings.size % peers.count ? 1 : 0)
        return PoolLimits(
            serversMax: max(1, share), waitersMax: settings.waitersMax,
            waitMaxNanos: nanos(settings.queryWaitTimeoutSeconds),
            idleMaxNanos: nanos(settings.serverIdleTimeoutSeconds),
            lifetimeMaxNanos: nanos(settings.serverLifetimeSeconds),
            // NEW's breaker decides when it is tried again.
            retryMaxNanos: side == .old ? nanos(settings.serverLoginRetrySeconds) : 0)
    }

    /// Gives the client a server now, or queues it.
    func acquire(_ client: ClientConnection, from entry: PoolEntry) {
        switch entry.pool.acquire(client.id, now: now) {
        case .lease(let id):
            client.granted(server(id))
        case .wait:
            openServers(entry)
            scheduleWaitTimer(entry)
        case .refused:
            client.refuseUnit(ErrorResponse(
                .error, .tooManyConnections,
                "too many clients of database \"\(entry.key.database)\" wait for a server already",
                detail: "At most \(entry.pool.limits.waitersMax) may wait.",
                hint: "Raise pool.size or pool.waiters_max, or let the application send less at once."))
        }
    }

    /// Pairs what is free with who waits, and opens what is missing. At the end of a batch of events.
    func serve(_ entry: PoolEntry) {
        while let pair = entry.pool.nextPair() {
            if let client = clients[pair.client] {
                client.granted(server(pair.server))
            } else {
                releaseServer(server(pair.server))
            }
        }
        openServers(entry)
        scheduleWaitTimer(entry)
    }

    private func server(_ id: ServerID) -> ServerConnection {
        guard let server = servers[id] else { preconditionFailure("a pool's server that is not there") }
        return server
    }

    private func openServers(_ entry: PoolEntry) {
        for _ in 0..<entry.pool.serversToOpen(now: now) { openServer(entry) }
    }

    private func scheduleWaitTimer(_ entry: PoolEntry) {
        if entry.hasTimer || entry.pool.waitingCount == 0 { return }
        var deadline: MonotonicInstant?
        if entry.pool.limits.waitMaxNanos > 0, let oldest = entry.pool.oldestWaiter() {
            deadline = MonotonicInstant(nanoseconds: oldest.nanoseconds + entry.pool.limits.waitMaxNanos)
        }
        if let retry = entry.pool.retryTime(now: now) { deadline = min(retry, deadline ?? retry) }
        guard let deadline else { return }
        entry.hasTimer = true
        schedule(.pool(entry), at: deadline)
    }

    func expireWaiters(_ entry: PoolEntry) {
        for id in entry.pool.expireWaiters(now: now) {
            clients[id]?.waitTimedOut(entry)
        }
    }

    // MARK: servers come and go

    /// - Parameter attempt: how to connect; nil: as its conninfo wants it first.
    func openServer(_ entry: PoolEntry, _ attempt: ServerEncryption.Attempt? = nil) {
        let endpoint = entry.database.route.endpoint(entry.key.side)
        guard let address = endpoint.address else {
            return openFailed(entry, ErrorResponse(
                .fatal, .cannotConnect, "the name of host \"\(endpoint.host)\" cannot be resolved"))
        }
        do {
            let socket = try SocketDescriptor.connect(to: address)
            let credentials = ServerLogin.Credentials(
                user: entry.key.user, password: endpoint.password, proof: entry.proof, policy: snapshot.auth)
            let server = ServerConnection(
                ServerID(nextID()), socket, endpoint, entry, credentials: credentials,
                attempt: attempt ?? endpoint.tls?.encryption.firstAttempt ?? .plain, worker: self)
            servers[server.id] = server
            let limit = entry.database.route.settings.pool.serverConnectTimeoutSeconds
            if limit > 0 { schedule(.serverLogin(server.id), at: now.advanced(bySeconds: limit)) }
        } catch {
            openFailed(entry, connectFailure(endpoint, error.reason))
        }
    }

    func connectFailure(_ endpoint: ServerEndpoint, _ reason: String) -> ErrorResponse {
        ErrorResponse(
            .fatal, .cannotConnect,
            "cannot connect to \(endpoint.side) at \(endpoint.host):\(endpoint.port): \(reason)")
    }

    /// A server logged in: it is idle now, and the first in line gets it at the end of the batch.
    func serverOpened(_ server: ServerConnection) {
        let entry = server.entry
        if entry.lastFailure != nil {
            entry.lastFailure = nil
            logger.notice("\(entry.key.side) of \"\(entry.key.database)\" can be reached again")
        }
        if entry.key.side == .old { entry.database.welcome = server.login.parameters }
        entry.pool.serverOpened(server.id, now: now)
        serveLater(entry)
    }

    /// An attempt to open a server failed. OLD's waiters go on waiting while it may come back; NEW's reads go to OLD.
    func openFailed(_ entry: PoolEntry, _ error: ErrorResponse) {
        if entry.lastFailure != error {
            logger.warning("\(entry.key.side) of \"\(entry.key.database)\": \(error.message)")
        }
        entry.lastFailure = error
        entry.pool.openFailed(now: now)
        switch entry.key.side {
        case .new:
            tellBreaker(entry.database, .failure(isProbe: false))
            for id in entry.pool.takeAllWaiters() { clients[id]?.sideFailed() }
        case .old:
            if isPermanent(error.state) {
                for id in entry.pool.takeAllWaiters() { clients[id]?.loginRefused(error) }
            } else {
                serveLater(entry)
            }
        }
    }

    /// Waiting would not help: the server has answered, and said no for good.
    private func isPermanent(_ state: SQLState) -> Bool {
        !state.isServersOwn && state != .protocolViolation
    }

    /// The client has done with it.
    func releaseServer(_ server: ServerConnection) {
        if server.isOutdated || !server.entry.pool.release(server.id, now: now) {
            server.close()
        } else {
            serveLater(server.entry)
        }
    }

    /// The connection is closed; whoever had it has been told.
    func serverClosed(_ server: ServerConnection, wasOpen: Bool) {
        servers[server.id] = nil
        if wasOpen {
            server.entry.pool.serverClosed(server.id)
            serveLater(server.entry)
        }
        keepUntilBatchEnds(server)
    }

    func expireServers() {
        for entry in pools.values {
            for id in entry.pool.expiredServers(now: now) { servers[id]?.close() }
        }
    }

    /// After a reload: limits as they are now, and no server that leads to another place than new ones would.
    func retireServers(previous: ProxySnapshot) {
        for (key, entry) in pools {
            guard let route = snapshot.databases[key.database], entry.database === databases[key.database] else {
                pools[key] = nil
                for id in entry.pool.idleServers { servers[id]?.close() }
                continue
            }
            var next = limits(route.settings.pool, side: key.side)
            next.waitersMax = entry.pool.limits.waitersMax
            entry.pool.apply(next)
            if let before = previous.databases[key.database]?.endpoint(key.side), before == route.endpoint(key.side) {
                continue
            }
            for server in servers.values where server.entry === entry { server.isOutdated = true }
            for id in entry.pool.idleServers { servers[id]?.close() }
        }
    }

    // MARK: breakers

    /// Only NEW has one: OLD is never given up by itself.
    func tellBreaker(_ database: DatabaseState, _ event: CircuitBreaker.Event) {
        if let transition = database.tell(event, now: now) { logTransition(database, transition) }
    }

    func logTransition(_ database: DatabaseState, _ transition: CircuitBreaker.Transition) {
        let what =
            switch transition {
            case .opened(let failures): "open after \(failures) failures in a row: reads go to OLD"
            case .reopened: "open again: a probe failed"
            case .halfOpened: "half-open: probing NEW with real reads"
            case .closed: "closed: reads go to NEW again"
            }
        logger.notice("breaker of NEW of \"\(database.name)\" (reactor \(index)) is \(what)")
    }
}
