import Primitives

/// Many coarse deadlines for one thread: a hashed wheel (Varghese and Lauck 1987, scheme 6).
///
/// A deadline fires once, not before its time and at most one tick late. Nothing is cancelled: the owner asks, when a
/// token fires, whether it still means something. Inlinable, for generic code of another module looks up its types at
/// each call.
@usableFromInline package struct TimerWheel<Token> {
    @inlinable package static var tickMillis: UInt64 { 50 }
    @inlinable static var slotCount: Int { 512 }

    @usableFromInline struct Entry {
        @usableFromInline var deadline: MonotonicInstant
        @usableFromInline var token: Token

        @inlinable init(deadline: MonotonicInstant, token: Token) {
            self.deadline = deadline
            self.token = token
        }
    }

    @usableFromInline var slots: [[Entry]]
    @usableFromInline var cursor: UInt64
    @usableFromInline package internal(set) var count = 0

    @inlinable package init(now: MonotonicInstant) {
        slots = Array(repeating: [], count: Self.slotCount)
        cursor = Self.tick(of: now)
    }

    @inlinable static func tick(of instant: MonotonicInstant) -> UInt64 {
        instant.nanoseconds / (tickMillis * 1_000_000)
    }

    @inlinable package mutating func schedule(_ token: Token, at deadline: MonotonicInstant) {
        let tick = max(Self.tick(of: deadline) + 1, cursor + 1)
        slots[Int(tick % UInt64(Self.slotCount))].append(Entry(deadline: deadline, token: token))
        count += 1
    }

    /// Milliseconds until the next tick has to be looked at; -1 when nothing is scheduled.
    @inlinable package func timeoutMillis(now: MonotonicInstant) -> Int32 {
        if count == 0 { return -1 }
        let next = (cursor + 1) * Self.tickMillis * 1_000_000
        if next <= now.nanoseconds { return 0 }
        return Int32((next - now.nanoseconds) / 1_000_000) + 1
    }

    /// Takes the tokens whose deadline has passed.
    @inlinable package mutating func expire(now: MonotonicInstant) -> [Token] {
        let target = Self.tick(of: now)
        if target <= cursor { return [] }
        if count == 0 {
            cursor = target
            return []
        }
        var expired: [Token] = []
        let steps = min(target - cursor, UInt64(Self.slotCount))
        for step in 1...steps {
            let index = Int((target - steps + step) % UInt64(Self.slotCount))
            if slots[index].isEmpty { continue }
            var kept: [Entry] = []
            for entry in slots[index] {
                if entry.deadline <= now {
                    expired.append(entry.token)
                } else {
                    kept.append(entry)
                }
            }
            slots[index] = kept
        }
        cursor = target
        count -= expired.count
        return expired
    }
}
