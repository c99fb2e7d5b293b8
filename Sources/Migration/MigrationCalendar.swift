import Configuration
import Foundation

/// Windows in which a migration may advance. No state, any thread.
package enum MigrationCalendar {
    /// - Parameter micros: since 1970.
    package static func isOpen(_ manifest: MigrationManifest, at micros: Int64) -> Bool {
        if manifest.windows.isEmpty { return true }
        guard let zone = TimeZone(identifier: manifest.timeZone) else { return false }
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = zone
        let parts = calendar.dateComponents(
            [.weekday, .hour, .minute], from: Date(timeIntervalSince1970: Double(micros) / 1e6))
        guard let weekday = parts.weekday, let hour = parts.hour, let minute = parts.minute else { return false }
        // Foundation counts from Sunday.
        let day = (weekday + 5) % 7 + 1
        let now = hour * 60 + minute
        return manifest.windows.contains { window in
            if window.fromMinute < window.toMinute {
                return window.days.contains(day) && (window.fromMinute..<window.toMinute).contains(now)
            }
            // Over midnight: the day is the one on which it began.
            let before = day == 1 ? 7 : day - 1
            return window.days.contains(day) && now >= window.fromMinute
                || window.days.contains(before) && now < window.toMinute
        }
    }
}
