import Foundation
import Glibc
import TestSupport
import Testing

/// /metrics, /healthz and /readyz over real HTTP.
@Suite(.serialized) struct MetricsTests {
    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase()
    }

    private func godwit(
        token: String? = nil, _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> (GodwitProcess, UInt16) {
        let port = try FreePort.find()
        let godwit = try servers.godwit(database) { configuration in
            configuration.http = ["port": "\(port)"]
            if let token {
                configuration.http["token_file"] = "DIRECTORY/token"
                configuration.files["token"] = token
            }
            change(&configuration)
        }
        return (godwit, port)
    }

    private func metrics(_ port: UInt16) throws -> [String: Double] {
        let answer = try HTTPExchange.get("/metrics", port: port)
        try #require(answer.status == 200)
        var samples: [String: Double] = [:]
        for line in answer.body.split(separator: "\n") where !line.hasPrefix("#") {
            let space = try #require(line.lastIndex(of: " "))
            #expect(samples.updateValue(try #require(Double(line[line.index(after: space)...])), forKey: String(line[..<space])) == nil)
        }
        return samples
    }

    @Test func `figures count what clients do, on each side`() throws {
        let (godwit, port) = try godwit {
            $0.threads = 2
            $0.database.readsPercent = "100"
        }
        let before = try metrics(port)
        let name = "database=\"\(database)\""
        #expect(before["godwit_queries_total{\(name)}"] == 0)
        let clients = try (0..<2).map { _ in try WireClient(port: godwit.port, database: database) }
        for client in clients {
            for _ in 0..<5 { _ = try client.query("SELECT side FROM side_marker") }
        }
        // Last: without a mirror their user stays on OLD from here on.
        for client in clients { _ = try client.query("UPDATE side_marker SET side = side") }
        let after = try metrics(port)
        #expect(after["godwit_queries_total{\(name)}"] == 12)
        #expect(after["godwit_transactions_total{\(name)}"] == 12)
        #expect(after["godwit_query_seconds_count{\(name),side=\"new\",kind=\"read\"}"] == 10)
        #expect(after["godwit_query_seconds_count{\(name),side=\"old\",kind=\"other\"}"] == 2)
        #expect(after["godwit_transaction_seconds_count{\(name),side=\"new\",kind=\"read\"}"] == 10)
        #expect(after["migration_query_duration_seconds_count{\(name),operation=\"read\"}"] == 10)
        #expect(after["migration_progress_percent{\(name),phase=\"reads\",table=\"\"}"] == 100)
        #expect(after["godwit_clients{state=\"ready\"}"] == 2)
        #expect(after["godwit_pool_clients{\(name),user=\"app\",side=\"old\",state=\"active\"}"] == 2)
        #expect(after["godwit_breaker_state{\(name),side=\"new\",role=\"other\",state=\"closed\"}"] == 1)
        #expect(after["godwit_query_seconds_bucket{\(name),side=\"new\",kind=\"read\",le=\"+Inf\"}"] == 10)
        let wait = try #require(after["godwit_wait_seconds_count{\(name),side=\"new\",kind=\"read\"}"])
        #expect(wait == 10)
        #expect(try #require(after["process_resident_memory_bytes"]) > 1_000_000)
    }

    @Test func `the names that guides to migrations give are there, with their labels and what has happened`() throws {
        let name = try servers.makeDatabase("CREATE TABLE item (id int PRIMARY KEY, word text)")
        try servers.old.psql("INSERT INTO item SELECT g, 'a' FROM generate_series(1, 7) g", database: name)
        let port = try FreePort.find()
        let godwit = try servers.mirroring(name) { $0.http = ["port": "\(port)"] }
        for id in 11...13 { try godwit.psql("INSERT INTO item VALUES (\(id), 'b')", database: name) }
        // What others write there is found, and mended.
        try servers.new.psql("UPDATE item SET word = 'rogue' WHERE id = 3", database: name)
        func found() throws -> [String: Double] { try metrics(port).filter { $0.key.hasPrefix("migration_") } }
        let base = "database=\"\(name)\""
        let change = "migration_cdc_events_total{\(base),source_table=\"\",event_type=\"change\"}"
        let rogue = "migration_validation_errors_total{\(base),table=\"\",error_type=\"written_on_new\"}"
        try waitUntil {
            let values = try found()
            return try #require(values[change]) >= 3 && #require(values[rogue]) >= 1
        }
        // It is counted when it has been found: the next batch mends it.
        try waitUntil { try servers.new.psql("SELECT word FROM item WHERE id = 3", database: name) == "a" }
        let values = try found()
        #expect(values["migration_cdc_events_total{\(base),source_table=\"public.item\",event_type=\"copy\"}"] == 7)
        #expect(values["migration_progress_percent{\(base),phase=\"copy\",table=\"public.item\"}"] == 100)
        #expect(values["migration_progress_percent{\(base),phase=\"reads\",table=\"\"}"] == 0)
        let lag = "migration_replication_lag_seconds{\(base),source_db=\"\(name)\",target_db=\"\(name)\"}"
        #expect(try #require(values[lag]) >= 0)
        #expect(try #require(values["migration_query_duration_seconds_count{\(base),operation=\"other\"}"]) == 3)
        for (component, category) in [("proxy", "breaker_trip"), ("proxy", "read_retried"), ("mirror", "sync_late")] {
            let error = "component=\"\(component)\",error_category=\"\(category)\""
            #expect(values["migration_errors_total{\(base),\(error)}"] == 0)
        }
    }

    @Test func `shares are shown as they are in force, whatever the file says`() throws {
        let name = try servers.makeDatabase("CREATE TABLE item (id int PRIMARY KEY)")
        let port = try FreePort.find()
        let godwit = try servers.mirroring(name) {
            $0.http = ["port": "\(port)"]
            $0.database.readsPercent = "40"
            $0.database.reads = ["cohorts": "[{name: staff, keys: [\"7\"], percent: 60}]"]
        }
        func expectShares(_ all: Double, cohort: String) throws {
            let values = try metrics(port)
            #expect(values["godwit_reads_share_ratio{database=\"\(name)\"}"] == all)
            let progress = "migration_progress_percent{database=\"\(name)\",phase=\"reads\",table=\"\"}"
            #expect(values[progress] == all * 100)
            #expect(try godwit.console("SHOW COHORTS").map { $0["percent"] } == [cohort])
        }
        try expectShares(0.4, cohort: "60.00")
        _ = try godwit.console("CUTOVER \(name) WITHOUT VERIFY DEADLINE 60000")
        try expectShares(1, cohort: "100.00")
        try waitUntil { try godwit.console("SHOW MIRROR").first?["state"] == "mirroring" }
        _ = try godwit.console("ROLLBACK \(name) WITHOUT VERIFY DEADLINE 60000")
        try expectShares(0, cohort: "0.00")
    }

    @Test func `scrapes go on while a drain waits for a transaction, and readiness says so`() throws {
        let (godwit, port) = try godwit { $0.threads = 2 }
        let ready = try HTTPExchange.get("/readyz", port: port)
        #expect(ready.status == 200)
        let busy = try WireClient(port: godwit.port, database: database)
        _ = try busy.query("BEGIN")
        _ = try busy.query("UPDATE side_marker SET side = side")
        godwit.process.send(SIGTERM)
        try godwit.log.waitForLine(containing: "draining")
        try waitUntil { try HTTPExchange.get("/readyz", port: port).status == 503 }
        // The other thread has ended by now or will soon: its figures are told either way.
        let answer = try HTTPExchange.get("/readyz", port: port)
        #expect(answer.body.contains("\"reasons\":[\"draining\"]"), "\(answer.body)")
        let figures = try metrics(port)
        #expect(figures["godwit_draining"] == 1)
        #expect(figures["godwit_threads"] == 2)
        #expect(try #require(figures["godwit_queries_total{database=\"\(database)\"}"]) >= 1)
        #expect(try HTTPExchange.get("/healthz", port: port).status == 200)
        _ = try busy.query("COMMIT")
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `who waits for its clients to go takes no new ones, and is not ready`() throws {
        let (godwit, port) = try godwit { $0.threads = 2 }
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try HTTPExchange.get("/readyz", port: port).status == 200)
        _ = try godwit.console("SHUTDOWN WAIT_FOR_CLIENTS")
        let answer = try HTTPExchange.get("/readyz", port: port)
        #expect(answer.status == 503 && answer.body.contains("\"reasons\":[\"draining\"]"), "\(answer.body)")
        #expect(try client.value("SELECT side FROM side_marker") == "old")
        client.close()
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `an authority that cannot be connected to makes it not ready`() throws {
        let port = try FreePort.find()
        let closed = try FreePort.find()
        var entry = servers.entry(database)
        entry.old = "host=127.0.0.1 port=\(closed) dbname=\(database)"
        var configuration = GodwitConfiguration([entry])
        configuration.http = ["port": "\(port)"]
        let godwit = try GodwitProcess(configuration)
        let client = try ChildProcess(["psql", "-X", "-d", godwit.conninfo(database: database), "-c", "SELECT 1"])
        try waitUntil { try HTTPExchange.get("/readyz", port: port).status == 503 }
        let answer = try HTTPExchange.get("/readyz", port: port)
        #expect(answer.body.contains("\"old\":\"unreachable\""), "\(answer.body)")
        let parsed = try JSONSerialization.jsonObject(with: Data(answer.body.utf8)) as? [String: Any]
        #expect(parsed?["ready"] as? Bool == false)
        client.send(SIGKILL)
        client.wait()
    }

    @Test func `with a token all but healthz asks for it`() throws {
        let (godwit, port) = try godwit(token: "s3cret\n")
        defer { withExtendedLifetime(godwit) {} }
        #expect(try HTTPExchange.get("/healthz", port: port).status == 200)
        for path in ["/metrics", "/readyz", "/nothing"] {
            let answer = try HTTPExchange.get(path, port: port)
            #expect(answer.status == 401)
            #expect(answer.head.contains("WWW-Authenticate: Bearer"))
            for wrong in ["s3cre", "s3crets", "S3cret", ""] {
                #expect(try HTTPExchange.get(path, port: port, token: wrong).status == 401)
            }
        }
        #expect(try HTTPExchange.get("/metrics", port: port, token: "s3cret").status == 200)
        #expect(try HTTPExchange.get("/nothing", port: port, token: "s3cret").status == 404)
    }

    @Test func `bad requests are refused and good ones go on beside silent clients`() throws {
        let (godwit, port) = try godwit()
        defer { withExtendedLifetime(godwit) {} }
        for (request, status) in [
            ("nonsense\r\n\r\n", 400), ("POST /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", 413),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 400), (String(repeating: "x", count: 100_000), 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \(String(repeating: "x", count: 10_000))\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\(String(repeating: "X: y\r\n", count: 100))\r\n", 400),
            ("\u{0}\u{1}\u{2}\n\n", 400),
        ] {
            #expect(try HTTPExchange(port: port).send(request).answer().status == status)
        }
        // More than there is room for, each in the middle of its head.
        let silent = try (0..<150).map { _ in try HTTPExchange(port: port).send("GET /metr") }
        #expect(try HTTPExchange.get("/metrics", port: port).status == 200)
        #expect(silent.count == 150)
        // Two requests at once on one connection are answered in turn.
        let request = "GET /healthz HTTP/1.1\r\nHost: a\r\n"
        let both = try HTTPExchange(port: port).send(request + "\r\n" + request + "Connection: close\r\n\r\n")
        let text = try both.answer().body
        #expect(text.components(separatedBy: "HTTP/1.1 200").count == 2, "\(text)")
    }

    private static let promtool = TestResources.packageRoot + "/.build/promtool"
    private static let hasPromtool = FileManager.default.isExecutableFile(atPath: promtool)

    @Test(.enabled(if: Self.hasPromtool, "make promtool brings it"))
    func `promtool finds nothing wrong with the format and the rules`() throws {
        let (godwit, port) = try godwit()
        _ = try godwit.psql("SELECT 1", database: database)
        let text = try HTTPExchange.get("/metrics", port: port).body
        let path = try TestResources.file("metrics", text)
        _ = try ChildProcess.run(["sh", "-c", "exec \(Self.promtool) check metrics < \(path)"])
        let rules = TestResources.packageRoot + "/conf/prometheus-rules.yaml"
        _ = try ChildProcess.run([Self.promtool, "check", "rules", rules])
    }

    @Test func `dashboard and rules name only metrics that there are`() throws {
        let (godwit, port) = try godwit()
        defer { withExtendedLifetime(godwit) {} }
        let text = try HTTPExchange.get("/metrics", port: port).body
        let families = Set(text.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }.map {
            String($0.split(separator: " ")[2])
        })
        for file in ["grafana-dashboard.json", "prometheus-rules.yaml"] {
            let content = try String(contentsOfFile: TestResources.packageRoot + "/conf/" + file, encoding: .utf8)
            if file.hasSuffix("json") { _ = try JSONSerialization.jsonObject(with: Data(content.utf8)) }
            let used = content.matches(of: /\b(godwit|migration|process)_[a-z_]+/).map { String($0.output.0) }
            #expect(!used.isEmpty)
            for name in used {
                let family = ["_bucket", "_sum", "_count"].reduce(name) {
                    $0.hasSuffix($1) && !families.contains($0) ? String($0.dropLast($1.count)) : $0
                }
                #expect(families.contains(family), "\(file): \(name)")
            }
        }
    }
}
