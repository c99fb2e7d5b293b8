import Capture
import PGWire
import Primitives

enum CaptureFuzz {
    /// A capture's bytes, in pieces: what is read does not depend on where they are cut.
    static func file(_ bytes: [UInt8]) {
        func read(_ pieces: [[UInt8]]) -> [CaptureRecord] {
            var decoder = CaptureDecoder()
            var records: [CaptureRecord] = []
            do throws(CaptureError) {
                for (index, piece) in pieces.enumerated() {
                    piece.withUnsafeBytes { decoder.append($0) }
                    while let frame = try decoder.next(isAtEnd: index == pieces.count - 1) {
                        precondition(frame.payload.count <= CaptureFormat.payloadMax, "a frame without bound")
                        if frame.kind == .records { records += try RecordReader.records(of: frame.payload) }
                    }
                }
            } catch {
                return records
            }
            return records
        }
        let whole = read([bytes])
        precondition(read(pieces(bytes)) == whole, "another reading in pieces")
    }

    /// Records as a frame holds them: what is read is written as what reads the same.
    static func records(_ bytes: [UInt8]) {
        guard let records = try? RecordReader.records(of: bytes) else { return }
        var buffer = RecordBuffer(capacity: bytes.count)
        for record in records { buffer.append(record) }
        precondition((try? RecordReader.records(of: buffer.bytes)) == records, "a record that changes")
        var redactor = Redactor(key: [1])
        for record in records { _ = redactor.redact(record) }
    }

    /// What clients send and get, to records: whole, and byte by byte.
    static func tap(_ bytes: [UInt8]) {
        func captured(_ pieces: [[UInt8]]) -> [CaptureRecord] {
            var options = CaptureOptions()
            options.withDigest = true
            let session = CaptureSession(
                database: "", path: "", options: options, beganAt: MonotonicInstant(nanoseconds: 0), seed: 0, threads: 1,
                copyBytesMax: 100)
            let lane = CaptureLane(session, thread: 0)
            let connection = CapturedConnection(user: "", database: "", applicationName: "", settings: [])
            let now = MonotonicInstant(nanoseconds: 0)
            let tap = CaptureTap(lane, connection, prepared: [], at: now)
            for piece in pieces { piece.withUnsafeBytes { tap.received($0, at: now) } }
            for piece in pieces { piece.withUnsafeBytes { tap.sent($0, at: now) } }
            lane.flush()
            let records = session.take().chunks.flatMap { (try? RecordReader.records(of: $0.buffer.bytes)) ?? [] }
            // Each piece has a number of its own.
            return records.map { CaptureRecord(connection: $0.connection, micros: $0.micros, content: $0.content) }
        }
        let whole = captured([bytes])
        precondition(captured(bytes.map { [$0] }) == whole, "other records byte by byte")
    }
}
