import Configuration
import Console
import Glibc
import Pooling
import Primitives
import Routing
import SQLAnalysis
import Shadowing

/// `GET /metrics`: all threads' figures in one text. Immutable, any thread.
package struct ProxyMetrics {
    /// Pools that are told one by one; the rest are only counted, so that no scrape is larger than a few megabytes.
    package static let poolsMax = 2000
    /// Tables of a mirror that are told one by one.
    package static let tablesMax = 2000

    private let figures: ProxyFigures
    private let databases: [ThreadFigures.Database]
    private let mirrors: [(route: DatabaseRoute, report: MirrorReport)]
    let comparisons: [(route: DatabaseRoute, figures: ShadowBook.Figures)]
    private let now = MonotonicInstant.now()

    package init(_ figures: ProxyFigures) {
        self.figures = figures
        databases = Self.summed(figures.threads.flatMap(\.databases))
        comparisons = figures.snapshot.databases.values.sorted { $0.name < $1.name }
            .compactMap { route in route.shadow.map { (route, $0.figures) } }
        mirrors = figures.snapshot.settings.databases.filter { $0.mirror.mode != .off }
            .compactMap { figures.snapshot.databases[$0.name] }.map { ($0, $0.horizon.report) }
    }

    /// Over the threads, which share their breakers.
    private static func summed(_ rows: [ThreadFigures.Database]) -> [ThreadFigures.Database] {
        var sums: [ExactName: ThreadFigures.Database] = [:]
        for row in rows {
            let name = ExactName(row.name)
            if sums[name] == nil { sums[name] = row } else { sums[name]?.add(row) }
        }
        return sums.values.sorted { $0.name < $1.name }
    }

    /// In Prometheus' text format.
    package func text() -> [UInt8] {
        var writer = ExpositionWriter()
        process(&writer)
        clients(&writer)
        pools(&writer)
        traffic(&writer)
        routing(&writer)
        caches(&writer)
        mirror(&writer)
        shadow(&writer)
        guideNames(&writer)
        return writer.bytes
    }

    // MARK: the process

    private func process(_ writer: inout ExpositionWriter) {
        writer.begin("godwit_build_info", .gauge, "Always 1; the labels say which build this is.")
        writer.sample([("version", ConsoleTables.version)], UInt64(1))
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        let cpu = [usage.ru_utime, usage.ru_stime].reduce(0) { $0 + Double($1.tv_sec) + Double($1.tv_usec) / 1e6 }
        writer.begin("process_cpu_seconds_total", .counter, "CPU time of this process, user and system.")
        writer.sample([], cpu)
        writer.begin("process_resident_memory_bytes", .gauge, "Resident memory of this process.")
        writer.sample([], Self.residentBytes())
        writer.begin("godwit_threads", .gauge, "Reactor threads.")
        writer.sample([], UInt64(figures.threads.count))
        writer.begin("godwit_events_total", .counter, "Decisions by kind, as SHOW EVENTS lists them.")
        for kind in EventRecord.Kind.allCases {
            writer.sample([("kind", kind.rawValue)], figures.events[kind] ?? 0)
        }
        writer.begin("godwit_draining", .gauge, "1 while no client is taken, for Godwit ends.")
        writer.sample([], UInt64(figures.threads.contains(where: \.isDraining) ? 1 : 0))
    }

    /// Open for as long as the process lives: to open it costs more than to read it.
    private static let memoryFile = open("/proc/self/statm", O_RDONLY | O_CLOEXEC)

    private static func residentBytes() -> UInt64 {
        var bytes = [UInt8](repeating: 0, count: 128)
        let count = pread(memoryFile, &bytes, bytes.count, 0)
        let words = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split(separator: " ")
        guard words.count > 1, let pages = UInt64(words[1]) else { return 0 }
        return pages * UInt64(sysconf(CInt(_SC_PAGESIZE)))
    }

    private func clients(_ writer: inout ExpositionWriter) {
        let all = figures.threads.reduce(0) { $0 + $1.clients }
        let inLogin = figures.threads.reduce(0) { $0 + $1.clientsInLogin }
        writer.begin("godwit_clients", .gauge, "Client connections.")
        writer.sample([("state", "login")], UInt64(inLogin))
        writer.sample([("state", "ready")], UInt64(all - inLogin))
        writer.begin("godwit_clients_max", .gauge, "listen.clients_max.")
        writer.sample([], UInt64(figures.snapshot.settings.listen.clientsMax))
        writer.begin("godwit_pinned_clients", .gauge, "Clients that keep their server, by reason.")
        for row in databases {
            for (reason, count) in row.pins.sorted(by: { $0.key < $1.key }) {
                writer.sample([("database", row.name), ("reason", reason)], UInt64(count))
            }
        }
    }

    // MARK: pools

    private func pools(_ writer: inout ExpositionWriter) {
        var sums: [PoolKey: WorkerReport.PoolRow] = [:]
        for row in figures.threads.flatMap(\.pools) { sums[row.key] = sums[row.key].map { $0.adding(row) } ?? row }
        let sorted = sums.values.sorted { Self.order($0) < Self.order($1) }
        let told = sorted.prefix(Self.poolsMax).map { row in
            (row, [("database", row.key.database), ("user", row.key.user), ("side", row.key.side.description)])
        }
        writer.begin("godwit_pools_omitted", .gauge, "Pools beyond \(Self.poolsMax), which are not told one by one.")
        writer.sample([], UInt64(sorted.count - told.count))
        writer.begin("godwit_pool_clients", .gauge, "Clients of a pool: active, and waiting for a server.")
        for (row, labels) in told {
            writer.sample(labels + [("state", "active")], UInt64(row.clientsActive))
            writer.sample(labels + [("state", "waiting")], UInt64(row.clientsWaiting))
        }
        writer.begin("godwit_pool_servers", .gauge, "Server connections of a pool by state.")
        for (row, labels) in told {
            writer.sample(labels + [("state", "active")], UInt64(row.serversActive))
            writer.sample(labels + [("state", "idle")], UInt64(row.serversIdle))
            writer.sample(labels + [("state", "login")], UInt64(row.serversLogin))
            writer.sample(labels + [("state", "being_canceled")], UInt64(row.serversCanceled))
        }
        writer.begin("godwit_pool_maxwait_seconds", .gauge, "How long the client that waits longest has waited.")
        for (row, labels) in told { writer.sample(labels, Double(row.longestWaitMicros) / 1e6) }
    }

    /// Those whose clients wait come first, so that none of them is left out for one whose do not.
    private static func order(_ row: WorkerReport.PoolRow) -> (UInt8, String, String, UInt8) {
        (row.clientsWaiting > 0 ? 0 : 1, row.key.database, row.key.user, row.key.side.rawValue)
    }

    // MARK: traffic

    private func traffic(_ writer: inout ExpositionWriter) {
        for (name, help, value) in [
            ("godwit_queries_total", "Units answered.", { $0.queries }),
            ("godwit_transactions_total", "Transactions ended.", { $0.transactions }),
            ("godwit_received_bytes_total", "Bytes from clients.", { $0.received }),
            ("godwit_sent_bytes_total", "Bytes to clients.", { $0.sent }),
        ] as [(String, String, (DatabaseCounters) -> UInt64)] {
            writer.begin(name, .counter, help)
            for row in databases { writer.sample([("database", row.name)], value(row.counts.counters)) }
        }
        for (measure, name, help) in [
            (.wait, "godwit_wait_seconds", "How long clients waited for a server."),
            (.query, "godwit_query_seconds", "How long units took, from their first byte to the end of their answer."),
            (.transaction, "godwit_transaction_seconds", "How long transactions took."),
        ] as [(UnitTimes.Measure, String, String)] {
            writer.begin(name, .histogram, help)
            for row in databases {
                for side in Side.allCases {
                    for isRead in [true, false] {
                        writer.histogram(
                            [
                                ("database", row.name), ("side", side.description),
                                ("kind", isRead ? "read" : "other"),
                            ],
                            counts: row.times.counts(measure, side, isRead: isRead),
                            bounds: UnitTimes.boundsSeconds,
                            sum: row.times.seconds(measure, side, isRead: isRead))
                    }
                }
            }
        }
    }

    private func routing(_ writer: inout ExpositionWriter) {
        writer.begin("godwit_routes_total", .counter, "Units by where they went and why.")
        for row in databases {
            var sums: [RouteKey: UInt64] = [:]
            for (key, units) in row.counts.routes { sums[key, default: 0] += units }
            let ordered = sums.sorted {
                ($0.key.side.rawValue, $0.key.reason.rawValue, $0.key.isRead ? 0 : 1)
                    < ($1.key.side.rawValue, $1.key.reason.rawValue, $1.key.isRead ? 0 : 1)
            }
            for (key, units) in ordered {
                writer.sample(
                    [
                        ("database", row.name), ("side", key.side.description), ("kind", key.isRead ? "read" : "other"),
                        ("reason", key.reason.description),
                    ], units)
            }
        }
        writer.begin("godwit_reads_share_ratio", .gauge, "Share of users whose reads go to NEW.")
        for settings in figures.snapshot.settings.databases {
            let hundredths = figures.snapshot.route(settings.name).map { $0.onNew($0.table.hundredths) } ?? 0
            writer.sample([("database", settings.name)], Double(hundredths) / 10_000)
        }
        breakers(&writer)
        writer.begin("godwit_retries_total", .counter, "Reads that NEW failed and OLD answered.")
        for row in databases { writer.sample([("database", row.name)], row.counts.retries) }
    }

    private func breakers(_ writer: inout ExpositionWriter) {
        func each(_ name: String, _ kind: ExpositionWriter.Kind, _ help: String,
            _ value: (HealthMonitor.Figures) -> Double?
        ) {
            writer.begin(name, kind, help)
            for row in databases {
                for health in row.counts.health {
                    guard let value = value(health) else { continue }
                    writer.sample([("database", row.name), ("side", health.side.description)], value)
                }
            }
        }
        // The role, for a switch exchanges them: an authority that is gone stops everybody, the other side nobody.
        writer.begin("godwit_breaker_state", .gauge, "Breaker of a side, and its role: 1 at the state that it is in.")
        for row in databases {
            for health in row.counts.health {
                for phase in CircuitBreaker.Phase.allCases {
                    writer.sample(
                        [
                            ("database", row.name), ("side", health.side.description), ("role", health.role.rawValue),
                            ("state", phase.rawValue),
                        ], UInt64(health.phase == phase ? 1 : 0))
                }
            }
        }
        each("godwit_breaker_latched", .gauge, "1: it stays open until an operator says FORCE or READS.") {
            $0.isLatched ? 1 : 0
        }
        each("godwit_breaker_forced", .gauge, "1: an operator has overruled it.") { $0.force == .auto ? 0 : 1 }
        each("godwit_breaker_trips_total", .counter, "Times that it opened.") { Double($0.trips) }
        each("godwit_window_calls", .gauge, "Reads answered within the breaker's window.") { Double($0.calls) }
        each("godwit_window_errors", .gauge, "Errors of the server's own among them.") { Double($0.errors) }
        writer.begin("godwit_window_seconds", .gauge, "How long they took.")
        for row in databases {
            for health in row.counts.health {
                guard let micros = health.p95Micros else { continue }
                writer.sample(
                    [("database", row.name), ("side", health.side.description), ("quantile", "0.95")],
                    Double(micros) / 1e6)
            }
        }
    }

    private func caches(_ writer: inout ExpositionWriter) {
        writer.begin("godwit_prepared_statements", .gauge, "Distinct statements that clients have prepared.")
        for row in databases { writer.sample([("database", row.name)], UInt64(row.statements)) }
        writer.begin("godwit_analyses_total", .counter, "Statements by how their verdict was found.")
        for row in databases {
            writer.sample([("database", row.name), ("by", "text")], row.counts.analysis.textHits)
            writer.sample([("database", row.name), ("by", "shape")], row.counts.analysis.shapeHits)
            writer.sample([("database", row.name), ("by", "grammar")], row.counts.analysis.parses)
            writer.sample([("database", row.name), ("by", "nothing")], row.counts.analysis.refusals)
        }
        writer.begin("godwit_analysis_cache_bytes", .gauge, "Memory of the caches of verdicts.")
        for row in databases { writer.sample([("database", row.name)], UInt64(row.counts.cacheBytes)) }
    }

    // MARK: the mirror

    private func behindSeconds(_ report: MirrorReport) -> Double? {
        // One that has ended as it was told is not behind, however long ago that was; and in standby it is another
        // Godwit's to say.
        if report.lastAppliedNanos == 0 || report.state == .off || report.state == .standby { return nil }
        return Double(now.nanoseconds(since: MonotonicInstant(nanoseconds: report.lastAppliedNanos))) / 1e9
    }

    private func mirror(_ writer: inout ExpositionWriter) {
        writer.begin("godwit_mirror_state", .gauge, "1 at the state that the mirror is in.")
        let states: [MirrorReport.State] = [
            .off, .starting, .backfill, .mirroring, .following, .paused, .waiting, .standby, .stopped,
        ]
        for (route, report) in mirrors {
            for state in states {
                writer.sample(
                    [("database", route.name), ("state", state.rawValue)], UInt64(report.state == state ? 1 : 0))
            }
        }
        writer.begin("godwit_authority", .gauge, "1 at the side that takes the writes.")
        for (route, _) in mirrors {
            for side in Side.allCases {
                writer.sample(
                    [("database", route.name), ("side", side.description)], UInt64(side == route.authority ? 1 : 0))
            }
        }
        writer.begin("godwit_authority_epoch", .gauge, "Number of the switch that made the authority what it is.")
        for (route, _) in mirrors { writer.sample([("database", route.name)], UInt64(max(0, route.epoch))) }
        writer.begin("godwit_mirror_readable", .gauge, "1 while NEW may answer reads.")
        for (route, _) in mirrors { writer.sample([("database", route.name)], UInt64(route.horizon.readable ? 1 : 0)) }
        writer.begin("godwit_mirror_lag_seconds", .gauge, "From a batch's begin to its commit on NEW, over a minute.")
        for (route, report) in mirrors {
            let labels = [("database", route.name)]
            writer.sample(labels + [("quantile", "0.5")], Double(report.lagMicrosP50) / 1e6)
            writer.sample(labels + [("quantile", "0.99")], Double(report.lagMicrosP99) / 1e6)
        }
        for (name, help, value) in [
            ("godwit_mirror_batches_total", "Batches applied.", { $0.report.batches }),
            ("godwit_mirror_keys_total", "Changed keys applied.", { $0.report.keys }),
            ("godwit_mirror_rows_copied_total", "Rows of the first copy.", { $0.report.rowsCopied }),
            ("godwit_mirror_rogue_keys_total", "Keys on NEW that others wrote, brought back.", { $0.report.rogueKeys }),
            ("godwit_mirror_sync_commits_total", "Commits NEW had in time.", { $0.route.horizon.syncCounts.inTime }),
            ("godwit_mirror_sync_late_total", "Commits NEW had not in time.", { $0.route.horizon.syncCounts.late }),
        ] as [(String, String, ((route: DatabaseRoute, report: MirrorReport)) -> UInt64)] {
            writer.begin(name, .counter, help)
            for mirror in mirrors { writer.sample([("database", mirror.route.name)], value(mirror)) }
        }
        writer.begin("godwit_mirror_tables_not_mirrored", .gauge, "OLD's tables made since prepare.")
        for (route, report) in mirrors { writer.sample([("database", route.name)], UInt64(report.uncaptured.count)) }
    }

    /// The names that guides to migrations give these figures.
    private func guideNames(_ writer: inout ExpositionWriter) {
        writer.begin(
            "migration_replication_lag_seconds", .gauge, "Time since the mirror's target last equalled its source.")
        for (route, report) in mirrors {
            guard let behind = behindSeconds(report) else { continue }
            let (source, target) = (route.endpoint(route.authority), route.endpoint(route.authority.other))
            writer.sample(
                [("database", route.name), ("source_db", source.database), ("target_db", target.database)], behind)
        }
        writer.begin(
            "migration_validation_errors_total", .counter, "Differences: mended by the mirror, or in compared reads.")
        for (route, report) in mirrors {
            writer.sample(
                [("database", route.name), ("table", ""), ("error_type", "written_on_new")], report.rogueKeys)
        }
        for (route, shadow) in comparisons {
            writer.sample(
                [("database", route.name), ("table", ""), ("error_type", "shadow_mismatch")], shadow.counts.mismatches)
        }
        writer.begin("migration_progress_percent", .gauge, "How far the phase is; table is empty for all of it.")
        for (route, report) in mirrors {
            let labels = [("database", route.name), ("phase", "copy")]
            for table in report.tables.prefix(Self.tablesMax) {
                writer.sample(labels + [("table", table.name)], Self.percent(table))
            }
        }
        for settings in figures.snapshot.settings.databases {
            let hundredths = figures.snapshot.route(settings.name).map { $0.onNew($0.table.hundredths) } ?? 0
            writer.sample(
                [("database", settings.name), ("phase", "reads"), ("table", "")], Double(hundredths) / 100)
        }
        writer.begin("migration_query_duration_seconds", .histogram, "How long units took, on either side.")
        for row in databases {
            for isRead in [true, false] {
                let old = row.times.counts(.query, .old, isRead: isRead)
                let new = row.times.counts(.query, .new, isRead: isRead)
                writer.histogram(
                    [("database", row.name), ("operation", isRead ? "read" : "other")],
                    counts: ArraySlice(zip(old, new).map { $0 + $1 }), bounds: UnitTimes.boundsSeconds,
                    sum: row.times.seconds(.query, .old, isRead: isRead)
                        + row.times.seconds(.query, .new, isRead: isRead))
            }
        }
        writer.begin("migration_cdc_events_total", .counter, "Changed keys applied, and rows copied of each table.")
        for (route, report) in mirrors {
            let labels = [("database", route.name)]
            writer.sample(labels + [("source_table", ""), ("event_type", "change")], report.keys)
            for table in report.tables.prefix(Self.tablesMax) {
                writer.sample(labels + [("source_table", table.name), ("event_type", "copy")], table.rowsCopied)
            }
        }
        writer.begin("migration_errors_total", .counter, "What went wrong and was dealt with.")
        for row in databases {
            let labels = [("database", row.name), ("component", "proxy")]
            writer.sample(
                labels + [("error_category", "breaker_trip")], row.counts.health.reduce(0) { $0 + $1.trips })
            writer.sample(labels + [("error_category", "read_retried")], row.counts.retries)
        }
        for (route, _) in mirrors {
            writer.sample(
                [("database", route.name), ("component", "mirror"), ("error_category", "sync_late")],
                route.horizon.syncCounts.late)
        }
    }

    /// 100 only when it is copied: the number of rows is an estimate.
    private static func percent(_ table: MirrorReport.Table) -> Double {
        if table.isCopied { return 100 }
        if table.rowsEstimated == 0 { return 0 }
        return min(99, 100 * Double(table.rowsCopied) / Double(table.rowsEstimated))
    }
}
