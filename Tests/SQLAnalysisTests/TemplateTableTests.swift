import Primitives
import Testing

@testable import SQLAnalysis

@Suite struct TemplateTableTests {
    private static let plan = KeyPlan([.comment("user_id"), .column("user_id")])

    private func cache() -> AnalysisCache {
        var limits = AnalysisLimits()
        (limits.textEntriesMax, limits.shapeEntriesMax) = (64, 64)
        return AnalysisCache(facts: .builtIn, keyPlan: Self.plan, limits: limits, seed: 7)
    }

    /// What one analysis says, in words that two caches can be compared by.
    private func words(_ cache: AnalysisCache, _ text: String) -> String {
        let bytes = Array(text.utf8)
        cache.beginTurn()
        return bytes.withUnsafeBytes { buffer in
            let analysis = cache.analyse(buffer)
            let key = analysis.key.map { "\($0.source) \($0.form) \($0.bytes(in: buffer) ?? [])" } ?? "none"
            return "\(analysis.kind) \(analysis.statement.shape?.value ?? 0) \(key)"
        }
    }

    @Test func `a text that differs in integers and strings only is found without cutting it into tokens`() {
        let cache = cache()
        for number in 0..<20 {
            _ = words(cache, "SELECT a FROM t WHERE user_id = \(number) AND b = 'x\(number)' AND c = -\(number)")
        }
        #expect(cache.counters.parses == 1)
        #expect(cache.counters.templateHits == 18)
    }

    @Test func `the text before is no other's template, and is forgotten with the rest`() {
        let cache = cache()
        let texts = ["SELECT a FROM t WHERE b = 1", "SELECT c FROM t WHERE b = 1", "DELETE FROM t WHERE b = 1"]
        let alone = texts.map { words(self.cache(), $0) }
        for turn in 0..<30 {
            let place = turn % 7 % texts.count
            #expect(words(cache, texts[place].replacing("1", with: "\(turn)")) == alone[place])
            if turn == 20 { cache.replace(facts: .builtIn) }
        }
        #expect(cache.counters.parses == 6)
    }

    @Test func `the key of a template's text is its own`() {
        let cache = cache()
        for number in [1, 22, 333, 4444] {
            let said = words(cache, "SELECT a FROM t WHERE user_id = \(number)")
            #expect(said.hasSuffix("\(Array("\(number)".utf8))"), "\(said)")
        }
    }

    @Test(arguments: [
        "1", "-1", "1.5", "1234567890", "1e5", "1 ", "1;", "1a", "'a'", "'a''b'", "'a", "'a' 'b'",
        "'a'\n'b'", "E'a'", "e'\\''", "$1", "$a$1$a$", "1..2", "1.", ".5", "- 1", "- /* 1 */ 1",
        "1 /* user_id=3 */", "'", "''", "'''", "''''", "0x1", "1--1", "1 -1", "12 /* '",
    ])
    func `what a gap cannot take is told apart`(end: String) {
        let known = cache()
        let start = "SELECT a FROM t WHERE b = "
        for learned in ["7", "-7", "'x'", "7 ", "7;"] {
            for _ in 0..<3 { _ = words(known, start + learned) }
        }
        #expect(known.counters.templateHits >= 5)
        #expect(words(known, start + end) == words(cache(), start + end))
    }

    @Test(arguments: ["", "'", "1", "-", "-1", "'a", "SELECT", "/* user_id=3 */ SELECT a FROM t WHERE b = 7"])
    func `what is shorter than a template or begins with a gap is no trouble`(text: String) {
        let known = cache()
        for _ in 0..<3 { _ = words(known, "SELECT a FROM t WHERE b = 7") }
        for _ in 0..<3 { #expect(words(known, text) == words(cache(), text)) }
    }

    @Test func `strings that are not UTF-8 are not text`() {
        let cache = cache()
        for number in 0..<3 { _ = words(cache, "SELECT a FROM t WHERE b = 'x\(number)'") }
        #expect(cache.counters.templateHits == 1)
        for bad in [[0xFF], [0xC3], [0x00]] as [[UInt8]] {
            let text = Array("SELECT a FROM t WHERE b = '".utf8) + bad + Array("'".utf8)
            #expect(text.withUnsafeBytes { cache.analyse($0).classification.reason } == .notText)
        }
    }

    @Test func `a cache that has learned templates says what one says that has not`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("templates: seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        let pieces = [
            "1", "23", "-4", "- 5", "1.5", "1234567890", "'x'", "''", "'it''s'", "'a' 'b'", "E'\\''", "$$q$$", "$1",
            "NULL", "a", "1e3", "'/* user_id=5 */'", "/* user_id=6 */ 7", "'ü'", "'\n'",
        ]
        let shapes = [
            "SELECT a FROM t WHERE user_id = ?", "SELECT a, ? FROM t WHERE b IN (?, ?)",
            "INSERT INTO t (user_id, b) VALUES (?, ?)", "/* user_id=? */ SELECT ?",
            "UPDATE t SET b = ? WHERE user_id = ? AND c = 'n'", "DELETE FROM t WHERE user_id = ?;",
            "SELECT nextval(?), ?",
            "SELECT a[?] FROM t WHERE b BETWEEN ? AND ?", "SELECT ?::int, ?", "SET x.y = ?",
        ]
        let learned = cache()
        for round in 0..<2000 {
            let shape = shapes[Int.random(in: 0..<shapes.count, using: &generator)]
            let parts = shape.split(separator: "?", omittingEmptySubsequences: false)
            let text = parts.dropFirst().reduce(String(parts[0])) { text, part in
                text + pieces[Int.random(in: 0..<pieces.count, using: &generator)] + part
            }
            #expect(words(learned, text) == words(cache(), text), "seed \(seed), round \(round): \(text)")
        }
        #expect(learned.counters.templateHits > 100, "seed \(seed)")
    }

    @Test func `sizes beyond the bounds are looked up by their shape`() {
        let cache = cache()
        for (size, isTemplate) in [(TemplateTable.textBytesMax, true), (TemplateTable.textBytesMax + 1, false)] {
            let before = cache.counters.templateHits
            for digit in 1...4 {
                let head = "SELECT a FROM t WHERE b = \(digit) AND "
                _ = words(cache, head + String(repeating: "c", count: size - head.utf8.count))
            }
            #expect((cache.counters.templateHits > before) == isTemplate, "\(cache.counters)")
        }
        for (count, isTemplate) in [(TemplateTable.gapsMax, true), (TemplateTable.gapsMax + 1, false)] {
            let before = cache.counters.templateHits
            for digit in 1...4 {
                _ = words(cache, "SELECT a FROM t WHERE b = " + Array(repeating: "\(digit)", count: count).joined(separator: " + "))
            }
            #expect((cache.counters.templateHits > before) == isTemplate, "\(cache.counters)")
        }
    }
}
