import LibPQ

/// Keeps NEW's sequences ahead of OLD's by some head room, so that NEW can take over at any time.
/// Used by the mirror's thread, between batches.
struct SequenceRaiser {
    /// Values (times the increment) that OLD may hand out between two raises without passing NEW, where NEW's bound is
    /// far enough.
    static let headRoom: Int64 = 1000

    private var seen: [TableName: Int64] = [:]
    private var uncalled: [TableName] = []
    /// Of the source, by its names: what they are called on the target.
    private let renamed: [TableName: TableName]

    init(renamed: [TableName: TableName] = [:]) { self.renamed = renamed }

    /// Where the source's sequences stand.
    struct Reading {
        struct Sequence {
            var name: TableName
            /// Drawn last.
            var last: Int64
            var increment: Int64
        }

        /// Not by to_regclass, which fails where we may not look into the schema.
        static let query = """
            SELECT s.schemaname, s.sequencename, s.last_value, s.increment_by, s.start_value,
                   has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
              FROM pg_sequences s JOIN pg_namespace n ON n.nspname = s.schemaname
              JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
             WHERE s.schemaname <> 'godwit' ORDER BY 1, 2
            """

        private(set) var sequences: [Sequence] = []
        /// From which nothing was drawn since they were made, or set to a value that is to come next
        /// (`setval(…, false)`, RESTART WITH); pg_sequences does not tell at which.
        private var uncalled: [(name: TableName, increment: Int64, start: Int64)] = []
        /// Nobody may know where they stand.
        private(set) var hidden: [TableName] = []

        /// - Parameter rows: of `query`.
        init(_ rows: Rows) {
            for row in 0..<rows.count {
                let name = TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? "")
                guard let increment = rows.integer(row, 3), let start = rows.integer(row, 4) else { continue }
                if let last = rows.integer(row, 2) {
                    sequences.append(Sequence(name: name, last: last, increment: increment))
                } else if rows.flag(row, 5) {
                    uncalled.append((name, increment, start))
                } else {
                    hidden.append(name)
                }
            }
        }

        var uncalledNames: [TableName] { uncalled.map(\.name) }

        /// Each of some: PostgreSQL plans a UNION in time that grows with the square of its parts, and has no stack for
        /// thousands; and each sequence is locked until the query's end.
        var uncalledQueries: [String] {
            stride(from: 0, to: uncalled.count, by: Self.queryPartsMax).map { start in
                (start..<min(start + Self.queryPartsMax, uncalled.count))
                    .map { "SELECT \($0), last_value, is_called FROM \(uncalled[$0].name.sql)" }
                    .joined(separator: " UNION ALL ")
            }
        }
        static let queryPartsMax = 200

        /// - Parameter rows: of one of `uncalledQueries`.
        mutating func add(uncalled rows: Rows) {
            for row in 0..<rows.count {
                guard let index = rows.integer(row, 0), let value = rows.integer(row, 1) else { continue }
                let (name, increment, start) = uncalled[Int(index)]
                if rows.flag(row, 2) {
                    sequences.append(Sequence(name: name, last: value, increment: increment))
                } else if value != start {
                    let before = value.subtractingReportingOverflow(increment)
                    sequences.append(Sequence(
                        name: name, last: before.overflow ? value : before.partialValue, increment: increment))
                }
            }
        }
    }

    /// One statement for each.
    static func raiseTexts(_ sequences: [Reading.Sequence], renamed: [TableName: TableName]) -> [String] {
        sequences.map { raiseText(renamed[$0.name] ?? $0.name, last: $0.last, increment: $0.increment) }
    }

    /// Raises what has moved on OLD since the last call. A sequence that NEW lacks is passed over.
    mutating func raise(from reader: BatchReader, on applier: BatchApplier) throws(PostgresFailure) {
        var reading = Reading(try reader.query(Reading.query))
        // There may be thousands that nobody uses: where they stand is read when they are others than before, and by a
        // switch.
        if reading.uncalledNames != uncalled {
            for query in reading.uncalledQueries { reading.add(uncalled: try reader.query(query)) }
        }
        let moved = reading.sequences.filter { seen[$0.name] != $0.last }
        if !moved.isEmpty {
            _ = try applier.query(Self.raiseTexts(moved, renamed: renamed).joined(separator: ";\n"))
        }
        for sequence in moved { seen[sequence.name] = sequence.last }
        uncalled = reading.uncalledNames
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

    /// Of what the sequence has left no more than half is skipped: it is to have values to give, in the source's steps.
    private static func raiseText(_ name: TableName, last: Int64, increment: Int64) -> String {
        let (bound, nearer, isBehind) = increment < 0 ? ("min_value", "greatest", ">") : ("max_value", "least", "<")
        let (from, step) = ("'\(last)'::numeric", "'\(increment)'::numeric")
        return """
            SELECT setval(to_regclass(\(SQL.literal(name.sql))), wanted) FROM pg_sequences,
                LATERAL (SELECT least(\(headRoom), greatest(0, trunc((\(bound) - \(from)) / 2 / \(step)))) AS steps) s,
                LATERAL (SELECT \(nearer)(\(from) + steps * \(step), \(bound))::bigint AS wanted) w
             WHERE schemaname = \(SQL.literal(name.schema)) AND sequencename = \(SQL.literal(name.name))
               AND (last_value IS NULL OR last_value \(isBehind) wanted)
            """
    }
}
