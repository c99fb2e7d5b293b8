import Testing

@testable import SQLAnalysis

@Suite struct ComparisonTraitsTests {
    private func traits(_ text: String) -> ComparisonTraits? { ComparisonTraits(Array(text.utf8)) }

    @Test(arguments: [
        ("SELECT a FROM t", []), ("SELECT a FROM t ORDER BY a", [.name("a")]),
        ("SELECT a, b FROM t ORDER BY 2 DESC, 1", [.position(1), .position(0)]),
        ("SELECT a, b FROM t ORDER BY b, c, a", [.name("b")]),
        ("SELECT x.a FROM t x ORDER BY x.a", [.name("a")]), ("SELECT x.a AS b FROM t x ORDER BY x.a", []),
        ("SELECT * FROM t ORDER BY b", [.name("b")]), ("SELECT t.* FROM t ORDER BY t.b", [.name("b")]),
        // The column of the table, and not what is called so in the result.
        ("SELECT *, lower(b) AS b FROM t ORDER BY t.b", []), ("SELECT lower(b) AS b FROM t ORDER BY b", [.name("b")]),
        ("SELECT a FROM t ORDER BY lower(a)", []), ("SELECT a FROM t UNION SELECT b FROM u ORDER BY a", [.name("a")]),
        ("VALUES (1), (2) ORDER BY 1", [.position(0)]), ("TABLE t ORDER BY c", [.name("c")]),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a) s", []),
    ] as [(String, [ComparisonTraits.SortKey])])
    func `sort keys are those that the result shows`(text: String, keys: [ComparisonTraits.SortKey]) {
        #expect(traits(text)?.sortKeys == keys)
    }

    @Test(arguments: [
        ("SELECT a FROM t LIMIT 3", true, false), ("SELECT a FROM t OFFSET 3", true, false),
        ("SELECT a FROM t FETCH FIRST ROW ONLY", true, false),
        ("SELECT a FROM (SELECT a FROM t LIMIT 3) s", false, true),
        ("SELECT DISTINCT ON (a) a, b FROM t", false, true), ("SELECT DISTINCT a FROM t", false, false),
        ("SELECT array_agg(a) FROM t", false, true), ("SELECT array_agg(a ORDER BY a) FROM t", false, false),
        ("SELECT ARRAY(SELECT a FROM u) FROM t", false, true),
        ("SELECT ARRAY(SELECT a FROM u ORDER BY a) FROM t", false, false),
        ("SELECT a FROM t WHERE a IN (SELECT a FROM u)", false, false),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", false, true),
        ("SELECT rank() OVER (ORDER BY a) FROM t", false, false),
        ("SELECT a FROM t TABLESAMPLE system (10)", false, true), ("SELECT count(*), max(a) FROM t", false, false),
    ] as [(String, Bool, Bool)])
    func `what SQL leaves open is known`(text: String, isLimited: Bool, leavesChoice: Bool) throws {
        let found = try #require(traits(text))
        #expect(found.isLimited == isLimited && found.leavesChoice == leavesChoice)
    }

    @Test func `time, chance, sums and sleep are known`() {
        for text in [
            "SELECT now()", "SELECT current_date", "SELECT random()", "SELECT age(a) FROM t", "SELECT pg_catalog.now()",
            "SELECT a FROM t WHERE a > localtimestamp - interval '1 day'",
        ] {
            #expect(traits(text)?.isVolatile == true, "\(text)")
        }
        for text in ["SELECT age(a, b) FROM t", "SELECT current_user", "SELECT date '2020-01-01'"] {
            #expect(traits(text)?.isVolatile == false, "\(text)")
        }
        #expect(traits("SELECT sum(a) FROM t")?.aggregates == true && traits("SELECT a FROM t")?.aggregates == false)
        #expect(traits("SELECT pg_sleep(1)")?.sleeps == true)
    }

    @Test func `nothing but one SELECT is compared`() {
        for text in ["EXPLAIN SELECT 1", "COPY (SELECT 1) TO STDOUT", "SELECT 1; SELECT 2", "", "SELEC", "UPDATE t SET a = 1"] {
            #expect(traits(text) == nil, "\(text)")
        }
    }
}
