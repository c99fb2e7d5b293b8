import PGWire
import Pooling
import Primitives
import Routing
import SQLAnalysis
import Synchronization

/// What one thread tells the control plane of itself: sums only, so that thousands of clients cost one pass over them.
struct ThreadFigures: Sendable {
    struct Database: Sendable {
        var counts: DatabaseCounts
        var times: UnitTimes
        var statements: Int
        /// Pinned clients by reason.
        var pins: [String: Int] = [:]
        var old: Reach

        var name: String { counts.name }

        mutating func add(_ other: Database) {
            counts.add(other.counts)
            times = times + other.times
            statements += other.statements
            pins.merge(other.pins, uniquingKeysWith: +)
        }
    }

    /// What is known of an authority.
    enum Reach: Sendable {
        /// Nobody has asked for it.
        case unknown
        case reached
        case failing(String)
    }

    var worker: Int
    /// No client is taken any more, whether or not those that are there are told to go.
    var isDraining: Bool
    var clients: Int
    var clientsInLogin: Int
    var pools: [WorkerReport.PoolRow]
    var databases: [Database]
}

/// All threads' figures and the configuration that they work by. Immutable, any thread.
package struct ProxyFigures: Sendable {
    package let snapshot: ProxySnapshot
    let threads: [ThreadFigures]
    let events: [EventRecord.Kind: UInt64]
}

/// Waits for the figures of all threads. Any thread.
final class ReportCollection: Sendable {
    private struct State {
        var figures: [Int: ThreadFigures] = [:]
        var deliver: (@Sendable ([ThreadFigures]) -> Void)?
    }

    private let threads: Int
    private let state: Mutex<State>

    init(threads: Int, _ deliver: @escaping @Sendable ([ThreadFigures]) -> Void) {
        self.threads = threads
        state = Mutex(State(deliver: deliver))
    }

    /// Whoever is first for a thread counts; delivered once.
    func add(_ figures: ThreadFigures, of worker: Int) {
        let complete = state.withLock { state -> (@Sendable () -> Void)? in
            if state.figures[worker] == nil { state.figures[worker] = figures }
            guard state.figures.count == threads, let deliver = state.deliver else { return nil }
            state.deliver = nil
            let all = state.figures.values.sorted { $0.worker < $1.worker }
            return { deliver(all) }
        }
        complete?()
    }
}

/// Figures of the threads that have ended: their counts go on to be told. Any thread.
final class LastFigures: Sendable {
    private let figures = Mutex<[Int: ThreadFigures]>([:])

    func set(_ last: ThreadFigures, of worker: Int) { figures.withLock { $0[worker] = last } }

    var all: [Int: ThreadFigures] { figures.withLock { $0 } }
}

extension Worker {
    func makeFigures() -> ThreadFigures {
        var pins: [String: [String: Int]] = [:]
        var inLogin = 0
        for client in clients.values {
            if client.phase.isOutside { inLogin += 1 }
            if let pin = client.pin { pins[client.databaseName, default: [:]][pin.rawValue, default: 0] += 1 }
        }
        var failures: [String: String] = [:]
        var reached: Set<String> = []
        for entry in pools.values where entry.key.side == entry.database.authority {
            if entry.pool.idleCount + entry.pool.leasedCount > 0 { reached.insert(entry.key.database) }
            // A user's wrong password says nothing of the server.
            if let failure = entry.lastFailure, failure.state.isServersOwn {
                failures[entry.key.database] = failure.message
            }
        }
        return ThreadFigures(
            worker: index, isDraining: listening.hasEnded, clients: clients.count, clientsInLogin: inLogin,
            pools: poolRows(),
            databases: databases.values.map { state in
                ThreadFigures.Database(
                    counts: state.counts(now: now), times: state.times, statements: state.statements.count,
                    pins: pins[state.name] ?? [:],
                    old: reached.contains(state.name)
                        ? .reached : failures[state.name].map { .failing($0) } ?? .unknown)
            })
    }
}
