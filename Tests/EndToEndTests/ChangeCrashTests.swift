import Foundation
import Glibc
import TestSupport
import Testing

/// `mirror.ddl: barrier`: what Godwit and NEW leave when they die between the two commits of a DDL.
@Suite(.serialized) struct ChangeCrashTests {
    /// Of this suite alone, whose NEW dies. What is not committed reaches its disk late.
    private static let own = Result { try Servers(settings: ["wal_writer_delay": "10s"]) }

    let servers: Servers
    let database: String
    let configuration: GodwitConfiguration

    init() throws {
        servers = try Self.own.get()
        database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)", old: "INSERT INTO t VALUES (1)")
        var configuration = GodwitConfiguration([servers.entry(database)])
        // What is to die must not be refused before, however busy the machine is: nothing else would end it.
        configuration.database.mirror = ["mode": "async", "ddl": "barrier", "ddl_wait": "60"]
        self.configuration = configuration
    }

    private static let add = "ALTER TABLE t ADD COLUMN a int DEFAULT 4"

    /// - Returns: what has died when OLD had committed, and NEW not yet.
    private func dieBetween(_ statements: [String], step: String = "ddl_target") throws -> GodwitProcess {
        let mirror = configuration.database.mirror
        _ = try servers.mirroring(database) { $0.database.mirror = mirror }.terminate()
        let dying = try GodwitProcess(configuration, environment: ["GODWIT_DIE_BEFORE": step])
        try waitUntil {
            let row = try dying.console("SHOW MIRROR").first
            return row?["state"] == "mirroring" && row?["readable"] == "yes"
        }
        let client = try WireClient(port: dying.port, database: database)
        client.send(statements.flatMap { FrameBuilder.query($0) })
        #expect(dying.process.wait() == .signal(SIGKILL))
        return dying
    }

    private func expectAlike(_ columns: String) throws {
        try waitUntil { try servers.old.psql("SELECT count(*) FROM godwit.change", database: database).hasPrefix("0") }
        for server in [servers.old, servers.new] {
            let found = try server.psql("""
                SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = 't'::regclass AND attnum > 0 AND NOT attisdropped
                """, database: database)
            #expect(found == columns)
        }
    }

    @Test(arguments: [[add], ["BEGIN", add, "COMMIT"]])
    func `a number that NEW gives again after its death does not pass for the change's`(statements: [String]) throws {
        let dying = try dieBetween(statements)
        servers.new.kill9()
        try servers.new.start()
        // One of these gets the number, if it can be had again.
        for _ in 0..<20 { try servers.new.psql("SELECT pg_logical_emit_message(true, 'another', '')") }
        let godwit = try GodwitProcess(resuming: dying)
        try expectAlike("id,a")
        try waitUntil { try godwit.console("SHOW MIRROR").first?["state"] == "mirroring" }
    }

    /// What has taken a name that another table had is not taken for that one when all is done once more.
    @Test(arguments: [
        ["ALTER TABLE t RENAME TO t_old", "CREATE TABLE t (id int PRIMARY KEY, b int)"],
        ["ALTER TABLE t RENAME TO x", "ALTER TABLE u RENAME TO t", "ALTER TABLE x RENAME TO u"],
    ])
    func `a Godwit that dies when all is done but for the record has it done again without harm`(
        renames: [String]
    ) throws {
        for server in [servers.old, servers.new] {
            try server.psql(
                "CREATE TABLE u (id int PRIMARY KEY, c text); ALTER TABLE u OWNER TO app", database: database)
        }
        let dying = try dieBetween(["BEGIN"] + renames + ["COMMIT"], step: "ddl_forget")
        let names = "SELECT string_agg(table_name, ',' ORDER BY table_name) FROM godwit.backfill"
        let before = try servers.new.psql(names, database: database)
        let godwit = try GodwitProcess(resuming: dying)
        try waitUntil { try servers.old.psql("SELECT count(*) FROM godwit.change", database: database) == "0" }
        #expect(try servers.new.psql(names, database: database) == before)
        try waitUntil {
            let row = try godwit.console("SHOW MIRROR").first
            return row?["state"] == "mirroring" && row?["readable"] == "yes"
        }
    }

    @Test func `the writes do not move to a side that is still to get a DDL`() throws {
        // No row needs it, so the mirror goes on.
        let dying = try dieBetween(["ALTER TABLE t ALTER COLUMN id SET DEFAULT 4"])
        // Nobody can make it there: somebody reads the table.
        let reader = try WireClient(port: servers.new.port, database: database, user: PostgresCluster.superuser)
        _ = try reader.query("BEGIN; SELECT FROM t")
        let godwit = try GodwitProcess(resuming: dying)
        func rail() throws -> String? {
            try godwit.console("CUTOVER \(database) DRY RUN").first { $0["name"] == "unfinished_ddl" }?["ok"]
        }
        // Where it is just being tried, that is in the way, and no more is looked at.
        try waitUntil { try rail() == "no" }
        _ = try reader.query("COMMIT")
        try waitUntil { try rail() == "yes" }
        let defaults = "SELECT count(*) FROM pg_attrdef WHERE adrelid = 't'::regclass"
        #expect(try servers.new.psql(defaults, database: database) == "1")
    }

    @Test func `what was left is made good although clients go on sending DDL`() throws {
        let dying = try dieBetween([Self.add])
        let coordinator = try WireClient(
            port: servers.old.port, database: database, user: PostgresCluster.superuser)
        _ = try coordinator.query("SELECT pg_advisory_lock(7451605422)")
        let godwit = try GodwitProcess(resuming: dying)
        try godwit.log.waitForLine(containing: "still to be made here")
        _ = try godwit.console("SET databases.\(database).mirror.ddl_wait = 1")
        let client = try WireClient(port: godwit.port, database: database)
        func state() throws -> String? {
            try client.query("ALTER TABLE t ADD COLUMN IF NOT EXISTS b int").lazy.compactMap(\.sqlState).first
        }
        // It waits for that in vain.
        let first = try state()
        #expect(first == "55P03")
        _ = try coordinator.query("SELECT pg_advisory_unlock(7451605422)")
        try waitUntil("DDL to be taken again") { try state() == nil }
        try expectAlike("id,a,b")
    }
}
