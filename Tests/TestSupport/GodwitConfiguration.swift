/// A configuration file in the making: what the tests vary, the rest at its default.
package struct GodwitConfiguration: Sendable {
    package struct Database: Sendable {
        package var name: String
        package var old: String
        package var new: String
        /// Empty: as `old` and `new`.
        package var controlOld = ""
        package var controlNew = ""
        package var readsPercent = "0"
        /// YAML flow sequence, as in `[{comment: user_id}, {session: user}]`; empty: the default.
        package var readsKey = ""
        /// YAML flow sequence.
        package var rules = "[]"
        /// Further keys and values of `reads`.
        package var reads: [String: String] = [:]
        /// Keys and values of the sections of the same name.
        package var pool: [String: String] = [:]
        package var mirror: [String: String] = [:]
        package var breaker: [String: String] = [:]
        package var shadow: [String: String] = [:]
        package var auth: [String: String] = [:]

        package init(name: String, old: String, new: String) {
            self.name = name
            self.old = old
            self.new = new
        }
    }

    package var port: UInt16 = 0
    package var threads = 1
    /// Keys and values of `listen.tls`.
    package var tls: [String: String] = [:]
    package var authMethod = "trust"
    /// The text of the users file; nil: none is named.
    package var users: String?
    /// Further keys and values of `listen` and `auth`. DIRECTORY stands for the folder of the configuration.
    package var listen: [String: String] = [:]
    package var auth: [String: String] = [:]
    /// Further sections.
    package var sections = ""
    /// Further files of that folder, by name.
    package var files: [String: String] = [:]
    package var adminUsers = ["godwit"]
    package var statsUsers: [String] = []
    /// Further keys and values of `state`.
    package var state: [String: String] = [:]
    /// Keys and values of `admin.http`.
    package var http = ["port": "0"]
    package var databases: [Database]

    package init(_ databases: [Database]) { self.databases = databases }

    /// - Parameter directory: where the users file is, and the state.
    package func text(directory: String) -> String {
        var text = """
            listen: \(Self.flow(listen.merging(address) { $1 }))
            auth: \(Self.flow(auth.merging(credentials) { $1 }))
            admin: \(Self.flow(admin))
            state: \(Self.flow(state.merging(["path": "\(directory)/godwit.sqlite"]) { own, _ in own }))
            \(sections)
            databases:

            """
        for database in databases {
            text += """
                  \(database.name):
                    old: "\(database.old)"
                    new: "\(database.new)"
                    control: {old: "\(database.controlOld)", new: "\(database.controlNew)"}
                    auth: \(Self.flow(database.auth))
                    pool: \(Self.flow(database.pool))
                    reads: \(reads(database))
                    rules: \(database.rules)
                    mirror: \(Self.flow(database.mirror))
                    shadow: \(Self.flow(database.shadow))
                    breaker: \(Self.flow(Self.patient.merging(database.breaker) { $1 }))

                """
        }
        return text.replacing("DIRECTORY", with: directory)
    }

    /// On a busy machine times say nothing of a server: they do not count but where a test is about them.
    private static let patient = ["p95_factor": "1000", "read_timeout_millis": "60000"]

    private var address: [String: String] {
        ["address": "127.0.0.1", "port": "\(port)", "threads": "\(threads)", "tls": Self.flow(tls)]
    }

    private var admin: [String: String] {
        [
            "users": "[\(adminUsers.joined(separator: ", "))]",
            "stats_users": "[\(statsUsers.joined(separator: ", "))]", "http": Self.flow(http),
        ]
    }

    private var credentials: [String: String] {
        users == nil ? ["method": authMethod] : ["method": authMethod, "users_file": "DIRECTORY/users.txt"]
    }

    private func reads(_ database: Database) -> String {
        var reads = database.reads
        reads["percent"] = database.readsPercent
        if !database.readsKey.isEmpty { reads["key"] = database.readsKey }
        return Self.flow(reads)
    }

    private static func flow(_ section: [String: String]) -> String {
        "{" + section.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: ", ") + "}"
    }
}
