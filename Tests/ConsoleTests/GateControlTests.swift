import Console
import Primitives
import Testing

@Suite struct GateControlTests {
    typealias ID = GateControl.RequestID

    /// Two threads; what each event makes the control do.
    struct Desk {
        var control = GateControl(threads: 2)
        init() { _ = say(.databases(["shop", "blog"], hasWildcard: false)) }

        mutating func say(_ event: GateControl.Event) -> [GateControl.Action] {
            var actions: [GateControl.Action] = []
            control.handle(event, &actions)
            return actions
        }

        mutating func order(_ id: UInt64, _ command: GateCommand, at second: Double = 0) -> [GateControl.Action] {
            say(.command(ID(id), command, now: GateControlTests.time(second)))
        }

        mutating func met(_ watch: UInt64, _ worker: Int) -> [GateControl.Action] {
            say(.standing(watch: watch, worker: worker, GateBlockers()))
        }
    }

    static func time(_ seconds: Double) -> MonotonicInstant {
        MonotonicInstant(nanoseconds: 1_000_000_000).advanced(bySeconds: seconds)
    }

    static func gate(_ change: (inout TrafficGate) -> Void) -> TrafficGate {
        var gate = TrafficGate()
        change(&gate)
        return gate
    }

    static let shop = GateScope("shop")
    static let shopHeld = gate { $0.databases = ["shop": .all] }

    @Test func `PAUSE is answered when every thread has no server left`() {
        var desk = Desk()
        #expect(desk.order(1, .pause(.init(Self.shop))) == [
            .apply(Self.shopHeld), .watch(1, .noServers(Self.shop)),
        ])
        #expect(desk.met(1, 1) == [])
        #expect(desk.met(1, 1) == [])
        #expect(desk.met(1, 0) == [.answer(ID(1), .done)])
        #expect(desk.control.gate == Self.shopHeld)
    }

    @Test func `writes are held for a DDL until it lets go, whoever keeps a server and whatever is resumed`() {
        var desk = Desk()
        let held = Self.gate { $0.databases = ["shop": .writes] }
        #expect(desk.order(1, .holdForChange("shop", limit: 5)) == [
            .apply(held), .watch(1, .noWrites(Self.shop)),
        ])
        #expect(desk.control.deadline == Self.time(5))
        _ = desk.met(1, 0)
        #expect(desk.met(1, 1) == [.answer(ID(1), .done)])
        _ = desk.order(2, .resume(Self.shop))
        #expect(desk.control.gate == held)
        #expect(desk.order(3, .letGo("shop")).contains(.apply(TrafficGate())))
    }

    @Test func `who asks for the DDL of its own transaction is not waited for, by this process`() {
        var desk = Desk()
        let asker = GateAsker(worker: 1, client: 7)
        let condition = GateCondition.noWrites(Self.shop, but: asker)
        #expect(desk.order(1, .holdForChange("shop", limit: 5, asker: asker)).contains(.watch(1, condition)))
        #expect(GateWord(.watch(1, condition)) == .watch(1, .noWrites(Self.shop)))
    }

    @Test func `PAUSE that takes too long says what it waits for, and leaves things as they were`() {
        var desk = Desk()
        let command = GateCommand.pause(.init(Self.shop, limit: 2))
        _ = desk.order(1, command)
        #expect(desk.control.deadline == Self.time(2))
        #expect(desk.say(.elapsed(now: Self.time(1.9))) == [])
        #expect(desk.say(.elapsed(now: Self.time(2))) == [.ask(1)])
        #expect(desk.control.deadline == nil)
        #expect(desk.met(1, 1) == [])
        #expect(desk.say(.standing(watch: 1, worker: 0, GateBlockers(["a", "b"]))) == [
            .apply(TrafficGate()), .unwatch(1), .answer(ID(1), .failed(.timedOut(command, GateBlockers(["a", "b"])))),
        ])
        #expect(desk.met(1, 0) == [], "a late word")
    }

    @Test func `what is reached while threads are asked is reached`() {
        var desk = Desk()
        _ = desk.order(1, .pause(.init(Self.shop, limit: 2)))
        _ = desk.say(.elapsed(now: Self.time(2)))
        #expect(desk.say(.standing(watch: 1, worker: 0, GateBlockers(["a"]))) == [])
        #expect(desk.met(1, 0) == [])
        #expect(desk.met(1, 1) == [.answer(ID(1), .done)])
    }

    @Test func `PAUSE with KEEP holds on after its time`() {
        var desk = Desk()
        let command = GateCommand.pause(.init(Self.shop, limit: 2, isKept: true))
        _ = desk.order(1, command)
        _ = desk.say(.elapsed(now: Self.time(3)))
        _ = desk.say(.standing(watch: 1, worker: 0, GateBlockers(["a"])))
        #expect(desk.say(.standing(watch: 1, worker: 1, GateBlockers(["b"]))) == [
            .unwatch(1), .answer(ID(1), .failed(.timedOut(command, GateBlockers(["a", "b"])))),
        ])
        #expect(desk.control.gate == Self.shopHeld)
    }

    @Test func `RESUME ends a PAUSE under way, which says so`() {
        var desk = Desk()
        let command = GateCommand.pause(.init(Self.shop))
        _ = desk.order(1, command)
        #expect(desk.order(2, .resume(Self.shop)) == [
            .apply(TrafficGate()), .unwatch(1), .answer(ID(1), .failed(.ended(command))), .watch(2, .applied),
        ])
        #expect(desk.met(2, 0) == [])
        #expect(desk.met(2, 1) == [.answer(ID(2), .done)])
    }

    @Test func `one PAUSE that is given up does not undo another`() {
        var desk = Desk()
        _ = desk.order(1, .pause(.init(Self.shop, limit: 1)))
        _ = desk.order(2, .pause(.init(Self.shop)))
        #expect(desk.say(.gone(ID(1))) == [.unwatch(1)])
        #expect(desk.control.gate == Self.shopHeld)
        #expect(desk.say(.canceled(ID(2))) == [
            .apply(TrafficGate()), .unwatch(2), .answer(ID(2), .failed(.canceled)),
        ])
    }

    @Test func `a console that goes after its PAUSE has been reached leaves it`() {
        var desk = Desk()
        _ = desk.order(1, .pause(.init(Self.shop)))
        _ = desk.met(1, 0)
        _ = desk.met(1, 1)
        #expect(desk.say(.gone(ID(1))) == [])
        #expect(desk.control.gate == Self.shopHeld)
    }

    @Test func `a pause of all and of one are two`() {
        var desk = Desk()
        _ = desk.order(1, .pause(.init(.everything)))
        for worker in 0...1 { _ = desk.met(1, worker) }
        #expect(desk.order(2, .resume(Self.shop)) == [.answer(ID(2), .failed(.heldByAll("shop")))])
        _ = desk.order(3, .pause(.init(Self.shop)))
        for worker in 0...1 { _ = desk.met(2, worker) }
        _ = desk.order(4, .resume(.everything))
        _ = desk.met(3, 0)
        #expect(desk.met(3, 1) == [.answer(ID(4), .doneAlready("still paused by name: shop"))])
        #expect(desk.control.gate == Self.shopHeld)
    }

    @Test func `a stronger hold that is given up leaves the weaker one`() {
        var desk = Desk()
        let weak = Self.gate { $0.databases = ["shop": .writes] }
        #expect(desk.order(1, .pause(.init(Self.shop, .writes))) == [
            .apply(weak), .watch(1, .noWrites(Self.shop)),
        ])
        for worker in 0...1 { _ = desk.met(1, worker) }
        #expect(desk.order(2, .pause(.init(Self.shop))).first == .apply(Self.shopHeld))
        #expect(desk.say(.gone(ID(2))) == [.apply(weak), .unwatch(2)])
    }

    @Test func `a pause with a lifetime ends by itself, reached or not`() {
        var desk = Desk()
        _ = desk.order(1, .pause(.init(Self.shop, .writes, limit: 1, lifetime: 5)))
        for worker in 0...1 { _ = desk.met(1, worker) }
        #expect(desk.control.deadline == Self.time(5))
        #expect(desk.say(.elapsed(now: Self.time(4))) == [])
        #expect(desk.say(.elapsed(now: Self.time(5))) == [.apply(TrafficGate())])
        _ = desk.order(2, .pause(.init(Self.shop, lifetime: 5)), at: 10)
        #expect(desk.say(.elapsed(now: Self.time(15))) == [.ask(2)])
    }

    @Test func `the longest of several lifetimes counts`() {
        var desk = Desk()
        for (id, lifetime) in [(UInt64(1), Double?.some(5)), (2, 3), (3, nil), (4, 9)] {
            _ = desk.order(id, .pause(.init(Self.shop, lifetime: lifetime)))
            for worker in 0...1 { _ = desk.met(id, worker) }
            #expect(desk.control.deadline == (id < 3 ? Self.time(5) : nil))
        }
    }

    @Test func `KILL closes, holds, and stays until RESUME`() {
        var desk = Desk()
        #expect(desk.order(1, .kill(Self.shop)) == [
            .apply(Self.shopHeld), .kill(Self.shop), .watch(1, .noServers(Self.shop)),
        ])
        #expect(desk.say(.gone(ID(1))) == [.unwatch(1)])
        #expect(desk.control.gate == Self.shopHeld)
    }

    @Test func `DISABLE and ENABLE are answered when all threads know`() {
        var desk = Desk()
        let closed = Self.gate { $0.disabled = ["shop"] }
        #expect(desk.order(1, .disable("shop")) == [.apply(closed), .watch(1, .applied)])
        _ = desk.met(1, 0)
        #expect(desk.met(1, 1) == [.answer(ID(1), .done)])
        #expect(desk.order(2, .disable("shop")) == [.watch(2, .applied)])
        #expect(desk.order(3, .enable("shop")) == [.apply(TrafficGate()), .watch(3, .applied)])
    }

    @Test func `names that are none are refused, but what is held can always be let go`() {
        var desk = Desk()
        for command in [
            .pause(.init(GateScope("none"))), .resume(GateScope("none")), .disable("none"), .enable("none"),
            .reconnect(GateScope("none")), .kill(GateScope("none")), .waitClose(GateScope("none"), limit: nil),
        ] as [GateCommand] {
            #expect(desk.order(1, command) == [.answer(ID(1), .failed(.unknownDatabase("none")))])
        }
        _ = desk.order(2, .kill(Self.shop))
        _ = desk.order(3, .disable("shop"))
        _ = desk.say(.databases(["blog"], hasWildcard: false))
        #expect(desk.order(4, .resume(Self.shop)).contains(.apply(Self.gate { $0.disabled = ["shop"] })))
        #expect(desk.order(5, .enable("shop")).contains(.apply(TrafficGate())))
        _ = desk.say(.databases([], hasWildcard: true))
        #expect(desk.order(6, .pause(.init(GateScope("any")))).count == 2)
    }

    @Test func `SUSPEND holds the sockets until RESUME of all`() {
        var desk = Desk()
        let closed = Self.gate { $0.isSuspended = true }
        #expect(desk.order(1, .suspend(limit: nil)) == [.apply(closed), .watch(1, .flushed)])
        for worker in 0...1 { _ = desk.met(1, worker) }
        #expect(desk.order(2, .resume(Self.shop)) == [.watch(2, .applied)])
        #expect(desk.order(3, .resume(.everything)) == [.apply(TrafficGate()), .watch(3, .applied)])
    }

    @Test func `a shutdown that waits ends a SUSPEND, is not held up by PAUSE, and stops when all have gone`() {
        var desk = Desk()
        _ = desk.order(1, .pause(.init(Self.shop)))
        _ = desk.order(2, .suspend(limit: nil))
        #expect(desk.order(3, .shutdown(.waitForServers)) == [
            .apply(Self.shopHeld), .unwatch(2), .answer(ID(2), .failed(.shuttingDown)),
            .drain, .watch(3, .applied), .watch(4, .noClients),
        ])
        _ = desk.met(3, 1)
        #expect(desk.met(3, 0) == [.answer(ID(3), .done)])
        #expect(desk.order(4, .suspend(limit: nil)) == [.answer(ID(4), .failed(.shuttingDown))])
        #expect(desk.order(5, .shutdown(.waitForClients)) == [.watch(5, .applied)])
        _ = desk.met(4, 0)
        #expect(desk.met(4, 1) == [.stop])
        #expect(desk.order(6, .resume(Self.shop)) == [])
    }

    @Test func `a shutdown may become more urgent`() {
        var desk = Desk()
        #expect(desk.order(1, .shutdown(.waitForClients)) == [
            .stopListening, .watch(1, .applied), .watch(2, .noClients),
        ])
        #expect(desk.order(2, .shutdown(.waitForServers)) == [.drain, .watch(3, .applied)])
        #expect(desk.order(3, .shutdown(.now)) == [.answer(ID(3), .done), .stop])
    }
}
