import Pooling
import Primitives
import Testing

@Suite struct WaiterQueueTests {
    private static let start = MonotonicInstant(nanoseconds: 1_000)

    @Test(arguments: [1, 2, 10])
    func `as many wait as the bound says and not one more`(bound: Int) {
        var queue = WaiterQueue(bound: bound)
        for client in 0..<bound { #expect(queue.append(ClientID(UInt64(client)), now: Self.start) == true) }
        #expect(queue.append(ClientID(1_000), now: Self.start) == false)
        #expect(queue.count == bound)
        #expect(queue.remove(ClientID(0)) == true)
        #expect(queue.append(ClientID(1_000), now: Self.start) == true)
        #expect(queue.append(ClientID(1_001), now: Self.start) == false)
    }

    @Test func `who goes away leaves nothing behind`() {
        var queue = WaiterQueue(bound: 4)
        for client in 1...4 { _ = queue.append(ClientID(UInt64(client)), now: Self.start) }
        #expect(queue.remove(ClientID(1)) == true)
        #expect(queue.remove(ClientID(1)) == false)
        #expect(queue.remove(ClientID(3)) == true)
        #expect(queue.remove(ClientID(99)) == false)
        #expect(queue.popFirst()?.client == ClientID(2))
        #expect(queue.removeAll() == [ClientID(4)])
        #expect(queue.isEmpty)
        #expect(queue.popFirst() == nil)
        #expect(queue.oldest() == nil)
    }

    @Test func `a client that leaves and comes back in one instant stands at the end`() {
        var queue = WaiterQueue(bound: 3)
        _ = queue.append(ClientID(1), now: Self.start)
        _ = queue.append(ClientID(2), now: Self.start)
        _ = queue.remove(ClientID(1))
        _ = queue.append(ClientID(1), now: Self.start)
        #expect(queue.removeAll() == [ClientID(2), ClientID(1)])
    }

    @Test func `coming and going in one instant never fills the queue with holes`() {
        var queue = WaiterQueue(bound: 2)
        for _ in 0..<20 {
            #expect(queue.append(ClientID(1), now: Self.start) == true)
            #expect(queue.remove(ClientID(1)) == true)
        }
        for _ in 0..<3 {
            _ = queue.append(ClientID(1), now: Self.start)
            _ = queue.remove(ClientID(1))
        }
        #expect(queue.append(ClientID(1), now: Self.start) == true)
        #expect(queue.append(ClientID(2), now: Self.start) == true)
        #expect(queue.removeAll() == [ClientID(1), ClientID(2)])
    }

    @Test func `waiting twice is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var queue = WaiterQueue(bound: 2)
            _ = queue.append(ClientID(1), now: MonotonicInstant(nanoseconds: 1))
            _ = queue.append(ClientID(1), now: MonotonicInstant(nanoseconds: 2))
        }
    }

    @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64])
    func `the queue does what an array does`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let bound = Int.random(in: 1...12, using: &random)
        var queue = WaiterQueue(bound: bound)
        var model: [(client: ClientID, since: MonotonicInstant)] = []
        var now = Self.start
        for step in 0..<10_000 {
            if Int.random(in: 0..<3, using: &random) == 0 { now = now.advanced(byMillis: 1) }
            let client = ClientID(UInt64.random(in: 0..<20, using: &random))
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<5:
                if model.contains(where: { $0.client == client }) { continue }
                let isTaken = queue.append(client, now: now)
                #expect(isTaken == (model.count < bound), "seed \(seed), step \(step)")
                if isTaken { model.append((client, now)) }
            case 5..<8:
                let isThere = model.contains { $0.client == client }
                #expect(queue.remove(client) == isThere, "seed \(seed), step \(step)")
                model.removeAll { $0.client == client }
            default:
                let first = model.isEmpty ? nil : model.removeFirst()
                #expect(queue.popFirst()?.client == first?.client, "seed \(seed), step \(step)")
            }
            #expect(queue.count == model.count, "seed \(seed), step \(step)")
            #expect(queue.oldest() == model.first?.since, "seed \(seed), step \(step)")
        }
        #expect(queue.removeAll() == model.map(\.client), "seed \(seed)")
    }
}
