import LibPQ

/// Which keys changed: three tables on the source that take turns and are emptied by TRUNCATE. Stateless.
///
/// A transaction writes to the table of its segment: its id divided by 2^18, modulo 3. So writers need
/// neither a row nor a function that says which table is the active one. A table may be emptied when, under
/// ACCESS EXCLUSIVE (all its writers have ended), every row in it belongs to a transaction that NEW's
/// committed snapshot shows.
package enum Journal {
    package static let tables = 3
    package static let segmentBits = 18

    package static func table(_ index: Int) -> String { "godwit.journal_\(index)" }

    static func segment(ofTransaction xid: UInt64) -> UInt64 { xid >> UInt64(segmentBits) }

    /// The tables in which transactions from `first` to `last` may have written.
    package static func tables(from first: UInt64, through last: UInt64) -> [Int] {
        let low = segment(ofTransaction: first), high = max(low, segment(ofTransaction: last))
        guard high - low < UInt64(tables) else { return Array(0..<tables) }
        return Set((low...high).map { Int($0 % UInt64(tables)) }).sorted()
    }

    /// `SELECT relation, key` of everything that `applied` does not show, with repetitions.
    package static func unseen(
        by applied: LedgerSnapshot, in indexes: [Int], andRelation relation: UInt32? = nil
    ) -> String {
        indexes.map { index in
            "SELECT relation, key FROM \(table(index)) WHERE \(applied.unseenPredicate)"
                + (relation.map { " AND relation = \($0)" } ?? "")
        }.joined(separator: " UNION ALL ")
    }

    /// Bytes above which even the table in use is worth the moment of exclusive lock that emptying it takes.
    static let bytesWorthEmptyingInUse: Int64 = 4 << 20
    static let lockTimeout = "20ms"

    /// Empties what can be emptied now. A lock that is not to be had at once is left for the next time.
    static func rotate(_ connection: borrowing Connection, applied: LedgerSnapshot) throws(PostgresFailure) {
        let sizes = try connection.query(
            "SELECT " + (0..<tables).map { "pg_relation_size('\(table($0))')" }.joined(separator: ", "))
        let inUse = Int(segment(ofTransaction: applied.xmax) % UInt64(tables))
        for index in 0..<tables {
            let bytes = sizes.integer(0, index) ?? 0
            guard bytes > (index == inUse ? bytesWorthEmptyingInUse : 0) else { continue }
            do throws(PostgresFailure) {
                try empty(index, connection, applied)
            } catch {
                guard error.kind == .refused else { throw error }
                try connection.execute("ROLLBACK")
                guard error.isLockConflict else { throw error }
            }
        }
    }

    private static func empty(
        _ index: Int, _ connection: borrowing Connection, _ applied: LedgerSnapshot
    ) throws(PostgresFailure) {
        let name = table(index)
        try connection.execute("""
            BEGIN; SET LOCAL lock_timeout = '\(lockTimeout)'; LOCK TABLE \(name) IN ACCESS EXCLUSIVE MODE
            """)
        let unapplied = try connection.query(
            "SELECT EXISTS (SELECT FROM \(name) WHERE \(applied.unseenPredicate))")
        try connection.execute(unapplied.flag(0, 0) ? "ROLLBACK" : "TRUNCATE \(name); COMMIT")
    }
}
