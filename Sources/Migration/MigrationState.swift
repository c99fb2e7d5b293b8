import Configuration

/// Where a migration stands: all that must outlive the process. Immutable value; each change is one record of the state
/// store, and the last record is the state.
package struct MigrationState: Sendable, Equatable, Codable {
    package enum Standing: String, Sendable, Codable, CaseIterable {
        case running, paused
        /// The writes are on their way back to OLD.
        case returning
        /// Everything is as it was before: OLD has reads and writes. NEW is still mirrored.
        case aborted
        /// Aborted, and what is ours goes from both databases.
        case removing
        /// Aborted, and nothing of ours is left.
        case removed
        /// Done: NEW has everything, and nothing of ours is left.
        case finished
    }

    /// What takes time, is done by others, and may be done again after a crash.
    package enum Work: String, Sendable, Codable, CaseIterable {
        /// Preflight, triggers and journal.
        case install
        /// The writes to NEW, and back.
        case switchOver = "switch_over"
        case switchBack = "switch_back"
        /// Everything of ours out of both databases.
        case remove
        /// See `drill`.
        case drill
    }

    /// How OLD answered when it was measured last before a step.
    package struct Baseline: Sendable, Equatable, Codable {
        package var errorPercent: Double
        package var p95Micros: UInt64?
    }

    package var phase: MigrationPhase = .prepare
    /// Of the manifest's steps; counts in `shift` and behind it.
    package var step = 0
    package var standing = Standing.running
    /// What is to be done, or under way.
    package var work: Work?
    /// Capture is on OLD.
    package var isPrepared = false
    /// NEW has the writes.
    package var isSwitched = false
    /// The present work was ordered against its gates.
    package var isForced = false
    /// Microseconds since 1970 at which phase or step began.
    package var since: Int64
    /// Who has approved that the phase is left.
    package var approvals: [String] = []
    /// Why it stands so: one sentence.
    package var cause = ""
    /// Who wanted it: an operator's name, or `godwit`.
    package var by = ""
    /// Under way; NEW may have the writes meanwhile.
    package var drill: DrillOrder?
    /// What has come of the last one.
    package var drilled: DrillResult?
    /// nil: it was not by a limit that it went back last.
    package var abortCause: AbortCause?
    /// Against which NEW is held behind the switch, where nobody uses OLD.
    package var baseline: Baseline?

    package init(since: Int64) { self.since = since }

    package var isOver: Bool { standing == .removed || standing == .finished }
}
