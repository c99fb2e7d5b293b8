import Primitives
import Testing

@testable import Mirroring

@Suite struct MirrorStateMachineTests {
    static func at(_ seconds: UInt64) -> MonotonicInstant { MonotonicInstant(nanoseconds: seconds * 1_000_000_000) }

    /// Feeds events and gives the actions of the last.
    static func actions(after events: [MirrorStateMachine.Event]) -> [MirrorStateMachine.Action] {
        var machine = MirrorStateMachine(lagMaxSeconds: 30)
        var actions = ActionList<MirrorStateMachine.Action>(capacity: MirrorStateMachine.actionsMax)
        for event in events.dropLast() {
            machine.handle(event, &actions)
            _ = actions.drain()
        }
        if let last = events.last { machine.handle(last, &actions) }
        return actions.drain()
    }

    static let mirroring: [MirrorStateMachine.Event] = [
        .start, .opened(backfillLeft: false, at: at(1)), .applied(backfillLeft: false, at: at(2)),
    ]

    @Test func `NEW becomes readable with the batch that ends the backfill`() {
        let events: [MirrorStateMachine.Event] = [.start, .opened(backfillLeft: true, at: Self.at(1))]
        #expect(Self.actions(after: events) == [.report(.backfill, reason: ""), .runBatch])
        let step = MirrorStateMachine.Event.applied(backfillLeft: true, at: Self.at(2))
        #expect(Self.actions(after: events + [step]) == [.runBatch])
        let last = MirrorStateMachine.Event.applied(backfillLeft: false, at: Self.at(3))
        #expect(Self.actions(after: events + [step, last]) == [
            .report(.mirroring, reason: ""), .setReadable(true), .runBatch,
        ])
    }

    @Test func `a short loss leaves reads on NEW, a long one takes them away`() {
        let short = Self.mirroring + [.failed(reason: "r", at: Self.at(10))]
        #expect(Self.actions(after: short) == [.close, .report(.waiting, reason: "r"), .backOff(millis: 50)])
        #expect(Self.actions(after: short + [.waited(at: Self.at(32))]) == [])
        #expect(Self.actions(after: short + [.waited(at: Self.at(33))]) == [.setReadable(false)])
        #expect(Self.actions(after: short + [.waited(at: Self.at(33)), .waited(at: Self.at(34))]) == [])
    }

    @Test func `a mirror of another one's that is lost from view takes the reads away at once`() {
        let lost = Self.mirroring + [.lost(reason: "r", at: Self.at(3))]
        #expect(Self.actions(after: lost) == [
            .setReadable(false), .close, .report(.waiting, reason: "r"), .backOff(millis: 50),
        ])
        let again = lost + [
            .backOffElapsed, .opened(backfillLeft: false, at: Self.at(4)), .applied(backfillLeft: false, at: Self.at(5)),
        ]
        #expect(Self.actions(after: again) == [.setReadable(true), .runBatch])
    }

    @Test func `reads come back with the first batch after a loss`() {
        let events = Self.mirroring + [
            .failed(reason: "r", at: Self.at(40)), .backOffElapsed, .opened(backfillLeft: false, at: Self.at(41)),
            .applied(backfillLeft: false, at: Self.at(42)),
        ]
        #expect(Self.actions(after: events) == [.setReadable(true), .runBatch])
    }

    @Test func `the back-off doubles up to its bound and starts anew after a batch`() {
        var events = Self.mirroring
        var millis: [UInt64] = []
        for _ in 0..<8 {
            events.append(.failed(reason: "r", at: Self.at(3)))
            for case .backOff(let value) in Self.actions(after: events) { millis.append(value) }
            events.append(.backOffElapsed)
        }
        #expect(millis == [50, 100, 200, 400, 800, 1600, 2000, 2000])
        events += [.opened(backfillLeft: false, at: Self.at(4)), .applied(backfillLeft: false, at: Self.at(4))]
        #expect(Self.actions(after: events + [.failed(reason: "r", at: Self.at(5))]).contains(.backOff(millis: 50)))
    }

    @Test func `another applier stops it for good, and takes reads away`() {
        let refused = Self.mirroring + [.refused(reason: "zombie")]
        #expect(Self.actions(after: refused) == [
            .setReadable(false), .close, .report(.stopped, reason: "zombie"),
        ])
        #expect(Self.actions(after: refused + [.stop]) == [.finish])
    }

    @Test func `a stop ends it in every state`() {
        for events in [[.start], Self.mirroring, Self.mirroring + [.failed(reason: "r", at: Self.at(3))]] {
            let actions = Self.actions(after: events + [.stop])
            #expect(actions.last == .finish)
            // Nobody is woken up for what was ordered.
            #expect(actions.contains(.report(.off, reason: "told to stop")))
        }
    }

    @Test func `a batch before opening is a bug`() async {
        await #expect(processExitsWith: .failure) {
            _ = Self.actions(after: [.start, .applied(backfillLeft: false, at: Self.at(1))])
        }
    }
}
