import Dispatch
import Glibc
import LibPQ
import Primitives
import Synchronization

/// Writes to the state's server, and asks for the right to run migrations. Its thread's, but for what says otherwise.
final class StateWriter {
    enum Job: Sendable {
        case write(String, StateReply)
        /// Somebody's whom nobody waits for; tried again until the server has taken or refused it.
        case later(String, term: Int64?, then: @Sendable (Result<[StateRow], StateStore.Failure>) -> Void)
        case wantTerm
        case resign(StateReply)
        case stop
    }

    private struct Waiting {
        var text: String
        var then: @Sendable (Result<[StateRow], StateStore.Failure>) -> Void
    }

    /// Milliseconds between signs of life of who runs the migrations, and between others' attempts to run them.
    private static let tickMillis = 500

    /// What waits for a server that is away; more is refused. Events have a bound of their own, see `StateStore`.
    private static let waitingMax = 20_000

    private let session: StateSession
    private let jobs: Mailbox<Job>
    private let present: PresentTerm
    private let place: String
    private let process: String
    private let address: String
    private var waiting: [Waiting] = []
    private var lastOrdinal: Int64 = 0
    private var wantsTerm = false
    /// What our present session holds; 0: nothing.
    private var held: Int64 = 0
    private var heldIn = 0
    private var nextTick = MonotonicInstant.now()

    init(
        _ session: StateSession, jobs: Mailbox<Job>, present: PresentTerm, place: String, process: String,
        address: String
    ) {
        self.session = session
        self.jobs = jobs
        self.present = present
        self.place = place
        self.process = process
        self.address = address
    }

    func run() {
        while true {
            let left = nextTick.nanoseconds(since: .now()) / 1_000_000
            var ready = pollfd(fd: jobs.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, CInt(min(left + 1, UInt64(Self.tickMillis))))
            for job in jobs.take() {
                switch job {
                case .write(let text, let reply): reply.give(write(text))
                case .later(_, _, let then) where waiting.count >= Self.waitingMax:
                    then(.failure(failure("has not got it: too much waits for it already")))
                case .later(let text, let term, let then):
                    lastOrdinal += 1
                    let enter = PostgresSchema.enter(term: term, process: process, ordinal: lastOrdinal)
                    waiting.append(Waiting(text: "\(enter); \(text)", then: then))
                case .wantTerm:
                    wantsTerm = true
                    nextTick = .now()
                case .resign(let reply):
                    resign()
                    reply.give(.success([]))
                case .stop:
                    _ = writeWaiting()
                    for left in waiting { left.then(.failure(failure("has not got it: Godwit ends"))) }
                    return session.close()
                }
            }
            if MonotonicInstant.now() >= nextTick {
                tick()
                nextTick = MonotonicInstant.now().advanced(bySeconds: Double(Self.tickMillis) / 1000)
            }
            _ = writeWaiting()
        }
    }

    private func failure(_ what: String) -> StateStore.Failure { StateStore.Failure(path: place, what: what) }

    // MARK: writing

    /// Behind everything that was given before.
    private func write(_ text: String) -> Result<[StateRow], StateStore.Failure> {
        if let reason = writeWaiting() { return .failure(failure("cannot be written: \(reason)")) }
        do throws(PostgresFailure) {
            return .success(StateRow.all(try session.execute(text)))
        } catch {
            noteLoss(error)
            return .failure(told(error))
        }
    }

    /// With the session goes what it held: nobody need wait for the next look to know.
    private func noteLoss(_ error: PostgresFailure) {
        if wantsTerm, !session.isOpen { present.set(.unknown(reason: "\(error)")) }
    }

    private func told(_ error: PostgresFailure) -> StateStore.Failure {
        if error.sqlState == PostgresSchema.supersededState {
            return StateStore.Failure(path: place, what: "was not changed: \(error.message)", isSuperseded: true)
        }
        return failure("cannot be written: \(error)")
    }

    /// - Returns: why some of it waits still; nil: nothing does.
    private func writeWaiting() -> PostgresFailure? {
        var done = 0
        defer { waiting.removeFirst(done) }
        for next in waiting {
            do throws(PostgresFailure) {
                let rows = StateRow.all(try session.execute(next.text))
                next.then(.success(rows))
            } catch {
                if error.sqlState == PostgresSchema.writtenState {
                    next.then(.success([]))
                } else if error.isPassing {
                    noteLoss(error)
                    return error
                } else {
                    next.then(.failure(told(error)))
                }
            }
            done += 1
        }
        return nil
    }

    // MARK: who runs the migrations

    private func tick() {
        guard wantsTerm else { return }
        do throws(PostgresFailure) {
            // What another session held is held no more.
            try session.begin()
            if heldIn != session.generation { held = 0 }
            heldIn = session.generation
            let claim = PostgresSchema.claim(process: process, address: address, held: held)
            guard let rows = try session.execute(claim), rows.count == 1 else {
                preconditionFailure("claim has one row")
            }
            let number = rows.integer(0, 0) ?? 0
            let isOurs = rows.flag(0, 1)
            held = isOurs ? number : 0
            present.set(isOurs ? .ours(number) : .others(process: rows[0, 2] ?? "", address: rows[0, 3] ?? ""))
        } catch {
            present.set(.unknown(reason: "\(error)"))
        }
    }

    private func resign() {
        wantsTerm = false
        let isHeld = session.isOpen && held > 0 && heldIn == session.generation
        if isHeld { _ = try? session.execute(PostgresSchema.resignText) }
        held = 0
        present.set(.nobody)
    }
}

/// As of the last look. Any thread.
final class PresentTerm: Sendable {
    private let held = Mutex<StateTerm>(.nobody)
    private let observer = Mutex<(@Sendable (StateTerm) -> Void)?>(nil)

    var term: StateTerm { held.withLock { $0 } }

    func set(_ term: StateTerm) {
        let isNews = held.withLock { held in
            defer { held = term }
            return held != term
        }
        if isNews { observer.withLock { $0 }?(term) }
    }

    /// One observer, on the thread of who looks.
    func observe(_ observer: @escaping @Sendable (StateTerm) -> Void) {
        self.observer.withLock { $0 = observer }
        observer(term)
    }
}

/// Whoever waits for the state's server. Any thread.
final class StateReply: Sendable {
    private let given = DispatchSemaphore(value: 0)
    private let result = Mutex<Result<[StateRow], StateStore.Failure>?>(nil)

    func give(_ result: Result<[StateRow], StateStore.Failure>) {
        self.result.withLock { $0 = result }
        given.signal()
    }

    func wait() throws(StateStore.Failure) -> [StateRow] {
        given.wait()
        guard let result = result.withLock({ $0 }) else { preconditionFailure("given before it is told") }
        return try result.get()
    }
}

extension StateRow {
    static func all(_ rows: Rows?) -> [StateRow] {
        guard let rows else { return [] }
        return (0..<rows.count).map { row in StateRow((0..<rows.columns).map { rows[row, $0] }) }
    }
}
