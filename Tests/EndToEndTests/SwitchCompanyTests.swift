import Foundation
import Glibc
import TestSupport
import Testing

/// Several Godwits before one database: whichever switches, all hold and follow, and no dead one is waited for long.
@Suite(.serialized) struct SwitchCompanyTests {
    let one: SwitchTests
    var servers: Servers { one.servers }

    init() throws { one = try SwitchTests() }

    private func second(_ database: String, environment: [String: String] = [:]) throws -> GodwitProcess {
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        return try GodwitProcess(configuration, environment: environment)
    }

    /// In SHOW AUTHORITY.
    private func waitForAuthority(_ side: String, _ godwits: [GodwitProcess]) throws {
        for godwit in godwits { try waitUntil { try one.authority(godwit) == side } }
    }

    private func waitForCompany(_ count: Int, _ database: String, _ server: PostgresCluster) throws {
        try waitUntil {
            try server.psql(
                "SELECT count(*) FROM godwit.proxy WHERE seen > clock_timestamp() - interval '4 s'", database: database)
                .hasPrefix("\(count)")
        }
    }

    /// SHOW MIRROR of whichever has the mirror.
    private func waitForMirror(_ godwits: [GodwitProcess]) throws {
        try waitUntil {
            try godwits.contains { try $0.console("SHOW MIRROR").first?["state"] == "mirroring" }
        }
    }

    /// Only the Godwit that mirrors knows how far its mirror is: that one switches.
    private func mirroring(_ godwits: [GodwitProcess]) throws -> GodwitProcess {
        var found: GodwitProcess?
        try waitUntil {
            found = try godwits.first { try $0.console("SHOW MIRROR").first?["state"] == "mirroring" }
            return found != nil
        }
        return try #require(found)
    }

    /// Not while it settles something: nobody else could switch then.
    func putToSleep(_ godwit: GodwitProcess, _ database: String) throws {
        while true {
            try godwit.suspend()
            let isAlone = try [servers.old, servers.new].allSatisfy {
                try $0.psql("""
                    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                       AND classid::bigint << 32 | objid::bigint = 7451605422
                    """, database: database) == "0"
            }
            if isAlone { return }
            godwit.process.send(SIGCONT)
        }
    }

    @Test func `writers through two Godwits go on through cutovers and rollbacks without an error`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let godwits = [try servers.mirroring(database), try second(database)]
        try waitForCompany(2, database, servers.old)
        let writers = try godwits.enumerated().map { index, godwit in
            try SwitchTests.Writers(one.conninfo(godwit, database), clients: 2, first: 1 + 2 * index)
        }
        for round in 0..<4 {
            let verb = round % 2 == 0 ? "CUTOVER" : "ROLLBACK"
            for writer in writers { try writer.awaitMore() }
            try one.switchOver(try mirroring(godwits), verb, database, "DEADLINE 60000")
            let side = round % 2 == 0 ? "new" : "old"
            try waitForAuthority(side, godwits)
            try waitForCompany(2, database, side == "new" ? servers.new : servers.old)
        }
        for writer in writers {
            try writer.awaitMore()
            let outcome = try writer.end()
            #expect(outcome.errors == [])
            try one.expectWhole(outcome, database, authority: "old")
        }
        try waitForMirror(godwits)
        try one.expectEqual(database)
    }

    @Test func `behind a switch that was given up the next one is held for as well`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let first = try servers.mirroring(database), other = try second(database)
        try waitForCompany(2, database, servers.old)
        // A lock of rows is none of the guard rails', and in the way of the hold.
        let open = try WireClient(port: first.port, database: database)
        _ = try open.query("BEGIN; SELECT FROM accounts WHERE id = 7 FOR UPDATE")
        #expect(throws: (any Error).self) { try first.console("CUTOVER \(database) WITHOUT VERIFY DEADLINE 2000") }
        #expect(try open.query("COMMIT").contains { $0.commandTag == "COMMIT" })
        try one.switchOver(first, "CUTOVER", database)
        try waitForAuthority("new", [first, other])
    }

    @Test func `one that slept until it counted as gone asks who has the writes before it goes on, and no client sees it`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let first = try servers.mirroring(database), sleeper = try second(database)
        try waitForCompany(2, database, servers.old)
        let clients = try (0..<3).map { _ in try WireClient(port: sleeper.port, database: database) }
        for (index, client) in clients.enumerated() {
            #expect(try client.query("INSERT INTO entries VALUES (\(index), 1)").first?.type == "C")
        }
        // Behind its next sign it knows that it is not alone, and has noted so before the one after that.
        let signs = "SELECT seen FROM godwit.proxy WHERE id LIKE '\(sleeper.process.pid)-%'"
        for _ in 0..<2 {
            let sign = try servers.old.psql(signs, database: database)
            try waitUntil { try servers.old.psql(signs, database: database) != sign }
        }

        try putToSleep(sleeper, database)
        defer { sleeper.process.send(SIGCONT) }
        clients[0].send(FrameBuilder.query("INSERT INTO entries VALUES (0, 2)"))
        clients[1].send(FrameBuilder.query("BEGIN; INSERT INTO entries VALUES (1, 2); COMMIT"))
        clients[2].send(FrameBuilder.parse("INSERT INTO entries VALUES (2, 2)") + FrameBuilder.bind()
            + FrameBuilder.execute() + FrameBuilder.message("S"))
        try one.switchOver(first, "CUTOVER", database, "DEADLINE 30000")
        sleeper.process.send(SIGCONT)
        for client in clients {
            let answer = try client.readToReady()
            #expect(!answer.contains { $0.type == "E" }, "\(answer)")
        }
        #expect(try servers.new.psql("SELECT count(*) FROM entries WHERE n = 2", database: database) == "3")
        try waitForAuthority("new", [first, sleeper])
        try one.waitForMirror(first)
        try one.expectEqual(database)
    }

    @Test func `one that is told to reload while it holds for another's switch goes on all the same`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let first = try servers.mirroring(database), other = try second(database)
        try waitForCompany(2, database, servers.old)
        let writer = try WireClient(port: other.port, database: database)
        _ = try writer.query("BEGIN; INSERT INTO entries VALUES (1, 1)")
        let console = try WireClient(port: first.port, database: "godwit", user: "godwit")
        console.send(FrameBuilder.query("CUTOVER \(database) WITHOUT VERIFY DEADLINE 30000"))
        // When the other one itself holds, and not only has been asked to, a write that comes waits.
        let late = try WireClient(port: other.port, database: database)
        try waitUntil { try other.console("SHOW DATABASES").contains { $0["hold"]?.isEmpty == false } }
        late.send(FrameBuilder.query("INSERT INTO entries VALUES (2, 2)"))
        try waitUntil {
            try other.console("SHOW CLIENTS").contains { $0["database"] == database && $0["state"] == "waiting" }
        }
        _ = try other.console("SHADOW \(database) 1")
        #expect(try writer.query("COMMIT").contains { $0.type == "C" })
        #expect(try !console.readToReady().contains { $0.type == "E" })
        #expect(try !late.readToReady().contains { $0.type == "E" })
        try waitForAuthority("new", [first, other])
        #expect(try late.query("INSERT INTO entries VALUES (3, 3)").contains { $0.type == "C" })
    }

    @Test func `one that missed a switch and the way back goes on as before, and holds at the next`() throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let first = try servers.mirroring(database), sleeper = try second(database)
        try waitForCompany(2, database, servers.old)
        let client = try WireClient(port: sleeper.port, database: database)
        #expect(try client.query("INSERT INTO entries VALUES (1, 1)").contains { $0.type == "C" })
        try putToSleep(sleeper, database)
        defer { sleeper.process.send(SIGCONT) }
        try one.switchOver(first, "CUTOVER", database, "DEADLINE 30000")
        try one.waitForMirror(first)
        try one.switchOver(first, "ROLLBACK", database, "DEADLINE 30000")
        try one.waitForMirror(first)
        sleeper.process.send(SIGCONT)
        #expect(try client.query("INSERT INTO entries VALUES (1, 2)").contains { $0.type == "C" })
        // The number of the switch, which its lease goes by, is known where the next one is looked out for.
        try waitUntil { try sleeper.console("SHOW AUTHORITY").first?["epoch"] == "2" }
        try waitForCompany(2, database, servers.old)
        let clients = try (0..<3).map { _ in try WireClient(port: sleeper.port, database: database) }
        let signs = "SELECT seen FROM godwit.proxy WHERE id LIKE '\(sleeper.process.pid)-%'"
        for _ in 0..<2 {
            let sign = try servers.old.psql(signs, database: database)
            try waitUntil { try servers.old.psql(signs, database: database) != sign }
        }
        try putToSleep(sleeper, database)
        for (index, client) in clients.enumerated() {
            client.send(FrameBuilder.query("INSERT INTO entries VALUES (2, \(index))"))
        }
        try one.switchOver(first, "CUTOVER", database, "DEADLINE 30000")
        sleeper.process.send(SIGCONT)
        for client in clients {
            let answer = try client.readToReady()
            #expect(!answer.contains { $0.type == "E" }, "\(answer)")
        }
        try waitForAuthority("new", [first, sleeper])
    }

    @Test(arguments: ["fence", "claim", "swap"])
    func `when the one that switches is killed, the other settles it and goes on`(step: String) throws {
        let database = try servers.makeDatabase(SwitchTests.schema, old: SwitchTests.rows)
        let first = try servers.mirroring(database)
        #expect(first.terminate() == .code(0))
        let dying = try second(database, environment: ["GODWIT_DIE_BEFORE": step])
        try one.waitForMirror(dying)
        let other = try second(database)
        try waitForCompany(2, database, servers.old)
        let writers = try SwitchTests.Writers(one.conninfo(other, database))
        try writers.awaitMore()
        #expect(throws: (any Error).self) {
            try dying.console("CUTOVER \(database) DEADLINE 60000 WITHOUT VERIFY")
        }
        #expect(dying.process.wait() == .signal(SIGKILL))
        let side = step == "swap" ? "new" : "old"
        try waitForAuthority(side, [other])
        try writers.awaitMore()
        try writers.awaitMore()
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try one.expectWhole(outcome, database, authority: side)
        try one.waitForMirror(other)
        try one.expectEqual(database)
    }
}
