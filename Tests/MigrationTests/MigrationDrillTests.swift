import Configuration
import Foundation
import Testing

@testable import Migration

/// When the way back may be rehearsed, and what comes of it.
@Suite struct MigrationDrillTests {
    private static let byHand = manifest { $0.phases[.cutover] = .init(advance: .manual) }

    private func atCutover() -> (Drive, Int64) {
        var drive = Drive(Self.byHand)
        let now = drive.walk(to: .cutover)
        drive.tick(at: now)
        return (drive, now + 1)
    }

    private func result(_ order: DrillOrder, _ hasPassed: Bool) -> DrillResult {
        DrillResult(order, began: 1).ending(hasPassed, "words", at: 2)
    }

    @Test func `a canary's drill is taken in each phase, and changes nothing`() {
        for phase in MigrationPhase.allCases where phase != .cleanup {
            var drive = Drive(manifest {
                for phase in MigrationPhase.allCases { $0.phases[phase] = .init(soakSeconds: 100_000) }
            })
            drive.handle(.worked(.install, now: 1))
            drive.machine = MigrationMachine(drive.machine.manifest, state: {
                var state = drive.machine.state
                state.phase = phase
                state.isSwitched = phase == .watch
                return state
            }())
            let order = DrillOrder(isWhole: false)
            #expect(drive.command(.drill(order), at: 5).contains(.perform(.drill)), "\(phase)")
            #expect(drive.machine.state.work == .drill && drive.machine.state.drill == order)
            #expect(drive.command(.advance, at: 6).first == .refused("drill is under way: wait for its end"))
            #expect(drive.command(.drill(order), at: 6).first == .refused("drill is under way: wait for its end"))
            let restored = MigrationMachine(drive.machine.manifest, state: drive.machine.state)
            var again: [MigrationMachine.Action] = []
            var copy = restored
            copy.handle(.restored(now: 7), &again)
            #expect(again.contains(.perform(.drill)))
            let actions = drive.handle(.drilled(result(order, false), now: 8))
            #expect(actions == [.alarm("the drill failed: words")])
            #expect(drive.machine.state.work == nil && drive.machine.state.drill == nil)
            #expect(drive.machine.state.drilled?.words == "words")
            #expect(drive.place == "\(phase.rawValue) running")
        }
    }

    @Test func `one that was aborted, and ended with its process, is in nobody's way`() {
        var drive = Drive(Self.byHand)
        drive.handle(.worked(.install, now: 1))
        let order = DrillOrder(isWhole: false)
        drive.command(.drill(order), at: 5)
        #expect(drive.command(.abort(reason: "tea"), at: 6).contains(.cancelDrill))
        drive.machine = MigrationMachine(drive.machine.manifest, state: drive.machine.state)
        drive.handle(.restored(now: 7_000_000))
        drive.command(.resume, at: 8)
        drive.handle(.worked(.install, now: 9_000_000))
        #expect(drive.command(.drill(order), at: 10).contains(.perform(.drill)))
    }

    @Test func `a whole one begins only where the gates of the cutover hold`() {
        let order = DrillOrder(isWhole: true, watchSeconds: 5)
        var early = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 100) })
        let shift = early.walk(to: .shift)
        guard case .refused(let words)? = early.command(.drill(order), at: shift).first else {
            return #expect(Bool(false), "taken in shift")
        }
        #expect(words.contains("where the cutover would"))
        var (drive, now) = atCutover()
        var bad = goodReadings()
        bad.preparedTransactions = 1
        drive.tick(bad, at: now)
        guard case .refused(let obstacle)? = drive.command(.drill(order), at: now).first else {
            return #expect(Bool(false), "taken against a gate")
        }
        #expect(obstacle.contains("prepared transactions"))
        #expect(drive.machine.state.work == nil)
        drive.tick(at: now + 1)
        #expect(drive.command(.drill(order), at: now + 1).contains(.perform(.drill)))
        #expect(!drive.machine.state.isSwitched)
    }

    @Test func `while a whole one has moved the writes nothing is taken for somebody else's doing`() {
        let order = DrillOrder(isWhole: true)
        var (drive, now) = atCutover()
        drive.command(.drill(order), at: now)
        var moved = goodReadings()
        (moved.isSwitched, moved.readsOverruled) = (true, "the reads were rolled back")
        // Late is no reason to go back there, as behind a cutover.
        moved.lagSeconds = 1000
        for second in 1..<200 { #expect(!drive.tick(moved, at: now + Int64(second)).contains(.holdReads)) }
        #expect(drive.place == "cutover running")
        now += 200
        // Passed: the reads are brought back to their step, for a way back takes them away.
        let actions = drive.handle(.drilled(result(order, true), now: now * 1_000_000))
        #expect(actions == [.reads(step: 1, keepsRollBack: false)])
        #expect(drive.place == "cutover running")
        #expect(drive.machine.gates(now: now * 1_000_000).allSatisfy { $0.since == nil })
    }

    @Test func `a whole one that failed pauses`() {
        let order = DrillOrder(isWhole: true)
        var (drive, now) = atCutover()
        drive.command(.drill(order), at: now)
        let actions = drive.handle(.drilled(result(order, false), now: now * 1_000_000))
        #expect(actions == [.alarm("the drill failed: words")])
        #expect(drive.place == "cutover paused")
        #expect(drive.command(.resume, at: now + 1).first == .reads(step: 1, keepsRollBack: false))
        now += 2
        // If the writes are NEW's still, it is found.
        var moved = goodReadings()
        moved.isSwitched = true
        drive.tick(moved, at: now)
        #expect(drive.place == "watch paused")
    }

    @Test func `a whole one that failed brings no reads back, also where an operator has paused meanwhile`() {
        let order = DrillOrder(isWhole: true)
        let (begun, now) = atCutover()
        var drive = begun
        drive.command(.drill(order), at: now)
        drive.command(.pause(reason: "tea"), at: now + 1)
        let actions = drive.handle(.drilled(result(order, false), now: (now + 2) * 1_000_000))
        #expect(actions == [.alarm("the drill failed: words")])
        #expect(drive.place == "cutover paused")
        #expect(drive.command(.resume, at: now + 3).first == .reads(step: 1, keepsRollBack: false))
    }

    @Test func `an abort ends it early, and waits for its end`() {
        for isWhole in [true, false] {
            let order = DrillOrder(isWhole: isWhole)
            var (drive, now) = atCutover()
            drive.command(.drill(order), at: now)
            let actions = drive.command(.abort(reason: "enough"), at: now + 1)
            #expect(actions.contains(.cancelDrill) && actions.contains(.holdReads))
            #expect(drive.place == (isWhole ? "cutover returning" : "cutover aborted"))
            drive.handle(.drilled(result(order, false), now: (now + 2) * 1_000_000))
            #expect(drive.place == "cutover aborted")
            #expect(drive.machine.state.cause == "enough" && drive.machine.state.work == nil)
        }
    }

    @Test func `an abort whose drill could not bring the writes back goes on bringing them back`() {
        let order = DrillOrder(isWhole: true)
        var (drive, now) = atCutover()
        drive.command(.drill(order), at: now)
        var moved = goodReadings()
        moved.isSwitched = true
        drive.tick(moved, at: now + 1)
        drive.command(.abort(reason: "enough"), at: now + 2)
        drive.tick(moved, at: now + 3)
        drive.handle(.drilled(result(order, false), now: (now + 4) * 1_000_000))
        #expect(drive.place == "cutover returning" && drive.machine.state.isSwitched)
        #expect(drive.tick(moved, at: now + 5) == [.perform(.switchBack)])
        drive.handle(.failed(.switchBack, reason: "OLD is down", now: (now + 6) * 1_000_000))
        #expect(drive.tick(moved, at: now + 11) == [.perform(.switchBack)])
        drive.handle(.worked(.switchBack, now: (now + 12) * 1_000_000))
        #expect(drive.place == "cutover aborted" && !drive.machine.state.isSwitched)
    }

    @Test func `NEW's errors end it early by themselves`() {
        var (drive, now) = atCutover()
        drive.command(.drill(DrillOrder(isWhole: true, watchSeconds: 3600)), at: now)
        var bad = goodReadings()
        bad.isSwitched = true
        bad.new?.errors = 200
        var actions: [MigrationMachine.Action] = []
        for second in 1...31 { actions += drive.tick(bad, at: now + Int64(second)) }
        #expect(actions.contains(.cancelDrill))
        #expect(drive.place == "cutover returning" && drive.machine.state.abortCause?.limit == .errors)
    }

    @Test func `what is stored of it is read again, and of a state without it too`() throws {
        var (drive, now) = atCutover()
        drive.command(.drill(DrillOrder(isWhole: true, watchSeconds: 7)), at: now)
        let json = try JSONEncoder().encode(drive.machine.state)
        #expect(try JSONDecoder().decode(MigrationState.self, from: json) == drive.machine.state)
        let before = #"{"phase":"shift","step":0,"standing":"running","isPrepared":true,"isSwitched":false,"#
            + #""isForced":false,"since":5,"approvals":[],"cause":"","by":""}"#
        #expect(try JSONDecoder().decode(MigrationState.self, from: Data(before.utf8)).drill == nil)
        now += 1
    }
}
