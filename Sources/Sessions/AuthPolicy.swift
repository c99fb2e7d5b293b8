import Digests
import PGWire
import Primitives

/// Who may log in and how they prove it. Immutable, any thread; a reload makes a new one.
package final class AuthPolicy: Sendable {
    package enum Method: Sendable { case trust, md5, scramSHA256, cert }

    /// What the users' file says of one user.
    package enum Secret: Equatable, Sendable {
        case plain(String)
        /// `md5` and 32 hexadecimal digits.
        case md5(String)
        case scram(SCRAMSecret)

        package init(parsing text: String) {
            if let secret = SCRAMSecret(parsing: text) {
                self = .scram(secret)
            } else if text.hasPrefix("md5") && text.utf8.count == 35 {
                self = .md5(text)
            } else {
                self = .plain(text)
            }
        }
    }

    package let method: Method
    private let secrets: NameTable<Secret>
    /// Derived once, so that a login costs the same for every kind of secret.
    private let scramSecrets: NameTable<SCRAMSecret>
    private let mockKey: [UInt8]
    /// What most of the stored secrets have: a user that does not exist must not stand out.
    private let mockIterations: Int

    /// - Parameter previous: the policy that this one replaces: secrets that did not change are not derived again.
    package init(method: Method, secrets: NameTable<Secret>, previous: AuthPolicy? = nil) {
        self.method = method
        self.secrets = secrets
        mockKey = previous?.mockKey ?? Digest.randomBytes(32)
        var derived = NameTable<SCRAMSecret>()
        for (user, secret) in secrets.pairs {
            switch secret {
            case .plain(let password):
                if method != .scramSHA256 { continue }
                if previous?.secrets[user] == secret, let known = previous?.scramSecrets[user] {
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
        mockIterations = counts.max { ($0.value, $1.key) < ($1.value, $0.key) }?.key ?? SCRAMSecret.defaultIterations
    }

    /// The password towards servers, where the file has it in plain text.
    package func plainPassword(of user: String) -> String? {
        if case .plain(let password)? = secrets[user] { password } else { nil }
    }

    /// The md5 secret towards servers; made of a plain password too.
    package func md5Secret(of user: String) -> String? {
        switch secrets[user] {
        case .plain(let password): MD5Password.secret(password: password, user: user)
        case .md5(let secret): secret
        case .scram, nil: nil
        }
    }

    /// Which exchange `user` goes through: SCRAM where md5 is asked for and the file has only a SCRAM secret.
    func exchange(for user: String) -> Method {
        if method == .md5, case .scram? = secrets[user] { return .scramSHA256 }
        return method
    }

    /// The user's secret, or one that nobody knows the password of: the exchange looks and lasts the same.
    func scramSecret(of user: String) -> (secret: SCRAMSecret, isKnown: Bool) {
        if let secret = scramSecrets[user] { return (secret, true) }
        let salt = Array(Digest.hmacSHA256(key: mockKey, Array(user.utf8)).prefix(16))
        let key = Digest.hmacSHA256(key: mockKey, Array(("key" + user).utf8))
        let mock = SCRAMSecret(
            iterations: mockIterations, salt: salt, storedKey: key, serverKey: key)
        return (mock, false)
    }
}
