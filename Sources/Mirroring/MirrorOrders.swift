import Synchronization

/// What an operator tells a running mirror. Any thread.
package final class MirrorOrders: Sendable {
    private let paused = Atomic<Bool>(false)
    private let ending = Atomic<Bool>(false)
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

    package var copyRowsPerSecond: Int {
        get { rowsPerSecond.load(ordering: .relaxed) }
        set { rowsPerSecond.store(newValue, ordering: .relaxed) }
    }
}
