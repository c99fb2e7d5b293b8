import Logging
import Primitives

/// Cuts short what one place of the program says again and again: so many messages a second, then how many more there
/// were. Pure; guarded by the log's lock.
package struct LogRateLimit {
    /// Where in the program it was said. Two threads that say it say the same.
    package struct Cause: Hashable, Sendable {
        package let file: String
        package let line: UInt

        package init(file: String, line: UInt) {
            self.file = file
            self.line = line
        }
    }

    /// What was left out within one second.
    package struct Summary: Equatable, Sendable {
        package let level: Logger.Level
        package let count: Int
        /// The last one.
        package let example: String

        package init(level: Logger.Level, count: Int, example: String) {
            self.level = level
            self.count = count
            self.example = example
        }
    }

    private struct Window {
        var endsAt: MonotonicInstant
        var written = 0
        var suppressed = 0
        var level: Logger.Level = .info
        var example = ""
    }

    private static let seconds = 1.0
    /// Ended by the next message of any cause, so there are never more than the program's places that log.
    private var windows: [Cause: Window] = [:]

    package init() {}

    /// Nothing is left out now.
    package var isQuiet: Bool { windows.values.allSatisfy { $0.suppressed == 0 } }

    /// - Returns: whether this one is written, and what is to be said of seconds that have ended.
    package mutating func take(
        _ cause: Cause, _ level: Logger.Level, _ message: String, limit: Int, now: MonotonicInstant
    ) -> (isWritten: Bool, ended: [Summary]) {
        precondition(limit > 0, "a limit that lets nothing through")
        let ended = expire(now: now)
        var window = windows[cause] ?? Window(endsAt: now.advanced(bySeconds: Self.seconds))
        let isWritten = window.written < limit
        if isWritten {
            window.written += 1
        } else {
            window.suppressed += 1
            window.level = level
            window.example = message
        }
        windows[cause] = window
        return (isWritten, ended)
    }

    package mutating func expire(now: MonotonicInstant) -> [Summary] {
        var ended: [Summary] = []
        for (cause, window) in windows where window.endsAt <= now {
            windows[cause] = nil
            if window.suppressed > 0 {
                ended.append(Summary(level: window.level, count: window.suppressed, example: window.example))
            }
        }
        return ended.sorted { $0.example < $1.example }
    }
}
