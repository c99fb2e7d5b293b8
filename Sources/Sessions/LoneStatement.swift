import PGWire

/// A unit that is one statement in one of the forms that drivers send, whole and with nothing behind it: a Query;
/// Parse, Bind, Describe, Execute and Sync of the unnamed statement and portal; or the same without Parse. Describe is
/// optional. Pure; lives no longer than the bytes.
package struct LoneStatement {
    package enum Form: UInt8, Sendable {
        case query
        /// The batch prepares the unnamed statement itself.
        case parsed
        /// The statement was prepared before.
        case bound
    }

    package let form: Form
    package let isDescribed: Bool
    /// Of Query or Parse, without its NUL.
    package let text: UnsafeRawBufferPointer
    /// Parse's body behind the name.
    package let parseBody: UnsafeRawBufferPointer
    /// The statement that Bind names.
    package let name: UnsafeRawBufferPointer
    /// Bind's body behind that name: formats and values.
    package let values: UnsafeRawBufferPointer
    /// Where the message behind Bind begins, and the one behind Execute.
    package let bindEnd: Int
    package let executeEnd: Int

    /// Messages that the server answers.
    package static func replyCount(_ form: Form, isDescribed: Bool) -> Int {
        switch form {
        case .query: 1
        case .parsed: isDescribed ? 5 : 4
        case .bound: isDescribed ? 4 : 3
        }
    }

    private static var none: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// - Parameter packetMax: bytes of a message that the configuration lets through.
    /// - Returns: nil: it is something else, not whole, or not as the protocol wants it.
    package init?(_ bytes: UnsafeRawBufferPointer, packetMax: Int = WireLimits.messageMax) {
        guard let first = Self.frame(bytes, at: 0, packetMax) else { return nil }
        if first.tag == FrontendTag.query {
            var reader = BodyReader(bytes, offset: FrameHeader.size)
            guard first.frameSize == bytes.count, let text = reader.cString(), reader.isAtEnd else { return nil }
            form = .query
            self.text = text
            (parseBody, name, values) = (Self.none, Self.none, Self.none)
            (isDescribed, bindEnd, executeEnd) = (false, 0, 0)
            return
        }
        var offset = 0
        if first.tag == FrontendTag.parse {
            offset = first.frameSize
            var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size..<offset]))
            guard reader.cString()?.isEmpty == true else { return nil }
            parseBody = reader.rest()
            var parsed = BodyReader(parseBody)
            guard let text = parsed.cString() else { return nil }
            self.text = text
            form = .parsed
        } else {
            (text, parseBody, form) = (Self.none, Self.none, .bound)
        }
        guard let bind = Self.frame(bytes, at: offset, packetMax), bind.tag == FrontendTag.bind else { return nil }
        bindEnd = offset + bind.frameSize
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[offset + FrameHeader.size..<bindEnd]))
        guard reader.cString()?.isEmpty == true, let name = reader.cString(), form == .bound || name.isEmpty
        else { return nil }
        self.name = name
        values = reader.rest()
        offset = bindEnd
        guard var next = Self.frame(bytes, at: offset, packetMax) else { return nil }
        isDescribed = next.tag == FrontendTag.describe
        if isDescribed {
            guard next.frameSize == 7, bytes[offset + 5] == UInt8(ascii: "P"), bytes[offset + 6] == 0
            else { return nil }
            offset += next.frameSize
            guard let behind = Self.frame(bytes, at: offset, packetMax) else { return nil }
            next = behind
        }
        // All rows of the unnamed portal.
        guard next.tag == FrontendTag.execute, next.frameSize == 10, bytes[offset + 5] == 0,
            bytes.loadUnaligned(fromByteOffset: offset + 6, as: UInt32.self) == 0
        else { return nil }
        executeEnd = offset + next.frameSize
        guard let last = Self.frame(bytes, at: executeEnd, packetMax), last.tag == FrontendTag.sync,
            executeEnd + last.frameSize == bytes.count
        else { return nil }
    }

    /// A whole message that a client may send.
    @inline(__always)
    private static func frame(_ bytes: UnsafeRawBufferPointer, at offset: Int, _ packetMax: Int) -> FrameHeader? {
        guard let header = FrameHeader.parse(bytes, at: offset), header.frontendError(packetMax: packetMax) == nil,
            offset + header.frameSize <= bytes.count
        else { return nil }
        return header
    }
}

/// The whole answer to a lone statement that went well, ending outside of a transaction, and nothing else.
/// Anything that the answer may also hold (errors, notices, settings, COPY, several results) makes it none. Pure.
package struct LoneAnswer {
    /// CommandComplete's body.
    package let tag: UnsafeRawBufferPointer

    package init?(
        _ bytes: UnsafeRawBufferPointer, to form: LoneStatement.Form, isDescribed: Bool,
        packetMax: Int = WireLimits.messageMax
    ) {
        var offset = 0
        if form == .parsed { guard Self.isNext(BackendTag.parseComplete, bytes, &offset) else { return nil } }
        if form != .query { guard Self.isNext(BackendTag.bindComplete, bytes, &offset) else { return nil } }
        var isDescriptionDue = form == .query || isDescribed
        while let header = FrameHeader.parse(bytes, at: offset) {
            let end = offset + header.frameSize
            guard header.backendError(packetMax: packetMax) == nil, end <= bytes.count else { return nil }
            switch header.tag {
            case BackendTag.dataRow:
                if isDescriptionDue { return nil }
            case BackendTag.rowDescription:
                if !isDescriptionDue { return nil }
                isDescriptionDue = false
            case BackendTag.commandComplete:
                // ReadyForQuery, length 5, idle.
                guard !isDescriptionDue, bytes.count - end == 6, bytes[end] == BackendTag.readyForQuery,
                    bytes.loadUnaligned(fromByteOffset: end + 1, as: UInt32.self).bigEndian == 5,
                    bytes[end + 5] == TransactionStatus.idle.rawValue
                else { return nil }
                tag = UnsafeRawBufferPointer(rebasing: bytes[offset + FrameHeader.size..<end])
                return
            default:
                return nil
            }
            offset = end
        }
        return nil
    }

    /// A message without a body.
    @inline(__always)
    private static func isNext(_ tag: UInt8, _ bytes: UnsafeRawBufferPointer, _ offset: inout Int) -> Bool {
        guard let header = FrameHeader.parse(bytes, at: offset), header.tag == tag, header.length == 4
        else { return false }
        offset += header.frameSize
        return true
    }
}
