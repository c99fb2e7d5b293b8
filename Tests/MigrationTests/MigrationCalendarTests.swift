import Configuration
import Foundation
import Testing

@testable import Migration

@Suite struct MigrationCalendarTests {
    private func micros(_ text: String) throws -> Int64 {
        Int64(try Date.ISO8601FormatStyle().parse(text).timeIntervalSince1970) * 1_000_000
    }

    @Test func `days and hours are those of the time zone`() throws {
        var wanted = manifest { $0.timeZone = "Europe/Berlin" }
        #expect(MigrationCalendar.isOpen(wanted, at: 0))
        // Tuesday, 8 to 16 h.
        wanted.windows = [.init(days: [2], fromMinute: 8 * 60, toMinute: 16 * 60)]
        for (text, isOpen) in [
            // Winter: one hour before UTC. 2026-12-01 is a Tuesday.
            ("2026-12-01T06:59:59Z", false), ("2026-12-01T07:00:00Z", true), ("2026-12-01T14:59:59Z", true),
            ("2026-12-01T15:00:00Z", false), ("2026-12-02T08:00:00Z", false),
            // Summer: two hours. 2026-07-07 is a Tuesday.
            ("2026-07-07T05:59:59Z", false), ("2026-07-07T06:00:00Z", true),
        ] { #expect(MigrationCalendar.isOpen(wanted, at: try micros(text)) == isOpen, "\(text)") }
    }

    @Test func `a window over midnight belongs to the day on which it begins`() throws {
        let wanted = manifest { $0.windows = [.init(days: [7], fromMinute: 22 * 60, toMinute: 2 * 60)] }
        for (text, isOpen) in [
            ("2026-11-29T21:59:00Z", false), ("2026-11-29T22:00:00Z", true), ("2026-11-30T01:59:00Z", true),
            ("2026-11-30T02:00:00Z", false), ("2026-11-30T22:30:00Z", false), ("2026-11-29T01:00:00Z", false),
        ] { #expect(MigrationCalendar.isOpen(wanted, at: try micros(text)) == isOpen, "\(text)") }
    }
}

@Suite struct InvariantValueTests {
    @Test(arguments: [
        ("10", "10", 0.0, true), ("10", "11", 0, false), ("10", "11", 1, true), ("10.5", "9.4", 1, false),
        ("a|10", "a|10.4", 0.5, true), ("a|10", "b|10", 0.5, false), ("1\n2", "1", 5, false), ("NULL", "0", 5, false),
        ("90071992547409930.25", "90071992547409931.25", 0.5, false),
        ("90071992547409930.25", "90071992547409930.5", 0.5, true), ("1e40", "1e40 ", 5, false), ("NaN", "1", 5, false),
        ("0x10", "0x20", 5, false), ("0X10", "0X11", 5, true), ("1e-300", "7", 5, false),
    ])
    func `numbers may differ by the tolerance`(left: String, right: String, tolerance: Double, isEqual: Bool) {
        #expect(InvariantValue.isEqual(left, right, tolerance: tolerance) == isEqual)
    }
}
