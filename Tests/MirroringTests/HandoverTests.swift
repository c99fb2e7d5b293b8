import LibPQ
import Migration
import Primitives
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct HandoverTests {
    /// The writes go to NEW, and to OLD again.
    private static func moveAndBack(_ harness: MirrorHarness) throws {
        for source in [Side.old, .new] {
            let session = try SwitchSession.open(
                MirrorDirection(from: source), old: harness.pair.oldConninfo, new: harness.pair.newConninfo)
            let deadline = Deadline.now().adding(seconds: 60)
            try session.reserve()
            try session.fence(until: deadline)
            try session.claim(owner: "test", until: deadline)
            try session.handOver()
        }
    }

    @Test func `whoever slept through a switch hands nothing over to the side that has the writes now`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE item (id int PRIMARY KEY)")
        try harness.prepare()
        try Self.moveAndBack(harness)
        // It has read, before the second switch, that NEW has the writes.
        let old = try harness.connectOld(), new = try harness.connectNew()
        try Handover.perform(authority: new, .new, fenced: old, .old)
        #expect(try old.query("SELECT count(*) FROM godwit.progress").integer(0, 0) == 0)
        #expect(try new.query("SELECT count(*) FROM godwit.progress").integer(0, 0) == 1)
    }

    @Test func `a removal that stops halfway leaves the writes where they are, and can be done again`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE item (id int PRIMARY KEY)")
        try harness.prepare()
        try Self.moveAndBack(harness)
        let old = try harness.connectOld(), new = try harness.connectNew()
        var installer = CaptureInstaller()
        installer.lockTimeoutMillis = 20
        installer.triesMax = 1
        for side in [Side.new, .old] {
            let holder: Connection
            if side == .old { holder = try harness.connectOld() } else { holder = try harness.connectNew() }
            try holder.execute("BEGIN; LOCK TABLE public.item IN ACCESS SHARE MODE")
            #expect(throws: CaptureInstaller.Failure.self) { try installer.remove(old: old, new: new) }
            // As a Godwit that is started now finds it.
            let found = SwitchRecovery.settle(old: harness.pair.oldConninfo, new: harness.pair.newConninfo).ownership
            #expect(found.authority == .old && found.standing == .settled)
            try holder.execute("ROLLBACK")
        }
        try installer.remove(old: old, new: new)
        let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'godwit'"
        #expect(try old.query(there).integer(0, 0) == 0)
        #expect(try new.query(there).integer(0, 0) == 0)
    }

    @Test func `who prepares again behind half a removal begins with a copy`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE item (id int PRIMARY KEY)", fill: "INSERT INTO item SELECT generate_series(1, 500)")
        harness.stop()
        try Self.moveAndBack(harness)
        let old = try harness.connectOld(), new = try harness.connectNew(), holder = try harness.connectOld()
        var installer = CaptureInstaller()
        installer.lockTimeoutMillis = 20
        installer.triesMax = 1
        try holder.execute("BEGIN; LOCK TABLE public.item IN ACCESS SHARE MODE")
        #expect(throws: CaptureInstaller.Failure.self) { try installer.remove(old: old, new: new) }
        try holder.execute("ROLLBACK")
        // As the preflight wants it of whoever goes on.
        try new.execute("TRUNCATE public.item")
        try harness.prepare()
        let found = SwitchRecovery.settle(old: harness.pair.oldConninfo, new: harness.pair.newConninfo).ownership
        #expect(found.authority == .old)
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.wait(for: "all rows") { _ in
            try new.query("SELECT count(*) FROM public.item").integer(0, 0) == 500
        }
    }
}
