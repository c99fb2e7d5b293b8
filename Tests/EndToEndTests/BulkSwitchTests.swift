import TestSupport
import Testing

/// Tables of `mirror.bulk` through Godwit: from the file to the triggers, and through cutovers and DDL on both sides.
@Suite(.serialized) struct BulkSwitchTests {
    let servers: Servers
    let switches: SwitchTests

    init() throws {
        servers = try Servers.shared.get()
        switches = try SwitchTests()
    }

    private func triggers(_ server: PostgresCluster, _ table: String, _ database: String) throws -> String {
        try server.psql("""
            SELECT string_agg(tgenabled::text, '' ORDER BY tgname) FROM pg_trigger WHERE tgname LIKE 'godwit_capture%'
               AND tgrelid = '\(table)'::regclass
            """, database: database)
    }

    @Test func `writers go on through cutovers and rollbacks, and DDL keeps the triggers`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwit = try servers.mirroring(database) {
            $0.database.mirror = [
                "mode": "async", "ddl": "barrier", "ddl_wait": "20", "bulk": "[public.accounts, public.entries]",
            ]
        }
        for server in [servers.old, servers.new] {
            #expect(try triggers(server, "entries", database) == "RDAAAA")
            #expect(try triggers(server, "parts", database) == "ORA")
        }
        let writers = try SwitchTests.Writers(switches.conninfo(godwit, database))
        let client = try WireClient(port: godwit.port, database: database)
        for round in 0..<2 {
            try writers.awaitMore()
            for sql in ["ALTER TABLE entries ADD COLUMN c\(round) int DEFAULT 7", "CREATE TABLE more_\(round) (id int PRIMARY KEY)"] {
                #expect(try client.query(sql).first { $0.type == "E" }?.sqlState == nil, "\(sql)")
            }
            try switches.waitForMirror(godwit)
            try switches.switchOver(godwit, "CUTOVER", database)
            try writers.awaitMore()
            try switches.waitForMirror(godwit)
            try switches.switchOver(godwit, "ROLLBACK", database)
            try switches.waitForMirror(godwit)
        }
        _ = try client.query("UPDATE entries SET c0 = 1, c1 = 2")
        try writers.awaitMore()
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try switches.expectWhole(outcome, database, authority: "old")
        for server in [servers.old, servers.new] { #expect(try triggers(server, "entries", database) == "RDAAAA") }
        let sql = """
            SELECT (SELECT md5(string_agg(a::text, ',' ORDER BY id)) FROM accounts a),
                   (SELECT md5(string_agg(e::text, ',' ORDER BY client, n)) FROM entries e)
            """
        try waitUntil {
            try servers.old.psql(sql, database: database) == servers.new.psql(sql, database: database)
        }
        let verify = try GodwitProcess.command(["verify", "--config", godwit.configurationPath, database])
        #expect(verify.wait() == .code(0), "\(verify.output.text) \(verify.errors.text)")
    }

    @Test func `check and prepare say what cannot be, and why`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: "")
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async", "bulk": "[public.parts]"]
        let directory = try GodwitProcess.makeDirectory(configuration)
        for command in [["check"], ["prepare"]] {
            let process = try GodwitProcess.command(command + ["--config", directory + "/godwit.yaml", database])
            #expect(process.wait() == .code(1))
            let said = process.output.text + process.errors.text
            #expect(said.contains("OLD public.parts") && said.contains("is named in mirror.bulk, and it is partitioned"), "\(said)")
            #expect(said.contains("Take it out of mirror.bulk"), "\(said)")
        }
    }
}
