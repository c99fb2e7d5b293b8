import TestSupport
import Testing

/// A function is looked into: what it reads and calls decides where it is read, whatever it is declared as.
@Suite(.serialized) struct FunctionReadTests {
    private static let schema = """
        CREATE TABLE held (n int);
        CREATE UNLOGGED TABLE own (n int);
        CREATE UNLOGGED TABLE "Odd name" (n int);
        CREATE MATERIALIZED VIEW totals AS SELECT 0 AS n;
        CREATE FUNCTION of_held() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM held';
        CREATE FUNCTION of_own() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM Own';
        CREATE FUNCTION of_odd() RETURNS bigint STABLE LANGUAGE plpgsql
            AS 'BEGIN RETURN (SELECT count(*) FROM "Odd name"); END';
        CREATE FUNCTION of_totals() RETURNS bigint STABLE LANGUAGE sql
            BEGIN ATOMIC SELECT count(*) + (SELECT count(*) FROM own) FROM totals WHERE n = 1; END;
        CREATE FUNCTION by_another() RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN of_own(); END';
        CREATE FUNCTION made_up(part text) RETURNS bigint STABLE LANGUAGE plpgsql
            AS 'DECLARE found bigint; BEGIN EXECUTE ''SELECT count(*) FROM ow'' || part INTO found; RETURN found; END';
        CREATE FUNCTION unlike_name() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) AS owner FROM held';
        CREATE VIEW over_function AS SELECT by_another() AS n;
        CREATE FUNCTION more(a int, b int) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT a + b > count(*) FROM own';
        CREATE OPERATOR >>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = more);
        CREATE FUNCTION noted() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
        CREATE FUNCTION of_volatile() RETURNS bigint STABLE LANGUAGE plpgsql
            AS 'BEGIN PERFORM public."noted" (); RETURN (SELECT count(*) FROM held); END';
        CREATE FUNCTION of_volatile_body() RETURNS bigint STABLE LANGUAGE sql
            BEGIN ATOMIC SELECT count(*) FROM held WHERE noted(); END;
        CREATE FUNCTION of_lock() RETURNS bigint STABLE LANGUAGE sql
            AS 'SELECT count(*) FROM held WHERE pg_try_advisory_xact_lock_shared (7)';
        CREATE FUNCTION of_lock_body() RETURNS bigint STABLE LANGUAGE sql
            BEGIN ATOMIC SELECT count(*) FROM held WHERE pg_try_advisory_xact_lock_shared(7); END;
        CREATE FUNCTION by_volatile() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT of_volatile()';
        CREATE FUNCTION is_noted(int) RETURNS boolean STABLE LANGUAGE plpgsql AS 'BEGIN RETURN noted(); END';
        CREATE DOMAIN checked AS int CHECK (is_noted(VALUE));
        CREATE FUNCTION noted_word() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) AS noted FROM held';
        """

    @Test func `a function that reads what NEW does not hold, or calls what has effects, is read on OLD`() throws {
        let servers = try Servers.shared.get()
        let database = try servers.makeDatabase(Self.schema)
        for (side, rows) in [(servers.old, 1), (servers.new, 2)] {
            try side.psql("""
                INSERT INTO held SELECT generate_series(1, \(rows));
                INSERT INTO own SELECT generate_series(1, \(rows));
                INSERT INTO "Odd name" SELECT generate_series(1, \(rows));
                """, database: database)
        }
        let godwit = try servers.godwit(database) { $0.database.readsPercent = "100" }
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        for (number, (sql, answer)) in [
            ("SELECT of_held()", "2"), ("SELECT unlike_name()", "2"), ("SELECT noted_word()", "2"),
            ("SELECT of_own()", "1"), ("SELECT public.of_own()", "1"), ("SELECT of_odd()", "1"),
            ("SELECT of_totals()", "1"), ("SELECT by_another()", "1"), ("SELECT made_up('n')", "1"),
            ("SELECT n FROM over_function", "1"), ("SELECT (2 >>>> 0)::int", "1"),
            ("SELECT of_volatile()", "1"), ("SELECT of_volatile_body()", "1"), ("SELECT of_lock()", "1"),
            ("SELECT of_lock_body()", "1"), ("SELECT by_volatile()", "1"),
            ("SELECT count(*)::checked FROM held", "1"),
        ].enumerated() {
            // Another user each: who may have written reads on OLD from then on.
            let client = try WireClient(
                port: godwit.port, database: database, parameters: [("godwit.user", "\(number)")])
            defer { client.close() }
            #expect(try client.query(sql).first { $0.type == "D" }?.columns == [answer], "\(sql)")
        }
    }

    /// Only the catalog tells what NEW does not hold as OLD does.
    @Test func `before the catalog was read nothing of a mirrored database is read on NEW`() throws {
        let servers = try Servers.shared.get()
        let database = try servers.makeDatabase(
            "CREATE TABLE item (n int PRIMARY KEY)", old: "CREATE MATERIALIZED VIEW side AS SELECT 'old' AS side",
            new: "CREATE MATERIALIZED VIEW side AS SELECT 'new' AS side")
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        configuration.database.readsPercent = "100"
        let directory = try GodwitProcess.makeDirectory(configuration)
        let prepare = try GodwitProcess.command(["prepare", "--config", directory + "/godwit.yaml", database])
        #expect(prepare.wait() == .code(0), "\(prepare.errors.text)")
        let owner = try WireClient(port: servers.old.port, database: database, user: PostgresCluster.superuser)
        _ = try owner.query("BEGIN; LOCK TABLE pg_catalog.pg_policy")
        let godwit = try GodwitProcess(configuration)
        try waitUntil {
            let row = try godwit.console("SHOW MIRROR").first { $0["database"] == database }
            return row?["state"] == "mirroring" && row?["readable"] == "yes"
        }
        let client = try WireClient(port: godwit.port, database: database, parameters: [("godwit.user", "7")])
        defer { client.close() }
        func side(_ sql: String) throws -> [String?]? { try client.query(sql).first { $0.type == "D" }?.columns }
        #expect(try side("SELECT side FROM side") == ["old"])
        _ = try client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        #expect(try side("SELECT side FROM side") == ["old"])
        _ = try client.query("COMMIT")
        _ = try owner.query("COMMIT")
        try godwit.log.waitForLine(containing: "catalog of \"\(database)\"")
        #expect(try side("SELECT side FROM side") == ["old"])
    }
}
