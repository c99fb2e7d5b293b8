import Reactor
import TestSupport

/// Certificates that the tests of this target share.
enum TestCertificates {
    static let authority = Result { try CertificateAuthority() }
    static let server = Result {
        try authority.get().issue("db.example", names: "DNS:localhost,DNS:*.example,IP:127.0.0.1")
    }
    static let client = Result { try authority.get().issue("ann") }

    static func serverOptions() throws -> TLSOptions {
        var options = TLSOptions()
        options.certificate = try server.get().certificate
        options.key = try server.get().key
        return options
    }

    static func clientOptions() throws -> TLSOptions {
        var options = TLSOptions()
        options.authorities = .file(try authority.get().certificate)
        return options
    }
}

/// A server's and a client's TLS with a wire between them that the test cuts and bends.
final class TLSPair {
    /// One end: what it has decrypted, and what it wants to send.
    final class End {
        let stream: TLSStream
        private let scratch: TLSScratch
        var plaintext: [UInt8] = []
        var outgoing: [UInt8] = []
        private var buffer = [UInt8](repeating: 0, count: 65_536)

        init(_ context: TLSContext, serverName: String? = nil, isDirect: Bool = false) {
            scratch = TLSScratch(plaintextBytes: 65_536)
            stream = TLSStream(context, scratch, serverName: serverName, isDirect: isDirect)
        }

        func begin() {
            stream.begin()
            collect()
        }

        func receive(_ ciphertext: [UInt8]) {
            let count = buffer.withUnsafeMutableBytes { into in
                ciphertext.withUnsafeBytes { stream.decrypt($0, into: into) }
            }
            plaintext += buffer[..<count]
            collect()
        }

        func send(_ bytes: [UInt8]) {
            bytes.withUnsafeBytes { stream.encrypt($0) }
            collect()
        }

        func shutdown() {
            stream.shutdown()
            collect()
        }

        private func collect() {
            outgoing += Array(scratch.output)
            scratch.clearOutput()
        }
    }

    let server: End
    let client: End

    init(_ serverOptions: TLSOptions, _ clientOptions: TLSOptions, isDirect: Bool = false) throws {
        server = End(try TLSContext(.server, serverOptions), isDirect: isDirect)
        client = End(try TLSContext(.client, clientOptions), serverName: "localhost")
    }

    /// Carries what both ends want to send, at most `piece` bytes at once, until nobody has anything to say.
    func carry(piece: Int) {
        while !server.outgoing.isEmpty || !client.outgoing.isEmpty {
            Self.move(from: client, to: server, piece)
            Self.move(from: server, to: client, piece)
        }
    }

    private static func move(from: End, to: End, _ piece: Int) {
        let count = min(piece, from.outgoing.count)
        if count == 0 { return }
        let part = Array(from.outgoing[..<count])
        from.outgoing.removeFirst(count)
        to.receive(part)
    }

    func shakeHands(piece: Int = .max) {
        client.begin()
        carry(piece: piece)
    }
}
