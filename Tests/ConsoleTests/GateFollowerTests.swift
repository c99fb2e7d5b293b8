import Console
import Primitives
import Testing

@Suite struct GateFollowerTests {
    private static let shop = GateScope("shop")
    private static let base: UInt64 = 1 << 62

    private static func time(_ seconds: Double) -> MonotonicInstant {
        MonotonicInstant(nanoseconds: 1_000_000_000).advanced(bySeconds: seconds)
    }

    @Test func `what is held is restored with the time that is left, and ended by RESUME`() {
        var first = GateControl(threads: 1)
        var actions: [GateControl.Action] = []
        first.handle(.databases(["shop", "blog"], hasWildcard: false), &actions)
        func order(_ control: inout GateControl, _ id: UInt64, _ command: GateCommand, at second: Double) {
            control.handle(.command(.init(id), command, now: Self.time(second)), &actions)
            for case .watch(let number, _) in actions {
                control.handle(.standing(watch: number, worker: 0, GateBlockers()), &actions)
            }
            actions = []
        }
        #expect(first.standing(now: Self.time(0)) == GateStanding())
        order(&first, 1, .pause(.init(Self.shop, .writes, lifetime: 30)), at: 0)
        order(&first, 2, .pause(.init(.everything)), at: 0)
        order(&first, 3, .disable("blog"), at: 0)
        let standing = first.standing(now: Self.time(10))
        #expect(standing?.disabled == ["blog"])
        #expect(standing?.holds.contains(.init(scope: Self.shop, hold: .writes, secondsLeft: 20)) == true)
        #expect(standing?.holds.contains(.init(scope: .everything, hold: .all, secondsLeft: nil)) == true)
        #expect(standing?.gate == first.gate)

        var next = GateControl(threads: 1)
        next.restore(standing ?? GateStanding(), now: Self.time(100), &actions)
        #expect(actions == [.apply(first.gate)])
        actions = []
        #expect(next.deadline == Self.time(120))
        next.handle(.elapsed(now: Self.time(120)), &actions)
        order(&next, 1, .resume(.everything), at: 121)
        order(&next, 2, .enable("blog"), at: 121)
        #expect(next.gate == TrafficGate())
    }

    @Test func `what is under way cannot be handed over, and holds of switches stay`() {
        var control = GateControl(threads: 1)
        var actions: [GateControl.Action] = []
        control.handle(.databases(["shop"], hasWildcard: false), &actions)
        control.handle(.command(.init(1), .pause(.init(Self.shop)), now: Self.time(0)), &actions)
        #expect(control.standing(now: Self.time(0)) == nil)
        control.handle(.standing(watch: 1, worker: 0, GateBlockers()), &actions)
        #expect(control.standing(now: Self.time(0)) != nil)
        control.handle(.command(.init(2), .holdForSwitch("shop", limit: 1, endsPinned: false), now: Self.time(0)), &actions)
        control.handle(.standing(watch: 2, worker: 0, GateBlockers()), &actions)
        #expect(control.standing(now: Self.time(0)) == nil)
        control.leaveHolds(&actions)
        var writes = TrafficGate()
        writes.databases = ["shop": .writes]
        #expect(control.gate == writes)
    }

    @Test func `the threads of the process before are heard as one`() {
        var follower = GateFollower(threads: 2)
        #expect(follower.follow(.watch(7, .noServers(Self.shop))) == .watch(Self.base + 7, .noServers(Self.shop)))
        #expect(GateFollower.isOurs(Self.base + 7) && !GateFollower.isOurs(7))
        #expect(follower.stood(Self.base + 7, 1, GateBlockers()) == nil)
        #expect(follower.follow(.ask(7)) == .ask(Self.base + 7))
        let blockers = GateBlockers(["s0.1"])
        #expect(follower.stood(Self.base + 7, 0, blockers) == GateReply(watch: 7, blockers: blockers))
        // Told once; then it comes true after all.
        #expect(follower.stood(Self.base + 7, 0, GateBlockers()) == GateReply(watch: 7, blockers: GateBlockers()))
        #expect(follower.stood(Self.base + 7, 0, GateBlockers()) == nil)
        _ = follower.follow(.watch(8, .applied))
        #expect(follower.follow(.unwatch(8)) == .unwatch(Self.base + 8))
        #expect(follower.follow(.unwatch(8)) == nil)
        #expect(follower.follow(.ask(8)) == nil)
        #expect(follower.stood(Self.base + 8, 0, GateBlockers()) == nil)
    }

    @Test func `the end of the new process is not the old one's`() {
        #expect(GateWord(.stop) == nil && GateWord(.drain) == nil && GateWord(.watch(1, .noClients)) == nil)
        #expect(GateWord(.watch(1, .applied)) == .watch(1, .applied))
    }
}
