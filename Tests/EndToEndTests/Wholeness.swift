import TestSupport

/// What must be so whatever a client has done: the next one is served, and no server is lost or dirty.
struct Wholeness: Sendable {
    /// One that trusts its clients.
    let godwit: GodwitProcess
    let servers: Servers
    let database: String

    /// A client that behaves gets what it asks for, on either side.
    func serveFreshClient() throws {
        let client = try WireClient(port: godwit.port, database: database)
        guard try client.value("SELECT 41 + 1") == "42" else { throw TestFailure("a wrong answer") }
        _ = try client.query("BEGIN")
        let isFresh = "SELECT txid_current_if_assigned() IS NULL AND txid_current() > 0"
        guard try client.value(isFresh) == "t" else { throw TestFailure("a transaction that another has begun") }
        guard try client.query("COMMIT").last?.transactionStatus == "I" else { throw TestFailure("a COMMIT without end") }
        client.send(FrameBuilder.terminate)
    }

    /// Waits until nobody's work is left anywhere: no client waits, every server is idle and known to both Godwit and
    /// PostgreSQL, and none has a transaction.
    func waitUntilQuiet() throws {
        let superuser = PostgresCluster.superuser
        let console = try WireClient(port: godwit.port, database: "godwit", user: "godwit")
        let old = try WireClient(port: servers.old.port, database: superuser, user: superuser)
        let new = try WireClient(port: servers.new.port, database: superuser, user: superuser)
        try waitUntil { try unrest(console, old: old, new: new).isEmpty }
    }

    func check() throws {
        if godwit.process.hasEnded { throw TestFailure("Godwit has ended:\n\(godwit.log.text)") }
        try serveFreshClient()
        try waitUntilQuiet()
    }

    /// What is not at rest; empty: nothing.
    private func unrest(_ console: WireClient, old: WireClient, new: WireClient) throws -> String {
        let clients = try rows(console, "SHOW CLIENTS")
        if !clients.isEmpty { return "clients: \(clients)" }
        let counts = ["cl_active", "cl_waiting", "sv_active", "sv_login", "sv_being_canceled"]
        let busy = try rows(console, "SHOW POOLS").filter { pool in counts.contains { pool[$0] != "0" } }
        if !busy.isEmpty { return "pools: \(busy)" }
        let known = try rows(console, "SHOW SERVERS")
        let odd = known.filter { $0["state"] != "idle" || $0["link"]?.isEmpty == false }
        if !odd.isEmpty { return "servers: \(odd)" }
        for (side, postgres) in [("old", old), ("new", new)] {
            let backends = try postgres.query("""
                SELECT pid, state, xact_start IS NULL, query FROM pg_stat_activity
                WHERE datname = '\(database)' AND usename = 'app'
                """).map(\.columns).filter { !$0.isEmpty }
            let dirty = backends.filter { $0[1] != "idle" || $0[2] != "t" }
            if !dirty.isEmpty { return "backends of \(side): \(dirty)" }
            let pids = Set(known.filter { $0["side"] == side }.map { $0["remote_pid"] ?? "" })
            if Set(backends.map { $0[0] ?? "" }) != pids { return "lost on \(side): \(backends) beside \(pids)" }
        }
        return ""
    }

    /// The rows of this database that the console shows, by the names of their columns.
    private func rows(_ console: WireClient, _ command: String) throws -> [[String: String]] {
        let messages = try console.query(command)
        guard let names = messages.first(where: { $0.type == "T" })?.columnNames else {
            throw TestFailure("\(command): \(messages)")
        }
        return messages.filter { $0.type == "D" }
            .map { Dictionary(zip(names, $0.columns.map { $0 ?? "" }), uniquingKeysWith: { first, _ in first }) }
            .filter { $0["database"] == database }
    }
}
