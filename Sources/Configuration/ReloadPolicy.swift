/// What differs between two settings, and whether a reload can take it over. Immutable, any thread.
package enum ReloadPolicy {
    package enum Effect: String, Sendable { case reload, restart }

    package struct Change: Sendable, Equatable {
        /// `databases.shop.reads.percent`
        package var key: String
        /// Passwords are masked; empty: the key was not there, or is no more.
        package var old: String
        package var new: String
        package var effect: Effect

        package init(key: String, old: String, new: String, effect: Effect) {
            self.key = key
            self.old = old
            self.new = new
            self.effect = effect
        }
    }

    /// In the order of `flatten`; empty when nothing changed.
    package static func changes(from old: Settings, to new: Settings) -> [Change] {
        let before = flatten(old)
        let after = flatten(new)
        let oldValues = Dictionary(before.map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
        let newValues = Dictionary(after.map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
        let kept = flatten(keepingRestartOnly(of: old, in: new))
        let keptValues = Dictionary(kept.map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
        func change(_ key: String, _ old: String?, _ new: String?) -> Change {
            Change(
                key: key, old: old.map { masked($0, key) } ?? "", new: new.map { masked($0, key) } ?? "",
                effect: keptValues[key] == new ? .reload : .restart)
        }
        var changes: [Change] = []
        for entry in after where oldValues[entry.key] != entry.value {
            changes.append(change(entry.key, oldValues[entry.key], entry.value))
        }
        for entry in before where newValues[entry.key] == nil {
            changes.append(change(entry.key, entry.value, nil))
        }
        return changes
    }

    /// Sockets, threads and files that are opened once need a restart, and so do the two databases themselves.
    package static func effect(of key: String) -> Effect {
        switch key {
        case "listen.clients_max", "listen.client_login_timeout", "listen.max_packet_size", "admin.users",
            "admin.stats_users", "listen.takeover_wait":
            return .reload
        default:
            let sections = ["log.", "auth.", "pool.", "breaker.", "users", "events.", "listen.tcp_", "capture."]
            if sections.contains(where: { key.hasPrefix($0) }) { return .reload }
        }
        if key.hasPrefix("listen.tls.") || key.hasPrefix("admin.http.tls.") { return .reload }
        guard key.hasPrefix("databases.") else { return .restart }
        // A database may be called as a section is, and its name may hold dots: the last parts decide.
        let parts = key.split(separator: ".")
        if parts.count > 2, parts.last == "rules" { return .reload }
        guard parts.count > 3, let name = parts.last else { return .restart }
        let section = parts[parts.count - 2]
        guard SettingsReader.keys["databases.*.\(section)"]?.contains(String(name)) == true else { return .restart }
        if section == "mirror" { return ["ddl", "ddl_wait", "bulk"].contains(name) ? .reload : .restart }
        return ["auth", "pool", "reads", "breaker", "shadow"].contains(section) ? .reload : .restart
    }

    /// What a reload makes of `next`: what needs a restart stays as it runs now.
    package static func keepingRestartOnly(of running: Settings, in next: Settings) -> Settings {
        var kept = next
        kept.listen = running.listen
        kept.listen.clientsMax = next.listen.clientsMax
        kept.listen.clientLoginTimeoutSeconds = next.listen.clientLoginTimeoutSeconds
        kept.listen.packetSizeMax = next.listen.packetSizeMax
        kept.listen.tcp = next.listen.tcp
        kept.listen.tls = next.listen.tls
        kept.listen.takeoverWaitSeconds = next.listen.takeoverWaitSeconds
        kept.admin.http = running.admin.http
        kept.admin.http.tls = next.admin.http.tls
        kept.state = running.state
        kept.databases = running.databases.map { database in
            guard let wanted = next.database(named: database.name) else { return database }
            var merged = database
            merged.lookUp = wanted.lookUp
            merged.pool = wanted.pool
            merged.reads = wanted.reads
            merged.rules = wanted.rules
            merged.breaker = wanted.breaker
            merged.shadow = wanted.shadow
            if isForAnotherNew(wanted, database) { withholdReads(of: &merged, running: database) }
            merged.mirror.ddl = wanted.mirror.ddl
            merged.mirror.ddlWaitSeconds = wanted.mirror.ddlWaitSeconds
            merged.mirror.bulk = wanted.mirror.bulk
            return merged
        }
        return kept
    }

    /// What it says of reads is for a NEW that follows OLD from the next start on only.
    private static func isForAnotherNew(_ wanted: DatabaseSettings, _ running: DatabaseSettings) -> Bool {
        if wanted.old != running.old || wanted.new != running.new { return true }
        return running.mirror.mode == .off && wanted.mirror.mode != .off
    }

    /// No share of what is read or compared there is above the present one.
    private static func withholdReads(of merged: inout DatabaseSettings, running: DatabaseSettings) {
        merged.reads.hundredths = min(merged.reads.hundredths, running.reads.hundredths)
        merged.shadow.hundredths = min(merged.shadow.hundredths, running.shadow.hundredths)
        for index in merged.reads.cohorts.indices {
            let cohort = merged.reads.cohorts[index]
            let present = running.reads.cohorts.first { $0.name == cohort.name && $0.members == cohort.members }
            merged.reads.cohorts[index].hundredths = min(
                cohort.hundredths, present?.hundredths ?? running.reads.hundredths)
        }
        merged.rules.removeAll { $0.action == .new && !running.rules.contains($0) }
    }

    /// Every setting as key and text, in the order of conf/godwit.yaml.
    package static func flatten(_ settings: Settings) -> [(key: String, value: String)] {
        var all: [(key: String, value: String)] = []
        let listen = settings.listen
        all.append(("listen.address", listen.address))
        all.append(("listen.port", "\(listen.port)"))
        all.append(("listen.unix_socket_directory", listen.unixSocketDirectory))
        all.append(("listen.threads", "\(listen.threads)"))
        all.append(("listen.clients_max", "\(listen.clientsMax)"))
        all.append(("listen.client_login_timeout", seconds(listen.clientLoginTimeoutSeconds)))
        all.append(("listen.listen_backlog", "\(listen.backlog)"))
        all.append(("listen.max_packet_size", "\(listen.packetSizeMax)"))
        all.append(("listen.tcp_keepalive", listen.tcp.keepalive ? "1" : "0"))
        all.append(("listen.tcp_keepcnt", "\(listen.tcp.keepaliveCount)"))
        all.append(("listen.tcp_keepidle", "\(listen.tcp.keepaliveIdleSeconds)"))
        all.append(("listen.tcp_keepintvl", "\(listen.tcp.keepaliveIntervalSeconds)"))
        all.append(("listen.tcp_user_timeout", "\(listen.tcp.userTimeoutMillis)"))
        all.append(("listen.takeover_wait", seconds(listen.takeoverWaitSeconds)))
        all.append(("listen.tls.mode", listen.tls.mode.rawValue))
        all.append(("listen.tls.certificate", listen.tls.certificate))
        all.append(("listen.tls.key", listen.tls.key))
        all.append(("listen.tls.client_ca", listen.tls.clientCA))
        all.append(("listen.tls.client_crl", listen.tls.clientCRL))
        all.append(("listen.tls.min_version", listen.tls.minVersion.rawValue))
        all.append(("listen.tls.max_version", listen.tls.maxVersion.rawValue))
        all.append(("listen.tls.ciphers", listen.tls.ciphers))
        all.append(("listen.tls.cipher_suites", listen.tls.cipherSuites))
        all.append(("auth.method", settings.auth.method.rawValue))
        all.append(("auth.users_file", settings.auth.usersFile))
        all.append(("auth.hba_file", settings.auth.hbaFile))
        all.append(("auth.ident_file", settings.auth.identFile))
        all.append(("auth.ident_map", settings.auth.identMap))
        all.append(("auth.auth_user", settings.auth.lookUp.user))
        all.append(("auth.auth_dbname", settings.auth.lookUp.database))
        all.append(("auth.auth_query", settings.auth.lookUp.query))
        all.append(("auth.auth_query_cache", seconds(settings.auth.cacheSeconds)))
        all.append(("admin.users", settings.admin.users.joined(separator: ", ")))
        all.append(("admin.stats_users", settings.admin.statsUsers.joined(separator: ", ")))
        all.append(("admin.http.address", settings.admin.http.address))
        all.append(("admin.http.port", "\(settings.admin.http.port)"))
        all.append(("admin.http.token_file", settings.admin.http.tokenFile))
        all.append(("admin.http.read_token_file", settings.admin.http.readTokenFile))
        all.append(("admin.http.allow_plain_tokens", "\(settings.admin.http.allowsPlainTokens)"))
        all.append(("admin.http.tls.certificate", settings.admin.http.tls.certificate))
        all.append(("admin.http.tls.key", settings.admin.http.tls.key))
        all.append(("admin.http.tls.min_version", settings.admin.http.tls.minVersion.rawValue))
        all.append(("state.path", settings.state.path))
        all.append(("state.url", settings.state.url))
        all.append(("state.address", settings.state.address))
        all.append(("log.level", settings.log.level.rawValue))
        all.append(("log.format", settings.log.format.rawValue))
        all.append(("log.literals", "\(settings.log.literals)"))
        all.append(("log.rate", "\(settings.log.rate)"))
        all.append(("events.hooks", settings.events.hooks.joined(separator: ", ")))
        all.append(("events.hook_timeout", seconds(settings.events.hookTimeoutSeconds)))
        all.append(("capture.directory", settings.capture.directory))
        all.append(("capture.file_max", "\(settings.capture.fileBytesMax)"))
        all.append(("capture.copy_max", "\(settings.capture.copyBytesMax)"))
        all += flatten(settings.pool).map { (key: "pool.\($0.0)", value: $0.1) }
        all.append(("pool.max_user_connections", "\(settings.limits.maxUserConnections)"))
        all.append(("pool.max_user_client_connections", "\(settings.limits.maxUserClientConnections)"))
        all.append(("pool.autodb_idle_timeout", seconds(settings.limits.autodbIdleTimeoutSeconds)))
        all += flatten(settings.breaker).map { (key: "breaker.\($0.0)", value: $0.1) }
        for user in settings.users { all += flatten(user) }
        for database in settings.databases { all += flatten(database) }
        return all
    }

    private static func flatten(_ database: DatabaseSettings) -> [(key: String, value: String)] {
        let pool = database.pool
        let values: [(String, String)] = [
            ("old", database.old),
            ("new", database.new),
            ("control.old", database.controlOld),
            ("control.new", database.controlNew),
            ("auth.auth_user", database.lookUp.user),
            ("auth.auth_dbname", database.lookUp.database),
            ("auth.auth_query", database.lookUp.query),
        ] + flatten(pool).map { ("pool.\($0.0)", $0.1) } + [
            ("reads.percent", Percent.text(database.reads.hundredths)),
            ("reads.key", database.reads.key.map(text).joined(separator: ", ")),
            ("reads.keyless", database.reads.keyless.rawValue),
            ("reads.cohorts", database.reads.cohorts.map(text).joined(separator: ", ")),
            ("reads.promote", database.reads.promote.rawValue),
            ("reads.promote_after", "\(database.reads.promoteAfter)"),
            ("reads.promote_p95_factor", seconds(database.reads.promoteFactor)),
            ("reads.transactions", database.reads.transactions.rawValue),
            ("reads.consistency", database.reads.consistency.rawValue),
            ("reads.consistency_wait_millis", "\(database.reads.consistencyWaitMillis)"),
            ("rules", database.rules.map(text).joined(separator: "; ")),
            ("mirror.mode", database.mirror.mode.rawValue),
            ("mirror.ddl", database.mirror.ddl.rawValue),
            ("mirror.ddl_wait", seconds(database.mirror.ddlWaitSeconds)),
            ("mirror.poll_millis", "\(database.mirror.pollMillis)"),
            ("mirror.backfill_rows", "\(database.mirror.backfillRows)"),
            ("mirror.backfill_rate", "\(database.mirror.backfillRate)"),
            ("mirror.throttle_lag", seconds(database.mirror.throttleLagSeconds)),
            ("mirror.throttle_sessions", "\(database.mirror.throttleSessions)"),
            ("mirror.throttle_query", database.mirror.throttleQuery),
            ("mirror.sync_wait", seconds(database.mirror.syncWaitSeconds)),
            ("mirror.lag_max", seconds(database.mirror.lagMaxSeconds)),
            ("mirror.tables", database.mirror.tables.map(\.text).joined(separator: "; ")),
            ("mirror.bulk", database.mirror.bulk.joined(separator: ", ")),
        ] + flatten(database.breaker).map { ("breaker.\($0.0)", $0.1) } + [
            ("shadow.percent", Percent.text(database.shadow.hundredths)),
            ("shadow.pause", seconds(database.shadow.pauseSeconds)),
            ("shadow.timeout", seconds(database.shadow.timeoutSeconds)),
            ("shadow.rows_max", "\(database.shadow.rowsMax)"),
            ("shadow.show_values", "\(database.shadow.showsValues)"),
            ("shadow.old", database.shadow.old), ("shadow.new", database.shadow.new),
        ]
        return values.map { (key: "databases.\(database.name).\($0.0)", value: $0.1) }
    }

    private static func flatten(_ breaker: BreakerSettings) -> [(String, String)] {
        [
            ("failures", "\(breaker.failures)"), ("held", seconds(breaker.heldSeconds)),
            ("probes", "\(breaker.probes)"), ("memory", seconds(breaker.memorySeconds)),
            ("window", seconds(breaker.windowSeconds)), ("window_calls", "\(breaker.windowCalls)"),
            ("error_points", Percent.text(breaker.errorPointsHundredths)), ("p95_factor", seconds(breaker.p95Factor)),
            ("p95_slack_millis", "\(breaker.p95SlackMillis)"),
            ("mismatch_percent", Percent.text(breaker.mismatchHundredths)), ("lag", seconds(breaker.lagSeconds)),
            ("read_timeout_millis", "\(breaker.readTimeoutMillis)"),
            ("read_timeout_p99_factor", seconds(breaker.readTimeoutFactor)),
            ("patience", seconds(breaker.patienceSeconds)), ("rollback", breaker.rollback.rawValue),
            ("safe_after", seconds(breaker.safeAfterSeconds)),
        ]
    }

    private static func flatten(_ pool: PoolSettings) -> [(String, String)] {
        [
            ("size", "\(pool.size)"), ("min_pool_size", "\(pool.minPoolSize)"),
            ("reserve_pool_size", "\(pool.reservePoolSize)"),
            ("reserve_pool_timeout", seconds(pool.reservePoolTimeoutSeconds)),
            ("max_db_connections", "\(pool.maxDBConnections)"),
            ("max_db_client_connections", "\(pool.maxDBClientConnections)"),
            ("pool_mode", pool.mode.rawValue),
            ("waiters_max", "\(pool.waitersMax)"),
            ("query_wait_timeout", seconds(pool.queryWaitTimeoutSeconds)),
            ("query_timeout", seconds(pool.queryTimeoutSeconds)),
            ("transaction_timeout", seconds(pool.transactionTimeoutSeconds)),
            ("idle_transaction_timeout", seconds(pool.idleTransactionTimeoutSeconds)),
            ("client_idle_timeout", seconds(pool.clientIdleTimeoutSeconds)),
            ("server_connect_timeout", seconds(pool.serverConnectTimeoutSeconds)),
            ("server_login_retry", seconds(pool.serverLoginRetrySeconds)),
            ("server_idle_timeout", seconds(pool.serverIdleTimeoutSeconds)),
            ("server_lifetime", seconds(pool.serverLifetimeSeconds)),
            ("max_prepared_statements", "\(pool.preparedStatementsMax)"),
            ("max_protocol_version", pool.protocolVersion.rawValue),
        ]
    }

    /// What is said; the rest is the database's.
    private static func flatten(_ user: UserSettings) -> [(key: String, value: String)] {
        let values: [(String, String?)] = [
            ("pool_size", user.poolSize.map { "\($0)" }),
            ("reserve_pool_size", user.reservePoolSize.map { "\($0)" }),
            ("pool_mode", user.poolMode?.rawValue),
            ("max_user_connections", user.maxUserConnections.map { "\($0)" }),
            ("max_user_client_connections", user.maxUserClientConnections.map { "\($0)" }),
            ("query_timeout", user.queryTimeoutSeconds.map(seconds)),
            ("transaction_timeout", user.transactionTimeoutSeconds.map(seconds)),
            ("idle_transaction_timeout", user.idleTransactionTimeoutSeconds.map(seconds)),
            ("client_idle_timeout", user.clientIdleTimeoutSeconds.map(seconds)),
        ]
        return values.compactMap { name, value in value.map { (key: "users.\(user.name).\(name)", value: $0) } }
    }

    private static func seconds(_ value: Double) -> String {
        value == value.rounded() ? "\(Int(value))" : "\(value)"
    }

    private static func text(_ source: ReadSettings.KeySource) -> String {
        switch source {
        case .comment(let name): "comment: \(name)"
        case .setting(let name): "setting: \(name)"
        case .column(let name): "column: \(name)"
        case .sessionUser: "session: user"
        case .applicationName: "session: application_name"
        case .clientAddress: "session: client_address"
        }
    }

    /// Keys are users: their number is enough for a log, the list is in the file. A digest tells lists apart.
    private static func text(_ cohort: ReadSettings.Cohort) -> String {
        let members: String
        switch cohort.members {
        case .keys(let keys):
            var digest: UInt64 = 0xCBF2_9CE4_8422_2325
            for key in keys {
                for byte in key.utf8 { digest = (digest ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
                digest = (digest ^ 0xFF) &* 0x0000_0100_0000_01B3
            }
            members = "\(keys.count) keys (\(String(digest, radix: 16)))"
        case .file(let file): members = "\(file.count) keys of \(file.path) (\(String(file.mark, radix: 16)))"
        case .pattern(let pattern): members = "\(cohort.members.kind) \(pattern)"
        case .range(let range): members = "\(range.lowerBound) to \(range.upperBound)"
        }
        return "\(cohort.name): \(Percent.text(cohort.hundredths)) % of \(members)"
    }

    private static func text(_ rule: RuleSettings) -> String {
        "\(rule.name): \(rule.actionName) for \(rule.matchText)"
    }

    // MARK: passwords

    package static func masked(_ value: String, _ key: String) -> String {
        let isConninfo = key.hasSuffix(".old") || key.hasSuffix(".new") || key == "state.url"
        return isConninfo ? maskedConninfo(value) : value
    }

    /// `password=…` and `sslpassword=…` in key=value form, `user:password@` and what a query names so in a URI.
    package static func maskedConninfo(_ conninfo: String) -> String {
        let isURI = conninfo.contains(/^\s*postgres(?:ql)?:\/\//)
        // As libpq reads them: in a query up to the next `&`, else up to a blank, or in quotes.
        let masked = isURI
            ? conninfo.replacing(/(password=)[^&]*/.ignoresCase()) { "\($0.output.1)***" }
            : conninfo.replacing(/(password\s*=\s*)('(?:[^'\\]|\\.|'')*'?|(?:[^\s\\]|\\.)+)/.ignoresCase()) {
                "\($0.output.1)***"
            }
        return masked.replacing(/(postgres(?:ql)?:\/\/[^:@\/?]*:)[^@\/]*@/) { "\($0.output.1)***@" }
    }
}
