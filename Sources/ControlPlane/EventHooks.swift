import CEpoll
import Configuration
import Glibc
import Logging
import Primitives
import Synchronization

/// Writes each event as a line of the log. Any thread.
package struct LoggedEvents: EventSink {
    private let logger: Logger

    package init(_ logger: Logger) { self.logger = logger }

    package func append(_ event: EventRecord) {
        let level: Logger.Level =
            switch event.kind {
            case .trip, .demotion, .mismatch, .rollback, .alarm, .pinFlood, .authority: .warning
            case .probe, .recovery, .force, .reload, .mirror, .phase, .start, .order, .shutdown, .takeover, .ddl:
                .notice
            }
        let place = [event.database, event.side?.description ?? ""].filter { !$0.isEmpty }.joined(separator: " ")
        let figures = event.figures.isEmpty ? "" : " (\(event.figuresText))"
        let what = "event \(event.number) \(event.kind.rawValue)" + (place.isEmpty ? "" : " of \(place)")
        logger.log(level: level, "\(what): \(event.cause)\(figures)", metadata: ["event": Self.metadata(event)])
    }
}

extension LoggedEvents {
    /// For a log in JSON, where programs find the parts.
    private static func metadata(_ event: EventRecord) -> Logger.Metadata.Value {
        let figures = event.figures.map { ($0.name, Logger.Metadata.Value.stringConvertible($0.value)) }
        return .dictionary([
            "number": .stringConvertible(event.number), "kind": .string(event.kind.rawValue),
            "database": .string(event.database), "side": .string(event.side?.description ?? ""),
            "cause": .string(event.cause), "figures": .dictionary(Dictionary(figures) { $1 }),
        ])
    }
}

/// Gives events to the programs of `events.hooks`: each has a thread and a queue of its own, so that none waits for
/// another and nobody waits for them. Any thread.
package final class EventHooks: EventSink {
    /// What one program has done so far.
    package struct Figures: Sendable, Equatable {
        package var path: String
        package var succeeded: UInt64 = 0
        /// It ended with another status than 0, or could not be run.
        package var failed: UInt64 = 0
        package var timedOut: UInt64 = 0
        /// Events that it was not given: its queue was full.
        package var dropped: UInt64 = 0
    }

    private let runners = Mutex<[HookRunner]>([])
    private let logger: Logger

    package init(logger: Logger) { self.logger = logger }

    /// Control thread: those that are no longer named end, with what they run.
    package func apply(_ settings: EventSettings) {
        let ended = runners.withLock { runners in
            let before = runners
            runners = settings.hooks.map { path in
                let runner = before.first { $0.path == path } ?? HookRunner(path, logger: logger)
                runner.set(timeoutSeconds: settings.hookTimeoutSeconds)
                return runner
            }
            return before.filter { known in !runners.contains { $0 === known } }
        }
        for runner in ended { runner.stop() }
    }

    package func append(_ event: EventRecord) {
        for runner in runners.withLock({ $0 }) { runner.append(event) }
    }

    package var figures: [Figures] { runners.withLock { $0 }.map(\.figures) }

    /// Ends all of them, with what they run. Call once.
    package func stop() { apply(EventSettings()) }
}

/// Runs one program for one event after the other. Any thread may append; the rest is its own thread's.
final class HookRunner: Sendable {
    /// Events that wait.
    static let waitingMax = 256

    private struct State {
        var waiting = BoundedQueue<EventRecord>(bound: HookRunner.waitingMax)
        var figures: EventHooks.Figures
        var timeoutMillis: Int32 = 10_000
    }

    private enum Outcome {
        case succeeded, timedOut, stopped
        case failed(String)
    }

    let path: String
    private let logger: Logger
    private let state: Mutex<State>
    /// Readable: events wait.
    private let wakeDescriptor: CInt
    /// Readable: end.
    private let stopDescriptor: CInt
    private let thread = Mutex<OwnThread?>(nil)

    init(_ path: String, logger: Logger) {
        self.path = path
        self.logger = logger
        state = Mutex(State(figures: EventHooks.Figures(path: path)))
        wakeDescriptor = godwit_eventfd()
        stopDescriptor = godwit_eventfd()
        precondition(wakeDescriptor >= 0 && stopDescriptor >= 0, "eventfd: out of file descriptors")
        let started = OwnThread(name: "godwit-hook") { [self] in run() }
        thread.withLock { $0 = started }
    }

    deinit {
        close(wakeDescriptor)
        close(stopDescriptor)
    }

    var figures: EventHooks.Figures { state.withLock { $0.figures } }

    func set(timeoutSeconds: Double) {
        state.withLock { $0.timeoutMillis = Int32(min(timeoutSeconds * 1000, Double(Int32.max))) }
    }

    func append(_ event: EventRecord) {
        state.withLock { if !$0.waiting.append(event) { $0.figures.dropped += 1 } }
        signal(eventDescriptor: wakeDescriptor)
    }

    func stop() {
        signal(eventDescriptor: stopDescriptor)
        thread.withLock { $0 }?.join()
    }

    // MARK: its thread

    private func run() {
        while true {
            guard wait(wakeDescriptor, timeoutMillis: -1) == .first else { return }
            drain(eventDescriptor: wakeDescriptor)
            while let event = state.withLock({ $0.waiting.popFirst() }) {
                let outcome = execute(event)
                state.withLock { state in
                    switch outcome {
                    case .succeeded: state.figures.succeeded += 1
                    case .failed: state.figures.failed += 1
                    case .timedOut: state.figures.timedOut += 1
                    case .stopped: break
                    }
                }
                switch outcome {
                case .succeeded: break
                case .failed(let why): logger.warning("hook \(path) failed for event \(event.number): \(why)")
                case .timedOut:
                    logger.warning("hook \(path) took longer than events.hook_timeout for event \(event.number)")
                case .stopped: return
                }
            }
        }
    }

    private enum Ready { case first, stop, timeout }

    private func wait(_ descriptor: CInt, timeoutMillis: Int32) -> Ready {
        var ready = [
            pollfd(fd: stopDescriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0),
        ]
        while true {
            let count = poll(&ready, 2, timeoutMillis)
            if count < 0 && errno == EINTR { continue }
            if ready[0].revents != 0 { return .stop }
            return count > 0 ? .first : .timeout
        }
    }

    private func execute(_ event: EventRecord) -> Outcome {
        var ends: [CInt] = [-1, -1]
        guard socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            return .failed(String(cString: strerror(errno)))
        }
        defer { close(ends[1]) }
        let spawned = spawn(input: ends[0])
        close(ends[0])
        guard let process = spawned.process else { return .failed(String(cString: strerror(spawned.code))) }
        // Some kilobytes at most (see EventRecord): the socket's buffer takes them without waiting.
        let bytes = Array((event.json + "\n").utf8)
        _ = send(ends[1], bytes, bytes.count, CInt(MSG_NOSIGNAL) | CInt(MSG_DONTWAIT))
        shutdown(ends[1], CInt(SHUT_WR))
        let descriptor = godwit_pidfd(process)
        let ready = descriptor < 0 ? .timeout : wait(descriptor, timeoutMillis: state.withLock { $0.timeoutMillis })
        if descriptor >= 0 { close(descriptor) }
        // What it has started itself goes with it.
        if ready != .first { kill(-process, SIGKILL) }
        var status: CInt = 0
        while waitpid(process, &status, 0) == -1 && errno == EINTR {}
        switch ready {
        case .stop: return .stopped
        case .timeout: return .timedOut
        case .first:
            if status == 0 { return .succeeded }
            let isExit = status & 0x7F == 0
            return .failed(isExit ? "exit status \((status >> 8) & 0xFF)" : "signal \(status & 0x7F)")
        }
    }

    /// In a process group of its own, with no signal blocked and no descriptor of ours but standard error, which is the
    /// log's.
    private func spawn(input: CInt) -> (process: pid_t?, code: CInt) {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO)
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigfillset(&signals)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        posix_spawnattr_setpgroup(&attributes, 0)
        let flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK
        posix_spawnattr_setflags(&attributes, Int16(flags))
        guard let word = strdup(path) else { return (nil, ENOMEM) }
        defer { free(word) }
        var words: [UnsafeMutablePointer<CChar>?] = [word, nil]
        var process: pid_t = 0
        let code = posix_spawn(&process, path, &actions, &attributes, &words, environ)
        return code == 0 ? (process, 0) : (nil, code)
    }
}
