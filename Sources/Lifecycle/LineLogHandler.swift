import Configuration
import Glibc
import Logging
import Primitives
import Synchronization

/// How messages are written; a reload may change it while every thread logs. Any thread.
package final class LogSwitch: Sendable {
    private let order = Atomic<Int>(2)
    private let isJSON = Atomic<Bool>(false)
    private let showsLiterals = Atomic<Bool>(false)
    private let perSecond = Atomic<Int>(LogSettings().rate)
    private let limiter = Mutex(LogRateLimit())
    private let hasSuppressed = Atomic<Bool>(false)
    private let descriptor: CInt
    /// Held while a line is written, so that threads do not mix.
    private let untaken = Mutex(Untaken())

    /// What there was no room for.
    private struct Untaken {
        var lines = 0
        /// The last one was begun.
        var isWithinLine = false
    }

    /// Bytes that a pipe or socket which says that it has room takes without making us wait (PIPE_BUF).
    private static let pieceBytesMax = 4096

    /// - Parameter descriptor: where lines go.
    package init(descriptor: CInt = STDERR_FILENO) { self.descriptor = descriptor }

    package func set(_ settings: LogSettings) {
        order.store(LogSettings.Level.allCases.firstIndex(of: settings.level) ?? 2, ordering: .relaxed)
        isJSON.store(settings.format == .json, ordering: .relaxed)
        showsLiterals.store(settings.literals, ordering: .relaxed)
        perSecond.store(settings.rate, ordering: .relaxed)
    }

    package var level: Logger.Level {
        let cases = Logger.Level.allCases
        return cases[min(order.load(ordering: .relaxed), cases.count - 1)]
    }

    /// Tells what was left out, if a second has passed since. To be called now and then, for a storm that is over has
    /// nobody else to say so.
    package func flush() {
        guard hasSuppressed.load(ordering: .relaxed) else { return }
        let ended = limiter.withLock { limiter in
            let ended = limiter.expire(now: .now())
            if limiter.isQuiet { hasSuppressed.store(false, ordering: .relaxed) }
            return ended
        }
        for summary in ended { write(summary) }
    }

    fileprivate func log(_ event: LogEvent, _ metadata: Logger.Metadata, isLimited: Bool) {
        var line = LogLine(level: event.level, message: "\(event.message)", metadata: metadata)
        let limit = perSecond.load(ordering: .relaxed)
        if isLimited, limit > 0 {
            let cause = LogRateLimit.Cause(file: event.file, line: event.line)
            let (isWritten, ended) = limiter.withLock { limiter in
                limiter.take(cause, event.level, line.message, limit: limit, now: .now())
            }
            for summary in ended { write(summary) }
            if !isWritten { return hasSuppressed.store(true, ordering: .relaxed) }
        }
        if !showsLiterals.load(ordering: .relaxed) { line.leaveOutValues() }
        write(line)
    }

    private func write(_ summary: LogRateLimit.Summary) {
        var line = LogLine(
            level: summary.level,
            message: "suppressed \(summary.count) more messages within a second like: \(summary.example)",
            metadata: [:])
        if !showsLiterals.load(ordering: .relaxed) { line.leaveOutValues() }
        write(line)
    }

    private func write(_ line: LogLine) {
        let text = written(line)
        untaken.withLock { untaken in
            if untaken.lines > 0 {
                let words = "\(untaken.lines) messages were left out: nobody has taken what was written before them"
                let summary = written(LogLine(level: .warning, message: words, metadata: [:]))
                if put(summary, &untaken) { untaken.lines = 0 }
            }
            if untaken.lines > 0 || !put(text, &untaken) { untaken.lines += 1 }
        }
    }

    private func written(_ line: LogLine) -> String {
        let now = WallClock.micros()
        return isJSON.load(ordering: .relaxed) ? line.json(atMicros: now) : line.text(atMicros: now)
    }

    /// Waits for nobody: standard error is mostly a pipe, and whoever should read it may hang. The proxy goes on.
    ///
    /// - Returns: false: there was no room for all of it, or nobody reads it.
    private func put(_ text: String, _ untaken: inout Untaken) -> Bool {
        let start = untaken.isWithinLine ? "\n" : ""
        var bytes = Array("\(start)\(text)\n".utf8)[...]
        while !bytes.isEmpty {
            var room = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
            guard poll(&room, 1, 0) == 1, room.revents & Int16(POLLOUT) != 0 else { return false }
            let count = bytes.prefix(Self.pieceBytesMax).withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress, $0.count)
            }
            if count < 0 {
                if errno == EINTR { continue }
                return false
            }
            bytes = bytes.dropFirst(count)
            untaken.isWithinLine = !bytes.isEmpty
        }
        return true
    }
}

/// One line for each message. Any thread.
package struct LineLogHandler: LogHandler {
    private let output: LogSwitch
    private let isLimited: Bool
    package var metadata: Logger.Metadata = [:]

    /// - Parameter isLimited: a cause that says the same again and again is cut short, see `LogRateLimit`.
    package init(_ output: LogSwitch, isLimited: Bool = true) {
        self.output = output
        self.isLimited = isLimited
    }

    /// The switch decides, for all loggers at once.
    package var logLevel: Logger.Level {
        get { output.level }
        set {}
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        output.log(event, metadata.merging(event.metadata ?? [:]) { _, new in new }, isLimited: isLimited)
    }
}
