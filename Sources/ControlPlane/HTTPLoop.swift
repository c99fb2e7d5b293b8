import CEpoll
import Digests
import Glibc
import Primitives
import Reactor

/// Connections of the HTTP server. Used on its thread.
final class HTTPLoop {
    private final class Connection {
        let socket: SocketDescriptor
        let registration: Registration
        var received: [UInt8] = []
        var outgoing = SendQueue()
        /// The request that is being answered.
        var ticket: HTTPTicket?
        var isHead = false
        var closesAfterAnswer = false
        /// When it is closed if nothing has happened until then.
        var deadline: MonotonicInstant

        init(_ socket: consuming SocketDescriptor, _ registration: Registration, deadline: MonotonicInstant) {
            self.socket = socket
            self.registration = registration
            self.deadline = deadline
        }

        var isAwaitingRequest: Bool { ticket == nil && outgoing.isEmpty }
    }

    private static let listenerSlot = UInt32.max
    private static let mailboxSlot = UInt32.max - 1
    private static let receiveBytes = 4096

    private let loop = EventLoop()
    private let listener: SocketDescriptor
    private let mailbox: Mailbox<HTTPServer.Message>
    private let token: [UInt8]?
    private let handler: HTTPServer.Handler
    private var connections: [UInt32: Connection] = [:]
    private var generation: UInt32 = 0
    private var lastNumber: UInt64 = 0
    private var isStopped = false
    private var now = MonotonicInstant.now()

    init(
        _ listener: consuming SocketDescriptor, _ mailbox: Mailbox<HTTPServer.Message>, token: [UInt8]?,
        handler: @escaping HTTPServer.Handler
    ) {
        self.listener = listener
        self.mailbox = mailbox
        self.token = token
        self.handler = handler
        loop.register(self.listener.raw, .read, as: Registration(slot: Self.listenerSlot, generation: 0))
        loop.register(mailbox.descriptor, .read, as: Registration(slot: Self.mailboxSlot, generation: 0))
    }

    func run() {
        while !isStopped {
            loop.wait(timeoutMillis: connections.isEmpty ? -1 : 500) { registration, readable, writable in
                now = MonotonicInstant.now()
                switch registration.slot {
                case Self.listenerSlot: accept()
                case Self.mailboxSlot: for message in mailbox.take() { handle(message) }
                default: ready(registration, readable: readable, writable: writable)
                }
            }
            now = MonotonicInstant.now()
            for connection in connections.values where connection.deadline <= now { expire(connection) }
        }
        connections = [:]
    }

    private func handle(_ message: HTTPServer.Message) {
        switch message {
        case .stop:
            isStopped = true
        case .answer(let ticket, let make):
            guard let connection = connection(ticket.registration), connection.ticket == ticket else { return }
            answer(connection, make())
            process(connection)
        }
    }

    private func connection(_ registration: Registration) -> Connection? {
        guard let found = connections[registration.slot], found.registration == registration else { return nil }
        return found
    }

    // MARK: connections

    private func accept() {
        // Bounded: answers are due as well.
        for _ in 0..<16 {
            var peer = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let raw = godwit_accept(listener.raw, &peer, &length)
            if raw < 0 { return }
            if connections.count >= HTTPServer.connectionsMax { makeRoom() }
            generation &+= 1
            let registration = Registration(slot: UInt32(raw), generation: generation)
            let deadline = now.advanced(bySeconds: HTTPServer.requestSeconds)
            let connection = Connection(SocketDescriptor(owning: raw), registration, deadline: deadline)
            connections[registration.slot] = connection
            loop.register(raw, .read, as: registration)
        }
    }

    /// The one that has waited longest for a request, or else for its answer to be taken.
    private func makeRoom() {
        let oldest = connections.values.min { left, right in
            (left.isAwaitingRequest ? 0 : 1, left.deadline) < (right.isAwaitingRequest ? 0 : 1, right.deadline)
        }
        if let oldest { close(oldest) }
    }

    private func close(_ connection: Connection) {
        loop.unregister(connection.socket.raw)
        connections[connection.registration.slot] = nil
    }

    private func ready(_ registration: Registration, readable: Bool, writable: Bool) {
        guard let connection = connection(registration) else { return }
        if writable && !connection.outgoing.isEmpty { flush(connection) }
        guard readable, self.connection(registration) != nil else { return }
        withUnsafeTemporaryAllocation(byteCount: Self.receiveBytes, alignment: 1) { buffer in
            switch connection.socket.receive(into: buffer) {
            case .bytes(let count):
                connection.received.append(contentsOf: buffer[..<count])
                process(connection)
            case .wouldBlock: break
            case .closed, .failed: close(connection)
            }
        }
    }

    /// Only who waits for a request is read: a client that sends on finds its own buffers full.
    private func watch(_ connection: Connection) {
        guard self.connection(connection.registration) != nil else { return }
        loop.modify(
            connection.socket.raw,
            Interest(reads: connection.isAwaitingRequest, writes: !connection.outgoing.isEmpty),
            as: connection.registration)
    }

    // MARK: requests

    private func process(_ connection: Connection) {
        while self.connection(connection.registration) != nil, connection.isAwaitingRequest,
            !connection.closesAfterAnswer
        {
            do throws(HTTPRequest.Refusal) {
                guard let (request, length) = try HTTPRequest.parse(connection.received) else { break }
                connection.received.removeFirst(length)
                begin(request, connection)
            } catch {
                connection.closesAfterAnswer = true
                connection.received = []
                answer(connection, HTTPResponse(error))
            }
        }
        watch(connection)
    }

    private func begin(_ request: HTTPRequest, _ connection: Connection) {
        lastNumber += 1
        let ticket = HTTPTicket(registration: connection.registration, number: lastNumber)
        connection.ticket = ticket
        connection.isHead = request.method == .head
        connection.closesAfterAnswer = !request.keepsAlive
        connection.deadline = now.advanced(bySeconds: HTTPServer.answerSeconds)
        if request.method == .other {
            return answer(connection, HTTPResponse(405, "only GET and HEAD are answered here"))
        }
        if let token, request.path != "/healthz", !Digest.equal(request.bearerToken ?? [], token) {
            return answer(connection, HTTPResponse(401, "a token is needed: Authorization: Bearer ..."))
        }
        handler(request) { [mailbox] make in mailbox.post(.answer(ticket, make)) }
    }

    private func answer(_ connection: Connection, _ response: HTTPResponse) {
        connection.ticket = nil
        connection.deadline = now.advanced(bySeconds: HTTPServer.answerSeconds)
        connection.outgoing.append(
            response.encoded(isHead: connection.isHead, keepsAlive: !connection.closesAfterAnswer))
        flush(connection)
    }

    private func flush(_ connection: Connection) {
        switch connection.outgoing.flush(to: connection.socket) {
        case .bytes:
            if connection.closesAfterAnswer { return finish(connection) }
            connection.deadline = now.advanced(bySeconds: HTTPServer.requestSeconds)
            watch(connection)
        case .wouldBlock:
            watch(connection)
        case .closed, .failed:
            close(connection)
        }
    }

    private func expire(_ connection: Connection) {
        if connection.ticket == nil { return close(connection) }
        connection.closesAfterAnswer = true
        answer(connection, HTTPResponse(503, "a reactor thread has not answered in time"))
    }

    /// Bytes that were not read make the kernel reset the connection and lose the answer: they are thrown away first.
    private func finish(_ connection: Connection) {
        shutdown(connection.socket.raw, CInt(SHUT_WR))
        withUnsafeTemporaryAllocation(byteCount: 64 * 1024, alignment: 1) { buffer in
            _ = connection.socket.receive(into: buffer)
        }
        close(connection)
    }
}
