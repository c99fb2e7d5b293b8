import Configuration
import PGWire

/// What a client's channel is, once TLS is on it. Immutable.
package struct ChannelFacts: Equatable, Sendable {
    /// The hash of our certificate for tls-server-end-point (RFC 5929); empty: there is none to bind SCRAM to.
    package var endpointDigest: [UInt8]
    /// The client showed a certificate, and its chain leads to an authority of ours.
    package var hasCertificate: Bool
    /// Its common name.
    package var certificateName: String?

    package init(endpointDigest: [UInt8] = [], hasCertificate: Bool = false, certificateName: String? = nil) {
        self.endpointDigest = endpointDigest
        self.hasCertificate = hasCertificate
        self.certificateName = certificateName
    }
}

/// What clients are offered and asked for on the way in. Immutable, any thread.
package struct EncryptionPolicy: Equatable, Sendable {
    package enum ClientCertificate: Sendable {
        case optional
        /// One of our authorities has signed it.
        case required
        /// And it is the user's.
        case ofUser
    }

    /// SSLRequest and direct TLS are taken.
    package var isOffered: Bool
    /// Nobody logs in without TLS.
    package var isRequired: Bool
    package var certificate: ClientCertificate
    /// Which certificate's name may be which user; nil: they are the same.
    package var users: IdentMap?

    package init(
        isOffered: Bool, isRequired: Bool = false, certificate: ClientCertificate = .optional, users: IdentMap? = nil
    ) {
        self.isOffered = isOffered
        self.isRequired = isRequired
        self.certificate = certificate
        self.users = users
    }

    /// Unix sockets, and where TLS is switched off.
    package static let plain = EncryptionPolicy(isOffered: false)

    /// Whether the channel is what is asked for; otherwise what the client is told.
    func refusal(of channel: ChannelFacts?, user: String, isByCertificate: Bool) -> ErrorResponse? {
        guard let channel else {
            if isByCertificate {
                return ErrorResponse(
                    .fatal, .invalidAuthorization, "certificate authentication needs a connection by TLS",
                    hint: "Connect over TCP with sslmode=require or stronger, sslcert and sslkey.")
            }
            if !isRequired { return nil }
            return ErrorResponse(
                .fatal, .invalidAuthorization, "Godwit takes connections by TLS only, and this one is not encrypted",
                hint: "Connect with sslmode=require or stronger.")
        }
        if !channel.hasCertificate && (isByCertificate || certificate != .optional) {
            return ErrorResponse(
                .fatal, .invalidAuthorization, "connection requires a valid client certificate",
                hint: "Connect with sslcert and sslkey, a certificate that listen.tls.client_ca has signed.")
        }
        if isByCertificate || certificate == .ofUser {
            let isUsers = channel.certificateName.map { name in
                users.map { $0.allows(name, as: user) } ?? name.utf8.elementsEqual(user.utf8)
            }
            if isUsers != true {
                return ErrorResponse(
                    .fatal, .invalidAuthorization, "certificate authentication failed for user \"\(user)\"")
            }
        }
        return nil
    }

    static let unencryptedData = ErrorResponse(
        .fatal, .protocolViolation, "received unencrypted data after SSL request",
        detail: "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.")
}
