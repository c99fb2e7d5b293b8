import Glibc
import LibPQ
import Primitives
import Synchronization

/// Compares every table of both sides at one moment, range by range, down to the differing rows. Blocks its
/// caller.
package struct Verifier {
    package struct Options: Sendable {
        /// Readers on each side.
        package var readers = 2
        /// Rows of one range.
        package var rangeRows = 20_000
        /// Rows a second that each reader compares at most; 0: any.
        package var rowsPerSecond = 0
        /// Where it keeps what it has compared, to go on from there after a crash: see VerifyLedger.
        package var ledgerPath: String?
        /// Milliseconds between looks whether somebody waits for a table.
        package var lookMillis = 100
        /// Differing keys of each table that are kept with their rows; the others are counted.
        package var keysMax = 10_000
        /// A descriptor that, when readable, ends the comparison with a failure; -1: none.
        package var interrupt: CInt = -1
        package init() {}
    }

    private let old: ConnectionString
    private let new: ConnectionString
    private let options: Options
    private let mappings: TableMappings
    private let progress: @Sendable (String) -> Void

    package init(
        old: ConnectionString, new: ConnectionString, options: Options = Options(), mappings: TableMappings = .none,
        progress: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        self.old = old
        self.new = new
        self.options = options
        self.mappings = mappings
        self.progress = progress
    }

    /// - Parameter only: these tables of OLD; nil: all.
    package func run(only: Set<TableName>? = nil) throws(VerifyFailure) -> VerifyReport {
        guard try isReversed() else { return try compare(from: .old, only) }
        // Behind a cutover the mirror runs from NEW to OLD: the same with sides swapped.
        let names = only.map { names in Set(names.compactMap { mappings.twinName($0, of: .old) }) }
        do throws(VerifyFailure) {
            return try swapped.compare(from: .new, names).swapped
        } catch {
            throw error.swapped
        }
    }

    private var swapped: Verifier {
        Verifier(old: new, new: old, options: options, mappings: mappings, progress: progress)
    }

    /// NEW takes the writes: the greatest switch has made it the authority.
    private func isReversed() throws(VerifyFailure) -> Bool {
        var epochs: [Int64] = []
        for (target, side) in [(old, "OLD"), (new, "NEW")] {
            let connection = try PairedSnapshots.connect(target, side)
            let rows = try onSide(side) { () throws(PostgresFailure) -> Rows? in
                let known = try connection.hasRelation("godwit.authority")
                return known ? try connection.query("SELECT epoch FROM godwit.authority") : nil
            }
            epochs.append(rows.flatMap { $0.count == 1 ? $0.integer(0, 0) : nil } ?? 0)
        }
        return epochs[1] > epochs[0]
    }

    private func compare(from side: Side, _ only: Set<TableName>?) throws(VerifyFailure) -> VerifyReport {
        let found = ComparedTables()
        var ledger: VerifyLedger?, pairing: VerifyReport.Pairing?
        // Whoever waits for a table gets it: it goes on with another pair of snapshots, and the tables as they are now.
        while true {
            let names = try comparable(from: side, only) { _ in }.locked
            guard let pair = try take(names) else { continue }
            // Before they were locked somebody may have changed them.
            let (tables, incomparable, locked) = try comparable(from: side, only, progress)
            guard locked == names else { continue }
            // The mirror leads the other way from a switch on: rows of before it would be held against rows of now.
            if try isReversed() { throw .writesMoved }
            let pairingNow = pair.pairing
            progress(Self.describe(pairingNow))
            pairing = pairing?.followed(by: pairingNow) ?? pairingNow
            if ledger == nil { ledger = try openLedger() }
            let results = try compare(tables, pair, found, ledger)
            _ = consume pair
            guard let results, let pairing else {
                progress("somebody waits for a table: the comparison lets all go, and goes on behind him")
                continue
            }
            ledger?.finish()
            return VerifyReport(pairing: pairing, tables: (results + incomparable).sorted { $0.name < $1.name })
        }
    }

    /// - Returns: nil when one of the tables has gone meanwhile.
    private func take(_ names: [TableName]) throws(VerifyFailure) -> PairedSnapshots? {
        do throws(VerifyFailure) {
            return try PairedSnapshots.take(old: old, new: new, tables: names, interrupt: options.interrupt)
        } catch {
            guard case .side("OLD", let failure) = error, failure.sqlState == "42P01" else { throw error }
            return nil
        }
    }

    /// - Returns: nil when it has given way to somebody, before it had compared all.
    private func compare(
        _ tables: [Pair], _ pair: borrowing PairedSnapshots, _ found: ComparedTables, _ ledger: VerifyLedger?
    ) throws(VerifyFailure) -> [VerifyReport.Table]? {
        let queue = Mutex<[Pair]>(tables.sorted { $0.shape.rowsEstimated < $1.shape.rowsEstimated })
        let shared = Shared(queue: queue)
        let (names, process, old, new) = ((pair.oldName, pair.newName), pair.process, old, new)
        let (options, progress) = (options, progress)
        let threads = (0..<max(1, min(options.readers, tables.count))).map { _ in
            OwnThread(name: "godwit-verify") {
                do throws(VerifyFailure) {
                    let reader = try PairReader(
                        old: old, new: new, names: names, process: process, options: options, found: found,
                        ledger: ledger, progress: progress)
                    while !shared.givesWay.isSet, let table = shared.queue.withLock({ $0.popLast() }) {
                        guard let result = try reader.compare(table, givesWay: shared.givesWay) else { break }
                        shared.results.withLock { $0.append(result) }
                    }
                } catch {
                    // Whoever wants a table that this one is to read now waits for the pair's own session.
                    if case .side("OLD", let failure) = error, failure.isLockConflict { return shared.givesWay.set() }
                    shared.failure.withLock { $0 = $0 ?? error }
                    // What the others found would be thrown away: they need not go on for hours.
                    shared.givesWay.set()
                }
            }
        }
        for thread in threads { thread.join() }
        if let failure = shared.failure.withLock({ $0 }) { throw failure }
        let results = shared.results.withLock { $0 }
        return results.count == tables.count ? results : nil
    }

    /// Marks differing keys dirty on the authority: the mirror brings them with its next batch.
    package func repair(_ report: VerifyReport) throws(VerifyFailure) -> Int {
        let (source, side) = report.authority == .new ? (new, "NEW") : (old, "OLD")
        // Tables have other numbers on the other side, and its rows are those that count now.
        if try isReversed() != (report.authority == .new) { throw .writesMoved }
        let connection = try PairedSnapshots.connect(source, side)
        var marked = 0
        for table in report.tables {
            for key in table.keys {
                try onSide(side) { () throws(PostgresFailure) in
                    try connection.execute("SELECT godwit.mark_dirty(\(table.oid), \(SQL.array(key.key)))")
                }
                marked += 1
            }
        }
        return marked
    }

    private func openLedger() throws(VerifyFailure) -> VerifyLedger? {
        guard let path = options.ledgerPath else { return nil }
        func identity(_ target: ConnectionString, _ side: String) throws(VerifyFailure) -> String {
            let connection = try PairedSnapshots.connect(target, side)
            return try onSide(side) { () throws(PostgresFailure) in
                try connection.query("SELECT system_identifier || '/' || current_database() FROM pg_control_system()")
            }[0, 0] ?? ""
        }
        let subject = VerifyLedger.Subject(source: try identity(old, "OLD"), target: try identity(new, "NEW"))
        do throws(VerifyLedger.Failure) {
            let ledger = try VerifyLedger(path: path, subject: subject)
            if let started = ledger.resumedFrom {
                let age = Int64(time(nil)) - started
                progress("goes on with a comparison begun \(age) s ago: what \(path) holds is not compared again")
            }
            return ledger
        } catch {
            throw .ledger(error)
        }
    }

    // MARK: parts

    private final class Shared: Sendable {
        let queue: Mutex<[Pair]>
        let results = Mutex<[VerifyReport.Table]>([])
        let failure = Mutex<VerifyFailure?>(nil)
        let givesWay = GivenWay()
        init(queue: consuming Mutex<[Pair]>) { self.queue = queue }
    }

    /// A table as NEW is to have it, and where NEW has its rows.
    fileprivate struct Pair {
        var shape: TableDescription
        var twinRows: String
        /// Of all columns, as each side works them out.
        var hashes: (old: [ColumnHash], new: [ColumnHash])
    }

    /// Tables of OLD that can be walked and have a twin on NEW; the others, each with its reason; and those to lock.
    private func comparable(
        from side: Side, _ only: Set<TableName>?, _ progress: (String) -> Void
    ) throws(VerifyFailure) -> (tables: [Pair], incomparable: [VerifyReport.Table], locked: [TableName]) {
        let onOld = try PairedSnapshots.connect(old, "OLD"), onNew = try PairedSnapshots.connect(new, "NEW")
        let tables = try onSide("OLD") { () throws(PostgresFailure) in try CatalogReader.tables(onOld) }
        let twins = try onSide("NEW") { () throws(PostgresFailure) in try CatalogReader.tables(onNew) }
        var good: [Pair] = []
        var bad: [VerifyReport.Table] = []
        // One that was renamed since would else be compared by nobody, and all be equal.
        for name in (only ?? []).subtracting(tables.map(\.name)) {
            var result = VerifyReport.Table(name: name, oid: 0)
            result.problem = "does not exist on OLD"
            bad.append(result)
        }
        for table in tables where only?.contains(table.name) ?? true {
            if table.kind == .foreign || table.isPartition { continue }
            guard mappings.isCarried(table.name, from: side) else {
                progress("\(table.name): left out: it is mapped one way, and not mirrored since the cutover")
                continue
            }
            let twin = mappings.twin(of: table, on: side, among: twins)
            let shape = mappings.shape(table, as: twin, from: side)
            guard let problem = Self.problem(shape, twin) else {
                good.append(Self.pair(shape, twin))
                continue
            }
            var result = VerifyReport.Table(name: table.name, oid: table.oid)
            result.problem = problem
            bad.append(result)
        }
        return (good, bad, good.map(\.shape.storedName) + Self.comingPartitions(tables, good))
    }

    /// What is not compared and may become a partition of what is: its rows of before would be that one's at once. No
    /// others: whoever has one for himself, or makes and drops them, would keep us from beginning.
    private static func comingPartitions(_ tables: [TableDescription], _ good: [Pair]) -> [TableName] {
        func form(_ table: TableDescription) -> Set<String> { Set(table.columns.map { "\($0.name) \($0.type)" }) }
        let compared = Set(good.map(\.shape.storedName))
        let parents = Set(good.filter { $0.shape.kind == .partitioned }.map(\.shape.storedName))
        let forms = Set(tables.filter { parents.contains($0.name) }.map(form))
        return tables.filter { table in
            table.kind != .foreign && !table.isPartition && table.isOwned && !compared.contains(table.name)
                && forms.contains(form(table))
        }.map(\.name)
    }

    /// Where either side is partitioned, its partitions are meant too.
    private static func pair(_ table: TableDescription, _ twin: TableDescription?) -> Pair {
        var table = table
        // What a mapping's expressions give is not what their table's columns are.
        let isMapped = table.view != nil
        let hashes = table.columns.map { column in
            let (type, twinType) = (column.type, twin?.column(column.name)?.type ?? "")
            let kind = ColumnHash.Kind(type) == ColumnHash.Kind(twinType) ? ColumnHash.Kind(type) : .other
            return (
                old: ColumnHash(column, kind, type: isMapped ? nil : type),
                new: ColumnHash(column, kind, type: isMapped ? nil : twinType))
        }
        if twin?.kind == .partitioned, !isMapped { table.kind = .partitioned }
        return Pair(
            shape: table, twinRows: isMapped ? twin?.rows ?? table.name.sql : table.rows,
            hashes: (hashes.map(\.old), hashes.map(\.new)))
    }

    private static func problem(_ table: TableDescription, _ twin: TableDescription?) -> String? {
        guard let twin else { return "does not exist on NEW" }
        if table.key.isEmpty { return "has no primary key" + (table.view == nil ? "" : " that mirror.tables maps") }
        if table.view != nil && table.key != twin.key { return "NEW has another key than mirror.tables gives it" }
        if table.hidesRows || twin.hidesRows { return "row level security hides rows from us" }
        // Rows without a key are in no range.
        if let column = table.key.first(where: { twin.column($0)?.isNotNull == false }) {
            return "the key's column \(column) may be NULL on NEW"
        }
        if let column = table.lookalike ?? twin.lookalike {
            return "has two columns named \(column) that differ in nothing but their Unicode form"
        }
        if let missing = table.columns.first(where: { twin.column($0.name) == nil }) {
            return "NEW lacks the column \(missing.name)"
        }
        return nil
    }

    private static func describe(_ pairing: VerifyReport.Pairing) -> String {
        switch pairing {
        case .batch(let snapshot): "both sides at the authority's snapshot \(snapshot), held by the running mirror"
        case .quiet(keysWaiting: 0): "no mirror runs; nothing waits in the journal: plain snapshots of both sides"
        case .quiet(let waiting):
            "no mirror runs; \(waiting) changed keys wait in the journal and may show as differences"
        case .unprepared: "not prepared for mirroring: plain snapshots, right only while nobody writes"
        }
    }
}

/// Somebody waits for a table, and all readers are to let theirs go. Any thread.
private final class GivenWay: Sendable {
    private let flag = Atomic<Bool>(false)
    var isSet: Bool { flag.load(ordering: .acquiring) }
    func set() { flag.store(true, ordering: .releasing) }
}

/// What has been compared at earlier pairs of snapshots. Any thread.
private final class ComparedTables: Sendable {
    struct Part {
        /// What the table was: another one begins anew.
        var mark: String
        var result: VerifyReport.Table
        /// The last key; nil: all of it.
        var after: [String]?
    }

    private let parts = Mutex<[TableName: Part]>([:])

    func part(of table: TableName, mark: String) -> Part? {
        parts.withLock { $0[table] }.flatMap { $0.mark.hasSameBytes(as: mark) ? $0 : nil }
    }

    func keep(_ part: Part) { parts.withLock { $0[part.result.name] = part } }
}

/// One reader on each side, joined to the pair. Used by one thread.
private final class PairReader {
    private let old: Connection
    private let new: Connection
    /// Of the session that keeps OLD's snapshot.
    private let process: Int64
    private let options: Verifier.Options
    private let found: ComparedTables
    private let ledger: VerifyLedger?
    private let progress: (String) -> Void
    private var lastLook = MonotonicInstant.now()
    /// The table at hand on NEW.
    private var newPlan: KeyRangePlan?

    init(
        old oldTarget: ConnectionString, new newTarget: ConnectionString, names: (old: String, new: String),
        process: Int64, options: Verifier.Options, found: ComparedTables, ledger: VerifyLedger?,
        progress: @escaping (String) -> Void
    ) throws(VerifyFailure) {
        self.process = process
        self.found = found
        self.ledger = ledger
        let (patience, interrupt) = (["lock_timeout": PairedSnapshots.lockTimeout], options.interrupt)
        old = try Self.join(oldTarget, "OLD", names.old, settings: patience, interrupt)
        new = try Self.join(newTarget, "NEW", names.new, settings: [:], interrupt)
        self.options = options
        self.progress = progress
    }

    private static func join(
        _ target: ConnectionString, _ side: String, _ name: String, settings: [String: String], _ interrupt: CInt
    ) throws(VerifyFailure) -> Connection {
        let connection = try PairedSnapshots.connect(target, side, settings: settings, interrupt: interrupt)
        do throws(PostgresFailure) {
            try connection.execute("""
                BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT \(SQL.literal(name))
                """)
        } catch {
            throw .side(side, error)
        }
        return connection
    }

    /// - Returns: nil when it has given way to somebody before the table's end.
    func compare(_ pair: Verifier.Pair, givesWay: GivenWay) throws(VerifyFailure) -> VerifyReport.Table? {
        let table = pair.shape
        let plan = KeyRangePlan(table, hashes: pair.hashes.old)
        newPlan = KeyRangePlan(table, rows: pair.twinRows, hashes: pair.hashes.new)
        var result = VerifyReport.Table(name: table.storedName, oid: table.oid)
        let mark = "\(table.oid) \(plan.text) \(pair.twinRows)"
        var after: [String]?
        if let part = found.part(of: table.storedName, mark: mark) {
            (result, after) = (part.result, part.after)
            if after == nil { return result }
        } else {
            let place = ledger?.place(of: table.storedName, mark: mark) ?? VerifyLedger.Place()
            (result.rows, result.ranges) = (place.rows, place.ranges)
            if place.isDone {
                progress("\(table.storedName): was compared before, \(result.rows) rows")
                return result
            }
            after = place.after
        }
        guard try lockTwin(table.name, givesWay) else { return nil }
        // Keys of a mapping's expressions have no index on NEW.
        let looksAhead = plan.isRanged && table.view == nil
        var ahead: [String]?
        repeat {
            // NEW may have less than OLD: where it knows of no further end OLD is asked.
            var through = ahead
            if through == nil, plan.isRanged { through = try rangeEnd(plan, after) }
            let before = (rows: result.rows, differing: result.differing), began = MonotonicInstant.now()
            ahead = try compare(
                KeySlice(after: after, through: through), plan, table, looksAhead: looksAhead && through != nil,
                &result)
            result.ranges += 1
            ledger?.record(
                table.storedName, mark: after == nil ? mark : nil, through: through,
                rows: result.rows - before.rows, differing: result.differing - before.differing)
            after = through
            found.keep(ComparedTables.Part(mark: mark, result: result, after: after))
            let goesOn = try goesOn(rows: result.rows - before.rows, since: began, givesWay)
            if after != nil, !goesOn { return nil }
            if after != nil, result.ranges % 10 == 0 {
                progress("\(table.name): \(result.rows) rows compared, \(result.differing) keys differ")
            }
        } while after != nil
        progress("\(table.name): done, \(result.rows) rows compared, \(result.differing) keys differ")
        return result
    }

    /// Somebody may have it for himself, for hours (VACUUM FULL), or have another one that we read and want this one
    /// next: he is waited for in short turns, and whoever waits for us meanwhile is let in.
    ///
    /// - Returns: false when somebody waits for a table.
    private func lockTwin(_ table: TableName, _ givesWay: GivenWay) throws(VerifyFailure) -> Bool {
        let deadline = Deadline.now().adding(seconds: Double(PairedSnapshots.takenSecondsMax))
        while true {
            let failure: PostgresFailure
            do throws(PostgresFailure) {
                // No other wait is to end so soon.
                try new.execute("""
                    SAVEPOINT twin; SET LOCAL lock_timeout = '\(PairedSnapshots.lockTimeout)';
                    LOCK TABLE \(table.sql) IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0; RELEASE SAVEPOINT twin
                    """)
                return true
            } catch {
                failure = error
            }
            // PostgreSQL locks no foreign table.
            let isForeign = failure.sqlState == "42809"
            guard failure.isLockConflict || isForeign else { throw .side("NEW", failure) }
            try onSide("NEW") { () throws(PostgresFailure) in
                try new.execute("ROLLBACK TO SAVEPOINT twin; RELEASE SAVEPOINT twin")
            }
            if isForeign { return true }
            if deadline.hasPassed { throw .tableTaken(seconds: PairedSnapshots.takenSecondsMax) }
            if try isAwaited() { givesWay.set() }
            if givesWay.isSet { return false }
        }
    }

    /// Behind a range: when the rate lets it. - Returns: false when somebody waits for a table.
    private func goesOn(
        rows: Int64, since began: MonotonicInstant, _ givesWay: GivenWay
    ) throws(VerifyFailure) -> Bool {
        let rate = Double(options.rowsPerSecond)
        let due = rate > 0 ? began.advanced(bySeconds: Double(rows) / rate) : began
        while true {
            if try isAwaited() { givesWay.set() }
            if givesWay.isSet { return false }
            if due <= .now() { return true }
            let look = UInt64(max(1, options.lookMillis)) * 1000
            usleep(UInt32(clamping: min(due.nanoseconds(since: .now()) / 1000, look)))
        }
    }

    private func isAwaited() throws(VerifyFailure) -> Bool {
        let now = MonotonicInstant.now()
        guard now.nanoseconds(since: lastLook) >= UInt64(options.lookMillis) * 1_000_000 else { return false }
        lastLook = now
        // The pair's session has the tables, this one the indexes of those that it has read: whoever builds one anew
        // has all writers of its table wait meanwhile.
        let isOlds = try onSide("OLD") { () throws(PostgresFailure) in
            try old.query(PairedSnapshots.awaitedTable("\(process), pg_backend_pid()")).flag(0, 0)
        }
        if isOlds { return true }
        // Behind whoever waits for one of NEW's the mirror would wait, and all who read there.
        return try onSide("NEW") { () throws(PostgresFailure) in
            try new.query(PairedSnapshots.awaitedTable("pg_backend_pid()")).flag(0, 0)
        }
    }

    private func rangeEnd(_ plan: KeyRangePlan, _ after: [String]?) throws(VerifyFailure) -> [String]? {
        try onSide("OLD") { () throws(PostgresFailure) in
            Self.key(try old.query(plan.rangeEnd(after: after, rows: options.rangeRows)), plan)
        }
    }

    private func compare(
        _ slice: KeySlice, _ plan: KeyRangePlan, _ table: TableDescription, looksAhead: Bool,
        _ result: inout VerifyReport.Table
    ) throws(VerifyFailure) -> [String]? {
        // A table without ranges is split at once, by what the catalog guesses of its size.
        var more = 0
        if !plan.isRanged {
            while more < 16, (table.rowsEstimated >> Int64(more)) > Int64(options.rangeRows) { more += 1 }
        }
        var bisection = Bisection()
        var ahead: String?
        if looksAhead, let through = slice.through {
            ahead = (newPlan ?? plan).rangeEnd(after: through, rows: options.rangeRows)
        }
        let (left, right, end) = try digests(plan, [slice], more, ahead: ahead)
        result.rows += bisection.record([slice], more: more, old: left, new: right)
        while let step = bisection.next() {
            switch step {
            case .split(let slices, let more):
                let (left, right, _) = try digests(plan, slices, more)
                bisection.record(slices, more: more, old: left, new: right)
            case .compareRows(let slices):
                try compareRows(plan, slices, &result)
            }
        }
        return end
    }

    /// Both sides work at the same time.
    ///
    /// - Parameter ahead: asked of NEW besides, which is done first where it is the newer version.
    private func both(
        _ plan: KeyRangePlan, ahead: String? = nil, _ sql: (KeyRangePlan) -> String
    ) throws(VerifyFailure) -> (old: Rows, new: Rows, ahead: Rows?) {
        let (left, right) = (sql(plan), sql(newPlan ?? plan))
        try onSide("OLD") { () throws(PostgresFailure) in try old.send(left) }
        try onSide("NEW") { () throws(PostgresFailure) in try new.send(right + (ahead.map { "; " + $0 } ?? "")) }
        let ofOld = try onSide("OLD") { () throws(PostgresFailure) in try old.finish() }
        let ofNew: Rows? = ahead == nil ? nil : try onSide("NEW") { () throws(PostgresFailure) in
            guard case .rows(let rows)? = try new.next() else { return nil }
            return rows
        }
        let last = try onSide("NEW") { () throws(PostgresFailure) in try new.finish() }
        guard let ofOld, let last else { preconditionFailure("a comparison without rows") }
        return (ofOld, ofNew ?? last, ofNew == nil ? nil : last)
    }

    /// - Parameter ahead: the question for the end of the next range.
    private func digests(
        _ plan: KeyRangePlan, _ slices: [KeySlice], _ more: Int, ahead: String? = nil
    ) throws(VerifyFailure) -> (old: [UInt64: RangeDigest], new: [UInt64: RangeDigest], end: [String]?) {
        let (left, right, next) = try both(plan, ahead: ahead) { $0.digest(slices, more: more) }
        return (RangeDigest.collect(left), RangeDigest.collect(right), next.flatMap { Self.key($0, plan) })
    }

    private static func key(_ end: Rows, _ plan: KeyRangePlan) -> [String]? {
        end.count == 1 ? (0..<plan.keyCount).map { end[0, $0] ?? "" } : nil
    }

    private func compareRows(
        _ plan: KeyRangePlan, _ slices: [KeySlice], _ result: inout VerifyReport.Table
    ) throws(VerifyFailure) {
        let (left, right, _) = try both(plan) { $0.rows(slices) }
        func collect(_ rows: Rows) -> [[ExactName]: (hash: String, row: Int)] {
            var found: [[ExactName]: (hash: String, row: Int)] = [:]
            for row in 0..<rows.count {
                let key = (0..<plan.keyCount).map { ExactName(rows[row, $0] ?? "") }
                let hash = (rows[row, plan.keyCount] ?? "") + "/" + (rows[row, plan.keyCount + 1] ?? "")
                // A side that lacks the key's index may have a row more than once.
                found[key] = (found[key].map { $0.hash + " " + hash } ?? hash, row)
            }
            return found
        }
        let onOld = collect(left), onNew = collect(right), shown = plan.keyCount + 2
        for (key, old) in onOld where onNew[key]?.hash != old.hash {
            let new = onNew[key]
            result.record(VerifyReport.Key(
                key: key.map(\.text), difference: new == nil ? .onlyOnOld : .changed, old: left[old.row, shown],
                new: new.flatMap { right[$0.row, shown] }), keysMax: options.keysMax)
        }
        for (key, new) in onNew where onOld[key] == nil {
            result.record(VerifyReport.Key(
                key: key.map(\.text), difference: .onlyOnNew, old: nil, new: right[new.row, shown]),
                keysMax: options.keysMax)
        }
    }
}

extension VerifyReport.Table {
    fileprivate mutating func record(_ key: VerifyReport.Key, keysMax: Int) {
        differing += 1
        if keys.count < keysMax { keys.append(key) }
    }
}
