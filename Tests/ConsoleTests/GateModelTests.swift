import Console
import Primitives
import Testing

/// Commands in any order against threads that hear of them late, while transactions begin and end. Each seed is a run.
@Suite struct GateModelTests {
    @Test func `whatever the order, a command is answered once, when it is true, and nothing stays held for ever`() {
        let first = UInt64.random(in: 0 ... .max)
        print("gates: seeds \(first) and the next 399")
        for turn in 0..<400 {
            let seed = first &+ UInt64(turn)
            var world = GateWorld(seed: seed)
            world.run(steps: 150)
            #expect(world.faults.isEmpty, "seed \(seed): \(world.faults.prefix(3))")
            if !world.faults.isEmpty { return }
        }
    }
}

/// Threads with transactions, and their mailboxes.
private struct GateWorld {
    struct Transaction {
        var database: String
        var writes: Bool
        var isOutdated = false
    }

    struct Thread {
        var gate = TrafficGate()
        var transactions: [Transaction] = []
        /// Idle connections by database.
        var idle: [String: Int] = [:]
        /// Servers that are being opened for a switch, by database.
        var opening: [String: Int] = [:]
        var unsent = 0
        var watches: [UInt64: GateCondition] = [:]
        var isDraining = false
        var isListening = true
        var clients = 0
        var inbox: [GateControl.Action] = []
        var outbox: [GateControl.Event] = []
    }

    private(set) var faults: [String] = []
    private var random: SeededGenerator
    private var control: GateControl
    private var threads: [Thread]
    private var now = MonotonicInstant(nanoseconds: 1)
    private var lastID: UInt64 = 0
    private var open: [GateControl.RequestID: GateCommand] = [:]
    private var isStopped = false
    /// The last ENABLE of each database: what a DISABLE before it says is over then.
    private var enabledLast: [ExactName: GateControl.RequestID] = [:]
    private let names = ["a", "b"]

    init(seed: UInt64) {
        random = SeededGenerator(seed: seed)
        let count = Int(random.next() % 3) + 1
        control = GateControl(threads: count)
        threads = Array(repeating: Thread(), count: count)
        for index in threads.indices { threads[index].clients = pick(3) }
        say(.databases(Set(names.map { ExactName($0) }), hasWildcard: false))
    }

    private mutating func pick(_ bound: Int) -> Int { Int(random.next() % UInt64(bound)) }
    private mutating func scope() -> GateScope { [.everything, GateScope("a"), GateScope("b")][pick(3)] }

    mutating func run(steps: Int) {
        let isShutDown = pick(4) == 0
        for step in 0..<steps {
            if isStopped { return }
            if isShutDown && step == steps / 2 { order(.shutdown([.waitForServers, .waitForClients][pick(2)])) }
            takeStep()
        }
        settle()
    }

    private mutating func takeStep() {
        let thread = pick(threads.count)
        switch pick(16) {
        case 0: order(command())
        case 1...4: deliverToThread(thread)
        case 5...8: deliverToControl(thread)
        case 9, 10: begin(thread)
        case 11, 12:
            end(thread)
            opened(thread)
        case 13:
            now = now.advanced(byMillis: UInt64(pick(3000)))
            say(.elapsed(now: now))
        case 14:
            if let id = open.keys.sorted().first, pick(4) == 0 {
                let isGone = pick(2) == 0
                if isGone { open[id] = nil }
                say(isGone ? .gone(id) : .canceled(id))
            }
        default: threads[thread].unsent = 0
        }
    }

    private mutating func command() -> GateCommand {
        let limit = pick(2) == 0 ? nil : Double(pick(4))
        switch pick(11) {
        case 0...2:
            let lifetime = pick(3) == 0 ? Double(pick(4) + 1) : nil
            return .pause(.init(
                scope(), pick(3) == 0 ? .writes : .all, limit: limit, isKept: pick(4) == 0, lifetime: lifetime))
        case 3, 4: return .resume(scope())
        case 5: return pick(2) == 0 ? .disable(names[pick(2)]) : .enable(names[pick(2)])
        case 6: return .reconnect(scope())
        case 7: return .waitClose(scope(), limit: limit)
        case 8: return pick(3) == 0 ? .kill(scope()) : .barrier
        case 9:
            let name = ExactName(names[pick(2)])
            switch pick(4) {
            case 0: return .warm(name, limit: limit ?? 1)
            case 1: return .holdForSwitch(name, limit: limit ?? 1, endsPinned: pick(2) == 0)
            case 2: return .holdForChange(name, limit: limit ?? 1)
            default: return .letGo(name)
            }
        default: return .suspend(limit: limit)
        }
    }

    private mutating func order(_ command: GateCommand) {
        lastID += 1
        let id = GateControl.RequestID(lastID)
        open[id] = command
        if case .enable(let name) = command { enabledLast[ExactName(name)] = id }
        say(.command(id, command, now: now))
    }

    private mutating func say(_ event: GateControl.Event) {
        var actions: [GateControl.Action] = []
        control.handle(event, &actions)
        for action in actions {
            switch action {
            case .answer(let id, let answer): answered(id, answer)
            case .stop:
                isStopped = true
                if threads.contains(where: { $0.clients > 0 }) { faults.append("stopped before clients had gone") }
            case .apply, .watch, .unwatch, .ask, .reconnect, .kill, .endPinned, .drain, .stopListening, .warm, .cool:
                for index in threads.indices { threads[index].inbox.append(action) }
            }
        }
    }

    private mutating func answered(_ id: GateControl.RequestID, _ answer: GateControl.Answer) {
        guard let command = open.removeValue(forKey: id) else { return faults.append("\(id) answered twice") }
        guard case .failed = answer else {
            return check(command, id)
        }
    }

    /// What the answer says must be so on every thread now.
    private mutating func check(_ command: GateCommand, _ id: GateControl.RequestID) {
        for thread in threads {
            let running = thread.transactions
            switch command {
            case .pause(let pause) where pause.hold == .all:
                if running.contains(where: { pause.scope.contains($0.database) })
                    || thread.idle.contains(where: { pause.scope.contains($0.key) && $0.value > 0 })
                {
                    faults.append("paused with open servers")
                }
            case .pause(let pause):
                if running.contains(where: { $0.writes && pause.scope.contains($0.database) }) {
                    faults.append("held with open writes")
                }
            case .kill(let scope):
                if running.contains(where: { scope.contains($0.database) }) {
                    faults.append("killed with transactions")
                }
            case .suspend: if thread.unsent > 0 { faults.append("suspended before all was sent") }
            case .disable(let name) where enabledLast[ExactName(name)].map({ $0 < id }) ?? true:
                if !thread.gate.isDisabled(name), control.gate.isDisabled(name) { faults.append("not disabled") }
            case .holdForSwitch(let name, _, _), .holdForChange(let name, _, _):
                if running.contains(where: { $0.writes && GateScope.database(name).contains($0.database) }) {
                    faults.append("held for a switch with open writes")
                }
            case .warm(let name, _):
                // A later one may have begun to open further ones meanwhile.
                let isWarmedAgain = open.values.contains { if case .warm(name, _) = $0 { true } else { false } }
                if !isWarmedAgain, thread.opening[name.text, default: 0] > 0 {
                    faults.append("warm with servers that are being opened")
                }
            case .resume, .enable, .reconnect, .waitClose, .shutdown, .barrier, .letGo, .disable: break
            }
        }
    }

    // MARK: threads

    private mutating func begin(_ index: Int) {
        let name = names[pick(2)]
        let writes = pick(2) == 0
        let hold = threads[index].gate.hold(of: name)
        if threads[index].gate.isSuspended || threads[index].clients == 0 || hold == .all { return }
        if hold == .writes && writes { return }
        if let idle = threads[index].idle[name], idle > 0 { threads[index].idle[name] = idle - 1 }
        threads[index].transactions.append(Transaction(database: name, writes: writes))
        threads[index].unsent += 1
    }

    private mutating func end(_ index: Int) {
        guard !threads[index].gate.isSuspended, let last = threads[index].transactions.popLast() else { return }
        if threads[index].gate.hold(of: last.database) != .all && !last.isOutdated {
            threads[index].idle[last.database, default: 0] += 1
        }
        look(index)
    }

    private mutating func opened(_ index: Int) {
        for (name, count) in threads[index].opening where count > 0 { threads[index].opening[name] = count - 1 }
        look(index)
    }

    private mutating func deliverToThread(_ index: Int) {
        if threads[index].inbox.isEmpty { return }
        switch threads[index].inbox.removeFirst() {
        case .apply(let gate):
            threads[index].gate = gate
            for name in names where gate.hold(of: name) == .all { threads[index].idle[name] = nil }
        case .watch(let number, let condition): threads[index].watches[number] = condition
        case .unwatch(let number): threads[index].watches[number] = nil
        case .ask(let number):
            guard let condition = threads[index].watches[number] else { break }
            threads[index].outbox.append(
                .standing(watch: number, worker: index, blockers(condition, threads[index])))
        case .reconnect(let scope):
            for place in threads[index].transactions.indices
            where scope.contains(threads[index].transactions[place].database) {
                threads[index].transactions[place].isOutdated = true
            }
        case .kill(let scope):
            threads[index].transactions.removeAll { scope.contains($0.database) }
        case .drain:
            threads[index].isDraining = true
        case .stopListening: threads[index].isListening = false
        case .warm(let scope):
            for name in names where scope.contains(name) { threads[index].opening[name] = pick(3) }
        case .cool(let scope):
            for name in names where scope.contains(name) { threads[index].opening[name] = nil }
        case .stop, .answer, .endPinned: break
        }
        look(index)
    }

    private mutating func look(_ index: Int) {
        if threads[index].isDraining {
            threads[index].clients = min(threads[index].clients, threads[index].transactions.count)
        }
        for (number, condition) in threads[index].watches.sorted(by: { $0.key < $1.key })
        where blockers(condition, threads[index]).isEmpty {
            threads[index].watches[number] = nil
            threads[index].outbox.append(.standing(watch: number, worker: index, GateBlockers()))
        }
    }

    private func blockers(_ condition: GateCondition, _ thread: Thread) -> GateBlockers {
        var blockers = GateBlockers()
        switch condition {
        case .applied: break
        case .noServers(let scope):
            for one in thread.transactions where scope.contains(one.database) { blockers.add("t") }
        case .noWrites(let scope, _), .movable(let scope):
            for one in thread.transactions where one.writes && scope.contains(one.database) { blockers.add("w") }
        case .noneOutdated(let scope):
            for one in thread.transactions where one.isOutdated && scope.contains(one.database) { blockers.add("o") }
        case .flushed: if thread.unsent > 0 { blockers.add("f") }
        case .noClients: for _ in 0..<thread.clients { blockers.add("c") }
        case .warmed(let scope):
            for (name, count) in thread.opening where scope.contains(name) && count > 0 { blockers.add("s") }
        }
        return blockers
    }

    private mutating func deliverToControl(_ index: Int) {
        if !threads[index].outbox.isEmpty { say(threads[index].outbox.removeFirst()) }
    }

    // MARK: the end

    /// Transactions end, everything arrives, everybody is let go.
    private mutating func settle() {
        order(.resume(.everything))
        for name in names {
            order(.resume(GateScope(name)))
            order(.letGo(ExactName(name)))
            order(.enable(name))
        }
        for _ in 0..<1000 {
            now = now.advanced(byMillis: 1000)
            say(.elapsed(now: now))
            for index in threads.indices {
                deliverToThread(index)
                threads[index].unsent = 0
                end(index)
                if control.shutdown == .waitForClients, !threads[index].isListening { threads[index].clients = 0 }
                look(index)
                deliverToControl(index)
            }
            if isStopped { return }
        }
        if control.shutdown != nil { faults.append("a shutdown that hangs") }
        if !open.isEmpty { faults.append("without an answer: \(open)") }
        if control.gate != TrafficGate() { faults.append("still closed: \(control.gate)") }
        for thread in threads where thread.gate != control.gate { faults.append("a thread with another gate") }
        if control.deadline != nil { faults.append("a time that nobody waits for") }
    }
}
