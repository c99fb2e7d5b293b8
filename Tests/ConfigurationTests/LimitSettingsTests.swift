import Configuration
import Testing

@Suite struct LimitSettingsTests {
    private func parse(_ text: String, pool: String = "", extra: String = "") throws(SettingsError) -> Settings {
        try SettingsFile.parse(
            text: """
                auth: {method: trust}
                \(text)
                databases:
                  shop: {old: "host=a", new: "host=b"\(pool)}
                \(extra)
                """, path: "g")
    }

    @Test func `PgBouncer's defaults hold where nothing is said`() throws {
        let pool = try parse("").databases[0].pool
        #expect(pool.size == 20 && pool.minPoolSize == 0 && pool.reservePoolSize == 0)
        #expect(pool.reservePoolTimeoutSeconds == 5 && pool.queryWaitTimeoutSeconds == 120)
        #expect(pool.serverLifetimeSeconds == 3600 && pool.serverIdleTimeoutSeconds == 600)
        #expect(pool.serverConnectTimeoutSeconds == 15 && pool.serverLoginRetrySeconds == 15)
        #expect(pool.queryTimeoutSeconds == 0 && pool.transactionTimeoutSeconds == 0)
        #expect(pool.mode == .transaction && pool.maxDBConnections == 0 && pool.maxDBClientConnections == 0)
        let settings = try parse("")
        #expect(settings.limits.autodbIdleTimeoutSeconds == 3600 && settings.limits.maxUserConnections == 0)
        #expect(settings.listen.tcp == TCPSettings() && settings.listen.packetSizeMax == 2_147_483_647)
    }

    @Test func `a database takes what is said for all, and says what is other`() throws {
        let settings = try parse(
            "pool: {size: 7, query_timeout: 3, max_user_connections: 9}", pool: ", pool: {query_timeout: 4}",
            extra: "  other: {old: \"host=a\", new: \"host=b\"}")
        #expect(settings.databases.map(\.pool.size) == [7, 7])
        #expect(settings.databases.map(\.pool.queryTimeoutSeconds) == [4, 3])
        #expect(settings.limits.maxUserConnections == 9)
    }

    @Test func `PgBouncer's other names are taken, but not beside ours`() throws {
        #expect(try parse("pool: {default_pool_size: 7}").databases[0].pool.size == 7)
        #expect(try parse("", pool: ", pool: {pool_size: 8}").databases[0].pool.size == 8)
        #expect(try parse("listen: {max_client_conn: 5}").listen.clientsMax == 5)
        #expect(throws: SettingsError.self) { try parse("pool: {size: 7, default_pool_size: 8}") }
    }

    @Test func `users have settings of their own, and what is empty is not said`() throws {
        let settings = try parse(
            "users: {ann: {pool_size: 3, query_timeout: 0.5, pool_mode: session, client_idle_timeout: }}")
        let ann = try #require(settings.user(named: "ann"))
        #expect(ann.poolSize == 3 && ann.queryTimeoutSeconds == 0.5 && ann.poolMode == .session)
        #expect(ann.clientIdleTimeoutSeconds == nil && ann.maxUserConnections == nil)
        #expect(settings.user(named: "bob") == nil)
        let keys = ReloadPolicy.changes(from: try parse(""), to: settings)
        #expect(keys.map(\.key) == ["users.ann.pool_size", "users.ann.pool_mode", "users.ann.query_timeout"])
        #expect(keys.allSatisfy { $0.effect == .reload })
    }

    @Test(arguments: [
        ("users: {ann: {pool_size: 0}}", "users.ann.pool_size: expected a whole number from 1"),
        ("users: {ann: {size: 1}}", "users.ann.size: unknown key"), ("users: [ann]", "users: expected a mapping"),
        ("pool: {min_pool_size: -1}", "pool.min_pool_size: expected"),
        ("pool: {pool_mode: statement}", "pool.pool_mode"),
        ("pool: {max_protocol_version: 3.1}", "pool.max_protocol_version"),
        ("listen: {max_packet_size: 9999}", "listen.max_packet_size: expected"),
        ("listen: {tcp_keepalive: 2}", "listen.tcp_keepalive"), ("listen: {listen_backlog: 0}", "listen.listen_backlog"),
        ("pool: {query_timeout: -1}", "pool.query_timeout"), ("pool: {max_user_connection: 1}", "did you mean"),
    ])
    func `what cannot be is refused with its key`(text: String, message: String) {
        do {
            _ = try parse(text)
            Issue.record("accepted: \(text)")
        } catch {
            #expect(error.description.contains(message), "\(error)")
        }
    }

    @Test func `what every name gets cannot be mirrored`() throws {
        let entry = "  \"*\": {old: \"host=a\", new: \"host=b\"MIRROR}"
        let settings = try parse("", extra: entry.replacing("MIRROR", with: ""))
        #expect(settings.databases[1].isWildcard && !settings.databases[0].isWildcard)
        #expect(throws: SettingsError.self) {
            try parse("", extra: entry.replacing("MIRROR", with: ", mirror: {mode: async}"))
        }
    }
}
