import LibPQ
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct RogueWatchTests {
    @Test func `what a stranger commits while an earlier one's rows are mended is not forgotten, nor what a rename follows`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY, v int)")
        try harness.prepare()
        let one = try harness.connectNew(), two = try harness.connectNew()
        try one.execute("BEGIN; INSERT INTO public.t VALUES (1, 1)")
        try two.execute("INSERT INTO public.t VALUES (2, 2), (3, 3)")
        func collect() throws -> RogueWatch.Found? { RogueWatch.collect(try two.query(RogueWatch.keysQuery)) }
        let found = try #require(try collect())
        #expect(found.keys.values.map { $0 } == [[["2"], ["3"]]])
        try one.execute("COMMIT")
        try two.execute(RogueWatch.forget(found))
        #expect(try collect()?.keys.values.map { $0 } == [[["1"]]])
        try two.execute("""
            INSERT INTO public.t VALUES (4, 4); ALTER TABLE public.t RENAME TO u;
            INSERT INTO public.u VALUES (5, 5); TRUNCATE public.u
            """)
        let renamed = try #require(try collect())
        #expect(renamed.keys.mapValues { $0.sorted { $0[0] < $1[0] } }
            == [TableName(schema: "public", name: "u"): [["1"], ["4"], ["5"]]])
        #expect(renamed.truncated.map(\.name) == ["u"])
        try two.execute(RogueWatch.forget(renamed))
        #expect(try two.query("SELECT count(*) FROM godwit.rogue").integer(0, 0) == 0)
    }

    @Test func `what an earlier version has prepared is read by its names until prepare is run again`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE t (id int PRIMARY KEY, v int)")
        try harness.prepare()
        let new = try harness.connectNew()
        try new.execute("""
            ALTER TABLE godwit.rogue DROP COLUMN relation;
            INSERT INTO godwit.rogue (schema_name, table_name, key) VALUES ('public', 't', '{7}')
            """)
        let found = RogueWatch.collect(try new.query(RogueWatch.keysQuery))
        #expect(found?.keys == [TableName(schema: "public", name: "t"): [["7"]]])
    }
}
