import LibPQ

/// Triggers and policies of the tables that `mirror.tables` names.
extension MappedSchemaCatalog {
    /// Where a definition says its object's name, and its table's.
    static let nameMark = "\u{1}", tableMark = "\u{2}"

    /// Of a policy the definition is what follows its table.
    static func actions(_ tables: [String], _ on: borrowing Connection) throws -> [Object] {
        let isKept = try on.hasRelation("godwit.aside")
        let aside = isKept ? """
            (SELECT definition FROM godwit.aside s WHERE s.kind = 'trigger' AND NOT s.is_back AND s.name = t.tgname
                AND s.schema_name = n.nspname AND s.table_name = c.relname)
            """ : "NULL"
        let rows = try on.query("""
            SELECT 'trigger', t.oid, c.oid, n.nspname, t.tgname,
                   replace(replace(pg_get_triggerdef(t.oid), ' TRIGGER ' || quote_ident(t.tgname) || ' ',
                       ' TRIGGER ' || chr(1) || ' '), ' ON ' || CASE c.relpersistence WHEN 't' THEN 'pg_temp'
                           ELSE quote_ident(n.nspname) END || '.' || quote_ident(c.relname) || ' ',
                       ' ON ' || chr(2) || ' '),
                   \(joined(columns("pg_trigger", "t.oid", "c.oid"))), coalesce(\(aside), t.tgenabled::text)
              FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid IN (\(list(tables))) AND NOT t.tgisinternal AND t.tgparentid = 0
               AND (t.tgname NOT LIKE 'godwit\\_%' OR t.tgname LIKE 'godwit\\_rest\\_%')
            UNION ALL
            SELECT 'policy', p.oid, c.oid, n.nspname, p.polname,
                   format('AS %s FOR %s TO %s', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                       CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                           WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END,
                       (SELECT string_agg(name, ', ' ORDER BY name COLLATE "C") FROM (SELECT CASE r WHEN 0 THEN 'PUBLIC'
                            ELSE quote_ident(pg_get_userbyid(r)) END FROM unnest(p.polroles) r) s (name)))
                     || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
                     || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
                   \(joined(columns("pg_policy", "p.oid", "c.oid"))), ''
              FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid IN (\(list(tables))) ORDER BY 3, 1, 5
            """)
        return (0..<rows.count).map { row in
            Object(
                kind: rows[row, 0] ?? "", oid: rows[row, 1] ?? "", table: rows[row, 2] ?? "",
                schema: rows[row, 3] ?? "", name: rows[row, 4] ?? "", definition: rows[row, 5] ?? "",
                isUnique: false, columns: parts(rows[row, 6]), isIdentity: false, isClustered: false, isValid: true,
                index: "", state: rows[row, 7] ?? "")
        }
    }
}
