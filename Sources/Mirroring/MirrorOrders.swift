import Primitives
import Synchronization

/// What an operator tells a running mirror. Any thread.
package final class MirrorOrders: Sendable {
    private let paused = Atomic<Bool>(false)
    private let ending = Atomic<Bool>(false)
    private let hurried = Atomic<Bool>(false)
    /// Monotonic nanoseconds; 0: now.
    private let batchesFrom = Atomic<UInt64>(0)
    private let toStand = Atomic<Bool>(false)
    private let standing = Atomic<Bool>(false)
    private let rowsPerSecond: Atomic<Int>

    /// - Parameter rowsPerSecond: of the first copy; 0: as fast as it goes.
    package init(rowsPerSecond: Int = 0) { self.rowsPerSecond = Atomic(rowsPerSecond) }

    /// NEW stands still; the journal keeps what changes meanwhile.
    package var isPaused: Bool {
        get { paused.load(ordering: .acquiring) }
        set { paused.store(newValue, ordering: .releasing) }
    }

    /// A switch takes the target away from the mirror: that it finds so is no news.
    package var isEnding: Bool {
        get { ending.load(ordering: .acquiring) }
        set { ending.store(newValue, ordering: .releasing) }
    }

    /// Writes are held until the mirror has caught up: batches only, and no housekeeping in between.
    package var isHurried: Bool {
        get { hurried.load(ordering: .acquiring) }
        set { hurried.store(newValue, ordering: .releasing) }
    }

    /// The last writes come to their end now, and are waited for: a batch that is begun before they have is in their
    /// way, and in that of the last one.
    package func waitForLastWrites() {
        batchesFrom.store(
            MonotonicInstant.now().advanced(bySeconds: Self.lastWritesSeconds).nanoseconds, ordering: .releasing)
    }

    /// They have ended.
    package func lastWritesEnded() { batchesFrom.store(0, ordering: .releasing) }

    /// What is not waited for any longer is not many writes yet.
    private static let lastWritesSeconds = 0.03

    var awaitsLastWrites: Bool {
        let from = batchesFrom.load(ordering: .acquiring)
        return from > 0 && from > MonotonicInstant.now().nanoseconds
    }

    /// DDL of several statements takes tables one by one: a batch that holds some and waits for others would be waited
    /// for in turn. So no batch begins.
    package var isToStand: Bool {
        get { toStand.load(ordering: .acquiring) }
        set { toStand.store(newValue, ordering: .releasing) }
    }

    /// It does so, and holds no table.
    package internal(set) var isStanding: Bool {
        get { standing.load(ordering: .acquiring) }
        set { standing.store(newValue, ordering: .releasing) }
    }

    package var copyRowsPerSecond: Int {
        get { rowsPerSecond.load(ordering: .relaxed) }
        set { rowsPerSecond.store(newValue, ordering: .relaxed) }
    }
}

/// Whether the mirrors of this process mirror, or follow another one's. Any thread.
package final class MirrorDuty: Sendable {
    /// Seconds without a word of the others' after which a process that follows knows too little to read where another
    /// one mirrors to.
    package static let touchSecondsMax = 5.0

    /// Another process may have the mirrors, and say so.
    package let isShared: Bool
    private let ours: Atomic<Bool>
    private let count = Atomic<Int>(0)
    private let sure = Atomic<Bool>(false)
    /// Monotonic nanoseconds; 0: never.
    private let heardAt = Atomic<UInt64>(0)

    /// What is shared is another one's until it is said to be ours.
    package init(isShared: Bool) {
        self.isShared = isShared
        ours = Atomic(!isShared)
    }

    package var isOurs: Bool {
        get { ours.load(ordering: .acquiring) }
        set {
            let was = ours.exchange(newValue, ordering: .acquiringAndReleasing)
            if newValue, !was { count.wrappingAdd(1, ordering: .relaxed) }
        }
    }

    /// It is ours for certain at this moment: whoever else mirrors is cut off from those who know, and is ended.
    package var mayEndOthers: Bool {
        get { sure.load(ordering: .acquiring) }
        set { sure.store(newValue, ordering: .releasing) }
    }

    /// All that others had decided at this moment is in force here.
    package func hear(at instant: MonotonicInstant) {
        _ = heardAt.max(instant.nanoseconds, ordering: .acquiringAndReleasing)
    }

    /// What others decide reaches this process, as far as is known.
    package var isInTouch: Bool {
        let heard = MonotonicInstant(nanoseconds: heardAt.load(ordering: .acquiring))
        return MonotonicInstant.now() < heard.advanced(bySeconds: Self.touchSecondsMax)
    }

    /// All that others had decided at this moment is in force here, whoever has the mirrors.
    package func hasHeard(since instant: MonotonicInstant) -> Bool {
        heardAt.load(ordering: .acquiring) > instant.nanoseconds
    }

    /// How often it has become ours.
    var beginnings: Int { count.load(ordering: .relaxed) }

    /// Whoever waits for a later attempt need not wait any more.
    func hasBegun(since beginnings: Int) -> Bool { self.beginnings != beginnings }
}
