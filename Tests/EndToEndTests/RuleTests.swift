import TestSupport
import Testing

/// Keys in columns and parameters, and rules. The two databases differ in one row, so the answer itself tells.
@Suite(.serialized) struct RuleTests {
    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase("""
            CREATE TABLE t (user_id int, what text);
            CREATE FUNCTION watches() RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT true';
            CREATE TABLE guarded (id int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
            CREATE POLICY p ON guarded USING (watches());
            CREATE DOMAIN checked AS int CHECK (VALUE > 0 AND watches())
            """)
    }

    func connect(_ godwit: GodwitProcess) throws -> WireClient {
        try WireClient(port: godwit.port, database: database, user: "app")
    }

    @Test func `a user is found in a column, as a literal or bound`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "50"
            $0.database.readsKey = "[{column: user_id}]"
        }
        let client = try connect(godwit)
        let read = "SELECT side FROM side_marker, (SELECT 1 AS user_id) u WHERE"
        for user in (1...20).map({ "\($0)" }) {
            let none = try client.value("SELECT side FROM side_marker")
            #expect(none == "old")
            let command = try GodwitProcess.command(["bucket", user])
            _ = command.wait()
            let bucket = Double(command.output.lines.first?.split(separator: "\t").last ?? "") ?? -1
            let expected = bucket < 50 ? "new" : "old"
            // Nobody's row is there: the side is told by the statement that has one.
            let literal = try client.value("\(read) user_id = \(user) OR true AND side <> '' LIMIT 1")
            #expect(literal == "old", "an OR names nobody")
            #expect(try client.value("SELECT max(side) FROM side_marker WHERE NOT EXISTS "
                + "(SELECT FROM t WHERE user_id = \(user))") == "old", "not at the top")
            let sql = "SELECT (SELECT side FROM side_marker) FROM generate_series(1, 20) u(user_id) WHERE user_id = "
            #expect(try client.value("\(sql)\(user)") == expected)
            client.send(
                FrameBuilder.parse("\(sql)$1::int", name: "s\(user)")
                    + FrameBuilder.bind(statement: "s\(user)", parameters: [user]) + FrameBuilder.execute()
                    + FrameBuilder.sync)
            #expect(try client.readToReady().first { $0.type == "D" }?.columns.first == expected)
            client.send(
                FrameBuilder.bind(statement: "s\(user)", parameters: [user]) + FrameBuilder.execute()
                    + FrameBuilder.sync)
            #expect(try client.readToReady().first { $0.type == "D" }?.columns.first == expected)
        }
    }

    @Test(arguments: [0, 3 << 20]) func `what is denied is denied at any length`(padding: Int) throws {
        let godwit = try servers.godwit(database) {
            $0.database.rules = "[{name: secret, regex: \"(?i)guarded\", action: deny}]"
        }
        let client = try connect(godwit)
        client.send(FrameBuilder.query(
            "INSERT INTO t VALUES (1, 'guarded') -- " + String(repeating: "x", count: padding)))
        // A connection that is closed may not get to read why.
        _ = try? client.readToReady()
        #expect(try servers.old.psql("SELECT count(*) FROM t", database: database) == "0")
    }

    @Test(arguments: [1, 3 << 20])
    func `a rule that comes later meets what was prepared before, whatever is bound`(length: Int) throws {
        var configuration = GodwitConfiguration([servers.entry(database)])
        let godwit = try GodwitProcess(configuration)
        let client = try connect(godwit)
        client.send(FrameBuilder.parse("INSERT INTO t VALUES (1, $1)", name: "i") + FrameBuilder.sync)
        #expect(try client.readToReady().map(\.type) == ["1", "Z"])
        configuration.database.rules = "[{name: secret, regex: \"(?i)insert\", action: deny}]"
        try godwit.reload(configuration)
        client.send(
            FrameBuilder.bind(statement: "i", parameters: [String(repeating: "x", count: length)])
                + FrameBuilder.execute() + FrameBuilder.sync)
        // A connection that is closed may not get to read why.
        _ = try? client.readToReady()
        #expect(try servers.old.psql("SELECT count(*) FROM t", database: database) == "0")
    }

    @Test func `rules choose the side, deny and rename, and are counted`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "0"
            $0.database.readsKey = "[{session: user}]"
            $0.database.rules = "[{name: marker, shape: SELECT side FROM side_marker, action: new}, "
                + "{name: secret, table: guarded, action: deny}, {name: moved, rewrite: {table: marker, to: side_marker}}]"
        }
        let client = try connect(godwit)
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        #expect(try client.value("SELECT side FROM side_marker LIMIT 1") == "old")
        #expect(try client.value("SELECT marker.side FROM marker WHERE 'marker' <> side") == "old")
        client.send(
            FrameBuilder.parse("SELECT marker.side FROM marker WHERE id = $1::int", name: "m")
                + FrameBuilder.bind(statement: "m", parameters: ["1"]) + FrameBuilder.execute() + FrameBuilder.sync)
        #expect(try client.readToReady().first { $0.type == "D" }?.columns.first == "old")
        #expect(try client.query("SELECT * FROM guarded").map(\.type) == ["E", "Z"])
        #expect(try client.value("SELECT 1") == "1")
        let rules = try godwit.console("SHOW RULES")
        #expect(rules.map { $0["units"] } == ["1", "1", "2"])
        #expect(try godwit.console("SHOW SHAPES").contains { $0["side"] == "new" && $0["calls"] == "1" })
        #expect(try godwit.console("SHOW CACHES").count == 1)
    }

    @Test func `with consistency global NEW answers no read without a key either that lacks a commit`() throws {
        let database = try servers.makeDatabase(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", old: "INSERT INTO t VALUES (1, 'before')")
        let godwit = try servers.mirroring(database) {
            $0.database.readsKey = "[{comment: user_id}]"
            $0.database.reads = ["consistency": "global"]
            $0.database.rules = "[{name: t, table: t, action: new}]"
            $0.database.mirror["lag_max"] = "3600"
            $0.database.breaker = ["lag": "0", "read_timeout_millis": "0"]
        }
        func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database, user: "app") }
        let (reader, writer) = (try connect(), try connect())
        _ = try godwit.console("MIRROR PAUSE \(database)")
        try waitUntil {
            try godwit.console("SHOW MIRROR").first { $0["database"] == database }?["state"] == "paused"
        }
        _ = try writer.query("UPDATE t SET v = 'after'")
        #expect(try reader.value("SELECT v FROM t") == "after")
    }

    @Test func `a denied statement fails its transaction`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.rules = "[{name: secret, regex: \"(?i)guarded\", action: deny}]"
        }
        let client = try connect(godwit)
        _ = try client.query("BEGIN")
        _ = try client.query("INSERT INTO t VALUES (1)")
        #expect(try client.query("SELECT * FROM guarded").map(\.type) == ["E", "Z"])
        #expect(try client.query("COMMIT").map(\.type) == ["C", "Z"])
        #expect(try client.value("SELECT count(*)::text FROM t") == "0")
    }

    /// Frames of one statement by the extended protocol, up to Sync.
    private func extended(_ sql: String) -> [UInt8] {
        FrameBuilder.parse(sql) + FrameBuilder.bind() + FrameBuilder.execute() + FrameBuilder.sync
    }

    /// The types of the answers, and the SQLSTATE and status among them.
    private func summary(_ messages: [WireClient.Message]) -> String {
        messages.map { message in
            switch message.type {
            case "E": "E\(message.sqlState ?? "?")"
            case "Z": "Z\(message.transactionStatus ?? "?")"
            default: String(message.type)
            }
        }.joined(separator: " ")
    }

    @Test(arguments: ["lazy", "authority"])
    func `a denial is an error like any other, in every form and place`(transactions: String) throws {
        let godwit = try servers.godwit(database) {
            $0.database.rules = "[{name: secret, regex: \"(?i)guarded\", action: deny}]"
            $0.database.reads = ["transactions": transactions]
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{session: user}]"
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\" read")
        let denied = "SELECT * FROM guarded"
        let client = try connect(godwit)
        // Outside of a transaction, alone and with others.
        for frames in [FrameBuilder.query(denied), extended(denied), FrameBuilder.query("SELECT 1; \(denied)")] {
            client.send(frames)
            #expect(try summary(client.readToReady()) == "E42501 ZI")
        }
        // As the first statement of a transaction, behind a read of it, and behind a write of it.
        for before in [[], ["SELECT 1"], ["SELECT 1", "INSERT INTO t VALUES (1)"]] {
            for frames in [FrameBuilder.query(denied), extended(denied)] {
                #expect(try summary(client.query("BEGIN")) == "C ZT")
                for sql in before { #expect(try client.query(sql).last?.transactionStatus == "T") }
                client.send(frames)
                #expect(try summary(client.readToReady()) == "E42501 ZE")
                #expect(try summary(client.query("SELECT 1")) == "E25P02 ZE")
                client.send(frames)
                #expect(try client.readToReady().last?.transactionStatus == "E")
                #expect(try summary(client.query("COMMIT")) == "C ZI")
            }
        }
        // Back to a savepoint, and on.
        _ = try client.query("BEGIN; INSERT INTO t VALUES (7); SAVEPOINT s")
        client.send(extended(denied))
        #expect(try summary(client.readToReady()) == "E42501 ZE")
        _ = try client.query("ROLLBACK TO s")
        #expect(try summary(client.query("COMMIT")) == "C ZI")
        #expect(try client.value("SELECT string_agg(user_id::text, ',') FROM t") == "7")
        // In the middle of a pipeline: what is behind it in its batch is skipped, the next batch is not.
        let one = FrameBuilder.parse("SELECT 1") + FrameBuilder.bind() + FrameBuilder.execute()
        let two = FrameBuilder.parse(denied) + FrameBuilder.bind() + FrameBuilder.execute()
        client.send(FrameBuilder.query("BEGIN") + extended("SELECT 1") + one + two + one + FrameBuilder.sync)
        #expect(try summary(client.readToReady()) == "C ZT")
        #expect(try summary(client.readToReady()) == "1 2 D C ZT")
        #expect(try summary(client.readToReady()) == "1 2 D C E42501 ZE")
        client.send(extended(denied) + FrameBuilder.query("ROLLBACK") + extended("SELECT 1"))
        #expect(try summary(client.readToReady()).hasSuffix("ZE"))
        #expect(try summary(client.readToReady()) == "C ZI")
        #expect(try summary(client.readToReady()) == "1 2 D C ZI")
        // With BEGIN in the same batch, as drivers pipeline it.
        let begin = FrameBuilder.parse("BEGIN") + FrameBuilder.bind() + FrameBuilder.execute()
        client.send(begin + two + FrameBuilder.sync)
        #expect(try summary(client.readToReady()) == "1 2 C E42501 ZE")
        #expect(try summary(client.query("ROLLBACK")) == "C ZI")
        // A statement that was prepared before the rule came.
        #expect(try client.value("SELECT 1") == "1")
    }

    @Test func `a rule that comes by a reload meets statements that are prepared`() throws {
        var configuration = GodwitConfiguration([servers.entry(database)])
        let godwit = try GodwitProcess(configuration)
        let client = try connect(godwit)
        client.send(FrameBuilder.parse("SELECT * FROM guarded", name: "g") + FrameBuilder.sync)
        _ = try client.readToReady()
        configuration.database.rules = "[{name: secret, table: guarded, action: deny}]"
        _ = try godwit.reload(configuration)
        _ = try client.query("BEGIN; SELECT 1")
        client.send(FrameBuilder.bind(statement: "g") + FrameBuilder.execute() + FrameBuilder.sync)
        #expect(try summary(client.readToReady()) == "E42501 ZE")
        _ = try client.query("ROLLBACK")
        client.send(FrameBuilder.bind(statement: "g") + FrameBuilder.execute() + FrameBuilder.sync)
        #expect(try summary(client.readToReady()) == "E42501 ZI")
    }

    @Test func `a rule goes on being counted behind a reload that puts another one before it`() throws {
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.readsPercent = "0"
        configuration.database.readsKey = "[{session: user}]"
        configuration.database.rules = "[{name: secret, table: guarded, action: deny}]"
        let godwit = try GodwitProcess(configuration)
        let client = try connect(godwit)
        func units() throws -> [String] {
            try godwit.console("SHOW RULES").map { "\($0["rule"] ?? "") \($0["units"] ?? "")" }
        }
        #expect(try client.query("SELECT * FROM guarded").map(\.type) == ["E", "Z"])
        #expect(try units() == ["secret 1"])
        configuration.database.rules = "[{name: marker, shape: SELECT side FROM side_marker, action: new}, "
            + "{name: secret, table: guarded, action: deny}]"
        _ = try godwit.reload(configuration)
        #expect(try client.query("SELECT * FROM guarded").map(\.type) == ["E", "Z"])
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        #expect(try units() == ["marker 1", "secret 2"])
    }

    @Test func `what the catalog says of policies and domains keeps reads on OLD`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{session: user}]"
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\" read")
        let client = try connect(godwit)
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        #expect(try client.value("SELECT side FROM side_marker WHERE NOT EXISTS (SELECT FROM guarded)") == "old")
        #expect(try client.value("SELECT side FROM side_marker WHERE 1::checked = 1") == "old")
    }
}
