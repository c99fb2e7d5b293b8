import Configuration
import Console
import Digests
import PGWire
import Pooling
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// The routing key of one statement text: its digest and which of the plan's sources gave it.
struct StatementKey {
    var source: Int
    var identity: KeyIdentity
}

/// Figures of one database on one thread; names are PgBouncer's.
struct DatabaseCounters: Sendable {
    var transactions: UInt64 = 0
    var queries: UInt64 = 0
    var received: UInt64 = 0
    var sent: UInt64 = 0
    var transactionMicros: UInt64 = 0
    var queryMicros: UInt64 = 0
    var waitMicros: UInt64 = 0

    /// Counts and bytes per second, times per transaction or query.
    ///
    /// - Parameter seconds: in which it was counted, by however many threads; 0: nothing was yet.
    func averaged(over seconds: Double) -> DatabaseCounters {
        if seconds == 0 { return DatabaseCounters() }
        func rate(_ count: UInt64) -> UInt64 { UInt64(Double(count) / seconds) }
        func mean(_ micros: UInt64, _ count: UInt64) -> UInt64 { count == 0 ? 0 : micros / count }
        var averages = DatabaseCounters()
        averages.transactions = rate(transactions)
        averages.queries = rate(queries)
        averages.received = rate(received)
        averages.sent = rate(sent)
        averages.transactionMicros = mean(transactionMicros, transactions)
        averages.queryMicros = mean(queryMicros, queries)
        averages.waitMicros = rate(waitMicros)
        return averages
    }

    /// What has been counted since.
    static func - (left: DatabaseCounters, start: DatabaseCounters) -> DatabaseCounters {
        var counted = left
        counted.transactions -= start.transactions
        counted.queries -= start.queries
        counted.received -= start.received
        counted.sent -= start.sent
        counted.transactionMicros -= start.transactionMicros
        counted.queryMicros -= start.queryMicros
        counted.waitMicros -= start.waitMicros
        return counted
    }

    /// Of several threads.
    static func + (left: DatabaseCounters, right: DatabaseCounters) -> DatabaseCounters {
        var sum = left
        sum.transactions += right.transactions
        sum.queries += right.queries
        sum.received += right.received
        sum.sent += right.sent
        sum.transactionMicros += right.transactionMicros
        sum.queryMicros += right.queryMicros
        sum.waitMicros += right.waitMicros
        return sum
    }
}

/// One line of SHOW ROUTES.
struct RouteKey: Hashable, Sendable {
    var side: Side
    var isRead: Bool
    var reason: RouteDecision.Reason
}

/// What one thread keeps of one database: caches, statements, figures. Used on its reactor's thread.
final class DatabaseState {
    private(set) var route: DatabaseRoute
    /// Made by `*`, and forgotten when nobody uses it for long.
    var isAuto = false
    var unusedSince: MonotonicInstant?
    var clientCount = 0
    /// What an operator holds of it, and who waits for that.
    var hold: TrafficGate.Hold?
    var held: HeldClients
    /// When servers were last told to be closed: one that comes from another thread and is older is closed as well.
    var reconnectedAt = MonotonicInstant(nanoseconds: 0)
    /// When this thread first saw that others may have moved the writes (see `WriteLease`); nil: that is not so.
    var lapseSeenAt: MonotonicInstant?
    var awaitsLease = false
    private let turns: AnalysisTurns
    private(set) var analysis: AnalysisCache
    private(set) var resolver: KeyResolver
    /// Of the plan's `column` sources, by their places in it; 0: not known, or no column.
    private var keyColumnTypes: [UInt32] = []
    /// Shared by all threads.
    var health: DatabaseHealth { route.health }
    /// The side that takes the writes.
    var authority: Side { route.authority }
    private var oldSamples = SampleBuffer()
    private var newSamples = SampleBuffer()
    /// When a server of the authority last answered something to this thread; and who asks whether it still does.
    var authorityAnsweredAt = MonotonicInstant(nanoseconds: 0)
    var ping: SidePing?
    /// One that has failed at once is followed by the next one in a while, and by none before.
    var isPingDue = false
    var statements = StatementRegistry()
    /// What new clients are told. Empty until a server of the authority has logged in.
    var greetings = Greetings()
    var spellings = StartupSpellings()
    /// Of the last client that came.
    var knownStartup: KnownStartup?
    var counters = DatabaseCounters()
    var times = UnitTimes()
    /// As they were when the present period began; and what was counted in the one before, for the averages.
    private var periodStart = DatabaseCounters()
    private var periodStartedAt = MonotonicInstant.now()
    private(set) var lastPeriod: (counted: DatabaseCounters, seconds: Double) = (DatabaseCounters(), 0)
    /// By reason, side and kind; in place, as in `UnitTimes`.
    private var routes = InlineArray<68, UInt64>(repeating: 0)
    /// Units by the rule that met them, and by the cohort of their key; indexes as in the configuration.
    private(set) var ruleUnits: [UInt64] = []
    private(set) var cohortUnits: [UInt64] = []
    var shapes: ShapeStatistics
    /// nil: none of its reads is sampled.
    var shadow: ShadowSampler? { didSet { noteLoneReads() } }
    /// Plain reads may go the short way: see LoneRead. Kept, for it is asked for each of them.
    private(set) var takesLoneReads = true
    private(set) var schemaChanges: UInt64 = 0
    /// Shared by all threads.
    var sequenceReaders: SequenceReaders { route.sequenceReaders }
    /// Asked to have the catalog read again; called on the reactor's thread with the database's name.
    var onSchemaChange: ((String) -> Void)?
    /// Reads that NEW failed and OLD answered.
    var retries: UInt64 = 0
    /// Batch that NEW must have applied before anybody reads there: since the shares changed last. Who read on OLD
    /// until then must not go back in time.
    private(set) var batchNeededByAll: UInt64 = 0

    /// NEW was waited for in vain, or one waits on behalf of all for a NEW that was given up: until then nobody else
    /// waits for it.
    var waitsAgainAt = MonotonicInstant(nanoseconds: 0)

    var findsKeysInColumns: Bool {
        route.table.keyPlan.sources.contains { if case .column = $0 { true } else { false } }
    }
    /// Texts may say whose they are.
    var findsKeysInTexts: Bool {
        findsKeysInColumns || route.table.keyPlan.sources.contains { if case .comment = $0 { true } else { false } }
    }
    /// Kept, for it is asked for each unit.
    private(set) var isMirrored = false
    /// DDL runs on both sides. Kept, for it is asked for each message of a client that has a server.
    private(set) var followsDDL = false
    /// Reads on the other side see all that was acknowledged before.
    var isGloballyConsistent: Bool { isMirrored && route.settings.reads.consistency == .global }

    var name: String { route.name }

    init(_ route: DatabaseRoute, _ turns: AnalysisTurns) {
        self.route = route
        self.turns = turns
        analysis = Self.makeCache(route, turns)
        resolver = KeyResolver(table: route.table)
        shapes = ShapeStatistics(route.settings.reads)
        held = HeldClients(bound: route.settings.pool.waitersMax)
        precondition(routes.count == 4 * RouteDecision.Reason.allCases.count, "a count for each reason")
        keepUnits(of: nil)
        findKeyColumnTypes()
        shadow = ShadowSampler(route)
        noteLoneReads()
        noteMirror()
    }

    private func noteMirror() {
        isMirrored = route.settings.mirror.mode != .off
        followsDDL = isMirrored && route.settings.mirror.ddl == .barrier
    }

    private func noteLoneReads() { takesLoneReads = route.table.rules.isEmpty && shadow == nil }

    private func findKeyColumnTypes() {
        keyColumnTypes = route.table.keyPlan.sources.map { source in
            guard case .column(let name) = source else { return 0 }
            return route.facts.keyColumnTypes[name] ?? 0
        }
    }

    /// What there was before goes on being counted, wherever it stands now.
    private func keepUnits(of before: DatabaseSettings?) {
        func kept(_ units: [UInt64], _ names: [String]?, _ now: [String]) -> [UInt64] {
            let known = NameTable(zip(names ?? [], units).map { ($0, $1) })
            return now.map { known[$0] ?? 0 }
        }
        let settings = route.settings
        ruleUnits = kept(ruleUnits, before?.rules.map(\.name), settings.rules.map(\.name))
        cohortUnits = kept(
            cohortUnits, before?.reads.cohorts.map(\.name), settings.reads.cohorts.map(\.name))
    }

    /// A reload: what depends on what changed is made anew, the rest goes on.
    func apply(_ next: DatabaseRoute) {
        let previous = route
        route = next
        held.bound = next.settings.pool.waitersMax
        noteMirror()
        if previous.table.keyPlan != next.table.keyPlan || previous.facts !== next.facts {
            analysis = Self.makeCache(next, turns)
            findKeyColumnTypes()
        }
        if previous.table !== next.table {
            resolver = KeyResolver(table: next.table)
            keepUnits(of: previous.settings)
            if isMirrored { batchNeededByAll = route.horizon.taking + 1 }
        }
        if previous.table !== next.table || previous.facts !== next.facts { statements.outdateAll() }
        if ShapeStatistics.isMadeAnew(from: previous.settings.reads, to: next.settings.reads) {
            shapes = ShapeStatistics(next.settings.reads)
        }
        if previous.settings.shadow != next.settings.shadow { shadow = ShadowSampler(next) }
        if previous.settings.breaker != next.settings.breaker { health.apply(next.settings.breaker) }
        if previous.authority != next.authority {
            greetings = Greetings()
            spellings = StartupSpellings()
        }
        noteLoneReads()
    }

    private static func makeCache(_ route: DatabaseRoute, _ turns: AnalysisTurns) -> AnalysisCache {
        let seed = Digest.randomBytes(8).withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        return AnalysisCache(
            facts: route.facts.facts, keyPlan: route.table.keyPlan, seed: seed, turns: turns)
    }

    @inline(__always)
    func count(_ decision: RouteDecision, isRead: Bool) {
        routes[Self.index(decision.side, isRead, decision.reason)] += 1
    }

    func count(wait micros: UInt64, for side: Side, isRead: Bool) {
        counters.waitMicros += micros
        times.add(micros, .wait, side, isRead: isRead)
    }

    /// A server has come from another thread, or its login is forgotten.
    func noteGreeting(of server: ServerConnection) {
        let user = server.entry.key.user
        if server.side != authority || greetings.find(user) != nil { return }
        greetings.note(server.login.parameters, of: user)
    }

    /// Who comes from now on, and looks for a primary, is told that it is one, not only with the next server's login.
    func promoted(_ server: ServerConnection) {
        if server.side != authority || server.isReadOnly || server.isOutdated { return }
        greetings.note(server.login.parameters, of: server.entry.key.user)
        spellings.loggedIn(server.entry.key.user, server.login.parameters)
    }

    func note(_ values: SpelledValues) {
        if values.side == authority && !greetings.isEmpty { spellings.note(values) }
    }

    var routeCounts: [(key: RouteKey, units: UInt64)] {
        var counts: [(RouteKey, UInt64)] = []
        for side in Side.allCases {
            for isRead in [true, false] {
                for reason in RouteDecision.Reason.allCases {
                    let units = routes[Self.index(side, isRead, reason)]
                    if units > 0 { counts.append((RouteKey(side: side, isRead: isRead, reason: reason), units)) }
                }
            }
        }
        return counts
    }

    @inline(__always) private static func index(_ side: Side, _ isRead: Bool, _ reason: RouteDecision.Reason) -> Int {
        Int(reason.rawValue) * 4 + Int(side.rawValue) * 2 + (isRead ? 1 : 0)
    }

    /// Averages are taken over periods of a minute, as PgBouncer's stats_period.
    func turnPeriod(now: MonotonicInstant) {
        let nanos = now.nanoseconds(since: periodStartedAt)
        if nanos < 60_000_000_000 { return }
        lastPeriod = (counters - periodStart, Double(nanos) / 1e9)
        periodStart = counters
        periodStartedAt = now
    }

    // MARK: health

    /// - Returns: whether it is time to tell them.
    func add(_ sample: HealthSample, of side: Side, now: MonotonicInstant) -> Bool {
        side == .old ? oldSamples.add(sample, now: now) : newSamples.add(sample, now: now)
    }

    func takeSamples(
        of side: Side, _ tell: (ContiguousArray<HealthSample>) -> HealthMonitor.Decision?
    ) -> HealthMonitor.Decision? {
        let samples = side == .old ? oldSamples.take() : newSamples.take()
        return samples.isEmpty ? nil : tell(samples)
    }

    /// How far NEW is behind; nil: it is not mirrored, or not known to be a copy yet.
    func lagSeconds(now: MonotonicInstant) -> Double? {
        guard isMirrored else { return nil }
        let report = route.horizon.report
        guard report.state.isCurrent, report.lastAppliedNanos > 0 else { return nil }
        return Double(now.nanoseconds(since: MonotonicInstant(nanoseconds: report.lastAppliedNanos))) / 1e9
    }

    /// The first source of the plan that the session itself answers.
    func sessionKey(
        user: String, applicationName: String, clientAddress: @autoclosure () -> String, keyValues: KeyValues
    ) -> StatementKey? {
        for (index, source) in route.table.keyPlan.sources.enumerated() {
            let value: String?
            switch source {
            case .setting(let name): value = keyValues[name]
            case .sessionUser: value = user
            case .applicationName: value = applicationName
            case .clientAddress: value = clientAddress()
            case .comment, .column: value = nil
            }
            if let value, let identity = resolver.identity(of: value) {
                return StatementKey(source: index, identity: identity)
            }
        }
        guard route.table.usesSessionWhenKeyless else { return nil }
        return resolver.identity(of: user).map { StatementKey(source: route.table.keyPlan.sources.count, identity: $0) }
    }

    /// Analyses a text and digests the key it carries.
    func analyse(_ text: UnsafeRawBufferPointer) -> (AnalysedStatement, StatementKey?) {
        analyse(text, as: withUncounted(analysis) { $0.template(of: text) })
    }

    /// - Parameter template: what the cache has just said of it.
    func analyse(
        _ text: UnsafeRawBufferPointer, as template: Unmanaged<TemplateTable.Template>?
    ) -> (AnalysedStatement, StatementKey?) {
        // An analysis makes no other cache.
        let found = withUncounted(analysis) { $0.analyse(text, as: template) }
        guard let key = found.key else { return (found.statement, nil) }
        let type = keyColumnTypes[key.source]
        let identity: KeyIdentity?
        switch key.form {
        case .text(let offset, let length):
            identity = self.identity(of: UnsafeRawBufferPointer(rebasing: text[offset..<offset + length]), type)
        case .urlEncoded, .literal:
            identity = key.bytes(in: text).flatMap { $0.withUnsafeBytes { self.identity(of: $0, type) } }
        case .parameter, .parameters:
            identity = nil                           // see `boundKey`
        }
        return (found.statement, identity.map { StatementKey(source: key.source, identity: $0) })
    }

    /// What was named before is analysed again when it is asked for next, if it may mean something else by now.
    func analysis(of id: StatementID) -> (AnalysedStatement, StatementKey?) {
        if let known = statements.analysis(of: id) { return known }
        let found = analyse(parseBody: statements[id].parseBody)
        statements.renew(id, found)
        return found
    }

    /// The same with all that is known of it.
    func statement(_ id: StatementID) -> StatementRegistry.Statement {
        _ = analysis(of: id)
        return statements[id]
    }

    func analyse(parseBody: [UInt8]) -> (AnalysedStatement, StatementKey?) {
        parseBody.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            let found = analyse(reader.cString() ?? bytes)
            return Self.judged(found, types: reader)
        }
    }

    /// - Parameter types: of the Parse, positioned behind its text.
    static func judged(
        _ found: (AnalysedStatement, StatementKey?), types: BodyReader
    ) -> (AnalysedStatement, StatementKey?) {
        ParameterTypes(types).hasOwn ? (found.0.withForeignTypes, found.1) : found
    }

    private func identity(of key: UnsafeRawBufferPointer, _ columnType: UInt32) -> KeyIdentity? {
        if RoutingKeyText.isKey(key, ofColumnType: columnType) { return resolver.identity(of: key) }
        return RoutingKeyText.literalKey(key, columnType: columnType).flatMap { resolver.identity(of: $0) }
    }

    /// The key that the statement's Bind carries; nil when it has none, or its rows have several, or a reload came
    /// between its Parse and this.
    ///
    /// - Parameter reader: positioned behind the statement's name.
    func boundKey(_ statement: AnalysedStatement, _ reader: BodyReader, types: ParameterTypes) -> StatementKey? {
        guard let column = statement.columnKey, case .parameters(let numbers) = column.value,
            column.source < keyColumnTypes.count, let parameters = BindParameters(reader)
        else { return nil }
        var key: [UInt8]?
        for number in numbers {
            let type = RoutingKeyText.valueType(named: types[number], column: keyColumnTypes[column.source])
            guard let value = parameters.value(number),
                let bytes = RoutingKeyText.parameter(value.bytes, isBinary: value.isBinary, type: type)
            else { return nil }
            if let key, key != bytes { return nil }
            key = bytes
        }
        return key.flatMap { resolver.identity(of: $0) }.map { StatementKey(source: column.source, identity: $0) }
    }

    /// The key is in a part of the Bind that has not come yet, or in bytes that nobody here can read: of a type that is
    /// not known, or of one as numeric, an extension's or the application's own.
    func isBoundKeyHidden(_ statement: AnalysedStatement, _ reader: BodyReader, types: ParameterTypes) -> Bool {
        guard let column = statement.columnKey, case .parameters(let numbers) = column.value else { return false }
        guard let parameters = BindParameters(reader) else { return true }
        let columnType = column.source < keyColumnTypes.count ? keyColumnTypes[column.source] : 0
        return !numbers.allSatisfy { number in
            if !parameters.reaches(number) { return false }
            guard let value = parameters.value(number), value.isBinary, !value.bytes.isEmpty else { return true }
            let type = RoutingKeyText.valueType(named: types[number], column: columnType)
            return RoutingKeyText.parameter(value.bytes, isBinary: true, type: type) != nil
        }
    }

    // MARK: rules, cohorts, shapes

    func rewritten(
        _ text: UnsafeRawBufferPointer, _ statement: AnalysedStatement, user: String, isCounted: Bool
    ) -> [UInt8]? {
        let rules = route.table.rules
        guard rules.rewrites, let (other, applied) = rules.rewritten(text, statement, user: user) else { return nil }
        if isCounted { for rule in applied { count(rule: rule) } }
        return other
    }

    func count(rule index: Int) {
        if index < ruleUnits.count { ruleUnits[index] += 1 }
    }

    @inline(__always)
    func count(_ identity: KeyIdentity?) {
        if let cohort = identity?.cohort, Int(cohort) < cohortUnits.count { cohortUnits[Int(cohort)] += 1 }
    }

    /// Whether NEW may answer the unit's statement, by what is known of its shape.
    func askShape(_ unit: borrowing Unit, now: MonotonicInstant) -> ShapeStatistics.Answer {
        let needsNoProof = route.settings.reads.promote == .all
        if needsNoProof && !shapes.hasDemoted { return .allow }
        guard unit.statementCount == 1, let statement = unit.notes.statement else {
            return !needsNoProof ? .unproven : unit.notes.hasDemoted ? .degraded : .allow
        }
        return shapes.ask(statement, now: now)
    }

    /// A transaction that changed the schema through us has ended: what is known of the catalog is out of date.
    func noteSchemaChange() {
        schemaChanges += 1
        statements.retireAll()
        onSchemaChange?(name)
    }
}

/// What a client has asked for at its start, and what became of it: most clients of a database ask for the same.
struct KnownStartup {
    let parameters: [StartupPacket.Parameter]
    /// None of the parameters is among them.
    let keySettings: [String]
    let settings: SessionSettings
    let hasStandardStrings: Bool
    let hasSafeEncoding: Bool
}
