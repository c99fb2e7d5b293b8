import Configuration
import PGWire
import Primitives
import Sessions
import Testing

@Suite struct LoginRulesTests {
    private static let stored = SCRAMSecret(password: "pencil", salt: Array(1...16), iterations: 10)

    private func policy(
        _ rules: String, maps: String = "", secrets: NameTable<AuthPolicy.Secret> = ["ann": .plain("pencil")],
        looksUp: Bool = false
    ) throws -> AuthPolicy {
        AuthPolicy(
            method: .scramSHA256, secrets: secrets, rules: try HBAFile.parse(text: rules, path: "hba"),
            maps: try IdentFile.parse(text: maps, path: "ident"), looksUp: looksUp)
    }

    private func start(
        _ policy: AuthPolicy, from address: String? = "192.0.2.7", encrypted: Bool = false, name: String? = nil,
        user: String = "ann"
    ) -> LoginClient {
        var client = LoginClient(
            policy,
            peer: LoginPeer(
                address: address.flatMap { NetworkAddress($0) }, isEncrypted: encrypted, certificateName: name))
        client.start([("user", user), ("database", "shop")])
        return client
    }

    @Test func `without a line for it a client is told so in PostgreSQL's words`() throws {
        let client = start(try policy("host other all all trust"))
        #expect(client.refusal == ErrorResponse(
            .fatal, .invalidAuthorization,
            "no pg_hba.conf entry for host \"192.0.2.7\", user \"ann\", database \"shop\", no encryption"))
        let encrypted = start(try policy("local all all trust"), encrypted: true)
        #expect(encrypted.refusal?.message.hasSuffix("database \"shop\", SSL encryption") == true)
        let local = start(try policy("host all all all trust"), from: nil)
        #expect(local.refusal?.message.contains("host \"[local]\"") == true)
    }

    @Test func `a line may refuse`() throws {
        let client = start(try policy("host all ann all reject\nhost all all all trust"))
        #expect(client.refusal?.state == .invalidAuthorization)
        #expect(client.refusal?.message.hasPrefix("pg_hba.conf rejects connection for host \"192.0.2.7\"") == true)
    }

    @Test(arguments: [("trust", 0), ("md5", 5), ("password", 3), ("scram-sha-256", 10)])
    func `a line says by what method`(method: String, code: UInt8) throws {
        let client = start(try policy("host all all all \(method)"))
        guard case .send(let bytes)? = client.actions.first else { throw WireError.malformedStartup }
        #expect(bytes[8] == code)
    }

    @Test(arguments: [
        ("pencil", true), ("wrong", false), ("", false), ("pencil2", false),
    ], [AuthPolicy.Secret.plain("pencil"), .md5(MD5Password.secret(password: "pencil", user: "ann")), .scram(stored)])
    func `a password in plain text opens, whatever is stored`(
        attempt: (password: String, isRight: Bool), secret: AuthPolicy.Secret
    ) throws {
        let (password, isRight) = attempt
        var client = start(try policy("host all all all password", secrets: ["ann": secret]))
        client.password(Array(password.utf8) + [0])
        #expect((client.request != nil) == isRight)
        if isRight { #expect(client.request?.proof == .password("pencil")) }
        if !isRight { #expect(client.refusal?.state == .invalidPassword) }
        var unknown = start(try policy("host all all all password", secrets: [:]))
        unknown.password(Array(password.utf8) + [0])
        #expect(unknown.refusal?.state == .invalidPassword)
    }

    // MARK: peer and certificates

    @Test(arguments: [
        ("local all all peer", "", "ann", true), ("local all all peer", "", "bob", false),
        ("local all all peer map=m", "m bob ann", "bob", true), ("local all all peer map=m", "m bob ann", "ann", false),
        ("local all all peer", "", nil, false),
    ] as [(String, String, String?, Bool)])
    func `who sits at the other end of a Unix socket is asked of the system`(
        rules: String, maps: String, name: String?, isIn: Bool
    ) throws {
        var client = start(try policy(rules, maps: maps), from: nil)
        #expect(client.actions == [.lookUpSystemUser])
        client.supply(systemUser: name)
        #expect((client.request != nil) == isIn)
        if !isIn { #expect(client.refusal?.message == "Peer authentication failed for user \"ann\"") }
        if isIn { #expect(client.request?.proof == nil) }
    }

    @Test(arguments: [
        ("hostssl all all all cert", "ann", true), ("hostssl all all all cert", "bob", false),
        ("hostssl all all all cert", nil, false), ("hostssl all all all cert map=m", "a@b", true),
        ("hostssl all all all trust clientcert=verify-ca", "x", true),
        ("hostssl all all all trust clientcert=verify-ca", nil, false),
        ("hostssl all all all trust clientcert=verify-full", "x", false),
        ("hostssl all all all trust clientcert=verify-full", "ann", true),
    ] as [(String, String?, Bool)])
    func `a certificate's name opens for its user, or by a map`(rules: String, name: String?, isIn: Bool) throws {
        let client = start(try policy(rules, maps: "m a@b ann"), encrypted: true, name: name)
        #expect((client.request != nil) == isIn)
        if !isIn { #expect(client.refusal?.state == .invalidAuthorization) }
    }

    // MARK: look-ups

    @Test func `a user that the file does not have is looked up, one that it has is not`() throws {
        let policy = try policy("host all all all scram-sha-256", looksUp: true)
        #expect(start(policy).shape.count == 1)
        let client = start(policy, user: "bob")
        #expect(client.actions == [.lookUpSecret(database: "shop", user: "bob")])
    }

    @Test(arguments: ["md5", "scram-sha-256", "password"])
    func `who has no secret goes through the exchange of who has one`(method: String) throws {
        let policy = try policy("host all all all \(method)", looksUp: true)
        var shapes: [[[Int]]] = []
        for found in [ClientLogin.LookedUp.found(.plain("pencil")), .none(iterations: nil)] {
            var client = start(policy, user: "bob")
            client.supply(found)
            if method == "scram-sha-256" {
                try client.scram("wrong", user: "bob")
            } else {
                client.password(Array("md5\(String(repeating: "0", count: 32))\0".utf8))
            }
            #expect(client.refusal?.state == .invalidPassword)
            shapes.append(client.shape + [[client.refusal?.encoded.count ?? 0]])
        }
        #expect(shapes[0] == shapes[1])
    }

    @Test func `a mock has the iterations of the secrets that were found`() throws {
        var client = start(try policy("host all all all scram-sha-256", looksUp: true), user: "bob")
        client.supply(.none(iterations: 10))
        try client.scram("pencil", user: "bob")
        let first = client.actions.compactMap { action -> String? in
            if case .send(let bytes) = action { String(decoding: bytes, as: UTF8.self) } else { nil }
        }.first { $0.contains(",i=") }
        #expect(first?.hasSuffix(",i=10") == true)
    }

    @Test func `a look-up that fails ends the login with its error`() throws {
        let error = ErrorResponse(.fatal, .cannotConnectNow, "x")
        var client = start(try policy("host all all all md5", looksUp: true), user: "bob")
        client.supply(.failed(error))
        #expect(client.refusal == error)
        let count = client.actions.count
        client.supply(.none(iterations: nil))
        client.supply(systemUser: "bob")
        #expect(client.actions.count == count, "late answers are nothing")
    }

    @Test func `bytes that come before the answer wait`() throws {
        var client = start(try policy("host all all all md5", looksUp: true), user: "bob")
        client.send([0x70, 0, 0, 0, 5, 0])
        #expect(client.actions.count == 1)
    }

    // MARK: what servers are told

    @Test func `a client that came by SCRAM opens a server with the same secret, and no other`() throws {
        var client = start(try policy("host all all all scram-sha-256", secrets: ["ann": .scram(Self.stored)]))
        try client.scram("pencil", user: "ann")
        let request = try #require(client.request)
        guard case .scram(let keys)? = request.proof else { throw WireError.malformedStartup }
        #expect(keys == SCRAMKeys(password: "pencil", salt: Array(1...16), iterations: 10))

        var half = SCRAMClient(keys: keys, randomBytes: Array(1...18))
        var server = SCRAMServer(secret: Self.stored, isKnownUser: true, randomBytes: Array(21...38))
        let final = try server.final(try half.final(serverFirst: try server.first(half.first())))
        try half.verify(serverFinal: final)

        let other = SCRAMSecret(password: "pencil", salt: Array(2...17), iterations: 10)
        var again = SCRAMClient(keys: keys, randomBytes: Array(1...18))
        var stranger = SCRAMServer(secret: other, isKnownUser: true, randomBytes: Array(21...38))
        let first = try stranger.first(again.first())
        #expect(throws: SCRAMClient.Failure.otherSecret) { try again.final(serverFirst: first) }
    }

    @Test func `a wrong proof leaves nothing to open servers with`() throws {
        var client = start(try policy("host all all all scram-sha-256", secrets: ["ann": .scram(Self.stored)]))
        try client.scram("wrong", user: "ann")
        #expect(client.request == nil)
    }

    @Test func `the conninfo's password comes first, then the users' file, then what a client has proven`() throws {
        func credentials(
            _ password: String?, _ proof: ServerProof?, _ secrets: NameTable<AuthPolicy.Secret> = [:]
        ) -> ServerLogin.Credentials {
            let policy = AuthPolicy(method: .trust, secrets: secrets)
            return ServerLogin.Credentials(user: "ann", password: password, proof: proof, policy: policy)
        }
        let file = ["ann": .plain("file")] as NameTable<AuthPolicy.Secret>
        #expect(credentials("own", .password("proven"), file).password == "own")
        #expect(credentials(nil, .password("proven"), file).password == "file")
        #expect(credentials(nil, nil, file).password == "file")
        #expect(credentials(nil, .password("proven")).password == "proven")
        let md5 = MD5Password.secret(password: "file", user: "ann")
        for secret in [.plain("file"), .md5(md5)] as [AuthPolicy.Secret] {
            #expect(credentials(nil, .md5("md5x"), ["ann": secret]).md5Secret == md5)
        }
        #expect(credentials(nil, .md5("md5x")).md5Secret == "md5x")
    }
}

@Suite struct SecretCacheTests {
    typealias Key = SecretCache.Key
    private let found = ClientLogin.LookedUp.found(.plain("x"))

    private func time(_ seconds: Double) -> MonotonicInstant { MonotonicInstant(nanoseconds: UInt64(seconds * 1e9)) }

    @Test func `those who ask for one user at once cause one question`() {
        var cache = SecretCache(lifeNanos: 1_000_000_000)
        let key = Key(database: "d", user: "u")
        #expect(cache.ask(key, for: ClientID(1), now: time(0)) == .ask(1))
        #expect(cache.ask(key, for: ClientID(2), now: time(0)) == .wait)
        #expect(cache.ask(Key(database: "e", user: "u"), for: ClientID(3), now: time(0)) == .ask(2))
        let (clients, answer) = cache.answered(1, found, now: time(0))
        #expect(clients == [ClientID(1), ClientID(2)] && answer == found)
        #expect(cache.ask(key, for: ClientID(4), now: time(0.9)) == .known(found))
        #expect(cache.ask(key, for: ClientID(4), now: time(1)) == .ask(3))
        #expect(cache.answered(99, found, now: time(1)).clients.isEmpty)
    }

    @Test func `a failure is told to those who waited and not kept`() {
        var cache = SecretCache(lifeNanos: 1_000_000_000)
        let key = Key(database: "d", user: "u")
        let failed = ClientLogin.LookedUp.failed(ErrorResponse(.fatal, .cannotConnect, "x"))
        _ = cache.ask(key, for: ClientID(1), now: time(0))
        #expect(cache.answered(1, failed, now: time(0)).clients == [ClientID(1)])
        #expect(cache.ask(key, for: ClientID(1), now: time(0)) == .ask(2))
    }

    @Test func `a secret that did not fit is asked for again, but not at every attempt`() {
        var cache = SecretCache(lifeNanos: 60_000_000_000)
        let key = Key(database: "d", user: "u")
        _ = cache.ask(key, for: ClientID(1), now: time(0))
        _ = cache.answered(1, .none(iterations: nil), now: time(0))
        cache.doubt(key, now: time(0.5))
        #expect(cache.ask(key, for: ClientID(1), now: time(0.5)) == .known(.none(iterations: nil)))
        cache.doubt(key, now: time(1))
        #expect(cache.ask(key, for: ClientID(1), now: time(1)) == .ask(2))
    }

    @Test func `who does not exist is given the iterations of those who do`() {
        var cache = SecretCache(lifeNanos: 1_000_000_000)
        let secret = SCRAMSecret(iterations: 7, salt: [1], storedKey: [], serverKey: [])
        _ = cache.ask(Key(database: "d", user: "u"), for: ClientID(1), now: time(0))
        _ = cache.answered(1, .found(.scram(secret)), now: time(0))
        _ = cache.ask(Key(database: "d", user: "v"), for: ClientID(1), now: time(0))
        #expect(cache.answered(2, .none(iterations: nil), now: time(0)).answer == .none(iterations: 7))
    }

    @Test func `a reload forgets, and an answer to an older question is not kept`() {
        var cache = SecretCache(lifeNanos: 1_000_000_000)
        let key = Key(database: "d", user: "u")
        _ = cache.ask(key, for: ClientID(1), now: time(0))
        cache.forget(lifeNanos: 1_000_000_000)
        #expect(cache.ask(key, for: ClientID(2), now: time(0)) == .ask(2))
        #expect(cache.answered(1, found, now: time(0)).clients == [ClientID(1)])
        #expect(cache.count == 0)
        #expect(cache.ask(key, for: ClientID(3), now: time(0)) == .wait)
    }

    @Test func `answers and questions are bounded`() {
        var cache = SecretCache(lifeNanos: 1_000_000_000)
        for number in 0..<(SecretCache.entriesMax + 1) {
            guard case .ask(let question) = cache.ask(
                Key(database: "d", user: "u\(number)"), for: ClientID(1), now: time(0))
            else {
                Issue.record("not asked")
                return
            }
            _ = cache.answered(question, found, now: time(0))
        }
        #expect(cache.count == SecretCache.entriesMax)
        #expect(cache.ask(Key(database: "d", user: "u1"), for: ClientID(1), now: time(0)) == .known(found))
        for number in 0..<SecretCache.questionsMax {
            _ = cache.ask(Key(database: "e", user: "u\(number)"), for: ClientID(1), now: time(0))
        }
        #expect(cache.ask(Key(database: "f", user: "u"), for: ClientID(1), now: time(0)) == .refused)
    }
}
