import LibPQ

/// A part of one table: a range of keys, of which only those whose hash ends in certain bits. Immutable, any
/// thread.
package struct KeySlice: Sendable, Equatable, Hashable {
    /// Exclusive; nil: from the first key.
    package var after: [String]?
    /// Inclusive; nil: to the last key.
    package var through: [String]?
    /// How many low bits of the key's hash are fixed, and to what.
    package var bits = 0
    package var bucket: UInt64 = 0

    package init(after: [String]? = nil, through: [String]? = nil) {
        self.after = after
        self.through = through
    }

    /// The slices that this one falls into when `more` further bits are looked at; `bucket` is of all bits
    /// together.
    package func part(bucket: UInt64, more: Int) -> KeySlice {
        precondition(bucket & ((1 << UInt64(bits)) - 1) == self.bucket, "a bucket outside of its slice")
        var part = self
        part.bits = bits + more
        part.bucket = bucket
        return part
    }
}

/// Statements that walk one side's table slice by slice: on the other the same, but for where the rows come from. Pure,
/// any thread.
///
/// Ranges are used where both servers order the key alike (no collation in it). Other tables are one range,
/// split by the hash of the key's text, which is the same everywhere.
package struct KeyRangePlan: Sendable {
    package let name: TableName
    package let oid: UInt32
    package let isRanged: Bool
    package let keyCount: Int
    private let keys: [TableDescription.Column]
    private let keyList: String
    /// As the captures write them down: a cast to text may be anybody's function.
    private let keyTexts: String
    private let rowText: String
    /// The columns' values as c0, c1 ..., and two hashes of all of them.
    private let valueList: String
    private let rowHashes: [String]
    /// Keeps the server from working a value out for each hash anew.
    private let once: String
    private let source: String

    /// - Parameter table: OLD's description, in NEW's shape where it is mapped: its columns in its order are what is
    ///   compared.
    /// - Parameter rows: what FROM names; nil: the table's own.
    /// - Parameter hashes: of the table's columns, in their order.
    package init(_ table: TableDescription, rows: String? = nil, hashes columns: [ColumnHash]) {
        precondition(!table.key.isEmpty, "\(table.name) has no key to walk along")
        name = table.name
        oid = table.oid
        keys = table.keyColumns
        keyCount = keys.count
        source = rows ?? table.rows
        isRanged = table.hasPortableKeyOrder
        keyList = keys.map(\.sql).joined(separator: ", ")
        keyTexts = keys.map { "format('%s', \($0.sql))" }.joined(separator: ", ")
        valueList = columns.enumerated().map { "\($1.value) c\($0)" }.joined(separator: ", ")
        rowHashes = [(0, true), (4417, false)].map { Self.rowHash(columns, seed: $0, isFirst: $1) }
        let isCheap = table.view == nil && columns.allSatisfy(\.isCheap)
        once = isCheap ? "" : " OFFSET 0"
        rowText = "ROW(\(table.columns.map(\.sql).joined(separator: ", ")))::text COLLATE \"C\""
    }

    /// What is compared.
    var text: String { "\(keyList) \(rowText) FROM \(source)" }

    private var keyHash: String { "hashtextextended(ROW(\(keyList))::text COLLATE \"C\", 13)" }

    /// - Parameter slices: of one range, with as many bits.
    private func condition(_ slices: [KeySlice]) -> String {
        guard let slice = slices.first else { return "false" }
        func typed(_ key: [String]) -> String {
            zip(key, keys).map { "\(SQL.literal($0))::\($1.type)" }.joined(separator: ", ")
        }
        var parts: [String] = []
        if let after = slice.after { parts.append("(\(keyList)) > (\(typed(after)))") }
        if let through = slice.through { parts.append("(\(keyList)) <= (\(typed(through)))") }
        if slice.bits > 0 {
            let buckets = slices.map { "\($0.bucket)" }.joined(separator: ",")
            parts.append("(\(keyHash) & \((1 << slice.bits) - 1)) IN (\(buckets))")
        }
        return parts.isEmpty ? "true" : parts.joined(separator: " AND ")
    }

    /// The last key of the next `rows` rows; no row when fewer are left. The order is by the columns, not by their
    /// texts, which have the same names in the result.
    package func rangeEnd(after: [String]?, rows: Int) -> String {
        """
        SELECT \(keyTexts) FROM \(source) t \
        WHERE \(condition([KeySlice(after: after)])) ORDER BY \(keys.map { "t.\($0.sql)" }.joined(separator: ", ")) \
        OFFSET \(rows - 1) LIMIT 1
        """
    }

    /// Bucket, rows, and two sums of hashes for each part of the slices by `more` further bits of the key's
    /// hash.
    ///
    /// - Parameter slices: of one range, with as many bits.
    package func digest(_ slices: [KeySlice], more: Int) -> String {
        let all = (slices.first?.bits ?? 0) + more
        let sums = "count(*), " + rowHashes.map { "sum(\($0))" }.joined(separator: ", ")
        let rest = "FROM \(source) t WHERE \(condition(slices))\(once)"
        // Groups take a fifth of the time.
        return all == 0 ? "SELECT 0, \(sums) FROM (SELECT \(valueList) \(rest)) s" : """
            SELECT b, \(sums) FROM (SELECT \(keyHash) & \((1 << all) - 1) b, \(valueList) \(rest)) s GROUP BY b
            """
    }

    /// Each column has a seed of its own, so that values do not change places unseen; and all of them are hashed once
    /// more, so that values of two rows do not.
    private static func rowHash(_ columns: [ColumnHash], seed: Int, isFirst: Bool) -> String {
        let hashes = columns.enumerated().map { $1.hash("c\($0)", seed: seed + $0, isFirst: isFirst) }
        return "hashint8extended(\(hashes.joined(separator: " # ")), \(seed))"
    }

    /// Characters of a row's text that are shown of a difference.
    package static let shownMax = 500

    /// Key texts, both hashes, and the start of the text of every row of the slices.
    package func rows(_ slices: [KeySlice]) -> String {
        """
        SELECT \(keyTexts), hashtextextended(\(rowText), 0), \
        hashtextextended(\(rowText), 4417), left(\(rowText), \(Self.shownMax)) FROM \(source) t \
        WHERE \(condition(slices))
        """
    }
}
