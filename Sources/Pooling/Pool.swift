import Primitives

/// Who holds which server of one pool. Pure: it says what to open, close and hand over; the Worker does it.
///
/// Rules: open servers (idle, leased, logging in) never exceed the limit, and the reserve beyond it is for clients that
/// have waited long; a free server goes to the client that has
/// waited longest; an idle server is reused last in, first out, so that unneeded ones grow old and are closed.
@usableFromInline package struct Pool: ~Copyable {
    package enum Request: Equatable, Sendable {
        /// Take this one; it is yours until `release` or `serverClosed`.
        case lease(ServerID)
        /// Queued.
        case wait
        /// As many clients as the limit allows wait already.
        case refused
    }

    @usableFromInline @frozen struct Idle {
        @usableFromInline var server: ServerID
        @usableFromInline var since: MonotonicInstant
    }

    // What is asked for each unit is inlined into its caller: called, it would copy the whole pool first.
    @usableFromInline package internal(set) var limits: PoolLimits
    /// Whether the least number of servers is to be kept open.
    package var keepsMinimum = false
    @usableFromInline var idle: [Idle] = []
    /// When each was opened: nothing that is asked for each unit looks into it.
    @usableFromInline var servers: [ServerID: MonotonicInstant] = [:]
    /// None was opened before this, so that none need be looked up to be found too old.
    private var oldestOpenedAt = MonotonicInstant(nanoseconds: .max)
    @usableFromInline package internal(set) var connectingCount = 0
    @usableFromInline var waiters: WaiterQueue
    /// Connection attempts that failed in a row, and when the next may start.
    private var failuresInRow = 0
    @usableFromInline var retryAt = MonotonicInstant(nanoseconds: 0)
    /// Attempts at once; after failures one finds out whether it works again, and each success doubles it, so that a
    /// server that comes back is not met by all of us together. nil: as many as there is room for.
    private var attemptsMax: Int?
    /// The side is to be reached again although nobody waits.
    @usableFromInline package var keepsTrying = false

    package init(limits: PoolLimits) {
        self.limits = limits
        waiters = WaiterQueue(bound: limits.waitersMax)
    }

    @inlinable package var idleCount: Int { idle.count }
    /// Those that are not idle are with clients.
    @inlinable package var leasedCount: Int { servers.count - idle.count }
    @inlinable package var waitingCount: Int { waiters.count }
    /// Open servers and logins under way.
    @inlinable package var serverCount: Int { servers.count + connectingCount }

    /// Clients that wait for more servers than are idle or coming.
    @inlinable package var lackingCount: Int { max(0, waiters.count - connectingCount - idle.count) }

    package mutating func oldestWaiter() -> MonotonicInstant? { waiters.oldest() }

    // MARK: clients

    package mutating func acquire(_ client: ClientID, now: MonotonicInstant) -> Request {
        // Those who wait go first: a newcomer takes an idle server only when nobody does.
        if waiters.isEmpty, let last = idle.popLast() { return .lease(last.server) }
        return waiters.append(client, now: now) ? .wait : .refused
    }

    /// The client does not want a server any more. Returns whether it waited.
    package mutating func abandon(_ client: ClientID) -> Bool { waiters.remove(client) }

    /// Pairs waiting clients with idle servers, oldest first. Called at the end of each batch of events.
    package mutating func nextPair() -> (client: ClientID, server: ServerID)? {
        if idle.isEmpty || waiters.isEmpty { return nil }
        guard let waiter = waiters.popFirst(), let last = idle.popLast() else { return nil }
        return (waiter.client, last.server)
    }

    /// Takes those who have waited too long.
    package mutating func expireWaiters(now: MonotonicInstant) -> [ClientID] {
        if limits.waitMaxNanos == 0 { return [] }
        var expired: [ClientID] = []
        while let since = waiters.oldest(), now.nanoseconds(since: since) >= limits.waitMaxNanos {
            if let waiter = waiters.popFirst() { expired.append(waiter.client) }
        }
        return expired
    }

    /// Takes those who have waited since before `limit`.
    package mutating func takeWaiters(sinceBefore limit: MonotonicInstant) -> [ClientID] {
        var late: [ClientID] = []
        while let since = waiters.oldest(), since < limit {
            if let waiter = waiters.popFirst() { late.append(waiter.client) }
        }
        return late
    }

    package mutating func takeAllWaiters() -> [ClientID] { waiters.removeAll() }

    // MARK: servers

    /// How many servers to open now. The caller opens them; each ends in `serverOpened` or `openFailed`.
    package mutating func serversToOpen(now: MonotonicInstant) -> Int {
        if now < retryAt { return 0 }
        let room = serversMost(now: now) - serverCount
        let most = attemptsMax.map { $0 - connectingCount } ?? room
        var missing = keepsMinimum ? min(limits.serversMin, limits.serversMax) - serverCount : 0
        if keepsTrying && idle.isEmpty { missing = max(missing, 1 - connectingCount) }
        let wanted = max(0, min(max(waiters.count - connectingCount - idle.count, missing), most, room))
        connectingCount += wanted
        return wanted
    }

    /// Servers that there may be now.
    package mutating func serversMost(now: MonotonicInstant) -> Int {
        limits.serversMax + (isReserveDue(now: now) ? limits.reserveMax : 0)
    }

    /// When `serversToOpen` should be asked again because of a pause after failures; nil when there is none.
    @inlinable package func retryTime(now: MonotonicInstant) -> MonotonicInstant? {
        (!waiters.isEmpty || keepsTrying) && now < retryAt ? retryAt : nil
    }

    /// The pause after a failure is not over.
    @inlinable package func isPaused(now: MonotonicInstant) -> Bool { now < retryAt }

    private mutating func isReserveDue(now: MonotonicInstant) -> Bool {
        guard limits.reserveMax > 0, let since = waiters.oldest() else { return false }
        return now.nanoseconds(since: since) >= limits.reserveAfterNanos
    }

    /// When the reserve becomes due for those who wait; nil when it is already, or there is none.
    package mutating func reserveTime(now: MonotonicInstant) -> MonotonicInstant? {
        guard limits.reserveMax > 0, let since = waiters.oldest() else { return nil }
        let due = MonotonicInstant(nanoseconds: since.nanoseconds + limits.reserveAfterNanos)
        return due > now ? due : nil
    }

    /// What `serversToOpen` allowed is not opened after all: another limit forbids it.
    package mutating func openForbidden() {
        precondition(connectingCount > 0, "an opening that nobody wanted")
        connectingCount -= 1
    }

    package mutating func serverOpened(_ server: ServerID, now: MonotonicInstant) {
        precondition(connectingCount > 0, "a server that nobody opened")
        connectingCount -= 1
        failuresInRow = 0
        keepsTrying = false
        if let most = attemptsMax { attemptsMax = most * 2 < limits.serversMax ? most * 2 : nil }
        retryAt = MonotonicInstant(nanoseconds: 0)
        add(server, openedAt: now)
        idle.append(Idle(server: server, since: now))
    }

    private mutating func add(_ server: ServerID, openedAt: MonotonicInstant) {
        servers[server] = openedAt
        oldestOpenedAt = min(oldestOpenedAt, openedAt)
    }

    /// A server that was opened outside of the pool is in it from now on.
    ///
    /// - Parameters:
    ///   - openedAt: when, in whatever pool.
    ///   - isLeased: it is idle only when it is released.
    package mutating func serverAdopted(
        _ server: ServerID, openedAt: MonotonicInstant, isLeased: Bool = false, now: MonotonicInstant
    ) {
        precondition(servers[server] == nil, "a server that is in the pool already")
        add(server, openedAt: openedAt)
        if !isLeased { idle.append(Idle(server: server, since: now)) }
    }

    /// - Parameters:
    ///   - pauses: false: the next attempt may follow at once, for something else decides on it.
    ///   - spread: at random, 0...1: pools that failed together do not try again together.
    package mutating func openFailed(now: MonotonicInstant, pauses: Bool, spread: Double) {
        precondition(connectingCount > 0, "a failure that nobody waited for")
        connectingCount -= 1
        // Attempts that began together fail together: one outage is one failure, not one for each server.
        if now < retryAt { return }
        failuresInRow = min(failuresInRow + 1, 30)
        attemptsMax = 1
        if !pauses { return }
        let pause = min(limits.retryMaxNanos, (limits.retryMaxNanos / 128) << UInt64(min(failuresInRow - 1, 7)))
        let spreadPause = UInt64(Double(pause) * (0.75 + 0.25 * spread))
        retryAt = MonotonicInstant(nanoseconds: now.nanoseconds + spreadPause)
    }

    /// - Returns: false when the server is too old to be kept: the caller closes it and says `serverClosed`.
    package mutating func release(_ server: ServerID, now: MonotonicInstant) -> Bool {
        precondition(leasedCount > 0, "a server that was not leased")
        assert(servers[server] != nil, "another pool's server")
        assert(!idle.contains { $0.server == server }, "a server that is idle already")
        if serverCount > limits.serversMax + limits.reserveMax || isTooOld(server, now: now) { return false }
        idle.append(Idle(server: server, since: now))
        return true
    }

    /// A server that was idle or leased is gone.
    package mutating func serverClosed(_ server: ServerID) {
        let removed = servers.removeValue(forKey: server)
        precondition(removed != nil, "a server that is not of this pool")
        if let place = idle.firstIndex(where: { $0.server == server }) { idle.remove(at: place) }
        oldestOpenedAt = servers.values.min() ?? MonotonicInstant(nanoseconds: .max)
    }

    /// Idle servers whose time is over; the caller closes each and says `serverClosed`.
    package func expiredServers(now: MonotonicInstant) -> [ServerID] {
        var spare = keepsMinimum ? max(0, serverCount - limits.serversMin) : serverCount
        return idle.filter { entry in
            if isTooOld(entry.server, now: now) {
                spare -= 1
                return true
            }
            guard limits.idleMaxNanos > 0, now.nanoseconds(since: entry.since) >= limits.idleMaxNanos, spare > 0
            else { return false }
            spare -= 1
            return true
        }.map(\.server)
    }

    /// Idle servers, oldest first: for a reload that changes where they lead.
    package var idleServers: [ServerID] { idle.map(\.server) }

    package mutating func apply(_ limits: PoolLimits) {
        waiters.set(bound: limits.waitersMax)
        self.limits = limits
    }

    @inline(__always)
    private func isTooOld(_ server: ServerID, now: MonotonicInstant) -> Bool {
        let limit = limits.lifetimeMaxNanos
        if limit == 0 || now.nanoseconds(since: oldestOpenedAt) < limit { return false }
        return servers[server].map { now.nanoseconds(since: $0) >= limit } == true
    }
}
