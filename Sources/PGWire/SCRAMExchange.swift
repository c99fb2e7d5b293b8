import Digests

/// The server's half of SCRAM-SHA-256 without channel binding (RFC 5802, RFC 7677; sasl-authentication).
/// One login's value; randomness comes in by `init`.
package struct SCRAMServer {
    package enum Failure: Error, Equatable, Sendable {
        /// Not a SCRAM message, or not the one that is due.
        case malformed
        /// A well-formed proof that is not the password's; also every login of an unknown user.
        case wrongPassword
    }

    private enum State { case awaitingFirst, awaitingFinal, done }
    private var state: State = .awaitingFirst
    private let secret: SCRAMSecret
    /// False for a mock exchange: all steps are done, and the last one fails.
    private let isKnownUser: Bool
    private let serverNonce: [UInt8]
    private var header: [UInt8] = []
    private var firstBare: [UInt8] = []
    private var serverFirst: [UInt8] = []
    private var nonce: [UInt8] = []
    /// What the client has proven to know; nil until then.
    package private(set) var provenKeys: SCRAMKeys?

    /// - Parameter randomBytes: 18 bytes from a secure generator.
    package init(secret: SCRAMSecret, isKnownUser: Bool, randomBytes: [UInt8]) {
        self.secret = secret
        self.isKnownUser = isKnownUser
        serverNonce = Base64.encode(randomBytes)
    }

    /// client-first-message in, server-first-message out.
    package mutating func first(_ message: [UInt8]) throws(Failure) -> [UInt8] {
        guard case .awaitingFirst = state else { throw .malformed }
        // gs2-header: "n,," or "y,,"; an authzid is not allowed by PostgreSQL either.
        guard message.count > 3, message[0] == UInt8(ascii: "n") || message[0] == UInt8(ascii: "y"),
            message[1] == UInt8(ascii: ","), message[2] == UInt8(ascii: ",")
        else { throw .malformed }
        header = Array(message[..<3])
        firstBare = Array(message[3...])
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
        guard attributes.count >= 2, Array(attributes[0]) == Array("c=".utf8) + Base64.encode(header),
            Array(attributes[1]) == Array("r=".utf8) + nonce
        else { throw .malformed }
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
    private let clientNonce: [UInt8]
    private var authMessage: [UInt8] = []
    private var serverKey: [UInt8] = []

    package init(password: String, randomBytes: [UInt8]) {
        source = .password(password)
        clientNonce = Base64.encode(randomBytes)
    }

    /// Without the password: with what a client of ours has proven to us, where the server has the same secret.
    package init(keys: SCRAMKeys, randomBytes: [UInt8]) {
        source = .keys(keys)
        clientNonce = Base64.encode(randomBytes)
    }

    private var firstBare: [UInt8] { Array("n=,r=".utf8) + clientNonce }

    package func first() -> [UInt8] { Array("n,,".utf8) + firstBare }

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
        let withoutProof = Array("c=biws,r=".utf8) + nonce
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
        "md5" + hex(Digest.md5(Array(password.utf8) + Array(user.utf8)))
    }

    /// What a client answers: `md5` and the digest of the secret's 32 digits and the salt.
    package static func response(secret: String, salt: [UInt8]) -> String {
        "md5" + hex(Digest.md5(Array(secret.utf8.dropFirst(3)) + salt))
    }

    private static func hex(_ bytes: [UInt8]) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }
}
