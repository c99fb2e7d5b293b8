import Configuration
import ControlPlane
import Dispatch
import Migration
import Primitives
import Proxy
import Routing
import Shadowing

/// One migration of a ledger. Stays on the runner's thread.
final class LedgerEntry {
    let migration: StateStore.StoredMigration
    var machine: MigrationMachine
    var survey: MigrationSurvey?
    var comparison: MigrationComparison?
    /// Under way or waiting for its turn; what ends is told by message.
    var working: Set<MigrationState.Work> = []
    /// One after the other: what was aborted meanwhile ends first.
    let lane = DispatchQueue(label: "godwit-work")
    /// What happened and could not be stored yet.
    var pending: [MigrationMachine.Event] = []
    /// The stored state may be another one than that in memory, which counts.
    var isUnsaved = false
    /// Gates as they were stored last: what they said, and when that was.
    var stored: [String: (value: String, holds: Bool?, at: Int64)] = [:]
    /// Who has the writes is known as the databases say it now: another Godwit may have moved them a moment ago.
    var isConfirmed = true
    var isConfirming = false
    /// What other Godwits were shown last.
    var shown = ""
    var guardRails: [MigrationReadings.GuardRail]?
    var guardRailsAt: Int64 = 0
    var isAskingRails = false
    /// Of the drill that is under way.
    var drillCancel = Mailbox<Void>()

    init(_ migration: StateStore.StoredMigration, _ machine: MigrationMachine) {
        self.migration = migration
        self.machine = machine
    }

    var isMoving: Bool { machine.state.standing == .running || machine.state.standing == .paused }

    /// Sees to it that both sides are compared, or not any more.
    func compareIfWanted() {
        let state = machine.state, readings = machine.readings
        comparison?.set(
            isWanted: isMoving && !state.isSwitched && state.work != .drill
                && state.phase.position >= MigrationPhase.validate.position
                && readings.mirror == .mirroring && readings.tablesLeft == 0)
    }

    /// A roll-back or an operator has put the reads elsewhere, and the migration was paused for it. The operator's word
    /// is the file's by now if that was read again. What we have ordered may be the step before: it is ordered anew.
    func isOverruled(_ record: TrafficPlan.Record) -> Bool {
        if record.ceiling != nil { return true }
        return !record.isManaged && (record.ordered != nil || machine.state.standing == .paused)
    }
}

/// Whether there was a break in measuring: the clock by which times are stored was set, or nobody looked. A value, one
/// owner.
struct MeasuredTime {
    /// Seconds by which a look may be late, or the two clocks differ.
    private static let slackSeconds = 10.0

    private var last: (micros: Int64, instant: MonotonicInstant)?

    /// - Parameter micros: since 1970.
    mutating func isBroken(_ micros: Int64, _ instant: MonotonicInstant) -> Bool {
        defer { last = (micros, instant) }
        guard let last else { return false }
        let steady = Double(instant.nanoseconds(since: last.instant)) / 1e9
        return steady > Self.slackSeconds || abs(Double(micros - last.micros) / 1e6 - steady) > Self.slackSeconds
    }
}

extension MigrationLedger {
    /// An operator has said since where the reads are to be: in the midst of a drill, or behind an abort of which this
    /// process has heard only now.
    func isOverruled(
        _ action: MigrationMachine.Action, _ event: MigrationMachine.Event, _ entry: LedgerEntry
    ) -> Bool {
        let record = parts.memory.record(of: entry.machine.manifest.database)
        // The way back of a drill takes the share away, and leaves whose word it was.
        if case .drilled = event, case .reads = action { return !record.isManaged }
        guard case .restored = event, case .holdReads = action else { return false }
        // The abort has left a ceiling, which only such a word ends: the share itself is the file's behind a RELOAD.
        return entry.machine.state.standing == .aborted && !record.isManaged && record.ceiling == nil
    }

    /// All that is measured of it.
    func readings(_ entry: LedgerEntry, _ now: Int64) -> MigrationReadings {
        let manifest = entry.machine.manifest
        var readings = entry.survey?.readings ?? MigrationReadings()
        if let findings = entry.comparison?.findings {
            readings.verify = findings.verify
            readings.isVerifying = findings.isVerifying
            readings.invariants = findings.invariants
        }
        readings.guardRails = entry.guardRails
        readings.isWindowOpen = MigrationCalendar.isOpen(manifest, at: now)
        guard let route = parts.server.snapshot.route(manifest.database) else {
            readings.unreachable = "the configuration has no database \"\(manifest.database)\" any more"
            return readings
        }
        let report = route.horizon.report
        readings.mirror = MigrationReadings.MirrorState(rawValue: report.state.rawValue)
        readings.mirrorReason = report.reason
        if !report.tables.isEmpty {
            readings.tablesLeft = report.tables.count { !$0.isCopied }
            let all = report.tables.reduce(0) { $0 + max($1.rowsEstimated, $1.rowsCopied) }
            let copied = report.tables.reduce(0) { sum, table in
                sum + (table.isCopied ? max(table.rowsEstimated, table.rowsCopied) : table.rowsCopied)
            }
            let ofNothing = readings.tablesLeft == 0 ? 100.0 : 0
            readings.copiedPercent = all == 0 ? ofNothing : Double(copied) * 100 / Double(all)
        }
        readings.isSwitched = parts.engine.ownership(of: manifest.database).flatMap { ownership in
            ownership.standing == .settled ? ownership.authority == .new : nil
        }
        if manifest.tables.isEmpty { readings.uncaptured = report.uncaptured }
        readings.otherwiseMapped = manifest.otherwiseMapped(in: route.settings.mirror)
        readings.callsMin = route.settings.breaker.windowCalls
        if let figures = route.shadow?.figures {
            readings.compared = MigrationReadings.Compared(
                reads: Int(figures.counts.compared), differing: Int(figures.counts.mismatches),
                shapesOutstanding: figures.shapesOutstanding)
        }
        for figures in route.health.figures(now: .now()) {
            let answers = MigrationReadings.Answers(
                calls: figures.calls, errors: figures.errors, p95Micros: figures.p95Micros)
            switch figures.side {
            case .old: readings.old = answers
            case .new: readings.new = answers
            }
            if figures.side == route.health.other { readings.isBreakerClosed = figures.phase == .closed }
        }
        let record = parts.memory.record(of: manifest.database)
        if let ceiling = record.ceiling {
            readings.readsOverruled = "the reads were rolled back to \(Percent.text(ceiling)) % (SHOW EVENTS says why)"
        } else if !record.isManaged {
            readings.readsOverruled = "an operator has set the share of reads"
        }
        return readings
    }

    /// A reload, or a restart, has taken its database out of the configuration. Unsaid, it would be under way for ever.
    func refuse(_ work: MigrationState.Work, _ entry: LedgerEntry) {
        let (id, now) = (entry.migration.id, StateStore.now())
        let reason = "the configuration has no database \"\(entry.machine.manifest.database)\" any more"
        guard work == .drill, let order = entry.machine.state.drill else {
            return inbox.post(.failed(id, work, reason))
        }
        inbox.post(.drilled(id, DrillResult(order, began: now).ending(false, reason, at: now)))
    }
}
