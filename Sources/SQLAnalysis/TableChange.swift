import CPgQuery

/// Which DDL changes what tables are made of: their columns, names, types, or that they exist. Indexes, views,
/// functions, triggers, rights and comments do not. Stateless.
enum TableChange {
    private static let tableLike: Set<PgQuery__ObjectType> = [
        PG_QUERY__OBJECT_TYPE__OBJECT_TABLE, PG_QUERY__OBJECT_TYPE__OBJECT_COLUMN,
        PG_QUERY__OBJECT_TYPE__OBJECT_SCHEMA, PG_QUERY__OBJECT_TYPE__OBJECT_TYPE,
        PG_QUERY__OBJECT_TYPE__OBJECT_DOMAIN, PG_QUERY__OBJECT_TYPE__OBJECT_ATTRIBUTE,
    ]

    /// `pg_temp.a, pg_temp.b`
    private static func hasOnlyTemporaryNames(_ node: PgQuery__DropStmt) -> Bool {
        guard let objects = node.objects, node.n_objects > 0 else { return false }
        return (0..<node.n_objects).allSatisfy { index in
            guard let object = objects[index], object.pointee.node_case == PG_QUERY__NODE__NODE_LIST,
                let list = object.pointee.list
            else { return false }
            let names = SyntaxTree.strings(list.pointee.items, list.pointee.n_items)
            return names.count > 1 && (names.first?.hasPrefix("pg_temp") ?? false)
        }
    }

    /// `CREATE FUNCTION pg_temp.f`, `CREATE TYPE pg_temp.e`: what is no relation and goes with its session.
    static func isTemporary(_ statement: SyntaxTree.Message) -> Bool {
        guard let descriptor = statement.pointee.descriptor else { return false }
        typealias Words = UnsafeMutablePointer<UnsafeMutablePointer<PgQuery__Node>?>?
        func isTemporary<Node>(_ type: Node.Type, _ name: (Node) -> (Words, Int)) -> Bool {
            let (words, count) = name(SyntaxTree.cast(statement, to: type).pointee)
            return count > 1 && (SyntaxTree.strings(words, count).first?.hasPrefix("pg_temp") ?? false)
        }
        return switch SyntaxTree.name(of: descriptor) {
        case "CreateFunctionStmt": isTemporary(PgQuery__CreateFunctionStmt.self) { ($0.funcname, $0.n_funcname) }
        case "DefineStmt": isTemporary(PgQuery__DefineStmt.self) { ($0.defnames, $0.n_defnames) }
        case "CreateEnumStmt": isTemporary(PgQuery__CreateEnumStmt.self) { ($0.type_name, $0.n_type_name) }
        case "CreateRangeStmt": isTemporary(PgQuery__CreateRangeStmt.self) { ($0.type_name, $0.n_type_name) }
        case "CreateDomainStmt": isTemporary(PgQuery__CreateDomainStmt.self) { ($0.domainname, $0.n_domainname) }
        default: false
        }
    }

    static func isOne(_ statement: SyntaxTree.Message) -> Bool {
        guard let descriptor = statement.pointee.descriptor else { return true }
        switch SyntaxTree.name(of: descriptor) {
        case "CreateStmt", "AlterEnumStmt", "AlterDomainStmt", "CreateForeignTableStmt", "ImportForeignSchemaStmt",
            "DropOwnedStmt":
            return true
        case "CreateSchemaStmt":
            return SyntaxTree.cast(statement, to: PgQuery__CreateSchemaStmt.self).pointee.n_schema_elts > 0
        case "CreateTableAsStmt":
            let type = SyntaxTree.cast(statement, to: PgQuery__CreateTableAsStmt.self).pointee.objtype
            return type == PG_QUERY__OBJECT_TYPE__OBJECT_TABLE
        case "AlterTableStmt":
            let node = SyntaxTree.cast(statement, to: PgQuery__AlterTableStmt.self).pointee
            return tableLike.contains(node.objtype)
        case "RenameStmt":
            let node = SyntaxTree.cast(statement, to: PgQuery__RenameStmt.self).pointee
            let isColumn = node.rename_type == PG_QUERY__OBJECT_TYPE__OBJECT_COLUMN
            return tableLike.contains(isColumn ? node.relation_type : node.rename_type)
        case "AlterObjectSchemaStmt":
            return tableLike.contains(
                SyntaxTree.cast(statement, to: PgQuery__AlterObjectSchemaStmt.self).pointee.object_type)
        case "DropStmt":
            let node = SyntaxTree.cast(statement, to: PgQuery__DropStmt.self).pointee
            return tableLike.contains(node.remove_type) && !hasOnlyTemporaryNames(node)
        default:
            return false
        }
    }
}

/// Whether a statement can run on both sides of a mirror at once (`mirror.ddl: barrier`).
package enum BarrierForm: Sendable, Equatable {
    /// It is none that a mirror has to know of.
    case notNeeded
    case fits
    /// It is none that a mirror has to know of, and can run on both sides with those of one text that fit.
    case comesAlong
    /// It has to do with the mirror's tables, and cannot: it brings rows, or touches triggers, partitions, or comes
    /// with what is no DDL.
    case unfit

    package var isNeeded: Bool { self == .fits || self == .unfit }
}

extension TableChange {
    /// Parts of ALTER TABLE after which rows and triggers are what they were, or are seen to be others by the stamps of
    /// the tables. What is not here is not carried.
    private static let fitting: Set<PgQuery__AlterTableType> = [
        PG_QUERY__ALTER_TABLE_TYPE__AT_AddColumn, PG_QUERY__ALTER_TABLE_TYPE__AT_ColumnDefault,
        PG_QUERY__ALTER_TABLE_TYPE__AT_DropNotNull, PG_QUERY__ALTER_TABLE_TYPE__AT_SetNotNull,
        PG_QUERY__ALTER_TABLE_TYPE__AT_DropExpression, PG_QUERY__ALTER_TABLE_TYPE__AT_SetStatistics,
        PG_QUERY__ALTER_TABLE_TYPE__AT_SetOptions, PG_QUERY__ALTER_TABLE_TYPE__AT_ResetOptions,
        PG_QUERY__ALTER_TABLE_TYPE__AT_SetStorage, PG_QUERY__ALTER_TABLE_TYPE__AT_SetCompression,
        PG_QUERY__ALTER_TABLE_TYPE__AT_DropColumn, PG_QUERY__ALTER_TABLE_TYPE__AT_AddIndex,
        PG_QUERY__ALTER_TABLE_TYPE__AT_AddConstraint, PG_QUERY__ALTER_TABLE_TYPE__AT_AddIndexConstraint,
        PG_QUERY__ALTER_TABLE_TYPE__AT_AlterConstraint,
        PG_QUERY__ALTER_TABLE_TYPE__AT_ValidateConstraint, PG_QUERY__ALTER_TABLE_TYPE__AT_DropConstraint,
        PG_QUERY__ALTER_TABLE_TYPE__AT_AlterColumnType, PG_QUERY__ALTER_TABLE_TYPE__AT_SetRelOptions,
        PG_QUERY__ALTER_TABLE_TYPE__AT_ResetRelOptions, PG_QUERY__ALTER_TABLE_TYPE__AT_AddIdentity,
        PG_QUERY__ALTER_TABLE_TYPE__AT_SetIdentity, PG_QUERY__ALTER_TABLE_TYPE__AT_DropIdentity,
        PG_QUERY__ALTER_TABLE_TYPE__AT_ChangeOwner, PG_QUERY__ALTER_TABLE_TYPE__AT_ReplicaIdentity,
        PG_QUERY__ALTER_TABLE_TYPE__AT_ClusterOn, PG_QUERY__ALTER_TABLE_TYPE__AT_DropCluster,
    ]

    /// What no table is made of, and may be made on both sides with those that are.
    private static let accompanying: Set<PgQuery__ObjectType> = [
        PG_QUERY__OBJECT_TYPE__OBJECT_INDEX, PG_QUERY__OBJECT_TYPE__OBJECT_VIEW,
        PG_QUERY__OBJECT_TYPE__OBJECT_SEQUENCE, PG_QUERY__OBJECT_TYPE__OBJECT_FUNCTION,
        PG_QUERY__OBJECT_TYPE__OBJECT_PROCEDURE, PG_QUERY__OBJECT_TYPE__OBJECT_ROUTINE,
        PG_QUERY__OBJECT_TYPE__OBJECT_TRIGGER, PG_QUERY__OBJECT_TYPE__OBJECT_STATISTIC_EXT,
    ]

    /// What columns are made with: the next statement may name it.
    private static let used: Set<PgQuery__ObjectType> = [
        PG_QUERY__OBJECT_TYPE__OBJECT_SEQUENCE, PG_QUERY__OBJECT_TYPE__OBJECT_COLLATION,
    ]

    /// Of several statements of one text.
    static func form(of forms: [BarrierForm]) -> BarrierForm {
        if !forms.contains(where: \.isNeeded) {
            return forms.allSatisfy { $0 == .comesAlong } ? .comesAlong : .notNeeded
        }
        return forms.allSatisfy { $0 == .fits || $0 == .comesAlong } ? .fits : .unfit
    }

    /// DDL that the grammar does not know, of a later PostgreSQL, or was not asked about.
    static func note(unknown classification: inout Classification) {
        classification.changesSchema = true
        classification.changesTables = true
        classification.barrier = .unfit
    }

    /// Of a statement on what is not temporary.
    static func form(of statement: SyntaxTree.Message) -> BarrierForm {
        guard let descriptor = statement.pointee.descriptor else { return .unfit }
        switch SyntaxTree.name(of: descriptor) {
        // What a role owns may be other things on each side.
        case "CreateTableAsStmt", "ImportForeignSchemaStmt", "CreateForeignTableStmt", "DropOwnedStmt":
            return isOne(statement) ? .unfit : .notNeeded
        // What tables are made of: the next statement may name it.
        case "CompositeTypeStmt", "CreateEnumStmt", "CreateRangeStmt", "CreateDomainStmt", "CreateSchemaStmt",
            "CreateSeqStmt":
            return .fits
        case "DefineStmt":
            let kind = SyntaxTree.cast(statement, to: PgQuery__DefineStmt.self).pointee.kind
            return used.contains(kind) ? .fits : .notNeeded
        case "AlterSeqStmt":
            let node = SyntaxTree.cast(statement, to: PgQuery__AlterSeqStmt.self).pointee
            // Where it stands is brought by the mirror.
            let restarts = SyntaxTree.options(node.options, node.n_options).allSatisfy { $0.name == "restart" }
            return restarts ? .comesAlong : .fits
        case "IndexStmt":
            let node = SyntaxTree.cast(statement, to: PgQuery__IndexStmt.self).pointee
            return node.concurrent != 0 ? .notNeeded : .comesAlong
        case "CommentStmt", "ViewStmt", "CreateFunctionStmt", "CreateTrigStmt", "GrantStmt", "CreateStatsStmt",
            "AlterOwnerStmt", "AlterFunctionStmt", "AlterDefaultPrivilegesStmt":
            return .comesAlong
        case "RenameStmt" where !isOne(statement):
            let type = SyntaxTree.cast(statement, to: PgQuery__RenameStmt.self).pointee.rename_type
            // The next statement on its table, or domain, or for its column may name it.
            let isNamed = type == PG_QUERY__OBJECT_TYPE__OBJECT_TABCONSTRAINT
                || type == PG_QUERY__OBJECT_TYPE__OBJECT_DOMCONSTRAINT || used.contains(type)
            return isNamed ? .fits : accompanying.contains(type) ? .comesAlong : .notNeeded
        case "AlterObjectSchemaStmt" where !isOne(statement):
            let type = SyntaxTree.cast(statement, to: PgQuery__AlterObjectSchemaStmt.self).pointee.object_type
            if used.contains(type) { return .fits }
            return accompanying.contains(type) ? .comesAlong : .notNeeded
        case "DropStmt" where !isOne(statement):
            let node = SyntaxTree.cast(statement, to: PgQuery__DropStmt.self).pointee
            if used.contains(node.remove_type) && !hasOnlyTemporaryNames(node) { return .fits }
            return node.concurrent != 0 ? .notNeeded : .comesAlong
        case "AlterTableStmt":
            let node = SyntaxTree.cast(statement, to: PgQuery__AlterTableStmt.self).pointee
            guard isOne(statement) else { return accompanying.contains(node.objtype) ? .comesAlong : .notNeeded }
            guard node.objtype == PG_QUERY__OBJECT_TYPE__OBJECT_TABLE, let commands = node.cmds else { return .fits }
            let fits = (0..<node.n_cmds).allSatisfy { index in
                guard let command = commands[index],
                    command.pointee.node_case == PG_QUERY__NODE__NODE_ALTER_TABLE_CMD,
                    let content = command.pointee.alter_table_cmd
                else { return false }
                return fitting.contains(content.pointee.subtype)
            }
            return fits ? .fits : .unfit
        default:
            return isOne(statement) ? .fits : .notNeeded
        }
    }
}

extension PgQuery__ObjectType: @retroactive Hashable {}
extension PgQuery__AlterTableType: @retroactive Hashable {}
