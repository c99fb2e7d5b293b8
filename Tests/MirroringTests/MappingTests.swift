import Foundation
import LibPQ
import Primitives
import TestSupport
import Testing

@testable import Mirroring

extension TableMapping {
    /// Of two tables of the schema public.
    init(_ old: String, _ new: String? = nil, _ change: (inout TableMapping) -> Void = { _ in }) {
        self.init(old: TableName(schema: "public", name: old), new: TableName(schema: "public", name: new ?? old))
        change(&self)
    }
}

/// Tables that are others on NEW: every row of OLD that should be there is, in its other shape, whatever changes it.
@Suite(.serialized) struct MappingTests {
    static let old = """
        CREATE TABLE orders (id int PRIMARY KEY, first text NOT NULL, last text NOT NULL, cents int,
            note varchar(20), legacy text, is_test boolean NOT NULL DEFAULT false, made timestamptz NOT NULL);
        CREATE TABLE plain (id int PRIMARY KEY, v text)
        """
    static let new = """
        DROP TABLE orders;
        CREATE SCHEMA shop;
        CREATE TABLE shop.purchases (buyer text NOT NULL, amount numeric(10, 2), order_id bigint PRIMARY KEY,
            note text, made_on date NOT NULL, origin text NOT NULL DEFAULT 'old')
        """
    static let fill = """
        INSERT INTO public.orders SELECT g, 'f' || g, 'l' || g % 7, g * 3, 'n' || g, 'x', g % 5 = 0,
            timestamptz '2026-01-01 23:30:00+00' + g * interval '1 hour' FROM generate_series(1, 3000) g;
        INSERT INTO public.plain SELECT g, g FROM generate_series(1, 50) g
        """
    static let orders = {
        var mapping = TableMapping(
            old: TableName(schema: "public", name: "orders"), new: TableName(schema: "shop", name: "purchases"))
        mapping.columns = [
            "order_id": "id", "buyer": "first || ' ' || last -- the whole name", "amount": "cents / 100.0",
            "made_on": "made", "note": "upper(note)",
        ]
        mapping.dropped = ["first", "last", "cents", "legacy", "is_test"]
        mapping.condition = "NOT is_test"
        return mapping
    }()

    /// What NEW must hold, written by hand.
    static let wanted = """
        SELECT coalesce(string_agg(ROW(id::bigint, first || ' ' || last, round(cents / 100.0, 2), upper(note),
            (made AT TIME ZONE 'UTC')::date)::text, E'\\n' ORDER BY id), '') FROM public.orders WHERE NOT is_test
        """
    static let found = """
        SELECT coalesce(string_agg(ROW(order_id, buyer, amount, note, made_on)::text, E'\\n' ORDER BY order_id), '')
          FROM shop.purchases
        """

    static func harness() throws -> MirrorHarness {
        let harness = try MirrorHarness(schema: Self.old)
        try harness.connectNew().execute("SET search_path = public; \(Self.new)")
        try harness.connectOld().execute(Self.fill)
        return harness
    }

    static func options(_ mappings: [TableMapping], rows: Int = 400) -> MirrorOptions {
        var options = MirrorOptions(pollMillis: 5, backfillRows: rows)
        options.mappings = TableMappings(mappings)
        return options
    }

    static func expectEqual(_ harness: MirrorHarness, _ when: Comment) throws {
        try harness.settle()
        let wanted = try harness.connectOld().query(Self.wanted)[0, 0]
        let found = try harness.connectNew().query(Self.found)[0, 0]
        #expect(wanted?.isEmpty == false && found == wanted, when)
    }

    @Test func `renamed, computed, cast, dropped and filtered rows follow through copy, changes and bulk`() throws {
        let harness = try Self.harness()
        let mappings = [Self.orders]
        try harness.prepare(TableMappings(mappings))
        let writer = try harness.writer()
        // While the copy is on its way.
        harness.start(Self.options(mappings, rows: 100))
        for id in stride(from: 1, to: 3000, by: 97) {
            try writer.execute("UPDATE orders SET cents = cents + 1, is_test = NOT is_test WHERE id = \(id)")
        }
        try harness.waitUntilReadable()
        try Self.expectEqual(harness, "after the copy")
        let origins = try harness.connectNew().query("SELECT DISTINCT origin FROM shop.purchases")
        #expect(origins.count == 1 && origins[0, 0] == "old")

        // Out of the filter, into it, inserted on either side of it, another key, gone.
        try writer.execute("""
            UPDATE orders SET is_test = true WHERE id = 1; UPDATE orders SET is_test = false WHERE id IN (5, 10);
            INSERT INTO orders VALUES (4001, 'a', 'b', NULL, NULL, '', true, now()), (4002, 'a', 'b', 7, '', '', false,
                '2026-06-01 01:00:00+02');
            UPDATE orders SET id = 5002 WHERE id = 2; DELETE FROM orders WHERE id = 3;
            UPDATE orders SET legacy = 'nobody sees it' WHERE id = 4; INSERT INTO plain VALUES (99, 'z')
            """)
        try Self.expectEqual(harness, "after single changes")
        #expect(try harness.connectNew().query("SELECT v FROM public.plain WHERE id = 99")[0, 0] == "z")

        // More keys than a small batch takes: by COPY.
        try writer.execute("UPDATE orders SET first = first || '!', is_test = id % 3 = 0 WHERE id > 100")
        try Self.expectEqual(harness, "after a bulk change")
        try writer.execute("""
            BEGIN; TRUNCATE orders; INSERT INTO orders VALUES (7, 'x', 'y', 1, 'z', '', false, now()); COMMIT
            """)
        try Self.expectEqual(harness, "after TRUNCATE")
    }

    @Test func `another mapping has the table copied anew, and nothing of the former one stays`() throws {
        let harness = try Self.harness()
        try harness.prepare(TableMappings([Self.orders]))
        harness.start(Self.options([Self.orders]))
        try harness.waitUntilReadable()
        harness.stop()
        var other = Self.orders
        other.columns["buyer"] = "last || ', ' || first"
        other.condition = "NOT is_test AND id % 2 = 0"
        harness.start(Self.options([other]))
        let wanted = Self.wanted.replacing("first || ' ' || last", with: "last || ', ' || first")
            .replacing("WHERE NOT is_test", with: "WHERE NOT is_test AND id % 2 = 0")
        let old = try harness.connectOld(), new = try harness.connectNew()
        try harness.wait(for: "the new shape") { report in
            try report.state == .mirroring && new.query(Self.found)[0, 0] == old.query(wanted)[0, 0]
        }
    }

    @Test func `a stranger's write on the mapped table is named and brought back`() throws {
        let harness = try Self.harness()
        try harness.prepare(TableMappings([Self.orders]))
        var options = Self.options([Self.orders])
        options.housekeepingSeconds = 0.05
        harness.start(options)
        try harness.waitUntilReadable()
        let new = try harness.connectNew()
        // Also the key of a row of OLD that the condition leaves out.
        try new.execute("""
            UPDATE shop.purchases SET buyer = 'a stranger' WHERE order_id = 11;
            DELETE FROM shop.purchases WHERE order_id = 12;
            INSERT INTO shop.purchases VALUES ('x', 1, 15, NULL, '2026-01-01')
            """)
        try harness.wait(for: "the strangers' keys") { $0.rogueKeys >= 3 }
        try Self.expectEqual(harness, "after the repair")
    }

    @Test func `partitions that come, go and are emptied are mapped too`() throws {
        let harness = try MirrorHarness(schema: "SELECT 1")
        try harness.connectOld().execute("""
            SET search_path = public;
            CREATE TABLE logs (at date, n int, body text, PRIMARY KEY (at, n)) PARTITION BY RANGE (at);
            CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
            CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
            INSERT INTO logs SELECT '2026-01-15'::date + g % 30, g, g FROM generate_series(1, 500) g
            """)
        try harness.connectNew().execute(
            "CREATE TABLE public.lines (day date, number int, length int NOT NULL, PRIMARY KEY (day, number))")
        let mapping = TableMapping("logs", "lines") {
            $0.columns = ["day": "at", "number": "n", "length": "length(body)"]
            $0.dropped = ["body"]
        }
        try harness.prepare(TableMappings([mapping]))
        harness.start(Self.options([mapping], rows: 90))
        try harness.waitUntilReadable()
        let writer = try harness.writer(), new = try harness.connectNew()
        func expectEqual(_ when: Comment) throws {
            try harness.settle()
            let wanted = try writer.query("SELECT count(*), sum(n), sum(length(body)) FROM logs")
            let found = try new.query("SELECT count(*), sum(number), sum(length) FROM public.lines")
            #expect((0..<3).map { wanted[0, $0] } == (0..<3).map { found[0, $0] }, when)
        }
        try expectEqual("after the copy")
        try writer.execute("TRUNCATE logs_1")
        try expectEqual("after a partition was emptied")
        try writer.execute("""
            CREATE TABLE logs_3 (LIKE logs); INSERT INTO logs_3 VALUES ('2026-03-05', 7, 'seven');
            ALTER TABLE logs ATTACH PARTITION logs_3 FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')
            """)
        try expectEqual("after a partition came")
        try writer.execute("ALTER TABLE logs DETACH PARTITION logs_2; UPDATE logs SET body = 'longer than before'")
        try expectEqual("after a partition went")
    }

    @Test func `text keys of several columns are mapped in their order`() throws {
        let harness = try MirrorHarness(schema: "SELECT 1")
        try harness.connectOld().execute("""
            SET search_path = public;
            CREATE TABLE words (lang varchar(5), word text, uses int, PRIMARY KEY (lang, word));
            INSERT INTO words SELECT 'l' || g % 4, 'W' || g, g FROM generate_series(1, 2500) g
            """)
        try harness.connectNew().execute(
            "CREATE TABLE public.terms (term text, uses bigint, locale text, PRIMARY KEY (locale, term))")
        let mapping = TableMapping("words", "terms") {
            $0.columns = ["locale": "lang", "term": "word", "uses": "uses"]
        }
        try harness.prepare(TableMappings([mapping]))
        harness.start(Self.options([mapping], rows: 300))
        try harness.waitUntilReadable()
        let writer = try harness.writer(), new = try harness.connectNew()
        try writer.execute("""
            UPDATE words SET word = lower(word) WHERE uses % 2 = 0; DELETE FROM words WHERE uses % 3 = 0;
            UPDATE words SET uses = -uses WHERE uses < 100
            """)
        try harness.settle()
        let wanted = try writer.query(
            "SELECT string_agg(concat_ws(',', lang, word, uses), ';' ORDER BY uses) FROM words")
        let found = try new.query(
            "SELECT string_agg(concat_ws(',', locale, term, uses), ';' ORDER BY uses) FROM public.terms")
        #expect(wanted[0, 0] == found[0, 0])
    }

    @Test func `the sequence of a renamed column is raised under its name on NEW`() throws {
        let harness = try MirrorHarness(schema: "SELECT 1")
        try harness.connectOld().execute("CREATE TABLE public.a (id bigserial PRIMARY KEY, v text)")
        try harness.connectNew().execute(
            "CREATE TABLE public.b (number bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text)")
        let mapping = TableMapping("a", "b") { $0.columns = ["number": "id"] }
        try harness.prepare(TableMappings([mapping]))
        var options = Self.options([mapping])
        options.housekeepingSeconds = 0.05
        harness.start(options)
        try harness.waitUntilReadable()
        try harness.writer().execute("INSERT INTO a (v) SELECT 'x' FROM generate_series(1, 500)")
        let new = try harness.connectNew()
        try harness.wait(for: "the sequence") { _ in
            try new.query("SELECT last_value FROM pg_sequences WHERE sequencename = 'b_number_seq'").integer(0, 0) ?? 0
                > 500
        }
    }

    // MARK: what check says

    struct Defect: Sendable, CustomTestStringConvertible {
        var name: String
        var change: @Sendable (inout TableMapping) -> Void
        var words: [String]
        var testDescription: String { name }

        init(_ name: String, _ words: [String], _ change: @escaping @Sendable (inout TableMapping) -> Void) {
            self.name = name
            self.words = words
            self.change = change
        }
    }

    static let defects = [
        Defect("no such table", ["public.nowhere", "does not exist"]) { $0.old.name = "nowhere" },
        Defect("no such target", ["NEW shop.nothing", "does not exist"]) { $0.new.name = "nothing" },
        Defect("a column that does not parse", ["columns.buyer", "syntax error"]) { $0.columns["buyer"] = "first ||" },
        Defect("a column that is not there", ["columns.buyer", "frist"]) { $0.columns["buyer"] = "frist || last" },
        Defect("the clock", ["columns.made_on", "now()"]) { $0.columns["made_on"] = "now()::date" },
        Defect("the user", ["columns.buyer", "the present time or user"]) {
            $0.columns["buyer"] = "first || current_user"
        },
        Defect("chance", ["columns.amount", "random()"]) { $0.columns["amount"] = "cents * random()" },
        Defect("another table", ["columns.buyer", "subquery"]) {
            $0.columns["buyer"] = "(SELECT v FROM public.plain LIMIT 1)"
        },
        Defect("a function that may read tables", ["public.stable_one"]) {
            $0.columns["buyer"] = "public.stable_one(first)"
        },
        Defect("a type that cannot be", ["columns.made_on", "cannot cast"]) { $0.columns["made_on"] = "cents" },
        Defect("a value that cannot be", ["columns.amount", "invalid input"]) { $0.columns["amount"] = "note" },
        Defect("a NULL", ["columns.buyer", "is NULL"]) { $0.columns["buyer"] = "nullif(last, 'l1')" },
        Defect("no source", ["shop.purchases.buyer", "NOT NULL without default"]) { $0.columns["buyer"] = nil },
        Defect("a computed key", ["public.orders.id", "one to one"]) { $0.columns["order_id"] = "id + 1" },
        Defect("a column without a place", ["lacks the column legacy"]) { $0.dropped.remove("legacy") },
        Defect("a column that lost its place", ["public.orders.note", "goes nowhere"]) {
            $0.columns["note"] = "legacy"
        },
        Defect("a dropped name", ["public.orders.lagacy", "drop"]) { $0.dropped.insert("lagacy") },
        Defect("a condition that is none", ["`where`", "boolean"]) { $0.condition = "id" },
        Defect("a condition with a clock", ["`where`", "now()"]) { $0.condition = "made < now()" },
        Defect("a table that another has", ["both public.orders and public.plain"]) {
            $0.new = TableName(schema: "public", name: "plain")
        },
    ]

    @Test(arguments: defects) func `check names what is wrong with a mapping, before anything is touched`(
        defect: Defect
    ) throws {
        let harness = try Self.harness()
        let old = try harness.connectOld(), new = try harness.connectNew()
        try old.execute("""
            CREATE FUNCTION public.stable_one(text) RETURNS text STABLE LANGUAGE sql
                AS 'SELECT $1 || count(*) FROM public.plain'
            """)
        var mapping = Self.orders
        #expect(try Preflight.check(old: old, new: new, mappings: TableMappings([mapping])).blocking == [])
        defect.change(&mapping)
        let result = try Preflight.check(old: old, new: new, mappings: TableMappings([mapping]))
        let found = result.blocking.map(\.description)
        #expect(found.contains { line in defect.words.allSatisfy { line.contains($0) } }, "\(found)")
        #expect(try old.query("SELECT count(*) FROM pg_class WHERE relname = 'orders'").integer(0, 0) == 1)
    }

    @Test func `check tells which mapping has no way back, and why`() throws {
        let harness = try Self.harness()
        let old = try harness.connectOld(), new = try harness.connectNew()
        func notes(_ mapping: TableMapping) throws -> [String] {
            let result = try Preflight.check(old: old, new: new, mappings: TableMappings([mapping]))
            #expect(result.blocking == [])
            return result.findings.map(\.description).filter { $0.contains("mirrored back") }
        }
        let first = try notes(Self.orders)
        #expect(first.count == 1 && first[0].contains("where") && first[0].contains("legacy"), "\(first)")
        var mapping = Self.orders
        mapping.condition = ""
        mapping.back = [
            "id": "order_id", "first": "split_part(buyer, ' ', 1)", "last": "split_part(buyer, ' ', 2)",
            "cents": "amount * 100", "note": "lower(note)", "legacy": "'x'", "is_test": "false", "made": "made_on",
        ]
        #expect(try notes(mapping) == [])
        mapping.back["cents"] = "amuont * 100"
        let result = try Preflight.check(old: old, new: new, mappings: TableMappings([mapping]))
        let words = result.blocking.map(\.description)
        #expect(words.contains { $0.contains("`back.cents`") && $0.contains("NEW shop.purchases") }, "\(words)")
    }
}
