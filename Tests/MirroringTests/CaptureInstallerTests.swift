import LibPQ
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct CaptureInstallerTests {
    static let schema = """
        CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id timestamptz, k bytea, PRIMARY KEY (id, k));
        """

    /// Everything in the catalog that prepare could leave behind.
    static func trace(_ connection: borrowing Connection) throws -> String {
        let rows = try connection.query("""
            SELECT (SELECT count(*) FROM pg_trigger) || ' ' || (SELECT count(*) FROM pg_proc) || ' '
                || (SELECT count(*) FROM pg_class) || ' ' || (SELECT count(*) FROM pg_namespace
                    WHERE nspname !~ '^pg_t')
            """)
        return rows[0, 0] ?? ""
    }

    @Test func `prepare may be repeated, and remove leaves no trace`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        let old = try harness.connectOld(), new = try harness.connectNew()
        let before = (try Self.trace(old), try Self.trace(new))
        #expect(try harness.prepare().installed.count == 2)
        let progress = try new.query("SELECT epoch, batch, snapshot FROM godwit.progress")[0, 2]
        let again = try harness.prepare()
        #expect(again.installed.isEmpty && again.present.count == 2 && again.suspect.isEmpty)
        #expect(try new.query("SELECT snapshot FROM godwit.progress")[0, 0] == progress)
        try CaptureInstaller().remove(old: old, new: new)
        #expect(try Self.trace(old) == before.0)
        #expect(try Self.trace(new) == before.1)
        try CaptureInstaller().remove(old: old, new: new)
    }

    @Test func `a table that stays locked is given up with its name, others wait no longer than the timeout`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        let old = try harness.connectOld(), new = try harness.connectNew(), holder = try harness.connectOld()
        try holder.execute("BEGIN; INSERT INTO public.a VALUES (1)")
        let tables = try Preflight.check(old: old, new: new).tables
        var installer = CaptureInstaller()
        installer.lockTimeoutMillis = 20
        installer.triesMax = 2
        let wanted = CaptureInstaller.Failure.busy("public.a", tries: 2)
        #expect(throws: wanted) { try installer.install(old: old, new: new, tables: tables) }
        try holder.execute("COMMIT")
        #expect(try installer.install(old: old, new: new, tables: tables).installed.count == 2)
    }

    /// PostgreSQL looks for one in the way no sooner, and not at all where the wait is over by then.
    @Test func `a lock is waited for until an autovacuum in the way is cancelled`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        let settings = try harness.connectOld().query("SELECT setting FROM pg_settings WHERE name = 'deadlock_timeout'")
        #expect(CaptureInstaller().lockTimeoutMillis > Int(settings.integer(0, 0) ?? 0))
    }

    @Test func `a disabled trigger is put back and the table named as suspect`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        try harness.prepare()
        try harness.connectOld().execute("ALTER TABLE public.a DISABLE TRIGGER godwit_capture")
        #expect(try harness.prepare().suspect == [TableName(schema: "public", name: "a")])
        #expect(try harness.prepare().suspect == [])
    }

    @Test(arguments: BulkTableTests.byRow, ["DISABLE", "ENABLE", "ENABLE REPLICA", "ENABLE ALWAYS"])
    func `a trigger that is enabled otherwise is put right, and the table comes anew`(line: String, state: String) throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        try harness.prepare()
        let right = ["O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"][String(line.suffix(1))]
        let old = try harness.connectOld()
        try old.execute("ALTER TABLE public.t \(state) TRIGGER \(line.dropLast(2))")
        #expect(try harness.prepare().suspect.count == (state == right ? 0 : 1))
        #expect(try BulkTableTests.triggers(old) == BulkTableTests.byRow)
    }

    /// One trigger for all roles, whose condition every statement parsed again.
    @Test func `triggers as earlier versions made them go on, and are exchanged without a new copy`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY, v int)")
        try harness.connectOld().execute("INSERT INTO public.t SELECT g, g FROM generate_series(1, 500) g")
        try harness.prepare()
        let table = try #require(try CatalogReader.tables(try harness.connectOld()).first { $0.name.name == "t" })
        try harness.connectOld().execute("""
            UPDATE pg_proc SET prosrc = \(SQL.literal(CaptureSchema.earlier(CaptureSchema.captureBody(table))))
             WHERE oid = (SELECT tgfoid FROM pg_trigger WHERE tgname = 'godwit_capture')
            """)
        for connect in [harness.connectOld, harness.connectNew] {
            try connect().execute("""
                DO $$ DECLARE f text := (SELECT tgfoid::regproc::text FROM pg_trigger WHERE tgname = 'godwit_capture'); BEGIN
                    DROP TRIGGER godwit_capture_replica ON public.t; DROP TRIGGER godwit_capture ON public.t;
                    EXECUTE format('CREATE TRIGGER godwit_capture AFTER INSERT OR UPDATE OR DELETE ON public.t FOR EACH ROW
                        WHEN (current_setting(''godwit.applier'', true) IS DISTINCT FROM ''on''
                            OR current_setting(''session_replication_role'') IS DISTINCT FROM ''replica'')
                        EXECUTE FUNCTION %s()', f);
                    ALTER TABLE public.t ENABLE ALWAYS TRIGGER godwit_capture; END $$
                """)
        }
        var options = MirrorOptions(pollMillis: 5)
        options.housekeepingSeconds = 0.05
        harness.start(options)
        try harness.waitUntilReadable()
        let writer = try harness.connectOld(), new = try harness.connectNew()
        try new.execute("SET session_replication_role = replica; UPDATE public.t SET v = -7 WHERE id = 400")
        for role in ["origin", "replica"] {
            try writer.execute("SET session_replication_role = \(role); UPDATE public.t SET v = v + 1 WHERE id < 100")
        }
        let report = try harness.prepare()
        #expect(report.exchanged.count == 1 && report.installed.isEmpty && report.suspect.isEmpty)
        for connect in [harness.connectOld, harness.connectNew] {
            #expect(try BulkTableTests.triggers(try connect()) == BulkTableTests.byRow)
        }
        for role in ["origin", "local", "replica"] {
            try writer.execute("""
                SET session_replication_role = \(role); UPDATE public.t SET v = v + 1 WHERE id < 200;
                UPDATE public.t SET id = -id WHERE id = 300; DELETE FROM public.t WHERE id = 301
                """)
        }
        try harness.settle()
        #expect(try new.query("SELECT v = -7 FROM public.t WHERE id = 400").flag(0, 0), "it was copied anew")
        try new.execute("UPDATE public.t SET v = 400 WHERE id = 400")
        try MirrorRegressionTests.expectEqual(harness)
        #expect(try harness.prepare().present.count == 1)
    }

    /// Two texts that a column's collation calls equal are two keys all the same.
    @Test func `a key that changes only for those who compare bytes is written down twice`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id text PRIMARY KEY)")
        let old = try harness.connectOld()
        try old.execute("""
            CREATE COLLATION public.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            ALTER TABLE public.t ALTER id TYPE text COLLATE public.caseless
            """)
        try harness.prepare()
        try old.execute("INSERT INTO public.t VALUES ('a'); UPDATE public.t SET id = 'A'")
        let keys = try old.query("""
            SELECT string_agg(k, '' ORDER BY k COLLATE "C") FROM (SELECT DISTINCT key[1] COLLATE "C" FROM (
                TABLE godwit.journal_0 UNION ALL TABLE godwit.journal_1 UNION ALL TABLE godwit.journal_2) j) d (k)
            """)
        #expect(keys[0, 0] == "Aa")
    }

    @Test func `remove is refused while a mirror applies`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        try harness.prepare()
        harness.start()
        try harness.waitUntilReadable()
        #expect(throws: CaptureInstaller.Failure.mirrorRuns) {
            try CaptureInstaller().remove(old: try harness.connectOld(), new: try harness.connectNew())
        }
    }

    @Test func `nothing is put in place for a direction that is none any more`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        try harness.prepare()
        let old = try harness.connectOld(), new = try harness.connectNew()
        let tables = try Preflight.check(old: old, new: new).tables
        // A switch has been made since the direction was found.
        try old.execute("UPDATE godwit.authority SET fenced_for = 1")
        try new.execute("UPDATE godwit.authority SET epoch = 1; DELETE FROM godwit.progress")
        #expect(throws: CaptureInstaller.Failure.switching) {
            try CaptureInstaller().install(old: old, new: new, tables: tables)
        }
        #expect(try new.query("SELECT count(*) FROM godwit.progress").integer(0, 0) == 0)
        // Nobody is kept out by what was refused.
        #expect(try new.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            .integer(0, 0) == 0)
    }
}
