import Configuration
import Logging
import Primitives

/// Units that wait, within bounds, for what another thread finds out.
extension Worker {
    // MARK: for NEW to have what was committed

    func awaitHorizon(_ client: ClientConnection, _ batch: UInt64, _ database: DatabaseState, millis: UInt64) {
        horizonWaiters.append(HorizonWaiter(client: client, batch: batch, horizon: database.route.horizon))
        database.route.horizon.kick()
        client.horizonWait = nextToken()
        schedule(.horizonWait(client.id, wait: client.horizonWait), at: now.advanced(byMillis: millis))
        checkHorizons()
    }

    func awaitCommit(_ client: ClientConnection, _ batch: UInt64, _ database: DatabaseState) {
        commitWaiters.append(HorizonWaiter(client: client, batch: batch, horizon: database.route.horizon))
        client.commitWait = nextToken()
        let seconds = database.route.settings.mirror.syncWaitSeconds
        schedule(.commitWait(client.id, wait: client.commitWait), at: now.advanced(bySeconds: seconds))
        // Announced before it is looked: a batch that ends in between wakes us again.
        database.route.horizon.announceWaiter()
        if database.route.horizon.applied >= batch { client.commitReached(inTime: true) }
    }

    func checkCommits() {
        if commitWaiters.isEmpty { return }
        let waiters = commitWaiters
        commitWaiters = []
        for waiter in waiters { waiter.horizon.announceWaiter() }
        // A later commit of the same client has a waiter of its own.
        for waiter in waiters where waiter.client.batchAwaited == waiter.batch {
            if waiter.horizon.applied >= waiter.batch {
                waiter.client.commitReached(inTime: true)
            } else {
                commitWaiters.append(waiter)
            }
        }
    }

    func checkHorizons() {
        if horizonWaiters.isEmpty { return }
        let waiters = horizonWaiters
        horizonWaiters = []
        // Announced before it is looked: a batch that ends in between wakes us again.
        for waiter in waiters { waiter.horizon.announceWaiter() }
        for waiter in waiters where waiter.client.phase == .awaitingHorizon {
            if waiter.horizon.applied >= waiter.batch || !waiter.horizon.readable {
                waiter.client.horizonReached(inTime: waiter.horizon.applied >= waiter.batch)
            } else {
                horizonWaiters.append(waiter)
            }
        }
    }

    // MARK: for who takes the writes (see `WriteLease`)

    /// Who takes the writes is found out within that, or not at all: then the fence decides.
    private static let lapsePatienceNanos: UInt64 = 15_000_000_000
    private static let lapseLookMillis: UInt64 = 20

    /// Whether a unit that may write is to wait.
    func holdsForLease(_ database: DatabaseState) -> Bool {
        guard database.route.lease.hasRunOut(at: now, epoch: database.route.epoch) else {
            database.lapseSeenAt = nil
            return false
        }
        let since = database.lapseSeenAt ?? now
        if database.lapseSeenAt == nil {
            database.lapseSeenAt = now
            logger.warning("""
                writes of "\(database.name)" wait: other Godwits have had no sign of this one for a while, \
                and may have moved them
                """)
        }
        if now.nanoseconds(since: since) > Self.lapsePatienceNanos { return false }
        if !database.awaitsLease {
            database.awaitsLease = true
            schedule(.lease(database.name), at: now.advanced(byMillis: Self.lapseLookMillis))
        }
        return true
    }

    /// Who waits is routed anew; who must go on waiting is held again.
    func lookAtLease(_ database: DatabaseState) {
        database.awaitsLease = false
        guard database.hold == nil else { return }
        if holdsForLease(database) { return }
        for client in database.held.takeAll() { client.leaveHold() }
    }
}
