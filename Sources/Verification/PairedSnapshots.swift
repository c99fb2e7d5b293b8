import Glibc
import LibPQ

/// Two open transactions, one on each side, that show the same moment, and names under which others can join
/// them. Used by one thread.
///
/// With a running mirror, which is another process: `godwit.control.hold_token` on OLD asks it to hold after
/// its next batch. It exports that batch's source snapshot, commits the batch on NEW, publishes both, and
/// waits (at most two seconds) until the token is gone. What makes the pair sound is not this wait but three
/// checks made here:
/// 1. OLD's reader imports the exported snapshot, and so sees what the batch saw;
/// 2. after it has locked the tables the snapshot can be imported once more: the mirror's transaction still
///    lived, with its own locks on the tables, so no TRUNCATE came in between;
/// 3. NEW's reader finds, inside its own snapshot, godwit.progress at exactly that source snapshot.
package struct PairedSnapshots: ~Copyable {
    package let pairing: VerifyReport.Pairing
    /// For SET TRANSACTION SNAPSHOT.
    package let oldName: String
    package let newName: String
    /// Of the session that has OLD's tables locked, as PostgreSQL numbers them.
    let process: Int64
    // They keep the snapshots alive.
    private let old: Connection
    private let new: Connection

    private static let silenceSecondsMax = 15
    private static let triesMax = 5
    /// A table that somebody wants for himself is left to him, and all others meanwhile: see BatchReader.
    static let lockTimeout = "200ms"
    private static let takenMicros: UInt32 = 50_000
    static let takenSecondsMax = 60

    private init(
        _ pairing: VerifyReport.Pairing, old: consuming Connection, oldName: String, new: consuming Connection,
        newName: String, process: Int64
    ) {
        self.process = process
        self.pairing = pairing
        self.oldName = oldName
        self.newName = newName
        self.old = old
        self.new = new
    }

    static func export(_ connection: borrowing Connection, _ side: String) throws(VerifyFailure) -> String {
        try onSide(side) { () throws(PostgresFailure) in
            try connection.query("SELECT pg_export_snapshot()")[0, 0] ?? ""
        }
    }

    /// - Parameter tables: of OLD; they are locked against TRUNCATE and DDL for as long as the pair lives. Who waits
    ///   for one of them is told by `awaitedTable`.
    /// - Parameter interrupt: see `Connection`.
    package static func take(
        old oldTarget: ConnectionString, new newTarget: ConnectionString, tables: [TableName], interrupt: CInt = -1
    ) throws(VerifyFailure) -> PairedSnapshots {
        let control = try connect(oldTarget, "OLD", interrupt: interrupt)
        let old = try connect(oldTarget, "OLD", settings: ["lock_timeout": lockTimeout], interrupt: interrupt)
        let new = try connect(newTarget, "NEW", interrupt: interrupt)
        let lock = tables.isEmpty ? "" : "LOCK TABLE "
            + tables.map { $0.sql }.joined(separator: ", ") + " IN ACCESS SHARE MODE;"
        let pairing = try takenPair(control: control, old: old, new: new, lock: lock)
        let process = try onSide("OLD") { () throws(PostgresFailure) in
            try old.query("SELECT pg_backend_pid()").integer(0, 0) ?? 0
        }
        let oldName = try export(old, "OLD"), newName = try export(new, "NEW")
        return PairedSnapshots(pairing, old: old, oldName: oldName, new: new, newName: newName, process: process)
    }

    /// Whether somebody waits for a table, or an index of one, that one of `processes`, SQL expressions, has locked.
    static func awaitedTable(_ processes: String) -> String {
        """
        SELECT EXISTS (SELECT FROM pg_locks w JOIN pg_locks h ON h.database = w.database AND h.relation = w.relation
            WHERE w.locktype = 'relation' AND NOT w.granted AND w.mode = 'AccessExclusiveLock'
              AND h.pid IN (\(processes)))
        """
    }

    /// As soon as nobody has any of the tables for himself.
    private static func takenPair(
        control: borrowing Connection, old: borrowing Connection, new: borrowing Connection, lock: String
    ) throws(VerifyFailure) -> VerifyReport.Pairing {
        let deadline = Deadline.now().adding(seconds: Double(takenSecondsMax))
        while true {
            do throws(VerifyFailure) {
                return try pair(control: control, old: old, new: new, lock: lock)
            } catch {
                guard case .side("OLD", let failure) = error, failure.isLockConflict else { throw error }
                if deadline.hasPassed { throw .tableTaken(seconds: takenSecondsMax) }
            }
            try onSide("OLD") { () throws(PostgresFailure) in try old.execute("ROLLBACK") }
            try onSide("NEW") { () throws(PostgresFailure) in
                try new.execute("ROLLBACK; SELECT pg_advisory_unlock_all()")
            }
            usleep(takenMicros)
        }
    }

    private static func pair(
        control: borrowing Connection, old: borrowing Connection, new: borrowing Connection, lock: String
    ) throws(VerifyFailure) -> VerifyReport.Pairing {
        guard try isPrepared(control, new) else {
            try plain(old: old, new: new, lock: lock)
            return .unprepared
        }
        try checkBackfill(new)
        let isQuiet = try onSide("NEW") { () throws(PostgresFailure) in
            try new.query("SELECT pg_try_advisory_lock(\(AdvisoryLock.applier))").flag(0, 0)
        }
        if isQuiet { return .quiet(keysWaiting: try quiet(old: old, new: new, lock: lock)) }
        for _ in 0..<triesMax {
            if let snapshot = try join(control: control, old: old, new: new, lock: lock) {
                return .batch(snapshot: snapshot)
            }
            try onSide("OLD") { () throws(PostgresFailure) in try old.execute("ROLLBACK") }
            try onSide("NEW") { () throws(PostgresFailure) in try new.execute("ROLLBACK") }
        }
        throw .pairingLost(tries: triesMax)
    }

    // MARK: without a mirror

    private static func plain(
        old: borrowing Connection, new: borrowing Connection, lock: String
    ) throws(VerifyFailure) {
        try onSide("OLD") { () throws(PostgresFailure) in
            try old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \(lock) SELECT 1")
        }
        try onSide("NEW") { () throws(PostgresFailure) in
            try new.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
        }
    }

    /// We hold the applier's lock, so NEW stands still until its snapshot is taken. - Returns: keys waiting.
    private static func quiet(
        old: borrowing Connection, new: borrowing Connection, lock: String
    ) throws(VerifyFailure) -> Int64 {
        try plain(old: old, new: new, lock: lock)
        // nil: a switch has made OLD the authority, and nobody has begun the mirror from there yet. All of it waits.
        let applied = try onSide("NEW") { () throws(PostgresFailure) in
            let applied = try new.query("SELECT snapshot FROM godwit.progress")
            try new.execute("SELECT pg_advisory_unlock(\(AdvisoryLock.applier))")
            return applied.count == 1 ? applied[0, 0] : nil
        }
        return try onSide("OLD") { () throws(PostgresFailure) in
            try old.query("""
                SELECT count(DISTINCT (relation, key)) FROM (SELECT * FROM godwit.journal_0
                    UNION ALL SELECT * FROM godwit.journal_1 UNION ALL SELECT * FROM godwit.journal_2) j
                 WHERE pg_visible_in_snapshot(xid, \(SQL.literal(applied))::pg_snapshot) IS NOT TRUE
                """).integer(0, 0) ?? 0
        }
    }

    // MARK: with a mirror

    /// On failure the sessions are of no more use.
    ///
    /// - Returns: the batch's snapshot; nil when the mirror had gone on before everybody was attached.
    static func join(
        control: borrowing Connection, old: borrowing Connection, new: borrowing Connection, lock: String,
        patienceSeconds: Int = silenceSecondsMax
    ) throws(VerifyFailure) -> String? {
        let token = SQL.literal("\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
        let clear = "UPDATE godwit.control SET hold_token = NULL WHERE hold_token = \(token)"
        try until(control, "pg_try_advisory_lock(\(AdvisoryLock.asker))")
        // Let go before the mirror is waited for, so that nobody who wants to move the writes waits for us.
        try until(control, """
            CASE WHEN pg_try_advisory_lock_shared(\(AdvisoryLock.coordinator))
                THEN pg_advisory_unlock_shared(\(AdvisoryLock.coordinator)) ELSE false END
            """)
        try onSide("OLD") { () throws(PostgresFailure) in
            try control.execute("UPDATE godwit.control SET hold_token = \(token), served_token = NULL")
        }
        do throws(VerifyFailure) {
            let (snapshot, export) = try awaitServed(control, token, patienceSeconds)
            let isAttached = try onSide("OLD") { () throws(PostgresFailure) in
                try attach(control: control, old: old, export: export, lock: lock)
            }
            let shown = try onSide("NEW") { () throws(PostgresFailure) in
                try new.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT snapshot FROM godwit.progress")
            }
            let isPaired = isAttached && shown.count == 1 && shown[0, 0] == snapshot
            try onSide("OLD") { () throws(PostgresFailure) in
                try control.execute("\(clear); SELECT pg_advisory_unlock(\(AdvisoryLock.asker))")
            }
            return isPaired ? snapshot : nil
        } catch {
            // The mirror need not wait until its patience ends.
            _ = try? control.execute("\(clear); SELECT pg_advisory_unlock(\(AdvisoryLock.asker))")
            throw error
        }
    }

    /// Asked again and again, for a statement that waits has a snapshot meanwhile: CREATE INDEX CONCURRENTLY would wait
    /// for that, and for it whoever has the lock and wants the table. Not for ever: DDL on both sides may take hours.
    private static func until(_ control: borrowing Connection, _ taken: String) throws(VerifyFailure) {
        let deadline = Deadline.now().adding(seconds: Double(takenSecondsMax))
        while true {
            let isTaken = try onSide("OLD") { () throws(PostgresFailure) in
                try control.query("SELECT \(taken)").flag(0, 0)
            }
            if isTaken { return }
            if deadline.hasPassed { throw .occupied(seconds: takenSecondsMax) }
            usleep(takenMicros)
        }
    }

    private static func awaitServed(
        _ control: borrowing Connection, _ token: String, _ patienceSeconds: Int
    ) throws(VerifyFailure) -> (snapshot: String, export: String) {
        let deadline = Deadline.now().adding(seconds: Double(patienceSeconds))
        while !deadline.hasPassed {
            let served = try onSide("OLD") { () throws(PostgresFailure) in
                try control.query("""
                    SELECT served_snapshot, served_export FROM godwit.control WHERE served_token = \(token)
                    """)
            }
            if served.count == 1, let snapshot = served[0, 0], let export = served[0, 1] { return (snapshot, export) }
            usleep(2000)
        }
        throw .mirrorSilent(seconds: patienceSeconds)
    }

    /// - Returns: false when the exported snapshot has gone.
    private static func attach(
        control: borrowing Connection, old: borrowing Connection, export: String, lock: String
    ) throws(PostgresFailure) -> Bool {
        let join = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT \(SQL.literal(export));"
        do throws(PostgresFailure) {
            try old.execute("\(join) \(lock) SELECT 1")
        } catch {
            // 22023: the snapshot does not exist (any more).
            guard error.kind == .refused, ["22023", "42704"].contains(error.sqlState) else { throw error }
            return false
        }
        do throws(PostgresFailure) {
            try control.execute("\(join) COMMIT")
        } catch {
            guard error.kind == .refused, ["22023", "42704"].contains(error.sqlState) else { throw error }
            try control.execute("ROLLBACK")
            return false
        }
        return true
    }

    // MARK: questions

    private static func isPrepared(
        _ old: borrowing Connection, _ new: borrowing Connection
    ) throws(VerifyFailure) -> Bool {
        let onOld = try onSide("OLD") { () throws(PostgresFailure) in
            try old.hasRelation("godwit.control")
        }
        let onNew = try onSide("NEW") { () throws(PostgresFailure) in
            try new.hasRelation("godwit.progress")
        }
        return onOld && onNew
    }

    private static func checkBackfill(_ new: borrowing Connection) throws(VerifyFailure) {
        let left = try onSide("NEW") { () throws(PostgresFailure) in
            try new.query("""
                SELECT schema_name || '.' || table_name || ': ' || rows_copied || ' rows copied' FROM godwit.backfill
                 WHERE NOT is_copied ORDER BY 1
                """)
        }
        guard left.count == 0 else { throw .backfilling((0..<left.count).map { left[$0, 0] ?? "" }) }
    }

    static func connect(
        _ target: ConnectionString, _ side: String, settings: [String: String] = [:], interrupt: CInt = -1
    ) throws(VerifyFailure) -> Connection {
        do throws(PostgresFailure) {
            return try Connection.open(
                target, purpose: "verify", settings: settings.merging(["jit": "off"]) { $1 }, readsTablesOnly: true,
                interrupt: interrupt)
        } catch {
            throw .side(side, error)
        }
    }
}

/// Says on which side a failure happened.
@discardableResult
func onSide<Value>(
    _ side: String, _ body: () throws(PostgresFailure) -> Value
) throws(VerifyFailure) -> Value {
    do throws(PostgresFailure) { return try body() } catch { throw .side(side, error) }
}
