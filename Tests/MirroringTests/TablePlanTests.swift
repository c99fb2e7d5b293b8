import LibPQ
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct TablePlanTests {
    static func plan(_ harness: MirrorHarness, _ name: String) throws -> TablePlan {
        let tables = try CatalogReader.tables(try harness.connectOld())
        let table = try #require(tables.first { $0.name.name == name })
        return TablePlan(old: table, new: table)
    }

    @Test func `a range ends at the key's own order, not at that of its text`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        let old = try harness.connectOld()
        try old.execute("INSERT INTO public.t SELECT generate_series(1, 1000)")
        let plan = try Self.plan(harness, "t")
        #expect(try old.query(plan.selectRangeEnd(after: nil, rows: 200))[0, 0] == "200")
        #expect(try old.query(plan.selectRangeEnd(after: ["200"], rows: 50))[0, 0] == "250")
        #expect(try old.query(plan.selectRangeEnd(after: ["990"], rows: 11)).count == 0)
    }

    @Test(arguments: [
        ("id int PRIMARY KEY, v int", true), ("id int PRIMARY KEY, v int UNIQUE", false),
        ("id int PRIMARY KEY DEFERRABLE", false), ("id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int", true),
        ("id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY", false), ("id int PRIMARY KEY", true),
    ])
    func `rows change in place only where nothing but the key can collide`(columns: String, isUpsertable: Bool) throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (\(columns))")
        #expect(try Self.plan(harness, "t").isUpsertable == isUpsertable)
    }

    /// PostgreSQL refuses ON CONFLICT there, although the rule fires in neither case.
    @Test(arguments: ["", "ALTER TABLE t DISABLE RULE changed"])
    func `a table with a rule for UPDATE is mirrored`(state: String) throws {
        let harness = try MirrorHarness.mirroring(
            """
            CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE log (id serial PRIMARY KEY, v text);
            CREATE RULE changed AS ON UPDATE TO t DO ALSO INSERT INTO log (v) VALUES (NEW.v); \(state)
            """, fill: "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        let writer = try harness.writer()
        try writer.execute("INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = v || '!'; DELETE FROM t WHERE id = 2")
        try MirrorRegressionTests.expectEqual(harness)
        // As a backlog.
        try writer.execute("INSERT INTO t SELECT g, 'new' FROM generate_series(10, 9000) g; UPDATE t SET v = v || '?'")
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test(arguments: [
        ("id text, valid_from date", "valid_from", "'2020-01-01'", true),
        ("id text, valid_from date", "id", "'a'", false), ("\"of who\" text, id int", "\"of who\"", "'a'", false),
        ("\"of who\" text, id int", "id", "7", true), ("\"Id\" text, id int", "\"Id\"", "'a'", false),
    ])
    func `a partition is brought alone where what it compares has one order on both sides`(
        columns: String, column: String, bound: String, isPortable: Bool
    ) throws {
        let names = columns.split(separator: ", ").map { $0[..<($0.lastIndex(of: " ") ?? $0.endIndex)] }
        let harness = try MirrorHarness(schema: """
            CREATE TABLE t (\(columns), PRIMARY KEY (\(names.joined(separator: ", ")))) PARTITION BY RANGE (\(column));
            CREATE TABLE one PARTITION OF t FOR VALUES FROM (\(bound)) TO (MAXVALUE)
            """)
        let condition = try #require(try harness.connectOld().query(
            "SELECT pg_get_partition_constraintdef('public.one'::regclass)")[0, 0])
        #expect(try Self.plan(harness, "t").hasPortableOrder(in: condition) == isPortable)
    }

    /// PostgreSQL 18 and later: the catalog's attnotnull is true of a column in which there are NULLs.
    @Test func `what may hold a NULL from before is no key`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (k int, v text)")
        let new = try harness.connectNew()
        guard new.serverVersion >= 180_000 else { return }
        try new.execute("""
            INSERT INTO public.t VALUES (NULL, 'a'), (1, 'b'); CREATE UNIQUE INDEX t_k ON public.t (k);
            ALTER TABLE public.t ADD CONSTRAINT filled NOT NULL k NOT VALID
            """)
        #expect(try CatalogReader.tables(new).map(\.key) == [[]])
        try new.execute("DELETE FROM public.t WHERE k IS NULL; ALTER TABLE public.t VALIDATE CONSTRAINT filled")
        #expect(try CatalogReader.tables(new).map(\.key) == [["k"]])
    }

    @Test(arguments: [
        ("int", true), ("uuid", true), ("text", false), ("varchar(9)", false), ("timestamptz", true), ("jsonb", false),
        ("regclass", false), ("regtype[]", false), ("int[]", true),
    ])
    func `a key whose order depends on a collation has no portable ranges, nor one of catalog names`(
        type: String, isPortable: Bool
    ) throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (k \(type), n int, PRIMARY KEY (n, k))")
        #expect(try Self.plan(harness, "t").hasPortableKeyOrder == isPortable)
    }
}
