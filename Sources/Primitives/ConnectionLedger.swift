import Synchronization

/// Connections of one kind over all threads: exact, for each is counted in before it is made.
package final class SharedCount: Sendable {
    private let count = Atomic<Int>(0)
    /// Somebody was refused since the last one left.
    private let wanted = Atomic<Bool>(false)

    package init() {}

    package var value: Int { count.load(ordering: .relaxed) }
    package var isWanted: Bool { wanted.load(ordering: .relaxed) }

    /// Counts one in; false, and nothing changes, when there are `max` already. 0: any number.
    package func enter(max: Int) -> Bool {
        if max == 0 {
            count.add(1, ordering: .relaxed)
            return true
        }
        var present = count.load(ordering: .relaxed)
        while present < max {
            let (done, found) = count.compareExchange(
                expected: present, desired: present + 1, ordering: .sequentiallyConsistent)
            if done { return true }
            present = found
        }
        wanted.store(true, ordering: .sequentiallyConsistent)
        // One that left between the look and the mark would not have seen the mark.
        return count.load(ordering: .sequentiallyConsistent) < max ? enter(max: max) : false
    }

    /// - Returns: whether somebody was refused meanwhile, and should be told.
    package func leave() -> Bool {
        count.subtract(1, ordering: .sequentiallyConsistent)
        return wanted.exchange(false, ordering: .sequentiallyConsistent)
    }
}

/// The counts behind limits that hold over all threads. Any thread; its lock is taken where pools and logins are made,
/// not for units.
package final class ConnectionLedger: Sendable {
    package enum Key: Hashable, Sendable {
        /// Servers of one database or user, per side.
        case databaseServers(ExactName, Side)
        case userServers(ExactName, Side)
        case databaseClients(ExactName)
        case userClients(ExactName)
    }

    private struct Weak {
        weak var count: SharedCount?
    }

    private struct State {
        var counts: [Key: Weak] = [:]
        var sweepAt = 1024
    }

    private let state = Mutex(State())

    package init() {}

    /// The same object for the same key, as long as somebody holds it.
    package func count(_ key: Key) -> SharedCount {
        state.withLock { state in
            if let known = state.counts[key]?.count { return known }
            if state.counts.count >= state.sweepAt {
                state.counts = state.counts.filter { $0.value.count != nil }
                state.sweepAt = max(1024, state.counts.count * 2)
            }
            let made = SharedCount()
            state.counts[key] = Weak(count: made)
            return made
        }
    }
}
