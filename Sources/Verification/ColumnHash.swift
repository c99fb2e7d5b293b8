import LibPQ

/// How a column's values are hashed by the servers: by their bytes where both sides have one kind of type, whose equal
/// texts are equal bytes and the other way about; by the type's text otherwise. Immutable, any thread.
///
/// Column by column takes two thirds of the time of a whole row's text, and bytes less than that of a column's text.
package struct ColumnHash: Sendable {
    enum Kind: Sendable {
        case integer, boolean, text, blankPadded, uuid, timestamp, timestampWithZone
        /// Anything: 1.0 and 1.00, or 0 and -0, are equal to their types, and are not the same.
        case other

        /// - Parameter type: as format_type writes it.
        init(_ type: String) {
            switch type {
            // It has its elements' modifier in its name: varchar(10)[].
            case _ where type.hasSuffix("[]"): self = .other
            case _ where TableDescription.Column.integerTypes.contains(type): self = .integer
            case "boolean": self = .boolean
            case "text", "character varying": self = .text
            case _ where type.hasPrefix("character varying("): self = .text
            case "bpchar", "character": self = .blankPadded
            case _ where type.hasPrefix("character("): self = .blankPadded
            case "uuid": self = .uuid
            case _ where type.hasPrefix("timestamp") && type.hasSuffix(" without time zone"): self = .timestamp
            case _ where type.hasPrefix("timestamp") && type.hasSuffix(" with time zone"): self = .timestampWithZone
            default: self = .other
            }
        }
    }

    private let kind: Kind
    /// What is hashed.
    let value: String
    /// Bytes of a whole number: PostgreSQL's hashes of one are the same in each size.
    private let integerSize: Int

    /// - Parameter type: what the column is where it is read, as format_type writes it; nil: not known.
    init(_ column: TableDescription.Column, _ kind: Kind, type: String?) {
        self.kind = kind
        integerSize = switch type {
        case "integer": 4
        case "smallint": 2
        default: 8
        }
        value = switch kind {
        case .integer: type == nil ? "\(column.sql)::bigint" : column.sql
        case .boolean: "\(column.sql)::int::bigint"
        case .text, .blankPadded: "\(column.sql) COLLATE \"C\""
        case .uuid, .timestamp: column.sql
        case .timestampWithZone: "\(column.sql) AT TIME ZONE 'UTC'"
        // A composite value with a NULL in it is not NULL. concat gives what the type's output function gives; a cast
        // to text takes blanks away from character(n).
        case .other: "CASE WHEN \(column.sql) IS DISTINCT FROM NULL THEN concat(\(column.sql)) END COLLATE \"C\""
        }
    }

    /// It costs next to nothing, so that it may be worked out for each hash anew.
    var isCheap: Bool {
        switch kind {
        case .integer, .boolean, .text, .blankPadded, .uuid, .timestamp: true
        case .timestampWithZone, .other: false
        }
    }

    /// - Parameter name: of what is hashed.
    /// - Parameter isFirst: of a row's two hashes.
    func hash(_ name: String, seed: Int, isFirst: Bool) -> String {
        let hash = switch kind {
        case .integer: integerHash(name, seed: seed, isFirst: isFirst)
        case .boolean: "hashint8extended(\(name), \(seed))"
        case .text, .other: "hashtextextended(\(name), \(seed))"
        // It takes no notice of blanks at the end: their number is part of one seed, which is enough to see a change.
        case .blankPadded:
            "hashbpcharextended(\(name), " + (isFirst ? "(octet_length(\(name))::bigint << 32) + \(seed))" : "\(seed))")
        case .uuid: "uuid_hash_extended(\(name), \(seed))"
        case .timestamp, .timestampWithZone: "timestamp_hash_extended(\(name), \(seed))"
        }
        return "coalesce(\(hash), \(seed))"
    }

    /// PostgreSQL lays the halves of a bigint over each other and hashes that: 1 and 1 << 32, or -1 and 4294967295, are
    /// one to it, whatever the seed. So the second hash is of the lower half, with the upper one in its seed.
    private func integerHash(_ name: String, seed: Int, isFirst: Bool) -> String {
        let function = "hashint\(integerSize)extended"
        if isFirst { return "\(function)(\(name), \(seed))" }
        let lower = integerSize == 8 ? "\(name) & 4294967295" : name
        return "\(function)(\(lower), \(seed) + (\(name) >> \(min(32, integerSize * 8 - 1))))"
    }
}
