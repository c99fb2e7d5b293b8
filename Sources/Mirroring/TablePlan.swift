import LibPQ

/// How the rows of one table travel: the fixed parts of its statements on both sides. Immutable, any thread.
package struct TablePlan: Sendable {
    package let oid: UInt32
    let newOid: UInt32
    /// On the target, and on the source.
    package let name: TableName
    let sourceName: TableName
    package let rowsEstimated: Int64
    package let keyCount: Int
    /// Rows may be changed in place: nothing but the primary key can collide, and PostgreSQL takes ON CONFLICT there.
    let isUpsertable: Bool
    /// Something besides the primary key is unique on NEW.
    let mayCollide: Bool
    /// Both sides order the key alike: a backfill range can be deleted and copied straight into the table.
    let hasPortableKeyOrder: Bool

    /// OLD's table has partitions: see PartitionTracker.
    let isPartitioned: Bool
    /// What FROM names on OLD, and LOCK; what DELETE names on NEW.
    private let oldRows: String
    let oldLocked: String
    private let newRows: String
    /// How a mapping reads OLD's rows; nil: they have NEW's shape.
    private let view: TableDescription.View?
    var isMapped: Bool { view != nil }

    private let keys: [TableDescription.Column]
    /// The columns that travel: all but those which NEW computes.
    private let columnList: String
    let carriedNames: Set<String>
    /// Columns of OLD that decide what NEW gets.
    let sourceNames: Set<String>
    private let carried: [TableDescription.Column]
    private let keyList: String
    private let keyTexts: String
    private let valuesText: String
    private let conflictAction: String

    /// - Parameter old: in NEW's shape: see TableMappings.
    package init(old: TableDescription, new: TableDescription) {
        precondition(!old.key.isEmpty && old.key == new.key, "preflight passed no key")
        oid = old.oid
        newOid = new.oid
        name = old.name
        sourceName = old.storedName
        view = old.view
        rowsEstimated = old.rowsEstimated
        isPartitioned = old.kind == .partitioned
        oldRows = old.rows
        oldLocked = old.storedRows
        newRows = new.rows
        // What a row that is gone had for its key may be none of the domain's values any more.
        keys = old.keyColumns.map { column in
            var key = column
            // Of one name on both sides, as the domain is: a type of an extension may be in another schema there.
            if let base = column.baseType, new.column(column.name)?.baseType == base { key.type = base }
            if old.view != nil { key.type = Self.wide(key.type) }
            return key
        }
        keyCount = keys.count
        let carried = old.columns.filter { column in new.column(column.name)?.isGenerated == false }
        columnList = carried.map(\.sql).joined(separator: ", ")
        keyList = keys.map(\.sql).joined(separator: ", ")
        keyTexts = keys.map { Self.text($0) }.joined(separator: ", ")
        valuesText = Self.values(carried)
        carriedNames = Set(carried.map(\.name))
        sourceNames = old.view?.columns ?? carriedNames
        self.carried = carried
        // An identity column GENERATED ALWAYS cannot be SET; as a part of the key it needs no change either.
        let fixed = Set(new.columns.filter { $0.identity == .always }.map(\.name))
        let set = carried.filter { !fixed.contains($0.name) }.map { "\($0.sql) = EXCLUDED.\($0.sql)" }
        mayCollide = new.otherUniqueIndexes > 0
        isUpsertable = new.kind == .ordinary && !mayCollide && !new.isKeyDeferrable && !new.hasUpdateRule
            && fixed.isSubset(of: old.key)
        conflictAction = set.isEmpty ? "DO NOTHING" : "DO UPDATE SET " + set.joined(separator: ", ")
        hasPortableKeyOrder = old.hasPortableKeyOrder && new.hasPortableKeyOrder
    }

    /// A row as a parenthesised list of literals. By format: it takes a type's own output, where a cast to text may be
    /// anybody's function. It takes no more than 100 arguments at once.
    private static func values(_ columns: [TableDescription.Column]) -> String {
        let parts = stride(from: 0, to: columns.count, by: 90).map { start in
            let some = columns[start..<min(start + 90, columns.count)]
            let formats = some.map { _ in "%L" }.joined(separator: ",")
            return "format('\(formats)', \(some.map(\.sql).joined(separator: ", ")))"
        }
        return "'(' || \(parts.joined(separator: " || ',' || ")) || ')'"
    }

    /// How the rows are mapped, for what must not change behind the mirror's back; empty: not at all.
    var mappingMark: String { view.map { "\n" + $0.rows(of: $0.rows) } ?? "" }

    // MARK: keys

    /// As the captures write it down, and a literal of the type reads it: a cast to text may be anybody's function.
    private static func text(_ column: TableDescription.Column) -> String { "format('%s', \(column.sql))" }

    /// A mapping may give a key a wider type on one side. What only that one holds is asked for as well: it is extra
    /// there, or is gone by now, and the narrower type would refuse it, or cut it off, each time anew.
    private static func wide(_ type: String) -> String {
        if TableDescription.Column.integerTypes.contains(type) { return "bigint" }
        return type.hasPrefix("character varying(") && !type.hasSuffix("[]") ? "character varying" : type
    }

    /// `key IN (...)`: equality is the key type's own, so two texts of one value find one row, once.
    private func condition(_ wanted: [[String]]) -> String {
        if keyCount == 1 {
            // The parser takes an untyped literal for the column's type, but for composite types, and for regclass and
            // its kin, which are compared as numbers: it would have to be one.
            let isKnown = keys[0].isBuiltIn && !keys[0].type.hasPrefix("reg") && !isMapped
            let type = isKnown ? "" : "::\(keys[0].type)"
            return "\(keyList) IN (\(wanted.map { SQL.literal($0[0]) + type }.joined(separator: ",")))"
        }
        let tuples = wanted.map { "(" + typed($0) + ")" }
        return "(\(keyList)) IN (VALUES \(tuples.joined(separator: ",")))"
    }

    private func typed(_ key: [String]) -> String {
        precondition(key.count == keyCount, "a key of \(key.count) parts for \(name)")
        return zip(key, keys).map { "\(SQL.literal($0))::\($1.type)" }.joined(separator: ", ")
    }

    // MARK: source

    /// Key texts, then the row as a parenthesised list of literals: NULL once all so far are beyond `bytesMax`.
    func selectRows(_ wanted: [[String]], bytesMax: Int) -> String {
        let texts = keys.enumerated().map { "\(Self.text($1)) AS k\($0)" }.joined(separator: ", ")
        let names = keys.indices.map { "k\($0)" }.joined(separator: ", ")
        return """
            SELECT \(names), CASE WHEN sum(octet_length(v)) OVER (ROWS UNBOUNDED PRECEDING) <= \(bytesMax) THEN v END \
            FROM (SELECT \(once)\(texts), \(valuesText) AS v FROM \(oldRows) t WHERE \(condition(wanted)) OFFSET 0) s
            """
    }

    /// Where a collation takes several texts for one, PostgreSQL tells those that are looked for apart by another
    /// collation before it looks, and finds a row by each of them.
    private var once: String {
        guard keys.contains(where: \.isLoose) else { return "" }
        return "DISTINCT ON (\(keys.map { Self.text($0) + " COLLATE \"C\"" }.joined(separator: ", "))) "
    }

    private func distinctKeys(_ unseen: String) -> String {
        let parts = keys.enumerated().map { "key[\($0 + 1)]::\($1.type) AS k\($0)" }.joined(separator: ", ")
        let order = (1...keyCount).map { "\($0)" }.joined(separator: ", ")
        return "SELECT DISTINCT \(parts) FROM (\(unseen)) j WHERE key IS NOT NULL ORDER BY \(order)"
    }

    /// The distinct keys that the journal names, for COPY into NEW's staging table. In their order, and so are the
    /// rows: both servers then find page after page instead of one here and one there.
    ///
    /// Distinct are their texts where a type has an equality of its own that is not the one that rows are found by: of
    /// two that citext takes for one, either may have a row.
    func copyKeys(from unseen: String) -> String {
        guard keys.contains(where: \.isCollatable) else { return "COPY (\(distinctKeys(unseen))) TO STDOUT" }
        let parts = keys.enumerated().map { "key[\($0 + 1)]::\($1.type) AS k\($0)" }.joined(separator: ", ")
        let order = (1...keyCount).map { "\($0)" }.joined(separator: ", ")
        return """
            COPY (SELECT \(parts) FROM (SELECT DISTINCT key FROM (\(unseen)) j WHERE key IS NOT NULL) d \
            ORDER BY \(order)) TO STDOUT
            """
    }

    func copyRows(from unseen: String) -> String {
        // Two keys that a column's collation takes for one would bring the row twice.
        if keys.contains(where: \.isCollatable) {
            let parts = keys.enumerated().map { "key[\($0 + 1)]::\($1.type)" }.joined(separator: ", ")
            return """
                COPY (SELECT \(once)\(columnList) FROM \(oldRows) t WHERE (\(keyList)) IN \
                (SELECT \(parts) FROM (\(unseen)) j WHERE key IS NOT NULL)\
                \(once.isEmpty ? " ORDER BY \(keyList)" : "")) TO STDOUT
                """
        }
        let columns = carried.map { "t.\($0.sql)" }.joined(separator: ", ")
        let same = keys.enumerated().map { "t.\($1.sql) = k.k\($0)" }.joined(separator: " AND ")
        return """
            COPY (SELECT \(columns) FROM (\(distinctKeys(unseen))) k JOIN \(oldRows) t ON \(same)) TO STDOUT
            """
    }

    /// Whether a backlog's rows may come a part at a time, each with its deletes before its rows: only the key can
    /// collide, and only with itself, for both sides mean the same by equal keys and by their order.
    var comesInParts: Bool { isUpsertable && hasPortableKeyOrder && !isMapped }

    /// Every key that the journal names: whether there is a row, the key, the row. In the order of the keys.
    func copyKeyedRows(from unseen: String) -> String {
        let names = keys.indices.map { "k.k\($0)" }.joined(separator: ", ")
        let columns = carried.map { "t.\($0.sql)" }.joined(separator: ", ")
        let same = keys.enumerated().map { "t.\($1.sql) = k.k\($0)" }.joined(separator: " AND ")
        return """
            COPY (SELECT t.\(keys[0].sql) IS NOT NULL, \(names), \(columns) \
            FROM (\(distinctKeys(unseen))) k LEFT JOIN \(oldRows) t ON \(same) ORDER BY \(names)) TO STDOUT
            """
    }

    /// On NEW.
    func hasRows(from first: [String], through last: [String]) -> String {
        """
        SELECT EXISTS (SELECT FROM \(newRows) \
        WHERE (\(keyList)) >= (\(typed(first))) AND (\(keyList)) <= (\(typed(last))))
        """
    }

    // MARK: backfill

    private func range(after: [String]?, through: [String]?) -> String {
        var parts: [String] = []
        if let after { parts.append("(\(keyList)) > (\(typed(after)))") }
        if let through { parts.append("(\(keyList)) <= (\(typed(through)))") }
        return parts.isEmpty ? "true" : parts.joined(separator: " AND ")
    }

    /// The last key of the next `rows` rows; no row when fewer are left. The order is by the columns, not by their
    /// texts, which have the same names in the result.
    func selectRangeEnd(after: [String]?, rows: Int) -> String {
        """
        SELECT \(keyTexts) FROM \(oldRows) t WHERE \(range(after: after, through: nil)) \
        ORDER BY \(keys.map { "t.\($0.sql)" }.joined(separator: ", ")) OFFSET \(rows - 1) LIMIT 1
        """
    }

    func copyRange(after: [String]?, through: [String]?) -> String {
        "COPY (SELECT \(columnList) FROM \(oldRows) t WHERE \(range(after: after, through: through))) TO STDOUT"
    }

    /// The rows of one partition, or of all.
    func copyPartition(_ leaf: TableName?) -> String {
        let rows = leaf.map { leaf in
            let stored = "ONLY \(leaf.sql)"
            return view?.rows(of: stored) ?? stored
        }
        return "COPY (SELECT \(columnList) FROM \(rows ?? oldRows) t) TO STDOUT"
    }

    /// The rows of a partition that we may read through its root only.
    func copyRows(where condition: String) -> String {
        "COPY (SELECT \(columnList) FROM \(oldRows) t WHERE \(condition)) TO STDOUT"
    }

    /// Of a partition's condition; the columns of it are columns of the key. False: it compares values by an order that
    /// is each side's own.
    func hasPortableOrder(in condition: String) -> Bool {
        guard condition.contains("<") || condition.contains(">") else { return true }
        // By whole words, for `id` is a part of `valid_from`. What is no word is written in quotes.
        let words = Set(condition.split { !($0.isLetter || $0.isNumber || $0 == "_") }.map(String.init))
        return keys.allSatisfy { key in
            key.hasPortableOrder || !words.contains(key.name) && !condition.contains(key.sql)
        }
    }

    func deletePartition(_ condition: String) -> String { "DELETE FROM \(newRows) WHERE \(condition)" }

    func deleteRange(after: [String]?, through: [String]?) -> String {
        "DELETE FROM \(newRows) WHERE \(range(after: after, through: through))"
    }

    // MARK: target

    func deleteKeys(_ doomed: [[String]]) -> String {
        "DELETE FROM \(newRows) WHERE \(condition(doomed))"
    }

    var deleteAll: String { "DELETE FROM \(newRows)" }

    /// `INSERT ... VALUES`; the row lists follow, then `insertEnd`.
    var insertStart: String { "INSERT INTO \(name.sql) (\(columnList)) OVERRIDING SYSTEM VALUE VALUES " }
    var insertEnd: String { isUpsertable ? " ON CONFLICT (\(keyList)) \(conflictAction)" : "" }

    private var staging: String { "pg_temp.godwit_keys_\(oid)" }
    private var stagingRows: String { "pg_temp.godwit_rows_\(oid)" }

    /// Session-local and emptied at each commit.
    var createStaging: String {
        "CREATE TEMP TABLE IF NOT EXISTS godwit_keys_\(oid) ON COMMIT DELETE ROWS AS "
            + "SELECT \(stagedKeys) FROM \(newRows) WITH NO DATA"
    }
    private var stagedKeys: String {
        keys.map { key in
            key.baseType == nil && !isMapped ? key.sql : "\(key.sql)::\(key.type) AS \(key.sql)"
        }.joined(separator: ", ")
    }
    var copyIntoStaging: String { "COPY \(staging) FROM STDIN" }
    var deleteStaged: String {
        "DELETE FROM \(newRows) WHERE (\(keyList)) IN (SELECT \(keyList) FROM \(staging))"
    }

    var emptyStaging: String { "TRUNCATE \(staging)" }
    var emptyStagingRows: String { "TRUNCATE \(stagingRows)" }
    var upsertStaged: String {
        "INSERT INTO \(name.sql) (\(columnList)) OVERRIDING SYSTEM VALUE SELECT \(columnList) FROM \(stagingRows)"
            + insertEnd
    }

    var createStagingRows: String {
        "CREATE TEMP TABLE IF NOT EXISTS godwit_rows_\(oid) ON COMMIT DELETE ROWS AS "
            + "SELECT \(columnList) FROM \(newRows) WITH NO DATA"
    }
    var copyIntoStagingRows: String { "COPY \(stagingRows) (\(columnList)) FROM STDIN" }
    /// Rows that a dirty key brought earlier are right already: every later change made their keys dirty
    /// again.
    var insertMissing: String {
        let rows = "INSERT INTO \(name.sql) (\(columnList)) OVERRIDING SYSTEM VALUE "
            + "SELECT \(columnList) FROM \(stagingRows) s"
        // A key that NEW computes is not among the columns of a staged row.
        if !keys.allSatisfy({ carriedNames.contains($0.name) }) { return "\(rows) ON CONFLICT (\(keyList)) DO NOTHING" }
        let same = keys.map { "t.\($0.sql) = s.\($0.sql)" }.joined(separator: " AND ")
        return "\(rows) WHERE NOT EXISTS (SELECT FROM \(newRows) t WHERE \(same))"
    }
    var copyIntoTable: String { "COPY \(name.sql) (\(columnList)) FROM STDIN" }
}
