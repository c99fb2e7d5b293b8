import Configuration
import Foundation
import Primitives
import Testing

@testable import Migration

/// Everything that every phase asks, at its best.
func goodReadings() -> MigrationReadings {
    var readings = MigrationReadings()
    readings.mirror = .mirroring
    readings.tablesLeft = 0
    readings.copiedPercent = 100
    readings.lagSeconds = 0.1
    readings.verify = .init(outcome: .equal, differing: 0, rows: 10, at: 0)
    readings.isBreakerClosed = true
    readings.old = .init(calls: 1000, errors: 0, p95Micros: 1000)
    readings.new = .init(calls: 1000, errors: 0, p95Micros: 1000)
    readings.oldestTransactionSeconds = 0
    readings.preparedTransactions = 0
    readings.freeConnections = 100
    readings.sequencesMissing = []
    readings.guardRails = []
    return readings
}

func manifest(_ change: (inout MigrationManifest) -> Void = { _ in }) -> MigrationManifest {
    var manifest = MigrationManifest(id: "m", database: "shop")
    manifest.phases = [:]
    manifest.steps = [.init(hundredths: 1000), .init(hundredths: 10_000)]
    manifest.mapping = []
    change(&manifest)
    return manifest
}

/// Readings with one thing that is not as it must be.
struct Spoiled: Sendable, CustomTestStringConvertible {
    let phase: MigrationPhase
    let name: String
    let change: @Sendable (inout MigrationReadings) -> Void

    init(_ phase: MigrationPhase, _ name: String, _ change: @escaping @Sendable (inout MigrationReadings) -> Void) {
        self.phase = phase
        self.name = name
        self.change = change
    }

    var testDescription: String { "\(phase.rawValue): \(name)" }
}

/// One migration, driven by hand. Times in seconds.
struct Drive {
    var machine: MigrationMachine
    var actions: [MigrationMachine.Action] = []

    init(_ manifest: MigrationManifest) { machine = MigrationMachine(manifest, by: "ann", now: 0) }

    @discardableResult
    mutating func handle(_ event: MigrationMachine.Event) -> [MigrationMachine.Action] {
        actions = []
        machine.handle(event, &actions)
        return actions
    }

    @discardableResult
    mutating func tick(_ readings: MigrationReadings = goodReadings(), at seconds: Int64) -> [MigrationMachine.Action] {
        handle(.tick(readings, now: seconds * 1_000_000))
    }

    @discardableResult
    mutating func command(_ command: MigrationMachine.Command, by: String = "ann", at seconds: Int64) -> [MigrationMachine.Action] {
        handle(.command(command, by: by, now: seconds * 1_000_000))
    }

    /// Ticks until the phase is there. - Returns: the second after it.
    @discardableResult
    mutating func walk(to phase: MigrationPhase, step: Int = 0, from seconds: Int64 = 1) -> Int64 {
        if machine.state.work == .install { handle(.worked(.install, now: seconds * 1_000_000)) }
        var now = seconds
        while machine.state.phase != phase || machine.state.step < step, now < seconds + 1000 {
            tick(at: now)
            if machine.state.work == .switchOver { handle(.worked(.switchOver, now: now * 1_000_000)) }
            now += 1
        }
        return now
    }

    var place: String { "\(machine.state.phase.rawValue) \(machine.state.standing.rawValue)" }
}

@Suite struct MigrationMachineTests {
    @Test func `with all gates open it walks through all phases`() {
        var drive = Drive(manifest())
        #expect(drive.machine.state.work == .install)
        #expect(drive.tick(at: 1).isEmpty)
        drive.handle(.worked(.install, now: 1_000_000))
        var seen: [String] = [], orders: [MigrationMachine.Action] = []
        for second in 2..<40 {
            orders += drive.tick(at: Int64(second))
            if let work = drive.machine.state.work { drive.handle(.worked(work, now: Int64(second) * 1_000_000)) }
            let place = "\(drive.machine.state.phase.rawValue) \(drive.machine.state.step)"
            if seen.last != place { seen.append(place) }
        }
        #expect(seen == [
            "backfill 0", "mirror 0", "validate 0", "shadow 0", "shift 0", "shift 1", "cutover 1", "watch 0", "cleanup 0",
        ])
        #expect(drive.machine.state.standing == .finished)
        #expect(drive.machine.state.isSwitched)
        #expect(orders == [
            .reads(step: 0, keepsRollBack: false), .reads(step: 1, keepsRollBack: false), .perform(.switchOver),
            .perform(.remove),
        ])
    }

    /// What keeps each phase from being left, one reading at a time.
    static let obstacles = [
        Spoiled(.backfill, "copied") { r in r.tablesLeft = 1 },
        Spoiled(.backfill, "mirror") { r in r.mirror = .stopped },
        Spoiled(.mirror, "lag") { r in r.lagSeconds = 6 },
        Spoiled(.mirror, "lag") { r in r.lagSeconds = nil },
        Spoiled(.mirror, "captured") { r in r.uncaptured = ["public.late"] },
        Spoiled(.mirror, "mapping") { r in r.otherwiseMapped = ["public.orders"] },
        Spoiled(.cutover, "mapping") { r in r.otherwiseMapped = ["public.orders"] },
        Spoiled(.validate, "verified") { r in r.verify = nil },
        Spoiled(.validate, "verified") { r in r.verify?.outcome = .different },
        Spoiled(.validate, "verified") { r in r.verify?.outcome = .unknown },
        Spoiled(.validate, "reachable") { r in r.unreachable = "NEW: gone" },
        Spoiled(.shift, "errors") { r in r.new?.errors = 11 },
        Spoiled(.shift, "latency") { r in r.new?.p95Micros = 3001 },
        Spoiled(.shift, "breaker") { r in r.isBreakerClosed = false },
        Spoiled(.cutover, "transactions") { r in r.oldestTransactionSeconds = 31 },
        Spoiled(.cutover, "prepared transactions") { r in r.preparedTransactions = 1 },
        Spoiled(.cutover, "free connections") { r in r.freeConnections = 9 },
        Spoiled(.cutover, "sequences") { r in r.sequencesMissing = ["public.s"] },
        Spoiled(.cutover, "switch") { r in r.guardRails = nil },
        Spoiled(.cutover, "switch: slots") { r in
            r.guardRails = [.init(name: "slots", value: "0", threshold: "1", holds: false, advice: "")]
        },
    ]

    @Test(arguments: obstacles)
    func `a gate that does not hold keeps the phase`(spoiled: Spoiled) {
        let (phase, name) = (spoiled.phase, spoiled.name)
        var drive = Drive(manifest())
        let now = drive.walk(to: phase)
        var bad = goodReadings()
        spoiled.change(&bad)
        drive.tick(bad, at: now)
        #expect(drive.machine.state.phase == phase)
        let blocking = drive.machine.gates(now: now * 1_000_000).filter(\.blocks).map(\.name)
        #expect(blocking == [name])
        guard case .refused(let words)? = drive.command(.advance, at: now).last else {
            Issue.record("advanced against \(name)")
            return
        }
        #expect(words.contains(name))
        drive.tick(at: now + 1)
        #expect(drive.machine.state.phase != phase || drive.machine.state.step > 0 || drive.machine.state.work != nil)
    }

    @Test func `gates must hold for the whole soak, without a break`() {
        var drive = Drive(manifest { $0.phases[.mirror] = .init(soakSeconds: 10) })
        let now = drive.walk(to: .mirror)
        for second in 0..<9 { drive.tick(at: now + Int64(second)) }
        #expect(drive.place == "mirror running")
        var late = goodReadings()
        late.lagSeconds = 100
        drive.tick(late, at: now + 9)
        for second in 10..<20 { drive.tick(at: now + Int64(second)) }
        #expect(drive.place == "mirror running")
        drive.tick(at: now + 20)
        #expect(drive.place == "validate running")
    }

    @Test func `an old comparison does not count`() {
        var drive = Drive(manifest { $0.gates.verifyAgeSeconds = 60 })
        drive.walk(to: .validate)
        drive.tick(at: 61)
        #expect(drive.place == "validate running")
    }

    @Test func `approvals are by different people`() {
        var drive = Drive(manifest { $0.phases[.validate] = .init(approvals: 2) })
        let now = drive.walk(to: .validate)
        drive.tick(at: now)
        #expect(drive.command(.approve, by: "ann", at: now) == [.accepted("1 of 2 approvals")])
        #expect(drive.command(.approve, by: "ann", at: now) == [.refused("ann has approved already")])
        drive.tick(at: now + 1)
        #expect(drive.place == "validate running")
        drive.command(.approve, by: "bob", at: now + 1)
        drive.tick(at: now + 2)
        #expect(drive.place == "shadow running")
        #expect(drive.machine.state.approvals.isEmpty)
    }

    @Test func `a closed window holds up what is forward, and nothing else`() {
        var closed = goodReadings()
        closed.isWindowOpen = false
        var drive = Drive(manifest { $0.windows = [.init(days: [1], fromMinute: 0, toMinute: 60)] })
        let now = drive.walk(to: .shift)
        drive.tick(closed, at: now)
        drive.tick(closed, at: now + 1)
        #expect(drive.machine.state.step == 0)
        #expect(drive.command(.abort(reason: "enough"), at: now + 2).first == .holdReads)
    }

    @Test func `force goes on, and says against what`() {
        var drive = Drive(manifest())
        let now = drive.walk(to: .mirror)
        var bad = goodReadings()
        bad.lagSeconds = 50
        drive.tick(bad, at: now)
        drive.command(.force(reason: "known"), by: "eve", at: now)
        #expect(drive.place == "validate running")
        #expect(drive.machine.state.cause == "forced against lag: known")
        #expect(drive.machine.state.by == "eve")
    }

    @Test func `manual phases wait for a word`() {
        var drive = Drive(manifest { $0.phases[.cutover] = .init(advance: .manual) })
        let now = drive.walk(to: .cutover)
        for second in 0..<5 { drive.tick(at: now + Int64(second)) }
        #expect(drive.machine.state.work == nil)
        #expect(drive.command(.advance, at: now + 5).first == .perform(.switchOver))
        #expect(drive.command(.advance, at: now + 5) == [.refused("switch_over is under way: wait for its end")])
    }

    @Test func `paused it stays, and resumed it goes on`() {
        var drive = Drive(manifest())
        let now = drive.walk(to: .shift)
        drive.command(.pause(reason: "lunch"), at: now)
        drive.tick(at: now + 1)
        #expect(drive.place == "shift paused")
        #expect(drive.command(.advance, at: now + 1) == [.refused("it is paused: resume it first")])
        #expect(drive.command(.resume, at: now + 2).first == .reads(step: 0, keepsRollBack: false))
        drive.tick(at: now + 3)
        #expect(drive.machine.state.step == 1)
    }

    @Test func `reads that were rolled back pause it`() {
        var drive = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 100) })
        let now = drive.walk(to: .shift)
        var rolledBack = goodReadings()
        rolledBack.readsOverruled = "the reads were rolled back to 1 %"
        drive.tick(rolledBack, at: now)
        #expect(drive.place == "shift paused")
        #expect(drive.machine.state.cause.hasPrefix("the reads were rolled back to 1 %"))
    }

    @Test func `with strategy reads it ends at the last step`() {
        var drive = Drive(manifest { $0.strategy = .reads })
        let now = drive.walk(to: .shift, step: 1)
        for second in 0..<5 { drive.tick(at: now + Int64(second)) }
        #expect(drive.place == "shift running")
        #expect(drive.command(.advance, at: now + 6).contains { if case .refused = $0 { true } else { false } })
    }

    @Test func `a failed switch pauses, and the writes are where they were`() {
        var drive = Drive(manifest())
        let now = drive.walk(to: .cutover)
        drive.tick(at: now)
        drive.handle(.failed(.switchOver, reason: "deadline", now: now * 1_000_000))
        #expect(drive.place == "cutover paused")
        #expect(!drive.machine.state.isSwitched)
        #expect(drive.machine.state.cause == "switch_over failed: deadline")
    }
}

@Suite struct MigrationAbortTests {
    @Test(arguments: MigrationPhase.allCases)
    func `abort takes reads and writes back from each phase`(phase: MigrationPhase) {
        var drive = Drive(manifest {
            $0.phases[.watch] = .init(soakSeconds: 5)
            $0.phases[.cleanup] = .init(advance: .manual)
        })
        let now = phase == .prepare ? 1 : drive.walk(to: phase)
        #expect(drive.machine.state.phase == phase)
        let isSwitched = phase == .watch || phase == .cleanup
        #expect(drive.machine.state.isSwitched == isSwitched)
        let actions = drive.command(.abort(reason: "no"), by: "bob", at: now)
        #expect(actions.first == .holdReads)
        #expect(actions.contains(.perform(.switchBack)) == isSwitched)
        if isSwitched {
            #expect(drive.place == "\(phase.rawValue) returning")
            drive.handle(.worked(.switchBack, now: now * 1_000_000))
        }
        #expect(drive.place == "\(phase.rawValue) aborted")
        #expect(!drive.machine.state.isSwitched)
        #expect(drive.machine.state.cause == "no")
        // What was under way when it was aborted changes nothing any more.
        drive.handle(.worked(.install, now: now * 1_000_000))
        #expect(drive.place == "\(phase.rawValue) aborted")
        #expect(drive.command(.advance, at: now + 1).first == .perform(.remove))
        drive.handle(.worked(.remove, now: now * 1_000_000))
        #expect(drive.machine.state.standing == .removed)
    }

    @Test func `an abort in the midst of the switch waits for what comes of it`() {
        for happened in [true, false] {
            var drive = Drive(manifest())
            let now = drive.walk(to: .cutover)
            drive.tick(at: now)
            drive.command(.abort(reason: "no"), at: now)
            #expect(drive.place == "cutover returning")
            if happened {
                drive.handle(.worked(.switchOver, now: now * 1_000_000))
                #expect(drive.actions == [.perform(.switchBack)])
                drive.handle(.worked(.switchBack, now: now * 1_000_000))
            } else {
                drive.handle(.failed(.switchOver, reason: "deadline", now: now * 1_000_000))
            }
            #expect(drive.place == "cutover aborted")
            #expect(!drive.machine.state.isSwitched)
        }
    }

    @Test func `a way back that failed is tried again behind a restart`() throws {
        var drive = Drive(manifest { $0.phases[.watch] = .init(soakSeconds: 5) })
        let now = drive.walk(to: .watch)
        drive.command(.abort(reason: "no"), at: now)
        drive.handle(.failed(.switchBack, reason: "OLD is down", now: now * 1_000_000))
        let stored = try JSONDecoder().decode(MigrationState.self, from: JSONEncoder().encode(drive.machine.state))
        drive.machine = MigrationMachine(drive.machine.manifest, state: stored)
        #expect(drive.handle(.restored(now: (now + 1) * 1_000_000)) == [.holdReads])
        #expect(drive.tick(at: now + 1) == [.perform(.switchBack)])
    }

    @Test func `a way back that fails is tried again`() {
        var drive = Drive(manifest { $0.phases[.watch] = .init(soakSeconds: 5) })
        let now = drive.walk(to: .watch)
        drive.command(.abort(reason: "no"), at: now)
        drive.handle(.failed(.switchBack, reason: "OLD is down", now: now * 1_000_000))
        #expect(drive.place == "watch returning")
        #expect(drive.tick(at: now + 4).isEmpty)
        #expect(drive.tick(at: now + 5) == [.perform(.switchBack)])
        drive.handle(.failed(.switchBack, reason: "OLD is down", now: (now + 5) * 1_000_000))
        drive.command(.resume, at: now + 6)
        #expect(drive.place == "watch running")
        #expect(drive.machine.state.isSwitched)
    }

    @Test func `a clock that was set, or a break in measuring, neither soaks nor takes back`() {
        var drive = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 100) })
        let now = drive.walk(to: .shift)
        var bad = goodReadings()
        bad.new?.errors = 200
        drive.tick(bad, at: now)
        // An hour later by the clock.
        drive.machine.measureAnew()
        drive.tick(bad, at: now + 3600)
        #expect(drive.place == "shift running" && drive.machine.state.step == 0)
        drive.tick(at: now + 3601)
        drive.machine.measureAnew()
        drive.tick(at: now + 7200)
        #expect(drive.machine.state.step == 0)
        // And back again: it need not come by there once more.
        drive.machine.measureAnew()
        for second in 0...100 { drive.tick(at: now - 3600 + Int64(second)) }
        #expect(drive.machine.state.step == 1)
    }

    @Test func `a comparison of tomorrow, by a clock that was set back, says nothing of today`() {
        var drive = Drive(manifest { $0.phases[.validate] = .init() })
        drive.walk(to: .mirror)
        var readings = goodReadings()
        readings.verify?.at = 86_400_000_000
        for second in 2_000..<2_010 as Range<Int64> { drive.tick(readings, at: second) }
        #expect(drive.place == "validate running")
    }

    @Test func `what is being removed cannot be taken back`() {
        var drive = Drive(manifest())
        _ = drive.walk(to: .cleanup)
        drive.tick(at: 500)
        #expect(drive.machine.state.work == .remove)
        drive.command(.abort(reason: "no"), at: 501)
        #expect(drive.actions == [.refused("the way back is being removed: it cannot be taken any more")])
    }

    @Test func `no limit goes the way back that is being removed, and none tries to remove each second`() {
        var drive = Drive(manifest())
        _ = drive.walk(to: .cleanup)
        drive.tick(at: 500)
        #expect(drive.machine.state.work == .remove)
        var bad = goodReadings()
        bad.new?.errors = 500
        for second in 501..<600 as Range<Int64> { #expect(drive.tick(bad, at: second).isEmpty) }
        drive.handle(.failed(.remove, reason: "OLD does not answer", now: 600_000_000))
        #expect(drive.place == "cleanup paused")
        for second in 601..<700 as Range<Int64> { #expect(drive.tick(bad, at: second).isEmpty) }
        drive.command(.abort(reason: "no"), at: 700)
        guard case .refused? = drive.actions.first else { return #expect(Bool(false), "\(drive.actions)") }
        drive.command(.resume, at: 701)
        #expect(drive.tick(at: 702) == [.perform(.remove)])
        drive.handle(.worked(.remove, now: 703_000_000))
        #expect(drive.place == "cleanup finished")
    }

    @Test func `an aborted one may begin again, with what it has`() {
        var drive = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 100) })
        let now = drive.walk(to: .shift)
        drive.command(.abort(reason: "no"), at: now)
        drive.command(.resume, at: now + 1)
        #expect(drive.place == "mirror running")
        #expect(drive.machine.state.work == nil)
    }

    @Test func `what could be removed in part only is prepared again before it goes on`() {
        var drive = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 100) })
        let now = drive.walk(to: .shift)
        drive.command(.abort(reason: "no"), at: now)
        drive.command(.advance, at: now + 1)
        drive.handle(.failed(.remove, reason: "OLD does not answer", now: (now + 2) * 1_000_000))
        #expect(drive.machine.state.standing == .aborted)
        drive.command(.resume, at: now + 3)
        #expect(drive.actions.contains(.perform(.install)))
        drive.handle(.worked(.install, now: (now + 4) * 1_000_000))
        #expect(drive.machine.state.isPrepared)
    }

    static let limits = [
        Spoiled(.shift, "errors") { r in
            r.new?.errors = 101
            r.old?.errors = 101
        },
        Spoiled(.shift, "errors over OLD") { r in r.new?.errors = 11 },
        Spoiled(.shift, "latency") { r in r.new?.p95Micros = 3001 },
        Spoiled(.shift, "lag") { r in r.lagSeconds = 121 },
        Spoiled(.shift, "mismatch") { r in r.compared = .init(reads: 1000, differing: 2) },
    ]

    @Test(arguments: limits)
    func `a limit that is passed for 30 s takes the reads back`(spoiled: Spoiled) {
        var drive = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 1000) })
        let now = drive.walk(to: .shift)
        var bad = goodReadings()
        spoiled.change(&bad)
        for second in 0..<30 { drive.tick(bad, at: now + Int64(second)) }
        #expect(drive.place == "shift running")
        // A break begins the count anew.
        drive.tick(at: now + 30)
        for second in 31..<61 { drive.tick(bad, at: now + Int64(second)) }
        #expect(drive.place == "shift running")
        drive.tick(bad, at: now + 61)
        #expect(drive.place == "shift aborted")
        #expect(drive.machine.state.by == "godwit")
        #expect(drive.actions == [.holdReads])
        let cause = drive.machine.state.abortCause
        #expect(cause?.limit.rawValue == spoiled.name.replacing(" OLD", with: "_old").replacing(" ", with: "_"))
        #expect(cause?.since == (now + 31) * 1_000_000 && cause?.at == (now + 61) * 1_000_000)
        #expect((cause?.figure ?? 0) > (cause?.threshold ?? .infinity))
        drive.command(.resume, at: now + 62)
        #expect(drive.machine.state.abortCause == nil)
    }

    @Test(arguments: limits)
    func `at its limit a figure takes nothing back`(spoiled: Spoiled) {
        var drive = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 1000) })
        let now = drive.walk(to: .shift)
        var bad = goodReadings()
        bad.new?.errors = 10
        bad.new?.p95Micros = 3000
        bad.lagSeconds = 120
        bad.compared = .init(reads: 1000, differing: 1)
        for second in 0..<100 { drive.tick(bad, at: now + Int64(second)) }
        #expect(drive.place == "shift running")
        // What was not measured is no reason either.
        bad = goodReadings()
        (bad.old, bad.new, bad.lagSeconds, bad.compared, bad.verify) = (nil, nil, nil, nil, nil)
        for second in 100..<200 { drive.tick(bad, at: now + Int64(second)) }
        #expect(drive.place == "shift running")
        spoiled.change(&bad)
        bad.compared?.reads = 10
        bad.new?.calls = 10
        bad.lagSeconds = nil
        for second in 200..<300 { drive.tick(bad, at: now + Int64(second)) }
        #expect(drive.place == "shift running")
    }

    static let limitsBehindTheSwitch = [
        Spoiled(.watch, "errors") { r in r.new?.errors = 101 },
        Spoiled(.watch, "errors_over_old") { r in r.new?.errors = 31 },
        Spoiled(.watch, "latency") { r in r.new?.p95Micros = 8001 },
        Spoiled(.watch, "mismatch") { r in r.compared = .init(reads: 1000, differing: 2) },
    ]

    @Test(arguments: limitsBehindTheSwitch)
    func `behind the switch NEW is held against OLD as it was last`(spoiled: Spoiled) throws {
        var drive = Drive(manifest { $0.phases[.watch] = .init(soakSeconds: 1000) })
        var now = drive.walk(to: .cutover)
        var before = goodReadings()
        before.old = .init(calls: 1000, errors: 20, p95Micros: 4000)
        while drive.machine.state.work != .switchOver {
            drive.tick(before, at: now)
            now += 1
        }
        drive.handle(.worked(.switchOver, now: now * 1_000_000))
        #expect(drive.machine.state.baseline == .init(errorPercent: 2, p95Micros: 4000))
        // Nobody uses OLD any more. At the limits nothing happens, nor after a restart.
        var after = goodReadings()
        (after.old, after.isSwitched) = (nil, true)
        after.new = .init(calls: 1000, errors: 30, p95Micros: 8000)
        for second in 0..<100 { drive.tick(after, at: now + Int64(second)) }
        #expect(drive.place == "watch running")
        let stored = try JSONDecoder().decode(
            MigrationState.self, from: JSONEncoder().encode(drive.machine.state))
        drive.machine = MigrationMachine(drive.machine.manifest, state: stored)
        drive.handle(.restored(now: (now + 100) * 1_000_000))
        spoiled.change(&after)
        for second in 101...131 { drive.tick(after, at: now + Int64(second)) }
        #expect(drive.place == "watch returning")
        #expect(drive.machine.state.work == .switchBack)
        #expect(drive.machine.state.abortCause?.limit.rawValue == spoiled.name)
    }

    @Test func `behind the switch a mirror that is late is told, twice at most`() {
        var drive = Drive(manifest { $0.phases[.watch] = .init(soakSeconds: 1000) })
        let now = drive.walk(to: .watch)
        var late = goodReadings()
        (late.lagSeconds, late.isSwitched) = (31, true)
        var told: [MigrationMachine.Action] = []
        for second in 0..<50 { told += drive.tick(late, at: now + Int64(second)) }
        late.lagSeconds = 121
        for second in 50..<200 { told += drive.tick(late, at: now + Int64(second)) }
        #expect(told.count == 2, "\(told)")
        guard case .alarm(let words)? = told.last else { return #expect(Bool(false), "\(told)") }
        #expect(words.contains("the writes stay on NEW"))
        #expect(drive.place == "watch running")
    }

    @Test func `differing keys take it back at once`() {
        var drive = Drive(manifest())
        let now = drive.walk(to: .validate)
        var bad = goodReadings()
        bad.verify = .init(outcome: .different, differing: 99, rows: 1000, at: now * 1_000_000)
        drive.tick(bad, at: now)
        #expect(drive.place == "validate running")
        bad.verify?.differing = 100
        drive.tick(bad, at: now + 1)
        #expect(drive.place == "validate aborted")
    }

    @Test func `lag is told once, before it takes anything back`() {
        var drive = Drive(manifest())
        let now = drive.walk(to: .mirror)
        var late = goodReadings()
        late.lagSeconds = 31
        let first = drive.tick(late, at: now), second = drive.tick(late, at: now + 1)
        #expect(first.count == 1 && second.isEmpty)
        for tick in 2..<200 { drive.tick(late, at: now + Int64(tick)) }
        #expect(drive.place == "mirror running")
    }
}

@Suite struct MigrationForeignSwitchTests {
    @Test func `writes that somebody else has moved to NEW are watched over`() {
        var drive = Drive(manifest { $0.phases[.shift] = .init(soakSeconds: 100) })
        let now = drive.walk(to: .shift)
        var moved = goodReadings()
        moved.isSwitched = true
        drive.tick(moved, at: now)
        #expect(drive.place == "watch paused")
        #expect(drive.machine.state.isSwitched)
        drive.command(.resume, at: now + 1)
        #expect(drive.place == "watch running")
    }

    @Test func `writes that somebody else has taken back leave it aborted, and the reads with them`() {
        var drive = Drive(manifest { $0.phases[.watch] = .init(soakSeconds: 100) })
        let now = drive.walk(to: .watch)
        var back = goodReadings()
        back.isSwitched = false
        #expect(drive.tick(back, at: now).first == .holdReads)
        #expect(drive.place == "watch aborted")
        #expect(!drive.machine.state.isSwitched)
    }

    @Test func `behind the switch neither a difference nor lag takes the writes back`() {
        var drive = Drive(manifest { $0.phases[.watch] = .init(soakSeconds: 1000) })
        let now = drive.walk(to: .watch)
        var bad = goodReadings()
        bad.lagSeconds = 1000
        bad.verify = .init(outcome: .different, differing: 500, rows: 1000, at: 0)
        for second in 0..<100 { drive.tick(bad, at: now + Int64(second)) }
        #expect(drive.place == "watch running")
    }

    @Test func `a forced switch is known as one, until it is over`() {
        var drive = Drive(manifest { $0.phases[.cutover] = .init(advance: .manual) })
        let now = drive.walk(to: .cutover)
        drive.command(.force(reason: "now"), at: now)
        #expect(drive.machine.state.isForced && drive.machine.state.work == .switchOver)
        drive.handle(.worked(.switchOver, now: now * 1_000_000))
        #expect(!drive.machine.state.isForced)
    }
}
