import Glibc
import TestSupport
import Testing

/// What else operators order, over two threads.
@Suite(.serialized) struct ConsoleCommandTests {
    let servers: Servers
    let database: String
    let godwit: GodwitProcess
    let console: WireClient

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase("CREATE TABLE w (v int)")
        godwit = try servers.godwit(database) { $0.threads = 2 }
        console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
    }

    func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }

    @discardableResult
    func order(_ command: String) throws -> String { PauseTests.outcome(try console.query(command)) }

    func row(_ command: String, _ key: String, _ value: String) throws -> [String: String]? {
        try godwit.console(command).first { $0[key] == value }
    }

    @Test func `names that are none, and forms that are wrong, are errors`() throws {
        for command in ["PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "KILL", "WAIT_CLOSE"] {
            #expect(try order("\(command) nowhere") == "3D000", "\(command)")
        }
        for command in ["DISABLE", "KILL_CLIENT", "SHUTDOWN soon", "PAUSE; RESUME", "SET x", "SUSPEND shop"] {
            #expect(try order(command) == "42601", "\(command)")
        }
        #expect(try order("PAUSE godwit") == "3D000")
        #expect(try order("RESUME \(database)") == "RESUME")
    }

    @Test func `who reads no answers has no more made for it`() throws {
        let commands = 2000
        let greedy = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        greedy.sendMeanwhile((0..<commands).flatMap { _ in FrameBuilder.query("SHOW CONFIG") })
        var unsent = -1
        try waitUntil {
            let before = unsent
            unsent = try godwit.console("SHOW SOCKETS").filter { $0["database"] == "godwit" }
                .compactMap { Int($0["send_remain"] ?? "") }.max() ?? 0
            return unsent > 0 && unsent == before
        }
        #expect(unsent < 1 << 20)
        for _ in 0..<commands { #expect(try greedy.readToReady().contains { $0.type == "C" }) }
    }

    @Test func `RECONNECT makes new servers, and WAIT_CLOSE waits for the old ones`() throws {
        let (busy, idle) = (try connect(), try connect())
        let old = try idle.value("SELECT pg_backend_pid()")
        _ = try busy.query("BEGIN; INSERT INTO w VALUES (1)")
        let held = try busy.value("SELECT pg_backend_pid()")
        #expect(try order("RECONNECT \(database)") == "RECONNECT")
        #expect(try idle.value("SELECT pg_backend_pid()") != old)
        #expect(try row("SHOW SERVERS", "remote_pid", try #require(held))?["close_needed"] == "1")
        #expect(try order("WAIT_CLOSE \(database) 0.05") == "57014")
        console.send(FrameBuilder.query("WAIT_CLOSE"))
        #expect(try busy.query("COMMIT").first?.commandTag == "COMMIT")
        #expect(PauseTests.outcome(try console.readToReady()) == "WAIT_CLOSE")
        #expect(try row("SHOW SERVERS", "close_needed", "1") == nil)
        #expect(try busy.value("SELECT pg_backend_pid()") != held)
    }

    @Test func `KILL closes everybody at once and holds until RESUME`() throws {
        let (busy, idle) = (try connect(), try connect())
        _ = try busy.query("BEGIN; INSERT INTO w VALUES (1)")
        #expect(try order("KILL \(database)") == "KILL")
        #expect(try busy.readToEnd().last?.sqlState == "57P01")
        #expect(try idle.readToEnd().last?.sqlState == "57P01")
        #expect(try godwit.console("SHOW SERVERS").isEmpty)
        let next = try connect()
        next.send(FrameBuilder.query("SELECT count(*) FROM w"))
        #expect(try order("RESUME \(database)") == "RESUME")
        #expect(try next.readToReady().contains { $0.columns == ["0"] })
    }

    @Test func `KILL_CLIENT closes one, by either of its names, on either thread`() throws {
        let clients = try (0..<4).map { _ in try connect() }
        for (index, column) in ["id", "ptr", "id", "ptr"].enumerated() {
            let ports = try godwit.console("SHOW CLIENTS").filter { $0["database"] == database }
            #expect(ports.count == 4 - index)
            let name = try #require(ports.min { $0["connect_time"] ?? "" < $1["connect_time"] ?? "" }?[column])
            #expect(try order("KILL_CLIENT \(name)") == "KILL_CLIENT")
            #expect(try order("KILL_CLIENT \(name)") == "22023")
        }
        for client in clients { #expect(try client.readToEnd().last?.sqlState == "57P01") }
        #expect(try order("KILL_CLIENT one") == "22023")
        #expect(try order("KILL_CLIENT c9.1") == "22023")
    }

    @Test func `SUSPEND lets nothing pass until RESUME, and consoles work`() throws {
        let clients = try (0..<2).map { _ in try connect() }
        for client in clients { _ = try client.query("BEGIN; INSERT INTO w VALUES (1)") }
        #expect(try order("SUSPEND") == "SUSPEND")
        for client in clients { client.send(FrameBuilder.query("COMMIT")) }
        #expect(try row("SHOW STATE", "key", "suspended")?["value"] == "yes")
        #expect(try servers.old.psql("SELECT count(*) FROM w", database: database) == "0")
        #expect(try order("RELOAD") == "RELOAD")
        #expect(try order("RESUME") == "RESUME")
        for client in clients { #expect(try client.readToReady().first?.commandTag == "COMMIT") }
        #expect(try servers.old.psql("SELECT count(*) FROM w", database: database) == "2")
    }

    @Test func `who comes in during SUSPEND is greeted, and nothing of it passes before RESUME`() throws {
        // One thread, which has had a server: it can greet without one.
        let godwit = try servers.godwit(database)
        let early = try WireClient(port: godwit.port, database: database)
        #expect(try early.value("SELECT 1") == "1")
        _ = try godwit.console("SUSPEND")
        let late = try WireClient(port: godwit.port, database: database)
        late.send(FrameBuilder.query("INSERT INTO w VALUES (1)"))
        // The thread has been at its sockets since.
        for _ in 0..<3 { _ = try godwit.console("SHOW STATE") }
        #expect(try servers.old.psql("SELECT count(*) FROM w", database: database) == "0")
        _ = try godwit.console("RESUME")
        #expect(try late.readToReady().contains { $0.commandTag == "INSERT 0 1" })
        #expect(try servers.old.psql("SELECT count(*) FROM w", database: database) == "1")
    }

    // MARK: SHUTDOWN

    @Test func `SHUTDOWN while all is paused and suspended does not hang`() throws {
        let (busy, idle, held) = (try connect(), try connect(), try connect())
        _ = try busy.query("BEGIN; INSERT INTO w VALUES (1)")
        #expect(try order("PAUSE 0 KEEP") == "57014")
        held.send(FrameBuilder.query("INSERT INTO w VALUES (2)"))
        try waitUntil { try row("SHOW CLIENTS", "state", "waiting") != nil }
        #expect(try order("SUSPEND") == "SUSPEND")
        #expect(try order("SHUTDOWN WAIT_FOR_SERVERS") == "SHUTDOWN")
        #expect(try idle.readToEnd().last?.sqlState == "57P01")
        #expect(try held.readToEnd().last?.sqlState == "57P01")
        #expect(try order("SHOW STATE") == "SHOW")
        #expect(try busy.query("COMMIT").first?.commandTag == "COMMIT")
        #expect(try console.readToEnd().last?.sqlState == "57P01")
        #expect(godwit.process.wait() == .code(0))
        #expect(try servers.old.psql("SELECT count(*) FROM w", database: database) == "1")
    }

    @Test func `SHUTDOWN WAIT_FOR_CLIENTS serves those that are there until they go`() throws {
        let clients = try (0..<2).map { _ in try connect() }
        #expect(try order("SHUTDOWN WAIT_FOR_CLIENTS") == "SHUTDOWN")
        #expect(throws: (any Error).self) { try connect() }
        for client in clients { #expect(try client.value("SELECT 1") == "1") }
        for client in clients { client.close() }
        #expect(try console.readToEnd().last?.sqlState == "57P01")
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `SHUTDOWN ends at once`() throws {
        let client = try connect()
        _ = try client.query("BEGIN; INSERT INTO w VALUES (1)")
        #expect(try order("SHUTDOWN") == "SHUTDOWN")
        #expect(godwit.process.wait() == .code(0))
    }

    @Test func `SIGUSR1 and SIGUSR2 are PAUSE and RESUME`() throws {
        godwit.process.send(SIGUSR1)
        try waitUntil { try row("SHOW STATE", "key", "paused")?["value"] == "yes" }
        godwit.process.send(SIGUSR2)
        try waitUntil { try row("SHOW STATE", "key", "active")?["value"] == "yes" }
    }

    // MARK: SET

    @Test func `SET changes a setting on all threads until RELOAD`() throws {
        let clients = try (0..<2).map { _ in try connect() }
        #expect(try order("SET databases.\(database).reads.percent = 100") == "SET")
        for client in clients { #expect(try client.value("SELECT side FROM side_marker") == "new") }
        #expect(try order("SET query_timeout TO '0.5'") == "SET")
        #expect(try row("SHOW CONFIG", "key", "pool.query_timeout")?["value"] == "0.5")
        #expect(try row("SHOW CONFIG", "key", "databases.\(database).pool.query_timeout")?["value"] == "0.5")
        #expect(try order("SET users.reporting.pool_mode = session") == "SET")
        #expect(try order("SET admin.stats_users = [watcher]") == "SET")
        #expect(try godwit.console("SHOW VERSION", user: "watcher").count == 1)
        #expect(try order("SET max_client_conn = 77") == "SET")
        #expect(try row("SHOW CONFIG", "key", "listen.clients_max")?["value"] == "77")
        #expect(try order("RELOAD") == "RELOAD")
        #expect(try row("SHOW CONFIG", "key", "listen.clients_max")?["value"] == "10000")
        for client in clients { #expect(try client.value("SELECT side FROM side_marker") == "old") }
    }

    @Test func `SET refuses what the file could not say, and what needs a restart`() throws {
        for (setting, words) in [
            ("pool.size = many", "a whole number"), ("query_timeout = -1", "seconds"), ("nonsense = 1", "no setting"),
            ("listen.threads = 4", "restart"), ("databases.\(database).old = 'host=x'", "restart"),
            ("pool_mode = statement", "transaction, session"), ("auth.hba_file = /nowhere", "hba"),
            ("databases.none.reads.percent = 1", "no setting"), ("reads.percent = 1", "no setting"),
            ("admin.users = bob", "a list"), ("databases.\(database).reads.percent = 100.001", "percentage"),
            ("admin.users = [", "YAML"),
        ] {
            let error = try console.query("SET \(setting)").first
            #expect(error?.sqlState == "22023", "\(setting): \(String(describing: error))")
            #expect(error?.fields["M"]?.contains(words) == true, "\(setting): \(String(describing: error))")
        }
        #expect(try row("SHOW CONFIG", "key", "pool.size")?["value"] == "20")
    }
}
