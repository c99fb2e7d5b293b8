import Foundation
import LibPQ
import Migration
import Primitives
import TestSupport
import Testing

@testable import Mirroring

/// Tables of `mirror.bulk` from prepare to the mirror: what keeps their captures whole, and what they bring to NEW.
@Suite(.serialized) struct BulkTableTests {
    static let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE w (id int PRIMARY KEY, v int);"
    static let fill = "INSERT INTO t SELECT g, g FROM generate_series(1, 500) g; INSERT INTO w SELECT g, g FROM generate_series(1, 9) g"

    static func name(_ table: String) -> TableName { TableName(schema: "public", name: table) }

    @discardableResult
    static func prepare(
        _ harness: MirrorHarness, bulk: [String]?, progress: @escaping (String) -> Void = { _ in }
    ) throws -> CaptureInstaller.Report {
        let old = try harness.connectOld(), new = try harness.connectNew()
        let names = bulk.map { Set($0.map { name($0) }) }
        let result = try Preflight.check(old: old, new: new, bulk: names)
        guard result.blocking.isEmpty else { throw TestFailure("\(result.blocking)") }
        return try CaptureInstaller(progress: progress).install(old: old, new: new, tables: result.tables, bulk: names)
    }

    static func mirroring(_ schema: String = schema, fill: String = fill, bulk: [String] = ["t"]) throws -> MirrorHarness {
        let harness = try MirrorHarness(schema: schema)
        if !fill.isEmpty { try harness.connectOld().execute("SET search_path = public; \(fill)") }
        try prepare(harness, bulk: bulk)
        var options = MirrorOptions(pollMillis: 5)
        options.housekeepingSeconds = 0.05
        harness.start(options)
        try harness.waitUntilReadable()
        return harness
    }

    /// Each trigger of ours on OLD's table, and how it is enabled.
    static func triggers(
        _ connection: borrowing Connection, _ table: String = "t", schema: String = "public"
    ) throws -> [String] {
        let rows = try connection.query("""
            SELECT tgname || ' ' || tgenabled::text FROM pg_trigger WHERE tgname LIKE 'godwit_capture%'
               AND tgrelid = '\(schema).\(table)'::regclass ORDER BY 1
            """)
        return (0..<rows.count).compactMap { rows[$0, 0] }
    }

    static let byRow = ["godwit_capture O", "godwit_capture_replica R", "godwit_capture_truncate A"]
    static let byStatement = [
        "godwit_capture R", "godwit_capture_alone D", "godwit_capture_delete A", "godwit_capture_insert A",
        "godwit_capture_truncate A", "godwit_capture_update A",
    ]

    // MARK: prepare

    @Test func `prepare puts the triggers there on both sides, once, and takes them back`() throws {
        let harness = try MirrorHarness(schema: Self.schema)
        let old = try harness.connectOld(), new = try harness.connectNew()
        let before = (try CaptureInstallerTests.trace(old), try CaptureInstallerTests.trace(new))
        #expect(try Self.prepare(harness, bulk: ["t"]).installed.count == 2)
        #expect(try Self.triggers(old) == Self.byStatement && Self.triggers(new) == Self.byStatement)
        #expect(try Self.triggers(old, "w") == Self.byRow && Self.triggers(new, "w") == Self.byRow)
        // Again; and by who knows nothing of the setting: DDL on both sides prepares new tables so.
        for bulk in [["t"], nil] {
            let report = try Self.prepare(harness, bulk: bulk)
            #expect(report.installed.isEmpty && report.present.count == 2 && report.suspect.isEmpty)
            #expect(try Self.triggers(old) == Self.byStatement)
        }
        // Another setting is told before it is followed.
        let notes = try Preflight.check(old: old, new: new, bulk: [Self.name("w")]).findings.map(\.description)
        #expect(notes.count == 2 && notes[0].hasPrefix("OLD public.t: is captured by statement, and mirror.bulk does not"))
        #expect(notes.last?.hasPrefix("OLD public.w: is named in mirror.bulk and captured row by row") == true, "\(notes)")
        let report = try Self.prepare(harness, bulk: ["w"])
        #expect(report.exchanged == [Self.name("t"), Self.name("w")] && report.installed.isEmpty)
        #expect(try Self.triggers(old) == Self.byRow && Self.triggers(new) == Self.byRow)
        #expect(try Self.triggers(old, "w") == Self.byStatement && Self.triggers(new, "w") == Self.byStatement)
        #expect(try Self.prepare(harness, bulk: []).exchanged == [Self.name("w")])
        let functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture\\_rows\\_%'"
        #expect(try old.query(functions).integer(0, 0) == 0 && new.query(functions).integer(0, 0) == 0)
        try Self.prepare(harness, bulk: ["t", "w"])
        try CaptureInstaller().remove(old: old, new: new)
        #expect(try CaptureInstallerTests.trace(old) == before.0)
        #expect(try CaptureInstallerTests.trace(new) == before.1)
    }

    @Test func `a function of another version is replaced, and nothing copied anew for it`() throws {
        let harness = try Self.mirroring()
        let old = try harness.connectOld()
        harness.stop()
        try old.execute("""
            DO $$ DECLARE f text := (SELECT pg_get_functiondef(tgfoid) FROM pg_trigger WHERE tgname = 'godwit_capture_update');
                BEGIN EXECUTE replace(f, 'x xid8;', 'x xid8; y int;'); END $$
            """)
        harness.start()
        try harness.wait(for: "the reason") { $0.reason.contains("by another version of Godwit") }
        harness.stop()
        #expect(try Self.prepare(harness, bulk: ["t"]).installed == [])
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.wait(for: "the mirror") { $0.state == .mirroring && harness.horizon.readable }
        try old.execute("UPDATE public.t SET v = 0")
        try MirrorRegressionTests.expectEqual(harness)
    }

    @Test func `triggers are exchanged beside writers, nothing is missed and nothing copied anew`() throws {
        let harness = try Self.mirroring(bulk: [])
        let conninfo = harness.pair.oldConninfo, stranger = "SET session_replication_role = replica; UPDATE public.t SET v ="
        try harness.connectNew().execute("\(stranger) -7 WHERE id = 400")
        let writer = OwnThread(name: "writer") {
            do {
                let old = try Connection.open(try ConnectionString(parsing: conninfo), purpose: "writer")
                for number in 0..<400 {
                    try old.execute("""
                        UPDATE public.t SET v = v + 1 WHERE id % 40 = \(number % 39 + 1); DELETE FROM public.t WHERE id = \(number + 600);
                        """)
                    try old.execute("INSERT INTO public.t SELECT g, \(number) FROM generate_series(\(number + 600), \(number + 603)) g "
                        + "ON CONFLICT (id) DO UPDATE SET v = t.v + 1")
                }
            } catch {
                Issue.record("\(error)")
            }
        }
        for round in 0..<6 {
            let report = try Self.prepare(harness, bulk: round % 2 == 0 ? ["t"] : [])
            #expect(report.exchanged == [Self.name("t")] && report.suspect.isEmpty && report.installed.isEmpty)
            try harness.settle()
        }
        writer.join()
        try harness.settle()
        let new = try harness.connectNew()
        #expect(try new.query("SELECT v = -7 FROM public.t WHERE id = 400").flag(0, 0), "it was copied anew")
        try new.execute("\(stranger) 400 WHERE id = 400")
        try MirrorRegressionTests.expectEqual(harness)
        // What was off before does not count as whole because the triggers are others now.
        harness.stop()
        try harness.connectOld().execute("""
            BEGIN; ALTER TABLE public.t DISABLE TRIGGER godwit_capture; UPDATE public.t SET v = 0 WHERE id < 9;
            ALTER TABLE public.t ENABLE TRIGGER godwit_capture; COMMIT
            """)
        let report = try Self.prepare(harness, bulk: ["t"])
        #expect(report.suspect == [Self.name("t")] && report.exchanged.isEmpty)
        harness.start(MirrorOptions(pollMillis: 5))
        try MirrorSchemaChangeTests.expectEqual(harness)
    }

    @Test func `what cannot be captured by statement is named before anything is touched`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (base);
            CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
            CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE fine (id int PRIMARY KEY);
            """)
        let old = try harness.connectOld(), new = try harness.connectNew()
        let bulk = Set(["base", "child", "p", "p1", "fine", "nothing"].map { Self.name($0) })
        let found = try Preflight.check(old: old, new: new, bulk: bulk).blocking.map(\.description)
        #expect(found.count == 4, "\(found)")
        for words in [
            "OLD public.child: is named in mirror.bulk, and it inherits from public.base",
            "OLD public.p: is named in mirror.bulk, and it is partitioned",
            "OLD public.p1: is named in mirror.bulk, and it is a partition",
            "OLD public.nothing: is named in mirror.bulk and does not exist",
        ] {
            #expect(found.contains { $0.hasPrefix(words) }, "\(words) in \(found)")
        }
        // DDL on both sides may make it: the others are as wrong as before.
        let coming = try Preflight.check(old: old, new: new, bulk: bulk, bulkMayCome: true)
        #expect(coming.blocking.count == 3, "\(coming.blocking)")
        #expect(coming.findings.contains { $0.weight == .note && $0.place == "OLD public.nothing" })
    }

    @Test func `where NEW's table is partitioned it is captured row by row there`() throws {
        let harness = try MirrorHarness(schema: "")
        try harness.connectOld().execute("CREATE TABLE public.t (id int PRIMARY KEY, v int)")
        try harness.connectNew().execute("""
            CREATE TABLE public.t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
            CREATE TABLE public.t1 PARTITION OF public.t DEFAULT
            """)
        var lines: [String] = []
        try Self.prepare(harness, bulk: ["t"]) { lines.append($0) }
        #expect(lines.contains("captures NEW's public.t row by row: it is partitioned"), "\(lines)")
        #expect(try Self.triggers(try harness.connectOld()) == Self.byStatement)
        #expect(try Self.triggers(try harness.connectNew()) == Self.byRow)
        #expect(try Self.prepare(harness, bulk: ["t"]).installed == [])
    }

    @Test func `a mapped table is captured by statement under either name`() throws {
        let harness = try MappingTests.harness()
        let old = try harness.connectOld(), new = try harness.connectNew()
        let mappings = TableMappings([MappingTests.orders])
        let found = try Preflight.check(old: old, new: new, mappings: mappings, bulk: [Self.name("orders")])
        #expect(found.blocking == [])
        _ = try CaptureInstaller().install(
            old: old, new: new, tables: found.tables, mappings: mappings, bulk: [Self.name("orders")])
        #expect(try Self.triggers(old, "orders") == Self.byStatement)
        #expect(try Self.triggers(new, "purchases", schema: "shop") == Self.byStatement)
        harness.start(MappingTests.options([MappingTests.orders]))
        try harness.waitUntilReadable()
        let writer = try harness.writer()
        try writer.execute("""
            UPDATE orders SET is_test = NOT is_test WHERE id % 3 = 0; UPDATE orders SET cents = cents + 1;
            UPDATE orders SET id = id + 6000 WHERE id < 50; DELETE FROM orders WHERE id % 7 = 0
            """)
        try MappingTests.expectEqual(harness, "all statements")
    }

    // MARK: whole, or noticed

    @Test func `nothing makes such a table a child or a partition, and its own children do no harm`() throws {
        let harness = try Self.mirroring("""
            \(Self.schema) CREATE TABLE kid (extra int, PRIMARY KEY (id)) INHERITS (t);
            """, fill: "INSERT INTO t SELECT g, g FROM generate_series(1, 50) g; INSERT INTO kid SELECT g, g, g FROM generate_series(1, 50) g",
            bulk: ["t", "w"])
        let old = try harness.writer()
        for (make, words) in [
            ("CREATE TABLE p (id int, v int); ALTER TABLE t INHERIT p", "from becoming an inheritance child"),
            ("CREATE TABLE p (id int, v int) PARTITION BY RANGE (id); ALTER TABLE p ATTACH PARTITION w DEFAULT", "from becoming a partition"),
        ] {
            let failure = #expect(throws: PostgresFailure.self) { try old.execute(make) }
            #expect(failure?.message.contains(words) == true, "\(failure?.message ?? "")")
        }
        try old.execute("UPDATE t SET v = -v WHERE id < 20; DELETE FROM t WHERE id > 40; UPDATE t SET id = id + 100")
        try MirrorRegressionTests.expectEqual(harness)
        try old.execute("INSERT INTO kid VALUES (900, 1, 1); UPDATE ONLY t SET v = 5; TRUNCATE t")
        try MirrorRegressionTests.expectEqual(harness)
    }

    static let names = byStatement.map { String($0.prefix { $0 != " " }) }

    @Test(arguments: names)
    func `a trigger that is gone stops the mirror, and prepare makes all anew`(trigger: String) throws {
        let harness = try Self.mirroring()
        try harness.connectOld().execute("DROP TRIGGER \(trigger) ON public.t; UPDATE public.t SET v = 0")
        try harness.wait(for: "the stop") { $0.state == .stopped }
        #expect(harness.horizon.report.reason.contains("public.t: the capture triggers are gone or disabled"))
        harness.stop()
        #expect(try Self.prepare(harness, bulk: ["t"]).suspect == [Self.name("t")])
        harness.start()
        try MirrorSchemaChangeTests.expectEqual(harness)
    }

    @Test(arguments: names.filter { $0 != "godwit_capture_alone" }, ["DISABLE", "ENABLE", "ENABLE REPLICA", "ENABLE ALWAYS"])
    func `a trigger that is enabled otherwise stops the mirror`(trigger: String, state: String) throws {
        let isRight = state == (trigger == "godwit_capture" ? "ENABLE REPLICA" : "ENABLE ALWAYS")
        let harness = try Self.mirroring()
        try harness.connectOld().execute("ALTER TABLE public.t \(state) TRIGGER \(trigger); UPDATE public.t SET v = 0")
        if isRight {
            try MirrorRegressionTests.expectEqual(harness)
        } else {
            try harness.wait(for: "the stop") { $0.state == .stopped }
            #expect(harness.horizon.report.reason.contains("public.t: the capture triggers are gone or disabled"))
        }
        harness.stop()
        #expect(try Self.prepare(harness, bulk: ["t"]).suspect == (isRight ? [] : [Self.name("t")]))
        #expect(try Self.triggers(try harness.connectOld()) == Self.byStatement)
    }

    @Test func `triggers that were off for a moment, and a table that had a parent, come anew`() throws {
        let harness = try Self.mirroring()
        let states = Self.byStatement.map { line in
            let state = ["R": "ENABLE REPLICA", "D": "DISABLE", "A": "ENABLE ALWAYS"][String(line.suffix(1))] ?? ""
            return "ALTER TABLE public.t \(state) TRIGGER \(line.dropLast(2));"
        }.joined(separator: " ")
        let definition = try harness.connectOld().query("""
            SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'godwit_capture_alone'
               AND tgrelid = 'public.t'::regclass
            """)[0, 0] ?? ""
        for change in [
            "ALTER TABLE public.t DISABLE TRIGGER ALL; UPDATE public.t SET v = v + 1000 WHERE id < 100;",
            "ALTER TABLE public.t DISABLE TRIGGER godwit_capture_update; UPDATE public.t SET v = v + 1000 WHERE id < 9;",
            """
            DROP TRIGGER godwit_capture_alone ON public.t; CREATE TABLE public.p (id int, v int);
            ALTER TABLE public.t INHERIT public.p; UPDATE public.p SET v = -1 WHERE id < 9;
            ALTER TABLE public.t NO INHERIT public.p; DROP TABLE public.p; \(definition);
            """,
        ] {
            try harness.connectOld().execute("BEGIN; \(change) \(states) COMMIT")
            try MirrorSchemaChangeTests.expectEqual(harness)
            #expect(try Self.triggers(try harness.connectOld()) == Self.byStatement)
        }
    }

    // MARK: rows

    /// One statement of a writer, whose rows have numbers with its remainder; TT is the tables' prefix.
    private static func statement(_ random: inout SeededGenerator, _ writer: Int) -> String {
        func id() -> Int { Int(random.next() % 400) * 2 + writer }
        let some = "id % 2 = \(writer) AND id / 2 % 7 = \(random.next() % 7)"
        let range = "generate_series(\(id()), \(id() + 200), 2) g"
        switch random.next() % 16 {
        case 0: return "UPDATE TT SET v = v + 1 WHERE \(some)"
        case 1: return "DELETE FROM TT WHERE id BETWEEN \(id()) AND \(id()) AND \(some)"
        case 2: return "UPDATE TT SET id = id + 6000 WHERE \(some) AND id < 900 "
            + "AND NOT EXISTS (SELECT FROM TT o WHERE o.id = TT.id + 6000)"
        case 3: return "UPDATE TT SET id = id - 6000 WHERE id >= 6000 AND \(some) "
            + "AND NOT EXISTS (SELECT FROM TT o WHERE o.id = TT.id - 6000)"
        case 4: return "INSERT INTO TT SELECT g, 0 FROM \(range) ON CONFLICT DO NOTHING"
        case 5: return "INSERT INTO TT SELECT g, 1 FROM \(range) ON CONFLICT (id) DO UPDATE SET v = TT.v + 7 WHERE TT.v % 3 > 0"
        case 6: return """
            MERGE INTO TT USING \(range) ON TT.id = g WHEN MATCHED AND g % 4 < 2 THEN DELETE
                WHEN MATCHED THEN UPDATE SET v = -1 WHEN NOT MATCHED THEN INSERT VALUES (g, 2)
            """
        case 7: return """
            WITH gone AS (DELETE FROM TT WHERE \(some) AND id < 300 RETURNING id, v)
                INSERT INTO TT_log SELECT id + \(random.next() % 1_000_000) * 1000, v FROM gone ON CONFLICT DO NOTHING
            """
        case 8: return "SAVEPOINT s; UPDATE TT SET v = 77 WHERE \(some); DELETE FROM TT WHERE id % 2 = \(writer); ROLLBACK TO s"
        case 9: return "SAVEPOINT s; UPDATE TT SET v = 78 WHERE \(some); RELEASE s; UPDATE TT SET v = 79 WHERE id = \(id())"
        case 10: return "INSERT INTO TT_child SELECT id, \(random.next() % 50) FROM TT WHERE \(some) ON CONFLICT DO NOTHING"
        case 11: return "SET LOCAL session_replication_role = replica; UPDATE TT SET v = 5 WHERE \(some); SET LOCAL session_replication_role = origin"
        case 12: return "UPDATE TT_log SET id = -id WHERE id > 0 AND id % 2 = \(writer) "
            + "AND NOT EXISTS (SELECT FROM TT_log o WHERE o.id = -TT_log.id)"
        case 13: return "DELETE FROM TT WHERE id = \(id()); INSERT INTO TT VALUES (\(id()), 9) ON CONFLICT DO NOTHING"
        case 14: return "UPDATE TT SET v = 0 WHERE false; DELETE FROM TT_child WHERE parent % 2 = \(writer) AND n % 3 = 0"
        default: return "UPDATE TT_child SET n = n + 100 WHERE parent % 2 = \(writer) AND n < 10 "
            + "AND NOT EXISTS (SELECT FROM TT_child o WHERE o.parent = TT_child.parent AND o.n = TT_child.n + 100)"
        }
    }

    private final class Writer {
        let session: Connection
        init(_ session: consuming Connection) { self.session = session }
    }

    @Test func `at random, beside tables that are captured by row`() throws {
        let given = ProcessInfo.processInfo.environment["GODWIT_TEST_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("bulk tables: seed \(seed) (GODWIT_TEST_SEED)")
        var random = SeededGenerator(seed: seed)
        let tables = """
            CREATE TABLE TT (id int PRIMARY KEY, v int); CREATE TABLE TT_log (id bigint PRIMARY KEY, v int);
            CREATE TABLE TT_child (parent int REFERENCES TT ON DELETE CASCADE ON UPDATE CASCADE, n int,
                PRIMARY KEY (parent, n));
            """
        let prefixes = ["bulky", "single"]
        let harness = try MirrorHarness(schema: prefixes.map { tables.replacing("TT", with: $0) }.joined())
        try Self.prepare(harness, bulk: ["bulky", "bulky_log", "bulky_child"])
        #expect(try Self.triggers(try harness.connectNew(), "bulky_child") == Self.byStatement)
        var options = MirrorOptions(pollMillis: 5, backfillRows: 100)
        options.smallBatchKeysMax = 60
        harness.start(options)
        let writers = [Writer(try harness.writer()), Writer(try harness.writer())]
        let new = try harness.connectNew()
        for round in 0..<15 {
            var isOpen = [false, false]
            for _ in 0..<40 {
                let writer = Int(random.next() % 2)
                if !isOpen[writer] { try writers[writer].session.execute("BEGIN") }
                isOpen[writer] = true
                let statement = Self.statement(&random, writer)
                for prefix in prefixes { try writers[writer].session.execute(statement.replacing("TT", with: prefix)) }
                guard random.next() % 3 == 0 else { continue }
                try writers[writer].session.execute(random.next() % 5 == 0 ? "ROLLBACK" : "COMMIT")
                isOpen[writer] = false
            }
            for writer in 0..<2 where isOpen[writer] { try writers[writer].session.execute("COMMIT") }
            if random.next() % 5 == 0 {
                harness.stop()
                harness.start(options)
            }
            if random.next() % 6 == 0 { try writers[0].session.execute("TRUNCATE bulky, bulky_child; TRUNCATE single, single_child") }
            try harness.waitUntilReadable()
            try MirrorRegressionTests.expectEqual(harness, "seed \(seed), round \(round)")
            let rows = try MirrorHarness.contents(new)
            for table in ["", "_log", "_child"] {
                #expect(rows["public.bulky\(table)"] == rows["public.single\(table)"], "seed \(seed), round \(round), \(table)")
            }
        }
    }

    @Test func `hostile writers on tables that are captured by statement leave both sides equal`() throws {
        let given = ProcessInfo.processInfo.environment["GODWIT_TEST_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("bulk tables, hostile writers: seed \(seed) (GODWIT_TEST_SEED)")
        let harness = try MirrorHarness(schema: HostileWriter.schema)
        try harness.connectOld().execute("SET search_path = public; \(HostileWriter.fill)")
        let tables = try CatalogReader.tables(try harness.connectOld()).map(\.name.name)
        try Self.prepare(harness, bulk: tables)
        harness.start(MirrorOptions(pollMillis: 5, backfillRows: 40))
        for round in 0..<2 {
            let writers = HostileWriter.start(
                seed: seed &+ UInt64(round), transactions: 100, harness.pair.oldConninfo)
            for writer in writers { writer.join() }
            try harness.waitUntilReadable()
            try harness.settle()
            #expect(try harness.differences() == [], "seed \(seed), round \(round)")
        }
    }

    @Test func `the apply worker of a subscription, which fires row triggers only, is mirrored`() throws {
        var options = PostgresCluster.Options()
        options.settings["wal_level"] = "logical"
        let publisher = try PostgresCluster(.new18, options)
        let harness = try Self.mirroring(fill: "")
        let database = harness.pair.database
        try publisher.createDatabase(database)
        try publisher.psql("\(Self.schema) CREATE PUBLICATION p FOR TABLE t; INSERT INTO t SELECT g, g FROM generate_series(1, 50) g",
            database: database)
        let conninfo = publisher.conninfo(database: database, user: PostgresCluster.superuser)
        try harness.connectOld().execute("CREATE SUBSCRIPTION \(database) CONNECTION '\(conninfo)' PUBLICATION p")
        defer { _ = try? harness.connectOld().execute("DROP SUBSCRIPTION \(database)") }
        func awaitApplied() throws {
            let wanted = try publisher.psql("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t", database: database)
            try harness.wait(for: "the subscription") { _ in
                try harness.connectOld().query("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM public.t t")[0, 0] == wanted
            }
        }
        try awaitApplied()
        try MirrorRegressionTests.expectEqual(harness, "the first copy")
        try publisher.psql("""
            UPDATE t SET v = 0 WHERE id < 9; DELETE FROM t WHERE id > 40; UPDATE t SET id = id + 100 WHERE id < 5;
            INSERT INTO t SELECT g, 1 FROM generate_series(200, 260) g
            """, database: database)
        try awaitApplied()
        try MirrorRegressionTests.expectEqual(harness, "what is applied")
    }
}
