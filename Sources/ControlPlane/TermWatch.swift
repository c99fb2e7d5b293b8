/// What follows from who runs the migrations, for one that may: pure. One owner.
package struct TermWatch: Sendable {
    package enum Action: Sendable, Equatable {
        case nothing
        /// They are ours: what is stored is read, and gone on with.
        case begin(Int64)
        /// They are ours again, and nobody had them in between: what is in memory counts, by this number.
        case goOn(Int64)
        /// They are this process's now: what is in memory counts no more.
        case drop(successor: String)
        /// Nothing is decided until the store answers: they may be another one's by now.
        case standStill(reason: String)
    }

    /// As which they are run; nil: another process does.
    package private(set) var held: Int64?
    /// The store does not answer.
    package private(set) var isAway = false

    package init() {}

    package mutating func handle(_ term: StateTerm) -> Action {
        switch (term, held) {
        case (.ours(let number), let before):
            let wasAway = isAway
            isAway = false
            held = number
            if before == number { return wasAway ? .goOn(number) : .nothing }
            return before.map { $0 + 1 } == number ? .goOn(number) : .begin(number)
        case (.others(let process, _), let before):
            (held, isAway) = (nil, false)
            return before == nil ? .nothing : .drop(successor: process)
        case (.nobody, nil), (.unknown, nil):
            return .nothing
        case (.nobody, _):
            (held, isAway) = (nil, false)
            return .drop(successor: "")
        case (.unknown(let reason), _):
            isAway = true
            return .standStill(reason: reason)
        }
    }

    /// What was to be begun cannot be read: it is as if another one had it, until the next look.
    package mutating func giveUp() { (held, isAway) = (nil, false) }
}
