import LibPQ
import Migration
import Primitives

/// What the mirror back has to know of the tables, so that it goes on from the moment of the claim and copies nothing
/// anew. Used by the thread that performs or recovers a switch.
struct Handover {
    private struct Entry {
        var name: TableName
        var rows: Int64
        var bytes: Int64
        var stamp: String
        /// What the mapping makes of a row and back again is not the row: the coming target gets all rows anew.
        var isAnew: Bool
    }

    private var entries: [Entry] = []
    private var partitions: [String] = []

    /// Read before anything is held: what changes of it afterwards is a breach that the mirror back will find.
    static func read(_ session: SwitchSession) throws(SwitchSession.Failure) -> Handover {
        var handover = Handover()
        // The coming mirror's source is this switch's target.
        let plans = session.tables.compactMap { table in table.back.map { TablePlan(old: $0, new: table.onSource) } }
        let captures = CaptureSchema.healthy(try session.queryTarget(CaptureSchema.capturedTables))
        let stamps = try StampKeeper.stamps(
            plans, captures: captures,
            source: { (sql) throws(SwitchSession.Failure) in try session.queryTarget(sql) },
            target: { (sql) throws(SwitchSession.Failure) in try session.querySource(sql) })
        let copied = try session.queryTarget("""
            SELECT schema_name, table_name, rows_copied, bytes_copied FROM godwit.backfill
            """)
        for row in 0..<copied.count {
            let copy = TableName(schema: copied[row, 0] ?? "", name: copied[row, 1] ?? "")
            guard let name = plans.first(where: { $0.sourceName == copy })?.name else { continue }
            // OLD keeps what a mapping cannot give back; NEW has nothing that OLD does not give.
            let isAnew = session.direction.source == .new
                && session.tables.contains { $0.onTarget.name == copy && $0.back?.view?.isExact == false }
            handover.entries.append(Entry(
                name: name, rows: copied.integer(row, 2) ?? 0, bytes: copied.integer(row, 3) ?? 0,
                stamp: stamps[name]?.text ?? "", isAnew: isAnew))
        }
        for plan in plans where plan.isPartitioned {
            let leaves = try session.queryTarget(PartitionTracker.leavesQuery(plan.oid))
            for row in 0..<leaves.count {
                handover.partitions.append(
                    "(\(plan.oid), \(leaves[row, 0] ?? "0"), \(SQL.literal(leaves[row, 1])), "
                        + "\(SQL.literal(leaves[row, 2])))")
            }
        }
        return handover
    }

    var insertText: String {
        // A side that an earlier version has prepared does not know the last column, and needs it for mappings only.
        let isMapped = entries.contains(where: \.isAnew)
        let rows = entries.map { entry in
            "(\(SQL.literal(entry.name.schema)), \(SQL.literal(entry.name.name)), \(entry.rows), \(entry.bytes), "
                + "\(SQL.literal(entry.stamp))\(isMapped ? ", \(entry.isAnew)" : ""))"
        }
        return (rows.isEmpty ? "" : "INSERT INTO godwit.handover VALUES \(rows.joined(separator: ", "));")
            + (partitions.isEmpty
                ? "" : "INSERT INTO godwit.handover_partition VALUES \(partitions.joined(separator: ", "));")
    }

    /// From the side that has claimed to the one that is fenced. What was done already is left alone. The caller has
    /// the coordinator's lock on the authority, so that no switch begins there meanwhile.
    static func perform(
        authority: borrowing Connection, _ side: Side, fenced: borrowing Connection, _ fencedSide: Side
    ) throws(SwitchSession.Failure) {
        func ask(_ sql: String) throws(SwitchSession.Failure) -> Rows {
            do throws(PostgresFailure) { return try authority.query(sql) } catch { throw .side(side, error) }
        }
        // A mirror that has been prepared anew since begins with its own copy. And whoever was told a moment ago that
        // this side has the writes may have slept since: one that is fenced has nothing to hand over any more.
        let facts = try ask("""
            SELECT a.mirror_epoch, a.reverse_from, a.source FROM godwit.authority a JOIN godwit.control c
                ON c.epoch = a.mirror_epoch WHERE a.reverse_from IS NOT NULL AND a.fenced_for IS NULL
            """)
        guard facts.count == 1 else { return }
        let entries = try ask("""
            SELECT schema_name, table_name, rows_copied, bytes_copied, stamp, to_jsonb(h)->>'is_anew'
              FROM godwit.handover h
            """)
        let partitions = try ask("SELECT root::bigint, leaf::bigint, stamp, condition FROM godwit.handover_partition")
        let tables = (0..<entries.count).map { row -> String in
            let isAnew = entries[row, 5] == "true"
            let copied = isAnew
                ? "0, 0, false" : "\(entries.integer(row, 2) ?? 0), \(entries.integer(row, 3) ?? 0), true"
            return "(" + (0...1).map { SQL.literal(entries[row, $0]) }.joined(separator: ", ") + ", \(copied), "
                + "nullif(\(SQL.literal(entries[row, 4])), ''))"
        }
        let leaves = (0..<partitions.count).map { row in
            "(\(partitions.integer(row, 0) ?? 0), \(partitions.integer(row, 1) ?? 0), "
                + "\(SQL.literal(partitions[row, 2])), \(SQL.literal(partitions[row, 3])))"
        }
        let mirror = facts.integer(0, 0) ?? 0
        do throws(PostgresFailure) {
            let known = try fenced.query("SELECT count(*) FROM godwit.progress WHERE epoch = \(mirror)")
            if known.integer(0, 0) ?? 0 > 0 { return }
            try fenced.execute("""
                BEGIN; DELETE FROM godwit.progress; DELETE FROM godwit.backfill; DELETE FROM godwit.partition;
                DELETE FROM godwit.rogue;
                \(tables.isEmpty ? "" : """
                    INSERT INTO godwit.backfill (schema_name, table_name, rows_copied, bytes_copied, is_copied, stamp)
                        VALUES \(tables.joined(separator: ", "));
                    """)
                \(leaves.isEmpty ? "" : "INSERT INTO godwit.partition VALUES \(leaves.joined(separator: ", "));")
                INSERT INTO godwit.progress (epoch, batch, snapshot, source) VALUES
                    (\(mirror), 0, \(SQL.literal(facts[0, 1])), \(SQL.literal(facts[0, 2])));
                COMMIT
                """)
        } catch {
            if fenced.isInTransaction, error.kind == .refused { _ = try? fenced.execute("ROLLBACK") }
            throw .side(fencedSide, error)
        }
    }
}
