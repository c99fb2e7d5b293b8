import LibPQ

/// Which keys changed: tables on the source that take turns and are emptied by TRUNCATE. Stateless.
///
/// A transaction writes to the table of its segment: its id divided by 2^17, modulo 2. So writers need neither a row
/// nor a function that says which table is the active one, and to choose between two takes a trigger one expression.
/// Readers look into all three: captures of earlier versions took turns with that many. Which table a row is in decides
/// nothing but when it goes. A table may be emptied when, under ACCESS EXCLUSIVE (all its writers have ended), every
/// row in it belongs to a transaction that NEW's committed snapshot shows.
package enum Journal {
    package static let tables = 3
    private static let tablesWritten = 2
    package static let segmentBits = 17

    package static func table(_ index: Int) -> String { "godwit.journal_\(index)" }

    static func segment(ofTransaction xid: UInt64) -> UInt64 { xid >> UInt64(segmentBits) }

    /// `SELECT relation, key` of everything that `applied` does not show, with repetitions.
    package static func unseen(by applied: LedgerSnapshot, andRelation relation: UInt32? = nil) -> String {
        (0..<tables).map { index in
            "SELECT relation, key FROM \(table(index)) WHERE \(applied.unseenPredicate)"
                + (relation.map { " AND relation = \($0)" } ?? "")
        }.joined(separator: " UNION ALL ")
    }

    /// Bytes above which even the table in use is worth the moment of exclusive lock that emptying it takes.
    static let bytesWorthEmptyingInUse: Int64 = 4 << 20
    static let lockTimeout = "20ms"

    /// Empties what can be emptied now. A lock that is not to be had at once is left for the next time.
    ///
    /// - Parameter batch: of NEW, which has committed `applied`. From now on no NEW that is before it can go on.
    static func rotate(
        _ connection: borrowing Connection, applied: LedgerSnapshot, batch: Int64
    ) throws(PostgresFailure) {
        let sizes = try connection.query(
            "SELECT " + (0..<tables).map { "pg_relation_size('\(table($0))')" }.joined(separator: ", "))
        let inUse = Int(segment(ofTransaction: applied.xmax) % UInt64(tablesWritten))
        for index in 0..<tables {
            let bytes = sizes.integer(0, index) ?? 0
            guard bytes > (index == inUse ? bytesWorthEmptyingInUse : 0) else { continue }
            do throws(PostgresFailure) {
                try empty(index, connection, applied, batch)
            } catch {
                guard error.kind == .refused else { throw error }
                try connection.execute("ROLLBACK")
                guard error.isLockConflict else { throw error }
            }
        }
    }

    private static func empty(
        _ index: Int, _ connection: borrowing Connection, _ applied: LedgerSnapshot, _ batch: Int64
    ) throws(PostgresFailure) {
        let name = table(index)
        // All who write wait meanwhile: so it is found by the index, which the planner would not take for a table
        // without statistics (nor, for the first row of any, would it in EXISTS), and no standby is waited for: a side
        // that loses this has entries which NEW holds already.
        try connection.execute("""
            BEGIN; SET LOCAL lock_timeout = '\(lockTimeout)'; SET LOCAL enable_seqscan = off;
            SET LOCAL synchronous_commit = local; LOCK TABLE \(name) IN ACCESS EXCLUSIVE MODE
            """)
        let unapplied = try connection.query("SELECT relation FROM \(name) WHERE \(applied.unseenPredicate) LIMIT 1")
        try connection.execute(unapplied.count > 0 ? "ROLLBACK" : """
            TRUNCATE \(name); UPDATE godwit.control SET emptied_batch = greatest(emptied_batch, \(batch)); COMMIT
            """)
    }
}
