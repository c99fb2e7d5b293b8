import Console
import Glibc
import TestSupport
import Testing

/// Tools that know PgBouncer's console, beside PgBouncer itself; drivers; and who may do what.
@Suite(.serialized) struct ConsoleToolsTests {
    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeMarkedDatabase()
    }

    struct Column: Equatable {
        var name: String
        var type: Int
    }

    /// Names and types of the columns that a command answers with.
    static func columns(_ command: String, _ client: WireClient) throws -> [Column] {
        let messages = try client.query(command)
        let body = try #require(messages.first { $0.type == "T" }?.body, "\(command): \(messages)")
        var columns: [Column] = []
        var rest = body.dropFirst(2)
        while let end = rest.firstIndex(of: 0) {
            let type = rest[(end + 7)..<(end + 11)].reduce(0) { $0 << 8 | Int($1) }
            columns.append(Column(name: String(decoding: rest[..<end], as: UTF8.self), type: type))
            rest = rest[(end + 19)...]
        }
        return columns
    }

    static let shows = [
        "STATS", "STATS_TOTALS", "STATS_AVERAGES", "TOTALS", "POOLS", "DATABASES", "CLIENTS", "SERVERS", "USERS",
        "LISTS", "CONFIG", "MEM", "FDS", "SOCKETS", "ACTIVE_SOCKETS", "DNS_HOSTS", "DNS_ZONES", "VERSION",
    ]

    /// PgBouncer itself, which does not run as root.
    private func pgBouncer() throws -> (ChildProcess, UInt16) {
        let port = try FreePort.find()
        let file = try TestResources.file("pgbouncer", """
            [databases]
            \(database) = host=127.0.0.1 port=\(servers.old.port)
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = \(port)
            unix_socket_dir =
            auth_type = any
            admin_users = godwit
            """)
        let user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--"]
        let process = try ChildProcess((geteuid() == 0 ? user : []) + ["/usr/sbin/pgbouncer", file])
        try process.errors.waitForLine(containing: "process up")
        return (process, port)
    }

    @Test func `tables have PgBouncer's columns, names, order and types, and under its name nothing else`() throws {
        let (process, port) = try pgBouncer()
        let godwit = try servers.godwit(database)
        let theirs = try WireClient(port: port, database: "pgbouncer", user: "godwit")
        let exact = try WireClient(port: godwit.port, database: "pgbouncer", user: "godwit")
        let ours = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        for show in Self.shows {
            let real = try Self.columns("SHOW \(show)", theirs)
            // One more, without which Debian's exporter works with no PgBouncer of today.
            let added = show == "STATS" ? [Column(name: "total_requests", type: 1700)] : []
            #expect(try Self.columns("SHOW \(show)", exact) == real + added, "SHOW \(show)")
            #expect(try Self.columns("SHOW \(show)", ours).prefix(real.count) == real[...], "SHOW \(show)")
        }
        for show in ["LISTS", "TOTALS"] {
            let (real, own) = (try theirs.query("SHOW \(show)"), try exact.query("SHOW \(show)"))
            #expect(own.compactMap(\.columns.first) == real.compactMap(\.columns.first), "SHOW \(show)")
        }
        // Every name of PgBouncer's configuration that we show is one of its.
        let names = Set(try theirs.query("SHOW CONFIG").compactMap(\.columns.first))
        let known = try exact.query("SHOW CONFIG").compactMap(\.columns.first).filter { names.contains($0) }
        #expect(known.count > 30 && known.contains("max_client_conn") && known.contains("default_pool_size"))
        for line in try theirs.query("SHOW HELP").compactMap({ $0.fields["D"] }).joined().split(separator: "\n") {
            let verb = line.split { $0 == "\t" || $0 == " " }.first.map(String.init) ?? ""
            let isKnown = try ours.query("SHOW HELP").contains { $0.columns.first??.hasPrefix(verb) == true }
            #expect(isKnown, "\(line)")
        }
        withExtendedLifetime(process) {}
    }

    @Test func `Debian's exporter tells the console's figures`() throws {
        let godwit = try servers.godwit(database)
        for _ in 0..<3 {
            #expect(try godwit.psql("SELECT side FROM side_marker", database: database) == "old")
        }
        let port = try FreePort.find()
        let exporter = try ChildProcess([
            "/usr/bin/prometheus-pgbouncer-exporter", "--host", "127.0.0.1", "--port", "\(port)", "--pgbouncer-host",
            "127.0.0.1", "--pgbouncer-port", "\(godwit.port)", "--pgbouncer-user", "godwit",
        ])
        try exporter.errors.waitForLine(containing: "Listing on port")
        var answer: HTTPExchange.Answer?
        try waitUntil {
            // It says that it listens before it does; each question waits for another process.
            _ = try godwit.console("SHOW VERSION")
            answer = try? HTTPExchange.get("/metrics", port: port)
            return answer != nil
        }
        let text = try #require(answer).body
        for sample in [
            "pgbouncer_requests_total{database=\"\(database)\"} 3.0",
            "pgbouncer_pool_size{database=\"\(database)\"} 20.0",
            "pgbouncer_active_clients{database=\"\(database)\",user=\"app\"} 0.0", "pgbouncer_used_clients 1.0",
        ] {
            #expect(text.contains(sample), "\(sample) is not in \(text)")
        }
    }

    @Test func `the queries of other exporters and of pgcli are answered`() throws {
        let godwit = try servers.godwit(database) { $0.threads = 2 }
        let console = try WireClient(port: godwit.port, database: "pgbouncer", user: "godwit")
        for command in [
            "SHOW STATS;", "SHOW STATS_TOTALS;", "SHOW POOLS;", "SHOW DATABASES;", "SHOW LISTS;", "SHOW CONFIG;",
            "show version;", "SET client_encoding TO 'UTF8'", "SET DateStyle = 'ISO'", "SHOW server_version",
        ] {
            #expect(try console.query(command).allSatisfy { $0.sqlState == nil }, "\(command)")
        }
        // By this pg_exporter and pgbouncer_fdw know which columns there are.
        #expect(try console.value("SHOW VERSION") == "PgBouncer 1.18.0")
        #expect(try godwit.console("SHOW VERSION").first?["version"]?.hasPrefix("Godwit ") == true)
        // By this pgcli knows that it need not ask for tables.
        for command in ["SELECT 1", "SHOW TimeZones"] {
            #expect(try console.query(command).first?.sqlState == "08P01", "\(command)")
        }
        #expect(try console.query("SHOW HELP").first?.fields["D"]?.contains("\n\tPAUSE [<database>]") == true)
        for _ in 0..<4 { _ = try godwit.psql("SELECT 1 /* user_id=7 */", database: database) }
        for show in ["POOLS", "DATABASES", "STATS", "STATS_TOTALS"] {
            let rows = try console.query("SHOW \(show)").map(\.columns).filter { !$0.isEmpty }
            let keys = rows.map { show == "POOLS" ? "\($0[0] ?? "")/\($0[1] ?? "")" : $0[0] ?? "" }
            #expect(Set(keys).count == keys.count, "SHOW \(show): \(keys)")
        }
    }

    @Test func `drivers use the console by the extended protocol`() throws {
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "12.34" }
        try runDriver("console_all", ["\(godwit.port)", database])
    }

    @Test func `the extended protocol is followed to the letter`() throws {
        let godwit = try servers.godwit(database)
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        func types(_ bytes: [UInt8]) throws -> String {
            console.send(bytes + FrameBuilder.sync)
            return String(try console.readToReady().map(\.type))
        }
        let show = FrameBuilder.parse("SHOW LISTS", name: "s")
        #expect(try types(show + FrameBuilder.describeStatement("s")) == "1tTZ")
        #expect(try types(show) == "EZ", "a name that is taken")
        #expect(try types(FrameBuilder.bind(statement: "s") + FrameBuilder.describePortal()
            + FrameBuilder.execute(rowsMax: 5) + FrameBuilder.execute(rowsMax: 5) + FrameBuilder.execute())
            == "2TDDDDDsDDDDDsDDCZ")
        #expect(try types(FrameBuilder.execute()) == "EZ", "a portal ends with its transaction")
        #expect(try types(FrameBuilder.closeStatement("s") + FrameBuilder.bind(statement: "s")) == "3EZ")
        #expect(try types(FrameBuilder.parse("RELOAD") + FrameBuilder.bind() + FrameBuilder.describePortal()
            + FrameBuilder.execute()) == "12nCZ")
        #expect(try types(FrameBuilder.parse("") + FrameBuilder.bind() + FrameBuilder.execute()) == "12IZ")
        // What comes behind an error is skipped, and not run.
        #expect(try types(FrameBuilder.parse("NONSENSE") + FrameBuilder.parse("DISABLE \(database)")
            + FrameBuilder.bind() + FrameBuilder.execute()) == "EZ")
        #expect(try types(FrameBuilder.parse("DISABLE nowhere") + FrameBuilder.bind() + FrameBuilder.execute()
            + FrameBuilder.parse("DISABLE \(database)") + FrameBuilder.bind() + FrameBuilder.execute()) == "12EZ")
        #expect(try godwit.console("SHOW DATABASES").allSatisfy { $0["disabled"] == "0" })
        #expect(try types(FrameBuilder.parse("SHOW LISTS") + FrameBuilder.bind(parameters: ["1"])) == "1EZ")
        #expect(try console.query("SHOW VERSION").map(\.type) == ["T", "D", "C", "Z"])
        for index in 0..<1000 {
            console.send(FrameBuilder.parse("SHOW LISTS", name: "n\(index)") + FrameBuilder.sync)
            _ = try console.readToReady()
        }
        console.send(FrameBuilder.parse("SHOW LISTS", name: "one more") + FrameBuilder.sync)
        #expect(try console.readToReady().first?.sqlState == "53400")
    }

    // MARK: rights

    /// Every verb, those that end the process last.
    func commands() -> [(String, isForWatchers: Bool)] {
        let shows = ConsoleCommand.Subject.allCases.map { $0.rawValue.uppercased() } + ["client_encoding"]
        let changes = [
            "PAUSE \(database)", "RESUME \(database)", "DISABLE \(database)", "ENABLE \(database)", "RECONNECT",
            "KILL \(database)", "RESUME \(database)", "KILL_CLIENT c0.999", "SUSPEND", "RESUME", "WAIT_CLOSE",
            "RELOAD", "SET query_timeout = 5", "READS \(database) 0", "SHADOW \(database) 0",
            "MIRROR PAUSE \(database)",
            "MIRROR RESUME \(database)", "MIRROR THROTTLE \(database) 5", "FORCE \(database) OLD",
            "FORCE \(database) NEW", "FORCE \(database) AUTO", "CUTOVER \(database) DRY RUN",
            "ROLLBACK \(database) DRY RUN", "CAPTURE \(database) STOP", "CAPTURE \(database) TO 'x'", "SHUTDOWN WAIT_FOR_CLIENTS",
            "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN",
        ]
        return shows.map { ("SHOW \($0)", $0 != "FDS") } + [("SET application_name = 'x'", true), ("BEGIN", true)]
            + changes.map { ($0, false) }
    }

    @Test func `admins may do everything, watchers may look, others may not come in`() throws {
        let godwit = try servers.godwit(database) {
            $0.adminUsers = ["godwit", "both"]
            $0.statsUsers = ["watcher", "both"]
        }
        let watcher = try WireClient(port: godwit.port, database: "godwit", user: "watcher")
        let simple = commands()
        // Nothing that SHOW HELP offers is left out here, and SHOW HELP leaves nothing out.
        let helped = Set(try godwit.console("SHOW HELP").compactMap { Self.verb($0["command"] ?? "") })
        let known = Set(simple.compactMap { Self.verb($0.0) })
        #expect(helped == known.subtracting(["SHOW client_encoding", "BEGIN"]), "\(helped.symmetricDifference(known))")
        for (command, isForWatchers) in simple {
            let state = try watcher.query(command).first { $0.type == "E" }?.sqlState
            #expect(state == (isForWatchers ? nil : "42501"), "\(command)")
            watcher.send(
                FrameBuilder.parse(command) + FrameBuilder.bind() + FrameBuilder.execute() + FrameBuilder.sync)
            let extended = try watcher.readToReady().first { $0.type == "E" }?.sqlState
            #expect(extended == (isForWatchers ? nil : "42501"), "\(command)")
        }
        for database in ["godwit", "pgbouncer"] {
            let other = try WireClient(port: godwit.port)
            other.send(FrameBuilder.startup([("user", "app"), ("database", database)]))
            #expect(try other.readToEnd().last?.sqlState == "42501")
        }
        let admin = try WireClient(port: godwit.port, database: "godwit", user: "both")
        var client: WireClient?
        for (command, _) in simple {
            if command.hasPrefix("SHUTDOWN") && client == nil {
                // So that there is something to wait for.
                client = try WireClient(port: godwit.port, database: database)
                _ = try client?.query("BEGIN; UPDATE side_marker SET side = side")
            }
            let state = try admin.query(command).first { $0.type == "E" }?.sqlState
            // There is no mirror here, no such client, nothing that is captured, and no directory for it.
            let isRefused = ["MIRROR", "KILL_CLIENT", "CAPTURE"].contains { command.hasPrefix($0) }
            #expect(state == (isRefused ? "22023" : nil), "\(command)")
        }
        #expect(godwit.process.wait() == .code(0))
    }

    /// `SHOW POOLS`, `PAUSE`: what is a command of its own.
    private static func verb(_ command: String) -> String? {
        let words = command.split(separator: " ").prefix(2).map(String.init)
        return words.first == "SHOW" ? words.joined(separator: " ") : words.first
    }

    @Test func `over HTTP the token opens all but the sign of life`() throws {
        let port = try FreePort.find()
        let godwit = try servers.godwit(database) {
            $0.http = ["port": "\(port)", "token_file": "DIRECTORY/token"]
            $0.files["token"] = "secret"
        }
        for (path, isOpen) in [("/healthz", true), ("/readyz", false), ("/metrics", false), ("/nothing", false)] {
            for (token, isRight) in [(String?.none, false), ("wrong", false), ("secret", true)] {
                let head = token.map { "Authorization: Bearer \($0)\r\n" } ?? ""
                let answer = try HTTPExchange(port: port)
                    .send("GET \(path) HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\(head)\r\n").answer()
                let expected = !isOpen && !isRight ? 401 : path == "/nothing" ? 404 : 200
                #expect(answer.status == expected, "\(path) with \(token ?? "no token")")
            }
        }
        withExtendedLifetime(godwit) {}
    }
}
