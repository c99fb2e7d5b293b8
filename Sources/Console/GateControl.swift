import Primitives

/// PAUSE, RESUME, DISABLE, SUSPEND, KILL, WAIT_CLOSE and SHUTDOWN, in any order and number: who holds what, and when
/// each command has come true on all threads. Pure; owned by the control thread.
///
/// The gate is not kept but derived: it is what commands have established together with what those under way ask for.
/// So a command that is given up, for whatever reason, leaves things exactly as they would be without it. A command is
/// answered once: when its condition was met by every thread, or when it is given up.
package struct GateControl {
    package struct RequestID: Hashable, Comparable, Sendable {
        package let value: UInt64
        package init(_ value: UInt64) { self.value = value }
        package static func < (left: RequestID, right: RequestID) -> Bool { left.value < right.value }
    }

    package enum Event: Equatable {
        case command(RequestID, GateCommand, now: MonotonicInstant)
        /// One thread's word of a watch. Nothing left: it is met there. Otherwise the answer to `ask`.
        case standing(watch: UInt64, worker: Int, GateBlockers)
        case elapsed(now: MonotonicInstant)
        /// The console that asked is gone.
        case gone(RequestID)
        /// The console that asked does not want to wait any longer.
        case canceled(RequestID)
        /// The configuration's databases, at the start and after each reload; with `*` every name is one.
        case databases(Set<ExactName>, hasWildcard: Bool)
    }

    package enum Action: Equatable, Sendable {
        /// All of these to all threads, in this order.
        case apply(TrafficGate)
        case watch(UInt64, GateCondition)
        case unwatch(UInt64)
        /// Have every thread say what the watch still waits for.
        case ask(UInt64)
        case reconnect(GateScope)
        case kill(GateScope)
        /// Disconnects who is bound to a server of the authority.
        case endPinned(GateScope)
        /// Opens servers of the side that takes the writes next, and closes those that no switch has made use of.
        case warm(GateScope)
        case cool(GateScope)
        /// No new clients; who is between two transactions is told to go.
        case drain
        case stopListening
        case stop
        case answer(RequestID, Answer)
    }

    package enum Answer: Equatable, Sendable {
        case done
        /// It is so, but not by this command.
        case doneAlready(String)
        case failed(Failure)
    }

    package enum Failure: Equatable, Sendable {
        case unknownDatabase(String)
        case timedOut(GateCommand, GateBlockers)
        /// By RESUME, before it was reached.
        case ended(GateCommand)
        case canceled
        case shuttingDown
        /// RESUME of one while all are held.
        case heldByAll(String)
    }

    private struct Pending {
        var command: GateCommand
        var watch: UInt64
        var met: Set<Int> = []
        var deadline: MonotonicInstant?
        /// Ends the pause, once it is established.
        var endsAt: MonotonicInstant?
        /// Its time is over, and threads have been asked what they wait for.
        var asked: [Int: GateBlockers]?
    }

    private struct Established: Hashable {
        var scope: GateScope
        var hold: TrafficGate.Hold
        /// Not an operator's to end.
        var isSwitch = false
    }

    private let threads: Int
    private var databases: Set<ExactName> = []
    private var hasWildcard = false
    /// With the time at which a pause ends by itself.
    private var established: [Established: MonotonicInstant?] = [:]
    private var isSuspended = false
    private var disabled: Set<ExactName> = []
    private var pending: [RequestID: Pending] = [:]
    private var requests: [UInt64: RequestID] = [:]
    private var lastWatch: UInt64 = 0
    package private(set) var shutdown: GateCommand.Shutdown?
    private var shutdownWatch: (number: UInt64, met: Set<Int>)?
    /// As the threads have it.
    package private(set) var gate = TrafficGate()

    package init(threads: Int) {
        precondition(threads > 0, "a control of nothing")
        self.threads = threads
    }

    /// Commands are under way.
    package var isWaiting: Bool { !pending.isEmpty }

    /// What is in force, for a process that takes over; nil: something is under way that it could not know of.
    package func standing(now: MonotonicInstant) -> GateStanding? {
        if shutdown != nil || isSuspended || isWaiting || established.keys.contains(where: \.isSwitch) { return nil }
        let holds = established.map { key, endsAt in
            let left = endsAt.map { Double($0.nanoseconds(since: now)) / 1_000_000_000 }
            return GateStanding.Held(scope: key.scope, hold: key.hold, secondsLeft: left.map { max($0, 0) })
        }
        return GateStanding(holds: holds, disabled: disabled.sorted { $0.text < $1.text })
    }

    /// As another process has left it. Before any command.
    package mutating func restore(
        _ standing: GateStanding, now: MonotonicInstant, _ actions: inout [Action]
    ) {
        precondition(established.isEmpty && pending.isEmpty && disabled.isEmpty, "a restoration of what has begun")
        for held in standing.holds {
            establish(held.scope, held.hold, endsAt: held.secondsLeft.map { now.advanced(bySeconds: $0) })
        }
        disabled = Set(standing.disabled)
        apply(&actions)
    }

    /// Another process has what operators hold; what is left are the holds of switches.
    package mutating func leaveHolds(_ actions: inout [Action]) {
        for key in established.keys where !key.isSwitch { established[key] = nil }
        disabled = []
        apply(&actions)
    }

    /// When `elapsed` is to be said; nil: nothing has a time.
    package var deadline: MonotonicInstant? {
        let waits = pending.values.filter { $0.asked == nil }.compactMap(\.deadline)
        return (waits + established.values.compactMap { $0 }).min()
    }

    package mutating func handle(_ event: Event, _ actions: inout [Action]) {
        if shutdown == .now { return }
        switch event {
        case .command(let id, let command, let now):
            precondition(pending[id] == nil, "a request that is under way")
            take(id, command, now, &actions)
        case .standing(let watch, let worker, let blockers):
            stood(watch, worker, blockers, &actions)
        case .elapsed(let now):
            elapsed(now, &actions)
        case .gone(let id):
            giveUp(id, nil, &actions)
        case .canceled(let id):
            giveUp(id, .canceled, &actions)
        case .databases(let names, let hasWildcard):
            databases = names
            self.hasWildcard = hasWildcard
        }
    }

    // MARK: commands

    private mutating func take(
        _ id: RequestID, _ command: GateCommand, _ now: MonotonicInstant, _ actions: inout [Action]
    ) {
        if let name = unknownName(in: command) { return actions.append(.answer(id, .failed(.unknownDatabase(name)))) }
        switch command {
        case .pause(let pause):
            let endsAt = pause.lifetime.map { now.advanced(bySeconds: $0) }
            let deadline = [pause.limit.map { now.advanced(bySeconds: $0) }, endsAt].compactMap { $0 }.min()
            begin(id, command, condition(of: pause), deadline: deadline, endsAt: endsAt, &actions)
        case .suspend(let limit):
            if shutdown != nil { return actions.append(.answer(id, .failed(.shuttingDown))) }
            begin(id, command, .flushed, deadline: limit.map { now.advanced(bySeconds: $0) }, &actions)
        case .resume(let scope):
            resume(id, scope, &actions)
        case .disable(let name):
            disabled.insert(ExactName(name))
            begin(id, command, .applied, &actions)
        case .enable(let name):
            disabled.remove(ExactName(name))
            begin(id, command, .applied, &actions)
        case .reconnect(let scope):
            actions.append(.reconnect(scope))
            begin(id, command, .applied, &actions)
        case .kill(let scope):
            establish(scope, .all, endsAt: nil)
            apply(&actions)
            actions.append(.kill(scope))
            begin(id, command, .noServers(scope), &actions)
        case .waitClose(let scope, let limit):
            begin(
                id, command, .noneOutdated(scope), deadline: limit.map { now.advanced(bySeconds: $0) }, &actions)
        case .shutdown(let how):
            shutDown(id, how, &actions)
        case .barrier:
            begin(id, command, .applied, &actions)
        case .holdForSwitch(let name, let limit, let endsPinned):
            let scope = GateScope.database(name)
            begin(id, command, .movable(scope), deadline: now.advanced(bySeconds: limit), &actions)
            if endsPinned { actions.append(.endPinned(scope)) }
        case .holdForChange(let name, let limit, let asker):
            let condition = GateCondition.noWrites(.database(name), but: asker)
            begin(id, command, condition, deadline: now.advanced(bySeconds: limit), &actions)
        case .warm(let name, let limit):
            let scope = GateScope.database(name)
            actions.append(.warm(scope))
            begin(id, command, .warmed(scope), deadline: now.advanced(bySeconds: limit), &actions)
        case .letGo(let name):
            actions.append(.cool(.database(name)))
            for key in established.keys where key.isSwitch && key.scope == .database(name) { established[key] = nil }
            for other in pending.keys.sorted() {
                guard let waiting = pending[other], waiting.command.holdsWritesOf == name else { continue }
                giveUp(other, .ended(waiting.command), &actions)
            }
            begin(id, command, .applied, &actions)
        }
    }

    private func unknownName(in command: GateCommand) -> String? {
        let scope: GateScope
        switch command {
        case .pause(let pause): scope = pause.scope
        case .reconnect(let named), .kill(let named), .waitClose(let named, _): scope = named
        case .disable(let name): scope = GateScope(name)
        // What is held or disabled may be let go, also when a reload has taken it out of the configuration.
        case .resume(let named):
            if established.keys.contains(where: { $0.scope == named }) { return nil }
            scope = named
        case .enable(let name):
            if disabled.contains(ExactName(name)) { return nil }
            scope = GateScope(name)
        case .suspend, .shutdown, .barrier, .letGo: return nil
        case .holdForSwitch(let name, _, _), .holdForChange(let name, _, _), .warm(let name, _): scope = .database(name)
        }
        guard case .database(let name) = scope, !hasWildcard, !databases.contains(name) else { return nil }
        return name.text
    }

    private func condition(of pause: GateCommand.Pause) -> GateCondition {
        switch pause.hold {
        case .all: .noServers(pause.scope)
        case .writes: .noWrites(pause.scope)
        }
    }

    /// Counts the command in, so that the gate has it too, and watches for what makes it true.
    private mutating func begin(
        _ id: RequestID, _ command: GateCommand, _ condition: GateCondition, deadline: MonotonicInstant? = nil,
        endsAt: MonotonicInstant? = nil, _ actions: inout [Action]
    ) {
        lastWatch += 1
        pending[id] = Pending(command: command, watch: lastWatch, deadline: deadline, endsAt: endsAt)
        requests[lastWatch] = id
        apply(&actions)
        actions.append(.watch(lastWatch, condition))
    }

    private mutating func resume(_ id: RequestID, _ scope: GateScope, _ actions: inout [Action]) {
        if case .database(let name) = scope, gate.everything != nil {
            return actions.append(.answer(id, .failed(.heldByAll(name.text))))
        }
        for key in established.keys where key.scope == scope && !key.isSwitch { established[key] = nil }
        if scope == .everything { isSuspended = false }
        for other in pending.keys.sorted() {
            guard let waiting = pending[other] else { continue }
            switch waiting.command {
            case .pause(let pause) where pause.scope == scope: break
            case .suspend where scope == .everything: break
            case .kill(let killed) where killed == scope: break
            case .pause, .suspend, .kill, .resume, .disable, .enable, .reconnect, .waitClose, .shutdown, .barrier,
                .holdForSwitch, .holdForChange, .letGo, .warm:
                continue
            }
            drop(other, &actions)
            actions.append(.unwatch(waiting.watch))
            actions.append(.answer(other, .failed(.ended(waiting.command))))
        }
        begin(id, .resume(scope), .applied, &actions)
    }

    private mutating func shutDown(_ id: RequestID, _ how: GateCommand.Shutdown, _ actions: inout [Action]) {
        if let shutdown, shutdown.rawValue >= how.rawValue { return begin(id, .shutdown(how), .applied, &actions) }
        shutdown = how
        if how == .now {
            actions.append(.answer(id, .done))
            return actions.append(.stop)
        }
        // Whose sockets are not read cannot be seen to go.
        isSuspended = false
        for other in pending.keys.sorted() {
            guard let waiting = pending[other], case .suspend = waiting.command else { continue }
            drop(other, &actions)
            actions.append(.unwatch(waiting.watch))
            actions.append(.answer(other, .failed(.shuttingDown)))
        }
        apply(&actions)
        actions.append(how == .waitForServers ? .drain : .stopListening)
        begin(id, .shutdown(how), .applied, &actions)
        if shutdownWatch == nil {
            lastWatch += 1
            shutdownWatch = (lastWatch, [])
            actions.append(.watch(lastWatch, .noClients))
        }
    }

    // MARK: what comes of them

    private mutating func stood(
        _ watch: UInt64, _ worker: Int, _ blockers: GateBlockers, _ actions: inout [Action]
    ) {
        precondition((0..<threads).contains(worker), "word of a thread that is not there")
        if shutdownWatch?.number == watch {
            if blockers.isEmpty { shutdownWatch?.met.insert(worker) }
            if shutdownWatch?.met.count == threads {
                shutdown = .now
                actions.append(.stop)
            }
            return
        }
        // Words of what was given up meanwhile.
        guard let id = requests[watch], var waiting = pending[id] else { return }
        if blockers.isEmpty { waiting.met.insert(worker) } else { waiting.asked?[worker] = blockers }
        pending[id] = waiting
        if waiting.met.count == threads { return reached(id, waiting, &actions) }
        guard let asked = waiting.asked, waiting.met.union(asked.keys).count == threads else { return }
        var all = GateBlockers()
        for (worker, blockers) in asked.sorted(by: { $0.key < $1.key }) where !waiting.met.contains(worker) {
            all.add(blockers)
        }
        giveUp(id, .timedOut(waiting.command, all), &actions)
    }

    private mutating func reached(_ id: RequestID, _ waiting: Pending, _ actions: inout [Action]) {
        switch waiting.command {
        case .pause(let pause): establish(pause.scope, pause.hold, endsAt: waiting.endsAt)
        case .suspend: isSuspended = true
        case .holdForSwitch(let name, _, _), .holdForChange(let name, _, _):
            establish(.database(name), .writes, endsAt: nil, isSwitch: true)
        case .resume, .disable, .enable, .reconnect, .kill, .waitClose, .shutdown, .barrier, .letGo, .warm: break
        }
        drop(id, &actions)
        actions.append(.answer(id, answer(to: waiting.command)))
    }

    /// RESUME of all leaves what was paused by name: that is said.
    private func answer(to command: GateCommand) -> Answer {
        guard case .resume(.everything) = command, !gate.databases.isEmpty else { return .done }
        let names = gate.databases.keys.map(\.text).sorted().joined(separator: ", ")
        return .doneAlready("still paused by name: \(names)")
    }

    /// - Parameter failure: what its console is told; nil: it has none any more.
    private mutating func giveUp(_ id: RequestID, _ failure: Failure?, _ actions: inout [Action]) {
        guard let waiting = pending[id] else { return }
        if case .pause(let pause) = waiting.command, pause.isKept {
            establish(pause.scope, pause.hold, endsAt: waiting.endsAt)
        }
        drop(id, &actions)
        actions.append(.unwatch(waiting.watch))
        if let failure { actions.append(.answer(id, .failed(failure))) }
    }

    private mutating func elapsed(_ now: MonotonicInstant, _ actions: inout [Action]) {
        for (key, endsAt) in established { if let endsAt, endsAt <= now { established[key] = nil } }
        apply(&actions)
        for id in pending.keys.sorted() {
            guard let waiting = pending[id], waiting.asked == nil, let deadline = waiting.deadline, deadline <= now
            else { continue }
            pending[id]?.asked = [:]
            actions.append(.ask(waiting.watch))
        }
    }

    private mutating func drop(_ id: RequestID, _ actions: inout [Action]) {
        guard let waiting = pending.removeValue(forKey: id) else { return }
        requests[waiting.watch] = nil
        apply(&actions)
    }

    // MARK: the gate

    /// The later end counts, and none before any.
    private mutating func establish(
        _ scope: GateScope, _ hold: TrafficGate.Hold, endsAt: MonotonicInstant?, isSwitch: Bool = false
    ) {
        let key = Established(scope: scope, hold: hold, isSwitch: isSwitch)
        guard let known = established[key] else { return established[key] = .some(endsAt) }
        if let known, let endsAt { established[key] = .some(max(known, endsAt)) } else { established[key] = .some(nil) }
    }

    private mutating func apply(_ actions: inout [Action]) {
        var next = TrafficGate()
        next.disabled = disabled
        next.isSuspended = isSuspended
        var holds = Array(established.keys)
        for waiting in pending.values {
            switch waiting.command {
            case .pause(let pause): holds.append(Established(scope: pause.scope, hold: pause.hold))
            case .suspend: next.isSuspended = true
            case .holdForSwitch(let name, _, _), .holdForChange(let name, _, _):
                holds.append(Established(scope: .database(name), hold: .writes))
            case .resume, .disable, .enable, .reconnect, .kill, .waitClose, .shutdown, .barrier, .letGo, .warm: break
            }
        }
        for held in holds {
            switch held.scope {
            case .everything: next.everything = max(next.everything ?? held.hold, held.hold)
            case .database(let name): next.databases[name] = max(next.databases[name] ?? held.hold, held.hold)
            }
        }
        if next == gate { return }
        gate = next
        actions.append(.apply(next))
    }
}
