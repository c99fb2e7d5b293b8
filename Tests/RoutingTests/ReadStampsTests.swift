import Primitives
import Synchronization
import Testing

@testable import Routing

@Suite struct ReadStampsTests {
    @Test func `a commit needs the batch after the one being taken`() {
        let stamps = ReadStamps()
        #expect(stamps.needed(by: 5) == 0)
        stamps.stamp(5, taking: 0)
        #expect(stamps.needed(by: 5) == 1)
        stamps.stamp(5, taking: 7)
        stamps.stamp(5, taking: 3)
        #expect(stamps.needed(by: 5) == 8)
        #expect(stamps.needed(by: 6) == 0)
    }

    @Test func `a commit of nobody knows whom counts for all`() {
        let stamps = ReadStamps()
        stamps.stamp(5, taking: 7)
        stamps.stampAll(taking: 3)
        #expect(stamps.needed(by: 5) == 8)
        #expect(stamps.needed(by: 6) == 4)
    }

    @Test func `a collision errs on the safe side`() {
        let stamps = ReadStamps()
        stamps.stamp(5, taking: 9)
        #expect(stamps.needed(by: 5 + UInt64(ReadStamps.slotCount)) == 10)
    }

    /// Writers commit to a counter as PostgreSQL would, a mirror takes snapshots of it, readers check the rule.
    @Test func `no reader on any thread misses an acknowledged write`() async {
        let stamps = ReadStamps()
        let horizon = Horizon()
        let old = Atomics()
        let new = Atomics()
        let stop = Flag()
        await withTaskGroup(of: Int.self) { group in
            group.addTask {
                while !stop.isRaised.load(ordering: .acquiring) {
                    let batch = horizon.beginBatch()
                    for user in 0..<4 { new.store(user, old.load(user)) }
                    horizon.finishBatch(batch)
                    await Task.yield()
                }
                return 0
            }
            for user in 0..<4 {
                group.addTask {
                    var stale = 0
                    for value in 1...5000 as ClosedRange<UInt64> {
                        old.store(user, value)                           // the commit, then its acknowledgement
                        stamps.stamp(UInt64(user), taking: horizon.taking)
                        if horizon.applied >= stamps.needed(by: UInt64(user)), new.load(user) < value { stale += 1 }
                        if value.isMultiple(of: 64) { await Task.yield() }
                    }
                    return stale
                }
            }
            var stale = 0
            var finished = 0
            for await count in group {
                stale += count
                finished += 1
                if finished == 4 { stop.isRaised.store(true, ordering: .releasing) }
            }
            #expect(stale == 0)
        }
    }

    private final class Flag: Sendable { let isRaised = Atomic<Bool>(false) }

    private final class Atomics: Sendable {
        private let values = (Box(), Box(), Box(), Box())

        private final class Box: Sendable { let value = Atomic<UInt64>(0) }

        private func box(_ index: Int) -> Box {
            switch index {
            case 0: values.0
            case 1: values.1
            case 2: values.2
            default: values.3
            }
        }

        func store(_ index: Int, _ value: UInt64) { box(index).value.store(value, ordering: .sequentiallyConsistent) }
        func load(_ index: Int) -> UInt64 { box(index).value.load(ordering: .sequentiallyConsistent) }
    }
}
