import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// Rows that change, or may have changed, without any trigger: by DDL, by triggers that were off, by a side that is not
/// what it was.
@Suite(.serialized) struct MirrorSchemaChangeTests {
    static let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE w (k text PRIMARY KEY, v int);"
    static let fill = """
        INSERT INTO t SELECT g, g FROM generate_series(1, 500) g;
        INSERT INTO w SELECT 'k' || g, g FROM generate_series(1, 500) g;
        """

    static func mirroring(_ schema: String = schema, fill: String = fill) throws -> MirrorHarness {
        var options = MirrorOptions(pollMillis: 5)
        options.housekeepingSeconds = 0.05
        return try MirrorHarness.mirroring(schema, fill: fill, options: options)
    }

    /// Waits until both sides are equal, whatever has to be copied for it.
    static func expectEqual(_ harness: MirrorHarness) throws {
        try harness.wait(for: "both sides to be equal") { report in
            try report.state == .mirroring && harness.horizon.readable && harness.differences() == []
        }
    }

    @Test func `a column whose default differs between the sides is brought row by row`() throws {
        let harness = try Self.mirroring()
        for table in ["t", "w"] {
            try harness.connectOld().execute("ALTER TABLE public.\(table) ADD COLUMN c int DEFAULT 5")
            try harness.connectNew().execute("ALTER TABLE public.\(table) ADD COLUMN c int DEFAULT 6")
        }
        try Self.expectEqual(harness)
        #expect(try harness.connectNew().query("SELECT count(*) FROM public.w WHERE c = 5").integer(0, 0) == 500)
    }

    /// Whether the table was copied again for it: a row that differs on NEW unnoticed stays, or is brought back.
    static func copiesAnew(_ harness: MirrorHarness, _ change: () throws -> Void) throws -> Bool {
        let mark = "SET session_replication_role = replica; UPDATE public.t SET v ="
        try harness.connectNew().execute("\(mark) -7 WHERE id = 400")
        try change()
        try harness.connectOld().execute("INSERT INTO public.t (id, v) VALUES (2000, 1)")
        try harness.wait(for: "a row behind the change") { report in
            guard report.state == .mirroring && harness.horizon.readable else { return false }
            return try harness.connectNew().query("SELECT count(*) FROM public.t WHERE id = 2000").integer(0, 0) == 1
        }
        let isThere = try harness.connectNew().query("SELECT v = -7 FROM public.t WHERE id = 400").flag(0, 0)
        try harness.connectNew().execute("\(mark) 400 WHERE id = 400")
        try expectEqual(harness)
        return !isThere
    }

    @Test func `columns that take each other's names on one side first leave no row with the other's values`() throws {
        let harness = try Self.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v int, a int, b int)",
            fill: "INSERT INTO t SELECT g, g, g, -g FROM generate_series(1, 500) g")
        let swap = """
            BEGIN; ALTER TABLE public.t RENAME a TO c; ALTER TABLE public.t RENAME b TO a;
            ALTER TABLE public.t RENAME c TO b; COMMIT
            """
        try harness.connectOld().execute(swap)
        try harness.connectOld().execute("INSERT INTO public.t (id, a, b) VALUES (501, -501, 501)")
        try harness.wait(for: "each value under its name") { _ in
            let found = "SELECT count(*) FROM public.t WHERE a = -id AND b = id"
            return try harness.connectNew().query(found).integer(0, 0) == 501
        }
        try harness.connectNew().execute(swap)
        try Self.expectEqual(harness)
        // Where nothing is carried between the two, they are what they were.
        let isCopied = try Self.copiesAnew(harness) {
            harness.stop()
            try harness.connectOld().execute(swap)
            try harness.connectNew().execute(swap)
            harness.start()
        }
        #expect(!isCopied)
    }

    @Test(arguments: [
        "int", "int DEFAULT 5", "text NOT NULL DEFAULT 'a,b|c'", "date DEFAULT '2020-02-01'", "text[] DEFAULT '{x,NULL}'",
    ])
    func `a column that came to both sides with one value for all rows copies nothing anew`(column: String) throws {
        let harness = try Self.mirroring()
        let alter = "ALTER TABLE public.t ADD COLUMN c \(column)"
        let isAnew = try Self.copiesAnew(harness) {
            try harness.connectOld().execute(alter)
            try harness.connectOld().execute("UPDATE public.t SET v = v + 1 WHERE id < 20; DELETE FROM public.t WHERE id = 30")
            try harness.connectNew().execute(alter)
        }
        #expect(!isAnew)
    }

    @Test(arguments: [
        "timestamptz DEFAULT now()", "float8 DEFAULT random()", "serial", "int GENERATED ALWAYS AS IDENTITY",
    ])
    func `a column with values of each side's own is brought row by row`(column: String) throws {
        let harness = try Self.mirroring()
        let isAnew = try Self.copiesAnew(harness) {
            for side in [harness.connectOld, harness.connectNew] {
                try side().execute("ALTER TABLE public.t ADD COLUMN c \(column)")
            }
        }
        #expect(isAnew)
    }

    /// Each side numbers its rows in the order of its own pages: what NEW has of later ranges stands in the way of those
    /// that come, of the copy's and of others.
    @Test func `a table that is copied anew and has another unique index goes its way`() throws {
        let harness = try Self.mirroring(fill: """
            INSERT INTO t SELECT g, g FROM generate_series(1, 12000) g; UPDATE t SET v = 1 WHERE id <= 500;
            INSERT INTO w VALUES ('k', 1)
            """)
        try harness.connectOld().execute("ALTER TABLE public.t ADD COLUMN nr serial UNIQUE")
        try harness.connectNew().execute("ALTER TABLE public.t ADD COLUMN nr serial UNIQUE")
        try harness.connectOld().execute("UPDATE public.t SET v = 2 WHERE id IN (1, 400, 11000); UPDATE public.w SET v = 2")
        try Self.expectEqual(harness)
        #expect(try harness.connectNew().query("SELECT max(nr) FROM public.t WHERE id <= 500").integer(0, 0) == 12000)
    }

    @Test(arguments: ["z", #""Größe-2""#])
    func `a table without a primary key keeps its key when another unique index could be one`(key: String) throws {
        let harness = try Self.mirroring(
            "CREATE TABLE t (\(key) int NOT NULL, a int NOT NULL, v int); CREATE UNIQUE INDEX t_z ON t (\(key))",
            fill: "INSERT INTO t SELECT g, -g, g FROM generate_series(1, 500) g")
        let old = try harness.connectOld()
        // It would come first by its name.
        try old.execute("CREATE UNIQUE INDEX t_a ON public.t (a)")
        try old.execute("UPDATE public.t SET v = 0 WHERE \(key) = 7; DELETE FROM public.t WHERE \(key) = 8")
        try Self.expectEqual(harness)
        #expect(try harness.connectNew().query("SELECT v FROM public.t WHERE \(key) IN (7, 8)").integer(0, 0) == 0)
    }

    /// The same where only a partition has such an index.
    @Test func `a partition's own unique index is known`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT
            """)
        func others() throws -> Int? {
            try CatalogReader.tables(try harness.connectOld()).first { $0.kind == .partitioned }?.otherUniqueIndexes
        }
        #expect(try others() == 0)
        try harness.connectOld().execute("CREATE UNIQUE INDEX ON public.p1 (v)")
        #expect(try others() == 1)
    }

    /// The batch stands still in its midst: a table of NEW's is somebody's for the moment.
    @Test(arguments: [Side.old, .new])
    func `DDL in the midst of a batch, on either side, loses no value`(side: Side) throws {
        let harness = try Self.mirroring()
        let holder = try harness.connectNew(), beside = try side == .old ? harness.connectOld() : harness.connectNew()
        try holder.execute("BEGIN; LOCK TABLE public.w IN EXCLUSIVE MODE")
        try harness.connectOld().execute("BEGIN; UPDATE public.t SET v = -v; UPDATE public.w SET v = -v; COMMIT")
        try harness.wait(for: "the batch to wait") { _ in
            try holder.query("""
                SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'public.w'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                """).flag(0, 0)
        }
        let add = "ALTER TABLE public.t ADD COLUMN c int", fill = "UPDATE public.t SET c = id"
        let changing = try side == .old ? harness.connectOld() : harness.connectNew()
        let process = try changing.query("SELECT pg_backend_pid()").integer(0, 0) ?? 0
        try changing.send(side == .old ? "\(add); \(fill)" : add)
        // Done, or behind the batch.
        try harness.wait(for: "the DDL") { _ in
            try beside.query("""
                SELECT query LIKE 'ALTER TABLE%' AND (state = 'idle' OR coalesce(wait_event_type = 'Lock', false))
                  FROM pg_stat_activity WHERE pid = \(process)
                """).flag(0, 0)
        }
        try holder.execute("COMMIT")
        try changing.finish()
        if side == .old {
            try harness.connectNew().execute(add)
        } else {
            try harness.connectOld().execute("\(add); \(fill)")
        }
        try Self.expectEqual(harness)
        let found = try harness.connectNew().query("SELECT count(*) FROM public.t WHERE c = id AND v = -id")
        #expect(found.integer(0, 0) == 500)
    }

    /// Rows that came meanwhile have the default that it had then.
    @Test func `a column that NEW had before is brought row by row`() throws {
        let harness = try Self.mirroring()
        try harness.connectNew().execute("""
            ALTER TABLE public.t ADD COLUMN c int DEFAULT 5; ALTER TABLE public.t ALTER c SET DEFAULT 6
            """)
        try harness.connectOld().execute("INSERT INTO public.t VALUES (3000, 1)")
        try harness.wait(for: "a row with NEW's default") { _ in
            try harness.connectNew().query("SELECT count(*) FROM public.t WHERE c = 6").integer(0, 0) == 1
        }
        let isAnew = try Self.copiesAnew(harness) {
            try harness.connectOld().execute("ALTER TABLE public.t ADD COLUMN c int DEFAULT 5")
        }
        #expect(isAnew)
    }

    @Test(arguments: ["t", "w"])
    func `a rewrite by ALTER TABLE on either side is noticed although no type changes`(table: String) throws {
        let harness = try Self.mirroring()
        try harness.connectOld().execute("ALTER TABLE public.\(table) ALTER v TYPE int USING v * 2")
        try Self.expectEqual(harness)
        try harness.connectNew().execute("ALTER TABLE public.\(table) ALTER v TYPE int USING v * 3")
        try Self.expectEqual(harness)
        try harness.connectNew().execute("ALTER TABLE public.\(table) DROP COLUMN v; ALTER TABLE public.\(table) ADD COLUMN v int")
        try Self.expectEqual(harness)
    }

    @Test func `VACUUM FULL and CLUSTER copy nothing anew`() throws {
        let harness = try Self.mirroring()
        for change in ["VACUUM FULL public.t", "CLUSTER public.t USING t_pkey", "CREATE INDEX ON public.t (v)"] {
            let isAnew = try Self.copiesAnew(harness) {
                for connect in [harness.connectOld, harness.connectNew] { try connect().execute(change) }
                let batches = harness.horizon.report.batches
                try harness.wait(for: "some looks") { $0.batches > batches + 100 }
            }
            #expect(!isAnew, "\(change)")
            try harness.connectOld().execute("DELETE FROM public.t WHERE id = 2000")
            try harness.settle()
        }
        try harness.connectOld().execute("UPDATE public.t SET v = 9")
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    @Test(arguments: ["VACUUM FULL public.t", "CLUSTER public.t USING t_pkey"])
    func `a table that got another file goes on when its columns change later`(change: String) throws {
        let harness = try Self.mirroring()
        let isAnew = try Self.copiesAnew(harness) {
            for connect in [harness.connectOld, harness.connectNew] {
                try connect().execute(change)
                let file = try connect().query("SELECT relfilenode FROM pg_class WHERE oid = 'public.t'::regclass")[0, 0]
                try harness.wait(for: "its file to be noted") { _ in
                    let noted = "SELECT stamp LIKE '%:\(file ?? "")|%' FROM godwit.backfill WHERE table_name = 't'"
                    return try harness.connectNew().query(noted).flag(0, 0)
                }
                try connect().execute("ALTER TABLE public.t ALTER v SET STATISTICS 10")
            }
        }
        #expect(!isAnew)
    }

    @Test func `tables that change names are not taken for each other`() throws {
        let harness = try Self.mirroring("""
            CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int);
            """, fill: "INSERT INTO a SELECT g, 1 FROM generate_series(1, 300) g; INSERT INTO b SELECT g, 2 FROM generate_series(1, 200) g;")
        let swap = "BEGIN; ALTER TABLE public.a RENAME TO c; ALTER TABLE public.b RENAME TO a; ALTER TABLE public.c RENAME TO b; COMMIT"
        try harness.connectOld().execute("\(swap); UPDATE public.a SET v = 3 WHERE id < 100; DELETE FROM public.b WHERE id < 50")
        try Self.expectEqual(harness)
        #expect(try harness.connectNew().query("SELECT count(*) FROM public.a").integer(0, 0) == 200)
    }

    @Test func `a new table under the old one's name is not mirrored by the old one's journal`() throws {
        let harness = try Self.mirroring()
        try harness.connectOld().execute("""
            BEGIN; CREATE TABLE public.t2 (id int PRIMARY KEY, v int); INSERT INTO public.t2 VALUES (1, -1);
            ALTER TABLE public.t RENAME TO t_old; ALTER TABLE public.t2 RENAME TO t; COMMIT;
            UPDATE public.t_old SET v = 0; INSERT INTO public.t VALUES (2, -2)
            """)
        try harness.wait(for: "the stop") { $0.state == .stopped }
        #expect(harness.horizon.report.reason.contains("public.t: the capture triggers are gone"))
        #expect(!harness.horizon.readable)
        try harness.connectNew().execute("CREATE TABLE public.t_old (id int PRIMARY KEY, v int)")
        try harness.prepare()
        try Self.expectEqual(harness)
    }

    /// No row is written for it, no file is another, and no column is newer than it was.
    @Test(arguments: [
        "ALTER TABLE public.t RENAME a TO c; ALTER TABLE public.t RENAME b TO a; ALTER TABLE public.t RENAME c TO b",
        "ALTER TABLE public.t DROP a; ALTER TABLE public.t RENAME b TO a",
    ])
    func `a name that another column has had on one side has the table copied anew`(change: String) throws {
        let harness = try Self.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b int)",
            fill: "INSERT INTO t SELECT g, g, -g FROM generate_series(1, 500) g")
        let old = try harness.connectOld(), new = try harness.connectNew()
        try old.execute("BEGIN; \(change); COMMIT")
        // By their names: the columns are in another order there.
        let values = "SELECT string_agg(id || ' ' || a, ',' ORDER BY id) FROM public.t"
        let expected = try old.query(values)[0, 0]
        try harness.wait(for: "the other column's values") { _ in try new.query(values)[0, 0] == expected }
    }

    @Test func `a column that was computed and takes another one's name has the table copied anew`() throws {
        let harness = try Self.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (-id) STORED, a int)",
            fill: "INSERT INTO t (id, a) SELECT n, n FROM generate_series(1, 500) n")
        let old = try harness.connectOld(), new = try harness.connectNew()
        try old.execute("""
            BEGIN; ALTER TABLE public.t ALTER g DROP EXPRESSION; ALTER TABLE public.t DROP a;
            ALTER TABLE public.t RENAME g TO a; COMMIT
            """)
        try harness.wait(for: "the other column's values") { _ in
            try new.query("SELECT count(*) FROM public.t WHERE a = -id").integer(0, 0) == 500
        }
    }

    @Test func `a column that is renamed alike on both sides is the one that it was`() throws {
        let harness = try Self.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v int, a int)",
            fill: "INSERT INTO t SELECT g, g, -g FROM generate_series(1, 500) g")
        let isAnew = try Self.copiesAnew(harness) {
            for connect in [harness.connectOld, harness.connectNew] {
                try connect().execute("ALTER TABLE public.t RENAME a TO c")
            }
        }
        #expect(!isAnew)
    }

    @Test func `a key that becomes another`() throws {
        let harness = try Self.mirroring(
            "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL, v int)",
            fill: "INSERT INTO t SELECT g, 1000 - g, g FROM generate_series(1, 500) g")
        for connect in [harness.connectOld, harness.connectNew] {
            try connect().execute("ALTER TABLE public.t DROP CONSTRAINT t_pkey; ALTER TABLE public.t ADD PRIMARY KEY (b)")
        }
        try harness.wait(for: "the stop") { $0.state == .stopped && $0.reason.contains("another key") }
        try harness.connectOld().execute("UPDATE public.t SET v = -v WHERE a < 100; DELETE FROM public.t WHERE a > 450")
        try harness.prepare()
        try Self.expectEqual(harness)
        try harness.connectOld().execute("UPDATE public.t SET b = b + 5000 WHERE a < 200; UPDATE public.t SET a = 1")
        try Self.expectEqual(harness)
    }

    @Test func `keys that a domain does not allow any more are taken away`() throws {
        let harness = try Self.mirroring("""
            CREATE DOMAIN word AS text; CREATE DOMAIN code AS word; CREATE TABLE one (k code PRIMARY KEY, v int);
            CREATE TABLE two (id int, k code, v int, PRIMARY KEY (k, id))
            """, fill: """
            INSERT INTO one SELECT 'k' || g, g FROM generate_series(1, 3000) g;
            INSERT INTO two SELECT g, 'k' || g, g FROM generate_series(1, 3000) g
            """)
        let old = try harness.writer()
        for (kept, name) in [(2990, "few"), (1000, "many")] {
            try old.execute("""
                BEGIN; DELETE FROM one WHERE v > \(kept); DELETE FROM two WHERE v > \(kept);
                ALTER DOMAIN word ADD CHECK (substr(VALUE, 2)::int <= \(kept)); COMMIT
                """)
            try MirrorRegressionTests.expectEqual(harness, name)
        }
    }

    @Test func `a key that could be NULL for a moment stops nothing`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE u (k int NOT NULL UNIQUE, v int)", fill: "INSERT INTO u SELECT g, g FROM generate_series(1, 50) g")
        try harness.writer().execute("""
            ALTER TABLE u ALTER k DROP NOT NULL; INSERT INTO u VALUES (NULL, 1), (77, 7); DELETE FROM u WHERE k IS NULL OR k < 5;
            ALTER TABLE u ALTER k SET NOT NULL
            """)
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `triggers that were off for a moment make the table come anew`() throws {
        let harness = try Self.mirroring()
        for table in ["t", "w"] {
            try harness.connectOld().execute("""
                BEGIN; ALTER TABLE public.\(table) DISABLE TRIGGER ALL; UPDATE public.\(table) SET v = -1 WHERE v < 100;
                DELETE FROM public.\(table) WHERE v > 400; ALTER TABLE public.\(table) ENABLE TRIGGER godwit_capture;
                ALTER TABLE public.\(table) ENABLE REPLICA TRIGGER godwit_capture_replica;
                ALTER TABLE public.\(table) ENABLE ALWAYS TRIGGER godwit_capture_truncate; COMMIT
                """)
        }
        try Self.expectEqual(harness)
        harness.stop()
        try harness.connectOld().execute("DROP TRIGGER godwit_capture ON public.t; DELETE FROM public.t WHERE id % 2 = 0")
        try harness.prepare()
        harness.start()
        try Self.expectEqual(harness)
    }

    @Test func `a NEW from before the journal was emptied does not go on`() throws {
        let harness = try Self.mirroring()
        // So that entries are no longer in the segment in use.
        let burn = "DO $$ BEGIN FOR i IN 1..140000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        try harness.connectOld().execute("UPDATE public.t SET v = 1")
        try harness.connectOld().execute(burn)
        try harness.settle()
        try harness.wait(for: "an empty journal") { _ in
            try harness.connectOld().query("SELECT emptied_batch > 0 FROM godwit.control").flag(0, 0)
        }
        harness.stop()
        try harness.connectNew().execute("UPDATE godwit.progress SET batch = 0")
        harness.start()
        try harness.wait(for: "the stop") { $0.state == .stopped && $0.reason.contains("NEW has lost batches") }
        #expect(!harness.horizon.readable)
    }

    @Test func `an OLD that was put back to an earlier state is noticed`() throws {
        let harness = try Self.mirroring()
        harness.stop()
        try harness.connectNew().execute("UPDATE godwit.progress SET snapshot = '900000000:900000000:'")
        harness.start()
        try harness.wait(for: "the stop") { $0.state == .stopped && $0.reason.contains("OLD has lost transactions") }
    }

    @Test func `a failover of OLD is noticed`() throws {
        let harness = try Self.mirroring()
        harness.stop()
        try harness.connectNew().execute("UPDATE godwit.progress SET source = '1/00000001/2'")
        harness.start()
        try harness.wait(for: "the stop") { $0.state == .stopped && $0.reason.contains("OLD is not the server that it was") }
    }

    @Test func `a partition of NEW that is emptied, detached or dropped there comes back`() throws {
        let harness = try Self.mirroring("""
            CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
            CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
            CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (1000);
            """, fill: "INSERT INTO p SELECT g, g FROM generate_series(1, 500) g")
        try harness.connectNew().execute("TRUNCATE public.p1")
        try Self.expectEqual(harness)
        try harness.connectNew().execute("""
            BEGIN; DROP TABLE public.p2; CREATE TABLE public.p2 PARTITION OF public.p FOR VALUES FROM (100) TO (1000); COMMIT
            """)
        try Self.expectEqual(harness)
    }

    @Test func `a type whose cast to text loses something travels by its own output`() throws {
        let harness = try Self.mirroring("""
            CREATE TYPE pair AS (a int, b text);
            CREATE FUNCTION pair_text(pair) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT '(1,lost)' $$;
            CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair);
            CREATE TABLE c (k pair PRIMARY KEY, p pair, v int);
            """, fill: "INSERT INTO c SELECT ROW(g, 'x')::pair, ROW(g, 'y')::pair, 0 FROM generate_series(1, 20) g")
        try harness.writer().execute("UPDATE c SET p = ROW(7, 'changed')::pair; INSERT INTO c VALUES (ROW(99, 'z')::pair, NULL, 1)")
        try harness.settle()
        try Self.expectEqual(harness)
    }

    @Test func `names that look like SQL stay names`() throws {
        let name = "x$godwit$; DROP TABLE t; --\"\n%L'"
        let table = SQL.identifier(name)
        let harness = try Self.mirroring(
            "CREATE TABLE \(table) (\(SQL.identifier(name + "k")) int PRIMARY KEY, \(SQL.identifier(name + "v")) text)",
            fill: "INSERT INTO \(table) SELECT g, 'v' FROM generate_series(1, 50) g")
        try harness.writer().execute("UPDATE \(table) SET \(SQL.identifier(name + "v")) = 'w'")
        try harness.settle()
        try Self.expectEqual(harness)
        try harness.connectNew().execute("UPDATE public.\(table) SET \(SQL.identifier(name + "v")) = 'rogue'")
        try Self.expectEqual(harness)
    }

    @Test func `a table with more columns than a function takes arguments`() throws {
        let columns = (0..<250).map { "c\($0) int" }.joined(separator: ", ")
        let harness = try Self.mirroring("CREATE TABLE wide (id int PRIMARY KEY, \(columns))", fill: """
            INSERT INTO wide (id, c0, c100, c249) SELECT g, g, NULL, -g FROM generate_series(1, 20) g
            """)
        try harness.writer().execute("UPDATE wide SET c99 = 5, c249 = 6")
        try harness.settle()
        try Self.expectEqual(harness)
    }

    @Test func `a table that OLD got since is named`() throws {
        let harness = try Self.mirroring()
        try harness.connectOld().execute("CREATE TABLE public.later (id int PRIMARY KEY)")
        try harness.wait(for: "the name") { $0.uncaptured == ["public.later"] }
        #expect(harness.horizon.readable)
        try harness.connectNew().execute("CREATE TABLE public.later (id int PRIMARY KEY)")
        try harness.prepare()
        try harness.wait(for: "no name") { $0.uncaptured == [] && $0.state == .mirroring }
    }

    @Test func `what another version prepared is named with its remedy`() throws {
        let harness = try Self.mirroring()
        harness.stop()
        try harness.connectOld().execute("""
            CREATE OR REPLACE FUNCTION godwit.mark_dirty(its_relation oid, its_key text[]) RETURNS void LANGUAGE sql AS '';
            DO $$ DECLARE f text; BEGIN
                SELECT replace(pg_get_functiondef(p.oid), 'RETURN NEW', 'RETURN  NEW') INTO f FROM pg_proc p
                 WHERE proname = 'capture_' || 'public.t'::regclass::oid; EXECUTE f; END $$
            """)
        harness.start()
        try harness.wait(for: "the remedy") { $0.state == .stopped && $0.reason.contains("Run godwit prepare") }
        try harness.prepare()
        try Self.expectEqual(harness)
        harness.stop()
        try harness.connectNew().execute("ALTER TABLE godwit.backfill DROP COLUMN stamp")
        harness.start()
        try harness.wait(for: "the remedy") { $0.reason.contains("by another version of Godwit: run godwit prepare") }
        try harness.prepare()
        try Self.expectEqual(harness)
    }
}
