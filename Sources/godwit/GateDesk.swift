import Configuration
import Console
import Glibc
import Logging
import PGWire
import Primitives
import Proxy

/// Carries operators' orders between consoles, signals and the threads, as `GateControl` says. Used on the control
/// thread.
final class GateDesk {
    private enum Origin {
        case console(worker: Int, client: ClientID)
        /// The thread of a switch, after one more command if it has one.
        case mail(Mailbox<SwitchReply>?, next: GateCommand?)
    }

    private let server: ProxyServer
    private let events: EventLog
    private let logger: Logger
    private var control: GateControl
    private var lastRequest: UInt64 = 0
    /// When a thread looked whose word is being handled: what comes true with it did so then, not when we hear of it.
    private var stoodAt: MonotonicInstant?
    /// Whom to answer; a signal has nobody.
    private var origins: [GateControl.RequestID: Origin] = [:]
    /// The process before this one, whose clients do as ours: to the control it is a thread more, the last one.
    private var predecessor: ((GateWord) -> Bool)?
    private let hadPredecessor: Bool
    /// Watches that it has not answered yet.
    private var askedThere: Set<UInt64> = []
    /// Another process has taken our place: what it orders, and how far that is.
    private var follower: (machine: GateFollower, gate: TrafficGate)?

    /// - Parameters:
    ///   - standing: what is held and disabled already.
    ///   - predecessor: passes a word on to the process before this one; false: it has ended.
    init(
        _ server: ProxyServer, standing: GateStanding, predecessor: ((GateWord) -> Bool)?, events: EventLog,
        logger: Logger
    ) {
        self.server = server
        self.events = events
        self.logger = logger
        self.predecessor = predecessor
        hadPredecessor = predecessor != nil
        control = GateControl(threads: server.threadCount + (hadPredecessor ? 1 : 0))
        var actions: [GateControl.Action] = []
        control.restore(standing, now: .now(), &actions)
        perform(actions)
    }

    // MARK: what comes in

    func tell(of snapshot: ProxySnapshot) {
        let names = snapshot.settings.databases.filter { !$0.isWildcard }.map { ExactName($0.name) }
        handle(.databases(Set(names), hasWildcard: snapshot.wildcard != nil))
    }

    func take(_ command: GateCommand, worker: Int, client: ClientID) {
        let id = makeRequest()
        origins[id] = .console(worker: worker, client: client)
        handle(.command(id, command, now: .now()))
    }

    /// - Parameter next: taken when the first has come true on all threads, or never will; its end is what is told.
    func take(_ command: GateCommand, then next: GateCommand? = nil, for mailbox: Mailbox<SwitchReply>?) {
        let id = makeRequest()
        origins[id] = .mail(mailbox, next: next)
        handle(.command(id, command, now: .now()))
    }

    /// What a command has changed is told when all threads have it.
    func answer(worker: Int, client: ClientID, _ outcome: ControlOutcome) {
        switch outcome {
        case .done: take(.barrier, worker: worker, client: client)
        case .noticed, .refused, .failed, .table: server.answer(worker: worker, client: client, outcome)
        }
    }

    /// What a process that would take over could not know of; nil: nothing.
    var obstacle: String? {
        if control.shutdown != nil { return "it is shutting down" }
        if control.gate.isSuspended { return "it is suspended: RESUME first" }
        if control.isWaiting { return "an operator's command waits to come true" }
        return standing == nil ? Self.switchObstacle : nil
    }

    static let switchObstacle = "a switch of the authority is under way"

    /// What the process that takes over holds and has disabled from the start; nil: see `obstacle`.
    var standing: GateStanding? { control.standing(now: .now()) }

    /// The end that was ordered; nil: none was.
    var shutdown: GateCommand.Shutdown? { control.shutdown }

    /// Something is held that RESUME without a name, and so SIGUSR2, lets go.
    var isHolding: Bool { control.gate.everything != nil || control.gate.isSuspended }

    /// Clients leave by themselves, and new ones go to the process that has taken over, which says what is held.
    func leave() {
        follower = (GateFollower(threads: server.threadCount), control.gate)
        var actions: [GateControl.Action] = []
        control.leaveHolds(&actions)
        perform(actions)
        order(.shutdown(.waitForClients), by: nil)
    }

    // MARK: with the process before, and the one after

    /// What the process that has our place orders of all traffic.
    func follow(_ word: GateWord) {
        guard let action = follower?.machine.follow(word) else { return }
        if case .apply(let gate) = action {
            follower?.gate = gate
            server.order(.apply(effective(control.gate)))
        } else {
            server.order(action)
        }
    }

    /// The process that has our place has ended: nobody could let go what it holds, for orders are refused here.
    func successorEnded() {
        guard follower != nil else { return }
        follower?.gate = TrafficGate()
        server.order(.apply(effective(control.gate)))
    }

    /// - Returns: what the process that has our place is to hear.
    func stood(_ watch: UInt64, _ worker: Int, _ blockers: GateBlockers, at: MonotonicInstant) -> GateReply? {
        if GateFollower.isOurs(watch) { return follower?.machine.stood(watch, worker, blockers) }
        stoodAt = at
        defer { stoodAt = nil }
        handle(.standing(watch: watch, worker: worker, blockers))
        return nil
    }

    /// The process before this one says how far it is.
    func stoodThere(_ reply: GateReply) {
        guard hadPredecessor else { return }
        if reply.blockers.isEmpty { askedThere.remove(reply.watch) }
        handle(.standing(watch: reply.watch, worker: server.threadCount, reply.blockers))
    }

    /// Who has ended holds nothing, and nothing is open there.
    func predecessorEnded() {
        predecessor = nil
        for watch in askedThere.sorted() { stoodThere(GateReply(watch: watch, blockers: GateBlockers())) }
    }

    private func pass(_ action: GateControl.Action) {
        guard hadPredecessor else { return }
        let isPassed = GateWord(action).flatMap { predecessor?($0) } ?? false
        switch action {
        case .watch(let number, _):
            askedThere.insert(number)
            if !isPassed { stoodThere(GateReply(watch: number, blockers: GateBlockers())) }
        case .unwatch(let number): askedThere.remove(number)
        case .apply, .ask, .reconnect, .kill, .endPinned, .warm, .cool, .drain, .stopListening, .stop, .answer: break
        }
    }

    private func effective(_ gate: TrafficGate) -> TrafficGate { follower.map { gate.union($0.gate) } ?? gate }

    func drain() { order(.shutdown(.waitForServers), by: nil) }

    func take(signal number: CInt) {
        switch number {
        case SIGUSR1: order(.pause(.init(.everything, isKept: true)), by: "SIGUSR1")
        case SIGUSR2: order(.resume(.everything), by: "SIGUSR2")
        default:
            let isSecond = control.shutdown == .waitForServers
            let isUrgent = isSecond || number != SIGTERM
            events.append(EventRecord(
                .shutdown, cause: "\(Self.name(number)): \(isUrgent ? "ending" : "draining")"))
            order(.shutdown(isUrgent ? .now : .waitForServers), by: nil)
        }
    }

    private func order(_ command: GateCommand, by signal: String?) {
        if let signal { events.append(EventRecord(.order, cause: "\(command.words), by \(signal)")) }
        handle(.command(makeRequest(), command, now: .now()))
    }

    func gone(worker: Int, client: ClientID) {
        guard let id = request(of: worker, client) else { return }
        origins[id] = nil
        handle(.gone(id))
    }

    func canceled(worker: Int, client: ClientID) {
        if let id = request(of: worker, client) { handle(.canceled(id)) }
    }

    private func makeRequest() -> GateControl.RequestID {
        lastRequest += 1
        return GateControl.RequestID(lastRequest)
    }

    private func request(of worker: Int, _ client: ClientID) -> GateControl.RequestID? {
        origins.first { entry in
            if case .console(worker, client) = entry.value { true } else { false }
        }?.key
    }

    // MARK: time

    /// Milliseconds until something is due; -1: nothing is.
    var waitMillis: CInt {
        guard let deadline = control.deadline else { return -1 }
        return CInt(min(deadline.nanoseconds(since: .now()) / 1_000_000 + 1, 60_000))
    }

    func checkTime() {
        let now = MonotonicInstant.now()
        if let deadline = control.deadline, deadline <= now { handle(.elapsed(now: now)) }
    }

    // MARK: what is to be done

    func handle(_ event: GateControl.Event) {
        var actions: [GateControl.Action] = []
        control.handle(event, &actions)
        perform(actions)
    }

    private func perform(_ actions: [GateControl.Action]) {
        for action in actions {
            switch action {
            case .answer(let id, let answer): tell(id, answer)
            case .apply(let gate):
                logger.notice("\(Self.words(effective(gate)))")
                server.order(.apply(effective(gate)))
            case .watch, .unwatch, .ask, .reconnect, .kill, .endPinned, .warm, .cool, .drain, .stopListening, .stop:
                server.order(action)
            }
            pass(action)
        }
    }

    private func tell(_ id: GateControl.RequestID, _ answer: GateControl.Answer) {
        guard let origin = origins.removeValue(forKey: id) else { return }
        guard case .console(let worker, let client) = origin else {
            guard case .mail(let mailbox, let next) = origin else { return }
            if let next { return take(next, for: mailbox) }
            mailbox?.post(.gate(answer, at: stoodAt ?? .now()))
            return
        }
        let outcome: ControlOutcome =
            switch answer {
            case .done: .done
            case .doneAlready(let words): .noticed(words)
            case .failed(let failure): .failed(ErrorResponse(failure))
            }
        if case .failed(let error) = outcome {
            let detail = error.detail.map { ": " + $0.replacing("\n", with: "; ") } ?? ""
            events.append(EventRecord(.order, cause: "\(error.message)\(detail)"))
        }
        server.answer(worker: worker, client: client, outcome)
    }

    private static func name(_ signal: CInt) -> String {
        switch signal {
        case SIGTERM: "SIGTERM"
        case SIGINT: "SIGINT"
        case SIGQUIT: "SIGQUIT"
        default: "signal \(signal)"
        }
    }

    private static func words(_ gate: TrafficGate) -> String {
        var words: [String] = []
        if let hold = gate.everything { words.append("holding \(hold) of every database") }
        for (name, hold) in gate.databases.sorted(by: { $0.key.text < $1.key.text }) {
            words.append("holding \(hold) of \"\(name)\"")
        }
        if gate.isSuspended { words.append("suspended") }
        for name in gate.disabled.map(\.text).sorted() { words.append("\"\(name)\" is disabled") }
        return words.isEmpty ? "nothing is held, suspended or disabled" : words.joined(separator: ", ")
    }
}
