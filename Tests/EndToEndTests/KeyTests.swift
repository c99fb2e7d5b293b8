import Foundation
import TestSupport
import Testing

/// Every source of a routing key that the text alone does not have. The two databases differ in one row, so the answer
/// itself tells the side.
@Suite struct KeyTests {
    let servers: Servers
    let database: String

    private static let read = "SELECT side FROM side_marker"

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase("CREATE DOMAIN number AS bigint")
    }

    /// The side whose share has the key.
    private func side(of key: String, percent: Double) throws -> String {
        let command = try GodwitProcess.command(["bucket", key])
        _ = command.wait()
        let bucket = try #require(command.output.lines.first?.split(separator: "\t").last.flatMap { Double($0) })
        return bucket < percent ? "new" : "old"
    }

    private func connect(
        _ godwit: GodwitProcess, user: String = "app", _ parameters: [(String, String)] = []
    ) throws -> WireClient {
        try WireClient(port: godwit.port, database: database, user: user, parameters: parameters)
    }

    @Test func `what the session calls itself is its key, also when it changes`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "50"
            $0.database.readsKey = "[{session: application_name}]"
        }
        let names = (1...12).map { "shop-\($0)" }
        let sides = try names.map { try side(of: $0, percent: 50) }
        #expect(Set(sides) == ["old", "new"])
        let client = try connect(godwit, [("application_name", "first")])
        for (name, side) in zip(names, sides) {
            #expect(try connect(godwit, [("application_name", name)]).value(Self.read) == side)
            _ = try client.query("SET application_name = '\(name)'")
            #expect(try client.value(Self.read) == side)
        }
        #expect(try connect(godwit).value(Self.read) == "old", "no name, no key")
    }

    @Test func `the host that a client comes from is its key`() throws {
        for percent in ["0", "100"] {
            let cohort = "[{name: here, keys: [\"127.0.0.1\"], percent: \(percent)}]"
            let godwit = try servers.godwit(database) {
                $0.database.readsPercent = "50"
                $0.database.readsKey = "[{session: client_address}]"
                $0.database.reads = ["cohorts": cohort]
            }
            #expect(try connect(godwit).value(Self.read) == (percent == "0" ? "old" : "new"))
            let cohorts = try godwit.console("SHOW COHORTS")
            #expect(cohorts.contains { $0["cohort"] == "here" && $0["units"] == "1" })
        }
    }

    @Test func `reads without a key stay on OLD, or go by the login`() throws {
        for (keyless, cohorts, expected) in [
            ("old", "[]", "old"), ("session", "[]", "new"),
            ("session", "[{name: app, keys: [app], percent: 0}]", "old"),
        ] {
            let godwit = try servers.godwit(database) {
                $0.database.readsPercent = "100"
                $0.database.readsKey = "[{comment: user_id}]"
                $0.database.reads = ["keyless": keyless, "cohorts": cohorts]
            }
            let client = try connect(godwit)
            #expect(try client.value(Self.read) == expected)
            #expect(try client.value("/* user_id=1 */ \(Self.read)") == "new")
        }
    }

    @Test func `a cohort's file is read again at a reload`() throws {
        let file = try TestResources.file("staff", "7\n")
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.readsPercent = "0"
        configuration.database.reads = ["cohorts": "[{name: staff, file: \"\(file)\", percent: 100}]"]
        let godwit = try GodwitProcess(configuration)
        let client = try connect(godwit)
        #expect(try client.value("/* user_id=7 */ \(Self.read)") == "new")
        #expect(try client.value("/* user_id=8 */ \(Self.read)") == "old")
        try "8\n".write(toFile: file, atomically: true, encoding: .utf8)
        _ = try godwit.reload(configuration)
        #expect(try client.value("/* user_id=8 */ \(Self.read)") == "new")
        #expect(try client.value("/* user_id=7 */ \(Self.read)") == "old")
    }

    /// Executes what was prepared before, and gives the first column of its first row.
    private func execute(_ client: WireClient, _ name: String, _ parameters: [String] = []) throws -> String? {
        client.send(
            FrameBuilder.bind(statement: name, parameters: parameters) + FrameBuilder.execute() + FrameBuilder.sync)
        return try client.readToReady().first { $0.type == "D" }?.columns.first ?? nil
    }

    private func prepare(_ client: WireClient, _ name: String, _ sql: String) throws {
        client.send(FrameBuilder.parse(sql, name: name) + FrameBuilder.sync)
        #expect(try client.readToReady().map(\.type) == ["1", "Z"])
    }

    /// One key of each side, of those that a column has.
    private func sides(percent: Double) throws -> (new: String, old: String) {
        let keys = (1...20).map { "\($0)" }
        let isNew = try keys.map { try side(of: $0, percent: percent) == "new" }
        return (try #require(zip(keys, isNew).first { $0.1 }?.0), try #require(zip(keys, isNew).first { !$0.1 }?.0))
    }

    @Test(arguments: ["s", ""]) func `who is prepared leaves a cohort that a reload takes away`(name: String) throws {
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.readsPercent = "0"
        configuration.database.reads = ["cohorts": "[{name: staff, keys: [\"7\"], percent: 100}]"]
        let godwit = try GodwitProcess(configuration)
        let client = try connect(godwit)
        try prepare(client, name, "/* user_id=7 */ \(Self.read)")
        #expect(try execute(client, name) == "new")
        configuration.database.reads = [:]
        _ = try godwit.reload(configuration)
        #expect(try execute(client, name) == "old")
    }

    @Test(arguments: ["s", ""]) func `what is prepared has its key from where a reload says`(name: String) throws {
        let (new, old) = try sides(percent: 50)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.readsPercent = "50"
        configuration.database.readsKey = "[{comment: none}, {column: account_id}]"
        let godwit = try GodwitProcess(configuration)
        let client = try connect(godwit)
        try prepare(client, name, "SELECT (\(Self.read)) FROM generate_series(1, 20) a(account_id), "
            + "generate_series(1, 20) u(user_id) WHERE account_id = $1 AND user_id = $2")
        #expect(try execute(client, name, [new, old]) == "new")
        configuration.database.readsKey = "[{comment: none}, {column: user_id}]"
        _ = try godwit.reload(configuration)
        #expect(try execute(client, name, [new, old]) == "old")
        #expect(try execute(client, name, [old, new]) == "new")
        // The same text, named once more.
        let other = try connect(godwit)
        try prepare(other, "other", "SELECT (\(Self.read)) FROM generate_series(1, 20) a(account_id), "
            + "generate_series(1, 20) u(user_id) WHERE account_id = $1 AND user_id = $2")
        #expect(try execute(other, "other", [new, old]) == "old")
        // No source is at that place any more.
        configuration.database.readsKey = "[{session: user}]"
        _ = try godwit.reload(configuration)
        let login = try side(of: "app", percent: 50)
        #expect(try execute(client, name, [new, old]) == login)
        #expect(try execute(client, name, [old, new]) == login)
    }

    @Test func `what a session has set is its key from when a reload says so`() throws {
        let (new, old) = try sides(percent: 50)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.readsPercent = "50"
        configuration.database.readsKey = "[{comment: none}]"
        let godwit = try GodwitProcess(configuration)
        func reload(key: String) throws {
            configuration.database.readsKey = key
            _ = try godwit.reload(configuration)
        }
        let (client, other) = (try connect(godwit), try connect(godwit))
        for (client, key) in [(client, new), (other, old)] {
            _ = try client.query("SET app.tenant = '\(key)'")
            #expect(try client.value(Self.read) == "old")
        }
        try reload(key: "[{setting: app.tenant}]")
        #expect(try client.value(Self.read) == "new")
        #expect(try other.value(Self.read) == "old")
        // What it was when it was no key counts as well.
        try reload(key: "[{comment: none}]")
        _ = try other.query("SET app.tenant = '\(new)'")
        _ = try client.query("RESET app.tenant")
        try reload(key: "[{setting: app.tenant}]")
        #expect(try other.value(Self.read) == "new")
        #expect(try client.value(Self.read) == "old")
    }

    @Test(arguments: ["s", ""]) func `what is prepared is judged by the catalog as it is now`(name: String) throws {
        let make = { (side: String) in
            ["side", "other"].map { name in
                "CREATE FUNCTION \(name)() RETURNS text LANGUAGE sql STABLE AS $$ SELECT '\(side)' $$"
            }.joined(separator: ";")
        }
        let named = try servers.makeDatabase(old: make("old"), new: make("new"))
        let godwit = try servers.godwit(named) { $0.database.readsPercent = "100" }
        try godwit.log.waitForLine(containing: "catalog of \"\(named)\" read")
        let client = try WireClient(port: godwit.port, database: named, user: "app")
        try prepare(client, name, "/* user_id=5 */ SELECT side()")
        #expect(try execute(client, name) == "new")
        try servers.old.psql("ALTER FUNCTION side() VOLATILE", database: named)
        // The catalog is read again behind what Godwit sees.
        try godwit.psql("CREATE TABLE more (id int)", database: named)
        try waitUntil { try execute(client, name) == "old" }
        #expect(try WireClient(port: godwit.port, database: named).value("/* user_id=6 */ SELECT other()") == "new")
    }

    @Test func `a batch of two users' reads is no read of the first`() throws {
        let (new, old) = try sides(percent: 50)
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "50" }
        let client = try connect(godwit)
        func batch(_ users: [String]) throws -> [String?] {
            client.send(users.flatMap {
                FrameBuilder.parse("/* user_id=\($0) */ \(Self.read)") + FrameBuilder.bind() + FrameBuilder.execute()
            } + FrameBuilder.sync)
            return try client.readToReady().filter { $0.type == "D" }.map { $0.columns.first ?? nil }
        }
        #expect(try batch([new, new]) == ["new", "new"])
        #expect(try batch([new, old]) == ["old", "old"])
        #expect(try batch([old, new]) == ["old", "old"])
    }

    @Test func `of a batch's unnamed statements each has its own key, or none`() throws {
        let (new, old) = try sides(percent: 50)
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "50"
            $0.database.readsKey = "[{comment: none}, {column: user_id}]"
        }
        let client = try connect(godwit)
        for (other, expected) in [("id", "new"), ("user_id", "old")] {
            client.send([("user_id", new), (other, old)].flatMap { column, value -> [UInt8] in
                let text = "SELECT (\(Self.read)) FROM generate_series(1, 20) t(\(column)) WHERE \(column) = $1"
                return FrameBuilder.parse(text) + FrameBuilder.bind(parameters: [value]) + FrameBuilder.execute()
            } + FrameBuilder.sync)
            let answers = try client.readToReady().filter { $0.type == "D" }.map { $0.columns.first ?? nil }
            #expect(answers == [expected, expected])
        }
    }

    /// The grammar has a word of its own in `user`.
    @Test(arguments: ["RESET ALL", "DISCARD ALL", #"RESET godwit."user""#, #"SET godwit."user" TO DEFAULT"#])
    func `a key that a setting gave ends with it`(reset: String) throws {
        let (new, old) = try sides(percent: 50)
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "50"
            $0.database.readsKey = "[{setting: godwit.user}]"
            $0.database.pool = ["size": "1"]
        }
        for (startup, expected) in [([], "old"), ([("godwit.user", new)], "new"), ([("godwit.user", old)], "old")] {
            let client = try connect(godwit, startup)
            let other = expected == "new" ? old : new
            for isExtended in [false, true] {
                _ = try client.query("SET godwit.user = '\(other)'")
                #expect(try client.value(Self.read) == (other == new ? "new" : "old"))
                if isExtended {
                    client.send(
                        FrameBuilder.parse(reset) + FrameBuilder.bind() + FrameBuilder.execute() + FrameBuilder.sync)
                    #expect(try client.readToReady().contains { $0.type == "C" })
                } else {
                    #expect(try client.query(reset).contains { $0.type == "C" })
                }
                #expect(try client.value(Self.read) == expected, "\(reset) \(startup) \(isExtended)")
            }
        }
    }

    /// asyncpg, pgx and JDBC send integers in binary, and leave it to the server to say that they are integers.
    @Test func `a parameter of unknown type is read as its column's`() throws {
        let named = try servers.makeMarkedDatabase("""
            CREATE DOMAIN number AS bigint; CREATE TABLE people (user_id number, name text, id uuid);
            CREATE TABLE more (user_id int)
            """)
        for (column, make) in [
            ("user_id", { FrameBuilder.bigEndian(Int64($0)) }), ("name", { Array("\($0)".utf8) }),
        ] as [(String, (Int) -> [UInt8])] {
            let godwit = try servers.godwit(named) {
                $0.database.readsPercent = "50"
                $0.database.readsKey = "[{column: \(column)}]"
            }
            try godwit.log.waitForLine(containing: "catalog of \"\(named)\" read")
            let client = try WireClient(port: godwit.port, database: named, user: "app")
            // Four digits: as many bytes as an integer has.
            for user in 4200..<4220 {
                let expected = try side(of: "\(user)", percent: 50)
                let list = "SELECT count(*), (\(Self.read)) FROM people WHERE \(column) = $1"
                client.send(
                    FrameBuilder.parse(list) + FrameBuilder.bind(binary: [make(user)]) + FrameBuilder.execute()
                        + FrameBuilder.sync)
                #expect(try client.readToReady().first { $0.type == "D" }?.columns.last == expected)
                let literal = column == "name" ? "'\(user)'" : "'0\(user)'"
                let one = try client.query("SELECT count(*), (\(Self.read)) FROM people WHERE \(column) = \(literal)")
                #expect(one.first { $0.type == "D" }?.columns.last == expected)
            }
        }
    }

    @Test func `a shape is served by NEW once it is proven there, and goes back alone when it fails there`() throws {
        let make = { (body: String) in
            "CREATE OR REPLACE FUNCTION side() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN \(body) END $$"
        }
        let named = try servers.makeDatabase(
            old: make("RETURN 'old';"), new: make("RETURN 'new';"))
        let godwit = try servers.godwit(named) {
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{session: user}]"
            $0.database.reads = ["promote": "proven", "promote_after": "20", "promote_p95_factor": "1000"]
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(named)\" read")
        let client = try WireClient(port: godwit.port, database: named, user: "app")
        func sides(_ count: Int, _ sql: String) throws -> [String] {
            try (0..<count).map { try client.value("\(sql) \($0)") ?? "" }
        }
        let shape = "SELECT side() LIMIT 1 OFFSET 0 *"
        // One in eight is tried there; behind twenty of them, and not before, all are.
        let trials = try sides(20 * ShapeFacts.trialEvery - 1, shape)
        #expect(trials.filter { $0 == "new" }.count == 19)
        #expect(try sides(1, shape) == ["new"])
        #expect(Set(try sides(50, shape)) == ["new"])
        let proven = try godwit.console("SHOW SHAPES").first { $0["side"] == "new" }
        #expect(proven?["verdict"] == "proven" && proven?["calls"] == "70")
        // Another shape proves itself for itself.
        #expect(Set(try sides(7, "SELECT upper(side()) LIMIT 1 OFFSET 0 *")) == ["OLD"])

        try servers.new.psql(make("RAISE 'spoilt';"), database: named)
        try waitUntil { try client.query("\(shape) 1").first { $0.type == "D" }?.columns.first == "old" }
        let degraded = try godwit.console("SHOW SHAPES").first { $0["side"] == "new" && $0["verdict"] != "unproven" }
        #expect(degraded?["reason"]?.contains("errors on NEW") == true, "\(degraded ?? [:])")
        #expect(Set(try sides(20, shape)) == ["old"])
        #expect(try godwit.console("SHOW ROUTES").contains { $0["reason"]?.contains("shape") == true })
    }
}

private enum ShapeFacts {
    /// Of the calls of an unproven shape, one in so many is tried on NEW.
    static let trialEvery = 8
}
