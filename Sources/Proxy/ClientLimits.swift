import Configuration
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions

/// How long and how many: the client's own limits, of its database or its user.
struct ClientLimits {
    var mode: PoolSettings.Mode
    var querySeconds: Double
    var transactionSeconds: Double
    var idleTransactionSeconds: Double
    var idleSeconds: Double

    init(_ pool: PoolSettings, _ user: UserSettings?) {
        mode = user?.poolMode ?? pool.mode
        querySeconds = user?.queryTimeoutSeconds ?? pool.queryTimeoutSeconds
        transactionSeconds = user?.transactionTimeoutSeconds ?? pool.transactionTimeoutSeconds
        idleTransactionSeconds = user?.idleTransactionTimeoutSeconds ?? pool.idleTransactionTimeoutSeconds
        idleSeconds = user?.clientIdleTimeoutSeconds ?? pool.clientIdleTimeoutSeconds
    }
}

extension ClientConnection {
    /// It keeps its server from its first unit on.
    var isOfSessionMode: Bool { if case .session? = limits?.mode { true } else { false } }

    /// A reload: other limits, for what runs too.
    func limitsChanged() {
        guard let database else { return }
        limits = ClientLimits(database.route.settings.pool, worker.userSettings(user))
    }

    /// Counts a client in that has proven who it is.
    ///
    /// - Returns: why it may not stay.
    func enterLimits(of database: DatabaseState) -> ErrorResponse? {
        let databaseMax = database.route.settings.pool.maxDBClientConnections
        let userMax = worker.userSettings(user)?.maxUserClientConnections
            ?? worker.snapshot.settings.limits.maxUserClientConnections
        let byDatabase = worker.ledger.count(.databaseClients(ExactName(database.name)))
        if !byDatabase.enter(max: databaseMax) {
            return ErrorResponse(
                .fatal, .tooManyConnections,
                "no more connections allowed to database \"\(database.name)\" (max_db_client_connections)",
                detail: "It is \(databaseMax).")
        }
        ofDatabase = byDatabase
        let byUser = worker.ledger.count(.userClients(ExactName(user)))
        if !byUser.enter(max: userMax) {
            return ErrorResponse(
                .fatal, .tooManyConnections,
                "no more connections allowed for user \"\(user)\" (max_user_client_connections)",
                detail: "It is \(userMax).")
        }
        ofUser = byUser
        return nil
    }

    func leaveLimits() {
        _ = ofDatabase?.leave()
        _ = ofUser?.leave()
        (ofDatabase, ofUser) = (nil, nil)
    }

    // MARK: time

    /// Once a second.
    func checkTime() {
        guard let limits, phase != .closed else { return }
        // An answer may have taken longer than all of that: nobody is idle meanwhile.
        // What stood still by order has not run out of time: it begins anew with RESUME.
        let resumedAt = worker.resumedAt
        let since = max(lastActivity, idleSince, server?.heardAt ?? lastActivity, resumedAt)
        let idleNanos = worker.now.nanoseconds(since: since)
        if isIdleOutside, Self.isOver(idleNanos, limits.idleSeconds) {
            return end(.idleSessionTimeout, "the connection was idle", "client_idle_timeout", limits.idleSeconds)
        }
        if lazy != nil && phase == .idle || isIdleInTransaction, Self.isOver(idleNanos, limits.idleTransactionSeconds) {
            return end(
                .idleTransactionTimeout, "the transaction was idle", "idle_transaction_timeout",
                limits.idleTransactionSeconds)
        }
        if isRunning, Self.isOver(worker.now.nanoseconds(since: max(unit.startedAt, resumedAt)), limits.querySeconds) {
            return end(.queryCanceled, "the query ran", "query_timeout", limits.querySeconds)
        }
        if isInTransaction,
            Self.isOver(
                worker.now.nanoseconds(since: max(transaction.startedAt, resumedAt)), limits.transactionSeconds)
        {
            return end(.transactionTimeout, "the transaction took", "transaction_timeout", limits.transactionSeconds)
        }
    }

    /// Seconds in which something must be taken of what is sent to who is told to go.
    private static let farewellSeconds = 60.0

    /// Who reads nothing never goes, keeps its place among the clients and, maybe, its server, and an end of Godwit
    /// would wait for it.
    ///
    /// - Parameter left: bytes that it had not taken when it was looked at last.
    func farewellGoesOn(left: Int) {
        if phase == .closed || !isClosingAfterFlush { return }
        if stream.isEmpty || stream.count >= left { return close() }
        worker.schedule(.farewell(id, left: stream.count), at: worker.now.advanced(bySeconds: Self.farewellSeconds))
    }

    /// Outside of transactions, also where it keeps its server: nobody else gets that as long as it stays. But who
    /// listens has nothing to say, and who waits for the answer to a commit would get that before NEW has it.
    private var isIdleOutside: Bool {
        if batchAwaited != nil { return false }
        guard phase == .leased, let server else { return phase == .idle && lazy == nil }
        return server.session.isFree && !hasParkedBytes && !pins.contains(.listen)
    }

    private var isIdleInTransaction: Bool {
        guard phase == .leased, let server else { return false }
        return server.session.isQuiet && !server.session.isFree
    }

    /// A unit has been dispatched, and its answer is not complete. What is held by order has a limit of its own, and
    /// begins anew when it is let go.
    private var isRunning: Bool {
        if unit.startedAt.nanoseconds == 0 { return false }
        switch phase {
        case .waiting, .awaitingHorizon, .changing, .applyingSettings: return true
        case .leased: return server?.session.isQuiet == false
        case .held, .login, .handshake, .cancelling, .greeting, .idle, .console, .consoleWaiting, .closed: return false
        }
    }

    private var isInTransaction: Bool {
        if transaction.startedAt.nanoseconds == 0 { return false }
        if lazy != nil { return true }
        guard phase == .leased, let server else { return false }
        return server.session.status != .idle
    }

    private static func isOver(_ nanos: UInt64, _ limitSeconds: Double) -> Bool {
        limitSeconds > 0 && Double(nanos) >= limitSeconds * 1e9
    }

    /// Its server, if it is at work, is cancelled and closed; nothing of its answer may come behind the error.
    private func end(_ state: SQLState, _ what: String, _ setting: String, _ limit: Double) {
        let isCutOff = server?.isWithinMessage == true
        letGo(of: phase)
        dropHeld()
        if isCutOff { return close() }
        let seconds = limit == limit.rounded() ? "\(Int(limit))" : "\(limit)"
        close(with: ErrorResponse(.fatal, state, "\(what) longer than \(setting) (\(seconds) s)"))
    }
}

extension TCPOptions {
    init(_ settings: TCPSettings) {
        self.init()
        keepalive = settings.keepalive
        keepaliveCount = settings.keepaliveCount
        keepaliveIdleSeconds = settings.keepaliveIdleSeconds
        keepaliveIntervalSeconds = settings.keepaliveIntervalSeconds
        userTimeoutMillis = settings.userTimeoutMillis
    }
}
