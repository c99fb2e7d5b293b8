import Foundation
import TestSupport
import Testing

/// Logs of real servers, and a file of pgreplay's, made into captures that do again what was done.
@Suite(.serialized) struct LoggedTrafficTests {
    private static let prefix = "%m [%p] %q%u@%d "
    private static let contents = "SELECT id, to_json(name), note FROM person ORDER BY id"

    private func loadtest(_ arguments: [String]) throws -> ChildProcess {
        let process = try ChildProcess([CaptureTests.loadtest] + arguments)
        process.wait()
        return process
    }

    private func server(_ version: PostgresCluster.Version, _ settings: [String: String]) throws -> PostgresCluster {
        var options = PostgresCluster.Options()
        options.settings = [
            "logging_collector": "on", "log_destination": "stderr,csvlog", "log_directory": "log",
            "log_filename": "server.log", "log_connections": "on", "log_disconnections": "on",
            "log_line_prefix": Self.prefix,
        ].merging(settings) { $1 }
        let server = try PostgresCluster(version, options)
        try server.createRole("app")
        for database in ["logged", "played"] {
            try server.psql("CREATE DATABASE \(database) OWNER app")
            try server.psql("SET ROLE app; \(CaptureTests.schema)", database: database)
        }
        return server
    }

    /// Imports, and plays on an empty copy.
    private func play(
        _ file: String, _ format: String, on server: PostgresCluster, _ more: [String] = []
    ) throws -> (imported: ChildProcess, run: ChildProcess, shown: String) {
        let capture = TestResources.uniquePath("import") + ".cap"
        let imported = try loadtest(["import", file, "--to", capture, "--format", format] + more)
        #expect(imported.wait() == .code(0), "\(imported.errors.text)")
        try server.psql("TRUNCATE person", database: "played")
        let run = try loadtest([
            "replay", capture, "--target", server.conninfo(database: "played", user: "app"), "--speed", "max", "--quiet",
        ])
        return (imported, run, try loadtest(["show", capture]).output.text)
    }

    @Test(arguments: [
        (PostgresCluster.Version.old15, ["log_statement": "all", "log_duration": "on"]),
        (.old15, ["log_statement": "none", "log_min_duration_statement": "0"]),
        (.new18, ["log_statement": "all", "log_min_duration_statement": "0"]),
        (.new18, ["log_statement": "none", "log_min_duration_statement": "0"]),
        (.new18, ["log_statement": "all"]),
    ])
    func `what a server has logged is done again`(
        version: PostgresCluster.Version, settings: [String: String]
    ) throws {
        let server = try server(version, settings)
        try runDriver("logged_traffic", [server.conninfo(database: "logged", user: "app")])
        let ends = "disconnection: "
        // The collector writes what it has when it has time for it.
        try waitUntil {
            _ = try server.psql("SELECT 1")
            return try ["server.log", "server.csv"].allSatisfy { name in
                let text = try String(contentsOfFile: server.dataDirectory + "/log/" + name, encoding: .utf8)
                let last = try #require(text.range(of: "after the cancel", options: .backwards))
                return text[last.upperBound...].contains(ends)
            }
        }
        let before = try server.psql(Self.contents, database: "logged")
        #expect(before.contains("221|\"Zürich\"|0") && !before.contains("undone"))
        for (format, name) in [("stderr", "server.log"), ("csvlog", "server.csv")] {
            let (imported, run, shown) = try play(
                server.dataDirectory + "/log/" + name, format, on: server,
                ["--prefix", Self.prefix, "--database", "logged"])
            #expect(imported.errors.text.contains("1 COPY FROM STDIN are left out"), "\(imported.errors.text)")
            #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
            #expect(run.output.text.contains("verdict: played"), "\(run.output.text)")
            // Where no end of a statement is in the log, until the next would be no latency.
            let hasTimes = settings.count > 1
            #expect(run.output.text.contains("  captured  ") == hasTimes, "\(run.output.text)")
            #expect(shown.contains(", without the times of answers") != hasTimes)
            #expect(try server.psql(Self.contents, database: "played") == before, "\(format)")
            #expect(shown.contains("cancel") && !shown.contains("CREATE ROLE"))
        }
    }

    @Test func `a statement that no capture holds is left out, and the rest is there`() throws {
        func line(_ message: String) -> String {
            """
            2024-01-31 12:00:00.500 UTC,"app","shop",7,"127.0.0.1:5",65ba.7,1,"SELECT",2024-01-31 12:00:00 UTC,3/4,0,LOG,00000,\
            "\(message)",,,,,,,,,"psql","client backend",,0

            """
        }
        let long = line("statement: SELECT '" + String(repeating: "x", count: 21 << 20) + "'")
        for (text, status) in [(line("statement: SELECT 1") + long + line("statement: SELECT 2"), CInt(0)), (long, 2)] {
            let file = try TestResources.file("long", text)
            let capture = TestResources.uniquePath("long") + ".cap"
            let imported = try loadtest(["import", file, "--to", capture, "--format", "csvlog"])
            #expect(imported.wait() == .code(status), "\(imported.errors.text)")
            #expect(imported.errors.text.contains("1 statements are left out: they are longer"))
            if status != 0 { continue }
            let shown = try loadtest(["show", capture]).output.text
            #expect(shown.contains("SELECT 1") && shown.contains("SELECT 2") && !shown.contains("xxx"))
        }
    }

    // MARK: pgreplay

    /// `pgreplay -f` 1.2.0 has made it of the log of a PostgreSQL 15 on which logged_traffic.py ran.
    private static let replayFile = TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/logged_traffic.pgreplay"

    @Test func `a file that pgreplay has made is imported, shown and played`() throws {
        let server = try server(.old15, [:])
        try runDriver("logged_traffic", [server.conninfo(database: "logged", user: "app")])
        let (_, run, shown) = try play(Self.replayFile, "pgreplay", on: server)
        #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
        // pgreplay has left out what failed before it was run, and so these are not rolled back.
        let known = "SELECT id, to_json(name), note FROM person WHERE id NOT IN (210, 211) ORDER BY id"
        #expect(try server.psql(known, database: "played") == server.psql(known, database: "logged"))
        #expect(try server.psql("SELECT count(*) FROM person WHERE name IS NULL", database: "played") == "2")
        #expect(run.output.text.contains("pg_sleep") && !run.output.text.contains("  captured  "))
        let sessions = Set(shown.split(separator: "\n").filter { $0.contains(" connect ") || $0.contains("+ ") })
        #expect(sessions.count >= 5 && shown.contains("cancel") && shown.contains("東京 🐘"), "\(shown)")
    }

    @Test func `what passes a cancel request over is cancelled until it ends`() throws {
        let server = try server(.old15, [:])
        // As when the request comes before the statement has begun: the first one does nothing.
        let deaf = "DO $$BEGIN PERFORM pg_sleep(100000); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(100000); END$$"
        func item(_ type: UInt8, _ texts: String...) -> [UInt8] {
            func bytes(_ number: UInt32) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }
            let head = bytes(1000) + bytes(0) + bytes(0) + bytes(7) + [type]
            return head + texts.flatMap { bytes(UInt32($0.utf8.count)) + Array($0.utf8) } + [0x0A]
        }
        let file = TestResources.uniquePath("deaf")
        let items = item(0, "app", "played") + item(2, deaf) + item(5) + item(2, "INSERT INTO person VALUES (1, 'after', 0)")
        try Data(items + item(1)).write(to: URL(filePath: file))
        let (_, run, shown) = try play(file, "pgreplay", on: server)
        #expect(run.wait() == .code(0) && shown.contains("cancel request"), "\(run.output.text)\(run.errors.text)")
        #expect(try server.psql("SELECT name FROM person", database: "played") == "after")
    }

    @Test func `a file that is no log, cut short or damaged is refused with the place, and nothing is written`() throws {
        let whole = Array(try Data(contentsOf: URL(filePath: Self.replayFile)))
        var damaged = whole
        // The type of the first item.
        damaged[16] = 9
        let statement = "2024-01-31 12:00:00.123 UTC [7] LOG:  checkpoint starting: time\n"
        for (bytes, format, words) in [
            (Array(whole.dropLast(5)), "pgreplay", "ends in the midst of the item that begins at byte"),
            (damaged, "pgreplay", "an item of type 9 at byte 16"),
            (Array(statement.utf8), "pgreplay", "at byte"), (Array(statement.utf8), "stderr", "no statement was found"),
            (Array(statement.utf8), "csvlog", "no statement was found"), ([], "csvlog", "no statement was found"),
        ] {
            let file = TestResources.uniquePath("damaged")
            try Data(bytes).write(to: URL(filePath: file))
            let capture = TestResources.uniquePath("refused") + ".cap"
            let imported = try loadtest(["import", file, "--to", capture, "--format", format])
            #expect(imported.wait() == .code(2) && imported.errors.text.contains(words), "\(imported.errors.text)")
            #expect(!FileManager.default.fileExists(atPath: capture))
        }
        let missing = try loadtest(["import", "/nowhere/log", "--to", "/nowhere/cap", "--format", "csvlog"])
        #expect(missing.wait() == .code(2) && missing.errors.text.contains("/nowhere/log"), "\(missing.errors.text)")
    }
}
