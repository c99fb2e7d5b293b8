import Foundation
import TestSupport
import Testing

/// Users that only the database knows: auth_query, and what a client's login opens at the servers.
@Suite(.serialized) struct LookUpTests {
    /// Everybody has to prove himself by SCRAM or md5; `lookup` asks.
    static let servers = Result {
        let servers = try Servers(
            authentication: .scramSHA256, hbaLines: ["host all md5user,everybody 127.0.0.1/32 md5"])
        for server in [servers.old, servers.new] {
            try server.createRole("lookup", password: "ask", attributes: "SUPERUSER")
            try server.createRole("md5user", password: "right", encryption: .md5)
            try server.createRole("expired", password: "right", attributes: "VALID UNTIL '2001-01-01'")
            try server.createRole("lasting", password: "right", attributes: "VALID UNTIL '2101-01-01'")
            try server.createRole("nopassword")
            try server.createRole("nologin", password: "right")
            try server.psql("ALTER ROLE nologin NOLOGIN")
            try server.createRole("different", password: "right")
        }
        try servers.old.psql("ALTER ROLE app PASSWORD 'right'; ALTER ROLE lasting PASSWORD 'right'")
        for role in ["app", "lasting"] {
            let secret = try servers.old.psql("SELECT rolpassword FROM pg_authid WHERE rolname = '\(role)'")
            try servers.new.psql("ALTER ROLE \(role) PASSWORD '\(secret)'")
        }
        return servers
    }

    private func godwit(
        _ database: String = "postgres", _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        let servers = try Self.servers.get()
        return try servers.godwit(database) {
            $0.authMethod = "scram-sha-256"
            $0.users = "\"lookup\" \"ask\"\n\"godwit\" \"console\"\n"
            $0.auth = ["auth_user": "lookup"]
            change(&$0)
        }
    }

    /// What psql says when it may not come in.
    private func refusal(_ godwit: GodwitProcess, user: String, password: String) throws -> String {
        let conninfo = godwit.conninfo(database: "postgres", user: user, password: password)
        let psql = try ChildProcess(["psql", "-XAtw", "-d", conninfo, "-c", "SELECT 1"])
        #expect(psql.wait() == .code(2))
        return psql.errors.text.replacing("\"\(user)\"", with: "USER")
    }

    @Test(arguments: ["app", "lasting"])
    func `a user of the database's logs in, and its proof opens OLD and NEW`(user: String) throws {
        let godwit = try godwit {
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{session: user}]"
        }
        func version() throws -> String? {
            // It is a word of the grammar from 17 on.
            try godwit.psql(
                "SELECT CASE quote_ident('json_table') WHEN 'json_table' THEN 15 ELSE 18 END", database: "postgres",
                user: user, password: "right")
        }
        #expect(try version() == "18", "NEW")
        // What is not surely a read goes to OLD.
        #expect(try godwit.psql(
            "CREATE TEMP TABLE t AS SELECT current_setting('server_version_num')::int / 10000 AS v; SELECT v FROM t",
            database: "postgres", user: user, password: "right") == "15", "OLD")
        #expect(try refusal(godwit, user: user, password: "wrong").contains("password authentication failed"))
    }

    @Test func `md5 secrets are looked up too, and open servers`() throws {
        let godwit = try godwit { $0.authMethod = "md5" }
        #expect(try godwit.psql(
            "SELECT current_user", database: "postgres", user: "md5user", password: "right") == "md5user")
        #expect(try godwit.psql("SELECT current_user", database: "postgres", user: "app", password: "right") == "app")
    }

    @Test func `a plain password opens servers by whatever they ask`() throws {
        let godwit = try godwit { $0.authMethod = "password" }
        for user in ["app", "md5user", "different"] {
            #expect(try godwit.psql(
                "SELECT current_user", database: "postgres", user: user, password: "right") == user)
        }
    }

    @Test(arguments: ["expired", "nopassword", "nologin", "unknown", "x' OR '1'='1", "postgres; --"])
    func `who may not come in is told what one with a wrong password is told`(user: String) throws {
        let godwit = try godwit()
        let client = try WireClient(port: godwit.port)
        client.send(FrameBuilder.startup([("user", user), ("database", "postgres")]))
        #expect(try client.read()?.body.starts(with: [0, 0, 0, 10]) == true)
        if !user.contains(" ") {
            let told = try refusal(godwit, user: user, password: "right")
            #expect(told == (try refusal(godwit, user: "app", password: "wrong")))
        }
        #expect(!godwit.log.text.contains("auth_query in"))
    }

    @Test func `a NEW with another secret is told of in the log, and OLD answers`() throws {
        let godwit = try godwit {
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{session: user}]"
        }
        #expect(try godwit.psql(
            "SELECT CASE quote_ident('json_table') WHEN 'json_table' THEN 15 ELSE 18 END", database: "postgres",
            user: "different", password: "right") == "15")
        try godwit.log.waitForLine(
            containing: "the server has another SCRAM secret for user \"different\" than its client has proven")
    }

    @Test func `an auth_user that SET gives to a database is asked from then on`() throws {
        let godwit = try godwit { $0.auth = [:] }
        #expect(try refusal(godwit, user: "app", password: "right").contains("password authentication failed"))
        _ = try godwit.psql(
            "SET databases.postgres.auth.auth_user = lookup", database: "godwit", user: "godwit", password: "console")
        #expect(try godwit.psql("SELECT current_user", database: "postgres", user: "app", password: "right") == "app")
    }

    @Test func `several rows, and rows of others, are refused and logged`() throws {
        for (query, words) in [
            ("SELECT $1::text, 'right' UNION ALL SELECT $1::text, 'right2'", "gave 2 rows for one user"),
            ("SELECT 'other'::text || left($1, 0), 'right'", "gave another user than was asked for"),
        ] {
            let godwit = try godwit { $0.auth["auth_query"] = "\"\(query)\"" }
            #expect(try refusal(godwit, user: "app", password: "right").contains("password authentication failed"))
            try godwit.log.waitForLine(containing: words)
        }
    }

    @Test func `a query that fails is told clearly, without saying what failed`() throws {
        let query = "SELECT rolname, nowhere FROM pg_authid WHERE rolname = $1"
        let godwit = try godwit { $0.auth["auth_query"] = "\"\(query)\"" }
        let told = try refusal(godwit, user: "app", password: "right")
        #expect(told.contains("cannot look up who may log in: auth_query failed"))
        #expect(!told.contains("nowhere"))
        try godwit.log.waitForLine(containing: "column \"nowhere\" does not exist")
    }

    @Test func `nothing of the client's session reaches the query, and its search_path is pinned`() throws {
        let servers = try Self.servers.get()
        let name = try servers.makeDatabase()
        try servers.old.psql("""
            CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
            CREATE VIEW evil.pg_authid AS SELECT 'app'::name AS rolname, 'stolen'::text AS rolpassword;
            ALTER DATABASE \(name) SET search_path = evil, pg_catalog;
            """, database: name)
        let godwit = try godwit(name) {
            $0.auth["auth_query"] = "\"SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1\""
        }
        let options = "options='-c search_path=evil,pg_catalog'"
        func login(_ password: String) throws -> ChildProcess.Exit {
            let conninfo = godwit.conninfo(database: name, user: "app", password: password)
            return try ChildProcess(["psql", "-XAtw", "-d", "\(conninfo) \(options)", "-c", "SELECT 1"]).wait()
        }
        #expect(try login("stolen") == .code(2))
        #expect(try login("right") == .code(0))
    }

    @Test func `a password that was changed opens soon, however long answers are kept`() throws {
        let servers = try Self.servers.get()
        try servers.old.createRole("changing", password: "before")
        let godwit = try godwit { $0.auth["auth_query_cache"] = "3600" }
        func login(_ password: String) throws -> ChildProcess.Exit {
            let conninfo = godwit.conninfo(database: "postgres", user: "changing", password: password)
            return try ChildProcess(["psql", "-XAtw", "-d", conninfo, "-c", "SELECT 1"]).wait()
        }
        #expect(try login("before") == .code(0))
        try servers.old.psql("ALTER ROLE changing PASSWORD 'after'")
        try waitUntil { try login("after") == .code(0) }
        #expect(try login("before") == .code(2))
    }

    @Test func `a password that is changed in the users' file opens servers for who is there already`() throws {
        let servers = try Self.servers.get()
        for server in [servers.old, servers.new] { try server.createRole("rotating", password: "before") }
        var configuration = GodwitConfiguration([servers.entry("postgres")])
        configuration.authMethod = "scram-sha-256"
        configuration.users = "\"rotating\" \"before\"\n"
        let godwit = try GodwitProcess(configuration)
        let conninfo = godwit.conninfo(database: "postgres", user: "rotating", password: "before")
        let client = try ChildProcess(["psql", "-XAtw", "-d", conninfo], keepsInput: true)
        client.write("SELECT 'first' || pg_backend_pid() * 0;\n")
        try client.output.waitForLine(containing: "first0")
        for server in [servers.old, servers.new] { try server.psql("ALTER ROLE rotating PASSWORD 'after'") }
        try "\"rotating\" \"after\"\n".write(
            toFile: godwit.directory + "/users.txt", atomically: true, encoding: .utf8)
        try godwit.reload(configuration)
        // The next unit needs a new server.
        try servers.old.psql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'rotating'")
        client.write("SELECT 'second' || pg_backend_pid() * 0;\n\\q\n")
        #expect(client.wait() == .code(0))
        #expect(client.output.text.contains("second0"), "\(client.errors.text)")
    }

    @Test func `who has logged in with another password before does not bring it back with its first query`() throws {
        let servers = try Self.servers.get()
        for server in [servers.old, servers.new] { try server.createRole("turning", password: "before") }
        let godwit = try godwit { $0.auth["auth_query_cache"] = "0" }
        func connect(_ password: String) throws -> ChildProcess {
            let conninfo = godwit.conninfo(database: "postgres", user: "turning", password: password)
            let client = try ChildProcess(["psql", "-XAtw", "-d", conninfo], keepsInput: true)
            client.write("\\echo in\n")
            try client.output.waitForLine(containing: "in")
            return client
        }
        // Who is greeted by what the first one's server has told has none of its own.
        let (first, early) = (try connect("before"), try connect("before"))
        for server in [servers.old, servers.new] { try server.psql("ALTER ROLE turning PASSWORD 'after'") }
        let late = try connect("after")
        try servers.old.psql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'turning'")
        for (number, client) in [early, first, late].enumerated() {
            client.write("SELECT 'answer' || \(number) + pg_backend_pid() * 0;\n\\q\n")
            #expect(client.wait() == .code(0))
            #expect(client.output.text.contains("answer\(number)"), "\(client.errors.text)")
        }
    }

    @Test func `a connection of auth_query that was ended is replaced at once`() throws {
        let servers = try Self.servers.get()
        let godwit = try godwit { $0.auth["auth_query_cache"] = "0" }
        for _ in 0..<3 {
            #expect(try godwit.psql("SELECT 1", database: "postgres", password: "right") == "1")
            try servers.old.psql("""
                SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                WHERE application_name = 'godwit auth_query'
                """)
        }
        #expect(!godwit.log.text.contains("auth_query in"))
    }

    @Test func `databases of the entry * are asked for their users, whatever their name`() throws {
        let servers = try Self.servers.get()
        let name = "we'ird \\na\"me=1"
        for server in [servers.old, servers.new] { try server.psql("CREATE DATABASE \"we'ird \\na\"\"me=1\"") }
        var configuration = GodwitConfiguration([
            .init(
                name: "\"*\"", old: "host=127.0.0.1 port=\(servers.old.port)",
                new: "host=127.0.0.1 port=\(servers.new.port)"),
        ])
        configuration.authMethod = "scram-sha-256"
        configuration.users = "\"lookup\" \"ask\"\n"
        configuration.auth = ["auth_user": "lookup"]
        let godwit = try GodwitProcess(configuration)
        let quoted = "'" + name.replacing("\\", with: "\\\\").replacing("'", with: "\\'") + "'"
        let conninfo = godwit.conninfo(database: quoted, user: "app", password: "right")
        let sql = "SELECT current_database()"
        #expect(try ChildProcess.run(["psql", "-XAtw", "-d", conninfo, "-c", sql]) == name + "\n")
        let unknown = try WireClient(port: godwit.port)
        unknown.send(FrameBuilder.startup([("user", "app"), ("database", "no'where")]))
        #expect(try unknown.readToError()?.sqlState == "3D000")
    }

    @Test func `logins of one user at once ask once`() throws {
        let servers = try Self.servers.get()
        let name = try servers.makeDatabase()
        try servers.old.psql("""
            CREATE SEQUENCE asked;
            CREATE FUNCTION ask(name text) RETURNS TABLE (u text, s text) LANGUAGE plpgsql AS $$
            BEGIN
              PERFORM nextval('public.asked'), pg_advisory_xact_lock_shared(7);
              RETURN QUERY SELECT name, 'right'::text;
            END $$;
            """, database: name)
        let godwit = try godwit(name) { $0.auth["auth_query"] = "\"SELECT * FROM public.ask($1)\"" }
        let lock = try ChildProcess(
            ["psql", "-XAt", "-h", servers.old.directory, "-p", "\(servers.old.port)", "-U", "postgres", "-d", name],
            keepsInput: true)
        lock.write("SELECT pg_advisory_lock(7);\nSELECT 'locked';\n")
        try lock.output.waitForLine(containing: "locked")
        let clients = try (0..<20).map { _ in
            let client = try WireClient(port: godwit.port)
            client.send(FrameBuilder.startup([("user", "several"), ("database", name)]))
            return client
        }
        try waitUntil {
            try servers.old.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == "1"
        }
        lock.write("SELECT pg_advisory_unlock(7);\n\\q\n")
        for client in clients { #expect(try client.read()?.type == "R") }
        #expect(try servers.old.psql("SELECT last_value FROM asked", database: name) == "1")
    }

    @Test func `a database that is not there, and one that is down, are told apart`() throws {
        let down = try PostgresCluster(.old15)
        let servers = try Self.servers.get()
        var configuration = GodwitConfiguration([servers.entry("nowhere"), servers.entry("down")])
        configuration.databases[1].old = down.conninfo(database: "postgres")
        configuration.authMethod = "scram-sha-256"
        configuration.users = "\"lookup\" \"ask\"\n"
        configuration.auth = ["auth_user": "lookup"]
        let godwit = try GodwitProcess(configuration)
        try down.stop()
        func state(_ database: String) throws -> String? {
            let client = try WireClient(port: godwit.port)
            client.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
            return try client.readToError()?.sqlState
        }
        #expect(try state("nowhere") == "3D000")
        #expect(try state("down") == "57P03")
        #expect(try state("down") == "57P03")
        #expect(!godwit.process.hasEnded)
    }
}
