import Configuration
import Console
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
    private var failure: (error: ErrorResponse, logins: Int)?
    /// What the latest client of this user has proven at its login.
    private(set) var proof: ServerProof?
    private var provenBy = ClientID(0)
    var isToBeServed = false
    /// Nobody comes to it any more: the thread has another pool of this name, or none.
    var isForgotten = false
    /// When the earliest of its timers fires.
    var timerAt: MonotonicInstant?
    var coming = ComingServers()
    /// Clients that use it.
    private(set) var clientCount = 0
    let places: PoolPlaces
    /// How many of the places of all threads it has taken.
    var placesTold = 0

    init(_ key: PoolKey, _ limits: PoolLimits, _ database: DatabaseState, _ ledger: ConnectionLedger) {
        places = PoolPlaces(key, ledger)
        self.key = key
        self.database = database
        pool = Pool(limits: limits)
    }

    /// Why the last attempt to open a server failed, unless some thread has opened one since: for the clients that give
    /// up waiting. A thread that gets its servers from others may never open one itself.
    var lastFailure: ErrorResponse? {
        get { failure.flatMap { $0.logins == places.pool.logins ? $0.error : nil } }
        set { failure = newValue.map { ($0, places.pool.logins) } }
    }

    /// Who has come in before the latest one says what may not be true any more: its password may have been changed.
    func note(_ proof: ServerProof, of client: ClientID) {
        if client.value < provenBy.value { return }
        (self.proof, provenBy) = (proof, client)
    }

    func attach() {
        clientCount += 1
        pool.keepsMinimum = true
    }

    func detach() {
        clientCount -= 1
        pool.keepsMinimum = clientCount > 0
    }
}

extension Worker {
    // MARK: pools

    func poolEntry(_ database: DatabaseState, user: String, side: Side) -> PoolEntry {
        let endpoint = database.route.endpoint(side)
        let key = PoolKey(database: database.name, user: endpoint.user ?? user, side: side)
        if let entry = pools[key] { return entry }
        let entry = PoolEntry(key, limits(database.route.settings.pool, key), database, ledger)
        pools[key] = entry
        return entry
    }

    /// A login opens servers also for those who have come in before it.
    func note(_ proof: ServerProof, of client: ClientConnection, _ database: DatabaseState) {
        for side in Side.allCases {
            let name = database.route.endpoint(side).user ?? client.user
            guard name.hasSameBytes(as: client.user) else { continue }
            pools[PoolKey(database: database.name, user: name, side: side)]?.note(proof, of: client.id)
        }
    }

    /// All threads together have as many servers as one may have (see WorkerSharing); what is to be kept open is split
    /// into parts that differ by one at most.
    private func limits(_ settings: PoolSettings, _ key: PoolKey) -> PoolLimits {
        func nanos(_ seconds: Double) -> UInt64 { UInt64(seconds * 1e9) }
        func share(_ whole: Int) -> Int { whole / peers.count + (index < whole % peers.count ? 1 : 0) }
        let user = userSettings(key.user)
        return PoolLimits(
            serversMax: user?.poolSize ?? settings.size, waitersMax: settings.waitersMax,
            waitMaxNanos: nanos(settings.queryWaitTimeoutSeconds),
            idleMaxNanos: nanos(settings.serverIdleTimeoutSeconds),
            lifetimeMaxNanos: nanos(settings.serverLifetimeSeconds),
            // Some, whatever is set: what fails at once would be tried for ever within one turn, whose time stands.
            retryMaxNanos: max(1_000_000, nanos(settings.serverLoginRetrySeconds)),
            serversMin: share(settings.minPoolSize),
            reserveMax: user?.reservePoolSize ?? settings.reservePoolSize,
            reserveAfterNanos: nanos(settings.reservePoolTimeoutSeconds))
    }

    /// Gives the client a server now, or queues it.
    @inline(__always)
    func acquire(_ client: ClientConnection, from entry: PoolEntry) {
        switch entry.pool.acquire(client.id, now: now) {
        // The table has it, or the batch.
        case .lease(let id):
            let isThere: Void? = withUncounted(servers[id]) { client.granted($0) }
            precondition(isThere != nil, "a pool's server that is not there")
        case .wait: queued(client, entry)
        case .refused: refused(client, entry)
        }
    }

    private func queued(_ client: ClientConnection, _ entry: PoolEntry) {
        let health = entry.database.health
        if entry.key.side == health.authority && health.isAuthorityDown {
            // The first one finds out whether it is back; who comes while attempts go on need not wait for them.
            if entry.pool.keepsTrying {
                _ = entry.pool.abandon(client.id)
                return client.refuseUnit(downError(entry))
            }
            entry.pool.keepsTrying = true
        }
        openServers(entry)
        scheduleWaitTimer(entry)
        // The first one has other threads asked; they know then for those who come after it.
        if entry.pool.lackingCount == 1 && peers.count > 1 { serveLater(entry) }
    }

    private func refused(_ client: ClientConnection, _ entry: PoolEntry) {
        if entry.key.side == entry.database.health.other { return client.sideFailed(isOwnTrouble: true) }
        client.refuseUnit(ErrorResponse(
            .error, .tooManyConnections,
            "too many clients of database \"\(entry.key.database)\" wait for a server already",
            detail: "At most \(entry.pool.limits.waitersMax) may wait.",
            hint: "Raise pool.size or pool.waiters_max, or let the application send less at once."))
    }

    /// Pairs what is free with who waits, and opens what is missing. At the end of a batch of events.
    func serve(_ entry: PoolEntry) {
        if gate.isSuspended { return }
        shareFairly(entry)
        while let pair = entry.pool.nextPair() {
            // The tables have both, or the batch.
            let isTaken: Void? = withUncounted(clients[pair.client]) { client in
                withUncounted(server(pair.server)) { client.granted($0) }
            }
            if isTaken == nil { releaseServer(server(pair.server)) }
        }
        openServers(entry)
        scheduleWaitTimer(entry)
        yieldPlace(entry)
        shareRest(entry)
    }

    private func server(_ id: ServerID) -> ServerConnection {
        guard let server = servers[id] else { preconditionFailure("a pool's server that is not there") }
        return server
    }

    private func openServers(_ entry: PoolEntry) {
        // A server of a forgotten pool is closed at once: for who is left there it would be opened without end.
        if entry.isForgotten || entry.database.hold == .all { return }
        // What is to be there although nobody waits takes no other's place: two pools would take each other's for ever.
        // Whose server is on its way lacks no further one.
        let awaited = max(entry.pool.lackingCount, entry.pool.keepsTrying ? 1 : 0)
        let wanted = claimPlaces(entry)
        for opened in 0..<wanted {
            let isAwaited = opened < awaited
            guard isAwaited ? takePlace(entry) : takeFreePlace(entry) else {
                for _ in opened..<wanted { entry.pool.openForbidden() }
                // All threads are told when that limit has room. Who lacks servers of this pool elsewhere would be
                // refused by it as well, and tell us of the places that it gives back: each other, without end.
                return settlePlaces(entry, isTold: !isAwaited)
            }
            openServer(entry)
        }
    }

    func scheduleWaitTimer(_ entry: PoolEntry) {
        if entry.pool.waitingCount == 0 && !entry.pool.keepsTrying { return }
        var deadline: MonotonicInstant?
        if entry.pool.limits.waitMaxNanos > 0, let oldest = entry.pool.oldestWaiter() {
            deadline = MonotonicInstant(nanoseconds: oldest.nanoseconds + entry.pool.limits.waitMaxNanos)
        }
        if let retry = entry.pool.retryTime(now: now) { deadline = min(retry, deadline ?? retry) }
        if let reserve = entry.pool.reserveTime(now: now) { deadline = min(reserve, deadline ?? reserve) }
        guard let deadline, entry.timerAt.map({ deadline < $0 }) ?? true else { return }
        entry.timerAt = deadline
        schedule(.pool(entry), at: deadline)
    }

    func expireWaiters(_ entry: PoolEntry) {
        for id in entry.pool.expireWaiters(now: now) {
            clients[id]?.waitTimedOut(entry)
        }
    }

    // MARK: servers come and go

    /// The next way to connect, where the first has failed: that one has given its place up.
    func openAgain(_ entry: PoolEntry, _ attempt: ServerEncryption.Attempt, isComing: Bool) {
        if isComing {
            if takeFreePlace(entry) { openServer(entry, attempt, isComing: true) }
        } else if takePlace(entry) {
            openServer(entry, attempt)
        } else {
            entry.pool.openForbidden()
            settlePlaces(entry)
        }
    }

    /// - Parameters:
    ///   - attempt: how to connect; nil: as its conninfo wants it first.
    ///   - isComing: it is not for the pool as yet, see ComingServers.
    func openServer(_ entry: PoolEntry, _ attempt: ServerEncryption.Attempt? = nil, isComing: Bool = false) {
        let endpoint = entry.database.route.endpoint(entry.key.side)
        guard let address = endpoint.address else {
            leavePlace(entry)
            if isComing { return }
            return openFailed(entry, ErrorResponse(
                .fatal, .cannotConnect, "the name of host \"\(endpoint.host)\" cannot be resolved"))
        }
        do {
            let socket = try SocketDescriptor.connect(to: address)
            socket.apply(tcpOptions, for: address)
            let credentials = ServerLogin.Credentials(
                user: entry.key.user, password: endpoint.password, proof: entry.proof, policy: snapshot.auth)
            let server = ServerConnection(
                ServerID(nextID()), socket, endpoint, entry, credentials: credentials,
                attempt: attempt ?? endpoint.tls?.encryption.firstAttempt ?? .plain, isComing: isComing,
                worker: self)
            servers[server.id] = server
            if isComing { entry.coming.openingCount += 1 }
            let limit = entry.database.route.settings.pool.serverConnectTimeoutSeconds
            if limit > 0 { schedule(.serverLogin(server.id), at: now.advanced(bySeconds: limit)) }
        } catch {
            leavePlace(entry)
            if !isComing { openFailed(entry, connectFailure(endpoint, error.reason)) }
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
        if server.isComing { return entry.coming.opened(server.id) }
        if entry.lastFailure != nil {
            entry.lastFailure = nil
            logger.notice("\(entry.key.side) of \"\(entry.key.database)\" can be reached again")
        }
        entry.places.pool.noteLogin()
        if entry.key.side == entry.database.authority {
            entry.database.greetings.note(server.login.parameters, of: entry.key.user)
            entry.database.spellings.loggedIn(entry.key.user, server.login.parameters)
        }
        // A login alone does not show that the other side answers queries.
        if entry.key.side == entry.database.health.authority {
            answered(entry.database, entry.key.side, isProbe: false)
        }
        entry.pool.serverOpened(server.id, now: now)
        if entry.isForgotten { server.close() } else { serveLater(entry) }
    }

    /// An attempt to open a server failed. The authority's waiters go on waiting while it is not given up; the other
    /// side's go to the authority.
    func openFailed(_ entry: PoolEntry, _ error: ErrorResponse) {
        if entry.lastFailure != error {
            logger.warning("\(entry.key.side) of \"\(entry.key.database)\": \(error.message)")
        }
        entry.lastFailure = error
        defer { settlePlaces(entry) }
        let (database, side) = (entry.database, entry.key.side)
        let isRefused = isPermanent(error.state)
        let spread = Double.random(in: 0...1)
        if side == database.health.other {
            // A refused login is this user's own trouble; what else there is, the breaker paces for all.
            entry.pool.openFailed(now: now, pauses: isRefused, spread: spread)
            if !isRefused { tell(database, side, .failure(isProbe: false), because: error.message) }
            for id in entry.pool.takeAllWaiters() { clients[id]?.sideFailed(isOwnTrouble: isRefused) }
            return
        }
        entry.pool.openFailed(now: now, pauses: true, spread: spread)
        if isRefused {
            for id in entry.pool.takeAllWaiters() { clients[id]?.loginRefused(error) }
            return
        }
        tell(database, side, .failure(isProbe: false), because: error.message)
        // Also when all who wait have gone: it would count as unreachable until the next one asks, and whoever goes by
        // /readyz sends none.
        if !hasServersAtWork(entry) { entry.pool.keepsTrying = true }
        if database.health.isAuthorityDown { refuseWaiters(entry) } else { serveLater(entry) }
    }

    /// Waiting would not help: the server has answered, and said no for good.
    private func isPermanent(_ state: SQLState) -> Bool {
        !state.isServersOwn && state != .protocolViolation
    }

    /// The client has done with it.
    func releaseServer(_ server: ServerConnection) {
        // The server has it.
        withUncounted(server.entry) { releaseServer(server, to: $0) }
    }

    @inline(__always)
    private func releaseServer(_ server: ServerConnection, to entry: PoolEntry) {
        if server.isOutdated || entry.isForgotten || entry.database.hold == .all || isOverfull(entry)
            || !entry.pool.release(server.id, now: now)
        {
            server.close()
        } else {
            serveLater(entry)
        }
    }

    /// The connection is closed; whoever had it has been told.
    func serverClosed(_ server: ServerConnection, wasOpen: Bool) {
        // First, for nobody else may hold on to it.
        keepUntilBatchEnds(server)
        servers[server.id] = nil
        leavePlace(server.entry)
        if server.isRetired { return }
        defer { settlePlaces(server.entry) }
        if server.isComing {
            server.entry.coming.closed(server.id, wasOpen: wasOpen)
        } else if wasOpen {
            server.entry.pool.serverClosed(server.id)
            serveLater(server.entry)
        }
    }

    func expireServers() {
        for entry in pools.values {
            for id in entry.pool.expiredServers(now: now) { servers[id]?.close() }
        }
        expireComing()
    }

    /// Servers that are to be there although nobody waits, and pools that nobody needs any more.
    func keepPools() {
        for (key, entry) in pools {
            if entry.pool.keepsMinimum {
                openServers(entry)
            } else if entry.pool.serverCount == 0 && entry.pool.waitingCount == 0 && entry.coming.isEmpty {
                entry.pool.keepsTrying = false
                pools[key] = nil
                forget(entry)
            }
        }
    }

    /// After a reload: limits as they are now, and no server that leads to another place than new ones would.
    func retireServers(previous: NameTable<DatabaseRoute>) {
        // When it is needed, and in one go: at a switch all clients wait for this.
        lazy var serversOf = Dictionary(grouping: servers.values) { ObjectIdentifier($0.entry) }
        for (key, entry) in pools {
            guard let state = databases[key.database], entry.database === state else {
                pools[key] = nil
                forget(entry)
                for id in entry.pool.idleServers { servers[id]?.close() }
                continue
            }
            let next = limits(state.route.settings.pool, key)
            entry.pool.apply(next)
            let spare = entry.places.pool.taken - next.serversMax - next.reserveMax
            for id in entry.pool.idleServers.prefix(max(0, spare)) { servers[id]?.close() }
            let before = previous[key.database]
            if before?.endpoint(key.side) == state.route.endpoint(key.side), before?.authority == state.authority {
                serveLater(entry)
                continue
            }
            for server in serversOf[ObjectIdentifier(entry)] ?? [] { server.leadsElsewhere() }
            if before?.authority == state.authority {
                for id in entry.pool.idleServers { servers[id]?.close() }
            } else {
                retire(entry.pool.idleServers)
            }
            adoptComing(entry)
        }
    }

    /// They leave their pool at once and are closed one after the other a little later: the end of a server keeps a
    /// core busy for milliseconds, and the end of all of them those who go on behind a switch.
    private func retire(_ idle: [ServerID]) {
        for (number, id) in idle.enumerated() {
            guard let server = servers[id] else { continue }
            server.isRetired = true
            server.entry.pool.serverClosed(id)
            settlePlaces(server.entry)
            let pause = Self.retirementSeconds + Double(number) * Self.retirementStepSeconds
            schedule(.retired(id), at: now.advanced(bySeconds: pause))
        }
    }

    private static let retirementSeconds = 0.2
    private static let retirementStepSeconds = 0.01

    /// Pinned clients keep their servers: when most of a pool is taken so, all others soon wait.
    func watchPins() {
        var pinned: [ObjectIdentifier: Int] = [:]
        // Those of pool_mode session are meant so.
        for server in servers.values where server.client?.pin != nil && server.client?.pin != .poolMode {
            pinned[ObjectIdentifier(server.entry), default: 0] += 1
        }
        for entry in pools.values {
            let count = entry.places.pool.tellPinned(pinned[ObjectIdentifier(entry)] ?? 0, of: index)
            let most = entry.pool.limits.serversMax
            if count * 2 < most { _ = entry.places.pool.tellFlooded(false) }
            guard count > 0, count * 5 >= most * 4, entry.places.pool.tellFlooded(true) else { continue }
            events.append(EventRecord(
                .pinFlood, database: entry.key.database, side: entry.key.side,
                cause: "pinned clients of user \"\(entry.key.user)\" keep most of the pool's servers; "
                    + "SHOW PINS says why",
                figures: [.init("pinned", Double(count)), .init("pool_size", Double(most))]))
        }
    }

    // MARK: limits over all threads

    /// What the settings say of one user.
    func userSettings(_ name: String) -> UserSettings? { snapshot.users[name] }

    private func maxUserConnections(_ user: String) -> Int {
        userSettings(user)?.maxUserConnections ?? snapshot.settings.limits.maxUserConnections
    }

    /// Counts a server in that is about to be opened. At a limit it takes the place of one that is idle elsewhere.
    private func takePlace(_ entry: PoolEntry) -> Bool {
        let databaseMax = entry.database.route.settings.pool.maxDBConnections
        let userMax = maxUserConnections(entry.key.user)
        while !entry.places.databaseServers.enter(max: databaseMax) {
            if !makeRoom(database: entry.key.database, user: nil, entry) { return false }
        }
        while !entry.places.userServers.enter(max: userMax) {
            if makeRoom(database: nil, user: entry.key.user, entry) { continue }
            if entry.places.databaseServers.leave() { tellOfFreePlace() }
            return false
        }
        return true
    }

    /// The same, where nobody has to give one up for it.
    func takeFreePlace(_ entry: PoolEntry) -> Bool {
        let (places, databaseMax) = (entry.places, entry.database.route.settings.pool.maxDBConnections)
        if !places.databaseServers.enter(max: databaseMax, waits: false) { return false }
        if places.userServers.enter(max: maxUserConnections(entry.key.user), waits: false) { return true }
        if places.databaseServers.leave() { tellOfFreePlace() }
        return false
    }

    private func leavePlace(_ entry: PoolEntry) { leave(entry.places) }

    func leave(_ places: PoolPlaces) {
        // Both, whether or not somebody waits for the first.
        let wasDatabaseWanted = places.databaseServers.leave()
        if places.userServers.leave() || wasDatabaseWanted { tellOfFreePlace() }
    }

    private func tellOfFreePlace() { for peer in peers { peer.post(.slotsFreed) } }

    private func makeRoom(database: String?, user: String?, _ entry: PoolEntry) -> Bool {
        if evictIdle(database: database, user: user, side: entry.key.side, but: entry) { return true }
        for (number, peer) in peers.enumerated() where number != index {
            peer.post(.evict(database: database, user: user, side: entry.key.side))
        }
        return false
    }

    /// Closes the server that has been idle longest among those pools.
    func evictIdle(database: String?, user: String?, side: Side, but spared: PoolEntry?) -> Bool {
        var oldest: ServerConnection?
        for entry in pools.values where entry !== spared && entry.key.side == side && entry.pool.waitingCount == 0 {
            if let database, !entry.key.database.hasSameBytes(as: database) { continue }
            if let user, !entry.key.user.hasSameBytes(as: user) { continue }
            guard let id = entry.pool.idleServers.first, let server = servers[id] else { continue }
            if oldest.map({ server.leasedAt < $0.leasedAt }) ?? true { oldest = server }
        }
        oldest?.close()
        return oldest != nil
    }

    /// Another pool, here or on another thread, lacks the place of a server that nobody needs here now.
    private func yieldPlace(_ entry: PoolEntry) {
        // Cheap and nearly always false: this is run for every batch of events.
        let (ofDatabase, ofUser) = (entry.places.databaseServers, entry.places.userServers)
        guard ofDatabase.isWanted || ofUser.isWanted, entry.pool.waitingCount == 0,
            let id = entry.pool.idleServers.first
        else { return }
        let isWanted = entry.database.route.settings.pool.maxDBConnections > 0 && ofDatabase.isWanted
            || maxUserConnections(entry.key.user) > 0 && ofUser.isWanted
        if isWanted { servers[id]?.close() }
    }
}
