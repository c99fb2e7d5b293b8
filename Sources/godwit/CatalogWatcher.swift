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

    /// true: stop; false: read again now.
    private let stopRequest = Mailbox<Bool>()
    private let thread: Mutex<OwnThread?>

    init(_ snapshot: ProxySnapshot, control: Mailbox<ControlMessage>, logger: Logger) {
        let databases = snapshot.settings.databases.filter { !$0.isWildcard }
        let stopRequest = stopRequest
        thread = Mutex(OwnThread(name: "godwit-catalog") {
            var known: [String: [String]] = [:]
            var isFirst = true
            while true {
                var isComplete = true
                for database in databases {
                    if isFirst { Self.reportReachability(database, logger, stopRequest.descriptor) }
                    guard let (rows, isReadCommitted) = Self.read(database, stopRequest.descriptor) else {
                        isComplete = isComplete && known[database.name] != nil
                        continue
                    }
                    let words = rows.map { "\($0.kind)\u{0}\($0.schema)\u{0}\($0.name)\u{0}\($0.detail)" }
                        + ["\(isReadCommitted)"]
                    if known[database.name] == words { continue }
                    known[database.name] = words
                    let facts = CatalogFacts(rows: rows)
                    control.post(.catalog(
                        database: database.name,
                        CatalogSnapshot(facts, isReadCommittedDefault: isReadCommitted)))
                }
                isFirst = false
                var ready = pollfd(fd: stopRequest.descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&ready, 1, isComplete ? Self.pauseMillis : Self.retryMillis)
                if stopRequest.take().contains(true) { return }
            }
        })
    }

    /// Reads again now.
    func wake() { stopRequest.post(false) }

    func stop() {
        let running = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        stopRequest.post(true)
        running?.join()
    }

    /// Godwit starts when a side is down, and says so.
    private static func reportReachability(_ database: DatabaseSettings, _ logger: Logger, _ interrupt: CInt) {
        for (side, text) in [("OLD", conninfo(database, .old)), ("NEW", conninfo(database, .new))] {
            do {
                let target = try ConnectionString(parsing: text)
                let connection = try Connection.open(target, purpose: "check", interrupt: interrupt)
                logger.info("\(side) of \"\(database.name)\" is PostgreSQL \(connection.serverVersion / 10_000)")
            } catch {
                logger.warning("\(side) of \"\(database.name)\" cannot be reached: \(error); going on without it")
            }
        }
    }

    private static func conninfo(_ database: DatabaseSettings, _ side: Side) -> String {
        switch side {
        case .old: database.controlOld.isEmpty ? database.old : database.controlOld
        case .new: database.controlNew.isEmpty ? database.new : database.controlNew
        }
    }

    /// nil: the authority does not answer.
    private static func read(
        _ database: DatabaseSettings, _ interrupt: CInt
    ) -> (rows: [CatalogFacts.Row], isReadCommittedDefault: Bool)? {
        guard let target = try? ConnectionString(parsing: conninfo(database, .old)),
            let connection = try? Connection.open(target, purpose: "catalog", interrupt: interrupt),
            let rows = try? connection.query(CatalogFacts.query, timeoutSeconds: 30),
            let isolation = try? connection.query(isolationQuery, timeoutSeconds: 30)
        else { return nil }
        let facts = (0..<rows.count).map { row in
            CatalogFacts.Row(
                kind: rows[row, 0] ?? "", schema: rows[row, 1] ?? "", name: rows[row, 2] ?? "",
                detail: rows[row, 3] ?? "")
        }
        return (facts, isolation.flag(0, 0))
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
