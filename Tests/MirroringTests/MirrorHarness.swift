import Foundation
import LibPQ
import Logging
import Mirroring
import Primitives
import TestSupport

/// A pair of databases, connections to both, and mirrors between them. One test's thread.
final class MirrorHarness {
    let pair: MirroredPair
    let horizon = Horizon()
    private(set) var mirror: Mirror?

    init(schema: String, ownServers: Bool = false) throws {
        pair = try MirroredPair(schema: schema, ownServers: ownServers)
    }

    deinit { mirror?.stop() }

    func connectOld() throws -> Connection {
        try Connection.open(try ConnectionString(parsing: pair.oldConninfo), purpose: "test")
    }

    func connectNew() throws -> Connection {
        try Connection.open(try ConnectionString(parsing: pair.newConninfo), purpose: "test")
    }

    @discardableResult
    func prepare(_ mappings: TableMappings = .none) throws -> CaptureInstaller.Report {
        let old = try connectOld(), new = try connectNew()
        let result = try Preflight.check(old: old, new: new, mappings: mappings)
        guard result.blocking.isEmpty else { throw TestFailure("\(result.blocking)") }
        return try CaptureInstaller().install(old: old, new: new, tables: result.tables, mappings: mappings)
    }

    /// - Parameter newConninfo: another way to NEW than the straight one.
    func start(_ options: MirrorOptions = MirrorOptions(), newConninfo: String? = nil) {
        let mirror = Mirror(
            database: pair.database, oldConninfo: pair.oldConninfo, newConninfo: newConninfo ?? pair.newConninfo,
            settings: options, horizon: horizon, logger: Logger(label: "test"))
        mirror.start()
        self.mirror = mirror
    }

    func stop() {
        mirror?.stop()
        mirror = nil
    }

    /// Waits until the mirror says so.
    func wait(
        for what: String, _ file: StaticString = #fileID, _ line: UInt = #line,
        until condition: (MirrorReport) throws -> Bool
    ) throws {
        try waitUntil(what, file, line) { try condition(horizon.report) }
    }

    func waitUntilReadable(_ file: StaticString = #fileID, _ line: UInt = #line) throws {
        try wait(for: "readable", file, line) { _ in horizon.readable }
    }

    /// Waits until NEW holds everything that was committed before the call.
    func settle() throws {
        let stamp = horizon.taking
        horizon.kick()
        try wait(for: "batch \(stamp + 1)") { _ in horizon.applied > stamp }
    }

    /// Prepared, started, and equal for the first time.
    static func mirroring(
        _ schema: String, fill: String = "", options: MirrorOptions = MirrorOptions(pollMillis: 5),
        ownServers: Bool = false
    ) throws -> MirrorHarness {
        let harness = try MirrorHarness(schema: schema, ownServers: ownServers)
        if !fill.isEmpty { try harness.connectOld().execute("SET search_path = public; \(fill)") }
        try harness.prepare()
        harness.start(options)
        try harness.waitUntilReadable()
        return harness
    }

    /// A session of the application's, with the usual search path.
    func writer(_ settings: String = "") throws -> Connection {
        let connection = try connectOld()
        try connection.execute("SET search_path = public; \(settings)")
        return connection
    }

    /// Every row of every table, in key order, as text.
    static func contents(_ connection: borrowing Connection) throws -> [String: String] {
        var all: [String: String] = [:]
        for table in try CatalogReader.tables(connection) where !table.isPartition {
            let columns = table.columns.map(\.sql).joined(separator: ", ")
            let rows = try connection.query("""
                SELECT coalesce(string_agg(r, E'\\n' ORDER BY r COLLATE "C"), '')
                  FROM (SELECT ROW(\(columns))::text r FROM \(table.rows)) s
                """)
            all["\(table.name)"] = rows[0, 0]
        }
        return all
    }

    /// Tables whose rows differ, with the lines that only one side has.
    func differences() throws -> [String] {
        let old = try Self.contents(try connectOld()), new = try Self.contents(try connectNew())
        if old.isEmpty { return ["OLD has no table to compare"] }
        return old.keys.sorted().compactMap { table in
            let left = old[table] ?? "", right = new[table] ?? ""
            if left.hasSameBytes(as: right), new[table] != nil { return nil }
            func lines(_ text: String) -> Set<ExactName> { Set(text.split(separator: "\n").map { ExactName(String($0)) }) }
            func onlyIn(_ one: String, _ other: String) -> ArraySlice<String> {
                lines(one).subtracting(lines(other)).map(\.text).sorted().prefix(5)
            }
            return "\(table): only OLD \(onlyIn(left, right)), only NEW \(onlyIn(right, left))"
        }
    }
}
