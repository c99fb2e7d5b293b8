import Synchronization

/// Until when this Godwit may take it that no other one has moved a database's writes without it: others count it as
/// gone some time after its last sign of life, and switch then without waiting for it.
///
/// Writes that go to the authority behind that end meet its fence, which keeps rows right but fails the client's
/// transaction. So they are held for a moment instead, until it is known again who takes the writes. Any thread.
package final class WriteLease: Sendable {
    /// Monotonic nanoseconds; 0: there is nobody else, and no end.
    private let end = Atomic<UInt64>(0)
    /// The switch that had made the authority what it was found to be.
    private let epoch = Atomic<Int64>(0)

    package init() {}

    /// Nobody had moved the writes at `instant`; others know of a sign that was given later, and count on it for so
    /// long.
    package func renew(at instant: MonotonicInstant, forSeconds seconds: Double, epoch: Int64) {
        self.epoch.store(epoch, ordering: .releasing)
        end.store(instant.advanced(bySeconds: seconds).nanoseconds, ordering: .releasing)
    }

    /// No other Godwit serves the database.
    package func giveUp() { end.store(0, ordering: .releasing) }

    /// - Parameter epoch: what the asker takes for the latest switch. The lease may be for a later one, of which it has
    ///   not heard yet.
    package func hasRunOut(at now: MonotonicInstant, epoch: Int64) -> Bool {
        let end = end.load(ordering: .acquiring)
        return end != 0 && (now.nanoseconds > end || self.epoch.load(ordering: .acquiring) > epoch)
    }
}

/// All databases' leases, which outlive reloads and changes of the authority. Any thread.
package final class WriteLeases: Sendable {
    private let leases = Mutex<[String: WriteLease]>([:])

    package init() {}

    /// Made when it is first asked for.
    package func of(_ database: String) -> WriteLease {
        leases.withLock { leases in
            if let lease = leases[database] { return lease }
            let lease = WriteLease()
            leases[database] = lease
            return lease
        }
    }
}
