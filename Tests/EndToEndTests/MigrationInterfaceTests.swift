import Foundation
import TestSupport
import Testing

/// How migrations are asked for: rights, errors, keys, events, the command line.
@Suite(.serialized) struct MigrationInterfaceTests {
    let tests: MigrationTests

    init() throws { tests = try MigrationTests() }

    @Test func `tokens decide who may look and who may act`() throws {
        let drive = try tests.drive()
        for (token, look, act) in [("", 401, 401), ("wrong", 401, 401), (MigrationDrive.readToken, 200, 403), (MigrationDrive.token, 200, 422)] {
            #expect(try HTTPExchange.get("/migrations", port: drive.port, token: token).status == look)
            #expect(try drive.post("/migrations", "id: x", token: token).status == act)
        }
    }

    @Test func `each path and method of the document asks for its right`() throws {
        let drive = try tests.drive()
        let document = try drive.get("/openapi.yaml").body
        var path = ""
        var calls: [(method: String, path: String)] = []
        for line in document.split(separator: "\n") {
            if let found = line.firstMatch(of: /^  (\/[^:]*):$/) { path = String(found.output.1) }
            if let found = line.firstMatch(of: /^    (get|post|put|patch|delete):$/) {
                let none = path.replacing("{id}", with: "none").replacing("{database}", with: "none")
                calls.append((found.output.1.uppercased(), none))
            }
        }
        #expect(calls.count >= 14 && calls.contains { $0.method == "POST" && $0.path.hasSuffix("/abort") }, "\(calls)")
        func status(_ method: String, _ path: String, _ token: String) throws -> Int {
            let right = token.isEmpty ? "" : "Authorization: Bearer \(token)\r\n"
            return try HTTPExchange(port: drive.port).send(
                "\(method) \(path) HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\(right)\r\n").answer().status
        }
        for (method, path) in calls {
            let isOpen = ["/healthz", "/openapi.yaml"].contains(path)
            let isChange = method != "GET"
            for token in ["", "wrong"] { #expect(try status(method, path, token) == (isOpen ? 200 : 401), "\(method) \(path)") }
            for token in [MigrationDrive.readToken, MigrationDrive.token] {
                let given = try status(method, path, token)
                if isChange && token == MigrationDrive.readToken {
                    #expect(given == 403, "\(method) \(path)")
                } else {
                    // Who may is told of what is wrong otherwise.
                    #expect(given == 200 || [400, 404, 422].contains(given), "\(method) \(path): \(given)")
                    #expect(given == 200 || path.contains("/none") || method == "POST", "\(method) \(path): \(given)")
                }
            }
        }
    }

    @Test func `without a token nobody acts`() throws {
        let port = try FreePort.find()
        let database = try tests.servers.makeDatabase(MigrationTests.schema)
        let godwit = try tests.servers.godwit(database) { $0.http = ["port": "\(port)"] }
        defer { withExtendedLifetime(godwit) {} }
        #expect(try HTTPExchange.get("/migrations", port: port).status == 200)
        let request = "POST /migrations HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        let answer = try HTTPExchange(port: port).send(request).answer()
        #expect(answer.status == 403 && answer.body.contains("token_file"))
    }

    @Test func `what is wrong is a problem that says what to do`() throws {
        let drive = try tests.drive()
        for (body, status, words) in [
            ("id: a\ndatabase: nothing", 422, "the configuration has"), ("id: a", 422, "database"),
            ("id: a\ndatabase: \(drive.database)\nphases: {shift: {soak: soon}}", 422, "manifest:3"),
            ("id: a\ndatabase: \(drive.database)\nreads: {steps: [{cohort: staff}, 100]}", 422, "cohort"),
            ("id: a\ndatabase: \(drive.database)\nhooks: [page.sh]", 422, "hook"),
            ("id: a\ndatabase: \(drive.database)\nscope: {mapping: {public.log: {to: public.diary}}}", 422, "differ in public.log"),
            (String(repeating: "#", count: 300_000), 413, "bytes at most"),
        ] {
            let answer = try drive.post("/migrations", body)
            #expect(answer.status == status && answer.body.contains(words), "\(answer.status) \(answer.body)")
            #expect(answer.head.contains("application/problem+json"))
        }
        #expect(try drive.get("/migrations/none/status").status == 404)
        #expect(try drive.get("/migrations/none/report").status == 404)
        #expect(try drive.post("/migrations/none/abort").status == 404)
        #expect(try drive.get("/migrations/none").status == 404)
        #expect(try HTTPExchange.get("/migrations/none/abort", port: drive.port, token: MigrationDrive.token).status == 405)
    }

    @Test func `a migration whose mapping is the configuration's begins, and shows the gate`() throws {
        let mapping = "{public.log: {columns: {v: v}}}"
        let drive = try tests.drive { $0.database.mirror["tables"] = mapping }
        try drive.start(tests.manifest(drive, "m", MigrationTests.byHand + "\nscope: {mapping: \(mapping)}\n"))
        let status = try drive.get("/migrations/m/status").body
        #expect(status.contains("\"mapping\"") && status.contains("as in the manifest"), "\(status)")
    }

    @Test func `the same key does it once, and another request under it is refused`() throws {
        let drive = try tests.drive()
        let manifest = tests.manifest(drive, "m", MigrationTests.byHand)
        let first = try drive.post("/migrations", manifest, key: "k1")
        let again = try drive.post("/migrations", manifest, key: "k1")
        #expect(first.status == 201 && again.status == 201 && first.body == again.body)
        #expect(again.head.lowercased().contains("idempotent-replayed"))
        #expect(try drive.post("/migrations", manifest).status == 409)
        #expect(try drive.post("/migrations", manifest + "\n", key: "k1").status == 422)
    }

    @Test func `all answers are as the OpenAPI document says, and it is the one that is served`() throws {
        let drive = try tests.drive { $0.sections = "capture: {directory: DIRECTORY}" }
        let document = TestResources.packageRoot + "/docs/openapi.yaml"
        let served = try HTTPExchange.get("/openapi.yaml", port: drive.port)
        #expect(served.body == (try String(contentsOfFile: document, encoding: .utf8)))
        let path = try TestResources.file("manifest", tests.manifest(drive, "m", MigrationTests.byHand))
        try runDriver("openapi", [
            document, "\(drive.port)", MigrationDrive.token, MigrationDrive.readToken, path, drive.database,
        ])
    }

    @Test func `events come as a list and as a stream`() throws {
        let drive = try tests.drive()
        try drive.start(tests.manifest(drive, "m", MigrationTests.byHand))
        let list = try MigrationDrive.json(try drive.get("/migrations/m/events"))
        #expect((list["events"] as? [[String: Any]])?.isEmpty == false)
        let follow = try ChildProcess([
            "curl", "-sN", "-H", "Authorization: Bearer \(MigrationDrive.readToken)", "-H", "Accept: text/event-stream",
            "http://127.0.0.1:\(drive.port)/migrations/m/events",
        ])
        try follow.output.waitForLine(containing: "started")
        try drive.insist("m", "advance")
        try follow.output.waitForLine(containing: "backfill")
        follow.send(9)
        follow.wait()
    }

    @Test func `the command line does what HTTP does`() throws {
        let drive = try tests.drive()
        let path = try TestResources.file("manifest", tests.manifest(drive, "m", MigrationTests.byHand))
        let place = ["--url", "http://127.0.0.1:\(drive.port)", "--token-file", drive.godwit.directory + "/token", "--by", "cli"]
        func run(_ words: [String]) throws -> (ChildProcess.Exit, String) {
            let process = try GodwitProcess.command(["migrate"] + words + place)
            return (process.wait(), process.output.text + process.errors.text)
        }
        let started = try run(["start", path])
        #expect(started.0 == .code(0) && started.1.contains("prepare"))
        #expect(try run(["start", path]).0 == .code(1))
        try waitUntil { try run(["advance", "--dry-run"]).0 == .code(0) }
        let wrong = try run(["advance", "--from", "shift, reads 50 %"])
        #expect(wrong.0 == .code(1) && wrong.1.contains("it is at \"prepare\", not at \"shift, reads 50 %\""))
        #expect(try run(["advance", "--from", "prepare"]).1.contains("backfill"))
        #expect(try run(["pause", "m", "--reason", "tea"]).1.contains("tea"))
        #expect(try run(["status"]).1.contains("backfill, paused: tea"))
        #expect(try run(["resume"]).0 == .code(0))
        #expect(try run(["force", "--reason", "known"]).0 == .code(0))
        #expect(try run(["approve"]).0 == .code(1))
        #expect(try run(["abort"]).1.contains("OLD"))
        #expect(try run(["advance", "--from", "mirror"]).1.contains("it is at \"aborted\""))
        #expect(try run(["events"]).1.contains("started"))
        #expect(try run(["report"]).1.contains("\"verb\":\"force\""))
        #expect(try run(["list"]).1.contains("aborted"))
        let json = try run(["status", "--json"]).1
        #expect(try MigrationDrive.json(.init(status: 200, head: "", body: json))["by"] as? String == "cli")
        let nobody = try GodwitProcess.command(["migrate", "list", "--url", "http://127.0.0.1:\(try FreePort.find())"])
        #expect(nobody.wait() == .code(2))
    }

    @Test func `a state that cannot be used refuses the start`() throws {
        let database = try tests.servers.makeDatabase(MigrationTests.schema)
        let directory = try GodwitProcess.makeDirectory(GodwitConfiguration([tests.servers.entry(database)]))
        try "no database".write(toFile: directory + "/godwit.sqlite", atomically: true, encoding: .utf8)
        let serve = try GodwitProcess.command(["serve", "--config", directory + "/godwit.yaml"])
        #expect(serve.wait() == .code(1) && serve.errors.text.contains("move it away"), "\(serve.errors.text)")
    }

    @Test func `a share that the state could not take is in it when it can`() throws {
        let drive = try tests.drive()
        let python = TestResources.packageRoot + "/.build/venv/bin/python"
        let open = """
            import sqlite3, sys
            state = sqlite3.connect("\(drive.godwit.directory)/godwit.sqlite", isolation_level=None)

            """
        func count(_ sql: String) throws -> Int {
            let text = try ChildProcess.run([python, "-c", open + "print(state.execute(\"\(sql)\").fetchone()[0])"])
            return try #require(Int(text.trimmingCharacters(in: .whitespacesAndNewlines)))
        }
        // Nobody else writes to the file meanwhile.
        let holder = try ChildProcess([python, "-c", open + """
            state.execute("BEGIN IMMEDIATE")
            print("held", flush=True)
            sys.stdin.read()
            """], keepsInput: true)
        try holder.output.waitForLine(containing: "held")
        let stored = try count("SELECT count(*) FROM event")
        _ = try drive.godwit.console("READS \(drive.database) 12.5")
        // Its event is written behind it: when that is lost, so is the share.
        let told = try drive.godwit.console("SHOW EVENTS").count
        try waitUntil {
            let lost = try drive.get("/metrics").body.firstMatch(of: /\ngodwit_state_lost_events_total ([0-9]+)/)
            return try #require(Int(lost?.output.1 ?? "")) >= told - stored
        }
        holder.endInput()
        #expect(holder.wait() == .code(0))
        try waitUntil { try count("SELECT count(*) FROM traffic WHERE json LIKE '%1250%'") > 0 }
        try drive.crash()
        let rows = try drive.godwit.console("SHOW DATABASES")
        #expect(rows.first { $0["name"] == drive.database && $0["side"] == "new" }?["reads_percent"] == "12.50")
    }
}
