import Foundation
import GRDB
import Primitives
import Synchronization

/// One SQLite file. Any thread; each call waits for the disk, but for `writeLater`.
final class SQLiteState: StateBackend {
    let place: String
    let isShared = false
    let absence: StateStore.Failure? = nil
    private let database: DatabasePool
    private let lock = Mutex<RunnerLock?>(nil)

    /// Opens it, makes what it lacks, and looks whether it is whole.
    ///
    /// - Parameter process: tells this one from others.
    init(path: String, process: String) throws(StateStore.Failure) {
        place = path
        let isThere = FileManager.default.fileExists(atPath: path)
        do {
            // Nobody else is to read manifests and reasons; SQLite gives its other files the same rights.
            if !isThere {
                let descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
                let reason = String(cString: strerror(errno))
                if descriptor < 0 { throw StateStore.Failure(path: path, what: "cannot be made: \(reason)") }
                close(descriptor)
            }
            var settings = GRDB.Configuration()
            settings.busyMode = .timeout(5)
            settings.label = "godwit-state"
            database = try DatabasePool(path: path, configuration: settings)
            // A decision that was told is on the disk. Said behind the pool's own word, which is NORMAL: that keeps the
            // file whole when the power goes, and forgets what was written last.
            try database.writeWithoutTransaction { try $0.execute(sql: "PRAGMA synchronous = FULL") }
            let verdict = try database.read { try String.fetchOne($0, sql: "PRAGMA quick_check(1)") }
            if verdict != "ok" {
                throw StateStore.Failure(path: path, what: "is damaged (\(verdict ?? "no answer")): \(Self.advice)")
            }
            let newer = try database.read { try SQLiteSchema.migrator.hasBeenSuperseded($0) }
            if newer {
                throw StateStore.Failure(path: path, what: "was written by a later version of Godwit: use that one")
            }
            try SQLiteSchema.migrator.migrate(database)
            // What cannot be written is found out now, not at the first decision.
            try database.write { try $0.execute(sql: "INSERT INTO start (process, micros) VALUES (?, ?)",
                arguments: [process, StateStore.now()]) }
        } catch let failure as StateStore.Failure {
            throw failure
        } catch {
            throw StateStore.Failure(path: path, what: "cannot be used: \(error): \(Self.advice)")
        }
    }

    private static let advice = "bring it back from a copy, or move it away to begin without what it knew"

    func write(_ statements: [StateStatement], term: Int64?) throws(StateStore.Failure) -> [StateRow] {
        do {
            return try database.write { try Self.perform(statements, $0) }
        } catch {
            throw StateStore.Failure(path: place, what: "cannot be written: \(error)")
        }
    }

    func writeLater(
        _ statements: [StateStatement], term: Int64?,
        then: @escaping @Sendable (Result<[StateRow], StateStore.Failure>) -> Void
    ) {
        let place = place
        database.asyncWrite({ try Self.perform(statements, $0) }) { _, result in
            then(result.mapError { StateStore.Failure(path: place, what: "cannot be written: \($0)") })
        }
    }

    func read(_ statement: StateStatement) throws(StateStore.Failure) -> [StateRow] {
        do {
            return try database.read { try Self.perform([statement], $0) }
        } catch {
            throw StateStore.Failure(path: place, what: "cannot be read: \(error)")
        }
    }

    private static func perform(_ statements: [StateStatement], _ database: Database) throws -> [StateRow] {
        var rows: [StateRow] = []
        for statement in statements {
            rows = try Row.fetchAll(
                database, sql: statement.text, arguments: StatementArguments(statement.values.map(\.databaseValue))
            ).map { row in StateRow(row.databaseValues.map { $0.asText }) }
        }
        return rows
    }

    func term() -> StateTerm {
        lock.withLock { lock in
            if lock == nil { lock = RunnerLock(path: place) }
            return lock == nil ? .others(process: "", address: "") : .ours(0)
        }
    }

    var present: StateTerm { lock.withLock { $0 == nil ? .nobody : .ours(0) } }

    func resign() { lock.withLock { $0 = nil } }

    /// Nobody else's words come by here.
    func observe(term: @escaping @Sendable (StateTerm) -> Void, news: @escaping @Sendable () -> Void) {}
}

extension StateValue {
    fileprivate var databaseValue: DatabaseValue {
        switch self {
        case .text(let text): text.databaseValue
        case .integer(let number): number.databaseValue
        case .flag(let flag): flag.databaseValue
        case .null: .null
        }
    }
}

extension DatabaseValue {
    fileprivate var asText: String? {
        switch storage {
        case .null: nil
        case .int64(let number): "\(number)"
        case .double(let number): "\(number)"
        case .string(let text): text
        case .blob(let bytes): String(decoding: bytes, as: UTF8.self)
        }
    }
}

/// The right to run migrations out of one state file: of several processes one has it, until it ends. One owner.
private final class RunnerLock: Sendable {
    private let descriptor: CInt

    /// nil: another process has it.
    init?(path: String) {
        let opened = open("\(path).lock", O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
        if opened < 0 { return nil }
        guard flock(opened, LOCK_EX | LOCK_NB) == 0 else {
            close(opened)
            return nil
        }
        descriptor = opened
    }

    deinit { close(descriptor) }
}

/// The tables. Later versions append migrations, and change none.
enum SQLiteSchema {
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
