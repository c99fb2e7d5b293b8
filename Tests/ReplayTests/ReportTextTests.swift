import Testing

@testable import Replay

@Suite struct ReportTextTests {
    private func report(
        _ kind: String, _ verdict: RunReport.Verdict, isChecked: Bool = false, isCompared: Bool = false
    ) -> RunReport {
        var side = RunReport.Side(name: "target")
        side.units = 10
        if isChecked { side.sameAsCaptured = 10 }
        side.findings = ["cannot connect: refused\n\tIs it there?"]
        return RunReport(
            kind: kind, title: "a run", startedAt: "", seconds: 1, captured: nil, sides: [side],
            comparison: isCompared ? RunReport.Comparison() : nil, notes: [], verdict: verdict)
    }

    @Test(arguments: [
        ("replay", RunReport.Verdict.equal, true, false, "as captured"),
        // A log has nothing to hold outcomes against.
        ("replay", .equal, false, false, "played"),
        ("replay", .equal, true, true, "equal"), ("compare", .equal, false, true, "equal"),
        ("compare", .different, false, true, "DIFFERENT"), ("compare", .unknown, false, true, "could not tell"),
        ("bench", .equal, false, false, "measured"), ("bench", .unknown, false, false, "incomplete"),
    ])
    func `a verdict says no more than is known`(
        kind: String, verdict: RunReport.Verdict, isChecked: Bool, isCompared: Bool, words: String
    ) {
        let text = ReportText.text(report(kind, verdict, isChecked: isChecked, isCompared: isCompared))
        #expect(text.hasPrefix("a run: 1.0 s, verdict: \(words)\n"), "\(text)")
        #expect(text.contains("as captured  other") == isChecked)
    }

    @Test func `rows that are others by their digests are told of, and are no difference`() {
        var report = report("replay", .equal, isChecked: true)
        report.sides[0].otherDigests = 1
        #expect(ReportText.text(report).hasPrefix("a run: 1.0 s, verdict: as captured but for rows\n"))
    }

    @Test func `what was not measured has no figure, and a finding has one line`() {
        let text = ReportText.text(report("bench", .unknown))
        #expect(!text.contains("0.000") && !text.contains("Most time"))
        #expect(text.contains("  ! target: cannot connect: refused Is it there?\n"))
    }

    @Test func `a number is told as somebody would type it`() {
        #expect([1, 0.5, 10_000, 2.25].map { ReportText.plain($0) } == ["1", "0.5", "10000", "2.25"])
    }

    @Test func `numbers stand to the right and statements to the left`() {
        #expect(ReportText.table([["", "count", "statement"], ["a", "1", "SELECT"], ["bcd", "200", "x"]]) == [
            "       count  statement", "  a        1  SELECT", "  bcd    200  x",
        ])
    }
}
