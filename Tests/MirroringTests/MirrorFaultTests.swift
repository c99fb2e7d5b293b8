import Glibc
import LibPQ
import Logging
import Primitives
import TestSupport
import Testing

@testable import Mirroring

/// What goes wrong around a mirror, one thing at a time.
@Suite(.serialized) struct MirrorFaultTests {
    static let schema = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE w (k text PRIMARY KEY, v int);"

    static func filled(ownServers: Bool = false, rows: Int = 200) throws -> MirrorHarness {
        let harness = try MirrorHarness(schema: schema, ownServers: ownServers)
        try harness.connectOld().execute("""
            INSERT INTO public.t SELECT g, 'v' || g FROM generate_series(1, \(rows)) g;
            INSERT INTO public.w SELECT 'k' || g, g FROM generate_series(1, \(rows)) g;
            """)
        try harness.prepare()
        return harness
    }

    static func mirror(_ harness: MirrorHarness, _ horizon: Horizon) -> Mirror {
        Mirror(
            database: "other", oldConninfo: harness.pair.oldConninfo, newConninfo: harness.pair.newConninfo,
            settings: MirrorOptions(pollMillis: 5), horizon: horizon, logger: Logger(label: "other"))
    }

    @Test func `a backfill stopped half way goes on where it was`() throws {
        let harness = try Self.filled(rows: 5000)
        harness.start(MirrorOptions(pollMillis: 5, backfillRows: 20))
        try harness.wait(for: "some rows") { $0.rowsCopied > 200 }
        harness.stop()
        #expect(!harness.horizon.readable)
        let copied = try harness.connectNew().query("SELECT sum(rows_copied) FROM godwit.backfill").integer(0, 0) ?? 0
        #expect(copied > 200 && copied < 10_000)
        #expect(try harness.connectNew().query("SELECT count(*) FROM public.t").integer(0, 0) == copied)
        try harness.connectOld().execute("""
            UPDATE public.t SET v = 'late' WHERE id % 3 = 0; DELETE FROM public.t WHERE id % 7 = 0;
            UPDATE public.w SET k = 'moved' || k WHERE v % 11 = 0; INSERT INTO public.t VALUES (-5, 'before');
            """)
        harness.start(MirrorOptions(pollMillis: 5, backfillRows: 500))
        try harness.waitUntilReadable()
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    @Test func `a second mirror waits, and takes over when the first ends`() throws {
        let harness = try Self.filled()
        harness.start()
        try harness.waitUntilReadable()
        let horizon = Horizon()
        let second = Self.mirror(harness, horizon)
        second.start()
        defer { second.stop() }
        waitUntil("the second to wait") { horizon.report.state == .waiting }
        #expect(horizon.report.reason.contains("another Godwit"))
        #expect(!horizon.readable)
        harness.stop()
        waitUntil("the second to take over") { horizon.readable }
        try harness.connectOld().execute("UPDATE public.t SET v = 'second'")
        let stamp = horizon.taking
        waitUntil("a batch") { horizon.applied > stamp }
        #expect(try harness.differences() == [])
    }

    @Test func `a mirror that finds NEW moved on by another stops and says so`() throws {
        let harness = try Self.filled()
        harness.start()
        try harness.waitUntilReadable()
        // What a second applier without the lock would do.
        try harness.connectNew().execute("UPDATE godwit.progress SET batch = batch + 1")
        try harness.connectOld().execute("UPDATE public.t SET v = 'x' WHERE id = 1")
        try harness.wait(for: "the stop") { $0.state == .stopped }
        #expect(harness.horizon.report.reason.contains("another applier"))
        #expect(!harness.horizon.readable)
    }

    @Test func `OLD killed by signal 9 comes back and nothing is lost`() throws {
        let harness = try Self.filled(ownServers: true)
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try harness.connectOld().execute("SET synchronous_commit = off; UPDATE public.t SET v = 'just before'")
        harness.pair.old.kill9()
        try harness.wait(for: "the loss to be noticed") { $0.state == .waiting }
        #expect(harness.horizon.readable, "a short loss leaves reads where they are")
        try harness.pair.old.start()
        try harness.connectOld().execute("DELETE FROM public.t WHERE id % 2 = 0")
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    /// What answers there next may have less than this one had.
    @Test func `a NEW that was lost is read again when it is known how far it is`() throws {
        let harness = try Self.filled(ownServers: true)
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        harness.pair.new.kill9()
        // The next batch finds it out.
        try harness.connectOld().execute("UPDATE public.t SET v = 'meanwhile'")
        try harness.wait(for: "the loss to be noticed") { $0.state == .waiting }
        #expect(!harness.horizon.readable)
        try harness.pair.new.start()
        try harness.waitUntilReadable()
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    @Test func `an OLD that is lost while its rows travel leaves reads where they are`() throws {
        let harness = try Self.filled(ownServers: true)
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        let owner = try harness.connectNew()
        try owner.execute("BEGIN; LOCK TABLE public.t IN EXCLUSIVE MODE")
        // Far more than is on its way at once.
        try harness.connectOld().execute(
            "INSERT INTO public.t SELECT g, repeat('x', 1000) FROM generate_series(1000, 60000) g")
        try harness.wait(for: "the batch to wait") { _ in
            try owner.query("""
                SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'public.t'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                """).flag(0, 0)
        }
        harness.pair.old.kill9()
        try owner.execute("COMMIT")
        try harness.wait(for: "the loss to be noticed") { $0.state == .waiting }
        #expect(harness.horizon.readable)
        try harness.pair.old.start()
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    @Test func `a NEW that answers no more loses its reads after the lag limit, and gets them back`() throws {
        let harness = try Self.filled(ownServers: true)
        harness.start(MirrorOptions(pollMillis: 5, lagMaxSeconds: 0.5))
        try harness.waitUntilReadable()
        harness.pair.new.pause()
        try harness.connectOld().execute("UPDATE public.t SET v = 'meanwhile'")
        try harness.wait(for: "reads to leave") { _ in !harness.horizon.readable }
        harness.pair.new.resume()
        try harness.waitUntilReadable()
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    @Test func `a mirror stops at once while NEW answers no more`() throws {
        let harness = try Self.filled(ownServers: true)
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        harness.pair.new.pause()
        try harness.connectOld().execute("UPDATE public.t SET v = 'meanwhile'")
        harness.stop()
        harness.pair.new.resume()
        #expect(harness.horizon.report.state == .off)
    }

    @Test func `a table that prepare adds is mirrored without a restart`() throws {
        let harness = try Self.filled()
        harness.start()
        try harness.waitUntilReadable()
        try harness.connectOld().execute("CREATE TABLE public.added (id int PRIMARY KEY); INSERT INTO public.added VALUES (1)")
        try harness.connectNew().execute("CREATE TABLE public.added (id int PRIMARY KEY)")
        #expect(try harness.prepare().installed.count == 1)
        try harness.wait(for: "the new table") { report in
            report.tables.contains { $0.name == "public.added" && $0.isCopied }
        }
        try harness.connectOld().execute("INSERT INTO public.added VALUES (2)")
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    @Test func `capture disabled behind our back stops the mirror`() throws {
        let harness = try Self.filled()
        try harness.connectOld().execute("ALTER TABLE public.t DISABLE TRIGGER godwit_capture")
        harness.start()
        try harness.wait(for: "the stop") { $0.state == .stopped }
        #expect(harness.horizon.report.reason.contains("public.t: the capture triggers are gone or disabled"))
    }

    @Test func `what is not prepared is waited for`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        harness.start()
        try harness.wait(for: "a reason") { $0.state == .waiting }
        #expect(harness.horizon.report.reason == "NEW is not prepared: run godwit prepare")
        try harness.prepare()
        try harness.waitUntilReadable()
    }

    @Test func `roles without superuser rights mirror the writes of users who know nothing of it`() throws {
        let harness = try MirrorHarness(schema: "")
        let owner = harness.pair.database + "_owner", user = harness.pair.database + "_user"
        for side in [harness.pair.old, harness.pair.new] {
            try side.psql("""
                CREATE ROLE \(owner) LOGIN; CREATE ROLE \(user) LOGIN; ALTER DATABASE \(harness.pair.database) OWNER TO \(owner);
                """)
            try side.psql("""
                CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t OWNER TO \(owner); GRANT ALL ON t TO \(user);
                """, database: harness.pair.database)
        }
        try harness.pair.new.psql("GRANT SET ON PARAMETER session_replication_role TO \(owner)")
        let oldTarget = try ConnectionString(parsing: harness.pair.oldConninfo).overriding(["user": owner])
        let newTarget = try ConnectionString(parsing: harness.pair.newConninfo).overriding(["user": owner])
        let old = try Connection.open(oldTarget, purpose: "test"), new = try Connection.open(newTarget, purpose: "test")
        let result = try Preflight.check(old: old, new: new)
        #expect(result.blocking == [])
        _ = try CaptureInstaller().install(old: old, new: new, tables: result.tables)
        let horizon = Horizon()
        let mirror = Mirror(
            database: "t", oldConninfo: oldTarget.text, newConninfo: newTarget.text, settings: MirrorOptions(),
            horizon: horizon, logger: Logger(label: "test"))
        mirror.start()
        defer { mirror.stop() }
        let writer = try Connection.open(oldTarget.overriding(["user": user]), purpose: "writer")
        try writer.execute("INSERT INTO public.t SELECT g, 'x' FROM generate_series(1, 100) g; DELETE FROM public.t WHERE id = 7")
        waitUntil("readable") { horizon.readable }
        let stamp = horizon.taking
        waitUntil("a batch") { horizon.applied > stamp }
        #expect(try harness.differences() == [])
        #expect(throws: PostgresFailure.self) { try writer.execute("SELECT * FROM godwit.journal_0") }
    }

    @Test func `a partition of somebody else's is read through its root`() throws {
        let harness = try MirrorHarness(schema: ""), database = harness.pair.database, owner = database + "_owner"
        for side in [harness.pair.old, harness.pair.new] {
            try side.psql("CREATE ROLE \(owner) LOGIN; ALTER DATABASE \(database) OWNER TO \(owner);")
            let parts = side === harness.pair.old ? " PARTITION BY RANGE (id)" : ""
            try side.psql("CREATE TABLE t (id int PRIMARY KEY)\(parts); ALTER TABLE t OWNER TO \(owner);", database: database)
        }
        try harness.pair.new.psql("GRANT SET ON PARAMETER session_replication_role TO \(owner)")
        let oldTarget = try ConnectionString(parsing: harness.pair.oldConninfo).overriding(["user": owner])
        let newTarget = try ConnectionString(parsing: harness.pair.newConninfo).overriding(["user": owner])
        let old = try Connection.open(oldTarget, purpose: "test"), new = try Connection.open(newTarget, purpose: "test")
        _ = try CaptureInstaller().install(old: old, new: new, tables: try Preflight.check(old: old, new: new).tables)
        let horizon = Horizon()
        let mirror = Mirror(
            database: "t", oldConninfo: oldTarget.text, newConninfo: newTarget.text, settings: MirrorOptions(),
            horizon: horizon, logger: Logger(label: "test"))
        mirror.start()
        defer { mirror.stop() }
        waitUntil("readable") { horizon.readable }
        // The administrator's, who is a superuser.
        try harness.pair.old.psql("""
            CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (100); INSERT INTO t SELECT g FROM generate_series(1, 50) g;
            """, database: database)
        waitUntil("the rows") { (try? new.query("SELECT count(*) = 50 FROM public.t").flag(0, 0)) ?? false }
        #expect(try harness.differences() == [])
    }

    @Test func `databases whose sessions begin otherwise are mirrored like any other`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY, words text[])")
        for side in [harness.pair.old, harness.pair.new] {
            for setting in ["default_transaction_isolation = 'serializable'", "array_nulls = off"] {
                try side.psql("ALTER DATABASE \(harness.pair.database) SET \(setting)")
            }
        }
        try harness.pair.new.psql("ALTER DATABASE \(harness.pair.database) SET default_transaction_read_only = on")
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try harness.writer().execute("INSERT INTO t VALUES (1, ARRAY['a', NULL])")
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `what a batch has staged on NEW is gone soon, and keeps no transaction number old`() throws {
        var options = MirrorOptions(pollMillis: 5)
        options.housekeepingSeconds = 0.05
        let harness = try MirrorHarness.mirroring("CREATE TABLE t (id text PRIMARY KEY)", options: options)
        try harness.writer().execute("INSERT INTO t SELECT g::text FROM generate_series(1, 5000) g")
        try MirrorRegressionTests.expectEqual(harness)
        let new = try harness.connectNew()
        try harness.wait(for: "no table of a session's") { _ in
            try new.query("SELECT NOT EXISTS (SELECT FROM pg_class WHERE relname ~ '^godwit_(keys|rows)_')").flag(0, 0)
        }
    }

    @Test func `a sequence that does not show where it stands is named`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE SEQUENCE drawn; CREATE SEQUENCE fresh; CREATE SEQUENCE used; CREATE SEQUENCE hidden;
            CREATE SCHEMA shut; CREATE SEQUENCE shut.away;
            """)
        let old = try harness.connectOld()
        try old.execute("""
            SELECT nextval('public.drawn'), nextval('public.used'), setval('public.fresh', 9, false);
            CREATE ROLE sequence_reader; GRANT SELECT ON SEQUENCE public.drawn, public.fresh TO sequence_reader;
            GRANT USAGE ON SEQUENCE public.used TO sequence_reader; SET ROLE sequence_reader
            """)
        defer { _ = try? old.execute("RESET ROLE; DROP OWNED BY sequence_reader; DROP ROLE sequence_reader") }
        var reading = SequenceRaiser.Reading(try old.query(SequenceRaiser.Reading.query))
        #expect(reading.hidden.map(\.name) == ["hidden", "away"])
        for query in reading.uncalledQueries { reading.add(uncalled: try old.query(query)) }
        #expect(reading.sequences.map { "\($0.name.name) \($0.last)" } == ["drawn 1", "used 1", "fresh 8"])
    }

    @Test func `many sequences from which nothing was drawn are read some at a time`() throws {
        let harness = try MirrorHarness(schema: """
            DO 'BEGIN FOR i IN 1 .. 450 LOOP EXECUTE format(''CREATE SEQUENCE s%s'', i); END LOOP; END'
            """)
        let old = try harness.connectOld()
        try old.execute("SELECT setval('public.s1', 7, false), setval('public.s99', 9, false)")
        var reading = SequenceRaiser.Reading(try old.query(SequenceRaiser.Reading.query))
        #expect(reading.uncalledQueries.count == 3)
        for query in reading.uncalledQueries { reading.add(uncalled: try old.query(query)) }
        #expect(reading.sequences.map { "\($0.name.name) \($0.last)" } == ["s1 6", "s99 8"])
    }

    @Test func `sequences on NEW stay ahead of OLD's`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE s (id bigserial PRIMARY KEY); CREATE SEQUENCE down INCREMENT -2;
            CREATE SEQUENCE small MAXVALUE 50; CREATE SEQUENCE fresh START 7; CREATE SEQUENCE set;
            CREATE SEQUENCE again START 3; CREATE SEQUENCE "Set down" INCREMENT -2;
            CREATE SEQUENCE lowest AS smallint INCREMENT -1; CREATE SEQUENCE far INCREMENT 9223372036854775807;
            """)
        try harness.connectOld().execute("""
            SELECT setval('public.set', 5001, false), setval('public."Set down"', -50, false), nextval('public.again');
            SELECT setval('public.lowest', -32760), nextval('public.far');
            ALTER SEQUENCE public.again RESTART WITH 400;
            INSERT INTO public.s SELECT FROM generate_series(1, 10) g; SELECT nextval('public.down'), nextval('public.small');
            SELECT nextval('public.down');
            """)
        try harness.prepare()
        harness.start()
        try harness.waitUntilReadable()
        let new = try harness.connectNew()
        try waitUntil("sequences") {
            try new.query("SELECT last_value FROM public.s_id_seq").integer(0, 0) == 1010
                && new.query("SELECT last_value FROM public.down").integer(0, 0) == -2003
                && new.query("SELECT last_value FROM public.small").integer(0, 0) == 25
                && new.query("SELECT last_value FROM public.set").integer(0, 0) == 6000
                && new.query("SELECT last_value FROM public.again").integer(0, 0) == 1399
                && new.query("SELECT last_value FROM public.\"Set down\"").integer(0, 0) == -2048
        }
        #expect(try new.query("SELECT nextval('public.fresh')").integer(0, 0) == 7)
        // A bound that is near is not reached by us.
        #expect(try new.query("SELECT last_value FROM public.lowest").integer(0, 0) == -32764)
        #expect(try new.query("SELECT nextval('public.small')").integer(0, 0) == 26)
    }

    @Test func `a column added behind our back loses no value`() throws {
        let harness = try Self.filled()
        harness.start()
        try harness.waitUntilReadable()
        let old = try harness.connectOld()
        try old.execute("ALTER TABLE public.t ADD COLUMN extra numeric(10, 4); UPDATE public.t SET extra = id / 3.0")
        try harness.wait(for: "the mirror to wait") { $0.state == .waiting && $0.reason.contains("lacks the column") }
        try harness.connectNew().execute("ALTER TABLE public.t ADD COLUMN extra numeric(10, 4)")
        try harness.wait(for: "mirroring") { $0.state == .mirroring }
        try harness.settle()
        #expect(try harness.differences() == [])
    }

    @Test func `a transaction larger than a small batch travels by COPY, with its TRUNCATE`() throws {
        let harness = try Self.filled()
        harness.start()
        try harness.waitUntilReadable()
        try harness.connectOld().execute("""
            BEGIN; TRUNCATE public.t; INSERT INTO public.t SELECT g, 'bulk' FROM generate_series(1, 20000) g;
            UPDATE public.w SET k = k || '!' WHERE v % 2 = 0; INSERT INTO public.w SELECT 'new' || g, g
                FROM generate_series(1, 5000) g; DELETE FROM public.t WHERE id % 5 = 0; COMMIT;
            """)
        try harness.settle()
        #expect(try harness.differences() == [])
        try harness.connectOld().execute("UPDATE public.t SET id = -id WHERE id > 100")
        try harness.settle()
        #expect(try harness.differences() == [])
    }
}
