import Glibc
import LibPQ
import Logging
import Primitives
import Shadowing
import SQLAnalysis
import Synchronization

/// Where and how one database's sampled reads are compared. Immutable, any thread.
package struct ShadowOptions: Sendable {
    package var authority = Side.old
    /// With rights as the mirror has them: for pairs of snapshots.
    package var controlOld: ConnectionString
    package var controlNew: ConnectionString
    /// Seconds from one pair of snapshots to the next.
    package var pauseSeconds = 1.0
    /// Seconds that one read may take on a side.
    package var statementSeconds = 1.0
    /// Rows of one answer that are compared.
    package var rowsMax = 10_000
    /// Bytes of one answer that are compared.
    package static let bytesMax = 8 << 20
    /// Seconds for which a pair is kept: it holds old row versions, and locks that a DDL waits for.
    package static let pairSeconds = 2.0

    package init(controlOld: ConnectionString, controlNew: ConnectionString) {
        self.controlOld = controlOld
        self.controlNew = controlNew
    }

    func control(_ side: Side) -> ConnectionString { side == .old ? controlOld : controlNew }
}

/// Runs sampled reads on both sides at pairs of snapshots, one after the other, on a thread of its own. Any thread may
/// stop it.
package final class ShadowRunner: Sendable {
    private let stopRequest = Mailbox<Never>()
    private let thread = Mutex<OwnThread?>(nil)

    /// - Parameters:
    ///   - login: how reads of a client's user come to a side.
    ///   - onCompared: called on the thread for each read whose answers were held against each other.
    ///   - onMismatch: for the first of each shape.
    package init(
        _ book: ShadowBook, _ options: ShadowOptions, logger: Logger,
        login: @escaping @Sendable (Side, _ user: String) -> ConnectionString,
        onCompared: @escaping @Sendable (ShadowSample, _ differs: Bool) -> Void,
        onMismatch: @escaping @Sendable (ShadowSample, Difference) -> Void
    ) {
        let stop = stopRequest
        let started = OwnThread(name: "godwit-shadow") {
            let loop = ShadowLoop(
                book, options, logger, stop: stop.descriptor, login: login, onCompared: onCompared,
                onMismatch: onMismatch)
            loop.run()
        }
        thread.withLock { $0 = started }
    }

    /// Ends the reads that run, and blocks until the thread has ended.
    package func stop() {
        signal(eventDescriptor: stopRequest.descriptor)
        thread.join()
    }
}

/// Confined to the runner's thread.
private final class ShadowLoop {
    /// Users whose sessions are kept, and milliseconds after which a side that could not be reached is tried again.
    private static let sessionsMax = 16
    private static let retryMillis: UInt64 = 5_000
    /// Milliseconds between two pairs after one could not be had.
    private static let pairRetryMillis: CInt = 2_000
    /// Milliseconds between two looks whether the pair is in somebody's way.
    private static let lookMillis: UInt64 = 50

    private struct SessionKey: Hashable {
        var side: Side
        var user: String
    }

    private let book: ShadowBook
    private let options: ShadowOptions
    private let logger: Logger
    private let stop: CInt
    private let login: (Side, String) -> ConnectionString
    private let onCompared: (ShadowSample, Bool) -> Void
    private let onMismatch: (ShadowSample, Difference) -> Void
    private var pair: ShadowPair?
    private var sessions: [SessionKey: ShadowSession] = [:]
    private var unreachable: [SessionKey: (until: MonotonicInstant, reason: String)] = [:]
    private var told = ""

    private var authority: Side { options.authority }

    init(
        _ book: ShadowBook, _ options: ShadowOptions, _ logger: Logger, stop: CInt,
        login: @escaping (Side, String) -> ConnectionString, onCompared: @escaping (ShadowSample, Bool) -> Void,
        onMismatch: @escaping (ShadowSample, Difference) -> Void
    ) {
        self.book = book
        self.options = options
        self.logger = logger
        self.stop = stop
        self.login = login
        self.onCompared = onCompared
        self.onMismatch = onMismatch
    }

    func run() {
        book.set(.comparing)
        while waitForSamples() {
            let samples = book.take()
            if samples.isEmpty { continue }
            let began = MonotonicInstant.now()
            guard let names = takePair(samples.count) else {
                if isStopped(withinMillis: Self.pairRetryMillis) { break }
                continue
            }
            book.notePair(micros: MonotonicInstant.now().microseconds(since: began))
            compare(samples, names)
            let left = options.pauseSeconds * 1000 - Double(MonotonicInstant.now().microseconds(since: began)) / 1000
            if left > 0, isStopped(withinMillis: CInt(min(left, 1e9))) { break }
        }
        book.set(.off)
    }

    // MARK: waits

    /// - Returns: false when told to stop.
    private func waitForSamples() -> Bool {
        var ready = [
            pollfd(fd: book.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: stop, events: Int16(POLLIN), revents: 0),
        ]
        _ = poll(&ready, 2, -1)
        return ready[1].revents == 0
    }

    private func isStopped(withinMillis millis: CInt) -> Bool {
        var ready = pollfd(fd: stop, events: Int16(POLLIN), revents: 0)
        return poll(&ready, 1, millis) > 0
    }

    // MARK: pairs

    private func takePair(_ count: Int) -> (source: String, target: String)? {
        do throws(VerifyFailure) {
            if pair == nil {
                pair = try ShadowPair(
                    source: options.control(authority), target: options.control(authority.other), interrupt: stop)
            }
            let names = try pair?.take()
            tell("")
            return names
        } catch {
            pair = nil
            book.noteUnpaired(count)
            if !isStopped(withinMillis: 0) { tell((authority == .old ? error : error.swapped).description) }
            return nil
        }
    }

    /// - Parameter reason: why there is no pair; empty: there is one.
    private func tell(_ reason: String) {
        book.set(reason.isEmpty ? .comparing : .waiting, because: reason)
        if reason == told { return }
        told = reason
        logger.notice("shadow reads", metadata: [
            "database": "\(book.database)", "state": reason.isEmpty ? "comparing" : "waiting", "reason": "\(reason)",
        ])
    }

    private func compare(_ samples: [ShadowSample], _ names: (source: String, target: String)) {
        let deadline = Deadline.now().adding(seconds: ShadowOptions.pairSeconds)
        var lookedAt = MonotonicInstant.now()
        var done = 0
        do throws(VerifyFailure) {
            while done < samples.count, !deadline.hasPassed, !isStopped(withinMillis: 0) {
                let now = MonotonicInstant.now()
                if now.nanoseconds(since: lookedAt) > Self.lookMillis * 1_000_000 {
                    lookedAt = now
                    if try pair?.isInTheWay() == true { break }
                }
                settle(samples[done], compare(samples[done], names))
                done += 1
            }
            try pair?.release()
        } catch {
            pair = nil
        }
        book.giveBack(samples[done...])
    }

    private func settle(_ sample: ShadowSample, _ outcome: ShadowOutcome) {
        // Reads that we have ended ourselves say nothing.
        if isStopped(withinMillis: 0) { return }
        let isFirst = book.note(outcome, of: sample, at: .now())
        guard outcome.isCompared else { return }
        if case .mismatch(let difference) = outcome {
            if isFirst { onMismatch(sample, difference) }
            onCompared(sample, true)
        } else {
            onCompared(sample, false)
        }
    }

    // MARK: one read

    private func compare(_ sample: ShadowSample, _ names: (source: String, target: String)) -> ShadowOutcome {
        guard let traits = ComparisonTraits(sample.text) else { return .skipped("it is no SELECT, VALUES or TABLE") }
        if traits.sleeps { return .skipped("it sleeps") }
        guard let sample = sample.portable else {
            return .skipped("a value comes in the binary form of a type that has another number on the other side")
        }
        let source: ShadowSession, target: ShadowSession
        switch session(authority, sample.user) {
        case .success(let session): source = session
        case .failure(let failure): return .failed(isAuthority: true, failure.description)
        }
        switch session(authority.other, sample.user) {
        case .success(let session): target = session
        case .failure(let failure): return .failed(isAuthority: false, failure.description)
        }
        defer { sessions = sessions.filter { $0.value.isUsable } }
        let first = ask([(source, names.source), (target, names.target)], sample, traits)
        guard let old = first[0].answer else { return .failed(isAuthority: true, first[0].reason) }
        guard let new = first[1].answer else { return .failed(isAuthority: false, first[1].reason) }
        if old.end == .tooLarge || new.end == .tooLarge {
            return .skipped("more than \(options.rowsMax) rows or \(ShadowOptions.bytesMax >> 20) MiB")
        }
        switch AnswerComparison.compare(old, new, traits) {
        case .equal: return .equal
        case .open: return .open
        case .differs(let difference):
            if traits.isVolatile { return .noise }
            // Twice on one side at one snapshot: what differs there is nobody's fault.
            let second = ask([(source, names.source)], sample, traits)
            guard let again = second[0].answer else { return .failed(isAuthority: true, second[0].reason) }
            return AnswerComparison.compare(old, again, traits) == .equal ? .mismatch(difference) : .noise
        }
    }

    /// All of them at once.
    private func ask(
        _ sides: [(session: ShadowSession, snapshot: String)], _ sample: ShadowSample, _ traits: ComparisonTraits
    ) -> [(answer: ShadowAnswer?, reason: String)] {
        for (session, snapshot) in sides { session.begin(snapshot, settings: sample.settings) }
        for (session, _) in sides { session.awaitBegin() }
        let isBegun = sides.map { $0.session.failure == nil }
        for (session, _) in sides { session.ask(sample) }
        let answers = zip(sides, isBegun).map { side, isBegun -> (answer: ShadowAnswer?, reason: String) in
            let answer = side.session.takeAnswer(traits)
            // A session that cannot be made like the client's is no answer.
            return (isBegun ? answer : nil, side.session.failure?.description ?? "")
        }
        for (session, _) in sides { session.rollBack() }
        for (session, _) in sides { session.awaitRollBack() }
        return answers
    }

    private func session(_ side: Side, _ user: String) -> Result<ShadowSession, PostgresFailure> {
        let key = SessionKey(side: side, user: user)
        if let session = sessions[key] { return .success(session) }
        if let (until, reason) = unreachable[key] {
            if MonotonicInstant.now() < until { return .failure(PostgresFailure(.connecting, reason)) }
            unreachable[key] = nil
        }
        if sessions.count >= 2 * Self.sessionsMax { sessions = [:] }
        do throws(PostgresFailure) {
            let limits = ShadowSession.Limits(
                seconds: options.statementSeconds, rowsMax: options.rowsMax, bytesMax: ShadowOptions.bytesMax)
            let session = try ShadowSession(login(side, user), limits, interrupt: stop)
            sessions[key] = session
            return .success(session)
        } catch {
            if unreachable.count >= 2 * Self.sessionsMax { unreachable = [:] }
            unreachable[key] = (MonotonicInstant.now().advanced(byMillis: Self.retryMillis), error.description)
            return .failure(error)
        }
    }
}
