import LibPQ
import Primitives

/// Finds what is wrong with a mapping before it is used: names in the catalog, expressions by asking the server that
/// will have to evaluate them. Stateless.
enum MappingCheck {
    /// Rows on which expressions are tried.
    private static let rowsTried = 1000

    // MARK: names

    /// Of all mappings together.
    static func tables(
        _ mappings: TableMappings, old: [TableDescription], new: [TableDescription]
    ) -> [Preflight.Finding] {
        var found: [Preflight.Finding] = []
        for mapping in mappings.all {
            guard let table = old.first(where: { $0.name == mapping.old }) else {
                found.append(Preflight.blocking(
                    "OLD \(mapping.old)", "is named in mirror.tables and does not exist", "Correct the name there"))
                continue
            }
            if table.isPartition {
                found.append(Preflight.blocking(
                    "OLD \(mapping.old)", "is a partition: it goes with its table",
                    "Name the partitioned table in mirror.tables"))
            }
            let others = old.filter { $0.name != mapping.old && !$0.isPartition }
                .filter { (mappings.mapping($0.name, on: .old)?.new ?? $0.name) == mapping.new }
            if let other = others.first {
                found.append(Preflight.blocking(
                    "NEW \(mapping.new)", "would get the rows of both \(mapping.old) and \(other.name)",
                    "Give one of them another table in mirror.tables"))
            }
        }
        return found
    }

    /// Pure: what the descriptions alone tell.
    static func columns(
        _ mapping: TableMapping, old: TableDescription, new: TableDescription
    ) -> [Preflight.Finding] {
        var found: [Preflight.Finding] = []
        let place = "OLD \(old.name)"
        for name in mapping.dropped.sorted() where old.column(name) == nil {
            found.append(Preflight.blocking(
                "\(place).\(name)", "is named in `drop` and does not exist", "Correct mirror.tables"))
        }
        for column in old.columns where mapping.columns[column.name] != nil {
            if mapping.dropped.contains(column.name) || mapping.columns.values.contains(column.name) { continue }
            // What NEW's column of the name gets is made of it.
            if mapping.columns[column.name]?.contains(column.name) == true { continue }
            found.append(Preflight.blocking(
                "\(place).\(column.name)", "goes nowhere: NEW's column of that name gets something else",
                "Name it in `columns` of mirror.tables, or in `drop`"))
        }
        let sources = mapping.sources(old, from: .old, to: new)
        for name in old.key where !sources.contains(where: { $0.text == name && new.column($0.target) != nil }) {
            found.append(Preflight.blocking(
                "\(place).\(name)", "is a column of the key, which must be mapped one to one",
                "Name it in `columns` of mirror.tables as the whole source of one of NEW's"))
        }
        for name in mapping.back.keys.sorted() where old.column(name) == nil {
            found.append(Preflight.blocking(
                "\(place).\(name)", "is named in `back` and does not exist", "Correct mirror.tables"))
        }
        let obstacles = mapping.obstacles(old: old, new: new)
        if !obstacles.isEmpty {
            found.append(Preflight.note(
                place, "cannot be mirrored back: \(obstacles.joined(separator: "; "))",
                mapping.isOneWay
                    ? "`one_way` says that this is meant: behind a cutover there is no rollback"
                    : "A cutover is refused until `back` gives what is missing, or `one_way: true` says it is meant"))
        } else if mapping.isOneWay {
            found.append(Preflight.note(
                place, "is mapped `one_way` and could be mirrored back",
                "Take `one_way` out to keep the way back open"))
        }
        return found
    }

    // MARK: expressions

    /// - Parameter connection: to the side that the rows come from.
    static func expressions(
        _ mapping: TableMapping, from side: Side, _ connection: borrowing Connection, source: TableDescription,
        shape: TableDescription, target: TableDescription
    ) throws(PostgresFailure) -> [Preflight.Finding] {
        guard let view = shape.view else { return [] }
        let named = mapping.sources(source, from: side, to: target).filter(\.isNamed)
            .sorted { $0.target < $1.target }
        let texts = named.filter { source.column($0.text) == nil }
        var found: [Preflight.Finding] = []
        if !texts.isEmpty || !view.condition.isEmpty {
            found += try harms(side, connection, source, texts, condition: view.condition)
        }
        // What cannot be evaluated at all need not be tried.
        if found.isEmpty { found += try trials(side, connection, source, shape, target, named) }
        return found
    }

    private static func place(_ side: Side, _ source: TableDescription, _ what: String) -> String {
        "\(side.title) \(source.name), \(what) of mirror.tables"
    }

    private static func word(_ side: Side, _ target: String) -> String {
        "`\(side == .old ? "columns" : "back").\(target)`"
    }

    /// Each as the check of a temporary table that looks like the source: the server says what it cannot parse, and
    /// its parsed form says what it calls.
    private static func harms(
        _ side: Side, _ connection: borrowing Connection, _ source: TableDescription, _ texts: [TableMapping.Source],
        condition: String
    ) throws(PostgresFailure) -> [Preflight.Finding] {
        let table = "pg_temp.\(SQL.identifier(source.name.name))", its = "\(SQL.literal(table))::regclass"
        do throws(PostgresFailure) {
            try connection.execute(
                "BEGIN; CREATE TEMP TABLE \(SQL.identifier(source.name.name)) (LIKE \(source.name.sql))")
        } catch {
            guard error.kind == .refused else { throw error }
            try connection.execute("ROLLBACK")
            return [Preflight.blocking(
                place(side, source, "the mapping"), "cannot be checked: \(error.message)",
                "GRANT TEMPORARY ON DATABASE ... TO the control user")]
        }
        var found: [Preflight.Finding] = []
        var checks = texts.map { (word(side, $0.target), "((\n\($0.text)\n) IS NULL OR true)") }
        if !condition.isEmpty { checks.append(("`where`", "((\n\(condition)\n) IS TRUE OR true)")) }
        for (what, check) in checks {
            let place = place(side, source, what)
            do throws(PostgresFailure) {
                try connection.execute(
                    "SAVEPOINT godwit; ALTER TABLE \(table) ADD CONSTRAINT godwit_mapping CHECK \(check)")
                let calls = try connection.query("""
                    SELECT p.oid::regprocedure::text, p.provolatile::text, p.oid < 16384, p.proname::text
                      FROM pg_constraint k,
                        regexp_matches(k.conbin::text, ':(?:funcid|opfuncid) (\\d+)', 'g') m
                      JOIN pg_proc p ON p.oid = m[1]::oid
                     WHERE k.conname = 'godwit_mapping' AND k.conrelid = \(its) AND p.provolatile <> 'i'
                    UNION SELECT 'the present time or user', 'v', true, '' FROM pg_constraint
                     WHERE conname = 'godwit_mapping' AND conrelid = \(its)
                       AND conbin::text LIKE '%{SQLVALUEFUNCTION %' ORDER BY 1
                    """)
                for row in 0..<calls.count where calls[row, 1] == "v" || !calls.flag(row, 2)
                    || !isSettled(calls[row, 3] ?? "") {
                    found.append(Preflight.blocking(
                        place, "calls \(calls[row, 0] ?? ""), which may give another value the next time",
                        "Use only what depends on the row alone (IMMUTABLE functions; a function of yours that is "
                            + "one, declare so)"))
                }
            } catch {
                guard error.kind == .refused else { throw error }
                found.append(Preflight.blocking(
                    place, "is refused: \(error.message)",
                    "Give an expression of one row, with functions and types of yours qualified by their schema"))
            }
            try connection.execute("ROLLBACK TO godwit")
        }
        try connection.execute("ROLLBACK")
        return found
    }

    /// PostgreSQL's own stable functions that depend on nothing but the session's formats, which are pinned.
    private static func isSettled(_ function: String) -> Bool {
        settled.contains(function)
            || function.wholeMatch(of: /(date|timestamp|timestamptz)_(lt|le|eq|ne|ge|gt)_\w+/) != nil
    }

    private static let settled: Set<String> = [
        "to_char", "to_date", "to_timestamp", "to_number", "concat", "concat_ws", "format", "timezone", "date_part",
        "extract", "date_trunc", "date", "time", "timetz", "timestamp", "timestamptz", "timestamptz_pl_interval",
        "timestamptz_mi_interval", "interval_pl_timestamptz", "make_timestamptz", "jsonb_build_object",
        "jsonb_build_array", "json_build_object", "json_build_array", "to_json", "to_jsonb", "row_to_json",
        "array_to_json", "array_to_string", "textanycat", "anytextcat",
    ]

    /// Casts, and what no catalog tells, on some of the rows that are there.
    private static func trials(
        _ side: Side, _ connection: borrowing Connection, _ source: TableDescription, _ shape: TableDescription,
        _ target: TableDescription, _ named: [TableMapping.Source]
    ) throws(PostgresFailure) -> [Preflight.Finding] {
        var found: [Preflight.Finding] = []
        for entry in named {
            let column = SQL.identifier(entry.target), place = place(side, source, word(side, entry.target))
            do throws(PostgresFailure) {
                let nulls = try connection.query("""
                    SELECT count(*) FROM (SELECT \(column) AS v FROM \(shape.rows) t LIMIT \(rowsTried)) s
                     WHERE v IS NULL
                    """).integer(0, 0) ?? 0
                if nulls > 0, target.column(entry.target)?.isNotNull == true {
                    found.append(Preflight.blocking(
                        place, "is NULL in \(nulls) of the first \(rowsTried) rows, and "
                            + "\(side.other.title)'s column is NOT NULL",
                        "Give a value for them (coalesce), or drop NOT NULL on \(side.other.title)"))
                }
            } catch {
                guard error.kind == .refused else { throw error }
                found.append(Preflight.blocking(
                    place, "gives no \(target.column(entry.target)?.type ?? "value"): \(error.message)",
                    "Give an expression that has the type of \(side.other.title)'s column for every row"))
            }
        }
        if named.isEmpty {
            do throws(PostgresFailure) {
                _ = try connection.query("SELECT count(*) FROM (SELECT FROM \(shape.rows) t LIMIT \(rowsTried)) s")
            } catch {
                guard error.kind == .refused else { throw error }
                found.append(Preflight.blocking(
                    place(side, source, "`where`"), "fails: \(error.message)", "Give a condition that holds or not"))
            }
        }
        return found
    }
}
