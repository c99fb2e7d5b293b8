import TestSupport
import Testing

/// `prepare --copy-schema` and `--finish-schema` between real servers.
@Suite(.serialized) struct SchemaCopyTests {
    let servers: Servers
    static let schema = """
        CREATE TYPE mood AS ENUM ('fine', 'bad');
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TABLE parents (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text UNIQUE, m mood, p positive);
        CREATE TABLE children (id serial PRIMARY KEY, parent bigint REFERENCES parents ON DELETE CASCADE, v text);
        CREATE TABLE keyed (a int NOT NULL, b text);
        CREATE UNIQUE INDEX keyed_a ON keyed (a);
        CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
        CREATE INDEX parts_at ON parts (at);
        CREATE INDEX "Odd index" ON children (lower(v));
        CREATE VIEW names AS SELECT name FROM parents;
        CREATE VIEW families AS SELECT p.id, p.name, count(c.id) AS children
            FROM parents p LEFT JOIN children c ON c.parent = p.id GROUP BY p.id;
        CREATE VIEW large_families AS SELECT name FROM families WHERE children > 0;
        CREATE MATERIALIZED VIEW stored AS SELECT id, name FROM parents GROUP BY id;
        CREATE FUNCTION known(integer, text) RETURNS bigint LANGUAGE sql
            BEGIN ATOMIC SELECT count(*) FROM (SELECT id, name FROM parents GROUP BY id) s; END;
        CREATE VIEW how_many AS SELECT known(1, '');
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := ''touched''; RETURN NEW; END';
        CREATE TRIGGER touch BEFORE INSERT ON children FOR EACH ROW EXECUTE FUNCTION touch();
        """
    static let rows = """
        INSERT INTO parents (name, m, p) SELECT 'p' || g, 'fine', g FROM generate_series(1, 3000) g;
        INSERT INTO children (parent) SELECT g FROM generate_series(1, 2000) g;
        INSERT INTO keyed SELECT g, 'k' FROM generate_series(1, 500) g;
        INSERT INTO parts SELECT g, '2026-01-01'::date + g % 360 FROM generate_series(1, 1000) g;
        """

    init() throws { servers = try Servers.shared.get() }

    func command(_ name: String, _ database: String, _ more: [String] = []) throws -> ChildProcess {
        let directory = try GodwitProcess.makeDirectory(GodwitConfiguration([servers.entry(database)]))
        return try GodwitProcess.command([name, "--config", directory + "/godwit.yaml", database] + more)
    }

    @Test func `an empty NEW gets the schema, the rows, and then the rest`() throws {
        let database = try servers.makeDatabase(old: Self.schema + Self.rows)
        let prepare = try command("prepare", database, ["--copy-schema"])
        #expect(prepare.wait() == .code(0), "\(prepare.output.text)\(prepare.errors.text)")
        let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"
        // Four keys, and those of two partitions.
        #expect(try servers.new.psql(indexes, database: database) == "6")
        #expect(try command("prepare", database, ["--finish-schema"]).wait() == .code(1), "nothing is copied yet")
        let godwit = try servers.godwit(database) { $0.database.mirror = ["mode": "async"] }
        try waitUntil {
            let row = try godwit.console("SHOW MIRROR").first { $0["database"] == database }
            return row?["readable"] == "yes"
        }
        try godwit.psql("INSERT INTO children (parent) SELECT g FROM generate_series(1, 100) g", database: database)
        // NEW is closed to others' writes.
        try servers.new.psql("ALTER DATABASE \(database) SET default_transaction_read_only = on")
        let finish = try command("prepare", database, ["--finish-schema"])
        #expect(finish.wait() == .code(0), "\(finish.output.text)\(finish.errors.text)")
        let compared = try command("verify", database, ["--schema"])
        #expect(compared.wait() == .code(0), "\(compared.output.text)\(compared.errors.text)")
        let late = "SELECT count(*) FROM pg_indexes WHERE indexname IN ('parts_at', 'Odd index', 'parents_name_key')"
        #expect(try servers.new.psql(late, database: database) == "3")
        #expect(try servers.new.psql("SELECT count(*) FROM names", database: database) == "3000")
        #expect(try servers.new.psql("SELECT count(*) FROM families", database: database) == "3000")
        #expect(try servers.new.psql("SELECT count(*) FROM large_families", database: database) == "2000")
        #expect(try servers.new.psql("TABLE how_many", database: database) == "3000")
        let again = try command("prepare", database, ["--finish-schema"])
        #expect(again.wait() == .code(0), "\(again.output.text)\(again.errors.text)")
        #expect(again.output.text.contains(" 0 objects"), "\(again.output.text)")
        // ANALYZE was run, and triggers that came late change nothing in mirrored rows.
        #expect(try servers.new.psql("SELECT reltuples > 0 FROM pg_class WHERE relname = 'parents'", database: database)
            == "t")
        try godwit.psql("""
            INSERT INTO children (parent) VALUES (7); DELETE FROM parents WHERE id < 50; UPDATE keyed SET b = 'new'
            """, database: database)
        try waitUntil { try servers.new.psql("SELECT count(*) FROM parents", database: database) == "2951" }
        let verify = try command("verify", database)
        #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
    }

    /// Theirs set for a session what an older server has never heard of.
    @Test func `programs newer than both sides bring the schema`() throws {
        let older = try PostgresCluster(.old15)
        let database = try servers.makeDatabase(old: Self.schema + Self.rows)
        try older.psql("CREATE ROLE app LOGIN")
        try older.psql("CREATE DATABASE \(database) OWNER app")
        var entry = servers.entry(database)
        entry.new = older.conninfo(database: database)
        entry.controlNew = older.conninfo(database: database, user: PostgresCluster.superuser)
        entry.mirror = ["mode": "async"]
        let configuration = GodwitConfiguration([entry])
        let file = try GodwitProcess.makeDirectory(configuration) + "/godwit.yaml"
        let programs = try PostgresCluster.Version.new18.programs()
        func prepare(_ what: String) throws -> ChildProcess {
            try GodwitProcess.command(["prepare", "--config", file, database, what, "--programs", programs])
        }
        let copy = try prepare("--copy-schema")
        #expect(copy.wait() == .code(0), "\(copy.output.text)\(copy.errors.text)")
        let godwit = try GodwitProcess(configuration)
        try waitUntil { try godwit.console("SHOW MIRROR").first?["readable"] == "yes" }
        let finish = try prepare("--finish-schema")
        #expect(finish.wait() == .code(0), "\(finish.output.text)\(finish.errors.text)")
        #expect(try older.psql("SELECT count(*) FROM families", database: database) == "3000")
    }

    @Test func `what would act on mirrored rows is not brought, and what no dump brings is named`() throws {
        let database = try servers.makeDatabase(old: """
            CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE log (id int PRIMARY KEY);
            CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := ''touched''; RETURN NEW; END';
            CREATE TRIGGER always BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
            COMMENT ON TRIGGER always ON t IS 'ever';
            CREATE TRIGGER ordinary BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
            ALTER TABLE t ENABLE ALWAYS TRIGGER always, DISABLE TRIGGER ordinary;
            CREATE RULE replica AS ON DELETE TO log DO ALSO DELETE FROM t; ALTER TABLE log ENABLE REPLICA RULE replica;
            CREATE PUBLICATION feed FOR TABLE t;
            """)
        try servers.old.psql("REVOKE CONNECT ON DATABASE \(database) FROM PUBLIC")
        let copy = try command("prepare", database, ["--copy-schema"])
        #expect(copy.wait() == .code(0), "\(copy.output.text)\(copy.errors.text)")
        for words in ["LEFT TO YOU publication feed:", "LEFT TO YOU rights on the database itself: OLD has {"] {
            #expect(copy.output.text.contains(words), "\(copy.output.text)")
        }
        let godwit = try servers.godwit(database) { $0.database.mirror = ["mode": "async"] }
        func isReadable() throws -> Bool {
            let row = try godwit.console("SHOW MIRROR").first { $0["database"] == database }
            return row?["readable"] == "yes"
        }
        try waitUntil { try isReadable() }
        for count in [1, 0] {
            let finish = try command("prepare", database, ["--finish-schema"])
            #expect(finish.wait() == .code(0), "\(finish.output.text)\(finish.errors.text)")
            for words in ["trigger always of public.t: it is enabled ALWAYS", "rule replica of public.log: it is enabled REPLICA"] {
                #expect(finish.output.text.contains("LEFT TO YOU \(words)"), "\(finish.output.text)")
            }
            #expect(finish.output.text.contains(" \(count) objects"), "\(finish.output.text)")
        }
        #expect(try servers.new.psql("""
            SELECT string_agg(tgname::text || tgenabled::text, ' ') FROM pg_trigger WHERE tgrelid = 't'::regclass
               AND NOT tgisinternal AND tgname !~ '^godwit'
            """, database: database) == "ordinaryD")
        try godwit.psql("INSERT INTO t VALUES (1, 'mine')", database: database)
        try waitUntil { try servers.new.psql("SELECT v FROM t", database: database) == "touched" }
        let verify = try command("verify", database)
        #expect(verify.wait() == .code(0), "\(verify.output.text)\(verify.errors.text)")
    }

    @Test func `policies, and whether triggers fire, are compared`() throws {
        let database = try servers.makeDatabase("""
            CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
            CREATE POLICY mine ON t USING (v = current_user); CREATE POLICY lost ON t FOR SELECT USING (true);
            CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
            CREATE TRIGGER f BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
            """)
        _ = try servers.mirroring(database)
        let same = try command("verify", database, ["--schema"])
        #expect(same.wait() == .code(0), "\(same.output.text)\(same.errors.text)")
        try servers.new.psql("""
            ALTER TABLE t DISABLE TRIGGER f, DISABLE ROW LEVEL SECURITY; DROP POLICY lost ON t;
            ALTER POLICY mine ON t TO app
            """, database: database)
        let other = try command("verify", database, ["--schema"])
        #expect(other.wait() == .code(1), "\(other.output.text)\(other.errors.text)")
        #expect(other.output.text.split(separator: "\n").filter { $0.hasPrefix("schema: ") } == [
            "schema: policy public.t.lost is missing on NEW",
            "schema: policy public.t.mine: definition is PERMISSIVE FOR * TO PUBLIC USING ((v = CURRENT_USER)) on OLD, "
                + "PERMISSIVE FOR * TO app USING ((v = CURRENT_USER)) on NEW",
            "schema: table public.t: row security is on on OLD, off on NEW",
            "schema: trigger public.t.f: state is O on OLD, D on NEW",
        ])
    }

    @Test func `the keys of a role whose name has blanks come with its tables`() throws {
        let database = try servers.makeDatabase(), role = "\"Keepers of \(database)\""
        for side in [servers.old, servers.new] { try side.psql("CREATE ROLE \(role)") }
        try servers.old.psql("""
            CREATE TABLE kept (id int PRIMARY KEY, v text UNIQUE); ALTER TABLE kept OWNER TO \(role)
            """, database: database)
        let prepare = try command("prepare", database, ["--copy-schema"])
        #expect(prepare.wait() == .code(0), "\(prepare.output.text)\(prepare.errors.text)")
    }

    @Test func `what stands in the way behind the schema is told with how to go on`() throws {
        let tables = "CREATE TABLE keyless (v int); CREATE TABLE t (id int PRIMARY KEY)"
        let database = try servers.makeDatabase(old: tables)
        let copy = try command("prepare", database, ["--copy-schema"])
        #expect(copy.wait() == .code(1), "\(copy.output.text)\(copy.errors.text)")
        #expect(copy.errors.text.contains("1 problems; NEW has the schema"), "\(copy.errors.text)")
        try servers.old.psql("DROP TABLE keyless", database: database)
        #expect(try command("prepare", database).wait() == .code(0))
    }

    @Test func `tablespaces that NEW has not are in nobody's way`() throws {
        let database = try servers.makeDatabase(), space = "space_\(database)"
        try servers.old.psql("SET allow_in_place_tablespaces = on; CREATE TABLESPACE \(space) LOCATION ''")
        try servers.old.psql("""
            CREATE TABLE t (id int PRIMARY KEY USING INDEX TABLESPACE \(space), v text) TABLESPACE \(space)
            """, database: database)
        let prepare = try command("prepare", database, ["--copy-schema"])
        #expect(prepare.wait() == .code(0), "\(prepare.output.text)\(prepare.errors.text)")
    }

    @Test func `a NEW that has tables is left as it is`() throws {
        let database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)")
        let prepare = try command("prepare", database, ["--copy-schema"])
        #expect(prepare.wait() == .code(1))
        #expect(prepare.errors.text.contains("NEW has public.t"), "\(prepare.errors.text)")
        #expect(try servers.new.psql("SELECT to_regnamespace('godwit') IS NULL", database: database) == "t")
    }
}
