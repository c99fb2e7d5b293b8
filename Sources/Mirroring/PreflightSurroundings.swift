import LibPQ
import Primitives

/// What is around the tables, and is not carried with their rows. It stands in nobody's way, and is told.
extension Preflight {
    // MARK: rows of extensions

    /// An extension's tables are its own, but for the rows that pg_dump takes for the application's.
    static func extensionRows(_ old: borrowing Connection) throws(PostgresFailure) -> [Finding] {
        let tables = try old.query("""
            SELECT e.extname, n.nspname, c.relname, x.condition,
                   has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                     AND NOT row_security_active(c.oid)
              FROM pg_extension e, unnest(e.extconfig, e.extcondition) x (relation, condition)
              JOIN pg_class c ON c.oid = x.relation JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') ORDER BY 1, 2, 3
            """)
        var found: [Finding] = []
        for row in 0..<tables.count {
            let name = TableName(schema: tables[row, 1] ?? "", name: tables[row, 2] ?? "")
            var mayLook = tables.flag(row, 4)
            if mayLook {
                do throws(PostgresFailure) {
                    let any = try old.query("SELECT EXISTS (SELECT FROM \(name.sql) \(tables[row, 3] ?? ""))")
                    if !any.flag(0, 0) { continue }
                } catch {
                    // The condition is the extension's, and may need another search_path than ours.
                    guard error.kind == .refused else { throw error }
                    mayLook = false
                }
            }
            found.append(note(
                "OLD \(name)", "belongs to the extension \(tables[row, 0] ?? "") and \(mayLook ? "holds" : "may hold") "
                    + "rows that are not its own: they are not mirrored",
                "Bring them to NEW yourself (pg_dump --data-only -t), at the latest before the cutover"))
        }
        return found
    }

    // MARK: what NEW computes and checks of a row that comes

    /// Functions that find what their body names by the caller's search_path, which is pg_catalog's alone.
    static func functions(_ new: borrowing Connection) throws(PostgresFailure) -> [Finding] {
        let rows = try new.query("""
            SELECT p.oid::regprocedure, min(pg_describe_object(d.classid, d.objid, d.objsubid))
              FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_language l ON l.oid = p.prolang
             WHERE d.refclassid = 'pg_proc'::regclass AND l.lanname NOT IN ('internal', 'c') AND p.prosqlbody IS NULL
               AND p.pronamespace <> 'pg_catalog'::regnamespace
               AND NOT EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s LIKE 'search\\_path=%')
               AND (d.classid = 'pg_constraint'::regclass
                 OR d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_index WHERE indexrelid = d.objid)
                 OR d.classid = 'pg_attrdef'::regclass AND EXISTS (
                     SELECT FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
                      WHERE f.oid = d.objid AND a.attgenerated <> ''))
             GROUP BY p.oid ORDER BY 1
            """)
        return (0..<rows.count).map { row in
            note(
                "NEW function \(rows[row, 0] ?? "")",
                "is called for rows that come (\(rows[row, 1] ?? "")), and has no search_path of its own: what it "
                    + "names without a schema, it does not find for the mirror",
                "Where it names such things: ALTER FUNCTION ... SET search_path on both sides")
        }
    }

    /// Event triggers know no tables: they fire for those that the mirror makes for itself, and what they write there
    /// is the mirror's.
    static func eventTriggers(_ new: borrowing Connection) throws(PostgresFailure) -> [Finding] {
        let firing = try ApplierMark.of(new) == .replica ? "R" : "O"
        let rows = try new.query("""
            SELECT evtname FROM pg_event_trigger e WHERE evtevent IN ('ddl_command_start', 'ddl_command_end')
               AND evtenabled IN ('A', '\(firing)') AND (evttags IS NULL OR 'CREATE TABLE AS' = ANY (evttags))
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass
                                  AND d.objid = e.oid AND d.deptype = 'e') ORDER BY 1
            """)
        return (0..<rows.count).map { row in
            note(
                "NEW event trigger \(rows[row, 0] ?? "")",
                "fires for the temporary tables that the mirror makes: rows that it writes into mirrored tables stay "
                    + "there, and only verify finds them",
                "Where it writes rows: ALTER EVENT TRIGGER ... DISABLE until the cutover")
        }
    }

    /// Of enums that both sides have.
    static func labels(old: borrowing Connection, new: borrowing Connection) throws(PostgresFailure) -> [Finding] {
        let query = """
            SELECT n.nspname, t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid
              JOIN pg_namespace n ON n.oid = t.typnamespace ORDER BY 1, 2, e.enumsortorder
            """
        let (ours, theirs) = (try old.query(query), try new.query(query))
        var known: [TableName: Set<ExactName>] = [:]
        for (row, type) in theirs.tableNames.enumerated() {
            known[type, default: []].insert(ExactName(theirs[row, 2] ?? ""))
        }
        return ours.tableNames.enumerated().compactMap { (row, type) -> Finding? in
            let label = ours[row, 2] ?? ""
            guard let labels = known[type], !labels.contains(ExactName(label)) else { return nil }
            return note(
                "NEW type \(type)", "lacks the label \(SQL.literal(label)): a row that has it stops the mirror",
                "ALTER TYPE ... ADD VALUE on NEW, where OLD has it")
        }
    }

    /// NEW asks each row that comes; OLD may never have asked those that were there.
    static func checks(
        old: borrowing Connection, new: borrowing Connection, _ tables: [TableName]
    ) throws(PostgresFailure) -> [Finding] {
        let query = """
            SELECT n.nspname, c.relname, k.conname, regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', ''),
                   k.convalidated AND to_jsonb(k)->>'conenforced' IS DISTINCT FROM 'false', k.contype = 'c',
                   to_jsonb(k)->>'conenforced' IS DISTINCT FROM 'false'
              FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE k.contype IN ('c', 'n') AND NOT c.relispartition AND n.nspname NOT IN (
                 'pg_catalog', 'information_schema', 'godwit') ORDER BY 1, 2, 3
            """
        let (ours, theirs, known) = (try old.query(query), try new.query(query), Set(tables))
        // By name, or by what they say.
        var asked: Set<[ExactName]> = [], unasked: Set<[ExactName]> = []
        func names(_ rows: Rows, _ row: Int, _ column: Int) -> [ExactName] {
            [0, 1, column].map { ExactName(rows[row, $0] ?? "") }
        }
        for row in 0..<ours.count {
            let both = [2, 3].map { names(ours, row, $0) }
            if ours.flag(row, 4) { asked.formUnion(both) } else { unasked.formUnion(both) }
        }
        return (0..<theirs.count).compactMap { row -> Finding? in
            let table = TableName(schema: theirs[row, 0] ?? "", name: theirs[row, 1] ?? "")
            let both = [2, 3].map { names(theirs, row, $0) }
            guard known.contains(table), theirs.flag(row, 6), !both.contains(where: { asked.contains($0) })
            else { return nil }
            let isUnasked = both.contains { unasked.contains($0) }
            // Before 18 a NOT NULL was no constraint, and always held.
            guard isUnasked || theirs.flag(row, 5) else { return nil }
            return note(
                "NEW \(table) constraint \(theirs[row, 2] ?? "")",
                "is \(isUnasked ? "NOT VALID" : "none") on OLD: rows there need not hold",
                "One that does not hold stops the mirror: ALTER TABLE ... VALIDATE CONSTRAINT on OLD, or drop it on "
                    + "NEW until the cutover")
        }
    }

    // MARK: locks

    static func room(_ connection: borrowing Connection, _ side: String) throws(PostgresFailure) -> [Finding] {
        let rows = try connection.query("""
            SELECT count(*), current_setting('max_locks_per_transaction')::bigint
                   * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)
              FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'S') AND relpersistence <> 't'
            """)
        return room(side, relations: rows.integer(0, 0) ?? 0, locks: rows.integer(0, 1) ?? 0)
    }

    /// Pure. Each batch locks all mirrored tables, their partitions too; so do `verify`, twice, and a switch; and who
    /// asks where all sequences stand locks those.
    package static func room(_ side: String, relations: Int64, locks: Int64) -> [Finding] {
        guard relations > locks / 2 else { return [] }
        return [note(
            side, "has \(relations) tables, partitions and sequences, and room for \(locks) locks in all sessions: the "
                + "mirror, verify and a switch lock all of them at once, and would fail with \"out of shared memory\"",
            "Raise max_locks_per_transaction (a restart) until there is room for several times as many")]
    }

    // MARK: settings

    /// What the same statement means, or how its answer is written, depends on these.
    private static let settingNames = [
        "array_nulls", "bytea_output", "datestyle", "default_text_search_config", "default_transaction_isolation",
        "default_transaction_read_only", "extra_float_digits", "intervalstyle", "lc_monetary", "lc_numeric", "lc_time",
        "role", "search_path", "standard_conforming_strings", "timezone", "transform_null_equals", "xmloption",
    ]

    private struct SettingPlace: Hashable {
        /// nil: of all roles.
        var role: ExactName?
        var isOfDatabase: Bool
        var name: String

        var words: String {
            switch (role, isOfDatabase) {
            case (nil, false): "the server"
            case (nil, true): "the database"
            case (let role?, false): "role \(role.text)"
            case (let role?, true): "role \(role.text) in this database"
            }
        }
    }

    /// A database's, a role's and a server's settings are no part of a schema: pg_dump leaves them out.
    static func settings(old: borrowing Connection, new: borrowing Connection) throws(PostgresFailure) -> [Finding] {
        let (ours, theirs) = (try given(old), try given(new))
        var found: [(place: SettingPlace, old: String?, new: String?)] = []
        for place in Set(ours.keys).union(theirs.keys) where ours[place] != theirs[place] {
            found.append((place, ours[place], theirs[place]))
        }
        // What the control user's session would begin with is the server's, where nobody has said otherwise.
        let (startsOld, startsNew) = (try starts(old), try starts(new))
        let said = Set(ours.keys).union(theirs.keys).map(\.name)
        for (name, value) in startsOld where !said.contains(name) {
            guard let other = startsNew[name], other != value else { continue }
            found.append((SettingPlace(role: nil, isOfDatabase: false, name: name), value, other))
        }
        return found.map { place, old, new in
            note(
                "NEW", "\(place.words) has \(place.name) \(shown(new)), on OLD \(shown(old)): the same statement may "
                    + "mean something else there, or its answer look otherwise",
                "Give both the same, or make sure that clients set it themselves")
        }.sorted { $0.problem < $1.problem }
    }

    private static func shown(_ value: String?) -> String { value.map { "'\($0)'" } ?? "not set" }

    private static var settingList: String { settingNames.map { "'\($0)'" }.joined(separator: ", ") }

    /// By ALTER ROLE and ALTER DATABASE.
    private static func given(_ connection: borrowing Connection) throws(PostgresFailure) -> [SettingPlace: String] {
        let rows = try connection.query("""
            SELECT r.rolname, s.setdatabase <> 0, lower(split_part(entry, '=', 1)),
                   substr(entry, position('=' IN entry) + 1)
              FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) entry
             WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
               AND lower(split_part(entry, '=', 1)) IN (\(settingList))
            """)
        var found: [SettingPlace: String] = [:]
        for row in 0..<rows.count {
            let place = SettingPlace(
                role: rows[row, 0].map { ExactName($0) }, isOfDatabase: rows.flag(row, 1), name: rows[row, 2] ?? "")
            found[place] = rows[row, 3] ?? ""
        }
        return found
    }

    private static func starts(_ connection: borrowing Connection) throws(PostgresFailure) -> [String: String] {
        let rows = try connection.query("""
            SELECT lower(name), CASE WHEN reset_val IN ('Etc/UTC', 'GMT', 'UCT') THEN 'UTC' ELSE reset_val END
              FROM pg_settings WHERE lower(name) IN (\(settingList))
            """)
        var found: [String: String] = [:]
        for row in 0..<rows.count { found[rows[row, 0] ?? ""] = rows[row, 1] ?? "" }
        return found
    }
}
