import Configuration
import Primitives
import SQLAnalysis
import Testing

@testable import Routing

@Suite struct HealthMonitorTests {
    private static let start = MonotonicInstant(nanoseconds: 1_000_000_000_000)

    /// A monitor, and its clock.
    private struct Bench {
        var monitor: HealthMonitor
        var now = HealthMonitorTests.start
        private(set) var decisions: [HealthMonitor.Decision] = []

        init(_ change: (inout BreakerSettings) -> Void = { _ in }) {
            var settings = BreakerSettings()
            settings.windowCalls = 100
            change(&settings)
            monitor = HealthMonitor(settings, authority: .old, seed: 1, now: HealthMonitorTests.start)
        }

        /// Answers of a second, ten times over.
        mutating func answers(_ side: Side, _ micros: [UInt64], errors: Int = 0, shape: UInt64 = 1) {
            let samples = micros.enumerated().map {
                HealthSample(micros: $1, isError: $0 < errors, shape: shape)
            }
            note(monitor.record(ContiguousArray(samples), on: side, now: now))
        }

        mutating func pass(seconds: Double) { now = now.advanced(bySeconds: seconds) }

        mutating func judge() {
            pass(seconds: 6)
            note(monitor.tick(lagSeconds: nil, now: now))
        }

        mutating func note(_ decision: HealthMonitor.Decision?) { if let decision { decisions.append(decision) } }

        var trip: TripCause? {
            guard case .breaker(.new, .opened(let cause, _, _))? = decisions.first else { return nil }
            return cause
        }
    }

    private func times(_ count: Int, _ micros: UInt64) -> [UInt64] { Array(repeating: micros, count: count) }

    @Test func `a p95 over its factor opens it, one at it does not`() {
        for (micros, isOver) in [(20_000, false), (20_001, true)] as [(UInt64, Bool)] {
            var bench = Bench()
            bench.answers(.old, times(100, 10_000))
            bench.answers(.new, times(94, 1000) + times(6, micros))
            bench.judge()
            #expect((bench.trip != nil) == isOver, "\(micros)")
            if isOver { #expect(bench.trip == .latency(p95: 20_001, referenceP95: 10_000, calls: 100)) }
            #expect(bench.monitor.authorityP99 == 10_000)
        }
    }

    @Test func `times that are all noise do not open it, nor do too few`() {
        var bench = Bench { $0.p95SlackMillis = 2 }
        bench.answers(.old, times(100, 100))
        bench.answers(.new, times(100, 2100))
        bench.judge()
        #expect(bench.decisions.isEmpty, "within the slack")
        bench.pass(seconds: 5)
        bench.answers(.new, times(100, 2101))
        bench.answers(.old, times(99, 100))
        bench.judge()
        #expect(bench.decisions.isEmpty, "99 of the authority's are too few, and the earlier ones are out of the window")
    }

    @Test func `its first moments are not judged`() {
        for (seconds, isJudged) in [(3.9, false), (4.0, true)] {
            var bench = Bench()
            bench.answers(.old, times(100, 1000))
            bench.answers(.new, times(100, 90_000))
            bench.pass(seconds: seconds)
            bench.note(bench.monitor.tick(lagSeconds: nil, now: bench.now))
            #expect((bench.trip != nil) == isJudged, "\(seconds)")
        }
    }

    @Test func `errors of the server's over the authority's share open it`() {
        for (errors, isOver) in [(3, false), (4, true)] {
            var bench = Bench()
            bench.answers(.old, times(100, 1000), errors: 2)
            bench.answers(.new, times(100, 1000), errors: errors)
            bench.judge()
            #expect((bench.trip != nil) == isOver)
            if isOver { #expect(bench.trip == .errorRate(percent: 4, referencePercent: 2, calls: 100)) }
        }
        var alone = Bench()
        alone.answers(.new, times(100, 1000), errors: 2)
        alone.judge()
        #expect(alone.trip != nil, "with nobody on the authority it has no excuse")
    }

    @Test func `what one shape causes costs that shape alone`() {
        var slow = Bench()
        for shape in 1...4 as ClosedRange<UInt64> { slow.answers(.old, times(50, 1000), shape: shape) }
        for shape in 1...3 as ClosedRange<UInt64> { slow.answers(.new, times(50, 1000), shape: shape) }
        slow.answers(.new, times(50, 90_000), shape: 4)
        slow.judge()
        #expect(slow.decisions.count == 1)
        guard case .demoted(ShapeID(4), .latency)? = slow.decisions.first else {
            Issue.record("\(slow.decisions)")
            return
        }
        slow.judge()
        #expect(slow.decisions.count == 1, "it is judged afresh")

        var failing = Bench()
        for shape in 1...3 as ClosedRange<UInt64> { failing.answers(.new, times(50, 1000), shape: shape) }
        failing.answers(.new, times(50, 1000), errors: 50, shape: 4)
        failing.judge()
        guard case .demoted(ShapeID(4), .errorRate)? = failing.decisions.first else {
            Issue.record("\(failing.decisions)")
            return
        }
    }

    @Test func `two shapes that do worse are the side's fault, and so is the only one there is`() {
        var two = Bench()
        two.answers(.old, times(200, 1000))
        for shape in 1...2 as ClosedRange<UInt64> { two.answers(.new, times(50, 1000), shape: shape) }
        for shape in 3...4 as ClosedRange<UInt64> { two.answers(.new, times(50, 90_000), shape: shape) }
        two.judge()
        #expect(two.trip?.isOfQuality == true)
        var only = Bench()
        only.answers(.old, times(100, 1000))
        only.answers(.new, times(100, 90_000))
        only.judge()
        #expect(only.trip?.isOfQuality == true)
    }

    @Test func `differences over their share open it, those of one shape demote it`() {
        for (differing, shapes) in [(1, 1), (3, 3)] as [(Int, Int)] {
            var bench = Bench()
            for number in 0..<1000 {
                bench.answers(.new, [1000], shape: UInt64(number % 10 + 1))
                let differs = number < differing
                let shape = UInt64(number % shapes + 1)
                bench.note(bench.monitor.noteCompared(differs ? shape : 9, differs: differs, now: bench.now))
            }
            bench.judge()
            #expect(bench.decisions.isEmpty == (differing == 1), "0.1 % is its limit: \(bench.decisions)")
            if differing == 3 { #expect(bench.trip == .mismatches(percent: 0.3, compared: 1000)) }
        }
        var one = Bench()
        for number in 0..<1000 {
            one.answers(.new, [1000], shape: UInt64(number % 10 + 1))
            one.note(one.monitor.noteCompared(5, differs: number < 20, now: one.now))
        }
        one.judge()
        guard case .demoted(ShapeID(5), .mismatches)? = one.decisions.first else {
            Issue.record("\(one.decisions)")
            return
        }
    }

    @Test func `few reads are compared, so they count for minutes, and without any that NEW has answered`() {
        for (pauseSeconds, isTripped) in [(5.0, true), (7.0, false)] {
            var bench = Bench()
            for number in 0..<100 {
                bench.pass(seconds: pauseSeconds)
                bench.note(bench.monitor.noteCompared(7, differs: number % 50 == 0, now: bench.now))
            }
            bench.judge()
            // A hundred have to be there, and the window is sixty times that of answers: ten minutes.
            #expect((bench.trip == .mismatches(percent: 2, compared: 100)) == isTripped, "\(bench.decisions)")
        }
    }

    @Test func `a side that lags is given up, and not probed before it has caught up`() throws {
        var bench = Bench {
            $0.lagSeconds = 5
            $0.heldSeconds = 10
            $0.memorySeconds = 0
        }
        bench.note(bench.monitor.tick(lagSeconds: 5, now: bench.now))
        #expect(bench.decisions.isEmpty)
        bench.note(bench.monitor.tick(lagSeconds: 5.1, now: bench.now))
        #expect(bench.trip == .lag(seconds: 5.1))
        for _ in 0..<5 {
            bench.pass(seconds: 30)
            _ = bench.monitor.tick(lagSeconds: 6, now: bench.now)
            #expect(bench.monitor.ask(now: bench.now).verdict == .deny)
        }
        _ = bench.monitor.tick(lagSeconds: 1, now: bench.now)
        bench.pass(seconds: 13)
        #expect(bench.monitor.ask(now: bench.now).verdict == .probe)
    }

    @Test func `what was measured before it closed is not held against it`() throws {
        var bench = Bench { $0.memorySeconds = 0; $0.heldSeconds = 1; $0.probes = 1 }
        bench.answers(.old, times(100, 1000))
        bench.answers(.new, times(100, 90_000))
        bench.judge()
        #expect(bench.trip != nil)
        bench.answers(.new, times(100, 90_000))
        bench.pass(seconds: 2)
        #expect(bench.monitor.ask(now: bench.now).verdict == .probe)
        #expect(bench.monitor.handle(.success(isProbe: true), on: .new, now: bench.now)
            == .breaker(.new, .closed))
        bench.answers(.old, times(100, 1000))
        let before = bench.decisions.count
        bench.judge()
        #expect(bench.decisions.count == before)
    }

    @Test func `the authority is not judged by the other side`() {
        var bench = Bench()
        bench.answers(.new, times(200, 1000))
        bench.answers(.old, times(200, 900_000), errors: 150)
        bench.judge()
        #expect(bench.decisions.isEmpty)
    }

    @Test func `a window holds its seconds and no more, and bounded times whatever the traffic`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        var window = HealthWindow(seconds: 10)
        var all: [(at: MonotonicInstant, sample: HealthSample)] = []
        var now = Self.start
        for round in 0..<30_000 {
            now = MonotonicInstant(nanoseconds: now.nanoseconds + UInt64.random(in: 0..<2_000_000, using: &generator))
            let sample = HealthSample(
                micros: UInt64.random(in: 0..<1000, using: &generator),
                isError: Int.random(in: 0..<50, using: &generator) == 0,
                shape: UInt64.random(in: 0..<60, using: &generator))
            window.add([sample], now: now, using: &generator)
            all.append((now, sample))
            guard round % 1000 == 999 else { continue }
            let slot = now.nanoseconds / 1_000_000_000
            let live = all.filter { $0.at.nanoseconds / 1_000_000_000 + 10 > slot }
            let sums = window.sums(now: now)
            #expect(sums.calls == live.count, "seed \(seed), round \(round)")
            #expect(sums.errors == live.count { $0.sample.isError }, "seed \(seed), round \(round)")
            #expect(sums.errorShapes.values.reduce(0, +) == sums.errors, "seed \(seed), round \(round)")
            let times = window.times(now: now)
            #expect(times.count <= 10 * HealthWindow.timesMax && times.count >= min(live.count, 128))
            // A fair sample of 0..<1000: its median is near the middle.
            let median = HealthWindow.percentile(0.5, of: times) ?? 0
            #expect(times.count < 500 || (400...600).contains(median), "seed \(seed), round \(round): \(median)")
        }
    }
}
