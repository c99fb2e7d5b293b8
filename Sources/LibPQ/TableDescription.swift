/// A table's name, schema first. Immutable, any thread.
package struct TableName: Hashable, Sendable, Comparable, CustomStringConvertible {
    package var schema: String
    package var name: String

    package init(schema: String, name: String) {
        self.schema = schema
        self.name = name
    }

    /// Quoted, for statements.
    package var sql: String { "\(SQL.identifier(schema)).\(SQL.identifier(name))" }
    package var description: String { "\(schema).\(name)" }

    package static func < (left: TableName, right: TableName) -> Bool {
        (left.schema, left.name) < (right.schema, right.name)
    }
}

/// What the catalog says of one table, as far as carrying and comparing its rows depends on it. Immutable,
/// any thread.
package struct TableDescription: Sendable, Equatable {
    package enum Kind: String, Sendable { case ordinary = "r", partitioned = "p", foreign = "f" }
    package enum Identity: String, Sendable { case none = "", always = "a", byDefault = "d" }

    package struct Column: Sendable, Equatable {
        package var name: String
        /// As format_type writes it, qualified where it is not PostgreSQL's own.
        package var type: String
        package var isNotNull: Bool
        package var hasDefault: Bool
        package var isGenerated: Bool
        package var identity: Identity
        /// Its order depends on a collation, which may differ between servers.
        package var isCollatable: Bool
        /// PostgreSQL's own type: ordered the same on both sides unless collatable.
        package var isBuiltIn: Bool

        package var sql: String { SQL.identifier(name) }
    }

    package var oid: UInt32
    package var name: TableName
    package var kind: Kind
    package var isUnlogged: Bool
    package var isPartition: Bool
    /// Row level security would keep rows from the role that asked.
    package var hidesRows: Bool
    package var isOwned: Bool
    package var rowsEstimated: Int64
    /// Unique and exclusion constraints besides the primary key.
    package var otherUniqueIndexes: Int
    package var isKeyDeferrable: Bool
    package var columns: [Column]
    /// Names of the primary key's columns in its order; empty: none.
    package var primaryKey: [String]

    package func column(_ name: String) -> Column? { columns.first { $0.name == name } }

    package var keyColumns: [Column] { primaryKey.compactMap { column($0) } }

    /// True where both sides order the key alike, so that a range of keys is the same set on both.
    package var hasPortableKeyOrder: Bool { keyColumns.allSatisfy { $0.isBuiltIn && !$0.isCollatable } }
}

/// Reads descriptions out of the catalog. Stateless.
package enum CatalogReader {
    private static let tablesQuery = """
        SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence = 'u', c.relispartition,
               row_security_active(c.oid), pg_has_role(c.relowner, 'USAGE'), greatest(c.reltuples, 0)::bigint,
               (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid AND NOT i.indisprimary
                 AND (i.indisunique OR i.indisexclusion)),
               coalesce((SELECT NOT i.indimmediate FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary), false)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit') AND n.nspname !~ '^pg_(toast|temp)'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                              AND d.deptype = 'e')
         ORDER BY n.nspname, c.relname
        """

    private static let columnsQuery = """
        SELECT a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef,
               a.attgenerated <> '', a.attidentity, a.attcollation <> 0, a.atttypid < 16384 AND t.typtype <> 'd',
               array_position(i.indkey::int2[], a.attnum)
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_type t ON t.oid = a.atttypid
          LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f')
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit') AND n.nspname !~ '^pg_(toast|temp)'
         ORDER BY a.attrelid, a.attnum
        """

    /// All tables of the application, by name.
    package static func tables(_ connection: borrowing Connection) throws(PostgresFailure) -> [TableDescription] {
        let rows = try connection.query(tablesQuery)
        let columns = try connection.query(columnsQuery)
        var columnsOf: [String: [TableDescription.Column]] = [:]
        var keysOf: [String: [(position: Int64, name: String)]] = [:]
        for row in 0..<columns.count {
            let table = columns[row, 0] ?? "", name = columns[row, 1] ?? ""
            columnsOf[table, default: []].append(TableDescription.Column(
                name: name, type: columns[row, 2] ?? "", isNotNull: columns.flag(row, 3),
                hasDefault: columns.flag(row, 4), isGenerated: columns.flag(row, 5),
                identity: TableDescription.Identity(rawValue: columns[row, 6] ?? "") ?? .none,
                isCollatable: columns.flag(row, 7), isBuiltIn: columns.flag(row, 8)))
            if let position = columns.integer(row, 9) { keysOf[table, default: []].append((position, name)) }
        }
        return (0..<rows.count).map { row in
            let oid = rows[row, 0] ?? ""
            return TableDescription(
                oid: UInt32(oid) ?? 0, name: TableName(schema: rows[row, 1] ?? "", name: rows[row, 2] ?? ""),
                kind: TableDescription.Kind(rawValue: rows[row, 3] ?? "") ?? .ordinary,
                isUnlogged: rows.flag(row, 4), isPartition: rows.flag(row, 5), hidesRows: rows.flag(row, 6),
                isOwned: rows.flag(row, 7), rowsEstimated: rows.integer(row, 8) ?? 0,
                otherUniqueIndexes: Int(rows.integer(row, 9) ?? 0), isKeyDeferrable: rows.flag(row, 10),
                columns: columnsOf[oid] ?? [],
                primaryKey: (keysOf[oid] ?? []).sorted { $0.position < $1.position }.map(\.name))
        }
    }
}
