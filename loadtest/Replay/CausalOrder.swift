/// Which units have been answered, for those that may only follow them. One thread.
///
/// What had ended before a unit began in the capture has ended before it begins in the replay. What may write also
/// waits for all that was answered before it was answered itself: with two writers of one row, the first to be answered
/// had the row's lock first, and were the other one first here, its COMMIT would wait for the first one's for ever.
package struct CausalOrder {
    private var done: Set<UInt64> = []
    /// All units before this place have been answered.
    package private(set) var prefix: UInt64 = 0
    /// Units that were answered here before their place was known.
    private var early: Set<UInt64> = []
    /// How long units took in the capture, by their places, for those that have not been answered here.
    private var latencies: [UInt64: UInt64] = [:]
    /// So many may overtake those whose turn it is: see `graceMicros`.
    package private(set) var slack: UInt64 = 0

    package init() {}

    package mutating func finished(_ unit: ScriptUnit) {
        guard let ordinal = unit.answerOrdinal else {
            early.insert(unit.number)
            return
        }
        mark(ordinal)
    }

    /// The capture told a unit's place.
    package mutating func learned(_ unit: ScriptUnit) {
        if let ordinal = unit.answerOrdinal, ordinal >= prefix { latencies[ordinal] = unit.latencyMicros }
        guard !early.isEmpty, early.remove(unit.number) != nil, let ordinal = unit.answerOrdinal else { return }
        mark(ordinal)
    }

    private mutating func mark(_ ordinal: UInt64) {
        if ordinal < prefix { return }
        done.insert(ordinal)
        advance()
    }

    private mutating func advance() {
        while done.remove(prefix) != nil {
            latencies[prefix] = nil
            prefix += 1
            slack = 0
        }
    }

    /// The unit whose turn it is has this long for its answer. Then the next one in order goes out beside it: both
    /// were under way together in the capture, and the one may hold the lock that the other waits for.
    package var graceMicros: UInt64 {
        (max(3000, min(latencies[prefix + slack] ?? 0, 1_000_000) * 3 / 2))
    }

    package mutating func letOneOvertake() { slack += 1 }

    /// Up to this place units may go out.
    package var limit: UInt64 { prefix + slack }

    package enum Turn: Equatable {
        case now
        /// When all before this place have been answered.
        case afterAll(UInt64)
        /// When it is its turn: see `limit`.
        case later(UInt64)
        /// The capture has not told the unit's place yet.
        case unknown
    }

    /// - Parameter running: units of the same connection that were sent before and not answered.
    /// - Parameter isStrict: reads too come one after the other.
    /// - Parameter isAllKnown: nothing more comes of the capture: who has no place has none.
    package func turn(
        of step: ScriptStep, running: [SessionPlayer.Running], isStrict: Bool, isAllKnown: Bool
    ) -> Turn {
        // What has begun goes on.
        if running.last?.unit === step.unit { return .now }
        if step.unitsBefore > prefix { return .afterAll(step.unitsBefore) }
        if !isStrict && step.unit.isRead { return .now }
        guard let ordinal = step.unit.answerOrdinal else { return isAllKnown ? .now : .unknown }
        let own = running.reduce(UInt64(0)) { $0 + (($1.unit.answerOrdinal ?? 0) >= prefix ? 1 : 0) }
        return ordinal <= limit + own ? .now : .later(ordinal - own)
    }

    /// What waits for something that does not come is let go: all before this place counts as answered.
    package mutating func release(upTo ordinal: UInt64) {
        if ordinal <= prefix { return }
        prefix = ordinal
        slack = 0
        done = done.filter { $0 >= ordinal }
        latencies = latencies.filter { $0.key >= ordinal }
        advance()
    }
}
