import Foundation
import Glibc
import TestSupport
import Testing

/// A real Prometheus scrapes Godwit and evaluates the alert rules.
@Suite(.serialized) struct PrometheusTests {
    private func query(_ path: String, port: UInt16) throws -> [String: Any] {
        // By HTTP/1.0, so that the answer comes in one piece.
        let answer = try HTTPExchange(port: port).send("GET \(path) HTTP/1.0\r\n\r\n").answer()
        return try #require(
            try JSONSerialization.jsonObject(with: Data(answer.body.utf8)) as? [String: Any], "\(answer.body)")
    }

    private func results(_ expression: String, port: UInt16) throws -> [[String: Any]] {
        let allowed = CharacterSet.alphanumerics
        let encoded = expression.addingPercentEncoding(withAllowedCharacters: allowed) ?? ""
        let answer = try query("/api/v1/query?query=\(encoded)", port: port)
        return (answer["data"] as? [String: Any])?["result"] as? [[String: Any]] ?? []
    }

    private static let program = TestResources.packageRoot + "/.build/prometheus"
    private static let isThere = FileManager.default.isExecutableFile(atPath: program)

    @Test(.enabled(if: Self.isThere, "make promtool brings it"))
    func `Prometheus scrapes all series, finds the target up, and loads the rules`() throws {
        let servers = try Servers.shared.get()
        let database = try servers.makeMarkedDatabase()
        let port = try FreePort.find()
        let godwit = try servers.godwit(database) { configuration in
            configuration.http = ["port": "\(port)", "token_file": "DIRECTORY/token"]
            configuration.files["token"] = "scraper-token"
            configuration.database.readsPercent = "50"
        }
        for user in 0..<20 { _ = try godwit.psql("/* user_id=\(user) */ SELECT side FROM side_marker", database: database) }

        let folder = TestResources.uniquePath("prometheus")
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let file = """
            global: {scrape_interval: 200ms, evaluation_interval: 200ms}
            rule_files: [\(TestResources.packageRoot)/conf/prometheus-rules.yaml]
            scrape_configs:
              - job_name: godwit
                authorization: {credentials: scraper-token}
                static_configs: [{targets: ["127.0.0.1:\(port)"]}]
            """
        try file.write(toFile: folder + "/prometheus.yml", atomically: true, encoding: .utf8)
        let own = try FreePort.find()
        let process = try ChildProcess([
            Self.program, "--config.file", folder + "/prometheus.yml", "--storage.tsdb.path", folder + "/data",
            "--web.listen-address", "127.0.0.1:\(own)",
        ])
        try process.errors.waitForLine(containing: "Server is ready to receive web requests")

        try waitUntil { try !results("up{job=\"godwit\"} == 1", port: own).isEmpty }
        let targets = try query("/api/v1/targets", port: own)
        let active = (targets["data"] as? [String: Any])?["activeTargets"] as? [[String: Any]]
        #expect(active?.first?["lastError"] as? String == "", "\(String(describing: active))")
        for name in [
            "godwit_clients", "godwit_queries_total", "godwit_query_seconds_bucket", "godwit_wait_seconds_bucket",
            "godwit_transaction_seconds_bucket", "godwit_breaker_state", "godwit_reads_share_ratio",
            "process_resident_memory_bytes", "process_cpu_seconds_total", "migration_progress_percent",
            "migration_query_duration_seconds_bucket", "migration_errors_total",
        ] {
            try waitUntil { try !results(name, port: own).isEmpty }
        }
        // A quantile over sides, as the dashboard asks for it.
        let quantile = "histogram_quantile(0.9, sum by (le, side) (godwit_query_seconds_bucket{database=\"\(database)\"}))"
        #expect(try results(quantile, port: own).count == 2)
        let rules = try query("/api/v1/rules", port: own)
        let groups = (rules["data"] as? [String: Any])?["groups"] as? [[String: Any]] ?? []
        let all = groups.flatMap { $0["rules"] as? [[String: Any]] ?? [] }
        #expect(all.count > 5)
        for name in all.compactMap({ $0["name"] as? String }) {
            // Evaluated, and without an error.
            try waitUntil {
                let now = try query("/api/v1/rules", port: own)
                let groups = (now["data"] as? [String: Any])?["groups"] as? [[String: Any]] ?? []
                let rule = groups.flatMap { $0["rules"] as? [[String: Any]] ?? [] }.first { $0["name"] as? String == name }
                return rule?["health"] as? String == "ok"
            }
        }
        // An alert begins to wait when what it is about is so.
        _ = try godwit.console("FORCE \(database) OLD")
        try waitUntil {
            try !results("ALERTS{alertname=\"GodwitBreakerOpen\"}", port: own).isEmpty
        }
        // Godwit is gone: the target is down.
        godwit.process.send(SIGKILL)
        try waitUntil { try !results("up{job=\"godwit\"} == 0", port: own).isEmpty }
        process.send(SIGTERM)
        process.wait()
    }
}
