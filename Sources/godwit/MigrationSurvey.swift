import Configuration
import Glibc
import LibPQ
import Migration
import Mirroring
import Primitives
import Synchronization

/// Asks both sides of a migration, again and again, how they are. On a thread of its own, for it blocks; any thread may
/// ask what it has found.
final class MigrationSurvey: Sendable {
    /// Milliseconds from one look to the next; whole looks, at more than how far NEW is, come every `turnsPerLook`.
    private static let turnMillis: CInt = 250
    private static let turnsPerLook = 8
    /// Milliseconds from one look for a heartbeat to the next, and looks of one turn.
    private static let lookMillis: CInt = 10
    private static let looksMax = 20

    private struct State {
        var readings = MigrationReadings()
        var isSwitched = false
    }

    private let state = Mutex(State())
    private let stopRequest = Mailbox<Void>()
    private let thread = Mutex<OwnThread?>(nil)
    private let database: DatabaseSettings

    init(_ database: DatabaseSettings) { self.database = database }

    func start() {
        let started = OwnThread(name: "godwit-survey") { [self] in run() }
        thread.withLock { $0 = started }
    }

    func stop() {
        stopRequest.post(())
        thread.join()
    }

    /// Only what is asked of the servers is in it.
    var readings: MigrationReadings { state.withLock { $0.readings } }

    /// NEW has the writes, or no longer: what was found before says nothing of it.
    func set(isSwitched: Bool) {
        state.withLock { state in
            if state.isSwitched == isSwitched { return }
            state.isSwitched = isSwitched
            state.readings = MigrationReadings()
        }
    }

    // MARK: its thread

    private func run() {
        var old: SurveyedSide?, new: SurveyedSide?
        var heartbeat: Heartbeat?
        /// The last that was seen.
        var seen: Heartbeat?
        var turn = 0
        repeat {
            let isSwitched = state.withLock { $0.isSwitched }
            if heartbeat?.isSwitched != isSwitched { heartbeat = nil }
            if seen?.isSwitched != isSwitched { seen = nil }
            var isMeasured = false
            do throws(SurveyFailure) {
                if old == nil { old = try SurveyedSide(.old, database, stopRequest.descriptor) }
                if new == nil { new = try SurveyedSide(.new, database, stopRequest.descriptor) }
                guard let old, let new else { continue }
                let (authority, other) = isSwitched ? (new, old) : (old, new)
                heartbeat = try beat(heartbeat, isSwitched, authority, other)
                isMeasured = true
                if let heartbeat, heartbeat.isSeen { seen = heartbeat }
                if turn % Self.turnsPerLook == 0 { try look(authority, other, isSwitched) }
                state.withLock { $0.readings.unreachable = "" }
            } catch {
                if !isMeasured { miss(seen, error, isSwitched) }
                if error.isLost {
                    (old, new, heartbeat) = (nil, nil, nil)
                    state.withLock { $0.readings.unreachable = "\(error)" }
                }
            }
            turn += 1
        } while !isStopped(waitingMillis: Self.turnMillis)
    }

    private func isStopped(waitingMillis: CInt) -> Bool {
        var ready = pollfd(fd: stopRequest.descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&ready, 1, waitingMillis) > 0
    }

    // MARK: how far the other side is

    /// A change of our own on its way through the mirror.
    private struct Heartbeat {
        var isSwitched: Bool
        var xid: String
        var sent: MonotonicInstant
        var isSeen = false
    }

    /// Once a second a key is marked as changed, in a transaction of its own; it is seen when the other side says that
    /// it stands at a snapshot that shows it.
    private func beat(
        _ last: Heartbeat?, _ isSwitched: Bool, _ authority: SurveyedSide, _ other: SurveyedSide
    ) throws(SurveyFailure) -> Heartbeat? {
        let now = MonotonicInstant.now()
        guard var last, !last.isSeen || now.nanoseconds(since: last.sent) < 1_000_000_000 else {
            guard let xid = try authority.mark(mirroredOn: other) else {
                state.withLock { $0.readings.lagSeconds = nil }
                return nil
            }
            return try beat(
                Heartbeat(isSwitched: isSwitched, xid: xid, sent: now), isSwitched, authority, other)
        }
        if last.isSeen { return last }
        for _ in 0..<Self.looksMax {
            last.isSeen = try other.flag("""
                SELECT coalesce((SELECT pg_visible_in_snapshot(\(SQL.literal(last.xid))::xid8, snapshot::pg_snapshot)
                  FROM godwit.progress), false)
                """)
            if last.isSeen || isStopped(waitingMillis: Self.lookMillis) { break }
        }
        let seconds = Double(MonotonicInstant.now().nanoseconds(since: last.sent)) / 1e9
        state.withLock { state in
            // Until it is seen the other side is behind for at least as long.
            state.readings.lagSeconds = last.isSeen ? seconds : max(seconds, state.readings.lagSeconds ?? 0)
        }
        return last
    }

    /// The last figure says nothing of now. Who does not answer is behind by all since the last change that it is known
    /// to have; of what else goes wrong nobody knows.
    private func miss(_ seen: Heartbeat?, _ failure: SurveyFailure, _ isSwitched: Bool) {
        let isBehind = failure.isLost && failure.side == (isSwitched ? .old : .new)
        let seconds = seen.map { Double(MonotonicInstant.now().nanoseconds(since: $0.sent)) / 1e9 }
        state.withLock { state in
            // What was asked for is of the other direction by now.
            if state.isSwitched != isSwitched { return }
            state.readings.lagSeconds = isBehind ? seconds : nil
        }
    }

    // MARK: the rest

    private func look(
        _ authority: SurveyedSide, _ other: SurveyedSide, _ isSwitched: Bool
    ) throws(SurveyFailure) {
        let oldest = try authority.number("""
            SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity a
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name !~ '^godwit '
               AND xact_start IS NOT NULL AND (backend_xid IS NOT NULL OR EXISTS (SELECT FROM pg_locks l
                   WHERE l.pid = a.pid AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock',
                       'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AND l.locktype = 'relation'))
            """)
        let prepared = try authority.number(
            "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")
        let free = try other.number("""
            SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                 - count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
            """)
        let here = try authority.names(sequences(isSwitched ? .new : .old))
        let there = Set(try other.names(Self.sequences))
        let others = isSwitched ? try other.number("""
            SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND backend_type = 'client backend' AND application_name !~ '^godwit '
            """) : nil
        state.withLock { state in
            state.readings.oldestTransactionSeconds = oldest
            state.readings.preparedTransactions = prepared.map { Int($0) }
            state.readings.freeConnections = free.map { Int($0) }
            state.readings.sequencesMissing = here.filter { !there.contains($0) }
            state.readings.othersOnOld = others.map { Int($0) }
        }
    }

    /// Godwit's own are of one side.
    private static let sequences = """
        SELECT format('%s.%s', schemaname, sequencename) FROM pg_sequences s
         WHERE schemaname !~ '^pg_' AND schemaname <> 'godwit'
        """

    /// Without those of mapped tables, which may have other names on the other side: the switch's own rail knows them.
    private func sequences(_ side: Side) -> String {
        let mapped = TableMappings(database.mirror).all.map { side == .old ? $0.old : $0.new }
            .map { "(\(SQL.literal($0.schema)), \(SQL.literal($0.name)))" }.joined(separator: ", ")
        return mapped.isEmpty ? Self.sequences : """
            \(Self.sequences) AND NOT EXISTS (
                SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
                  JOIN pg_class t ON d.refclassid = 'pg_class'::regclass AND t.oid = d.refobjid
                  JOIN pg_namespace tn ON tn.oid = t.relnamespace
                 WHERE n.nspname = s.schemaname AND c.relname = s.sequencename
                   AND (tn.nspname, t.relname) IN (\(mapped)))
            """
    }
}

/// Why a side could not be asked.
struct SurveyFailure: Error, CustomStringConvertible {
    let side: Side
    let failure: PostgresFailure

    /// The session is of no more use.
    var isLost: Bool { failure.kind != .refused }

    var description: String { "\(side.title): \(failure)" }
}

/// A session on one side, and what is asked there. Stays on the survey's thread.
private final class SurveyedSide {
    private static let timeoutSeconds = 5.0

    private let side: Side
    private let connection: Connection
    private let mappings: TableMappings
    /// What heartbeats mark: a mirrored table's number and one of its keys.
    private var pulse: (table: UInt32, key: [String])?

    init(_ side: Side, _ database: DatabaseSettings, _ interrupt: CInt) throws(SurveyFailure) {
        self.side = side
        mappings = TableMappings(database.mirror)
        do {
            connection = try Connection.open(
                try database.controlTarget(side), purpose: "migration", settings: ["lock_timeout": "2s"],
                interrupt: interrupt)
        } catch let failure as PostgresFailure {
            throw SurveyFailure(side: side, failure: failure)
        } catch {
            throw SurveyFailure(side: side, failure: PostgresFailure(.connecting, "\(error)"))
        }
    }

    private func rows(_ sql: String) throws(SurveyFailure) -> Rows {
        do throws(PostgresFailure) {
            return try connection.query(sql, timeoutSeconds: Self.timeoutSeconds)
        } catch {
            throw SurveyFailure(side: side, failure: error)
        }
    }

    func number(_ sql: String) throws(SurveyFailure) -> Double? { try rows(sql)[0, 0].flatMap { Double($0) } }

    func flag(_ sql: String) throws(SurveyFailure) -> Bool { try rows(sql).flag(0, 0) }

    /// As a mirror's target.
    private func isPrepared() throws(SurveyFailure) -> Bool {
        try flag("SELECT to_regclass('godwit.backfill') IS NOT NULL")
    }

    func names(_ sql: String) throws(SurveyFailure) -> [String] {
        let found = try rows(sql)
        return (0..<found.count).compactMap { found[$0, 0] }
    }

    /// - Returns: the number of the transaction that has marked a key, or of one that could not, for all is empty; nil:
    ///   nothing is mirrored yet.
    func mark(mirroredOn other: SurveyedSide) throws(SurveyFailure) -> String? {
        if pulse == nil { pulse = try findPulse(other) }
        guard let pulse else {
            guard try other.isPrepared(),
                try other.flag("SELECT EXISTS (SELECT FROM godwit.backfill)")
            else { return nil }
            return try rows("SELECT pg_current_xact_id()::text")[0, 0]
        }
        do throws(SurveyFailure) {
            let found = try rows("""
                SELECT godwit.mark_dirty(\(pulse.table), \(SQL.array(pulse.key))), pg_current_xact_id()::text
                """)
            return found[0, 1]
        } catch {
            self.pulse = nil
            throw error
        }
    }

    private func findPulse(_ other: SurveyedSide) throws(SurveyFailure) -> (table: UInt32, key: [String])? {
        guard try flag("SELECT to_regproc('godwit.mark_dirty') IS NOT NULL"),
            try other.isPrepared()
        else { return nil }
        let mirrored = Set(try other.names("SELECT schema_name || '.' || table_name FROM godwit.backfill"))
        let tables: [TableDescription]
        do throws(PostgresFailure) {
            tables = try CatalogReader.tables(connection)
        } catch {
            throw SurveyFailure(side: side, failure: error)
        }
        for table in tables.sorted(by: { $0.rowsEstimated < $1.rowsEstimated }) {
            guard !table.key.isEmpty, !table.isPartition, mappings.isCarried(table.name, from: side),
                let twin = mappings.twinName(table.name, of: side), mirrored.contains("\(twin.schema).\(twin.name)")
            else { continue }
            let key = table.key.map { "format('%s', \(SQL.identifier($0)))" }.joined(separator: ", ")
            let found = try rows("SELECT \(key) FROM \(table.name.sql) LIMIT 1")
            if found.count == 1 {
                return (table.oid, (0..<table.key.count).map { found[0, $0] ?? "" })
            }
        }
        return nil
    }
}
