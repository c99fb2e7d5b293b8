import LibPQ
import Primitives

/// The source's half of a batch: which keys changed since NEW's snapshot, and their rows, all as of one
/// snapshot. Used by the mirror's thread.
final class BatchReader {
    /// Changed keys of one table.
    struct Dirty {
        /// Everything before this batch is gone.
        var isTruncated = false
        var keys: [[String]] = []
    }

    struct Head {
        var snapshot: LedgerSnapshot
        /// Where OLD's log ended after the snapshot was taken: all that it shows is before.
        var logEnd: String
        var epoch: Int64
        var generation: Int64
        /// Somebody wants to attach readers to this batch.
        var holdToken: String?
        /// Of partitioned tables, by OLD's oid: see PartitionTracker.
        var partitions: [UInt32: String]
        /// By OLD's oid; nil when there are more keys than a small batch takes, or such as it does not.
        var dirty: [UInt32: Dirty]?
    }

    /// The rows of one table's dirty keys as literals for VALUES, and the keys that have none.
    struct SmallRows {
        var table: TablePlan
        var isTruncated: Bool
        var valueLists: [UInt8]
        var rows: Int
        var absent: [[String]]
    }

    /// A second session that sees the batch's snapshot.
    final class Companion {
        let connection: Connection

        fileprivate init(_ connection: consuming Connection) { self.connection = connection }
    }

    let source: Connection
    private let barrier: Connection
    /// Gives one more session for reading rows, with further settings.
    private let connect: Connect
    private var lockTables = ""
    private var keyParts = 1
    private var keyCounts: [UInt32: Int] = [:]
    private var partitionsQuery = ""
    /// What each table was when the statements for it were made.
    private var definitions: [UInt32: String] = [:]
    private var isCommitPending = false
    private var isBarrierSent = false
    /// What the present batch's snapshot shows has been found to be durable.
    private(set) var isDurable = false

    private typealias Connect = (_ settings: [String: String]) throws(PostgresFailure) -> Connection

    /// - Parameter interrupt: see `Connection`.
    static func open(
        _ server: ConnectionString, interrupt: CInt, onSlowWait: @escaping () -> Void
    ) throws(PostgresFailure) -> BatchReader {
        // Sorting a backlog's keys in memory.
        let settings = ["enable_seqscan": "off", "jit": "off", "work_mem": "64MB"]
        let connect: Connect = { (further) throws(PostgresFailure) in
            try Connection.open(
                server, purpose: "mirror reader", settings: settings.merging(further) { $1 },
                readsTablesOnly: true, interrupt: interrupt, onSlowWait: onSlowWait)
        }
        let barrier = try Connection.open(
            server, purpose: "mirror barrier", interrupt: interrupt, onSlowWait: onSlowWait)
        return BatchReader(source: try connect([:]), barrier: barrier, connect)
    }

    private init(source: consuming Connection, barrier: consuming Connection, _ connect: @escaping Connect) {
        self.source = source
        self.barrier = barrier
        self.connect = connect
    }

    /// - Parameter definitions: what `readDefinitions` gave before the plans were made.
    func mirror(_ plans: [TablePlan], definitions: [UInt32: String]) {
        self.definitions = definitions
        let names = plans.map(\.oldLocked).joined(separator: ", ")
        lockTables = plans.isEmpty ? "" : "LOCK TABLE \(names) IN ACCESS SHARE MODE;"
        keyParts = plans.map(\.keyCount).max() ?? 1
        let roots = plans.filter(\.isPartitioned).map(\.oid)
        partitionsQuery = roots.isEmpty ? "" : PartitionTracker.digestQuery(roots) + ";"
        keyCounts = Dictionary(uniqueKeysWithValues: plans.map { ($0.oid, $0.keyCount) })
    }

    // MARK: begin

    /// Takes the batch's snapshot. The locks come first: TRUNCATE would empty a table under an older
    /// snapshot.
    ///
    /// - Returns: nil when somebody has a table for himself: none is locked then, for he may come to want another one.
    func begin(after applied: LedgerSnapshot, keysMax: Int) throws(PostgresFailure) -> Head? {
        isDurable = false
        if isCommitPending {
            isCommitPending = false
            try source.finish()
        }
        try source.send("""
            BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
            SET LOCAL lock_timeout = '\(Self.lockTimeout)'; \(lockTables) SET LOCAL lock_timeout = 0;
            SELECT pg_current_snapshot(), epoch, generation, hold_token, pg_current_wal_insert_lsn()
              FROM godwit.control;
            \(partitionsQuery)
            SET LOCAL max_parallel_workers_per_gather = 0; \(keysQuery(applied, keysMax));
            SET LOCAL max_parallel_workers_per_gather TO DEFAULT
            """)
        var answers: [Rows] = []
        do throws(PostgresFailure) {
            while let reply = try source.next() {
                if case .rows(let rows) = reply { answers.append(rows) }
            }
        } catch {
            guard error.kind == .refused, error.isLockConflict else { throw error }
            try source.finish()
            try source.execute("ROLLBACK")
            return nil
        }
        guard answers.count == (partitionsQuery.isEmpty ? 2 : 3), answers[0].count == 1,
            let snapshot = answers[0][0, 0].flatMap({ LedgerSnapshot($0) })
        else { throw PostgresFailure(.refused, "godwit.control on the source is empty: run godwit prepare") }
        let keys = answers[answers.count - 1]
        let isLarge = keys.count > keysMax || (keys.count > 0 && keys.flag(0, 2))
        let partitions = partitionsQuery.isEmpty ? [:] : PartitionTracker.collectDigests(answers[1])
        return Head(
            snapshot: snapshot, logEnd: answers[0][0, 4] ?? "", epoch: answers[0].integer(0, 1) ?? 0,
            generation: answers[0].integer(0, 2) ?? 0, holdToken: answers[0][0, 3], partitions: partitions,
            dirty: isLarge ? nil : collect(keys))
    }

    /// Without statistics the planner takes a third of the journal for unseen: where that is large it would start
    /// workers for some keys, in each batch.
    private func keysQuery(_ applied: LedgerSnapshot, _ keysMax: Int) -> String {
        let parts = (1...keyParts).map { "key[\($0)]" }.joined(separator: ", ")
        // A backlog is not sorted out only to learn that it is one.
        let entriesMax = max(0, keysMax) * Self.entriesPerKeyMax
        return """
            WITH u AS MATERIALIZED (SELECT * FROM (\(Journal.unseen(by: applied))) j LIMIT \(entriesMax + 1))
            SELECT relation::bigint, key IS NULL, (SELECT count(*) > \(entriesMax) FROM u), \(parts)
              FROM (SELECT DISTINCT relation, key FROM u LIMIT \(keysMax + 1)) d
            """
    }

    /// For each table. Tables are locked one by one, and whoever waits for one that is locked already may have the next
    /// one: shorter than PostgreSQL's deadlock_timeout, at which he would be ended, and short for whoever waits.
    private static let lockTimeout = "200ms"

    /// Journal entries, over the keys of a small batch, that are looked through for them.
    private static let entriesPerKeyMax = 20

    /// - Returns: nil when a key holds a NULL: for a moment its table let that in. A large batch looks first whether it
    ///   is the table that it was, and finds no row by such a key.
    private func collect(_ keys: Rows) -> [UInt32: Dirty]? {
        var dirty: [UInt32: Dirty] = [:]
        for row in 0..<keys.count {
            guard let relation = keys[row, 0].flatMap({ UInt32($0) }) else { continue }
            if keys.flag(row, 1) {
                dirty[relation, default: Dirty()].isTruncated = true
                continue
            }
            var key: [String] = []
            for part in 0..<keyParts {
                guard let text = keys[row, 3 + part] else { break }
                key.append(text)
            }
            guard key.count == keyCounts[relation] ?? key.count else { return nil }
            dirty[relation, default: Dirty()].keys.append(key)
        }
        return dirty
    }

    // MARK: durability

    /// OLD's log is flushed as far as it went when the batch's snapshot had been taken, by whoever's commits: what the
    /// snapshot shows, and every transaction number that it knows, is in there. A standby that commits wait for has to
    /// be waited for by a commit of our own.
    private static func durableQuery(_ logEnd: String) -> String {
        """
        SELECT current_setting('synchronous_standby_names') = '' AND pg_current_wal_flush_lsn() >= '\(logEnd)'::pg_lsn
        """
    }

    /// A synchronous write whose commit makes every commit before it durable, also asynchronous ones. To the log
    /// only: a row would grow versions for as long as any transaction of OLD stays open.
    func sendBarrier() throws(PostgresFailure) {
        if isBarrierSent { return }
        try barrier.send("SELECT pg_logical_emit_message(true, 'godwit', '')")
        isBarrierSent = true
    }

    /// Returns when what the batch's snapshot shows is durable on OLD.
    func makeDurable() throws(PostgresFailure) {
        if isDurable { return }
        try sendBarrier()
        isBarrierSent = false
        try barrier.finish()
    }

    // MARK: definitions

    /// DDL on a table behind our back must not lose values: nothing travels by statements made for another table of
    /// that name, other columns, or another key.
    static let definitionChanged = "GW002"

    /// Changes with every ALTER of the table's name, columns, persistence, row security or unique indexes.
    private static func definitionQuery(_ condition: String) -> String {
        """
        SELECT c.oid::bigint, concat_ws('/', c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relrowsecurity,
                   c.relforcerowsecurity,
                   (SELECT sum(hashtextextended(concat_ws(' ', attnum, attname, atttypid, atttypmod, attisdropped,
                       attnotnull, xmin), 0)) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
                   (SELECT string_agg(concat_ws(' ', indexrelid, indisprimary, indimmediate, indisvalid), ','
                       ORDER BY indexrelid) FROM pg_index WHERE indrelid = c.oid AND indisunique))
          FROM pg_class c WHERE \(condition)
        """
    }

    func readDefinitions() throws(PostgresFailure) -> [UInt32: String] {
        Self.collectDefinitions(try source.query(Self.definitionQuery("c.oid >= 16384 AND c.relkind IN ('r', 'p')")))
    }

    private static func collectDefinitions(_ rows: Rows) -> [UInt32: String] {
        var found: [UInt32: String] = [:]
        for row in 0..<rows.count {
            if let oid = rows[row, 0].flatMap({ UInt32($0) }) { found[oid] = rows[row, 1] }
        }
        return found
    }

    private func check(_ answer: Rows, _ plans: [TablePlan]) throws(PostgresFailure) {
        let found = Self.collectDefinitions(answer)
        for plan in plans where found[plan.oid] != definitions[plan.oid] {
            throw PostgresFailure(
                .refused, sqlState: Self.definitionChanged, "the definition of \(plan.sourceName) has changed")
        }
    }

    /// Of all tables, between batches.
    func haveDefinitionsChanged() throws(PostgresFailure) -> Bool {
        guard !keyCounts.isEmpty else { return false }
        let oids = keyCounts.keys.map { "\($0)" }.joined(separator: ", ")
        let found = Self.collectDefinitions(try barrier.query(Self.definitionQuery("c.oid IN (\(oids))")))
        return keyCounts.keys.contains { found[$0] != definitions[$0] }
    }

    /// As of the batch's snapshot.
    func checkDefinitions(_ plans: [TablePlan]) throws(PostgresFailure) {
        guard !plans.isEmpty else { return }
        let oids = plans.map { "\($0.oid)" }.joined(separator: ", ")
        try check(try source.query(Self.definitionQuery("c.oid IN (\(oids))")), plans)
    }

    // MARK: rows

    /// Bytes of a batch's rows, over all tables, above which they travel by COPY, which holds one row at a time.
    static let smallBytesMax = 8 << 20
    /// What PostgreSQL says of a value that does not fit into memory as a literal.
    private static let tooLargeStates: Set<String> = ["54000", "53200", "XX000"]

    /// All small tables in one round trip; `isLast` ends the source's transaction with it.
    ///
    /// - Parameter logEnd: the batch's; it is looked whether that has become durable meanwhile. nil: it is not.
    /// - Returns: nil when the rows are too large to travel so; the source's transaction has ended then.
    func rows(
        _ wanted: [(plan: TablePlan, dirty: Dirty)], isLast: Bool, logEnd: String?
    ) throws(PostgresFailure) -> [SmallRows]? {
        do throws(PostgresFailure) {
            if let found = try smallRows(wanted, isLast: isLast, logEnd) { return found }
            try end()
        } catch {
            guard error.kind == .refused, Self.tooLargeStates.contains(error.sqlState) else { throw error }
            do throws(PostgresFailure) {
                try source.finish()
            } catch {
                guard error.kind == .refused else { throw error }
            }
            try source.execute("ROLLBACK")
        }
        return nil
    }

    private func smallRows(
        _ wanted: [(plan: TablePlan, dirty: Dirty)], isLast: Bool, _ logEnd: String?
    ) throws(PostgresFailure) -> [SmallRows]? {
        let withKeys = wanted.filter { !$0.dirty.keys.isEmpty }
        let bytesMax = Self.smallBytesMax / max(1, withKeys.count)
        var statements = withKeys.map { $0.plan.selectRows($0.dirty.keys, bytesMax: bytesMax) }
        if !withKeys.isEmpty {
            let oids = withKeys.map { "\($0.plan.oid)" }.joined(separator: ", ")
            statements.insert(Self.definitionQuery("c.oid IN (\(oids))"), at: 0)
        }
        // The last question: until then others' commits may have flushed the log.
        if let logEnd { statements.append(Self.durableQuery(logEnd)) }
        if isLast { statements.append("COMMIT") }
        if !statements.isEmpty { try source.send(statements.joined(separator: ";\n")) }
        if !withKeys.isEmpty { try check(try nextRows(), withKeys.map(\.plan)) }
        var found: [SmallRows] = []
        var isTooLarge = false
        for (plan, dirty) in wanted {
            if dirty.keys.isEmpty {
                let isTruncated = dirty.isTruncated
                found.append(SmallRows(table: plan, isTruncated: isTruncated, valueLists: [], rows: 0, absent: []))
            } else {
                let rows = try nextRows()
                // A row past the bound comes without its values.
                isTooLarge = isTooLarge || (0..<rows.count).contains { rows.isNull($0, plan.keyCount) }
                if !isTooLarge { found.append(assemble(plan, dirty, rows)) }
            }
        }
        if logEnd != nil { isDurable = try nextRows().flag(0, 0) }
        if !statements.isEmpty { try source.finish() }
        return isTooLarge ? nil : found
    }

    private func nextRows() throws(PostgresFailure) -> Rows {
        guard case .rows(let rows)? = try source.next() else {
            throw PostgresFailure(.lost, "the source answered out of turn")
        }
        return rows
    }

    private func assemble(_ plan: TablePlan, _ dirty: Dirty, _ rows: Rows) -> SmallRows {
        var lists: [UInt8] = []
        var present: Set<[ExactName]> = []
        for row in 0..<rows.count {
            if row > 0 { lists.append(UInt8(ascii: ",")) }
            lists.append(contentsOf: rows.bytes(row, plan.keyCount))
            present.insert((0..<plan.keyCount).map { ExactName(rows[row, $0] ?? "") })
        }
        // Without an upsert every dirty key is deleted first. A key may have several texts (1.0, 1.00): a
        // text that no row has is deleted before the rows come, so deleting too much is mended by the insert.
        let absent = plan.isUpsertable
            ? dirty.keys.filter { key in !present.contains(key.map { ExactName($0) }) } : dirty.keys
        return SmallRows(
            table: plan, isTruncated: dirty.isTruncated, valueLists: lists, rows: rows.count, absent: absent)
    }

    /// Tables of a large batch: the journal's relation, whether it was truncated, and how many entries name
    /// it.
    func largeTables(
        after applied: LedgerSnapshot
    ) throws(PostgresFailure) -> [(relation: UInt32, isTruncated: Bool, entries: Int64)] {
        let rows = try source.query("""
            SELECT relation::bigint, bool_or(key IS NULL), count(*)
              FROM (\(unseen(applied))) j GROUP BY relation ORDER BY relation
            """)
        return (0..<rows.count).map { row in
            (rows[row, 0].flatMap { UInt32($0) } ?? 0, rows.flag(row, 1), rows.integer(row, 2) ?? 0)
        }
    }

    func unseen(
        _ applied: LedgerSnapshot, _ relation: UInt32? = nil
    ) -> String {
        Journal.unseen(by: applied, andRelation: relation)
    }

    /// The last key of the next backfill range; nil: the table ends before.
    func rangeEnd(_ plan: TablePlan, after: [String]?, rows: Int) throws(PostgresFailure) -> [String]? {
        let end = try source.query(plan.selectRangeEnd(after: after, rows: rows))
        guard end.count == 1 else { return nil }
        return (0..<plan.keyCount).map { end[0, $0] ?? "" }
    }

    /// As of the batch's snapshot.
    func partitions(of plan: TablePlan) throws(PostgresFailure) -> Rows {
        try source.query(PartitionTracker.leavesQuery(plan.oid))
    }

    // MARK: end

    /// It has its locks from the start. A later one could wait behind somebody who waits for `source`, and nobody would
    /// know that the two wait for each other.
    ///
    /// - Returns: nil when OLD does not give one now: nothing hangs on it.
    func companion() throws(PostgresFailure) -> Companion? {
        let snapshot = try exportSnapshot()
        do throws(PostgresFailure) {
            let connection = try connect(["lock_timeout": Self.lockTimeout])
            try connection.execute("""
                BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT \(SQL.literal(snapshot));
                \(lockTables) LOCK TABLE \((0..<Journal.tables).map(Journal.table).joined(separator: ", "))
                    IN ACCESS SHARE MODE
                """)
            return Companion(connection)
        } catch {
            if error.kind == .interrupted { throw error }
            return nil
        }
    }

    func exportSnapshot() throws(PostgresFailure) -> String {
        try source.query("SELECT pg_export_snapshot()")[0, 0] ?? ""
    }

    /// Publishes the held batch, then asks until those who wanted it have attached, or `deadline` passes.
    func hold(
        token: String, snapshot: LedgerSnapshot, export: String, until deadline: Deadline, pause: () -> Bool
    ) throws(PostgresFailure) {
        let quoted = SQL.literal(token)
        try barrier.execute("""
            UPDATE godwit.control SET served_token = hold_token, served_snapshot = \(SQL.literal(snapshot.text)),
                served_export = \(SQL.literal(export)) WHERE hold_token = \(quoted)
            """)
        while !deadline.hasPassed, pause() {
            let rows = try barrier.query("SELECT hold_token IS DISTINCT FROM \(quoted) FROM godwit.control")
            if rows.count != 1 || rows.flag(0, 0) { return }
        }
    }

    /// Ends the transaction without waiting for the answer, which the next batch collects.
    func end() throws(PostgresFailure) {
        guard source.isInTransaction else { return }
        try source.send("COMMIT")
        isCommitPending = true
    }

    /// Between two batches: no transaction is open behind it.
    func letTablesGo() throws(PostgresFailure) {
        if isCommitPending {
            isCommitPending = false
            try source.finish()
        }
        if source.isInTransaction { try source.execute("COMMIT") }
    }

    func rotateJournal(_ progress: BatchApplier.Progress) throws(PostgresFailure) {
        try Journal.rotate(barrier, applied: progress.snapshot, batch: progress.batch)
    }

    /// The next batch brings these keys as OLD has them.
    func markDirty(_ keys: [(oid: UInt32, key: [String])]) throws(PostgresFailure) {
        for start in stride(from: 0, to: keys.count, by: 500) {
            let calls = keys[start..<min(start + 500, keys.count)].map { "(\($0.oid)::oid, \(SQL.array($0.key)))" }
            try barrier.execute("""
                SELECT godwit.mark_dirty(r, k) FROM (VALUES \(calls.joined(separator: ", "))) v (r, k)
                """)
        }
    }

    /// Runs the operator's own query, which may do no harm and take no longer than five seconds.
    func askOperator(_ query: String) throws(PostgresFailure) -> Rows? {
        do throws(PostgresFailure) {
            // On a line of its own: a comment at the query's end would take the COMMIT with it, and nothing of what the
            // barrier has to commit would be committed any more.
            return try barrier.execute("BEGIN READ ONLY; SET LOCAL statement_timeout = '5s'; \(query)\n; COMMIT")
        } catch {
            if error.kind == .refused { try barrier.execute("ROLLBACK") }
            throw error
        }
    }

    /// For work between batches.
    func query(_ sql: String) throws(PostgresFailure) -> Rows { try barrier.query(sql) }
}
