import Capture
import PGWire
import SQLAnalysis

/// What a captured unit of work was: a simple query, or an extended batch up to its Sync. Shared by the sides that play
/// it; filled in as the capture is read. One thread.
package final class ScriptUnit {
    /// A statement that is executed in it.
    package struct Statement {
        package let shape: Int
        package let kind: StatementKind
        package let hasOrder: Bool

        /// The answer belongs to one server: its catalog, its numbers.
        package var isSideDependent: Bool { kind == .sideDependent || kind == .show }
    }

    package let connection: UInt64
    /// Counted over all connections, in the order in which they were sent.
    package let number: UInt64
    package internal(set) var statements: [Statement] = []
    /// What the client was answered.
    package internal(set) var expected: [StatementOutcome] = []
    /// The capture has its end.
    package internal(set) var isComplete = false
    /// A part of its COPY data was not kept.
    package internal(set) var isCut = false
    /// When its last message was sent, and when it was answered, in the capture.
    package internal(set) var sentMicros: UInt64 = 0
    package internal(set) var latencyMicros: UInt64 = 0
    /// Its place among all units by the time of their answers; nil: not known (yet).
    package internal(set) var answerOrdinal: UInt64?
    /// As bytes to send once more, for what can be sent twice.
    package internal(set) var repeatable: [UInt8]? = []
    /// It is left out, but for what it prepares.
    package internal(set) var isSkipped = false
    /// Its messages are those of the extended protocol.
    package internal(set) var isExtended = false
    /// COPY data with a Sync of its own that was sent before the server asked for it.
    var furtherPart: ScriptUnit?
    var isDecided = false
    /// Its messages that name statements, or forget names.
    var preparations: [UInt8] = []

    init(connection: UInt64, number: UInt64) {
        self.connection = connection
        self.number = number
    }

    /// Each of its statements surely is a read.
    package var isRead: Bool { !statements.isEmpty && statements.allSatisfy { $0.kind == .read } }
    /// Of what one of its statements has given.
    package func isSideDependent(_ statement: Int) -> Bool {
        statement < statements.count && statements[statement].isSideDependent
    }
    /// The shape that it is counted under: its first statement that is not about transactions or settings.
    package var mainShape: Int { (statements.first { !$0.kind.isFrame } ?? statements.first)?.shape ?? 0 }
}

extension StatementKind {
    /// What stands around the work.
    package var isFrame: Bool {
        switch self {
        case .begin, .commit, .rollback, .savepoint, .set, .setTransaction, .reset, .discard, .empty: true
        case .read, .sideDependent, .write, .unknown, .multiple, .preparedTransaction, .show, .prepare, .execute,
            .deallocate, .cursor, .listen, .unlisten:
            false
        }
    }
}

/// Bytes that were sent at once, and what their sender had seen by then.
package struct ScriptStep {
    package var micros: UInt64
    /// Whole messages.
    package var bytes: [UInt8]
    /// ReadyForQuery messages that had come before.
    package var readies: UInt64
    /// Answers since the last of them.
    package var answers: UInt64
    package var unit: ScriptUnit
    /// With it the unit is whole, but for COPY data.
    package var endsUnit: Bool
    package var isCopyData: Bool
    /// Units of all connections that had been answered before: they come first where order is kept.
    package var unitsBefore: UInt64
    /// CopyDone and CopyFail messages in it: with each, COPY data is at its end.
    package var copyEnds = 0
    /// No bytes: a cancel request for what runs.
    package var isCancel = false

    /// It begins with COPY data, or with the end of it, whatever comes behind.
    var beginsWithCopyData: Bool {
        guard let tag = bytes.first else { return false }
        return tag == FrontendTag.copyData || tag == FrontendTag.copyDone || tag == FrontendTag.copyFail
    }
}

/// What happens on one connection next.
package enum ScriptEvent {
    case open(connection: UInt64, micros: UInt64, CapturedConnection, prepared: [[UInt8]])
    case step(connection: UInt64, ScriptStep)
    /// The capture has all of a unit, answers included.
    case answered(ScriptUnit)
    /// Nothing comes any more.
    case close(connection: UInt64, micros: UInt64)
}

/// From records, in order of time, to what a player does. One thread.
package struct ScriptBuilder {
    private struct Line {
        var opened: CapturedConnection?
        var prepared: [[UInt8]] = []
        var statements: [[UInt8]: ScriptUnit.Statement] = [:]
        var portals: [[UInt8]: ScriptUnit.Statement] = [:]
        var pending: ScriptStep?
        /// Sent and not answered in the capture, the first the oldest.
        var unanswered: [ScriptUnit] = []
        /// The unit that is being sent.
        var open: ScriptUnit?
        var readies: UInt64 = 0
        /// The Sync of the first unanswered unit was passed over, for it came before COPY data: a further one ends it.
        var hasPassedSync = false
        /// Steps of a unit of which it is not known yet whether it is played.
        var held: [ScriptStep] = []
    }

    package let book: StatementBook
    private let onlyReads: Bool
    private var lines: [UInt64: Line] = [:]
    private var lastUnit: UInt64 = 0
    /// Units answered so far.
    package private(set) var answered: UInt64 = 0
    /// Of `onlyReads`.
    package private(set) var skipped: UInt64 = 0
    /// COPYs of whose data the capture has only the beginning.
    package private(set) var cutCopies: UInt64 = 0
    package init(book: StatementBook, onlyReads: Bool = false) {
        self.book = book
        self.onlyReads = onlyReads
    }

    package mutating func add(_ record: CaptureRecord, _ emit: (ScriptEvent) -> Void) {
        var line = lines.removeValue(forKey: record.connection) ?? Line()
        switch record.content {
        case .connect(let connection): line.opened = connection
        case .prepared(let body):
            line.prepared.append(body)
            noteParse(body, &line)
        case .message(let tag, let answers, let body):
            open(record, &line, emit)
            take(tag, answers, body, record, &line, emit)
        case .omitted:
            // Told twice of a COPY that comes to its end.
            guard let unit = line.open ?? line.unanswered.last, !unit.isCut else { break }
            unit.isCut = true
            if !unit.isSkipped { cutCopies += 1 }
        case .answer(let answer):
            if let unit = line.unanswered.first ?? line.open {
                unit.expected.append(StatementOutcome(answer))
                if answer.kind == .copyIn && unit.isExtended && line.unanswered.first === unit { passSync(&line) }
            }
        case .error(let state, _, let message):
            if let unit = line.unanswered.first ?? line.open {
                unit.expected.append(StatementOutcome(state: state, message: message))
            }
        case .ready: ready(record, &line, emit)
        case .cancel: cancel(record, &line, emit)
        case .disconnect, .dropped:
            flush(record.connection, &line, emit)
            if line.opened == nil { emit(.close(connection: record.connection, micros: record.micros)) }
            return
        }
        lines[record.connection] = line
    }

    /// The capture is read: what is pending goes out.
    package mutating func finish(_ emit: (ScriptEvent) -> Void) {
        for (connection, line) in lines.sorted(by: { $0.key < $1.key }) {
            var line = line
            flush(connection, &line, emit)
            if line.opened == nil { emit(.close(connection: connection, micros: .max)) }
        }
        lines = [:]
    }

    /// Steps that wait for what may still belong to them go out: time has passed.
    package mutating func flush(until micros: UInt64, _ emit: (ScriptEvent) -> Void) {
        for (connection, line) in lines {
            guard let pending = line.pending, pending.micros < micros else { continue }
            var line = line
            flush(connection, &line, emit)
            lines[connection] = line
        }
    }

    // MARK: a connection

    private mutating func open(_ record: CaptureRecord, _ line: inout Line, _ emit: (ScriptEvent) -> Void) {
        guard let opened = line.opened else { return }
        emit(.open(connection: record.connection, micros: record.micros, opened, prepared: line.prepared))
        line.opened = nil
        line.prepared = []
    }

    private mutating func flush(_ connection: UInt64, _ line: inout Line, _ emit: (ScriptEvent) -> Void) {
        guard let step = line.pending else { return }
        line.pending = nil
        if onlyReads && !step.unit.isDecided {
            line.held.append(step)
        } else if !step.unit.isSkipped || step.endsUnit {
            emit(.step(connection: connection, step))
        }
    }

    /// All of a unit is known: whether it is played.
    private mutating func decide(
        _ unit: ScriptUnit, _ connection: UInt64, _ line: inout Line, _ emit: (ScriptEvent) -> Void
    ) {
        unit.isDecided = true
        let held = line.held
        line.held = []
        if mayBePlayed(unit) {
            for step in held { emit(.step(connection: connection, step)) }
            return
        }
        skipped += 1
        unit.isSkipped = true
        // What it has prepared may be asked for later.
        guard var step = line.pending else { return }
        step.bytes = unit.preparations
        if !step.bytes.isEmpty { step.bytes += Self.frame(FrontendTag.sync, []) }
        step.answers = 0
        unit.statements = []
        line.pending = step
    }

    private mutating func take(
        _ tag: UInt8, _ answers: UInt64, _ body: [UInt8], _ record: CaptureRecord, _ line: inout Line,
        _ emit: (ScriptEvent) -> Void
    ) {
        if tag == FrontendTag.terminate { return }
        // It asks for answers that come without it: a unit must not begin with what never ends it.
        if tag == FrontendTag.flush && line.open == nil { return }
        let isCopy = tag == FrontendTag.copyData || tag == FrontendTag.copyDone || tag == FrontendTag.copyFail
        let unit: ScriptUnit
        let endsCopy = tag == FrontendTag.sync && line.hasPassedSync && line.open == nil
        if isCopy || endsCopy, let last = line.open ?? (endsCopy ? line.unanswered.first : line.unanswered.last) {
            unit = last
            if endsCopy { line.hasPassedSync = false }
        } else if let open = line.open {
            unit = open
        } else {
            lastUnit += 1
            unit = ScriptUnit(connection: record.connection, number: lastUnit)
            line.open = unit
        }
        note(tag, body, unit, &line)
        if tag == FrontendTag.bind { unit.isExtended = true }
        let endsUnit = !isCopy && [FrontendTag.query, FrontendTag.sync, FrontendTag.functionCall].contains(tag)
        if endsUnit {
            line.open = nil
            if !endsCopy { line.unanswered.append(unit) }
        }
        unit.sentMicros = record.micros
        let message = Self.frame(tag, body)
        let endsCopyData = tag == FrontendTag.copyDone || tag == FrontendTag.copyFail
        if isCopy { unit.repeatable = nil } else { noteRepeatable(tag, body, message, unit) }
        if var pending = line.pending, !pending.isCancel, pending.micros == record.micros, pending.readies == line.readies,
            pending.answers == answers, pending.unit === unit, pending.bytes.count < 1 << 16
        {
            pending.bytes += message
            pending.endsUnit = pending.endsUnit || endsUnit
            pending.isCopyData = pending.isCopyData && isCopy
            pending.copyEnds += endsCopyData ? 1 : 0
            line.pending = pending
        } else {
            flush(record.connection, &line, emit)
            line.pending = ScriptStep(
                micros: record.micros, bytes: message, readies: line.readies, answers: answers, unit: unit,
                endsUnit: endsUnit, isCopyData: isCopy, unitsBefore: answered, copyEnds: endsCopyData ? 1 : 0)
        }
        if !endsUnit || !onlyReads { return }
        if !unit.isDecided { return decide(unit, record.connection, &line, emit) }
        // The further Sync of a COPY that is left out: it would be answered, as nothing in the capture was.
        if unit.isSkipped { line.pending = nil }
    }

    /// Somebody asked for an end of what runs.
    private mutating func cancel(_ record: CaptureRecord, _ line: inout Line, _ emit: (ScriptEvent) -> Void) {
        guard let unit = line.unanswered.first ?? line.open else { return }
        flush(record.connection, &line, emit)
        if unit.isSkipped { return }
        line.pending = ScriptStep(
            micros: record.micros, bytes: [], readies: line.readies, answers: 0, unit: unit, endsUnit: false,
            isCopyData: false, unitsBefore: 0, isCancel: true)
        flush(record.connection, &line, emit)
    }

    private mutating func ready(_ record: CaptureRecord, _ line: inout Line, _ emit: (ScriptEvent) -> Void) {
        line.readies += 1
        guard !line.unanswered.isEmpty else { return }
        // What was asked before its answer goes out before it.
        if line.pending?.unit === line.unanswered[0] { flush(record.connection, &line, emit) }
        let unit = line.unanswered.removeFirst()
        unit.isComplete = true
        unit.answerOrdinal = answered
        line.hasPassedSync = false
        if let part = unit.furtherPart {
            part.answerOrdinal = answered
            emit(.answered(part))
        }
        if record.micros >= unit.sentMicros { unit.latencyMicros = record.micros - unit.sentMicros }
        answered += 1
        emit(.answered(unit))
    }

    /// In the extended protocol, Sync before COPY data does nothing: what comes up to the next one is one unit with it.
    private func passSync(_ line: inout Line) {
        if line.unanswered.count > 1 {
            line.unanswered[0].furtherPart = line.unanswered.remove(at: 1)
        } else {
            line.hasPassedSync = true
        }
    }

    private func mayBePlayed(_ unit: ScriptUnit) -> Bool {
        unit.statements.allSatisfy {
            $0.kind == .read || $0.kind == .sideDependent || $0.kind == .show || $0.kind.isFrame
        }
    }

    // MARK: messages

    private static func frame(_ tag: UInt8, _ body: [UInt8]) -> [UInt8] {
        let length = UInt32(body.count + 4)
        var bytes = [tag]
        bytes.reserveCapacity(body.count + 5)
        for shift in [24, 16, 8, 0] as [UInt32] { bytes.append(UInt8(truncatingIfNeeded: length >> shift)) }
        bytes += body
        return bytes
    }

    /// What has been prepared under a name stays: only the rest is sent again. In a transaction a portal stays, too:
    /// with a name it cannot be opened twice, and one that was open before goes on behind what it gave. Such a unit
    /// is not asked again: it would be refused, and its transaction with it, or give further rows.
    private func noteRepeatable(_ tag: UInt8, _ body: [UInt8], _ message: [UInt8], _ unit: ScriptUnit) {
        let hasName = body.first != 0
        // A Bind makes the unit an extended one.
        if tag == FrontendTag.bind && hasName || tag == FrontendTag.execute && (hasName || !unit.isExtended) {
            unit.repeatable = nil
        }
        if tag == FrontendTag.parse && body.first != 0 || tag == FrontendTag.close {
            if onlyReads { unit.preparations += message }
            // What it has run is gone with its name, and a Bind of it would be refused.
            let isNamed = body.count > 2 && body[0] == UInt8(ascii: "S")
            if tag == FrontendTag.close && isNamed && unit.isExtended { unit.repeatable = nil }
            return
        }
        unit.repeatable?.append(contentsOf: message)
    }

    private func note(_ tag: UInt8, _ body: [UInt8], _ unit: ScriptUnit, _ line: inout Line) {
        switch tag {
        case FrontendTag.query:
            unit.statements += book.statements(body.last == 0 ? body.dropLast() : body[...])
        case FrontendTag.parse: noteParse(body, &line)
        case FrontendTag.bind:
            guard let portalEnd = body.firstIndex(of: 0), let nameEnd = body[(portalEnd + 1)...].firstIndex(of: 0)
            else { return }
            line.portals[Array(body[..<portalEnd])] = line.statements[Array(body[(portalEnd + 1)..<nameEnd])]
        case FrontendTag.execute:
            guard let end = body.firstIndex(of: 0) else { return }
            unit.statements.append(line.portals[Array(body[..<end])] ?? book.unknown)
        case FrontendTag.functionCall: unit.statements.append(book.unknown)
        default: break
        }
    }

    private func noteParse(_ body: [UInt8], _ line: inout Line) {
        guard let nameEnd = body.firstIndex(of: 0), let textEnd = body[(nameEnd + 1)...].firstIndex(of: 0)
        else { return }
        line.statements[Array(body[..<nameEnd])] = book.statement(body[(nameEnd + 1)..<textEnd])
    }
}
