import Digests
import PGWire
import Primitives
import Testing

@Suite struct SCRAMSecretTests {
    private static let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

    /// The example of RFC 7677, section 3: the keys behind its proof and signature.
    @Test func `the keys of a password prove the exchange of RFC 7677`() throws {
        let salt = try #require(Base64.decode("W22ZaJ0SNY7soEsUEjb6gQ==".utf8))
        let secret = SCRAMSecret(password: "pencil", salt: salt)
        #expect(secret.iterations == 4096)
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        let authMessage = Array(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,r=\(nonce),s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=\(nonce)"
                .utf8)
        let proof = try #require(Base64.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".utf8))
        let signature = Digest.hmacSHA256(key: secret.storedKey, authMessage)
        #expect(Digest.sha256(zip(proof, signature).map { $0 ^ $1 }) == secret.storedKey)
        #expect(
            Base64.encode(Digest.hmacSHA256(key: secret.serverKey, authMessage))
                == Array("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".utf8))
    }

    @Test func `a stored secret is the one that is derived from its password`() {
        let derived = SCRAMSecret(password: "pencil", salt: Array("0123456789abcdef".utf8), iterations: 10)
        func text(_ bytes: [UInt8]) -> String { String(decoding: Base64.encode(bytes), as: UTF8.self) }
        let stored =
            "SCRAM-SHA-256$10:\(text(derived.salt))$\(text(derived.storedKey)):\(text(derived.serverKey))"
        #expect(SCRAMSecret(parsing: stored) == derived)
    }

    @Test(arguments: [
        ("1", true), ("1000000", true), ("1000001", false), ("0", false), ("-1", false), ("", false),
    ])
    func `iterations are bounded`(iterations: String, isTaken: Bool) {
        let text = "SCRAM-SHA-256$\(iterations):AAAA$\(Self.key):\(Self.key)"
        #expect((SCRAMSecret(parsing: text) != nil) == isTaken)
    }

    @Test(arguments: [
        "", "secret", "SCRAM-SHA-256", "SCRAM-SHA-256$", "SCRAM-SHA-256$4096", "SCRAM-SHA-256$4096:AAAA",
        "SCRAM-SHA-1$4096:AAAA$\(key):\(key)", "scram-sha-256$4096:AAAA$\(key):\(key)",
        "SCRAM-SHA-256$4096:$\(key):\(key)", "SCRAM-SHA-256$4096:A*AA$\(key):\(key)",
        "SCRAM-SHA-256$4096:AAAA$\(key)", "SCRAM-SHA-256$4096:AAAA$\(key):",
        "SCRAM-SHA-256$4096:AAAA$:\(key)",
        "SCRAM-SHA-256$4096:AAAA$AAAA:\(key)", "SCRAM-SHA-256$4096:AAAA$\(key):AAAA",
        "SCRAM-SHA-256$4096:AAAA$\(key):\(key):", "SCRAM-SHA-256$4096:AAAA$\(key):\(key)$",
        "SCRAM-SHA-256$4096:AAAA:$\(key):\(key)", "SCRAM-SHA-256$99999999999999999999:AAAA$\(key):\(key)",
        " SCRAM-SHA-256$4096:AAAA$\(key):\(key)",
    ])
    func `what is not of the stored form is no secret`(text: String) {
        #expect(SCRAMSecret(parsing: text) == nil)
    }

    /// What PostgreSQL itself keeps and asks for: user `ann`, password `secret`.
    @Test func `the md5 method gives PostgreSQL's digests`() {
        let secret = MD5Password.secret(password: "secret", user: "ann")
        #expect(secret == "md5" + Digest.md5(Array("secretann".utf8)).hex)
        #expect(MD5Password.secret(password: "md5_password", user: "md5_user") == "md5" + Self.knownMD5)
        let salt: [UInt8] = [1, 2, 3, 0xFF]
        let digits = Array(secret.utf8.dropFirst(3))
        #expect(MD5Password.response(secret: secret, salt: salt) == "md5" + Digest.md5(digits + salt).hex)
    }

    private static let knownMD5 = "45e967027b297f53940769c57cd02768"
}
