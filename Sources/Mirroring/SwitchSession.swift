import LibPQ
import Migration
import Primitives

/// One switch's hands: a session on each side, and what each step does there. Confined to the thread that performs the
/// switch; any step may block until its deadline.
///
/// `source` is the side that takes the writes until now, `target` the one that is to take them.
package final class SwitchSession {
    package enum Failure: Error, CustomStringConvertible {
        case side(Side, PostgresFailure)
        case other(String)

        package var description: String {
            switch self {
            case .side(let side, let failure): "\(side.title): \(failure)"
            case .other(let words): words
            }
        }
    }

    /// One mirrored table on both sides.
    struct Table {
        var onSource: TableDescription
        var onTarget: TableDescription
        /// As the other side is to have it; `back` only where a mirror can go there.
        var shape: TableDescription
        var back: TableDescription?

        var name: TableName { onSource.name }
    }

    package let direction: MirrorDirection
    let mappings: TableMappings
    private let conninfos: (source: String, target: String)
    let source: Connection
    let target: Connection
    private(set) var claims: (source: SideClaim, target: SideClaim) = (.untouched, .untouched)
    package private(set) var epoch: Int64 = 0
    private(set) var tables: [Table] = []
    /// Made ready before anything is held, so that the time under the hold is spent on locks and commits only.
    private var fenceOn = ""
    private var targetTriggers = ""
    /// What the target's mirror has set aside is back with the claim: see SetAside.
    private(set) var putBack = ""
    /// The source's sequences that have another name on the target.
    private(set) var sequenceNames: [TableName: TableName] = [:]

    /// Seconds for what happens while nobody is held.
    static let patienceSeconds = 10.0
    /// Long enough that an autovacuum in the way is cancelled by PostgreSQL, which takes deadlock_timeout (1 s).
    private static let reserveMillis = 3000

    // MARK: open

    /// - Parameter direction: from the present authority.
    package static func open(
        _ direction: MirrorDirection, old: String, new: String, mappings: TableMappings = .none, interrupt: CInt = -1
    ) throws(Failure) -> SwitchSession {
        let (sourceInfo, targetInfo) = direction.ends(old: old, new: new)
        let session = SwitchSession(
            direction, mappings, (sourceInfo, targetInfo),
            // The journal has no statistics, and all of it would be read while writes are held.
            try connect(
                sourceInfo, direction.source, interrupt,
                settings: ["enable_seqscan": "off", "max_parallel_workers_per_gather": "0"]),
            try connect(targetInfo, direction.target, interrupt))
        try session.begin()
        return session
    }

    private init(
        _ direction: MirrorDirection, _ mappings: TableMappings, _ conninfos: (source: String, target: String),
        _ source: consuming Connection, _ target: consuming Connection
    ) {
        self.direction = direction
        self.mappings = mappings
        self.conninfos = conninfos
        self.source = source
        self.target = target
    }

    private func begin() throws(Failure) {
        try beAlone()
        guard let ofSource = try at(direction.source, { () throws(PostgresFailure) in
            try AuthorityReader.claim(source)
        }), let ofTarget = try at(direction.target, { () throws(PostgresFailure) in
            try AuthorityReader.claim(target)
        })
        else { throw .other("the sides are not prepared for a switch: run godwit prepare") }
        claims = (ofSource, ofTarget)
        epoch = Ownership.nextEpoch(old: ofSource, new: ofTarget)
        tables = try readTables()
        sequenceNames = try SequenceRaiser.renamed(
            tables.map { (source: $0.onSource, shape: $0.shape) },
            source: { (sql) throws(Failure) in try querySource(sql) },
            target: { (sql) throws(Failure) in try queryTarget(sql) })
        func statements(_ rows: Rows) -> String {
            (0..<rows.count).map { (rows[$0, 0] ?? "") + ";\n" }.joined()
        }
        let (fences, rogues) = (AuthoritySchema.fenceTriggers, AuthoritySchema.rogueTriggers)
        fenceOn = statements(try querySource(AuthoritySchema.alterTriggers(fences, "ENABLE ALWAYS")))
        targetTriggers = statements(try queryTarget(AuthoritySchema.alterTriggers(fences + rogues, "DISABLE")))
        if try queryTarget(SetAside.isThere).flag(0, 0) { putBack = "SELECT godwit.put_back();" }
    }

    /// One switch at a time. Whoever settles what an earlier one has left has the lock for some moments too, and
    /// nothing is held yet: so it is waited for. What the other one has changed is read behind it.
    private func beAlone() throws(Failure) {
        let lock = AuthoritySchema.takeCoordinatorLock(seconds: Self.patienceSeconds)
        do throws(Failure) {
            try onSource(lock, until: .now().adding(seconds: Self.patienceSeconds))
            try onTarget(lock, until: .now().adding(seconds: Self.patienceSeconds))
        } catch {
            guard case .side(_, let failure) = error, failure.isLockConflict else { throw error }
            throw .other("another switch of this database is under way")
        }
    }

    private static func connect(
        _ conninfo: String, _ side: Side, _ interrupt: CInt, settings: [String: String] = [:]
    ) throws(Failure) -> Connection {
        do throws(PostgresFailure) {
            return try Connection.open(
                try MirrorSession.parse(conninfo), purpose: "switch", settings: settings, interrupt: interrupt)
        } catch {
            throw .side(side, error)
        }
    }

    private func readTables() throws(Failure) -> [Table] {
        let names = try queryTarget("SELECT schema_name, table_name FROM godwit.backfill ORDER BY 1, 2")
        let ours = try at(direction.source) { () throws(PostgresFailure) in try CatalogReader.tables(source) }
        let theirs = try at(direction.target) { () throws(PostgresFailure) in try CatalogReader.tables(target) }
        var tables: [Table] = []
        for row in 0..<names.count {
            let name = TableName(schema: names[row, 0] ?? "", name: names[row, 1] ?? "")
            guard let onTarget = theirs.first(where: { $0.name == name }),
                let onSource = mappings.twin(of: onTarget, on: direction.target, among: ours)
            else { throw .other("table \(name) is not on both sides any more: run godwit prepare") }
            let (side, other) = (direction.source, direction.target)
            let goesBack = mappings.isCarried(onTarget.name, from: other)
            tables.append(Table(
                onSource: onSource, onTarget: onTarget, shape: mappings.shape(onSource, as: onTarget, from: side),
                back: goesBack ? mappings.shape(onTarget, as: onSource, from: other) : nil))
        }
        return tables
    }

    /// A session of its own, beside the transactions.
    package func makeCall(id: String) throws(Failure) -> SwitchCall {
        // A word to others, which is worth nothing behind a crash: nobody is to wait for it to be on disk.
        let connection = try Self.connect(
            conninfos.source, direction.source, -1, settings: ["synchronous_commit": "off"])
        return SwitchCall(connection, direction.source, id: id, epoch: epoch)
    }

    // MARK: before anything is held

    /// Locks that let everybody read and write but keep autovacuum, DDL and other switches away until the end; and on
    /// the target, in the transaction that will claim, what the mirror back has to know.
    package func reserve() throws(Failure) {
        let timeout = "SET LOCAL lock_timeout = \(Self.reserveMillis);"
        let handover = try Handover.read(self)
        _ = try querySource(SetAside.endValidation)
        _ = try queryTarget(SetAside.endValidation)
        try onSource("BEGIN; \(timeout) \(lock(\.onSource, "SHARE UPDATE EXCLUSIVE"))")
        try onTarget("""
            BEGIN; \(timeout) \(lock(\.onTarget, "SHARE UPDATE EXCLUSIVE"))
            DELETE FROM godwit.handover; DELETE FROM godwit.handover_partition; \(handover.insertText)
            """)
    }

    private func lock(_ side: KeyPath<Table, TableDescription>, _ mode: String) -> String {
        if tables.isEmpty { return "" }
        return "LOCK TABLE \(tables.map { $0[keyPath: side].rows }.joined(separator: ", ")) IN \(mode) MODE;"
    }

    // MARK: while writes are held

    /// Refuses writes on the source, also of those that do not come through a Godwit; waits for those in flight.
    ///
    /// The row comes first: a lock_timeout is for each lock, so the server may still be at it when we have given up,
    /// and then `unfence` waits for this row until it is decided.
    package func fence(until deadline: Deadline) throws(Failure) {
        try onSource("""
            SET LOCAL lock_timeout = \(max(1, deadline.millisLeft));
            UPDATE godwit.authority SET fenced_for = \(epoch), elsewhere = \(SQL.literal(direction.target.title));
            \(lock(\.onSource, "SHARE ROW EXCLUSIVE")) \(fenceOn) COMMIT
            """, until: deadline)
    }

    /// Behind the fence: whether the target has all that was ever written down on the source.
    package func isJournalEmpty(until deadline: Deadline) throws(Failure) -> Bool {
        let progress = try onTarget("SELECT snapshot FROM godwit.progress", until: deadline)
        guard let applied = progress?[0, 0].flatMap({ LedgerSnapshot($0) }) else { return false }
        let unseen = "SELECT NOT EXISTS (SELECT FROM (\(Journal.unseen(by: applied))) j)"
        return try onSource(unseen, until: deadline)?.flag(0, 0) ?? false
    }

    /// Brings the target's sequences past the source's.
    package func raiseSequences(until deadline: Deadline) throws(Failure) {
        guard let rows = try onSource(SequenceRaiser.Reading.query, until: deadline) else { return }
        var reading = SequenceRaiser.Reading(rows)
        for query in reading.uncalledQueries {
            if let uncalled = try onSource(query, until: deadline) { reading.add(uncalled: uncalled) }
        }
        let statements = SequenceRaiser.raiseTexts(reading.sequences, renamed: sequenceNames)
        if !statements.isEmpty { try onTarget(statements.joined(separator: ";\n"), until: deadline) }
    }

    package enum ClaimFailure: Error {
        /// It was refused: the side can be taken back.
        case refused(Failure)
        /// The answer never came.
        case unknown(Failure)
    }

    /// The commit point. What the mirror has on its way to the target ends here too: its progress is gone.
    package func claim(owner: String, until deadline: Deadline) throws(ClaimFailure) {
        do throws(Failure) {
            let left = try onTarget("""
                SET LOCAL lock_timeout = \(max(1, deadline.millisLeft)); DELETE FROM godwit.progress;
                \(lock(\.onTarget, "SHARE ROW EXCLUSIVE"))
                SELECT count(*) FILTER (WHERE NOT is_copied) FROM (SELECT is_copied FROM godwit.backfill FOR SHARE) b
                """, until: deadline)
            // Since the guard rails were looked at the mirror may have begun to copy one anew: somebody has emptied it
            // here, or changed what it is. Its batches end as others do. What it is to say of that from here on waits
            // for us: until it has, a stranger's TRUNCATE is in godwit.rogue, where the claim looks.
            guard left?.integer(0, 0) == 0 else { throw .other("a table is to be copied, or is being copied anew") }
            try onTarget("""
                \(targetTriggers) \(putBack) SELECT godwit.claim(\(epoch), \(SQL.literal(owner)))
                """, until: deadline)
            if deadline.hasPassed { throw .other("the deadline passed before the commit") }
        } catch {
            throw .refused(error)
        }
        do throws(Failure) {
            try onTarget("COMMIT", until: deadline)
        } catch {
            throw .unknown(error)
        }
    }

    // MARK: after a failure

    /// Whether the claim of this switch has been committed; if not, it never will be.
    package func findOutAboutClaim() throws(Failure) -> Bool {
        let connection = try Self.connect(conninfos.target, direction.target, -1)
        return try Self.settleClaim(connection, direction.target, epoch)
    }

    /// Everything is as before: no fence, no transaction.
    package func takeBack(mayBeFenced: Bool) throws(Failure) {
        // What it has not taken by then ends with its session, and without COMMIT: a side that hangs must not keep
        // those waiting who are held on the other one.
        _ = try? onTarget("ROLLBACK", until: .now())
        _ = try? onSource("ROLLBACK")
        guard mayBeFenced else { return }
        let connection = try Self.connect(conninfos.source, direction.source, -1)
        try Self.unfence(connection, direction.source, epoch)
    }

    /// - Returns: true: claimed. Otherwise the side refuses the claim from now on.
    static func settleClaim(
        _ connection: borrowing Connection, _ side: Side, _ epoch: Int64
    ) throws(Failure) -> Bool {
        try at(side) { () throws(PostgresFailure) in
            // Waits for a claim whose commit is still on its way.
            let rows = try connection.query("""
                UPDATE godwit.authority SET void_epoch = CASE WHEN epoch < \(epoch)
                    THEN greatest(void_epoch, \(epoch)) ELSE void_epoch END RETURNING epoch >= \(epoch)
                """, timeoutSeconds: patienceSeconds)
            return rows.count == 1 && rows.flag(0, 0)
        }
    }

    /// Only when the other side can claim this epoch no more.
    static func unfence(_ connection: borrowing Connection, _ side: Side, _ epoch: Int64) throws(Failure) {
        try at(side) { () throws(PostgresFailure) in
            let rows = try connection.query(AuthoritySchema.alterTriggers(AuthoritySchema.fenceTriggers, "DISABLE"))
            let statements = (0..<rows.count).map { (rows[$0, 0] ?? "") + ";\n" }.joined()
            let mine = try connection.query("""
                BEGIN; SET LOCAL lock_timeout = '\(Int(patienceSeconds))s';
                SELECT fenced_for IS NOT DISTINCT FROM \(epoch) FROM godwit.authority FOR UPDATE
                """)
            guard mine.count == 1, mine.flag(0, 0) else {
                try connection.execute("ROLLBACK")
                return
            }
            try connection.execute("\(statements) UPDATE godwit.authority SET fenced_for = NULL, alert = NULL, "
                + "announced = NULL; COMMIT")
        }
    }

    // MARK: behind the commit point

    /// Tells the side that was fenced where the mirror to it begins. May be repeated.
    package func handOver() throws(Failure) {
        try Handover.perform(authority: target, direction.target, fenced: source, direction.source)
    }

    // MARK: parts

    /// - Parameter deadline: nil: as long as it takes. Past it the session is of no more use: the server, or the way to
    ///   it, hangs.
    @discardableResult
    func onSource(_ sql: String, until deadline: Deadline? = nil) throws(Failure) -> Rows? {
        try at(direction.source) { () throws(PostgresFailure) in
            try source.execute(sql, timeoutSeconds: deadline.map(Self.patience))
        }
    }

    @discardableResult
    func onTarget(_ sql: String, until deadline: Deadline? = nil) throws(Failure) -> Rows? {
        try at(direction.target) { () throws(PostgresFailure) in
            try target.execute(sql, timeoutSeconds: deadline.map(Self.patience))
        }
    }

    /// A little more than the server itself is given, so that its own answer comes first.
    private static func patience(_ deadline: Deadline) -> Double { Double(deadline.millisLeft) / 1000 + 0.5 }

    func querySource(_ sql: String) throws(Failure) -> Rows {
        try at(direction.source) { () throws(PostgresFailure) in try source.query(sql) }
    }

    func queryTarget(_ sql: String) throws(Failure) -> Rows {
        try at(direction.target) { () throws(PostgresFailure) in try target.query(sql) }
    }
}

/// Says on which side a failure happened.
private func at<Value>(
    _ side: Side, _ body: () throws(PostgresFailure) -> Value
) throws(SwitchSession.Failure) -> Value {
    do throws(PostgresFailure) { return try body() } catch { throw .side(side, error) }
}
