import Configuration
import LibPQ
import Logging
import Primitives
import Proxy
import SQLAnalysis
import Sessions
import Shadowing
import Verification

/// Begins and ends the comparing of sampled reads as the configuration says. Used on the control thread.
final class ShadowDesk {
    /// What a runner works by: another one has to take its place when any of it changes.
    private struct Terms: Equatable {
        var old: String
        var new: String
        var controlOld: String
        var controlNew: String
        var shadow: ShadowSettings
        var authority: Side
    }

    private let server: ProxyServer
    private let events: EventLog
    private let logger: Logger
    private var running: [String: (terms: Terms, runner: ShadowRunner)] = [:]
    private var seen: ProxySnapshot?

    init(_ server: ProxyServer, events: EventLog, logger: Logger) {
        self.server = server
        self.events = events
        self.logger = logger
    }

    /// Called after whatever may have changed the snapshot.
    func follow(_ snapshot: ProxySnapshot) {
        if snapshot === seen { return }
        seen = snapshot
        let routes = snapshot.databases.values.filter { $0.settings.shadow.hundredths > 0 }
        for name in running.keys where !routes.contains(where: { $0.name == name }) { end(name) }
        for route in routes { follow(route) }
    }

    private func follow(_ route: DatabaseRoute) {
        guard let book = route.shadow else { return }
        let settings = route.settings
        var terms = Terms(
            old: settings.old, new: settings.new, controlOld: settings.controlOrOwn(.old),
            controlNew: settings.controlOrOwn(.new), shadow: settings.shadow, authority: route.authority)
        terms.shadow.hundredths = 0
        let before = running[route.name]
        if before?.terms == terms { return }
        end(route.name)
        if before == nil { book.begin() }
        do {
            var options = ShadowOptions(
                controlOld: try ConnectionString(parsing: terms.controlOld),
                controlNew: try ConnectionString(parsing: terms.controlNew))
            options.authority = terms.authority
            options.pauseSeconds = terms.shadow.pauseSeconds
            options.statementSeconds = terms.shadow.timeoutSeconds
            options.rowsMax = terms.shadow.rowsMax
            running[route.name] = (terms, start(book, options, terms))
        } catch {
            book.set(.waiting, because: "\(error)")
        }
    }

    private func start(_ book: ShadowBook, _ options: ShadowOptions, _ terms: Terms) -> ShadowRunner {
        let (server, events, name) = (server, events, book.database)
        let other = terms.authority.other
        return ShadowRunner(
            book, options, logger: logger,
            login: { side, user in Self.login(terms, name, side, user, server.snapshot) },
            onCompared: { server.noteCompared($0, in: name, differs: $1) },
            onMismatch: { sample, difference in
                events.append(EventRecord(
                    .mismatch, database: name, side: other,
                    cause: "a read has another answer there: \(difference.summary): \(sample.statement.shapeText)",
                    figures: [
                        .init("rows", Double(difference.oldRows)), .init("rows_there", Double(difference.newRows)),
                    ]))
            })
    }

    private static func login(
        _ terms: Terms, _ database: String, _ side: Side, _ user: String, _ snapshot: ProxySnapshot
    ) -> ConnectionString {
        let (own, clients) = side == .old ? (terms.shadow.old, terms.old) : (terms.shadow.new, terms.new)
        // Both were taken apart when the configuration was taken.
        guard let target = try? ConnectionString(parsing: own.isEmpty ? clients : own) else {
            preconditionFailure("a conninfo that was not refused")
        }
        return target.ofClient(user, of: database, snapshot.auth)
    }

    private func end(_ name: String) { running.removeValue(forKey: name)?.runner.stop() }

    func stop() { for name in running.keys { end(name) } }
}

extension ConnectionString {
    /// With a client's user and database where it has none, as the clients' servers are logged in to; a password is
    /// known where the users' file has it in plain text.
    func ofClient(_ user: String, of database: String, _ auth: AuthPolicy) -> ConnectionString {
        var target = self
        if target.dbname == nil { target = target.overriding(["dbname": database]) }
        if target.user == nil { target = target.overriding(["user": user]) }
        if target.password == nil, let password = auth.plainPassword(of: target.user ?? user) {
            target = target.overriding(["password": password])
        }
        return target
    }
}
