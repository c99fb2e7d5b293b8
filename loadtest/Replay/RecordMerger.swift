import Capture

/// Puts the records of several reactor threads into one order, that of their numbers. Each thread's are in order already;
/// a thread hands over what it has at least once a second, so that what is older than `window` has nothing before it
/// any more.
package struct RecordMerger {
    /// Microseconds.
    package static let window: UInt64 = 2_500_000

    private var waiting: [Int: (records: [CaptureRecord], start: Int)] = [:]
    private var latest: UInt64 = 0
    package private(set) var count = 0

    package init() {}

    package mutating func add(_ records: [CaptureRecord], of thread: Int) {
        if let last = records.last { latest = max(latest, last.micros) }
        count += records.count
        waiting[thread, default: ([], 0)].records += records
    }

    /// - Parameter isAll: nothing more comes.
    package mutating func take(isAll: Bool, _ body: (CaptureRecord) -> Void) {
        // A single thread's records need not wait for anybody's.
        let bound = isAll ? UInt64.max : latest >= Self.window ? latest - Self.window : 0
        while count > 0 {
            var chosen: (thread: Int, number: UInt64)?
            for (thread, queue) in waiting where queue.start < queue.records.count {
                let number = queue.records[queue.start].number
                if let best = chosen, (best.number, best.thread) <= (number, thread) { continue }
                chosen = (thread, number)
            }
            guard let chosen else { return }
            var queue = waiting.removeValue(forKey: chosen.thread) ?? ([], 0)
            if queue.records[queue.start].micros > bound {
                waiting[chosen.thread] = queue
                return
            }
            // The run up to where another thread comes in.
            let limit = others(than: chosen.thread) ?? .max
            repeat {
                body(queue.records[queue.start])
                queue.start += 1
                count -= 1
            } while queue.start < queue.records.count && queue.records[queue.start].number < limit
                && queue.records[queue.start].micros <= bound
            if queue.start == queue.records.count { queue = ([], 0) }
            if queue.start > 8192 && queue.start * 2 > queue.records.count {
                queue.records.removeFirst(queue.start)
                queue.start = 0
            }
            waiting[chosen.thread] = queue
        }
    }

    private func others(than thread: Int) -> UInt64? {
        waiting.compactMap { $0.key == thread || $0.value.start >= $0.value.records.count
            ? nil : $0.value.records[$0.value.start].number }.min()
    }
}
