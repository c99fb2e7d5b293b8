import TestSupport
import Testing

/// The mirror as its operator sees it: the console, several Godwits, synchronous commits.
@Suite(.serialized) struct MirrorOperationTests {
    let servers: Servers
    static let schema = "CREATE TABLE t (id int PRIMARY KEY, v text)"

    init() throws { servers = try Servers.shared.get() }

    func row(_ godwit: GodwitProcess, _ database: String) throws -> [String: String] {
        try #require(try godwit.console("SHOW MIRROR").first { $0["database"] == database })
    }

    /// `godwit verify` of both sides while Godwit serves.
    func expectEqual(_ database: String) throws {
        let directory = try GodwitProcess.makeDirectory(GodwitConfiguration([servers.entry(database)]))
        let verify = try GodwitProcess.command(["verify", "--config", directory + "/godwit.yaml", database])
        #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
    }

    @Test func `MIRROR PAUSE holds NEW, RESUME lets it follow, THROTTLE is taken`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try servers.mirroring(database)
        _ = try godwit.console("MIRROR PAUSE \(database)")
        try waitUntil { try row(godwit, database)["state"] == "paused" }
        try godwit.psql("INSERT INTO t VALUES (1, 'while paused')", database: database)
        #expect(try servers.new.psql("SELECT count(*) FROM t", database: database) == "0")
        _ = try godwit.console("MIRROR RESUME \(database)")
        try waitUntil { try servers.new.psql("SELECT count(*) FROM t", database: database) == "1" }
        _ = try godwit.console("MIRROR THROTTLE \(database) 1000")
        #expect(throws: (any Error).self) { try godwit.console("MIRROR PAUSE nothing") }
        let tables = try godwit.console("SHOW TABLES").filter { $0["database"] == database }
        #expect(tables.map { $0["table"] } == ["public.t"] && tables[0]["copied"] == "yes")
    }

    @Test func `a first copy that is killed by signal 9 goes on where it was`() throws {
        let database = try servers.makeDatabase(Self.schema, old: """
            INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 30000) g
            """)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async", "backfill_rate": "4000"]
        let directory = try GodwitProcess.makeDirectory(configuration)
        let prepare = try GodwitProcess.command(["prepare", "--config", directory + "/godwit.yaml", database])
        try #require(prepare.wait() == .code(0))
        let first = try GodwitProcess(configuration)
        try waitUntil { Int(try row(first, database)["rows_copied"] ?? "") ?? 0 > 4000 }
        first.process.send(9)
        first.process.wait()
        let copied = Int(try servers.new.psql("SELECT rows_copied FROM godwit.backfill", database: database)) ?? 0
        #expect(copied > 4000 && copied < 30_000)
        try servers.old.psql("UPDATE t SET v = 'meanwhile' WHERE id % 100 = 0; DELETE FROM t WHERE id % 777 = 0",
            database: database)
        configuration.database.mirror = ["mode": "async"]
        let second = try GodwitProcess(configuration)
        try waitUntil { try row(second, database)["readable"] == "yes" }
        let all = Int(try servers.new.psql("SELECT rows_copied FROM godwit.backfill", database: database)) ?? 0
        #expect(all <= 30_000, "no range was copied twice")
        try expectEqual(database)
    }

    @Test func `of two Godwits one mirrors, and the other goes on when it is killed`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let first = try servers.mirroring(database)
        let second = try servers.godwit(database) { $0.database.mirror = ["mode": "async"] }
        try waitUntil { try row(second, database)["reason"]?.contains("another Godwit") ?? false }
        try second.psql("INSERT INTO t VALUES (1, 'through the second')", database: database)
        try waitUntil { try servers.new.psql("SELECT count(*) FROM t", database: database) == "1" }
        first.process.send(9)
        try second.psql("INSERT INTO t VALUES (2, 'after the kill')", database: database)
        try waitUntil { try servers.new.psql("SELECT count(*) FROM t", database: database) == "2" }
        try waitUntil { try row(second, database)["state"] == "mirroring" }
        try expectEqual(database)
    }

    @Test func `a Godwit that is stopped in its tracks is replaced, and does no harm when it goes on`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let first = try servers.mirroring(database)
        let second = try servers.godwit(database) { $0.database.mirror = ["mode": "async"] }
        try waitUntil { try row(second, database)["reason"]?.contains("another Godwit") ?? false }
        first.process.send(19)
        try servers.old.psql("INSERT INTO t VALUES (1, 'while the first stands')", database: database)
        try waitUntil { try servers.new.psql("SELECT count(*) FROM t", database: database) == "1" }
        first.process.send(18)
        try servers.old.psql("INSERT INTO t VALUES (2, 'when it goes on')", database: database)
        try waitUntil { try row(first, database)["reason"]?.contains("another Godwit") ?? false }
        try waitUntil { try servers.new.psql("SELECT count(*) FROM t", database: database) == "2" }
        try expectEqual(database)
    }

    @Test func `with mode sync NEW has every commit that is answered`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try servers.mirroring(database) {
            $0.database.mirror = ["mode": "sync", "sync_wait": "30"]
        }
        for id in 1...20 {
            try godwit.psql("BEGIN; INSERT INTO t VALUES (\(id), 'a'); COMMIT", database: database)
            #expect(try servers.new.psql("SELECT count(*) FROM t", database: database) == "\(id)")
        }
        let row = try row(godwit, database)
        #expect(row["sync"] == "on" && row["sync_commits"] == "20" && row["sync_late"] == "0", "\(row)")
        let load = try ChildProcess.run([
            "pgbench", "-n", "-f", try TestResources.file("sync", """
                INSERT INTO t VALUES (100 + 1000 * :client_id + :client_id, 'b') ON CONFLICT (id) DO UPDATE SET v = 'c';
                """), "-c", "8", "-j", "2", "-t", "50", "-M", "prepared", godwit.conninfo(database: database),
        ])
        #expect(load.contains("processed: 400/400"))
        try expectEqual(database)
    }

    @Test func `behind a switch a commit is answered as soon as the other side has it`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try servers.mirroring(database) {
            $0.database.mirror = ["mode": "sync", "sync_wait": "600"]
        }
        for (verb, sides) in [("CUTOVER", [servers.new, servers.old]), ("ROLLBACK", [servers.old, servers.new])] {
            let rows = try godwit.console("\(verb) \(database) WITHOUT VERIFY DEADLINE 60000")
            #expect(rows.last?["kind"] == "outcome" && rows.last?["ok"] == "yes", "\(rows)")
            try waitUntil { try row(godwit, database)["sync"] == "on" }
            // Who were woken only by the end of sync_wait would stand here.
            for _ in 1...20 { try godwit.psql("INSERT INTO t SELECT count(*), 'a' FROM t", database: database) }
            let counts = try sides.map { try $0.psql("SELECT count(*) FROM t", database: database) }
            #expect(counts[0] == counts[1])
            #expect(try row(godwit, database)["sync_late"] == "0")
        }
    }

    @Test func `a commit that NEW has not in time is answered, counted, and others wait for NEW again when it is back`()
        throws
    {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try servers.mirroring(database) {
            $0.database.mirror = ["mode": "sync", "sync_wait": "0.05"]
        }
        _ = try godwit.console("MIRROR PAUSE \(database)")
        try waitUntil { try row(godwit, database)["state"] == "paused" }
        for id in 1...3 { try godwit.psql("INSERT INTO t VALUES (\(id), 'late')", database: database) }
        var now = try row(godwit, database)
        #expect(now["sync"] == "fallen back" && now["sync_late"] == "3" && now["sync_commits"] == "0", "\(now)")
        _ = try godwit.console("MIRROR RESUME \(database)")
        try waitUntil { try row(godwit, database)["sync"] == "on" }
        try godwit.psql("INSERT INTO t VALUES (4, 'in time')", database: database)
        now = try row(godwit, database)
        #expect((Int(now["sync_commits"] ?? "") ?? 0) + (Int(now["sync_late"] ?? "") ?? 0) == 4)
        try expectEqual(database)
    }

    @Test func `while one client waits for NEW its thread serves the others`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try servers.mirroring(database) {
            $0.threads = 1
            // Who waits is not idle.
            $0.database.pool = ["size": "1", "client_idle_timeout": "2"]
            $0.database.mirror = ["mode": "sync", "sync_wait": "600"]
        }
        _ = try godwit.console("MIRROR PAUSE \(database)")
        try waitUntil { try row(godwit, database)["state"] == "paused" }
        let writer = try ChildProcess([
            "psql", "-X", "-c", "INSERT INTO t VALUES (1, 'waits')", godwit.conninfo(database: database),
        ])
        try waitUntil { try godwit.psql("SELECT count(*) FROM t", database: database) == "1" }
        // Clients are looked at once a second.
        #expect(try servers.new.psql("SELECT count(*), pg_sleep(4) FROM t", database: database) == "0|")
        #expect(!writer.hasEnded && !writer.output.text.contains("INSERT"))
        _ = try godwit.console("MIRROR RESUME \(database)")
        try writer.waitForSuccess()
        #expect(try servers.new.psql("SELECT count(*) FROM t", database: database) == "1")
    }

    @Test(arguments: [
        ("CREATE TABLE n (id int PRIMARY KEY)", false), ("ALTER TABLE t ADD COLUMN w int", false),
        ("ALTER TABLE t RENAME COLUMN v TO w", false), ("DROP TABLE t", false), ("DROP SCHEMA s CASCADE", false),
        ("SELECT 1 AS a INTO n", false), ("CREATE TABLE n AS SELECT 1 AS a", false), ("ALTER TYPE e ADD VALUE 'b'", false),
        ("BEGIN; ALTER TABLE t DROP COLUMN v; COMMIT", false), ("ALTER TABLE t SET SCHEMA s", false),
        ("CREATE TEMP TABLE n (id int); ALTER TABLE pg_temp.n ADD COLUMN x int; DROP TABLE pg_temp.n", true),
        ("CREATE INDEX ON t (v)", true), ("ANALYZE t", true), ("VACUUM t", true), ("REINDEX TABLE t", true),
        ("CREATE VIEW w AS SELECT * FROM t", true), ("COMMENT ON TABLE t IS 'x'", true), ("GRANT SELECT ON t TO public", true),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", true), ("TRUNCATE t", true),
    ])
    func `DDL that the mirror could lose touch by is refused, all other passes`(sql: String, passes: Bool) throws {
        let database = try servers.makeDatabase(Self.schema + "; CREATE SCHEMA s; CREATE TYPE e AS ENUM ('a')")
        let godwit = try servers.mirroring(database)
        let client = try WireClient(port: godwit.port, database: database)
        let errors = try client.query(sql).compactMap(\.sqlState)
        #expect(errors == (passes ? [] : ["42501"]))
        // In a transaction it fails as any error does, and the transaction with it.
        #expect(try client.query("ROLLBACK; BEGIN; INSERT INTO t VALUES (1)").allSatisfy { $0.type != "E" })
        if passes { return }
        #expect(try client.query(sql).contains { $0.sqlState == "42501" })
        #expect(try client.query("COMMIT").contains { $0.commandTag == "ROLLBACK" })
        #expect(try servers.old.psql("SELECT count(*) FROM t", database: database) == "0")
    }

    @Test(arguments: ["SELECT pg_advisory_lock(1)", "LISTEN here"])
    func `what pins a session takes no DDL past the mirror but of temporary tables`(pinning: String) throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try servers.mirroring(database)
        let client = try WireClient(port: godwit.port, database: database)
        client.send(FrameBuilder.query(pinning) + FrameBuilder.query("ALTER TABLE t ADD COLUMN w int"))
        #expect(try client.readToReady().allSatisfy { $0.type != "E" })
        #expect(try client.readToReady().compactMap(\.sqlState) == ["42501"])
        for sql in ["CREATE TEMP TABLE n (id int)", "ALTER TABLE n ADD COLUMN x int"] {
            #expect(try client.query(sql).allSatisfy { $0.type != "E" }, "\(sql)")
        }
    }

    @Test func `a pooler in the place of a server is named`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let pooler = try servers.godwit(database)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.controlOld = pooler.conninfo(database: database)
        let directory = try GodwitProcess.makeDirectory(configuration)
        let check = try GodwitProcess.command(["check", "--config", directory + "/godwit.yaml", database])
        #expect(check.wait() == .code(2))
        #expect(check.errors.text.contains("connection pooler"), "\(check.errors.text)")
    }
}
