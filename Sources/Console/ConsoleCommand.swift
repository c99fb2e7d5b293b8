/// One command of the console (the database `godwit`), as PgBouncer's users know them. Immutable.
package enum ConsoleCommand: Equatable, Sendable {
    package enum Subject: String, CaseIterable, Sendable {
        case pools, clients, servers, databases, stats, lists, config, version, help, mirror, tables, breakers, routes,
            pins, cohorts, rules, shapes, caches, users, mem, fds, sockets, state, totals,
            events, authority, migrations, capture, shadow
        case shadowShapes = "shadow_shapes"
        case statsTotals = "stats_totals"
        case statsAverages = "stats_averages"
        case activeSockets = "active_sockets"
        case dnsHosts = "dns_hosts"
        case dnsZones = "dns_zones"
    }

    case show(Subject)
    /// A setting of PostgreSQL's that drivers ask for.
    case showSetting(name: String, value: String)
    case reload
    /// SET <key> = <value>, of the configuration.
    case set(key: String, value: String)
    /// READS <database> <percent>; the share in hundredths of a percent.
    case reads(database: String, hundredths: Int)
    /// SHADOW <database> <percent>; of its reads, in hundredths of a percent.
    case shadow(database: String, hundredths: Int)
    /// MIRROR PAUSE|RESUME|THROTTLE <database>.
    case mirror(database: String, MirrorOrder)
    case gate(GateCommand)
    /// By what SHOW CLIENTS has as its `id` or `ptr`.
    case killClient(String)
    /// FORCE <database> OLD|NEW|AUTO.
    case force(database: String, ForceOrder)
    case capture(database: String, CaptureCommand)
    /// CUTOVER or ROLLBACK <database>.
    case switchOver(SwitchCommand)
    /// Nothing but blanks and semicolons.
    case empty
    /// What drivers and tools send on connecting; the console has no session settings and no transactions.
    case ignored(tag: String)

    /// What a user of `stats_users` may do.
    package var isReadOnly: Bool {
        switch self {
        // Of SHOW FDS even PgBouncer's watchers are kept away.
        case .show(.fds): false
        case .show, .showSetting, .empty, .ignored: true
        case .reload, .set, .reads, .shadow, .mirror, .force, .gate, .killClient, .switchOver, .capture: false
        }
    }

    /// What CommandComplete says.
    package var tag: String {
        switch self {
        case .show, .showSetting: "SHOW"
        case .reload: "RELOAD"
        case .set: "SET"
        case .reads: "READS"
        case .shadow: "SHADOW"
        case .mirror: "MIRROR"
        case .force: "FORCE"
        case .killClient: "KILL_CLIENT"
        case .capture: "CAPTURE"
        case .switchOver(let command): command.toNew ? "CUTOVER" : "ROLLBACK"
        case .empty: ""
        case .ignored(let tag): tag
        case .gate(let command): command.tag
        }
    }
}

extension GateCommand {
    package var tag: String {
        switch self {
        case .pause: "PAUSE"
        case .resume: "RESUME"
        case .disable: "DISABLE"
        case .enable: "ENABLE"
        case .reconnect: "RECONNECT"
        case .kill: "KILL"
        case .suspend: "SUSPEND"
        case .waitClose: "WAIT_CLOSE"
        case .shutdown: "SHUTDOWN"
        case .barrier: ""
        case .holdForSwitch: "the hold of a switch"
        case .holdForChange: "the hold for a DDL"
        case .letGo, .warm: ""
        }
    }
}

/// Which side is to take the writes, and how. Immutable, any thread.
package struct SwitchCommand: Equatable, Sendable {
    package static let deadlineMillisMax = 60_000

    package var toNew: Bool
    package var database: String
    /// Only tell what would stand in the way.
    package var isDryRun = false
    /// nil: as usual.
    package var deadlineMillis: Int?
    /// The operator has compared the sides, or does without.
    package var waivesVerify = false
    /// Sessions that are bound to their server are disconnected.
    package var endsPinned = false

    package init(toNew: Bool, database: String) {
        self.toNew = toNew
        self.database = database
    }

    /// What it answers with.
    package static let columns: [ConsoleReport.Column] = [
        .init("kind"), .init("name"), .init("value"), .init("threshold"), .init("ok"), .init("advice"),
    ]
}

/// What an operator orders of a mirror. Immutable, any thread.
package enum MirrorOrder: Equatable, Sendable {
    case pause, resume
    /// Of the first copy; 0: any.
    case throttle(rowsPerSecond: Int)
}

/// Where reads go that have both sides to go to, whatever the breaker finds; `auto`: the breaker decides.
package enum ForceOrder: String, Equatable, Sendable, CaseIterable { case old, new, auto }

extension ConsoleCommand.Subject {
    /// `POOLS|CLIENTS|…`
    package static var usage: String { allCases.map { $0.rawValue.uppercased() }.joined(separator: "|") }
}
