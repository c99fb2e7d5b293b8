import Glibc
import Primitives
import Synchronization

/// Asks the resolver for who must not wait long: one whose servers are away is waited for once, and not for each name.
/// Any thread.
package final class BoundedResolver: Sendable {
    package typealias Ask = @Sendable (_ host: String, _ port: UInt16) -> [SocketAddress]

    /// For so long behind an answer that did not come nothing is asked.
    private static let pauseNanos: UInt64 = 5_000_000_000

    private let patienceMillis: CInt
    private let ask: Ask
    private let silentAt = Mutex<MonotonicInstant?>(nil)

    package init(
        patienceMillis: CInt = 5000, ask: @escaping Ask = { SocketAddress.resolveAll(host: $0, port: $1) }
    ) {
        self.patienceMillis = patienceMillis
        self.ask = ask
    }

    /// - Returns: empty: there are none, or nobody has said so in time.
    package func addresses(host: String, port: UInt16) -> [SocketAddress] {
        if let literal = SocketAddress(host: host, port: port) { return [literal] }
        let silentAt = silentAt.withLock { $0 }
        if let silentAt, MonotonicInstant.now().nanoseconds(since: silentAt) < Self.pauseNanos { return [] }
        let answer = Mailbox<[SocketAddress]>()
        let ask = ask
        _ = OwnThread(name: "godwit-resolve") { answer.post(ask(host, port)) }
        var ready = pollfd(fd: answer.descriptor, events: Int16(POLLIN), revents: 0)
        while poll(&ready, 1, patienceMillis) < 0 && errno == EINTR {}
        if let found = answer.take().first { return found }
        self.silentAt.withLock { $0 = .now() }
        return []
    }
}
