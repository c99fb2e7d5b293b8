import LibPQ
import Migration
import Primitives

/// What Godwit keeps in each database of who takes the writes, and the fences. Stateless.
enum AuthoritySchema {
    static let fenceTrigger = "godwit_fence"
    static let fenceTruncateTrigger = "godwit_fence_truncate"
    /// Waits so many seconds for `AdvisoryLock.coordinator` at most; the session keeps it.
    static func takeCoordinatorLock(seconds: Double) -> String {
        """
        BEGIN; SET LOCAL lock_timeout = '\(Int(seconds))s';
        SELECT pg_advisory_lock(\(AdvisoryLock.coordinator)); COMMIT
        """
    }
    /// Raised by godwit.claim when the switch may not make this side the authority any more.
    static let voidState = "GW004"
    /// Raised by godwit.claim when somebody else has written on this side.
    static let rogueState = "GW005"

    /// `authority`: see Migration's SideClaim; what the mirror back needs of the moment of the claim; and what a writer
    /// is told who is refused. `handover`: what that mirror's target is to be told of the tables, written before the
    /// claim and in its transaction.
    static let tables = """
        CREATE TABLE IF NOT EXISTS godwit.authority (
            singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
            epoch bigint NOT NULL DEFAULT 0, void_epoch bigint NOT NULL DEFAULT 0, fenced_for bigint,
            since timestamptz, owner text NOT NULL DEFAULT '', elsewhere text NOT NULL DEFAULT '',
            reverse_from text, source text, mirror_epoch bigint);
        -- What a switch asks of all Godwits of the database, and what they say.
        ALTER TABLE godwit.authority ADD COLUMN IF NOT EXISTS alert bigint;
        ALTER TABLE godwit.authority ADD COLUMN IF NOT EXISTS announced bigint;
        CREATE TABLE IF NOT EXISTS godwit.proxy (
            id text PRIMARY KEY, seen timestamptz NOT NULL, alert_for bigint, holds_for bigint);
        INSERT INTO godwit.authority DEFAULT VALUES ON CONFLICT DO NOTHING;
        CREATE TABLE IF NOT EXISTS godwit.handover (
            schema_name text, table_name text, rows_copied bigint NOT NULL, bytes_copied bigint NOT NULL,
            stamp text NOT NULL, PRIMARY KEY (schema_name, table_name));
        ALTER TABLE godwit.handover ADD COLUMN IF NOT EXISTS is_anew boolean NOT NULL DEFAULT false;
        CREATE TABLE IF NOT EXISTS godwit.handover_partition (
            root oid, leaf oid, stamp text NOT NULL, condition text NOT NULL, PRIMARY KEY (root, leaf));
        CREATE OR REPLACE FUNCTION godwit.refuse_write() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp AS $godwit$
        DECLARE a godwit.authority;
        BEGIN
            SELECT * INTO a FROM godwit.authority;
            RAISE EXCEPTION 'the table %.% is fenced by Godwit: the writes of "%" go to % now',
                TG_TABLE_SCHEMA, TG_TABLE_NAME, current_database(), a.elsewhere
                USING ERRCODE = '25006', DETAIL = format('Switch %s has taken the writes away from this database.',
                    a.fenced_for), HINT = 'Connect to Godwit, which knows where to write.';
        END $godwit$;
        CREATE OR REPLACE FUNCTION godwit.claim(its_epoch bigint, its_owner text) RETURNS void LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $godwit$
        DECLARE its_mirror bigint; rogues bigint;
        BEGIN
            SELECT count(*) INTO rogues FROM godwit.rogue;
            IF rogues > 0 THEN
                RAISE EXCEPTION 'somebody else has written % rows here', rogues USING ERRCODE = '\(rogueState)';
            END IF;
            UPDATE godwit.control SET generation = generation + 1, emptied_batch = 0, hold_token = NULL,
                epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
                RETURNING epoch INTO its_mirror;
            UPDATE godwit.authority SET epoch = its_epoch, fenced_for = NULL, since = clock_timestamp(),
                owner = its_owner, reverse_from = pg_current_snapshot()::text, mirror_epoch = its_mirror,
                source = (\(CaptureSchema.sourceIdentity))
             WHERE epoch < its_epoch AND void_epoch < its_epoch;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'switch % was given up, or a later one has been made', its_epoch
                    USING ERRCODE = '\(voidState)';
            END IF;
        END $godwit$;
        """

    /// Of one table, with its partitions: asleep until a switch wakes all of its side. For where there is none yet, or
    /// one of an earlier version.
    static func createFence(_ table: TableName, isFenced: Bool, _ mark: ApplierMark) -> String {
        let (name, state) = (table.sql, isFenced ? "ENABLE ALWAYS" : "DISABLE")
        return """
            CREATE OR REPLACE TRIGGER \(fenceTrigger) AFTER INSERT OR UPDATE OR DELETE ON \(name)
                FOR EACH ROW WHEN (\(mark.isAbsent)) EXECUTE FUNCTION godwit.refuse_write();
            ALTER TABLE \(name) \(state) TRIGGER \(fenceTrigger);
            """
    }

    /// - Parameter name: a table or partition, quoted: a TRUNCATE of a partition does not fire its root's trigger.
    static func createTruncateFence(_ name: String, isFenced: Bool, _ mark: ApplierMark) -> String {
        let state = isFenced ? "ENABLE ALWAYS" : "DISABLE"
        return """
            CREATE OR REPLACE TRIGGER \(fenceTruncateTrigger) BEFORE TRUNCATE ON \(name)
                FOR EACH STATEMENT WHEN (\(mark.isAbsent)) EXECUTE FUNCTION godwit.refuse_write();
            ALTER TABLE \(name) \(state) TRIGGER \(fenceTruncateTrigger);
            """
    }

    /// Relations that lack a fence, and which: of the tables with our capture. One of an earlier version, which lets
    /// pass whoever says that he is the mirror, is none.
    static func missingFences(_ mark: ApplierMark) -> String {
        """
        WITH roots AS (SELECT t.tgrelid AS root FROM pg_trigger t
            WHERE t.tgname = '\(CaptureSchema.rowTrigger)' AND t.tgparentid = 0),
        members AS (SELECT root AS member FROM roots UNION SELECT p.relid FROM roots, pg_partition_tree(root) p)
        SELECT n.nspname, c.relname, w.name FROM (
            SELECT root AS relation, '\(fenceTrigger)' AS name FROM roots
            UNION ALL SELECT member, '\(fenceTruncateTrigger)' FROM members) w
          JOIN pg_class c ON c.oid = w.relation JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = w.relation AND t.tgname = w.name
                              AND \(mark.isKnown(to: "t")))
         ORDER BY 1, 2, 3
        """
    }

    /// What enables or disables all triggers of these names: one statement a row.
    static func alterTriggers(_ names: [String], _ action: String) -> String {
        """
        SELECT format('ALTER TABLE %s \(action) TRIGGER %I', tgrelid::regclass, tgname) FROM pg_trigger
         WHERE tgname IN (\(names.map { "'\($0)'" }.joined(separator: ", "))) AND tgparentid = 0 AND NOT tgisinternal
         ORDER BY tgrelid, tgname
        """
    }

    static let fenceTriggers = [fenceTrigger, fenceTruncateTrigger]
    static let rogueTriggers = [RogueWatch.rowTrigger, RogueWatch.truncateTrigger]
}

/// Reads what the sides say of who takes the writes. Stateless.
package enum AuthorityReader {
    /// - Returns: nil where no Godwit has prepared the database, which is `SideClaim.untouched`.
    package static func claim(_ connection: borrowing Connection) throws(PostgresFailure) -> SideClaim? {
        guard try connection.hasRelation("godwit.authority") else { return nil }
        let rows = try connection.query("SELECT epoch, void_epoch, fenced_for FROM godwit.authority")
        guard rows.count == 1 else { return nil }
        return SideClaim(
            epoch: rows.integer(0, 0) ?? 0, voidEpoch: rows.integer(0, 1) ?? 0, fencedFor: rows.integer(0, 2))
    }

    /// Asks both sides, each on a connection of its own. A side that does not answer is nil.
    package static func claims(
        old: String, new: String, timeoutSeconds: Double, interrupt: CInt = -1
    ) -> (old: SideClaim?, new: SideClaim?, failures: [String]) {
        var failures: [String] = []
        func ask(_ conninfo: String, _ side: Side) -> SideClaim? {
            do {
                let connection = try Connection.open(
                    try ConnectionString(parsing: conninfo), purpose: "authority",
                    connectTimeoutSeconds: timeoutSeconds, interrupt: interrupt)
                return try claim(connection) ?? .untouched
            } catch {
                failures.append("\(side.title): \(error)")
                return nil
            }
        }
        return (ask(old, .old), ask(new, .new), failures)
    }
}
