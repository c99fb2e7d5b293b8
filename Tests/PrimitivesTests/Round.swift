import Glibc
import Synchronization

/// Where one of two threads that play in rounds has come to.
final class Round: Sendable {
    private let number = Atomic<Int>(0)

    func reach(_ round: Int) { number.store(round, ordering: .releasing) }

    func isAt(_ round: Int) -> Bool { number.load(ordering: .relaxed) >= round }

    /// Gives the processor away while it waits: there may be one only.
    func wait(for round: Int) {
        var turns = 0
        while number.load(ordering: .acquiring) < round {
            turns += 1
            if turns % 50 == 0 { sched_yield() }
        }
    }
}
