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
