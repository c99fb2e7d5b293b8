import Foundation
import TestSupport
import Testing

/// What is written on OLD is on NEW, exactly.
@Suite(.serialized) struct MirrorTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    static let schema = """
        CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, balance numeric, at timestamptz DEFAULT now());
        CREATE TABLE lines (account bigint, number int, what text, PRIMARY KEY (account, number));
        CREATE TABLE "Odd Näme" ("the Key" text PRIMARY KEY, "value's" jsonb, bytes bytea, tags text[])
        """
    static let rows = """
        INSERT INTO accounts SELECT n, 'owner ' || n, n * 1.5 FROM generate_series(1, 20000) n;
        INSERT INTO lines SELECT n % 1000, n, md5(n::text) FROM generate_series(1, 5000) n;
        INSERT INTO "Odd Näme" SELECT 'k' || n, jsonb_build_object('n', n), decode(md5(n::text), 'hex'), ARRAY['a', NULL]
            FROM generate_series(1, 500) n
        """

    func configuration(_ database: String, percent: String = "0") -> GodwitConfiguration {
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        configuration.database.readsPercent = percent
        return configuration
    }

    /// Runs `godwit COMMAND --config F DATABASE ...` to its end.
    func command(_ name: String, _ database: String, _ more: [String] = []) throws -> ChildProcess {
        let directory = try GodwitProcess.makeDirectory(configuration(database))
        return try GodwitProcess.command([name, "--config", directory + "/godwit.yaml", database] + more)
    }

    /// Prepared, serving, and NEW equal to OLD at some snapshot.
    func mirroring(_ database: String, percent: String = "0") throws -> GodwitProcess {
        let prepare = try command("prepare", database)
        try #require(prepare.wait() == .code(0), "\(prepare.output.text)\(prepare.errors.text)")
        let godwit = try GodwitProcess(configuration(database, percent: percent))
        try waitForMirror(godwit, database)
        return godwit
    }

    func waitForMirror(_ godwit: GodwitProcess, _ database: String) throws {
        try waitUntil {
            let row = try godwit.console("SHOW MIRROR").first { $0["database"] == database }
            try #require(row?["state"] != "stopped", "\(row ?? [:])")
            return row?["state"] == "mirroring" && row?["readable"] == "yes"
        }
    }

    /// `verify` of both sides while Godwit serves.
    func expectEqual(_ database: String) throws {
        let verify = try command("verify", database)
        #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
    }

    /// What pg_dump says of a database's objects, without the tokens that it draws anew each time.
    func schema(_ database: String) throws -> String {
        try ChildProcess.run([
            "pg_dump", "--schema-only", servers.old.conninfo(database: database, user: PostgresCluster.superuser),
        ]).split(separator: "\n").filter { !$0.hasPrefix("\\restrict") && !$0.hasPrefix("\\unrestrict") }
            .joined(separator: "\n")
    }

    @Test func `prepare may be run again, and --remove takes all of it away`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let before = try schema(database)
        #expect(try command("prepare", database).wait() == .code(0))
        let prepared = try schema(database)
        #expect(prepared != before)
        #expect(try command("prepare", database).wait() == .code(0))
        #expect(try schema(database) == prepared)
        #expect(try command("prepare", database, ["--remove"]).wait() == .code(0))
        #expect(try schema(database) == before)
        #expect(try command("prepare", database, ["--remove"]).wait() == .code(0))
    }

    @Test(arguments: [
        ("CREATE TABLE a (id int PRIMARY KEY, v text)", "CREATE TABLE a (id int PRIMARY KEY)", "v"),
        ("CREATE TABLE a (id int PRIMARY KEY, v text)", "CREATE TABLE a (id int PRIMARY KEY, v int)", "v"),
        ("CREATE TABLE a (id int PRIMARY KEY, v int)", "CREATE TABLE a (id int, v int PRIMARY KEY)", "a"),
        ("CREATE TABLE missing (id int PRIMARY KEY)", "SELECT 1", "missing"),
        ("CREATE TABLE keyless (id int)", "CREATE TABLE keyless (id int)", "keyless"),
    ])
    func `prepare names what does not match, and touches nothing`(old: String, new: String, name: String) throws {
        let database = try servers.makeDatabase(old: old, new: new)
        let before = try schema(database)
        let prepare = try command("prepare", database)
        #expect(prepare.wait() != .code(0))
        #expect((prepare.output.text + prepare.errors.text).contains(name))
        #expect(try schema(database) == before)
    }

    @Test func `what was there before is copied, and both sides are equal`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database)
        try expectEqual(database)
        #expect(try servers.new.psql("SELECT count(*) FROM accounts", database: database) == "20000")
        let row = try #require(try godwit.console("SHOW MIRROR").first { $0["database"] == database })
        #expect(Int(row["rows_copied"] ?? "").map { $0 >= 25_500 } == true)
    }

    /// It has its triggers, and the mirror does not know of it.
    @Test func `a table that prepare is still at is read on OLD`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try mirroring(database, percent: "100")
        for side in [servers.old, servers.new] {
            try side.psql("""
                SET ROLE app; CREATE TABLE later (id int PRIMARY KEY); CREATE TABLE latest (id int PRIMARY KEY)
                """, database: database)
        }
        try servers.old.psql("INSERT INTO later VALUES (1)", database: database)
        let owner = try WireClient(port: servers.old.port, database: database, user: PostgresCluster.superuser)
        defer { owner.close() }
        _ = try owner.query("BEGIN; LOCK TABLE latest IN SHARE MODE")
        // At work meanwhile, and not run to its end: that comes when it has tried for long enough.
        let prepare = try ChildProcess([
            GodwitProcess.executable, "prepare", "--config", godwit.configurationPath, database,
        ])
        try waitUntil {
            let captured = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'later'::regclass AND tgname = 'godwit_capture'"
            return try servers.old.psql(captured, database: database) == "1"
        }
        // Another one, which the mirror finds, and has the catalog read.
        func readings() -> Int { godwit.log.lines.count { $0.contains("catalog of \"\(database)\" read") } }
        let before = readings()
        try servers.old.psql("CREATE TABLE marker (id int)", database: database)
        waitUntil { readings() > before }
        for number in 0..<5 {
            let client = try WireClient(
                port: godwit.port, database: database, parameters: [("godwit.user", "\(number)")])
            defer { client.close() }
            #expect(try client.query("SELECT count(*) FROM later").first { $0.type == "D" }?.columns == ["1"])
        }
        try servers.old.psql("DROP TABLE marker", database: database)
        _ = try owner.query("COMMIT")
        prepare.wait()
        // On a busy machine it may have given up before.
        let again = try command("prepare", database)
        #expect(again.wait() == .code(0), "\(again.output.text)\(again.errors.text)")
        try waitUntil { try servers.new.psql("SELECT count(*) FROM later", database: database) == "1" }
        // Both of them: who compares while one is to be copied is refused.
        try waitForMirror(godwit, database)
        try expectEqual(database)
    }

    @Test func `hostile transactions under load leave both sides equal`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database)
        let script = try TestResources.file("hostile", """
            \\set a :client_id * 4000 + random(1, 3990)
            \\set b :client_id * 4000 + random(1, 3990)
            BEGIN;
            INSERT INTO accounts VALUES (:a, 'new', 1) ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + 1;
            DELETE FROM accounts WHERE id = :b;
            SAVEPOINT s;
            UPDATE accounts SET owner = 'undone' WHERE id BETWEEN :a AND :a + 3;
            ROLLBACK TO SAVEPOINT s;
            UPDATE accounts SET id = :b WHERE id = :a;
            UPDATE lines SET number = -number WHERE account = :a % 1000;
            UPDATE "Odd Näme" SET tags = tags || 'more'::text WHERE "the Key" = 'k' || :a % 500;
            END;
            BEGIN;
            DELETE FROM lines WHERE account = :b % 1000;
            ROLLBACK;

            """)
        let load = try ChildProcess([
            "pgbench", "-n", "-f", script, "-c", "6", "-j", "2", "-t", "150", "--max-tries=100",
            godwit.conninfo(database: database),
        ])
        try expectEqual(database)
        try load.waitForSuccess()
        try expectEqual(database)
    }

    @Test func `TRUNCATE and writes that bypass Godwit are mirrored too`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database)
        try servers.old.psql("UPDATE accounts SET balance = -1 WHERE id <= 100", database: database)
        try waitUntil {
            try servers.new.psql("SELECT count(*) FROM accounts WHERE balance = -1", database: database) == "100"
        }
        try godwit.psql("TRUNCATE lines", database: database)
        try godwit.psql("INSERT INTO lines VALUES (1, 1, 'after')", database: database)
        try waitUntil { try servers.new.psql("SELECT count(*) FROM lines", database: database) == "1" }
        try expectEqual(database)
    }

    @Test func `reads of a table that OLD got since stay on OLD`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database, percent: "100")
        let create = "CREATE TABLE later (id int PRIMARY KEY); GRANT ALL ON later TO app"
        try servers.new.psql(create, database: database)
        try servers.old.psql("\(create); INSERT INTO later VALUES (1)", database: database)
        try godwit.log.waitForLine(containing: "public.later")
        try waitUntil { try godwit.psql("SELECT count(*) FROM later", database: database) == "1" }
        let onNew = try godwit.psql("SELECT count(*) FROM accounts", database: database)
        #expect(onNew == "20000")
        #expect(try command("prepare", database).wait() == .code(0))
        try waitUntil { try servers.new.psql("SELECT count(*) FROM later", database: database) == "1" }
        try expectEqual(database)
    }

    @Test func `a mirror that was away goes on where it was`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let first = try mirroring(database)
        try first.psql("UPDATE accounts SET balance = 1 WHERE id < 50", database: database)
        first.process.send(9)
        first.process.wait()
        try servers.old.psql("DELETE FROM accounts WHERE id < 10; INSERT INTO lines VALUES (-1, -1, 'away')",
            database: database)
        let second = try GodwitProcess(configuration(database))
        try waitForMirror(second, database)
        try waitUntil { try servers.new.psql("SELECT what FROM lines WHERE account = -1", database: database) == "away" }
        try expectEqual(database)
    }

    @Test func `verify finds a single different row, and says when it cannot tell`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database)
        // In replica role, or the mirror might notice and mend it before we look.
        try servers.new.psql(
            "SET session_replication_role = replica; UPDATE accounts SET balance = 0 WHERE id = 777", database: database)
        let verify = try command("verify", database, ["--json"])
        #expect(verify.wait() == .code(1))
        #expect(verify.output.text.contains("accounts") && verify.output.text.contains("777"))
        _ = try JSONSerialization.jsonObject(with: Data(verify.output.text.utf8))
        godwit.terminate()

        var unreachable = configuration(database)
        unreachable.database.new = "host=127.0.0.1 port=1 dbname=x"
        unreachable.database.controlNew = ""
        let directory = try GodwitProcess.makeDirectory(unreachable)
        let unknown = try GodwitProcess.command(["verify", "--config", directory + "/godwit.yaml", database])
        #expect(unknown.wait() == .code(2))
    }

    @Test func `verify --repair brings a differing row back, with Godwit running and without`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database)
        let spoil = "SET session_replication_role = replica; UPDATE accounts SET balance = 0 WHERE id = 777"
        try servers.new.psql(spoil, database: database)
        #expect(try command("verify", database, ["--repair"]).wait() == .code(0))
        try servers.new.psql(spoil, database: database)
        godwit.terminate()
        let verify = try command("verify", database, ["--repair", "--rate", "100000"])
        #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
        #expect(try servers.new.psql("SELECT balance FROM accounts WHERE id = 777", database: database) == "1165.5")
    }

    @Test func `verify --repair leaves the mirror to who serves, also when that one is away for a moment`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database)
        // It has 20,000 rows to compare: more than three minutes, if the test did not end it.
        let verify = try ChildProcess([
            GodwitProcess.executable, "verify", "--config", godwit.configurationPath, database, "--repair", "--rate",
            "100",
        ])
        waitUntil { verify.output.text.contains("held by the running mirror") }
        godwit.terminate()
        // A mirror that waits for its turn looks at least every two seconds.
        try servers.new.psql("SELECT pg_sleep(3)", database: database)
        let second = try GodwitProcess(configuration(database))
        try waitForMirror(second, database)
        #expect(!verify.hasEnded, "\(verify.output.text)\(verify.errors.text)")
    }

    @Test func `verify shows both versions of a row, and with --schema what differs in the catalogs`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try mirroring(database)
        let equal = try command("verify", database, ["--schema"])
        #expect(equal.wait() == .code(0), "\(equal.output.text)\(equal.errors.text)")
        try servers.new.psql("""
            SET session_replication_role = replica; UPDATE accounts SET owner = 'somebody' WHERE id = 5;
            CREATE INDEX extra ON accounts (owner); ALTER TABLE lines ALTER number SET DEFAULT 7;
            """, database: database)
        try servers.old.psql("CREATE SEQUENCE only_old", database: database)
        let verify = try command("verify", database, ["--schema"])
        #expect(verify.wait() == .code(1))
        for words in [
            "public.accounts (5): changed", "OLD (5,\"owner 5\",7.5,", "NEW (5,somebody,7.5,",
            "index public.accounts.extra is only on NEW", "sequence public.only_old is missing on NEW",
            "column public.lines.number: default is none on OLD, 7 on NEW", "DIFFERENT, 3 differences of the schemas",
        ] { #expect(verify.output.text.contains(words), "\(words): \(verify.output.text)") }
        _ = godwit
    }

    @Test func `a user reads what it wrote, always, with all reads on NEW`() throws {
        let database = try servers.makeDatabase("CREATE TABLE own (who int PRIMARY KEY, n int)")
        let godwit = try mirroring(database, percent: "100")
        let output = try runDriver("own_writes", [godwit.conninfo(database: database)])
        #expect(output.hasSuffix("ok\n"), "\(output)")
        let onNew = try godwit.console("SHOW ROUTES").filter { $0["side"] == "new" && $0["kind"] == "read" }
            .reduce(0) { $0 + (Int($1["units"] ?? "") ?? 0) }
        #expect(onNew > 0)
        try expectEqual(database)
    }
}
