import ArgumentParser
import Configuration
import Glibc
import LibPQ
import Migration
import Mirroring
import Primitives
import Proxy
import Reactor
import Sessions

/// Says whether the file is right and both sides can do their part; changes nothing.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check the configuration file, the connections to both sides and what could not be mirrored.",
        discussion: """
            Reads the file and all that it names as serve would, connects as serve and the mirror would, and asks both \
            sides for what a migration needs. Exit status: 0 all is well, 1 problems (each named with its fix), 2 file \
            invalid or a side cannot be reached.
            """)

    @Option(name: .long, help: "Configuration file.") var config: String
    @Flag(name: .long, help: "One JSON object on standard output instead of lines.") var json = false
    @Flag(name: .long, help: "Only the file and what it names on this machine; connect nowhere.") var offline = false
    @Argument(help: "Name of one database in the file; without it all are checked.") var database: String?

    func run() throws {
        var report = CheckReport(isJSON: json)
        defer { if json { say(report.json) } }
        guard let settings = readFile(&report) else { throw ExitCode(2) }
        if let database, settings.database(named: database) == nil {
            report.add(.unknown, config, "no database '\(database)'")
            throw ExitCode(2)
        }
        report.tell("\(config): valid, \(settings.databases.count) databases")
        let auth = readAccess(settings, &report)
        checkCertificates(settings, &report)
        checkHTTP(settings.admin.http, &report)
        checkMachine(settings, &report)
        if report.status == 2 { throw ExitCode(2) }
        if !offline { checkState(settings, &report) }
        for entry in settings.databases where !offline && !entry.isWildcard {
            if database == nil || entry.name == database { check(entry, settings, auth, &report) }
        }
        if report.status != 0 { throw ExitCode(report.status) }
    }

    // MARK: the file, and what it names

    private func readFile(_ report: inout CheckReport) -> Settings? {
        do throws(SettingsError) { return try SettingsFile.load(path: config) } catch {
            report.add(.unknown, "file", "\(error)")
            return nil
        }
    }

    private func readAccess(_ settings: Settings, _ report: inout CheckReport) -> AuthPolicy? {
        do { return try AuthReader.policy(settings, previous: nil) } catch {
            report.add(.unknown, "auth", "\(error)")
            return nil
        }
    }

    /// Reads certificates, keys and maps as `serve` would.
    private func checkCertificates(_ settings: Settings, _ report: inout CheckReport) {
        do {
            if let tls = try ClientTLS.read(settings, previous: nil).context { tell(tls, "listen.tls", &report) }
            let tls = try AdminTLS.read(settings.admin.http, at: nil)
            if let tls { tell(tls, AdminTLS.key, &report) }
            for database in settings.databases {
                for side in Side.allCases {
                    let key = SideConninfo.key(database, side)
                    let tls = try ServerTLSReader.read(try SideConninfo.read(database, side), key: key)
                    if let tls { tell(tls.context, key, &report) }
                }
            }
        } catch let refusal as SideConninfo.Refusal {
            report.add(.unknown, "file", "\(refusal)")
        } catch {
            report.add(.unknown, "TLS", "\(error)")
        }
    }

    /// Its tokens, and who could read them on their way.
    private func checkHTTP(_ settings: HTTPSettings, _ report: inout CheckReport) {
        do {
            if settings.port > 0 {
                let address = SocketAddress.resolve(listening: settings.address, port: settings.port)
                if address == nil { report.add(.unknown, "admin.http", "\(settings.address) cannot be resolved") }
                try AdminTLS.checkTokens(settings, at: address)
            }
            _ = try AdminService.tokens(settings)
        } catch {
            report.add(.unknown, "HTTP", "\(error)")
        }
    }

    private func tell(_ tls: TLSContext, _ key: String, _ report: inout CheckReport) {
        if let subject = tls.subject { report.tell("\(key): certificate \(subject) from \(tls.options.certificate)") }
        guard let warning = CertificateAge.warning(tls, key: key) else { return }
        let isOver = (tls.secondsLeft ?? 0) < 0 || tls.isEarly
        report.add(isOver ? .problem : .note, key, String(warning.dropFirst(key.utf8.count + 2)))
    }

    private func checkMachine(_ settings: Settings, _ report: inout CheckReport) {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        // Each client and each server is one; the rest is ours, and half of it is kept from clients.
        let servers = settings.databases.reduce(0) { $0 + 2 * $1.pool.size }
        let wanted = UInt64(settings.listen.clientsMax + servers + 200)
        if UInt64(limit.rlim_max) < wanted {
            report.add(
                .note, "open files",
                "this shell allows \(limit.rlim_max), listen.clients_max and the pools may need \(wanted): raise it "
                    + "where Godwit is started (LimitNOFILE= of the unit, ulimit -n), or lower listen.clients_max")
        }
    }

    // MARK: the state of several Godwits

    private func checkState(_ settings: Settings, _ report: inout CheckReport) {
        if settings.state.url.isEmpty { return }
        do {
            try ServeState.checkPlace(settings)
        } catch {
            return report.add(.problem, "state.url", "\(error)")
        }
        do {
            let target = try ConnectionString(parsing: settings.state.url)
            guard let connection = connect(target, "state.url", "", &report) else { return }
            let rows = try connection.query("""
                SELECT to_regclass('godwit_state.version') IS NOT NULL
                        OR has_database_privilege(current_database(), 'CREATE'),
                    to_regclass('godwit.authority') IS NOT NULL, current_user, current_database()
                """)
            if !rows.flag(0, 0) {
                report.add(
                    .problem, "state.url", "its role may not make the schema godwit_state. "
                        + "GRANT CREATE ON DATABASE \(rows[0, 3] ?? "") TO \(rows[0, 2] ?? "").")
            }
            if rows.flag(0, 1) {
                report.add(.problem, "state.url", "its database is one that is migrated. Name one of its own.")
            }
            report.tell("state.url: PostgreSQL \(Self.version(connection))")
        } catch {
            report.add(.unknown, "state.url", "\(error)")
        }
    }

    // MARK: both sides

    private func check(
        _ entry: DatabaseSettings, _ settings: Settings, _ auth: AuthPolicy?, _ report: inout CheckReport
    ) {
        let name = entry.name
        var row = CheckReport.Database(name: name)
        defer { report.databases.append(row) }
        do {
            let targets = try ControlTargets(entry, failure: ExitCode(2))
            checkRoutes(entry, settings, auth, &report)
            guard let old = connect(targets.old, "OLD", name, &report),
                let new = connect(targets.new, "NEW", name, &report)
            else { return }
            row.old = Self.version(old)
            row.new = Self.version(new)
            report.tell("\(name): OLD is PostgreSQL \(row.old), NEW is PostgreSQL \(row.new)")
            try checkSlots(old, "OLD", entry, &report)
            try checkSlots(new, "NEW", entry, &report)
            // Behind a cutover what NEW has and OLD has not brought is no leftover.
            let ownership = Ownership.resolve(
                old: try AuthorityReader.claim(old) ?? .untouched, new: try AuthorityReader.claim(new) ?? .untouched)
            let direction = MirrorDirection(from: ownership.authority)
            if direction != .forward {
                report.tell("\(name): NEW takes the writes: what is checked is the mirror from NEW to OLD")
            }
            let result = try Preflight.check(
                direction, old: old, new: new, mappings: TableMappings(entry.mirror), bulk: entry.mirror.bulkTables,
                bulkMayCome: entry.mirror.ddl == .barrier)
            for finding in result.findings {
                report.add(
                    finding.weight == .blocking ? .problem : .note, database: name, finding.place,
                    "\(finding.problem). \(finding.fix).")
            }
            row.tables = result.tables.count
            report.tell(
                "\(name): \(row.tables) tables can be mirrored, \(report.count(.problem, of: name)) problems")
        } catch {
            report.add(.unknown, database: name, "check", "\(error)")
        }
    }

    private func connect(
        _ target: ConnectionString, _ place: String, _ database: String, _ report: inout CheckReport
    ) -> Connection? {
        do throws(PostgresFailure) { return try Connection.open(target, purpose: "check") } catch {
            report.add(.unknown, database: database, place, "\(error)")
            return nil
        }
    }

    /// The ways that clients and their logins go, as far as they need no client's password.
    private func checkRoutes(
        _ entry: DatabaseSettings, _ settings: Settings, _ auth: AuthPolicy?, _ report: inout CheckReport
    ) {
        for (place, text) in [("OLD, as clients come", entry.old), ("NEW, as clients come", entry.new)] {
            guard let parsed = try? ConnectionString(parsing: text), parsed.user != nil else { continue }
            _ = connect(parsed, place, entry.name, &report)
        }
        guard let auth else { return }
        do {
            let lookUp = try AuthReader.lookUp(entry, settings.auth, auth, authority: .old)
            guard let lookUp, !lookUp.database.isEmpty else { return }
            _ = connect(try ConnectionString(parsing: lookUp.conninfo), "OLD, as auth_user", entry.name, &report)
        } catch {
            report.add(.unknown, database: entry.name, "auth_user", "\(error)")
        }
    }

    private func checkSlots(
        _ connection: borrowing Connection, _ place: String, _ entry: DatabaseSettings, _ report: inout CheckReport
    ) throws(PostgresFailure) {
        let rows = try connection.query("""
            SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            """)
        guard let slots = rows.integer(0, 0), slots < entry.pool.size + 4 else { return }
        report.add(
            .note, database: entry.name, place,
            "has \(slots) connections for users, pool.size is \(entry.pool.size) and the mirror needs some: raise "
                + "max_connections or lower pool.size")
    }

    private static func version(_ connection: borrowing Connection) -> String {
        "\(connection.serverVersion / 10_000).\(connection.serverVersion % 10_000)"
    }
}
