import LibPQ
import Primitives
import TestSupport
import Testing

@testable import Mirroring

/// What a row trigger writes down: each key that a row had or has, as its text, and the key of no other row.
@Suite(.serialized) struct KeyCaptureTests {
    /// A table `t`, statements on it, and the keys that the journal then has of it, each once.
    struct Case: Sendable, CustomTestStringConvertible {
        var name: String
        var schema: String
        var steps: [(sql: String, keys: [String])]

        var testDescription: String { name }
    }

    static let cases = [
        Case(
            name: "a key of one number", schema: "CREATE TABLE t (id int PRIMARY KEY, v int)",
            steps: [
                ("INSERT INTO t VALUES (1, 1), (2, 2)", ["{1}", "{2}"]), ("UPDATE t SET v = 3 WHERE id = 2", ["{2}"]),
                ("UPDATE t SET id = id WHERE id = 1", ["{1}"]), ("UPDATE t SET id = 0, v = 9 WHERE id = 1", ["{0}", "{1}"]),
                ("INSERT INTO t VALUES (2, 4) ON CONFLICT (id) DO UPDATE SET id = -2", ["{-2}", "{2}"]),
                ("DELETE FROM t", ["{-2}", "{0}"]), ("TRUNCATE t", ["TRUNCATE"]),
            ]),
        Case(
            name: "a key of which one part changes",
            schema: "CREATE TABLE t (a bigint, b uuid, c boolean, d date, e smallint, v int, PRIMARY KEY (a, b, c, d, e))",
            steps: [
                (
                    "INSERT INTO t VALUES (1, '00000000-0000-0000-0000-00000000000a', true, '2026-01-31', 3, 0)",
                    ["{1,00000000-0000-0000-0000-00000000000a,t,2026-01-31,3}"]
                ),
                (
                    "SET DateStyle = 'SQL, DMY'; UPDATE t SET v = 1",
                    ["{1,00000000-0000-0000-0000-00000000000a,t,2026-01-31,3}"]
                ),
                (
                    "UPDATE t SET e = 4", [
                        "{1,00000000-0000-0000-0000-00000000000a,t,2026-01-31,3}",
                        "{1,00000000-0000-0000-0000-00000000000a,t,2026-01-31,4}",
                    ]
                ),
                (
                    "UPDATE t SET c = false, d = 'infinity'", [
                        "{1,00000000-0000-0000-0000-00000000000a,f,infinity,4}",
                        "{1,00000000-0000-0000-0000-00000000000a,t,2026-01-31,4}",
                    ]
                ),
                ("DELETE FROM t", ["{1,00000000-0000-0000-0000-00000000000a,f,infinity,4}"]),
            ]),
        Case(
            name: "equal values with other texts", schema: "CREATE TABLE t (a numeric, b float8, c interval, PRIMARY KEY (a, b, c))",
            steps: [
                ("INSERT INTO t VALUES (1.0, 0, '24:00')", ["{1.0,0,24:00:00}"]),
                ("UPDATE t SET a = 1.0", ["{1.0,0,24:00:00}"]),
                ("UPDATE t SET a = 1.00", ["{1.0,0,24:00:00}", "{1.00,0,24:00:00}"]),
                ("UPDATE t SET b = '-0'", ["{1.00,-0,24:00:00}", "{1.00,0,24:00:00}"]),
                ("UPDATE t SET c = '1 day'", ["{1.00,-0,\"1 day\"}", "{1.00,-0,24:00:00}"]),
                ("SET IntervalStyle = 'iso_8601'; DELETE FROM t", ["{1.00,-0,\"1 day\"}"]),
            ]),
        // Of texts that a collation calls equal: CaptureInstallerTests.
        Case(
            name: "texts, empty and padded", schema: "CREATE TABLE t (a text, b varchar(9), c char(3), PRIMARY KEY (a, b, c))",
            steps: [
                ("INSERT INTO t VALUES ('a', '', 'c')", [#"{a,"","c  "}"#]), ("UPDATE t SET a = 'a', c = 'c '", [#"{a,"","c  "}"#]),
                ("UPDATE t SET a = 'A'", [#"{A,"","c  "}"#, #"{a,"","c  "}"#]), ("UPDATE t SET b = 'b'", [#"{A,"","c  "}"#, #"{A,b,"c  "}"#]),
                ("UPDATE t SET b = 'b '", [#"{A,"b ","c  "}"#, #"{A,b,"c  "}"#]), ("UPDATE t SET c = ''", [#"{A,"b ","   "}"#, #"{A,"b ","c  "}"#]),
                ("DELETE FROM t", [#"{A,"b ","   "}"#]),
            ]),
        Case(
            name: "values of types that are not PostgreSQL's own, empty and of NULLs too",
            schema: """
                CREATE TYPE pair AS (x numeric, y int); CREATE DOMAIN word AS text CHECK (VALUE <> 'never');
                CREATE TYPE mood AS ENUM ('sad', 'glad');
                CREATE TABLE t (a pair, b word, c mood, d int, v int, PRIMARY KEY (a, b, c, d))
                """,
            steps: [
                ("INSERT INTO t VALUES (ROW(NULL, NULL), '', 'sad', 1, 1)", [#"{"(,)","",sad,1}"#]),
                ("UPDATE t SET v = 2", [#"{"(,)","",sad,1}"#]),
                ("UPDATE t SET a = ROW(1.0, NULL)", [#"{"(,)","",sad,1}"#, #"{"(1.0,)","",sad,1}"#]),
                ("UPDATE t SET a.x = 1.00", [#"{"(1.0,)","",sad,1}"#, #"{"(1.00,)","",sad,1}"#]),
                ("UPDATE t SET b = 'w'", [#"{"(1.00,)","",sad,1}"#, #"{"(1.00,)",w,sad,1}"#]),
                ("UPDATE t SET c = 'glad', d = 2", [#"{"(1.00,)",w,glad,2}"#, #"{"(1.00,)",w,sad,1}"#]),
                ("UPDATE t SET a = ROW(NULL, NULL)", [#"{"(,)",w,glad,2}"#, #"{"(1.00,)",w,glad,2}"#]),
                ("DELETE FROM t", [#"{"(,)",w,glad,2}"#]),
            ]),
        Case(
            name: "names of the catalog, whatever the writer's search_path",
            schema: "CREATE TABLE t (r regclass PRIMARY KEY, v int)",
            steps: [
                ("INSERT INTO t VALUES ('t')", ["{public.t}"]), ("UPDATE t SET v = 1", ["{public.t}"]),
                ("SET search_path = pg_catalog; DELETE FROM public.t; SET search_path = public", ["{public.t}"]),
            ]),
        Case(
            name: "keys that triggers of the application change, and such as they take back",
            schema: """
                CREATE TABLE t (id int PRIMARY KEY, v int);
                CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF NEW.v = 7 THEN RETURN NULL; END IF; NEW.id := NEW.id + NEW.v; RETURN NEW; END $$;
                CREATE TRIGGER zz BEFORE INSERT OR UPDATE OF v ON t FOR EACH ROW EXECUTE FUNCTION moves()
                """,
            steps: [
                ("INSERT INTO t VALUES (1, 100), (2, 7)", ["{101}"]), ("UPDATE t SET v = 0", ["{101}"]),
                ("UPDATE t SET v = 5", ["{101}", "{106}"]), ("UPDATE t SET v = 7", []),
                ("UPDATE t SET id = 1, v = 0", ["{106}", "{1}"]),
            ]),
        Case(
            name: "rows that move between partitions with other columns",
            schema: """
                CREATE TABLE t (id int, p int, v text, PRIMARY KEY (id, p)) PARTITION BY LIST (p);
                CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                CREATE TABLE t2 (gone int, v text, p int NOT NULL, also int, id int NOT NULL);
                ALTER TABLE t2 DROP COLUMN gone, DROP COLUMN also; ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)
                """,
            steps: [
                ("INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b')", ["{1,1}", "{2,2}"]),
                ("UPDATE t SET p = 2 WHERE id = 1", ["{1,1}", "{1,2}"]), ("UPDATE t2 SET id = id + 2, v = 'c'", [
                    "{1,2}", "{2,2}", "{3,2}", "{4,2}",
                ]),
                ("UPDATE t SET p = 1, id = 9 WHERE id = 4", ["{4,2}", "{9,1}"]), ("DELETE FROM t", ["{3,2}", "{9,1}"]),
            ]),
        Case(
            name: "a unique index for a key, in columns with the names of records and functions",
            schema: """
                CREATE TABLE t ("NEW" int NOT NULL, old text NOT NULL, "coalesce" int, "TG_OP" int);
                CREATE UNIQUE INDEX ON t (old, "NEW")
                """,
            steps: [
                ("INSERT INTO t VALUES (1, 'o', NULL, 5)", ["{o,1}"]), ("UPDATE t SET \"coalesce\" = 1", ["{o,1}"]),
                ("UPDATE t SET old = 'p'", ["{o,1}", "{p,1}"]), ("DELETE FROM t", ["{p,1}"]),
            ]),
    ]

    private static let journal = "TABLE godwit.journal_0 UNION ALL TABLE godwit.journal_1 UNION ALL TABLE godwit.journal_2"

    /// Each key once: to write one down twice for one change is a cost without use.
    private static func keys(_ connection: borrowing Connection) throws -> [String] {
        let rows = try connection.query("""
            SELECT coalesce(key::text, 'TRUNCATE') FROM (\(journal)) j ORDER BY key::text COLLATE "C"
            """)
        return (0..<rows.count).compactMap { rows[$0, 0] }
    }

    @Test(arguments: cases, [Side.old, .new])
    func `the keys that a row had and has are written down, and no others`(_ itsCase: Case, _ side: Side) throws {
        let harness = try MirrorHarness(schema: itsCase.schema)
        try harness.prepare()
        let writer = side == .old ? try harness.connectOld() : try harness.connectNew()
        let reader = side == .old ? try harness.connectOld() : try harness.connectNew()
        try writer.execute("SET search_path = public")
        // Seven times: plans that are made for their values are followed by such for all.
        for round in 1...7 {
            for step in itsCase.steps {
                try writer.execute(step.sql)
                #expect(try Self.keys(reader) == step.keys, "round \(round): \(step.sql)")
                try reader.execute("TRUNCATE godwit.journal_0, godwit.journal_1, godwit.journal_2")
            }
            try writer.execute("RESET ALL; SET search_path = public; TRUNCATE t")
            try reader.execute("TRUNCATE godwit.journal_0, godwit.journal_1, godwit.journal_2")
        }
    }

    /// As the version before made it: three tables of the journal, all of its statements for each kind of event.
    private static func formerBody(_ oid: UInt32) -> String {
        func insert(_ record: String) -> String {
            "INSERT INTO godwit.journal_2 (xid, relation, key) VALUES (x, \(oid), ARRAY[\(record).\"id\"::pg_catalog.text]);"
        }
        return """
            -- key =id
            DECLARE x pg_catalog.xid8 := pg_catalog.pg_current_xact_id();
            BEGIN
                IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN \(insert("NEW")) RETURN NULL; END IF;
                \(insert("OLD"))
                IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND ARRAY[NEW."id"::pg_catalog.text]
                    OPERATOR(pg_catalog.<>) ARRAY[OLD."id"::pg_catalog.text] COLLATE pg_catalog."C" THEN \(insert("NEW")) END IF;
                RETURN NULL;
            END
            """
    }

    @Test func `a function as the version before made it goes on, and is exchanged without a new copy`() throws {
        var options = MirrorOptions(pollMillis: 5)
        options.housekeepingSeconds = 0.05
        let harness = try MirrorHarness.mirroring("CREATE TABLE t (id int PRIMARY KEY, v int)", fill: """
            INSERT INTO t SELECT g, g FROM generate_series(1, 500) g
            """, options: options)
        let old = try harness.connectOld(), new = try harness.connectNew(), writer = try harness.writer()
        let oid = UInt32(try old.query("SELECT 'public.t'::regclass::oid").integer(0, 0) ?? 0)
        try old.execute("""
            CREATE OR REPLACE FUNCTION godwit.capture_\(oid)() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            AS \(SQL.literal(Self.formerBody(oid)))
            """)
        // To tell a copy that is made anew, which would put it right.
        try new.execute("SET session_replication_role = replica; UPDATE public.t SET v = -7 WHERE id = 400")
        func write() throws {
            try writer.execute("""
                UPDATE t SET v = v + 1 WHERE id < 100; UPDATE t SET id = -id WHERE id > 480 OR id < -480;
                DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (7, 7)
                """)
        }
        try write()
        try writer.execute("BEGIN; UPDATE t SET v = v + 1 WHERE id = 300")
        let report = try harness.prepare()
        #expect(report.present.count == 1 && report.exchanged.isEmpty && report.installed.isEmpty && report.suspect.isEmpty)
        #expect(try old.query("SELECT prosrc LIKE '%journal_2%' FROM pg_proc WHERE proname = 'capture_\(oid)'")[0, 0] == "f")
        try writer.execute("UPDATE t SET id = 1300 WHERE id = 301; COMMIT")
        try write()
        try harness.settle()
        #expect(try new.query("SELECT v = -7 FROM public.t WHERE id = 400").flag(0, 0), "it was copied anew")
        try new.execute("UPDATE public.t SET v = 400 WHERE id = 400")
        try MirrorRegressionTests.expectEqual(harness)
        // Nobody writes to that table of the journal any more.
        try harness.wait(for: "an empty table") { _ in
            try old.query("SELECT NOT EXISTS (TABLE godwit.journal_2)").flag(0, 0)
        }
    }

    @Test func `a session that has written goes on when the key has become another type`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int, a varchar(9), v int, PRIMARY KEY (id, a))")
        try harness.prepare()
        let writer = try harness.writer(), other = try harness.connectOld()
        let write = """
            INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 1; UPDATE t SET id = 2; UPDATE t SET a = 'b'; DELETE FROM t
            """
        for type in ["int", "bigint", "numeric"] {
            try other.execute("ALTER TABLE public.t ALTER id TYPE \(type)")
            try other.execute("TRUNCATE godwit.journal_0, godwit.journal_1, godwit.journal_2")
            for _ in 1...7 { try writer.execute(write) }
            #expect(Set(try Self.keys(other)) == ["{1,a}", "{2,a}", "{2,b}"], "\(type)")
            try other.execute("ALTER TABLE public.t ALTER a TYPE text")
        }
    }

    @Test func `a cast that the table's owner has made does not run with the control user's rights`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE seen (id int PRIMARY KEY)")
        try harness.prepare()
        let writer = try harness.writer()
        try writer.execute("""
            CREATE TYPE sly AS (n int);
            CREATE FUNCTION sly_text(sly) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO public.seen VALUES (1); RETURN 'x'; END $$;
            CREATE CAST (sly AS text) WITH FUNCTION sly_text(sly);
            ALTER TABLE t ALTER id TYPE sly USING ROW(id)::sly
            """)
        try writer.execute("INSERT INTO t VALUES (ROW(7)); UPDATE t SET id = ROW(8); DELETE FROM t")
        #expect(try writer.query("SELECT NOT EXISTS (SELECT FROM seen)").flag(0, 0))
    }

    @Test func `a view in the place of a table does not run with the control user's rights`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE t (id int PRIMARY KEY, v int);
            CREATE FUNCTION sly() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                EXECUTE format('COPY (SELECT 1) TO %L', current_setting('data_directory') || '/sly_' || current_database());
                RETURN 1; END $$
            """, fill: "INSERT INTO t VALUES (1, 1)")
        let writer = try harness.writer()
        let isKnown = "SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind')"
        guard try writer.query(isKnown).flag(0, 0) else { return }
        // One transaction: the mirror meets a changed key and the view at once.
        try writer.execute("""
            UPDATE t SET v = 2; ALTER TABLE t RENAME TO away; CREATE VIEW t AS SELECT id, sly() AS v FROM away
            """)
        try harness.wait(for: "the table's end") { $0.reason.contains("has no table public.t any more") }
        #expect(try writer.query("SELECT pg_stat_file('sly_' || current_database(), true) IS NULL").flag(0, 0))
    }

    @Test func `a key's text is that of its type, not of a cast that somebody has made`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TYPE pair AS (a int, b int); CREATE TABLE t (id pair PRIMARY KEY, v int);
            CREATE FUNCTION shown(pair) RETURNS text LANGUAGE sql AS $$ SELECT 'no pair' $$;
            CREATE CAST (pair AS text) WITH FUNCTION shown(pair)
            """, fill: "INSERT INTO t SELECT ROW(g, 1)::pair, g FROM generate_series(1, 500) g",
            options: MirrorOptions(pollMillis: 5, backfillRows: 100))
        try harness.writer().execute("UPDATE t SET v = 0 WHERE (id).a < 9; DELETE FROM t WHERE (id).a > 400")
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `a key that is a name of the catalog`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE t (r regclass PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY)",
            fill: "INSERT INTO t VALUES ('t', 1), ('other', 2)")
        try harness.writer().execute("""
            UPDATE t SET v = 3 WHERE r = 't'::regclass; DELETE FROM t WHERE r = 'other'::regclass
            """)
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `transactions take turns with two tables of the journal`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id bigint PRIMARY KEY)")
        try harness.prepare()
        let old = try harness.connectOld()
        let burn = "DO $$ BEGIN FOR i IN 1..\(1 << (Journal.segmentBits - 1)) LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        for number in 0..<5 {
            try old.execute("INSERT INTO public.t VALUES (\(number))")
            try old.execute(burn)
        }
        let rows = try old.query("""
            SELECT count(*), count(DISTINCT n), bool_and(n = (xid::text::bigint >> \(Journal.segmentBits)) % 2)
              FROM (SELECT 0 n, xid FROM godwit.journal_0 UNION ALL SELECT 1, xid FROM godwit.journal_1
                UNION ALL SELECT 2, xid FROM godwit.journal_2) j
            """)
        #expect(rows.integer(0, 0) == 5 && rows.integer(0, 1) == 2 && rows.flag(0, 2))
    }
}
