import Glibc
import Reactor
import Testing

@Suite struct EventLoopTests {
    struct Event: Equatable {
        var registration: Registration
        var isReadable: Bool
        var isWritable: Bool
    }

    /// What is ready now.
    private func ready(_ loop: EventLoop) -> [Event] {
        var events: [Event] = []
        loop.wait(timeoutMillis: 0) { events.append(Event(registration: $0, isReadable: $1, isWritable: $2)) }
        return events
    }

    @Test(arguments: [
        Registration(slot: 0, generation: 0), Registration(slot: 1, generation: 0),
        Registration(slot: 0, generation: 1), Registration(slot: 0x7fff_ffff, generation: .max),
        Registration(slot: 0x7fff_ffff, generation: 0), Registration(slot: 0x4000_0000, generation: 0x8000_0001),
        Registration(slot: 0, generation: 0, comesFirst: true),
        Registration(slot: 0x7fff_ffff, generation: .max, comesFirst: true),
    ])
    func `an event names the registration it was made for`(registration: Registration) {
        let loop = EventLoop()
        let pair = SocketPair()
        loop.register(pair.near.raw, [.read], as: registration)
        #expect(ready(loop) == [])
        _ = pair.far.sendBytes([1])
        let event = Event(registration: registration, isReadable: true, isWritable: false)
        #expect(ready(loop) == [event])
        #expect(ready(loop) == [event], "level-triggered: it stays ready until it was read")
        _ = pair.near.receiveBytes()
        #expect(ready(loop) == [])
    }

    @Test func `interest is what was asked for last`() {
        let loop = EventLoop()
        let pair = SocketPair()
        let first = Registration(slot: 3, generation: 1)
        loop.register(pair.near.raw, [.read, .write], as: first)
        #expect(ready(loop) == [Event(registration: first, isReadable: false, isWritable: true)])
        _ = pair.far.sendBytes([1])
        #expect(ready(loop) == [Event(registration: first, isReadable: true, isWritable: true)])
        loop.modify(pair.near.raw, [], as: first)
        #expect(ready(loop) == [])
        let second = Registration(slot: 3, generation: 2)
        loop.modify(pair.near.raw, [.read], as: second)
        #expect(ready(loop) == [Event(registration: second, isReadable: true, isWritable: false)])
        loop.unregister(pair.near.raw)
        #expect(ready(loop) == [])
    }

    @Test func `a socket in another's place is told from it by its generation`() {
        let loop = EventLoop()
        let stale = Registration(slot: 5, generation: 1)
        let fresh = Registration(slot: 5, generation: 2)
        let kept = SocketPair()
        loop.register(kept.near.raw, [.write], as: stale)
        // The event of the first is what a loop may still hold when the second has got its place.
        let held = ready(loop)
        loop.unregister(kept.near.raw)
        let next = SocketPair()
        loop.register(next.near.raw, [.write], as: fresh)
        #expect(held.map(\.registration) == [stale])
        #expect(ready(loop).map(\.registration) == [fresh])
        #expect(stale != fresh && stale.slot == fresh.slot)
    }

    @Test func `a descriptor that was closed has no events any more`() {
        let loop = EventLoop()
        let pair = SocketPair()
        do {
            let copy = SocketPair()
            loop.register(copy.near.raw, [.write], as: Registration(slot: 1, generation: 1))
            #expect(ready(loop).count == 1)
        }
        loop.register(pair.near.raw, [.read], as: Registration(slot: 2, generation: 1))
        #expect(ready(loop) == [])
    }

    @Test func `a peer that has gone makes its socket readable, and writable too`() {
        let loop = EventLoop()
        let registration = Registration(slot: 9, generation: 9)
        var ends: [CInt] = [-1, -1]
        #expect(socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0, &ends) == 0)
        let near = SocketDescriptor(owning: ends[0])
        close(ends[1])
        loop.register(near.raw, [.read], as: registration)
        #expect(ready(loop) == [Event(registration: registration, isReadable: true, isWritable: true)])
        #expect(near.receiveBytes().outcome == .closed)
    }

    @Test func `what comes first is handled before what was ready before it`() {
        let loop = EventLoop()
        let early = SocketPair(), late = SocketPair()
        loop.register(early.near.raw, [.read], as: Registration(slot: 7, generation: 1))
        loop.register(late.near.raw, [.read], as: Registration(slot: 8, generation: 1, comesFirst: true))
        _ = early.far.sendBytes([1])
        #expect(ready(loop).map(\.registration.slot) == [7])
        _ = late.far.sendBytes([1])
        #expect(ready(loop).map(\.registration.slot) == [8, 7])
    }

    @Test func `more descriptors than one batch are all served`() {
        let loop = EventLoop()
        let pair = SocketPair()
        let count = EventLoop.batchMax + 10
        var copies: [CInt] = []
        for slot in 0..<count {
            let copy = dup(pair.near.raw)
            copies.append(copy)
            loop.register(copy, [.write], as: Registration(slot: UInt32(slot), generation: 0))
        }
        var slots = Set<UInt32>()
        for _ in 0..<4 {
            let events = ready(loop)
            #expect(events.count == EventLoop.batchMax)
            slots.formUnion(events.map(\.registration.slot))
        }
        #expect(slots.count == count)
        for copy in copies { close(copy) }
    }

    @Test func `registering a descriptor twice is a bug`() async {
        await #expect(processExitsWith: .failure) {
            let loop = EventLoop()
            let pair = SocketPair()
            loop.register(pair.near.raw, [.read], as: Registration(slot: 0, generation: 0))
            loop.register(pair.near.raw, [.read], as: Registration(slot: 0, generation: 1))
        }
    }
}
