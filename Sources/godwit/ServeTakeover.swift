import Configuration
import Console
import Glibc
import Lifecycle
import Logging
import Migration
import Mirroring
import Primitives
import Proxy

/// The control thread's part of taking over and being taken over.
extension ServeAssembly {
    mutating func handle(
        _ message: ControlMessage, _ lifeCycle: LifeCycle, _ server: ProxyServer, _ gate: GateDesk,
        _ engine: SwitchEngine
    ) {
        switch message {
        case .takeover(.canceled(let number)): lifeCycle.passedOn(number, server)
        case .takeover(.cancel(let number, let processID, let secret)):
            server.cancel(processID: processID, secret: secret, by: Canceller(passedOn: number))
        case .takeover(.gate(let text)):
            if let word = HandOverText.value(GateWord.self, text) { gate.follow(word) }
        case .takeover(.gateStanding(let text)):
            if let reply = HandOverText.value(GateReply.self, text) { gate.stoodThere(reply) }
        case .takeover(.lost(let why)):
            gate.successorEnded()
            perform(.step(.lost(why), obstacle: nil), lifeCycle, server, gate)
        case .takeover(.predecessorEnded):
            lifeCycle.predecessorEnded(server)
            gate.predecessorEnded()
            withholdsReads = false
            allowReads()
        case .takeover(let step):
            perform(.step(step, obstacle: obstacle(lifeCycle, gate, engine)), lifeCycle, server, gate)
        case .strayCancel(let processID, let secret, let canceller):
            lifeCycle.passOn(processID: processID, secret: secret, by: canceller, server)
        case .canceled(let number): lifeCycle.canceled(number: number)
        case .request, .standing, .consoleGone, .consoleCanceled, .workerEnded, .catalog, .readsUnsafe, .schemaChanged,
            .signal, .switching, .migration, .captureEnded, .captureAsked, .change:
            preconditionFailure("not about taking over")
        }
    }

    /// A chain of three would leave the first without anybody who knows of it.
    private func obstacle(_ lifeCycle: LifeCycle, _ gate: GateDesk, _ engine: SwitchEngine) -> String? {
        if lifeCycle.hasPredecessor { return "the process before it has not ended yet" }
        // Before it holds anybody, too: it would do so in vain, for the mirror goes over.
        return gate.obstacle ?? (engine.isMoving ? GateDesk.switchObstacle : nil)
    }

    mutating func checkLifeCycle(_ lifeCycle: LifeCycle, _ server: ProxyServer, _ gate: GateDesk) {
        lifeCycle.checkTime(server)
        state.memory.writeAgain()
        if let shutdown = gate.shutdown { lifeCycle.isEnding(waitsForClients: shutdown == .waitForClients) }
        let now = MonotonicInstant.now()
        if let deadline = lifeCycle.machine.deadline, deadline <= now {
            perform(.elapsed(now: now), lifeCycle, server, gate)
        }
    }

    private mutating func perform(
        _ event: HandOverMachine.Event, _ lifeCycle: LifeCycle, _ server: ProxyServer, _ gate: GateDesk
    ) {
        let seconds = snapshot.settings.listen.takeoverWaitSeconds
        for action in lifeCycle.handle(event, waitSeconds: seconds, server, orders: { orders(gate) }) {
            switch action {
            case .withholdReads:
                withholdsReads = true
                for horizon in horizons.values { horizon.withhold() }
            case .allowReads:
                withholdsReads = false
                allowReads()
            case .leave:
                hasLeft = true
                state.memory.leave()
                // The next one mirrors as soon as it has the lock. It may take a while until a batch ends.
                let running = Array(mirrors.values)
                _ = OwnThread(name: "godwit-leave") { for mirror in running { mirror.stop() } }
                gate.leave()
            case .drain: gate.drain()
            case .grant, .refuse, .pauseListening, .go, .resumeListening, .tell, .warn:
                preconditionFailure("not the assembly's")
            }
        }
    }

    private func allowReads() {
        for (name, horizon) in horizons.pairs {
            horizon.allow(hasMirror: snapshot.settings.database(named: name)?.mirror.mode != .off)
        }
    }

    /// What operators have ordered, for the process that takes over.
    private func orders(_ gate: GateDesk) -> [String] {
        var orders = overrides.map { StandingOrder.set($0) }
        for database in snapshot.settings.databases where !database.isWildcard {
            // Also where the file counts: it may have been read again since the next process has read what is stored.
            orders.append(.traffic(database: database.name, plan.record(of: database.name)))
            guard let ordered = mirrors[database.name]?.orders else { continue }
            let order = HandedOrders.Mirroring(
                isPaused: ordered.isPaused,
                rowsPerSecond: ordered.copyRowsPerSecond == database.mirror.backfillRate
                    ? nil : ordered.copyRowsPerSecond)
            if order != HandedOrders.Mirroring() { orders.append(.mirror(database: database.name, order)) }
        }
        if let standing = gate.standing { orders.append(.gate(standing)) }
        return orders.compactMap { order in
            let text = HandOverText.text(order)
            if text == nil { logger.warning("an order is too long to be handed over: \(order.words)") }
            return text
        }
    }

    /// Orders are the next process's to take, once it has been told of those before.
    func refuses(_ request: ControlRequest, _ lifeCycle: LifeCycle) -> Bool {
        switch request {
        // The next one has no such capture, and could not end it.
        case .gate(.shutdown), .capture(_, .stop): return false
        case .reload, .set, .reads, .shadow, .mirror, .force, .gate, .capture, .switchOver: break
        }
        return lifeCycle.machine.successor != nil
    }

    /// The same of signals: one that is for all processes of a service comes to both, and what this one held by itself
    /// no RESUME of the next one's would let go.
    func isElsewhere(signal number: CInt, _ lifeCycle: LifeCycle) -> Bool {
        [SIGUSR1, SIGUSR2, SIGURG].contains(number) && lifeCycle.machine.successor != nil
    }

    func mayChange(_ lifeCycle: LifeCycle) -> Bool { lifeCycle.machine.successor == nil }

    static func elsewhere(_ lifeCycle: LifeCycle) -> String {
        "process \(lifeCycle.machine.successor ?? 0) has taken over from this one: connect again, and order it there"
    }
}
