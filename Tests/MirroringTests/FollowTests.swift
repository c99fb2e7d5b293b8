import LibPQ
import Logging
import Primitives
import TestSupport
import Testing

@testable import Mirroring

/// What a Godwit knows of a mirror that another one has.
@Suite(.serialized) struct FollowTests {
    private static let schema = """
        CREATE TABLE t (id int PRIMARY KEY, v int);
        CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
        """
    private static let fill = """
        INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g;
        INSERT INTO p SELECT g, 0 FROM generate_series(0, 199) g;
        """

    /// A mirror, and somebody who follows it.
    private final class Company {
        let harness: MirrorHarness
        let horizon = Horizon()
        let duty = MirrorDuty(isShared: true)
        private let follower: Mirror
        private let pulse: Connection

        /// - Parameter isInTouch: for good.
        init(_ options: MirrorOptions = MirrorOptions(pollMillis: 5), isInTouch: Bool = true) throws {
            harness = try MirrorHarness.mirroring(FollowTests.schema, fill: FollowTests.fill, options: options)
            pulse = try harness.connectOld()
            follower = Mirror(
                database: harness.pair.database, oldConninfo: harness.pair.oldConninfo,
                newConninfo: harness.pair.newConninfo, settings: options, duty: duty, horizon: horizon,
                logger: Logger(label: "test"))
            if isInTouch { hearForGood() }
            follower.start()
        }

        deinit { follower.stop() }

        func hearForGood() { duty.hear(at: MonotonicInstant.now().advanced(bySeconds: 1e6)) }

        /// Meanwhile OLD has other snapshots, as it has by the signs of life of Godwits.
        func wait(for what: String, until condition: (MirrorReport) throws -> Bool) throws {
            try harness.wait(for: what) { _ in
                try pulse.execute("SELECT pg_current_xact_id()")
                return try condition(horizon.report)
            }
        }

        func follow() throws { try wait(for: "following") { $0.state == .following && horizon.readable } }

        func standBy(_ reason: String) throws {
            try wait(for: "standing by") { $0.state == .standby && !horizon.readable && $0.reason.contains(reason) }
        }

        /// Until all that was committed before is known to be on NEW.
        func settle() throws {
            let needed = horizon.taking + 1
            horizon.kick()
            try wait(for: "batch \(needed)") { _ in horizon.applied >= needed }
        }
    }

    @Test func `when a question is answered NEW has all that was committed before it was asked`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("following, seed \(seed)")
        var random = SeededGenerator(seed: seed)
        var options = MirrorOptions(pollMillis: 5)
        // The journal is emptied all the time.
        options.housekeepingSeconds = 0.01
        let company = try Company(options)
        try company.follow()
        let writer = try company.harness.writer(), other = try company.harness.writer()
        var isOpen = false
        for round in 1...250 {
            switch random.next() % 12 {
            case 0 where !isOpen: try writer.execute("TRUNCATE t")
            case 1: try writer.execute("INSERT INTO t SELECT g, \(round) FROM generate_series(1, 100) g ON CONFLICT DO NOTHING")
            case 2: try writer.execute("TRUNCATE p\(1 + random.next() % 2)")
            case 3: try writer.execute("BEGIN; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; UPDATE t SET v = v + 1 WHERE id % 9 = 0; COMMIT")
            case 4: try writer.execute("INSERT INTO p SELECT g, \(round) FROM generate_series(0, 199) g ON CONFLICT (id) DO UPDATE SET v = \(round)")
            case 5: try writer.execute("BEGIN; UPDATE t SET v = -1; ROLLBACK")
            case 6 where !isOpen:
                try other.execute("BEGIN; INSERT INTO t VALUES (\(1000 + round), \(round))")
                isOpen = true
            case 6, 7:
                if isOpen { try other.execute(random.next() % 4 == 0 ? "ROLLBACK" : "COMMIT") }
                isOpen = false
            default: try writer.execute("INSERT INTO t VALUES (\(random.next() % 120), \(round)) ON CONFLICT (id) DO UPDATE SET v = \(round)")
            }
            try company.settle()
            #expect(try company.harness.differences() == [], "seed \(seed), round \(round)")
        }
    }

    @Test func `a mirror that is gone, stands still or is not to be trusted is followed no further`() throws {
        let company = try Company()
        try company.follow()
        // Paused: what is written is not said to be there, and after a while nothing is said.
        company.harness.mirror?.orders.isPaused = true
        try company.standBy("has stood still")
        company.harness.mirror?.orders.isPaused = false
        try company.follow()
        company.harness.stop()
        try company.standBy("has stood still")
        company.harness.start(MirrorOptions(pollMillis: 5))
        try company.follow()
        try company.harness.writer().execute("ALTER TABLE t DISABLE TRIGGER godwit_capture")
        try company.standBy("capture triggers")
    }

    @Test func `who does not hear of the others follows nothing until he does`() throws {
        let company = try Company(isInTouch: false)
        try company.standBy("state store")
        // He is heard of until he follows: for some seconds only, which may be too few on a busy machine.
        try company.wait(for: "following") {
            company.duty.hear(at: .now())
            return $0.state == .following && company.horizon.readable
        }
        try company.standBy("state store")
        company.hearForGood()
        try company.follow()
    }

    @Test func `whoever followed mirrors when it is his turn, and follows when it no longer is`() throws {
        let company = try Company()
        try company.follow()
        company.harness.stop()
        company.duty.isOurs = true
        try company.wait(for: "mirroring") { $0.state == .mirroring }
        try company.harness.writer().execute("UPDATE t SET v = 7")
        try company.settle()
        #expect(try company.harness.differences() == [])
        company.duty.isOurs = false
        try company.wait(for: "the end of mirroring") { $0.state != .mirroring }
        company.harness.start(MirrorOptions(pollMillis: 5))
        try company.follow()
    }
}

@Suite struct LedgerSnapshotTests {
    @Test func `a snapshot shows all of another one when it shows each of its transactions`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("snapshots, seed \(seed)")
        var random = SeededGenerator(seed: seed)
        func snapshot() throws -> LedgerSnapshot {
            let xmax = 10 + random.next() % 6
            let open = (4..<xmax).filter { _ in random.next() % 3 == 0 }
            let list = open.map { "\($0)" }.joined(separator: ",")
            return try #require(LedgerSnapshot("\(open.first ?? xmax):\(xmax):\(list)"))
        }
        func shown(_ snapshot: LedgerSnapshot) -> Set<UInt64> {
            Set((0..<snapshot.xmax).filter { !snapshot.open.contains($0) })
        }
        var counts = [0, 0]
        for _ in 0..<20_000 {
            let (one, other) = (try snapshot(), try snapshot())
            let isAll = shown(one).isSuperset(of: shown(other))
            counts[isAll ? 1 : 0] += 1
            #expect(one.showsAll(of: other) == isAll, "\(one.text) of \(other.text), seed \(seed)")
        }
        #expect(counts[0] > 1000 && counts[1] > 1000)
    }
}
