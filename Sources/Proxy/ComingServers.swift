import Console
import Pooling
import Primitives
import Routing
import Sessions

/// Servers of the side that takes the writes next, opened before a switch, so that behind it nobody waits for logins
/// that all come at once. They may write, so they are in no pool, and nobody has one before the side is the authority.
/// Used on its reactor's thread.
struct ComingServers {
    static let lifetimeNanos: UInt64 = 120_000_000_000

    /// Loads what a session keeps of tables and indexes: a new one takes half of its first statements' time for that,
    /// and behind a switch all are new at once. Whoever holds a table now is not waited for.
    static let warmingQuery = """
        SELECT pg_catalog.set_config('lock_timeout', '100ms', true);
        SELECT pg_catalog.sum(pg_catalog.pg_indexes_size(c.oid)) FROM (SELECT c.oid FROM pg_catalog.pg_class c
          WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.oid OPERATOR(pg_catalog.>=) 16384
            AND c.relpersistence OPERATOR(pg_catalog.<>) 't' ORDER BY c.relpages DESC LIMIT \(warmedTablesMax)) c
        """
    private static let warmedTablesMax = 200

    private(set) var servers: [ServerID] = []
    var openingCount = 0

    var isEmpty: Bool { servers.isEmpty && openingCount == 0 }

    mutating func opened(_ server: ServerID) {
        openingCount -= 1
        servers.append(server)
    }

    mutating func closed(_ server: ServerID, wasOpen: Bool) {
        if wasOpen { servers.removeAll { $0 == server } } else { openingCount -= 1 }
    }

    mutating func takeAll() -> [ServerID] {
        defer { servers = [] }
        return servers
    }
}

extension Worker {
    /// As many as the authority has now, for each of its pools.
    func openComing(_ scope: GateScope) {
        for database in databases.values where scope.contains(database.name) {
            let side = database.authority.other
            for user in Set(clients.values.lazy.filter { $0.database === database }.map(\.user)) {
                let wanted = poolEntry(database, user: user, side: database.authority).pool.serverCount
                let entry = poolEntry(database, user: user, side: side)
                // Users may share a pool.
                if !entry.coming.isEmpty { continue }
                for _ in 0..<min(wanted, entry.pool.limits.serversMax) {
                    if !takeFreePlace(entry) { break }
                    openServer(entry, isComing: true)
                }
            }
        }
    }

    /// The switch was not made, or has not needed them.
    func closeComing(_ scope: GateScope) {
        for server in servers.values where server.isComing && scope.contains(server.entry.key.database) {
            server.closeUnlessInUse()
        }
    }

    /// The switch that they were opened for was never made.
    func expireComing() {
        for server in servers.values where server.isComing {
            if now.nanoseconds(since: server.openedAt) > ComingServers.lifetimeNanos { server.closeUnlessInUse() }
        }
    }

    /// Their side is the authority now, unless a reload leads elsewhere.
    func adoptComing(_ entry: PoolEntry) {
        let database = entry.database
        for id in entry.coming.takeAll() {
            guard let server = servers[id] else { continue }
            server.isComing = false
            entry.pool.serverAdopted(id, openedAt: server.openedAt, now: now)
            settlePlaces(entry)
            if entry.key.side == database.authority, server.endpoint == database.route.endpoint(entry.key.side) {
                server.isOutdated = false
                database.greetings.note(server.login.parameters, of: entry.key.user)
            } else {
                server.close()
            }
        }
        // What is still being opened is closed with `letGo`, and waited for by nobody.
        serveLater(entry)
    }
}
