import PGWire
import Primitives

/// What auth_query has answered lately, and whose logins wait for an answer that is on its way. Pure; a Worker's value.
///
/// Users who do not exist are kept as those who do, for as long: nobody can tell them apart by the time of an answer.
package struct SecretCache {
    package struct Key: Hashable, Sendable {
        package let database: ExactName
        package let user: ExactName

        package init(database: String, user: String) {
            self.database = ExactName(database)
            self.user = ExactName(user)
        }
    }

    package enum Ask: Equatable {
        case known(ClientLogin.LookedUp)
        /// The caller sends the question under this number.
        case ask(UInt64)
        /// Somebody else has asked the same.
        case wait
        /// As many questions as may be are on their way.
        case refused
    }

    private struct Entry {
        var answer: ClientLogin.LookedUp
        var since: MonotonicInstant
        var ticket: UInt64
    }

    private struct Question {
        var key: Key
        var clients: [ClientID]
        /// The configuration was read again meanwhile: the answer is for those who wait, and not kept.
        var isStale = false
    }

    /// Answers kept.
    package static let entriesMax = 10_000
    /// Questions on their way.
    package static let questionsMax = 1000
    /// An answer that a proof did not fit is asked for again when it is older than this.
    package static let doubtNanos: UInt64 = 1_000_000_000

    private var entries: [Key: Entry] = [:]
    private var order: BoundedQueue<(key: Key, ticket: UInt64)>
    private var questions: [UInt64: Question] = [:]
    private var numbers: [Key: UInt64] = [:]
    private var lastNumber: UInt64 = 0
    private var lifeNanos: UInt64
    /// Of the latest SCRAM secret that was found: what a user who does not exist is told too.
    private var iterations: Int?

    package init(lifeNanos: UInt64) {
        self.lifeNanos = lifeNanos
        order = BoundedQueue(bound: Self.entriesMax)
    }

    package var count: Int { entries.count }

    package mutating func ask(_ key: Key, for client: ClientID, now: MonotonicInstant) -> Ask {
        if let entry = entries[key], now.nanoseconds(since: entry.since) < lifeNanos { return .known(entry.answer) }
        if let number = numbers[key] {
            questions[number]?.clients.append(client)
            return .wait
        }
        if questions.count >= Self.questionsMax { return .refused }
        lastNumber += 1
        questions[lastNumber] = Question(key: key, clients: [client])
        numbers[key] = lastNumber
        return .ask(lastNumber)
    }

    /// An answer has come: who waited for it. A failure is told to them and not kept.
    package mutating func answered(
        _ number: UInt64, _ answer: ClientLogin.LookedUp, now: MonotonicInstant
    ) -> (clients: [ClientID], answer: ClientLogin.LookedUp) {
        guard let question = questions.removeValue(forKey: number) else { return ([], answer) }
        if numbers[question.key] == number { numbers[question.key] = nil }
        var answer = answer
        switch answer {
        case .found(.scram(let secret)): iterations = secret.iterations
        case .none(nil): answer = .none(iterations: iterations)
        case .found, .none, .failed: break
        }
        if case .failed = answer { return (question.clients, answer) }
        if !question.isStale { keep(answer, question.key, number, now) }
        return (question.clients, answer)
    }

    private mutating func keep(
        _ answer: ClientLogin.LookedUp, _ key: Key, _ ticket: UInt64, _ now: MonotonicInstant
    ) {
        if order.isFull, let oldest = order.popFirst(), entries[oldest.key]?.ticket == oldest.ticket {
            entries[oldest.key] = nil
        }
        entries[key] = Entry(answer: answer, since: now, ticket: ticket)
        _ = order.append((key, ticket))
    }

    /// A proof did not fit: the secret may have changed since.
    package mutating func doubt(_ key: Key, now: MonotonicInstant) {
        if let entry = entries[key], now.nanoseconds(since: entry.since) >= Self.doubtNanos { entries[key] = nil }
    }

    /// The configuration was read again: nothing of what was known holds.
    package mutating func forget(lifeNanos: UInt64) {
        self.lifeNanos = lifeNanos
        entries = [:]
        order = BoundedQueue(bound: Self.entriesMax)
        numbers = [:]
        for number in questions.keys { questions[number]?.isStale = true }
    }
}
