/// The five bytes that start every message but the startup packet. Immutable, any thread.
@usableFromInline @frozen package struct FrameHeader: Equatable, Sendable {
    @inlinable package static var size: Int { 5 }

    @usableFromInline package let tag: UInt8
    /// Bytes, counting the length field and not the type byte; at least 4.
    @usableFromInline package let length: UInt32

    /// Bytes of the whole message, type byte included.
    @inlinable package var frameSize: Int { Int(length) + 1 }

    @inlinable
    package init(tag: UInt8, length: UInt32) {
        self.tag = tag
        self.length = length
    }

    /// Reads a header at `offset`.
    ///
    /// - Returns: nil when fewer than five bytes are there; nothing is consumed.
    /// - Protocol: protocol-overview, PROTOCOL-MESSAGE-CONCEPTS. The length is not judged here: `isValid` does.
    @inlinable
    package static func parse(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> FrameHeader? {
        if bytes.count - offset < size { return nil }
        let length = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self))
        return FrameHeader(tag: bytes[offset], length: length)
    }

    /// The length in a header of which at least five bytes are there.
    @inlinable
    package static func length(at place: UnsafeRawPointer) -> Int {
        Int(UInt32(bigEndian: place.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
    }

    /// Whether a client may send this: a known type and a length that the type may have.
    ///
    /// - Parameter packetMax: bytes of a message that the configuration lets through.
    @inlinable
    package func frontendError(packetMax: Int = WireLimits.messageMax) -> WireError? {
        guard let most = FrontendTag.lengthMax(of: tag) else { return .unexpectedMessage(tag: tag) }
        if length < 4 || Int(length) > most { return .lengthOutOfRange(tag: tag, length: length) }
        if Int(length) > packetMax { return .packetTooLong(length: length) }
        return nil
    }

    /// Whether a server may send this: servers are not trusted with lengths either.
    @inlinable
    package func backendError(packetMax: Int = WireLimits.messageMax) -> WireError? {
        if length < 4 || Int(length) > WireLimits.messageMax { return .lengthOutOfRange(tag: tag, length: length) }
        return Int(length) > packetMax ? .packetTooLong(length: length) : nil
    }
}
