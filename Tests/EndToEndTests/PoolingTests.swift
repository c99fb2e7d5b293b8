import Glibc
import TestSupport
import Testing

/// Many clients, few servers.
@Suite(.serialized) struct PoolingTests {
    typealias Frame = FrameBuilder

    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeDatabase("""
            CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0);
            CREATE TABLE arrivals (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who int)
            """)
    }

    func godwit(size: Int, _ pool: [String: String] = [:]) throws -> GodwitProcess {
        try servers.godwit(database) { $0.database.pool = pool.merging(["size": "\(size)"]) { a, _ in a } }
    }

    func connect(_ godwit: GodwitProcess) throws -> WireClient {
        try WireClient(port: godwit.port, database: database)
    }

    /// Godwit's servers in OLD, as PostgreSQL sees them.
    func backends() throws -> Int {
        let text = try servers.old.psql("""
            SELECT count(*) FROM pg_stat_activity WHERE datname = '\(database)' AND usename = 'app'
            """)
        return Int(text) ?? -1
    }

    func waiting(_ godwit: GodwitProcess) throws -> Int {
        try godwit.console("SHOW POOLS").filter { $0["database"] == database }
            .reduce(0) { $0 + (Int($1["cl_waiting"] ?? "") ?? 0) }
    }

    @Test(arguments: [1, 2])
    func `forty busy clients never use more servers than the pool has`(threads: Int) throws {
        let godwit = try servers.godwit(database) {
            $0.threads = threads
            $0.database.pool = ["size": "4"]
        }
        let script = try TestResources.file("busy", "SELECT pg_sleep(0.01);\n")
        let load = try ChildProcess([
            "pgbench", "-n", "-f", script, "-c", "40", "-j", "2", "-t", "25",
            godwit.conninfo(database: database),
        ])
        var most = 0
        while !load.hasEnded { most = max(most, try backends()) }
        #expect(try load.waitForSuccess().contains("number of transactions actually processed: 1000/1000"))
        #expect(most == 4)
        #expect(try backends() == 4)
    }

    @Test func `a session's user, role and what only a superuser may set stay its own on a shared server`() throws {
        let godwit = try godwit(size: 1)
        let (clerk, rank) = ("\(database)_clerk", "\(database)_rank")
        try servers.old.psql("CREATE ROLE \(clerk); CREATE ROLE \(rank) ROLE \(clerk)")
        func session() throws -> WireClient {
            try WireClient(port: godwit.port, database: database, user: PostgresCluster.superuser)
        }
        let (first, second) = (try session(), try session())
        let whoami = "SELECT concat_ws(' ', current_setting('session_replication_role'), session_user, current_user)"
        _ = try first.query("SET session_replication_role = replica")
        _ = try first.query("SET SESSION AUTHORIZATION \(clerk)")
        #expect(try second.value(whoami) == "origin postgres postgres")
        _ = try second.query("SET session_replication_role = local")
        #expect(try first.value(whoami) == "replica \(clerk) \(clerk)")
        #expect(try second.value(whoami) == "local postgres postgres")
        _ = try first.query("SET ROLE \(rank)")
        _ = try second.query("RESET session_replication_role")
        _ = try first.query("RESET ALL")
        #expect(try second.value(whoami) == "origin postgres postgres")
        #expect(try first.value(whoami) == "origin \(clerk) \(rank)")
        _ = try first.query("SET SESSION AUTHORIZATION \(clerk)")
        #expect(try second.value(whoami) == "origin postgres postgres")
        #expect(try first.value(whoami) == "origin \(clerk) \(clerk)")
        _ = try first.query("RESET SESSION AUTHORIZATION")
        #expect(try first.value(whoami) == "origin postgres postgres")
    }

    @Test func `a statement prepared in SQL survives its transaction's rollback`() throws {
        let godwit = try godwit(size: 2)
        let (client, other) = (try connect(godwit), try connect(godwit))
        for text in ["BEGIN", "PREPARE answer AS SELECT 42", "ROLLBACK", "BEGIN"] { _ = try client.query(text) }
        _ = try client.query("ROLLBACK")
        for text in ["BEGIN", "SELECT v FROM t FOR UPDATE"] { _ = try other.query(text) }
        #expect(try client.value("EXECUTE answer") == "42")
    }

    @Test func `what only a transaction has set is not set on other servers`() throws {
        let godwit = try godwit(size: 2)
        let (client, other) = (try connect(godwit), try connect(godwit))
        for text in ["BEGIN", "SET transaction_isolation = 'serializable'", "SET seed = 0.5", "COMMIT"] {
            _ = try client.query(text)
        }
        for text in ["BEGIN", "SELECT v FROM t FOR UPDATE"] { _ = try other.query(text) }
        #expect(try client.value("SHOW transaction_isolation") == "read committed")
    }

    @Test func `a setting is the client's whatever encoding another one has left in the server`() throws {
        let godwit = try godwit(size: 1)
        let (client, other) = (try connect(godwit), try connect(godwit))
        _ = try client.query("SET app.tenant = 'Müller'")
        for encoding in ["LATIN1", "SJIS"] {
            _ = try other.query("SET client_encoding = '\(encoding)'")
            #expect(try client.value("SELECT current_setting('app.tenant')") == "Müller", "\(encoding)")
        }
    }

    @Test func `what was deallocated in a transaction is prepared again there`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        func prepare(_ name: String) throws -> [Character] {
            client.send(Frame.parse("SELECT 7", name: name) + Frame.bind(statement: name) + Frame.execute() + Frame.sync)
            return try client.readToReady().map(\.type)
        }
        #expect(try prepare("first") == ["1", "2", "D", "C", "Z"])
        for text in ["BEGIN", "SELECT v FROM t FOR UPDATE", "DEALLOCATE ALL"] { _ = try client.query(text) }
        #expect(try prepare("second") == ["1", "2", "D", "C", "Z"])
        _ = try client.query("ROLLBACK")
        #expect(try prepare("third") == ["1", "2", "D", "C", "Z"])
    }

    @Test func `those who wait are served in the order in which they came`() throws {
        let godwit = try godwit(size: 1)
        let holder = try connect(godwit)
        _ = try holder.query("BEGIN")
        _ = try holder.query("SELECT 1 FROM t FOR UPDATE")
        var waiters: [WireClient] = []
        for number in 1...8 {
            let client = try connect(godwit)
            client.send(Frame.query("INSERT INTO arrivals (who) VALUES (\(number))"))
            try waitUntil { try waiting(godwit) == number }
            waiters.append(client)
        }
        _ = try holder.query("COMMIT")
        for client in waiters { #expect(try client.readToReady().first?.commandTag == "INSERT 0 1") }
        #expect(try holder.value("SELECT string_agg(who::text, ' ' ORDER BY id) FROM arrivals") == "1 2 3 4 5 6 7 8")
    }

    @Test func `who has waited too long gets a clear error`() throws {
        let godwit = try godwit(size: 1)
        let (holder, waiter) = (try connect(godwit), try connect(godwit))
        for text in ["BEGIN", "SELECT 1 FROM t FOR UPDATE"] { _ = try holder.query(text) }
        // Only now: the first client's login waits for a server that is still to be opened.
        _ = try godwit.console("SET databases.\(database).pool.query_wait_timeout = 0.2")
        waiter.send(Frame.query("SELECT 1"))
        let error = try waiter.readToError()
        #expect(error?.fields["M"]?.contains("query_wait_timeout") == true, "\(String(describing: error))")
        #expect(try holder.query("COMMIT").first?.commandTag == "COMMIT")
        #expect(try connect(godwit).value("SELECT 1") == "1")
    }

    @Test func `no more clients wait than the configuration allows`() throws {
        let godwit = try godwit(size: 1, ["waiters_max": "2"])
        let holder = try connect(godwit)
        _ = try holder.query("BEGIN")
        _ = try holder.query("SELECT 1 FROM t FOR UPDATE")
        let waiters = try (0..<2).map { _ in try connect(godwit) }
        for waiter in waiters { waiter.send(Frame.query("SELECT 1")) }
        try waitUntil { try waiting(godwit) == 2 }
        let refused = try connect(godwit)
        refused.send(Frame.query("SELECT 1"))
        #expect(try refused.read()?.type == "E")
        _ = try holder.query("COMMIT")
        for waiter in waiters { #expect(try waiter.readToReady().last?.transactionStatus == "I") }
    }

    @Test func `a client that vanishes in a transaction leaves no lock and no dirty server`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        _ = try client.query("BEGIN")
        _ = try client.query("SET LOCAL work_mem = '9MB'")
        _ = try client.query("UPDATE t SET v = v + 1")
        client.close()
        // Waits for the row's lock.
        #expect(try servers.old.psql("SELECT v FROM t FOR UPDATE", database: database) == "0")
        let next = try connect(godwit)
        #expect(try next.query("SHOW work_mem").last?.transactionStatus == "I")
        #expect(try next.value("SHOW work_mem") != "9MB")
        #expect(try next.value("SELECT v FROM t") == "0")
    }

    @Test func `a client that vanishes in a running query does not keep the server`() throws {
        let godwit = try godwit(size: 1)
        for message in ["SELECT pg_sleep(0.2)", "SELECT repeat('x', 1000) FROM generate_series(1, 100000)"] {
            let client = try connect(godwit)
            client.send(Frame.query(message))
            client.close()
            #expect(try connect(godwit).value("SELECT 'next'") == "next")
        }
    }

    @Test func `a client that vanishes between Parse and Sync, or in COPY, leaves a clean server`() throws {
        let godwit = try godwit(size: 1)
        for bytes in [
            Frame.parse("SELECT 1"), Frame.parse("SELECT 1") + Frame.bind() + Frame.flush,
            Frame.query("COPY t FROM STDIN"), Frame.query("COPY t FROM STDIN") + Frame.message("d", Array("5\t".utf8)),
        ] {
            let client = try connect(godwit)
            client.send(bytes)
            client.close()
            #expect(try connect(godwit).query("SELECT 'clean'").map(\.type) == ["T", "D", "C", "Z"])
        }
        #expect(try connect(godwit).value("SELECT count(*) FROM t") == "1")
    }

    @Test func `Terminate in a transaction rolls back`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        _ = try client.query("BEGIN")
        _ = try client.query("UPDATE t SET v = 7")
        client.send(Frame.terminate)
        #expect(try client.readToEnd().isEmpty)
        #expect(try connect(godwit).value("SELECT v FROM t FOR UPDATE") == "0")
    }

    /// Up to 1 MiB is looked at.
    @Test(arguments: [(50_000, []), (150_000, ["statement that was not analysed"])] as [(Int, [String])])
    func `a long INSERT in a transaction keeps its server only where it is too long`(
        rows: Int, reasons: [String]
    ) throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        for text in ["BEGIN", "SELECT v FROM t FOR UPDATE"] { _ = try client.query(text) }
        let values = (2...rows).map { "(\($0), 0)" }.joined(separator: ",")
        #expect(try client.query("INSERT INTO t VALUES \(values)").first?.commandTag == "INSERT 0 \(rows - 1)")
        #expect(try client.query("COMMIT").first?.commandTag == "COMMIT")
        #expect(try godwit.console("SHOW PINS").compactMap { $0["reason"] } == reasons)
    }

    @Test(arguments: ["transaction", "listening", "session"])
    func `settings go back to those of the session's start, also for what is right behind`(kind: String) throws {
        let godwit = try godwit(size: 1, kind == "session" ? ["pool_mode": kind] : [:])
        let client = try WireClient(
            port: godwit.port, database: database, parameters: [("options", "-c search_path=app -c work_mem=9MB")])
        let both = "SELECT current_setting('search_path') || ' ' || current_setting('work_mem')"
        for back in [
            ["RESET ALL"], ["RESET search_path"], ["SET search_path TO DEFAULT"],
            ["BEGIN; RESET search_path; COMMIT"], ["BEGIN", "RESET search_path", "COMMIT"],
            ["BEGIN", "RESET search_path; COMMIT AND CHAIN", "ROLLBACK"], ["DISCARD ALL"],
        ] {
            // DISCARD ALL takes that back as well.
            if kind == "listening" { _ = try client.query("LISTEN news") }
            let texts = ["SET search_path = other"] + back
            for text in texts { _ = try client.query(text) }
            #expect(try client.value(both) == "app 9MB", "\(back)")
            client.send((texts + [both]).flatMap { Frame.query($0) })
            for _ in texts { _ = try client.readToReady() }
            #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["app 9MB"], "\(back), at once")
        }
        // What has its data behind it does not wait for that.
        client.send(
            Frame.query("RESET ALL; COPY public.t FROM STDIN") + Frame.message("d", Array("2\t2\n".utf8))
                + Frame.message("c"))
        #expect(try client.readToReady().compactMap(\.commandTag) == ["RESET", "COPY 1"])
        #expect(try client.value(both) == "app 9MB")
    }

    @Test(arguments: [[], ["LISTEN news"], ["BEGIN", "SELECT v FROM t FOR UPDATE"]])
    func `what a COPY leaves over that has failed is nobody's, and keeps no server`(before: [String]) throws {
        let godwit = try godwit(size: 1, ["query_wait_timeout": "20"])
        let client = try connect(godwit)
        func received() throws -> Int {
            let row = try godwit.console("SHOW STATS").first { $0["database"] == database }
            return try #require(row?["total_received"].flatMap { Int($0) })
        }
        func expectFree() throws {
            if before.isEmpty { #expect(try connect(godwit).value("SELECT 1") == "1") }
        }
        let small = Frame.message("d", [UInt8](repeating: 0x78, count: 8_000))
        let large = Frame.message("d", [UInt8](repeating: 0x78, count: 3_000_000))
        for text in before { _ = try client.query(text) }
        // The first is on its way to the server when the error comes; the others come later.
        let leftOvers: [(onItsWay: [UInt8], late: [UInt8], last: [UInt8])] = [
            (Array(large.prefix(60_000)), Array(large.dropFirst(60_000)), []),
            ([], (0..<300).flatMap { _ in small }, []), ([], large.dropLast(), large.suffix(1)),
        ]
        for (onItsWay, late, last) in leftOvers {
            if before.first == "BEGIN" { _ = try client.query("SAVEPOINT a") }
            client.send(Frame.query("COPY t FROM STDIN"))
            #expect(try client.read()?.type == "G")
            client.send(Frame.message("d", Array("no number\n".utf8)) + onItsWay)
            #expect(try client.readToReady().first?.sqlState == "22P02")
            let count = try received()
            client.send(late)
            try waitUntil { try received() >= count + late.count }
            try expectFree()
            client.send(last + Frame.message("c"))
            if before.first == "BEGIN" { _ = try client.query("ROLLBACK TO a") }
            #expect(try client.value("SELECT 2") == "2")
            try expectFree()
        }
    }

    @Test func `what a pinned client's server is asked does not come within what a COPY leaves over`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        // It is pinned when all is answered, and asked at once whether the lock is there.
        client.send(Frame.query("SELECT pg_advisory_lock(1)") + Frame.query("COPY t FROM STDIN"))
        #expect(try client.readToReady().contains { $0.commandTag == "SELECT 1" })
        #expect(try client.read()?.type == "G")
        let large = Frame.message("d", [UInt8](repeating: 0x78, count: 3_000_000))
        client.send(Frame.message("d", Array("no number\n".utf8)) + large.prefix(60_000))
        #expect(try client.readToReady().first?.sqlState == "22P02")
        client.send(large.dropFirst(60_000) + Frame.message("c"))
        #expect(try client.value("SELECT 2") == "2")
        #expect(try godwit.console("SHOW PINS").count == 1)
    }

    @Test func `nor does what is asked behind a COPY that has had a Sync in its data`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        client.send(Frame.query("COPY t FROM STDIN"))
        #expect(try client.read()?.type == "G")
        let large = Frame.message("d", [UInt8](repeating: 0x78, count: 3_000_000))
        client.send(Frame.sync + Frame.message("d", Array("no number\n".utf8)) + large.prefix(60_000))
        #expect(try client.readToReady().first?.sqlState == "22P02")
        client.send(large.dropFirst(60_000) + Frame.message("c"))
        #expect(try client.value("SELECT 2") == "2")
    }

    func read(_ client: WireClient, to type: Character) throws {
        while let message = try client.read(), message.type != type {}
    }

    @Test func `a batch without its Sync keeps its server: what others do ends it neither well nor badly`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        client.send(Frame.parse("INSERT INTO t VALUES (77, 0)") + Frame.bind() + Frame.execute() + Frame.flush)
        try read(client, to: "C")
        let other = try connect(godwit)
        other.send(Frame.query("SELECT 1 / 0"))
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        try waitUntil {
            let pools = try console.query("SHOW POOLS").filter { $0.type == "D" }.map { $0.columns }
            return pools.contains { $0[0] == database && $0[3] == "1" }
        }
        client.send(Frame.sync)
        #expect(try client.readToReady().last?.type == "Z")
        #expect(try other.readToReady().first { $0.type == "E" }?.sqlState == "22012")
        #expect(try client.value("SELECT count(*) FROM t WHERE id = 77") == "1")
    }

    @Test func `what was sent before Terminate is done, though its client has gone`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        client.send(Frame.query("INSERT INTO t SELECT 79, 0 FROM pg_sleep(0.3)") + Frame.terminate)
        client.close()
        #expect(try connect(godwit).value("SELECT count(*) FROM t WHERE id = 79") == "1")
    }

    @Test func `a client that goes before its Sync has done nothing`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        client.send(Frame.parse("INSERT INTO t VALUES (78, 0)") + Frame.bind() + Frame.execute() + Frame.flush)
        try read(client, to: "C")
        client.close()
        #expect(try connect(godwit).value("SELECT count(*) FROM t WHERE id = 78") == "0")
    }

    @Test func `a statement prepared with Flush leaves its server to others, and no transaction open on it`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        client.send(Frame.parse("SELECT 41 + 1", name: "mine") + Frame.describeStatement("mine") + Frame.flush)
        try read(client, to: "T")
        #expect(try connect(godwit).value("SELECT now() = statement_timestamp()") == "t")
        client.send(Frame.bind(statement: "mine") + Frame.execute() + Frame.sync)
        #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["42"])
    }

    /// PostgreSQL ignores a cancel request that comes before it has read the query: here because it is stopped.
    @Test func `a query that its client has left is cancelled until it ends`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        let backend = try #require(pid_t(try client.value("SELECT pg_backend_pid()") ?? ""))
        kill(backend, SIGSTOP)
        defer { kill(backend, SIGCONT) }
        client.send(Frame.query("SELECT pg_sleep(3600)"))
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        try waitUntil {
            try console.query("SHOW POOLS").contains { $0.type == "D" && $0.columns[0] == database && $0.columns[6] == "1" }
        }
        client.reset()
        try waitUntil { try console.query("SHOW CLIENTS").count { $0.type == "D" && $0.columns[2] == database } == 0 }
        try servers.old.psql("SELECT 'the postmaster has taken what came before'")
        kill(backend, SIGCONT)
        #expect(try connect(godwit).value("SELECT 1") == "1")
        try waitUntil { try servers.old.psql("SELECT count(*) FROM pg_stat_activity WHERE pid = \(backend)") == "0" }
    }

    /// Ends every server that Godwit has in OLD, and waits until they are gone.
    func terminateBackends() throws {
        try servers.old.psql("""
            SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
            WHERE datname = '\(database)' AND usename = 'app'
            """)
    }

    @Test func `a query that comes together with the end of an idle server goes to another`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        #expect(try client.value("SELECT 1") == "1")
        // What happens while it is stopped it finds at once, and the query first.
        try godwit.suspend()
        defer { godwit.process.send(SIGCONT) }
        client.send(Frame.query("INSERT INTO t VALUES (80, 0) RETURNING id"))
        try terminateBackends()
        godwit.process.send(SIGCONT)
        #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["80"])
    }

    @Test func `a server that vanishes in a transaction closes its client with an error`() throws {
        let godwit = try godwit(size: 2)
        let client = try connect(godwit)
        _ = try client.query("BEGIN")
        _ = try client.query("SELECT 1 FROM t FOR UPDATE")
        try terminateBackends()
        let answers = try client.readToEnd()
        #expect(["08006", "57P01"].contains(answers.last { $0.type == "E" }?.sqlState))
        #expect(try connect(godwit).value("SELECT 1") == "1")
    }

    @Test func `a server that vanishes in a query is an error, and its place in the pool is free again`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        client.send(Frame.query("SELECT pg_sleep(3600)"))
        try waitUntil {
            try servers.old.psql("""
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = '\(database)' AND usename = 'app' AND state = 'active'
                """) == "1"
        }
        try terminateBackends()
        #expect(["08006", "57P01"].contains(try client.readToError()?.sqlState))
        #expect(try connect(godwit).value("SELECT 1") == "1")
    }

    @Test func `what was answered before a server vanished holds, and what was not can be sent again`() throws {
        let godwit = try godwit(size: 1)
        let client = try connect(godwit)
        func loseServer() throws {
            try waitUntil {
                try servers.old.psql("""
                    SELECT count(*) FROM pg_stat_activity
                    WHERE datname = '\(database)' AND wait_event = 'PgSleep'
                    """) == "1"
            }
            try terminateBackends()
        }
        // The SET is answered while the next query runs.
        client.send(Frame.query("SET work_mem = '9MB'") + Frame.query("SELECT pg_sleep(3600)"))
        #expect(try client.readToReady().map(\.type) == ["C", "Z"])
        try loseServer()
        #expect(try client.readToReady().map(\.type).suffix(2) == ["E", "Z"])
        #expect(try client.value("SHOW work_mem") == "9MB")
        #expect(try connect(godwit).value("SHOW work_mem") != "9MB")
        // Its Parse waits behind a query, so that the client never hears of it.
        let batch = Frame.parse("SELECT 1", name: "again") + Frame.bind(statement: "again") + Frame.execute()
            + Frame.sync
        client.send(Frame.parse("SELECT pg_sleep(3600)") + Frame.bind() + Frame.execute() + batch)
        try loseServer()
        #expect(try client.readToReady().map(\.type).suffix(2) == ["E", "Z"])
        client.send(batch)
        #expect(try client.readToReady().map(\.type) == ["1", "2", "D", "C", "Z"])
    }

    @Test func `an idle server that vanishes is nobody's error`() throws {
        let godwit = try godwit(size: 3)
        let clients = try (0..<3).map { _ in try connect(godwit) }
        for client in clients { _ = try client.query("BEGIN") }
        for client in clients { _ = try client.query("SELECT 1 FROM t") }
        for client in clients { _ = try client.query("COMMIT") }
        try terminateBackends()
        for client in clients { #expect(try client.value("SELECT 2") == "2") }
    }

    @Test func `a server that is lost while it is given a session's settings is nobody's error`() throws {
        let relay = try TCPRelay(to: servers.old.port)
        let godwit = try servers.godwit(database) {
            $0.database.pool = ["size": "1"]
            $0.database.old = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        }
        let (client, other) = (try connect(godwit), try connect(godwit))
        _ = try client.query("SET work_mem = '9MB'")
        #expect(try other.value("SHOW work_mem") != "9MB")
        relay.cutAfterAnswer(to: "set_config")
        #expect(try client.value("SHOW work_mem") == "9MB")
    }

    @Test func `a server that says goodbye is nobody's from then on, though its connection goes on`() throws {
        let relay = try TCPRelay(to: servers.old.port)
        let godwit = try servers.godwit(database) {
            $0.database.pool = ["size": "1"]
            $0.database.old = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        }
        let client = try connect(godwit)
        let first = try client.value("SELECT pg_backend_pid()")
        let farewell = ["SFATAL", "VFATAL", "C57P05", "Mterminating connection due to idle-session timeout"]
        relay.say(Frame.message("E", farewell.flatMap { Array($0.utf8) + [0] } + [0]))
        try waitUntil { try backends() == 0 }
        let second = try client.value("SELECT pg_backend_pid()")
        #expect(second != nil && second != first)

        // Its client keeps it to the end of the transaction.
        _ = try client.query("BEGIN; SELECT txid_current()")
        relay.say(Frame.message("E", farewell.flatMap { Array($0.utf8) + [0] } + [0]))
        _ = try client.query("COMMIT")
        #expect(try client.value("SELECT pg_backend_pid()") != second)
    }

    @Test func `a client that vanishes as its server breaks the protocol takes nobody with it`() throws {
        let relay = try TCPRelay(to: servers.old.port)
        let godwit = try servers.godwit(database) {
            $0.database.old = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        }
        let client = try connect(godwit)
        _ = try client.query("CREATE TABLE gone (v text)")
        client.send(Frame.query("COPY gone FROM STDIN"))
        #expect(try client.read()?.type == "G")
        // Its end, and a notice for it with nonsense behind that, are found at the same time.
        try godwit.suspend()
        client.reset()
        relay.say(Frame.message("N", [0]) + Frame.message("x"))
        godwit.process.send(SIGCONT)
        #expect(try connect(godwit).value("SELECT 1") == "1")
    }

    @Test func `a server that its operator makes read-only for a while is so for no client longer`() throws {
        let server = try PostgresCluster(.old15)
        try server.createRole("app")
        try server.psql("CREATE TABLE t (v int); GRANT INSERT ON t TO app")
        let godwit = try servers.godwit(database) {
            $0.database.pool = ["size": "1"]
            $0.database.old = server.conninfo()
            $0.database.controlOld = server.conninfo(user: PostgresCluster.superuser)
        }
        let (client, other) = (try connect(godwit), try connect(godwit))
        func isReadOnly(_ client: WireClient) throws -> String? {
            try client.value("SHOW default_transaction_read_only")
        }
        #expect(try isReadOnly(client) == "off")
        // Who comes first is told of it by the server, as if he had set it.
        for (value, first) in [("on", client), ("off", other)] {
            try server.psql("""
                SET default_transaction_read_only = off;
                ALTER SYSTEM SET default_transaction_read_only = \(value);
                SELECT pg_reload_conf()
                """)
            try waitUntil { try isReadOnly(first) == value }
        }
        for client in [client, other] {
            #expect(try isReadOnly(client) == "off")
            #expect(try client.query("INSERT INTO t VALUES (1)").allSatisfy { $0.type != "E" })
        }
    }

    @Test func `a server is nobody else's when a cancel request for it may still arrive`() throws {
        let relay = try TCPRelay(to: servers.old.port)
        let godwit = try servers.godwit(database) {
            $0.database.pool = ["size": "1", "server_connect_timeout": "3"]
            $0.database.old = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        }
        let client = try connect(godwit)
        let first = try client.value("SELECT pg_backend_pid()")
        let blocker = try WireClient(port: servers.old.port, database: database)
        _ = try blocker.query("BEGIN; LOCK TABLE t")
        client.send(Frame.query("UPDATE t SET v = 1"))
        try waitUntil {
            try servers.old.psql("SELECT wait_event_type FROM pg_stat_activity WHERE pid = \(first ?? "0")") == "Lock"
        }
        // The kernel takes the request, and nobody reads it as yet.
        relay.become(.silent)
        try client.cancel()
        try godwit.log.waitForLine(containing: "to cancel a query")
        _ = try blocker.query("COMMIT")
        try waitUntil {
            try servers.old.psql("SELECT state FROM pg_stat_activity WHERE pid = \(first ?? "0")") == "idle"
        }
        relay.become(.passing)
        _ = try client.readToReady()
        #expect(try connect(godwit).value("SELECT pg_backend_pid()") != first)
    }

    @Test func `a thousand idle clients are held and each is served`() throws {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = min(limit.rlim_max, 8192)
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        let godwit = try godwit(size: 5)
        let clients = try (0..<1000).map { _ in try connect(godwit) }
        for client in clients { client.send(Frame.query("SELECT 1")) }
        for client in clients { #expect(try client.readToReady().count == 4) }
    }
}
