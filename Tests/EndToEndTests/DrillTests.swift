import Foundation
import TestSupport
import Testing

/// Rehearsals of the way back, with real servers: on a canary, as a whole, and cut off.
@Suite(.serialized) struct DrillTests {
    let tests: MigrationTests

    init() throws { tests = try MigrationTests() }

    /// Of the reads, in percent.
    private func shareOfNew(_ drive: MigrationDrive) throws -> String? {
        try drive.godwit.console("SHOW DATABASES").first { $0["name"] == drive.database && $0["side"] == "new" }?["reads_percent"]
    }

    private func atCutover() throws -> MigrationDrive {
        let drive = try tests.drive()
        try drive.start(tests.manifest(drive, "m", MigrationTests.swift))
        try drive.wait("m", for: "cutover running")
        return drive
    }

    private func drill(_ drive: MigrationDrive) throws -> [String: Any]? {
        try drive.status("m")["drill"] as? [String: Any]
    }

    /// Waits until what was begun has ended.
    private func result(_ drive: MigrationDrive) throws -> [String: Any] {
        while try drive.status("m")["work"] as? String == "drill" || drill(drive) == nil {
            if drive.godwit.process.hasEnded { throw TestFailure("Godwit has ended: \(drive.godwit.log.text)") }
        }
        return try #require(try drill(drive))
    }

    private func canaries(_ drive: MigrationDrive, _ server: PostgresCluster) throws -> String {
        try server.psql("""
            SELECT count(*) FROM pg_database WHERE starts_with(datname, 'godwit_drill_\(drive.database)_')
            """)
    }

    private func expectNoCanary(_ drive: MigrationDrive) throws {
        for server in [tests.servers.old, tests.servers.new] { #expect(try canaries(drive, server) == "0") }
    }

    /// Writes through Godwit, until it is told to end.
    private func writer(_ drive: MigrationDrive) throws -> ChildProcess {
        try ChildProcess(["sh", "-c", """
            i=0; while [ ! -e \(drive.godwit.directory)/stop ]; do i=$((i+1))
            psql -Xq -v ON_ERROR_STOP=1 -d "\(drive.godwit.conninfo(database: drive.database))" \
                -c "INSERT INTO log (v) VALUES ('$i')" || exit 1; done; echo $i
            """])
    }

    @Test func `a canary goes to NEW and back, and nothing is left of it`() throws {
        let drive = try tests.drive()
        try drive.start(tests.manifest(drive, "m", MigrationTests.byHand))
        try drive.wait("m", for: "prepare running")
        try waitUntil { try drive.status("m")["work"] == nil }
        let answer = try drive.post("/migrations/m/drill")
        #expect(answer.status == 200, "\(answer.body)")
        #expect(try drive.post("/migrations/m/drill").status == 409)
        let found = try result(drive)
        #expect(found["passed"] as? Bool == true && found["whole"] as? Bool == false, "\(found)")
        #expect(found["verify"] as? String == "equal")
        #expect(try #require(found["writes"] as? Int) >= 150)
        for held in ["cutover_held", "rollback_held"] { #expect(try #require(found[held] as? Double) > 0) }
        #expect(try drive.place("m") == "prepare running")
        try expectNoCanary(drive)
        #expect(try drive.godwit.console("SHOW EVENTS").contains { $0["cause"]?.contains("drill passed") == true })
        let report = try MigrationDrive.json(try drive.get("/migrations/m/report"))
        #expect((report["decisions"] as? [[String: Any]])?.contains { $0["verb"] as? String == "drill" } == true)
    }

    @Test func `a canary that cannot be made is told, and nothing is left of it`() throws {
        let database = try tests.servers.makeDatabase(MigrationTests.schema, old: MigrationTests.rows)
        try tests.servers.new.psql("CREATE ROLE owner_\(database) LOGIN SUPERUSER")
        var configuration = GodwitConfiguration([tests.servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        configuration.database.controlNew = tests.servers.new.conninfo(database: database, user: "owner_\(database)")
        let drive = try MigrationDrive(configuration)
        try drive.start(tests.manifest(drive, "m", MigrationTests.byHand))
        try waitUntil { try drive.status("m")["work"] == nil }
        try tests.servers.new.psql("ALTER ROLE owner_\(database) NOSUPERUSER")
        try drive.insist("m", "drill")
        let found = try result(drive)
        #expect(found["passed"] as? Bool == false)
        #expect((found["words"] as? String)?.contains("CREATEDB") == true, "\(found)")
        try expectNoCanary(drive)
        #expect(try drive.place("m") == "prepare running")
    }

    @Test(arguments: ["cutover fence", "cutover swap", "rollback claim", "rollback reverse"])
    func `killed in the midst of a canary's drill nothing is left of it`(step: String) throws {
        let drive = try tests.drive()
        try drive.start(tests.manifest(drive, "m", MigrationTests.byHand))
        try waitUntil { try drive.status("m")["work"] == nil }
        try drive.crash(environment: ["GODWIT_DIE_BEFORE": step])
        try drive.insist("m", "drill")
        drive.godwit.process.wait()
        for server in [tests.servers.old, tests.servers.new] { #expect(try canaries(drive, server) == "1") }
        try drive.crash()
        let found = try result(drive)
        #expect(found["passed"] as? Bool == false && (found["words"] as? String)?.contains("ended in its midst") == true)
        try expectNoCanary(drive)
        #expect(try drive.place("m") == "prepare running")
        // And it may be done again.
        try drive.insist("m", "drill")
        while try drill(drive)?["passed"] as? Bool != true {
            #expect(!drive.godwit.process.hasEnded)
            if try drive.status("m")["work"] == nil, try drill(drive)?["began"] as? String != found["began"] as? String {
                break
            }
        }
        let last = try result(drive)
        #expect(last["passed"] as? Bool == true, "\(last)")
    }

    @Test func `a whole one moves all writes and brings them back, and writers notice nothing`() throws {
        let drive = try atCutover()
        let writer = try writer(drive)
        let early = try tests.drive()
        try early.start(tests.manifest(early, "m", MigrationTests.byHand))
        #expect(try early.post("/migrations/m/drill", #"{"whole": true}"#).status == 409)
        for (body, status) in [("{", 400), (#"{"seconds": 3}"#, 422), (#"{"whole": true, "seconds": 4000}"#, 422)] {
            #expect(try drive.post("/migrations/m/drill", body).status == status)
        }
        try drive.insist("m", "drill", #"{"whole": true, "seconds": 2}"#)
        while try drive.status("m")["work"] as? String == "drill" {
            #expect(try drive.place("m") == "cutover running")
        }
        let found = try result(drive)
        #expect(found["passed"] as? Bool == true && found["whole"] as? Bool == true, "\(found)")
        #expect(found["verify"] as? String == "equal")
        #expect(try #require(found["rows_compared"] as? Int) >= 2000)
        #expect(try drive.place("m") == "cutover running")
        #expect(try drive.readsPercent() == "100")
        #expect(try shareOfNew(drive) == "100.00")
        try tests.expectWrites(drive, on: tests.servers.old, id: 10_001)
        // The way to NEW is open as before.
        try drive.insist("m", "advance")
        try drive.wait("m", for: "watch running")
        try "".write(toFile: drive.godwit.directory + "/stop", atomically: true, encoding: .utf8)
        #expect(writer.wait() == .code(0), "\(writer.errors.text)")
        let count = writer.output.text.trimmingCharacters(in: .whitespacesAndNewlines)
        #expect(try tests.servers.new.psql("SELECT count(DISTINCT v) FROM log", database: drive.database) == count)
    }

    @Test(arguments: ["cutover fence", "cutover swap", "rollback fence", "rollback swap"])
    func `killed in the midst of a whole one the writes are OLD's again`(step: String) throws {
        let drive = try atCutover()
        drive.godwit.terminate()
        try drive.crash(environment: ["GODWIT_DIE_BEFORE": step])
        while true {
            guard let answer = try? drive.post("/migrations/m/drill", #"{"whole": true, "seconds": 1}"#),
                answer.status != 200
            else { break }
        }
        drive.godwit.process.wait()
        try drive.crash()
        let found = try result(drive)
        #expect(found["passed"] as? Bool == false && (found["words"] as? String)?.contains("ended in its midst") == true)
        #expect(try drive.place("m") == "cutover paused")
        try tests.expectWrites(drive, on: tests.servers.old, id: 10_000)
        try drive.insist("m", "resume")
        try drive.insist("m", "drill", #"{"whole": true, "seconds": 0}"#)
        while try drill(drive)?["began"] as? String == found["began"] as? String {
            if drive.godwit.process.hasEnded { throw TestFailure("Godwit has ended") }
        }
        let last = try result(drive)
        #expect(last["passed"] as? Bool == true, "\(last)")
    }

    @Test func `what an operator orders about reads in the midst of a whole one holds behind it`() throws {
        let drive = try atCutover()
        try drive.insist("m", "drill", #"{"whole": true, "seconds": 1}"#)
        _ = try drive.godwit.console("READS \(drive.database) 3")
        try drive.wait("m", for: "cutover paused")
        _ = try result(drive)
        // The way back takes what is left of them, and nobody brings back what was before.
        #expect(["0.00", "3.00"].contains(try shareOfNew(drive)))
    }

    @Test func `an abort ends a whole one early`() throws {
        let drive = try atCutover()
        try drive.insist("m", "drill", #"{"whole": true, "seconds": 3600}"#)
        try waitUntil { try drive.godwit.console("SHOW AUTHORITY").first?["authority"] == "new" }
        #expect(try drive.post("/migrations/m/abort", #"{"reason": "enough"}"#).status == 200)
        try drive.wait("m", for: "cutover aborted")
        try tests.expectWrites(drive, on: tests.servers.old, id: 10_001)
        let found = try result(drive)
        #expect((found["words"] as? String)?.contains("taken back early") == true && found["verify"] as? String == "equal")
        #expect(try drive.readsPercent() == "0")
    }

    @Test func `the command line prints held times and the verdict`() throws {
        let drive = try atCutover()
        let place = ["--url", "http://127.0.0.1:\(drive.port)", "--token-file", drive.godwit.directory + "/token"]
        for words in [["drill"], ["drill", "--whole", "--watch", "0.5"]] {
            var process = try GodwitProcess.command(["migrate"] + words + place)
            // Its gates are measured again.
            while process.wait() == .code(1), process.errors.text.contains("was refused") {
                process = try GodwitProcess.command(["migrate"] + words + place)
            }
            let text = process.output.text + process.errors.text
            #expect(process.wait() == .code(0), "\(text)")
            #expect(text.contains("drill passed") && text.contains("cutover   writes held for"), "\(text)")
            #expect(text.contains("way back  writes held for") && text.contains("rows, equal"), "\(text)")
        }
        #expect(try GodwitProcess.command(["migrate", "drill", "--watch", "3"] + place).wait() != .code(0))
    }
}
