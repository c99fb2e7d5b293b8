import Console
import Glibc
import LibPQ
import Logging
import Migration
import Mirroring
import PGWire
import Primitives
import Proxy
import Synchronization

/// Moves the writes of a database from one side to the other, on the thread of whoever asks, which blocks for as long
/// as it takes. Any thread; one switch of a database at a time.
final class SwitchEngine: Sendable {
    /// What it needs to know of a mirrored database; the control thread keeps it up to date.
    struct Entry: Sendable {
        var old: String
        var new: String
        var ownership: Ownership
        var horizon: Horizon
        var orders: MirrorOrders
        var bell: BatchBell
        /// To the coming authority, for the pools.
        var connectionsNeeded: Int
        var mappings = TableMappings.none
        /// Commits wait for batches (`mirror.mode: sync`).
        var isSynchronous = false
    }

    /// Wakes who waits for a batch of one horizon.
    final class BatchBell: Sendable {
        private let mailbox = Mailbox<Bool>()
        private let horizon: Horizon

        init(_ horizon: Horizon) {
            self.horizon = horizon
            horizon.wakeAfterBatches(mailbox.descriptor)
        }

        /// The horizon outlives it where a mirror ends and another one begins.
        deinit { horizon.wakeNoLonger(mailbox.descriptor) }

        /// Until a batch has ended, or the time is over.
        func wait(atMost millis: CInt) {
            var ready = pollfd(fd: mailbox.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, max(1, millis))
            drain(eventDescriptor: mailbox.descriptor)
        }
    }

    private let entries = Mutex<[String: Entry]>([:])
    /// Who has the turn of a database.
    private enum Turn { case moves, changes, looks }

    private let busy = Mutex<[String: Turn]>([:])
    /// Seconds for which a look at the guard rails is waited for, which comes every few seconds while a migration is
    /// before its cutover; and for which that, and a switch, waits for DDL: what a client does for a moment is no
    /// reason to pause a migration whose cutover has come.
    private static let lookSeconds = 5.0
    private static let lookMicros: UInt32 = 5000
    private let control: Mailbox<ControlMessage>
    private let events: EventLog
    private let logger: Logger
    /// This process among all Godwits of a database.
    let id = "\(getpid())-\(UInt64.random(in: 0 ... .max))"

    init(_ control: Mailbox<ControlMessage>, events: EventLog, logger: Logger) {
        self.control = control
        self.events = events
        self.logger = logger
    }

    // MARK: the control thread

    func set(_ database: String, _ entry: Entry?) { entries.withLock { $0[database] = entry } }

    /// A reload: pools have another size.
    func need(connections: Int, _ database: String) {
        entries.withLock { $0[database]?.connectionsNeeded = connections }
    }

    func own(_ ownership: Ownership, _ database: String) {
        entries.withLock { $0[database]?.ownership = ownership }
    }

    /// Who takes the writes, as this process has it; nil: the database has no mirror.
    func ownership(of database: String) -> Ownership? { entries.withLock { $0[database]?.ownership } }

    /// This process performs a switch of it now.
    func isBusy(_ database: String) -> Bool { busy.withLock { $0[database] != nil } }

    /// It performs a switch of some database, of which others see nothing yet.
    var isMoving: Bool { busy.withLock { $0.values.contains(.moves) } }

    // MARK: whoever changes the schema

    func entry(of database: String) -> Entry? { entries.withLock { $0[database] } }

    /// - Returns: false while a switch of it is under way, which `end` lets begin again.
    ///
    /// - Parameter seconds: for so long that is waited for as well.
    func begin(_ database: String, patienceSeconds seconds: Double? = nil) -> Bool {
        begin(database, .changes, patienceSeconds: seconds)
    }

    func end(_ database: String) { busy.withLock { $0[database] = nil } }

    private func begin(_ database: String, _ turn: Turn, patienceSeconds seconds: Double? = nil) -> Bool {
        let end = Deadline.now().adding(seconds: seconds ?? Self.lookSeconds)
        while true {
            let present = busy.withLock { busy in
                let present = busy[database]
                if present == nil { busy[database] = turn }
                return present
            }
            guard let present else { return true }
            let isPassing = seconds != nil || present == .looks || present == .changes && turn != .changes
            if !isPassing || end.hasPassed { return false }
            usleep(Self.lookMicros)
        }
    }

    // MARK: whoever wants a switch

    /// - Parameter mayGoOn: false: it is given up, unless its commit point is near.
    func perform(_ order: SwitchOrder, mayGoOn: @escaping @Sendable () -> Bool = { true }) -> SwitchReport {
        guard var entry = entries.withLock({ $0[order.database] }) else {
            return refused(order, GuardRail(
                "database", value: "\"\(order.database)\" has no mirror", threshold: "a database with a mirror",
                isMet: false, advice: "Set mirror.mode and run godwit prepare"))
        }
        if entry.ownership.authority == order.verb.authority {
            let side = order.verb.authority.title
            return refused(order, GuardRail(
                "authority", value: "\(side) takes the writes already", threshold: order.verb.authority.other.title,
                isMet: false, advice: "There is nothing to do"))
        }
        if !begin(order.database, order.isDryRun ? .looks : .moves) {
            return refused(order, GuardRail(
                "alone", value: "another switch is under way", threshold: "none", isMet: false,
                advice: "Wait for its end"))
        }
        defer { end(order.database) }
        // It may have been waited for.
        entry = entries.withLock { $0[order.database] } ?? entry
        let run = SwitchRun(order, entry, control, id: id, mayGoOn: mayGoOn)
        let report = run.perform()
        tell(report)
        return report
    }

    private func refused(_ order: SwitchOrder, _ rail: GuardRail) -> SwitchReport {
        var report = SwitchReport(order, .refused)
        report.rails = [rail]
        return report
    }

    private func tell(_ report: SwitchReport) {
        let steps = report.steps.map { "\($0.name.rawValue) \(SwitchReport.tenths($0.millis)) ms" }
        logger.notice("\(report.order.verb.rawValue) of \"\(report.order.database)\": \(report.summary)", metadata: [
            "steps": "\(steps.joined(separator: ", "))",
        ])
        if report.order.isDryRun { return }
        events.append(EventRecord(
            .authority, database: report.order.database, side: report.order.verb.authority,
            cause: "\(report.order.verb.rawValue): \(report.summary)",
            figures: [.init("held_ms", report.heldMillis), .init("epoch", Double(report.epoch))]))
    }
}

/// One switch, step by step. Confined to the thread that performs it.
private final class SwitchRun {
    private let order: SwitchOrder
    private let entry: SwitchEngine.Entry
    private let control: Mailbox<ControlMessage>
    private let replies = Mailbox<SwitchReply>()
    private let direction: MirrorDirection
    private let id: String
    private var session: SwitchSession?
    private var call: SwitchCall?
    private var report: SwitchReport
    private var heldSince: MonotonicInstant?
    private var deadline = Deadline.now()
    /// The first batches whose snapshots are surely taken behind the reservation, and behind the fence.
    private var batches: (reserved: UInt64, fenced: UInt64) = (0, 0)
    private let killAt: String?
    private let mayGoOn: () -> Bool

    /// Seconds for which a side that does not answer is asked again before it is left to the recovery.
    private static let patienceSeconds = 20.0
    private static let firstBatchSeconds = 2.0
    /// Seconds for other Godwits to notice that a switch is near. Nobody is held yet: long enough that one that was
    /// killed a moment ago counts as gone.
    private static let alertSeconds = SwitchCall.leaseSeconds + 6
    /// Seconds for servers of the coming authority to be opened before anybody is held.
    private static let warmSeconds = 3.0
    /// Seconds for the threads of this process to take something.
    private static let replySeconds = 30.0

    init(
        _ order: SwitchOrder, _ entry: SwitchEngine.Entry, _ control: Mailbox<ControlMessage>, id: String,
        mayGoOn: @escaping () -> Bool
    ) {
        self.id = id
        self.mayGoOn = mayGoOn
        self.order = order
        self.entry = entry
        self.control = control
        direction = MirrorDirection(from: order.verb.authority.other)
        report = SwitchReport(order, .refused)
        killAt = getenv("GODWIT_DIE_BEFORE").map { String(cString: $0) }
    }

    func perform() -> SwitchReport {
        defer { entry.orders.isHurried = false }
        var machine = SwitchMachine(isDryRun: order.isDryRun)
        var action = machine.handle(.start)
        while true {
            switch action {
            case .perform(let step): action = machine.handle(timed(step))
            case .findOutAboutClaim: action = machine.handle(findOut())
            case .takeBack(let mayBeFenced): action = machine.handle(takeBack(mayBeFenced))
            case .finish(let outcome):
                call?.end()
                call = nil
                session = nil
                report.outcome = outcome
                return report
            }
        }
    }

    /// For the tests: the process ends before a step as if it had been killed there.
    private func dieIfTold(_ name: String) {
        if killAt == name || killAt == "\(order.verb.rawValue) \(name)" { _ = kill(getpid(), SIGKILL) }
    }

    private func timed(_ step: SwitchStep) -> SwitchMachine.Event {
        dieIfTold(step.rawValue)
        let began = MonotonicInstant.now()
        let event = isGivenUp(before: step)
            ? .failed(step, reason: "it was given up, or is another Godwit's to order now") : perform(step)
        report.steps.append(.init(step, millis: Double(MonotonicInstant.now().nanoseconds(since: began)) / 1e6))
        return event
    }

    /// Behind the commit point there is only one way.
    private func isGivenUp(before step: SwitchStep) -> Bool {
        switch step {
        case .reserve, .hold, .fence, .batch, .sequences, .claim: !mayGoOn()
        case .rails, .swap, .handOver, .reverse: false
        }
    }

    private func perform(_ step: SwitchStep) -> SwitchMachine.Event {
        do throws(SwitchSession.Failure) {
            switch step {
            case .rails: return try rails() ? .done(.rails) : .railsMissed
            case .reserve:
                try alertOthers()
                try need().reserve()
                batches.reserved = nextBatch()
                // Not worth a failure: who finds no server behind the switch has one opened.
                ask(.warm(database: order.database, limitSeconds: Self.warmSeconds))
            case .hold:
                entry.orders.isHurried = true
                heldSince = .now()
                deadline = Deadline.now().adding(seconds: Double(order.deadlineMillis) / 1000)
                try call?.announce()
                if !entry.isSynchronous { entry.orders.waitForLastWrites() }
                defer { entry.orders.lastWritesEnded() }
                if let reason = hold() { return .failed(.hold, reason: reason) }
                if let reason = try othersHold() { return .failed(.hold, reason: reason) }
                entry.horizon.kick()  // it is mostly the last batch already, and travels while the fence is put up
            case .fence:
                try need().fence(until: deadline)
                batches.fenced = nextBatch()
            case .sequences: try need().raiseSequences(until: deadline)
            case .batch:
                guard try awaitBatch() else {
                    return .failed(.batch, reason: "the mirror had not caught up within the deadline")
                }
            case .claim: return claim()
            case .swap:
                noteHeld(ask(.own(
                    database: order.database, side: order.verb.authority, epoch: report.epoch, letsGo: true)))
                call?.end()
            case .handOver: try need().handOver()
            case .reverse:
                session = nil  // whose locks a recovery would wait for
                ask(.turnMirror(database: order.database))
            }
            return .done(step)
        } catch {
            if step == .rails {
                report.rails.append(GuardRail(
                    "reachable", value: "\(error)", threshold: "both sides answer, and no other switch is under way",
                    isMet: false, advice: "See the message"))
                return .railsMissed
            }
            return .failed(step, reason: "\(error)")
        }
    }

    private func need() throws(SwitchSession.Failure) -> SwitchSession {
        guard let session else { throw .other("the sessions are gone") }
        return session
    }

    // MARK: steps

    private func rails() throws(SwitchSession.Failure) -> Bool {
        let opened = try SwitchSession.open(
            direction, old: entry.old, new: entry.new, mappings: entry.mappings)
        session = opened
        report.epoch = opened.epoch
        awaitFirstBatch()
        report.rails = try opened.rails(
            order, horizon: entry.horizon, connectionsNeeded: entry.connectionsNeeded)
        return report.rails.allSatisfy(\.isMet)
    }

    /// A mirror that has just begun, after an earlier switch, is given a moment.
    private func awaitFirstBatch() {
        let end = Deadline.now().adding(seconds: Self.firstBatchSeconds)
        func isThere() -> Bool {
            let report = entry.horizon.report
            return report.state == .mirroring && report.lastAppliedNanos > 0
        }
        while !isThere(), !end.hasPassed {
            entry.horizon.announceWaiter()
            entry.bell.wait(atMost: min(50, end.millisLeft))
        }
    }

    /// Other Godwits of the database are to hold at the same time: they look each second, and often once they know.
    private func alertOthers() throws(SwitchSession.Failure) {
        let call = try need().makeCall(id: id)
        self.call = call
        try call.alert()
        let end = Deadline.now().adding(seconds: Self.alertSeconds)
        while try !call.missing(isHolding: false).isEmpty {
            if end.hasPassed { throw .other("another Godwit of this database lives, and does not answer") }
            usleep(20_000)
        }
    }

    /// - Returns: who does not; nil: all do.
    private func othersHold() throws(SwitchSession.Failure) -> String? {
        while let missing = try call?.missing(isHolding: true), !missing.isEmpty {
            if deadline.hasPassed { return "other Godwits do not hold yet: \(missing.joined(separator: ", "))" }
            usleep(1000)
        }
        return nil
    }

    /// - Returns: why not; nil: nothing runs that may write, and nothing will begin.
    private func hold() -> String? {
        let limit = Double(order.deadlineMillis) / 1000
        let answer = ask(
            .hold(database: order.database, limitSeconds: limit, endsPinned: order.endsPinned),
            within: limit + Self.replySeconds)
        switch answer {
        case .gate(.done, _), .gate(.doneAlready, _), .done: return nil
        case .gate(.failed(.timedOut(_, let blockers)), _):
            let names = blockers.names.prefix(3).joined(separator: "; ")
            return "\(blockers.count) units or sessions had not come to their end: \(names)"
        case .gate(.failed(let failure), _): return "\(failure)"
        case nil: return "the control thread does not answer"
        }
    }

    /// - Returns: the next batch's number: its snapshot is taken from now on.
    private func nextBatch() -> UInt64 {
        defer { entry.horizon.kick() }
        return entry.horizon.taking + 1
    }

    /// A batch whose snapshot was taken behind the fence, when no one can write on the source any more, is the last.
    /// So is one that was taken before and has left nothing in the journal, if it has seen what leaves no trace there
    /// (partitions that go) and cannot happen behind the reservation's locks.
    private func awaitBatch() throws(SwitchSession.Failure) -> Bool {
        while true {
            // Announced before it is looked: a batch that ends in between rings again.
            entry.horizon.announceWaiter()
            let applied = entry.horizon.applied
            if applied >= batches.fenced { return true }
            if applied >= batches.reserved, try need().isJournalEmpty(until: deadline) { return true }
            if deadline.hasPassed { return false }
            if entry.horizon.applied == applied { entry.bell.wait(atMost: deadline.millisLeft) }
        }
    }

    private func claim() -> SwitchMachine.Event {
        entry.orders.isEnding = true
        do throws(SwitchSession.ClaimFailure) {
            guard let session else { return .failed(.claim, reason: "the sessions are gone") }
            try session.claim(owner: "process \(getpid())", until: deadline)
            return .done(.claim)
        } catch {
            switch error {
            case .refused(let failure):
                entry.orders.isEnding = false
                return .failed(.claim, reason: "\(failure)")
            case .unknown(let failure):
                return .claimUnknown(reason: "\(failure)")
            }
        }
    }

    private func letGo() {
        noteHeld(ask(.letGo(database: order.database)))
    }

    /// - Parameter reply: that all have gone on. They have when the last thread says so, not when we are told.
    private func noteHeld(_ reply: SwitchReply?) {
        guard let heldSince else { return }
        let end: MonotonicInstant = if case .gate(_, let at)? = reply { at } else { .now() }
        report.heldMillis = Double(end.nanoseconds(since: heldSince)) / 1e6
    }

    private func findOut() -> SwitchMachine.Event {
        dieIfTold("find_out")
        var reason = ""
        for _ in attempts() {
            do throws(SwitchSession.Failure) {
                let isClaimed = try need().findOutAboutClaim()
                if !isClaimed { entry.orders.isEnding = false }
                return .claimFound(isClaimed)
            } catch {
                reason = "\(error)"
            }
        }
        entry.orders.isEnding = false
        letGo()
        return .claimUnreachable(reason: reason)
    }

    private func takeBack(_ mayBeFenced: Bool) -> SwitchMachine.Event {
        dieIfTold("take_back")
        var reason = ""
        for _ in attempts() {
            do throws(SwitchSession.Failure) {
                try session?.takeBack(mayBeFenced: mayBeFenced)
                letGo()
                return .takenBack
            } catch {
                reason = "\(error)"
            }
        }
        letGo()
        return .takeBackFailed(reason: reason)
    }

    /// Until the patience is over, a pause between each two.
    private func attempts() -> some Sequence<Int> {
        let end = Deadline.now().adding(seconds: Self.patienceSeconds)
        return sequence(first: 0) { number in
            if end.hasPassed { return nil }
            usleep(100_000)
            return number + 1
        }
    }

    // MARK: the control thread

    @discardableResult
    private func ask(_ request: SwitchRequest, within seconds: Double = SwitchRun.replySeconds) -> SwitchReply? {
        control.post(.switching(request, reply: replies))
        let limit = Deadline.now().adding(seconds: seconds)
        while !limit.hasPassed {
            if let reply = replies.take().last { return reply }
            var ready = pollfd(fd: replies.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, limit.millisLeft)
        }
        return nil
    }
}

extension SwitchOrder {
    init(_ command: SwitchCommand) {
        self.init(command.toNew ? .cutover : .rollback, command.database)
        isDryRun = command.isDryRun
        if let millis = command.deadlineMillis { deadlineMillis = millis }
        if command.waivesVerify { evidence = .waived }
        endsPinned = command.endsPinned
    }
}

extension ConsoleReport {
    /// Guard rails, steps and outcome of a switch.
    init(_ report: SwitchReport) {
        self.init(SwitchCommand.columns)
        for rail in report.rails {
            append(["rail", rail.name, rail.value, rail.threshold, rail.isMet ? "yes" : "no", rail.advice])
        }
        for step in report.steps {
            append(["step", step.name.rawValue, "\(SwitchReport.tenths(step.millis)) ms", "", "", ""])
        }
        let isGood = report.isDone || report.outcome == .ready
        append(["outcome", report.order.verb.rawValue, report.summary, "", isGood ? "yes" : "no", ""])
    }
}

extension ControlOutcome {
    /// A dry run answers with its findings whatever they are; a switch that was not made is an error.
    init(_ report: SwitchReport) {
        if report.isDone || report.order.isDryRun {
            self = .table(ConsoleReport(report))
            return
        }
        let missed = report.rails.filter { !$0.isMet }
        let detail = missed.map { "\($0.name): \($0.value); wanted: \($0.threshold). \($0.advice)" }
        self = .failed(ErrorResponse(
            .error, SQLState("55000"), "the \(report.order.verb.rawValue) was not made: \(report.summary)",
            detail: detail.isEmpty ? nil : detail.joined(separator: "\n"),
            hint: "\(report.order.verb.rawValue.uppercased()) \(report.order.database) DRY RUN lists all guard rails."))
    }
}
