import Foundation
import Glibc
import LibPQ
import Primitives
import Synchronization
import TestSupport
import Testing

/// Hostile clients through the proxy and around it, while proxy, OLD, NEW and the network between them are killed,
/// stopped and cut at random. Those that come through the proxy change the schema now and then (`ddl: barrier`), mostly
/// within transactions. After each round both sides are compared whole, tables and rows.
///
/// GODWIT_TEST_SEED repeats a run as far as scheduling allows; GODWIT_CHAOS_TRANSACTIONS makes it longer (`make chaos`).
@Suite(.serialized) struct ChaosTests {
    private static func number(_ name: String) -> UInt64? {
        ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
    }

    @Test func `whatever dies, both sides are equal`() throws {
        let seed = Self.number("GODWIT_TEST_SEED") ?? UInt64.random(in: 0...UInt64(UInt32.max))
        let wanted = Int(Self.number("GODWIT_CHAOS_TRANSACTIONS") ?? 2500)
        print("chaos: seed \(seed) (GODWIT_TEST_SEED), \(wanted) transactions")
        let stage = try ChaosStage(seed: seed)
        while stage.committed < wanted {
            try stage.round(transactions: 2000)
            try stage.settle()
            try stage.expectAllServers()
            stage.reportRound()
        }
        stage.report()
    }
}

/// The servers, the relays before them, Godwit, and what happens to them. One test's thread.
private final class ChaosStage {
    private static let writers = 8
    /// So many of them come through Godwit, the others know nothing of it.
    private static let writersThroughGodwit = 5
    /// Transactions with DDL that a round must have brought to their end: what else goes on is much quicker.
    private static let changes = 3
    /// Transactions between two disasters, on average, beside those during which DDL is waited for.
    private static let pause = 180
    /// One for all clients of one side, so that it moves from thread to thread, to more than they need.
    private static let poolSizes = [1, 2, 3, 20]

    private let pair: MirroredPair
    private let toOld: TCPRelay
    private let toNew: TCPRelay
    private var godwit: GodwitProcess
    private var configuration: GodwitConfiguration
    /// How often Godwit ran with so many threads and servers.
    private var shapes: [String: Int] = [:]
    private var random: SeededGenerator
    private let seed: UInt64
    private let counts = ChaosCounts()
    private var rounds = 0
    private var disasters: [String: Int] = [:]
    private var verified = 0

    var committed: Int { counts.committed.load(ordering: .relaxed) }

    init(seed: UInt64) throws {
        self.seed = seed
        random = SeededGenerator(seed: seed)
        pair = try MirroredPair(schema: HostileWriter.schema, ownServers: true)
        toOld = try TCPRelay(to: pair.old.port)
        toNew = try TCPRelay(to: pair.new.port)
        let user = PostgresCluster.superuser, name = pair.database
        func target(_ port: UInt16) -> String { "host=127.0.0.1 port=\(port) dbname=\(name) user=\(user)" }
        var database = GodwitConfiguration.Database(name: name, old: target(toOld.port), new: target(toNew.port))
        database.mirror = [
            "mode": "async", "backfill_rows": "100", "lag_max": "5",
            "ddl": "barrier", "ddl_wait": "10",
            "bulk": "[public.entries, public.pairs, public.moments, public.log, public.extra_0, public.extra_1]",
        ]
        database.readsPercent = "100"
        database.readsKey = "[{session: user}]"
        // NEW has its reads again soon, however often it has failed.
        database.breaker = ["held": "0.2", "memory": "0"]
        var configuration = GodwitConfiguration([database])
        configuration.port = try FreePort.find()
        try pair.old.psql(HostileWriter.fill, database: name)
        let directory = try GodwitProcess.makeDirectory(configuration)
        let prepare = try GodwitProcess.command(["prepare", "--config", directory + "/godwit.yaml", name])
        guard prepare.wait() == .code(0) else { throw TestFailure("prepare: \(prepare.errors.text)") }
        shapes[Self.choose(&configuration, &random), default: 0] += 1
        self.configuration = configuration
        godwit = try GodwitProcess(configuration)
    }

    /// Each start of Godwit has as many threads as come, and pools that are short of servers or not.
    ///
    /// - Returns: what was chosen.
    private static func choose(_ configuration: inout GodwitConfiguration, _ random: inout SeededGenerator) -> String {
        let threads = 1 + Int(random.next() % 4), size = poolSizes[Int(random.next() % UInt64(poolSizes.count))]
        configuration.threads = threads
        configuration.databases[0].pool = ["size": "\(size)"]
        let shape = "\(threads) threads and \(size) servers"
        print("chaos: Godwit starts with \(shape)")
        return shape
    }

    private var context: String { "seed \(seed), round \(rounds)" }

    // MARK: rounds

    /// Runs the writers until so many more transactions are committed, with disasters on the way.
    func round(transactions: Int) throws {
        rounds += 1
        counts.isEnding.store(false, ordering: .relaxed)
        let end = committed + transactions, changesEnd = counts.changed.load(ordering: .relaxed) + Self.changes
        let threads = (0..<Self.writers).map { number in
            let isThroughGodwit = number < Self.writersThroughGodwit
            let writer = ChaosWriter(
                port: isThroughGodwit ? configuration.port : pair.old.port,
                number: number, isThroughGodwit: isThroughGodwit,
                // One of them mostly: of two that do so at once one is refused.
                changesEvery: [0: 2, 2: 100][number], database: pair.database, counts: counts,
                hostile: HostileWriter(seed: seed &+ UInt64(rounds) &* 104_729, number: number), context: context)
            return OwnThread(name: "chaos-\(number)") { writer.run() }
        }
        var isDone: Bool { committed >= end && counts.changed.load(ordering: .relaxed) >= changesEnd }
        var turn = 0
        while !isDone {
            turn += 1
            // Some DDL comes to its end before every third disaster: there would be none if each cut it off, and few
            // disasters if all waited for it.
            let changes = counts.changesEnded.load(ordering: .relaxed)
            if turn % 3 == 0 {
                waitUntil("DDL") { counts.changesEnded.load(ordering: .relaxed) > changes || isDone }
            }
            let next = committed + Self.pause / 2 + pick(Self.pause)
            waitUntil("transactions") { committed >= next || isDone }
            if !isDone { try disaster() }
        }
        counts.isEnding.store(true, ordering: .relaxed)
        for thread in threads { thread.join() }
    }

    private func pick(_ bound: Int) -> Int { Int(random.next() % UInt64(bound)) }

    private func disaster() throws {
        let name: String
        switch pick(8) {
        case 0:
            name = "Godwit killed"
            godwit.process.send(SIGKILL)
            godwit.process.wait()
            shapes[Self.choose(&configuration, &random), default: 0] += 1
            godwit = try GodwitProcess(configuration)
        case 1:
            name = "NEW killed"
            pair.new.kill9()
            try pair.new.start()
        case 2:
            name = "OLD killed"
            pair.old.kill9()
            try pair.old.start()
        case 3:
            name = "network to NEW cut"
            toNew.cutAll()
        case 4:
            name = "network to OLD cut"
            toOld.cutAll()
        case 5:
            name = "cut in a commit on NEW"
            toNew.cutAfterAnswer(to: "COMMIT")
        case 6:
            name = "NEW stopped for a while"
            pair.new.pause()
            let next = committed + 100
            waitUntil("transactions") { committed >= next }
            pair.new.resume()
        default:
            name = "both killed"
            pair.new.kill9()
            pair.old.kill9()
            try pair.new.start()
            try pair.old.start()
        }
        disasters[name, default: 0] += 1
    }

    /// Both sides must be equal: by verify, under its pair of snapshots, and by our own comparison. The server may still
    /// be at work for a client whose connection was cut: then the two are asked again.
    func settle() throws {
        let directory = try GodwitProcess.makeDirectory(configuration)
        var differing: [String] = []
        for _ in 0..<10 {
            try waitUntil("DDL to be settled: \(context)") { try !isChangePending() }
            try expectVerified(directory + "/godwit.yaml")
            let old = try contents(pair.oldConninfo), new = try contents(pair.newConninfo)
            differing = Set(old.keys).union(new.keys).filter { old[$0] != new[$0] }.sorted()
            if differing.isEmpty { return }
        }
        Issue.record("\(context): \(differing) differ")
    }

    /// One side has DDL that the other has not yet.
    private func isChangePending() throws -> Bool {
        let old = try Connection.open(try ConnectionString(parsing: pair.oldConninfo), purpose: "test")
        guard try old.query("SELECT to_regclass('godwit.change') IS NOT NULL").flag(0, 0) else { return false }
        return try old.query("SELECT EXISTS (SELECT FROM godwit.change)").flag(0, 0)
    }

    private func expectVerified(_ path: String) throws {
        var verdict = ChildProcess.Exit.code(2), said = ""
        // 2: the mirror is still about to come back.
        try waitUntil("the mirror to come back: \(context)") {
            let verify = try GodwitProcess.command(["verify", "--schema", "--config", path, pair.database])
            verdict = verify.wait()
            said = verify.output.text + verify.errors.text
            return verdict != .code(2)
        }
        verified += 1
        let log = verdict == .code(0) ? "" : godwit.log.lines.suffix(20).joined(separator: "\n")
        #expect(verdict == .code(0), "\(context): \(said)\nGodwit's log ends with:\n\(log)")
    }

    private func contents(_ conninfo: String) throws -> [String: String] {
        try MirrorHarness.contents(try Connection.open(try ConnectionString(parsing: conninfo), purpose: "test"))
    }

    // MARK: places

    /// No place of a pool is lost, wherever its server was when something died: the clients of any one thread can have
    /// all servers of either side, at once.
    func expectAllServers() throws {
        let size = Int(configuration.databases[0].pool["size"] ?? "") ?? 0
        // Threads take connections in turn.
        let clients = try (0..<size * configuration.threads).map { _ in
            try WireClient(port: configuration.port, database: pair.database, user: PostgresCluster.superuser)
        }
        for first in 0..<configuration.threads {
            let own = stride(from: first, to: clients.count, by: configuration.threads).map { clients[$0] }
            let old = try answers(of: own, "BEGIN", "SELECT 'OLD', pg_current_xact_id()")
            #expect(old == ["OLD": size], "\(context): of OLD's servers")
            // A read goes to OLD while NEW is behind, and what is read there in a transaction counts as written.
            // The word is one of the grammar's from 17 on.
            let side = """
                SELECT CASE quote_ident('json_table') WHEN 'json_table' THEN 'OLD' ELSE 'NEW' END, count(*)
                  FROM accounts
                """
            try waitUntil("all servers of NEW: \(context)") {
                try waitUntil("NEW to be read: \(context)") { try own[0].value(side) == "NEW" }
                return try answers(of: own, "BEGIN READ ONLY", side) == ["NEW": size]
            }
        }
    }

    /// What these clients are answered, each in a transaction of its own, all of which are open at once.
    private func answers(of clients: [WireClient], _ begin: String, _ question: String) throws -> [String: Int] {
        var answers: [String: Int] = [:]
        for client in clients {
            _ = try client.query(begin)
            let messages = try client.query(question)
            let answer = messages.lazy.compactMap { $0.columns.first ?? $0.sqlState }.first ?? "nothing"
            answers[answer, default: 0] += 1
        }
        for client in clients { _ = try client.query("ROLLBACK") }
        return answers
    }

    func reportRound() {
        print("chaos: round \(rounds), \(committed) transactions, \(disasters.values.reduce(0, +)) faults")
    }

    func report() {
        func list(_ counts: [String: Int]) -> String {
            counts.sorted { $0.key < $1.key }.map { "\($0.value) x \($0.key)" }.joined(separator: ", ")
        }
        print("chaos: \(committed) transactions committed, \(counts.changed.load(ordering: .relaxed)) of them with DDL "
            + "(refused: \(list(counts.changesRefused.withLock { $0 }))), "
            + "\(counts.refused.load(ordering: .relaxed)) refused "
            + "(through Godwit: \(list(counts.refusedByGodwit.withLock { $0 }))), "
            + "\(counts.lost.load(ordering: .relaxed)) connections lost, \(rounds) rounds, \(verified) verified; "
            + "\(disasters.values.reduce(0, +)) faults: \(list(disasters)); Godwit had \(list(shapes))")
    }
}
