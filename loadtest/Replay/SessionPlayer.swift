import Capture
import PGWire

/// One captured connection on one side: what may be sent when, and what the answers belong to. Pure; the engine owns
/// the socket and the clock. One thread.
package final class SessionPlayer {
    /// A unit that was sent, at least in part.
    package struct Running {
        package let unit: ScriptUnit
        /// When its last step was to be sent, and was.
        package var dueNanos: UInt64
        package var sentNanos: UInt64
        package var outcomes: [StatementOutcome] = []
        var endsSent: Bool
        /// The server took its Sync for a part of COPY data: a further one ends it.
        var hasCopyIn = false
        /// That Sync had been sent.
        var hasPassedSync = false
        var copyEnds = 0

        /// The server waits for more of it.
        var isOpen: Bool { !endsSent || waitsForCopyData }

        /// A unit may hold several COPYs.
        var waitsForCopyData: Bool {
            let copyIn = StatementOutcome.Kind.answer(.copyIn)
            return outcomes.last?.kind == copyIn && copyEnds < outcomes.count { $0.kind == copyIn }
        }
    }

    package enum Event {
        case finished(Running)
        /// A ReadyForQuery or answer that belongs to nothing that was sent.
        case unexpected
    }

    package let connection: UInt64
    private var steps: [ScriptStep] = []
    private var first = 0
    /// Bytes of the steps before it.
    private var bytesSent = 0
    private static let bytesSentMax = 1 << 20
    /// Bytes of the steps that wait.
    package private(set) var bytesWaiting = 0
    package private(set) var running: [Running] = []
    private var readies: UInt64 = 0
    private var answers: UInt64 = 0
    private var hasFailed = false
    package private(set) var status = TransactionStatus.idle
    /// Nothing is added any more.
    package var isClosing = false
    /// Units that it has finished, also those that are left out.
    package private(set) var finished: UInt64 = 0
    /// The number of the unit that was answered last.
    private var lastFinished: UInt64?

    package init(connection: UInt64) { self.connection = connection }

    package var next: ScriptStep? { first < steps.count ? steps[first] : nil }
    package var isIdle: Bool { running.isEmpty }
    /// All is done that was captured. Its last unit may have been left half sent: nothing comes of that.
    package var hasEnded: Bool {
        isClosing && next == nil && (running.isEmpty || running.count == 1 && running[0].isOpen)
    }
    package var waitingCount: Int { steps.count - first }

    /// When the units that have no answer were to be sent, whether they were or not.
    ///
    /// - Parameter due: when a step was to be sent; nil: it is not yet.
    package func unanswered(_ due: (ScriptStep) -> UInt64?) -> [UInt64] {
        var times = running.filter { !$0.isOpen }.map(\.dueNanos)
        for step in steps[first...] where !step.isCancel {
            guard let nanos = due(step) else { break }
            if step.endsUnit && !step.unit.isSkipped { times.append(nanos) }
        }
        return times
    }

    package func add(_ step: ScriptStep) {
        steps.append(step)
        bytesWaiting += step.bytes.count
    }

    /// The next step may follow: what its sender had seen is seen.
    package var mayGoOn: Bool {
        guard let step = next else { return false }
        // Where nothing is under way nothing more comes, though the capture had more answers.
        if readies > step.readies || running.isEmpty { return true }
        if step.isCancel { return readies == step.readies }
        // After an error the server answers nothing up to Sync.
        return readies == step.readies && (answers >= step.answers || hasFailed)
    }

    /// Takes the next step out: it is being sent.
    ///
    /// - Parameter dueNanos: when it should have been.
    /// - Returns: nil in `finished` for a step that needs no answer.
    package func send(dueNanos: UInt64, sentNanos: UInt64) -> ScriptStep {
        guard let step = next else { preconditionFailure("a step that is not there") }
        first += 1
        bytesSent += step.bytes.count
        // A few may be as large as a thousand others: what was sent is let go of.
        if first > 1024 && first * 2 > steps.count || bytesSent > Self.bytesSentMax {
            steps.removeFirst(first)
            first = 0
            bytesSent = 0
        }
        bytesWaiting -= step.bytes.count
        if step.isCancel { return step }
        if running.isEmpty && readies < step.readies {
            readies = step.readies
            answers = 0
        }
        // Of a COPY that has failed here before its data: they would be passed over, but their Sync be answered again.
        if step.unit.number == lastFinished && running.isEmpty {
            var passedOver = step
            passedOver.bytes = []
            return passedOver
        }
        if step.unit.isSkipped && step.bytes.isEmpty {
            if step.endsUnit {
                readies += 1
                answers = 0
                finished += 1
            }
            return step
        }
        if let last = running.indices.last, running[last].unit === step.unit || !running[last].endsSent {
            running[last].dueNanos = dueNanos
            running[last].sentNanos = sentNanos
            if step.endsUnit { running[last].endsSent = true }
            running[last].copyEnds += step.copyEnds
        } else if !step.isCopyData {
            running.append(Running(
                unit: step.unit, dueNanos: dueNanos, sentNanos: sentNanos, endsSent: step.endsUnit,
                copyEnds: step.copyEnds))
        }
        return step
    }

    /// What ends a COPY that the server takes data for and the capture has none for, since there it had failed. Counts
    /// as sent.
    ///
    /// - Returns: nil where no COPY waits, or data may still come.
    package func endOfCopy() -> [UInt8]? {
        guard let unit = running.first, unit.waitsForCopyData, !mayHaveData(unit.unit) else { return nil }
        running[0].copyEnds += 1
        var writer = MessageWriter()
        writer.message(FrontendTag.copyFail) { $0.cString("the capture has no data for it") }
        if unit.hasPassedSync {
            running[0].endsSent = true
            writer.sync()
        }
        return writer.bytes
    }

    private func mayHaveData(_ unit: ScriptUnit) -> Bool {
        guard let step = next else {
            // Of the capture no more may have been read.
            return !unit.isComplete || unit.expected.contains { $0.kind == .answer(.copyIn) }
        }
        // Data that was sent behind a later answer does not come before it.
        return step.isCancel || step.beginsWithCopyData && step.readies <= readies
    }

    /// When a cancel request goes out that was captured so long after the unit it is for.
    ///
    /// - Returns: nil when that has ended, or is not there.
    package func cancelNanos(_ step: ScriptStep, speed: Double) -> UInt64? {
        guard let unit = running.first(where: { $0.unit === step.unit }) else { return nil }
        let micros = step.micros - min(step.micros, unit.unit.sentMicros)
        return unit.sentNanos + Self.nanos(micros, speed: speed)
    }

    /// How long after the beginning something is due that was captured so long after it: 146 years at most.
    package static func nanos(_ micros: UInt64, speed: Double) -> UInt64 {
        UInt64(min(Double(micros) * 1000 / speed, 0x1p62))
    }

    package func handle(_ event: ResultReader.Event) -> Event? {
        switch event {
        case .progress:
            answers += 1
            return nil
        case .outcome(let outcome):
            answers += 1
            if outcome.kind == .failed { hasFailed = true }
            if running.isEmpty { return .unexpected }
            if outcome.kind == .answer(.copyIn) { noteCopyIn() }
            running[0].outcomes.append(outcome)
            return nil
        case .ready(let status):
            self.status = status
            readies += 1
            answers = 0
            hasFailed = false
            if running.isEmpty { return .unexpected }
            finished += 1
            lastFinished = running[0].unit.number
            return .finished(running.removeFirst())
        case .violation: return .unexpected
        }
    }

    /// In the extended protocol a Sync before the data is passed over: what follows belongs to the same unit.
    private func noteCopyIn() {
        guard running[0].unit.isExtended, !running[0].hasCopyIn else { return }
        running[0].hasCopyIn = true
        if running.count > 1 {
            let next = running.remove(at: 1)
            running[0].endsSent = next.endsSent
            running[0].copyEnds += next.copyEnds
            running[0].dueNanos = next.dueNanos
            running[0].sentNanos = next.sentNanos
        } else {
            running[0].hasPassedSync = running[0].endsSent
            running[0].endsSent = false
        }
    }

    /// The connection is lost.
    ///
    /// - Returns: units that had no answer, and how many were not even sent.
    package func abandon() -> (unanswered: [Running], unsent: [ScriptUnit]) {
        let lost = running
        var unsent: [ScriptUnit] = []
        for step in steps[first...] where step.endsUnit { unsent.append(step.unit) }
        running = []
        steps = []
        first = 0
        bytesSent = 0
        bytesWaiting = 0
        return (lost, unsent)
    }
}
