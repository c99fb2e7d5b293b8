import Configuration
import Console
import ControlPlane
import Digests
import LibPQ
import Logging
import Migration
import Mirroring
import Primitives
import Proxy
import Routing

/// What outlives the process, and what consoles see of it. Immutable, any thread.
struct ServeState: Sendable {
    /// nil: `state.path` is empty, and nothing outlives the process.
    let store: StateStore?
    let memory: TrafficMemory
    let board = MigrationBoard()
    /// Of several Godwits with one state the one that runs the migrations has the mirrors.
    let duty: MirrorDuty
    private let sequenceUsers: [(database: String, user: String)]

    init(_ settings: Settings) throws(StateStore.Failure) {
        let state = settings.state
        if state.url.isEmpty {
            store = state.path.isEmpty ? nil : try StateStore(path: state.path)
        } else {
            try Self.checkPlace(settings)
            store = try StateStore(url: state.url, address: state.address, mayBeAway: true)
            if let absence = store?.absence { try Self.checkAbsence(absence, settings) }
        }
        duty = MirrorDuty(isShared: !state.url.isEmpty)
        memory = try TrafficMemory(store)
        sequenceUsers = try store?.absence == nil ? store?.sequenceReaders() ?? [] : []
    }

    /// Without the state only the databases can say who takes the writes. OLD says it as long as it is prepared, and
    /// its fence keeps to it; one that is not may be left behind for good.
    private static func checkAbsence(
        _ absence: StateStore.Failure, _ settings: Settings
    ) throws(StateStore.Failure) {
        for database in settings.databases where database.mirror.mode != .off && !database.isWildcard {
            if AuthorityProbe(database.controlOrOwn(.old), interrupt: -1).ask() != nil { continue }
            throw StateStore.Failure(
                path: absence.path, what: "\(absence.what). OLD of \"\(database.name)\" does not say either who takes "
                    + "its writes: it does not answer, is not prepared yet, or no longer. Start when the state answers")
        }
    }

    /// What is in a database that is migrated moves with it.
    static func checkPlace(_ settings: Settings) throws(StateStore.Failure) {
        func place(_ conninfo: String) -> [String]? {
            guard let target = try? ConnectionString(parsing: conninfo).fillingDefaults() else { return nil }
            return [target.hostaddr ?? target.host ?? "", "\(target.port ?? 5432)", target.dbname ?? target.user ?? ""]
        }
        guard let wanted = place(settings.state.url) else { return }  // who connects says what is wrong with it
        for database in settings.databases {
            let sides = [database.old, database.new, database.controlOrOwn(.old), database.controlOrOwn(.new)]
            if sides.contains(where: { place($0) == wanted }) {
                throw StateStore.Failure(
                    path: "state.url", what: "would be in \"\(database.name)\", which is migrated: name a database of "
                        + "its own")
            }
        }
    }

    /// Those of earlier runs, and what keeps further ones.
    func sequenceReaders(of database: String) -> SequenceReaders {
        SequenceReaders(known: sequenceUsers.filter { $0.database == database }.map(\.user)) { [store] user in
            store?.noteSequenceReader(database: database, user: user)
        }
    }

    /// Waits until all that was given is written.
    func flush() { store?.flush() }
}

/// What migrations order, and mirrors that come and go. On the control thread.
extension ServeAssembly {
    mutating func take(
        _ order: MigrationTraffic, _ server: ProxyServer, _ engine: SwitchEngine,
        _ done: @escaping @Sendable (ControlOutcome) -> Void
    ) {
        switch order {
        case .reads(let database, let hundredths, let cohorts):
            plan.manage(hundredths, cohorts: cohorts, for: database)
        case .hold(let database):
            plan.hold(database)
        case .adopt(let database):
            guard let record = state.memory.takeOffer(of: database) else { return done(.done) }
            return adopt(record, database, server, engine, done)
        case .mirror(let database, true):
            guard let settings = snapshot.settings.database(named: database), settings.mirror.mode != .off else {
                return done(.refused("\"\(database)\" has no mirror: set its mirror.mode and start Godwit again"))
            }
            if mirrors[database] == nil { startMirror(settings, server.control, engine) }
            return done(.done)
        case .mirror(let database, false):
            return endMirror(database, engine, done)
        case .finish(let database):
            guard let settings = snapshot.settings.database(named: database) else {
                return done(.refused("there is no database \"\(database)\""))
            }
            guard ownerships[database]?.authority == .new else {
                return done(.refused("NEW does not have the writes of \"\(database)\""))
            }
            plan.finish(database, pair: Self.pair(settings))
            rememberAll()
            return endMirror(database, engine, done)
        }
        apply(snapshot.settings, server)
        rememberAll()
        done(.done)
    }

    /// An operator's word about the breaker of a database, also of one that `*` has made.
    mutating func force(_ database: String, _ order: ForceOrder, _ server: ProxyServer) -> ControlOutcome {
        let route = snapshot.route(database)
        let configured = route?.settings.isWildcard == true ? nil : route?.health
        guard let health = configured ?? server.autoDatabases.health(of: database) else {
            return .refused("there is no database \"\(database)\"")
        }
        let toOther = health.other == .new ? ForceOrder.new : .old
        tell(health.force(order == .auto ? .auto : order == toOther ? .closed : .open), database)
        // What `*` has made is forgotten when nobody uses it, and so is what was said of it.
        if configured == nil { return .done }
        plan.noteForced(order == .auto ? nil : order.rawValue, for: database)
        remember(database)
        return .done
    }

    /// A higher share of `*` is one of all that it has made.
    func unlatchAutoDatabases(_ server: ProxyServer) {
        for (name, health) in server.autoDatabases.healths where health.isLatched { tell(health.force(.auto), name) }
    }

    /// Another Godwit with the same state has decided it.
    private mutating func adopt(
        _ record: TrafficPlan.Record, _ database: String, _ server: ProxyServer, _ engine: SwitchEngine,
        _ done: @escaping @Sendable (ControlOutcome) -> Void
    ) {
        let before = plan.record(of: database)
        plan.restore(record, for: database)
        // Whoever said it is to hear what it has not heard of.
        remember(database)
        guard let settings = snapshot.settings.database(named: database), !settings.isWildcard else {
            return done(.done)
        }
        let shares = [before, record].map { record in record.ordered.map { Percent.text($0) } ?? "the file's" }
        logger.notice("another Godwit has decided about the reads of \"\(database)\"", metadata: [
            "share": "\(shares[0]) -> \(shares[1])", "at_most": "\(record.ceiling.map { Percent.text($0) } ?? "any")",
            "forced": "\(record.forced ?? "no")",
        ])
        if record.forced != before.forced, let route = snapshot.route(database) {
            let other = route.health.other == .new ? "new" : "old"
            tell(route.health.force(record.forced == nil ? .auto : record.forced == other ? .closed : .open), database)
        }
        // Of the switch it may not have heard yet, and from here on nobody asks the databases.
        if isFinished(settings), ownerships[database]?.authority != .new {
            let epoch = (ownerships[database]?.epoch ?? 0) + 1
            own(Ownership(authority: .new, epoch: epoch, standing: .settled), database)
        }
        apply(snapshot.settings, server)
        guard record.finishedPair != nil, before.finishedPair == nil else { return done(.done) }
        if !isFinished(settings) {
            logger.error("""
                the migration of "\(database)" is over, by a Godwit that names its old or new otherwise: name them \
                alike, or this one will not know after its next start that NEW has it for good
                """)
        }
        endMirror(database, engine, done)
    }

    /// What is in force outlives the process.
    func remember(_ database: String) { state.memory.note(plan.record(of: database), of: database) }

    func rememberAll() { for database in snapshot.settings.databases { remember(database.name) } }

    /// It ends with its batch, for which nobody waits here. Who watches the authority passes it over from here on.
    private mutating func endMirror(
        _ database: String, _ engine: SwitchEngine, _ done: @escaping @Sendable (ControlOutcome) -> Void
    ) {
        engine.set(database, nil)
        guard let mirror = mirrors.removeValue(forKey: database) else { return done(.done) }
        _ = OwnThread(name: "godwit-mirror-end") {
            mirror.stop()
            done(.done)
        }
    }

    /// Both sides by where they are, without the names themselves: a password that is another, or a certificate, does
    /// not give OLD its writes back.
    private static func pair(_ settings: DatabaseSettings) -> String {
        digits([settings.old, settings.new].map { conninfo in
            guard let parsed = try? ConnectionString(parsing: conninfo) else { return conninfo }
            let host = parsed.hostaddr ?? parsed.host ?? ""
            return [host.lowercased(), "\(parsed.port ?? 5432)", parsed.dbname ?? settings.name]
                .joined(separator: "\u{0}")
        })
    }

    private static func digits(_ texts: [String]) -> String {
        Digest.sha256(Array(texts.joined(separator: "\u{0}").utf8)).hex
    }

    /// NEW has it for good, and the file still names both as they were. Earlier versions have stored the texts of the
    /// conninfos.
    func isFinished(_ settings: DatabaseSettings) -> Bool {
        let record = plan.record(of: settings.name)
        guard let finished = record.finishedPair else { return false }
        let pair = Self.pair(settings)
        return finished == pair || record.finishedPlaces == pair
            || finished == Self.digits([settings.old, settings.new])
    }

    /// Where a migration has moved the writes and its mirror was taken out of the file since, what the databases say
    /// counts. Nothing is changed there: the file may name other ones by now.
    mutating func ownUnmirrored(_ settings: DatabaseSettings) {
        guard let store = state.store, store.absence == nil, let all = try? store.migrations(),
            all.contains(where: { $0.database == settings.name && $0.state.isSwitched && !$0.state.isOver })
        else { return }
        let claims = AuthorityReader.claims(
            old: settings.controlOrOwn(.old), new: settings.controlOrOwn(.new), timeoutSeconds: 3)
        ownerships[settings.name] = Ownership.resolve(old: claims.old, new: claims.new)
    }

    /// The same. While the texts are those that were stored it is noted where both are: the next ones may be others.
    mutating func staysFinished(_ settings: DatabaseSettings) -> Bool {
        guard isFinished(settings) else { return false }
        plan.locateFinished(settings.name, at: Self.pair(settings))
        remember(settings.name)
        return true
    }

    /// What the process before this one goes by, which may be of an earlier version.
    mutating func takeOver(_ record: TrafficPlan.Record, of database: String) {
        plan.restore(record, for: database)
        guard let settings = snapshot.settings.database(named: database), staysFinished(settings) else {
            return remember(database)
        }
    }

    mutating func startMirrors(_ control: Mailbox<ControlMessage>, _ engine: SwitchEngine) {
        for settings in snapshot.settings.databases where settings.mirror.mode != .off {
            startMirror(settings, control, engine)
        }
    }

    /// From the authority to the other side.
    mutating func startMirror(
        _ settings: DatabaseSettings, _ control: Mailbox<ControlMessage>, _ engine: SwitchEngine
    ) {
        guard settings.mirror.mode != .off, !isFinished(settings), let horizon = horizons[settings.name] else { return }
        let ownership = ownerships[settings.name] ?? .initial
        let (old, new) = (settings.controlOrOwn(.old), settings.controlOrOwn(.new))
        let mirror = Mirror(
            database: settings.name, MirrorDirection(from: ownership.authority), oldConninfo: old, newConninfo: new,
            settings: MirrorOptions(settings.mirror), duty: state.duty, horizon: horizon, logger: logger,
            onSchemaChange: { control.post(.schemaChanged(database: settings.name)) })
        if let order = handed.mirrors.removeValue(forKey: settings.name) {
            mirror.orders.isPaused = order.isPaused
            if let rows = order.rowsPerSecond { mirror.orders.copyRowsPerSecond = rows }
        }
        mirror.start()
        mirrors[settings.name] = mirror
        engine.set(settings.name, SwitchEngine.Entry(
            old: old, new: new, ownership: ownership, horizon: horizon, orders: mirror.orders,
            bell: SwitchEngine.BatchBell(horizon), connectionsNeeded: settings.pool.size,
            mappings: TableMappings(settings.mirror), isSynchronous: settings.mirror.mode == .sync))
    }

    /// Behind a switch the mirror goes the other way.
    mutating func turnMirror(
        _ database: String, _ control: Mailbox<ControlMessage>, _ engine: SwitchEngine
    ) {
        guard let settings = snapshot.settings.databases.first(where: { $0.name == database }) else { return }
        let source = ownerships[database]?.authority ?? .old
        // More than one switch was missed, and the last one ended where we were: only the number is another. Or the
        // process that has our place mirrors, and one of ours would keep the lock from it.
        if hasLeft || mirrors[database]?.direction.source == source {
            if let ownership = ownerships[database] { engine.own(ownership, database) }
            return
        }
        mirrors[database]?.stop()
        mirrors[database] = nil
        startMirror(settings, control, engine)
    }
}
