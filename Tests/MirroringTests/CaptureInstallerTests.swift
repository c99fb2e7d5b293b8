import LibPQ
import Mirroring
import TestSupport
import Testing

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

    @Test func `a disabled trigger is put back and the table named as suspect`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        try harness.prepare()
        try harness.connectOld().execute("ALTER TABLE public.a DISABLE TRIGGER godwit_capture")
        #expect(try harness.prepare().suspect == [TableName(schema: "public", name: "a")])
        #expect(try harness.prepare().suspect == [])
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
}
