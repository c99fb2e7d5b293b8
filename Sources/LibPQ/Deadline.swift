import Primitives

/// When a wait ends. Immutable, any thread.
package struct Deadline: Sendable {
    private var instant: MonotonicInstant

    package static func now() -> Deadline { Deadline(instant: .now()) }

    package func adding(seconds: Double) -> Deadline { Deadline(instant: instant.advanced(bySeconds: seconds)) }

    package var hasPassed: Bool { MonotonicInstant.now() >= instant }

    /// For poll(2): whole milliseconds, rounded up, 0 when it has passed.
    package var millisLeft: CInt {
        let left = instant.nanoseconds(since: .now())
        return CInt(clamping: (left + 999_999) / 1_000_000)
    }
}
