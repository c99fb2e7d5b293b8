import LibPQ
import Primitives

/// What follows when both sides have a change.
extension SchemaChange {
    /// The mirror goes on with the tables as they are now. May be repeated.
    ///
    /// - Parameter triesMax: for the lock of each new table.
    func finish(
        _ record: Record, triesMax: Int = CaptureInstaller().triesMax, before: (Step) -> Void = { _ in }
    ) throws(Failure) {
        let known = "jsonb_array_elements(\(SQL.literal(record.known))::jsonb) k"
        let same = "b.schema_name = k->>1 AND b.table_name = k->>2"
        let isRenamed = """
            c.oid = (k->>0)::oid AND n.oid = c.relnamespace AND (n.nspname <> k->>1 OR c.relname <> k->>2)
            """
        // Tables may have exchanged names, and each row is looked at by itself: first to names that are too long for
        // any table.
        let between = "repeat('-', 64)"
        // Once only: a table that has taken another's name would be taken for that one, and lose its own. What is
        // under way is one change, whose transaction's number no other one of this side has.
        let number = SQL.literal(record.targetTransaction)
        let isNew = "NOT EXISTS (SELECT FROM godwit.renamed WHERE target_xid = \(number))"
        try onTarget("""
            CREATE TABLE IF NOT EXISTS godwit.renamed (target_xid text PRIMARY KEY);
            DELETE FROM godwit.backfill b USING \(known)
             WHERE \(same) AND k->>0 IS NOT NULL AND \(isNew)
               AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = (k->>0)::oid);
            UPDATE godwit.backfill b SET table_name = b.table_name || \(between)
              FROM \(known), pg_class c, pg_namespace n WHERE \(same) AND \(isRenamed) AND \(isNew);
            UPDATE godwit.backfill b SET schema_name = n.nspname, table_name = c.relname
              FROM \(known), pg_class c, pg_namespace n
             WHERE b.schema_name = k->>1 AND b.table_name = k->>2 || \(between) AND \(isRenamed) AND \(isNew);
            DELETE FROM godwit.renamed;
            INSERT INTO godwit.renamed VALUES (\(number))
            """)
        try install(record, triesMax)
        before(.forget)
        try onSource("""
            BEGIN; UPDATE godwit.control SET generation = generation + 1;
            DELETE FROM godwit.change WHERE id = \(record.id); COMMIT
            """)
    }

    /// New tables are mirrored, where all were, and captured as `prepare` would have them; new partitions get what
    /// theirs have.
    private func install(_ record: Record, _ triesMax: Int) throws(Failure) {
        let mirrored = try onTarget("SELECT schema_name, table_name FROM godwit.backfill")
        let names = Set((0..<(mirrored?.count ?? 0)).map { row in
            TableName(schema: mirrored?[row, 0] ?? "", name: mirrored?[row, 1] ?? "")
        })
        do {
            switch direction.source {
            case .old: try install(record, triesMax, names, old: source, new: target)
            case .new: try install(record, triesMax, names, old: target, new: source)
            }
        } catch {
            let isPassing = switch error {
            case CaptureInstaller.Failure.busy: true
            case CaptureInstaller.Failure.postgres(_, let failure): failure.isLockConflict
            case let failure as PostgresFailure: failure.isLockConflict
            default: false
            }
            throw isPassing ? Failure.busy("\(error)") : Failure.blocked("\(error)")
        }
    }

    private func install(
        _ record: Record, _ triesMax: Int, _ names: Set<TableName>, old: borrowing Connection, new: borrowing Connection
    ) throws {
        let result = try Preflight.check(direction, old: old, new: new)
        let tables = result.tables.filter { names.contains($0.name) || record.takesAll }
        var installer = CaptureInstaller()
        installer.triesMax = triesMax
        _ = try installer.install(
            direction, old: old, new: new, tables: tables, bulk: bulk, keepsPresent: true)
    }
}
