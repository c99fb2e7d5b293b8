import Glibc
import LibPQ

/// Puts journal, triggers and progress into the two databases, and takes all of it away again. Used by one
/// thread.
package struct CaptureInstaller {
    package enum Failure: Error, Equatable, CustomStringConvertible {
        case postgres(String, PostgresFailure)
        /// Locks on this table were not to be had in all the tries.
        case busy(TableName, tries: Int)
        case preparedForAnother(old: String, new: String)
        case mirrorRuns

        package var description: String {
            switch self {
            case .postgres(let what, let failure): "\(what): \(failure)"
            case .busy(let table, let tries):
                "\(table) stayed locked in \(tries) tries: end the long transaction that holds it "
                    + "(pg_stat_activity, pg_locks) and run this again"
            case .preparedForAnother(let old, let new):
                "NEW belongs to another OLD (epoch \(new) there, \(old) here): run prepare --remove for it first"
            case .mirrorRuns:
                "a mirror applies to NEW now: set mirror.mode to off (or stop that Godwit) and run this again"
            }
        }
    }

    package struct Report: Equatable, Sendable {
        /// Tables that got triggers now.
        package var installed: [TableName] = []
        /// Tables that had them.
        package var present: [TableName] = []
        /// Already mirrored, but their triggers were missing, disabled or for another key: the mirror copies them anew.
        package var suspect: [TableName] = []
    }

    /// Milliseconds to wait for one table's lock, and how often to try; the pause between doubles up to a
    /// second.
    package var lockTimeoutMillis = 1000
    package var triesMax = 20
    private let progress: (String) -> Void

    package init(progress: @escaping (String) -> Void = { _ in }) { self.progress = progress }

    /// - Parameter tables: of OLD, all with a primary key: what Preflight passed.
    package func install(
        old: borrowing Connection, new: borrowing Connection, tables: [TableDescription]
    ) throws(Failure) -> Report {
        var report = Report()
        try run(new, "NEW, schema godwit", "BEGIN; \(CaptureSchema.target); COMMIT")
        let mirrored = try names(new, "SELECT schema_name, table_name FROM godwit.backfill")
        try run(old, "OLD, schema godwit", "BEGIN; \(CaptureSchema.source); COMMIT")
        let captured = try healthyCaptures(old)
        for table in tables {
            let body = captured[table.oid]
            if let body, CaptureSchema.keyMark(ofBody: body) == CaptureSchema.keyMark(table) {
                if body != CaptureSchema.captureBody(table) {
                    try run(old, "OLD, function for \(table.name)", CaptureSchema.captureFunction(table))
                }
                report.present.append(table.name)
                continue
            }
            // Triggers that are made anew tell the mirror to copy the table again.
            try underLock(old, table.name, [
                CaptureSchema.createTriggers(table, CaptureSchema.captureFunction(table)),
                body == nil ? "" : CaptureSchema.forget(table),
            ].joined(separator: "\n"))
            progress("captures \(table.name)")
            if mirrored.contains(table.name) { report.suspect.append(table.name) }
            report.installed.append(table.name)
        }
        try watch(new, tables: tables)
        try recordStart(old: old, new: new, tables: tables)
        if !report.installed.isEmpty {
            try run(old, "OLD, godwit.control", "UPDATE godwit.control SET generation = generation + 1")
        }
        return report
    }

    /// Triggers on NEW that name whoever else writes there. A table where we may not is passed over.
    private func watch(_ new: borrowing Connection, tables: [TableDescription]) throws(Failure) {
        let names = Set(tables.map(\.name)), watched = Set(try self.names(new, RogueWatch.watched))
        let twins: [TableDescription]
        do throws(PostgresFailure) {
            twins = try CatalogReader.tables(new)
        } catch {
            throw .postgres("NEW, tables", error)
        }
        for table in twins where names.contains(table.name) && !watched.contains(table.name) {
            do throws(Failure) {
                try underLock(new, table.name, RogueWatch.install(table))
            } catch {
                guard case .postgres(_, let failure) = error, failure.sqlState == "42501" else { throw error }
                progress("may not put a trigger on NEW's \(table.name): writes there will not be noticed")
            }
        }
    }

    /// Leaves no trace on either side.
    package func remove(old: borrowing Connection, new: borrowing Connection) throws(Failure) {
        let lock = try rows(new, "NEW, applier lock", "SELECT pg_try_advisory_lock(\(CaptureSchema.applierLock))")
        guard lock.flag(0, 0) else { throw .mirrorRuns }
        for table in try names(old, CaptureSchema.capturedTables) {
            try underLock(old, table, CaptureSchema.dropTriggers(table))
            progress("no longer captures \(table)")
        }
        try run(old, "OLD, schema godwit", "DROP SCHEMA IF EXISTS godwit CASCADE")
        try run(new, "NEW, schema godwit", "DROP SCHEMA IF EXISTS godwit CASCADE")
        try run(new, "NEW, applier lock", "SELECT pg_advisory_unlock(\(CaptureSchema.applierLock))")
    }

    // MARK: steps

    /// NEW's first snapshot is taken after the last trigger is there: what any trigger missed, the backfill
    /// sees.
    private func recordStart(
        old: borrowing Connection, new: borrowing Connection, tables: [TableDescription]
    ) throws(Failure) {
        let known = try rows(new, "NEW, godwit.progress", "SELECT epoch FROM godwit.progress")
        if known.count == 0 {
            // A NEW that starts from nothing ends what any earlier NEW of this OLD could go on from.
            try run(old, "OLD, godwit.control", """
                UPDATE godwit.control SET emptied_batch = 0, epoch = greatest(epoch + 1,
                    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
                """)
        }
        let control = try rows(old, "OLD, godwit.control", """
            SELECT epoch, pg_current_snapshot(), (\(CaptureSchema.sourceIdentity)) FROM godwit.control
            """)
        let epoch = control[0, 0] ?? ""
        if known.count == 1, known[0, 0] != epoch { throw .preparedForAnother(old: epoch, new: known[0, 0] ?? "") }
        let list = tables.map { "(\(SQL.literal($0.name.schema)), \(SQL.literal($0.name.name)))" }
        try run(new, "NEW, godwit.progress", """
            BEGIN;
            INSERT INTO godwit.progress (epoch, batch, snapshot, source) VALUES
                (\(epoch), 0, \(SQL.literal(control[0, 1])), \(SQL.literal(control[0, 2]))) ON CONFLICT DO NOTHING;
            \(list.isEmpty ? "" : """
                INSERT INTO godwit.backfill (schema_name, table_name) VALUES \(list.joined(separator: ", "))
                    ON CONFLICT DO NOTHING;
                """)
            COMMIT
            """)
    }

    /// The source of each healthy table's function, by the table's oid.
    private func healthyCaptures(_ old: borrowing Connection) throws(Failure) -> [UInt32: String] {
        CaptureSchema.healthy(try rows(old, "OLD, triggers", CaptureSchema.capturedTables))
    }

    private func names(_ connection: borrowing Connection, _ sql: String) throws(Failure) -> [TableName] {
        let found = try rows(connection, "table names", sql)
        return (0..<found.count).map { TableName(schema: found[$0, 0] ?? "", name: found[$0, 1] ?? "") }
    }

    /// One transaction that gives up a table's lock rather than let the application queue up behind it.
    private func underLock(_ connection: borrowing Connection, _ table: TableName, _ sql: String) throws(Failure) {
        var pauseMillis: UInt32 = 10
        for attempt in 1...triesMax {
            do throws(PostgresFailure) {
                try connection.execute("BEGIN; SET LOCAL lock_timeout = \(lockTimeoutMillis); \(sql); COMMIT")
                return
            } catch {
                if error.kind == .refused { try run(connection, "\(table)", "ROLLBACK") }
                guard error.isLockConflict else { throw .postgres("\(table)", error) }
                progress("\(table) is locked by others, try \(attempt) of \(triesMax)")
            }
            usleep(pauseMillis * 1000)
            pauseMillis = min(pauseMillis * 2, 1000)
        }
        throw .busy(table, tries: triesMax)
    }

    private func run(_ connection: borrowing Connection, _ what: String, _ sql: String) throws(Failure) {
        do throws(PostgresFailure) {
            try connection.execute(sql)
        } catch {
            if connection.isInTransaction, error.kind == .refused { _ = try? connection.execute("ROLLBACK") }
            throw .postgres(what, error)
        }
    }

    private func rows(_ connection: borrowing Connection, _ what: String, _ sql: String) throws(Failure) -> Rows {
        do throws(PostgresFailure) { return try connection.query(sql) } catch { throw .postgres(what, error) }
    }
}
