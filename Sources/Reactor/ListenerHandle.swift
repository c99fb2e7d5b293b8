import Glibc
import Synchronization

/// The last descriptors that the process may have. Clients get none of them: where a flood of clients has all others,
/// servers are still connected to, an operator is still heard, and what traps without a descriptor (a mailbox, the
/// horizon of a database that is met for the first time) still gets one. No state, any thread.
package enum DescriptorReserve {
    private static let most = 100

    /// Whether it is one of them: the kernel gives the lowest number that is free.
    package static func has(_ descriptor: CInt) -> Bool {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return false }
        let allowed = Int(clamping: limit.rlim_cur)
        return Int(descriptor) >= allowed - min(most, allowed / 4)
    }
}

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
