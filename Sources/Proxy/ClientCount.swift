import Synchronization

/// Whether the process that we took over from still has clients: cancel requests for them come to us. Any thread.
final class Predecessor: Sendable {
    private let isThere: Atomic<Bool>

    init(isThere: Bool) { self.isThere = Atomic(isThere) }

    var mayHaveClients: Bool { isThere.load(ordering: .relaxed) }

    func hasEnded() { isThere.store(false, ordering: .relaxed) }
}

/// Client connections over all threads, kept at or below `clients_max`.
final class ClientCount: Sendable {
    private let count = Atomic<Int>(0)

    /// Counts one in, in any case; false when it is one too many. Each call is paired with `leave`.
    func enter(max: Int) -> Bool { count.add(1, ordering: .relaxed).newValue <= max }

    func leave() { count.subtract(1, ordering: .relaxed) }
}
