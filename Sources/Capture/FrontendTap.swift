import PGWire

/// From what a client sends, in pieces of any size, to records. One connection's value, on its thread.
struct FrontendTap {
    /// The beginning of a message that is not whole yet, header included.
    private var pending: [UInt8] = []
    /// Bytes of a message that is not kept.
    private var skipped = 0
    /// Of the COPY that is under way.
    private var copyBytes = 0
    private var omitted: UInt64 = 0

    /// - Returns: false when nothing more of this connection can be kept.
    mutating func take(_ bytes: UnsafeRawBufferPointer, _ tap: borrowing TapContext) -> Bool {
        var rest = bytes
        if skipped > 0 { rest = skip(rest) }
        if !pending.isEmpty {
            move(FrameHeader.size - pending.count, from: &rest)
            guard let header = pending.withUnsafeBytes({ FrameHeader.parse($0, at: 0) }) else { return true }
            if isSkipped(header, tap.lane.copyBytesMax) {
                omitted += UInt64(header.length - 4)
                skipped = header.frameSize - pending.count
                pending = []
                rest = skip(rest)
            } else {
                guard header.length >= 4, Int(header.length) <= CaptureFormat.messageMax else { return false }
                move(header.frameSize - pending.count, from: &rest)
                if pending.count < header.frameSize { return true }
                let whole = pending
                pending = []
                let isKept = whole.withUnsafeBytes {
                    keep(header, UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size...]), tap)
                }
                if !isKept { return false }
            }
        }
        return takeWhole(rest, tap)
    }

    private mutating func takeWhole(_ bytes: UnsafeRawBufferPointer, _ tap: borrowing TapContext) -> Bool {
        if let count = Self.countOfSeveral(bytes) {
            copyBytes = 0
            omitted = 0
            return tap.messages(bytes, count: count)
        }
        var offset = 0
        while let header = FrameHeader.parse(bytes, at: offset) {
            guard header.length >= 4 else { return false }
            if isSkipped(header, tap.lane.copyBytesMax) {
                omitted += UInt64(header.length - 4)
                let left = bytes.count - offset
                if header.frameSize > left {
                    skipped = header.frameSize - left
                    return true
                }
                offset += header.frameSize
                continue
            }
            if Int(header.length) > CaptureFormat.messageMax { return false }
            if bytes.count - offset < header.frameSize { break }
            let body = UnsafeRawBufferPointer(
                rebasing: bytes[(offset + FrameHeader.size)..<(offset + header.frameSize)])
            if !keep(header, body, tap) { return false }
            offset += header.frameSize
        }
        if offset < bytes.count { pending.append(contentsOf: bytes[offset...]) }
        return true
    }

    /// - Returns: nil unless it is two messages or more and nothing else, all of them kept and none of a COPY: what
    ///   drivers send for nearly every statement.
    private static func countOfSeveral(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard let first = FrameHeader.parse(bytes, at: 0), first.frameSize < bytes.count,
            bytes.count <= CaptureFormat.messageMax
        else { return nil }
        var (offset, count) = (0, 0)
        while let header = FrameHeader.parse(bytes, at: offset) {
            guard header.length >= 4, header.frameSize <= bytes.count - offset, isOrdinary(header.tag) else {
                return nil
            }
            offset += header.frameSize
            count += 1
        }
        return offset == bytes.count ? count : nil
    }

    /// Messages that are kept whatever their size.
    static func isOrdinary(_ tag: UInt8) -> Bool {
        switch tag {
        case FrontendTag.query, FrontendTag.parse, FrontendTag.bind, FrontendTag.describe, FrontendTag.execute,
            FrontendTag.close, FrontendTag.sync, FrontendTag.flush, FrontendTag.functionCall, FrontendTag.terminate:
            true
        default:
            false
        }
    }

    private mutating func move(_ wanted: Int, from rest: inout UnsafeRawBufferPointer) {
        if wanted <= 0 { return }
        let count = min(wanted, rest.count)
        pending.append(contentsOf: rest[..<count])
        rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    }

    private mutating func skip(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        let count = min(skipped, bytes.count)
        skipped -= count
        return UnsafeRawBufferPointer(rebasing: bytes[count...])
    }

    private func isSkipped(_ header: FrameHeader, _ copyBytesMax: Int) -> Bool {
        header.tag == FrontendTag.copyData && header.length >= 4
            && (omitted > 0 || copyBytes + Int(header.length) > copyBytesMax)
    }

    private mutating func keep(
        _ header: FrameHeader, _ body: UnsafeRawBufferPointer, _ tap: borrowing TapContext
    ) -> Bool {
        switch header.tag {
        case FrontendTag.copyData:
            copyBytes += Int(header.length)
        case FrontendTag.copyDone, FrontendTag.copyFail:
            copyBytes = 0
            let count = omitted
            omitted = 0
            if count > 0 && !tap.omitted(count) { return false }
        default:
            // A password that comes too late, and what the protocol does not have, is not kept.
            if !Self.isOrdinary(header.tag) { return true }
            copyBytes = 0
            omitted = 0
        }
        return tap.message(header.tag, body)
    }
}
