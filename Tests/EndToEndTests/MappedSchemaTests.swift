import TestSupport
import Testing

/// `prepare --copy-schema` and `--finish-schema` where `mirror.tables` has other tables on NEW.
@Suite(.serialized) struct MappedSchemaTests {
    let servers: Servers
    static let schema = #"""
        CREATE TABLE people (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text UNIQUE);
        CREATE TABLE customers (id serial PRIMARY KEY, mail varchar(80) NOT NULL, boss int REFERENCES customers,
            person bigint REFERENCES people, legacy int CHECK (legacy > 0), "Odd ""one""" int,
            CONSTRAINT customers_mail UNIQUE (mail, legacy), CONSTRAINT sane CHECK (mail LIKE '%@%' AND id <> boss));
        CREATE INDEX customers_lower ON customers (lower(mail::text) text_pattern_ops, "Odd ""one""" DESC)
            WHERE boss IS NOT NULL;
        CREATE INDEX customers_legacy ON customers (legacy);
        CREATE UNIQUE INDEX customers_once ON customers (mail);
        CREATE STATISTICS customers_stat (ndistinct) ON mail, boss FROM customers;
        COMMENT ON INDEX customers_lower IS 'it''s for the search';
        COMMENT ON CONSTRAINT sane ON customers IS 'sane';
        CREATE VIEW bosses AS SELECT DISTINCT boss FROM customers;
        CREATE VIEW relics AS SELECT id FROM customers WHERE legacy IS NOT NULL;
        CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER stamp BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION stamp();
        CREATE TRIGGER watch AFTER UPDATE OF mail ON customers FOR EACH ROW WHEN (OLD.boss IS DISTINCT FROM NEW.boss)
            EXECUTE FUNCTION stamp();
        CREATE POLICY own ON customers FOR SELECT USING (mail = current_user);
        CREATE POLICY old_ones ON customers USING (legacy > 0);
        CREATE FUNCTION count_all() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.customers';
        CREATE TABLE visits (id int, at date, customer int REFERENCES customers ON DELETE CASCADE, minutes int,
            PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
        CREATE TABLE visits_2 PARTITION OF visits FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
        CREATE INDEX visits_customer ON visits (customer);
        CREATE INDEX visits_2_only ON visits_2 (minutes);
        CREATE TABLE orders (id int PRIMARY KEY, customer int, cents int, is_test boolean NOT NULL DEFAULT false);
        CREATE INDEX orders_cents ON orders (cents);
        ALTER TABLE orders ADD CONSTRAINT orders_customer FOREIGN KEY (customer) REFERENCES customers;
        CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE, note text);
        CREATE INDEX items_note ON items (note);
        ALTER TABLE items ADD CONSTRAINT short CHECK (length(note) < 100) NOT VALID;
        COMMENT ON INDEX items_note IS 'for the search'; COMMENT ON CONSTRAINT short ON items IS 'not checked yet';
        ALTER TABLE people ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of_them ON people USING (true);
        COMMENT ON POLICY all_of_them ON people IS 'as ever';
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC;
        """#
    static let rows = """
        INSERT INTO people (name) SELECT 'p' || g FROM generate_series(1, 100) g;
        INSERT INTO customers (mail, boss, person, legacy) SELECT g || '@x', nullif(g / 2, 0), g, g
            FROM generate_series(1, 100) g;
        INSERT INTO visits SELECT g, '2026-01-01'::date + g % 360, 1 + g % 100, g FROM generate_series(1, 1000) g;
        INSERT INTO orders SELECT g, 1 + g % 100, g * 100, g % 10 = 0 FROM generate_series(1, 300) g;
        INSERT INTO items SELECT g, g, 'n' FROM generate_series(1, 300) g;
        """
    static let tables = """
        {public.customers: {to: crm.clients, columns: {"no": id, address: mail, head: boss}, drop: [legacy],
         back: {legacy: "1"}},
        public.visits: {to: crm.calls, columns: {client: customer, hours: "minutes / 60.0"}},
        public.orders: {columns: {amount: cents, is_test: is_test}, where: NOT is_test, one_way: true}}
        """

    init() throws { servers = try Servers.shared.get() }

    func entry(_ database: String, _ tables: String) -> GodwitConfiguration.Database {
        var entry = servers.entry(database)
        entry.mirror = ["mode": "async", "tables": tables.replacing("\n", with: " ")]
        return entry
    }

    func prepare(_ database: String, _ options: [String], tables: String = tables) throws -> ChildProcess {
        let directory = try GodwitProcess.makeDirectory(GodwitConfiguration([entry(database, tables)]))
        return try GodwitProcess.command(["prepare", "--config", directory + "/godwit.yaml", database] + options)
    }

    /// Lines for the operator that name this.
    func left(_ process: ChildProcess, _ name: String) -> [Substring] {
        process.output.text.split(separator: "\n").filter { $0.contains("LEFT TO YOU \(name)") }
    }

    static let objects = """
        SELECT pg_get_indexdef(indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
         WHERE c.relnamespace IN ('crm'::regnamespace, 'public'::regnamespace)
        UNION ALL SELECT format('%s %s: %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
         WHERE contype IN ('p', 'u', 'c', 'f', 'x') AND conparentid = 0 AND connamespace IN (
               'crm'::regnamespace, 'public'::regnamespace)
        UNION ALL SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext ORDER BY 1
        """

    @Test func `mapped tables get OLD's schema under their own names, and the rest is named`() throws {
        let database = try servers.makeDatabase(old: Self.schema + Self.rows)
        let copy = try prepare(database, ["--copy-schema"])
        #expect(copy.wait() == .code(0), "\(copy.output.text)\(copy.errors.text)")
        #expect(left(copy, "constraint customers_legacy_check").count == 1)
        #expect(left(copy, "view public.relics").first?.contains("CREATE VIEW public.relics AS") == true)
        #expect(left(copy, "function public.count_all()").count == 1)
        #expect(left(copy, "").count == 3, "\(copy.output.text)")
        let columns = try servers.new.psql("""
            SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
             WHERE attrelid = 'crm.clients'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
            """, database: database)
        #expect(columns == """
            no|integer|t\naddress|character varying(80)|t\nhead|integer|f\nperson|bigint|f\nOdd "one"|integer|f
            """)
        #expect(try servers.new.psql("""
            SELECT format_type(atttypid, atttypmod) FROM pg_attribute
             WHERE attrelid = 'crm.calls'::regclass AND attname = 'hours'
            """, database: database) == "numeric")

        let godwit = try servers.godwit(database) { $0.databases = [entry(database, Self.tables)] }
        try waitUntil {
            try godwit.console("SHOW MIRROR").first { $0["database"] == database }?["readable"] == "yes"
        }
        let finish = try prepare(database, ["--finish-schema"])
        #expect(finish.wait() == .code(0), "\(finish.output.text)\(finish.errors.text)")
        let made = try servers.new.psql(Self.objects, database: database)
        for line in [
            "CREATE INDEX customers_lower ON crm.clients USING btree (lower((address)::text) text_pattern_ops, "
                + "\"Odd \"\"one\"\"\" DESC) WHERE (head IS NOT NULL)",
            "CREATE UNIQUE INDEX customers_once ON crm.clients USING btree (address)",
            "crm.clients sane: CHECK ((((address)::text ~~ '%@%'::text) AND (no <> head)))",
            "crm.clients customers_pkey: PRIMARY KEY (no)",
            "crm.clients customers_boss_fkey: FOREIGN KEY (head) REFERENCES crm.clients(no)",
            "crm.clients customers_person_fkey: FOREIGN KEY (person) REFERENCES people(id)",
            "crm.calls visits_customer_fkey: FOREIGN KEY (client) REFERENCES crm.clients(no) ON DELETE CASCADE",
            "CREATE INDEX visits_customer ON ONLY crm.calls USING btree (client)",
            "CREATE INDEX visits_2_only ON public.visits_2 USING btree (minutes)",
            "CREATE INDEX orders_cents ON public.orders USING btree (amount)",
            "orders orders_customer: FOREIGN KEY (customer) REFERENCES crm.clients(no)",
            "CREATE INDEX items_note ON public.items USING btree (note)",
            "items short: CHECK ((length(note) < 100)) NOT VALID",
            "CREATE STATISTICS crm.customers_stat (ndistinct) ON address, head FROM crm.clients",
        ] where !made.contains(line) {
            Issue.record("NEW lacks \(line)\nIt has:\n\(made)")
        }
        #expect(!made.contains("customers_legacy") && !made.contains("customers_mail"), "\(made)")
        #expect(try servers.new.psql("""
            SELECT obj_description('crm.customers_lower'::regclass)
            """, database: database) == "it's for the search")
        for name in [
            "constraint customers_legacy_check", "index customers_legacy", "constraint customers_mail",
            "trigger stamp of public.customers", "trigger watch of public.customers",
            "policy own of public.customers", "view public.relics",
        ] {
            #expect(left(finish, name).count == 1, "\(name): \(finish.output.text)")
        }
        let key = try #require(left(finish, "foreign key items_order_id_fkey").first)
        #expect(key.contains("ALTER TABLE \"public\".\"items\" ADD CONSTRAINT \"items_order_id_fkey\" FOREIGN KEY"), "\(key)")

        let again = try prepare(database, ["--finish-schema"])
        #expect(again.wait() == .code(0), "\(again.output.text)\(again.errors.text)")
        #expect(again.output.text.contains(" 0 objects"), "\(again.output.text)")
        #expect(try servers.new.psql(Self.objects, database: database) == made)

        // The mirror goes on with all of that.
        _ = try godwit.psql("""
            INSERT INTO customers (mail, boss, legacy) VALUES ('new@x', 3, 1); DELETE FROM visits WHERE customer < 9;
            UPDATE orders SET is_test = NOT is_test WHERE id < 50; UPDATE customers SET boss = 1 WHERE id > 50
            """, database: database)
        try waitUntil {
            try servers.new.psql("SELECT head FROM crm.clients WHERE no = 100", database: database) == "1"
        }
        try expectCompared(godwit, database)
    }

    /// `verify --schema` through the mapping: first what was brought, then what somebody has changed of it.
    private func expectCompared(_ godwit: GodwitProcess, _ database: String) throws {
        func verify(_ code: Int32) throws -> (lines: [String], all: String) {
            let process = try GodwitProcess.command(
                ["verify", "--schema", "--config", godwit.configurationPath, database])
            #expect(process.wait() == .code(code), "\(process.output.text)\(process.errors.text)")
            let text = process.output.text
            let lines = text.split(separator: "\n").filter { $0.hasPrefix("schema: ") }
            return (lines.map { String($0) }.sorted(), text)
        }
        let first = try verify(0)
        #expect(first.lines == [], "\(first.all)")
        for name in [
            "constraint customers_legacy_check", "index customers_legacy", "constraint customers_mail",
            "foreign key items_order_id_fkey", "trigger stamp", "trigger watch", "policy own", "policy old_ones",
        ] {
            #expect(first.all.contains("schema, not compared: \(name) of public."), "\(name): \(first.all)")
        }
        let own = """
            CREATE TRIGGER watch AFTER UPDATE OF address ON crm.clients FOR EACH ROW
                WHEN (OLD.head IS DISTINCT FROM NEW.head) EXECUTE FUNCTION stamp();
            CREATE POLICY own ON crm.clients FOR SELECT USING (address = current_user);
            CREATE POLICY old_ones ON crm.clients USING (true);
            """
        try servers.new.psql(own, database: database)
        let alike = try verify(0)
        #expect(alike.lines == [], "\(alike.all)")
        #expect(alike.all.contains("policy old_ones of public.customers: crm.clients has no column that holds legacy"))
        for name in ["trigger watch", "policy own"] { #expect(!alike.all.contains(name), "\(alike.all)") }
        try servers.new.psql("""
            DROP TRIGGER watch ON crm.clients; CREATE TRIGGER watch AFTER UPDATE ON crm.clients FOR EACH ROW
                WHEN (OLD.head IS DISTINCT FROM NEW.head) EXECUTE FUNCTION stamp();
            ALTER TABLE crm.clients DISABLE TRIGGER watch, ENABLE ROW LEVEL SECURITY;
            ALTER POLICY own ON crm.clients USING (address = session_user)
            """, database: database)
        try servers.new.psql("""
            DROP INDEX crm.customers_lower; CREATE INDEX sooner ON crm.clients (head);
            CREATE INDEX own ON crm.calls (hours); ALTER INDEX crm.customers_once RENAME TO customers_twice;
            ALTER TABLE crm.clients DROP CONSTRAINT sane, ADD CONSTRAINT sane CHECK (no > 0);
            ALTER TABLE orders DROP CONSTRAINT orders_customer;
            ALTER TABLE crm.calls DROP CONSTRAINT visits_customer_fkey,
                ADD CONSTRAINT visits_customer_fkey FOREIGN KEY (client) REFERENCES crm.clients;
            DROP INDEX visits_2_only
            """, database: database)
        let second = try verify(1)
        let wanted = [
            "schema: index crm.clients.customers_lower is missing on NEW",
            "schema: index crm.clients.sooner is only on NEW",
            "schema: constraint crm.clients.sane: definition is "
                + "CHECK ((((address)::text ~~ '%@%'::text) AND (no <> head))) on OLD, CHECK ((no > 0)) on NEW",
            "schema: constraint public.orders.orders_customer is missing on NEW",
            "schema: constraint crm.calls.visits_customer_fkey: definition is FOREIGN KEY (client) REFERENCES "
                + "crm.clients(no) ON DELETE CASCADE on OLD, FOREIGN KEY (client) REFERENCES crm.clients(no) on NEW",
            "schema: index public.visits_2.visits_2_only is missing on NEW",
            "schema: table crm.clients: row security is off on OLD, on on NEW",
            "schema: trigger crm.clients.watch: state is O on OLD, D on NEW",
            "schema: trigger crm.clients.watch: definition is CREATE TRIGGER watch AFTER UPDATE OF address ON "
                + "crm.clients FOR EACH ROW WHEN ((old.head IS DISTINCT FROM new.head)) EXECUTE FUNCTION "
                + "public.stamp() on OLD, CREATE TRIGGER watch AFTER UPDATE ON crm.clients FOR EACH ROW WHEN "
                + "((old.head IS DISTINCT FROM new.head)) EXECUTE FUNCTION public.stamp() on NEW",
            "schema: policy crm.clients.own: definition is AS PERMISSIVE FOR SELECT TO PUBLIC USING "
                + "(((address)::text = CURRENT_USER)) on OLD, AS PERMISSIVE FOR SELECT TO PUBLIC USING "
                + "(((address)::text = SESSION_USER)) on NEW",
        ]
        #expect(second.lines == wanted.sorted(), "\(second.all)")
        #expect(second.all.contains("schema, not compared: index own of NEW's crm.calls"), "\(second.all)")
    }

    @Test(arguments: [
        ("{public.customers: {drop: [nothing]}}", "drops the column nothing"),
        ("{public.gone: {to: public.other}}", "public.gone, which OLD has not"),
        ("{public.visits: {columns: {hours: \"minutes / nothing\"}}}", "an expression of public.visits"),
        ("{public.customers: {to: public.people}}", "already exists"),
        ("{public.customers: {columns: {a: 'id + 1'}, drop: [id, person]}}", "key"),
    ])
    func `a mapping that cannot be leaves NEW empty`(tables: String, words: String) throws {
        let database = try servers.makeDatabase(old: Self.schema)
        let copy = try prepare(database, ["--copy-schema"], tables: tables)
        #expect(copy.wait() == .code(1))
        #expect(copy.errors.text.contains(words), "\(copy.output.text)\(copy.errors.text)")
        let count = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        #expect(try servers.new.psql(count, database: database) == "0")
        #expect(try servers.new.psql("SELECT to_regnamespace('godwit') IS NULL", database: database) == "t")
    }

    @Test func `names may be exchanged, and a table made by hand gets what it lacks`() throws {
        let database = try servers.makeDatabase(
            old: """
                CREATE TABLE a (id int PRIMARY KEY, x int, y text); CREATE INDEX a_x ON a (x);
                CREATE TABLE b (id int PRIMARY KEY, v text CHECK (v <> ''), UNIQUE (v));
                INSERT INTO a VALUES (1, 2, 'three'); INSERT INTO b VALUES (4, 'five');
                """)
        let tables = "{public.a: {to: public.b, columns: {x: y, y: x}}, public.b: {to: public.a}}"
        let copy = try prepare(database, ["--copy-schema"], tables: tables)
        #expect(copy.wait() == .code(0), "\(copy.output.text)\(copy.errors.text)")
        // By hand: the type is another, and the check has another name.
        try servers.new.psql("""
            ALTER TABLE b ALTER COLUMN y TYPE bigint; ALTER TABLE a RENAME CONSTRAINT b_v_check TO mine
            """, database: database)
        let godwit = try servers.godwit(database) { $0.databases = [entry(database, tables)] }
        try waitUntil {
            try godwit.console("SHOW MIRROR").first { $0["database"] == database }?["readable"] == "yes"
        }
        let finish = try prepare(database, ["--finish-schema"], tables: tables)
        #expect(finish.wait() == .code(0), "\(finish.output.text)\(finish.errors.text)")
        #expect(left(finish, "") == [])
        let made = try servers.new.psql("""
            SELECT pg_get_indexdef('a_x'::regclass) COLLATE "C" AS d UNION ALL
            SELECT conname || pg_get_constraintdef(oid) COLLATE "C" FROM pg_constraint
             WHERE conrelid = 'a'::regclass AND contype IN ('c', 'u') ORDER BY d
            """, database: database)
        #expect(made == """
            CREATE INDEX a_x ON public.b USING btree (y)\nb_v_keyUNIQUE (v)\nmineCHECK ((v <> ''::text))
            """)
        #expect(try servers.new.psql("SELECT id, x, y FROM b", database: database) == "1|three|2")
    }
}
