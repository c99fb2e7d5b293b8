import Configuration
import Console
import Glibc
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis

/// The tables that PgBouncer has too: its columns in its order, of its types.
extension ConsoleTables {
    private typealias Columns = [ConsoleReport.Column]

    /// Ours stand behind PgBouncer's, where its tools do not mind.
    private func columns(_ text: Columns, ours: Columns) -> Columns { text + (speaksPgBouncer ? [] : ours) }

    private func integers(_ names: String...) -> Columns { names.map { .init($0, .integer) } }

    // MARK: pools

    func pools() -> ConsoleReport {
        var table = ConsoleReport(columns(
            [.init("database"), .init("user")]
                + integers(
                    "cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active",
                    "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login", "maxwait",
                    "maxwait_us") + [.init("pool_mode")],
            ours: [.init("side")]))
        var rows: [PoolKey: WorkerReport.PoolRow] = [:]
        for row in reports.flatMap(\.pools) {
            var key = row.key
            // Its tools take database and user for the whole key.
            if speaksPgBouncer { key = PoolKey(database: key.database, user: key.user, side: .old) }
            rows[key] = rows[key].map { $0.adding(row) } ?? row
        }
        for (key, row) in rows.sorted(by: { order($0.key) < order($1.key) }) {
            table.append(
                [key.database, key.user]
                    + [
                        row.clientsActive, row.clientsWaiting, 0, 0, row.serversActive, 0, row.serversCanceled,
                        row.serversIdle, 0, row.serversSettling, row.serversLogin,
                    ].map { "\($0)" }
                    + [
                        "\(row.longestWaitMicros / 1_000_000)", "\(row.longestWaitMicros % 1_000_000)",
                        row.mode.rawValue,
                    ] + (speaksPgBouncer ? [] : [key.side.description]))
        }
        return table
    }

    private func order(_ key: PoolKey) -> (String, String, UInt8) { (key.database, key.user, key.side.rawValue) }

    // MARK: connections

    private var connectionColumns: Columns {
        [.init("type"), .init("user"), .init("database"), .init("state"), .init("addr"), .init("port", .integer),
            .init("local_addr"), .init("local_port", .integer), .init("connect_time"), .init("request_time")]
            + integers("wait", "wait_us", "close_needed")
            + [.init("ptr"), .init("link"), .init("remote_pid", .integer), .init("tls"), .init("application_name")]
    }

    private func cells(_ row: WorkerReport.ConnectionRow) -> [String?] {
        [
            row.isServer ? "S" : "C", row.user, row.database, row.state, row.address?.host ?? "",
            "\(row.address?.port ?? 0)", row.localAddress?.host ?? "", "\(row.localAddress?.port ?? 0)",
            time(row.connectedAt), row.requestAt.map(time), "\(row.waitMicros / 1_000_000)",
            "\(row.waitMicros % 1_000_000)", row.isClosing ? "1" : "0", row.pointer, row.link,
            "\(row.remoteProcess)", row.tls, row.applicationName,
        ]
    }

    /// `prepared_statements` and `id` are those of later versions of PgBouncer.
    func connections(_ rows: [WorkerReport.ConnectionRow]) -> ConsoleReport {
        var table = ConsoleReport(columns(
            connectionColumns,
            ours: [.init("prepared_statements", .integer), .init("id", .bigint), .init("side")]))
        for row in rows.sorted(by: { $0.connectedAt < $1.connectedAt }) {
            let ours = ["\(row.statements)", "\(row.number)", row.side?.description ?? ""]
            table.append(cells(row) + (speaksPgBouncer ? [] : ours))
        }
        return table
    }

    /// Of the buffers' figures we have: bytes received that wait, the rest of a message under way, bytes to be sent.
    func sockets(_ rows: [WorkerReport.ConnectionRow]) -> ConsoleReport {
        var table = ConsoleReport(
            connectionColumns
                + integers(
                    "recv_pos", "pkt_pos", "pkt_remain", "send_pos", "send_remain", "pkt_avail", "send_avail"))
        for row in rows.sorted(by: { $0.connectedAt < $1.connectedAt }) {
            table.append(
                cells(row) + [0, 0, row.bytesPassing, 0, row.bytesToSend, row.bytesWaiting, 0].map { "\($0)" })
        }
        return table
    }

    /// Secrets are nobody's business here: their columns are there, and empty.
    func descriptors() -> ConsoleReport {
        var table = ConsoleReport(
            [.init("fd", .integer), .init("task"), .init("user"), .init("database"), .init("addr"),
                .init("port", .integer), .init("cancel", .bigint), .init("link", .integer), .init("client_encoding"),
                .init("std_strings"), .init("datestyle"), .init("timezone"), .init("password"),
                .init("scram_client_key", .bytea), .init("scram_server_key", .bytea)])
        let rows = reports.flatMap { $0.clients + $0.servers }
        let byPointer = Dictionary(rows.map { ($0.pointer, $0.descriptor) }, uniquingKeysWith: { first, _ in first })
        for row in rows.sorted(by: { $0.descriptor < $1.descriptor }) {
            table.append([
                "\(row.descriptor)", row.isServer ? "server" : "client", row.user, row.database,
                row.address?.host ?? "", "\(row.address?.port ?? 0)", "0", "\(byPointer[row.link] ?? 0)", nil, nil,
                nil, nil, nil, nil, nil,
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

    // MARK: databases and users

    /// In the order of the configuration, then what `*` has made.
    private var served: [DatabaseRoute] {
        let configured = snapshot.settings.databases.compactMap { snapshot.databases[$0.name] }
        let made = Set(reports.flatMap(\.databases).map { ExactName($0.name) })
            .filter { snapshot.databases[$0.text] == nil }.sorted { $0.text < $1.text }
        guard let wildcard = snapshot.wildcard else { return configured }
        return configured + made.map { wildcard.named($0.text, sharing: wildcard) }
    }

    /// One row per side: the name that clients use, and where it leads. For PgBouncer's tools only OLD's.
    func databases() -> ConsoleReport {
        var table = ConsoleReport(columns(
            [.init("name"), .init("host"), .init("port", .integer), .init("database"), .init("force_user")]
                + integers("pool_size", "min_pool_size", "reserve_pool") + [.init("pool_mode")]
                + integers("max_connections", "current_connections", "paused", "disabled"),
            ours: [.init("side"), .init("reads_percent", .numeric), .init("hold")]))
        let rows = rowsByDatabase
        for route in served {
            let pool = route.settings.pool
            let hold = gate.hold(of: route.name)
            for side in speaksPgBouncer ? [route.authority] : Side.allCases {
                let endpoint = route.endpoint(side)
                let open = (rows[route.name] ?? []).reduce(0) {
                    $0 + (speaksPgBouncer ? $1.serverCounts.values.reduce(0, +) : $1.serverCounts[side] ?? 0)
                }
                let share = side == route.authority ? 10_000 - route.table.hundredths : route.table.hundredths
                table.append(
                    [
                        route.name, endpoint.host, "\(endpoint.port)", endpoint.database, endpoint.user,
                        "\(pool.size)", "\(pool.minPoolSize)", "\(pool.reservePoolSize)", pool.mode.rawValue,
                        "\(pool.maxDBConnections)", "\(open)", hold == .all ? "1" : "0",
                        gate.isDisabled(route.name) ? "1" : "0",
                    ]
                        + (speaksPgBouncer
                            ? [] : [side.description, Self.percent(share), hold.map { "\($0)" } ?? ""]))
            }
        }
        return table
    }

    /// Who has settings, and who is connected.
    private var userNames: [String] {
        let named = snapshot.settings.users.map(\.name) + reports.flatMap(\.clients).map(\.user)
        return Set(named.map { ExactName($0) }).map(\.text).sorted()
    }

    private func countsByUser(_ rows: [WorkerReport.ConnectionRow]) -> [ExactName: Int] {
        rows.reduce(into: [:]) { $0[ExactName($1.user), default: 0] += 1 }
    }

    /// Behind PgBouncer 1.18's columns are those of later versions.
    func users() -> ConsoleReport {
        var table = ConsoleReport(columns(
            [.init("name"), .init("pool_mode")],
            ours: integers(
                "pool_size", "reserve_pool_size", "max_user_connections", "current_connections",
                "max_user_client_connections", "current_client_connections")))
        let limits = snapshot.settings.limits
        // Counted in one go: with a user for each of ten thousand clients the thread would stand still for seconds.
        let servers = countsByUser(reports.flatMap(\.servers)), clients = countsByUser(reports.flatMap(\.clients))
        for name in userNames {
            let user = snapshot.users[name]
            let ours = [
                user?.poolSize.map { "\($0)" }, user?.reservePoolSize.map { "\($0)" },
                "\(user?.maxUserConnections ?? limits.maxUserConnections)", "\(servers[ExactName(name)] ?? 0)",
                "\(user?.maxUserClientConnections ?? limits.maxUserClientConnections)",
                "\(clients[ExactName(name)] ?? 0)",
            ]
            table.append([name, user?.poolMode?.rawValue] + (speaksPgBouncer ? [] : ours))
        }
        return table
    }

    // MARK: figures

    private static let figureNames = [
        "xact_count", "query_count", "received", "sent", "xact_time", "query_time", "wait_time",
    ]

    private func figures(_ counters: DatabaseCounters) -> [String] {
        [
            counters.transactions, counters.queries, counters.received, counters.sent, counters.transactionMicros,
            counters.queryMicros, counters.waitMicros,
        ].map { "\($0)" }
    }

    private func figures(of rows: [WorkerReport.DatabaseRow]) -> (totals: [String], averages: [String]) {
        // Added up before they are divided: means of threads, and of databases, do not add up. Their periods differ by
        // the second in which they were looked at.
        let counted = rows.reduce(DatabaseCounters()) { $0 + $1.lastPeriod.counted }
        let seconds = rows.reduce(0.0) { max($0, $1.lastPeriod.seconds) }
        return (
            figures(rows.reduce(DatabaseCounters()) { $0 + $1.counts.counters }),
            figures(counted.averaged(over: seconds))
        )
    }

    /// Behind PgBouncer's columns is one of its old ones, which exporters ask for that were never told of the change.
    func stats() -> ConsoleReport {
        let averages = Self.figureNames.map { "avg_\($0 == "received" ? "recv" : $0)" }
        var table = ConsoleReport(
            [.init("database")]
                + (Self.figureNames.map { "total_\($0)" } + averages + ["total_requests"]).map { .init($0, .numeric) })
        let rows = rowsByDatabase
        for route in served {
            let (total, average) = figures(of: rows[route.name] ?? [])
            table.append([route.name] + total + average + [total[1]])
        }
        return table
    }

    private static let shortNames = figureNames.map { $0 == "received" || $0 == "sent" ? "bytes_\($0)" : $0 }

    func statsTotals() -> ConsoleReport {
        var table = ConsoleReport([.init("database")] + Self.shortNames.map { .init($0, .numeric) })
        let rows = rowsByDatabase
        for route in served { table.append([route.name] + figures(of: rows[route.name] ?? []).totals) }
        return table
    }

    func statsAverages() -> ConsoleReport {
        var table = ConsoleReport([.init("database")] + Self.shortNames.map { .init($0, .numeric) })
        let rows = rowsByDatabase
        for route in served { table.append([route.name] + figures(of: rows[route.name] ?? []).averages) }
        return table
    }

    func totals() -> ConsoleReport {
        var table = ConsoleReport([.init("name"), .init("value", .numeric)])
        let (totals, averages) = figures(of: reports.flatMap(\.databases))
        let names = Self.figureNames.map { name in
            name == "received" ? "client_bytes" : name == "sent" ? "server_bytes" : name
        }
        for (name, value) in zip(names, totals) { table.append(["total_\(name)", value]) }
        for (name, value) in zip(names, averages) { table.append(["avg_\(name)", value]) }
        return table
    }

    func lists() -> ConsoleReport {
        var table = ConsoleReport([.init("list"), .init("items", .integer)])
        let servers = reports.flatMap(\.servers)
        for (name, items) in [
            ("databases", served.count), ("users", userNames.count),
            ("pools", Set(reports.flatMap(\.pools).map(\.key)).count), ("free_clients", 0),
            ("used_clients", reports.reduce(0) { $0 + $1.clients.count }),
            ("login_clients", reports.reduce(0) { $0 + $1.clientsInLogin }),
            ("free_servers", servers.count { $0.state == "idle" }),
            ("used_servers", servers.count { $0.state != "idle" }),
            ("dns_names", hosts().rows.count), ("dns_zones", 0), ("dns_queries", 0), ("dns_pending", 0),
        ] { table.append([name, "\(items)"]) }
        return table
    }

    // MARK: the process

    func config() -> ConsoleReport {
        var table = ConsoleReport([.init("key"), .init("value"), .init("default"), .init("changeable")])
        let defaults = Dictionary(
            ReloadPolicy.flatten(Settings()).map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
        for entry in ReloadPolicy.flatten(snapshot.settings) {
            let key = speaksPgBouncer ? SettingName.inPgBouncer(entry.key) ?? entry.key : entry.key
            table.append([
                key, ReloadPolicy.masked(entry.value, entry.key), defaults[entry.key] ?? "",
                ReloadPolicy.effect(of: entry.key) == .reload ? "yes" : "no",
            ])
        }
        return table
    }

    func state() -> ConsoleReport {
        var table = ConsoleReport([.init("key"), .init("value")])
        let isPaused = gate.everything == .all
        for (key, isSo) in [
            ("active", !isPaused && !gate.isSuspended), ("paused", isPaused), ("suspended", gate.isSuspended),
        ] { table.append([key, isSo ? "yes" : "no"]) }
        return table
    }

    /// What is measured: caches and the threads' buffers. Sizes are means, in bytes.
    func memory() -> ConsoleReport {
        var table = ConsoleReport([.init("name")] + integers("size", "used", "free", "memtotal"))
        let rows = reports.flatMap(\.databases)
        let statements = rows.reduce(0) { $0 + $1.caches.textEntries + $1.caches.shapeEntries }
        let bytes = rows.reduce(0) { $0 + $1.counts.cacheBytes }
        let waiting = reports.flatMap { $0.clients + $0.servers }.map { $0.bytesWaiting + $0.bytesToSend }
        let inUse = waiting.filter { $0 > 0 }
        for (name, used, total) in [
            ("statement_cache", statements, bytes),
            ("receive_buffers", reports.count, reports.count * Worker.receiveBufferSize),
            ("connection_buffers", inUse.count, inUse.reduce(0, +)),
        ] { table.append([name, "\(used == 0 ? 0 : total / used)", "\(used)", "0", "\(total)"]) }
        return table
    }

    /// Names are resolved at the start and at reloads, so there is no time to wait for.
    func hosts() -> ConsoleReport {
        var table = ConsoleReport([.init("hostname"), .init("ttl", .bigint), .init("addrs")])
        var seen: Set<String> = []
        for route in served {
            for side in Side.allCases {
                let endpoint = route.endpoint(side)
                guard !endpoint.host.hasPrefix("/"), seen.insert(endpoint.host).inserted else { continue }
                table.append([endpoint.host, "0", endpoint.address?.host ?? ""])
            }
        }
        return table
    }
}
