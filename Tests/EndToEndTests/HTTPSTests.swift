import Foundation
import TestSupport
import Testing

/// HTTP within TLS: who is answered, with which certificate, and what is refused.
@Suite(.serialized) struct HTTPSTests {
    let tests: MigrationTests
    let authority: CertificateAuthority

    init() throws {
        tests = try MigrationTests()
        authority = try CertificateAuthority()
    }

    private func issue(_ name: String = "godwit", names: String = "DNS:localhost,IP:127.0.0.1") throws
        -> CertificateAuthority.Issued
    {
        try authority.issue(name, names: names)
    }

    private func tls(_ issued: CertificateAuthority.Issued) -> String {
        "{certificate: \(issued.certificate), key: \(issued.key)}"
    }

    private func configuration(_ http: [String: String]) throws -> GodwitConfiguration {
        let database = try tests.servers.makeDatabase(MigrationTests.schema)
        var configuration = GodwitConfiguration([tests.servers.entry(database)])
        configuration.http = http.merging(["token_file": "DIRECTORY/token"]) { $1 }
        configuration.files["token"] = MigrationDrive.token
        return configuration
    }

    private func curl(_ path: String, _ port: UInt16, _ words: [String] = []) throws -> (ChildProcess.Exit, String) {
        let process = try ChildProcess(
            ["curl", "-sS", "--noproxy", "*", "-H", "Authorization: Bearer \(MigrationDrive.token)"] + words
                + ["https://localhost:\(port)\(path)"])
        return (process.wait(), process.output.text + process.errors.text)
    }

    @Test func `who trusts the authority is answered over TLS, and nobody in plain`() throws {
        let port = try FreePort.find()
        let godwit = try GodwitProcess(try configuration(["port": "\(port)", "tls": tls(try issue())]))
        try godwit.log.waitForLine(containing: "HTTPS on 127.0.0.1:\(port)")
        let trust = ["--cacert", authority.certificate]
        let answer = try curl("/healthz", port, trust + ["-w", "%{http_version} %{ssl_verify_result}"])
        #expect(answer.0 == .code(0) && answer.1 == "ok\n1.1 0", "\(answer.1)")
        let (status, metrics) = try curl("/metrics", port, trust)
        #expect(status == .code(0) && metrics.contains("process_resident_memory_bytes"))
        #expect(try curl("/healthz", port).0 == .code(60), "an authority that nobody trusts")
        #expect(try curl("/healthz", port, trust + ["--tls-max", "1.1"]).0 != .code(0))
        // Two requests on one connection.
        let both = try ChildProcess.run([
            "curl", "-sS", "--noproxy", "*", "--cacert", authority.certificate, "https://localhost:\(port)/healthz",
            "https://localhost:\(port)/healthz", "-w", "%{num_connects} ",
        ])
        #expect(both == "ok\n1 ok\n0 ")
        // In plain, in mid-handshake, and silent: nobody is answered, and others are.
        let silent = try (0..<100).map { _ in try HTTPExchange(port: port) }
        let begun = try (0..<20).map { _ in try HTTPExchange(port: port).send("\u{16}\u{3}\u{1}\u{2}") }
        let plain = try HTTPExchange(port: port).send("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        #expect(throws: TestFailure.self) { try plain.answer() }
        #expect(try curl("/readyz", port, trust).0 == .code(0))
        #expect(silent.count + begun.count == 120)
    }

    @Test func `a reload takes a new certificate, and refuses one that is none`() throws {
        let port = try FreePort.find()
        let first = try issue("first"), second = try issue("second")
        var configuration = try configuration(["port": "\(port)", "tls": tls(first)])
        let godwit = try GodwitProcess(configuration)
        func subject() throws -> String {
            try ChildProcess.run([
                "sh", "-c", "echo | openssl s_client -connect 127.0.0.1:\(port) 2>/dev/null | openssl x509 -noout -subject",
            ])
        }
        #expect(try subject().contains("first"))
        // An answer that is under way goes on with what it began with.
        let follow = try ChildProcess([
            "curl", "-sN", "--noproxy", "*", "--cacert", authority.certificate, "-H",
            "Authorization: Bearer \(MigrationDrive.token)", "https://localhost:\(port)/metrics",
        ])
        configuration.http["tls"] = tls(second)
        #expect(try godwit.reload(configuration).contains { $0.contains("admin.http.tls.certificate") })
        #expect(try subject().contains("second"))
        #expect(follow.wait() == .code(0))
        configuration.http["tls"] = "{certificate: \(first.certificate), key: \(second.key)}"
        let refused = try godwit.reload(configuration).joined(separator: "\n")
        #expect(refused.contains("admin.http.tls: \(second.key): is not the key of the certificate"), "\(refused)")
        #expect(try subject().contains("second"))
        // Other bytes under the same names.
        try FileManager.default.removeItem(atPath: second.certificate)
        try FileManager.default.removeItem(atPath: second.key)
        let third = try issue("third")
        try FileManager.default.moveItem(atPath: third.certificate, toPath: second.certificate)
        try FileManager.default.moveItem(atPath: third.key, toPath: second.key)
        configuration.http["tls"] = tls(second)
        try godwit.reload(configuration)
        try godwit.log.waitForLine(containing: "TLS of HTTP: certificate CN=third")
        #expect(try subject().contains("third"))
        let end = try ChildProcess.run([
            "sh", "-c", "date -d \"$(openssl x509 -noout -enddate -in \(second.certificate) | cut -d= -f2)\" +%s",
        ])
        let metrics = try curl("/metrics", port, ["--cacert", authority.certificate]).1
        let sample = "godwit_tls_certificate_expiry_timestamp_seconds{key=\"admin.http.tls\"} \(end.trimmingCharacters(in: .newlines))\n"
        #expect(metrics.contains(sample), "\(metrics)")
    }

    @Test func `the command line speaks https, and asks for proof`() throws {
        let good = try issue()
        let drive = try tests.drive { $0.http = ["tls": tls(good)] }
        let path = try TestResources.file("manifest", tests.manifest(drive, "m", MigrationTests.byHand))
        let token = ["--token-file", drive.godwit.directory + "/token"]
        func run(_ words: [String], _ environment: [String: String] = [:]) throws -> (ChildProcess.Exit, String) {
            let process = try ChildProcess([GodwitProcess.executable, "migrate"] + words + token, environment: environment)
            return (process.wait(), process.output.text + process.errors.text)
        }
        let local = "https://127.0.0.1:\(drive.port)"
        let trust = ["--ca", authority.certificate]
        let started = try run(["start", path, "--url", local] + trust)
        #expect(started.0 == .code(0) && started.1.contains("prepare"), "\(started.1)")
        let ofEnvironment = ["GODWIT_CA_FILE": authority.certificate, "GODWIT_URL": "https://localhost:\(drive.port)/"]
        #expect(try run(["status"], ofEnvironment).1.contains("prepare"))
        #expect(try run(["pause", "--reason", "tea"], ofEnvironment).1.contains("tea"))
        let events = try ChildProcess(
            [GodwitProcess.executable, "migrate", "events", "--follow", "--url", local] + trust + token)
        try events.output.waitForLine(containing: "tea")
        #expect(try run(["resume"], ofEnvironment).0 == .code(0))
        try events.output.waitForLine(containing: "resume")
        events.send(9)
        events.wait()
        let other = try CertificateAuthority("Another")
        for words in [[], ["--ca", other.certificate]] {
            let refused = try run(["list", "--url", local] + words)
            #expect(refused.0 == .code(2) && refused.1.contains("certificate verify failed"), "\(refused.1)")
            #expect(refused.1.contains("--ca FILE"))
        }
        let plain = try run(["list", "--url", "http://127.0.0.1:\(drive.port)"])
        #expect(plain.0 == .code(2) && plain.1.contains("https://"), "\(plain.1)")
        #expect(try run(["list", "--url", local, "--ca", drive.godwit.directory + "/none"]).1.contains("--ca"))
    }

    @Test func `a certificate for another host is not taken`() throws {
        let other = try issue("other.example", names: "DNS:other.example")
        let drive = try tests.drive { $0.http = ["tls": tls(other)] }
        let process = try GodwitProcess.command([
            "migrate", "list", "--url", "https://127.0.0.1:\(drive.port)", "--ca", authority.certificate, "--token-file",
            drive.godwit.directory + "/token",
        ])
        #expect(process.wait() == .code(2))
        #expect(process.errors.text.contains("is for \"other.example\", not for \"127.0.0.1\""), "\(process.errors.text)")
    }

    @Test func `tokens pass beyond this machine encrypted only, unless they may`() throws {
        let port = try FreePort.find()
        let configuration = try configuration(["port": "\(port)", "address": "0.0.0.0"])
        let directory = try GodwitProcess.makeDirectory(configuration)
        for command in ["serve", "check"] {
            let process = try GodwitProcess.command([command, "--config", directory + "/godwit.yaml"])
            #expect(process.wait() == .code(2))
            let words = process.output.text + process.errors.text
            #expect(words.contains("admin.http.tls") && words.contains("allow_plain_tokens"), "\(words)")
        }
        for more in [["tls": tls(try issue())], ["allow_plain_tokens": "true"]] {
            var changed = configuration
            changed.http.merge(more) { $1 }
            let godwit = try GodwitProcess(changed)
            try godwit.log.waitForLine(containing: " on 0.0.0.0:\(port), with a token")
            if more["tls"] != nil {
                changed.http["tls"] = nil
                #expect(try godwit.reload(changed).contains { $0.contains("refused") && $0.contains("unencrypted") })
                #expect(try curl("/healthz", port, ["--cacert", authority.certificate]).0 == .code(0))
            }
            godwit.terminate()
        }
        // TEST-NET: nobody is asked.
        let far = try GodwitProcess.command([
            "migrate", "list", "--url", "http://192.0.2.1:9632", "--token-file", directory + "/token",
        ])
        #expect(far.wait() == .code(2) && far.errors.text.contains("--allow-plain-token"), "\(far.errors.text)")
    }

    @Test func `check names the file that is wrong, and a certificate that is over`() throws {
        let good = try issue()
        let over = try authority.issue("godwit", names: "DNS:localhost", days: 0)
        func check(_ tls: String) throws -> (ChildProcess.Exit, String) {
            let directory = try GodwitProcess.makeDirectory(try configuration(["port": "9632", "tls": tls]))
            let process = try GodwitProcess.command(["check", "--offline", "--config", directory + "/godwit.yaml"])
            return (process.wait(), process.output.text + process.errors.text)
        }
        #expect(try check(tls(good)).1.contains("admin.http.tls: certificate CN=godwit"))
        let wrong = try check("{certificate: \(good.certificate), key: \(over.key)}")
        #expect(wrong.0 == .code(2) && wrong.1.contains("is not the key"), "\(wrong.1)")
        let none = try check("{certificate: /nothing/here, key: \(over.key)}")
        #expect(none.0 == .code(2) && none.1.contains("/nothing/here"), "\(none.1)")
        let half = try check("{certificate: \(good.certificate)}")
        #expect(half.0 == .code(2) && half.1.contains("admin.http.tls.key"), "\(half.1)")
        let late = try check(tls(over))
        #expect(late.0 == .code(1) && late.1.contains("admin.http.tls"), "\(late.1)")
    }
}
