/// A rehearsal of the way to NEW and back: what is wanted. Immutable, any thread.
package struct DrillOrder: Sendable, Equatable, Codable {
    package static let watchSecondsDefault = 30.0
    package static let watchSecondsMax = 3600.0

    /// With all tables and all writers; else with a table of ours in databases of ours.
    package var isWhole: Bool
    /// Seconds for which NEW has the writes of a whole one.
    package var watchSeconds: Double

    package init(isWhole: Bool, watchSeconds: Double = DrillOrder.watchSecondsDefault) {
        self.isWhole = isWhole
        self.watchSeconds = watchSeconds
    }

    /// For people.
    package var words: String {
        isWhole ? "whole: NEW has the writes for \(GateJudge.text(watchSeconds)) s" : "on a canary table"
    }
}

/// What has come of a drill. Immutable, any thread.
package struct DrillResult: Sendable, Equatable, Codable {
    package var order: DrillOrder
    package var hasPassed = false
    /// One sentence.
    package var words = ""
    /// Microseconds since 1970.
    package var began: Int64
    package var ended: Int64 = 0
    /// For which writes were held, on the way there and back; nil: it did not come to that.
    package var cutoverHeldMillis: Double?
    package var rollbackHeldMillis: Double?
    /// `equal`, `different` or `unknown`; nil: nothing was compared.
    package var verify: String?
    package var rowsCompared: Int64?
    /// Writes of the canary's that were answered.
    package var writes: Int?

    package init(_ order: DrillOrder, began: Int64) {
        self.order = order
        self.began = began
    }

    package func ending(_ hasPassed: Bool, _ words: String, at now: Int64) -> DrillResult {
        var ended = self
        ended.hasPassed = hasPassed
        ended.words = words
        ended.ended = now
        return ended
    }
}
