/// Transactions that change the schema, as hostile as `HostileWriter`'s: tables that come, go and are renamed, columns
/// that have one value, many or other types, with rows written between and behind, and a ROLLBACK now and then. Many of
/// them are refused, because what they speak of is not there.
extension HostileWriter {
    /// Names of tables that come, as a configuration's `bulk` may name some of them.
    static let comingTables = (0..<4).map { "extra_\($0)" }

    /// The statements of the next such transaction, each to be sent by itself; or one outside of any.
    mutating func migration() -> [String] {
        if pick(4) == 0 { return [change()] }
        var script = ["BEGIN"]
        if pick(3) == 0 { script.append("UPDATE accounts SET note = 'before' WHERE id % 20 = \(pick(20))") }
        // Mostly it sees to it that what it writes to is there.
        let table = pick(4) == 0 ? nil : Self.comingTables[pick(4)]
        if let table { script.append(create(table)) }
        for _ in 0...pick(2) {
            let isNested = pick(3) == 0
            if isNested { script.append("SAVEPOINT s") }
            script.append(change())
            for _ in 0..<pick(3) { script.append(rows(table)) }
            if isNested { script.append(pick(2) == 0 ? "ROLLBACK TO s" : "RELEASE s") }
        }
        if pick(6) == 0 { script.append("CREATE INDEX tree_total_\(pick(3)) ON tree (total)") }
        script.append(pick(5) == 0 ? "ROLLBACK" : "COMMIT")
        return script
    }

    private func create(_ table: String) -> String {
        "CREATE TABLE IF NOT EXISTS \(table) (id int PRIMARY KEY, v text, at timestamptz DEFAULT now())"
    }

    private mutating func change() -> String {
        let table = Self.comingTables[pick(4)], other = Self.comingTables[pick(4)], number = pick(3)
        switch pick(16) {
        case 0, 1, 2: return create(table)
        case 3: return "DROP TABLE IF EXISTS \(table)"
        case 4: return "ALTER TABLE IF EXISTS \(table) RENAME TO \(other)"
        case 5: return "ALTER TABLE accounts ADD COLUMN IF NOT EXISTS c\(number) int DEFAULT \(number)"
        case 6: return "ALTER TABLE accounts DROP COLUMN IF EXISTS c\(number)"
        case 7: return "ALTER TABLE entries ADD COLUMN IF NOT EXISTS r\(number) float8 DEFAULT random()"
        case 8: return "ALTER TABLE entries DROP COLUMN IF EXISTS r\(number)"
        case 9: return "ALTER TABLE texts ADD COLUMN IF NOT EXISTS t\(number) text"
        case 10: return "ALTER TABLE texts RENAME COLUMN t\(number) TO t\(pick(3))"
        case 11: return "ALTER TABLE tree ALTER COLUMN total TYPE \(number == 0 ? "int" : "bigint")"
        case 12: return "ALTER TABLE IF EXISTS \(table) ADD COLUMN IF NOT EXISTS w\(number) int NOT NULL DEFAULT 5"
        case 13: return "ALTER TABLE accounts ADD CONSTRAINT high\(number) CHECK (id > -\(number + 1))"
        case 14: return "DROP TABLE IF EXISTS \(table); CREATE TABLE \(table) (v text, id int, PRIMARY KEY (id))"
        default: return "ALTER TABLE accounts DROP CONSTRAINT IF EXISTS high\(number)"
        }
    }

    /// Into tables that may be new, and through others whose columns may be.
    mutating func rows(_ named: String? = nil) -> String {
        let table = named ?? Self.comingTables[pick(4)], id = 1 + pick(300)
        switch pick(7) {
        case 0, 1: return """
            INSERT INTO \(table) (id, v) SELECT g, 'row ' || g FROM generate_series(\(id), \(id + 40)) g
                ON CONFLICT (id) DO UPDATE SET v = \(table).v || '+'
            """
        case 2: return "UPDATE \(table) SET v = v || 'x' WHERE id % 7 = \(id % 7)"
        case 3: return "DELETE FROM \(table) WHERE id % 5 = \(id % 5)"
        case 4: return "UPDATE tree SET total = total + 1 WHERE id % 10 = \(id % 10)"
        case 5: return "UPDATE accounts SET note = 'changed', balance = balance + 1 WHERE id % 20 = \(id % 20)"
        default: return "UPDATE entries SET amount = amount + 1 WHERE id % 10 = \(id % 10)"
        }
    }
}
