/// The phases of a migration, in their order.
package enum MigrationPhase: String, Sendable, Codable, CaseIterable {
    /// Preflight, and the capture of changes on OLD.
    case prepare
    /// NEW gets a first copy of each table.
    case backfill
    /// NEW follows.
    case mirror
    /// Every row of both sides is compared, at one moment.
    case validate
    /// A sample of the reads runs on both sides.
    case shadow
    /// The reads move, step by step.
    case shift
    /// The writes move.
    case cutover
    /// NEW has the writes, OLD follows: the way back stays open.
    case watch
    /// Everything of ours is removed from both databases.
    case cleanup

    package var next: MigrationPhase? {
        Self.allCases.firstIndex(of: self).flatMap { index in
            index + 1 < Self.allCases.count ? Self.allCases[index + 1] : nil
        }
    }

    /// From 0.
    package var position: Int { Self.allCases.firstIndex(of: self) ?? 0 }
}

/// What an operator wants of one migration, as the manifest says it. Immutable, any thread.
///
/// conf/migration.yaml shows every key with its default.
package struct MigrationManifest: Sendable, Equatable {
    package enum Strategy: String, Sendable, CaseIterable {
        /// Reads, then writes.
        case full
        /// Reads only: OLD keeps the writes, and the migration stays at its last step.
        case reads
    }

    package enum Advance: String, Sendable, CaseIterable {
        /// By an operator's word.
        case manual
        /// As soon as the gates have held for long enough.
        case auto
    }

    /// What becomes of clients that are bound to their server (temporary tables, LISTEN, session locks) at a switch.
    package enum Pinned: String, Sendable, CaseIterable {
        /// They are in its way until they go.
        case wait
        /// They are disconnected.
        case end
    }

    /// What a phase asks before it is left.
    package struct Phase: Sendable, Equatable {
        package var advance: Advance
        /// Seconds for which its gates must have held without a break; in `shift` for each step.
        package var soakSeconds: Double
        /// How many people must have approved.
        package var approvals: Int

        package init(advance: Advance = .auto, soakSeconds: Double = 0, approvals: Int = 0) {
            self.advance = advance
            self.soakSeconds = soakSeconds
            self.approvals = approvals
        }
    }

    /// One step of `shift`.
    package struct ReadStep: Sendable, Equatable {
        /// Of the configuration's `reads.cohorts`; nil: of all users.
        package var cohort: String?
        /// Hundredths of a percent.
        package var hundredths: Int

        package init(cohort: String? = nil, hundredths: Int) {
            self.cohort = cohort
            self.hundredths = hundredths
        }
    }

    /// Limits within which a phase may be left.
    package struct Gates: Sendable, Equatable {
        /// Seconds that NEW may be behind.
        package var lagSeconds = 5.0
        /// Seconds since the last comparison that found both sides equal.
        package var verifyAgeSeconds = 86_400.0
        /// Connections that the other side must have free.
        package var freeConnections = 10
        /// Seconds that the oldest open transaction of the authority may be old, at the switch.
        package var transactionSeconds = 30.0
        /// Points of a percentage by which NEW may fail more often than OLD, and the times of its p95.
        package var errorPoints = 1.0
        package var latencyFactor = 2.0
        /// Reads that must have been compared before `shadow` is left; 0: none are asked for.
        package var shadowReads = 0
        /// Percent of the compared reads that may differ.
        package var shadowMismatchPercent = 0.0

        package init() {}
    }

    /// When Godwit goes back by itself.
    package struct Abort: Sendable, Equatable {
        package var errorPoints = 1.0
        package var errorPercent = 10.0
        package var latencyFactor = 2.0
        package var mismatchPercent = 0.1
        package var lagWarnSeconds = 30.0
        package var lagSeconds = 120.0
        /// Keys that a comparison may find different.
        package var validationErrors = 100
        /// Seconds for which a limit must be passed without a break.
        package var heldSeconds = 30.0

        package init() {}
    }

    /// A query that must give the same on both sides, at one moment.
    package struct Invariant: Sendable, Equatable {
        package var name: String
        package var sql: String
        /// By how much numbers may differ.
        package var tolerance: Double

        package init(name: String, sql: String, tolerance: Double = 0) {
            self.name = name
            self.sql = sql
            self.tolerance = tolerance
        }
    }

    /// Hours in which it may advance.
    package struct Window: Sendable, Equatable {
        /// 1: Monday, to 7: Sunday.
        package var days: Set<Int>
        /// Minutes since midnight; `to` is not within. A window with from > to ends on the next day.
        package var fromMinute: Int
        package var toMinute: Int

        package init(days: Set<Int>, fromMinute: Int, toMinute: Int) {
            self.days = days
            self.fromMinute = fromMinute
            self.toMinute = toMinute
        }
    }

    package static let defaultSteps = [100, 500, 1000, 2500, 5000, 10_000].map { ReadStep(hundredths: $0) }

    /// How it is called from now on: letters, digits, `-`, `_` and `.`.
    package var id: String
    /// Of the configuration.
    package var database: String
    package var strategy = Strategy.full
    /// Tables that go, as `schema.table`; empty: all.
    package var tables: [String] = []
    /// What the configuration's `mirror.tables` must say while this migration goes on; nil: whatever it says.
    package var mapping: [MappedTable]?
    package var phases: [MigrationPhase: Phase] = [
        .shift: Phase(soakSeconds: 300), .mirror: Phase(soakSeconds: 60), .cutover: Phase(advance: .manual),
        .watch: Phase(advance: .manual, soakSeconds: 86_400), .cleanup: Phase(advance: .manual),
    ]
    package var steps = Self.defaultSteps
    package var gates = Gates()
    package var abort = Abort()
    package var invariants: [Invariant] = []
    /// Seconds between two comparisons of all rows, and rows a second that one reads at most on each side (0: any).
    package var verifyEverySeconds = 3600.0
    package var verifyRate = 0
    /// Milliseconds within which a switch is made or taken back.
    package var deadlineMillis = 1000
    package var pinned = Pinned.wait
    /// Programs of `events.hooks` that must be told of events; their file names.
    package var hooks: [String] = []
    /// IANA name.
    package var timeZone = "UTC"
    /// Empty: always.
    package var windows: [Window] = []

    package init(id: String, database: String) {
        self.id = id
        self.database = database
    }

    package subscript(phase: MigrationPhase) -> Phase { phases[phase] ?? Phase() }

    /// Tables of OLD of which the manifest says something else than the configuration: `schema.table`, in order.
    package func otherwiseMapped(in mirror: MirrorSettings) -> [String] {
        guard let mapping else { return [] }
        func byName(_ tables: [MappedTable]) -> [String: MappedTable] {
            Dictionary(tables.map { ($0.old, $0) }, uniquingKeysWith: { first, _ in first })
        }
        let wanted = byName(mapping), configured = byName(mirror.tables)
        return Set(wanted.keys).union(configured.keys).filter { wanted[$0] != configured[$0] }.sorted()
    }
}

/// Bounds of a manifest.
package enum ManifestLimits {
    package static let bytesMax = 256 << 10
    package static let idBytesMax = 64
    package static let tablesMax = 10_000
    package static let stepsMax = 100
    package static let invariantsMax = 100
    package static let windowsMax = 50
    package static let approvalsMax = 10
    package static let hooksMax = 8
    package static let sqlBytesMax = 16 << 10
}
