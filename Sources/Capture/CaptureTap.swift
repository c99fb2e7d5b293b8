import PGWire
import Primitives

/// Whose a record is, and its place among all. A value.
struct RecordStamp {
    let connection: UInt64
    let micros: UInt64
    let number: UInt64
    /// Messages that had answered the client since the last ReadyForQuery.
    let answers: UInt64
}

/// What taps write; each returns false when there is no room.
extension CaptureLane {
    /// What a client sent at once.
    ///
    /// - Parameter frames: `messages` whole ones, each with its header.
    func messages(_ frames: UnsafeRawBufferPointer, count messages: Int, _ stamp: RecordStamp) -> Bool {
        if messages == 1 {
            return message(frames[0], UnsafeRawBufferPointer(rebasing: frames[FrameHeader.size...]), stamp)
        }
        return message(RecordKind.messages, frames, stamp, standsFor: messages)
    }

    @inline(__always)
    func message(
        _ kind: UInt8, _ content: UnsafeRawBufferPointer, _ stamp: RecordStamp, standsFor messages: Int = 1
    ) -> Bool {
        let count = RecordBuffer.varintSize(stamp.answers) + content.count
        guard makeRoom(count) else { return false }
        buffer.record(kind, stamp, count: count, standsFor: messages) { pen in
            pen.varint(stamp.answers)
            pen.raw(content)
        }
        return true
    }

    func omitted(_ bytes: UInt64, _ stamp: RecordStamp) -> Bool { append(.omitted(bytes: bytes), stamp) }

    func ready(_ status: UInt8, _ stamp: RecordStamp) -> Bool {
        guard makeRoom(1) else { return false }
        buffer.record(RecordKind.ready, stamp, count: 1) { pen in pen.byte(status) }
        return true
    }

    /// - Parameter status: of the ReadyForQuery that comes with it.
    @inline(__always)
    func answer(
        _ kind: CapturedAnswer.Kind, rows: UInt64, bytes: UInt64, digest: RowDigest.Value?,
        words: UnsafeRawBufferPointer, readyIn status: UInt8?, _ stamp: RecordStamp
    ) -> Bool {
        let count = 2 + RecordBuffer.varintSize(rows) + RecordBuffer.varintSize(bytes) + (digest == nil ? 0 : 16)
            + words.count + (status == nil ? 0 : 1)
        guard makeRoom(count) else { return false }
        buffer.record(
            status == nil ? RecordKind.answer : RecordKind.lastAnswer, stamp, count: count,
            standsFor: status == nil ? 1 : 2
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

    func error(_ error: ErrorResponse, _ stamp: RecordStamp) -> Bool {
        append(.error(
            state: error.state.code, isFatal: error.severity == .fatal,
            message: isRedacted ? "" : Self.beginning(of: error.message)), stamp)
    }

    /// By scalars: what the eye takes for one character may be any number of bytes.
    private static func beginning(of message: String) -> String {
        String(String.UnicodeScalarView(message.unicodeScalars.prefix(300)))
    }

    private func append(_ content: CaptureRecord.Content, _ stamp: RecordStamp) -> Bool {
        append(CaptureRecord(
            connection: stamp.connection, micros: stamp.micros, number: stamp.number, content: content))
    }
}

/// One connection that is captured. Used on its reactor's thread.
package final class CaptureTap {
    package let lane: CaptureLane
    private let number: UInt64
    private var frontend = FrontendTap()
    private var backend: BackendTap
    /// Nothing more is kept.
    private var isDropped = false

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
        for record in records where !isDropped {
            if !lane.append(record) { drop(micros) }
        }
    }

    package func received(_ bytes: UnsafeRawBufferPointer, at now: MonotonicInstant) {
        let micros = lane.micros(now)
        if isDropped { return }
        if !frontend.take(bytes, lane, stamp(micros)) { drop(micros) }
    }

    package func sent(_ bytes: UnsafeRawBufferPointer, at now: MonotonicInstant) {
        if isDropped || bytes.isEmpty { return }
        let micros = lane.micros(now)
        if !backend.take(bytes, lane, stamp(micros)) { drop(micros) }
    }

    private func stamp(_ micros: UInt64) -> RecordStamp {
        RecordStamp(
            connection: number, micros: micros, number: lane.session.nextNumber(), answers: backend.answers)
    }

    package func canceled(at now: MonotonicInstant) {
        if isDropped { return }
        let micros = lane.micros(now)
        if !append(.cancel, micros) { drop(micros) }
    }

    package func ended(at now: MonotonicInstant) {
        let micros = lane.micros(now)
        if !isDropped && !append(.disconnect, micros) { drop(micros) }
    }

    private func drop(_ micros: UInt64) {
        isDropped = true
        lane.countDropped()
        lane.tellDropped(number, micros)
    }

    private func append(_ content: CaptureRecord.Content, _ micros: UInt64) -> Bool {
        lane.append(CaptureRecord(
            connection: number, micros: micros, number: lane.session.nextNumber(), content: content))
    }
}
