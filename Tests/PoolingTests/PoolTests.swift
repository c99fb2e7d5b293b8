import Pooling
import Primitives
import Testing

@Suite struct PoolTests {
    private static let second: UInt64 = 1_000_000_000

    static func limits(
        servers: Int = 2, waiters: Int = 10, wait: UInt64 = 0, idle: UInt64 = 0, lifetime: UInt64 = 0,
        retry: UInt64 = 12_800
    ) -> PoolLimits {
        PoolLimits(
            serversMax: servers, waitersMax: waiters, waitMaxNanos: wait, idleMaxNanos: idle,
            lifetimeMaxNanos: lifetime, retryMaxNanos: retry)
    }

    private func at(_ nanoseconds: UInt64) -> MonotonicInstant { MonotonicInstant(nanoseconds: nanoseconds) }

    /// A pool with `count` idle servers, numbered from 1, all opened at instant 0.
    private func pool(_ limits: PoolLimits, idle count: Int) -> Pool {
        var pool = Pool(limits: limits)
        for client in 0..<count { _ = pool.acquire(ClientID(UInt64(1_000 + client)), now: at(0)) }
        #expect(pool.serversToOpen(now: at(0)) == count)
        for client in 0..<count { _ = pool.abandon(ClientID(UInt64(1_000 + client))) }
        for server in 0..<count { pool.serverOpened(ServerID(UInt64(server + 1)), now: at(0)) }
        #expect(pool.idleCount == count)
        return pool
    }

    @Test func `a reload changes how many may wait, and who waits already goes on`() {
        var pool = Pool(limits: Self.limits(waiters: 2))
        for client in 0..<2 { #expect(pool.acquire(ClientID(UInt64(client)), now: at(0)) == .wait) }
        #expect(pool.acquire(ClientID(2), now: at(0)) == .refused)
        pool.apply(Self.limits(waiters: 5))
        for client in 2..<5 { #expect(pool.acquire(ClientID(UInt64(client)), now: at(0)) == .wait) }
        #expect(pool.acquire(ClientID(5), now: at(0)) == .refused)
        pool.apply(Self.limits(waiters: 1))
        #expect(pool.acquire(ClientID(6), now: at(0)) == .refused)
        #expect(pool.takeAllWaiters() == (0..<5).map { ClientID(UInt64($0)) })
        #expect(pool.acquire(ClientID(7), now: at(0)) == .wait)
        #expect(pool.acquire(ClientID(8), now: at(0)) == .refused)
    }

    @Test func `a client waits until a server has been opened for it`() {
        var pool = Pool(limits: Self.limits())
        #expect(pool.acquire(ClientID(1), now: at(0)) == .wait)
        #expect(pool.serversToOpen(now: at(0)) == 1)
        #expect(pool.serversToOpen(now: at(0)) == 0)
        #expect(pool.nextPair()?.client == nil)
        pool.serverOpened(ServerID(1), now: at(5))
        let pair = pool.nextPair()
        #expect(pair?.client == ClientID(1))
        #expect(pair?.server == ServerID(1))
        #expect(pool.release(ServerID(1), now: at(6)) == true)
        #expect(pool.acquire(ClientID(2), now: at(7)) == .lease(ServerID(1)))
    }

    @Test func `the server used last is used again`() {
        var pool = pool(Self.limits(servers: 3), idle: 3)
        #expect(pool.acquire(ClientID(1), now: at(1)) == .lease(ServerID(3)))
        #expect(pool.acquire(ClientID(2), now: at(1)) == .lease(ServerID(2)))
        #expect(pool.release(ServerID(3), now: at(2)) == true)
        #expect(pool.acquire(ClientID(3), now: at(3)) == .lease(ServerID(3)))
        #expect(pool.idleServers == [ServerID(1)])
    }

    @Test func `a newcomer does not overtake those who wait`() {
        var pool = pool(Self.limits(servers: 1), idle: 1)
        _ = pool.acquire(ClientID(1), now: at(1))
        #expect(pool.acquire(ClientID(2), now: at(2)) == .wait)
        #expect(pool.release(ServerID(1), now: at(3)) == true)
        #expect(pool.acquire(ClientID(3), now: at(3)) == .wait)
        #expect(pool.nextPair()?.client == ClientID(2))
        #expect(pool.nextPair()?.client == nil)
    }

    @Test(arguments: [1, 2, 17])
    func `a pool refuses when as many wait as may, and not before`(waitersMax: Int) {
        var pool = Pool(limits: Self.limits(waiters: waitersMax))
        for client in 0..<waitersMax { #expect(pool.acquire(ClientID(UInt64(client)), now: at(0)) == .wait) }
        #expect(pool.acquire(ClientID(100), now: at(0)) == .refused)
        #expect(pool.abandon(ClientID(0)) == true)
        #expect(pool.acquire(ClientID(100), now: at(0)) == .wait)
        #expect(pool.acquire(ClientID(101), now: at(0)) == .refused)
        #expect(pool.takeAllWaiters().count == waitersMax)
        #expect(pool.waitingCount == 0)
    }

    @Test func `a server that comes from elsewhere is as old as it was there, and idle when it is free`() {
        var pool = Pool(limits: Self.limits(lifetime: 10))
        _ = pool.acquire(ClientID(1), now: at(5))
        _ = pool.acquire(ClientID(2), now: at(5))
        #expect(pool.lackingCount == 2)
        #expect(pool.serversToOpen(now: at(5)) == 2)
        #expect(pool.lackingCount == 0, "they are coming")
        pool.openForbidden()
        pool.openForbidden()
        pool.serverAdopted(ServerID(7), openedAt: at(0), isLeased: true, now: at(5))
        #expect(pool.serverCount == 1 && pool.idleCount == 0 && pool.lackingCount == 2)
        #expect(pool.release(ServerID(7), now: at(6)) == true)
        #expect(pool.nextPair()?.server == ServerID(7))
        pool.serverAdopted(ServerID(8), openedAt: at(4), now: at(7))
        #expect(pool.nextPair()?.server == ServerID(8))
        #expect(pool.release(ServerID(7), now: at(12)) == false, "its lifetime is over")
        #expect(pool.release(ServerID(8), now: at(12)) == true)
    }

    @Test func `servers are opened for those who wait, up to the limit`() {
        var pool = Pool(limits: Self.limits(servers: 3))
        for client in 0..<2 { _ = pool.acquire(ClientID(UInt64(client)), now: at(0)) }
        #expect(pool.serversToOpen(now: at(0)) == 2)
        for client in 2..<8 { _ = pool.acquire(ClientID(UInt64(client)), now: at(0)) }
        #expect(pool.serversToOpen(now: at(0)) == 1)
        #expect(pool.serversToOpen(now: at(0)) == 0)
        #expect(pool.serverCount == 3)
    }

    @Test func `pauses between failed attempts double up to the maximum and end with a success`() {
        var pool = Pool(limits: Self.limits(retry: 12_800))
        _ = pool.acquire(ClientID(1), now: at(0))
        var now: UInt64 = 1
        for pause in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 12_800, 12_800] as [UInt64] {
            #expect(pool.serversToOpen(now: at(now)) == 1)
            #expect(pool.retryTime(now: at(now)) == nil)
            pool.openFailed(now: at(now), pauses: true, spread: 1)
            #expect(pool.retryTime(now: at(now)) == at(now + pause))
            #expect(pool.serversToOpen(now: at(now + pause - 1)) == 0)
            now += pause
        }
        #expect(pool.serversToOpen(now: at(now)) == 1)
        pool.serverOpened(ServerID(1), now: at(now))
        _ = pool.nextPair()
        _ = pool.acquire(ClientID(2), now: at(now))
        #expect(pool.serversToOpen(now: at(now)) == 1)
        pool.openFailed(now: at(now), pauses: true, spread: 1)
        #expect(pool.retryTime(now: at(now)) == at(now + 100))
    }

    @Test func `attempts that fail together are one failure, and one attempt finds out when it is over`() {
        var pool = Pool(limits: Self.limits(servers: 8))
        for client in 0..<8 { _ = pool.acquire(ClientID(UInt64(client)), now: at(0)) }
        #expect(pool.serversToOpen(now: at(0)) == 8)
        for _ in 0..<8 { pool.openFailed(now: at(10), pauses: true, spread: 1) }
        #expect(pool.retryTime(now: at(10)) == at(110))
        #expect(pool.serversToOpen(now: at(110)) == 1)
        #expect(pool.serversToOpen(now: at(111)) == 0)
        pool.serverOpened(ServerID(1), now: at(120))
        _ = pool.nextPair()
        // As many again for each that succeeds, so that it is not met by all of us together.
        #expect(pool.serversToOpen(now: at(120)) == 2)
        pool.serverOpened(ServerID(2), now: at(121))
        pool.serverOpened(ServerID(3), now: at(121))
        for _ in 0..<2 { _ = pool.nextPair() }
        #expect(pool.serversToOpen(now: at(121)) == 5)
    }

    @Test func `pauses are spread, and never longer than they would be`() {
        for (spread, pause) in [(0, 75), (0.5, 87), (1, 100)] as [(Double, UInt64)] {
            var pool = Pool(limits: Self.limits(retry: 12_800))
            _ = pool.acquire(ClientID(1), now: at(0))
            _ = pool.serversToOpen(now: at(0))
            pool.openFailed(now: at(0), pauses: true, spread: spread)
            #expect(pool.isPaused(now: at(pause - 1)) && !pool.isPaused(now: at(pause + 1)))
        }
    }

    @Test func `without a pause the next attempt follows at once, and still one at a time`() {
        var pool = Pool(limits: Self.limits(servers: 8, retry: 12_800))
        for client in 0..<8 { _ = pool.acquire(ClientID(UInt64(client)), now: at(0)) }
        _ = pool.serversToOpen(now: at(0))
        for _ in 0..<8 { pool.openFailed(now: at(0), pauses: false, spread: 1) }
        #expect(!pool.isPaused(now: at(0)) && pool.serversToOpen(now: at(0)) == 1)
    }

    @Test func `a side that is to be reached again is tried although nobody waits`() {
        var pool = Pool(limits: Self.limits(retry: 12_800))
        _ = pool.acquire(ClientID(1), now: at(0))
        _ = pool.serversToOpen(now: at(0))
        pool.openFailed(now: at(0), pauses: true, spread: 1)
        #expect(pool.takeAllWaiters() == [ClientID(1)])
        #expect(pool.retryTime(now: at(0)) == nil)
        pool.keepsTrying = true
        #expect(pool.retryTime(now: at(0)) == at(100))
        #expect(pool.serversToOpen(now: at(100)) == 1)
        #expect(pool.serversToOpen(now: at(100)) == 0)
        pool.serverOpened(ServerID(1), now: at(101))
        #expect(pool.keepsTrying == false)
    }

    @Test func `who has waited since before a time is taken, oldest first`() {
        var pool = Pool(limits: Self.limits())
        for (client, time) in [(1, 1), (2, 2), (3, 3)] as [(UInt64, UInt64)] {
            _ = pool.acquire(ClientID(client), now: at(time))
        }
        #expect(pool.takeWaiters(sinceBefore: at(1)) == [])
        #expect(pool.takeWaiters(sinceBefore: at(3)) == [ClientID(1), ClientID(2)])
        #expect(pool.waitingCount == 1)
    }

    @Test func `nobody who waits means no retry`() {
        var pool = Pool(limits: Self.limits())
        _ = pool.acquire(ClientID(1), now: at(0))
        _ = pool.serversToOpen(now: at(0))
        pool.openFailed(now: at(0), pauses: true, spread: 1)
        _ = pool.abandon(ClientID(1))
        #expect(pool.retryTime(now: at(0)) == nil)
        #expect(pool.serversToOpen(now: at(1_000_000)) == 0)
    }

    @Test func `who has waited to the limit is sent away, and who has not stays`() {
        var pool = Pool(limits: Self.limits(wait: 100))
        _ = pool.acquire(ClientID(1), now: at(0))
        _ = pool.acquire(ClientID(2), now: at(0))
        _ = pool.acquire(ClientID(3), now: at(1))
        #expect(pool.expireWaiters(now: at(99)) == [])
        #expect(pool.expireWaiters(now: at(100)) == [ClientID(1), ClientID(2)])
        #expect(pool.oldestWaiter() == at(1))
        #expect(pool.expireWaiters(now: at(101)) == [ClientID(3)])
        #expect(pool.oldestWaiter() == nil)
    }

    @Test func `without limits nobody is sent away and nothing expires`() {
        var pool = pool(Self.limits(servers: 1), idle: 1)
        #expect(pool.expiredServers(now: at(.max)) == [])
        _ = pool.acquire(ClientID(1), now: at(0))
        _ = pool.acquire(ClientID(2), now: at(0))
        #expect(pool.expireWaiters(now: at(.max)) == [])
        #expect(pool.release(ServerID(1), now: at(.max)) == true)
    }

    @Test func `a server that was idle to the limit expires`() {
        var pool = pool(Self.limits(idle: 100), idle: 2)
        _ = pool.acquire(ClientID(1), now: at(10))
        #expect(pool.release(ServerID(2), now: at(50)) == true)
        #expect(pool.expiredServers(now: at(99)) == [])
        #expect(pool.expiredServers(now: at(100)) == [ServerID(1)])
        #expect(pool.expiredServers(now: at(150)) == [ServerID(1), ServerID(2)])
        pool.serverClosed(ServerID(1))
        #expect(pool.idleServers == [ServerID(2)])
    }

    @Test func `a server that has lived to the limit expires when idle and is not taken back when leased`() {
        var pool = pool(Self.limits(lifetime: 100), idle: 2)
        _ = pool.acquire(ClientID(1), now: at(10))
        #expect(pool.expiredServers(now: at(99)) == [])
        #expect(pool.expiredServers(now: at(100)) == [ServerID(1)])
        #expect(pool.release(ServerID(2), now: at(100)) == false)
        pool.serverClosed(ServerID(2))
        #expect(pool.serverCount == 1)
        #expect(pool.leasedCount == 0)
    }

    @Test func `a young server is taken back beside an old one`() {
        var pool = pool(Self.limits(servers: 2, lifetime: 100), idle: 1)
        pool.serverAdopted(ServerID(7), openedAt: at(90), isLeased: true, now: at(95))
        #expect(pool.leasedCount == 1)
        #expect(pool.release(ServerID(7), now: at(150)) == true)
        #expect(pool.expiredServers(now: at(150)) == [ServerID(1)])
        pool.serverClosed(ServerID(1))
        #expect(pool.expiredServers(now: at(189)) == [])
        #expect(pool.expiredServers(now: at(190)) == [ServerID(7)])
        #expect(pool.leasedCount == 0)
    }

    @Test func `a smaller limit lets servers go as they are given back`() {
        var pool = pool(Self.limits(servers: 3), idle: 3)
        for client in 1...3 { _ = pool.acquire(ClientID(UInt64(client)), now: at(1)) }
        pool.apply(Self.limits(servers: 1))
        #expect(pool.release(ServerID(1), now: at(2)) == false)
        pool.serverClosed(ServerID(1))
        #expect(pool.release(ServerID(2), now: at(2)) == false)
        pool.serverClosed(ServerID(2))
        #expect(pool.release(ServerID(3), now: at(2)) == true)
        #expect(pool.serverCount == 1)
    }

    @Test func `giving back what was not leased is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var pool = Pool(limits: PoolTests.limits())
            _ = pool.release(ServerID(1), now: MonotonicInstant(nanoseconds: 0))
        }
    }

    @Test func `closing a server twice is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var pool = Pool(limits: PoolTests.limits())
            _ = pool.acquire(ClientID(1), now: MonotonicInstant(nanoseconds: 0))
            _ = pool.serversToOpen(now: MonotonicInstant(nanoseconds: 0))
            pool.serverOpened(ServerID(1), now: MonotonicInstant(nanoseconds: 0))
            pool.serverClosed(ServerID(1))
            pool.serverClosed(ServerID(1))
        }
    }

    @Test func `a server that nobody opened is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var pool = Pool(limits: PoolTests.limits())
            pool.serverOpened(ServerID(1), now: MonotonicInstant(nanoseconds: 0))
        }
    }

    // MARK: the reserve and the least

    private func limits(min: Int = 0, reserve: Int = 0, after: UInt64 = 0, idle: UInt64 = 0) -> PoolLimits {
        PoolLimits(
            serversMax: 1, waitersMax: 10, waitMaxNanos: 0, idleMaxNanos: idle, lifetimeMaxNanos: 0, retryMaxNanos: 0,
            serversMin: min, reserveMax: reserve, reserveAfterNanos: after)
    }

    @Test func `the reserve is for those who have waited long`() {
        var pool = pool(limits(reserve: 2, after: 100), idle: 1)
        #expect(pool.acquire(ClientID(1), now: at(10)) == .lease(ServerID(1)))
        for client in [2, 3, 4] as [UInt64] { #expect(pool.acquire(ClientID(client), now: at(10)) == .wait) }
        #expect(pool.serversToOpen(now: at(109)) == 0)
        #expect(pool.reserveTime(now: at(109)) == at(110))
        #expect(pool.serversToOpen(now: at(110)) == 2)
        #expect(pool.reserveTime(now: at(110)) == nil)
        #expect(pool.serversToOpen(now: at(120)) == 0)
        pool.serverOpened(ServerID(2), now: at(120))
        #expect(pool.nextPair()?.client == ClientID(2))
        let isKept = pool.release(ServerID(2), now: at(130))
        #expect(isKept, "until it has been idle for long")
    }

    @Test func `without a reserve nobody waits for it`() {
        var pool = pool(limits(), idle: 1)
        _ = pool.acquire(ClientID(1), now: at(0))
        _ = pool.acquire(ClientID(2), now: at(0))
        #expect(pool.reserveTime(now: at(1)) == nil)
        #expect(pool.serversToOpen(now: at(1_000_000)) == 0)
    }

    @Test func `the least number is opened and kept while somebody uses the pool`() {
        var few = limits(min: 3, idle: 10)
        few.serversMax = 5
        var pool = Pool(limits: few)
        #expect(pool.serversToOpen(now: at(0)) == 0)
        pool.keepsMinimum = true
        #expect(pool.serversToOpen(now: at(0)) == 3)
        #expect(pool.serversToOpen(now: at(0)) == 0)
        for server in [1, 2, 3] as [UInt64] { pool.serverOpened(ServerID(server), now: at(0)) }
        #expect(pool.expiredServers(now: at(100)).isEmpty)
        pool.keepsMinimum = false
        #expect(pool.expiredServers(now: at(100)).count == 3)
    }

    @Test func `the least is never more than the most`() {
        var pool = Pool(limits: limits(min: 9))
        pool.keepsMinimum = true
        #expect(pool.serversToOpen(now: at(0)) == 1)
    }

    @Test func `what another limit forbids to open is asked for again`() {
        var pool = Pool(limits: limits())
        _ = pool.acquire(ClientID(1), now: at(0))
        #expect(pool.serversToOpen(now: at(0)) == 1)
        pool.openForbidden()
        #expect(pool.connectingCount == 0)
        #expect(pool.serversToOpen(now: at(0)) == 1)
    }
}
