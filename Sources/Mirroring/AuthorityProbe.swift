import LibPQ
import Migration
import Primitives

/// Asks one side again and again what it says of who takes the writes, on a connection that is kept; and tells it that
/// this Godwit lives, and what it holds for a switch of another one. Confined to one thread.
package final class AuthorityProbe {
    /// What another Godwit asks of all that serve the database.
    package struct Word: Sendable, Equatable {
        package var claim: SideClaim
        /// A switch of this number is near: look often.
        package var alert: Int64?
        /// Hold what may write, and say so.
        package var announced: Int64?
    }

    private final class Session {
        let connection: Connection
        init(_ connection: consuming Connection) { self.connection = connection }
    }

    private let conninfo: String
    private let interrupt: CInt
    private var session: Session?
    /// What was asked last is not there.
    package private(set) var isUnprepared = false
    /// When it was last known who has the writes, as whoever asks notes. To be connected and wait in vain from then on,
    /// as behind the lock of whoever drops what is asked, is no news: nobody else can have moved the writes while all
    /// that says so is locked.
    package var calmAt = MonotonicInstant.now()
    private static let answerSeconds = 3.0
    /// Seconds from a sign of ours for which others count us in for sure: less than they do, for clocks and transit.
    package static let leaseSeconds = SwitchCall.leaseSeconds - 1
    /// Seconds after its last sign for which another Godwit is still reckoned with.
    private static let companySeconds = 30

    package init(_ conninfo: String, interrupt: CInt) {
        self.conninfo = conninfo
        self.interrupt = interrupt
    }

    /// - Returns: nil: it does not answer, or is not prepared.
    package func ask() -> Word? {
        guard let rows = run("SELECT epoch, void_epoch, fenced_for, alert, announced FROM godwit.authority"),
            rows.count == 1
        else { return nil }
        return Word(
            claim: SideClaim(
                epoch: rows.integer(0, 0) ?? 0, voidEpoch: rows.integer(0, 1) ?? 0, fencedFor: rows.integer(0, 2)),
            alert: rows.integer(0, 3), announced: rows.integer(0, 4))
    }

    /// - Parameter alertFor: the switch that we look out for; `holdsFor`: for which we hold.
    /// - Returns: how many others have given theirs lately; nil: it was not taken.
    package func giveSign(_ id: String, alertFor: Int64? = nil, holdsFor: Int64? = nil) -> Int64? {
        let values = [alertFor, holdsFor].map { $0.map { "\($0)" } ?? "NULL" }.joined(separator: ", ")
        return run("""
            INSERT INTO godwit.proxy (id, seen, alert_for, holds_for)
                VALUES (\(SQL.literal(id)), clock_timestamp(), \(values)) ON CONFLICT (id) DO UPDATE
                SET seen = excluded.seen, alert_for = excluded.alert_for, holds_for = excluded.holds_for
                RETURNING (SELECT count(*) FROM godwit.proxy p WHERE p.id <> \(SQL.literal(id))
                    AND p.seen > clock_timestamp() - interval '\(Self.companySeconds) seconds')
            """)?.integer(0, 0)
    }

    /// Nobody need wait for it any more.
    package func sayGoodbye(_ id: String) { _ = run("DELETE FROM godwit.proxy WHERE id = \(SQL.literal(id))") }

    private func run(_ sql: String) -> Rows? {
        let begin = MonotonicInstant.now()
        var askedAt: MonotonicInstant?
        do {
            if session == nil {
                session = Session(try Connection.open(
                    try ConnectionString(parsing: conninfo), purpose: "authority", connectTimeoutSeconds: 3,
                    interrupt: interrupt))
            }
            isUnprepared = false
            askedAt = .now()
            return try session?.connection.execute(sql, timeoutSeconds: Self.answerSeconds)
        } catch let failure as PostgresFailure where failure.kind == .refused {
            isUnprepared = failure.sqlState == "42P01"
            return nil
        } catch {
            session = nil
            if let askedAt, begin <= calmAt.advanced(bySeconds: Self.leaseSeconds) {
                // No more than we wait for: beyond it we were asleep ourselves.
                calmAt = max(calmAt, min(.now(), askedAt.advanced(bySeconds: Self.answerSeconds)))
            }
            return nil
        }
    }
}

/// Has the other Godwits of a database hold along with a switch. Confined to the thread that performs it.
package final class SwitchCall {
    private let connection: Connection
    private let side: Side
    private let id: String
    private let epoch: Int64
    /// Seconds without a sign after which a Godwit counts as gone. The fence keeps its writes out all the same.
    package static let leaseSeconds = 4.0

    init(_ connection: consuming Connection, _ side: Side, id: String, epoch: Int64) {
        self.connection = connection
        self.side = side
        self.id = id
        self.epoch = epoch
    }

    /// Others that live and have not said this of the switch.
    private func silent(_ column: String) throws(SwitchSession.Failure) -> [String] {
        do throws(PostgresFailure) {
            let rows = try connection.query("""
                SELECT id FROM godwit.proxy WHERE id <> \(SQL.literal(id)) AND \(column) IS DISTINCT FROM \(epoch)
                   AND seen > clock_timestamp() - interval '\(Self.leaseSeconds) seconds' ORDER BY 1
                """, timeoutSeconds: SwitchSession.patienceSeconds)
            return (0..<rows.count).map { rows[$0, 0] ?? "" }
        } catch {
            throw .side(side, error)
        }
    }

    private func set(_ text: String) throws(SwitchSession.Failure) {
        do throws(PostgresFailure) {
            try connection.execute(
                "UPDATE godwit.authority SET \(text)", timeoutSeconds: SwitchSession.patienceSeconds)
        } catch {
            throw .side(side, error)
        }
    }

    /// Before anything is held: others look often from now on, so that they hold at once when it is time. They do so
    /// once for each number, so this one is used up, whatever becomes of the switch: the next one has another.
    package func alert() throws(SwitchSession.Failure) {
        try set("alert = \(epoch), announced = NULL, void_epoch = greatest(void_epoch, \(epoch))")
    }

    package func announce() throws(SwitchSession.Failure) { try set("announced = \(epoch)") }

    /// - Returns: who of the others is not on the alert yet, or does not hold yet.
    package func missing(isHolding: Bool) throws(SwitchSession.Failure) -> [String] {
        try silent(isHolding ? "holds_for" : "alert_for")
    }

    /// Others go on, on whichever side has the writes.
    package func end() { try? set("alert = NULL, announced = NULL") }
}
