import Configuration
import Glibc
import Logging
import Primitives
import Synchronization

/// Which messages are written; a reload may change it while every thread logs. Any thread.
package final class LogLevelSwitch: Sendable {
    private let order = Atomic<Int>(2)

    package init() {}

    package func set(_ level: LogSettings.Level) {
        order.store(LogSettings.Level.allCases.firstIndex(of: level) ?? 2, ordering: .relaxed)
    }

    package var level: Logger.Level {
        let cases = Logger.Level.allCases
        return cases[min(order.load(ordering: .relaxed), cases.count - 1)]
    }
}

/// One line on standard error for each message, in one write, so that threads do not mix.
package struct LineLogHandler: LogHandler {
    private let levels: LogLevelSwitch
    package var metadata: Logger.Metadata = [:]

    package init(levels: LogLevelSwitch) { self.levels = levels }

    /// The switch decides, for all loggers at once.
    package var logLevel: Logger.Level {
        get { levels.level }
        set {}
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var line = "\(Self.timestamp()) \(event.level): \(event.message)"
        let all = metadata.merging(event.metadata ?? [:]) { _, new in new }
        for (key, value) in all.sorted(by: { $0.key < $1.key }) { line += " \(key)=\(value)" }
        line = line.replacing("\n", with: " ") + "\n"
        let bytes = Array(line.utf8)
        _ = write(STDERR_FILENO, bytes, bytes.count)
    }

    private static func timestamp() -> String {
        let now = WallClock.micros()
        var wholeSeconds = time_t(now / 1_000_000)
        var parts = tm()
        gmtime_r(&wholeSeconds, &parts)
        var text = [CChar](repeating: 0, count: 32)
        let length = strftime(&text, text.count, "%Y-%m-%dT%H:%M:%S", &parts)
        let millis = now / 1000 % 1000
        let padding = millis < 10 ? "00" : millis < 100 ? "0" : ""
        let seconds = String(decoding: text.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return "\(seconds).\(padding)\(millis)Z"
    }
}
