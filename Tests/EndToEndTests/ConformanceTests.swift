import Foundation
import Primitives
import Synchronization
import TestSupport
import Testing

/// Generated sequences of messages have the same answers from Godwit as from PostgreSQL.
///
/// GODWIT_CONFORMANCE_SEQUENCES says how many, GODWIT_TEST_SEED which: without it, others each time.
@Suite(.serialized) struct ConformanceTests {
    static let environment = ProcessInfo.processInfo.environment
    static let sequences = environment["GODWIT_CONFORMANCE_SEQUENCES"].flatMap { Int($0) } ?? 1000
    static let seed = environment["GODWIT_TEST_SEED"].flatMap { UInt64($0) }
        ?? .random(in: 1...1_000_000)

    @Test func `everything on OLD is answered as by PostgreSQL`() throws {
        try compare(readsPercent: "0", poolSize: 4)
    }

    @Test func `two clients that share one server are answered as by PostgreSQL`() throws {
        try compare(readsPercent: "0", poolSize: 1)
    }

    @Test func `reads on NEW are answered as by PostgreSQL`() throws {
        try compare(readsPercent: "100", poolSize: 4)
    }

    @Test func `two clients that share one server of each side are answered as by PostgreSQL`() throws {
        try compare(readsPercent: "100", poolSize: 1)
    }

    private func compare(readsPercent: String, poolSize: Int) throws {
        let bench = try ConformanceBench(readsPercent: readsPercent, poolSize: poolSize)
        let found = Mutex<[ConformanceDifference]>([])
        let messages = Atomic<Int>(0), next = Atomic<Int>(0)
        DispatchQueue.concurrentPerform(iterations: 2) { lane in
            let connections = try? bench.connect(lane)
            guard var pair = connections else { return found.withLock { $0.append(.failed(lane)) } }
            while true {
                let number = next.add(1, ordering: .relaxed).oldValue
                if number >= Self.sequences || found.withLock({ !$0.isEmpty }) { return }
                let sequence = ConformanceSequence(seed: Self.seed &* 100_000 &+ UInt64(number), lane: lane)
                messages.add(sequence.messageCount, ordering: .relaxed)
                if let difference = pair.run(sequence) {
                    if difference.proxied.last == "no more" { print(bench.state) }
                    return found.withLock { $0.append(difference) }
                }
                if found.withLock({ !$0.isEmpty }) { print("beside it: seed \(sequence.seed)\n\(sequence.description)") }
                do {
                    pair = try bench.reconnect(pair)
                } catch {
                    print("behind it no connection, \(error):\n\(sequence.description)\n\(bench.state)")
                    return found.withLock { $0.append(.failed(lane)) }
                }
            }
        }
        print("conformance: seed \(Self.seed) (GODWIT_TEST_SEED), \(Self.sequences) sequences with "
            + "\(messages.load(ordering: .relaxed)) messages, reads \(readsPercent) %, pool \(poolSize)")
        for difference in found.withLock({ $0 }) {
            print("before it is shrunk: \(difference.description)")
            Issue.record("\(bench.shrunk(difference))\n\(bench.godwit.log.text.suffix(2000))")
        }
        let onNew = try bench.godwit.console("SHOW ROUTES").filter { $0["side"] == "new" && $0["kind"] == "read" }
            .reduce(0) { $0 + (Int($1["units"] ?? "") ?? 0) }
        #expect(readsPercent == "0" ? onNew == 0 : onNew > 0 || Self.sequences < 100, "\(onNew) reads on NEW")
    }
}

struct ConformanceDifference: Error {
    var sequence: ConformanceSequence
    var step: Int
    var direct: [String]
    var proxied: [String]

    static func failed(_ lane: Int) -> Self {
        Self(sequence: ConformanceSequence(seed: 0, lane: lane, steps: []), step: 0, direct: [], proxied: ["no connection"])
    }

    var description: String {
        var common = 0
        while common < direct.count, common < proxied.count, direct[common] == proxied[common] { common += 1 }
        func rest(_ answers: [String]) -> String { answers[common...].prefix(12).joined(separator: "\n      ") }
        return """
            \(sequence.description)
              step \(step): the first \(common) answers are equal (\(direct.prefix(common).map { String($0.prefix(1)) }.joined())), then
              PostgreSQL:
                  \(rest(direct))
              Godwit:
                  \(rest(proxied))
            """
    }
}

/// A PostgreSQL with three databases of the same content (the direct one, OLD and NEW) and Godwit before two of them.
struct ConformanceBench {
    let cluster: PostgresCluster
    let godwit: GodwitProcess
    let database: String
    private static let counter = Atomic<Int>(0)
    private static let users = Atomic<Int>(0)
    /// Without an answer, which on a busy machine may have to wait for the other client's transaction.
    private static let patienceSeconds = 60

    init(readsPercent: String, poolSize: Int) throws {
        let servers = try Servers.shared.get()
        cluster = servers.old
        database = "conform\(Self.counter.add(1, ordering: .relaxed).newValue)"
        try cluster.psql("CREATE DATABASE \(database) OWNER app")
        try cluster.psql("SET ROLE app;\n\(ConformanceSequence.schema)", database: database)
        // As copies, they have the same object identifiers.
        for copy in ["old", "new"] {
            try cluster.psql("CREATE DATABASE \(database)_\(copy) TEMPLATE \(database) OWNER app")
        }
        var entry = servers.entry(database)
        entry.old = cluster.conninfo(database: database + "_old")
        entry.new = cluster.conninfo(database: database + "_new")
        entry.controlOld = cluster.conninfo(database: database + "_old", user: PostgresCluster.superuser)
        entry.controlNew = cluster.conninfo(database: database + "_new", user: PostgresCluster.superuser)
        entry.readsPercent = readsPercent
        entry.pool = ["size": "\(poolSize)"]
        entry.mirror = ["mode": "off"]
        godwit = try GodwitProcess(GodwitConfiguration([entry]))
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
    }

    func connect(_ lane: Int, patienceSeconds: Int = patienceSeconds) throws -> ConformancePair {
        let direct = try WireClient(port: cluster.port, database: database, parameters: Self.parameters)
        direct.endWaiting(afterSeconds: patienceSeconds)
        let observer = try WireClient(port: cluster.port, database: database, user: PostgresCluster.superuser)
        return try pair(direct, observer, lane, patienceSeconds)
    }

    /// The direct connection has discarded everything; the one through Godwit is another user's.
    func reconnect(_ pair: ConformancePair) throws -> ConformancePair {
        pair.proxied.send(FrameBuilder.terminate)
        pair.proxied.close()
        if !pair.direct.hasEnded { return try self.pair(pair.direct, pair.observer, pair.lane, Self.patienceSeconds) }
        let renewed = try connect(pair.lane)
        for client in [renewed.direct, renewed.proxied] {
            _ = try client.query(ConformanceSequence.restore(lane: pair.lane))
        }
        return try reconnect(renewed)
    }

    private func pair(
        _ direct: WireClient, _ observer: WireClient, _ lane: Int, _ patienceSeconds: Int
    ) throws -> ConformancePair {
        let user = "u\(Self.users.add(1, ordering: .relaxed).newValue)"
        let proxied = try WireClient(
            port: godwit.port, database: database, parameters: Self.parameters + [("godwit.user", user)])
        proxied.endWaiting(afterSeconds: patienceSeconds)
        return ConformancePair(
            direct: direct, proxied: proxied, observer: observer, database: database, lane: lane)
    }

    private static let parameters = [("application_name", "conformance")]

    /// Who has what, for one that waits for an answer.
    var state: String {
        let servers = try? godwit.console("SHOW SERVERS"), clients = try? godwit.console("SHOW CLIENTS")
        let backends = try? cluster.psql("""
            SELECT pid, datname, state, wait_event, backend_xid, left(query, 60) FROM pg_stat_activity
             WHERE datname LIKE '\(database)%'
            """)
        let interesting: Set<String> = ["state", "wait", "link", "ptr", "pin", "user", "database", "remote_pid"]
        func rows(_ rows: [[String: String]]?) -> String {
            (rows ?? []).map { "\($0.filter { interesting.contains($0.key) })" }.joined(separator: "\n")
        }
        return "servers\n\(rows(servers))\nclients\n\(rows(clients))\nbackends\n\(backends ?? "")"
    }

    // MARK: the least that differs

    /// Leaves out steps and messages as long as a difference stays.
    func shrunk(_ found: ConformanceDifference) -> String {
        var best = found
        guard var alone = attempt(found.sequence) else { return "only beside another client:\n" + found.description }
        alone.sequence.steps = Array(alone.sequence.steps.prefix(alone.step + 1))
        best = alone
        var index = 0, attempts = 0
        while index < best.sequence.steps.count, attempts < 30 {
            attempts += 1
            var fewer = best.sequence
            fewer.steps.remove(at: index)
            if let difference = attempt(fewer) { best = difference } else { index += 1 }
        }
        var step = 0
        while step < best.sequence.steps.count {
            var message = 0
            while step < best.sequence.steps.count, message < best.sequence.steps[step].messages.count, attempts < 60 {
                attempts += 1
                var fewer = best.sequence
                fewer.steps[step].messages.remove(at: message)
                fewer.steps[step].ending = .barrier
                if let difference = attempt(fewer) { best = difference } else { message += 1 }
            }
            step += 1
        }
        return best.description
    }

    /// On connections of its own, each message in one piece.
    private func attempt(_ sequence: ConformanceSequence) -> ConformanceDifference? {
        guard let pair = try? connect(sequence.lane, patienceSeconds: 1) else { return .failed(sequence.lane) }
        defer { pair.proxied.close() }
        for client in [pair.direct, pair.proxied] {
            _ = try? client.query(ConformanceSequence.restore(lane: sequence.lane))
        }
        // Its user and connection are held on OLD now: another one may go to NEW.
        guard let fresh = try? reconnect(pair) else { return .failed(sequence.lane) }
        defer { fresh.proxied.close() }
        fresh.proxied.endWaiting(afterSeconds: 1)
        return fresh.run(sequence, splits: false)
    }
}

/// The same client at PostgreSQL and at Godwit.
struct ConformancePair {
    let direct: WireClient
    let proxied: WireClient
    /// Of the cluster's superuser.
    let observer: WireClient
    let database: String
    let lane: Int

    /// Runs the sequence on both, then what makes the direct connection and the table as new.
    func run(_ sequence: ConformanceSequence, splits: Bool = true) -> ConformanceDifference? {
        var random = SeededGenerator(seed: ~sequence.seed)
        let splitting = splits ? Int.random(in: 0..<20, using: &random) : 0
        var parameters: (direct: [String: String], proxied: [String: String]) = ([:], [:])
        var hasFailed = false
        for (number, step) in (sequence.steps + [end]).enumerated() {
            let bytes = step.bytes
            direct.send(bytes)
            switch splitting {
            case 0..<9: proxied.send(bytes)
            case 9: proxied.sendByteByByte(bytes)
            default: sendInPieces(bytes, &random)
            }
            if step.isCancelled && !hasFailed {
                // It may have failed before it slept: Godwit's other clients need not wait for that to show.
                if cancelOnceItRuns(direct, in: "= '\(database)'", givesUp: true) {
                    cancelOnceItRuns(proxied, in: "IN ('\(database)_old', '\(database)_new')", givesUp: false)
                }
            }
            let expected = answers(direct, step.ending, &parameters.direct)
            let actual = answers(proxied, step.ending, &parameters.proxied)
            hasFailed = expected.last == "Z E"
            // What breaks the protocol breaks the connection, in the midst of a COPY at some point or other.
            if direct.hasEnded { return nil }
            if !Self.areEqual(expected, actual) {
                return ConformanceDifference(sequence: sequence, step: number, direct: expected, proxied: actual)
            }
            for (name, value) in parameters.direct
            where parameters.proxied[name] != value && name != "application_name" {
                return ConformanceDifference(
                    sequence: sequence, step: number, direct: ["S \(parameters.direct)"], proxied: ["S \(parameters.proxied)"])
            }
        }
        return nil
    }

    /// Behind so many, it is one that Godwit does not answer.
    private static let looksMax = 20_000

    /// Looks at a direct connection whose server has nothing to do, one after the other.
    private static let idleLooksMax = 100

    /// Cancels the query once it is known to run, so that the request can hit nothing else.
    ///
    /// - Parameter givesUp: when the client's own server only waits for it.
    @discardableResult
    private func cancelOnceItRuns(_ client: WireClient, in databases: String, givesUp: Bool) -> Bool {
        let idle = """
            SELECT count(*) FROM pg_stat_activity WHERE pid = \(client.processID) AND state LIKE 'idle%'
            """
        var idleLooks = 0
        let asleep = """
            SELECT count(*) FROM pg_stat_activity WHERE datname \(databases) AND wait_event = 'PgSleep'
               AND query LIKE '%\(ConformanceSequence.slumber(lane: lane))%'
            """
        for _ in 0..<Self.looksMax {
            if (try? observer.value(asleep)) != "0" {
                try? client.cancel()
                return true
            }
            if givesUp && client.hasSomethingToRead {
                idleLooks = (try? observer.value(idle)) == "1" ? idleLooks + 1 : 0
                if idleLooks == Self.idleLooksMax { return false }
            }
        }
        return false
    }

    /// Equal, but for batches in a transaction that has failed (25P02): a Bind that is wrong in itself (08P01), or a
    /// Describe, of a statement that the server has not got. Nothing can be prepared there.
    private static func areEqual(_ expected: [String], _ actual: [String]) -> Bool {
        func batches(_ answers: [String]) -> [ArraySlice<String>] {
            answers.split(omittingEmptySubsequences: false) { $0.hasPrefix("Z") }
        }
        let pairs = (batches(expected), batches(actual))
        return pairs.0.count == pairs.1.count && zip(pairs.0, pairs.1).allSatisfy { expected, actual in
            if expected.elementsEqual(actual) { return true }
            let common = zip(expected, actual).prefix { $0 == $1 }.count
            let next = expected.dropFirst(common).first ?? ""
            return actual.count == common + 1 && actual.last?.hasPrefix("E [\"C=25P02\"") == true
                && (next.hasPrefix("t ") || next.hasPrefix("E [\"C=08P01\""))
        } && zip(expected.filter { $0.hasPrefix("Z") }, actual.filter { $0.hasPrefix("Z") }).allSatisfy { $0 == $1 }
    }

    private var end: ConformanceStep {
        let texts = ["ROLLBACK", "DISCARD ALL", ConformanceSequence.restore(lane: lane)]
        return ConformanceStep(
            messages: texts.map { FrontendMessage("Query \"\($0)\"", FrameBuilder.query($0)) }, ending: .readies(texts.count))
    }

    private func sendInPieces(_ bytes: [UInt8], _ random: inout SeededGenerator) {
        var offset = 0
        while offset < bytes.count {
            let count = min(bytes.count - offset, Int.random(in: 1...60, using: &random))
            proxied.send(Array(bytes[offset..<(offset + count)]))
            offset += count
        }
    }

    /// What came, but for what may differ; ParameterStatus apart, the last of each.
    private func answers(
        _ client: WireClient, _ ending: ConformanceStep.Ending, _ parameters: inout [String: String]
    ) -> [String] {
        var answers: [String] = []
        var readies = 0, closes = 0
        while true {
            guard let message = try? client.read() else { return answers + ["no more"] }
            switch message.type {
            case "S":
                let parts = message.body.split(separator: 0, omittingEmptySubsequences: false)
                parameters[String(decoding: parts[0], as: UTF8.self)] = String(decoding: parts[1], as: UTF8.self)
                continue
            case "Z":
                readies += 1
                answers.append("Z \(message.transactionStatus ?? "?")")
                if ending == .readies(readies) || ending == .barrier && closes == ConformanceStep.barrierCloses {
                    return answers
                }
                closes = 0
            default:
                closes = message.type == "3" ? closes + 1 : 0
                answers.append(Self.comparable(message))
            }
        }
    }

    private static func comparable(_ message: WireClient.Message) -> String {
        guard message.type == "E" || message.type == "N" else {
            return "\(message.type) \(String(decoding: message.body, as: UTF8.self).debugDescription)"
        }
        var fields = message.fields
        // Where in PostgreSQL's sources it was raised, and our own names of prepared statements.
        for location in ["F", "L", "R"] as [Character] { fields[location] = nil }
        fields["M"] = fields["M"]?.replacing(/prepared statement "[^"]*"/, with: "prepared statement")
        return "\(message.type) \(fields.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" })"
    }
}
