import Configuration
import Logging
import Primitives
import Sessions

/// Units that wait, within bounds, for what another thread finds out.
extension Worker {
    // MARK: for NEW to have what was committed

    func awaitHorizon(_ client: ClientConnection, _ batch: UInt64, _ database: DatabaseState, millis: UInt64) {
        client.horizonWait = nextToken()
        horizonWaiters.append(HorizonWaiter(
            client: client, batch: batch, horizon: database.route.horizon, wait: client.horizonWait))
        database.route.horizon.kick()
        schedule(.horizonWait(client.id, wait: client.horizonWait), at: now.advanced(byMillis: millis))
        checkHorizons()
    }

    func awaitCommit(_ client: ClientConnection, _ batch: UInt64, _ database: DatabaseState) {
        client.commitWait = nextToken()
        commitWaiters.append(HorizonWaiter(
            client: client, batch: batch, horizon: database.route.horizon, wait: client.commitWait))
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
        for waiter in waiters
        where waiter.client.phase == .awaitingHorizon && waiter.client.horizonWait == waiter.wait {
            if waiter.horizon.applied >= waiter.batch || !waiter.horizon.readable {
                waiter.client.horizonReached(waiter.horizon.applied >= waiter.batch ? waiter.batch : nil)
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
        for client in database.held.takeAll(of: clients) { client.leaveHold() }
    }
}

extension ClientConnection {
    /// Nanoseconds that reads go elsewhere before one waits.
    private static var diversionNanosMax: UInt64 { 10_000_000 }
    /// After a wait in vain nobody waits for so long.
    private static var waitPauseMillis: UInt64 { 1000 }

    /// A read that NEW cannot answer yet goes to the authority; but one after the other would never come back, for the
    /// authority shows ever more than NEW has. So after a while one waits for NEW instead.
    func waits(for batch: UInt64, _ database: DatabaseState) -> Bool {
        let settings = database.route.settings.reads
        if unit.hasWaited || settings.consistencyWaitMillis == 0 { return false }
        if !database.isMirrored || server != nil { return false }
        // A NEW that is down, or too far behind for a wait to help, must not slow reads that OLD can answer.
        if worker.now < database.waitsAgainAt || !database.route.horizon.report.state.isCurrent { return false }
        let since = divertedSince ?? worker.now
        divertedSince = since
        let isLong = worker.now.nanoseconds(since: since) > Self.diversionNanosMax
        guard settings.consistency == .global || isLong else { return false }
        if database.health.isOtherOpen {
            // But where every read would have to wait, nothing but one that does can find out that NEW is back.
            guard database.health.takesProbes(now: worker.now) else { return false }
            database.waitsAgainAt = worker.now.advanced(byMillis: UInt64(settings.consistencyWaitMillis))
        }
        phase = .awaitingHorizon
        worker.awaitHorizon(self, batch, database, millis: UInt64(settings.consistencyWaitMillis))
        return true
    }

    /// NEW may have begun to be copied to anew while the unit waited for a server, or for that to be set up.
    ///
    /// - Returns: whether the unit goes to the authority instead.
    func leavesUnreadable(_ server: ServerConnection) -> Bool {
        guard server.isReadOnly, database?.route.horizon.readable == false else { return false }
        self.server = nil
        server.release()
        sideFailed(isOwnTrouble: true)
        return true
    }

    /// NEW has caught up, or has taken too long: the unit is routed again, and does not wait again.
    ///
    /// - Parameter batch: what it has waited for; nil: NEW has not got it.
    func horizonReached(_ batch: UInt64?) {
        guard phase == .awaitingHorizon else { return }
        phase = .idle
        if unit.carriesBegin { lazy = nil }
        let inTime = batch != nil
        database?.waitsAgainAt = inTime ? worker.now : worker.now.advanced(byMillis: Self.waitPauseMillis)
        let hasReplayed = unit.isReplay
        scanner = UnitScanner(packetMax: worker.packetMax)
        unit = Unit()
        unit.isReplay = hasReplayed
        unit.hasWaited = true
        unit.batchReached = batch
        isForcedToAuthority = !inTime && database?.route.settings.reads.consistency == .global
        resumeSoon()
    }
}
