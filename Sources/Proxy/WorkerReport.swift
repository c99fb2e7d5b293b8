import Configuration
import Glibc
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions

/// What one thread tells the console of itself: values only, carried by mailbox.
struct WorkerReport: Sendable {
    struct PoolRow: Sendable {
        var key: PoolKey
        var clientsActive = 0
        var clientsWaiting = 0
        var serversActive = 0
        var serversIdle = 0
        var serversLogin = 0
        var serversCanceled = 0
        /// Nobody's yet: what their last client left is being ended.
        var serversSettling = 0
        var longestWaitMicros: UInt64 = 0
        var mode: PoolSettings.Mode = .transaction

        /// Over the threads.
        func adding(_ row: PoolRow) -> PoolRow {
            var sum = self
            sum.clientsActive += row.clientsActive
            sum.clientsWaiting += row.clientsWaiting
            sum.serversActive += row.serversActive
            sum.serversIdle += row.serversIdle
            sum.serversLogin += row.serversLogin
            sum.serversCanceled += row.serversCanceled
            sum.serversSettling += row.serversSettling
            sum.longestWaitMicros = max(sum.longestWaitMicros, row.longestWaitMicros)
            return sum
        }
    }

    /// One line of SHOW CLIENTS or SHOW SERVERS.
    struct ConnectionRow: Sendable {
        var isServer: Bool
        /// `id` of SHOW CLIENTS and SHOW SERVERS.
        var number: UInt64
        var user: String
        var database: String
        var state: String
        var address: SocketAddress?
        var localAddress: SocketAddress?
        var descriptor: CInt = -1
        var connectedAt: MonotonicInstant
        var requestAt: MonotonicInstant?
        var waitMicros: UInt64 = 0
        var tls = ""
        var pointer: String
        var link: String
        var remoteProcess: Int32 = 0
        var applicationName: String
        var side: Side?
        var pin: String?
        var pinnedSeconds: UInt64 = 0
        var statements = 0
        /// A server that is closed when its client has done with it.
        var isClosing = false
        var bytesWaiting = 0
        var bytesPassing = 0
        var bytesToSend = 0

        /// One of a pair at work, or somebody who waits for a server.
        var isActive: Bool { !link.isEmpty || state == "waiting" || database == ProxySnapshot.consoleDatabase }
    }

    struct DatabaseRow: Sendable {
        var counts: DatabaseCounts
        /// What averages are made of: see `DatabaseState.lastPeriod`.
        var lastPeriod: (counted: DatabaseCounters, seconds: Double)
        var serverCounts: [Side: Int]
        /// By index in the configuration.
        var ruleUnits: [UInt64]
        var cohortUnits: [UInt64]
        var shapes: [ShapeStatistics.Figures]
        var caches: CacheRow

        var name: String { counts.name }
    }

    /// One line of SHOW CACHES.
    struct CacheRow: Sendable {
        var textEntries: Int
        var shapeEntries: Int
        var keyHits: UInt64
        var keyMisses: UInt64
        var statistics: Int
        var schemaChanges: UInt64
    }

    var worker: Int
    var pools: [PoolRow] = []
    var clients: [ConnectionRow] = []
    var servers: [ConnectionRow] = []
    var databases: [DatabaseRow] = []
    var clientsInLogin = 0
}

/// Clients by pool. Most of those that follow each other are of one, so most names are compared and not hashed.
private struct PoolCount {
    private var counts: [PoolKey: Int] = [:]
    private var last: (database: DatabaseState, user: String, side: Side)?
    private var run = 0

    mutating func add(_ database: DatabaseState, _ user: String, _ side: Side) {
        if let last, last.database === database, last.side == side, last.user.hasSameBytes(as: user) {
            run += 1
            return
        }
        close()
        last = (database, user, side)
        run = 1
    }

    var all: [PoolKey: Int] {
        mutating get {
            close()
            return counts
        }
    }

    private mutating func close() {
        guard let last, run > 0 else { return }
        counts[PoolKey(database: last.database.name, user: last.user, side: last.side), default: 0] += run
        run = 0
    }
}

extension Worker {
    func makeReport() -> WorkerReport {
        var report = WorkerReport(worker: index)
        report.pools = poolRows()
        report.clients = clients.values.compactMap(clientRow)
        report.clientsInLogin = clients.values.count { $0.phase.isOutside }
        report.servers = servers.values.map(serverRow)
        // One pass over the pools, however many databases there are.
        var open: [ObjectIdentifier: [Side: Int]] = [:]
        for entry in pools.values {
            open[ObjectIdentifier(entry.database), default: [:]][entry.key.side, default: 0] += entry.pool.serverCount
        }
        report.databases = databases.values.map { databaseRow($0, open[ObjectIdentifier($0)] ?? [:]) }
        return report
    }

    /// One pass over clients and servers, however many pools there are.
    func poolRows() -> [WorkerReport.PoolRow] {
        var active = PoolCount()
        var held: [PoolKey: [MonotonicInstant]] = [:]
        for client in clients.values {
            if let server = client.server {
                active.add(server.entry.database, server.entry.key.user, server.entry.key.side)
            } else if client.holdToken != 0, let database = client.database {
                let key = PoolKey(database: database.name, user: client.poolUser, side: database.authority)
                held[key, default: []].append(client.waitingSince)
            } else if client.phase == .idle, let database = client.database {
                // Without a unit it belongs to the authority's pool: that is where its next unit is likely to go.
                active.add(database, client.poolUser, database.authority)
            }
        }
        var canceled: [PoolKey: Int] = [:]
        var settling: [PoolKey: Int] = [:]
        for server in servers.values {
            if server.cancelsInFlight > 0 { canceled[server.entry.key, default: 0] += 1 }
            if server.isSettling { settling[server.entry.key, default: 0] += 1 }
        }
        let counted = active.all
        return pools.values.map { entry in
            var row = poolRow(entry, counted, canceled)
            row.serversSettling = settling[entry.key] ?? 0
            row.serversActive -= row.serversSettling
            for since in held[entry.key] ?? [] {
                row.clientsWaiting += 1
                row.longestWaitMicros = max(row.longestWaitMicros, now.microseconds(since: since))
            }
            return row
        }
    }

    private func poolRow(
        _ entry: PoolEntry, _ active: [PoolKey: Int], _ canceled: [PoolKey: Int]
    ) -> WorkerReport.PoolRow {
        var row = WorkerReport.PoolRow(key: entry.key)
        row.clientsActive = active[entry.key] ?? 0
        row.clientsWaiting = entry.pool.waitingCount
        row.mode = userSettings(entry.key.user)?.poolMode ?? entry.database.route.settings.pool.mode
        row.serversActive = entry.pool.leasedCount
        row.serversIdle = entry.pool.idleCount
        row.serversLogin = entry.pool.connectingCount
        row.serversCanceled = canceled[entry.key] ?? 0
        row.longestWaitMicros = entry.pool.oldestWaiter().map { now.microseconds(since: $0) } ?? 0
        return row
    }

    private func clientRow(_ client: ClientConnection) -> WorkerReport.ConnectionRow? {
        if client.phase.isOutside || client.phase == .closed { return nil }
        let isWaiting = [.waiting, .held, .greeting].contains(client.phase)
        var row = WorkerReport.ConnectionRow(
            isServer: false, number: client.handle.number(threads: peers.count), user: client.user,
            database: client.databaseName, state: isWaiting ? "waiting" : "active",
            address: client.address, connectedAt: client.connectedAt, requestAt: client.lastActivity,
            pointer: client.handle.pointer, link: client.server?.pointer ?? "",
            applicationName: client.applicationName)
        row.waitMicros = isWaiting ? now.microseconds(since: client.waitingSince) : 0
        row.side = client.server?.side
        row.tls = client.tlsSummary
        row.pin = client.pin?.rawValue
        row.localAddress = client.stream.socket.localAddress
        row.descriptor = client.stream.socket.raw
        row.statements = client.statements.count
        (row.bytesWaiting, row.bytesPassing, row.bytesToSend) =
            (client.parkedByteCount, client.passToServer, client.stream.count)
        row.pinnedSeconds = now.microseconds(since: client.pinnedAt) / 1_000_000
        return row
    }

    private func serverRow(_ server: ServerConnection) -> WorkerReport.ConnectionRow {
        let state =
            switch server.state {
            case .connecting, .negotiating, .login, .warming: "login"
            case .idle: "idle"
            case .leased: "active"
            case .settling: "tested"
            case .closed: "closed"
            }
        var row = WorkerReport.ConnectionRow(
            isServer: true, number: server.id.value * UInt64(peers.count) + UInt64(index),
            user: server.entry.key.user, database: server.entry.key.database, state: state,
            address: server.endpoint.address, connectedAt: server.openedAt,
            requestAt: server.state == .leased ? server.leasedAt : nil, pointer: server.pointer,
            link: server.client?.handle.pointer ?? "", remoteProcess: server.processID,
            applicationName: server.client?.applicationName ?? "")
        row.side = server.side
        row.tls = server.tlsSummary
        row.isClosing = server.isOutdated
        server.describe(in: &row)
        return row
    }

    private func databaseRow(_ state: DatabaseState, _ open: [Side: Int]) -> WorkerReport.DatabaseRow {
        WorkerReport.DatabaseRow(
            counts: state.counts(now: now), lastPeriod: state.lastPeriod, serverCounts: open,
            ruleUnits: state.ruleUnits, cohortUnits: state.cohortUnits, shapes: state.shapes.figures,
            caches: WorkerReport.CacheRow(
                textEntries: state.analysis.textEntries, shapeEntries: state.analysis.shapeEntries,
                keyHits: state.resolver.hits, keyMisses: state.resolver.misses, statistics: state.shapes.count,
                schemaChanges: state.schemaChanges))
    }
}
