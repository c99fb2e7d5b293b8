import Glibc

/// The time of day, for what people read and what outlives the process. No state, any thread.
package enum WallClock {
    /// Nanoseconds since 1970.
    package static func nanos() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    /// Microseconds since 1970.
    package static func micros() -> Int64 { nanos() / 1000 }
}
