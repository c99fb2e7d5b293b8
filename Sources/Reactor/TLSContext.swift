import COpenSSL
import Glibc

/// Why certificates, keys or limits of TLS could not be taken. Immutable, any thread.
package struct TLSContextError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The file; empty for what is not about one.
    package var file: String
    package var reason: String

    package init(file: String = "", reason: String) {
        self.file = file
        self.reason = reason
    }

    package var description: String { file.isEmpty ? reason : "\(file): \(reason)" }
}

/// Versions that may be the least or the most of a connection, by the names that settings use.
package enum TLSVersion: String, Sendable, CaseIterable {
    case v12 = "TLSv1.2"
    case v13 = "TLSv1.3"

    fileprivate var number: CInt { self == .v12 ? TLS1_2_VERSION : TLS1_3_VERSION }
}

/// Where the authorities are that a peer's certificate must come from.
package enum TLSAuthorities: Sendable, Equatable {
    case file(String)
    /// Those that the operating system trusts.
    case system
}

/// What both roles of TLS are given. Files are read once, when a context is made of it.
package struct TLSOptions: Sendable, Equatable {
    /// PEM: the certificate, then those that lead to its authority. Empty: none.
    package var certificate = ""
    package var key = ""
    /// Of an encrypted key.
    package var passphrase: String?
    /// nil: a peer's certificate is not judged.
    package var authorities: TLSAuthorities?
    /// PEM: revoked certificates; empty: none are looked for.
    package var revocations = ""
    package var revocationsDirectory = ""
    package var least: TLSVersion = .v12
    package var most: TLSVersion = .v13
    /// OpenSSL's names for TLS 1.2; empty: OpenSSL's choice.
    package var ciphers = ""
    /// For TLS 1.3.
    package var cipherSuites = ""
    /// We connect with ALPN `postgresql` (as libpq does for direct TLS only).
    package var offersALPN = false
    /// What we serve is HTTP, not PostgreSQL's protocol.
    package var isHTTP = false

    package init() {}
}

/// Certificates, keys and rules that connections share: an SSL_CTX, ready to use. Any thread.
// Unchecked: the SSL_CTX is not changed after init, and OpenSSL counts its references atomically.
package final class TLSContext: @unchecked Sendable {
    package enum Role: Sendable { case server, client }

    package let role: Role
    package let options: TLSOptions
    /// Digests of the files as they were read, and what there was in directories: two contexts of equal options and
    /// marks are the same.
    package let mark: [UInt8]
    let raw: OpaquePointer

    /// Reads the files. Blocks: not on a reactor's thread.
    ///
    /// - Throws: with the file and what is wrong: not readable, not PEM, a key of another certificate, open to others.
    package init(_ role: Role, _ options: TLSOptions) throws(TLSContextError) {
        self.role = role
        self.options = options
        TLSErrors.clear()
        guard let raw = SSL_CTX_new(role == .server ? TLS_server_method() : TLS_client_method()) else {
            throw TLSContextError(reason: TLSErrors.take() ?? "out of memory")
        }
        self.raw = raw
        mark = try Self.mark(of: options)
        godwit_context_common(raw)
        if godwit_context_versions(raw, options.least.number, options.most.number) != 1 {
            throw TLSContextError(reason: "no TLS version from \(options.least.rawValue) to \(options.most.rawValue)")
        }
        if !options.ciphers.isEmpty && SSL_CTX_set_cipher_list(raw, options.ciphers) != 1 {
            _ = TLSErrors.take()
            throw TLSContextError(reason: "no cipher in \"\(options.ciphers)\" is known to OpenSSL")
        }
        if !options.cipherSuites.isEmpty && SSL_CTX_set_ciphersuites(raw, options.cipherSuites) != 1 {
            _ = TLSErrors.take()
            throw TLSContextError(reason: "a cipher suite in \"\(options.cipherSuites)\" is not known to OpenSSL")
        }
        try readCertificate()
        try readAuthorities()
        if role == .server {
            if options.isHTTP { godwit_context_serve_http(raw) } else { godwit_context_serve(raw) }
        }
        if options.offersALPN && godwit_context_alpn(raw) != 1 { throw TLSContextError(reason: "out of memory") }
    }

    deinit { SSL_CTX_free(raw) }

    /// When our own certificate is over, in seconds since 1970; nil when we have none.
    package var endsAt: Int64? { SSL_CTX_get0_certificate(raw).map { godwit_ends_at($0) } }

    /// Seconds until our own certificate is over, negative when it is; nil when we have none.
    package var secondsLeft: Int64? { endsAt.map { $0 - Int64(time(nil)) } }

    /// Our own certificate is not valid yet.
    package var isEarly: Bool {
        guard let certificate = SSL_CTX_get0_certificate(raw) else { return false }
        return godwit_has_begun(certificate) == 0
    }

    /// The name our own certificate has.
    package var subject: String? { SSL_CTX_get0_certificate(raw).flatMap { TLSCertificate.subject(of: $0) } }

    // MARK: files

    private func readCertificate() throws(TLSContextError) {
        if options.certificate.isEmpty { return }
        var passphrase = options.passphrase.map { Array($0.utf8CString) }
        let failure = Self.withOptional(&passphrase) { secret -> TLSContextError? in
            godwit_context_passphrase(raw, secret)
            defer { godwit_context_passphrase(raw, nil) }
            if SSL_CTX_use_certificate_chain_file(raw, options.certificate) != 1 {
                return TLSContextError(
                    file: options.certificate, reason: TLSErrors.take(for: "not a certificate in PEM form"))
            }
            if SSL_CTX_use_PrivateKey_file(raw, options.key, SSL_FILETYPE_PEM) != 1 {
                let reason = TLSErrors.take(for: "not a private key in PEM form")
                let isOthers = reason.hasSuffix(": key values mismatch")
                return TLSContextError(file: options.key, reason: isOthers ? mismatch : reason)
            }
            return nil
        }
        if let failure { throw failure }
        if SSL_CTX_check_private_key(raw) != 1 {
            _ = TLSErrors.take()
            throw TLSContextError(file: options.key, reason: mismatch)
        }
    }

    private var mismatch: String { "is not the key of the certificate in \(options.certificate)" }

    private static func withOptional<Result>(
        _ text: inout [CChar]?, _ body: (UnsafeMutablePointer<CChar>?) -> Result
    ) -> Result {
        guard var present = text else { return body(nil) }
        defer { text = nil }
        return present.withUnsafeMutableBufferPointer { body($0.baseAddress) }
    }

    private func readAuthorities() throws(TLSContextError) {
        switch options.authorities {
        case .file(let path):
            if SSL_CTX_load_verify_file(raw, path) != 1 {
                throw TLSContextError(file: path, reason: TLSErrors.take(for: "holds no certificate in PEM form"))
            }
            // Named to clients, so that they find which of their certificates is wanted.
            if role == .server, let names = SSL_load_client_CA_file(path) { SSL_CTX_set_client_CA_list(raw, names) }
        case .system:
            if SSL_CTX_set_default_verify_paths(raw) != 1 {
                throw TLSContextError(reason: TLSErrors.take() ?? "the system has no certificate authorities")
            }
        case nil:
            SSL_CTX_set_verify(raw, SSL_VERIFY_NONE, nil)
            return
        }
        if !options.revocations.isEmpty || !options.revocationsDirectory.isEmpty {
            let file = options.revocations.isEmpty ? nil : options.revocations
            let directory = options.revocationsDirectory.isEmpty ? nil : options.revocationsDirectory
            if godwit_crl_check(raw, file, directory) != 1 {
                throw TLSContextError(
                    file: file ?? directory ?? "", reason: TLSErrors.take(for: "holds no revocation list in PEM form"))
            }
        }
        // A client without a certificate is let in here: who must have one is told so in words, at its login.
        SSL_CTX_set_verify(raw, SSL_VERIFY_PEER, nil)
    }

    /// Reads every file once, to say which one cannot be read and to know when one changed.
    private static func mark(of options: TLSOptions) throws(TLSContextError) -> [UInt8] {
        var paths = [options.certificate, options.key, options.revocations]
        if case .file(let path)? = options.authorities { paths.append(path) }
        if !options.key.isEmpty { try checkAccess(options.key) }
        var mark: [UInt8] = []
        for path in paths where !path.isEmpty {
            var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
            var count: UInt32 = 0
            let bytes = try read(path)
            _ = EVP_Digest(bytes, bytes.count, &digest, &count, EVP_sha256(), nil)
            mark += digest[..<Int(count)]
        }
        for place in places(of: options) { mark += Array(traces(of: place).utf8) }
        return mark
    }

    /// Where OpenSSL looks for what it needs, and keeps what it has found once. They need not be there.
    private static func places(of options: TLSOptions) -> [String] {
        var places = options.revocationsDirectory.isEmpty ? [] : [options.revocationsDirectory]
        guard options.authorities == .system else { return places }
        for (variable, standard) in [
            (X509_get_default_cert_file_env(), X509_get_default_cert_file()),
            (X509_get_default_cert_dir_env(), X509_get_default_cert_dir()),
        ] {
            guard let path = variable.flatMap({ getenv($0) }).map({ UnsafePointer($0) }) ?? standard else { continue }
            places += String(cString: path).split(separator: ":").map(String.init)
        }
        return places
    }

    /// Of a file, or of all that is in a directory: what changes when one of them does.
    private static func traces(of place: String) -> String {
        var names: [String] = []
        if let directory = opendir(place) {
            defer { closedir(directory) }
            while let entry = readdir(directory) {
                names.append(withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                    tuple.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                })
            }
        }
        return ([""] + names.sorted().filter { $0 != "." && $0 != ".." }).map { name in
            var status = stat()
            guard stat(name.isEmpty ? place : place + "/" + name, &status) == 0 else { return "\(name)\n" }
            let time = "\(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec)"
            return "\(name) \(status.st_ino) \(status.st_size) \(time)\n"
        }.joined()
    }

    /// Bytes of a file of certificates at most.
    package static let fileBytesMax = 16 << 20

    private static func read(_ path: String) throws(TLSContextError) -> [UInt8] {
        guard let file = fopen(path, "rb") else {
            throw TLSContextError(file: path, reason: String(cString: strerror(errno)))
        }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16_384)
        while true {
            let count = fread(&chunk, 1, chunk.count, file)
            if count == 0 { break }
            bytes += chunk[..<count]
            if bytes.count > fileBytesMax {
                throw TLSContextError(file: path, reason: "is larger than \(fileBytesMax) bytes")
            }
        }
        if ferror(file) != 0 { throw TLSContextError(file: path, reason: String(cString: strerror(errno))) }
        return bytes
    }

    /// PostgreSQL's rule: nobody else may read the key, but the group may when root owns it.
    private static func checkAccess(_ path: String) throws(TLSContextError) {
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw TLSContextError(file: path, reason: String(cString: strerror(errno)))
        }
        let forbidden: mode_t = status.st_uid == 0 ? 0o037 : 0o077
        if status.st_mode & forbidden != 0 {
            throw TLSContextError(
                file: path,
                reason: "the private key is open to other users; chmod 0600 it (0640 if root owns it)")
        }
    }
}

/// OpenSSL's queue of errors of the calling thread.
enum TLSErrors {
    static func clear() { ERR_clear_error() }

    /// Empties the queue; the words of its first entry that says something: the cause of the others.
    static func take() -> String? {
        var words: String?
        while true {
            let code = ERR_get_error()
            if code == 0 { return words }
            if words != nil { continue }
            if let reason = ERR_reason_error_string(code) {
                words = String(cString: reason)
            } else if godwit_error_library(code) == ERR_LIB_SYS {
                words = String(cString: strerror(godwit_error_reason(code)))
            }
        }
    }

    /// The same for a file: what PEM calls "no start line" in plainer words.
    static func take(for what: String) -> String {
        guard let words = take() else { return what }
        return words == "no start line" ? what : "\(what): \(words)"
    }
}
