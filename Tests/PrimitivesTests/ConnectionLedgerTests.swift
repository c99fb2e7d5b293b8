import Primitives
import Synchronization
import Testing

@Suite struct ConnectionLedgerTests {
    @Test func `as many as the limit go in, and who was refused is told of a free place`() {
        let count = SharedCount()
        #expect(count.enter(max: 2) && count.enter(max: 2))
        #expect(!count.enter(max: 2) && count.isWanted)
        #expect(count.value == 2)
        #expect(count.leave())
        #expect(!count.leave())
        #expect(count.value == 0)
    }

    @Test func `who does not wait is refused as well, and nobody is told of a free place`() {
        let count = SharedCount()
        #expect(count.enter(max: 1, waits: false))
        #expect(!count.enter(max: 1, waits: false) && !count.isWanted)
        #expect(!count.leave())
        #expect(count.value == 0)
    }

    @Test func `no limit is no limit, and one that comes later counts those who are in`() {
        let count = SharedCount()
        for _ in 0..<5 { #expect(count.enter(max: 0)) }
        #expect(!count.enter(max: 3))
        for _ in 0..<3 { _ = count.leave() }
        #expect(count.enter(max: 3))
    }

    @Test func `the same key is the same count while somebody has it`() {
        let ledger = ConnectionLedger(threads: 2)
        let one = ledger.count(.databaseServers("d", .old))
        #expect(ledger.count(.databaseServers("d", .old)) === one)
        #expect(ledger.count(.databaseServers("d", .new)) !== one)
        #expect(ledger.count(.userServers("d", .old)) !== one)
        #expect(ledger.count(.userServers("caf\u{E9}", .old)) !== ledger.count(.userServers("cafe\u{301}", .old)))
        for number in 0..<5000 { _ = ledger.count(.userClients(ExactName("u\(number)"))) }
        #expect(ledger.count(.databaseServers("d", .old)) === one, "it outlives the sweeps")
        let places = ledger.places(PoolKey(database: "d", user: "u", side: .old))
        #expect(ledger.places(PoolKey(database: "d", user: "u", side: .old)) === places)
        #expect(ledger.places(PoolKey(database: "u", user: "d", side: .old)) !== places)
        #expect(ledger.places(PoolKey(database: "d", user: "u", side: .new)) !== places)
    }

    @Test func `several threads together never go beyond the limit, and no refusal is forgotten`() {
        let count = SharedCount()
        let most = Atomic<Int>(0)
        let refusals = Atomic<Int>(0)
        let threads = (0..<4).map { index in
            OwnThread(name: "ledger-\(index)") {
                for _ in 0..<20_000 {
                    if count.enter(max: 3) {
                        most.max(count.value, ordering: .relaxed)
                        if count.leave() { refusals.add(1, ordering: .relaxed) }
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(count.value == 0)
        #expect(most.load(ordering: .relaxed) <= 3)
    }
}
