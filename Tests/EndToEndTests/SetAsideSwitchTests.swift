import Glibc
import TestSupport
import Testing

/// Cutover and rollback between servers of which neither lets the control user take the role of a replica.
@Suite(.serialized) struct SetAsideSwitchTests {
    let servers: Servers
    let switches: SwitchTests

    init() throws {
        servers = try Servers.shared.get()
        switches = try SwitchTests()
    }

    /// What the writers of SwitchTests write, with keys and triggers.
    private static let schema = SwitchTests.schema + """
        ;
        ALTER TABLE entries ADD CONSTRAINT whose FOREIGN KEY (client) REFERENCES accounts ON DELETE CASCADE;
        ALTER TABLE parts ADD COLUMN account int CONSTRAINT part_of REFERENCES accounts;
        CREATE TABLE log (id bigserial PRIMARY KEY, what text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.log (what) VALUES (TG_TABLE_NAME || NEW.n); RETURN NULL; END $$;
        CREATE TRIGGER noted AFTER INSERT ON entries FOR EACH ROW EXECUTE FUNCTION note()
        """

    private func mirroring(
        _ database: String, _ change: (inout GodwitConfiguration) -> Void = { _ in }
    ) throws -> GodwitProcess {
        let role = "ctl_\(database)"
        for server in [servers.old, servers.new] {
            try server.createRole(role)
            try server.psql("GRANT app TO \(role); GRANT CREATE ON DATABASE \(database) TO \(role)")
        }
        return try servers.mirroring(database) { configuration in
            configuration.database.controlOld = servers.old.conninfo(database: database, user: role)
            configuration.database.controlNew = servers.new.conninfo(database: database, user: role)
            change(&configuration)
        }
    }

    /// Those that act on rows, of one side.
    private func acting(_ server: PostgresCluster, _ database: String) throws -> [String] {
        try server.psql("""
            SELECT format('%s %s', tgrelid::regclass, tgname) FROM pg_trigger
             WHERE NOT tgisinternal AND tgname NOT LIKE 'godwit%' AND tgenabled = 'O'
            UNION ALL SELECT format('%s %s %s', conrelid::regclass, conname, convalidated) FROM pg_constraint
             WHERE contype = 'f' AND conparentid = 0 ORDER BY 1
            """, database: database).split(separator: "\n").map(String.init)
    }

    private static let whole = ["entries noted", "entries whose t", "parts part_of t"]

    @Test func `writers go on through cutovers and rollbacks, under the keys and triggers of their side`() throws {
        let database = try servers.makeDatabase(Self.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database)
        #expect(try acting(servers.new, database) == [])
        let writers = try SwitchTests.Writers(switches.conninfo(godwit, database))
        func orphan() throws -> [String] {
            let client = try WireClient(port: godwit.port, database: database)
            let parts = "INSERT INTO parts (at, account) VALUES ('2020-02-02', 999)"
            return try ["INSERT INTO entries VALUES (999, 1)", parts]
                .map { try client.query($0).compactMap(\.sqlState).first ?? "" }
        }
        for _ in 0..<2 {
            for (verb, ours, theirs) in [
                ("CUTOVER", servers.new, servers.old), ("ROLLBACK", servers.old, servers.new),
            ] {
                try writers.awaitMore()
                try switches.switchOver(godwit, verb, database)
                // From the first write on, and of all rows once they have been looked at.
                #expect(try orphan() == ["23503", "23503"])
                try waitUntil { try acting(ours, database) == Self.whole }
                try switches.waitForMirror(godwit)
                #expect(try acting(theirs, database) == [])
                try writers.awaitMore()
            }
        }
        let outcome = try writers.end()
        #expect(outcome.errors == [])
        try switches.expectWhole(outcome, database, authority: "old")
        try switches.expectEqual(database)
        // Each entry was noted once, on whichever side it was written.
        let wrong = try servers.old.psql("""
            SELECT (SELECT count(*) FROM log) - (SELECT count(*) FROM entries)
            """, database: database)
        #expect(wrong == "0")
        let verify = try GodwitProcess.command(["verify", "--config", godwit.directory + "/godwit.yaml", database])
        #expect(verify.wait() == .code(0), "\(verify.output.text)")
        let schema = try GodwitProcess.command([
            "verify", "--schema", "--config", godwit.directory + "/godwit.yaml", database,
        ])
        #expect(schema.wait() == .code(0), "\(schema.output.text)")
    }

    @Test(arguments: ["fence", "claim", "swap", "hand_over"])
    func `a Godwit killed in the midst of it leaves no side that takes writes without its keys`(step: String) throws {
        let database = try servers.makeDatabase(Self.schema, old: SwitchTests.rows)
        #expect(try mirroring(database).terminate() == .code(0))
        var configuration = GodwitConfiguration([servers.entry(database)])
        configuration.database.mirror = ["mode": "async"]
        configuration.database.controlOld = servers.old.conninfo(database: database, user: "ctl_\(database)")
        configuration.database.controlNew = servers.new.conninfo(database: database, user: "ctl_\(database)")
        let dying = try GodwitProcess(configuration, environment: ["GODWIT_DIE_BEFORE": step])
        try switches.waitForMirror(dying)
        #expect(throws: (any Error).self) { try dying.console("CUTOVER \(database) DEADLINE 60000 WITHOUT VERIFY") }
        #expect(dying.process.wait() == .signal(SIGKILL))
        let godwit = try GodwitProcess(configuration)
        let isMade = ["swap", "hand_over"].contains(step)
        try waitUntil { try switches.authority(godwit) == (isMade ? "new" : "old") }
        let (ours, theirs) = isMade ? (servers.new, servers.old) : (servers.old, servers.new)
        try waitUntil { try acting(ours, database) == Self.whole }
        try switches.waitForMirror(godwit)
        #expect(try acting(theirs, database) == [])
        let state = try WireClient(port: godwit.port, database: database)
            .query("INSERT INTO entries VALUES (999, 1)").compactMap(\.sqlState).first
        #expect(state == "23503")
    }

    @Test func `DDL meets the keys that are set aside, and a cutover brings them back as they are then`() throws {
        let database = try servers.makeDatabase(Self.schema, old: SwitchTests.rows)
        let godwit = try mirroring(database, ChangeTests.barrier)
        let client = try WireClient(port: godwit.port, database: database)
        for statements in [
            ["ALTER TABLE parts RENAME COLUMN account TO payer"],
            ["ALTER TABLE entries RENAME CONSTRAINT whose TO theirs"],
            ["ALTER TABLE accounts RENAME TO people"],
            // By then the transaction has the table's lock on NEW itself.
            ["BEGIN", "ALTER TABLE parts ADD COLUMN more int", "ALTER TABLE parts DROP CONSTRAINT part_of", "COMMIT"],
        ] {
            for sql in statements { #expect(try client.query(sql).compactMap(\.sqlState) == [], "\(sql)") }
            #expect(try acting(servers.new, database) == [])
            try switches.waitForMirror(godwit)
        }
        let columns = """
            SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = 'parts'::regclass AND attnum > 0
            """
        #expect(try servers.new.psql(columns, database: database) == "id at payer more")
        // Who reads at a key's other end would keep the mirror from going on. What meets no key does not ask.
        let report = try WireClient(port: servers.new.port, database: database, user: PostgresCluster.superuser)
        _ = try report.query("BEGIN")
        _ = try report.query("SELECT count(*) FROM people")
        let refused = try client.query("ALTER TABLE entries DROP CONSTRAINT theirs")
        #expect(refused.compactMap(\.sqlState).first == "55P03", "\(refused)")
        #expect(try client.query("ALTER TABLE log ADD COLUMN more int").compactMap(\.sqlState) == [])
        _ = try report.query("COMMIT")
        try switches.waitForMirror(godwit)
        try switches.switchOver(godwit, "CUTOVER", database)
        try waitUntil { try acting(servers.new, database) == ["entries noted", "entries theirs t"] }
    }

    @Test func `a key that is there for DDL which is rolled back takes no row along`() throws {
        // Something besides the key is unique: rows of accounts are deleted on NEW and written again.
        let database = try servers.makeDatabase(
            Self.schema + "; ALTER TABLE accounts ADD UNIQUE (id, balance)",
            old: "\(SwitchTests.rows); INSERT INTO entries SELECT n, 1 FROM generate_series(1, 20) n")
        let godwit = try mirroring(database, ChangeTests.barrier)
        let client = try WireClient(port: godwit.port, database: database)
        for sql in [
            "BEGIN", "ALTER TABLE entries RENAME CONSTRAINT whose TO theirs", "ROLLBACK",
            "UPDATE accounts SET balance = balance + 1",
        ] { #expect(try client.query(sql).compactMap(\.sqlState) == [], "\(sql)") }
        try switches.expectEqual(database)
        try waitUntil { try acting(servers.new, database) == [] }
    }

    @Test func `a key that does not hold is named behind the cutover, and its new rows are checked`() throws {
        let database = try servers.makeDatabase(Self.schema, old: """
            ALTER TABLE entries DROP CONSTRAINT whose; \(SwitchTests.rows); INSERT INTO entries VALUES (77, 1)
            """)
        let godwit = try mirroring(database)
        let rails = try godwit.console("CUTOVER \(database) DRY RUN WITHOUT VERIFY DEADLINE 60000")
        #expect(rails.first { $0["name"] == "set_aside" }?["value"] == "1 trigger, 2 foreign keys on NEW", "\(rails)")
        try switches.switchOver(godwit, "CUTOVER", database)
        let line = try godwit.log.waitForLine(containing: "the foreign key whose does not hold and stays NOT VALID")
        // A value is written into no log that was not asked for it.
        #expect(line.contains("public.entries") && line.contains("Key (client)=") && !line.contains("(77"), "\(line)")
        #expect(try acting(servers.new, database) == ["entries noted", "entries whose f", "parts part_of t"])
        let check = try GodwitProcess.command(["check", "--config", godwit.directory + "/godwit.yaml", database])
        _ = check.wait()
        #expect(check.output.text.contains("the foreign key whose is NOT VALID"), "\(check.output.text)")
        // What could not be put back is said before anything is held.
        try switches.waitForMirror(godwit)
        try servers.old.psql(
            "SET ROLE app; ALTER TABLE accounts DROP CONSTRAINT accounts_pkey CASCADE", database: database)
        let refused = try godwit.console("ROLLBACK \(database) DRY RUN DEADLINE 60000 WITHOUT VERIFY")
        #expect(refused.first { $0["name"] == "set_aside" }?["ok"] == "no", "\(refused)")
    }
}
