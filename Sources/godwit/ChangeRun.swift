import Configuration
import Console
import Glibc
import LibPQ
import Logging
import Migration
import Mirroring
import PGWire
import Primitives
import Proxy
import Sessions

/// Confined to its lane's thread, which blocks for as long as a change takes.
final class ChangeRun {
    /// Milliseconds between looks for what was left half done, and seconds where nothing tells of any.
    static let lookMillis: CInt = 1000
    private static let calmSeconds = 5.0
    /// Seconds for the threads of this process to take something.
    private static let replySeconds = 30.0

    let database: String
    let server: ProxyServer
    let engine: SwitchEngine
    let events: EventLog
    let logger: Logger
    private let requests: Mailbox<ChangeRequest>
    /// Those of them that are still to be looked at.
    private var arrived: [ChangeRequest] = []
    private let replies = Mailbox<SwitchReply>()
    /// DDL of a client's open transaction, and what waits for its end.
    var followed: Followed?
    var waiting: [ChangeTask] = []
    /// The first DDL of a client's open transaction, while it waits until it may run.
    var beginner: ChangeTask?
    private var hasLooked = false
    private var nextLook = Deadline.now()
    /// A change that this process has made is on one side only.
    var isHalfDone = false
    private var toldReason = ""
    private let killAt = getenv("GODWIT_DIE_BEFORE").map { String(cString: $0) }

    init(
        _ database: String, _ requests: Mailbox<ChangeRequest>, _ server: ProxyServer, _ engine: SwitchEngine,
        events: EventLog, logger: Logger
    ) {
        self.database = database
        self.requests = requests
        self.server = server
        self.engine = engine
        self.events = events
        self.logger = logger
    }

    // MARK: requests

    /// Some came in the middle of something else.
    var hasArrived: Bool { !arrived.isEmpty }

    func hasRequests() -> Bool {
        arrived += requests.take()
        return !arrived.isEmpty
    }

    func nextRequest() -> ChangeRequest? { hasRequests() ? arrived.removeFirst() : nil }

    /// While writes, or locks, are waited for: whose transaction has one of them must not wait for us in turn.
    private func refuseWaits() {
        guard hasRequests(), !beginnerHasLeft else { return }
        arrived.removeAll { request in
            guard case .perform(let task) = request, isDeadlock(task) else { return false }
            refuseDeadlock(task)
            return true
        }
    }

    /// Nobody waits for it any more, and nobody is to be refused for it.
    private var beginnerHasLeft: Bool {
        guard let beginner else { return false }
        return arrived.contains { request in
            guard case .perform(let task) = request, case .end = task.order.part else { return false }
            return task.isOfSame(beginner)
        }
    }

    // MARK: a change

    func perform(_ task: ChangeTask) {
        let outcome: ControlOutcome
        do throws(ErrorResponse) {
            outcome = .noticed(try change(task.order, task.settings, for: task.asker).joined(separator: "\n"))
        } catch {
            outcome = .failed(error)
            logger.notice("DDL on both sides of \"\(database)\" was refused: \(error.message)")
        }
        server.answer(worker: task.worker, client: task.client, outcome)
    }

    /// Alone among all of this process that change or switch this database, until `engine.end`.
    func takeTurn() throws(ErrorResponse) -> SwitchEngine.Entry {
        guard engine.entry(of: database) != nil else { throw Self.notNow("the database has no mirror now") }
        guard engine.begin(database) else {
            throw Self.notNow(
                "the writes of the database are being moved",
                "Nothing was changed. Try again when they have been: SHOW EVENTS on Godwit's console says so.")
        }
        if let entry = engine.entry(of: database) { return entry }
        engine.end(database)
        throw Self.notNow("the database has no mirror now")
    }

    /// Behind an earlier change whoever sends the next one waits for what is still to be done of it, for `ddl_wait`.
    ///
    /// - Parameter mayHoldLocks: the client's transaction may itself be what that waits for.
    /// - Parameter body: finishes it as well, and is tried again while that is not possible.
    func openInTurn<Change>(
        _ entry: SwitchEngine.Entry, _ direction: MirrorDirection, _ settings: DatabaseSettings, mayHoldLocks: Bool,
        _ body: () throws(SchemaChange.Failure) -> Change
    ) throws(ErrorResponse) -> Change {
        let wait = settings.mirror.ddlWaitSeconds
        let deadline = Deadline.now().adding(seconds: wait)
        func patiently<Value>(
            _ body: () throws(SchemaChange.Failure) -> Value
        ) throws(ErrorResponse) -> Value {
            while true {
                do throws(SchemaChange.Failure) {
                    return try body()
                } catch {
                    guard case .busy(let reason) = error else {
                        throw response(to: error, direction, wait, isLate: false)
                    }
                    if mayHoldLocks { throw Self.notYet(reason) }
                    if deadline.hasPassed {
                        throw Self.late("\(reason), within mirror.ddl_wait (\(wait) s)", detail: nil)
                    }
                }
                refuseWaits()
                if beginnerHasLeft { throw Self.gone }
            }
        }
        // As long as the sides differ no mirror comes back.
        if isHalfDone {
            try patiently { () throws(SchemaChange.Failure) in
                _ = try SchemaChange.open(
                    direction, old: entry.old, new: entry.new, bulk: settings.mirror.bulkTables, login: login)
            }
            earlierIsSettled()
        }
        try awaitMirror(entry, until: deadline)
        return try patiently(body)
    }

    /// - Returns: the commands' tags.
    private func change(
        _ order: ChangeOrder, _ settings: DatabaseSettings, for asker: GateAsker
    ) throws(ErrorResponse) -> [String] {
        let entry = try takeTurn()
        defer { engine.end(database) }
        let wait = settings.mirror.ddlWaitSeconds
        let direction = MirrorDirection(from: entry.ownership.authority)
        let order = SchemaChange.Order(user: order.user, statement: order.statement, settings: order.settings)
        let change = try openInTurn(
            entry, direction, settings, mayHoldLocks: false
        ) { () throws(SchemaChange.Failure) in
            let change = try SchemaChange.open(
                direction, old: entry.old, new: entry.new, bulk: settings.mirror.bulkTables, login: login)
            try change.prepare(order, login: login)
            return change
        }
        let heldSince = MonotonicInstant.now()
        let deadline = Deadline.now().adding(seconds: wait)
        var held: Double?
        func letGo() {
            if held != nil { return }
            ask(.letGo(database: database))
            held = Double(MonotonicInstant.now().nanoseconds(since: heldSince)) / 1e6
        }
        // The mirror does when it knows of the tables as they are now: a batch before that would count as what those
        // wait for who read on the other side what they have written meanwhile, and a new table has no rows there.
        defer {
            letGo()
            entry.orders.isToStand = false
            entry.horizon.kick()
        }
        try hold(wait, for: asker)
        try drain(entry, until: deadline, wait)
        try stand(entry, until: deadline, wait)
        let outcome: SchemaChange.Outcome
        do throws(SchemaChange.Failure) {
            outcome = try change.run(until: deadline, before: dieIfTold, onCommitted: letGo)
        } catch {
            // There may be a record of it, which nobody would look for as long as the mirror goes on.
            switch error {
            case .unknown: isHalfDone = true
            case .side(_, let failure): if failure.kind != .refused { isHalfDone = true }
            case .blocked, .busy, .unfit: break
            }
            throw response(to: error, direction, wait, isLate: deadline.millisLeft < 20)
        }
        letGo()
        return tell(outcome, direction, heldMillis: held ?? 0)
    }

    /// - Returns: the commands' tags.
    @discardableResult
    func tell(
        _ outcome: SchemaChange.Outcome, _ direction: MirrorDirection, how: String = "", heldMillis: Double
    ) -> [String] {
        switch outcome {
        case .done(let tags):
            events.append(EventRecord(
                .ddl, database: database, cause: "\(tags.joined(separator: ", ")) ran on both sides\(how)",
                figures: [.init("held_ms", heldMillis)]))
            return tags
        case .halfDone(let tags, let reason):
            isHalfDone = true
            events.append(EventRecord(
                .alarm, database: database, side: direction.target,
                cause: tags.joined(separator: ", ") + " ran on \(direction.source.title), still to be made here: "
                    + reason))
            return tags
        }
    }

    func dieIfTold(_ step: SchemaChange.Step) {
        if killAt == step.rawValue { _ = kill(getpid(), SIGKILL) }
    }

    /// A mirror that reads the tables' shapes anew, after an earlier change, is given a moment.
    func awaitMirror(_ entry: SwitchEngine.Entry, until deadline: Deadline) throws(ErrorResponse) {
        while true {
            let report = entry.horizon.report
            switch report.state {
            case .mirroring, .backfill: return
            case .standby, .following:
                throw ErrorResponse(
                    .error, SQLState("55000"), "another Godwit has the mirror of database \"\(database)\"",
                    hint: "Send DDL through the Godwit whose SHOW MIRROR says mirroring.")
            case .off, .starting, .paused, .waiting, .stopped:
                if deadline.hasPassed {
                    throw Self.notNow(
                        "the mirror is \(report.state.rawValue)"
                            + (report.reason.isEmpty ? "" : ": \(report.reason)"),
                        "Nothing was changed. Try again when SHOW MIRROR on Godwit's console says mirroring.")
                }
            }
            entry.horizon.announceWaiter()
            entry.bell.wait(atMost: min(20, deadline.millisLeft))
        }
    }

    func hold(_ seconds: Double, for asker: GateAsker) throws(ErrorResponse) {
        let request = SwitchRequest.holdForChange(database: database, limitSeconds: seconds, asker: asker)
        refuseWaits()
        if beginnerHasLeft { throw Self.gone }
        var isLetGo = false
        let reply = ask(request, within: seconds + Self.replySeconds) { [self] in
            refuseWaits()
            if beginnerHasLeft && !isLetGo {
                isLetGo = true
                // Ends the request, whose reply is still to be taken.
                server.control.post(.switching(.letGo(database: database), reply: nil))
            }
        }
        if beginnerHasLeft { throw Self.gone }
        switch reply {
        case .gate(.done, _), .gate(.doneAlready, _), .done: return
        case .gate(.failed(.timedOut(_, let blockers)), _):
            let rest = blockers.count - blockers.names.count
            throw Self.late(
                "writes of database \"\(database)\" did not come to their end within mirror.ddl_wait (\(seconds) s)",
                detail: blockers.names.joined(separator: "\n") + (rest > 0 ? "\nand \(rest) more" : ""))
        case .gate(.failed(let failure), _): throw ErrorResponse(failure)
        case nil: throw Self.notNow("the control thread does not answer")
        }
    }

    /// A batch whose snapshot is taken from now on has all that was written through this Godwit.
    func drain(
        _ entry: SwitchEngine.Entry, until deadline: Deadline, _ wait: Double
    ) throws(ErrorResponse) {
        let needed = entry.horizon.taking + 1
        entry.horizon.kick()
        while entry.horizon.applied < needed {
            if deadline.hasPassed {
                throw Self.late("the mirror had not caught up within mirror.ddl_wait (\(wait) s)", detail: nil)
            }
            // Announced before it is looked: a batch that ends in between rings again.
            entry.horizon.announceWaiter()
            if entry.horizon.applied >= needed { break }
            entry.bell.wait(atMost: deadline.millisLeft)
        }
    }

    /// No batch begins from now on that would take tables while the DDL does.
    func stand(_ entry: SwitchEngine.Entry, until deadline: Deadline, _ wait: Double) throws(ErrorResponse) {
        entry.orders.isToStand = true
        entry.horizon.kick()
        while !entry.orders.isStanding {
            if deadline.hasPassed {
                throw Self.late("the mirror did not stand still within mirror.ddl_wait (\(wait) s)", detail: nil)
            }
            usleep(Self.standMicros)
        }
    }

    private static let standMicros: UInt32 = 2000

    @discardableResult
    func ask(
        _ request: SwitchRequest, within seconds: Double? = nil, onRequest: (() -> Void)? = nil
    ) -> SwitchReply? {
        _ = replies.take()
        server.control.post(.switching(request, reply: replies))
        let limit = Deadline.now().adding(seconds: seconds ?? Self.replySeconds)
        while !limit.hasPassed {
            if let reply = replies.take().last { return reply }
            var ready = [replies.descriptor, requests.descriptor].map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            _ = poll(&ready, onRequest == nil ? 1 : 2, limit.millisLeft)
            if ready[1].revents != 0 { onRequest?() }
        }
        return nil
    }

    // MARK: logins

    func login(_ side: Side, _ user: String) throws(PostgresFailure) -> ConnectionString {
        let snapshot = server.snapshot
        guard let settings = snapshot.databases[database]?.settings,
            let target = try? ConnectionString(parsing: side == .old ? settings.old : settings.new)
        else { throw PostgresFailure(.connecting, "the database was taken out of the configuration") }
        return target.ofClient(user, of: database, snapshot.auth)
    }

    // MARK: what was left half done

    /// At the start, and while the mirror stands still: another process may have died between the two sides.
    func look() {
        guard followed == nil, let entry = engine.entry(of: database), !engine.isBusy(database),
            isHalfDone || nextLook.hasPassed
        else { return }
        switch entry.horizon.report.state {
        case .standby, .following:
            // Another one has the mirror, and may leave something when it ends.
            hasLooked = false
            return
        case .mirroring, .backfill, .paused: if hasLooked && !isHalfDone { return }
        case .off, .starting, .waiting, .stopped: break
        }
        let direction = MirrorDirection(from: entry.ownership.authority)
        let (source, _) = direction.ends(old: entry.old, new: entry.new)
        guard let isPending = try? Self.isPending(source) else { return }
        hasLooked = true
        nextLook = Deadline.now().adding(seconds: Self.calmSeconds)
        if !isPending { return isHalfDone = false }
        isHalfDone = true
        guard engine.begin(database) else { return }
        defer { engine.end(database) }
        do throws(SchemaChange.Failure) {
            let bulk = server.snapshot.databases[database]?.settings.mirror.bulkTables ?? []
            _ = try SchemaChange.open(direction, old: entry.old, new: entry.new, bulk: bulk, login: login)
            earlierIsSettled()
        } catch {
            let reason = "\(error)"
            if reason == toldReason { return }
            toldReason = reason
            events.append(EventRecord(
                .alarm, database: database, side: direction.target,
                cause: "a DDL that \(direction.source.title) has is still to be made here: \(reason)"))
        }
    }

    private func earlierIsSettled() {
        isHalfDone = false
        toldReason = ""
        events.append(EventRecord(
            .ddl, database: database, cause: "what an earlier DDL had left is settled: both sides are alike"))
    }

    private static func isPending(_ conninfo: String) throws -> Bool {
        try SchemaChange.isPending(try Connection.open(try ConnectionString(parsing: conninfo), purpose: "change"))
    }

    // MARK: what clients are told

    static func notNow(
        _ reason: String, _ hint: String = "Nothing was changed. SHOW MIRROR on Godwit's console says more."
    ) -> ErrorResponse {
        ErrorResponse(.error, SQLState("55000"), "DDL cannot run on both sides now: \(reason)", hint: hint)
    }

    private static func notYet(_ reason: String) -> ErrorResponse {
        ErrorResponse(
            .error, SQLState("55000"), "DDL cannot run on both sides yet: \(reason)",
            detail: "It is not waited for here: this transaction has written, and may hold the locks that it needs.",
            hint: "Nothing was changed. End the transaction and try again: Godwit finishes the earlier change by "
                + "itself when it gets its locks. SHOW EVENTS on its console says so.")
    }

    static func late(_ message: String, detail: String?) -> ErrorResponse {
        ErrorResponse(
            .error, SQLState("55P03"), message, detail: detail,
            hint: "Nothing was changed. Try again when long transactions have ended, or raise mirror.ddl_wait (a "
                + "reload, or SET): writes are held for that long at most.")
    }

    func response(
        to failure: SchemaChange.Failure, _ direction: MirrorDirection, _ wait: Double, isLate: Bool
    ) -> ErrorResponse {
        switch failure {
        case .blocked(let reason): return Self.notNow(reason)
        case .busy(let reason): return Self.notNow(reason, "Nothing was changed. Try again.")
        case .unfit(let reason):
            return ErrorResponse(
                .error, .featureNotSupported, "this statement cannot run on both sides: \(reason)",
                hint: "Nothing was changed. Change both sides directly and run godwit prepare.")
        case .unknown(let reason):
            return ErrorResponse(
                .error, SQLState("08007"), "whether this was done is not known: \(reason)",
                hint: "Look at the table. If it was, Godwit brings it to the other side by itself.")
        case .side(let side, let error) where isLate && (error.kind == .timedOut
            || error.kind == .refused && (error.sqlState == "55P03" || error.sqlState == "57014")):
            return Self.late(
                "\(side.title): \(error.message), within mirror.ddl_wait (\(wait) s)", detail: error.detail)
        case .side(let side, let error) where error.kind == .refused && side == direction.source:
            return ErrorResponse(
                .error, SQLState(error.sqlState), error.message, detail: error.detail.isEmpty ? nil : error.detail)
        case .side(let side, let error) where error.kind == .refused:
            // While tables are copied, a constraint finds there what is not so on the source.
            let lacksRows = error.sqlState.hasPrefix("23")
                && engine.entry(of: database)?.horizon.report.state == .backfill
            return ErrorResponse(
                .error, SQLState(error.sqlState), "\(side.title) refuses it: \(error.message)",
                detail: error.detail.isEmpty ? nil : error.detail,
                hint: "It was taken back on both sides." + (lacksRows
                    ? " \(side.title) does not have all rows yet: try again when SHOW MIRROR on Godwit's console says "
                        + "mirroring." : ""))
        case .side(let side, let error):
            return ErrorResponse(
                .error, error.kind == .connecting ? .cannotConnect : .connectionFailure,
                "\(side.title): \(error.message)",
                hint: "Nothing was changed. DDL runs on both sides in sessions of its own: the user's password must "
                    + "be in the users' file in plain text, in the conninfo, or not be asked for.")
        }
    }
}
