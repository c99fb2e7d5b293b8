import LibPQ
import Migration
import Primitives

/// Settles what a switch has left that was cut off: before its commit point the fence goes, behind it the fenced side
/// is told where its mirror begins. May be run by anybody at any time; used on a thread that may block.
package enum SwitchRecovery {
    package struct Outcome: Sendable, Equatable {
        package var ownership: Ownership
        /// What was done, and what stands in the way, for the log.
        package var notes: [String] = []
        /// Another session has the coordinator's lock: it is at it, or is gone and its server does not know yet. What
        /// it leaves is to be looked at again.
        package var isLeft = false
    }

    /// - Parameter timeoutSeconds: for each side to let us in.
    package static func settle(
        old: String, new: String, timeoutSeconds: Double = 3, interrupt: CInt = -1
    ) -> Outcome {
        var outcome = Outcome(ownership: .initial)
        // Twice: what was found under way may be settled by then, or have settled itself.
        for attempt in 0..<2 {
            let (ofOld, ofNew, failures) = AuthorityReader.claims(
                old: old, new: new, timeoutSeconds: timeoutSeconds, interrupt: interrupt)
            outcome.ownership = Ownership.resolve(old: ofOld, new: ofNew)
            if attempt == 0 { outcome.notes += failures }
            let authority = outcome.ownership.authority
            guard ofOld != nil, ofNew != nil else { return outcome }
            let (its, others) = authority == .old ? (old, new) : (new, old)
            switch outcome.ownership.standing {
            case .unknown:
                return outcome
            case .settled:
                let wasSwitched = outcome.ownership.epoch > 0
                var isDone = true
                attemptTo("hand over to \(authority.other.title)", &outcome) { () throws(SwitchSession.Failure) in
                    isDone = try complete(authority, its, others, timeoutSeconds, wasSwitched: wasSwitched)
                    return nil
                }
                outcome.isLeft = !isDone
                return outcome
            case .underWay(let epoch):
                attemptTo("take back switch \(epoch)", &outcome) { () throws(SwitchSession.Failure) in
                    try takeBack(authority, epoch, its, others, timeoutSeconds)
                }
            }
        }
        return outcome
    }

    private static func attemptTo(
        _ what: String, _ outcome: inout Outcome, _ body: () throws(SwitchSession.Failure) -> String?
    ) {
        do throws(SwitchSession.Failure) {
            if let note = try body() { outcome.notes.append(note) }
        } catch {
            outcome.notes.append("cannot \(what): \(error)")
        }
    }

    /// - Returns: what was done; nil: whoever performs the switch is alive.
    private static func takeBack(
        _ authority: Side, _ epoch: Int64, _ its: String, _ others: String, _ timeout: Double
    ) throws(SwitchSession.Failure) -> String? {
        let fenced = try open(its, authority, timeout)
        guard try isAlone(fenced, authority) else { return nil }
        let coming = try open(others, authority.other, timeout)
        if try SwitchSession.settleClaim(coming, authority.other, epoch) {
            return "switch \(epoch) had been made: \(authority.other.title) takes the writes"
        }
        try SwitchSession.unfence(fenced, authority, epoch)
        return "switch \(epoch) had been cut off before its commit point: \(authority.title) takes the writes again"
    }

    /// - Returns: false: another one has the lock.
    private static func complete(
        _ authority: Side, _ its: String, _ others: String, _ timeout: Double, wasSwitched: Bool
    ) throws(SwitchSession.Failure) -> Bool {
        let owner = try open(its, authority, timeout)
        guard try isAlone(owner, authority) else { return false }
        do throws(PostgresFailure) {
            // Nobody announces anything any more.
            if try owner.hasRelation("godwit.proxy") {
                try owner.execute("""
                    UPDATE godwit.authority SET alert = NULL, announced = NULL
                     WHERE alert IS NOT NULL OR announced IS NOT NULL
                    """)
            }
        } catch {
            throw .side(authority, error)
        }
        guard wasSwitched else { return true }
        let fenced = try open(others, authority.other, timeout)
        try Handover.perform(authority: owner, authority, fenced: fenced, authority.other)
        return true
    }

    /// Held until the connection goes.
    private static func isAlone(
        _ connection: borrowing Connection, _ side: Side
    ) throws(SwitchSession.Failure) -> Bool {
        do throws(PostgresFailure) {
            return try connection.query("SELECT pg_try_advisory_lock(\(AdvisoryLock.coordinator))").flag(0, 0)
        } catch {
            throw .side(side, error)
        }
    }

    private static func open(
        _ conninfo: String, _ side: Side, _ timeout: Double
    ) throws(SwitchSession.Failure) -> Connection {
        do throws(PostgresFailure) {
            return try Connection.open(
                try MirrorSession.parse(conninfo), purpose: "switch recovery", connectTimeoutSeconds: timeout)
        } catch {
            throw .side(side, error)
        }
    }
}
