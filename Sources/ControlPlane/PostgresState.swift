import Glibc
import LibPQ
import Primitives
import Synchronization

/// A PostgreSQL database that several Godwits share: schema `godwit_state` of it. Any thread.
///
/// One session writes, and holds the right to run migrations; another reads, and hears of what others have written.
/// Each has a thread, so that what is not waited for waits for nobody.
final class PostgresState: StateBackend {
    let place: String
    let isShared = true
    private let process: String
    private let jobs: Mailbox<StateWriter.Job>
    private let questions: Mailbox<StateReader.Question>
    private let lastTerm: PresentTerm
    private let news: StateNews
    private let threads: [OwnThread]
    private let wantsTerm = Atomic<Bool>(false)
    let absence: StateStore.Failure?

    /// Connects, and makes what it lacks.
    ///
    /// - Parameter mayBeAway: a server that does not answer is waited for meanwhile.
    init(url: String, process: String, address: String, mayBeAway: Bool) throws(StateStore.Failure) {
        let target: ConnectionString
        do throws(ConnectionStringError) { target = try ConnectionString(parsing: url) } catch {
            throw StateStore.Failure(path: "state.url", what: "cannot be used: \(error)")
        }
        let place = "PostgreSQL (\(target))"
        (self.place, self.process) = (place, process)
        let making = StateMaking(process)
        let session = StateSession(target, purpose: "state", first: "", making: making)
        do throws(PostgresFailure) {
            try session.begin()
            absence = nil
        } catch {
            let advice = error.sqlState == "42501"
                ? "; let its role make schema \(PostgresSchema.name): GRANT CREATE ON DATABASE" : ""
            let failure = StateStore.Failure(path: place, what: "cannot be used: \(error)\(advice)")
            if !mayBeAway || !error.isAbsence { throw failure }
            absence = failure
        }
        session.close()
        let (jobs, questions) = (Mailbox<StateWriter.Job>(), Mailbox<StateReader.Question>())
        let (present, news) = (PresentTerm(), StateNews())
        let writer = OwnThread(name: "godwit-state") {
            StateWriter(
                StateSession(target, purpose: "state", first: "", making: making), jobs: jobs, present: present,
                place: place, process: process, address: address
            ).run()
        }
        let reader = OwnThread(name: "godwit-state-r") {
            StateReader(
                StateSession(
                    target, purpose: "state reader", first: "LISTEN \(PostgresSchema.channel)", making: making),
                questions: questions, news: news, place: place
            ).run()
        }
        threads = [writer, reader]
        (self.jobs, self.questions, lastTerm, self.news) = (jobs, questions, present, news)
    }

    deinit {
        jobs.post(.stop)
        questions.post(.stop)
        for thread in threads { thread.join() }
    }

    // MARK: StateBackend

    func write(_ statements: [StateStatement], term: Int64?) throws(StateStore.Failure) -> [StateRow] {
        let reply = StateReply()
        let enter = PostgresSchema.enter(term: term, process: process, ordinal: nil)
        jobs.post(.write(([enter] + statements.map(\.asPostgres)).joined(separator: ";\n"), reply))
        return try reply.wait()
    }

    func writeLater(
        _ statements: [StateStatement], term: Int64?,
        then: @escaping @Sendable (Result<[StateRow], StateStore.Failure>) -> Void
    ) {
        jobs.post(.later(statements.map(\.asPostgres).joined(separator: ";\n"), term: term, then: then))
    }

    func read(_ statement: StateStatement) throws(StateStore.Failure) -> [StateRow] {
        let reply = StateReply()
        questions.post(.read(statement.asPostgres, reply))
        return try reply.wait()
    }

    func term() -> StateTerm {
        if !wantsTerm.exchange(true, ordering: .relaxed) { jobs.post(.wantTerm) }
        return lastTerm.term
    }

    var present: StateTerm { lastTerm.term }

    func resign() {
        let reply = StateReply()
        jobs.post(.resign(reply))
        _ = try? reply.wait()
        wantsTerm.store(false, ordering: .relaxed)
    }

    func observe(term: @escaping @Sendable (StateTerm) -> Void, news: @escaping @Sendable () -> Void) {
        lastTerm.observe(term)
        self.news.observe(news)
    }
}

/// Who wants to hear that something was written. Any thread.
final class StateNews: Sendable {
    private let observer = Mutex<(@Sendable () -> Void)?>(nil)

    func observe(_ observer: @escaping @Sendable () -> Void) { self.observer.withLock { $0 = observer } }

    func tell() { observer.withLock { $0 }?() }
}

/// Asks the state's server, and hears of what other processes write. Its thread's.
final class StateReader {
    enum Question: Sendable {
        case read(String, StateReply)
        case stop
    }

    /// Milliseconds after which others may have written something although nobody has told: then it is looked.
    private static let lookMillis: UInt64 = 500

    private let session: StateSession
    private let questions: Mailbox<Question>
    private let news: StateNews
    private let place: String

    init(_ session: StateSession, questions: Mailbox<Question>, news: StateNews, place: String) {
        self.session = session
        self.questions = questions
        self.news = news
        self.place = place
    }

    func run() {
        var nextLook = MonotonicInstant.now().advanced(byMillis: Self.lookMillis)
        while true {
            let left = nextLook.nanoseconds(since: .now()) / 1_000_000
            var ready = [
                pollfd(fd: questions.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: session.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            _ = poll(&ready, 2, CInt(min(left + 1, Self.lookMillis)))
            for question in questions.take() {
                switch question {
                case .read(let text, let reply): reply.give(answer(text))
                case .stop: return session.close()
                }
            }
            // Whatever came while a question was answered is here, too.
            let told = (try? session.takeNotifications()) ?? 0
            // However many ask something else meanwhile.
            let isTime = MonotonicInstant.now() >= nextLook
            if isTime { nextLook = MonotonicInstant.now().advanced(byMillis: Self.lookMillis) }
            if told > 0 || isTime { news.tell() }
        }
    }

    private func answer(_ text: String) -> Result<[StateRow], StateStore.Failure> {
        do throws(PostgresFailure) {
            return .success(StateRow.all(try session.execute(text)))
        } catch {
            return .failure(StateStore.Failure(path: place, what: "cannot be read: \(error)"))
        }
    }
}

extension StateStatement {
    /// The values in their places.
    var asPostgres: String {
        let parts = text.split(separator: "?", omittingEmptySubsequences: false)
        precondition(parts.count == values.count + 1, "\(values.count) values for \(text)")
        var whole = String(parts[0])
        for (value, part) in zip(values, parts.dropFirst()) { whole += value.asPostgres + part }
        return whole
    }
}

extension StateValue {
    fileprivate var asPostgres: String {
        switch self {
        // No text of PostgreSQL's has a zero in it.
        case .text(let text): SQL.literal(text.replacing("\0", with: "\u{FFFD}"))
        case .integer(let number): "\(number)"
        case .flag(let flag): flag ? "true" : "false"
        case .null: "NULL"
        }
    }
}
