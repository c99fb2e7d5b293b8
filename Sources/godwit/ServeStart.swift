import ArgumentParser
import Configuration
import Glibc
import Lifecycle
import Proxy
import Reactor

/// Where a process gets its sockets from: it opens them, a service manager has, or the Godwit before it. Used on the
/// main thread, before any other runs.
struct ServeStart {
    /// Clients come in there.
    let listeners: [ListenerHandle]
    /// nil: no HTTP.
    let http: ListenerHandle?
    /// Where the Godwit that follows this one asks.
    let takeover: CInt?
    /// Whose place we take; nil: we are the only one.
    let claim: TakeoverClaim?
    /// The sockets are a service manager's.
    let isActivated: Bool

    /// Opens what is not there yet.
    ///
    /// - Parameters:
    ///   - path: of the configuration file, by which a running Godwit is found.
    ///   - takesOver: one must be running.
    /// - Throws: ExitCode after having said why; a running Godwit goes on then.
    init(_ settings: Settings, path: String, takesOver: Bool, environment: [String: String]) throws {
        var sockets: InheritedSockets
        if takesOver {
            do throws(TakeoverFailure) {
                let begun = try TakeoverClaim.begin(at: TakeoverOffer.address(configuration: path))
                claim = begun.claim
                isActivated = begun.claim.isActivated
                sockets = InheritedSockets(begun.sockets.map { (label: $0.0, descriptor: $0.1) })
            } catch {
                complain("cannot take over: \(error)")
                throw ExitCode(1)
            }
        } else {
            claim = nil
            sockets = InheritedSockets(environment: environment)
            isActivated = sockets.has(.postgres)
        }
        // Programs that we start are not meant.
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] { unsetenv(name) }
        let listen = settings.listen
        let given = try Self.say("what was handed over") { () throws(SocketError) in try sockets.take(.postgres) }
        let wanted = isActivated ? [] : ProxyServer.addresses(listen)
        listeners = isActivated ? given : try Self.open(wanted, from: given, backlog: listen.backlog)
        // Clients would look for it there, and find the Unix socket only.
        let isUnresolved = !isActivated && !listen.address.isEmpty
            && wanted.count < (listen.unixSocketDirectory.isEmpty ? 1 : 2)
        if listeners.isEmpty || isUnresolved {
            complain("\(listen.address):\(listen.port): the address of listen.address cannot be resolved; give one "
                + "name or address of this machine, or \"*\" for all")
            throw ExitCode(1)
        }
        http = try Self.http(settings.admin.http, &sockets)
        takeover = sockets.takeDescriptor(.takeover)
    }

    private static func http(_ settings: HTTPSettings, _ sockets: inout InheritedSockets) throws -> ListenerHandle? {
        let name = "admin.http \(settings.address):\(settings.port)"
        let given = try say(name) { () throws(SocketError) in try sockets.take(.http) }
        if settings.port == 0 { return given.first }
        guard let address = SocketAddress.resolve(listening: settings.address, port: settings.port) else {
            complain("\(name): the address cannot be resolved; give one of this machine, as 127.0.0.1")
            throw ExitCode(1)
        }
        let advice = "; for admin.http set another port, or 0 for no HTTP"
        return try open([address], from: given, backlog: AdminService.backlog, advice: advice).first
    }

    /// Those that are given and listen where it is wanted, and new ones for the rest.
    private static func open(
        _ wanted: [SocketAddress], from given: [ListenerHandle], backlog: Int, advice: String = ""
    ) throws -> [ListenerHandle] {
        var left = given
        var handles: [ListenerHandle] = []
        for address in wanted {
            if let place = left.firstIndex(where: { $0.address.serves(address) }) {
                handles.append(left.remove(at: place))
            } else {
                handles.append(try say("\(address)", advice) { () throws(SocketError) in
                    ListenerHandle(try Listener(on: address, backlog: backlog))
                })
            }
        }
        return handles
    }

    private static func say<Result>(
        _ name: String, _ advice: String = "", _ body: () throws(SocketError) -> Result
    ) throws -> Result {
        do throws(SocketError) { return try body() } catch {
            complain("cannot \(error.operation.rawValue) \(name): \(error.reason)\(advice)")
            throw ExitCode(1)
        }
    }
}
