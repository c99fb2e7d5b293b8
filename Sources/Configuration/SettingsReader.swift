import Foundation
import Yams

/// From the YAML tree to checked settings. Lives within one call.
struct SettingsReader {
    /// Every key by its section: what is not here is unknown. `databases.*` stands for each database.
    static let keys: [String: [String]] = [
        "": ["listen", "auth", "admin", "state", "log", "events", "capture", "pool", "breaker", "users", "databases"],
        "listen": [
            "address", "port", "unix_socket_directory", "threads", "clients_max", "client_login_timeout", "tls",
            "listen_backlog", "max_packet_size", "tcp_keepalive", "tcp_keepcnt", "tcp_keepidle", "tcp_keepintvl",
            "tcp_user_timeout", "takeover_wait",
        ],
        "listen.tls": [
            "mode", "certificate", "key", "client_ca", "client_crl", "min_version", "max_version", "ciphers",
            "cipher_suites",
        ],
        "auth": [
            "method", "users_file", "hba_file", "ident_file", "ident_map", "auth_user", "auth_dbname", "auth_query",
            "auth_query_cache",
        ],
        "admin": ["users", "stats_users", "http"],
        "admin.http": ["address", "port", "token_file", "read_token_file", "allow_plain_tokens", "tls"],
        "admin.http.tls": ["certificate", "key", "min_version"],
        "state": ["path", "url", "address"],
        "log": ["level", "format", "literals", "rate"],
        "events": eventKeys,
        "capture": ["directory", "file_max", "copy_max"],
        "databases.*": [
            "old", "new", "control", "auth", "pool", "reads", "rules", "mirror", "breaker",
            "shadow",
        ],
        "databases.*.control": ["old", "new"],
        "databases.*.auth": ["auth_user", "auth_dbname", "auth_query"],
        "pool": poolKeys + ["max_user_connections", "max_user_client_connections", "autodb_idle_timeout"],
        "users.*": [
            "pool_size", "reserve_pool_size", "pool_mode", "max_user_connections", "max_user_client_connections",
            "query_timeout", "transaction_timeout", "idle_transaction_timeout", "client_idle_timeout",
        ],
        "databases.*.pool": poolKeys,
        "databases.*.reads": [
            "percent", "key", "keyless", "cohorts", "promote", "promote_after", "promote_p95_factor", "transactions",
            "consistency", "consistency_wait_millis",
        ],
        "databases.*.mirror": [
            "mode", "sync_wait", "ddl", "ddl_wait", "poll_millis", "backfill_rows", "backfill_rate",
            "throttle_lag", "throttle_sessions", "throttle_query", "lag_max", "tables", "bulk",
        ],
        "breaker": breakerKeys,
        "databases.*.breaker": breakerKeys,
        "databases.*.shadow": ["percent", "pause", "timeout", "rows_max", "show_values", "old", "new"],
    ]

    private static let poolKeys = [
        "size", "min_pool_size", "reserve_pool_size", "reserve_pool_timeout", "max_db_connections",
        "max_db_client_connections", "pool_mode", "waiters_max", "query_wait_timeout", "query_timeout",
        "transaction_timeout", "idle_transaction_timeout", "client_idle_timeout", "server_connect_timeout",
        "server_login_retry", "server_idle_timeout", "server_lifetime", "max_prepared_statements",
        "max_protocol_version",
    ]

    /// PgBouncer's names for what has another name here.
    static let aliases: [String: [String: String]] = [
        "listen": ["max_client_conn": "clients_max"],
        "admin": ["admin_users": "users"],
        "pool": ["default_pool_size": "size", "pool_size": "size"],
        "databases.*.pool": ["default_pool_size": "size", "pool_size": "size"],
    ]

    /// The console's database.
    static let reservedDatabase = "godwit"

    let path: String

    func read(_ root: Node) throws(SettingsError) -> Settings {
        var nodes = 0
        try count(root, depth: 0, &nodes)
        let top = try Section(root, path: path, key: "", keys: Self.keys[""])
        var settings = Settings()
        if let listen = try section(top, "listen") { try read(listen, &settings.listen) }
        if let auth = try section(top, "auth") { try read(auth, &settings.auth) }
        if let admin = try section(top, "admin") { try read(admin, &settings.admin) }
        if let state = try section(top, "state") {
            try state.text("path", &settings.state.path)
            try state.text("url", &settings.state.url)
            try state.text("address", &settings.state.address)
            let address = settings.state.address
            if !address.isEmpty, address.wholeMatch(of: /https?:\/\/[^\/?#\s@]+\/?/) == nil {
                throw SettingsError(
                    path: path, line: state.line, key: "state.address",
                    .conflict("it is to be like http://10.0.0.5:9632 or https://godwit-1.example:9632"))
            }
        }
        settings.state.path = resolved(settings.state.path)
        if let log = try section(top, "log") { try read(log, &settings.log) }
        if let events = try section(top, "events") { try read(events, &settings.events) }
        if let capture = try section(top, "capture") { try read(capture, &settings.capture) }
        if let pool = try section(top, "pool") {
            try read(pool, &settings.pool)
            try pool.number("max_user_connections", counts, &settings.limits.maxUserConnections)
            try pool.number("max_user_client_connections", counts, &settings.limits.maxUserClientConnections)
            try pool.seconds("autodb_idle_timeout", &settings.limits.autodbIdleTimeoutSeconds)
        }
        if let breaker = try section(top, "breaker") { try read(breaker, &settings.breaker) }
        try readUsers(top, &settings)
        try readDatabases(top, &settings)
        if settings.auth.method == .cert, settings.listen.tls.mode == .disable || settings.listen.tls.clientCA.isEmpty {
            throw SettingsError(
                path: path, line: (try section(top, "auth"))?.line ?? 1, key: "auth.method",
                .conflict("cert needs listen.tls with a mode other than disable, and its client_ca"))
        }
        let looksUp = !settings.auth.lookUp.user.isEmpty || settings.databases.contains { !$0.lookUp.user.isEmpty }
        if ![.trust, .hba, .cert].contains(settings.auth.method) && settings.auth.usersFile.isEmpty && !looksUp {
            throw SettingsError(
                path: path, line: (try section(top, "auth"))?.line ?? 1, key: "auth.users_file", .missing)
        }
        return settings
    }

    private func read(_ section: Section, _ log: inout LogSettings) throws(SettingsError) {
        try section.choice("level", &log.level)
        try section.choice("format", &log.format)
        try section.flag("literals", &log.literals)
        try section.number("rate", 0...1_000_000, &log.rate)
    }

    private func section(_ parent: Section, _ name: String) throws(SettingsError) -> Section? {
        let key = parent.key.isEmpty ? name : "\(parent.key).\(name)"
        return try parent.section(name, keys: Self.keys[pattern(key)], aliases: Self.aliases[pattern(key)] ?? [:])
    }

    /// `databases.shop.pool` to `databases.*.pool`. Names of databases may hold dots: the last part decides.
    private func pattern(_ key: String) -> String {
        guard key.hasPrefix("databases."), let last = key.split(separator: ".").last else { return key }
        return "databases.*.\(last)"
    }

    private func count(_ node: Node, depth: Int, _ nodes: inout Int) throws(SettingsError) {
        nodes += 1
        let line = node.mark?.line ?? 1
        if depth > SettingsLimits.depthMax {
            throw SettingsError(path: path, line: line, key: "", .tooDeep(max: SettingsLimits.depthMax))
        }
        if nodes > SettingsLimits.nodesMax {
            throw SettingsError(path: path, line: line, key: "", .tooManyNodes(max: SettingsLimits.nodesMax))
        }
        switch node {
        case .scalar: break
        case .alias: throw SettingsError(path: path, line: line, key: "", .aliases)
        case .sequence(let sequence):
            for child in sequence { try count(child, depth: depth + 1, &nodes) }
        case .mapping(let mapping):
            for (key, value) in mapping {
                try count(key, depth: depth + 1, &nodes)
                try count(value, depth: depth + 1, &nodes)
            }
        }
    }

    /// Relative to the folder of the configuration file; empty stays empty.
    func resolved(_ file: String) -> String { file.isEmpty ? "" : Self.place(of: file, besides: path) }

    /// Where a file is that another one names.
    static func place(of file: String, besides path: String) -> String {
        // Foundation's deletingLastPathComponent traps on names of one character.
        guard !file.hasPrefix("/"), let slash = path.lastIndex(of: "/") else { return file }
        return path[...slash] + file
    }

    // MARK: sections

    private func read(_ section: Section, _ listen: inout ListenSettings) throws(SettingsError) {
        try section.text("address", &listen.address)
        try section.port("port", 0...65_535, &listen.port)
        try section.text("unix_socket_directory", &listen.unixSocketDirectory)
        try section.number("threads", 1...SettingsLimits.threadsMax, &listen.threads)
        try section.number("clients_max", 1...SettingsLimits.clientsMax, &listen.clientsMax)
        try section.seconds("client_login_timeout", &listen.clientLoginTimeoutSeconds)
        try section.number("listen_backlog", 1...65_535, &listen.backlog)
        try section.number("max_packet_size", SettingsLimits.packetSizes, &listen.packetSizeMax)
        try section.seconds("takeover_wait", &listen.takeoverWaitSeconds)
        try read(section, &listen.tcp)
        guard let tls = try self.section(section, "tls") else { return }
        try tls.choice("mode", &listen.tls.mode)
        try tls.text("certificate", &listen.tls.certificate)
        try tls.text("key", &listen.tls.key)
        try tls.text("client_ca", &listen.tls.clientCA)
        try tls.text("client_crl", &listen.tls.clientCRL)
        try tls.choice("min_version", &listen.tls.minVersion)
        try tls.choice("max_version", &listen.tls.maxVersion)
        try tls.text("ciphers", &listen.tls.ciphers)
        try tls.text("cipher_suites", &listen.tls.cipherSuites)
        listen.tls.certificate = resolved(listen.tls.certificate)
        listen.tls.key = resolved(listen.tls.key)
        listen.tls.clientCA = resolved(listen.tls.clientCA)
        listen.tls.clientCRL = resolved(listen.tls.clientCRL)
        try check(tls, listen.tls)
    }

    private func check(_ section: Section, _ tls: TLSSettings) throws(SettingsError) {
        if tls.minVersion == .v13 && tls.maxVersion == .v12 {
            throw section.error("min_version", .conflict("is above max_version"))
        }
        if tls.mode == .disable { return }
        for (name, value) in [("certificate", tls.certificate), ("key", tls.key)] where value.isEmpty {
            throw section.error(name, .missing)
        }
        if [.verifyCA, .verifyFull].contains(tls.mode) && tls.clientCA.isEmpty {
            throw section.error("client_ca", .missing)
        }
        if !tls.clientCRL.isEmpty && tls.clientCA.isEmpty {
            throw section.error("client_crl", .conflict("needs client_ca"))
        }
    }

    private func read(_ section: Section, _ tcp: inout TCPSettings) throws(SettingsError) {
        var keepalive = 1
        try section.number("tcp_keepalive", 0...1, &keepalive)
        tcp.keepalive = keepalive == 1
        try section.number("tcp_keepcnt", 0...127, &tcp.keepaliveCount)
        try section.number("tcp_keepidle", 0...32_767, &tcp.keepaliveIdleSeconds)
        try section.number("tcp_keepintvl", 0...32_767, &tcp.keepaliveIntervalSeconds)
        try section.number("tcp_user_timeout", 0...Int(Int32.max), &tcp.userTimeoutMillis)
    }

    private func read(_ section: Section, _ auth: inout AuthSettings) throws(SettingsError) {
        try section.choice("method", &auth.method)
        try section.text("users_file", &auth.usersFile)
        try section.text("hba_file", &auth.hbaFile)
        try section.text("ident_file", &auth.identFile)
        try read(section, &auth.lookUp)
        try section.seconds("auth_query_cache", &auth.cacheSeconds)
        auth.usersFile = resolved(auth.usersFile)
        try section.text("ident_map", &auth.identMap)
        auth.hbaFile = resolved(auth.hbaFile)
        auth.identFile = resolved(auth.identFile)
        if !auth.identMap.isEmpty && auth.identFile.isEmpty { throw section.error("ident_file", .missing) }
        if auth.method == .hba && auth.hbaFile.isEmpty { throw section.error("hba_file", .missing) }
        if auth.method != .hba && !auth.hbaFile.isEmpty {
            throw section.error("hba_file", .conflict("is read with method: hba only"))
        }
    }

    private func read(_ section: Section, _ lookUp: inout LookUpSettings) throws(SettingsError) {
        try section.text("auth_user", &lookUp.user)
        try section.text("auth_dbname", &lookUp.database)
        try section.text("auth_query", &lookUp.query)
        if !lookUp.query.isEmpty && !lookUp.query.contains("$1") {
            throw section.error("auth_query", .expected("a query with $1 for the user's name", found: "none"))
        }
    }

    private func read(_ section: Section, _ admin: inout AdminSettings) throws(SettingsError) {
        if let users = try section.list("users", max: SettingsLimits.usersMax) {
            admin.users = try texts(users, "admin.users")
        }
        if let users = try section.list("stats_users", max: SettingsLimits.usersMax) {
            admin.statsUsers = try texts(users, "admin.stats_users")
        }
        guard let http = try self.section(section, "http") else { return }
        try http.text("address", &admin.http.address)
        try http.port("port", 0...65_535, &admin.http.port)
        try http.text("token_file", &admin.http.tokenFile)
        admin.http.tokenFile = resolved(admin.http.tokenFile)
        try http.text("read_token_file", &admin.http.readTokenFile)
        admin.http.readTokenFile = resolved(admin.http.readTokenFile)
        try http.flag("allow_plain_tokens", &admin.http.allowsPlainTokens)
        guard let tls = try self.section(http, "tls") else { return }
        try tls.text("certificate", &admin.http.tls.certificate)
        try tls.text("key", &admin.http.tls.key)
        try tls.choice("min_version", &admin.http.tls.minVersion)
        admin.http.tls.certificate = resolved(admin.http.tls.certificate)
        admin.http.tls.key = resolved(admin.http.tls.key)
        let isHalf = admin.http.tls.certificate.isEmpty != admin.http.tls.key.isEmpty
        if isHalf { throw tls.error(admin.http.tls.key.isEmpty ? "key" : "certificate", .missing) }
    }

    private func read(_ section: Section, _ capture: inout CaptureSettings) throws(SettingsError) {
        try section.text("directory", &capture.directory)
        capture.directory = resolved(capture.directory)
        try section.number("file_max", 4096...(1 << 50), &capture.fileBytesMax)
        try section.number("copy_max", 0...(1 << 40), &capture.copyBytesMax)
    }

    func texts(_ nodes: [Node], _ key: String) throws(SettingsError) -> [String] {
        var texts: [String] = []
        for node in nodes { texts.append(try Section.text(node, path: path, key: key)) }
        return texts
    }

    // MARK: users

    private func readUsers(_ top: Section, _ settings: inout Settings) throws(SettingsError) {
        guard let node = top.node("users"), case .mapping(let mapping) = node else {
            _ = try top.section("users", keys: nil)
            return
        }
        if mapping.count > SettingsLimits.userSettingsMax {
            let most = SettingsLimits.userSettingsMax
            throw top.error("users", .expected("at most \(most) users", found: "\(mapping.count)"))
        }
        _ = try top.section("users", keys: nil)
        for (name, value) in mapping {
            let text = try Section.text(name, path: path, key: "users")
            let section = try Section(value, path: path, key: "users.\(text)", keys: Self.keys["users.*"])
            var user = UserSettings(name: text)
            user.poolSize = try section.optionalNumber("pool_size", 1...SettingsLimits.poolSizeMax)
            user.reservePoolSize = try section.optionalNumber("reserve_pool_size", counts)
            user.maxUserConnections = try section.optionalNumber("max_user_connections", counts)
            user.maxUserClientConnections = try section.optionalNumber("max_user_client_connections", counts)
            user.queryTimeoutSeconds = try section.optionalSeconds("query_timeout")
            user.transactionTimeoutSeconds = try section.optionalSeconds("transaction_timeout")
            user.idleTransactionTimeoutSeconds = try section.optionalSeconds("idle_transaction_timeout")
            user.clientIdleTimeoutSeconds = try section.optionalSeconds("client_idle_timeout")
            if section.isSaid("pool_mode") {
                var mode = PoolSettings.Mode.transaction
                try section.choice("pool_mode", &mode)
                user.poolMode = mode
            }
            settings.users.append(user)
        }
    }

    private var counts: ClosedRange<Int> { 0...SettingsLimits.clientsMax }

    // MARK: databases

    private func readDatabases(_ top: Section, _ settings: inout Settings) throws(SettingsError) {
        guard let node = top.node("databases") else { throw top.error("databases", .missing) }
        _ = try top.section("databases", keys: nil)
        guard case .mapping(let mapping) = node, !mapping.isEmpty else {
            throw top.error("databases", .expected("at least one database", found: "none"))
        }
        if mapping.count > SettingsLimits.databasesMax {
            throw top.error(
                "databases", .expected("at most \(SettingsLimits.databasesMax) databases", found: "\(mapping.count)"))
        }
        for (name, value) in mapping {
            let text = try Section.text(name, path: path, key: "databases")
            let key = "databases.\(text)"
            let line = name.mark?.line ?? top.line
            if text == Self.reservedDatabase {
                let why = "is the name of the console's database"
                throw SettingsError(path: path, line: line, key: key, .conflict(why))
            }
            if text.isEmpty || text.utf8.count > 63 {
                throw SettingsError(
                    path: path, line: line, key: key, .expected("a name of 1 to 63 bytes", found: "\"\(text)\""))
            }
            let section = try Section(value, path: path, key: key, keys: Self.keys["databases.*"])
            settings.databases.append(try database(text, section, settings))
        }
    }

    private func database(
        _ name: String, _ section: Section, _ settings: Settings
    ) throws(SettingsError) -> DatabaseSettings {
        var database = DatabaseSettings(name: name)
        database.pool = settings.pool
        database.breaker = settings.breaker
        try section.text("old", &database.old)
        try section.text("new", &database.new)
        if database.old.isEmpty { throw section.error("old", .missing) }
        if database.new.isEmpty { throw section.error("new", .missing) }
        if let control = try self.section(section, "control") {
            try control.text("old", &database.controlOld)
            try control.text("new", &database.controlNew)
        }
        if database.controlOld.isEmpty { database.controlOld = database.old }
        if database.controlNew.isEmpty { database.controlNew = database.new }
        if let auth = try self.section(section, "auth") { try read(auth, &database.lookUp) }
        if let pool = try self.section(section, "pool") { try read(pool, &database.pool) }
        if let reads = try self.section(section, "reads") { try read(reads, &database.reads) }
        if let rules = try rules(section) { database.rules = rules }
        if let mirror = try self.section(section, "mirror") { try read(mirror, &database.mirror) }
        if let breaker = try self.section(section, "breaker") {
            try read(breaker, &database.breaker)
        }
        if database.isWildcard && database.mirror.mode != .off {
            throw section.error("mirror", .conflict("a database that is made on demand cannot be mirrored"))
        }
        if let shadow = try self.section(section, "shadow") {
            try read(shadow, &database.shadow)
            if database.shadow.hundredths > 0 && database.mirror.mode == .off {
                throw shadow.error("percent", .conflict(
                    "reads are compared where a mirror can hold both sides at one moment: set mirror.mode, too"))
            }
        }
        return database
    }

    private func read(_ section: Section, _ pool: inout PoolSettings) throws(SettingsError) {
        try section.number("size", 1...SettingsLimits.poolSizeMax, &pool.size)
        try section.number("min_pool_size", 0...SettingsLimits.poolSizeMax, &pool.minPoolSize)
        try section.number("reserve_pool_size", 0...SettingsLimits.poolSizeMax, &pool.reservePoolSize)
        try section.seconds("reserve_pool_timeout", &pool.reservePoolTimeoutSeconds)
        try section.number("max_db_connections", counts, &pool.maxDBConnections)
        try section.number("max_db_client_connections", counts, &pool.maxDBClientConnections)
        try section.choice("pool_mode", &pool.mode)
        try section.choice("max_protocol_version", &pool.protocolVersion)
        try section.seconds("query_timeout", &pool.queryTimeoutSeconds)
        try section.seconds("transaction_timeout", &pool.transactionTimeoutSeconds)
        try section.number("waiters_max", 1...SettingsLimits.clientsMax, &pool.waitersMax)
        try section.seconds("query_wait_timeout", &pool.queryWaitTimeoutSeconds)
        try section.seconds("server_connect_timeout", &pool.serverConnectTimeoutSeconds)
        try section.seconds("server_login_retry", &pool.serverLoginRetrySeconds)
        try section.seconds("server_idle_timeout", &pool.serverIdleTimeoutSeconds)
        try section.seconds("server_lifetime", &pool.serverLifetimeSeconds)
        try section.seconds("idle_transaction_timeout", &pool.idleTransactionTimeoutSeconds)
        try section.seconds("client_idle_timeout", &pool.clientIdleTimeoutSeconds)
        try section.number("max_prepared_statements", 0...100_000, &pool.preparedStatementsMax)
    }

    private func read(_ section: Section, _ mirror: inout MirrorSettings) throws(SettingsError) {
        // A bare off is a boolean to YAML 1.1, and printed as false by some tools.
        try section.choice("mode", &mirror.mode, aliases: ["false": .off, "Off": .off, "OFF": .off])
        try section.choice("ddl", &mirror.ddl)
        try section.seconds("ddl_wait", least: 0.01, &mirror.ddlWaitSeconds)
        try section.number("poll_millis", 1...60_000, &mirror.pollMillis)
        try section.number("backfill_rows", 1...10_000_000, &mirror.backfillRows)
        try section.number("backfill_rate", 0...1_000_000_000, &mirror.backfillRate)
        try section.seconds("throttle_lag", &mirror.throttleLagSeconds)
        try section.number("throttle_sessions", 0...1_000_000, &mirror.throttleSessions)
        try section.text("throttle_query", &mirror.throttleQuery)
        try section.seconds("sync_wait", least: 0.001, &mirror.syncWaitSeconds)
        try section.seconds("lag_max", least: 0.001, &mirror.lagMaxSeconds)
        let names = MappingReader(path: path)
        if let tables = try names.tables(section, "tables") { mirror.tables = tables }
        if let bulk = try names.names(section, "bulk") { mirror.bulk = bulk }
    }

    private func read(_ section: Section, _ shadow: inout ShadowSettings) throws(SettingsError) {
        try section.percent("percent", &shadow.hundredths)
        try section.seconds("pause", least: 0.01, &shadow.pauseSeconds)
        try section.seconds("timeout", least: 0.01, &shadow.timeoutSeconds)
        try section.number("rows_max", 1...1_000_000, &shadow.rowsMax)
        try section.flag("show_values", &shadow.showsValues)
        try section.text("old", &shadow.old)
        try section.text("new", &shadow.new)
    }

    private func read(_ section: Section, _ reads: inout ReadSettings) throws(SettingsError) {
        try section.percent("percent", &reads.hundredths)
        try section.choice("transactions", &reads.transactions)
        try section.choice("consistency", &reads.consistency)
        try section.number("consistency_wait_millis", 0...60_000, &reads.consistencyWaitMillis)
        if let sources = try section.list("key", max: SettingsLimits.keySourcesMax) {
            reads.key = []
            for node in sources { reads.key.append(try keySource(node, section.key)) }
        }
        try section.choice("keyless", &reads.keyless)
        try section.choice("promote", &reads.promote)
        try section.number("promote_after", 1...1_000_000, &reads.promoteAfter)
        try section.factor("promote_p95_factor", 1...1000, &reads.promoteFactor)
        if let cohorts = try cohorts(section) { reads.cohorts = cohorts }
    }

    private func keySource(_ node: Node, _ parent: String) throws(SettingsError) -> ReadSettings.KeySource {
        let key = "\(parent).key"
        let entry = try Section(node, path: path, key: key, keys: ["comment", "setting", "column", "session"])
        guard case .mapping(let mapping) = node, mapping.count == 1, let name = mapping.first?.key.string else {
            throw SettingsError(
                path: path, line: entry.line, key: key,
                .expected(
                    "one of {comment: …}, {setting: …}, {column: …}, {session: user}", found: Section.name(node)))
        }
        var value = ""
        try entry.text(name, &value)
        if !isName(value) {
            throw entry.error(name, .expected("letters, digits, _ and .", found: "\"\(value)\""))
        }
        switch name {
        case "comment": return .comment(value)
        case "setting":
            if value.contains(".") { return .setting(value) }
            throw entry.error(name, .expected("a name with a dot (godwit.user)", found: "\"\(value)\""))
        case "column": return .column(value)
        default:
            switch value {
            case "user": return .sessionUser
            case "application_name": return .applicationName
            case "client_address": return .clientAddress
            default:
                throw entry.error(
                    name, .expected("user, application_name or client_address", found: "\"\(value)\""))
            }
        }
    }

    private func isName(_ text: String) -> Bool {
        (1...63).contains(text.utf8.count)
            && text.utf8.allSatisfy { byte in
                (byte | 0x20) &- 0x61 < 26 || byte &- 0x30 < 10 || byte == 0x5F || byte == 0x2E || byte == 0x2D
            }
    }
}
