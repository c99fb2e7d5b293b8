/// What one database's catalog says of its functions, operators, types and relations. Immutable, any thread.
package struct CatalogFacts: Sendable {
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

    /// What holds before any catalog was read: PostgreSQL's own functions.
    package static let builtIn = CatalogFacts(rows: [])

    /// Run on the authority; four text columns: kind, schema, name, detail.
    package static let query = ""

    package init(rows: some Sequence<Row>) {}
}
