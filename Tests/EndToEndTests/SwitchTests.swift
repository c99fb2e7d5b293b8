import Foundation
import Glibc
import PGWire
import TestSupport
import Testing

/// The writes move to NEW and back: no client notices, no row is lost, and no two sides take writes.
@Suite(.serialized) struct SwitchTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    static let schema = """
        CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
        CREATE TABLE entries (client int, n bigint, mark bigserial UNIQUE, PRIMARY KEY (client, n));
        CREATE TABLE parts (id bigserial, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')
        """
    static let rows = "INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 20) n"

    struct Outcome: Decodable {
        var acked: [String: [Int]]
        var errors: [String]
    }

    /// Writers through Godwit, until `end`.
    struct Writers {
        let process: ChildProcess

        init(_ conninfo: String, clients: Int = 4, first: Int = 1) throws {
            let python = TestResources.packageRoot + "/.build/venv/bin/python"
            let program = TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/acknowledged_writer.py"
            process = try ChildProcess([python, program, conninfo, "\(clients)", "\(first)"], keepsInput: true)
        }

        /// Until more has been written.
        func awaitMore() throws {
            let seen = process.output.lines.count
            try process.output.waitForLine(containing: "written", skipping: seen)
        }

        func end() throws -> Outcome {
            process.endInput()
            _ = try process.waitForSuccess()
            return try JSONDecoder().decode(Outcome.self, from: Data((process.output.lines.last ?? "").utf8))
        }
    }

    func conninfo(_ godwit: GodwitProcess, _ database: String) -> String { godwit.conninfo(database: database) }

    func switchOver(
        _ godwit: GodwitProcess, _ verb: String, _ database: String, _ more: String = "DEADLINE 60000"
    ) throws {
        let rows = try godwit.console("\(verb) \(database) WITHOUT VERIFY \(more)")
        #expect(rows.last?["kind"] == "outcome" && rows.last?["ok"] == "yes", "\(rows)")
    }

    func authority(_ godwit: GodwitProcess) throws -> String {
        try godwit.console("SHOW AUTHORITY").first?["authority"] ?? ""
    }

    func waitForMirror(_ godwit: GodwitProcess) throws {
        try waitUntil { try godwit.console("SHOW MIRROR").first?["state"] == "mirroring" }
    }

    /// All rows of both sides, once the mirror has brought what is left.
    func expectEqual(_ database: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        let sql = """
            SELECT (SELECT md5(coalesce(string_agg(a::text, ',' ORDER BY a::text), '')) FROM accounts a),
                   (SELECT md5(coalesce(string_agg(e::text, ',' ORDER BY e::text), '')) FROM entries e),
                   (SELECT md5(coalesce(string_agg(p::text, ',' ORDER BY p::text), '')) FROM parts p)
            """
        // Nobody writes any more: the mirror needs a moment.
        try waitUntil("both sides of \(database) to be equal, at \(sourceLocation)") {
            try servers.old.psql(sql, database: database) == servers.new.psql(sql, database: database)
        }
    }

    /// What was acknowledged is there, and each account has what its entries say.
    func expectWhole(_ outcome: Outcome, _ database: String, authority: String) throws {
        let server = authority == "new" ? servers.new : servers.old
        #expect(outcome.acked.values.contains { !$0.isEmpty }, "nothing was acknowledged")
        for (client, numbers) in outcome.acked {
            let found = try server.psql("SELECT n FROM entries WHERE client = \(client)", database: database)
            let known = Set(found.split(separator: "\n").compactMap { Int($0) })
            let lost = numbers.filter { !known.contains($0) }
            #expect(lost.isEmpty, "client \(client) lost \(lost.prefix(10)), and \(lost.count) in all")
        }
        let wrong = try server.psql("""
            SELECT count(*) FROM accounts a
             WHERE balance <> (SELECT count(*) FROM entries e WHERE e.client = a.id)
            """, database: database)
        #expect(wrong.hasPrefix("0"), "\(wrong) accounts do not have what their entries say")
    }

    @Test func `writers go on through three cutovers and three rollbacks without an error`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        let writers = try Writers(conninfo(godwit, database))
        for round in 0..<3 {
            try writers.awaitMore()
            try switchOver(godwit, "CUTOVER", database)
            #expect(try authority(godwit) == "new")
            _ = try godwit.psql("INSERT INTO parts (at) VALUES ('2020-05-0\(round + 1)')", database: database)
            try writers.awaitMore()
            try waitForMirror(godwit)
            try switchOver(godwit, "ROLLBACK", database)
            #expect(try authority(godwit) == "old")
            _ = try godwit.psql("INSERT INTO parts (at) VALUES ('2021-05-0\(round + 1)')", database: database)
            try waitForMirror(godwit)
        }
        try writers.awaitMore()
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try expectWhole(outcome, database, authority: "old")
        try expectEqual(database)
    }

    static let steps = [
        "reserve", "hold", "fence", "batch", "sequences", "claim", "swap", "hand_over", "reverse",
    ]

    @Test(arguments: steps)
    func `a Godwit killed before a step leaves one authority and loses nothing`(step: String) throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        let first = try servers.mirroring(database)
        #expect(first.terminate() == .code(0))
        var known = "old"
        for verb in ["CUTOVER", "ROLLBACK"] {
            let dying = try GodwitProcess(configuration, environment: ["GODWIT_DIE_BEFORE": step])
            try waitForMirror(dying)
            let writers = try Writers(conninfo(dying, database))
            try writers.awaitMore()
            #expect(throws: (any Error).self) { try dying.console("\(verb) \(database) DEADLINE 60000 WITHOUT VERIFY") }
            #expect(dying.process.wait() == .signal(SIGKILL))
            let godwit = try GodwitProcess(configuration)
            let isDecided = ["swap", "hand_over", "reverse"].contains(step)
            if isDecided { known = verb == "CUTOVER" ? "new" : "old" }
            #expect(try authority(godwit) == known)
            let outcome = try writers.end()
            try expectWhole(outcome, database, authority: known)
            // It takes writes, the other side does not, and the mirror goes on where it was.
            _ = try godwit.psql("UPDATE accounts SET balance = balance WHERE id = 1", database: database)
            try waitForMirror(godwit)
            try expectEqual(database)
            try #expect(godwit.console("SHOW TABLES").allSatisfy { $0["copied"] != "no" })
            // NEW is closed from the first way back on.
            if known == "new" || verb == "ROLLBACK" {
                let closed = known == "new" ? servers.old : servers.new
                #expect(throws: (any Error).self) { try closed.psql("DELETE FROM entries", database: database) }
            }
            // What was not made can be made now; and the way back is open.
            if !isDecided {
                try switchOver(godwit, verb, database)
                known = verb == "CUTOVER" ? "new" : "old"
            }
            try waitForMirror(godwit)
            #expect(godwit.terminate() == .code(0))
        }
    }

    /// Godwit's own watcher settles what an earlier switch has left, and holds the same lock for that.
    @Test(arguments: ["old", "new"])
    func `a switch waits for whoever settles an earlier one`(side: String) throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        let server = side == "old" ? servers.old : servers.new
        let settling = try WireClient(port: server.port, database: database)
        _ = try settling.query("SELECT pg_advisory_lock(7451605422)")
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        console.send(FrameBuilder.query("CUTOVER \(database) WITHOUT VERIFY DEADLINE 60000"))
        try waitUntil {
            try server.psql("""
                SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                 WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()
                """, database: database) == "1"
        }
        _ = try settling.query("SELECT pg_advisory_unlock(7451605422)")
        #expect(try console.readToReady().allSatisfy { $0.type != "E" })
        #expect(try authority(godwit) == "new")
    }

    @Test func `what a switch has left is made good when its lock is free, however late`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        #expect(try servers.mirroring(database).terminate() == .code(0))
        let dying = try GodwitProcess(configuration, environment: ["GODWIT_DIE_BEFORE": "hand_over"])
        try waitForMirror(dying)
        #expect(throws: (any Error).self) { try dying.console("CUTOVER \(database) DEADLINE 60000 WITHOUT VERIFY") }
        #expect(dying.process.wait() == .signal(SIGKILL))
        // As the session of a machine that is gone has it until the server finds out.
        let lingering = try WireClient(port: servers.new.port, database: database)
        _ = try lingering.query("SELECT pg_advisory_lock(7451605422)")
        let godwit = try GodwitProcess(configuration)
        #expect(try authority(godwit) == "new")
        // Its watch has looked, more than once.
        let signs = "SELECT seen FROM godwit.proxy WHERE id LIKE '\(godwit.process.pid)-%'"
        for _ in 0..<3 {
            let sign = try servers.new.psql(signs, database: database)
            try waitUntil { try servers.new.psql(signs, database: database) != sign }
        }
        lingering.close()
        try waitForMirror(godwit)
    }

    @Test func `after a cutover the breakers have changed their roles`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let (old, new) = (try TCPRelay(to: servers.old.port), try TCPRelay(to: servers.new.port))
        let godwit = try servers.mirroring(database) {
            $0.database.old = "host=127.0.0.1 port=\(old.port) dbname=\(database)"
            $0.database.new = "host=127.0.0.1 port=\(new.port) dbname=\(database)"
            $0.database.breaker = ["patience": "0.2", "failures": "2"]
            $0.database.pool = ["server_login_retry": "0.1"]
        }
        func breaker(_ side: String) throws -> [String: String] {
            try #require(try godwit.console("SHOW BREAKERS").first { $0["side"] == side })
        }
        #expect(try breaker("old")["role"] == "authority" && breaker("new")["role"] == "other")
        try switchOver(godwit, "CUTOVER", database)
        #expect(try breaker("old")["role"] == "other" && breaker("new")["role"] == "authority")
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        let told = try console.query("READS \(database) 50").first { $0.type == "N" }?.fields["M"]
        #expect(told?.contains("NEW takes the writes") == true, "a share counts for nothing now")
        // OLD is nobody's any more, and what NEW does is told as an authority's failure.
        old.become(.refusing)
        let client = try WireClient(port: godwit.port, database: database)
        let write = "UPDATE accounts SET balance = balance + 1 WHERE id = 1"
        #expect(try client.query(write).first?.commandTag == "UPDATE 1")
        #expect(try client.value("SELECT balance FROM accounts WHERE id = 1") == "1")
        new.become(.refusing)
        var error: WireClient.Message?
        while error?.sqlState != "57P03" { error = try client.query(write).first { $0.type == "E" } }
        #expect(error?.fields["M"]?.contains("NEW") == true, "\(error?.fields ?? [:])")
        #expect(try breaker("new")["state"] == "open")
        new.become(.passing)
        try waitUntil { try client.query(write).first?.commandTag == "UPDATE 1" }
        try waitUntil { try breaker("new")["state"] == "closed" }
    }

    @Test func `after a rollback nobody reads on NEW until READS, also behind a restart`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let first = try servers.mirroring(database) { $0.database.readsPercent = "100" }
        func percent(_ godwit: GodwitProcess) throws -> String? {
            try godwit.console("SHOW DATABASES").first { $0["name"] == database && $0["side"] == "new" }?["reads_percent"]
        }
        #expect(try percent(first) == "100.00")
        try switchOver(first, "CUTOVER", database)
        try waitForMirror(first)
        try switchOver(first, "ROLLBACK", database)
        #expect(try percent(first) == "0.00")
        #expect(first.terminate() == .code(0))
        let again = try GodwitProcess(resuming: first)
        #expect(try percent(again) == "0.00")
        _ = try again.console("READS \(database) 50")
        #expect(try percent(again) == "50.00")
    }

    @Test func `an open transaction outlasts the deadline, and everything goes on as it was`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        let open = try WireClient(port: godwit.port, database: database)
        _ = try open.query("BEGIN")
        _ = try open.query("UPDATE accounts SET balance = 7 WHERE id = 7")
        let writers = try Writers(conninfo(godwit, database), clients: 2)
        try writers.awaitMore()
        #expect(throws: (any Error).self) { try switchOver(godwit, "CUTOVER", database, "DEADLINE 200") }
        #expect(try authority(godwit) == "old")
        _ = try open.query("UPDATE accounts SET balance = 0 WHERE id = 7")
        #expect(try open.query("COMMIT").contains { $0.commandTag == "COMMIT" })
        try writers.awaitMore()
        try switchOver(godwit, "CUTOVER", database)
        try writers.awaitMore()
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try expectWhole(outcome, database, authority: "new")
        try waitForMirror(godwit)
        try expectEqual(database)
    }

    @Test func `a database whose transactions are REPEATABLE READ can be switched, there and back`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        for server in [servers.old, servers.new] {
            try server.psql(
                "ALTER DATABASE \(database) SET default_transaction_isolation = 'repeatable read'", database: database)
        }
        let godwit = try servers.mirroring(database)
        try switchOver(godwit, "CUTOVER", database)
        #expect(try authority(godwit) == "new")
        _ = try godwit.psql("UPDATE accounts SET balance = 5 WHERE id = 5", database: database)
        try waitForMirror(godwit)
        try switchOver(godwit, "ROLLBACK", database)
        #expect(try authority(godwit) == "old")
        try waitForMirror(godwit)
        try expectEqual(database)
    }

    @Test func `servers of the coming side are open before anybody is held, and go when no switch is made`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        func processes() throws -> [String] {
            let sql = "SELECT pid FROM pg_stat_activity WHERE datname = '\(database)' AND usename = 'app'"
            return try servers.new.psql(sql, database: database).split(separator: "\n").map(String.init)
        }
        let (open, client) = (
            try WireClient(port: godwit.port, database: database), try WireClient(port: godwit.port, database: database)
        )
        _ = try open.query("BEGIN")
        _ = try open.query("UPDATE accounts SET balance = 7 WHERE id = 7")
        _ = try client.query("SELECT 1")
        #expect(try processes() == [])
        #expect(throws: (any Error).self) { try switchOver(godwit, "CUTOVER", database, "DEADLINE 200") }
        try waitUntil { try processes() == [] }
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        var order = MessageWriter()
        order.query("CUTOVER \(database) WITHOUT VERIFY DEADLINE 60000")
        console.send(order.bytes)
        // As many as OLD has for them, while the transaction is still in the way; who holds a table is not waited for.
        let holder = try WireClient(port: servers.new.port, database: database, user: "postgres")
        _ = try holder.query("CREATE SCHEMA apart; CREATE TABLE apart.held (id int PRIMARY KEY)")
        _ = try holder.query("BEGIN; LOCK TABLE apart.held")
        try waitUntil { try processes().count == 2 }
        try waitUntil {
            try servers.new.psql("""
                SELECT count(*) FROM pg_stat_activity WHERE datname = '\(database)' AND usename = 'app'
                   AND state = 'idle' AND query LIKE '%pg_indexes_size%'
                """, database: database) == "2"
        }
        let opened = try processes()
        _ = try open.query("COMMIT")
        #expect(try console.readToReady().contains { $0.type == "C" })
        for client in [open, client] {
            let process = try #require(try client.value("SELECT pg_backend_pid()"))
            #expect(opened.contains(process), "\(process) is not one of \(opened)")
            #expect(try client.query("UPDATE accounts SET balance = 8 WHERE id = 8").first?.commandTag == "UPDATE 1")
        }
    }

    @Test func `a writer around Godwit is waited for, then refused, also with TRUNCATE and in partitions`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        let bypass = try WireClient(port: servers.old.port, database: database, user: "app")
        _ = try bypass.query("BEGIN")
        _ = try bypass.query("UPDATE accounts SET balance = 3 WHERE id = 3")
        // The fence cannot have its lock.
        #expect(throws: (any Error).self) { try switchOver(godwit, "CUTOVER", database, "DEADLINE 200") }
        #expect(try bypass.query("COMMIT").contains { $0.commandTag == "COMMIT" })
        try switchOver(godwit, "CUTOVER", database)
        for sql in [
            "UPDATE accounts SET balance = 4 WHERE id = 3", "INSERT INTO accounts VALUES (99, 0)",
            "DELETE FROM accounts", "TRUNCATE accounts", "TRUNCATE parts_1", "INSERT INTO parts_2 (at) VALUES ('2021-02-02')",
            "INSERT INTO parts (at) VALUES ('2021-02-02')",
        ] {
            let error = try bypass.query(sql).first { $0.type == "E" }
            #expect(error?.sqlState == "25006", "\(sql)")
            #expect(error?.fields["M"]?.hasSuffix("by Godwit: the writes of \"\(database)\" go to NEW now") == true)
        }
        try waitForMirror(godwit)
        #expect(try godwit.psql("SELECT balance FROM accounts WHERE id = 3", database: database) == "3")
        #expect(try servers.old.psql("SELECT count(*) FROM accounts", database: database).hasPrefix("20"))
        // And the way back opens OLD again, and closes NEW.
        try switchOver(godwit, "ROLLBACK", database)
        #expect(try bypass.query("UPDATE accounts SET balance = 0 WHERE id = 3").contains { $0.type == "C" })
        let other = try WireClient(port: servers.new.port, database: database, user: "app")
        #expect(try other.query("DELETE FROM accounts").first { $0.type == "E" }?.sqlState == "25006")
        try waitForMirror(godwit)
        try expectEqual(database)
    }

    @Test func `sequences go on without a duplicate in both directions`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        var marks: [Int] = []
        func draw() throws {
            let sql = "INSERT INTO entries (client, n) VALUES (1, \(marks.count)) RETURNING mark"
            marks.append(Int(try godwit.psql(sql, database: database)) ?? 0)
        }
        for _ in 0..<2 {
            for verb in ["CUTOVER", "ROLLBACK"] {
                for _ in 0..<5 { try draw() }
                try switchOver(godwit, verb, database)
                for _ in 0..<5 { try draw() }
                try waitForMirror(godwit)
            }
        }
        #expect(Set(marks).count == marks.count && marks == marks.sorted(), "\(marks)")
    }

    @Test func `a sequence that was set and not drawn from goes on where it was set`() throws {
        let database = try servers.makeDatabase(
            Self.schema + "; CREATE SEQUENCE numbers", old: "SELECT setval('numbers', 5001, false)")
        let godwit = try servers.mirroring(database)
        // It has been set anew since the mirror looked.
        try servers.old.psql("SELECT setval('numbers', 90001, false)", database: database)
        try switchOver(godwit, "CUTOVER", database)
        let next = try godwit.psql("SELECT nextval('numbers')", database: database)
        #expect((Int(next.trimmingCharacters(in: .whitespacesAndNewlines)) ?? 0) > 90000, "\(next)")
    }

    @Test func `a fence that comes up after all is not left standing`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        // Around Godwit: the fence waits for one table's writer, then for the other's, each for less than the deadline.
        let bypasses = try (0..<2).map { _ in try WireClient(port: servers.old.port, database: database, user: "app") }
        _ = try bypasses[0].query("BEGIN; UPDATE accounts SET balance = 0 WHERE id = 1")
        _ = try bypasses[1].query("BEGIN; INSERT INTO entries VALUES (7, 7)")
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        func isAwaited(_ table: String) throws -> Bool {
            try servers.old.psql("""
                SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE NOT l.granted AND l.relation = '\(table)'::regclass AND a.application_name = 'godwit switch'
                """, database: database).hasPrefix("1")
        }
        // On a busy machine the order may be refused, or its deadline be over, before anybody sees it wait.
        var isWaiting = false
        while !isWaiting {
            console.send(FrameBuilder.query("CUTOVER \(database) WITHOUT VERIFY DEADLINE 3000"))
            try waitUntil {
                isWaiting = try isAwaited("accounts")
                return isWaiting || console.hasSomethingToRead
            }
            if !isWaiting { _ = try console.readToReady() }
        }
        let client = try WireClient(port: godwit.port, database: database)
        client.send(FrameBuilder.query("INSERT INTO entries VALUES (8, 8)"))
        // The server's time, of which the deadline is: nearly all of it has passed when the second wait begins.
        _ = try bypasses[0].query("SELECT pg_sleep(2.4); COMMIT")
        _ = try console.readToReady()
        _ = try bypasses[1].query("COMMIT")
        try waitUntil {
            try servers.old.psql(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'godwit switch'", database: database)
                .hasPrefix("0")
        }
        let isOpen = try servers.old.psql("SELECT fenced_for IS NULL FROM godwit.authority", database: database)
        #expect(isOpen.hasPrefix("t"))
        #expect(try !client.readToReady().contains { $0.type == "E" })
        #expect(try client.query("INSERT INTO entries VALUES (9, 9)").contains { $0.type == "C" })
        #expect(try authority(godwit) == "old")
    }

    @Test func `a session that is bound to its server is in the way, until it is told to go`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        let pinned = try WireClient(port: godwit.port, database: database)
        _ = try pinned.query("CREATE TEMP TABLE own (id int)")
        #expect(throws: (any Error).self) { try switchOver(godwit, "CUTOVER", database, "DEADLINE 200") }
        #expect(try pinned.query("SELECT * FROM own").contains { $0.type == "C" })
        try switchOver(godwit, "CUTOVER", database, "DEADLINE 60000 END PINNED")
        #expect(try pinned.readToEnd().last?.sqlState == "57P01")
    }

    @Test func `a dry run names what is in the way and touches nothing`() throws {
        let database = try servers.makeDatabase(Self.schema, old: Self.rows)
        let godwit = try servers.mirroring(database)
        let good = try godwit.console("CUTOVER \(database) DRY RUN DEADLINE 60000 WITHOUT VERIFY")
        #expect(good.last?["ok"] == "yes", "\(good)")
        let bad = try godwit.console("CUTOVER \(database) DRY RUN")
        #expect(bad.contains { $0["name"] == "verified" && $0["ok"] == "no" } && bad.last?["ok"] == "no")
        _ = try godwit.psql("CREATE SEQUENCE only_on_old", database: database)
        let missing = try godwit.console("CUTOVER \(database) DRY RUN DEADLINE 60000 WITHOUT VERIFY")
        #expect(missing.contains { $0["name"] == "sequences" && $0["ok"] == "no" }, "\(missing)")
        #expect(try godwit.console("ROLLBACK \(database) DRY RUN").contains { $0["ok"] == "no" })
        // What it advises to change, and a reload does, is what it goes by.
        _ = try godwit.console("SET databases.\(database).pool.size = 3")
        let fewer = try godwit.console("CUTOVER \(database) DRY RUN DEADLINE 60000 WITHOUT VERIFY")
        #expect(fewer.first { $0["name"] == "connections" }?["threshold"] == "3, as the pools need", "\(fewer)")
        #expect(try authority(godwit) == "old")
    }
}
