import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// What others do to NEW, to the network and to OLD's vacuum while the mirror runs.
@Suite(.serialized) struct MirrorIntrusionTests {
    static let schema = "CREATE TABLE t (id int PRIMARY KEY, code int UNIQUE, v numeric(10, 4))"
    static let fill = "INSERT INTO t SELECT g, g, g / 7.0 FROM generate_series(1, 500) g"

    static func waitUntilEqual(_ harness: MirrorHarness) throws {
        try harness.wait(for: "both sides to be equal") { _ in try harness.differences() == [] }
    }

    @Test func `a COMMIT whose answer is lost is neither lost nor done twice`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        let old = try harness.writer()
        try old.execute(Self.fill)
        try harness.prepare()
        let relay = try TCPRelay(to: harness.pair.new.port)
        defer { relay.close() }
        let conninfo = try ConnectionString(parsing: harness.pair.newConninfo).overriding(["port": "\(relay.port)"]).text
        harness.start(MirrorOptions(pollMillis: 5), newConninfo: conninfo)
        try harness.waitUntilReadable()
        for round in 1...4 {
            relay.cutAfterAnswer(to: "COMMIT")
            try old.execute("UPDATE t SET v = v + 1, id = id + 1000 WHERE id % 5 = \(round); INSERT INTO t VALUES (\(-round), \(-round), 0)")
            try harness.wait(for: "the cut") { _ in relay.cuts == round }
            try MirrorRegressionTests.expectEqual(harness, "round \(round)")
        }
    }

    @Test func `strangers' rows on NEW are brought back, also one that stands in the way`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema, fill: Self.fill)
        let old = try harness.writer(), new = try harness.connectNew()
        try new.execute("""
            UPDATE public.t SET v = -1 WHERE id < 4; DELETE FROM public.t WHERE id = 10; INSERT INTO public.t VALUES (900, 901, 0);
            UPDATE public.t SET id = 950 WHERE id = 20;
            """)
        try old.execute("INSERT INTO t VALUES (901, 901, 1)")
        try Self.waitUntilEqual(harness)
        #expect(harness.horizon.report.rogueKeys >= 6)
        #expect(try new.query("SELECT count(*) FROM godwit.rogue").integer(0, 0) == 0)
        try new.execute("TRUNCATE public.t; INSERT INTO public.t VALUES (1, 77777, 0)")
        try Self.waitUntilEqual(harness)
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
    }

    @Test func `a column of NEW that got another type lets no rounded row through`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema, fill: Self.fill)
        let old = try harness.writer(), new = try harness.connectNew()
        try new.execute("ALTER TABLE public.t ALTER v TYPE numeric(10, 1)")
        try old.execute("UPDATE t SET v = v + 0.0001")
        try harness.wait(for: "the difference") { $0.state == .waiting && $0.reason.contains("is numeric(10,1)") }
        #expect(try new.query("SELECT count(*) FROM public.t WHERE v <> round(v, 1)").integer(0, 0) == 0)
        try new.execute("ALTER TABLE public.t ALTER v TYPE numeric(10, 4)")
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `a trigger that would fire on mirrored rows is noticed before it has changed one`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema, fill: Self.fill)
        try harness.connectNew().execute("""
            CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := 0; RETURN NEW; END';
            CREATE TRIGGER evil BEFORE INSERT OR UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
            ALTER TABLE public.t ENABLE ALWAYS TRIGGER evil;
            """)
        try harness.writer().execute("UPDATE t SET v = 5 WHERE id < 50")
        try harness.wait(for: "the difference") { $0.state == .waiting && $0.reason.contains("trigger evil") }
        try harness.connectNew().execute("DROP TRIGGER evil ON public.t")
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `a change of an idle table's columns, on either side, is noticed within seconds`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema, fill: Self.fill)
        try harness.connectNew().execute("ALTER TABLE public.t DROP COLUMN v")
        try harness.wait(for: "NEW's change") { $0.reason.contains("lacks the column v") }
        try harness.connectOld().execute("ALTER TABLE public.t DROP COLUMN v")
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
        try harness.connectOld().execute("ALTER TABLE public.t ADD COLUMN w int")
        try harness.wait(for: "OLD's change") { $0.reason.contains("lacks the column w") }
    }

    @Test func `a capture trigger disabled while the mirror runs stops it`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema, fill: Self.fill)
        try harness.connectOld().execute("ALTER TABLE public.t DISABLE TRIGGER godwit_capture; UPDATE public.t SET v = 0")
        try harness.wait(for: "the stop") { $0.state == .stopped }
        #expect(harness.horizon.report.reason.contains("public.t: the capture triggers are gone or disabled"))
        #expect(!harness.horizon.readable)
    }

    @Test func `a transaction that stays open over many batches and all the journal's tables loses nothing`() throws {
        let harness = try MirrorHarness.mirroring(Self.schema, fill: Self.fill)
        let idle = try harness.writer(), old = try harness.writer()
        try idle.execute("BEGIN; UPDATE t SET v = 12345 WHERE id <= 10; DELETE FROM t WHERE id = 11")
        for round in 0..<4 {
            // As many transactions as one table of the journal holds.
            try old.execute("DO $$ BEGIN FOR i IN 1..265000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
            for step in 0..<25 {
                try old.execute("UPDATE t SET v = \(step) WHERE id = \(100 + step); INSERT INTO t VALUES (\(1000 + round * 100 + step))")
                try harness.settle()
            }
        }
        try MirrorRegressionTests.expectEqual(harness, "while it is open")
        try idle.execute("COMMIT")
        try MirrorRegressionTests.expectEqual(harness, "after its end")
    }
}
