import Foundation
import Glibc
import TestSupport
import Testing

/// `mirror.ddl: barrier`: DDL between savepoints stands on both sides, or on neither.
@Suite(.serialized) struct ChangeSavepointTests {
    let transactions: ChangeTransactionTests
    var changes: ChangeTests { transactions.changes }
    var servers: Servers { transactions.servers }

    init() throws { transactions = try ChangeTransactionTests() }

    private static func add(_ column: String, _ rest: String = "") -> String {
        "ALTER TABLE accounts ADD COLUMN \(column) int\(rest)"
    }

    /// What a transaction does, with the status behind each of its statements, and the columns that it leaves behind.
    private static let scripts: [(name: String, steps: [(String, String)], columns: String)] = [
        ("before and behind", [
            ("SAVEPOINT s", "ok T"), (add("a"), "ok T"), ("ROLLBACK TO s", "ok T"), (add("b"), "ok T"),
            ("SAVEPOINT s", "ok T"), ("UPDATE accounts SET b = 4", "ok T"), (add("c"), "ok T"),
            ("ROLLBACK TO s", "ok T"), ("UPDATE accounts SET b = 5", "ok T"), (add("d", " DEFAULT 7"), "ok T"),
            ("RELEASE s", "ok T"), ("COMMIT", "ok I"),
        ], "b,d"),
        ("all of it", [
            ("INSERT INTO migrations VALUES (1)", "ok T"), ("SAVEPOINT s", "ok T"), (add("a"), "ok T"),
            ("DROP TABLE parts", "ok T"), ("ROLLBACK TO s", "ok T"),
            ("INSERT INTO parts (at) VALUES ('2020-02-02')", "ok T"), ("COMMIT", "ok I"),
        ], ""),
        ("nested, released and of one name", [
            (add("a"), "ok T"), ("SAVEPOINT s", "ok T"), (add("b"), "ok T"), ("SAVEPOINT s", "ok T"),
            (add("c"), "ok T"), ("SAVEPOINT t", "ok T"), (add("d"), "ok T"), ("RELEASE t", "ok T"),
            ("ROLLBACK TO s", "ok T"), ("ROLLBACK TO s", "ok T"), ("RELEASE s", "ok T"), (add("e"), "ok T"),
            ("ROLLBACK TO s", "ok T"), (add("f"), "ok T"), ("COMMIT", "ok I"),
        ], "a,f"),
        ("in one text with others", [
            (add("a"), "ok T"), ("SAVEPOINT s; INSERT INTO migrations VALUES (1)", "ok T"), (add("b"), "ok T"),
            ("SELECT 1; ROLLBACK TO s; SAVEPOINT t", "ok T"), (add("c"), "ok T"),
            ("RELEASE t; SELECT 1 / 0", "22012 E"), ("ROLLBACK TO t", "3B001 E"), ("ROLLBACK TO s", "ok T"),
            ("COMMIT", "ok I"),
        ], "a"),
        ("what OLD refuses", [
            (add("a"), "ok T"), ("SAVEPOINT s", "ok T"), (add("b"), "ok T"), (add("a"), "42701 E"),
            (add("c"), "25P02 E"), ("ROLLBACK TO s", "ok T"), (add("c"), "ok T"),
            ("CREATE TABLE only_old (id int PRIMARY KEY)", "42P07 E"), ("ROLLBACK TO s", "ok T"), (add("d"), "ok T"),
            ("COMMIT", "ok I"),
        ], "a,d"),
        ("what NEW refuses", [
            ("SAVEPOINT s", "ok T"), ("CREATE TABLE only_new (id int PRIMARY KEY)", "42P07 E"),
            ("ROLLBACK TO s", "ok T"), (add("a"), "ok T"), ("SAVEPOINT s", "ok T"), ("SET LOCAL lock_timeout = '7s'", "ok T"),
            ("CREATE TABLE only_new (id int PRIMARY KEY)", "42P07 E"), ("ROLLBACK TO s", "ok T"), (add("b"), "ok T"),
            ("COMMIT", "ok I"),
        ], "a,b"),
        ("indexes come along as long as DDL stands", [
            (add("a"), "ok T"), ("SAVEPOINT s", "ok T"), ("CREATE INDEX gone ON accounts (a)", "ok T"),
            ("ROLLBACK TO s", "ok T"), ("CREATE INDEX kept ON accounts (a)", "ok T"), ("COMMIT", "ok I"),
        ], "a"),
        ("renamed and dropped", [
            ("ALTER TABLE accounts RENAME TO holders", "ok T"), ("SAVEPOINT s", "ok T"),
            ("ALTER TABLE holders RENAME TO keepers", "ok T"), ("DROP TABLE entries CASCADE", "ok T"),
            ("UPDATE keepers SET balance = 1 WHERE id = 1", "ok T"), ("ROLLBACK TO s", "ok T"),
            ("UPDATE holders SET balance = 2 WHERE id = 2", "ok T"), ("ALTER TABLE holders RENAME TO accounts", "ok T"),
            (add("a"), "ok T"), ("COMMIT", "ok I"),
        ], "a"),
        ("with the end refused", [
            (add("a"), "ok T"), ("SAVEPOINT s", "ok T"), (add("b"), "ok T"), ("ROLLBACK TO s; COMMIT", "0A000 E"),
            ("ROLLBACK TO s", "ok T"), ("COMMIT", "ok I"),
        ], "a"),
        ("rolled back whole", [
            (add("a"), "ok T"), ("SAVEPOINT s", "ok T"), (add("b"), "ok T"), ("ROLLBACK TO s", "ok T"),
            ("ROLLBACK", "ok I"),
        ], ""),
    ]

    private func setUp() throws -> (database: String, godwit: GodwitProcess, client: WireClient) {
        let database = try servers.makeDatabase(
            ChangeTransactionTests.schema, old: SwitchTests.rows, new: "CREATE TABLE only_new (id int PRIMARY KEY)")
        let godwit = try changes.mirroring(database)
        try servers.old.psql("SET ROLE app; CREATE TABLE only_old (id int)", database: database)
        return (database, godwit, try changes.client(godwit, database))
    }

    private func expectSame(_ godwit: GodwitProcess, _ database: String, columns: String, _ name: String) throws {
        let wanted = columns.isEmpty ? "id,balance" : "id,balance,\(columns)"
        #expect(try transactions.columns(servers.old, database) == wanted, "\(name)")
        try servers.old.psql("DROP TABLE only_old", database: database)
        try servers.new.psql("DROP TABLE only_new", database: database)
        try changes.expectAlike(godwit, database)
        let query = "SELECT string_agg(indexname, ',' ORDER BY 1) FROM pg_indexes WHERE schemaname = 'public'"
        let indexes = try [servers.old, servers.new].map { try $0.psql(query, database: database) }
        #expect(indexes[0] == indexes[1], "\(name)")
        #expect(try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0"))
    }

    @Test(arguments: scripts.indices)
    func `what was rolled back to a savepoint is on neither side, and what stands on both`(index: Int) throws {
        let (name, steps, columns) = Self.scripts[index]
        let (database, godwit, client) = try setUp()
        try transactions.run(client, [("BEGIN", "ok T")] + steps)
        try expectSame(godwit, database, columns: columns, name)
        // Nothing is held, and the next one runs.
        try transactions.run(client, [("BEGIN", "ok T"), (Self.add("last"), "ok T"), ("COMMIT", "ok I")])
        try changes.expectAlike(godwit, database)
    }

    @Test(arguments: ["transaction", "session"])
    func `savepoints among batches count as in queries`(mode: String) throws {
        let (database, godwit, client) = try transactions.setUp { $0.database.pool["pool_mode"] = mode }
        for (batch, count) in [
            (["BEGIN", "SAVEPOINT s", Self.add("a"), "ROLLBACK TO s", Self.add("b"), "SAVEPOINT s", Self.add("c")], 7),
            (["ROLLBACK TO s", "SET LOCAL lock_timeout = '9s'", Self.add("d"), "SAVEPOINT t", Self.add("e")], 5),
            (["RELEASE t", Self.add("f"), "ROLLBACK TO s", "RELEASE s", Self.add("g"), "COMMIT"], 6),
        ] {
            client.send(transactions.batch(batch))
            let answer = String(try client.readToReady().map(\.type))
            #expect(answer == String(repeating: "12nC", count: count) + "Z", "\(batch)")
        }
        #expect(try transactions.columns(servers.old, database) == "id,balance,b,g")
        try changes.expectAlike(godwit, database)
        // All behind each other, and with what fails between.
        client.send([
            "BEGIN", Self.add("h"), "SAVEPOINT s", Self.add("i"), "SELECT 1 / 0", Self.add("j"), "ROLLBACK TO s",
            Self.add("k"), "COMMIT",
        ].flatMap { FrameBuilder.query($0) })
        for types in ["CZ", "CZ", "CZ", "CZ", "EZ", "EZ", "CZ", "CZ", "CZ"] {
            #expect(String(try client.readToReady().map(\.type)) == types)
        }
        try transactions.run(client, [
            ("BEGIN", "ok T"), (Self.add("l"), "ok T"), ("SAVEPOINT s", "ok T"), (Self.add("m"), "ok T"),
        ])
        for (name, sql) in [("undo", "ROLLBACK TO s"), ("end", "COMMIT")] {
            client.send(FrameBuilder.parse(sql, name: name) + FrameBuilder.bind(statement: name, portal: name)
                + FrameBuilder.execute(portal: name) + FrameBuilder.sync)
            #expect(String(try client.readToReady().map(\.type)) == "12CZ")
        }
        #expect(try transactions.columns(servers.old, database) == "id,balance,b,g,h,k,l")
        try changes.expectAlike(godwit, database)
    }

    @Test func `what was set behind a savepoint goes back with it on both sides`() throws {
        let (database, godwit, client) = try transactions.setUp()
        try transactions.run(client, [
            ("CREATE SCHEMA other", "ok I"), ("BEGIN", "ok T"), ("CREATE TABLE t0 (id int PRIMARY KEY)", "ok T"),
            ("SET LOCAL TimeZone = 'Asia/Tokyo'", "ok T"), ("SAVEPOINT s", "ok T"),
            ("SET LOCAL search_path = other", "ok T"), ("SET TimeZone = 'America/Lima'", "ok T"),
            ("CREATE TABLE t1 (id int PRIMARY KEY)", "ok T"), ("ROLLBACK TO s", "ok T"),
            ("CREATE TABLE t2 (id int PRIMARY KEY, at timestamptz DEFAULT '2020-02-02 00:00')", "ok T"),
            ("COMMIT", "ok I"),
        ])
        let tables = "SELECT schemaname, tablename FROM pg_tables WHERE tablename ~ '^t[0-9]$' ORDER BY 1, 2"
        let midnight = """
            SELECT (regexp_match(pg_get_expr(adbin, adrelid), '''(.*)'''))[1]::timestamptz = '2020-02-01 15:00+00'
              FROM pg_attrdef WHERE adrelid = 't2'::regclass
            """
        for server in [servers.old, servers.new] {
            #expect(try server.psql(tables, database: database) == "public|t0\npublic|t2")
            #expect(try server.psql(midnight, database: database) == "t")
        }
        try changes.expectAlike(godwit, database)
    }

    @Test func `writers go on when nothing of it stands any more`() throws {
        let (database, godwit, client) = try transactions.setUp()
        try transactions.run(client, [
            ("BEGIN", "ok T"), ("SAVEPOINT s", "ok T"), (Self.add("a"), "ok T"), ("ROLLBACK TO s", "ok T"),
        ])
        #expect(try transactions.isLetGo(godwit, database))
        try transactions.run(client, [(Self.add("b"), "ok T"), ("COMMIT", "ok I")])
        #expect(try transactions.columns(servers.old, database) == "id,balance,b")
        try changes.expectAlike(godwit, database)
    }

    @Test func `a side that is lost meanwhile has the transaction rolled back on both`() throws {
        let (database, godwit, client) = try transactions.setUp()
        try transactions.run(client, [
            ("BEGIN", "ok T"), (Self.add("a"), "ok T"), ("SAVEPOINT s", "ok T"), (Self.add("b"), "ok T"),
        ])
        try servers.new.psql("""
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '\(database)' AND state = 'idle in transaction' AND query ~ 'ADD COLUMN b'
            """, database: database)
        client.send(FrameBuilder.query("ROLLBACK TO s"))
        #expect(try client.readToError()?.sqlState == "55000")
        #expect(try transactions.isLetGo(godwit, database))
        for server in [servers.old, servers.new] {
            try waitUntil { try transactions.columns(server, database) == "id,balance" }
        }
    }

    @Test(arguments: ["ddl_source", "ddl_target", "ddl_finish"])
    func `a Godwit killed before a step brings only what stands`(step: String) throws {
        let (database, first, _) = try transactions.setUp()
        #expect(first.terminate() == .code(0))
        var configuration = GodwitConfiguration([servers.entry(database)])
        ChangeTests.barrier(&configuration)
        let dying = try GodwitProcess(configuration, environment: ["GODWIT_DIE_BEFORE": step])
        try waitUntil { try changes.isReadable(dying, database) }
        let client = try changes.client(dying, database)
        client.send([
            "BEGIN", Self.add("a"), "SAVEPOINT s", "SET LOCAL lock_timeout = '4s'", Self.add("b"), "ROLLBACK TO s",
            Self.add("c"), "COMMIT",
        ].flatMap { FrameBuilder.query($0) })
        #expect(dying.process.wait() == .signal(SIGKILL))
        let godwit = try GodwitProcess(resuming: dying)
        try waitUntil { try changes.isReadable(godwit, database) }
        try waitUntil { try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0") }
        let isMade = ["ddl_target", "ddl_finish"].contains(step)
        #expect(try transactions.columns(servers.old, database) == (isMade ? "id,balance,a,c" : "id,balance"))
        try changes.expectAlike(godwit, database)
    }
}
