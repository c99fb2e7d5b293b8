import Configuration
import Console
import Glibc
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis

/// The tables of SHOW, with PgBouncer's columns in its order; what is ours stands behind them.
package struct ConsoleTables {
    let snapshot: ProxySnapshot
    let reports: [WorkerReport]
    let events: [EventRecord]
    /// Wall clock minus monotonic clock, in nanoseconds, now.
    private let wallOffset: Int64

    package static let version = "0.1.0"

    init(snapshot: ProxySnapshot, reports: [WorkerReport], events: [EventRecord]) {
        self.snapshot = snapshot
        self.reports = reports
        self.events = events
        var wall = timespec()
        clock_gettime(CLOCK_REALTIME, &wall)
        let nanos = Int64(wall.tv_sec) * 1_000_000_000 + Int64(wall.tv_nsec)
        wallOffset = nanos - Int64(MonotonicInstant.now().nanoseconds)
    }

    func table(_ subject: ConsoleCommand.Subject) -> ConsoleReport {
        switch subject {
        case .pools: pools()
        case .clients: connections("C", reports.flatMap(\.clients))
        case .servers: connections("S", reports.flatMap(\.servers))
        case .databases: databases()
        case .stats: stats()
        case .lists: lists()
        case .config: config()
        case .version: versionTable()
        case .help: help()
        case .mirror: mirror()
        case .tables: tables()
        case .breakers: breakers()
        case .routes: routes()
        case .pins: pins()
        case .cohorts: cohorts()
        case .rules: rules()
        case .shapes: shapes()
        case .caches: caches()
        case .events: eventTable()
        }
    }

    // MARK: PgBouncer's

    private func pools() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("user"), .init("cl_active", .integer), .init("cl_waiting", .integer),
            .init("cl_active_cancel_req", .integer), .init("cl_waiting_cancel_req", .integer),
            .init("sv_active", .integer), .init("sv_active_cancel", .integer), .init("sv_being_canceled", .integer),
            .init("sv_idle", .integer), .init("sv_used", .integer), .init("sv_tested", .integer),
            .init("sv_login", .integer), .init("maxwait", .integer), .init("maxwait_us", .integer),
            .init("pool_mode"), .init("side"),
        ])
        var rows: [PoolKey: WorkerReport.PoolRow] = [:]
        for row in reports.flatMap(\.pools) {
            rows[row.key] = rows[row.key].map { $0.adding(row) } ?? row
        }
        for (_, row) in rows.sorted(by: { order($0.key) < order($1.key) }) {
            table.append([
                row.key.database, row.key.user, "\(row.clientsActive)", "\(row.clientsWaiting)", "0", "0",
                "\(row.serversActive)", "0", "\(row.serversCanceled)", "\(row.serversIdle)", "0", "0",
                "\(row.serversLogin)", "\(row.longestWaitMicros / 1_000_000)",
                "\(row.longestWaitMicros % 1_000_000)", row.mode.rawValue, row.key.side.description,
            ])
        }
        return table
    }

    private func order(_ key: PoolKey) -> (String, String, UInt8) { (key.database, key.user, key.side.rawValue) }

    private func connections(_ type: String, _ rows: [WorkerReport.ConnectionRow]) -> ConsoleReport {
        var table = ConsoleReport([
            .init("type"), .init("user"), .init("database"), .init("state"), .init("addr"), .init("port", .integer),
            .init("local_addr"), .init("local_port", .integer), .init("connect_time"), .init("request_time"),
            .init("wait", .integer), .init("wait_us", .integer), .init("close_needed", .integer), .init("ptr"),
            .init("link"), .init("remote_pid", .integer), .init("tls"), .init("application_name"), .init("side"),
        ])
        for row in rows.sorted(by: { $0.connectedAt < $1.connectedAt }) {
            table.append([
                type, row.user, row.database, row.state, row.address?.host ?? "", "\(row.address?.port ?? 0)",
                snapshot.settings.listen.address, "\(snapshot.settings.listen.port)", time(row.connectedAt),
                row.requestAt.map(time), "\(row.waitMicros / 1_000_000)", "\(row.waitMicros % 1_000_000)", "0",
                row.pointer, row.link, "\(row.remoteProcess)", row.tls, row.applicationName,
                row.side?.description ?? "",
            ])
        }
        return table
    }

    private func time(_ instant: MonotonicInstant) -> String {
        var seconds = time_t((Int64(instant.nanoseconds) + wallOffset) / 1_000_000_000)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func two(_ number: CInt) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday)) "
            + "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)) UTC"
    }

    /// In the order of the configuration, then what `*` has made.
    private var served: [DatabaseRoute] {
        let configured = snapshot.settings.databases.compactMap { snapshot.databases[$0.name] }
        let made = Set(reports.flatMap(\.databases).map { ExactName($0.name) })
            .filter { snapshot.databases[$0.text] == nil }.sorted { $0.text < $1.text }
        guard let wildcard = snapshot.wildcard else { return configured }
        return configured + made.map {
            wildcard.named($0.text, horizon: wildcard.horizon, stamps: wildcard.stamps, health: wildcard.health)
        }
    }

    /// One row per side: the name that clients use, and where it leads.
    private func databases() -> ConsoleReport {
        var table = ConsoleReport([
            .init("name"), .init("host"), .init("port", .integer), .init("database"), .init("force_user"),
            .init("pool_size", .integer), .init("min_pool_size", .integer), .init("reserve_pool", .integer),
            .init("pool_mode"), .init("max_connections", .integer), .init("current_connections", .integer),
            .init("paused", .integer), .init("disabled", .integer), .init("side"), .init("reads_percent", .numeric),
        ])
        for route in served {
            let pool = route.settings.pool
            for side in Side.allCases {
                let endpoint = route.endpoint(side)
                let open = reports.flatMap(\.databases).filter { $0.name.hasSameBytes(as: route.name) }
                    .reduce(0) { $0 + ($1.serverCounts[side] ?? 0) }
                let share = side == .new ? route.table.hundredths : 10_000 - route.table.hundredths
                table.append([
                    route.name, endpoint.host, "\(endpoint.port)", endpoint.database, endpoint.user,
                    "\(pool.size)", "\(pool.minPoolSize)", "\(pool.reservePoolSize)", pool.mode.rawValue,
                    "\(pool.maxDBConnections)", "\(open)", "0", "0", side.description,
                    Self.percent(share),
                ])
            }
        }
        return table
    }

    package static func percent(_ hundredths: Int) -> String {
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    }

    private func stats() -> ConsoleReport {
        let names = ["xact_count", "query_count", "received", "sent", "xact_time", "query_time", "wait_time"]
        let averages = ["xact_count", "query_count", "recv", "sent", "xact_time", "query_time", "wait_time"]
        var table = ConsoleReport(
            [.init("database")] + names.map { .init("total_\($0)", .bigint) }
                + averages.map { .init("avg_\($0)", .bigint) })
        for settings in served.map(\.settings) {
            let rows = reports.flatMap(\.databases).filter { $0.name.hasSameBytes(as: settings.name) }
            let total = rows.reduce(DatabaseCounters()) { $0 + $1.counters }
            let average = rows.reduce(DatabaseCounters()) { $0 + $1.averages }
            table.append([settings.name] + figures(total) + figures(average))
        }
        return table
    }

    private func figures(_ counters: DatabaseCounters) -> [String] {
        [
            counters.transactions, counters.queries, counters.received, counters.sent, counters.transactionMicros,
            counters.queryMicros, counters.waitMicros,
        ].map { "\($0)" }
    }

    private func lists() -> ConsoleReport {
        var table = ConsoleReport([.init("list"), .init("items", .integer)])
        let servers = reports.flatMap(\.servers)
        let users = Set(reports.flatMap(\.clients).map { ExactName($0.user) })
        let login = reports.reduce(0) { $0 + $1.clientsInLogin }
        for (name, items) in [
            ("databases", served.count), ("users", users.count),
            ("pools", Set(reports.flatMap(\.pools).map(\.key)).count), ("free_clients", 0),
            ("used_clients", reports.reduce(0) { $0 + $1.clients.count }), ("login_clients", login),
            ("free_servers", servers.count { $0.state == "idle" }),
            ("used_servers", servers.count { $0.state != "idle" }), ("dns_names", 0), ("dns_zones", 0),
            ("dns_queries", 0), ("dns_pending", 0),
        ] { table.append([name, "\(items)"]) }
        return table
    }

    private func config() -> ConsoleReport {
        var table = ConsoleReport([.init("key"), .init("value"), .init("default"), .init("changeable")])
        let defaults = Dictionary(
            ReloadPolicy.flatten(Settings()).map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
        for entry in ReloadPolicy.flatten(snapshot.settings) {
            let isReloadable = ReloadPolicy.effect(of: entry.key) == .reload
            table.append([
                entry.key, ReloadPolicy.masked(entry.value, entry.key), defaults[entry.key] ?? "",
                isReloadable ? "yes" : "no",
            ])
        }
        return table
    }

    private func versionTable() -> ConsoleReport {
        var table = ConsoleReport([.init("version")])
        table.append(["Godwit \(Self.version)"])
        return table
    }

    private func help() -> ConsoleReport {
        var table = ConsoleReport([.init("command"), .init("meaning")])
        for (command, meaning) in [
            ("SHOW POOLS", "clients and servers per database, user and side"),
            ("SHOW CLIENTS", "each client connection"), ("SHOW SERVERS", "each server connection"),
            ("SHOW DATABASES", "where each database leads, and its share of reads on NEW"),
            ("SHOW STATS", "transactions, queries, bytes and times per database"),
            ("SHOW ROUTES", "units per side, kind and reason of the decision"),
            ("SHOW MIRROR", "how far NEW follows OLD"), ("SHOW TABLES", "how far the copy of each table is"),
            ("SHOW BREAKERS", "health of both sides: what is given up, since when and why"),
            ("SHOW COHORTS", "groups of users, their shares and units"), ("SHOW RULES", "rules and the units they met"),
            ("SHOW SHAPES", "statement shapes on both sides, and which NEW may answer"),
            ("SHOW CACHES", "hits of the statement and key caches per reactor thread"),
            ("SHOW EVENTS", "what Godwit has decided by itself, and reloads; latest first"),
            ("SHOW PINS", "clients that keep their server, and why"), ("SHOW LISTS", "counts"),
            ("SHOW CONFIG", "every setting"), ("SHOW VERSION", "this program"), ("SHOW HELP", "this list"),
            ("RELOAD", "read the configuration file again; all or nothing"),
            ("READS <database> <percent>", "share of users whose reads go to NEW, until RELOAD; ends a roll-back"),
            ("FORCE <database> OLD|NEW|AUTO", "where reads go, whatever the breaker finds; AUTO: it decides"),
            ("MIRROR PAUSE <database>", "NEW stands still; the journal on OLD keeps what changes"),
            ("MIRROR RESUME <database>", "NEW follows again"),
            ("MIRROR THROTTLE <database> <rows>", "rows a second of the first copy; 0: any"),
        ] { table.append([command, meaning]) }
        return table
    }

    // MARK: ours

    private func mirror() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("state"), .init("reason"), .init("batches", .bigint), .init("keys", .bigint),
            .init("rows_copied", .bigint), .init("rows_estimated", .bigint), .init("lag_p50_us", .bigint),
            .init("lag_p99_us", .bigint), .init("behind_ms", .bigint), .init("tables", .integer),
            .init("tables_copied", .integer), .init("readable"), .init("eta_s", .bigint), .init("copy_rests"),
            .init("rogue_keys", .bigint), .init("not_mirrored"), .init("sync"), .init("sync_commits", .bigint),
            .init("sync_late", .bigint),
        ])
        let now = MonotonicInstant.now()
        for settings in snapshot.settings.databases {
            guard let route = snapshot.databases[settings.name] else { continue }
            let report = route.horizon.report
            let applied = MonotonicInstant(nanoseconds: report.lastAppliedNanos)
            let behind = report.lastAppliedNanos == 0 ? nil : "\(now.microseconds(since: applied) / 1000)"
            table.append([
                settings.name, report.state.rawValue, report.reason, "\(report.batches)", "\(report.keys)",
                "\(report.rowsCopied)", "\(report.tables.reduce(0) { $0 + $1.rowsEstimated })",
                "\(report.lagMicrosP50)", "\(report.lagMicrosP99)", behind, "\(report.tables.count)",
                "\(report.tables.count { $0.isCopied })", route.horizon.readable ? "yes" : "no",
                report.secondsLeft.map { "\($0)" }, report.copyHeld, "\(report.rogueKeys)",
                report.uncaptured.joined(separator: ", "), syncState(route), "\(route.horizon.syncCounts.inTime)",
                "\(route.horizon.syncCounts.late)",
            ])
        }
        return table
    }

    private func syncState(_ route: DatabaseRoute) -> String {
        guard route.settings.mirror.mode == .sync else { return "off" }
        return route.horizon.isSynchronous ? "on" : "fallen back"
    }

    /// How far the first copy of each table is.
    private func tables() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("table"), .init("copied"), .init("rows_copied", .bigint),
            .init("rows_estimated", .bigint), .init("bytes_copied", .bigint), .init("rows_per_s", .bigint),
            .init("eta_s", .bigint),
        ])
        for settings in snapshot.settings.databases {
            guard let route = snapshot.databases[settings.name] else { continue }
            for row in route.horizon.report.tables {
                table.append([
                    settings.name, row.name, row.isCopied ? "yes" : "no", "\(row.rowsCopied)", "\(row.rowsEstimated)",
                    "\(row.bytesCopied)", "\(row.rowsPerSecond)", row.secondsLeft.map { "\($0)" },
                ])
            }
        }
        return table
    }

    private func routes() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("side"), .init("kind"), .init("reason"), .init("units", .bigint),
        ])
        var sums: [ExactName: [RouteKey: UInt64]] = [:]
        for row in reports.flatMap(\.databases) {
            for (key, units) in row.routes { sums[ExactName(row.name), default: [:]][key, default: 0] += units }
        }
        for (name, counts) in sums.sorted(by: { $0.key.text < $1.key.text }) {
            let ordered = counts.sorted {
                ($0.key.side.rawValue, $0.key.reason.rawValue) < ($1.key.side.rawValue, $1.key.reason.rawValue)
            }
            for (key, units) in ordered {
                table.append([
                    name.text, key.side.description, key.isRead ? "read" : "other", key.reason.description, "\(units)",
                ])
            }
        }
        return table
    }

    private func pins() -> ConsoleReport {
        var table = ConsoleReport([
            .init("database"), .init("user"), .init("ptr"), .init("link"), .init("reason"),
            .init("seconds", .bigint), .init("application_name"),
        ])
        for row in reports.flatMap(\.clients) {
            guard let reason = row.pin else { continue }
            table.append([
                row.database, row.user, row.pointer, row.link, reason, "\(row.pinnedSeconds)", row.applicationName,
            ])
        }
        return table
    }
}
