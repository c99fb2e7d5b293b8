import LibPQ

/// Schema `godwit_state`. What is later goes behind what is there; nothing that was written once is changed.
enum PostgresSchema {
    static let name = "godwit_state"
    /// LISTEN's name: orders about traffic, or what is shown of migrations, have changed.
    static let channel = "godwit_state"
    /// Of the tables. A greater one there is a later program's.
    static let version = 1

    /// Somebody else runs the migrations by now.
    static let supersededState = "GW006"
    /// It was written when it was tried before, and only the answer was lost.
    static let writtenState = "GW007"

    /// Advisory locks of that database: while the schema is made; by whom writes, so that numbers become visible in
    /// their order; and for as long as one runs the migrations.
    private static let makeLock = 7_310_867_230_100
    private static let writeLock = 7_310_867_230_101
    private static let runLock = 7_310_867_230_102

    /// Seconds without a sign of life after which who runs the migrations has hung, and loses them.
    static let patienceSeconds = 6

    /// NULL: it is not there.
    static let versionQuery = """
        SELECT pg_advisory_xact_lock(\(makeLock)); SELECT to_regclass('\(name).version') IS NOT NULL,
            to_regclass('godwit.authority') IS NOT NULL OR to_regclass('godwit.control') IS NOT NULL
        """
    static let numberQuery = "SELECT number FROM version"

    static let makeText = """
        SELECT pg_advisory_xact_lock(\(makeLock));
        \(tables)
        \(lasting.map(protect).joined(separator: "\n"))
        \(functions)
        """

    /// What is never changed once it is written.
    private static let lasting = ["migration", "state", "decision", "reading", "event", "traffic", "start", "term"]

    private static let tables = """
        CREATE SCHEMA IF NOT EXISTS \(name);
        CREATE TABLE version (number integer NOT NULL);
        INSERT INTO version VALUES (\(version));
        CREATE TABLE start (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, process text NOT NULL, micros bigint NOT NULL);
        CREATE TABLE migration (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, id text NOT NULL UNIQUE, database text NOT NULL,
            manifest text NOT NULL, by text NOT NULL, micros bigint NOT NULL);
        CREATE TABLE state (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, migration text NOT NULL REFERENCES migration (id),
            micros bigint NOT NULL, json text NOT NULL);
        CREATE INDEX state_migration ON state (migration, number);
        CREATE TABLE decision (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, migration text NOT NULL REFERENCES migration (id),
            micros bigint NOT NULL, by text NOT NULL, verb text NOT NULL, reason text NOT NULL, taken boolean NOT NULL,
            answer text NOT NULL, gates text NOT NULL);
        CREATE INDEX decision_migration ON decision (migration, number);
        CREATE TABLE reading (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, migration text NOT NULL REFERENCES migration (id),
            micros bigint NOT NULL, phase text NOT NULL, gate text NOT NULL, value text NOT NULL,
            threshold text NOT NULL, holds boolean);
        CREATE INDEX reading_migration ON reading (migration, number);
        CREATE TABLE event (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, process text NOT NULL, ordinal bigint NOT NULL,
            micros bigint NOT NULL, kind text NOT NULL, database text NOT NULL, json text NOT NULL);
        CREATE INDEX event_database ON event (database, number);
        CREATE TABLE traffic (
            number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, micros bigint NOT NULL, database text NOT NULL,
            json text NOT NULL);
        CREATE INDEX traffic_database ON traffic (database, number);
        CREATE TABLE answer (
            key text PRIMARY KEY, micros bigint NOT NULL, request text NOT NULL, status integer NOT NULL,
            body text NOT NULL);
        CREATE TABLE sequence_reader (database text NOT NULL, "user" text NOT NULL, PRIMARY KEY (database, "user"));
        CREATE TABLE shown (migration text PRIMARY KEY REFERENCES migration (id), json text NOT NULL);
        -- How far each process's words that nobody waits for are written.
        CREATE TABLE process (name text PRIMARY KEY, written bigint NOT NULL, seen timestamptz NOT NULL);
        -- Who runs the migrations, and all who ever did.
        CREATE TABLE runner (
            one boolean PRIMARY KEY DEFAULT true CHECK (one), number bigint NOT NULL, process text NOT NULL,
            address text NOT NULL, seen timestamptz NOT NULL);
        INSERT INTO runner (number, process, address, seen) VALUES (0, '', '', '-infinity');
        CREATE TABLE term (number bigint PRIMARY KEY, process text NOT NULL, address text NOT NULL,
            began timestamptz NOT NULL DEFAULT clock_timestamp());
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN RAISE EXCEPTION 'what was decided is never changed'; END$$;
        CREATE FUNCTION tell_change() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN PERFORM pg_notify('\(channel)', ''); RETURN NULL; END$$;
        CREATE TRIGGER told AFTER INSERT ON traffic FOR EACH STATEMENT EXECUTE FUNCTION tell_change();
        CREATE TRIGGER told AFTER INSERT OR UPDATE ON shown FOR EACH STATEMENT EXECUTE FUNCTION tell_change();
        """

    private static func protect(_ table: String) -> String {
        """
        CREATE TRIGGER lasting BEFORE UPDATE OR DELETE OR TRUNCATE ON \(table)
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        """
    }

    private static let functions = """
        -- Begins each write. The lock first, and then a look: a term that has ended by then is over.
        CREATE PROCEDURE enter(term bigint, name text, ordinal bigint) LANGUAGE plpgsql SET search_path = \(path) AS $$
        BEGIN
            PERFORM pg_advisory_xact_lock(\(writeLock));
            IF term IS NOT NULL AND NOT EXISTS (
                SELECT FROM runner r WHERE r.number = enter.term AND r.process = enter.name)
            THEN
                RAISE EXCEPTION 'another Godwit runs the migrations' USING ERRCODE = '\(supersededState)';
            END IF;
            IF ordinal IS NOT NULL THEN
                INSERT INTO process AS p (name, written, seen) VALUES (enter.name, enter.ordinal, clock_timestamp())
                    ON CONFLICT ON CONSTRAINT process_pkey DO UPDATE
                    SET written = excluded.written, seen = excluded.seen WHERE p.written < excluded.written;
                IF NOT FOUND THEN
                    RAISE EXCEPTION 'it is written' USING ERRCODE = '\(writtenState)';
                END IF;
            END IF;
        END$$;

        -- Asks for the migrations, or says that they are still run. `held`: the number that this session has; 0: none.
        CREATE FUNCTION claim(
            name text, place text, held bigint,
            OUT number bigint, OUT is_ours boolean, OUT process text, OUT address text
        ) LANGUAGE plpgsql SET search_path = \(path) AS $$
        DECLARE
            hung record;
        BEGIN
            is_ours := false;
            IF held > 0 THEN
                UPDATE runner r SET seen = clock_timestamp() WHERE r.number = held AND r.process = claim.name;
                is_ours := FOUND;
                IF NOT is_ours THEN PERFORM pg_advisory_unlock(\(runLock)); END IF;
            ELSIF pg_try_advisory_lock(\(runLock)) THEN
                -- What the one before has begun to write ends first, or is refused.
                PERFORM pg_advisory_xact_lock(\(writeLock));
                UPDATE runner r SET number = r.number + 1, process = claim.name, address = claim.place,
                    seen = clock_timestamp();
                INSERT INTO term (number, process, address) SELECT r.number, r.process, r.address FROM runner r;
                DELETE FROM process p WHERE p.seen < clock_timestamp() - interval '7 days';
                is_ours := true;
            ELSE
                FOR hung IN
                    SELECT l.pid FROM pg_locks l, runner r
                     WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid()
                       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                       AND l.classid = '\(runLock >> 32)'::oid AND l.objid = '\(runLock & 0xFFFF_FFFF)'::oid
                       AND l.objsubid = 1
                       AND r.seen < clock_timestamp() - interval '\(patienceSeconds) s'
                LOOP
                    BEGIN
                        PERFORM pg_terminate_backend(hung.pid);
                    EXCEPTION WHEN insufficient_privilege THEN
                        NULL;  -- another role's: its machine's end is noticed by the server alone
                    END;
                END LOOP;
            END IF;
            SELECT r.number, r.process, r.address INTO number, process, address FROM runner r;
        END$$;
        """

    /// Behind `Connection`'s own.
    static let path = "\(name), pg_catalog, pg_temp"

    static func enter(term: Int64?, process: String, ordinal: Int64?) -> String {
        func number(_ value: Int64?) -> String { value.map { "\($0)" } ?? "NULL" }
        return "CALL enter(\(number(term)), \(SQL.literal(process)), \(number(ordinal)))"
    }

    static func claim(process: String, address: String, held: Int64) -> String {
        """
        SELECT number, is_ours, process, address
          FROM claim(\(SQL.literal(process)), \(SQL.literal(address)), \(held))
        """
    }

    static let resignText = "SELECT pg_advisory_unlock(\(runLock))"
}
