import PGWire

/// One whole message of a client within a buffer.
package struct FrontendFrame: Equatable, Sendable {
    package let tag: UInt8
    /// Offset of the type byte, and of the first byte behind the message.
    package let start: Int
    package let end: Int

    package var bodyStart: Int { start + FrameHeader.size }

    package init(tag: UInt8, start: Int, end: Int) {
        self.tag = tag
        self.start = start
        self.end = end
    }
}

/// Finds the end of a unit (a simple query, or an extended batch up to Sync or Flush) in what a client without a
/// server has sent so far. Pure; goes on where it stopped when more bytes have come.
package struct UnitScanner {
    package enum Progress: Equatable {
        /// All bytes were looked at and the unit is not whole.
        case needsMore
        case simple(end: Int)
        case extended(end: Int, endsWithSync: Bool)
        case functionCall(end: Int)
        /// A message left over from a COPY that failed, which the server would ignore too (protocol-flow,
        /// PROTOCOL-COPY). It may end behind the bytes: the rest of it is nobody's either.
        case stray(end: Int)
        case terminate
        case violation(WireError)
    }

    /// Where the next message starts.
    package private(set) var offset = 0
    /// Messages of an extended batch seen so far.
    package private(set) var batchCount = 0

    package var isAtStart: Bool { offset == 0 && batchCount == 0 }

    private let packetMax: Int

    /// - Parameter packetMax: bytes of a message that the configuration lets through.
    package init(packetMax: Int = WireLimits.messageMax) { self.packetMax = packetMax }

    package mutating func scan(_ bytes: UnsafeRawBufferPointer, _ visit: (FrontendFrame) -> Void) -> Progress {
        while let header = FrameHeader.parse(bytes, at: offset) {
            if let error = header.frontendError(packetMax: packetMax) { return .violation(error) }
            let frame = FrontendFrame(tag: header.tag, start: offset, end: offset + header.frameSize)
            if offset == 0 && FrontendTag.isOfCopy(frame.tag) { return .stray(end: frame.end) }
            if frame.end > bytes.count { return .needsMore }
            switch header.tag {
            case FrontendTag.query, FrontendTag.functionCall:
                // Behind an unfinished batch it would belong to that batch's implicit transaction.
                if batchCount > 0 { return .extended(end: offset, endsWithSync: false) }
                visit(frame)
                offset = frame.end
                return header.tag == FrontendTag.query ? .simple(end: offset) : .functionCall(end: offset)
            case FrontendTag.terminate:
                return batchCount > 0 ? .extended(end: offset, endsWithSync: false) : .terminate
            case FrontendTag.parse, FrontendTag.bind, FrontendTag.describe, FrontendTag.execute, FrontendTag.close:
                visit(frame)
                batchCount += 1
                offset = frame.end
            case FrontendTag.sync:
                visit(frame)
                batchCount += 1
                offset = frame.end
                return .extended(end: offset, endsWithSync: true)
            case FrontendTag.flush:
                offset = frame.end
                if batchCount == 0 { continue }
                visit(frame)
                return .extended(end: offset, endsWithSync: false)
            case FrontendTag.copyData, FrontendTag.copyDone, FrontendTag.copyFail:
                // Stray as well: the server has them with the rest of the unit.
                offset = frame.end
            default:
                return .violation(.unexpectedMessage(tag: header.tag))
            }
        }
        return .needsMore
    }
}
