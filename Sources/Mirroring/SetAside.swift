import LibPQ
import Primitives

/// What would act on mirrored rows on a side where the mirror may not take the role of a replica: the triggers, rules
/// and foreign keys of its tables. While the side is the mirror's target they are set aside, each remembered in
/// godwit.aside in the transaction that takes it away; the claim of a switch puts them back in *its* transaction, so
/// there is no moment at which the side takes writes without them. Stateless.
///
/// A foreign key's own triggers are PostgreSQL's, which only a superuser may disable: so it is dropped and made again,
/// NOT VALID, which takes no time, and validated behind the switch.
package enum SetAside {
    /// For each table. Longer than deadlock_timeout (1 s): only then PostgreSQL cancels an autovacuum in the way.
    static let lockTimeout = "1200ms"
    /// What the session is called that does. Its locks would be in the way of a switch, which ends it.
    package static let validationPurpose = "foreign key validation"

    /// `definition`: of a foreign key as ADD CONSTRAINT takes it; else pg_trigger.tgenabled, pg_rewrite.ev_enabled.
    /// `is_back`: a foreign key is there again and has yet to be validated; all else is forgotten once it is back.
    static let schema = """
        CREATE TABLE IF NOT EXISTS godwit.aside (
            kind text, schema_name text, table_name text, name text, definition text NOT NULL, remark text,
            depth int NOT NULL DEFAULT 0, is_back boolean NOT NULL DEFAULT false,
            PRIMARY KEY (kind, schema_name, table_name, name));
        ALTER TABLE godwit.aside ADD COLUMN IF NOT EXISTS relation oid;
        -- Those of tables that are gone would stand in the way of one that has such a table's name now. Tables may have
        -- been renamed, or have exchanged names: first to names that are too long for any table.
        CREATE OR REPLACE FUNCTION godwit.follow_renamed() RETURNS void LANGUAGE sql
        SET search_path = pg_catalog, pg_temp AS $godwit$
            DELETE FROM godwit.aside a WHERE a.relation NOT IN (SELECT oid FROM pg_class);
            UPDATE godwit.aside a SET table_name = a.table_name || repeat('-', 64)
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = a.relation AND (n.nspname <> a.schema_name OR c.relname <> a.table_name);
            UPDATE godwit.aside a SET schema_name = n.nspname, table_name = c.relname
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = a.relation AND (n.nspname <> a.schema_name OR c.relname <> a.table_name);
        $godwit$;
        CREATE OR REPLACE FUNCTION godwit.members() RETURNS TABLE (relation oid, depth int) LANGUAGE sql
        SET search_path = pg_catalog, pg_temp AS $godwit$
            WITH roots AS (
                SELECT to_regclass(format('%I.%I', schema_name, table_name))::oid AS root FROM godwit.backfill)
            SELECT root, 0 FROM roots WHERE root IS NOT NULL
            UNION SELECT p.relid::oid, p.level FROM roots, pg_partition_tree(root) p
        $godwit$;
        CREATE OR REPLACE FUNCTION godwit.firing() RETURNS TABLE (
            kind text, relation oid, name name, definition text, remark text, depth int) LANGUAGE sql
        SET search_path = pg_catalog, pg_temp AS $godwit$
            SELECT 'trigger', t.tgrelid, t.tgname, t.tgenabled::text, NULL, m.depth
              FROM godwit.members() m JOIN pg_trigger t ON t.tgrelid = m.relation
             WHERE NOT t.tgisinternal AND t.tgenabled = 'O' AND t.tgname NOT LIKE 'godwit\\_%'
            UNION ALL SELECT 'rule', r.ev_class, r.rulename, r.ev_enabled::text, NULL, m.depth
              FROM godwit.members() m JOIN pg_rewrite r ON r.ev_class = m.relation WHERE r.ev_enabled = 'O'
            UNION ALL SELECT 'foreign key', k.conrelid, k.conname, pg_get_constraintdef(k.oid),
                   obj_description(k.oid, 'pg_constraint'), 0
              FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
               AND to_jsonb(k)->>'conenforced' IS DISTINCT FROM 'false'
               AND (k.conrelid IN (SELECT m.relation FROM godwit.members() m)
                   OR k.confrelid IN (SELECT m.relation FROM godwit.members() m))
        $godwit$;
        CREATE OR REPLACE FUNCTION godwit.set_aside() RETURNS bigint LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $godwit$
        DECLARE its record; its_table text; its_count bigint := 0;
        BEGIN
            -- A side that the mirror does not write on keeps what it has; and no batch is under way.
            PERFORM FROM godwit.progress FOR UPDATE;
            IF NOT FOUND THEN RETURN 0; END IF;
            PERFORM godwit.follow_renamed();
            -- Partitions' copies that are not as the trigger they are copies of.
            INSERT INTO godwit.aside (kind, schema_name, table_name, name, definition, depth, relation)
                SELECT 'trigger', n.nspname, c.relname, t.tgname, t.tgenabled, m.depth, c.oid
                  FROM godwit.members() m JOIN pg_trigger t ON t.tgrelid = m.relation
                  JOIN pg_trigger p ON p.oid = t.tgparentid JOIN pg_class c ON c.oid = t.tgrelid
                  JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE NOT t.tgisinternal AND t.tgenabled <> 'O' AND p.tgenabled <> t.tgenabled
                   AND t.tgname NOT LIKE 'godwit\\_%' ON CONFLICT DO NOTHING;
            FOR its IN SELECT f.*, n.nspname, c.relname FROM godwit.firing() f JOIN pg_class c ON c.oid = f.relation
                  JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY f.relation, f.kind, f.name
            LOOP
                -- Not before it has been validated, under whatever name: only what was valid is kept so long.
                IF its.definition LIKE '% NOT VALID' AND EXISTS (SELECT FROM godwit.aside a WHERE a.is_back
                    AND a.schema_name = its.nspname AND a.table_name = its.relname
                    AND (a.name = its.name OR NOT EXISTS (
                        SELECT FROM pg_constraint WHERE conrelid = its.relation AND conname = a.name)))
                THEN its.definition := left(its.definition, -length(' NOT VALID')); END IF;
                -- What is on its way back to a partitioned table is its partitions' so far, and is as theirs is now.
                UPDATE godwit.aside SET is_back = false,
                       definition = regexp_replace(its.definition, ' NOT VALID$', '')
                 WHERE kind = 'foreign key' AND its.kind = kind AND name = its.name
                   -- A partition may have one of its own by that name.
                   AND (is_back OR definition = regexp_replace(its.definition, ' NOT VALID$', ''))
                   AND to_regclass(format('%I.%I', schema_name, table_name)) IN (
                       SELECT relid FROM pg_partition_ancestors(its.relation) WHERE relid <> its.relation);
                IF NOT FOUND THEN
                    INSERT INTO godwit.aside (
                            kind, schema_name, table_name, name, definition, remark, depth, relation)
                        VALUES (its.kind, its.nspname, its.relname, its.name, its.definition, its.remark, its.depth,
                            its.relation)
                        ON CONFLICT (kind, schema_name, table_name, name) DO UPDATE SET is_back = false,
                            relation = excluded.relation, definition = excluded.definition;
                END IF;
                its_table := format('%I.%I', its.nspname, its.relname);
                EXECUTE CASE its.kind
                    WHEN 'trigger' THEN format('ALTER TABLE ONLY %s DISABLE TRIGGER %I', its_table, its.name)
                    WHEN 'rule' THEN format('ALTER TABLE %s DISABLE RULE %I', its_table, its.name)
                    ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', its_table, its.name) END;
                its_count := its_count + 1;
            END LOOP;
            -- What was on its way back and is nowhere now was dropped.
            DELETE FROM godwit.aside WHERE is_back;
            RETURN its_count;
        END $godwit$;
        -- Whether a statement may name this foreign key, or take away or rename what it hangs on: then it names a table
        -- of it, or the schema. NULL: everything meets what takes the writes.
        CREATE OR REPLACE FUNCTION godwit.is_met(a godwit.aside, statement text) RETURNS boolean LANGUAGE sql
        SET search_path = pg_catalog, pg_temp AS $godwit$
            SELECT statement IS NULL OR a.kind = 'foreign key'
               AND statement ~* 'drop|rename|constraint|references|schema' AND EXISTS (
                   SELECT FROM substring(a.definition FROM ' REFERENCES ([^(]*)') t (place), LATERAL (VALUES
                       (true, replace(a.table_name, '"', '""')),
                       (true, btrim(regexp_replace(place, '^.*[.]', ''), '"')),
                       (statement ~* 'schema', replace(a.schema_name, '"', '""')),
                       (statement ~* 'schema', btrim(split_part(place, '.', 1), '"'))) n (counts, name)
                    WHERE counts AND strpos(lower(statement), lower(n.name)) > 0)
        $godwit$;
        CREATE OR REPLACE FUNCTION godwit.put_back(statement text) RETURNS void LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $godwit$
        DECLARE its record; part record; its_table text;
        BEGIN
            PERFORM godwit.follow_renamed();
            FOR its IN SELECT a.kind, a.schema_name, a.table_name, a.name, a.definition, a.remark, c.oid AS relation,
                      c.relkind FROM godwit.aside a
                  JOIN pg_namespace n ON n.nspname = a.schema_name
                  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = a.table_name
                 WHERE NOT a.is_back AND godwit.is_met(a, statement)
                 ORDER BY a.kind, a.depth, a.schema_name, a.table_name, a.name
            LOOP
                its_table := format('%I.%I', its.schema_name, its.table_name);
                IF its.kind = 'trigger' THEN
                    CONTINUE WHEN NOT EXISTS (
                        SELECT FROM pg_trigger WHERE tgrelid = its.relation AND tgname = its.name);
                    -- With its copies, those of new partitions too; what was different there comes after it.
                    EXECUTE format('ALTER TABLE %s %s TRIGGER %I', its_table, CASE its.definition WHEN 'O' THEN 'ENABLE'
                        WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, its.name);
                ELSIF its.kind = 'rule' THEN
                    CONTINUE WHEN NOT EXISTS (
                        SELECT FROM pg_rewrite WHERE ev_class = its.relation AND rulename = its.name);
                    EXECUTE format('ALTER TABLE %s ENABLE RULE %I', its_table, its.name);
                ELSE
                    -- Before 18 no partitioned table has a constraint that is not validated, but its partitions may.
                    FOR part IN WITH leaves AS (SELECT relid::oid AS leaf FROM pg_partition_tree(its.relation)
                             WHERE isleaf AND its.relkind = 'p' AND current_setting('server_version_num')::int < 180000)
                        SELECT leaf FROM leaves UNION ALL SELECT its.relation WHERE NOT EXISTS (SELECT FROM leaves)
                    LOOP
                        CONTINUE WHEN EXISTS (
                            SELECT FROM pg_constraint WHERE conrelid = part.leaf AND conname = its.name);
                        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', part.leaf::regclass, its.name,
                            its.definition, CASE WHEN its.definition LIKE '% NOT VALID' OR NOT EXISTS (
                                SELECT FROM pg_class WHERE oid = part.leaf AND (relkind <> 'p'
                                    OR current_setting('server_version_num')::int >= 180000))
                                THEN '' ELSE ' NOT VALID' END);
                        -- Whoever reads there would be in the way when it has to go again, and the mirror with it.
                        IF statement IS NOT NULL THEN
                            EXECUTE (SELECT format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE',
                                         string_agg(c.oid::regclass::text, ', '))
                                FROM pg_constraint k JOIN pg_class c ON c.oid IN (k.conrelid, k.confrelid)
                               WHERE k.conrelid = part.leaf AND k.conname = its.name
                                 AND pg_has_role(c.relowner, 'USAGE'));
                        END IF;
                        IF part.leaf = its.relation AND its.remark IS NOT NULL THEN
                            EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', its.name, its_table, its.remark);
                        END IF;
                    END LOOP;
                END IF;
            END LOOP;
            DELETE FROM godwit.aside a WHERE (kind <> 'foreign key' OR definition LIKE '% NOT VALID')
               AND godwit.is_met(a, statement);
            UPDATE godwit.aside a SET is_back = true WHERE NOT is_back AND godwit.is_met(a, statement);
        END $godwit$;
        CREATE OR REPLACE FUNCTION godwit.put_back() RETURNS void LANGUAGE sql
        SET search_path = pg_catalog, pg_temp AS $godwit$ SELECT godwit.put_back(NULL) $godwit$;
        """

    /// What is set aside now, by kind.
    static let counts = """
        SELECT kind, count(*) FROM godwit.aside WHERE NOT is_back AND definition <> 'D' GROUP BY kind
        """
    static let isThere = "SELECT to_regprocedure('godwit.put_back()') IS NOT NULL"

    // MARK: what stands in the way

    /// What a role without that right needs besides, so that it can set aside what acts on these tables.
    static func obstacles(
        _ connection: borrowing Connection, tables: [UInt32]
    ) throws(PostgresFailure) -> [String] {
        if tables.isEmpty { return [] }
        let rows = try connection.query("""
            WITH \(members(tables)), keys AS (SELECT conrelid, confrelid FROM pg_constraint WHERE contype = 'f'
               AND (conrelid IN (SELECT member FROM members) OR confrelid IN (SELECT member FROM members)))
            SELECT format('%s.%s is not its own', n.nspname, c.relname) FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid IN (SELECT member FROM members UNION SELECT conrelid FROM keys)
               AND NOT pg_has_role(c.relowner, 'USAGE')
            UNION SELECT format('it may not REFERENCE %s.%s', n.nspname, c.relname) FROM pg_class c
              JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid IN (SELECT confrelid FROM keys) AND NOT has_table_privilege(c.oid, 'REFERENCES') ORDER BY 1
            """)
        return (0..<rows.count).map { rows[$0, 0] ?? "" }
    }

    private static func members(_ tables: [UInt32]) -> String {
        let list = "ARRAY[\(tables.map { "\($0)" }.joined(separator: ", "))]::oid[]"
        return """
            members AS (SELECT unnest(\(list)) AS member
                UNION SELECT p.relid FROM unnest(\(list)) r, pg_partition_tree(r) p)
            """
    }

    /// "2 triggers, 1 foreign key": of these tables, what would fire; and what has been set aside before.
    static func describe(
        _ connection: borrowing Connection, tables: [UInt32]
    ) throws(PostgresFailure) -> String {
        var found: [Rows] = []
        if !tables.isEmpty {
            found.append(try connection.query("""
                WITH \(members(tables))
                SELECT 'trigger', count(*) FROM pg_trigger WHERE tgrelid IN (SELECT member FROM members)
                   AND NOT tgisinternal AND tgenabled = 'O' AND tgname NOT LIKE 'godwit\\_%'
                UNION ALL SELECT 'rule', count(*) FROM pg_rewrite WHERE ev_class IN (SELECT member FROM members)
                   AND ev_enabled = 'O'
                UNION ALL SELECT 'foreign key', count(*) FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
                   AND (conrelid IN (SELECT member FROM members) OR confrelid IN (SELECT member FROM members))
                """))
        }
        if try connection.hasRelation("godwit.aside") {
            found.append(try connection.query(counts))
        }
        return describe(found)
    }

    /// - Parameter rows: kind and how many.
    static func describe(_ rows: Rows...) -> String { describe(rows) }

    private static func describe(_ found: [Rows]) -> String {
        let parts = ["trigger", "rule", "foreign key"].compactMap { kind -> String? in
            var count: Int64 = 0
            for rows in found {
                for row in 0..<rows.count where rows[row, 0] == kind { count += rows.integer(row, 1) ?? 0 }
            }
            return count == 0 ? nil : "\(count) \(kind)\(count == 1 ? "" : "s")"
        }
        return parts.isEmpty ? "no triggers and foreign keys" : parts.joined(separator: ", ")
    }

    // MARK: behind a switch

    /// Looks whether the foreign keys hold that were put back. Each is its own transaction; what was done stays done.
    ///
    /// - Returns: those that do not, and the first row that shows it. They stay NOT VALID: new rows are checked, and
    ///   the next call looks again.
    package static func validate(
        _ connection: borrowing Connection, progress: (String) -> Void = { _ in }
    ) throws(PostgresFailure) -> [String] {
        guard try connection.hasRelation("godwit.aside") else { return [] }
        // An earlier version has prepared the side: names are all that it has.
        if try connection.query("SELECT to_regprocedure('godwit.follow_renamed()') IS NOT NULL").flag(0, 0) {
            try connection.execute("SELECT godwit.follow_renamed()")
        }
        let rows = try connection.query("""
            SELECT a.schema_name, a.table_name, a.name, a.definition, a.remark, c.oid::bigint, c.relkind = 'p'
              FROM godwit.aside a LEFT JOIN pg_namespace n ON n.nspname = a.schema_name
              LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = a.table_name
             WHERE a.is_back AND a.kind = 'foreign key' ORDER BY 1, 2, 3
            """)
        var broken: [String] = []
        for row in 0..<rows.count {
            let table = TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? ""), name = rows[row, 2] ?? ""
            var isValid = true
            if let oid = rows.integer(row, 5) {
                if rows.flag(row, 6) { try reach(connection, name, rows[row, 3] ?? "", oid: oid) }
                isValid = try validate(connection, name, oid: oid) { broken.append($0) }
                if isValid, rows.flag(row, 6) {
                    try complete(connection, table, name, rows[row, 3] ?? "", rows[row, 4])
                }
            }
            guard isValid else { continue }
            try connection.execute("""
                DELETE FROM godwit.aside WHERE kind = 'foreign key' AND is_back AND name = \(SQL.literal(name))
                   AND schema_name = \(SQL.literal(table.schema)) AND table_name = \(SQL.literal(table.name))
                """)
            progress("\(table): the foreign key \(name) holds")
        }
        return broken
    }

    /// What `validate` has left.
    static func unvalidated(
        _ connection: borrowing Connection, _ side: Side
    ) throws(PostgresFailure) -> [Preflight.Finding] {
        guard try connection.hasRelation("godwit.aside") else { return [] }
        let rows = try connection.query("""
            SELECT schema_name, table_name, name FROM godwit.aside
             WHERE is_back AND kind = 'foreign key' ORDER BY 1, 2, 3
            """)
        return (0..<rows.count).map { row in
            Preflight.note(
                "\(side.title) \(TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? ""))",
                "the foreign key \(rows[row, 2] ?? "") is NOT VALID: what was there before the switch may not hold",
                "A Godwit that serves validates it, once behind the switch and when it starts, and says in its log "
                    + "which row does not hold: mend it")
        }
    }

    /// - Returns: it holds, of all parts.
    private static func validate(
        _ connection: borrowing Connection, _ name: String, oid: Int64, _ tell: (String) -> Void
    ) throws(PostgresFailure) -> Bool {
        let parts = try connection.query("""
            SELECT k.conrelid::regclass FROM pg_constraint k
             WHERE k.contype = 'f' AND k.conname = \(SQL.literal(name)) AND NOT k.convalidated AND k.conparentid = 0
               AND (k.conrelid = \(oid) OR k.conrelid IN (SELECT relid FROM pg_partition_tree(\(oid)::oid::regclass)))
             ORDER BY 1
            """)
        var isValid = true
        for part in 0..<parts.count {
            let place = parts[part, 0] ?? ""
            do throws(PostgresFailure) {
                try connection.execute("ALTER TABLE \(place) VALIDATE CONSTRAINT \(SQL.identifier(name))")
            } catch {
                guard error.kind == .refused, error.sqlState == "23503" else { throw error }
                isValid = false
                tell("\(place): the foreign key \(name) does not hold and stays NOT VALID (\(error.detail)): mend the "
                    + "rows, then ALTER TABLE \(place) VALIDATE CONSTRAINT \(SQL.identifier(name))")
            }
        }
        return isValid
    }

    /// Before 18 a partition that came since has nothing of the key, and its rows were never asked: the table would
    /// have to ask them while all who write there wait, and could not take the key for as long as one does not hold.
    private static func reach(
        _ connection: borrowing Connection, _ name: String, _ definition: String, oid: Int64
    ) throws(PostgresFailure) {
        let leaves = try connection.query("""
            SELECT p.relid FROM pg_partition_tree(\(oid)::oid::regclass) p JOIN pg_class c ON c.oid = p.relid
             WHERE c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_constraint k
                 WHERE k.conrelid IN (\(oid), c.oid) AND k.conname = \(SQL.literal(name))
                    OR k.conrelid = c.oid AND k.contype = 'f'
                       AND pg_get_constraintdef(k.oid) = \(SQL.literal(definition))) ORDER BY 1
            """)
        for leaf in 0..<leaves.count {
            try add(connection, leaves[leaf, 0] ?? "", name, "\(definition) NOT VALID", nil)
        }
    }

    /// A partitioned table takes the valid constraints of its partitions for its own, without reading a row.
    private static func complete(
        _ connection: borrowing Connection, _ table: TableName, _ name: String, _ definition: String, _ remark: String?
    ) throws(PostgresFailure) {
        let isThere = try connection.query("""
            SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = \(SQL.literal(table.sql))::regclass
                AND conname = \(SQL.literal(name)))
            """).flag(0, 0)
        if !isThere { try add(connection, table.sql, name, definition, remark) }
    }

    /// - Parameter place: a table, quoted.
    private static func add(
        _ connection: borrowing Connection, _ place: String, _ name: String, _ definition: String, _ remark: String?
    ) throws(PostgresFailure) {
        let constraint = SQL.identifier(name)
        do throws(PostgresFailure) {
            try connection.execute("""
                BEGIN; SET LOCAL lock_timeout = '\(lockTimeout)';
                ALTER TABLE \(place) ADD CONSTRAINT \(constraint) \(definition);
                \(remark.map { "COMMENT ON CONSTRAINT \(constraint) ON \(place) IS \(SQL.literal($0));" } ?? "")
                COMMIT
                """)
        } catch {
            if error.kind == .refused { try connection.execute("ROLLBACK") }
            throw error
        }
    }

    /// Behind a switch, in a session of its own: false where another one does it.
    package static func mayValidate(_ connection: borrowing Connection) throws(PostgresFailure) -> Bool {
        try connection.query("SELECT pg_try_advisory_lock(\(AdvisoryLock.validation))").flag(0, 0)
    }

    /// Whoever validates has locks that a switch needs; it is done again later.
    static let endValidation = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()
           AND usename = current_user AND application_name = 'godwit \(validationPurpose)'
        """
}

/// DDL and what is set aside on the target.
extension SchemaChange {
    /// Whether something is away that this statement may name, or whose text it would leave wrong.
    func isAway(for statement: String) throws(Failure) -> Bool {
        // The target may have been prepared by an earlier version.
        let isThere = "SELECT to_regprocedure('godwit.put_back(text)') IS NOT NULL"
        guard try onTarget(isThere)?.flag(0, 0) == true else { return false }
        return try onTarget("""
            SELECT EXISTS (SELECT FROM godwit.aside a
                WHERE NOT a.is_back AND godwit.is_met(a, \(SQL.literal(statement))))
            """)?.flag(0, 0) == true
    }

    /// Foreign keys that the statement may meet are on the target while it runs there. The mirror, which stands, sets
    /// them aside again when it goes on, as they are then. What cannot come back stays away.
    func putBack(for statement: String, until deadline: Deadline) throws(Failure) {
        guard try isAway(for: statement) else { return }
        // However this ends: before its next batch the mirror opens anew, and clears its way. A row that it deletes and
        // writes again would take others with it (CASCADE), of which nobody would ever know.
        try onSource("UPDATE godwit.control SET generation = generation + 1")
        do throws(Failure) {
            try onTarget("""
                SET LOCAL statement_timeout = \(max(1, deadline.millisLeft));
                SELECT FROM godwit.progress FOR UPDATE; SELECT godwit.put_back(\(SQL.literal(statement)))
                """)
        } catch {
            guard case .side(_, let failure) = error, failure.kind == .refused, !failure.isLockConflict else {
                throw error
            }
        }
    }
}
