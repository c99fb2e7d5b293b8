import Primitives

/// Which share of its users reads on NEW, per database: what the file says, until an operator says otherwise, and never
/// more than what a roll-back has left. Pure; owned by the control thread.
package struct TrafficPlan: Sendable {
    private struct Run: Sendable {
        var hundredths: Int
        var since: MonotonicInstant
    }

    /// What of it must outlive the process, for one database.
    package struct Record: Sendable, Equatable, Codable {
        /// Hundredths of a percent, 0...10000; nil: the file's.
        package var ordered: Int?
        /// The same, by the cohort's name.
        package var cohorts: [String: Int] = [:]
        /// What a roll-back has left, or a migration that was taken back.
        package var ceiling: Int?
        /// Who has the last word about the shares: a migration; else the file, once it is read again.
        package var isManaged = false
        /// An operator's word about the breaker: `old` or `new`; nil: it decides.
        package var forced: String?
        /// NEW has everything for good, and nothing in the databases tells it any more: which OLD and NEW that was.
        package var finishedPair: String?
        /// The same by where both are, beside the texts of their conninfos, which earlier versions have stored there.
        package var finishedPlaces: String?

        package init() {}
    }

    /// Each but `forced`, which is only kept here.
    private var records: [String: Record] = [:]
    private var running: [String: Run] = [:]
    /// The share that has gone well for long enough, from which the present one was reached.
    private var safe: [String: Int] = [:]

    package init() {}

    /// An operator's word; it holds until the file is read again, and ends a roll-back.
    package mutating func order(_ hundredths: Int, for database: String) {
        precondition((0...10_000).contains(hundredths), "a share outside 0...100 percent")
        records[database, default: Record()].ordered = hundredths
        records[database]?.ceiling = nil
        records[database]?.isManaged = false
    }

    /// A migration's word: it outlives reloads, and ends a roll-back.
    package mutating func manage(_ hundredths: Int, cohorts: [String: Int], for database: String) {
        precondition((0...10_000).contains(hundredths), "a share outside 0...100 percent")
        precondition(cohorts.values.allSatisfy { (0...10_000).contains($0) }, "a share outside 0...100 percent")
        var record = records[database] ?? Record()
        record.ordered = hundredths
        record.cohorts = cohorts
        record.ceiling = nil
        record.isManaged = true
        records[database] = record
    }

    /// Nobody reads on the other side, whatever the file says, until the next word.
    package mutating func hold(_ database: String) {
        var record = records[database] ?? Record()
        record.ordered = nil
        record.cohorts = [:]
        record.ceiling = 0
        record.isManaged = false
        records[database] = record
    }

    /// A breaker's, for it to be kept: see `Record.forced`.
    package mutating func noteForced(_ side: String?, for database: String) {
        records[database, default: Record()].forced = side
    }

    /// A migration is over: from here on nothing but this record knows who has the writes.
    package mutating func finish(_ database: String, pair: String) {
        var record = Record()
        record.finishedPair = pair
        records[database] = record
    }

    /// The texts of a finished pair, which earlier versions have stored, end with the next password: where it is, not.
    package mutating func locateFinished(_ database: String, at pair: String) {
        guard let finished = records[database]?.finishedPair, finished != pair else { return }
        records[database]?.finishedPlaces = pair
    }

    /// The file was read again and taken: it has the last word, but for roll-backs and migrations.
    package mutating func fileWasRead() {
        for (name, record) in records where !record.isManaged {
            records[name]?.ordered = nil
            records[name]?.cohorts = [:]
        }
    }

    package func share(of database: String, inFile hundredths: Int) -> Int {
        let record = records[database]
        return min(record?.ordered ?? hundredths, record?.ceiling ?? 10_000)
    }

    package func share(ofCohort name: String, of database: String, inFile hundredths: Int) -> Int {
        let record = records[database]
        // What was safe is the greatest share that anybody had, whatever group he is in.
        return min(record?.cohorts[name] ?? hundredths, record?.ceiling ?? 10_000)
    }

    /// What a roll-back has left of the reads; nil: there was none, or an operator has ended it.
    package func ceiling(of database: String) -> Int? { records[database]?.ceiling }

    /// What must outlive the process.
    package func record(of database: String) -> Record { records[database] ?? Record() }

    /// As it was before the process began, or as another one says. That a migration is over nobody takes back: who says
    /// nothing of it has not heard of it yet.
    package mutating func restore(_ record: Record, for database: String) {
        var record = record
        if record.finishedPair == nil, let before = records[database] {
            (record.finishedPair, record.finishedPlaces) = (before.finishedPair, before.finishedPlaces)
        }
        records[database] = record
    }

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
        records[database, default: Record()].ceiling = 0
    }

    /// NEW answers worse than it may: its share goes back to the last safe one, and stays until an operator's word.
    ///
    /// - Returns: the shares before and after; nil: there is nothing to lower.
    package mutating func rollBack(_ database: String) -> (from: Int, to: Int)? {
        guard let present = running[database]?.hundredths, present > 0 else { return nil }
        let last = safe[database] ?? 0
        let next = last < present ? last : 0
        safe[database] = 0
        records[database, default: Record()].ceiling = next
        return (present, next)
    }
}
