import Primitives

/// What the mirror does next: pure, fed and obeyed by the mirror's thread.
package struct MirrorStateMachine {
    package enum Event: Equatable {
        case start
        /// Connected, alone, and NEW is where we left it.
        case opened(backfillLeft: Bool, at: MonotonicInstant)
        /// NEW holds the batch (or it was empty).
        case applied(backfillLeft: Bool, at: MonotonicInstant)
        /// prepare has changed what is mirrored.
        case tablesChanged
        /// Anything that may be better later: a side is down, a lock, another applier at work.
        case failed(reason: String, at: MonotonicInstant)
        /// The same, and it cannot be told any more how far NEW is.
        case lost(reason: String, at: MonotonicInstant)
        case backOffElapsed
        /// A wait is going on.
        case waited(at: MonotonicInstant)
        /// NEW may be wrong until somebody has done what the reason says; then it goes on by itself.
        case suspended(reason: String)
        /// Going on would be wrong: another applier moved NEW.
        case refused(reason: String)
        case stop
    }

    package enum Action: Equatable {
        case open, close, runBatch, finish
        case backOff(millis: UInt64)
        case setReadable(Bool)
        case report(MirrorReport.State, reason: String)
    }

    private enum State { case idle, opening, running(backfillLeft: Bool), backingOff, stopped, finished }

    package static let backOffMillisMin: UInt64 = 50
    package static let backOffMillisMax: UInt64 = 2000
    package static let actionsMax = 4

    private var state: State = .idle
    private var failures = 0
    private var isReadable = false
    private var lastApplied: MonotonicInstant?
    private let lagMaxSeconds: Double

    package init(lagMaxSeconds: Double) { self.lagMaxSeconds = lagMaxSeconds }

    package mutating func handle(_ event: Event, _ actions: inout ActionList<Action>) {
        switch (state, event) {
        case (.idle, .start):
            state = .opening
            actions.append(.report(.starting, reason: ""))
            actions.append(.open)
        case (.opening, .opened(let backfillLeft, _)):
            state = .running(backfillLeft: backfillLeft)
            actions.append(.report(backfillLeft ? .backfill : .mirroring, reason: ""))
            // A copy that starts anew: what NEW has may be wrong.
            if backfillLeft { setReadable(false, &actions) }
            actions.append(.runBatch)
        case (.running(let before), .applied(let backfillLeft, let instant)):
            state = .running(backfillLeft: backfillLeft)
            failures = 0
            lastApplied = instant
            if before != backfillLeft { actions.append(.report(backfillLeft ? .backfill : .mirroring, reason: "")) }
            setReadable(!backfillLeft, &actions)
            actions.append(.runBatch)
        case (.running, .tablesChanged):
            state = .opening
            actions.append(.close)
            actions.append(.open)
        case (.opening, .failed(let reason, let instant)), (.running, .failed(let reason, let instant)):
            leaveWhenTooOld(instant, &actions)
            backOff(reason, &actions)
        case (.opening, .lost(let reason, _)), (.running, .lost(let reason, _)):
            setReadable(false, &actions)
            backOff(reason, &actions)
        case (.backingOff, .backOffElapsed):
            state = .opening
            actions.append(.open)
        case (.opening, .waited(let instant)), (.running, .waited(let instant)), (.backingOff, .waited(let instant)):
            leaveWhenTooOld(instant, &actions)
        case (.opening, .suspended(let reason)), (.running, .suspended(let reason)):
            state = .backingOff
            setReadable(false, &actions)
            actions.append(.close)
            actions.append(.report(.stopped, reason: reason))
            actions.append(.backOff(millis: Self.backOffMillisMax))
        case (.opening, .refused(let reason)), (.running, .refused(let reason)):
            state = .stopped
            setReadable(false, &actions)
            actions.append(.close)
            actions.append(.report(.stopped, reason: reason))
        case (.idle, .stop), (.opening, .stop), (.running, .stop), (.backingOff, .stop):
            state = .finished
            setReadable(false, &actions)
            actions.append(.close)
            // Off, and not stopped: that wakes somebody up, and this was wanted (the end of a migration, a takeover).
            actions.append(.report(.off, reason: "told to stop"))
            actions.append(.finish)
        case (.stopped, .stop):
            state = .finished
            actions.append(.finish)
        case (.stopped, .waited), (.finished, .waited), (.finished, .stop):
            break
        case (_, .start), (_, .opened), (_, .applied), (_, .tablesChanged), (_, .failed), (_, .lost),
            (_, .backOffElapsed), (_, .suspended), (_, .refused), (.idle, .waited):
            preconditionFailure("\(event) in state \(state)")
        }
    }

    private mutating func backOff(_ reason: String, _ actions: inout ActionList<Action>) {
        state = .backingOff
        failures += 1
        actions.append(.close)
        actions.append(.report(.waiting, reason: reason))
        let doubled = Self.backOffMillisMin << UInt64(min(failures - 1, 8))
        actions.append(.backOff(millis: min(doubled, Self.backOffMillisMax)))
    }

    private mutating func leaveWhenTooOld(_ instant: MonotonicInstant, _ actions: inout ActionList<Action>) {
        guard let lastApplied, instant > lastApplied.advanced(bySeconds: lagMaxSeconds) else { return }
        setReadable(false, &actions)
    }

    private mutating func setReadable(_ readable: Bool, _ actions: inout ActionList<Action>) {
        guard readable != isReadable else { return }
        isReadable = readable
        actions.append(.setReadable(readable))
    }
}
