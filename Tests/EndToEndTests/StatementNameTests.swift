import TestSupport
import Testing

/// Names of prepared statements: what a name stands for is what it would stand for without anybody between.
@Suite(.serialized) struct StatementNameTests {
    typealias Frame = FrameBuilder

    let servers: Servers
    let database: String
    let godwit: GodwitProcess

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY, v text)")
        godwit = try servers.godwit(database) { $0.database.pool = ["size": "1"] }
    }

    func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }

    private func prepare(_ client: WireClient, _ sql: String, _ name: String) throws {
        client.send(Frame.parse(sql, name: name) + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["1", "Z"])
    }

    private func types(_ client: WireClient) throws -> String {
        String(try client.readToReady().map(\.type))
    }

    private func use(_ name: String) -> [UInt8] { Frame.bind(statement: name) + Frame.execute() }

    @Test func `a failed transaction refuses to prepare what the server has already`() throws {
        let first = try connect()
        try prepare(first, "SELECT 'shared'", "a")
        let client = try connect()
        _ = try client.query("BEGIN")
        _ = try client.query("SELECT nothing")
        client.send(Frame.parse("SELECT 'shared'", name: "b") + Frame.sync)
        #expect(try client.readToReady().first?.sqlState == "25P02")
        _ = try client.query("ROLLBACK")
        client.send(use("b") + Frame.sync)
        #expect(try client.readToReady().first?.sqlState == "26000")
        // Pipelined: that it has failed is not known yet when the Parse comes.
        client.send(Frame.query("BEGIN") + Frame.query("SELECT nothing")
            + Frame.parse("SELECT 'shared'", name: "b") + Frame.sync + Frame.query("ROLLBACK"))
        let states = try (0..<4).map { _ in try client.readToReady().first?.sqlState }
        #expect(states == [nil, "42703", "25P02", nil])
        first.send(use("a") + Frame.sync)
        #expect(try types(first) == "2DCZ")
    }

    /// What takes the other's statement away is skipped with the batch.
    @Test func `another client's unnamed statement is out of reach, also behind an error`() throws {
        let other = try connect()
        other.send(Frame.parse("SELECT 'other'") + use("") + Frame.sync)
        #expect(try types(other) == "12DCZ")
        let client = try connect()
        client.send(use("missing") + use("") + Frame.sync)
        #expect(try client.readToReady().compactMap(\.sqlState) == ["26000"])
        client.send(use("") + Frame.sync)
        #expect(try client.readToReady().compactMap(\.sqlState) == ["26000"])
        // In one packet: nobody knows of the error yet.
        other.send(Frame.parse("SELECT 'other'") + use("") + Frame.sync)
        #expect(try types(other) == "12DCZ")
        client.send(use("missing") + use("") + Frame.sync + use("") + Frame.sync)
        for _ in 0..<2 { #expect(try client.readToReady().compactMap(\.sqlState) == ["26000"]) }
    }

    @Test func `queries that an error skips leave the unnamed statement`() throws {
        let client = try connect()
        client.send(Frame.parse("SELECT 'kept'") + Frame.sync)
        _ = try client.readToReady()
        client.send(Frame.execute(portal: "none") + Frame.query("SELECT 1") + Frame.query("SELECT 2") + Frame.sync)
        #expect(try types(client) == "EZ")
        client.send(use("") + Frame.sync)
        #expect(try types(client) == "2DCZ")
    }

    @Test func `a name behind a skipped query does not wait for ever`() throws {
        let client = try connect()
        client.send(Frame.parse("SELECT 1", name: "s") + Frame.execute(portal: "none") + Frame.flush)
        #expect(try client.read()?.type == "1")
        #expect(try client.read()?.type == "E")
        client.send(Frame.query("SELECT 2") + use("s") + Frame.sync)
        #expect(try types(client) == "Z")
        client.send(use("s") + Frame.sync)
        #expect(try types(client) == "2DCZ")
    }

    @Test func `nobody meets another client's unnamed statement where its own is skipped`() throws {
        let other = try connect()
        other.send(Frame.parse("SELECT 'another''s'") + Frame.sync)
        _ = try other.readToReady()
        let client = try connect()
        client.send(Frame.execute(portal: "none") + Frame.parse("SELECT 'own'") + Frame.sync + use("") + Frame.sync)
        #expect(try types(client) == "EZ")
        #expect(try client.readToReady().first?.sqlState == "26000")
    }

    @Test func `DEALLOCATE in the extended protocol drops what the protocol has prepared`() throws {
        let client = try connect()
        try prepare(client, "SELECT 1", "Mixed")
        try prepare(client, "SELECT 2", "kept")
        client.send(Frame.parse("DEALLOCATE \"Mixed\"") + Frame.bind() + Frame.execute() + use("kept") + Frame.sync)
        #expect(try types(client) == "12C2DCZ")
        client.send(use("Mixed") + Frame.sync)
        #expect(try client.readToReady().first?.sqlState == "26000")
        try prepare(client, "SELECT 3", "Mixed")
        // One that is skipped drops nothing.
        client.send(Frame.execute(portal: "none") + Frame.parse("DEALLOCATE \"Mixed\"") + Frame.bind() + Frame.execute()
            + Frame.sync + use("Mixed") + Frame.sync)
        #expect(try types(client) == "EZ")
        #expect(try types(client) == "2DCZ")
        #expect(try connect().query("SELECT 1").count == 4)     // nothing of it pins
    }

    @Test func `DEALLOCATE fails in a failed transaction and drops nothing`() throws {
        let client = try connect()
        try prepare(client, "SELECT 1", "s")
        _ = try client.query("BEGIN")
        _ = try client.query("SELECT nothing")
        #expect(try client.query("DEALLOCATE s").first?.sqlState == "25P02")
        _ = try client.query("ROLLBACK")
        client.send(use("s") + Frame.sync)
        #expect(try types(client) == "2DCZ")
        client.send(Frame.parse("SELECT 2") + Frame.sync)
        _ = try client.readToReady()
        #expect(try client.query("DEALLOCATE s").first?.commandTag == "DEALLOCATE")
        // Any query drops the unnamed statement.
        client.send(use("") + Frame.sync)
        #expect(try client.readToReady().first?.sqlState == "26000")
    }

    @Test(arguments: ["DEALLOCATE ALL", "DISCARD ALL"])
    func `what comes behind the end of all names finds none of them`(sql: String) throws {
        let client = try connect()
        try prepare(client, "SELECT 1", "s")
        client.send(Frame.query(sql) + use("s") + Frame.sync + Frame.parse("SELECT 2", name: "s") + Frame.sync
            + use("s") + Frame.sync)
        #expect(try types(client) == "CZ")
        #expect(try client.readToReady().first?.sqlState == "26000")
        #expect(try types(client) == "1Z")
        #expect(try types(client) == "2DCZ")
        // Also when the text fails behind it.
        if sql == "DEALLOCATE ALL" {
            client.send(Frame.query("\(sql); SELECT 1/0") + use("s") + Frame.sync)
            #expect(try types(client) == "CEZ")
            #expect(try client.readToReady().first?.sqlState == "26000")
        }
    }

    @Test func `within a batch DEALLOCATE ALL drops what was before it and not what comes behind`() throws {
        let client = try connect()
        try prepare(client, "SELECT 1", "s")
        client.send(Frame.parse("DEALLOCATE ALL") + Frame.bind() + Frame.execute() + Frame.parse("SELECT 2", name: "s")
            + use("s") + Frame.sync)
        #expect(try types(client) == "12C12DCZ")
        client.send(use("s") + Frame.sync)
        let answers = try client.readToReady()
        #expect(answers.first { $0.type == "D" }?.columns == ["2"])
    }

    @Test func `a client that drops all and goes leaves a server that the next one can use`() throws {
        let other = try connect()
        try prepare(other, "SELECT 'stays'", "s")
        let client = try connect()
        client.send(Frame.query("DEALLOCATE ALL") + Frame.terminate)
        client.close()
        for _ in 0..<3 {
            other.send(use("s") + Frame.sync)
            #expect(try types(other) == "2DCZ")
        }
    }

    @Test func `SQL and protocol share one space of names`() throws {
        let client = try connect()
        client.send(Frame.parse("SELECT $1::int + 1", name: "plus") + Frame.sync)
        _ = try client.readToReady()
        try prepare(client, "SELECT 'other'", "other")
        #expect(try client.value("EXECUTE plus (4)") == "5")
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        let pins = try console.query("SHOW PINS")
        #expect(pins.contains { $0.type == "D" && $0.columns.contains("PREPARE or EXECUTE in SQL") })
        #expect(try client.query("EXPLAIN EXECUTE plus (4)").contains { $0.type == "D" })
        client.send(Frame.bind(statement: "plus", parameters: ["6"]) + Frame.execute() + use("other") + Frame.sync)
        #expect(try client.readToReady().filter { $0.type == "D" }.map(\.columns) == [["7"], ["other"]])

        _ = try client.query("PREPARE made AS SELECT 'made in SQL'")
        client.send(Frame.describeStatement("made") + use("made") + Frame.sync)
        #expect(try types(client) == "tT2DCZ")
        for taken in ["made", "plus", "other"] {
            #expect(try client.query("PREPARE \(taken) AS SELECT 1").first?.sqlState == "42P05")
            client.send(Frame.parse("SELECT 1", name: taken) + Frame.sync)
            #expect(try client.readToReady().first?.sqlState == "42P05")
        }
        client.send(Frame.closeStatement("made") + Frame.sync)
        #expect(try types(client) == "3Z")
        #expect(try client.query("EXECUTE made").first?.sqlState == "26000")
        #expect(try client.query("SELECT 1; DEALLOCATE other; EXECUTE plus (1)").count { $0.type == "C" } == 3)

        // What "plus" stands for Godwit does not know any more, so that it keeps the session.
        _ = try client.query("DISCARD ALL")
        #expect(try console.query("SHOW PINS").contains { $0.type == "D" } == false)
        #expect(try connect().value("SELECT count(*) FROM pg_prepared_statements") == "0")
    }

    @Test func `a name that one batch prepares in SQL is taken for the batches behind it`() throws {
        let client = try connect()
        // In one packet: nothing is answered yet when the name comes again.
        client.send(Frame.parse("PREPARE a AS SELECT 1") + Frame.sync + use("") + Frame.sync
            + Frame.parse("SELECT 2", name: "a") + Frame.sync)
        let states = try (0..<3).map { _ in try client.readToReady().first?.sqlState }
        #expect(states == [nil, nil, "42P05"])
    }

    @Test func `the pin of names that SQL uses goes with the names`() throws {
        let client = try connect()
        try prepare(client, "SELECT 1", "s")
        _ = try client.query("EXECUTE s")
        _ = try client.query("PREPARE q AS SELECT 2")
        client.send(use("q") + Frame.sync)
        #expect(try types(client) == "2DCZ")
        _ = try client.query("DEALLOCATE ALL")
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        #expect(try console.query("SHOW PINS").contains { $0.type == "D" } == false)
        // Not while something else is there.
        _ = try client.query("PREPARE q AS SELECT 2")
        _ = try client.query("CREATE TEMP TABLE x (a int)")
        _ = try client.query("DEALLOCATE ALL")
        #expect(try console.query("SHOW PINS").contains { $0.type == "D" && $0.columns.contains("temporary table") })
        #expect(try client.value("SELECT count(*) FROM x") == "0")
    }

    @Test func `what a batch prepares it can EXECUTE`() throws {
        let client = try connect()
        client.send(Frame.parse("SELECT 'first'", name: "s") + Frame.parse("EXECUTE s") + Frame.bind() + Frame.execute()
            + Frame.sync)
        #expect(try types(client) == "112DCZ")
        // Skipped, it changes nothing.
        let other = try connect()
        client.send(Frame.terminate)
        client.close()
        try prepare(other, "SELECT 'second'", "s")
        other.send(Frame.execute(portal: "none") + Frame.parse("EXECUTE s") + Frame.sync + use("s") + Frame.sync)
        #expect(try types(other) == "EZ")
        #expect(try types(other) == "2DCZ")
    }

    @Test(arguments: [true, false])
    func `a statement whose result has changed is refused once, and prepared anew it works`(
        isChangedThroughGodwit: Bool
    ) throws {
        let client = try connect()
        _ = try client.query("INSERT INTO t VALUES (1, 'a')")
        try prepare(client, "SELECT * FROM t", "old")
        client.send(use("old") + Frame.sync)
        #expect(try types(client) == "2DCZ")
        if isChangedThroughGodwit {
            _ = try connect().query("ALTER TABLE t ADD w int")
        } else {
            try servers.old.psql("ALTER TABLE t ADD w int", database: database)
            // Nobody could know of it.
            client.send(use("old") + Frame.sync)
            #expect(try client.readToReady().first?.sqlState == "0A000")
        }
        // Others that prepare it now, or it itself under another name.
        let other = try connect()
        for (who, name) in [(other, "old"), (client, "new")] {
            client.send(Frame.closeStatement("old") + Frame.sync)
            _ = try client.readToReady()
            who.send(Frame.parse("SELECT * FROM t", name: name) + use(name) + Frame.sync)
            let answers = try who.readToReady()
            #expect(answers.first { $0.type == "D" }?.columns.count == 3, "\(answers)")
        }
    }

    /// Npgsql gives the names of statements that it prepares by itself to others, with Close and Parse in one batch.
    @Test func `a name that is given anew within its batch stands for the new statement alone`() throws {
        let (client, other) = (try connect(), try connect())
        client.send(Frame.parse("SELECT set_config('app.tenant', $1, false)", name: "s") + Frame.sync)
        #expect(try types(client) == "1Z")
        client.send(Frame.bind(statement: "s", parameters: ["7"]) + Frame.execute() + Frame.sync)
        #expect(try types(client) == "2DCZ")
        client.send(Frame.closeStatement("s") + Frame.parse("SELECT $1::text", name: "s")
            + Frame.bind(statement: "s", parameters: ["42"]) + Frame.execute() + Frame.sync)
        #expect(try types(client) == "312DCZ")
        // What it has set is set again behind another client.
        _ = try other.query("SET app.tenant = 'other'")
        #expect(try client.value("SELECT current_setting('app.tenant')") == "7")
    }

    @Test func `a time in quotes is in the zone of who prepares it, whoever did so before`() throws {
        let text = "SELECT extract(epoch FROM '2020-01-01'::timestamptz)::int"
        let (first, second) = (try connect(), try connect())
        _ = try first.query("SET TimeZone = 'UTC'")
        _ = try second.query("SET TimeZone = 'Asia/Tokyo'")
        for round in 0..<2 {
            for (client, seconds) in [(first, "1577836800"), (second, "1577804400")] {
                let parse = round == 0 ? Frame.parse(text, name: "s") : []
                client.send(parse + use("s") + Frame.sync)
                #expect(try client.readToReady().first { $0.type == "D" }?.columns == [seconds])
            }
        }
        _ = try first.query("BEGIN")
        _ = try first.query("SET LOCAL TimeZone = 'Asia/Tokyo'")
        first.send(Frame.parse(text, name: "local") + use("local") + Frame.sync)
        #expect(try first.readToReady().first { $0.type == "D" }?.columns == ["1577804400"])
        _ = try first.query("ROLLBACK")
        first.send(use("s") + Frame.sync)
        #expect(try first.readToReady().first { $0.type == "D" }?.columns == ["1577836800"])
    }

    @Test func `a table is the one in the path of who prepares, whoever did so before`() throws {
        let (first, second) = (try connect(), try connect())
        for text in [
            "CREATE SCHEMA one", "CREATE TABLE one.s (code int)", "INSERT INTO one.s VALUES (1)",
            "CREATE SCHEMA two", "CREATE TABLE two.s (code text, w int)", "INSERT INTO two.s VALUES ('x', 2)",
        ] { _ = try first.query(text) }
        _ = try first.query("SET search_path = one")
        _ = try second.query("SET search_path = two")
        for round in 0..<2 {
            for (client, columns) in [(first, ["1"]), (second, ["x", "2"])] {
                let parse = round == 0 ? Frame.parse("SELECT * FROM s", name: "s") : []
                client.send(parse + use("s") + Frame.sync)
                #expect(try client.readToReady().first { $0.type == "D" }?.columns == columns)
            }
        }
        for _ in 0..<2 {
            _ = try first.query("BEGIN")
            _ = try first.query("SET LOCAL search_path = two")
            first.send(Frame.parse("SELECT * FROM s", name: "local") + use("local") + Frame.sync)
            #expect(try first.readToReady().first { $0.type == "D" }?.columns == ["x", "2"])
            _ = try first.query("ROLLBACK")
            first.send(use("s") + Frame.closeStatement("local") + Frame.sync)
            #expect(try first.readToReady().first { $0.type == "D" }?.columns == ["1"])
        }
    }

    @Test(arguments: ["ROLLBACK", "COMMIT"])
    func `a transaction that has changed a table prepares for the table as it is there`(end: String) throws {
        let (other, client) = (try connect(), try connect())
        _ = try client.query("INSERT INTO t VALUES (1, 'a')")
        try prepare(other, "SELECT * FROM t", "known")
        other.send(use("known") + Frame.sync)
        #expect(try types(other) == "2DCZ")
        for text in ["BEGIN", "ALTER TABLE t ADD w int"] { _ = try client.query(text) }
        client.send(Frame.parse("SELECT * FROM t", name: "wide") + use("wide") + Frame.sync)
        #expect(try client.readToReady().first { $0.type == "D" }?.columns.count == 3)
        _ = try client.query(end)
        if end == "COMMIT" { return }
        // Who prepared it before still has what it had.
        other.send(use("known") + Frame.sync)
        #expect(try types(other) == "2DCZ")
    }

    @Test func `a table made in a transaction stands before one of its name that was known`() throws {
        let (other, client) = (try connect(), try connect())
        _ = try client.query("INSERT INTO t VALUES (1, 'of all')")
        // The session has a schema for temporary tables from now on.
        for text in ["CREATE TEMP TABLE x (a int)", "DROP TABLE x"] { _ = try client.query(text) }
        try prepare(other, "SELECT v FROM t", "known")
        other.send(use("known") + Frame.sync)
        #expect(try types(other) == "2DCZ")
        _ = try client.query("BEGIN")
        _ = try client.query("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 'own'::text AS v")
        client.send(Frame.parse("SELECT v FROM t", name: "own") + use("own") + Frame.sync)
        #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["own"])
        _ = try client.query("COMMIT")
    }

    @Test func `a client that breaks into its own COPY is told so in PostgreSQL's words`() throws {
        let client = try connect()
        client.send(Frame.query("COPY t FROM STDIN"))
        #expect(try client.read()?.type == "G")
        client.send(Frame.message("F", Array(repeating: 0, count: 12)) + Frame.sync)
        let answers = try client.readToEnd()
        #expect(answers.last?.sqlState == "08P01")
        #expect(try connect().value("SELECT 1") == "1")
    }

    @Test func `more statements than the server keeps, in batches that fail, stay usable`() throws {
        let godwit = try servers.godwit(database) {
            $0.database.pool = ["size": "1", "max_prepared_statements": "2"]
        }
        let client = try WireClient(port: godwit.port, database: database)
        for name in ["a", "b", "c"] { try prepare(client, "SELECT '\(name)'", name) }
        // The Close that makes room, and the Parse behind it, are skipped.
        client.send(Frame.execute(portal: "none") + use("a") + use("b") + Frame.sync)
        #expect(try types(client) == "EZ")
        for name in ["c", "b", "a", "c"] {
            client.send(use(name) + Frame.sync)
            #expect(try types(client) == "2DCZ")
        }
    }
}
