import Glibc
import LibPQ
import Logging
import Mirroring
import Primitives
import TestSupport
import Testing

@testable import Verification

/// A mapped table is compared with what the mapping makes of OLD's rows.
@Suite(.serialized) struct MappingVerifierTests {
    static let mappings = {
        var people = TableMapping(
            old: TableName(schema: "public", name: "people"), new: TableName(schema: "public", name: "customers"))
        people.columns = [
            "number": "id", "name": "first || ' ' || last", "price": "cents / 100.0", "tag": "tag", "tags": "tags",
        ]
        people.dropped = ["first", "last", "cents", "hidden"]
        people.condition = "NOT hidden"
        people.isOneWay = true
        return TableMappings([people])
    }()

    static func pair() throws -> MirroredPair {
        let pair = try MirroredPair(schema: "CREATE TABLE other (id int PRIMARY KEY, v text)")
        try connect(pair.oldConninfo).execute("""
            CREATE TABLE public.people (
                id int PRIMARY KEY, first text, last text, cents int, hidden boolean, tag varchar(9), tags text[]);
            INSERT INTO public.people
                SELECT g, 'f' || g, 'l', g, g % 10 = 0, 't', ARRAY['a', NULL] FROM generate_series(1, 9000) g
            """)
        try connect(pair.newConninfo).execute("""
            CREATE TABLE public.customers (
                tag char(12), name text, price numeric(9, 2), number bigint PRIMARY KEY, extra int DEFAULT 5,
                tags char(4)[])
            """)
        return pair
    }

    static func connect(_ conninfo: String) throws -> Connection {
        try Connection.open(try ConnectionString(parsing: conninfo), purpose: "test")
    }

    static func verifier(_ pair: MirroredPair) throws -> Verifier {
        var options = Verifier.Options()
        options.rangeRows = 2000
        return Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo),
            options: options, mappings: mappings)
    }

    @Test func `mapped rows are equal, and what differs is shown in both versions and repaired`() throws {
        let pair = try Self.pair()
        let old = try Self.connect(pair.oldConninfo), new = try Self.connect(pair.newConninfo)
        let found = try Preflight.check(old: old, new: new, mappings: Self.mappings)
        #expect(found.blocking == [])
        _ = try CaptureInstaller().install(old: old, new: new, tables: found.tables, mappings: Self.mappings)
        var options = MirrorOptions(pollMillis: 5)
        options.mappings = Self.mappings
        let horizon = Horizon()
        let mirror = Mirror(
            database: pair.database, oldConninfo: pair.oldConninfo, newConninfo: pair.newConninfo, settings: options,
            horizon: horizon, logger: Logger(label: "test"))
        mirror.start()
        defer { mirror.stop() }
        waitUntil("readable") { horizon.readable }
        let verifier = try Self.verifier(pair)
        let before = try verifier.run()
        #expect(before.outcome == .equal)
        let people = try #require(before.tables.first { $0.name.name == "people" })
        #expect(people.rows == 8100 && people.ranges > 2)

        // In replica role, or the mirror might mend it before we look.
        try new.execute("""
            SET session_replication_role = replica; UPDATE public.customers SET price = price + 0.01 WHERE number = 77;
            DELETE FROM public.customers WHERE number = 4001;
            INSERT INTO public.customers (number, name) VALUES (10, 'hidden on OLD'), (99999, 'extra')
            """)
        let report = try verifier.run()
        #expect(report.outcome == .different)
        let keys = try #require(report.tables.first { $0.name.name == "people" }).keys
        let shown = Dictionary(uniqueKeysWithValues: keys.map { ($0.key, $0) })
        #expect(Set(shown.keys) == [["77"], ["4001"], ["10"], ["99999"]])
        #expect(shown[["77"]]?.old == "(\"t           \",\"f77 l\",0.77,77,\"{\"\"a   \"\",NULL}\")")
        #expect(shown[["77"]]?.new == "(\"t           \",\"f77 l\",0.78,77,\"{\"\"a   \"\",NULL}\")")
        #expect(shown[["4001"]]?.new == nil && shown[["10"]]?.old == nil)
        #expect(try verifier.repair(report) == 4)
        #expect(try verifier.run().outcome == .equal)
        // OLD's type of the key has no such value, and the mirror asks OLD for it all the same.
        try new.execute("INSERT INTO public.customers (number, name) VALUES (5000000000, 'extra')")
        let wide = try verifier.run()
        #expect(wide.outcome == .different)
        #expect(try verifier.repair(wide) == 1)
        #expect(try verifier.run().outcome == .equal)
        // NEW says so, as it would of the application's own: a cast of ours would cut it off.
        try old.execute("INSERT INTO public.people VALUES (100000, 'f', 'l', 1, false, 't', ARRAY['a', 'larger'])")
        waitUntil("refused") { horizon.report.reason.contains("value too long for type character(4)") }
    }

    @Test func `schemas are compared through the mapping`() throws {
        let pair = try Self.pair()
        let old = try ConnectionString(parsing: pair.oldConninfo), new = try ConnectionString(parsing: pair.newConninfo)
        #expect(try SchemaComparison.run(old: old, new: new).isEmpty == false)
        let mapped = try SchemaComparison.run(old: old, new: new, mappings: Self.mappings).map(\.description)
        #expect(mapped == [])
        try Self.connect(pair.newConninfo).execute("ALTER TABLE public.customers ALTER tag SET NOT NULL")
        let after = try SchemaComparison.run(old: old, new: new, mappings: Self.mappings).map(\.description)
        #expect(after == ["column public.customers.tag: nullability is NULL on OLD, NOT NULL on NEW"])
    }

    @Test func `partitions that came and went make foreign keys to their table no others`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
            CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (20) TO (30)
            """)
        let old = try ConnectionString(parsing: pair.oldConninfo), new = try ConnectionString(parsing: pair.newConninfo)
        let (key, last) = (
            "CREATE TABLE public.uses (id int REFERENCES public.parts);",
            "CREATE TABLE public.parts_3 PARTITION OF public.parts FOR VALUES FROM (30) TO (40);"
        )
        try Self.connect(pair.oldConninfo).execute("""
            CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (10) TO (20);
            \(key) ALTER TABLE public.parts DETACH PARTITION public.parts_1; DROP TABLE public.parts_1; \(last)
            """)
        try Self.connect(pair.newConninfo).execute(last + key)
        #expect(try SchemaComparison.run(old: old, new: new) == [])
        try Self.connect(pair.newConninfo).execute("ALTER TABLE public.uses DROP CONSTRAINT uses_id_fkey")
        #expect(try SchemaComparison.run(old: old, new: new).map(\.description) == [
            "constraint public.uses.uses_id_fkey is missing on NEW"
        ])
    }

    /// A partition that comes while triggers are set aside has its copy off from the start, and nobody remembers it.
    @Test func `triggers that are set aside are no difference, nor are their copies on later partitions`() throws {
        let pair = try MirroredPair(schema: """
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
            CREATE TRIGGER noted AFTER INSERT ON parts FOR EACH ROW EXECUTE FUNCTION note()
            """)
        let old = try ConnectionString(parsing: pair.oldConninfo), new = try ConnectionString(parsing: pair.newConninfo)
        try Self.connect(pair.newConninfo).execute("""
            CREATE SCHEMA godwit; CREATE TABLE godwit.aside (
                kind text, schema_name text, table_name text, name text, definition text, is_back boolean);
            INSERT INTO godwit.aside VALUES ('trigger', 'public', 'parts', 'noted', 'O', false);
            ALTER TABLE public.parts DISABLE TRIGGER noted
            """)
        for side in [pair.oldConninfo, pair.newConninfo] {
            try Self.connect(side).execute("""
                CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (10)
                """)
        }
        #expect(try SchemaComparison.run(old: old, new: new) == [])
        try Self.connect(pair.oldConninfo).execute("ALTER TABLE public.parts_1 DISABLE TRIGGER noted")
        #expect(try SchemaComparison.run(old: old, new: new).map(\.description) == [
            "trigger public.parts_1.noted: state is D on OLD, O on NEW"
        ])
    }

    @Test func `types, domains, views and functions that one side lacks, or has otherwise, are told`() throws {
        let pair = try MirroredPair(schema: """
            CREATE DOMAIN amount AS int CHECK (VALUE > 0); CREATE TYPE pair AS (a int, b int);
            CREATE TABLE t (id int, v amount, p pair); CREATE VIEW shown AS SELECT id, v FROM t;
            CREATE MATERIALIZED VIEW kept AS SELECT id FROM t;
            CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql AS 'SELECT x * 2';
            CREATE PROCEDURE nothing() LANGUAGE plpgsql AS 'BEGIN END'
            """)
        let old = try ConnectionString(parsing: pair.oldConninfo), new = try ConnectionString(parsing: pair.newConninfo)
        #expect(try SchemaComparison.run(old: old, new: new) == [])
        try Self.connect(pair.newConninfo).execute("""
            ALTER DOMAIN public.amount DROP CONSTRAINT amount_check; ALTER TYPE public.pair RENAME ATTRIBUTE a TO c;
            DROP VIEW public.shown; DROP MATERIALIZED VIEW public.kept; DROP PROCEDURE public.nothing();
            CREATE OR REPLACE FUNCTION public.twice(x int) RETURNS int LANGUAGE sql AS 'SELECT x + x'
            """)
        let found = try SchemaComparison.run(old: old, new: new).map { "\($0.object) \($0.property)" }
        #expect(found == [
            "domain public.amount definition", "function public.nothing() ",
            "function public.twice(x integer) definition",
            "materialized view public.kept ", "type public.pair attributes", "view public.shown ",
        ])
    }

    @Test func `what a domain's default was written like is no part of the schema`() throws {
        let pair = try MirroredPair(schema: "CREATE TYPE mood AS ENUM ('sad', 'glad')")
        for (conninfo, path) in [(pair.oldConninfo, "public"), (pair.newConninfo, "pg_catalog")] {
            // As pg_dump has it, and as people do.
            try Self.connect(conninfo).execute("""
                SET search_path = \(path); CREATE DOMAIN public.humour AS public.mood DEFAULT 'sad'
                """)
        }
        let old = try ConnectionString(parsing: pair.oldConninfo), new = try ConnectionString(parsing: pair.newConninfo)
        #expect(try SchemaComparison.run(old: old, new: new) == [])
    }

    @Test func `the order of columns, what a partition holds and of what, are part of the schema`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE parts (id int, n int) PARTITION BY RANGE (id); CREATE TABLE base (id int);
            CREATE TABLE lone (id int, n int); CREATE TABLE child () INHERITS (base)
            """)
        let old = try ConnectionString(parsing: pair.oldConninfo), new = try ConnectionString(parsing: pair.newConninfo)
        // What was dropped takes no place.
        try Self.connect(pair.oldConninfo).execute("""
            CREATE TABLE public.t (gone int, id int, a text, b text); ALTER TABLE public.t DROP gone;
            CREATE TABLE public.part PARTITION OF public.parts FOR VALUES FROM (10) TO (20);
            ALTER TABLE public.parts ATTACH PARTITION public.lone FOR VALUES FROM (20) TO (30)
            """)
        try Self.connect(pair.newConninfo).execute("""
            CREATE TABLE public.t (id int, b text, a text); ALTER TABLE public.child NO INHERIT public.base;
            DROP TABLE public.parts; CREATE TABLE public.parts (id int, n int) PARTITION BY RANGE (n);
            CREATE TABLE public.part PARTITION OF public.parts FOR VALUES FROM (10) TO (21)
            """)
        #expect(try SchemaComparison.run(old: old, new: new).map(\.description) == [
            "column public.t.a: place is 2 on OLD, 3 on NEW", "column public.t.b: place is 3 on OLD, 2 on NEW",
            "table public.child: parents is public.base on OLD, none on NEW",
            "table public.lone: parents is public.parts FOR VALUES FROM (20) TO (30) on OLD, none on NEW",
            "table public.part: parents is public.parts FOR VALUES FROM (10) TO (20) on OLD, "
                + "public.parts FOR VALUES FROM (10) TO (21) on NEW",
            "table public.parts: partition key is RANGE (id) on OLD, RANGE (n) on NEW",
        ])
    }
}
