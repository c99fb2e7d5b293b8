import Yams

/// A table that is another one on NEW, as `mirror.tables` says it. Immutable, any thread.
package struct MappedTable: Sendable, Equatable {
    /// `schema.table` on each side.
    package var old: String
    package var new: String
    /// NEW's column: a column of OLD, or an SQL expression of one row of OLD.
    package var columns: [String: String] = [:]
    /// Columns of OLD that NEW has not.
    package var drop: [String] = []
    /// OLD's column: a column of NEW, or an SQL expression of one row of NEW.
    package var back: [String: String] = [:]
    /// What a row of OLD must satisfy to be on NEW; empty: nothing.
    package var condition = ""
    package var isOneWay = false

    package init(old: String, new: String) {
        self.old = old
        self.new = new
    }

    /// For who compares settings.
    var text: String {
        func list(_ map: [String: String]) -> String {
            map.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: ", ")
        }
        return "\(old) to \(new) columns {\(list(columns))} drop [\(drop.joined(separator: ", "))] "
            + "back {\(list(back))} where \(condition) one_way \(isOneWay)"
    }
}

extension SettingsReader {
    static let mappingKeys = ["to", "columns", "drop", "back", "where", "one_way"]
    /// Of columns and of tables.
    static let mappedMax = 10_000

    func mappedTables(_ mirror: Section) throws(SettingsError) -> [MappedTable]? {
        guard let node = mirror.node("tables") else { return nil }
        let all = try Section(node, path: path, key: Section.join(mirror.key, "tables"), keys: nil)
        guard case .mapping(let mapping) = node else { return nil }
        if mapping.count > Self.mappedMax {
            throw mirror.error("tables", .expected("at most \(Self.mappedMax) tables", found: "\(mapping.count)"))
        }
        var tables: [MappedTable] = []
        for (name, value) in mapping {
            let old = try qualified(try Section.text(name, path: path, key: all.key), all, name.mark?.line)
            let entry = try Section(value, path: path, key: Section.join(all.key, old), keys: Self.mappingKeys)
            var table = MappedTable(old: old, new: old)
            if entry.node("to") != nil {
                try entry.text("to", &table.new)
                table.new = try qualified(table.new, entry, entry.node("to")?.mark?.line)
            }
            table.columns = try texts(entry, "columns")
            table.back = try texts(entry, "back")
            if let nodes = try entry.list("drop", max: Self.mappedMax) {
                table.drop = try texts(nodes, Section.join(entry.key, "drop"))
            }
            try entry.text("where", &table.condition)
            try entry.flag("one_way", &table.isOneWay)
            if let twin = tables.first(where: { $0.new == table.new }) {
                throw entry.error("to", .conflict("\(twin.old) goes to \(table.new), too"))
            }
            tables.append(table)
        }
        return tables
    }

    func bulkTables(_ mirror: Section) throws(SettingsError) -> [String]? {
        guard let nodes = try mirror.list("bulk", max: Self.mappedMax) else { return nil }
        var names: [String] = []
        let key = Section.join(mirror.key, "bulk")
        for (node, name) in zip(nodes, try texts(nodes, key)) {
            names.append(try qualified(name, mirror, node.mark?.line, key: key))
        }
        if let twice = names.first(where: { name in names.count { $0 == name } > 1 }) {
            throw mirror.error("bulk", .conflict("\(twice) is named twice"))
        }
        return names
    }

    private func qualified(
        _ name: String, _ section: Section, _ line: Int?, key: String? = nil
    ) throws(SettingsError) -> String {
        let parts = name.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2, parts.allSatisfy({ !$0.isEmpty }) { return name }
        throw SettingsError(
            path: path, line: line ?? section.line, key: key ?? section.key,
            .expected("schema.table", found: "\"\(name)\""))
    }

    private func texts(_ section: Section, _ name: String) throws(SettingsError) -> [String: String] {
        guard let entries = try section.section(name, keys: nil), case .mapping(let mapping)? = section.node(name)
        else { return [:] }
        if mapping.count > Self.mappedMax {
            throw section.error(name, .expected("at most \(Self.mappedMax) columns", found: "\(mapping.count)"))
        }
        var found: [String: String] = [:]
        for (key, _) in mapping {
            let column = try Section.text(key, path: path, key: entries.key)
            var value = ""
            try entries.text(column, &value)
            if value.isEmpty {
                throw entries.error(column, .expected("a column or an SQL expression", found: "nothing"))
            }
            found[column] = value
        }
        return found
    }
}
