import Configuration
import ControlPlane
import Glibc
import LibPQ
import Logging
import Migration
import Primitives

/// Performs a drill, on the thread of whoever calls, for as long as it takes. Immutable, any thread.
struct MigrationRehearsal: Sendable {
    /// Seconds for a switch of which nobody can tell, and for the way back.
    private static let settleSeconds = 60.0
    private static let returnSeconds = 300.0
    private static let verifySeconds = 120.0
    private static let turnMillis: CInt = 500

    let machine: MigrationMachine
    let database: DatabaseSettings
    let engine: SwitchEngine
    let logger: Logger
    /// Of the last comparison.
    let verify: MigrationReadings.Verify?
    /// Readable: back now.
    let cancel: Mailbox<Void>
    /// Readable: the process ends.
    let stopDescriptor: CInt
    /// False: another process has the migrations, and with them the mirror that leads back.
    let mayGoOn: @Sendable () -> Bool

    /// - Parameter isRestored: another process has begun it.
    /// - Returns: nil: this process ends, and the next one goes back.
    func perform(_ order: DrillOrder, isRestored: Bool) -> DrillResult? {
        let result = DrillResult(order, began: StateStore.now())
        let name = DrillCanary.name(of: machine.manifest.id, database)
        switch (order.isWhole, isRestored) {
        case (false, false):
            let canary = DrillCanary(
                database: database, name: name, deadlineMillis: machine.manifest.deadlineMillis, logger: logger,
                isCancelled: { self.wait(cancelMillis: 0) != .over })
            return canary.perform(result)
        case (false, true):
            let left = DrillCanary.remove(database, name).map { ", and this is left to remove: \($0)" }
            return ended(result, false, "Godwit ended in its midst\(left ?? ": what it had made is removed")")
        case (true, false):
            return whole(result)
        case (true, true):
            let owner = settledAuthority()
            if wait(cancelMillis: 0, isStopOnly: true) == .stopped { return nil }
            switch owner {
            case .new: return goBack(result, "Godwit ended in its midst")
            case .old: return ended(result, false, "Godwit ended in its midst: the writes are OLD's")
            case nil:
                return ended(result, false, "Godwit ended in its midst, and it cannot be told yet who has the writes")
            }
        }
    }

    private func ended(_ result: DrillResult, _ hasPassed: Bool, _ words: String) -> DrillResult {
        result.ending(hasPassed, words, at: StateStore.now())
    }

    // MARK: with everything

    private func whole(_ result: DrillResult) -> DrillResult? {
        var result = result
        let there = MigrationWork.order(.cutover, machine, verify)
        let report = engine.perform(there) { [self] in mayGoOn() && wait(cancelMillis: 0) == .over }
        let isMoved = switch report.outcome {
        case .done: true
        case .undecided: MigrationWork.settle(engine, there, database) == nil
        case .ready, .refused, .resumed: settledAuthority() == .new
        }
        guard isMoved else {
            return ended(result, false, "the writes were not moved: \(report.summary)")
        }
        result.cutoverHeldMillis = report.heldMillis
        switch wait(cancelMillis: CInt(clamping: Int(result.order.watchSeconds * 1000))) {
        case .over: return goBack(result, nil)
        case .cancelled: return goBack(result, "it was taken back early")
        case .stopped: return nil
        }
    }

    /// - Parameter flaw: why it does not count, though nothing is lost.
    private func goBack(_ result: DrillResult, _ flaw: String?) -> DrillResult? {
        var result = result
        let end = Deadline.now().adding(seconds: Self.returnSeconds)
        while true {
            let report = engine.perform(MigrationWork.order(.rollback, machine, verify))
            if report.isDone { result.rollbackHeldMillis = report.heldMillis }
            if report.isDone || settledAuthority() == .old { break }
            if end.hasPassed {
                return ended(result, false, "the writes are NEW's still: \(report.summary)")
            }
            if wait(cancelMillis: Self.turnMillis, isStopOnly: true) == .stopped { return nil }
        }
        guard let found = compared() else { return nil }
        result.verify = found.outcome.rawValue
        result.rowsCompared = found.rows
        let held = "held for \(millis(result.cutoverHeldMillis)) and \(millis(result.rollbackHeldMillis))"
        let detail = found.detail.isEmpty ? "" : " (\(found.detail))"
        let words = "the writes went to NEW and back, \(held); \(found.rows) rows: \(found.outcome.rawValue)\(detail)"
        return ended(result, flaw == nil && found.outcome == .equal, flaw.map { "\($0): \(words)" } ?? words)
    }

    private func millis(_ value: Double?) -> String { value.map { "\(SwitchReport.tenths($0)) ms" } ?? "?" }

    /// Both sides, once the mirror runs to NEW again. nil: the process ends.
    private func compared() -> MigrationReadings.Verify? {
        let end = Deadline.now().adding(seconds: Self.verifySeconds)
        while true {
            let found = MigrationComparison.verify(machine.manifest, database, interrupt: stopDescriptor)
            if found.outcome != .unknown || end.hasPassed { return found }
            if wait(cancelMillis: Self.turnMillis, isStopOnly: true) == .stopped { return nil }
        }
    }

    /// Who has the writes, as soon as that is sure; nil: it is not.
    private func settledAuthority() -> Side? {
        let end = Deadline.now().adding(seconds: Self.settleSeconds)
        while !end.hasPassed {
            if let ownership = engine.ownership(of: database.name), ownership.standing == .settled {
                return ownership.authority
            }
            if wait(cancelMillis: 20, isStopOnly: true) == .stopped { return nil }
        }
        return nil
    }

    // MARK: waiting

    private enum Waited { case over, cancelled, stopped }

    private func wait(cancelMillis millis: CInt, isStopOnly: Bool = false) -> Waited {
        var ready = [
            pollfd(fd: stopDescriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: isStopOnly ? -1 : cancel.descriptor, events: Int16(POLLIN), revents: 0),
        ]
        let end = Deadline.now().adding(seconds: Double(millis) / 1000)
        while true {
            _ = poll(&ready, 2, min(end.millisLeft, millis))
            if ready[0].revents != 0 { return .stopped }
            if ready[1].revents != 0 { return .cancelled }
            if end.hasPassed || millis == 0 { return .over }
        }
    }
}
