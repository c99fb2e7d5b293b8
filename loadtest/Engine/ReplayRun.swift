import CEpoll
import Capture
import Glibc
import LibPQ
import PGWire
import Primitives
import Reactor
import Replay

/// Plays a source on one or two sides: one thread, as many connections as there were. It opens them, sends what is due,
/// and counts what comes back.
package final class ReplayRun {
    /// Bytes of steps that wait, at most, while anything goes on.
    private static let waitingBytesMax = 64 << 20
    /// Connections that are being made at once, of each side.
    static let connectingMax = 64
    /// Nanoseconds that the source is read ahead of the clock.
    private static let aheadNanos: UInt64 = 3_000_000_000
    /// Order is given up where nothing has gone on for so long.
    private static let stallNanos: UInt64 = 2_000_000_000
    /// A side without a connection for so long has gone.
    private static let goneNanos: UInt64 = 5_000_000_000
    /// What comes of a capture that is being written comes by fits and starts: it is played so much later that its times
    /// are kept.
    private static let followNanos: UInt64 = 1_500_000_000
    private static let invalidStatementName = "26000"

    let targets: [ReplayTarget]
    let options: ReplayOptions
    let source: any ReplaySource
    private let observer: (RunProgress) -> Void
    let loop = EventLoop()
    private let timer = godwit_timerfd()
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 16)

    var slots: [PlayedConnection?] = [nil]
    var generations: [UInt32] = [0]
    var freeSlots: [Int] = []
    var pairs: [UInt64: PlayedPair] = [:]
    private var due = DueHeap<PlayedPair>()
    private var ordered = DueHeap<PlayedConnection>()
    /// The same, of those that wait until all before them is answered.
    private var causal = DueHeap<PlayedConnection>()
    /// By units whose place in the order is not known yet.
    private var awaitingPlace: [UInt64: PlayedPair] = [:]
    var startQueue: [PlayedPair] = []
    var connecting: [Int]
    /// When a login has taken too long.
    var logins = DueHeap<PlayedConnection>()
    /// Connections that are being given what their sessions had.
    var settingUp = 0
    var running = 0
    var waitingBytes = 0
    private var hasMore = true
    /// All of this round has been taken from the source.
    private var isRoundRead = false
    private var roundEvents: UInt64 = 0
    private var pendingEvent: ScriptEvent?

    private(set) var startNanos: UInt64 = 0
    var now = MonotonicInstant.now()
    private var lastAnswerNanos: UInt64 = 0
    /// A unit was sent or answered.
    private var lastMoveNanos: UInt64 = 0
    private var aliveNanos: [UInt64]
    /// The last that was heard of a side was a failure.
    var isDown: [Bool]
    var lateNanosMax: UInt64 = 0
    var released: UInt64 = 0
    private var roundOffset: UInt64 = 0
    var endsEarly: String?
    /// Of each side, when the run ended: units that were due and had no answer, and how long the first had waited.
    var unanswered: [(count: Int, micros: UInt64)]

    var statistics: [SideStatistics]
    var comparison = PairStatistics()
    var order = CausalOrder()
    /// Finished on all sides; counted down per unit where there are two.
    private var finishedSides: [UInt64: Int] = [:]
    /// Played before the capture had their end.
    private var unchecked: [UInt64: [[StatementOutcome]?]] = [:]
    var captured = LatencyRecorder()
    var hasCaptured = false

    package init(
        _ source: any ReplaySource, on targets: [ReplayTarget], _ options: ReplayOptions,
        observer: @escaping (RunProgress) -> Void = { _ in }
    ) {
        self.targets = targets
        self.options = options
        self.source = source
        self.observer = observer
        statistics = targets.map { SideStatistics(name: $0.name) }
        connecting = Array(repeating: 0, count: targets.count)
        aliveNanos = Array(repeating: 0, count: targets.count)
        isDown = Array(repeating: false, count: targets.count)
        unanswered = Array(repeating: (0, 0), count: targets.count)
    }

    deinit {
        buffer.deallocate()
        _ = close(timer)
    }

    // MARK: the run

    /// Runs to the end, or until `isStopped` says so.
    ///
    /// - Returns: how long it took, in seconds.
    package func run(isStopped: () -> Bool) throws -> Double {
        loop.register(timer, .read, as: Registration(slot: 0, generation: 0))
        now = .now()
        startNanos = now.nanoseconds + 20_000_000
        lastAnswerNanos = startNanos
        for side in targets.indices { aliveNanos[side] = startNanos }
        var lastProgress = startNanos
        while true {
            now = .now()
            try feed()
            startPairs()
            fire()
            if isOver || isStopped() || endsEarly != nil { break }
            checkStall()
            arm()
            loop.wait(timeoutMillis: 100) { registration, readable, writable in
                now = .now()
                ready(registration, readable: readable, writable: writable)
            }
            if now.nanoseconds > lastProgress + 1_000_000_000 {
                lastProgress = now.nanoseconds
                tellProgress()
            }
        }
        now = .now()
        noteUnanswered()
        for pair in pairs.values { for side in pair.sides { end(side, as: .closed) } }
        return seconds
    }

    var seconds: Double {
        now.nanoseconds > startNanos ? Double(now.nanoseconds - startNanos) / 1e9 : 0
    }

    private var isOver: Bool {
        if let limit = options.seconds, seconds >= limit { return true }
        return !hasMore && pendingEvent == nil && pairs.isEmpty
    }

    private func tellProgress() {
        observer(RunProgress(
            seconds: seconds, connections: slots.count - 1 - freeSlots.count,
            sides: statistics.map {
                ($0.side.units, $0.side.errors.values.reduce(0, +), $0.present.p50, $0.present.p99)
            },
            mismatches: comparison.totals.mismatches))
    }

    // MARK: events of the source

    private func feed() throws {
        while true {
            let isIdle = running == 0 && due.isEmpty && (startQueue.isEmpty || isFull)
            if waitingBytes > Self.waitingBytesMax && !isIdle { return }
            let event: ScriptEvent
            if let pending = pendingEvent {
                event = pending
                pendingEvent = nil
            } else {
                guard hasMore else { return }
                switch try source.next() {
                case .event(let next): event = next
                case .nothing: return
                case .end:
                    if !isRoundRead { roundIsRead() }
                    guard options.loops, pairs.isEmpty, roundEvents > 0 else { return }
                    try beginAgain()
                    continue
                }
            }
            roundEvents += 1
            if options.follows && roundEvents == 1 { roundOffset = now.nanoseconds + Self.followNanos - startNanos }
            if let micros = event.micros, micros != .max, dueNanos(micros) > now.nanoseconds + Self.aheadNanos {
                pendingEvent = event
                return
            }
            take(event)
        }
    }

    /// What waits for a place in the order has none.
    private func roundIsRead() {
        isRoundRead = true
        if !options.loops || roundEvents == 0 { hasMore = false }
        let waiting = awaitingPlace.values
        awaitingPlace = [:]
        for pair in waiting { goOn(pair) }
    }

    /// The next round begins when everything is answered and all connections are closed.
    private func beginAgain() throws {
        try source.rewind()
        order = CausalOrder()
        ordered = DueHeap()
        causal = DueHeap()
        finishedSides = [:]
        unchecked = [:]
        roundOffset = now.nanoseconds - min(now.nanoseconds, startNanos)
        roundEvents = 0
        isRoundRead = false
    }

    private func take(_ event: ScriptEvent) {
        switch event {
        case .open(let connection, let micros, let captured, let prepared):
            let pair = PlayedPair(
                connection: connection, captured: captured, prepared: prepared, opensNanos: dueNanos(micros))
            for side in targets.indices {
                let bytesMax = options.compares ? 8 << 20 : 0
                let reader = ResultReader(
                    contentBytesMax: bytesMax, withDigest: options.withDigests || targets.count > 1)
                pair.sides.append(PlayedConnection(side: side, pair: pair, reader: reader))
            }
            pairs[connection] = pair
            startQueue.append(pair)
        case .step(let connection, let step):
            guard let pair = pairs[connection] else { return }
            for side in pair.sides {
                if side.state == .lost {
                    if step.endsUnit { noteUnplayed(step.unit, side) }
                } else {
                    side.player.add(step)
                    waitingBytes += step.bytes.count
                }
            }
            goOn(pair)
        case .answered(let unit):
            learned(unit)
        case .close(let connection, _):
            guard let pair = pairs[connection] else { return }
            for side in pair.sides {
                side.player.isClosing = true
                closeIfDone(side)
            }
        }
    }

    private func learned(_ unit: ScriptUnit) {
        if options.effectiveOrder != .connection { order.learned(unit) }
        if !awaitingPlace.isEmpty, let pair = awaitingPlace.removeValue(forKey: unit.number) { goOn(pair) }
        // Also what was answered within the turn that it came in, and nothing that is not played.
        if unit.isComplete && !unit.isSkipped && source.hasTimes {
            captured.add(unit.latencyMicros)
            hasCaptured = true
        }
        if let results = unchecked.removeValue(forKey: unit.number) {
            for (side, outcomes) in results.enumerated() {
                if let outcomes { statistics[side].compare(unit, outcomes) }
            }
        }
    }

    func noteUnplayed(_ unit: ScriptUnit, _ side: PlayedConnection) {
        if unit.isSkipped { return finishedOnSide(unit) }
        statistics[side.side].lost(1)
        finishedOnSide(unit)
    }

    // MARK: sending

    func dueNanos(_ micros: UInt64) -> UInt64 {
        switch options.pace {
        case .max: return now.nanoseconds
        case .timed(let speed): return startNanos + roundOffset + SessionPlayer.nanos(micros, speed: speed)
        }
    }

    private func dueNanos(_ step: ScriptStep, _ sides: [PlayedConnection]) -> UInt64 {
        if !step.isCancel { return dueNanos(step.micros) }
        let speed = if case .timed(let speed) = options.pace { speed } else { 1.0 }
        return sides.compactMap { $0.player.cancelNanos(step, speed: speed) }.max() ?? now.nanoseconds
    }

    /// Sends what may be sent of a connection, on each side.
    func goOn(_ pair: PlayedPair) {
        for side in pair.sides {
            cancelAgain(side)
            endCopy(side)
        }
        if options.compares {
            goOnInStep(pair)
        } else {
            for side in pair.sides { goOn(side) }
        }
    }

    /// Of a COPY that had failed in the capture: nothing else may be sent, and nothing comes, until it ends.
    private func endCopy(_ side: PlayedConnection) {
        guard side.state == .open, let bytes = side.player.endOfCopy() else { return }
        send(bytes, to: side)
    }

    private func goOn(_ side: PlayedConnection) {
        guard side.state == .open else { return }
        var bytes: [UInt8] = []
        while let step = side.player.next, side.player.mayGoOn, mayBegin(step, side) {
            let due = dueNanos(step, [side])
            if due > now.nanoseconds {
                wait(side.pair, until: due)
                break
            }
            bytes += take(side, due: due)
        }
        if !bytes.isEmpty { send(bytes, to: side) }
        closeIfDone(side)
    }

    /// A step goes out on all sides, when all have come as far.
    private func goOnInStep(_ pair: PlayedPair) {
        guard pair.rerun == nil, pair.sides.allSatisfy({ $0.state == .open }) else {
            for side in pair.sides { closeIfDone(side) }
            return
        }
        var bytes: [[UInt8]] = pair.sides.map { _ in [] }
        while let step = pair.sides[0].player.next, pair.sides.allSatisfy({ $0.player.mayGoOn }),
            mayBegin(step, pair.sides[0])
        {
            let due = dueNanos(step, pair.sides)
            if due > now.nanoseconds {
                wait(pair, until: due)
                break
            }
            for (index, side) in pair.sides.enumerated() { bytes[index] += take(side, due: due) }
        }
        for (index, side) in pair.sides.enumerated() where !bytes[index].isEmpty { send(bytes[index], to: side) }
        for side in pair.sides { closeIfDone(side) }
    }

    private func take(_ side: PlayedConnection, due: UInt64) -> [UInt8] {
        let before = side.player.running.count
        let bytesBefore = side.player.bytesWaiting
        lastMoveNanos = now.nanoseconds
        let step = side.player.send(dueNanos: due, sentNanos: now.nanoseconds)
        running += side.player.running.count - before
        waitingBytes -= bytesBefore - side.player.bytesWaiting
        if step.isCancel {
            cancel(step, side)
            return []
        }
        lateNanosMax = max(lateNanosMax, now.nanoseconds - min(due, now.nanoseconds))
        if step.unit.isSkipped && step.bytes.isEmpty && step.endsUnit { finishedOnSide(step.unit) }
        return step.bytes
    }

    private func mayBegin(_ step: ScriptStep, _ side: PlayedConnection) -> Bool {
        if options.effectiveOrder == .connection || step.isCancel { return true }
        // By its time, a unit whose answer has not been read took longer than is read ahead. To wait for its place would
        // send it as late as it was answered, less that, and count as its latency.
        let isAllKnown = !hasMore || isRoundRead || options.pace != .max
        let turn = order.turn(
            of: step, running: side.player.running, isStrict: options.compares, isAllKnown: isAllKnown)
        switch turn {
        case .now: return true
        case .afterAll(let ordinal): waitForOrder(side, ordinal, in: &causal)
        case .later(let ordinal): waitForOrder(side, ordinal, in: &ordered)
        case .unknown: awaitingPlace[step.unit.number] = side.pair
        }
        return false
    }

    private func waitForOrder(
        _ side: PlayedConnection, _ ordinal: UInt64, in heap: inout DueHeap<PlayedConnection>
    ) {
        if let waiting = side.orderedFor, waiting <= ordinal { return }
        side.orderedFor = ordinal
        heap.add(side, due: ordinal)
    }

    func wait(_ pair: PlayedPair, until nanos: UInt64) {
        if let timer = pair.timer, timer <= nanos { return }
        pair.timer = nanos
        due.add(pair, due: nanos)
    }

    func send(_ bytes: [UInt8], to side: PlayedConnection) {
        guard let session = side.session else { return }
        switch session.send(bytes) {
        case .bytes, .wouldBlock: updateInterest(side)
        case .closed: lose(side, "the server closed it")
        case .failed(let reason): lose(side, reason)
        }
    }

    private func updateInterest(_ side: PlayedConnection) {
        guard let session = side.session, let registration = side.registration else { return }
        let wanted: Interest = session.hasUnsent ? [.read, .write] : .read
        if wanted.rawValue == side.interest.rawValue { return }
        side.interest = wanted
        loop.modify(session.descriptor, wanted, as: registration)
    }

    private func fire() {
        while let pair = due.take(dueBy: now.nanoseconds) {
            if let timer = pair.timer, timer <= now.nanoseconds { pair.timer = nil }
            goOn(pair)
        }
        if let grace = graceEnd, grace <= now.nanoseconds {
            lastMoveNanos = now.nanoseconds
            order.letOneOvertake()
        }
        while let side = causal.take(dueBy: order.prefix) ?? ordered.take(dueBy: order.limit) {
            side.orderedFor = nil
            goOn(side.pair)
        }
    }

    /// When the next unit in order may go out though the one before it has no answer.
    private var graceEnd: UInt64? {
        if ordered.isEmpty || running == 0 || options.effectiveOrder == .connection { return nil }
        return lastMoveNanos + order.graceMicros * 1000
    }

    /// The timer fires when the next step is due: to the microsecond, which epoll's own time-out is not.
    private func arm() {
        guard let next = [due.firstDue, graceEnd, nextStart].compactMap({ $0 }).min() else { return }
        godwit_timerfd_set(timer, max(next, now.nanoseconds + 1))
    }

    /// What waits for an order that does not come about, as where locks are taken in another order, is let go.
    private func checkStall() {
        endLongLogins()
        checkSides()
        if running == 0 && settingUp == 0 && (startQueue.isEmpty || isFull) && connecting.allSatisfy({ $0 == 0 }),
            due.isEmpty, let blocked = [ordered.firstDue, causal.firstDue].compactMap({ $0 }).min()
        {
            release(blocked)
        } else if now.nanoseconds > lastAnswerNanos + Self.stallNanos,
            let blocked = [ordered.firstDue, causal.firstDue].compactMap({ $0 }).min()
        {
            lastAnswerNanos = now.nanoseconds
            release(blocked)
        }
    }

    /// A side that died, with nobody left on it and nobody who gets in.
    private func checkSides() {
        for side in targets.indices {
            if !isDown[side] || slots.contains(where: { $0?.side == side && $0?.state != .connecting }) {
                aliveNanos[side] = now.nanoseconds
            }
            if now.nanoseconds > aliveNanos[side] + Self.goneNanos {
                let seconds = Self.goneNanos / 1_000_000_000
                endsEarly = "\(targets[side].name) has gone: no connection to it for \(seconds) s"
            }
        }
    }

    private func release(_ ordinal: UInt64) {
        if ordinal <= order.prefix { return }
        released += 1
        order.release(upTo: ordinal)
    }

    // MARK: answers

    private func ready(_ registration: Registration, readable: Bool, writable: Bool) {
        let slot = Int(registration.slot)
        if slot == 0 {
            var count: UInt64 = 0
            _ = Glibc.read(timer, &count, 8)
            return
        }
        guard generations[slot] == registration.generation, let side = slots[slot] else { return }
        if side.state == .connecting { return advance(side) }
        if writable, let session = side.session {
            switch session.flush() {
            case .bytes, .wouldBlock: updateInterest(side)
            case .closed: return lose(side, "the server closed it")
            case .failed(let reason): return lose(side, reason)
            }
        }
        if readable { receive(side) }
    }

    private func receive(_ side: PlayedConnection) {
        // Bounded, so that a long result does not keep others from being timed.
        for _ in 0..<16 {
            guard let session = side.session else { return }
            switch session.receive(into: buffer) {
            case .bytes(let count):
                lastAnswerNanos = now.nanoseconds
                side.reader.take(UnsafeRawBufferPointer(rebasing: buffer[..<count])) { handle($0, side) }
                if side.isGone { return }
            case .wouldBlock: return goOn(side.pair)
            case .closed: return lose(side, side.farewell ?? "the server closed it")
            case .failed(let reason): return lose(side, reason)
            }
        }
        goOn(side.pair)
    }

    private func handle(_ event: ResultReader.Event, _ side: PlayedConnection) {
        if side.setUpReplies > 0 {
            switch event {
            case .ready:
                side.setUpReplies -= 1
                if side.setUpReplies == 0 {
                    side.state = .open
                    settingUp -= 1
                }
            case .outcome(let outcome) where outcome.kind == .failed:
                statistics[side.side].found("a session could not be set up as it was: \(outcome.summary)")
            case .outcome, .progress, .violation: break
            }
            return
        }
        if side.rerun != nil { return rerunHandled(event, side) }
        if case .outcome(let outcome) = event, outcome.kind == .failed { side.farewell = outcome.summary }
        switch side.player.handle(event) {
        case .finished(let unit): finished(unit, side)
        case .unexpected:
            if case .violation = event { return lose(side, "the server breaks the protocol") }
            if case .outcome(let outcome) = event { statistics[side.side].found(outcome.summary) }
        case nil: break
        }
    }

    private func finished(_ unit: SessionPlayer.Running, _ side: PlayedConnection) {
        running -= 1
        lastMoveNanos = now.nanoseconds
        side.farewell = nil
        let nanos = MonotonicInstant.now().nanoseconds
        let response = nanos - min(nanos, unit.dueNanos)
        let service = nanos - min(nanos, unit.sentNanos)
        var isAskedAgain = false
        if !unit.unit.isSkipped {
            statistics[side.side].add(
                unit.unit, unit.outcomes, responseMicros: response / 1000, serviceMicros: service / 1000,
                at: Double(nanos - min(nanos, startNanos)) / 1e9)
            checkAgainstCapture(unit, side)
            if targets.count > 1 { isAskedAgain = note(unit.outcomes, of: unit.unit, side) }
        }
        // Until then nothing follows it: a write would make noise of what differs.
        if !isAskedAgain { finishedOnSide(unit.unit) }
        source.finished(
            connection: side.pair.connection, micros: (nanos - min(nanos, startNanos)) / 1000,
            isUnprepared: unit.outcomes.contains { $0.state == Self.invalidStatementName })
    }

    private func checkAgainstCapture(_ unit: SessionPlayer.Running, _ side: PlayedConnection) {
        if !source.hasOutcomes { return }
        if unit.unit.isComplete { return statistics[side.side].compare(unit.unit, unit.outcomes) }
        // Rows are not needed for it, and would fill the memory.
        let slim = unit.outcomes.map { outcome in
            var slim = outcome
            slim.content = []
            return slim
        }
        unchecked[unit.unit.number, default: Array(repeating: nil, count: targets.count)][side.side] = slim
    }

    func finishedOnSide(_ unit: ScriptUnit) {
        // Nobody asks for an order: what made-up units have none would only grow, and each time that it is made larger
        // all would wait, which would be taken for the target's latency.
        if options.effectiveOrder == .connection { return }
        if targets.count == 1 { return order.finished(unit) }
        let count = (finishedSides.removeValue(forKey: unit.number) ?? 0) + 1
        if count == targets.count { order.finished(unit) } else { finishedSides[unit.number] = count }
    }
}

/// How far a run is. Immutable, any thread.
package struct RunProgress: Sendable {
    package var seconds: Double
    package var connections: Int
    package var sides: [(units: UInt64, errors: UInt64, p50: UInt64, p99: UInt64)]
    package var mismatches: UInt64
}

extension ScriptEvent {
    /// When it is due in the capture; nil: it is no event of time.
    var micros: UInt64? {
        switch self {
        case .open(_, let micros, _, _), .close(_, let micros): micros
        case .step(_, let step): step.micros
        case .answered: nil
        }
    }
}
