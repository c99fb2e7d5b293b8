import Primitives

/// What an operator wants of the side that takes the writes. Immutable, any thread.
package struct SwitchOrder: Sendable, Equatable {
    package enum Verb: String, Sendable, CaseIterable {
        /// NEW takes the writes from now on.
        case cutover
        /// OLD takes them again.
        case rollback

        package var authority: Side { self == .cutover ? .new : .old }
    }

    /// Whether the rows of both sides were compared lately. Who orders a switch says it.
    package enum Evidence: Sendable, Equatable {
        /// A verification of every row that ended so many seconds ago: equal, or not.
        case verified(secondsAgo: Double, isEqual: Bool)
        case none
        /// The operator does without.
        case waived
    }

    package static let deadlineMillisDefault = 1000
    package static let deadlineMillisMax = 60_000

    package var verb: Verb
    package var database: String
    /// The guard rails only: nothing is held, nothing changed.
    package var isDryRun = false
    /// From the first unit that is held to the commit point. Missed, everything goes on as it was.
    package var deadlineMillis = SwitchOrder.deadlineMillisDefault
    package var evidence = Evidence.none
    /// Clients that are bound to their server (temporary tables, LISTEN, session locks) are disconnected, and not in
    /// the way.
    package var endsPinned = false
    /// Of the evidence.
    package var verifiedSecondsMax = 3600.0

    package init(_ verb: Verb, _ database: String) {
        self.verb = verb
        self.database = database
    }
}

/// One thing that must hold before a switch begins. Immutable, any thread.
package struct GuardRail: Sendable, Equatable {
    package var name: String
    /// What was found, and what it may be; for people.
    package var value: String
    package var threshold: String
    package var isMet: Bool
    /// What to do when it is not met.
    package var advice: String

    package init(_ name: String, value: String, threshold: String, isMet: Bool, advice: String) {
        self.name = name
        self.value = value
        self.threshold = threshold
        self.isMet = isMet
        self.advice = isMet ? "" : advice
    }
}

/// What became of a switch. Immutable, any thread.
package struct SwitchReport: Sendable, Equatable {
    package enum Outcome: Sendable, Equatable {
        /// A dry run, and every guard rail is met.
        case ready
        /// A guard rail is not met: nothing was touched.
        case refused
        /// It did not come to the commit point: everything goes on as it was, and clients have seen latency only.
        case resumed(reason: String)
        /// The other side has the writes.
        case done
        /// Nobody can tell yet: a side does not answer. Writes are held, or refused by the fence, until it does.
        case undecided(reason: String)
    }

    package struct Step: Sendable, Equatable {
        package var name: SwitchStep
        package var millis: Double

        package init(_ name: SwitchStep, millis: Double) {
            self.name = name
            self.millis = millis
        }
    }

    package var order: SwitchOrder
    /// The switch's number; 0 where none was begun.
    package var epoch: Int64 = 0
    package var outcome: Outcome
    package var rails: [GuardRail] = []
    package var steps: [Step] = []
    /// From the first held unit until all could go on.
    package var heldMillis = 0.0

    package init(_ order: SwitchOrder, _ outcome: Outcome) {
        self.order = order
        self.outcome = outcome
    }

    package var isDone: Bool { outcome == .done }

    /// One sentence.
    package var summary: String {
        let place = order.verb.authority.title
        switch outcome {
        case .ready: return "all \(rails.count) guard rails are met"
        case .refused:
            let missed = rails.filter { !$0.isMet }.map { "\($0.name): \($0.value) (wanted: \($0.threshold))" }
            return "nothing was touched: \(missed.joined(separator: "; "))"
        case .resumed(let reason): return "everything goes on as it was: \(reason)"
        case .done: return "\(place) takes the writes, after \(Self.tenths(heldMillis)) ms in which they were held"
        case .undecided(let reason): return "not decided yet: \(reason)"
        }
    }

    /// One digit behind the point.
    package static func tenths(_ number: Double) -> String {
        let rounded = Int64((number * 10).rounded())
        return "\(rounded / 10).\(abs(rounded % 10))"
    }
}

/// The steps of a switch, in their order. `decided` steps come behind the commit point.
package enum SwitchStep: String, Sendable, CaseIterable {
    case rails, reserve, hold, fence, sequences, batch, claim, swap, handOver = "hand_over", reverse

    package var isDecided: Bool {
        switch self {
        case .rails, .reserve, .hold, .fence, .batch, .sequences, .claim: false
        case .swap, .handOver, .reverse: true
        }
    }
}
