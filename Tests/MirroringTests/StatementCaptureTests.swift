import LibPQ
import Migration
import Primitives
import TestSupport
import Testing

@testable import Mirroring

/// A capture by statement writes down what one by row does: each scenario runs on a table of either kind, on PostgreSQL
/// 15 and on 18, and the keys in the journal are compared.
@Suite(.serialized) struct StatementCaptureTests {
    /// TT is the tables' prefix: `b` for those that are captured by statement, `r` for those by row.
    struct Scenario: Sendable, CustomTestStringConvertible {
        var name: String
        var schema: String
        var steps: [String]
        /// Steps that PostgreSQL refuses, by number.
        var refused: Set<Int> = []

        var testDescription: String { name }
    }

    static let scenarios = [
        Scenario(
            name: "plain statements, and such as change no row",
            schema: "CREATE TABLE TT (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)",
            steps: [
                "UPDATE TT SET v = 'x'; DELETE FROM TT; INSERT INTO TT SELECT 1, 'x' WHERE false",
                "INSERT INTO TT SELECT g, 'a' FROM generate_series(1, 200) g", "UPDATE TT SET v = 'x' WHERE id < 20",
                "UPDATE TT SET id = 201 - id", "UPDATE TT SET id = id + 1 WHERE id > 190",
                "UPDATE TT SET id = -id, v = v || 'y' WHERE id % 3 = 0", "DELETE FROM TT WHERE id % 5 = 0",
                "UPDATE TT SET v = v", "TRUNCATE TT", "INSERT INTO TT VALUES (1, 'x'); DELETE FROM TT",
            ]),
        Scenario(
            name: "upserts, MERGE and COPY", schema: "CREATE TABLE TT (id int PRIMARY KEY, v text, n int)",
            steps: [
                "INSERT INTO TT SELECT g, 'a', g FROM generate_series(1, 100) g",
                """
                INSERT INTO TT SELECT g, 'up', g FROM generate_series(50, 150) g
                    ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v, id = -EXCLUDED.id WHERE TT.n % 3 > 0
                """,
                "INSERT INTO TT SELECT g, 'no', g FROM generate_series(-60, 160) g ON CONFLICT DO NOTHING",
                """
                MERGE INTO TT USING generate_series(1, 300) g ON TT.id = g
                    WHEN MATCHED AND g % 5 = 0 THEN DELETE WHEN MATCHED AND g % 5 = 1 THEN UPDATE SET id = g + 1000
                    WHEN MATCHED AND g % 5 = 2 THEN DO NOTHING WHEN MATCHED THEN UPDATE SET v = 'm'
                    WHEN NOT MATCHED AND g % 2 = 0 THEN INSERT VALUES (g, 'i', g)
                """,
                "COPY TT FROM PROGRAM 'seq -f \"%.0f\tcopied\t1\" 5000 7500'",
                "BEGIN; DECLARE c CURSOR FOR SELECT id FROM TT WHERE id > 7000 ORDER BY id FOR UPDATE; MOVE 3 IN c",
                "UPDATE TT SET v = 'here' WHERE CURRENT OF c; DELETE FROM TT WHERE CURRENT OF c; COMMIT",
                "PREPARE TT AS UPDATE TT SET v = 'p' WHERE id BETWEEN $1 AND $2",
                "EXECUTE TT (1, 0); EXECUTE TT (1, 1); EXECUTE TT (1, 9); EXECUTE TT (20, 30); EXECUTE TT (31, 40)",
                "EXECUTE TT (41, 44); EXECUTE TT (45, 50); EXECUTE TT (5000, 6000); EXPLAIN ANALYZE EXECUTE TT (6001, 6009)",
            ]),
        Scenario(
            name: "one statement that writes the table more than once",
            schema: "CREATE TABLE TT (id int PRIMARY KEY, v int)",
            steps: [
                "INSERT INTO TT SELECT g, 1 FROM generate_series(1, 100) g",
                """
                WITH a AS (INSERT INTO TT SELECT g, 2 FROM generate_series(101, 110) g RETURNING id),
                     b AS (INSERT INTO TT SELECT g, 3 FROM generate_series(111, 120) g RETURNING id)
                    INSERT INTO TT SELECT id + 100, 4 FROM (TABLE a UNION ALL TABLE b) s
                """,
                """
                WITH gone AS (DELETE FROM TT WHERE id < 10 RETURNING id, v),
                     moved AS (UPDATE TT SET id = id + 1000 WHERE id BETWEEN 10 AND 20 RETURNING id),
                     more AS (UPDATE TT SET v = 9 WHERE id BETWEEN 15 AND 40 RETURNING id)
                    INSERT INTO TT SELECT id + 5000, v FROM gone
                """,
                "WITH a AS (UPDATE TT SET v = 0 WHERE id > 100 RETURNING id) DELETE FROM TT WHERE id IN (SELECT id FROM a)",
                "WITH a AS (INSERT INTO TT VALUES (9001, 1) RETURNING id) SELECT 1",
            ]),
        Scenario(
            name: "foreign keys that cascade",
            schema: """
                CREATE TABLE TT (id int PRIMARY KEY, parent int REFERENCES TT ON DELETE CASCADE ON UPDATE CASCADE);
                CREATE TABLE TT_child (parent int REFERENCES TT ON DELETE CASCADE ON UPDATE CASCADE, n int,
                    PRIMARY KEY (parent, n));
                CREATE TABLE TT_grand (id int PRIMARY KEY, parent int, n int, v text DEFAULT 'd', FOREIGN KEY (parent, n)
                    REFERENCES TT_child ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
                """,
            steps: [
                "INSERT INTO TT SELECT g, nullif(g / 3, 0) FROM generate_series(1, 120) g",
                "INSERT INTO TT_child SELECT 1 + g % 120, g FROM generate_series(1, 400) g",
                "INSERT INTO TT_grand SELECT n, parent, n FROM TT_child WHERE n % 2 = 0", "DELETE FROM TT WHERE id = 7",
                "UPDATE TT SET id = id + 1000 WHERE id BETWEEN 4 AND 8", "DELETE FROM TT WHERE id IN (2, 1004, 119)",
                "BEGIN; UPDATE TT SET id = -id WHERE id < 40; DELETE FROM TT WHERE id BETWEEN -20 AND -10; COMMIT",
                "DELETE FROM TT_child WHERE n % 3 = 0", "INSERT INTO TT_child VALUES (999999, 1)", "DELETE FROM TT",
            ], refused: [8]),
        Scenario(
            name: "triggers of the application",
            schema: """
                CREATE TABLE TT (id int PRIMARY KEY, parent int, n int NOT NULL DEFAULT 0);
                CREATE FUNCTION TT_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    UPDATE TT SET n = n + 1 WHERE id IN (NEW.parent, NEW.id + 1) AND id <> NEW.id;
                    DELETE FROM TT WHERE n > 6; RETURN NULL; END $$;
                CREATE TRIGGER up AFTER INSERT OR UPDATE OF parent ON TT FOR EACH ROW EXECUTE FUNCTION TT_up();
                CREATE FUNCTION TT_before() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF NEW.id % 7 = 0 THEN RETURN NULL; END IF;
                    IF NEW.id % 11 = 0 THEN NEW.id := NEW.id + 10000; END IF; RETURN NEW; END $$;
                CREATE TRIGGER before BEFORE INSERT OR UPDATE ON TT FOR EACH ROW EXECUTE FUNCTION TT_before();
                CREATE FUNCTION TT_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF pg_trigger_depth() < 3 THEN UPDATE TT SET n = TT.n FROM s WHERE TT.id = s.id + 3; END IF;
                    RETURN NULL; END $$;
                CREATE TRIGGER a_first AFTER INSERT ON TT REFERENCING NEW TABLE AS s FOR EACH STATEMENT
                    EXECUTE FUNCTION TT_first();
                CREATE TRIGGER z_last AFTER UPDATE ON TT REFERENCING OLD TABLE AS s FOR EACH STATEMENT
                    EXECUTE FUNCTION TT_first();
                CREATE FUNCTION TT_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF NEW.id % 5 = 0 THEN INSERT INTO TT VALUES (NEW.id + 20001) ON CONFLICT DO NOTHING; END IF;
                    RETURN NULL; END $$;
                CREATE CONSTRAINT TRIGGER late AFTER INSERT ON TT DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
                    EXECUTE FUNCTION TT_late();
                """,
            steps: [
                "INSERT INTO TT SELECT g, g / 2, 0 FROM generate_series(1, 80) g",
                "UPDATE TT SET parent = id % 5 WHERE id < 50", "UPDATE TT SET id = id + 2000 WHERE id BETWEEN 20 AND 30",
                "BEGIN; INSERT INTO TT SELECT g, 3, 0 FROM generate_series(500, 530) g; SET CONSTRAINTS ALL IMMEDIATE; COMMIT",
                "DELETE FROM TT WHERE n % 2 = 0",
            ]),
        Scenario(
            name: "functions, blocks, savepoints, and statements that fail",
            schema: """
                CREATE TABLE TT (id int PRIMARY KEY, v text CHECK (v <> 'bad'));
                CREATE FUNCTION TT_change(n int) RETURNS bigint LANGUAGE sql AS $$
                    UPDATE TT SET v = v || 'f' WHERE id % 10 = n; INSERT INTO TT VALUES (n + 1000, 'g');
                    SELECT count(*) FROM TT $$;
                CREATE PROCEDURE TT_go() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..9 LOOP
                    DELETE FROM TT WHERE id = i; IF i % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP; END $$;
                """,
            steps: [
                "INSERT INTO TT SELECT g, 'a' FROM generate_series(1, 100) g", "SELECT TT_change(3), TT_change(4)",
                "INSERT INTO TT SELECT g, 'b' FROM generate_series(200, 90, -1) g",
                "UPDATE TT SET v = CASE id WHEN 60 THEN 'bad' ELSE 'c' END WHERE id > 40",
                "BEGIN; UPDATE TT SET v = 'd' WHERE id = 1; SAVEPOINT s; DELETE FROM TT WHERE id < 50; ROLLBACK TO s",
                "INSERT INTO TT VALUES (2001, 'kept'); SAVEPOINT t; UPDATE TT SET id = id + 3000 WHERE id < 5; RELEASE t; COMMIT",
                """
                DO $$ BEGIN FOR i IN 1..60 LOOP BEGIN UPDATE TT SET v = 'loop' WHERE id BETWEEN i AND i + 1;
                    IF i % 3 = 0 THEN RAISE 'x'; END IF; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$
                """, "CALL TT_go()", "BEGIN; DELETE FROM TT; ROLLBACK",
            ], refused: [2, 3]),
        Scenario(
            name: "views, rules, row level security, and a role without rights on the journal",
            schema: """
                CREATE TABLE TT (id int PRIMARY KEY, v text, whose name DEFAULT current_user);
                CREATE VIEW TT_some AS SELECT id, v FROM TT WHERE id < 1000;
                CREATE TABLE TT_ruled (id int PRIMARY KEY, v text); CREATE TABLE TT_also (id int PRIMARY KEY, v text);
                CREATE RULE also AS ON INSERT TO TT_ruled WHERE NEW.id < 100 DO ALSO
                    INSERT INTO TT_also VALUES (NEW.id + 500, 'also');
                CREATE RULE other AS ON DELETE TO TT_ruled DO INSTEAD UPDATE TT_ruled SET id = -id WHERE id = OLD.id;
                ALTER TABLE TT ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON TT USING (whose = current_user);
                DO $$ BEGIN CREATE ROLE scribe; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
                GRANT ALL ON TT, TT_some, TT_ruled, TT_also TO scribe;
                """,
            steps: [
                "INSERT INTO TT SELECT g, 'a' FROM generate_series(1, 20) g", "SET row_security = on; SET ROLE scribe",
                "INSERT INTO TT SELECT g, 'a' FROM generate_series(101, 120) g",
                "UPDATE TT SET id = id + 300; DELETE FROM TT WHERE id % 2 = 0", "SELECT * FROM godwit.control", "RESET ROLE",
                "UPDATE TT_some SET id = id + 500, v = 'view' WHERE id < 10; INSERT INTO TT_some VALUES (900, 'v')",
                "INSERT INTO TT_ruled SELECT g, 'r' FROM generate_series(95, 105) g; DELETE FROM TT_ruled WHERE id > 100",
            ], refused: [4]),
        Scenario(
            name: "keys whose text the session's settings, or an update, change",
            schema: """
                CREATE DOMAIN TT_moment AS timestamptz; CREATE TYPE TT_color AS ENUM ('red', 'blue');
                CREATE TABLE TT (t timestamptz, d date, i interval, m TT_moment, PRIMARY KEY (t, d, i, m));
                CREATE TABLE TT_two (f float8, g real, b bytea, c TT_color, PRIMARY KEY (f, g, b, c), v int);
                CREATE TABLE TT_three (n numeric PRIMARY KEY, v int); CREATE TABLE TT_four (c char(5) PRIMARY KEY, v int);
                CREATE TABLE TT_five (m money PRIMARY KEY, b bit(3));
                """,
            steps: [
                "DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET extra_float_digits = -15",
                "DateStyle = 'SQL, MDY'; SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'",
                "DateStyle = 'Postgres, DMY'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 0",
            ].map { settings in
                """
                SET \(settings); SET enable_hashjoin = off; SET plan_cache_mode = force_generic_plan;
                INSERT INTO TT SELECT '2020-02-03 04:05:06.789'::timestamptz + g * interval '1 day',
                    '2020-02-03'::date + g, g * interval '25 hours 3 minutes', '2021-01-01'::timestamptz
                    FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
                UPDATE TT SET t = t + interval '0.1 seconds', m = m + interval '1 hour' WHERE i > interval '100 hours';
                INSERT INTO TT_two SELECT g / 3.0, g / 7.0, decode(md5(g::text), 'hex'), 'red'
                    FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
                UPDATE TT_two SET c = 'blue', f = f * 1.1 WHERE g > 1; UPDATE TT_two SET v = 1; DELETE FROM TT_two WHERE g > 2;
                INSERT INTO TT_three SELECT g, 1 FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
                UPDATE TT_three SET n = n * 1.00 WHERE n < 10; UPDATE TT_three SET v = 2 WHERE n = 3;
                INSERT INTO TT_four VALUES ('a', 1), ('b  ', 2) ON CONFLICT DO NOTHING; UPDATE TT_four SET c = c || ' ';
                INSERT INTO TT_five SELECT g::numeric / 4, '101' FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
                UPDATE TT_five SET m = m * 100 WHERE m > 2::money; UPDATE TT_five SET b = '010'; DELETE FROM TT_five; DELETE FROM TT_two;
                """
            }),
        Scenario(
            name: "names that are the capture's own words",
            schema: """
                CREATE TABLE TT (x int, o text, n text, capture text, "wei""rd $$" int, godwit_new int, v int,
                    PRIMARY KEY (x, o, n, capture, "wei""rd $$"));
                CREATE TABLE "TT Tbl; DROP" (godwit_old int PRIMARY KEY, x int, relation int, key int);
                """,
            steps: [
                "INSERT INTO TT SELECT g, 'o''\"', E'a\\\\n,{}', '', g, g, g FROM generate_series(1, 20) g",
                "UPDATE TT SET v = 1 WHERE x < 5; UPDATE TT SET n = o || n WHERE x > 15; DELETE FROM TT WHERE x % 2 = 0",
                "INSERT INTO \"TT Tbl; DROP\" SELECT g, g, g, g FROM generate_series(1, 9) g",
                "UPDATE \"TT Tbl; DROP\" SET godwit_old = -x, key = 5; DELETE FROM \"TT Tbl; DROP\" WHERE x = 2",
            ]),
        Scenario(
            name: "the role of a replica, also from the middle of a statement on",
            schema: "CREATE TABLE TT (id int PRIMARY KEY, v text)",
            steps: [
                "SET session_replication_role = replica",
                "INSERT INTO TT SELECT g, 'a' FROM generate_series(1, 50) g; UPDATE TT SET id = id + 100 WHERE id < 9",
                "DELETE FROM TT WHERE id > 40; TRUNCATE TT; INSERT INTO TT VALUES (77, 'x')",
                "SET session_replication_role = local; INSERT INTO TT VALUES (78, 'y'); RESET session_replication_role",
                """
                INSERT INTO TT SELECT g, 'm' FROM generate_series(200, 210) g WHERE set_config('session_replication_role',
                    CASE WHEN g < 205 THEN 'origin' ELSE 'replica' END, false) IS NOT NULL
                """,
                """
                UPDATE TT SET id = id + 1000 WHERE set_config('session_replication_role',
                    CASE WHEN id % 2 = 0 THEN 'origin' ELSE 'replica' END, false) IS NOT NULL
                """,
                "RESET session_replication_role; SET godwit.applier = 'on'; UPDATE TT SET v = 'not the mirror'",
            ]),
        Scenario(
            name: "a table that is changed and renamed between the statements of a session",
            schema: "CREATE TABLE TT_was (id int PRIMARY KEY, v int, gone text); CREATE SCHEMA TT_other",
            steps: [
                "INSERT INTO TT_was SELECT g, 1, 'x' FROM generate_series(1, 9) g; UPDATE TT_was SET v = 2 WHERE id = 1",
                "ALTER TABLE TT_was ADD COLUMN more text DEFAULT 'n'", "UPDATE TT_was SET v = 3 WHERE id < 3",
                "ALTER TABLE TT_was DROP COLUMN gone", "UPDATE TT_was SET id = -id WHERE id = 3; DELETE FROM TT_was WHERE id = 4",
                "ALTER TABLE TT_was ALTER v TYPE text, ADD COLUMN again int", "INSERT INTO TT_was VALUES (20, '1'), (21, '2')",
                "ALTER TABLE TT_was RENAME TO TT_is; UPDATE TT_is SET v = 'z', id = id + 30 WHERE id > 5",
                "ALTER TABLE TT_is SET SCHEMA TT_other; UPDATE TT_other.TT_is SET v = 'y' WHERE id = 2",
            ]),
        Scenario(
            name: "statements of one row and of many by turns, in one session",
            schema: "CREATE TABLE TT (a int, b text, v int, PRIMARY KEY (a, b))",
            steps: [
                "INSERT INTO TT VALUES (0, 'b', 1)", "UPDATE TT SET v = 2", "UPDATE TT SET v = 3", "UPDATE TT SET v = 4",
                "UPDATE TT SET v = 5", "UPDATE TT SET v = 6", "UPDATE TT SET v = 7", "UPDATE TT SET a = 100000",
                "INSERT INTO TT SELECT g, 'b', g FROM generate_series(1, 40000) g", "UPDATE TT SET v = v + 1",
                "UPDATE TT SET a = -a WHERE a % 2 = 0", "DELETE FROM TT WHERE a < 0", "UPDATE TT SET v = 0 WHERE a = 1",
            ]),
    ]

    /// Table behind its prefix, and the keys that the journal has of it.
    private static func journal(_ connection: borrowing Connection, _ prefix: String) throws -> [String] {
        let rows = try connection.query("""
            SELECT DISTINCT substr(c.relname, length('\(prefix)') + 1) || ' ' || coalesce(j.key::text, 'TRUNCATE')
              FROM (TABLE godwit.journal_0 UNION ALL TABLE godwit.journal_1 UNION ALL TABLE godwit.journal_2) j
              JOIN pg_class c ON c.oid = j.relation WHERE c.relname LIKE '\(prefix)%' ORDER BY 1
            """)
        return (0..<rows.count).compactMap { rows[$0, 0] }
    }

    @Test(arguments: scenarios, [Side.old, .new])
    func `by statement the same keys are written down as by row`(_ scenario: Scenario, _ side: Side) throws {
        let byStatement = "b_tt", byRow = "r_tt"
        let schema = [byStatement, byRow].map { scenario.schema.replacing("TT", with: $0) }.joined(separator: ";\n")
        let harness = try MirrorHarness(schema: schema)
        let old = try harness.connectOld(), new = try harness.connectNew()
        let tables = try Preflight.check(old: old, new: new).tables
        let bulk = Set(tables.map(\.name).filter { $0.name.hasPrefix(byStatement) })
        #expect(!bulk.isEmpty && bulk.count * 2 == tables.count)
        #expect(try Preflight.check(old: old, new: new, bulk: bulk).blocking == [])
        _ = try CaptureInstaller().install(old: old, new: new, tables: tables, bulk: bulk)
        var found: [[String]] = []
        for prefix in [byStatement, byRow] {
            let writer = side == .old ? try harness.connectOld() : try harness.connectNew()
            try writer.execute("SET search_path = public")
            for (number, step) in scenario.steps.enumerated() {
                do throws(PostgresFailure) {
                    try writer.execute(step.replacing("TT", with: prefix))
                    #expect(!scenario.refused.contains(number), "\(prefix): \(step)")
                } catch {
                    guard scenario.refused.contains(number), error.kind == .refused else { throw error }
                }
                let keys = side == .old ? try Self.journal(old, prefix) : try Self.journal(new, prefix)
                if prefix == byStatement {
                    found.append(keys)
                } else {
                    let missing = Set(keys).subtracting(found[number]), more = Set(found[number]).subtracting(keys)
                    #expect(missing.isEmpty && more.isEmpty, "step \(number): \(missing), \(more): \(step)")
                }
            }
        }
        #expect(found.last?.isEmpty == false)
    }
}
