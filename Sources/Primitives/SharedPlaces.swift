import Synchronization

/// The places of one pool over all threads: each thread has servers of its own in it, all of them together never more
/// than the pool's size, and a server that one thread does not need goes to the thread whose clients wait.
///
/// Threads tell each other by it what they have and lack; who moves servers is the Worker. No locks: a thread stores
/// what it has or lacks before it looks at what the others do, so of two that do so at once one sees the other.
///
/// Unchecked: the parts are atomics, in memory that lives as long as the object.
package final class SharedPlaces: @unchecked Sendable {
    /// What one thread says of its part.
    private struct Part: ~Copyable {
        /// Since when its oldest client without a server has waited, in nanoseconds of the monotonic clock; 0: it lacks
        /// nothing that others should see to.
        let lackingSince = Atomic<UInt64>(0)
        /// Servers that nobody there needs, less those that others have asked for.
        let idle = Atomic<Int>(0)
        /// Servers that have logged in, whoever has them.
        let open = Atomic<Int>(0)
        /// Servers that pinned clients keep.
        let pinned = Atomic<Int>(0)
    }

    private let count = Atomic<Int>(0)
    private let loginCount = Atomic<Int>(0)
    // No array: its elements would be counted references, to be counted for each unit.
    private let parts: UnsafeMutablePointer<Part>
    private let threads: Int
    /// Pinned clients keep most of the servers, and that has been told.
    private let isFlooded = Atomic<Bool>(false)

    /// A thread's oldest client has waited so much longer or shorter before that is told again.
    private static let precisionNanos: UInt64 = 1_000_000

    package init(threads: Int) {
        self.threads = threads
        parts = .allocate(capacity: threads)
        for thread in 0..<threads { (parts + thread).initialize(to: Part()) }
    }

    deinit {
        parts.deinitialize(count: threads)
        parts.deallocate()
    }

    // MARK: places

    /// Servers and logins under way.
    package var taken: Int { count.load(ordering: .relaxed) }

    /// Takes up to `wanted` places, so that no more than `most` are taken in all.
    ///
    /// - Returns: how many there were.
    package func take(_ wanted: Int, most: Int) -> Int {
        var present = count.load(ordering: .relaxed)
        while present < most {
            let granted = min(wanted, most - present)
            let (done, found) = count.compareExchange(
                expected: present, desired: present + granted, ordering: .sequentiallyConsistent)
            if done { return granted }
            present = found
        }
        return 0
    }

    /// Servers have come or gone that nobody had to ask for.
    package func add(_ servers: Int) { count.add(servers, ordering: .sequentiallyConsistent) }

    /// Servers that were opened, ever.
    package var logins: Int { loginCount.load(ordering: .relaxed) }

    package func noteLogin() { loginCount.add(1, ordering: .relaxed) }

    // MARK: what threads lack and have

    /// - Parameters:
    ///   - lackingSince: see `Part`; nil: nothing.
    ///   - idle: servers that it could give away.
    ///   - open: servers that have logged in.
    package func tell(of thread: Int, lackingSince: MonotonicInstant?, idle: Int, open: Int) {
        let since = lackingSince.map { max(1, $0.nanoseconds) } ?? 0
        // A store that others have to see costs more than the look whether it is needed.
        let told = parts[thread].lackingSince.load(ordering: .relaxed)
        if told != since, told == 0 || since == 0 || max(told, since) - min(told, since) > Self.precisionNanos {
            parts[thread].lackingSince.store(since, ordering: .sequentiallyConsistent)
        }
        if parts[thread].idle.load(ordering: .relaxed) != idle {
            parts[thread].idle.store(idle, ordering: .sequentiallyConsistent)
        }
        if parts[thread].open.load(ordering: .relaxed) != open { parts[thread].open.store(open, ordering: .relaxed) }
    }

    /// Another thread has servers that it may have all work for.
    package func isOpen(but thread: Int) -> Bool {
        (0..<threads).contains { $0 != thread && parts[$0].open.load(ordering: .relaxed) > 0 }
    }

    /// Another thread that has a server which nobody there needs; it is the caller's to ask for.
    package func takeIdle(but thread: Int) -> Int? {
        for number in 0..<threads where number != thread {
            var idle = parts[number].idle.load(ordering: .sequentiallyConsistent)
            while idle > 0 {
                let (done, found) = parts[number].idle.compareExchange(
                    expected: idle, desired: idle - 1, ordering: .sequentiallyConsistent)
                if done { return number }
                idle = found
            }
        }
        return nil
    }

    /// A thread's want that somebody is about to meet.
    package typealias Lack = (thread: Int, since: UInt64)

    /// The other thread whose client has waited longest, if that is since before `limit`. It counts as served then, and
    /// says so if it lacks more.
    package func takeLacking(but thread: Int, sinceBefore limit: MonotonicInstant) -> Lack? {
        var longest: Lack?
        for number in 0..<threads where number != thread {
            let since = parts[number].lackingSince.load(ordering: .sequentiallyConsistent)
            if since > 0, since < (longest?.since ?? limit.nanoseconds) { longest = (number, since) }
        }
        guard let longest else { return nil }
        let (done, _) = parts[longest.thread].lackingSince.compareExchange(
            expected: longest.since, desired: 0, ordering: .sequentiallyConsistent)
        return done ? longest : nil
    }

    /// There was nothing for it after all.
    package func putBack(_ lack: Lack) {
        _ = parts[lack.thread].lackingSince.compareExchange(
            expected: 0, desired: lack.since, ordering: .sequentiallyConsistent)
    }

    /// Threads that lack servers.
    package func lacking(but thread: Int) -> [Int] {
        (0..<threads).filter {
            $0 != thread && parts[$0].lackingSince.load(ordering: .sequentiallyConsistent) > 0
        }
    }

    // MARK: pins

    /// - Returns: how many there are on all threads.
    package func tellPinned(_ servers: Int, of thread: Int) -> Int {
        parts[thread].pinned.store(servers, ordering: .relaxed)
        return (0..<threads).reduce(0) { $0 + parts[$1].pinned.load(ordering: .relaxed) }
    }

    /// - Returns: whether that is new.
    package func tellFlooded(_ isFlooded: Bool) -> Bool {
        self.isFlooded.exchange(isFlooded, ordering: .relaxed) != isFlooded
    }
}
