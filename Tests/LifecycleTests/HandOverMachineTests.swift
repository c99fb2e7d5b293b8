import Lifecycle
import Primitives
import Testing

@Suite struct HandOverMachineTests {
    private let now = MonotonicInstant(nanoseconds: 5_000_000_000)

    private func run(_ machine: inout HandOverMachine, _ event: HandOverMachine.Event) -> [HandOverMachine.Action] {
        var actions: [HandOverMachine.Action] = []
        machine.handle(event, now: now, waitSeconds: 60, &actions)
        return actions.filter { action in
            switch action {
            case .tell, .warn: false
            case .grant, .refuse, .pauseListening, .withholdReads, .go, .resumeListening, .allowReads, .leave, .drain:
                true
            }
        }
    }

    private func step(_ step: TakeoverStep, obstacle: String? = nil) -> HandOverMachine.Event {
        .step(step, obstacle: obstacle)
    }

    @Test func `reads are withheld before the other process may serve`() {
        var machine = HandOverMachine()
        #expect(run(&machine, step(.asked(process: 7))) == [.grant])
        #expect(run(&machine, step(.ready)) == [.withholdReads, .pauseListening, .go])
        #expect(machine.deadline == nil)
        #expect(run(&machine, step(.serving(process: 7))) == [.leave(process: 7)])
        #expect(machine.hasLeft)
        #expect(machine.deadline == now.advanced(bySeconds: 60))
        #expect(run(&machine, .elapsed(now: now.advanced(bySeconds: 59))) == [])
        #expect(run(&machine, .elapsed(now: now.advanced(bySeconds: 60))) == [.drain])
        #expect(machine.deadline == nil)
        #expect(run(&machine, .elapsed(now: now.advanced(bySeconds: 61))) == [])
    }

    @Test func `one that has left stays so while its last clients are let go`() {
        var machine = HandOverMachine()
        _ = run(&machine, step(.asked(process: 7)))
        _ = run(&machine, step(.ready))
        _ = run(&machine, step(.serving(process: 7)))
        _ = run(&machine, .elapsed(now: now.advanced(bySeconds: 60)))
        // What it said of an end would be taken for the service's, and orders are the other one's.
        #expect(machine.hasLeft)
        #expect(machine.successor == 7)
        #expect(run(&machine, .ending) == [])
        #expect(machine.hasLeft)
    }

    @Test func `one that is lost before it serves has changed nothing`() {
        var machine = HandOverMachine()
        #expect(run(&machine, step(.asked(process: 7))) == [.grant])
        #expect(run(&machine, step(.lost("killed"))) == [])
        #expect(run(&machine, step(.asked(process: 8))) == [.grant])
        _ = run(&machine, step(.ready))
        #expect(run(&machine, step(.lost("killed"))) == [.resumeListening, .allowReads])
        #expect(run(&machine, step(.asked(process: 9))) == [.grant])
    }

    @Test func `the first process of a container keeps its place`() {
        var machine = HandOverMachine(isFirst: true)
        let refused = run(&machine, step(.asked(process: 7)))
        guard refused.count == 1, case .refuse(let why) = refused[0] else {
            Issue.record("not refused: \(refused)")
            return
        }
        #expect(why.contains("container"))
        #expect(machine.successor == nil)
    }

    @Test func `an obstacle is told, at the begin and in between`() {
        var machine = HandOverMachine()
        #expect(run(&machine, step(.asked(process: 7), obstacle: "held")) == [.refuse("held")])
        #expect(run(&machine, step(.asked(process: 7))) == [.grant])
        #expect(run(&machine, step(.ready, obstacle: "held")) == [.refuse("held")])
        #expect(run(&machine, step(.lost("it gave up"))) == [])
        #expect(run(&machine, step(.asked(process: 7))) == [.grant])
    }

    @Test func `an end that was ordered goes before`() {
        var machine = HandOverMachine()
        #expect(run(&machine, .ending) == [])
        #expect(run(&machine, step(.asked(process: 7))) == [.refuse("it is shutting down")])
        var paused = HandOverMachine()
        _ = run(&paused, step(.asked(process: 7)))
        _ = run(&paused, step(.ready))
        #expect(run(&paused, .ending) == [.allowReads])
        #expect(run(&paused, step(.serving(process: 7))) == [])
    }

    @Test func `events in any order are met`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let steps: [TakeoverStep] = [
            .asked(process: 1), .ready, .serving(process: 1), .lost("x"), .predecessorEnded, .canceled(number: 1),
            .successorExited(process: 1, status: 3), .cancel(number: 1, processID: 2, secret: []),
        ]
        for _ in 0..<200 {
            var machine = HandOverMachine()
            var isPaused = false
            var isWithheld = false
            for _ in 0..<40 {
                let event: HandOverMachine.Event =
                    switch Int.random(in: 0..<12, using: &generator) {
                    case 0: .elapsed(now: now.advanced(bySeconds: Double(Int.random(in: 0..<100, using: &generator))))
                    case 1 where Bool.random(using: &generator): .ending
                    default:
                        step(
                            steps.randomElement(using: &generator) ?? .ready,
                            obstacle: Int.random(in: 0..<5, using: &generator) == 0 ? "held" : nil)
                    }
                for action in run(&machine, event) {
                    switch action {
                    case .withholdReads: isWithheld = true
                    case .pauseListening: isPaused = true
                    case .resumeListening: isPaused = false
                    case .allowReads: isWithheld = false
                    case .go: #expect(isWithheld && isPaused)
                    case .leave: #expect(isWithheld && isPaused, "another process serves, and nobody knew")
                    case .grant, .refuse, .drain, .tell, .warn: break
                    }
                }
            }
        }
    }
}
