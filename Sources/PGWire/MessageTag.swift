/// The type bytes of messages from a client (protocol-message-formats, PROTOCOL-MESSAGE-FORMATS).
package enum FrontendTag {
    package static let bind = UInt8(ascii: "B")
    package static let close = UInt8(ascii: "C")
    package static let copyData = UInt8(ascii: "d")
    package static let copyDone = UInt8(ascii: "c")
    package static let copyFail = UInt8(ascii: "f")
    package static let describe = UInt8(ascii: "D")
    package static let execute = UInt8(ascii: "E")
    package static let flush = UInt8(ascii: "H")
    package static let functionCall = UInt8(ascii: "F")
    package static let parse = UInt8(ascii: "P")
    /// PasswordMessage, SASLInitialResponse, SASLResponse: told apart by state.
    package static let password = UInt8(ascii: "p")
    package static let query = UInt8(ascii: "Q")
    package static let sync = UInt8(ascii: "S")
    package static let terminate = UInt8(ascii: "X")

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
package enum BackendTag {
    package static let authentication = UInt8(ascii: "R")
    package static let backendKeyData = UInt8(ascii: "K")
    package static let bindComplete = UInt8(ascii: "2")
    package static let closeComplete = UInt8(ascii: "3")
    package static let commandComplete = UInt8(ascii: "C")
    package static let copyBothResponse = UInt8(ascii: "W")
    package static let copyData = UInt8(ascii: "d")
    package static let copyDone = UInt8(ascii: "c")
    package static let copyInResponse = UInt8(ascii: "G")
    package static let copyOutResponse = UInt8(ascii: "H")
    package static let dataRow = UInt8(ascii: "D")
    package static let emptyQueryResponse = UInt8(ascii: "I")
    package static let errorResponse = UInt8(ascii: "E")
    package static let functionCallResponse = UInt8(ascii: "V")
    package static let negotiateProtocolVersion = UInt8(ascii: "v")
    package static let noData = UInt8(ascii: "n")
    package static let noticeResponse = UInt8(ascii: "N")
    package static let notificationResponse = UInt8(ascii: "A")
    package static let parameterDescription = UInt8(ascii: "t")
    package static let parameterStatus = UInt8(ascii: "S")
    package static let parseComplete = UInt8(ascii: "1")
    package static let portalSuspended = UInt8(ascii: "s")
    package static let readyForQuery = UInt8(ascii: "Z")
    package static let rowDescription = UInt8(ascii: "T")
}

/// The byte in ReadyForQuery.
package enum TransactionStatus: UInt8, Sendable {
    case idle = 0x49  // I
    case inTransaction = 0x54  // T
    case failed = 0x45  // E
}
