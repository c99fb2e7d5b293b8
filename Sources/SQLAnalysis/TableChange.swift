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

    static func isOne(_ statement: SyntaxTree.Message) -> Bool {
        guard let descriptor = statement.pointee.descriptor else { return true }
        switch SyntaxTree.name(of: descriptor) {
        case "CreateStmt", "AlterEnumStmt", "AlterDomainStmt", "CreateForeignTableStmt", "ImportForeignSchemaStmt":
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

extension PgQuery__ObjectType: @retroactive Hashable {}
