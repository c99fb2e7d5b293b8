import LibPQ
import Primitives

/// Makes NEW's tables out of OLD's, which NEW has just got, as `mirror.tables` says: in the transaction that brought
/// them, so that NEW has all of it or nothing. Used by one thread.
///
/// Names are changed by ALTER ... RENAME, which PostgreSQL carries through keys, constraints, views and defaults. What
/// goes with a column that NEW is not to have is found by looking at the catalog before and behind it.
struct MappedSchemaCopy {
    let mappings: TableMappings

    /// - Returns: what cannot be on NEW as it is on OLD, one line each.
    func apply(_ onNew: borrowing Connection) throws -> [String] {
        let tables = try CatalogReader.tables(onNew)
        let pairs = try mappings.all.map { mapping in
            guard let table = tables.first(where: { $0.name == mapping.old }) else {
                throw SchemaCopy.Failure(description: "mirror.tables names \(mapping.old), which OLD has not")
            }
            if let name = mapping.dropped.subtracting(table.columns.map(\.name)).min() {
                throw SchemaCopy.Failure(
                    description: "mirror.tables drops the column \(name) of \(mapping.old), which has none")
            }
            let carried = mapping.carried(table)
            if let name = table.key.first(where: { carried[$0] == nil }) {
                throw SchemaCopy.Failure(description: "\(mapping.old)'s column \(name) is of its key: "
                    + "mirror.tables must name it as the whole source of one of NEW's")
            }
            return (mapping: mapping, table: table)
        }
        let types = try pairs.map { try computedTypes($0.mapping, $0.table, onNew) }
        let before = try objects(onNew)
        var dropped: Set<String> = []
        for (pair, types) in zip(pairs, types) {
            try refuseChildren(pair.table, onNew)
            dropped.formUnion(try changeColumns(pair.mapping, pair.table, types, onNew))
        }
        try changeNames(pairs.map { ($0.mapping, $0.table) }, onNew)
        try expectColumns(pairs.map { ($0.mapping, $0.table) }, onNew)
        let after = Set(try objects(onNew).map(\.id))
        let gone = before.filter { !after.contains($0.id) && !dropped.contains($0.column) }
        return gone.map { "\($0.title) goes with a column that NEW has not. OLD has: \($0.definition)" }
            + (try namingFunctions(onNew))
    }

    // MARK: columns

    /// Of the columns that are computed, or copies of another, the type that PostgreSQL gives their text.
    private func computedTypes(
        _ mapping: TableMapping, _ table: TableDescription, _ onNew: borrowing Connection
    ) throws -> [(column: String, type: String)] {
        let carried = mapping.carried(table)
        let computed = mapping.sources(table, from: .old, to: table).filter { carried[$0.text] != $0.target }
            .sorted { $0.target < $1.target }
        if computed.isEmpty { return [] }
        let list = computed.map { source in
            let text = table.column(source.text)?.sql ?? "(\n\(source.text)\n)"
            return "\(text) AS \(SQL.identifier(source.target))"
        }
        do throws(PostgresFailure) {
            try onNew.execute("""
                CREATE TEMP TABLE godwit_types AS SELECT \(list.joined(separator: ", ")) FROM \(table.name.sql)
                  WITH NO DATA
                """)
        } catch {
            throw SchemaCopy.Failure(
                description: "an expression of \(mapping.old) in mirror.tables is refused: \(error.message)")
        }
        let rows = try onNew.query("""
            SELECT a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation
                       THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END
              FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = 'pg_temp.godwit_types'::regclass AND a.attnum > 0 ORDER BY a.attnum
            """)
        let types = (0..<rows.count).map { (column: rows[$0, 0] ?? "", type: rows[$0, 1] ?? "") }
        try onNew.execute("DROP TABLE pg_temp.godwit_types")
        return types
    }

    /// By way of names that nobody has: two may be exchanged.
    ///
    /// - Returns: the columns that went, as `objects` names them.
    private func changeColumns(
        _ mapping: TableMapping, _ table: TableDescription, _ computed: [(column: String, type: String)],
        _ onNew: borrowing Connection
    ) throws -> [String] {
        let alter = "ALTER TABLE \(table.name.sql)"
        let carried = mapping.carried(table)
        let gone = table.columns.map(\.name).filter { carried[$0] == nil }
        let renamed = carried.filter { $0.key != $0.value }.sorted { $0.key < $1.key }.enumerated()
        let statements = gone.map { "\(alter) DROP COLUMN \(SQL.identifier($0)) CASCADE" }
            + renamed.map { "\(alter) RENAME COLUMN \(SQL.identifier($1.key)) TO godwit_mapped_\($0)" }
            + renamed.map { "\(alter) RENAME COLUMN godwit_mapped_\($0) TO \(SQL.identifier($1.value))" }
            + computed.map { "\(alter) ADD COLUMN \(SQL.identifier($0.column)) \($0.type)" }
        for statement in statements { try onNew.execute(statement) }
        return gone.map { "\(table.oid).\($0)" }
    }

    private func changeNames(
        _ pairs: [(mapping: TableMapping, table: TableDescription)], _ onNew: borrowing Connection
    ) throws {
        let moved = pairs.filter { $0.mapping.old != $0.mapping.new }.enumerated()
        for (number, pair) in moved {
            try onNew.execute("ALTER TABLE \(pair.table.name.sql) RENAME TO godwit_mapped_\(number)")
        }
        for (number, pair) in moved {
            let (old, new) = (pair.mapping.old, pair.mapping.new)
            var alter = "ALTER TABLE \(SQL.identifier(old.schema)).godwit_mapped_\(number)"
            if old.schema != new.schema {
                let schema = SQL.identifier(new.schema)
                let owner = try onNew.query("""
                    SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = \(pair.table.oid)
                    """)[0, 0] ?? "CURRENT_USER"
                try onNew.execute("""
                    CREATE SCHEMA IF NOT EXISTS \(schema) AUTHORIZATION \(owner); \(alter) SET SCHEMA \(schema)
                    """)
                alter = "ALTER TABLE \(schema).godwit_mapped_\(number)"
            }
            try onNew.execute("\(alter) RENAME TO \(SQL.identifier(new.name))")
        }
    }

    /// CASCADE may have taken one that is to stay: it is generated from another that went.
    private func expectColumns(
        _ pairs: [(mapping: TableMapping, table: TableDescription)], _ onNew: borrowing Connection
    ) throws {
        let tables = try CatalogReader.tables(onNew)
        for (mapping, table) in pairs {
            let new = tables.first { $0.oid == table.oid }
            let sources = mapping.sources(table, from: .old, to: table)
            guard let lost = sources.first(where: { new?.column($0.target) == nil }) else { continue }
            throw SchemaCopy.Failure(description: "\(mapping.old)'s column \(lost.text) is made of one that NEW "
                + "has not: name it in `drop` of mirror.tables too, or give it an expression in `columns`")
        }
    }

    /// ALTER of a table that others inherit from would change those as well.
    private func refuseChildren(_ table: TableDescription, _ onNew: borrowing Connection) throws {
        let found = try onNew.query("""
            SELECT EXISTS (SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
             WHERE NOT c.relispartition AND \(table.oid) IN (h.inhrelid, h.inhparent))
            """)
        if found.flag(0, 0) {
            throw SchemaCopy.Failure(description: "\(table.name) inherits, or is inherited from: create NEW's tables "
                + "yourself (pg_dump --schema-only), and run prepare without --copy-schema")
        }
    }

    // MARK: what goes with them

    private struct Object {
        var id: String
        var title: String
        var definition: String
        /// Table's number and column: it is no loss where that went on purpose.
        var column: String
    }

    private func objects(_ onNew: borrowing Connection) throws -> [Object] {
        let application = """
            n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit') AND n.nspname !~ '^pg_(toast|temp)'
            """
        let rows = try onNew.query("""
            SELECT 'k' || k.oid, format('constraint %I of %I.%I', k.conname, n.nspname, c.relname),
                   format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, c.relname, k.conname,
                       pg_get_constraintdef(k.oid)), ''
              FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE k.contype <> 'n' AND k.conparentid = 0 AND k.coninhcount = 0 AND \(application)
            UNION ALL SELECT 'r' || c.oid, format('view %I.%I', n.nspname, c.relname),
                   format('CREATE %sVIEW %I.%I AS %s', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED ' ELSE '' END,
                       n.nspname, c.relname, pg_get_viewdef(c.oid)), ''
              FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('v', 'm') AND \(application)
            UNION ALL SELECT 'd' || d.oid, format('default of %I.%I.%I', n.nspname, c.relname, a.attname),
                   format('ALTER TABLE %I.%I ALTER COLUMN %I SET DEFAULT %s', n.nspname, c.relname, a.attname,
                       pg_get_expr(d.adbin, d.adrelid)), a.attrelid || '.' || a.attname
              FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
              JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND \(application)
            UNION ALL SELECT 'f' || p.oid, format('function %s', p.oid::regprocedure), pg_get_functiondef(p.oid), ''
              FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
             WHERE p.prokind IN ('f', 'p') AND p.prosqlbody IS NOT NULL AND \(application) ORDER BY 2
            """)
        return (0..<rows.count).map {
            Object(id: rows[$0, 0] ?? "", title: rows[$0, 1] ?? "", definition: rows[$0, 2] ?? "",
                   column: rows[$0, 3] ?? "")
        }
    }

    /// Their text says OLD's names, which PostgreSQL does not look into.
    private func namingFunctions(_ onNew: borrowing Connection) throws -> [String] {
        try mappings.all.filter { $0.old != $0.new || !$0.columns.isEmpty || !$0.dropped.isEmpty }
            .flatMap { mapping in
                let found = try onNew.query("""
                    SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
                     WHERE l.lanname NOT IN ('internal', 'c') AND p.prosqlbody IS NULL AND p.pronamespace NOT IN (
                               'pg_catalog'::regnamespace, 'information_schema'::regnamespace)
                       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                               AND d.objid = p.oid AND d.deptype = 'e')
                       AND \(SQL.literal(mapping.old.name.lowercased())) = ANY (
                               regexp_split_to_array(lower(p.prosrc), '[^[:alnum:]_$]+')) ORDER BY 1
                    """)
                return (0..<found.count).map { row in
                    "function \(found[row, 0] ?? "") says \(mapping.old.name) in its text, which is \(mapping.new) on "
                        + "NEW: CREATE OR REPLACE FUNCTION there, if it means the table"
                }
            }
    }
}

extension TableMapping {
    /// NEW's column for each of OLD's whose values go there as they are; of several one.
    ///
    /// - Parameter new: NEW's table, where there is one.
    func carried(_ old: TableDescription, to new: TableDescription? = nil) -> [String: String] {
        let plain = sources(old, from: .old, to: new ?? old).filter { source in
            old.column(source.text) != nil && (new == nil || new?.column(source.target) != nil)
        }
        return Dictionary(grouping: plain, by: \.text).compactMapValues { sources in
            let targets = sources.map(\.target).sorted()
            return targets.first { new?.key.contains($0) == true }
                ?? targets.first { $0 == sources[0].text } ?? targets.first
        }
    }
}
