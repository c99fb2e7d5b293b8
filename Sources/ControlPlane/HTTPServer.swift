import Glibc
import Primitives
import Reactor
import Synchronization

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
    package static let backlog = 64

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
    private let isStopped = Atomic(false)

    /// - Parameter token: what requests must show, but for /healthz; nil: nothing.
    package init(on listener: consuming Listener, token: [UInt8]?, handler: @escaping Handler) throws(SocketError) {
        address = listener.address
        let mailbox = Mailbox<Message>()
        self.mailbox = mailbox
        // The thread owns the listener from here on: the number is taken over, and closed at the thread's end.
        guard let raw = listener.duplicate() else { throw SocketError(operation: .open, errno: EMFILE) }
        thread = OwnThread(name: "godwit-http") {
            HTTPLoop(SocketDescriptor(owning: raw), mailbox, token: token, handler: handler).run()
        }
    }

    /// Ends the thread and waits for it. Further calls do nothing.
    package func stop() {
        if isStopped.exchange(true, ordering: .relaxed) { return }
        mailbox.post(.stop)
        thread.join()
    }
}

/// Names the request that an answer is for. Immutable, any thread.
struct HTTPTicket: Hashable, Sendable {
    var registration: Registration
    var number: UInt64
}
