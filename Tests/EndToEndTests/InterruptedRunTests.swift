import Foundation
import TestSupport
import Testing

/// Runs of loadtest that end before their end, by Ctrl-C or with their target: with a report of what was done.
@Suite(.serialized) struct InterruptedRunTests {
    let captures: CaptureTests
    var servers: Servers { captures.servers }

    private static let schema = "CREATE TABLE log (n int PRIMARY KEY, note text)"
    /// While somebody else holds this lock, a run stands here.
    private static let lock = "SELECT pg_advisory_lock(4711)"
    /// In this database: others of the server's wait for locks of their own.
    private static let waiting = """
        SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """

    init() throws { captures = try CaptureTests() }

    /// What a run leaves: a table, JSON and a page.
    private struct Outcome {
        let table: String
        let json: [String: Any]
        let page: String
        let process: ChildProcess

        var notes: [String] { json["notes"] as? [String] ?? [] }
        var sides: [[String: Any]] { json["sides"] as? [[String: Any]] ?? [] }
        func units(_ side: Int) -> Int { sides[side]["units"] as? Int ?? 0 }
        func findings(_ side: Int) -> String { (sides[side]["findings"] as? [String] ?? []).joined(separator: "\n") }
    }

    /// A run that has begun, and where its reports go.
    private struct Run {
        let process: ChildProcess
        let json = TestResources.uniquePath("report") + ".json"
        let page = TestResources.uniquePath("report") + ".html"

        init(_ arguments: [String]) throws {
            process = try ChildProcess([CaptureTests.loadtest] + arguments + ["--output", json, "--html", page])
        }

        /// The page's own copy of the report is the report.
        func outcome(_ expected: ChildProcess.Exit) throws -> Outcome {
            #expect(process.wait() == expected, "\(process.output.text)\(process.errors.text)")
            let json = try Data(contentsOf: URL(filePath: json))
            let report = try #require(try JSONSerialization.jsonObject(with: json) as? [String: Any])
            let page = try String(contentsOfFile: page, encoding: .utf8)
            let start = try #require(page.range(of: "const reports = "))
            let end = try #require(page[start.upperBound...].range(of: ";\n"))
            let inner = try JSONSerialization.jsonObject(with: Data(page[start.upperBound..<end.lowerBound].utf8))
            #expect((inner as? [[String: Any]])?.first.map { NSDictionary(dictionary: $0) } == NSDictionary(dictionary: report))
            return Outcome(table: process.output.text, json: report, page: page, process: process)
        }
    }

    /// A capture of inserts, a wait for the lock, and an insert behind it.
    private func capture() throws -> String {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try captures.capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'it.cap'")
        let client = try WireClient(port: godwit.port, database: database)
        for number in 1...5 { _ = try client.query("INSERT INTO log VALUES (\(number), 'before')") }
        _ = try client.query("SELECT n, note FROM log ORDER BY n")
        _ = try client.query(Self.lock)
        _ = try client.query("INSERT INTO log VALUES (6, 'behind')")
        client.close()
        _ = try godwit.console("CAPTURE \(database) STOP")
        let path = TestResources.uniquePath("interrupted") + ".cap"
        try FileManager.default.copyItem(atPath: godwit.directory + "/it.cap", toPath: path)
        return path
    }

    /// Begins a comparison that stands at the lock on both sides.
    private func standingComparison(
        _ path: String, _ first: PostgresCluster, _ second: PostgresCluster, _ database: String
    ) throws -> (run: Run, holders: [ChildProcess]) {
        let holders = try [first, second].map { server in
            let holder = try ChildProcess(
                ["psql", "-XqAt", "-d", captures.target(server, database)], keepsInput: true)
            holder.write("\(Self.lock);\n\\echo held\n")
            try holder.output.waitForLine(containing: "held")
            return holder
        }
        let run = try Run([
            "compare", path, "--target", captures.target(first, database), "--against", captures.target(second, database),
        ])
        try waitUntil {
            try [first, second].allSatisfy { try $0.psql(Self.waiting, database: database) == "1" }
                || run.process.hasEnded
        }
        return (run, holders)
    }

    // MARK: Ctrl-C

    @Test(arguments: [SIGINT, SIGTERM])
    func `bench ends with its report at Ctrl-C`(signal: CInt) throws {
        let database = try servers.makeDatabase("CREATE TABLE log (n int)")
        let workload = try TestResources.file("workload", """
            clients: 3
            seconds: 86400
            transactions:
              - {name: add, sql: "INSERT INTO log VALUES (1)"}
            """)
        let run = try Run(["bench", workload, "--target", captures.target(servers.old, database)])
        // Progress is told once a second.
        try run.process.errors.waitForLine(containing: "units")
        try waitUntil {
            Int(try servers.old.psql("SELECT count(*) FROM log", database: database)) ?? 0 > 10 || run.process.hasEnded
        }
        run.process.send(signal)
        let outcome = try run.outcome(.code(2))
        #expect(outcome.notes.contains("the run was stopped before its end"))
        #expect(outcome.table.contains("verdict: incomplete") && outcome.table.contains("insert into log values ( ? )"))
        let rows = Int(try servers.old.psql("SELECT count(*) FROM log", database: database)) ?? 0
        // Each client may have had one under way.
        #expect(outcome.units(0) > 10 && (outcome.units(0)...(outcome.units(0) + 3)).contains(rows))
        #expect(outcome.sides[0]["unitsLost"] as? Int == 0 && outcome.json["seconds"] as? Double ?? 0 > 0.9)
    }

    @Test(arguments: [false, true])
    func `compare ends with what it has found at Ctrl-C`(isPlanted: Bool) throws {
        let path = try capture()
        let copy = try servers.makeDatabase(
            Self.schema, new: isPlanted ? Self.planted : "")
        let (run, holders) = try standingComparison(path, servers.old, servers.new, copy)
        run.process.send(SIGINT)
        // A difference is a difference, though the rest is not known.
        let outcome = try run.outcome(.code(isPlanted ? 1 : 2))
        #expect(outcome.notes.contains("the run was stopped before its end"))
        #expect(outcome.table.contains("verdict: \(isPlanted ? "DIFFERENT" : "could not tell")"), "\(outcome.table)")
        #expect(outcome.units(0) == 6 && outcome.units(1) == 6)
        let comparison = try #require(outcome.json["comparison"] as? [String: Any])
        #expect(comparison["units"] as? Int == 6 && comparison["mismatches"] as? Int == (isPlanted ? 1 : 0))
        #expect(outcome.page.contains("planted") == isPlanted)
        for holder in holders { holder.endInput() }
        for server in [servers.old, servers.new] {
            #expect(try server.psql("SELECT max(n) FROM log", database: copy) == "5")
        }
    }

    private static let planted = """
        CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN IF NEW.n = 3 THEN NEW.note := 'planted'; END IF; RETURN NEW; END$$;
        CREATE TRIGGER other BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION other()
        """

    @Test func `a run whose progress nobody reads goes on, and its report is written`() throws {
        let database = try servers.makeDatabase("CREATE TABLE log (n int)")
        let workload = try TestResources.file("workload", """
            transactions:
              - {name: add, sql: "INSERT INTO log VALUES (1)"}
            """)
        let report = TestResources.uniquePath("report") + ".json"
        let command = "\(CaptureTests.loadtest) bench \(workload) --for 3 --output \(report) --target "
            + "'\(captures.target(servers.old, database))' 2>&1 >/dev/null | head -1"
        let run = try ChildProcess(["bash", "-c", "set -o pipefail; \(command)"])
        #expect(run.wait() == .code(0), "\(run.output.text)")
        #expect(try String(contentsOfFile: report, encoding: .utf8).contains("\"verdict\" : \"equal\""))
    }

    @Test func `a report that cannot be written is told of before the run, and is no difference`() throws {
        let database = try servers.makeDatabase("CREATE TABLE log (n int)")
        let workload = try TestResources.file("workload", """
            seconds: 86400
            transactions:
              - {name: add, sql: "INSERT INTO log VALUES (1)"}
            """)
        let target = ["--target", captures.target(servers.old, database)]
        for command in [["bench", workload], ["replay", try capture()]] {
            let run = try captures.replay(command + target + ["--html", "/nowhere/report.html"])
            #expect(run.wait() == .code(2))
            #expect(run.errors.text.contains("/nowhere/report.html cannot be written"), "\(run.errors.text)")
        }
        #expect(try servers.old.psql("SELECT count(*) FROM log", database: database) == "0")
    }

    @Test(arguments: ["0", "50"])
    func `a bench whose target stands still does not end as measured`(rate: String) throws {
        let database = try servers.makeDatabase("CREATE TABLE log (n int)")
        let workload = try TestResources.file("workload", """
            clients: 2
            transactions:
              - {name: add, sql: "INSERT INTO log VALUES (1)"}
            """)
        let holder = try ChildProcess(
            ["psql", "-XqAt", "-d", captures.target(servers.old, database)], keepsInput: true)
        holder.write("BEGIN; LOCK TABLE log;\n\\echo held\n")
        try holder.output.waitForLine(containing: "held")
        let target = captures.target(servers.old, database)
        let run = try Run(["bench", workload, "--rate", rate, "--for", "3", "--target", target, "--quiet"])
        let outcome = try run.outcome(.code(2))
        #expect(outcome.notes.contains { $0.contains("had no answer at the end") }, "\(outcome.notes)")
        holder.endInput()
    }

    // MARK: a target that dies

    private func mortal(_ schema: String) throws -> PostgresCluster {
        let server = try PostgresCluster(.new18)
        try server.createRole("app")
        try server.psql("CREATE DATABASE dying OWNER app")
        try server.psql("SET ROLE app; \(schema)", database: "dying")
        return server
    }

    @Test(arguments: ["0", "200"])
    func `a target that dies under bench is told of in the report`(rate: String) throws {
        let server = try mortal("CREATE TABLE log (n int)")
        let workload = try TestResources.file("workload", """
            clients: 3
            seconds: 86400
            reconnect_after: 50
            transactions:
              - {name: add, sql: "INSERT INTO log VALUES (1)"}
            """)
        let run = try Run([
            "bench", workload, "--rate", rate, "--target", captures.target(server, "dying"), "--quiet",
        ])
        try waitUntil {
            try server.psql("SELECT count(*) > 60 FROM log", database: "dying") == "t" || run.process.hasEnded
        }
        server.kill9()
        let outcome = try run.outcome(.code(2))
        #expect(outcome.units(0) > 50)
        #expect(outcome.notes.contains { $0.contains("target has gone") }, "\(outcome.notes)")
        #expect(outcome.findings(0).contains("a connection was lost"), "\(outcome.table)")
        #expect(outcome.table.contains("verdict: incomplete") && outcome.page.contains("has gone"))
    }

    @Test func `a target that takes connections and says nothing ends the run`() throws {
        let path = try capture()
        let relay = try TCPRelay(to: servers.new.port)
        defer { relay.close() }
        relay.become(.silent)
        let run = try Run([
            "replay", path, "--target", "host=127.0.0.1 port=\(relay.port) user=app connect_timeout=1", "--quiet",
        ])
        let outcome = try run.outcome(.code(2))
        #expect(outcome.findings(0).contains("connect_timeout is over"), "\(outcome.table)")
        #expect(outcome.sides[0]["connectionsFailed"] as? Int == 1 && outcome.units(0) == 0)
    }

    @Test func `a side that dies under compare is told of in the report`() throws {
        let path = try capture()
        let server = try mortal(Self.schema)
        let first = try mortal(Self.schema)
        let (run, holders) = try standingComparison(path, first, server, "dying")
        server.kill9()
        let outcome = try run.outcome(.code(2))
        for holder in holders { holder.endInput() }
        #expect(outcome.units(0) == 6 && outcome.units(1) == 6)
        #expect(outcome.findings(1).contains("a connection was lost"), "\(outcome.table)")
        #expect(outcome.table.contains("verdict: could not tell") && outcome.page.contains("a connection was lost"))
        // The first side is not blamed for it.
        #expect(outcome.findings(0).isEmpty, "\(outcome.findings(0))")
    }
}
