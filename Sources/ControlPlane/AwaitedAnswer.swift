import Synchronization

/// What another thread will answer, for a task that does not insist on it: whoever ends HTTP may be the one that is
/// asked. Any thread; one task waits.
package final class AwaitedAnswer<Value: Sendable>: Sendable {
    private enum State {
        case open
        case awaited(CheckedContinuation<Value, Never>)
        case given(Value)
        case told
    }

    private let state = Mutex<State>(.open)

    package init() {}

    /// The first one counts.
    package func give(_ value: Value) {
        let waiting = state.withLock { state -> CheckedContinuation<Value, Never>? in
            switch state {
            case .open:
                state = .given(value)
                return nil
            case .awaited(let continuation):
                state = .told
                return continuation
            case .given, .told: return nil
            }
        }
        waiting?.resume(returning: value)
    }

    /// - Parameter instead: what it is when the task is cancelled before.
    package func value(instead: Value) async -> Value {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let given = state.withLock { state -> Value? in
                    switch state {
                    case .open:
                        state = .awaited(continuation)
                        return nil
                    case .given(let value):
                        state = .told
                        return value
                    case .awaited, .told: preconditionFailure("an answer that two wait for")
                    }
                }
                if let given { continuation.resume(returning: given) }
            }
        } onCancel: {
            give(instead)
        }
    }
}
