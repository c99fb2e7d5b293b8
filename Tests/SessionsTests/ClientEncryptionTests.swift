import Configuration
import PGWire
import Primitives
import Sessions
import Testing

@Suite struct ClientEncryptionTests {
    private static let request: [UInt8] = [0, 0, 0, 8, 4, 210, 22, 47]
    private static let gssRequest: [UInt8] = [0, 0, 0, 8, 4, 210, 22, 48]
    private static let digest = Array(1...32) as [UInt8]

    private func client(
        _ method: AuthPolicy.Method = .trust, isRequired: Bool = false,
        certificate: EncryptionPolicy.ClientCertificate = .optional, maps: IdentFile = .empty, map: String? = nil,
        isBytewise: Bool = false
    ) -> LoginClient {
        LoginClient(
            method, ["ann": "pencil"], isBytewise: isBytewise,
            encryption: EncryptionPolicy(isOffered: true, isRequired: isRequired, certificate: certificate),
            maps: maps, map: map)
    }

    @Test(arguments: [false, true])
    func `SSLRequest is answered by S where TLS is offered, and the login goes on within`(isBytewise: Bool) {
        var client = client(isBytewise: isBytewise)
        client.send(Self.request)
        #expect(client.actions == [.send([0x53]), .startTLS(isDirect: false)])
        client.login.secured(ChannelFacts())
        client.start([("user", "ann")])
        #expect(client.request?.user == "ann")
    }

    @Test func `SSLRequest is answered by N where TLS is not offered`() {
        var client = LoginClient()
        client.send(Self.request)
        #expect(client.actions == [.send([0x4E])])
        client.start([("user", "ann")])
        #expect(client.request?.user == "ann")
    }

    @Test func `GSSENCRequest is answered by N, and TLS may follow`() {
        var client = client()
        client.send(Self.gssRequest)
        client.send(Self.request)
        #expect(client.actions == [.send([0x4E]), .send([0x53]), .startTLS(isDirect: false)])
    }

    @Test func `bytes that came with SSLRequest are refused`() {
        for more in [[0], Self.request, Array(repeating: 0x16, count: 300)] as [[UInt8]] {
            var client = client()
            client.send(Self.request + more)
            #expect(client.refusal?.state == .protocolViolation)
            #expect(client.refusal?.message == "received unencrypted data after SSL request")
            #expect(client.actions.count == 1)
        }
    }

    @Test(arguments: [request, gssRequest])
    func `encryption within TLS is refused`(packet: [UInt8]) {
        var client = client()
        client.secure()
        client.send(packet)
        #expect(client.refusal?.state == .protocolViolation)
    }

    @Test func `a ClientHello as the first byte is direct TLS`() {
        var client = client()
        client.send([0x16])
        #expect(client.actions == [.startTLS(isDirect: true)])
        client.login.secured(ChannelFacts())
        client.start([("user", "ann")])
        #expect(client.request?.user == "ann")
        var plain = LoginClient()
        plain.send([0x16, 3, 1, 2, 0, 1, 0, 1])
        #expect(plain.refusal?.state == .protocolViolation)
        var late = self.client()
        late.send(Self.gssRequest)
        late.send([0x16, 3, 1, 2, 0, 1, 0, 1])
        #expect(late.refusal?.state == .protocolViolation)
    }

    @Test func `who must come by TLS is told what to do`() {
        var client = client(isRequired: true)
        client.start([("user", "ann")])
        #expect(client.refusal?.severity == .fatal)
        #expect(client.refusal?.state == .invalidAuthorization)
        #expect(client.refusal?.hint?.contains("sslmode=require") == true)
        var secured = self.client(isRequired: true)
        secured.secure()
        secured.start([("user", "ann")])
        #expect(secured.request?.user == "ann")
        var cancel = self.client(isRequired: true)
        cancel.send([0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2])
        #expect(cancel.actions == [.cancel(processID: 1, secret: [0, 0, 0, 2])])
    }

    @Test func `where certificates are required, whose it is matters only if it must be the user's`() throws {
        let cases: [(EncryptionPolicy.ClientCertificate, ChannelFacts, Bool)] = [
            (.optional, ChannelFacts(), true),
            (.required, ChannelFacts(), false),
            (.required, ChannelFacts(hasCertificate: true, certificateName: nil), true),
            (.required, ChannelFacts(hasCertificate: true, certificateName: "bob"), true),
            (.ofUser, ChannelFacts(), false),
            (.ofUser, ChannelFacts(hasCertificate: true, certificateName: nil), false),
            (.ofUser, ChannelFacts(hasCertificate: true, certificateName: "bob"), false),
            (.ofUser, ChannelFacts(hasCertificate: true, certificateName: "ann"), true),
        ]
        for (rule, facts, isIn) in cases {
            var client = client(isRequired: true, certificate: rule)
            client.secure(facts)
            client.start([("user", "ann")])
            #expect((client.request != nil) == isIn, "\(rule) \(facts)")
            if !isIn { #expect(client.refusal?.state == .invalidAuthorization) }
        }
        // The password is asked for all the same.
        var client = client(.md5, isRequired: true, certificate: .ofUser)
        client.secure(ChannelFacts(hasCertificate: true, certificateName: "ann"))
        client.start([("user", "ann")])
        #expect(client.challenge == LoginClient.salt)
    }

    @Test func `cert is the certificate's name and nothing else`() throws {
        let maps = try IdentFile.parse(text: "m CN-of-ann ann", path: "f")
        let named = ChannelFacts(hasCertificate: true, certificateName: "ann")
        let mapped = ChannelFacts(hasCertificate: true, certificateName: "CN-of-ann")
        for (facts, map, isIn) in [
            (named, nil, true), (mapped, nil, false), (mapped, "m", true), (named, "m", false),
            (ChannelFacts(), nil, false), (nil, nil, false),
        ] as [(ChannelFacts?, String?, Bool)] {
            var client = client(.cert, maps: maps, map: map)
            if let facts { client.secure(facts) }
            client.start([("user", "ann")])
            #expect((client.request != nil) == isIn)
            if !isIn { #expect(client.refusal?.state == .invalidAuthorization) }
        }
    }

    // MARK: SCRAM-SHA-256-PLUS

    @Test func `the binding is offered where the channel has one`() {
        for (digest, mechanisms) in [
            (Self.digest, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), ([], "SCRAM-SHA-256\0\0"),
        ] {
            var client = client(.scramSHA256)
            client.secure(ChannelFacts(endpointDigest: digest))
            client.start([("user", "ann")])
            #expect(client.challenge == Array(mechanisms.utf8))
        }
        var plain = client(.scramSHA256)
        plain.start([("user", "ann")])
        #expect(plain.challenge == Array("SCRAM-SHA-256\0\0".utf8))
    }

    @Test(arguments: [SCRAMClient.Binding.endpoint(digest), .none])
    func `a client logs in bound to the channel or not`(binding: SCRAMClient.Binding) throws {
        var client = client(.scramSHA256)
        client.secure(ChannelFacts(endpointDigest: Self.digest))
        client.start([("user", "ann")])
        try client.scram("pencil", user: "ann", binding: binding)
        #expect(client.request?.user == "ann")
    }

    @Test func `another channel, and one that hid our offer, are refused as PostgreSQL does`() throws {
        for (binding, message) in [
            (SCRAMClient.Binding.endpoint(Array(33...64)), "SCRAM channel binding check failed"),
            (.notOffered, "SCRAM channel binding negotiation error"),
        ] {
            var client = client(.scramSHA256)
            client.secure(ChannelFacts(endpointDigest: Self.digest))
            client.start([("user", "ann")])
            try? client.scram("pencil", user: "ann", binding: binding)
            #expect(client.refusal?.message == message)
            #expect(client.refusal?.state == .invalidAuthorization)
        }
    }
}
