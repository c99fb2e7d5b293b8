import Synchronization

/// Connections of one kind over all threads: exact, for each is counted in before it is made.
package final class SharedCount: Sendable {
    private let count = Atomic<Int>(0)
    /// Somebody was refused since the last one left.
    private let wanted = Atomic<Bool>(false)

    package init() {}

    package var value: Int { count.load(ordering: .relaxed) }
    package var isWanted: Bool { wanted.load(ordering: .relaxed) }

    /// Counts one in; false when there are `max` already. 0: any number.
    ///
    /// - Parameter waits: who is refused is to be told when one has left; else nothing changes.
    package func enter(max: Int, waits: Bool = true) -> Bool {
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
        if !waits { return false }
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

    private struct State {
        var counts = WeakTable<Key, SharedCount>()
        var places = WeakTable<PoolKey, SharedPlaces>()
    }

    /// Entries that nobody holds are forgotten now and then.
    private struct WeakTable<Name: Hashable, Entry: AnyObject> {
        private struct Weak {
            weak var entry: Entry?
        }

        private var entries: [Name: Weak] = [:]
        private var sweepAt = 1024

        mutating func entry(_ name: Name, _ make: () -> Entry) -> Entry {
            if let known = entries[name]?.entry { return known }
            if entries.count >= sweepAt {
                entries = entries.filter { $0.value.entry != nil }
                sweepAt = max(1024, entries.count * 2)
            }
            let made = make()
            entries[name] = Weak(entry: made)
            return made
        }
    }

    private let state = Mutex(State())
    private let threads: Int

    package init(threads: Int) { self.threads = threads }

    /// The same object for the same key, as long as somebody holds it.
    package func count(_ key: Key) -> SharedCount {
        state.withLock { $0.counts.entry(key) { SharedCount() } }
    }

    /// Likewise of one pool.
    package func places(_ key: PoolKey) -> SharedPlaces {
        state.withLock { $0.places.entry(key) { SharedPlaces(threads: threads) } }
    }
}
