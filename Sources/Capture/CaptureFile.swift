import Glibc

/// A capture file being written: frames are added whole, or not at all. Used on one thread.
package final class CaptureFileWriter {
    private let path: String
    private let descriptor: CInt
    private let encoder: FrameEncoder
    /// Of whole frames.
    package private(set) var size: Int

    /// Makes the file.
    ///
    /// - Throws: `.file` with EEXIST when there is one of that name: nothing is written over.
    package init(path: String, flags: CaptureFormat.Flags) throws(CaptureError) {
        self.path = path
        encoder = try FrameEncoder()
        // Queries hold what nobody else should read.
        descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if descriptor < 0 { throw .file(path: path, errno: errno) }
        size = 0
        try add(FrameEncoder.fileHeader(flags))
    }

    deinit { _ = close(descriptor) }

    /// - Throws: `.full`, `.file`; the file then ends with its last whole frame.
    package func write(_ kind: CaptureFormat.FrameKind, thread: Int, payload: [UInt8]) throws(CaptureError) {
        try add(try encoder.encode(kind, thread: thread, payload: payload))
    }

    /// A frame of records.
    ///
    /// - Throws: also `.tooLong`.
    package func write(_ records: RecordBuffer, thread: Int) throws(CaptureError) {
        let frame = try records.withUnsafeBytes { (payload) throws(CaptureError) in
            try encoder.encode(.records, thread: thread, payload: payload)
        }
        try add(frame)
    }

    private func add(_ bytes: [UInt8]) throws(CaptureError) {
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { raw in
                Glibc.write(descriptor, raw.baseAddress?.advanced(by: written), raw.count - written)
            }
            if count > 0 {
                written += count
                continue
            }
            if count < 0 && errno == EINTR { continue }
            let code = count == 0 ? ENOSPC : errno
            _ = ftruncate(descriptor, off_t(size))
            if code == ENOSPC || code == EDQUOT || code == EFBIG { throw .full(path: path) }
            throw .file(path: path, errno: code)
        }
        size += bytes.count
    }
}

/// A capture file being read, also while it is still being written. Used on one thread.
package final class CaptureFileReader {
    private static let pieceBytes = 1 << 20

    private let path: String
    private let descriptor: CInt
    private var decoder = CaptureDecoder()
    private var piece = [UInt8](repeating: 0, count: pieceBytes)
    /// What the file says of itself; nil before its first frame was read.
    package private(set) var beginning: CaptureBeginning?

    package init(path: String) throws(CaptureError) {
        self.path = path
        descriptor = path == "-" ? dup(0) : open(path, O_RDONLY | O_CLOEXEC)
        if descriptor < 0 { throw .file(path: path, errno: errno) }
    }

    deinit { _ = close(descriptor) }

    package var flags: CaptureFormat.Flags { decoder.flags }
    /// The capture was ended, and all of it has been read.
    package var hasEnd: Bool { decoder.hasEnd }
    package var tailBytes: Int { decoder.tailBytes }
    package var damagedBytes: UInt64 { decoder.damagedBytes }
    package var missingFrames: UInt64 { decoder.missingFrames }
    package var bytesRead: UInt64 { decoder.offset }

    /// - Returns: the next frame of records; nil at the present end of the file, which may grow.
    package func next() throws(CaptureError) -> CaptureFrame? {
        var isAtEnd = false
        while true {
            while let frame = try decoder.next(isAtEnd: isAtEnd) {
                switch frame.kind {
                case .begin: beginning = frame.payload.withUnsafeBytes { CaptureBeginning(payload: $0) }
                case .records: return frame
                case .end: return nil
                }
            }
            if decoder.hasEnd || isAtEnd { return nil }
            let count = piece.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
            if count < 0 && errno == EINTR { continue }
            if count < 0 { throw .file(path: path, errno: errno) }
            isAtEnd = count == 0
            piece.withUnsafeBytes { decoder.append(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        }
    }
}
