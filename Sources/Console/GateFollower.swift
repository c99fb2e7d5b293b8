import Primitives

/// What operators hold and have disabled. Immutable, any thread.
package struct GateStanding: Equatable, Sendable, Codable {
    package struct Held: Equatable, Sendable, Codable {
        package var scope: GateScope
        package var hold: TrafficGate.Hold
        /// nil: until RESUME.
        package var secondsLeft: Double?

        package init(scope: GateScope, hold: TrafficGate.Hold, secondsLeft: Double?) {
            self.scope = scope
            self.hold = hold
            self.secondsLeft = secondsLeft
        }
    }

    package var holds: [Held] = []
    package var disabled: [ExactName] = []

    package init(holds: [Held] = [], disabled: [ExactName] = []) {
        self.holds = holds
        self.disabled = disabled
    }

    /// As the threads are to have it from the first client on.
    package var gate: TrafficGate {
        var control = GateControl(threads: 1)
        var actions: [GateControl.Action] = []
        control.restore(self, now: MonotonicInstant(nanoseconds: 0), &actions)
        return control.gate
    }
}

/// Between a process that has taken over and the one before it, whose clients are still there: to the control of the
/// new one the old one is a thread more, so that PAUSE is true of both, and RESUME too.
package enum GateWord: Equatable, Sendable, Codable {
    case apply(TrafficGate)
    case watch(UInt64, GateCondition)
    case unwatch(UInt64)
    case ask(UInt64)
    case reconnect(GateScope)
    case kill(GateScope)
    case endPinned(GateScope)

    /// nil: it is about the new process alone; the old one ends by itself.
    package init?(_ action: GateControl.Action) {
        switch action {
        case .apply(let gate): self = .apply(gate)
        case .watch(_, .noClients), .drain, .stopListening, .stop, .answer: return nil
        // The old one's clients have their servers opened when they need them.
        case .warm, .cool: return nil
        case .watch(let number, .warmed): self = .watch(number, .applied)
        // Clients are numbered by each process for itself.
        case .watch(let number, .noWrites(let scope, _)): self = .watch(number, .noWrites(scope))
        case .watch(let number, let condition): self = .watch(number, condition)
        case .unwatch(let number): self = .unwatch(number)
        case .ask(let number): self = .ask(number)
        case .reconnect(let scope): self = .reconnect(scope)
        case .kill(let scope): self = .kill(scope)
        case .endPinned(let scope): self = .endPinned(scope)
        }
    }
}

/// What the old process says of a watch: nothing left, or the answer to `ask`.
package struct GateReply: Equatable, Sendable, Codable {
    package var watch: UInt64
    package var blockers: GateBlockers

    package init(watch: UInt64, blockers: GateBlockers) {
        self.watch = watch
        self.blockers = blockers
    }
}

/// The old process's part: its threads do what the new process's control says, and are heard as one. Pure; owned by
/// its control thread.
package struct GateFollower {
    private struct Watch {
        var met: Set<Int> = []
        var asked: [Int: GateBlockers]?
    }

    /// Its watches are told from those of the process's own control by their numbers.
    private static let firstWatch: UInt64 = 1 << 62

    private let threads: Int
    private var watches: [UInt64: Watch] = [:]

    package init(threads: Int) {
        precondition(threads > 0, "a follower without threads")
        self.threads = threads
    }

    package static func isOurs(_ watch: UInt64) -> Bool { watch >= firstWatch }

    /// - Returns: for all threads; nil: nothing.
    package mutating func follow(_ word: GateWord) -> GateControl.Action? {
        switch word {
        case .apply(let gate): return .apply(gate)
        case .watch(let number, let condition):
            guard number < Self.firstWatch, watches[number] == nil else { return nil }
            watches[number] = Watch()
            return .watch(Self.firstWatch + number, condition)
        case .unwatch(let number):
            return watches.removeValue(forKey: number).map { _ in .unwatch(Self.firstWatch + number) }
        case .ask(let number):
            guard watches[number] != nil else { return nil }
            watches[number]?.asked = [:]
            return .ask(Self.firstWatch + number)
        case .reconnect(let scope): return .reconnect(scope)
        case .kill(let scope): return .kill(scope)
        case .endPinned(let scope): return .endPinned(scope)
        }
    }

    /// - Returns: what the new process is to hear; nil: nothing yet.
    package mutating func stood(_ number: UInt64, _ worker: Int, _ blockers: GateBlockers) -> GateReply? {
        precondition(Self.isOurs(number), "a watch of another's")
        let own = number - Self.firstWatch
        guard var watch = watches[own] else { return nil }
        if blockers.isEmpty { watch.met.insert(worker) } else { watch.asked?[worker] = blockers }
        watches[own] = watch
        if watch.met.count == threads {
            watches[own] = nil
            return GateReply(watch: own, blockers: GateBlockers())
        }
        guard let asked = watch.asked, watch.met.union(asked.keys).count == threads else { return nil }
        watches[own]?.asked = nil
        var all = GateBlockers()
        for (worker, blockers) in asked.sorted(by: { $0.key < $1.key }) where !watch.met.contains(worker) {
            all.add(blockers)
        }
        return GateReply(watch: own, blockers: all)
    }
}
