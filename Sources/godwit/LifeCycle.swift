import ArgumentParser
import Console
import Dispatch
import Foundation
import Glibc
import Lifecycle
import Logging
import Primitives
import Proxy
import Reactor

/// Start, reload, hand-over and end as the world outside sees them: the supervisor, the Godwit before this one and the
/// one after it. Used on the control thread.
final class LifeCycle {
    private static let statusSeconds = 10.0
    /// For how long the control thread may be at one thing.
    private static let busySeconds = 600.0

    private let path: String
    private let notifier: ServiceNotifier
    private let output: LogSwitch
    private let events: EventLog
    private let logger: Logger
    private let claim: TakeoverClaim?
    /// What operators have ordered of the process before this one.
    private(set) var handed: [String] = []
    private let takeoverSocket: CInt?
    private let isActivated: Bool
    /// Another descriptor of the HTTP socket, to be handed on; -1: none.
    private var httpSocket: CInt
    private var offer: TakeoverOffer?
    private(set) var machine = HandOverMachine(isFirst: getpid() == 1)
    private var leave: () -> Void = {}
    private var strays: [UInt64: Canceller] = [:]
    private var lastStray: UInt64 = 0
    private var nextSign = MonotonicInstant(nanoseconds: 0)
    private var nextStatus = MonotonicInstant(nanoseconds: 0)
    private(set) var hasPredecessor: Bool
    private var isEnded = false

    init(
        _ start: ServeStart, path: String, notifier: ServiceNotifier, output: LogSwitch, events: EventLog,
        logger: Logger
    ) {
        self.path = path
        self.notifier = notifier
        self.output = output
        self.events = events
        self.logger = logger
        claim = start.claim
        hasPredecessor = start.claim != nil
        takeoverSocket = start.takeover
        isActivated = start.isActivated
        httpSocket = start.http?.duplicate() ?? -1
    }

    deinit { if httpSocket >= 0 { close(httpSocket) } }

    // MARK: the start

    /// Everything is checked: the Godwit before this one stops accepting clients.
    ///
    /// - Throws: ExitCode after having said why.
    func becomeReady() throws {
        do throws(TakeoverFailure) {
            handed = try claim?.ready() ?? []
        } catch {
            complain("cannot take over: \(error)")
            throw ExitCode(1)
        }
    }

    /// Called when another process is the service.
    func onLeave(_ body: @escaping () -> Void) { leave = body }

    /// Clients are served.
    ///
    /// - Throws: ExitCode after having said why: two would serve, each without what users write through the other.
    func begin(_ server: ProxyServer) throws {
        Successor.noteProgram()
        let control = server.control
        do throws(TakeoverFailure) { try claim?.serving { control.post(.takeover($0)) } } catch {
            complain("cannot take over: \(error)")
            throw ExitCode(1)
        }
        do throws(SocketError) {
            offer = try TakeoverOffer(
                at: TakeoverOffer.address(configuration: path), inherited: takeoverSocket
            ) { control.post(.takeover($0)) }
            offer?.start()
        } catch {
            logger.warning(
                "no other Godwit can take over from this one: another one runs with \(path) (\(error.reason))")
        }
        if claim != nil {
            events.append(EventRecord(.takeover, cause: "process \(getpid()) has taken over and serves new clients"))
        }
        notifier.tell(.ready, .status("serving"))
        if let seconds = notifier.watchdogSeconds {
            logger.notice("the supervisor wants a sign every \(seconds) s")
        }
    }

    // MARK: from time to time

    /// Milliseconds after which `checkTime` wants to be called.
    let waitMillis: CInt = 1000

    func checkTime(_ server: ProxyServer) {
        output.flush()
        let now = MonotonicInstant.now()
        guard notifier.isThere, !machine.hasLeft, !isEnded else { return }
        let isSignDue = notifier.watchdogSeconds != nil && nextSign <= now
        let isStatusDue = nextStatus <= now
        guard isSignDue || isStatusDue else { return }
        // Half of the time that is allowed, so that one that is late does no harm.
        if let seconds = notifier.watchdogSeconds, isSignDue { nextSign = now.advanced(bySeconds: seconds / 2) }
        if isStatusDue { nextStatus = now.advanced(bySeconds: Self.statusSeconds) }
        let notifier = notifier
        // A sign of all threads: one that hangs gives none, and the supervisor may do what it is there for.
        server.collectFigures { figures in
            if isSignDue { notifier.tell(.watchdog) }
            if isStatusDue { notifier.tell(.status(figures.summary)) }
        }
    }

    /// Does what may take its time: names that no resolver answers for, large files of cohorts. Clients are served
    /// meanwhile, and a supervisor that got no sign would end them with us. So it gets the other threads'.
    func keepingSigns<Outcome>(_ server: ProxyServer, _ body: () -> Outcome) -> Outcome {
        guard let seconds = notifier.watchdogSeconds, !machine.hasLeft, !isEnded else { return body() }
        let end = DispatchSemaphore(value: 0)
        let notifier = notifier
        let signs = OwnThread(name: "godwit-signs") {
            // The last sign may be half of the time old.
            let pause = seconds / 4
            var left = Self.busySeconds
            while left > 0, end.wait(timeout: .now() + pause) == .timedOut {
                left -= pause
                server.collectFigures { _ in notifier.tell(.watchdog) }
            }
        }
        defer {
            end.signal()
            signs.join()
        }
        return body()
    }

    // MARK: reload and end

    func isReloading() { if !machine.hasLeft { notifier.tell(.reloading(.now())) } }

    func hasReloaded() { if !machine.hasLeft { notifier.tell(.ready) } }

    /// The end was ordered, by whatever way. Told once to the supervisor, unless another process is the service.
    ///
    /// - Parameter waitsForClients: they go when they like. A supervisor that hears of an end gives it so long
    ///   (TimeoutStopSec), and then kills who serves them: so it hears of it when they have gone.
    func isEnding(waitsForClients: Bool) {
        if isEnded || machine.hasLeft { return }
        var nothing: [HandOverMachine.Action] = []
        machine.handle(.ending, now: .now(), waitSeconds: 0, &nothing)
        if waitsForClients { return }
        isEnded = true
        notifier.tell(.stopping, .status("draining"))
    }

    // MARK: the one after

    /// Starts the program anew, to take our place.
    func startSuccessor(_ server: ProxyServer, by: String) {
        let control = server.control
        do throws(SuccessorFailure) {
            let process = try Successor.start(Array(CommandLine.arguments.dropFirst())) { control.post(.takeover($0)) }
            events.append(EventRecord(.takeover, cause: "\(by): process \(process) was started to take over"))
        } catch {
            events.append(EventRecord(.takeover, cause: "\(by): \(error)"))
        }
    }

    func handle(
        _ event: HandOverMachine.Event, waitSeconds: Double, _ server: ProxyServer, orders: () -> [String]
    ) -> [HandOverMachine.Action] {
        var actions: [HandOverMachine.Action] = []
        machine.handle(event, now: .now(), waitSeconds: waitSeconds, &actions)
        var rest: [HandOverMachine.Action] = []
        for action in actions {
            switch action {
            case .grant: grant(server)
            case .refuse(let why): offer?.answer(.refused(why))
            case .go: offer?.answer(.go(orders: orders()))
            case .pauseListening: server.pauseListening(true)
            case .resumeListening: server.pauseListening(false)
            case .tell(let text), .warn(let text): events.append(EventRecord(.takeover, cause: text))
            case .leave(let process):
                notifier.tell(.mainProcess(process))
                if httpSocket >= 0 { close(httpSocket) }
                httpSocket = -1
                leave()
                rest.append(action)
            case .withholdReads, .allowReads, .drain: rest.append(action)
            }
        }
        return rest
    }

    /// The sockets are copied on the reactor that has them.
    private func grant(_ server: ProxyServer) {
        guard let offer else { return }
        let http = httpSocket >= 0 ? fcntl(httpSocket, F_DUPFD_CLOEXEC, 3) : -1
        let isActivated = isActivated
        server.shareListeners { descriptors in
            var sockets = descriptors.map { (label: InheritedSockets.Label.postgres, descriptor: $0) }
            if http >= 0 { sockets.append((label: .http, descriptor: http)) }
            offer.answer(.granted(sockets, isActivated: isActivated))
        }
    }

    // MARK: the one before

    /// A cancel request for none of our clients: it may be for one of the Godwit's before us.
    func passOn(processID: Int32, secret: [UInt8], by canceller: Canceller, _ server: ProxyServer) {
        guard hasPredecessor, let claim else { return server.cancelEnded(for: canceller) }
        lastStray += 1
        strays[lastStray] = canceller
        claim.cancel(number: lastStray, processID: processID, secret: secret)
    }

    /// The clients of the one before us do as ours.
    ///
    /// - Returns: false when it has none any more.
    func pass(_ word: GateWord) -> Bool {
        guard hasPredecessor, let claim else { return false }
        guard let text = HandOverText.text(word) else {
            logger.warning("the process before cannot be told of so many databases: its clients go on as before")
            return false
        }
        return claim.order(text)
    }

    func passedOn(_ number: UInt64, _ server: ProxyServer) {
        if let canceller = strays.removeValue(forKey: number) { server.cancelEnded(for: canceller) }
    }

    /// How far an order of the one after us has come true here.
    func answer(_ reply: GateReply) {
        if let text = HandOverText.text(reply) { offer?.answer(.standing(text)) }
    }

    /// A request that the one after us has sent on is done with.
    func canceled(number: UInt64) { offer?.answer(.canceled(number: number)) }

    func predecessorEnded(_ server: ProxyServer) {
        hasPredecessor = false
        server.predecessorEnded()
        for canceller in strays.values { server.cancelEnded(for: canceller) }
        strays = [:]
        events.append(EventRecord(.takeover, cause: "the process before this one has ended"))
    }
}
