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
        let finish = try command("prepare", database, ["--finish-schema"])
        #expect(finish.wait() == .code(0), "\(finish.output.text)\(finish.errors.text)")
        let compared = try command("verify", database, ["--schema"])
        #expect(compared.wait() == .code(0), "\(compared.output.text)\(compared.errors.text)")
        let late = "SELECT count(*) FROM pg_indexes WHERE indexname IN ('parts_at', 'Odd index', 'parents_name_key')"
        #expect(try servers.new.psql(late, database: database) == "3")
        #expect(try servers.new.psql("SELECT count(*) FROM names", database: database) == "3000")
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

    @Test func `a NEW that has tables is left as it is`() throws {
        let database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY)")
        let prepare = try command("prepare", database, ["--copy-schema"])
        #expect(prepare.wait() == .code(1))
        #expect(prepare.errors.text.contains("NEW has public.t"), "\(prepare.errors.text)")
        #expect(try servers.new.psql("SELECT to_regnamespace('godwit') IS NULL", database: database) == "t")
    }
}
