import Foundation
import Glibc
import TestSupport
import Testing

/// `mirror.ddl: barrier`: DDL through Godwit runs on both sides, or on neither.
@Suite(.serialized) struct ChangeTests {
    let one: SwitchTests
    var servers: Servers { one.servers }

    init() throws { one = try SwitchTests() }

    static func barrier(_ configuration: inout GodwitConfiguration) {
        configuration.database.mirror = ["mode": "async", "ddl": "barrier", "ddl_wait": "20"]
    }

    func mirroring(
        _ database: String, _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        try servers.mirroring(database) {
            Self.barrier(&$0)
            change(&$0)
        }
    }

    /// Tables, columns, types and constraints of the application, and all rows, as one text.
    func contents(_ server: PostgresCluster, _ database: String) throws -> String {
        let shape = try server.psql("""
            SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace ORDER BY 1, 2
            """, database: database)
        let tables = try server.psql("""
            SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
               AND relnamespace = 'public'::regnamespace ORDER BY 1
            """, database: database)
        let rows = try tables.split(separator: "\n").map { table in
            try server.psql("SELECT to_jsonb(t) FROM \"\(table)\" t ORDER BY 1", database: database)
        }
        return ([shape] + rows).joined(separator: "\n--\n")
    }

    func isReadable(_ godwit: GodwitProcess, _ database: String) throws -> Bool {
        let row = try godwit.console("SHOW MIRROR").first { $0["database"] == database }
        return row?["state"] == "mirroring" && row?["readable"] == "yes"
    }

    func expectAlike(
        _ godwit: GodwitProcess, _ database: String, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        try waitUntil("both sides of \(database) to be equal, at \(sourceLocation)") {
            guard try isReadable(godwit, database) else { return false }
            return try contents(servers.old, database) == contents(servers.new, database)
        }
    }

    /// The SQLSTATE of a query's answer, and the status behind it.
    func state(_ client: WireClient, _ sql: String) throws -> String {
        let answer = try client.query(sql)
        let error = answer.first { $0.type == "E" }?.sqlState ?? "ok"
        return "\(error) \(answer.last?.transactionStatus ?? "?")"
    }

    func client(_ godwit: GodwitProcess, _ database: String) throws -> WireClient {
        try WireClient(port: godwit.port, database: database)
    }

    @Test func `a sequence that a table is made with is there on both sides, as pg_dump writes them`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        for sql in [
            "CREATE TABLE numbered (id int NOT NULL)", "CREATE SEQUENCE numbers AS int",
            "ALTER SEQUENCE numbers OWNED BY numbered.id",
            "ALTER TABLE ONLY numbered ALTER COLUMN id SET DEFAULT nextval('numbers'::regclass)",
            "ALTER SEQUENCE numbers RENAME TO ids", "DROP TABLE numbered", "CREATE SEQUENCE ids", "DROP SEQUENCE ids",
        ] {
            #expect(try state(client, sql) == "ok I", "\(sql)")
        }
    }

    @Test func `ten and more DDLs beside writers leave both sides alike, and no writer has an error`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        let writers = try SwitchTests.Writers(one.conninfo(godwit, database))
        try writers.awaitMore()
        let client = try client(godwit, database)
        for sql in [
            "ALTER TABLE accounts ADD COLUMN note text",
            "ALTER TABLE accounts ADD COLUMN kind int NOT NULL DEFAULT 7",
            "CREATE TYPE mood AS ENUM ('low', 'high')",
            "CREATE TABLE moods (id int PRIMARY KEY, m mood DEFAULT 'low')",
            "INSERT INTO moods SELECT n FROM generate_series(1, 100) n",
            "ALTER TYPE mood ADD VALUE 'mid' BEFORE 'high'",
            "UPDATE moods SET m = 'mid' WHERE id < 50",
            "ALTER TABLE accounts RENAME COLUMN note TO remark",
            "ALTER TABLE entries ADD COLUMN at timestamptz DEFAULT now()",
            "ALTER TABLE entries ADD COLUMN r double precision DEFAULT random()",
            "ALTER TABLE moods RENAME TO tempers",
            "INSERT INTO tempers VALUES (1000)",
            "ALTER TABLE accounts ALTER COLUMN kind TYPE bigint USING kind + 1",
            "ALTER TABLE accounts DROP COLUMN remark",
            "ALTER TABLE entries ADD CONSTRAINT positive CHECK (n > 0)",
            "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')",
            "INSERT INTO parts (at) VALUES ('2022-05-05')",
            "CREATE TABLE gone (id int PRIMARY KEY)",
            "DROP TABLE gone",
        ] {
            #expect(try state(client, sql) == "ok I", "\(sql)")
            try writers.awaitMore()
        }
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try one.expectWhole(outcome, database, authority: "old")
        try expectAlike(godwit, database)
        let tables = try godwit.console("SHOW TABLES").map { $0["table"] ?? "" }
        #expect(tables.contains { $0.contains("tempers") } && !tables.contains { $0.contains("gone") }, "\(tables)")
        let events = try godwit.console("SHOW EVENTS").filter { $0["kind"] == "ddl" }
        #expect(events.count == 15)
        let verify = try GodwitProcess.command(["verify", "--config", godwit.configurationPath, database])
        #expect(verify.wait() == .code(0), "\(verify.output.text) \(verify.errors.text)")
    }

    @Test func `a read on NEW sees the column that its client has just added`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database) { $0.database.readsPercent = "100" }
        let client = try client(godwit, database)
        for number in 0..<5 {
            #expect(try state(client, "ALTER TABLE accounts ADD COLUMN c\(number) int DEFAULT \(number)") == "ok I")
            #expect(try client.value("SELECT sum(c\(number)) FROM accounts") == "\(20 * number)")
        }
        try expectAlike(godwit, database)
    }

    /// A dump of the schema brings no setting of the database.
    @Test func `a statement means on NEW what it means on OLD, whatever each side's settings are`() throws {
        let database = try servers.makeDatabase("""
            CREATE SCHEMA shop; CREATE TABLE shop.goods (id int PRIMARY KEY); CREATE TABLE goods (id int PRIMARY KEY)
            """)
        try servers.old.psql("""
            ALTER DATABASE \(database) SET search_path = shop, public; ALTER DATABASE \(database) SET TimeZone = 'Asia/Tokyo';
            ALTER DATABASE \(database) SET DateStyle = 'SQL, DMY'
            """)
        let godwit = try mirroring(database)
        // Applications are kept out of NEW until the cutover.
        try servers.new.psql("ALTER DATABASE \(database) SET default_transaction_read_only = on")
        let client = try client(godwit, database)
        for sql in [
            "ALTER TABLE goods ADD COLUMN a int", "CREATE TABLE bills (id int PRIMARY KEY, at timestamptz DEFAULT '02/03/2026')",
        ] {
            #expect(try state(client, sql) == "ok I", "\(sql)")
        }
        #expect(try state(client, "BEGIN") == "ok T")
        #expect(try state(client, "ALTER TABLE goods ADD COLUMN b timestamptz DEFAULT '04/05/2026'") == "ok T")
        #expect(try state(client, "COMMIT") == "ok I")
        let found = try [servers.old, servers.new].map { server in
            try server.psql("""
                SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET search_path = pg_catalog;
                SELECT attrelid::regclass, attname, pg_get_expr(adbin, adrelid) FROM pg_attribute
                  JOIN pg_class c ON c.oid = attrelid AND relkind = 'r'
                  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
                 WHERE attnum > 0 AND relnamespace IN ('shop'::regnamespace, 'public'::regnamespace)
                 ORDER BY attrelid::regclass::text COLLATE "C", attname
                """, database: database)
        }
        #expect(found[0] == found[1])
        #expect(found[1] == """
            public.goods|id|
            shop.bills|at|'2026-03-01 15:00:00+00'::timestamp with time zone
            shop.bills|id|
            shop.goods|a|
            shop.goods|b|'2026-05-03 15:00:00+00'::timestamp with time zone
            shop.goods|id|
            """)
    }

    /// What the session on OLD has is said to NEW in UTF-8.
    @Test func `a name that is no ASCII is the same on NEW, whatever its database's texts are in`() throws {
        let database = try servers.makeDatabase(
            #"CREATE SCHEMA U&"l\00e4den"; CREATE TABLE firm (id int PRIMARY KEY)"#)
        try servers.old.psql(#"ALTER DATABASE \#(database) SET search_path = U&"l\00e4den""#)
        try servers.new.psql("ALTER DATABASE \(database) SET client_encoding = 'LATIN1'")
        let godwit = try mirroring(database)
        #expect(try state(try client(godwit, database), "CREATE TABLE goods (id int PRIMARY KEY)") == "ok I")
        #expect(try servers.new.psql(#"""
            SELECT nspname = U&'l\00e4den' FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
             WHERE relname = 'goods'
            """#, database: database) == "t")
    }

    /// Its bytes are UTF-8 for another word.
    @Test func `a text in another encoding runs on neither side, also where it looks like UTF-8`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        let sql = "ALTER TABLE accounts ADD COLUMN \u{e9} int"
        let before = try contents(servers.old, database)
        for (sql, wanted) in [
            ("SET client_encoding = 'LATIN1'", "ok I"), (sql, "22021 I"), ("BEGIN", "ok T"), (sql, "22021 E"),
            ("ROLLBACK", "ok I"),
        ] {
            #expect(try state(client, sql) == wanted, "\(sql)")
        }
        #expect(try contents(servers.old, database) == before)
        #expect(try state(client, "SET client_encoding = 'utf8'") == "ok I")
        #expect(try state(client, sql) == "ok I")
        try expectAlike(godwit, database)
    }

    @Test func `drivers' batches run as queries do`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        let batch = FrameBuilder.parse("ALTER TABLE accounts ADD COLUMN a int") + FrameBuilder.bind()
        for describe in [[], FrameBuilder.describePortal()] {
            client.send(batch + describe + FrameBuilder.execute() + FrameBuilder.sync)
            let answer = try client.readToReady()
            let types = String(answer.map(\.type))
            #expect(describe.isEmpty ? types == "12CZ" : types == "EZ", "\(types)")
            if describe.isEmpty { #expect(answer[2].commandTag == "ALTER TABLE") }
        }
        client.send(
            FrameBuilder.parse("ALTER TABLE accounts DROP COLUMN a") + FrameBuilder.bind()
                + FrameBuilder.describePortal() + FrameBuilder.execute() + FrameBuilder.sync)
        #expect(String(try client.readToReady().map(\.type)) == "12nCZ")
        try expectAlike(godwit, database)
    }

    @Test func `a session that keeps its server, by its pool or by a lock, can change the schema`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        #expect(try state(client, "SELECT pg_advisory_lock(42)") == "ok I")
        #expect(try state(client, "ALTER TABLE accounts ADD COLUMN a int DEFAULT 4") == "ok I")
        #expect(try state(client, "ALTER TABLE accounts ADD COLUMN a int DEFAULT 4") == "42701 I")
        #expect(try state(client, "UPDATE accounts SET a = 5 WHERE id = 1") == "ok I")
        // Several at once, behind each other.
        client.send(["b", "c"].flatMap { FrameBuilder.query("ALTER TABLE accounts ADD COLUMN \($0) int") }
            + FrameBuilder.query("SELECT count(c) FROM accounts"))
        for types in ["CZ", "CZ", "TDCZ"] { #expect(String(try client.readToReady().map(\.type)) == types) }
        #expect(try client.value("SELECT pg_advisory_unlock(42)") == "t")
        try expectAlike(godwit, database)
        let bound = try servers.makeDatabase(SwitchTests.schema)
        let other = try mirroring(bound) { $0.database.pool["pool_mode"] = "session" }
        let keeper = try self.client(other, bound)
        #expect(try keeper.value("SELECT 1") == "1")
        #expect(try state(keeper, "ALTER TABLE accounts ADD COLUMN a int") == "ok I")
        #expect(try state(keeper, "BEGIN; INSERT INTO accounts VALUES (1, 1, 1)") == "ok T")
        #expect(try state(keeper, "ALTER TABLE accounts ADD COLUMN b int") == "ok T")
        #expect(try state(keeper, "COMMIT") == "ok I")
        try expectAlike(other, bound)
    }

    @Test func `who keeps a server is not idle while its schema is changed`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema)
        let godwit = try mirroring(database) {
            $0.database.pool["pool_mode"] = "session"
            $0.database.pool["client_idle_timeout"] = "8"
        }
        let coordinator = try WireClient(
            port: servers.old.port, database: database, user: PostgresCluster.superuser)
        _ = try coordinator.query("SELECT pg_advisory_lock(7451605422)")
        let client = try client(godwit, database)
        #expect(try client.value("SELECT 1") == "1")
        client.send(FrameBuilder.query("ALTER TABLE accounts ADD COLUMN a int"))
        _ = try coordinator.query("SELECT pg_sleep(9)")
        _ = try coordinator.query("SELECT pg_advisory_unlock(7451605422)")
        #expect(try client.readToReady().compactMap(\.sqlState) == [])
        // Clients are looked at once a second.
        _ = try coordinator.query("SELECT pg_sleep(1.5)")
        #expect(try client.value("SELECT 2") == "2")
    }

    @Test func `of two sessions that keep their servers none waits for the other's turn`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        let coordinator = try WireClient(
            port: servers.old.port, database: database, user: PostgresCluster.superuser)
        _ = try coordinator.query("SELECT pg_advisory_lock(7451605422)")
        let clients = try (0..<2).map { _ in try client(godwit, database) }
        for (index, client) in clients.enumerated() {
            _ = try client.query("SELECT pg_advisory_lock(\(index))")
            client.send(FrameBuilder.query("ALTER TABLE accounts ADD COLUMN c\(index) int"))
        }
        // Both have come by then.
        _ = try godwit.console("SHOW CLIENTS")
        _ = try coordinator.query("SELECT pg_advisory_unlock(7451605422)")
        for client in clients { #expect(try client.readToReady().compactMap(\.sqlState) == []) }
        try expectAlike(godwit, database)
    }

    @Test func `a text of several is one transaction on both sides`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        let answer = try client.query("""
            CREATE TABLE users (id serial PRIMARY KEY, name text); -- as tools send a migration
            CREATE UNIQUE INDEX users_name ON users (name);
            ALTER TABLE accounts ADD COLUMN owner int REFERENCES users (id);
            """)
        #expect(answer.compactMap(\.commandTag) == ["CREATE TABLE", "CREATE INDEX", "ALTER TABLE"])
        #expect(try state(client, "INSERT INTO users (name) VALUES ('a'), ('b')") == "ok I")
        #expect(try state(client, "INSERT INTO accounts VALUES (1, 1, 2)") == "ok I")
        try expectAlike(godwit, database)
        for server in [servers.old, servers.new] {
            #expect(try server.psql("SELECT count(*) FROM pg_indexes WHERE indexname = 'users_name'", database: database) == "1")
        }
    }

    @Test func `what a side refuses is on neither, and the client is told which`() throws {
        let database = try servers.makeDatabase(
            SwitchTests.schema, new: "CREATE TABLE only_new (id int PRIMARY KEY)")
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        let before = try contents(servers.old, database)
        let answer = try client.query("CREATE TABLE only_new (id int PRIMARY KEY)")
        #expect(answer.first?.sqlState == "42P07")
        #expect(answer.first?.fields["M"]?.contains("NEW refuses it") == true, "\(answer)")
        #expect(try state(client, "ALTER TABLE accounts ADD COLUMN id int") == "42701 I")
        #expect(try state(client, "ALTER TABLE nothing ADD COLUMN id int") == "42P01 I")
        #expect(try contents(servers.old, database) == before)
        #expect(try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0"))
        #expect(try state(client, "ALTER TABLE accounts ADD COLUMN a int") == "ok I")
    }

    @Test func `what cannot be carried is refused with what to do`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        let before = try contents(servers.old, database)
        for (sql, wanted) in [
            ("CREATE TABLE c AS SELECT 1 AS id", "0A000 I"), ("ALTER TABLE accounts DISABLE TRIGGER ALL", "0A000 I"),
            ("ALTER TABLE accounts RENAME COLUMN id TO number", "0A000 I"),
            ("ALTER TABLE accounts ALTER COLUMN id TYPE bigint", "0A000 I"),
            ("ALTER TABLE accounts DROP CONSTRAINT accounts_pkey", "0A000 I"),
            ("ALTER TABLE accounts ADD COLUMN a int; UPDATE accounts SET a = 1", "0A000 I"),
            ("BEGIN; ALTER TABLE accounts ADD COLUMN a int; COMMIT", "0A000 I"),
            ("CREATE TABLE x (id int PRIMARY KEY); ALTER TABLE accounts ADD COLUMN id int", "42701 I"),
            ("BEGIN", "ok T"), ("CREATE TABLE c AS SELECT 1 AS id", "0A000 E"), ("ROLLBACK", "ok I"),
            ("BEGIN", "ok T"), ("INSERT INTO accounts VALUES (99, 1)", "ok T"),
            ("ALTER TABLE accounts ADD COLUMN a int; UPDATE accounts SET a = 1", "0A000 E"),
            ("ROLLBACK", "ok I"), ("CREATE TEMP TABLE temporary (id int)", "ok I"),
        ] {
            #expect(try state(client, sql) == wanted, "\(sql)")
        }
        #expect(try contents(servers.old, database) == before)
    }

    @Test func `a type is dropped on both sides though the mirror has just brought many of its values`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        // What it brought them with it throws away by itself, but not at once.
        for round in 1...3 {
            for sql in [
                "CREATE TYPE mood\(round) AS ENUM ('glad', 'sad')",
                "CREATE TABLE moods\(round) (id int PRIMARY KEY, m mood\(round))",
                "INSERT INTO moods\(round) SELECT n, 'sad' FROM generate_series(1, 5000) n",
                "ALTER TABLE moods\(round) ALTER COLUMN m TYPE text; DROP TYPE mood\(round)",
            ] {
                #expect(try state(client, sql) == "ok I", "\(sql)")
            }
        }
        try expectAlike(godwit, database)
    }

    @Test func `a transaction that holds the table's lock, or writes, lets a DDL wait no longer than ddl_wait`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database) { $0.database.mirror["ddl_wait"] = "0.5" }
        let client = try client(godwit, database)
        let alter = "ALTER TABLE accounts ADD COLUMN a int"
        let writer = try self.client(godwit, database)
        #expect(try state(writer, "BEGIN; INSERT INTO accounts VALUES (100, 1)") == "ok T")
        #expect(try state(client, alter) == "55P03 I")
        #expect(try state(writer, "COMMIT") == "ok I")
        for server in [servers.old, servers.new] {
            let around = try WireClient(port: server.port, database: database)
            #expect(try state(around, "BEGIN; LOCK TABLE accounts IN ACCESS SHARE MODE") == "ok T")
            #expect(try state(client, alter) == "55P03 I")
            #expect(try state(writer, "UPDATE accounts SET balance = 5 WHERE id = 100") == "ok I")
            #expect(try state(around, "COMMIT") == "ok I")
        }
        #expect(try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0"))
        _ = try godwit.console("SET databases.\(database).mirror.ddl_wait = 20")
        #expect(try state(client, alter) == "ok I")
        try expectAlike(godwit, database)
    }

    @Test func `the statement runs in the client's session, as its user`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        #expect(try state(client, "CREATE SCHEMA other") == "ok I")
        #expect(try state(client, "SET search_path = other; SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Tokyo'") == "ok I")
        #expect(try state(client, "CREATE TABLE here (id int PRIMARY KEY, d text)") == "ok I")
        #expect(try state(client, "INSERT INTO here VALUES (1, '03/04/2020')") == "ok I")
        #expect(try state(client, "ALTER TABLE here ALTER COLUMN d TYPE timestamptz USING d::timestamptz") == "ok I")
        try expectAlike(godwit, database)
        let sql = "SELECT d AT TIME ZONE 'UTC', tableowner FROM other.here, pg_tables WHERE tablename = 'here'"
        for server in [servers.old, servers.new] {
            try waitUntil { try server.psql(sql, database: database) == "2020-04-02 15:00:00|app" }
        }
        // Not by Godwit's own rights.
        try servers.old.psql("CREATE TABLE foreign_to_app (id int PRIMARY KEY)", database: database)
        #expect(try state(client, "ALTER TABLE public.foreign_to_app ADD COLUMN a int") == "42501 I")
    }

    @Test func `a session whose settings are not known changes no other schema than its own`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema + "; CREATE SCHEMA other")
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        let set = "SELECT set_config('search_path', s, false) FROM (VALUES ('other')) v (s)"
        for (sql, wanted) in [
            (set, "ok I"), ("CREATE TABLE here (id int PRIMARY KEY)", "0A000 I"), ("BEGIN", "ok T"),
            ("CREATE TABLE here (id int PRIMARY KEY)", "0A000 E"), ("ROLLBACK", "ok I"), ("DISCARD ALL", "ok I"),
            ("CREATE TABLE here (id int PRIMARY KEY)", "ok I"),
        ] {
            #expect(try state(client, sql) == wanted, "\(sql)")
        }
        for server in [servers.old, servers.new] {
            let found = try server.psql("SELECT schemaname FROM pg_tables WHERE tablename = 'here'", database: database)
            #expect(found == "public")
        }
    }

    static let steps = ["ddl_statement", "ddl_record", "ddl_source", "ddl_target", "ddl_finish"]

    @Test(arguments: steps, [
        "ALTER TABLE accounts RENAME TO holders", "CREATE TABLE fresh (id int PRIMARY KEY)", "DROP TABLE parts",
        "ALTER TABLE accounts ADD COLUMN a int DEFAULT 4",
    ])
    func `a Godwit killed before a step leaves it on both sides or on neither`(step: String, sql: String) throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        var configuration = GodwitConfiguration([servers.entry(database)])
        Self.barrier(&configuration)
        #expect(try mirroring(database).terminate() == .code(0))
        let before = try contents(servers.old, database)
        let dying = try GodwitProcess(configuration, environment: ["GODWIT_DIE_BEFORE": step])
        try waitUntil { try isReadable(dying, database) }
        let client = try client(dying, database)
        client.send(FrameBuilder.query(sql))
        #expect(dying.process.wait() == .signal(SIGKILL))
        let godwit = try GodwitProcess(resuming: dying)
        try waitUntil { try isReadable(godwit, database) }
        let isMade = try contents(servers.old, database) != before
        #expect(isMade == ["ddl_target", "ddl_finish"].contains(step))
        try waitUntil { try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0") }
        try expectAlike(godwit, database)
        // And the next one.
        let next = try self.client(godwit, database)
        if !isMade { #expect(try state(next, sql) == "ok I") }
        #expect(try state(next, "CREATE TABLE later (id int PRIMARY KEY)") == "ok I")
        #expect(try state(next, "INSERT INTO later VALUES (1)") == "ok I")
        try expectAlike(godwit, database)
        #expect(try servers.new.psql("SELECT id FROM later", database: database).hasPrefix("1"))
    }

    @Test func `a client that vanishes leaves it on both sides`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema)
        let godwit = try mirroring(database)
        let client = try client(godwit, database)
        client.send(FrameBuilder.query("ALTER TABLE accounts ADD COLUMN a int DEFAULT 4"))
        client.reset()
        try godwit.log.waitForLine(containing: "ran on both sides")
        try expectAlike(godwit, database)
    }

    @Test func `behind a cutover it runs on NEW first, and on OLD`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        try one.switchOver(godwit, "CUTOVER", database)
        try one.waitForMirror(godwit)
        let client = try client(godwit, database)
        #expect(try state(client, "ALTER TABLE accounts ADD COLUMN a int DEFAULT 4") == "ok I")
        #expect(try state(client, "CREATE TABLE fresh (id int PRIMARY KEY)") == "ok I")
        #expect(try state(client, "INSERT INTO fresh VALUES (1)") == "ok I")
        #expect(try state(client, "UPDATE accounts SET a = 9 WHERE id = 3") == "ok I")
        try expectAlike(godwit, database)
        // What NEW alone has had from its begin on is no leftover of another copy.
        let check = try GodwitProcess.command(["check", "--config", godwit.configurationPath, database])
        #expect(check.wait() == .code(0), "\(check.output.text)\(check.errors.text)")
        try one.switchOver(godwit, "ROLLBACK", database)
        try one.waitForMirror(godwit)
        #expect(try state(client, "DROP TABLE fresh") == "ok I")
        try expectAlike(godwit, database)
    }
}
