import LibPQ
import Primitives

/// How far the target is, as a Godwit finds out for which another one mirrors: it reads both databases and writes to
/// neither. Confined to the mirror's thread.
///
/// A batch is a question here. It is numbered, then the source tells its snapshot S, then the target how far it is: P,
/// which it got with the rows that make it so. The batch is finished when the target holds all that S shows: P shows
/// it too, or the source's journal has nothing behind P. `Horizon`'s rule holds as it does for a mirror, then: what was
/// acknowledged before a batch was begun, by whichever Godwit, is on the target when it is finished. What a mirror
/// finds out about both sides besides is looked at as often as a mirror does, and only a target that moves is believed:
/// a mirror that finds something else wrong moves it no more.
final class FollowSession {
    typealias Failure = MirrorSession.Failure

    private final class End {
        let connection: Connection
        init(_ connection: consuming Connection) { self.connection = connection }
    }

    /// What the source says.
    private struct Head {
        var snapshot: LedgerSnapshot
        var epoch: Int64
        var generation: Int64
        /// Something behind the target's last known snapshot is in the journal.
        var isDirty: Bool
        var partitions: [UInt32: String]
    }

    /// Seconds for which the target may stand still. A mirror moves it once a second at least, for Godwits' signs of
    /// life alone give the source another snapshot.
    static let silenceSecondsMax = 5.0
    /// Seconds for an answer of either side.
    private static let answerSeconds = 5.0
    /// Between questions when nobody asks for one.
    private static let idleMillis: CInt = 200
    /// Between looks at a target that is awaited: the first pause, doubled up to the last.
    private static let lookMillis: ClosedRange<CInt> = 1...8

    private let direction: MirrorDirection
    private let options: MirrorOptions
    private let duty: MirrorDuty
    private let horizon: Horizon
    private let stopDescriptor: CInt
    private let onSchemaChange: () -> Void
    private let onWait: () -> Void
    private let sourceEnd: End
    private let targetEnd: End

    private(set) var progress: BatchApplier.Progress
    private(set) var isBackfillComplete: Bool
    private var knownPartitions: [UInt32: String] = [:]
    private var generation: Int64 = 0
    /// Partitioned tables of the source.
    private var roots: [UInt32] = []
    private var lastMoved = MonotonicInstant.now()
    private var batchBegan = MonotonicInstant.now()
    private var lastHousekeeping: MonotonicInstant?
    private var lastReported: MonotonicInstant?
    private var lag = LagWindow()

    private var source: Side { direction.source }
    private var target: Side { direction.target }

    // MARK: open

    static func open(
        _ direction: MirrorDirection, sourceConninfo: String, targetConninfo: String, options: MirrorOptions,
        duty: MirrorDuty, horizon: Horizon, stopDescriptor: CInt, lastAcknowledged: BatchApplier.Progress?,
        onSlowWait: @escaping () -> Void, onSchemaChange: @escaping () -> Void
    ) throws(Failure) -> FollowSession {
        func connect(_ side: Side, _ conninfo: String) throws(Failure) -> End {
            try on(side) { () throws(PostgresFailure) in
                End(try Connection.open(
                    try MirrorSession.parse(conninfo), purpose: "follower",
                    settings: [
                        "enable_seqscan": "off", "jit": "off", "default_transaction_read_only": "on",
                    ], interrupt: stopDescriptor, onSlowWait: onSlowWait))
            }
        }
        let (source, target) = (direction.source, direction.target)
        let targetEnd = try connect(target, targetConninfo)
        let isPrepared = try on(target) { () throws(PostgresFailure) in
            try targetEnd.connection.hasRelation("godwit.progress")
        }
        guard isPrepared, let found = try Self.look(targetEnd, target, hasRoots: false) else {
            throw .notReady("\(target.title) is not prepared: run godwit prepare")
        }
        let sourceEnd = try connect(source, sourceConninfo)
        let isSource = try on(source) { () throws(PostgresFailure) in
            try sourceEnd.connection.query(CaptureSchema.isSource).flag(0, 0)
        }
        guard isSource else { throw .notReady("\(source.title) is not prepared: run godwit prepare") }
        let session = FollowSession(
            direction, options, duty, horizon, stopDescriptor, sourceEnd, targetEnd, found.progress,
            isBackfillComplete: found.isCopied, onWait: onSlowWait, onSchemaChange: onSchemaChange)
        session.generation = try session.checkHistory(lastAcknowledged)
        try session.checkCaptures()
        try session.awaitMove()
        return session
    }

    private init(
        _ direction: MirrorDirection, _ options: MirrorOptions, _ duty: MirrorDuty, _ horizon: Horizon,
        _ stopDescriptor: CInt, _ sourceEnd: End, _ targetEnd: End, _ progress: BatchApplier.Progress,
        isBackfillComplete: Bool, onWait: @escaping () -> Void, onSchemaChange: @escaping () -> Void
    ) {
        self.direction = direction
        self.options = options
        self.duty = duty
        self.horizon = horizon
        self.stopDescriptor = stopDescriptor
        self.sourceEnd = sourceEnd
        self.targetEnd = targetEnd
        self.progress = progress
        self.isBackfillComplete = isBackfillComplete
        self.onWait = onWait
        self.onSchemaChange = onSchemaChange
    }

    /// Nobody is believed who has not been seen to mirror.
    private func awaitMove() throws(Failure) {
        let before = progress.batch
        while progress.batch == before {
            if duty.isOurs { throw .notReady("it is this Godwit that mirrors now") }
            try checkSilence()
            try rest(millis: Self.idleMillis / 10)
            _ = try look()
        }
    }

    private func checkSilence() throws(Failure) {
        let seconds = Double(MonotonicInstant.now().nanoseconds(since: lastMoved)) / 1e9
        if seconds <= Self.silenceSecondsMax { return }
        throw .notReady(
            "\(target.title) has stood still for \(Int(seconds)) s: its mirror, which another Godwit has, is paused, "
                + "waits, has stopped or has much to do")
    }

    private func rest(millis: CInt) throws(Failure) {
        if MirrorLoop.isReadable([stopDescriptor], millis: millis)[0] {
            throw .side(target, PostgresFailure(.interrupted, "told to stop"))
        }
        onWait()
    }

    // MARK: batch

    /// Until somebody wants to know, or it is time. - Returns: false when told to stop.
    func waitForWork(kick: CInt, stop: CInt) -> Bool {
        let sinceBatch = MonotonicInstant.now().nanoseconds(since: batchBegan) / 1_000_000
        if sinceBatch < options.batchIntervalMillis {
            let rest = CInt(options.batchIntervalMillis - sinceBatch)
            if MirrorLoop.isReadable([stop], millis: rest)[0] { return false }
        }
        return !MirrorLoop.isReadable([stop, kick], millis: Self.idleMillis)[0]
    }

    /// - Returns: false when it is ours to mirror now, or the tables have changed: open again.
    func runBatch() throws(Failure) -> Bool {
        let number = horizon.beginBatch()
        batchBegan = .now()
        var head = try ask()
        let wanted = head.snapshot
        var asked = progress.snapshot
        var pause = Self.lookMillis.lowerBound
        while true {
            guard head.generation == generation else { return false }
            guard try look() else { return true }
            try checkSilence()
            if progress.snapshot.showsAll(of: wanted) || !head.isDirty && isSame(head.partitions) { break }
            if progress.snapshot != asked {
                asked = progress.snapshot
                head = try ask()
                continue
            }
            try rest(millis: pause)
            pause = min(pause * 2, Self.lookMillis.upperBound)
            if duty.isOurs { return false }
        }
        try housekeep()
        guard duty.isInTouch else { throw .notReady(Self.outOfTouch) }
        horizon.finishBatch(number)
        report()
        return true
    }

    static let outOfTouch = """
        what other Godwits decide about the reads is not known: the state store has not answered for \
        \(Int(MirrorDuty.touchSecondsMax)) s
        """

    private func isSame(_ partitions: [UInt32: String]) -> Bool {
        roots.allSatisfy { partitions[$0] ?? "" == knownPartitions[$0] ?? "" }
    }

    /// In one statement, so that a journal that prepare has changed is seen with its new generation. Its rows may be
    /// gone before they are seen: then the target holds what they stood for.
    private func ask() throws(Failure) -> Head {
        let query = """
            SELECT pg_current_snapshot(), epoch, generation,
                   EXISTS (SELECT FROM (\(Journal.unseen(by: progress.snapshot))) j) FROM godwit.control;
            \(roots.isEmpty ? "" : PartitionTracker.digestQuery(roots))
            """
        let answers = try Self.answers(sourceEnd, source, query)
        guard answers.count == (roots.isEmpty ? 1 : 2), answers[0].count == 1,
            let snapshot = answers[0][0, 0].flatMap({ LedgerSnapshot($0) })
        else { throw .notReady("godwit.control on \(source.title) is empty: run godwit prepare") }
        let head = Head(
            snapshot: snapshot, epoch: answers[0].integer(0, 1) ?? 0, generation: answers[0].integer(0, 2) ?? 0,
            isDirty: answers[0].flag(0, 3),
            partitions: roots.isEmpty ? [:] : PartitionTracker.collectDigests(answers[1]))
        guard head.epoch == progress.epoch else {
            throw .wrongHistory(
                "\(source.title) was prepared for another \(target.title) meanwhile (epoch \(head.epoch))")
        }
        return head
    }

    /// - Returns: false while it is copied to: nobody reads there.
    private func look() throws(Failure) -> Bool {
        guard let found = try Self.look(targetEnd, target, hasRoots: !roots.isEmpty),
            found.progress.epoch == progress.epoch, found.progress.source == progress.source
        else { throw .notReady("\(target.title) is no longer the copy that it was: a switch, or prepare") }
        if found.progress.batch != progress.batch {
            lastMoved = .now()
        }
        (progress, knownPartitions, isBackfillComplete) = (found.progress, found.partitions, found.isCopied)
        return isBackfillComplete
    }

    private static func look(
        _ end: End, _ side: Side, hasRoots: Bool
    ) throws(Failure) -> (progress: BatchApplier.Progress, isCopied: Bool, partitions: [UInt32: String])? {
        let answers = try answers(end, side, """
            SELECT epoch, batch, snapshot, source,
                   (SELECT coalesce(bool_and(is_copied), true) FROM godwit.backfill) FROM godwit.progress;
            \(hasRoots ? PartitionTracker.knownDigestQuery : "")
            """)
        guard answers.count == (hasRoots ? 2 : 1), answers[0].count == 1, let epoch = answers[0].integer(0, 0),
            let batch = answers[0].integer(0, 1), let snapshot = answers[0][0, 2].flatMap({ LedgerSnapshot($0) })
        else { return nil }
        let progress = BatchApplier.Progress(
            epoch: epoch, batch: batch, snapshot: snapshot, source: answers[0][0, 3] ?? "")
        return (progress, answers[0].flag(0, 4), hasRoots ? PartitionTracker.collectDigests(answers[1]) : [:])
    }

    private static func answers(_ end: End, _ side: Side, _ sql: String) throws(Failure) -> [Rows] {
        try on(side) { () throws(PostgresFailure) in
            let deadline = Deadline.now().adding(seconds: answerSeconds)
            try end.connection.send(sql)
            var answers: [Rows] = []
            while let reply = try end.connection.next(until: deadline) {
                if case .rows(let rows) = reply { answers.append(rows) }
            }
            return answers
        }
    }

    // MARK: what a mirror looks at, too

    private func housekeep() throws(Failure) {
        let now = MonotonicInstant.now()
        let pause = UInt64(options.housekeepingSeconds * 1e9)
        if let lastHousekeeping, now.nanoseconds(since: lastHousekeeping) < pause { return }
        lastHousekeeping = now
        _ = try checkHistory(progress)
        try checkCaptures()
        let rows = try query(sourceEnd, source, CaptureSchema.uncapturedTables)
        let shown = rows.tableNames.map(\.description)
        if shown != horizon.report.uncaptured {
            horizon.updateReport { $0.uncaptured = shown }
            onSchemaChange()
        }
    }

    /// - Returns: the generation.
    private func checkHistory(_ lastAcknowledged: BatchApplier.Progress?) throws(Failure) -> Int64 {
        let control = try query(sourceEnd, source, CaptureSchema.history)
        guard control.count == 1 else { throw .notReady("\(source.title) is not prepared: run godwit prepare") }
        try MirrorSession.checkHistory(direction, progress, control, lastAcknowledged)
        return control.integer(0, 1) ?? 0
    }

    /// Triggers that are gone, off, or were so for a while: the mirror copies the table anew when it finds out.
    private func checkCaptures() throws(Failure) {
        let copies = try query(targetEnd, target, "SELECT schema_name, table_name, stamp FROM godwit.backfill")
        let rows = try query(sourceEnd, source, CaptureSchema.capturedTables)
        let triggers = TableStamp.collectTriggers(try query(sourceEnd, source, TableStamp.triggersQuery))
        var oids: [TableName: UInt32] = [:]
        for row in 0..<rows.count where rows.flag(row, 2) {
            let name = TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? "")
            oids[name] = rows[row, 3].flatMap { UInt32($0) }
        }
        for (row, name) in copies.tableNames.enumerated() {
            let twin = options.mappings.twinName(name, of: target)
            guard let twin, let oid = oids[twin] else { throw MirrorSession.captureGone(source, twin ?? name) }
            let stamp = copies[row, 2].flatMap { TableStamp($0) }
            guard let stamp else { throw .notReady("\(target.title)'s \(name) is about to be copied") }
            var now = stamp
            now.triggers = triggers[oid] ?? [:]
            if let breach = TableStamp.breach(direction, from: stamp, to: now) {
                throw .notReady("\(source.title)'s \(twin): \(breach)")
            }
        }
        if oids.isEmpty { return roots = [] }
        let list = oids.values.map { "\($0)" }.joined(separator: ", ")
        let partitioned = try query(
            sourceEnd, source, "SELECT oid::bigint FROM pg_class WHERE relkind = 'p' AND oid IN (\(list)) ORDER BY 1")
        roots = (0..<partitioned.count).compactMap { partitioned[$0, 0].flatMap { UInt32($0) } }
    }

    private func query(_ end: End, _ side: Side, _ sql: String) throws(Failure) -> Rows {
        try on(side) { () throws(PostgresFailure) in
            try end.connection.query(sql, timeoutSeconds: Self.answerSeconds)
        }
    }

    private func report() {
        let now = MonotonicInstant.now()
        lag.add(now.microseconds(since: batchBegan), at: now)
        let isDue = lastReported.map { now.nanoseconds(since: $0) > 500_000_000 } ?? true
        if isDue { lastReported = now }
        let percentiles = isDue ? lag.percentiles(at: now) : nil
        horizon.updateReport { report in
            report.batches += 1
            report.lastAppliedNanos = now.nanoseconds
            if let percentiles { (report.lagMicrosP50, report.lagMicrosP99) = percentiles }
        }
    }
}
