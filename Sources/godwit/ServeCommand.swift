import ArgumentParser
import Configuration
import Console
import ControlPlane
import Foundation
import Lifecycle
import Logging
import Primitives
import Proxy
import Reactor

/// Runs the proxy and the mirrors until it is told to end.
struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Serve clients, mirror writes and route reads.",
        discussion: """
            SIGHUP reads the configuration again, all or nothing. SIGTERM lets transactions end and then exits, SIGINT \
            (or a second SIGTERM) exits at once. SIGURG starts the program anew with --takeover; SIGUSR2 does \
            so, too, or ends a PAUSE of all databases. \
            Exit status: 0 ended as told, 1 cannot listen, take over or use its state, 2 configuration invalid.
            """)

    @Option(name: .long, help: "Configuration file.") var config: String
    @Flag(
        name: .long,
        help: """
            Take the place of the Godwit that runs with this file: its sockets are handed over, no client is refused, \
            and it ends when its clients have gone. It goes on if this one cannot start.
            """)
    var takeover = false

    func run() throws {
        SignalSource.block()
        Self.raiseFileLimit()
        let environment = ProcessInfo.processInfo.environment
        let output = LogSwitch()
        let logger = Logger(label: "godwit") { _ in LineLogHandler(output) }
        let events = EventLog()
        var assembly = try ServeAssembly(
            path: config, output: output, events: events, hasPredecessor: takeover, logger: logger)
        let settings = assembly.snapshot.settings
        let start = try ServeStart(settings, path: config, takesOver: takeover, environment: environment)
        let tokens = try Self.tokens(settings.admin.http, at: start.http?.address)
        assembly.adminAddress = start.http?.address
        let lifeCycle = LifeCycle(
            start, path: config, notifier: ServiceNotifier(environment: environment), output: output, events: events,
            logger: logger)
        // From here on nothing is left that could fail.
        try lifeCycle.becomeReady()
        assembly.takeOver(lifeCycle.handed)
        let server = ProxyServer(
            assembly.snapshot, gate: assembly.handed.gate.gate, listeners: start.listeners, hasPredecessor: takeover,
            events: events, logger: logger)
        let state = assembly.state
        let engine = SwitchEngine(server.control, events: events, logger: logger)
        let runner = state.store.map { store in
            MigrationRunner(MigrationRunner.Parts(
                store: store, memory: state.memory, server: server, events: events, board: state.board,
                engine: engine, logger: logger))
        }
        let follower = state.store.flatMap { store in
            store.isShared ? StateFollower(store, state, server, logger: logger) : nil
        }
        defer { follower?.stop() }
        // Before the state is closed, and after the traffic has ended.
        defer { runner?.stop() }
        let http = start.http.flatMap {
            AdminService.start(
                on: $0, tokens: tokens, encryption: assembly.encryption, server, hooks: assembly.hooks, state: state,
                runner: runner, logger: logger)
        }
        // To the end: the last figures of a drain can be read, unless somebody else answers there.
        defer { http?.stop() }
        lifeCycle.onLeave {
            // An order that is under way waits for the control thread; and until it is answered the runner has to stay.
            _ = OwnThread(name: "godwit-http-end") {
                http?.stop()
                runner?.leave()
            }
        }
        for address in server.addresses { logger.notice("listening on \(address)") }
        let control = server.control
        SignalSource.forward { control.post(.signal($0)) }
        try lifeCycle.begin(server)
        assembly.run(server, engine, lifeCycle)
    }

    /// Every connection takes a file: as many as the process may have, where a shell or a container begins with few.
    private static func raiseFileLimit() {
        var limit = rlimit()
        let files = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard getrlimit(files, &limit) == 0 else { return }
        let most = min(limit.rlim_max, filesMax)
        if limit.rlim_cur >= most { return }
        limit.rlim_cur = most
        setrlimit(files, &limit)
    }

    /// Some programs that Godwit starts go through all that they may have.
    private static let filesMax: rlim_t = 1 << 20

    /// - Throws: ExitCode after having said why.
    private static func tokens(_ settings: HTTPSettings, at address: SocketAddress?) throws -> AdminService.Tokens {
        do throws(AdminService.Refusal) {
            try AdminTLS.checkTokens(settings, at: address)
            return try AdminService.tokens(settings)
        } catch {
            complain("\(error)")
            throw ExitCode(2)
        }
    }
}
