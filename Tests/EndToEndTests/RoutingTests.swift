import TestSupport
import Testing

/// Which side answers. The two databases differ in one row, so the answer itself tells.
@Suite(.serialized) struct RoutingTests {
    let servers: Servers
    let database: String

    static let schema = """
        CREATE TABLE t (id int PRIMARY KEY, v int);
        CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
        CREATE SEQUENCE counter;
        CREATE FUNCTION writes() RETURNS text LANGUAGE sql VOLATILE AS
            $$ INSERT INTO log (what) VALUES ('called'); SELECT side FROM side_marker $$;
        CREATE FUNCTION says_stable() RETURNS text LANGUAGE plpgsql STABLE AS
            $$ BEGIN RETURN writes(); END $$;
        CREATE FUNCTION is_stable() RETURNS text LANGUAGE sql STABLE AS $$ SELECT side FROM side_marker $$;
        CREATE VIEW marker_view AS SELECT side FROM side_marker
        """

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase(Self.schema)
    }

    /// Without a mirror, who may have written stays on OLD: so a user that has not, and in a connection that has not.
    static let readOfAnother = "/* user_id=another */ SELECT side FROM side_marker"

    func godwit(percent: String) throws -> GodwitProcess {
        try servers.godwit(database) { $0.database.readsPercent = percent }
    }

    func connect(_ godwit: GodwitProcess, user: String = "app", options: String? = nil) throws -> WireClient {
        try WireClient(
            port: godwit.port, database: database, user: user, parameters: options.map { [("options", $0)] } ?? [])
    }

    /// md5(key) as a 128-bit number h: h mod 100, and (h div 100) mod 100 hundredths. Computed by PostgreSQL and here.
    func buckets(_ keys: [String]) throws -> [String: (whole: Int, hundredths: Int)] {
        let list = keys.map { "('\($0.replacing("'", with: "''"))')" }.joined(separator: ",")
        let rows = try servers.old.psql("SELECT md5(k) FROM (VALUES \(list)) AS keys(k)").split(separator: "\n")
        return Dictionary(uniqueKeysWithValues: try zip(keys, rows).map { key, text in
            let hash = try #require(UInt128(text, radix: 16))
            return (key, (Int(hash % 100), Int(hash / 100 % 100)))
        })
    }

    func reads(fromNew bucket: (whole: Int, hundredths: Int), percent: Double) -> Bool {
        Double(bucket.whole) + Double(bucket.hundredths) / 100 < percent
    }

    @Test func `godwit bucket is md5 mod 100, with hundredths`() throws {
        let keys = ["42", "1", "0", "alice@example.com", "Ünïcödé", "a b", "O'Hara", String(repeating: "k", count: 300)]
        let expected = try buckets(keys)
        let command = try GodwitProcess.command(["bucket"] + keys)
        #expect(command.wait() == .code(0))
        let lines = command.output.lines
        try #require(lines.count == keys.count)
        for (key, line) in zip(keys, lines) {
            let bucket = try #require(expected[key])
            let hundredths = bucket.hundredths < 10 ? "0\(bucket.hundredths)" : "\(bucket.hundredths)"
            #expect(line == "\(key)\t\(bucket.whole).\(hundredths)")
        }
    }

    /// How a client names its user.
    enum Form: String, CaseIterable, Sendable {
        case comment, commentBehind, sqlcommenter, setting, startup, sessionUser, prepared
    }

    func side(_ form: Form, user: String, _ godwit: GodwitProcess, _ client: WireClient) throws -> String? {
        let read = "SELECT side FROM side_marker"
        switch form {
        case .comment: return try client.value("/* user_id=\(user) */ \(read)")
        case .commentBehind: return try client.value("\(read) WHERE id = 1 -- why\n/* a=b, user_id=\(user) */")
        case .sqlcommenter: return try client.value("\(read) /*action='%2Fshow',user_id='\(user)'*/")
        case .setting:
            #expect(try client.query("SET godwit.user = '\(user)'").map(\.type) == ["C", "Z"])
            return try client.value(read)
        case .startup: return try connect(godwit, options: "-c godwit.user=\(user)").value(read)
        case .sessionUser: return try connect(godwit, user: user).value(read)
        case .prepared:
            client.send(
                FrameBuilder.parse("/* user_id=\(user) */ \(read) WHERE id = $1::int", name: "s\(user)")
                    + FrameBuilder.bind(statement: "s\(user)", parameters: ["1"]) + FrameBuilder.execute()
                    + FrameBuilder.sync)
            return try client.readToReady().first { $0.type == "D" }?.columns.first ?? nil
        }
    }

    @Test(arguments: Form.allCases)
    func `a user's reads go to NEW when its bucket is below the percentage`(form: Form) throws {
        let users = (1...60).map { "\($0)" }
        let buckets = try buckets(users)
        for percent in ["0", "10", "50.5", "100"] {
            let godwit = try servers.godwit(database) {
                $0.database.readsPercent = percent
                // Every client user is `app` in PostgreSQL.
                $0.database.old = servers.old.conninfo(database: database, user: "app")
                $0.database.new = servers.new.conninfo(database: database, user: "app")
                $0.database.pool = ["size": "1"]
            }
            let client = try connect(godwit)
            for user in users {
                let bucket = try #require(buckets[user])
                let expected = reads(fromNew: bucket, percent: Double(percent) ?? -1) ? "new" : "old"
                #expect(try side(form, user: user, godwit, client) == expected, "user \(user) at \(percent) %")
            }
        }
    }

    @Test func `whose read it is may change with every statement, and SET holds for its client only`() throws {
        let godwit = try godwit(percent: "50")
        let buckets = try buckets((1...100).map { "\($0)" })
        let low = try #require(buckets.first { $0.value.whole < 50 }?.key)
        let high = try #require(buckets.first { $0.value.whole >= 50 }?.key)
        let (one, two) = (try connect(godwit), try connect(godwit))
        _ = try one.query("SET godwit.user = '\(low)'")
        _ = try two.query("SET godwit.user = '\(high)'")
        for _ in 0..<5 {
            #expect(try one.value("SELECT side FROM side_marker") == "new")
            #expect(try two.value("SELECT side FROM side_marker") == "old")
            // The comment comes first in reads.key.
            #expect(try two.value("/* user_id=\(low) */ SELECT side FROM side_marker") == "new")
        }
        _ = try one.query("SET godwit.user TO '\(high)'")
        #expect(try one.value("SELECT side FROM side_marker") == "old")
    }

    /// The grammar has a word of its own in `user`.
    @Test(arguments: [false, true])
    func `a key is set in the documented words also in transactions and batches`(isExtended: Bool) throws {
        let godwit = try godwit(percent: "50")
        let buckets = try buckets((1...100).map { "\($0)" })
        let low = try #require(buckets.first { $0.value.whole < 50 }?.key)
        let high = try #require(buckets.first { $0.value.whole >= 50 }?.key)
        let client = try connect(godwit)
        func run(_ sql: String) throws -> String? {
            client.send(isExtended
                ? FrameBuilder.parse(sql) + FrameBuilder.bind() + FrameBuilder.execute() + FrameBuilder.sync
                : FrameBuilder.query(sql))
            let answers = try client.readToReady()
            return answers.lazy.compactMap(\.commandTag).first ?? answers.lazy.compactMap(\.sqlState).first
        }
        for (user, side) in [(low, "new"), (high, "old"), (low, "new")] {
            for sql in [
                "BEGIN", "SET godwit.user = '\(user)'", "set local godwit.User to 'nobody';", "SHOW godwit.user",
                "RESET godwit.user", "/* again */ SET SESSION godwit.user TO '\(user)'", "COMMIT",
            ] {
                let word = sql.split(separator: " ").first { $0.allSatisfy(\.isLetter) && $0 != "again" }
                #expect(try run(sql) == word?.uppercased(), "\(sql)")
            }
            #expect(try client.value("SELECT side FROM side_marker") == side)
        }
        #expect(try run("SET godwit.user = '\(high)'") == "SET")
        #expect(try client.value("SELECT side FROM side_marker") == "old")
    }

    /// Wherever the transaction was by then: nowhere yet, on OLD, or on NEW.
    @Test(arguments: ["", "SAVEPOINT a", "SELECT side FROM side_marker"])
    func `a key that a transaction has set goes with its rollback`(then: String) throws {
        let godwit = try godwit(percent: "50")
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let buckets = try buckets((1...100).map { "\($0)" })
        let low = try #require(buckets.first { $0.value.whole < 50 }?.key)
        let high = try #require(buckets.first { $0.value.whole >= 50 }?.key)
        for (own, other, side, otherSide) in [(low, high, "new", "old"), (high, low, "old", "new")] {
            let client = try connect(godwit)
            _ = try client.query("SET godwit.user = '\(own)'")
            for (end, expected) in [("ROLLBACK", side), ("COMMIT", otherSide)] {
                for sql in ["BEGIN", "SET godwit.user = '\(other)'", then, end] where !sql.isEmpty {
                    #expect(try client.query(sql).allSatisfy { $0.type != "E" }, "\(sql)")
                }
                #expect(try client.value("SELECT side FROM side_marker") == expected, "\(end)")
            }
        }
    }

    @Test func `a key that is a setting of the application's is one on the servers as well`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{setting: app.tenant}]"
            $0.database.pool = ["size": "1"]
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        func read(_ tenant: String) -> String {
            "SELECT side FROM side_marker WHERE current_setting('app.tenant', true) = '\(tenant)'"
        }
        let (client, other) = (try connect(godwit), try connect(godwit))
        let started = try connect(godwit, options: "-c app.tenant=8")
        #expect(try client.query("SET app.tenant = '7'").map(\.type) == ["C", "Z"])
        for _ in 0..<2 {
            #expect(try client.value(read("7")) == "new")
            #expect(try started.value(read("8")) == "new")
            #expect(try other.query(read("7") + " OR current_setting('app.tenant', true) = '8'").map(\.type) == ["T", "C", "Z"])
        }
        for (sql, tenant) in [("SET app.tenant = '9'", "9"), ("RESET app.tenant", "8"), ("DISCARD ALL", "8")] {
            _ = try started.query(sql)
            #expect(try started.value(read(tenant)) == "new", "\(sql)")
        }
        for (client, tenant) in [(client, "7"), (started, "8"), (client, "7")] {
            #expect(try client.value(read(tenant) + " FOR UPDATE") == "old", "\(tenant)")
        }
    }

    @Test(arguments: [
        "SELECT side FROM side_marker", "TABLE marker_view", "WITH m AS (SELECT side FROM side_marker) SELECT * FROM m",
        "SELECT side FROM side_marker WHERE random() >= 0 AND now() > '2001-01-01'",
        "(SELECT side FROM side_marker) UNION (SELECT side FROM marker_view)", "SELECT 'new' UNION VALUES ('new')",
        "SELECT side FROM side_marker WHERE clock_timestamp() > '2001-01-01' ORDER BY 1 LIMIT 1;",
    ])
    func `what is surely a read goes to NEW at 100 percent`(sql: String) throws {
        let godwit = try godwit(percent: "100")
        let client = try connect(godwit)
        #expect(try client.value(sql) == "new")
    }

    @Test(arguments: [
        "SELECT side FROM side_marker FOR UPDATE", "SELECT side FROM side_marker FOR KEY SHARE",
        "SELECT writes()", "SELECT side FROM side_marker WHERE nextval('counter') > 0",
        "SELECT side FROM side_marker WHERE writes() = 'old'",
        "WITH w AS (INSERT INTO log (what) VALUES ('w') RETURNING 1) SELECT side FROM side_marker, w",
        "SELECT side FROM side_marker WHERE pg_advisory_lock(1) IS NOT NULL",
        "SELECT side FROM side_marker WHERE set_config('work_mem', '5MB', false) <> ''",
        "UPDATE side_marker SET id = id RETURNING side", "SELECT 1; SELECT side FROM side_marker",
        "SELECT side FROM side_marker; INSERT INTO log (what) VALUES ('second')",
    ])
    func `what is not surely a read goes to OLD at 100 percent`(sql: String) throws {
        let godwit = try godwit(percent: "100")
        let client = try connect(godwit)
        let answers = try client.query(sql)
        #expect(answers.last { $0.type == "D" }?.columns.last == "old", "\(answers)")
    }

    @Test(arguments: ["", "named"])
    func `a read that names a type by its server's number for it stays on that server`(name: String) throws {
        let enumeration = "CREATE TYPE mood AS ENUM ('low', 'high')"
        try servers.old.psql(enumeration, database: database)
        try servers.new.psql("CREATE TYPE first AS ENUM (); \(enumeration)", database: database)
        let number = try #require(UInt32(try servers.old.psql("SELECT 'mood'::regtype::oid", database: database)))
        let godwit = try godwit(percent: "100")
        let client = try connect(godwit)
        let text = "SELECT side FROM side_marker WHERE $1 IS NOT NULL"
        for (type, side) in [(number, "old"), (25, "new")] {
            let types = [0, 1] + withUnsafeBytes(of: type.bigEndian) { Array($0) }
            let parse = FrameBuilder.message("P", Array("\(name)\0\(text)\0".utf8) + types)
            let run = FrameBuilder.bind(statement: name, parameters: ["low"]) + FrameBuilder.execute()
            client.send(FrameBuilder.closeStatement(name) + parse + FrameBuilder.sync + run + FrameBuilder.sync)
            _ = try client.readToReady()
            #expect(try client.readToReady().first { $0.type == "D" }?.columns == [side])
        }
    }

    @Test func `what goes to OLD leaves nothing on NEW`() throws {
        let godwit = try godwit(percent: "100")
        let client = try connect(godwit)
        for sql in [
            "INSERT INTO t VALUES (1, 1)", "SELECT id INTO made FROM t", "CREATE TABLE also_made AS SELECT 1 AS one",
            "EXPLAIN ANALYZE INSERT INTO t VALUES (2, 2)", "DO $$ BEGIN INSERT INTO t VALUES (3, 3); END $$",
            "COPY (INSERT INTO t VALUES (4, 4) RETURNING id) TO STDOUT",
        ] {
            #expect(try client.query(sql).allSatisfy { $0.type != "E" }, "\(sql)")
        }
        #expect(try servers.old.psql("SELECT count(*) FROM t", database: database) == "4")
        #expect(try servers.new.psql("SELECT count(*) FROM t", database: database) == "0")
        let made = "SELECT to_regclass('made') IS NULL, to_regclass('also_made') IS NULL"
        #expect(try servers.old.psql(made, database: database) == "f|f")
        #expect(try servers.new.psql(made, database: database) == "t|t")
    }

    @Test func `a function of the application that the catalog calls stable is a read`() throws {
        let godwit = try godwit(percent: "100")
        // The catalog is read after the start; until then the function is not known to be harmless.
        var user = 0
        try waitUntil {
            user += 1
            return try connect(godwit).value("/* user_id=\(user) */ SELECT is_stable()") == "new"
        }
    }

    @Test func `a write hidden in a read is refused by NEW and runs once on OLD`() throws {
        let godwit = try godwit(percent: "100")
        let client = try connect(godwit)
        #expect(try client.value("SELECT says_stable()") == "old")
        client.send(
            FrameBuilder.parse("SELECT says_stable()") + FrameBuilder.bind() + FrameBuilder.execute()
                + FrameBuilder.sync)
        let answers = try client.readToReady()
        #expect(answers.map(\.type) == ["1", "2", "D", "C", "Z"])
        #expect(answers.first { $0.type == "D" }?.columns == ["old"])
        #expect(try servers.old.psql("SELECT count(*) FROM log", database: database) == "2")
        #expect(try servers.new.psql("SELECT count(*) FROM log", database: database) == "0")
    }

    @Test func `a server of NEW that refused a hidden write serves the next read`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.pool = ["size": "1"]
        }
        for user in 1...3 {
            // Users and connections of their own: who has written stays on OLD where nothing is mirrored.
            let writer = try connect(godwit)
            #expect(try writer.value("/* user_id=w\(user) */ SELECT says_stable()") == "old")
            let reader = try connect(godwit)
            #expect(try reader.value("/* user_id=r\(user) */ SELECT side FROM side_marker") == "new")
        }
    }

    @Test func `where transactions belong to the authority, only those that are READ ONLY go to NEW`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.reads = ["transactions": "authority"]
        }
        let client = try connect(godwit)
        for (begin, side) in [
            ("BEGIN", "old"), ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ", "old"), ("BEGIN READ WRITE", "old"),
            ("BEGIN READ ONLY", "new"), ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", "new"),
        ] {
            #expect(try client.query(begin).last?.transactionStatus == "T")
            #expect(try client.value("SELECT side FROM side_marker") == side, "\(begin)")
            #expect(try client.value("SELECT count(*) || side FROM side_marker GROUP BY side") == "1" + side)
            #expect(try client.query("COMMIT").last?.transactionStatus == "I")
        }
        _ = try client.query("BEGIN READ ONLY")
        #expect(try client.query("INSERT INTO t VALUES (9, 9)").first?.sqlState == "25006")
        _ = try client.query("ROLLBACK")
        #expect(try connect(godwit).value(Self.readOfAnother) == "new")
    }

    @Test func `an SQL error of a read is the application's own`() throws {
        let godwit = try godwit(percent: "100")
        let client = try connect(godwit)
        #expect(try client.query("SELECT 1/0 FROM side_marker").first { $0.type == "E" }?.sqlState == "22012")
        #expect(try client.query("SELECT nothing FROM side_marker").first?.sqlState == "42703")
        #expect(try client.query("SELEC").first?.sqlState == "42601")
        #expect(try connect(godwit).value(Self.readOfAnother) == "new")
    }

    @Test func `temporary tables and session state stay with their client`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.pool = ["size": "2"]
        }
        let client = try connect(godwit)
        _ = try client.query("CREATE TEMPORARY TABLE mine (id int)")
        _ = try client.query("INSERT INTO mine VALUES (7)")
        let others = try (0..<4).map { _ in try connect(godwit) }
        for other in others { #expect(try other.query("SELECT * FROM mine").first?.sqlState == "42P01") }
        #expect(try client.value("SELECT id FROM mine") == "7")
        _ = try client.query("SET search_path = pg_catalog")
        for other in others { #expect(try other.value(Self.readOfAnother) == "new") }
        #expect(try client.query("SELECT side FROM side_marker").first?.sqlState == "42P01")
    }

    @Test func `explain says for each statement where it would go and why`() throws {
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.readsPercent = "100"
        let directory = try GodwitProcess.makeDirectory(configuration)
        let explain = try ChildProcess(
            [GodwitProcess.executable, "explain", "--config", directory + "/godwit.yaml", database], keepsInput: true)
        explain.write("""
            {"sql": "/* user_id=42 */ SELECT side FROM side_marker"}
            {"sql": "INSERT INTO t VALUES (1, 1)"}
            {"sql": "SELECT writes()"}
            {"sql": "SELEC"}

            """)
        explain.endInput()
        #expect(explain.wait() == .code(0))
        let lines = explain.output.lines
        try #require(lines.count == 4)
        for key in ["\"kind\"", "\"key\"", "\"bucket\"", "\"side\"", "\"reason\""] { #expect(lines[0].contains(key)) }
        let bucket = try #require(try buckets(["42"])["42"])
        #expect(lines[0].contains("\"42\"") && lines[0].contains("\(bucket.whole)."))
        #expect(lines[0].replacing(" ", with: "").contains("\"side\":\"new\""))
        for line in lines.dropFirst() { #expect(line.replacing(" ", with: "").contains("\"side\":\"old\"")) }
    }
}
