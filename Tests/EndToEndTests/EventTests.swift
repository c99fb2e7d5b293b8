import Foundation
import TestSupport
import Testing

/// Events on the console, in the log, in figures and given to hooks.
@Suite(.serialized) struct EventTests {
    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase()
    }

    @Test func `decisions are told on the console, in the log, in figures and to hooks`() throws {
        let port = try FreePort.find()
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.http = ["port": "\(port)"]
        let directory = try GodwitProcess.makeDirectory(configuration)
        let hook = directory + "/hook", told = directory + "/told"
        try "#!/bin/sh\nexec cat >> \(told)\n".write(toFile: hook, atomically: true, encoding: .utf8)
        chmod(hook, 0o755)
        configuration.sections = "events: {hooks: [\(hook)]}"
        let godwit = try GodwitProcess(configuration)
        _ = try godwit.console("READS \(database) 12.5")
        let event = try #require(try godwit.console("SHOW EVENTS").first)
        #expect(event["kind"] == "phase" && event["database"] == database && event["side"] == "new")
        #expect(event["figures"] == "percent_before=0 percent=12.5")
        try godwit.log.waitForLine(containing: "phase of \(database) new: READS \(database): 0.00 -> 12.50")
        configuration.database.pool = ["size": "7"]
        try godwit.reload(configuration)
        try waitUntil { try godwit.console("SHOW EVENTS").first?["kind"] == "reload" }
        let answer = try HTTPExchange.get("/metrics", port: port)
        #expect(answer.body.contains("godwit_events_total{kind=\"phase\"} 1"))
        try waitUntil {
            _ = try godwit.console("SHOW VERSION")
            let text = (try? String(contentsOfFile: told, encoding: .utf8)) ?? ""
            return text.contains("\"kind\":\"phase\"") && text.contains("\"kind\":\"reload\"")
        }
        // SET is as good as the file.
        let other = directory + "/other"
        try "#!/bin/sh\nexec cat >> \(told)-too\n".write(toFile: other, atomically: true, encoding: .utf8)
        chmod(other, 0o755)
        _ = try godwit.console("SET events.hooks = [\(other)]")
        _ = try godwit.console("READS \(database) 25")
        try waitUntil {
            _ = try godwit.console("SHOW VERSION")
            let text = (try? String(contentsOfFile: told + "-too", encoding: .utf8)) ?? ""
            return text.contains("-> 25.00")
        }
        // A hook that cannot be run refuses the reload.
        configuration.sections = "events: {hooks: [/nowhere]}"
        let lines = try godwit.reload(configuration)
        #expect(lines.contains { $0.contains("refused") && $0.contains("events.hooks") })
    }

    @Test func `the examples tell a chat of everything, and wake somebody for what needs a person`() throws {
        let webhook = try startDriver("webhook", [])
        let line = try webhook.output.waitForLine(containing: "port ")
        let address = "http://127.0.0.1:\(line.dropFirst("port ".count))"
        let relay = try TCPRelay(to: servers.new.port)
        var entry = servers.entry(database)
        entry.new = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        entry.readsPercent = "100"
        entry.breaker = ["failures": "2", "rollback": "off"]
        var configuration = GodwitConfiguration([entry])
        let folder = TestResources.packageRoot + "/conf/hooks"
        configuration.sections = "events: {hooks: [\(folder)/chat-webhook, \(folder)/pager]}"
        let godwit = try GodwitProcess(configuration, environment: [
            "GODWIT_CHAT_URL_FILE": try TestResources.file("chat", address + "/chat\n"),
            "GODWIT_PAGER_URL_FILE": try TestResources.file("pager", address + "/pager\n"),
            "GODWIT_PAGER_KEY_FILE": try TestResources.file("key", "secret-key\n"),
        ])
        try webhook.output.waitForLine(containing: "Godwit: start")
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        relay.become(.refusing)
        let client = try WireClient(port: godwit.port, database: database)
        while try !godwit.console("SHOW EVENTS").contains(where: { $0["kind"] == "trip" }) {
            #expect(try client.value("SELECT side FROM side_marker") == "old")
        }
        let page = try webhook.output.waitForLine(containing: "/pager ")
        #expect(page.contains("\"routing_key\": \"secret-key\"") && page.contains("godwit trip \(database) new"), "\(page)")
        try webhook.output.waitForLine(containing: "Godwit: trip \(database) new")
        // Nobody is woken for a start.
        #expect(webhook.output.lines.count { $0.hasPrefix("/pager ") } == 1)
    }

    @Test func `a pool that pinned clients keep is told once`() throws {
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "2"] }
        let clients = try (0..<2).map { _ in try WireClient(port: godwit.port, database: database) }
        for client in clients { _ = try client.query("CREATE TEMPORARY TABLE own (id int)") }
        try godwit.log.waitForLine(containing: "pin_flood of \(database) old")
        #expect(try godwit.console("SHOW EVENTS").count { $0["kind"] == "pin_flood" } == 1)
    }

    @Test func `a mirror that is paused and goes on is told`() throws {
        let database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)")
        let godwit = try servers.mirroring(database)
        for (order, state) in [("PAUSE", "paused"), ("RESUME", "mirroring")] {
            _ = try godwit.console("MIRROR \(order) \(database)")
            try waitUntil {
                let event = try godwit.console("SHOW EVENTS").first { $0["kind"] == "mirror" }
                return event?["cause"]?.hasPrefix("the mirror is \(state)") == true && event?["database"] == database
            }
        }
    }
}
