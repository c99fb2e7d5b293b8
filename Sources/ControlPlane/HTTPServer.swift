import Glibc
import Primitives
import Reactor

/// HTTP for operators, on a thread of its own. Any thread; what serves connections is the thread's.
///
/// Nothing a client does costs more than its bounds: connections, bytes of a head, seconds. One client too many takes
/// the place of the one that has been silent for longest, so idle connections cannot keep a scraper out.
package final class HTTPServer: Sendable {
    /// Connections at once.
    package static let connectionsMax = 64
    /// Seconds for a whole head, from the connection's begin or from the answer before.
    package static let requestSeconds = 30.0
    /// Seconds in which the answer must be made, and taken.
    package static let answerSeconds = 10.0
    /// Connections that the kernel keeps to be accepted.
    static let backlog = 64

    /// Makes an answer, on the server's thread.
    package typealias Making = @Sendable () -> HTTPResponse
    /// Sees to a request's answer: `answer` is called once, on any thread.
    package typealias Handler = @Sendable (
        HTTPRequest, _ answer: @escaping @Sendable (@escaping Making) -> Void
    ) -> Void

    enum Message: Sendable {
        case answer(HTTPTicket, Making)
        case stop
    }

    /// Where it listens.
    package let address: SocketAddress
    private let mailbox: Mailbox<Message>
    private let thread: OwnThread

    /// - Parameter token: what requests must show, but for /healthz; nil: nothing.
    package init(on wanted: SocketAddress, token: [UInt8]?, handler: @escaping Handler) throws(SocketError) {
        let listener = try Listener(on: wanted, backlog: Self.backlog)
        address = listener.address
        let mailbox = Mailbox<Message>()
        self.mailbox = mailbox
        let descriptor = listener.descriptor.raw
        // The thread owns the listener from here on: the number is taken over, and closed at the thread's end.
        let raw = dup(descriptor)
        if raw < 0 { throw SocketError(operation: .open, errno: errno) }
        _ = fcntl(raw, F_SETFD, FD_CLOEXEC)
        thread = OwnThread(name: "godwit-http") {
            HTTPLoop(SocketDescriptor(owning: raw), mailbox, token: token, handler: handler).run()
        }
    }

    /// Ends the thread and waits for it. Call once.
    package func stop() {
        mailbox.post(.stop)
        thread.join()
    }
}

/// Names the request that an answer is for. Immutable, any thread.
struct HTTPTicket: Hashable, Sendable {
    var registration: Registration
    var number: UInt64
}
