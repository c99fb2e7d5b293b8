import PGWire

/// From what a client sends, in pieces of any size, to records. One connection's value, on its thread.
struct FrontendTap {
    /// The beginning of a message that is not whole yet, header included.
    private var pending: [UInt8] = []
    /// Bytes of a message that is not kept.
    private var skipped = 0
    /// Of the COPY that is under way.
    private var copyBytes = 0
    /// Some of it is left out; bytes of that which have not been told.
    private var isCut = false
    private var omitted: UInt64 = 0

    /// - Returns: false when nothing more of this connection can be kept.
    mutating func take(_ bytes: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp) -> Bool {
        if skipped == 0 && pending.isEmpty, let count = Self.countOfOrdinary(bytes) {
            copyBytes = 0
            isCut = false
            omitted = 0
            return lane.messages(bytes, count: count, stamp)
        }
        return takePieces(bytes, lane, stamp)
    }

    private mutating func takePieces(
        _ bytes: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        var rest = bytes
        if skipped > 0 { rest = skip(rest) }
        if !pending.isEmpty {
            move(FrameHeader.size - pending.count, from: &rest)
            guard let header = pending.withUnsafeBytes({ FrameHeader.parse($0, at: 0) }) else { return true }
            if isSkipped(header, lane.copyBytesMax) {
                if !leaveOut(header, lane, stamp) { return false }
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
                    keep(header, UnsafeRawBufferPointer(rebasing: $0[FrameHeader.size...]), lane, stamp)
                }
                if !isKept { return false }
            }
        }
        return takeWhole(rest, lane, stamp)
    }

    private mutating func takeWhole(
        _ bytes: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        var offset = 0
        while let header = FrameHeader.parse(bytes, at: offset) {
            guard header.length >= 4 else { return false }
            if isSkipped(header, lane.copyBytesMax) {
                if !leaveOut(header, lane, stamp) { return false }
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
            if !keep(header, body, lane, stamp) { return false }
            offset += header.frameSize
        }
        if offset < bytes.count { pending.append(contentsOf: bytes[offset...]) }
        return true
    }

    /// - Returns: how many messages it is; nil unless they are whole, kept, and none of a COPY. Nearly all that drivers
    ///   send is such.
    private static func countOfOrdinary(_ bytes: UnsafeRawBufferPointer) -> Int? {
        guard bytes.count <= CaptureFormat.messageMax, var place = bytes.baseAddress else { return nil }
        let end = place + bytes.count
        var count = 0
        while end - place >= FrameHeader.size {
            let length = FrameHeader.length(at: place)
            guard length >= 4, length < end - place, isOrdinary(place.load(as: UInt8.self)) else { return nil }
            place += length + 1
            count &+= 1
        }
        return place == end && count > 0 ? count : nil
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
            && (isCut || copyBytes + Int(header.length) > copyBytesMax)
    }

    /// The first is told at once: of a COPY that fails an end may not come, and a reader would take it for whole.
    private mutating func leaveOut(_ header: FrameHeader, _ lane: CaptureLane, _ stamp: RecordStamp) -> Bool {
        let count = UInt64(header.length - 4)
        if isCut {
            omitted += count
            return true
        }
        isCut = true
        return lane.omitted(count, stamp)
    }

    private mutating func keep(
        _ header: FrameHeader, _ body: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        switch header.tag {
        case FrontendTag.copyData:
            copyBytes += Int(header.length)
        case FrontendTag.copyDone, FrontendTag.copyFail:
            copyBytes = 0
            isCut = false
            let count = omitted
            omitted = 0
            if count > 0 && !lane.omitted(count, stamp) { return false }
        default:
            // A password that comes too late, and what the protocol does not have, is not kept.
            if !Self.isOrdinary(header.tag) { return true }
            copyBytes = 0
            isCut = false
            omitted = 0
        }
        return lane.message(header.tag, body, stamp)
    }
}
