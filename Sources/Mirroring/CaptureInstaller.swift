import Glibc
import LibPQ
import Migration
import Primitives

/// Puts journal, triggers and progress into the two databases, and takes all of it away again. Used by one
/// thread.
package struct CaptureInstaller {
    package enum Failure: Error, Equatable, CustomStringConvertible {
        case postgres(String, PostgresFailure)
        /// Locks on this table were not to be had in all the tries.
        case busy(String, tries: Int)
        case preparedForAnother(old: String, new: String)
        case mirrorRuns
        /// The writes are being moved, or have been since the direction was found.
        case switching

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
            case .switching:
                "the writes are just being moved to the other side, or have been: run this again when SHOW AUTHORITY "
                    + "says who has them"
            }
        }
    }

    package struct Report: Equatable, Sendable {
        /// Tables that got triggers now.
        package var installed: [TableName] = []
        /// Tables that had them.
        package var present: [TableName] = []
        /// Tables whose triggers are of another kind now: nothing is copied anew for that.
        package var exchanged: [TableName] = []
        /// Already mirrored, but their triggers were missing, disabled or for another key: the mirror copies them anew.
        package var suspect: [TableName] = []
    }

    /// Milliseconds to wait for one table's lock, and how often to try; the pause between doubles up to a
    /// second. Longer than deadlock_timeout (1 s): only then PostgreSQL cancels an autovacuum that is in the way, which
    /// may take hours for a large table.
    package var lockTimeoutMillis = 1200
    package var triesMax = 20
    private let progress: (String) -> Void

    package init(progress: @escaping (String) -> Void = { _ in }) { self.progress = progress }

    /// - Parameter direction: from the side that takes the writes now.
    /// - Parameter tables: of the source, all with a primary key: what Preflight passed.
    /// - Parameter bulk: OLD's names of those that are captured by statement; nil: those that are so already.
    /// - Parameter keepsPresent: what is captured stays as it is, whatever `bulk` says.
    package func install(
        _ direction: MirrorDirection = .forward, old: borrowing Connection, new: borrowing Connection,
        tables: [TableDescription], mappings: TableMappings = .none, bulk: Set<TableName>? = nil,
        keepsPresent: Bool = false
    ) throws(Failure) -> Report {
        // The target's names, in the order of the tables.
        let names = tables.map { mappings.twinName($0.name, of: direction.source) ?? $0.name }
        let bulk = bulk.map { bulk in
            BulkTables(
                old: bulk, new: Set(bulk.map { mappings.twinName($0, of: .old) ?? $0 }), keepsPresent: keepsPresent)
        }
        return switch direction.source {
        case .old: try install(direction, source: old, target: new, tables: tables, names: names, bulk)
        case .new: try install(direction, source: new, target: old, tables: tables, names: names, bulk)
        }
    }

    /// What `mirror.bulk` names, as each side calls it.
    private struct BulkTables {
        var old: Set<TableName>
        var new: Set<TableName>
        var keepsPresent: Bool

        func names(_ table: TableName, on side: Side) -> Bool { (side == .old ? old : new).contains(table) }
    }

    private func install(
        _ direction: MirrorDirection, source: borrowing Connection, target: borrowing Connection,
        tables: [TableDescription], names: [TableName], _ bulk: BulkTables?
    ) throws(Failure) -> Report {
        defer {
            let end = "SELECT pg_advisory_unlock(\(AdvisoryLock.coordinator))"
            _ = try? source.execute(end)
            _ = try? target.execute(end)
        }
        try takeTurn(direction, source: source, target: target)
        var report = Report()
        let (mark, targetMark) = (try self.mark(source, direction.source), try self.mark(target, direction.target))
        let schema = "BEGIN; \(CaptureSchema.target) \(CaptureSchema.source) \(AuthoritySchema.tables) COMMIT"
        try run(target, "\(direction.target.title), schema godwit", schema)
        let mirrored = Set(try self.names(target, "SELECT schema_name, table_name FROM godwit.backfill"))
        try run(source, "\(direction.source.title), schema godwit", schema)
        let present = try captures(source, direction.source, mark)
        let captured = try capture(source, direction.source, tables, bulk, mark, present) {
            (table, before, after) throws(Failure) in
            let name = zip(tables, names).first { $0.0.name == table }?.1 ?? table
            return try tell(target, direction.target, name, before, after)
        }
        report.installed = captured.installed
        report.present = captured.present
        report.exchanged = captured.exchanged
        let installed = Set(captured.installed)
        report.suspect = zip(tables, names).filter { mirrored.contains($1) && installed.contains($0.name) }
            .map { $0.0.name }
        if direction == .forward { try watch(target, names: names, targetMark) }
        try recordStart(direction, source: source, target: target, names: names)
        if !report.installed.isEmpty || !report.exchanged.isEmpty {
            try run(
                source, "\(direction.source.title), godwit.control",
                "UPDATE godwit.control SET generation = generation + 1")
        }
        try prepareSwitch(
            direction, source: source, target: target, tables: tables, names: names, bulk, marks: (mark, targetMark))
        if targetMark != .replica { try setAside(target, direction.target) }
        return report
    }

    /// Alone among switches and DDL on both sides: what is put in place for one direction would set aside the triggers
    /// and keys of a side that has taken the writes meanwhile, and have a mirror to it begin.
    private func takeTurn(
        _ direction: MirrorDirection, source: borrowing Connection, target: borrowing Connection
    ) throws(Failure) {
        let lock = AuthoritySchema.takeCoordinatorLock(seconds: SwitchSession.patienceSeconds)
        do throws(Failure) {
            try run(source, "\(direction.source.title), turn", lock)
            try run(target, "\(direction.target.title), turn", lock)
        } catch {
            if case .postgres(_, let failure) = error, failure.isLockConflict { throw .switching }
            throw error
        }
        let owner: Ownership
        do throws(PostgresFailure) {
            let claims = (try AuthorityReader.claim(source), try AuthorityReader.claim(target))
            let (old, new) = direction.source == .old ? claims : (claims.1, claims.0)
            owner = Ownership.resolve(old: old ?? .untouched, new: new ?? .untouched)
        } catch {
            throw .postgres("godwit.authority", error)
        }
        if owner.authority != direction.source || owner.standing != .settled { throw .switching }
    }

    private typealias Versions = [UInt32: String]

    /// What a side has of ours, by the tables' oids: see CaptureSchema.
    private struct Captures {
        var whole: [UInt32: InstalledCapture]
        var knowing: Set<UInt32>
        var byStatement: Set<UInt32>
    }

    /// Of all tables at once: it reads each trigger of the side.
    private func captures(
        _ connection: borrowing Connection, _ side: Side, _ mark: ApplierMark
    ) throws(Failure) -> Captures {
        let found = try rows(connection, "\(side.title), triggers", CaptureSchema.capturedTables)
        return Captures(
            whole: CaptureSchema.healthy(found), knowing: CaptureSchema.knowing(mark, found),
            byStatement: CaptureSchema.byStatement(found))
    }

    /// Triggers that write down what changes. Those that are as they should be are left alone.
    ///
    /// - Parameter tell: of a table, and the versions of its triggers before and after they are exchanged; false when
    ///   the table is to be copied anew.
    private func capture(
        _ connection: borrowing Connection, _ side: Side, _ tables: [TableDescription], _ bulk: BulkTables?,
        _ mark: ApplierMark, _ present: Captures, tell: (TableName, Versions, Versions) throws(Failure) -> Bool
    ) throws(Failure) -> (installed: [TableName], present: [TableName], exchanged: [TableName]) {
        var outcome: (installed: [TableName], present: [TableName], exchanged: [TableName]) = ([], [], [])
        let (knowing, byStatement) = (present.knowing, present.byStatement)
        for table in tables {
            let capture = present.whole[table.oid], isSameKey = capture?.keyMark == CaptureSchema.keyMark(table)
            let stays = bulk?.keepsPresent != false && (capture != nil || byStatement.contains(table.oid))
            let isBulk = stays ? byStatement.contains(table.oid) : bulk?.names(table.name, on: side) ?? false
            let obstacle = isBulk ? StatementCapture.obstacle(table) : nil
            if let obstacle { progress("captures \(side.title)'s \(table.name) row by row: \(obstacle)") }
            let isByStatement = isBulk && obstacle == nil
            let isRight = isSameKey && knowing.contains(table.oid)
            if let capture, isRight, isByStatement ? capture.isByStatement : capture.isByRole {
                if !capture.isMade(for: table) {
                    let functions = [CaptureSchema.captureFunction(table)]
                        + (isByStatement ? [StatementCapture.function(table)] : [])
                    try run(
                        connection, "\(side.title), function for \(table.name)", functions.joined(separator: "; "))
                }
                outcome.present.append(table.name)
                continue
            }
            let triggers = CaptureSchema.createTriggers(table, isByStatement: isByStatement, mark)
            if isRight {
                let isTold = try exchange(connection, side, table, triggers, tell)
                progress("captures \(side.title)'s \(table.name) by \(isByStatement ? "statement" : "row") now")
                if isTold { outcome.exchanged.append(table.name) } else { outcome.installed.append(table.name) }
                continue
            }
            // Triggers that are made anew tell the mirror to copy the table again.
            try underLock(connection, table.name, [
                triggers,
                capture == nil || isSameKey ? "" : CaptureSchema.forget(table),
            ].joined(separator: "\n"))
            progress("captures \(side.title)'s \(table.name)")
            outcome.installed.append(table.name)
        }
        return outcome
    }

    /// Whole triggers for such of the other kind, in one transaction that no write is part of: no change goes unseen.
    private func exchange(
        _ connection: borrowing Connection, _ side: Side, _ table: TableDescription, _ triggers: String,
        _ tell: (TableName, Versions, Versions) throws(Failure) -> Bool
    ) throws(Failure) -> Bool {
        func versions() throws(Failure) -> Versions {
            let found = try rows(connection, "\(side.title), triggers", TableStamp.triggersQuery)
            return TableStamp.collectTriggers(found)[table.oid] ?? [:]
        }
        var isTold = false
        try underLock(connection, table.name.description, "LOCK TABLE \(table.name.sql) IN ACCESS EXCLUSIVE MODE") {
            () throws(Failure) in
            let before = try versions()
            try run(connection, "\(side.title), triggers of \(table.name)", triggers)
            isTold = try tell(table.name, before, try versions())
        }
        return isTold
    }

    /// The copy that the target has goes on from the new triggers, if it did from those before. Said before they are
    /// there: where they do not come, no trigger has the version said, and the table is copied anew.
    private func tell(
        _ target: borrowing Connection, _ side: Side, _ name: TableName, _ before: Versions, _ after: Versions
    ) throws(Failure) -> Bool {
        let place = "schema_name = \(SQL.literal(name.schema)) AND table_name = \(SQL.literal(name.name))"
        let what = "\(side.title), godwit.backfill"
        let found = try rows(target, what, "SELECT stamp FROM godwit.backfill WHERE \(place)")
        guard found.count == 1, let text = found[0, 0] else { return true }
        guard var stamp = TableStamp(text), stamp.triggers == before else { return false }
        stamp.triggers = after
        let told = try rows(target, what, """
            UPDATE godwit.backfill SET stamp = \(SQL.literal(stamp.text))
             WHERE \(place) AND stamp = \(SQL.literal(text)) RETURNING true
            """)
        return told.count == 1
    }

    /// What a switch needs on both sides, so that in its moment nothing has to be made: the capture on the side that is
    /// to take the writes, and the fences, which sleep until then. A table where we may not is passed over, and in the
    /// way of a switch only.
    private func prepareSwitch(
        _ direction: MirrorDirection, source: borrowing Connection, target: borrowing Connection,
        tables: [TableDescription], names: [TableName], _ bulk: BulkTables?,
        marks: (source: ApplierMark, target: ApplierMark)
    ) throws(Failure) {
        let twins: [TableDescription], wanted = Set(names)
        do throws(PostgresFailure) {
            twins = try CatalogReader.tables(target).filter { wanted.contains($0.name) && !$0.key.isEmpty }
        } catch {
            throw .postgres("\(direction.target.title), tables", error)
        }
        let present = try captures(target, direction.target, marks.target)
        for twin in twins {
            try unlessForbidden("capture \(direction.target.title)'s \(twin.name): no switch is possible") {
                () throws(Failure) in
                // What the mirror back has to know it is told by the switch: see Handover.
                _ = try capture(target, direction.target, [twin], bulk, marks.target, present) { _, _, _ in true }
            }
        }
        try fence(source, direction.source, tables, marks.source)
        try fence(target, direction.target, twins, marks.target)
    }

    private func fence(
        _ connection: borrowing Connection, _ side: Side, _ tables: [TableDescription], _ mark: ApplierMark
    ) throws(Failure) {
        let missing = try rows(connection, "\(side.title), fences", AuthoritySchema.missingFences(mark))
        let state = try rows(
            connection, "\(side.title), godwit.authority", "SELECT fenced_for IS NOT NULL FROM godwit.authority")
        let isFenced = state.count == 1 && state.flag(0, 0), fenced = Set(tables.map(\.name))
        for row in 0..<missing.count {
            let name = TableName(schema: missing[row, 0] ?? "", name: missing[row, 1] ?? "")
            let isTruncate = missing[row, 2] == AuthoritySchema.fenceTruncateTrigger
            guard isTruncate || fenced.contains(name) else { continue }
            let text = isTruncate
                ? AuthoritySchema.createTruncateFence(name.sql, isFenced: isFenced, mark)
                : AuthoritySchema.createFence(name, isFenced: isFenced, mark)
            try unlessForbidden("put a fence on \(side.title)'s \(name): no switch is possible") {
                () throws(Failure) in try underLock(connection, name, text)
            }
        }
    }

    private func unlessForbidden(_ what: String, _ body: () throws(Failure) -> Void) throws(Failure) {
        do throws(Failure) {
            try body()
        } catch {
            guard case .postgres(_, let failure) = error, failure.sqlState == "42501" else { throw error }
            progress("may not \(what)")
        }
    }

    /// Triggers on NEW that name whoever else writes there. A table where we may not is passed over.
    private func watch(_ new: borrowing Connection, names: [TableName], _ mark: ApplierMark) throws(Failure) {
        let watched = Set(try self.names(new, RogueWatch.watched(mark)))
        let twins: [TableDescription]
        do throws(PostgresFailure) {
            twins = try CatalogReader.tables(new)
        } catch {
            throw .postgres("NEW, tables", error)
        }
        let wanted = Set(names)
        for table in twins where wanted.contains(table.name) && !watched.contains(table.name) {
            try unlessForbidden("put a trigger on NEW's \(table.name): writes there will not be noticed") {
                () throws(Failure) in try underLock(new, table.name, RogueWatch.install(table, mark))
            }
        }
    }

    private func mark(_ connection: borrowing Connection, _ side: Side) throws(Failure) -> ApplierMark {
        do throws(PostgresFailure) { return try ApplierMark.of(connection) } catch {
            throw .postgres("\(side.title), \(ApplierMark.role)", error)
        }
    }

    /// Where the mirror may not take the role of a replica: see SetAside.
    private func setAside(_ connection: borrowing Connection, _ side: Side) throws(Failure) {
        try underLock(connection, "\(side.title)'s tables", "SELECT godwit.set_aside()")
        let counts = try rows(connection, "\(side.title), godwit.aside", SetAside.counts)
        if counts.count > 0 {
            progress("\(side.title) is without these until it takes the writes: \(SetAside.describe(counts))")
        }
    }

    /// What was set aside is there again. What does not hold is said: the rows may be there in part only.
    private func putBack(_ connection: borrowing Connection, _ side: String) throws(Failure) {
        guard try rows(connection, "\(side), godwit.aside", SetAside.isThere).flag(0, 0) else { return }
        let counts = try rows(connection, "\(side), godwit.aside", SetAside.counts)
        if counts.count > 0 {
            try underLock(connection, "\(side)'s tables", "SELECT godwit.put_back()")
            progress("\(side) has these again: \(SetAside.describe(counts))")
        }
        do throws(PostgresFailure) {
            for line in try SetAside.validate(connection) { progress("\(side) \(line)") }
        } catch {
            throw .postgres("\(side), foreign keys", error)
        }
    }

    /// Leaves no trace on either side; but where NEW has taken the writes, OLD stays fenced and both sides go on
    /// saying so: else a Godwit that is started with the same file would write on OLD.
    ///
    /// - Parameter isAll: also that.
    /// - Returns: whether the fence stayed.
    @discardableResult
    package func remove(
        old: borrowing Connection, new: borrowing Connection, isAll: Bool = false
    ) throws(Failure) -> Bool {
        try takeApplierLock(old, "OLD")
        try takeApplierLock(new, "NEW")
        let isSwitched = try isNewAuthority(old: old, new: new)
        let keepsFence = isSwitched && !isAll
        // The side that has the writes last: alone, the other one's word would be that they are its own, or were.
        if !isSwitched { try clear(new, "NEW", fence: .gone) }
        try clear(old, "OLD", fence: keepsFence ? .kept : .gone)
        if isSwitched { try clear(new, "NEW", fence: keepsFence ? .authority : .gone) }
        return keepsFence
    }

    /// A mirror that was just stopped has it until its server process has noticed.
    private func takeApplierLock(_ connection: borrowing Connection, _ side: String) throws(Failure) {
        let isOurs: Bool
        do throws(PostgresFailure) { isOurs = try connection.awaitApplierLock(seconds: 3) } catch {
            throw .postgres("\(side), applier lock", error)
        }
        if !isOurs { throw .mirrorRuns }
    }

    private enum Fence { case gone, kept, authority }

    private func isNewAuthority(old: borrowing Connection, new: borrowing Connection) throws(Failure) -> Bool {
        do throws(PostgresFailure) {
            let (ofOld, ofNew) = (try AuthorityReader.claim(old), try AuthorityReader.claim(new))
            return ofNew?.epoch ?? 0 > ofOld?.epoch ?? 0
        } catch {
            throw .postgres("godwit.authority", error)
        }
    }

    private func clear(_ connection: borrowing Connection, _ side: String, fence: Fence) throws(Failure) {
        for table in try names(connection, CaptureSchema.capturedTables) {
            try underLock(connection, table, CaptureSchema.dropTriggers(table))
            progress("no longer captures \(side)'s \(table)")
        }
        try putBack(connection, side)
        if fence == .gone {
            try run(connection, "\(side), schema godwit", "DROP SCHEMA IF EXISTS godwit CASCADE")
        } else {
            let kept = fence == .kept ? ["refuse_write"] : []
            let statements = try rows(connection, "\(side), schema godwit", """
                SELECT format('DROP FUNCTION %s CASCADE', oid::regprocedure) FROM pg_proc
                 WHERE pronamespace = 'godwit'::regnamespace
                   AND proname <> ALL (\(SQL.array(kept)))
                UNION ALL SELECT format('DROP TABLE %s CASCADE', oid::regclass) FROM pg_class
                 WHERE relnamespace = 'godwit'::regnamespace AND relkind = 'r' AND relname <> 'authority'
                """)
            let text = (0..<statements.count).map { (statements[$0, 0] ?? "") + ";" }.joined(separator: " ")
            try run(connection, "\(side), schema godwit", "BEGIN; \(text) COMMIT")
        }
        try run(
            connection, "\(side), applier lock", "SELECT pg_advisory_unlock(\(AdvisoryLock.applier))")
    }

    // MARK: steps

    /// The target's first snapshot is taken after the last trigger is there: what any trigger missed, the backfill
    /// sees. Behind a switch the mirror's start was written down by it, and only tables can be added.
    private func recordStart(
        _ direction: MirrorDirection, source: borrowing Connection, target: borrowing Connection, names: [TableName]
    ) throws(Failure) {
        let (ours, theirs) = (direction.source.title, direction.target.title)
        let known = try rows(target, "\(theirs), godwit.progress", "SELECT epoch FROM godwit.progress")
        // Where a removal came since, the numbers differ: nothing is left of what the switch has written down.
        let claimed = try rows(source, "\(ours), godwit.authority", """
            SELECT a.epoch > 0 AND a.reverse_from IS NOT NULL FROM godwit.authority a
              JOIN godwit.control c ON c.epoch = a.mirror_epoch
            """)
        // Whom a switch has left is fenced. Who is not was cleared since, by a removal that did not come to its end:
        // what the switch has written down of its tables is of yesterday, and nobody has watched them.
        let fenced = try rows(
            target, "\(theirs), godwit.authority", "SELECT fenced_for IS NOT NULL FROM godwit.authority")
        let wasSwitched = claimed.count == 1 && claimed.flag(0, 0) && fenced.flag(0, 0)
        if known.count == 0 && wasSwitched {
            // Whoever performed it has died. Done later it would take away what is added here.
            do throws(SwitchSession.Failure) {
                try Handover.perform(authority: source, direction.source, fenced: target, direction.target)
            } catch {
                switch error {
                case .side(let side, let failure): throw .postgres("\(side.title), what the switch has left", failure)
                case .other(let words): throw .postgres("what the switch has left", PostgresFailure(.refused, words))
                }
            }
        }
        if known.count == 0 && !wasSwitched {
            // A NEW that starts from nothing ends what any earlier NEW of this OLD could go on from.
            try run(source, "\(ours), godwit.control", """
                UPDATE godwit.control SET emptied_batch = 0, epoch = greatest(epoch + 1,
                    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
                """)
        }
        let control = try rows(source, "\(ours), godwit.control", """
            SELECT epoch, pg_current_snapshot(), (\(CaptureSchema.sourceIdentity)) FROM godwit.control
            """)
        let epoch = control[0, 0] ?? ""
        if known.count == 1, known[0, 0] != epoch { throw .preparedForAnother(old: epoch, new: known[0, 0] ?? "") }
        let list = names.map { "(\(SQL.literal($0.schema)), \(SQL.literal($0.name)))" }
        try run(target, "\(theirs), godwit.progress", """
            BEGIN;
            \(wasSwitched ? "" : """
                INSERT INTO godwit.progress (epoch, batch, snapshot, source) VALUES
                    (\(epoch), 0, \(SQL.literal(control[0, 1])), \(SQL.literal(control[0, 2]))) ON CONFLICT DO NOTHING;
                """)
            \(list.isEmpty ? "" : """
                INSERT INTO godwit.backfill (schema_name, table_name) VALUES \(list.joined(separator: ", "))
                    ON CONFLICT DO NOTHING;
                """)
            COMMIT
            """)
    }

    private func names(_ connection: borrowing Connection, _ sql: String) throws(Failure) -> [TableName] {
        let found = try rows(connection, "table names", sql)
        return (0..<found.count).map { TableName(schema: found[$0, 0] ?? "", name: found[$0, 1] ?? "") }
    }

    /// One transaction that gives up a table's lock rather than let the application queue up behind it.
    private func underLock(_ connection: borrowing Connection, _ table: TableName, _ sql: String) throws(Failure) {
        try underLock(connection, table.description, sql)
    }

    /// - Parameter rest: of the transaction.
    private func underLock(
        _ connection: borrowing Connection, _ table: String, _ sql: String,
        then rest: () throws(Failure) -> Void = {}
    ) throws(Failure) {
        var pauseMillis: UInt32 = 10
        for attempt in 1...triesMax {
            do throws(PostgresFailure) {
                try connection.execute("BEGIN; SET LOCAL lock_timeout = \(lockTimeoutMillis); \(sql)")
            } catch {
                if error.kind == .refused { try run(connection, table, "ROLLBACK") }
                guard error.isLockConflict else { throw .postgres(table, error) }
                progress("\(table) is locked by others, try \(attempt) of \(triesMax)")
                usleep(pauseMillis * 1000)
                pauseMillis = min(pauseMillis * 2, 1000)
                continue
            }
            do throws(Failure) { try rest() } catch {
                if connection.isInTransaction { _ = try? connection.execute("ROLLBACK") }
                throw error
            }
            return try run(connection, table, "COMMIT")
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
