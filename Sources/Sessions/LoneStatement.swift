import PGWire

/// A unit that is one statement in one of the forms that drivers send, whole and with nothing behind it: a Query;
/// Parse, Bind, Describe, Execute and Sync of the unnamed statement and portal; or the same without Parse. Describe is
/// optional. Of a pipeline, several statements of one form with one Sync behind them are such a unit as well. Pure;
/// lives no longer than the bytes.
package struct LoneStatement {
    package enum Form: UInt8, Sendable {
        case query
        /// The batch prepares the unnamed statement itself.
        case parsed
        /// The statement was prepared before.
        case bound
    }

    /// Statements of one unit; more are none.
    package static let countMax = 1000

    package let form: Form
    package let isDescribed: Bool
    /// Statements from this one to the Sync.
    package private(set) var count = 1
    /// Of Query or Parse, without its NUL.
    package let text: UnsafeRawBufferPointer
    /// Parse's body behind the name.
    package let parseBody: UnsafeRawBufferPointer
    /// The statement that Bind names.
    package let name: UnsafeRawBufferPointer
    /// Bind's body behind that name: formats and values.
    package let values: UnsafeRawBufferPointer
    /// Where Bind begins, the message behind it, and the one behind Execute.
    package let bindStart: Int
    package let bindEnd: Int
    package let executeEnd: Int

    /// Messages that the server answers.
    package static func replyCount(_ form: Form, isDescribed: Bool, count: Int = 1) -> Int {
        switch form {
        case .query: 1
        case .parsed: (isDescribed ? 4 : 3) * count + 1
        case .bound: (isDescribed ? 3 : 2) * count + 1
        }
    }

    private static var none: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

    /// A whole unit's first statement.
    ///
    /// - Parameter packetMax: bytes of a message that the configuration lets through.
    /// - Returns: nil: it is something else, not whole, or not as the protocol wants it.
    package init?(_ bytes: UnsafeRawBufferPointer, packetMax: Int = WireLimits.messageMax) {
        self.init(firstOf: bytes, packetMax: packetMax)
        if !findRest(in: bytes, packetMax: packetMax) { return nil }
    }

    /// The first statement, whatever comes behind it: most units that are none are told by it alone.
    package init?(firstOf bytes: UnsafeRawBufferPointer, packetMax: Int) { self.init(bytes, at: 0, packetMax) }

    /// Counts the statements of the unit.
    ///
    /// - Returns: false where the bytes are no such unit.
    package mutating func findRest(in bytes: UnsafeRawBufferPointer, packetMax: Int) -> Bool {
        if form == .query { return true }
        var end = executeEnd
        while let last = Self.frame(bytes, at: end, packetMax) {
            if last.tag == FrontendTag.sync { return end + last.frameSize == bytes.count }
            guard count < Self.countMax, let next = LoneStatement(bytes, at: end, packetMax), next.form == form,
                next.isDescribed == isDescribed
            else { return false }
            count += 1
            end = next.executeEnd
        }
        return false
    }

    /// The unit's next statement; nil: this is the last one.
    ///
    /// - Parameter bytes: those that the first was found in.
    package func next(in bytes: UnsafeRawBufferPointer) -> LoneStatement? {
        count > 1 ? LoneStatement(behind: self, bytes) : nil
    }

    /// All of the unit was looked at when its first was found, and has the first's form: nothing is asked again.
    private init(behind last: LoneStatement, _ bytes: UnsafeRawBufferPointer) {
        (form, isDescribed, count) = (last.form, last.isDescribed, last.count - 1)
        let start = last.executeEnd
        if form == .parsed {
            bindStart = start + Self.frameSize(bytes, at: start)
            // Behind the name, which is empty.
            parseBody = UnsafeRawBufferPointer(rebasing: bytes[start + FrameHeader.size + 1..<bindStart])
            var reader = BodyReader(parseBody)
            text = reader.cString() ?? Self.none
        } else {
            (bindStart, text, parseBody) = (start, Self.none, Self.none)
        }
        bindEnd = bindStart + Self.frameSize(bytes, at: bindStart)
        // The portal's name is empty.
        let body = UnsafeRawBufferPointer(rebasing: bytes[bindStart + FrameHeader.size + 1..<bindEnd])
        var reader = BodyReader(body)
        name = reader.cString() ?? Self.none
        values = reader.rest()
        executeEnd = bindEnd + (isDescribed ? Self.describeSize : 0) + Self.executeSize
    }

    /// Describe and Execute of the unnamed portal.
    private static let describeSize = 7
    private static let executeSize = 10

    @inline(__always)
    private static func frameSize(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int {
        1 + Int(bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self).bigEndian)
    }

    private init?(_ bytes: UnsafeRawBufferPointer, at start: Int, _ packetMax: Int) {
        guard let first = Self.frame(bytes, at: start, packetMax) else { return nil }
        var offset = start
        if first.tag == FrontendTag.query {
            var reader = BodyReader(bytes, offset: FrameHeader.size)
            guard start == 0, first.frameSize == bytes.count, let text = reader.cString(), reader.isAtEnd
            else { return nil }
            form = .query
            self.text = text
            (parseBody, name, values) = (Self.none, Self.none, Self.none)
            (isDescribed, bindStart, bindEnd, executeEnd) = (false, 0, 0, 0)
            return
        }
        if first.tag == FrontendTag.parse {
            offset += first.frameSize
            var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[start + FrameHeader.size..<offset]))
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
        bindStart = offset
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
            guard next.frameSize == Self.describeSize, bytes[offset + 5] == UInt8(ascii: "P"), bytes[offset + 6] == 0
            else { return nil }
            offset += next.frameSize
            guard let behind = Self.frame(bytes, at: offset, packetMax) else { return nil }
            next = behind
        }
        // All rows of the unnamed portal.
        guard next.tag == FrontendTag.execute, next.frameSize == Self.executeSize, bytes[offset + 5] == 0,
            bytes.loadUnaligned(fromByteOffset: offset + 6, as: UInt32.self) == 0
        else { return nil }
        executeEnd = offset + next.frameSize
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

/// The whole answer to a unit of lone statements that went well, ending outside of a transaction, and nothing else.
/// Anything that the answer may also hold (errors, notices, settings, COPY, several results of one) makes it none.
/// Pure.
package struct LoneAnswer {
    /// The last CommandComplete's body.
    package let tag: UnsafeRawBufferPointer

    package init?(
        _ bytes: UnsafeRawBufferPointer, to form: LoneStatement.Form, isDescribed: Bool, count: Int = 1,
        packetMax: Int = WireLimits.messageMax
    ) {
        var offset = 0
        for _ in 1..<count {
            guard Self.result(bytes, &offset, form, isDescribed, packetMax) != nil else { return nil }
        }
        guard let tag = Self.result(bytes, &offset, form, isDescribed, packetMax) else { return nil }
        // ReadyForQuery, length 5, idle.
        guard bytes.count - offset == 6, bytes[offset] == BackendTag.readyForQuery,
            bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self).bigEndian == 5,
            bytes[offset + 5] == TransactionStatus.idle.rawValue
        else { return nil }
        self.tag = tag
    }

    /// One statement's answer.
    ///
    /// - Returns: its CommandComplete's body; `offset` is behind it.
    @inline(__always)
    private static func result(
        _ bytes: UnsafeRawBufferPointer, _ offset: inout Int, _ form: LoneStatement.Form, _ isDescribed: Bool,
        _ packetMax: Int
    ) -> UnsafeRawBufferPointer? {
        if form == .parsed { guard isNext(BackendTag.parseComplete, bytes, &offset) else { return nil } }
        if form != .query { guard isNext(BackendTag.bindComplete, bytes, &offset) else { return nil } }
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
    @inline(__always)
    private static func isNext(_ tag: UInt8, _ bytes: UnsafeRawBufferPointer, _ offset: inout Int) -> Bool {
        guard let header = FrameHeader.parse(bytes, at: offset), header.tag == tag, header.length == 4
        else { return false }
        offset += header.frameSize
        return true
    }
}
