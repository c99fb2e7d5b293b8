import Configuration
import PGWire
import Primitives
import Sessions
import Testing

/// A client that feeds a login and keeps what comes of it.
struct LoginClient {
    var login: ClientLogin
    var actions: [ClientLogin.Action] = []
    var startups = StartupMemory()
    private var waiting: [UInt8] = []
    private let isBytewise: Bool

    static let randomBytes = (0..<ClientLogin.randomByteCount).map { UInt8($0 + 1) }
    static let salt: [UInt8] = [19, 20, 21, 22]

    init(
        _ method: AuthPolicy.Method = .trust, _ secrets: NameTable<String> = [:], isBytewise: Bool = false,
        encryption: EncryptionPolicy = .plain, maps: IdentFile = .empty, map: String? = nil,
        refusal: ((LoginRequest) -> ErrorResponse?)? = nil
    ) {
        let policy = AuthPolicy(
            method: method, secrets: secrets.mapValues { AuthPolicy.Secret(parsing: $0) }, maps: maps,
            certificateMap: map)
        login = ClientLogin(
            policy: policy, randomBytes: Self.randomBytes, encryption: encryption, refusal: refusal)
        self.isBytewise = isBytewise
    }

    init(_ policy: AuthPolicy, peer: LoginPeer = LoginPeer(address: nil)) {
        login = ClientLogin(policy: policy, randomBytes: Self.randomBytes, peer: peer)
        isBytewise = false
    }

    mutating func supply(_ found: ClientLogin.LookedUp) { login.supply(found, &actions) }
    mutating func supply(systemUser: String?) { login.supply(systemUser: systemUser, &actions) }

    mutating func send(_ bytes: [UInt8]) {
        if !isBytewise { return receive(bytes) }
        for byte in bytes { receive([byte]) }
    }

    private mutating func receive(_ bytes: [UInt8]) {
        waiting += bytes
        while true {
            let consumed = waiting.withUnsafeBytes { login.receive($0, &startups, &actions) }
            #expect(consumed >= 0 && consumed <= waiting.count)
            waiting.removeFirst(consumed)
            if actions.last == .startTLS(isDirect: true) { waiting = [] }  // TLS has it
            if consumed == 0 || waiting.isEmpty { return }
        }
    }

    mutating func start(_ parameters: [(String, String)], minor: UInt32 = 0) {
        var writer = MessageWriter()
        writer.framed { body in
            body.int32(Int32(0x0003_0000 | minor))
            for (name, value) in parameters {
                body.cString(name)
                body.cString(value)
            }
            body.byte(0)
        }
        send(writer.bytes)
    }

    mutating func password(_ content: [UInt8]) {
        var writer = MessageWriter()
        writer.password(content)
        send(writer.bytes)
    }

    /// The body of the last message that was sent to the client, behind the authentication code.
    var challenge: [UInt8] {
        for case .send(let bytes) in actions.reversed() { return Array(bytes.dropFirst(9)) }
        return []
    }

    /// SSLRequest, and the handshake that it leads to.
    mutating func secure(_ facts: ChannelFacts = ChannelFacts()) {
        send([0, 0, 0, 8, 4, 210, 22, 47])
        login.secured(facts)
    }

    /// SASL from the first message to the last of the client's.
    mutating func scram(_ password: String, user: String, binding: SCRAMClient.Binding = .none) throws {
        var half = SCRAMClient(password: password, randomBytes: Array(101...118), binding: binding)
        let first = half.first()
        var writer = MessageWriter()
        writer.cString(binding.mechanism.rawValue)
        writer.int32(Int32(first.count))
        writer.raw(first)
        self.password(writer.bytes)
        self.password(try half.final(serverFirst: challenge))
        if case .authenticated? = actions.last, actions.count >= 3,
            case .send(let final) = actions[actions.count - 3]
        {
            try half.verify(serverFinal: Array(final.dropFirst(9)))
        }
    }

    var request: LoginRequest? {
        if case .authenticated(let request)? = actions.last { request } else { nil }
    }

    var refusal: ErrorResponse? {
        if case .refuse(let error)? = actions.last { error } else { nil }
    }

    /// The sizes and types of what was sent, without its contents.
    var shape: [[Int]] {
        actions.map { action in
            switch action {
            case .send(let bytes): [Int(bytes.first ?? 0), bytes.count]
            case .startTLS, .authenticated, .cancel, .lookUpSecret, .lookUpSystemUser, .refuse, .dismiss, .close: []
            }
        }
    }
}

@Suite struct ClientLoginTests {
    static let ok: [UInt8] = [0x52, 0, 0, 0, 8, 0, 0, 0, 0]

    @Test(arguments: [false, true])
    func `a trusted client is in with its first packet, whole or byte by byte`(isBytewise: Bool) {
        var client = LoginClient(isBytewise: isBytewise)
        client.start([("user", "ann"), ("database", "shop"), ("application_name", "x"), ("TimeZone", "UTC")])
        #expect(
            client.actions == [
                .send(Self.ok),
                .authenticated(
                    LoginRequest(
                        user: "ann", database: "shop",
                        settings: [
                            .init(name: "application_name", value: "x"),
                            .init(name: "TimeZone", value: "UTC"),
                        ])),
            ])
    }

    /// One memory for all logins changes nothing.
    @Test(arguments: [false, true])
    func `what the login before has asked for is not taken for another's`(isBytewise: Bool) {
        let startups: [(parameters: [(String, String)], minor: UInt32)] = [
            ([("user", "ann"), ("database", "shop"), ("TimeZone", "UTC")], 0),
            ([("user", "ann"), ("database", "shop"), ("TimeZone", "CET")], 0),
            ([("user", "ann"), ("database", "shop"), ("TimeZone", "UTC"), ("options", "-c a.b=1")], 0),
            ([("user", "ann"), ("database", "shop"), ("TimeZone", "UTC")], 2),
            ([("user", "ann"), ("database", "shop"), ("TimeZone", "UTC"), ("_pq_.x", "1")], 2),
            ([("user", "ann"), ("database", "shop"), ("TimeZone", "UTC")], 9999),
            ([("user", "ann"), ("replication", "true")], 0), ([("database", "shop")], 0), ([("user", "bob")], 0),
            ([("user", "ann"), ("application_name", String(repeating: "x", count: 2000))], 0),
        ]
        var memory = StartupMemory()
        for (one, other) in startups.indices.flatMap({ one in startups.indices.map { (one, $0) } }) {
            for index in [one, one, other, other] {
                var fresh = LoginClient(isBytewise: isBytewise)
                fresh.start(startups[index].parameters, minor: startups[index].minor)
                var client = LoginClient(isBytewise: isBytewise)
                client.startups = memory
                client.start(startups[index].parameters, minor: startups[index].minor)
                memory = client.startups
                #expect(client.actions == fresh.actions, "\(index) of \(one) and \(other)")
            }
        }
    }

    @Test func `a password is asked for though the packet is known`() {
        var client = LoginClient(.trust)
        client.start([("user", "ann")])
        #expect(client.request != nil)
        var other = LoginClient(.password, ["ann": "secret"])
        other.startups = client.startups
        other.start([("user", "ann")])
        #expect(other.request == nil && other.actions.count == 1)
    }

    @Test func `a database that is not named is named like the user`() {
        for parameters in [[("user", "ann")], [("user", "ann"), ("database", "")]] {
            var client = LoginClient()
            client.start(parameters)
            #expect(client.request?.database == "ann")
        }
    }

    @Test(arguments: [[], [("user", "")], [("database", "shop")]] as [[(String, String)]])
    func `a client without a user is refused`(parameters: [(String, String)]) {
        var client = LoginClient()
        client.start(parameters)
        #expect(client.refusal?.state == .invalidAuthorization)
        #expect(client.refusal?.severity == .fatal)
    }

    @Test func `nothing behind the end of a login is consumed`() {
        var client = LoginClient()
        client.start([("user", "ann")])
        let before = client.actions
        let consumed = [UInt8](repeating: 0x51, count: 20).withUnsafeBytes {
            client.login.receive($0, &client.startups, &client.actions)
        }
        #expect(consumed == 0)
        #expect(client.actions == before)
    }

    // MARK: before the startup packet

    private static let ssl: [UInt8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F]
    private static let gss: [UInt8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x30]

    @Test(arguments: [[ssl], [gss], [gss, ssl], [ssl, gss], [ssl, ssl]], [false, true])
    func `encryption is declined twice and the login goes on`(requests: [[UInt8]], isBytewise: Bool) {
        var client = LoginClient(isBytewise: isBytewise)
        for request in requests { client.send(request) }
        #expect(client.actions == requests.map { _ in .send([0x4E]) })
        client.start([("user", "ann")])
        #expect(client.request?.user == "ann")
    }

    @Test func `a third request for encryption ends the connection`() {
        var client = LoginClient()
        for request in [Self.gss, Self.ssl, Self.ssl] { client.send(request) }
        #expect(client.actions == [.send([0x4E]), .send([0x4E]), .close])
    }

    @Test(arguments: [4, 256])
    func `a cancel request is passed on and nothing is answered`(size: Int) {
        var client = LoginClient()
        let secret = [UInt8](repeating: 9, count: size)
        var writer = MessageWriter()
        writer.cancelRequest(processID: -7, secret: secret)
        client.send(writer.bytes)
        #expect(client.actions == [.cancel(processID: -7, secret: secret)])
    }

    @Test(
        arguments: [
            ([0, 0, 0, 0], .protocolViolation), ([0, 0, 0, 7], .protocolViolation),
            ([0xFF, 0xFF, 0xFF, 0xFF], .protocolViolation),
            (Array("GET / HTTP/1.1\r\n".utf8), .protocolViolation),
            ([0, 0, 0, 9, 0, 3, 0, 0, 1], .protocolViolation),
            ([0, 0, 0, 8, 0, 4, 0, 0], .featureNotSupported),
            ([0, 0, 0, 9, 0x04, 0xD2, 0x16, 0x2F, 0], .protocolViolation),
            (Array("Q\0\0\0\u{5}\0".utf8), .protocolViolation),
        ] as [([UInt8], SQLState)])
    func `what is no startup packet is refused`(bytes: [UInt8], state: SQLState) {
        var client = LoginClient()
        client.send(bytes)
        #expect(client.actions.count == 1)
        #expect(client.refusal?.state == state)
    }

    // MARK: what the startup packet asks for

    @Test(
        arguments: [
            (3, [], 0), (9999, [], 0), (0, ["_pq_.a"], 1), (2, ["_pq_.a", "_pq_.b"], 2),
            (9999, ["_pq_.test_protocol_negotiation"], 1),
        ] as [(UInt32, [String], UInt8)])
    func `newer minor versions and unknown extensions are negotiated down`(
        minor: UInt32, names: [String], count: UInt8
    ) {
        var client = LoginClient()
        client.start([("user", "ann")] + names.map { ($0, "1") }, minor: minor)
        let list: [UInt8] = names.flatMap { (name: String) -> [UInt8] in Array(name.utf8) + [0] }
        let both = UInt8(min(minor, 2))
        let negotiation: [UInt8] = [0x76, 0, 0, 0, UInt8(12 + list.count), 0, 3, 0, both, 0, 0, 0, count] + list
        #expect(
            client.actions == [
                .send(negotiation), .send(Self.ok),
                .authenticated(
                    LoginRequest(user: "ann", database: "ann", settings: [], minor: UInt16(min(minor, 2)))),
            ])
    }

    @Test(arguments: [(0, 4), (1, 4), (2, 32)] as [(UInt32, Int)])
    func `a version that we speak is not negotiated, and 3.2 gets a longer cancel key`(minor: UInt32, size: Int) {
        var client = LoginClient()
        client.start([("user", "ann")], minor: minor)
        #expect(client.actions.first == .send(Self.ok))
        #expect(client.request?.minor == UInt16(minor))
        #expect(client.request?.cancelSecretSize == size)
    }

    @Test func `who may not come in is told so at the startup packet, and cancel requests pass`() {
        let tooMany = ErrorResponse(.fatal, .tooManyConnections, "no more connections allowed")
        var memory = StartupMemory()
        func client(_ database: String?) -> LoginClient {
            var client = LoginClient(refusal: { $0.database == "godwit" ? nil : tooMany })
            client.startups = memory
            client.send([0, 0, 0, 8, 4, 210, 22, 47])
            if let database {
                client.start([("user", "ann"), ("database", database)])
            } else {
                client.send([0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 7, 1, 2, 3, 4])
            }
            memory = client.startups
            return client
        }
        // The second time what the packet says is known.
        for _ in 0..<2 { #expect(client("shop").actions == [.send([0x4E]), .refuse(tooMany)]) }
        #expect(client("godwit").request?.database == "godwit")
        #expect(client(nil).actions == [.send([0x4E]), .cancel(processID: 7, secret: [1, 2, 3, 4])])
    }

    @Test func `protocol 2 is refused with a line of text, as its clients read errors`() {
        var client = LoginClient()
        client.send([0, 0, 1, 0x28, 0, 2, 0, 0] + [UInt8](repeating: 0, count: 0x120))
        let text = "EFATAL:  unsupported frontend protocol 2.0: Godwit supports 3.0 to 3.2\n\0"
        #expect(client.actions == [.dismiss(Array(text.utf8))])
    }

    @Test(arguments: [(4, 0), (5, 7), (1235, 0)] as [(UInt16, UInt16)])
    func `a later protocol is refused with the versions that we speak`(major: UInt16, minor: UInt16) {
        var client = LoginClient()
        client.send([0, 0, 0, 8, UInt8(major >> 8), UInt8(major & 255), UInt8(minor >> 8), UInt8(minor & 255)])
        #expect(client.refusal?.state == .featureNotSupported)
        #expect(
            client.refusal?.message
                == "unsupported frontend protocol \(major).\(minor): Godwit supports 3.0 to 3.2")
    }

    @Test(arguments: ["user", "database"])
    func `names that are not UTF-8 are refused instead of repaired`(parameter: String) {
        var writer = MessageWriter()
        writer.framed { body in
            body.int32(0x0003_0000)
            body.cString("user")
            body.raw(parameter == "user" ? [0x61, 0xFF, 0] : [0x61, 0])
            body.cString("database")
            body.raw(parameter == "user" ? [0x61, 0] : [0xFE, 0])
            body.byte(0)
        }
        var client = LoginClient()
        client.send(writer.bytes)
        #expect(client.refusal?.state == .characterNotInRepertoire)
    }

    @Test(arguments: ["true", "on", "1", "database", "yes", "t"])
    func `replication is refused`(value: String) {
        var client = LoginClient()
        client.start([("user", "ann"), ("replication", value)])
        #expect(client.refusal?.state == .featureNotSupported)
        #expect(client.actions.count == 1)
    }

    @Test(arguments: ["", "0", "false", "OFF", "no"])
    func `replication that is off is nothing`(value: String) {
        var client = LoginClient()
        client.start([("user", "ann"), ("replication", value)])
        #expect(client.request?.settings == [])
    }

    @Test(
        arguments: [
            ("", []), ("  ", []), ("-c a=b", ["a", "b"]), ("-ca=b", ["a", "b"]), ("--a=b", ["a", "b"]),
            ("--search-path=x", ["search_path", "x"]),
            ("-c  a=b \t --c=d\n-ce=", ["a", "b", "c", "d", "e", ""]),
            ("-c a=b=c", ["a", "b=c"]), ("-c a=x\\ y", ["a", "x y"]), ("-c a=\\\\", ["a", "\\"]),
            ("-c a=x\\", ["a", "x"]), ("-c\\ a=b", [" a", "b"]), ("-c my.a-b=1-2", ["my.a_b", "1-2"]),
            ("-c a='; DROP", ["a", "';"]),
        ] as [(String, [String])])
    func `options are read as PostgreSQL reads them`(text: String, expected: [String]) {
        var client = LoginClient()
        client.start([("user", "ann"), ("options", text)])
        if text.hasSuffix("DROP") {
            #expect(client.refusal?.state == .invalidParameterValue)
        } else {
            #expect(client.request.map { $0.settings.flatMap { [$0.name, $0.value] } } == expected)
        }
    }

    @Test(arguments: ["a=b", "-c", "-c a", "-c =b", "--", "--a", "-d 5", "-B 100", "-", "-c a=b -c", "--=x"])
    func `options of another form are refused`(text: String) {
        var client = LoginClient()
        client.start([("user", "ann"), ("options", text)])
        #expect(client.refusal?.state == .invalidParameterValue)
    }

    /// The last one of a name counts.
    @Test(arguments: [true, false])
    func `options come before the other parameters`(areFirst: Bool) {
        var client = LoginClient()
        let (options, other) = (("options", "-c TimeZone=UTC"), ("TimeZone", "Asia/Tokyo"))
        client.start([("user", "ann")] + (areFirst ? [options, other] : [other, options]))
        #expect(client.request?.settings.map(\.value) == ["UTC", "Asia/Tokyo"])
    }
}
