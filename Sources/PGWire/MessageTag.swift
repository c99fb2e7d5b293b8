/// The type bytes of messages from a client (protocol-message-formats, PROTOCOL-MESSAGE-FORMATS).
@usableFromInline @frozen package enum FrontendTag {
    @inlinable package static var bind: UInt8 { UInt8(ascii: "B") }
    @inlinable package static var close: UInt8 { UInt8(ascii: "C") }
    @inlinable package static var copyData: UInt8 { UInt8(ascii: "d") }
    @inlinable package static var copyDone: UInt8 { UInt8(ascii: "c") }
    @inlinable package static var copyFail: UInt8 { UInt8(ascii: "f") }
    @inlinable package static var describe: UInt8 { UInt8(ascii: "D") }
    @inlinable package static var execute: UInt8 { UInt8(ascii: "E") }
    @inlinable package static var flush: UInt8 { UInt8(ascii: "H") }
    @inlinable package static var functionCall: UInt8 { UInt8(ascii: "F") }
    @inlinable package static var parse: UInt8 { UInt8(ascii: "P") }
    /// PasswordMessage, SASLInitialResponse, SASLResponse: told apart by state.
    @inlinable package static var password: UInt8 { UInt8(ascii: "p") }
    @inlinable package static var query: UInt8 { UInt8(ascii: "Q") }
    @inlinable package static var sync: UInt8 { UInt8(ascii: "S") }
    @inlinable package static var terminate: UInt8 { UInt8(ascii: "X") }

    /// Data for a COPY FROM STDIN, or its end: outside of one the server ignores it (protocol-flow, PROTOCOL-COPY).
    @inlinable
    package static func isOfCopy(_ tag: UInt8) -> Bool { tag == copyData || tag == copyDone || tag == copyFail }

    /// The longest that a message of this type may be; nil for a type that the protocol does not have.
    @inlinable
    package static func lengthMax(of tag: UInt8) -> Int? {
        switch tag {
        case query, parse, bind, copyData, functionCall, copyFail: WireLimits.messageMax
        case execute, describe, close, copyDone, terminate: WireLimits.smallMessageMax
        // A Flush with more to it is an error to PostgreSQL, behind which it ignores what comes up to the next Sync.
        case sync, flush: 4
        case password: WireLimits.authenticationMessageMax
        default: nil
        }
    }
}

/// The type bytes of messages from a server.
@usableFromInline @frozen package enum BackendTag {
    @inlinable package static var authentication: UInt8 { UInt8(ascii: "R") }
    @inlinable package static var backendKeyData: UInt8 { UInt8(ascii: "K") }
    @inlinable package static var bindComplete: UInt8 { UInt8(ascii: "2") }
    @inlinable package static var closeComplete: UInt8 { UInt8(ascii: "3") }
    @inlinable package static var commandComplete: UInt8 { UInt8(ascii: "C") }
    @inlinable package static var copyBothResponse: UInt8 { UInt8(ascii: "W") }
    @inlinable package static var copyData: UInt8 { UInt8(ascii: "d") }
    @inlinable package static var copyDone: UInt8 { UInt8(ascii: "c") }
    @inlinable package static var copyInResponse: UInt8 { UInt8(ascii: "G") }
    @inlinable package static var copyOutResponse: UInt8 { UInt8(ascii: "H") }
    @inlinable package static var dataRow: UInt8 { UInt8(ascii: "D") }
    @inlinable package static var emptyQueryResponse: UInt8 { UInt8(ascii: "I") }
    @inlinable package static var errorResponse: UInt8 { UInt8(ascii: "E") }
    @inlinable package static var functionCallResponse: UInt8 { UInt8(ascii: "V") }
    @inlinable package static var negotiateProtocolVersion: UInt8 { UInt8(ascii: "v") }
    @inlinable package static var noData: UInt8 { UInt8(ascii: "n") }
    @inlinable package static var noticeResponse: UInt8 { UInt8(ascii: "N") }
    @inlinable package static var notificationResponse: UInt8 { UInt8(ascii: "A") }
    @inlinable package static var parameterDescription: UInt8 { UInt8(ascii: "t") }
    @inlinable package static var parameterStatus: UInt8 { UInt8(ascii: "S") }
    @inlinable package static var parseComplete: UInt8 { UInt8(ascii: "1") }
    @inlinable package static var portalSuspended: UInt8 { UInt8(ascii: "s") }
    @inlinable package static var readyForQuery: UInt8 { UInt8(ascii: "Z") }
    @inlinable package static var rowDescription: UInt8 { UInt8(ascii: "T") }
}

/// The byte in ReadyForQuery.
@usableFromInline @frozen package enum TransactionStatus: UInt8, Sendable {
    case idle = 0x49  // I
    case inTransaction = 0x54  // T
    case failed = 0x45  // E

    /// Spelled out: the one that comes with the raw type is generic, and called so from other modules.
    @inlinable package static func == (left: TransactionStatus, right: TransactionStatus) -> Bool {
        switch (left, right) {
        case (.idle, .idle), (.inTransaction, .inTransaction), (.failed, .failed): true
        default: false
        }
    }
}
