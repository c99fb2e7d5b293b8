import Capture
import Histogram

/// Latencies of one kind. Microseconds, to three digits. One thread.
package struct LatencyRecorder {
    private var histogram: Histogram<UInt64>
    private static let highest: UInt64 = 3_600_000_000

    package init(digits: SignificantDigits = .three) {
        histogram = Histogram(highestTrackableValue: Self.highest, numberOfSignificantValueDigits: digits)
    }

    package mutating func add(_ micros: UInt64) { _ = histogram.record(max(1, min(micros, Self.highest))) }
    package mutating func reset() { histogram.reset() }
    package var count: UInt64 { histogram.totalCount }
    package func percentile(_ percent: Double) -> UInt64 { count == 0 ? 0 : histogram.valueAtPercentile(percent) }

    package var summary: RunReport.Latency {
        var latency = RunReport.Latency()
        if count == 0 { return latency }
        latency.count = count
        latency.mean = histogram.mean
        latency.p50 = percentile(50)
        latency.p90 = percentile(90)
        latency.p95 = percentile(95)
        latency.p99 = percentile(99)
        latency.p999 = percentile(99.9)
        latency.max = histogram.max
        return latency
    }

    /// Cumulative, at about so many places.
    package var distribution: [RunReport.Bucket] {
        if count == 0 { return [] }
        return histogram.percentiles(ticksPerHalfDistance: 8).map {
            RunReport.Bucket(micros: $0.value, count: $0.totalCountToThisValue)
        }
    }
}

/// Units over time: so many places at most, however long the run is. One thread.
package struct Timeline {
    private static let placesMax = 600

    private(set) var places: [RunReport.Second] = []
    private var width = 1.0
    private var present = LatencyRecorder(digits: .two)
    private var units: UInt64 = 0
    private var errors: UInt64 = 0
    private var start = 0.0

    mutating func add(at seconds: Double, micros: UInt64, hasFailed: Bool) {
        advance(to: seconds)
        present.add(micros)
        units += 1
        if hasFailed { errors += 1 }
    }

    private mutating func advance(to seconds: Double) {
        while seconds >= start + width { close(width) }
    }

    private mutating func close(_ length: Double) {
        places.append(.init(
            at: start, width: length, units: units, errors: errors, p50: present.percentile(50),
            p99: present.percentile(99)))
        start += width
        units = 0
        errors = 0
        present.reset()
        if places.count >= Self.placesMax { halve() }
    }

    /// Two places become one. Of percentiles the worse stays: they cannot be added.
    private mutating func halve() {
        places = stride(from: 0, to: places.count - 1, by: 2).map { index in
            var sum = places[index]
            let next = places[index + 1]
            sum.width += next.width
            sum.units += next.units
            sum.errors += next.errors
            sum.p50 = max(sum.p50, next.p50)
            sum.p99 = max(sum.p99, next.p99)
            return sum
        }
        width *= 2
    }

    func closed(at seconds: Double) -> [RunReport.Second] {
        var copy = self
        copy.advance(to: seconds)
        // The last piece may be too short for a rate that says anything.
        let rest = seconds - copy.start
        if copy.units > 0 && (copy.places.isEmpty || rest > copy.width / 5) { copy.close(max(0.001, rest)) }
        return copy.places
    }
}

/// What is counted of one side. One thread.
package struct SideStatistics {
    private struct Shape {
        var latency = LatencyRecorder(digits: .two)
        var errors: [String: UInt64] = [:]
        var differences: UInt64 = 0
        var samples: [String] = []
    }

    private static let samplesMax = 5
    private static let findingsMax = 20

    package var side: RunReport.Side
    private var response = LatencyRecorder()
    private var service = LatencyRecorder()
    private var timeline = Timeline()
    private var shapes: [Int: Shape] = [:]

    package init(name: String) { side = RunReport.Side(name: name) }

    package mutating func add(
        _ unit: ScriptUnit, _ outcomes: [StatementOutcome], responseMicros: UInt64, serviceMicros: UInt64,
        at seconds: Double
    ) {
        side.units += 1
        side.statements += UInt64(max(1, unit.statements.count))
        response.add(responseMicros)
        service.add(serviceMicros)
        var shape = shapes[unit.mainShape] ?? Shape()
        shape.latency.add(responseMicros)
        var hasFailed = false
        for outcome in outcomes where outcome.kind == .failed {
            hasFailed = true
            side.errors[outcome.state, default: 0] += 1
            shape.errors[outcome.state, default: 0] += 1
        }
        timeline.add(at: seconds, micros: responseMicros, hasFailed: hasFailed)
        shapes[unit.mainShape] = shape
    }

    /// The same as what the capture has?
    package mutating func compare(_ unit: ScriptUnit, _ outcomes: [StatementOutcome]) {
        if unit.isCut || unit.isSkipped { return }
        let difference = CaptureComparison.difference(unit, outcomes)
        switch difference {
        case nil: side.sameAsCaptured += 1
        case .digest?: side.otherDigests += 1
        case .end?: side.otherThanCaptured += 1
        }
        guard let difference else { return }
        shapes[unit.mainShape, default: Shape()].differences += 1
        let samples = shapes[unit.mainShape]?.samples ?? []
        if samples.count < Self.samplesMax && !samples.contains(difference.words) {
            shapes[unit.mainShape]?.samples.append(difference.words)
        }
    }

    package mutating func lost(_ units: Int) { side.unitsLost += UInt64(units) }

    package mutating func found(_ words: String) {
        if side.findings.count < Self.findingsMax && !side.findings.contains(words) { side.findings.append(words) }
    }

    package var present: RunReport.Latency { response.summary }

    package func report(_ book: StatementBook, at seconds: Double) -> RunReport.Side {
        var side = side
        side.response = response.summary
        side.service = service.summary
        side.distribution = response.distribution
        side.timeline = timeline.closed(at: seconds)
        side.shapes = shapes.map { number, shape in
            RunReport.Shape(
                text: book.texts[number], latency: shape.latency.summary, errors: shape.errors,
                differences: shape.differences, samples: shape.samples)
        }.sorted { Double($0.latency.count) * $0.latency.mean > Double($1.latency.count) * $1.latency.mean }
        return side
    }
}

/// What was captured against what was played. Pure.
package enum CaptureComparison {
    package enum Difference: Equatable {
        case end(String, String)
        case digest(String)

        var words: String {
            switch self {
            case .end(let captured, let played): "captured: \(captured) | played: \(played)"
            case .digest(let tag): "\(tag): rows other than captured"
            }
        }
    }

    package static func difference(_ unit: ScriptUnit, _ outcomes: [StatementOutcome]) -> Difference? {
        for index in 0..<max(unit.expected.count, outcomes.count) {
            guard index < unit.expected.count, index < outcomes.count else {
                let words = [unit.expected, outcomes].map { index < $0.count ? $0[index].summary : "(nothing)" }
                return .end(words[0], words[1])
            }
            let (captured, played) = (unit.expected[index], outcomes[index])
            if !captured.hasSameEnd(as: played) { return .end(captured.summary, played.summary) }
            guard let first = captured.digest, let second = played.digest, !played.lacksHeader else { continue }
            let hasOrder = index < unit.statements.count && unit.statements[index].hasOrder
            if hasOrder ? first != second : first.unordered != second.unordered { return .digest(captured.summary) }
        }
        return nil
    }
}

/// What two sides gave for the same units. One thread.
package struct PairStatistics {
    package enum Finding { case equal, mismatch, noise, unproven, sideDependent }

    private struct Shape {
        var counts = RunReport.Mismatch(
            text: "", mismatches: 0, noise: 0, unproven: 0, sideDependent: 0, samples: [])
    }

    private static let samplesMax = 5
    package private(set) var totals = RunReport.Comparison()
    private var shapes: [Int: Shape] = [:]

    package init() {}

    package mutating func add(_ unit: ScriptUnit, _ finding: Finding, statement: Int = 0, words: String = "") {
        totals.units += 1
        let number = statement < unit.statements.count ? unit.statements[statement].shape : unit.mainShape
        var shape = shapes[number] ?? Shape()
        switch finding {
        case .equal:
            totals.equal += 1
            return
        case .mismatch:
            totals.mismatches += 1
            shape.counts.mismatches += 1
        case .noise:
            totals.noise += 1
            shape.counts.noise += 1
        case .unproven:
            totals.unproven += 1
            shape.counts.unproven += 1
        case .sideDependent:
            totals.sideDependent += 1
            shape.counts.sideDependent += 1
        }
        let samples = shape.counts.samples
        if samples.count < Self.samplesMax && finding != .noise && !samples.contains(words) {
            shape.counts.samples.append(words)
        }
        shapes[number] = shape
    }

    package func report(_ book: StatementBook) -> RunReport.Comparison {
        var report = totals
        report.shapes = shapes.map { number, shape in
            var counts = shape.counts
            counts.text = book.texts[number]
            return counts
        }.sorted { ($0.mismatches, $0.unproven, $0.text) > ($1.mismatches, $1.unproven, $1.text) }
        return report
    }
}
