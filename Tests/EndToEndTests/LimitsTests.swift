import Foundation
import TestSupport
import Testing

/// How many and how long: PgBouncer's limits and time-outs.
@Suite struct LimitsTests {
    private typealias Frame = FrameBuilder

    private func godwit(
        _ database: String, pool: [String: String], _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        try Servers.shared.get().godwit(database) {
            $0.database.pool = pool
            change(&$0)
        }
    }

    private func makeDatabase() throws -> String { try Servers.shared.get().makeDatabase() }

    /// Servers that OLD has of the database; asked around Godwit.
    private func backends(_ database: String) throws -> Int {
        let count = try Servers.shared.get().old.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '\(database)' AND application_name <> 'psql'")
        return Int(count) ?? -1
    }

    private func error(_ client: WireClient) throws -> (state: String?, message: String) {
        let message = try client.readToError()
        return (message?.sqlState, message?.fields["M"] ?? "")
    }

    // MARK: pools

    @Test func `who has waited for reserve_pool_timeout gets a server beyond the pool's size`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(
            name, pool: ["size": "1", "reserve_pool_size": "1", "reserve_pool_timeout": "0.2"])
        let holder = try WireClient(port: godwit.port, database: name)
        _ = try holder.query("BEGIN; SELECT txid_current()")
        let second = try WireClient(port: godwit.port, database: name)
        #expect(try second.query("BEGIN; SELECT txid_current()").last?.transactionStatus == "T")
        // The reserve is taken too: the next one waits until somebody lets go.
        let third = try WireClient(port: godwit.port, database: name)
        third.send(Frame.query("SELECT 'third' FROM pg_class LIMIT 1"))
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        #expect(try godwit.console("SHOW POOLS").first { $0["database"] == name }?["sv_active"] == "2")
        _ = try holder.query("COMMIT")
        #expect(try third.readToReady().first { $0.type == "D" }?.columns == ["third"])
    }

    @Test func `min_pool_size servers are open while a client is there`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: ["min_pool_size": "3", "server_idle_timeout": "0.1"])
        let client = try WireClient(port: godwit.port, database: name)
        _ = try client.query("SELECT 1")
        try waitUntil { try backends(name) == 3 }
        client.close()
        try waitUntil { try backends(name) == 0 }
    }

    @Test func `servers that are kept open for nobody take no other's place`() throws {
        let name = try makeDatabase()
        let servers = try Servers.shared.get()
        let users = ["limit_kept_a", "limit_kept_b"]
        for user in users { for server in [servers.old, servers.new] { try server.createRole(user) } }
        let godwit = try godwit(name, pool: ["min_pool_size": "2", "max_db_connections": "2"]) { $0.threads = 1 }
        let clients = try users.map { try WireClient(port: godwit.port, database: name, user: $0) }
        for client in clients { #expect(try client.value("SELECT 1") == "1") }
        func processes() throws -> String {
            try servers.old.psql("SELECT string_agg(usename || ' ' || pid, ',' ORDER BY pid) FROM pg_stat_activity "
                + "WHERE datname = '\(name)' AND application_name <> 'psql' AND usename LIKE 'limit_kept_%'")
        }
        // Nobody asks for anything: once each has one, the next seconds change nothing.
        try waitUntil {
            let found = try processes()
            return found.split(separator: ",").count == 2 && users.allSatisfy { found.contains($0) }
        }
        let before = try processes()
        _ = try servers.old.psql("SELECT pg_sleep(3.5)")
        #expect(try processes() == before)
        withExtendedLifetime(clients) {}
    }

    @Test func `a client for whom there is no file descriptor comes in when there is one`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: [:])
        func allowFiles(_ count: Int) throws {
            try ChildProcess.run(["prlimit", "--pid", "\(godwit.process.pid)", "--nofile=\(count):"])
        }
        let client = try WireClient(port: godwit.port, database: name)
        #expect(try client.value("SELECT 1") == "1")
        // What is open stays.
        try allowFiles(1)
        let late = try WireClient(port: godwit.port)
        late.send(Frame.startup([("user", "app"), ("database", name)]))
        try godwit.log.waitForLine(containing: "cannot accept a client: ")
        #expect(try client.value("SELECT 2") == "2")
        try allowFiles(1024)
        #expect(try late.readToReady().last?.transactionStatus == "I")
        #expect(try late.value("SELECT 3") == "3")
    }

    @Test func `the last file descriptors are not for clients`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: [:])
        let client = try WireClient(port: godwit.port, database: name)
        #expect(try client.value("SELECT 1") == "1")
        // Of 200 the last fifty are kept.
        try ChildProcess.run(["prlimit", "--pid", "\(godwit.process.pid)", "--nofile=200:"])
        let flood = try (0..<200).map { _ in try WireClient(port: godwit.port) }
        try godwit.log.waitForLine(containing: "the last file descriptors are kept")
        let open = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(godwit.process.pid)/fd").count
        #expect(open >= 100 && open < 170, "\(open)")
        for one in flood { one.close() }
        let late = try WireClient(port: godwit.port, database: name)
        #expect(try late.value("SELECT 2") == "2")
    }

    @Test(arguments: [1, 2])
    func `max_db_connections holds over users and threads, and idle servers make room`(threads: Int) throws {
        let name = try makeDatabase()
        let servers = try Servers.shared.get()
        let users = ["limit_a\(threads)", "limit_b\(threads)", "limit_c\(threads)"]
        for user in users { for server in [servers.old, servers.new] { try server.createRole(user) } }
        let godwit = try godwit(name, pool: ["size": "4", "max_db_connections": "2"]) { $0.threads = threads }
        let clients = try users.flatMap { user in
            try (0..<4).map { _ in try WireClient(port: godwit.port, database: name, user: user) }
        }
        let sql = """
            SELECT count(*) FROM pg_stat_activity, pg_sleep(0.01)
            WHERE datname = '\(name)' AND backend_type = 'client backend'
            """
        for _ in 0..<10 {
            for client in clients { client.send(Frame.query(sql)) }
            for client in clients {
                let value = try client.readToReady().first { $0.type == "D" }?.columns.first ?? nil
                // A server that is being closed may be seen for a moment.
                #expect((1...4).contains(value.flatMap { Int($0) } ?? 0), "\(value ?? "")")
            }
        }
        let pools = try godwit.console("SHOW POOLS").filter { $0["database"] == name && $0["side"] == "old" }
        let open = pools.reduce(0) { sum, row in
            sum + ["sv_active", "sv_idle", "sv_login"].reduce(0) { $0 + (Int(row[$1] ?? "") ?? 0) }
        }
        #expect((1...2).contains(open))
    }

    @Test(arguments: [("max_db_connections", "raise max_db_connections"), ("size", "raise pool.size")])
    func `who waits in vain is told of the limit that was in the way`(limit: String, words: String) throws {
        let name = try makeDatabase()
        // Long enough for the holder's server to be made.
        let pool = ["size": "4", "query_wait_timeout": "3"].merging([limit: "1"]) { $1 }
        let godwit = try godwit(name, pool: pool)
        let holder = try WireClient(port: godwit.port, database: name)
        _ = try holder.query("BEGIN; SELECT txid_current()")
        let late = try WireClient(port: godwit.port, database: name)
        late.send(Frame.query("BEGIN; SELECT txid_current()"))
        let hint = try late.readToError()?.fields["H"] ?? ""
        #expect(hint.contains(words), "\(hint)")
    }

    @Test func `max_user_connections holds over databases`() throws {
        let names = try (0..<2).map { _ in try makeDatabase() }
        let servers = try Servers.shared.get()
        var configuration = GodwitConfiguration(names.map { servers.entry($0) })
        configuration.sections = "users: {app: {max_user_connections: 1}}"
        let godwit = try GodwitProcess(configuration)
        let clients = try names.map { try WireClient(port: godwit.port, database: $0) }
        for _ in 0..<5 {
            for client in clients { #expect(try client.value("SELECT current_user FROM pg_class LIMIT 1") == "app") }
        }
        _ = try clients[0].query("BEGIN; SELECT txid_current()")
        clients[1].send(Frame.query("SELECT 'late' FROM pg_class LIMIT 1"))
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        _ = try clients[0].query("COMMIT")
        #expect(try clients[1].readToReady().first { $0.type == "D" }?.columns == ["late"])
    }

    @Test func `beyond clients_max a query is cancelled, the console answers, and nobody else comes in`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: [:]) { $0.listen = ["clients_max": "1"] }
        let client = try WireClient(port: godwit.port, database: name)
        let second = try WireClient(port: godwit.port)
        // It is told so as an answer to its startup packet, where every driver reads it, also within TLS.
        second.send([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])      // SSLRequest
        #expect(second.readByte() == UInt8(ascii: "N"))
        second.send(Frame.startup([("user", "app"), ("database", name)]))
        let refused = try error(second)
        #expect(refused.state == "53300" && refused.message.contains("(listen.clients_max)"))
        #expect(try godwit.console("SHOW CLIENTS").contains { $0["database"] == name })
        client.send(Frame.query("SELECT pg_sleep(600)"))
        let sleeping = """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = '\(name)' AND state = 'active' AND wait_event = 'PgSleep'
            """
        try waitUntil { try Servers.shared.get().old.psql(sleeping) == "1" }
        try client.cancel()
        #expect(try error(client).state == "57014")
    }

    @Test(arguments: ["max_db_client_connections", "max_user_client_connections"])
    func `clients beyond a limit are refused, and one that goes makes room`(setting: String) throws {
        let name = try makeDatabase()
        let isOfDatabase = setting == "max_db_client_connections"
        let godwit = try godwit(name, pool: isOfDatabase ? [setting: "2"] : [:]) {
            $0.threads = 2
            if !isOfDatabase { $0.sections = "pool: {\(setting): 2}" }
        }
        let clients = try (0..<2).map { _ in try WireClient(port: godwit.port, database: name) }
        let third = try WireClient(port: godwit.port)
        third.send(Frame.startup([("user", "app"), ("database", name)]))
        let refused = try error(third)
        #expect(refused.state == "53300" && refused.message.contains("(\(setting))"))
        clients[0].send(Frame.terminate)
        #expect(try clients[0].readToEnd().isEmpty)
        #expect(try WireClient(port: godwit.port, database: name).value("SELECT 1") == "1")
    }

    @Test func `a reload takes other limits, and closes what is too many`() throws {
        let name = try makeDatabase()
        let servers = try Servers.shared.get()
        var configuration = GodwitConfiguration([servers.entry(name)])
        configuration.database.pool = ["size": "3", "min_pool_size": "3"]
        let godwit = try GodwitProcess(configuration)
        let client = try WireClient(port: godwit.port, database: name)
        try waitUntil { try backends(name) == 3 }
        configuration.database.pool = ["size": "1", "min_pool_size": "3", "query_timeout": "0.2"]
        try godwit.reload(configuration)
        try waitUntil { try backends(name) == 1 }
        client.send(Frame.query("SELECT pg_sleep(3600)"))
        #expect(try error(client).state == "57014")
    }

    // MARK: time

    @Test func `nobody runs out of time for what stood still by SUSPEND`() throws {
        let name = try makeDatabase()
        let old = try Servers.shared.get().old
        let godwit = try godwit(name, pool: ["transaction_timeout": "12", "client_idle_timeout": "12"])
        let clients = try (0..<2).map { _ in try WireClient(port: godwit.port, database: name) }
        _ = try clients[0].query("BEGIN; SELECT txid_current()")
        #expect(try clients[1].value("SELECT 1") == "1")
        _ = try godwit.console("SUSPEND")
        _ = try old.psql("SELECT pg_sleep(13)")
        _ = try godwit.console("RESUME")
        // Clients are looked at once a second.
        _ = try old.psql("SELECT pg_sleep(1.5)")
        for client in clients { #expect(try client.value("SELECT 2") == "2") }
    }

    @Test func `what is held by order does not run out of query_timeout`() throws {
        let name = try makeDatabase()
        let old = try Servers.shared.get().old
        let godwit = try godwit(name, pool: ["query_timeout": "3"])
        let client = try WireClient(port: godwit.port, database: name)
        _ = try godwit.console("PAUSE \(name)")
        client.send(Frame.query("SELECT 'held'"))
        // Clients are looked at once a second.
        _ = try old.psql("SELECT pg_sleep(5)")
        _ = try godwit.console("RESUME \(name)")
        #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["held"])
        // Its time begins with RESUME.
        client.send(Frame.query("SELECT pg_sleep(3600)"))
        #expect(try error(client).state == "57014")
    }

    @Test func `a query that a server has gets no more time by what is held and let go meanwhile`() throws {
        let servers = try Servers.shared.get()
        let name = try servers.makeDatabase("CREATE TABLE t (id int)")
        let godwit = try godwit(name, pool: ["query_timeout": "3"])
        let client = try WireClient(port: godwit.port, database: name)
        let owner = try WireClient(port: servers.old.port, database: name, user: PostgresCluster.superuser)
        _ = try owner.query("BEGIN; LOCK TABLE t")
        client.send(Frame.query("SELECT count(*) FROM t"))
        // Clients are looked at once a second.
        for _ in 0..<8 where !client.hasSomethingToRead {
            _ = try godwit.console("PAUSE \(name) WRITES")
            _ = try godwit.console("RESUME \(name)")
            _ = try owner.query("SELECT pg_sleep(1)")
        }
        try #require(client.hasSomethingToRead)
        #expect(try error(client).state == "57014")
    }

    @Test func `query_timeout ends the query, and says so`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: ["query_timeout": "2.5"])
        let client = try WireClient(port: godwit.port, database: name)
        client.send(Frame.query("SELECT pg_sleep(3600)"))
        let told = try error(client)
        #expect(told.state == "57014" && told.message == "the query ran longer than query_timeout (2.5 s)")
        #expect(try client.read() == nil)
        try waitUntil { try backends(name) == 0 }
        #expect(try WireClient(port: godwit.port, database: name).value("SELECT 1") == "1")
    }

    @Test func `a user has time-outs of its own`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: ["query_timeout": "3600"]) {
            $0.sections = "users: {app: {query_timeout: 0.2}}"
        }
        let client = try WireClient(port: godwit.port, database: name)
        client.send(Frame.query("SELECT pg_sleep(3600)"))
        #expect(try error(client).state == "57014")
    }

    @Test func `query_timeout ends a query that begins with a parameter of several pieces`() throws {
        let name = try makeDatabase()
        // Longer than what comes before it takes, also on a busy machine.
        let godwit = try godwit(name, pool: ["query_timeout": "2.5"])
        let client = try WireClient(port: godwit.port, database: name)
        client.send(Frame.parse("SELECT pg_sleep(3600) WHERE $1::text <> ''", name: "s") + Frame.sync)
        _ = try client.readToReady()
        _ = try client.query("BEGIN; SELECT txid_current()")
        let value = String(repeating: "x", count: 200_000)
        client.send(Frame.bind(statement: "s", parameters: [value]) + Frame.execute() + Frame.sync)
        #expect(try error(client).state == "57014")
    }

    @Test(arguments: [
        ("transaction_timeout", "BEGIN; SELECT txid_current()", "25P04", "the transaction took longer"),
        ("transaction_timeout", "BEGIN", "25P04", "the transaction took longer"),
        ("idle_transaction_timeout", "BEGIN; SELECT txid_current()", "25P03", "the transaction was idle longer"),
        ("client_idle_timeout", "SELECT 1", "57P05", "the connection was idle longer"),
    ])
    func `a time-out that is over ends the session, and is named`(
        setting: String, sql: String, state: String, words: String
    ) throws {
        let name = try makeDatabase()
        // Longer than it takes to get there, also on a busy machine.
        let godwit = try godwit(name, pool: [setting: "2.5"]) { $0.database.readsPercent = "50" }
        let client = try WireClient(port: godwit.port, database: name)
        _ = try client.query(sql)
        let told = try error(client)
        #expect(told.state == state && told.message == "\(words) than \(setting) (2.5 s)")
        #expect(try client.read() == nil)
        try waitUntil {
            try Servers.shared.get().old.psql(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = '\(name)' AND state LIKE 'idle in%'") == "0"
        }
    }

    @Test(arguments: [("session", "SELECT 1", false), ("transaction", "CREATE TEMP TABLE x (v int)", false),
        ("session", "LISTEN news", true), ("transaction", "LISTEN news", true)])
    func `who keeps a server is idle too, but for who listens`(mode: String, sql: String, stays: Bool) throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: ["client_idle_timeout": "3", "pool_mode": mode])
        let client = try WireClient(port: godwit.port, database: name)
        _ = try client.query(sql)
        let other = try WireClient(port: godwit.port, database: name)
        // Clients are looked at once a second.
        _ = try other.query("SELECT pg_sleep(6)")
        if stays {
            #expect(try client.value("SELECT 2") == "2")
        } else {
            #expect(try error(client).state == "57P05")
            #expect(try client.read() == nil)
        }
    }

    @Test func `a session's own time limit is told as PostgreSQL tells it, and is no failure of the side`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: [:])
        let client = try WireClient(port: godwit.port, database: name)
        _ = try client.query("SET idle_in_transaction_session_timeout = 100")
        _ = try client.query("BEGIN; SELECT txid_current()")
        let told = try error(client)
        #expect(told.state == "25P03" && told.message.contains("idle-in-transaction timeout"))
        #expect(try client.read() == nil)
        #expect(try godwit.console("SHOW BREAKERS").allSatisfy { $0["failures_in_row"] == "0" })
    }

    @Test(arguments: [
        ("client_idle_timeout", "", "SELECT pg_sleep(7)"), ("client_idle_timeout", "", "SELECT pg_sleep(7), txid_current()"),
        ("idle_transaction_timeout", "BEGIN", "SELECT pg_sleep(7), txid_current()"),
    ])
    func `who waits for an answer is not idle`(setting: String, begin: String, text: String) throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: [setting: "6"])
        let client = try WireClient(port: godwit.port, database: name)
        for sql in [begin, text] { _ = try client.query(sql) }
        // In that time the limits are looked at. One that had come before would itself have been idle for too long.
        _ = try WireClient(port: godwit.port, database: name).query("SELECT pg_sleep(1.1)")
        #expect(try client.value("SELECT 1") == "1")
    }

    // MARK: sizes

    @Test func `what comes before a message that is too long comes whole`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: [:]) { $0.listen["max_packet_size"] = "200000" }
        let client = try WireClient(port: godwit.port, database: name)
        // The end of the first row comes together with the beginning of the second one.
        client.send(Frame.query("SELECT repeat('x', 100000) UNION ALL SELECT repeat('y', 300000)"))
        let answers = try client.readToReady()
        #expect(answers.map(\.type) == ["T", "D", "E", "Z"])
        #expect(answers.first { $0.type == "D" }?.columns == [String(repeating: "x", count: 100_000)])
    }

    @Test func `max_packet_size is for both directions`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: [:]) { $0.listen["max_packet_size"] = "10000" }
        let client = try WireClient(port: godwit.port, database: name)
        #expect(try client.value("SELECT length('\(String(repeating: "x", count: 9000))')") == "9000")
        let sender = try WireClient(port: godwit.port, database: name)
        sender.send(Frame.query("SELECT '\(String(repeating: "x", count: 11_000))'"))
        let told = try error(sender)
        #expect(told.state == "54000" && told.message.contains("longer than max_packet_size"))
        client.send(Frame.query("SELECT repeat('x', 11000) FROM pg_class LIMIT 1"))
        #expect(try error(client).message.contains("longer than max_packet_size"))
        #expect(try WireClient(port: godwit.port, database: name).value("SELECT 1") == "1")
    }

    // MARK: pool_mode, protocol

    @Test func `with pool_mode session a client keeps its server, and leaves it clean`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: ["size": "1", "pool_mode": "session"]) { $0.database.readsPercent = "100" }
        let client = try WireClient(port: godwit.port, database: name)
        let pid = try client.value("SELECT pg_backend_pid()")
        _ = try client.query("PREPARE p AS SELECT 1; SET work_mem = '77kB'")
        #expect(try client.value("EXECUTE p") == "1")
        #expect(try client.value("SELECT pg_backend_pid()") == pid)
        #expect(try godwit.console("SHOW PINS").first?["reason"] == "pool_mode session")
        #expect(try godwit.console("SHOW POOLS").first { $0["database"] == name }?["pool_mode"] == "session")
        let next = try WireClient(port: godwit.port, database: name)
        next.send(Frame.query("SHOW work_mem"))
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        client.send(Frame.terminate)
        #expect(try next.readToReady().first { $0.type == "D" }?.columns != ["77kB"])
        #expect(try next.query("EXECUTE p").first { $0.type == "E" }?.sqlState == "26000")
    }

    @Test func `servers are asked for protocol 3.2 where it is said, and older ones are taken as they are`() throws {
        let name = try makeDatabase()
        let godwit = try godwit(name, pool: ["max_protocol_version": "\"3.2\""]) {
            $0.database.readsPercent = "100"
            $0.database.readsKey = "[{session: user}]"
        }
        let client = try WireClient(port: godwit.port, database: name, minor: 2)
        // It is a word of the grammar from 17 on.
        let version = "SELECT CASE quote_ident('json_table') WHEN 'json_table' THEN 15 ELSE 18 END"
        #expect(try client.value(version) == "18")
        #expect(try client.value("SELECT \(version.dropFirst(7)) FROM txid_current()") == "15")
        client.send(Frame.query("SELECT count(*) FROM generate_series(1, 100000000000)"))
        try waitUntil {
            try Servers.shared.get().new.psql("""
                SELECT count(*) FROM pg_stat_activity WHERE datname = '\(name)' AND state = 'active'
                AND query LIKE '%100000000000)%' AND pid <> pg_backend_pid()
                """) == "1"
        }
        let canceller = try WireClient(port: godwit.port)
        canceller.send([0, 0, 0, UInt8(8 + client.cancelKey.count), 0x04, 0xd2, 0x16, 0x2e] + client.cancelKey)
        #expect(try client.readToReady().first { $0.type == "E" }?.sqlState == "57014")
    }

    // MARK: databases on demand

    @Test(arguments: [1, 2])
    func `the entry * serves every other name, and forgets what nobody uses`(threads: Int) throws {
        let servers = try Servers.shared.get()
        let names = try (0..<2).map { _ in
            try servers.makeDatabase("CREATE TABLE side (v text)", old: "INSERT INTO side VALUES ('old')",
                new: "INSERT INTO side VALUES ('new')")
        }
        func conninfo(_ server: PostgresCluster) -> String { "host=127.0.0.1 port=\(server.port)" }
        var configuration = GodwitConfiguration([servers.entry("postgres")])
        var entry = GodwitConfiguration.Database(
            name: "\"*\"", old: conninfo(servers.old), new: conninfo(servers.new))
        entry.pool = ["server_idle_timeout": "0.1"]
        entry.readsPercent = "100"
        entry.readsKey = "[{session: user}]"
        configuration.databases.append(entry)
        configuration.threads = threads
        configuration.sections = "pool: {autodb_idle_timeout: 0.1}"
        let godwit = try GodwitProcess(configuration)
        // They stay: what nobody uses is forgotten, with who has written there.
        var clients: [WireClient] = []
        for (round, name) in (names + names + names).enumerated() {
            let client = try WireClient(port: godwit.port, database: name)
            clients.append(client)
            #expect(try client.value("SELECT current_database()") == name)
            // Without a mirror who has written stays on OLD: also on another thread.
            #expect(try client.value("SELECT v FROM side") == (round < 2 ? "new" : "old"))
            #expect(try client.value("SELECT v FROM side FOR UPDATE") == "old")
            #expect(try godwit.console("SHOW DATABASES").contains { $0["name"] == name && $0["database"] == name })
        }
        // Each has a breaker of its own, of which an operator has the last word.
        let forced = try WireClient(port: godwit.port, database: names[1], user: "postgres")
        for (order, side) in [("OLD", "old"), ("AUTO", "new")] {
            _ = try godwit.console("FORCE \(names[1]) \(order)")
            #expect(try forced.value("SELECT v FROM side") == side)
        }
        #expect(throws: TestFailure.self) { try godwit.console("FORCE * OLD") }
        // What is said of * is said of all that it makes.
        _ = try godwit.console("READS * 0")
        let again = try WireClient(port: godwit.port, database: names[0], user: "postgres")
        #expect(try again.value("SELECT v FROM side") == "old")
        for client in clients + [again, forced] { client.close() }
        let client = try WireClient(port: godwit.port)
        client.send(Frame.startup([("user", "app"), ("database", "nowhere")]))
        let told = try error(client)
        #expect(told.state == "3D000" && told.message.contains("\"nowhere\" does not exist"))
        try waitUntil { try godwit.console("SHOW DATABASES").allSatisfy { $0["name"] == "postgres" } }
        #expect(try WireClient(port: godwit.port, database: names[0]).value("SELECT 1") == "1")
    }
}
