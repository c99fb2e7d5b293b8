import Capture
import Primitives
import Replay

/// Where a run's events come from. Two: a capture, and a synthetic workload. One thread.
package protocol ReplaySource: AnyObject {
    var book: StatementBook { get }
    /// - Returns: `nothing` when there may be more later, `end` when there is not.
    func next() throws -> SourceStep
    /// A unit of this connection was answered: a closed loop goes on.
    ///
    /// - Parameter isUnprepared: it asked for a statement that is not there.
    func finished(connection: UInt64, micros: UInt64, isUnprepared: Bool)
    /// Everything is over after this one: the run may begin it again.
    func rewind() throws
    /// It tells what statements gave.
    var hasOutcomes: Bool { get }
    /// It tells when they did.
    var hasTimes: Bool { get }
    /// What is to be told of it in the report.
    var notes: [String] { get }
}

/// What a source gives when it is asked for the next.
package enum SourceStep {
    case event(ScriptEvent)
    case nothing
    case end
}

/// Events out of a capture file, in order of time.
package final class CaptureSource: ReplaySource {
    private let path: String
    private let follows: Bool
    private let onlyReads: Bool
    private var reader: CaptureFileReader
    private var merger = RecordMerger()
    private var builder: ScriptBuilder
    private var waiting: [ScriptEvent] = []
    private var place = 0
    private var hasEnded = false
    /// Micros of the first record: the run begins with it.
    private var origin: UInt64?
    private var lastMicros: UInt64 = 0
    package let book = StatementBook()
    private var droppedConnections = 0
    /// When the capture had something new.
    private var grewAt = MonotonicInstant.now()

    /// - Parameter follows: the file's end is not the end, until the capture itself ends.
    package init(path: String, follows: Bool, onlyReads: Bool) throws {
        self.path = path
        self.follows = follows
        self.onlyReads = onlyReads
        reader = try CaptureFileReader(path: path)
        builder = ScriptBuilder(book: book, onlyReads: onlyReads)
    }

    package var beginning: CaptureBeginning? { reader.beginning }
    package var flags: CaptureFormat.Flags { reader.flags }
    package var hasOutcomes: Bool { !reader.flags.contains(.withoutOutcomes) }
    package var hasTimes: Bool { !reader.flags.contains(.withoutTimes) }

    package func next() throws -> SourceStep {
        while true {
            if place < waiting.count {
                place += 1
                return .event(waiting[place - 1])
            }
            waiting.removeAll(keepingCapacity: true)
            place = 0
            if hasEnded { return .end }
            if try !readMore() { return hasEnded && waiting.isEmpty ? .end : waiting.isEmpty ? .nothing : try next() }
        }
    }

    /// Nothing has come for so long that nothing older can come: it need not be pushed out by what is newer.
    private var isStill: Bool { MonotonicInstant.now().microseconds(since: grewAt) > RecordMerger.window }

    /// - Returns: false when there is nothing more for now.
    private func readMore() throws -> Bool {
        var isAll = false
        var hasNew = true
        if let frame = try reader.next() {
            grewAt = .now()
            merger.add(try RecordReader.records(of: frame.payload), of: Int(frame.thread))
        } else {
            isAll = !follows || reader.hasEnd
            if !isAll && !isStill { return false }
            hasNew = false
        }
        var events: [ScriptEvent] = []
        merger.take(isAll: isAll || isStill) { record in
            let first = origin ?? record.micros
            origin = first
            var moved = record
            moved.micros = record.micros >= first ? record.micros - first : 0
            lastMicros = max(lastMicros, moved.micros)
            if case .dropped = record.content { droppedConnections += 1 }
            builder.add(moved) { events.append($0) }
        }
        if isAll {
            builder.finish { events.append($0) }
            hasEnded = true
        } else {
            builder.flush(until: isStill ? .max : lastMicros) { events.append($0) }
        }
        waiting += events
        return hasNew || isAll || !events.isEmpty
    }

    package func finished(connection: UInt64, micros: UInt64, isUnprepared: Bool) {}

    package func rewind() throws {
        reader = try CaptureFileReader(path: path)
        merger = RecordMerger()
        builder = ScriptBuilder(book: book, onlyReads: onlyReads)
        waiting = []
        place = 0
        hasEnded = false
        origin = nil
        droppedConnections = 0
    }

    package var notes: [String] {
        var notes: [String] = []
        if reader.damagedBytes > 0 {
            notes.append("\(reader.damagedBytes) bytes of the capture are damaged and were passed over")
        }
        if reader.missingFrames > 0 { notes.append("\(reader.missingFrames) frames of the capture are missing") }
        if hasEnded && !reader.hasEnd {
            let tail = "\(reader.tailBytes) bytes of a torn frame"
            notes.append("the capture has no end: its writer was stopped in its work (\(tail))")
        }
        if droppedConnections > 0 { notes.append("\(droppedConnections) connections were not captured to their end") }
        if builder.cutCopies > 0 {
            notes.append("\(builder.cutCopies) COPYs load less than they did: the capture has only the beginning")
        }
        if builder.skipped > 0 { notes.append("\(builder.skipped) units that may write were left out") }
        return notes
    }
}
