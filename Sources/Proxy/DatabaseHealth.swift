import Configuration
import Primitives
import Routing
import SQLAnalysis
import Synchronization

/// One database's health, shared by all threads: what one decides counts for all at once.
///
/// What is asked for each unit is read from atomics that follow the machine behind the lock; the lock is taken for
/// failures, probes and now and then for a batch of samples. Any thread.
package final class DatabaseHealth: Sendable {
    private struct State {
        var monitor: HealthMonitor
        /// Of the latest failure or trip, by side.
        var causes: [Side: String] = [:]
    }

    private let state: Mutex<State>
    /// Of the other side: 0: reads may go there; `UInt64.max`: they may not; else from this monotonic nanosecond on the
    /// breaker is to be asked.
    private let gate = Atomic<UInt64>(0)
    /// Sides of which a plain success is news: bit 0 the authority, bit 1 the other.
    private let awaited = Atomic<UInt8>(0)
    private let isDown = Atomic<Bool>(false)
    /// Microseconds; 0: not known.
    private let p99 = Atomic<UInt64>(0)
    /// The side that takes the writes.
    package let authority: Side

    /// - Parameter seed: for the spread of the breakers' times.
    package init(_ settings: BreakerSettings, authority: Side = .old, seed: UInt64) {
        self.authority = authority
        state = Mutex(State(monitor: HealthMonitor(
            settings, authority: authority, seed: seed, now: MonotonicInstant.now())))
    }

    package var other: Side { authority.other }

    // MARK: for each unit

    /// May a read go to the other side? `allow` but for the time after a trip.
    func ask(now: MonotonicInstant) -> (verdict: CircuitBreaker.Verdict, decision: HealthMonitor.Decision?) {
        let opensAt = gate.load(ordering: .acquiring)
        if opensAt == 0 { return (.allow, nil) }
        if !Self.isDue(opensAt, now) { return (.deny, nil) }
        return change { $0.ask(now: now) }
    }

    /// Whether the answer of a unit has to be told by `handle`: nearly never.
    func isAwaited(_ side: Side) -> Bool {
        awaited.load(ordering: .relaxed) & (side == authority ? 1 : 2) != 0
    }

    /// Of a breaker that is not closed: it is time to ask it.
    func takesProbes(now: MonotonicInstant) -> Bool { Self.isDue(gate.load(ordering: .relaxed), now) }

    private static func isDue(_ opensAt: UInt64, _ now: MonotonicInstant) -> Bool {
        opensAt != .max && now.nanoseconds >= opensAt
    }

    /// The other side's breaker is not closed.
    var isOtherOpen: Bool { gate.load(ordering: .relaxed) != 0 }

    /// The authority's breaker is open: who would have to wait for it is refused.
    var isAuthorityDown: Bool { isDown.load(ordering: .relaxed) }

    /// Microseconds within which the authority answers 99 of 100 reads; nil: there were too few lately.
    var authorityP99: UInt64? {
        let micros = p99.load(ordering: .relaxed)
        return micros == 0 ? nil : micros
    }

    // MARK: what is rarer

    /// - Parameter cause: what went wrong, for the operator; nil: nothing.
    func handle(
        _ event: CircuitBreaker.Event, on side: Side, cause: String?, now: MonotonicInstant
    ) -> HealthMonitor.Decision? {
        if let cause { state.withLock { $0.causes[side] = cause } }
        return change { $0.handle(event, on: side, now: now) }
    }

    func record(
        _ samples: ContiguousArray<HealthSample>, on side: Side, now: MonotonicInstant
    ) -> HealthMonitor.Decision? {
        change { $0.record(samples, on: side, now: now) }
    }

    func noteCompared(_ shape: UInt64, differs: Bool, now: MonotonicInstant) -> HealthMonitor.Decision? {
        change { $0.noteCompared(shape, differs: differs, now: now) }
    }

    func tick(lagSeconds: Double?, now: MonotonicInstant) -> HealthMonitor.Decision? {
        change { $0.tick(lagSeconds: lagSeconds, now: now) }
    }

    /// A reload. Called by every thread that takes it over.
    func apply(_ settings: BreakerSettings) { change { $0.apply(settings) } }

    /// An operator's word about the other side.
    package func force(_ wanted: BreakerForce) -> HealthMonitor.Decision? {
        let now = MonotonicInstant.now()
        return change { $0.handle(.forced(wanted), on: other, now: now) }
    }

    /// It waits for an operator, who has not said anything of it yet.
    package var isLatched: Bool {
        state.withLock { state in
            let breaker = state.monitor.breaker(of: other)
            return breaker.isLatched && breaker.force == .auto
        }
    }

    /// What is known of the side's latest failure.
    func lastCause(_ side: Side) -> String { state.withLock { $0.causes[side] ?? "" } }

    package func figures(now: MonotonicInstant) -> [HealthMonitor.Figures] {
        state.withLock { state in Side.allCases.map { state.monitor.figures(of: $0, now: now) } }
    }

    private func change<Outcome: Sendable>(_ body: (inout HealthMonitor) -> Outcome) -> Outcome {
        state.withLock { state in
            let outcome = body(&state.monitor)
            publish(state.monitor)
            return outcome
        }
    }

    /// Within the lock, so that the atomics never go back to what was before.
    private func publish(_ monitor: HealthMonitor) {
        let (ours, theirs) = (monitor.breaker(of: authority), monitor.breaker(of: other))
        let opensAt: UInt64
        switch theirs.phase {
        case .closed: opensAt = 0
        case .halfOpen: opensAt = 1
        case .open: opensAt = theirs.nextProbeAt.map { max(1, $0.nanoseconds) } ?? .max
        }
        if gate.load(ordering: .relaxed) != opensAt { gate.store(opensAt, ordering: .releasing) }
        let wanted: UInt8 = (ours.awaitsSuccess ? 1 : 0) | (theirs.awaitsSuccess ? 2 : 0)
        if awaited.load(ordering: .relaxed) != wanted { awaited.store(wanted, ordering: .relaxed) }
        let isOpen = ours.phase == .open
        if isDown.load(ordering: .relaxed) != isOpen { isDown.store(isOpen, ordering: .releasing) }
        let micros = monitor.authorityP99 ?? 0
        if p99.load(ordering: .relaxed) != micros { p99.store(micros, ordering: .relaxed) }
    }
}

/// Answers of one side on one thread, until they are worth the lock. A value, one owner; nothing is allocated
/// to add one.
struct SampleBuffer {
    private static let ageMaxNanos: UInt64 = 50_000_000

    /// In place, as in `UnitTimes`.
    private var places = InlineArray<64, HealthSample>(repeating: HealthSample(micros: 0, isError: false, shape: 0))
    private var count = 0
    private var since = MonotonicInstant(nanoseconds: 0)

    /// - Returns: whether they are to be told now.
    mutating func add(_ sample: HealthSample, now: MonotonicInstant) -> Bool {
        if count == 0 { since = now }
        places[count] = sample
        count += 1
        return count == places.count || now.nanoseconds(since: since) >= SampleBuffer.ageMaxNanos
    }

    /// Whoever is told that they are to be told takes them.
    mutating func take() -> ContiguousArray<HealthSample> {
        var samples: ContiguousArray<HealthSample> = []
        samples.reserveCapacity(count)
        for place in 0..<count { samples.append(places[place]) }
        count = 0
        return samples
    }
}
