import Primitives

/// Clients that wait for a server, first come, first served. A client that goes away leaves a hole that is skipped.
package struct WaiterQueue {
    package struct Waiter: Equatable, Sendable {
        package let client: ClientID
        package let since: MonotonicInstant
    }

    private var queue: BoundedQueue<Waiter>
    /// Clients whose entry still counts.
    private var live: [ClientID: MonotonicInstant] = [:]
    private let bound: Int

    /// Holes are at most as many as waiters before the queue is swept.
    package init(bound: Int) {
        self.bound = bound
        queue = BoundedQueue(bound: bound * 2)
    }

    package var count: Int { live.count }
    package var isEmpty: Bool { live.isEmpty }

    /// - Returns: false when the bound is reached.
    package mutating func append(_ client: ClientID, now: MonotonicInstant) -> Bool {
        precondition(live[client] == nil, "a client waits once")
        if live.count >= bound { return false }
        if queue.isFull { sweep() }
        live[client] = now
        let isQueued = queue.append(Waiter(client: client, since: now))
        precondition(isQueued, "a swept queue has room")
        return true
    }

    /// The one that has waited longest.
    package mutating func popFirst() -> Waiter? {
        skipHoles()
        guard let waiter = queue.popFirst() else { return nil }
        live[waiter.client] = nil
        return waiter
    }

    /// Since when the first one has waited.
    package mutating func oldest() -> MonotonicInstant? {
        skipHoles()
        return queue.first?.since
    }

    package mutating func remove(_ client: ClientID) -> Bool { live.removeValue(forKey: client) != nil }

    package mutating func removeAll() -> [ClientID] {
        var clients: [ClientID] = []
        while let waiter = popFirst() { clients.append(waiter.client) }
        return clients
    }

    private func isLive(_ waiter: Waiter) -> Bool { live[waiter.client] == waiter.since }

    private mutating func skipHoles() {
        while let first = queue.first, !isLive(first) { _ = queue.popFirst() }
    }

    private mutating func sweep() {
        var swept = BoundedQueue<Waiter>(bound: bound * 2)
        while let waiter = queue.popFirst() {
            if isLive(waiter) { _ = swept.append(waiter) }
        }
        queue = swept
    }
}
