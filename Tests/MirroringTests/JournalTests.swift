import LibPQ
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct JournalTests {
    @Test(arguments: [
        ("10:10:", "xid >= '10'::xid8"),
        ("10:20:10,15", "(xid >= '20'::xid8 OR xid IN ('10'::xid8,'15'::xid8))"),
    ])
    func `what a snapshot does not show is what came later and what was open`(text: String, predicate: String) {
        #expect(LedgerSnapshot(text)?.unseenPredicate == predicate)
    }

    @Test(arguments: ["", "1:2", "x:2:", "1:y:", "1:2:3,z", "1:2:3:4", "3:2:"])
    func `what is not a snapshot is refused`(text: String) { #expect(LedgerSnapshot(text) == nil) }

    /// Of the two that writers take turns with the other one, and the third, which only earlier versions use.
    @Test(arguments: [nil, 2])
    func `a table is emptied only when NEW shows all of it and nobody writes to it`(third: Int?) throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        try harness.prepare()
        let old = try harness.connectOld(), writer = try harness.connectOld()
        func snapshot() throws -> LedgerSnapshot {
            try #require(LedgerSnapshot(try old.query("SELECT pg_current_snapshot()")[0, 0] ?? ""))
        }
        // A transaction of another segment's table, so that it is not the one in use.
        let inUse = Int(Journal.segment(ofTransaction: try snapshot().xmax) % 2)
        let other = Journal.table(third ?? 1 - inUse)
        func count() throws -> Int64 { try old.query("SELECT count(*) FROM \(other)").integer(0, 0) ?? -1 }
        let before = try snapshot()
        try writer.execute("INSERT INTO \(other) VALUES (pg_current_xact_id(), 1, NULL)")
        try Journal.rotate(old, applied: before, batch: 1)
        #expect(try count() == 1)
        let after = try snapshot()
        // Tests beside use up numbers of transactions, too: behind a segment's end the table is the one in use.
        if third == nil, Int(Journal.segment(ofTransaction: after.xmax) % 2) != inUse { return }
        try writer.execute("BEGIN; INSERT INTO \(other) VALUES (pg_current_xact_id(), 1, NULL)")
        try Journal.rotate(old, applied: after, batch: 2)
        #expect(try count() == 1)
        try writer.execute("ROLLBACK")
        #expect(try old.query("SELECT emptied_batch FROM godwit.control").integer(0, 0) == 0)
        try Journal.rotate(old, applied: after, batch: 3)
        #expect(try count() == 0)
        #expect(try old.query("SELECT emptied_batch FROM godwit.control").integer(0, 0) == 3)
    }

    /// It is locked against all writers meanwhile.
    @Test func `what NEW lacks of a large table is found by its index`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        try harness.prepare()
        let old = try harness.connectOld()
        try old.execute("""
            INSERT INTO godwit.journal_0
                SELECT pg_current_xact_id(), 1, ARRAY[g::text] FROM generate_series(1, 200000) g
            """)
        let shown = try #require(LedgerSnapshot(try old.query("SELECT pg_current_snapshot()")[0, 0] ?? ""))
        try old.execute("INSERT INTO godwit.journal_0 VALUES (pg_current_xact_id(), 1, ARRAY['last'])")
        func scans() throws -> Int64? {
            // What a session has counted shows when it has told it.
            try old.execute("SELECT pg_stat_force_next_flush()")
            return try old.query("""
                SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'godwit.journal_0'::regclass
                """).integer(0, 0)
        }
        let before = try #require(try scans())
        try Journal.rotate(old, applied: shown, batch: 1)
        #expect(try scans() == before)
        #expect(try old.query("SELECT count(*) FROM godwit.journal_0").integer(0, 0) == 200_001)
    }

    @Test func `under writes without pause the journal stays small`() throws {
        var options = MirrorOptions(pollMillis: 5)
        options.housekeepingSeconds = 0.05
        let harness = try MirrorHarness.mirroring("CREATE TABLE t (id int PRIMARY KEY, v int)", fill: """
            INSERT INTO t SELECT g, 0 FROM generate_series(1, 20000) g
            """, options: options)
        let old = try harness.writer()
        var written: Int64 = 0, largest: Int64 = 0
        for _ in 0..<30 {
            // As many transactions as a sixth of a segment has, some of them large.
            try old.execute("DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
            try old.execute("UPDATE t SET v = v + 1")
            written += 20000
            try harness.settle()
            let sizes = try old.query("""
                SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE c.relnamespace = 'godwit'::regnamespace
                    AND relname LIKE 'journal%' AND relkind = 'r'
                """)
            largest = max(largest, sizes.integer(0, 0) ?? 0)
        }
        // An entry takes some 120 bytes with its index: all together would be 70 MB.
        print("journal: \(written) entries written, at most \(largest >> 10) KiB at once")
        #expect(largest < 20 << 20)
        #expect(try harness.differences() == [])
    }
}
