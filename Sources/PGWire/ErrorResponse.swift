/// A five-character SQLSTATE (errcodes-appendix). Immutable, any thread.
package struct SQLState: Hashable, Sendable, CustomStringConvertible {
    package let code: String

    package init(_ code: String) { self.code = code }

    package var description: String { code }

    package static let connectionFailure = SQLState("08006")
    package static let cannotConnect = SQLState("08001")
    package static let protocolViolation = SQLState("08P01")
    package static let featureNotSupported = SQLState("0A000")
    package static let readOnlyTransaction = SQLState("25006")
    package static let characterNotInRepertoire = SQLState("22021")
    package static let invalidAuthorization = SQLState("28000")
    package static let invalidPassword = SQLState("28P01")
    package static let undefinedDatabase = SQLState("3D000")
    package static let syntaxError = SQLState("42601")
    package static let insufficientPrivilege = SQLState("42501")
    package static let tooManyConnections = SQLState("53300")
    package static let configurationLimitExceeded = SQLState("53400")
    package static let invalidParameterValue = SQLState("22023")
    package static let programLimitExceeded = SQLState("54000")
    package static let transactionTimeout = SQLState("25P04")
    package static let idleSessionTimeout = SQLState("57P05")
    package static let adminShutdown = SQLState("57P01")
    package static let cannotConnectNow = SQLState("57P03")
    package static let idleTransactionTimeout = SQLState("25P03")
    package static let queryCanceled = SQLState("57014")
    package static let undefinedColumn = SQLState("42703")
    package static let invalidStatementName = SQLState("26000")

    /// Whether a failure of this state is the server's own, so that a read may be run again on the other side.
    /// 08xxx connection (but 08P01, which is of what the client has sent, as a Bind with too few values), 53xxx
    /// resources, 57P01-03 shutdown and startup, 58xxx the system below it, XX001 and XX002
    /// broken data, 25006 read-only (a write hidden in a read).
    package var isServersOwn: Bool {
        code.hasPrefix("08") && self != .protocolViolation || code.hasPrefix("53") || self == .readOnlyTransaction
            || code == "57P01" || code == "57P02" || code == "57P03" || code.hasPrefix("58") || code == "XX001"
            || code == "XX002"
    }

    /// A time that the session itself, or its role, may be idle or in a transaction is over: it ends the connection and
    /// tells nothing of the server.
    package var isOfTimeLimit: Bool {
        self == .idleTransactionTimeout || self == .idleSessionTimeout || self == .transactionTimeout
    }
}

/// ErrorResponse and NoticeResponse (PROTOCOL-ERROR-FIELDS). Immutable, any thread.
package struct ErrorResponse: Equatable, Sendable, Error {
    package enum Severity: String, Sendable { case error = "ERROR", fatal = "FATAL", notice = "NOTICE" }

    package var severity: Severity
    package var state: SQLState
    package var message: String
    package var detail: String?
    package var hint: String?
    /// Read, and not written: PostgreSQL has refused a prepared statement because its result is of another type now.
    package private(set) var isOfChangedResult = false

    package init(
        _ severity: Severity, _ state: SQLState, _ message: String, detail: String? = nil, hint: String? = nil
    ) {
        self.severity = severity
        self.state = state
        self.message = message
        self.detail = detail
        self.hint = hint
    }

    /// Of a connection that has ended on its client's behalf: time limits are told as PostgreSQL tells them.
    package static func ofLost(
        _ severity: Severity, because error: ErrorResponse, detail: String? = nil
    ) -> ErrorResponse {
        if error.state.isOfTimeLimit { return ErrorResponse(severity, error.state, error.message) }
        return ErrorResponse(
            severity, .connectionFailure, "the connection to the database was lost: \(error.message)",
            detail: detail)
    }

    /// Reads the body of an ErrorResponse; a peer may leave any field out, SQLSTATE too (then it is XX000).
    package static func parse(body: UnsafeRawBufferPointer) -> ErrorResponse {
        var result = ErrorResponse(.error, SQLState("XX000"), "")
        var reader = BodyReader(body)
        while let field = reader.byte(), field != 0, let text = reader.cString() {
            switch field {
            // S is in the server's language, V is not but came with PostgreSQL 9.6.
            case UInt8(ascii: "S"), UInt8(ascii: "V"):
                if text.elementsEqual("FATAL".utf8) || text.elementsEqual("PANIC".utf8) { result.severity = .fatal }
            // Anything else is no state: repaired to UTF-8 it would be of another length.
            case UInt8(ascii: "C") where text.count == 5 && text.allSatisfy { $0 > 0x20 && $0 < 0x7F }:
                result.state = SQLState(String(wire: text))
            case UInt8(ascii: "M"): result.message = String(wire: text)
            case UInt8(ascii: "D"): result.detail = String(wire: text)
            case UInt8(ascii: "H"): result.hint = String(wire: text)
            // The message is in the server's language.
            case UInt8(ascii: "R") where result.state == .featureNotSupported:
                result.isOfChangedResult = text.elementsEqual("RevalidateCachedQuery".utf8)
            default: break
            }
        }
        return result
    }

    package func write(to writer: inout MessageWriter) {
        writer.message(severity == .notice ? BackendTag.noticeResponse : BackendTag.errorResponse) { body in
            func field(_ code: Character, _ text: String) {
                body.byte(code.asciiValue ?? 0)
                body.cString(text)
            }
            field("S", severity.rawValue)
            field("V", severity.rawValue)
            field("C", state.code)
            field("M", message)
            if let detail { field("D", detail) }
            if let hint { field("H", hint) }
            body.byte(0)
        }
    }

    package var encoded: [UInt8] {
        var writer = MessageWriter()
        write(to: &writer)
        return writer.bytes
    }
}
