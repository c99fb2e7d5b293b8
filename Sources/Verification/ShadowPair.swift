import LibPQ
import Primitives

/// Pairs of snapshots that show both sides at one moment, one after the other, on sessions that last. Used by one
/// thread; after a failure it is of no more use.
///
/// What makes a pair sound is told at PairedSnapshots.
final class ShadowPair {
    /// Seconds that a running mirror may take to hold. Its batches are mostly shorter than a tenth of one.
    private static let patienceSeconds = 3
    private static let triesMax = 3

    /// On the authority.
    private let control: Connection
    private let source: Connection
    private let target: Connection

    /// In what is thrown the authority is called OLD.
    ///
    /// - Parameters:
    ///   - source: the authority, with rights as the mirror has them.
    ///   - target: the other side.
    init(source: ConnectionString, target: ConnectionString, interrupt: CInt) throws(VerifyFailure) {
        control = try Self.connect(source, "OLD", [:], interrupt)
        // A table that somebody wants for himself is left to him.
        self.source = try Self.connect(source, "OLD", ["lock_timeout": "100ms"], interrupt)
        self.target = try Self.connect(target, "NEW", [:], interrupt)
    }

    private static func connect(
        _ target: ConnectionString, _ side: String, _ settings: [String: String], _ interrupt: CInt
    ) throws(VerifyFailure) -> Connection {
        do throws(PostgresFailure) {
            return try Connection.open(target, purpose: "shadow", settings: settings, interrupt: interrupt)
        } catch {
            throw .side(side, error)
        }
    }

    /// - Returns: names under which others can join the two snapshots, until `release`.
    func take() throws(VerifyFailure) -> (source: String, target: String) {
        let lock = try lockStatement()
        for _ in 0..<Self.triesMax {
            if try PairedSnapshots.join(
                control: control, old: source, new: target, lock: lock, patienceSeconds: Self.patienceSeconds) != nil
            {
                return (try PairedSnapshots.export(source, "OLD"), try PairedSnapshots.export(target, "NEW"))
            }
            try release()
        }
        throw .pairingLost(tries: Self.triesMax)
    }

    func release() throws(VerifyFailure) {
        try onSide("OLD") { () throws(PostgresFailure) in try source.execute("ROLLBACK") }
        try onSide("NEW") { () throws(PostgresFailure) in try target.execute("ROLLBACK") }
    }

    /// Somebody waits for a table: the pair may be what stands in the way.
    func isInTheWay() throws(VerifyFailure) -> Bool {
        try onSide("OLD") { () throws(PostgresFailure) in
            try control.query("""
                SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'
                   AND mode = 'AccessExclusiveLock'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                """).flag(0, 0)
        }
    }

    /// Of all that is mirrored: TRUNCATE would empty a table under an older snapshot.
    private func lockStatement() throws(VerifyFailure) -> String {
        let tables = try onSide("NEW") { () throws(PostgresFailure) -> Rows? in
            guard try target.hasRelation("godwit.backfill") else { return nil }
            return try target.query("SELECT schema_name, table_name, is_copied FROM godwit.backfill ORDER BY 1, 2")
        }
        guard let tables else { throw .notPrepared }
        var names: [String] = [], uncopied: [String] = []
        for row in 0..<tables.count {
            let name = TableName(schema: tables[row, 0] ?? "", name: tables[row, 1] ?? "")
            names.append(name.sql)
            if !tables.flag(row, 2) { uncopied.append(name.description) }
        }
        if !uncopied.isEmpty { throw .backfilling(uncopied) }
        // A mapped table has another name here; its reads are not compared.
        let known = try onSide("OLD") { () throws(PostgresFailure) in
            try control.query("SELECT n FROM unnest(\(SQL.array(names))) n WHERE to_regclass(n) IS NOT NULL ORDER BY 1")
        }
        names = (0..<known.count).map { known[$0, 0] ?? "" }
        return names.isEmpty ? "" : "LOCK TABLE \(names.joined(separator: ", ")) IN ACCESS SHARE MODE;"
    }
}
