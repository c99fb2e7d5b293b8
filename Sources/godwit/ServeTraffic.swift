import Configuration
import ControlPlane
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

    init(_ settings: StateSettings) throws(StateStore.Failure) {
        store = settings.path.isEmpty ? nil : try StateStore(path: settings.path)
        memory = try TrafficMemory(store)
    }

    /// Waits until all that was given is written.
    func flush() { store?.flush() }
}

/// What migrations order, and mirrors that come and go. On the control thread.
extension ServeAssembly {
    mutating func take(
        _ order: MigrationTraffic, _ server: ProxyServer, _ done: @escaping @Sendable (ControlOutcome) -> Void
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
            if mirrors[database] == nil { startMirror(settings, server.control) }
            return done(.done)
        case .mirror(let database, false):
            guard let mirror = mirrors.removeValue(forKey: database) else { return done(.done) }
            // It ends with its batch, for which nobody waits here.
            _ = OwnThread(name: "godwit-mirror-end") {
                mirror.stop()
                done(.done)
            }
            return
        }
        apply(snapshot.settings, server)
        rememberAll()
        done(.done)
    }

    /// What is in force outlives the process.
    func remember(_ database: String) { state.memory.note(plan.record(of: database), of: database) }

    func rememberAll() { for database in snapshot.settings.databases { remember(database.name) } }

    mutating func startMirrors(_ control: Mailbox<ControlMessage>) {
        for settings in snapshot.settings.databases where settings.mirror.mode != .off {
            startMirror(settings, control)
        }
    }

    private mutating func startMirror(_ settings: DatabaseSettings, _ control: Mailbox<ControlMessage>) {
        guard let horizon = horizons[settings.name] else { return }
        let mirror = Mirror(
            database: settings.name, oldConninfo: settings.controlConninfo(.old),
            newConninfo: settings.controlConninfo(.new), settings: MirrorOptions(settings.mirror),
            horizon: horizon, logger: logger,
            onSchemaChange: { control.post(.schemaChanged(database: settings.name)) })
        mirror.start()
        mirrors[settings.name] = mirror
    }
}
