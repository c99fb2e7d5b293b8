import Foundation
import Glibc
import TestSupport
import Testing

/// Signals and the console.
@Suite(.serialized) struct OperationsTests {
    let servers: Servers
    let database: String
    let configuration: GodwitConfiguration
    let godwit: GodwitProcess

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase()
        configuration = GodwitConfiguration([servers.entry(database)])
        godwit = try GodwitProcess(configuration)
    }

    func side(_ client: WireClient) throws -> String? { try client.value("SELECT side FROM side_marker") }

    func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }

    func changed(_ change: (inout GodwitConfiguration.Database) -> Void) -> GodwitConfiguration {
        var result = configuration
        change(&result.database)
        return result
    }

    // MARK: reload

    @Test func `SIGHUP takes a good file, logs what changed, and keeps the clients`() throws {
        let client = try connect()
        #expect(try side(client) == "old")
        let said = try godwit.reload(changed { $0.readsPercent = "100" })
        #expect(said.contains { $0.contains("percent") && $0.contains("0 -> 100") }, "\(said)")
        #expect(try side(client) == "new")
        try godwit.reload(changed { $0.readsPercent = "0" })
        #expect(try side(client) == "old")
    }

    static let badFiles: [(String, @Sendable (String) -> String, String)] = [
        ("an unknown key", { $0.replacing("percent: 100", with: "percents: 100") }, "percents"),
        ("an impossible value", { $0.replacing("percent: 100", with: "percent: 101") }, "percent"),
        ("a wrong type", { $0.replacing("pool: {}", with: "pool: {size: [1]}") }, "size"),
        ("no YAML", { $0 + "\n  ]" }, ""),
        ("nothing", { _ in "" }, ""),
    ]

    @Test(arguments: 0..<5)
    func `SIGHUP with a bad file changes nothing and says why`(index: Int) throws {
        let (what, spoil, key) = Self.badFiles[index]
        let client = try connect()
        let good = changed { $0.readsPercent = "100" }.text(directory: godwit.directory)
        let said = try godwit.reload(text: spoil(good))
        #expect(said.contains { $0.contains(godwit.configurationPath) }, "\(what): \(said)")
        #expect(said.contains { key.isEmpty || $0.contains(key) }, "\(what): \(said)")
        #expect(try side(client) == "old")
        try godwit.reload(text: good)
        #expect(try side(client) == "new")
    }

    @Test func `what needs a restart is named so, and the rest of the file is taken`() throws {
        let client = try connect()
        var next = changed { $0.readsPercent = "100"; $0.pool = ["size": "7"] }
        next.threads = 2
        let said = try godwit.reload(next).joined(separator: "\n")
        #expect(said.contains("listen.threads: 1 -> 2 (needs a restart)"), "\(said)")
        #expect(said.contains("pool.size: 20 -> 7"), "\(said)")
        #expect(try side(client) == "new")
    }

    @Test func `RELOAD in the console is SIGHUP`() throws {
        let text = changed { $0.readsPercent = "100" }.text(directory: godwit.directory)
        try text.write(toFile: godwit.configurationPath, atomically: true, encoding: .utf8)
        let client = try connect()
        _ = try godwit.console("RELOAD")
        try waitUntil { try side(client) == "new" }
    }

    // MARK: console

    /// PgBouncer's columns, those that all of its versions of the last years have, in their order.
    static let columns: [(String, [String], Bool)] = [
        ("SHOW POOLS", ["database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used", "sv_tested",
            "sv_login", "maxwait", "maxwait_us", "pool_mode"], true),
        ("SHOW CLIENTS", ["type", "user", "database", "state", "addr", "port", "local_addr", "local_port",
            "connect_time", "request_time", "wait", "wait_us", "close_needed", "ptr", "link", "remote_pid", "tls"], false),
        ("SHOW SERVERS", ["type", "user", "database", "state", "addr", "port", "local_addr", "local_port",
            "connect_time", "request_time", "wait", "wait_us", "close_needed", "ptr", "link", "remote_pid", "tls"], true),
        ("SHOW DATABASES", ["name", "host", "port", "database", "force_user", "pool_size", "pool_mode",
            "max_connections", "current_connections", "paused", "disabled"], true),
        ("SHOW STATS", ["database", "total_xact_count", "total_query_count", "total_received", "total_sent",
            "total_xact_time", "total_query_time", "total_wait_time", "avg_xact_count", "avg_query_count", "avg_recv",
            "avg_sent", "avg_xact_time", "avg_query_time", "avg_wait_time"], false),
        ("SHOW LISTS", ["list", "items"], false),
        ("SHOW CONFIG", ["key", "value", "default", "changeable"], false),
        ("SHOW VERSION", ["version"], false),
        ("SHOW MIRROR", ["database", "state", "reason", "batches", "keys", "rows_copied", "rows_estimated",
            "lag_p50_us", "lag_p99_us"], false),
        ("SHOW BREAKERS", ["database", "side", "state"], false),
        ("SHOW ROUTES", ["database", "side", "kind", "reason", "units"], false),
    ]

    @Test(arguments: 0..<11)
    func `the console answers with PgBouncer's columns`(index: Int) throws {
        let (command, expected, hasSide) = Self.columns[index]
        let client = try connect()
        #expect(try side(client) == "old")
        let columns = try godwit.consoleColumns(command)
        #expect(columns.filter { expected.contains($0) } == expected, "\(command): \(columns)")
        if hasSide {
            let position = columns.firstIndex(of: "side") ?? -1
            #expect(position > (columns.lastIndex { expected.contains($0) } ?? 0), "\(command): \(columns)")
        }
        #expect(try godwit.console(command.lowercased() + ";").count > 0)
    }

    @Test func `the console's numbers are those of the clients`() throws {
        let clients = try (0..<3).map { _ in try connect() }
        for client in clients { _ = try client.query("BEGIN") }
        for client in clients { _ = try client.query("SELECT 1 FROM side_marker FOR SHARE") }
        let pool = try #require(try godwit.console("SHOW POOLS").first {
            $0["database"] == database && $0["side"] == "old" && $0["user"] == "app"
        })
        #expect(pool["cl_active"] == "3" && pool["sv_active"] == "3" && pool["cl_waiting"] == "0")
        #expect(pool["pool_mode"] == "transaction")
        #expect(try godwit.console("SHOW CLIENTS").count { $0["database"] == database } == 3)
        #expect(try godwit.console("SHOW SERVERS").count { $0["database"] == database } == 3)
        #expect(try godwit.console("SHOW DATABASES").contains { $0["name"] == database && $0["side"] == "new" })
        for client in clients { _ = try client.query("COMMIT") }
        let stats = try godwit.console("SHOW STATS").filter { $0["database"] == database }
        #expect((Int(stats.first?["total_xact_count"] ?? "") ?? 0) >= 3)
        #expect(try godwit.console("SHOW VERSION").first?["version"]?.lowercased().contains("godwit") == true)
    }

    @Test func `SHOW HELP helps, and what is unknown is an error`() throws {
        let help = try godwit.console("SHOW HELP")
        #expect(help.contains { $0.values.contains { $0.contains("SHOW POOLS") } })
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        for command in ["SHOW NONSENSE", "DROP TABLE x", "READS nowhere 10", "READS \(database) 101", "READS \(database)"] {
            #expect(try console.query(command).contains { $0.type == "E" }, "\(command)")
        }
        #expect(try console.query("SHOW VERSION").last?.transactionStatus == "I")
    }

    @Test func `only the admin's users may use the console`() throws {
        let stranger = try WireClient(port: godwit.port)
        stranger.send(FrameBuilder.startup([("user", "app"), ("database", "godwit")]))
        #expect(try stranger.readToEnd().last?.type == "E")
    }

    @Test func `a users file that is broken between reloads keeps nothing else from going on`() throws {
        var configuration = GodwitConfiguration([servers.entry(try servers.makeMarkedDatabase())])
        configuration.users = "\"app\" \"\"\n"
        let godwit = try GodwitProcess(configuration)
        let database = configuration.database.name
        try "broken".write(toFile: godwit.directory + "/users.txt", atomically: true, encoding: .utf8)
        _ = try godwit.console("READS \(database) 100")
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try client.value("SELECT side FROM side_marker") == "new")
    }

    @Test func `READS moves reads at once`() throws {
        let client = try connect()
        #expect(try side(client) == "old")
        _ = try godwit.console("READS \(database) 100")
        try waitUntil { try side(client) == "new" }
        _ = try godwit.console("READS \(database) 0.5")
        try waitUntil { try side(client) == "old" }
    }

    // MARK: the end

    @Test func `SIGTERM lets open transactions end, takes no new clients, and ends`() throws {
        let client = try connect()
        _ = try client.query("BEGIN")
        _ = try client.query("UPDATE side_marker SET id = 2")
        let idle = try connect()
        godwit.process.send(SIGTERM)
        #expect(try idle.readToEnd().allSatisfy { $0.type == "E" })
        #expect(throws: (any Error).self) { try connect() }
        #expect(try client.query("SELECT 1").last?.transactionStatus == "T")
        #expect(try client.query("COMMIT").first?.commandTag == "COMMIT")
        _ = try client.readToEnd()
        #expect(godwit.process.wait() == .code(0))
        #expect(try servers.old.psql("SELECT id FROM side_marker", database: database) == "2")
    }

    @Test func `SIGTERM ends who keeps its server when its query has ended, and who was refused one`() throws {
        let godwit = try GodwitProcess(changed { $0.pool = ["size": "1", "query_wait_timeout": "2"] })
        func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }
        let (idle, waiting, pinned) = (try connect(), try connect(), try connect())
        _ = try pinned.query("LISTEN news")
        let owner = try WireClient(port: servers.old.port, database: database)
        _ = try owner.query("SELECT pg_advisory_lock(7)")
        pinned.send(FrameBuilder.query("SELECT pg_advisory_xact_lock(7)"))
        waiting.send(FrameBuilder.query("SELECT 1"))
        // A busy machine may have it refused before it is seen to wait.
        try waitUntil {
            try waiting.hasSomethingToRead || godwit.console("SHOW CLIENTS").contains { $0["state"] == "waiting" }
        }
        godwit.process.send(SIGTERM)
        #expect(try idle.readToEnd().last?.sqlState == "57P01")
        #expect(try waiting.readToEnd().compactMap(\.sqlState) == ["53300", "57P01"])
        _ = try owner.query("SELECT pg_advisory_unlock(7)")
        #expect(try pinned.readToEnd().last?.sqlState == "57P01")
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `clients that come together with SIGTERM do it no harm`() throws {
        let clients = try (0..<60).map { _ in try connect() }
        // The thread has something to look at: what comes meanwhile comes to it at once.
        let ones = Array(repeating: "1", count: 12_000).joined(separator: ", ")
        for (number, client) in clients.enumerated() {
            client.send(FrameBuilder.query("SELECT \(number), ARRAY[\(ones)]"))
        }
        godwit.process.send(SIGTERM)
        try godwit.log.waitForLine(containing: "drain")
        let late = (0..<8).compactMap { _ in try? WireClient(port: godwit.port) }
        for client in clients + late { client.close() }
        #expect(godwit.process.wait() == .code(0))
    }

    @Test(arguments: [SIGTERM, SIGINT]) func `a second SIGTERM or SIGINT does not wait`(second: CInt) throws {
        let client = try connect()
        _ = try client.query("BEGIN")
        _ = try client.query("SELECT 1 FROM side_marker FOR UPDATE")
        godwit.process.send(SIGTERM)
        try godwit.log.waitForLine(containing: "drain")
        godwit.process.send(second)
        #expect(godwit.process.wait() == .code(0))
        _ = try? client.readToEnd()
    }

    @Test func `a port that is taken is a clear error`() throws {
        var taken = configuration
        taken.port = godwit.port
        let directory = try GodwitProcess.makeDirectory(taken)
        let second = try GodwitProcess.command(["serve", "--config", directory + "/godwit.yaml"])
        #expect(second.wait() != .code(0))
        #expect(second.errors.text.contains("\(godwit.port)"))
    }

    @Test func `check says which side cannot be reached`() throws {
        let empty = GodwitConfiguration([servers.entry(try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)"))])
        let good = try GodwitProcess.command(
            ["check", "--config", try GodwitProcess.makeDirectory(empty) + "/godwit.yaml"])
        #expect(good.wait() == .code(0), "\(good.output.text)\(good.errors.text)")
        let directory = try GodwitProcess.makeDirectory(changed { $0.new = "host=127.0.0.1 port=1 dbname=x"; $0.controlNew = "" })
        let bad = try GodwitProcess.command(["check", "--config", directory + "/godwit.yaml"])
        #expect(bad.wait() != .code(0))
        #expect((bad.output.text + bad.errors.text).lowercased().contains("new"))
    }
}
