/// First in, first out, in a ring that grows to a named bound. Not shared between threads. Inlinable, so that each user
/// has a version of its own for its elements: the common one asks for their types with each call.
@usableFromInline @frozen package struct BoundedQueue<Element> {
    @usableFromInline var ring: [Element?]
    @usableFromInline var head = 0
    @usableFromInline package internal(set) var count = 0
    /// Elements; `append` refuses beyond it.
    @usableFromInline package let bound: Int

    @inlinable package init(bound: Int) {
        precondition(bound > 0, "a queue without room")
        self.bound = bound
        ring = []
    }

    @inlinable package var isEmpty: Bool { count == 0 }
    @inlinable package var isFull: Bool { count == bound }

    /// The oldest element, left in place.
    @inlinable package var first: Element? { count == 0 ? nil : ring[head] }

    /// - Returns: false, and nothing changes, when the queue is full.
    @inlinable package mutating func append(_ element: Element) -> Bool {
        if count == bound { return false }
        if count == ring.count { grow() }
        var tail = head + count
        if tail >= ring.count { tail -= ring.count }
        ring[tail] = element
        count += 1
        return true
    }

    @inlinable package mutating func popFirst() -> Element? {
        if count == 0 { return nil }
        let element = ring[head]
        ring[head] = nil
        head = head + 1 == ring.count ? 0 : head + 1
        count -= 1
        return element
    }

    /// The element `index` places behind the oldest.
    @inlinable package subscript(index: Int) -> Element {
        get {
            precondition(index >= 0 && index < count, "index outside the queue")
            let place = (head + index) % ring.count
            guard let element = ring[place] else { preconditionFailure("a hole in the ring") }
            return element
        }
        set {
            precondition(index >= 0 && index < count, "index outside the queue")
            ring[(head + index) % ring.count] = newValue
        }
    }

    @inlinable package mutating func removeAll() {
        ring = []
        head = 0
        count = 0
    }

    @usableFromInline mutating func grow() {
        var larger: [Element?] = []
        let capacity = min(bound, max(8, ring.count * 2))
        larger.reserveCapacity(capacity)
        for index in 0..<count { larger.append(ring[(head + index) % ring.count]) }
        while larger.count < capacity { larger.append(nil) }
        ring = larger
        head = 0
    }
}
