import LibPQ

/// Keeps NEW's sequences ahead of OLD's by some head room, so that NEW can take over at any time.
/// Used by the mirror's thread, between batches.
struct SequenceRaiser {
    /// Values (times the increment) that OLD may hand out between two raises without passing NEW.
    static let headRoom: Int64 = 1000

    private var seen: [TableName: Int64] = [:]

    static let valuesQuery = """
        SELECT schemaname, sequencename, last_value, increment_by FROM pg_sequences
         WHERE last_value IS NOT NULL AND schemaname <> 'godwit'
        """

    /// One statement for each sequence of `valuesQuery`.
    static func raiseTexts(_ rows: Rows) -> [String] {
        (0..<rows.count).compactMap { row in
            guard let last = rows.integer(row, 2), let increment = rows.integer(row, 3) else { return nil }
            let name = TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? "")
            return raiseText(name, last: last, increment: increment)
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
            statements.append(Self.raiseText(name, last: last, increment: increment))
            moved.append((name, last))
        }
        guard !statements.isEmpty else { return }
        _ = try applier.query(statements.joined(separator: ";\n"))
        for (name, last) in moved { seen[name] = last }
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
