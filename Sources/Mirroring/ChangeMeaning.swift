import LibPQ
import Primitives

/// What a statement means depends on settings, and a role, a database or a server may have its own on one side only:
/// the target takes those of the source.
extension SchemaChange {
    /// Where rows are kept is each side's own. The role comes last: what it may not set is set by then.
    private static let settings = [
        "search_path", "DateStyle", "IntervalStyle", "TimeZone", "array_nulls", "standard_conforming_strings",
        "transform_null_equals", "xmloption", "role",
    ]

    /// - Returns: a session on the source, and the order with what its statement's meaning depends on there.
    func meant(_ order: Order, _ login: Login) throws(Failure) -> (source: Client, order: Order) {
        let source = try client(direction.source, order, login)
        let names = Self.settings.enumerated().map { "(\($0), '\($1)')" }.joined(separator: ", ")
        let rows = try onSide(direction.source) { () throws(PostgresFailure) in
            try source.connection.query("""
                SELECT pg_catalog.string_agg(pg_catalog.format('SELECT pg_catalog.set_config(%L, %L, false)', name,
                           pg_catalog.current_setting(name)), ';' ORDER BY place)
                  FROM (VALUES \(names)) s (place, name)
                """, timeoutSeconds: Self.patienceSeconds)
        }
        var order = order
        order.settings += ";" + (rows[0, 0] ?? "")
        return (source, order)
    }
}
