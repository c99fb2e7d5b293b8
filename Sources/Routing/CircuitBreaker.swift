import Configuration
import Primitives

/// Keeps reads away from a side that does not answer, and lets it prove itself again. One owner, no clock inside.
///
/// closed: everything goes. `failures` connection-class failures in a row open it. open: nothing goes for
/// `heldSeconds`. Then half-open: at most `probes` reads at once; as many successes in a row close it, one failure
/// opens it again. Errors of the application's SQL are successes here: the side answered.
package struct CircuitBreaker: Sendable {
    package enum Event: Sendable, Equatable {
        /// The side answered; `isProbe` as `RouteDecision.isProbe` said.
        case success(isProbe: Bool)
        /// Connection refused or lost, 08xxx, 57P0x, 53xxx.
        case failure(isProbe: Bool)
        /// A probe that will not be answered: the client went away, or the read never started.
        case probeAbandoned
    }

    package enum Verdict: UInt8, Sendable {
        case allow, deny
        /// Go, and report the outcome as a probe's.
        case probe
    }

    /// A change worth a line in the log and in SHOW BREAKERS.
    package enum Transition: Sendable, Equatable {
        case opened(failures: Int), reopened, halfOpened, closed
    }

    package enum Phase: String, Sendable { case closed, open, halfOpen = "half-open" }

    private enum State {
        case closed(failures: Int)
        case open(until: MonotonicInstant)
        case halfOpen(inFlight: Int, successes: Int)
    }

    private var state: State = .closed(failures: 0)
    private let failuresMax: Int
    private let heldSeconds: Double
    private let probesMax: Int
    /// Times it opened since the start.
    package private(set) var trips: UInt64 = 0

    package init(_ settings: BreakerSettings) {
        precondition(settings.failures > 0 && settings.probes > 0, "a breaker that cannot open or close")
        failuresMax = settings.failures
        heldSeconds = settings.heldSeconds
        probesMax = settings.probes
    }

    package var phase: Phase {
        switch state {
        case .closed: .closed
        case .open: .open
        case .halfOpen: .halfOpen
        }
    }

    /// Asked for each read that wants to go; `probe` takes one of the probes' places until its outcome is reported.
    package mutating func ask(now: MonotonicInstant) -> (verdict: Verdict, transition: Transition?) {
        switch state {
        case .closed:
            return (.allow, nil)
        case .open(let until):
            if now < until { return (.deny, nil) }
            state = .halfOpen(inFlight: 1, successes: 0)
            return (.probe, .halfOpened)
        case .halfOpen(let inFlight, let successes):
            if inFlight >= probesMax { return (.deny, nil) }
            state = .halfOpen(inFlight: inFlight + 1, successes: successes)
            return (.probe, nil)
        }
    }

    package mutating func handle(_ event: Event, now: MonotonicInstant) -> Transition? {
        switch (state, event) {
        case (.closed, .success):
            state = .closed(failures: 0)
            return nil
        case (.closed(let failures), .failure):
            if failures + 1 < failuresMax {
                state = .closed(failures: failures + 1)
                return nil
            }
            open(now)
            return .opened(failures: failures + 1)
        case (.halfOpen(let inFlight, let successes), .success(isProbe: true)):
            if successes + 1 >= probesMax {
                state = .closed(failures: 0)
                return .closed
            }
            state = .halfOpen(inFlight: max(0, inFlight - 1), successes: successes + 1)
            return nil
        case (.halfOpen, .failure(isProbe: true)):
            open(now)
            return .reopened
        case (.halfOpen(let inFlight, let successes), .probeAbandoned):
            state = .halfOpen(inFlight: max(0, inFlight - 1), successes: successes)
            return nil
        case (.halfOpen, .success(isProbe: false)), (.halfOpen, .failure(isProbe: false)):
            return nil                               // a read from before it opened
        case (.open, .success), (.open, .failure), (.open, .probeAbandoned), (.closed, .probeAbandoned):
            return nil                               // answers still on their way when it opened or closed
        }
    }

    private mutating func open(_ now: MonotonicInstant) {
        state = .open(until: now.advanced(bySeconds: heldSeconds))
        trips += 1
    }
}
