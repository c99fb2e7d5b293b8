import Foundation
import Primitives
import Synchronization

/// What must outlive the process: migrations, their states, decisions and figures, events, orders about traffic.
/// Append-only, in an SQLite file or, for several Godwits, in PostgreSQL. Any thread; each call waits until it lasts,
/// but for those that say otherwise.
package final class StateStore: EventSink {
    package struct Failure: Error, Sendable, CustomStringConvertible {
        /// The file, or the server.
        package let path: String
        package let what: String
        /// It was to be written as of a term that is over.
        package let isSuperseded: Bool

        package init(path: String, what: String, isSuperseded: Bool = false) {
            self.path = path
            self.what = what
            self.isSuperseded = isSuperseded
        }

        package var description: String { "the state in \(path) \(what)" }
    }

    /// Events that wait to be written; more are dropped, and counted.
    package static let waitingEventsMax = 10_000

    private let backend: any StateBackend
    /// Tells this process's events from those of others.
    private let process: String
    private let waitingEvents = Atomic<Int>(0)
    private let lostEvents = Atomic<UInt64>(0)
    private let lastFailure = Mutex<String?>(nil)
    /// As which the migrations' records are written.
    private let heldTerm = Mutex<Int64?>(nil)

    /// An SQLite file: opens it, makes what it lacks, and looks whether it is whole.
    package init(path: String) throws(Failure) {
        process = Self.processName()
        backend = try SQLiteState(path: path, process: process)
    }

    /// A PostgreSQL database: connects, and makes what it lacks.
    ///
    /// - Parameters:
    ///   - url: a conninfo or URI.
    ///   - address: where this process's HTTP can be reached by those who ask others; empty: nowhere.
    ///   - mayBeAway: see `absence`.
    package init(url: String, address: String, mayBeAway: Bool = false) throws(Failure) {
        process = Self.processName()
        backend = try PostgresState(url: url, process: process, address: address, mayBeAway: mayBeAway)
    }

    private static func processName() -> String {
        "\(ProcessInfo.processInfo.hostName)-\(getpid())-\(now())"
    }

    /// Microseconds since 1970.
    package static func now() -> Int64 { WallClock.micros() }

    /// Where it is, for people.
    package var path: String { backend.place }

    /// Several Godwits work with it.
    package var isShared: Bool { backend.isShared }

    /// Why its server could not be had when this process began: what is stored is not known until it can be. nil: it
    /// could.
    package var absence: Failure? { backend.absence }

    /// Events that were not kept, and why the last write failed; nil: it did not.
    package var health: (lostEvents: UInt64, failure: String?) {
        (lostEvents.load(ordering: .relaxed), lastFailure.withLock { $0 })
    }

    @discardableResult
    func write(_ statements: StateStatement..., asRunner: Bool = false) throws(Failure) -> [StateRow] {
        let term = heldTerm.withLock { $0 }
        if asRunner, isShared, term == nil {
            throw Failure(path: path, what: "is another Godwit's to write", isSuperseded: true)
        }
        do throws(Failure) {
            let rows = try backend.write(statements, term: asRunner ? term : nil)
            lastFailure.withLock { $0 = nil }
            return rows
        } catch {
            note(error)
            throw error
        }
    }

    /// That somebody else has the migrations is no fault of the store's.
    private func note(_ failure: Failure) {
        if !failure.isSuperseded { lastFailure.withLock { $0 = failure.what } }
    }

    func read(_ statement: StateStatement) throws(Failure) -> [StateRow] { try backend.read(statement) }

    /// In the order of the calls, on a thread of the backend's.
    func writeLater(
        _ statement: StateStatement, term: Int64? = nil, then: @escaping @Sendable ([StateRow]?) -> Void = { _ in }
    ) {
        backend.writeLater([statement], term: term) { [self] result in
            switch result {
            case .success(let rows):
                lastFailure.withLock { $0 = nil }
                then(rows)
            case .failure(let failure):
                note(failure)
                then(nil)
            }
        }
    }

    // MARK: who runs the migrations

    /// The first call asks for it to be this process.
    package func term() -> StateTerm { backend.term() }

    /// From now on records of migrations are written as of this term, and refused once there is a later one. nil: they
    /// are not ours to write.
    package func hold(_ term: Int64?) { heldTerm.withLock { $0 = term } }

    package var held: Int64? { heldTerm.withLock { $0 } }

    /// As it was asked last; asks for nothing.
    package var presentTerm: StateTerm { backend.present }

    /// As far as who runs the migrations was asked last.
    package var isReachable: Bool {
        if case .unknown = backend.present { false } else { true }
    }

    package func resign() {
        hold(nil)
        backend.resign()
    }

    /// See `StateBackend`.
    package func observe(term: @escaping @Sendable (StateTerm) -> Void, news: @escaping @Sendable () -> Void) {
        backend.observe(term: term, news: news)
    }

    // MARK: events

    /// Never waits.
    package func append(_ event: EventRecord) {
        if waitingEvents.wrappingAdd(1, ordering: .relaxed).newValue > Self.waitingEventsMax {
            waitingEvents.wrappingSubtract(1, ordering: .relaxed)
            lostEvents.wrappingAdd(1, ordering: .relaxed)
            return
        }
        let statement = StateStatement(
            "INSERT INTO event (process, ordinal, micros, kind, database, json) VALUES (?, ?, ?, ?, ?, ?)",
            .text(process), .integer(Int64(event.number)), .integer(event.micros), .text(event.kind.rawValue),
            .text(event.database), .text(event.json))
        writeLater(statement) { [self] rows in
            waitingEvents.wrappingSubtract(1, ordering: .relaxed)
            if rows == nil { lostEvents.wrappingAdd(1, ordering: .relaxed) }
        }
    }

    /// Waits until all that was given before is written, or cannot be: see `health`. That the wait itself succeeds says
    /// nothing of it, for it needs no room on the disk.
    package func flush() {
        do throws(Failure) { _ = try backend.write([StateStatement("SELECT 1")], term: nil) } catch { note(error) }
    }

    package struct StoredEvent: Sendable, Equatable {
        package var number: Int64
        /// See `EventRecord.json`.
        package var json: String
    }

    /// Of a database, oldest first; those that concern the whole process are among them.
    package func events(
        database name: String, from: Int64, to: Int64?, after number: Int64, limit: Int
    ) throws(Failure) -> [StoredEvent] {
        try read(StateStatement(
            """
            SELECT number, json FROM event WHERE database IN (?, '') AND micros >= ? AND micros <= ?
               AND number > ? ORDER BY number LIMIT ?
            """, .text(name), .integer(from), .integer(to ?? Int64.max), .integer(number), .integer(Int64(limit))
        )).map { StoredEvent(number: $0.integer(0), json: $0.text(1)) }
    }
}

extension StateStore {
    /// Users whose sessions keep their servers for the values of sequences; see Proxy's `SequenceReaders`.
    package func sequenceReaders() throws(Failure) -> [(database: String, user: String)] {
        try read(StateStatement(#"SELECT database, "user" FROM sequence_reader"#)).map { ($0.text(0), $0.text(1)) }
    }

    /// Never waits.
    package func noteSequenceReader(database name: String, user: String) {
        writeLater(StateStatement(
            #"INSERT INTO sequence_reader (database, "user") VALUES (?, ?) ON CONFLICT (database, "user") DO NOTHING"#,
            .text(name), .text(user)))
    }
}
