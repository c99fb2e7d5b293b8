import Glibc
import Primitives
import Synchronization
import Testing

@Suite struct SharedPlacesTests {
    private func at(_ nanoseconds: UInt64) -> MonotonicInstant { MonotonicInstant(nanoseconds: nanoseconds) }

    @Test func `all threads together take no more places than there are`() {
        let places = SharedPlaces(threads: 2)
        #expect(places.take(3, most: 5) == 3)
        #expect(places.take(3, most: 5) == 2)
        #expect(places.take(1, most: 5) == 0)
        #expect(places.take(1, most: 6) == 1)
        places.add(-4)
        #expect(places.taken == 2)
        #expect(places.take(9, most: 5) == 3)
    }

    @Test func `what nobody needs is asked for once, and not by who has it`() {
        let places = SharedPlaces(threads: 3)
        #expect(places.takeIdle(but: 0) == nil)
        places.tell(of: 1, lackingSince: nil, idle: 2, open: 0)
        #expect(places.takeIdle(but: 1) == nil)
        #expect(places.takeIdle(but: 0) == 1)
        #expect(places.takeIdle(but: 2) == 1)
        #expect(places.takeIdle(but: 0) == nil)
    }

    @Test func `who has waited longest is served first, and once`() throws {
        let places = SharedPlaces(threads: 4)
        places.tell(of: 1, lackingSince: at(70), idle: 0, open: 0)
        places.tell(of: 2, lackingSince: at(50), idle: 0, open: 0)
        places.tell(of: 3, lackingSince: at(60), idle: 0, open: 0)
        #expect(places.lacking(but: 3) == [1, 2])
        #expect(places.takeLacking(but: 0, sinceBefore: at(50)) == nil)
        let first = try #require(places.takeLacking(but: 0, sinceBefore: at(51)))
        #expect(first.thread == 2)
        #expect(places.takeLacking(but: 0, sinceBefore: at(.max))?.thread == 3)
        places.putBack(first)
        #expect(places.takeLacking(but: 2, sinceBefore: at(.max))?.thread == 1)
        #expect(places.takeLacking(but: 0, sinceBefore: at(.max))?.thread == 2)
        #expect(places.takeLacking(but: 0, sinceBefore: at(.max)) == nil)
        places.tell(of: 1, lackingSince: at(70), idle: 0, open: 0)
        #expect(places.takeLacking(but: 0, sinceBefore: at(.max))?.thread == 1, "it lacks more")
        places.tell(of: 1, lackingSince: at(80), idle: 0, open: 0)
        places.tell(of: 1, lackingSince: at(90), idle: 0, open: 0)
        #expect(places.takeLacking(but: 0, sinceBefore: at(.max))?.since == 80, "so little is not told")
        places.tell(of: 1, lackingSince: at(80), idle: 0, open: 0)
        places.tell(of: 1, lackingSince: at(1_000_081), idle: 0, open: 0)
        #expect(places.takeLacking(but: 0, sinceBefore: at(.max))?.since == 1_000_081)
        places.tell(of: 1, lackingSince: at(80), idle: 0, open: 0)
        places.tell(of: 1, lackingSince: nil, idle: 0, open: 0)
        #expect(places.takeLacking(but: 0, sinceBefore: at(.max)) == nil)
    }

    @Test func `a thread asks for the open servers of others, not for its own`() {
        let places = SharedPlaces(threads: 2)
        #expect(!places.isOpen(but: 0))
        places.tell(of: 0, lackingSince: nil, idle: 0, open: 1)
        #expect(!places.isOpen(but: 0))
        #expect(places.isOpen(but: 1))
        places.tell(of: 0, lackingSince: nil, idle: 0, open: 0)
        #expect(!places.isOpen(but: 1))
    }

    @Test func `a flood is told of once by all`() {
        let places = SharedPlaces(threads: 2)
        #expect(places.tellPinned(3, of: 0) == 3)
        #expect(places.tellPinned(4, of: 1) == 7)
        #expect(places.tellPinned(0, of: 0) == 4)
        #expect(places.tellFlooded(true))
        #expect(!places.tellFlooded(true))
        #expect(places.tellFlooded(false))
    }

    @Test func `threads in a race never have more than there is`() {
        let places = SharedPlaces(threads: 4)
        let most = Atomic<Int>(0)
        let held = Atomic<Int>(0)
        let threads = (0..<4).map { index in
            OwnThread(name: "places-\(index)") {
                for round in 0..<20_000 {
                    let granted = places.take(1 + round % 3, most: 5)
                    if granted == 0 { continue }
                    most.max(held.add(granted, ordering: .sequentiallyConsistent).newValue, ordering: .relaxed)
                    held.subtract(granted, ordering: .sequentiallyConsistent)
                    places.add(-granted)
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(places.taken == 0)
        #expect(most.load(ordering: .relaxed) <= 5)
    }

    @Test func `of two threads that lack and have at the same moment one sees the other`() {
        let places = SharedPlaces(threads: 2)
        let rounds = 2_000
        let arrived = [Box(), Box()]
        let found = [Box(), Box()]
        let threads = (0..<2).map { index in
            OwnThread(name: "places-\(index)") {
                func meet() {
                    let number = arrived[index].value.add(1, ordering: .sequentiallyConsistent).newValue
                    while arrived[1 - index].value.load(ordering: .sequentiallyConsistent) < number { sched_yield() }
                }
                for round in 1...rounds {
                    places.tell(of: index, lackingSince: nil, idle: 0, open: 0)
                    meet()
                    let hasFound: Bool
                    if index == 0 {
                        places.tell(of: 0, lackingSince: MonotonicInstant(nanoseconds: UInt64(round)), idle: 0, open: 0)
                        hasFound = places.takeIdle(but: 0) != nil
                    } else {
                        places.tell(of: 1, lackingSince: nil, idle: 1, open: 0)
                        hasFound = places.takeLacking(but: 1, sinceBefore: at(.max)) != nil
                    }
                    if hasFound { found[index].value.store(round, ordering: .sequentiallyConsistent) }
                    meet()
                    if index == 0 {
                        #expect(found.contains { $0.value.load(ordering: .relaxed) == round })
                    }
                    meet()
                }
            }
        }
        for thread in threads { thread.join() }
    }

    private final class Box: Sendable {
        let value = Atomic<Int>(0)
    }
}
