import LibPQ

/// The capture of a table that is loaded in bulk (`mirror.bulk`): triggers that write the keys of a whole statement
/// down at once, from its transition tables. Stateless.
///
/// A statement trigger misses what a row trigger sees in two cases, and each has its answer:
/// - The apply worker of a subscription fires row triggers only. It is in the role of a replica: for that role the
///   row trigger stays (ENABLE REPLICA).
/// - A statement that names a parent, or a partitioned table, fires the triggers of that one only. So the table must
///   have none: a row trigger with a transition table, disabled, is what PostgreSQL refuses to make it a child or a
///   partition for, and refuses to put on one.
///
/// The statement triggers are ENABLE ALWAYS: a statement that changes its session's role half way would fire neither
/// them nor the row trigger for its first rows. A key that both write down does no harm.
enum StatementCapture {
    static let insertTrigger = CaptureSchema.rowTrigger + "_insert"
    static let updateTrigger = CaptureSchema.rowTrigger + "_update"
    static let deleteTrigger = CaptureSchema.rowTrigger + "_delete"
    /// Keeps the table from becoming a child or a partition; it is disabled, and does nothing where it fires.
    static let aloneTrigger = CaptureSchema.rowTrigger + "_alone"
    static let triggers = [insertTrigger, updateTrigger, deleteTrigger, aloneTrigger]

    private static let old = "godwit_old", new = "godwit_new"
    static let functionPrefix = "capture_rows_"

    static func functionName(_ table: TableDescription) -> String { "godwit.\(functionPrefix)\(table.oid)" }

    /// Why the table's rows must be captured one by one; nil: they need not.
    static func obstacle(_ table: TableDescription) -> String? {
        if table.isPartition { return "it is a partition" }
        if table.kind != .ordinary { return "it is partitioned" }
        return table.inheritsFrom.map { "it inherits from \($0)" }
    }

    /// SECURITY DEFINER like the row trigger's.
    ///
    /// Its plans are made at a session's first statement and kept, with the number of rows that this one had: without
    /// nested loops the comparison of old and new keys is a hash or merge join, whatever comes later.
    static func function(_ table: TableDescription) -> String {
        """
        CREATE OR REPLACE FUNCTION \(functionName(table))() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on SET jit = off \
        \(CaptureSchema.pins(table)) AS \(SQL.literal(body(table)))
        """
    }

    /// What the function's source must be.
    static func body(_ table: TableDescription) -> String {
        func keys(_ record: String) -> String {
            "SELECT capture.x, \(table.oid), \(CaptureSchema.key(table, of: record))"
        }
        let isUnchanged = table.keyColumns.map { CaptureSchema.comparison($0, "o", "=", "n") }
            .joined(separator: " AND ")
        return """
            <<capture>>
            DECLARE x xid8;
            BEGIN
                IF TG_LEVEL = 'ROW' THEN RETURN NULL; END IF;
                -- A statement that changed no row is no reason for a transaction id.
                IF TG_OP = 'INSERT' THEN PERFORM FROM \(new) LIMIT 1; ELSE PERFORM FROM \(old) LIMIT 1; END IF;
                IF NOT FOUND THEN RETURN NULL; END IF;
                x := pg_current_xact_id();
                IF TG_OP = 'INSERT' THEN
                    \(CaptureSchema.insert("\(keys("n")) FROM \(new) n"))
                    RETURN NULL;
                END IF;
                \(CaptureSchema.insert("\(keys("o")) FROM \(old) o"))
                IF TG_OP = 'UPDATE' THEN
                    \(CaptureSchema.insert("""
                        \(keys("n")) FROM \(new) n WHERE NOT EXISTS (SELECT FROM \(old) o WHERE \(isUnchanged))
                        """))
                END IF;
                RETURN NULL;
            END
            """
    }

    /// Behind those of `CaptureSchema.createTriggers`, in the same transaction.
    static func createTriggers(_ table: TableDescription, _ mark: ApplierMark) -> String {
        let name = table.name.sql
        func create(_ trigger: String, _ event: String, _ tables: String, each: String = "STATEMENT") -> String {
            """
            CREATE TRIGGER \(trigger) AFTER \(event) ON \(name) REFERENCING \(tables)
                FOR EACH \(each) WHEN (\(mark.isAbsent)) EXECUTE FUNCTION \(functionName(table))();
            """
        }
        return """
            \(function(table));
            \(create(aloneTrigger, "INSERT", "NEW TABLE AS \(new)", each: "ROW"))
            ALTER TABLE \(name) DISABLE TRIGGER \(aloneTrigger);
            \(create(insertTrigger, "INSERT", "NEW TABLE AS \(new)"))
            \(create(updateTrigger, "UPDATE", "OLD TABLE AS \(old) NEW TABLE AS \(new)"))
            \(create(deleteTrigger, "DELETE", "OLD TABLE AS \(old)"))
            \([insertTrigger, updateTrigger, deleteTrigger].map {
                "ALTER TABLE \(name) ENABLE ALWAYS TRIGGER \($0);"
            }.joined(separator: " "))
            ALTER TABLE \(name) ENABLE REPLICA TRIGGER \(CaptureSchema.rowTrigger);
            """
    }

    // MARK: what prepare will do

    /// What `mirror.bulk` names and cannot be captured so, and what is captured otherwise than it says.
    static func findings(
        _ bulk: Set<TableName>, mayCome: Bool, _ old: borrowing Connection, _ tables: [TableDescription]
    ) throws(PostgresFailure) -> [Preflight.Finding] {
        let known = Set(tables.map(\.name))
        var found = bulk.subtracting(known).sorted().map { name in
            mayCome
                ? Preflight.note(
                    "OLD \(name)", "is named in mirror.bulk and does not exist yet",
                    "Correct the name there, if it is not to come: DDL through Godwit that makes the table has it "
                        + "captured by statement")
                : Preflight.blocking(
                    "OLD \(name)", "is named in mirror.bulk and does not exist", "Correct the name there")
        }
        let rows = try old.query(CaptureSchema.capturedTables)
        let captured = CaptureSchema.healthy(rows)
        for table in tables {
            let isBulk = bulk.contains(table.name)
            if isBulk, let obstacle = obstacle(table) {
                found.append(Preflight.blocking(
                    "OLD \(table.name)", "is named in mirror.bulk, and \(obstacle): a statement on another table "
                        + "would change its rows unseen",
                    "Take it out of mirror.bulk: its rows are then captured one by one"))
            } else if let capture = captured[table.oid], capture.isByStatement != isBulk {
                found.append(Preflight.note(
                    "OLD \(table.name)", isBulk
                        ? "is named in mirror.bulk and captured row by row"
                        : "is captured by statement, and mirror.bulk does not name it",
                    "godwit prepare exchanges its triggers; nothing is copied anew for it"))
            }
        }
        return found
    }
}

/// A table's capture as the catalog has it, when it is whole.
struct InstalledCapture {
    /// The source of the row trigger's function.
    var body: String
    /// That of the statement triggers; nil: there are none.
    var statementBody: String?
    /// It has a row trigger for ordinary roles, and one for that of a replica.
    var isByRole: Bool

    var isByStatement: Bool { statementBody != nil }
    /// The columns that it writes down: see `CaptureSchema.keyMark`.
    var keyMark: String { CaptureSchema.keyMark(ofBody: body) }

    /// False: another version has made it, or it is for another key.
    func isMade(for table: TableDescription) -> Bool { isMade(for: table) { $0 } }

    /// Also what the version before has made, until `prepare` is run behind the upgrade: it misses no change.
    func mayGoOn(for table: TableDescription) -> Bool {
        isMade(for: table) || isMade(for: table, CaptureSchema.earlier)
    }

    private func isMade(for table: TableDescription, _ form: (String) -> String) -> Bool {
        body == form(CaptureSchema.captureBody(table))
            && (statementBody == nil || statementBody == form(StatementCapture.body(table)))
    }
}
