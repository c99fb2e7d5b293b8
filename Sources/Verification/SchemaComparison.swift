import LibPQ
import Primitives

/// What the catalogs of both sides say of the application's objects, property by property. Blocks its caller.
package enum SchemaComparison {
    package struct Difference: Sendable, Equatable, CustomStringConvertible {
        /// `column public.t.v`, `index public.t_pkey`, ...
        package var object: String
        /// `type`, `default`, `definition`, ...
        package var property: String
        /// nil: that side has no such object.
        package var old: String?
        package var new: String?

        package init(object: String, property: String, old: String?, new: String?) {
            self.object = object
            self.property = property
            self.old = old
            self.new = new
        }

        package var description: String {
            switch (old, new) {
            case (_?, nil): "\(object) is missing on NEW"
            case (nil, _?): "\(object) is only on NEW"
            default: "\(object): \(property) is \(old ?? "") on OLD, \(new ?? "") on NEW"
            }
        }
    }

    /// - Parameter except: names of objects that somebody else compares.
    /// - Returns: by object; of an object that one side lacks only that it does.
    package static func run(
        old oldTarget: ConnectionString, new newTarget: ConnectionString, mappings: TableMappings = .none,
        except: Set<String> = []
    ) throws(VerifyFailure) -> [Difference] {
        var old = try read(oldTarget, "OLD"), new = try read(newTarget, "NEW")
        var moved: [String: [String: String]] = [:]
        for mapping in mappings.all { map(mapping, &old, &new, &moved) }
        old.merge(moved) { $1 }
        for object in except { (old[object], new[object]) = (nil, nil) }
        if !mappings.all.isEmpty {
            // They may name tables that are others on NEW.
            func isCompared(_ object: String) -> Bool {
                !["view ", "materialized view ", "function "].contains { object.hasPrefix($0) }
            }
            old = old.filter { isCompared($0.key) }
            new = new.filter { isCompared($0.key) }
        }
        var found: [Difference] = []
        for (object, properties) in old {
            guard let twins = new[object] else {
                found.append(Difference(object: object, property: "", old: "", new: nil))
                continue
            }
            for (property, value) in properties {
                if let twin = twins[property], twin.hasSameBytes(as: value) { continue }
                found.append(Difference(object: object, property: property, old: value, new: twins[property] ?? ""))
            }
        }
        for object in new.keys where old[object] == nil {
            found.append(Difference(object: object, property: "", old: nil, new: ""))
        }
        return found.sorted { ($0.object, $0.property) < ($1.object, $1.property) }
    }

    /// Gives OLD's table and columns NEW's names, and leaves out what a mapping makes another: columns that are
    /// computed, dropped or NEW's alone, the types of those that are named, and what definitions say in SQL.
    static func map(
        _ mapping: TableMapping, _ old: inout [String: [String: String]], _ new: inout [String: [String: String]],
        _ moved: inout [String: [String: String]]
    ) {
        let (from, to) = ("\(mapping.old).", "\(mapping.new).")
        for kind in ["constraint", "index", "trigger", "policy"] {
            old = old.filter { !$0.key.hasPrefix("\(kind) \(from)") }
            new = new.filter { !$0.key.hasPrefix("\(kind) \(to)") }
        }
        var table = old.removeValue(forKey: "table \(mapping.old)")
        // Their texts name columns and tables.
        for name in ["partition key", "parents"] { table?[name] = nil }
        var columns: [String: [String: String]] = [:]
        for (object, properties) in old where object.hasPrefix("column \(from)") {
            columns[String(object.dropFirst("column \(from)".count))] = properties
            old[object] = nil
        }
        if let table { moved["table \(mapping.new)"] = table }
        var kept: Set<String> = []
        for (column, properties) in columns {
            let targets = mapping.columns.filter { $0.value == column }.keys
            let isSame = targets.isEmpty && !mapping.dropped.contains(column) && mapping.columns[column] == nil
            for target in isSame ? [column] : Array(targets) {
                let object = "column \(to)\(target)"
                kept.insert(object)
                var properties = properties
                // Computed columns come last.
                properties["place"] = nil
                if !isSame {
                    for name in ["type", "default", "collation"] {
                        properties[name] = nil
                        new[object]?[name] = nil
                    }
                }
                moved[object] = properties
            }
        }
        new = new.filter { !$0.key.hasPrefix("column \(to)") || kept.contains($0.key) }
    }

    private static func read(
        _ target: ConnectionString, _ side: String
    ) throws(VerifyFailure) -> [String: [String: String]] {
        let connection = try PairedSnapshots.connect(target, side)
        let (rows, away) = try onSide(side) { () throws(PostgresFailure) in
            let isKept = try connection.hasRelation("godwit.aside")
            return (try connection.query(query), isKept ? try connection.query(setAside) : nil)
        }
        var found: [String: [String: String]] = [:]
        for rows in [rows, away].compactMap({ $0 }) {
            for row in 0..<rows.count {
                found[rows[row, 0] ?? "", default: [:]][rows[row, 1] ?? ""] = rows[row, 2] ?? ""
            }
        }
        return found
    }

    /// Foreign keys that are away as long as the mirror writes on the side, in a role for which they would fire; and
    /// how triggers are enabled that are off so long, with their copies: one of a partition that came later is off as
    /// well, and gets its state back with the nearest that is remembered.
    private static let setAside = """
        SELECT 'constraint ' || schema_name || '.' || table_name || '.' || name, 'definition',
               CASE WHEN definition LIKE '% NOT VALID' THEN definition || ' NOT VALID' ELSE definition END
          FROM godwit.aside WHERE kind = 'foreign key' AND NOT is_back
        UNION SELECT 'trigger ' || schema_name || '.' || table_name || '.' || name, 'state', definition
          FROM godwit.aside WHERE kind = 'trigger' AND NOT is_back
        UNION SELECT 'trigger ' || n.nspname || '.' || c.relname || '.' || t.tgname, 'state', s.definition
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN LATERAL (
              SELECT a.definition FROM pg_partition_ancestors(c.oid) WITH ORDINALITY p (relation, place)
                JOIN godwit.aside a ON to_regclass(format('%I.%I', a.schema_name, a.table_name)) = p.relation
               WHERE a.kind = 'trigger' AND NOT a.is_back AND a.name = t.tgname ORDER BY p.place LIMIT 1) s
         WHERE t.tgparentid <> 0 AND NOT t.tgisinternal
        """

    private static let ours = """
        n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit') AND n.nspname !~ '^pg_(toast|temp)'
        """

    private static func ofExtension(_ catalog: String, _ oid: String) -> String {
        """
        EXISTS (SELECT FROM pg_depend d WHERE d.classid = '\(catalog)'::regclass AND d.objid = \(oid)
            AND d.deptype = 'e')
        """
    }

    /// Object, property, value. NOT NULL is a column's; that newer versions keep a constraint for it is left out. So
    /// are the parts that a foreign key has for partitions: their names hang on the order in which those came and went.
    private static let query = """
        WITH tables AS (
            SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.relpersistence, c.relispartition,
                   CASE WHEN c.relrowsecurity THEN 'on' ELSE 'off' END
                     || CASE WHEN c.relforcerowsecurity THEN ', for the owner too' ELSE '' END AS row_security,
                   coalesce(pg_get_partkeydef(c.oid), 'none') AS partition_key, concat_ws(' ', coalesce((
                       SELECT string_agg(h.inhparent::regclass::text, ', ' ORDER BY h.inhseqno)
                         FROM pg_inherits h WHERE h.inhrelid = c.oid), 'none'),
                       pg_get_expr(c.relpartbound, c.oid)) AS parents
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND \(ours)
               AND NOT \(ofExtension("pg_class", "c.oid")))
        SELECT 'table ' || name, p.property, p.value FROM tables,
            LATERAL (VALUES ('kind', relkind::text), ('persistence', relpersistence::text),
                ('row security', row_security), ('partition key', partition_key), ('parents', parents)
            ) p (property, value)
        UNION ALL
        SELECT 'column ' || t.name || '.' || a.attname, p.property, p.value
          FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          LEFT JOIN pg_collation l ON l.oid = a.attcollation
          LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace,
            LATERAL (VALUES ('type', format_type(a.atttypid, a.atttypmod)), ('nullability',
                CASE WHEN a.attnotnull THEN 'NOT NULL' ELSE 'NULL' END),
                ('default', coalesce(pg_get_expr(d.adbin, d.adrelid), 'none')),
                ('generation', a.attgenerated::text || a.attidentity::text),
                -- SELECT * and INSERT without names go by it.
                ('place', (SELECT count(*) FROM pg_attribute b WHERE b.attrelid = a.attrelid AND NOT b.attisdropped
                    AND b.attnum BETWEEN 1 AND a.attnum)::text),
                ('collation', coalesce(ln.nspname || '.' || l.collname, 'none'))) p (property, value)
        UNION ALL
        SELECT 'constraint ' || t.name || '.' || k.conname, 'definition', pg_get_constraintdef(k.oid)
               || CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END
          FROM tables t JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype IN ('p', 'u', 'f', 'c', 'x')
           AND NOT (k.contype = 'f' AND k.conparentid <> 0)
        UNION ALL
        SELECT 'index ' || t.name || '.' || x.relname, 'definition', pg_get_indexdef(i.indexrelid)
               || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
          FROM tables t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid
        UNION ALL
        SELECT 'trigger ' || t.name || '.' || g.tgname, p.property, p.value
          FROM tables t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgname !~ '^godwit_',
            LATERAL (VALUES ('definition', pg_get_triggerdef(g.oid)), ('state', g.tgenabled::text)) p (property, value)
        UNION ALL
        SELECT 'policy ' || t.name || '.' || p.polname, 'definition', concat_ws(' ',
               CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, 'FOR', p.polcmd::text, 'TO',
               (SELECT string_agg(name, ', ' ORDER BY name COLLATE "C") FROM (SELECT CASE r WHEN 0 THEN 'PUBLIC'
                    ELSE pg_get_userbyid(r)::text END FROM unnest(p.polroles) r) s (name)),
               'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
               'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
          FROM tables t JOIN pg_policy p ON p.polrelid = t.oid
        UNION ALL
        SELECT 'sequence ' || s.schemaname || '.' || s.sequencename, 'definition', concat_ws(' ', s.data_type,
               s.start_value, s.min_value, s.max_value, s.increment_by, s.cycle, s.cache_size)
          FROM pg_sequences s WHERE s.schemaname <> 'godwit'
        UNION ALL
        SELECT 'extension ' || extname, 'schema', extnamespace::regnamespace::text FROM pg_extension
         WHERE extname <> 'plpgsql'
        UNION ALL
        SELECT 'type ' || n.nspname || '.' || y.typname, 'values',
               string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
          FROM pg_enum e JOIN pg_type y ON y.oid = e.enumtypid JOIN pg_namespace n ON n.oid = y.typnamespace
         WHERE NOT \(ofExtension("pg_type", "y.oid")) GROUP BY n.nspname, y.typname
        UNION ALL
        SELECT 'type ' || n.nspname || '.' || c.relname, 'attributes',
               string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relkind = 'c' AND \(ours) AND NOT \(ofExtension("pg_type", "c.reltype"))
         GROUP BY n.nspname, c.relname
        UNION ALL
        SELECT 'domain ' || n.nspname || '.' || y.typname, 'definition', concat_ws(' ',
               format_type(y.typbasetype, y.typtypmod), 'COLLATE ' || l.collname,
               CASE WHEN y.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || pg_get_expr(y.typdefaultbin, 0),
               (SELECT string_agg(k.conname || ' ' || pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname COLLATE "C")
                  FROM pg_constraint k WHERE k.contypid = y.oid AND k.contype = 'c'))
          FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace
          LEFT JOIN pg_collation l ON l.oid = y.typcollation
         WHERE y.typtype = 'd' AND \(ours) AND NOT \(ofExtension("pg_type", "y.oid"))
        UNION ALL
        -- What they select each version writes in its own way.
        SELECT CASE c.relkind WHEN 'v' THEN 'view ' ELSE 'materialized view ' END || n.nspname || '.' || c.relname,
               'columns', string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         WHERE c.relkind IN ('v', 'm') AND \(ours) AND NOT \(ofExtension("pg_class", "c.oid"))
         GROUP BY n.nspname, c.relname, c.relkind
        UNION ALL
        SELECT 'function ' || n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
               'definition', concat_ws(' ', pg_get_function_result(p.oid), g.lanname, p.provolatile::text,
               CASE WHEN p.prosecdef THEN 'SECURITY DEFINER' END, p.proconfig::text, 'body ' || md5(p.prosrc))
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language g ON g.oid = p.prolang
         WHERE \(ours) AND NOT \(ofExtension("pg_proc", "p.oid"))
        UNION ALL
        SELECT 'database', 'encoding', pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()
        """
}
