import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

/// Clients that end their side of the connection (FIN) while something is still to come: as before PostgreSQL itself,
/// what was sent before is answered. And clients that are gone look the same at first.
@Suite(.serialized) struct HalfClosedTests {
    typealias Frame = FrameBuilder

    /// One for all of them: each finds it in the state the others left it in.
    static let stage = Result {
        let servers = try Servers.shared.get()
        let database = try servers.makeDatabase("CREATE TABLE t (id int, v text)")
        let godwit = try servers.godwit(database) {
            $0.database.readsPercent = "100"
            $0.database.pool = ["size": "1"]
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        return Wholeness(godwit: godwit, servers: servers, database: database)
    }

    /// Each client is another user: whoever has written reads on OLD for good where nothing is mirrored.
    private static let users = Atomic<Int>(0)
    private static var nextUser: String { "half_closed_\(users.add(1, ordering: .relaxed).newValue)" }

    let whole: Wholeness
    var servers: Servers { whole.servers }
    var database: String { whole.database }
    var godwit: GodwitProcess { whole.godwit }

    init() throws { whole = try Self.stage.get() }

    func connect() throws -> WireClient {
        try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", Self.nextUser)])
    }

    static let batch = Frame.parse("SELECT $1") + Frame.bind(parameters: ["a"]) + Frame.execute()

    /// What is sent right before the end, and the types of what must come.
    static let pipelines: [(String, [UInt8], String)] = [
        ("nothing", [], ""),
        ("a query", Frame.query("SELECT 1"), "TDCZ"),
        ("queries on both sides", Frame.query("SELECT 1") + Frame.query("INSERT INTO t VALUES (1)")
            + Frame.query("SELECT 2"), "TDCZCZTDCZ"),
        ("a batch", batch + Frame.sync, "12DCZ"),
        ("batches", batch + Frame.sync + batch + Frame.sync, "12DCZ12DCZ"),
        ("a batch that ends with Flush", batch + Frame.flush, "12DC"),
        ("what was not asked for by Sync or Flush", Frame.query("BEGIN; SELECT txid_current()") + batch, "CTDCZ12DC"),
        ("an error and what is skipped", Frame.parse("x") + batch + Frame.flush, "E"),
        ("a part of a message", Frame.query("SELECT 1") + [0x51, 0, 0, 0, 99, 65], "TDCZ"),
        ("a part of a message in a transaction",
            Frame.query("BEGIN; SELECT txid_current()") + [0x51, 0, 0, 0, 99, 65], "CTDCZ"),
        ("a transaction", Frame.query("BEGIN") + Frame.query("INSERT INTO t VALUES (1)") + Frame.query("COMMIT"),
            "CZCZCZ"),
        ("COPY in one go", Frame.query("COPY t FROM STDIN") + Frame.message("d", Array("7\tx\n".utf8))
            + Frame.message("c"), "GCZ"),
        ("COPY without its end", Frame.query("COPY t FROM STDIN") + Frame.message("d", Array("7\tx\n".utf8)), "G"),
        ("COPY to us", Frame.query("COPY (SELECT 1 UNION SELECT 2) TO STDOUT"), "HddcCZ"),
        ("a slow query", Frame.query("SELECT pg_sleep(0.2)"), "TDCZ"),
        ("a function call", Frame.message("F", [0, 0, 0x05, 0xd5, 0, 0, 0, 0, 0, 0]), "EZ"),
        ("Terminate", Frame.query("SELECT 1") + Frame.terminate, ""),
    ]

    @Test(arguments: pipelines)
    func `what was sent is answered, then the connection ends and the server is clean`(
        what: String, bytes: [UInt8], types: String
    ) throws {
        let client = try connect()
        client.send(bytes)
        client.endSending()
        // S: whether it still listens is found out by telling it a setting that it knows.
        let answers = try client.readToEnd().filter { $0.type != "S" }
        // Terminate may come before the answer is there.
        if what != "Terminate" { #expect(String(answers.map(\.type)) == types, "\(what): \(answers)") }
        client.close()
        try whole.check()
    }

    @Test func `with its login`() throws {
        let client = try WireClient(port: godwit.port)
        client.send(Frame.startup([("user", "app"), ("database", database)]) + Frame.query("SELECT 'first'"))
        client.endSending()
        #expect(try client.readToEnd().first { $0.type == "D" }?.columns == ["first"])
    }

    @Test func `a megabyte of queries and many megabytes of answers`() throws {
        let client = try connect()
        let padding = String(repeating: "y", count: 500)
        client.sendMeanwhile((0..<2000).flatMap { Frame.query("SELECT \($0), repeat('x', 5000), '\(padding)'") })
        var next = 0
        while next < 1000 {
            if let row = try #require(try client.read()).columns.first { #expect(row == "\(next)"); next += 1 }
        }
        client.endSending()
        while let message = try client.read() {
            if let row = message.columns.first { #expect(row == "\(next)"); next += 1 }
        }
        #expect(next == 2000)
        try whole.check()
    }

    @Test func `an open transaction is rolled back at once`() throws {
        let client = try connect()
        _ = try client.query("BEGIN; INSERT INTO t VALUES (77, 'lost')")
        client.endSending()
        #expect(try client.readToEnd().isEmpty)
        #expect(try connect().value("SELECT count(*) FROM t WHERE id = 77 AND txid_current() > 0") == "0")
        try whole.check()
    }

    @Test func `who waits for a server is answered in its turn`() throws {
        let holder = try connect()
        _ = try holder.query("BEGIN; SELECT txid_current()")
        let waiter = try connect()
        waiter.send(Frame.query("SELECT 'waited' FROM txid_current()"))
        waiter.endSending()
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        _ = try holder.query("COMMIT")
        #expect(try waiter.readToEnd().first { $0.type == "D" }?.columns == ["waited"])
    }

    @Test func `who has gone does not wait for a server`() throws {
        let holder = try connect()
        _ = try holder.query("BEGIN; SELECT txid_current()")
        let waiter = try connect()
        waiter.send(Frame.query("SELECT 'waited' FROM txid_current()"))
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        waiter.close()
        try waitUntil { try godwit.console("SHOW POOLS").allSatisfy { $0["cl_waiting"] == "0" } }
        holder.close()
        try whole.check()
    }

    /// Until PostgreSQL runs the query of this database that sleeps for an hour.
    func waitForSleeper(_ isThere: Bool, on server: PostgresCluster) throws {
        try waitUntil {
            let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = '\(database)' AND wait_event = 'PgSleep'"
            return try server.psql(count) == (isThere ? "1" : "0")
        }
    }

    @Test(arguments: ["FIN", "RST", "signal 9"], ["SELECT pg_sleep(3600)", "SELECT pg_sleep(3600) FROM txid_current()"])
    func `the query of a client that is gone is ended at once`(how: String, sql: String) throws {
        let server = sql.contains("txid") ? servers.old : servers.new
        if how == "signal 9" {
            let psql = try ChildProcess(
                ["psql", "-X", "-d", godwit.conninfo(database: database), "-c", sql],
                environment: ["PGOPTIONS": "-c godwit.user=\(Self.nextUser)"])
            try waitForSleeper(true, on: server)
            psql.send(SIGKILL)
        } else {
            let client = try connect()
            client.send(Frame.query(sql))
            try waitForSleeper(true, on: server)
            how == "FIN" ? client.close() : client.reset()
        }
        try waitForSleeper(false, on: server)
        try whole.check()
    }

    @Test func `who goes altogether later leaves a clean server when the answer finds nobody`() throws {
        let client = try connect()
        client.send(Frame.query("BEGIN; INSERT INTO t VALUES (78); SELECT pg_sleep(3600)"))
        try waitForSleeper(true, on: servers.old)
        client.endSending()
        // It is asked whether it still listens, and does.
        #expect(try client.read()?.type == "S")
        client.close()
        try servers.old.psql("""
            SELECT pg_cancel_backend(pid) FROM pg_stat_activity
            WHERE datname = '\(database)' AND wait_event = 'PgSleep'
            """)
        try whole.check()
        #expect(try connect().value("SELECT count(*) FROM t WHERE id = 78 AND txid_current() > 0") == "0")
    }

    @Test func `one that waits costs no time of the processor`() throws {
        let client = try connect()
        client.send(Frame.query("SELECT pg_sleep(1)"))
        client.endSending()
        let before = try godwit.processorTicks()
        #expect(try client.readToEnd().contains { $0.type == "D" })
        // A loop that turned on the end of the stream would have used the second.
        #expect(try godwit.processorTicks() - before < 50)
    }

    @Test func `the console answers`() throws {
        let client = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        client.send(Frame.query("SHOW POOLS") + Frame.query("SHOW VERSION"))
        client.endSending()
        #expect(try client.readToEnd().last { $0.type == "D" }?.columns.first??.hasPrefix("Godwit") == true)
    }

    @Test func `within TLS too, with goodbye and without`() throws {
        let authority = try CertificateAuthority()
        let server = try authority.issue("localhost", names: "DNS:localhost")
        let database = try servers.makeDatabase()
        let godwit = try servers.godwit(database) {
            $0.tls = ["mode": "allow", "certificate": server.certificate, "key": server.key]
        }
        let text = try runDriver("tls_half_closed", ["\(godwit.port)", database])
        #expect(text.split(separator: "\n") == ["goodbye TDCZTDCZ end", "cut TDCZTDCZ end", "in transaction end"])
        try Wholeness(godwit: godwit, servers: servers, database: database).check()
    }
}
