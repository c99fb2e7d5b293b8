import Pooling
import Primitives
import Testing

/// A Worker in small: performs what the pool says, at random, and keeps books of its own.
private struct PoolWorld: ~Copyable {
    var random: SeededGenerator
    var pool: Pool
    let limits: PoolLimits
    var now = MonotonicInstant(nanoseconds: 1)
    var connecting = 0
    var nextServer: UInt64 = 0
    var nextClient: UInt64 = 0
    var idle: Set<ServerID> = []
    var holders: [ServerID: ClientID] = [:]
    /// In the order in which they came.
    var waiting: [ClientID] = []
    var cameAt: [ClientID: MonotonicInstant] = [:]
    var leases = 0
    var refusals = 0
    var failures = 0

    init(seed: UInt64) {
        random = SeededGenerator(seed: seed)
        limits = PoolLimits(
            serversMax: Int.random(in: 1...6, using: &random),
            waitersMax: Int.random(in: 1...8, using: &random),
            waitMaxNanos: [0, 400].randomElement(using: &random) ?? 0,
            idleMaxNanos: [0, 300].randomElement(using: &random) ?? 0,
            lifetimeMaxNanos: [0, 2_000].randomElement(using: &random) ?? 0, retryMaxNanos: 1_280,
            serversMin: Int.random(in: 0...3, using: &random), reserveMax: Int.random(in: 0...2, using: &random),
            reserveAfterNanos: 100)
        pool = Pool(limits: limits)
        pool.keepsMinimum = Bool.random(using: &random)
    }

    mutating func step() {
        now.nanoseconds += UInt64.random(in: 0...20, using: &random)
        switch Int.random(in: 0..<12, using: &random) {
        case 0..<4: comes()
        case 4..<6: givesBack()
        case 6: leaves()
        case 7, 8: connectionEnds(isMade: Int.random(in: 0..<4, using: &random) > 0)
        case 9: serverDies()
        case 10: expires()
        default: break
        }
        endOfBatch()
    }

    private mutating func comes() {
        nextClient += 1
        let client = ClientID(nextClient)
        switch pool.acquire(client, now: now) {
        case .lease(let server):
            #expect(waiting.isEmpty, "a newcomer overtook")
            leased(server, client)
        case .wait:
            waiting.append(client)
            cameAt[client] = now
            #expect(waiting.count <= limits.waitersMax)
        case .refused:
            refusals += 1
            #expect(waiting.count == limits.waitersMax, "refused too early")
        }
    }

    private mutating func leased(_ server: ServerID, _ client: ClientID) {
        #expect(holders[server] == nil, "a server given twice")
        #expect(idle.remove(server) != nil, "a server that is not idle was given")
        holders[server] = client
        leases += 1
    }

    private mutating func givesBack() {
        guard let server = holders.keys.sorted(by: { $0.value < $1.value }).randomElement(using: &random)
        else { return }
        holders[server] = nil
        if pool.release(server, now: now) { idle.insert(server) } else { pool.serverClosed(server) }
    }

    private mutating func leaves() {
        guard let client = waiting.randomElement(using: &random) else { return }
        #expect(pool.abandon(client) == true)
        waiting.removeAll { $0 == client }
    }

    private mutating func connectionEnds(isMade: Bool) {
        if connecting == 0 { return }
        connecting -= 1
        if isMade {
            nextServer += 1
            pool.serverOpened(ServerID(nextServer), now: now)
            idle.insert(ServerID(nextServer))
        } else {
            failures += 1
            pool.openFailed(now: now, pauses: Bool.random(using: &random), spread: Double.random(in: 0...1, using: &random))
        }
    }

    private mutating func serverDies() {
        let servers = (Array(idle) + holders.keys).sorted { $0.value < $1.value }
        guard let server = servers.randomElement(using: &random) else { return }
        idle.remove(server)
        holders[server] = nil
        pool.serverClosed(server)
    }

    private mutating func expires() {
        for client in pool.expireWaiters(now: now) {
            #expect(waiting.first == client, "not the one that waited longest")
            waiting.removeAll { $0 == client }
        }
        for server in pool.expiredServers(now: now) {
            #expect(idle.remove(server) != nil, "a server in use expired")
            pool.serverClosed(server)
        }
    }

    mutating func endOfBatch() {
        while let pair = pool.nextPair() {
            #expect(waiting.first == pair.client, "not first come, first served")
            waiting.removeFirst()
            leased(pair.server, pair.client)
        }
        let before = connecting + idle.count + holders.count
        var opened = pool.serversToOpen(now: now)
        if opened > 0 && Int.random(in: 0..<8, using: &random) == 0 {
            pool.openForbidden()
            opened -= 1
        }
        connecting += opened
        let most = connecting + idle.count + holders.count
        #expect(most <= limits.serversMax + limits.reserveMax, "too many servers")
        let isReserveDue = waiting.first.flatMap { cameAt[$0] }.map { now.nanoseconds(since: $0) >= 100 } ?? false
        #expect(most <= max(before, limits.serversMax) || isReserveDue, "the reserve was opened too early")
        #expect(pool.serverCount == connecting + idle.count + holders.count)
        #expect(pool.idleCount == idle.count)
        #expect(pool.leasedCount == holders.count)
        #expect(pool.connectingCount == connecting)
        #expect(pool.waitingCount == waiting.count)
        #expect(idle.isEmpty || waiting.isEmpty, "a client waits beside an idle server")
    }

    /// Everybody goes; every attempt succeeds.
    mutating func empty() {
        pool.keepsMinimum = false
        for client in waiting { #expect(pool.abandon(client) == true) }
        waiting = []
        while connecting > 0 { connectionEnds(isMade: true) }
        while !holders.isEmpty { givesBack() }
        for server in idle { pool.serverClosed(server) }
        idle = []
        endOfBatch()
    }
}

@Suite struct PoolModelTests {
    @Test(arguments: (1...24).map { UInt64($0) })
    func `whatever happens no server is given twice, nobody overtakes and nothing leaks`(seed: UInt64) {
        var world = PoolWorld(seed: seed)
        for _ in 0..<3_000 { world.step() }
        #expect(world.leases > 100, "seed \(seed) tests nothing")
        world.empty()
        #expect(world.pool.serverCount == 0, "seed \(seed)")
        #expect(world.pool.waitingCount == 0, "seed \(seed)")
        #expect(world.pool.oldestWaiter() == nil, "seed \(seed)")
        #expect(world.pool.serversToOpen(now: world.now.advanced(bySeconds: 1)) == 0, "seed \(seed)")
    }
}
