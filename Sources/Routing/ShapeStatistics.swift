import Configuration
import Primitives
import SQLAnalysis

/// What is known of each statement shape on each side, and whether NEW may answer it. Owned by one thread, no clock
/// inside; nothing is allocated for a call of a shape that is known.
///
/// With `promote: proven` a shape begins unproven: OLD answers it, and one in `trialEvery` of the calls that would go
/// to NEW does. After `promoteAfter` calls on each side it is proven or degraded: proven when NEW's p95 is within the
/// factor of OLD's (and a slack, for times that are all noise), NEW fails no more often, and no answer differed. A
/// proven shape that is so no more is degraded: it goes back alone, for `heldSeconds`, and then proves itself again.
@usableFromInline package struct ShapeStatistics: Sendable {
    /// Shapes kept; the one not used for the longest time goes first.
    package static let shapesMax = 512
    package static let trialEvery = 8
    package static let heldSeconds = 60.0
    /// Microseconds by which NEW may always be slower.
    package static let slackMicros: UInt64 = 500
    /// Share of failed calls by which NEW may be worse.
    package static let errorSlack = 0.01
    /// Calls between two looks at a shape's figures.
    private static let judgedEvery: UInt64 = 16

    package enum Answer: UInt8, Sendable {
        case allow
        /// Allowed, to learn how NEW does.
        case trial
        case unproven, degraded
    }

    package enum Verdict: Sendable, Equatable {
        case unproven
        case proven
        case degraded(until: MonotonicInstant, Reason)
    }

    package enum Reason: Sendable, Equatable, CustomStringConvertible {
        case slower(new: UInt64, old: UInt64)
        case failsMoreOften(newPercent: Double, oldPercent: Double)
        case differs
        /// The windows have found that this shape alone does worse.
        case demoted(TripCause)

        package var description: String {
            switch self {
            case .slower(let new, let old): "p95 of \(new) us on NEW, \(old) us on OLD"
            case .failsMoreOften(let new, let old):
                "\(Percent.text(Int(new * 100))) % errors on NEW, \(Percent.text(Int(old * 100))) % on OLD"
            case .differs: "NEW's answer differed"
            case .demoted(let cause): cause.description
            }
        }
    }

    /// One side of one line of SHOW SHAPES.
    package struct SideFigures: Sendable {
        package var calls: UInt64
        package var errors: UInt64
        package var rows: UInt64
        package var p50: UInt64?
        package var p95: UInt64?
        package var p99: UInt64?
    }

    package struct Figures: Sendable {
        package var shape: ShapeID
        package var text: String
        package var old: SideFigures
        package var new: SideFigures
        package var verdict: Verdict
    }

    private struct SideStatistics: Sendable {
        var calls: UInt64 = 0
        var errors: UInt64 = 0
        var rows: UInt64 = 0
        /// Since the verdict was last open.
        var judgedCalls: UInt64 = 0
        var judgedErrors: UInt64 = 0
        var window = LatencyHistogram()
        var previous = LatencyHistogram()

        func percentile(_ share: Double) -> UInt64? {
            LatencyHistogram.percentile(share, of: window, and: previous)
        }

        var errorShare: Double { judgedCalls == 0 ? 0 : Double(judgedErrors) / Double(judgedCalls) }

        mutating func add(micros: UInt64, rows: UInt64, isError: Bool, windowCalls: UInt64) {
            calls += 1
            judgedCalls += 1
            self.rows += rows
            if isError {
                errors += 1
                judgedErrors += 1
            }
            if window.count >= windowCalls {
                swap(&window, &previous)
                window.removeAll()
            }
            window.add(micros)
        }

        mutating func judgeAfresh() {
            judgedCalls = 0
            judgedErrors = 0
            window.removeAll()
            previous.removeAll()
        }

        mutating func removeAll() {
            judgeAfresh()
            calls = 0
            errors = 0
            rows = 0
        }
    }

    private struct Entry: Sendable {
        var shape = ShapeID(0)
        var text = ""
        var old = SideStatistics()
        var new = SideStatistics()
        var verdict = Verdict.unproven
        var trialTurn = 0
        var hasDiffered = false
        var isDemoted = false
        var newer = -1
        var older = -1
    }

    private var entries: [Entry] = []
    private var places: [ShapeID: Int] = [:]
    private var newest = -1
    private var oldest = -1
    @usableFromInline var demotedCount = 0
    private let isProvenOnly: Bool
    private let callsNeeded: UInt64
    private let factor: Double
    private let windowCalls: UInt64
    /// Shapes given up for others.
    package private(set) var evictions: UInt64 = 0

    package init(_ settings: ReadSettings) {
        isProvenOnly = settings.promote == .proven
        callsNeeded = UInt64(settings.promoteAfter)
        factor = settings.promoteFactor
        windowCalls = max(200, UInt64(settings.promoteAfter))
    }

    /// Verdicts of other settings do not hold.
    package static func isMadeAnew(from before: ReadSettings, to after: ReadSettings) -> Bool {
        before.promote != after.promote || before.promoteAfter != after.promoteAfter
            || before.promoteFactor != after.promoteFactor
    }

    package var count: Int { entries.count }

    // MARK: what the data plane asks and tells

    /// May NEW answer this call? Asked for calls that would go there, for it counts trials.
    package mutating func ask(_ statement: AnalysedStatement, now: MonotonicInstant) -> Answer {
        guard isProvenOnly else { return askDemoted(statement.shape, now) }
        guard let shape = statement.shape else { return .unproven }
        let place = use(shape, of: statement)
        switch entries[place].verdict {
        case .proven: return .allow
        case .degraded(let until, _):
            if now < until { return .degraded }
            judgeAfresh(place)
        case .unproven: break
        }
        entries[place].trialTurn += 1
        if entries[place].trialTurn < Self.trialEvery { return .unproven }
        entries[place].trialTurn = 0
        return .trial
    }

    /// Some shape may be held back although shapes need not prove themselves.
    @inlinable package var hasDemoted: Bool { demotedCount > 0 }

    /// NEW must not answer the statement now, with whatever others it comes.
    package func holdsBack(_ statement: AnalysedStatement, now: MonotonicInstant) -> Bool {
        guard let shape = statement.shape, let place = places[shape], entries[place].isDemoted,
            case .degraded(let until, _) = entries[place].verdict
        else { return false }
        return now < until
    }

    private mutating func askDemoted(_ shape: ShapeID?, _ now: MonotonicInstant) -> Answer {
        guard demotedCount > 0, let shape, let place = places[shape], entries[place].isDemoted,
            case .degraded(let until, _) = entries[place].verdict
        else { return .allow }
        if now < until { return .degraded }
        judgeAfresh(place)
        return .allow
    }

    /// The shape goes back alone for `heldSeconds`, whether or not shapes have to prove themselves.
    package mutating func demote(_ shape: ShapeID, because cause: TripCause, now: MonotonicInstant) {
        let place = use(shape, of: nil)
        if !entries[place].isDemoted { demotedCount += 1 }
        entries[place].isDemoted = true
        degrade(place, .demoted(cause), now)
    }

    package func text(of shape: ShapeID) -> String? { places[shape].map { entries[$0].text } }

    /// Of the statement's shape on a side, in microseconds; nil: not known.
    package func p99(of statement: AnalysedStatement, on side: Side) -> UInt64? {
        guard let shape = statement.shape, let place = places[shape] else { return nil }
        return side == .old ? entries[place].old.percentile(0.99) : entries[place].new.percentile(0.99)
    }

    /// A call has been answered. `isError`: by an ErrorResponse that the client was given.
    package mutating func record(
        _ statement: AnalysedStatement, on side: Side, micros: UInt64, rows: UInt64, isError: Bool,
        now: MonotonicInstant
    ) {
        guard let shape = statement.shape else { return }
        let place = use(shape, of: statement)
        entries.withUnsafeMutableBufferPointer { entries in
            switch side {
            case .old:
                entries[place].old.add(micros: micros, rows: rows, isError: isError, windowCalls: windowCalls)
            case .new:
                entries[place].new.add(micros: micros, rows: rows, isError: isError, windowCalls: windowCalls)
            }
        }
        guard isProvenOnly, side == .new else { return }
        let judged = entries[place].new.judgedCalls
        if judged.isMultiple(of: Self.judgedEvery) || judged == callsNeeded { judge(place, now) }
    }

    /// Both sides were asked, and their answers differ.
    package mutating func noteDifference(_ statement: AnalysedStatement, now: MonotonicInstant) {
        guard let shape = statement.shape else { return }
        let place = use(shape, of: statement)
        entries[place].hasDiffered = true
        if isProvenOnly { degrade(place, .differs, now) }
    }

    /// Most used first.
    package var figures: [Figures] {
        entries.map { entry in
            Figures(
                shape: entry.shape, text: entry.text, old: figures(entry.old), new: figures(entry.new),
                verdict: entry.verdict)
        }.sorted { $0.old.calls + $0.new.calls > $1.old.calls + $1.new.calls }
    }

    private func figures(_ side: SideStatistics) -> SideFigures {
        SideFigures(
            calls: side.calls, errors: side.errors, rows: side.rows, p50: side.percentile(0.5),
            p95: side.percentile(0.95), p99: side.percentile(0.99))
    }

    // MARK: verdicts

    private mutating func judge(_ place: Int, _ now: MonotonicInstant) {
        let entry = entries[place]
        if case .degraded = entry.verdict { return }
        guard entry.new.judgedCalls >= callsNeeded, entry.old.calls >= callsNeeded,
            let new = entry.new.percentile(0.95), let old = entry.old.percentile(0.95)
        else { return }
        if entry.hasDiffered { return degrade(place, .differs, now) }
        if new > Self.slackMicros + old, Double(new) > Double(old) * factor {
            return degrade(place, .slower(new: new, old: old), now)
        }
        let (newShare, oldShare) = (entry.new.errorShare, entry.old.errorShare)
        if newShare > oldShare + Self.errorSlack {
            return degrade(place, .failsMoreOften(newPercent: newShare * 100, oldPercent: oldShare * 100), now)
        }
        entries[place].verdict = .proven
    }

    private mutating func degrade(_ place: Int, _ reason: Reason, _ now: MonotonicInstant) {
        entries[place].verdict = .degraded(until: now.advanced(bySeconds: Self.heldSeconds), reason)
    }

    private mutating func judgeAfresh(_ place: Int) {
        entries[place].verdict = .unproven
        entries[place].hasDiffered = false
        forgive(place)
        entries[place].new.judgeAfresh()
    }

    private mutating func forgive(_ place: Int) {
        if entries[place].isDemoted { demotedCount -= 1 }
        entries[place].isDemoted = false
    }

    // MARK: memory

    /// The shape's place; it is the most recently used now.
    ///
    /// - Parameter statement: one that has it; nil: none is known here.
    @inline(__always)
    private mutating func use(_ shape: ShapeID, of statement: AnalysedStatement?) -> Int {
        if newest >= 0 && entries[newest].shape == shape && !entries[newest].text.isEmpty { return newest }
        return place(of: shape, statement)
    }

    private mutating func place(of shape: ShapeID, _ statement: AnalysedStatement?) -> Int {
        if let place = places[shape] {
            if place != newest {
                unlink(place)
                linkNewest(place)
            }
            // Another thread may have told of it before it was met here.
            if entries[place].text.isEmpty { entries[place].text = statement?.shapeText ?? "" }
            return place
        }
        let place: Int
        if entries.count < Self.shapesMax {
            place = entries.count
            entries.append(Entry())
        } else {
            place = oldest
            places[entries[place].shape] = nil
            unlink(place)
            evictions += 1
            entries[place].old.removeAll()
            entries[place].new.removeAll()
            entries[place].verdict = .unproven
            forgive(place)
            entries[place].trialTurn = 0
            entries[place].hasDiffered = false
        }
        entries[place].shape = shape
        entries[place].text = statement?.shapeText ?? ""
        places[shape] = place
        linkNewest(place)
        return place
    }

    private mutating func unlink(_ place: Int) {
        let (newer, older) = (entries[place].newer, entries[place].older)
        if newer >= 0 { entries[newer].older = older } else { newest = older }
        if older >= 0 { entries[older].newer = newer } else { oldest = newer }
    }

    private mutating func linkNewest(_ place: Int) {
        entries[place].newer = -1
        entries[place].older = newest
        if newest >= 0 { entries[newest].newer = place } else { oldest = place }
        newest = place
    }
}
