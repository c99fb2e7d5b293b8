import Foundation
import Primitives
import TestSupport
import Testing

/// Reads go to NEW, and nothing that a client may send makes one of them a write there.
@Suite(.serialized) struct ReadOnlyTests {
    typealias Frame = FrameBuilder
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    private func readingOnNew(_ poolSize: Int) throws -> (GodwitProcess, String) {
        let database = try servers.makeDatabase("CREATE TABLE t (n int)")
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.pool = ["size": "\(poolSize)"]
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        return (godwit, database)
    }

    /// Where each read has a snapshot of its own, a later one would find a table that is just copied anew.
    @Test func `a READ ONLY transaction leaves a NEW that may not be read any more`() throws {
        let database = try servers.makeDatabase(
            "CREATE TABLE t (id int PRIMARY KEY, v text)", old: "INSERT INTO t VALUES (1, 'before')")
        let godwit = try servers.mirroring(database) {
            $0.database.readsPercent = "100"
            $0.database.reads = ["transactions": "authority"]
            $0.database.mirror["lag_max"] = "15"
            $0.database.breaker = ["lag": "0", "read_timeout_millis": "0"]
        }
        func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database, user: "app") }
        _ = try godwit.console("MIRROR PAUSE \(database)")
        try waitUntil {
            try godwit.console("SHOW MIRROR").first { $0["database"] == database }?["state"] == "paused"
        }
        try servers.old.psql("UPDATE t SET v = 'after'", database: database)
        let client = try connect()
        _ = try client.query("BEGIN READ ONLY")
        #expect(try client.value("SELECT v FROM t") == "before")
        // What has set something cannot go elsewhere, and what has one snapshot need not.
        let (bound, whole) = (try connect(), try connect())
        for sql in ["BEGIN READ ONLY", "SET LOCAL statement_timeout = '1min'"] { _ = try bound.query(sql) }
        #expect(try bound.value("SELECT v FROM t") == "before")
        _ = try whole.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        #expect(try whole.value("SELECT v FROM t") == "before")
        // A cursor has its snapshot from when it is declared; what has read nothing begins on OLD.
        let (drawing, late) = (try connect(), try connect())
        for sql in ["BEGIN READ ONLY", "SET LOCAL statement_timeout = '1min'"] { _ = try drawing.query(sql) }
        for name in ["a", "b"] {
            #expect(try drawing.query("DECLARE \(name) CURSOR FOR SELECT v FROM t").allSatisfy { $0.type != "E" })
        }
        for sql in ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SET LOCAL statement_timeout = '1min'"] {
            _ = try late.query(sql)
        }
        // Another user: what is read on OLD counts for who reads it.
        try waitUntil { try connect().value("/* user_id=99 */ SELECT v FROM t") == "after" }
        #expect(try client.value("SELECT v FROM t") == "after")
        #expect(try client.query("COMMIT").last?.transactionStatus == "I")
        #expect(try bound.query("SHOW statement_timeout").allSatisfy { $0.type != "E" })
        #expect(try bound.query("SELECT v FROM t").compactMap(\.sqlState) == ["0A000"])
        #expect(try bound.query("ROLLBACK").last?.transactionStatus == "I")
        #expect(try whole.value("SELECT v FROM t") == "before")
        #expect(try late.value("SELECT v FROM t") == "after")
        #expect(try drawing.value("FETCH a") == "before")
        #expect(try drawing.query("DECLARE c CURSOR FOR SELECT v FROM t").compactMap(\.sqlState) == ["0A000"])
    }

    private func count(_ server: PostgresCluster, _ database: String) throws -> String {
        try server.psql("SELECT count(*) FROM t", database: database)
    }

    /// Transactions that clients have there.
    private func transactions(_ server: PostgresCluster, _ database: String) throws -> String {
        try server.psql("""
            SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'app'
               AND state = 'idle in transaction'
            """, database: database)
    }

    /// Statements that leave a transaction without a snapshot: PostgreSQL may still make it READ WRITE then.
    @Test(arguments: [
        ["SAVEPOINT a", "RELEASE a"], ["SAVEPOINT a", "nonsense", "ROLLBACK TO a", "RELEASE a"],
        ["SET CONSTRAINTS ALL DEFERRED"], ["LOCK TABLE t IN ACCESS SHARE MODE"], ["NOTIFY x"], ["UNLISTEN *"], [";"],
        ["SET LOCAL work_mem = '3MB'"], ["SHOW work_mem"], ["SELECT 1", "COMMIT AND CHAIN"],
        ["SAVEPOINT a", "COMMIT AND CHAIN"],
    ])
    func `a READ ONLY transaction that becomes READ WRITE writes on OLD or not at all`(between: [String]) throws {
        let (godwit, database) = try readingOnNew(1)
        let lifting = ["SET TRANSACTION READ WRITE", "INSERT INTO t VALUES (1)"]
        func batch(_ texts: [String]) -> [UInt8] {
            texts.flatMap { Frame.parse($0) + Frame.bind() + Frame.execute() }
        }
        let forms: [(WireClient) throws -> Void] = [
            { client in for sql in between + lifting { _ = try client.query(sql) } },
            { client in
                for sql in between { _ = try client.query(sql) }
                _ = try client.query(lifting.joined(separator: ";"))
            },
            { client in
                for sql in between { _ = try client.query(sql) }
                client.send(batch(lifting) + Frame.sync)
                _ = try client.readToReady()
            },
            { client in
                for sql in between { _ = try client.query(sql) }
                client.send(batch([lifting[0]]) + Frame.flush)
                client.send(batch([lifting[1]]) + Frame.sync)
                _ = try? client.readToReady()
            },
            { client in
                client.send(batch(between + lifting) + Frame.sync)
                _ = try? client.readToReady()
            },
            { client in
                client.send(batch(between) + Frame.flush + batch(lifting) + Frame.sync)
                _ = try? client.readToReady()
            },
        ]
        let begins = [Self.begunOnServer, Frame.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")]
        for (number, begin) in begins.enumerated() {
            for (index, form) in forms.enumerated() {
                // Of another user each: whoever has written reads on OLD for good where nothing is mirrored.
                let client = try WireClient(
                    port: godwit.port, database: database, parameters: [("godwit.user", "\(number) \(index)")])
                client.send(begin)
                #expect(try client.readToReady().last?.transactionStatus == "T")
                #expect(try transactions(servers.new, database) == "1", "it is not on NEW")
                try form(client)
                _ = try? client.query("COMMIT")
                client.close()
                #expect(try count(servers.new, database) == "0")
            }
        }
    }

    @Test(arguments: [
        Frame.query("BEGIN READ ONLY"), Frame.parse("BEGIN READ ONLY") + Frame.bind() + Frame.execute() + Frame.sync,
        Frame.parse("BEGIN READ ONLY") + Frame.describeStatement() + Frame.bind() + Frame.execute() + Frame.sync,
    ])
    func `what a READ ONLY transaction has set goes on to hold in it`(begin: [UInt8]) throws {
        let (godwit, database) = try readingOnNew(1)
        let client = try WireClient(port: godwit.port, database: database)
        for between in ["SELECT 1", "SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "SHOW work_mem", nil] {
            client.send(begin)
            #expect(try client.readToReady().last?.transactionStatus == "T")
            _ = try client.query("SET DateStyle = 'SQL, DMY'")
            if let between {
                _ = try client.query(between)
                #expect(try client.value("SHOW DateStyle") == "SQL, DMY")
            }
            // Where it fails the client is told of the setting's end at once.
            client.send(Frame.bind(statement: "missing") + Frame.sync + Frame.closeStatement("other") + Frame.sync)
            #expect(try client.readToReady().map(\.type) == ["E", "S", "Z"])
            #expect(try client.readToReady().map(\.type) == ["3", "Z"])
            _ = try client.query("ROLLBACK")
        }
    }

    /// Where BEGIN is on a server already, unlike one that we have answered.
    private static let begunOnServer =
        Frame.parse("BEGIN READ ONLY") + Frame.describeStatement() + Frame.bind() + Frame.execute() + Frame.sync

    @Test func `a Bind to a statement that is not there fails on NEW as on OLD`() throws {
        let (godwit, database) = try readingOnNew(1)
        for (name, reads) in [("", false), ("", true), ("missing", false), ("missing", true)] {
            let client = try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "7")])
            client.send(Self.begunOnServer)
            _ = try client.readToReady()
            _ = try client.query("SET DateStyle = 'SQL, DMY'")
            if reads { _ = try client.query("SELECT 1") } else { client.send(Frame.closeStatement("") + Frame.sync) }
            if !reads { _ = try client.readToReady() }
            client.send(Frame.bind(statement: name) + Frame.execute() + Frame.sync)
            let answers = try client.readToReady()
            #expect(answers.map(\.type) == ["E", "S", "Z"])
            #expect(answers.first?.fields["C"] == "26000")
            #expect(try client.value("ROLLBACK") == nil)
            #expect(try client.value("SHOW DateStyle") == "ISO, MDY")
            client.close()
        }
    }

    @Test func `what comes behind a Flush together with it goes on in a READ ONLY transaction`() throws {
        let (godwit, database) = try readingOnNew(1)
        for rest in [[], Frame.bind() + Frame.flush, Frame.bind() + Frame.execute() + Frame.flush] {
            let client = try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "7")])
            client.send(Self.begunOnServer + Frame.parse("SELECT n FROM t") + Frame.flush + rest + Frame.sync + Frame.sync)
            #expect(try client.readToReady().map(\.type) == ["1", "t", "n", "2", "C", "Z"])
            #expect(try client.readToReady().first?.type == "1")
            #expect(try client.readToReady().map(\.type) == ["Z"])
            client.close()
        }
    }

    @Test func `what NEW does not hold as OLD does is not read there in a READ ONLY transaction`() throws {
        let database = try servers.makeDatabase("CREATE TABLE t (n int); CREATE UNLOGGED TABLE own (n int)")
        _ = try servers.old.psql("INSERT INTO own VALUES (1)", database: database)
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "100" }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let read = "SELECT count(*) FROM t", own = "SELECT count(*) FROM own"
        // At READ COMMITTED nobody notices that it goes on elsewhere; with one snapshot it could be told.
        for (begin, mayMove) in [
            ("BEGIN READ ONLY", true), ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", false),
        ] {
            for isByParse in [false, true] {
                for between in [[], [read], [read, "SAVEPOINT a"], ["SELECT now() FROM t"]] {
                    let client = try WireClient(
                        port: godwit.port, database: database, parameters: [("godwit.user", "7")])
                    // With a description it is not answered in the server's place.
                    if isByParse {
                        client.send(
                            Frame.parse(begin) + Frame.describeStatement() + Frame.bind() + Frame.execute() + Frame.sync)
                        _ = try client.readToReady()
                    } else {
                        _ = try client.query(begin)
                    }
                    for sql in between { _ = try client.query(sql) }
                    let answers = try client.query(own)
                    if let error = answers.first(where: { $0.type == "E" }) {
                        let isFixed = isByParse || !mayMove
                        #expect(error.sqlState == "0A000" && !between.isEmpty && isFixed, "\(begin) \(between): \(error)")
                        #expect(!mayMove || between != [read], "\(begin) \(isByParse)")
                        #expect(answers.last?.transactionStatus == "E")
                    } else {
                        #expect(answers.first { $0.type == "D" }?.columns == ["1"], "\(begin) \(between)")
                        #expect(try client.query("INSERT INTO t VALUES (1)").first?.sqlState == "25006")
                    }
                    _ = try client.query("ROLLBACK")
                    client.close()
                }
            }
        }
    }

    /// PostgreSQL does not send the first answer before it has the rest.
    @Test func `what goes on with a batch is not held for its answers in a transaction that has failed on NEW`() throws {
        let (godwit, database) = try readingOnNew(1)
        for rest in [Frame.query("SELECT 1"), Frame.message("F", [0, 0, 0, 1, 0, 0, 0, 0, 0, 1])] {
            let client = try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "7")])
            _ = try client.query("BEGIN")
            #expect(try client.query("SELECT 1 / (count(*) - count(*)) FROM t").contains { $0.sqlState == "22012" })
            client.send(Frame.message("C", [0x50, 0]) + rest + Frame.sync)
            #expect(try client.readToReady().map(\.type) == ["3", "E", "Z"])
            #expect(try client.readToReady().map(\.type) == ["Z"])
            client.close()
        }
    }

    /// Such a BEGIN is answered before any server has it.
    @Test func `BEGIN is answered in its own words, and only where it is what runs`() throws {
        let (godwit, database) = try readingOnNew(1)
        let client = try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "7")])
        for (name, sql) in [("one", "BEGIN"), ("two", "START TRANSACTION")] {
            client.send(Frame.parse(sql, name: name) + Frame.bind(statement: "missing") + Frame.execute() + Frame.sync)
            #expect(try client.readToReady().map(\.type) == ["1", "E", "Z"])
            for reads in [[], Frame.parse("SELECT 1") + Frame.bind() + Frame.execute()] {
                client.send(Frame.bind(statement: name) + Frame.execute() + reads + Frame.sync)
                let complete = try client.readToReady().first { $0.type == "C" }
                #expect(complete.map { String(decoding: $0.body, as: UTF8.self) } == sql + "\0")
                _ = try client.query("ROLLBACK")
            }
        }
    }

    @Test func `what a READ ONLY transaction has set is not lost by what follows its end`() throws {
        let (godwit, database) = try readingOnNew(1)
        let client = try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "7")])
        for end in ["COMMIT; INSERT INTO t VALUES (1)", "COMMIT; CREATE TEMPORARY TABLE x (d date)"] {
            client.send(Self.begunOnServer)
            _ = try client.readToReady()
            _ = try client.query("SET DateStyle = 'SQL, DMY'")
            // The other server may report the setting again.
            #expect(try client.query(end).map(\.type).filter { $0 != "S" } == ["C", "C", "Z"])
            #expect(try client.value("SHOW DateStyle") == "SQL, DMY")
            _ = try client.query("RESET DateStyle")
        }
        #expect(try count(servers.new, database) == "0")
    }

    /// Made up from a seed: any statements, in any transaction, as texts, batches and pieces of batches.
    @Test func `no sequence of messages writes on NEW`() throws {
        let (godwit, database) = try readingOnNew(2)
        let seed = ProcessInfo.processInfo.environment["GODWIT_TEST_SEED"].flatMap { UInt64($0) } ?? .random(in: 1 ... .max)
        print("seed \(seed) (GODWIT_TEST_SEED)")
        var random = SeededGenerator(seed: seed)
        let texts = [
            "BEGIN READ ONLY", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN", "COMMIT",
            "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "ROLLBACK", "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a",
            "SET TRANSACTION READ WRITE", "SET TRANSACTION READ WRITE", "SET transaction_read_only = off",
            "SET LOCAL transaction_read_only = off", "RESET transaction_read_only", "RESET ALL", "SET work_mem = '3MB'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "SET default_transaction_read_only = off",
            "SELECT set_config('transaction_read_only', 'off', false)", "SHOW work_mem", "SELECT n FROM t", "SELECT 1",
            "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)", "UPDATE t SET n = n + 1", "nonsense", "SELECT 1/0",
            "DO 'BEGIN SET TRANSACTION READ WRITE; INSERT INTO t VALUES (1); END'", "LOCK TABLE t", "",
            "SET CONSTRAINTS ALL DEFERRED", "NOTIFY x", "START TRANSACTION READ ONLY", "ABORT", "DISCARD PLANS",
        ]
        for round in 0..<400 {
            // Of another user each: whoever has written reads on OLD for good where nothing is mirrored.
            guard let client = try? WireClient(
                port: godwit.port, database: database, parameters: [("godwit.user", "\(round)")])
            else { continue }
            if round % 2 == 0 {
                client.send(Self.begunOnServer)
                _ = try? client.readToReady()
            }
            var readies = 0
            for _ in 0..<Int.random(in: 0..<8, using: &random) + 2 {
                let chosen = (0..<Int.random(in: 0..<4, using: &random) + 1).map { _ in texts[Int.random(in: 0..<texts.count, using: &random)] }
                if Int.random(in: 0..<2, using: &random) == 0 {
                    client.send(Frame.query(chosen.joined(separator: ";")))
                } else {
                    for text in chosen {
                        client.send(Frame.parse(text) + Frame.bind() + Frame.execute())
                        if Int.random(in: 0..<3, using: &random) == 0 { client.send(Frame.flush) }
                    }
                    client.send(Frame.sync)
                }
                readies += 1
                // Now and then what comes next is in the pipeline.
                if Int.random(in: 0..<3, using: &random) > 0 {
                    for _ in 0..<readies where !client.hasEnded { _ = try? client.readToReady() }
                    readies = 0
                }
            }
            client.send(Frame.terminate)
            client.close()
            if round % 50 == 49 { #expect(try count(servers.new, database) == "0", "round \(round) of seed \(seed)") }
        }
        #expect(!godwit.process.hasEnded)
        let onNew = try godwit.console("SHOW ROUTES").filter { $0["side"] == "new" }
            .reduce(0) { $0 + (Int($1["units"] ?? "") ?? 0) }
        #expect(onNew > 100, "seed \(seed) was hardly on NEW")
    }
}
