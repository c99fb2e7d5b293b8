import Primitives

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

    /// By bytes, as PostgreSQL tells names apart.
    package static func == (left: TableName, right: TableName) -> Bool {
        left.name.hasSameBytes(as: right.name) && left.schema.hasSameBytes(as: right.schema)
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(ExactName(schema))
        hasher.combine(ExactName(name))
    }

    package static func < (left: TableName, right: TableName) -> Bool {
        left.schema.hasSameBytes(as: right.schema)
            ? left.name.utf8.lexicographicallyPrecedes(right.name.utf8)
            : left.schema.utf8.lexicographicallyPrecedes(right.schema.utf8)
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
        /// PostgreSQL's own type.
        package var isBuiltIn: Bool
        /// Its collation, or that of the key's index, takes other texts for the same.
        package var isLoose = false
        /// Of a domain: what it is made of, without a length.
        package var baseType: String? = nil

        package var sql: String { SQL.identifier(name) }

        /// Ordered the same on both sides. The texts in a jsonb are in the order of the database's collation, and names
        /// of the catalog (regclass and its kin) in that of the numbers they have there.
        package var hasPortableOrder: Bool {
            isBuiltIn && !isCollatable && !type.hasPrefix("jsonb") && !type.hasPrefix("reg")
        }

        /// As format_type writes them: the types of whole numbers.
        package static let integerTypes: Set = ["smallint", "integer", "bigint"]

        /// Types of one family have the same texts for the same values, in the same order.
        package static func family(of type: String) -> String {
            if integerTypes.contains(type) { return "integer" }
            return type.hasPrefix("character varying") && !type.hasSuffix("[]") ? "text" : type
        }
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
    /// The table that this one inherits from, other than as its partition.
    package var inheritsFrom: String?
    /// A partition, at any depth, is a foreign or an unlogged table.
    package var hasUnfitPartition: Bool
    /// Unique and exclusion constraints besides the key; also those that only partitions have, and the key's own where
    /// it is WITHOUT OVERLAPS: rows of other keys are in each other's way then, and ON CONFLICT does not know it.
    package var otherUniqueIndexes: Int
    package var isKeyDeferrable: Bool
    /// It has a rule for UPDATE, enabled or not: PostgreSQL refuses INSERT ... ON CONFLICT on it in any role.
    package var hasUpdateRule = false
    package var columns: [Column]
    /// Names of the key's columns in its order; empty: none. The primary key, or else a unique index that tells
    /// rows apart as well: no column of it may be NULL, it is immediate, and has neither predicate nor expression.
    package var key: [String]
    /// Where the columns and the name are another table's: how its rows are read. See TableMappings.
    package var view: View? = nil

    /// A table's rows in another shape.
    package struct View: Sendable, Equatable {
        /// The table's own name, what FROM names of it, and its columns.
        package var name: TableName
        package var rows: String
        package var columns: Set<String>
        /// The columns that are a column of the table, by that one's name.
        package var targets: [String: String]
        /// Nothing but names, and the type of a key, is another: what comes back is what went.
        package var isExact: Bool
        /// The select list.
        package var selection: String
        package var condition: String

        /// Of the table, or of one of its partitions.
        package func rows(of relation: String) -> String {
            let condition = condition.isEmpty ? "" : " WHERE (\n\(condition)\n)"
            return "(SELECT \(selection) FROM \(relation)\(condition))"
        }
    }

    package func column(_ name: String) -> Column? { columns.first { $0.name.hasSameBytes(as: name) } }

    /// A column whose name is another's in another Unicode form: two to PostgreSQL, one wherever we look columns up by
    /// their names.
    package var lookalike: String? {
        var seen: Set<String> = []
        return columns.first { !seen.insert($0.name).inserted }?.name
    }

    /// What FROM names, with an alias behind it: a partitioned table with its partitions, any other without its
    /// children.
    package var rows: String { view.map { $0.rows(of: $0.rows) } ?? storedRows }

    /// What LOCK and DELETE name.
    package var storedRows: String { view?.rows ?? (kind == .partitioned ? name.sql : "ONLY \(name.sql)") }
    package var storedName: TableName { view?.name ?? name }

    package var keyColumns: [Column] { key.compactMap { column($0) } }

    /// True where both sides order the key alike, so that a range of keys is the same set on both.
    package var hasPortableKeyOrder: Bool { keyColumns.allSatisfy(\.hasPortableOrder) }
}

/// Reads descriptions out of the catalog. Stateless.
package enum CatalogReader {
    /// That the table's capture writes down the columns of this index: the first line of its function says which, with
    /// all signs but plain ones as their numbers.
    private static let isCaptured = """
        NOT i.indisprimary AND EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
             WHERE g.tgrelid = c.oid AND g.tgname = 'godwit_capture' AND strpos(f.prosrc, '-- key =' || (
                   SELECT string_agg((SELECT string_agg(CASE WHEN s ~ '^[A-Za-z0-9_]$' THEN s
                                  ELSE '%' || to_hex(ascii(s)) END, '' ORDER BY w.n)
                              FROM regexp_split_to_table(b.attname, '') WITH ORDINALITY w (s, n)), ','
                          ORDER BY o.place)
                     FROM unnest(i.indkey::int2[]) WITH ORDINALITY o (number, place)
                     JOIN pg_attribute b ON b.attrelid = i.indrelid AND b.attnum = o.number
                    WHERE o.place <= i.indnkeyatts) || chr(10)) = 1)
        """

    /// A column that is NOT NULL may hold NULLs from before all the same, where that is NOT VALID (18 and later). Of
    /// several that could be the key the one stays that it is: a new unique index on one side changes nothing.
    private static let keyIndex = """
        LEFT JOIN LATERAL (SELECT i.indexrelid, i.indkey::int2[] AS attributes, i.indnkeyatts, i.indimmediate,
                 i.indcollation::oid[] AS collations
            FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
           WHERE i.indrelid = c.oid AND (i.indisprimary OR (i.indisunique AND i.indimmediate AND i.indisvalid
                 AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (SELECT FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND (NOT a.attnotnull OR EXISTS (SELECT FROM pg_constraint v
                             WHERE v.conrelid = c.oid AND v.contype = 'n' AND NOT v.convalidated
                               AND v.conkey[1] = a.attnum))
                       AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))))
           ORDER BY i.indisprimary DESC, (\(isCaptured)) DESC, i.indnkeyatts, x.relname LIMIT 1) k ON true
        """

    private static let tablesQuery = """
        SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence = 'u', c.relispartition,
               row_security_active(c.oid), pg_has_role(c.relowner, 'USAGE'),
               CASE c.relkind WHEN 'p' THEN (SELECT coalesce(sum(greatest(l.reltuples, 0)), 0)::bigint
                   FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf)
                   ELSE greatest(c.reltuples, 0)::bigint END,
               (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid
                 AND (i.indisexclusion OR i.indisunique AND i.indexrelid IS DISTINCT FROM k.indexrelid))
               + CASE c.relkind WHEN 'p' THEN (SELECT count(*) FROM pg_partition_tree(c.oid) p
                     JOIN pg_index i ON i.indrelid = p.relid
                    WHERE p.relid <> c.oid AND (i.indisunique OR i.indisexclusion)
                      AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)) ELSE 0 END,
               coalesce(NOT k.indimmediate, false),
               CASE WHEN NOT c.relispartition THEN (SELECT string_agg(h.inhparent::regclass::text, ', ')
                   FROM pg_inherits h WHERE h.inhrelid = c.oid) END,
               c.relkind = 'p' AND EXISTS (SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
                   WHERE l.relkind = 'f' OR l.relpersistence = 'u'),
               c.relhasrules AND EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '2')
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \(keyIndex)
         WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit') AND n.nspname !~ '^pg_(toast|temp)'
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                              AND d.deptype = 'e')
         ORDER BY n.nspname, c.relname
        """

    private static let columnsQuery = """
        SELECT a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef,
               a.attgenerated <> '', a.attidentity, a.attcollation <> 0, a.atttypid < 16384 AND t.typtype <> 'd',
               CASE WHEN array_position(k.attributes, a.attnum) < k.indnkeyatts
                    THEN array_position(k.attributes, a.attnum) END,
               EXISTS (SELECT FROM pg_collation l WHERE NOT l.collisdeterministic
                   AND l.oid IN (a.attcollation, k.collations[array_position(k.attributes, a.attnum)])),
               CASE t.typtype WHEN 'd' THEN (WITH RECURSIVE base (oid) AS (SELECT t.typbasetype
                       UNION ALL SELECT d.typbasetype FROM base b JOIN pg_type d ON d.oid = b.oid WHERE d.typtype = 'd')
                   SELECT format_type(b.oid, -1) FROM base b JOIN pg_type d ON d.oid = b.oid WHERE d.typtype <> 'd')
                   END
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_type t ON t.oid = a.atttypid
          \(keyIndex)
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
                isCollatable: columns.flag(row, 7), isBuiltIn: columns.flag(row, 8), isLoose: columns.flag(row, 10),
                baseType: columns[row, 11]))
            if let position = columns.integer(row, 9) { keysOf[table, default: []].append((position, name)) }
        }
        return (0..<rows.count).map { row in
            let oid = rows[row, 0] ?? ""
            return TableDescription(
                oid: UInt32(oid) ?? 0, name: TableName(schema: rows[row, 1] ?? "", name: rows[row, 2] ?? ""),
                kind: TableDescription.Kind(rawValue: rows[row, 3] ?? "") ?? .ordinary,
                isUnlogged: rows.flag(row, 4), isPartition: rows.flag(row, 5), hidesRows: rows.flag(row, 6),
                isOwned: rows.flag(row, 7), rowsEstimated: rows.integer(row, 8) ?? 0,
                inheritsFrom: rows[row, 11], hasUnfitPartition: rows.flag(row, 12),
                otherUniqueIndexes: Int(rows.integer(row, 9) ?? 0), isKeyDeferrable: rows.flag(row, 10),
                hasUpdateRule: rows.flag(row, 13), columns: columnsOf[oid] ?? [],
                key: (keysOf[oid] ?? []).sorted { $0.position < $1.position }.map(\.name))
        }
    }
}
