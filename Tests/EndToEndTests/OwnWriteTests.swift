import TestSupport
import Testing

/// Whoever has written reads nowhere what lacks it, whatever connection he reads on. NEW stands still from the start,
/// and answers everybody else.
@Suite(.serialized) struct OwnWriteTests {
    typealias Frame = FrameBuilder

    let servers: Servers
    let database: String
    let godwit: GodwitProcess

    init() throws {
        servers = try Servers.shared.get()
        (database, godwit) = try Self.start(servers)
    }

    /// - Parameter key: where keys come from; nil: as everywhere.
    private static func start(
        _ servers: Servers, key: String? = nil, _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> (String, GodwitProcess) {
        let name = try servers.makeDatabase(
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            old: "INSERT INTO t SELECT g, 'before' FROM generate_series(1, 9) g")
        let godwit = try servers.mirroring(name) {
            if let key { $0.database.readsKey = key }
            $0.database.readsPercent = "100"
            $0.database.pool = ["size": "4"]
            // However long the machine takes, NEW goes on answering others.
            $0.database.mirror["lag_max"] = "3600"
            $0.database.breaker = ["lag": "0", "read_timeout_millis": "0"]
            change(&$0)
        }
        _ = try godwit.console("MIRROR PAUSE \(name)")
        try waitUntil {
            try godwit.console("SHOW MIRROR").first { $0["database"] == name }?["state"] == "paused"
        }
        return (name, godwit)
    }

    private func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }

    private func batch(_ sql: String, parameters: [String] = []) -> [UInt8] {
        Frame.parse(sql) + Frame.bind(parameters: parameters) + Frame.execute()
    }

    private static func update(_ user: Int) -> String {
        "/* user_id=\(user) */ UPDATE t SET v = 'after' WHERE id = \(user)"
    }

    /// What the user's row is to somebody on another connection.
    private func row(_ user: Int, to reader: Int) throws -> String? {
        try connect().value("/* user_id=\(reader) */ SELECT v FROM t WHERE id = \(user)")
    }

    @Test func `of several users' writes that come at once each is its own user's`() throws {
        let client = try connect()
        client.send((1...3).flatMap { Frame.query(Self.update($0)) })
        for _ in 1...3 { #expect(try client.readToReady().contains { $0.commandTag == "UPDATE 1" }) }
        client.send((4...6).flatMap { batch(Self.update($0)) } + Frame.sync)
        #expect(try client.readToReady().filter { $0.commandTag == "UPDATE 1" }.count == 3)
        client.send((7...8).flatMap { Frame.parse(Self.update($0), name: "u\($0)") } + Frame.sync)
        client.send((7...8).flatMap { Frame.bind(statement: "u\($0)") + Frame.execute() } + Frame.sync)
        for _ in 1...2 { _ = try client.readToReady() }
        for user in 1...8 {
            #expect(try row(user, to: 99) == "before")
            #expect(try row(user, to: user) == "after", "user \(user)")
        }
    }

    /// What names nobody is the session's user's, also in a batch with what names another one.
    @Test func `a batch for two users is the session's as well`() throws {
        func connect() throws -> WireClient {
            try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "42")])
        }
        let read = "SELECT v FROM t WHERE id = 1"
        #expect(try connect().value(read) == "before")
        let client = try connect()
        let update = "UPDATE t SET v = 'after' WHERE id = 1"
        client.send(batch("/* user_id=7 */ SELECT 1") + batch(update) + Frame.sync)
        #expect(try client.readToReady().contains { $0.commandTag == "UPDATE 1" })
        #expect(try row(1, to: 99) == "before")
        #expect(try connect().value(read) == "after")
        // As a read of both it is OLD's, for NEW lacks what one of them has written.
        let reader = try connect()
        reader.send(batch("/* user_id=99 */ SELECT 1") + batch(read) + Frame.sync)
        #expect(try reader.readToReady().contains { $0.columns == ["after"] })
    }

    /// A long message goes on before it is whole: whose it is may be behind the long value.
    @Test(arguments: [false, true]) func `who is bound behind a long value has written`(isOpen: Bool) throws {
        let (name, godwit) = try Self.start(servers, key: "[{comment: none}, {column: id}]")
        func row() throws -> String? {
            try WireClient(port: godwit.port, database: name).value("SELECT v FROM t WHERE id = 1")
        }
        #expect(try row() == "before")
        let client = try WireClient(port: godwit.port, database: name)
        if isOpen { for sql in ["BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 1"] { _ = try client.query(sql) } }
        let long = String(repeating: "x", count: 3 << 20)
        client.send(batch("UPDATE t SET v = left($1, 5) WHERE id = $2", parameters: [long, "1"]) + Frame.sync)
        #expect(try client.readToReady().contains { $0.commandTag == "UPDATE 1" })
        if isOpen { _ = try client.query("COMMIT") }
        #expect(try row() == "xxxxx")
    }

    /// The columns of that name have several types, and the driver names none; or it is a type that only PostgreSQL
    /// reads.
    @Test(arguments: [
        ("int PRIMARY KEY, v text); CREATE TABLE u (id text PRIMARY KEY", [0, 0, 0, 1]),
        ("numeric PRIMARY KEY, v text", [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
    ] as [(String, [UInt8])])
    func `who is bound in bytes that nobody can read may be anybody`(columns: String, one: [UInt8]) throws {
        let name = try servers.makeDatabase(
            "CREATE TABLE t (id \(columns))", old: "INSERT INTO t VALUES (1, 'before')")
        let godwit = try servers.mirroring(name) {
            $0.database.readsKey = "[{comment: none}, {column: id}]"
            $0.database.readsPercent = "100"
            $0.database.mirror["lag_max"] = "3600"
            $0.database.breaker = ["lag": "0", "read_timeout_millis": "0"]
        }
        _ = try godwit.console("MIRROR PAUSE \(name)")
        try waitUntil { try godwit.console("SHOW MIRROR").first { $0["database"] == name }?["state"] == "paused" }
        func row() throws -> String? {
            try WireClient(port: godwit.port, database: name).value("SELECT v FROM t WHERE id = 1")
        }
        #expect(try row() == "before")
        let client = try WireClient(port: godwit.port, database: name)
        let update = Frame.parse("UPDATE t SET v = 'after' WHERE id = $1") + Frame.bind(binary: [one])
        client.send(update + Frame.execute() + Frame.sync)
        #expect(try client.readToReady().contains { $0.commandTag == "UPDATE 1" })
        #expect(try row() == "after")
    }

    @Test func `who is bound to one of very many statements of a batch has written`() throws {
        let (name, godwit) = try Self.start(servers, key: "[{comment: none}, {column: id}]")
        func row(_ id: Int) throws -> String? {
            try WireClient(port: godwit.port, database: name).value("SELECT v FROM t WHERE id = \(id)")
        }
        #expect(try row(9) == "before")
        let client = try WireClient(port: godwit.port, database: name)
        let parses = (1...70).flatMap { Frame.parse("UPDATE t SET v = 'after' WHERE id = $1", name: "u\($0)") }
        let binds = (1...70).flatMap {
            Frame.bind(statement: "u\($0)", parameters: [$0 == 70 ? "9" : "1"]) + Frame.execute()
        }
        client.send(parses + binds + Frame.sync)
        #expect(try client.readToReady().filter { $0.commandTag == "UPDATE 1" }.count == 70)
        for id in [1, 9] { #expect(try row(id) == "after") }
    }

    /// The grammar has a word of its own in `user`.
    @Test(arguments: [
        #"SET godwit."user" = '42'"#, #"SET LOCAL godwit."user" = '42'"#, "", #"RESET godwit."user""#, "RESET ALL",
    ])
    func `a transaction that sets its key writes as that user`(setting: String) throws {
        let isReset = setting.hasPrefix("RESET")
        let client = try WireClient(
            port: godwit.port, database: database, parameters: isReset ? [("godwit.user", "42")] : [])
        _ = try client.query("SET godwit.user = '41'")
        _ = try client.query("BEGIN ISOLATION LEVEL SERIALIZABLE")
        if setting.isEmpty {
            client.send(batch("SELECT set_config('godwit.user', $1, true)", parameters: ["42"]) + Frame.sync)
            #expect(try client.readToReady().contains { $0.type == "D" })
        } else {
            #expect(try client.query(setting).contains { $0.type == "C" })
        }
        #expect(try client.query("UPDATE t SET v = 'after' WHERE id = 1").contains { $0.commandTag == "UPDATE 1" })
        _ = try client.query("COMMIT")
        let reader = try connect()
        for (user, value) in [("99", "before"), ("42", "after")] {
            _ = try reader.query("SET godwit.user = '\(user)'")
            #expect(try reader.value("SELECT v FROM t WHERE id = 1") == value, "user \(user)")
        }
    }

    /// OLD moves on, and no user of ours has done it.
    private func moveOn() throws { try servers.old.psql("UPDATE t SET v = 'after' WHERE id = 1", database: database) }

    @Test(arguments: [
        [#"SET godwit."user" = '42'; SELECT v FROM t WHERE id = 1"#],
        [
            "BEGIN ISOLATION LEVEL SERIALIZABLE", #"SET LOCAL godwit."user" = '42'"#, "SELECT v FROM t WHERE id = 1",
            "COMMIT",
        ],
    ])
    func `who is named by a setting has seen what is read behind it`(texts: [String]) throws {
        try moveOn()
        #expect(try row(1, to: 42) == "before")
        let client = try connect()
        for sql in texts { #expect(try client.query(sql).allSatisfy { $0.type != "E" }, "\(sql)") }
        #expect(try row(1, to: 99) == "before")
        #expect(try row(1, to: 42) == "after")
    }

    /// A rule sends reads to NEW that the shares keep on OLD.
    @Test func `who has read on OLD does not go back in time by a rule for NEW`() throws {
        let (name, godwit) = try Self.start(servers) {
            $0.database.readsPercent = "0"
            $0.database.rules = "[{name: here, regex: here, action: new}]"
        }
        try servers.old.psql("UPDATE t SET v = 'after' WHERE id = 1", database: name)
        let client = try WireClient(port: godwit.port, database: name)
        let read = "SELECT v FROM t WHERE id = 1"
        #expect(try client.value("/* here */ \(read)") == "before")
        #expect(try client.value(read) == "after")
        #expect(try client.value("/* here */ \(read)") == "after")
    }

    @Test func `rows count from when they are there, not from the end of what was asked for with them`() throws {
        try moveOn()
        let client = try connect()
        client.send(batch("/* user_id=1 */ SELECT v FROM t WHERE id = 1") + Frame.flush)
        while let message = try client.read(), message.type != "D" {}
        #expect(try row(1, to: 99) == "before")
        #expect(try row(1, to: 1) == "after")
        client.send(Frame.sync)
        #expect(try client.readToReady().last?.transactionStatus == "I")
    }

    @Test func `who is told of a commit by NOTIFY sees it`() throws {
        func order(_ word: String, state: String) throws {
            _ = try godwit.console("MIRROR \(word) \(database)")
            try waitUntil {
                try godwit.console("SHOW MIRROR").first { $0["database"] == database }?["state"] == state
            }
        }
        let listener = try connect()
        for sql in ["SET godwit.user = '7'", "LISTEN news"] { _ = try listener.query(sql) }
        // What he has seen by then NEW gets.
        try order("RESUME", state: "mirroring")
        try order("PAUSE", state: "paused")
        try moveOn()
        #expect(try row(1, to: 7) == "before")
        try servers.old.psql("NOTIFY news", database: database)
        #expect(try listener.read()?.type == "A")
        #expect(try row(1, to: 99) == "before")
        #expect(try row(1, to: 7) == "after")
    }

    /// Its user's name may be in what nobody has seen when it goes on, or behind what is looked at.
    @Test(arguments: [false, true])
    func `a write that is too long to be gathered is anybody's`(isExtended: Bool) throws {
        #expect(try row(1, to: 1) == "before")
        let client = try connect()
        let text = "UPDATE t SET v = 'after' WHERE id = 1 AND '\(String(repeating: "x", count: 3 << 20))' <> ''"
            + " /* user_id=1 */"
        client.send(isExtended ? batch(text) + Frame.sync : Frame.query(text))
        #expect(try client.readToReady().contains { $0.commandTag == "UPDATE 1" })
        #expect(try row(1, to: 1) == "after")
    }

    /// The texts of a transaction whose COMMIT is answered long before what the client has asked for with it.
    @Test(arguments: [false, true]) func `a commit counts from its tag on`(isExtended: Bool) throws {
        let client = try connect()
        let owner = try WireClient(port: servers.old.port, database: database, user: "app")
        _ = try owner.query("SELECT pg_advisory_lock(7)")
        if isExtended {
            for sql in ["BEGIN", Self.update(1)] { _ = try client.query(sql) }
            client.send(batch("COMMIT") + Frame.flush)
        } else {
            client.send(Frame.query("\(Self.update(1).replacing("UPDATE", with: "BEGIN; UPDATE")); COMMIT; "
                + "SELECT repeat('x', 20000); SELECT pg_advisory_xact_lock(7)"))
        }
        while let message = try client.read(), message.commandTag != "COMMIT" {}
        #expect(try row(1, to: 99) == "before")
        #expect(try row(1, to: 1) == "after")
        _ = try owner.query("SELECT pg_advisory_unlock(7)")
        if isExtended { client.send(Frame.sync) }
        #expect(try client.readToReady().last?.transactionStatus == "I")
    }

    /// Whoever brings it to its end need not be whose writes are in it.
    @Test func `what was prepared counts for everybody from its commit on`() throws {
        let owner = try WireClient(port: servers.old.port, database: database, user: "app")
        for sql in ["BEGIN", Self.update(1), "PREPARE TRANSACTION '\(database)'"] { _ = try owner.query(sql) }
        #expect(try row(1, to: 1) == "before")
        #expect(try connect().query("COMMIT PREPARED '\(database)'").contains { $0.commandTag == "COMMIT PREPARED" })
        #expect(try row(1, to: 1) == "after")
    }

    /// They run on OLD, and tell nothing of it.
    @Test func `what shows nothing keeps nobody from NEW`() throws {
        try servers.old.psql("UPDATE t SET v = 'after' WHERE id = 1", database: database)
        let (client, other) = (try connect(), try connect())
        for sql in ["SET statement_timeout = '1min'", "SHOW work_mem", "RESET statement_timeout", "DISCARD PLANS"] {
            // Whose settings the server has then: they are taken back first.
            #expect(try other.query("SET work_mem = '5MB'").allSatisfy { $0.type != "E" })
            #expect(try client.query(sql).allSatisfy { $0.type != "E" })
            #expect(try client.value("SELECT v FROM t WHERE id = 1") == "before", "\(sql)")
        }
        client.send(Frame.parse("SELECT v FROM t WHERE id = 1", name: "s") + Frame.describeStatement("s") + Frame.sync)
        _ = try client.readToReady()
        client.send(Frame.bind(statement: "s") + Frame.execute() + Frame.sync)
        #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["before"])
        #expect(try client.value("SELECT v FROM t WHERE id = 1 FOR UPDATE") == "after")
        #expect(try client.value("SELECT v FROM t WHERE id = 1") == "after")
    }

    @Test func `a READ ONLY transaction that begins on NEW leaves it for a user who has written`() throws {
        _ = try connect().query(Self.update(1))
        var sessions = 0
        /// What is done on OLD without a user's name is the session's, so each has a key of its own.
        func begun(_ begin: String) throws -> WireClient {
            sessions += 1
            let client = try WireClient(
                port: godwit.port, database: database, parameters: [("godwit.user", "session \(sessions)")])
            _ = try client.query(begin)
            return client
        }
        for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN READ ONLY"] {
            for isExtended in [false, true] {
                for (reader, value) in [(99, "before"), (1, "after")] {
                    let client = try begun(begin)
                    let sql = "/* user_id=\(reader) */ SELECT v FROM t WHERE id = 1"
                    client.send(isExtended ? batch(sql) + Frame.sync : Frame.query(sql))
                    #expect(try client.readToReady().contains { $0.columns == [value] }, "\(begin) \(reader)")
                    #expect(try client.value("SHOW transaction_read_only") == "on")
                    #expect(try client.query("COMMIT").contains { $0.commandTag == "COMMIT" })
                }
            }
        }
        // Its snapshot is of NEW: what it reads stays as it was.
        let client = try begun("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        #expect(try client.value("/* user_id=99 */ SELECT v FROM t WHERE id = 1") == "before")
        #expect(try client.value("/* user_id=1 */ SELECT v FROM t WHERE id = 1") == "before")
        _ = try client.query("COMMIT")
    }
}
