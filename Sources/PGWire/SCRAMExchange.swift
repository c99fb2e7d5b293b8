import Digests
import Primitives

/// The SASL mechanisms of PostgreSQL; `plus` binds the exchange to the channel by tls-server-end-point (RFC 5929).
package enum SCRAMMechanism: String, Sendable {
    case plain = "SCRAM-SHA-256"
    case plus = "SCRAM-SHA-256-PLUS"

    static let bindingHeader = Array("p=tls-server-end-point,,".utf8)
}

/// The server's half of SCRAM-SHA-256, with channel binding and without (RFC 5802, RFC 7677; sasl-authentication).
/// One login's value; randomness comes in by `init`.
package struct SCRAMServer {
    package enum Failure: Error, Equatable, Sendable {
        /// Not a SCRAM message, or not the one that is due.
        case malformed
        /// A well-formed proof that is not the password's; also every login of an unknown user.
        case wrongPassword
        /// The client chose SCRAM-SHA-256-PLUS without its being offered, or with another binding, or without one.
        case bindingNotOffered
        /// The client could have bound and was told that we cannot, though we had said so: somebody is in between.
        case bindingDowngraded
        /// The client's channel is another one than ours.
        case bindingMismatch
    }

    private enum State { case awaitingFirst, awaitingFinal, done }
    private var state: State = .awaitingFirst
    private let secret: SCRAMSecret
    /// False for a mock exchange: all steps are done, and the last one fails.
    private let isKnownUser: Bool
    private let serverNonce: [UInt8]
    /// What the channel is known by; nil: SCRAM-SHA-256-PLUS was not offered.
    private let binding: [UInt8]?
    /// The client's channel binding input: its header, and behind it what the channel is known by.
    private var bindingInput: [UInt8] = []
    private var firstBare: [UInt8] = []
    private var serverFirst: [UInt8] = []
    private var nonce: [UInt8] = []
    /// What the client has proven to know; nil until then.
    package private(set) var provenKeys: SCRAMKeys?

    /// - Parameter randomBytes: 18 bytes from a secure generator.
    /// - Parameter binding: the hash for tls-server-end-point, when SCRAM-SHA-256-PLUS was offered.
    package init(secret: SCRAMSecret, isKnownUser: Bool, randomBytes: [UInt8], binding: [UInt8]? = nil) {
        self.secret = secret
        self.isKnownUser = isKnownUser
        self.binding = binding
        serverNonce = Base64.encode(randomBytes)
    }

    /// client-first-message in, server-first-message out.
    package mutating func first(
        _ message: [UInt8], mechanism: SCRAMMechanism = .plain
    ) throws(Failure) -> [UInt8] {
        guard case .awaitingFirst = state else { throw .malformed }
        let headerCount = try readHeader(message, mechanism)
        firstBare = Array(message[headerCount...])
        let attributes = firstBare.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        // The name is ignored, as PostgreSQL does: the startup packet said who it is.
        guard attributes.count >= 2, attributes[0].starts(with: Array("n=".utf8)),
            attributes[1].starts(with: Array("r=".utf8)), attributes[1].count > 2
        else { throw .malformed }
        let clientNonce = attributes[1].dropFirst(2)
        guard clientNonce.allSatisfy({ $0 >= 0x21 && $0 <= 0x7E }) else { throw .malformed }
        nonce = Array(clientNonce) + serverNonce
        serverFirst =
            Array("r=".utf8) + nonce + Array(",s=".utf8) + Base64.encode(secret.salt)
            + Array(",i=\(secret.iterations)".utf8)
        state = .awaitingFinal
        return serverFirst
    }

    /// gs2-header: "n,,", "y,," or "p=tls-server-end-point,,"; an authzid is not allowed by PostgreSQL either.
    ///
    /// - Returns: its size.
    private mutating func readHeader(_ message: [UInt8], _ mechanism: SCRAMMechanism) throws(Failure) -> Int {
        guard message.count > 3 else { throw .malformed }
        switch (message[0], mechanism) {
        case (UInt8(ascii: "n"), .plain), (UInt8(ascii: "y"), .plain):
            guard message[1] == UInt8(ascii: ","), message[2] == UInt8(ascii: ",") else { throw .malformed }
            if message[0] == UInt8(ascii: "y") && binding != nil { throw .bindingDowngraded }
            bindingInput = Array(message[..<3])
            return 3
        case (UInt8(ascii: "p"), .plus):
            guard let binding, message.starts(with: SCRAMMechanism.bindingHeader) else { throw .bindingNotOffered }
            bindingInput = SCRAMMechanism.bindingHeader + binding
            return SCRAMMechanism.bindingHeader.count
        case (UInt8(ascii: "n"), .plus), (UInt8(ascii: "y"), .plus):
            throw .bindingNotOffered
        default:
            throw .malformed
        }
    }

    /// client-final-message in, server-final-message out.
    package mutating func final(_ message: [UInt8]) throws(Failure) -> [UInt8] {
        guard case .awaitingFinal = state else { throw .malformed }
        state = .done
        guard let proofAt = message.lastIndex(of: UInt8(ascii: ",")),
            message[(proofAt + 1)...].starts(with: Array("p=".utf8)),
            let proof = Base64.decode(message[(proofAt + 3)...]), proof.count == 32
        else { throw .malformed }
        let withoutProof = Array(message[..<proofAt])
        let attributes = withoutProof.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard attributes.count >= 2, attributes[0].starts(with: Array("c=".utf8)),
            Array(attributes[1]) == Array("r=".utf8) + nonce
        else { throw .malformed }
        if Array(attributes[0].dropFirst(2)) != Base64.encode(bindingInput) {
            throw bindingInput.count > 3 ? .bindingMismatch : .malformed
        }
        let comma: [UInt8] = [UInt8(ascii: ",")]
        let authMessage = firstBare + comma + serverFirst + comma + withoutProof
        let signature = Digest.hmacSHA256(key: secret.storedKey, authMessage)
        let clientKey = zip(proof, signature).map { $0 ^ $1 }
        let proven = Digest.equal(Digest.sha256(clientKey), secret.storedKey)
        guard proven && isKnownUser else { throw .wrongPassword }
        provenKeys = SCRAMKeys(
            iterations: secret.iterations, salt: secret.salt, clientKey: clientKey, serverKey: secret.serverKey)
        return Array("v=".utf8) + Base64.encode(Digest.hmacSHA256(key: secret.serverKey, authMessage))
    }
}

/// The client's half of SCRAM-SHA-256, towards servers. One login's value.
package struct SCRAMClient {
    package enum Failure: Error, Equatable, Sendable {
        case malformed
        /// The keys that we have are of another salt or of other iterations: the server has another secret.
        case otherSecret
        /// The server does not know the password either: it is not who it says.
        case wrongServerSignature
    }

    /// Characters of a server's nonce and salt that we take: a hostile server must not make us work without end.
    private static let serverFirstMax = 1024

    /// What the proof is made of.
    private enum Source {
        case password(String)
        case keys(SCRAMKeys)
    }

    private let source: Source
    private let binding: Binding
    private let clientNonce: [UInt8]
    private var authMessage: [UInt8] = []
    private var serverKey: [UInt8] = []

    /// How the exchange is bound to the channel.
    package enum Binding: Sendable, Equatable {
        /// We do not, or there is no TLS.
        case none
        /// We would, and the server does not offer it.
        case notOffered
        /// By the hash of the server's certificate.
        case endpoint([UInt8])

        package var mechanism: SCRAMMechanism {
            switch self {
            case .none, .notOffered: .plain
            case .endpoint: .plus
            }
        }

        var header: [UInt8] {
            switch self {
            case .none: Array("n,,".utf8)
            case .notOffered: Array("y,,".utf8)
            case .endpoint: SCRAMMechanism.bindingHeader
            }
        }

        var input: [UInt8] { if case .endpoint(let digest) = self { header + digest } else { header } }
    }

    package init(password: String, randomBytes: [UInt8], binding: Binding = .none) {
        source = .password(password)
        self.binding = binding
        clientNonce = Base64.encode(randomBytes)
    }

    /// Without the password: with what a client of ours has proven to us, where the server has the same secret.
    package init(keys: SCRAMKeys, randomBytes: [UInt8], binding: Binding = .none) {
        source = .keys(keys)
        self.binding = binding
        clientNonce = Base64.encode(randomBytes)
    }

    private var firstBare: [UInt8] { Array("n=,r=".utf8) + clientNonce }

    package func first() -> [UInt8] { binding.header + firstBare }

    /// server-first-message in, client-final-message out.
    /// Once only: a server must not make us derive keys over and over.
    package mutating func final(serverFirst: [UInt8]) throws(Failure) -> [UInt8] {
        guard authMessage.isEmpty else { throw .malformed }
        let parts = serverFirst.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard serverFirst.count <= Self.serverFirstMax, parts.count >= 3,
            parts[0].starts(with: Array("r=".utf8)), parts[1].starts(with: Array("s=".utf8)),
            parts[2].starts(with: Array("i=".utf8))
        else { throw .malformed }
        let nonce = Array(parts[0].dropFirst(2))
        guard nonce.starts(with: clientNonce), nonce.count > clientNonce.count,
            let salt = Base64.decode(parts[1].dropFirst(2)), !salt.isEmpty,
            let iterations = Int(String(decoding: parts[2].dropFirst(2), as: UTF8.self)),
            iterations > 0, iterations <= SCRAMSecret.iterationsMax
        else { throw .malformed }
        let keys = try keys(salt: salt, iterations: iterations)
        let clientKey = keys.clientKey
        serverKey = keys.serverKey
        let withoutProof = Array("c=".utf8) + Base64.encode(binding.input) + Array(",r=".utf8) + nonce
        let comma: [UInt8] = [UInt8(ascii: ",")]
        authMessage = firstBare + comma + serverFirst + comma + withoutProof
        let signature = Digest.hmacSHA256(key: Digest.sha256(clientKey), authMessage)
        let proof = zip(clientKey, signature).map { $0 ^ $1 }
        return withoutProof + Array(",p=".utf8) + Base64.encode(proof)
    }

    private func keys(salt: [UInt8], iterations: Int) throws(Failure) -> SCRAMKeys {
        switch source {
        case .keys(let keys):
            if keys.salt != salt || keys.iterations != iterations { throw .otherSecret }
            return keys
        case .password(let password):
            return SCRAMKeys(password: password, salt: salt, iterations: iterations)
        }
    }

    /// Checks server-final-message.
    package func verify(serverFinal: [UInt8]) throws(Failure) {
        guard serverFinal.starts(with: Array("v=".utf8)),
            let signature = Base64.decode(serverFinal.dropFirst(2).prefix { $0 != UInt8(ascii: ",") })
        else { throw .malformed }
        guard !serverKey.isEmpty, Digest.equal(signature, Digest.hmacSHA256(key: serverKey, authMessage)) else {
            throw .wrongServerSignature
        }
    }
}

/// The md5 method (protocol-flow, AuthenticationMD5Password).
package enum MD5Password {
    /// What pg_authid keeps: `md5` and the digest of password and user name.
    package static func secret(password: String, user: String) -> String {
        "md5" + Digest.md5(Array(password.utf8) + Array(user.utf8)).hex
    }

    /// What a client answers: `md5` and the digest of the secret's 32 digits and the salt.
    package static func response(secret: String, salt: [UInt8]) -> String {
        "md5" + Digest.md5(Array(secret.utf8.dropFirst(3)) + salt).hex
    }
}
