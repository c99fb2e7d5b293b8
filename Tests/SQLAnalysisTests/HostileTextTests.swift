import Primitives
import Testing

@testable import SQLAnalysis

@Suite struct HostileTextTests {
    private func nested(_ open: String, _ inner: String, _ close: String, _ count: Int) -> String {
        String(repeating: open, count: count) + inner + String(repeating: close, count: count)
    }

    @Test func `deep nesting of every kind is unknown, not a crash`() {
        let texts = [
            "select " + nested("(", "1", ")", 10_000),
            "select " + nested("[", "1", "]", 10_000),
            "select " + String(repeating: "- ", count: 10_000) + "1",
            "select " + String(repeating: "not ", count: 10_000) + "true",
            "select 1" + String(repeating: " + 1", count: 10_000),
            "select a" + String(repeating: "::int", count: 8000),
            "select a" + String(repeating: " is null", count: 5000),
            "select a" + String(repeating: " collate \"C\"", count: 3000),
            "select a" + String(repeating: " at time zone b", count: 3000),
            "select a" + String(repeating: " operator(pg_catalog.+) 1", count: 2000),
            "select 1" + String(repeating: " union select 1", count: 3000),
            "select * from t" + String(repeating: " join t using (a)", count: 3000),
            "select " + nested("case when a then ", "1", " end", 2500),
            "select " + nested("case a when 1 then 2 else ", "1", " end", 1500),
            "select " + nested("(select ", "1", ")", 5000),
            "select " + nested("f(", "1", ")", 10_000),
            "select " + nested("array[", "1", "]", 5000),
            nested("(", "select 1", ")", 10_000),
            nested("with x as (", "select 1", ") select 1", 2000),
            // Words that end nothing, for they are names there.
            "select 1" + String(repeating: "+a.or", count: 13_000),
            "select 1" + String(repeating: " + a /* . */ . -- as\n and", count: 2000),
            "select 1" + String(repeating: "+a.when+a.then+a.else", count: 3000),
            "select " + nested("(select 1 as end, ", "1", ")", 1500),
            "select " + nested("(select 1 end, ", "1", ")", 1500),
            "select " + nested("case a.end when ", "1", " then 1 end", 1500),
            "select a" + String(repeating: " is null between 1 and 2", count: 2500),
            nested("create function f() returns int begin atomic ", "select 1;", " end;", 1000),
            // Hidden from who takes the second line's backslash for a byte as any other.
            "select e'a'\n'\\',', " + nested("(", "1", ")", 10_000) + " --'",
        ]
        for text in texts {
            let verdict = analysed(text).classification
            #expect(verdict.kind == .unknown, "\(text.prefix(40))")
            #expect(verdict.reason == .tooDeep || verdict.reason == .tooLong, "\(text.prefix(40))")
        }
    }

    @Test func `nesting below the bound is analysed`() {
        #expect(analysed("select " + nested("(", "1", ")", 100)).kind == .read)
        #expect(analysed("select 1" + String(repeating: " + 1", count: 180)).kind == .read)
        let wide = "select 1 where " + Array(repeating: "(a = 1 and b = 2)", count: 900).joined(separator: " or ")
        #expect(analysed(wide).kind == .read)
        let ranges = Array(repeating: "a between 1 and 2", count: 900).joined(separator: " and ")
        #expect(analysed("select 1 where \(ranges)").kind == .read)
        let cases = Array(repeating: "case when a.end then a.and else (select 1 as end) end", count: 300)
        #expect(analysed("select \(cases.joined(separator: ", "))").kind == .read)
        #expect(analysed("select nextval('s')" + String(repeating: " + 1", count: 180)).kind == .write)
    }

    @Test func `the bound is exact`() {
        let limits = AnalysisLimits()
        let most = nested("(", "1", ")", limits.depthMax - 1)
        #expect(analysed("select \(most)").kind == .read)
        #expect(analysed("select (\(most))").classification.reason == .tooDeep)
    }

    @Test func `a long text is looked up by shape and not parsed`() {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([.comment("user_id")]), seed: 1)
        let list = (1...20_000).map { "\($0)" }.joined(separator: ",")
        let long = "/* user_id=5 */ select * from t where a in (\(list))"
        #expect(cache.analyse(long).classification.reason == .tooLong)
        #expect(cache.analyse("select * from t where a in (1)").kind == .read)
        let again = cache.analyse(long)
        #expect(again.kind == .read)
        #expect(again.key == KeyReference(source: 0, form: .text(offset: 11, length: 1)))
    }

    @Test func `a megabyte is still looked at, a byte more is not`() {
        let limits = AnalysisLimits()
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), limits: limits, seed: 1)
        #expect(cache.analyse("select 'x'").kind == .read)
        let most = "select '" + String(repeating: "x", count: limits.textBytesMax - 9) + "'"
        #expect(cache.analyse(most).kind == .read)
        #expect(cache.analyse(most + " ").classification.reason == .tooLong)
    }

    @Test func `the key of a text too long to analyse is found all the same`() {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([.comment("user_id")]), seed: 1)
        let text = "/* user_id=42 */ insert into t values ('" + String(repeating: "x", count: 2 << 20) + "')"
        #expect(cache.analyse(text).key == KeyReference(source: 0, form: .text(offset: 11, length: 2)))
    }

    @Test(arguments: [
        [0x73, 0x65, 0x6C, 0xFF], [0x27, 0xC3, 0x27], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF5, 0x80, 0x80, 0x80],
        [0xE0, 0x80, 0x80], [0x73, 0x00], [0x00], [0xF0, 0x80, 0x80, 0x80], [0xF4, 0x90, 0x80, 0x80], [0x80],
    ] as [[UInt8]])
    func `what is no UTF-8 is unknown`(bytes: [UInt8]) {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 1)
        let verdict = bytes.withUnsafeBytes { cache.analyse($0) }.classification
        #expect(verdict.kind == .unknown)
    }

    @Test func `UTF-8 of all lengths is text`() {
        #expect(analysed("select 'ä€😀', \"ß\", ü from straße").kind == .read)
    }

    @Test func `random bytes and spliced statements never crash and never become reads by accident`() {
        let seed: UInt64 = 20_261_120
        var generator = SeededGenerator(seed: seed)
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([.comment("user_id"), .column("a")]), seed: seed)
        let pieces = Corpus.writes + Corpus.reads + Corpus.unknown
        for round in 0..<4000 {
            cache.beginTurn()
            var bytes: [UInt8]
            if round.isMultiple(of: 2) {
                bytes = (0..<Int.random(in: 0...200, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            } else {
                bytes = Array(pieces[Int.random(in: 0..<pieces.count, using: &generator)].utf8)
                for _ in 0..<3 where !bytes.isEmpty {
                    let place = Int.random(in: 0..<bytes.count, using: &generator)
                    bytes[place] = Array("'\"$/*-;()\\\u{01} e,a1".utf8)[Int.random(in: 0..<16, using: &generator)]
                }
            }
            let cold = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 3)
            let warm = bytes.withUnsafeBytes { cache.analyse($0) }.kind
            let fresh = bytes.withUnsafeBytes { cold.analyse($0) }.kind
            // A remembered shape may know a verdict where a fresh look sees none, never the other way about.
            #expect(warm == fresh, "seed \(seed), round \(round): \(String(decoding: bytes, as: UTF8.self))")
        }
    }
}
