import Capture
import Replay

/// Events out of a workload. One thread.
package final class WorkloadSource: ReplaySource {
    package let book = StatementBook()
    package let hasOutcomes = false
    package let hasTimes = false
    package let notes: [String] = []
    private let workload: Workload
    private var writer: WorkloadWriter
    private var waiting: [ScriptEvent] = []
    private var place = 0
    private var lastConnection: UInt64 = 0
    /// Closed loop: steps of a transaction that have no answer yet; transactions of the connection so far.
    private var open: [UInt64: (steps: Int, transactions: Int)] = [:]
    /// Open loop: the next arrival.
    private var nextMicros = 0.0
    private var turn = 0
    private var clients: [UInt64] = []

    package init(_ workload: Workload, seed: UInt64) {
        self.workload = workload
        writer = WorkloadWriter(workload, book: book, seed: seed)
        for _ in 0..<workload.clients { clients.append(connect(at: 0)) }
        if workload.rate == 0 {
            for client in clients { for _ in 0..<workload.pipeline { begin(client, at: 0) } }
        }
    }

    private func connect(at micros: UInt64) -> UInt64 {
        lastConnection += 1
        let connection = CapturedConnection(
            user: "", database: "", applicationName: "loadtest", settings: [])
        waiting.append(.open(connection: lastConnection, micros: micros, connection, prepared: []))
        open[lastConnection] = (0, 0)
        return lastConnection
    }

    /// It goes when it has its answers.
    private func end(_ connection: UInt64, at micros: UInt64) {
        waiting.append(.close(connection: connection, micros: micros))
        open[connection] = nil
        writer.forget(connection)
    }

    private func begin(_ connection: UInt64, at micros: UInt64) {
        let steps = writer.transaction(connection: connection, micros: micros)
        open[connection]?.steps += steps.count
        open[connection]?.transactions += 1
        for step in steps { waiting.append(.step(connection: connection, step)) }
    }

    package func next() throws -> SourceStep {
        if place < waiting.count {
            place += 1
            return .event(waiting[place - 1])
        }
        waiting.removeAll(keepingCapacity: true)
        place = 0
        if workload.rate == 0 { return .nothing }
        // One arrival at a time: the run asks for no more than it is ahead of the clock.
        if nextMicros >= workload.seconds * 1e6 { return .end }
        let micros = UInt64(nextMicros)
        nextMicros += writer.gap() * 1e6
        let transactions = open[clients[turn]]?.transactions ?? 0
        if workload.reconnectAfter > 0 && transactions >= workload.reconnectAfter {
            end(clients[turn], at: micros)
            clients[turn] = connect(at: micros)
        }
        begin(clients[turn], at: micros)
        turn = (turn + 1) % clients.count
        return try next()
    }

    package func finished(connection: UInt64, micros: UInt64, isUnprepared: Bool) {
        if isUnprepared { writer.prepareAgain(connection) }
        guard workload.rate == 0, let count = open[connection] else { return }
        open[connection]?.steps -= 1
        // The pipeline is filled up by whole transactions.
        let limit = workload.pipeline
        if count.steps - 1 >= limit { return }
        if workload.reconnectAfter > 0, count.transactions >= workload.reconnectAfter {
            if count.steps > 1 { return }
            end(connection, at: micros)
            return begin(connect(at: micros), at: micros)
        }
        begin(connection, at: micros)
    }

    package func rewind() throws { preconditionFailure("a workload has no end to begin again at") }
}
