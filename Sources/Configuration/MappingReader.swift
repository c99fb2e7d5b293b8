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

/// Reads tables by name: those that are others on NEW, and those that are loaded in bulk. Lives within one call.
struct MappingReader {
    static let keys = ["to", "columns", "drop", "back", "where", "one_way"]
    /// Of columns and of tables.
    static let namesMax = 10_000

    /// Of the file, for errors.
    let path: String

    /// - Returns: nil where the section has no such key.
    func tables(_ section: Section, _ key: String) throws(SettingsError) -> [MappedTable]? {
        guard let node = section.node(key) else { return nil }
        let all = try Section(node, path: path, key: Section.join(section.key, key), keys: nil)
        guard case .mapping(let mapping) = node else { return nil }
        if mapping.count > Self.namesMax {
            throw section.error(key, .expected("at most \(Self.namesMax) tables", found: "\(mapping.count)"))
        }
        var tables: [MappedTable] = []
        for (name, value) in mapping {
            let old = try qualified(try Section.text(name, path: path, key: all.key), all, name.mark?.line)
            let entry = try Section(value, path: path, key: Section.join(all.key, old), keys: Self.keys)
            var table = MappedTable(old: old, new: old)
            if entry.node("to") != nil {
                try entry.text("to", &table.new)
                table.new = try qualified(table.new, entry, entry.node("to")?.mark?.line)
            }
            table.columns = try texts(entry, "columns")
            table.back = try texts(entry, "back")
            for node in try entry.list("drop", max: Self.namesMax) ?? [] {
                table.drop.append(try Section.text(node, path: path, key: Section.join(entry.key, "drop")))
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

    /// - Returns: nil where the section has no such key.
    func names(_ section: Section, _ key: String) throws(SettingsError) -> [String]? {
        guard let nodes = try section.list(key, max: Self.namesMax) else { return nil }
        var names: [String] = []
        let place = Section.join(section.key, key)
        for node in nodes {
            let name = try Section.text(node, path: path, key: place)
            names.append(try qualified(name, section, node.mark?.line, key: place))
        }
        if let twice = names.first(where: { name in names.count { $0 == name } > 1 }) {
            throw section.error(key, .conflict("\(twice) is named twice"))
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
        if mapping.count > Self.namesMax {
            throw section.error(name, .expected("at most \(Self.namesMax) columns", found: "\(mapping.count)"))
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
