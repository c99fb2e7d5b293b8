import PGWire
import Primitives
import Sessions
import Testing

@Suite struct ClientProofTests {
    private static let stored =
        "SCRAM-SHA-256$7:AQIDBAUGBwgJCgsMDQ4PEA==$\(text(secret.storedKey)):\(text(secret.serverKey))"
    private static let secret = SCRAMSecret(password: "pencil", salt: Array(1...16), iterations: 7)
    private static func text(_ bytes: [UInt8]) -> String {
        String(decoding: Base64.encode(bytes), as: UTF8.self)
    }
    private static let md5 = MD5Password.secret(password: "pencil", user: "ann")

    private func answer(_ password: String, user: String = "ann") -> [UInt8] {
        let secret = MD5Password.secret(password: password, user: user)
        return Array(MD5Password.response(secret: secret, salt: LoginClient.salt).utf8) + [0]
    }

    @Test(arguments: ["pencil", md5], [false, true])
    func `the right password is taken by md5 from a plain secret and from an md5 one`(
        secret: String, isBytewise: Bool
    ) {
        var client = LoginClient(.md5, ["ann": secret], isBytewise: isBytewise)
        client.start([("user", "ann")])
        #expect(client.actions == [.send([0x52, 0, 0, 0, 12, 0, 0, 0, 5] + LoginClient.salt)])
        client.password(answer("pencil"))
        #expect(client.request?.user == "ann")
        #expect(client.actions.contains(.send(ClientLoginTests.ok)))
    }

    @Test(arguments: [AuthPolicy.Method.md5, .password, .scramSHA256])
    func `an empty secret is nobody's password`(method: AuthPolicy.Method) throws {
        var client = LoginClient(method, ["ann": ""])
        client.start([("user", "ann")])
        switch method {
        case .scramSHA256: try client.scram("", user: "ann")
        default: client.password(method == .md5 ? answer("") : [0])
        }
        #expect(client.refusal?.state == .invalidPassword)
    }

    @Test
    func
        `by md5 another password, an empty one and another user's are wrong, and so is any of an unknown user`()
    {
        let zeros = Array(("md5" + String(repeating: "0", count: 32)).utf8) + [0]
        for content in [
            answer("wrong"), [], [0], answer("pencil", user: "bob"), zeros, Array("pencil".utf8) + [0],
        ] {
            for user in ["ann", "nobody"] {
                var client = LoginClient(.md5, ["ann": "pencil"])
                client.start([("user", user)])
                #expect(client.challenge == LoginClient.salt)
                client.password(content)
                #expect(client.refusal?.state == .invalidPassword)
                #expect(client.refusal?.message == "password authentication failed for user \"\(user)\"")
            }
        }
    }

    @Test(arguments: ["pencil", stored], [false, true])
    func `the right password is taken by SCRAM from a plain secret and from a stored one`(
        secret: String, isBytewise: Bool
    ) throws {
        for method in [.scramSHA256, .md5] as [AuthPolicy.Method]
        where method == .scramSHA256 || secret == Self.stored {
            var client = LoginClient(method, ["ann": secret], isBytewise: isBytewise)
            client.start([("user", "ann")])
            let mechanisms = Array("SCRAM-SHA-256".utf8) + [0, 0]
            #expect(client.actions == [.send([0x52, 0, 0, 0, 23, 0, 0, 0, 10] + mechanisms)])
            try client.scram("pencil", user: "ann")
            #expect(client.request?.user == "ann")
        }
    }

    @Test func `an unknown user goes through the same SCRAM exchange as a known one with a wrong password`()
        throws
    {
        var known = LoginClient(.scramSHA256, ["ann": "pencil"])
        known.start([("user", "ann")])
        try known.scram("wrong", user: "ann")
        var unknown = LoginClient(.scramSHA256, ["ann": "pencil"])
        unknown.start([("user", "bob")])
        try unknown.scram("wrong", user: "bob")
        #expect(known.refusal?.state == .invalidPassword)
        #expect(unknown.refusal?.state == .invalidPassword)
        #expect(known.shape == unknown.shape)
    }

    @Test(arguments: [AuthPolicy.Method.md5, .scramSHA256])
    func `an unknown user gets as many messages of as many bytes as a known one`(method: AuthPolicy.Method) throws {
        var shapes: [[[Int]]] = []
        for user in ["ann", "bob"] {
            var client = LoginClient(method, ["ann": "pencil"])
            client.start([("user", user)])
            if method == .md5 {
                client.password(Array("md5\(String(repeating: "0", count: 32))\0".utf8))
            } else {
                try client.scram("wrong", user: user)
            }
            shapes.append(client.shape + [[client.refusal?.encoded.count ?? 0]])
        }
        #expect(shapes[0] == shapes[1])
    }

    @Test func `with md5, an unknown user is asked as most of the others are`() {
        func code(_ secrets: NameTable<AuthPolicy.Secret>, looksUp: ClientLogin.LookedUp? = nil) -> UInt8? {
            let policy = AuthPolicy(method: .md5, secrets: secrets, looksUp: looksUp != nil)
            var client = LoginClient(policy)
            client.start([("user", "nobody")])
            if let looksUp { client.supply(looksUp) }
            guard case .send(let bytes)? = client.actions.last else { return nil }
            return bytes[8]
        }
        #expect(code([:]) == 5)
        #expect(code(["a": .plain("x"), "b": .scram(Self.secret)]) == 5)
        #expect(code(["a": .scram(Self.secret), "b": .scram(Self.secret), "c": .md5(Self.md5)]) == 10)
        #expect(code([:], looksUp: ClientLogin.LookedUp.none(iterations: nil)) == 5)
        #expect(code([:], looksUp: ClientLogin.LookedUp.none(iterations: 4096)) == 10)
    }

    @Test func `an unknown user is told as many iterations as most of the others have`() throws {
        let stored = SCRAMSecret(password: "p", salt: Array(1...16), iterations: 77)
        let policy = AuthPolicy(
            method: .scramSHA256, secrets: ["a": .scram(stored), "b": .scram(Self.secret), "c": .scram(stored)])
        var client = LoginClient(.trust)
        client.login = ClientLogin(policy: policy, randomBytes: LoginClient.randomBytes)
        client.start([("user", "nobody")])
        var writer = MessageWriter()
        writer.cString("SCRAM-SHA-256")
        writer.int32(9)
        writer.raw("n,,n=,r=a".utf8)
        client.password(writer.bytes)
        let challenge = String(decoding: client.challenge, as: UTF8.self)
        #expect(challenge.hasSuffix(",i=77"))
        #expect(challenge.firstMatch(of: /,s=([^,]*),/)?.output.1.count == 24, "16 bytes as base64")
    }

    @Test func `users are told apart by the bytes of their names`() {
        let policy = AuthPolicy(method: .md5, secrets: ["caf\u{E9}": .plain("one"), "cafe\u{301}": .plain("two")])
        #expect(policy.plainPassword(of: "caf\u{E9}") == "one")
        #expect(policy.plainPassword(of: "cafe\u{301}") == "two")
        let composed = AuthPolicy(method: .md5, secrets: ["caf\u{E9}": .plain("one")])
        #expect(composed.plainPassword(of: "cafe\u{301}") == nil)
    }

    @Test func `an unknown user is told the same salt each time`() {
        let policy = AuthPolicy(method: .scramSHA256, secrets: [:])
        let next = AuthPolicy(method: .scramSHA256, secrets: ["ann": .plain("x")], previous: policy)
        func salt(_ policy: AuthPolicy, _ user: String) -> [UInt8] {
            var client = LoginClient(.trust)
            client.login = ClientLogin(policy: policy, randomBytes: LoginClient.randomBytes)
            client.start([("user", user)])
            var writer = MessageWriter()
            writer.cString("SCRAM-SHA-256")
            writer.int32(9)
            writer.raw("n,,n=,r=a".utf8)
            client.password(writer.bytes)
            return client.challenge
        }
        #expect(!salt(policy, "bob").isEmpty)
        #expect(salt(policy, "bob") == salt(policy, "bob"))
        #expect(salt(policy, "bob") == salt(next, "bob"))
        #expect(salt(policy, "bob") != salt(policy, "eve"))
    }

    @Test func `a user with an md5 secret only cannot log in by SCRAM`() throws {
        var client = LoginClient(.scramSHA256, ["ann": Self.md5])
        client.start([("user", "ann")])
        try client.scram("pencil", user: "ann")
        #expect(client.refusal?.state == .invalidPassword)
    }

    @Test(
        arguments: [
            [], [0], Array("SCRAM-SHA-256".utf8), Array("SCRAM-SHA-256\0".utf8),
            Array("SCRAM-SHA-256\0\0\0\0".utf8),
            Array("SCRAM-SHA-256-PLUS\0\0\0\0\u{9}n,,n=,r=a".utf8),
            Array("SCRAM-SHA-256\0\0\0\0\u{8}n,,n=,r=a".utf8),
            Array("SCRAM-SHA-256\0\0\0\0\u{A}n,,n=,r=a".utf8),
            Array("SCRAM-SHA-256\0".utf8) + [0xFF, 0xFF, 0xFF, 0xFF],
            Array("SCRAM-SHA-256\0".utf8) + [0x7F, 0xFF, 0xFF, 0xFF],
            Array("SCRAM-SHA-256\0\0\0\0\u{7}p=x,,n=".utf8),
        ] as [[UInt8]])
    func `a malformed first SASL message is refused`(body: [UInt8]) {
        var client = LoginClient(.scramSHA256, ["ann": "pencil"])
        client.start([("user", "ann")])
        client.password(body)
        #expect(client.refusal?.state == .protocolViolation)
    }

    @Test func `a malformed last SASL message is refused`() {
        var client = LoginClient(.scramSHA256, ["ann": "pencil"])
        client.start([("user", "ann")])
        client.password(Array("SCRAM-SHA-256\0\0\0\0\u{9}n,,n=,r=a".utf8))
        client.password(Array("c=biws,r=b,p=AAAA".utf8))
        #expect(client.refusal?.state == .protocolViolation)
    }

    @Test(
        arguments: [
            [0x51, 0, 0, 0, 5, 0], [0x58, 0, 0, 0, 4], [0x5A, 0, 0, 0, 5, 0x49], [0, 0, 0, 0, 0],
            [0x70, 0, 0, 0, 3], [0x70, 0, 1, 0, 0], [0x70, 0xFF, 0xFF, 0xFF, 0xFF],
        ] as [[UInt8]], [.md5, .scramSHA256] as [AuthPolicy.Method])
    func `a message that is no password, or too long for one, is refused by its head`(
        bytes: [UInt8], method: AuthPolicy.Method
    ) {
        var client = LoginClient(method, ["ann": "pencil"], isBytewise: true)
        client.start([("user", "ann")])
        client.send(bytes)
        #expect(client.refusal?.state == .protocolViolation)
        #expect(client.actions.count == 2)
    }

    @Test func `a password of the greatest length is read and waited for`() {
        var client = LoginClient(.md5, ["ann": "pencil"])
        client.start([("user", "ann")])
        let content = [UInt8](repeating: 0x61, count: WireLimits.authenticationMessageMax - 4)
        client.send([0x70, 0, 0, 0xFF, 0xFF] + content.dropLast())
        #expect(client.refusal == nil)
        client.send([0x61])
        #expect(client.refusal?.state == .invalidPassword)
        #expect(content.count + 5 <= ClientLogin.bufferedMax)
    }

    @Test func `secrets are told apart by their form`() {
        #expect(AuthPolicy.Secret(parsing: "pencil") == .plain("pencil"))
        #expect(AuthPolicy.Secret(parsing: "md5short") == .plain("md5short"))
        #expect(AuthPolicy.Secret(parsing: Self.md5) == .md5(Self.md5))
        #expect(AuthPolicy.Secret(parsing: Self.stored) == .scram(Self.secret))
        let unserved = Self.stored.replacing("$7:", with: "$1000001:")
        #expect(unserved != Self.stored && AuthPolicy.Secret(parsing: unserved) == .plain(""))
        let policy = AuthPolicy(
            method: .md5, secrets: ["a": .plain("p"), "b": .md5(Self.md5), "c": .scram(Self.secret)])
        #expect(["a", "b", "c", "d"].map { policy.plainPassword(of: $0) } == ["p", nil, nil, nil])
        #expect(policy.md5Secret(of: "a") == MD5Password.secret(password: "p", user: "a"))
        #expect(["b", "c", "d"].map { policy.md5Secret(of: $0) } == [Self.md5, nil, nil])
    }
}
