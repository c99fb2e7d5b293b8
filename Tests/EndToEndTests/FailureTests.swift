import TestSupport
import Testing

/// A side dies. Each test has servers of its own to kill.
@Suite(.serialized) struct FailureTests {
    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers()
        database = try servers.makeMarkedDatabase()
    }

    func configuration(percent: String = "100") -> GodwitConfiguration {
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.readsPercent = percent
        configuration.database.pool = ["server_login_retry": "0.1", "query_wait_timeout": "5"]
        configuration.database.breaker = ["failures": "3", "held": "0.3", "probes": "2", "memory": "0"]
        return configuration
    }

    @Test(arguments: ["simple", "prepared"])
    func `NEW dies and comes back, and no client notices`(mode: String) throws {
        let godwit = try GodwitProcess(configuration())
        let reader = try ChildProcess(
            [
                TestResources.packageRoot + "/.build/venv/bin/python",
                TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/steady_reads.py",
                godwit.conninfo(database: database), mode,
            ], keepsInput: true)
        /// While NEW is probed, answers come from both sides in turn: it is back when all come from it.
        func waitUntilAllFromNew() throws {
            try waitUntil {
                try #require(!reader.hasEnded, "\(reader.output.text)\(reader.errors.text)")
                let isClosed = try godwit.console("SHOW BREAKERS").allSatisfy { $0["state"] == "closed" }
                return isClosed && reader.output.lines.last?.hasPrefix("side new") == true
            }
        }
        try waitUntilAllFromNew()
        for _ in 1...2 {
            let seen = reader.output.lines.count
            servers.new.kill9()
            try reader.output.waitForLine(containing: "side old", skipping: seen)
            #expect(try godwit.console("SHOW BREAKERS").contains { $0["side"] == "new" && $0["state"] != "closed" })
            try servers.new.start()
            try waitUntilAllFromNew()
        }
        reader.endInput()
        try reader.waitForSuccess()
        #expect(reader.output.lines.last == "errors 0")
    }

    @Test func `NEW stops in good order, and no client notices`() throws {
        let godwit = try GodwitProcess(configuration())
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        try servers.new.stop()
        for _ in 0..<20 { #expect(try client.value("SELECT side FROM side_marker") == "old") }
        try servers.new.start()
        try waitUntil { try client.value("SELECT side FROM side_marker") == "new" }
    }

    @Test func `whom NEW does not let in reads on OLD, and NEW is not given up for that`() throws {
        try servers.old.createRole("guest")
        try servers.old.psql("GRANT SELECT ON side_marker TO guest", database: database)
        let godwit = try GodwitProcess(configuration())
        let guest = try WireClient(port: godwit.port, database: database, user: "guest")
        func breaker() throws -> [String: String] {
            try #require(try godwit.console("SHOW BREAKERS").first { $0["side"] == "new" })
        }
        for _ in 0..<20 { #expect(try guest.value("SELECT side FROM side_marker") == "old") }
        #expect(try breaker()["failures_in_row"] == "0" && breaker()["state"] == "closed")
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try client.value("SELECT side FROM side_marker") == "new")

        try servers.new.stop()
        try waitUntil {
            #expect(try client.value("SELECT side FROM side_marker") == "old")
            return try breaker()["state"] == "open"
        }
        try servers.new.start()
        // What becomes of a guest's read tells nothing: others find out.
        try waitUntil {
            #expect(try guest.value("SELECT side FROM side_marker") == "old")
            return try breaker()["state"] == "half-open"
        }
        for _ in 0..<20 { #expect(try guest.value("SELECT side FROM side_marker") == "old") }
        #expect(try breaker()["state"] == "half-open")
        try waitUntil { try client.value("SELECT side FROM side_marker") == "new" }
    }

    @Test func `who has begun a transaction is not left outside of one when its server is lost`() throws {
        let relay = try TCPRelay(to: servers.old.port)
        var configuration = configuration()
        configuration.database.old = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        let godwit = try GodwitProcess(configuration)
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("BEGIN /* of a writer */")
        relay.cutAfterAnswer(to: "of a writer")
        client.send(FrameBuilder.query("UPDATE side_marker SET side = side"))
        #expect(try client.readToEnd().last { $0.type == "E" }?.fields["S"] == "FATAL")
    }

    @Test func `a transaction whose BEGIN has a name begins on OLD where NEW fails its first read`() throws {
        typealias Frame = FrameBuilder
        let relay = try TCPRelay(to: servers.new.port)
        var configuration = configuration()
        configuration.database.new = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        let godwit = try GodwitProcess(configuration)
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        relay.cutAfterAnswer(to: "of a reader")
        // In one batch, as pgjdbc sends it.
        let begin = Frame.parse("BEGIN", name: "S_1") + Frame.bind(statement: "S_1") + Frame.execute()
        let read = Frame.parse("SELECT side FROM side_marker /* of a reader */") + Frame.bind() + Frame.execute()
        client.send(begin + read + Frame.sync)
        let answers = try client.readToReady()
        #expect(answers.map(\.type) == ["1", "2", "C", "1", "2", "D", "C", "Z"])
        #expect(answers.first { $0.type == "D" }?.columns == ["old"])
        #expect(answers.last?.transactionStatus == "T")
        #expect(try client.query("COMMIT").first?.commandTag == "COMMIT")
    }

    @Test func `who waits in vain for a server of NEW reads on OLD`() throws {
        var configuration = configuration()
        // Long enough for a server to be made where there is a place for it.
        configuration.database.pool = ["size": "1", "query_wait_timeout": "3"]
        configuration.database.breaker = ["read_timeout_millis": "0"]
        let godwit = try GodwitProcess(configuration)
        let owner = try WireClient(port: servers.new.port, database: database)
        _ = try owner.query("BEGIN")
        _ = try owner.query("LOCK TABLE side_marker")
        let holder = try WireClient(port: godwit.port, database: database)
        holder.send(FrameBuilder.query("SELECT side FROM side_marker"))
        try waitUntil {
            try servers.new.psql("SELECT count(*) FROM pg_locks WHERE NOT granted", database: database) == "1"
        }
        let other = try WireClient(port: godwit.port, database: database)
        #expect(try other.value("SELECT side FROM side_marker") == "old")
        _ = try owner.query("COMMIT")
        #expect(try holder.readToReady().contains { $0.columns == ["new"] })
    }

    @Test func `Godwit starts with NEW down, says so, and uses it when it is there`() throws {
        servers.new.kill9()
        let godwit = try GodwitProcess(configuration())
        let client = try WireClient(port: godwit.port, database: database)
        for _ in 0..<10 { #expect(try client.value("SELECT side FROM side_marker") == "old") }
        try godwit.log.waitForLine(containing: "\(servers.new.port)")
        try servers.new.start()
        try waitUntil { try client.value("SELECT side FROM side_marker") == "new" }
    }

    @Test func `Godwit starts with OLD down, answers with a clear error, and serves when OLD is there`() throws {
        servers.old.kill9()
        var configuration = configuration(percent: "0")
        configuration.database.pool["query_wait_timeout"] = "0.5"
        let godwit = try GodwitProcess(configuration)
        #expect(throws: TestFailure.self) { try godwit.psql("SELECT 1", database: database) }
        try servers.old.start()
        waitUntil {
            (try? godwit.psql("SELECT side FROM side_marker", database: database)) == "old"
        }
    }

    @Test func `OLD dies: its clients get an error, and OLD is used again when it is back`() throws {
        let godwit = try GodwitProcess(configuration(percent: "0"))
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("BEGIN")
        #expect(try client.value("SELECT side FROM side_marker FOR UPDATE") == "old")
        servers.old.kill9()
        #expect(["08006", "57P01", "57P02"].contains(try client.readToEnd().last { $0.type == "E" }?.sqlState))
        #expect(!godwit.process.hasEnded)
        try servers.old.start()
        waitUntil {
            (try? godwit.psql("SELECT side FROM side_marker", database: database)) == "old"
        }
    }

    /// With consistency global every read on NEW waits for the mirror. And of many clients of one user some always read on
    /// OLD while one waits for NEW to have what was read there before.
    @Test(arguments: [("global", 1), ("global", 40), ("user", 40)])
    func `NEW comes back also where reads there wait for the mirror`(consistency: String, count: Int) throws {
        let database = try servers.makeDatabase("CREATE TABLE t (n int PRIMARY KEY)")
        let godwit = try servers.mirroring(database) {
            $0.database.readsPercent = "100"
            $0.database.reads = ["consistency": consistency, "consistency_wait_millis": "10000"]
            $0.database.breaker = ["failures": "3", "held": "0.3", "probes": "2", "memory": "0", "rollback": "off"]
        }
        let clients = try (0..<count).map { _ in
            try WireClient(port: godwit.port, database: database, user: "app", parameters: [("godwit.user", "7")])
        }
        func readUntilBreaker(is state: String) throws {
            try waitUntil("a breaker that is \(state)") {
                for _ in 0..<10 {
                    for client in clients { client.send(FrameBuilder.query("SELECT count(*) FROM t")) }
                    for client in clients { #expect(try client.readToReady().contains { $0.columns == ["0"] }) }
                }
                return try godwit.console("SHOW BREAKERS").contains { $0["side"] == "new" && $0["state"] == state }
            }
        }
        try readUntilBreaker(is: "closed")
        servers.new.kill9()
        try readUntilBreaker(is: "open")
        try servers.new.start()
        try readUntilBreaker(is: "closed")
    }

    @Test func `NEW dies under writes and reads, and both sides are equal when it is back`() throws {
        let old = servers.old
        let conninfo = old.conninfo(database: database, user: "app")
        try ChildProcess.run(["pgbench", "-iq", "-s", "1", conninfo])
        try old.psql("ALTER TABLE pgbench_history ADD COLUMN hid bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
            database: database)
        let tables = try ChildProcess.run([
            "pg_dump", "--schema-only", "-t", "pgbench_*", old.conninfo(database: database, user: "postgres"),
        ])
        try servers.new.psql(tables, database: database)
        try servers.new.psql("TRUNCATE side_marker", database: database)

        var configuration = configuration()
        configuration.database.mirror = ["mode": "async"]
        let directory = try GodwitProcess.makeDirectory(configuration)
        let prepare = try GodwitProcess.command(["prepare", "--config", directory + "/godwit.yaml", database])
        try #require(prepare.wait() == .code(0), "\(prepare.errors.text)")
        let godwit = try GodwitProcess(configuration)
        try waitUntil { try godwit.console("SHOW MIRROR").contains { $0["readable"] == "yes" } }

        let loads = try [["-S"], []].map { kind in
            try ChildProcess(
                ["pgbench", "-n", "-c", "4", "-t", "2000", "-M", "prepared", "-s", "1"] + kind
                    + [godwit.conninfo(database: database)])
        }
        // Not before writes have come to NEW.
        try waitUntil { try servers.new.psql("SELECT count(*) > 0 FROM pgbench_history", database: database) == "t" }
        servers.new.kill9()
        try servers.new.start()
        for load in loads { #expect(try load.waitForSuccess().contains("number of failed transactions: 0 ")) }
        try waitUntil { try godwit.console("SHOW MIRROR").contains { $0["readable"] == "yes" } }
        let verify = try GodwitProcess.command(["verify", "--config", directory + "/godwit.yaml", database])
        #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
    }
}
