import LibPQ
import Primitives
import Synchronization
import TestSupport
import Testing

/// What the clients of a chaos run have come to. Any thread.
final class ChaosCounts: Sendable {
    let committed = Atomic<Int>(0)
    let refused = Atomic<Int>(0)
    /// Of those that came through Godwit, without DDL: by SQLSTATE.
    let refusedByGodwit = Mutex<[String: Int]>([:])
    let lost = Atomic<Int>(0)
    /// Transactions with DDL, of those that were committed, and of those that were refused by their SQLSTATE.
    let changed = Atomic<Int>(0)
    let changesEnded = Atomic<Int>(0)
    let changesRefused = Mutex<[String: Int]>([:])
    let isEnding = Atomic<Bool>(false)
}

/// One client that never gives up. It knows its own answers and settings from others', on whatever server it is.
struct ChaosWriter: Sendable {
    let port: UInt16
    let number: Int
    let isThroughGodwit: Bool
    /// One of so many transactions changes the schema; nil: none.
    let changesEvery: Int?
    let database: String
    let counts: ChaosCounts
    let hostile: HostileWriter
    /// The run, and where it is.
    let context: String

    /// Whoever gets no answer for so long counts as forgotten: even a server that is stopped answers sooner.
    private static let patienceSeconds = 60

    func run() {
        var hostile = hostile
        while !counts.isEnding.load(ordering: .relaxed) {
            do {
                let client = try WireClient(port: port, database: database, user: PostgresCluster.superuser)
                client.endWaiting(afterSeconds: Self.patienceSeconds)
                let durability = "SET synchronous_commit = \(hostile.pick(2) == 0 ? "on" : "off")"
                let settings = "\(hostile.settings); \(durability); SET app.own = 'client \(number)'"
                if let refusal = try ask(client, settings).first(where: { $0.type == "E" }) {
                    throw TestFailure("no settings: \(refusal)")
                }
                while !counts.isEnding.load(ordering: .relaxed) { try transaction(client, &hostile) }
            } catch {
                counts.lost.wrappingAdd(1, ordering: .relaxed)
                Awaited.pause()
            }
        }
    }

    private func ask(_ client: WireClient, _ text: String) throws -> [WireClient.Message] {
        do {
            return try client.query(text)
        } catch {
            if client.hasGivenUp { Issue.record("\(context): client \(number) has no answer to \(text)") }
            throw error
        }
    }

    /// As one text, or statement by statement with a read between.
    private func transaction(_ client: WireClient, _ hostile: inout HostileWriter) throws {
        let changes = changesEvery.map { hostile.pick($0) == 0 } ?? false
        // Rows of tables that have come: for all, and refused where there is none.
        let script = changes ? hostile.migration() : hostile.pick(20) == 0 ? [hostile.rows()] : hostile.next()
        var refusal: WireClient.Message?
        func run(_ text: String) throws { refusal = try ask(client, text).first { $0.type == "E" } }
        if !changes && hostile.pick(2) == 0 {
            try run(script.joined(separator: ";\n"))
        } else {
            for statement in script where refusal == nil { try run(statement) }
            if refusal == nil { try expectOwn(client, "answer \(number).\(hostile.pick(1_000_000))") }
        }
        if changes { counts.changesEnded.wrappingAdd(1, ordering: .relaxed) }
        if let refusal {
            _ = try ask(client, "ROLLBACK")
            counts.refused.wrappingAdd(1, ordering: .relaxed)
            let state = refusal.sqlState ?? ""
            if changes {
                counts.changesRefused.withLock { $0[state, default: 0] += 1 }
            } else if isThroughGodwit {
                counts.refusedByGodwit.withLock { $0[state, default: 0] += 1 }
            }
        } else {
            counts.committed.wrappingAdd(1, ordering: .relaxed)
            if changes && script.last != "ROLLBACK" { counts.changed.wrappingAdd(1, ordering: .relaxed) }
        }
    }

    /// A read, mostly on NEW: the answer is this client's, and so are the server's settings.
    private func expectOwn(_ client: WireClient, _ answer: String) throws {
        let messages = try ask(client, """
            SELECT '\(answer)', current_setting('app.own'), current_setting('session_replication_role'), count(*)
              FROM accounts
            """)
        if let state = messages.lazy.compactMap(\.sqlState).first {
            if isThroughGodwit { counts.refusedByGodwit.withLock { $0["read: \(state)", default: 0] += 1 } }
            return
        }
        let row = messages.first { $0.type == "D" }?.columns.dropLast()
        let role = hostile.isReplica ? "replica" : "origin"
        #expect(row == [answer, "client \(number)", role], "\(context): client \(number) has \(messages)")
    }
}
