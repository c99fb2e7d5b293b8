import Configuration
import Reactor
import Sessions

/// What `listen.tls` and `auth` make of encryption towards clients.
enum ClientTLS {
    /// Reads the files again, at the start and at each reload.
    ///
    /// - Parameter previous: taken again when neither settings nor files have changed.
    /// - Returns: what clients are offered, and the certificate; nil where TLS is off.
    static func read(
        _ settings: Settings, previous: TLSContext?
    ) throws -> (policy: EncryptionPolicy, context: TLSContext?) {
        let tls = settings.listen.tls
        if tls.mode == .disable { return (.plain, nil) }
        let fresh = try context(tls)
        let policy = EncryptionPolicy(
            isOffered: true, isRequired: tls.mode != .allow, certificate: certificate(tls.mode))
        if let previous, previous.options == fresh.options, previous.mark == fresh.mark { return (policy, previous) }
        return (policy, fresh)
    }

    /// - Throws: `SettingsError` with the key of the setting and the file that is wrong.
    private static func context(_ tls: TLSSettings) throws -> TLSContext {
        var options = TLSOptions()
        options.certificate = tls.certificate
        options.key = tls.key
        options.authorities = tls.clientCA.isEmpty ? nil : .file(tls.clientCA)
        options.revocations = tls.clientCRL
        options.least = tls.minVersion == .v12 ? .v12 : .v13
        options.most = tls.maxVersion == .v12 ? .v12 : .v13
        options.ciphers = tls.ciphers
        options.cipherSuites = tls.cipherSuites
        do {
            return try TLSContext(.server, options)
        } catch {
            throw TLSSettingsError(key: "listen.tls", cause: error)
        }
    }

    private static func certificate(_ mode: TLSSettings.Mode) -> EncryptionPolicy.ClientCertificate {
        switch mode {
        case .disable, .allow, .require: .optional
        case .verifyCA: .required
        case .verifyFull: .ofUser
        }
    }
}

/// A file or value of a setting that TLS could not be made of.
struct TLSSettingsError: Error, CustomStringConvertible {
    var key: String
    var cause: TLSContextError

    var description: String { "\(key): \(cause)" }
}

/// Certificates that are about to be of no use.
enum CertificateAge {
    /// A warning is given from so many days before the end.
    static let warningDays: Int64 = 30

    /// What is to be said of our certificate; nil: nothing.
    static func warning(_ context: TLSContext, key: String) -> String? {
        guard let seconds = context.secondsLeft else { return nil }
        let name = "\(key): the certificate \(context.subject ?? "") in \(context.options.certificate)"
        if context.isEarly { return "\(name) is not valid yet" }
        if seconds < 0 { return "\(name) expired \(-seconds / 86_400) days ago" }
        return seconds / 86_400 < warningDays ? "\(name) expires in \(seconds / 86_400) days" : nil
    }
}
