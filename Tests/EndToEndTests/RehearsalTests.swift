import Capture
import Foundation
import TestSupport
import Testing

/// What loadtest does with captures and workloads beyond playing them once.
@Suite(.serialized) struct RehearsalTests {
    let captures: CaptureTests
    var servers: Servers { captures.servers }

    init() throws { captures = try CaptureTests() }

    /// A capture of what `body` does through Godwit, and an empty copy of the database.
    private func captured(
        _ schema: String, options: String = "", _ body: (GodwitProcess, String) throws -> Void
    ) throws -> (path: String, copy: String) {
        let database = try servers.makeDatabase(schema)
        let godwit = try captures.capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'it.cap' \(options)")
        try body(godwit, database)
        _ = try godwit.console("CAPTURE \(database) STOP")
        let path = TestResources.uniquePath("rehearsal") + ".cap"
        try FileManager.default.copyItem(atPath: godwit.directory + "/it.cap", toPath: path)
        return (path, try servers.makeDatabase(schema))
    }

    private func report(_ process: ChildProcess) throws -> [String: Any] {
        let json = try JSONSerialization.jsonObject(with: Data(process.output.text.utf8)) as? [String: Any]
        return try #require(json, "\(process.output.text)\(process.errors.text)")
    }

    private func side(_ report: [String: Any]) throws -> [String: Any] {
        try #require((report["sides"] as? [[String: Any]])?.first)
    }

    // MARK: order and ends

    @Test func `what one connection has seen of another's writes comes in the same order, over all threads`() throws {
        let schema = "CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)"
        let (path, copy) = try captured(schema, options: "DIGEST") { godwit, database in
            let clients = try (0..<6).map { _ in try WireClient(port: godwit.port, database: database) }
            for round in 0..<300 {
                let next = try clients[round * 5 % 6].value("UPDATE counter SET n = n * 3 % 1009 + \(round) RETURNING n")
                #expect(next != nil)
            }
        }
        let records = try captures.records(path).records
        #expect(Set(records.map { $0.connection % 2 }) == [0, 1], "all clients came to one thread")
        let run = try captures.replay([
            "replay", path, "--target", captures.target(servers.old, copy), "--speed", "max", "--json", "--quiet",
        ])
        #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
        let side = try side(report(run))
        #expect(side["sameAsCaptured"] as? Int == 300 && side["otherDigests"] as? Int == 0)
    }

    @Test func `a session that was left in the midst of a COPY or a batch is left there again`() throws {
        var left: [WireClient] = []
        let (path, copy) = try captured(CaptureTests.schema) { godwit, database in
            let whole = try WireClient(port: godwit.port, database: database)
            _ = try whole.query("INSERT INTO person VALUES (1, 'whole', 0)")
            let copying = try WireClient(port: godwit.port, database: database)
            copying.send(FrameBuilder.query("COPY person FROM STDIN"))
            while let message = try copying.read(), message.type != "G" {}
            let batch = try WireClient(port: godwit.port, database: database)
            batch.send(FrameBuilder.parse("SELECT 1") + FrameBuilder.message("H", []))
            while let message = try batch.read(), message.type != "1" {}
            // Its Flush comes when there is nothing to be flushed.
            let flushing = try WireClient(port: godwit.port, database: database)
            flushing.send(FrameBuilder.message("S", []) + FrameBuilder.message("H", []))
            _ = try flushing.readToReady()
            _ = try godwit.console("SHOW CAPTURE")
            batch.close()
            flushing.close()
            // The capture ends before it does.
            left.append(copying)
        }
        left.removeAll()
        for command in [["replay", path, "--speed", "max"], ["compare", path, "--against", captures.target(servers.new, copy)]] {
            let run = try captures.replay(command + ["--target", captures.target(servers.old, copy), "--quiet"])
            #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
            try servers.old.psql("TRUNCATE person", database: copy)
        }
    }

    @Test func `what was cancelled is cancelled again`() throws {
        let (path, copy) = try captured("") { godwit, database in
            let client = try WireClient(port: godwit.port, database: database)
            client.send(FrameBuilder.query("SELECT 'cancelled', pg_sleep(100000)"))
            try waitUntil {
                try servers.old.psql(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = '\(database)' AND wait_event = 'PgSleep'") == "1"
            }
            try client.cancel()
            #expect(try client.readToReady().contains { $0.type == "E" })
        }
        for command in [["replay", path, "--speed", "max"], ["compare", path, "--against", captures.target(servers.new, copy)]] {
            let run = try captures.replay(command + ["--target", captures.target(servers.old, copy), "--json", "--quiet"])
            #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
            #expect(try side(report(run))["errors"] as? [String: Int] == ["57014": 1])
        }
    }

    @Test func `its own pace takes its time, and one client at a time is enough`() throws {
        let (path, copy) = try captured("CREATE TABLE log (n int)") { godwit, database in
            for number in 0..<3 {
                try godwit.psql("INSERT INTO log VALUES (\(number)); SELECT pg_sleep(0.5)", database: database)
            }
        }
        func seconds(_ arguments: [String]) throws -> Double {
            let run = try captures.replay(
                ["replay", path, "--target", captures.target(servers.old, copy), "--json", "--quiet"] + arguments)
            #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
            let report = try report(run)
            #expect((report["options"] as? [String: String])?["speed"] == arguments[1])
            return report["seconds"] as? Double ?? 0
        }
        // The third sleep begins when two have passed, and the fastest replay still has to sleep.
        #expect(try seconds(["--speed", "1", "--clients", "1"]) >= 1.5)
        #expect(try seconds(["--speed", "1000", "--order", "causal"]) >= 1.5)
        #expect(try seconds(["--speed", "0.5"]) >= 2.5)
        #expect(try servers.old.psql("SELECT count(*), sum(n) FROM log", database: copy) == "9|9")
    }

    // MARK: ends that were not planned

    @Test func `a capture is played again and again until Ctrl-C, which ends with the report`() throws {
        let (path, copy) = try captured("CREATE TABLE log (n int)") { godwit, database in
            try godwit.psql("INSERT INTO log VALUES (1)", database: database)
            try godwit.psql("INSERT INTO log VALUES (2)", database: database)
        }
        let page = TestResources.uniquePath("report") + ".html"
        let looping = try ChildProcess([
            CaptureTests.loadtest, "replay", path, "--target", captures.target(servers.old, copy), "--speed", "max", "--loop",
            "--json", "--html", page,
        ])
        try waitUntil {
            Int(try servers.old.psql("SELECT count(*) FROM log WHERE n = 2", database: copy)) ?? 0 >= 3 || looping.hasEnded
        }
        // Progress is told once a second.
        try looping.errors.waitForLine(containing: "units")
        looping.send(SIGINT)
        #expect(looping.wait() == .code(2), "\(looping.errors.text)")
        let report = try report(looping)
        #expect((report["notes"] as? [String])?.contains("the run was stopped before its end") == true)
        let units = try side(report)["units"] as? Int ?? 0
        let rows = Int(try servers.old.psql("SELECT count(*) FROM log", database: copy)) ?? 0
        // What was under way when it ended has no answer that counts.
        #expect(units >= 6 && (units...(units + 2)).contains(rows), "\(units) units, \(rows) rows")
        #expect(try String(contentsOfFile: page, encoding: .utf8).contains("replay of"))
    }

    @Test func `a target that dies is told of in the report`() throws {
        let schema = "CREATE TABLE log (n int)"
        let (path, _) = try captured(schema) { godwit, database in
            try godwit.psql("INSERT INTO log VALUES (1)", database: database)
        }
        let server = try PostgresCluster(.old15)
        try server.createRole("app")
        try server.psql("CREATE DATABASE dying OWNER app")
        try server.psql("SET ROLE app; \(schema)", database: "dying")
        let looping = try ChildProcess([
            CaptureTests.loadtest, "replay", path, "--target", server.conninfo(database: "dying", user: "app"), "--speed",
            "max", "--loop", "--json", "--quiet",
        ])
        try waitUntil { try server.psql("SELECT count(*) > 0 FROM log", database: "dying") == "t" || looping.hasEnded }
        server.kill9()
        #expect(looping.wait() == .code(2), "\(looping.errors.text)")
        let report = try report(looping)
        #expect((report["notes"] as? [String])?.contains { $0.contains("has gone") } == true, "\(report["notes"] ?? "")")
        #expect(try side(report)["units"] as? Int ?? 0 > 0)
    }

    // MARK: made-up traffic and pages

    @Test func `bench counts what it did, in every mode, and its reports make a page`() throws {
        let database = try servers.makeDatabase("""
            CREATE TABLE hot (id int PRIMARY KEY, n int); INSERT INTO hot SELECT g, 0 FROM generate_series(1, 1000) g
            """)
        let workload = try TestResources.file("workload", """
            clients: 4
            seconds: 1
            variables: {id: {from: 1, to: 1000, skew: 1.2}}
            transactions:
              - {name: look, weight: 3, sql: "SELECT n FROM hot WHERE id = :id"}
              - {name: add, weight: 1, sql: "UPDATE hot SET n = n + 1 WHERE id = :id"}
            """)
        var files: [String] = []
        var added = 0
        for (mode, rate) in [("simple", "0"), ("extended", "0"), ("prepared", "200")] {
            files.append(TestResources.uniquePath(mode) + ".json")
            let run = try captures.replay([
                "bench", workload, "--target", captures.target(servers.old, database), "--mode", mode, "--rate", rate,
                "--title", "in mode \(mode)", "--output", files[files.count - 1], "--json", "--quiet",
            ])
            #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
            let side = try side(report(run))
            #expect(side["errors"] as? [String: Int] == [:] && side["units"] as? Int ?? 0 > 20)
            for shape in side["shapes"] as? [[String: Any]] ?? [] where (shape["text"] as? String)?.contains("update") == true {
                added += (shape["latency"] as? [String: Any])?["count"] as? Int ?? 0
            }
        }
        let sum = Int(try servers.old.psql("SELECT sum(n) FROM hot", database: database)) ?? 0
        // Each client may have had one under way when its time was over.
        #expect(added > 0 && (added...(added + 12)).contains(sum), "\(added) told, \(sum) done")
        #expect(try servers.old.psql(
            "SELECT (SELECT sum(n) FROM hot WHERE id <= 100) > (SELECT sum(n) FROM hot WHERE id > 900)",
            database: database) == "t")
        let page = TestResources.uniquePath("page") + ".html"
        let made = try captures.replay(["report", files[0], files[2], "--html", page])
        #expect(made.wait() == .code(0), "\(made.errors.text)")
        let html = try String(contentsOfFile: page, encoding: .utf8)
        #expect(html.contains("in mode simple") && html.contains("in mode prepared"))
        #expect(!html.contains("src=\"http") && !html.contains("href=\"http"), "the page needs a network")
    }

    // MARK: over HTTP

    @Test func `captures are taken over HTTP as in the console, by who may act`() throws {
        let database = try servers.makeDatabase(CaptureTests.schema)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.sections = "capture: {directory: DIRECTORY}"
        let drive = try MigrationDrive(configuration)
        let place = "/captures/\(database)"
        for (token, look, act) in [("", 401, 401), ("wrong", 401, 401), (MigrationDrive.readToken, 200, 403)] {
            #expect(try HTTPExchange.get("/captures", port: drive.port, token: token).status == look)
            #expect(try drive.post(place, #"{"file": "no.cap"}"#, token: token).status == act)
            #expect(try drive.post(place + "/stop", token: token).status == act)
        }
        for (body, status, words) in [
            (#"{"file": "../x"}"#, 422, "no plain file name"), ("file", 400, "file"),
            (#"{"file": "x", "sample_percent": 101}"#, 422, "100"),
        ] {
            let answer = try drive.post(place, body)
            #expect(answer.status == status && answer.body.contains(words), "\(answer.status) \(answer.body)")
        }
        #expect(try drive.post("/captures/nothing", #"{"file": "x"}"#).status == 404)
        #expect(try drive.post(place + "/stop").status == 404)
        let begun = try drive.post(place, #"{"file": "http.cap", "digest": true, "seconds": 3600, "bytes_max": 1000000}"#)
        #expect(begun.status == 201, "\(begun.body)")
        #expect(try MigrationDrive.json(begun)["state"] as? String == "running")
        #expect(try drive.post(place, #"{"file": "other.cap"}"#).status == 409)
        try drive.godwit.psql("SELECT 'seen over HTTP'", database: database)
        let listed = try MigrationDrive.json(try drive.get("/captures"))
        let one = try #require((listed["captures"] as? [[String: Any]])?.first)
        #expect(one["connections"] as? Int == 1 && one["digest"] as? Bool == true)
        let row = try #require(try drive.godwit.console("SHOW CAPTURE").first)
        #expect(row["file"] == one["file"] as? String && row["state"] == "running" && row["digest"] == "yes")
        let ended = try MigrationDrive.json(try drive.post(place + "/stop"))
        #expect(ended["state"] as? String == "ended" && ended["reason"] as? String == "CAPTURE STOP")
        let (records, hasEnd) = try captures.records(drive.godwit.directory + "/http.cap")
        #expect(hasEnd && records.count == ended["records"] as? Int)
        // What one has begun the other may end.
        #expect(try drive.post(place, #"{"file": "second.cap"}"#).status == 201)
        _ = try drive.godwit.console("CAPTURE \(database) STOP")
        #expect(try drive.post(place + "/stop").status == 404)
    }
}
