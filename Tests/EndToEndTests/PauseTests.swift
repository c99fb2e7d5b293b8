import TestSupport
import Testing

/// PAUSE, RESUME and what else holds traffic, over two threads.
@Suite(.serialized) struct PauseTests {
    let servers: Servers
    let database: String
    let godwit: GodwitProcess
    let console: WireClient

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase("CREATE TABLE w (id serial, v int)")
        godwit = try servers.godwit(database) { $0.threads = 2 }
        console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
    }

    func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }

    /// A command's tag, or its error's SQLSTATE.
    @discardableResult
    func order(_ command: String, on console: WireClient? = nil) throws -> String {
        Self.outcome(try (console ?? self.console).query(command))
    }

    static func outcome(_ messages: [WireClient.Message]) -> String {
        messages.compactMap { $0.sqlState ?? $0.commandTag }.first ?? "nothing"
    }

    func row(_ command: String, _ console: WireClient? = nil) throws -> [String: String] {
        try godwit.console(command).first { [$0["database"], $0["name"]].contains(database) } ?? [:]
    }

    /// Until so many clients wait for a server, or an operator.
    func waiting(_ count: Int) throws {
        try waitUntil {
            try godwit.console("SHOW POOLS").filter { $0["database"] == database }
                .reduce(0) { $0 + (Int($1["cl_waiting"] ?? "") ?? 0) } == count
        }
    }

    /// Connections of Godwit's clients that the server itself sees.
    func backends(_ server: PostgresCluster? = nil) throws -> Int {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = '\(database)'"
        return Int(try (server ?? servers.old).psql(sql)) ?? -1
    }

    static let write = "INSERT INTO w (v) VALUES (1)"

    @Test func `PAUSE is answered when the last transaction has ended, and holds new units until RESUME`() throws {
        let busy = try (0..<2).map { _ in try connect() }
        for client in busy { _ = try client.query("BEGIN; \(Self.write)") }
        let idle = try (0..<4).map { _ in try connect() }
        console.send(FrameBuilder.query("PAUSE \(database)"))
        try waitUntil { try row("SHOW DATABASES")["paused"] == "1" }
        for client in idle { client.send(FrameBuilder.query("SELECT side FROM side_marker")) }
        try waiting(4)
        // What has begun goes on: also the one on the other thread.
        for client in busy { #expect(try client.query(Self.write).last?.transactionStatus == "T") }
        #expect(try busy[0].query("COMMIT").first?.commandTag == "COMMIT")
        #expect(try backends() > 0)
        #expect(try busy[1].query("COMMIT").first?.commandTag == "COMMIT")
        #expect(Self.outcome(try console.readToReady()) == "PAUSE")
        try waitUntil { try backends() == 0 }
        #expect(try backends(servers.new) == 0)
        busy[0].send(FrameBuilder.query("SELECT 1"))
        try waiting(5)
        #expect(try order("RESUME \(database)") == "RESUME")
        for client in idle { #expect(try client.readToReady().contains { $0.columns == ["old"] }) }
        #expect(try busy[0].readToReady().contains { $0.columns == ["1"] })
        #expect(try servers.old.psql("SELECT count(*) FROM w", database: database) == "4")
    }

    @Test func `PAUSE that is not reached in time says who is in its way, and everything goes on`() throws {
        let busy = try WireClient(
            port: godwit.port, database: database, parameters: [("application_name", "slow job")])
        _ = try busy.query("BEGIN; \(Self.write)")
        let pinned = try connect()
        _ = try pinned.query("CREATE TEMP TABLE mine (id int)")
        let error = try #require(try console.query("PAUSE \(database) 0.1").first)
        #expect(error.sqlState == "57014")
        let detail = error.fields["D"] ?? ""
        #expect(detail.contains("slow job") && detail.contains("idle in a transaction"), "\(detail)")
        #expect(detail.contains("kept by its client (temporary"), "\(detail)")
        #expect(try connect().value("SELECT side FROM side_marker") == "old")
        #expect(try busy.query("COMMIT").first?.commandTag == "COMMIT")
        // With KEEP it stays held.
        #expect(try order("PAUSE \(database) 0 KEEP") == "57014")
        #expect(try row("SHOW DATABASES")["hold"] == "all")
        #expect(try order("RESUME") == "RESUME")
        #expect(try row("SHOW DATABASES")["hold"] == "all")
        #expect(try order("RESUME \(database)") == "RESUME")
        #expect(try row("SHOW DATABASES")["hold"] == "")
    }

    @Test func `RESUME from another console ends a PAUSE that waits`() throws {
        let busy = try connect()
        _ = try busy.query("BEGIN; \(Self.write)")
        console.send(FrameBuilder.query("PAUSE"))
        try waitUntil { try row("SHOW DATABASES")["paused"] == "1" }
        #expect(try godwit.console("SHOW STATE").contains { $0["key"] == "paused" && $0["value"] == "yes" })
        let other = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        #expect(try order("RESUME \(database)", on: other) == "55000")
        #expect(try order("RESUME", on: other) == "RESUME")
        #expect(Self.outcome(try console.readToReady()) == "57014")
        #expect(try connect().value("SELECT 1") == "1")
    }

    @Test func `a console that goes away takes back a PAUSE that it waits for, and none that was reached`() throws {
        let busy = try connect()
        _ = try busy.query("BEGIN; \(Self.write)")
        for isCanceled in [false, true] {
            let other = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
            other.send(FrameBuilder.query("PAUSE \(database)"))
            try waitUntil { try row("SHOW DATABASES")["paused"] == "1" }
            if isCanceled {
                let cancel = try WireClient(port: godwit.port)
                cancel.send([0, 0, 0, 16] + FrameBuilder.bigEndian(UInt32(80_877_102)) + other.cancelKey)
                _ = try cancel.readToEnd()
                #expect(Self.outcome(try other.readToReady()) == "57014")
                #expect(try other.query("SHOW VERSION").contains { $0.type == "D" })
            } else {
                other.close()
            }
            try waitUntil { try row("SHOW DATABASES")["paused"] == "0" }
        }
        _ = try busy.query("COMMIT")
        let other = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        #expect(try order("PAUSE \(database)", on: other) == "PAUSE")
        other.close()
        #expect(try row("SHOW DATABASES")["paused"] == "1")
        #expect(try order("RESUME \(database)") == "RESUME")
    }

    @Test func `a client that comes while paused is let in, and one whose greeting is not known waits`() throws {
        #expect(try order("PAUSE") == "PAUSE")
        let early = try WireClient(port: godwit.port)
        early.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
        try waiting(1)
        #expect(try order("RESUME") == "RESUME")
        _ = try early.readToReady()
        // Each thread has met the database now.
        for _ in 0..<2 { #expect(try connect().value("SELECT 1") == "1") }
        #expect(try order("PAUSE") == "PAUSE")
        let late = try connect()
        late.send(FrameBuilder.query("SELECT 2"))
        try waiting(1)
        #expect(try order("RESUME") == "RESUME")
        #expect(try late.readToReady().contains { $0.columns == ["2"] })
    }

    @Test func `PAUSE, RELOAD, RESUME, DISABLE and ENABLE in many orders`() throws {
        let client = try connect()
        for _ in 0..<20 {
            #expect(try order("PAUSE \(database)") == "PAUSE")
            client.send(FrameBuilder.query("SELECT 3"))
            #expect(try order("RELOAD") == "RELOAD")
            #expect(try order("PAUSE") == "PAUSE")
            #expect(try order("DISABLE \(database)") == "DISABLE")
            try waiting(1)
            #expect(try order("RESUME") == "RESUME")
            #expect(try order("RELOAD") == "RELOAD")
            #expect(try row("SHOW DATABASES")["paused"] == "1")
            #expect(try order("RESUME \(database)") == "RESUME")
            #expect(try client.readToReady().contains { $0.columns == ["3"] })
            let refused = try WireClient(port: godwit.port)
            refused.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
            #expect(try refused.readToEnd().last?.sqlState == "57P03")
            #expect(try order("ENABLE \(database)") == "ENABLE")
        }
        #expect(try connect().value("SELECT 4") == "4")
    }

    @Test func `who is held waits for query_wait_timeout, may cancel, and may go`() throws {
        let clients = try (0..<2).map { _ in try connect() }
        // Behind the logins, which wait for a server that is still to be opened.
        try order("SET query_wait_timeout = 0.1")
        #expect(try order("PAUSE") == "PAUSE")
        #expect(Self.outcome(try clients[0].query("SELECT 1")) == "57P03")
        try order("SET query_wait_timeout = 0")
        clients[0].send(FrameBuilder.query("SELECT 1"))
        try waiting(1)
        let cancel = try WireClient(port: godwit.port)
        cancel.send([0, 0, 0, 16] + FrameBuilder.bigEndian(UInt32(80_877_102)) + clients[0].cancelKey)
        #expect(Self.outcome(try clients[0].readToReady()) == "57014")
        clients[1].send(FrameBuilder.query("SELECT 1"))
        try waiting(1)
        clients[1].close()
        try waiting(0)
        #expect(try order("RESUME") == "RESUME")
        #expect(try clients[0].value("SELECT 5") == "5")
    }

    @Test func `the connection of one that is closed while others are held ends at once`() throws {
        // Threads take connections in turn: two are of one thread.
        let clients = try (0..<4).map { number in
            try WireClient(
                port: godwit.port, database: database, parameters: [("application_name", "held \(number)")])
        }
        #expect(try clients[0].value("SELECT 1") == "1")
        #expect(try order("PAUSE \(database)") == "PAUSE")
        for client in clients { client.send(FrameBuilder.query("SELECT 2")) }
        try waiting(4)
        let row = try godwit.console("SHOW CLIENTS").first { $0["application_name"] == "held 0" }
        let id = try #require(row?["id"])
        #expect(try order("KILL_CLIENT \(id)") == "KILL_CLIENT")
        #expect(try clients[0].readToEnd().last?.sqlState == "57P01")
        try waiting(3)
        #expect(try order("RESUME \(database)") == "RESUME")
        for client in clients[1...] { #expect(try client.readToReady().contains { $0.columns == ["2"] }) }
    }

    @Test func `a load of transactions meets no error while it is paused and resumed`() throws {
        let conninfo = godwit.conninfo(database: database)
        try ChildProcess.run(["pgbench", "-iq", "-s", "1", conninfo])
        let bench = try ChildProcess(["pgbench", "-M", "extended", "-c", "8", "-j", "2", "-t", "100", conninfo])
        var pauses = 0
        while !bench.hasEnded {
            #expect(try order(pauses % 2 == 0 ? "PAUSE \(database)" : "PAUSE \(database) WRITES") == "PAUSE")
            pauses += 1
            let done = try history()
            #expect(try order("RESUME \(database)") == "RESUME")
            try waitUntil { try bench.hasEnded || history() > done + 100 }
        }
        #expect(try bench.waitForSuccess().contains("number of transactions actually processed: 800/800"))
        #expect(pauses > 1)
        let sums = try servers.old.psql("""
            SELECT (SELECT count(*) FROM pgbench_history),
                (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)
            """, database: database)
        #expect(sums == "800|t")
    }

    private func history() throws -> Int {
        Int(try servers.old.psql("SELECT count(*) FROM pgbench_history", database: database)) ?? 0
    }

    // MARK: writes only

    private func count() throws -> String { try servers.old.psql("SELECT count(*) FROM w", database: database) }

    @Test func `PAUSE WRITES lets reads go on, and no write through`() throws {
        let pinned = try connect()
        _ = try pinned.query("CREATE TEMP TABLE mine (id int)")
        let longWinded = try connect()
        _ = try longWinded.query("CREATE TEMP TABLE mine (id int)")
        let writers = try (0..<4).map { _ in try connect() }
        let reader = try connect()
        let busy = try connect()
        _ = try busy.query("BEGIN; \(Self.write)")
        console.send(FrameBuilder.query("PAUSE \(database) WRITES"))
        try waitUntil { try row("SHOW DATABASES")["hold"] == "writes" }
        _ = try busy.query("COMMIT")
        #expect(Self.outcome(try console.readToReady()) == "PAUSE")
        #expect(try count() == "1")
        writers[0].send(FrameBuilder.query(Self.write))
        writers[1].send(FrameBuilder.query("BEGIN; \(Self.write); COMMIT"))
        writers[2].send(FrameBuilder.parse(Self.write) + FrameBuilder.bind() + FrameBuilder.execute() + FrameBuilder.sync)
        // A read, and behind it, before its answer is there, a write.
        writers[3].send(FrameBuilder.query("SELECT pg_sleep(0.05)") + FrameBuilder.query(Self.write))
        pinned.send(FrameBuilder.query(Self.write))
        // Longer than what is gathered: it would go on in pieces.
        longWinded.sendMeanwhile(FrameBuilder.query(Self.write + String(repeating: " ", count: 2 << 20)))
        for _ in 0..<20 { #expect(try reader.value("SELECT side FROM side_marker") == "old") }
        #expect(try writers[3].readToReady().contains { $0.commandTag == "SELECT 1" })
        try waiting(4)
        #expect(try count() == "1")
        #expect(try row("SHOW DATABASES")["paused"] == "0")
        #expect(try order("RESUME \(database)") == "RESUME")
        for client in writers + [pinned, longWinded] {
            #expect(try client.readToReady().allSatisfy { $0.sqlState == nil })
        }
        #expect(try count() == "7")
    }

    @Test func `what a session has sent before it ended its side is done when the writes go on`() throws {
        let pinned = try connect()
        _ = try pinned.query("CREATE TEMP TABLE mine (id int)")
        #expect(try order("PAUSE \(database) WRITES") == "PAUSE")
        pinned.send(FrameBuilder.query(Self.write))
        pinned.endSending()
        // It is asked whether it still listens, and waits.
        #expect(try pinned.read()?.type == "S")
        #expect(try order("RESUME \(database)") == "RESUME")
        #expect(Self.outcome(try pinned.readToEnd()) == "INSERT 0 1")
        #expect(try count() == "1")
    }

    @Test func `a pause with a lifetime ends by itself`() throws {
        let client = try connect()
        #expect(try order("PAUSE \(database) 5 WRITES FOR 0.2") == "PAUSE")
        #expect(Self.outcome(try client.query(Self.write)) == "INSERT 0 1")
        #expect(try row("SHOW DATABASES")["hold"] == "")
    }
}
