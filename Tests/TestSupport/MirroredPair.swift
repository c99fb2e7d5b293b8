import Foundation

/// One database on a PostgreSQL 15 and one of the same name on a PostgreSQL 18. Any thread.
///
/// The servers are shared by all tests of the process that do not break them; the databases are the test's
/// own.
package final class MirroredPair: Sendable {
    package let old: PostgresCluster
    package let new: PostgresCluster
    package let database: String

    private static let shared: (old: PostgresCluster, new: PostgresCluster)? = {
        guard let old = try? PostgresCluster(.old15), let new = try? PostgresCluster(.new18) else { return nil }
        return (old, new)
    }()

    /// - Parameter schema: SQL that both databases start with.
    /// - Parameter ownServers: for tests that kill them.
    package init(schema: String, ownServers: Bool = false) throws {
        if ownServers {
            old = try PostgresCluster(.old15)
            new = try PostgresCluster(.new18)
        } else {
            guard let shared = Self.shared else { throw TestFailure("no PostgreSQL 15 and 18: run `make setup`") }
            (old, new) = shared
        }
        database = "d" + UUID().uuidString.prefix(12).lowercased().replacingOccurrences(of: "-", with: "")
        for side in [old, new] {
            try side.createDatabase(database)
            try side.psql(schema, database: database)
        }
    }

    package var oldConninfo: String { old.conninfo(database: database, user: PostgresCluster.superuser) }
    package var newConninfo: String { new.conninfo(database: database, user: PostgresCluster.superuser) }
}
