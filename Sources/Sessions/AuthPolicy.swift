import Configuration
import Digests
import PGWire
import Primitives

/// Who may log in and how they prove it. Immutable, any thread; a reload makes a new one.
package final class AuthPolicy: Sendable {
    package enum Method: Sendable, CaseIterable { case trust, md5, password, scramSHA256, cert, peer }

    /// What is known of one user: the users' file's word, or auth_query's.
    package enum Secret: Equatable, Sendable {
        /// An empty one is nobody's password: the user is known, and comes in without one or not at all.
        case plain(String)
        /// `md5` and 32 hexadecimal digits.
        case md5(String)
        case scram(SCRAMSecret)

        package init(parsing text: String) {
            if let secret = SCRAMSecret(parsing: text) {
                self = .scram(secret)
            } else if text.hasPrefix("md5") && text.utf8.count == 35 {
                self = .md5(text)
            } else if text.hasPrefix("SCRAM-SHA-256$") {
                // One that we cannot serve, as of more iterations. Whoever has read it must not come in with the text.
                self = .plain("")
            } else {
                self = .plain(text)
            }
        }
    }

    /// What a client is asked for, by where it comes from and whom it wants to be.
    enum Demand: Equatable {
        case method(Method, map: String?)
        case refuse(ErrorResponse)
    }

    package let method: Method
    /// Where there is one it decides in the place of `method`.
    package let rules: HBAFile?
    package let maps: IdentFile
    /// The map for certificates where no rule names one; nil: the common name is the user's.
    package let certificateMap: String?
    /// Users that the file does not have are looked up.
    package let looksUp: Bool
    private let secrets: NameTable<Secret>
    /// Derived once, so that a login costs the same for every kind of secret.
    private let scramSecrets: NameTable<SCRAMSecret>
    private let mockKey: [UInt8]
    /// What most of the stored secrets have: a user that does not exist must not stand out.
    private let mockIterations: Int
    /// Most users have SCRAM secrets: with md5 as the method those who do not exist go through SCRAM as well.
    let mocksSCRAM: Bool

    /// - Parameter previous: the policy that this one replaces: secrets that did not change are not derived again.
    package init(
        method: Method, secrets: NameTable<Secret>, rules: HBAFile? = nil, maps: IdentFile = .empty,
        certificateMap: String? = nil, looksUp: Bool = false, previous: AuthPolicy? = nil
    ) {
        self.method = method
        self.secrets = secrets
        self.rules = rules
        self.maps = maps
        self.certificateMap = certificateMap
        self.looksUp = looksUp
        mockKey = previous?.mockKey ?? Digest.randomBytes(32)
        let derives = rules.map { $0.rules.contains { $0.method == .scramSHA256 || $0.method == .password } }
            ?? (method == .scramSHA256 || method == .password)
        var derived = NameTable<SCRAMSecret>()
        for (user, secret) in secrets.pairs {
            switch secret {
            case .plain(let password):
                if !derives || password.isEmpty { continue }
                if case .plain(let before)? = previous?.secrets[user], before.hasSameBytes(as: password),
                    let known = previous?.scramSecrets[user]
                {
                    derived[user] = known
                } else {
                    derived[user] = SCRAMSecret(password: password, salt: Digest.randomBytes(16))
                }
            case .md5:
                continue
            case .scram(let stored):
                derived[user] = stored
            }
        }
        scramSecrets = derived
        var counts: [Int: Int] = [:]
        for secret in derived.values { counts[secret.iterations, default: 0] += 1 }
        let stored = secrets.values.count { if case .scram = $0 { true } else { false } }
        mocksSCRAM = stored * 2 > secrets.count
        mockIterations = counts.max { ($0.value, $1.key) < ($1.value, $0.key) }?.key ?? SCRAMSecret.defaultIterations
    }

    // MARK: secrets

    func secret(of user: String) -> Secret? { secrets[user] }

    /// The password towards servers, where the file has it in plain text.
    package func plainPassword(of user: String) -> String? {
        if case .plain(let password)? = secrets[user] { password } else { nil }
    }

    /// The md5 secret towards servers; made of a plain password too.
    package func md5Secret(of user: String) -> String? { secrets[user].flatMap { Self.md5Secret($0, of: user) } }

    static func md5Secret(_ secret: Secret, of user: String) -> String? {
        switch secret {
        case .plain(let password): password.isEmpty ? nil : MD5Password.secret(password: password, user: user)
        case .md5(let secret): secret
        case .scram: nil
        }
    }

    /// The secret to go through SCRAM with: the user's, or one that nobody knows the password of, so that the exchange
    /// looks and lasts the same.
    ///
    /// - Parameter iterations: of a mock, where it is known what others have.
    func scramSecret(
        _ secret: Secret?, of user: String, iterations: Int? = nil
    ) -> (secret: SCRAMSecret, isKnown: Bool) {
        // Made in any case: what an unknown user costs, every user costs.
        let mock = mockSecret(user, iterations: iterations)
        switch secret {
        case .scram(let stored)?: return (stored, true)
        case .plain(let password)? where !password.isEmpty:
            if let derived = scramSecrets[user], case .plain(let known)? = secrets[user],
                known.hasSameBytes(as: password)
            {
                return (derived, true)
            }
            return (SCRAMSecret(password: password, salt: mock.salt), true)
        case .plain?, .md5?, nil:
            return (mock, false)
        }
    }

    /// The salt is all that anybody sees of it, and stays the same for a name. PostgreSQL makes it so, too.
    private func mockSecret(_ user: String, iterations: Int?) -> SCRAMSecret {
        let salt = Array(Digest.sha256(Array(user.utf8) + mockKey).prefix(16))
        return SCRAMSecret(
            iterations: iterations ?? mockIterations, salt: salt, storedKey: mockKey, serverKey: mockKey)
    }

    /// Whether this is the password. Keys are derived once in any case, so that the time does not tell who exists.
    func isPassword(_ password: String, _ secret: Secret?, of user: String) -> Bool {
        var expected = mockSecret(user, iterations: nil)
        if case .scram(let stored)? = secret { expected = stored }
        let derived = SCRAMSecret(password: password, salt: expected.salt, iterations: expected.iterations)
        let isDerived = Digest.equal(derived.storedKey, expected.storedKey)
        let given = MD5Password.secret(password: password, user: user)
        switch secret {
        case .scram?: return isDerived
        case .md5(let stored)?: return Digest.equal(Array(given.utf8), Array(stored.utf8))
        case .plain(let known)?:
            return Digest.equal(
                Digest.sha256(PreparedPassword.bytes(password)), Digest.sha256(PreparedPassword.bytes(known)))
        case nil: return false
        }
    }

    // MARK: rules

    /// What this client has to prove, by the first rule that is for it.
    func demand(of peer: LoginPeer, database: String, user: String) -> Demand {
        guard let rules else { return .method(method, map: method == .cert ? certificateMap : nil) }
        let place = HBAFile.Peer(address: peer.address, isEncrypted: peer.isEncrypted)
        guard let rule = rules.rule(for: place, database: database, user: user) else {
            return .refuse(Self.refusal("no pg_hba.conf entry for", peer, database, user))
        }
        switch rule.clientCertificate {
        case nil: break
        case .verifyCA?:
            if !peer.hasCertificate { return .refuse(Self.noCertificate) }
        case .verifyFull?:
            if !peer.hasCertificate { return .refuse(Self.noCertificate) }
            guard let name = peer.certificateName else { return .refuse(Self.notMapped("certificate", user)) }
            if !name.hasSameBytes(as: user) { return .refuse(Self.notMapped("certificate", user)) }
        }
        switch rule.method {
        case .reject: return .refuse(Self.refusal("pg_hba.conf rejects connection for", peer, database, user))
        case .trust: return .method(.trust, map: nil)
        case .md5: return .method(.md5, map: nil)
        case .password: return .method(.password, map: nil)
        case .scramSHA256: return .method(.scramSHA256, map: nil)
        case .cert: return .method(.cert, map: rule.map)
        case .peer: return .method(.peer, map: rule.map)
        }
    }

    /// In PostgreSQL's words, which tools look for.
    private static func refusal(
        _ what: String, _ peer: LoginPeer, _ database: String, _ user: String
    ) -> ErrorResponse {
        let host = peer.address.map { "\($0)" } ?? "[local]"
        let encryption = peer.isEncrypted ? "SSL encryption" : "no encryption"
        return ErrorResponse(
            .fatal, .invalidAuthorization,
            "\(what) host \"\(host)\", user \"\(user)\", database \"\(database)\", \(encryption)")
    }

    static let noCertificate = ErrorResponse(
        .fatal, .invalidAuthorization, "connection requires a valid client certificate",
        hint: "Connect with sslmode=require or stronger, sslcert and sslkey: one that listen.tls.client_ca has signed.")

    static func notMapped(_ method: String, _ user: String) -> ErrorResponse {
        ErrorResponse(
            .fatal, .invalidAuthorization, "\(method) authentication failed for user \"\(user)\"")
    }
}

/// Where a client is and what its transport has proven. A value of its login.
package struct LoginPeer: Equatable, Sendable {
    /// nil: a Unix socket.
    package var address: NetworkAddress?
    package var isEncrypted = false
    /// The common name of the certificate that the client has shown and that was verified; nil: none.
    package var certificateName: String?
    /// It may be one without a common name.
    package var hasCertificate = false
    /// The hash of our certificate for tls-server-end-point (RFC 5929); empty: there is none to bind SCRAM to.
    package var endpointDigest: [UInt8] = []

    package init(address: NetworkAddress?, isEncrypted: Bool = false, certificateName: String? = nil) {
        self.address = address
        self.isEncrypted = isEncrypted
        self.certificateName = certificateName
        hasCertificate = certificateName != nil
    }

    mutating func secured(_ facts: ChannelFacts) {
        isEncrypted = true
        hasCertificate = facts.hasCertificate
        certificateName = facts.certificateName
        endpointDigest = facts.endpointDigest
    }
}

/// What a login has learnt that opens servers too. A value; never logged.
package enum ServerProof: Equatable, Sendable {
    case password(String)
    case md5(String)
    case scram(SCRAMKeys)
}
