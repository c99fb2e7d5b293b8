import ArgumentParser
import Configuration
import ControlPlane
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
            (or a second SIGTERM) exits at once. Exit status: 0 ended as told, 1 cannot listen, 2 configuration invalid.
            """)

    @Option(name: .long, help: "Configuration file.") var config: String

    func run() throws {
        SignalSource.block()
        let levels = LogLevelSwitch()
        let logger = Logger(label: "godwit") { _ in LineLogHandler(levels: levels) }
        let events = EventLog()
        var assembly = try ServeAssembly(path: config, levels: levels, events: events, logger: logger)
        let server: ProxyServer
        do throws(SocketError) {
            server = try ProxyServer(assembly.snapshot, events: events, logger: logger)
        } catch {
            let listen = assembly.snapshot.settings.listen
            complain("cannot \(error.operation.rawValue) \(listen.address):\(listen.port): \(error.reason)")
            throw ExitCode(1)
        }
        let state = assembly.state
        let engine = SwitchEngine(server.control, events: events, logger: logger)
        let runner = state.store.map { store in
            MigrationRunner(MigrationRunner.Parts(
                store: store, memory: state.memory, server: server, events: events, board: state.board,
                engine: engine, logger: logger))
        }
        // Before the state is closed, and after the traffic has ended.
        defer { runner?.stop() }
        let http = try AdminService.start(
            assembly.snapshot.settings.admin.http, server, hooks: assembly.hooks, state: state, runner: runner,
            logger: logger)
        // To the end: the last figures of a drain can be read.
        defer { http?.stop() }
        for address in server.addresses { logger.notice("listening on \(address)") }
        let control = server.control
        SignalSource.forward { control.post(.signal($0)) }
        assembly.run(server, engine)
    }
}
