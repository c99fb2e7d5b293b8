import Synchronization

/// Client connections over all threads, kept at or below `clients_max`.
final class ClientCount: Sendable {
    private let count = Atomic<Int>(0)

    /// Counts one in, in any case; false when it is one too many. Each call is paired with `leave`.
    func enter(max: Int) -> Bool { count.add(1, ordering: .relaxed).newValue <= max }

    func leave() { count.subtract(1, ordering: .relaxed) }
}
