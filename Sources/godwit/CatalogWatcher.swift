import Configuration
import Glibc
import LibPQ
import Logging
import Primitives
import Proxy
import SQLAnalysis
import Synchronization

/// Reads what each authority's catalog says of functions and relations: at the start, and then now and again.
/// On a thread of its own, for it blocks.
final class CatalogWatcher: Sendable {
    private static let pauseMillis: CInt = 30_000
    /// While an authority has not been read yet.
    private static let retryMillis: CInt = 2_000

    private enum Request: Sendable {
        case stop
        case readAgain
        /// After a reload.
        case watch([DatabaseSettings])
    }

    private let requests = Mailbox<Request>()
    private let thread: Mutex<OwnThread?>

    /// - Parameter authority: of a database, as it is when it is asked.
    init(
        _ snapshot: ProxySnapshot, control: Mailbox<ControlMessage>, logger: Logger,
        authority: @escaping @Sendable (String) -> Side
    ) {
        let first = snapshot.settings.databases.filter { !$0.isWildcard }
        let requests = requests
        thread = Mutex(OwnThread(name: "godwit-catalog") {
            var databases = first
            var known: [String: [String]] = [:]
            var isFirst = true
            while true {
                var isComplete = true
                for database in databases {
                    guard let catalog = Self.read(database, authority(database.name), requests.descriptor, logger)
                    else {
                        isComplete = isComplete && known[database.name] != nil
                        continue
                    }
                    let words = catalog.rows.map { "\($0.kind)\u{0}\($0.schema)\u{0}\($0.name)\u{0}\($0.detail)" }
                        + ["\(catalog.isReadCommittedDefault)"]
                        + catalog.keyColumnTypes.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
                    if known[database.name] == words { continue }
                    known[database.name] = words
                    control.post(.catalog(
                        database: database.name,
                        CatalogSnapshot(
                            CatalogFacts(rows: catalog.rows), isReadCommittedDefault: catalog.isReadCommittedDefault,
                            keyColumnTypes: catalog.keyColumnTypes)))
                }
                // Behind all catalogs: nothing is read on NEW before, and a side may let us wait for its answer.
                for database in databases where isFirst {
                    Self.reportReachability(database, logger, requests.descriptor)
                }
                isFirst = false
                var ready = pollfd(fd: requests.descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&ready, 1, isComplete ? Self.pauseMillis : Self.retryMillis)
                for request in requests.take() {
                    switch request {
                    case .stop: return
                    case .readAgain: break
                    case .watch(let settings):
                        databases = settings
                        known = known.filter { entry in settings.contains { $0.name == entry.key } }
                    }
                }
            }
        })
    }

    /// Reads again now.
    func wake() { requests.post(.readAgain) }

    /// The databases are these from now on.
    func watch(_ databases: [DatabaseSettings]) { requests.post(.watch(databases.filter { !$0.isWildcard })) }

    func stop() {
        requests.post(.stop)
        thread.join()
    }

    /// Godwit starts when a side is down, and says so.
    private static func reportReachability(_ database: DatabaseSettings, _ logger: Logger, _ interrupt: CInt) {
        for side in Side.allCases {
            let name = "\(side.title) of \"\(database.name)\""
            do {
                let connection = try Connection.open(
                    try database.controlTarget(side), purpose: "check", interrupt: interrupt)
                logger.info("\(name) is PostgreSQL \(connection.serverVersion / 10_000)")
            } catch {
                logger.warning("\(name) cannot be reached: \(error); going on without it")
            }
        }
    }

    private struct Catalog {
        var rows: [CatalogFacts.Row]
        var isReadCommittedDefault: Bool
        var keyColumnTypes: [String: UInt32]
    }

    /// nil: the authority does not answer, or not as it should: then that is logged.
    private static func read(
        _ database: DatabaseSettings, _ authority: Side, _ interrupt: CInt, _ logger: Logger
    ) -> Catalog? {
        guard let target = try? database.controlTarget(authority),
            let connection = try? Connection.open(target, purpose: "catalog", interrupt: interrupt)
        else { return nil }
        do throws(PostgresFailure) {
            return try read(connection, database)
        } catch {
            if error.kind == .timedOut || error.kind == .refused {
                logger.warning("""
                    the catalog of "\(database.name)" cannot be read on \(authority.title): \(error); until it is, \
                    functions and tables count as what was known of them before, and as unfit for NEW where nothing was
                    """)
            }
            return nil
        }
    }

    private static func read(
        _ connection: borrowing Connection, _ database: DatabaseSettings
    ) throws(PostgresFailure) -> Catalog {
        let rows = try facts(connection, database)
        let isolation = try connection.query(isolationQuery, timeoutSeconds: 30)
        let types = try connection.query(keyColumnQuery(database), timeoutSeconds: 30)
        let facts = (0..<rows.count).map { row in
            CatalogFacts.Row(
                kind: rows[row, 0] ?? "", schema: rows[row, 1] ?? "", name: rows[row, 2] ?? "",
                detail: rows[row, 3] ?? "")
        }
        var keyColumnTypes: [String: UInt32] = [:]
        for row in 0..<types.count { keyColumnTypes[types[row, 0] ?? ""] = types[row, 1].flatMap { UInt32($0) } }
        return Catalog(rows: facts, isReadCommittedDefault: isolation.flag(0, 0), keyColumnTypes: keyColumnTypes)
    }

    private static func facts(
        _ connection: borrowing Connection, _ database: DatabaseSettings
    ) throws(PostgresFailure) -> Rows {
        // Compiling the query would take longer than all of it.
        try connection.execute("SET jit = off", timeoutSeconds: 30)
        return try connection.query(
            CatalogFacts.query(unlike: TableMappings(database.mirror).unlike), timeoutSeconds: 30)
    }

    /// Each column name that gives keys, with its type where all columns of that name have one (domains aside, and
    /// integers of all widths taken for one).
    private static func keyColumnQuery(_ database: DatabaseSettings) -> String {
        let names = database.reads.key.compactMap { source in
            if case .column(let name) = source { SQL.literal(name) } else { nil }
        }
        return """
            WITH RECURSIVE based (name, type) AS (
                SELECT attname, atttypid FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
                 WHERE attname = ANY (ARRAY[\(names.joined(separator: ", "))]::text[]) AND attnum > 0
                   AND NOT attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                   AND c.relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
                UNION SELECT name, typbasetype FROM based JOIN pg_type t ON t.oid = type WHERE typtype = 'd')
            SELECT name, min(number) FROM (
                SELECT name, CASE WHEN type IN (20, 21, 23) THEN 20 ELSE type::int8 END AS number
                  FROM based JOIN pg_type t ON t.oid = type WHERE typtype <> 'd') n
             GROUP BY name HAVING count(DISTINCT number) = 1
            """
    }

    /// True when neither the server nor any role or database has another default isolation than READ COMMITTED.
    private static let isolationQuery = """
        SELECT (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_isolation') = 'read committed'
           AND (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_deferrable') = 'off'
           AND NOT EXISTS (SELECT FROM pg_db_role_setting, unnest(setconfig) AS entry
                            WHERE entry LIKE 'default_transaction_isolation=%'
                              AND entry <> 'default_transaction_isolation=read committed')
        """
}
