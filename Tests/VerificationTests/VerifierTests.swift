import Glibc
import LibPQ
import Logging
import Mirroring
import Primitives
import Synchronization
import TestSupport
import Testing

@testable import Verification

@Suite(.serialized) struct VerifierTests {
    static let schema = """
        CREATE TABLE numbers (id int PRIMARY KEY, v text, f float8, at timestamptz DEFAULT now());
        CREATE TABLE words (w text, n int, v text, PRIMARY KEY (w, n));
        """
    static let fill = """
        INSERT INTO public.numbers SELECT g, 'v' || g, g / 3.0 FROM generate_series(1, 12000) g;
        INSERT INTO public.words SELECT 'w' || g % 100, g, NULL FROM generate_series(1, 5000) g;
        """

    final class Side {
        let pair: MirroredPair
        let horizon = Horizon()
        let mirror: Mirror

        init() throws {
            pair = try MirroredPair(schema: VerifierTests.schema)
            mirror = Mirror(
                database: pair.database, oldConninfo: pair.oldConninfo, newConninfo: pair.newConninfo,
                settings: MirrorOptions(pollMillis: 5), horizon: horizon, logger: Logger(label: "test"))
        }

        deinit { mirror.stop() }

        func connect(_ conninfo: String) throws -> Connection {
            try Connection.open(try ConnectionString(parsing: conninfo), purpose: "test")
        }

        func prepare() throws {
            let old = try connect(pair.oldConninfo), new = try connect(pair.newConninfo)
            try old.execute(VerifierTests.fill)
            let result = try Preflight.check(old: old, new: new)
            _ = try CaptureInstaller().install(old: old, new: new, tables: result.tables)
        }

        func waitUntilReadable() throws {
            waitUntil("readable") { horizon.readable }
        }

        func verifier() throws -> Verifier {
            var options = Verifier.Options()
            options.rangeRows = 3000
            return Verifier(
                old: try ConnectionString(parsing: pair.oldConninfo),
                new: try ConnectionString(parsing: pair.newConninfo), options: options)
        }
    }

    @Test func `a changed, a missing and an extra row are found by key, repaired and gone`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        let new = try side.connect(side.pair.newConninfo)
        let verifier = try side.verifier()
        let before = try verifier.run()
        #expect(before.outcome == .equal)
        #expect(before.tables.map(\.rows) == [12000, 5000])
        // Four full ranges of 3000 in the key's own order, and the open end; a text key is one range.
        #expect(before.tables.map(\.ranges) == [5, 1])
        // In replica role, or the mirror might notice and mend it before we look.
        try new.execute("""
            SET session_replication_role = replica; UPDATE public.numbers SET f = f + 1e-9 WHERE id = 7001;
            DELETE FROM public.numbers WHERE id = 12000;
            INSERT INTO public.numbers VALUES (99999, 'extra', NULL, NULL);
            UPDATE public.words SET v = '' WHERE n = 77;
            """)
        let report = try verifier.run()
        #expect(report.outcome == .different)
        let found = report.tables[0].keys.sorted { $0.key[0] < $1.key[0] }
        #expect(found.map(\.key) == [["12000"], ["7001"], ["99999"]])
        #expect(found.map(\.difference) == [.onlyOnOld, .changed, .onlyOnNew])
        #expect(found[0].old?.hasPrefix("(12000,v12000,4000,") ?? false)
        #expect(found[0].new == nil && found[2].old == nil && found[2].new == "(99999,extra,,)")
        #expect(report.tables[1].keys == [VerifyReport.Key(
            key: ["w77", "77"], difference: .changed, old: "(w77,77,)", new: "(w77,77,\"\")")])
        #expect(try verifier.repair(report) == 4)
        #expect(try verifier.run().outcome == .equal)
    }

    @Test func `a comparison that is told to end does so, however long it would take`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        let end = Mailbox<Bool>()
        var options = Verifier.Options()
        options.rangeRows = 1000
        // An hour.
        options.rowsPerSecond = 3
        options.interrupt = end.descriptor
        let verifier = Verifier(
            old: try ConnectionString(parsing: side.pair.oldConninfo),
            new: try ConnectionString(parsing: side.pair.newConninfo), options: options
        ) { line in
            // Both sides are at one moment.
            if line.contains("held by the running mirror") { end.post(true) }
        }
        #expect(throws: VerifyFailure.self) { try verifier.run() }
    }

    @Test func `under write load both sides are equal, every time`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        let isOver = Flag()
        let conninfo = side.pair.oldConninfo
        let writers = (0..<2).map { number in
            OwnThread(name: "writer") {
                do {
                    let connection = try Connection.open(try ConnectionString(parsing: conninfo), purpose: "writer")
                    var random = SeededGenerator(seed: UInt64(number))
                    while !isOver.isSet {
                        let id = random.next() % 12000
                        try connection.execute("""
                            UPDATE public.numbers SET v = v || '.', f = f + 1 WHERE id = \(id);
                            UPDATE public.words SET v = '\(id)' WHERE n = \(id % 5000);
                            """)
                    }
                } catch {
                    Issue.record("\(error)")
                }
            }
        }
        defer {
            isOver.set()
            for writer in writers { writer.join() }
        }
        let verifier = try side.verifier()
        for _ in 0..<5 {
            let report = try verifier.run()
            #expect(report.outcome == .equal, "\(report)")
            guard case .batch = report.pairing else {
                Issue.record("not paired at a batch: \(report.pairing)")
                continue
            }
        }
    }

    @Test func `without a mirror plain snapshots are compared, and waiting keys leave a difference open`() throws {
        let side = try Side()
        let old = try side.connect(side.pair.oldConninfo)
        #expect(try side.verifier().run().pairing == .unprepared)
        try side.prepare()
        #expect(throws: VerifyFailure.self) { try side.verifier().run() }
        side.mirror.start()
        try side.waitUntilReadable()
        side.mirror.stop()
        let quiet = try side.verifier().run()
        #expect(quiet.pairing == .quiet(keysWaiting: 0))
        #expect(quiet.outcome == .equal)
        try old.execute("UPDATE public.numbers SET v = 'late' WHERE id = 5")
        let behind = try side.verifier().run()
        #expect(behind.pairing == .quiet(keysWaiting: 1))
        #expect(behind.outcome == .couldNotTell)
        // As between a switch and the first sign of the mirror back.
        try side.connect(side.pair.newConninfo).execute("DELETE FROM godwit.progress")
        #expect(try side.verifier().run().outcome == .couldNotTell)
    }

    /// Rows are hashed column by column: what could look alike so, and does not in the row's own text.
    @Test(arguments: [
        ("UPDATE v SET a = b, b = a WHERE id = 10", ["10"]),
        ("""
            UPDATE v SET t = (SELECT w.t FROM v w WHERE w.id = 21 - v.id) WHERE id IN (10, 11)
            """, ["10", "11"]),
        ("UPDATE v SET a = (SELECT w.a FROM v w WHERE w.id = 21 - v.id) WHERE id IN (10, 11)", ["10", "11"]),
        ("UPDATE v SET t = NULL WHERE id = 5", ["5"]), ("UPDATE v SET b = 0 WHERE id = 6", ["6"]),
        ("UPDATE v SET n = 1.00 WHERE id = 7", ["7"]), ("UPDATE v SET f = '-0' WHERE id = 8", ["8"]),
        ("UPDATE v SET p = NULL WHERE id = 9", ["9"]), ("UPDATE v SET l = '{1,NULL}' WHERE id = 12", ["12"]),
        ("UPDATE v SET c = 'x    ' WHERE id = 13", ["13"]),
        ("ALTER TABLE v ALTER a TYPE numeric; UPDATE v SET a = a + 0.4 WHERE id = 14", ["14"]),
        ("ALTER TABLE v ALTER a TYPE bigint; UPDATE v SET a = a + 4294967296 WHERE id = 15", ["15"]),
        ("ALTER TABLE v ALTER a TYPE bigint; UPDATE v SET a = a << 32 WHERE id = 33", ["33"]),
        ("ALTER TABLE v ALTER a TYPE bigint; UPDATE v SET a = a - 4294967296 WHERE id = 34", ["34"]),
        ("ALTER TABLE v ALTER a TYPE bigint, ALTER b TYPE smallint", []),
        ("UPDATE v SET c = d, d = c WHERE id = 16", ["16"]), ("UPDATE v SET c = c || ' ' WHERE id = 17", ["17"]),
        ("UPDATE v SET h = NULL WHERE id = 18", ["18"]), ("UPDATE v SET h = 'A' WHERE id = 19", ["19"]),
        ("UPDATE v SET u = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12' WHERE id = 20", ["20"]),
        ("UPDATE v SET w = w + interval '1 microsecond' WHERE id = 21", ["21"]),
        ("UPDATE v SET z = z - interval '1 microsecond' WHERE id = 22", ["22"]),
        ("UPDATE v SET w = 'infinity', z = '-infinity' WHERE id = 23", ["23"]),
        ("UPDATE v SET w = z AT TIME ZONE 'UTC', z = w AT TIME ZONE 'UTC' WHERE id = 24", ["24"]),
        ("UPDATE v SET o = NOT o WHERE id = 25", ["25"]), ("UPDATE v SET o = NULL WHERE id = 26", ["26"]),
        ("UPDATE v SET k = k || ' ' WHERE id = 27", ["27"]),
        ("UPDATE v SET e = '{a,c}' WHERE id = 28", ["28"]), ("UPDATE v SET e = '{{a},{b}}' WHERE id = 29", ["29"]),
        ("UPDATE v SET g = '{x,NULL}' WHERE id = 30", ["30"]), ("UPDATE v SET y = 'z' WHERE id = 31", ["31"]),
        ("UPDATE v SET q = q || q WHERE id = 32", ["32"]),
        ("ALTER TABLE v ALTER k TYPE text, ALTER h TYPE char(5)", (1...40).map { "\($0)" }.sorted()),
        ("ALTER TABLE v ALTER k TYPE text, ALTER t TYPE varchar(20)", []),
        ("ALTER TABLE v ALTER w TYPE timestamptz USING w AT TIME ZONE 'UTC'", (1...40).map { "\($0)" }.sorted()),
    ])
    func `what differs in any column of any type is found`(change: String, keys: [String]) throws {
        let pair = try MirroredPair(schema: """
            CREATE TYPE twin AS (a int, b int); CREATE DOMAIN word AS varchar(5);
            CREATE TABLE v (id int PRIMARY KEY, a int, b int, n numeric, f float8, c bpchar, t text, p twin, l int[],
                d bpchar, h char(3), u uuid, w timestamp, z timestamptz, o boolean, k varchar(10), e varchar(10)[],
                g char(3)[], y word, q timestamp(3)[]);
            INSERT INTO v SELECT g, g, g * 2, 1.0, 0, 'x', 't' || g, ROW(NULL, NULL)::twin, '{1,2}', 'x ', 'a',
                    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-11-29 12:00:00', '2026-11-29 13:00:00Z', true, 'k',
                    '{a,b}', '{x}', 'y', '{2026-11-29,2026-11-30}'
                FROM generate_series(1, 40) g;
            UPDATE v SET t = '' WHERE id = 5; UPDATE v SET b = NULL WHERE id = 6
            """)
        let verifier = Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo))
        #expect(try verifier.run().outcome == .equal)
        try pair.new.psql(change, database: pair.database)
        let report = try verifier.run()
        #expect(report.tables[0].keys.map { $0.key[0] }.sorted() == keys)
        #expect(report.tables[0].rows == 40)
    }

    @Test func `rows that a NEW without keys has twice, or that have no key, are not equal`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' FROM generate_series(1, 40) g
            """)
        let verifier = Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo))
        try pair.new.psql("ALTER TABLE t DROP CONSTRAINT t_pkey", database: pair.database)
        #expect(try verifier.run().outcome == .equal)
        try pair.new.psql("INSERT INTO t SELECT * FROM t WHERE id IN (7, 8)", database: pair.database)
        let report = try verifier.run()
        #expect(report.outcome == .different)
        #expect(report.tables[0].keys.map { $0.key[0] }.sorted() == ["7", "8"])
        try pair.new.psql("ALTER TABLE t ALTER id DROP NOT NULL", database: pair.database)
        #expect(try verifier.run().outcome == .couldNotTell)
    }

    @Test func `keys that differ in nothing but their Unicode form are two`() throws {
        let one = #"U&'caf\00E9'"#, other = #"U&'cafe\0301'"#
        let pair = try MirroredPair(schema: """
            CREATE TABLE tags (name text PRIMARY KEY, n int); INSERT INTO tags VALUES (\(one), 1)
            """)
        let verifier = Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo))
        #expect(try verifier.run().outcome == .equal)
        try pair.new.psql("INSERT INTO tags VALUES (\(other), 1)", database: pair.database)
        let report = try verifier.run()
        #expect(report.outcome == .different)
        #expect(report.tables[0].keys.map(\.difference) == [.onlyOnNew])
        try pair.old.psql("UPDATE tags SET name = \(other)", database: pair.database)
        #expect(try verifier.run().tables[0].keys.map(\.difference) == [.onlyOnNew])
    }

    /// The ranges' ends are NEW's as long as it has any.
    @Test(arguments: [("id > 12", 28), ("id BETWEEN 6 AND 30", 25), ("id <= 40", 40), ("id > 41", 0)])
    func `ranges that one side lacks are compared all the same`(gone: String, missing: Int) throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 40)
            """)
        try pair.new.psql("DELETE FROM t WHERE \(gone)", database: pair.database)
        try pair.new.psql("INSERT INTO t SELECT generate_series(101, 117)", database: pair.database)
        var options = Verifier.Options()
        options.rangeRows = 4
        let report = try Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo),
            options: options
        ).run()
        #expect(report.tables[0].keys.filter { $0.difference == .onlyOnOld }.count == missing)
        #expect(report.tables[0].keys.filter { $0.difference == .onlyOnNew }.count == 17)
    }

    @Test func `a TRUNCATE waits for a pair, so that its readers miss no row`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        let tables = [TableName(schema: "public", name: "numbers"), TableName(schema: "public", name: "words")]
        let old = try side.connect(side.pair.oldConninfo)
        do {
            let pair = try PairedSnapshots.take(
                old: try ConnectionString(parsing: side.pair.oldConninfo),
                new: try ConnectionString(parsing: side.pair.newConninfo), tables: tables)
            let error = #expect(throws: PostgresFailure.self) {
                try old.execute("SET lock_timeout = '50ms'; TRUNCATE public.numbers")
            }
            #expect(error?.isLockConflict == true)
            let applied = side.horizon.applied
            waitUntil("the mirror to go on while the pair lives") { side.horizon.applied > applied + 3 }
            _ = consume pair
        }
        try old.execute("SET lock_timeout = 0; TRUNCATE public.numbers")
        #expect(try side.verifier().run().outcome == .equal)
    }

    /// A statement that waits for a table of OLD's.
    final class Waiter: Sendable {
        private let conninfo: String
        private let statement: String
        private let thread = Mutex<OwnThread?>(nil)
        private let isDone = Flag()

        init(_ conninfo: String, _ statement: String) {
            self.conninfo = conninfo
            self.statement = statement
        }

        private func connect() throws -> Connection {
            try Connection.open(try ConnectionString(parsing: conninfo), purpose: "waiter")
        }

        private func run() {
            do {
                try connect().execute(statement)
                isDone.set()
            } catch {
                Issue.record("\(error)")
            }
        }

        /// Returns when it waits; once only.
        func begin() {
            let isFirst = thread.withLock { thread in
                defer { thread = thread ?? OwnThread(name: "waiter") { self.run() } }
                return thread == nil
            }
            if !isFirst { return }
            do {
                let beside = try connect()
                try waitUntil("\(statement) to wait") {
                    try beside.query("""
                        SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
                            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                        """).flag(0, 0)
                }
            } catch {
                Issue.record("\(error)")
            }
        }

        func awaitEnd() { waitUntil("the end of \(statement)") { isDone.isSet } }
        func join() { thread.withLock { $0 }?.join() }
    }

    /// - Returns: the report, and how many pairs of snapshots it took.
    func runBeside(
        _ waiter: Waiter, old: String, new: String, pairing: String
    ) throws -> (report: VerifyReport, pairs: Int) {
        var options = Verifier.Options()
        (options.readers, options.rangeRows, options.lookMillis) = (1, 100, 0)
        let pairs = Mutex(0)
        let verifier = Verifier(
            old: try ConnectionString(parsing: old), new: try ConnectionString(parsing: new), options: options
        ) { line in
            if line.contains("rows compared") { waiter.begin() }
            guard line.hasPrefix(pairing) else { return }
            let count = pairs.withLock { count in
                count += 1
                return count
            }
            if count == 2 { waiter.awaitEnd() }
        }
        let report = try verifier.run()
        waiter.join()
        return (report, pairs.withLock { $0 })
    }

    @Test func `a TRUNCATE that waits for a comparison gets its table, and the comparison goes on behind it`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        // The larger table comes first.
        try side.connect(side.pair.oldConninfo).execute("ANALYZE public.numbers, public.words")
        let (report, pairs) = try runBeside(
            Waiter(side.pair.oldConninfo, "TRUNCATE public.words"), old: side.pair.oldConninfo,
            new: side.pair.newConninfo, pairing: "both sides at")
        #expect(pairs == 2 && report.outcome == .equal)
        #expect(report.tables.map(\.rows) == [12000, 0] && report.tables[0].ranges == 121)
    }

    @Test(arguments: [("ALTER TABLE public.a DROP COLUMN w", [2000, 10]), ("DROP TABLE public.b", [2000])])
    func `a comparison goes on with the tables as whoever has waited leaves them`(ddl: String, rows: [Int64]) throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE a (id int PRIMARY KEY, v int, w int); CREATE TABLE b (id int PRIMARY KEY);
            INSERT INTO a SELECT g, g, g FROM generate_series(1, 2000) g; INSERT INTO b SELECT generate_series(1, 10);
            ANALYZE
            """)
        let (report, pairs) = try runBeside(
            Waiter(pair.oldConninfo, ddl), old: pair.oldConninfo, new: pair.newConninfo, pairing: "not prepared")
        #expect(pairs == 2 && report.outcome == .equal && report.tables.map(\.rows) == rows)
    }

    @Test func `a comparison that meets a switch does not hold rows of before it against rows of now`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 2000); ANALYZE a;
            CREATE SCHEMA godwit; CREATE TABLE godwit.authority (epoch bigint); INSERT INTO godwit.authority VALUES (0)
            """)
        // NEW is ahead from then on, as it is behind a cutover.
        let waiter = Waiter(
            pair.oldConninfo, "BEGIN; LOCK TABLE public.a; UPDATE godwit.authority SET epoch = -1; COMMIT")
        defer { waiter.join() }
        let error = #expect(throws: VerifyFailure.self) {
            try runBeside(waiter, old: pair.oldConninfo, new: pair.newConninfo, pairing: "not prepared")
        }
        guard case .writesMoved? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        // What was found before a switch is not marked behind it.
        let verifier = Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo))
        #expect(throws: VerifyFailure.self) { try verifier.repair(VerifyReport(pairing: .unprepared, tables: [])) }
        #expect(try verifier.run().authority == .new)
    }

    @Test func `whoever waits for an index is let in, for writers wait behind him`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 2000); ANALYZE
            """)
        let (report, pairs) = try runBeside(
            Waiter(pair.oldConninfo, "REINDEX INDEX public.a_pkey"), old: pair.oldConninfo, new: pair.newConninfo,
            pairing: "not prepared")
        #expect(pairs == 2 && report.outcome == .equal && report.tables.map(\.rows) == [2000])
    }

    @Test func `whoever waits for a table of NEW's is let in as well`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 2000); ANALYZE
            """)
        let (report, pairs) = try runBeside(
            Waiter(pair.newConninfo, "BEGIN; LOCK TABLE public.a; COMMIT"), old: pair.oldConninfo,
            new: pair.newConninfo, pairing: "not prepared")
        #expect(pairs == 2 && report.outcome == .equal && report.tables.map(\.rows) == [2000])
    }

    @Test func `a comparison that waits for a table of NEW's keeps nobody from OLD's`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
            INSERT INTO a SELECT generate_series(1, 500); ANALYZE
            """)
        let (oldConninfo, newConninfo) = (pair.oldConninfo, pair.newConninfo)
        @Sendable func connectNew() throws -> Connection {
            try Connection.open(try ConnectionString(parsing: newConninfo), purpose: "test")
        }
        let taking = OwnThread(name: "vacuum") {
            // It is ended below.
            _ = try? connectNew().execute("BEGIN; LOCK TABLE public.b; SELECT pg_sleep(60)")
        }
        let taken = "relation = 'public.b'::regclass AND granted AND mode = 'AccessExclusiveLock'"
        let new = try connectNew()
        try waitUntil("the table to be taken") {
            try new.query("SELECT EXISTS (SELECT FROM pg_locks WHERE \(taken))").flag(0, 0)
        }
        // It begins when the larger table has been compared, and the other one of NEW's is waited for.
        let waiter = Waiter(oldConninfo, "BEGIN; LOCK TABLE public.a; COMMIT")
        let pairs = Mutex(0)
        var options = Verifier.Options()
        (options.readers, options.lookMillis) = (1, 0)
        let verifier = Verifier(
            old: try ConnectionString(parsing: oldConninfo), new: try ConnectionString(parsing: newConninfo),
            options: options
        ) { line in
            if line.contains("done") { waiter.begin() }
            guard line.hasPrefix("not prepared") else { return }
            let count = pairs.withLock { count in
                count += 1
                return count
            }
            guard count == 2 else { return }
            waiter.awaitEnd()
            _ = try? connectNew().execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE \(taken)")
        }
        let report = try verifier.run()
        waiter.join()
        taking.join()
        #expect(pairs.withLock { $0 } == 2 && report.outcome == .equal && report.tables.map(\.rows) == [500, 0])
    }

    @Test func `a comparison that waits for a table keeps the others from nobody`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        side.mirror.stop()
        let old = try side.connect(side.pair.oldConninfo), beside = try side.connect(side.pair.oldConninfo)
        let conninfo = side.pair.oldConninfo, newConninfo = side.pair.newConninfo
        try old.execute("BEGIN; TRUNCATE public.words")
        let taking = OwnThread(name: "verify") {
            do {
                let report = try Verifier(
                    old: try ConnectionString(parsing: conninfo), new: try ConnectionString(parsing: newConninfo)
                ).run()
                #expect(report.outcome == .equal)
            } catch {
                Issue.record("\(error)")
            }
        }
        try waitUntil("it to meet the table") {
            try beside.query("""
                SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT granted
                    AND relation = 'public.words'::regclass AND application_name = 'godwit verify')
                """).flag(0, 0)
        }
        try old.execute("TRUNCATE public.numbers; ROLLBACK")
        taking.join()
    }

    @Test func `while the writes are moved nobody has the mirror hold`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        let moving = try side.connect(side.pair.oldConninfo)
        try moving.execute("SELECT pg_advisory_lock(7451605422)")
        let conninfo = side.pair.oldConninfo, newConninfo = side.pair.newConninfo
        let comparing = OwnThread(name: "verify") {
            do {
                let report = try Verifier(
                    old: try ConnectionString(parsing: conninfo), new: try ConnectionString(parsing: newConninfo)
                ).run()
                #expect(report.outcome == .equal)
                guard case .batch = report.pairing else {
                    Issue.record("\(report.pairing)")
                    return
                }
            } catch {
                Issue.record("\(error)")
            }
        }
        try waitUntil("it to wait for the end of that") {
            try moving.query("""
                SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                    WHERE locktype = 'advisory' AND datname = current_database() AND application_name = 'godwit verify')
                """).flag(0, 0)
        }
        // It asks each now and then, and nobody who indexes a table beside it has to wait for it.
        try moving.execute("CREATE INDEX CONCURRENTLY ON public.numbers (v)")
        #expect(try moving.query("SELECT hold_token IS NULL FROM godwit.control").flag(0, 0))
        try moving.execute("SELECT pg_advisory_unlock(7451605422)")
        comparing.join()
    }

    @Test func `a verify that dies after asking holds the mirror only for a moment`() throws {
        let side = try Side()
        try side.prepare()
        side.mirror.start()
        try side.waitUntilReadable()
        let old = try side.connect(side.pair.oldConninfo)
        try old.execute("UPDATE godwit.control SET hold_token = 'nobody'")
        try waitUntil("an answer") {
            try old.query("SELECT served_token = 'nobody' FROM godwit.control").flag(0, 0) == true
        }
        try old.execute("UPDATE public.numbers SET v = 'after' WHERE id = 1")
        let stamp = side.horizon.taking
        waitUntil("a batch") { side.horizon.applied > stamp }
        #expect(try side.verifier().run().outcome == .equal)
    }

    @Test func `a partitioned table is compared with all its partitions, also with a plain one`() throws {
        let pair = try MirroredPair(schema: "")
        let parts = "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT;"
        try pair.old.psql(parts + "INSERT INTO p VALUES (1), (2)", database: pair.database)
        try pair.new.psql("CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1), (2)", database: pair.database)
        let verifier = Verifier(
            old: try ConnectionString(parsing: pair.oldConninfo), new: try ConnectionString(parsing: pair.newConninfo))
        let report = try verifier.run()
        #expect(report.outcome == .equal && report.tables.map(\.rows) == [2])
        try pair.old.psql("INSERT INTO p VALUES (3)", database: pair.database)
        #expect(try verifier.run().outcome == .different)
    }

    @Test func `a table that becomes a partition gives no rows to a snapshot of before`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
            CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (3000);
            INSERT INTO p SELECT generate_series(1, 2000); ANALYZE
            """)
        let late = "CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late SELECT generate_series(3000, 3009)"
        try pair.old.psql(late, database: pair.database)
        // It waits until the comparison lets go, which sees it from its next snapshot on.
        let waiter = Waiter(pair.oldConninfo, "ALTER TABLE public.p ATTACH PARTITION public.late DEFAULT")
        let (report, pairs) = try runBeside(
            waiter, old: pair.oldConninfo, new: pair.newConninfo, pairing: "not prepared")
        #expect(pairs == 2 && report.tables.map(\.rows) == [2010] && report.tables.map(\.differing) == [10])
    }

    final class Flag: Sendable {
        private let value = Atomic<Bool>(false)
        var isSet: Bool { value.load(ordering: .acquiring) }
        func set() { value.store(true, ordering: .releasing) }
    }
}
