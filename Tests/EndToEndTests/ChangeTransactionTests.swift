import Foundation
import Glibc
import TestSupport
import Testing

/// `mirror.ddl: barrier`: DDL within a client's own transaction runs on both sides, or on neither.
@Suite(.serialized) struct ChangeTransactionTests {
    let changes: ChangeTests
    var one: SwitchTests { changes.one }
    var servers: Servers { changes.servers }

    init() throws { changes = try ChangeTests() }

    static let schema = SwitchTests.schema + "; CREATE TABLE migrations (version int PRIMARY KEY, at timestamptz)"
    private static let add = "ALTER TABLE accounts ADD COLUMN a int DEFAULT 4"

    func setUp(
        _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> (database: String, godwit: GodwitProcess, client: WireClient) {
        let database = try servers.makeDatabase(Self.schema, old: SwitchTests.rows)
        let godwit = try changes.mirroring(database, change)
        return (database, godwit, try changes.client(godwit, database))
    }

    /// Queries one by one, each with the SQLSTATE and the status that its answer must have.
    func run(
        _ client: WireClient, _ steps: [(String, String)], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        for (sql, wanted) in steps {
            let found = try changes.state(client, sql)
            #expect(found == wanted, "\(sql)", sourceLocation: sourceLocation)
        }
    }

    /// The same as one batch each, as drivers send them.
    func batch(_ statements: [String]) -> [UInt8] {
        statements.flatMap {
            FrameBuilder.parse($0) + FrameBuilder.bind() + FrameBuilder.describePortal() + FrameBuilder.execute()
        } + FrameBuilder.sync
    }

    func isLetGo(_ godwit: GodwitProcess, _ database: String) throws -> Bool {
        try godwit.psql("UPDATE accounts SET balance = balance WHERE id = 1", database: database)
        return try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0")
    }

    func columns(_ server: PostgresCluster, _ database: String) throws -> String {
        try server.psql("""
            SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = 'accounts'::regclass AND attnum > 0 AND NOT attisdropped
            """, database: database)
    }

    // MARK: it runs on both

    @Test func `migrations with their rows of bookkeeping run beside writers, and no writer has an error`() throws {
        let (database, godwit, client) = try setUp { $0.database.readsPercent = "100" }
        let writers = try SwitchTests.Writers(one.conninfo(godwit, database))
        try writers.awaitMore()
        let migrations = [
            ["ALTER TABLE accounts ADD COLUMN note text", "UPDATE accounts SET note = 'n' || id"],
            ["CREATE TABLE users (id serial PRIMARY KEY, name text)", "CREATE UNIQUE INDEX ON users (name)",
                "INSERT INTO users (name) SELECT 'u' || n FROM generate_series(1, 50) n",
                "ALTER TABLE accounts ADD COLUMN owner int REFERENCES users (id)",
                "UPDATE accounts SET owner = id"],
            ["ALTER TABLE users RENAME TO people", "INSERT INTO people (name) VALUES ('late')",
                "ALTER TABLE entries ADD COLUMN r double precision DEFAULT random()"],
            ["INSERT INTO people (name) VALUES ('before')", "ALTER TABLE people ALTER COLUMN name TYPE varchar(40)",
                "ALTER TABLE accounts RENAME COLUMN note TO remark", "UPDATE accounts SET remark = NULL WHERE id < 5"],
            ["INSERT INTO parts (at) VALUES ('2020-02-02')", "DROP TABLE parts"],
        ]
        for (version, statements) in migrations.enumerated() {
            let book = "INSERT INTO migrations VALUES (\(version), now())"
            if version % 2 == 0 {
                try run(client, [("BEGIN", "ok T"), ("SELECT count(*) FROM migrations", "ok T")])
                try run(client, (statements + [book, "SELECT 1"]).map { ($0, "ok T") } + [("COMMIT", "ok I")])
            } else {
                // As pgjdbc does: BEGIN in one batch with the first statement.
                for (index, sql) in (statements + [book]).enumerated() {
                    client.send(batch(index == 0 ? ["BEGIN", sql] : [sql]))
                    let answer = try client.readToReady()
                    #expect(!answer.contains { $0.type == "E" } && answer.last?.transactionStatus == "T", "\(answer)")
                }
                client.send(batch(["COMMIT"]))
                #expect(try client.readToReady().last?.transactionStatus == "I")
            }
            try writers.awaitMore()
        }
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try one.expectWhole(outcome, database, authority: "old")
        try changes.expectAlike(godwit, database)
        #expect(try servers.new.psql("SELECT count(*) FROM people", database: database).hasPrefix("52"))
        let verify = try GodwitProcess.command(["verify", "--config", godwit.configurationPath, database])
        #expect(verify.wait() == .code(0), "\(verify.output.text) \(verify.errors.text)")
        try waitUntil {
            try godwit.console("SHOW EVENTS").filter { $0["kind"] == "ddl" }.count == migrations.count
        }
    }

    @Test func `what comes along does so by several in one text, and renames of it do as well`() throws {
        let (database, godwit, client) = try setUp()
        try run(client, [
            ("BEGIN", "ok T"), (Self.add, "ok T"),
            ("CREATE UNIQUE INDEX first ON accounts (a, id); COMMENT ON INDEX first IS 'x'", "ok T"),
            ("ALTER INDEX first RENAME TO second", "ok T"),
            ("ALTER TABLE accounts ADD CONSTRAINT one CHECK (a > 0)", "ok T"),
            ("ALTER TABLE accounts RENAME CONSTRAINT one TO two", "ok T"), ("COMMIT", "ok I"),
            ("ALTER TABLE accounts RENAME CONSTRAINT two TO three", "ok I"),
            ("ALTER TABLE accounts DROP CONSTRAINT three", "ok I"),
        ])
        try changes.expectAlike(godwit, database)
        for server in [servers.old, servers.new] {
            let sql = "SELECT obj_description('second'::regclass)"
            #expect(try server.psql(sql, database: database) == "x")
        }
    }

    @Test func `a framework's own migrations run through it`() throws {
        let (database, godwit, _) = try setUp()
        try runDriver("django_migrations", [one.conninfo(godwit, database)])
        try changes.expectAlike(godwit, database)
    }

    @Test(arguments: ["transaction", "session"])
    func `batches, named statements and pipelines run as queries do`(mode: String) throws {
        let (database, godwit, client) = try setUp { $0.database.pool["pool_mode"] = mode }
        #expect(try client.value("SELECT 1") == "1")
        client.send(batch(["BEGIN", Self.add, "ALTER TABLE entries ADD COLUMN b int"]))
        #expect(try client.readToReady().compactMap(\.commandTag) == ["BEGIN", "ALTER TABLE", "ALTER TABLE"])
        for (name, sql) in [("ddl", "CREATE TABLE fresh (id int PRIMARY KEY)"), ("end", "COMMIT")] {
            client.send(FrameBuilder.parse(sql, name: name) + FrameBuilder.describeStatement(name) + FrameBuilder.sync)
            #expect(try client.readToReady().last?.transactionStatus == "T")
            client.send(FrameBuilder.bind(statement: name, portal: name) + FrameBuilder.execute(portal: name)
                + FrameBuilder.sync)
            let answer = try client.readToReady()
            #expect(answer.last?.transactionStatus == (name == "end" ? "I" : "T"), "\(answer)")
        }
        // Npgsql's way, and everything behind each other.
        client.send(FrameBuilder.query("BEGIN") + batch(["ALTER TABLE fresh ADD COLUMN b int"])
            + FrameBuilder.query("INSERT INTO fresh VALUES (1, 2)") + FrameBuilder.query("DROP TABLE parts")
            + FrameBuilder.query("COMMIT") + FrameBuilder.query("SELECT b FROM fresh"))
        var types: [String] = []
        for _ in 0..<6 { types.append(String(try client.readToReady().map(\.type))) }
        #expect(types == ["CZ", "12nCZ", "CZ", "CZ", "CZ", "TDCZ"])
        // The end in one text with more.
        try run(client, [
            ("BEGIN", "ok T"), ("ALTER TABLE fresh ADD COLUMN c int", "ok T"),
            ("INSERT INTO fresh VALUES (2, 2); COMMIT; BEGIN; INSERT INTO fresh VALUES (3, 3, 3)", "ok T"),
            ("COMMIT", "ok I"),
        ])
        try changes.expectAlike(godwit, database)
        #expect(try servers.new.psql("SELECT count(c), count(*) FROM fresh", database: database) == "1|3")
    }

    @Test func `a read on NEW sees what its client's transaction has just changed`() throws {
        let (database, godwit, client) = try setUp { $0.database.readsPercent = "100" }
        for number in 0..<5 {
            try run(client, [
                ("BEGIN", "ok T"), ("SELECT count(*) FROM accounts", "ok T"),
                ("CREATE TABLE t\(number) (id int PRIMARY KEY)", "ok T"), ("INSERT INTO t\(number) VALUES (1)", "ok T"),
                ("ALTER TABLE accounts ADD COLUMN c\(number) int DEFAULT \(number)", "ok T"), ("COMMIT", "ok I"),
            ])
            #expect(try client.value("SELECT sum(c\(number)) FROM accounts") == "\(20 * number)")
            #expect(try client.value("SELECT count(*) FROM t\(number)") == "1")
        }
        client.send(["BEGIN", "CREATE TABLE last (id int PRIMARY KEY)", "COMMIT", "SELECT count(*) FROM last"]
            .flatMap { FrameBuilder.query($0) })
        for types in ["CZ", "CZ", "CZ", "TDCZ"] { #expect(String(try client.readToReady().map(\.type)) == types) }
        try changes.expectAlike(godwit, database)
    }

    @Test func `tables that exchange names do so, and DDL goes on`() throws {
        let database = try servers.makeDatabase(Self.schema + """
            ; CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)
            """, old: "INSERT INTO a VALUES (1, 'a'); INSERT INTO b VALUES (2, 'b')")
        let godwit = try changes.mirroring(database)
        let client = try changes.client(godwit, database)
        for _ in 0..<2 {
            try run(client, [
                ("BEGIN", "ok T"), ("ALTER TABLE a RENAME TO c", "ok T"), ("ALTER TABLE b RENAME TO a", "ok T"),
                ("ALTER TABLE c RENAME TO b", "ok T"), ("COMMIT", "ok I"),
                ("UPDATE a SET v = v || 'x'", "ok I"), ("INSERT INTO b VALUES (3, 'new')", "ok I"),
            ])
            try waitUntil { try isLetGo(godwit, database) }
        }
        try run(client, [("ALTER TABLE b ADD COLUMN n int", "ok I")])
        try changes.expectAlike(godwit, database)
        #expect(try servers.new.psql("SELECT table_name FROM godwit.backfill ORDER BY 1", database: database)
            .split(separator: "\n").prefix(3) == ["a", "accounts", "b"])
    }

    /// Each partition has its side's own value for the rows that it had; its table tells nothing of it.
    @Test func `a default that is gone again at the end of the transaction leaves both sides alike`() throws {
        let database = try servers.makeDatabase(
            Self.schema, old: SwitchTests.rows + "; INSERT INTO parts (at) VALUES ('2020-02-02'), ('2021-03-03')")
        let godwit = try changes.mirroring(database)
        let client = try changes.client(godwit, database)
        try run(client, [
            ("BEGIN", "ok T"), ("ALTER TABLE parts ADD COLUMN seen timestamptz NOT NULL DEFAULT now()", "ok T"),
            ("ALTER TABLE parts ALTER seen DROP DEFAULT", "ok T"), ("COMMIT", "ok I"),
        ])
        try changes.expectAlike(godwit, database)
        let seen = "SELECT min(seen), max(seen) FROM parts"
        #expect(try servers.new.psql(seen, database: database) == servers.old.psql(seen, database: database))
    }

    @Test func `what its transaction has set is set on both sides`() throws {
        let (database, godwit, client) = try setUp()
        try run(client, [
            ("CREATE SCHEMA other", "ok I"), ("BEGIN", "ok T"), ("SET LOCAL search_path = other, public", "ok T"),
            ("SET LOCAL lock_timeout = '5s'", "ok T"), ("CREATE TABLE here (id int PRIMARY KEY)", "ok T"),
            ("SET search_path = public", "ok T"), ("CREATE TABLE there (id int PRIMARY KEY)", "ok T"),
            ("COMMIT", "ok I"),
            ("BEGIN", "ok T"), ("SET search_path = other", "ok T"), ("RESET search_path", "ok T"),
            ("CREATE TABLE nowhere (id int PRIMARY KEY)", "0A000 E"), ("ROLLBACK", "ok I"),
        ])
        for server in [servers.old, servers.new] {
            #expect(try server.psql("""
                SELECT schemaname, tablename FROM pg_tables WHERE tablename IN ('here', 'there') ORDER BY 1
                """, database: database) == "other|here\npublic|there")
        }
        try changes.expectAlike(godwit, database)
    }

    @Test func `behind a cutover it runs on OLD first, and on NEW by the client's own server`() throws {
        let (database, godwit, client) = try setUp()
        try one.switchOver(godwit, "CUTOVER", database)
        try one.waitForMirror(godwit)
        try run(client, [
            ("BEGIN", "ok T"), (Self.add, "ok T"), ("UPDATE accounts SET a = 9 WHERE id = 3", "ok T"),
            ("CREATE TABLE fresh (id int PRIMARY KEY)", "ok T"), ("INSERT INTO fresh VALUES (1)", "ok T"),
            ("COMMIT", "ok I"),
        ])
        try changes.expectAlike(godwit, database)
        try one.switchOver(godwit, "ROLLBACK", database)
        try one.waitForMirror(godwit)
        try run(client, [("BEGIN", "ok T"), ("DROP TABLE fresh", "ok T"), ("COMMIT", "ok I")])
        try changes.expectAlike(godwit, database)
    }

    // MARK: it runs on neither

    @Test func `what a side refuses fails the transaction, and is on neither`() throws {
        let database = try servers.makeDatabase(
            Self.schema, old: SwitchTests.rows, new: "CREATE TABLE only_new (id int PRIMARY KEY)")
        let godwit = try changes.mirroring(database)
        let client = try changes.client(godwit, database)
        let before = try changes.contents(servers.old, database)
        for isFirst in [true, false] {
            try run(client, [("BEGIN", "ok T"), ("INSERT INTO migrations VALUES (1)", "ok T")])
            if !isFirst { try run(client, [(Self.add, "ok T")]) }
            let answer = try client.query("CREATE TABLE only_new (id int PRIMARY KEY)")
            #expect(answer.first?.sqlState == "42P07" && answer.last?.transactionStatus == "E")
            #expect(answer.first?.fields["M"]?.contains("NEW refuses it") == true, "\(answer)")
            try run(client, [("SELECT 1", "25P02 E"), ("COMMIT", "ok I")])
            // By OLD, which is asked behind NEW.
            try run(client, [("BEGIN", "ok T"), ("CREATE TABLE new_one (id int PRIMARY KEY)", "ok T")])
            client.send(FrameBuilder.query("INSERT INTO new_one VALUES (1), (1)"))
            #expect(try client.readToReady().first?.sqlState == "23505")
            try run(client, [("ALTER TABLE accounts ADD COLUMN b int", "25P02 E"), ("ROLLBACK", "ok I")])
        }
        try servers.old.psql("SET ROLE app; CREATE TABLE only_old (id int)", database: database)
        try run(client, [
            ("BEGIN", "ok T"), (Self.add, "ok T"), ("CREATE TABLE only_old (id int)", "42P07 E"), ("ROLLBACK", "ok I"),
        ])
        try servers.old.psql("DROP TABLE only_old", database: database)
        #expect(try changes.contents(servers.old, database) == before)
        #expect(try isLetGo(godwit, database))
        // The same with batches: what is behind what fails is skipped.
        client.send(batch(["BEGIN", Self.add, "CREATE TABLE only_new (id int)", "INSERT INTO migrations VALUES (7)"]))
        #expect(String(try client.readToReady().map(\.type)) == "12nC12nC12nEZ")
        try run(client, [("ROLLBACK", "ok I"), ("BEGIN", "ok T"), (Self.add, "ok T"), ("COMMIT", "ok I")])
        try servers.new.psql("DROP TABLE only_new", database: database)
        try changes.expectAlike(godwit, database)
    }

    @Test func `ROLLBACK, and a client or a server that goes away, take it back on both sides`() throws {
        let (database, godwit, client) = try setUp()
        let before = try columns(servers.old, database)
        try run(client, [("BEGIN", "ok T"), (Self.add, "ok T"), ("ROLLBACK", "ok I")])
        client.send(batch(["BEGIN", Self.add]) + batch(["ROLLBACK"]))
        #expect(String(try client.readToReady().map(\.type)) == "12nC12nCZ")
        #expect(String(try client.readToReady().map(\.type)) == "12nCZ")
        #expect(try isLetGo(godwit, database))
        let leaving = try changes.client(godwit, database)
        try run(leaving, [("BEGIN", "ok T"), (Self.add, "ok T")])
        leaving.reset()
        #expect(try isLetGo(godwit, database))
        // Its answer is not waited for.
        let hasty = try changes.client(godwit, database)
        try run(hasty, [("BEGIN", "ok T")])
        hasty.send(FrameBuilder.query(Self.add))
        hasty.reset()
        #expect(try isLetGo(godwit, database))
        let orphan = try changes.client(godwit, database)
        try run(orphan, [("BEGIN", "ok T"), (Self.add, "ok T")])
        let pid = try orphan.value("SELECT pg_backend_pid()") ?? ""
        try servers.old.psql("SELECT pg_terminate_backend(\(pid))", database: database)
        #expect(try orphan.readToError()?.fields["S"] == "FATAL")
        #expect(try isLetGo(godwit, database))
        for server in [servers.old, servers.new] {
            try waitUntil { try columns(server, database) == before }
        }
        try run(client, [("BEGIN", "ok T"), (Self.add, "ok T"), ("COMMIT", "ok I")])
        try changes.expectAlike(godwit, database)
    }

    @Test func `nobody is refused for the DDL of a client that has gone`() throws {
        let (database, godwit, client) = try setUp()
        let writer = try changes.client(godwit, database)
        try run(writer, [("BEGIN", "ok T"), ("UPDATE accounts SET balance = 7 WHERE id = 2", "ok T")])
        let hasty = try changes.client(godwit, database)
        try run(hasty, [("BEGIN", "ok T")])
        hasty.send(FrameBuilder.query(Self.add))
        // It waits for the writer.
        let begun = "SELECT count(*) FROM pg_stat_activity WHERE datname = '\(database)' AND query = 'BEGIN'"
        try waitUntil { try servers.old.psql(begun, database: database).hasPrefix("1") }
        hasty.reset()
        try run(client, [("BEGIN", "ok T")])
        client.send(FrameBuilder.query(Self.add))
        try waitUntil { try servers.old.psql(begun, database: database).hasPrefix("1") }
        try run(writer, [("COMMIT", "ok I")])
        #expect(try client.readToReady().last?.transactionStatus == "T")
        try run(client, [("COMMIT", "ok I")])
        try changes.expectAlike(godwit, database)
        #expect(try columns(servers.new, database) == "id,balance,a")
    }

    @Test func `a commit that fails on OLD takes it back on NEW`() throws {
        let (database, godwit, client) = try setUp()
        let before = try changes.contents(servers.old, database)
        let child = "CREATE TABLE child (id int PRIMARY KEY REFERENCES accounts DEFERRABLE INITIALLY DEFERRED)"
        for end in [FrameBuilder.query("COMMIT"), batch(["COMMIT"])] {
            try run(client, [("BEGIN", "ok T"), (child, "ok T"), ("INSERT INTO child VALUES (4711)", "ok T")])
            client.send(end)
            let answer = try client.readToReady()
            #expect(answer.contains { $0.sqlState == "23503" } && answer.last?.transactionStatus == "I", "\(answer)")
            #expect(try isLetGo(godwit, database))
        }
        // Nor does one that is not reached.
        try run(client, [("BEGIN", "ok T"), (child, "ok T"), ("SELECT 1 / 0; COMMIT", "22012 E"), ("COMMIT", "ok I")])
        try run(client, [
            ("BEGIN", "ok T"), (child, "ok T"), ("SAVEPOINT s", "ok T"), ("SELECT 1 / 0; COMMIT", "22012 E"),
            ("ROLLBACK", "ok I"),
        ])
        #expect(try isLetGo(godwit, database))
        #expect(try changes.contents(servers.old, database) == before)
        #expect(try changes.contents(servers.new, database) == before)
    }

    @Test func `a transaction that holds writes for longer than ddl_wait is ended, and writers go on`() throws {
        // Enough for what has to be done before it, also on a busy machine.
        let (database, godwit, client) = try setUp { $0.database.mirror["ddl_wait"] = "5" }
        let before = try columns(servers.old, database)
        try run(client, [("BEGIN", "ok T"), (Self.add, "ok T"), ("INSERT INTO migrations VALUES (1)", "ok T")])
        let writer = try changes.client(godwit, database)
        // It is held, and goes on.
        #expect(try changes.state(writer, "UPDATE accounts SET balance = 5 WHERE id = 2") == "ok I")
        let farewell = try client.readToError()
        #expect(farewell?.sqlState == "55P03" && farewell?.fields["S"] == "FATAL", "\(String(describing: farewell))")
        #expect(try client.readToEnd() == [])
        for server in [servers.old, servers.new] {
            try waitUntil { try columns(server, database) == before }
        }
        _ = try godwit.console("SET databases.\(database).mirror.ddl_wait = 1")
        // One that waits for a lock of OLD is ended too.
        let around = try WireClient(port: servers.old.port, database: database)
        #expect(try changes.state(around, "BEGIN; LOCK TABLE accounts IN ACCESS SHARE MODE") == "ok T")
        let waiting = try changes.client(godwit, database)
        try run(waiting, [("BEGIN", "ok T")])
        waiting.send(FrameBuilder.query(Self.add))
        #expect(try waiting.readToError()?.sqlState == "55P03")
        #expect(try changes.state(around, "COMMIT") == "ok I")
        // One whose hold is not reached fails, and keeps its connection.
        let open = try changes.client(godwit, database)
        try run(open, [("BEGIN", "ok T"), ("INSERT INTO accounts VALUES (100, 1)", "ok T")])
        try run(writer, [("BEGIN", "ok T"), (Self.add, "55P03 E"), ("ROLLBACK", "ok I")])
        try run(open, [("COMMIT", "ok I")])
        _ = try godwit.console("SET databases.\(database).mirror.ddl_wait = 20")
        try run(writer, [("BEGIN", "ok T"), (Self.add, "ok T"), ("COMMIT", "ok I")])
        try changes.expectAlike(godwit, database)
    }

    @Test func `a transaction that rests and has only taken locks is not waited for, as tools keep one`() throws {
        let (database, godwit, client) = try setUp()
        let locks = ["SELECT pg_try_advisory_xact_lock(7)", "LOCK TABLE migrations IN SHARE UPDATE EXCLUSIVE MODE"]
        for (number, lock) in locks.enumerated() {
            let keeper = try changes.client(godwit, database)
            try run(keeper, [("BEGIN", "ok T"), (lock, "ok T"), ("SELECT count(*) FROM migrations", "ok T")])
            try run(client, [
                ("ALTER TABLE entries ADD COLUMN b\(number) int", "ok I"), ("BEGIN", "ok T"),
                ("ALTER TABLE accounts ADD COLUMN a\(number) int", "ok T"),
            ])
            // It may write while others are held: they wait for those whom the DDL waits for.
            try run(keeper, [("INSERT INTO migrations VALUES (\(number), now())", "ok T")])
            try run(client, [("COMMIT", "ok I")])
            try run(keeper, [("COMMIT", "ok I")])
        }
        try changes.expectAlike(godwit, database)
    }

    @Test func `what the other side could not follow is refused, and fails the transaction`() throws {
        let (database, godwit, client) = try setUp()
        let before = try changes.contents(servers.old, database)
        let long = "SELECT 1 /* \(String(repeating: "x", count: 70_000)) */; COMMIT"
        for (sql, wanted) in [
            ("ROLLBACK TO s; COMMIT", "0A000 E"), ("SELECT 1; ROLLBACK TO s; SELECT 2; COMMIT; SELECT 3", "0A000 E"),
            ("PREPARE TRANSACTION 'godwit_test'", "0A000 E"), ("SELECT 1; PREPARE TRANSACTION 'godwit_test'", "0A000 E"),
            ("COMMIT AND CHAIN", "0A000 E"), ("ROLLBACK AND CHAIN", "0A000 E"), (long, "0A000 E"),
            ("CREATE TABLE c AS SELECT 1 AS id", "0A000 E"), ("ALTER TABLE accounts DISABLE TRIGGER ALL", "0A000 E"),
        ] {
            try run(client, [
                ("BEGIN", "ok T"), ("SAVEPOINT s", "ok T"), (Self.add, "ok T"), ("SAVEPOINT t", "ok T"),
                ("RELEASE t", "ok T"), (sql, wanted), ("SELECT 1", "25P02 E"), ("COMMIT", "ok I"),
            ])
        }
        for key in ["RENAME COLUMN id TO number", "ALTER COLUMN id TYPE bigint", "DROP CONSTRAINT accounts_pkey"] {
            try run(client, [
                ("BEGIN", "ok T"), ("ALTER TABLE accounts \(key)", "ok T"), ("COMMIT", "0A000 E"), ("ROLLBACK", "ok I"),
            ])
        }
        #expect(try changes.contents(servers.old, database) == before)
        #expect(try isLetGo(godwit, database))
        // Before the first DDL nothing of that is in the way, and what is long may come.
        let row = "INSERT INTO migrations VALUES (1) /* \(String(repeating: "x", count: 100_000)) */"
        try run(client, [
            ("BEGIN", "ok T"), ("SAVEPOINT s", "ok T"), ("SELECT 1 / 0", "22012 E"), ("ROLLBACK TO s", "ok T"),
            (Self.add, "ok T"), (row, "ok T"), ("COMMIT", "ok I"),
        ])
        try changes.expectAlike(godwit, database)
    }

    // MARK: others

    @Test func `others' DDL waits for its turn, and a switch is refused meanwhile`() throws {
        let (database, godwit, client) = try setUp()
        let other = try changes.client(godwit, database)
        try run(client, [("BEGIN", "ok T"), (Self.add, "ok T")])
        other.send(FrameBuilder.query("ALTER TABLE accounts ADD COLUMN b int"))
        let third = try changes.client(godwit, database)
        third.send(batch(["BEGIN", "ALTER TABLE accounts ADD COLUMN c int"]))
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        console.send(FrameBuilder.query("CUTOVER \(database) WITHOUT VERIFY DEADLINE 1000"))
        #expect(try console.readToError()?.fields["M"]?.contains("another switch is under way") == true)
        try run(client, [("INSERT INTO migrations VALUES (1)", "ok T"), ("COMMIT", "ok I")])
        // Whichever of both comes first, the third's transaction, in which nothing was done, keeps nobody waiting.
        #expect(try third.readToReady().last?.transactionStatus == "T")
        try run(third, [("COMMIT", "ok I")])
        #expect(String(try other.readToReady().map(\.type)) == "CZ")
        try changes.expectAlike(godwit, database)
        #expect(Set(try columns(servers.new, database).split(separator: ",")) == ["id", "balance", "a", "b", "c"])
    }

    @Test func `of two transactions with writes that would wait for each other one is refused`() throws {
        let (database, godwit, client) = try setUp()
        let other = try changes.client(godwit, database)
        let clients = [client, other]
        for (version, client) in clients.enumerated() {
            try run(client, [("BEGIN", "ok T"), ("INSERT INTO migrations VALUES (\(version))", "ok T")])
        }
        for (column, client) in zip(["b", "c"], clients) {
            client.send(FrameBuilder.query("ALTER TABLE accounts ADD COLUMN \(column) int"))
        }
        // A third that has done nothing is not among them.
        let third = try changes.client(godwit, database)
        try run(third, [("BEGIN", "ok T")])
        third.send(FrameBuilder.query(Self.add))
        waitUntil { clients.contains { $0.hasSomethingToRead } }
        let refused = client.hasSomethingToRead ? client : other, winner = refused === client ? other : client
        let refusal = try refused.readToReady()
        #expect(refusal.contains { $0.sqlState == "40P01" }, "\(refusal)")
        try run(refused, [("ROLLBACK", "ok I")])
        #expect(try winner.readToReady().last?.transactionStatus == "T")
        try run(winner, [("COMMIT", "ok I")])
        #expect(try third.readToReady().last?.transactionStatus == "T")
        try run(third, [("COMMIT", "ok I")])
        try changes.expectAlike(godwit, database)
    }

    /// What is left to be done behind the commit of the first waits for the second.
    @Test func `a transaction that begins in one text with another's commit does not wait for itself`() throws {
        let (database, godwit, client) = try setUp()
        try run(client, [
            ("BEGIN", "ok T"), ("CREATE TABLE fresh (id int PRIMARY KEY)", "ok T"),
            ("COMMIT; BEGIN; INSERT INTO fresh VALUES (50)", "ok T"),
        ])
        let answer = try client.query(Self.add)
        if let error = answer.first(where: { $0.type == "E" }) {
            #expect(error.sqlState == "55000" && error.fields["H"]?.contains("try again") == true, "\(answer)")
        }
        try run(client, [("ROLLBACK", "ok I")])
        try waitUntil { try changes.state(client, Self.add) == "ok I" }
        try run(client, [("INSERT INTO fresh VALUES (1)", "ok I")])
        try changes.expectAlike(godwit, database)
    }

    @Test(arguments: [false, true])
    func `DDL waits until an earlier one, whose locks others hold, is finished`(isInTransaction: Bool) throws {
        let (database, godwit, client) = try setUp { $0.database.mirror["ddl_wait"] = "600" }
        let other = try changes.client(godwit, database)
        try run(client, [
            ("BEGIN", "ok T"), ("CREATE TABLE fresh (id int PRIMARY KEY)", "ok T"),
            ("COMMIT; BEGIN; INSERT INTO fresh VALUES (50)", "ok T"),
        ])
        if isInTransaction { try run(other, [("BEGIN", "ok T")]) }
        let late = "still to be made"
        try waitUntil { try godwit.console("SHOW EVENTS").contains { $0["cause"]?.contains(late) == true } }
        // It waits for a lock, does not get it, and waits for it again, by a session of its own each time.
        let before = try waitingForLocks(database)
        other.send(FrameBuilder.query(Self.add))
        var seen: Set<Substring> = []
        try waitUntil {
            seen.formUnion(try waitingForLocks(database).subtracting(before))
            return seen.count >= 4
        }
        try run(client, [("COMMIT", "ok I")])
        #expect(String(try other.readToReady().map(\.type)) == "CZ")
        if isInTransaction { try run(other, [("COMMIT", "ok I")]) }
        try run(client, [("INSERT INTO fresh VALUES (1)", "ok I")])
        try changes.expectAlike(godwit, database)
    }

    private func waitingForLocks(_ database: String) throws -> Set<Substring> {
        Set(try servers.old.psql("""
            SELECT pid FROM pg_stat_activity WHERE datname = '\(database)' AND wait_event_type = 'Lock'
            """, database: database).split(separator: "\n"))
    }

    @Test func `a reload that has DDL refused ends a transaction that has some`() throws {
        let database = try servers.makeDatabase(Self.schema, old: SwitchTests.rows)
        let godwit = try changes.mirroring(database)
        let client = try changes.client(godwit, database)
        try run(client, [("BEGIN", "ok T"), (Self.add, "ok T")])
        _ = try godwit.console("SET databases.\(database).mirror.ddl = refuse")
        #expect(try client.readToError()?.fields["S"] == "FATAL")
        #expect(try isLetGo(godwit, database))
        for server in [servers.old, servers.new] {
            try waitUntil { try columns(server, database) == "id,balance" }
        }
    }

    // MARK: killed

    @Test(arguments: ChangeTests.steps, [FrameBuilder.query("COMMIT"), FrameBuilder.query("SELECT 1; COMMIT")])
    func `a Godwit killed before a step leaves it on both sides or on neither`(step: String, end: [UInt8]) throws {
        let (database, first, _) = try setUp()
        #expect(first.terminate() == .code(0))
        let before = try changes.contents(servers.old, database)
        var configuration = GodwitConfiguration([servers.entry(database)])
        ChangeTests.barrier(&configuration)
        let dying = try GodwitProcess(configuration, environment: ["GODWIT_DIE_BEFORE": step])
        try waitUntil { try changes.isReadable(dying, database) }
        let client = try changes.client(dying, database)
        let statements = [
            "INSERT INTO migrations VALUES (1)", "SET LOCAL lock_timeout = '3s'", Self.add,
            "ALTER TABLE accounts RENAME TO holders", "UPDATE holders SET a = 5 WHERE id = 5",
            "CREATE TABLE fresh (id int PRIMARY KEY)", "INSERT INTO fresh VALUES (1)", "DROP TABLE parts",
        ]
        client.send(FrameBuilder.query("BEGIN") + statements.flatMap { FrameBuilder.query($0) } + end)
        #expect(dying.process.wait() == .signal(SIGKILL))
        let godwit = try GodwitProcess(resuming: dying)
        try waitUntil { try changes.isReadable(godwit, database) }
        try waitUntil { try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0") }
        let isMade = try changes.contents(servers.old, database) != before
        #expect(isMade == ["ddl_target", "ddl_finish"].contains(step))
        try changes.expectAlike(godwit, database)
        let next = try changes.client(godwit, database)
        if !isMade { try run(next, [("BEGIN", "ok T")] + statements.map { ($0, "ok T") } + [("COMMIT", "ok I")]) }
        try run(next, [("INSERT INTO fresh VALUES (2)", "ok I")])
        try changes.expectAlike(godwit, database)
        #expect(try servers.new.psql("SELECT count(*) FROM fresh", database: database).hasPrefix("2"))
    }
}
