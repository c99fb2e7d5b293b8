import Glibc
import LibPQ
import Logging
import Mirroring
import Primitives
import TestSupport
import Testing

/// A control user that may not take the role of a replica: what would fire on mirrored rows is set aside, and comes
/// back.
@Suite(.serialized) struct SetAsideTests {
    /// A cascade, a trigger and a rule that would each change what the mirror brings; partitions with a trigger that is
    /// on for one of them only; a key from a table that is not mirrored.
    private static let schema = """
        CREATE TABLE parents (id int PRIMARY KEY, word text);
        CREATE TABLE children (id int PRIMARY KEY, parent int CONSTRAINT of REFERENCES parents ON DELETE CASCADE,
            previous int REFERENCES children ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE parts (id int, at int, parent int REFERENCES parents ON DELETE CASCADE, PRIMARY KEY (id, at))
            PARTITION BY RANGE (at);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
        CREATE TABLE log (id bigserial PRIMARY KEY, what text);
        COMMENT ON CONSTRAINT of ON children IS 'whose it is';
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.log (what) VALUES (TG_TABLE_NAME || TG_OP); RETURN NULL; END $$;
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.word := NEW.word || '!'; RETURN NEW; END $$;
        CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON parents FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER shouted BEFORE INSERT OR UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TRIGGER asleep AFTER DELETE ON parents FOR EACH ROW EXECUTE FUNCTION note();
        ALTER TABLE parents DISABLE TRIGGER asleep;
        CREATE TRIGGER noted AFTER INSERT ON parts FOR EACH ROW EXECUTE FUNCTION note();
        ALTER TABLE parts_2 DISABLE TRIGGER noted;
        """
    private static let onNew = """
        ;CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY, parent int REFERENCES parents);
        CREATE RULE kept AS ON DELETE TO log DO INSTEAD NOTHING
        """

    /// Both sides by one ordinary role that owns everything, either server as NEW.
    private final class Pair {
        let harness: MirrorHarness
        let role: String
        let old: PostgresCluster
        let new: PostgresCluster
        let horizon = Horizon()
        private var mirror: Mirror?

        init(newIs15: Bool, onOld: String = "") throws {
            harness = try MirrorHarness(schema: "")
            (old, new) = newIs15 ? (harness.pair.new, harness.pair.old) : (harness.pair.old, harness.pair.new)
            role = "ctl_" + harness.pair.database
            for side in [old, new] {
                try side.psql("CREATE ROLE \(role) LOGIN; ALTER DATABASE \(harness.pair.database) OWNER TO \(role)")
                try side.psql("GRANT ALL ON SCHEMA public TO \(role)", database: harness.pair.database)
            }
            try connect(old).execute("SET search_path = public; \(SetAsideTests.schema); \(onOld)")
            try connect(new).execute("SET search_path = public; \(SetAsideTests.schema)\(SetAsideTests.onNew)")
        }

        deinit { mirror?.stop() }

        func conninfo(_ side: PostgresCluster) -> String { side.conninfo(database: harness.pair.database, user: role) }
        func connect(_ side: PostgresCluster) throws -> Connection {
            try Connection.open(try ConnectionString(parsing: conninfo(side)), purpose: "test")
        }
        func admin(_ side: PostgresCluster) throws -> Connection {
            let user = PostgresCluster.superuser
            return try Connection.open(
                try ConnectionString(parsing: side.conninfo(database: harness.pair.database, user: user)),
                purpose: "test")
        }

        func prepare(_ installer: CaptureInstaller = CaptureInstaller()) throws {
            let old = try connect(old), new = try connect(new)
            let found = try Preflight.check(old: old, new: new)
            guard found.blocking.isEmpty else { throw TestFailure("\(found.blocking)") }
            _ = try installer.install(old: old, new: new, tables: found.tables)
        }

        func start() {
            let mirror = Mirror(
                database: "t", oldConninfo: conninfo(old), newConninfo: conninfo(new),
                settings: MirrorOptions(pollMillis: 5), horizon: horizon, logger: Logger(label: "test"))
            mirror.start()
            self.mirror = mirror
        }

        func stop() {
            mirror?.stop()
            mirror = nil
        }

        func settle() throws {
            waitUntil("readable") { horizon.readable }
            let stamp = horizon.taking
            horizon.kick()
            waitUntil("a batch") { horizon.applied > stamp }
        }

        func expectEqual(sourceLocation: SourceLocation = #_sourceLocation) throws {
            try settle()
            var ours = try MirrorHarness.contents(try admin(old))
            var theirs = try MirrorHarness.contents(try admin(new))
            ours["public.scratch"] = nil
            theirs["public.scratch"] = nil
            #expect(ours == theirs, sourceLocation: sourceLocation)
        }

        /// Triggers, rules and foreign keys as they are.
        func catalog() throws -> [String] {
            let rows = try admin(new).query("""
                SELECT format('%s %s %s', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger
                 WHERE NOT tgisinternal AND tgname NOT LIKE 'godwit%'
                UNION ALL SELECT format('%s %s %s', ev_class::regclass, rulename, ev_enabled) FROM pg_rewrite
                 WHERE rulename = 'kept'
                UNION ALL SELECT format('%s %s %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid),
                       convalidated, obj_description(oid, 'pg_constraint'))
                  FROM pg_constraint WHERE contype = 'f' ORDER BY 1
                """)
            return (0..<rows.count).map { rows[$0, 0] ?? "" }
        }
    }

    private static let writes = """
        SET search_path = public;
        INSERT INTO parents SELECT n, 'w' || n FROM generate_series(1, 20) n;
        INSERT INTO children SELECT n, n % 20 + 1, nullif(n - 1, 0) FROM generate_series(1, 100) n;
        INSERT INTO parts SELECT n, n % 20, n % 20 + 1 FROM generate_series(1, 100) n;
        """

    @Test(arguments: [false, true])
    func `mirrored rows meet no trigger, rule or foreign key, and each comes back as it was`(newIs15: Bool) throws {
        let pair = try Pair(newIs15: newIs15, onOld: Self.writes)
        let before = try pair.catalog()
        try pair.prepare()
        #expect(try pair.connect(pair.new).query("SELECT count(*) FROM godwit.firing()").integer(0, 0) == 0)
        // What was disabled stays so, and is remembered as such.
        #expect(try pair.catalog().filter { $0.hasSuffix(" O") } == [])
        pair.start()
        try pair.expectEqual()
        let writer = try pair.connect(pair.old)
        for statement in [
            "UPDATE public.parents SET word = 'x' WHERE id < 5", "DELETE FROM public.parents WHERE id = 7",
            "UPDATE public.children SET id = id + 1000 WHERE id = 100", "DELETE FROM public.log WHERE id % 2 = 0",
            // The rows go and come again on NEW: children must not go with them.
            "UPDATE public.parents SET word = word || '.'; UPDATE public.parts SET at = (at + 7) % 20 WHERE id < 50",
            "INSERT INTO public.parents SELECT n, 'many' FROM generate_series(100, 4000) n",
        ] {
            try writer.execute(statement)
            try pair.expectEqual()
        }
        let new = try pair.connect(pair.new)
        // The mirror's own rows are nobody else's, and go into no journal.
        #expect(pair.horizon.report.rogueKeys == 0)
        for index in 0..<3 {
            #expect(try new.query("SELECT count(*) FROM godwit.journal_\(index)").integer(0, 0) == 0)
        }
        pair.stop()
        try CaptureInstaller().remove(old: writer, new: new)
        #expect(try pair.catalog() == before)
    }

    @Test func `what comes while the mirror runs is set aside too, before it has done anything`() throws {
        let pair = try Pair(newIs15: false, onOld: Self.writes)
        try pair.prepare()
        pair.start()
        try pair.expectEqual()
        let before = try pair.catalog()
        let owner = try pair.connect(pair.new), writer = try pair.connect(pair.old)
        try owner.execute("""
            ALTER TABLE public.children ADD CONSTRAINT late FOREIGN KEY (parent) REFERENCES public.parents
                ON DELETE CASCADE;
            CREATE TRIGGER late BEFORE INSERT OR UPDATE ON public.parents FOR EACH ROW EXECUTE FUNCTION public.shout()
            """)
        try writer.execute("UPDATE public.parents SET word = 'y'; INSERT INTO public.parents VALUES (50, 'quiet')")
        try pair.expectEqual()
        #expect(try pair.catalog() == (before + ["public.parents late D"]).sorted())
        #expect(try owner.query("SELECT count(*) FROM godwit.aside WHERE name = 'late'").integer(0, 0) == 2)
    }

    @Test func `what is set aside goes along with a table that is renamed`() throws {
        let pair = try Pair(newIs15: false, onOld: Self.writes)
        let before = try pair.catalog()
        try pair.prepare()
        let old = try pair.connect(pair.old), new = try pair.connect(pair.new)
        try new.execute("ALTER TABLE public.parts RENAME TO pieces; ALTER TABLE public.log RENAME TO parts")
        #expect(try new.query("SELECT godwit.set_aside()").integer(0, 0) == 0)
        try new.execute("ALTER TABLE public.parts RENAME TO log")
        try CaptureInstaller().remove(old: old, new: new)
        #expect(try pair.catalog().sorted() == before.map {
            $0.replacing("public.parts ", with: "public.pieces ")
        }.sorted())
    }

    @Test func `a key that has changed while it was back is set aside as it is then`() throws {
        let pair = try Pair(newIs15: false, onOld: Self.writes)
        try pair.prepare()
        let new = try pair.connect(pair.new)
        try new.execute("""
            SELECT godwit.put_back(); ALTER TABLE public.children RENAME COLUMN parent TO mother;
            ALTER TABLE public.children DROP CONSTRAINT children_previous_fkey;
            ALTER TABLE public.parents RENAME TO elders
            """)
        try new.execute("SELECT godwit.set_aside()")
        let found = try new.query("""
            SELECT definition FROM godwit.aside WHERE kind = 'foreign key' AND table_name = 'children'
            """)
        #expect(found.count == 1)
        let wanted = "FOREIGN KEY (mother) REFERENCES public.elders(id) ON DELETE CASCADE"
        #expect(found.count > 0 && found[0, 0] == wanted)
    }

    @Test(arguments: [false, true])
    func `DDL meets the keys of the tables that it names, and they go again as they are then`(newIs15: Bool) throws {
        let pair = try Pair(newIs15: newIs15, onOld: Self.writes)
        try pair.prepare()
        let new = try pair.connect(pair.new)
        func keys(behind statements: String...) throws -> [String] {
            for sql in statements {
                try new.execute("SELECT godwit.put_back($ddl$\(sql)$ddl$)")
                try new.execute(sql)
                try new.execute("SELECT godwit.set_aside()")
            }
            let rows = try new.query("""
                SELECT format('%s %s %s', table_name, name, definition) FROM godwit.aside
                 WHERE kind = 'foreign key' ORDER BY 1
                """)
            return (0..<rows.count).map { rows[$0, 0] ?? "" }
        }
        // One of another name is validated as well when it comes back.
        #expect(try keys(behind:
            "ALTER TABLE public.parts RENAME COLUMN parent TO mother",
            "ALTER TABLE public.children RENAME CONSTRAINT of TO whose",
            "ALTER TABLE public.children DROP COLUMN previous"
        ) == [
            "children whose FOREIGN KEY (parent) REFERENCES public.parents(id) ON DELETE CASCADE",
            "parts parts_parent_fkey FOREIGN KEY (mother) REFERENCES public.parents(id) ON DELETE CASCADE",
            "scratch scratch_parent_fkey FOREIGN KEY (parent) REFERENCES public.parents(id)",
        ])
        // What has nothing to do with keys brings none back.
        try new.execute("SELECT godwit.put_back('ALTER TABLE public.children ADD COLUMN more int')")
        #expect(try new.query("SELECT count(*) FROM godwit.firing()").integer(0, 0) == 0)
        #expect(try keys(behind: "DROP TABLE public.parents CASCADE") == [])
    }

    @Test(arguments: [false, true])
    func `a partition's own key takes no other one's place`(newIs15: Bool) throws {
        let pair = try Pair(newIs15: newIs15, onOld: Self.writes)
        try pair.prepare()
        let new = try pair.connect(pair.new)
        try new.execute("SELECT godwit.put_back(NULL)")
        // It has the name that the partitioned table's has.
        try new.execute("""
            CREATE TABLE public.parts_3 (id int, at int, parent int CONSTRAINT parts_parent_fkey
                REFERENCES public.children, PRIMARY KEY (id, at));
            ALTER TABLE public.parts ATTACH PARTITION public.parts_3 FOR VALUES FROM (20) TO (30)
            """)
        try new.execute("SELECT godwit.set_aside()")
        let kept = try new.query("""
            SELECT string_agg(format('%s %s', table_name, definition), ', ' ORDER BY table_name) FROM godwit.aside
             WHERE name = 'parts_parent_fkey'
            """)
        #expect(kept[0, 0] == "parts FOREIGN KEY (parent) REFERENCES public.parents(id) ON DELETE CASCADE, "
            + "parts_3 FOREIGN KEY (parent) REFERENCES public.children(id)")
    }

    @Test func `a table that takes the name of one that is gone keeps what is its own`() throws {
        let pair = try Pair(newIs15: false, onOld: Self.writes)
        let before = try pair.catalog()
        try pair.prepare()
        let old = try pair.connect(pair.old), new = try pair.connect(pair.new)
        // Both have a trigger of one name.
        try new.execute("DROP TABLE public.parts; ALTER TABLE public.parents RENAME TO parts")
        #expect(try new.query("SELECT godwit.set_aside()").integer(0, 0) == 0)
        try new.execute("ALTER TABLE public.parts RENAME TO parents")
        try CaptureInstaller().remove(old: old, new: new)
        #expect(try pair.catalog() == before.filter { !$0.hasPrefix("public.parts") })
    }

    @Test func `a sequence of NEW's that cannot be raised is named before the mirror meets it`() throws {
        let pair = try Pair(newIs15: false, onOld: "CREATE SEQUENCE apart; CREATE SEQUENCE alone")
        try pair.admin(pair.new).execute("CREATE SEQUENCE public.apart; CREATE SEQUENCE public.other")
        let found = try Preflight.check(old: try pair.connect(pair.old), new: try pair.connect(pair.new)).blocking
        #expect(found.map { "\($0.place): \($0.problem)" } == ["NEW public.apart: we may not raise the sequence"])
    }

    @Test func `whoever only says that he is the mirror is noticed on NEW`() throws {
        let pair = try Pair(newIs15: true, onOld: Self.writes)
        try pair.prepare()
        pair.start()
        try pair.expectEqual()
        let sly = "sly_" + pair.role
        let admin = try pair.admin(pair.new)
        try admin.execute("""
            CREATE ROLE \(sly) LOGIN; GRANT \(pair.role) TO \(sly); ALTER ROLE \(sly) SET godwit.applier = 'on';
            CREATE FUNCTION public.as_owner() RETURNS void LANGUAGE sql SECURITY DEFINER SET godwit.applier = 'on'
                AS $$ UPDATE public.parents SET word = 'sly' WHERE id = 3 $$;
            ALTER FUNCTION public.as_owner() OWNER TO \(pair.role)
            """)
        defer { _ = try? admin.execute("DROP OWNED BY \(sly); DROP ROLE \(sly)") }
        let target = try ConnectionString(parsing: pair.conninfo(pair.new)).overriding(["user": sly])
        let session = try Connection.open(target, purpose: "test")
        for statement in [
            "UPDATE public.parents SET word = 'sly' WHERE id = 1",
            "SET ROLE \(pair.role); DELETE FROM public.parents WHERE id = 2", "RESET ROLE; SELECT public.as_owner()",
        ] {
            let known = pair.horizon.report.rogueKeys
            try session.execute(statement)
            waitUntil("the stranger") { pair.horizon.report.rogueKeys > known }
            try pair.expectEqual()
        }
        // The mirror's user cannot be impersonated, and nobody but a superuser takes the role that is asked for else.
        #expect(throws: PostgresFailure.self) { try session.execute("SET SESSION AUTHORIZATION \(pair.role)") }
        #expect(throws: PostgresFailure.self) { try session.execute("SET session_replication_role = replica") }
    }

    @Test func `it is all or nothing, and says what is in the way`() throws {
        let pair = try Pair(newIs15: true)
        let before = try pair.catalog()
        let holder = try pair.admin(pair.new)
        try holder.execute("BEGIN; LOCK TABLE public.scratch IN SHARE MODE")
        var installer = CaptureInstaller()
        installer.lockTimeoutMillis = 20
        installer.triesMax = 2
        #expect(throws: CaptureInstaller.Failure.busy("NEW's tables", tries: 2)) { try pair.prepare(installer) }
        #expect(try pair.catalog() == before)
        #expect(try holder.query("SELECT count(*) FROM godwit.aside").integer(0, 0) == 0)
        try holder.execute("COMMIT")
        try pair.prepare()
        // A session that is no mirror's takes nothing away.
        try holder.execute("DELETE FROM godwit.progress; ALTER TABLE public.parents ENABLE TRIGGER noted")
        #expect(try holder.query("SELECT godwit.set_aside()").integer(0, 0) == 0)
        #expect(try pair.catalog().contains("public.parents noted O"))
    }

    @Test(arguments: [false, true])
    func `a foreign key that does not hold comes back not valid, with the row that shows it`(newIs15: Bool) throws {
        let pair = try Pair(newIs15: newIs15)
        try pair.connect(pair.old).execute("""
            ALTER TABLE public.children DROP CONSTRAINT of; ALTER TABLE public.parts DROP CONSTRAINT parts_parent_fkey;
            INSERT INTO public.children VALUES (1, 77, NULL); INSERT INTO public.parts VALUES (1, 15, 88)
            """)
        try pair.prepare()
        pair.start()
        try pair.expectEqual()
        pair.stop()
        let lines = Lines()
        let old = try pair.connect(pair.old), new = try pair.connect(pair.new)
        try CaptureInstaller(progress: { lines.all.append($0) }).remove(old: old, new: new)
        let told = lines.all.filter { $0.contains("does not hold") }
        #expect(told.count == 2, "\(lines.all)")
        #expect(told.contains { $0.contains("public.children") && $0.contains("Key (parent)=(77)") }, "\(told)")
        #expect(told.contains { $0.contains("public.parts") && $0.contains("Key (parent)=(88)") }, "\(told)")
        let invalid = try new.query("""
            SELECT conrelid::regclass FROM pg_constraint WHERE contype = 'f' AND NOT convalidated AND conparentid = 0
             ORDER BY 1
            """)
        #expect((0..<invalid.count).map { invalid[$0, 0] } == [
            "public.children", newIs15 ? "public.parts_2" : "public.parts",
        ])
        #expect(throws: PostgresFailure.self) { try new.execute("INSERT INTO public.children VALUES (2, 78, NULL)") }
    }

    /// Before 18 what is created below a partitioned table gets nothing of a key that only the other partitions have.
    @Test func `a partition that comes before a foreign key was looked at gets it too`() throws {
        let pair = try Pair(newIs15: true, onOld: Self.writes)
        try pair.prepare()
        let new = try pair.connect(pair.new)
        try new.execute("""
            SELECT godwit.put_back(); CREATE TABLE public.parts_3 PARTITION OF public.parts FOR VALUES FROM (20) TO (30);
            INSERT INTO public.parts VALUES (1, 25, 99)
            """)
        let told = try SetAside.validate(new)
        #expect(told.count == 1 && told.allSatisfy { $0.contains("public.parts_3") && $0.contains("(99)") }, "\(told)")
        #expect(throws: PostgresFailure.self) { try new.execute("INSERT INTO public.parts VALUES (2, 25, 98)") }
        try new.execute("DELETE FROM public.parts")
        let left = try SetAside.validate(new)
        #expect(left == [])
        // The table's own, and those of its three partitions.
        let valid = try new.query("""
            SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conname = 'parts_parent_fkey' AND convalidated
            """)
        #expect(valid.integer(0, 0) == 4)
    }

    private final class Lines { var all: [String] = [] }

    @Test func `check says which way is taken, what it costs, and what it takes`() throws {
        let pair = try Pair(newIs15: true)
        let old = try pair.connect(pair.old), new = try pair.connect(pair.new)
        func finding() throws -> Preflight.Finding? {
            try Preflight.check(old: old, new: new).findings.first { $0.problem.contains("session_replication_role") }
        }
        let note = try #require(try finding())
        #expect(note.weight == .note && note.problem.contains("4 triggers, 1 rule, 4 foreign keys"), "\(note)")
        #expect(note.fix.contains(pair.role) && note.fix.contains("GRANT SET ON PARAMETER"))
        try pair.admin(pair.new).execute("ALTER TABLE public.scratch OWNER TO postgres")
        let refusal = try #require(try finding())
        #expect(refusal.weight == .blocking && refusal.problem.contains("public.scratch is not its own"), "\(refusal)")
        try pair.admin(pair.new).execute("ALTER TABLE public.scratch OWNER TO \(pair.role)")
        try pair.prepare()
        #expect(try finding()?.problem == note.problem)
    }

    @Test func `a control user that may not make temporary tables is told so before it needs one`() throws {
        let pair = try Pair(newIs15: false)
        try pair.new.psql("REVOKE TEMPORARY ON DATABASE \(pair.harness.pair.database) FROM PUBLIC, \(pair.role)")
        let found = try Preflight.check(old: try pair.connect(pair.old), new: try pair.connect(pair.new)).blocking
        #expect(found.map { "\($0.place): \($0.problem)" } == ["NEW: \(pair.role) may not make temporary tables"])
    }

    @Test func `a right that is given or taken later is noticed`() throws {
        let pair = try Pair(newIs15: false, onOld: Self.writes)
        try pair.admin(pair.new).execute("GRANT SET ON PARAMETER session_replication_role TO \(pair.role)")
        try pair.prepare()
        let before = try pair.catalog()
        #expect(before.contains { $0.hasPrefix("public.children of FOREIGN KEY") })
        pair.start()
        try pair.expectEqual()
        pair.stop()
        try pair.admin(pair.new).execute("REVOKE SET ON PARAMETER session_replication_role FROM \(pair.role)")
        pair.start()
        waitUntil("a refusal") { pair.horizon.report.reason.contains("run godwit prepare") }
        #expect(try pair.catalog() == before)
        pair.stop()
        try pair.prepare()
        pair.start()
        try pair.connect(pair.old).execute("UPDATE public.parents SET word = 'later'")
        try pair.expectEqual()
        pair.stop()
        // Given again: nothing has to be done.
        try pair.admin(pair.new).execute("GRANT SET ON PARAMETER session_replication_role TO \(pair.role)")
        pair.start()
        try pair.connect(pair.old).execute("UPDATE public.parents SET word = 'again'")
        try pair.expectEqual()
    }
}
