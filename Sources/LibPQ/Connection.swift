import CLibPQ
import Glibc

/// One session with a server, used by one thread that may block. Closed when it goes away.
///
/// Every wait is ours (poll), not libpq's: it ends at a deadline, and at once when `interrupt` becomes
/// readable.
package struct Connection: ~Copyable {
    /// What the server answered to one statement of a query text.
    package enum Reply {
        case rows(Rows)
        /// A statement without rows: how many it changed.
        case done(changed: Int)
        case copyIn, copyOut
    }

    let raw: OpaquePointer
    /// A descriptor that, when readable, ends every wait with `.interrupted`; -1: none. Not ours to close.
    private let interrupt: CInt
    /// Called during long waits about every `slowWaitMillis`, on this connection's thread.
    private let onSlowWait: (() -> Void)?
    private static let slowWaitMillis: CInt = 200

    /// Connects and pins what text output and name lookup depend on.
    ///
    /// - Parameter purpose: goes behind `godwit ` in application_name.
    /// - Parameter settings: further run-time settings, e.g. `["lock_timeout": "2s"]`.
    /// - Parameter readsTablesOnly: nothing is read through a view: whoever owns a table may put one in its place, and
    ///   what that calls would run with our rights. Servers of before August 2024 do not know of that.
    /// - Parameter connectTimeoutSeconds: where the target has none: nobody here waits without an end.
    /// - Parameter isPlain: nothing is pinned: the session is as any client's of this user, but for `settings`.
    package static func open(
        _ target: ConnectionString, purpose: String, settings: [String: String] = [:], isPlain: Bool = false,
        readsTablesOnly: Bool = false, connectTimeoutSeconds: Double = 5, interrupt: CInt = -1,
        onSlowWait: (() -> Void)? = nil
    ) throws(PostgresFailure) -> Connection {
        let parameters = target.overriding([
            "application_name": "godwit \(purpose)", "client_encoding": isPlain ? "" : "UTF8", "keepalives": "1",
            "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
            "tcp_user_timeout": "10000",
        ]).parameters
        guard let raw = start(parameters) else { throw PostgresFailure(.connecting, "out of memory") }
        let connection = Connection(owning: raw, interrupt: interrupt, onSlowWait: onSlowWait)
        let seconds = target.connectTimeoutSeconds.map { Double($0) } ?? connectTimeoutSeconds
        try connection.handshake(until: .now().adding(seconds: seconds), target)
        _ = PQsetnonblocking(raw, 1)
        var pinned = isPlain ? keptAlive : pinnedSettings.merging(keptAlive) { $1 }
        if !isPlain, connection.serverVersion >= 170_000 { pinned["transaction_timeout"] = "0" }
        for (name, value) in settings { pinned[name] = value }
        var calls = pinned.sorted { $0.key < $1.key }.map { name, value in
            "pg_catalog.set_config(\(SQL.literal(name)), \(SQL.literal(value)), false)"
        }
        if readsTablesOnly { calls.append(Self.restrictedToTables) }
        let answer = try connection.execute(
            "SELECT " + (calls + ["pg_catalog.pg_backend_pid()"]).joined(separator: ", "), timeoutSeconds: seconds)
        // Who speaks the protocol need not be PostgreSQL.
        guard let answer, answer.count == 1, answer.columns == calls.count + 1 else {
            throw PostgresFailure(.connecting, "\(target) does not answer as PostgreSQL does")
        }
        // A pooler gives its clients numbers of its own, and their sessions to others.
        guard answer.integer(0, calls.count) == Int64(PQbackendPID(raw)) else {
            throw PostgresFailure(
                .connecting, "\(target) is a connection pooler, where sessions do not last: name the server itself")
        }
        return connection
    }

    private init(owning raw: OpaquePointer, interrupt: CInt, onSlowWait: (() -> Void)?) {
        self.raw = raw
        self.onSlowWait = onSlowWait
        self.interrupt = interrupt
        _ = PQsetNoticeProcessor(raw, { _, _ in }, nil)
    }

    deinit { PQfinish(raw) }

    /// What makes a value's text the same on both sides whatever the role, database or server has set.
    private static let pinnedSettings = [
        "search_path": "pg_catalog, pg_temp", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres",
        "TimeZone": "UTC", "extra_float_digits": "3", "bytea_output": "hex", "lc_monetary": "C", "xmloption": "content",
        "standard_conforming_strings": "on", "statement_timeout": "0", "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0", "idle_session_timeout": "0", "row_security": "off",
        "client_connection_check_interval": "2s", "synchronous_commit": "on", "client_min_messages": "warning",
        // What others commit while a transaction of ours is open is to be seen, and no failure: a switch's is open from
        // its reservation to its claim, and the mirror goes on meanwhile.
        "default_transaction_isolation": "read committed",
        // A side may be closed to others' writes; and an array that is text on its way keeps its NULLs.
        "default_transaction_read_only": "off", "array_nulls": "on",
    ]

    private static let restrictedToTables = """
        (SELECT pg_catalog.set_config(name, 'view', false) FROM pg_catalog.pg_settings
          WHERE name OPERATOR(pg_catalog.=) 'restrict_nonsystem_relation_kind')
        """

    /// When our machine is gone without a word, its locks are to go within some ten seconds: others wait for them. Both
    /// sides of the connection ask for the other; the server's own settings mostly ask after two hours.
    private static let keptAlive = [
        "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3",
        "tcp_user_timeout": "10000",
    ]

    /// 150014 for 15.14.
    package var serverVersion: Int { Int(PQserverVersion(raw)) }

    package var isInTransaction: Bool { PQtransactionStatus(raw) != PQTRANS_IDLE }

    /// Nothing has been heard of its end.
    package var isConnected: Bool { PQstatus(raw) == CONNECTION_OK }

    /// No statement is at work on it.
    package var isAtRest: Bool { PQtransactionStatus(raw) != PQTRANS_ACTIVE && PQstatus(raw) == CONNECTION_OK }

    // MARK: one call, one answer

    /// Runs one or several statements and gives the rows of the last that has any.
    @discardableResult
    package borrowing func execute(
        _ sql: String, timeoutSeconds: Double? = nil
    ) throws(PostgresFailure) -> Rows? {
        try send(sql)
        return try finish(timeoutSeconds: timeoutSeconds)
    }

    /// Like `execute` for a query that always has rows.
    package borrowing func query(_ sql: String, timeoutSeconds: Double? = nil) throws(PostgresFailure) -> Rows {
        guard let rows = try execute(sql, timeoutSeconds: timeoutSeconds) else {
            preconditionFailure("a query without rows: \(sql)")
        }
        return rows
    }

    /// - Parameter name: of a table, a view or the like, as SQL has it.
    package borrowing func hasRelation(
        _ name: String, timeoutSeconds: Double? = nil
    ) throws(PostgresFailure) -> Bool {
        try query("SELECT to_regclass(\(SQL.literal(name))) IS NOT NULL", timeoutSeconds: timeoutSeconds).flag(0, 0)
    }

    /// One statement with text parameters `$1`...
    package borrowing func query(
        _ sql: String, parameters: [String?], timeoutSeconds: Double? = nil
    ) throws(PostgresFailure) -> Rows? {
        let copies = parameters.map { $0.map { strdup($0) } }
        defer { for copy in copies { free(copy ?? nil) } }
        let pointers: [UnsafePointer<CChar>?] = copies.map { copy in copy.flatMap { $0.map { UnsafePointer($0) } } }
        guard PQsendQueryParams(raw, sql, CInt(pointers.count), nil, pointers, nil, nil, 0) == 1 else { throw lost() }
        try flush(until: timeoutSeconds.map { Deadline.now().adding(seconds: $0) })
        return try finish(timeoutSeconds: timeoutSeconds)
    }

    // MARK: sent now, collected later

    package borrowing func send(_ sql: String) throws(PostgresFailure) {
        guard PQsendQuery(raw, sql) == 1 else { throw lost() }
        try flush(until: nil)
    }

    /// The same for a text built from bytes, which must not hold a zero.
    package borrowing func send(bytes sql: [UInt8]) throws(PostgresFailure) {
        var text = sql
        text.append(0)
        let sent = text.withUnsafeBytes { buffer in
            PQsendQuery(raw, buffer.baseAddress?.assumingMemoryBound(to: CChar.self))
        }
        guard sent == 1 else { throw lost() }
        try flush(until: nil)
    }

    /// The next statement's answer; nil when the query text is done. After a throw with `.refused` call
    /// `drain`.
    package borrowing func next(until deadline: Deadline? = nil) throws(PostgresFailure) -> Reply? {
        while PQisBusy(raw) == 1 { try consume(until: deadline) }
        guard let result = PQgetResult(raw) else { return nil }
        switch PQresultStatus(result) {
        case PGRES_TUPLES_OK: return .rows(Rows(owning: result))
        case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: return .done(changed: Rows(owning: result).changed)
        case PGRES_COPY_IN:
            PQclear(result)
            return .copyIn
        case PGRES_COPY_OUT:
            PQclear(result)
            return .copyOut
        default:
            defer { PQclear(result) }
            throw failure(of: result)
        }
    }

    /// Takes all answers that are left and gives the last rows; throws the first error after the last answer
    /// was taken.
    @discardableResult
    package borrowing func finish(timeoutSeconds: Double? = nil) throws(PostgresFailure) -> Rows? {
        let deadline = timeoutSeconds.map { Deadline.now().adding(seconds: $0) }
        var last: Rows?
        var first: PostgresFailure?
        while true {
            do throws(PostgresFailure) {
                guard let reply = try next(until: deadline) else { break }
                switch reply {
                case .rows(let rows): last = rows
                case .done: break
                case .copyIn:
                    try refuseCopy(until: deadline)
                    first = first ?? Self.copyRefusal
                case .copyOut:
                    try dropCopy(until: deadline)
                    first = first ?? Self.copyRefusal
                }
            } catch {
                guard error.kind == .refused, PQstatus(raw) == CONNECTION_OK else { throw first ?? error }
                if first == nil { first = error }
            }
        }
        if let first { throw first }
        return last
    }

    // MARK: COPY

    /// After `.copyOut`: hands over every row as the server sent it. The statement's own end comes with
    /// `next`.
    package borrowing func copyOut(
        _ take: (UnsafeRawBufferPointer) throws(PostgresFailure) -> Void
    ) throws(PostgresFailure) {
        while true {
            var buffer: UnsafeMutablePointer<CChar>?
            let length = PQgetCopyData(raw, &buffer, 1)
            defer { PQfreemem(buffer) }
            if length > 0 {
                try take(UnsafeRawBufferPointer(start: buffer, count: Int(length)))
            } else if length == 0 {
                try consume(until: nil)
            } else if length == -1 {
                return
            } else {
                throw lost()
            }
        }
    }

    /// After `.copyIn`: queues rows for the server. Without `flushQueued` in between the queue may grow to all of
    /// them.
    package borrowing func putCopy(_ data: UnsafeRawBufferPointer) throws(PostgresFailure) {
        while true {
            let queued = PQputCopyData(raw, data.baseAddress?.assumingMemoryBound(to: CChar.self), CInt(data.count))
            if queued == 1 { return }
            guard queued == 0 else { throw lost() }
            try flush(until: nil)
        }
    }

    /// Waits until the server has taken what is queued.
    package borrowing func flushQueued() throws(PostgresFailure) { try flush(until: nil) }

    /// Ends the COPY that `putCopy` fed. The statement's own answer comes with `next`.
    package borrowing func endCopy() throws(PostgresFailure) {
        while true {
            let queued = PQputCopyEnd(raw, nil)
            if queued == 1 { break }
            guard queued == 0 else { throw lost() }
            try flush(until: nil)
        }
        try flush(until: nil)
    }

    static let copyRefusal = PostgresFailure(.refused, "a COPY has no place here: use a SELECT")

    /// Takes what a COPY sends and nobody has asked for: an operator's statement (an invariant, a throttle) may be one.
    borrowing func dropCopy(until deadline: Deadline?) throws(PostgresFailure) {
        while true {
            var buffer: UnsafeMutablePointer<CChar>?
            let length = PQgetCopyData(raw, &buffer, 1)
            PQfreemem(buffer)
            if length == -1 { return }
            if length < 0 { throw lost() }
            if length == 0 { try consume(until: deadline) }
        }
    }

    /// The same of one that waits for rows: it fails.
    borrowing func refuseCopy(until deadline: Deadline?) throws(PostgresFailure) {
        while true {
            let queued = PQputCopyEnd(raw, "no rows come here")
            if queued == 1 { return try flush(until: deadline) }
            guard queued == 0 else { throw lost() }
            try flush(until: deadline)
        }
    }

    // MARK: waits

    borrowing func flush(until deadline: Deadline?) throws(PostgresFailure) {
        while true {
            let left = PQflush(raw)
            if left == 0 { return }
            guard left == 1 else { throw lost() }
            // The server may be unable to read before we read what it has to say.
            let ready = try wait(for: Int16(POLLIN | POLLOUT), until: deadline)
            if ready & Int16(POLLIN) != 0, PQconsumeInput(raw) != 1 { throw lost() }
        }
    }

    borrowing func consume(until deadline: Deadline?) throws(PostgresFailure) {
        try flush(until: deadline)
        _ = try wait(for: Int16(POLLIN), until: deadline)
        guard PQconsumeInput(raw) == 1 else { throw lost() }
    }

    private borrowing func wait(for events: Int16, until deadline: Deadline?) throws(PostgresFailure) -> Int16 {
        var descriptors = [
            pollfd(fd: PQsocket(raw), events: events, revents: 0),
            pollfd(fd: interrupt, events: Int16(POLLIN), revents: 0),
        ]
        guard descriptors[0].fd >= 0 else { throw lost() }
        while true {
            let longest = onSlowWait == nil ? -1 : Self.slowWaitMillis
            let left = deadline.map { $0.millisLeft } ?? -1
            let turn = left < 0 ? longest : longest < 0 ? left : min(left, longest)
            let ready = poll(&descriptors, 2, turn)
            if ready < 0 {
                guard errno == EINTR else { throw lost() }
                continue
            }
            if interrupt >= 0, descriptors[1].revents != 0 {
                throw PostgresFailure(.interrupted, "told to stop")
            }
            if ready == 0 {
                if let deadline, deadline.hasPassed {
                    throw PostgresFailure(.timedOut, "no answer from the server in time")
                }
                onSlowWait?()
                continue
            }
            return descriptors[0].revents
        }
    }

    /// - Returns: nil: out of memory. Whoever has it finishes it.
    static func start(_ parameters: [String: String]) -> OpaquePointer? {
        let pairs = parameters.map { (strdup($0.key), strdup($0.value)) }
        defer {
            for (keyword, value) in pairs {
                free(keyword)
                free(value)
            }
        }
        let keywords: [UnsafePointer<CChar>?] = pairs.map { $0.0.map { UnsafePointer($0) } } + [nil]
        let values: [UnsafePointer<CChar>?] = pairs.map { $0.1.map { UnsafePointer($0) } } + [nil]
        return PQconnectStartParams(keywords, values, 0)
    }

    private borrowing func handshake(
        until deadline: Deadline, _ target: ConnectionString
    ) throws(PostgresFailure) {
        var wanted = PGRES_POLLING_WRITING
        if PQstatus(raw) == CONNECTION_BAD { throw refusedConnection(target) }
        while true {
            do throws(PostgresFailure) {
                _ = try wait(for: Int16(wanted == PGRES_POLLING_READING ? POLLIN : POLLOUT), until: deadline)
            } catch {
                guard error.kind == .timedOut else { throw error }
                throw PostgresFailure(.connecting, "cannot connect to \(target): no answer in time")
            }
            wanted = PQconnectPoll(raw)
            if wanted == PGRES_POLLING_OK { return }
            if wanted == PGRES_POLLING_FAILED { throw refusedConnection(target) }
        }
    }

    private borrowing func refusedConnection(_ target: ConnectionString) -> PostgresFailure {
        PostgresFailure(.connecting, "cannot connect to \(target): \(errorText)")
    }

    borrowing func lost() -> PostgresFailure { PostgresFailure(.lost, "connection lost: \(errorText)") }

    private var errorText: String {
        PQerrorMessage(raw).map { String(cString: $0).trimmed } ?? "no reason given"
    }

    borrowing func failure(of result: OpaquePointer) -> PostgresFailure {
        func field(_ code: Character) -> String? {
            PQresultErrorField(result, CInt(code.asciiValue ?? 0)).map { String(cString: $0) }
        }
        let state = field("C") ?? ""
        let detail = [field("D"), field("H"), field("W")].compactMap { $0 }.joined(separator: "; ")
        if PQstatus(raw) == CONNECTION_BAD {
            return PostgresFailure(.lost, sqlState: state, "connection lost: \(field("M") ?? errorText)")
        }
        return PostgresFailure(.refused, sqlState: state, field("M") ?? errorText, detail: detail)
    }
}
