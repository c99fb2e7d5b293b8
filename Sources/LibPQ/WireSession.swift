import CLibPQ
import COpenSSL
import Glibc

/// A connection that libpq makes (names, TLS, login, password files), and on which its owner then speaks the protocol
/// itself, message by message: what libpq's own calls cannot say, such as a Bind of many forms or a Flush in between.
/// Never blocks; one thread.
package final class WireSession {
    package enum Step: Equatable, Sendable {
        case wantsReading, wantsWriting, done
        case failed(String)
    }

    package enum Outcome: Equatable, Sendable {
        case bytes(Int)
        case wouldBlock
        case closed
        case failed(String)
    }

    private let raw: OpaquePointer
    private var tls: OpaquePointer?
    private var isDone = false
    /// What the kernel has had no room for.
    private var unsent: [UInt8] = []
    private var unsentStart = 0

    /// Begins to connect.
    ///
    /// - Parameter target: `gssencmode` is switched off: its encryption is libpq's own to speak.
    package init(_ target: ConnectionString) throws(PostgresFailure) {
        let parameters = target.overriding(["gssencmode": "disable"]).parameters
        guard let raw = Connection.start(parameters) else { throw PostgresFailure(.connecting, "out of memory") }
        self.raw = raw
        _ = PQsetNoticeProcessor(raw, { _, _ in }, nil)
        if PQstatus(raw) == CONNECTION_BAD { throw PostgresFailure(.connecting, errorText) }
    }

    deinit { PQfinish(raw) }

    /// May be another after each `advance`.
    package var descriptor: CInt { PQsocket(raw) }

    /// The socket is ready for what was wanted.
    package func advance() -> Step {
        switch PQconnectPoll(raw) {
        case PGRES_POLLING_READING: return .wantsReading
        case PGRES_POLLING_WRITING: return .wantsWriting
        case PGRES_POLLING_OK:
            isDone = true
            tls = PQgetssl(raw).map { OpaquePointer($0) }
            return .done
        default: return .failed(errorText)
        }
    }

    /// 150014 for 15.14, once connected.
    package var serverVersion: Int { Int(PQserverVersion(raw)) }

    private var errorText: String {
        PQerrorMessage(raw).map { String(cString: $0).trimmed.replacing("\n", with: " ") } ?? "no reason given"
    }

    // MARK: bytes

    package var hasUnsent: Bool { unsentStart < unsent.count }

    /// Sends what the kernel takes; the rest waits for `flush`.
    package func send(_ bytes: [UInt8]) -> Outcome {
        precondition(isDone, "bytes before the login is done")
        if unsentStart == unsent.count {
            unsent.removeAll(keepingCapacity: unsent.capacity <= 65_536)
            unsentStart = 0
        }
        unsent += bytes
        return flush()
    }

    package func flush() -> Outcome {
        while hasUnsent {
            let outcome = unsent.withUnsafeBytes { write(UnsafeRawBufferPointer(rebasing: $0[unsentStart...])) }
            guard case .bytes(let count) = outcome else { return outcome }
            unsentStart += count
        }
        return .bytes(0)
    }

    private func write(_ bytes: UnsafeRawBufferPointer) -> Outcome {
        if let tls {
            ERR_clear_error()
            let count = SSL_write(tls, bytes.baseAddress, CInt(clamping: bytes.count))
            return count > 0 ? .bytes(Int(count)) : outcome(of: tls, count)
        }
        while true {
            let count = Glibc.send(descriptor, bytes.baseAddress, bytes.count, CInt(MSG_NOSIGNAL))
            if count >= 0 { return .bytes(count) }
            if errno == EINTR { continue }
            return errno == EAGAIN ? .wouldBlock : .failed(String(cString: strerror(errno)))
        }
    }

    /// With TLS there may be more, which epoll does not tell of: read until `.wouldBlock`.
    package func receive(into buffer: UnsafeMutableRawBufferPointer) -> Outcome {
        if let tls {
            ERR_clear_error()
            let count = SSL_read(tls, buffer.baseAddress, CInt(clamping: buffer.count))
            return count > 0 ? .bytes(Int(count)) : outcome(of: tls, count)
        }
        while true {
            let count = recv(descriptor, buffer.baseAddress, buffer.count, 0)
            if count > 0 { return .bytes(count) }
            if count == 0 { return .closed }
            if errno == EINTR { continue }
            return errno == EAGAIN ? .wouldBlock : .failed(String(cString: strerror(errno)))
        }
    }

    private func outcome(of tls: OpaquePointer, _ result: CInt) -> Outcome {
        switch SSL_get_error(tls, result) {
        case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: .wouldBlock
        case SSL_ERROR_ZERO_RETURN: .closed
        default: .failed("TLS: the connection broke off")
        }
    }

    // MARK: the end

    /// Asks the server to cancel what runs. Blocks for a connection and its end.
    package func cancel() {
        guard isDone, let handle = PQgetCancel(raw) else { return }
        var words = [CChar](repeating: 0, count: 256)
        _ = PQcancel(handle, &words, CInt(words.count))
        PQfreeCancel(handle)
    }
}
