import Primitives

/// Clients that wait for a server, first come, first served. A client that goes away leaves a hole that is skipped.
@usableFromInline package struct WaiterQueue {
    package struct Waiter: Equatable, Sendable {
        package let client: ClientID
        package let since: MonotonicInstant
    }

    private struct Entry {
        var waiter: Waiter
        var ticket: UInt64
    }

    private var queue: BoundedQueue<Entry>
    /// The entry that counts for each client. Not told by its time: a client may leave and come back in one instant.
    @usableFromInline var live: [ClientID: UInt64] = [:]
    private var lastTicket: UInt64 = 0
    private var bound: Int

    /// Holes are at most as many as waiters before the queue is swept.
    package init(bound: Int) {
        self.bound = bound
        queue = BoundedQueue(bound: bound * 2)
    }

    @inlinable package var count: Int { live.count }
    @inlinable package var isEmpty: Bool { live.isEmpty }

    /// - Returns: false when the bound is reached.
    package mutating func append(_ client: ClientID, now: MonotonicInstant) -> Bool {
        precondition(live[client] == nil, "a client waits once")
        if live.count >= bound { return false }
        if queue.isFull { sweep() }
        lastTicket += 1
        live[client] = lastTicket
        let isQueued = queue.append(Entry(waiter: Waiter(client: client, since: now), ticket: lastTicket))
        precondition(isQueued, "a swept queue has room")
        return true
    }

    /// The one that has waited longest.
    package mutating func popFirst() -> Waiter? {
        skipHoles()
        guard let waiter = queue.popFirst()?.waiter else { return nil }
        live[waiter.client] = nil
        return waiter
    }

    /// Since when the first one has waited.
    package mutating func oldest() -> MonotonicInstant? {
        skipHoles()
        return queue.first?.waiter.since
    }

    package mutating func remove(_ client: ClientID) -> Bool { live.removeValue(forKey: client) != nil }

    package mutating func removeAll() -> [ClientID] {
        var clients: [ClientID] = []
        while let waiter = popFirst() { clients.append(waiter.client) }
        return clients
    }

    /// A reload. Who waits already goes on waiting, also where those are more than may from now on.
    package mutating func set(bound next: Int) {
        precondition(next > 0, "a queue without room")
        if next == bound { return }
        bound = next
        sweep()
    }

    private func isLive(_ entry: Entry) -> Bool { live[entry.waiter.client] == entry.ticket }

    private mutating func skipHoles() {
        if live.count == queue.count { return }
        while let first = queue.first, !isLive(first) { _ = queue.popFirst() }
    }

    private mutating func sweep() {
        var swept = BoundedQueue<Entry>(bound: max(bound * 2, live.count))
        while let entry = queue.popFirst() {
            if isLive(entry) { _ = swept.append(entry) }
        }
        queue = swept
    }
}
