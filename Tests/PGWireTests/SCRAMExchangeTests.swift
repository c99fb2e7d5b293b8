import PGWire
import Testing

@Suite struct SCRAMExchangeTests {
    private static let secret = SCRAMSecret(password: "pencil", salt: [1, 2, 3, 4], iterations: 7)
    private static let clientBytes = Array(1...18) as [UInt8]
    private static let serverBytes = Array(101...118) as [UInt8]

    private func server(isKnownUser: Bool = true) -> SCRAMServer {
        SCRAMServer(secret: Self.secret, isKnownUser: isKnownUser, randomBytes: Self.serverBytes)
    }

    private func client(_ password: String = "pencil") -> SCRAMClient {
        SCRAMClient(password: password, randomBytes: Self.clientBytes)
    }

    private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
    private func nonce(_ bytes: [UInt8]) -> String { text(Base64.encode(bytes)) }

    @Test func `both halves agree on the right password`() throws {
        var server = server()
        var client = client()
        let first = client.first()
        #expect(text(first) == "n,,n=,r=\(nonce(Self.clientBytes))")
        let serverFirst = try server.first(first)
        #expect(text(serverFirst) == "r=\(nonce(Self.clientBytes))\(nonce(Self.serverBytes)),s=AQIDBA==,i=7")
        let serverFinal = try server.final(try client.final(serverFirst: serverFirst))
        #expect(serverFinal.starts(with: Array("v=".utf8)))
        try client.verify(serverFinal: serverFinal)
    }

    @Test(arguments: ["", "Pencil", "pencil ", "penci", "pencilx"])
    func `another password is wrong`(password: String) throws {
        var server = server()
        var client = client(password)
        let final = try client.final(serverFirst: try server.first(client.first()))
        #expect(throws: SCRAMServer.Failure.wrongPassword) { try server.final(final) }
    }

    @Test
    func `an unknown user gets messages of the same size and fails at the end, even with the right password`()
        throws
    {
        var known = server()
        var mock = server(isKnownUser: false)
        var client = client()
        let first = client.first()
        let serverFirst = try mock.first(first)
        #expect(serverFirst.count == (try known.first(first)).count)
        let final = try client.final(serverFirst: serverFirst)
        #expect(throws: SCRAMServer.Failure.wrongPassword) { try mock.final(final) }
    }

    @Test func `a client that does not bind the channel may say that it could`() throws {
        var server = server()
        let serverFirst = try server.first(Array("y,,n=,r=abc".utf8))
        #expect(text(serverFirst).hasPrefix("r=abc"))
        // c= must repeat the header: "y,," is eSws.
        let proof = String(repeating: "A", count: 43) + "="
        let final = "c=eSws,r=abc\(nonce(Self.serverBytes)),p=\(proof)"
        #expect(throws: SCRAMServer.Failure.wrongPassword) { try server.final(Array(final.utf8)) }
    }

    // MARK: channel binding

    private static let endpoint = Array(201...232) as [UInt8]

    private func bindingServer() -> SCRAMServer {
        SCRAMServer(secret: Self.secret, isKnownUser: true, randomBytes: Self.serverBytes, binding: Self.endpoint)
    }

    private func bindingClient(_ binding: SCRAMClient.Binding) -> SCRAMClient {
        SCRAMClient(password: "pencil", randomBytes: Self.clientBytes, binding: binding)
    }

    @Test func `both halves bind to the channel that both see`() throws {
        var server = bindingServer()
        var client = bindingClient(.endpoint(Self.endpoint))
        let first = client.first()
        #expect(text(first).hasPrefix("p=tls-server-end-point,,n=,r="))
        let final = try client.final(serverFirst: try server.first(first, mechanism: .plus))
        try client.verify(serverFinal: try server.final(final))
    }

    @Test func `a client that offers a binding and does not choose it is as good as any`() throws {
        var server = bindingServer()
        var client = bindingClient(.none)
        let final = try client.final(serverFirst: try server.first(client.first()))
        try client.verify(serverFinal: try server.final(final))
    }

    @Test func `a client on another channel is found out`() throws {
        var server = bindingServer()
        var client = bindingClient(.endpoint(Array(1...32)))
        let final = try client.final(serverFirst: try server.first(client.first(), mechanism: .plus))
        #expect(throws: SCRAMServer.Failure.bindingMismatch) { try server.final(final) }
    }

    @Test func `a client that was told there is no binding is told that there is`() throws {
        var server = bindingServer()
        #expect(throws: SCRAMServer.Failure.bindingDowngraded) { try server.first(bindingClient(.notOffered).first()) }
        var other = self.server()
        var client = bindingClient(.notOffered)
        let final = try client.final(serverFirst: try other.first(client.first()))
        try client.verify(serverFinal: try other.final(final))
    }

    @Test(arguments: ["n,,n=,r=abc", "y,,n=,r=abc", "p=tls-unique,,n=,r=abc", "p=tls-server-end-point,a=x,n=,r=abc"])
    func `the mechanism with a binding needs the one that we have`(message: String) {
        var server = bindingServer()
        #expect(throws: SCRAMServer.Failure.bindingNotOffered) {
            try server.first(Array(message.utf8), mechanism: .plus)
        }
        var other = self.server()
        #expect(throws: SCRAMServer.Failure.bindingNotOffered) {
            try other.first(Array("p=tls-server-end-point,,n=,r=abc".utf8), mechanism: .plus)
        }
    }

    @Test(arguments: [
        "", "n", "n,,", "n,", "x,,n=,r=abc", "p=tls-server-end-point,,n=,r=abc", "n,a=root,n=,r=abc",
        "n,,r=abc",
        "n,,n=,", "n,,n=", "n,,n=,r=", "n,,r=abc,n=", "n,,m=x,n=,r=abc", "n,,n=,x=abc", "n,,n=,r=a c",
        "n,,n=,r=aé",
        "n,,n=,r=a\u{7F}", "n,,n=,r=a\u{0}", "n,,N=,r=abc", "c=biws,r=abc,p=AAAA",
    ])
    func `a malformed first message of a client is refused`(message: String) {
        var server = server()
        #expect(throws: SCRAMServer.Failure.malformed) { try server.first(Array(message.utf8)) }
    }

    @Test func `what the client adds behind its nonce is part of what is proven`() throws {
        var server = server()
        #expect(text(try server.first(Array("n,,n=ann,r=abc,x=ext".utf8))).hasPrefix("r=abc"))
    }

    @Test(arguments: [
        "", "p=", ",p=", "c=biws,r=NONCE", "c=biws,r=NONCE,p=", "c=biws,r=NONCE,p=AAAA",
        "c=biws,r=NONCE,p=!PROOF",
        "c=biws,r=NONCE,x=PROOF", "c=eSws,r=NONCE,p=PROOF", "c=,r=NONCE,p=PROOF", "r=NONCE,p=PROOF",
        "c=biws,p=PROOF",
        "c=biws,r=,p=PROOF", "c=biws,r=NONCEx,p=PROOF", "c=biws,r=xNONCE,p=PROOF", "c=biws,r=abc,p=PROOF",
        "r=NONCE,c=biws,p=PROOF", "c=biws,r=NONCE,p=PROOF,x=1", "c=biws,r=NONCE,p=PROOF\u{0}",
        "c=biws,r=NONCE,p=PROOFA",
    ])
    func `a malformed or tampered final message of a client is refused`(pattern: String) throws {
        var server = server()
        _ = try server.first(Array("n,,n=,r=abc".utf8))
        let message = pattern.replacing("NONCE", with: "abc" + nonce(Self.serverBytes))
            .replacing("PROOF", with: String(repeating: "A", count: 43) + "=")
        #expect(throws: SCRAMServer.Failure.malformed) { try server.final(Array(message.utf8)) }
    }

    @Test func `steps out of order and steps taken twice are refused`() throws {
        var early = server()
        #expect(throws: SCRAMServer.Failure.malformed) { try early.final(Array("c=biws,r=a,p=AAAA".utf8)) }
        var server = server()
        var client = client()
        let first = client.first()
        let serverFirst = try server.first(first)
        #expect(throws: SCRAMServer.Failure.malformed) { try server.first(first) }
        let final = try client.final(serverFirst: serverFirst)
        _ = try server.final(final)
        #expect(throws: SCRAMServer.Failure.malformed) { try server.final(final) }
    }

    // MARK: hostile servers

    @Test(arguments: [
        "", "r=", "r=NONCEx", "r=NONCEx,s=AQID", "r=NONCE,s=AQID,i=1", "r=xNONCE,s=AQID,i=1", "r=,s=AQID,i=1",
        "s=AQID,r=NONCEx,i=1", "x=NONCEx,s=AQID,i=1", "r=NONCEx,s=,i=1", "r=NONCEx,s=AQ,i=1",
        "r=NONCEx,s=!!!!,i=1",
        "r=NONCEx,s=AQID,i=", "r=NONCEx,s=AQID,i=0", "r=NONCEx,s=AQID,i=-1", "r=NONCEx,s=AQID,i=1x",
        "r=NONCEx,s=AQID,i=1000001", "r=NONCEx,s=AQID,i=99999999999999999999", "m=x,r=NONCEx,s=AQID,i=1",
        "e=other-error",
    ])
    func `a malformed first message of a server is refused`(pattern: String) {
        var client = client()
        let message = pattern.replacing("NONCE", with: nonce(Self.clientBytes))
        #expect(throws: SCRAMClient.Failure.malformed) { try client.final(serverFirst: Array(message.utf8)) }
    }

    @Test func `a server's first message is taken up to its bound and not beyond`() throws {
        func message(size: Int) -> [UInt8] {
            let tail = ",s=AQID,i=1"
            let head = "r=" + nonce(Self.clientBytes)
            return Array(head.utf8)
                + [UInt8](repeating: 0x78, count: size - head.utf8.count - tail.utf8.count)
                + Array(tail.utf8)
        }
        var client = client()
        #expect(throws: SCRAMClient.Failure.malformed) { try client.final(serverFirst: message(size: 1025)) }
        #expect(throws: SCRAMClient.Failure.malformed) {
            try client.final(serverFirst: message(size: 65_000))
        }
        #expect(try client.final(serverFirst: message(size: 1024)).count > 900)
    }

    @Test func `a server may make us derive keys only once`() throws {
        var client = client()
        let message = Array("r=\(nonce(Self.clientBytes))x,s=AQID,i=1".utf8)
        _ = try client.final(serverFirst: message)
        #expect(throws: SCRAMClient.Failure.malformed) { try client.final(serverFirst: message) }
    }

    @Test func `a server that does not know the password is found out`() throws {
        var server = SCRAMServer(
            secret: SCRAMSecret(
                iterations: 7, salt: Self.secret.salt, storedKey: Self.secret.storedKey,
                serverKey: [UInt8](repeating: 0, count: 32)),
            isKnownUser: true, randomBytes: Self.serverBytes)
        var client = client()
        let final = try client.final(serverFirst: try server.first(client.first()))
        let serverFinal = try server.final(final)
        #expect(throws: SCRAMClient.Failure.wrongServerSignature) {
            try client.verify(serverFinal: serverFinal)
        }
    }

    @Test(
        arguments: [
            ("", .malformed), ("v", .malformed), ("e=invalid-proof", .malformed), ("v=!", .malformed),
            ("v=", .wrongServerSignature), ("v=AAAA", .wrongServerSignature),
            ("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", .wrongServerSignature),
        ] as [(String, SCRAMClient.Failure)])
    func `another final message of a server is refused`(message: String, failure: SCRAMClient.Failure) throws
    {
        var client = client()
        #expect(throws: SCRAMClient.Failure.self) { try client.verify(serverFinal: Array(message.utf8)) }
        var server = server()
        _ = try client.final(serverFirst: try server.first(client.first()))
        #expect(throws: failure) { try client.verify(serverFinal: Array(message.utf8)) }
    }
}
