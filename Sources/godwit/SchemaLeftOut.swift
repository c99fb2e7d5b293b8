import LibPQ

/// What is not brought to NEW, and the operator is told of.
extension SchemaCopy {
    /// What no dump of one schema brings without harm.
    func outside(_ onOld: borrowing Connection) throws -> [String] {
        let rows = try onOld.query("""
            SELECT format('publication %s: its subscribers hear nothing of NEW until it is made there', pubname)
              FROM pg_publication
            UNION ALL SELECT format('subscription %s: what it brings to OLD, NEW does not get by itself', subname)
              FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
            UNION ALL SELECT format('rights on the database itself: OLD has %s', datacl)
              FROM pg_database WHERE datname = current_database() AND datacl IS NOT NULL
            """)
        return (0..<rows.count).map { rows[$0, 0] ?? "" }
    }

    /// Triggers and rules that would act on mirrored rows: the mirror stands still where it finds one. With their
    /// comments, which have no line of their own.
    func firing(_ onOld: borrowing Connection) throws -> [(entry: Entry, line: String?)] {
        let fix = "make it when NEW takes the writes. OLD has: "
        func comment(_ kind: String, _ name: String) -> String {
            "n.nspname || ' \(kind) ' || quote_ident(\(name)) || ' ON ' || quote_ident(c.relname)"
        }
        let rows = try onOld.query("""
            WITH found AS (
                SELECT 'TRIGGER' AS kind, n.nspname || ' ' || c.relname || ' ' || t.tgname AS name,
                       \(comment("TRIGGER", "t.tgname")) AS comment,
                       format('trigger %s of %s.%s: it is enabled %s and would fire on mirrored rows, \(fix)%s',
                           t.tgname, n.nspname, c.relname, CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END,
                           pg_get_triggerdef(t.oid)) AS line
                  FROM pg_trigger t LEFT JOIN pg_trigger p ON p.oid = t.tgparentid
                  JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE NOT t.tgisinternal AND t.tgname NOT LIKE 'godwit\\_%' AND n.nspname <> 'godwit'
                   AND (t.tgenabled IN ('A', 'R') OR p.tgenabled IN ('A', 'R'))
                UNION ALL
                SELECT 'RULE', n.nspname || ' ' || c.relname || ' ' || r.rulename, \(comment("RULE", "r.rulename")),
                       format('rule %s of %s.%s: it is enabled %s and would rewrite mirrored rows, \(fix)%s',
                           r.rulename, n.nspname, c.relname, CASE r.ev_enabled WHEN 'A' THEN 'ALWAYS'
                               ELSE 'REPLICA' END, pg_get_ruledef(r.oid))
                  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE r.ev_enabled IN ('A', 'R') AND c.relkind IN ('r', 'p'))
            SELECT kind, name, line FROM found UNION ALL SELECT 'COMMENT', comment, NULL FROM found ORDER BY 1, 2
            """)
        return (0..<rows.count).map { row in
            (Entry(kind: rows[row, 0] ?? "", name: rows[row, 1] ?? ""), rows[row, 2])
        }
    }
}
