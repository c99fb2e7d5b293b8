import Configuration
import Primitives
import SQLAnalysis
import Testing

@testable import Routing

@Suite struct LatencyHistogramTests {
    @Test func `a percentile is within an eighth above the truth`() throws {
        var histogram = LatencyHistogram()
        for micros in 1...10_000 as ClosedRange<UInt64> { histogram.add(micros) }
        for (share, truth) in [(0.5, 5000.0), (0.95, 9500.0), (0.99, 9900.0), (1.0, 10_000.0)] {
            let found = Double(try #require(LatencyHistogram.percentile(share, of: histogram, and: LatencyHistogram())))
            #expect(found >= truth && found <= truth * 1.125)
        }
    }

    @Test func `each time lies in its bucket, and buckets follow one another`() {
        var last: UInt64?
        for place in 0..<LatencyHistogram.bucketCount {
            let bound = LatencyHistogram.upperBound(of: place)
            #expect(LatencyHistogram.bucket(of: bound) == place)
            if let last { #expect(LatencyHistogram.bucket(of: last + 1) == place) }
            last = bound
        }
        #expect(LatencyHistogram.bucket(of: .max) == LatencyHistogram.bucketCount - 1)
    }

    @Test func `without calls there is no percentile`() {
        #expect(LatencyHistogram.percentile(0.5, of: LatencyHistogram(), and: LatencyHistogram()) == nil)
    }
}

@Suite struct ShapeStatisticsTests {
    private let start = MonotonicInstant(nanoseconds: 1_000_000_000)

    private func settings(after: Int = 20) -> ReadSettings {
        var settings = ReadSettings()
        settings.promote = .proven
        settings.promoteAfter = after
        return settings
    }

    private func statement(_ number: UInt64 = 1) -> AnalysedStatement {
        AnalysedStatement(Classification(.read, .surelyRead), shape: ShapeID(number), shapeText: "select \(number)")
    }

    private func record(
        _ statistics: inout ShapeStatistics, _ statement: AnalysedStatement, _ side: Side, _ micros: UInt64, calls: Int,
        errors: Int = 0
    ) {
        for call in 0..<calls {
            statistics.record(statement, on: side, micros: micros, rows: 2, isError: call < errors, now: start)
        }
    }

    private func verdict(_ statistics: ShapeStatistics) -> ShapeStatistics.Verdict? { statistics.figures.first?.verdict }

    @Test func `an unproven shape is tried on NEW one time in eight`() {
        var statistics = ShapeStatistics(settings())
        let answers = (0..<80).map { _ in statistics.ask(statement(), now: start) }
        #expect(answers.count { $0 == .trial } == 10)
        #expect(answers.count { $0 == .unproven } == 70)
    }

    @Test func `a shape that does as well on NEW is proven after so many calls on each side, not one earlier`() {
        var statistics = ShapeStatistics(settings())
        record(&statistics, statement(), .old, 1000, calls: 20)
        record(&statistics, statement(), .new, 1500, calls: 19)
        #expect(verdict(statistics) == .unproven)
        record(&statistics, statement(), .new, 1500, calls: 1)
        #expect(verdict(statistics) == .proven)
        #expect(statistics.ask(statement(), now: start) == .allow)
    }

    @Test func `without enough calls on OLD nothing is proven`() {
        var statistics = ShapeStatistics(settings())
        record(&statistics, statement(), .old, 1000, calls: 19)
        record(&statistics, statement(), .new, 1000, calls: 500)
        #expect(verdict(statistics) == .unproven)
    }

    @Test func `a slow shape goes back alone, and proves itself again after a while`() {
        var statistics = ShapeStatistics(settings())
        for number in [1, 2] as [UInt64] {
            record(&statistics, statement(number), .old, 1000, calls: 20)
            record(&statistics, statement(number), .new, 1000, calls: 32)
        }
        record(&statistics, statement(1), .new, 9000, calls: 400)
        guard case .degraded(let until, let reason)? = statistics.figures.first(where: { $0.text == "select 1" })?.verdict
        else {
            Issue.record("not degraded")
            return
        }
        #expect(reason.description.contains("on NEW"))
        #expect(statistics.ask(statement(1), now: start) == .degraded)
        #expect(statistics.ask(statement(2), now: start) == .allow)
        let nearly = MonotonicInstant(nanoseconds: until.nanoseconds - 1)
        #expect(statistics.ask(statement(1), now: nearly) == .degraded)
        let answers = (0..<8).map { _ in statistics.ask(statement(1), now: until) }
        #expect(answers.count { $0 == .trial } == 1)
        record(&statistics, statement(1), .new, 1000, calls: 32)
        #expect(statistics.ask(statement(1), now: until) == .allow)
    }

    @Test func `a shape that fails on NEW only is degraded, one that fails on both is not`() {
        var statistics = ShapeStatistics(settings())
        record(&statistics, statement(1), .old, 100, calls: 100)
        record(&statistics, statement(1), .new, 100, calls: 32, errors: 5)
        record(&statistics, statement(2), .old, 100, calls: 100, errors: 50)
        record(&statistics, statement(2), .new, 100, calls: 32, errors: 5)
        #expect(statistics.ask(statement(1), now: start) == .degraded)
        #expect(statistics.ask(statement(2), now: start) == .allow)
    }

    @Test func `noise of less than half a millisecond degrades nothing`() {
        var statistics = ShapeStatistics(settings())
        record(&statistics, statement(), .old, 20, calls: 100)
        record(&statistics, statement(), .new, 400, calls: 100)
        #expect(verdict(statistics) == .proven)
    }

    @Test func `a different answer degrades at once`() {
        var statistics = ShapeStatistics(settings())
        record(&statistics, statement(), .old, 100, calls: 100)
        record(&statistics, statement(), .new, 100, calls: 100)
        statistics.noteDifference(statement(), now: start)
        #expect(statistics.ask(statement(), now: start) == .degraded)
    }

    @Test func `the shape unused for the longest time is given up first`() {
        var statistics = ShapeStatistics(settings())
        for number in 0..<UInt64(ShapeStatistics.shapesMax) {
            record(&statistics, statement(number), .old, 100, calls: 1)
        }
        #expect(statistics.count == ShapeStatistics.shapesMax && statistics.evictions == 0)
        record(&statistics, statement(0), .old, 100, calls: 1)
        record(&statistics, statement(9_999_999), .old, 100, calls: 1)
        #expect(statistics.count == ShapeStatistics.shapesMax && statistics.evictions == 1)
        let shapes = Set(statistics.figures.map(\.shape.value))
        #expect(shapes.contains(0) && shapes.contains(9_999_999) && !shapes.contains(1))
    }

    @Test func `with promote all nothing is held back, and figures are kept all the same`() {
        var statistics = ShapeStatistics(ReadSettings())
        record(&statistics, statement(), .old, 100, calls: 3)
        record(&statistics, statement(), .new, 1_000_000, calls: 500, errors: 3)
        #expect(statistics.ask(statement(), now: start) == .allow)
        let figures = statistics.figures[0]
        #expect(figures.old.calls == 3 && figures.new.calls == 500 && figures.new.errors == 3 && figures.new.rows == 1000)
    }

    @Test func `a text without a shape is never tried where shapes must be proven`() {
        var statistics = ShapeStatistics(settings())
        let unshaped = AnalysedStatement(Classification(.read, .surelyRead))
        #expect(statistics.ask(unshaped, now: start) == .unproven)
        statistics.record(unshaped, on: .new, micros: 1, rows: 1, isError: false, now: start)
        #expect(statistics.count == 0)
    }

    @Test func `a shape that was demoted stays away for its time, though shapes need not prove themselves`() {
        var statistics = ShapeStatistics(ReadSettings())
        let (bad, good) = (statement(1), statement(2))
        #expect(statistics.ask(bad, now: start) == .allow)
        statistics.demote(ShapeID(1), because: .lag(seconds: 1), now: start)
        #expect(statistics.hasDemoted)
        #expect(statistics.ask(bad, now: start) == .degraded && statistics.ask(good, now: start) == .allow)
        #expect(statistics.holdsBack(bad, now: start) && !statistics.holdsBack(good, now: start))
        let end = start.advanced(bySeconds: ShapeStatistics.heldSeconds)
        #expect(statistics.ask(bad, now: MonotonicInstant(nanoseconds: end.nanoseconds - 1)) == .degraded)
        #expect(!statistics.holdsBack(bad, now: end))
        #expect(statistics.ask(bad, now: end) == .allow && !statistics.hasDemoted)
        // Another thread told of it before it was met here: its text follows.
        record(&statistics, bad, .new, 10, calls: 1)
        #expect(statistics.text(of: ShapeID(1)) == "select 1")
        #expect(statistics.p99(of: bad, on: .new) == 10 && statistics.p99(of: bad, on: .old) == nil)
    }

    @Test func `demoted shapes that are forgotten are no longer counted`() {
        var statistics = ShapeStatistics(ReadSettings())
        statistics.demote(ShapeID(1), because: .lag(seconds: 1), now: start)
        statistics.demote(ShapeID(1), because: .lag(seconds: 2), now: start)
        for number in 2...UInt64(ShapeStatistics.shapesMax + 1) {
            record(&statistics, statement(number), .old, 10, calls: 1)
        }
        #expect(!statistics.hasDemoted && statistics.evictions == 1)
    }
}
