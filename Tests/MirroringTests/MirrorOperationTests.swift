import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// What an operator does with a mirror, and what holds its first copy back.
@Suite(.serialized) struct MirrorOperationTests {
    static let schema = "CREATE TABLE t (id int PRIMARY KEY, v int)"

    static func filled(rows: Int) throws -> MirrorHarness {
        let harness = try MirrorHarness(schema: schema)
        try harness.connectOld().execute("INSERT INTO public.t SELECT g, g FROM generate_series(1, \(rows)) g")
        try harness.prepare()
        return harness
    }

    @Test func `a paused mirror stands still, and loses nothing`() throws {
        let harness = try Self.filled(rows: 100)
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        let orders = try #require(harness.mirror?.orders)
        orders.isPaused = true
        try harness.wait(for: "the pause") { $0.state == .paused }
        try harness.connectOld().execute("UPDATE public.t SET v = -1; DELETE FROM public.t WHERE id = 5")
        harness.horizon.kick()
        let new = try harness.connectNew()
        #expect(try new.query("SELECT count(*) FROM public.t WHERE v = -1").integer(0, 0) == 0)
        orders.isPaused = false
        try harness.wait(for: "going on") { $0.state == .mirroring }
        try harness.settle()
        #expect(try harness.differences() == [])
        orders.isPaused = true
        try harness.wait(for: "the pause") { $0.state == .paused }
        harness.stop()
        #expect(harness.horizon.report.state == .off)
    }

    @Test func `the copy rests while the operator's query says so or fails, changes do not`() throws {
        let harness = try Self.filled(rows: 2000)
        let old = try harness.connectOld()
        func rests(_ expression: String) throws {
            try old.execute("CREATE OR REPLACE FUNCTION public.rests() RETURNS bool LANGUAGE sql AS 'SELECT \(expression)'")
        }
        try rests("true")
        var options = MirrorOptions(pollMillis: 5, backfillRows: 100)
        options.throttleQuery = "SELECT public.rests() -- a comment at its end"
        harness.start(options)
        try harness.wait(for: "the reason") { $0.copyHeld.contains("throttle_query says so") }
        // No transaction stays open behind it.
        try harness.wait(for: "the query's end") { _ in
            try harness.connectOld().query("""
                SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'godwit mirror barrier' AND state = 'idle'
                """).count == 1
        }
        let copied = harness.horizon.report.rowsCopied
        try harness.connectOld().execute("UPDATE public.t SET v = -7 WHERE id = 1999")
        try harness.wait(for: "the change") { _ in
            try harness.connectNew().query("SELECT v FROM public.t WHERE id = 1999").count == 1
        }
        #expect(harness.horizon.report.rowsCopied == copied)
        #expect(!harness.horizon.readable)
        try rests("1 / 0 = 1")
        try harness.wait(for: "the failure") { $0.copyHeld.contains("throttle_query fails") }
        try rests("false")
        try harness.waitUntilReadable()
        #expect(harness.horizon.report.copyHeld == "")
        #expect(try harness.differences() == [])
    }

    @Test func `the copy rests while OLD has too many active sessions`() throws {
        let harness = try Self.filled(rows: 500)
        // Two sessions that wait for a lock are active, whatever other tests do.
        let holder = try harness.connectOld()
        try holder.execute("SELECT pg_advisory_lock(1)")
        let first = try harness.connectOld(), second = try harness.connectOld()
        try first.execute("SET application_name = 'the application'")
        try first.send("SELECT pg_advisory_lock(1)")
        try second.execute("SET application_name = 'the application'")
        try second.send("SELECT pg_advisory_lock(1)")
        var options = MirrorOptions(pollMillis: 5, backfillRows: 100)
        options.throttleSessions = 1
        harness.start(options)
        try harness.wait(for: "the reason") { $0.copyHeld.contains("active sessions") }
        harness.stop()
        #expect(!harness.horizon.readable)
    }

    @Test func `a rate in rows a second is kept, and may be changed while it copies`() throws {
        let harness = try Self.filled(rows: 20_000)
        var options = MirrorOptions(pollMillis: 5)
        options.copyRowsPerSecond = 40
        harness.start(options)
        try harness.wait(for: "some rows") { $0.rowsCopied >= 20 }
        #expect(harness.horizon.report.rowsCopied < 10_000)
        let table = try #require(harness.horizon.report.tables.first { $0.name == "public.t" })
        #expect(!table.isCopied)
        harness.mirror?.orders.copyRowsPerSecond = 0
        try harness.waitUntilReadable()
        let copied = try #require(harness.horizon.report.tables.first { $0.name == "public.t" })
        #expect(copied.rowsCopied == 20_000 && copied.bytesCopied > 40_000)
        #expect(try harness.differences() == [])
    }
}
