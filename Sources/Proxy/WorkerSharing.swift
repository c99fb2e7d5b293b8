import Console
import PGWire
import Pooling
import Primitives
import Reactor
import Sessions

/// A server between two threads. It belongs to the message that it is in.
///
/// Unchecked: the one thread has let go of all that is in it before it is posted.
final class MovedServer: @unchecked Sendable {
    let key: PoolKey
    let places: PoolPlaces
    let connection: ServerConnection.Parts

    init(_ key: PoolKey, _ places: PoolPlaces, _ connection: ServerConnection.Parts) {
        self.key = key
        self.places = places
        self.connection = connection
    }
}

/// What the servers of a pool are counted in, over all threads.
struct PoolPlaces {
    /// Of its side, over all pools of the database and of the user.
    let databaseServers: SharedCount
    let userServers: SharedCount
    let pool: SharedPlaces

    init(_ key: PoolKey, _ ledger: ConnectionLedger) {
        databaseServers = ledger.count(.databaseServers(ExactName(key.database), key.side))
        userServers = ledger.count(.userServers(ExactName(key.user), key.side))
        pool = ledger.places(key)
    }
}

/// One pool on several threads: each has servers of its own, and a server goes to the thread whose clients lack one.
/// They do not share servers otherwise, for which each unit would need a lock.
extension Worker {
    /// Clients of another thread that have waited so much longer than this thread's get its servers first: near enough
    /// to one queue for all, without moving a server for each unit while all threads are busy.
    private static let fairnessNanos: UInt64 = 10_000_000
    /// A client that waits for so long gets a server that is idle on another thread. Most get one of their own thread's
    /// sooner, and to move one costs what several units do.
    private static let graceNanos: UInt64 = 2_000_000

    /// Before free servers are given to clients of this thread.
    func shareFairly(_ entry: PoolEntry) {
        if peers.count == 1 || entry.isForgotten || entry.pool.idleCount == 0 { return }
        guard let own = entry.pool.oldestWaiter(), own.nanoseconds > Self.fairnessNanos else { return }
        giveAway(entry, toWaitingSince: MonotonicInstant(nanoseconds: own.nanoseconds - Self.fairnessNanos))
    }

    /// Somebody has waited for as long as it takes to have another thread's server.
    func askOthers() {
        sharesAt = nil
        for entry in pools.values where entry.pool.lackingCount > 0 { serveLater(entry) }
    }

    /// When all is done that this thread can do for its clients.
    func shareRest(_ entry: PoolEntry) {
        settlePlaces(entry)
        if peers.count == 1 || entry.isForgotten { return }
        let isOverdue = tellPlaces(entry)
        if entry.pool.lackingCount > 0 {
            if !isOverdue { return }
            for _ in 0..<entry.pool.lackingCount {
                guard let peer = entry.places.pool.takeIdle(but: index) else { return }
                peers[peer].post(.serverWanted(entry.key, by: index))
            }
        } else if entry.pool.waitingCount == 0 && entry.pool.idleCount > 0 {
            giveAway(entry, toWaitingSince: MonotonicInstant(nanoseconds: .max))
        }
    }

    /// A lack is told of only when it is old enough. Others need no clock then, which differs from thread to thread by
    /// what they do in one turn: one that asked a moment before a server came free might never be seen.
    private func overdueSince(_ entry: PoolEntry) -> MonotonicInstant? {
        guard entry.pool.lackingCount > 0, let oldest = entry.pool.oldestWaiter() else { return nil }
        let due = MonotonicInstant(nanoseconds: oldest.nanoseconds + Self.graceNanos)
        if due <= now { return oldest }
        sharesAt = min(due, sharesAt ?? due)
        return nil
    }

    /// - Returns: whether it lacks servers that others should see to.
    @discardableResult
    private func tellPlaces(_ entry: PoolEntry) -> Bool {
        let since = overdueSince(entry)
        entry.places.pool.tell(
            of: index, lackingSince: since, idle: entry.database.hold == .all ? 0 : entry.pool.idleCount,
            open: entry.pool.serverCount - entry.pool.connectingCount)
        return since != nil
    }

    private func giveAway(_ entry: PoolEntry, toWaitingSince limit: MonotonicInstant) {
        if entry.database.hold == .all { return }
        while entry.pool.idleCount > 0, let lack = entry.places.pool.takeLacking(but: index, sinceBefore: limit) {
            if !give(entry, to: lack.thread) { return entry.places.pool.putBack(lack) }
            tellPlaces(entry)
        }
    }

    /// Another thread's clients wait for a server that this one had no use for.
    func serverWanted(_ key: PoolKey, by thread: Int) {
        guard let entry = pools[key], !gate.isSuspended, entry.database.hold != .all else { return }
        if entry.pool.waitingCount == 0 && entry.pool.idleCount > 0 { _ = give(entry, to: thread) }
        serveLater(entry)
    }

    private func give(_ entry: PoolEntry, to thread: Int) -> Bool {
        for id in entry.pool.idleServers.reversed() {
            guard let server = servers[id], let parts = server.takeApart() else { continue }
            servers[id] = nil
            keepUntilBatchEnds(server)
            entry.pool.serverClosed(id)
            // Its place goes with it.
            entry.placesTold -= 1
            peers[thread].post(.serverMoved(MovedServer(entry.key, entry.places, parts)))
            return true
        }
        return false
    }

    /// It is this thread's from now on, unless new ones would not be like it any more.
    func serverMoved(_ moved: MovedServer) {
        let parts = moved.connection
        guard let database = databases[moved.key.database], database.hold != .all,
            database.route.endpoint(moved.key.side) == parts.endpoint,
            parts.isReadOnly == (moved.key.side != database.authority), parts.openedAt >= database.reconnectedAt
        else { return closeMoved(moved) }
        let entry = poolEntry(database, user: moved.key.user, side: moved.key.side)
        let server = ServerConnection(ServerID(nextID()), parts, entry, worker: self)
        servers[server.id] = server
        // Clients whose thread has opened none as yet are greeted by it.
        database.noteGreeting(of: server)
        entry.placesTold += 1
        entry.pool.serverAdopted(server.id, openedAt: parts.openedAt, isLeased: parts.hasStatements, now: now)
        // Each thread has names of its own for statements.
        if parts.hasStatements { server.settle(with: "DEALLOCATE ALL") } else { serveLater(entry) }
    }

    private func closeMoved(_ moved: MovedServer) {
        let parts = moved.connection
        var stream = ByteStream(SocketDescriptor(owning: parts.descriptor), resuming: parts.tls, scratch)
        stream.queue(ServerConnection.goodbye)
        _ = stream.flush()
        stream.shutdown()
        moved.places.pool.add(-1)
        leave(moved.places)
        tellOfPlaces(moved.key, moved.places)
        // Whose clients wait for it still.
        if let entry = pools[moved.key] { serveLater(entry) }
    }

    /// The thread has no use for the pool any more.
    func forget(_ entry: PoolEntry) {
        entry.isForgotten = true
        entry.places.pool.tell(of: index, lackingSince: nil, idle: 0, open: 0)
        _ = entry.places.pool.tellPinned(0, of: index)
    }

    // MARK: places

    /// Servers that have come into the pool or left it otherwise than through `claimPlaces` count for all threads.
    ///
    /// - Parameter isTold: threads that lack servers hear of places that have become free.
    func settlePlaces(_ entry: PoolEntry, isTold: Bool = true) {
        let change = entry.pool.serverCount - entry.placesTold
        if change == 0 { return }
        entry.placesTold += change
        entry.places.pool.add(change)
        if change < 0 && isTold { tellOfPlaces(entry.key, entry.places) }
    }

    private func tellOfPlaces(_ key: PoolKey, _ places: PoolPlaces) {
        for thread in places.pool.lacking(but: index) { peers[thread].post(.placesFreed(key)) }
    }

    /// Of the servers that the pool would open now, those that there is a place for.
    func claimPlaces(_ entry: PoolEntry) -> Int {
        let wanted = entry.pool.serversToOpen(now: now)
        if wanted == 0 { return 0 }
        let granted = entry.places.pool.take(wanted, most: entry.pool.serversMost(now: now))
        entry.placesTold += granted
        for _ in granted..<wanted { entry.pool.openForbidden() }
        return granted
    }

    /// A server is at work for somebody, on whichever thread: who waits for one on this thread may wait for that.
    func hasServersAtWork(_ entry: PoolEntry) -> Bool {
        entry.pool.leasedCount > 0 || entry.places.pool.isOpen(but: index)
    }

    /// There are more than there may be, over all threads.
    func isOverfull(_ entry: PoolEntry) -> Bool {
        entry.places.pool.taken > entry.pool.limits.serversMax + entry.pool.limits.reserveMax
    }
}
