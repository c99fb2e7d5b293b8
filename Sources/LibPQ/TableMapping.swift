import Primitives

/// How one table of OLD becomes one of NEW where their schemas differ, as the configuration says it. Immutable, any
/// thread.
package struct TableMapping: Sendable, Equatable {
    package var old: TableName
    package var new: TableName
    /// NEW's column: a column of OLD's table, or an SQL expression of one row of it. OLD's columns that are named
    /// neither here nor in `dropped` go to the column of their own name.
    package var columns: [String: String] = [:]
    /// Columns of OLD that NEW has not.
    package var dropped: Set<String> = []
    /// The same the other way: OLD's column, from one row of NEW.
    package var back: [String: String] = [:]
    /// What a row of OLD must satisfy to be on NEW; empty: nothing.
    package var condition = ""
    /// Behind a cutover no mirror brings NEW's rows back: an operator has said that this is meant.
    package var isOneWay = false

    package init(old: TableName, new: TableName) {
        self.old = old
        self.new = new
    }

    // MARK: columns

    /// Where one column of the target comes from.
    package struct Source: Sendable, Equatable {
        package var target: String
        /// A column of the source, or an expression.
        package var text: String
        /// The configuration names it; otherwise it is the column of the same name.
        package var isNamed: Bool
    }

    /// What the configuration says of the columns, before anybody has looked at the target.
    package func sources(_ source: TableDescription, from side: Side, to target: TableDescription) -> [Source] {
        switch side {
        case .old:
            let named = columns.map { Source(target: $0.key, text: $0.value, isNamed: true) }
            let used = dropped.union(columns.values)
            let others = source.columns.filter { !used.contains($0.name) && columns[$0.name] == nil }
            return named + others.map { Source(target: $0.name, text: $0.name, isNamed: false) }
        case .new:
            return target.columns.compactMap { column in
                if let text = back[column.name] { return Source(target: column.name, text: text, isNamed: true) }
                guard let from = inverse(column, source) else { return nil }
                return Source(target: column.name, text: from, isNamed: false)
            }
        }
    }

    /// NEW's column that holds what OLD's does, unchanged.
    private func inverse(_ column: TableDescription.Column, _ new: TableDescription) -> String? {
        let names = columns.filter { $0.value == column.name }.keys.sorted()
        let same = dropped.contains(column.name) || columns[column.name] != nil ? [] : [column.name]
        return (names.isEmpty ? same : names).first { new.column($0)?.type == column.type }
    }

    /// Why the mirror back cannot be; empty: it can.
    package func obstacles(old: TableDescription, new: TableDescription) -> [String] {
        var found: [String] = []
        if !condition.isEmpty { found.append("`where` leaves rows of OLD out, which NEW cannot give back") }
        let known = Set(sources(new, from: .new, to: old).map(\.target))
        for column in old.columns where !known.contains(column.name) && !column.isGenerated {
            found.append("nothing of NEW gives OLD's column \(column.name): name it in `back`")
        }
        return found
    }
}

/// All mappings of one database. Immutable, any thread.
package struct TableMappings: Sendable, Equatable {
    package static let none = TableMappings([])

    package let all: [TableMapping]

    package init(_ all: [TableMapping]) { self.all = all }

    package func mapping(_ name: TableName, on side: Side) -> TableMapping? {
        all.first { (side == .old ? $0.old : $0.new) == name }
    }

    /// The name on the other side; nil: a table of that name there belongs to another one here.
    package func twinName(_ name: TableName, of side: Side) -> TableName? {
        if let mapping = mapping(name, on: side) { return side == .old ? mapping.new : mapping.old }
        return mapping(name, on: side.other) == nil ? name : nil
    }

    package func twin(
        of table: TableDescription, on side: Side, among tables: [TableDescription]
    ) -> TableDescription? {
        guard let name = twinName(table.name, of: side) else { return nil }
        return tables.first { $0.name == name }
    }

    /// The mirror from this side brings its rows: always, but for what goes one way, back.
    package func isCarried(_ name: TableName, from side: Side) -> Bool {
        side == .old || mapping(name, on: side)?.isOneWay != true
    }

    /// The table as the other side is to have it: with that side's names, and its rows read through the mapping.
    /// Without one it is the table itself.
    package func shape(_ table: TableDescription, as twin: TableDescription?, from side: Side) -> TableDescription {
        guard let mapping = mapping(table.name, on: side) else { return table }
        var shape = table
        shape.name = side == .old ? mapping.new : mapping.old
        guard let twin else { return shape }
        let sources = mapping.sources(table, from: side, to: twin)
        // In the twin's order; what it lacks comes last.
        let order = Dictionary(twin.columns.enumerated().map { ($1.name, $0) }) { first, _ in first }
        let sorted = sources.sorted { left, right in
            (order[left.target] ?? Int.max, left.target) < (order[right.target] ?? Int.max, right.target)
        }
        let columns = sorted.map { Self.column($0, of: table, in: twin) }
        shape.columns = columns.map(\.column)
        shape.key = table.key.compactMap { key in
            let targets = sorted.filter { $0.text == key }.map(\.target)
            return targets.first { twin.key.contains($0) } ?? targets.first
        }
        if shape.key.count != table.key.count { shape.key = [] }
        let plain = sorted.filter { table.column($0.text) != nil }.map { ($0.text, $0.target) }
        shape.view = TableDescription.View(
            name: table.name, rows: table.rows, columns: Set(table.columns.map(\.name)),
            targets: Dictionary(plain, uniquingKeysWith: { first, _ in first }),
            isExact: columns.allSatisfy(\.isExact),
            selection: columns.map { "\($0.sql) AS \($0.column.sql)" }.joined(separator: ", "),
            condition: side == .old ? mapping.condition : "")
        return shape
    }

    /// A column of the shape, and what its value is in a row of the source.
    private static func column(
        _ source: TableMapping.Source, of table: TableDescription, in twin: TableDescription
    ) -> (column: TableDescription.Column, sql: String, isExact: Bool) {
        let into = twin.column(source.target)
        guard var column = table.column(source.text) else {
            // Whether it is NULL anywhere its rows tell, not the catalog.
            let column = TableDescription.Column(
                name: source.target, type: into?.type ?? "", isNotNull: true, hasDefault: false,
                isGenerated: into?.isGenerated ?? false, identity: .none, isCollatable: true, isBuiltIn: false)
            return (column, cast("(\n\(source.text)\n)", to: into), false)
        }
        let sql = column.sql
        column.name = source.target
        // A key stays as it is: its index serves no cast.
        guard source.isNamed, let into, into.type != column.type, !table.key.contains(source.text) else {
            return (column, sql, true)
        }
        column.type = into.type
        return (column, cast(sql, to: into), false)
    }

    /// The text that the value has in the other side's column. A type that this side may not know is left to the
    /// expression; one with a length is not cut off here, so that the other side can refuse what is too long.
    private static func cast(_ sql: String, to column: TableDescription.Column?) -> String {
        guard let column, column.isBuiltIn else { return sql }
        switch column.type {
        case let type where type.hasPrefix("character varying"):
            return "\(sql)::character varying\(type.hasSuffix("[]") ? "[]" : "")"
        case let type where type.hasPrefix("character(") && !type.hasSuffix("[]"):
            let length = type.filter(\.isNumber), text = "rtrim(\(sql)::text)"
            return "rpad(\(text), greatest(\(length), length(\(text))))"
        case let type where type.hasPrefix("character("):
            let isLong = "(SELECT bool_or(length(rtrim(v)) > \(type.filter(\.isNumber))) FROM unnest(\(sql)::text[]) v)"
            return "(CASE WHEN \(isLong) THEN \(sql)::bpchar[] ELSE \(sql)::\(type) END)"
        case let type where type.hasPrefix("bit"):
            return sql
        case let type:
            return "\(sql)::\(type)"
        }
    }
}
