import Configuration
import ControlPlane
import Glibc
import LibPQ
import Migration
import Mirroring
import Primitives

/// What takes time in a migration, each on a thread of its own. No state, any thread.
enum MigrationWork {
    /// - Returns: nil when it is done; else why not.
    static func install(_ manifest: MigrationManifest, _ database: DatabaseSettings) -> String? {
        do {
            let old = try connect(database, .old), new = try connect(database, .new)
            let mappings = TableMappings(database.mirror), bulk = database.mirror.bulkTables
            let result = try Preflight.check(
                .forward, old: old, new: new, mappings: mappings, bulk: bulk,
                bulkMayCome: database.mirror.ddl == .barrier)
            let blocking = result.blocking.map(\.description)
            guard blocking.isEmpty else {
                let more = blocking.count > 3 ? " (and \(blocking.count - 3) more: godwit check)" : ""
                return blocking.prefix(3).joined(separator: " ") + more
            }
            var tables = result.tables
            if !manifest.tables.isEmpty {
                let known = Set(tables.map { "\($0.name.schema).\($0.name.name)" })
                if let missing = manifest.tables.first(where: { !known.contains($0) }) {
                    return "scope.tables names \(missing), which OLD does not have"
                }
                let wanted = Set(manifest.tables)
                tables = tables.filter { wanted.contains("\($0.name.schema).\($0.name.name)") }
            }
            _ = try CaptureInstaller().install(
                .forward, old: old, new: new, tables: tables, mappings: mappings, bulk: bulk)
            return nil
        } catch {
            return "\(error)"
        }
    }

    static func remove(_ database: DatabaseSettings) -> String? {
        do {
            let old = try connect(database, .old), new = try connect(database, .new)
            try CaptureInstaller().remove(old: old, new: new)
            return nil
        } catch {
            return "\(error)"
        }
    }

    /// Longer than writes are held by either, as a rule.
    private static let aloneSeconds = 30.0

    /// No switch begins meanwhile, and none is under way: one that ended behind the word that NEW has all for good
    /// would have put the writes elsewhere, and nothing in the databases would say so any more.
    ///
    /// What is under way is waited for: a client's DDL is no reason to pause a migration, and wake somebody.
    static func alone(_ engine: SwitchEngine, _ database: String, _ body: () -> String?) -> String? {
        guard engine.begin(database, patienceSeconds: aloneSeconds) else {
            return "the writes are just being moved, or DDL runs on both sides"
        }
        defer { engine.end(database) }
        return body()
    }

    // MARK: the switch

    /// Seconds after the start for mirrors and authorities to be known.
    private static let startSeconds = 30.0
    private static let settleMicros: UInt32 = 200_000

    static func order(
        _ verb: SwitchOrder.Verb, _ machine: MigrationMachine, _ verify: MigrationReadings.Verify?,
        isDryRun: Bool = false
    ) -> SwitchOrder {
        let manifest = machine.manifest
        var order = SwitchOrder(verb, manifest.database)
        order.isDryRun = isDryRun
        order.deadlineMillis = manifest.deadlineMillis
        order.endsPinned = manifest.pinned == .end
        order.verifiedSecondsMax = manifest.gates.verifyAgeSeconds
        if verb == .rollback || machine.state.isForced {
            // Whoever goes back does so because something is wrong.
            order.evidence = .waived
        } else if let verify {
            order.evidence = .verified(
                secondsAgo: max(0, Double(StateStore.now() - verify.at) / 1e6), isEqual: verify.outcome == .equal)
        }
        return order
    }

    static func rails(_ engine: SwitchEngine, _ order: SwitchOrder) -> [MigrationReadings.GuardRail] {
        engine.perform(order).rails.map {
            .init(name: $0.name, value: $0.value, threshold: $0.threshold, holds: $0.isMet, advice: $0.advice)
        }
    }

    /// May be ordered again after a crash: what was done then is found, and not done twice.
    ///
    /// - Parameter mayGoOn: false: it is not made, unless it has been.
    static func perform(
        _ engine: SwitchEngine, _ order: SwitchOrder, mayGoOn: @escaping @Sendable () -> Bool
    ) -> String? {
        if isThere(engine, order) { return nil }
        let report = engine.perform(order, mayGoOn: mayGoOn)
        return report.isDone || isThere(engine, order) ? nil : report.summary
    }

    /// What has come of a switch that another process has begun: it may have ended a moment ago.
    static func settle(_ engine: SwitchEngine, _ order: SwitchOrder, _ database: DatabaseSettings) -> String? {
        let end = Deadline.now().adding(seconds: startSeconds)
        var owner = Ownership.initial
        while true {
            owner = SwitchRecovery.settle(old: database.controlOrOwn(.old), new: database.controlOrOwn(.new)).ownership
            if owner.standing == .settled || end.hasPassed { break }
            // A side that refuses connections does so at once, and the other one makes a session for each question.
            usleep(settleMicros)
        }
        // This process follows what the databases say.
        while engine.ownership(of: order.database)?.authority != owner.authority, !end.hasPassed { usleep(20_000) }
        return isThere(engine, order)
            ? nil : "Godwit ended before it was decided, and the writes are where they were: resume, and advance again"
    }

    private static func isThere(_ engine: SwitchEngine, _ order: SwitchOrder) -> Bool {
        let end = Deadline.now().adding(seconds: startSeconds)
        while engine.ownership(of: order.database) == nil, !end.hasPassed { usleep(20_000) }
        return engine.ownership(of: order.database)?.authority == order.verb.authority
    }

    /// What must be known before nothing else tells it any more is on the disk.
    static func isStored(_ store: StateStore) -> String? {
        store.flush()
        return store.health.failure.map { "the state cannot be stored: \($0)" }
    }

    private static func connect(_ database: DatabaseSettings, _ side: Side) throws -> Connection {
        try Connection.open(try database.controlTarget(side), purpose: "prepare")
    }
}
