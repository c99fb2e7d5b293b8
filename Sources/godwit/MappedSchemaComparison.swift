import LibPQ
import Primitives
import Verification

/// Indexes, constraints, triggers, policies and sequences of the tables that `mirror.tables` names, and foreign keys to
/// them: what OLD's would be on NEW, beside NEW's. Nothing is changed to find it out. Used by one thread.
struct MappedSchemaComparison {
    private(set) var differences: [SchemaComparison.Difference] = []
    /// What cannot be compared, and why, one line each.
    private(set) var notes: [String] = []
    /// The mappings, and the same for partitions.
    private(set) var mappings: TableMappings
    /// What is compared here and not by its text, as `SchemaComparison` names it.
    private(set) var compared: Set<String> = []

    private let relations: [MappedSchemaCatalog.Relation]
    /// By OLD's number.
    private let pairs: [String: MappedSchemaRest.Pair]

    init(_ mappings: TableMappings, _ onOld: borrowing Connection, _ onNew: borrowing Connection) throws {
        self.mappings = mappings
        if mappings.all.isEmpty {
            (relations, pairs) = ([], [:])
            return
        }
        relations = try MappedSchemaCatalog.relations(mappings.all.map(\.old), onOld)
        pairs = try MappedSchemaRest.pairs(mappings, onOld, onNew)
        notes += relations.filter { pairs[$0.oid] == nil }.map { "table \($0.name): it has no twin on NEW" }
        let parts = pairs.values.filter { $0.old.name != $0.mapping.old }.map { pair in
            var mapping = pair.mapping
            (mapping.old, mapping.new) = (pair.old.name, pair.new.name)
            return mapping
        }
        self.mappings = TableMappings(mappings.all + parts)
        let objects = try MappedSchemaCatalog.objects(relations.map(\.oid), onOld).filter { $0.kind != "statistics" }
        for (oid, pair) in pairs.sorted(by: { $0.value.old.name < $1.value.old.name }) {
            try compare(objects.filter { $0.table == oid }, pair, onNew)
            try compareActions(oid, pair, onOld, onNew)
        }
        try compareForeignKeys(onOld, onNew)
        try compareSequences(onOld, onNew)
    }

    // MARK: indexes and constraints

    private mutating func compare(
        _ objects: [MappedSchemaCatalog.Object], _ pair: MappedSchemaRest.Pair, _ onNew: borrowing Connection
    ) throws {
        var others = try MappedSchemaCatalog.objects(["\(pair.new.oid)"], onNew).filter { $0.kind != "statistics" }
        func take(where fits: (MappedSchemaCatalog.Object) -> Bool) -> MappedSchemaCatalog.Object? {
            others.firstIndex(where: fits).map { others.remove(at: $0) }
        }
        var unnamed: [MappedSchemaCatalog.Object] = []
        for (object, outcome) in zip(
            objects, try MappedSchemaRest.translate(objects, pair, isStrict: false, onNew))
        {
            let twin = take {
                $0.kind == object.kind && (object.kind == "p" || $0.name == object.name)
            }
            if let reason = outcome.reason {
                notes.append("\(object.title) \(object.name) of \(pair.old.name): \(reason)"
                    + (twin == nil ? "; NEW has none of this name" : ""))
                continue
            }
            var wanted = object
            wanted.definition = outcome.definition
            guard let twin else {
                unnamed.append(wanted)
                continue
            }
            if shown(wanted) != shown(twin) {
                differences.append(.init(
                    object: name(twin, pair), property: "definition", old: shown(wanted), new: shown(twin)))
            }
        }
        for object in unnamed where take(where: { $0.kind == object.kind && shown($0) == shown(object) }) == nil {
            let isStrict = object.isUnique || object.isConstraint
            if let reason = pair.obstacle(object.columns, isStrict: isStrict) {
                notes.append("\(object.title) \(object.name) of \(pair.old.name): \(reason); NEW has none like it")
            } else {
                differences.append(.init(object: name(object, pair), property: "", old: "", new: nil))
            }
        }
        let carried = Set(pair.columns.values)
        for object in others {
            if let own = object.columns.first(where: { !carried.contains($0) }) {
                notes.append("\(object.title) \(object.name) of NEW's \(pair.new.name): OLD has no column that is "
                    + "\(own)")
            } else {
                differences.append(.init(object: name(object, pair), property: "", old: nil, new: ""))
            }
        }
    }

    private func name(_ object: MappedSchemaCatalog.Object, _ pair: MappedSchemaRest.Pair) -> String {
        "\(object.title) \(pair.new.name).\(object.name)"
    }

    private func shown(_ object: MappedSchemaCatalog.Object) -> String {
        (object.kind == "index" && object.isUnique ? "UNIQUE " : "") + object.definition
            + (object.isValid ? "" : " INVALID")
    }

    // MARK: triggers and policies

    /// Whether NEW is to have one that only a side has, nobody can tell.
    private mutating func compareActions(
        _ oid: String, _ pair: MappedSchemaRest.Pair, _ onOld: borrowing Connection, _ onNew: borrowing Connection
    ) throws {
        let actions = try MappedSchemaCatalog.actions([oid], onOld)
        var others = try MappedSchemaCatalog.actions(["\(pair.new.oid)"], onNew)
        for (action, outcome) in zip(
            actions, try MappedSchemaRest.translate(actions, pair, isStrict: false, onNew))
        {
            let title = "\(action.kind) \(action.name) of \(pair.old.name)"
            guard let place = others.firstIndex(where: { $0.kind == action.kind && $0.name == action.name }) else {
                notes.append("\(title): NEW has none of this name")
                continue
            }
            let twin = others.remove(at: place)
            if action.state != twin.state {
                differences.append(.init(
                    object: name(twin, pair), property: "state", old: action.state, new: twin.state))
            }
            if let reason = outcome.reason {
                notes.append("\(title): \(reason)")
            } else if outcome.definition != twin.definition {
                func shown(_ definition: String) -> String {
                    definition.replacing(MappedSchemaCatalog.nameMark, with: twin.name)
                        .replacing(MappedSchemaCatalog.tableMark, with: "\(pair.new.name)")
                }
                differences.append(.init(
                    object: name(twin, pair), property: "definition", old: shown(outcome.definition),
                    new: shown(twin.definition)))
            }
        }
        notes += others.map { "\($0.kind) \($0.name) of NEW's \(pair.new.name): OLD has none of this name" }
    }

    // MARK: foreign keys

    private mutating func compareForeignKeys(
        _ onOld: borrowing Connection, _ onNew: borrowing Connection
    ) throws {
        let twins = pairs.values.map { "\($0.new.oid)" }
        var present = try MappedSchemaCatalog.foreignKeys(twins, onNew)
        let all = try MappedSchemaCatalog.presentForeignKeys(onNew)
        let keys = try MappedSchemaCatalog.foreignKeys(relations.map(\.oid), onOld)
        for key in keys {
            let child = pairs[key.child], parent = pairs[key.parent]
            let wanted = translated(key, child, parent)
            let title = "foreign key \(key.name) of \(key.childName)"
            func take(where fits: (MappedSchemaCatalog.ForeignKey) -> Bool) -> MappedSchemaCatalog.ForeignKey? {
                present.firstIndex { $0.childName == wanted.childName && fits($0) }.map { present.remove(at: $0) }
            }
            let twin = take { $0.name == key.name } ?? take { shown($0) == shown(wanted) }
            if let twin, shown(twin) == shown(wanted) { continue }
            if let reason = obstacle(key, child, parent) {
                notes.append("\(title): \(reason)" + (twin == nil ? "; NEW has none of this name" : ""))
            } else if let twin {
                differences.append(.init(
                    object: "constraint \(wanted.childName).\(twin.name)", property: "definition",
                    old: shown(wanted), new: shown(twin)))
            } else if all.contains("\(wanted.childName) \(key.name)") {
                notes.append("\(title): it is set aside until NEW takes the writes")
            } else {
                differences.append(.init(
                    object: "constraint \(wanted.childName).\(key.name)", property: "", old: "", new: nil))
            }
        }
        for key in present {
            let child = pairs.values.first { $0.new.name == key.childName }
            let carried = child.map { Set($0.columns.values) } ?? Set(key.columns)
            if let own = key.columns.first(where: { !carried.contains($0) }) {
                notes.append("foreign key \(key.name) of NEW's \(key.childName): OLD has no column that is \(own)")
            } else {
                differences.append(.init(
                    object: "constraint \(key.childName).\(key.name)", property: "", old: nil, new: ""))
            }
        }
        try leaveOut(keys, onOld)
        try leaveOut(keys + present, onNew)
    }

    /// Names that are NEW's.
    private func translated(
        _ key: MappedSchemaCatalog.ForeignKey, _ child: MappedSchemaRest.Pair?, _ parent: MappedSchemaRest.Pair?
    ) -> MappedSchemaCatalog.ForeignKey {
        var key = key
        key.childName = child?.new.name ?? key.childName
        key.parentName = parent?.new.name ?? key.parentName
        if let child { key.columns = key.columns.map { child.columns[$0] ?? $0 } }
        if let parent { key.parentColumns = key.parentColumns.map { parent.columns[$0] ?? $0 } }
        return key
    }

    private func obstacle(
        _ key: MappedSchemaCatalog.ForeignKey, _ child: MappedSchemaRest.Pair?, _ parent: MappedSchemaRest.Pair?
    ) -> String? {
        let mapped = Set(relations.map(\.oid))
        if mapped.contains(key.child) && child == nil || mapped.contains(key.parent) && parent == nil {
            return "one of the tables has no twin on NEW"
        }
        if let reason = child?.obstacle(key.columns, isStrict: false)
            ?? parent?.obstacle(key.parentColumns, isStrict: false)
        {
            return reason
        }
        if parent?.isFiltered == true { return "`where` of mirror.tables may leave out rows that it refers to" }
        return key.obstacle(child)
    }

    private func shown(_ key: MappedSchemaCatalog.ForeignKey) -> String {
        "FOREIGN KEY (\(key.columns.joined(separator: ", "))) REFERENCES \(key.parentName)("
            + key.parentColumns.joined(separator: ", ") + ")" + key.rest
    }

    /// With what partitions have of them.
    private mutating func leaveOut(_ keys: [MappedSchemaCatalog.ForeignKey], _ on: borrowing Connection) throws {
        for key in keys {
            let rows = try on.query("""
                SELECT n.nspname || '.' || c.relname FROM to_regclass(\(SQL.literal(key.childName.sql))) t (relation)
                  CROSS JOIN LATERAL (SELECT relation UNION SELECT relid FROM pg_partition_tree(relation)) p (part)
                  JOIN pg_class c ON c.oid = p.part JOIN pg_namespace n ON n.oid = c.relnamespace
                """)
            for row in 0..<rows.count { compared.insert("constraint \(rows[row, 0] ?? "").\(key.name)") }
        }
    }

    // MARK: sequences

    /// Of columns: NEW's have the names that they got there.
    private mutating func compareSequences(_ onOld: borrowing Connection, _ onNew: borrowing Connection) throws {
        let others = try MappedSchemaCatalog.sequences(pairs.values.map { "\($0.new.oid)" }, onNew)
        for sequence in try MappedSchemaCatalog.sequences(Array(pairs.keys), onOld) {
            guard let pair = pairs[sequence.table] else { continue }
            let column = pair.columns[sequence.column]
            let twin = others.first { $0.table == "\(pair.new.oid)" && $0.column == column }
            // That it is missing is said by its name.
            if column != nil && twin == nil { continue }
            compared.formUnion([sequence.name, twin?.name].compactMap { $0.map { "sequence \($0)" } })
            let isSameType = column.flatMap { pair.new.column($0)?.type } == pair.old.column(sequence.column)?.type
            if let twin, isSameType, twin.definition != sequence.definition {
                differences.append(.init(
                    object: "sequence \(twin.name)", property: "definition", old: sequence.definition,
                    new: twin.definition))
            }
        }
    }
}
