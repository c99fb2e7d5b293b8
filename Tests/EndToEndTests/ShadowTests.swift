import Foundation
import Primitives
import Synchronization
import TestSupport
import Testing

/// Reads that run again on both sides, and what is told of their answers.
@Suite(.serialized) struct ShadowTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    static let schema = """
        CREATE TABLE account (id int PRIMARY KEY, owner text NOT NULL, balance numeric NOT NULL, at timestamptz DEFAULT now());
        CREATE TABLE line (account int, number int, what text, PRIMARY KEY (account, number))
        """
    static let rows = """
        INSERT INTO account SELECT n, 'owner ' || n % 7, n * 1.5 FROM generate_series(1, 200) n;
        INSERT INTO line SELECT n % 20, n, md5(n::text) FROM generate_series(1, 300) n
        """

    func comparing(
        _ database: String, percent: String = "100", _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        try servers.mirroring(database) {
            $0.database.shadow = ["percent": percent, "pause": "0.01", "timeout": "30"]
            change(&$0)
        }
    }

    func figures(_ godwit: GodwitProcess) throws -> [String: String] {
        try #require(try godwit.console("SHOW SHADOW").first)
    }

    func count(_ godwit: GodwitProcess, _ column: String) throws -> Int {
        try #require(Int(try figures(godwit)[column] ?? ""))
    }

    /// All that was sampled was looked at. - Returns: the figures then.
    @discardableResult
    func settled(_ godwit: GodwitProcess, atLeast sampled: Int = 1) throws -> [String: String] {
        var figures: [String: String] = [:]
        try waitUntil {
            figures = try self.figures(godwit)
            let outcomes = ["compared", "noise", "open", "skipped", "failed", "other_failed", "dropped", "unpaired"]
            let sum = outcomes.reduce(0) { $0 + (Int(figures[$1] ?? "") ?? 0) }
            let wanted = Int(figures["sampled"] ?? "") ?? 0
            return wanted >= sampled && sum == wanted
        }
        return figures
    }

    func shape(_ godwit: GodwitProcess, _ words: String) throws -> [String: String] {
        try #require(try godwit.console("SHOW SHADOW_SHAPES").first { $0["text"]?.contains(words) == true })
    }

    /// The mirror does not notice it.
    func spoil(_ database: String, _ sql: String) throws {
        try servers.new.psql("SET session_replication_role = replica; \(sql)", database: database)
    }

    // MARK: equal data

    @Test func `reads of equal data are equal, whatever is written meanwhile`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try comparing(database) { $0.threads = 2 }
        let writers = Writers(2, godwit.port, database, seed: seed)
        var generator = SeededGenerator(seed: seed &+ 100)
        let reader = try WireClient(port: godwit.port, database: database)
        reader.send(FrameBuilder.parse("SELECT * FROM account WHERE id = $1::int", name: "byID") + FrameBuilder.sync)
        _ = try reader.readToReady()
        var sent = 0
        repeat {
            for _ in 0..<50 {
                let id = Int.random(in: 1...220, using: &generator)
                let messages: [WireClient.Message]
                switch Int.random(in: 0..<9, using: &generator) {
                case 0: messages = try reader.query("SELECT id, balance FROM account WHERE id < \(id)")
                case 1: messages = try reader.query("SELECT owner, sum(balance), count(*) FROM account GROUP BY owner ORDER BY owner")
                case 2: messages = try reader.query("SELECT * FROM account a JOIN line l ON l.account = a.id WHERE a.id = \(id % 20)")
                case 3: messages = try reader.query("SELECT id, at FROM account ORDER BY balance DESC, id LIMIT 5")
                case 4: messages = try reader.query("SELECT count(*) FROM line")
                case 5:
                    reader.send(
                        FrameBuilder.bind(statement: "byID", parameters: ["\(id)"]) + FrameBuilder.execute()
                            + FrameBuilder.sync)
                    messages = try reader.readToReady()
                case 6:
                    reader.send(
                        FrameBuilder.bind(statement: "byID", binary: [FrameBuilder.bigEndian(Int32(id))])
                            + FrameBuilder.execute() + FrameBuilder.sync)
                    messages = try reader.readToReady()
                case 7:
                    reader.send(
                        FrameBuilder.parse("SELECT what FROM line WHERE account = $1 AND what LIKE $2")
                            + FrameBuilder.bind(parameters: ["\(id % 20)", "%a%"]) + FrameBuilder.describePortal()
                            + FrameBuilder.execute() + FrameBuilder.sync)
                    messages = try reader.readToReady()
                default:
                    _ = try reader.query("BEGIN")
                    messages = try reader.query("SELECT max(balance) FROM account WHERE id <> \(id)")
                    _ = try reader.query("COMMIT")
                }
                #expect(!messages.contains { $0.type == "E" }, "\(messages)")
                sent += 1
            }
        } while try count(godwit, "compared") < 500
        #expect(writers.end() == [])
        let figures = try settled(godwit)
        let shapes = try godwit.console("SHOW SHADOW_SHAPES")
        #expect(figures["mismatches"] == "0", "seed \(seed): \(shapes)")
        #expect(figures["failed"] == "0" && figures["other_failed"] == "0", "\(figures)")
        #expect(figures["shapes"] == "8" && figures["shapes_outstanding"] == "0", "\(figures)")
        print("sent \(sent), \(figures)")
        godwit.terminate()
    }

    @Test func `a TRUNCATE beside it is no difference, and does not wait for long`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try comparing(database)
        let client = try WireClient(port: godwit.port, database: database)
        for turn in 0..<15 {
            for _ in 0..<20 { _ = try client.query("SELECT count(*), max(number) FROM line") }
            try servers.old.psql("TRUNCATE line; INSERT INTO line SELECT 1, n FROM generate_series(1, \(turn)) n", database: database)
        }
        let figures = try settled(godwit, atLeast: 200)
        let shapes = try godwit.console("SHOW SHADOW_SHAPES")
        #expect(figures["mismatches"] == "0", "\(shapes)")
        godwit.terminate()
    }

    @Test func `verify has its moment beside it`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try comparing(database)
        let client = try WireClient(port: godwit.port, database: database)
        let writers = Writers(1, godwit.port, database, seed: 1)
        for _ in 0..<3 {
            let verify = try ChildProcess([
                GodwitProcess.executable, "verify", "--config", godwit.configurationPath, database,
            ])
            repeat { _ = try client.query("SELECT count(*), sum(balance) FROM account") } while !verify.hasEnded
            #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
        }
        #expect(writers.end() == [])
        let figures = try settled(godwit)
        #expect(figures["mismatches"] == "0" && Int(figures["compared"] ?? "") ?? 0 > 0, "\(figures)")
        godwit.terminate()
    }

    @Test func `behind a cutover OLD is held against NEW`() throws {
        let function = "CREATE FUNCTION tag(text) RETURNS text STABLE LANGUAGE sql AS"
        let database = try servers.makeDatabase(
            Self.schema, old: "\(Self.rows); \(function) $$SELECT 'old'$$", new: "\(function) $$SELECT 'new'$$")
        let godwit = try comparing(database)
        let switched = try godwit.console("CUTOVER \(database) WITHOUT VERIFY DEADLINE 60000")
        try waitUntil { try godwit.console("SHOW AUTHORITY").first?["authority"] == "new" }
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("INSERT INTO account VALUES (1000, 'late', 5)")
        #expect(try client.value("SELECT count(*) FROM account") == "201", "\(switched)")
        // Until the mirror the other way is at work there is no pair, and what was sampled is given up.
        try waitUntil {
            _ = try client.query("SELECT id, owner FROM account WHERE id >= 1000")
            return try count(godwit, "compared") > 0
        }
        #expect(try count(godwit, "mismatches") == 0)
        try waitUntil {
            #expect(try client.value("SELECT tag(owner) FROM account WHERE id = 1000") == "new")
            return try count(godwit, "mismatches") > 0
        }
        let event = try godwit.console("SHOW EVENTS").first { $0["kind"] == "mismatch" }
        #expect(event?["side"] == "old", "\(event ?? [:])")
        godwit.terminate()
    }

    // MARK: differences

    @Test func `a row that is another one on NEW is found, with the shape that shows it`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let port = try FreePort.find()
        let godwit = try comparing(database) { $0.http = ["port": "\(port)"] }
        let client = try WireClient(port: godwit.port, database: database)
        try spoil(database, "UPDATE account SET balance = 0 WHERE id = 77; DELETE FROM line WHERE number = 7")
        for id in 70..<80 { _ = try client.query("SELECT id, owner, balance FROM account WHERE id = \(id)") }
        _ = try client.query("SELECT account, number FROM line WHERE account = 7 ORDER BY number")
        _ = try client.query("SELECT id FROM account WHERE id < 5")
        var figures = try settled(godwit, atLeast: 12)
        #expect(figures["compared"] == "12" && figures["mismatches"] == "2", "\(figures)")
        let differing = try shape(godwit, "from account where id =")
        #expect(differing["mismatches"] == "1" && differing["compared"] == "10" && differing["kind"] == "rows")
        #expect(differing["difference"] == "1 and 1 rows, 1 and 1 of them on one side only, in balance", "\(differing)")
        #expect(differing["old_row"] == "" && differing["new_row"] == "", "values of the application's are not shown")
        #expect(try shape(godwit, "from line")["difference"] == "15 and 14 rows, 1 and 0 of them on one side only")
        #expect(try shape(godwit, "where id <")["mismatches"] == "0")
        let events = try godwit.console("SHOW EVENTS").filter { $0["kind"] == "mismatch" }
        #expect(events.count == 2 && events.allSatisfy { $0["side"] == "new" && $0["database"] == database }, "\(events)")
        let metrics = try HTTPExchange.get("/metrics", port: port).body
        #expect(metrics.contains("migration_validation_errors_total{database=\"\(database)\",table=\"\",error_type=\"shadow_mismatch\"} 2"))
        #expect(metrics.contains("godwit_shadow_reads_total{database=\"\(database)\",outcome=\"equal\"} 10"))
        // A value is shown to those who ask for it.
        _ = try godwit.console("SET databases.\(database).shadow.show_values = true")
        #expect(try shape(godwit, "from account where id =")["new_row"]?.hasPrefix("(77,owner 0,0") == true)
        // From nothing on it begins anew.
        _ = try godwit.console("SHADOW \(database) 0")
        _ = try client.query("SELECT id FROM account WHERE id < 5")
        _ = try godwit.console("SHADOW \(database) 100")
        try waitUntil { try self.figures(godwit)["sampled"] == "0" }
        _ = try client.query("SELECT id FROM account WHERE id < 6")
        figures = try settled(godwit)
        #expect(figures["compared"] == "1" && figures["mismatches"] == "0", "\(figures)")
        godwit.terminate()
    }

    @Test func `what chance, time and SQL leave open is no difference`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try comparing(database)
        let client = try WireClient(port: godwit.port, database: database)
        // Rows lie in another order on NEW.
        try spoil(database, "UPDATE account SET balance = balance WHERE id < 100")
        for text in [
            "SELECT random()", "SELECT now()", "SELECT id FROM account WHERE at < clock_timestamp() AND random() < 0.5",
            "SELECT gen_random_uuid(), id FROM account",
        ] {
            for _ in 0..<3 { _ = try client.query(text) }
        }
        var figures = try settled(godwit, atLeast: 12)
        #expect(figures["mismatches"] == "0" && Int(figures["noise"] ?? "") ?? 0 >= 10, "\(figures)")
        for text in [
            "SELECT id FROM account LIMIT 7", "SELECT owner, id FROM account ORDER BY owner LIMIT 7",
            "SELECT array_agg(id) FROM account",
        ] {
            _ = try client.query(text)
        }
        figures = try settled(godwit, atLeast: 15)
        #expect(figures["mismatches"] == "0" && ["2", "3"].contains(figures["open"]), "\(figures)")
        // Not what is compared.
        for text in ["EXPLAIN SELECT 1", "COPY (SELECT 1) TO STDOUT", "SELECT pg_sleep(0)"] { _ = try client.query(text) }
        #expect(try settled(godwit, atLeast: 17)["skipped"] == "2")
        godwit.terminate()
    }

    @Test func `another order, other columns and an error are differences`() throws {
        let database = try servers.makeDatabase("""
            CREATE FUNCTION f(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT 1 / $1'
            """, old: """
                CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, v e);
                INSERT INTO t VALUES (1, 'a'), (2, 'b')
                """, new: "CREATE TYPE e AS ENUM ('b', 'a'); CREATE TABLE t (id int PRIMARY KEY, v e)")
        let godwit = try comparing(database)
        try servers.new.psql(
            "CREATE OR REPLACE FUNCTION f(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT 1 / ($1 - 1)'",
            database: database)
        let client = try WireClient(port: godwit.port, database: database)
        for text in ["SELECT v FROM t ORDER BY v", "SELECT f(id) FROM t WHERE id = 1", "SELECT 1 / (id - 1) FROM t"] {
            _ = try client.query(text)
        }
        let figures = try settled(godwit, atLeast: 3)
        let shapes = try godwit.console("SHOW SHADOW_SHAPES")
        #expect(figures["mismatches"] == "2" && figures["compared"] == "3", "\(shapes)")
        #expect(try shape(godwit, "order by v")["kind"] == "order")
        #expect(try shape(godwit, "f ( id )")["difference"] == "fails with 22012 on the other side only")
        godwit.terminate()
    }

    // MARK: sessions

    @Test func `reads run as the client's session would, and only where that can be had`() throws {
        let database = try servers.makeDatabase("""
            CREATE SCHEMA other; CREATE TABLE other.t (id int PRIMARY KEY, at timestamptz); CREATE TABLE own (id int PRIMARY KEY)
            """, old: "INSERT INTO other.t VALUES (1, '2020-05-01 12:00+00')")
        let godwit = try comparing(database)
        let client = try WireClient(
            port: godwit.port, database: database, parameters: [("options", "-c search_path=other")])
        _ = try client.query("SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'")
        #expect(try client.value("SELECT at FROM t") == "01.05.2020 21:00:00 JST")
        var figures = try settled(godwit)
        #expect(figures["compared"] == "1" && figures["mismatches"] == "0", "\(figures)")
        // What is not committed, and what a transaction alone has set, cannot be seen elsewhere.
        _ = try client.query("BEGIN")
        _ = try client.query("INSERT INTO public.own VALUES (1)")
        #expect(try client.value("SELECT count(*) FROM public.own") == "1")
        _ = try client.query("COMMIT")
        _ = try client.query("BEGIN")
        _ = try client.query("SET LOCAL search_path = public")
        #expect(try client.value("SELECT count(*) FROM own") == "1")
        _ = try client.query("COMMIT")
        _ = try client.query("CREATE TEMP TABLE own (id int)")
        #expect(try client.value("SELECT count(*) FROM own") == "0")
        let plain = try WireClient(port: godwit.port, database: database)
        _ = try plain.query("BEGIN")
        #expect(try plain.value("SELECT count(*) FROM own WHERE id = 1") == "1")
        _ = try plain.query("COMMIT")
        figures = try settled(godwit, atLeast: 2)
        #expect(figures["sampled"] == "2" && figures["compared"] == "2" && figures["mismatches"] == "0", "\(figures)")
        godwit.terminate()
    }

    @Test func `a share takes about that many, and each shape at least once`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try comparing(database, percent: "10")
        let client = try WireClient(port: godwit.port, database: database)
        for _ in 0..<3000 { _ = try client.query("SELECT 1 FROM account WHERE id = 1") }
        for column in ["id", "owner", "balance", "at"] { _ = try client.query("SELECT \(column) FROM account WHERE id = 9") }
        let figures = try settled(godwit)
        // Of 3000 by chance at 10 %: 300, and six deviations of 16 more or less; and the powers of two.
        let sampled = try #require(Int(figures["sampled"] ?? ""))
        #expect((204...412).contains(sampled), "\(figures)")
        #expect(figures["shapes"] == "5" && figures["shapes_outstanding"] == "0")
        godwit.terminate()
    }

    // MARK: what stands in the way

    @Test func `without NEW nothing but counters tells of it`() throws {
        let own = try Servers()
        let database = try own.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try own.mirroring(database) {
            $0.database.shadow = ["percent": "100", "pause": "0.01", "timeout": "30"]
        }
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("SELECT count(*) FROM account")
        try settled(godwit)
        own.new.kill9()
        try waitUntil {
            let answer = try client.query("SELECT count(*) FROM account")
            #expect(answer.contains { $0.type == "D" } && !answer.contains { $0.type == "E" })
            let figures = try self.figures(godwit)
            return figures["state"] == "waiting" && figures["reason"]?.hasPrefix("NEW: ") == true
        }
        #expect(try count(godwit, "unpaired") > 0)
        try own.new.start()
        let before = try count(godwit, "compared")
        try waitUntil {
            _ = try client.query("SELECT count(*) FROM account")
            return try count(godwit, "compared") > before
        }
        let figures = try figures(godwit)
        #expect(figures["state"] == "comparing" && figures["mismatches"] == "0", "\(figures)")
        godwit.terminate()
    }

    @Test func `what comes faster than it is compared is dropped and counted`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try comparing(database) { $0.database.shadow["pause"] = "100000" }
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("SELECT 1 FROM account")
        try settled(godwit)
        for _ in 0..<1200 { #expect(try client.value("SELECT 2 FROM account WHERE id = 1") == "2") }
        let figures = try figures(godwit)
        #expect(figures["waiting"] == "1000" && figures["dropped"] == "200" && figures["sampled"] == "1201", "\(figures)")
        // It does not wait for the end of its pause.
        #expect(godwit.terminate() == .code(0))
    }

    @Test func `reads come to servers with the password of the users file`() throws {
        let own = try Servers(
            authentication: .scramSHA256, hbaLines: ["host all \(PostgresCluster.superuser) 127.0.0.1/32 trust"])
        for server in [own.old, own.new] { try server.psql("ALTER ROLE app PASSWORD 'secret'") }
        let database = try own.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try own.mirroring(database) {
            $0.users = "\"app\" \"secret\"\n"
            $0.database.shadow = ["percent": "100", "pause": "0.01", "timeout": "30"]
        }
        try godwit.psql("SELECT count(*) FROM account", database: database)
        let figures = try settled(godwit)
        #expect(figures["compared"] == "1" && figures["mismatches"] == "0", "\(figures)")
        godwit.terminate()
    }

    // MARK: what is decided by it

    @Test func `differences over their share trip the breaker of NEW`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try comparing(database) {
            $0.database.readsPercent = "50"
            $0.database.breaker = ["window": "10", "window_calls": "20", "held": "100"]
        }
        let client = try WireClient(port: godwit.port, database: database)
        try spoil(database, "UPDATE account SET owner = 'nobody'")
        try waitUntil {
            for id in 0..<10 { _ = try client.query("SELECT owner FROM account WHERE id = \(id)") }
            let breaker = try godwit.console("SHOW BREAKERS").first { $0["side"] == "new" }
            return breaker?["state"] == "open"
        }
        let events = try godwit.console("SHOW EVENTS")
        #expect(events.contains { $0["kind"] == "trip" && $0["cause"]?.contains("answers differ") == true }, "\(events)")
        #expect(events.contains { $0["kind"] == "rollback" }, "\(events)")
        godwit.terminate()
    }

    @Test func `a migration waits in its phase until enough reads were equal`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        configuration.database.shadow = ["percent": "100", "pause": "0.01", "timeout": "30"]
        let drive = try MigrationDrive(configuration)
        try drive.start("""
            id: m
            database: \(database)
            gates: {shadow_reads: 20}
            phases: {mirror: {soak: 0}, shift: {advance: manual}}
            """)
        try drive.wait("m", for: "shadow running")
        let client = try WireClient(port: drive.godwit.port, database: database)
        func gate() throws -> [String: Any] {
            let gates = try drive.status("m")["gates"] as? [[String: Any]] ?? []
            return gates.first { $0["name"] as? String == "shadow" } ?? [:]
        }
        for id in 0..<10 { _ = try client.query("SELECT owner FROM account WHERE id = \(id)") }
        try settled(drive.godwit, atLeast: 10)
        try waitUntil { (try gate()["value"] as? String)?.hasPrefix("10 reads compared, 0 differ") == true }
        #expect(try drive.place("m") == "shadow running")
        // One that differs stands in the way, however many are equal.
        try spoil(database, "UPDATE account SET owner = 'nobody' WHERE id = 99")
        for id in 90..<110 { _ = try client.query("SELECT owner FROM account WHERE id = \(id)") }
        try waitUntil { (try gate()["value"] as? String)?.hasPrefix("30 reads compared, 1 differ") == true }
        #expect(try drive.place("m") == "shadow running")
        let holds = try gate()["holds"] as? Bool
        #expect(holds == false)
        try spoil(database, "UPDATE account SET owner = 'owner 1' WHERE id = 99")
        _ = try drive.godwit.console("SHADOW \(database) 0")
        _ = try drive.godwit.console("SHADOW \(database) 100")
        try waitUntil { try self.figures(drive.godwit)["sampled"] == "0" }
        for id in 90..<110 { _ = try client.query("SELECT owner FROM account WHERE id = \(id)") }
        try drive.wait("m", for: "shift running")
        drive.godwit.terminate()
    }
}

/// Writes through Godwit, all it can, until it is told to end.
private final class Writers: Sendable {
    private let isOver = Atomic<Bool>(false)
    private let failures = Mutex<[String]>([])
    private let threads = Mutex<[OwnThread]>([])

    init(_ count: Int, _ port: UInt16, _ database: String, seed: UInt64) {
        for number in 0..<count {
            let thread = OwnThread(name: "writer") { [self] in
                do {
                    try write(try WireClient(port: port, database: database), seed: seed &+ UInt64(number))
                } catch {
                    failures.withLock { $0.append("\(error)") }
                }
            }
            threads.withLock { $0.append(thread) }
        }
    }

    private func write(_ client: WireClient, seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        while !isOver.load(ordering: .relaxed) {
            let id = Int.random(in: 1...220, using: &generator), other = Int.random(in: 1...220, using: &generator)
            let sql: String
            switch Int.random(in: 0..<6, using: &generator) {
            case 0: sql = "INSERT INTO account VALUES (\(id), 'new', \(other)) ON CONFLICT (id) DO UPDATE SET balance = \(other)"
            case 1: sql = "DELETE FROM account WHERE id = \(id)"
            case 2: sql = "UPDATE account SET balance = balance + 1 WHERE id BETWEEN \(id) AND \(id + 9)"
            case 3: sql = "UPDATE account SET owner = 'owner \(other % 7)' WHERE id = \(id)"
            case 4: sql = "UPDATE line SET what = md5(what) WHERE account = \(id % 20)"
            default: sql = "INSERT INTO line VALUES (\(id % 20), \(other), 'x') ON CONFLICT DO NOTHING"
            }
            for message in try client.query(sql) where message.type == "E" && message.sqlState != "40P01" {
                failures.withLock { $0.append("\(message)") }
            }
        }
    }

    /// - Returns: what went wrong.
    func end() -> [String] {
        isOver.store(true, ordering: .relaxed)
        for thread in threads.withLock({ $0 }) { thread.join() }
        return failures.withLock { $0 }
    }
}
