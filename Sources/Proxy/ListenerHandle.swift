import Reactor
import Synchronization

/// Carries a listening socket from the thread that opens it to the one that accepts.
final class ListenerHandle: Sendable {
    private let listener: Mutex<Listener?>

    init(_ listener: consuming Listener) { self.listener = Mutex(listener) }

    /// The listener; nil when it was taken before.
    func take() -> Listener? { listener.withLock { $0.take() } }
}
