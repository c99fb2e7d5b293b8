import Primitives
import Reactor
import TestSupport
import Testing

@Suite struct TLSStreamTests {
    static let versions: [TLSVersion] = [.v12, .v13]

    private func pair(
        _ version: TLSVersion? = nil, server: TLSOptions? = nil, client: TLSOptions? = nil, isDirect: Bool = false
    ) throws -> TLSPair {
        var serverOptions = try server ?? TestCertificates.serverOptions()
        var clientOptions = try client ?? TestCertificates.clientOptions()
        if let version {
            serverOptions.most = version
            clientOptions.least = version
        }
        return try TLSPair(serverOptions, clientOptions, isDirect: isDirect)
    }

    private func bytes(_ count: Int, from start: Int = 0) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: (start + $0) &* 31) }
    }

    // MARK: cut anywhere

    @Test(arguments: versions, [1, 2, 3, 5, 16, 100, 1_000, 17_000, .max])
    func `bytes arrive once and in order however the wire cuts them`(version: TLSVersion, piece: Int) throws {
        let pair = try pair(version)
        pair.shakeHands(piece: piece)
        #expect(pair.server.stream.state == .open)
        #expect(pair.client.stream.state == .open)
        #expect(pair.client.stream.summary.hasPrefix(version.rawValue))
        for count in [1, 5, 16_384, 16_385, 40_000] {
            let there = bytes(count)
            let back = bytes(count, from: 7)
            pair.client.send(there)
            pair.server.send(back)
            pair.carry(piece: piece)
            #expect(pair.server.plaintext == there)
            #expect(pair.client.plaintext == back)
            pair.server.plaintext = []
            pair.client.plaintext = []
        }
        pair.client.shutdown()
        pair.carry(piece: piece)
        #expect(pair.server.stream.state == .peerClosed)
        // A half-closed connection still takes what we have to say.
        pair.server.send([1, 2, 3])
        pair.server.shutdown()
        pair.carry(piece: piece)
        #expect(pair.client.plaintext == [1, 2, 3])
        #expect(pair.client.stream.state == .peerClosed)
    }

    @Test(arguments: versions)
    func `data may come in one piece with the end of the handshake, and goodbye with data`(
        version: TLSVersion
    ) throws {
        let pair = try pair(version)
        pair.client.begin()
        while pair.client.stream.state == .handshaking {
            pair.server.receive(pair.client.outgoing)
            pair.client.outgoing = []
            pair.client.receive(pair.server.outgoing)
            pair.server.outgoing = []
        }
        pair.client.send([1, 2, 3])
        pair.client.shutdown()
        pair.server.receive(pair.client.outgoing)
        #expect(pair.server.plaintext == [1, 2, 3])
        #expect(pair.server.stream.state == .peerClosed)
    }

    @Test(arguments: versions)
    func `a batch becomes records as full as they may be`(version: TLSVersion) throws {
        let pair = try pair(version)
        pair.shakeHands()
        pair.client.send(bytes(100_000))
        let records = (100_000 + 16_383) / 16_384
        #expect(pair.client.outgoing.count <= 100_000 + records * 64)
        pair.carry(piece: 40_000)
        #expect(pair.server.plaintext == bytes(100_000))
    }

    @Test(arguments: versions, [1, 2, 3] as [UInt64])
    func `a byte that was changed on the way never becomes plaintext`(version: TLSVersion, seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        for _ in 0..<20 {
            let pair = try pair(version)
            pair.shakeHands()
            pair.client.send(bytes(300))
            let place = Int.random(in: 0..<pair.client.outgoing.count, using: &random)
            pair.client.outgoing[place] ^= UInt8.random(in: 1...255, using: &random)
            pair.carry(piece: .max)
            #expect(pair.server.plaintext.isEmpty, "seed \(seed), byte \(place)")
            #expect(pair.server.stream.state != .peerClosed, "seed \(seed), byte \(place)")
        }
    }

    @Test(arguments: versions)
    func `a record that is cut off gives nothing`(version: TLSVersion) throws {
        let pair = try pair(version)
        pair.shakeHands()
        pair.client.send(bytes(1_000))
        pair.server.receive(Array(pair.client.outgoing.dropLast()))
        #expect(pair.server.plaintext.isEmpty)
        #expect(pair.server.stream.state == .open)
    }

    // MARK: handshakes that fail

    @Test func `what is no ClientHello fails, whatever follows`() throws {
        for first in [Array("GET / HTTP/1.0\r\n\r\n".utf8), [0x17, 3, 3, 0, 1, 0], [0, 0, 0, 8, 4, 210, 22, 47]] {
            let end = TLSPair.End(try TLSContext(.server, TestCertificates.serverOptions()))
            end.receive(first)
            guard case .failed(let reason) = end.stream.state else {
                Issue.record("\(first) is \(end.stream.state)")
                continue
            }
            #expect(!reason.isEmpty)
            let told = end.outgoing.count
            end.receive(bytes(5_000))
            #expect(end.plaintext.isEmpty && end.outgoing.count == told)
        }
    }

    @Test func `garbage behind a ClientHello fails the handshake`() throws {
        let pair = try pair()
        pair.client.begin()
        pair.server.receive(pair.client.outgoing + Array("garbage that is no record".utf8))
        guard case .failed = pair.server.stream.state else {
            Issue.record("the server is \(pair.server.stream.state)")
            return
        }
        #expect(pair.server.plaintext.isEmpty)
    }

    @Test func `versions that do not meet are refused by both`() throws {
        var server = try TestCertificates.serverOptions()
        server.least = .v13
        var client = try TestCertificates.clientOptions()
        client.most = .v12
        let pair = try TLSPair(server, client)
        pair.shakeHands()
        #expect(pair.server.stream.state == .failed("unsupported protocol"))
        #expect(pair.client.stream.state == .failed("tlsv1 alert protocol version"))
    }

    @Test func `a certificate that is over, or of a stranger, is refused with the reason`() throws {
        let authority = try TestCertificates.authority.get()
        for (issued, reason) in [
            (try authority.issue("db.example", days: 0), "certificate has expired"),
            (try CertificateAuthority("stranger").issue("db.example"), "unable to get local issuer certificate"),
        ] {
            var server = TLSOptions()
            server.certificate = issued.certificate
            server.key = issued.key
            let pair = try pair(server: server)
            pair.shakeHands()
            #expect(pair.client.stream.state == .failed("certificate verify failed: \(reason)"))
            guard case .failed = pair.server.stream.state else {
                Issue.record("the server was not told: \(pair.server.stream.state)")
                continue
            }
        }
    }

    // MARK: direct TLS

    @Test func `direct TLS without our protocol's name gets the alert for it`() throws {
        let pair = try pair(isDirect: true)
        pair.shakeHands()
        #expect(pair.client.stream.state == .failed("tlsv1 alert no application protocol"))
        guard case .failed = pair.server.stream.state else {
            Issue.record("the server is \(pair.server.stream.state)")
            return
        }
    }

    @Test(arguments: versions, [true, false])
    func `our protocol's name is agreed on`(version: TLSVersion, isDirect: Bool) throws {
        var client = try TestCertificates.clientOptions()
        client.offersALPN = true
        let pair = try pair(version, client: client, isDirect: isDirect)
        pair.shakeHands()
        #expect(pair.client.stream.hasALPN && pair.server.stream.hasALPN)
    }

    // MARK: certificates

    @Test(arguments: versions)
    func `each end sees the other's certificate`(version: TLSVersion) throws {
        var server = try TestCertificates.serverOptions()
        server.authorities = .file(try TestCertificates.authority.get().certificate)
        var client = try TestCertificates.clientOptions()
        client.certificate = try TestCertificates.client.get().certificate
        client.key = try TestCertificates.client.get().key
        let pair = try pair(version, server: server, client: client)
        pair.shakeHands()
        let seen = try #require(pair.client.stream.peerCertificate)
        #expect(seen.commonName == "db.example")
        #expect(seen.subject == "CN=db.example,O=Godwit")
        #expect(seen.names == [.dns("localhost"), .dns("*.example"), .address([127, 0, 0, 1])])
        #expect(pair.server.stream.peerCertificate?.commonName == "ann")
        #expect(pair.client.stream.endpointDigest == pair.server.stream.endpointDigest)
        #expect(!pair.client.stream.endpointDigest.isEmpty)
        let anonymous = try self.pair(version, server: server)
        anonymous.shakeHands()
        #expect(anonymous.server.stream.state == .open)
        #expect(anonymous.server.stream.peerCertificate == nil)
    }

    @Test(arguments: [("sha256", "sha256"), ("sha384", "sha384"), ("sha512", "sha512"), ("sha1", "sha256")])
    func `the channel is known by its certificate's hash, as RFC 5929 chooses it`(
        signature: String, hash: String
    ) throws {
        let issued = try TestCertificates.authority.get().issue("db.example", digest: signature)
        let der = TestResources.uniquePath("der")
        try ChildProcess.run(["openssl", "x509", "-in", issued.certificate, "-outform", "DER", "-out", der])
        let expected = try ChildProcess.run(["openssl", "dgst", "-\(hash)", "-r", der]).prefix { $0 != " " }
        var server = TLSOptions()
        server.certificate = issued.certificate
        server.key = issued.key
        server.ciphers = "DEFAULT@SECLEVEL=0"  // or it would not take SHA-1
        let end = TLSPair.End(try TLSContext(.server, server))
        let digest = end.stream.endpointDigest.map { byte in
            let text = String(byte, radix: 16)
            return text.count == 1 ? "0" + text : text
        }.joined()
        #expect(digest == expected)
    }

    @Test func `a signature without a hash gives none`() throws {
        let authority = try CertificateAuthority("edwards", .ed25519)
        let issued = try authority.issue("db.example", kind: .ed25519)
        var server = TLSOptions()
        server.certificate = issued.certificate
        server.key = issued.key
        #expect(TLSPair.End(try TLSContext(.server, server)).stream.endpointDigest.isEmpty)
    }

    /// libpq's rules.
    @Test(arguments: [
        ("db.example", nil, [], false),
        ("db.example", "db.example", [], true),
        ("DB.example", "db.EXAMPLE", [], true),
        ("a.example", "*.example", [], true),
        ("a.b.example", "*.example", [], false),
        (".example", "*.example", [], false),
        ("example", "*.example", [], false),
        ("aexample", "*example", [], false),
        ("a.example", "*", [], false),
        ("db.example", "db.example", [.dns("other.example")], false),
        ("db.example", "other", [.dns("x"), .dns("db.example")], true),
        ("db.example", "db.example", [.address([127, 0, 0, 1])], true),
        ("127.0.0.1", "127.0.0.1", [], true),
        ("127.0.0.1", "127.0.0.1", [.dns("x")], true),
        ("127.0.0.1", "127.0.0.1", [.address([10, 0, 0, 1])], false),
        ("127.0.0.1", nil, [.address([127, 0, 0, 1])], true),
        ("::1", nil, [.address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])], true),
        ("::1", nil, [.address([127, 0, 0, 1])], false),
    ] as [(String, String?, [TLSCertificate.Name], Bool)])
    func `a certificate is for the hosts it names`(
        host: String, commonName: String?, names: [TLSCertificate.Name], isFor: Bool
    ) {
        #expect(TLSCertificate(commonName: commonName, names: names).isFor(host: host) == isFor)
    }
}
