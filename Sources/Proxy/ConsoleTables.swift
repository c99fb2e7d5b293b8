import Capture
import Configuration
import Console
import Glibc
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis

/// The tables of SHOW, with PgBouncer's columns in its order; what is ours stands behind them. Immutable.
package struct ConsoleTables {
    let snapshot: ProxySnapshot
    let gate: TrafficGate
    let reports: [WorkerReport]
    let events: [EventRecord]
    let captures: [CaptureSession]
    /// Tables are PgBouncer's and nothing else, with the sides added up, so that its tools meet nothing new.
    let speaksPgBouncer: Bool
    /// Wall clock minus monotonic clock, in nanoseconds, now.
    let wallOffset: Int64

    package static let version = "0.1.0"

    init(
        snapshot: ProxySnapshot, gate: TrafficGate, reports: [WorkerReport], events: [EventRecord],
        captures: [CaptureSession] = [], speaksPgBouncer: Bool
    ) {
        self.snapshot = snapshot
        self.gate = gate
        self.reports = reports
        self.speaksPgBouncer = speaksPgBouncer
        self.events = events
        self.captures = captures
        wallOffset = WallClock.nanos() - Int64(MonotonicInstant.now().nanoseconds)
    }

    func table(_ subject: ConsoleCommand.Subject) -> ConsoleReport {
        switch subject {
        case .pools: pools()
        case .clients: connections(reports.flatMap(\.clients))
        case .servers: connections(reports.flatMap(\.servers))
        case .databases: databases()
        case .stats: stats()
        case .statsTotals: statsTotals()
        case .statsAverages: statsAverages()
        case .totals: totals()
        case .users: users()
        case .mem: memory()
        case .fds: descriptors()
        case .sockets: sockets(reports.flatMap { $0.clients + $0.servers })
        case .activeSockets: sockets(reports.flatMap { $0.clients + $0.servers }.filter(\.isActive))
        case .dnsHosts: hosts()
        case .dnsZones: ConsoleReport([.init("zonename"), .init("serial", .bigint), .init("count", .integer)])
        case .state: state()
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
        case .authority: authority()
        case .rules: rules()
        case .shapes: shapes()
        case .caches: caches()
        case .events: eventTable()
        case .capture: captureTable()
        case .shadow: shadow()
        case .shadowShapes: shadowShapes()
        case .migrations: migrations()
        }
    }

    /// Of all threads: in one go, for there may be thousands of databases, and a thread that serves clients does it.
    var rowsByDatabase: NameTable<[WorkerReport.DatabaseRow]> {
        var rows = NameTable<[WorkerReport.DatabaseRow]>()
        for report in reports { for row in report.databases { rows[row.name] = (rows[row.name] ?? []) + [row] } }
        return rows
    }

    package static func percent(_ hundredths: Int) -> String {
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    }

    /// By PgBouncer's its tools choose the columns that they ask for, or give up.
    private func versionTable() -> ConsoleReport {
        var table = ConsoleReport([.init("version")])
        table.append([speaksPgBouncer ? "PgBouncer 1.18.0" : "Godwit \(Self.version)"])
        return table
    }

    private func help() -> ConsoleReport {
        var table = ConsoleReport([.init("command"), .init("meaning")])
        for (command, meaning) in ConsoleHelp.lines { table.append([command, meaning]) }
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
            for (key, units) in row.counts.routes { sums[ExactName(row.name), default: [:]][key, default: 0] += units }
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
