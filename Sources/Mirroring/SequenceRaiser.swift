import LibPQ

/// Keeps NEW's sequences ahead of OLD's by some head room, so that NEW can take over at any time.
/// Used by the mirror's thread, between batches.
struct SequenceRaiser {
    /// Values (times the increment) that OLD may hand out between two raises without passing NEW.
    static let headRoom: Int64 = 1000

    private var seen: [TableName: Int64] = [:]
    /// Of the source, by its names: what they are called on the target.
    private let renamed: [TableName: TableName]

    init(renamed: [TableName: TableName] = [:]) { self.renamed = renamed }

    static let valuesQuery = """
        SELECT schemaname, sequencename, last_value, increment_by FROM pg_sequences
         WHERE last_value IS NOT NULL AND schemaname <> 'godwit'
        """

    /// One statement for each sequence of `valuesQuery`.
    static func raiseTexts(_ rows: Rows, renamed: [TableName: TableName] = [:]) -> [String] {
        (0..<rows.count).compactMap { row in
            guard let last = rows.integer(row, 2), let increment = rows.integer(row, 3) else { return nil }
            let name = TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? "")
            return raiseText(renamed[name] ?? name, last: last, increment: increment)
        }
    }

    /// Raises what has moved on OLD since the last call. A sequence that NEW lacks is passed over.
    mutating func raise(from reader: BatchReader, on applier: BatchApplier) throws(PostgresFailure) {
        let rows = try reader.query(Self.valuesQuery)
        var statements: [String] = []
        var moved: [(TableName, Int64)] = []
        for row in 0..<rows.count {
            let name = TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? "")
            guard let last = rows.integer(row, 2), let increment = rows.integer(row, 3), seen[name] != last else {
                continue
            }
            statements.append(Self.raiseText(renamed[name] ?? name, last: last, increment: increment))
            moved.append((name, last))
        }
        guard !statements.isEmpty else { return }
        _ = try applier.query(statements.joined(separator: ";\n"))
        for (name, last) in moved { seen[name] = last }
    }

    // MARK: names

    /// Sequences that belong to a column: their own names, the table's, and the column's.
    private static let ownedQuery = """
        SELECT sn.nspname, s.relname, tn.nspname, t.relname, a.attname FROM pg_depend d
          JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
          JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
          JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
         ORDER BY 1, 2
        """

    /// The sequence of a mapped column is the one of the column that it goes to, whatever it is called.
    ///
    /// - Parameter pairs: tables as they are, and as the target is to have them.
    static func renamed<Failure: Error>(
        _ pairs: [(source: TableDescription, shape: TableDescription)], source: (String) throws(Failure) -> Rows?,
        target: (String) throws(Failure) -> Rows?
    ) throws(Failure) -> [TableName: TableName] {
        let mapped = pairs.filter { $0.shape.view != nil }
        guard !mapped.isEmpty, let ours = try source(ownedQuery), let theirs = try target(ownedQuery) else {
            return [:]
        }
        var found: [TableName: TableName] = [:]
        for row in 0..<ours.count {
            let table = TableName(schema: ours[row, 2] ?? "", name: ours[row, 3] ?? "")
            guard let shape = mapped.first(where: { $0.source.name == table })?.shape,
                let column = shape.view?.targets[ours[row, 4] ?? ""]
            else { continue }
            let wanted = [shape.name.schema, shape.name.name, column]
            for twin in 0..<theirs.count where (2...4).map({ theirs[twin, $0] ?? "" }) == wanted {
                found[TableName(schema: ours[row, 0] ?? "", name: ours[row, 1] ?? "")] = TableName(
                    schema: theirs[twin, 0] ?? "", name: theirs[twin, 1] ?? "")
            }
        }
        return found
    }

    private static func raiseText(_ name: TableName, last: Int64, increment: Int64) -> String {
        let wanted = last.addingReportingOverflow(increment.multipliedReportingOverflow(by: headRoom).partialValue)
        let isDown = increment < 0
        let value = wanted.overflow ? (isDown ? Int64.min : Int64.max) : wanted.partialValue
        let bounded = isDown ? "greatest(\(value), min_value)" : "least(\(value), max_value)"
        return """
            SELECT setval(to_regclass(\(SQL.literal(name.sql))), \(bounded)) FROM pg_sequences
             WHERE schemaname = \(SQL.literal(name.schema)) AND sequencename = \(SQL.literal(name.name))
               AND (last_value IS NULL OR last_value \(isDown ? ">" : "<") \(bounded))
            """
    }
}
