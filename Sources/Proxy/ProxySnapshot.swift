import Configuration
import PGWire
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions
import Shadowing

/// Where one side of a database is and how we log in there. Immutable, any thread.
package struct ServerEndpoint: Sendable, Equatable {
    package var side: Side
    /// nil while the host's name cannot be resolved.
    package var address: SocketAddress?
    /// As the conninfo has it: for messages and SHOW DATABASES.
    package var host: String
    package var port: UInt16
    package var database: String
    /// nil: the client's own name.
    package var user: String?
    package var password: String?
    /// The conninfo's `options`.
    package var options: String?
    /// nil: never encrypted, as over Unix sockets.
    package var tls: ServerTLS?

    package init(
        side: Side, address: SocketAddress?, host: String, port: UInt16, database: String, user: String? = nil,
        password: String? = nil, options: String? = nil, tls: ServerTLS? = nil
    ) {
        self.side = side
        self.address = address
        self.host = host
        self.port = port
        self.database = database
        self.user = user
        self.password = password
        self.options = options
        self.tls = tls
    }
}

/// What was read of one authority's catalog; its identity tells whether it was read again. Immutable, any thread.
package final class CatalogSnapshot: Sendable {
    package let facts: CatalogFacts
    /// A BEGIN without words is READ COMMITTED for every user of the database. False until it is known.
    package let isReadCommittedDefault: Bool
    /// Numbers in pg_type of the columns that give keys, by name: where all columns of a name have one type.
    package let keyColumnTypes: [String: UInt32]

    package init(_ facts: CatalogFacts, isReadCommittedDefault: Bool, keyColumnTypes: [String: UInt32] = [:]) {
        self.facts = facts
        self.isReadCommittedDefault = isReadCommittedDefault
        self.keyColumnTypes = keyColumnTypes
    }

    /// What holds before the authority could be asked.
    package static let builtIn = CatalogSnapshot(
        CatalogFacts.builtIn, isReadCommittedDefault: false)
    /// The same where there is a mirror: which relations the other side does not hold as this one does is not known
    /// yet, so nothing is read there.
    package static let guarded = CatalogSnapshot(CatalogFacts.guarded, isReadCommittedDefault: false)

    package var isGuarded: Bool { self === CatalogSnapshot.guarded }
}

/// All that the data plane needs of one `databases` entry. Immutable; shared by all reactors.
package final class DatabaseRoute: Sendable {
    package let settings: DatabaseSettings
    package let old: ServerEndpoint
    package let new: ServerEndpoint
    package let table: RoutingTable
    package let facts: CatalogSnapshot
    package let horizon: Horizon
    package let stamps: ReadStamps
    package let sequenceReaders: SequenceReaders
    package let health: DatabaseHealth
    package let lease: WriteLease
    /// What came of reads that were compared; nil: none was asked to be.
    package let shadow: ShadowBook?
    /// The switch that has made the authority what it is; 0: none has.
    package let epoch: Int64
    /// nil: the users' file alone says who there is.
    package let lookUp: SecretLookUp?

    package var name: String { settings.name }
    /// The side that takes the writes.
    package var authority: Side { health.authority }

    /// - Parameter table: of the route that this one replaces, where reads and rules are the same.
    package init(
        settings: DatabaseSettings, old: ServerEndpoint, new: ServerEndpoint, facts: CatalogSnapshot, horizon: Horizon,
        stamps: ReadStamps, sequenceReaders: SequenceReaders, health: DatabaseHealth, epoch: Int64 = 0,
        lookUp: SecretLookUp? = nil, shadow: ShadowBook? = nil, table: RoutingTable? = nil,
        lease: WriteLease = WriteLease()
    ) {
        self.epoch = epoch
        self.lease = lease
        self.shadow = shadow
        self.settings = settings
        self.old = old
        self.new = new
        self.table = table ?? RoutingTable(
            settings.reads, rules: settings.rules, hasUnlikeTables: !settings.mirror.tables.isEmpty)
        self.facts = facts
        self.horizon = horizon
        self.stamps = stamps
        self.sequenceReaders = sequenceReaders
        self.health = health
        self.lookUp = lookUp
    }

    package func endpoint(_ side: Side) -> ServerEndpoint { side == .old ? old : new }

    /// Of users with this share, in hundredths of a percent, those who read on NEW: all, once it takes the writes.
    func onNew(_ hundredths: Int) -> Int { authority == .new ? 10_000 : hundredths }

    /// A copy with addresses and certificates as they are now.
    package func with(old: ServerEndpoint, new: ServerEndpoint) -> DatabaseRoute {
        DatabaseRoute(
            settings: settings, old: old, new: new, facts: facts, horizon: horizon, stamps: stamps,
            sequenceReaders: sequenceReaders, health: health, epoch: epoch, lookUp: lookUp, shadow: shadow,
            table: table, lease: lease)
    }
}

/// One state of the whole configuration, swapped whole. Immutable; shared by all reactors.
package final class ProxySnapshot: Sendable {
    package let settings: Settings
    package let auth: AuthPolicy
    /// What clients over TCP are offered.
    package let encryption: EncryptionPolicy
    /// Our certificate and key; nil: no TLS towards clients.
    package let tls: TLSContext?
    package let databases: NameTable<DatabaseRoute>
    /// What single users have: asked for each client and pool, of which there may be as many as users.
    let users: NameTable<UserSettings>
    /// What serves all other names; its own name is `*`.
    package let wildcard: DatabaseRoute?
    /// What there is of migrations; every snapshot has the same one.
    package let migrations: MigrationBoard

    package init(
        settings: Settings, auth: AuthPolicy, encryption: EncryptionPolicy = .plain, tls: TLSContext? = nil,
        databases: [DatabaseRoute], migrations: MigrationBoard = MigrationBoard()
    ) {
        self.migrations = migrations
        precondition(encryption.isOffered == (tls != nil), "TLS that is offered without a certificate")
        self.settings = settings
        self.auth = auth
        self.encryption = encryption
        self.tls = tls
        self.databases = NameTable(databases.filter { !$0.settings.isWildcard }.map { ($0.name, $0) })
        wildcard = databases.first { $0.settings.isWildcard }
        users = NameTable(settings.users.map { ($0.name, $0) })
    }

    /// Of an entry of the configuration, `*` among them.
    package func route(_ entry: String) -> DatabaseRoute? {
        databases[entry] ?? (entry == DatabaseSettings.wildcard ? wildcard : nil)
    }

    /// The console's database.
    package static let consoleDatabase = "godwit"
    /// Another name of it, under which PgBouncer's tools look for a console; a database of that name comes first.
    package static let pgBouncerDatabase = "pgbouncer"

    func isConsole(_ database: String) -> Bool {
        database == Self.consoleDatabase || database == Self.pgBouncerDatabase && databases[database] == nil
    }
}
