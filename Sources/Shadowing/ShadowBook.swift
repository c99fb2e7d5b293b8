import Primitives
import SQLAnalysis
import Synchronization

/// What has come of one sampled read. Immutable, any thread.
package enum ShadowOutcome: Sendable, Equatable {
    case equal
    case mismatch(Difference)
    /// The authority itself has given two answers at one snapshot, or the text asks for the time or for chance.
    case noise
    /// The answers differ in what SQL leaves open only: which rows a LIMIT takes, for one.
    case open
    /// The side could not answer for reasons of its own: out of reach, too slow, out of something.
    case failed(isAuthority: Bool, String)
    /// Too many rows, or nothing that could be compared.
    case skipped(String)

    /// Whether both sides' answers were held against each other, and told something.
    package var isCompared: Bool {
        switch self {
        case .equal, .mismatch: true
        case .noise, .open, .failed, .skipped: false
        }
    }
}

/// One database's sampled reads: those that wait to be compared, and what has come of the others. Any thread.
///
/// Bounded: reactors offer and never wait; what there is no room for is dropped and counted.
package final class ShadowBook: Sendable {
    package static let waitingMax = 1000
    package static let waitingBytesMax = 8 << 20
    /// Shapes that are told apart.
    package static let shapesMax = 512
    /// Shapes whose first mismatch is an event.
    package static let shapesToldMax = 20

    package enum State: String, Sendable { case off, waiting, comparing }

    package struct Counts: Sendable, Equatable {
        package var sampled: UInt64 = 0
        package var equal: UInt64 = 0
        package var mismatches: UInt64 = 0
        package var noise: UInt64 = 0
        package var open: UInt64 = 0
        /// Of the authority, and of the other side.
        package var failed: UInt64 = 0
        package var otherFailed: UInt64 = 0
        package var skipped: UInt64 = 0

        package var compared: UInt64 { equal + mismatches }

        mutating func add(_ outcome: ShadowOutcome) {
            switch outcome {
            case .equal: equal += 1
            case .mismatch: mismatches += 1
            case .noise: noise += 1
            case .open: open += 1
            case .failed(let isAuthority, _): if isAuthority { failed += 1 } else { otherFailed += 1 }
            case .skipped: skipped += 1
            }
        }
    }

    /// One line of SHOW SHADOW_SHAPES.
    package struct Shape: Sendable {
        package var id: ShapeID
        package var text: String
        package var counts = Counts()
        /// Why the latest one that was not compared was not; empty: all were.
        package var reason = ""
        package var difference: Difference?
        /// Of the latest mismatch.
        package var differedAt: MonotonicInstant?
        /// Nothing is known of it yet: none was compared, nor found to be one that cannot be.
        package var isOutstanding: Bool { counts.compared + counts.noise + counts.open + counts.skipped == 0 }
    }

    package struct Figures: Sendable {
        package var state = State.off
        /// Why nothing is compared now.
        package var reason = ""
        package var counts = Counts()
        /// For lack of room, and because no pair of snapshots could be had.
        package var dropped: UInt64 = 0
        package var unpaired: UInt64 = 0
        package var waiting = 0
        /// Pairs of snapshots taken, and microseconds that the latest took.
        package var pairs: UInt64 = 0
        package var pairMicros: UInt64 = 0
        /// Most mismatches first, then by text.
        package var shapes: [Shape] = []
        package var shapesOmitted: UInt64 = 0
        /// Why a side could not answer, the latest time.
        package var lastFailure = ""
        /// Shapes of which some read has differed.
        package var shapesDiffering = 0

        /// Shapes that were sent and of which nothing is known yet.
        package var shapesOutstanding: Int { shapes.count { $0.isOutstanding } }

        package var mismatchPercent: Double {
            counts.compared == 0 ? 0 : Double(counts.mismatches) * 100 / Double(counts.compared)
        }
    }

    fileprivate struct Content {
        var waiting: [ShadowSample] = []
        var waitingBytes = 0
        var figures = Figures()
        var shapes: [ShapeID: Shape] = [:]
    }

    package let database: String
    private let content = Mutex(Content())
    private let bell = Mailbox<Never>()

    package init(database: String) { self.database = database }

    /// Readable when samples wait.
    package var descriptor: CInt { bell.descriptor }

    // MARK: reactors

    package func offer(_ sample: ShadowSample) {
        let size = sample.byteCount
        let isFirst = content.withLock { content -> Bool in
            content.figures.counts.sampled += 1
            content.changeShape(sample.statement) { $0.counts.sampled += 1 }
            guard content.waiting.count < Self.waitingMax, content.waitingBytes + size <= Self.waitingBytesMax else {
                content.figures.dropped += 1
                return false
            }
            content.waiting.append(sample)
            content.waitingBytes += size
            return content.waiting.count == 1
        }
        if isFirst { signal(eventDescriptor: bell.descriptor) }
    }

    // MARK: who compares

    /// - Returns: what waits, oldest first.
    package func take() -> [ShadowSample] {
        drain(eventDescriptor: bell.descriptor)
        return content.withLock { content in
            let taken = content.waiting
            content.waiting = []
            content.waitingBytes = 0
            return taken
        }
    }

    /// They wait again, before what has come meanwhile, as far as there is room.
    package func giveBack(_ samples: ArraySlice<ShadowSample>) {
        if samples.isEmpty { return }
        content.withLock { content in
            var kept: [ShadowSample] = []
            for sample in samples {
                let size = sample.byteCount
                guard content.waiting.count + kept.count < Self.waitingMax,
                    content.waitingBytes + size <= Self.waitingBytesMax
                else {
                    content.figures.dropped += 1
                    continue
                }
                content.waitingBytes += size
                kept.append(sample)
            }
            content.waiting = kept + content.waiting
        }
        signal(eventDescriptor: bell.descriptor)
    }

    /// - Returns: whether it is the first mismatch of its shape, and news: where many differ the rest is in SHOW.
    package func note(_ outcome: ShadowOutcome, of sample: ShadowSample, at now: MonotonicInstant) -> Bool {
        content.withLock { content in
            content.figures.counts.add(outcome)
            if case .failed(_, let reason) = outcome { content.figures.lastFailure = Self.line(reason) }
            var isFirst = false
            content.changeShape(sample.statement) { shape in
                shape.counts.add(outcome)
                switch outcome {
                case .equal: break
                case .mismatch(let difference):
                    isFirst = shape.counts.mismatches == 1
                    shape.difference = difference
                    shape.differedAt = now
                case .noise: shape.reason = "two answers of one side differ, or it asks for the time or chance"
                case .open: shape.reason = "SQL leaves open which rows come, or in what order they are gathered"
                case .failed(_, let reason), .skipped(let reason): shape.reason = Self.line(reason)
                }
            }
            if isFirst { content.figures.shapesDiffering += 1 }
            return isFirst && content.figures.shapesDiffering <= Self.shapesToldMax
        }
    }

    package func notePair(micros: UInt64) {
        content.withLock { content in
            content.figures.pairs += 1
            content.figures.pairMicros = micros
        }
    }

    package func noteUnpaired(_ count: Int) { content.withLock { $0.figures.unpaired += UInt64(count) } }

    package func set(_ state: State, because reason: String = "") {
        content.withLock { content in
            content.figures.state = state
            content.figures.reason = Self.line(reason)
        }
    }

    /// libpq's messages have several.
    private static func line(_ words: String) -> String {
        words.split { $0.isNewline || $0 == "\t" }.joined(separator: " ")
    }

    /// Nothing that was found counts any more.
    package func begin() { content.withLock { $0 = Content() } }

    // MARK: anyone

    package var figures: Figures {
        content.withLock { content in
            var figures = content.figures
            figures.waiting = content.waiting.count
            figures.shapes = content.shapes.values.sorted {
                $0.counts.mismatches != $1.counts.mismatches
                    ? $0.counts.mismatches > $1.counts.mismatches : $0.text < $1.text
            }
            return figures
        }
    }
}

extension ShadowBook.Content {
    fileprivate mutating func changeShape(
        _ statement: AnalysedStatement, _ change: (inout ShadowBook.Shape) -> Void
    ) {
        guard let id = statement.shape else { return }
        if shapes[id] == nil && shapes.count >= ShadowBook.shapesMax { return figures.shapesOmitted += 1 }
        change(&shapes[id, default: ShadowBook.Shape(id: id, text: statement.shapeText)])
    }
}
