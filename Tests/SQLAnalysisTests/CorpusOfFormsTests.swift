import Primitives
import Testing

@testable import SQLAnalysis

@Suite struct CorpusOfFormsTests {
    private func verdicts(_ texts: [String]) -> [(text: String, verdict: Classification)] {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([.comment("user_id"), .column("id")]), seed: 5)
        return texts.map { text in
            cache.beginTurn()
            return (text, cache.analyse(text).classification)
        }
    }

    private func expectNoReads(_ texts: [String]) {
        for (text, verdict) in verdicts(texts) {
            #expect(verdict.kind != .read && verdict.mayWrite, "\(text): \(verdict.reason.rawValue)")
        }
    }

    private func expectReads(_ texts: [String]) {
        for (text, verdict) in verdicts(texts) { #expect(verdict.kind == .read, "\(text): \(verdict.reason.rawValue)") }
    }

    @Test func `no command of the reference is taken for a read`() { expectNoReads(Corpus.commands) }

    @Test func `all commands of the reference are understood`() {
        let notUnderstood = verdicts(Corpus.commands).filter { $0.verdict.kind == .unknown }
        #expect(notUnderstood.isEmpty, "\(notUnderstood.map(\.text))")
    }

    @Test func `writes of mappers are writes`() { expectNoReads(Corpus.mappedWrites) }

    @Test func `reads of mappers are reads`() {
        // Placeholders of drivers that fill them in themselves are not PostgreSQL's.
        let sent = Corpus.mappedReads.map {
            $0.replacing("?1", with: "$1").replacing("%(pk_1)s", with: "5").replacing("@__id_0", with: "$1")
        }
        expectReads(sent)
    }

    @Test func `a call with effects is found wherever it stands`() { expectNoReads(Corpus.filled(Corpus.harmfulCalls)) }

    @Test func `a harmless call is harmless wherever it stands`() { expectReads(Corpus.filled(Corpus.harmlessCalls)) }

    @Test func `the corpus has more than a thousand statements`() {
        let all = Corpus.reads + Corpus.writes + Corpus.sideDependent + Corpus.unknown + Corpus.commands
            + Corpus.mappedReads + Corpus.mappedWrites + Corpus.filled(Corpus.harmfulCalls)
            + Corpus.filled(Corpus.harmlessCalls)
        #expect(Set(all).count >= 1000)
    }

    /// Each write in the corpus, hidden behind comments, blanks and a change of case, in one text with a read, and in EXPLAIN.
    @Test func `no disguise makes a write a read`() {
        let writes = Corpus.writes + Corpus.commands + Corpus.mappedWrites
        expectNoReads(writes.map { "/* select 1 */ \t\n" + $0 + " -- select 1" })
        expectNoReads(writes.map { "select 1; " + $0 })
        expectNoReads(writes.map { $0 + "; select 1" })
        for (text, verdict) in verdicts(writes.map { "explain " + $0 }) { #expect(verdict.kind != .read || text.contains("explain explain"), "\(text)") }
        for (text, verdict) in verdicts(writes.map { "explain analyze " + $0 }) {
            #expect(verdict.kind != .read, "\(text)")
        }
    }

    @Test func `a shape's verdict and identity do not depend on the literals`() {
        let seed: UInt64 = 99
        var generator = SeededGenerator(seed: seed)
        let literals = ["0", "7", "-3", "12345678", "99"]
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 3)
        for text in Corpus.reads + Corpus.writes + Corpus.mappedReads {
            let kinds = (0..<5).map { _ -> (StatementKind, ShapeID?) in
                cache.beginTurn()
                let other = text.replacing(/= \d+\b/) { _ in
                    "= " + literals[Int.random(in: 0..<literals.count, using: &generator)]
                }
                let found = cache.analyse(other).statement
                return (found.kind, found.shape)
            }
            #expect(kinds.allSatisfy { $0 == kinds[0] }, "seed \(seed): \(text)")
        }
    }

    /// The catalog may say worse things of the world than the lists do.
    @Test func `an implicit cast by a volatile function leaves no read`() {
        let facts = CatalogFacts(rows: [.init(kind: "implicit", schema: "", name: "", detail: "v")])
        for text in ["select 1", "values (1)", "table t", "copy (select 1) to stdout"] {
            #expect(analysed(text, facts: facts).kind == .write)
        }
        let types = CatalogFacts(rows: [.init(kind: "type", schema: "pg_catalog", name: "text", detail: "v")])
        #expect(analysed("select a::text from t", facts: types).kind == .write)
        #expect(analysed("select a from t", facts: types).kind == .read)
    }
}
