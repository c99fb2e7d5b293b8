import LibPQ
import Primitives

/// Finds, before anything is touched, what cannot be carried from OLD to NEW, and says how to mend it.
/// Stateless.
package enum Preflight {
    package struct Finding: Sendable, Equatable, CustomStringConvertible {
        package enum Weight: String, Sendable { case blocking, note }

        package var weight: Weight
        /// "OLD" or "NEW" and the object.
        package var place: String
        package var problem: String
        package var fix: String

        package var description: String { "\(place): \(problem). \(fix)." }
    }

    package struct Result: Sendable {
        package var findings: [Finding]
        /// Tables of OLD that can be carried.
        package var tables: [TableDescription]
        package var blocking: [Finding] { findings.filter { $0.weight == .blocking } }
    }

    /// - Parameter direction: of the mirror. From NEW to OLD only what concerns the tables is asked: the databases have
    ///   passed before.
    /// - Parameter bulk: OLD's names of the tables that are to be captured by statement; nil: as they are now.
    /// - Parameter bulkMayCome: those of them that OLD has not may be made by DDL through Godwit.
    /// - Returns: tables as they are on the source, whatever a mapping makes of them.
    package static func check(
        _ direction: MirrorDirection = .forward, old: borrowing Connection, new: borrowing Connection,
        mappings: TableMappings = .none, bulk: Set<TableName>? = nil, bulkMayCome: Bool = false
    ) throws(PostgresFailure) -> Result {
        guard direction == .forward else { return try checkTables(direction, mappings, source: new, target: old) }
        var findings = try sides(old: old, new: new)
        let oldTables = try CatalogReader.tables(old)
        let newTables = try CatalogReader.tables(new)
        findings += try database(old, "OLD") + database(new, "NEW")
        findings += try oldOnly(old)
        findings += try extensionRows(old)
        findings += try settings(old: old, new: new)
        findings += try newOnly(new)
        findings += try functions(new) + labels(old: old, new: new) + checks(old: old, new: new, oldTables.map(\.name))
        findings += try room(old, "OLD") + room(new, "NEW") + eventTriggers(new)
        findings += MappingCheck.tables(mappings, old: oldTables, new: newTables)
        if let bulk { findings += try StatementCapture.findings(bulk, mayCome: bulkMayCome, old, oldTables) }
        var carried: [TableDescription] = [], twins: [TableDescription] = []
        for table in oldTables where !table.isPartition {
            let twin = mappings.twin(of: table, on: .old, among: newTables)
            let shape = mappings.shape(table, as: twin, from: .old)
            var found = defects(of: table)
            if let twin, let mapping = mappings.mapping(table.name, on: .old) {
                found += MappingCheck.columns(mapping, old: table, new: twin)
                found += try MappingCheck.expressions(
                    mapping, from: .old, old, source: table, shape: shape, target: twin)
                if !mapping.isOneWay, mapping.obstacles(old: table, new: twin).isEmpty {
                    let back = mappings.shape(twin, as: table, from: .new)
                    found += try MappingCheck.expressions(
                        mapping, from: .new, new, source: twin, shape: back, target: table)
                }
            }
            found += SchemaMatch.defects(old: shape, new: twin)
            found += try keyOperators(table, old) + keyCasts(table, old)
            found += try keyIndex(table, old)
            findings += found
            guard isCarried(table, found) else { continue }
            carried.append(table)
            if let twin { twins.append(twin) }
        }
        findings += try role(new, newTables.filter { table in
            !table.isPartition && table.kind != .foreign
                && oldTables.contains { mappings.twinName($0.name, of: .old) == table.name }
        })
        findings += try SetAside.unvalidated(new, .new)
        findings += try rights(old, new, carried, twins)
        let isReadable = !findings.contains { finding in
            ["we may not SELECT", "we may not look"].contains { finding.problem.hasPrefix($0) }
        }
        if isReadable {
            findings += try leftovers(new, twins)
        }
        return Result(findings: findings, tables: carried)
    }

    private static func checkTables(
        _ direction: MirrorDirection, _ mappings: TableMappings, source: borrowing Connection,
        target: borrowing Connection
    ) throws(PostgresFailure) -> Result {
        var findings = try firing(target, on: direction.target)
        findings += try SetAside.unvalidated(source, direction.source)
        let twins = try CatalogReader.tables(target)
        var carried: [TableDescription] = []
        for table in try CatalogReader.tables(source) where !table.isPartition {
            guard mappings.isCarried(table.name, from: direction.source) else { continue }
            let twin = mappings.twin(of: table, on: direction.source, among: twins)
            let shape = mappings.shape(table, as: twin, from: direction.source)
            let found = defects(of: table, on: direction.source)
                + SchemaMatch.defects(direction, old: shape, new: twin)
            findings += found
            if isCarried(table, found) { carried.append(table) }
        }
        return Result(findings: findings, tables: carried)
    }

    /// The rows of a foreign table are not the database's, on neither side.
    private static func isCarried(_ table: TableDescription, _ found: [Finding]) -> Bool {
        table.kind != .foreign && !found.contains { $0.weight == .blocking }
    }

    static func blocking(_ place: String, _ problem: String, _ fix: String) -> Finding {
        Finding(weight: .blocking, place: place, problem: problem, fix: fix)
    }

    static func note(_ place: String, _ problem: String, _ fix: String) -> Finding {
        Finding(weight: .note, place: place, problem: problem, fix: fix)
    }

    // MARK: one table of OLD

    /// Pure: what the description alone tells.
    static func defects(of table: TableDescription, on side: Side = .old) -> [Finding] {
        let place = "\(side.title) \(table.name)"
        switch table.kind {
        case .foreign:
            let fix = "Create it on \(side.other.title) as well"
            return [note(place, "is a foreign table: its rows are not in \(side.title)", fix)]
        case .partitioned, .ordinary:
            break
        }
        var found: [Finding] = []
        if table.isUnlogged {
            found.append(blocking(place, "is unlogged: a crash empties it unseen", "ALTER TABLE ... SET LOGGED"))
        }
        if table.hasUnfitPartition {
            found.append(blocking(
                place, "has a foreign or unlogged partition", "DETACH it, or make it an ordinary table"))
        }
        if table.key.isEmpty {
            let inherits = table.inheritsFrom.map { " (it inherits from \($0), and keys are not inherited)" } ?? ""
            found.append(blocking(
                place, "has no primary key" + inherits,
                "ALTER TABLE ... ADD PRIMARY KEY, or a unique index on columns that are NOT NULL"))
        }
        if let column = table.lookalike {
            found.append(blocking(
                place, "has two columns named \(column) that differ in nothing but their Unicode form",
                "Rename one of them"))
        }
        if table.hidesRows {
            found.append(blocking(
                place, "row level security hides rows from us", "Give the control user BYPASSRLS"))
        }
        if !table.isOwned {
            found.append(blocking(
                place, "is not owned by the control user, who cannot put triggers on it",
                "GRANT the owner's role to the control user"))
        }
        return found
    }

    /// Our statements find rows by the key's = and <, which they look for in pg_catalog alone, whatever anybody's
    /// search_path has before it: types of extensions (ltree, isbn13) have theirs elsewhere.
    private static func keyOperators(
        _ table: TableDescription, _ old: borrowing Connection
    ) throws(PostgresFailure) -> [Finding] {
        var found: [Finding] = []
        for column in table.keyColumns where !column.isBuiltIn {
            do throws(PostgresFailure) {
                try old.execute("SELECT v = v, v < v FROM (SELECT NULL::\(column.type) WHERE false) t (v)")
            } catch {
                guard error.kind == .refused else { throw error }
                // There is none, or more than one that would do.
                guard ["42883", "42725"].contains(error.sqlState) else { continue }
                found.append(blocking(
                    "OLD \(table.name).\(column.name)",
                    "is of the key, and PostgreSQL itself has no = and < for its type \(column.type)",
                    "Give the table a primary key of another type, and this column a unique index"))
            }
        }
        return found
    }

    /// In large batches a key is made of its text by a cast. Where somebody has made one in the place of the type's own
    /// reading, it is his function that runs, with our rights, and what it makes need not be the key.
    private static func keyCasts(
        _ table: TableDescription, _ old: borrowing Connection
    ) throws(PostgresFailure) -> [Finding] {
        var found: [Finding] = []
        for column in table.keyColumns where !column.isBuiltIn {
            let type = column.baseType ?? column.type
            let casts = try old.query("""
                WITH RECURSIVE made (oid) AS (SELECT atttypid FROM pg_attribute
                    WHERE attrelid = \(table.oid) AND attname = \(SQL.literal(column.name))
                  UNION SELECT t.typbasetype FROM made m JOIN pg_type t ON t.oid = m.oid WHERE t.typtype = 'd')
                SELECT castfunc::regprocedure FROM pg_cast JOIN made m ON m.oid = casttarget
                 WHERE castsource = 'text'::regtype AND castfunc >= 16384
                """)
            guard casts.count > 0, let function = casts[0, 0] else { continue }
            found.append(blocking(
                "OLD \(table.name).\(column.name)",
                "is of the key, and a cast makes its type \(type) of text by \(function), which the mirror would call",
                "DROP CAST (text AS \(type)): without it the type itself reads its texts"))
        }
        return found
    }

    /// An index on the key need not serve that `=`: an extension's type (citext) has an equality of its own in it, and
    /// one with another collation than its column finds nothing by the column's.
    private static func keyIndex(
        _ table: TableDescription, _ old: borrowing Connection
    ) throws(PostgresFailure) -> [Finding] {
        guard table.kind == .ordinary, table.keyColumns.contains(where: { !$0.isBuiltIn || $0.isCollatable }) else {
            return []
        }
        let condition = table.keyColumns.map { "\($0.sql) = (SELECT NULL::\($0.type))" }.joined(separator: " AND ")
        do throws(PostgresFailure) {
            let plan = try old.execute("""
                BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL lock_timeout = '1s';
                EXPLAIN SELECT FROM \(table.rows) t WHERE \(condition); ROLLBACK
                """)
            guard let plan, !(0..<plan.count).contains(where: { plan[$0, 0]?.contains("Index Cond") ?? false }) else {
                return []
            }
        } catch {
            // Also where somebody has the table for himself: he is not waited for.
            guard error.kind == .refused else { throw error }
            try old.execute("ROLLBACK")
            return []
        }
        return [note(
            "OLD \(table.name)", "no index finds a row by its key as PostgreSQL's own = and the column's collation "
                + "compare it: each batch with a change of the table reads all of it, on both sides",
            "Where it is large, give it a primary key of another type, or a unique index in the column's collation")]
    }

    // MARK: databases

    private static func sides(
        old: borrowing Connection, new: borrowing Connection
    ) throws(PostgresFailure) -> [Finding] {
        // A copy of OLD's files, once promoted, keeps the identifier, but is another server.
        let identity = """
            SELECT concat_ws('/', system_identifier, current_database(), pg_postmaster_start_time()) FROM
                pg_control_system()
            """
        guard try old.query(identity)[0, 0] == new.query(identity)[0, 0] else { return [] }
        return [blocking("OLD and NEW", "are the same database of the same server", "Name two databases")]
    }

    private static func database(
        _ connection: borrowing Connection, _ side: String
    ) throws(PostgresFailure) -> [Finding] {
        var found: [Finding] = []
        let facts = try connection.query("""
            SELECT pg_is_in_recovery(), current_setting('server_encoding'), current_setting('server_version_num')::int,
                   has_database_privilege(current_database(), 'CREATE'), current_user,
                   to_regclass('godwit.\(side == "OLD" ? "control" : "progress")') IS NULL
                     AND EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('godwit')),
                   has_database_privilege(current_database(), 'TEMPORARY'),
                   (SELECT r.rolname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
                     WHERE n.nspname = 'godwit' AND NOT r.rolsuper AND r.rolname <> current_user)
            """)
        let user = facts[0, 4] ?? ""
        if facts.flag(0, 0) {
            found.append(blocking(side, "is a standby and takes no writes", "Name the primary"))
        }
        if facts[0, 1] != "UTF8" {
            found.append(blocking(side, "has encoding \(facts[0, 1] ?? "")", "Only UTF8 databases are carried yet"))
        }
        if facts.integer(0, 2) ?? 0 < 140_000 {
            found.append(blocking(side, "is older than PostgreSQL 14", "Use 14 or later"))
        }
        if !facts.flag(0, 3) {
            found.append(blocking(
                side, "\(user) may not create the schema godwit", "GRANT CREATE ON DATABASE ... TO \(user)"))
        }
        // For what comes in large batches, and for keys whose order is each side's own; behind a cutover on OLD.
        if !facts.flag(0, 6) {
            found.append(blocking(
                side, "\(user) may not make temporary tables", "GRANT TEMPORARY ON DATABASE ... TO \(user)"))
        }
        if facts.flag(0, 5) {
            found.append(blocking(side, "has a schema godwit that is not ours", "Rename that schema"))
        } else if let owner = facts[0, 7] {
            // Whatever it has of the names that we look for there would run as we do: triggers, defaults, functions.
            found.append(blocking(
                side, "the schema godwit belongs to \(owner): what is in it would run with the rights of \(user)",
                "Rename that schema; or, if all in it was made by an earlier control user of yours, "
                    + "ALTER SCHEMA godwit OWNER TO \(user)"))
        }
        let publications = try connection.query("SELECT pubname FROM pg_publication WHERE puballtables ORDER BY 1")
        for row in 0..<publications.count {
            found.append(blocking(
                "\(side) publication \(publications[row, 0] ?? "")", side == "OLD"
                    ? "is FOR ALL TABLES: it would send Godwit's journal to its subscribers"
                    : "is FOR ALL TABLES: it would send every mirrored row, and Godwit's own, to its subscribers",
                "Publish the tables by name"))
        }
        return found
    }

    private static func oldOnly(_ old: borrowing Connection) throws(PostgresFailure) -> [Finding] {
        var found: [Finding] = []
        let objects = try old.query("SELECT count(*) FROM pg_largeobject_metadata")
        if let count = objects.integer(0, 0), count > 0 {
            found.append(blocking(
                "OLD", "has \(count) large objects, which no trigger sees", "Move them to bytea columns (lo_get)"))
        }
        let views = try old.query("""
            SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'm' ORDER BY 1, 2
            """)
        for row in 0..<views.count {
            found.append(note(
                "OLD \(TableName(schema: views[row, 0] ?? "", name: views[row, 1] ?? ""))",
                "is a materialized view: its rows are not mirrored", "Refresh it on NEW on its own"))
        }
        return found
    }

    private static func newOnly(_ new: borrowing Connection) throws(PostgresFailure) -> [Finding] {
        var found = try firing(new)
        let subscribed = try new.query("""
            SELECT DISTINCT n.nspname, c.relname FROM pg_subscription_rel s JOIN pg_class c ON c.oid = s.srrelid
              JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2
            """)
        for row in 0..<subscribed.count {
            let table = TableName(schema: subscribed[row, 0] ?? "", name: subscribed[row, 1] ?? "")
            found.append(blocking(
                "NEW \(table)", "is fed by a subscription, which would write beside the mirror", "DROP SUBSCRIPTION"))
        }
        return found
    }

    /// How the mirror will keep NEW's triggers and foreign keys from firing, and what that costs.
    private static func role(
        _ new: borrowing Connection, _ twins: [TableDescription]
    ) throws(PostgresFailure) -> [Finding] {
        guard let user = try ApplierMark.of(new).user else { return [] }
        let oids = twins.map(\.oid)
        let grant = "GRANT SET ON PARAMETER session_replication_role TO it (15 and later), or use a superuser"
        let problem = "the control user may not set session_replication_role"
        let obstacles = try SetAside.obstacles(new, tables: oids)
        if !obstacles.isEmpty {
            let named = obstacles.prefix(3).joined(separator: ", ")
                + (obstacles.count > 3 ? " and \(obstacles.count - 3) more" : "")
            return [blocking(
                "NEW", "\(problem): foreign keys and triggers would fire, and it cannot set them aside (\(named))",
                "\(grant), or GRANT it the role of the tables' owner")]
        }
        return [note(
            "NEW", "\(problem): \(try SetAside.describe(new, tables: oids)) of the mirrored tables are set aside by "
                + "godwit prepare, and put back when NEW takes the writes",
            "Nothing must be done. Until the cutover NEW is without them; it makes the foreign keys again NOT VALID, "
                + "and they are validated behind it, which reads each table once. Whoever logs in as \(user) and sets "
                + "\(ApplierMark.setting) passes for the mirror: let no application do so. To spare all of that: "
                + grant)]
    }

    /// What would act on mirrored rows although we write them in replica role.
    static func firing(_ new: borrowing Connection, on side: Side = .new) throws(PostgresFailure) -> [Finding] {
        var found: [Finding] = []
        let rules = try new.query("""
            SELECT n.nspname, c.relname, r.rulename, r.ev_enabled = 'A' FROM pg_rewrite r
              JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE r.ev_enabled IN ('A', 'R') AND c.relkind IN ('r', 'p') ORDER BY 1, 2, 3
            """)
        for row in 0..<rules.count {
            let table = TableName(schema: rules[row, 0] ?? "", name: rules[row, 1] ?? "")
            found.append(blocking(
                "\(side.title) \(table) rule \(rules[row, 2] ?? "")",
                "is enabled \(rules.flag(row, 3) ? "ALWAYS" : "REPLICA") and would rewrite mirrored rows",
                "ALTER TABLE ... ENABLE RULE (origin) or DISABLE RULE until the cutover"))
        }
        let triggers = try new.query("""
            SELECT n.nspname, c.relname, t.tgname, t.tgenabled = 'A'
              FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND n.nspname <> 'godwit'
               AND t.tgname NOT LIKE 'godwit\\_%' ORDER BY 1, 2, 3
            """)
        for row in 0..<triggers.count {
            let table = TableName(schema: triggers[row, 0] ?? "", name: triggers[row, 1] ?? "")
            found.append(blocking(
                "\(side.title) \(table) trigger \(triggers[row, 2] ?? "")",
                "is enabled \(triggers.flag(row, 3) ? "ALWAYS" : "REPLICA") and would fire on mirrored rows",
                "ALTER TABLE ... ENABLE TRIGGER (origin) or DISABLE TRIGGER until the cutover"))
        }
        return found
    }

    // MARK: rights and leftovers

    private static func rights(
        _ old: borrowing Connection, _ new: borrowing Connection, _ tables: [TableDescription],
        _ twins: [TableDescription]
    ) throws(PostgresFailure) -> [Finding] {
        guard !tables.isEmpty, !twins.isEmpty else { return [] }
        // By number: a name fails where we may not look into its schema.
        func missing(_ rights: [String], _ tables: [TableDescription]) -> String {
            let list = tables.map { "(\($0.oid)::oid, \(SQL.literal($0.name.description)))" }.joined(separator: ", ")
            return """
            SELECT shown, r FROM (VALUES \(list)) t(number, shown) JOIN pg_class c ON c.oid = number,
                unnest(ARRAY[\(rights.map { "'\($0)'" }.joined(separator: ","))]) r
             WHERE NOT has_table_privilege(number, r)
            UNION ALL SELECT shown, 'USAGE' FROM (VALUES \(list)) t(number, shown) JOIN pg_class c ON c.oid = number
             WHERE NOT has_schema_privilege(c.relnamespace, 'USAGE') ORDER BY 1, 2
            """
        }
        func finding(_ side: String, _ table: String?, _ right: String) -> Finding {
            right == "USAGE"
                ? blocking("\(side) \(table ?? "")", "we may not look into its schema", "GRANT USAGE ON SCHEMA")
                : blocking("\(side) \(table ?? "")", "we may not \(right)", "GRANT \(right)")
        }
        var found: [Finding] = []
        let onOld = try old.query(missing(["SELECT"], tables))
        for row in 0..<onOld.count { found.append(finding("OLD", onOld[row, 0], onOld[row, 1] ?? "")) }
        let onNew = try new.query(missing(["SELECT", "INSERT", "UPDATE", "DELETE"], twins))
        for row in 0..<onNew.count { found.append(finding("NEW", onNew[row, 0], onNew[row, 1] ?? "")) }
        return found + (try sequenceRights(old, new))
    }

    /// The mirror raises those that it can read on OLD.
    private static func sequenceRights(
        _ old: borrowing Connection, _ new: borrowing Connection
    ) throws(PostgresFailure) -> [Finding] {
        let rows = try old.query(SequenceRaiser.Reading.query)
        let readable = Set(rows.tableNames).subtracting(SequenceRaiser.Reading(rows).hidden)
        let closed = try new.query("""
            SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'S' AND NOT (has_sequence_privilege(c.oid, 'SELECT')
               AND has_sequence_privilege(c.oid, 'UPDATE') AND has_schema_privilege(n.oid, 'USAGE')) ORDER BY 1, 2
            """)
        return closed.tableNames.filter { readable.contains($0) }.map { name in
            blocking(
                "NEW \(name)", "we may not raise the sequence",
                "GRANT SELECT, UPDATE on it, and USAGE on its schema, to the control user")
        }
    }

    /// Rows on NEW that no backfill of ours brought would stay, and be wrong.
    private static func leftovers(
        _ new: borrowing Connection, _ tables: [TableDescription]
    ) throws(PostgresFailure) -> [Finding] {
        var known: Set<TableName> = []
        if try new.hasRelation("godwit.backfill") {
            let rows = try new.query("SELECT schema_name, table_name FROM godwit.backfill")
            for row in 0..<rows.count { known.insert(TableName(schema: rows[row, 0] ?? "", name: rows[row, 1] ?? "")) }
        }
        let unknown = tables.filter { !known.contains($0.name) }
        var found: [Finding] = []
        // Some at a time: PostgreSQL has no stack for a UNION of thousands, and no room for locks on all at once.
        for start in stride(from: 0, to: unknown.count, by: 200) {
            let full = try new.query(unknown[start..<min(start + 200, unknown.count)].map { table in
                "SELECT \(SQL.literal(table.name.description)) WHERE EXISTS (SELECT FROM \(table.rows))"
            }.joined(separator: " UNION ALL "))
            found += (0..<full.count).map { row in
                blocking("NEW \(full[row, 0] ?? "")", "already holds rows that Godwit did not bring",
                    "TRUNCATE it: the backfill brings all rows")
            }
        }
        return found
    }
}
