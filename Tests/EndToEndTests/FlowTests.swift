import Foundation
import TestSupport
import Testing

/// Much at once, and clients that do not read: nothing deadlocks, and memory stays within bounds.
@Suite(.serialized) struct FlowTests {
    let servers: Servers
    let database: String
    let godwit: GodwitProcess

    private typealias Frame = FrameBuilder

    init() throws {
        servers = try Servers.shared.get()
        database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY, v text)")
        godwit = try servers.godwit(database)
    }

    private func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }

    /// The most that Godwit's process has had so far.
    private func residentBytes() throws -> Int {
        let status = try String(contentsOfFile: "/proc/\(godwit.process.pid)/status", encoding: .utf8)
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") })
        let kibibytes = try #require(line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) })
        return kibibytes * 1024
    }

    /// Waits until a server of this database waits for somebody to read what it sends.
    private func waitUntilStalled() throws {
        try waitUntil {
            try servers.old.psql("""
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = '\(database)' AND state = 'active' AND wait_event = 'ClientWrite'
                """) == "1"
        }
    }

    @Test(arguments: [1_000, 20_000])
    func `Syncs in flight are all answered, in order`(count: Int) throws {
        let client = try connect()
        let before = try residentBytes()
        var frames: [UInt8] = []
        for number in 0..<count {
            frames += Frame.parse("SELECT \(number % 7), repeat('x', 5000)") + Frame.bind() + Frame.execute() + Frame.sync
        }
        client.sendMeanwhile(frames)
        for number in 0..<count {
            let answers = try client.readToReady()
            #expect(answers.map(\.type) == ["1", "2", "D", "C", "Z"])
            #expect(answers.first { $0.type == "D" }?.columns.first == "\(number % 7)")
        }
        #expect(try residentBytes() - before < 64 << 20)
    }

    @Test func `long texts in one batch are not kept`() throws {
        let (client, count) = (try connect(), 200)
        let before = try residentBytes()
        let text = String(repeating: "x", count: 1_000_000)
        client.sendMeanwhile((1...count).flatMap {
            Frame.parse("SELECT \($0), length('\(text)')") + Frame.bind() + Frame.execute()
        } + Frame.sync)
        let rows = try client.readToReady().filter { $0.type == "D" }
        #expect(rows.map(\.columns) == (1...count).map { ["\($0)", "1000000"] })
        #expect(try residentBytes() - before < 100 << 20)
    }

    @Test func `settings of a long pipeline are all made, in order, and its last one stays`() throws {
        let (client, count) = (try connect(), 20_000)
        client.sendMeanwhile((1...count).flatMap { Frame.query("SELECT set_config('app.number', '\($0)', false)") })
        for number in 1...count {
            #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["\(number)"])
        }
        #expect(try client.value("SELECT current_setting('app.number')") == "\(count)")
        #expect(try connect().value("SELECT coalesce(current_setting('app.number', true), '')") == "")
    }

    @Test func `hundreds of megabytes for a client that does not read stay with the server`() throws {
        let slow = try connect()
        let before = try residentBytes()
        slow.send(Frame.query("SELECT repeat('z', 1000000) FROM generate_series(1, 200)"))
        try waitUntilStalled()
        #expect(try residentBytes() - before < 16 << 20)
        let other = try connect()
        #expect(try other.value("SELECT 1") == "1")
        var rows = 0
        while let message = try slow.read(), message.type != "Z" {
            if message.type == "D" {
                rows += 1
                #expect(message.body.count == 1_000_006)
            }
        }
        #expect(rows == 200)
        #expect(try residentBytes() - before < 16 << 20)
    }

    @Test func `one row of a hundred megabytes streams through`() throws {
        let client = try connect()
        let before = try residentBytes()
        client.send(Frame.query("SELECT repeat('z', 100000000)"))
        try waitUntilStalled()
        #expect(try residentBytes() - before < 16 << 20)
        #expect(try client.readToReady().first { $0.type == "D" }?.body.count == 100_000_006)
        // And the other way: a parameter of that size.
        let value = String(repeating: "y", count: 50_000_000)
        client.send(
            Frame.parse("SELECT length($1)") + Frame.bind(parameters: [value]) + Frame.execute() + Frame.sync)
        #expect(try client.readToReady().first { $0.type == "D" }?.columns.first == "50000000")
        #expect(try residentBytes() - before < 16 << 20)
    }

    /// A query whose description is longer than what is received at once.
    private static let wide = "SELECT "
        + (100..<1000).map { "\($0) AS \(String(repeating: "c", count: 60))\($0)" }.joined(separator: ", ")

    @Test(arguments: ["", "wide"])
    func `a description that comes in pieces is whole for who asks for it by Flush`(name: String) throws {
        let client = try connect()
        client.send(Frame.parse(Self.wide, name: name) + Frame.describeStatement(name) + Frame.flush)
        let answers = try (0..<3).compactMap { _ in try client.read() }
        #expect(answers.map(\.type) == ["1", "t", "T"])
        #expect(answers.last?.columnNames.count == 900)
        client.send(Frame.bind(statement: name) + Frame.execute() + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["2", "D", "C", "Z"])
    }

    /// The end of the row stays in the server's memory until it is asked for: by us, for the client has no more to send.
    @Test func `what waits for the answers before it waits for no row that is there in part`() throws {
        let client = try connect()
        let row = Frame.parse("SELECT repeat('wide', 5000)", name: "b") + Frame.bind(statement: "b") + Frame.execute()
        // It has to come together with the end of what is before it: some units, and some tries.
        let named = Frame.parse("SELECT 1", name: "a") + Frame.sync + Frame.sync
        let taken = Frame.parse("SELECT 2", name: "a") + Frame.sync
        for _ in 0..<100 {
            client.send(named + row + taken + Frame.closeStatement("a") + Frame.closeStatement("b") + Frame.sync)
            let answers = try (0..<4).flatMap { _ in try client.readToReady() }
            #expect(answers.map(\.type) == ["1", "Z", "Z", "1", "2", "D", "C", "E", "Z", "3", "3", "Z"])
            #expect(answers.compactMap(\.sqlState) == ["42P05"])
        }
    }

    @Test func `a long text behind a thousand names that are given up is read to its end`() throws {
        let client = try connect()
        let names = (0...1000).map { "s\($0)" }
        client.send(names.flatMap { Frame.parse("SELECT 1", name: $0) } + Frame.sync)
        #expect(try client.readToReady().count == names.count + 1)
        // It has a server, which says nothing of what Godwit answers.
        for text in ["BEGIN", "INSERT INTO t VALUES (1, 'x')"] { _ = try client.query(text) }
        let text = "SELECT 2 -- " + String(repeating: "x", count: 500_000)
        client.sendMeanwhile(
            names.flatMap { Frame.closeStatement($0) }
                + Frame.parse(text) + Frame.bind() + Frame.execute() + Frame.sync)
        let answers = try client.readToReady()
        #expect(answers.prefix { $0.type == "3" }.count == names.count)
        #expect(answers.dropFirst(names.count).map(\.type) == ["1", "2", "D", "C", "Z"])
    }

    @Test func `what Godwit answers itself does not come within a description`() throws {
        let client = try connect()
        client.send(Frame.parse(Self.wide, name: "a") + Frame.parse("SELECT 1", name: "b") + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["1", "1", "Z"])
        // The server has both texts: it gets no Parse, and no Close.
        client.send(Frame.parse(Self.wide, name: "c") + Frame.describeStatement("c")
            + Frame.parse("SELECT 1", name: "d") + Frame.describeStatement("d")
            + Frame.closeStatement("d") + Frame.sync)
        let answers = try client.readToReady()
        #expect(answers.map(\.type) == ["1", "t", "T", "1", "t", "T", "3", "Z"])
        #expect(answers.filter { $0.type == "T" }.map(\.columnNames.count) == [900, 1])
    }

    /// What Godwit keeps for its clients.
    private func unsentBytes() throws -> Int {
        try godwit.console("SHOW SOCKETS").filter { $0["type"] == "C" && $0["database"] == database }
            .reduce(0) { $0 + (Int($1["send_remain"] ?? "") ?? 0) }
    }

    @Test func `who reads nothing of what Godwit itself answers is not read, and costs no memory`() throws {
        let client = try connect()
        // Nobody has such a statement, and without Flush or Sync no server says anything.
        let close = Frame.closeStatement("x")
        client.sendMeanwhile((0..<5_000_000).flatMap { _ in close })
        var unsent = -1
        try waitUntil {
            let before = unsent
            unsent = try unsentBytes()
            return unsent > 0 && unsent == before
        }
        #expect(unsent < 1 << 20)
        #expect(try connect().value("SELECT 1") == "1")
        client.endSending()
    }

    /// Leaves answers unread until some of what the client is sent stays with Godwit; all of them are whole there.
    private func fill(_ client: WireClient) throws {
        func asked() throws -> Int {
            let row = try godwit.console("SHOW STATS").first { $0["database"] == database }
            return try #require(row?["total_query_count"].flatMap { Int($0) })
        }
        var count = try asked()
        while try unsentBytes() == 0 {
            client.send(Frame.query("SELECT repeat('x', 200000)"))
            count += 1
            try waitUntil { try asked() == count }
        }
    }

    @Test(arguments: [false, true])
    func `who breaks the protocol and reads nothing keeps nobody else waiting`(isInTransaction: Bool) throws {
        let (client, other) = (try connect(), try connect())
        if isInTransaction { for text in ["BEGIN", "SELECT v FROM t FOR UPDATE"] { _ = try client.query(text) } }
        try fill(client)
        // A Bind without the end of a name.
        client.send(Frame.message("B", [0x78]) + Frame.sync)
        #expect(try other.value("SELECT 1") == "1")
        #expect(try client.readToEnd().last?.sqlState == "08P01")
    }

    @Test func `who reads nothing, not even that it has to go, is gone when it is killed again`() throws {
        let client = try connect()
        try fill(client)
        func killed() throws -> String? {
            let row = try godwit.console("SHOW CLIENTS").first { $0["database"] == database }
            guard let id = row?["id"] else { return nil }
            _ = try godwit.console("KILL_CLIENT \(id)")
            return id
        }
        let first = try killed()
        #expect(try first != nil && killed() == first)
        #expect(try killed() == nil)
    }

    @Test func `an error of ours does not come within a message of the server`() throws {
        let client = try connect()
        client.send(Frame.query("SELECT repeat('x', 50000000)"))
        // So much that the server is not read any more.
        try waitUntil { try unsentBytes() > 256 * 1024 }
        client.send(Frame.message("B", [0x78]) + Frame.sync)
        // The row has no end, rather than one that is not its own, and nothing behind it is waited for.
        try waitUntil { try !godwit.console("SHOW CLIENTS").contains { $0["database"] == database } }
        #expect(throws: TestFailure.self) { try client.readToEnd() }
    }

    @Test func `a notification is not lost that comes while the server is asked whether it still listens`() throws {
        let (listener, owner) = (try connect(), try WireClient(
            port: servers.old.port, database: database, user: PostgresCluster.superuser))
        // What Godwit asks after LISTEN waits for this.
        _ = try owner.query("BEGIN; LOCK TABLE pg_catalog.pg_depend")
        _ = try listener.query("LISTEN news")
        try waitUntil {
            try servers.old.psql("""
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = '\(database)' AND wait_event_type = 'Lock' AND query LIKE '%pg_listening_channels%'
                """) == "1"
        }
        try servers.old.psql("NOTIFY news, 'hot'", database: database)
        _ = try owner.query("COMMIT")
        listener.send(Frame.query("SELECT 1"))
        #expect(try listener.readToReady().map(\.type) == ["A", "T", "D", "C", "Z"])
    }

    @Test func `a query that comes while the server is asked about pins counts with its own time`() throws {
        let (listener, owner) = (try connect(), try WireClient(
            port: servers.old.port, database: database, user: PostgresCluster.superuser))
        _ = try owner.query("BEGIN; LOCK TABLE pg_catalog.pg_depend")
        _ = try listener.query("LISTEN news")
        listener.send(Frame.query("SELECT 1"))
        _ = try owner.query("SELECT pg_sleep(0.5); COMMIT")
        #expect(try listener.readToReady().map(\.type) == ["T", "D", "C", "Z"])
        let row = try godwit.console("SHOW STATS").first { $0["database"] == database }
        // Microseconds. Without its beginning it would be as old as the machine.
        let micros = try #require(row?["total_query_time"].flatMap { Int($0) })
        #expect(micros < 600_000_000)
    }

    @Test func `a notification reaches the one that listens, who is pinned for it until UNLISTEN`() throws {
        let listener = try connect()
        _ = try listener.query("LISTEN news")
        #expect(try godwit.console("SHOW PINS").map { $0["reason"] } == ["LISTEN"])
        let speaker = try connect()
        _ = try speaker.query("NOTIFY news, 'hot'")
        let note = try #require(try listener.read())
        #expect(note.type == "A")
        #expect(String(decoding: note.body.dropFirst(4), as: UTF8.self) == "news\0hot\0")
        _ = try listener.query("UNLISTEN news")
        try waitUntil { try godwit.console("SHOW PINS").isEmpty }
    }

    @Test(arguments: ["database", "true", "1"])
    func `a replication connection is refused with where to go instead`(value: String) throws {
        let client = try WireClient(port: godwit.port)
        client.send(Frame.startup([("user", "app"), ("database", database), ("replication", value)]))
        let error = try #require(try client.readToError())
        #expect(error.sqlState == "0A000")
        #expect(try client.readToEnd().isEmpty)
    }

    @Test func `servers are reached by their Unix sockets too`() throws {
        let marked = try servers.makeMarkedDatabase()
        let godwit = try servers.godwit(marked) {
            $0.database.old = "host=\(servers.old.directory) port=\(servers.old.port) dbname=\(marked)"
            $0.database.new = "host=\(servers.new.directory) port=\(servers.new.port) dbname=\(marked)"
            $0.database.readsPercent = "100"
        }
        let client = try WireClient(port: godwit.port, database: marked)
        #expect(try client.value("SELECT side FROM side_marker") == "new")
        #expect(try client.value("SELECT side FROM side_marker FOR UPDATE") == "old")
    }
}
