import TestSupport
import Testing

/// Settings in startup packets: what clients are told of them, and what holds for them.
@Suite(.serialized) struct StartupTests {
    typealias Frame = FrameBuilder

    let servers: Servers
    let database: String

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeDatabase("CREATE TABLE t (id int, v text)")
    }

    func godwit(threads: Int = 1, size: Int = 1) throws -> GodwitProcess {
        try servers.godwit(database) {
            $0.threads = threads
            $0.database.pool = ["size": "\(size)"]
        }
    }

    /// A client that was let in, and what it was told.
    struct Greeted {
        let client: WireClient
        let told: [String: String]

        init(
            port: UInt16, _ database: String, user: String = "app", _ parameters: [(String, String)] = []
        ) throws {
            client = try WireClient(port: port)
            client.send(Frame.startup([("user", user), ("database", database)] + parameters))
            told = StartupTests.settings(in: try client.readToReady())
        }
    }

    /// What messages say of settings, the last of each name.
    static func settings(in messages: [WireClient.Message]) -> [String: String] {
        var settings: [String: String] = [:]
        for message in messages where message.type == "S" {
            let texts = message.body.split(separator: 0, omittingEmptySubsequences: false)
            settings[String(decoding: texts[0], as: UTF8.self)] = String(decoding: texts[1], as: UTF8.self)
        }
        return settings
    }

    static let packets: [[(String, String)]] = [
        [],
        [("application_name", "tests")],
        [("client_encoding", "LATIN1")],
        [("client_encoding", "latin1")],
        [("client_encoding", "'utf-8'")],
        [("DateStyle", "ISO"), ("TimeZone", "europe/berlin"), ("extra_float_digits", "2")],
        [("datestyle", "ymd")],
        [("options", "-c standard_conforming_strings=off -c IntervalStyle=ISO_8601")],
        [("options", "-c standard_conforming_strings=no"), ("TimeZone", "-3")],
        [("options", "-c default_transaction_read_only=1 -c search_path=a,b"), ("client_encoding", "UTF8")],
    ]

    @Test func `a value in another Unicode form than the client's before is the client's own`() throws {
        let godwit = try godwit()
        for (value, length) in [("caf\u{E9}", "4"), ("cafe\u{301}", "5"), ("caf\u{E9}", "4")] {
            let client = try Greeted(port: godwit.port, database, [("app.tenant", value)]).client
            #expect(try client.value("SELECT length(current_setting('app.tenant'))") == length)
        }
    }

    @Test(arguments: [1, 2]) func `a client is told what PostgreSQL itself would tell it`(threads: Int) throws {
        let godwit = try godwit(threads: threads, size: 2)
        // The second time what the first has asked is known, and servers have had the settings of all.
        for _ in 1...2 {
            for packet in Self.packets {
                let direct = try Greeted(port: servers.old.port, database, packet)
                let through = try Greeted(port: godwit.port, database, packet)
                #expect(through.told == direct.told, "\(packet)")
                // A server has our name while its client has none.
                for name in direct.told.keys where name != "application_name" {
                    #expect(
                        try through.client.value("SHOW \(name)") == direct.client.value("SHOW \(name)"),
                        "\(name) of \(packet)")
                }
            }
        }
    }

    private static let defaults = "SET DateStyle = 'SQL, DMY'; SET standard_conforming_strings = off"

    /// A role with values of its own in this database.
    private func makeRole(_ name: String) throws {
        for server in [servers.old, servers.new] {
            try server.createRole(name)
            for set in Self.defaults.split(separator: ";") {
                try server.psql("ALTER ROLE \(name) IN DATABASE \(database) \(set)")
            }
        }
    }

    @Test(arguments: [1, 2]) func `a client is told what its own role has`(threads: Int) throws {
        let role = "greeted\(threads)"
        try makeRole(role)
        let godwit = try godwit(threads: threads, size: 2)
        for _ in 1...2 {
            for user in ["app", role, "app"] {
                let direct = try Greeted(port: servers.old.port, database, user: user)
                let through = try Greeted(port: godwit.port, database, user: user)
                #expect(through.told == direct.told, "\(user)")
                #expect(through.told["DateStyle"] == (user == role ? "SQL, DMY" : "ISO, MDY"))
                #expect(try through.client.value("SHOW DateStyle") == through.told["DateStyle"])
            }
        }
    }

    @Test func `who was greeted without a server of its own role is told the rest with its first one`() throws {
        try makeRole("greeted_late")
        let godwit = try godwit()
        _ = try Greeted(port: godwit.port, database)
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        _ = try console.query("PAUSE \(database)")
        let early = try Greeted(port: godwit.port, database, user: "greeted_late")
        #expect(early.told["session_authorization"] ?? "greeted_late" == "greeted_late")
        _ = try console.query("RESUME \(database)")
        let told = Self.settings(in: try early.client.query("SELECT 1"))
        #expect(told == ["DateStyle": "SQL, DMY", "standard_conforming_strings": "off"])
        #expect(Self.settings(in: try early.client.query("SELECT 1")).isEmpty)
    }

    @Test func `who comes behind a failover is told so, though no server has logged in anew`() throws {
        let relay = try TCPRelay(to: servers.old.port)
        let godwit = try servers.godwit(database) {
            $0.database.pool = ["size": "1"]
            $0.database.old = "host=127.0.0.1 port=\(relay.port) dbname=\(database)"
        }
        #expect(try Greeted(port: godwit.port, database).told["in_hot_standby"] == "off")
        for value in ["on", "off"] {
            relay.say(Frame.message("S", Array("in_hot_standby\0\(value)\0".utf8)))
            try waitUntil { try Greeted(port: godwit.port, database).told["in_hot_standby"] == value }
        }
        let backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = '\(database)' AND usename = 'app'"
        #expect(try servers.old.psql(backends) == "1")
    }

    @Test func `a login does not wait for as long as those who have the servers`() throws {
        let godwit = try godwit()
        let busy = try Greeted(port: godwit.port, database)
        _ = try busy.client.query("BEGIN; SELECT txid_current()")
        let packet = [("client_encoding", "latin9"), ("TimeZone", "europe/berlin")]
        let early = try Greeted(port: godwit.port, database, packet)
        #expect(early.told["client_encoding"] == "LATIN9")
        #expect(early.told["TimeZone"] == "europe/berlin")
        _ = try busy.client.query("COMMIT")
        #expect(Self.settings(in: try early.client.query("SELECT 1"))["TimeZone"] == "Europe/Berlin")
        #expect(try early.client.value("SHOW TimeZone") == "Europe/Berlin")
    }

    @Test func `a client has its encoding on a server that another has left with the same one`() throws {
        let godwit = try godwit()
        let latin1 = [("client_encoding", "LATIN1")]
        let first = try Greeted(port: godwit.port, database, latin1)
        #expect(first.told["client_encoding"] == "LATIN1")
        let insert = Frame.message("Q", Array("INSERT INTO t VALUES (1, '".utf8) + [0xE9] + Array("')".utf8) + [0])
        first.client.send(insert)
        #expect(try first.client.readToReady().contains { $0.commandTag == "INSERT 0 1" })

        let second = try Greeted(port: godwit.port, database, latin1)
        #expect(second.told["client_encoding"] == "LATIN1")
        let row = try second.client.query("SELECT v FROM t").first { $0.type == "D" }
        #expect(row?.body == [0, 1, 0, 0, 0, 1, 0xE9])

        let other = try Greeted(port: godwit.port, database, [])
        #expect(other.told["client_encoding"] == "UTF8")
        #expect(try other.client.value("SELECT v FROM t") == "\u{e9}")
    }

    @Test(arguments: ["LATIN1", "SQL_ASCII"])
    func `who names no encoding has the database's`(encoding: String) throws {
        let name = "\(database)_\(encoding.lowercased())"
        for server in [servers.old, servers.new] {
            try server.psql("""
                CREATE DATABASE \(name) OWNER app ENCODING '\(encoding)' TEMPLATE template0
                    LC_COLLATE 'C' LC_CTYPE 'C'
                """)
            try server.psql("SET ROLE app; CREATE TABLE t (id int, v text)", database: name)
        }
        let godwit = try servers.godwit(name) { $0.database.pool = ["size": "1"] }
        let insert = Frame.message("Q", Array("INSERT INTO t VALUES (1, '".utf8) + [0xE9] + Array("')".utf8) + [0])
        for port in [servers.old.port, godwit.port] {
            let greeted = try Greeted(port: port, name)
            #expect(greeted.told["client_encoding"] == encoding)
            greeted.client.send(insert)
            #expect(try greeted.client.readToReady().contains { $0.commandTag == "INSERT 0 1" })
            let row = try greeted.client.query("SELECT v FROM t").first { $0.type == "D" }
            #expect(row?.body == [0, 1, 0, 0, 0, 1, 0xE9])
        }
        // Who names one has that, and who comes behind it the database's again, also behind a RESET.
        #expect(try Greeted(port: godwit.port, name, [("client_encoding", "UTF8")]).client.value("SELECT 1") == "1")
        let last = try Greeted(port: godwit.port, name)
        _ = try last.client.query("RESET ALL")
        #expect(try last.client.value("SHOW client_encoding") == encoding)
    }

    @Test func `what a value leaves open is the default, not what the client before had`() throws {
        for server in [servers.old, servers.new] {
            try server.psql("ALTER DATABASE \(database) SET DateStyle = 'SQL, DMY'")
        }
        let godwit = try godwit()
        #expect(try Greeted(port: godwit.port, database, []).told["DateStyle"] == "SQL, DMY")
        let iso = try Greeted(port: godwit.port, database, [("DateStyle", "ISO")])
        let other = try Greeted(port: godwit.port, database, [("DateStyle", "German, YMD")])
        #expect(other.told["DateStyle"] == "German, YMD")
        #expect(try other.client.value("SHOW DateStyle") == "German, YMD")
        #expect(iso.told["DateStyle"] == "ISO, DMY")
        #expect(try iso.client.value("SHOW DateStyle") == "ISO, DMY")
    }

    @Test func `a login with what others have had waits for no server`() throws {
        let godwit = try godwit()
        let packet = [("DateStyle", "ISO"), ("client_encoding", "latin1")]
        let busy = try Greeted(port: godwit.port, database, packet)
        _ = try busy.client.query("BEGIN; SELECT txid_current()")
        // The only server is taken.
        #expect(try Greeted(port: godwit.port, database, packet).told["client_encoding"] == "LATIN1")
        #expect(try Greeted(port: godwit.port, database, [("client_encoding", "UTF8")]).told["TimeZone"] != nil)
        let new = try WireClient(port: godwit.port)
        new.send(Frame.startup([("user", "app"), ("database", database), ("client_encoding", "latin9")]))
        try waitUntil { try godwit.console("SHOW POOLS").contains { $0["cl_waiting"] == "1" } }
        _ = try busy.client.query("COMMIT")
        #expect(try Self.settings(in: new.readToReady())["client_encoding"] == "LATIN9")
    }

    @Test func `a value that PostgreSQL refuses is refused at the login`() throws {
        let godwit = try godwit()
        _ = try Greeted(port: godwit.port, database, [])
        for packet in [("client_encoding", "nonsense"), ("TimeZone", "nowhere"), ("options", "-c IntervalStyle=x")] {
            let errors = try [servers.old.port, godwit.port].map { port in
                let client = try WireClient(port: port)
                client.send(Frame.startup([("user", "app"), ("database", database), packet]))
                return try client.readToEnd().last { $0.type == "E" }?.fields
            }
            #expect(errors[0]?["S"] == "FATAL")
            for field in ["S", "C", "M"] as [Character] { #expect(errors[0]?[field] == errors[1]?[field], "\(packet)") }
        }
        #expect(try Greeted(port: godwit.port, database, []).client.value("SHOW client_encoding") == "UTF8")
    }

    @Test func `while no server can be had a client is let in, and told the rest with its first one`() throws {
        let godwit = try godwit()
        _ = try Greeted(port: godwit.port, database, [])
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        _ = try console.query("PAUSE \(database)")
        let packet = [
            ("client_encoding", "latin1"), ("TimeZone", "europe/berlin"),
            ("options", "-c standard_conforming_strings=false"),
        ]
        let early = try Greeted(port: godwit.port, database, packet)
        #expect(early.told["client_encoding"] == "LATIN1")
        #expect(early.told["standard_conforming_strings"] == "off")
        #expect(early.told["TimeZone"] == "europe/berlin")
        _ = try console.query("RESUME \(database)")
        let answers = try early.client.query("SHOW TimeZone")
        #expect(Self.settings(in: answers)["TimeZone"] == "Europe/Berlin")
        #expect(answers.contains { $0.columns == ["Europe/Berlin"] })
        #expect(try Greeted(port: godwit.port, database, packet).told["TimeZone"] == "Europe/Berlin")
    }

    @Test(
        arguments: ["RESET client_encoding", "RESET ALL", "DISCARD ALL", "SET client_encoding TO DEFAULT"],
        ["transaction", "session"])
    func `who goes back to its start is told its own value`(reset: String, mode: String) throws {
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "1", "pool_mode": mode] }
        let latin1 = [("client_encoding", "latin1")]
        for change in ["SELECT 1", "SET client_encoding = 'UTF8'"] {
            let client = try Greeted(port: godwit.port, database, latin1)
            var told = client.told
            for sql in [change, reset] { told.merge(Self.settings(in: try client.client.query(sql))) { $1 } }
            #expect(told["client_encoding"] == "LATIN1", "\(change)")
            if mode == "transaction" {
                // The server has what another client wants, who wants the same.
                #expect(try Greeted(port: godwit.port, database, latin1).client.value("SELECT 1") == "1")
            }
            let answers = try client.client.query("SHOW client_encoding")
            told.merge(Self.settings(in: answers)) { $1 }
            #expect(answers.contains { $0.columns == ["LATIN1"] }, "\(change)")
            #expect(told["client_encoding"] == "LATIN1", "\(change)")
            client.client.send(Frame.terminate)
            #expect(try client.client.readToEnd().allSatisfy { $0.type == "S" })
        }
    }
}
