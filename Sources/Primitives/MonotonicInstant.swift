import Glibc

/// A point on the monotonic clock, in nanoseconds. State machines get it in events and never read the clock themselves.
@usableFromInline @frozen package struct MonotonicInstant: Comparable, Hashable, Sendable {
    @usableFromInline package var nanoseconds: UInt64

    @inlinable package init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    /// The clock's present value. For floor 2 and 3 only.
    package static func now() -> MonotonicInstant {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return MonotonicInstant(nanoseconds: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec))
    }

    @inlinable package static func < (left: MonotonicInstant, right: MonotonicInstant) -> Bool {
        left.nanoseconds < right.nanoseconds
    }

    @inlinable package func advanced(bySeconds seconds: Double) -> MonotonicInstant {
        MonotonicInstant(nanoseconds: nanoseconds &+ UInt64(max(0, seconds) * 1e9))
    }

    @inlinable package func advanced(byMillis millis: UInt64) -> MonotonicInstant {
        MonotonicInstant(nanoseconds: nanoseconds &+ millis &* 1_000_000)
    }

    /// Nanoseconds from `earlier` to here; 0 when `earlier` is later.
    @inlinable package func nanoseconds(since earlier: MonotonicInstant) -> UInt64 {
        nanoseconds > earlier.nanoseconds ? nanoseconds - earlier.nanoseconds : 0
    }

    @inlinable package func microseconds(since earlier: MonotonicInstant) -> UInt64 {
        nanoseconds(since: earlier) / 1000
    }
}
