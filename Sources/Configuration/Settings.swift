import Primitives

/// Everything one configuration file says, checked. Immutable, any thread; a reload makes a new one.
package struct Settings: Sendable, Equatable {
    package var listen = ListenSettings()
    package var auth = AuthSettings()
    package var admin = AdminSettings()
    package var state = StateSettings()
    package var log = LogSettings()
    package var events = EventSettings()
    package var capture = CaptureSettings()
    /// What databases have that say nothing else, and what holds over all of them.
    package var pool = PoolSettings()
    package var breaker = BreakerSettings()
    package var limits = GlobalLimits()
    package var users: [UserSettings] = []
    /// In the order of the file.
    package var databases: [DatabaseSettings] = []

    package init() {}

    package func user(named name: String) -> UserSettings? { users.first { $0.name.hasSameBytes(as: name) } }

    package func database(named name: String) -> DatabaseSettings? {
        databases.first { $0.name.hasSameBytes(as: name) }
    }
}

/// Where clients connect to. Needs a restart, but for `clientsMax`, `clientLoginTimeoutSeconds` and `tls`.
package struct ListenSettings: Sendable, Equatable {
    package var address = "127.0.0.1"
    package var port: UInt16 = 6432
    /// Empty: no Unix socket. Otherwise `.s.PGSQL.<port>` is made in this directory.
    package var unixSocketDirectory = ""
    /// Reactor threads.
    package var threads = 1
    /// Client connections over all threads; further ones are refused with 53300.
    package var clientsMax = 10_000
    /// Seconds in which a client must have logged in (`client_login_timeout`).
    package var clientLoginTimeoutSeconds = 60.0
    package var tls = TLSSettings()
    /// Connections that the kernel keeps for us to accept (`listen_backlog`).
    package var backlog = 4096
    /// Bytes of one message of a client or server (`max_packet_size`).
    package var packetSizeMax = 2_147_483_647
    package var tcp = TCPSettings()
    /// Seconds in which clients leave by themselves, after another process has taken over (`takeover_wait`).
    package var takeoverWaitSeconds = 60.0

    package init() {}
}

/// How the kernel finds out that a peer is gone, on both legs; under PgBouncer's names, 0: the kernel's default.
package struct TCPSettings: Sendable, Equatable {
    package var keepalive = true
    package var keepaliveCount = 0
    package var keepaliveIdleSeconds = 0
    package var keepaliveIntervalSeconds = 0
    package var userTimeoutMillis = 0

    package init() {}
}

/// Over all databases, under PgBouncer's names; 0: no limit.
package struct GlobalLimits: Sendable, Equatable {
    /// Servers of one user, per side.
    package var maxUserConnections = 0
    package var maxUserClientConnections = 0
    /// After so long without a client or server a database that was made by `*` is forgotten.
    package var autodbIdleTimeoutSeconds = 3600.0

    package init() {}
}

/// What one user has instead of its database's; nil: as there.
package struct UserSettings: Sendable, Equatable {
    package var name: String
    package var poolSize: Int?
    package var reservePoolSize: Int?
    package var poolMode: PoolSettings.Mode?
    package var maxUserConnections: Int?
    package var maxUserClientConnections: Int?
    package var queryTimeoutSeconds: Double?
    package var transactionTimeoutSeconds: Double?
    package var idleTransactionTimeoutSeconds: Double?
    package var clientIdleTimeoutSeconds: Double?

    package init(name: String) { self.name = name }
}

/// TLS towards clients.
package struct TLSSettings: Sendable, Equatable {
    package enum Mode: String, Sendable, CaseIterable {
        /// SSLRequest is answered by N.
        case disable
        /// Clients choose.
        case allow
        /// Clients without TLS are refused; so in all that follow.
        case require
        /// They must show a certificate that `client_ca` has signed.
        case verifyCA = "verify-ca"
        /// And it must be the user's.
        case verifyFull = "verify-full"
    }

    package enum Version: String, Sendable, CaseIterable {
        case v12 = "TLSv1.2"
        case v13 = "TLSv1.3"
    }

    package var mode: Mode = .disable
    /// PEM: our certificate, then those that lead to its authority.
    package var certificate = ""
    package var key = ""
    /// PEM: who may sign clients' certificates; empty: none is asked for.
    package var clientCA = ""
    /// PEM: clients' certificates that were revoked (`client_crl`).
    package var clientCRL = ""
    package var minVersion: Version = .v12
    package var maxVersion: Version = .v13
    /// OpenSSL's list for TLS 1.2; empty: OpenSSL's choice.
    package var ciphers = ""
    /// For TLS 1.3 (`cipher_suites`).
    package var cipherSuites = ""

    package init() {}
}

/// How clients prove who they are.
package struct AuthSettings: Sendable, Equatable {
    package enum Method: String, Sendable, CaseIterable {
        case trust, md5, password, cert, hba
        case scramSHA256 = "scram-sha-256"
    }

    package var method: Method = .scramSHA256
    /// PgBouncer's userlist format; a relative path starts at the configuration file's folder. Empty with `trust`.
    package var usersFile = ""
    /// Read with `method: hba`, in pg_hba.conf's form, and pg_ident.conf's.
    package var hbaFile = ""
    package var identFile = ""
    /// With `method: cert`, and `listen.tls.mode: verify-full`: the map of `identFile` that says which certificate's
    /// name may be which user; empty: the common name is the user's.
    package var identMap = ""
    /// Whom to ask for the secrets of users that the file does not have.
    package var lookUp = LookUpSettings()
    /// Seconds that an answer is kept (`auth_query_cache`).
    package var cacheSeconds = 10.0

    package var cacheNanos: UInt64 { UInt64(cacheSeconds * 1e9) }

    package init() {}
}

/// Looking users up in the database. Empty: not said here.
package struct LookUpSettings: Sendable, Equatable {
    /// Who asks (`auth_user`); nobody: nothing is looked up.
    package var user = ""
    /// Where (`auth_dbname`); empty: in the database that the client asks for.
    package var database = ""
    /// What (`auth_query`), with the name as `$1`; two columns: name and secret.
    package var query = ""

    /// PgBouncer's: nobody gets in whose password has run out, or who may not log in.
    package static let defaultQuery = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL "
        + "ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin"

    package init() {}

    /// These, with what they leave open taken from `general`.
    package func filled(from general: LookUpSettings) -> LookUpSettings {
        var filled = self
        if filled.user.isEmpty { filled.user = general.user }
        if filled.database.isEmpty { filled.database = general.database }
        if filled.query.isEmpty { filled.query = general.query.isEmpty ? Self.defaultQuery : general.query }
        return filled
    }
}

/// Who may use the console, and over what operators come besides psql (`admin`).
package struct AdminSettings: Sendable, Equatable {
    /// Users that may use the console (the database `godwit`).
    package var users: [String] = ["godwit"]
    /// Users that may look there, and change nothing (`stats_users`).
    package var statsUsers: [String] = []
    package var http = HTTPSettings()

    package init() {}
}

/// The HTTP API, the metrics and the dashboard (`admin.http`).
package struct HTTPSettings: Sendable, Equatable {
    package var address = "127.0.0.1"
    /// 0: no HTTP.
    package var port: UInt16 = 9632
    package var tokenFile = ""
    /// Its token may look, and change nothing.
    package var readTokenFile = ""
    /// Tokens may pass beyond this machine unencrypted.
    package var allowsPlainTokens = false
    package var tls = HTTPTLSSettings()

    package init() {}

    package var hasToken: Bool { !tokenFile.isEmpty || !readTokenFile.isEmpty }

    /// - Parameter isLoopback: it listens where only this machine comes to.
    /// - Returns: what is wrong about tokens that anybody on the way could read; nil: nothing.
    package func plainTokenProblem(at address: String, isLoopback: Bool) -> String? {
        if isLoopback || !hasToken || allowsPlainTokens || tls.isOn { return nil }
        return "tokens would pass unencrypted on \(address): name a certificate and a key in admin.http.tls, "
            + "listen on 127.0.0.1, or set admin.http.allow_plain_tokens: true where something before it encrypts"
    }
}

/// Both are empty, or neither is.
package struct HTTPTLSSettings: Sendable, Equatable {
    package var certificate = ""
    package var key = ""
    package var minVersion: TLSSettings.Version = .v12

    package init() {}

    package var isOn: Bool { !certificate.isEmpty }
}

/// Where it is kept what must outlive the process: migrations, events, who has the writes (`state`).
package struct StateSettings: Sendable, Equatable {
    /// Empty: nothing outlives the process.
    package var path = "godwit.sqlite"
    /// Conninfo or URI of a PostgreSQL database that takes the place of `path`; empty: `path` it is.
    package var url = ""
    /// URL of this Godwit's HTTP, for those who ask others; empty: they are not told.
    package var address = ""

    package init() {}
}

/// What is logged, and how it is written (`log`).
package struct LogSettings: Sendable, Equatable {
    package enum Level: String, Sendable, CaseIterable { case trace, debug, info, notice, warning, error, critical }

    package enum Format: String, Sendable, CaseIterable { case text, json }

    package var level: Level = .info
    package var format: Format = .text
    /// Values that servers quote in their errors are shown.
    package var literals = false
    /// Messages of one cause within a second; further ones are counted. 0: any number.
    package var rate = 20

    package init() {}
}

/// What is done with events beside the log and the console.
package struct EventSettings: Sendable, Equatable {
    /// Programs that are run for each event (`hooks`).
    package var hooks: [String] = []
    /// Seconds after which one is ended (`hook_timeout`).
    package var hookTimeoutSeconds = 10.0

    package init() {}
}

/// Where the console may write traffic down to.
package struct CaptureSettings: Sendable, Equatable {
    /// Empty: nothing is captured.
    package var directory = ""
    /// Bytes of one file (`file_max`).
    package var fileBytesMax = 1 << 30
    /// Bytes of one COPY that are kept (`copy_max`).
    package var copyBytesMax = 16 << 20

    package init() {}
}

/// One entry of `databases`: a name that clients connect to and the two databases behind it.
package struct DatabaseSettings: Sendable, Equatable {
    package var name: String
    /// libpq conninfo or URI.
    package var old = ""
    package var new = ""
    /// conninfo for mirroring and checks; the same as `old` and `new` where the file leaves them empty.
    package var controlOld = ""
    package var controlNew = ""
    /// Before those of `auth`.
    package var lookUp = LookUpSettings()
    package var pool = PoolSettings()
    package var reads = ReadSettings()
    /// In the order of the file: the first that matches decides, and every one that rewrites is applied.
    package var rules: [RuleSettings] = []
    package var mirror = MirrorSettings()
    package var breaker = BreakerSettings()
    package var shadow = ShadowSettings()

    package init(name: String) { self.name = name }

    /// Serves every name that has no entry of its own.
    package var isWildcard: Bool { name == Self.wildcard }

    package static let wildcard = "*"
}

/// Servers per side and user; time limits in seconds under PgBouncer's names, 0 switches one off.
package struct PoolSettings: Sendable, Equatable {
    /// Open servers at most, over all threads (`size`).
    package var size = 20
    package enum Mode: String, Sendable, CaseIterable { case transaction, session }

    /// The version of the protocol to ask servers for (`max_protocol_version`, a name of libpq's).
    package enum ProtocolVersion: String, Sendable, CaseIterable {
        case v30 = "3.0", v32 = "3.2"

        package var minor: UInt16 { self == .v32 ? 2 : 0 }
    }

    /// With `session` a client keeps its server from its first unit on.
    package var mode: Mode = .transaction
    /// Servers kept open while a client of the pool is there.
    package var minPoolSize = 0
    /// Servers beyond `size` for clients that have waited for `reserve_pool_timeout`.
    package var reservePoolSize = 0
    package var reservePoolTimeoutSeconds = 5.0
    /// Servers of the database over all users, per side; 0: no limit.
    package var maxDBConnections = 0
    package var maxDBClientConnections = 0
    package var queryTimeoutSeconds = 0.0
    package var transactionTimeoutSeconds = 0.0
    package var protocolVersion: ProtocolVersion = .v30
    /// Clients that may wait for a server at once, per side, user and thread (`waiters_max`).
    package var waitersMax = 10_000
    package var queryWaitTimeoutSeconds = 120.0
    package var serverConnectTimeoutSeconds = 15.0
    package var serverLoginRetrySeconds = 15.0
    package var serverIdleTimeoutSeconds = 600.0
    package var serverLifetimeSeconds = 3600.0
    package var idleTransactionTimeoutSeconds = 0.0
    package var clientIdleTimeoutSeconds = 0.0
    /// Named prepared statements kept per server (`max_prepared_statements`); the least recently used goes first.
    package var preparedStatementsMax = 200

    package init() {}
}

/// Which reads of a database may go to NEW, and for whom (`reads`).
package struct ReadSettings: Sendable, Equatable {
    /// Where a routing key comes from; the first that is found wins.
    package enum KeySource: Sendable, Equatable {
        /// `/* name=42 */` or sqlcommenter's `/*name='42'*/` in the statement's text.
        case comment(String)
        /// `SET <name> = '42'`, answered by Godwit; or the startup option of that name.
        case setting(String)
        /// Equality of this column with a literal or parameter.
        case column(String)
        /// The name the client logged in with.
        case sessionUser
        /// What the session calls itself: `application_name`.
        case applicationName
        /// The host the client connected from.
        case clientAddress
    }

    package struct Cohort: Sendable, Equatable {
        package var name: String
        package var members: CohortMembers
        /// Hundredths of a percent, 0...10000.
        package var hundredths: Int

        package init(name: String, members: CohortMembers, hundredths: Int) {
            self.name = name
            self.members = members
            self.hundredths = hundredths
        }

        package init(name: String, keys: [String], hundredths: Int) {
            self.init(name: name, members: .keys(keys), hundredths: hundredths)
        }
    }

    /// What becomes of BEGIN (`transactions`).
    package enum Transactions: String, Sendable, CaseIterable {
        /// Answered by Godwit; reads go to their user's side until the first statement that is not surely a read.
        case lazy
        /// Begins on the authority at once, unless it is declared READ ONLY.
        case authority
    }

    /// What a read on NEW is sure to see (`consistency`).
    package enum Consistency: String, Sendable, CaseIterable {
        /// Everything that its user, or its connection, has written or read before, but for what the connection has
        /// read for users beyond the share.
        case user
        /// Every commit that was acknowledged through this process before it began.
        case global
    }

    /// Who answers reads without a routing key (`keyless`).
    package enum Keyless: String, Sendable, CaseIterable {
        case old
        /// The name the client logged in with is their key.
        case session
    }

    /// Which statement shapes NEW may answer (`promote`).
    package enum Promotion: String, Sendable, CaseIterable { case all, proven }

    /// Share of users whose reads go to NEW, in hundredths of a percent, 0...10000 (`percent: 12.34` is 1234).
    package var hundredths = 0
    package var key: [KeySource] = [.comment("user_id"), .setting("godwit.user"), .sessionUser]
    package var keyless: Keyless = .old
    package var cohorts: [Cohort] = []
    package var promote: Promotion = .all
    /// Calls of a shape on each side after which it may be judged (`promote_after`).
    package var promoteAfter = 100
    /// Times OLD's p95 that NEW's may be (`promote_p95_factor`).
    package var promoteFactor = 2.0
    package var transactions: Transactions = .lazy
    package var consistency: Consistency = .user
    /// Milliseconds that a read waits at most for NEW to catch up, before OLD answers it.
    package var consistencyWaitMillis = 50

    package init() {}
}

/// How the writes of a database come to its other side (`mirror`).
package struct MirrorSettings: Sendable, Equatable {
    package enum Mode: String, Sendable, CaseIterable { case off, async, sync }

    /// What becomes of DDL on tables that comes through Godwit (`ddl`).
    package enum DDL: String, Sendable, CaseIterable {
        /// Error 42501.
        case refuse
        /// It runs on OLD; the mirror finds out what it means.
        case allow
        /// It runs on both sides, while writes are held.
        case barrier
    }

    package var mode: Mode = .off
    package var ddl: DDL = .refuse
    /// Seconds that writes are held at most for a statement that runs on both sides (`ddl_wait`).
    package var ddlWaitSeconds = 5.0
    /// Milliseconds between looks at the journal when nobody kicks (`poll_millis`).
    package var pollMillis = 20
    /// Rows of one range of the first copy at most (`backfill_rows`).
    package var backfillRows = 10_000
    /// Rows a second of the first copy (`backfill_rate`); 0: any.
    package var backfillRate = 0
    /// The first copy rests while a batch of changes takes longer (`throttle_lag`); 0: never.
    package var throttleLagSeconds = 0.0
    /// It rests while OLD has more active sessions (`throttle_sessions`); 0: never.
    package var throttleSessions = 0
    /// It rests while this query's first value on OLD is true (`throttle_query`); empty: never.
    package var throttleQuery = ""
    /// With mode sync: how long a commit's answer waits for NEW at most (`sync_wait`).
    package var syncWaitSeconds = 0.1
    /// Seconds without an applied batch after which reads leave NEW (`lag_max`).
    package var lagMaxSeconds = 30.0
    /// Those that are other tables on NEW (`tables`).
    package var tables: [MappedTable] = []
    /// Tables of OLD, `schema.table`, whose changes are captured statement by statement (`bulk`). For prepare.
    package var bulk: [String] = []

    package init() {}
}

/// When a side of a database is given up, for how long, and what that does to the share of reads.
package struct BreakerSettings: Sendable, Equatable {
    /// What a trip for the other side's quality does to the share of reads (`rollback`).
    package enum Rollback: String, Sendable, CaseIterable {
        /// It goes to the last safe one.
        case auto
        /// It stays; the operator is told.
        case alarm
        case off
    }

    /// Consecutive failures that open the breaker.
    package var failures = 5
    /// Seconds that the other side's stays open before it probes (`held`).
    package var heldSeconds = 30.0
    /// Reads let through at once while half-open (`probes`), and successes in a row that close it.
    package var probes = 3
    /// Seconds after it has closed in which another trip latches it (`memory`); 0: it is never latched.
    package var memorySeconds = 300.0
    /// Seconds of answers that are compared (`window`), and how many there must be (`window_calls`).
    package var windowSeconds = 10.0
    package var windowCalls = 200
    /// Hundredths of a percentage point by which the other side may fail more often (`error_points`).
    package var errorPointsHundredths = 100
    /// Times the authority's p95 that the other side's may be, and milliseconds that it may always be more.
    package var p95Factor = 2.0
    package var p95SlackMillis = 2
    /// Hundredths of a percent of the compared reads that may differ (`mismatch_percent`).
    package var mismatchHundredths = 10
    /// Seconds that the other side may be behind (`lag`); 0: any.
    package var lagSeconds = 30.0
    /// A read without a byte of answer from the other side runs again on the authority after so long, or after so many
    /// times the authority's p99, whichever is more (`read_timeout_millis`, `read_timeout_p99_factor`); 0: never.
    package var readTimeoutMillis = 500
    package var readTimeoutFactor = 5.0
    /// Seconds that clients wait for an authority that cannot be reached, before they are refused (`patience`).
    package var patienceSeconds = 10.0
    package var rollback: Rollback = .auto
    /// Seconds without a trip after which a share of reads counts as safe (`safe_after`).
    package var safeAfterSeconds = 600.0

    package init() {}
}

/// Which reads of a database run on both sides to be compared (`shadow`).
package struct ShadowSettings: Sendable, Equatable {
    /// Hundredths of a percent of the reads that run on both sides.
    package var hundredths = 0
    /// Seconds from one pair of snapshots to the next (`pause`), and that one read may take on a side (`timeout`).
    package var pauseSeconds = 1.0
    package var timeoutSeconds = 1.0
    /// Rows of an answer that are compared; a read with more is left out.
    package var rowsMax = 10_000
    /// SHOW and the log may show a row in which answers differ.
    package var showsValues = false
    /// conninfo by which sampled reads come to each side; empty: as the clients' servers do.
    package var old = ""
    package var new = ""

    package init() {}
}
