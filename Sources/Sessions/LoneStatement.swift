import Glibc
import PGWire

/// A unit that is one statement in one of the forms that drivers send, whole and with nothing behind it: a Query;
/// Parse, Bind, Describe, Execute and Sync of the unnamed statement and portal; or the same without Parse. Describe is
/// optional. Of a pipeline, several statements of one form with one Sync behind them are such a unit as well. Pure;
/// lives no longer than the bytes.
@usableFromInline @frozen package struct LoneStatement {
    @usableFromInline @frozen package enum Form: UInt8, Sendable {
        case query
        /// The batch prepares the unnamed statement itself.
        case parsed
        /// The statement was prepared before.
        case bound

        /// Spelled out, both: those that come with the raw type are generic, and called so from other modules.
        @inlinable package static func == (left: Form, right: Form) -> Bool { left.rawValue == right.rawValue }
        @inlinable package static func != (left: Form, right: Form) -> Bool { left.rawValue != right.rawValue }
    }

    /// Statements of one unit; more are none.
    package static let countMax = 1000

    @usableFromInline package let form: Form
    @usableFromInline package let isDescribed: Bool
    /// Of Query or Parse, without its NUL.
    @usableFromInline package let text: UnsafeRawBufferPointer
    /// Parse's body behind the name.
    @usableFromInline package let parseBody: UnsafeRawBufferPointer
    /// The statement that Bind names.
    @usableFromInline package let name: UnsafeRawBufferPointer
    /// Bind's body behind that name: formats and values.
    @usableFromInline package let values: UnsafeRawBufferPointer
    /// Where Bind begins, the message behind it, and the one behind Execute.
    @usableFromInline package let bindStart: Int
    @usableFromInline package let bindEnd: Int
    @usableFromInline package let executeEnd: Int

    /// Messages that the server answers.
    @inlinable package static func replyCount(_ form: Form, isDescribed: Bool, count: Int = 1) -> Int {
        switch form {
        case .query: 1
        case .parsed: (isDescribed ? 4 : 3) * count + 1
        case .bound: (isDescribed ? 3 : 2) * count + 1
        }
    }

    @inlinable static var none: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// A whole unit's first statement.
    ///
    /// - Parameters:
    ///   - packetMax: bytes of a message that the configuration lets through.
    ///   - rest: gets the statements behind it.
    /// - Returns: nil: it is something else, not whole, or not as the protocol wants it.
    package init?(
        _ bytes: UnsafeRawBufferPointer, packetMax: Int = WireLimits.messageMax, rest: inout [LoneStatement]
    ) {
        self.init(firstOf: bytes, packetMax: packetMax)
        if !findRest(in: bytes, packetMax: packetMax, &rest) { return nil }
    }

    /// The first statement, whatever comes behind it: most units that are none are told by it alone.
    @inlinable @inline(__always) package init?(firstOf bytes: UnsafeRawBufferPointer, packetMax: Int) {
        guard let first = FrameHeader.parse(bytes, at: 0) else { return nil }
        if first.tag == FrontendTag.query {
            self.init(query: bytes, first, packetMax)
        } else {
            self.init(bytes, at: 0, first, packetMax)
        }
    }

    @inlinable @inline(__always)
    init?(query bytes: UnsafeRawBufferPointer, _ header: FrameHeader, _ packetMax: Int) {
        let body = UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size...])
        // unsafe: memchr looks at the body only. Its one NUL is at its end.
        guard header.length > 4, Int(header.length) <= min(packetMax, WireLimits.messageMax),
            header.frameSize == bytes.count, let base = body.baseAddress, let end = memchr(base, 0, body.count),
            UnsafeRawPointer(end) - base == body.count - 1
        else { return nil }
        form = .query
        text = UnsafeRawBufferPointer(rebasing: body[..<(body.count - 1)])
        (parseBody, name, values) = (Self.none, Self.none, Self.none)
        (isDescribed, bindStart, bindEnd, executeEnd) = (false, 0, 0, 0)
    }

    /// Nothing is behind it but the Sync that it may need.
    @inlinable package func isWhole(of bytes: UnsafeRawBufferPointer) -> Bool {
        if form == .query { return true }
        guard let header = FrameHeader.parse(bytes, at: executeEnd), header.tag == FrontendTag.sync
        else { return false }
        return header.length == 4 && executeEnd + header.frameSize == bytes.count
    }

    /// Finds the statements of the unit behind this one, its first.
    ///
    /// - Parameter rest: gets them; it is empty before.
    /// - Returns: false where the bytes are no such unit.
    package func findRest(
        in bytes: UnsafeRawBufferPointer, packetMax: Int, _ rest: inout [LoneStatement]
    ) -> Bool {
        if form == .query { return true }
        var end = executeEnd
        while let header = FrameHeader.parse(bytes, at: end) {
            if header.tag == FrontendTag.sync { return header.length == 4 && end + header.frameSize == bytes.count }
            guard rest.count < Self.countMax - 1, let next = LoneStatement(bytes, at: end, header, packetMax),
                next.form == form, next.isDescribed == isDescribed
            else { return false }
            rest.append(next)
            end = next.executeEnd
        }
        return false
    }

    /// It parses the same text with the same types, or binds the statement of the same name.
    package func isOfSameStatement(as other: LoneStatement) -> Bool {
        form == .parsed ? parseBody.hasSameBytes(as: other.parseBody) : name.hasSameBytes(as: other.name)
    }

    /// Its Parse names a type of its server's own.
    package var namesOwnTypes: Bool {
        ParameterTypes(BodyReader(UnsafeRawBufferPointer(rebasing: parseBody[(text.count + 1)...]))).hasOwn
    }

    /// Describe and Execute of the unnamed portal.
    private static let describeSize = 7
    private static let executeSize = 10

    /// In the extended protocol.
    @usableFromInline
    init?(_ bytes: UnsafeRawBufferPointer, at start: Int, _ first: FrameHeader, _ packetMax: Int) {
        var offset = start
        if first.tag == FrontendTag.parse {
            // Its name is empty.
            guard Self.isWhole(first, bytes, at: start, packetMax), first.length > 4,
                bytes[start + FrameHeader.size] == 0
            else { return nil }
            offset += first.frameSize
            parseBody = UnsafeRawBufferPointer(rebasing: bytes[(start + FrameHeader.size + 1)..<offset])
            var parsed = BodyReader(parseBody)
            guard let text = parsed.cString() else { return nil }
            self.text = text
            form = .parsed
        } else {
            (text, parseBody, form) = (Self.none, Self.none, .bound)
        }
        // So is the name of Bind's portal.
        guard let bind = FrameHeader.parse(bytes, at: offset), bind.tag == FrontendTag.bind,
            Self.isWhole(bind, bytes, at: offset, packetMax), bind.length > 4, bytes[offset + FrameHeader.size] == 0
        else { return nil }
        bindStart = offset
        bindEnd = offset + bind.frameSize
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[(offset + FrameHeader.size + 1)..<bindEnd]))
        guard let name = reader.cString(), form == .bound || name.isEmpty else { return nil }
        self.name = name
        values = reader.rest()
        offset = bindEnd
        isDescribed = offset < bytes.count && bytes[offset] == FrontendTag.describe
        if isDescribed {
            guard Self.isWhole(Self.describeSize, bytes, at: offset, packetMax),
                bytes[offset + 5] == UInt8(ascii: "P"), bytes[offset + 6] == 0
            else { return nil }
            offset += Self.describeSize
        }
        // All rows of the unnamed portal.
        guard Self.isWhole(Self.executeSize, bytes, at: offset, packetMax), bytes[offset] == FrontendTag.execute,
            bytes[offset + 5] == 0, bytes.loadUnaligned(fromByteOffset: offset + 6, as: UInt32.self) == 0
        else { return nil }
        executeEnd = offset + Self.executeSize
    }

    /// Query, Parse or Bind, of a length that a client may send.
    @inline(__always)
    private static func isWhole(
        _ header: FrameHeader, _ bytes: UnsafeRawBufferPointer, at offset: Int, _ packetMax: Int
    ) -> Bool {
        header.length >= 4 && Int(header.length) <= min(packetMax, WireLimits.messageMax)
            && offset + header.frameSize <= bytes.count
    }

    /// A message of just that size.
    @inline(__always)
    private static func isWhole(
        _ size: Int, _ bytes: UnsafeRawBufferPointer, at offset: Int, _ packetMax: Int
    ) -> Bool {
        offset + size <= bytes.count && size - 1 <= packetMax
            && bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self).bigEndian == UInt32(size - 1)
    }
}

/// The whole answer to a unit of lone statements that went well, ending outside of a transaction, and nothing else.
/// Anything that the answer may also hold (errors, notices, settings, COPY, several results of one) makes it none.
/// Pure.
@usableFromInline @frozen package struct LoneAnswer {
    /// The last CommandComplete's body.
    @usableFromInline package let tag: UnsafeRawBufferPointer

    @inlinable @inline(__always) package init?(
        _ bytes: UnsafeRawBufferPointer, to form: LoneStatement.Form, isDescribed: Bool, count: Int = 1,
        packetMax: Int = WireLimits.messageMax
    ) {
        var offset = 0
        if count > 1, !Self.results(bytes, &offset, form, isDescribed, packetMax, count: count - 1) { return nil }
        guard let tag = Self.result(bytes, &offset, form, isDescribed, packetMax) else { return nil }
        // ReadyForQuery, length 5, idle.
        guard bytes.count - offset == 6, bytes[offset] == BackendTag.readyForQuery,
            bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self).bigEndian == 5,
            bytes[offset + 5] == TransactionStatus.idle.rawValue
        else { return nil }
        self.tag = tag
    }

    /// Those of so many statements of a pipeline.
    @usableFromInline static func results(
        _ bytes: UnsafeRawBufferPointer, _ offset: inout Int, _ form: LoneStatement.Form, _ isDescribed: Bool,
        _ packetMax: Int, count: Int
    ) -> Bool {
        for _ in 0..<count {
            guard result(bytes, &offset, form, isDescribed, packetMax) != nil else { return false }
        }
        return true
    }

    /// One statement's answer.
    ///
    /// - Returns: its CommandComplete's body; `offset` is behind it.
    @inlinable @inline(__always)
    static func result(
        _ bytes: UnsafeRawBufferPointer, _ offset: inout Int, _ form: LoneStatement.Form, _ isDescribed: Bool,
        _ packetMax: Int
    ) -> UnsafeRawBufferPointer? {
        if form == .parsed { guard isNext(BackendTag.parseComplete, bytes, &offset) else { return nil } }
        if form != .query { guard isNext(BackendTag.bindComplete, bytes, &offset) else { return nil } }
        var isDescriptionDue = form == .query || isDescribed
        let lengthMax = min(packetMax, WireLimits.messageMax)
        while let header = FrameHeader.parse(bytes, at: offset) {
            let end = offset + header.frameSize
            guard header.length >= 4, Int(header.length) <= lengthMax, end <= bytes.count else { return nil }
            switch header.tag {
            case BackendTag.dataRow:
                if isDescriptionDue { return nil }
            case BackendTag.rowDescription:
                if !isDescriptionDue { return nil }
                isDescriptionDue = false
            case BackendTag.commandComplete:
                if isDescriptionDue { return nil }
                let tag = UnsafeRawBufferPointer(rebasing: bytes[offset + FrameHeader.size..<end])
                offset = end
                return tag
            default:
                return nil
            }
            offset = end
        }
        return nil
    }

    /// A message without a body.
    @inlinable @inline(__always)
    static func isNext(_ tag: UInt8, _ bytes: UnsafeRawBufferPointer, _ offset: inout Int) -> Bool {
        guard let header = FrameHeader.parse(bytes, at: offset), header.tag == tag, header.length == 4
        else { return false }
        offset += header.frameSize
        return true
    }
}
