import Migration
import Primitives
import Testing

@Suite struct SwitchMachineTests {
    static let order: [SwitchStep] = [
        .rails, .reserve, .hold, .fence, .sequences, .batch, .claim, .swap, .handOver, .reverse,
    ]

    /// A machine that has been told that all steps before this one were done.
    private func machine(at step: SwitchStep) -> SwitchMachine {
        var machine = SwitchMachine(isDryRun: false)
        var action = machine.handle(.start)
        for done in Self.order.prefix(while: { $0 != step }) {
            #expect(action == .perform(done))
            action = machine.handle(.done(done))
        }
        #expect(action == .perform(step))
        return machine
    }

    @Test func `the steps come in their order and end with the switch made`() {
        #expect(Self.order == SwitchStep.allCases)
        var last = machine(at: .reverse)
        #expect(last.handle(.done(.reverse)) == .finish(.done))
        #expect(last.isFinished)
    }

    @Test func `a dry run looks at the guard rails and touches nothing`() {
        var machine = SwitchMachine(isDryRun: true)
        #expect(machine.handle(.start) == .perform(.rails))
        #expect(machine.handle(.done(.rails)) == .finish(.ready))
        var missed = SwitchMachine(isDryRun: true)
        _ = missed.handle(.start)
        #expect(missed.handle(.railsMissed) == .finish(.refused))
    }

    @Test(arguments: [SwitchStep.reserve, .hold, .fence, .batch, .sequences, .claim])
    func `a failure before the commit point takes everything back`(step: SwitchStep) {
        var machine = machine(at: step)
        let mayBeFenced = ![.reserve, .hold].contains(step)
        #expect(machine.handle(.failed(step, reason: "x")) == .takeBack(mayBeFenced: mayBeFenced))
        var stuck = machine
        #expect(machine.handle(.takenBack) == .finish(.resumed(reason: "\(step.rawValue): x")))
        #expect(stuck.handle(.takeBackFailed(reason: "y")) == .finish(.undecided(reason: "y")))
    }

    @Test func `a claim whose answer was lost is found out about`() {
        var machine = machine(at: .claim)
        #expect(machine.handle(.claimUnknown(reason: "x")) == .findOutAboutClaim)
        var (claimed, refused, silent) = (machine, machine, machine)
        #expect(claimed.handle(.claimFound(true)) == .perform(.swap))
        #expect(refused.handle(.claimFound(false)) == .takeBack(mayBeFenced: true))
        #expect(silent.handle(.claimUnreachable(reason: "y")) == .finish(.undecided(reason: "y")))
    }

    @Test(arguments: [SwitchStep.handOver, .reverse])
    func `behind the commit point a mirror that cannot begin yet takes nothing back`(step: SwitchStep) {
        var machine = machine(at: step)
        #expect(machine.handle(.failed(step, reason: "x")) == .finish(.done))
        #expect(step.isDecided)
    }

    @Test func `an event out of turn is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var machine = SwitchMachine(isDryRun: false)
            _ = machine.handle(.done(.claim))
        }
    }

    @Test func `no sequence of outcomes makes both a taken-back and a made switch`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("switches: seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<2000 {
            var machine = SwitchMachine(isDryRun: false)
            var action = machine.handle(.start)
            var hasClaimed = false, wasTakenBack = false
            while true {
                switch action {
                case .perform(let step):
                    if Bool.random(using: &generator) || Bool.random(using: &generator) {
                        if step == .claim { hasClaimed = true }
                        action = machine.handle(.done(step))
                    } else if step == .claim, Bool.random(using: &generator) {
                        action = machine.handle(.claimUnknown(reason: "lost"))
                    } else if step == .rails, Bool.random(using: &generator) {
                        action = machine.handle(.railsMissed)
                    } else {
                        action = machine.handle(.failed(step, reason: "failed"))
                    }
                case .findOutAboutClaim:
                    let isClaimed = Bool.random(using: &generator)
                    hasClaimed = hasClaimed || isClaimed
                    action = machine.handle(.claimFound(isClaimed))
                case .takeBack:
                    wasTakenBack = true
                    action = machine.handle(.takenBack)
                case .finish(let outcome):
                    #expect(!(hasClaimed && wasTakenBack), "seed \(seed)")
                    if outcome == .done { #expect(hasClaimed, "seed \(seed)") }
                    if case .resumed = outcome { #expect(!hasClaimed, "seed \(seed)") }
                }
                if machine.isFinished { break }
            }
        }
    }
}
