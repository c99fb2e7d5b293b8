import CEpoll
import Glibc
import Synchronization

/// How far NEW is known to hold OLD's commits: batch numbers that the mirror writes and reactors read without a lock.
///
/// The rule of read-your-writes: when the authority acknowledges a commit, its user is stamped with `taking`; reads of
/// that user may go to NEW once `applied` is greater than the stamp. `beginBatch` must happen before the batch's
/// snapshot is taken: then a commit acknowledged while `taking` was n is visible to batch n + 1 at the latest.
package final class Horizon: Sendable {
    private let takingBatch = Atomic<UInt64>(0)
    private let appliedBatch = Atomic<UInt64>(0)
    private let isReadable = Atomic<Bool>(false)
    /// NEW may answer reads only when this batch is applied: another process, which does not tell us what users write,
    /// has served clients until it was begun, or does so still.
    private let readableFrom = Atomic<UInt64>(0)
    private let isKicked = Atomic<Bool>(false)
    /// Commits are not waited for until this batch is applied: one was not there in time.
    private let asynchronousUntil = Atomic<UInt64>(0)
    private let commitsInTime = Atomic<UInt64>(0)
    private let commitsLate = Atomic<UInt64>(0)
    private let hasWaiters = Atomic<Bool>(false)
    private let sleepers = Mutex<[CInt]>([])
    private let observer = Mutex<(@Sendable (MirrorReport) -> Void)?>(nil)
    private let currentReport = Mutex<MirrorReport>(MirrorReport())
    /// An eventfd, readable when a commit was acknowledged since the mirror last took a kick.
    package let kickDescriptor: CInt

    /// - Parameter batch: of an earlier mirror, which this one's numbers go on from: stamps of that time then need its
    ///   first batch at most.
    package init(after batch: UInt64 = 0) {
        takingBatch.store(batch, ordering: .relaxed)
        appliedBatch.store(batch, ordering: .relaxed)
        kickDescriptor = godwit_eventfd()
        precondition(kickDescriptor >= 0, "eventfd: out of file descriptors")
    }

    deinit { _ = close(kickDescriptor) }

    // MARK: reactors

    /// The batch being taken now: the stamp for a commit that was acknowledged now.
    package var taking: UInt64 { takingBatch.load(ordering: .sequentiallyConsistent) }

    /// The last batch that NEW has committed.
    package var applied: UInt64 { appliedBatch.load(ordering: .acquiring) }

    /// False while NEW does not equal OLD at any snapshot yet (backfill), or the mirror is stopped or too far behind.
    package var readable: Bool {
        isReadable.load(ordering: .acquiring)
            && appliedBatch.load(ordering: .acquiring) >= readableFrom.load(ordering: .acquiring)
    }

    /// Says that a commit was acknowledged; wakes the mirror at most once until it takes the kick.
    package func kick() {
        if isKicked.load(ordering: .relaxed) { return }
        if !isKicked.exchange(true, ordering: .acquiringAndReleasing) { signal(eventDescriptor: kickDescriptor) }
    }

    /// An eventfd that is signalled after batches while somebody waits. Any thread; once per reactor.
    package func wakeAfterBatches(_ eventDescriptor: CInt) {
        sleepers.withLock { if !$0.contains(eventDescriptor) { $0.append(eventDescriptor) } }
    }

    /// It is closed next, and may be anything's number from then on: a client's, or a file's.
    package func wakeNoLonger(_ eventDescriptor: CInt) {
        sleepers.withLock { $0.removeAll { $0 == eventDescriptor } }
    }

    /// Somebody waits for the next batch: its end is to be told. To be said again after each wake-up.
    package func announceWaiter() { hasWaiters.store(true, ordering: .sequentiallyConsistent) }

    /// Somebody waits for a batch that has not ended. Any thread.
    package var isAwaited: Bool { hasWaiters.load(ordering: .sequentiallyConsistent) }

    // MARK: commits that wait for NEW (mirror.mode: sync)

    /// False while waiting would be in vain: NEW is being copied to, too far behind, or was late for a commit and has
    /// not caught up with it.
    package var isSynchronous: Bool {
        isReadable.load(ordering: .acquiring) && applied >= asynchronousUntil.load(ordering: .acquiring)
    }

    package func fallBack(until batch: UInt64) { asynchronousUntil.max(batch, ordering: .acquiringAndReleasing) }

    package func countSync(inTime: Bool) {
        if inTime {
            commitsInTime.wrappingAdd(1, ordering: .relaxed)
        } else {
            commitsLate.wrappingAdd(1, ordering: .relaxed)
        }
    }

    /// Commits that NEW had when they were answered, and those that it had not.
    package var syncCounts: (inTime: UInt64, late: UInt64) {
        (commitsInTime.load(ordering: .relaxed), commitsLate.load(ordering: .relaxed))
    }

    // MARK: the mirror's thread

    /// Numbers the next batch. Call before the batch's snapshot is taken.
    package func beginBatch() -> UInt64 {
        // Drained first: a kick between the two is in this batch anyway; the other way round its signal would be
        // drained with the mark left set, and no later kick would wake anybody.
        drain(eventDescriptor: kickDescriptor)
        isKicked.store(false, ordering: .sequentiallyConsistent)
        return takingBatch.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue
    }

    /// NEW has committed `batch` (or it was empty).
    package func finishBatch(_ batch: UInt64) {
        precondition(batch <= taking, "a batch that was never begun")
        appliedBatch.store(batch, ordering: .sequentiallyConsistent)
        if hasWaiters.exchange(false, ordering: .sequentiallyConsistent) {
            sleepers.withLock { for descriptor in $0 { signal(eventDescriptor: descriptor) } }
        }
    }

    package func setReadable(_ readable: Bool) { isReadable.store(readable, ordering: .releasing) }

    // MARK: taking over, and being taken over

    /// From now on another process serves clients as well: reads stay with the authority.
    package func withhold() { readableFrom.store(.max, ordering: .sequentiallyConsistent) }

    /// The other process serves nobody any more. What it has acknowledged is in the batch that is begun next.
    ///
    /// - Parameter hasMirror: batches are applied here; otherwise there is nothing to wait for.
    package func allow(hasMirror: Bool) {
        readableFrom.store(hasMirror ? taking + 1 : 0, ordering: .sequentiallyConsistent)
        kick()
    }

    // MARK: anyone

    package var report: MirrorReport { currentReport.withLock { $0 } }

    package func updateReport(_ change: (inout MirrorReport) -> Void) {
        let changed = currentReport.withLock { report -> MirrorReport? in
            let (state, reason) = (report.state, report.reason)
            change(&report)
            return report.state == state && report.reason == reason ? nil : report
        }
        if let changed { observer.withLock { $0 }?(changed) }
    }

    /// Told, on the mirror's thread, when its state or the reason for it has changed. One observer.
    package func observe(_ observer: @escaping @Sendable (MirrorReport) -> Void) {
        self.observer.withLock { $0 = observer }
    }
}

/// What the mirror says of itself (SHOW MIRROR). Immutable value, any thread.
package struct MirrorReport: Sendable, Equatable {
    /// `following`: another Godwit with the same state has the mirror, and we know how far it is; `standby`: we do not.
    package enum State: String, Sendable {
        case off, starting, backfill, mirroring, following, paused, waiting, standby, stopped

        /// NEW follows OLD, batch by batch.
        package var isCurrent: Bool { self == .mirroring || self == .following }
    }

    package struct Table: Sendable, Equatable {
        package var name: String
        /// Rows copied by the backfill so far, and its estimate of all.
        package var rowsCopied: UInt64 = 0
        package var rowsEstimated: UInt64 = 0
        package var bytesCopied: UInt64 = 0
        /// Of the table that is being copied now.
        package var rowsPerSecond: UInt64 = 0
        package var isCopied = false

        /// Seconds until it is copied, as far as can be told.
        package var secondsLeft: UInt64? {
            guard !isCopied, rowsPerSecond > 0, rowsEstimated > rowsCopied else { return nil }
            return (rowsEstimated - rowsCopied) / rowsPerSecond
        }

        package init(name: String) { self.name = name }
    }

    package var state: State = .off
    /// Why it waits or stopped: one sentence for the operator; empty otherwise.
    package var reason = ""
    package var batches: UInt64 = 0
    /// Keys applied since the start (dirty keys, not backfilled rows).
    package var keys: UInt64 = 0
    package var rowsCopied: UInt64 = 0
    /// Why the first copy rests; empty: it does not.
    package var copyHeld = ""
    /// Keys on NEW that somebody else wrote, and that were brought back to what OLD has.
    package var rogueKeys: UInt64 = 0
    /// Microseconds from the start of a batch (or the kick that asked for it) to its commit on NEW, over the last
    /// minute.
    package var lagMicrosP50: UInt64 = 0
    package var lagMicrosP99: UInt64 = 0
    /// Monotonic nanoseconds of the last commit on NEW; 0 before the first.
    package var lastAppliedNanos: UInt64 = 0
    package var tables: [Table] = []
    /// OLD's tables that are not mirrored: made since prepare.
    package var uncaptured: [String] = []

    /// Seconds until all tables are copied, at the rate of the one that is copied now; nil: cannot be told.
    package var secondsLeft: UInt64? {
        let rate = tables.reduce(0) { $0 + $1.rowsPerSecond }
        guard rate > 0 else { return nil }
        let left = tables.reduce(0) { sum, table in
            sum + (table.isCopied ? 0 : table.rowsEstimated - min(table.rowsCopied, table.rowsEstimated))
        }
        return left / rate
    }

    package init() {}
}
