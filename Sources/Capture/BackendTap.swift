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

    mutating func take(_ content: UnsafeRawBufferPointer, _ tap: borrowing TapContext) -> Bool {
        var offset = 0
        if remaining > 0 {
            offset = min(remaining, content.count)
            remaining -= offset
            if !piece(UnsafeRawBufferPointer(rebasing: content[..<offset]), isFirst: false, tap) { return false }
        }
        if head.isEmpty {
            // Nearly all there is: messages that are whole.
            while let header = FrameHeader.parse(content, at: offset), header.length >= 4,
                content.count - offset >= header.frameSize
            {
                let body = UnsafeRawBufferPointer(
                    rebasing: content[(offset + FrameHeader.size)..<(offset + header.frameSize)])
                offset += header.frameSize
                if header.tag == BackendTag.commandComplete, let status = Self.onlyReady(content, from: offset) {
                    return complete(body, readyIn: status, tap)
                }
                if !whole(header.tag, body, tap) { return false }
            }
        }
        return takePieces(content, from: offset, tap)
    }

    /// - Returns: the status of a ReadyForQuery that is all there is behind `offset`.
    @inline(__always)
    private static func onlyReady(_ content: UnsafeRawBufferPointer, from offset: Int) -> UInt8? {
        guard content.count - offset == FrameHeader.size + 1, let header = FrameHeader.parse(content, at: offset),
            header.tag == BackendTag.readyForQuery, header.frameSize == FrameHeader.size + 1
        else { return nil }
        return content[offset + FrameHeader.size]
    }

    /// From a message on that is not whole.
    private mutating func takePieces(
        _ content: UnsafeRawBufferPointer, from start: Int, _ tap: borrowing TapContext
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
                if !whole(tag, body, tap) { return false }
            } else if !piece(body, isFirst: true, tap) {
                return false
            }
        }
        return true
    }

    @inline(__always)
    private mutating func whole(
        _ tag: UInt8, _ body: UnsafeRawBufferPointer, _ tap: borrowing TapContext
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
        case BackendTag.readyForQuery: return ready(body, tap)
        case BackendTag.commandComplete: return complete(body, readyIn: nil, tap)
        default: return finish(tag, body, tap)
        }
    }

    /// A part of the present message's body, which did not come whole; the last one when nothing remains.
    private mutating func piece(
        _ body: UnsafeRawBufferPointer, isFirst: Bool, _ tap: borrowing TapContext
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
            return whole.withUnsafeBytes { finish(tag, $0, tap) }
        default:
            return isLast ? finish(tag, body, tap) : true
        }
    }

    @inline(never)
    private mutating func finish(
        _ tag: UInt8, _ body: UnsafeRawBufferPointer, _ tap: borrowing TapContext
    ) -> Bool {
        switch tag {
        case BackendTag.readyForQuery: return ready(body, tap)
        case BackendTag.commandComplete: return complete(body, readyIn: nil, tap)
        case BackendTag.emptyQueryResponse: return answer(.empty, tap)
        case BackendTag.portalSuspended: return answer(.suspended, tap)
        case BackendTag.copyInResponse: return answer(.copyIn, tap)
        case BackendTag.copyOutResponse: return answer(.copyOut, tap)
        case BackendTag.functionCallResponse: return answer(.functionResult, tap)
        case BackendTag.errorResponse:
            answers += 1
            forgetRows()
            return tap.error(ErrorResponse.parse(body: UnsafeRawBufferPointer(rebasing: body.prefix(Self.keptMax))))
        case BackendTag.parseComplete, BackendTag.bindComplete, BackendTag.closeComplete, BackendTag.noData,
            BackendTag.parameterDescription, BackendTag.rowDescription:
            answers += 1
            return true
        default:
            return true
        }
    }

    private mutating func ready(_ body: UnsafeRawBufferPointer, _ tap: borrowing TapContext) -> Bool {
        answers = 0
        forgetRows()
        return tap.ready(body.first ?? TransactionStatus.idle.rawValue)
    }

    private mutating func complete(
        _ body: UnsafeRawBufferPointer, readyIn status: UInt8?, _ tap: borrowing TapContext
    ) -> Bool {
        let kept = body.count > Self.keptMax ? UnsafeRawBufferPointer(rebasing: body.prefix(Self.keptMax)) : body
        var reader = BodyReader(kept)
        return answer(.complete, words: reader.cString() ?? kept, readyIn: status, tap)
    }

    private mutating func answer(
        _ kind: CapturedAnswer.Kind, words: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0),
        readyIn status: UInt8? = nil, _ tap: borrowing TapContext
    ) -> Bool {
        answers = status == nil ? answers + 1 : 0
        let value = rows > 0 ? digest?.value : nil
        let isWritten = tap.answer(kind, rows: rows, bytes: bytes, digest: value, words: words, readyIn: status)
        forgetRows()
        return isWritten
    }

    private mutating func forgetRows() {
        rows = 0
        bytes = 0
        if digest != nil { digest?.reset() }
    }
}
