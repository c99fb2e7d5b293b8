import Configuration
import ControlPlane
import Glibc
import Logging
import Migration
import Primitives
import Proxy
import Synchronization

/// Runs the migrations of this process, on a thread of its own: measures, decides, stores, orders. Any thread may ask.
///
/// Slow questions are other threads' (MigrationSurvey, MigrationComparison, MigrationWork): an abort never waits for
/// one.
final class MigrationRunner: Sendable {
    enum Message: Sendable {
        case order(MigrationOrder, by: String, reply: @Sendable (MigrationOutcome) -> Void)
        case worked(String, MigrationState.Work)
        case failed(String, MigrationState.Work, String)
        case drilled(String, DrillResult)
        /// What the databases say of who has the writes.
        case owner(String, Ownership)
        /// What the switch's engine says of its own conditions.
        case rails(String, [MigrationReadings.GuardRail])
    }

    /// What it works with.
    struct Parts: Sendable {
        var store: StateStore
        var memory: TrafficMemory
        var server: ProxyServer
        var events: EventLog
        var board: MigrationBoard
        var engine: SwitchEngine
        var logger: Logger
    }

    private static let tickMillis: CInt = 1000

    private let inbox = Mailbox<Message>()
    private let stopRequest = Mailbox<Void>()
    private let thread = Mutex<OwnThread?>(nil)

    init(_ parts: Parts) {
        let started = OwnThread(name: "godwit-migrate") { [self] in run(parts) }
        thread.withLock { $0 = started }
    }

    /// For HTTP.
    var desk: MigrationDesk {
        { [inbox] order, by in
            await withCheckedContinuation { continuation in
                inbox.post(.order(order, by: by) { continuation.resume(returning: $0) })
            }
        }
    }

    /// Another process goes on with the migrations, as soon as what is under way has ended. Does not wait.
    func leave() { stopRequest.post(()) }

    /// What is under way in the databases is waited for. Call once.
    func stop() {
        stopRequest.post(())
        thread.join()
        // Nobody is to wait for an answer that does not come.
        for case .order(_, _, let reply) in inbox.take() { reply(.refused(Self.ending)) }
    }

    static let ending = HTTPProblem(503, "Godwit is ending", "ask the one that is started next")

    // MARK: its thread

    private func run(_ parts: Parts) {
        let ledger = MigrationLedger(parts, inbox: inbox, stop: stopRequest.descriptor)
        var nextTick = MonotonicInstant.now()
        while true {
            let left = nextTick.nanoseconds(since: .now()) / 1_000_000
            var ready = [
                pollfd(fd: inbox.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: stopRequest.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            _ = poll(&ready, 2, CInt(min(left + 1, UInt64(Self.tickMillis))))
            if ready[1].revents != 0 { break }
            for message in inbox.take() { ledger.take(message) }
            if MonotonicInstant.now() >= nextTick {
                ledger.tick()
                nextTick = .now().advanced(bySeconds: Double(Self.tickMillis) / 1000)
            }
        }
        ledger.end()
    }
}
