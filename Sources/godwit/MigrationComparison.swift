import Configuration
import ControlPlane
import Glibc
import LibPQ
import Migration
import Primitives
import Synchronization
import Verification

/// Compares both sides of a migration now and then: every row, and the manifest's invariants. On a thread of its own,
/// for it takes long; any thread may ask what it has found.
final class MigrationComparison: Sendable {
    /// Seconds from one look at the invariants to the next, and from a comparison that could not tell to the next try.
    private static let invariantSeconds = 20.0
    private static let retrySeconds = 10.0
    private static let timeoutSeconds = 60.0

    struct Findings: Sendable {
        var verify: MigrationReadings.Verify?
        var isVerifying = false
        var invariants: [MigrationReadings.Invariant]?
    }

    private struct State {
        var findings = Findings()
        var isWanted = false

        /// Nobody looks whether it is still so: an old difference would take back whatever is begun again, each time,
        /// and what has been mended since would never be found. That all was equal counts for as long as gates let it.
        mutating func forget() {
            findings.invariants = nil
            if findings.verify?.outcome != .equal { findings.verify = nil }
        }
    }

    private let manifest: MigrationManifest
    private let database: DatabaseSettings
    private let state = Mutex(State())
    private let wake = Mailbox<Bool>()
    /// Readable from when it is to end: what is under way ends with it.
    private let end = Mailbox<Bool>()
    private let thread = Mutex<OwnThread?>(nil)

    init(_ manifest: MigrationManifest, _ database: DatabaseSettings) {
        self.manifest = manifest
        self.database = database
    }

    func start() {
        let started = OwnThread(name: "godwit-compare") { [self] in run() }
        thread.withLock { $0 = started }
    }

    /// What is under way is given up: on large tables it would take hours, for which the next process had to wait.
    func stop() {
        end.post(true)
        wake.post(false)
        thread.join()
    }

    var findings: Findings { state.withLock { $0.findings } }

    /// - Parameter isWanted: both sides can be compared, and the phase asks for it.
    func set(isWanted: Bool) {
        let isNew = state.withLock { state in
            defer { state.isWanted = isWanted }
            if !isWanted { state.forget() }
            return state.isWanted != isWanted
        }
        if isNew { wake.post(true) }
    }

    // MARK: its thread

    private func run() {
        var verifyAt = MonotonicInstant.now(), invariantsAt = MonotonicInstant.now()
        while true {
            let now = MonotonicInstant.now()
            let isWanted = state.withLock { $0.isWanted }
            if isWanted, now >= invariantsAt, !manifest.invariants.isEmpty {
                let found = compareInvariants()
                state.withLock { if $0.isWanted { $0.findings.invariants = found } }
                invariantsAt = .now().advanced(bySeconds: Self.invariantSeconds)
            }
            if isWanted, now >= verifyAt {
                let found = verify()
                let pause = found.outcome == .equal ? manifest.verifyEverySeconds : Self.retrySeconds
                verifyAt = .now().advanced(bySeconds: max(pause, 1))
            }
            var ready = pollfd(fd: wake.descriptor, events: Int16(POLLIN), revents: 0)
            let millis = isWanted ? min(verifyAt.millis, manifest.invariants.isEmpty ? .max : invariantsAt.millis) : -1
            if poll(&ready, 1, millis) > 0, wake.take().contains(false) { return }
        }
    }

    private func verify() -> MigrationReadings.Verify {
        state.withLock { $0.findings.isVerifying = true }
        let found = Self.verify(manifest, database, interrupt: end.descriptor)
        state.withLock { state in
            state.findings.isVerifying = false
            state.findings.verify = found
            if !state.isWanted { state.forget() }
        }
        return found
    }

    /// Every row of both sides. Blocks for as long as it takes, or until `interrupt` is readable.
    static func verify(
        _ manifest: MigrationManifest, _ database: DatabaseSettings, interrupt: CInt
    ) -> MigrationReadings.Verify {
        let started = StateStore.now()
        do {
            var options = Verifier.Options()
            options.rowsPerSecond = manifest.verifyRate
            options.interrupt = interrupt
            // Nobody asks for them, and where all tables differ they would take gigabytes of a process that serves.
            options.keysMax = 0
            let old = try database.controlTarget(.old), new = try database.controlTarget(.new)
            let mappings = TableMappings(database.mirror)
            let report = try Verifier(old: old, new: new, options: options, mappings: mappings)
                .run(only: scope(manifest))
            let differing = report.tables.reduce(0) { $0 + $1.differing }
            let words = report.tables.compactMap { table in
                table.problem.map { "\(table.name): \($0)" } ?? (table.differing > 0 ? "\(table.name)" : nil)
            }
            let outcome: MigrationReadings.Verify.Outcome =
                switch report.outcome {
                case .equal: .equal
                case .different: .different
                case .couldNotTell: .unknown
                }
            return .init(
                outcome: outcome, differing: differing, rows: report.tables.reduce(0) { $0 + $1.rows }, at: started,
                detail: words.prefix(5).joined(separator: "; "))
        } catch {
            return .init(outcome: .unknown, differing: 0, rows: 0, at: started, detail: "\(error)")
        }
    }

    private static func scope(_ manifest: MigrationManifest) -> Set<LibPQ.TableName>? {
        if manifest.tables.isEmpty { return nil }
        return Set(manifest.tables.compactMap { name in
            let parts = name.split(separator: ".", maxSplits: 1)
            return parts.count == 2 ? LibPQ.TableName(schema: String(parts[0]), name: String(parts[1])) : nil
        })
    }

    // MARK: invariants

    /// What differs is asked once more, at another moment: a table that is emptied, or written anew by ALTER TABLE,
    /// between a snapshot and the query is empty to that one, and nothing locks the tables of an operator's query.
    ///
    /// - Returns: nil: it could not be told.
    private func compareInvariants() -> [MigrationReadings.Invariant]? {
        let found = askInvariants()
        return found?.allSatisfy { $0.isEqual } == false ? askInvariants() : found
    }

    private func askInvariants() -> [MigrationReadings.Invariant]? {
        do {
            let pair = try PairedSnapshots.take(
                old: try database.controlTarget(.old), new: try database.controlTarget(.new), tables: [],
                interrupt: end.descriptor)
            switch pair.pairing {
            case .batch, .quiet(keysWaiting: 0): break
            // The mirror is away for the moment: what it has not brought yet is no difference.
            case .quiet, .unprepared: return nil
            }
            let old = try reader(.old, pair.oldName), new = try reader(.new, pair.newName)
            return try manifest.invariants.map { invariant in
                let left = try answer(old, invariant.sql), right = try answer(new, invariant.sql)
                return .init(
                    name: invariant.name, old: left, new: right,
                    isEqual: InvariantValue.isEqual(left, right, tolerance: invariant.tolerance))
            }
        } catch let failure as PostgresFailure where failure.kind == .refused || failure.kind == .timedOut {
            // Also of one that takes too long: it will the next time, and whoever waits for the gate is to know.
            return manifest.invariants.map { .init(name: $0.name, old: "\(failure)", new: "", isEqual: false) }
        } catch {
            return nil
        }
    }

    private func reader(_ side: Side, _ snapshot: String) throws -> Connection {
        let connection = try Connection.open(
            try database.controlTarget(side), purpose: "invariants", settings: ["search_path": ""],
            interrupt: end.descriptor)
        try connection.execute("""
            BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT \(SQL.literal(snapshot));
            SET LOCAL search_path = "$user", public
            """)
        return connection
    }

    /// Rows of an answer that are compared.
    private static let rowsMax = 100

    /// One statement only: by the extended protocol the server takes no second one. Rows come one by one, and what is
    /// not compared is not kept: the answer may be a whole table.
    private func answer(_ connection: borrowing Connection, _ sql: String) throws -> String {
        try connection.send(statement: Array(sql.utf8), values: [])
        var lines: [String]?
        _ = try connection.takeRows(until: .now().adding(seconds: Self.timeoutSeconds)) { rows in
            var kept = lines ?? []
            lines = nil
            for row in 0..<rows.count where kept.count < Self.rowsMax {
                kept.append((0..<rows.columns).map { rows[row, $0] ?? "NULL" }.joined(separator: "|"))
            }
            lines = kept
            return true
        }
        return lines?.joined(separator: "\n") ?? "no rows"
    }
}

extension MonotonicInstant {
    /// From now; for poll(2).
    fileprivate var millis: CInt {
        CInt(min(nanoseconds(since: .now()) / 1_000_000 + 1, 60_000))
    }
}
