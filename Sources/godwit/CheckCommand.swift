import ArgumentParser
import Configuration
import LibPQ
import Mirroring
import Proxy
import Reactor

/// Says whether the file is right and both sides can do their part; changes nothing.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check the configuration file, the connections to both sides and what could not be mirrored.",
        discussion: """
            Exit status: 0 all is well, 1 problems (each named with its fix), 2 file invalid or a side cannot be \
            reached.
            """)

    @Option(name: .long, help: "Configuration file.") var config: String
    @Argument(help: "Name of one database in the file; without it all are checked.") var database: String?

    func run() throws {
        let settings = try ControlTargets.load(config, failure: ExitCode(2))
        say("\(config): valid, \(settings.databases.count) databases")
        try checkCertificates(settings)
        var problems = 0
        var isUnreachable = false
        if let database, settings.database(named: database) == nil {
            complain("\(config): no database '\(database)'")
            throw ExitCode(2)
        }
        for entry in settings.databases where !entry.isWildcard && (database == nil || entry.name == database) {
            do {
                problems += try check(try ControlTargets(entry, failure: ExitCode(2)))
            } catch {
                isUnreachable = true
            }
        }
        if isUnreachable { throw ExitCode(2) }
        if problems > 0 { throw ExitCode(1) }
    }

    /// Reads certificates, keys and maps as `serve` would.
    private func checkCertificates(_ settings: Settings) throws {
        do {
            if let tls = try ClientTLS.read(settings, previous: nil).context { report(tls, "listen.tls") }
            for database in settings.databases {
                for (word, text) in [("old", database.old), ("new", database.new)] {
                    let key = "databases.\(database.name).\(word)"
                    let tls = try ServerTLSReader.read(try ConnectionString(parsing: text), key: key)
                    if let tls { report(tls.context, key) }
                }
            }
        } catch {
            complain("\(error)")
            throw ExitCode(2)
        }
    }

    private func report(_ tls: TLSContext, _ key: String) {
        if let subject = tls.subject { say("\(key): certificate \(subject) from \(tls.options.certificate)") }
        if let warning = CertificateAge.warning(tls, key: key) { say("note \(warning)") }
    }

    /// - Returns: how many problems there are.
    private func check(_ targets: ControlTargets) throws -> Int {
        let name = targets.database.name
        let old = try targets.connect(.old, purpose: "check", failure: ExitCode(2))
        let new = try targets.connect(.new, purpose: "check", failure: ExitCode(2))
        say("\(name): OLD is PostgreSQL \(Self.version(old)), NEW is PostgreSQL \(Self.version(new))")
        do throws(PostgresFailure) {
            let result = try Preflight.check(old: old, new: new)
            for finding in result.findings { say("\(finding.weight == .blocking ? "PROBLEM" : "note") \(finding)") }
            let count = result.blocking.count
            say("\(name): \(result.tables.count) tables can be mirrored, \(count) problems")
            return count
        } catch {
            complain("\(name): \(error)")
            throw ExitCode(2)
        }
    }

    private static func version(_ connection: borrowing Connection) -> String {
        "\(connection.serverVersion / 10_000).\(connection.serverVersion % 10_000)"
    }
}
