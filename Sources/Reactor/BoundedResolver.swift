import Glibc
import Primitives
import Synchronization

/// Asks the resolver for who must not wait long: one whose servers are away is waited for once, and not for each name.
/// Of a name's addresses it takes one that answers, as libpq does. Any thread.
package final class BoundedResolver: Sendable {
    package typealias Ask = @Sendable (_ host: String, _ port: UInt16) -> [SocketAddress]

    /// For so long behind an answer that did not come nothing is asked.
    private static let pauseNanos: UInt64 = 5_000_000_000
    /// For one of several addresses to take a connection.
    private static let reachMillis: CInt = 500
    /// Of a name's addresses so many are tried.
    private static let triedMax = 4

    private let patienceMillis: CInt
    private let ask: Ask
    private let silentAt = Mutex<MonotonicInstant?>(nil)
    /// Addresses that did not answer, and when: many databases have the same host.
    private let unreached = Mutex<[SocketAddress: MonotonicInstant]>([:])

    /// - Parameter patienceMillis: -1: however long it takes.
    package init(
        patienceMillis: CInt = 5000, ask: @escaping Ask = { SocketAddress.resolveAll(host: $0, port: $1) }
    ) {
        self.patienceMillis = patienceMillis
        self.ask = ask
    }

    /// One of a name's addresses: that which is known as long as it is the name's and takes connections, else the first
    /// that does. Where none does, or nobody can say which there are, what is known stays.
    package func address(host: String, port: UInt16, known: SocketAddress?) -> SocketAddress? {
        let found = addresses(host: host, port: port)
        let ordered = found.filter { $0 == known } + found.filter { $0 != known }
        if ordered.count < 2 { return ordered.first ?? known }
        return ordered.prefix(Self.triedMax).first(where: takesConnections) ?? ordered.first
    }

    private func takesConnections(_ address: SocketAddress) -> Bool {
        if Self.isRecent(unreached.withLock { $0[address] }) { return false }
        guard let socket = try? SocketDescriptor.connect(to: address) else { return false }
        var ready = pollfd(fd: socket.raw, events: Int16(POLLOUT), revents: 0)
        while poll(&ready, 1, Self.reachMillis) < 0 && errno == EINTR {}
        if ready.revents == 0 {
            unreached.withLock { unreached in
                unreached = unreached.filter { Self.isRecent($1) }
                unreached[address] = .now()
            }
            return false
        }
        return socket.connectError() == 0
    }

    private static func isRecent(_ instant: MonotonicInstant?) -> Bool {
        instant.map { MonotonicInstant.now().nanoseconds(since: $0) < pauseNanos } ?? false
    }

    /// - Returns: empty: there are none, or nobody has said so in time.
    package func addresses(host: String, port: UInt16) -> [SocketAddress] {
        if let literal = SocketAddress(host: host, port: port) { return [literal] }
        if Self.isRecent(silentAt.withLock { $0 }) { return [] }
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
