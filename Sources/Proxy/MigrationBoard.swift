import Console
import Synchronization

/// What consoles are shown of migrations. Any thread.
package final class MigrationBoard: Sendable {
    package struct Row: Sendable, Equatable {
        package var id: String
        package var database: String
        package var phase: String
        package var standing: String
        /// In words.
        package var place: String
        /// `old` or `new`.
        package var writes: String
        package var readsPercent: String
        package var since: String
        /// `7/8`: gates that hold, of those that must.
        package var gates: String
        /// What stands in the way of the next step, or why it stands where it does.
        package var cause: String

        package init(
            id: String, database: String, phase: String, standing: String, place: String, writes: String,
            readsPercent: String, since: String, gates: String, cause: String
        ) {
            self.id = id
            self.database = database
            self.phase = phase
            self.standing = standing
            self.place = place
            self.writes = writes
            self.readsPercent = readsPercent
            self.since = since
            self.gates = gates
            self.cause = cause
        }
    }

    private let held = Mutex<[Row]>([])

    package init() {}

    package var rows: [Row] {
        get { held.withLock { $0 } }
        set { held.withLock { $0 = newValue } }
    }
}

extension ConsoleTables {
    func migrations() -> ConsoleReport {
        var table = ConsoleReport([
            .init("migration"), .init("database"), .init("phase"), .init("standing"), .init("place"), .init("writes"),
            .init("reads_percent"), .init("since"), .init("gates"), .init("cause"),
        ])
        for row in snapshot.migrations.rows {
            table.append([
                row.id, row.database, row.phase, row.standing, row.place, row.writes, row.readsPercent, row.since,
                row.gates, row.cause,
            ])
        }
        return table
    }
}
