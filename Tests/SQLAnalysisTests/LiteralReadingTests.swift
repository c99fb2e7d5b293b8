import Testing

@testable import SQLAnalysis

@Suite struct LiteralReadingTests {
    @Test(arguments: [
        ("SELECT a FROM t WHERE b = $1 AND c > 5", LiteralReading.anyhow), ("SELECT now(), B'1'", .anyhow),
        ("SELECT * FROM t WHERE at > '2020-01-01'", .bySession), ("SELECT $$a$$", .bySession),
        ("SELECT 'known'", .bySession),
        ("SELECT é FROM t", .bySession), ("SELECT 1 -- 'today'", .anyhow),
        ("SELECT * FROM t WHERE day = 'Today'", .once), ("SELECT E' now '::timestamptz", .once),
        ("SELECT $$yesterday 12:00$$::timestamp, 'a'", .once), ("SELECT 'it\\'s'", .once),
    ])
    func `what literals mean hangs on the session where they have quotes, and on the moment where they name it`(
        text: String, reading: LiteralReading
    ) {
        #expect(Array(text.utf8).withUnsafeBytes { LiteralReading(of: $0) } == reading)
    }
}
