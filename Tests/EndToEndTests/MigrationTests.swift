import Foundation
import TestSupport
import Testing

/// Whole migrations over HTTP, from PostgreSQL 15 to 18.
@Suite(.serialized) struct MigrationTests {
    static let schema = "CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL); CREATE TABLE log (id serial PRIMARY KEY, v text)"
    static let rows = "INSERT INTO account SELECT g, 100 FROM generate_series(1, 2000) g"
    /// Everything by itself, as fast as it goes, up to the switch, which may take its time on a busy machine: one that
    /// is over its deadline waits for a word.
    static let swift = """
        phases: {mirror: {soak: 0}, shift: {soak: 0}, watch: {soak: 0}}
        reads: {steps: [10, 100]}
        cutover: {deadline_millis: 30000}
        invariants: [{name: total, sql: "SELECT sum(balance), count(*) FROM account"}]

        """
    /// Each phase waits for a word.
    static let byHand = """
        phases:
          prepare: {advance: manual}
          backfill: {advance: manual}
          mirror: {advance: manual, soak: 0}
          validate: {advance: manual}
          shadow: {advance: manual}
          shift: {advance: manual, soak: 0}
          watch: {soak: 0}
        reads: {steps: [100]}
        cutover: {deadline_millis: 30000}

        """

    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    func drive(_ change: (inout GodwitConfiguration) -> Void = { _ in }) throws -> MigrationDrive {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        change(&configuration)
        return try MigrationDrive(configuration)
    }

    func manifest(_ drive: MigrationDrive, _ id: String, _ rest: String) -> String {
        "id: \(id)\ndatabase: \(drive.database)\n\(rest)"
    }

    /// Nothing of ours is left on either side but, where NEW has the writes, what says so and keeps OLD fenced.
    func expectRemoved(_ database: String, isSwitched: Bool) throws {
        for server in [servers.old, servers.new] {
            if isSwitched {
                #expect(try server.psql(
                    "SELECT relname FROM pg_class WHERE relnamespace = 'godwit'::regnamespace AND relkind = 'r'",
                    database: database) == "authority")
                #expect(try server.psql("""
                    SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE '%godwit%'
                       AND tgname NOT LIKE 'godwit_fence%'
                    """, database: database) == "0")
                continue
            }
            #expect(try server.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'godwit'", database: database) == "0")
            #expect(try server.psql(
                "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE '%godwit%'", database: database) == "0")
        }
    }

    @Test func `it goes on where it was, killed in each phase`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.byHand))
        for phase in ["prepare", "backfill", "mirror", "validate", "shadow", "shift"] {
            try drive.wait("m", for: "\(phase) running")
            try drive.crash()
            #expect(try drive.place("m") == "\(phase) running")
            try servers.old.psql("UPDATE account SET balance = balance + 1 WHERE id % 50 = 0", database: drive.database)
            try drive.insist("m", "advance")
        }
        try drive.wait("m", for: "cutover running")
        #expect(try drive.readsPercent() == "100")
        try drive.crash()
        #expect(try drive.place("m") == "cutover running")
        #expect(try drive.readsPercent() == "100")
        try drive.insist("m", "advance")
        try drive.wait("m", for: "watch running")
        try drive.crash()
        #expect(try drive.place("m") == "watch running")
        try expectWrites(drive, on: servers.new, id: 10_001)
        // Behind the switch OLD follows.
        try waitUntil { try servers.old.psql("SELECT count(*) FROM account WHERE id = 10001", database: drive.database) == "1" }
        try drive.insist("m", "advance")
        try drive.wait("m", for: "cleanup running")
        try drive.crash()
        #expect(try drive.place("m") == "cleanup running")
        try drive.insist("m", "advance")
        try drive.wait("m", for: "cleanup finished")
        try expectRemoved(drive.database, isSwitched: true)
        // The writes stay NEW's, now and later.
        try expectWrites(drive, on: servers.new, id: 10_002)
        try drive.crash()
        try expectWrites(drive, on: servers.new, id: 10_003)
        // Nobody makes a mirror's target of it, which would lose its triggers and foreign keys under its clients' writes.
        let again = try drive.post("/migrations", manifest(drive, "again", Self.byHand))
        #expect(again.status == 422 && again.body.contains("NEW has the writes"), "\(again.body)")
        // Also where neither database says so any more, and the file names both in other words.
        let path = drive.godwit.configurationPath
        let removal = try GodwitProcess.command(
            ["prepare", "--config", path, drive.database, "--remove", "--all"])
        #expect(removal.wait() == .code(0), "\(removal.errors.text)")
        let text = try String(contentsOfFile: path, encoding: .utf8)
        let otherwise = text.replacing(
            "dbname=\(drive.database)", with: "dbname=\(drive.database) application_name=otherwise")
        #expect(otherwise != text)
        try otherwise.write(toFile: path, atomically: true, encoding: .utf8)
        try drive.crash()
        try expectWrites(drive, on: servers.new, id: 10_004)
        // And where only the mirror was taken out of it.
        let unmirrored = otherwise.replacing("mode: async", with: "mode: off")
        #expect(unmirrored != otherwise)
        try unmirrored.write(toFile: path, atomically: true, encoding: .utf8)
        try drive.crash()
        try expectWrites(drive, on: servers.new, id: 10_005)
        let report = try MigrationDrive.json(try drive.get("/migrations/m/report"))
        let verbs = (report["decisions"] as? [[String: Any]])?.compactMap { $0["verb"] as? String } ?? []
        #expect(verbs.count { $0 == "advance" } >= 8)
        #expect(report["writes"] as? String == "new" && report["standing"] as? String == "finished")
    }

    @Test func `who takes the mirror out of the file behind the switch does not give OLD its writes back`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.swift))
        try drive.wait("m", for: "cutover running")
        try drive.insist("m", "advance")
        try drive.wait("m", for: "watch running")
        let path = drive.godwit.configurationPath
        let text = try String(contentsOfFile: path, encoding: .utf8)
        try text.replacing("mode: async", with: "mode: off").write(toFile: path, atomically: true, encoding: .utf8)
        try drive.crash()
        try expectWrites(drive, on: servers.new, id: 10_001)
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        try drive.crash()
        try expectWrites(drive, on: servers.new, id: 10_002)
        try waitUntil { try servers.old.psql("SELECT count(*) FROM account WHERE id IN (10001, 10002)", database: drive.database) == "2" }
    }

    @Test func `a sequence of Godwit's own, which DDL has made on one side, keeps no cutover back`() throws {
        let drive = try drive { $0.database.mirror = ["mode": "async", "ddl": "barrier"] }
        try drive.start(manifest(drive, "m", Self.swift))
        try drive.wait("m", for: "cutover running")
        try drive.godwit.psql("ALTER TABLE account ADD COLUMN note text", database: drive.database)
        // What is asked of the servers is asked anew.
        try drive.crash()
        try drive.insist("m", "advance")
        try drive.wait("m", for: "watch running")
    }

    /// A row that is written through Godwit is on this side.
    func expectWrites(_ drive: MigrationDrive, on server: PostgresCluster, id: Int) throws {
        try drive.godwit.psql("INSERT INTO account VALUES (\(id), 1)", database: drive.database)
        #expect(try server.psql("SELECT count(*) FROM account WHERE id = \(id)", database: drive.database) == "1")
    }

    @Test func `DDL is not refused because the guard rails of the coming cutover are looked at`() throws {
        let drive = try drive { $0.database.mirror = ["mode": "async", "ddl": "barrier"] }
        try drive.start(manifest(drive, "m", Self.swift))
        try drive.wait("m", for: "cutover running")
        // They are every five seconds.
        let count = 60
        for number in 1...count {
            try drive.godwit.psql("ALTER TABLE account ADD COLUMN note_\(number) text", database: drive.database)
        }
        #expect(try servers.new.psql(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 'account'::regclass AND attname LIKE 'note%'",
            database: drive.database) == "\(count)")
    }

    @Test func `killed in the midst of the switch it goes on with what came of it`() throws {
        for step in ["fence", "claim", "swap", "hand_over"] {
            let drive = try drive()
            try drive.start(manifest(drive, "m", Self.swift))
            try drive.wait("m", for: "cutover running")
            drive.godwit.terminate()
            try drive.crash(environment: ["GODWIT_DIE_BEFORE": step])
            while true {
                guard let answer = try? drive.post("/migrations/m/advance"), answer.status != 200 else { break }
            }
            drive.godwit.process.wait()
            try drive.crash()
            // What was ordered is found to have happened, or else waits for a word.
            try waitUntil { try ["watch running", "cutover paused"].contains(drive.place("m")) }
            if try drive.place("m") == "cutover paused" {
                #expect(["fence", "claim"].contains(step))
                try expectWrites(drive, on: servers.old, id: 10_000)
                try drive.insist("m", "resume")
                try drive.insist("m", "advance")
            }
            try drive.wait("m", for: "watch running")
            try expectWrites(drive, on: servers.new, id: 10_001)
            #expect(try drive.post("/migrations/m/abort").status == 200)
            try drive.wait("m", for: "watch aborted")
            try expectWrites(drive, on: servers.old, id: 10_002)
            #expect(try servers.old.psql("SELECT count(*) FROM account WHERE id = 10001", database: drive.database) == "1")
        }
    }

    @Test func `writers notice nothing of a whole migration and of its way back`() throws {
        let drive = try drive()
        let writer = try ChildProcess(["sh", "-c", """
            i=0; while [ ! -e \(drive.godwit.directory)/stop ]; do i=$((i+1))
            psql -Xq -v ON_ERROR_STOP=1 -d "\(drive.godwit.conninfo(database: drive.database))" \
                -c "UPDATE account SET balance = balance - 1 WHERE id = 1 + $i % 50; UPDATE account SET balance = balance + 1 WHERE id = 1 + ($i + 7) % 50" \
                -c "INSERT INTO log (v) VALUES ('$i')" || exit 1; done; echo $i
            """])
        try drive.start(manifest(drive, "m", Self.swift ))
        try drive.wait("m", for: "cutover running")
        try drive.insist("m", "advance")
        try drive.wait("m", for: "watch running")
        #expect(try drive.post("/migrations/m/abort").status == 200)
        try drive.wait("m", for: "watch aborted")
        try drive.insist("m", "resume")
        try drive.wait("m", for: "cutover running")
        try drive.insist("m", "advance")
        try drive.wait("m", for: "watch running")
        try drive.insist("m", "advance")
        try drive.wait("m", for: "cleanup running")
        try drive.insist("m", "advance")
        try drive.wait("m", for: "cleanup finished")
        try "".write(toFile: drive.godwit.directory + "/stop", atomically: true, encoding: .utf8)
        #expect(writer.wait() == .code(0), "\(writer.errors.text)")
        let count = writer.output.text.trimmingCharacters(in: .whitespacesAndNewlines)
        #expect(try servers.new.psql("SELECT count(DISTINCT v) FROM log", database: drive.database) == count)
        #expect(try servers.new.psql("SELECT sum(balance) FROM account", database: drive.database) == "200000")
    }

    static let phases = [
        "prepare", "backfill", "mirror", "validate", "shadow", "shift", "cutover", "watch", "cleanup",
    ]

    @Test(arguments: phases)
    func `abort takes everything back, and cleanup leaves nothing`(phase: String) throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.byHand))
        for before in Self.phases.prefix(while: { $0 != phase }) {
            try drive.wait("m", for: "\(before) running")
            try drive.insist("m", "advance")
        }
        try drive.wait("m", for: "\(phase) running")
        let answer = try drive.post("/migrations/m/abort", #"{"reason": "enough"}"#, by: "bob")
        #expect(answer.status == 200, "\(answer.body)")
        try drive.wait("m", for: "\(phase) aborted")
        let status = try drive.status("m")
        #expect(status["standing"] as? String == "aborted" && status["cause"] as? String == "enough")
        #expect(status["by"] as? String == "bob" && status["writes"] as? String == "old")
        #expect(try drive.readsPercent() == "0")
        try expectWrites(drive, on: servers.old, id: 10_001)
        try drive.insist("m", "advance")
        try drive.wait("m", for: "\(phase) removed")
        try expectRemoved(drive.database, isSwitched: false)
        try expectWrites(drive, on: servers.old, id: 10_002)
        #expect(try drive.post("/migrations/m/advance").status == 409)
    }

    @Test func `a difference keeps it from going on, and force is kept with its reason`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.byHand + "verify: {every: 1}\n"))
        for before in ["prepare", "backfill"] {
            try drive.wait("m", for: "\(before) running")
            try drive.insist("m", "advance")
        }
        try drive.wait("m", for: "mirror running")
        // In the mirror's own role nobody notices, but the comparison.
        let spoil = "SET session_replication_role = replica; UPDATE account SET balance = 7 WHERE id = 3"
        try waitUntil { try gate(drive, "mirror")["value"] as? String == "mirroring" }
        try servers.new.psql(spoil, database: drive.database)
        try drive.insist("m", "advance")
        try waitUntil { try (gate(drive, "verified")["value"] as? String ?? "").hasPrefix("different") }
        let refused = try drive.post("/migrations/m/advance")
        #expect(refused.status == 409 && refused.head.contains("application/problem+json"))
        let problem = try MigrationDrive.json(refused)
        #expect((problem["detail"] as? String)?.contains("verified") == true)
        #expect((problem["gates"] as? [[String: Any]])?.isEmpty == false)
        let plan = try MigrationDrive.json(try drive.post("/migrations/m/advance?dry_run=1"))
        #expect(plan["go"] as? Bool == false && plan["next"] as? String == "shadow")
        #expect(try drive.post("/migrations/m/force").status == 422)
        #expect(try drive.post("/migrations/m/force", #"{"reason": "known row"}"#).status == 200)
        #expect(try drive.place("m") == "shadow running")
        let report = try MigrationDrive.json(try drive.get("/migrations/m/report"))
        let forced = (report["decisions"] as? [[String: Any]])?.first { $0["verb"] as? String == "force" }
        #expect(forced?["reason"] as? String == "known row")
    }

    @Test func `what went back for a difference goes on once that is mended`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.byHand + "verify: {every: 1}\nabort: {validation_errors: 1}\n"))
        for before in ["prepare", "backfill"] {
            try drive.wait("m", for: "\(before) running")
            try drive.insist("m", "advance")
        }
        try drive.wait("m", for: "mirror running")
        try waitUntil { try gate(drive, "mirror")["value"] as? String == "mirroring" }
        func set(_ balance: Int) throws {
            try servers.new.psql(
                "SET session_replication_role = replica; UPDATE account SET balance = \(balance) WHERE id = 3",
                database: drive.database)
        }
        try set(7)
        try drive.insist("m", "advance")
        try drive.wait("m", for: "validate aborted")
        try set(100)
        #expect(try drive.post("/migrations/m/resume").status == 200)
        try drive.wait("m", for: "mirror running")
        try drive.insist("m", "advance")
        try waitUntil { try gate(drive, "verified")["value"] as? String ?? "" != "not yet" }
        #expect(try drive.place("m") == "validate running")
        try waitUntil { try (gate(drive, "verified")["value"] as? String ?? "").hasPrefix("equal") }
    }

    func gate(_ drive: MigrationDrive, _ name: String) throws -> [String: Any] {
        let gates = try drive.status("m")["gates"] as? [[String: Any]] ?? []
        return gates.first { $0["name"] as? String == name } ?? [:]
    }

    @Test func `the lag is measured where each table has another name on NEW`() throws {
        let table = "account (id int PRIMARY KEY, balance int NOT NULL)"
        let database = try servers.makeDatabase(
            old: "CREATE TABLE \(table); INSERT INTO account VALUES (1, 100)",
            new: "CREATE SCHEMA bank; CREATE TABLE bank.\(table)")
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async", "tables": "{public.account: {to: bank.account}}"]
        try expectLag(MigrationDrive(configuration))
    }

    private func expectLag(_ drive: MigrationDrive) throws {
        try drive.start(manifest(drive, "m", Self.byHand))
        for before in ["prepare", "backfill"] {
            try drive.wait("m", for: "\(before) running")
            try drive.insist("m", "advance")
        }
        try drive.wait("m", for: "mirror running")
        try waitUntil { try gate(drive, "lag")["holds"] as? Bool == true }
    }

    @Test func `a mirror that stands still takes the reads back by itself`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.swift.replacing("shift: {soak: 0}", with: "shift: {soak: 1000}")
            + "abort: {lag: 6, lag_warn: 3, held: 1}\n"))
        try drive.wait("m", for: "shift running")
        #expect(try drive.readsPercent() == "10")
        _ = try drive.godwit.console("MIRROR PAUSE \(drive.database)")
        try drive.wait("m", for: "shift aborted")
        #expect((try drive.status("m")["cause"] as? String)?.contains("behind") == true)
        #expect(try drive.readsPercent() == "0")
        let kinds = try drive.godwit.console("SHOW EVENTS").compactMap { $0["kind"] }
        #expect(kinds.contains("rollback") && kinds.contains("alarm"))
        _ = try drive.godwit.console("MIRROR RESUME \(drive.database)")
        #expect(try drive.post("/migrations/m/resume").status == 200)
        try drive.wait("m", for: "shift running")
    }

    @Test func `where all tables are empty the lag is measured too`() throws {
        let database = try servers.makeDatabase(Self.schema, old: "SELECT")
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        try expectLag(MigrationDrive(configuration))
    }

    @Test func `a NEW that does not answer falls behind, too`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.swift.replacing("shift: {soak: 0}", with: "shift: {soak: 1000}")
            + "abort: {lag: 6, lag_warn: 3, held: 1}\n"))
        try drive.wait("m", for: "shift running")
        try servers.new.psql("ALTER DATABASE \(drive.database) ALLOW_CONNECTIONS false")
        defer { _ = try? servers.new.psql("ALTER DATABASE \(drive.database) ALLOW_CONNECTIONS true") }
        try servers.new.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '\(drive.database)'")
        try drive.wait("m", for: "shift aborted")
        #expect((try drive.status("m")["cause"] as? String)?.contains("behind") == true)
    }

    @Test func `what an operator orders about reads pauses it, and resume takes them back`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.swift.replacing("shift: {soak: 0}", with: "shift: {soak: 1000}")))
        try drive.wait("m", for: "shift running")
        _ = try drive.godwit.console("READS \(drive.database) 3")
        try drive.wait("m", for: "shift paused")
        #expect((try drive.status("m")["cause"] as? String)?.contains("an operator") == true)
        // Whoever goes on with it behind a restart leaves them where he has put them.
        drive.godwit.terminate()
        try drive.crash()
        try drive.wait("m", for: "shift paused")
        Awaited.pause()
        #expect(try drive.godwit.console("SHOW DATABASES").contains { $0.values.contains("3.00") })
        try drive.insist("m", "resume")
        #expect(try drive.place("m") == "shift running")
        #expect(try drive.godwit.console("SHOW DATABASES").contains { $0.values.contains("10.00") })
    }

    @Test func `what an operator orders about reads behind an abort outlives the process`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.swift))
        try drive.wait("m", for: "cutover running")
        try drive.insist("m", "abort")
        try drive.wait("m", for: "cutover aborted")
        _ = try drive.godwit.console("READS \(drive.database) 12.5")
        // Answered when all that was given to the state is written.
        _ = try drive.get("/migrations/m/events")
        try drive.crash()
        #expect(try drive.place("m") == "cutover aborted")
        #expect(try drive.godwit.console("SHOW DATABASES").contains { $0.values.contains("12.50") })
    }

    @Test func `nobody looks any more at the two sides of a migration that is over`() throws {
        let drive = try drive()
        try drive.start(manifest(drive, "m", Self.byHand))
        try waitUntil { try drive.status("m")["go"] as? Bool == true }
        try drive.insist("m", "abort")
        let reader = try WireClient(port: servers.old.port, database: drive.database)
        _ = try reader.query("BEGIN; SELECT id FROM account")
        try drive.insist("m", "advance")
        // The removal takes longer than from one look to the next.
        try waitUntil {
            try servers.old.psql("""
                SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'account'::regclass
                """, database: drive.database) == "1"
        }
        _ = try reader.query("ROLLBACK")
        try drive.wait("m", for: "prepare removed")
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'godwit migration' AND datname = "
        for server in [servers.old, servers.new] {
            try waitUntil { try server.psql("\(sessions)'\(drive.database)'") == "0" }
        }
    }

    @Test func `READS, FORCE and roll-backs outlive a restart`() throws {
        let drive = try drive()
        _ = try drive.godwit.console("READS \(drive.database) 12.5")
        _ = try drive.godwit.console("FORCE \(drive.database) OLD")
        drive.godwit.terminate()
        try drive.crash()
        let row = try #require(try drive.godwit.console("SHOW DATABASES").first { $0.values.contains("12.50") })
        #expect(row["name"] == drive.database)
        let breaker = try drive.godwit.console("SHOW BREAKERS").first { $0["side"] == "NEW" || $0["side"] == "new" }
        #expect(breaker?["forced"] == "yes")
    }
}
