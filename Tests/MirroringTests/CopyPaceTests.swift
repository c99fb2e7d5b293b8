import Primitives
import Testing

@testable import Mirroring

@Suite struct CopyPaceTests {
    static let start = MonotonicInstant(nanoseconds: 1_000_000_000)

    @Test func `ranges grow while they are quick, to their bound, and shrink when they are slow`() {
        var pace = CopyPace(rowsMax: 5000)
        #expect(pace.rows(at: Self.start, rowsPerSecondMax: 0) == 1000)
        for rows in [2000, 4000, 5000, 5000] {
            pace.record(rows: 1, seconds: 0.01, at: Self.start, rowsPerSecondMax: 0)
            #expect(pace.rows(at: Self.start, rowsPerSecondMax: 0) == rows)
        }
        for rows in [2500, 1250, 625, 312, 156, 100, 100] {
            pace.record(rows: 1, seconds: 1, at: Self.start, rowsPerSecondMax: 0)
            #expect(pace.rows(at: Self.start, rowsPerSecondMax: 0) == rows)
        }
        pace.record(rows: 1, seconds: 0.2, at: Self.start, rowsPerSecondMax: 0)
        #expect(pace.rows(at: Self.start, rowsPerSecondMax: 0) == 100, "neither quick nor slow")
    }

    @Test func `a bound below the least is kept`() {
        var pace = CopyPace(rowsMax: 20)
        #expect(pace.rows(at: Self.start, rowsPerSecondMax: 0) == 20)
        pace.record(rows: 20, seconds: 9, at: Self.start, rowsPerSecondMax: 0)
        #expect(pace.rows(at: Self.start, rowsPerSecondMax: 0) == 20)
    }

    @Test func `a rate is kept over many ranges`() {
        var pace = CopyPace(rowsMax: 10_000)
        var copied = 0, now = Self.start
        let end = Self.start.advanced(bySeconds: 10)
        while now < end {
            if let rows = pace.rows(at: now, rowsPerSecondMax: 400) {
                #expect(rows <= 100)
                copied += rows
                pace.record(rows: rows, seconds: 0.001, at: now, rowsPerSecondMax: 400)
            }
            now = now.advanced(byMillis: 5)
        }
        #expect((3800...4200).contains(copied))
        #expect((200...600).contains(pace.rate))
    }
}
