/// What was measured of a migration's two sides. A value; what is nil was not measured.
package struct MigrationReadings: Sendable, Equatable {
    package enum MirrorState: String, Sendable { case off, starting, backfill, mirroring, paused, waiting, stopped }

    package struct Verify: Sendable, Equatable {
        package enum Outcome: String, Sendable { case equal, different, unknown }

        package var outcome: Outcome
        /// Keys that differ.
        package var differing: Int
        package var rows: Int64
        /// Microseconds since 1970 of the moment that was compared.
        package var at: Int64
        /// Why it could not tell, or which tables differ.
        package var detail: String

        package init(outcome: Outcome, differing: Int, rows: Int64, at: Int64, detail: String = "") {
            self.outcome = outcome
            self.differing = differing
            self.rows = rows
            self.at = at
            self.detail = detail
        }
    }

    package struct Invariant: Sendable, Equatable {
        package var name: String
        package var old: String
        package var new: String
        package var isEqual: Bool

        package init(name: String, old: String, new: String, isEqual: Bool) {
            self.name = name
            self.old = old
            self.new = new
            self.isEqual = isEqual
        }
    }

    /// Answers of one side in the window of its breaker.
    package struct Answers: Sendable, Equatable {
        package var calls: Int
        package var errors: Int
        package var p95Micros: UInt64?

        package init(calls: Int, errors: Int, p95Micros: UInt64?) {
            self.calls = calls
            self.errors = errors
            self.p95Micros = p95Micros
        }

        package var errorPercent: Double { calls == 0 ? 0 : Double(errors) * 100 / Double(calls) }
    }

    package struct Compared: Sendable, Equatable {
        package var reads: Int
        package var differing: Int
        /// Statement shapes that clients have sent and of which none was compared yet.
        package var shapesOutstanding: Int

        package init(reads: Int, differing: Int, shapesOutstanding: Int = 0) {
            self.reads = reads
            self.differing = differing
            self.shapesOutstanding = shapesOutstanding
        }

        package var mismatchPercent: Double { reads == 0 ? 0 : Double(differing) * 100 / Double(reads) }
    }

    /// A condition of the switch itself, as its engine tells it.
    package struct GuardRail: Sendable, Equatable {
        package var name: String
        package var value: String
        package var threshold: String
        package var holds: Bool
        package var advice: String

        package init(name: String, value: String, threshold: String, holds: Bool, advice: String) {
            self.name = name
            self.value = value
            self.threshold = threshold
            self.holds = holds
            self.advice = advice
        }
    }

    package var mirror: MirrorState?
    package var mirrorReason = ""
    /// Tables that have no full copy yet, and the percentage of all rows that is there.
    package var tablesLeft: Int?
    package var copiedPercent: Double?
    /// Seconds that the other side is behind, by a transaction of our own that went through the mirror.
    package var lagSeconds: Double?
    package var uncaptured: [String] = []
    /// Tables that the configuration maps otherwise than the manifest.
    package var otherwiseMapped: [String] = []
    package var verify: Verify?
    package var isVerifying = false
    package var invariants: [Invariant]?
    package var old: Answers?
    package var new: Answers?
    /// Answers that the windows must hold before they say anything.
    package var callsMin = 200
    /// NEW's breaker lets reads pass.
    package var isBreakerClosed: Bool?
    /// NEW has the writes; nil: it is not known now.
    package var isSwitched: Bool?
    /// Why the reads are no longer where the migration has put them; empty: they are.
    package var readsOverruled = ""
    package var compared: Compared?
    /// Of the authority.
    package var oldestTransactionSeconds: Double?
    package var preparedTransactions: Int?
    /// Of the side that is to get the load.
    package var freeConnections: Int?
    /// Sequences of the other side that have not reached the authority's yet and that the switch does not know.
    package var sequencesMissing: [String]?
    package var guardRails: [GuardRail]?
    /// Sessions of others on OLD, when NEW has the writes.
    package var othersOnOld: Int?
    package var isWindowOpen = true
    /// Why a side could not be asked; empty: both could.
    package var unreachable = ""

    package init() {}
}

/// One condition for leaving a phase, as it is shown. Immutable, any thread.
package struct Gate: Sendable, Equatable, Codable {
    package var name: String
    package var value: String
    package var threshold: String
    /// nil: it was not measured.
    package var holds: Bool?
    /// False: it is shown, and does not count.
    package var isRequired: Bool
    /// Microseconds since 1970 since when it holds; nil: it does not.
    package var since: Int64?
    /// What to do when it does not hold.
    package var advice: String

    package init(
        _ name: String, value: String, threshold: String, holds: Bool?, isRequired: Bool = true, advice: String = ""
    ) {
        self.name = name
        self.value = value
        self.threshold = threshold
        self.holds = holds
        self.isRequired = isRequired
        self.advice = advice
    }

    /// Stands in the way.
    package var blocks: Bool { isRequired && holds != true }
}
