import LibPQ
import Primitives

/// A session with the state's server, made anew when it is lost. Confined to one thread.
final class StateSession {
    private final class Open {
        let connection: Connection
        init(_ connection: consuming Connection) { self.connection = connection }
    }

    private static let connectSeconds = 3.0
    /// Past it the session is of no more use.
    private static let answerSeconds = 5.0
    /// Between attempts; in between the last one's failure is told.
    private static let pauseSeconds = 0.25

    private let target: ConnectionString
    private let purpose: String
    /// What each new session begins with.
    private let first: String
    private let making: StateMaking
    private let interrupt: CInt
    private var open: Open?
    private var failure: PostgresFailure?
    private var nextTry = MonotonicInstant.now()
    /// Of sessions so far: what a session holds is gone with it.
    private(set) var generation = 0

    init(
        _ target: ConnectionString, purpose: String, first: String, making: StateMaking, interrupt: CInt = -1
    ) {
        self.making = making
        self.target = target
        self.purpose = purpose
        self.first = first
        self.interrupt = interrupt
    }

    var isOpen: Bool { open != nil }

    /// For poll(2); -1: there is no session.
    var descriptor: CInt { open?.connection.descriptor ?? -1 }

    /// What is asked next is asked of the session of this generation.
    func begin() throws(PostgresFailure) { _ = try opened() }

    /// - Returns: the rows of the last statement that has any.
    func execute(_ sql: String) throws(PostgresFailure) -> Rows? {
        let open = try opened()
        return try ending { () throws(PostgresFailure) in
            try open.connection.execute(sql, timeoutSeconds: Self.answerSeconds)
        }
    }

    /// - Returns: how many NOTIFY there were.
    func takeNotifications() throws(PostgresFailure) -> Int {
        guard let open else { return 0 }
        return try ending { () throws(PostgresFailure) in try open.connection.takeNotifications() }
    }

    func close() { open = nil }

    private func opened() throws(PostgresFailure) -> Open {
        if let open { return open }
        if let failure, MonotonicInstant.now() < nextTry { throw failure }
        do throws(PostgresFailure) {
            let made = Open(try Connection.open(
                target, purpose: purpose, settings: [
                    "search_path": PostgresSchema.path, "default_transaction_isolation": "read committed",
                    // The server is to notice soon when our machine is gone: another one waits for our lock.
                    "tcp_keepalives_idle": "3", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3",
                    "statement_timeout": "\(Int(Self.answerSeconds * 900))",
                ], connectTimeoutSeconds: Self.connectSeconds, interrupt: interrupt))
            try making.ensure { (sql) throws(PostgresFailure) in
                try made.connection.execute(sql, timeoutSeconds: Self.answerSeconds)
            }
            if !first.isEmpty { try made.connection.execute(first, timeoutSeconds: Self.answerSeconds) }
            open = made
            failure = nil
            generation += 1
            return made
        } catch {
            failure = error
            nextTry = MonotonicInstant.now().advanced(bySeconds: Self.pauseSeconds)
            throw error
        }
    }

    /// A session that is of no more use ends; so does one with a server that has become a standby.
    private func ending<Value>(_ body: () throws(PostgresFailure) -> Value) throws(PostgresFailure) -> Value {
        do throws(PostgresFailure) {
            return try body()
        } catch {
            if error.kind != .refused || error.isConnectionClass || error.sqlState == "25006" { open = nil }
            throw error
        }
    }
}

extension PostgresFailure {
    /// The same may succeed with another session, later.
    var isPassing: Bool {
        kind != .refused || isConnectionClass || sqlState == "25006"
            // No room, no memory, no connection left; cancelled by an operator or a timeout.
            || sqlState.hasPrefix("53") || sqlState.hasPrefix("57") || sqlState.hasPrefix("58") || isLockConflict
    }
}
