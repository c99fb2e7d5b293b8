import Glibc
import Synchronization

/// Carries a listening socket from the thread that opens it to the one that accepts.
package final class ListenerHandle: Sendable {
    /// Where it listens.
    package let address: SocketAddress
    private let listener: Mutex<Listener?>

    package init(_ listener: consuming Listener) {
        address = listener.address
        self.listener = Mutex(listener)
    }

    /// The listener; nil when it was taken before.
    package func take() -> Listener? { listener.withLock { $0.take() } }

    /// Another descriptor of the same socket, to be owned by the caller; nil: it was taken, or there are none left.
    package func duplicate() -> CInt? {
        listener.withLock { $0?.duplicate() }
    }
}
