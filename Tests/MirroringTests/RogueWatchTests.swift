import LibPQ
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct RogueWatchTests {
    @Test func `what a stranger commits while an earlier one's rows are mended is not forgotten`() throws {
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
        let left = try #require(try collect())
        #expect(left.keys.values.map { $0 } == [[["1"]]])
        try two.execute(RogueWatch.forget(left))
        #expect(try two.query("SELECT count(*) FROM godwit.rogue").integer(0, 0) == 0)
    }
}
