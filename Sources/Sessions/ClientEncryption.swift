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

    package init(isOffered: Bool, isRequired: Bool = false, certificate: ClientCertificate = .optional) {
        self.isOffered = isOffered
        self.isRequired = isRequired
        self.certificate = certificate
    }

    /// Unix sockets, and where TLS is switched off.
    package static let plain = EncryptionPolicy(isOffered: false)

    /// Whether the channel is what is asked for; otherwise what the client is told.
    func refusal(of peer: LoginPeer, user: String, _ policy: AuthPolicy) -> ErrorResponse? {
        if !isRequired { return nil }
        if !peer.isEncrypted {
            return ErrorResponse(
                .fatal, .invalidAuthorization, "Godwit takes connections by TLS only, and this one is not encrypted",
                hint: "Connect with sslmode=require or stronger.")
        }
        if certificate == .optional { return nil }
        if !peer.hasCertificate { return AuthPolicy.noCertificate }
        if certificate == .required { return nil }
        guard let name = peer.certificateName,
            policy.maps.allows(map: policy.certificateMap, system: name, user: user)
        else { return AuthPolicy.notMapped("certificate", user) }
        return nil
    }

    static let unencryptedData = ErrorResponse(
        .fatal, .protocolViolation, "received unencrypted data after SSL request",
        detail: "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.")

    /// In PostgreSQL's words.
    static func bindingError(_ failure: SCRAMServer.Failure) -> ErrorResponse {
        switch failure {
        case .bindingDowngraded:
            ErrorResponse(
                .fatal, .invalidAuthorization, "SCRAM channel binding negotiation error",
                detail: "The client supports SCRAM channel binding but thinks the server does not.  "
                    + "However, this server does support channel binding.")
        case .bindingMismatch:
            ErrorResponse(
                .fatal, .invalidAuthorization, "SCRAM channel binding check failed",
                detail: "The client saw another server certificate than Godwit's.")
        case .bindingNotOffered, .malformed, .wrongPassword:
            ErrorResponse(
                .fatal, .protocolViolation,
                "the client wants SCRAM channel binding of a kind that was not offered")
        }
    }
}
