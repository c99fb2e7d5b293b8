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

    @Test func `a new table that bulk names is captured by statement from its begin on, whoever makes it`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let names = ["loads", "feeds", "lists"].map { "public.\($0)" }
        let godwit = try servers.mirroring(database) {
            $0.database.mirror = [
                "mode": "async", "ddl": "barrier", "ddl_wait": "20",
                "bulk": "[\(names.joined(separator: ", ")), public.accounts]",
            ]
        }
        let client = try WireClient(port: godwit.port, database: database)
        func run(_ sql: String) throws {
            #expect(try client.query(sql).first { $0.type == "E" }?.sqlState == nil, "\(sql)")
        }
        func expectTriggers(_ table: String, _ triggers: String) throws {
            for server in [servers.old, servers.new] {
                #expect(try self.triggers(server, table, database) == triggers, "\(table)")
            }
        }
        try run("CREATE TABLE loads (id int PRIMARY KEY, v text)")
        try run("BEGIN")
        try run("CREATE TABLE feeds (id int PRIMARY KEY, v text)")
        try run("INSERT INTO feeds SELECT g, 'feed' FROM generate_series(1, 500) g")
        try run("CREATE TABLE plain (id int PRIMARY KEY)")
        // A partition's rows come by statements on another table.
        try run("CREATE TABLE lists (id int PRIMARY KEY) PARTITION BY LIST (id)")
        try run("CREATE TABLE lists_1 PARTITION OF lists FOR VALUES IN (1)")
        try run("COMMIT")
        try expectTriggers("loads", "RDAAAA")
        try expectTriggers("feeds", "RDAAAA")
        try expectTriggers("plain", "ORA")
        try expectTriggers("lists", "ORA")
        try expectTriggers("accounts", "RDAAAA")
        // One that is made anew is new again; others keep what they have, under whatever name, until prepare is run.
        try run("BEGIN")
        try run("DROP TABLE loads")
        try run("CREATE TABLE loads (id int PRIMARY KEY, v text)")
        try run("ALTER TABLE plain RENAME TO other")
        try run("COMMIT")
        try run("ALTER TABLE feeds RENAME TO fed")
        try run("ALTER TABLE other RENAME TO feeds")
        try expectTriggers("loads", "RDAAAA")
        try expectTriggers("fed", "RDAAAA")
        try expectTriggers("feeds", "ORA")
        try run("INSERT INTO loads SELECT g, 'load' FROM generate_series(1, 1000) g")
        try run("UPDATE fed SET v = 'fed' WHERE id % 2 = 0")
        try run("INSERT INTO lists VALUES (1)")
        try switches.waitForMirror(godwit)
        let sums = """
            SELECT (SELECT count(*) FROM loads), (SELECT string_agg(v, ',' ORDER BY id) FROM fed), (SELECT count(*) FROM lists)
            """
        try waitUntil {
            try servers.old.psql(sums, database: database) == servers.new.psql(sums, database: database)
        }
        let verify = try GodwitProcess.command(["verify", "--config", godwit.configurationPath, database])
        #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
    }
}
