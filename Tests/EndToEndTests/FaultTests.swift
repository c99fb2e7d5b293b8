import Foundation
import Primitives
import TestSupport
import Testing

/// NEW fails in all the ways we know, half of the users read there, and no read fails. Times are printed, not judged.
@Suite(.serialized) struct FaultTests {
    /// Of this suite alone: its tests kill NEW and stop it.
    private static let own = Result { try Servers() }

    private static let schema = """
        CREATE TABLE fault (is_full bool, seconds float8);
        INSERT INTO fault VALUES (false, 0);
        CREATE FUNCTION marker() RETURNS text LANGUAGE plpgsql STABLE AS $$
        BEGIN
            IF (SELECT is_full FROM fault) THEN
                RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
            END IF;
            RETURN (SELECT side FROM side_marker);
        END $$;
        CREATE FUNCTION slow_marker() RETURNS text LANGUAGE plpgsql STABLE AS $$
        BEGIN
            PERFORM pg_sleep((SELECT seconds FROM fault));
            RETURN (SELECT side FROM side_marker);
        END $$
        """

    let servers: Servers
    let database: String
    /// Between Godwit and NEW.
    let relay: TCPRelay

    init() throws {
        servers = try Self.own.get()
        database = try servers.makeMarkedDatabase(Self.schema)
        relay = try TCPRelay(to: servers.new.port)
    }

    /// Where a test is not about times, those of a busy machine (and of the relay, which only NEW has) do not count.
    private static let judgesTimes = ["p95_factor": "2"]

    private func configuration(_ breaker: [String: String] = [:]) -> GodwitConfiguration {
        var entry = servers.entry(database)
        entry.new = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        var configuration = GodwitConfiguration([entry])
        configuration.threads = 2
        configuration.database.readsPercent = "50"
        configuration.database.pool = ["server_login_retry": "0.1"]
        configuration.database.breaker = [
            "failures": "3", "held": "0.1", "probes": "2", "memory": "0", "read_timeout_millis": "100",
            "read_timeout_p99_factor": "1", "rollback": "off", "window": "1", "window_calls": "20",
        ].merging(breaker) { $1 }
        return configuration
    }

    private func godwit(
        _ breaker: [String: String] = [:], _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        var configuration = configuration(breaker)
        change(&configuration)
        let godwit = try GodwitProcess(configuration)
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        return godwit
    }

    // MARK: what can go wrong

    enum Fault: String, CaseIterable {
        case killed, stopped, cut, refused, silent, deaf, slow, terminated, slotsFull, loginsFail, diskFull
    }

    private func begin(_ fault: Fault) throws {
        switch fault {
        case .killed: servers.new.kill9()
        case .stopped: servers.new.pause()
        case .cut: relay.cutAll()
        case .refused: relay.become(.refusing)
        case .silent: relay.become(.silent)
        case .deaf: relay.become(.deaf)
        case .slow: relay.become(.delaying(millis: 60))
        case .terminated: try servers.new.psql(terminate)
        case .slotsFull: try servers.new.psql("ALTER DATABASE \(database) CONNECTION LIMIT 0;\(terminate)")
        case .loginsFail:
            try servers.new.changeAuthentication(.password)
            try servers.new.psql(terminate)
        case .diskFull: try servers.new.psql("UPDATE fault SET is_full = true", database: database)
        }
    }

    private func end(_ fault: Fault) throws {
        switch fault {
        case .killed: try servers.new.start()
        case .stopped: servers.new.resume()
        case .cut, .terminated: break
        case .refused, .silent, .deaf, .slow: relay.become(.passing)
        case .slotsFull: try servers.new.psql("ALTER DATABASE \(database) CONNECTION LIMIT -1")
        case .loginsFail: try servers.new.changeAuthentication(.trust)
        case .diskFull: try servers.new.psql("UPDATE fault SET is_full = false", database: database)
        }
    }

    private var terminate: String {
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '\(database)' AND usename = 'app'"
    }

    // MARK: who reads meanwhile

    private struct Told: Decodable {
        var errors: Int
        var error: String
        var back: Bool
        var away: Bool
        var first_old: Double?
        var first_new: Double?
        var new_max: Double?
        var old_p99: Double?
        var reads: Int
    }

    /// `faulty_reads.py` at work.
    private struct Reader {
        let process: ChildProcess

        func ask(_ word: String) throws -> Told {
            let seen = process.output.lines.count
            process.write(word + "\n")
            let line = try process.output.waitForLine(containing: "{", skipping: seen)
            let told = try JSONDecoder().decode(Told.self, from: Data(line.utf8))
            try #require(told.errors == 0, "\(told.error)")
            return told
        }

        /// Asks until it is so.
        func wait(_ condition: (Told) throws -> Bool) throws -> Told {
            var told = try ask("?")
            while try !condition(told) { told = try ask("?") }
            return told
        }
    }

    private func reader(_ godwit: GodwitProcess, _ statement: String = "SELECT marker()") throws -> Reader {
        let reader = Reader(process: try ChildProcess(
            [
                TestResources.packageRoot + "/.build/venv/bin/python",
                TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/faulty_reads.py",
                godwit.conninfo(database: database), statement,
            ], keepsInput: true))
        _ = try reader.wait { $0.back }
        return reader
    }

    private func end(_ reader: Reader) throws {
        reader.process.endInput()
        try reader.process.waitForSuccess()
    }

    private func isClosed(_ godwit: GodwitProcess) throws -> Bool {
        try godwit.console("SHOW BREAKERS").allSatisfy { $0["state"] == "closed" }
    }

    /// One fault from its begin until all is as it was before.
    private func endure(_ fault: Fault, _ reader: Reader, _ godwit: GodwitProcess) throws {
        _ = try reader.ask("mark")
        try begin(fault)
        // A cut is over before anybody notices.
        let isMoment = fault == .cut || fault == .terminated
        let away = try reader.wait { $0.away || isMoment }
        _ = try reader.ask("mark")
        try end(fault)
        let back = try reader.wait { $0.back }
        try waitUntil { try isClosed(godwit) }
        func text(_ millis: Double?) -> String { millis.map { "\($0) ms" } ?? "-" }
        print("\(fault.rawValue): on OLD after \(text(away.first_old)), slowest read of a user of NEW "
            + "\(text(away.new_max)), p99 of users of OLD \(text(away.old_p99)); back after \(text(back.first_new))")
    }

    // MARK: tests

    @Test func `no read fails whatever happens to NEW, and reads come back`() throws {
        let godwit = try godwit(Self.judgesTimes)
        let reader = try reader(godwit)
        for fault in Fault.allCases {
            defer { try? end(fault) }
            try endure(fault, reader, godwit)
        }
        try end(reader)
    }

    @Test func `no read fails while NEW comes and goes, a dozen times`() throws {
        let godwit = try godwit()
        let reader = try reader(godwit)
        let flaps = 12
        var (away, back) = ([Double](), [Double]())
        for _ in 0..<flaps {
            for relayed in [TCPRelay.Mode.refusing, .passing] {
                _ = try reader.ask("mark")
                relay.become(relayed)
                let isAway = relayed == .refusing
                let told = try reader.wait { isAway ? $0.away : $0.back }
                if isAway { away.append(told.first_old ?? 0) } else { back.append(told.first_new ?? 0) }
                // So for two seconds: reads go on all the while.
                let turn = MonotonicInstant.now().advanced(bySeconds: 2)
                _ = try reader.wait { _ in MonotonicInstant.now() >= turn }
            }
        }
        print("\(flaps) flaps; on OLD after \(away.max() ?? 0) ms at most, on NEW again after \(back.max() ?? 0) ms at most")
        try self.end(reader)
    }

    @Test func `no read fails in twenty faults in a row`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let godwit = try godwit(Self.judgesTimes)
        let reader = try reader(godwit)
        for number in 0..<20 {
            guard let fault = Fault.allCases.randomElement(using: &generator) else { return }
            print("fault \(number): ", terminator: "")
            defer { try? end(fault) }
            try endure(fault, reader, godwit)
        }
        try end(reader)
    }

    @Test func `a NEW that is slow costs its share of reads, and an operator gives it back`() throws {
        // Judged only when all have read there: what a busy machine and the relay cost would be as good a reason to take
        // the share away before, and then nobody reads on NEW who is waited for.
        let policy = ["rollback": "auto", "read_timeout_millis": "60000"]
        let godwit = try godwit(policy)
        let reader = try reader(godwit)
        _ = try reader.ask("mark")
        relay.become(.delaying(millis: 40))
        try godwit.reload(configuration(policy.merging(Self.judgesTimes) { $1 }))
        _ = try reader.wait { $0.away }
        try waitUntil { try godwit.console("SHOW EVENTS").contains { $0["kind"] == "rollback" } }
        let event = try #require(try godwit.console("SHOW EVENTS").first { $0["kind"] == "rollback" })
        #expect(event["cause"]?.contains("50.00 -> 0.00") == true && event["cause"]?.contains("p95") == true)
        func share() throws -> String? {
            try godwit.console("SHOW DATABASES").first { $0["name"] == database && $0["side"] == "new" }?["reads_percent"]
        }
        #expect(try share() == "0.00")
        relay.become(.passing)
        // The relay is in NEW's way only: on a busy machine that alone may cost as much again.
        try godwit.reload(configuration(policy))
        #expect(try share() == "0.00", "a reload does not end a roll-back")
        _ = try godwit.console("READS \(database) 50")
        _ = try reader.ask("mark")
        _ = try reader.wait { $0.back }
        #expect(try share() == "50.00")
        try end(reader)
    }

    @Test func `with the policy alarm the share stays and the operator is told`() throws {
        let godwit = try godwit(["rollback": "alarm"].merging(Self.judgesTimes) { $1 })
        let reader = try reader(godwit)
        relay.become(.delaying(millis: 40))
        try waitUntil { try godwit.console("SHOW EVENTS").contains { $0["kind"] == "alarm" } }
        #expect(try godwit.console("SHOW DATABASES").contains { $0["reads_percent"] == "50.00" })
        relay.become(.passing)
        _ = try reader.ask("mark")
        _ = try reader.wait { $0.back }
        try end(reader)
    }

    @Test func `one statement shape that is slow on NEW leaves it alone`() throws {
        // Its time stays within what a read may take there: it is the window that finds it. That time is far beyond
        // what a busy machine, and the relay that only NEW has, do to the other shape.
        let godwit = try godwit([
            "read_timeout_millis": "10000", "window": "10", "p95_factor": "2", "p95_slack_millis": "400",
        ]) { $0.threads = 1 }
        let client = try WireClient(port: godwit.port, database: database)
        try servers.new.psql("UPDATE fault SET seconds = 0.8", database: database)
        defer { _ = try? servers.new.psql("UPDATE fault SET seconds = 0", database: database) }
        func side(_ user: Int, _ function: String) throws -> String? {
            try client.value("/* user_id=\(user) */ SELECT \(function)()")
        }
        while try !godwit.console("SHOW EVENTS").contains(where: { $0["kind"] == "demotion" }) {
            for user in 0..<40 {
                _ = try side(user, "marker")
                if user % 4 == 0 { _ = try side(user, "slow_marker") }
            }
        }
        let sides = try (0..<40).map { (try side($0, "marker"), try side($0, "slow_marker")) }
        #expect(sides.contains { $0.0 == "new" } && sides.allSatisfy { $0.1 == "old" })
        // Also in one batch with others, as drivers send it.
        let user = try #require(sides.firstIndex { $0.0 == "new" })
        client.send(["marker", "slow_marker"].flatMap { function -> [UInt8] in
            FrameBuilder.parse("/* user_id=\(user) */ SELECT \(function)()") + FrameBuilder.bind()
                + FrameBuilder.execute()
        } + FrameBuilder.sync)
        let answers = try client.readToReady().filter { $0.type == "D" }.map { $0.columns.first ?? nil }
        #expect(answers == ["old", "old"])
        #expect(try isClosed(godwit))
        #expect(try godwit.console("SHOW SHAPES").contains { $0.values.contains { $0.contains("degraded") } })
    }

    @Test func `one that opens twice waits for an operator, and his word counts`() throws {
        let port = try FreePort.find()
        // Reads that only take long are none of its trips: one too many, and it waits for an operator too early.
        let godwit = try godwit(["memory": "1000", "read_timeout_millis": "60000"]) { $0.http = ["port": "\(port)"] }
        let reader = try reader(godwit)
        func row() throws -> [String: String] {
            try #require(try godwit.console("SHOW BREAKERS").first { $0["side"] == "new" })
        }
        for round in 1...2 {
            relay.become(.refusing)
            try waitUntil { try row()["state"] != "closed" }
            relay.become(.passing)
            if round == 1 { try waitUntil { try row()["state"] == "closed" } }
        }
        #expect(try row()["latched"] == "yes" && row()["state"] == "open")
        let ready = try HTTPExchange.get("/readyz", port: port)
        #expect(ready.status == 200 && ready.body.contains("\"new_breaker\":\"latched\""), "\(ready.body)")
        let metrics = try HTTPExchange.get("/metrics", port: port).body
        #expect(metrics.contains("godwit_breaker_latched{database=\"\(database)\",side=\"new\"} 1"))
        _ = try reader.ask("mark")
        #expect(try !reader.ask("?").back)
        // A higher share takes the latch off, but not what an operator has forced.
        _ = try godwit.console("FORCE \(database) OLD")
        _ = try godwit.console("READS \(database) 60")
        #expect(try row()["forced"] == "yes" && row()["state"] == "open")
        _ = try godwit.console("FORCE \(database) AUTO")
        _ = try reader.wait { $0.back }
        try waitUntil { try isClosed(godwit) }

        _ = try godwit.console("FORCE \(database) OLD")
        #expect(try row()["state"] == "open" && row()["forced"] == "yes")
        _ = try reader.ask("mark")
        _ = try reader.wait { $0.away }
        _ = try godwit.console("FORCE \(database) NEW")
        _ = try reader.ask("mark")
        _ = try reader.wait { $0.back }
        // Forced: what fails runs again on OLD, and the breaker stays as it was told.
        relay.become(.refusing)
        _ = try reader.ask("mark")
        _ = try reader.wait { $0.away }
        #expect(try row()["state"] == "closed")
        relay.become(.passing)
        _ = try godwit.console("FORCE \(database) AUTO")
        _ = try reader.wait { $0.back }
        #expect(throws: TestFailure.self) { try godwit.console("FORCE nowhere OLD") }
        try end(reader)
    }

    @Test func `an answer that was begun is not lost with NEW`() throws {
        let godwit = try godwit(["read_timeout_millis": "60000"]) { $0.database.readsPercent = "100" }
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try client.value("SELECT marker()") == "new")
        // More than one segment, and less than is held back; NEW is gone before the end of it.
        let text = "SELECT marker() || repeat('x', 1000), slow_marker() FROM generate_series(1, 40)"
        try servers.new.psql("UPDATE fault SET seconds = 0.5", database: database)
        defer { _ = try? servers.new.psql("UPDATE fault SET seconds = 0", database: database) }
        client.send(FrameBuilder.query(text))
        try waitUntil {
            try servers.new.psql(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%repeat%' AND usename = 'app'",
                database: database) == "1"
        }
        try servers.new.psql(terminate)
        let rows = try client.readToReady().filter { $0.type == "D" }
        #expect(rows.count == 40 && rows.allSatisfy { $0.columns.last == "old" })
    }

    @Test func `an OLD that is gone refuses in time and in words, and serves again when it is back`() throws {
        let old = try TCPRelay(to: servers.old.port)
        defer { old.close() }
        let port = try FreePort.find()
        let godwit = try godwit(["patience": "0.2"]) {
            $0.database.readsPercent = "0"
            $0.database.old = "host=127.0.0.1 port=\(old.port) dbname=\(database)"
            $0.http = ["port": "\(port)"]
        }
        let clients = try (0..<10).map { _ in try WireClient(port: godwit.port, database: database) }
        for client in clients { #expect(try client.value("SELECT marker()") == "old") }
        old.become(.refusing)
        var codes: Set<String> = []
        for client in clients {
            var error: WireClient.Message?
            // The first answer may be that its connection was lost.
            for _ in 0..<2 where error?.sqlState != "57P03" {
                error = try client.query("UPDATE side_marker SET side = side").first { $0.type == "E" }
                codes.insert(error?.sqlState ?? "none")
            }
            if error?.sqlState == "57P03" {
                let text = error?.fields["M"] ?? ""
                #expect(text.contains("\"\(database)\"") && text.contains("OLD") && text.contains("\(old.port)"), "\(text)")
            }
        }
        #expect(codes.contains("57P03") && codes.isSubset(of: ["57P03", "08006"]), "\(codes)")
        #expect(try godwit.console("SHOW BREAKERS").contains { $0["side"] == "old" && $0["state"] == "open" })
        #expect(try HTTPExchange.get("/readyz", port: port).status == 503)
        old.become(.passing)
        try waitUntil { try isClosed(godwit) }
        for client in clients { #expect(try client.value("SELECT marker()") == "old") }
        #expect(try godwit.console("SHOW EVENTS").contains { $0["kind"] == "recovery" && $0["side"] == "old" })
    }

    @Test func `an OLD that hangs with all its servers at work refuses who waits, and serves again when it goes on`() throws {
        let godwit = try godwit(["patience": "0.5"]) {
            $0.database.readsPercent = "0"
            $0.database.pool["size"] = "2"
        }
        let clients = try (0..<6).map { _ in try WireClient(port: godwit.port, database: database) }
        for client in clients { #expect(try client.value("SELECT marker()") == "old") }
        servers.old.pause()
        defer { servers.old.resume() }
        // The first of each thread get the servers, and hang with them; the others wait for one.
        for client in clients { client.send(FrameBuilder.query("SELECT marker()")) }
        try godwit.log.waitForLine(containing: "trip of \(database) old")
        let late = try WireClient(port: godwit.port)
        late.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
        _ = try late.readToReady()
        let refused = try late.query("SELECT marker()").first { $0.type == "E" }
        #expect(refused?.sqlState == "57P03", "\(String(describing: refused))")
        #expect(refused?.fields["D"]?.contains("silent") == true, "\(String(describing: refused))")
        servers.old.resume()
        var outcomes: [String: Int] = [:]
        for client in clients {
            let messages = try client.readToReady()
            outcomes[messages.first { $0.type == "E" }?.sqlState ?? "answered", default: 0] += 1
        }
        #expect(outcomes == ["answered": 2, "57P03": 4], "\(outcomes)")
        try waitUntil { try isClosed(godwit) }
        for client in clients + [late] { #expect(try client.value("SELECT marker()") == "old") }
    }

    @Test func `an OLD that hangs, and to which nobody can connect, is given up after patience as well`() throws {
        let old = servers.old
        let godwit = try godwit(["patience": "0.5"]) {
            $0.database.readsPercent = "0"
            $0.database.pool["size"] = "2"
            $0.database.old = "host=\(old.directory) port=\(old.port) dbname=\(database)"
        }
        let clients = try (0..<6).map { _ in try WireClient(port: godwit.port, database: database) }
        for client in clients { #expect(try client.value("SELECT marker()") == "old") }
        old.pause()
        defer { old.resume() }
        // Without its file each attempt fails within the call.
        let socket = "\(old.directory)/.s.PGSQL.\(old.port)"
        try FileManager.default.moveItem(atPath: socket, toPath: socket + ".away")
        for client in clients { client.send(FrameBuilder.query("SELECT marker()")) }
        try godwit.log.waitForLine(containing: "trip of \(database) old")
        try FileManager.default.moveItem(atPath: socket + ".away", toPath: socket)
        old.resume()
        for client in clients { _ = try client.readToReady() }
        try waitUntil { try isClosed(godwit) }
        for client in clients { #expect(try client.value("SELECT marker()") == "old") }
    }

    @Test func `an OLD that is only busy trips nothing, however long its clients wait`() throws {
        // It is asked whether it lives, and has half a second each time.
        let godwit = try godwit(["patience": "1.5"]) {
            $0.database.readsPercent = "0"
            $0.database.pool["size"] = "2"
        }
        let clients = try (0..<4).map { _ in try WireClient(port: godwit.port, database: database) }
        for client in clients { client.send(FrameBuilder.query("SELECT pg_sleep(5), marker()")) }
        for client in clients { #expect(try client.readToReady().allSatisfy { $0.type != "E" }) }
        #expect(try godwit.console("SHOW EVENTS").allSatisfy { $0["kind"] != "trip" })
    }
}
