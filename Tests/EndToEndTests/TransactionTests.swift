import Foundation
import TestSupport
import Testing

/// Transactions that begin lazily, and what their users are promised.
@Suite struct TransactionTests {
    private let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    private static let seed = ProcessInfo.processInfo.environment["GODWIT_TEST_SEED"].flatMap { UInt64($0) }
        ?? UInt64.random(in: 0..<1_000_000)

    private func onNew(_ godwit: GodwitProcess) throws -> Int {
        try godwit.console("SHOW ROUTES").filter { $0["side"] == "new" && $0["kind"] == "read" }
            .reduce(0) { $0 + (Int($1["units"] ?? "") ?? 0) }
    }

    @Test func `reads that drivers wrap in transactions move by share`() throws {
        let database = try servers.makeMarkedDatabase()
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "50" }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let users = 60
        let buckets = try GodwitProcess.command(["bucket"] + (0..<users).map { "\($0)" }).output.lines
        let expected = buckets.filter { (Double($0.split(separator: "\t").last ?? "") ?? 100) < 50 }.count
        let output = try runDriver(
            "wrapped_reads", ["127.0.0.1", "\(godwit.port)", database, "\(users)"])
        #expect(output == "psycopg \(expected)\nSQLAlchemy \(expected)\nDjango \(expected)\n")
    }

    /// As pgjdbc has transactions SERIALIZABLE.
    @Test func `what is SERIALIZABLE by the session's settings stays on OLD`() throws {
        let database = try servers.makeMarkedDatabase()
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "100" }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let client = try WireClient(port: godwit.port, database: database, user: "app")
        func sides() throws -> [String?] {
            let alone = try client.value("SELECT side FROM side_marker")
            _ = try client.query("BEGIN READ ONLY")
            let within = try client.value("SELECT side FROM side_marker")
            #expect(try client.query("COMMIT").last?.transactionStatus == "I")
            return [alone, within]
        }
        #expect(try sides() == ["new", "new"])
        for (level, side) in [("SERIALIZABLE", "old"), ("REPEATABLE READ", "new")] {
            _ = try client.query("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL \(level)")
            #expect(try sides() == [side, side])
        }
        _ = try client.query("SET default_transaction_isolation = 'Serializable'")
        #expect(try sides() == ["old", "old"])
        _ = try client.query("RESET default_transaction_isolation")
        #expect(try sides() == ["new", "new"])
    }

    /// As pgjdbc sends the first statement of each transaction.
    private func withBegin(_ sql: String) -> [UInt8] {
        ["BEGIN", sql].flatMap { FrameBuilder.parse($0) + FrameBuilder.bind() + FrameBuilder.execute() }
            + FrameBuilder.sync
    }

    @Test func `a BEGIN whose first read waits for NEW in one batch with it is the only one, and goes there`() throws {
        let database = try servers.makeDatabase(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", old: "INSERT INTO t VALUES (1, 'row')")
        let godwit = try servers.mirroring(database) {
            $0.database.readsPercent = "100"
            $0.database.reads = ["consistency": "global", "consistency_wait_millis": "10000"]
        }
        let client = try WireClient(port: godwit.port, database: database, user: "app")
        let before = try onNew(godwit)
        client.send(withBegin("SELECT v FROM t"))
        let answer = try client.readToReady()
        #expect(answer.map(\.type) == ["1", "2", "C", "1", "2", "D", "C", "Z"])
        #expect(answer.last?.transactionStatus == "T")
        #expect(try onNew(godwit) == before + 1)
        #expect(try client.query("COMMIT").last?.transactionStatus == "I")
    }

    @Test func `a BEGIN that gets no server in one batch with a read fails like any other statement`() throws {
        let database = try servers.makeMarkedDatabase()
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.rules = "[{name: here, regex: here, action: old}]"
            $0.database.pool = ["size": "1"]
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let client = try WireClient(port: godwit.port, database: database, user: "app")
        let holder = try WireClient(port: godwit.port, database: database, user: "app")
        for sql in ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1"] { _ = try holder.query(sql) }
        // Only now: the first client's login waits for a server that is still to be opened.
        _ = try godwit.console("SET databases.\(database).pool.query_wait_timeout = 0.2")
        client.send(withBegin("/* here */ SELECT side FROM side_marker"))
        #expect(try client.readToReady().map(\.type) == ["E", "Z"])
        _ = try holder.query("COMMIT")
        #expect(try client.value("/* here */ SELECT side FROM side_marker") == "old")
    }

    @Test(arguments: [("lazy", 0), ("lazy", 1), ("authority", 2)])
    func `every answer in random transactions is the one that PostgreSQL gives`(mode: String, offset: UInt64) throws {
        let schema = "CREATE TABLE shelf (id int PRIMARY KEY, n int, note text)"
        let rows = "INSERT INTO shelf SELECT g, g * 10, 'note ' || g FROM generate_series(1, 8) g"
        let database = try servers.makeDatabase(schema, old: rows)
        let twin = try servers.makeDatabase(schema, old: rows)
        let godwit = try servers.mirroring(database) {
            $0.database.readsPercent = "100"
            // Waiting for NEW brings as many reads there as may go.
            $0.database.reads = [
                "transactions": mode, "consistency": "global", "consistency_wait_millis": "10000",
            ]
        }
        let seed = Self.seed + offset
        print("seed \(seed)")
        let output = try runDriver(
            "same_transactions",
            [godwit.conninfo(database: database), servers.old.conninfo(database: twin, user: "app"), "\(seed)", "1500"])
        #expect(output.hasSuffix("ok\n"), "\(output)")
        if mode == "lazy" { #expect(try onNew(godwit) > 0) }
    }

    @Test func `what comes too late behind a read is refused also when the read was on NEW`() throws {
        let database = try servers.makeMarkedDatabase()
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{session: user}]"
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let client = try WireClient(port: godwit.port, database: database, user: "app")
        for late in ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"] {
            _ = try client.query("BEGIN")
            #expect(try client.value("SELECT side FROM side_marker") == "new")
            #expect(try client.query(late).compactMap(\.sqlState).last == "25001")
            #expect(try client.query("ROLLBACK").last?.transactionStatus == "I")
        }
    }

    /// 5 and 27 once found that a rollback took back what had been put back after RESET; the two behind them, that one
    /// that goes on in a new transaction uncovered a RESET.
    @Test(arguments: [Self.seed, Self.seed + 1, 5, 27, 270_037, 270_038])
    func `every session has its own settings, whatever its transactions do, on one server`(seed: UInt64) throws {
        let database = try servers.makeDatabase()
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "1"] }
        print("seed \(seed)")
        let output = try runDriver(
            "same_settings",
            [godwit.conninfo(database: database), servers.old.conninfo(database: database, user: "app"), "\(seed)", "600"])
        #expect(output.hasSuffix("ok\n"), "\(output)")
        // No session's state was so unclear that it had to keep the server.
        #expect(try godwit.console("SHOW PINS").isEmpty)
    }

    @Test func `a batch that fails before its Sync, in a transaction on NEW, goes on with the Sync`() throws {
        let database = try servers.makeMarkedDatabase()
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "100" }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let client = try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "1")])
        _ = try client.query("BEGIN READ ONLY")
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        #expect(try client.query("SELECT 1/0").last?.transactionStatus == "E")
        client.send(FrameBuilder.parse("SELECT 1", name: "s") + FrameBuilder.flush)
        #expect(try client.readToError()?.sqlState == "25P02")
        client.send(FrameBuilder.sync)
        #expect(try client.readToReady().map(\.type) == ["Z"])
        #expect(try client.query("ROLLBACK").last?.transactionStatus == "I")
    }

    /// Those that begin with a read are cut behind the transaction's end.
    @Test(arguments: [
        ["COMMIT", "BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"],
        ["ROLLBACK", "BEGIN READ WRITE", "INSERT INTO t VALUES (1)", "COMMIT"],
        ["COMMIT", "INSERT INTO t VALUES (1)"],
        ["SELECT 1", "ROLLBACK", "BEGIN READ WRITE", "INSERT INTO t VALUES (1)", "COMMIT"],
        ["BEGIN", "COMMIT", "INSERT INTO t VALUES (1)", "BEGIN READ ONLY", "SELECT 1", "COMMIT"],
        ["SELECT 'COMMIT; é'", "COMMIT", "BEGIN", "INSERT INTO t VALUES (1)", "COMMIT AND CHAIN", "ROLLBACK"],
        ["SELECT 1", "COMMIT", "SELECT 2"],
    ])
    func `a READ ONLY transaction on NEW ends, and the next one begins on OLD, in one batch`(unit: [String]) throws {
        let (godwit, database) = try readOnNew()
        let batch = unit.flatMap { FrameBuilder.parse($0) + FrameBuilder.bind() + FrameBuilder.execute() }
        let query = FrameBuilder.query(unit.joined(separator: ";"))
        let next = FrameBuilder.query("SELECT 'next'")
        for (number, frames) in [query, batch + FrameBuilder.sync, query + next].enumerated() {
            let client = try begunOnNew(godwit, database, "\(number)")
            client.send(frames)
            let answers = try client.readToReady()
            let tags = unit.map { sql in
                let word = String(sql.prefix { $0 != " " })
                return ["INSERT": "INSERT 0 1", "SELECT": "SELECT 1", "COMMIT": "COMMIT"][word] ?? word
            }
            #expect(answers.compactMap(\.commandTag) == tags)
            #expect(answers.last?.transactionStatus == "I")
            if frames.count == query.count + next.count { #expect(try client.readToReady().contains { $0.type == "D" }) }
        }
        let count = "SELECT count(*) FROM t"
        let isWrite = unit.contains { $0.hasPrefix("INSERT") }
        #expect(try servers.old.psql(count, database: database) == (isWrite ? "3" : "0"))
        #expect(try servers.new.psql(count, database: database) == "0")
    }

    @Test func `what is cut fails where PostgreSQL fails it, and nothing behind that runs`() throws {
        let (godwit, database) = try readOnNew()
        // In the first part: the second is not looked at.
        for form in ["query", "batch"] {
            let client = try begunOnNew(godwit, database, form)
            let unit = ["SELECT 1/0", "COMMIT", "INSERT INTO t VALUES (1)"]
            client.send(form == "query"
                ? FrameBuilder.query(unit.joined(separator: ";"))
                : unit.flatMap { FrameBuilder.parse($0) + FrameBuilder.bind() + FrameBuilder.execute() }
                    + FrameBuilder.sync)
            client.send(FrameBuilder.query("SELECT 'failed, too'"))
            let answers = try client.readToReady()
            #expect(answers.compactMap(\.sqlState) == ["22012"])
            #expect(answers.last?.transactionStatus == "E")
            #expect(try client.readToReady().compactMap(\.sqlState) == ["25P02"])
            #expect(try client.query("ROLLBACK").last?.transactionStatus == "I")
        }
        // In the second: the position is that in the whole text.
        let client = try begunOnNew(godwit, database, "position")
        let text = "SELECT 'é' /* user_id=7 */; COMMIT; INSERT INTO missing VALUES (1)"
        let error = try client.query(text).first { $0.type == "E" }
        let place = text.distance(from: text.startIndex, to: try #require(text.firstRange(of: "missing")).lowerBound)
        #expect(error?.fields["P"] == "\(place + 1)")
        #expect(try client.query("SELECT 1").last?.transactionStatus == "I")
        #expect(try servers.old.psql("SELECT count(*) FROM t", database: database) == "0")
    }

    @Test(arguments: ["LISTEN news", "SELECT pg_advisory_lock(7)", "SELECT 1; COMMIT; INSERT INTO t VALUES (1); SELEC"])
    func `what must not run in a READ ONLY transaction on NEW fails there, and the client goes on`(sql: String) throws {
        let (godwit, database) = try readOnNew()
        let batch = FrameBuilder.parse(sql) + FrameBuilder.bind() + FrameBuilder.execute() + FrameBuilder.sync
        for (number, frames) in [FrameBuilder.query(sql), batch].enumerated() {
            let client = try begunOnNew(godwit, database, "\(number)")
            client.send(frames)
            let answers = try client.readToReady()
            #expect(answers.compactMap(\.sqlState) == ["0A000"])
            #expect(answers.last?.transactionStatus == "E")
            #expect(try client.query("ROLLBACK").last?.transactionStatus == "I")
            #expect(try client.query("SELECT 1").last?.transactionStatus == "I")
        }
        #expect(try servers.old.psql("SELECT count(*) FROM t", database: database) == "0")
    }

    @Test func `what an error skips on NEW is not refused there`() throws {
        let (godwit, database) = try readOnNew()
        let insert = "INSERT INTO t VALUES (1)"
        for query in ["COMMIT", "SELECT 1; COMMIT"] {
            let client = try begunOnNew(godwit, database, "skips \(query)")
            client.send(FrameBuilder.execute(portal: "none") + FrameBuilder.query(query)
                + FrameBuilder.parse(insert) + FrameBuilder.bind() + FrameBuilder.execute() + FrameBuilder.sync)
            let answers = try client.readToReady()
            #expect(answers.compactMap(\.sqlState) == ["34000"])
            #expect(answers.last?.transactionStatus == "E")
            #expect(try client.query("ROLLBACK").last?.transactionStatus == "I")
        }
        #expect(try servers.old.psql("SELECT count(*) FROM t", database: database) == "0")
    }

    @Test func `what was looked at for a refusal on NEW that did not come to it is no other message's`() throws {
        let (godwit, database) = try readOnNew()
        let client = try begunOnNew(godwit, database, "ahead")
        // The query ends the batch, and with it the unit that LISTEN was noted in.
        client.send(FrameBuilder.parse("SELECT 1") + FrameBuilder.bind() + FrameBuilder.execute()
            + FrameBuilder.query("SELECT 2") + FrameBuilder.query("LISTEN a_channel_with_quite_a_long_name"))
        #expect(try client.readToReady().last?.transactionStatus == "T")
        #expect(try client.readToReady().compactMap(\.sqlState) == ["0A000"])
        // From the INSERT on it has its server, and messages go as they come.
        for sql in ["ROLLBACK", "BEGIN", "INSERT INTO t VALUES (1)", "SET statement_timeout = 4321", "COMMIT"] {
            #expect(try client.query(sql).compactMap(\.sqlState) == [], "\(sql)")
        }
        #expect(try client.value("SHOW statement_timeout") == "4321ms")
        let other = try WireClient(port: godwit.port, database: database, user: "app")
        #expect(try other.value("SHOW statement_timeout") == "0")
    }

    @Test func `who reads no answers has no more asked for on NEW`() throws {
        let (godwit, database) = try readOnNew()
        let queries = 1000
        let greedy = try WireClient(
            port: godwit.port, database: database, user: "app", parameters: [("godwit.user", "greedy")])
        greedy.sendMeanwhile((0..<queries).flatMap { _ in FrameBuilder.query("SELECT repeat('x', 50000)") })
        var unsent = -1
        try waitUntil {
            let before = unsent
            unsent = try godwit.console("SHOW SOCKETS").filter { $0["database"] == database }
                .compactMap { Int($0["send_remain"] ?? "") }.max() ?? 0
            return unsent > 0 && unsent == before
        }
        #expect(unsent < 1 << 20)
        for _ in 0..<queries { #expect(try greedy.readToReady().contains { $0.type == "C" }) }
    }

    private func readOnNew() throws -> (GodwitProcess, String) {
        let database = try servers.makeMarkedDatabase("CREATE TABLE t (n int)")
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "100" }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        return (godwit, database)
    }

    private func begunOnNew(_ godwit: GodwitProcess, _ database: String, _ user: String) throws -> WireClient {
        let client = try WireClient(
            port: godwit.port, database: database, user: "app", parameters: [("godwit.user", user)])
        _ = try client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        return client
    }

    @Test(arguments: ["user", "global"])
    func `no user ever goes back in time while shares move and NEW dies`(consistency: String) throws {
        let servers = try Servers()
        let database = try servers.makeDatabase(
            "CREATE TABLE counter (who int PRIMARY KEY, n int NOT NULL)",
            old: "INSERT INTO counter SELECT g, 0 FROM generate_series(0, 19) g")
        let godwit = try servers.mirroring(database) {
            $0.database.readsPercent = "60"
            // However busy the machine is: who waits long enough reads on NEW.
            $0.database.reads = ["consistency": consistency, "consistency_wait_millis": "10000"]
            // Nor is NEW given up for being slow beside many others.
            $0.database.breaker = ["held": "1", "memory": "0", "rollback": "off", "lag": "0", "read_timeout_millis": "0"]
            $0.threads = 2
        }
        print("seed \(Self.seed)")
        #expect(try onNew(godwit) == 0)
        let load = try startDriver(
            "history", [godwit.conninfo(database: database), "\(Self.seed)", "20", "2", "400"], keepsInput: true)
        for share in ["100", "30", "80", "0", "100"] {
            _ = try godwit.console("READS \(database) \(share)")
            let before = try onNew(godwit)
            if share == "0" { continue }
            // Far more operations than any share needs end the load: then NEW serves nothing.
            try waitUntil("reads on NEW at \(share) %") { try onNew(godwit) > before + 200 || load.hasEnded }
            let breakers = try godwit.console("SHOW BREAKERS")
            #expect(!load.hasEnded, "at \(share) %: \(breakers)")
            if share == "80" {
                servers.new.kill9()
                try servers.new.start()
            }
        }
        load.endInput()
        load.wait()
        #expect(load.output.text.hasSuffix("ok\n"), "\(load.output.text) \(load.errors.text)")
    }
}
