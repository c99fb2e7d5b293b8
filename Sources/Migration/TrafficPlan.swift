import Primitives

/// Which share of its users reads on NEW, per database: what the file says, until an operator says otherwise, and never
/// more than what a roll-back has left. Pure; owned by the control thread.
package struct TrafficPlan: Sendable {
    private struct Run: Sendable {
        var hundredths: Int
        var since: MonotonicInstant
    }

    /// Hundredths of a percent, 0...10000.
    private var ordered: [String: Int] = [:]
    /// What a roll-back has left; it outlives reloads.
    private var ceilings: [String: Int] = [:]
    private var running: [String: Run] = [:]
    /// The share that has gone well for long enough, from which the present one was reached.
    private var safe: [String: Int] = [:]

    package init() {}

    /// An operator's word; it holds until the file is read again, and ends a roll-back.
    package mutating func order(_ hundredths: Int, for database: String) {
        precondition((0...10_000).contains(hundredths), "a share outside 0...100 percent")
        ordered[database] = hundredths
        ceilings[database] = nil
    }

    /// The file was read again and taken: it has the last word, but for roll-backs.
    package mutating func fileWasRead() { ordered = [:] }

    package func share(of database: String, inFile hundredths: Int) -> Int {
        min(ordered[database] ?? hundredths, ceilings[database] ?? 10_000)
    }

    /// What a roll-back has left of the reads; nil: there was none, or an operator has ended it.
    package func ceiling(of database: String) -> Int? { ceilings[database] }

    /// This share is in force from now on.
    package mutating func runs(
        _ hundredths: Int, of database: String, now: MonotonicInstant, safeAfterSeconds: Double
    ) {
        guard let before = running[database] else {
            running[database] = Run(hundredths: hundredths, since: now)
            return
        }
        if before.hundredths == hundredths { return }
        running[database] = Run(hundredths: hundredths, since: now)
        if hundredths < before.hundredths {
            safe[database] = min(safe[database] ?? 0, hundredths)
        } else if now >= before.since.advanced(bySeconds: safeAfterSeconds) {
            safe[database] = before.hundredths
        }
    }

    /// The writes have gone back to OLD: nobody reads on NEW until an operator's word.
    package mutating func distrust(_ database: String) {
        safe[database] = 0
        ceilings[database] = 0
    }

    /// NEW answers worse than it may: its share goes back to the last safe one, and stays until an operator's word.
    ///
    /// - Returns: the shares before and after; nil: there is nothing to lower.
    package mutating func rollBack(_ database: String) -> (from: Int, to: Int)? {
        guard let present = running[database]?.hundredths, present > 0 else { return nil }
        let last = safe[database] ?? 0
        let next = last < present ? last : 0
        safe[database] = 0
        ceilings[database] = next
        return (present, next)
    }
}
