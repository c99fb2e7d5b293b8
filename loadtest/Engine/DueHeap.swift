/// What is due when, the earliest first: a binary heap. One thread.
struct DueHeap<Element> {
    private var entries: [(due: UInt64, element: Element)] = []

    var isEmpty: Bool { entries.isEmpty }
    var firstDue: UInt64? { entries.first?.due }
    var count: Int { entries.count }

    mutating func add(_ element: Element, due: UInt64) {
        entries.append((due, element))
        var child = entries.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            if entries[parent].due <= entries[child].due { return }
            entries.swapAt(parent, child)
            child = parent
        }
    }

    /// - Returns: the earliest, when it is due.
    mutating func take(dueBy now: UInt64) -> Element? {
        guard let first = entries.first, first.due <= now else { return nil }
        let last = entries.removeLast()
        if entries.isEmpty { return first.element }
        entries[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < entries.count {
                if entries[child].due < entries[least].due { least = child }
            }
            if least == parent { return first.element }
            entries.swapAt(parent, least)
            parent = least
        }
    }
}
