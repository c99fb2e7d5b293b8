import LibPQ
import Primitives

/// NEW's half of a batch: one transaction that moves it from one snapshot of OLD to the next, or does
/// nothing. Used by the mirror's thread.
final class BatchApplier {
    struct Progress: Equatable {
        var epoch: Int64
        /// Batches that NEW has committed since prepare.
        var batch: Int64
        var snapshot: LedgerSnapshot
        /// The source's identity: see CaptureSchema.
        var source: String
    }

    private let target: Connection
    /// How this session comes to the target: see `takeRole`.
    private(set) var mark = ApplierMark.replica
    private var lastSign = MonotonicInstant.now()

    /// Seconds between signs of life, and without one after which the next Godwit ends a session that only holds the
    /// lock: its process is stopped, or its machine is gone and the network has not said so.
    private static let signSeconds = 3.0
    private static let silenceSecondsMax = 15

    init(target: consuming Connection) { self.target = target }

    var isConnected: Bool { target.isConnected }

    /// - Parameter mayEndOthers: the mirror is this Godwit's to run, whoever runs it.
    /// - Returns: false when another Godwit applies to this NEW.
    func lock(mayEndOthers: Bool = false) throws(PostgresFailure) -> Bool {
        let isOurs = try target.query("SELECT pg_try_advisory_lock(\(AdvisoryLock.applier))").flag(0, 0)
        if isOurs { return true }
        // Even if it should live: the compare-and-set of its next batch misses, or its session is gone.
        try target.execute(mayEndOthers ? Self.endHolder : Self.endSilentHolder)
        if !mayEndOthers { return false }
        // It comes back at once. Whoever waits is before it.
        return try target.awaitApplierLock(seconds: 2)
    }

    private static let endHolder = """
        SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database()
           AND (l.classid::bigint << 32) + l.objid::bigint = \(AdvisoryLock.applier)
           AND a.usename = current_user AND a.application_name = 'godwit mirror'
        """
    private static let endSilentHolder = """
        \(endHolder) AND a.state LIKE 'idle%'
           AND clock_timestamp() - a.state_change > interval '\(silenceSecondsMax) seconds'
        """

    /// Triggers and foreign keys do not fire in the role of a replica; where we may not take it, they have to be away.
    func takeRole() throws(PostgresFailure) {
        mark = try ApplierMark.of(target)
        guard mark == .replica else { return }
        try target.execute("SET \(ApplierMark.role) = \(ApplierMark.roleValue)")
    }

    /// Our own triggers let this session pass. - Returns: the name of a table of which they do not.
    func strangeTable() throws(PostgresFailure) -> String? {
        if mark == .replica { return nil }
        let rows = try target.query(mark.strangeTables)
        return rows.count > 0 ? rows[0, 0] : nil
    }

    /// Takes away what would fire on what this session writes: see SetAside. Others' reads queue up behind its locks,
    /// so it does not wait for long.
    ///
    /// - Returns: how much it was.
    func setAside() throws(PostgresFailure) -> Int64 {
        if mark == .replica { return 0 }
        do throws(PostgresFailure) {
            try target.execute("BEGIN; SET LOCAL lock_timeout = '\(SetAside.lockTimeout)'")
            let count = try target.query("SELECT godwit.set_aside()").integer(0, 0) ?? 0
            try target.execute("COMMIT")
            return count
        } catch {
            if error.kind == .refused { try target.execute("ROLLBACK") }
            throw error
        }
    }

    /// Something would fire on what this session writes that was not there before.
    func isHindered() throws(PostgresFailure) -> Bool {
        mark == .replica ? false : try target.query("SELECT EXISTS (SELECT FROM godwit.firing())").flag(0, 0)
    }

    /// To be called during waits for anything else than NEW: shows that this applier lives.
    func giveSign() throws(PostgresFailure) {
        let now = MonotonicInstant.now()
        guard now.nanoseconds(since: lastSign) > UInt64(Self.signSeconds * 1e9), target.isAtRest else { return }
        lastSign = now
        try target.execute("SELECT 1")
    }

    /// - Returns: nil when this NEW was never prepared.
    func progress() throws(PostgresFailure) -> Progress? {
        guard try target.hasRelation("godwit.progress") else { return nil }
        let rows = try target.query("SELECT epoch, batch, snapshot, source FROM godwit.progress")
        guard rows.count == 1, let epoch = rows.integer(0, 0), let batch = rows.integer(0, 1),
            let snapshot = rows[0, 2].flatMap({ LedgerSnapshot($0) })
        else { return nil }
        return Progress(epoch: epoch, batch: batch, snapshot: snapshot, source: rows[0, 3] ?? "")
    }

    /// Where the backfill of each table stands: committed with the rows it brought.
    func backfill() throws(PostgresFailure) -> [Backfill.Table] {
        let rows = try target.query("""
            SELECT schema_name, table_name, rows_copied, is_copied, stamp, bytes_copied FROM godwit.backfill
             ORDER BY 1, 2
            """)
        let parts = try target.query("""
            SELECT schema_name, table_name, part FROM godwit.backfill, unnest(after_key) WITH ORDINALITY k (part, n)
             ORDER BY 1, 2, n
            """)
        var keys: [TableName: [String]] = [:]
        for row in 0..<parts.count {
            let name = TableName(schema: parts[row, 0] ?? "", name: parts[row, 1] ?? "")
            keys[name, default: []].append(parts[row, 2] ?? "")
        }
        return (0..<rows.count).map { row in
            let name = TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? "")
            return Backfill.Table(
                name: name, after: keys[name], rowsCopied: UInt64(rows.integer(row, 2) ?? 0),
                bytesCopied: UInt64(rows.integer(row, 5) ?? 0), isCopied: rows.flag(row, 3),
                stamp: rows[row, 4].flatMap { TableStamp($0) })
        }
    }

    func tables() throws(PostgresFailure) -> [TableDescription] { try CatalogReader.tables(target) }

    /// Prepared by this version: godwit.backfill holds what it needs.
    func isCurrent() throws(PostgresFailure) -> Bool {
        try target.query("""
            SELECT count(*) = 2 FROM pg_attribute
             WHERE attrelid = 'godwit.backfill'::regclass AND attname IN ('stamp', 'bytes_copied')
            """).flag(0, 0)
    }

    func query(_ sql: String) throws(PostgresFailure) -> Rows? { try target.execute(sql) }

    // MARK: one transaction

    /// The start of the transaction's text: fails with `CaptureSchema.missedState` when NEW is not where we
    /// think.
    static func beginText(_ progress: Progress, next: LedgerSnapshot) -> String {
        """
        BEGIN; SELECT godwit.advance(\(progress.epoch), \(progress.batch), '\(progress.snapshot.text)', '\(next.text)');

        """
    }

    /// Deletes and upserts of small tables. Within a table all deletes come first: what OLD's rows exchanged
    /// among themselves (unique values, keys) never collides.
    static func append(_ tables: [BatchReader.SmallRows], to text: inout [UInt8]) {
        for rows in tables {
            if rows.isTruncated { text.append(contentsOf: "\(rows.table.deleteAll);\n".utf8) }
            if !rows.absent.isEmpty && !rows.isTruncated {
                text.append(contentsOf: "\(rows.table.deleteKeys(rows.absent));\n".utf8)
            }
            if rows.rows > 0 {
                text.append(contentsOf: rows.table.insertStart.utf8)
                text.append(contentsOf: rows.valueLists)
                text.append(contentsOf: "\(rows.table.insertEnd);\n".utf8)
            }
        }
    }

    func run(_ text: [UInt8]) throws(PostgresFailure) {
        try target.send(bytes: text)
        try target.finish()
    }

    func execute(_ sql: String) throws(PostgresFailure) { try target.execute(sql) }

    /// - Returns: how many rows one statement changed.
    func change(_ sql: String) throws(PostgresFailure) -> Int {
        try target.send(sql)
        var changed = 0
        if case .done(let count)? = try target.next() { changed = count }
        try target.finish()
        return changed
    }

    func flag(_ query: String) throws(PostgresFailure) -> Bool { try target.query(query).flag(0, 0) }

    func send(_ sql: String) throws(PostgresFailure) { try target.send(sql) }

    /// Hands lines to a COPY whose end is left to `finish`.
    func sendCopy(_ statement: String, _ lines: UnsafeRawBufferPointer) throws(PostgresFailure) {
        try target.send(statement)
        guard case .copyIn? = try target.next() else {
            throw PostgresFailure(.lost, "the target refused a COPY: \(statement)")
        }
        try putInPieces(lines)
        try target.endCopy()
    }

    func finish() throws(PostgresFailure) { try target.finish() }

    /// Between batches. No VACUUM but this session's own sees its tables, and NEW's oldest transaction number stays
    /// where it was when they were made: in the end NEW would refuse all writes.
    func dropStaging() throws(PostgresFailure) { try target.execute("DISCARD TEMP") }

    /// libpq would double its buffer until all of it fits in.
    private func putInPieces(_ bytes: UnsafeRawBufferPointer) throws(PostgresFailure) {
        for start in stride(from: 0, to: bytes.count, by: Self.copyQueueBytesMax) {
            let end = min(bytes.count, start + Self.copyQueueBytesMax)
            try target.putCopy(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
            try target.flushQueued()
        }
    }

    /// Brings one table of a large batch: staged keys are deleted, then the rows come, both straight from the
    /// source.
    func applyLarge(
        _ plan: TablePlan, isTruncated: Bool, from reader: BatchReader, unseen: String
    ) throws(PostgresFailure) {
        try execute("\(plan.createStaging); \(isTruncated ? plan.deleteAll : "")")
        let rows = plan.copyRows(from: unseen)
        if !isTruncated {
            _ = try pump(reader, plan.copyKeys(from: unseen), plan.copyIntoStaging)
            // OLD looks for the rows while NEW deletes.
            try reader.source.send(rows)
            try execute(plan.deleteStaged)
        }
        _ = try pump(reader, isTruncated ? rows : nil, plan.copyIntoTable)
    }

    /// Replaces the rows of partitions that came, went or were emptied.
    func applyPartitions(_ change: PartitionTracker.Change, from reader: BatchReader) throws(PostgresFailure) {
        guard let copies = change.copies, try deletePartitions(change) else {
            try execute(change.plan.deleteAll)
            _ = try pump(reader, change.plan.copyPartition(nil), change.plan.copyIntoTable)
            return
        }
        for copy in copies { _ = try pump(reader, copy, change.plan.copyIntoTable) }
    }

    /// - Returns: false where NEW does not understand a condition: it was noted before a column, type or label that it
    ///   names was renamed.
    private func deletePartitions(_ change: PartitionTracker.Change) throws(PostgresFailure) -> Bool {
        try execute("SAVEPOINT godwit_partitions")
        do throws(PostgresFailure) {
            for condition in change.deletions { try execute(change.plan.deletePartition(condition)) }
        } catch {
            guard error.kind == .refused, Self.renamedStates.contains(error.sqlState) else { throw error }
            try execute("ROLLBACK TO SAVEPOINT godwit_partitions")
            return false
        }
        try execute("RELEASE SAVEPOINT godwit_partitions")
        return true
    }

    /// No such column, type, function, schema or label of an enum; types that do not fit.
    private static let renamedStates: Set<String> = ["42703", "42704", "42883", "3F000", "22P02", "42804"]

    // MARK: what NEW's tables are

    func firing(on side: Side) throws(PostgresFailure) -> Preflight.Finding? {
        try Preflight.firing(target, on: side).first
    }

    /// By NEW's oid. Read before the tables' descriptions, so that a change in between is not missed.
    func definitions() throws(PostgresFailure) -> [UInt32: String] {
        let rows = try target.query("""
            SELECT to_regclass(format('%I.%I', schema_name, table_name))::oid::bigint,
                   godwit.definition(to_regclass(format('%I.%I', schema_name, table_name))) FROM godwit.backfill
            """)
        var found: [UInt32: String] = [:]
        for row in 0..<rows.count {
            if let oid = rows[row, 0].flatMap({ UInt32($0) }) { found[oid] = rows[row, 1] }
        }
        return found
    }

    /// Fails with `CaptureSchema.changedState` when one of them is no longer what it was. Right only under a lock on
    /// them: after they were written.
    static func expectText(_ tables: [UInt32], _ definitions: [UInt32: String]) -> String {
        guard !tables.isEmpty else { return "" }
        let list = tables.map { "\($0)" }.joined(separator: ",")
        return "SELECT godwit.expect('{\(list)}', \(SQL.array(tables.map { definitions[$0] ?? "" })));\n"
    }

    func partitions() throws(PostgresFailure) -> PartitionTracker {
        PartitionTracker(try target.query(PartitionTracker.knownQuery))
    }

    /// Brings one range of the first copy; gives what it has.
    func applyRange(
        _ plan: TablePlan, after: [String]?, through: [String]?, from reader: BatchReader
    ) throws(PostgresFailure) -> Backfill.Amount {
        let copy = plan.copyRange(after: after, through: through)
        if plan.hasPortableKeyOrder {
            try execute(plan.deleteRange(after: after, through: through))
            return try pump(reader, copy, plan.copyIntoTable)
        }
        // What is there may be from an earlier copy; without ranges that mean the same here only all of it can go.
        if after == nil { try execute(plan.deleteAll) }
        try execute(plan.createStagingRows)
        let rows = try pump(reader, copy, plan.copyIntoStagingRows)
        try execute(plan.insertMissing)
        return rows
    }

    /// Bytes of a COPY that wait in memory for NEW to take them, besides the row at hand.
    private static let copyQueueBytesMax = 64 << 10

    /// COPY from the source's connection into NEW's, a row at a time, nothing kept.
    ///
    /// - Parameter out: nil: it was sent already.
    private func pump(
        _ reader: BatchReader, _ out: String?, _ into: String
    ) throws(PostgresFailure) -> Backfill.Amount {
        if let out { try reader.source.send(out) }
        try target.send(into)
        guard case .copyIn? = try target.next() else {
            throw PostgresFailure(.lost, "the target refused a COPY: \(into)")
        }
        guard case .copyOut? = try reader.source.next() else {
            throw PostgresFailure(.lost, "the source refused the rows for: \(into)")
        }
        var copied = Backfill.Amount()
        // Small rows go together: libpq moves what waits in its own buffer for each part that the kernel takes.
        var gathered: [UInt8] = []
        gathered.reserveCapacity(Self.copyQueueBytesMax)
        func put(_ bytes: UnsafeRawBufferPointer) throws(PostgresFailure) {
            try target.putCopy(bytes)
            try target.flushQueued()
        }
        func putGathered() throws(PostgresFailure) {
            var content: [UInt8] = []
            swap(&content, &gathered)
            // withUnsafeBytes does not carry typed errors.
            let outcome = content.withUnsafeBytes { bytes -> PostgresFailure? in
                do throws(PostgresFailure) { try put(bytes) } catch { return error }
                return nil
            }
            if let outcome { throw outcome }
            content.removeAll(keepingCapacity: true)
            swap(&content, &gathered)
        }
        try reader.source.copyOut { (row) throws(PostgresFailure) in
            copied.rows += 1
            copied.bytes += row.count
            if gathered.count + row.count > Self.copyQueueBytesMax, !gathered.isEmpty { try putGathered() }
            if row.count <= Self.copyQueueBytesMax {
                gathered.append(contentsOf: row)
                return
            }
            try putInPieces(row)
        }
        if !gathered.isEmpty { try putGathered() }
        try reader.source.finish()
        try target.endCopy()
        try target.finish()
        return copied
    }
}
