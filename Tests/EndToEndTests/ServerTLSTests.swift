import Foundation
import Glibc
import TestSupport
import Testing

/// TLS between Godwit and the databases, with libpq's words in the connection strings.
@Suite(.serialized) struct ServerTLSTests {
    struct Fixture {
        let authority: CertificateAuthority
        let stranger: CertificateAuthority
        let certificate: CertificateAuthority.Issued
        let client: CertificateAuthority.Issued
        /// With TLS, and without.
        let secured: PostgresCluster
        let plain: PostgresCluster

        init() throws {
            authority = try CertificateAuthority()
            stranger = try CertificateAuthority("stranger")
            certificate = try authority.issue("db.example", names: "DNS:localhost,DNS:*.db.example")
            client = try authority.issue("by_cert")
            var options = PostgresCluster.Options()
            options.certificate = certificate
            options.clientAuthority = authority.certificate
            options.hbaLines = [
                "hostssl all by_tls 127.0.0.1/32 trust", "hostnossl all by_plain 127.0.0.1/32 trust",
                "hostssl all by_cert 127.0.0.1/32 cert", "host all by_scram 127.0.0.1/32 scram-sha-256",
                "host all by_md5 127.0.0.1/32 md5", "host all by_tls,by_plain 127.0.0.1/32 reject",
            ]
            secured = try PostgresCluster(.old15, options)
            plain = try PostgresCluster(.new18)
            for server in [secured, plain] {
                for role in ["app", "by_tls", "by_plain", "by_cert"] { try server.createRole(role) }
                try server.createRole("by_scram", password: "right")
                try server.createRole("by_md5", password: "right", encryption: .md5)
            }
        }
    }

    static let fixture = Result { try Fixture() }
    static let isEncrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"

    let fixture: Fixture

    init() throws { fixture = try Self.fixture.get() }

    /// - Parameter patience: seconds; whoever is not let in is told why behind them.
    func godwit(
        _ server: PostgresCluster, _ words: String, user: String? = nil, password: String? = nil, patience: Int = 30,
        _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        let conninfo = server.conninfo(user: user, password: password)
            .replacing("host=127.0.0.1", with: "host=localhost hostaddr=127.0.0.1") + " " + words
        var database = GodwitConfiguration.Database(name: "postgres", old: conninfo, new: conninfo)
        database.controlOld = server.conninfo(user: PostgresCluster.superuser)
        database.controlNew = database.controlOld
        database.pool = ["query_wait_timeout": "\(patience)", "server_login_retry": "0.1"]
        var configuration = GodwitConfiguration([database])
        change(&configuration)
        return try GodwitProcess(configuration)
    }

    /// What psql prints, or what it says against it.
    func outcome(_ godwit: GodwitProcess, _ sql: String = isEncrypted) throws -> String {
        let psql = try ChildProcess(
            ["psql", "-XAtw", "-d", godwit.conninfo(database: "postgres"), "-c", sql])
        return psql.wait() == .code(0) ? psql.output.text.trimmingCharacters(in: .newlines) : psql.errors.text
    }

    // MARK: modes

    @Test(arguments: [
        ("", "t"), ("sslmode=disable", "f"), ("sslmode=allow", "f"), ("sslmode=prefer", "t"), ("sslmode=require", "t"),
        ("sslmode=verify-ca sslrootcert=ROOT", "t"), ("sslmode=verify-full sslrootcert=ROOT", "t"),
        ("sslmode=verify-full sslrootcert=ROOT host=a.db.example", "t"),
        ("sslmode=require sslsni=0 ssl_min_protocol_version=TLSv1.3", "t"),
        ("sslmode=require ssl_max_protocol_version=TLSv1.2", "t"),
        // As libpq: with an authority at hand require verifies, and prefer goes on without TLS when that fails.
        ("sslmode=require sslrootcert=ROOT", "t"), ("sslmode=prefer sslrootcert=STRANGER", "f"),
    ])
    func `a server with TLS is reached as libpq's modes say`(words: String, isEncrypted: String) throws {
        let words = words.replacing("ROOT", with: fixture.authority.certificate)
            .replacing("STRANGER", with: fixture.stranger.certificate)
        #expect(try outcome(try godwit(fixture.secured, words)) == isEncrypted)
    }

    @Test func `an encrypted server goes from one thread to another`() throws {
        let godwit = try godwit(fixture.secured, "sslmode=require", user: "by_tls") {
            $0.threads = 3
            $0.databases[0].pool = ["size": "1"]
        }
        let clients = try (0..<6).map { _ in try WireClient(port: godwit.port, database: "postgres") }
        let who = "SELECT pid || ' ' || ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        let one = try #require(try clients[0].value(who))
        #expect(one.hasSuffix(" true"))
        for _ in 0..<3 {
            for client in clients {
                #expect(try client.value(who) == one)
                // More than one of TLS's records, there and back.
                let long = "SELECT repeat('x', 100000) || '\(String(repeating: "y", count: 50_000))'"
                #expect(try client.value(long)?.count == 150_000)
            }
        }
    }

    @Test(arguments: [("disable", true), ("allow", true), ("prefer", true), ("require", false)])
    func `a server without TLS is reached where TLS is not required`(mode: String, isReached: Bool) throws {
        let godwit = try godwit(fixture.plain, "sslmode=\(mode)", patience: isReached ? 30 : 3)
        let outcome = try outcome(godwit, "SELECT 1")
        #expect((outcome == "1") == isReached, "\(outcome)")
        if !isReached { #expect(outcome.contains("server does not support SSL, but SSL was required")) }
    }

    @Test(arguments: [
        ("by_tls", "allow", "t"), ("by_tls", "prefer", "t"), ("by_tls", "disable", nil),
        ("by_plain", "allow", "f"), ("by_plain", "prefer", "f"), ("by_plain", "require", nil),
    ] as [(String, String, String?)])
    func `a login that is refused one way is tried the other way`(
        role: String, mode: String, isEncrypted: String?
    ) throws {
        let patience = isEncrypted == nil ? 3 : 30
        let outcome = try outcome(try godwit(fixture.secured, "sslmode=\(mode)", user: role, patience: patience))
        if let isEncrypted {
            #expect(outcome == isEncrypted)
        } else {
            #expect(outcome.contains("pg_hba.conf"), "\(outcome)")
        }
    }

    @Test func `a certificate that will not do is named with the reason, and the clients are told`() throws {
        let root = fixture.authority.certificate
        for (words, reason) in [
            ("sslmode=verify-full sslrootcert=\(root) host=other.example",
                "the server's certificate is for \"localhost\", \"*.db.example\", not for host \"other.example\""),
            ("sslmode=verify-full sslrootcert=\(root) host=127.0.0.1", "not for host \"127.0.0.1\""),
            ("sslmode=verify-ca sslrootcert=\(fixture.stranger.certificate)",
                "TLS: certificate verify failed: self-signed certificate in certificate chain"),
            ("sslmode=verify-full sslrootcert=system", "TLS: certificate verify failed"),
        ] {
            let godwit = try godwit(fixture.secured, words, patience: 3)
            #expect(try outcome(godwit).contains(reason), "\(words)")
            #expect(godwit.log.text.contains(reason))
        }
    }

    @Test func `a certificate that is over is told of, and one that follows it is taken without a restart`() throws {
        var options = PostgresCluster.Options()
        options.certificate = try fixture.authority.issue("localhost", names: "DNS:localhost", days: 0)
        let server = try PostgresCluster(.old15, options)
        try server.createRole("app")
        let words = "sslmode=verify-full sslrootcert=\(fixture.authority.certificate)"
        let godwit = try godwit(server, words, patience: 5)
        #expect(try outcome(godwit).contains("TLS: certificate verify failed: certificate has expired"))
        try server.changeCertificate(fixture.certificate)
        #expect(try outcome(godwit) == "t")
    }

    @Test(arguments: [
        ("sslmode=nonsense", "invalid sslmode value"),
        ("sslmode=verify-full", "needs the server's authority"),
        ("sslmode=verify-ca sslrootcert=/nonexistent/root.crt", "/nonexistent/root.crt: No such file or directory"),
        ("sslmode=require sslrootcert=system", "weak sslmode \"require\" may not be used with sslrootcert=system"),
        ("sslmode=prefer sslnegotiation=direct", "weak sslmode \"prefer\" may not be used with sslnegotiation=direct"),
        ("sslmode=disable channel_binding=require", "channel_binding=require needs TLS"),
        ("sslmode=require ssl_min_protocol_version=SSLv3", "invalid ssl_min_protocol_version value"),
        ("sslmode=require sslcert=/nonexistent/c sslkey=/nonexistent/k", "No such file or directory"),
    ])
    func `words that make no sense end the start with the reason`(words: String, reason: String) throws {
        let conninfo = fixture.secured.conninfo() + " " + words
        let configuration = GodwitConfiguration([.init(name: "postgres", old: conninfo, new: conninfo)])
        let file = try GodwitProcess.makeDirectory(configuration) + "/godwit.yaml"
        let process = try GodwitProcess.command(["serve", "--config", file])
        #expect(process.wait() == .code(2))
        #expect(process.errors.text.contains("databases.postgres.old: "))
        #expect(process.errors.text.contains(reason), "\(process.errors.text)")
    }

    @Test func `check names our certificate, tells that it ends soon, and refuses one that cannot be used`() throws {
        let soon = try fixture.authority.issue("by_cert", days: 9)
        func check(_ key: String) throws -> ChildProcess {
            let conninfo = fixture.secured.conninfo(user: PostgresCluster.superuser)
                + " sslmode=require sslcert=\(soon.certificate) sslkey=\(key)"
            let configuration = GodwitConfiguration([.init(name: "postgres", old: conninfo, new: conninfo)])
            let file = try GodwitProcess.makeDirectory(configuration) + "/godwit.yaml"
            return try GodwitProcess.command(["check", "--config", file])
        }
        let good = try check(soon.key)
        // 1: OLD and NEW are one database here, which is a problem of another kind.
        #expect(good.wait() == .code(1), "\(good.errors.text)")
        #expect(good.output.text.contains("databases.postgres.old: certificate CN=by_cert,O=Godwit from"))
        #expect(good.output.text.contains("expires in "))
        let bad = try check(fixture.client.key)
        #expect(bad.wait() == .code(2))
        #expect(bad.errors.text.contains("databases.postgres.old: \(fixture.client.key): is not the key"))
    }

    // MARK: who we are

    @Test func `a certificate of ours opens the server`() throws {
        let ours = "sslmode=require sslcert=\(fixture.client.certificate) sslkey=\(fixture.client.key)"
        let godwit = try godwit(fixture.secured, ours, user: "by_cert")
        #expect(try outcome(godwit, "SELECT current_user") == "by_cert")
        let without = try self.godwit(fixture.secured, "sslmode=require", user: "by_cert", patience: 3)
        #expect(try outcome(without).contains("valid client certificate"))
    }

    @Test(arguments: [
        ("by_scram", "sslmode=require channel_binding=require", nil),
        ("by_scram", "sslmode=require channel_binding=disable", nil),
        ("by_scram", "sslmode=require", nil), ("by_scram", "sslmode=disable", nil),
        ("by_scram", "sslmode=prefer channel_binding=require", nil),
        ("by_md5", "sslmode=require channel_binding=require", "channel binding is required"),
        ("app", "sslmode=require channel_binding=require", "channel binding is required"),
    ] as [(String, String, String?)])
    func `the password is bound to the channel as channel_binding says`(
        role: String, words: String, reason: String?
    ) throws {
        let patience = reason == nil ? 30 : 3
        let godwit = try godwit(fixture.secured, words, user: role, password: "right", patience: patience)
        let outcome = try outcome(godwit, "SELECT current_user")
        if let reason { #expect(outcome.contains(reason), "\(outcome)") } else { #expect(outcome == role) }
    }

    // MARK: what passes through

    @Test(arguments: ["sslmode=require", "sslmode=require ssl_max_protocol_version=TLSv1.2"])
    func `psycopg copies 100 MB each way through TLS on both legs, pipelines and cancels`(words: String) throws {
        let godwit = try godwit(fixture.secured, words) {
            $0.tls = [
                "mode": "require", "certificate": fixture.certificate.certificate, "key": fixture.certificate.key,
            ]
            $0.database.pool = ["size": "2"]
        }
        let conninfo = godwit.conninfo(database: "postgres").replacing("sslmode=disable", with: "sslmode=require")
        #expect(try runDriver("psycopg3_tls", [conninfo, "tls"]) == "ok\n")
    }

    @Test func `SHOW SERVERS tells what encrypts a connection`() throws {
        let godwit = try godwit(fixture.secured, "sslmode=require")
        #expect(try outcome(godwit, "SELECT 1") == "1")
        #expect(try godwit.console("SHOW SERVERS").first?["tls"]?.hasPrefix("TLSv1.3/") == true)
    }

    /// Where PostgreSQL itself has no direct TLS, another Godwit does.
    @Test func `direct TLS reaches a server that speaks it, queries and cancels`() throws {
        let certificate = fixture.certificate
        let inner = try godwit(fixture.secured, "sslmode=require") {
            $0.tls = ["mode": "require", "certificate": certificate.certificate, "key": certificate.key]
            $0.database.pool = ["size": "3"]
        }
        let conninfo = "host=localhost hostaddr=127.0.0.1 port=\(inner.port) dbname=postgres sslnegotiation=direct "
            + "sslmode=verify-full sslrootcert=\(fixture.authority.certificate)"
        var database = GodwitConfiguration.Database(name: "postgres", old: conninfo, new: conninfo)
        database.controlOld = fixture.secured.conninfo(user: PostgresCluster.superuser)
        database.controlNew = database.controlOld
        database.pool = ["size": "2", "query_wait_timeout": "30"]
        let outer = try GodwitProcess(GodwitConfiguration([database]))
        let plain = outer.conninfo(database: "postgres")
        #expect(try outcome(outer, "SELECT 'through both'") == "through both")
        #expect(try outer.console("SHOW SERVERS").first?["tls"]?.hasPrefix("TLSv1.3/") == true)
        #expect(try runDriver("psycopg3_tls", [plain, "plain"]) == "ok\n")
        // A server that knows only the old way: libpq says so too.
        let older = try godwit(fixture.secured, "sslmode=require sslnegotiation=direct", patience: 3)
        #expect(try outcome(older).contains("cannot connect to old at localhost"))
    }

    // MARK: servers that misbehave

    /// A server of one port that answers SSLRequest with these bytes and then closes.
    func outcome(ofAnswer bytes: [UInt8], _ words: String) throws -> String {
        let listener = try OneAnswerServer(bytes)
        let conninfo = "host=127.0.0.1 port=\(listener.port) dbname=postgres \(words)"
        var database = GodwitConfiguration.Database(name: "postgres", old: conninfo, new: conninfo)
        database.pool = ["query_wait_timeout": "2", "server_login_retry": "0.1"]
        return try outcome(try GodwitProcess(GodwitConfiguration([database])), "SELECT 1")
    }

    @Test func `what a server says before TLS is not believed`() throws {
        let error = Array("ESFATAL\0C28P01\0Mgive me your password\0\0".utf8)
        for (bytes, reason) in [
            (Array("SR\0\0\0\u{8}\0\0\0\0".utf8), "received unencrypted data after SSL response"),
            (error, "server sent an error response during SSL exchange"),
            (Array("?".utf8), "received invalid response to SSL negotiation"),
            (Array("NZ".utf8), "received data that was not asked for after SSL response"),
            ([], "the server closed the connection"),
        ] {
            let outcome = try outcome(ofAnswer: bytes, "sslmode=prefer")
            #expect(outcome.contains(reason), "\(outcome)")
            #expect(!outcome.contains("give me"))
        }
    }

    // MARK: reload

    @Test func `certificates of ours and the authority's are read again by a reload, and nobody is dropped`() throws {
        let root = TestResources.uniquePath("root") + ".crt"
        func install(_ authority: CertificateAuthority) throws {
            try String(contentsOfFile: authority.certificate, encoding: .utf8)
                .write(toFile: root, atomically: false, encoding: .utf8)
        }
        try install(fixture.authority)
        let conninfo = fixture.secured.conninfo().replacing("127.0.0.1", with: "localhost hostaddr=127.0.0.1")
            + " sslmode=verify-full sslrootcert=\(root)"
        var database = GodwitConfiguration.Database(name: "postgres", old: conninfo, new: conninfo)
        database.pool = ["query_wait_timeout": "5", "server_login_retry": "0.1"]
        let configuration = GodwitConfiguration([database])
        let godwit = try GodwitProcess(configuration)
        let open = try WireClient(port: godwit.port, database: "postgres")
        _ = try open.query("BEGIN")
        let backend = try open.value("SELECT pg_backend_pid()")

        try install(fixture.stranger)
        #expect(try godwit.reload(configuration).contains { $0.contains("reload taken") })
        #expect(try open.value("SELECT pg_backend_pid()") == backend)
        #expect(try outcome(godwit).contains("certificate verify failed"))
        try "no PEM\n".write(toFile: root, atomically: false, encoding: .utf8)
        let refused = try godwit.reload(configuration)
        #expect(refused.contains { $0.contains("reload refused") && $0.contains("databases.postgres.old: \(root)") })
        try install(fixture.authority)
        #expect(try godwit.reload(configuration).contains { $0.contains("reload taken") })
        #expect(try outcome(godwit) == "t")
        #expect(try open.value("SELECT pg_backend_pid()") == backend)
        _ = try open.query("COMMIT")
    }
}

/// Listens on a port of 127.0.0.1, reads a little from whoever connects, answers the same bytes to each, and closes.
final class OneAnswerServer: Sendable {
    let port: UInt16
    private let descriptor: CInt

    init(_ answer: [UInt8]) throws {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isBound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && listen(descriptor, 16) == 0
                    && getsockname(descriptor, $0, &length) == 0
            }
        }
        guard isBound else { throw TestFailure("no port to listen on: errno \(errno)") }
        port = UInt16(bigEndian: address.sin_port)
        self.descriptor = descriptor
        Thread {
            while true {
                let peer = accept(descriptor, nil, nil)
                if peer < 0 { return }
                var request = [UInt8](repeating: 0, count: 64)
                _ = recv(peer, &request, request.count, 0)
                if !answer.isEmpty { _ = send(peer, answer, answer.count, CInt(MSG_NOSIGNAL)) }
                close(peer)
            }
        }.start()
    }

    deinit {
        shutdown(descriptor, CInt(SHUT_RDWR))  // ends accept
        close(descriptor)
    }
}
