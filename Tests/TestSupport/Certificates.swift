import Foundation
import Glibc

/// A certificate authority of a test's own, by openssl(1). Its files live as long as the tests. Any thread.
package final class CertificateAuthority: Sendable {
    package enum KeyKind: Sendable {
        case ecdsa, rsa, ed25519

        fileprivate var arguments: [String] {
            switch self {
            case .ecdsa: ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            case .rsa: ["-newkey", "rsa:2048"]
            case .ed25519: ["-newkey", "ed25519"]
            }
        }
    }

    package struct Issued: Sendable {
        /// PEM files; the key may be read by its owner only.
        package let certificate: String
        package let key: String
    }

    package let directory: String
    private let kind: KeyKind
    package var certificate: String { directory + "/ca.crt" }

    package init(_ name: String = "Godwit test authority", _ kind: KeyKind = .ecdsa) throws {
        directory = TestResources.uniquePath("certificates")
        self.kind = kind
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try ChildProcess.run(
            ["openssl", "req", "-x509"] + kind.arguments + [
                "-nodes", "-keyout", directory + "/ca.key", "-out", certificate, "-subj", "/CN=\(name)", "-days", "30",
            ])
    }

    /// - Parameter names: as openssl(1) has them: `DNS:localhost,IP:127.0.0.1`; empty: none.
    /// - Parameter days: 0: it is over at once.
    /// - Parameter digest: of the signature.
    package func issue(
        _ commonName: String, names: String = "", days: Int = 30, kind: KeyKind = .ecdsa, digest: String = "sha256"
    ) throws -> Issued {
        let base = TestResources.uniquePath("certificate")
        try ChildProcess.run(
            ["openssl", "req"] + kind.arguments + [
                "-nodes", "-keyout", base + ".key", "-out", base + ".csr", "-subj", "/O=Godwit/CN=\(commonName)",
            ])
        let extensions = base + ".ext"
        let lines = "basicConstraints=CA:FALSE\n" + (names.isEmpty ? "" : "subjectAltName=\(names)\n")
        try lines.write(toFile: extensions, atomically: false, encoding: .utf8)
        let signature = self.kind == .ed25519 ? [] : ["-\(digest)"]
        try ChildProcess.run(
            ["openssl", "x509", "-req", "-in", base + ".csr", "-CA", certificate, "-CAkey", directory + "/ca.key"]
                + signature + [
                    "-set_serial", "\(UInt32.random(in: 1...UInt32.max))", "-days", "\(days)", "-extfile", extensions,
                    "-out", base + ".crt",
                ])
        chmod(base + ".key", 0o600)
        return Issued(certificate: base + ".crt", key: base + ".key")
    }
}
