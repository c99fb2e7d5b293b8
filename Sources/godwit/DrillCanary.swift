import Configuration
import ControlPlane
import Digests
import Glibc
import LibPQ
import Logging
import Migration
import Mirroring
import Primitives
import Proxy
import Synchronization
import Verification

/// A drill without the application: a table of ours, in a database of ours on each server, with a writer, a mirror, and
/// switches by the code that moves the real writes. Whatever comes of it, the databases go in the end. One thread.
struct DrillCanary {
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    private static let writesWanted = 50
    private static let patienceSeconds = 60.0
    /// Switches that miss their deadline, as they may on a busy machine, are tried again.
    private static let attempts = 5
    /// Of the database's own name in that of the canary's, which has 63 bytes at most.
    private static let nameLettersMax = 30

    let database: DatabaseSettings
    /// Of ours, on both servers.
    let name: String
    let deadlineMillis: Int
    let logger: Logger
    /// True: it is to end.
    let isCancelled: @Sendable () -> Bool

    /// The same for the same migration of the same database, so that what a killed process has left is found again, and
    /// another's on these servers is not touched.
    static func name(of migration: String, _ database: DatabaseSettings) -> String {
        let names = Side.allCases.map { side in
            (try? ConnectionString(parsing: database.controlOrOwn(side)))?.dbname ?? database.name
        }
        let all = ([migration] + names).joined(separator: "\u{0}")
        let digits = Digest.sha256(Array(all.utf8)).prefix(8).hex
        let plain = names[0].lowercased().filter { $0.isASCII && ($0.isLetter || $0.isNumber) }.prefix(nameLettersMax)
        return "godwit_drill_\(plain)_\(digits)"
    }

    // MARK: databases of ours

    /// Takes away what there is of it. - Returns: nil: nothing is left; else why not.
    static func remove(_ database: DatabaseSettings, _ name: String) -> String? {
        var failures: [String] = []
        for side in Side.allCases {
            do {
                let admin = try Connection.open(try database.controlTarget(side), purpose: "drill")
                let rows = try admin.query("SELECT FROM pg_database WHERE datname = \(SQL.literal(name))")
                if rows.count == 0 { continue }
                let force = admin.serverVersion >= 130_000 ? " WITH (FORCE)" : ""
                try admin.execute("DROP DATABASE \(SQL.identifier(name))\(force)")
            } catch {
                failures.append("\(side.title): DROP DATABASE \(name): \(error)")
            }
        }
        return failures.isEmpty ? nil : failures.joined(separator: "; ")
    }

    private func target(_ side: Side) throws -> ConnectionString {
        try database.controlTarget(side).overriding(["dbname": name])
    }

    private func make() throws {
        if let failure = Self.remove(database, name) { throw Failure(description: failure) }
        for side in Side.allCases {
            do {
                let admin = try Connection.open(try database.controlTarget(side), purpose: "drill")
                try admin.execute("CREATE DATABASE \(SQL.identifier(name)) TEMPLATE template0")
                let ours = try Connection.open(try target(side), purpose: "drill")
                try ours.execute("""
                    CREATE TABLE public.canary (
                        id bigserial PRIMARY KEY, side text NOT NULL, times int NOT NULL DEFAULT 1)
                    """)
            } catch let failure as PostgresFailure where failure.sqlState == "42501" {
                let user = "the user of control.\(side == .old ? "old" : "new")"
                throw Failure(description: "\(side.title): the drill needs a database of its own: "
                    + "ALTER ROLE … CREATEDB for \(user), or drill --whole")
            } catch {
                throw Failure(description: "\(side.title): \(error)")
            }
        }
        let old = try Connection.open(try target(.old), purpose: "drill")
        let new = try Connection.open(try target(.new), purpose: "drill")
        let found = try Preflight.check(.forward, old: old, new: new)
        if let first = found.blocking.first { throw Failure(description: first.description) }
        _ = try CaptureInstaller().install(.forward, old: old, new: new, tables: found.tables)
    }

    // MARK: there and back

    /// - Parameter result: its order and begin.
    func perform(_ result: DrillResult) -> DrillResult {
        var result = result
        var failure: String?
        do {
            try make()
            let desk = CanaryDesk(
                name, old: try target(.old).text, new: try target(.new).text, logger: logger)
            desk.start()
            defer { desk.stop() }
            try rehearse(desk, &result)
        } catch {
            failure = "\(error)"
        }
        let left = Self.remove(database, name).map { "; this is left to remove: \($0)" } ?? ""
        let held = [result.cutoverHeldMillis, result.rollbackHeldMillis].compactMap { $0 }
            .map { "\(SwitchReport.tenths($0)) ms" }.joined(separator: " and ")
        let words = failure.map { "\($0)\(left)" }
            ?? "the canary's writes went to NEW and back, held for \(held); \(result.writes ?? 0) writes, both sides "
            + "equal\(left)"
        return result.ending(failure == nil && left.isEmpty, words, at: StateStore.now())
    }

    private func rehearse(_ desk: CanaryDesk, _ result: inout DrillResult) throws {
        try awaitWrites(desk, .old)
        result.cutoverHeldMillis = try switchOver(desk, .cutover)
        try awaitWrites(desk, .new)
        try expectFence()
        try expect("the mirror back") { desk.isMirroring }
        result.rollbackHeldMillis = try switchOver(desk, .rollback)
        try awaitWrites(desk, .old)
        desk.pause()
        try compare(desk, &result)
    }

    private func expect(_ what: String, _ condition: () throws -> Bool) throws {
        let end = Deadline.now().adding(seconds: Self.patienceSeconds)
        while try !condition() {
            if isCancelled() { throw Failure(description: "it was cancelled") }
            if end.hasPassed {
                throw Failure(description: "\(what) did not come within \(Int(Self.patienceSeconds)) s")
            }
            usleep(5000)
        }
    }

    private func awaitWrites(_ desk: CanaryDesk, _ side: Side) throws {
        let before = desk.writes(on: side)
        try expect("writes on \(side.title)") {
            if let failure = desk.failure { throw Failure(description: "a write of the canary's failed: \(failure)") }
            return desk.writes(on: side) >= before + Self.writesWanted
        }
    }

    private func switchOver(_ desk: CanaryDesk, _ verb: SwitchOrder.Verb) throws -> Double {
        var order = SwitchOrder(verb, name)
        order.deadlineMillis = deadlineMillis
        order.evidence = .waived
        var summary = ""
        for _ in 0..<Self.attempts {
            if isCancelled() { throw Failure(description: "it was cancelled") }
            let report = desk.engine.perform(order)
            if report.isDone { return report.heldMillis }
            summary = report.summary
        }
        throw Failure(description: "the \(verb.rawValue) was not made: \(summary)")
    }

    /// Who writes around Godwit is refused.
    private func expectFence() throws {
        let stranger = try Connection.open(try target(.old), purpose: "drill")
        do throws(PostgresFailure) {
            try stranger.execute("INSERT INTO public.canary (side) VALUES ('stranger')")
        } catch {
            if error.sqlState == "25006" { return }
            throw error
        }
        throw Failure(description: "OLD has taken a write behind the switch: its fence does not hold")
    }

    private func compare(_ desk: CanaryDesk, _ result: inout DrillResult) throws {
        try expect("the end of the last write") { desk.isResting }
        let wanted = desk.writes(on: .old) + desk.writes(on: .new)
        result.writes = wanted
        for side in Side.allCases {
            let connection = try Connection.open(try target(side), purpose: "drill")
            var found: Int64?
            // NEW gets the last of them by the mirror.
            try expect("all \(wanted) writes on \(side.title)") {
                found = try connection.query("SELECT coalesce(sum(times), 0) FROM public.canary").integer(0, 0)
                return found.map { $0 >= Int64(wanted) } ?? false
            }
            if found != Int64(wanted) {
                throw Failure(description: "\(wanted) writes were answered, \(side.title) has \(found ?? 0)")
            }
        }
        var words = ""
        try expect("a comparison") {
            let report = try Verifier(old: try target(.old), new: try target(.new)).run()
            words = report.tables.compactMap(\.problem).joined(separator: "; ")
            if case .couldNotTell = report.outcome { return false }
            result.verify = report.outcome == .equal ? "equal" : "different"
            result.rowsCompared = report.tables.reduce(0) { $0 + $1.rows }
            return true
        }
        if result.verify != "equal" { throw Failure(description: "both sides differ afterwards: \(words)") }
    }
}

/// What stands for the proxy in a canary's drill: the one writer, who is held and moved as clients' units are, and the
/// mirror. Its thread; `writes`, `failure` and the like from any.
final class CanaryDesk: Sendable {
    private struct State {
        var writes: [Side: Int] = [:]
        var failure: String?
        var isMirroring = false
        var isPaused = false
        /// It has been seen: no write is under way.
        var isResting = false
        var isEnding = false
    }

    /// Milliseconds from one write to the next.
    private static let pauseMillis: CInt = 2

    let engine: SwitchEngine
    private let name: String
    private let old: String
    private let new: String
    private let logger: Logger
    private let control = Mailbox<ControlMessage>()
    private let state = Mutex(State())
    private let thread = Mutex<OwnThread?>(nil)

    init(_ name: String, old: String, new: String, logger: Logger) {
        self.name = name
        self.old = old
        self.new = new
        self.logger = logger
        engine = SwitchEngine(control, events: EventLog(), logger: logger)
    }

    func start() {
        let started = OwnThread(name: "godwit-canary") { [self] in run() }
        thread.withLock { $0 = started }
    }

    func stop() {
        state.withLock { $0.isEnding = true }
        thread.join()
    }

    /// No more writes, from when `isResting` is true on.
    func pause() { state.withLock { $0.isPaused = true } }

    var isResting: Bool { state.withLock { $0.isResting } }

    /// That were answered.
    func writes(on side: Side) -> Int { state.withLock { $0.writes[side] ?? 0 } }

    var failure: String? { state.withLock { $0.failure } }

    var isMirroring: Bool { state.withLock { $0.isMirroring } }

    // MARK: its thread

    private func run() {
        var horizon = Horizon(), ownership = Ownership.initial
        var mirror = startMirror(ownership, horizon)
        var writer: Connection?
        var isHeld = false
        while !state.withLock({ $0.isEnding }) {
            var ready = pollfd(fd: control.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&ready, 1, Self.pauseMillis)
            for message in control.take() {
                guard case .switching(let request, let reply) = message else { continue }
                switch request {
                // Between two writes nothing is open: it is held from here on.
                case .hold, .holdForChange: isHeld = true
                case .letGo: isHeld = false
                case .warm: break
                case .own(_, let side, let epoch, let letsGo):
                    if letsGo { isHeld = false }
                    if side != ownership.authority {
                        ownership = Ownership(authority: side, epoch: epoch, standing: .settled)
                        horizon = Horizon(after: horizon.taking)
                        writer = nil
                    }
                case .turnMirror:
                    if mirror.direction.source != ownership.authority {
                        mirror.stop()
                        mirror = startMirror(ownership, horizon)
                    }
                }
                reply?.post(.done)
            }
            let isMirroring = horizon.report.state == .mirroring && horizon.report.lastAppliedNanos > 0
            let isPaused = state.withLock { state in
                state.isMirroring = isMirroring
                state.isResting = state.isPaused
                return state.isPaused || state.failure != nil
            }
            // The first copy comes before the first switch.
            guard !isHeld, !isPaused, isMirroring || ownership.epoch > 0 else { continue }
            write(&writer, ownership.authority)
            horizon.kick()
        }
        writer = nil
        mirror.stop()
        engine.set(name, nil)
    }

    private func startMirror(_ ownership: Ownership, _ horizon: Horizon) -> Mirror {
        let mirror = Mirror(
            database: name, MirrorDirection(from: ownership.authority), oldConninfo: old, newConninfo: new,
            settings: MirrorOptions(), horizon: horizon, logger: logger)
        mirror.start()
        engine.set(name, SwitchEngine.Entry(
            old: old, new: new, ownership: ownership, horizon: horizon, orders: mirror.orders,
            bell: SwitchEngine.BatchBell(horizon), connectionsNeeded: 1))
        return mirror
    }

    /// New rows, and changes of rows that both sides have written.
    private func write(_ writer: inout Connection?, _ side: Side) {
        do {
            if writer == nil {
                writer = try Connection.open(
                    try ConnectionString(parsing: side == .old ? old : new), purpose: "drill")
            }
            let count = state.withLock { $0.writes.values.reduce(0, +) }
            let sql = count % 3 == 2
                ? "UPDATE public.canary SET times = times + 1 WHERE id = (SELECT min(id) FROM public.canary)"
                : "INSERT INTO public.canary (side) VALUES ('\(side.title)')"
            try writer?.execute(sql, timeoutSeconds: 10)
            state.withLock { $0.writes[side, default: 0] += 1 }
        } catch {
            writer = nil
            state.withLock { $0.failure = "\(side.title): \(error)" }
        }
    }
}
