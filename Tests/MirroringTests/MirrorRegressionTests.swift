import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// Each of these has broken mirrors that replay rows or statements. One named test for each.
@Suite(.serialized) struct MirrorRegressionTests {
    static func expectEqual(_ harness: MirrorHarness, _ what: String = "") throws {
        try harness.settle()
        #expect(try harness.differences() == [], "\(what)")
        #expect(harness.horizon.report.state == .mirroring, "\(harness.horizon.report.reason)")
    }

    @Test func `a trigger that touches sibling rows`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE tree (id int PRIMARY KEY, parent int, n int NOT NULL DEFAULT 0);
            CREATE FUNCTION up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                UPDATE tree SET n = n + 1 WHERE id IN (NEW.parent, NEW.id + 1) AND id <> NEW.id;
                DELETE FROM tree WHERE n > 6; RETURN NULL; END $$;
            CREATE TRIGGER up AFTER INSERT OR UPDATE OF parent ON tree FOR EACH ROW EXECUTE FUNCTION up();
            CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.id % 7 = 0 THEN RETURN NULL; END IF; NEW.n := NEW.n + 1; RETURN NEW; END $$;
            CREATE TRIGGER before BEFORE INSERT ON tree FOR EACH ROW EXECUTE FUNCTION before();
            """)
        let old = try harness.writer()
        try old.execute("INSERT INTO tree SELECT g, g / 2, 0 FROM generate_series(1, 300) g")
        try old.execute("UPDATE tree SET parent = id % 5 WHERE id < 150; UPDATE tree SET parent = 1 WHERE id % 3 = 0")
        try Self.expectEqual(harness)
    }

    @Test func `transactions that change each other's rows and end in the other order`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", fill: "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 20) g")
        let one = try harness.writer(), two = try harness.writer()
        for round in 0..<20 {
            try one.execute("BEGIN; UPDATE t SET v = 'one \(round)' WHERE id = 1; INSERT INTO t VALUES (\(100 + round), 'one')")
            try two.execute("BEGIN; UPDATE t SET v = 'two \(round)' WHERE id = 2; DELETE FROM t WHERE id = \(99 + round)")
            try harness.settle()
            try two.execute("UPDATE t SET v = v || '!' WHERE id = 3; COMMIT")
            try one.execute("UPDATE t SET v = v || '?' WHERE id IN (2, 3); COMMIT")
            try two.execute("UPDATE t SET v = v || '.' WHERE id = 1")
        }
        try Self.expectEqual(harness)
    }

    @Test func `a deferrable unique constraint against a delete of many rows, and values that are swapped`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE u (id int PRIMARY KEY, code int UNIQUE DEFERRABLE INITIALLY DEFERRED, name text UNIQUE);
            """, fill: "INSERT INTO u SELECT g, g, 'n' || g FROM generate_series(1, 3000) g")
        let old = try harness.writer()
        try old.execute("BEGIN; UPDATE u SET code = 3001 - code; DELETE FROM u WHERE id % 2 = 0; COMMIT")
        try Self.expectEqual(harness, "reversed")
        try old.execute("""
            BEGIN; UPDATE u SET name = 'x' WHERE id = 1; UPDATE u SET name = 'n1' WHERE id = 3;
            UPDATE u SET name = 'n3' WHERE id = 1; COMMIT; DELETE FROM u WHERE id = 5; INSERT INTO u VALUES (6, 2999, 'n5');
            """)
        try Self.expectEqual(harness, "swapped")
    }

    @Test func `a deferrable primary key whose values change places`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE d (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)",
            fill: "INSERT INTO d SELECT g, 'v' || g FROM generate_series(1, 50) g")
        let old = try harness.writer()
        try old.execute("UPDATE d SET id = 51 - id")
        try old.execute("BEGIN; INSERT INTO d VALUES (7, 'second'); DELETE FROM d WHERE v = 'v44'; COMMIT")
        try Self.expectEqual(harness)
    }

    @Test func `a primary key that is WITHOUT OVERLAPS on NEW`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE t (r int4range, during int4range, v int, PRIMARY KEY (r, during))
            """)
        try harness.connectNew().execute("""
            ALTER TABLE public.t DROP CONSTRAINT t_pkey;
            ALTER TABLE public.t ADD PRIMARY KEY (r, during WITHOUT OVERLAPS)
            """)
        let old = try harness.writer()
        try old.execute("INSERT INTO t SELECT int4range(g, g + 1), '[1,5)', g FROM generate_series(1, 50) g")
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try old.execute("UPDATE t SET v = -v; INSERT INTO t SELECT r, '[5,9)', v FROM t WHERE v < -40")
        try Self.expectEqual(harness)
        // The first period grows into what the second one was.
        try old.execute("""
            UPDATE t SET during = CASE lower(during) WHEN 1 THEN int4range(1, 7) ELSE int4range(7, 9) END WHERE v < -40
            """)
        try Self.expectEqual(harness)
    }

    @Test func `a writer that waits for a foreign key's row does not stop the mirror`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE parent (id int PRIMARY KEY, v text);
            CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
            """, fill: "INSERT INTO parent SELECT g, 'p' FROM generate_series(1, 10) g")
        let one = try harness.writer(), two = try harness.writer(), three = try harness.writer()
        let process = try two.query("SELECT pg_backend_pid()").integer(0, 0) ?? 0
        func waits() throws -> Bool {
            try three.query("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = \(process))").flag(0, 0)
        }
        try one.execute("BEGIN; DELETE FROM parent WHERE id = 1")
        try two.send("INSERT INTO child VALUES (1, 1)")
        try harness.wait(for: "the writer to wait") { _ in try waits() }
        try three.execute("INSERT INTO child VALUES (2, 2), (3, 3)")
        try Self.expectEqual(harness, "while it waits")
        #expect(try waits())
        try one.execute("ROLLBACK")
        try two.finish()
        try one.execute("UPDATE parent SET id = id + 100; DELETE FROM parent WHERE id = 102")
        try Self.expectEqual(harness)
    }

    @Test func `savepoints that are rolled back, and subtransactions that are not`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", fill: "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g")
        let old = try harness.writer()
        try old.execute("""
            BEGIN; SAVEPOINT a; UPDATE t SET v = 'undone'; SAVEPOINT b; DELETE FROM t; ROLLBACK TO a;
            INSERT INTO t VALUES (101, 'kept'); SAVEPOINT c; UPDATE t SET v = 'kept' WHERE id < 5; RELEASE c; COMMIT;
            DO $$ BEGIN FOR i IN 1..200 LOOP
                BEGIN UPDATE t SET v = 'loop ' || i WHERE id = i; IF i % 3 = 0 THEN RAISE 'x'; END IF;
                EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;
            BEGIN; TRUNCATE t; SAVEPOINT d; ROLLBACK; BEGIN; SAVEPOINT e; TRUNCATE t; ROLLBACK TO e; COMMIT;
            """)
        try Self.expectEqual(harness)
        #expect(try harness.connectNew().query("SELECT count(*) FROM public.t").integer(0, 0) == 101)
    }

    @Test func `writers whose settings write dates, floats and bytes otherwise`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE k1 (t timestamptz, d date, i interval, PRIMARY KEY (t, d, i));
            CREATE TABLE k2 (f float8, g real, b bytea, PRIMARY KEY (f, g, b)); CREATE TABLE k3 (m money PRIMARY KEY, n int);
            CREATE DOMAIN moment AS timestamptz; CREATE TABLE k4 (r tstzrange, a date[], m moment, PRIMARY KEY (r, a, m));
            """)
        for settings in [
            "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET extra_float_digits = -15",
            "SET DateStyle = 'SQL, MDY'; SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'",
            "SET DateStyle = 'Postgres, DMY'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 0",
        ] {
            let old = try harness.writer(settings)
            try old.execute("""
                INSERT INTO k1 SELECT '2020-02-03 04:05:06.789'::timestamptz + g * interval '1 day',
                    '2020-02-03'::date + g, g * interval '25 hours 3 minutes' FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
                INSERT INTO k2 SELECT g / 3.0, g / 7.0, decode(md5(g::text), 'hex') FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
                INSERT INTO k3 SELECT g::numeric / 4, g FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
                INSERT INTO k4 SELECT tstzrange(now(), now() + g * interval '1 hour'), ARRAY['2020-01-02'::date + g], now()
                    FROM generate_series(1, 20) g;
                """)
            try Self.expectEqual(harness, "inserted by \(settings)")
            try old.execute("""
                UPDATE k1 SET i = i + interval '1 second', d = d + 3; UPDATE k2 SET f = f * 1.1 WHERE g > 1;
                DELETE FROM k2 WHERE g < 0.5; UPDATE k3 SET m = m + 100::money WHERE n % 2 = 0; DELETE FROM k3 WHERE n % 5 = 0;
                UPDATE k4 SET a = a || '2021-05-06'::date, m = m + interval '1 year'; DELETE FROM k1 WHERE d > '2020-02-20';
                """)
            try Self.expectEqual(harness, "changed by \(settings)")
        }
    }

    @Test func `a TRUNCATE that is open is waited for, and never read around`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE w (id int PRIMARY KEY)",
            fill: "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g")
        let one = try harness.writer(), two = try harness.writer()
        for end in ["ROLLBACK", "COMMIT"] {
            try one.execute("BEGIN; TRUNCATE t; INSERT INTO t VALUES (7, 'after')")
            // The mirror queues up behind the TRUNCATE now, or is between two batches.
            let stamp = harness.horizon.taking
            try two.execute("INSERT INTO w SELECT coalesce(max(id), 0) + 1 FROM w")
            try harness.wait(for: "the mirror to wait for the lock") { _ in
                try two.query("""
                    SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 't'::regclass
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                    """).flag(0, 0)
            }
            #expect(harness.horizon.applied <= stamp + 1)
            #expect(try harness.connectNew().query("SELECT count(*) FROM public.t").integer(0, 0) == 100)
            try one.execute(end)
            try Self.expectEqual(harness, end)
        }
    }

    /// Whoever empties tables one by one, in another order than the mirror takes them, waits for it for a moment only.
    @Test func `a table that somebody has for himself keeps the mirror from holding the others`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)",
            fill: "INSERT INTO a VALUES (1, 'a'); INSERT INTO b VALUES (1, 'b')")
        let one = try harness.writer(), two = try harness.writer("SET lock_timeout = '5s'")
        try one.execute("BEGIN; TRUNCATE b; INSERT INTO b VALUES (2, 'b')")
        func awaitMirror() throws {
            harness.horizon.kick()
            try harness.wait(for: "the mirror to meet b") { _ in
                try two.query("""
                    SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'b'::regclass
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                    """).flag(0, 0)
            }
        }
        for _ in 0..<3 {
            try awaitMirror()
            try two.execute("TRUNCATE a; INSERT INTO a VALUES (3, 'a')")
        }
        try awaitMirror()
        try one.execute("TRUNCATE a; INSERT INTO a VALUES (4, 'a'); COMMIT")
        try Self.expectEqual(harness)
        #expect(harness.horizon.report.state == .mirroring)
    }

    @Test func `TRUNCATEs, deletes and inserts of several writers at once`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", options: MirrorOptions(pollMillis: 1))
        let conninfo = harness.pair.oldConninfo
        let writers = (0..<3).map { number in
            OwnThread(name: "writer") {
                do {
                    let old = try Connection.open(try ConnectionString(parsing: conninfo), purpose: "writer")
                    for round in 0..<60 {
                        let start = number * 1000 + round % 9
                        var steps = ["""
                            INSERT INTO public.t SELECT g, '\(round)' FROM generate_series(\(start), \(start + 40)) g
                                ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v
                            """]
                        if round % 5 == number { steps.append("TRUNCATE public.t") }
                        if round % 7 == number { steps.append("DELETE FROM public.t WHERE id % 3 = \(number)") }
                        for step in steps {
                            do throws(PostgresFailure) {
                                try old.execute(step)
                            } catch {
                                // Writers that lock each other out are not what this is about.
                                guard error.isLockConflict else { throw error }
                            }
                        }
                    }
                } catch {
                    Issue.record("\(error)")
                }
            }
        }
        for writer in writers { writer.join() }
        try Self.expectEqual(harness)
    }

    @Test func `identity ALWAYS, generated columns and a generated column that is plain on NEW`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE a (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, v int, n int GENERATED ALWAYS AS IDENTITY,
                twice int GENERATED ALWAYS AS (v * 2) STORED);
            CREATE TABLE k (v int, id int GENERATED ALWAYS AS (v + 1) STORED PRIMARY KEY);
            CREATE TABLE w (v text, n int, low text GENERATED ALWAYS AS (lower(v)) STORED PRIMARY KEY);
            """)
        let old = try harness.writer()
        try old.execute("CREATE TABLE p (id int PRIMARY KEY, v text, up text GENERATED ALWAYS AS (upper(v)) STORED)")
        try harness.connectNew().execute("CREATE TABLE public.p (id int PRIMARY KEY, v text, up text)")
        try old.execute("INSERT INTO a (v) SELECT generate_series(1, 100); INSERT INTO k SELECT generate_series(1, 100)")
        try old.execute("INSERT INTO w SELECT 'W' || g, g FROM generate_series(1, 3000) g")
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try old.execute("""
            INSERT INTO p VALUES (1, 'a'), (2, 'b'); UPDATE p SET v = 'c' WHERE id = 2; UPDATE a SET v = v + 1 WHERE id < 50;
            UPDATE k SET v = v + 1000 WHERE v % 2 = 0; INSERT INTO a (v) VALUES (NULL); DELETE FROM a WHERE id = 10;
            UPDATE w SET v = lower(v) WHERE n < 20; UPDATE w SET v = v || '!' WHERE n BETWEEN 10 AND 30;
            """)
        try Self.expectEqual(harness)
    }

    @Test func `a writer in replica role is mirrored like any other`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", fill: "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g")
        let old = try harness.writer("SET session_replication_role = replica")
        try old.execute("UPDATE t SET v = 'r' WHERE id < 9; DELETE FROM t WHERE id > 90; INSERT INTO t VALUES (500, 'new')")
        try Self.expectEqual(harness)
        try old.execute("TRUNCATE t; INSERT INTO t VALUES (1, 'again')")
        try Self.expectEqual(harness)
    }

    @Test func `a prepared transaction comes when it is committed, and not before`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", fill: "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g")
        let old = try harness.writer(), name = harness.pair.database
        try old.execute("BEGIN; UPDATE t SET v = 'prepared' WHERE id < 9; INSERT INTO t VALUES (200, 'p'); PREPARE TRANSACTION '\(name)'")
        try old.execute("UPDATE t SET v = 'other' WHERE id > 50")
        try Self.expectEqual(harness, "while it is prepared")
        harness.stop()
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try old.execute("DELETE FROM t WHERE id = 60")
        try Self.expectEqual(harness, "by another mirror, while it is prepared")
        try old.execute("COMMIT PREPARED '\(name)'")
        try Self.expectEqual(harness, "committed")
        try old.execute("BEGIN; DELETE FROM t; PREPARE TRANSACTION '\(name)'")
        try old.execute("ROLLBACK PREPARED '\(name)'")
        try Self.expectEqual(harness, "rolled back")
    }

    @Test func `upserts, MERGE, COPY and functions leave their keys`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE t (id int PRIMARY KEY, v text);
            CREATE FUNCTION change(n int) RETURNS void LANGUAGE sql AS $$ UPDATE t SET v = v || 'f' WHERE id % 10 = n $$;
            """, fill: "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g")
        let old = try harness.writer()
        try old.execute("""
            INSERT INTO t VALUES (1, 'up'), (101, 'new') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v;
            INSERT INTO t VALUES (2, 'not') ON CONFLICT DO NOTHING; SELECT change(3);
            MERGE INTO t USING (VALUES (4, 'm'), (5, NULL), (300, 'i')) s (id, v) ON t.id = s.id
                WHEN MATCHED AND s.v IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET v = s.v
                WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v);
            WITH gone AS (DELETE FROM t WHERE id > 90 RETURNING id) INSERT INTO t SELECT id + 1000, 'moved' FROM gone;
            """)
        try old.send("COPY t FROM STDIN")
        guard case .copyIn? = try old.next() else { throw TestFailure("no COPY") }
        let lines = Array("700\tcopied\n701\t\\N\n".utf8)
        try lines.withUnsafeBytes { try old.putCopy($0) }
        try old.endCopy()
        try old.finish()
        try Self.expectEqual(harness)
    }
}
