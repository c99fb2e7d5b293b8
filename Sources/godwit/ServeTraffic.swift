import Configuration
import ControlPlane
import Digests
import LibPQ
import Migration
import Mirroring
import Primitives
import Proxy

/// What outlives the process, and what consoles see of it. Immutable, any thread.
struct ServeState: Sendable {
    /// nil: `state.path` is empty, and nothing outlives the process.
    let store: StateStore?
    let memory: TrafficMemory
    let board = MigrationBoard()
    private let sequenceUsers: [(database: String, user: String)]

    init(_ settings: StateSettings) throws(StateStore.Failure) {
        store = settings.path.isEmpty ? nil : try StateStore(path: settings.path)
        memory = try TrafficMemory(store)
        sequenceUsers = try store?.sequenceReaders() ?? []
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

    /// Both sides, as the file names them, without what they are named by.
    private static func pair(_ settings: DatabaseSettings) -> String {
        Digest.sha256(Array("\(settings.old)\u{0}\(settings.new)".utf8)).map { byte in
            (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }.joined()
    }

    /// NEW has it for good, and the file still names both as they were.
    func isFinished(_ settings: DatabaseSettings) -> Bool {
        plan.record(of: settings.name).finishedPair == Self.pair(settings)
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
            settings: MirrorOptions(settings.mirror), horizon: horizon, logger: logger,
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
            mappings: TableMappings(settings.mirror)))
    }
}
