import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// Partitioned tables travel through their root; inheritance and keys other than the primary one.
@Suite(.serialized) struct MirrorPartitionTests {
    static let schema = """
        CREATE TABLE p (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2020-02-01') TO ('2020-03-01') PARTITION BY LIST (id);
        CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN (1, 2, 3, 4, 5); CREATE TABLE p2b PARTITION OF p2 DEFAULT;
        CREATE TABLE p3 (v text, day date NOT NULL, gone int, id int NOT NULL); ALTER TABLE p3 DROP gone;
        ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM ('2020-03-01') TO ('2020-04-01');
        CREATE TABLE pd PARTITION OF p DEFAULT;
        """
    static let fill = """
        INSERT INTO p SELECT g, '2020-01-01'::date + g % 120, 'v' || g FROM generate_series(1, 3000) g
        """
    static let plain = "CREATE TABLE p (id int, day date, v text, PRIMARY KEY (id, day));"

    static func start(oldSchema: String = schema, newSchema: String = schema) throws -> MirrorHarness {
        let harness = try MirrorHarness(schema: "")
        try harness.writer().execute(oldSchema + fill)
        try harness.connectNew().execute("SET search_path = public; \(newSchema)")
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 5, backfillRows: 700))
        try harness.waitUntilReadable()
        return harness
    }

    @Test(arguments: [(schema, schema), (schema, plain), (plain, schema)])
    func `rows that change, move and go, by root and by partition`(old: String, new: String) throws {
        let harness = try Self.start(oldSchema: old, newSchema: new)
        try MirrorRegressionTests.expectEqual(harness, "backfill")
        let writer = try harness.writer()
        try writer.execute("""
            UPDATE p SET day = day + 35 WHERE id % 10 = 0; DELETE FROM p WHERE id % 7 = 0;
            UPDATE p SET v = 'x', id = -id WHERE id < 20; INSERT INTO p VALUES (-500, '2031-01-01', 'far');
            """)
        try MirrorRegressionTests.expectEqual(harness, "small")
        try writer.execute("BEGIN; UPDATE p SET day = day - 1; DELETE FROM p WHERE id % 11 = 0; COMMIT; UPDATE p SET v = v || '!'")
        try MirrorRegressionTests.expectEqual(harness, "large")
        try writer.execute("BEGIN; TRUNCATE p; INSERT INTO p VALUES (1, '2020-01-05', 'only'); COMMIT")
        try MirrorRegressionTests.expectEqual(harness, "truncated")
    }

    @Test func `partitions that are attached, filled, emptied, detached, changed and dropped`() throws {
        let harness = try Self.start()
        let old = try harness.writer(), new = try harness.connectNew()
        try old.execute("UPDATE p3 SET v = 'direct' WHERE id % 3 = 0; DELETE FROM p2a; INSERT INTO p1 VALUES (77777, '2020-01-03', 'p1')")
        try MirrorRegressionTests.expectEqual(harness, "direct")
        try old.execute("TRUNCATE p1; INSERT INTO p1 VALUES (5, '2020-01-03', 'again')")
        try MirrorRegressionTests.expectEqual(harness, "truncated partition")
        // NEW may keep it all in its default partition.
        try old.execute("DELETE FROM p WHERE day >= '2020-04-01'; CREATE TABLE p4 PARTITION OF p FOR VALUES FROM ('2020-04-01') TO ('2020-05-01')")
        try old.execute("INSERT INTO p SELECT g, '2020-04-09', 'new' FROM generate_series(1, 50) g; UPDATE p SET day = day + 1 WHERE id < 30 AND day = '2020-04-09'")
        try MirrorRegressionTests.expectEqual(harness, "new partition")
        try old.execute("""
            CREATE TABLE p5 (LIKE p INCLUDING ALL); INSERT INTO p5 SELECT g, '2020-06-09', 'attached' FROM generate_series(1, 500) g;
            ALTER TABLE p ATTACH PARTITION p5 FOR VALUES FROM ('2020-06-01') TO ('2020-07-01'); UPDATE p SET v = 'then' WHERE id = 7;
            """)
        try MirrorRegressionTests.expectEqual(harness, "attached with rows")
        try old.execute("""
            BEGIN; ALTER TABLE p DETACH PARTITION p3; UPDATE p3 SET v = 'changed while detached' WHERE id % 2 = 0; DELETE FROM p3 WHERE id % 5 = 0;
            ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM ('2020-03-01') TO ('2020-04-01'); COMMIT;
            """)
        try MirrorRegressionTests.expectEqual(harness, "detached, changed and attached again")
        try old.execute("ALTER TABLE p DETACH PARTITION p2; DROP TABLE p5; ALTER TABLE p2 RENAME TO aside; DROP TABLE aside")
        try MirrorRegressionTests.expectEqual(harness, "detached and dropped")
        harness.stop()
        try old.execute("TRUNCATE p4; INSERT INTO p3 VALUES ('while it was away', '2020-03-09', 4242)")
        try old.execute("VACUUM FULL p1")
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try MirrorRegressionTests.expectEqual(harness, "while the mirror was away")
        #expect(try new.query("SELECT count(*) > 500 FROM public.p").flag(0, 0))
    }

    @Test(arguments: [schema, plain], [1, 5000])
    func `a partition that is attached behind a TRUNCATE of the root keeps its rows`(new: String, rows: Int) throws {
        let harness = try Self.start(newSchema: new)
        let old = try harness.writer()
        try old.execute("""
            CREATE TABLE p6 (LIKE p INCLUDING ALL);
            INSERT INTO p6 SELECT g, '2020-07-09', 'attached' FROM generate_series(1, 500) g;
            BEGIN; TRUNCATE p; INSERT INTO p SELECT g, '2020-01-05', 'since' FROM generate_series(1, \(rows)) g;
            ALTER TABLE p ATTACH PARTITION p6 FOR VALUES FROM ('2020-07-01') TO ('2020-08-01'); COMMIT;
            """)
        try MirrorRegressionTests.expectEqual(harness)
        #expect(try harness.connectNew().query("SELECT count(*) = \(rows) + 500 FROM public.p").flag(0, 0))
    }

    @Test func `a range of texts is another one on NEW, whose collation orders them otherwise`() throws {
        let harness = try MirrorHarness(schema: "")
        let old = try harness.writer(), new = try harness.connectNew()
        try old.execute("""
            CREATE TABLE p (name text COLLATE "und-x-icu" PRIMARY KEY, v int) PARTITION BY RANGE (name);
            CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (MINVALUE) TO ('m');
            CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('m') TO (MAXVALUE);
            INSERT INTO p VALUES ('Bob', 1), ('Zoe', 2), ('adam', 3), ('zoe', 4)
            """)
        // All that begins with a capital is before 'm' there.
        try new.execute("CREATE TABLE public.p (name text PRIMARY KEY, v int)")
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try old.execute("TRUNCATE p1; INSERT INTO p VALUES ('eve', 5)")
        try MirrorRegressionTests.expectEqual(harness)
        #expect(try new.query("SELECT EXISTS (SELECT FROM public.p WHERE name = 'Zoe')").flag(0, 0))
    }

    @Test func `a partition whose condition names a label that has another name now is found by it no more`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TYPE mood AS ENUM ('sad', 'glad');
            CREATE TABLE p (id int, m mood, PRIMARY KEY (id, m)) PARTITION BY LIST (m);
            CREATE TABLE p1 PARTITION OF p FOR VALUES IN ('sad'); CREATE TABLE p2 PARTITION OF p FOR VALUES IN ('glad');
            """, fill: "INSERT INTO p SELECT g, CASE g % 2 WHEN 0 THEN 'sad' ELSE 'glad' END::mood FROM generate_series(1, 50) g")
        let old = try harness.writer(), rename = "ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'"
        try harness.settle()
        try harness.connectNew().execute(rename)
        try old.execute(rename)
        try old.execute("DROP TABLE p1; UPDATE p SET id = -id WHERE id < 9")
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `hash partitions are brought whole when one is emptied`() throws {
        let schema = """
            CREATE TABLE p (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY HASH (id);
            CREATE TABLE h0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
            CREATE TABLE h1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
            """
        let harness = try Self.start(oldSchema: schema, newSchema: schema)
        let old = try harness.writer()
        try old.execute("UPDATE p SET id = id + 5000 WHERE id < 100; TRUNCATE h1; INSERT INTO p SELECT g, '2021-01-01', 'h' FROM generate_series(1, 50) g")
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `a partition that NEW lacks is named, and its rows come when it is there`() throws {
        let schema = Self.schema.replacing("CREATE TABLE pd PARTITION OF p DEFAULT;", with: "")
        let harness = try MirrorHarness.mirroring(schema)
        let old = try harness.writer()
        try old.execute("CREATE TABLE p4 PARTITION OF p FOR VALUES FROM ('2020-04-01') TO ('2020-05-01'); INSERT INTO p VALUES (1, '2020-04-09', 'x')")
        try harness.wait(for: "the reason") { $0.state == .waiting && $0.reason.contains("no partition of relation") }
        try harness.connectNew().execute("CREATE TABLE public.p4 PARTITION OF public.p FOR VALUES FROM ('2020-04-01') TO ('2020-05-01')")
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `a partition's trigger disabled behind our back stops the mirror`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema)
        try harness.connectOld().execute("ALTER TABLE public.p2a DISABLE TRIGGER godwit_capture")
        try harness.wait(for: "the stop") { $0.state == .stopped }
        #expect(harness.horizon.report.reason.contains("public.p: the capture triggers are gone or disabled"))
    }

    @Test func `a table that inherits is carried by its own key, and named where it has none`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE base (id int PRIMARY KEY, v text); CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (base);
            """, fill: "INSERT INTO base SELECT g, 'b' FROM generate_series(1, 50) g; INSERT INTO child SELECT g, 'c', g FROM generate_series(1, 50) g")
        let old = try harness.writer()
        try old.execute("UPDATE base SET v = 'both' WHERE id < 9; DELETE FROM ONLY base WHERE id = 20; INSERT INTO child VALUES (99, 'n', 1)")
        try MirrorRegressionTests.expectEqual(harness)
        try old.execute("TRUNCATE base")
        try MirrorRegressionTests.expectEqual(harness, "truncated with its children")
        let new = try harness.connectNew(), orphan = "CREATE TABLE public.orphan () INHERITS (public.base)"
        try old.execute(orphan)
        try new.execute(orphan)
        let found = try Preflight.check(old: old, new: new).blocking
        #expect(found.contains { $0.place == "OLD public.orphan" && $0.problem.contains("it inherits from base") })
    }

    @Test func `a unique index over columns that are not null serves as the key`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE u (a int NOT NULL, b text NOT NULL, c int, v text, UNIQUE (c)); CREATE UNIQUE INDEX ON u (a, b) INCLUDE (v);
            CREATE TABLE i (id int, v text, PRIMARY KEY (id) INCLUDE (v));
            """, fill: "INSERT INTO u SELECT g, 'b' || g, g, 'v' FROM generate_series(1, 2000) g; INSERT INTO i SELECT g, 'v' FROM generate_series(1, 100) g")
        let old = try harness.writer()
        try old.execute("UPDATE u SET a = a + 5000 WHERE a < 10; UPDATE u SET c = NULL WHERE a = 50; DELETE FROM u WHERE a = 60; UPDATE i SET v = 'w' WHERE id < 9")
        try MirrorRegressionTests.expectEqual(harness, "small")
        try old.execute("UPDATE u SET c = -c, v = 'w'; UPDATE i SET id = id + 1000")
        try MirrorRegressionTests.expectEqual(harness, "large")
        try old.execute("ALTER TABLE u ALTER b DROP NOT NULL; INSERT INTO u VALUES (7, NULL, 7777, 'null')")
        try harness.wait(for: "the reason") { $0.state == .waiting && $0.reason.contains("public.u: has no primary key") }
    }

    @Test(arguments: [
        "CREATE UNIQUE INDEX ON t (a) WHERE a > 0", "CREATE UNIQUE INDEX ON t ((a + 1))", "CREATE UNIQUE INDEX ON t (b)",
        "ALTER TABLE t ADD UNIQUE (a) DEFERRABLE", "CREATE INDEX ON t (a)",
    ])
    func `an index that does not tell all rows apart is no key`(index: String) throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (a int NOT NULL, b int); \(index)")
        let found = try Preflight.check(old: try harness.connectOld(), new: try harness.connectNew()).blocking
        #expect(found.contains { $0.place == "OLD public.t" && $0.problem == "has no primary key" }, "\(found)")
    }
}
