import TestSupport
import Testing

/// The programs and drivers that applications use, unchanged, on a pool smaller than their number.
@Suite(.serialized) struct DriverTests {
    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY, v text)")
    }

    func godwit(size: Int = 2) throws -> GodwitProcess {
        try servers.godwit(database) { $0.database.pool = ["size": "\(size)"] }
    }

    @Test(arguments: ["simple", "extended", "prepared"])
    func `pgbench runs without a failed transaction`(mode: String) throws {
        // pgbench waits for a Parse with all clients of a thread: one that waits for a server while the others of its
        // thread hold theirs in transactions would wait for ever. So in prepared mode each client can have one.
        let godwit = try godwit(size: mode == "prepared" ? 12 : 4)
        let conninfo = godwit.conninfo(database: database)
        try ChildProcess.run(["pgbench", "-iq", "-s", "1", conninfo])
        let reads = try ChildProcess.run(["pgbench", "-S", "-M", mode, "-c", "12", "-j", "2", "-t", "100", conninfo])
        #expect(reads.contains("number of failed transactions: 0 "))
        let output = try ChildProcess.run(["pgbench", "-M", mode, "-c", "12", "-j", "2", "-t", "100", conninfo])
        #expect(output.contains("number of transactions actually processed: 1200/1200"))
        #expect(output.contains("number of failed transactions: 0 "))
        let sums = try servers.old.psql("""
            SELECT (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)
            """, database: database)
        #expect(sums == "t")
    }

    @Test func `a psql script with its commands, variables and transactions`() throws {
        let godwit = try godwit(size: 1)
        let script = try TestResources.file("psql", #"""
            \set id 5
            BEGIN;
            INSERT INTO t VALUES (:id, 'five');
            SAVEPOINT s;
            INSERT INTO t VALUES (:id, 'again');
            ROLLBACK TO s;
            COMMIT;
            \copy t FROM STDIN
            6	six
            \.
            \d t
            SELECT string_agg(v, ' ' ORDER BY id) FROM t \gset all_
            \echo :all_string_agg
            DO $$ BEGIN RAISE WARNING 'a warning'; END $$;
            SELECT id FROM t \gdesc
            """#)
        let output = try ChildProcess(["psql", "-XqAt", "-d", godwit.conninfo(database: database), "-f", script])
        #expect(output.wait() == .code(0))
        #expect(output.output.text.contains("five six"))
        #expect(output.output.text.contains("id|integer"))
        #expect(output.errors.text.contains("duplicate key"))
        #expect(output.errors.text.contains("a warning"))
    }

    @Test func `pg_dump reads through Godwit`() throws {
        let godwit = try godwit(size: 1)
        try servers.old.psql("INSERT INTO t VALUES (1, 'dumped')", database: database)
        #expect(try ChildProcess.run(["pg_dump", godwit.conninfo(database: database)]).contains("1\tdumped"))
        // Its search_path must not stay with the server.
        #expect(try godwit.psql("SELECT v FROM t", database: database) == "dumped")
    }

    @Test(arguments: [
        "psycopg3_prepared", "psycopg3_pipeline", "psycopg3_copy", "psycopg3_errors", "psycopg3_cursors",
        "psycopg3_cancel", "psycopg3_latin1", "psycopg2_all", "asyncpg_all",
    ])
    func `a driver works as with PostgreSQL itself`(driver: String) throws {
        // First without Godwit: the program itself must be right.
        let direct = servers.old.conninfo(database: database, user: "app")
        #expect(try runDriver(driver, [direct]).hasSuffix("ok\n"))
        let godwit = try godwit()
        #expect(try runDriver(driver, [godwit.conninfo(database: database)]).hasSuffix("ok\n"))
        #expect(!godwit.process.hasEnded)
    }
}
