import Foundation
import LibPQ
import Primitives
import TestSupport
import Testing

@testable import Mirroring

/// Batches that come by COPY, in parts of a few rows: all that a part's borders could break.
@Suite(.serialized) struct BacklogTests {
    private static func options(partBytesMax: Int, keysMax: Int = 3) -> MirrorOptions {
        var options = MirrorOptions(pollMillis: 5)
        options.smallBatchKeysMax = keysMax
        options.partBytesMax = partBytesMax
        options.aheadEntriesMin = 0
        return options
    }

    /// The statements in one batch, which is a large one.
    private static func expectEqual(
        _ schema: String, fill: String, _ change: String, partBytesMax: Int = 60
    ) throws {
        let harness = try MirrorHarness.mirroring(
            schema, fill: fill, options: Self.options(partBytesMax: partBytesMax))
        let old = try harness.writer(), new = try harness.connectNew()
        let before = try new.query("SELECT batch FROM godwit.progress").integer(0, 0) ?? 0
        try old.execute("BEGIN; \(change); COMMIT")
        try harness.settle()
        #expect(try harness.differences() == [])
        #expect(harness.horizon.report.state == .mirroring, "\(harness.horizon.report.reason)")
        #expect(try new.query("SELECT batch FROM godwit.progress").integer(0, 0) ?? 0 > before)
    }

    private static let items = "CREATE TABLE items (id int PRIMARY KEY, v text)"
    private static let hundred = "INSERT INTO items SELECT g, 'v' || g FROM generate_series(1, 100) g"

    @Test(arguments: [
        "INSERT INTO items SELECT g, 'new' FROM generate_series(101, 300) g",
        "UPDATE items SET v = v || '!'",
        "DELETE FROM items WHERE id % 2 = 0",
        "DELETE FROM items",
        "UPDATE items SET id = -id; UPDATE items SET id = id + 101",
        "UPDATE items SET id = id + 50 WHERE id > 50; INSERT INTO items SELECT g, 'b' FROM generate_series(51, 90) g",
        "DELETE FROM items WHERE id < 70; UPDATE items SET v = 'u' WHERE id < 90; INSERT INTO items VALUES (1, 'back')",
        "TRUNCATE items",
        "TRUNCATE items; INSERT INTO items SELECT g, 't' FROM generate_series(50, 150) g",
        "UPDATE items SET v = 'x'; TRUNCATE items; INSERT INTO items VALUES (7, NULL)",
        #"UPDATE items SET v = E'a\tb\nc\\.\\N' || id"#,
    ])
    func `changes of many rows arrive whole`(change: String) throws {
        // One key to a part, some, and all in one.
        for partBytesMax in [1, 60, 1 << 20] {
            try Self.expectEqual(Self.items, fill: Self.hundred, change, partBytesMax: partBytesMax)
        }
    }

    @Test(arguments: [
        "numeric", "float8", "timestamptz", "uuid", "bytea", "\"char\"", "int8", "interval", "inet", "boolean",
    ])
    func `a key of any type that both sides order alike comes in parts`(type: String) throws {
        let values: [String: String] = [
            "numeric": "(g / 4.0)::numeric", "float8": "g / 3.0", "uuid": "md5(g::text)::uuid",
            "timestamptz": "'2020-01-01'::timestamptz + g * interval '7 h'", "bytea": "decode(md5(g::text), 'hex')",
            "\"char\"": "(g % 100 + 20)::\"char\"", "int8": "g", "interval": "g * interval '90 min'",
            "inet": "'10.0.0.0'::inet + g", "boolean": "g % 2 = 0",
        ]
        let value = try #require(values[type])
        try Self.expectEqual(
            "CREATE TABLE items (k \(type), n int, v text, PRIMARY KEY (n, k))",
            fill: """
                INSERT INTO items SELECT \(value), g % 7, 'v' || g FROM generate_series(1, 90) g ON CONFLICT DO NOTHING
                """,
            """
            UPDATE items SET v = 'u' WHERE n % 2 = 0; DELETE FROM items WHERE n = 3; UPDATE items SET n = 9 WHERE n = 5;
            INSERT INTO items SELECT \(value), 20 + g % 3, 'i' FROM generate_series(1, 60) g ON CONFLICT DO NOTHING
            """)
    }

    @Test func `rows that are larger than a part come alone`() throws {
        try Self.expectEqual(
            Self.items, fill: Self.hundred, """
                UPDATE items SET v = repeat('large ', 50000) WHERE id % 10 = 0;
                UPDATE items SET v = 'small' WHERE id % 3 = 0;
                INSERT INTO items SELECT g, repeat('x', 300000) FROM generate_series(200, 205) g
                """, partBytesMax: 1000)
    }

    /// Unique values that change hands between rows of different parts, and keys that a collation takes for one.
    @Test(arguments: [
        ("CREATE TABLE items (id int PRIMARY KEY, v text UNIQUE DEFERRABLE INITIALLY DEFERRED)",
            "UPDATE items SET v = 'v' || 101 - id"),
        ("CREATE TABLE items (id text PRIMARY KEY, v text)",
            "UPDATE items SET v = 'u'; DELETE FROM items WHERE id > '5'"),
        ("CREATE TABLE items (id int PRIMARY KEY, v text) PARTITION BY HASH (id); "
            + "CREATE TABLE part_0 PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER 0); "
            + "CREATE TABLE part_1 PARTITION OF items FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            "UPDATE items SET id = 201 - id WHERE id % 2 = 0"),
    ])
    func `tables that cannot come in parts come as before`(schema: String, change: String) throws {
        try Self.expectEqual(schema, fill: Self.hundred, change)
    }

    @Test func `several tables in one batch, some in parts and some not`() throws {
        try Self.expectEqual(
            """
            CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id text PRIMARY KEY, v int);
            CREATE TABLE c (id uuid PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE);
            CREATE TABLE d (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, v int)
            """,
            fill: """
                INSERT INTO a SELECT g, g FROM generate_series(1, 50) g;
                INSERT INTO b SELECT g, g FROM generate_series(1, 50) g;
                INSERT INTO c SELECT md5(g::text)::uuid, g FROM generate_series(1, 50) g;
                INSERT INTO d (v) SELECT g FROM generate_series(1, 50) g
                """,
            """
            DELETE FROM a WHERE id % 5 = 0; UPDATE b SET v = -v;
            INSERT INTO d (v) SELECT g FROM generate_series(1, 50) g;
            TRUNCATE c; INSERT INTO c SELECT md5(g::text)::uuid, 1 FROM generate_series(40, 70) g
            """)
    }

    @Test func `OLD's second session sees what the first one sees, and waits for nobody who waits for that`() throws {
        let harness = try MirrorHarness(schema: Self.items)
        try harness.prepare()
        let reader = try BatchReader.open(try ConnectionString(parsing: harness.pair.oldConninfo), interrupt: -1) {}
        let before = try #require(LedgerSnapshot("3:3:"))
        let head = try #require(try reader.begin(after: before, keysMax: 10))
        let writer = try harness.connectOld(), locker = try harness.connectOld()
        try writer.execute("INSERT INTO public.items VALUES (1, 'later')")
        let companion = try #require(try reader.companion())
        #expect(try companion.connection.query("SELECT pg_current_snapshot()")[0, 0] == head.snapshot.text)
        #expect(try companion.connection.query("SELECT count(*) FROM public.items").integer(0, 0) == 0)
        try locker.send("BEGIN; LOCK TABLE godwit.journal_1 IN ACCESS EXCLUSIVE MODE")
        try waitUntil("the lock to be waited for") {
            // Of this database: others wait for something all the time.
            try writer.query("""
                SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'godwit.journal_1'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                """).flag(0, 0)
        }
        #expect(try reader.companion() == nil)
        #expect(try companion.connection.query("SELECT count(*) FROM godwit.journal_1").count == 1)
    }

    @Test func `hostile writers in large batches leave both sides equal`() throws {
        let given = ProcessInfo.processInfo.environment["GODWIT_TEST_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("seed \(seed) (GODWIT_TEST_SEED)")
        var random = SeededGenerator(seed: seed)
        for round in 0..<3 {
            let partBytesMax = [1, 200, 5000][round], keysMax = Int(random.next() % 4)
            let harness = try MirrorHarness.mirroring(
                HostileWriter.schema, fill: HostileWriter.fill,
                options: Self.options(partBytesMax: partBytesMax, keysMax: keysMax))
            let writers = HostileWriter.start(
                seed: seed &+ UInt64(round), transactions: 80, harness.pair.oldConninfo)
            for writer in writers { writer.join() }
            try harness.settle()
            #expect(try harness.differences() == [], "seed \(seed), round \(round)")
        }
    }

    /// OLD alone has a collation for which the texts before and behind the change are one.
    @Test func `a row that several texts of its key find comes once`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (k text, id int, v int, PRIMARY KEY (k, id))")
        let old = try harness.writer()
        try old.execute("""
            CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            ALTER TABLE t ALTER k TYPE text COLLATE caseless;
            INSERT INTO t SELECT 'Key' || g, 1, g FROM generate_series(1, 3000) g; ANALYZE t
            """)
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try old.execute("UPDATE t SET k = upper(k) WHERE v <= 5")
        try MirrorRegressionTests.expectEqual(harness, "few")
        try old.execute("UPDATE t SET k = lower(k)")
        try MirrorRegressionTests.expectEqual(harness, "many")
    }

    /// A few rows that are too large to travel as one text are found to be a backlog only when they have been read.
    @Test func `nobody reads on NEW before the first batch is there`() throws {
        let harness = try MirrorHarness.mirroring("CREATE TABLE t (id int PRIMARY KEY, v text)")
        harness.stop()
        let old = try harness.writer(), owner = try harness.connectNew()
        try old.execute("INSERT INTO t SELECT g, repeat('x', 4 << 20) FROM generate_series(1, 3) g")
        try owner.execute("BEGIN; LOCK TABLE public.t IN EXCLUSIVE MODE")
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.wait(for: "the batch to wait") { _ in
            try owner.query("""
                SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'public.t'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                """).flag(0, 0)
        }
        #expect(!harness.horizon.readable)
        try owner.execute("COMMIT")
        try harness.waitUntilReadable()
        #expect(try harness.differences() == [])
    }

    /// As citext has it: to the index and to DISTINCT 'A' and 'a' are one, to `=` under our search path they are two.
    @Test func `keys of a type that has an equality of its own`() throws {
        let compare = ["lt": "<", "le": "<=", "eq": "=", "ge": ">=", "gt": ">"].sorted { $0.key < $1.key }
        let operators = compare.map { name, sign in
            """
            CREATE FUNCTION ci_\(name)(ci, ci) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT
                AS 'SELECT lower($1::text) COLLATE "C" \(sign) lower($2::text) COLLATE "C"';
            CREATE OPERATOR \(sign) (LEFTARG = ci, RIGHTARG = ci, FUNCTION = ci_\(name));

            """
        }
        try Self.expectEqual("""
            CREATE TYPE ci;
            CREATE FUNCTION ci_in(cstring) RETURNS ci LANGUAGE internal IMMUTABLE STRICT AS 'textin';
            CREATE FUNCTION ci_out(ci) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
            CREATE TYPE ci (INPUT = ci_in, OUTPUT = ci_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
            CREATE CAST (ci AS text) WITHOUT FUNCTION AS IMPLICIT; CREATE CAST (text AS ci) WITHOUT FUNCTION AS ASSIGNMENT;
            \(operators.joined())
            CREATE FUNCTION ci_cmp(ci, ci) RETURNS int LANGUAGE sql IMMUTABLE STRICT
                AS 'SELECT bttextcmp(lower($1::text) COLLATE "C", lower($2::text) COLLATE "C")';
            CREATE OPERATOR CLASS ci_ops DEFAULT FOR TYPE ci USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
                OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 ci_cmp(ci, ci);
            CREATE TABLE items (k ci PRIMARY KEY, v text)
            """, fill: "INSERT INTO items SELECT 'K' || g, 'v' || g FROM generate_series(1, 100) g", """
            UPDATE items SET k = lower(k::text) WHERE v <> 'v7'; DELETE FROM items WHERE k::text IN ('k5', 'K7');
            INSERT INTO items VALUES ('K5', 'again')
            """)
    }
}
