import Primitives
import TestSupport
import Testing

/// One pool on several threads: its servers go to the threads whose clients need them.
@Suite struct SharedPoolTests {
    typealias Frame = FrameBuilder

    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeDatabase("""
            CREATE TABLE t (id int PRIMARY KEY, v int);
            INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i;
            CREATE TABLE drawn (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who int)
            """)
    }

    private func godwit(threads: Int, size: Int, _ pool: [String: String] = [:]) throws -> GodwitProcess {
        try servers.godwit(database) {
            $0.threads = threads
            $0.database.pool = pool.merging(["size": "\(size)"]) { a, _ in a }
        }
    }

    /// - Returns: as many clients of each thread.
    private func clients(_ godwit: GodwitProcess, ofEach count: Int, threads: Int) throws -> [[WireClient]] {
        var byThread = Array(repeating: [WireClient](), count: threads)
        // Threads take connections in turn, a console's too: so many that come together are for all of them.
        for round in 0..<count {
            let opened = try (0..<threads).map { number in
                try WireClient(
                    port: godwit.port, database: database,
                    parameters: [("application_name", "shared_\(round)_\(number)")])
            }
            let rows = try godwit.console("SHOW CLIENTS")
            for (number, client) in opened.enumerated() {
                let row = try #require(rows.last { $0["application_name"] == "shared_\(round)_\(number)" })
                // c1.27: of thread 1.
                let thread = try #require(row["ptr"]?.dropFirst().split(separator: ".").first.flatMap { Int($0) })
                byThread[thread].append(client)
            }
        }
        #expect(byThread.allSatisfy { $0.count == count })
        return byThread
    }

    private func backends() throws -> Set<String> {
        let text = try servers.old.psql("""
            SELECT pid FROM pg_stat_activity WHERE datname = '\(database)' AND usename = 'app'
            """)
        return Set(text.split(separator: "\n").map(String.init))
    }

    private let process = "SELECT pg_backend_pid() FROM t LIMIT 1"

    @Test func `a single server serves the clients of all threads`() throws {
        let godwit = try godwit(threads: 3, size: 1)
        let clients = try clients(godwit, ofEach: 2, threads: 3).flatMap { $0 }
        let one = try #require(try clients[0].value(process))
        // Often: one that asks while the server is about to come free on another thread was once not seen.
        for _ in 0..<50 { for client in clients { #expect(try client.value(process) == one) } }
        for client in clients { client.send(Frame.query(process)) }
        for client in clients { #expect(try client.readToReady().first { $0.type == "D" }?.columns == [one]) }
        #expect(try backends() == [one])
    }

    @Test func `the clients of one thread may have all servers, also those that another had`() throws {
        let godwit = try godwit(threads: 2, size: 4)
        let clients = try clients(godwit, ofEach: 4, threads: 2)
        var seen: Set<String> = []
        for (round, own) in [clients[0], clients[1], clients[0]].enumerated() {
            var processes: Set<String> = []
            for client in own {
                _ = try client.query("BEGIN")
                processes.insert(try #require(try client.value(process)))
            }
            #expect(processes.count == 4)
            if round > 0 { #expect(processes == seen, "they have moved, and are no new ones") }
            seen = processes
            for client in own { #expect(try client.query("COMMIT").first?.commandTag == "COMMIT") }
        }
        #expect(try backends() == seen)
    }

    @Test func `a server that becomes free goes to another thread's client that waits`() throws {
        let godwit = try godwit(threads: 2, size: 1)
        let clients = try clients(godwit, ofEach: 1, threads: 2)
        let (holder, waiter) = (clients[0][0], clients[1][0])
        _ = try holder.query("BEGIN")
        let one = try #require(try holder.value(process))
        waiter.send(Frame.query(process))
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        _ = try holder.query("COMMIT")
        #expect(try waiter.readToReady().first { $0.type == "D" }?.columns == [one])
        // One that is closed makes room for another thread's as well.
        _ = try holder.query("BEGIN")
        _ = try holder.value(process)
        waiter.send(Frame.query("SELECT 'mine' FROM t LIMIT 1"))
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        try servers.old.psql("SELECT pg_terminate_backend(\(one))")
        #expect(try waiter.readToReady().first { $0.type == "D" }?.columns == ["mine"])
    }

    @Test func `with pool_mode session a client keeps what another thread had opened`() throws {
        let godwit = try godwit(threads: 2, size: 2, ["pool_mode": "session"])
        let first = try clients(godwit, ofEach: 2, threads: 2)
        for client in first.flatMap({ $0 }) { client.close() }
        try waitUntil { try !godwit.console("SHOW CLIENTS").contains { $0["database"] == database } }
        let own = try clients(godwit, ofEach: 2, threads: 2)[1]
        let processes = try Set(own.map { try #require(try $0.value(process)) })
        #expect(processes.count == 2)
    }

    @Test func `a read that waits for another thread's only server does not count against NEW`() throws {
        let godwit = try servers.godwit(database) {
            $0.threads = 2
            $0.database.readsPercent = "100"
            $0.database.pool = ["size": "1"]
            // The time to open NEW's first server counts too, and takes a while on a busy machine.
            $0.database.breaker = ["failures": "1", "read_timeout_millis": "2000", "read_timeout_p99_factor": "1"]
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        let clients = try clients(godwit, ofEach: 1, threads: 2)
        let (holder, waiter) = (clients[0][0], clients[1][0])
        // It is a word of the grammar from 17 on.
        let version = "SELECT CASE quote_ident('json_table') WHEN 'json_table' THEN 15 ELSE 18 END FROM t LIMIT 1"
        _ = try holder.query("BEGIN READ ONLY")
        #expect(try holder.value(version) == "18")
        #expect(try waiter.value(version) == "15", "who has waited too long reads on OLD")
        let breaker = try godwit.console("SHOW BREAKERS").first { $0["side"] == "new" }
        #expect(breaker?["state"] == "closed" && breaker?["failures_in_row"] == "0", "\(String(describing: breaker))")
        _ = try holder.query("COMMIT")
        #expect(try waiter.value(version) == "18")
    }

    @Test func `an OLD that hangs with all servers on one thread refuses who waits on another`() throws {
        let old = try TCPRelay(to: servers.old.port)
        defer { old.close() }
        let godwit = try servers.godwit(database) {
            $0.threads = 2
            $0.database.old = "host=127.0.0.1 port=\(old.port) dbname=\(database)"
            $0.database.pool = ["size": "1"]
            $0.database.breaker = ["failures": "3", "patience": "0.5"]
        }
        let clients = try clients(godwit, ofEach: 1, threads: 2)
        let (holder, waiter) = (clients[0][0], clients[1][0])
        _ = try holder.query("BEGIN")
        #expect(try holder.value("SELECT v FROM t WHERE id = 1") == "0")
        old.become(.silent)
        holder.send(Frame.query("SELECT v FROM t WHERE id = 1"))
        waiter.send(Frame.query("SELECT v FROM t WHERE id = 2"))
        #expect(try waiter.readToError()?.sqlState == "57P03")
        old.become(.passing)
        #expect(try holder.readToReady().first { $0.type == "D" }?.columns == ["0"])
        _ = try holder.query("COMMIT")
        try waitUntil {
            try godwit.console("SHOW BREAKERS").allSatisfy { $0["state"] == "closed" }
        }
        #expect(try waiter.readToReady().last?.type == "Z")
        #expect(try waiter.value("SELECT v FROM t WHERE id = 2") == "0")
    }

    @Test func `a failure to connect is forgotten when another thread has connected`() throws {
        let old = try TCPRelay(to: servers.old.port)
        defer { old.close() }
        let port = try FreePort.find()
        let godwit = try servers.godwit(database) {
            $0.threads = 2
            $0.http = ["port": "\(port)"]
            $0.database.old = "host=127.0.0.1 port=\(old.port) dbname=\(database)"
            $0.database.pool = ["size": "2", "server_idle_timeout": "1"]
            $0.database.breaker = ["failures": "1000"]
        }
        let clients = try clients(godwit, ofEach: 2, threads: 2)
        for client in clients.flatMap({ $0 }) { _ = try client.value("SELECT v FROM t WHERE id = 1") }
        old.become(.refusing)
        try waitUntil { try backends().isEmpty }
        clients[1][0].send(Frame.query("SELECT v FROM t WHERE id = 1"))
        try godwit.log.waitForLine(containing: "cannot connect to old at")
        clients[1][0].close()
        try waitUntil { try godwit.console("SHOW POOLS").allSatisfy { $0["cl_waiting"] == "0" } }
        old.become(.passing)
        try waitUntil { try clients[0][0].query("SELECT v FROM t WHERE id = 1").first?.type == "T" }
        try waitUntil { try !godwit.console("SHOW SERVERS").contains { $0["database"] == database } }
        let ready = try HTTPExchange.get("/readyz", port: port)
        #expect(ready.status == 200, "\(ready.body)")
    }

    @Test func `an authority that is back is found although nobody waits for it any more`() throws {
        let old = try TCPRelay(to: servers.old.port)
        defer { old.close() }
        let port = try FreePort.find()
        let godwit = try servers.godwit(database) {
            $0.threads = 1
            $0.http = ["port": "\(port)"]
            $0.database.old = "host=127.0.0.1 port=\(old.port) dbname=\(database)"
            $0.database.pool = ["server_login_retry": "0.1"]
            $0.database.breaker = ["failures": "1000"]
        }
        let clients = try (0..<2).map { _ in try WireClient(port: godwit.port, database: database) }
        for client in clients { _ = try client.value("SELECT v FROM t WHERE id = 1") }
        func status() throws -> Int { try HTTPExchange.get("/readyz", port: port).status }
        old.become(.refusing)
        try waitUntil { try backends().isEmpty }
        clients[0].send(Frame.query("SELECT v FROM t WHERE id = 1"))
        try godwit.log.waitForLine(containing: "cannot connect to old at")
        clients[0].close()
        try waitUntil { try godwit.console("SHOW POOLS").allSatisfy { $0["cl_waiting"] == "0" } }
        try waitUntil { try status() == 503 }
        old.become(.passing)
        // The other one, which keeps the pool, asks for nothing.
        try waitUntil { try status() == 200 }
        withExtendedLifetime(clients) {}
    }

    @Test func `RECONNECT, a smaller size and PAUSE meet servers that move`() throws {
        let godwit = try godwit(threads: 3, size: 3)
        let script = try TestResources.file(
            "moving", "SELECT v FROM t WHERE id = 1 + random() * 8;\nSELECT pg_sleep(0.001);\n")
        let load = try ChildProcess([
            "pgbench", "-n", "-f", script, "-c", "9", "-j", "1", "-t", "400", godwit.conninfo(database: database),
        ])
        var most = 0
        while !load.hasEnded {
            most = max(most, try backends().count)
            _ = try godwit.console("RECONNECT \(database)")
            _ = try godwit.console("PAUSE \(database)")
            _ = try godwit.console("RESUME \(database)")
        }
        #expect(try load.waitForSuccess().contains("number of transactions actually processed: 3600/3600"))
        // Some are being closed while others open.
        #expect(most <= 6)
        let clients = try clients(godwit, ofEach: 3, threads: 3).flatMap { $0 }
        for client in clients { client.send(Frame.query("SELECT pg_sleep(0.01)")) }
        for client in clients { _ = try client.readToReady() }
        #expect(try backends().count == 3)
        var fewer = GodwitConfiguration([servers.entry(database)])
        fewer.threads = 3
        fewer.database.pool = ["size": "1"]
        try godwit.reload(fewer)
        for client in clients { client.send(Frame.query("SELECT pg_sleep(0.001)")) }
        for client in clients { _ = try client.readToReady() }
        try waitUntil { try backends().count == 1 }
    }

    @Test(arguments: ["database", "users"])
    func `threads whose clients wait at a limit over several pools do not wake each other all the time`(
        limit: String
    ) throws {
        let godwit = try servers.godwit(database) {
            $0.threads = 2
            $0.database.pool = ["size": "4"]
            if limit == "database" {
                $0.database.pool["max_db_connections"] = "1"
            } else {
                $0.sections = "users: {app: {max_user_connections: 1}}"
            }
        }
        let clients = try clients(godwit, ofEach: 2, threads: 2)
        let (holder, waiters) = (clients[0][0], [clients[0][1], clients[1][0]])
        _ = try holder.query("BEGIN")
        _ = try holder.value(process)
        for waiter in waiters { waiter.send(Frame.query(process)) }
        try waitUntil {
            try godwit.console("SHOW POOLS").contains { $0["database"] == database && $0["cl_waiting"] == "2" }
        }
        let before = try godwit.processorTicks()
        try servers.old.psql("SELECT pg_sleep(2)")
        #expect(try godwit.processorTicks() - before < 60)
        _ = try holder.query("COMMIT")
        for waiter in waiters { #expect(try waiter.readToReady().contains { $0.type == "D" }) }
    }

    // MARK: sessions

    @Test func `what a client of another thread has left unnamed answers nobody`() throws {
        let godwit = try godwit(threads: 2, size: 1)
        let clients = try clients(godwit, ofEach: 1, threads: 2)
        let (owner, other) = (clients[0][0], clients[1][0])
        // Else the server would be given other settings in between, which drops it.
        for client in [other, owner] { _ = try client.query("SET application_name = 'same'") }
        owner.send(Frame.parse("SELECT 'the owner''s' FROM t LIMIT 1") + Frame.sync)
        #expect(try owner.readToReady().map(\.type) == ["1", "Z"])
        other.send(Frame.bind() + Frame.execute() + Frame.sync)
        #expect(try other.readToReady().first?.sqlState == "26000")
        owner.send(Frame.bind() + Frame.execute() + Frame.sync)
        #expect(try owner.readToReady().first { $0.type == "D" }?.columns == ["the owner's"])
    }

    /// What one client has prepared, set and drawn, and what it must see of that on whatever server.
    private final class Session {
        let client: WireClient
        let number: Int
        var prepared: [String: Int] = [:]
        var setting = "0"

        init(_ client: WireClient, _ number: Int) {
            self.client = client
            self.number = number
        }

        /// Bytes to send, and the value that must come.
        func next(_ random: inout SeededGenerator) -> (bytes: [UInt8], value: String) {
            let name = "s\(Int.random(in: 0..<4, using: &random))"
            switch Int.random(in: 0..<6, using: &random) {
            case 0:
                let value = Int.random(in: 0..<1_000_000, using: &random)
                var bytes = prepared[name] == nil ? [] : Frame.closeStatement(name)
                prepared[name] = value
                bytes += Frame.parse("SELECT \(value) + \(number) FROM t LIMIT 1", name: name)
                return (bytes + Frame.bind(statement: name) + Frame.execute() + Frame.sync, "\(value + number)")
            case 1, 2, 3:
                guard let value = prepared[name] else { fallthrough }
                return (Frame.bind(statement: name) + Frame.execute() + Frame.sync, "\(value + number)")
            case 4:
                setting = "\(Int.random(in: 1..<1_000_000, using: &random))"
                return (Frame.query("SET app.own = '\(setting)'; SELECT '\(setting)'"), setting)
            default:
                // Once set in a session it is empty where it is not set.
                let own = "coalesce(nullif(current_setting('app.own', true), ''), '0')"
                return (Frame.query("SELECT \(own) FROM t LIMIT 1"), setting)
            }
        }
    }

    @Test(arguments: [1, 2, 3])
    func `statements, settings and values of sequences are the client's own on servers that move`(run: UInt64) throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed) of run \(run)")
        var random = SeededGenerator(seed: seed)
        let godwit = try godwit(threads: 3, size: 2)
        let clients = try clients(godwit, ofEach: 3, threads: 3).flatMap { $0 }
        let sessions = clients.enumerated().map { Session($1, $0) }
        for _ in 0..<150 {
            let asked = sessions.shuffled(using: &random).prefix(Int.random(in: 1...sessions.count, using: &random))
            var expected: [String] = []
            for session in asked {
                let (bytes, value) = session.next(&random)
                session.client.send(bytes)
                expected.append(value)
            }
            for (session, value) in zip(asked, expected) {
                let answer = try session.client.readToReady().first { $0.type == "D" }?.columns
                #expect(answer == [value], "seed \(seed)")
            }
        }
        for session in sessions {
            _ = try session.client.query("BEGIN")
            let id = try session.client.value("INSERT INTO drawn (who) VALUES (\(session.number)) RETURNING id")
            #expect(try session.client.value("SELECT currval('drawn_id_seq')") == id)
            _ = try session.client.query("COMMIT")
        }
        #expect(try backends().count <= 2)
    }
}
