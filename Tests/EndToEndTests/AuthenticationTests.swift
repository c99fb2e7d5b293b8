import TestSupport
import Testing

/// Who may come in, and how Godwit itself comes in at the servers.
@Suite(.serialized) struct AuthenticationTests {
    /// Roles named after the method by which PostgreSQL lets them in, all with the password `right`.
    static let servers = Result {
        let methods: [PostgresCluster.Authentication] = [.trust, .password, .md5, .scramSHA256]
        let servers = try Servers(
            authentication: .trust,
            hbaLines: methods.map { "host all by_\($0.rawValue) 127.0.0.1/32 \($0.rawValue)" })
        for server in [servers.old, servers.new] {
            for method in methods {
                try server.createRole(
                    "by_\(method.rawValue)", password: "right", encryption: method == .md5 ? .md5 : .scramSHA256)
            }
        }
        return servers
    }

    /// What a users file may say of the user `app` with the password `right`.
    enum Secret: String, CaseIterable, Sendable {
        case plain, md5, scram

        func text() throws -> String {
            switch self {
            case .plain: return "right"
            case .md5: return "md5" + (try servers.get().old.psql("SELECT md5('rightapp')"))
            case .scram:
                let stored = "SELECT rolpassword FROM pg_authid WHERE rolname = 'by_scram-sha-256'"
                return try servers.get().old.psql(stored)
            }
        }
    }

    func godwit(method: String, secret: Secret) throws -> GodwitProcess {
        let servers = try Self.servers.get()
        return try servers.godwit("postgres") {
            $0.authMethod = method
            $0.users = "\"app\" \"\((try? secret.text()) ?? "")\"\n\"godwit\" \"right\"\n"
        }
    }

    /// What psql says when it may not come in.
    func refusal(_ godwit: GodwitProcess, user: String, password: String?) throws -> String {
        let conninfo = godwit.conninfo(database: "postgres", user: user, password: password)
        let psql = try ChildProcess(["psql", "-XAtw", "-d", conninfo, "-c", "SELECT 1"])
        #expect(psql.wait() == .code(2))
        return psql.errors.text.replacing("\"\(user)\"", with: "USER").replacing("user=\(user)", with: "USER")
    }

    @Test func `trust lets in without a password`() throws {
        let godwit = try Self.servers.get().godwit("postgres")
        #expect(try godwit.psql("SELECT current_user", database: "postgres") == "app")
    }

    @Test(arguments: [
        ("md5", Secret.plain), ("md5", .md5), ("scram-sha-256", .plain), ("scram-sha-256", .scram),
    ])
    func `the right password opens, and no other`(method: String, secret: Secret) throws {
        let godwit = try godwit(method: method, secret: secret)
        #expect(try godwit.psql("SELECT current_user", database: "postgres", password: "right") == "app")
        #expect(try refusal(godwit, user: "app", password: "wrong").contains("password authentication failed"))
        #expect(try refusal(godwit, user: "app", password: "").isEmpty == false)
        #expect(try godwit.psql("SELECT 1", database: "postgres", password: "right") == "1")
    }

    @Test(arguments: [("md5", Secret.md5), ("scram-sha-256", .scram)])
    func `an unknown user gets the answer of a wrong password`(method: String, secret: Secret) throws {
        let godwit = try godwit(method: method, secret: secret)
        let unknown = try refusal(godwit, user: "nobody", password: "right")
        #expect(unknown == (try refusal(godwit, user: "app", password: "wrong")))
        #expect(unknown.contains("password authentication failed"))
    }

    @Test func `a password that was once right for somebody does not open for another`() throws {
        let godwit = try godwit(method: "scram-sha-256", secret: .plain)
        #expect(try godwit.psql("SELECT 1", database: "postgres", password: "right") == "1")
        #expect(try refusal(godwit, user: "app", password: "right2").contains("password authentication failed"))
    }

    @Test(arguments: [PostgresCluster.Authentication.trust, .password, .md5, .scramSHA256])
    func `Godwit logs in with the password of the connection string`(
        method: PostgresCluster.Authentication
    ) throws {
        let servers = try Self.servers.get()
        let role = "by_\(method.rawValue)"
        let godwit = try servers.godwit("postgres") {
            $0.database.old = servers.old.conninfo(user: role, password: "right")
            $0.database.new = servers.new.conninfo(user: role, password: "right")
        }
        #expect(try godwit.psql("SELECT current_user", database: "postgres") == role)
        // A read on NEW, by the same way in.
        var configuration = GodwitConfiguration([servers.entry("postgres")])
        configuration.database.old = servers.old.conninfo(user: role, password: "right")
        configuration.database.new = servers.new.conninfo(user: role, password: "right")
        configuration.database.readsPercent = "100"
        let reading = try GodwitProcess(configuration)
        #expect(try reading.psql("SELECT length('a') > 0", database: "postgres") == "t")
    }

    @Test(arguments: [PostgresCluster.Authentication.password, .md5, .scramSHA256])
    func `Godwit logs in as the client with the password of the users file`(
        method: PostgresCluster.Authentication
    ) throws {
        let role = "by_\(method.rawValue)"
        let godwit = try Self.servers.get().godwit("postgres") {
            $0.authMethod = "scram-sha-256"
            $0.users = "\"\(role)\" \"right\"\n"
        }
        #expect(try godwit.psql("SELECT current_user", database: "postgres", user: role, password: "right") == role)
    }

    @Test func `a password that the server refuses is a clear error to the client`() throws {
        let servers = try Self.servers.get()
        let godwit = try servers.godwit("postgres") {
            $0.database.old = servers.old.conninfo(user: "by_scram-sha-256", password: "wrong")
            $0.database.pool = ["query_wait_timeout": "1", "server_login_retry": "0.1"]
        }
        #expect(throws: TestFailure.self) { try godwit.psql("SELECT 1", database: "postgres") }
        #expect(!godwit.process.hasEnded)
    }
}
