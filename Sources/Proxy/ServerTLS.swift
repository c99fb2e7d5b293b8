import PGWire
import Primitives
import Reactor
import Sessions

/// How connections to one server are encrypted. Immutable, any thread.
package struct ServerTLS: Sendable, Equatable {
    package var encryption: ServerEncryption
    package var context: TLSContext

    package init(encryption: ServerEncryption, context: TLSContext) {
        self.encryption = encryption
        self.context = context
    }

    /// Nor have the files changed.
    package func isSame(as other: ServerTLS?) -> Bool { self == other && context.mark == other?.context.mark }

    /// Files that were read again make no other server of it: connections that are open stay.
    package static func == (left: ServerTLS, right: ServerTLS) -> Bool {
        left.encryption == right.encryption && left.context.options == right.context.options
    }
}

/// From a made connection to one that the protocol may begin on: SSLRequest, the handshake, the server's name.
/// One connection's value, on its reactor's thread.
struct ServerNegotiation {
    enum Step {
        case wait
        /// Encrypted as wanted, or plain as allowed.
        case open
        case failed(String, ServerEncryption.Failure)
    }

    private enum State { case asking, shakingHands, done }

    let attempt: ServerEncryption.Attempt
    private let tls: ServerTLS?
    private var state: State = .done

    /// - Parameter tls: nil: never encrypted, as over Unix sockets.
    init(_ tls: ServerTLS?, attempt: ServerEncryption.Attempt) {
        self.tls = tls
        self.attempt = attempt
    }

    /// The socket is connected.
    mutating func begin(_ stream: inout ByteStream, _ worker: Worker) -> Step {
        switch attempt {
        case .plain:
            return .open
        case .requested:
            state = .asking
            stream.queue(StartupPacket.sslRequestBytes)
            return Self.step(after: stream.flush())
        case .direct:
            return startTLS(&stream, worker)
        }
    }

    /// Something can be read.
    mutating func advance(_ stream: inout ByteStream, _ worker: Worker) -> Step {
        guard let tls else { preconditionFailure("negotiating without TLS") }
        let outcome = stream.receive(into: worker.buffer)
        switch (state, outcome) {
        case (.asking, .bytes(let count)):
            switch tls.encryption.answer(to: UnsafeRawBufferPointer(rebasing: worker.buffer[..<count])) {
            case .startTLS: return startTLS(&stream, worker)
            case .goOnPlain: return .open
            case .failed(let reason): return .failed(reason, .other)
            }
        case (.shakingHands, .bytes):
            return .failed("the server spoke before it was spoken to", .other)
        case (.shakingHands, _):
            return handshakeStep(stream, outcome)
        case (.asking, _):
            return Self.step(after: outcome)
        case (.done, _):
            preconditionFailure("negotiating for a second time")
        }
    }

    private mutating func startTLS(_ stream: inout ByteStream, _ worker: Worker) -> Step {
        guard let tls else { preconditionFailure("negotiating without TLS") }
        state = .shakingHands
        // The first flight is small, and the socket's buffer is empty.
        if !stream.isEmpty { return .failed("SSLRequest could not be sent", .other) }
        let secured = TLSStream(tls.context, worker.scratch, serverName: tls.encryption.serverName)
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        return Self.step(after: stream.startTLS(secured, received: nothing))
    }

    private mutating func handshakeStep(_ stream: borrowing ByteStream, _ outcome: SocketDescriptor.Outcome) -> Step {
        if let reason = stream.failure { return .failed("TLS: \(reason)", .handshake) }
        guard stream.isOpen, let security = stream.security, let tls else {
            switch outcome {
            case .bytes, .wouldBlock: return .wait
            case .closed: return .failed("the server closed the connection during the TLS handshake", .handshake)
            case .failed(let code):
                return .failed(SocketError(operation: .connect, errno: code).reason, .handshake)
            }
        }
        state = .done
        if attempt == .direct && !security.hasALPN {
            return .failed("the server does not say by ALPN that it speaks PostgreSQL's protocol", .handshake)
        }
        if let name = tls.encryption.verifiedName {
            guard let certificate = security.peerCertificate, certificate.isFor(host: name) else {
                let names = security.peerCertificate?.namesText ?? "no name"
                return .failed("the server's certificate is for \(names), not for host \"\(name)\"", .handshake)
            }
        }
        return .open
    }

    private static func step(after outcome: SocketDescriptor.Outcome) -> Step {
        switch outcome {
        case .bytes, .wouldBlock: .wait
        case .closed: .failed("the server closed the connection", .other)
        case .failed(let code): .failed(SocketError(operation: .connect, errno: code).reason, .other)
        }
    }
}
