import Glibc
import Reactor

/// One connection to a server of HTTP, with TLS on it where that is wanted. Blocks; one thread.
package struct HTTPDial: ~Copyable {
    package struct Failure: Error, Sendable, CustomStringConvertible {
        package let description: String
    }

    /// Who is to be reached.
    package struct Place: Sendable, Equatable {
        package var host: String
        package var port: UInt16
        /// Tokens may pass unencrypted beyond this machine.
        package var allowsPlainTokens = false

        package init(host: String, port: UInt16, allowsPlainTokens: Bool = false) {
            self.host = host
            self.port = port
            self.allowsPlainTokens = allowsPlainTokens
        }
    }

    /// Milliseconds for which nothing is sent or received at most.
    private static let silenceMillis: CInt = 60_000
    private static let bufferBytes = 64 * 1024

    private var stream: ByteStream

    /// - Parameters:
    ///   - tls: nil: nothing is encrypted. Otherwise the server must prove that it is the place's host.
    ///   - hasToken: something secret will be sent.
    package static func open(_ place: Place, tls: TLSContext?, hasToken: Bool) throws(Failure) -> HTTPDial {
        let addresses = SocketAddress.resolveAll(host: place.host, port: place.port)
        if addresses.isEmpty { throw Failure(description: "\(place.host) cannot be resolved") }
        let allowed = addresses.filter { tls != nil || !hasToken || place.allowsPlainTokens || $0.isLoopback }
        if allowed.isEmpty {
            throw Failure(description: "the token would pass unencrypted to \(place.host): use https://, "
                + "or --allow-plain-token where something on the way encrypts")
        }
        var dial = HTTPDial(try connect(allowed))
        if let tls { try dial.encrypt(tls, place.host) }
        return dial
    }

    private init(_ socket: consuming SocketDescriptor) { stream = ByteStream(socket) }

    /// The first that answers.
    private static func connect(_ addresses: [SocketAddress]) throws(Failure) -> SocketDescriptor {
        var reason = ""
        for address in addresses {
            do throws(SocketError) {
                let socket = try SocketDescriptor.connect(to: address)
                let isDue = wait(socket.raw, POLLOUT)
                let error = isDue ? socket.connectError() : ETIMEDOUT
                if error == 0 { return socket }
                reason = "\(address): \(String(cString: strerror(error)))"
            } catch {
                reason = "\(address): \(error.reason)"
            }
        }
        throw Failure(description: reason)
    }

    /// - Returns: false: nothing happened in time.
    private static func wait(_ descriptor: CInt, _ events: CInt) -> Bool {
        var ready = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        var result: CInt
        repeat { result = poll(&ready, 1, silenceMillis) } while result < 0 && errno == EINTR
        return result > 0
    }

    // MARK: TLS

    private mutating func encrypt(_ context: TLSContext, _ host: String) throws(Failure) {
        let name = SocketAddress(host: host, port: 0) == nil ? host : nil
        let scratch = TLSScratch(plaintextBytes: Self.bufferBytes)
        _ = stream.startTLS(
            TLSStream(context, scratch, serverName: name), received: UnsafeRawBufferPointer(start: nil, count: 0))
        while !stream.isOpen {
            try flush()
            switch try take() {
            case .bytes: throw Failure(description: "TLS: the server speaks before it is asked")
            case .nothing: if !stream.isOpen, !Self.wait(stream.socket.raw, POLLIN) { throw Self.silent }
            case .end: throw Failure(description: "TLS: the server has ended the connection; does it speak https?")
            }
        }
        try flush()
        guard let certificate = stream.security?.peerCertificate else {
            throw Failure(description: "TLS: the server shows no certificate")
        }
        if !certificate.isFor(host: host) {
            throw Failure(description: "TLS: the certificate is for \(certificate.namesText), not for \"\(host)\"")
        }
    }

    // MARK: bytes

    package mutating func send(_ bytes: [UInt8]) throws(Failure) {
        stream.queue(bytes)
        try flush()
    }

    private mutating func flush() throws(Failure) {
        while true {
            switch stream.flush() {
            case .failed(let errno): throw Failure(description: String(cString: strerror(errno)))
            case .closed: throw Failure(description: "the connection was closed")
            case .bytes, .wouldBlock: break
            }
            if stream.isEmpty { return }
            if !Self.wait(stream.socket.raw, POLLOUT) { throw Self.silent }
        }
    }

    /// Waits for more; empty: the server has ended the connection.
    package mutating func receive() throws(Failure) -> [UInt8] {
        while true {
            switch try take() {
            case .bytes(let bytes): return bytes
            case .end: return []
            case .nothing: if !Self.wait(stream.socket.raw, POLLIN) { throw Self.silent }
            }
        }
    }

    private enum Taken {
        case bytes([UInt8])
        case nothing
        case end
    }

    private mutating func take() throws(Failure) -> Taken {
        var bytes: [UInt8] = []
        let outcome = withUnsafeTemporaryAllocation(byteCount: Self.bufferBytes, alignment: 1) { room in
            let outcome = stream.receive(into: room)
            if case .bytes(let count) = outcome { bytes = Array(room[..<count]) }
            return outcome
        }
        switch outcome {
        case .bytes: return .bytes(bytes)
        case .wouldBlock: return .nothing
        case .closed: return .end
        case .failed(let errno):
            throw Failure(description: stream.failure.map { "TLS: \($0)" } ?? String(cString: strerror(errno)))
        }
    }

    private static var silent: Failure { Failure(description: "nothing came for \(silenceMillis / 1000) seconds") }
}
