import COpenSSL
import Glibc

/// Buffers that the TLS connections of one thread share: an idle connection has none. Used on its thread.
package final class TLSScratch {
    /// What a record may have on the wire: 16 KiB, and room for what TLS adds to it.
    private static let recordMax = 18 * 1024

    /// Ciphertext as it is received; what it decrypts to, with the rest of a record that came before, fits into a
    /// plaintext buffer of the size given to `init`. So nothing ever stays behind of which epoll would not tell.
    let input: UnsafeMutableRawBufferPointer
    let wire: UnsafeMutablePointer<godwit_tls_wire>
    /// Ciphertext kept by an idle thread at most.
    private static let keptCapacity = 256 * 1024

    // Unsafe: OpenSSL only reads it once it is made.
    nonisolated(unsafe) static let method: OpaquePointer = {
        guard let method = godwit_wire_method() else { preconditionFailure("OpenSSL is out of memory") }
        return method
    }()

    /// - Parameter plaintextBytes: size of the buffers that streams of this thread decrypt into.
    package init(plaintextBytes: Int) {
        precondition(plaintextBytes > 2 * Self.recordMax, "a buffer that a record may not fit into")
        input = .allocate(byteCount: plaintextBytes - Self.recordMax, alignment: 16)
        wire = .allocate(capacity: 1)
        wire.initialize(to: godwit_tls_wire())
    }

    deinit {
        input.deallocate()
        free(wire.pointee.output)
        wire.deallocate()
    }

    /// Bytes of ciphertext that a stream takes at once.
    package var inputBytesMax: Int { input.count }

    /// What was encrypted and is to be sent now.
    package var output: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: wire.pointee.output, count: wire.pointee.output_count)
    }

    package func clearOutput() {
        wire.pointee.output_count = 0
        if wire.pointee.output_capacity > Self.keptCapacity {
            free(wire.pointee.output)
            wire.pointee.output = nil
            wire.pointee.output_capacity = 0
        }
    }
}

/// TLS over bytes: ciphertext in, plaintext out, and the other way. No socket; one connection's, on its thread.
///
/// Input is taken whole each time, and output never blocks, so there is no want-write, nothing pending, and no state
/// but the handshake's. Renegotiation is off, and so are tickets: PostgreSQL's clients do not resume sessions.
@usableFromInline package final class TLSStream {
    package enum State: Equatable {
        case handshaking
        case open
        /// The peer has sent close_notify.
        case peerClosed
        case failed(String)
    }

    package private(set) var state: State = .handshaking
    private(set) var scratch: TLSScratch
    /// OpenSSL's; within this module for the tests that play a peer.
    let raw: OpaquePointer
    private let role: TLSContext.Role

    /// - Parameter serverName: whom we say that we want to reach (SNI); clients only.
    /// - Parameter isDirect: the handshake comes without SSLRequest before it, so ALPN must name our protocol.
    package init(_ context: TLSContext, _ scratch: TLSScratch, serverName: String? = nil, isDirect: Bool = false) {
        guard let raw = godwit_tls_new(context.raw, TLSScratch.method, scratch.wire) else {
            preconditionFailure("OpenSSL has no memory for a connection")
        }
        self.raw = raw
        self.scratch = scratch
        role = context.role
        switch role {
        case .server:
            SSL_set_accept_state(raw)
            if isDirect { godwit_require_alpn(raw) }
        case .client:
            SSL_set_connect_state(raw)
            if let serverName { _ = godwit_set_server_name(raw, serverName) }
        }
        TLSErrors.clear()
    }

    deinit { SSL_free(raw) }

    /// It is another thread's from now on.
    func move(to scratch: TLSScratch) {
        self.scratch = scratch
        godwit_tls_move(raw, scratch.wire)
    }

    // MARK: bytes

    /// The client's first flight, or our answer to the one that was received with the bytes before; in the scratch.
    package func begin(with ciphertext: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)) {
        // Nobody may send data before our answer: what follows a ClientHello in one piece fails the handshake.
        withUnsafeTemporaryAllocation(byteCount: 1, alignment: 1) { _ = decrypt(ciphertext, into: $0) }
    }

    /// Takes ciphertext; what is to be answered (handshake, alerts) is in the scratch then.
    ///
    /// - Returns: bytes of plaintext that are in `plaintext` now.
    package func decrypt(_ ciphertext: UnsafeRawBufferPointer, into plaintext: UnsafeMutableRawBufferPointer) -> Int {
        let wire = scratch.wire
        wire.pointee.input = ciphertext.baseAddress?.assumingMemoryBound(to: UInt8.self)
        wire.pointee.input_count = ciphertext.count
        defer {
            wire.pointee.input = nil
            wire.pointee.input_count = 0
        }
        if state == .handshaking { shakeHands() }
        var total = 0
        while case .open = state, wire.pointee.input_count > 0 || SSL_pending(raw) > 0 {
            var count = 0
            let room = plaintext.count - total
            if room == 0 {
                state = .failed("more plaintext than ciphertext")
                break
            }
            if SSL_read_ex(raw, plaintext.baseAddress.map { $0 + total }, room, &count) == 1 {
                total += count
            } else if !goesOn(after: 0) {
                break
            }
        }
        return total
    }

    /// Encrypts into the scratch; records as full as they may be.
    package func encrypt(_ plaintext: UnsafeRawBufferPointer) {
        var rest = plaintext
        while rest.count > 0, state == .open || state == .peerClosed {
            var count = 0
            if SSL_write_ex(raw, rest.baseAddress, rest.count, &count) == 1 {
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            } else if !goesOn(after: 0) {
                return
            }
        }
    }

    /// Says goodbye (close_notify), into the scratch.
    package func shutdown() {
        switch state {
        case .open, .peerClosed: _ = SSL_shutdown(raw)
        case .handshaking, .failed: break
        }
        TLSErrors.clear()
    }

    private func shakeHands() {
        let result = SSL_do_handshake(raw)
        if result == 1 {
            state = .open
        } else {
            _ = goesOn(after: result)
        }
    }

    /// Notes what ended the connection.
    ///
    /// - Returns: false also when more input is needed.
    private func goesOn(after result: CInt) -> Bool {
        switch SSL_get_error(raw, result) {
        case SSL_ERROR_WANT_READ:
            return false
        case SSL_ERROR_ZERO_RETURN:
            state = .peerClosed
        default:
            let verdict = SSL_get_verify_result(raw)
            var words = TLSErrors.take() ?? "the connection broke"
            if words == "callback failed" { words = "direct TLS without ALPN" }
            if state == .handshaking && verdict != CLong(X509_V_OK) {
                words += ": " + String(cString: X509_verify_cert_error_string(verdict))
            }
            state = .failed(words)
        }
        return false
    }

    // MARK: facts, once it is open

    /// The peer's certificate; nil when it showed none.
    package var peerCertificate: TLSCertificate? {
        guard let certificate = SSL_get1_peer_certificate(raw) else { return nil }
        defer { X509_free(certificate) }
        return TLSCertificate(certificate)
    }

    /// The hash of the server's certificate, which both sides know; empty when its signature has none.
    package var endpointDigest: [UInt8] {
        if role == .client { return peerCertificate?.endpointDigest ?? [] }
        return SSL_get_certificate(raw).map { TLSCertificate.endpointDigest(of: $0) } ?? []
    }

    /// ALPN has agreed on our protocol.
    package var hasALPN: Bool {
        var name: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        SSL_get0_alpn_selected(raw, &name, &count)
        return count > 0
    }

    /// `TLSv1.3/TLS_AES_256_GCM_SHA384`
    package var summary: String {
        let version = String(cString: SSL_get_version(raw))
        guard let cipher = SSL_get_current_cipher(raw), let name = SSL_CIPHER_get_name(cipher) else { return version }
        return "\(version)/\(String(cString: name))"
    }
}
