import PGWire

/// From what is sent to a client, in pieces of any size, to records of outcomes. One connection's value, on its thread.
/// Rows are counted, and not looked at unless their digest is wanted.
struct BackendTap: ~Copyable {
    /// A header that is not whole.
    private var head: [UInt8] = []
    private var tag: UInt8 = 0
    /// Bytes of the present message that are still to come.
    private var remaining = 0
    /// What is kept of a message that comes in pieces.
    private var kept: [UInt8] = []
    private static let keptMax = 8 * 1024

    /// Messages that answered since the last ReadyForQuery.
    private(set) var answers: UInt64 = 0
    private var rows: UInt64 = 0
    private var bytes: UInt64 = 0
    private var digest: RowDigest?

    init(withDigest: Bool) { digest = withDigest ? RowDigest() : nil }

    mutating func take(_ content: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp) -> Bool {
        var offset = 0
        if remaining > 0 {
            offset = min(remaining, content.count)
            remaining -= offset
            let rest = UnsafeRawBufferPointer(rebasing: content[..<offset])
            if !piece(rest, isFirst: false, lane, stamp) { return false }
        }
        guard head.isEmpty, let start = content.baseAddress else {
            return takePieces(content, from: offset, lane, stamp)
        }
        // Nearly all there is: messages that are whole.
        var place = start + offset
        let end = start + content.count
        while end - place >= FrameHeader.size {
            let length = FrameHeader.length(at: place)
            guard length >= 4, length < end - place else { break }
            let tag = place.load(as: UInt8.self)
            let body = UnsafeRawBufferPointer(start: place + FrameHeader.size, count: length - 4)
            place += length + 1
            if tag == BackendTag.commandComplete, let status = Self.onlyReady(place, end) {
                return complete(body, readyIn: status, lane, stamp)
            }
            if !whole(tag, body, lane, stamp) { return false }
        }
        return place == end || takePieces(content, from: place - start, lane, stamp)
    }

    /// - Returns: the status of a ReadyForQuery that is all there is at `place`.
    @inline(__always)
    private static func onlyReady(_ place: UnsafeRawPointer, _ end: UnsafeRawPointer) -> UInt8? {
        guard end - place == FrameHeader.size + 1, place.load(as: UInt8.self) == BackendTag.readyForQuery,
            FrameHeader.length(at: place) == 5
        else { return nil }
        return (place + FrameHeader.size).load(as: UInt8.self)
    }

    /// From a message on that is not whole.
    private mutating func takePieces(
        _ content: UnsafeRawBufferPointer, from start: Int, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        var offset = start
        while offset < content.count {
            let header: FrameHeader
            if head.isEmpty, let found = FrameHeader.parse(content, at: offset) {
                header = found
                offset += FrameHeader.size
            } else {
                let count = min(FrameHeader.size - head.count, content.count - offset)
                head.append(contentsOf: content[offset..<(offset + count)])
                offset += count
                guard let found = head.withUnsafeBytes({ FrameHeader.parse($0, at: 0) }) else { return true }
                head.removeAll(keepingCapacity: true)
                header = found
            }
            guard header.length >= 4 else { return false }
            tag = header.tag
            let size = Int(header.length) - 4
            let count = min(size, content.count - offset)
            remaining = size - count
            let body = UnsafeRawBufferPointer(rebasing: content[offset..<(offset + count)])
            offset += count
            if remaining == 0 {
                if !whole(tag, body, lane, stamp) { return false }
            } else if !piece(body, isFirst: true, lane, stamp) {
                return false
            }
        }
        return true
    }

    @inline(__always)
    private mutating func whole(
        _ tag: UInt8, _ body: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        switch tag {
        case BackendTag.dataRow, BackendTag.copyData:
            rows += 1
            bytes += UInt64(body.count)
            if digest != nil { digest?.add(row: body) }
            return true
        case BackendTag.parseComplete, BackendTag.bindComplete, BackendTag.closeComplete, BackendTag.noData,
            BackendTag.parameterDescription, BackendTag.rowDescription:
            answers += 1
            return true
        case BackendTag.readyForQuery: return ready(body, lane, stamp)
        case BackendTag.commandComplete: return complete(body, readyIn: nil, lane, stamp)
        default: return finish(tag, body, lane, stamp)
        }
    }

    /// A part of the present message's body, which did not come whole; the last one when nothing remains.
    private mutating func piece(
        _ body: UnsafeRawBufferPointer, isFirst: Bool, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        let isLast = remaining == 0
        switch tag {
        case BackendTag.dataRow, BackendTag.copyData:
            if isFirst { rows += 1 }
            bytes += UInt64(body.count)
            digest?.add(piece: body, isLast: isLast)
            return true
        case BackendTag.commandComplete, BackendTag.errorResponse, BackendTag.readyForQuery:
            // A part of it is enough.
            if kept.count < Self.keptMax { kept.append(contentsOf: body.prefix(Self.keptMax - kept.count)) }
            if !isLast { return true }
            let whole = kept
            kept = []
            return whole.withUnsafeBytes { finish(tag, $0, lane, stamp) }
        default:
            return isLast ? finish(tag, body, lane, stamp) : true
        }
    }

    @inline(never)
    private mutating func finish(
        _ tag: UInt8, _ body: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        switch tag {
        case BackendTag.readyForQuery: return ready(body, lane, stamp)
        case BackendTag.commandComplete: return complete(body, readyIn: nil, lane, stamp)
        case BackendTag.emptyQueryResponse: return answer(.empty, lane, stamp)
        case BackendTag.portalSuspended: return answer(.suspended, lane, stamp)
        case BackendTag.copyInResponse: return answer(.copyIn, lane, stamp)
        case BackendTag.copyOutResponse: return answer(.copyOut, lane, stamp)
        case BackendTag.functionCallResponse: return answer(.functionResult, lane, stamp)
        case BackendTag.errorResponse:
            answers += 1
            forgetRows()
            return lane.error(
                ErrorResponse.parse(body: UnsafeRawBufferPointer(rebasing: body.prefix(Self.keptMax))), stamp)
        case BackendTag.parseComplete, BackendTag.bindComplete, BackendTag.closeComplete, BackendTag.noData,
            BackendTag.parameterDescription, BackendTag.rowDescription:
            answers += 1
            return true
        default:
            return true
        }
    }

    private mutating func ready(_ body: UnsafeRawBufferPointer, _ lane: CaptureLane, _ stamp: RecordStamp) -> Bool {
        answers = 0
        forgetRows()
        return lane.ready(body.first ?? TransactionStatus.idle.rawValue, stamp)
    }

    private mutating func complete(
        _ body: UnsafeRawBufferPointer, readyIn status: UInt8?, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        // Without the zero at their end.
        let count = min(body.count - (body.last == 0 ? 1 : 0), Self.keptMax)
        let words = UnsafeRawBufferPointer(start: body.baseAddress, count: count)
        return answer(.complete, words: words, readyIn: status, lane, stamp)
    }

    private mutating func answer(
        _ kind: CapturedAnswer.Kind, words: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0),
        readyIn status: UInt8? = nil, _ lane: CaptureLane, _ stamp: RecordStamp
    ) -> Bool {
        answers = status == nil ? answers + 1 : 0
        let value = rows > 0 ? digest?.value : nil
        let isWritten = lane.answer(
            kind, rows: rows, bytes: bytes, digest: value, words: words, readyIn: status, stamp)
        forgetRows()
        return isWritten
    }

    private mutating func forgetRows() {
        rows = 0
        bytes = 0
        if digest != nil { digest?.reset() }
    }
}
