import Primitives
import Testing

@testable import SQLAnalysis

@Suite struct AnalysisCacheTests {
    @Test func `which setting is asked for counts, and no shape hides it`() {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 7)
        for name in ["app.user", "server_version_num", "app.tenant", "port"] {
            let kind: StatementKind = name.contains(".") ? .read : .sideDependent
            for _ in 0..<3 { #expect(cache.analyse("select current_setting('\(name)')").kind == kind, "\(name)") }
        }
    }

    private func cache(_ plan: KeyPlan = KeyPlan([]), _ limits: AnalysisLimits = AnalysisLimits()) -> AnalysisCache {
        AnalysisCache(facts: .builtIn, keyPlan: plan, limits: limits, seed: 99)
    }

    @Test func `a text is parsed once per shape and kept whole at its second sight`() {
        let cache = cache()
        for number in 0..<10 { #expect(cache.analyse("select \(number)").kind == .read) }
        #expect(cache.counters.parses == 1)
        #expect(cache.counters.shapeHits == 9)
        // Templates have no lists.
        for _ in 0..<4 { _ = cache.analyse("select a in (1, 2)") }
        #expect(cache.counters.textHits == 2)
    }

    @Test(arguments: [
        ("SELECT 1", true), ("INSERT INTO t VALUES (1)", true), ("SELECT 1; SELECT 2", false), ("", true),
        ("SET work_mem = 1", false), ("SELECT set_config('work_mem', $1, false)", false), ("BEGIN", false),
        ("COMMIT", false), ("SAVEPOINT a", false), ("PREPARE a AS SELECT 1", false), ("EXECUTE a", false),
        ("EXPLAIN EXECUTE a", false), ("CREATE TABLE t AS EXECUTE a", false), ("DEALLOCATE a", false),
        ("DEALLOCATE ALL", false), ("DISCARD ALL", false), ("LISTEN a", false), ("CREATE TEMPORARY TABLE t (a int)", false),
    ])
    func `only what leaves nothing and uses no name is without trace`(text: String, isWithoutTrace: Bool) {
        #expect(cache().analyse(text).statement.isWithoutTrace == isWithoutTrace)
    }

    @Test func `a bound value is its own text's setting's, not that of another text of the shape`() {
        let cache = cache()
        for (name, isLocal) in [("a.b", false), ("c.d", false), ("c.d", true), ("a.b", false)] {
            let found = cache.analyse("SELECT set_config('\(name)', $1, \(isLocal))")
            #expect(found.classification.boundSettings.map(\.name) == [name])
            #expect(found.classification.boundSettings.map(\.isLocal) == [isLocal])
        }
    }

    @Test func `literals never change the verdict`() {
        let seed: UInt64 = 4711
        var generator = SeededGenerator(seed: seed)
        let literals = ["0", "7", "-3", "'x'", "'it''s'", "''", "'; delete from t; --'", "'/*'", "$$'$$", "E'\\''", "1.5", "'\\'"]
        let shapes = [
            "select * from t where a = ?", "select * from t where a in (?, ?)", "delete from t where a = ?",
            "select nextval('s') from t where a = ?", "insert into t values (?, ?)", "select coalesce(?, b) from t",
        ]
        for shape in shapes {
            let cache = cache()
            var verdicts: Set<StatementKind> = []
            for _ in 0..<300 {
                let parts = shape.split(separator: "?", omittingEmptySubsequences: false)
                let text = parts.dropFirst().reduce(String(parts[0])) { text, part in
                    text + literals[Int.random(in: 0..<literals.count, using: &generator)] + part
                }
                cache.beginTurn()
                verdicts.insert(cache.analyse(text).kind)
            }
            #expect(verdicts.count == 1, "seed \(seed): \(shape)")
        }
    }

    @Test func `beyond the budget of a turn the verdict is unknown and not remembered`() {
        var limits = AnalysisLimits()
        limits.parsesPerTurnMax = 3
        let cache = cache(KeyPlan([]), limits)
        for column in ["a", "b", "c"] { #expect(cache.analyse("select \(column)").kind == .read) }
        #expect(cache.analyse("select d").classification.reason == .parseBudgetSpent)
        #expect(cache.analyse("select a").kind == .read)
        #expect(cache.analyse("alter table t add b int").classification.barrier == .fits)
        #expect(cache.counters.refusals == 1)
        cache.beginTurn()
        #expect(cache.analyse("select d").kind == .read)
    }

    @Test func `all caches of a reactor have their budget anew with its next turn`() {
        var limits = AnalysisLimits()
        limits.parsesPerTurnMax = 1
        let turns = AnalysisTurns()
        var caches: [AnalysisCache] = []
        for seed: UInt64 in [1, 2] {
            caches.append(AnalysisCache(
                facts: .builtIn, keyPlan: KeyPlan([]), limits: limits, seed: seed, turns: turns))
        }
        for cache in caches {
            #expect(cache.analyse("select a").kind == .read)
            #expect(cache.analyse("select b").classification.reason == .parseBudgetSpent)
        }
        turns.begin()
        for cache in caches { #expect(cache.analyse("select b").kind == .read) }
    }

    @Test func `a SET of ever new values never asks the grammar`() {
        let cache = cache()
        for user in 0..<1000 { #expect(cache.analyse("SET godwit.user = '\(user)'").kind == .set) }
        #expect(cache.counters.parses == 0)
    }

    @Test(arguments: [
        ("SET godwit.user = 'it''s'", StatementKind.set, "it's"), ("set godwit.user to 42;", .set, "42"),
        ("/* x */ SET LOCAL godwit.user = Bob", .set, "bob"), ("set godwit.user to default", .set, nil),
        ("reset godwit.user", .reset, nil), ("show godwit.user", .show, nil),
        ("set godwit.user = '4'; select 1", .unknown, nil), ("set godwit.user = E'\\x'", .unknown, nil),
    ] as [(String, StatementKind, String?)])
    func `a setting with a reserved word in its name is ours to read`(
        text: String, kind: StatementKind, value: String?
    ) {
        let verdict = analysed(text).classification
        #expect(verdict.kind == kind)
        if kind == .set { #expect(verdict.effects == [.sets(SettingChange(name: "godwit.user", value: value, isLocal: text.contains("LOCAL")))]) }
    }

    @Test func `a flood of shapes stays within entries and bytes`() {
        let table = TextTable<Int>(entriesMax: 64, bytesMax: 1000)
        for number in 0..<10_000 {
            let key = Array("key \(number)".utf8)
            key.withUnsafeBytes { table.insert($0, hash: TextHash.hash($0, seed: 1), number) }
            #expect(table.count <= 64 && table.bytesHeld <= 1000)
        }
        let whole = [UInt8](repeating: 1, count: 1000)
        whole.withUnsafeBytes { table.insert($0, hash: 5, -1) }
        #expect(table.bytesHeld == 1000 && table.count == 1)
        let more = [UInt8](repeating: 1, count: 1001)
        more.withUnsafeBytes { table.insert($0, hash: 6, -1) }
        #expect(more.withUnsafeBytes { table.find($0, hash: 6) } == nil)
    }

    @Test func `two texts with one hash are two texts`() {
        let table = TextTable<Int>(entriesMax: 64, bytesMax: 1000)
        let (left, right) = (Array("select a".utf8), Array("delete a".utf8))
        left.withUnsafeBytes { table.insert($0, hash: 1, 10) }
        #expect(right.withUnsafeBytes { table.find($0, hash: 1) } == nil)
        #expect(left.withUnsafeBytes { table.find($0, hash: 1) } == 10)
    }

    @Test func `new facts forget the old verdicts`() {
        let cache = cache()
        #expect(cache.analyse("select my_function()").kind == .write)
        let rows = [CatalogFacts.Row(kind: "function", schema: "public", name: "my_function", detail: "s")]
        cache.replace(facts: CatalogFacts(rows: rows))
        #expect(cache.analyse("select my_function()").kind == .read)
    }

    /// PostgreSQL reads on in an E-string on the next line: `\'` ends none of the two.
    @Test func `code behind an E-string that goes on is not taken for the string of another text`() {
        let cache = cache()
        #expect(cache.analyse("select 'a'\n'b', 'c'").kind == .read)
        #expect(cache.analyse("select e'a'\n'\\',', nextval($x$s$x$) --'").kind == .write)
        #expect(cache.analyse("select e'a'\n'\\','; delete from t --'").kind == .multiple)
    }

    @Test func `EXPLAIN and set_config are judged by their literals each time`() {
        let cache = cache()
        #expect(cache.analyse("explain (analyze 'off') delete from t").kind == .sideDependent)
        #expect(cache.analyse("explain (analyze 'on') delete from t").kind == .write)
        let one = cache.analyse("select set_config('a.b', '1', false)").classification.effects
        let two = cache.analyse("select set_config('a.b', '2', false)").classification.effects
        #expect(one != two)
    }
}

@Suite struct CatalogFactsTests {
    private let facts = CatalogFacts(rows: [
        .init(kind: "function", schema: "public", name: "f", detail: "s"),
        .init(kind: "function", schema: "other", name: "f", detail: "v"),
        .init(kind: "function", schema: "public", name: "g", detail: "i"),
        .init(kind: "function", schema: "public", name: "lower", detail: "v"),
        .init(kind: "function", schema: "pg_catalog", name: "new_in_19", detail: "i"),
        .init(kind: "function", schema: "pg_catalog", name: "pg_new_in_19", detail: "s"),
        .init(kind: "function", schema: "pg_catalog", name: "volatile_in_19", detail: "v"),
        .init(kind: "function", schema: "pg_catalog", name: "pg_advisory_lock", detail: "v"),
        .init(kind: "function", schema: "pg_catalog", name: "version", detail: "s"),
        .init(kind: "operator", schema: "public", name: "@@@", detail: "v"),
        .init(kind: "type", schema: "public", name: "odd", detail: "v"),
        .init(kind: "relation", schema: "public", name: "v", detail: "v"),
        .init(kind: "relation", schema: "public", name: "s", detail: "x"),
    ])

    @Test(arguments: ["select a from t", "table t", "values (1)", "copy t to stdout", "copy (select 1) to stdout"])
    func `nothing is a read where the catalog is still to come`(text: String) {
        #expect(analysed(text, facts: .builtIn).kind == .read)
        #expect(analysed(text, facts: .guarded).kind == .write)
    }

    @Test(arguments: [
        ("select f()", StatementKind.write), ("select public.f()", .read), ("select other.f()", .write),
        ("select g()", .read), ("select lower('a')", .write), ("select pg_catalog.lower('a')", .read),
        ("select new_in_19()", .read), ("select pg_new_in_19()", .sideDependent), ("select volatile_in_19()", .write),
        ("select a @@@ b", .write), ("select a operator(public.@@@) b", .write), ("select * from t order by a using @@@", .write),
        ("select a::odd", .write), ("select * from v", .write), ("select * from public.v", .write),
        ("select * from other.v", .read), ("select last_value from s", .sideDependent), ("select t.f from t", .write),
        ("select (t).f from t", .write), ("select t.g from t", .read), ("select unknown()", .write),
        ("select (t.n).pg_advisory_lock from t", .write), ("select x.pg_advisory_lock from g() x", .write),
        ("select (t.n).pg_new_in_19 from t", .sideDependent), ("select ($1).f.g", .write), ("select $1.volatile_in_19", .write),
        ("select (array[5])[1].pg_advisory_lock", .write), ("select t.version, t.lo_price, (t).lo_price from t", .read),
    ])
    func `the catalog decides what is ours to know`(text: String, kind: StatementKind) {
        #expect(analysed(text, facts: facts).kind == kind)
    }
}
