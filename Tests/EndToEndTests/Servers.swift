import Synchronization
import TestSupport

/// An OLD and a NEW that are there for all tests which harm neither. Each test has a database of its own in them.
struct Servers: Sendable {
    let old: PostgresCluster
    let new: PostgresCluster

    static let shared = Result { try Servers() }

    private static let counter = Atomic<Int>(0)

    /// - Parameter settings: postgresql.conf of both.
    init(
        authentication: PostgresCluster.Authentication = .trust, hbaLines: [String] = [],
        settings: [String: String] = [:]
    ) throws {
        var options = PostgresCluster.Options()
        options.maxConnections = 300
        options.authentication = authentication
        options.hbaLines = hbaLines
        options.settings = settings
        old = try PostgresCluster(.old15, options)
        new = try PostgresCluster(.new18, options)
        for server in [old, new] { try server.createRole("app") }
    }

    /// A new database of the role `app` on both sides.
    ///
    /// - Parameter schema: SQL run on both as `app`; then each side's own follows.
    func makeDatabase(_ schema: String = "", old oldSQL: String = "", new newSQL: String = "") throws -> String {
        let name = "d\(Self.counter.add(1, ordering: .relaxed).newValue)"
        for (server, own) in [(old, oldSQL), (new, newSQL)] {
            try server.psql("CREATE DATABASE \(name) OWNER app")
            try server.psql("SET ROLE app;\n\(schema);\n\(own)", database: name)
        }
        return name
    }

    /// A database in which `SELECT side FROM side_marker` tells who answered. Only without a mirror.
    func makeMarkedDatabase(_ schema: String = "") throws -> String {
        try makeDatabase(
            "CREATE TABLE side_marker (id int PRIMARY KEY, side text);\n\(schema)",
            old: "INSERT INTO side_marker VALUES (1, 'old')", new: "INSERT INTO side_marker VALUES (1, 'new')")
    }

    /// Its entry in a configuration. The mirror and the checks come as superuser.
    func entry(_ name: String) -> GodwitConfiguration.Database {
        var entry = GodwitConfiguration.Database(
            name: name, old: old.conninfo(database: name), new: new.conninfo(database: name))
        entry.controlOld = old.conninfo(database: name, user: PostgresCluster.superuser)
        entry.controlNew = new.conninfo(database: name, user: PostgresCluster.superuser)
        entry.readsKey = "[{comment: user_id}, {setting: godwit.user}, {session: user}]"
        return entry
    }

    /// Godwit before one database, after whatever the test changes.
    func godwit(
        _ name: String, _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        var configuration = GodwitConfiguration([entry(name)])
        change(&configuration)
        return try GodwitProcess(configuration)
    }
}

extension Servers {
    /// Prepared and serving with its mirror running, once NEW equals OLD at some snapshot and OLD's catalog is known.
    func mirroring(
        _ name: String, _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        var configuration = GodwitConfiguration([entry(name)])
        configuration.database.mirror = ["mode": "async"]
        change(&configuration)
        let directory = try GodwitProcess.makeDirectory(configuration)
        let prepare = try GodwitProcess.command(["prepare", "--config", directory + "/godwit.yaml", name])
        guard prepare.wait() == .code(0) else { throw TestFailure("prepare: \(prepare.errors.text)") }
        let godwit = try GodwitProcess(configuration)
        try waitUntil {
            let row = try godwit.console("SHOW MIRROR").first { $0["database"] == name }
            return row?["state"] == "mirroring" && row?["readable"] == "yes"
        }
        try godwit.log.waitForLine(containing: "catalog of \"\(name)\"")
        return godwit
    }
}

extension GodwitConfiguration {
    /// The only database of most tests.
    var database: Database {
        get { databases[0] }
        set { databases[0] = newValue }
    }
}

/// Runs a Python program of Drivers/ with the drivers of .build/venv.
///
/// - Throws: with all it wrote, when it does not end with status 0.
@discardableResult
func runDriver(_ name: String, _ arguments: [String]) throws -> String {
    let python = TestResources.packageRoot + "/.build/venv/bin/python"
    let program = TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/\(name).py"
    return try ChildProcess.run([python, "-X", "faulthandler", program] + arguments)
}

/// Starts one, to go on while the test does something else.
func startDriver(_ name: String, _ arguments: [String], keepsInput: Bool = false) throws -> ChildProcess {
    let python = TestResources.packageRoot + "/.build/venv/bin/python"
    let program = TestResources.packageRoot + "/Tests/EndToEndTests/Drivers/\(name).py"
    return try ChildProcess([python, "-X", "faulthandler", program] + arguments, keepsInput: keepsInput)
}

extension WireClient.Message {
    /// `I`, `T` or `E` of a ReadyForQuery.
    var transactionStatus: Character? {
        type == "Z" ? body.first.map { Character(UnicodeScalar($0)) } : nil
    }

    /// The tag of a CommandComplete.
    var commandTag: String? {
        type == "C" ? String(decoding: body.dropLast(), as: UTF8.self) : nil
    }
}
