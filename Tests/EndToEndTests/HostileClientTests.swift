import Foundation
import Primitives
import Synchronization
import TestSupport
import Testing

/// Clients that break the protocol, stop in the midst of it, or vanish: whatever they do, the next one is served, and
/// no server is lost, dirty or left in a transaction.
@Suite(.serialized) struct HostileClientTests {
    typealias Frame = FrameBuilder

    private static let users = Atomic<Int>(0)

    /// A Godwit with few servers, before a database whose reads go to NEW.
    struct Stage: Sendable {
        let servers: Servers
        let database: String
        let godwit: GodwitProcess
        let whole: Wholeness

        init() throws {
            servers = try Servers.shared.get()
            database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY, v text)")
            godwit = try servers.godwit(database) {
                $0.threads = 2
                $0.database.readsPercent = "100"
                // Each thread has half of them, and up to four clients at once may hold one for good.
                $0.database.pool = ["size": "16"]
            }
            whole = Wholeness(godwit: godwit, servers: servers, database: database)
        }

        /// Another user each time: whoever has written reads on OLD for good where nothing is mirrored.
        func connect() throws -> WireClient {
            let user = HostileClientTests.users.add(1, ordering: .relaxed).newValue
            return try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "hostile \(user)")])
        }

        var startup: [UInt8] { Frame.startup([("user", "app"), ("database", database)]) }
    }

    /// One that wants a password.
    struct Guarded: Sendable {
        let database: String
        let godwit: GodwitProcess

        init() throws {
            let servers = try Servers.shared.get()
            database = try servers.makeDatabase()
            godwit = try servers.godwit(database) {
                $0.authMethod = "scram-sha-256"
                $0.users = "\"app\" \"secret\"\n"
            }
        }

        var startup: [UInt8] { Frame.startup([("user", "app"), ("database", database)]) }
    }

    /// One for all that log in without a password: each finds it in the state the others left it in.
    static let stage = Result { try Stage() }
    let stage: Stage

    init() throws { stage = try Self.stage.get() }

    /// Ends the client's side and reads what comes. It must end: what waits for more from this client waits in vain.
    func readToEnd(_ client: WireClient, _ what: String) throws {
        client.endSending()
        client.endWaiting(afterSeconds: 60)
        while (try? client.read()) ?? nil != nil {}
        #expect(!client.hasGivenUp, "\(what): neither answered nor closed")
        try #require(!stage.godwit.process.hasEnded, "\(what): \(stage.godwit.log.text)")
    }

    // MARK: lengths

    /// A message, and where a length or count stands in it.
    struct LengthField: CustomTestStringConvertible {
        let name: String
        let bytes: [UInt8]
        let offset: Int
        var width = 4
        var testDescription: String { name }

        /// 0, 3, 4, the largest, -1, and more than there is.
        var variants: [[UInt8]] {
            let rest = UInt32(bytes.count - offset)
            return [0, 3, 4, 0x7fff_ffff, 0xffff_ffff, rest + 1, rest &- 1].map { value in
                var changed = bytes
                let content = width == 4 ? Frame.bigEndian(value) : Frame.bigEndian(UInt16(truncatingIfNeeded: value))
                changed.replaceSubrange(offset..<(offset + width), with: content)
                return changed
            }
        }
    }

    static let bind = Frame.bind(statement: "s", portal: "p", parameters: ["abc", "de"])
    static let call = Frame.message("F", [0, 0, 5, 0xd5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 52, 50, 0, 0])
    static let copyRow: [UInt8] = Array("PGCOPY\n".utf8) + [0xff, 13, 10, 0] + [0, 0, 0, 0, 0, 0, 0, 0]
        + [0, 2, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 1, 120] + [0xff, 0xff]

    static let lengthFields: [LengthField] =
        [
            Frame.query("SELECT 1"), Frame.parse("SELECT $1, $2", name: "s"), bind, Frame.describeStatement("s"),
            Frame.describePortal("p"), Frame.closeStatement("s"), Frame.execute(portal: "p"), Frame.sync, Frame.flush,
            call, Frame.message("d", [65, 10]), Frame.message("c"), Frame.message("f", [65, 0]), Frame.terminate,
            Frame.message("p", Frame.string("secret")),
        ].map { LengthField(name: "of \(Character(UnicodeScalar($0[0])))", bytes: $0, offset: 1) }
        + [
            LengthField(name: "types of a Parse", bytes: Frame.message(
                "P", Frame.string("") + Frame.string("SELECT $1") + [0, 1, 0, 0, 0, 23]), offset: 16, width: 2),
            LengthField(name: "formats of a Bind", bytes: bind, offset: 9, width: 2),
            LengthField(name: "parameters of a Bind", bytes: bind, offset: 11, width: 2),
            LengthField(name: "first parameter of a Bind", bytes: bind, offset: 13),
            LengthField(name: "second parameter of a Bind", bytes: bind, offset: 20),
            LengthField(name: "result formats of a Bind", bytes: bind, offset: 26, width: 2),
            LengthField(name: "rows of an Execute", bytes: Frame.execute(portal: "p", rowsMax: 7), offset: 7),
            LengthField(name: "formats of a call", bytes: call, offset: 9, width: 2),
            LengthField(name: "arguments of a call", bytes: call, offset: 13, width: 2),
            LengthField(name: "an argument of a call", bytes: call, offset: 15),
            LengthField(name: "header of a binary COPY", bytes: Frame.message("d", copyRow), offset: 20),
            LengthField(name: "fields of a binary COPY", bytes: Frame.message("d", copyRow), offset: 24, width: 2),
            LengthField(name: "a field of a binary COPY", bytes: Frame.message("d", copyRow), offset: 26),
        ]

    @Test(arguments: lengthFields)
    func `a length that cannot be harms nobody`(field: LengthField) throws {
        let isCopy = field.bytes[0] == 0x64
        for before in ["", "BEGIN; SELECT txid_current()", "COPY t FROM STDIN (FORMAT binary)"] {
            if before.hasPrefix("COPY") != isCopy && field.width == 2 { continue }
            for bytes in field.variants {
                let client = try stage.connect()
                if before.hasPrefix("COPY") {
                    client.send(Frame.query(before))
                } else if !before.isEmpty {
                    _ = try client.query(before)
                }
                client.send(Frame.parse("SELECT $1::text, $2::text", name: "s") + bytes + Frame.sync)
                try readToEnd(client, "\(field.name) as \(bytes) after '\(before)'")
            }
        }
        try stage.whole.check()
    }

    @Test func `nor does one of a login`() throws {
        let guarded = try Self.guarded.get()
        let first = Frame.string("SCRAM-SHA-256") + Frame.bigEndian(UInt32(13)) + Array("n,,n=,r=nonce".utf8)
        let fields = [
            LengthField(name: "startup", bytes: stage.startup, offset: 0),
            LengthField(name: "cancel", bytes: [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2], offset: 0),
            LengthField(name: "SSLRequest", bytes: [0, 0, 0, 8, 4, 210, 22, 47], offset: 0),
        ]
        for field in fields {
            for bytes in field.variants {
                let client = try WireClient(port: stage.godwit.port)
                client.send(bytes)
                // What comes then is bytes, not messages.
                client.endSending()
                while client.readByte() != nil {}
            }
        }
        for field in [
            LengthField(name: "password", bytes: Frame.message("p", first), offset: 1),
            LengthField(name: "SASL", bytes: Frame.message("p", first), offset: 19),
        ] {
            for bytes in field.variants {
                let client = try WireClient(port: guarded.godwit.port)
                client.send(guarded.startup)
                _ = try client.read()
                client.send(bytes)
                try readToEnd(client, field.name)
            }
        }
        #expect(!guarded.godwit.process.hasEnded)
        try stage.whole.check()
    }

    // MARK: any message in any state

    enum State: CaseIterable {
        case beforeStartup, authenticating, idle, inTransaction, failed, copyIn, copyOut, behindPortal, behindParse
        case skipping, pinned, reading
    }

    /// Brings a client there.
    func client(in state: State) throws -> WireClient {
        if state == .beforeStartup { return try WireClient(port: stage.godwit.port) }
        if state == .authenticating {
            let guarded = try Self.guarded.get()
            let client = try WireClient(port: guarded.godwit.port)
            client.send(guarded.startup)
            _ = try client.read()
            return client
        }
        let client = try stage.connect()
        switch state {
        case .beforeStartup, .authenticating, .idle: break
        case .inTransaction: _ = try client.query("BEGIN; SELECT txid_current()")
        case .failed: _ = try client.query("BEGIN; SELECT 1/0")
        case .copyIn:
            client.send(Frame.query("COPY t FROM STDIN"))
            _ = try client.read()
        case .copyOut:
            client.send(Frame.query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 3000)) TO STDOUT"))
            for _ in 0..<10 { _ = try client.read() }
        case .behindPortal:
            _ = try client.query("BEGIN; SELECT txid_current()")
            client.send(Frame.parse("SELECT generate_series(1, 100)", name: "s") + Frame.bind(statement: "s", portal: "p")
                + Frame.execute(portal: "p", rowsMax: 3) + Frame.flush)
            while let message = try client.read(), message.type != "s" {}
        case .behindParse: client.send(Frame.parse("SELECT 1", name: "s") + Frame.flush)
        case .skipping: client.send(Frame.parse("nonsense") + Frame.flush)
        case .pinned: _ = try client.query("LISTEN something; CREATE TEMP TABLE IF NOT EXISTS mine (x int)")
        case .reading: client.send(Frame.query("SELECT repeat('x', 1000) FROM generate_series(1, 3000)"))
        }
        return client
    }

    static let guarded = Result { try Guarded() }

    static let messages: [[UInt8]] = [
        Frame.query("SELECT 1"), Frame.query("BEGIN"), Frame.query("COMMIT"), Frame.query("ROLLBACK"), Frame.query(""),
        Frame.query("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING"), Frame.query("COPY t FROM STDIN"),
        Frame.query("COPY t TO STDOUT"), Frame.query("SELECT 1/0"), Frame.query("DEALLOCATE ALL"), Frame.query("SET x.y = 1"),
        Frame.query("SAVEPOINT a"), Frame.query("LISTEN x"), Frame.query("SELECT 1; SELECT 2; BEGIN"),
        Frame.parse("SELECT $1::int"), Frame.parse("SELECT 1", name: "s"), Frame.parse("nonsense"), Frame.parse("BEGIN"),
        Frame.parse("COPY t FROM STDIN"), Frame.parse(""), Frame.bind(), Frame.bind(parameters: ["1"]),
        Frame.bind(statement: "s", portal: "p"), Frame.bind(statement: "none"), Frame.describeStatement(),
        Frame.describeStatement("s"), Frame.describePortal(), Frame.describePortal("p"), Frame.closeStatement("s"),
        Frame.closeStatement(""), Frame.message("C", [0x50] + Frame.string("p")), Frame.execute(), Frame.sync, Frame.sync,
        Frame.execute(portal: "p", rowsMax: 1), Frame.flush, Frame.message("d", Array("1\tx\n".utf8)),
        Frame.message("d", Array("broken\n".utf8)), Frame.message("c"), Frame.message("f", Frame.string("no")), call,
        Frame.message("F", [0, 0, 0x05, 0xd5]), Frame.terminate, Frame.message("p", Frame.string("x")),
        Frame.message("Z", [0x49]), Frame.message("~"), [0, 0, 0, 8, 4, 210, 22, 47], [0, 0, 0, 8, 4, 210, 22, 48],
        Frame.startup([("user", "app"), ("database", "postgres")]), [0x51], [0x50, 0, 0, 0, 100, 65],
    ]

    @Test(arguments: State.allCases)
    func `any messages in any state do no harm`(state: State) throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("hostile messages, \(state): seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for turn in 0..<25 {
            let picked = (0..<Int.random(in: 1...6, using: &generator)).map { _ in
                Int.random(in: 0..<Self.messages.count, using: &generator)
            }
            let client = try client(in: state)
            for message in picked { client.send(Self.messages[message]) }
            try readToEnd(client, "seed \(seed), \(state), turn \(turn), messages \(picked)")
        }
        try stage.whole.check()
    }

    // MARK: time

    @Test func `who sends byte by byte and stops is sent away, and others do not wait for it`() throws {
        let servers = try Servers.shared.get()
        let database = try servers.makeDatabase()
        // Enough for those who log in without a pause.
        let godwit = try servers.godwit(database) { $0.listen["client_login_timeout"] = "5" }
        let whole = Wholeness(godwit: godwit, servers: servers, database: database)
        let slow = try (0..<50).map { number in
            let client = try WireClient(port: godwit.port)
            client.sendByteByByte(Array(stage.startup.prefix(number % stage.startup.count)))
            return client
        }
        try whole.serveFreshClient()
        for client in slow {
            let answers = try client.readToEnd()
            #expect(answers.allSatisfy { $0.sqlState == "08P01" })
        }
        // Whoever is in may take its time.
        let steady = try WireClient(port: godwit.port, database: database)
        steady.sendByteByByte(Frame.query("SELECT 1") + Frame.parse("SELECT 2") + Frame.bind() + Frame.execute())
        try whole.serveFreshClient()
        #expect(try steady.readToReady().contains { $0.columns == ["1"] })
        steady.close()
        try whole.check()
    }

    // MARK: names and texts

    static let longName = String(repeating: "n", count: 65_536)

    @Test func `names of 64 KiB are PostgreSQL's to judge`() throws {
        let direct = try WireClient(port: stage.servers.old.port, database: stage.database)
        let name = Self.longName
        let batches: [[UInt8]] = [
            Frame.parse("SELECT 1", name: name) + Frame.bind(statement: name, portal: name)
                + Frame.describeStatement(name) + Frame.describePortal(name) + Frame.execute(portal: name),
            Frame.parse("SELECT 1", name: name) + Frame.sync + Frame.parse("SELECT 2", name: name),
            Frame.closeStatement(name), Frame.closeStatement(String(name.prefix(9_000))),
            Frame.bind(statement: "x" + name),
        ]
        for (index, batch) in batches.enumerated() {
            let client = try stage.connect()
            let reference = try WireClient(port: stage.servers.old.port, database: stage.database)
            for connection in [client, reference] {
                connection.send(batch + Frame.sync)
                connection.endSending()
            }
            // S: a client that sends no more is told a setting, to see whether it listens.
            let ours = try client.readToEnd().filter { $0.type != "S" }
            let theirs = try reference.readToEnd()
            reference.close()
            // Messages that are too long for their type end the connection: PostgreSQL's without a word.
            if theirs.isEmpty {
                #expect(ours.map(\.sqlState) == ["08P01"], "batch \(index)")
                continue
            }
            #expect(ours.map(\.type) == theirs.map(\.type), "batch \(index)")
            #expect(ours.map(\.sqlState) == theirs.map(\.sqlState), "batch \(index)")
        }
        let client = try stage.connect()
        for sql in [
            "BEGIN", "SAVEPOINT \(name)", "RELEASE \(name)", "ROLLBACK TO \(name)", "ROLLBACK", "SELECT 1 AS \(name)",
            "SELECT \"\(name)\"", "PREPARE \(name) AS SELECT 1", "EXECUTE \(name)", "DEALLOCATE \(name)",
            "DECLARE \(name) CURSOR WITH HOLD FOR SELECT 1", "FETCH \(name)", "CLOSE \(name)", "SET \(name).x = 1",
            "SET \(name) = 1", "RESET \(name)", "SHOW \(name)", "SET application_name = '\(name)'",
            "SHOW application_name", "RESET application_name", "LISTEN \(name)", "UNLISTEN \(name)",
            "SELECT $\(name)$ a $\(name)$", "/* godwit user_id = \(name) */ SELECT 1", "SET ROLE \(name)",
            "COPY \(name) FROM STDIN", "CREATE TEMP TABLE \(name) (x int)", "DISCARD ALL",
        ] {
            let ours = try client.query(sql)
            let theirs = try direct.query(sql)
            let what = String(sql.prefix(20))
            #expect(ours.filter { $0.type != "N" }.map(\.type) == theirs.filter { $0.type != "N" }.map(\.type), "\(what)")
            #expect(ours.map(\.sqlState) == theirs.map(\.sqlState), "\(what)")
        }
        for parameter in [("user", name), ("database", name), (name, "x"), ("application_name", name), ("options", name)] {
            let client = try WireClient(port: stage.godwit.port)
            var parameters = [("user", "app"), ("database", stage.database)].filter { $0.0 != parameter.0 }
            parameters.append(parameter)
            client.send(Frame.startup(parameters))
            #expect(try client.readToEnd().last?.type == "E", "\(parameter.0.prefix(20))")
        }
        client.close()
        direct.close()
        try stage.whole.check()
    }

    static let deep: [(String, String)] = {
        func times(_ count: Int, _ text: String) -> String { String(repeating: text, count: count) }
        return [
            ("parentheses", "SELECT " + times(10_000, "(") + "1" + times(10_000, ")")),
            ("open parentheses", "SELECT " + times(10_000, "(")),
            ("subqueries", times(2_000, "SELECT * FROM (") + "SELECT 1" + times(2_000, ") s")),
            ("CASE", "SELECT " + times(2_000, "CASE WHEN true THEN ") + "1" + times(2_000, " END")),
            ("sums", "SELECT 1" + times(15_000, "+1")), ("NOT", "SELECT " + times(15_000, "NOT ") + "true"),
            ("minus", "SELECT " + times(15_000, "- ") + "1"), ("casts", "SELECT 1" + times(10_000, "::int")),
            ("AND", "SELECT true" + times(10_000, " AND true")), ("OR", "SELECT true" + times(10_000, " OR true")),
            ("UNION", "SELECT 1" + times(4_000, " UNION ALL SELECT 1")),
            ("joins", "SELECT 1 FROM t t0" + (1...3_000).map { " CROSS JOIN t t\($0)" }.joined()),
            ("arrays", "SELECT " + times(5_000, "ARRAY[") + "1" + times(5_000, "]")),
            ("subscripts", "SELECT ('{1}'::int[])" + times(15_000, "[1]")), ("calls", "SELECT " + times(8_000, "abs(") + "1" + times(8_000, ")")),
            ("IN", "SELECT 1 IN (" + (1...9_000).map(String.init).joined(separator: ",") + ")"),
            ("a long IN", "SELECT 1 IN (" + (1...200_000).map(String.init).joined(separator: ",") + ")"),
            ("columns", "SELECT " + times(1_600, "1,") + "1"), ("VALUES", "VALUES (1)" + times(10_000, ",(1)")),
            ("statements", times(10_000, "SELECT;")), ("comments", times(15_000, "/*") + times(15_000, "*/") + "SELECT 1"),
            ("WITH", "WITH " + (0..<2_000).map { "c\($0) AS (SELECT 1)" }.joined(separator: ",") + " SELECT 1"),
            ("nested WITH", times(1_500, "WITH c AS (") + "SELECT 1" + times(1_500, ") SELECT 1")),
            ("points", "SELECT a" + times(15_000, ".a")), ("operators", "SELECT 1" + times(15_000, "*2")),
            ("COLLATE", "SELECT 'a'" + times(5_000, " COLLATE \"C\"")), ("IS NULL", "SELECT 1" + times(7_000, " IS NULL")),
            ("string", "SELECT " + times(15_000, "''||") + "''"), ("EXPLAIN", times(5_000, "EXPLAIN ") + "SELECT 1"),
        ]
    }()

    /// By name: the texts themselves would fill the log.
    @Test(arguments: deep.map { $0.0 })
    func `deep and long texts are answered as PostgreSQL answers them`(what: String) throws {
        let sql = try #require(Self.deep.first { $0.0 == what }).1
        for isExtended in [false, true] {
            let client = try stage.connect()
            let direct = try WireClient(port: stage.servers.old.port, database: stage.database)
            for connection in [client, direct] {
                // Parsed only: to plan some of them takes minutes.
                connection.send(isExtended ? Frame.parse(sql) + Frame.sync : Frame.query("SELECT 1/0; \(sql)"))
            }
            let ours = try client.readToReady()
            let theirs = try direct.readToReady()
            #expect(ours.compactMap(\.sqlState) == theirs.compactMap(\.sqlState), "\(what)")
            #expect(ours.count == theirs.count, "\(what)")
            direct.close()
        }
        try stage.whole.serveFreshClient()
    }

    // MARK: killed at every step

    /// How far a client gets before it is killed.
    static let steps: [(String, @Sendable (Stage) throws -> WireClient)] = {
        @Sendable func login(_ stage: Stage, _ sent: [UInt8], answers: Int = 0) throws -> WireClient {
            let client = try stage.connect()
            client.send(sent)
            for _ in 0..<answers { _ = try client.read() }
            return client
        }
        @Sendable func raw(_ stage: Stage, _ bytes: [UInt8]) throws -> WireClient {
            let client = try WireClient(port: stage.godwit.port)
            client.send(bytes)
            return client
        }
        let rows = "SELECT repeat('x', 1000) FROM generate_series(1, 5000)"
        let begin = Frame.query("BEGIN; SELECT txid_current()")
        let parse = Frame.parse("SELECT $1", name: "s")
        return [
            ("connected", { try raw($0, []) }), ("half a length", { try raw($0, [0, 0]) }),
            ("half a startup packet", { try raw($0, Array($0.startup.prefix(12))) }),
            ("a startup packet", { try raw($0, $0.startup) }),
            ("SSLRequest", { try raw($0, [0, 0, 0, 8, 4, 210, 22, 47]) }),
            ("startup packet and query", { try raw($0, $0.startup + Frame.query(rows)) }),
            ("logged in", { try login($0, []) }), ("within a head", { try login($0, [0x51, 0, 0]) }),
            ("within a query", { try login($0, Array(Frame.query("SELECT 1").prefix(9))) }),
            ("a query", { try login($0, Frame.query("SELECT 1")) }),
            ("within a result", { try login($0, Frame.query(rows), answers: 5) }),
            ("an unread result", { try login($0, Frame.query(rows)) }),
            ("within a result of OLD", { try login($0, Frame.query(rows + " FOR SHARE OF pg_class")) }),
            ("Parse", { try login($0, parse) }), ("Parse and Flush", { try login($0, parse + Frame.flush, answers: 1) }),
            ("within a Bind", { try login($0, parse + Array(Frame.bind(statement: "s", parameters: ["x"]).prefix(12))) }),
            ("Execute without Sync", {
                try login($0, parse + Frame.bind(statement: "s", parameters: ["x"]) + Frame.execute())
            }),
            ("Sync", { try login($0, parse + Frame.bind(statement: "s", parameters: ["x"]) + Frame.execute() + Frame.sync) }),
            ("an error skipped", { try login($0, Frame.parse("nonsense") + Frame.bind() + Frame.flush, answers: 1) }),
            ("BEGIN", { try login($0, Frame.query("BEGIN"), answers: 2) }), ("a transaction", { try login($0, begin, answers: 5) }),
            ("an insert", { try login($0, begin + Frame.query("INSERT INTO t SELECT (random() * 1e9)::int"), answers: 7) }),
            ("within a message in a transaction", { try login($0, begin + [0x51, 0, 0, 1, 0, 65], answers: 5) }),
            ("Parse in a transaction", { try login($0, begin + parse, answers: 5) }),
            ("a failed transaction", { try login($0, begin + Frame.query("SELECT 1/0"), answers: 6) }),
            ("COMMIT", { try login($0, begin + Frame.query("COMMIT"), answers: 5) }),
            ("a portal", {
                try login($0, begin + Frame.parse("SELECT generate_series(1, 9)") + Frame.bind(portal: "p")
                    + Frame.execute(portal: "p", rowsMax: 1) + Frame.flush, answers: 8)
            }),
            ("COPY IN", { try login($0, Frame.query("COPY t FROM STDIN"), answers: 1) }),
            ("a row of COPY IN", { try login($0, Frame.query("COPY t FROM STDIN") + Frame.message("d", Array("5\tx\n".utf8)), answers: 1) }),
            ("within a row of COPY IN", {
                try login($0, Frame.query("COPY t FROM STDIN") + Frame.message("d", Array("5\t".utf8), length: 100_000), answers: 1)
            }),
            ("COPY OUT", { try login($0, Frame.query("COPY (\(rows)) TO STDOUT"), answers: 3) }),
            ("a sleep", { try login($0, Frame.query("SELECT pg_sleep(3600)")) }),
            ("a sleep in a transaction", { try login($0, begin + Frame.query("SELECT pg_sleep(3600)"), answers: 5) }),
            ("LISTEN", { try login($0, Frame.query("LISTEN x"), answers: 2) }),
            ("a temporary table", { try login($0, Frame.query("CREATE TEMP TABLE mine (x int)"), answers: 2) }),
            ("a session lock", { try login($0, Frame.query("SELECT pg_try_advisory_lock(7)"), answers: 4) }),
            ("a cursor WITH HOLD", { try login($0, Frame.query("DECLARE c CURSOR WITH HOLD FOR SELECT 1"), answers: 2) }),
            ("a setting", { try login($0, Frame.query("SET work_mem = '1MB'"), answers: 2) }),
            ("many queries", { try login($0, (0..<500).flatMap { _ in Frame.query("SELECT 1") }) }),
            ("Terminate", { try login($0, Frame.query("SELECT 1") + Frame.terminate) }),
        ]
    }()

    @Test(arguments: ["RST", "FIN"])
    func `a socket that is killed at any step leaves whole pools`(how: String) throws {
        for (step, bring) in Self.steps {
            let client = try bring(stage)
            how == "RST" ? client.reset() : client.close()
            do { try stage.whole.serveFreshClient() } catch { Issue.record("after \(how) at \(step): \(error)") }
        }
        try stage.whole.check()
    }

    @Test func `nor does one at any step of a proof`() throws {
        let guarded = try Self.guarded.get()
        let first = Frame.message(
            "p", Frame.string("SCRAM-SHA-256") + Frame.bigEndian(UInt32(13)) + Array("n,,n=,r=nonce".utf8))
        for bytes in [[], Array(first.prefix(3)), Array(first.prefix(25)), first, first + [0x70, 0, 0]] {
            for kill in [WireClient.reset, WireClient.close] {
                let client = try WireClient(port: guarded.godwit.port)
                client.send(guarded.startup)
                _ = try client.read()
                client.send(bytes)
                if bytes.count >= first.count { _ = try client.read() }
                kill(client)()
            }
        }
        #expect(try guarded.godwit.psql("SELECT 1", database: guarded.database, password: "secret") == "1")
    }

    /// GODWIT_HOSTILE_SECONDS: how long; otherwise a few hundred.
    @Test func `clients that vanish at random leave whole pools`() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("clients that vanish: seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let seconds = ProcessInfo.processInfo.environment["GODWIT_HOSTILE_SECONDS"].flatMap { Double($0) }
        let end = Date(timeIntervalSinceNow: seconds ?? 0)
        var living: [WireClient] = []
        var count = 0
        while seconds == nil ? count < 300 : Date() < end {
            let index = Int.random(in: 0..<Self.steps.count, using: &generator)
            // More would fill the pools with those who sleep and let nobody log in.
            if living.count >= 4 {
                let victim = living.remove(at: Int.random(in: 0..<living.count, using: &generator))
                Bool.random(using: &generator) ? victim.reset() : victim.close()
            }
            let what = "seed \(seed), client \(count), \(Self.steps[index].0)"
            do {
                living.append(try Self.steps[index].1(stage))
            } catch {
                Issue.record("\(what): \(error)")
            }
            try #require(!stage.godwit.process.hasEnded, "\(what)")
            count += 1
        }
        let onNew = try stage.godwit.console("SHOW ROUTES").filter { $0["side"] == "new" }
            .reduce(0) { $0 + (Int($1["units"] ?? "") ?? 0) }
        #expect(onNew > 0, "seed \(seed)")
        for client in living { client.reset() }
        do { try stage.whole.check() } catch { Issue.record("seed \(seed), after \(count) clients: \(error)") }
    }
}
