import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// NEW shows nothing that OLD may lose: whose commit makes it durable, and what when nobody's does.
@Suite(.serialized) struct MirrorDurabilityTests {
    private static func mirroring(ownServers: Bool, _ settings: String = "") throws -> MirrorHarness {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY, v text)", ownServers: ownServers)
        if !settings.isEmpty { try harness.pair.old.psql("\(settings)\nSELECT pg_reload_conf()") }
        try harness.prepare()
        // Nothing but batches is to be asked of OLD.
        var options = MirrorOptions(pollMillis: 5)
        options.housekeepingSeconds = 1e6
        harness.start(options)
        try harness.waitUntilReadable()
        return harness
    }

    /// When the session for our own writes to OLD's log last began anything.
    private static func lastWrite(_ connection: borrowing Connection, _ database: String) throws -> String {
        try connection.query("""
            SELECT query_start FROM pg_stat_activity
             WHERE application_name = 'godwit mirror barrier' AND datname = '\(database)'
            """)[0, 0] ?? ""
    }

    /// Batches, of twenty, in which OLD's log was written to by ourselves.
    private static func ownWrites(_ harness: MirrorHarness, synchronousCommit: String) throws -> Int {
        let writer = try harness.writer("SET synchronous_commit = \(synchronousCommit)")
        let watch = try harness.connectOld()
        var count = 0, last = try lastWrite(watch, harness.pair.database)
        for turn in 0..<20 {
            try writer.execute("INSERT INTO t VALUES (\(turn), '\(synchronousCommit)')")
            try harness.settle()
            let now = try lastWrite(watch, harness.pair.database)
            if now != last { count += 1 }
            last = now
        }
        #expect(try harness.differences() == [])
        try writer.execute("TRUNCATE t")
        return count
    }

    @Test func `what clients' commits have made durable is not made durable again`() throws {
        let harness = try Self.mirroring(ownServers: true, "ALTER SYSTEM SET wal_writer_delay = '10s';")
        // Others may write to the log in between, as the server's own processes do.
        #expect(try Self.ownWrites(harness, synchronousCommit: "on") <= 5)
        // So they do here, and a commit of theirs in between leaves us nothing to do.
        #expect(try Self.ownWrites(harness, synchronousCommit: "off") >= 15)
    }

    @Test func `an OLD that dies has all that NEW shows, also of commits that nobody has waited for`() throws {
        let harness = try Self.mirroring(ownServers: true, "ALTER SYSTEM SET wal_writer_delay = '10s';")
        do {
            let old = try harness.writer("SET synchronous_commit = off")
            for turn in 1...10 {
                try old.execute("INSERT INTO t VALUES (\(turn), 'not waited for')")
                // Numbers that the snapshot counts as used up, and that only the end of the log knows of.
                for _ in 0..<turn { try old.execute("BEGIN; SELECT pg_current_xact_id(); ROLLBACK") }
                try harness.settle()
            }
            // It is in the log's buffers only, and so is what becomes of its number.
            try old.execute("BEGIN; INSERT INTO t VALUES (99, 'open'); SELECT pg_current_xact_id()")
            try harness.settle()
            harness.pair.old.kill9()
        }
        try harness.wait(for: "the loss to be noticed") { $0.state == .waiting }
        try harness.pair.old.start()
        try harness.waitUntilReadable()
        let left = try harness.connectOld().query("SELECT count(*), max(id) FROM public.t")
        #expect(left[0, 0] == "10" && left[0, 1] == "10")
        try harness.writer().execute("INSERT INTO t VALUES (100, 'behind')")
        try harness.settle()
        #expect(try harness.differences() == [])
        #expect(harness.horizon.report.state == .mirroring, "\(harness.horizon.report.reason)")
    }

    @Test func `where commits wait for a standby, NEW waits for it too`() throws {
        let harness = try Self.mirroring(ownServers: true)
        try harness.pair.old.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()")
        let old = try harness.writer("SET synchronous_commit = local"), new = try harness.connectNew()
        try old.execute("INSERT INTO t VALUES (1, 'local')")
        harness.horizon.kick()
        try harness.wait(for: "our own write to wait for the standby") { _ in
            try old.query("""
                SELECT EXISTS (SELECT FROM pg_stat_activity
                    WHERE application_name = 'godwit mirror barrier' AND wait_event = 'SyncRep')
                """).flag(0, 0)
        }
        #expect(try new.query("SELECT count(*) FROM public.t").integer(0, 0) == 0)
        try harness.pair.old.psql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
        try harness.settle()
        #expect(try harness.differences() == [])
    }
}
