import Configuration
import LibPQ
import Primitives
import Proxy
import Reactor

/// Where the sides of a database are. On the control thread.
extension ServeAssembly {
    /// The same route, with where its hosts are and what is in the files of its conninfos now.
    func readingAgain(_ route: DatabaseRoute) throws -> DatabaseRoute {
        let old = try endpoint(route.settings, .old, route, readsFiles: true)
        let new = try endpoint(route.settings, .new, route, readsFiles: true)
        let isSame = [(old, route.old), (new, route.new)].allSatisfy { read, known in
            read.address == known.address && read.tls.map { $0.isSame(as: known.tls) } ?? (known.tls == nil)
        }
        return isSame ? route : route.with(old: old, new: new)
    }

    private func serverTLS(_ settings: DatabaseSettings, _ side: Side) throws -> ServerTLS? {
        try ServerTLSReader.read(try SideConninfo.read(settings, side), key: SideConninfo.key(settings, side))
    }

    /// Resolves names, which blocks: on the control thread only. In between neither is a name asked for that was known,
    /// nor are certificates read: what changes a share must not wait for the resolver, nor lose a side by it.
    ///
    /// - Parameters:
    ///   - running: what is in force.
    ///   - readsFiles: at the start and at a reload.
    func endpoint(
        _ settings: DatabaseSettings, _ side: Side, _ running: DatabaseRoute?, readsFiles: Bool
    ) throws -> ServerEndpoint {
        let parsed = try SideConninfo.read(settings, side)
        let host = parsed.hostaddr ?? parsed.host ?? "/var/run/postgresql"
        let port = parsed.port ?? 5432
        // Both sides need a restart to be others: what is known is of this host.
        let known = running?.endpoint(side).address
        let address = readsFiles ? nil : known
        return ServerEndpoint(
            side: side, address: address ?? Self.address(of: host, port, known, isRunning: running != nil),
            host: parsed.host ?? host, port: port,
            database: parsed.dbname ?? settings.name, user: parsed.user, password: parsed.password,
            options: parsed.options,
            tls: try readsFiles ? serverTLS(settings, side) : running.map { $0.endpoint(side).tls }
                ?? serverTLS(settings, side))
    }
}

extension ServeAssembly {
    private static let patientResolver = BoundedResolver(patienceMillis: -1)
    private static let resolver = BoundedResolver()

    /// While clients are served the resolver is not waited for long: a RELOAD of many names, when its servers are away,
    /// would keep the supervisor from its sign and a migration from being aborted for minutes.
    private static func address(
        of host: String, _ port: UInt16, _ known: SocketAddress?, isRunning: Bool
    ) -> SocketAddress? {
        (isRunning ? resolver : patientResolver).address(host: host, port: port, known: known)
    }
}

/// `old` and `new` of a database, as clients' servers are reached by them. No state.
enum SideConninfo {
    /// What libpq would do with it and the proxy does not: the mirror would be with another server than the clients.
    struct Refusal: Error, CustomStringConvertible {
        var description: String
    }

    static func key(_ settings: DatabaseSettings, _ side: Side) -> String {
        "databases.\(settings.name).\(side == .old ? "old" : "new")"
    }

    /// - Throws: what is wrong about it, with its key.
    static func read(_ settings: DatabaseSettings, _ side: Side) throws -> ConnectionString {
        let parsed: ConnectionString
        do { parsed = try ConnectionString(parsing: side == .old ? settings.old : settings.new) } catch {
            throw Refusal(description: "\(key(settings, side)): \(error)")
        }
        if let reason = obstacle(parsed) { throw Refusal(description: "\(key(settings, side)): \(reason)") }
        return parsed
    }

    private static func obstacle(_ parsed: ConnectionString) -> String? {
        for word in ["host", "hostaddr", "port"] where parsed[word]?.contains(",") == true {
            return "\(word) has several, and Godwit connects to one: name the one that takes the writes"
        }
        if parsed["service"] != nil { return "service: no service file is read; write out what it says" }
        // What libpq asks of who answers there, and of how we prove who we are, before it says anything.
        for word in ["requirepeer", "require_auth", "sslcertmode"] where !["", "allow"].contains(parsed[word] ?? "") {
            return "\(word): Godwit does not look after that: use sslmode=verify-full, channel_binding=require"
        }
        if let port = parsed["port"], !port.isEmpty, UInt16(port) ?? 0 == 0 {
            return "port: expected a number from 1 to 65535, found \"\(port)\""
        }
        return nil
    }
}
