/// What one database's catalog says of its functions, operators, types and relations. Immutable, any thread.
///
/// Names that are not qualified are taken at the worst over all schemas, and over all overloads: `search_path` belongs
/// to the session and may change behind our back.
package struct CatalogFacts: Sendable {
    /// A relation by its full name.
    package struct Relation: Sendable {
        package var schema: String
        package var name: String

        package init(schema: String, name: String) {
            self.schema = schema
            self.name = name
        }
    }

    /// One row of `CatalogFacts.query`.
    package struct Row: Sendable {
        package var kind: String
        package var schema: String
        package var name: String
        package var detail: String

        package init(kind: String, schema: String, name: String, detail: String) {
            self.kind = kind
            self.schema = schema
            self.name = name
            self.detail = detail
        }
    }

    enum Verdict: Sendable, Equatable { case harmless, serverState, harmful, volatile, unknown }

    private struct QualifiedName: Hashable {
        var schema: String
        var name: String
    }

    /// What holds before any catalog was read: PostgreSQL's own functions.
    package static let builtIn = CatalogFacts(rows: [Row]())
    /// What holds where nothing counts as a read before the catalog was read.
    package static let guarded = CatalogFacts(rows: [Row(kind: "implicit", schema: "", name: "", detail: "v")])

    /// True for volatile, false for stable and immutable.
    private var functions: [QualifiedName: Bool] = [:]
    private var functionsOfUser: [String: Bool] = [:]
    private var relations: [QualifiedName: Verdict] = [:]
    private var relationsAnywhere: [String: Verdict] = [:]
    private var harmfulOperations: Set<String> = []
    private var harmfulTypes: Set<String> = []
    private var leavingFunctions: Set<String> = []
    /// A cast that nobody writes may call a volatile function: then nothing is surely a read.
    private(set) var hasHarmfulImplicitCast = false

    package init(rows: some Sequence<Row>) {
        for row in rows {
            let name = QualifiedName(schema: row.schema, name: row.name)
            switch row.kind {
            case "function":
                let isVolatile = row.detail == "v"
                functions[name, default: false] = functions[name, default: false] || isVolatile
                if row.schema != "pg_catalog" {
                    functionsOfUser[row.name] = functionsOfUser[row.name, default: false] || isVolatile
                }
            case "relation":
                let verdict: Verdict = row.detail == "v" ? .volatile : .serverState
                relations[name] = worst(relations[name] ?? .harmless, verdict)
                relationsAnywhere[row.name] = worst(relationsAnywhere[row.name] ?? .harmless, verdict)
            case "operator": harmfulOperations.insert(row.name)
            case "type": harmfulTypes.insert(row.name)
            case "implicit": hasHarmfulImplicitCast = true
            case "leaves": leavingFunctions.insert(row.name)
            default: break
            }
        }
    }

    // MARK: what the walk asks

    func verdict(function: String, schema: String?) -> Verdict {
        switch schema {
        case nil:
            guard let own = own(function) else { return ofUser(function) ?? .unknown }
            return worst(own, ofUser(function) ?? .harmless)
        case "pg_catalog":
            return own(function) ?? .unknown
        case let schema?:
            // dblink and the like live in any schema, whatever they are declared as.
            if BuiltinFunctions.verdict(function) == .harmful { return .harmful }
            guard let isVolatile = functions[QualifiedName(schema: schema, name: function)] else { return .unknown }
            return isVolatile ? .volatile : .harmless
        }
    }

    func verdict(relation: String, schema: String?) -> Verdict {
        guard let schema else { return relationsAnywhere[relation] ?? .harmless }
        return relations[QualifiedName(schema: schema, name: relation)] ?? .harmless
    }

    /// A function of any schema has this name; what is only known by how its name begins may be a column's.
    func isFunction(_ name: String) -> Bool {
        functionsOfUser[name] != nil || functions[QualifiedName(schema: "pg_catalog", name: name)] != nil
            || functions.isEmpty && BuiltinFunctions.verdict(name) != nil
    }

    func hasEffects(attribute name: String) -> Bool {
        let verdict = verdict(function: name, schema: nil)
        return (verdict == .harmful || verdict == .volatile) && isFunction(name)
    }

    /// Of any schema: by its words a call may leave something in its session.
    func leavesSomething(function: String) -> Bool { leavingFunctions.contains(function) }
    func isHarmful(operation: String) -> Bool { harmfulOperations.contains(operation) }
    func isHarmful(type: String) -> Bool { harmfulTypes.contains(type) }

    private func ofUser(_ function: String) -> Verdict? {
        functionsOfUser[function].map { $0 ? .volatile : .harmless }
    }

    /// PostgreSQL's own: by our lists, else by the catalog, which knows the functions of newer versions.
    private func own(_ function: String) -> Verdict? {
        switch BuiltinFunctions.verdict(function) {
        case .harmless: .harmless
        case .serverState: .serverState
        case .harmful: .harmful
        case nil:
            functions[QualifiedName(schema: "pg_catalog", name: function)].map { isVolatile in
                isVolatile ? .volatile : function.hasPrefix("pg_") ? .serverState : .harmless
            }
        }
    }

    private func worst(_ left: Verdict, _ right: Verdict) -> Verdict {
        CatalogFacts.rank(left) >= CatalogFacts.rank(right) ? left : right
    }

    private static func rank(_ verdict: Verdict) -> Int {
        switch verdict {
        case .harmless: 0
        case .serverState: 1
        case .volatile: 2
        case .harmful: 3
        case .unknown: 4
        }
    }

    // MARK: where the rows come from

    /// Run on the authority, at start and after DDL; four text columns: kind, schema, name, detail.
    ///
    /// Functions are as volatile as the worst of their overloads, of the support functions of aggregates, and of the
    /// domains among their arguments. Relations are listed when NEW would not hold the same (sequences, materialized
    /// views, foreign and unlogged tables, tables that the mirror of this database does not watch; not temporary ones,
    /// which only their session can mean, and that keeps its server), when a row security policy or a rule of theirs
    /// calls volatile functions, or when they are views over, or parents of, such. Types are listed when a cast, a
    /// domain's check or their own input function is volatile; `implicit` when such a cast may happen without being
    /// written. Built-in functions leave no dependency behind, hence the looks at texts.
    ///
    /// A table is watched when it has its fence as well: that comes last, when the mirror has been told of it. One
    /// with a capture alone is what a `prepare` is still at, or has left, and has no rows on NEW.
    ///
    /// A function that names such a relation, or another such function, is taken for volatile, whatever it is declared
    /// as; so is one that makes up statements (EXECUTE) where there is any such relation. A name counts wherever it
    /// stands in the body as a word, since search_path, aliases and strings leave nothing better to go by. So is one
    /// that calls what is volatile, or a built-in function with effects: a STABLE function may, and its locks and
    /// notifications are not refused by a READ ONLY transaction. There a name counts before a bracket only.
    ///
    /// `leaves` are volatile functions that name temporary objects, channels, held cursors or locks of the session, or
    /// another such function.
    ///
    /// - Parameter unlike: tables that have another shape on the other side.
    package static func query(unlike: [Relation] = []) -> String {
        let names = unlike.map { "(\(literal($0.schema)), \(literal($0.name)))" }.joined(separator: ", ")
        return """
        WITH RECURSIVE unlike_name (schema, name) AS (
            SELECT schema::text, name::text FROM (VALUES \(names.isEmpty ? "(NULL, NULL)" : names)) v (schema, name)
        ), body AS (
            SELECT oid, pg_catalog.pg_get_viewdef(oid) AS text FROM pg_catalog.pg_class WHERE relkind = 'v'
                AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
            UNION ALL
            SELECT polrelid, pg_catalog.pg_get_expr(polqual, polrelid) FROM pg_catalog.pg_policy
        ), owner (classid, objid, relation) AS (
            SELECT 'pg_catalog.pg_rewrite'::regclass::oid, oid, ev_class FROM pg_catalog.pg_rewrite
            UNION ALL
            SELECT 'pg_catalog.pg_policy'::regclass::oid, oid, polrelid FROM pg_catalog.pg_policy
        ), edge (source, relation) AS (
            SELECT d.refobjid, o.relation FROM pg_catalog.pg_depend d
            JOIN owner o ON o.classid = d.classid AND o.objid = d.objid
            WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
            UNION
            SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits
        ), domain_check AS (
            SELECT k.contypid AS oid FROM pg_catalog.pg_constraint k
            JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = k.oid
                AND d.refclassid = 'pg_catalog.pg_proc'::regclass
            JOIN effectful p ON p.oid = d.refobjid WHERE k.contypid <> 0
            UNION
            SELECT contypid FROM pg_catalog.pg_constraint
            WHERE contypid <> 0 AND pg_catalog.pg_get_constraintdef(oid) ~ '\(Self.harmfulText)'
        ), harmful_type AS (
            SELECT oid FROM domain_check
            UNION
            SELECT y.oid FROM pg_catalog.pg_type y JOIN harmful_type h ON h.oid IN (y.typbasetype, y.typelem)
        ), marked AS (
            SELECT c.oid, 'x' AS detail FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            JOIN unlike_name u ON u.schema = n.nspname::text AND u.name = c.relname::text
            UNION
            SELECT c.oid, 'x' FROM pg_catalog.pg_class c
            WHERE c.relpersistence <> 't' AND (c.relkind IN ('S', 'm', 'f')
                OR c.relkind IN ('r', 'p') AND c.relpersistence = 'u'
                OR c.relkind IN ('r', 'p') AND c.oid >= 16384 AND pg_catalog.to_regclass('godwit.control') IS NOT NULL
                    AND (SELECT count(*) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid
                        AND t.tgname IN ('godwit_capture', 'godwit_fence')) < 2)
            UNION
            SELECT o.relation, 'v' FROM owner o
            JOIN pg_catalog.pg_depend d ON d.classid = o.classid AND d.objid = o.objid
                AND d.refclassid = 'pg_catalog.pg_proc'::regclass
            JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid AND p.provolatile = 'v'
            UNION
            SELECT oid, 'v' FROM body WHERE text ~ '\(Self.harmfulText)'
            UNION
            SELECT oid, 'x' FROM body
            WHERE text ~ '\\m(txid_\\w+|inet_\\w+_(addr|port)|version|current_database)\\(|\\mpg_\\w+'
                '|information_schema'
        ), routine AS (
            SELECT p.oid, lower(p.proname::text) AS name, lower(p.prosrc) AS source, l.lanname::text AS language,
                p.provolatile <> 'v' AS is_calm
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
            WHERE p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal')
                AND p.pronamespace <> coalesce(pg_catalog.to_regnamespace('godwit'), 0)
        ), called AS (
            SELECT DISTINCT r.oid, m[1] AS text
            FROM routine r, regexp_matches(r.source, '([\\w$]+)"?\\s*\\(', 'g') m WHERE r.is_calm
        ), word AS (
            SELECT DISTINCT r.oid, w AS text FROM routine r, regexp_split_to_table(r.source, '[^a-z0-9_$]+') w
        ), named (class, oid, name) AS (
            SELECT 'pg_catalog.pg_class'::regclass, oid, lower(relname::text) FROM pg_catalog.pg_class
            WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                AND relnamespace <> coalesce(pg_catalog.to_regnamespace('godwit'), 0)
            UNION ALL
            SELECT 'pg_catalog.pg_proc'::regclass, oid, name FROM routine
        ), odd AS MATERIALIZED (
            SELECT class, oid, name FROM named WHERE name ~ '[^a-z0-9_$]'
        ), leads (class, oid, to_class, to_oid) AS MATERIALIZED (
            SELECT 'pg_catalog.pg_class'::regclass, source, 'pg_catalog.pg_class'::regclass, relation FROM edge
            UNION
            SELECT d.refclassid::regclass, d.refobjid, 'pg_catalog.pg_class'::regclass, o.relation
            FROM pg_catalog.pg_depend d JOIN owner o ON o.classid = d.classid AND o.objid = d.objid
            WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass
            UNION
            SELECT d.refclassid::regclass, d.refobjid, d.classid::regclass, d.objid FROM pg_catalog.pg_depend d
            WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                AND d.refclassid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass)
            UNION
            SELECT n.class, n.oid, 'pg_catalog.pg_proc'::regclass, w.oid FROM named n JOIN word w ON w.text = n.name
            UNION
            SELECT n.class, n.oid, 'pg_catalog.pg_proc'::regclass, r.oid
            FROM odd n JOIN routine r ON position(n.name IN r.source) > 0
        ), tainted (class, oid, detail) AS (
            SELECT 'pg_catalog.pg_class'::regclass, oid, detail FROM marked
            UNION
            SELECT 'pg_catalog.pg_proc'::regclass, oid, 'x' FROM routine
            WHERE language <> 'sql' AND source ~ '\\mexecute\\M'
                AND EXISTS (SELECT FROM marked m JOIN pg_catalog.pg_class c ON c.oid = m.oid
                    JOIN named n ON n.class = 'pg_catalog.pg_class'::regclass AND n.oid = m.oid WHERE c.relkind <> 'S')
            UNION
            SELECT 'pg_catalog.pg_proc'::regclass, oid, 'v' FROM routine
            WHERE is_calm AND (source ~ '\(Self.harmfulText)'
                OR language = 'sql' AND source = '' AND pg_catalog.pg_get_functiondef(oid) ~ '\(Self.harmfulText)')
            UNION
            SELECT 'pg_catalog.pg_proc'::regclass, c.oid, 'v' FROM called c
            JOIN pg_catalog.pg_proc p ON lower(p.proname::text) = c.text AND p.provolatile = 'v' AND p.oid >= 16384
            UNION
            SELECT 'pg_catalog.pg_proc'::regclass, r.oid, 'v' FROM routine r
            JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_catalog.pg_proc'::regclass
            JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid AND p.provolatile = 'v' WHERE r.is_calm
            UNION
            SELECT l.to_class, l.to_oid, t.detail FROM tainted t JOIN leads l ON l.class = t.class AND l.oid = t.oid
        ), leaver (oid) AS (
            SELECT oid FROM routine WHERE NOT is_calm AND source ~ '\(Self.leavingText)'
            UNION
            SELECT w.oid FROM leaver l JOIN routine n ON n.oid = l.oid JOIN word w ON w.text = n.name
        ), effectful (oid) AS (
            SELECT oid FROM pg_catalog.pg_proc WHERE provolatile = 'v'
            UNION
            SELECT oid FROM tainted WHERE class = 'pg_catalog.pg_proc'::regclass
        )
        SELECT 'function'::text, n.nspname::text, p.proname::text,
            max(greatest(p.provolatile::text, t.provolatile::text, f.provolatile::text, c.provolatile::text,
                m.provolatile::text, l.provolatile::text,
                CASE WHEN p.oid IN (SELECT oid FROM effectful) THEN 'v' END,
                CASE WHEN p.proargtypes::oid[] && ARRAY(SELECT oid FROM harmful_type) THEN 'v' END))
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        LEFT JOIN pg_catalog.pg_aggregate a ON a.aggfnoid = p.oid
        LEFT JOIN pg_catalog.pg_proc t ON t.oid = a.aggtransfn
        LEFT JOIN pg_catalog.pg_proc f ON f.oid = a.aggfinalfn
        LEFT JOIN pg_catalog.pg_proc c ON c.oid = a.aggcombinefn
        LEFT JOIN pg_catalog.pg_proc m ON m.oid = a.aggmtransfn
        LEFT JOIN pg_catalog.pg_proc l ON l.oid = a.aggmfinalfn
        GROUP BY 2, 3
        UNION ALL
        SELECT DISTINCT 'operator', n.nspname::text, o.oprname::text, 'v' FROM pg_catalog.pg_operator o
        JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
        JOIN effectful p ON p.oid = o.oprcode WHERE n.nspname <> 'pg_catalog'
        UNION ALL
        SELECT DISTINCT 'type', n.nspname::text, y.typname::text, 'v' FROM pg_catalog.pg_type y
        JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
        WHERE y.oid IN (SELECT oid FROM harmful_type)
            OR y.oid IN (SELECT c.casttarget FROM pg_catalog.pg_cast c
                JOIN effectful p ON p.oid = c.castfunc)
            OR n.nspname <> 'pg_catalog'
                AND EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.oid = y.typinput AND p.provolatile = 'v'
                    AND y.typtype <> 'd')
        UNION ALL
        SELECT DISTINCT 'implicit', '', '', 'v' FROM pg_catalog.pg_cast c
        JOIN effectful p ON p.oid = c.castfunc WHERE c.castcontext = 'i'
        UNION ALL
        SELECT DISTINCT 'relation', n.nspname::text, c.relname::text, t.detail FROM tainted t
        JOIN pg_catalog.pg_class c ON t.class = 'pg_catalog.pg_class'::regclass AND c.oid = t.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
        UNION ALL
        SELECT DISTINCT 'leaves', n.nspname::text, p.proname::text, '' FROM leaver l
        JOIN pg_catalog.pg_proc p ON p.oid = l.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.provolatile = 'v'
        UNION ALL
        SELECT 'relation', schema, name, 'x' FROM unlike_name WHERE name IS NOT NULL
        """
    }

    private static func literal(_ text: String) -> String {
        " E'\(text.replacing("\\", with: "\\\\").replacing("'", with: "''"))'"
    }

    /// Words of what stays in a session, as a regular expression within a SQL literal.
    private static let leavingText = "\\m(temp|temporary|pg_temp\\w*|listen|hold|pg_(try_)?advisory_lock\\w*)\\M"

    /// Built-in functions with effects, as a regular expression within a SQL literal.
    private static let harmfulText = "\\m(nextval|setval|set_config|pg_notify|pg_(try_)?advisory_\\w+|lo_\\w+"
        + "|dblink\\w*|txid_current|\\w+_to_xml\\w*|pg_\\w+_backend|currval|lastval|crosstab\\w*)\\s*\\("
}
