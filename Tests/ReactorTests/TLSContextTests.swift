import Foundation
import Glibc
import Reactor
import TestSupport
import Testing

@Suite struct TLSContextTests {
    private func error(_ change: (inout TLSOptions) throws -> Void) throws -> TLSContextError? {
        var options = try TestCertificates.serverOptions()
        try change(&options)
        do throws(TLSContextError) {
            _ = try TLSContext(.server, options)
            return nil
        } catch {
            return error
        }
    }

    @Test func `a file that is not there, not PEM or another's is named with the reason`() throws {
        let nowhere = "/nonexistent/file"
        let text = try TestResources.file("text", "no PEM\n")
        chmod(text, 0o600)
        let other = try TestCertificates.client.get().key
        #expect(try error { $0.certificate = nowhere } == TLSContextError(file: nowhere, reason: "No such file or directory"))
        #expect(try error { $0.key = nowhere }?.file == nowhere)
        #expect(try error { $0.authorities = .file(nowhere) }?.file == nowhere)
        let noPEM = TLSContextError(file: text, reason: "not a certificate in PEM form")
        #expect(try error { $0.certificate = text } == noPEM)
        #expect(try error { $0.key = text }?.reason.hasPrefix("not a private key in PEM form") == true)
        #expect(try error { $0.authorities = .file(text) }?.file == text)
        let certificate = try TestCertificates.server.get().certificate
        let mismatch = TLSContextError(file: other, reason: "is not the key of the certificate in \(certificate)")
        #expect(try error { $0.key = other } == mismatch)
    }

    @Test func `a key that others may read is refused`() throws {
        let key = try TestCertificates.authority.get().issue("open").key
        chmod(key, 0o644)
        #expect(try error { $0.key = key }?.reason.contains("open to other users") == true)
    }

    @Test func `an encrypted key needs its passphrase, and nobody is asked for it`() throws {
        let issued = try TestCertificates.authority.get().issue("locked")
        let locked = TestResources.uniquePath("locked") + ".key"
        try ChildProcess.run(["openssl", "pkey", "-in", issued.key, "-aes128", "-passout", "pass:secret", "-out", locked])
        chmod(locked, 0o600)
        func outcome(_ passphrase: String?) throws -> TLSContextError? {
            try error {
                $0.certificate = issued.certificate
                $0.key = locked
                $0.passphrase = passphrase
            }
        }
        #expect(try outcome("secret") == nil)
        #expect(try outcome(nil)?.file == locked)
        #expect(try outcome("wrong")?.file == locked)
    }

    @Test func `ciphers that nobody knows are refused`() throws {
        #expect(try error { $0.ciphers = "NOT-A-CIPHER" } != nil)
        #expect(try error { $0.cipherSuites = "NOT-A-SUITE" } != nil)
        #expect(try error { $0.ciphers = "ECDHE+AESGCM" } == nil)
        #expect(try error { $0.cipherSuites = "TLS_AES_128_GCM_SHA256" } == nil)
    }

    @Test func `equal files have equal marks, and the end of a certificate is known`() throws {
        let first = try TLSContext(.server, TestCertificates.serverOptions())
        let again = try TLSContext(.server, TestCertificates.serverOptions())
        #expect(first.mark == again.mark)
        #expect(first.mark != (try TLSContext(.client, TestCertificates.clientOptions())).mark)
        let seconds = try #require(first.secondsLeft)
        #expect(seconds > 29 * 86_400 && seconds <= 30 * 86_400)
        #expect(!first.isEarly)
        #expect(try TLSContext(.client, TestCertificates.clientOptions()).secondsLeft == nil)
    }

    @Test func `what changes in a directory of revocation lists, or in the system's store, changes the mark`() throws {
        let directory = TestResources.uniquePath("revocations")
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        var options = try TestCertificates.clientOptions()
        options.revocationsDirectory = directory
        func mark() throws -> [UInt8] { try TLSContext(.client, options).mark }
        func write(_ text: String, to name: String) throws {
            try text.write(toFile: directory + "/" + name, atomically: true, encoding: .utf8)
        }
        var marks = [try mark()]
        try write("one", to: "12345678.r0")
        marks.append(try mark())
        #expect(try mark() == marks[1])
        try write("two", to: "12345678.r0")
        marks.append(try mark())
        try write("one", to: "12345678.r1")
        marks.append(try mark())
        #expect(Set(marks).count == 4)
        options.revocationsDirectory = ""
        let without = try mark()
        options.authorities = .system
        #expect(try mark() != without && mark() == mark() && !mark().isEmpty)
    }
}
