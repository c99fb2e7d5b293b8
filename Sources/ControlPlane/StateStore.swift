import Configuration
import Foundation
import GRDB
import Migration
import Primitives
import Synchronization

/// What must outlive the process: migrations, their states, decisions and figures, events, orders about traffic. One
/// SQLite file, append-only. Any thread; each call waits for the disk, but for `append`.
package final class StateStore: EventSink {
    package struct Failure: Error, Sendable, CustomStringConvertible {
        package let path: String
        package let what: String

        package var description: String { "the state in \(path) \(what)" }
    }

    /// Events that wait to be written; more are dropped, and counted.
    package static let waitingEventsMax = 10_000

    package let path: String
    private let database: DatabasePool
    /// Tells this process's events from those of others.
    private let process: String
    private let waitingEvents = Atomic<Int>(0)
    private let lostEvents = Atomic<UInt64>(0)
    private let lastFailure = Mutex<String?>(nil)

    /// Opens it, makes what it lacks, and looks whether it is whole.
    package init(path: String) throws(Failure) {
        self.path = path
        process = "\(getpid())-\(Self.now())"
        let isThere = FileManager.default.fileExists(atPath: path)
        do {
            // Nobody else is to read manifests and reasons; SQLite gives its other files the same rights.
            if !isThere {
                let descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
                let reason = String(cString: strerror(errno))
                if descriptor < 0 { throw Failure(path: path, what: "cannot be made: \(reason)") }
                close(descriptor)
            }
            var settings = GRDB.Configuration()
            settings.busyMode = .timeout(5)
            settings.label = "godwit-state"
            settings.prepareDatabase { database in
                // A decision that was told is on the disk.
                if !database.configuration.readonly { try database.execute(sql: "PRAGMA synchronous = FULL") }
            }
            database = try DatabasePool(path: path, configuration: settings)
            let verdict = try database.read { try String.fetchOne($0, sql: "PRAGMA quick_check(1)") }
            if verdict != "ok" {
                throw Failure(path: path, what: "is damaged (\(verdict ?? "no answer")): \(Self.advice)")
            }
            let newer = try database.read { try StateSchema.migrator.hasBeenSuperseded($0) }
            if newer { throw Failure(path: path, what: "was written by a later version of Godwit: use that one") }
            try StateSchema.migrator.migrate(database)
            // What cannot be written is found out now, not at the first decision.
            try database.write { try $0.execute(sql: "INSERT INTO start (process, micros) VALUES (?, ?)",
                arguments: [process, Self.now()]) }
        } catch let failure as Failure {
            throw failure
        } catch {
            throw Failure(path: path, what: "cannot be used: \(error): \(Self.advice)")
        }
    }

    private static let advice = "bring it back from a copy, or move it away to begin without what it knew"

    /// Microseconds since 1970.
    package static func now() -> Int64 { WallClock.micros() }

    /// Events that were not kept, and why the last write failed; nil: it did not.
    package var health: (lostEvents: UInt64, failure: String?) {
        (lostEvents.load(ordering: .relaxed), lastFailure.withLock { $0 })
    }

    func write<Value: Sendable>(_ body: @Sendable (Database) throws -> Value) throws(Failure) -> Value {
        do {
            let value = try database.write(body)
            lastFailure.withLock { $0 = nil }
            return value
        } catch {
            lastFailure.withLock { $0 = "\(error)" }
            throw Failure(path: path, what: "cannot be written: \(error)")
        }
    }

    func read<Value: Sendable>(_ body: @Sendable (Database) throws -> Value) throws(Failure) -> Value {
        do { return try database.read(body) } catch { throw Failure(path: path, what: "cannot be read: \(error)") }
    }

    /// In the order of the calls, on a thread of the database's.
    func writeLater(
        _ body: @escaping @Sendable (Database) throws -> Void, then: @escaping @Sendable (Bool) -> Void = { _ in }
    ) {
        database.asyncWrite(body) { [self] _, result in
            switch result {
            case .success:
                lastFailure.withLock { $0 = nil }
                then(true)
            case .failure(let error):
                lastFailure.withLock { $0 = "\(error)" }
                then(false)
            }
        }
    }

    // MARK: events

    /// Never waits.
    package func append(_ event: EventRecord) {
        if waitingEvents.wrappingAdd(1, ordering: .relaxed).newValue > Self.waitingEventsMax {
            waitingEvents.wrappingSubtract(1, ordering: .relaxed)
            lostEvents.wrappingAdd(1, ordering: .relaxed)
            return
        }
        let process = process
        writeLater(
            { database in
                try database.execute(
                    sql: "INSERT INTO event (process, ordinal, micros, kind, database, json) VALUES (?, ?, ?, ?, ?, ?)",
                    arguments: [
                        process, Int64(event.number), event.micros, event.kind.rawValue, event.database, event.json,
                    ])
            },
            then: { [self] isWritten in
                waitingEvents.wrappingSubtract(1, ordering: .relaxed)
                if !isWritten { lostEvents.wrappingAdd(1, ordering: .relaxed) }
            })
    }

    /// Waits until all events are written that were given before.
    package func flush() { _ = try? write { _ in } }

    package struct StoredEvent: Sendable, Equatable {
        package var number: Int64
        /// See `EventRecord.json`.
        package var json: String
    }

    /// Of a database, oldest first; those that concern the whole process are among them.
    package func events(
        database name: String, from: Int64, to: Int64?, after number: Int64, limit: Int
    ) throws(Failure) -> [StoredEvent] {
        try read { database in
            try Row.fetchAll(
                database, sql: """
                    SELECT number, json FROM event WHERE database IN (?, '') AND micros >= ? AND micros <= ?
                       AND number > ? ORDER BY number LIMIT ?
                    """,
                arguments: [name, from, to ?? Int64.max, number, limit]
            ).map { StoredEvent(number: $0["number"], json: $0["json"]) }
        }
    }
}

extension StateStore {
    /// Users whose sessions keep their servers for the values of sequences; see Proxy's `SequenceReaders`.
    package func sequenceReaders() throws(Failure) -> [(database: String, user: String)] {
        try read { database in
            try Row.fetchAll(database, sql: "SELECT database, user FROM sequence_reader")
                .map { ($0["database"], $0["user"]) }
        }
    }

    /// Never waits.
    package func noteSequenceReader(database name: String, user: String) {
        writeLater { database in
            try database.execute(
                sql: "INSERT OR IGNORE INTO sequence_reader (database, user) VALUES (?, ?)", arguments: [name, user])
        }
    }
}

/// The tables. Later versions append migrations, and change none.
enum StateSchema {
    /// What is never changed once it is written.
    private static let lasting = ["migration", "state", "decision", "reading", "event", "traffic", "start"]

    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.execute(sql: """
                CREATE TABLE start (number INTEGER PRIMARY KEY, process TEXT NOT NULL, micros INTEGER NOT NULL);
                CREATE TABLE migration (
                    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, database TEXT NOT NULL,
                    manifest TEXT NOT NULL, by TEXT NOT NULL, micros INTEGER NOT NULL);
                CREATE TABLE state (
                    number INTEGER PRIMARY KEY, migration TEXT NOT NULL REFERENCES migration (id),
                    micros INTEGER NOT NULL, json TEXT NOT NULL);
                CREATE INDEX state_migration ON state (migration, number);
                CREATE TABLE decision (
                    number INTEGER PRIMARY KEY, migration TEXT NOT NULL REFERENCES migration (id),
                    micros INTEGER NOT NULL, by TEXT NOT NULL, verb TEXT NOT NULL, reason TEXT NOT NULL,
                    taken INTEGER NOT NULL, answer TEXT NOT NULL, gates TEXT NOT NULL);
                CREATE INDEX decision_migration ON decision (migration, number);
                CREATE TABLE reading (
                    number INTEGER PRIMARY KEY, migration TEXT NOT NULL REFERENCES migration (id),
                    micros INTEGER NOT NULL, phase TEXT NOT NULL, gate TEXT NOT NULL, value TEXT NOT NULL,
                    threshold TEXT NOT NULL, holds INTEGER);
                CREATE INDEX reading_migration ON reading (migration, number);
                CREATE TABLE event (
                    number INTEGER PRIMARY KEY, process TEXT NOT NULL, ordinal INTEGER NOT NULL,
                    micros INTEGER NOT NULL, kind TEXT NOT NULL, database TEXT NOT NULL, json TEXT NOT NULL);
                CREATE INDEX event_database ON event (database, number);
                CREATE TABLE traffic (
                    number INTEGER PRIMARY KEY, micros INTEGER NOT NULL, database TEXT NOT NULL, json TEXT NOT NULL);
                CREATE INDEX traffic_database ON traffic (database, number);
                CREATE TABLE answer (
                    key TEXT PRIMARY KEY, micros INTEGER NOT NULL, request TEXT NOT NULL, status INTEGER NOT NULL,
                    body TEXT NOT NULL);
                """)
            for table in lasting {
                for verb in ["UPDATE", "DELETE"] {
                    try database.execute(sql: """
                        CREATE TRIGGER \(table)_\(verb.lowercased()) BEFORE \(verb) ON \(table)
                        BEGIN SELECT RAISE(ABORT, 'what was decided is never changed'); END
                        """)
                }
            }
        }
        migrator.registerMigration("sequence readers") { database in
            try database.execute(sql: """
                CREATE TABLE sequence_reader (
                    database TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (database, user)) WITHOUT ROWID
                """)
        }
        return migrator
    }
}
