import PGWire
import Sessions
import Testing

@Suite struct ServerLoginTests {
    typealias Action = ServerLogin.Action

    private static let randomBytes = Array(1...18) as [UInt8]

    private static func word(_ value: UInt32) -> [UInt8] {
        [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> UInt32($0)) }
    }

    private func login(password: String? = "pencil", md5Secret: String? = nil) -> ServerLogin {
        ServerLogin(
            credentials: .init(user: "ann", password: password, md5Secret: md5Secret),
            randomBytes: Self.randomBytes)
    }

    private func receive(_ login: inout ServerLogin, _ tag: Character, _ body: [UInt8] = []) -> [Action] {
        var actions: [Action] = []
        body.withUnsafeBytes { login.receive(tag: tag.asciiValue ?? 0, body: $0, &actions) }
        return actions
    }

    private func authentication(_ login: inout ServerLogin, _ code: UInt32, _ extra: [UInt8] = []) -> [Action]
    {
        receive(&login, "R", Self.word(code) + extra)
    }

    private func password(_ content: [UInt8]) -> Action {
        var writer = MessageWriter()
        writer.password(content)
        return .send(writer.bytes)
    }

    private func failure(_ actions: [Action]) -> ErrorResponse? {
        guard actions.count == 1, case .failed(let error)? = actions.first else { return nil }
        return error
    }

    private func finish(_ login: inout ServerLogin) {
        #expect(authentication(&login, 0) == [])
        #expect(receive(&login, "S", Array("TimeZone\0UTC\0".utf8)) == [])
        #expect(receive(&login, "N", [0]) == [])
        #expect(receive(&login, "K", Self.word(0xFFFF_FFFE) + [1, 2, 3, 4]) == [])
        #expect(receive(&login, "Z", [0x49]) == [.ready])
        #expect(login.parameters == [.init(name: "TimeZone", value: "UTC")])
        #expect(login.processID == -2)
        #expect(login.cancelSecret == [1, 2, 3, 4])
        #expect(receive(&login, "Z", [0x49]) == [], "after its end nothing is done")
    }

    @Test func `the startup packet names user and database first`() throws {
        let bytes = login().startupPacket(database: "shop", parameters: [.init(name: "a", value: "b")])
        try bytes.withUnsafeBytes { raw in
            let packet = try StartupPacket.parse(raw)?.packet
            #expect(
                packet
                    == .startup(
                        minor: 0,
                        parameters: [
                            .init(name: "user", value: "ann"), .init(name: "database", value: "shop"),
                            .init(name: "a", value: "b"),
                        ]))
        }
    }

    @Test func `a server that trusts us asks for nothing`() {
        var login = login(password: nil)
        finish(&login)
    }

    @Test func `a server that asks for the password gets it`() {
        var login = login()
        #expect(authentication(&login, 3) == [password(Array("pencil".utf8) + [0])])
        finish(&login)
    }

    @Test func `a server that asks by md5 gets the digest, of the password or of its md5 secret`() {
        let secret = MD5Password.secret(password: "pencil", user: "ann")
        let expected = password(Array(MD5Password.response(secret: secret, salt: [1, 2, 3, 4]).utf8) + [0])
        for credentials in [(nil, secret), ("pencil", nil), ("pencil", "md5 of something else")]
            as [(String?, String?)]
        {
            var login = login(password: credentials.0, md5Secret: credentials.1)
            #expect(authentication(&login, 5, [1, 2, 3, 4]) == [expected])
            finish(&login)
        }
    }

    /// The first two steps of SASL; gives our last message.
    private func startSASL(_ login: inout ServerLogin, _ server: inout SCRAMServer) throws -> [Action] {
        let first = authentication(&login, 10, Array("SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0".utf8))
        guard case .send(let bytes)? = first.first, first.count == 1 else { return first }
        #expect(bytes.first == FrontendTag.password)
        let body = Array(bytes.dropFirst(5))
        #expect(body.starts(with: Array("SCRAM-SHA-256\0".utf8)))
        let initial = Array(body.dropFirst(14 + 4))
        #expect(Array(body[14..<18]) == Self.word(UInt32(initial.count)))
        return authentication(&login, 11, try server.first(initial))
    }

    private func server(_ password: String = "pencil") -> SCRAMServer {
        SCRAMServer(
            secret: SCRAMSecret(password: password, salt: [1, 2, 3], iterations: 5), isKnownUser: true,
            randomBytes: Self.randomBytes)
    }

    @Test func `a server that asks by SCRAM and proves itself is taken`() throws {
        var login = login()
        var server = server()
        let second = try startSASL(&login, &server)
        guard case .send(let bytes)? = second.first else {
            Issue.record("no final message: \(second)")
            return
        }
        #expect(authentication(&login, 12, try server.final(Array(bytes.dropFirst(5)))) == [])
        finish(&login)
    }

    @Test func `a server that does not prove itself is not taken`() throws {
        for final in ["v=AAAA", "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "e=no", "", "v="] {
            var login = login()
            var server = server()
            _ = try startSASL(&login, &server)
            #expect(failure(authentication(&login, 12, Array(final.utf8)))?.state == .protocolViolation)
            #expect(authentication(&login, 0) == [])
        }
    }

    @Test func `a server cannot leave its proof out, or take another method, once SCRAM began`() throws {
        for code in [0, 3, 5, 7, 10] as [UInt32] {
            var login = login()
            var server = server()
            _ = try startSASL(&login, &server)
            #expect(failure(authentication(&login, code, [1, 2, 3, 4])) != nil, "code \(code)")
        }
        var early = login()
        _ = authentication(&early, 10, Array("SCRAM-SHA-256\0\0".utf8))
        #expect(failure(authentication(&early, 12, Array("v=AAAA".utf8)))?.state == .protocolViolation)
        var still = login()
        _ = authentication(&still, 10, Array("SCRAM-SHA-256\0\0".utf8))
        #expect(failure(authentication(&still, 0)) != nil)
    }

    @Test func `a server may send its challenge once`() throws {
        var login = login()
        var server = server()
        _ = try startSASL(&login, &server)
        let nonce = String(decoding: Base64.encode(Self.randomBytes), as: UTF8.self)
        let again = authentication(&login, 11, Array("r=\(nonce)x,s=AQID,i=1".utf8))
        #expect(failure(again)?.state == .protocolViolation)
    }

    @Test(arguments: [
        "", "r=x,s=AQID,i=1", "r=NONCE,s=AQID,i=1", "r=NONCEx,s=AQID,i=1000001", "r=NONCEx,s=AQID,i=0",
    ])
    func `a hostile challenge is refused`(pattern: String) {
        var login = login()
        _ = authentication(&login, 10, Array("SCRAM-SHA-256\0\0".utf8))
        let nonce = String(decoding: Base64.encode(Self.randomBytes), as: UTF8.self)
        let challenge = pattern.replacing("NONCE", with: nonce)
        #expect(failure(authentication(&login, 11, Array(challenge.utf8)))?.state == .protocolViolation)
    }

    @Test(arguments: [
        "", "\0", "SCRAM-SHA-256-PLUS\0\0", "\0SCRAM-SHA-256\0", "SCRAM-SHA-256", "scram-sha-256\0\0",
    ])
    func `a server that does not offer our SASL mechanism is refused`(mechanisms: String) {
        var login = login()
        #expect(failure(authentication(&login, 10, Array(mechanisms.utf8)))?.state == .protocolViolation)
    }

    @Test func `without a password only a server that trusts us is reached`() {
        let asked: [(UInt32, [UInt8])] = [(3, []), (5, [1, 2, 3, 4]), (10, Array("SCRAM-SHA-256\0\0".utf8))]
        for (code, extra) in asked {
            var login = login(password: nil)
            #expect(failure(authentication(&login, code, extra))?.state == .invalidPassword)
        }
    }

    @Test(arguments: [1, 2, 6, 7, 8, 9, 11, 12, 13, 999, 0xFFFF_FFFF] as [UInt32])
    func `a method that we do not have is named`(code: UInt32) {
        var login = login()
        let error = failure(authentication(&login, code, [0, 0, 0, 0]))
        #expect(error?.state == .featureNotSupported)
        #expect(error?.message.contains("\(Int32(bitPattern: code))") == true)
    }

    @Test(
        arguments: [("R", []), ("R", [0, 0, 0]), ("R", [0, 0, 0, 5]), ("R", [0, 0, 0, 5, 1, 2, 3])]
            as [(Character, [UInt8])])
    func `an authentication message that is cut off is refused`(tag: Character, body: [UInt8]) {
        var login = login()
        #expect(failure(receive(&login, tag, body))?.state == .protocolViolation)
    }

    @Test(arguments: Array("ZSKTDC123nstGHWIVAdcQx\0"))
    func `any other message before authentication is refused`(tag: Character) {
        var login = login()
        #expect(failure(receive(&login, tag, [0x49]))?.state == .protocolViolation)
        var proven = self.login()
        _ = authentication(&proven, 10, Array("SCRAM-SHA-256\0\0".utf8))
        #expect(failure(receive(&proven, tag, [0x49]))?.state == .protocolViolation)
    }

    @Test(arguments: Array("RTDC123nstGHWIVAdcQx\0"))
    func `only settings, keys and ReadyForQuery come after authentication`(tag: Character) {
        var login = login()
        _ = authentication(&login, 0)
        #expect(failure(receive(&login, tag, [0, 0, 0, 0]))?.state == .protocolViolation)
    }

    @Test(arguments: [0, 1, 2])
    func `an error at any time ends the login with the server's own words`(stage: Int) throws {
        var login = login()
        if stage == 1 { _ = authentication(&login, 0) }
        if stage == 2 {
            var server = server()
            _ = try startSASL(&login, &server)
        }
        let error = ErrorResponse(.fatal, .invalidPassword, "no", detail: "d")
        #expect(receive(&login, "E", Array(error.encoded.dropFirst(5))) == [.failed(error)])
        #expect(receive(&login, "Z", [0x49]) == [])
    }

    @Test func `an error without fields is still an error`() {
        var login = login()
        #expect(failure(receive(&login, "E"))?.state == SQLState("XX000"))
    }

    @Test func `a server may report as many settings as the bound and not one more`() {
        var login = login()
        _ = authentication(&login, 0)
        for number in 0..<ServerLogin.parametersMax {
            #expect(receive(&login, "S", Array("p\(number)\0v\0".utf8)) == [])
        }
        #expect(login.parameters.count == ServerLogin.parametersMax)
        #expect(failure(receive(&login, "S", Array("p\0v\0".utf8)))?.state == .protocolViolation)
    }

    @Test(
        arguments: [
            ("S", []), ("S", [0x61]), ("S", [0x61, 0]), ("S", [0x61, 0, 0x62]), ("K", []), ("K", [0, 0, 0]),
            ("K", [UInt8](repeating: 1, count: 4 + 257)),
        ] as [(Character, [UInt8])])
    func `settings and keys of another form are refused`(tag: Character, body: [UInt8]) {
        var login = login()
        _ = authentication(&login, 0)
        #expect(failure(receive(&login, tag, body))?.state == .protocolViolation)
    }

    @Test(arguments: [0, 4, 32, 256])
    func `a cancel key of any size that the protocol has is kept`(size: Int) {
        var login = login()
        _ = authentication(&login, 0)
        let secret = [UInt8](repeating: 7, count: size)
        #expect(receive(&login, "K", Self.word(1) + secret) == [])
        #expect(login.cancelSecret == secret)
    }

    @Test func `a server that speaks an older version than we ask for is taken at its word`() {
        var login = ServerLogin(
            credentials: .init(user: "ann", password: nil, md5Secret: nil), randomBytes: Self.randomBytes, minor: 2)
        #expect(login.startupPacket(database: "d", parameters: [])[4..<8].elementsEqual([0, 3, 0, 2]))
        #expect(receive(&login, "v", Self.word(0x0003_0000) + Self.word(0)) == [])
        #expect(login.minor == 0)
        finish(&login)
    }

    @Test(
        arguments: [
            [], word(0x0003_0000), word(0x0002_0000) + word(0), word(0x0003_0003) + word(0),
            word(0x0003_0000) + word(1) + [0x61, 0], word(0x0003_0000) + word(0) + [0],
        ] as [[UInt8]])
    func `a negotiation that answers something else than we asked is refused`(body: [UInt8]) {
        var login = ServerLogin(
            credentials: .init(user: "ann", password: nil, md5Secret: nil), randomBytes: Self.randomBytes, minor: 2)
        #expect(failure(receive(&login, "v", body))?.state == .protocolViolation)
    }

    @Test func `notices and a negotiated version are passed over`() {
        var login = login()
        #expect(receive(&login, "N", [0]) == [])
        #expect(receive(&login, "v", Self.word(0x0003_0000) + Self.word(0)) == [])
        finish(&login)
    }
}
