import LibPQ

/// What the catalogs say of the tables that `mirror.tables` names, beyond their columns. Stateless.
enum MappedSchemaCatalog {
    /// An index that is no constraint's, a constraint other than a foreign key, or extended statistics; a trigger or a
    /// policy.
    struct Object {
        /// `index`, `statistics`, `trigger`, `policy`, or pg_constraint's letter.
        var kind: String
        var oid: String
        /// The table's number.
        var table: String
        var schema: String
        var name: String
        /// Of an index what follows USING, of statistics what is before FROM, of a constraint all of it.
        var definition: String
        var isUnique: Bool
        /// Names of all that it is about.
        var columns: [String]
        var comment: String?
        /// REPLICA IDENTITY USING INDEX, CLUSTER ON.
        var isIdentity: Bool
        var isClustered: Bool
        var isValid: Bool
        /// Its index's number.
        var index: String
        /// Of a trigger: pg_trigger.tgenabled, as it is where no mirror writes.
        var state = ""

        var isConstraint: Bool { kind.count == 1 }
        var title: String { isConstraint ? "constraint" : kind }
    }

    struct ForeignKey {
        var name: String
        var child: String
        var childName: TableName
        var columns: [String]
        var parent: String
        var parentName: TableName
        var parentColumns: [String]
        var definition: String
        /// Of the definition, behind the columns that it refers to.
        var rest: String
        /// Of the unique index that it needs.
        var index: String
        var comment: String?

        /// - Parameter child: nil: its table is the same on both sides.
        func obstacle(_ child: MappedSchemaRest.Pair?) -> String? {
            let isPlain = !rest.contains("(") || columns.allSatisfy { child?.columns[$0] ?? $0 == $0 }
            return isPlain ? nil : "its ON DELETE names columns that have other names on NEW"
        }
    }

    typealias Relation = (oid: String, name: String)

    static func list(_ oids: [String]) -> String { (oids + ["NULL"]).joined(separator: ", ") }

    static func parts(_ text: String?) -> [String] { (text ?? "").split(separator: "\u{1}").map(String.init) }

    private static func relations(_ sql: String, _ on: borrowing Connection) throws -> [Relation] {
        let rows = try on.query(sql)
        return (0..<rows.count).map { (rows[$0, 0] ?? "", rows[$0, 1] ?? "") }
    }

    /// The tables and their partitions.
    static func relations(_ names: [TableName], _ onOld: borrowing Connection) throws -> [Relation] {
        try relations("""
            SELECT DISTINCT c.oid, n.nspname || '.' || c.relname FROM unnest(\(SQL.array(names.map(\.sql)))) m (name)
              JOIN pg_class r ON r.oid = to_regclass(m.name)
              CROSS JOIN LATERAL (SELECT r.oid AS relid UNION SELECT relid FROM pg_partition_tree(r.oid)) p
              JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 2
            """, onOld)
    }

    static func partitions(of table: TableDescription, _ on: borrowing Connection) throws -> Set<UInt32> {
        let rows = try on.query("SELECT relid::oid FROM pg_partition_tree(\(table.oid)) WHERE level > 0")
        return Set((0..<rows.count).compactMap { rows[$0, 0].flatMap { UInt32($0) } })
    }

    /// Views of OLD that NEW has not: those of columns that went.
    static func lostViews(_ onOld: borrowing Connection, _ onNew: borrowing Connection) throws -> [Relation] {
        let views = """
            SELECT c.oid, n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit')
               AND n.nspname !~ '^pg_(toast|temp)' ORDER BY 2
            """
        let present = Set(try relations(views, onNew).map(\.name))
        return try relations(views, onOld).filter { !present.contains($0.name) }
    }

    // MARK: indexes and constraints

    static func columns(_ catalog: String, _ oid: String, _ table: String) -> String {
        """
        SELECT a.attname FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = '\(catalog)'::regclass AND d.objid = \(oid) AND d.refclassid = 'pg_class'::regclass
           AND d.refobjid = \(table) AND d.refobjsubid > 0
        """
    }

    static func joined(_ names: String) -> String {
        "(SELECT string_agg(attname, chr(1)) FROM (\(names)) s)"
    }

    static func objects(_ tables: [String], _ on: borrowing Connection) throws -> [Object] {
        let rows = try on.query("""
            SELECT 'index', i.indexrelid, i.indrelid, xn.nspname, x.relname,
                   substr(d.text, strpos(d.text, d.place) + length(d.place)), i.indisunique,
                   \(joined(columns("pg_class", "i.indexrelid", "i.indrelid"))),
                   obj_description(i.indexrelid, 'pg_class'), i.indisreplident, i.indisclustered, i.indexrelid,
                   i.indisvalid
              FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace xn ON xn.oid = x.relnamespace
              JOIN pg_class c ON c.oid = i.indrelid
              CROSS JOIN LATERAL (SELECT pg_get_indexdef(i.indexrelid) AS text,
                  quote_ident(c.relname) || ' USING ' AS place) d
             WHERE i.indrelid IN (\(list(tables))) AND NOT x.relispartition AND NOT EXISTS (
                       SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
            UNION ALL
            SELECT k.contype::text, k.oid, k.conrelid, n.nspname, k.conname, pg_get_constraintdef(k.oid),
                   k.contype IN ('p', 'u', 'x'),
                   \(joined("""
                       SELECT attname FROM pg_attribute WHERE attrelid = k.conrelid AND attnum = ANY (k.conkey)
                       UNION \(columns("pg_class", "k.conindid", "k.conrelid"))
                       UNION \(columns("pg_constraint", "k.oid", "k.conrelid"))
                       """)),
                   obj_description(k.oid, 'pg_constraint'), coalesce(i.indisreplident, false),
                   coalesce(i.indisclustered, false), k.conindid, coalesce(i.indisvalid, true)
              FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              LEFT JOIN pg_index i ON i.indexrelid = k.conindid AND k.contype IN ('p', 'u', 'x')
             WHERE k.conrelid IN (\(list(tables))) AND k.contype IN ('p', 'u', 'x', 'c') AND k.conparentid = 0
               AND k.coninhcount = 0
            UNION ALL
            SELECT 'statistics', s.oid, s.stxrelid, n.nspname, s.stxname,
                   coalesce('(' || (SELECT string_agg(CASE t WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies'
                       ELSE 'mcv' END, ', ') FROM unnest(s.stxkind) t WHERE t <> 'e') || ') ', '')
                     || 'ON ' || pg_get_statisticsobjdef_columns(s.oid), false,
                   \(joined("""
                       SELECT attname FROM pg_attribute WHERE attrelid = s.stxrelid
                          AND attnum = ANY (s.stxkeys::int2[])
                       UNION \(columns("pg_statistic_ext", "s.oid", "s.stxrelid"))
                       """)),
                   obj_description(s.oid, 'pg_statistic_ext'), false, false, 0, true
              FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
             WHERE s.stxrelid IN (\(list(tables))) ORDER BY 3, 7 DESC, 5
            """)
        return (0..<rows.count).map { row in
            Object(
                kind: rows[row, 0] ?? "", oid: rows[row, 1] ?? "", table: rows[row, 2] ?? "",
                schema: rows[row, 3] ?? "", name: rows[row, 4] ?? "", definition: rows[row, 5] ?? "",
                isUnique: rows.flag(row, 6), columns: parts(rows[row, 7]), comment: rows[row, 8],
                isIdentity: rows.flag(row, 9), isClustered: rows.flag(row, 10), isValid: rows.flag(row, 12),
                index: rows[row, 11] ?? "")
        }
    }

    /// Of the tables, and to them.
    static func foreignKeys(_ tables: [String], _ on: borrowing Connection) throws -> [ForeignKey] {
        func names(_ keys: String, _ table: String, _ expression: String, _ separator: String) -> String {
            """
            (SELECT string_agg(\(expression), \(separator) ORDER BY p.n)
               FROM unnest(\(keys)) WITH ORDINALITY p (c, n)
               JOIN pg_attribute a ON a.attrelid = \(table) AND a.attnum = p.c)
            """
        }
        let rows = try on.query("""
            SELECT k.conname, c.oid, n.nspname, c.relname, \(names("k.conkey", "c.oid", "a.attname", "chr(1)")),
                   r.oid, rn.nspname, r.relname, \(names("k.confkey", "r.oid", "a.attname", "chr(1)")),
                   pg_get_constraintdef(k.oid), k.conindid, obj_description(k.oid, 'pg_constraint'),
                   format('FOREIGN KEY (%s) REFERENCES %I.%I(%s)',
                       \(names("k.conkey", "c.oid", "quote_ident(a.attname)", "', '")), rn.nspname, r.relname,
                       \(names("k.confkey", "r.oid", "quote_ident(a.attname)", "', '")))
              FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
             WHERE k.contype = 'f' AND k.conparentid = 0
               AND (k.conrelid IN (\(list(tables))) OR k.confrelid IN (\(list(tables)))) ORDER BY 3, 4, 1
            """)
        return try (0..<rows.count).map { row in
            let definition = rows[row, 9] ?? "", head = rows[row, 12] ?? ""
            guard definition.hasPrefix(head) else {
                throw SchemaCopy.Failure(description: "the foreign key \(rows[row, 0] ?? "") is of a kind that "
                    + "cannot be read yet: \(definition)")
            }
            return ForeignKey(
                name: rows[row, 0] ?? "", child: rows[row, 1] ?? "",
                childName: TableName(schema: rows[row, 2] ?? "", name: rows[row, 3] ?? ""),
                columns: parts(rows[row, 4]), parent: rows[row, 5] ?? "",
                parentName: TableName(schema: rows[row, 6] ?? "", name: rows[row, 7] ?? ""),
                parentColumns: parts(rows[row, 8]), definition: definition,
                rest: String(definition.dropFirst(head.count)), index: rows[row, 10] ?? "", comment: rows[row, 11])
        }
    }

    /// NEW's, and those that are set aside until it takes the writes: table and name.
    static func presentForeignKeys(_ onNew: borrowing Connection) throws -> Set<String> {
        let isKept = try onNew.hasRelation("godwit.aside")
        let rows = try onNew.query("""
            SELECT n.nspname || '.' || c.relname || ' ' || k.conname FROM pg_constraint k
              JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE contype = 'f'
            \(isKept ? """
                UNION SELECT schema_name || '.' || table_name || ' ' || name FROM godwit.aside
                 WHERE kind = 'foreign key'
                """ : "")
            """)
        return Set((0..<rows.count).map { rows[$0, 0] ?? "" })
    }

    struct Sequence {
        var table: String
        /// Whose it is.
        var column: String
        var name: String
        var definition: String
    }

    static func sequences(_ tables: [String], _ on: borrowing Connection) throws -> [Sequence] {
        let rows = try on.query("""
            SELECT d.refobjid, a.attname, p.schemaname || '.' || p.sequencename, concat_ws(' ', p.data_type,
                   p.start_value, p.min_value, p.max_value, p.increment_by, p.cycle, p.cache_size)
              FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
              JOIN pg_sequences p ON p.schemaname = n.nspname AND p.sequencename = s.relname
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
               AND d.refobjid IN (\(list(tables)))
            """)
        return (0..<rows.count).map {
            Sequence(table: rows[$0, 0] ?? "", column: rows[$0, 1] ?? "", name: rows[$0, 2] ?? "",
                     definition: rows[$0, 3] ?? "")
        }
    }

    // MARK: what nobody can tell

    /// Rules and policies of other tables that speak of these.
    private static func speaking(_ catalog: String, _ tables: [String]) -> String {
        """
        SELECT d.objid FROM pg_depend d WHERE d.classid = '\(catalog)'::regclass
           AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (\(list(tables)))
        """
    }

    /// Triggers, rules and policies: what they do on NEW hangs on text that nobody looks into, or on rows.
    ///
    /// - Parameter twins: NEW's tables for OLD's.
    /// - Returns: a line for each that NEW's table lacks.
    static func others(
        _ tables: [String], _ twins: [String: String], _ onOld: borrowing Connection, _ onNew: borrowing Connection
    ) throws -> [String] {
        func query(_ ofRules: String, _ ofPolicies: String, _ of: (String) -> String) -> String {
            """
            SELECT t.tgrelid, 'trigger', t.tgname, pg_get_triggerdef(t.oid), t.tgrelid::regclass FROM pg_trigger t
             WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname NOT LIKE 'godwit\\_%'
               AND \(of("t.tgrelid"))
            UNION ALL SELECT r.ev_class, 'rule', r.rulename, pg_get_ruledef(r.oid), r.ev_class::regclass
              FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class AND c.relkind IN ('r', 'p')
             WHERE \(of("r.ev_class")) \(ofRules)
            UNION ALL SELECT p.polrelid, 'policy', p.polname,
                   format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', p.polname, p.polrelid::regclass,
                       CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                       CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                           WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END,
                       (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                          FROM unnest(p.polroles) r))
                     || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
                     || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
                   p.polrelid::regclass
              FROM pg_policy p WHERE \(of("p.polrelid")) \(ofPolicies)
            UNION ALL SELECT c.oid, 'row level security', '', format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY',
                   c.oid::regclass), c.oid::regclass
              FROM pg_class c WHERE c.relrowsecurity AND \(of("c.oid")) ORDER BY 5, 2, 3
            """
        }
        let there = try onNew.query(query("", "") { "\($0) IN (\(list(Array(twins.values))))" })
        func key(_ rows: Rows, _ row: Int, _ table: String) -> String {
            "\(table) \(rows[row, 1] ?? "") \(rows[row, 2] ?? "")"
        }
        let present = Set((0..<there.count).map { key(there, $0, there[$0, 0] ?? "") })
        let rows = try onOld.query(query(
            "OR r.oid IN (\(speaking("pg_rewrite", tables))) AND c.relkind IN ('r', 'p')",
            "OR p.oid IN (\(speaking("pg_policy", tables)))") { "\($0) IN (\(list(tables)))" })
        return (0..<rows.count).compactMap { row in
            if let twin = twins[rows[row, 0] ?? ""], present.contains(key(rows, row, twin)) { return nil }
            let name = (rows[row, 2] ?? "").isEmpty ? "" : " \(rows[row, 2] ?? "")"
            return "\(rows[row, 1] ?? "")\(name) of \(rows[row, 4] ?? ""): whether it does on NEW what it should, only "
                + "you know. OLD has: \(rows[row, 3] ?? "")"
        }
    }

    // MARK: the archive

    /// All that the archive has of these tables and views behind the rows, as its table of contents names it.
    static func entries(
        _ tables: [Relation], _ views: [Relation], _ onOld: borrowing Connection
    ) throws -> Set<SchemaCopy.Entry> {
        let (mapped, all) = (tables.map(\.oid), list((tables + views).map(\.oid)))
        let table = "n.nspname || ' ' || c.relname", joins = "JOIN pg_namespace n ON n.oid = c.relnamespace"
        func comment(_ kind: String, _ name: String) -> String {
            "UNION ALL SELECT 'COMMENT', n.nspname || ' \(kind) ' || quote_ident(\(name)) || ' ON ' "
                + "|| quote_ident(c.relname)"
        }
        func pair(_ kind: String, _ name: String, _ from: String) -> String {
            "UNION ALL SELECT '\(kind)', \(table) || ' ' || \(name) \(from) \(comment(kind, name)) \(from)"
        }
        let constraints = """
            FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \(joins)
             WHERE k.conrelid IN (\(all)) OR k.confrelid IN (\(all))
            """
        let indexes = """
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \(joins) WHERE i.indrelid IN (\(all))
            """
        let statistics = """
            FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid IN (\(all))
            """
        let rows = try onOld.query("""
            SELECT CASE contype WHEN 'f' THEN 'FK CONSTRAINT' WHEN 'c' THEN 'CHECK CONSTRAINT' ELSE 'CONSTRAINT' END,
                   \(table) || ' ' || k.conname \(constraints) \(comment("CONSTRAINT", "k.conname")) \(constraints)
            UNION ALL SELECT k.kind, \(table) FROM pg_class c \(joins)
              CROSS JOIN unnest('{ROW SECURITY,MATERIALIZED VIEW DATA}'::text[]) k (kind) WHERE c.oid IN (\(all))
            UNION ALL SELECT 'INDEX', \(table) \(indexes) UNION ALL SELECT 'INDEX ATTACH', \(table) \(indexes)
            UNION ALL SELECT 'COMMENT', n.nspname || ' INDEX ' || quote_ident(c.relname) \(indexes)
            UNION ALL SELECT 'STATISTICS', n.nspname || ' ' || s.stxname \(statistics)
            UNION ALL SELECT 'COMMENT', n.nspname || ' STATISTICS ' || quote_ident(s.stxname) \(statistics)
            \(pair("TRIGGER", "t.tgname", """
                FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \(joins) WHERE t.tgrelid IN (\(all))
                """))
            \(pair("RULE", "r.rulename", """
                FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \(joins) WHERE r.ev_class IN (\(all))
                    OR c.relkind IN ('r', 'p') AND r.oid IN (\(speaking("pg_rewrite", mapped)))
                """))
            \(pair("POLICY", "p.polname", """
                FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid \(joins) WHERE p.polrelid IN (\(all))
                    OR p.oid IN (\(speaking("pg_policy", mapped)))
                """))
            """)
        return Set((0..<rows.count).map { SchemaCopy.Entry(kind: rows[$0, 0] ?? "", name: rows[$0, 1] ?? "") })
    }
}
