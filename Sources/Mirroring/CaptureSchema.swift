import LibPQ

/// What Godwit puts into the two databases: the schema `godwit`, nothing else but triggers. Stateless.
enum CaptureSchema {
    /// Of a table that is captured row by row it sleeps in the role of a replica, and `replicaTrigger` fires there in
    /// its place: see `ApplierMark.isAbsent`.
    static let rowTrigger = "godwit_capture"
    static let replicaTrigger = "godwit_capture_replica"
    static let truncateTrigger = "godwit_capture_truncate"
    /// Raised by godwit.advance when the compare-and-set missed.
    static let missedState = "GW001"

    /// On the authority: the journal, and what the mirror is asked to do.
    ///
    /// `control.hold_token` asks the running mirror to hold after its next batch and to publish under that
    /// token the batch's snapshot, exported on the source; whoever asked sets it to NULL when its readers are
    /// attached.
    static let source = """
        CREATE SCHEMA IF NOT EXISTS godwit;
        REVOKE ALL ON SCHEMA godwit FROM PUBLIC;
        CREATE TABLE IF NOT EXISTS godwit.control (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            epoch bigint NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
            generation bigint NOT NULL DEFAULT 1,
            hold_token text, served_token text, served_snapshot text, served_export text);
        -- The journal no longer holds what a NEW before this batch would need.
        ALTER TABLE godwit.control ADD COLUMN IF NOT EXISTS emptied_batch bigint NOT NULL DEFAULT 0;
        INSERT INTO godwit.control DEFAULT VALUES ON CONFLICT DO NOTHING;
        """ + (0..<Journal.tables).map { index in
            """

            CREATE TABLE IF NOT EXISTS \(Journal.table(index)) (
                xid xid8 NOT NULL, relation oid NOT NULL, key text[]) WITH (autovacuum_enabled = false);
            -- Not IF NOT EXISTS, which waits for all that write, and lets others wait behind it, before it looks.
            DO $godwit$ BEGIN IF to_regclass('\(Journal.table(index))_xid') IS NULL THEN
                CREATE INDEX journal_\(index)_xid ON \(Journal.table(index)) (xid); END IF; END $godwit$;
            """
        }.joined() + "\n" + truncateFunction + "\n" + markDirtyFunction

    static let target = """
        CREATE SCHEMA IF NOT EXISTS godwit;
        REVOKE ALL ON SCHEMA godwit FROM PUBLIC;
        CREATE TABLE IF NOT EXISTS godwit.progress (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton), epoch bigint NOT NULL, batch bigint NOT NULL,
            snapshot text NOT NULL, source text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
        -- While a long query holds NEW's old row versions, each batch still finds the one that lives.
        CREATE INDEX IF NOT EXISTS progress_batch ON godwit.progress (batch);
        CREATE TABLE IF NOT EXISTS godwit.backfill (
            schema_name text, table_name text, after_key text[], rows_copied bigint NOT NULL DEFAULT 0,
            is_copied boolean NOT NULL DEFAULT false, PRIMARY KEY (schema_name, table_name));
        -- See TableStamp.
        ALTER TABLE godwit.backfill ADD COLUMN IF NOT EXISTS stamp text;
        ALTER TABLE godwit.backfill ADD COLUMN IF NOT EXISTS bytes_copied bigint NOT NULL DEFAULT 0;
        -- OLD's partitions as of progress.snapshot: see PartitionTracker.
        CREATE TABLE IF NOT EXISTS godwit.partition (
            root oid, leaf oid, stamp text NOT NULL, condition text NOT NULL, PRIMARY KEY (root, leaf));
        CREATE OR REPLACE FUNCTION godwit.advance(its_epoch bigint, its_batch bigint, seen text, shown text)
        RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $godwit$
        BEGIN
            UPDATE godwit.progress SET snapshot = shown, batch = batch + 1, applied_at = now()
             WHERE epoch = its_epoch AND batch = its_batch AND snapshot = seen;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'another applier has moved NEW on from batch %', its_batch
                    USING ERRCODE = '\(missedState)';
            END IF;
        END $godwit$;
        \(definitionFunctions)
        \(RogueWatch.schema)
        \(SetAside.schema)
        """

    /// Raised by godwit.expect when a table of NEW is not what the statements were made for.
    static let changedState = "GW003"

    /// What a table of NEW is, as far as it decides what becomes of a row that we bring.
    private static let definitionFunctions = """
        CREATE OR REPLACE FUNCTION godwit.definition(its oid) RETURNS text LANGUAGE sql
        SET search_path = pg_catalog, pg_temp AS $godwit$
            SELECT md5(concat_ws('/',
                (SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attnotnull, attgenerated,
                        attidentity, xmin), ',' ORDER BY attnum) FROM pg_attribute
                  WHERE attrelid = its AND attnum > 0 AND NOT attisdropped),
                (SELECT string_agg(concat_ws(' ', tgname, tgenabled), ',' ORDER BY tgname) FROM pg_trigger
                  WHERE tgrelid = its AND tgenabled IN ('A', 'R') AND NOT tgisinternal),
                (SELECT string_agg(concat_ws(' ', rulename, ev_enabled), ',' ORDER BY rulename) FROM pg_rewrite
                  WHERE ev_class = its AND ev_enabled IN ('A', 'R')),
                -- What fires besides in a session that is not in the role of a replica, with foreign keys' own.
                (SELECT string_agg(concat_ws(' ', t.tgrelid, t.tgname), ',' ORDER BY t.tgrelid, t.tgname)
                   FROM pg_trigger t WHERE t.tgenabled = 'O' AND t.tgrelid IN (SELECT m.oid FROM (
                        SELECT its AS oid UNION SELECT relid FROM pg_partition_tree(its)) m
                  WHERE current_setting('\(ApplierMark.role)') <> '\(ApplierMark.roleValue)')),
                (SELECT string_agg(rulename, ',' ORDER BY rulename) FROM pg_rewrite WHERE ev_class = its
                    AND ev_enabled = 'O' AND current_setting('\(ApplierMark.role)') <> '\(ApplierMark.roleValue)'),
                (SELECT concat_ws(' ', relkind, relpersistence, relrowsecurity, relforcerowsecurity, relname,
                        relnamespace) FROM pg_class WHERE oid = its),
                -- A partition that is emptied or taken away fires nothing.
                (SELECT string_agg(l.oid || ' ' || l.relfilenode, ',' ORDER BY l.oid) FROM pg_class r,
                        pg_partition_tree(r.oid) p JOIN pg_class l ON l.oid = p.relid
                  WHERE r.oid = its AND r.relkind = 'p' AND p.isleaf)))
        $godwit$;
        CREATE OR REPLACE FUNCTION godwit.expect(tables oid[], definitions text[]) RETURNS void LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $godwit$
        BEGIN
            FOR i IN 1 .. cardinality(tables) LOOP
                IF godwit.definition(tables[i]) IS DISTINCT FROM definitions[i] THEN
                    RAISE EXCEPTION 'the definition of % has changed', tables[i]::regclass
                        USING ERRCODE = '\(changedState)';
                END IF;
            END LOOP;
        END $godwit$;
        """

    private static let truncateFunction = """
        CREATE OR REPLACE FUNCTION godwit.capture_truncate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp AS $godwit$
        BEGIN
            \(insert("VALUES (pg_current_xact_id(), TG_RELID, NULL)"))
            RETURN NULL;
        END $godwit$;
        """

    /// For verify --repair: the next batch brings this key as it is on OLD.
    private static let markDirtyFunction = """
        CREATE OR REPLACE FUNCTION godwit.mark_dirty(its_relation oid, its_key text[]) RETURNS void LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $godwit$
        BEGIN
            \(insert("VALUES (pg_current_xact_id(), its_relation, its_key)"))
        END $godwit$;
        """

    static func functionName(_ table: TableDescription) -> String { "godwit.capture_\(table.oid)" }

    /// Types whose text depends on session settings: their capture function pins those at the price of some
    /// time.
    private static let settingDependentTypes = [
        "date", "time", "timestamp", "interval", "real", "double", "bytea", "money", "xml", "reg",
    ]

    private static func isSettingDependent(_ column: TableDescription.Column) -> Bool {
        !column.isBuiltIn || settingDependentTypes.contains { column.type.hasPrefix($0) }
            || column.type.hasSuffix("[]") || column.type.contains("range")
    }

    /// Types whose equal values have one text: to compare them takes less than to compare what is written down.
    private static let plainTypes: Set = ["smallint", "integer", "bigint", "uuid", "date", "boolean"]

    /// A value's text, whatever casts to text somebody has made for its type. Of PostgreSQL's own types, too: the owner
    /// of a table may give the column one of his, and a cast of his would run with the control user's rights.
    static func keyText(_ column: TableDescription.Column, of record: String) -> String {
        text(column, "\(record).\(column.sql)")
    }

    private static func text(_ column: TableDescription.Column, _ value: String) -> String {
        column.isBuiltIn
            ? "CASE WHEN \(value) IS NOT NULL THEN pg_catalog.concat(\(value)) END"
            : "pg_catalog.format('%s', \(value))"
    }

    /// Compares what two records say of a part of the key, under any search_path: by their bytes, for the type's or the
    /// column's own equality may take other texts for the same.
    static func comparison(
        _ column: TableDescription.Column, _ record: String, _ comparator: String, _ other: String
    ) -> String {
        let isPlain = column.isBuiltIn && plainTypes.contains(column.type)
        let (left, right) = isPlain
            ? ("\(record).\(column.sql)", "\(other).\(column.sql)")
            : (keyText(column, of: record), keyText(column, of: other) + " COLLATE pg_catalog.\"C\"")
        return "\(left) OPERATOR(pg_catalog.\(comparator)) \(right)"
    }

    /// Records the keys of one changed row. SECURITY DEFINER: whoever writes the table needs no rights on the
    /// journal.
    ///
    /// It runs under whatever search_path its caller has, for to set one with each call takes longer than most of what
    /// it does: all names in it, operators too, say their schema.
    static func captureFunction(_ table: TableDescription) -> String {
        """
        CREATE OR REPLACE FUNCTION \(functionName(table))() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        \(pins(table)) AS \(SQL.literal(captureBody(table)))
        """
    }

    /// What a function that writes keys down is defined with.
    static func pins(_ table: TableDescription) -> String {
        table.keyColumns.contains { isSettingDependent($0) } ? """
            SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' \
            SET extra_float_digits = '3' SET bytea_output = 'hex' SET lc_monetary = 'C' \
            SET search_path = pg_catalog, pg_temp
            """ : ""
    }

    static func key(_ table: TableDescription, of record: String) -> String {
        "ARRAY[" + table.keyColumns.map { keyText($0, of: record) }.joined(separator: ", ") + "]"
    }

    /// Tells triggers that pass over the mirror's own writes, and over nobody's who only says that he is the mirror,
    /// from those of earlier versions.
    private static let triggerMark = "="

    /// The key's columns as the first line of a capture function says them, in plain characters.
    static func keyMark(_ table: TableDescription) -> String {
        triggerMark + table.key.map { name in
            name.unicodeScalars.map { scalar in
                let isPlain = scalar == "_" || (scalar.isASCII && scalar.properties.isAlphabetic)
                    || ("0"..."9").contains(scalar)
                return isPlain ? String(scalar) : "%\(String(scalar.value, radix: 16))"
            }.joined()
        }.joined(separator: ",")
    }

    /// What the function's source must be: another one was made by another version, or for another key.
    ///
    /// A statement of one row pays for what the function is rather than for what it does: each expression, and each
    /// function and operator in it, is set up again in each transaction. So all events share one INSERT: no column of a
    /// key is NULL, but all are of the record that an event does not have. And it returns a record, because NULL would
    /// be one more expression; nobody looks at what an AFTER trigger returns.
    static func captureBody(_ table: TableDescription) -> String {
        func row(_ key: String) -> String { "VALUES (pg_catalog.pg_current_xact_id(), \(relation(table)), \(key))" }
        let anyKey = table.keyColumns.map { text($0, "coalesce(NEW.\($0.sql), OLD.\($0.sql))") }
        return """
            -- key \(keyMark(table))
            BEGIN
                \(insert(row("ARRAY[\(anyKey.joined(separator: ", "))]")))
                IF \(relation(table)) IS NOT NULL AND (\(hasTwoKeys(table))) THEN
                    \(insert(row(key(table, of: "OLD"))))
                END IF;
                RETURN NEW;
            END
            """
    }

    /// What the version before has made of it: casts to text, and the table's number as any other.
    static func earlier(_ body: String) -> String {
        body.replacing(/CASE WHEN (.+?) IS NOT NULL THEN pg_catalog\.concat\(\1\) END/) { "\($0.1)::pg_catalog.text" }
            .replacing(/IF '\d+'::pg_catalog\.oid IS NOT NULL AND \((.*)\) THEN/) { "IF \($0.1) THEN" }
            .replacing(/'(\d+)'::pg_catalog\.oid/) { $0.1 }
    }

    /// A constant of this type, in whichever expression, has sessions plan that one anew when the table changes.
    /// Without one they keep the types that the key's columns had, and each statement of a session that has written
    /// before fails once ALTER TABLE has made a bigint of an integer.
    private static func relation(_ table: TableDescription) -> String { "'\(table.oid)'::pg_catalog.oid" }

    /// plpgsql: true of an UPDATE that changes the key; false or NULL otherwise.
    private static func hasTwoKeys(_ table: TableDescription) -> String {
        let parts = table.keyColumns.map { comparison($0, "OLD", "<>", "NEW") }.joined(separator: " OR ")
        // Of NULL, format makes an empty text.
        return table.keyColumns.allSatisfy(\.isBuiltIn)
            ? parts : "TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND (\(parts))"
    }

    /// The key that a capture function records: see `keyMark`. Empty: a version that did not say.
    static func keyMark(ofBody body: String) -> String {
        guard let line = body.split(separator: "\n", maxSplits: 1).first, line.hasPrefix("-- key ") else { return "" }
        return String(line.dropFirst("-- key ".count))
    }

    /// What the journal holds of a table under a key that it no longer has. Under a lock on the table.
    static func forget(_ table: TableDescription) -> String {
        (0..<Journal.tables).map { "DELETE FROM \(Journal.table($0)) WHERE relation = \(table.oid);" }
            .joined(separator: " ")
    }

    /// plpgsql: into the table of the current transaction's segment (see Journal), under any search_path.
    ///
    /// By txid_current, the same number as an int8: from pg_current_xact_id one would come by way of a text.
    static func insert(_ source: String) -> String {
        func statement(_ index: Int) -> String {
            "INSERT INTO \(Journal.table(index)) (xid, relation, key) \(source);"
        }
        return """
            IF (pg_catalog.txid_current() OPERATOR(pg_catalog.&) \(1 << Journal.segmentBits)) \
            OPERATOR(pg_catalog.=) 0 THEN \(statement(0))
                ELSE \(statement(1))
                END IF;
            """
    }

    /// In one transaction with a lock timeout: what is there already is left alone or replaced.
    ///
    /// - Parameter isByStatement: see `StatementCapture`.
    static func createTriggers(_ table: TableDescription, isByStatement: Bool, _ mark: ApplierMark) -> String {
        let name = table.name.sql
        func create(_ trigger: String, _ when: String) -> String {
            """
            CREATE TRIGGER \(trigger) AFTER INSERT OR UPDATE OR DELETE ON \(name)
                FOR EACH ROW \(when) EXECUTE FUNCTION \(functionName(table))();
            """
        }
        return """
            LOCK TABLE \(name) IN SHARE ROW EXCLUSIVE MODE;
            \(dropTriggers(table.name));
            \(captureFunction(table));
            \(create(rowTrigger, isByStatement ? "WHEN (\(mark.isAbsent))" : mark.whenOrdinary))
            CREATE TRIGGER \(truncateTrigger) AFTER TRUNCATE ON \(name)
                FOR EACH STATEMENT WHEN (\(mark.isAbsent)) EXECUTE FUNCTION godwit.capture_truncate();
            ALTER TABLE \(name) ENABLE ALWAYS TRIGGER \(truncateTrigger);
            \(isByStatement
                ? StatementCapture.createTriggers(table, mark)
                : """
                \(create(replicaTrigger, ApplierMark.whenReplica))
                ALTER TABLE \(name) ENABLE REPLICA TRIGGER \(replicaTrigger);
                DROP FUNCTION IF EXISTS \(StatementCapture.functionName(table))();
                """)
            """
    }

    static func dropTriggers(_ table: TableName) -> String {
        allTriggers.map { "DROP TRIGGER IF EXISTS \($0) ON \(table.sql)" }.joined(separator: "; ")
    }

    private static let allTriggers = [rowTrigger, replicaTrigger, truncateTrigger] + StatementCapture.triggers
    /// In brackets, for IN.
    static let triggerList = list(allTriggers)

    private static func list(_ names: [String]) -> String {
        "(" + names.map { "'\($0)'" }.joined(separator: ", ") + ")"
    }

    /// SQL: all triggers of one kind of capture are there, enabled as they must be.
    private static let isComplete = """
        count(*) FILTER (WHERE t.tgname IN ('\(rowTrigger)', '\(truncateTrigger)')) = 2 AND CASE
            WHEN \(isByRole) THEN count(*) = 3 AND bool_and(t.tgenabled = CASE t.tgname
                WHEN '\(rowTrigger)' THEN 'O' WHEN '\(replicaTrigger)' THEN 'R' ELSE 'A' END)
            -- One row trigger for all roles, as earlier versions made it.
            WHEN count(*) = 2 THEN bool_and(t.tgenabled = 'A')
            ELSE count(*) = \(2 + StatementCapture.triggers.count) AND bool_and(t.tgenabled = CASE t.tgname
                WHEN '\(rowTrigger)' THEN 'R' WHEN '\(StatementCapture.aloneTrigger)' THEN t.tgenabled ELSE 'A' END) END
        """
    private static let isByRole = "bool_or(t.tgname = '\(replicaTrigger)')"

    /// Tables with any trigger of ours (not partitions, which inherit it), whether all are there, on all of it,
    /// enabled, and call the right functions, the table's oid, the source of the row trigger's function, whether they
    /// know the control user (see ApplierMark), the source of the statement triggers' function, if there are any, and
    /// whether there is a row trigger for each kind of role.
    static let capturedTables = """
        SELECT n.nspname, c.relname, \(isComplete) AND bool_and(f.pronamespace = g.oid AND f.proname = CASE t.tgname
                       WHEN '\(rowTrigger)' THEN 'capture_' || c.oid
                       WHEN '\(replicaTrigger)' THEN 'capture_' || c.oid
                       WHEN '\(truncateTrigger)' THEN 'capture_truncate'
                       ELSE '\(StatementCapture.functionPrefix)' || c.oid END)
                   AND bool_and(c.relkind <> 'p' OR t.tgname = '\(truncateTrigger)' OR NOT EXISTS (
                       SELECT FROM pg_partition_tree(c.oid) p WHERE p.relid <> c.oid AND NOT EXISTS (
                           SELECT FROM pg_trigger x WHERE x.tgrelid = p.relid AND x.tgparentid <> 0
                              AND x.tgname = t.tgname AND x.tgenabled = t.tgenabled))), c.oid,
               max(f.prosrc) FILTER (WHERE t.tgname = '\(rowTrigger)'),
               bool_and(\(ApplierMark(user: "").isKnown(to: "t"))),
               max(f.prosrc) FILTER (WHERE t.tgname IN \(list(StatementCapture.triggers))),
               \(isByRole)
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_proc f ON f.oid = t.tgfoid LEFT JOIN pg_namespace g ON g.nspname = 'godwit'
         WHERE t.tgname IN \(triggerList) AND NOT t.tgisinternal AND t.tgparentid = 0
         GROUP BY 1, 2, c.oid, c.relkind ORDER BY 1, 2
        """

    /// Each whole capture, by the table's oid. - Parameter rows: of `capturedTables`.
    static func healthy(_ rows: Rows) -> [UInt32: InstalledCapture] {
        var found: [UInt32: InstalledCapture] = [:]
        for row in 0..<rows.count where rows.flag(row, 2) {
            guard let oid = rows[row, 3].flatMap({ UInt32($0) }) else { continue }
            found[oid] = InstalledCapture(
                body: rows[row, 4] ?? "", statementBody: rows[row, 6], isByRole: rows.flag(row, 7))
        }
        return found
    }

    /// Tables that have any statement trigger of ours, whole or not. - Parameter rows: of `capturedTables`.
    static func byStatement(_ rows: Rows) -> Set<UInt32> {
        Set((0..<rows.count).filter { !rows.isNull($0, 6) }.compactMap { rows[$0, 3].flatMap { UInt32($0) } })
    }

    /// Those whose captures let the mirror pass, if it is to come as this user. - Parameter rows: of `capturedTables`.
    static func knowing(_ mark: ApplierMark, _ rows: Rows) -> Set<UInt32> {
        var found: Set<UInt32> = []
        for row in 0..<rows.count where mark == .replica || rows.flag(row, 5) {
            if let oid = rows[row, 3].flatMap({ UInt32($0) }) { found.insert(oid) }
        }
        return found
    }

    /// Tables of the application that are made since prepare, or that it has not come to its end with: the fence comes
    /// when the mirror has been told of the table.
    static let uncapturedTables = """
        SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition AND c.oid >= 16384
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'godwit') AND n.nspname !~ '^pg_(toast|temp)'
           AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid
                   AND t.tgname IN ('\(rowTrigger)', '\(AuthoritySchema.fenceTrigger)')) < 2
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                              AND d.deptype = 'e')
         ORDER BY 1, 2
        """

    static let isSource = "SELECT to_regclass('godwit.control') IS NOT NULL"

    /// Epoch, generation, identity, the batch before which the journal holds nothing any more, the next transaction.
    static let history = """
        SELECT to_jsonb(c)->>'epoch', to_jsonb(c)->>'generation', (\(sourceIdentity)), to_jsonb(c)->>'emptied_batch',
               pg_snapshot_xmax(pg_current_snapshot())
          FROM godwit.control c
        """

    /// System identifier, timeline and database of the source: another value means another history.
    static let sourceIdentity = """
        SELECT (SELECT system_identifier FROM pg_control_system()) || '/' \
            || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '/' \
            || (SELECT oid FROM pg_database WHERE datname = current_database())
        """
}

extension Connection {
    /// Becomes the one session that applies to this side, or removes what is ours there, until it ends.
    ///
    /// - Parameter seconds: for which another one may have it yet.
    /// - Returns: false when it has it still.
    func awaitApplierLock(seconds: Int) throws(PostgresFailure) -> Bool {
        do throws(PostgresFailure) {
            try execute("""
                BEGIN; SET LOCAL lock_timeout = '\(seconds)s';
                SELECT pg_advisory_lock(\(AdvisoryLock.applier)); COMMIT
                """)
            return true
        } catch {
            guard error.isLockConflict else { throw error }
            try execute("ROLLBACK")
            return false
        }
    }
}

extension Rows {
    /// The first two columns: schema and name.
    var tableNames: [TableName] { (0..<count).map { TableName(schema: self[$0, 0] ?? "", name: self[$0, 1] ?? "") } }
}
