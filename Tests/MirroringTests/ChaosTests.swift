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
        }
        stage.report()
    }
}

/// The servers, the relays before them, Godwit, and what happens to them. One test's thread.
private final class ChaosStage {
    private static let writers = 6
    /// Transactions with DDL that a round must have brought to their end: what else goes on is much quicker.
    private static let changes = 5
    /// Transactions between two disasters, on average.
    private static let pause = 250

    private let pair: MirroredPair
    private let toOld: TCPRelay
    private let toNew: TCPRelay
    private var godwit: GodwitProcess
    private let configuration: GodwitConfiguration
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
        var configuration = GodwitConfiguration([database])
        configuration.port = try FreePort.find()
        self.configuration = configuration
        try pair.old.psql(HostileWriter.fill, database: name)
        let directory = try GodwitProcess.makeDirectory(configuration)
        let prepare = try GodwitProcess.command(["prepare", "--config", directory + "/godwit.yaml", name])
        guard prepare.wait() == .code(0) else { throw TestFailure("prepare: \(prepare.errors.text)") }
        godwit = try GodwitProcess(configuration)
    }

    // MARK: rounds

    /// Runs the writers until so many more transactions are committed, with disasters on the way.
    func round(transactions: Int) throws {
        rounds += 1
        counts.isEnding.store(false, ordering: .relaxed)
        let end = committed + transactions, changesEnd = counts.changed.load(ordering: .relaxed) + Self.changes
        let threads = (0..<Self.writers).map { number in
            // Half of them know nothing of Godwit.
            let isThroughGodwit = number % 2 == 0
            let writer = ChaosWriter(
                port: isThroughGodwit ? configuration.port : pair.old.port,
                // One of them mostly: of two that do so at once one is refused.
                changesEvery: [0: 3, 2: 200][number], database: pair.database, counts: counts,
                hostile: HostileWriter(seed: seed &+ UInt64(rounds) &* 104_729, number: number))
            return OwnThread(name: "chaos-\(number)") { writer.run() }
        }
        var isDone: Bool { committed >= end && counts.changed.load(ordering: .relaxed) >= changesEnd }
        while !isDone {
            // Some DDL comes to its end before the next disaster, which then comes amid something else, or other DDL.
            let changes = counts.changesEnded.load(ordering: .relaxed)
            waitUntil("DDL") { counts.changesEnded.load(ordering: .relaxed) > changes || isDone }
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
            try waitUntil("DDL to be settled: seed \(seed), round \(rounds)") { try !isChangePending() }
            try expectVerified(directory + "/godwit.yaml")
            let old = try contents(pair.oldConninfo), new = try contents(pair.newConninfo)
            differing = Set(old.keys).union(new.keys).filter { old[$0] != new[$0] }.sorted()
            if differing.isEmpty { return }
        }
        Issue.record("seed \(seed), round \(rounds): \(differing) differ")
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
        try waitUntil("the mirror to come back: seed \(seed), round \(rounds)") {
            let verify = try GodwitProcess.command(["verify", "--schema", "--config", path, pair.database])
            verdict = verify.wait()
            said = verify.output.text + verify.errors.text
            return verdict != .code(2)
        }
        verified += 1
        let log = verdict == .code(0) ? "" : godwit.log.lines.suffix(20).joined(separator: "\n")
        #expect(verdict == .code(0), "seed \(seed), round \(rounds): \(said)\nGodwit's log ends with:\n\(log)")
    }

    private func contents(_ conninfo: String) throws -> [String: String] {
        try MirrorHarness.contents(try Connection.open(try ConnectionString(parsing: conninfo), purpose: "test"))
    }

    func report() {
        let what = disasters.sorted { $0.key < $1.key }.map { "\($0.value) x \($0.key)" }.joined(separator: ", ")
        let changesRefused = counts.changesRefused.withLock { $0 }.sorted { $0.key < $1.key }
            .map { "\($0.value) x \($0.key)" }.joined(separator: ", ")
        print("chaos: \(committed) transactions committed, \(counts.changed.load(ordering: .relaxed)) of them with DDL "
            + "(refused: \(changesRefused)), \(counts.refused.load(ordering: .relaxed)) refused, "
            + "\(counts.lost.load(ordering: .relaxed)) connections lost, \(rounds) rounds, \(verified) verified; \(what)")
    }
}

private final class ChaosCounts: Sendable {
    let committed = Atomic<Int>(0)
    let refused = Atomic<Int>(0)
    let lost = Atomic<Int>(0)
    /// Transactions with DDL, of those that were committed, and of those that were refused by their SQLSTATE.
    let changed = Atomic<Int>(0)
    let changesEnded = Atomic<Int>(0)
    let changesRefused = Mutex<[String: Int]>([:])
    let isEnding = Atomic<Bool>(false)
}

/// One client that never gives up.
private struct ChaosWriter: Sendable {
    let port: UInt16
    /// One of so many transactions changes the schema; nil: none.
    let changesEvery: Int?
    let database: String
    let counts: ChaosCounts
    let hostile: HostileWriter

    func run() {
        var hostile = hostile
        while !counts.isEnding.load(ordering: .relaxed) {
            do {
                let client = try WireClient(port: port, database: database, user: PostgresCluster.superuser)
                client.endWaiting(afterSeconds: 60)
                _ = try client.query(hostile.settings + "; SET synchronous_commit = \(hostile.pick(2) == 0 ? "on" : "off")")
                while !counts.isEnding.load(ordering: .relaxed) { try transaction(client, &hostile) }
            } catch {
                counts.lost.wrappingAdd(1, ordering: .relaxed)
                Awaited.pause()
            }
        }
    }

    /// As one text, or statement by statement with a read between.
    private func transaction(_ client: WireClient, _ hostile: inout HostileWriter) throws {
        let changes = changesEvery.map { hostile.pick($0) == 0 } ?? false
        // Rows of tables that have come: for all, and refused where there is none.
        let script = changes ? hostile.migration() : hostile.pick(20) == 0 ? [hostile.rows()] : hostile.next()
        var refusal: WireClient.Message?
        func run(_ text: String) throws { refusal = try client.query(text).first { $0.type == "E" } }
        if !changes && hostile.pick(2) == 0 {
            try run(script.joined(separator: ";\n"))
        } else {
            for statement in script where refusal == nil { try run(statement) }
            if refusal == nil { _ = try client.query("SELECT count(*) FROM accounts") }
        }
        if changes { counts.changesEnded.wrappingAdd(1, ordering: .relaxed) }
        if let refusal {
            _ = try client.query("ROLLBACK")
            counts.refused.wrappingAdd(1, ordering: .relaxed)
            if changes { counts.changesRefused.withLock { $0[refusal.sqlState ?? "", default: 0] += 1 } }
        } else {
            counts.committed.wrappingAdd(1, ordering: .relaxed)
            if changes && script.last != "ROLLBACK" { counts.changed.wrappingAdd(1, ordering: .relaxed) }
        }
    }
}
