import Foundation
import Glibc
import TestSupport
import Testing

/// A Godwit that was stopped for so long that another one has taken its mirror over, and that wakes up again.
@Suite(.serialized) struct ZombieTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    private func mirror(_ godwit: GodwitProcess, _ database: String) throws -> String {
        try godwit.console("SHOW MIRROR").first { $0["database"] == database }?["state"] ?? ""
    }

    /// The sessions that apply, by their server process.
    private func appliers(_ database: String) throws -> Set<String> {
        let text = try servers.new.psql("""
            SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'godwit mirror'
            """, database: database)
        return Set(text.split(separator: "\n").map(String.init))
    }

    /// - Parameter isInBatch: it is stopped while a batch of its own is open on NEW, whose COMMIT it has not sent.
    @Test(arguments: [false, true])
    func `an applier that wakes up behind another's back applies nothing`(isInBatch: Bool) throws {
        let database = try servers.makeDatabase(
            "CREATE TABLE item (id int PRIMARY KEY, word text)",
            old: "INSERT INTO item SELECT g, 'begin' FROM generate_series(1, 100) g")
        let first = try servers.mirroring(database)
        let before = try appliers(database)
        #expect(before.count == 1)
        var change = try ChildProcess(["true"])
        if isInBatch {
            // NEW's backend waits for this lock in the midst of the batch.
            let lock = try WireClient(port: servers.new.port, database: database, user: PostgresCluster.superuser)
            _ = try lock.query("BEGIN")
            _ = try lock.query("LOCK TABLE item IN EXCLUSIVE MODE")
            change = try ChildProcess([
                "psql", "-Xq", "-d", first.conninfo(database: database), "-c", "UPDATE item SET word = 'stale' WHERE id <= 50",
            ])
            try waitUntil {
                try servers.new.psql("""
                    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                       AND application_name = 'godwit mirror' AND wait_event_type = 'Lock'
                    """, database: database) == "1"
            }
            // Before the lock is let go: else the batch might be committed after all.
            try first.suspend()
            _ = try lock.query("ROLLBACK")
        } else {
            try first.suspend()
        }
        defer { first.process.send(SIGCONT) }
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        let second = try GodwitProcess(configuration)
        // What the sleeping one knows of is changed once more, and taken away.
        try servers.old.psql("""
            UPDATE item SET word = 'fresh' WHERE id <= 40; DELETE FROM item WHERE id BETWEEN 41 AND 50;
            INSERT INTO item SELECT g, 'fresh' FROM generate_series(101, 200) g
            """, database: database)
        try waitUntil { try mirror(second, database) == "mirroring" }
        let rows = "SELECT md5(string_agg(item::text, ',' ORDER BY id)) FROM item"
        let fresh = try servers.old.psql(rows, database: database)
        try waitUntil { try servers.new.psql(rows, database: database) == fresh }
        let taken = try appliers(database)
        #expect(taken.count == 1 && taken.isDisjoint(with: before))
        func batch() throws -> Int {
            try Int(servers.new.psql("SELECT batch FROM godwit.progress", database: database)) ?? -1
        }
        let reached = try batch()

        first.process.send(SIGCONT)
        try waitUntil { try mirror(first, database) == "waiting" }
        try first.log.waitForLine(containing: "another Godwit applies to it now")
        // Both have looked since: nothing has changed, and only the new one goes on.
        #expect(try servers.new.psql(rows, database: database) == fresh)
        #expect(try batch() >= reached)
        for round in 1...20 {
            try servers.old.psql("UPDATE item SET word = 'round \(round)' WHERE id % 7 = \(round % 7)", database: database)
        }
        let last = try servers.old.psql(rows, database: database)
        try waitUntil { try servers.new.psql(rows, database: database) == last }
        #expect(try taken.isSubset(of: appliers(database)))
        #expect(try mirror(second, database) == "mirroring")
        #expect(try mirror(first, database) == "waiting")
        #expect(try servers.new.psql("SELECT count(*) FROM item WHERE word = 'stale'", database: database) == "0")
        change.send(SIGKILL)
        change.wait()
    }
}
