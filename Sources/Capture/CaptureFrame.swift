import CZstd

/// The unit of a capture file: so many records of one thread, compressed, with a checksum. Immutable, any thread.
package struct CaptureFrame: Equatable, Sendable {
    package var kind: CaptureFormat.FrameKind
    package var thread: UInt16
    /// Frames of a file are numbered from 0 on: a gap tells of one that is missing.
    package var sequence: UInt64
    package var payload: [UInt8]

    package init(_ kind: CaptureFormat.FrameKind, thread: UInt16, sequence: UInt64, payload: [UInt8]) {
        self.kind = kind
        self.thread = thread
        self.sequence = sequence
        self.payload = payload
    }

    package enum Parsed: Equatable, Sendable {
        case frame(CaptureFrame, size: Int)
        /// So many bytes must be there before more can be said.
        case incomplete(needed: Int)
        case damaged
    }

    /// What a header of a frame says. It is believed when the checksum over all of the frame is right.
    private struct Header {
        var stored: Int
        var raw: Int
        var kind: CaptureFormat.FrameKind
        var compression: CaptureFormat.Compression
        var thread: UInt16
        var sequence: UInt64
        var checksum: UInt64

        init?(_ bytes: UnsafeRawBufferPointer) {
            var cursor = RecordCursor(bytes)
            guard let first = cursor.word(), let second = cursor.word(), let sequence = cursor.word(),
                let checksum = cursor.word(), UInt32(truncatingIfNeeded: first) == CaptureFormat.frameMagic
            else { return nil }
            stored = Int(first >> 32)
            raw = Int(second & 0xFFFF_FFFF)
            guard let kind = CaptureFormat.FrameKind(rawValue: UInt8(truncatingIfNeeded: second >> 32)),
                let compression = CaptureFormat.Compression(rawValue: UInt8(truncatingIfNeeded: second >> 40))
            else { return nil }
            self.kind = kind
            self.compression = compression
            thread = UInt16(truncatingIfNeeded: second >> 48)
            self.sequence = sequence
            self.checksum = checksum
            if raw > CaptureFormat.payloadMax || stored > CaptureFormat.payloadMax + 1024 { return nil }
            if compression == .none && stored != raw { return nil }
        }
    }

    /// Takes the frame at the front of `bytes`.
    package static func parse(_ bytes: UnsafeRawBufferPointer) -> Parsed {
        let head = CaptureFormat.frameHeaderSize
        if bytes.count < head { return .incomplete(needed: head) }
        guard let header = Header(UnsafeRawBufferPointer(rebasing: bytes[..<head])) else { return .damaged }
        let size = head + header.stored
        if bytes.count < size { return .incomplete(needed: size) }
        let stored = UnsafeRawBufferPointer(rebasing: bytes[head..<size])
        let seed = Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[..<(head - 8)]))
        guard Checksum.of(stored, seed: seed) == header.checksum else { return .damaged }
        var payload: [UInt8]
        switch header.compression {
        case .none: payload = Array(stored)
        case .zstd:
            payload = [UInt8](repeating: 0, count: header.raw)
            let length = payload.withUnsafeMutableBytes {
                ZSTD_decompress($0.baseAddress, $0.count, stored.baseAddress, stored.count)
            }
            if ZSTD_isError(length) != 0 || length != header.raw { return .damaged }
        }
        let frame = CaptureFrame(header.kind, thread: header.thread, sequence: header.sequence, payload: payload)
        return .frame(frame, size: size)
    }
}

/// Makes frames. Used on the writer's thread; its memory is used again from frame to frame.
package final class FrameEncoder {
    /// The quickest of zstd's usual levels: the records are written while traffic runs.
    private static let level: CInt = 1
    /// A smaller payload is not worth it.
    private static let compressedMin = 64

    private let context: OpaquePointer
    private var output: [UInt8] = []
    private var sequence: UInt64 = 0

    package init() throws(CaptureError) {
        guard let context = ZSTD_createCCtx() else { throw .compression("out of memory") }
        self.context = context
    }

    deinit { _ = ZSTD_freeCCtx(context) }

    /// The bytes at the front of the file.
    package static func fileHeader(_ flags: CaptureFormat.Flags) -> [UInt8] {
        let version = CaptureFormat.version
        return CaptureFormat.magic + [UInt8(version & 0xFF), UInt8(version >> 8)]
            + [UInt8(flags.rawValue & 0xFF), UInt8(flags.rawValue >> 8), 0, 0, 0, 0]
    }

    package func encode(
        _ kind: CaptureFormat.FrameKind, thread: Int, payload: [UInt8]
    ) throws(CaptureError) -> [UInt8] {
        try payload.withUnsafeBufferPointer { (bytes) throws(CaptureError) in
            try encode(kind, thread: thread, payload: UnsafeRawBufferPointer(bytes))
        }
    }

    /// - Returns: the frame's bytes.
    /// - Throws: `.tooLong`, `.compression`
    func encode(
        _ kind: CaptureFormat.FrameKind, thread: Int, payload: UnsafeRawBufferPointer
    ) throws(CaptureError) -> [UInt8] {
        // No reader would take it. The capture fails, and nothing else.
        if payload.count > CaptureFormat.payloadMax { throw .tooLong(bytes: payload.count) }
        let head = CaptureFormat.frameHeaderSize
        let bound = head + max(payload.count, ZSTD_compressBound(payload.count))
        if output.count < bound { output = [UInt8](repeating: 0, count: bound) }
        var stored = payload.count
        var compression = CaptureFormat.Compression.none
        if payload.count >= Self.compressedMin {
            let length = output.withUnsafeMutableBytes { target in
                ZSTD_compressCCtx(
                    context, target.baseAddress?.advanced(by: head), target.count - head, payload.baseAddress,
                    payload.count, Self.level)
            }
            if ZSTD_isError(length) != 0 { throw .compression(String(cString: ZSTD_getErrorName(length))) }
            if length < payload.count { (stored, compression) = (length, .zstd) }
        }
        output.withUnsafeMutableBytes { target in
            if compression == .none && stored > 0 {
                let place = UnsafeMutableRawBufferPointer(rebasing: target[head...])
                place.copyMemory(from: payload)
            }
            func store(_ value: UInt64, at offset: Int) {
                target.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
            }
            store(UInt64(CaptureFormat.frameMagic) | UInt64(stored) << 32, at: 0)
            store(
                UInt64(payload.count) | UInt64(kind.rawValue) << 32 | UInt64(compression.rawValue) << 40
                    | UInt64(UInt16(thread)) << 48, at: 8)
            store(sequence, at: 16)
            let bytes = UnsafeRawBufferPointer(target)
            let seed = Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[..<(head - 8)]))
            store(Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[head..<(head + stored)]), seed: seed), at: 24)
        }
        sequence += 1
        return Array(output[..<(head + stored)])
    }
}

/// What a capture says of itself: the first frame's payload. Immutable, any thread.
package struct CaptureBeginning: Equatable, Sendable {
    /// Microseconds since 1970.
    package var wallMicros: UInt64
    package var database: String
    package var sampleHundredths: Int
    /// Who wrote it, such as `Godwit 0.1.0`.
    package var writer: String

    package init(wallMicros: UInt64, database: String, sampleHundredths: Int, writer: String) {
        self.wallMicros = wallMicros
        self.database = database
        self.sampleHundredths = sampleHundredths
        self.writer = writer
    }

    package var payload: [UInt8] {
        var buffer = RecordBuffer(capacity: 64)
        buffer.word(wallMicros)
        buffer.varint(UInt64(sampleHundredths))
        buffer.text(database)
        buffer.text(writer)
        return buffer.bytes
    }

    package init?(payload: UnsafeRawBufferPointer) {
        var cursor = RecordCursor(payload)
        guard let wall = cursor.word(), let sample = cursor.varint(), sample <= 10_000,
            let database = cursor.text(), let writer = cursor.text()
        else { return nil }
        self.init(wallMicros: wall, database: database, sampleHundredths: Int(sample), writer: writer)
    }
}
