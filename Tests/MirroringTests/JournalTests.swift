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

    @Test func `only the tables of the segments in question are read`() {
        let size = UInt64(1) << 18
        #expect(Journal.tables(from: 0, through: size - 1) == [0])
        #expect(Journal.tables(from: size - 1, through: size) == [0, 1])
        #expect(Journal.tables(from: size * 2, through: size * 3) == [0, 2])
        #expect(Journal.tables(from: 0, through: size * 9) == [0, 1, 2])
    }

    @Test func `a table is emptied only when NEW shows all of it and nobody writes to it`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        try harness.prepare()
        let old = try harness.connectOld(), writer = try harness.connectOld()
        func snapshot() throws -> LedgerSnapshot {
            try #require(LedgerSnapshot(try old.query("SELECT pg_current_snapshot()")[0, 0] ?? ""))
        }
        // A transaction of another segment's table, so that it is not the one in use.
        let inUse = Int(Journal.segment(ofTransaction: try snapshot().xmax) % 3)
        let other = Journal.table((inUse + 1) % 3)
        func count() throws -> Int64 { try old.query("SELECT count(*) FROM \(other)").integer(0, 0) ?? -1 }
        let before = try snapshot()
        try writer.execute("INSERT INTO \(other) VALUES (pg_current_xact_id(), 1, NULL)")
        try Journal.rotate(old, applied: before)
        #expect(try count() == 1)
        let after = try snapshot()
        try writer.execute("BEGIN; INSERT INTO \(other) VALUES (pg_current_xact_id(), 1, NULL)")
        try Journal.rotate(old, applied: after)
        #expect(try count() == 1)
        try writer.execute("ROLLBACK")
        try Journal.rotate(old, applied: after)
        #expect(try count() == 0)
    }
}
