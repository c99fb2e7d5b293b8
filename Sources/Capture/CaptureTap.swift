import PGWire
import Primitives

/// What one connection's taps write to, at one moment.
struct TapContext: ~Copyable {
    let lane: CaptureLane
    let connection: UInt64
    let micros: UInt64
    let number: UInt64
    let answers: UInt64

    func message(_ tag: UInt8, _ body: UnsafeRawBufferPointer) -> Bool {
        let count = RecordBuffer.varintSize(answers) + body.count
        guard lane.makeRoom(count) else { return false }
        lane.buffer.record(tag, connection: connection, micros: micros, number: number, count: count) { pen in
            pen.varint(answers)
            pen.raw(body)
        }
        return true
    }

    /// Several of a client's, each with its header.
    func messages(_ frames: UnsafeRawBufferPointer, count messages: Int) -> Bool {
        let count = RecordBuffer.varintSize(answers) + frames.count
        guard lane.makeRoom(count) else { return false }
        lane.buffer.record(
            RecordKind.messages, connection: connection, micros: micros, number: number, count: count,
            standsFor: messages
        ) { pen in
            pen.varint(answers)
            pen.raw(frames)
        }
        return true
    }

    func omitted(_ bytes: UInt64) -> Bool {
        lane.append(CaptureRecord(
            connection: connection, micros: micros, number: number, content: .omitted(bytes: bytes)))
    }

    func ready(_ status: UInt8) -> Bool {
        guard lane.makeRoom(1) else { return false }
        lane.buffer.record(RecordKind.ready, connection: connection, micros: micros, number: number, count: 1) { pen in
            pen.byte(status)
        }
        return true
    }

    /// - Parameter status: of the ReadyForQuery that comes with it.
    func answer(
        _ kind: CapturedAnswer.Kind, rows: UInt64, bytes: UInt64, digest: RowDigest.Value?,
        words: UnsafeRawBufferPointer, readyIn status: UInt8?
    ) -> Bool {
        let count = 2 + RecordBuffer.varintSize(rows) + RecordBuffer.varintSize(bytes) + (digest == nil ? 0 : 16)
            + words.count + (status == nil ? 0 : 1)
        guard lane.makeRoom(count) else { return false }
        lane.buffer.record(
            status == nil ? RecordKind.answer : RecordKind.lastAnswer, connection: connection, micros: micros,
            number: number, count: count, standsFor: status == nil ? 1 : 2
        ) { pen in
            if let status { pen.byte(status) }
            pen.byte(kind.rawValue)
            pen.varint(rows)
            pen.varint(bytes)
            pen.byte(digest == nil ? 0 : 1)
            if let digest {
                pen.word(digest.ordered)
                pen.word(digest.unordered)
            }
            pen.raw(words)
        }
        return true
    }

    func error(_ error: ErrorResponse) -> Bool {
        lane.append(CaptureRecord(connection: connection, micros: micros, number: number, content: .error(
            state: error.state.code, isFatal: error.severity == .fatal,
            message: lane.isRedacted ? "" : String(error.message.prefix(300)))))
    }
}

/// One connection that is captured. Used on its reactor's thread.
package final class CaptureTap {
    package let lane: CaptureLane
    private let number: UInt64
    private var frontend = FrontendTap()
    private var backend: BackendTap
    /// Nothing more is kept; it was told, or is to be told when there is room.
    private var isDropped = false
    private var isDropTold = false

    /// Writes down who it is.
    ///
    /// - Parameter prepared: Parse's bodies of the statements that it has named already.
    package init(_ lane: CaptureLane, _ connection: CapturedConnection, prepared: [[UInt8]], at now: MonotonicInstant) {
        let micros = lane.micros(now)
        self.lane = lane
        number = lane.nextConnection()
        backend = BackendTap(withDigest: lane.withDigest)
        let place = lane.session.nextNumber()
        var records = [
            CaptureRecord(connection: number, micros: micros, number: place, content: .connect(connection))
        ]
        for body in prepared {
            records.append(CaptureRecord(
                connection: number, micros: micros, number: place, content: .prepared(body: body)))
        }
        for record in records where !isDropped { isDropped = !lane.append(record) }
        if isDropped { lane.countDropped() }
    }

    package func received(_ bytes: UnsafeRawBufferPointer, at now: MonotonicInstant) {
        let micros = lane.micros(now)
        if isDropped { return tellDropped(micros) }
        let context = TapContext(
            lane: lane, connection: number, micros: micros, number: lane.session.nextNumber(), answers: backend.answers)
        if !frontend.take(bytes, context) { drop(micros) }
    }

    package func sent(_ bytes: UnsafeRawBufferPointer, at now: MonotonicInstant) {
        if isDropped || bytes.isEmpty { return }
        let micros = lane.micros(now)
        let context = TapContext(
            lane: lane, connection: number, micros: micros, number: lane.session.nextNumber(), answers: backend.answers)
        if !backend.take(bytes, context) { drop(micros) }
    }

    package func canceled(at now: MonotonicInstant) {
        if isDropped { return }
        let micros = lane.micros(now)
        if !append(.cancel, micros) { drop(micros) }
    }

    package func ended(at now: MonotonicInstant) {
        let micros = lane.micros(now)
        if isDropped { return tellDropped(micros) }
        _ = append(.disconnect, micros)
    }

    private func drop(_ micros: UInt64) {
        isDropped = true
        lane.countDropped()
        tellDropped(micros)
    }

    private func tellDropped(_ micros: UInt64) {
        if isDropTold { return }
        isDropTold = append(.dropped, micros)
    }

    private func append(_ content: CaptureRecord.Content, _ micros: UInt64) -> Bool {
        lane.append(CaptureRecord(
            connection: number, micros: micros, number: lane.session.nextNumber(), content: content))
    }
}
