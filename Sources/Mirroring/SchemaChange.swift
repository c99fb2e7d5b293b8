import Glibc
import LibPQ
import Primitives

/// DDL, one statement or several, that runs on both sides of a mirror, each in a transaction of the client's own user.
/// Confined to the thread that performs it; any step may block until its deadline.
///
/// The source commits first, and what the source has committed the target is to have: before that commit the statement
/// is written down on the source (`godwit.change`) with the numbers of both transactions, so that whoever comes next
/// can ask both sides what has become of them (`pg_xact_status`), and run it on the target if it is not there. Until
/// then the mirror stands still, for the tables are not alike.
package final class SchemaChange {
    package enum Failure: Error {
        /// A side has refused it, or does not answer: nothing was changed.
        case side(Side, PostgresFailure)
        /// Not now: nothing was changed.
        case blocked(String)
        /// Not yet: nothing was changed, and a moment later it may be.
        case busy(String)
        /// Never so: nothing was changed.
        case unfit(String)
        /// It may have been made on the source, and is then made on the target as well.
        case unknown(String)
    }

    package struct Order: Sendable, Equatable {
        package var user: String
        package var statement: String
        /// Makes a session what the client's is.
        package var settings: String

        package init(user: String, statement: String, settings: String) {
            self.user = user
            self.statement = statement
            self.settings = settings
        }
    }

    /// With the statements' command tags.
    package enum Outcome: Equatable {
        case done([String])
        /// The source has it, the target is to get it: why not yet.
        case halfDone([String], reason: String)
    }

    /// What a side says of a transaction.
    package enum TransactionFate: Equatable {
        case committed, rolledBack, open
        /// The server does not know it any more.
        case unknown
    }

    /// What comes next, for tests that end the process there.
    package enum Step: String, Sendable {
        case statement = "ddl_statement"
        case record = "ddl_record"
        case commitSource = "ddl_source"
        case commitTarget = "ddl_target"
        case finish = "ddl_finish"
        /// The mirror could go on, but for the record that is still there.
        case forget = "ddl_forget"
    }

    /// Where the client's user logs in.
    package typealias Login = (_ side: Side, _ user: String) throws(PostgresFailure) -> ConnectionString

    struct Record {
        var id: Int64 = 0
        var order: Order
        var sourceTransaction = ""
        var targetTransaction = ""
        /// The target's mirrored tables before: see `knownQuery`.
        var known: String
        /// Every table of the source that could be was mirrored: new ones are to be as well.
        var takesAll: Bool
    }

    let direction: MirrorDirection
    let source: Connection
    let target: Connection
    /// OLD's names of the tables that are captured by statement from their begin on: `mirror.bulk`.
    let bulk: Set<TableName>

    /// Seconds for what happens while nobody is held.
    static let patienceSeconds = 10.0
    /// What is left behind the commits comes into the way of writers that wait behind it, and whose lock it waits for
    /// may be somebody who waits for us: it is tried again. Longer than PostgreSQL's deadlock_timeout.
    private static let lockTimeout = "2s"
    /// Seconds for which a side that does not answer is asked what has become of a commit.
    package static let questionSeconds = 10.0
    /// Tries of a second for a table's lock, of what is tried again as a whole.
    private static let settlingTriesMax = 2
    /// Seconds for a statement that is repeated on the target: nobody waits for it but the mirror.
    private static let repetitionSeconds = 86_400.0

    // MARK: open

    /// Alone among all that change or switch this database. With nothing left half done by others.
    ///
    /// - Parameter bulk: OLD's names of tables that, when they are new, are captured by statement.
    package static func open(
        _ direction: MirrorDirection, old: String, new: String, bulk: Set<TableName>, login: Login
    ) throws(Failure) -> SchemaChange {
        let (ofSource, ofTarget) = direction.ends(old: old, new: new)
        let change = SchemaChange(
            direction, try connect(ofSource, direction.source), try connect(ofTarget, direction.target), bulk)
        try change.beAlone()
        try change.settle(login)
        return change
    }

    private init(
        _ direction: MirrorDirection, _ source: consuming Connection, _ target: consuming Connection,
        _ bulk: Set<TableName>
    ) {
        self.direction = direction
        self.bulk = bulk
        self.source = source
        self.target = target
    }

    private static func connect(_ conninfo: String, _ side: Side) throws(Failure) -> Connection {
        do throws(PostgresFailure) {
            return try Connection.open(
                try MirrorSession.parse(conninfo), purpose: "change", settings: ["lock_timeout": lockTimeout])
        } catch {
            throw .side(side, error)
        }
    }

    private func beAlone() throws(Failure) {
        let lock = AuthoritySchema.takeCoordinatorLock(seconds: Self.patienceSeconds)
        do throws(Failure) {
            try onSource(lock)
            try onTarget(lock)
        } catch {
            guard case .side(_, let failure) = error, failure.isLockConflict else { throw error }
            throw .busy("another change, or a switch, of this database is under way")
        }
        let fenced = try onSource("SELECT fenced_for IS NOT NULL FROM godwit.authority")
        guard let fenced, fenced.count == 1 else {
            throw .blocked("the sides are not prepared: run godwit prepare")
        }
        if fenced.flag(0, 0) { throw .blocked("\(direction.source.title) does not take the writes now") }
        try onSource("""
            CREATE TABLE IF NOT EXISTS godwit.change (
                id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, made_at timestamptz NOT NULL DEFAULT now(),
                user_name text NOT NULL, statement text NOT NULL, settings text NOT NULL,
                source_xid xid8 NOT NULL, target_xid xid8 NOT NULL, known text NOT NULL, takes_all boolean NOT NULL)
            """)
    }

    // MARK: the client's sessions

    final class Client {
        let connection: Connection
        let side: Side

        init(_ side: Side, _ order: Order, _ login: Login) throws(PostgresFailure) {
            self.side = side
            connection = try Connection.open(try login(side, order.user), purpose: "change", isPlain: true)
            // The settings and the statement are in UTF-8, whatever the role's texts are in, or the client's.
            let encoding = "SET client_encoding = 'UTF8'"
            try connection.execute(encoding, timeoutSeconds: SchemaChange.patienceSeconds)
            try connection.execute("\(order.settings); \(encoding)", timeoutSeconds: SchemaChange.patienceSeconds)
        }

        /// Each lock takes no longer than until `locked`, the statement than until `deadline`, and neither longer than
        /// the client's own limits.
        ///
        /// - Parameter isOnTarget: whether it may write there is not asked: a side that is to take no writes of
        ///   applications often has default_transaction_read_only on.
        func begin(locked: Deadline, until deadline: Deadline, isOnTarget: Bool) throws(PostgresFailure) {
            try limit(locked: locked, until: deadline, first: isOnTarget ? "BEGIN READ WRITE; " : "BEGIN; ")
        }

        /// The same for what comes next in it.
        func limit(locked: Deadline, until deadline: Deadline, first: String = "") throws(PostgresFailure) {
            func limit(_ name: String, _ deadline: Deadline) -> String {
                """
                SELECT pg_catalog.set_config(name, least(nullif(setting, '0')::pg_catalog.int8,
                        \(max(1, deadline.millisLeft)))::text, true) FROM pg_catalog.pg_settings WHERE name = '\(name)';
                """
            }
            try connection.execute("""
                \(first)\(limit("lock_timeout", locked)) \(limit("statement_timeout", deadline))
                SELECT pg_catalog.set_config('synchronous_commit', 'on', true),
                    pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true)
                """, timeoutSeconds: Self.patience(deadline))
        }

        /// A little more than the server itself is given, so that its own answer comes first.
        private static func patience(_ deadline: Deadline) -> Double { Double(deadline.millisLeft) / 1000 + 1 }

        func run(_ statement: String, until deadline: Deadline) throws(PostgresFailure) -> [String] {
            try connection.commands(statement, timeoutSeconds: Self.patience(deadline))
        }

        func transaction() throws(PostgresFailure) -> String {
            let sql = "SELECT pg_catalog.pg_current_xact_id()"
            return try connection.query(sql, timeoutSeconds: SchemaChange.patienceSeconds)[0, 0] ?? ""
        }

        func commit(until deadline: Deadline) throws(PostgresFailure) {
            try connection.execute("COMMIT", timeoutSeconds: Self.patience(deadline))
        }

        func rollBack() { _ = try? connection.execute("ROLLBACK", timeoutSeconds: SchemaChange.patienceSeconds) }
    }

    /// What is ready before anybody is held.
    private struct Prepared {
        var source: Client
        var target: Client
        var record: Record
        var keys: [String: Set<ExactName>]
    }

    private var prepared: Prepared?

    /// Before anybody is held: who may not log in, or set what the client has set, is told here.
    package func prepare(_ order: Order, login: Login) throws(Failure) {
        let (source, order) = try meant(order, login)
        prepared = Prepared(
            source: source, target: try client(direction.target, order, login),
            record: Record(order: order, known: try known(), takesAll: try takesAll()),
            keys: try mirroredKeys(on: direction.source))
    }

    func client(_ side: Side, _ order: Order, _ login: Login) throws(Failure) -> Client {
        try onSide(side) { () throws(PostgresFailure) in try Client(side, order, login) }
    }

    // MARK: the change

    /// Nobody writes through this Godwit, and the target has all that the source has.
    ///
    /// - Parameter onCommitted: the source has it, and the target, if it can be reached: writes may go on.
    package func run(
        until deadline: Deadline, before: (Step) -> Void, onCommitted: () -> Void
    ) throws(Failure) -> Outcome {
        guard let clients = prepared else { preconditionFailure("a change that was not prepared") }
        prepared = nil
        before(.statement)
        var record = clients.record
        let tags: [String]
        do throws(Failure) {
            tags = try statement(record.order, clients.source, until: deadline)
            try expect(clients.keys, clients.source)
            // Not for what the source refuses.
            try putBack(for: record.order.statement, until: deadline)
            _ = try statement(record.order, clients.target, until: deadline)
            record.sourceTransaction = try onSide(direction.source) { () throws(PostgresFailure) in
                try clients.source.transaction()
            }
            record.targetTransaction = try targetTransaction(clients.target)
            before(.record)
            record.id = try write(record)
        } catch {
            clients.source.rollBack()
            clients.target.rollBack()
            throw error
        }
        before(.commitSource)
        try commitSource(record, clients, until: deadline, onCommitted)
        before(.commitTarget)
        return commitTarget(record, clients.target, tags, until: deadline, before: before, onCommitted: onCommitted)
    }

    /// The source has committed.
    func commitTarget(
        _ record: Record, _ client: Client, _ tags: [String], until deadline: Deadline, before: (Step) -> Void,
        onCommitted: () -> Void
    ) -> Outcome {
        do throws(Failure) {
            do throws(PostgresFailure) {
                try client.commit(until: deadline)
            } catch {
                onCommitted()
                try findTarget(record, error)
            }
            onCommitted()
            before(.finish)
            try finish(record, before: before)
        } catch {
            return .halfDone(tags, reason: "\(error)")
        }
        return .done(tags)
    }

    private func statement(
        _ order: Order, _ client: Client, locked: Deadline? = nil, until deadline: Deadline
    ) throws(Failure) -> [String] {
        try onSide(client.side) { () throws(PostgresFailure) in
            try client.begin(
                locked: locked ?? deadline, until: deadline, isOnTarget: client.side == direction.target)
            return try client.run(order.statement, until: deadline)
        }
    }

    /// The number of the target's transaction, which stays its own whatever becomes of the server: one that dies gives
    /// numbers again that had not reached its disk, and somebody else's commit under this one would pass for ours.
    func targetTransaction(_ client: Client) throws(Failure) -> String {
        let number = try onSide(client.side) { () throws(PostgresFailure) in try client.transaction() }
        // A synchronous write behind it brings it there.
        try onTarget("SELECT pg_logical_emit_message(true, 'godwit', '')")
        return number
    }

    private func commitSource(
        _ record: Record, _ clients: Prepared, until deadline: Deadline, _ onCommitted: () -> Void
    ) throws(Failure) {
        do throws(PostgresFailure) {
            try clients.source.commit(until: deadline)
        } catch {
            // It may take long until it is known, and nothing that is written meanwhile does harm.
            onCommitted()
            let isCommitted: Bool?
            do throws(Failure) {
                isCommitted = try awaitStatus(record.sourceTransaction, on: direction.source)
            } catch {
                isCommitted = nil
            }
            switch isCommitted {
            case true?: return
            case false?:
                clients.target.rollBack()
                try forget(record)
                throw .side(direction.source, error)
            case nil:
                clients.target.rollBack()
                throw .unknown("\(direction.source.title) does not say whether it has it: \(error)")
            }
        }
    }

    private func findTarget(_ record: Record, _ failure: PostgresFailure) throws(Failure) {
        if try awaitStatus(record.targetTransaction, on: direction.target) != true {
            throw .side(direction.target, failure)
        }
    }

    // MARK: what was left

    /// Brings to the target what the source has committed. Whoever is alone may do so, as often as it takes.
    private func settle(_ login: Login) throws(Failure) {
        for record in try records() {
            do throws(Failure) {
                try settle(record, login)
            } catch {
                if error.isPassing { throw .busy("an earlier change is not finished yet: \(error)") }
                throw error
            }
        }
    }

    private func settle(_ record: Record, _ login: Login) throws(Failure) {
        var record = record
        switch try awaitStatus(record.sourceTransaction, on: direction.source) {
        case false?: return try forget(record)
        case nil:
            throw .blocked("nobody knows any more whether \(direction.source.title) has change \(record.id): "
                + advice(record))
        case true?: break
        }
        if try awaitStatus(record.targetTransaction, on: direction.target) != true {
            try repeatOnTarget(&record, login)
        }
        try finish(record, triesMax: Self.settlingTriesMax)
    }

    private func repeatOnTarget(_ record: inout Record, _ login: Login) throws(Failure) {
        do throws(Failure) {
            let client = try client(direction.target, record.order, login)
            let locked = Deadline.now().adding(seconds: Self.patienceSeconds)
            try putBack(for: record.order.statement, until: locked)
            let deadline = Deadline.now().adding(seconds: Self.repetitionSeconds)
            _ = try statement(record.order, client, locked: locked, until: deadline)
            record.targetTransaction = try targetTransaction(client)
            try onSource("""
                UPDATE godwit.change SET target_xid = \(SQL.literal(record.targetTransaction)) WHERE id = \(record.id)
                """)
            do throws(PostgresFailure) {
                try client.commit(until: deadline)
            } catch {
                try findTarget(record, error)
            }
        } catch {
            if error.isPassing { throw error }
            throw .blocked("\(direction.target.title) does not take a change that \(direction.source.title) has: "
                + "\(error). \(advice(record))")
        }
    }

    private func advice(_ record: Record) -> String {
        "When both sides are alike again, DELETE FROM godwit.change WHERE id = \(record.id) on "
            + "\(direction.source.title)"
    }

    /// Something is left half done.
    package static func isPending(_ connection: borrowing Connection) throws(PostgresFailure) -> Bool {
        guard try connection.hasRelation("godwit.change", timeoutSeconds: patienceSeconds) else { return false }
        let any = "SELECT EXISTS (SELECT FROM godwit.change)"
        return try connection.query(any, timeoutSeconds: patienceSeconds).flag(0, 0)
    }

    func status(of transaction: String, on side: Side) throws(Failure) -> TransactionFate {
        let question = "SELECT pg_xact_status(\(SQL.literal(transaction)))"
        return switch try (side == direction.source ? onSource(question) : onTarget(question))?[0, 0] {
        case "committed"?: .committed
        case "aborted"?: .rolledBack
        case nil: .unknown
        default: .open
        }
    }

    /// Waits for one whose commit, or end, is still on its way.
    ///
    /// - Returns: whether it was committed; nil: the server does not know it any more.
    private func awaitStatus(_ transaction: String, on side: Side) throws(Failure) -> Bool? {
        let end = Deadline.now().adding(seconds: Self.questionSeconds)
        while true {
            switch try status(of: transaction, on: side) {
            case .committed: return true
            case .rolledBack: return false
            case .unknown: return nil
            case .open: break
            }
            if end.hasPassed { throw .busy("a transaction of an earlier change is still open on \(side.title)") }
            usleep(20_000)
        }
    }

    // MARK: the record

    func write(_ record: Record) throws(Failure) -> Int64 {
        let order = record.order
        let values = [
            order.user, order.statement, order.settings, record.sourceTransaction, record.targetTransaction,
            record.known,
        ]
        let rows = try onSource("""
            INSERT INTO godwit.change (user_name, statement, settings, source_xid, target_xid, known, takes_all)
                VALUES (\(values.map { SQL.literal($0) }.joined(separator: ", ")), \(record.takesAll)) RETURNING id
            """)
        guard let id = rows?.integer(0, 0) else { throw .blocked("godwit.change takes no record") }
        return id
    }

    func forget(_ record: Record) throws(Failure) {
        try onSource("DELETE FROM godwit.change WHERE id = \(record.id)")
    }

    private func records() throws(Failure) -> [Record] {
        let rows = try onSource("""
            SELECT id, user_name, statement, settings, source_xid, target_xid, known, takes_all FROM godwit.change
             ORDER BY id
            """)
        guard let rows else { return [] }
        return (0..<rows.count).map { row in
            Record(
                id: rows.integer(row, 0) ?? 0,
                order: Order(
                    user: rows[row, 1] ?? "", statement: rows[row, 2] ?? "", settings: rows[row, 3] ?? ""),
                sourceTransaction: rows[row, 4] ?? "", targetTransaction: rows[row, 5] ?? "",
                known: rows[row, 6] ?? "[]", takesAll: rows.flag(row, 7))
        }
    }

    /// Number and names of each mirrored table of the target: a renamed one is found by its number.
    func known() throws(Failure) -> String {
        try onTarget("""
            SELECT coalesce(jsonb_agg(jsonb_build_array(
                       to_regclass(format('%I.%I', schema_name, table_name))::oid::bigint, schema_name, table_name)
                   ), '[]') FROM godwit.backfill
            """)?[0, 0] ?? "[]"
    }

    func takesAll() throws(Failure) -> Bool {
        try onSource("""
            SELECT NOT EXISTS (SELECT FROM (\(CaptureSchema.uncapturedTables)) u
              JOIN pg_namespace n ON n.nspname = u.nspname
              JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = u.relname
              JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary)
            """)?.flag(0, 0) ?? false
    }

    // MARK: keys

    /// The ways in which a table's rows are told apart, by its number: names and types of columns.
    private static let keysQuery = """
        SELECT t.tgrelid::pg_catalog.int8, (
                   SELECT pg_catalog.string_agg(a.attname || pg_catalog.chr(1) || a.atttypid || ' ' || a.atttypmod
                              || ' ' || a.attnotnull, pg_catalog.chr(2) ORDER BY p.n)
                     FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY p (c, n)
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.c
                    WHERE p.n <= i.indnkeyatts)
          FROM pg_catalog.pg_trigger t LEFT JOIN pg_catalog.pg_index i ON i.indrelid = t.tgrelid AND i.indisunique
               AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
         WHERE t.tgname = '\(CaptureSchema.rowTrigger)' AND t.tgparentid = 0
        """

    private static func collectKeys(_ rows: Rows) -> [String: Set<ExactName>] {
        var found: [String: Set<ExactName>] = [:]
        for row in 0..<rows.count {
            let table = rows[row, 0] ?? ""
            found[table, default: []].formUnion(rows[row, 1].map { [ExactName($0)] } ?? [])
        }
        return found
    }

    func mirroredKeys(on side: Side) throws(Failure) -> [String: Set<ExactName>] {
        let isSource = side == direction.source
        guard let rows = try isSource ? onSource(Self.keysQuery) : onTarget(Self.keysQuery) else { return [:] }
        let all = Self.collectKeys(rows)
        let tables = try onSide(side) { () throws(PostgresFailure) in
            isSource ? try CatalogReader.tables(source) : try CatalogReader.tables(target)
        }
        return all.reduce(into: [:]) { keys, entry in
            guard let table = tables.first(where: { "\($0.oid)" == entry.key }) else { return }
            keys[entry.key] = entry.value.filter { signature in
                let columns = signature.text.split(separator: "\u{2}")
                return columns.count == table.key.count
                    && zip(columns, table.key).allSatisfy { $0.hasPrefix($1 + "\u{1}") }
            }
        }
    }

    /// The triggers write down the keys as they were: the first write with another one would fail.
    func expect(_ keys: [String: Set<ExactName>], _ client: Client) throws(Failure) {
        let rows = try onSide(client.side) { () throws(PostgresFailure) in
            try client.connection.query(Self.keysQuery, timeoutSeconds: Self.patienceSeconds)
        }
        let now = Self.collectKeys(rows)
        for (table, before) in keys where !before.isEmpty {
            guard let left = now[table] else { continue }  // it was dropped
            if left.isDisjoint(with: before) {
                throw .unfit("it changes the key by which a table is mirrored")
            }
        }
    }

    // MARK: parts

    @discardableResult
    func onSource(_ sql: String) throws(Failure) -> Rows? {
        try onSide(direction.source) { () throws(PostgresFailure) in
            try source.execute(sql, timeoutSeconds: Self.patienceSeconds + 1)
        }
    }

    @discardableResult
    func onTarget(_ sql: String) throws(Failure) -> Rows? {
        try onSide(direction.target) { () throws(PostgresFailure) in
            try target.execute(sql, timeoutSeconds: Self.patienceSeconds + 1)
        }
    }
}

/// Says on which side a failure happened.
func onSide<Value>(
    _ side: Side, _ body: () throws(PostgresFailure) -> Value
) throws(SchemaChange.Failure) -> Value {
    do throws(PostgresFailure) { return try body() } catch { throw .side(side, error) }
}

extension SchemaChange.Failure: CustomStringConvertible {
    package var description: String {
        switch self {
        case .side(let side, let failure): "\(side.title): \(failure)"
        case .blocked(let words), .busy(let words), .unfit(let words), .unknown(let words): words
        }
    }

    /// Others are in the way, and will not be for ever.
    var isPassing: Bool {
        switch self {
        case .busy: true
        case .side(_, let failure): failure.isLockConflict
        case .blocked, .unfit, .unknown: false
        }
    }
}
