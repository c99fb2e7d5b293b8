import Foundation

/// A Godwit whose migrations are driven over HTTP; it may be killed and started again where it was. One thread.
package final class MigrationDrive {
    package static let token = "write-token"
    package static let readToken = "read-token"

    package private(set) var godwit: GodwitProcess
    package let port: UInt16
    package let database: String

    /// - Parameter configuration: of one database; what HTTP needs is added.
    package init(_ configuration: GodwitConfiguration, environment: [String: String] = [:]) throws {
        var configuration = configuration
        port = try FreePort.find()
        if configuration.state["url"] != nil { configuration.state["address"] = "\"http://127.0.0.1:\(port)\"" }
        configuration.http.merge([
            "port": "\(port)", "token_file": "DIRECTORY/token", "read_token_file": "DIRECTORY/read-token",
        ]) { $1 }
        configuration.files["token"] = Self.token
        configuration.files["read-token"] = Self.readToken
        database = configuration.databases[0].name
        godwit = try GodwitProcess(configuration, environment: environment)
    }

    /// Killed by signal 9, and started again with what it has stored.
    package func crash(environment: [String: String] = [:]) throws {
        godwit.process.send(9)
        godwit.process.wait()
        godwit = try GodwitProcess(resuming: godwit, environment: environment)
    }

    // MARK: HTTP

    package func get(_ path: String) throws -> HTTPExchange.Answer {
        try HTTPExchange.get(path, port: port, token: Self.readToken)
    }

    @discardableResult
    package func post(
        _ path: String, _ body: String = "", token: String = MigrationDrive.token, by: String = "ann", key: String = ""
    ) throws -> HTTPExchange.Answer {
        var head = "POST \(path) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: \(body.utf8.count)\r\n"
        if !token.isEmpty { head += "Authorization: Bearer \(token)\r\n" }
        if !by.isEmpty { head += "Godwit-Operator: \(by)\r\n" }
        if !key.isEmpty { head += "Idempotency-Key: \(key)\r\n" }
        return try HTTPExchange(port: port).send(head + "\r\n" + body).answer()
    }

    package static func json(_ answer: HTTPExchange.Answer) throws -> [String: Any] {
        guard let json = try JSONSerialization.jsonObject(with: Data(answer.body.utf8)) as? [String: Any] else {
            throw TestFailure("no JSON object: \(answer.body)")
        }
        return json
    }

    // MARK: one migration

    package func start(_ manifest: String) throws {
        let answer = try post("/migrations", manifest)
        if answer.status != 201 { throw TestFailure("start: \(answer.status) \(answer.body)") }
    }

    package func status(_ id: String) throws -> [String: Any] { try Self.json(try get("/migrations/\(id)/status")) }

    package func place(_ id: String) throws -> String {
        let status = try status(id)
        return "\(status["phase"] ?? "") \(status["standing"] ?? "")"
    }

    /// Waits until it is there. On a busy machine the mirror may be behind when a switch is to be made, which is refused
    /// then and pauses the migration: whoever waits for the switch orders it again.
    ///
    /// - Parameter wanted: `shift running`
    package func wait(_ id: String, for wanted: String) throws {
        var last = ""
        var isRefused = false
        while true {
            let status = try status(id)
            last = "\(status["phase"] ?? "") \(status["standing"] ?? "")"
            if last == wanted { return }
            if wanted == "watch running" {
                if last == "cutover paused", (status["cause"] as? String)?.contains("nothing was touched") == true {
                    isRefused = true
                    _ = try post("/migrations/\(id)/resume")
                }
                if isRefused, status["work"] as? String == nil { _ = try post("/migrations/\(id)/advance") }
            }
            if let cause = status["cause"] as? String, cause.contains("failed:"), !wanted.hasPrefix("watch"), !wanted.contains("paused") {
                throw TestFailure("\(last): \(cause), wanted \(wanted)")
            }
            if godwit.process.hasEnded { throw TestFailure("Godwit has ended at \(last)") }
            Awaited.pause()
        }
    }

    /// Gives a command until it is taken: gates are measured once a second.
    package func insist(_ id: String, _ verb: String, _ body: String = "") throws {
        while try post("/migrations/\(id)/\(verb)", body).status != 200 {
            if godwit.process.hasEnded { throw TestFailure("Godwit has ended") }
            Awaited.pause()
        }
    }

    /// It is the one, of those with one state, that runs the migrations.
    package func isRunner() throws -> Bool {
        try get("/metrics").body.contains("\ngodwit_runs_migrations 1")
    }

    package func readsPercent() throws -> String {
        let row = try godwit.console("SHOW MIGRATIONS").last { $0["database"] == database }
        return row?["reads_percent"] ?? ""
    }
}
