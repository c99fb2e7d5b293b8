import Foundation
import Glibc
import TestSupport
import Testing

/// Two Godwits with one state in PostgreSQL: one runs the migration, both follow it, and the other takes it over.
@Suite(.serialized) struct MigrationCompanyTests {
    let tests: MigrationTests
    let one: SwitchTests
    var servers: Servers { tests.servers }

    init() throws { (tests, one) = (try MigrationTests(), try SwitchTests()) }

    /// Two with the same file but for their ports; the first runs the migrations.
    struct Company {
        var configuration: GodwitConfiguration
        var first: MigrationDrive
        var second: MigrationDrive
        let state: String
        let server: PostgresCluster

        var both: [MigrationDrive] { [first, second] }
        var database: String { first.database }

        /// Who runs the migrations, as soon as somebody does.
        func runner() throws -> MigrationDrive {
            var found: MigrationDrive?
            try waitUntil {
                found = try both.first { try !$0.godwit.process.hasEnded && $0.isRunner() }
                return found != nil
            }
            return try #require(found)
        }
    }

    private func company(
        _ schema: String = MigrationTests.schema, _ rows: String = MigrationTests.rows, state server: PostgresCluster? = nil,
        relay: TCPRelay? = nil, isOfSecond: Bool = false
    ) throws -> Company {
        let server = server ?? servers.new
        let database = try servers.makeDatabase(schema, old: rows)
        let state = "state_\(database)"
        try server.psql("CREATE DATABASE \(state)")
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        configuration.state["url"] = "\"\(server.conninfo(database: state, user: PostgresCluster.superuser))\""
        var relayed = configuration
        if let relay {
            relayed.state["url"] = "\"host=127.0.0.1 port=\(relay.port) dbname=\(state) user=\(PostgresCluster.superuser)\""
        }
        let first = try MigrationDrive(isOfSecond ? configuration : relayed)
        try waitUntil { try first.isRunner() }
        let second = try MigrationDrive(isOfSecond ? relayed : configuration)
        return Company(configuration: configuration, first: first, second: second, state: state, server: server)
    }

    private func percent(_ drive: MigrationDrive) throws -> Double? {
        let row = try drive.godwit.console("SHOW DATABASES").first { $0["name"] == drive.database && $0["side"] == "new" }
        return row?["reads_percent"].flatMap { Double($0) }
    }

    @Test func `one runs it, the other tells of it, sends orders there, and follows the reads`() throws {
        let company = try company()
        let (first, second) = (company.first, company.second)
        try first.start(tests.manifest(first, "m", MigrationTests.byHand))
        try second.wait("m", for: "prepare running")
        #expect(try second.get("/migrations/none/status").status == 404)
        // It has just begun, and may not know yet who runs them.
        let path = "/migrations/m/advance?from=x"
        var answer = try second.post(path, key: "k")
        while answer.status == 503 { answer = try second.post(path, key: "k") }
        #expect(answer.status == 307 && answer.head.contains("http://127.0.0.1:\(first.port)\(path)"), "\(answer)")
        #expect(answer.head.contains("application/problem+json"))
        // The command line goes where it is sent.
        func run(_ words: [String]) throws -> ChildProcess {
            try GodwitProcess.command(["migrate"] + words + [
                "--url", "http://127.0.0.1:\(second.port)", "--token-file", second.godwit.directory + "/token", "--by", "cli",
            ])
        }
        try waitUntil { try run(["advance"]).wait() == .code(0) }
        try second.wait("m", for: "backfill running")
        for phase in ["backfill", "mirror", "validate", "shadow"] {
            try second.wait("m", for: "\(phase) running")
            try first.insist("m", "advance")
        }
        try second.wait("m", for: "shift running")
        for drive in company.both {
            try waitUntil { try percent(drive) == 100 }
            try waitUntil { try drive.readsPercent() == "100" }
        }
        // Whoever says READS says it to all, and the migration hears of it.
        _ = try second.godwit.console("READS \(company.database) 7")
        for drive in company.both { try waitUntil { try percent(drive) == 7 } }
        for drive in company.both { try drive.wait("m", for: "shift paused") }
        #expect(try first.post("/migrations/m/resume").status == 200)
        for drive in company.both { try waitUntil { try percent(drive) == 100 } }
        // FORCE, too, and who begins later knows all of it.
        _ = try second.godwit.console("FORCE \(company.database) OLD")
        func forced(_ drive: MigrationDrive) throws -> String {
            try drive.godwit.console("SHOW BREAKERS").first { $0["side"] == "new" }?["forced"] ?? ""
        }
        let wanted = try forced(second)
        try waitUntil { try forced(first) == wanted }
        try second.crash()
        #expect(try percent(second) == 100 && forced(second) == wanted)
        #expect(try second.get("/migrations/m/report").body.contains("\"by\":\"cli\""))
        #expect(try first.post("/migrations/m/abort").status == 200)
        for drive in company.both { try waitUntil { try percent(drive) == 0 } }
    }

    /// Reads that NEW has answered.
    private func readsOnNew(_ drive: MigrationDrive) throws -> Int {
        try drive.get("/metrics").body.split(separator: "\n").reduce(0) { sum, line in
            guard line.hasPrefix("godwit_routes_total"), line.contains(#"side="new""#) else { return sum }
            return sum + (line.split(separator: " ").last.flatMap { Int($0) } ?? 0)
        }
    }

    /// Reads what the row has, until NEW has answered so many times.
    private func expectReads(
        _ drive: MigrationDrive, of database: String, onNew count: Int, _ write: (Int) throws -> Void
    ) throws {
        let reader = try WireClient(port: drive.godwit.port, database: database)
        let wanted = try readsOnNew(drive) + count
        var number = 0
        repeat {
            for _ in 0..<25 {
                number += 1
                try write(number)
                #expect(try reader.value("SELECT balance FROM account WHERE id = 1") == "\(number)")
            }
        } while try readsOnNew(drive) < wanted
    }

    private func mirror(_ drive: MigrationDrive) throws -> [String: String] {
        try drive.godwit.console("SHOW MIRROR").first ?? [:]
    }

    @Test func `what was written through one is read through each, on NEW too`() throws {
        let company = try company()
        let (first, second) = (company.first, company.second)
        try first.start(tests.manifest(first, "m", MigrationTests.swift))
        try first.wait("m", for: "cutover running")
        for (through, reader) in [(second, first), (first, second), (second, second)] {
            let writer = try WireClient(port: through.godwit.port, database: company.database)
            try expectReads(reader, of: company.database, onNew: 100) { number in
                _ = try writer.query("UPDATE account SET balance = \(number) WHERE id = 1")
            }
        }
        #expect(try mirror(first)["state"] == "mirroring" && mirror(second)["state"] == "following")
        // Around both.
        try expectReads(second, of: company.database, onNew: 50) { number in
            try servers.old.psql("UPDATE account SET balance = \(number) WHERE id = 1", database: company.database)
        }
        // What only the one with the mirror can do is refused with where to say it.
        for order in ["CUTOVER \(company.database)", "ROLLBACK \(company.database) DRY RUN", "MIRROR PAUSE \(company.database)"] {
            let psql = try ChildProcess([
                "psql", "-Xq", "-d", second.godwit.conninfo(database: "godwit", user: "godwit"), "-c", order,
            ])
            #expect(psql.wait() == .code(1))
            #expect(psql.errors.text.contains("http://127.0.0.1:\(first.port)"), "\(order): \(psql.errors.text)")
        }
        // A mirror that rests is believed as far as it has come.
        _ = try first.godwit.console("MIRROR PAUSE \(company.database)")
        let (writer, reader) = (
            try WireClient(port: first.godwit.port, database: company.database),
            try WireClient(port: second.godwit.port, database: company.database))
        var number = 100_000
        repeat {
            number += 1
            _ = try writer.query("UPDATE account SET balance = \(number) WHERE id = 1")
            #expect(try reader.value("SELECT balance FROM account WHERE id = 1") == "\(number)")
        } while try mirror(second)["state"] != "standby"
        _ = try first.godwit.console("MIRROR RESUME \(company.database)")
        try expectReads(second, of: company.database, onNew: 25) { number in
            _ = try writer.query("UPDATE account SET balance = \(number) WHERE id = 1")
        }
        #expect(try first.post("/migrations/m/abort").status == 200)
        try waitUntil { try percent(second) == 0 }
        let before = try readsOnNew(second)
        for _ in 0..<20 { _ = try reader.value("SELECT balance FROM account WHERE id = 1") }
        #expect(try readsOnNew(second) == before)
    }

    @Test(arguments: [TCPRelay.Mode.refusing, .silent])
    func `who hears nothing from the state's server reads from OLD until he does`(mode: TCPRelay.Mode) throws {
        let relay = try TCPRelay(to: servers.new.port)
        let company = try company(relay: relay, isOfSecond: true)
        let (first, second) = (company.first, company.second)
        try first.start(tests.manifest(first, "m", MigrationTests.swift))
        try first.wait("m", for: "cutover running")
        let writer = try WireClient(port: second.godwit.port, database: company.database)
        func readOnNew(_ drive: MigrationDrive) throws {
            try expectReads(drive, of: company.database, onNew: 25) { number in
                _ = try writer.query("UPDATE account SET balance = \(number) WHERE id = 1")
            }
        }
        try readOnNew(second)
        relay.become(mode)
        try waitUntil {
            let row = try mirror(second)
            return row["state"] == "standby" && row["reason"]?.contains("state store has not answered") == true
        }
        let before = try readsOnNew(second)
        for _ in 0..<50 { _ = try writer.value("SELECT balance FROM account WHERE id = 1") }
        #expect(try readsOnNew(second) == before)
        try readOnNew(first)
        // What was decided meanwhile counts when he is back.
        _ = try first.godwit.console("READS \(company.database) 0")
        relay.become(.passing)
        try waitUntil { try percent(second) == 0 && mirror(second)["state"] == "following" }
        _ = try first.godwit.console("READS \(company.database) 100")
        try readOnNew(second)
    }

    /// It knows that it is not alone, and has nothing that whoever moves the writes would wait for.
    private func putToSleep(_ drive: MigrationDrive, signsOn server: PostgresCluster) throws {
        // Behind its next sign it knows, and has noted so before the one after that.
        let signs = "SELECT seen FROM godwit.proxy WHERE id LIKE '\(drive.godwit.process.pid)-%'"
        for _ in 0..<2 {
            let sign = try server.psql(signs, database: drive.database)
            try waitUntil { try server.psql(signs, database: drive.database) != sign }
        }
        try SwitchCompanyTests().putToSleep(drive.godwit, drive.database)
    }

    /// The first runs a migration, and NEW has the writes of both.
    private func switched() throws -> (company: Company, first: MigrationDrive, second: MigrationDrive) {
        let company = try company()
        let (first, second) = (company.first, company.second)
        try first.start(tests.manifest(first, "m", MigrationTests.swift))
        try first.wait("m", for: "cutover running")
        try first.insist("m", "advance")
        try first.wait("m", for: "watch running")
        try tests.expectWrites(second, on: servers.new, id: 10_001)
        return (company, first, second)
    }

    @Test func `one that slept while the writes went back and all was removed writes on OLD when it wakes up`() throws {
        let (_, first, second) = try switched()
        try putToSleep(second, signsOn: servers.new)
        defer { second.godwit.process.send(SIGCONT) }
        try first.insist("m", "abort")
        try first.wait("m", for: "watch aborted")
        try first.insist("m", "advance")
        try first.wait("m", for: "watch removed")
        second.godwit.process.send(SIGCONT)
        try tests.expectWrites(second, on: servers.old, id: 10_002)
    }

    @Test func `what somebody drops by hand while NEW has the writes gives OLD none of those that were there`() throws {
        let (company, _, second) = try switched()
        for server in [servers.old, servers.new] {
            // The mirror may be in the midst of a batch.
            waitUntil {
                (try? server.psql("SET lock_timeout = '1s'; DROP SCHEMA godwit CASCADE", database: company.database)) != nil
            }
        }
        // The authority is asked once a second.
        let end = Date(timeIntervalSinceNow: 4)
        var id = 10_002
        while Date() < end {
            try tests.expectWrites(second, on: servers.new, id: id)
            id += 1
        }
    }

    @Test func `killed in each phase it is the other's, and goes on where it was`() throws {
        let company = try company()
        try company.first.start(tests.manifest(company.first, "m", MigrationTests.byHand))
        for phase in ["prepare", "backfill", "mirror", "validate", "shadow", "shift", "cutover", "watch"] {
            let runner = try company.runner()
            let other = try #require(company.both.first { $0 !== runner })
            try other.wait("m", for: "\(phase) running")
            runner.godwit.process.send(SIGKILL)
            runner.godwit.process.wait()
            #expect(try company.runner() === other)
            #expect(try other.place("m") == "\(phase) running")
            try other.insist("m", "advance")
            try runner.crash()
        }
        let last = try company.runner()
        try last.wait("m", for: "cleanup running")
        try last.insist("m", "advance")
        for drive in company.both { try drive.wait("m", for: "cleanup finished") }
        try tests.expectRemoved(company.database, isSwitched: true)
        // All of them know who has the writes for good, also later.
        for (number, drive) in company.both.enumerated() {
            try tests.expectWrites(drive, on: servers.new, id: 10_001 + number)
            try drive.crash()
            try tests.expectWrites(drive, on: servers.new, id: 10_011 + number)
        }
    }

    @Test func `one that slept from before the cutover to the end writes on NEW when it wakes up`() throws {
        let company = try company()
        let (first, second) = (company.first, company.second)
        try first.start(tests.manifest(first, "m", MigrationTests.swift))
        try first.wait("m", for: "cutover running")
        try tests.expectWrites(second, on: servers.old, id: 10_001)
        try putToSleep(second, signsOn: servers.old)
        defer { second.godwit.process.send(SIGCONT) }
        try first.insist("m", "advance")
        try first.wait("m", for: "watch running")
        try first.insist("m", "advance")
        try first.wait("m", for: "cleanup running")
        try first.insist("m", "advance")
        try first.wait("m", for: "cleanup finished")
        second.godwit.process.send(SIGCONT)
        try tests.expectWrites(second, on: servers.new, id: 10_002)
    }

    @Test(arguments: ["", "fence", "claim", "swap"])
    func `writers through both go on through a switch, also when who runs it is killed in its midst`(step: String) throws {
        var company = try company(SwitchTests.schema, SwitchTests.rows)
        try company.first.start(tests.manifest(company.first, "m", """
            phases: {mirror: {soak: 0}, shift: {soak: 0}, watch: {soak: 0}}
            reads: {steps: [100]}
            cutover: {deadline_millis: 30000}

            """))
        try company.first.wait("m", for: "cutover running")
        if !step.isEmpty {
            // The one that will die takes the migration over first.
            try company.second.crash(environment: ["GODWIT_DIE_BEFORE": step])
            let first = company.first
            first.godwit.process.send(SIGKILL)
            first.godwit.process.wait()
            try waitUntil { try company.second.isRunner() }
            try first.crash()
            (company.first, company.second) = (company.second, first)
        }
        let writers = try company.both.enumerated().map { index, drive in
            try SwitchTests.Writers(one.conninfo(drive.godwit, company.database), clients: 2, first: 1 + 2 * index)
        }
        for writer in writers { try writer.awaitMore() }
        if step.isEmpty {
            try company.first.insist("m", "advance")
        } else {
            while true {
                guard let answer = try? company.first.post("/migrations/m/advance"), answer.status != 200 else { break }
            }
            #expect(company.first.godwit.process.wait() == .signal(SIGKILL))
            #expect(try company.runner() === company.second)
            try waitUntil { try ["watch running", "cutover paused"].contains(company.second.place("m")) }
            if try company.second.place("m") == "cutover paused" {
                #expect(step != "swap")
                try writers[1].awaitMore()
                try company.second.insist("m", "resume")
                try company.second.insist("m", "advance")
            }
        }
        try company.second.wait("m", for: "watch running")
        try writers[1].awaitMore()
        for (index, writer) in writers.enumerated() {
            let outcome = try writer.end()
            // Who was connected to the one that was killed has seen it go.
            if index == 1 || step.isEmpty { #expect(outcome.errors == []) }
            try one.expectWhole(outcome, company.database, authority: "new")
        }
        try waitUntil { try one.servers.new.psql("SELECT 1", database: company.database) == "1" && company.runner().godwit
            .console("SHOW MIRROR").first?["state"] == "mirroring" }
        try one.expectEqual(company.database)
    }

    @Test func `who loses the state's server in the midst of a switch gives it up, and the other goes on`() throws {
        let relay = try TCPRelay(to: servers.new.port)
        let company = try company(SwitchTests.schema, SwitchTests.rows, relay: relay)
        let (first, second) = (company.first, company.second)
        try first.start(tests.manifest(first, "m", """
            phases: {mirror: {soak: 0}, shift: {soak: 0}, watch: {soak: 0}}
            reads: {steps: [100]}
            cutover: {deadline_millis: 20000}

            """))
        try first.wait("m", for: "cutover running")
        // An open transaction has the switch wait.
        let open = try WireClient(port: first.godwit.port, database: company.database)
        while true {
            _ = try open.query("BEGIN")
            _ = try open.query("UPDATE accounts SET balance = 0 WHERE id = 7")
            if try first.post("/migrations/m/advance").status == 200 { break }
            _ = try open.query("ROLLBACK")
        }
        try waitUntil { try first.godwit.console("SHOW DATABASES").contains { $0["hold"]?.isEmpty == false } }
        relay.become(.refusing)
        try waitUntil { try second.isRunner() }
        _ = try open.query("COMMIT")
        try second.wait("m", for: "cutover paused")
        #expect(try one.authority(first.godwit) == "old")
        #expect(try first.post("/migrations/m/resume").status == 503)
        // It goes on mirroring, until the one that has the migrations now ends that.
        try second.insist("m", "resume")
        try second.insist("m", "advance")
        try second.wait("m", for: "watch running")
        try waitUntil { try one.authority(first.godwit) == "new" }
        relay.become(.passing)
        try first.wait("m", for: "watch running")
        try waitUntil { try first.post("/migrations/m/abort").status == 307 }
        #expect(try second.post("/migrations/m/abort").status == 200)
        for drive in company.both { try drive.wait("m", for: "watch aborted") }
        #expect(try first.godwit.psql("SELECT balance FROM accounts WHERE id = 7", database: company.database) == "0")
    }

    @Test func `no write waits for a word about a migration that is over`() throws {
        let company = try company()
        let (first, database) = (company.first, company.database)
        try first.start(tests.manifest(first, "m", MigrationTests.byHand))
        for drive in company.both { try drive.wait("m", for: "prepare running") }
        // Each reckons with the other one.
        try waitUntil {
            let found = try servers.old.psql("SELECT to_regclass('godwit.proxy') IS NOT NULL", database: database)
            return try found == "t" && servers.old.psql("SELECT count(*) FROM godwit.proxy", database: database) == "2"
        }
        let began = try servers.old.psql("SELECT clock_timestamp()", database: database)
        try waitUntil {
            try servers.old.psql("SELECT bool_and(seen > '\(began)') FROM godwit.proxy", database: database) == "t"
        }
        try first.insist("m", "abort")
        try first.insist("m", "advance")
        for drive in company.both { try drive.wait("m", for: "prepare removed") }
        // For longer than a word may be late.
        for _ in 0..<150 {
            for drive in company.both {
                _ = try drive.godwit.psql("UPDATE account SET balance = 7 WHERE id = 1", database: database)
            }
        }
        for drive in company.both {
            #expect(!drive.godwit.log.text.contains("other Godwits have had no sign"), "\(drive.godwit.log.text)")
        }
    }

    @Test func `while the state's server is away traffic goes on and nothing is decided, then it goes on by itself`() throws {
        let server = try PostgresCluster(.new18)
        let company = try company(state: server)
        try company.first.start(tests.manifest(company.first, "m", MigrationTests.byHand))
        try company.first.wait("m", for: "prepare running")
        try waitUntil { try company.first.status("m")["go"] as? Bool == true }
        try server.stop(mode: "immediate")
        for drive in company.both { try waitUntil { try drive.get("/metrics").body.contains("\ngodwit_state_up 0") } }
        for (number, drive) in company.both.enumerated() {
            #expect(try drive.post("/migrations/m/advance").status == 503)
            #expect(try drive.post("/migrations/m/abort").status == 503)
            try tests.expectWrites(drive, on: servers.old, id: 10_001 + number)
        }
        let events = try company.first.godwit.console("SHOW EVENTS")
        #expect(events.contains { $0["kind"] == "alarm" && $0["cause"]?.contains("migrations stand still") == true }, "\(events)")
        try server.start()
        #expect(try company.runner().place("m") == "prepare running")
        // Both ask to be the one: who was it for a moment may have lost it again.
        try waitUntil { try company.runner().post("/migrations/m/advance").status == 200 }
        for drive in company.both { try drive.wait("m", for: "backfill running") }
    }

    /// One with its state behind a relay.
    private func lone(_ relay: TCPRelay) throws -> (drive: MigrationDrive, state: String) {
        let database = try servers.makeDatabase(MigrationTests.schema, old: MigrationTests.rows)
        let state = "state_\(database)"
        try servers.new.psql("CREATE DATABASE \(state)")
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        configuration.state["url"] = "\"host=127.0.0.1 port=\(relay.port) dbname=\(state) user=\(PostgresCluster.superuser)\""
        let drive = try MigrationDrive(configuration)
        try waitUntil { try drive.isRunner() }
        return (drive, state)
    }

    @Test func `a start that was refused, for its answer was lost, is known, and no other of its database begins`() throws {
        let relay = try TCPRelay(to: servers.new.port)
        let (drive, _) = try lone(relay)
        relay.cutAfterAnswer(to: "INSERT INTO migration (id")
        #expect(try drive.post("/migrations", tests.manifest(drive, "m", MigrationTests.byHand)).status == 503)
        #expect(relay.cuts == 1)
        let other = tests.manifest(drive, "other", MigrationTests.byHand)
        var answer = try drive.post("/migrations", other)
        while [307, 503].contains(answer.status) { answer = try drive.post("/migrations", other) }
        #expect(answer.status == 409 && answer.body.contains("is in the migration"), "\(answer.body)")
        try waitUntil { try drive.get("/migrations/m/status").status == 200 }
        try drive.wait("m", for: "prepare running")
        try waitUntil { try drive.status("m")["go"] as? Bool == true }
    }

    @Test func `an order that was refused, for its answer was lost, is not in force behind a restart`() throws {
        let relay = try TCPRelay(to: servers.new.port)
        let (drive, state) = try lone(relay)
        try drive.start(tests.manifest(drive, "m", MigrationTests.byHand))
        try drive.wait("m", for: "prepare running")
        try waitUntil { try drive.status("m")["go"] as? Bool == true }
        relay.cutAfterAnswer(to: "\"phase\":\"backfill\"")
        #expect(try drive.post("/migrations/m/advance").status == 409)
        #expect(relay.cuts == 1)
        let phases = "SELECT string_agg(json::json->>'phase', ' ' ORDER BY number) FROM godwit_state.state"
        try waitUntil { try servers.new.psql(phases, database: state).hasSuffix(" backfill prepare") }
        try drive.crash()
        try drive.wait("m", for: "prepare running")
    }

    @Test func `who begins while the state's server is away serves by what the databases say, until they do not`() throws {
        let server = try PostgresCluster(.new18)
        let company = try company(state: server)
        let (first, second) = (company.first, company.second)
        try first.start(tests.manifest(first, "m", MigrationTests.swift))
        try first.wait("m", for: "cutover running")
        try server.stop(mode: "immediate")
        try second.crash()
        try tests.expectWrites(second, on: servers.old, id: 10_001)
        #expect(try second.godwit.console("SHOW EVENTS").contains { row in
            row["kind"] == "alarm" && row["cause"]?.contains("begun without its state") == true
        })
        #expect(try mirror(second)["readable"] == "no")
        for order in ["READS \(company.database) 50", "FORCE \(company.database) NEW", "CUTOVER \(company.database)"] {
            #expect(throws: (any Error).self) { try second.godwit.console(order) }
        }
        #expect(try second.post("/migrations/m/advance").status == 503)
        try server.start()
        for drive in company.both {
            try waitUntil { try percent(drive) == 100 && mirror(drive)["readable"] == "yes" }
        }
        try waitUntil { try company.runner().post("/migrations/m/advance").status == 200 }
        for drive in company.both { try drive.wait("m", for: "watch running") }
        try server.stop(mode: "immediate")
        for (number, drive) in company.both.enumerated() {
            try drive.crash()
            try tests.expectWrites(drive, on: servers.new, id: 10_002 + number)
        }
        try server.start()
        for place in ["cleanup running", "cleanup finished"] {
            try waitUntil { try company.runner().post("/migrations/m/advance").status == 200 }
            for drive in company.both { try drive.wait("m", for: place) }
        }
        // OLD keeps its fence, and the word that it was left. Without that word only the state knows.
        try server.stop(mode: "immediate")
        try second.crash()
        try tests.expectWrites(second, on: servers.new, id: 10_021)
        try servers.old.psql("DROP SCHEMA godwit CASCADE", database: company.database)
        #expect(throws: (any Error).self) { try second.crash() }
    }
}
