import Foundation
import Glibc
import TestSupport
import Testing

/// TLS between applications and Godwit, with the clients that applications have.
@Suite(.serialized) struct ClientTLSTests {
    struct Fixture {
        let authority: CertificateAuthority
        let server: CertificateAuthority.Issued
        let ann: CertificateAuthority.Issued

        init() throws {
            authority = try CertificateAuthority()
            server = try authority.issue("godwit.example", names: "DNS:localhost,DNS:*.godwit.example,IP:127.0.0.1")
            ann = try authority.issue("app")
        }
    }

    static let fixture = Result { try Fixture() }

    let servers: Servers
    let fixture: Fixture

    init() throws {
        servers = try Servers.shared.get()
        fixture = try Self.fixture.get()
    }

    func godwit(
        _ mode: String, _ tls: [String: String] = [:], _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        try servers.godwit("postgres") {
            $0.tls = ["mode": mode, "certificate": fixture.server.certificate, "key": fixture.server.key]
            $0.tls.merge(tls) { _, given in given }
            change(&$0)
        }
    }

    func conninfo(_ godwit: GodwitProcess, _ words: String) -> String {
        "host=localhost hostaddr=127.0.0.1 port=\(godwit.port) dbname=postgres user=app \(words)"
    }

    /// What psql prints, or what it says against it.
    func outcome(_ godwit: GodwitProcess, _ words: String, _ sql: String = "SELECT 1") throws -> String {
        let psql = try ChildProcess(["psql", "-XAtw", "-d", conninfo(godwit, words), "-c", sql])
        return psql.wait() == .code(0) ? psql.output.text.trimmingCharacters(in: .newlines) : psql.errors.text
    }

    // MARK: modes

    @Test(arguments: [
        ("disable", "disable", true), ("disable", "allow", true), ("disable", "prefer", true),
        ("disable", "require", false), ("disable", "verify-full", false),
        ("allow", "disable", true), ("allow", "allow", true), ("allow", "prefer", true), ("allow", "require", true),
        ("allow", "verify-ca", true), ("allow", "verify-full", true),
        ("require", "disable", false), ("require", "allow", true), ("require", "prefer", true),
        ("require", "require", true), ("require", "verify-full", true),
    ])
    func `libpq's modes and ours meet or do not`(ours: String, theirs: String, meet: Bool) throws {
        let godwit = try godwit(ours)
        let root = fixture.authority.certificate
        let outcome = try outcome(godwit, "sslmode=\(theirs) sslrootcert=\(root)")
        #expect((outcome == "1") == meet, "\(outcome)")
    }

    @Test func `without TLS where it is required, one is told what to do`() throws {
        let godwit = try godwit("require")
        let client = try WireClient(port: godwit.port)
        client.send(FrameBuilder.startup([("user", "app"), ("database", "postgres")]))
        let error = try #require(try client.readToError())
        #expect(error.sqlState == "28000")
        #expect(error.fields["S"] == "FATAL")
        #expect(error.fields["H"]?.contains("sslmode=require") == true)
    }

    @Test(arguments: [
        ("host=localhost", true), ("host=a.godwit.example", true), ("host=127.0.0.1", true),
        ("host=godwit.example", false), ("host=a.b.godwit.example", false), ("host=other.example", false),
    ])
    func `psql finds the right names and no others in our certificate`(host: String, isRight: Bool) throws {
        let godwit = try godwit("require")
        let words = "sslmode=verify-full sslrootcert=\(fixture.authority.certificate) \(host)"
        let outcome = try outcome(godwit, words)
        #expect((outcome == "1") == isRight, "\(outcome)")
        if !isRight { #expect(outcome.contains("does not match host name")) }
    }

    @Test(arguments: ["TLSv1.2", "TLSv1.3"])
    func `both versions are spoken, and SHOW CLIENTS tells which`(version: String) throws {
        let godwit = try godwit("allow", ["min_version": version, "max_version": version])
        #expect(try outcome(godwit, "sslmode=require") == "1")
        let other = version == "TLSv1.2" ? "TLSv1.3" : "TLSv1.2"
        let refused = try outcome(godwit, "sslmode=require ssl_min_protocol_version=\(other) "
            + "ssl_max_protocol_version=\(other)")
        #expect(refused.contains("version"), "\(refused)")
        let shown = try ChildProcess.run([
            "psql", "-XAt", "-d", conninfo(godwit, "sslmode=require").replacing("dbname=postgres", with: "dbname=godwit")
                .replacing("user=app", with: "user=godwit"), "-c", "SHOW CLIENTS",
        ])
        #expect(shown.contains("|\(version)/"))
    }

    @Test func `a Unix socket has no TLS and needs none`() throws {
        let directory = TestResources.uniquePath("sockets")
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        var configuration = GodwitConfiguration([servers.entry("postgres")])
        configuration.tls = [
            "mode": "require", "certificate": fixture.server.certificate, "key": fixture.server.key,
        ]
        configuration.port = try FreePort.find()
        configuration.listen = ["unix_socket_directory": directory]
        let godwit = try GodwitProcess(configuration)
        let local = "host=\(directory) port=\(godwit.port) dbname=postgres user=app"
        for mode in ["disable", "prefer", "require"] {
            #expect(try ChildProcess.run(["psql", "-XAt", "-d", "\(local) sslmode=\(mode)", "-c", "SELECT 1"]) == "1\n")
        }
    }

    // MARK: who is it

    @Test func `the channel is bound to the password where the client wants that`() throws {
        for kind in [CertificateAuthority.KeyKind.ecdsa, .rsa] {
            let issued = try fixture.authority.issue("localhost", kind: kind, digest: "sha384")
            let godwit = try godwit("allow", ["certificate": issued.certificate, "key": issued.key]) {
                $0.authMethod = "scram-sha-256"
                $0.users = "\"app\" \"right\"\n"
            }
            for binding in ["require", "prefer", "disable"] {
                let words = "sslmode=require password=right channel_binding=\(binding)"
                #expect(try outcome(godwit, words) == "1")
            }
            #expect(try outcome(godwit, "sslmode=disable password=right channel_binding=prefer") == "1")
            let refused = try outcome(godwit, "sslmode=disable password=right channel_binding=require")
            #expect(refused.contains("channel binding"))
            #expect(try outcome(godwit, "sslmode=require password=wrong").contains("authentication failed"))
        }
    }

    @Test func `certificates of clients are asked for, judged and compared with the user`() throws {
        let authority = fixture.authority
        let stranger = try CertificateAuthority("stranger").issue("app")
        let expired = try authority.issue("app", days: 0)
        let other = try authority.issue("somebody")
        func certificate(_ issued: CertificateAuthority.Issued?) -> String {
            let path = issued.map { "sslcert=\($0.certificate) sslkey=\($0.key)" } ?? "sslcert=/nonexistent"
            return "sslmode=require \(path)"
        }
        let expected: [(mode: String, method: String, none: Bool, ann: Bool, other: Bool)] = [
            ("require", "trust", true, true, true), ("verify-ca", "trust", false, true, true),
            ("verify-full", "trust", false, true, false), ("require", "cert", false, true, false),
            ("allow", "cert", false, true, false),
        ]
        for row in expected {
            let godwit = try godwit(row.mode, ["client_ca": authority.certificate]) { $0.authMethod = row.method }
            let name = "\(row.mode), \(row.method)"
            #expect((try outcome(godwit, certificate(nil)) == "1") == row.none, "\(name)")
            #expect((try outcome(godwit, certificate(fixture.ann)) == "1") == row.ann, "\(name)")
            #expect((try outcome(godwit, certificate(other)) == "1") == row.other, "\(name)")
            // A certificate that is no good is refused also where none is needed.
            #expect(try outcome(godwit, certificate(stranger)) != "1", "\(name)")
            #expect(try outcome(godwit, certificate(expired)) != "1", "\(name)")
            #expect(try outcome(godwit, "sslmode=disable") == "1" ? row.mode == "allow" && row.method == "trust" : true)
        }
        let godwit = try godwit("verify-full", ["client_ca": authority.certificate])
        #expect(try outcome(godwit, certificate(nil)).contains("connection requires a valid client certificate"))
        #expect(try outcome(godwit, certificate(other)).contains("certificate authentication failed for user \"app\""))
    }

    @Test func `a map says which certificate may be which user`() throws {
        let map = try TestResources.file("ident", "m /^(.*)@godwit\\.example$ \\1\nm robot app\n")
        let robot = try fixture.authority.issue("robot")
        let mailed = try fixture.authority.issue("app@godwit.example")
        let godwit = try godwit("require", ["client_ca": fixture.authority.certificate]) {
            $0.authMethod = "cert"
            $0.auth = ["ident_file": map, "ident_map": "m"]
        }
        for (issued, isIn) in [(robot, true), (mailed, true), (fixture.ann, false)] {
            let outcome = try outcome(godwit, "sslmode=require sslcert=\(issued.certificate) sslkey=\(issued.key)")
            #expect((outcome == "1") == isIn, "\(outcome)")
        }
        let other = try outcome(godwit, "sslmode=require sslcert=\(robot.certificate) sslkey=\(robot.key) user=other")
        #expect(other.contains("certificate authentication failed"))
    }

    @Test func `rules of an HBA file tell encrypted clients from others, and certificates by their map`() throws {
        let godwit = try godwit("allow", ["client_ca": fixture.authority.certificate]) {
            $0.authMethod = "hba"
            $0.files = [
                "hba.conf": "hostssl all robot 127.0.0.1/32 cert map=m\nhostssl all app 127.0.0.1/32 trust clientcert=verify-ca\n"
                    + "hostnossl all other 127.0.0.1/32 trust\n",
                "ident.conf": "m app robot\n",
            ]
            $0.auth = ["hba_file": "DIRECTORY/hba.conf", "ident_file": "DIRECTORY/ident.conf"]
        }
        let ours = "sslcert=\(fixture.ann.certificate) sslkey=\(fixture.ann.key)"
        #expect(try outcome(godwit, "sslmode=require \(ours)") == "1")
        #expect(try outcome(godwit, "sslmode=require").contains("valid client certificate"))
        #expect(try outcome(godwit, "sslmode=disable").contains("no pg_hba.conf entry"))
        // The roles are not there in the servers: that they are asked for says that Godwit let them in.
        #expect(try outcome(godwit, "sslmode=require user=robot \(ours)").contains("role \"robot\" does not exist"))
        #expect(try outcome(godwit, "sslmode=disable user=other").contains("role \"other\" does not exist"))
        #expect(try outcome(godwit, "sslmode=require user=other").contains("SSL encryption"))
    }

    @Test func `a certificate that was revoked is refused`() throws {
        let authority = fixture.authority
        let directory = TestResources.uniquePath("revoked")
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let revoked = try authority.issue("app")
        let settings = """
            [ca]
            default_ca = own
            [own]
            database = \(directory)/index
            certificate = \(authority.certificate)
            private_key = \(authority.directory)/ca.key
            default_md = sha256
            default_crl_days = 30
            """
        try settings.write(toFile: directory + "/ca.conf", atomically: false, encoding: .utf8)
        try "".write(toFile: directory + "/index", atomically: false, encoding: .utf8)
        let ca = ["openssl", "ca", "-config", directory + "/ca.conf"]
        try ChildProcess.run(ca + ["-revoke", revoked.certificate])
        try ChildProcess.run(ca + ["-gencrl", "-out", directory + "/list.crl"])
        let godwit = try godwit("require", [
            "client_ca": authority.certificate, "client_crl": directory + "/list.crl",
        ])
        func outcome(_ issued: CertificateAuthority.Issued) throws -> String {
            try self.outcome(godwit, "sslmode=require sslcert=\(issued.certificate) sslkey=\(issued.key)")
        }
        #expect(try outcome(fixture.ann) == "1")
        #expect(try outcome(revoked).contains("revoked"))
    }

    // MARK: drivers

    @Test(arguments: [
        ("sslmode=require", "tls"), ("sslmode=require ssl_max_protocol_version=TLSv1.2", "tls"),
        ("sslmode=require sslnegotiation=direct", "tls"), ("sslmode=disable", "plain"),
    ])
    func `psycopg copies 100 MB each way, pipelines and cancels`(words: String, wanted: String) throws {
        let godwit = try godwit("allow") { $0.database.pool = ["size": "2"] }
        #expect(try runDriver("psycopg3_tls", [conninfo(godwit, words), wanted]) == "ok\n")
        #expect(!godwit.process.hasEnded)
    }

    @Test func `asyncpg comes by TLS`() throws {
        let database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY, v text)")
        let godwit = try servers.godwit(database) {
            $0.tls = ["mode": "require", "certificate": fixture.server.certificate, "key": fixture.server.key]
        }
        let conninfo = godwit.conninfo(database: database).replacing("sslmode=disable", with: "sslmode=require")
        #expect(try runDriver("asyncpg_all", [conninfo]).hasSuffix("ok\n"))
    }

    // MARK: what no driver does

    func hostile(_ godwit: GodwitProcess, _ scene: String) throws -> [String] {
        try runDriver("tls_hostile", ["\(godwit.port)", scene, "postgres"]).split(separator: "\n").map(String.init)
    }

    @Test func `direct TLS needs ALPN, and the alert says so`() throws {
        let godwit = try godwit("allow")
        #expect(try hostile(godwit, "direct") == [
            "['postgresql'] handshake", "['http/1.1'] alert 120", "['h2', 'postgresql'] handshake", "None alert 120",
        ])
        #expect(try hostile(godwit, "alpn-requested") == [
            "['postgresql'] handshake", "['http/1.1'] alert 120", "None handshake",
        ])
    }

    @Test func `who stalls in the handshake is closed at the end of its time`() throws {
        // Enough for the one that does not stall.
        let godwit = try godwit("allow") { $0.listen = ["client_login_timeout": "5"] }
        #expect(try hostile(godwit, "stall") == ["closed"])
        #expect(try outcome(godwit, "sslmode=require") == "1")
    }

    @Test func `garbage instead of TLS ends the connection`() throws {
        let godwit = try godwit("allow")
        #expect(try hostile(godwit, "garbage") == ["closed"])
        #expect(try outcome(godwit, "sslmode=require") == "1")
    }

    @Test func `what was sent with SSLRequest in one piece is refused`() throws {
        let godwit = try godwit("allow")
        let answer = try hostile(godwit, "stuffed").joined()
        #expect(answer.contains("C08P01") && answer.contains("received unencrypted data after SSL request"))
        #expect(!answer.contains("b'S"))
    }

    @Test func `goodbye within TLS ends the connection`() throws {
        let godwit = try godwit("allow")
        #expect(try hostile(godwit, "goodbye") == ["over"])
        #expect(try godwit.console("SHOW CLIENTS").filter { $0["database"] == "postgres" }.isEmpty)
    }

    @Test func `TLS that comes byte by byte is as good`() throws {
        #expect(try hostile(try godwit("allow"), "bytewise") == ["answered"])
    }

    // MARK: reload

    @Test func `a new certificate is taken by a reload, and nobody is dropped`() throws {
        let directory = TestResources.uniquePath("certificate")
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        func install(_ issued: CertificateAuthority.Issued) throws {
            for (from, to) in [(issued.certificate, "server.crt"), (issued.key, "server.key")] {
                let text = try String(contentsOfFile: from, encoding: .utf8)
                try text.write(toFile: "\(directory)/\(to)", atomically: false, encoding: .utf8)
                chmod("\(directory)/\(to)", 0o600)
            }
        }
        let other = try CertificateAuthority("other")
        try install(fixture.server)
        var configuration = GodwitConfiguration([servers.entry("postgres")])
        configuration.tls = [
            "mode": "require", "certificate": directory + "/server.crt", "key": directory + "/server.key",
        ]
        configuration.adminUsers = ["app"]
        let godwit = try GodwitProcess(configuration)
        func isTrusted(by authority: CertificateAuthority) throws -> Bool {
            try outcome(godwit, "sslmode=verify-full sslrootcert=\(authority.certificate)") == "1"
        }
        let open = try ChildProcess(
            ["psql", "-XAtw", "-d", conninfo(godwit, "sslmode=require")], keepsInput: true)
        open.write("SELECT 'before';\n")
        try open.output.waitForLine(containing: "before")
        #expect(try isTrusted(by: fixture.authority))
        #expect(try !isTrusted(by: other))

        try install(try other.issue("new.example", names: "DNS:localhost"))
        #expect(try godwit.reload(configuration).contains { $0.contains("reload taken") })
        #expect(try isTrusted(by: other))
        #expect(try !isTrusted(by: fixture.authority))
        open.write("SELECT 'after';\n")
        try open.output.waitForLine(containing: "after")

        // One that is broken is refused with the reason, by signal and by the console; the old one stays.
        try "no PEM\n".write(toFile: directory + "/server.crt", atomically: false, encoding: .utf8)
        let refused = try godwit.reload(configuration)
        #expect(refused.contains {
            $0.contains("reload refused") && $0.contains(directory + "/server.crt: not a certificate in PEM form")
        })
        let console = conninfo(godwit, "sslmode=require").replacing("dbname=postgres", with: "dbname=godwit")
        let psql = try ChildProcess(["psql", "-XAtw", "-d", console, "-c", "RELOAD"])
        #expect(psql.wait() != .code(0))
        #expect(psql.errors.text.contains("not a certificate in PEM form"))
        #expect(try isTrusted(by: other))
        open.write("SELECT 'still';\n")
        try open.output.waitForLine(containing: "still")

        // Back to the first by the console.
        try install(fixture.server)
        try ChildProcess.run(["psql", "-XAtw", "-d", console, "-c", "RELOAD"])
        #expect(try isTrusted(by: fixture.authority))
    }

    @Test func `a certificate that cannot be used ends the start, and check says why`() throws {
        let other = try fixture.authority.issue("other")
        var configuration = GodwitConfiguration([servers.entry("postgres")])
        configuration.tls = ["mode": "allow", "certificate": fixture.server.certificate, "key": other.key]
        let file = try GodwitProcess.makeDirectory(configuration) + "/godwit.yaml"
        for command in ["serve", "check"] {
            let process = try GodwitProcess.command([command, "--config", file])
            #expect(process.wait() == .code(2))
            #expect(process.errors.text.contains("\(other.key): is not the key of the certificate in"))
        }
    }
}
