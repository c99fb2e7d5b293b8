import Glibc
import TestSupport
import Testing

/// What operators have ordered goes on with the process that takes over.
@Suite(.serialized) struct HandedOrderTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    private func row(_ godwit: GodwitProcess, _ command: String, _ name: String) throws -> [String: String] {
        try #require(try godwit.console(command).first { [$0["database"], $0["name"], $0["key"]].contains(name) })
    }

    /// Without waiting until the login is through.
    private func login(_ godwit: GodwitProcess, _ database: String) throws -> WireClient {
        let client = try WireClient(port: godwit.port)
        client.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
        return client
    }

    @Test func `SET, READS, FORCE, MIRROR, DISABLE and PAUSE are in force through two hand-overs`() throws {
        let mirrored = try servers.makeDatabase("CREATE TABLE item (id int PRIMARY KEY, word text)")
        let paused = try servers.makeMarkedDatabase()
        let disabled = try servers.makeMarkedDatabase()
        let forced = try servers.makeMarkedDatabase()
        var running = try servers.mirroring(mirrored) { configuration in
            for name in [paused, disabled, forced] {
                var entry = servers.entry(name)
                entry.readsPercent = "100"
                configuration.databases.append(entry)
            }
            configuration.listen["takeover_wait"] = "100000"
        }
        let timeout = "databases.\(mirrored).pool.query_timeout"
        for order in [
            "SET query_timeout = 77", "SET \(timeout) = 78", "SET admin.stats_users = [grafana, 'two words']",
            "READS \(paused) 12.5", "FORCE \(forced) OLD", "MIRROR PAUSE \(mirrored)", "MIRROR THROTTLE \(mirrored) 4321",
            "DISABLE \(disabled)", "PAUSE \(paused)",
        ] { _ = try running.console(order) }
        let waits = try login(running, paused)
        for isBySignal in [false, true] {
            if isBySignal {
                // Nothing is held that SIGUSR2 lets go.
                let before = running.log.lines.count
                running.process.send(SIGUSR2)
                let line = try running.log.waitForLine(containing: "has taken over and serves", skipping: before)
                let digits = line.firstMatch(of: /process ([0-9]+) has taken over/)?.output.1 ?? ""
                let process = try #require(pid_t(digits))
                defer { kill(process, SIGKILL) }
                try expectOrders(running)
                // Read again, the file has the last word.
                _ = try running.console("RELOAD")
                #expect(try row(running, "SHOW CONFIG", "pool.query_timeout")["value"] != "77")
            } else {
                let next = try GodwitProcess(takingOverFrom: running)
                try expectOrders(next)
                #expect(try row(next, "SHOW MIRROR", mirrored)["state"] != "mirroring")
                let held = try login(next, paused)
                _ = try next.console("RESUME \(paused)")
                // The one of the process before is let go as well.
                for client in [waits, held] {
                    _ = try client.readToReady()
                    #expect(try client.value("SELECT side FROM side_marker") == "old")
                    client.close()
                }
                #expect(running.process.wait() == .code(0), "\(running.log.text)")
                try next.log.waitForLine(containing: "before this one has ended")
                _ = try next.console("PAUSE \(paused)")
                running = next
            }
        }

        func expectOrders(_ godwit: GodwitProcess) throws {
            #expect(try row(godwit, "SHOW CONFIG", "pool.query_timeout")["value"] == "77")
            #expect(try row(godwit, "SHOW CONFIG", timeout)["value"] == "78")
            #expect(try row(godwit, "SHOW CONFIG", "admin.stats_users")["value"] == "grafana, two words")
            #expect(try row(godwit, "SHOW DATABASES", paused)["paused"] == "1")
            let shares = try godwit.console("SHOW DATABASES").filter { $0["name"] == paused && $0["side"] == "new" }
            #expect(shares.map { $0["reads_percent"] } == ["12.50"])
            #expect(try row(godwit, "SHOW DATABASES", disabled)["disabled"] == "1")
            let refused = try login(godwit, disabled)
            #expect(try refused.readToError()?.sqlState == "57P03")
            #expect(try godwit.console("SHOW BREAKERS").contains { $0["database"] == forced && $0["forced"] != "" })
            try waitUntil { try row(godwit, "SHOW MIRROR", mirrored)["state"] == "paused" }
        }
    }

    @Test func `PAUSE is true of the process before as well, and no order is lost in it`() throws {
        let database = try servers.makeMarkedDatabase()
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.listen["takeover_wait"] = "100000"
        configuration.threads = 2
        let old = try GodwitProcess(configuration)
        let before = try WireClient(port: old.port, database: "godwit", user: "godwit")
        let busy = try WireClient(port: old.port, database: database)
        // Longer, as JSON has it, than a word from one process to the other may be.
        _ = try busy.query("SET application_name = '\(String(repeating: "/", count: 50_000))'")
        _ = try busy.query("BEGIN; UPDATE side_marker SET id = 2")
        let new = try GodwitProcess(takingOverFrom: old)
        let refusal = try #require(try before.query("SET query_timeout = 5").first { $0.sqlState != nil })
        #expect(refusal.fields["M"]?.contains("connect again") == true, "\(refusal)")

        let console = try WireClient(port: new.port, database: "godwit", user: "godwit")
        // Not reached in time: who is in the way is named, though he is a client of the other process.
        let error = try #require(try console.query("PAUSE \(database) 0.1").first)
        #expect(error.sqlState == "57014")
        #expect(error.fields["D"]?.contains("app") == true, "\(error)")
        console.send(FrameBuilder.query("PAUSE \(database)"))
        try waitUntil { try row(new, "SHOW DATABASES", database)["paused"] == "1" }
        #expect(try busy.query("COMMIT").first?.commandTag == "COMMIT")
        #expect(try console.readToReady().first?.commandTag == "PAUSE")
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = '\(database)'"
        try waitUntil { try servers.old.psql(sql) == "0" }
        busy.send(FrameBuilder.query("SELECT id FROM side_marker"))
        #expect(try console.query("RESUME \(database)").first?.commandTag == "RESUME")
        #expect(try busy.readToReady().contains { $0.columns == ["2"] })

        // One that dies has nothing open any more.
        _ = try busy.query("BEGIN; UPDATE side_marker SET id = 3")
        console.send(FrameBuilder.query("PAUSE \(database)"))
        try waitUntil { try row(new, "SHOW DATABASES", database)["paused"] == "1" }
        old.process.send(SIGKILL)
        old.process.wait()
        #expect(try console.readToReady().first?.commandTag == "PAUSE")
        #expect(try console.query("RESUME \(database)").first?.commandTag == "RESUME")
        let next = try WireClient(port: new.port, database: database)
        #expect(try next.value("SELECT id FROM side_marker") == "2")
    }

    @Test func `what the next process holds ends with it, for the clients of the process before as well`() throws {
        let database = try servers.makeMarkedDatabase()
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.listen["takeover_wait"] = "100000"
        configuration.threads = 2
        let old = try GodwitProcess(configuration)
        let client = try WireClient(port: old.port, database: database)
        #expect(try client.value("SELECT side FROM side_marker") == "old")
        let new = try GodwitProcess(takingOverFrom: old)
        // Answered when it is true of both.
        _ = try new.console("PAUSE \(database)")
        client.send(FrameBuilder.query("SELECT side FROM side_marker"))
        new.process.send(SIGKILL)
        new.process.wait()
        #expect(try client.readToReady().contains { $0.columns == ["old"] })
    }

    @Test func `a signal that comes to both processes holds nothing that RESUME would leave held`() throws {
        let database = try servers.makeMarkedDatabase()
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.listen["takeover_wait"] = "100000"
        let old = try GodwitProcess(configuration)
        let client = try WireClient(port: old.port, database: database)
        #expect(try client.value("SELECT side FROM side_marker") == "old")
        let new = try GodwitProcess(takingOverFrom: old)
        for godwit in [old, new] { godwit.process.send(SIGUSR1) }
        try old.log.waitForLine(containing: "order it there")
        try waitUntil { try row(new, "SHOW STATE", "paused")["value"] == "yes" }
        client.send(FrameBuilder.query("SELECT side FROM side_marker"))
        _ = try new.console("RESUME")
        #expect(try client.readToReady().contains { $0.columns == ["old"] })
    }
}
