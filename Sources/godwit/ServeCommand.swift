import ArgumentParser
import Configuration
import Glibc
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
        ServeSignals.block()
        let levels = LogLevelSwitch()
        let logger = Logger(label: "godwit") { _ in LineLogHandler(levels: levels) }
        var assembly = try ServeAssembly(path: config, levels: levels, logger: logger)
        let server: ProxyServer
        do throws(SocketError) {
            server = try ProxyServer(assembly.snapshot, logger: logger)
        } catch {
            let listen = assembly.snapshot.settings.listen
            complain("cannot \(error.operation.rawValue) \(listen.address):\(listen.port): \(error.reason)")
            throw ExitCode(1)
        }
        for address in server.addresses { logger.notice("listening on \(address)") }
        ServeSignals.forward(to: server.control)
        assembly.run(server)
    }
}

/// Signals as messages to the control thread.
enum ServeSignals {
    private static let handled: [CInt] = [SIGHUP, SIGTERM, SIGINT]

    private static func set() -> sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in handled { sigaddset(&set, signal) }
        return set
    }

    /// Before any thread starts: all inherit it, and none is interrupted.
    static func block() {
        var blocked = set()
        pthread_sigmask(SIG_BLOCK, &blocked, nil)
        signal(SIGPIPE, SIG_IGN)
    }

    static func forward(to control: Mailbox<ControlMessage>) {
        _ = ReactorThread.start(name: "godwit-signals") {
            var awaited = set()
            while true {
                var number: CInt = 0
                if sigwait(&awaited, &number) == 0 { control.post(.signal(number)) }
            }
        }
    }
}
