/// Every bound of the wire, in one place. What happens at each bound is said where it is checked.
@usableFromInline package enum WireLimits {
    /// Bytes of a startup packet, length field included (PostgreSQL's MAX_STARTUP_PACKET_LENGTH).
    @inlinable package static var startupPacketMax: Int { 10_000 }
    /// Bytes of a password or SASL message before authentication (PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH).
    @inlinable package static var authenticationMessageMax: Int { 65_535 }
    /// Bytes of any message's length field (PostgreSQL's PQ_LARGE_MESSAGE_LIMIT).
    @inlinable package static var messageMax: Int { 0x3FFF_FFFF }
    /// Bytes of messages without large contents: Sync, Flush, Terminate, Execute, Describe, Close.
    @inlinable package static var smallMessageMax: Int { 10_000 }
    /// Bytes that we read of a server's message before login is done.
    @inlinable package static var serverLoginMessageMax: Int { 65_535 }
}

/// What was wrong with bytes from a peer. Numbers, not sentences; `ErrorResponse` makes the sentence.
@usableFromInline @frozen package enum WireError: Error, Equatable, Sendable {
    /// A length field below the least or above the most that its message may have.
    case lengthOutOfRange(tag: UInt8, length: UInt32)
    /// A message type that is not in the protocol, or not in this state.
    case unexpectedMessage(tag: UInt8)
    /// A body that ends before its fields do, or goes on after them.
    case malformedBody(tag: UInt8)
    /// A protocol version that we do not speak.
    case unsupportedProtocol(major: UInt16, minor: UInt16)
    /// A startup packet that is not well formed.
    case malformedStartup
    /// A user's or database's name that is not UTF-8: repaired it would be another's.
    case nameNotUTF8
    /// A message of more bytes than the configuration lets through.
    case packetTooLong(length: UInt32)
}
