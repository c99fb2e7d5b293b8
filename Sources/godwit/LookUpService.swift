import Glibc
import LibPQ
import Logging
import PGWire
import Primitives
import Proxy
import Sessions
import Synchronization

/// Answers what logins need and reactors must not wait for: secrets by auth_query, names of the system's users.
/// Some threads, each with connections of its own; what asks one server goes to one thread.
final class LookUpService: Sendable {
    /// A message to it ends every wait.
    private let stopRequest = Mailbox<Void>()
    private let threads: Mutex<[OwnThread]>

    init(_ server: ProxyServer, logger: Logger) {
        let stopRequest = stopRequest
        threads = Mutex(server.lookUps.enumerated().map { index, requests in
            OwnThread(name: "godwit-auth-\(index)") {
                var lane = LookUpLane(stop: stopRequest.descriptor, logger: logger)
                while true {
                    var ready = [
                        pollfd(fd: requests.descriptor, events: Int16(POLLIN), revents: 0),
                        pollfd(fd: stopRequest.descriptor, events: Int16(POLLIN), revents: 0),
                    ]
                    let count = poll(&ready, 2, lane.isConnected ? LookUpLane.idleMillis : -1)
                    if ready[1].revents != 0 { return }
                    if count == 0 { lane.disconnect() }
                    lane.answer(requests.take(), server)
                }
            }
        })
    }

    func stop() {
        stopRequest.post(())
        let running = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in running { thread.join() }
    }
}

/// One thread's connections to the servers that know the users. Stays on its thread.
private struct LookUpLane {
    /// Connections kept; the one that was made first goes first.
    private static let connectionsMax = 8
    /// Without a question for so long, connections are closed.
    static let idleMillis: CInt = 60_000
    private static let timeoutSeconds = 5.0
    /// After a failure its server is not tried again for so long: those who wait then would wait for nothing.
    private static let pauseNanos: UInt64 = 1_000_000_000

    /// A noncopyable connection in an array.
    private final class Session {
        let conninfo: String
        let connection: Connection

        init(_ conninfo: String, _ connection: consuming Connection) {
            self.conninfo = conninfo
            self.connection = connection
        }
    }

    private let stop: CInt
    private let logger: Logger
    private var sessions: [Session] = []
    private var failures: [String: (error: ErrorResponse, until: MonotonicInstant)] = [:]

    init(stop: CInt, logger: Logger) {
        self.stop = stop
        self.logger = logger
    }

    var isConnected: Bool { !sessions.isEmpty }

    mutating func disconnect() {
        sessions = []
        failures = [:]
    }

    mutating func answer(_ requests: [LookUpRequest], _ server: ProxyServer) {
        // Reactors that ask for the same user at once get one answer.
        var answered: [(lookUp: SecretLookUp, user: ExactName, answer: ClientLogin.LookedUp)] = []
        for request in requests {
            switch request.subject {
            case .systemUser(let number, let client):
                server.answer(request, .systemUser(Self.systemName(number), client: client))
            case .secret(let lookUp, let user):
                let name = ExactName(user)
                if let known = answered.first(where: { $0.user == name && $0.lookUp == lookUp }) {
                    server.answer(request, .secret(known.answer))
                    continue
                }
                let answer = secret(lookUp, user)
                answered.append((lookUp, name, answer))
                server.answer(request, .secret(answer))
            }
        }
    }

    private static func systemName(_ number: UInt32) -> String? {
        var entry = passwd()
        var buffer = [CChar](repeating: 0, count: 16_384)
        var found: UnsafeMutablePointer<passwd>?
        guard getpwuid_r(number, &entry, &buffer, buffer.count, &found) == 0, found != nil, let name = entry.pw_name
        else { return nil }
        return String(cString: name)
    }

    // MARK: secrets

    private mutating func secret(_ lookUp: SecretLookUp, _ user: String) -> ClientLogin.LookedUp {
        if let failure = failures[lookUp.conninfo] {
            if MonotonicInstant.now() < failure.until { return .failed(failure.error) }
            failures[lookUp.conninfo] = nil
        }
        do {
            return try ask(lookUp, user)
        } catch {
            sessions.removeAll { $0.conninfo == lookUp.conninfo }
            let response = Self.response(to: error, lookUp)
            logger.error("auth_query in \"\(lookUp.database)\" failed: \(error)")
            if error.isConnectionClass || error.kind == .interrupted {
                let until = MonotonicInstant.now().nanoseconds + Self.pauseNanos
                if failures.count >= Self.connectionsMax * 8 { failures = [:] }
                failures[lookUp.conninfo] = (response, MonotonicInstant(nanoseconds: until))
            }
            return .failed(response)
        }
    }

    private mutating func ask(
        _ lookUp: SecretLookUp, _ user: String
    ) throws(PostgresFailure) -> ClientLogin.LookedUp {
        if let session = sessions.first(where: { $0.conninfo == lookUp.conninfo }) {
            do {
                return try Self.ask(session.connection, lookUp, user, logger)
            } catch {
                // A connection that was idle may have been ended: a new one tells.
                guard error.isConnectionClass, error.kind != .timedOut else { throw error }
                sessions.removeAll { $0.conninfo == lookUp.conninfo }
            }
        }
        let session = try open(lookUp)
        if sessions.count == Self.connectionsMax { sessions.removeFirst() }
        sessions.append(session)
        return try Self.ask(session.connection, lookUp, user, logger)
    }

    private func open(_ lookUp: SecretLookUp) throws(PostgresFailure) -> Session {
        let target: ConnectionString
        do throws(ConnectionStringError) {
            target = try ConnectionString(parsing: lookUp.conninfo)
        } catch {
            throw PostgresFailure(.connecting, "\(error)")
        }
        // `open` pins search_path; nothing of the client's reaches this session.
        return Session(
            lookUp.conninfo,
            try Connection.open(
                target, purpose: "auth_query",
                settings: ["statement_timeout": "\(Int(Self.timeoutSeconds * 1000))", "row_security": "on"],
                connectTimeoutSeconds: Self.timeoutSeconds, interrupt: stop))
    }

    /// The name travels as a parameter, never in the query's text.
    private static func ask(
        _ connection: borrowing Connection, _ lookUp: SecretLookUp, _ user: String, _ logger: Logger
    ) throws(PostgresFailure) -> ClientLogin.LookedUp {
        let rows = try connection.query(lookUp.query, parameters: [user], timeoutSeconds: timeoutSeconds)
        guard let rows, rows.columns == 2 else {
            throw PostgresFailure(.refused, "it must give two columns, the user's name and secret")
        }
        // Said to the log only: to the client it must look like a user who does not exist.
        if rows.count > 1 {
            logger.error("auth_query in \"\(lookUp.database)\" gave \(rows.count) rows for one user: refused")
            return .none(iterations: nil)
        }
        guard rows.count == 1, let name = rows[0, 0] else { return .none(iterations: nil) }
        if !name.hasSameBytes(as: user) {
            logger.error("auth_query in \"\(lookUp.database)\" gave another user than was asked for: refused")
            return .none(iterations: nil)
        }
        // NULL: no password, or one that has run out.
        guard let secret = rows[0, 1], !secret.isEmpty else { return .none(iterations: nil) }
        return .found(AuthPolicy.Secret(parsing: secret))
    }

    /// What the client is told: nothing of how we log in there, and nothing that tells one user from another.
    private static func response(to failure: PostgresFailure, _ lookUp: SecretLookUp) -> ErrorResponse {
        if failure.message.contains("database \"\(lookUp.database)\" does not exist") {
            return ErrorResponse(
                .fatal, .undefinedDatabase, "database \"\(lookUp.database)\" does not exist")
        }
        let what = failure.isConnectionClass ? "the database cannot be asked now" : "auth_query failed"
        return ErrorResponse(
            .fatal, failure.isConnectionClass ? .cannotConnectNow : SQLState("58000"),
            "cannot look up who may log in: \(what)", hint: "Godwit's log has the reason.")
    }
}
