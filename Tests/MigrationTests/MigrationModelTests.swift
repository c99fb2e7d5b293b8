import Configuration
import Primitives
import Testing

@testable import Migration

/// Any events in any order, with a crash after any of them.
@Suite struct MigrationModelTests {
    private static func event(_ random: inout SeededGenerator, _ machine: MigrationMachine, _ now: Int64) -> MigrationMachine.Event {
        var readings = goodReadings()
        readings.verify?.at = now
        func oneIn(_ count: UInt64) -> Bool { random.next() % count == 0 }
        if oneIn(8) { readings.lagSeconds = oneIn(2) ? nil : 200 }
        if oneIn(8) { readings.tablesLeft = 3 }
        if oneIn(10) { readings.verify = .init(outcome: .different, differing: oneIn(2) ? 5 : 500, rows: 9, at: now) }
        if oneIn(10) { readings.new?.errors = 500 }
        if oneIn(20) { readings.readsOverruled = "rolled back" }
        if oneIn(10) { readings.unreachable = "OLD: gone" }
        let commands: [MigrationMachine.Command] = [
            .advance, .resume, .approve, .force(reason: "f"), .pause(reason: "p"), .abort(reason: "a"),
            .drill(DrillOrder(isWhole: oneIn(2))),
        ]
        switch random.next() % 10 {
        case 0...4: return .tick(readings, now: now)
        case 5, 6: return .command(commands[Int(random.next() % UInt64(commands.count))], by: oneIn(2) ? "ann" : "bob", now: now)
        case 7, 8:
            let all = MigrationState.Work.allCases
            let work = oneIn(4) ? all[Int(random.next() % UInt64(all.count))] : machine.state.work ?? .install
            if work == .drill {
                let order = machine.state.drill ?? DrillOrder(isWhole: false)
                return .drilled(DrillResult(order, began: 1).ending(oneIn(2), "d", at: now), now: now)
            }
            return oneIn(4) ? .failed(work, reason: "r", now: now) : .worked(work, now: now)
        default: return .restored(now: now)
        }
    }

    @Test func `nothing that must hold is ever broken`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("MigrationModelTests seed \(seed)")
        var random = SeededGenerator(seed: seed)
        var ended = 0
        for _ in 0..<400 {
            let wanted = manifest {
                $0.phases[.mirror] = .init(soakSeconds: Double(random.next() % 5))
                $0.phases[.cutover] = .init(advance: random.next() % 2 == 0 ? .auto : .manual)
                $0.phases[.validate] = .init(approvals: Int(random.next() % 2))
                if random.next() % 8 == 0 { $0.strategy = .reads }
                $0.abort.heldSeconds = Double(random.next() % 4)
            }
            var machine = MigrationMachine(wanted, by: "ann", now: 0)
            /// What the world is like: who has the writes.
            var hasSwitched = false
            for second in 1..<300 {
                let now = Int64(second) * 1_000_000
                let event = Self.event(&random, machine, now)
                let before = machine.state
                let obstacles = machine.gates(now: now).filter(\.blocks)
                var actions: [MigrationMachine.Action] = []
                machine.handle(event, &actions)
                let after = machine.state
                if case .worked(let work, _) = event, work == before.work {
                    if work == .switchOver { hasSwitched = true }
                    if work == .switchBack { hasSwitched = false }
                }
                check(before, after, event, actions, obstacles, machine, hasSwitched)
                if random.next() % 20 == 0 {
                    // It ends here, and another process begins with what was stored.
                    machine = MigrationMachine(wanted, state: after)
                    var again: [MigrationMachine.Action] = []
                    machine.handle(.restored(now: now), &again)
                    // But for a drill that was aborted, and whose process is gone.
                    var expected = after
                    if after.work != .drill, !after.isOver { expected.drill = nil }
                    #expect(machine.state == expected)
                    if let work = after.work { #expect(again.contains(.perform(work))) }
                    if after.standing == .aborted || after.standing == .returning { #expect(again.contains(.holdReads)) }
                }
            }
            if machine.state.isOver { ended += 1 }
        }
        #expect(ended > 0)
    }

    private func check(
        _ before: MigrationState, _ after: MigrationState, _ event: MigrationMachine.Event,
        _ actions: [MigrationMachine.Action], _ obstacles: [Gate], _ machine: MigrationMachine, _ hasSwitched: Bool
    ) {
        #expect(after.isSwitched == hasSwitched)
        if before.isOver { #expect(after == before) }
        if case .restored = event {
            var expected = before
            if before.work != .drill, !before.isOver { expected.drill = nil }
            #expect(after == expected)
        }
        // Every phase is passed, in its order.
        if after.phase.position > before.phase.position { #expect(after.phase.position == before.phase.position + 1) }
        if after.phase.position < before.phase.position { #expect(before.standing == .aborted) }
        // What is begun is ordered, and only one thing at a time.
        if after.work != before.work, let work = after.work { #expect(actions.contains(.perform(work))) }
        if after.standing == .aborted { #expect(after.work == nil && !after.isSwitched) }
        if after.standing == .returning { #expect(after.isSwitched || after.work == .switchOver || after.work == .drill) }
        if after.work == .drill { #expect(after.drill != nil) }
        if after.work == .drill, before.work != .drill, after.drill?.isWhole == true {
            #expect(obstacles.isEmpty && after.phase == .cutover && before.standing == .running)
        }
        if after.work == .switchOver { #expect(after.phase == .cutover && !after.isSwitched) }
        if after.work == .switchBack { #expect(after.standing == .returning && after.isSwitched) }
        if after.isSwitched { #expect(after.phase == .watch || after.phase == .cleanup || after.phase == .cutover) }
        // Whoever goes back holds the reads first.
        let isBack = after.standing == .aborted || after.standing == .returning
        if isBack, before.standing == .running || before.standing == .paused { #expect(actions.contains(.holdReads)) }
        for case .reads(let step, _) in actions {
            #expect(!after.isSwitched && step == after.step && (after.phase == .shift || after.phase == .cutover))
        }
        // By itself it goes on only when nothing is in the way, as measured then.
        if case .tick(_, let now) = event, after.phase.position > before.phase.position || after.step > before.step {
            #expect(before.standing == .running && before.work == nil)
            _ = now
        }
        if case .command(.advance, _, _) = event, before.standing == .running, before.work == nil,
            after.phase != before.phase || after.step != before.step || after.work == .switchOver {
            #expect(obstacles.isEmpty, "advanced against \(obstacles.map(\.name))")
        }
    }
}
