import LibPQ

/// Writes on NEW that are not the mirror's. Used by the mirror's thread.
///
/// Ordinary triggers on NEW's tables leave the key of every row that somebody else changes. They cost the mirror
/// nothing: in its replica role they do not fire. Nor do they for a stranger in that role, whom only verify finds.
/// Where the mirror may not take that role, their condition lets it pass.
enum RogueWatch {
    static let rowTrigger = "godwit_rogue"
    static let truncateTrigger = "godwit_rogue_truncate"
    /// Keys taken at once; the rest wait for the next look.
    static let keysMax = 10_000

    /// What to do about the strangers' writes.
    struct Found {
        /// By table of NEW.
        var keys: [TableName: [[String]]] = [:]
        var truncated: Set<TableName> = []
        var ids: [Int64] = []
    }

    static let schema = """
        CREATE TABLE IF NOT EXISTS godwit.rogue (
            id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, schema_name text NOT NULL, table_name text NOT NULL,
            key text[]);
        -- Not tried each time: whoever has written there and not ended would be waited for, and all behind him.
        DO $godwit$ BEGIN IF NOT EXISTS (
                SELECT FROM pg_attribute WHERE attrelid = 'godwit.rogue'::regclass AND attname = 'relation') THEN
            ALTER TABLE godwit.rogue ADD COLUMN relation oid;
        END IF; END $godwit$;
        CREATE OR REPLACE FUNCTION godwit.rogue_truncate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp AS $godwit$
        BEGIN
            INSERT INTO godwit.rogue (schema_name, table_name, relation)
                VALUES (TG_ARGV[0], TG_ARGV[1], TG_ARGV[2]::oid);
            RETURN NULL;
        END $godwit$;
        """

    /// - Parameter table: NEW's.
    static func install(_ table: TableDescription, _ mark: ApplierMark) -> String {
        let condition = mark == .replica ? "" : " WHEN (\(mark.isAbsent))"
        let function = "godwit.rogue_\(table.oid)", name = table.name.sql
        let who = "\(SQL.literal(table.name.schema)), \(SQL.literal(table.name.name)), '\(table.oid)'"
        func insert(_ record: String) -> String {
            let key = table.keyColumns.map { CaptureSchema.keyText($0, of: record) }.joined(separator: ", ")
            return "INSERT INTO godwit.rogue (schema_name, table_name, relation, key) VALUES (\(who), ARRAY[\(key)]);"
        }
        let body = """
            BEGIN
                IF TG_OP <> 'INSERT' THEN \(insert("OLD")) END IF;
                IF TG_OP <> 'DELETE' THEN \(insert("NEW")) END IF;
                RETURN NULL;
            END
            """
        return """
            CREATE OR REPLACE FUNCTION \(function)() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
            SET TimeZone = 'UTC' SET extra_float_digits = '3' SET bytea_output = 'hex' SET lc_monetary = 'C'
            AS \(SQL.literal(body));
            CREATE OR REPLACE TRIGGER \(rowTrigger) AFTER INSERT OR UPDATE OR DELETE ON \(name)
                FOR EACH ROW\(condition) EXECUTE FUNCTION \(function)();
            CREATE OR REPLACE TRIGGER \(truncateTrigger) AFTER TRUNCATE ON \(name)
                FOR EACH STATEMENT\(condition) EXECUTE FUNCTION godwit.rogue_truncate(\(who));
            """
    }

    /// Tables of NEW that are watched already, not by an earlier version's triggers, which know them by their names.
    static func watched(_ mark: ApplierMark) -> String {
        """
        SELECT n.nspname, c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
          JOIN pg_proc p ON p.oid = t.tgfoid AND p.prosrc LIKE '%, relation, key)%'
          JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = '\(rowTrigger)' AND t.tgparentid = 0
           \(mark == .replica ? "" : "AND \(mark.isKnown(to: "t"))")
        """
    }

    /// A table may have been renamed since. A side that an earlier version has prepared has no `relation` to tell.
    static let keysQuery = """
        SELECT r.id, coalesce(nspname, schema_name), coalesce(relname, table_name), key IS NULL, part
          FROM (SELECT * FROM godwit.rogue ORDER BY id LIMIT \(keysMax)) r
          LEFT JOIN pg_class c ON c.oid = (to_jsonb(r)->>'relation')::oid
          LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN LATERAL unnest(r.key) WITH ORDINALITY k (part, n) ON true ORDER BY r.id, k.n
        """

    /// - Returns: nil when nobody has written.
    static func collect(_ rows: Rows) -> Found? {
        guard rows.count > 0 else { return nil }
        var found = Found()
        var row = 0
        while row < rows.count {
            let id = rows.integer(row, 0) ?? 0
            let name = TableName(schema: rows[row, 1] ?? "", name: rows[row, 2] ?? "")
            if rows.flag(row, 3) { found.truncated.insert(name) }
            var key: [String] = []
            while row < rows.count, rows.integer(row, 0) == id {
                if let part = rows[row, 4] { key.append(part) }
                row += 1
            }
            if !key.isEmpty { found.keys[name, default: []].append(key) }
            found.ids.append(id)
        }
        return found
    }

    /// What was collected, and no more: who has drawn a lower number may have committed since.
    static func forget(_ found: Found) -> String {
        let ids = found.ids.map { "\($0)" }.joined(separator: ",")
        return "DELETE FROM godwit.rogue WHERE id = ANY ('{\(ids)}'::bigint[])"
    }

    static func describe(_ found: Found) -> String {
        let tables = found.keys.sorted { $0.key < $1.key }.map { name, keys in
            let shown = keys.prefix(5).map { "(\($0.joined(separator: ", ")))" }.joined(separator: ", ")
            return "\(name) \(shown)" + (keys.count > 5 ? " and \(keys.count - 5) more" : "")
        }
        return (tables + found.truncated.sorted().map { "\($0) TRUNCATE" }).joined(separator: "; ")
    }
}
