import Configuration
import Primitives
import Routing
import Synchronization

/// The databases that the entry `*` has made on demand, shared by all reactors: each has one table of stamps,
/// whichever thread its clients are on. Any thread; its lock is taken when a thread meets a name for the first
/// time, at reloads, and when the name is forgotten.
package final class AutoDatabases: Sendable {
    enum Outcome {
        case route(DatabaseRoute)
        /// As many names as may be are in use.
        case full
    }

    private struct Entry {
        var route: DatabaseRoute
        var template: DatabaseRoute
        /// Reactors that have it.
        var holders: Int
    }

    private let entries = Mutex(NameTable<Entry>())
    private let bound: Int

    package init(bound: Int = SettingsLimits.autoDatabasesMax) { self.bound = bound }

    /// Counts a reactor in; paired with `leave`.
    func enter(_ name: String, _ template: DatabaseRoute) -> Outcome {
        entries.withLock { entries in
            if entries[name] == nil {
                if entries.count >= bound { return .full }
                entries[name] = Entry(
                    route: template.named(
                        // None of them has a mirror, and what withholds its reads withholds those of all.
                        name, horizon: template.horizon, stamps: ReadStamps(),
                        sequenceReaders: SequenceReaders(),
                        health: DatabaseHealth(template.settings.breaker, seed: .random(in: 0 ... .max))),
                    template: template, holders: 0)
            }
            Self.refresh(&entries, name, template)
            entries[name]?.holders += 1
            guard let entry = entries[name] else { preconditionFailure("made above") }
            return .route(entry.route)
        }
    }

    /// As the entry `*` is now, for a reactor that has it.
    func route(_ name: String, _ template: DatabaseRoute) -> DatabaseRoute? {
        entries.withLock { entries in
            Self.refresh(&entries, name, template)
            return entries[name]?.route
        }
    }

    private static func refresh(_ entries: inout NameTable<Entry>, _ name: String, _ template: DatabaseRoute) {
        guard let entry = entries[name], entry.template !== template else { return }
        entries[name]?.template = template
        entries[name]?.route = template.named(name, sharing: entry.route)
    }

    func leave(_ name: String) {
        entries.withLock { entries in
            guard let entry = entries[name] else { return }
            if entry.holders > 1 { entries[name]?.holders -= 1 } else { entries[name] = nil }
        }
    }

    /// nil: there is none of this name now.
    package func health(of name: String) -> DatabaseHealth? { entries.withLock { $0[name]?.route.health } }

    /// Of all that there are now.
    package var healths: [(name: String, value: DatabaseHealth)] {
        entries.withLock { $0.mapValues(\.route.health).pairs }
    }

    var count: Int { entries.withLock { $0.count } }
}

extension DatabaseRoute {
    /// With what threads share as the other route has it.
    func named(_ name: String, sharing other: DatabaseRoute) -> DatabaseRoute {
        named(
            name, horizon: other.horizon, stamps: other.stamps, sequenceReaders: other.sequenceReaders,
            health: other.health)
    }

    /// What `*` makes of a name: where the conninfo names no database it is the client's.
    func named(
        _ name: String, horizon: Horizon, stamps: ReadStamps, sequenceReaders: SequenceReaders, health: DatabaseHealth
    ) -> DatabaseRoute {
        var settings = settings
        settings.name = name
        return DatabaseRoute(
            settings: settings, old: old.named(name), new: new.named(name), facts: facts, horizon: horizon,
            stamps: stamps, sequenceReaders: sequenceReaders, health: health, lookUp: lookUp?.named(name),
            // Lists of keys are long, and names many.
            table: table)
    }
}

extension ServerEndpoint {
    fileprivate func named(_ name: String) -> ServerEndpoint {
        var endpoint = self
        if endpoint.database == DatabaseSettings.wildcard { endpoint.database = name }
        return endpoint
    }
}

extension SecretLookUp {
    func named(_ name: String) -> SecretLookUp {
        if database != DatabaseSettings.wildcard { return self }
        var quoted = ""
        for scalar in name.unicodeScalars {
            if scalar == "'" || scalar == "\\" { quoted.append("\\") }
            quoted.unicodeScalars.append(scalar)
        }
        return SecretLookUp(conninfo: conninfo + " dbname='\(quoted)'", database: name, query: query)
    }
}

extension Worker {
    enum FoundDatabase {
        case state(DatabaseState)
        case unknown
        case tooMany
    }

    /// The database of this name, made by `*` where it has no entry of its own.
    func database(named name: String) -> FoundDatabase {
        if let known = databases[name] { return .state(known) }
        guard let template = snapshot.wildcard, (1...63).contains(name.utf8.count) else { return .unknown }
        switch autoDatabases.enter(name, template) {
        case .full: return .tooMany
        case .route(let route):
            let state = add(route)
            state.isAuto = true
            return .state(state)
        }
    }

    /// Databases of `*` that nobody has used for long, and those that turned out not to be there.
    func forgetAutoDatabases() {
        let limit = snapshot.settings.limits.autodbIdleTimeoutSeconds
        if snapshot.wildcard == nil { return }
        let withPools = Set(pools.values.map { ObjectIdentifier($0.database) })
        for (name, state) in databases.pairs where state.isAuto {
            if state.clientCount > 0 || withPools.contains(ObjectIdentifier(state)) {
                state.unusedSince = nil
                continue
            }
            let since = state.unusedSince ?? now
            state.unusedSince = since
            let isOver = limit > 0 && Double(now.nanoseconds(since: since)) >= limit * 1e9
            if isOver || state.greetings.isEmpty {
                databases[name] = nil
                autoDatabases.leave(name)
            }
        }
    }
}
