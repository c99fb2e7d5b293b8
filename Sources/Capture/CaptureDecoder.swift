/// From the bytes of a capture file, in pieces of any size, to its frames. Pure; one reader's value.
///
/// A file that just ends, in mid-frame too, is in order: its writer was killed, or is still at work. Bytes that are no
/// frame are passed over up to the next one, and counted.
package struct CaptureDecoder {
    package private(set) var flags: CaptureFormat.Flags = []
    /// The last frame was seen: nothing comes any more.
    package private(set) var hasEnd = false
    /// Bytes that were no frame of this file, with frames behind them.
    package private(set) var damagedBytes: UInt64 = 0
    /// Frames whose numbers are missing.
    package private(set) var missingFrames: UInt64 = 0
    /// Where `pending` stands in the file.
    package private(set) var offset: UInt64 = 0

    private var pending: [UInt8] = []
    private var start = 0
    private var hasHeader = false
    private var nextSequence: UInt64 = 0
    /// Bytes passed over since the last frame.
    private var skipped: UInt64 = 0

    package init() {}

    /// Bytes that are no whole frame yet: the torn tail, when nothing comes any more.
    package var tailBytes: Int { pending.count - start + Int(skipped) }

    package mutating func append(_ bytes: UnsafeRawBufferPointer) {
        if start > 0 && start * 2 >= pending.count {
            pending.removeFirst(start)
            start = 0
        }
        pending.append(contentsOf: bytes)
    }

    /// - Parameter isAtEnd: nothing more is there for now: what looks like a frame that is not whole may be damage.
    /// - Returns: nil when more bytes are needed.
    /// - Throws: `.notACapture`, `.unknownVersion`
    package mutating func next(isAtEnd: Bool = false) throws(CaptureError) -> CaptureFrame? {
        if !hasHeader {
            guard try takeFileHeader() else { return nil }
        }
        while !hasEnd {
            switch pending.withUnsafeBytes({ CaptureFrame.parse(UnsafeRawBufferPointer(rebasing: $0[start...])) }) {
            case .frame(let frame, let size):
                consume(size)
                damagedBytes += skipped
                skipped = 0
                // A capture that was cut out of another has other numbers; only gaps count.
                if frame.sequence > nextSequence { addMissing(frame.sequence - nextSequence) }
                nextSequence = frame.sequence &+ 1
                hasEnd = frame.kind == .end
                return frame
            case .incomplete:
                // Within damaged bytes anything may look like the head of a long frame.
                if skipped == 0 && !isAtEnd || !hasFrameBehind { return nil }
                skip()
            case .damaged:
                if pending.count - start <= CaptureFormat.frameHeaderSize { return nil }
                skip()
            }
        }
        return nil
    }

    /// A checksum keeps nobody from writing any number.
    private mutating func addMissing(_ count: UInt64) {
        let (sum, isTooMany) = missingFrames.addingReportingOverflow(count)
        missingFrames = isTooMany ? .max : sum
    }

    private mutating func takeFileHeader() throws(CaptureError) -> Bool {
        let header = pending.prefix(CaptureFormat.fileHeaderSize)
        if !header.elementsEqual(CaptureFormat.magic.prefix(header.count))
            && !header.starts(with: CaptureFormat.magic)
        {
            throw .notACapture
        }
        if header.count < CaptureFormat.fileHeaderSize { return false }
        let version = UInt16(header[8]) | UInt16(header[9]) << 8
        let known = CaptureFormat.versionMin...CaptureFormat.version
        if !known.contains(version) { throw .unknownVersion(version) }
        flags = CaptureFormat.Flags(rawValue: UInt16(header[10]) | UInt16(header[11]) << 8)
        consume(CaptureFormat.fileHeaderSize)
        hasHeader = true
        return true
    }

    private mutating func consume(_ count: Int) {
        start += count
        offset += UInt64(count)
    }

    /// Goes to where the next frame may begin.
    private mutating func skip() {
        let from = start + 1
        let place = nextMagic(from: from) ?? max(from, pending.count - 3)
        skipped += UInt64(place - start)
        consume(place - start)
    }

    private func nextMagic(from: Int) -> Int? {
        let magic = withUnsafeBytes(of: CaptureFormat.frameMagic.littleEndian) { Array($0) }
        return pending.withUnsafeBytes { bytes in
            var place = from
            while place + 4 <= bytes.count {
                if bytes[place] == magic[0] && bytes[place + 1] == magic[1] && bytes[place + 2] == magic[2]
                    && bytes[place + 3] == magic[3]
                {
                    return place
                }
                place += 1
            }
            return nil
        }
    }

    /// A whole frame stands behind what looks like the head of one that is not.
    private var hasFrameBehind: Bool {
        var from = start + 1
        while let place = nextMagic(from: from) {
            let parsed = pending.withUnsafeBytes { CaptureFrame.parse(UnsafeRawBufferPointer(rebasing: $0[place...])) }
            if case .frame = parsed { return true }
            from = place + 1
        }
        return false
    }
}
