import LibPQ
import Primitives

/// What is still to come to NEW's tables of `mirror.tables`, and to what refers to them: as statements where OLD's
/// object can be on NEW exactly, otherwise as a line for the operator. Nothing is changed to find it out. Used by one
/// thread.
///
/// Nobody here translates SQL: a temporary table that has NEW's columns under OLD's names gets OLD's index or
/// constraint, its columns are renamed to NEW's names, and PostgreSQL says what has become of it.
struct MappedSchemaRest {
    /// OLD's objects that pg_restore is not to bring.
    private(set) var entries: Set<SchemaCopy.Entry> = []
    /// In their order: foreign keys come last.
    private(set) var statements: [String] = []
    /// One line for each object that is the operator's.
    private(set) var left: [String] = []

    /// A table of OLD that a mapping names, or a partition of one, and NEW's.
    struct Pair {
        var old: TableDescription
        var new: TableDescription
        var mapping: TableMapping
        /// NEW's column for OLD's.
        var columns: [String: String]
        var isFiltered: Bool { !mapping.condition.isEmpty }

        /// Why OLD's object cannot be on NEW as it is.
        ///
        /// - Parameter isStrict: its meaning depends on how values are compared.
        func obstacle(_ columns: [String], isStrict: Bool) -> String? {
            if let lost = columns.first(where: { self.columns[$0] == nil }) {
                return "\(new.name) has no column that holds \(lost) as it is"
            }
            let other = columns.first { !isSame($0) }
            guard isStrict, let other else { return nil }
            return "\(other) has another type in \(new.name)"
        }

        private func isSame(_ column: String) -> Bool {
            guard let from = old.column(column)?.type,
                let to = columns[column].flatMap({ new.column($0)?.type })
            else { return false }
            return TableDescription.Column.family(of: from) == TableDescription.Column.family(of: to)
        }
    }

    init(_ mappings: TableMappings, _ onOld: borrowing Connection, _ onNew: borrowing Connection) throws {
        if mappings.all.isEmpty { return }
        let relations = try MappedSchemaCatalog.relations(mappings.all.map(\.old), onOld)
        let pairs = try Self.pairs(mappings, onOld, onNew)
        let lost = try MappedSchemaCatalog.lostViews(onOld, onNew)
        entries = try MappedSchemaCatalog.entries(relations, lost, onOld)
        left += lost.map { "view \($0.name) is not on NEW, nor is what OLD has on it" }
        left += relations.filter { pairs[$0.oid] == nil }.map {
            "table \($0.name) has no twin on NEW: indexes and constraints that are its own are not made"
        }
        let objects = try MappedSchemaCatalog.objects(relations.map(\.oid), onOld)
        var failed: Set<String> = []
        for (oid, pair) in pairs.sorted(by: { $0.value.old.name < $1.value.old.name }) {
            failed.formUnion(try plan(objects.filter { $0.table == oid }, pair, onNew))
        }
        let keys = try MappedSchemaCatalog.foreignKeys(relations.map(\.oid), onOld)
        try planForeignKeys(keys, pairs, Set(relations.map(\.oid)), failed, onNew)
        let twins = pairs.mapValues { "\($0.new.oid)" }
        left += try MappedSchemaCatalog.others(relations.map(\.oid), twins, onOld, onNew)
    }

    /// By OLD's number.
    static func pairs(
        _ mappings: TableMappings, _ onOld: borrowing Connection, _ onNew: borrowing Connection
    ) throws -> [String: Pair] {
        let (old, new) = (try CatalogReader.tables(onOld), try CatalogReader.tables(onNew))
        var pairs: [String: Pair] = [:]
        for mapping in mappings.all {
            guard let table = old.first(where: { $0.name == mapping.old }),
                let twin = mappings.twin(of: table, on: .old, among: new)
            else { continue }
            let parts = try MappedSchemaCatalog.partitions(of: table, onOld)
            let theirs = try MappedSchemaCatalog.partitions(of: twin, onNew)
            let found = old.filter { parts.contains($0.oid) }.compactMap { part in
                new.first { theirs.contains($0.oid) && $0.name == part.name }.map { (part, $0) }
            }
            for (old, new) in [(table, twin)] + found {
                pairs["\(old.oid)"] = Pair(
                    old: old, new: new, mapping: mapping, columns: mapping.carried(old, to: new))
            }
        }
        return pairs
    }

    // MARK: indexes and constraints

    /// - Returns: the unique indexes of OLD that NEW will not have.
    private mutating func plan(
        _ objects: [MappedSchemaCatalog.Object], _ pair: Pair, _ onNew: borrowing Connection
    ) throws -> [String] {
        let present = try MappedSchemaCatalog.objects(["\(pair.new.oid)"], onNew)
        let names = Set(present.map(\.name))
        let missing = objects.filter { object in
            !names.contains(object.name) && !(object.kind == "p" && present.contains { $0.kind == "p" })
        }
        var failed: [String] = []
        for (object, outcome) in zip(missing, try Self.translate(missing, pair, isStrict: true, onNew)) {
            var reason = outcome.reason
            if reason == nil, object.kind != "c" {
                let name = TableName(schema: place(object, pair), name: object.name)
                let what = object.kind == "statistics" ? "NULL" : "to_regclass(\(SQL.literal(name.sql)))"
                if try onNew.query("SELECT \(what) IS NOT NULL").flag(0, 0) { reason = "NEW has another \(name)" }
            }
            if let reason {
                left.append("\(object.title) \(object.name) of \(pair.old.name): \(reason). OLD has: "
                    + statement(object, TableName(schema: pair.old.name.schema, name: pair.old.name.name), pair))
                if object.isUnique { failed.append(object.index) }
                continue
            }
            var translated = object
            translated.definition = outcome.definition
            let isThere = present.contains {
                $0.kind == object.kind && $0.isUnique == object.isUnique && $0.definition == outcome.definition
            }
            if !isThere {
                statements.append(([statement(translated, pair.new.name, pair)] + extras(object, pair))
                    .joined(separator: "; "))
            }
        }
        return failed
    }

    /// Statistics have a schema of their own.
    private func place(_ object: MappedSchemaCatalog.Object, _ pair: Pair) -> String {
        object.schema == pair.old.name.schema ? pair.new.name.schema : object.schema
    }

    private func statement(_ object: MappedSchemaCatalog.Object, _ table: TableName, _ pair: Pair) -> String {
        let name = SQL.identifier(object.name)
        switch object.kind {
        case "index":
            return "CREATE \(object.isUnique ? "UNIQUE " : "")INDEX \(name) ON \(table.sql) USING \(object.definition)"
        case "statistics":
            let schema = table == pair.old.name ? object.schema : place(object, pair)
            return "CREATE STATISTICS \(SQL.identifier(schema)).\(name) \(object.definition) FROM \(table.sql)"
        default:
            return "ALTER TABLE \(table.sql) ADD CONSTRAINT \(name) \(object.definition)"
        }
    }

    /// What the dump says behind an index or a constraint.
    private func extras(_ object: MappedSchemaCatalog.Object, _ pair: Pair) -> [String] {
        let name = SQL.identifier(object.name), table = pair.new.name.sql
        var extras: [String] = []
        if object.isIdentity { extras.append("ALTER TABLE \(table) REPLICA IDENTITY USING INDEX \(name)") }
        if object.isClustered { extras.append("ALTER TABLE \(table) CLUSTER ON \(name)") }
        if let comment = object.comment {
            let what = switch object.kind {
            case "index": "INDEX \(SQL.identifier(pair.new.name.schema)).\(name)"
            case "statistics": "STATISTICS \(SQL.identifier(place(object, pair))).\(name)"
            default: "CONSTRAINT \(name) ON \(table)"
            }
            extras.append("COMMENT ON \(what) IS \(SQL.literal(comment))")
        }
        return extras
    }

    struct Outcome {
        var definition = ""
        var reason: String?
    }

    /// What PostgreSQL says of OLD's objects when NEW's table has them: all in a transaction that is rolled back.
    ///
    /// - Parameter isStrict: those whose meaning depends on a type that is another on NEW are not tried.
    static func translate(
        _ objects: [MappedSchemaCatalog.Object], _ pair: Pair, isStrict: Bool, _ onNew: borrowing Connection
    ) throws -> [Outcome] {
        if objects.isEmpty { return [] }
        let table = "pg_temp.godwit_rest"
        func rename(_ from: String, _ to: String) -> String {
            "ALTER TABLE \(table) RENAME COLUMN \(SQL.identifier(from)) TO \(SQL.identifier(to));"
        }
        let carried = pair.columns.sorted { $0.key < $1.key }
        var numbers: [String: Int] = [:]
        for (number, column) in pair.new.columns.enumerated() { numbers[column.name] = number }
        let backward = pair.new.columns.enumerated().map { rename($1.name, "godwit_new_\($0)") }
            + carried.map { rename("godwit_new_\(numbers[$0.value] ?? 0)", $0.key) }
        let forward = carried.enumerated().map { rename($1.key, "godwit_old_\($0)") }
            + carried.enumerated().map { rename("godwit_old_\($0)", $1.value) }
        try onNew.execute("""
            BEGIN; CREATE TEMP TABLE godwit_rest (LIKE \(pair.new.name.sql)); \(backward.joined(separator: " "))
            """)
        defer { _ = try? onNew.execute("ROLLBACK") }
        var outcomes: [Outcome] = []
        for object in objects {
            var outcome = Outcome(
                reason: pair.obstacle(
                    object.columns, isStrict: isStrict && (object.isUnique || object.isConstraint)))
            if outcome.reason == nil {
                do throws(PostgresFailure) {
                    try onNew.execute("SAVEPOINT godwit; \(trial(object, table))")
                } catch {
                    guard error.kind == .refused else { throw error }
                    outcome.reason = error.message
                    try onNew.execute("ROLLBACK TO SAVEPOINT godwit")
                }
            }
            outcomes.append(outcome)
        }
        try onNew.execute(forward.joined(separator: " "))
        let oid = try onNew.query("SELECT '\(table)'::regclass::oid")[0, 0] ?? ""
        let results = try MappedSchemaCatalog.objects([oid], onNew) + MappedSchemaCatalog.actions([oid], onNew)
        for index in objects.indices where outcomes[index].reason == nil {
            if let result = results.first(where: { $0.name == trialName(objects[index]) }) {
                outcomes[index].definition = result.definition
            } else {
                outcomes[index].reason = "it cannot be tried on NEW"
            }
        }
        return outcomes
    }

    private static func trialName(_ object: MappedSchemaCatalog.Object) -> String {
        "godwit_rest_\(object.kind)_\(object.oid)"
    }

    private static func trial(_ object: MappedSchemaCatalog.Object, _ table: String) -> String {
        let name = trialName(object)
        return switch object.kind {
        case "index": "CREATE \(object.isUnique ? "UNIQUE " : "")INDEX \(name) ON \(table) USING \(object.definition)"
        case "statistics": "CREATE STATISTICS pg_temp.\(name) \(object.definition) FROM \(table)"
        case "trigger":
            object.definition.replacing(MappedSchemaCatalog.nameMark, with: name)
                .replacing(MappedSchemaCatalog.tableMark, with: table)
        case "policy": "CREATE POLICY \(name) ON \(table) \(object.definition)"
        default: "ALTER TABLE \(table) ADD CONSTRAINT \(name) \(object.definition)"
        }
    }

    // MARK: foreign keys

    /// - Parameter relations: OLD's tables that a mapping names, and their partitions.
    /// - Parameter failed: OLD's unique indexes that NEW will not have.
    private mutating func planForeignKeys(
        _ keys: [MappedSchemaCatalog.ForeignKey], _ pairs: [String: Pair], _ relations: Set<String>,
        _ failed: Set<String>, _ onNew: borrowing Connection
    ) throws {
        let present = try MappedSchemaCatalog.presentForeignKeys(onNew)
        for key in keys {
            let child = pairs[key.child], parent = pairs[key.parent]
            let table = child?.new.name ?? key.childName, other = parent?.new.name ?? key.parentName
            if present.contains("\(table) \(key.name)") { continue }
            var reason = child?.obstacle(key.columns, isStrict: true)
                ?? parent?.obstacle(key.parentColumns, isStrict: true)
            if relations.contains(key.child) && child == nil || relations.contains(key.parent) && parent == nil {
                reason = "one of the tables has no twin on NEW"
            }
            func list(_ columns: [String], _ pair: Pair?) -> String {
                columns.map { SQL.identifier(pair?.columns[$0] ?? $0) }.joined(separator: ", ")
            }
            reason = reason ?? key.obstacle(child)
            if let reason {
                left.append("foreign key \(key.name) of \(key.childName): \(reason). OLD has: ALTER TABLE "
                    + "\(key.childName.sql) ADD CONSTRAINT \(SQL.identifier(key.name)) \(key.definition)")
                continue
            }
            let statement = """
                ALTER TABLE \(table.sql) ADD CONSTRAINT \(SQL.identifier(key.name)) \
                FOREIGN KEY (\(list(key.columns, child))) REFERENCES \(other.sql) (\(list(key.parentColumns, parent)))\
                \(key.rest)
                """
            if parent?.isFiltered == true {
                left.append("foreign key \(key.name) of \(key.childName): `where` of mirror.tables may leave out rows "
                    + "of \(key.parentName) that it refers to. If it holds on NEW: \(statement)")
            } else if failed.contains(key.index) {
                left.append("foreign key \(key.name) of \(key.childName): it needs a unique index that is left to you. "
                    + "Behind that: \(statement)")
            } else {
                let comment = key.comment.map {
                    "; COMMENT ON CONSTRAINT \(SQL.identifier(key.name)) ON \(table.sql) IS \(SQL.literal($0))"
                }
                statements.append(statement + (comment ?? ""))
            }
        }
    }
}
