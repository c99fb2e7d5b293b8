import Primitives

/// How many rows the next range of the first copy has, and when it is due. Pure; used by the mirror's thread.
///
/// A range shares its batch with the changed keys, so what it takes is their lag: it is as large as a time goal allows.
/// A batch that brings many changes leaves little time for the copy: the copy waits, not the changes.
struct CopyPace {
    static let rowsMin = 100
    /// Rows of the first range: small, for nobody knows how large they are.
    static let rowsFirst = 1000
    static let goalSeconds = 0.25

    private let rowsMax: Int
    private var rowsNext: Int
    private var notBefore: MonotonicInstant?
    /// Rows a second over the last ranges.
    private(set) var rate = 0.0
    private var lastRange: MonotonicInstant?

    init(rowsMax: Int) {
        self.rowsMax = rowsMax
        rowsNext = min(rowsMax, Self.rowsFirst)
    }

    /// - Parameter rowsPerSecondMax: 0: any.
    /// - Returns: nil: not yet.
    func rows(at instant: MonotonicInstant, rowsPerSecondMax: Int) -> Int? {
        if let notBefore, instant < notBefore { return nil }
        guard rowsPerSecondMax > 0 else { return rowsNext }
        return max(1, min(rowsNext, rowsPerSecondMax / 4))
    }

    /// - Parameter seconds: what the whole batch took.
    mutating func record(rows: Int, seconds: Double, at instant: MonotonicInstant, rowsPerSecondMax: Int) {
        if seconds > Self.goalSeconds {
            rowsNext = max(min(Self.rowsMin, rowsMax), rowsNext / 2)
        } else if seconds < Self.goalSeconds / 2 {
            rowsNext = min(rowsMax, rowsNext * 2)
        }
        if let lastRange {
            let elapsed = max(1e-6, Double(instant.nanoseconds(since: lastRange)) / 1e9)
            // Weighted by time: a second ago counts about a third.
            let weight = min(1, elapsed)
            rate = rate == 0 ? Double(rows) / elapsed : rate * (1 - weight) + Double(rows) / elapsed * weight
        }
        lastRange = instant
        guard rowsPerSecondMax > 0 else {
            notBefore = nil
            return
        }
        let due = max(notBefore ?? instant, instant)
        notBefore = due.advanced(bySeconds: Double(rows) / Double(rowsPerSecondMax))
    }

    /// When the copy rested, the time since its last range says nothing of its rate.
    mutating func rested() { lastRange = nil }
}
