/// What went wrong between us and a server: kind, SQLSTATE and the server's own words. Immutable, any thread.
package struct PostgresFailure: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Kind: String, Sendable {
        /// No session could be had: address, credentials, server starting or stopping.
        case connecting
        /// The session is gone in mid-work; whether the last statement took effect is unknown.
        case lost
        /// Our own deadline passed; the session is of no more use.
        case timedOut
        /// Our own thread was told to stop.
        case interrupted
        /// The server answered with an error; the session lives on.
        case refused
    }

    package var kind: Kind
    /// Five characters, or empty where no server spoke.
    package var sqlState: String
    package var message: String
    /// The server's DETAIL, HINT and CONTEXT, as far as given.
    package var detail: String

    package init(_ kind: Kind, sqlState: String = "", _ message: String, detail: String = "") {
        self.kind = kind
        self.sqlState = sqlState
        self.message = message
        self.detail = detail
    }

    package var description: String {
        let state = sqlState.isEmpty ? "" : " (\(sqlState))"
        return message + state + (detail.isEmpty ? "" : "; \(detail)")
    }

    /// True where a new session, later, may do what this one could not: the fault is not in what was asked.
    package var isConnectionClass: Bool {
        switch kind {
        case .connecting, .lost, .timedOut: true
        case .interrupted: false
        case .refused: sqlState.hasPrefix("08") || sqlState.hasPrefix("57P")
        }
    }

    /// lock_not_available or deadlock_detected: the same statement may succeed a moment later.
    package var isLockConflict: Bool { sqlState == "55P03" || sqlState == "40P01" }
}
