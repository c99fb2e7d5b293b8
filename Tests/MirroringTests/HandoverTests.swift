import LibPQ
import Migration
import Primitives
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct HandoverTests {
    /// The writes go to NEW, and to OLD again.
    private static func moveAndBack(_ harness: MirrorHarness) throws {
        // As behind the first copy.
        try harness.connectNew().execute("UPDATE godwit.backfill SET is_copied = true")
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

    @Test func `no side takes the writes while a table is copied to it anew`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE item (id int PRIMARY KEY)", fill: "INSERT INTO item SELECT generate_series(1, 500)")
        harness.stop()
        let session = try SwitchSession.open(
            .forward, old: harness.pair.oldConninfo, new: harness.pair.newConninfo)
        // What the mirror writes when it finds that somebody has emptied the table.
        try harness.connectNew().execute("UPDATE godwit.backfill SET is_copied = false, after_key = NULL")
        let deadline = Deadline.now().adding(seconds: 60)
        try session.reserve()
        try session.fence(until: deadline)
        #expect(throws: SwitchSession.ClaimFailure.self) { try session.claim(owner: "test", until: deadline) }
        try session.takeBack(mayBeFenced: true)
        let found = SwitchRecovery.settle(old: harness.pair.oldConninfo, new: harness.pair.newConninfo).ownership
        #expect(found == .initial)
        #expect(try harness.connectNew().query("SELECT count(*) FROM godwit.progress").integer(0, 0) == 1)
    }

    @Test func `no side takes the writes past a mirror that just says that it copies a table anew`() throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE item (id int PRIMARY KEY)", fill: "INSERT INTO item SELECT generate_series(1, 500)")
        harness.stop()
        let session = try SwitchSession.open(
            .forward, old: harness.pair.oldConninfo, new: harness.pair.newConninfo)
        try session.reserve()
        try session.fence(until: Deadline.now().adding(seconds: 60))
        let mirror = try harness.connectNew()
        try mirror.execute("BEGIN; UPDATE godwit.backfill SET is_copied = false, after_key = NULL")
        #expect(throws: SwitchSession.ClaimFailure.self) {
            try session.claim(owner: "test", until: Deadline.now().adding(seconds: 1))
        }
        try mirror.execute("ROLLBACK")
        try session.takeBack(mayBeFenced: true)
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

    /// NEW has the writes, and whoever gave them to it was killed right behind that.
    private static func moveOnly(_ harness: MirrorHarness) throws {
        harness.stop()
        let session = try SwitchSession.open(
            .forward, old: harness.pair.oldConninfo, new: harness.pair.newConninfo)
        let deadline = Deadline.now().adding(seconds: 60)
        try session.reserve()
        try session.fence(until: deadline)
        try session.claim(owner: "test", until: deadline)
    }

    private static func prepareBack(_ harness: MirrorHarness) throws {
        let direction = MirrorDirection(from: .new)
        let old = try harness.connectOld(), new = try harness.connectNew()
        let tables = try Preflight.check(direction, old: old, new: new).tables
        _ = try CaptureInstaller().install(direction, old: old, new: new, tables: tables)
    }

    @Test(arguments: [false, true])
    func `who prepares behind a switch has a mirror back, of what is added too`(isRemoved: Bool) throws {
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE item (id int PRIMARY KEY)", fill: "INSERT INTO item SELECT generate_series(1, 500)")
        try Self.moveOnly(harness)
        let old = try harness.connectOld(), new = try harness.connectNew()
        if isRemoved { try CaptureInstaller().remove(old: old, new: new) }
        for connect in [harness.connectOld, harness.connectNew] {
            try connect().execute("CREATE TABLE public.later (id int PRIMARY KEY)")
        }
        try Self.prepareBack(harness)
        let found = SwitchRecovery.settle(old: harness.pair.oldConninfo, new: harness.pair.newConninfo).ownership
        #expect(found.authority == .new && found.standing == .settled)
        let tables = "SELECT string_agg(table_name, ',' ORDER BY table_name) FROM godwit.backfill"
        #expect(try old.query(tables)[0, 0] == "item,later")
        let begins = "SELECT count(*) FROM godwit.progress"
        #expect(try old.query(begins).integer(0, 0) == 1)
        // What a removal has left untold is copied anew.
        let copied = try old.query("SELECT is_copied FROM godwit.backfill WHERE table_name = 'item'")
        #expect(copied.flag(0, 0) == !isRemoved)
    }
}
