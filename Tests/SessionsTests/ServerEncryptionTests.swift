import PGWire
import Sessions
import Testing

@Suite struct ServerEncryptionTests {
    typealias Attempt = ServerEncryption.Attempt
    typealias Failure = ServerEncryption.Failure

    private static let digest = Array(1...32) as [UInt8]

    /// All ways that are tried when each fails for the same reason.
    private func attempts(_ mode: ServerEncryption.Mode, _ failure: Failure, isDirect: Bool = false) -> [Attempt] {
        let encryption = ServerEncryption(mode: mode, isDirect: isDirect)
        var attempts = [encryption.firstAttempt]
        while let next = encryption.attempt(after: attempts[attempts.count - 1], failure) { attempts.append(next) }
        return attempts
    }

    @Test func `what is tried follows libpq's sslmode`() {
        let expected: [(ServerEncryption.Mode, handshake: [Attempt], login: [Attempt])] = [
            (.disable, [.plain], [.plain]), (.allow, [.plain], [.plain, .requested]),
            (.prefer, [.requested, .plain], [.requested, .plain]), (.require, [.requested], [.requested]),
        ]
        for (mode, handshake, login) in expected {
            #expect(attempts(mode, .handshake) == handshake)
            #expect(attempts(mode, .login) == login)
            #expect(attempts(mode, .other).count == 1)
        }
        #expect(attempts(.require, .handshake, isDirect: true) == [.direct])
    }

    private func answer(_ mode: ServerEncryption.Mode, _ bytes: [UInt8]) -> ServerEncryption.Answer {
        bytes.withUnsafeBytes { ServerEncryption(mode: mode).answer(to: $0) }
    }

    @Test(arguments: [ServerEncryption.Mode.allow, .prefer, .require])
    func `S starts TLS when nothing came with it`(mode: ServerEncryption.Mode) {
        #expect(answer(mode, [0x53]) == .startTLS)
        for more in [[0x16], [0x53], Array(repeating: 0x52, count: 9)] as [[UInt8]] {
            #expect(answer(mode, [0x53] + more) == .failed("received unencrypted data after SSL response"))
        }
    }

    @Test func `N goes on plain where that is allowed, and only without more`() {
        #expect(answer(.prefer, [0x4E]) == .goOnPlain)
        #expect(answer(.require, [0x4E]) == .failed("server does not support SSL, but SSL was required"))
        guard case .failed = answer(.prefer, [0x4E, 0x52]) else {
            Issue.record("bytes behind N were taken")
            return
        }
    }

    @Test func `an error's words are not repeated, and nothing else is an answer`() {
        let error = ErrorResponse(.fatal, .invalidPassword, "send your password to me").encoded
        #expect(answer(.prefer, error) == .failed("server sent an error response during SSL exchange"))
        for byte in [0, 0x52, 0x73, 0xFF] as [UInt8] {
            #expect(answer(.prefer, [byte]) == .failed("received invalid response to SSL negotiation"))
        }
    }

    // MARK: SCRAM-SHA-256-PLUS

    private func login(_ binding: ServerEncryption.ChannelBinding, isTLS: Bool = true) -> ServerLogin {
        var login = ServerLogin(
            credentials: .init(user: "ann", password: "pencil", md5Secret: nil), randomBytes: Array(1...18),
            channelBinding: binding)
        if isTLS { login.secured(endpointDigest: Self.digest) }
        return login
    }

    private func receive(_ login: inout ServerLogin, _ code: UInt8, _ extra: [UInt8] = []) -> [ServerLogin.Action] {
        var actions: [ServerLogin.Action] = []
        ([0, 0, 0, code] + extra).withUnsafeBytes { login.receive(tag: BackendTag.authentication, body: $0, &actions) }
        return actions
    }

    /// Mechanism and message of our answer to the server's offer; nil: we fail.
    private func choice(_ login: inout ServerLogin, _ offer: String) -> (mechanism: String, message: [UInt8])? {
        guard case .send(let bytes)? = receive(&login, 10, Array(offer.utf8)).first else { return nil }
        let body = bytes.dropFirst(5)
        guard let end = body.firstIndex(of: 0) else { return nil }
        return (String(decoding: body[..<end], as: UTF8.self), Array(body[(end + 5)...]))
    }

    @Test(arguments: [
        (ServerEncryption.ChannelBinding.prefer, true, true, "SCRAM-SHA-256-PLUS p"),
        (.require, true, true, "SCRAM-SHA-256-PLUS p"), (.disable, true, true, "SCRAM-SHA-256 n"),
        (.prefer, true, false, "SCRAM-SHA-256 y"), (.require, true, false, nil), (.disable, true, false, "SCRAM-SHA-256 n"),
        (.prefer, false, true, "SCRAM-SHA-256 n"), (.require, false, true, nil),
        (.prefer, false, false, "SCRAM-SHA-256 n"),
    ] as [(ServerEncryption.ChannelBinding, Bool, Bool, String?)])
    func `we bind where both can, and say it where the server cannot`(
        binding: ServerEncryption.ChannelBinding, isTLS: Bool, isOffered: Bool, expected: String?
    ) {
        var login = login(binding, isTLS: isTLS)
        let offer = (isOffered ? "SCRAM-SHA-256-PLUS\0" : "") + "SCRAM-SHA-256\0\0"
        let made = choice(&login, offer).map { "\($0.mechanism) \(Character(UnicodeScalar($0.message[0])))" }
        #expect(made == expected)
    }

    @Test func `both halves agree, bound to the same channel and to no other`() throws {
        for (digest, agrees) in [(Self.digest, true), (Array(2...33), false)] {
            var login = login(.require)
            var server = SCRAMServer(
                secret: SCRAMSecret(password: "pencil", salt: [1, 2, 3], iterations: 5), isKnownUser: true,
                randomBytes: Array(51...68), binding: digest)
            let first = try #require(choice(&login, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"))
            let challenge = try server.first(first.message, mechanism: .plus)
            guard case .send(let final)? = receive(&login, 11, challenge).first else {
                Issue.record("no final message")
                continue
            }
            guard agrees else {
                #expect(throws: SCRAMServer.Failure.bindingMismatch) { try server.final(Array(final.dropFirst(5))) }
                continue
            }
            #expect(receive(&login, 12, try server.final(Array(final.dropFirst(5)))).isEmpty)
            #expect(receive(&login, 0).isEmpty)
            #expect(login.isAuthenticated)
        }
    }

    @Test(arguments: [0, 3, 5] as [UInt8])
    func `where the binding is required no other way in is taken`(code: UInt8) {
        var login = login(.require)
        guard case .failed(let error)? = receive(&login, code, [1, 2, 3, 4]).first else {
            Issue.record("method \(code) was taken")
            return
        }
        #expect(error.message.hasPrefix("channel binding is required"))
    }
}
