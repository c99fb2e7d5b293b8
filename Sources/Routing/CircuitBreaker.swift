import Configuration
import Primitives

/// Why a side is given up for a while. A value, any thread.
package enum TripCause: Sendable, Equatable, CustomStringConvertible {
    /// Connections refused or lost, logins refused, no answer in time, 08xxx, 53xxx, 57P0x: in a row.
    case failures(count: Int)
    case errorRate(percent: Double, referencePercent: Double, calls: Int)
    case latency(p95: UInt64, referenceP95: UInt64, calls: Int)
    case mismatches(percent: Double, compared: Int)
    case lag(seconds: Double)

    /// Whether it says that the side answers worse, not that it does not answer: then the share of reads was too great.
    package var isOfQuality: Bool {
        switch self {
        case .failures: false
        case .errorRate, .latency, .mismatches, .lag: true
        }
    }

    package var description: String {
        switch self {
        case .failures(let count): "\(count) failures in a row"
        case .errorRate(let percent, let reference, _):
            "\(Self.text(percent)) % of its answers are errors of the server's own, "
                + "\(Self.text(reference)) % of the authority's"
        case .latency(let p95, let reference, _):
            "its p95 is \(Self.text(Double(p95) / 1000)) ms, the authority's \(Self.text(Double(reference) / 1000)) ms"
        case .mismatches(let percent, _): "\(Self.text(percent)) % of its answers differ from the authority's"
        case .lag(let seconds): "it is \(Self.text(seconds)) s behind the authority"
        }
    }

    package var figures: [EventRecord.Figure] {
        switch self {
        case .failures(let count): [.init("failures", Double(count))]
        case .errorRate(let percent, let reference, let calls):
            [
                .init("error_percent", percent), .init("authority_error_percent", reference),
                .init("calls", Double(calls)),
            ]
        case .latency(let p95, let reference, let calls):
            [
                .init("p95_ms", Double(p95) / 1000), .init("authority_p95_ms", Double(reference) / 1000),
                .init("calls", Double(calls)),
            ]
        case .mismatches(let percent, let compared):
            [.init("mismatch_percent", percent), .init("compared", Double(compared))]
        case .lag(let seconds): [.init("lag_s", seconds)]
        }
    }

    private static func text(_ value: Double) -> String { EventRecord.Figure("", value).text }
}

/// What an operator says of a breaker: nothing, or that it is to stay as he says. A value, any thread.
package enum BreakerForce: String, Sendable, CaseIterable { case auto, open, closed }

/// Whether one side of a database is used. One owner; no clock inside, and no randomness but its seed's.
///
/// closed: everything goes. Failures in a row, or what the windows find (`judged`), open it. open: nothing goes. Of the
/// *other* side it is held for a time that doubles with each failed probe and is a fifth more or less at random; then
/// half-open: at most `probes` reads at once; as many successes close it, one failure opens it again. One that opens
/// soon after it has closed is latched: it stays open until an operator says otherwise. The *authority* has nobody to
/// stand in for it: it opens only after its patience too, so that clients wait through a restart, and closes with the
/// first answer. Errors of the application's SQL are successes here: the side answered.
package struct CircuitBreaker: Sendable {
    package enum Role: String, Sendable { case authority, other }

    package enum Event: Sendable, Equatable {
        /// The side answered; `isProbe` as `RouteDecision.isProbe` said.
        case success(isProbe: Bool)
        case failure(isProbe: Bool)
        /// The side answers, but worse than it may.
        case judged(TripCause)
        /// A probe that will not be answered: the client went away, or the read never started.
        case probeAbandoned
        /// An operator's word; `auto` takes the latch off, too.
        case forced(BreakerForce)
    }

    package enum Verdict: UInt8, Sendable {
        case allow, deny
        /// Go, and report the outcome as a probe's.
        case probe
    }

    /// A change that is an event.
    package enum Transition: Sendable, Equatable {
        case opened(TripCause, isLatched: Bool, heldSeconds: Double)
        case reopened(heldSeconds: Double)
        case halfOpened
        case closed
        case forced(BreakerForce)
    }

    package enum Phase: String, Sendable, CaseIterable { case closed, open, halfOpen = "half-open" }

    private enum State {
        case closed(failures: Int, since: MonotonicInstant)
        case open(until: MonotonicInstant)
        case latched
        case halfOpen(inFlight: Int, successes: Int, lastProbeAt: MonotonicInstant)
    }

    /// Times the first hold that a later one may last.
    package static let holdFactorMax = 8.0
    private static let jitter = 0.2

    private var state: State
    private var settings: BreakerSettings
    private let role: Role
    private var generator: SeededGenerator
    private var failedProbes = 0
    private var closedAt: MonotonicInstant?
    package private(set) var force: BreakerForce = .auto
    /// Times it opened since the start.
    package private(set) var trips: UInt64 = 0
    /// Of the latest trip.
    package private(set) var cause: TripCause?
    /// When it last went from one phase to another.
    package private(set) var changedAt: MonotonicInstant

    package init(_ settings: BreakerSettings, role: Role, seed: UInt64, now: MonotonicInstant) {
        precondition(settings.failures > 0 && settings.probes > 0, "a breaker that cannot open or close")
        self.settings = settings
        self.role = role
        generator = SeededGenerator(seed: seed)
        state = .closed(failures: 0, since: now)
        changedAt = now
    }

    /// A reload: what it knows stays.
    package mutating func apply(_ settings: BreakerSettings) { self.settings = settings }

    package var phase: Phase {
        switch force {
        case .open: return .open
        case .closed: return .closed
        case .auto: break
        }
        switch state {
        case .closed: return .closed
        case .open, .latched: return .open
        case .halfOpen: return .halfOpen
        }
    }

    package var isLatched: Bool { if case .latched = state { true } else { false } }

    package var failuresInRow: Int { if case .closed(let failures, _) = state { failures } else { 0 } }

    /// When it may be asked again; nil: now, or only an operator knows.
    package var nextProbeAt: MonotonicInstant? {
        guard force == .auto, role == .other, case .open(let until) = state else { return nil }
        return until
    }

    /// An answer would change it.
    package var awaitsSuccess: Bool {
        switch state {
        case .closed(let failures, _): failures > 0
        case .open: role == .authority
        case .latched, .halfOpen: false
        }
    }

    /// Asked for each read that wants to go; `probe` takes one of the probes' places until its outcome is reported.
    package mutating func ask(now: MonotonicInstant) -> (verdict: Verdict, transition: Transition?) {
        switch force {
        case .open: return (.deny, nil)
        case .closed: return (.allow, nil)
        case .auto: break
        }
        switch state {
        case .closed:
            return (.allow, nil)
        case .latched:
            return (.deny, nil)
        case .open(let until):
            if now < until || role == .authority { return (.deny, nil) }
            state = .halfOpen(inFlight: 1, successes: 0, lastProbeAt: now)
            changedAt = now
            return (.probe, .halfOpened)
        case .halfOpen(let inFlight, let successes, let lastProbeAt):
            if inFlight < settings.probes {
                state = .halfOpen(inFlight: inFlight + 1, successes: successes, lastProbeAt: now)
                return (.probe, nil)
            }
            // Probes that nobody has reported must not keep it half-open for ever.
            if now < lastProbeAt.advanced(bySeconds: settings.heldSeconds) { return (.deny, nil) }
            state = .halfOpen(inFlight: 1, successes: successes, lastProbeAt: now)
            return (.probe, nil)
        }
    }

    /// It goes on being held: what opened it lasts, and needs no probe to be seen.
    package mutating func holdOn(now: MonotonicInstant) {
        if case .open = state { state = .open(until: now.advanced(bySeconds: settings.heldSeconds)) }
    }

    package mutating func handle(_ event: Event, now: MonotonicInstant) -> Transition? {
        switch (state, event) {
        case (.closed, .success):
            state = .closed(failures: 0, since: now)
            return nil
        case (.closed(let failures, let since), .failure):
            let first = failures == 0 ? now : since
            if failures + 1 < settings.failures || !isPatienceOver(first, now) || force != .auto {
                state = .closed(failures: failures + 1, since: first)
                return nil
            }
            return open(.failures(count: failures + 1), now)
        case (.closed, .judged(let cause)):
            return role == .authority || force != .auto ? nil : open(cause, now)
        case (.halfOpen(let inFlight, let successes, let lastProbeAt), .success(isProbe: true)):
            if successes + 1 >= settings.probes { return close(now) }
            state = .halfOpen(inFlight: max(0, inFlight - 1), successes: successes + 1, lastProbeAt: lastProbeAt)
            return nil
        case (.halfOpen, .failure(isProbe: true)):
            failedProbes += 1
            let held = hold()
            state = .open(until: now.advanced(bySeconds: held))
            trips += 1
            changedAt = now
            return .reopened(heldSeconds: held)
        case (.halfOpen(let inFlight, let successes, let lastProbeAt), .probeAbandoned):
            state = .halfOpen(inFlight: max(0, inFlight - 1), successes: successes, lastProbeAt: lastProbeAt)
            return nil
        case (.open, .success):
            return role == .authority ? close(now) : nil  // else an answer that was on its way when it opened
        case (_, .forced(let wanted)):
            return forced(wanted, now)
        case (.halfOpen, .success(isProbe: false)), (.halfOpen, .failure(isProbe: false)), (.halfOpen, .judged):
            return nil                               // a read from before it opened
        case (.open, .failure), (.open, .probeAbandoned), (.open, .judged), (.closed, .probeAbandoned),
            (.latched, .success), (.latched, .failure), (.latched, .probeAbandoned), (.latched, .judged):
            return nil                               // answers still on their way when it opened or closed
        }
    }

    private func isPatienceOver(_ first: MonotonicInstant, _ now: MonotonicInstant) -> Bool {
        role == .other || now >= first.advanced(bySeconds: settings.patienceSeconds)
    }

    private mutating func open(_ cause: TripCause, _ now: MonotonicInstant) -> Transition {
        trips += 1
        self.cause = cause
        changedAt = now
        failedProbes = 0
        let memory = settings.memorySeconds
        let isRecent = closedAt.map { now < $0.advanced(bySeconds: memory) } ?? false
        if role == .other && isRecent {
            state = .latched
            return .opened(cause, isLatched: true, heldSeconds: 0)
        }
        let held = role == .authority ? 0 : hold()
        state = .open(until: now.advanced(bySeconds: held))
        return .opened(cause, isLatched: false, heldSeconds: held)
    }

    private mutating func close(_ now: MonotonicInstant) -> Transition {
        state = .closed(failures: 0, since: now)
        failedProbes = 0
        closedAt = now
        changedAt = now
        return .closed
    }

    private mutating func forced(_ wanted: BreakerForce, _ now: MonotonicInstant) -> Transition? {
        let isLatchedNow = isLatched
        if wanted == force && !(wanted == .auto && isLatchedNow) { return nil }
        force = wanted
        changedAt = now
        // From here it proves itself with probes, and its past is forgiven.
        if wanted == .auto {
            closedAt = nil
            if isLatchedNow { state = .open(until: now) }
        }
        return .forced(wanted)
    }

    /// Seconds: spread, so that several Godwits do not probe together.
    private mutating func hold() -> Double {
        let factor = min(Self.holdFactorMax, Double(1 << min(failedProbes, 10)))
        let spread = Double.random(in: (1 - Self.jitter)...(1 + Self.jitter), using: &generator)
        return settings.heldSeconds * factor * spread
    }
}
