import Configuration
import Primitives
import SQLAnalysis

/// The health of one database's two sides: a breaker for each, and windows that hold the other side against the
/// authority. One owner; no clock inside, and no randomness but its seed's.
package struct HealthMonitor: Sendable {
    /// What has been decided.
    package enum Decision: Sendable, Equatable {
        case breaker(Side, CircuitBreaker.Transition)
        /// One statement shape does worse, the others do not: it alone leaves the other side.
        case demoted(ShapeID, TripCause)
    }

    /// One line of SHOW BREAKERS.
    package struct Figures: Sendable {
        package var side: Side
        package var role: CircuitBreaker.Role
        package var phase: CircuitBreaker.Phase
        package var isLatched: Bool
        package var force: BreakerForce
        package var changedAt: MonotonicInstant
        package var cause: TripCause?
        package var nextProbeAt: MonotonicInstant?
        package var trips: UInt64
        package var failuresInRow: Int
        /// Of the window.
        package var calls: Int
        package var errors: Int
        package var p95Micros: UInt64?
    }

    /// The side that takes the writes.
    package let authority: Side
    private var settings: BreakerSettings
    private var generator: SeededGenerator
    private var authorityBreaker: CircuitBreaker
    private var otherBreaker: CircuitBreaker
    private var authorityWindow: HealthWindow
    private var otherWindow: HealthWindow
    /// Few reads are compared, and each says much: they count for longer.
    private var comparedWindow: HealthWindow
    private static let comparedFactor = 60.0
    private var judgedAt: MonotonicInstant
    private var isLagging = false
    /// Of the authority's answers in the window, when it was last looked at, in microseconds; nil: there were too few.
    package private(set) var authorityP99: UInt64?

    package init(_ settings: BreakerSettings, authority: Side, seed: UInt64, now: MonotonicInstant) {
        self.settings = settings
        self.authority = authority
        generator = SeededGenerator(seed: seed)
        authorityBreaker = CircuitBreaker(settings, role: .authority, seed: generator.next(), now: now)
        otherBreaker = CircuitBreaker(settings, role: .other, seed: generator.next(), now: now)
        authorityWindow = HealthWindow(seconds: settings.windowSeconds)
        otherWindow = HealthWindow(seconds: settings.windowSeconds)
        comparedWindow = HealthWindow(seconds: settings.windowSeconds * Self.comparedFactor)
        judgedAt = now
    }

    /// A reload: breakers stay as they are.
    package mutating func apply(_ settings: BreakerSettings) {
        if settings == self.settings { return }
        if settings.windowSeconds != self.settings.windowSeconds {
            authorityWindow = HealthWindow(seconds: settings.windowSeconds)
            otherWindow = HealthWindow(seconds: settings.windowSeconds)
            comparedWindow = HealthWindow(seconds: settings.windowSeconds * Self.comparedFactor)
        }
        self.settings = settings
        authorityBreaker.apply(settings)
        otherBreaker.apply(settings)
    }

    package func breaker(of side: Side) -> CircuitBreaker { side == authority ? authorityBreaker : otherBreaker }

    package func figures(of side: Side, now: MonotonicInstant) -> Figures {
        let breaker = breaker(of: side)
        let window = side == authority ? authorityWindow : otherWindow
        let sums = window.sums(now: now)
        return Figures(
            side: side, role: side == authority ? .authority : .other, phase: breaker.phase,
            isLatched: breaker.isLatched, force: breaker.force, changedAt: breaker.changedAt, cause: breaker.cause,
            nextProbeAt: breaker.nextProbeAt, trips: breaker.trips, failuresInRow: breaker.failuresInRow,
            calls: sums.calls, errors: sums.errors,
            p95Micros: HealthWindow.percentile(0.95, of: window.times(now: now)))
    }

    // MARK: questions and answers

    /// May the other side have this read?
    package mutating func ask(now: MonotonicInstant) -> (verdict: CircuitBreaker.Verdict, decision: Decision?) {
        if isLagging, let next = otherBreaker.nextProbeAt, now >= next { otherBreaker.holdOn(now: now) }
        let (verdict, transition) = otherBreaker.ask(now: now)
        return (verdict, transition.map { .breaker(authority.other, $0) })
    }

    package mutating func handle(
        _ event: CircuitBreaker.Event, on side: Side, now: MonotonicInstant
    ) -> Decision? {
        let transition = side == authority
            ? authorityBreaker.handle(event, now: now) : otherBreaker.handle(event, now: now)
        guard let transition else { return nil }
        // What was measured before must not be held against what comes after.
        if side != authority { judgeAfresh() }
        return .breaker(side, transition)
    }

    /// Answers of one side, of one thread. Windows are looked at now and then.
    package mutating func record(
        _ samples: ContiguousArray<HealthSample>, on side: Side, now: MonotonicInstant
    ) -> Decision? {
        if side == authority {
            authorityWindow.add(samples, now: now, using: &generator)
        } else {
            otherWindow.add(samples, now: now, using: &generator)
        }
        return judgeIfDue(now)
    }

    /// A read has run on both sides at paired snapshots.
    package mutating func noteCompared(_ shape: UInt64, differs: Bool, now: MonotonicInstant) -> Decision? {
        comparedWindow.addCompared(shape, differs: differs, now: now)
        return judgeIfDue(now)
    }

    /// Once a second or so.
    ///
    /// - Parameter lagSeconds: how far the other side is behind; nil: it is not mirrored, or not yet a copy.
    package mutating func tick(lagSeconds: Double?, now: MonotonicInstant) -> Decision? {
        isLagging = settings.lagSeconds > 0 && (lagSeconds ?? 0) > settings.lagSeconds
        if isLagging, let lagSeconds {
            return handle(.judged(.lag(seconds: lagSeconds)), on: authority.other, now: now)
        }
        return judgeIfDue(now)
    }

    // MARK: the windows

    private mutating func judgeAfresh() {
        authorityWindow.removeAll()
        otherWindow.removeAll()
        comparedWindow.removeAll()
    }

    private mutating func judgeIfDue(_ now: MonotonicInstant) -> Decision? {
        let pause = settings.windowSeconds / Double(2 * HealthWindow.slotCount)
        if now < judgedAt.advanced(bySeconds: pause) { return nil }
        judgedAt = now
        let reference = authorityWindow.sums(now: now)
        let referenceTimes = authorityWindow.times(now: now)
        authorityP99 = reference.calls >= settings.windowCalls
            ? HealthWindow.percentile(0.99, of: referenceTimes) : nil
        guard otherBreaker.phase == .closed, otherBreaker.force == .auto else { return nil }
        let sums = otherWindow.sums(now: now)
        let times = otherWindow.times(now: now)
        var found = judgeMismatches(comparedWindow.sums(now: now), times)
        // Its first moments, with cold caches and new connections, say little, however many answers they hold.
        if otherWindow.span(now: now) >= HealthWindow.slotCount / 2 {
            found = judgeErrors(sums, times, reference) ?? found ?? judgeTimes(sums, times, reference, referenceTimes)
        }
        guard let (cause, shape) = found else { return nil }
        if let shape {
            judgeAfresh()
            return .demoted(ShapeID(shape), cause)
        }
        return handle(.judged(cause), on: authority.other, now: now)
    }

    private typealias Finding = (cause: TripCause, shape: UInt64?)

    private func judgeErrors(
        _ sums: HealthWindow.Sums, _ times: [HealthWindow.Time], _ reference: HealthWindow.Sums
    ) -> Finding? {
        guard sums.calls >= settings.windowCalls else { return nil }
        let referencePercent = reference.calls >= settings.windowCalls
            ? 100 * Double(reference.errors) / Double(reference.calls) : 0
        let limit = referencePercent + Double(settings.errorPointsHundredths) / 100
        let percent = 100 * Double(sums.errors) / Double(sums.calls)
        if percent <= limit { return nil }
        let cause = TripCause.errorRate(percent: percent, referencePercent: referencePercent, calls: sums.calls)
        return (cause, culprit(of: sums.errorShapes, sums.errors, sums.calls, times, limit))
    }

    private func judgeMismatches(_ sums: HealthWindow.Sums, _ times: [HealthWindow.Time]) -> Finding? {
        guard sums.compared >= settings.windowCalls else { return nil }
        let limit = Double(settings.mismatchHundredths) / 100
        let percent = 100 * Double(sums.differed) / Double(sums.compared)
        if percent <= limit { return nil }
        let cause = TripCause.mismatches(percent: percent, compared: sums.compared)
        return (cause, culprit(of: sums.differingShapes, sums.differed, sums.compared, times, limit))
    }

    /// The shape without whose part the share is within its limit, where enough remains to say so.
    private func culprit(
        of counts: [UInt64: Int], _ all: Int, _ calls: Int, _ times: [HealthWindow.Time], _ limit: Double
    ) -> UInt64? {
        guard let most = counts.filter({ $0.key != 0 }).max(by: { $0.value < $1.value }) else { return nil }
        let others = times.count { $0.shape != most.key }
        guard isEnough(others, of: times.count) else { return nil }
        let othersCalls = Double(calls) * Double(others) / Double(times.count)
        return 100 * Double(all - most.value) / othersCalls <= limit ? most.key : nil
    }

    private func judgeTimes(
        _ sums: HealthWindow.Sums, _ times: [HealthWindow.Time], _ reference: HealthWindow.Sums,
        _ referenceTimes: [HealthWindow.Time]
    ) -> Finding? {
        guard sums.calls >= settings.windowCalls, reference.calls >= settings.windowCalls,
            let limit = limit(referenceTimes), let p95 = HealthWindow.percentile(0.95, of: times), p95 > limit,
            let referenceP95 = HealthWindow.percentile(0.95, of: referenceTimes)
        else { return nil }
        let cause = TripCause.latency(p95: p95, referenceP95: referenceP95, calls: sums.calls)
        var slow: [UInt64: Int] = [:]
        for time in times where UInt64(time.micros) > limit && time.shape != 0 { slow[time.shape, default: 0] += 1 }
        guard let slowest = slow.max(by: { $0.value < $1.value })?.key else { return (cause, nil) }
        let others = times.filter { $0.shape != slowest }
        guard isEnough(others.count, of: times.count),
            let othersLimit = self.limit(referenceTimes.filter { $0.shape != slowest }),
            let othersP95 = HealthWindow.percentile(0.95, of: others), othersP95 <= othersLimit
        else { return (cause, nil) }
        return (cause, slowest)
    }

    /// Microseconds that the other side's p95 may be.
    private func limit(_ reference: [HealthWindow.Time]) -> UInt64? {
        HealthWindow.percentile(0.95, of: reference).map { p95 in
            max(UInt64(Double(p95) * settings.p95Factor), p95 + UInt64(settings.p95SlackMillis) * 1000)
        }
    }

    /// Where nearly all is of one shape nobody can tell whose fault it is: then it is the side's.
    private func isEnough(_ others: Int, of all: Int) -> Bool {
        others * 4 >= min(all, settings.windowCalls) && others > 0
    }
}
