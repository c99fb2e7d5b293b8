import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// Whoever says that he is the mirror, and is not.
@Suite(.serialized) struct ApplierMarkTests {
    private static let schema = """
        CREATE TABLE t (id int PRIMARY KEY, word text);
        CREATE FUNCTION sly(its int) RETURNS void LANGUAGE sql SET godwit.applier = 'on'
            AS $$ INSERT INTO public.t VALUES (its, 'function') $$;
        """

    @Test func `writes under the mirror's setting are mirrored as all others`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema)
        let role = "sly_\(harness.pair.database)"
        let admin = try harness.connectOld()
        try admin.execute("CREATE ROLE \(role) LOGIN; GRANT ALL ON SCHEMA public TO \(role); GRANT ALL ON public.t TO \(role)")
        defer { _ = try? admin.execute("DROP OWNED BY \(role); DROP ROLE \(role)") }
        for isSuperuser in [true, false] {
            let base = isSuperuser ? 0 : 100
            func session(_ settings: [String: String] = [:]) throws -> Connection {
                let target = try ConnectionString(parsing: harness.pair.oldConninfo)
                return try Connection.open(
                    isSuperuser ? target : target.overriding(["user": role]), purpose: "test", settings: settings)
            }
            try session().execute("SET godwit.applier = 'on'; INSERT INTO public.t VALUES (\(base + 1), 'set')")
            try session(["godwit.applier": "on"]).execute("INSERT INTO public.t VALUES (\(base + 2), 'options')")
            try session().execute("""
                BEGIN; SELECT set_config('godwit.applier', 'on', true);
                INSERT INTO public.t VALUES (\(base + 3), 'set_config'); COMMIT
                """)
            try session().execute("SELECT public.sly(\(base + 4))")
            try admin.execute("ALTER ROLE \(role) SET godwit.applier = 'on'")
            try session().execute("INSERT INTO public.t VALUES (\(base + 5), 'role')")
            try session().execute("SET godwit.applier = 'on'; UPDATE public.t SET word = 'x' WHERE id = \(base + 1)")
            try session().execute("SET godwit.applier = 'on'; DELETE FROM public.t WHERE id = \(base + 2)")
            try harness.settle()
            #expect(try harness.differences() == [])
            #expect(try harness.connectNew().query("SELECT count(*) FROM public.t WHERE id > \(base)").integer(0, 0) == 4)
        }
        try admin.execute("SET godwit.applier = 'on'; TRUNCATE public.t")
        try harness.settle()
        #expect(try harness.differences() == [])
        // Who is no superuser cannot take the role that is asked for besides.
        let sly = try Connection.open(
            try ConnectionString(parsing: harness.pair.oldConninfo).overriding(["user": role]), purpose: "test")
        #expect(throws: PostgresFailure.self) { try sly.execute("SET session_replication_role = replica") }
    }

    /// Captures run under the search_path of whoever writes.
    @Test func `operators and functions of a writer's own do not hide its writes`() throws {
        let harness = try MirrorHarness.mirroring("""
            CREATE TABLE t (id int PRIMARY KEY, word text); CREATE DOMAIN word AS text;
            CREATE TABLE u (id text, w word, n numeric, v int, PRIMARY KEY (id, w, n))
            """)
        let old = try harness.connectOld()
        try old.execute("""
            CREATE SCHEMA sly;
            CREATE FUNCTION sly.no(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
            CREATE FUNCTION sly.no(text[], text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
            CREATE FUNCTION sly.no(bigint, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
            CREATE FUNCTION sly.seven(bigint, integer) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 7::bigint';
            CREATE FUNCTION sly.no(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
            CREATE FUNCTION sly.txid_current() RETURNS bigint LANGUAGE sql AS 'SELECT NULL::bigint';
            CREATE FUNCTION sly.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS $$ SELECT '3'::xid8 $$;
            CREATE FUNCTION sly.format(text, "any") RETURNS text LANGUAGE internal AS 'text_format';
            CREATE OPERATOR sly.= (LEFTARG = text, RIGHTARG = text, FUNCTION = sly.no);
            CREATE OPERATOR sly.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = sly.no);
            CREATE OPERATOR sly.<> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = sly.no);
            CREATE OPERATOR sly.& (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = sly.seven);
            CREATE OPERATOR sly.<> (LEFTARG = text[], RIGHTARG = text[], FUNCTION = sly.no);
            CREATE OPERATOR sly.= (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = sly.no);
            CREATE OPERATOR sly.% (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = sly.seven);
            CREATE OPERATOR sly.>> (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = sly.seven);
            CREATE DOMAIN sly.text AS pg_catalog.int4; CREATE DOMAIN sly.int8 AS pg_catalog.text;
            """)
        let writer = try harness.connectOld()
        for path in ["sly, pg_catalog", "pg_temp, sly, pg_catalog", "\"$user\", public"] {
            try writer.execute("SET search_path = \(path)")
            try writer.execute("INSERT INTO public.t SELECT g, 'a' FROM pg_catalog.generate_series(1, 9) g")
            try writer.execute("UPDATE public.t SET word = 'b' WHERE id OPERATOR(pg_catalog.<) 4")
            try writer.execute("UPDATE public.t SET id = id OPERATOR(pg_catalog.+) 100 WHERE id OPERATOR(pg_catalog.<) 6")
            try writer.execute("INSERT INTO public.u VALUES ('a', 'a', 1), ('b', '', 1), ('c', 'c', 1), ('d', 'd', 1)")
            try writer.execute("""
                UPDATE public.u SET id = 'A' WHERE id OPERATOR(pg_catalog.=) 'a';
                UPDATE public.u SET w = 'B' WHERE id OPERATOR(pg_catalog.=) 'b';
                UPDATE public.u SET n = 1.00 WHERE id OPERATOR(pg_catalog.=) 'c';
                UPDATE public.u SET v = 1 WHERE id OPERATOR(pg_catalog.=) 'd'
                """)
            try harness.settle()
            #expect(try harness.differences() == [], "\(path)")
            try writer.execute("DELETE FROM public.t; DELETE FROM public.u")
            try harness.settle()
            #expect(try harness.differences() == [], "\(path)")
        }
    }

    @Test func `triggers and fences of an earlier version are made anew by prepare`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        try harness.prepare()
        let old = try harness.connectOld()
        // As they were.
        let before = "WHEN (pg_catalog.current_setting('godwit.applier', true) IS DISTINCT FROM 'on')"
        try old.execute("""
            DO $$ DECLARE function oid := (SELECT tgfoid FROM pg_trigger WHERE tgname = 'godwit_capture'); BEGIN
                UPDATE pg_proc SET prosrc = replace(prosrc, '-- key =', '-- key ~') WHERE oid = function; END $$;
            CREATE OR REPLACE TRIGGER godwit_fence AFTER INSERT OR UPDATE OR DELETE ON public.t
                FOR EACH ROW \(before) EXECUTE FUNCTION godwit.refuse_write();
            CREATE OR REPLACE TRIGGER godwit_fence_truncate BEFORE TRUNCATE ON public.t
                FOR EACH STATEMENT \(before) EXECUTE FUNCTION godwit.refuse_write();
            """)
        let report = try harness.prepare()
        #expect(report.installed.map { "\($0)" } == ["public.t"])
        // Those that fire in either kind of role.
        let weak = """
            SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'godwit%' AND tgenabled NOT IN ('O', 'R')
               AND pg_get_triggerdef(oid) NOT LIKE '%session_replication_role%'
            """
        #expect(try old.query(weak).integer(0, 0) == 0)
        #expect(try old.query("SELECT tgenabled FROM pg_trigger WHERE tgname = 'godwit_fence'")[0, 0] == "D")
        #expect(try harness.prepare().installed.isEmpty)
    }
}
