import Foundation
import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

/// Every kind of value arrives as it was.
@Suite(.serialized) struct MirrorValueTests {
    static let types = """
        CREATE TYPE mood AS ENUM ('sad', 'o''k\\', 'happy'); CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
        CREATE TYPE spot AS (x int, y float8, note text); CREATE DOMAIN moods AS mood[]; CREATE TYPE span AS RANGE (subtype = float8);
        """

    /// Both small and large batches, and the backfill: the same values by each way.
    static func carry(_ harness: MirrorHarness, _ table: String, rows: Int = 3000) throws {
        let old = try harness.writer()
        try harness.settle()
        #expect(try harness.differences() == [], "after the backfill")
        try old.execute("DELETE FROM \(table) WHERE id % 3 = 0; UPDATE \(table) SET id = -id WHERE id % 3 = 1 AND id < 40")
        try MirrorRegressionTests.expectEqual(harness, "small")
        try old.execute("INSERT INTO \(table) SELECT (s).* FROM (SELECT \(table) s FROM \(table)) t ON CONFLICT DO NOTHING")
        try old.execute("UPDATE \(table) SET id = id + 100000")
        try MirrorRegressionTests.expectEqual(harness, "large")
    }

    @Test func `types of all kinds with their extremes`() throws {
        let harness = try MirrorHarness(schema: Self.types + """
            CREATE TABLE v (id int PRIMARY KEY, m mood, p positive, s spot, ms moods, sp span, f4 real, f8 float8, n numeric,
                n2 numeric(1000, 500), t timestamptz, tn timestamp, d date, ti time, tz timetz, i interval, b bytea, j jsonb,
                js json, a int[][], ta text[], r tstzrange, mr int4multirange, u uuid, ip inet, ci cidr, ma macaddr,
                bi bit(5), vb varbit, c char(5), vc varchar(5), na name, mo money, ts tsvector, po point, pa path,
                ls pg_lsn, bo boolean, oi oid, rc regclass, sa spot[]);
            """)
        try harness.writer().execute("""
            INSERT INTO v (id, m, p, s, ms, sp, f4, f8, n, n2) VALUES
              (1, 'o''k\\', 1e-30, ROW(1, 'NaN', E'a"b\\\\,()'), ARRAY['sad', NULL]::mood[], '[1e-300,1e300)', 'NaN', 'NaN', 'NaN', 1e-499),
              (2, 'sad', 9e400, ROW(NULL, '-Infinity', NULL), '{}', 'empty', 'Infinity', '-Infinity', '-Infinity', -1e499),
              (3, NULL, NULL, NULL, NULL, NULL, 1.17549435e-38, 4.9e-324, 1e-16383, 0), (4, 'happy', 1.0000, ROW(1, 2, ''), NULL, '(,)', '-0', '-0',
               1e131071, 0.1), (5, NULL, 1, NULL, NULL, NULL, 0.1, 0.1, 123.4500000, 1), (6, NULL, 1, NULL, NULL, NULL, 3.4e38, 1.7976931348623157e308, 'Infinity', 7);
            INSERT INTO v (id, t, tn, d, ti, tz, i, r) VALUES
              (10, 'infinity', '-infinity', 'infinity', '24:00', '23:59:59.999999-15:59:59', '-178000000 years', '[,infinity]'),
              (11, '294276-12-31 23:59:59.999999+00', '294276-12-31 23:59:59.999999', '5874897-12-31', '00:00', '00:00+15:59:59',
               '178000000 years 3 mons -4 days 05:06:07.000001', '(2020-01-01,2020-01-02]'),
              (12, '4714-11-24 00:00:00+00 BC', '4714-11-24 00:00:00 BC', '4714-11-24 BC', '12:34:56.789', NULL, '-1 day +01:00', 'empty'),
              (13, '0001-01-01 BC', '0001-01-01', '0001-01-01', NULL, NULL, '0', NULL);
            INSERT INTO v (id, b, j, js, a, ta, mr, u, ip, ci, ma) VALUES
              (20, '\\x00ff5c27', '{"a": [1.0, "\\\\u00e9", null], "": "\\""}', '{"b":1, "a" : 1.00,"a":2}', '{{1,2},{3,NULL}}',
               ARRAY['a"b', E'\\\\', NULL, 'NULL', '', '{}', ' '], '{[1,3),[7,9)}', md5('x')::uuid, '10.0.0.1', '10.1.0.0/16', '08:00:2b:01:02:03'),
              (21, '', 'null', 'null', '[2:3][0:1]={{1,2},{3,4}}', '{}', '{}', NULL, '::1/64', '::/0', NULL), (22, NULL, '1e1000', '1e5', NULL, NULL, NULL, NULL, '1.2.3.4/8', NULL, NULL);
            INSERT INTO v (id, bi, vb, c, vc, na, mo, ts, po, pa, ls, bo, oi, rc, sa) VALUES
              (30, '10101', '1', 'a  ', 'b  ', 'nä"me', -92233720368547758.08, '''it'':1A b:2', '(1e-300,NaN)', '[(1,2),(3,4)]',
               'FF/0', true, 4294967295, 'v', ARRAY[ROW(1, 2, 'q"'), NULL]::spot[]),
              (31, '00000', '', '', '', '', 0, '', '(-0,0)', '((0,0))', '0/0', false, 0, 'pg_class', '{}');
            INSERT INTO v (id, f8, n, tn) SELECT g, (g * 7919 % 10007) / 9973.0, (g * 7919 % 10007)::numeric / 9973,
                '2000-01-01'::timestamp + g * interval '1.000001 hours' FROM generate_series(100, 2500) g;
            """)
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 5))
        try harness.waitUntilReadable()
        try Self.carry(harness, "v")
    }

    @Test func `texts of every character, alone and in keys`() throws {
        let harness = try MirrorHarness.mirroring("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE k (v text, w text, PRIMARY KEY (v, w));", fill: """
            INSERT INTO t SELECT g, 'a' || chr(g) || 'b' FROM generate_series(1, 2000) g;
            INSERT INTO t SELECT g, chr(g) FROM unnest(ARRAY[x'2028'::int, x'feff'::int, x'fffd'::int, x'ffff'::int, x'1f600'::int,
                x'10ffff'::int, x'e000'::int]) g;
            INSERT INTO t VALUES (-1, E'\\\\.'), (-2, E'\\\\N'), (-3, ''), (-4, NULL), (-5, E'\\r\\n'), (-6, '$1 $$ ; -- /* %s'), (-7, 'e' || chr(769));
            INSERT INTO k SELECT v, coalesce(v, '') FROM t WHERE v IS NOT NULL ON CONFLICT DO NOTHING;
            """)
        let old = try harness.writer()
        try MirrorRegressionTests.expectEqual(harness, "backfill")
        try old.execute("UPDATE k SET w = v || w WHERE octet_length(v) <= 2")
        try old.execute("UPDATE t SET v = v || v WHERE id < 300")
        try MirrorRegressionTests.expectEqual(harness, "small")
        try old.execute("DELETE FROM k WHERE v LIKE '%a%'; UPDATE k SET w = w || '\\'; INSERT INTO k SELECT v, 'x' FROM t WHERE v IS NOT NULL ON CONFLICT DO NOTHING")
        try old.execute("UPDATE t SET id = id + 10000, v = v || E'\\t'")
        try MirrorRegressionTests.expectEqual(harness, "large")
    }

    @Test func `keys of composite, enum, array, range and domain types`() throws {
        let harness = try MirrorHarness.mirroring(Self.types + """
            CREATE TABLE k1 (s spot PRIMARY KEY, v int); CREATE TABLE k2 (m mood, r span, PRIMARY KEY (m, r));
            CREATE TABLE k3 (a text[] PRIMARY KEY, v int); CREATE TABLE k4 (d positive, b boolean, PRIMARY KEY (d, b));
            CREATE TABLE k5 (c char(4), n name, PRIMARY KEY (c, n)); CREATE TABLE k6 (i inet PRIMARY KEY, v int);
            CREATE TABLE k7 (j jsonb PRIMARY KEY, v int); CREATE TABLE k8 (m moods PRIMARY KEY, v int);
            """, fill: """
            INSERT INTO k1 SELECT ROW(g, g / 3.0, 'n"' || g)::spot, g FROM generate_series(1, 50) g;
            INSERT INTO k2 SELECT (enum_range(NULL::mood))[1 + g % 3], span(g / 3.0, g) FROM generate_series(1, 50) g;
            INSERT INTO k3 SELECT ARRAY['a' || g, NULL, 'q"'], g FROM generate_series(1, 50) g;
            INSERT INTO k4 SELECT g / 10.0, g % 2 = 0 FROM generate_series(1, 50) g;
            INSERT INTO k5 SELECT 'c' || g, 'n' || g FROM generate_series(1, 50) g;
            INSERT INTO k6 SELECT '10.0.0.0'::inet + g, g FROM generate_series(1, 50) g;
            INSERT INTO k7 SELECT jsonb_build_object('k', g), g FROM generate_series(1, 50) g;
            INSERT INTO k8 SELECT array_fill('sad'::mood, ARRAY[g]), g FROM generate_series(1, 50) g;
            """)
        let old = try harness.writer()
        try MirrorRegressionTests.expectEqual(harness, "backfill")
        try old.execute("""
            UPDATE k1 SET s.y = (s).y * 2 WHERE v % 2 = 0; DELETE FROM k1 WHERE v = 7; UPDATE k2 SET m = 'o''k\\' WHERE lower(r) > 12;
            UPDATE k3 SET a = a || ARRAY[E'\\\\,{}'] WHERE v < 9; UPDATE k4 SET d = d * 1.00 WHERE b; DELETE FROM k4 WHERE d > 4.5;
            UPDATE k5 SET c = 'x' || n::text WHERE length(n::text) = 2; UPDATE k6 SET i = set_masklen(i, 8) WHERE v % 2 = 0; DELETE FROM k6 WHERE v = 3;
            UPDATE k7 SET j = j || '{"x": null}' WHERE v % 3 = 0; DELETE FROM k8 WHERE v % 2 = 0; UPDATE k8 SET m = m || 'happy'::mood WHERE v < 20;
            """)
        try MirrorRegressionTests.expectEqual(harness, "small")
        try old.execute("""
            UPDATE k1 SET s.x = (s).x + 100; UPDATE k3 SET a = a || a; UPDATE k7 SET j = j || '{"y": "z"}'; UPDATE k2 SET r = span(lower(r), NULL);
            INSERT INTO k1 SELECT ROW(g, 'NaN', NULL)::spot, g FROM generate_series(1000, 2500) g; UPDATE k6 SET i = i + 100;
            UPDATE k4 SET d = d + 100; UPDATE k8 SET m = m || 'sad'::mood; DELETE FROM k5 WHERE n < 'n3';
            """)
        try MirrorRegressionTests.expectEqual(harness, "large")
    }

    @Test func `values of 100 MB travel by COPY, however few they are`() throws {
        let harness = try MirrorHarness.mirroring("CREATE TABLE big (id int PRIMARY KEY, t text, b bytea)", fill: """
            INSERT INTO big SELECT 1, repeat(md5('1'), 3200000), NULL
            """)
        let old = try harness.writer()
        func hashes(_ connection: borrowing Connection) throws -> [String?] {
            let rows = try connection.query("SELECT id, length(t), md5(t), octet_length(b), md5(b) FROM public.big ORDER BY id")
            return (0..<rows.count).flatMap { row in (0..<5).map { rows[row, $0] } }
        }
        for change in [
            "INSERT INTO big SELECT 2, repeat(E'\\\\''\\n', 25000000), NULL",
            "INSERT INTO big SELECT 3, NULL, decode(repeat(md5('2'), 6400000), 'hex')",
            "UPDATE big SET id = id + 10 WHERE id < 3; INSERT INTO big SELECT g, repeat('small', 400000), NULL FROM generate_series(100, 120) g",
            "DELETE FROM big WHERE id = 11",
        ] {
            try old.execute(change)
            try harness.settle()
            #expect(try hashes(old) == hashes(try harness.connectNew()), "\(change)")
        }
        #expect(harness.horizon.report.state == .mirroring)
    }

    /// PostgreSQL compares their bytes.
    @Test func `keys and tables that differ in nothing but their Unicode form are two`() throws {
        let one = #"U&'caf\00E9'"#, other = #"U&'cafe\0301'"#
        let tables = [#"U&"caf\00E9""#, #"U&"cafe\0301""#]
        let harness = try MirrorHarness.mirroring(
            "CREATE TABLE tags (name text PRIMARY KEY, n int);"
                + tables.map { "CREATE TABLE \($0) (id int PRIMARY KEY, v text);" }.joined(),
            fill: "INSERT INTO tags VALUES (\(one), 1), (\(other), 2);"
                + tables.map { "INSERT INTO \($0) VALUES (1, \(one));" }.joined())
        let old = try harness.writer(), new = try harness.connectNew()
        try old.execute("BEGIN; UPDATE tags SET n = 3 WHERE name = \(one); DELETE FROM tags WHERE name = \(other); COMMIT")
        try old.execute("UPDATE \(tables[0]) SET v = \(other); DELETE FROM \(tables[1])")
        try harness.settle()
        #expect(try new.query("SELECT count(*) FROM public.tags").integer(0, 0) == 1)
        #expect(try new.query("SELECT count(*) FROM public.\(tables[0]) WHERE v = \(other)").integer(0, 0) == 1)
        #expect(try new.query("SELECT count(*) FROM public.\(tables[1])").integer(0, 0) == 0)
        #expect(try harness.differences() == [])
    }
}
