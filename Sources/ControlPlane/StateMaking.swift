import LibPQ
import Synchronization

/// Makes what a state's database lacks, by the first session that this process has with it. Any thread.
final class StateMaking: Sendable {
    typealias Execute = (String) throws(PostgresFailure) -> Rows?

    private let process: String
    private let isMade = Mutex(false)

    init(_ process: String) { self.process = process }

    func ensure(_ execute: Execute) throws(PostgresFailure) {
        try isMade.withLock { (isMade) throws(PostgresFailure) in
            if isMade { return }
            try make(execute)
            isMade = true
        }
    }

    private func make(_ execute: Execute) throws(PostgresFailure) {
        if try !isThere(execute) {
            do throws(PostgresFailure) {
                _ = try execute(PostgresSchema.makeText)
            } catch {
                // Another Godwit that begins has been quicker.
                guard try isThere(execute) else { throw error }
            }
        }
        let found = try execute(PostgresSchema.numberQuery)?.integer(0, 0) ?? 0
        if found > PostgresSchema.version {
            throw PostgresFailure(.refused, "a later version of Godwit has written it: use that one")
        }
        // What cannot be written is found out now, not at the first decision.
        _ = try execute("""
            \(PostgresSchema.enter(term: nil, process: process, ordinal: nil));
            INSERT INTO start (process, micros) VALUES (\(SQL.literal(process)), \(StateStore.now()))
            """)
    }

    private func isThere(_ execute: Execute) throws(PostgresFailure) -> Bool {
        guard let rows = try execute(PostgresSchema.versionQuery) else { preconditionFailure("it has a row") }
        if rows.flag(0, 1) {
            throw PostgresFailure(
                .refused, "this database is one that is migrated, and its tables move: name one of the state's own")
        }
        return rows.flag(0, 0)
    }
}

extension PostgresFailure {
    /// The server is not there, or not yet: nothing that somebody would have to mend in the configuration.
    var isAbsence: Bool {
        if kind == .refused { return isPassing }
        // Whoever says FATAL is there; only these go by.
        let passing = ["starting up", "shutting down", "not yet accepting", "recovery", "too many", "slots"]
        return !message.contains("FATAL") || passing.contains { message.contains($0) }
    }
}
