import Configuration
import LibPQ
import SQLAnalysis

extension TableMappings {
    init(_ settings: MirrorSettings) {
        self.init(settings.tables.map { table in
            var mapping = TableMapping(old: .init(qualified: table.old), new: .init(qualified: table.new))
            mapping.columns = table.columns
            mapping.dropped = Set(table.drop)
            mapping.back = table.back
            mapping.condition = table.condition
            mapping.isOneWay = table.isOneWay
            return mapping
        })
    }

    /// Tables that are not the same on both sides: no read of them may go to the one that does not take the writes.
    var unlike: [CatalogFacts.Relation] {
        all.flatMap { [$0.old, $0.new] }.map { .init(schema: $0.schema, name: $0.name) }
    }
}

extension MirrorSettings {
    /// See `CaptureInstaller`.
    var bulkTables: Set<LibPQ.TableName> { Set(bulk.map { .init(qualified: $0) }) }
}

extension LibPQ.TableName {
    /// The reader of the configuration has seen to the dot.
    fileprivate init(qualified text: String) {
        let parts = text.split(separator: ".", maxSplits: 1)
        self.init(schema: String(parts.first ?? ""), name: String(parts.last ?? ""))
    }
}
