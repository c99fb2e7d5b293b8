import PGWire
import SQLAnalysis
import Sessions

/// What is known of a client's open transaction on the authority where DDL runs on both sides (`mirror.ddl: barrier`).
/// The client's own server runs it here; the other side's half is the control plane's. Used on its reactor's thread.
///
/// The control plane is asked before each DDL, which the other side has to take first, and before whatever may commit.
/// Nothing else keeps the two halves together: what may end the transaction never passes unasked.
final class FollowedTransaction {
    enum State {
        /// The other side has nothing of it.
        case untouched
        case open
        /// What may commit is on its way to the server, and nothing behind it.
        case mayCommit
    }

    enum Question { case statement, commit, end }

    /// What an Execute of it runs; only of statements that matter.
    struct Portal {
        var analysis: AnalysedStatement
        var text: String?
        var mayHaveBorder: Bool
    }

    /// Portals of statements that matter that one transaction may bind.
    static let portalsMax = 1024

    /// Tells it from other transactions of the client.
    let change: UInt64
    var state = State.untouched
    /// Statements that the other side has of it.
    var standing = 0
    /// What the control plane has not answered yet.
    var question: Question?
    /// The message at the front of the input may go to the server.
    var isGranted = false
    /// The message at the front of the input must not.
    var isRefused = false
    /// What the client is told where a message of ours fails in its message's place.
    var refusal: ErrorResponse?
    var portals: [[UInt8]: Portal] = [:]
    /// The batch that is being sent has begun or ended a transaction: whether one is open behind that.
    var border: Bool?
    /// Of the transaction, as the authority counts them.
    private(set) var number: String?
    /// The server was asked for it.
    var asksNumber = false
    var hasAskedNumber = false

    init(change: UInt64) { self.change = change }

    /// The other side has, or had, a part of it.
    var hasChange: Bool { state != .untouched }

    private static let numberMark = "godwit_transaction "
    static let numberQuery = "SELECT pg_catalog.concat('\(numberMark)', pg_catalog.pg_current_xact_id())"

    /// A row of something of ours has come.
    func take(row body: UnsafeRawBufferPointer) {
        guard asksNumber else { return }
        var reader = BodyReader(body)
        guard reader.int16() == 1, let size = reader.int32(), size > Self.numberMark.utf8.count else { return }
        let text = String(decoding: reader.rest(), as: UTF8.self)
        let digits = text.dropFirst(Self.numberMark.count)
        if text.hasPrefix(Self.numberMark), digits.allSatisfy({ $0.isASCII && $0.isNumber }) { number = String(digits) }
    }
}

// MARK: what clients are told

extension FollowedTransaction {
    private static func unsupported(_ message: String, _ hint: String) -> ErrorResponse {
        ErrorResponse(
            .error, .featureNotSupported, message, detail: "DDL of this transaction runs on both sides.", hint: hint)
    }

    static let behindCommit = unsupported(
        "DDL cannot come in one batch behind the end of the transaction", "Send it when that has been answered.")

    static let goesBackAndEnds = unsupported(
        "a text that goes back to a savepoint cannot end the transaction as well",
        "Send ROLLBACK TO SAVEPOINT and the transaction's end as two queries.")

    static let isUncertain = ErrorResponse(
        .error, SQLState("55000"), "which DDL of the transaction still stands cannot be told",
        detail: "A batch that failed had savepoints, or more than \(SessionLedger.entriesMax) SETs, savepoints and DDL "
            + "are in one transaction.",
        hint: "ROLLBACK, and begin it anew.")

    static let isPrepared = unsupported("the transaction cannot be prepared", "COMMIT in place of PREPARE TRANSACTION.")

    static let chains = unsupported("the transaction cannot be chained", "COMMIT or ROLLBACK without AND CHAIN.")

    static let isUnseen = unsupported(
        "a text that Godwit cannot look into may end the transaction",
        "Send the end of the transaction by itself, in UTF-8 and with standard_conforming_strings.")

    static let isMixed = unsupported(
        "DDL and what ends its transaction cannot come behind other messages of a batch",
        "Send them as queries, or with a Sync before them.")

    static let isUnnumbered = ErrorResponse(
        .error, SQLState("55000"), "the transaction's number is not known, and it cannot commit", hint: "ROLLBACK.")

    static let hasSet = ErrorResponse(
        .error, .featureNotSupported,
        "DDL cannot run on both sides behind a RESET, or a setting that is not known, of its own transaction or batch",
        hint: "SET, or SET LOCAL, with a value and in a query or batch of its own, or do it before the transaction.")

    static let hasUnknownSetting = ErrorResponse(
        .error, .featureNotSupported,
        "DDL cannot run on both sides where the session has a setting whose value is not known",
        detail: "It runs in sessions of its own there, which would not have it.",
        hint: "SET it with a value, or by set_config with constants, in a connection of its own.")

    static let isOtherEncoding = ErrorResponse(
        .error, .characterNotInRepertoire, "DDL that runs on both sides has to be sent in UTF-8")

    static let duringCopy = ErrorResponse(
        .fatal, .protocolViolation, "a COPY was not ended before DDL, or before the end of its transaction")

    static let tooManyPortals = ErrorResponse(
        .fatal, .programLimitExceeded, "a transaction may bind \(portalsMax) portals of DDL at most")

    static func tooLong(_ bytes: Int) -> ErrorResponse {
        ErrorResponse(
            .fatal, .programLimitExceeded, "a query of \(bytes) bytes is too long for a transaction with DDL",
            detail: "DDL of this transaction runs on both sides.", hint: "Send values as parameters, or by COPY.")
    }
}
