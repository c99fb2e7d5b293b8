import Synchronization

/// Whether the process that we took over from still has clients: cancel requests for them come to us. Any thread.
final class Predecessor: Sendable {
    private let isThere: Atomic<Bool>

    init(isThere: Bool) { self.isThere = Atomic(isThere) }

    var mayHaveClients: Bool { isThere.load(ordering: .relaxed) }

    func hasEnded() { isThere.store(false, ordering: .relaxed) }
}

/// Client connections over all threads, kept at or below `clients_max`, but for a few that are wanted most when it is
/// reached.
final class ClientCount: Sendable {
    enum Admission {
        case regular
        /// One too many: it may cancel a query, or talk to the console.
        case beyond
        case refused
    }

    /// Connections beyond `clients_max` that may say what they want.
    static let beyondMax = 64

    private let count = Atomic<Int>(0)

    /// Counts one in, in any case. Each call is paired with `leave`.
    func enter(max: Int) -> Admission {
        let count = count.add(1, ordering: .relaxed).newValue
        return count <= max ? .regular : count - max <= Self.beyondMax ? .beyond : .refused
    }

    func leave() { count.subtract(1, ordering: .relaxed) }
}
