import Capture
import Foundation
import PGWire
import TestSupport
import Testing

/// Captures of real drivers' traffic, and what loadtest makes of them.
@Suite(.serialized) struct CaptureTests {
    let servers: Servers
    static let schema = "CREATE TABLE person (id int PRIMARY KEY, name text, note float8)"
    static let loadtest = TestResources.packageRoot + "/.build/debug/loadtest"

    init() throws { servers = try Servers.shared.get() }

    func capturing(
        _ database: String, threads: Int = 2, _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        try servers.godwit(database) {
            $0.threads = threads
            $0.sections = "capture: {directory: DIRECTORY}"
            change(&$0)
        }
    }

    func traffic(_ godwit: GodwitProcess, _ database: String, secret: String = "Hopper") throws {
        try runDriver("capture_traffic", [godwit.conninfo(database: database), secret])
    }

    func records(_ path: String) throws -> (records: [CaptureRecord], hasEnd: Bool) {
        let reader = try CaptureFileReader(path: path)
        var records: [CaptureRecord] = []
        while let frame = try reader.next() { records += try RecordReader.records(of: frame.payload) }
        #expect(reader.damagedBytes == 0 && reader.missingFrames == 0)
        return (records, reader.hasEnd)
    }

    func replay(_ arguments: [String]) throws -> ChildProcess {
        let process = try ChildProcess([Self.loadtest] + arguments)
        process.wait()
        return process
    }

    func target(_ server: PostgresCluster, _ database: String) -> String {
        server.conninfo(database: database, user: "app")
    }

    private static let contents = "SELECT id, name, note FROM person ORDER BY id"

    // MARK: capture

    @Test func `a replay on a fresh copy gives the same outcomes and the same rows`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        // One that is there before, with a statement and a setting.
        let joined = try WireClient(port: godwit.port, database: database)
        _ = try joined.query("SET application_name = 'joined'")
        _ = try godwit.console("CAPTURE \(database) TO 'all.cap' DIGEST")
        try traffic(godwit, database)
        _ = try joined.query("INSERT INTO person VALUES (2, current_setting('application_name'), 0)")
        let row = try #require(try godwit.console("SHOW CAPTURE").first)
        #expect(row["state"] == "running" && row["connections"] == "5" && row["dropped"] == "0")
        _ = try godwit.console("CAPTURE \(database) STOP")
        let path = godwit.directory + "/all.cap"
        let (records, hasEnd) = try records(path)
        #expect(hasEnd)
        let texts = records.map { "\($0.content)" }.joined()
        #expect(!texts.contains("SCRAM") && records.contains { if case .error("23505", _, _) = $0.content { true } else { false } })

        let copy = try servers.makeDatabase(Self.schema)
        let run = try replay(["replay", path, "--target", target(servers.old, copy), "--speed", "max", "--json", "--quiet"])
        #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
        #expect(run.output.text.contains("\"otherThanCaptured\" : 0"))
        #expect(run.output.text.contains("\"otherDigests\" : 0"))
        let before = try servers.old.psql(Self.contents, database: database)
        #expect(before.contains("2|joined|0") && before.contains("319|Hopper 319|319"))
        #expect(try servers.old.psql(Self.contents, database: copy) == before)
        // At its own pace, elsewhere, and over two sides.
        let other = try servers.makeDatabase(Self.schema)
        let both = try replay([
            "replay", path, "--target", target(servers.old, other), "--against", target(servers.new, other),
            "--speed", "4", "--order", "causal", "--quiet",
        ])
        #expect(both.wait() == .code(0), "\(both.output.text)\(both.errors.text)")
        #expect(try servers.new.psql(Self.contents, database: other) == before)
        let shown = try replay(["show", path])
        #expect(shown.output.text.contains("> query SELECT id, name FROM person ORDER BY id; SELECT 2"))
        let one = try replay(["show", path, "--connection", "\(records[0].connection)", "--summary"])
        #expect(one.output.text.contains("1 connections"), "\(one.output.text)")
        let lines = try replay(["show", path, "--json"]).output.text.split(separator: "\n")
        #expect(lines.count == records.count)
        #expect(try lines.allSatisfy { try JSONSerialization.jsonObject(with: Data($0.utf8)) is [String: Any] })
    }

    @Test func `compare finds what was planted, and nothing else`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'compare.cap'")
        try traffic(godwit, database)
        try godwit.psql("SELECT random(), now()", database: database)
        try godwit.psql("SELECT id FROM person WHERE id < 20", database: database)
        _ = try godwit.console("CAPTURE \(database) STOP")
        let path = godwit.directory + "/compare.cap"
        let copy = try servers.makeDatabase(Self.schema)
        let equal = try replay([
            "compare", path, "--target", target(servers.old, copy), "--against", target(servers.new, copy), "--quiet",
        ])
        #expect(equal.wait() == .code(0), "\(equal.output.text)\(equal.errors.text)")
        let planted = try servers.makeDatabase(Self.schema, new: """
            CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS
                $$BEGIN IF NEW.id = 11 THEN NEW.name := 'planted'; END IF; RETURN NEW; END$$;
            CREATE TRIGGER other BEFORE INSERT ON person FOR EACH ROW EXECUTE FUNCTION other()
            """)
        let page = godwit.directory + "/report.html"
        let different = try replay([
            "compare", path, "--target", target(servers.old, planted), "--against", target(servers.new, planted),
            "--quiet", "--html", page,
        ])
        #expect(different.wait() == .code(1), "\(different.output.text)\(different.errors.text)")
        #expect(different.output.text.contains("(Hopper 11)") && different.output.text.contains("(planted)"))
        #expect(try String(contentsOfFile: page, encoding: .utf8).contains("planted"))
        // Not in step, by digests: that they differ is known, and not why.
        for server in [servers.old, servers.new] { try server.psql("TRUNCATE person", database: planted) }
        let apart = try replay([
            "replay", path, "--target", target(servers.old, planted), "--against", target(servers.new, planted),
            "--speed", "max", "--quiet",
        ])
        #expect(apart.wait() == .code(2), "\(apart.output.text)\(apart.errors.text)")
        #expect(apart.output.text.contains("other rows by their digests"))
    }

    @Test func `a redacted capture holds no value, and can be played`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'redacted.cap' REDACT")
        try traffic(godwit, database, secret: "Kowalski")
        _ = try godwit.console("CAPTURE \(database) STOP")
        let path = godwit.directory + "/redacted.cap"
        let reader = try CaptureFileReader(path: path)
        #expect(try reader.next() != nil && reader.flags.contains(.redacted))
        for record in try records(path).records {
            if case .message(_, _, let body) = record.content {
                #expect(!String(decoding: body, as: UTF8.self).contains("Kowalski"))
            }
            if case .error(_, _, let words) = record.content { #expect(words.isEmpty) }
        }
        let copy = try servers.makeDatabase(Self.schema)
        let run = try replay(["replay", path, "--target", target(servers.old, copy), "--speed", "max", "--quiet"])
        #expect(run.wait() != .code(2), "\(run.output.text)\(run.errors.text)")
        #expect(Int(try servers.old.psql("SELECT count(*) FROM person", database: copy)) ?? 0 > 200)
    }

    // MARK: limits and failures

    @Test func `CAPTURE is the administrators', stays in its directory, and writes nothing over`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let bare = try servers.godwit(database)
        func refusal(_ godwit: GodwitProcess, _ command: String, user: String = "godwit") -> String {
            do {
                _ = try godwit.console(command, user: user)
                return ""
            } catch { return "\(error)" }
        }
        #expect(refusal(bare, "CAPTURE \(database) TO 'x'").contains("capture.directory is not set"))
        let godwit = try capturing(database) { $0.statsUsers = ["watcher"] }
        #expect(refusal(godwit, "CAPTURE \(database) TO 'x'", user: "watcher").contains("admin access"))
        for name in ["../x", "/tmp/x", ".hidden", "a/b"] {
            #expect(refusal(godwit, "CAPTURE \(database) TO '\(name)'").contains("no plain file name"))
        }
        #expect(refusal(godwit, "CAPTURE nothing TO 'x'").contains("there is no database"))
        #expect(refusal(godwit, "CAPTURE \(database) STOP").contains("not being captured"))
        _ = try godwit.console("CAPTURE \(database) TO 'once.cap'")
        #expect(refusal(godwit, "CAPTURE \(database) TO 'twice.cap'").contains("is being captured"))
        _ = try godwit.console("CAPTURE \(database) STOP")
        #expect(refusal(godwit, "CAPTURE \(database) TO 'once.cap'").contains("File exists"))
        _ = try godwit.console("CAPTURE \(database) TO 'short.cap' FOR 1")
        try waitUntil { try godwit.console("SHOW CAPTURE").first?["state"] == "ended" }
        #expect(try records(godwit.directory + "/short.cap").hasEnd)
    }

    @Test func `a Godwit that is killed leaves a file that can be read`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'killed.cap'")
        try traffic(godwit, database)
        // What has gathered is written within a second.
        try waitUntil { Int(try godwit.console("SHOW CAPTURE").first?["records"] ?? "") ?? 0 > 100 }
        godwit.process.send(9)
        godwit.process.wait()
        let (records, hasEnd) = try records(godwit.directory + "/killed.cap")
        #expect(!hasEnd && records.count > 100)
        let shown = try replay(["show", "--summary", godwit.directory + "/killed.cap"])
        #expect(shown.wait() == .code(0) && shown.errors.text.contains("has no end"))
    }

    @Test func `a capture of a process that was taken over from is ended by a console of its own`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let old = try capturing(database) { $0.listen["takeover_wait"] = "100000" }
        let client = try WireClient(port: old.port, database: database)
        let console = try WireClient(port: old.port, database: "godwit", user: "godwit")
        #expect(try console.query("CAPTURE \(database) TO 'left.cap'").first?.commandTag == "CAPTURE")
        let new = try GodwitProcess(takingOverFrom: old)
        #expect(try console.query("CAPTURE \(database) TO 'other.cap'").first?.sqlState != nil)
        #expect(try console.query("CAPTURE \(database) STOP").first?.commandTag == "CAPTURE")
        withExtendedLifetime((client, new)) {}
    }

    @Test func `a full disk ends the capture, and no query`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'full.cap'")
        // No file may grow beyond this.
        try ChildProcess.run(["prlimit", "--pid", "\(godwit.process.pid)", "--fsize=262144"])
        var number = 0
        while try godwit.console("SHOW CAPTURE").first?["state"] == "running" {
            // Text that does not compress well.
            let noise = (0..<4000).map { _ in String(UInt64.random(in: 0 ... .max), radix: 36) }.joined()
            #expect(try godwit.psql("SELECT length('\(noise)') > 0", database: database) == "t")
            number += 1
        }
        #expect(try godwit.console("SHOW CAPTURE").first?["state"] == "failed")
        #expect(try godwit.psql("SELECT 'goes on'", database: database) == "goes on")
        let (records, hasEnd) = try records(godwit.directory + "/full.cap")
        #expect(!hasEnd && !records.isEmpty && number > 0)
    }

    @Test func `whatever a session has set, a capture of it harms nobody`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        let client = try WireClient(port: godwit.port, database: database)
        // A frame holds less than all of it.
        let name = "a." + String(repeating: "x", count: 65_390)
        for number in 1...170 { _ = try client.query("SELECT set_config('\(name)\(number)', 'x', false)") }
        _ = try godwit.console("CAPTURE \(database) TO 'settings.cap'")
        #expect(try client.value("SELECT 'goes on'") == "goes on")
        _ = try godwit.console("CAPTURE \(database) STOP")
        #expect(try client.value("SELECT 'goes on'") == "goes on")
        let (records, hasEnd) = try records(godwit.directory + "/settings.cap")
        #expect(hasEnd && records.count > 3)
        guard case .connect(let connection)? = records.first?.content else { throw TestFailure("no connection") }
        #expect(connection.hasUnknownState && (60..<170).contains(connection.settings.count))
    }

    @Test func `a capture does not come into the midst of a batch, nor of its transaction`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        let client = try WireClient(port: godwit.port, database: database)
        client.send(
            FrameBuilder.parse("SELECT g FROM generate_series(1, 3) AS g") + FrameBuilder.bind()
                + FrameBuilder.execute(rowsMax: 2) + FrameBuilder.flush)
        while let message = try client.read(), message.type != "s" {}
        _ = try godwit.console("CAPTURE \(database) TO 'batch.cap'")
        client.send(FrameBuilder.execute() + FrameBuilder.sync)
        _ = try client.readToReady()
        #expect(try client.value("SELECT 4") == "4")
        _ = try godwit.console("CAPTURE \(database) STOP")
        let tags = try records(godwit.directory + "/batch.cap").records.compactMap { record -> UInt8? in
            if case .message(let tag, _, _) = record.content { tag } else { nil }
        }
        #expect(tags == [FrontendTag.query], "an Execute here is of a portal that nobody knows")
    }

    // MARK: replay

    /// A capture of sessions that nobody has had.
    ///
    /// - Parameter pause: microseconds before the last one.
    private func made(
        _ contents: [(user: String, contents: [CaptureRecord.Content])], pause: UInt64 = 0
    ) throws -> String {
        let path = TestResources.uniquePath("made") + ".cap"
        let file = try CaptureFileWriter(path: path, flags: [])
        let beginning = CaptureBeginning(wallMicros: 1, database: "made", sampleHundredths: 10_000, writer: "a test")
        try file.write(.begin, thread: 0, payload: beginning.payload)
        var buffer = RecordBuffer(capacity: 1 << 16)
        var number: UInt64 = 0
        for (index, (user, contents)) in contents.enumerated() {
            let who = CapturedConnection(user: user, database: "made", applicationName: "", settings: [])
            for content in [.connect(who)] + contents + [.disconnect] {
                number += 1
                let micros = number + (index == contents.count - 1 ? pause : 0)
                buffer.append(CaptureRecord(
                    connection: UInt64(index + 1), micros: micros, number: number, content: content))
            }
        }
        try file.write(buffer, thread: 0)
        try file.write(.end, thread: 0, payload: [])
        return path
    }

    private func query(_ text: String) -> CaptureRecord.Content {
        .message(tag: FrontendTag.query, answers: 0, body: Array(text.utf8) + [0])
    }

    private func answered(_ tag: String, rows: UInt64) -> [CaptureRecord.Content] {
        var answer = CapturedAnswer(.complete)
        answer.tag = tag
        answer.rows = rows
        return [.answer(answer), .ready(.idle)]
    }

    @Test func `a COPY that had failed in the capture and begins on the target does not hold the replay up`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let failed = [CaptureRecord.Content.error(state: "42P01", isFatal: false, message: ""), .ready(.idle)]
        let batch: [CaptureRecord.Content] = [
            .message(tag: FrontendTag.parse, answers: 0, body: [0] + Array("COPY person FROM STDIN".utf8) + [0, 0, 0]),
            .message(tag: FrontendTag.bind, answers: 0, body: [0, 0, 0, 0, 0, 0, 0, 0]),
            .message(tag: FrontendTag.execute, answers: 0, body: [0, 0, 0, 0, 0]),
            .message(tag: FrontendTag.sync, answers: 0, body: []),
        ]
        let insert = [query("INSERT INTO person VALUES (1)")] + answered("INSERT 0 1", rows: 0)
        let path = try made([
            ("app", [query("COPY person FROM STDIN")] + failed + batch + failed + insert),
            ("app", [query("COPY person FROM STDIN")] + failed),
        ])
        let run = try replay(["replay", path, "--target", target(servers.old, database), "--speed", "max", "--quiet"])
        #expect(run.wait() == .code(1), "\(run.output.text)\(run.errors.text)")
        #expect(run.output.text.contains("captured: ERROR 42P01 | played: COPY asks for data"), "\(run.output.text)")
        #expect(try servers.old.psql("SELECT id FROM person", database: database) == "1")
    }

    @Test func `who waits for a place does not keep the rest of the capture from who has one`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let path = TestResources.uniquePath("made") + ".cap"
        let file = try CaptureFileWriter(path: path, flags: [])
        let beginning = CaptureBeginning(wallMicros: 1, database: "made", sampleHundredths: 10_000, writer: "a test")
        try file.write(.begin, thread: 0, payload: beginning.payload)
        var number: UInt64 = 0
        func write(_ connection: UInt64, _ contents: [CaptureRecord.Content]) throws {
            var buffer = RecordBuffer(capacity: 1 << 16)
            for content in contents {
                number += 1
                buffer.append(CaptureRecord(connection: connection, micros: number, number: number, content: content))
            }
            try file.write(buffer, thread: 0)
        }
        let who = CapturedConnection(user: "app", database: "made", applicationName: "", settings: [])
        for connection in [1, 2] as [UInt64] {
            try write(connection, [.connect(who), query("SELECT 1")] + answered("SELECT 1", rows: 1))
        }
        // More than is read ahead, of the second one; only then the first one goes.
        let long = query("SELECT 2 --" + String(repeating: "x", count: 15 << 20))
        for _ in 0..<5 { try write(2, [long] + answered("SELECT 1", rows: 1)) }
        for connection in [1, 2] as [UInt64] { try write(connection, [.disconnect]) }
        try file.write(.end, thread: 0, payload: [])
        let run = try replay([
            "replay", path, "--target", target(servers.old, database), "--speed", "max", "--order", "connection",
            "--clients", "1", "--for", "600", "--quiet", "--json",
        ])
        #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
        #expect(run.output.text.contains("\"sameAsCaptured\" : 7"), "\(run.output.text)")
    }

    @Test func `a statement that cannot be prepared here does not take the others with it`() throws {
        let database = try servers.makeDatabase(Self.schema)
        func prepared(_ name: String, _ text: String) -> CaptureRecord.Content {
            .prepared(body: Array(name.utf8) + [0] + Array(text.utf8) + [0, 0, 0])
        }
        let path = try made([("app", [
            prepared("gone", "SELECT * FROM not_there"), prepared("there", "SELECT 1"),
            .message(tag: FrontendTag.bind, answers: 0, body: [0] + Array("there".utf8) + [0, 0, 0, 0, 0, 0, 0]),
            .message(tag: FrontendTag.execute, answers: 0, body: [0, 0, 0, 0, 0]),
            .message(tag: FrontendTag.sync, answers: 0, body: []),
        ] + answered("SELECT 1", rows: 1))])
        let run = try replay(["replay", path, "--target", target(servers.old, database), "--speed", "max", "--quiet"])
        #expect(run.wait() == .code(0), "\(run.output.text)\(run.errors.text)")
        #expect(run.output.text.contains("could not be set up as it was: ERROR 42P01"), "\(run.output.text)")
    }

    @Test func `connections that one side refuses while the other is still being asked keep nobody out`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let relay = try TCPRelay(to: servers.new.port)
        defer { relay.close() }
        relay.become(.silent)
        // More than are made at once, of users that the first side does not know.
        let strangers = Array(repeating: ("stranger", [query("SELECT 1")] + answered("SELECT 1", rows: 1)), count: 80)
        let path = try made(strangers + [("app", [query("SELECT 2")] + answered("SELECT 1", rows: 1))])
        let run = try ChildProcess([
            Self.loadtest, "compare", path, "--target", servers.old.conninfo(database: database), "--against",
            "host=127.0.0.1 port=\(relay.port) dbname=\(database)", "--quiet",
        ])
        let present = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = '\(database)'"
        try waitUntil { try servers.old.psql(present) == "1" || run.hasEnded }
        relay.become(.passing)
        #expect(run.wait() == .code(2), "\(run.output.text)\(run.errors.text)")
        #expect(run.output.text.contains("cannot connect") && !run.output.text.contains("has gone"))
        #expect(run.output.text.contains("select ?"), "\(run.output.text)")
    }

    @Test func `a connection that the server closes, as it did in the capture, is no target that has gone`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let fatal = CaptureRecord.Content.error(state: "57P01", isFatal: true, message: "")
        let path = try made([
            ("app", [query("SELECT pg_terminate_backend(pg_backend_pid())"), fatal]),
            ("app", [query("SELECT 2")] + answered("SELECT 1", rows: 1)),
        ], pause: 7_000_000)
        let run = try replay(["replay", path, "--target", target(servers.old, database), "--quiet", "--json"])
        #expect(run.wait() == .code(2), "\(run.output.text)\(run.errors.text)")
        #expect(!run.output.text.contains("has gone"))
        #expect(run.output.text.contains("\"sameAsCaptured\" : 1"), "\(run.output.text)")
    }

    @Test func `two sides that are alike and not as captured are no replay that went well`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let path = try made([("app", [query("SELECT * FROM not_there")] + answered("SELECT 1", rows: 1))])
        let sides = ["--target", target(servers.old, database), "--against", target(servers.new, database), "--quiet"]
        let run = try replay(["replay", path, "--speed", "max"] + sides)
        #expect(run.wait() == .code(1), "\(run.output.text)\(run.errors.text)")
        #expect(run.output.text.contains("captured: SELECT 1 | played: ERROR 42P01"), "\(run.output.text)")
        #expect(try replay(["compare", path] + sides).wait() == .code(0))
    }

    @Test func `a capture is followed while it is being written`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let copy = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'followed.cap'")
        let path = godwit.directory + "/followed.cap"
        let follower = try ChildProcess([
            Self.loadtest, "replay", path, "--follow", "--target", target(servers.new, copy), "--order", "causal",
            "--quiet",
        ])
        try traffic(godwit, database)
        // Nothing more comes for now, and what has come is played all the same.
        try waitUntil {
            try servers.new.psql("SELECT count(*) FROM person", database: copy) == "281" || follower.hasEnded
        }
        #expect(!follower.hasEnded)
        _ = try godwit.console("CAPTURE \(database) STOP")
        #expect(follower.wait() == .code(0), "\(follower.output.text)\(follower.errors.text)")
        #expect(try servers.new.psql(Self.contents, database: copy)
            == servers.old.psql(Self.contents, database: database))
    }

    @Test func `reads alone are played with --read-only, and a target that is not there is a finding`() throws {
        let database = try servers.makeDatabase(Self.schema)
        let godwit = try capturing(database)
        _ = try godwit.console("CAPTURE \(database) TO 'reads.cap'")
        try traffic(godwit, database)
        _ = try godwit.console("CAPTURE \(database) STOP")
        let path = godwit.directory + "/reads.cap"
        let copy = try servers.makeDatabase(Self.schema)
        let reads = try replay([
            "replay", path, "--target", target(servers.old, copy), "--speed", "max", "--read-only", "--quiet",
        ])
        #expect(reads.output.text.contains("left out"))
        #expect(try servers.old.psql("SELECT count(*) FROM person", database: copy) == "0")
        let nobody = try replay([
            "replay", path, "--target", "host=127.0.0.1 port=1 user=app dbname=x", "--speed", "max", "--quiet",
        ])
        #expect(nobody.wait() == .code(2) && nobody.output.text.contains("cannot connect"))
    }
}
