import LibPQ
import Mirroring
import TestSupport
import Testing

@Suite(.serialized) struct PreflightTests {
    @Test func `every defect is named with its place, and nothing is touched`() throws {
        let harness = try MirrorHarness(schema: "")
        let old = try harness.connectOld(), new = try harness.connectNew()
        try old.execute("""
            SET search_path = public;
            CREATE TABLE nokey (a int); CREATE UNLOGGED TABLE volatile (id int PRIMARY KEY);
            CREATE TABLE absent (id int PRIMARY KEY); CREATE TABLE thin (id int PRIMARY KEY, gone text);
            CREATE TABLE typed (id int PRIMARY KEY, v int); CREATE TABLE keyed (a int, b int, PRIMARY KEY (a, b));
            CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
            CREATE TABLE strict (id int PRIMARY KEY, v int); CREATE TABLE full_one (id int PRIMARY KEY);
            CREATE TABLE fired (id int PRIMARY KEY); CREATE TABLE fine (id int PRIMARY KEY);
            CREATE TABLE fragile (id int PRIMARY KEY); CREATE TABLE base (id int PRIMARY KEY);
            CREATE TABLE child (PRIMARY KEY (id)) INHERITS (base); CREATE TABLE orphan (id int PRIMARY KEY);
            CREATE PUBLICATION everything_old FOR ALL TABLES; SELECT lo_create(0);
            """)
        try new.execute("""
            SET search_path = public;
            CREATE TABLE nokey (a int); CREATE TABLE volatile (id int PRIMARY KEY);
            CREATE TABLE thin (id int PRIMARY KEY); CREATE TABLE typed (id int PRIMARY KEY, v bigint);
            CREATE TABLE keyed (a int, b int, PRIMARY KEY (b, a)); CREATE TABLE parts (id int PRIMARY KEY);
            CREATE TABLE strict (id int PRIMARY KEY, v int NOT NULL, w int NOT NULL);
            CREATE TABLE full_one (id int PRIMARY KEY); INSERT INTO full_one VALUES (1);
            CREATE TABLE fired (id int PRIMARY KEY); CREATE TABLE fine (id int PRIMARY KEY);
            CREATE UNLOGGED TABLE fragile (id int PRIMARY KEY); CREATE TABLE base (id int PRIMARY KEY);
            CREATE TABLE child (id int PRIMARY KEY); CREATE TABLE orphan (PRIMARY KEY (id)) INHERITS (base);
            CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER always AFTER INSERT ON fired FOR EACH ROW EXECUTE FUNCTION f();
            ALTER TABLE fired ENABLE ALWAYS TRIGGER always;
            CREATE PUBLICATION everything_new FOR ALL TABLES;
            """)
        let result = try Preflight.check(old: old, new: new)
        let lines = result.blocking.map { "\($0.place): \($0.problem)" }
        for expected in [
            "OLD public.nokey: has no primary key", "OLD public.volatile: is unlogged",
            "NEW public.absent: does not exist", "NEW public.fragile: is unlogged", "NEW public.thin: lacks the column gone text",
            "NEW public.typed.v: is bigint, on OLD it is integer", "NEW public.keyed: has primary key (b, a)",
            "NEW public.strict.v: is NOT NULL",
            "NEW public.strict.w: is NOT NULL without default", "NEW public.full_one: already holds rows",
            "NEW public.fired trigger always: is enabled ALWAYS", "OLD publication everything_old: is FOR ALL TABLES",
            "NEW public.child: inherits from no table, on OLD from", "NEW public.orphan: inherits from",
            "NEW publication everything_new: is FOR ALL TABLES", "OLD: has 1 large objects",
        ] {
            #expect(lines.contains { $0.hasPrefix(expected) }, "\(expected) in \(lines)")
        }
        #expect(!lines.contains { $0.contains("public.fine") })
        #expect(result.blocking.allSatisfy { !$0.fix.isEmpty })
        #expect(try old.query("SELECT to_regnamespace('godwit') IS NULL").flag(0, 0))
    }

    @Test func `an event trigger that fires for the mirror's own tables is told of`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        let old = try harness.connectOld(), new = try harness.connectNew()
        let create = "ON ddl_command_end"
        try new.execute("""
            CREATE FUNCTION public.noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
            CREATE EVENT TRIGGER ordinary \(create) EXECUTE FUNCTION public.noted();
            CREATE EVENT TRIGGER always \(create) EXECUTE FUNCTION public.noted();
            CREATE EVENT TRIGGER other \(create) WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.noted();
            ALTER EVENT TRIGGER always ENABLE ALWAYS; ALTER EVENT TRIGGER other ENABLE ALWAYS;
            """)
        let places = try Preflight.check(old: old, new: new).findings.map(\.place)
        // The harness's role is a superuser: what is enabled as usual sleeps in the role of a replica.
        #expect(places.filter { $0.hasPrefix("NEW event trigger") } == ["NEW event trigger always"])
    }

    @Test func `an ordinary role without the needed rights is told which`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE guarded (id int PRIMARY KEY); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
            GRANT SELECT ON guarded TO PUBLIC;
            """)
        let role = harness.pair.database + "_r"
        for side in [harness.pair.old, harness.pair.new] { try side.psql("CREATE ROLE \(role) LOGIN") }
        let old = try Connection.open(
            try ConnectionString(parsing: harness.pair.oldConninfo).overriding(["user": role]), purpose: "test")
        let new = try Connection.open(
            try ConnectionString(parsing: harness.pair.newConninfo).overriding(["user": role]), purpose: "test")
        let lines = try Preflight.check(old: old, new: new).blocking.map { "\($0.place): \($0.problem)" }
        for expected in [
            "OLD: \(role) may not create the schema godwit", "NEW: \(role) may not create the schema godwit",
            "NEW: the control user may not set session_replication_role",
            "OLD public.guarded: row level security hides rows", "OLD public.guarded: is not owned",
        ] {
            #expect(lines.contains { $0.hasPrefix(expected) }, "\(expected) in \(lines)")
        }
    }

    @Test func `of many tables each that holds rows already is named`() throws {
        let harness = try MirrorHarness(schema: """
            DO 'BEGIN FOR i IN 1 .. 210 LOOP
                EXECUTE format(''CREATE TABLE t%s (id int PRIMARY KEY)'', i); END LOOP; END'
            """)
        let new = try harness.connectNew()
        try new.execute("INSERT INTO public.t1 VALUES (1); INSERT INTO public.t99 VALUES (1)")
        let result = try Preflight.check(old: try harness.connectOld(), new: new)
        #expect(result.blocking.map(\.place) == ["NEW public.t1", "NEW public.t99"])
    }

    @Test func `the same database twice is refused`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        let one = try harness.connectOld(), two = try harness.connectOld()
        #expect(try Preflight.check(old: one, new: two).blocking.contains { $0.problem.hasPrefix("are the same") })
    }

    @Test func `a schema that the control user may not look into is named`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE SCHEMA shut; CREATE TABLE shut.t (id int PRIMARY KEY); GRANT ALL ON shut.t TO PUBLIC
            """)
        let role = harness.pair.database + "_r"
        for side in [harness.pair.old, harness.pair.new] { try side.psql("CREATE ROLE \(role) LOGIN") }
        let new = try Connection.open(
            try ConnectionString(parsing: harness.pair.newConninfo).overriding(["user": role]), purpose: "test")
        let found = try Preflight.check(old: try harness.connectOld(), new: new).blocking
        #expect(found.contains { $0.place == "NEW shut.t" && $0.fix == "GRANT USAGE ON SCHEMA" }, "\(found)")
    }

    @Test func `a schema godwit that somebody else has made is not taken for ours`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        let role = harness.pair.database + "_r", old = try harness.connectOld(), new = try harness.connectNew()
        try old.execute("CREATE ROLE \(role); CREATE SCHEMA godwit AUTHORIZATION \(role); CREATE TABLE godwit.control (a int)")
        let found = try Preflight.check(old: old, new: new).blocking
        #expect(found.map(\.place) == ["OLD"] && found[0].problem.contains("belongs to \(role)"), "\(found)")
        try old.execute("DROP SCHEMA godwit CASCADE; DROP ROLE \(role)")
        try harness.prepare()
        #expect(try Preflight.check(old: old, new: new).blocking.isEmpty)
    }

    @Test func `columns that are told apart by their Unicode form only are named`() throws {
        let harness = try MirrorHarness(schema: #"CREATE TABLE t (id int PRIMARY KEY, U&"caf\00E9" int, U&"cafe\0301" int)"#)
        let result = try Preflight.check(old: try harness.connectOld(), new: try harness.connectNew())
        #expect(result.blocking.map(\.problem).contains { $0.contains("differ in nothing but their Unicode form") })
    }

    /// The second of two rows that OLD tells apart would take the first one's place.
    @Test func `a key that NEW tells apart by less than OLD is refused`() throws {
        // Both are of Debian's PostgreSQL: the other one is built without ICU.
        let harness = try MirrorHarness(schema: "SELECT 1"), second = harness.pair.database + "_new"
        try harness.pair.old.createDatabase(second)
        let conninfo = harness.pair.old.conninfo(database: second, user: PostgresCluster.superuser)
        for database in [harness.pair.database, second] {
            try harness.pair.old.psql("""
                CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                CREATE TABLE alike (k text COLLATE caseless PRIMARY KEY);
                CREATE TABLE value (id int PRIMARY KEY, v text);
                """, database: database)
        }
        let old = try harness.connectOld()
        let new = try Connection.open(try ConnectionString(parsing: conninfo), purpose: "test")
        for (side, collation) in [(0, "\"C\""), (1, "public.caseless")] {
            let sql = """
                SET search_path = public; CREATE TABLE by_column (k text COLLATE \(collation) PRIMARY KEY);
                CREATE TABLE by_index (k text NOT NULL); CREATE UNIQUE INDEX ON by_index (k COLLATE \(collation));
                ALTER TABLE value ALTER v TYPE text COLLATE \(collation); SET search_path = pg_catalog, pg_temp
                """
            if side == 0 { try old.execute(sql) } else { try new.execute(sql) }
        }
        let result = try Preflight.check(old: old, new: new)
        #expect(result.blocking.map(\.place) == ["NEW public.by_column.k", "NEW public.by_index.k"])
        #expect(result.tables.map(\.name.name) == ["alike", "value"])
        #expect(try Preflight.check(old: new, new: old).blocking.isEmpty, "OLD's keys may be fewer")
    }

    @Test func `a key by which no index finds a row is told`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE found (k varchar(9), m mood, PRIMARY KEY (m, k));
            CREATE TABLE sought (k text NOT NULL); CREATE UNIQUE INDEX ON sought (k COLLATE "POSIX")
            """)
        let result = try Preflight.check(old: try harness.connectOld(), new: try harness.connectNew())
        #expect(result.blocking.isEmpty)
        #expect(result.findings.filter { $0.problem.contains("no index") }.map(\.place) == ["OLD public.sought"])
    }

    /// It cannot be asked for rows here, as one whose server is away; nor may anybody be told to empty it.
    @Test func `a foreign table is told, and in nobody's way`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER away FOREIGN DATA WRAPPER nowhere;
            CREATE TABLE t (id int PRIMARY KEY); CREATE FOREIGN TABLE far (id int) SERVER away
            """)
        let new = try harness.connectNew()
        let result = try Preflight.check(old: try harness.connectOld(), new: new)
        #expect(result.findings.map(\.place).contains("OLD public.far"))
        #expect(result.tables.map(\.name.name) == ["t"])
        try harness.prepare()
        harness.start()
        try harness.waitUntilReadable()
        try harness.writer().execute("INSERT INTO t VALUES (1)")
        try harness.settle()
        #expect(try new.query("SELECT count(*) FROM public.t").integer(0, 0) == 1)
    }

    @Test func `a table that somebody has for himself is not waited for`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (k text PRIMARY KEY)")
        let other = try harness.connectOld()
        // It ends by itself, so that nothing would hang here.
        try other.execute("""
            SET idle_in_transaction_session_timeout = '20s'; BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE
            """)
        let result = try Preflight.check(old: try harness.connectOld(), new: try harness.connectNew())
        #expect(result.tables.map(\.name.name) == ["t"])
        try other.execute("ROLLBACK")
    }

    @Test func `what NEW asks of rows that come, and OLD need not have asked, is told`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE lookup (v text PRIMARY KEY); CREATE TYPE mood AS ENUM ('sad', 'glad');
            CREATE FUNCTION known(x text) RETURNS bool LANGUAGE plpgsql AS
                'BEGIN RETURN EXISTS (SELECT FROM lookup WHERE v = x); END';
            CREATE FUNCTION safe(x text) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog AS
                'BEGIN RETURN length(x) > 0; END';
            CREATE TABLE t (id int PRIMARY KEY, v text CHECK (known(v)), w text CHECK (safe(w)), n int CHECK (n > 0))
            """)
        let old = try harness.connectOld(), new = try harness.connectNew()
        try old.execute("ALTER TABLE public.t ADD CONSTRAINT later CHECK (n < 9) NOT VALID")
        try old.execute("ALTER TYPE public.mood ADD VALUE 'so-so' BEFORE 'glad'")
        try new.execute("""
            ALTER TABLE public.t ADD CONSTRAINT later CHECK (n < 9), ADD CONSTRAINT other CHECK (n <> 5);
            ALTER TABLE public.t RENAME CONSTRAINT t_n_check TO positive
            """)
        let result = try Preflight.check(old: old, new: new)
        #expect(result.blocking.isEmpty, "\(result.blocking)")
        let places = result.findings.map(\.place)
        #expect(places.filter { $0.hasPrefix("NEW function") } == ["NEW function public.known(text)"])
        #expect(places.filter { $0.hasPrefix("NEW type") } == ["NEW type public.mood"])
        #expect(places.filter { $0.contains("constraint") } == [
            "NEW public.t constraint later", "NEW public.t constraint other",
        ])
    }

    @Test func `too little room for locks is told`() {
        #expect(Preflight.room("OLD", relations: 3200, locks: 6400).isEmpty)
        #expect(Preflight.room("OLD", relations: 3201, locks: 6400).map(\.place) == ["OLD"])
    }

    @Test func `settings of one side only, and rows of extensions, are told`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY)")
        let old = try harness.connectOld(), database = harness.pair.database
        let role = database + "_r"
        for side in [harness.pair.old, harness.pair.new] {
            try side.psql("CREATE ROLE \(role); ALTER ROLE \(role) SET DateStyle = 'German'")
        }
        try harness.pair.old.psql("""
            ALTER DATABASE \(database) SET search_path = shop, public; ALTER ROLE \(role) SET TimeZone = 'Asia/Tokyo';
            ALTER ROLE \(role) SET work_mem = '2MB'
            """)
        try old.execute("""
            CREATE TABLE public.settled (id int); CREATE TABLE public.jobs (id int); INSERT INTO public.jobs VALUES (7);
            CREATE TABLE public.own (id int); INSERT INTO public.own VALUES (1);
            ALTER EXTENSION plpgsql ADD TABLE public.settled; ALTER EXTENSION plpgsql ADD TABLE public.jobs;
            ALTER EXTENSION plpgsql ADD TABLE public.own;
            UPDATE pg_extension SET extcondition = ARRAY['', 'WHERE id > 5', 'WHERE id > 5'], extconfig = ARRAY[
                'public.settled'::regclass, 'public.jobs'::regclass, 'public.own'::regclass]::oid[]
             WHERE extname = 'plpgsql'
            """)
        let result = try Preflight.check(old: old, new: try harness.connectNew())
        #expect(result.blocking.isEmpty, "\(result.blocking)")
        let lines = result.findings.map { "\($0.place): \($0.problem)" }
        #expect(lines.filter { $0.contains("the extension") } == [
            "OLD public.jobs: belongs to the extension plpgsql and holds rows that are not its own: they are not mirrored"
        ])
        let ours = lines.filter { $0.contains("mean something else") && ($0.contains(role) || $0.contains("the database")) }
        #expect(ours.count == 2, "\(ours)")
        #expect(ours.contains { $0.hasPrefix("NEW: the database has search_path not set, on OLD 'shop, public'") })
        #expect(ours.contains { $0.hasPrefix("NEW: role \(role) has timezone not set, on OLD 'Asia/Tokyo'") })
    }

    @Test func `a key whose type somebody makes of text by a function of his own is refused`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TYPE mood AS ENUM ('fine'); CREATE TYPE other AS ENUM ('fine'); CREATE DOMAIN feeling AS mood;
            CREATE FUNCTION felt(text) RETURNS mood LANGUAGE plpgsql AS $$ BEGIN RETURN 'fine'; END $$;
            CREATE CAST (text AS mood) WITH FUNCTION felt(text);
            CREATE TABLE moods (m mood PRIMARY KEY); CREATE TABLE feelings (f feeling PRIMARY KEY);
            CREATE TABLE others (o other PRIMARY KEY, m mood)
            """)
        let result = try Preflight.check(old: try harness.connectOld(), new: try harness.connectNew())
        let casts = result.blocking.filter { $0.problem.contains("a cast makes its type") }
        #expect(casts.map(\.place) == ["OLD public.feelings.f", "OLD public.moods.m"], "\(result.blocking)")
        #expect(result.tables.map(\.name.name) == ["others"])
    }

    @Test func `a key of a type whose operators are an extension's own is named before the mirror meets it`() throws {
        let operators = [("<", "lt"), ("<=", "le"), ("=", "eq"), (">=", "ge"), (">", "gt")]
        let made = operators.map { sign, name in
            """
            CREATE FUNCTION trail_\(name)(trail, trail) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4\(name)';
            CREATE OPERATOR \(sign) (LEFTARG = trail, RIGHTARG = trail, FUNCTION = trail_\(name));
            """
        }.joined()
        let members = operators.enumerated().map { "OPERATOR \($0 + 1) \($1.0)" }.joined(separator: ", ")
        let harness = try MirrorHarness(schema: """
            CREATE TYPE trail;
            CREATE FUNCTION trail_in(cstring) RETURNS trail LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
            CREATE FUNCTION trail_out(trail) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
            CREATE TYPE trail (INPUT = trail_in, OUTPUT = trail_out, LIKE = int);
            \(made)
            CREATE FUNCTION trail_cmp(trail, trail) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
            CREATE OPERATOR CLASS trail_ops DEFAULT FOR TYPE trail USING btree AS
                \(members), FUNCTION 1 trail_cmp(trail, trail);
            CREATE TYPE mood AS ENUM ('fine'); CREATE DOMAIN word AS text NOT NULL;
            CREATE TABLE paths (path trail PRIMARY KEY); CREATE TABLE others (m mood, w word, v trail, PRIMARY KEY (m, w))
            """)
        let result = try Preflight.check(old: try harness.connectOld(), new: try harness.connectNew())
        #expect(result.blocking.map(\.place) == ["OLD public.paths.path"], "\(result.blocking)")
        #expect(result.tables.map(\.name.name) == ["others"])
    }
}
