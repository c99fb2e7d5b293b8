import Testing

@testable import SQLAnalysis

@Suite struct TextCutTests {
    private func cut(_ text: String) -> TextCut? {
        var analyzer = StatementAnalyzer(facts: .builtIn, keyPlan: KeyPlan([]))
        return Array(text.utf8).withUnsafeBytes { analyzer.cut($0) }
    }

    @Test(arguments: [
        ("SELECT 1; COMMIT; SELECT 2", "SELECT 1; COMMIT", "                  SELECT 2"),
        ("SELECT 1;\nEND ;/* user=7 */DELETE FROM t", "SELECT 1;\nEND ", "         \n     /* user=7 */DELETE FROM t"),
        ("/* é; */ SELECT 'é'; ABORT; BEGIN", "/* é; */ SELECT 'é'; ABORT", "/* é; */                    BEGIN"),
        ("BEGIN; COMMIT AND CHAIN; COMMIT; x()", nil, nil),
        ("BEGIN; COMMIT AND CHAIN; COMMIT", "BEGIN; COMMIT AND CHAIN", "                         COMMIT"),
        ("SELECT 'COMMIT; x'; SELECT 1", nil, nil),
        ("SELECT 1; COMMIT", nil, nil),
        ("SELECT 1; ROLLBACK TO a; SELECT 2", nil, nil),
        ("PREPARE TRANSACTION 'a'; SELECT 1", "PREPARE TRANSACTION 'a'", "                         SELECT 1"),
        ("", nil, nil),
    ])
    func `a text is cut behind the first end of a transaction`(text: String, first: String?, rest: String?) {
        let cut = cut(text)
        #expect(cut.map { String(decoding: $0.first, as: UTF8.self) } == first)
        #expect(cut.map { String(decoding: $0.rest, as: UTF8.self) } == rest)
        if let rest { #expect(rest.count == text.count) }
    }

    @Test(arguments: [
        ("COMMIT; x", true), ("SELECT 1; END ; x", true), ("/* */ prepare; x", true), ("x; COMMIT", true),
        ("x; begin", true), ("ROLLBACK", false), ("COMMIT;;; -- x", false), ("SELECT commit; x", false),
        ("\"commit\"; x", false), ("", false),
    ])
    func `a text that is not parsed may move the borders of transactions`(text: String, mayMove: Bool) {
        #expect(Array(text.utf8).withUnsafeBytes { LexicalScan.mayMoveBorders($0) } == mayMove)
    }
}
