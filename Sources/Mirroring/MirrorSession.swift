import LibPQ
import Primitives

/// One stretch of mirroring between connecting and the first failure: three connections and what the target holds.
/// Comments speak of the first direction, OLD to NEW: the other way round the same holds with sides swapped.
/// Confined to the mirror's thread.
final class MirrorSession {
    enum Failure: Error {
        case side(Side, PostgresFailure)
        /// Something has to be done by somebody else first; trying again may help.
        case notReady(String)
        /// OLD or NEW is not the database that it was, or changes may have been missed: going on would be wrong until
        /// somebody has done what the text says.
        case wrongHistory(String)
    }

    private let direction: MirrorDirection
    private var source: Side { direction.source }
    private var target: Side { direction.target }
    let reader: BatchReader
    let applier: BatchApplier
    private let options: MirrorOptions
    private let horizon: Horizon
    private let generation: Int64
    private let plans: [UInt32: TablePlan]
    /// Of NEW's tables when the plans were made, by NEW's oid.
    private let definitions: [UInt32: String]
    /// What the operator should read in the log, oldest first; whoever logs it empties it.
    var notices: [String] = []
    private let planOf: [TableName: TablePlan]
    private(set) var progress: BatchApplier.Progress
    private var backfill: Backfill
    private var partitions: PartitionTracker
    /// Tables whose copy begins, where something besides the key is unique: what NEW has of them may be of an earlier
    /// copy, and stand in the way of any row that comes.
    private var stale: Set<TableName>
    private var sequences: SequenceRaiser
    private var lag = LagWindow()
    private var pace: CopyPace
    private var throttle: CopyThrottle
    private let orders: MirrorOrders
    /// Seconds of the last batch that brought changes.
    private var changesSeconds = 0.0
    /// The copy is not complete, and rests.
    private var isCopyResting = false

    private var batchBegan = MonotonicInstant.now()
    private var lastAdvanced = MonotonicInstant.now()
    private var nextHousekeeping: MonotonicInstant?
    private var lastReported: MonotonicInstant?
    private var wasEmpty = false
    /// Few keys, but their rows are too large to be held in memory at once.
    private var isLargeNext = false
    private var heldToken: String?
    private let onSchemaChange: () -> Void
    private let stopDescriptor: CInt

    /// Seconds after which an idle NEW is told of OLD's newer snapshot, so that the journal can be emptied.
    private static let advanceSeconds = 1.0
    /// Seconds that a batch is held for those who asked to attach to it.
    private static let holdSecondsMax = 2.0

    var isBackfillComplete: Bool { backfill.isComplete }

    // MARK: open

    static func open(
        _ direction: MirrorDirection, sourceConninfo: String, targetConninfo: String, options: MirrorOptions,
        orders: MirrorOrders, mayEndOthers: Bool = false, horizon: Horizon, stopDescriptor: CInt,
        lastAcknowledged: BatchApplier.Progress?, onSlowWait: @escaping () -> Void,
        onSchemaChange: @escaping () -> Void
    ) throws(Failure) -> MirrorSession {
        let (source, target) = (direction.source, direction.target)
        let applier = try on(target) { () throws(PostgresFailure) in
            BatchApplier(target: try Connection.open(
                try parse(targetConninfo), purpose: "mirror", settings: [
                    // A table that fills has no statistics yet: the planner would scan all of it for every range.
                    "lock_timeout": "10s", "enable_seqscan": "off", "jit": "off",
                    ApplierMark.setting: ApplierMark.value,
                ], interrupt: stopDescriptor, onSlowWait: onSlowWait))
        }
        try on(target) { () throws(PostgresFailure) in try applier.takeRole() }
        guard try on(target, { () throws(PostgresFailure) in try applier.lock(mayEndOthers: mayEndOthers) }) else {
            throw .notReady("\(target.title): another Godwit applies to it now")
        }
        guard let progress = try on(target, { () throws(PostgresFailure) in try applier.progress() }) else {
            throw .notReady("\(target.title) is not prepared: run godwit prepare")
        }
        let (reader, control, definitions, oldTables, captures) = try on(source) { () throws(PostgresFailure) in
            let server = try parse(sourceConninfo)
            // What is wrong with NEW is found out when it is used next.
            let reader = try BatchReader.open(server, interrupt: stopDescriptor) {
                onSlowWait()
                _ = try? applier.giveSign()
            }
            let isPrepared = try reader.query(CaptureSchema.isSource).flag(0, 0)
            let control = try isPrepared ? reader.query(CaptureSchema.history) : nil
            let definitions = try reader.readDefinitions()
            return (reader, control, definitions, try CatalogReader.tables(reader.source),
                try reader.query(CaptureSchema.capturedTables))
        }
        guard let control, control.count == 1 else {
            throw .notReady("\(source.title) is not prepared: run godwit prepare")
        }
        guard !control.isNull(0, 3), try on(target, { () throws(PostgresFailure) in try applier.isCurrent() }) else {
            throw .notReady("both sides were prepared by another version of Godwit: run godwit prepare")
        }
        try checkHistory(direction, progress, control, lastAcknowledged)
        let setAside = try clearTheWay(applier, target)
        let newDefinitions = try on(target) { () throws(PostgresFailure) in try applier.definitions() }
        if let finding = try on(target, { () throws(PostgresFailure) in try applier.firing(on: target) }) {
            throw .notReady("\(finding)")
        }
        let newTables = try on(target) { () throws(PostgresFailure) in try applier.tables() }
        var steps = try on(target) { () throws(PostgresFailure) in try applier.backfill() }
        let partitions = try on(target) { () throws(PostgresFailure) in try applier.partitions() }
        let pairs = try pair(direction, options.mappings, steps, oldTables, newTables, captures)
        let plans = pairs.map { TablePlan(old: $0.shape, new: $0.twin) }
        let renamed = try SequenceRaiser.renamed(
            pairs.map { (source: $0.table, shape: $0.shape) },
            source: { (sql) throws(Failure) in
                try on(source) { () throws(PostgresFailure) in try reader.query(sql) }
            },
            target: { (sql) throws(Failure) in
                try on(target) { () throws(PostgresFailure) in try applier.query(sql) }
            })
        let notices = try StampKeeper.keep(direction, &steps, plans, reader, applier, captures)
        reader.mirror(plans, definitions: definitions)
        let session = MirrorSession(
            direction, reader: reader, applier: applier, options: options, orders: orders, horizon: horizon,
            generation: control.integer(0, 1) ?? 0, plans: plans, progress: progress, backfill: Backfill(steps),
            partitions: partitions, definitions: newDefinitions, renamed: renamed, stopDescriptor: stopDescriptor,
            onSchemaChange: onSchemaChange)
        session.notices = setAside + notices
        // Before the first batch: a stranger's row may be what the last one failed on.
        if try session.mendRogueWrites() {
            throw .notReady("\(target.title): somebody emptied a table, it is copied again")
        }
        return session
    }

    /// Where the applier may not take the role of a replica. - Returns: what the operator should know.
    private static func clearTheWay(_ applier: BatchApplier, _ target: Side) throws(Failure) -> [String] {
        if let table = try on(target, { () throws(PostgresFailure) in try applier.strangeTable() }) {
            throw .notReady(
                "\(target.title): the control user may not set \(ApplierMark.role), and the triggers on \(table) do "
                    + "not know it by its name: run godwit prepare")
        }
        let count: Int64
        do throws(PostgresFailure) { count = try applier.setAside() } catch {
            guard error.isLockConflict else { throw .side(target, error) }
            throw .notReady(
                "\(target.title): triggers and foreign keys are to be set aside, and others have locked a table: it "
                    + "is tried again (pg_locks says who)")
        }
        return count == 0 ? [] : [
            "\(target.title): \(count) triggers, rules and foreign keys are set aside until it takes the writes: the "
                + "control user may not set \(ApplierMark.role)",
        ]
    }

    private init(
        _ direction: MirrorDirection, reader: BatchReader, applier: BatchApplier, options: MirrorOptions,
        orders: MirrorOrders, horizon: Horizon, generation: Int64, plans: [TablePlan],
        progress: BatchApplier.Progress, backfill: Backfill,
        partitions: PartitionTracker, definitions: [UInt32: String], renamed: [TableName: TableName],
        stopDescriptor: CInt, onSchemaChange: @escaping () -> Void
    ) {
        self.direction = direction
        sequences = SequenceRaiser(renamed: renamed)
        self.onSchemaChange = onSchemaChange
        self.orders = orders
        pace = CopyPace(rowsMax: options.backfillRows)
        throttle = CopyThrottle(options)
        self.definitions = definitions
        self.partitions = partitions
        self.reader = reader
        self.applier = applier
        self.options = options
        self.horizon = horizon
        self.generation = generation
        self.plans = Dictionary(uniqueKeysWithValues: plans.map { ($0.oid, $0) })
        planOf = Dictionary(uniqueKeysWithValues: plans.map { ($0.name, $0) })
        self.progress = progress
        self.backfill = backfill
        let colliding = Set(plans.filter(\.mayCollide).map(\.name))
        stale = colliding.intersection(backfill.tables.filter(\.isUntouched).map(\.name))
        self.stopDescriptor = stopDescriptor
        reportTables()
    }

    /// A mirrored table: as the source has it, as the target is to have it, and as it has it.
    private typealias Pair = (table: TableDescription, shape: TableDescription, twin: TableDescription)

    private static func pair(
        _ direction: MirrorDirection, _ mappings: TableMappings, _ steps: [Backfill.Table], _ old: [TableDescription],
        _ new: [TableDescription], _ captures: Rows
    ) throws(Failure) -> [Pair] {
        let source = direction.source
        let captured = CaptureSchema.healthy(captures)
        var pairs: [Pair] = []
        for step in steps {
            let name = mappings.twinName(step.name, of: source.other)
            guard let name, let table = old.first(where: { $0.name == name }) else {
                let change = mappings == .none ? "" : ", or mirror.tables gives another one its place"
                throw .notReady(
                    "\(source.title) has no table \(name ?? step.name) any more\(change): "
                        + "run godwit prepare --remove and prepare again")
            }
            let twin = new.first { $0.name == step.name }
            let shape = mappings.shape(table, as: twin, from: source)
            let defects = Preflight.defects(of: table, on: source)
            let found = (defects + SchemaMatch.defects(direction, old: shape, new: twin))
                .filter { $0.weight == .blocking }
            if let first = found.first { throw .notReady("\(first)") }
            guard let twin else { preconditionFailure("a missing table is a finding") }
            guard let capture = captured[table.oid] else { throw captureGone(source, table.name) }
            if !capture.mayGoOn(for: table) { throw captureOfAnother(source, table.name) }
            pairs.append((table, shape, twin))
        }
        return pairs
    }

    static func captureGone(_ source: Side, _ name: TableName) -> Failure {
        .wrongHistory(
            "\(source.title) \(name): the capture triggers are gone or disabled, changes may have been missed. "
                + "Run godwit prepare: the table is then copied anew")
    }

    private static func captureOfAnother(_ source: Side, _ name: TableName) -> Failure {
        .wrongHistory(
            "\(source.title) \(name): the capture triggers were made for another key or by another version of Godwit. "
                + "Run godwit prepare")
    }

    // MARK: waits

    /// Until there may be something to do. - Returns: false when told to stop.
    func waitForWork(kick: CInt, stop: CInt) -> Bool {
        // A short pause lets commits share a batch.
        while true {
            let sinceBatch = MonotonicInstant.now().nanoseconds(since: batchBegan) / 1_000_000
            let isQuiet = backfill.isComplete && !horizon.isAwaited
            guard sinceBatch < (isQuiet ? options.quietIntervalMillis : options.batchIntervalMillis) else { break }
            // Behind the short one somebody may begin to wait.
            let rest = sinceBatch < options.batchIntervalMillis ? options.batchIntervalMillis - sinceBatch : 1
            if MirrorLoop.isReadable([stop], millis: CInt(rest))[0] { return false }
        }
        let idle = (backfill.isComplete || isCopyResting) && wasEmpty
        return !MirrorLoop.isReadable([stop, kick], millis: idle ? CInt(options.pollMillis) : 0)[0]
    }

    /// The last batch may have left its end, or all of it, to the next one, and on the target tables of this session:
    /// types that DDL is to drop would be in use by those.
    func letTablesGo() {
        try? reader.letTablesGo()
        try? applier.dropStaging()
    }

    /// While nothing is to be done: see BatchApplier.
    func giveSign() throws(Failure) { try on(target) { () throws(PostgresFailure) in try applier.giveSign() } }

    // MARK: batch

    enum Outcome {
        /// NEW holds the batch, or it was empty.
        case applied
        /// The tables to mirror have changed: open again.
        case tablesChanged
        /// Somebody has one of them for himself, and nothing was taken.
        case tableTaken
    }

    func runBatch() throws(Failure) -> Outcome {
        let number = horizon.beginBatch()
        let began = MonotonicInstant.now()
        batchBegan = began
        let head = try on(source) { () throws(PostgresFailure) in
            try reader.begin(after: progress.snapshot, keysMax: isLargeNext ? -1 : options.smallBatchKeysMax)
        }
        guard let head else {
            wasEmpty = false
            return .tableTaken
        }
        isLargeNext = false
        guard head.epoch == progress.epoch else {
            throw .wrongHistory(
                "\(source.title) was prepared for another \(target.title) meanwhile (epoch \(head.epoch))")
        }
        guard head.generation == generation else { return .tablesChanged }
        let token = head.holdToken.flatMap { $0 == heldToken || !backfill.isComplete ? nil : $0 }
        let isStale = began.nanoseconds(since: lastAdvanced) > UInt64(Self.advanceSeconds * 1e9)
            && head.snapshot != progress.snapshot
        wasEmpty = head.dirty?.isEmpty ?? false
        var export: String?
        let moved = partitions.changed(head.partitions, Array(plans.values))
        if !wasEmpty || token != nil || !backfill.isComplete || isStale || !moved.isEmpty {
            guard let applied = try apply(head, moved, isHeld: token != nil) else { return try runBatch() }
            export = applied
            lastAdvanced = began
            let micros = MonotonicInstant.now().microseconds(since: began)
            if !wasEmpty { lag.add(micros, at: began) }
            changesSeconds = wasEmpty ? 0 : Double(micros) / 1e6
        }
        horizon.finishBatch(number)
        if let token, let export { try hold(token, head.snapshot, export) }
        try on(source) { () throws(PostgresFailure) in try reader.end() }
        report(keys: head.dirty?.values.reduce(0) { $0 + $1.keys.count } ?? 0)
        return try housekeep() ? .applied : .tablesChanged
    }

    /// - Returns: nil when nothing was applied, and the same has to be taken again as a large batch, before anybody
    ///   reads; otherwise the name of the source's exported snapshot when the batch is to be held.
    private func apply(
        _ head: BatchReader.Head, _ moved: [TablePlan], isHeld: Bool
    ) throws(Failure) -> String?? {
        let isSimple = backfill.isComplete && moved.isEmpty
        // What is read soon is mostly durable by then, without a write of ours that clients' commits would wait behind.
        let isBrief = isSimple && !isHeld && head.dirty != nil
        if !isBrief { try on(source) { () throws(PostgresFailure) in try reader.sendBarrier() } }
        var export: String?
        if isHeld { export = try on(source) { () throws(PostgresFailure) in try reader.exportSnapshot() } }
        var text = Array(BatchApplier.beginText(progress, next: head.snapshot).utf8)
        var small: [BatchReader.SmallRows] = []
        if let dirty = head.dirty {
            let wanted = dirty.compactMap { oid, dirty in plans[oid].map { (plan: $0, dirty: dirty) } }
                .sorted { $0.plan.oid < $1.plan.oid }
            let rows = try on(source) { () throws(PostgresFailure) in
                try reader.rows(wanted, isLast: !isHeld && isSimple, logEnd: isBrief ? head.logEnd : nil)
            }
            guard let rows else {
                try on(source) { () throws(PostgresFailure) in try reader.makeDurable() }
                isLargeNext = true
                return nil
            }
            small = rows
        }
        if head.dirty != nil && isSimple {
            BatchApplier.append(small, to: &text)
            text.append(contentsOf: BatchApplier.expectText(small.map(\.table.newOid), definitions).utf8)
            try commit(text)
        } else {
            try on(source) { () throws(PostgresFailure) in try reader.makeDurable() }
            try on(target) { () throws(PostgresFailure) in try applier.run(text) }
            let cleared = try clearStale()
            let changes = try applyPartitions(moved)
            // A TRUNCATE of a root gives all its partitions other files: they are brought anew, with those that came
            // behind it, and nothing may take them away again.
            let replaced = Set(changes.filter { !$0.deletions.isEmpty }.map(\.plan.oid))
            for index in small.indices where replaced.contains(small[index].table.oid) {
                small[index].isTruncated = false
            }
            var rest: [UInt8] = []
            BatchApplier.append(small, to: &rest)
            if !rest.isEmpty { try on(target) { () throws(PostgresFailure) in try applier.run(rest) } }
            var touched = (cleared + moved + small.map(\.table)).map(\.newOid)
            if head.dirty == nil { touched += try applyLarge(replaced) }
            let step = try applyBackfillStep()
            if let step, let plan = planOf[step.name] { touched.append(plan.newOid) }
            let expect = BatchApplier.expectText(touched, definitions)
            try on(target) { () throws(PostgresFailure) in try applier.execute("\(expect)COMMIT") }
            stale = []
            partitions.record(changes)
            if let step { backfill.record(step.name, step.copied, through: step.through) }
        }
        progress.snapshot = head.snapshot
        progress.batch += 1
        return .some(export)
    }

    /// NEW commits when what it gets is durable on OLD, and works on it before.
    private func commit(_ text: [UInt8]) throws(Failure) {
        let isDurable = reader.isDurable
        if !isDurable { try on(source) { () throws(PostgresFailure) in try reader.sendBarrier() } }
        try on(target) { () throws(PostgresFailure) in try applier.run(isDurable ? text + "COMMIT".utf8 : text) }
        if isDurable { return }
        try on(source) { () throws(PostgresFailure) in try reader.makeDurable() }
        try on(target) { () throws(PostgresFailure) in try applier.execute("COMMIT") }
    }

    /// A side's failure in a COPY between both is told apart by nothing: NEW is named, the text says the
    /// rest.
    ///
    /// - Parameter replaced: OLD's oids of the roots whose partitions this batch has brought.
    /// - Returns: NEW's oids of the tables.
    private func applyLarge(_ replaced: Set<UInt32>) throws(Failure) -> [UInt32] {
        let tables = try on(source) { () throws(PostgresFailure) in
            try reader.largeTables(after: progress.snapshot)
        }
        try on(source) { () throws(PostgresFailure) in
            try reader.checkDefinitions(tables.compactMap { plans[$0.relation] })
        }
        let entries = tables.reduce(0) { $0 + (plans[$1.relation] == nil ? 0 : $1.entries) }
        let known = tables.compactMap { table -> BacklogFeed.Table? in
            let isTruncated = table.isTruncated && !replaced.contains(table.relation)
            return plans[table.relation].map { ($0, isTruncated, reader.unseen(progress.snapshot, table.relation)) }
        }
        let inParts = known.filter { $0.plan.comesInParts }
        let isWorthTwo = inParts.count > 1 && entries >= options.aheadEntriesMin
        let companion = try on(source) { () throws(PostgresFailure) in isWorthTwo ? try reader.companion() : nil }
        let feed = BacklogFeed(
            reader: reader, companion: companion, applier: applier, partBytesMax: options.partBytesMax)
        try on(target) { () throws(PostgresFailure) in
            try feed.apply(inParts)
            for table in known where !table.plan.comesInParts {
                try applier.applyLarge(table.plan, isTruncated: table.isTruncated, from: reader, unseen: table.unseen)
            }
        }
        horizon.updateReport { $0.keys += UInt64(entries) }
        return tables.compactMap { plans[$0.relation]?.newOid }
    }

    /// Nobody reads on NEW, whose copy is not complete.
    private func clearStale() throws(Failure) -> [TablePlan] {
        let cleared = stale.compactMap { planOf[$0] }
        try on(target) { () throws(PostgresFailure) in
            for plan in cleared { try applier.execute(plan.deleteAll) }
        }
        return cleared
    }

    private func applyPartitions(_ moved: [TablePlan]) throws(Failure) -> [PartitionTracker.Change] {
        var changes: [PartitionTracker.Change] = []
        for plan in moved {
            let step = backfill.tables.first { $0.name == plan.name }
            let leaves = try on(source) { () throws(PostgresFailure) in
                try reader.checkDefinitions([plan])
                return try reader.partitions(of: plan)
            }
            let change = partitions.change(plan, leaves: leaves, isUntouched: step?.isUntouched ?? true)
            try on(target) { () throws(PostgresFailure) in
                try applier.applyPartitions(change, from: reader)
                try applier.execute(PartitionTracker.recordText(change))
            }
            changes.append(change)
        }
        return changes
    }

    private typealias Step = (name: TableName, copied: Backfill.Amount, through: [String]?)

    private func applyBackfillStep() throws(Failure) -> Step? {
        guard let next = backfill.next, let plan = planOf[next.name] else { return nil }
        let now = MonotonicInstant.now()
        try on(source) { () throws(PostgresFailure) in
            try throttle.ask(reader, batchSeconds: changesSeconds, at: now)
        }
        let limit = orders.copyRowsPerSecond
        let wanted = throttle.reason == nil ? pace.rows(at: now, rowsPerSecondMax: limit) : nil
        isCopyResting = wanted == nil
        guard let wanted else {
            if throttle.reason != nil { pace.rested() }
            return nil
        }
        let through = try on(source) { () throws(PostgresFailure) in
            try reader.checkDefinitions([plan])
            return try reader.rangeEnd(plan, after: next.after, rows: wanted)
        }
        let copied = try on(target) { () throws(PostgresFailure) in
            let copied = try applier.applyRange(plan, after: next.after, through: through, from: reader)
            try applier.execute(Backfill.recordText(next.name, copied, through: through))
            return copied
        }
        let ended = MonotonicInstant.now()
        pace.record(
            rows: copied.rows, seconds: Double(ended.nanoseconds(since: batchBegan)) / 1e9, at: ended,
            rowsPerSecondMax: limit)
        return (next.name, copied, through)
    }

    private func hold(_ token: String, _ snapshot: LedgerSnapshot, _ export: String) throws(Failure) {
        heldToken = token
        let deadline = Deadline.now().adding(seconds: Self.holdSecondsMax)
        try on(source) { () throws(PostgresFailure) in
            try reader.hold(token: token, snapshot: snapshot, export: export, until: deadline) {
                !MirrorLoop.isReadable([stopDescriptor], millis: 1)[0]
            }
        }
    }

    // MARK: between batches

    /// - Returns: false when the tables have changed: open again.
    private func housekeep() throws(Failure) -> Bool {
        let (now, progress) = (MonotonicInstant.now(), self.progress)
        if let nextHousekeeping, orders.isHurried || now < nextHousekeeping { return true }
        try on(source) { () throws(PostgresFailure) in try reader.rotateJournal(progress) }
        try on(target) { () throws(PostgresFailure) in try applier.dropStaging() }
        guard try isCaptureWhole() else { return false }
        try noticeUncaptured()
        try on(target) { () throws(PostgresFailure) in try sequences.raise(from: reader, on: applier) }
        if try mendRogueWrites() { return false }
        if try on(target, { () throws(PostgresFailure) in try applier.isHindered() }) { return false }
        if try on(target, { () throws(PostgresFailure) in try applier.definitions() }) != definitions { return false }
        if try on(source, { () throws(PostgresFailure) in try reader.haveDefinitionsChanged() }) { return false }
        // Of thousands of tables it takes seconds, in which nothing is carried: it is to have a quarter of the time.
        let took = Double(MonotonicInstant.now().nanoseconds(since: now)) / 1e9
        nextHousekeeping = now.advanced(bySeconds: max(options.housekeepingSeconds, 4 * took))
        return true
    }

    /// Makes the keys dirty that somebody else wrote on NEW.
    ///
    /// - Returns: true when a table has to be copied again: open again.
    private func mendRogueWrites() throws(Failure) -> Bool {
        let rows = try on(target) { () throws(PostgresFailure) in try applier.query(RogueWatch.keysQuery) }
        guard let found = rows.flatMap({ RogueWatch.collect($0) }) else { return false }
        var keys: [(oid: UInt32, key: [String])] = []
        for (name, written) in found.keys {
            guard let plan = planOf[name] else { continue }
            keys += written.filter { $0.count == plan.keyCount }.map { (plan.oid, $0) }
        }
        let marked = keys
        try on(source) { () throws(PostgresFailure) in try reader.markDirty(marked) }
        try on(target) { () throws(PostgresFailure) in
            for name in found.truncated { try applier.execute(Backfill.restartText(name)) }
            try applier.execute(RogueWatch.forget(found))
        }
        horizon.updateReport { $0.rogueKeys += UInt64(marked.count) }
        notices.append("\(target.title): somebody else wrote \(RogueWatch.describe(found)): brought back to what "
            + "\(source.title) has")
        return !found.truncated.isEmpty
    }

    /// Triggers may be dropped or disabled behind our back, and be back when we look.
    ///
    /// - Returns: false when they have changed: open again, which finds out what that means.
    private func isCaptureWhole() throws(Failure) -> Bool {
        let rows = try on(source) { () throws(PostgresFailure) in try reader.query(CaptureSchema.capturedTables) }
        let healthy = CaptureSchema.healthy(rows)
        for plan in plans.values where healthy[plan.oid] == nil { throw Self.captureGone(source, plan.sourceName) }
        var steps = backfill.tables
        guard try StampKeeper.holds(direction, &steps, planOf, reader, applier) else { return false }
        backfill = Backfill(steps)
        return true
    }

    /// Tables made since prepare: NEW does not get their rows, so nobody may read them there.
    private func noticeUncaptured() throws(Failure) {
        let rows = try on(source) { () throws(PostgresFailure) in try reader.query(CaptureSchema.uncapturedTables) }
        let shown = rows.tableNames.map(\.description)
        guard shown != horizon.report.uncaptured else { return }
        horizon.updateReport { $0.uncaptured = shown }
        onSchemaChange()
        guard !shown.isEmpty else { return }
        notices.append("\(source.title) has tables that are not mirrored: \(shown.joined(separator: ", ")). Reads of "
            + "them stay on \(source.title); create them on \(target.title) and run godwit prepare")
    }

    // MARK: report

    private func report(keys: Int) {
        let now = MonotonicInstant.now()
        let isDue = lastReported.map { now.nanoseconds(since: $0) > 500_000_000 } ?? true
        let percentiles = isDue ? lag.percentiles(at: now) : nil
        if isDue { lastReported = now }
        let copied = backfill.tables.reduce(0) { $0 + $1.rowsCopied }
        let (held, isComplete) = (throttle.reason, backfill.isComplete)
        horizon.updateReport { report in
            report.batches += 1
            report.keys += UInt64(keys)
            report.rowsCopied = copied
            report.copyHeld = isComplete ? "" : held ?? ""
            report.lastAppliedNanos = now.nanoseconds
            if let percentiles { (report.lagMicrosP50, report.lagMicrosP99) = percentiles }
        }
        if !backfill.isComplete || isDue || horizon.report.tables.contains(where: { !$0.isCopied }) { reportTables() }
    }

    private func reportTables() {
        let copying = backfill.next?.name, rate = pace.rate
        let tables = backfill.tables.map { step in
            var table = MirrorReport.Table(name: "\(step.name)")
            table.rowsCopied = step.rowsCopied
            table.bytesCopied = step.bytesCopied
            if step.name == copying { table.rowsPerSecond = UInt64(max(0, rate)) }
            table.rowsEstimated = UInt64(max(0, planOf[step.name]?.rowsEstimated ?? 0))
            table.isCopied = step.isCopied
            return table
        }
        horizon.updateReport { $0.tables = tables }
    }
}

/// Says on which side a failure happened.
func on<Value>(
    _ side: Side, _ body: () throws(PostgresFailure) -> Value
) throws(MirrorSession.Failure) -> Value {
    do throws(PostgresFailure) { return try body() } catch { throw .side(side, error) }
}

extension MirrorSession {
    static func parse(_ conninfo: String) throws(PostgresFailure) -> ConnectionString {
        do throws(ConnectionStringError) {
            return try ConnectionString(parsing: conninfo)
        } catch {
            throw PostgresFailure(.connecting, "\(error)")
        }
    }
}
