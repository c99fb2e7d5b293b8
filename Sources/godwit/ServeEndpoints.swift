import Configuration
import LibPQ
import Primitives
import Proxy
import Reactor

/// Where the sides of a database are. On the control thread.
extension ServeAssembly {
    /// The same route, with what is in the files of its conninfos now.
    func readingCertificates(_ route: DatabaseRoute) throws -> DatabaseRoute {
        let old = try serverTLS(route.settings, .old)
        let new = try serverTLS(route.settings, .new)
        let isSame = [(old, route.old.tls), (new, route.new.tls)].allSatisfy { read, known in
            read.map { $0.isSame(as: known) } ?? (known == nil)
        }
        return isSame ? route : route.with(oldTLS: old, newTLS: new)
    }

    private func serverTLS(_ settings: DatabaseSettings, _ side: Side) throws -> ServerTLS? {
        let parsed = try ConnectionString(parsing: side == .old ? settings.old : settings.new)
        return try ServerTLSReader.read(parsed, key: "databases.\(settings.name).\(side == .old ? "old" : "new")")
    }

    /// Resolves names, which blocks: on the control thread only.
    ///
    /// - Parameter running: whose certificates go on; nil: they are read.
    func endpoint(
        _ settings: DatabaseSettings, _ side: Side, _ running: DatabaseRoute?
    ) throws -> ServerEndpoint {
        let parsed = try ConnectionString(parsing: side == .old ? settings.old : settings.new)
        let host = parsed.hostaddr ?? parsed.host ?? "/var/run/postgresql"
        let port = parsed.port ?? 5432
        return ServerEndpoint(
            side: side, address: SocketAddress.resolve(host: host, port: port), host: parsed.host ?? host, port: port,
            database: parsed.dbname ?? settings.name, user: parsed.user, password: parsed.password,
            options: parsed.options,
            tls: try running.map { $0.endpoint(side).tls } ?? serverTLS(settings, side))
    }
}
