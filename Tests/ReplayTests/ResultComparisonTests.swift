import Capture
import Foundation
import PGWire
import Testing

@testable import Replay

@Suite struct ResultComparisonTests {
    private func outcome(
        _ rows: [[String?]], types: [UInt32] = [], contentBytesMax: Int = 1 << 20
    ) -> StatementOutcome {
        var writer = MessageWriter()
        if !types.isEmpty {
            writer.message(BackendTag.rowDescription) { body in
                body.int16(Int16(types.count))
                for type in types {
                    body.cString("c")
                    body.int32(0)
                    body.int16(0)
                    body.int32(Int32(type))
                    body.int16(0)
                    body.int32(-1)
                    body.int16(0)
                }
            }
        }
        for row in rows {
            writer.message(BackendTag.dataRow) { body in
                body.int16(Int16(row.count))
                for value in row {
                    body.int32(value.map { Int32($0.utf8.count) } ?? -1)
                    body.raw((value ?? "").utf8)
                }
            }
        }
        writer.commandComplete("SELECT \(rows.count)")
        var reader = ResultReader(contentBytesMax: contentBytesMax, withDigest: true)
        var found: StatementOutcome?
        for byte in writer.bytes {
            [byte].withUnsafeBytes { reader.take($0) { if case .outcome(let outcome) = $0 { found = outcome } } }
        }
        return found ?? StatementOutcome(.empty)
    }

    private func difference(
        _ first: StatementOutcome, _ second: StatementOutcome, hasOrder: Bool = false, tolerance: Double = 0
    ) -> ResultComparison.Difference? {
        var rules = ComparisonRules()
        rules.floatTolerance = tolerance
        return ResultComparison.difference(first, second, hasOrder: hasOrder, rules)
    }

    @Test func `rows are a multiset unless their order is asked for`() {
        let forth = outcome([["1", nil], ["2", "b"], ["2", "b"]]), back = outcome([["2", "b"], ["2", "b"], ["1", nil]])
        #expect(difference(forth, back) == nil)
        #expect(difference(forth, back, hasOrder: true) == .order)
        #expect(difference(forth, outcome([["1", nil], ["1", nil], ["2", "b"]]))
            == .rows(onlyFirst: ["(2, b)"], onlySecond: ["(1, NULL)"]))
        #expect(difference(forth, outcome([["1", nil]])) == .end("SELECT 3", "SELECT 1"))
        #expect(difference(StatementOutcome(state: "22012", message: "x"), StatementOutcome(state: "22012", message: "y")) == nil)
    }

    @Test func `a type that each database has numbered itself is the same one`() {
        func mood(_ type: UInt32, _ value: String = "sad") -> StatementOutcome {
            outcome([["1", value]], types: [23, type])
        }
        #expect(difference(mood(16_390), mood(24_601)) == nil)
        #expect(difference(mood(16_390), mood(24_601, "happy")) != nil)
        for (one, other) in [(16_390, 25), (16_383, 16_384), (25, 1043)] as [(UInt32, UInt32)] {
            guard case .columns? = difference(mood(one), mood(other)) else {
                Issue.record("\(one) is \(other)")
                continue
            }
        }
    }

    @Test func `floats are exact unless told otherwise`() {
        let one = outcome([["1", "0.3"], ["2", "5"]], types: [23, 701])
        let other = outcome([["2", "5"], ["1", "0.30000000000000004"]], types: [23, 701])
        #expect(difference(one, other) != nil)
        #expect(difference(one, other, tolerance: 1e-9) == nil)
        #expect(difference(one, outcome([["2", "5"], ["1", "0.31"]], types: [23, 701]), tolerance: 1e-9) != nil)
    }

    @Test func `what belongs to one server hides no other difference of its batch`() {
        let book = StatementBook()
        let unit = ScriptUnit(connection: 1, number: 1)
        unit.statements = ["SHOW server_version", "SELECT a FROM t"].map { book.statement(Array($0.utf8)[...]) }
        func found(_ first: [String], _ second: [String]) -> Int? {
            let sides = [first, second].map { $0.map { outcome([[$0]]) } }
            return ResultComparison.difference(unit, sides[0], sides[1], ComparisonRules())?.statement
        }
        #expect(found(["15", "1"], ["18", "1"]) == 0 && unit.isSideDependent(0))
        #expect(found(["15", "1"], ["18", "2"]) == 1 && !unit.isSideDependent(1))
        #expect(found(["15", "1"], ["15", "1"]) == nil && found(["15", "1"], ["18"]) == 0)
    }

    @Test func `a binary COPY may begin with any of its rows`() {
        func copied(_ values: [UInt8], contentBytesMax: Int = 1 << 20) -> StatementOutcome {
            var writer = MessageWriter()
            for (index, value) in values.enumerated() {
                writer.message(BackendTag.copyData) { body in
                    // As PostgreSQL sends it: the header, and behind it in the same message a row.
                    let header = Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0]
                    if index == 0 { body.raw(header) }
                    body.raw([0, 1, 0, 0, 0, 1, value] as [UInt8])
                }
            }
            writer.message(BackendTag.copyData) { $0.raw([0xFF, 0xFF] as [UInt8]) }
            writer.commandComplete("COPY \(values.count)")
            var reader = ResultReader(contentBytesMax: contentBytesMax, withDigest: true)
            var found = StatementOutcome(.empty)
            writer.bytes.withUnsafeBytes { reader.take($0) { if case .outcome(let outcome) = $0 { found = outcome } } }
            return found
        }
        // What is played against one side alone is digested as a capture is.
        let unit = ScriptUnit(connection: 1, number: 1)
        unit.expected = [copied([1, 2], contentBytesMax: 0)]
        #expect(CaptureComparison.difference(unit, [copied([1, 2])]) == nil)
        #expect(CaptureComparison.difference(unit, [copied([1, 3], contentBytesMax: 0)]) != nil)
        #expect(difference(copied([1, 2, 3]), copied([3, 1, 2])) == nil)
        #expect(copied([1, 2]).digest?.unordered == copied([2, 1]).digest?.unordered)
        #expect(difference(copied([1, 2, 3]), copied([3, 1, 3])) != nil)
    }

    @Test func `infinity is near nothing but itself`() {
        func number(_ text: String) -> StatementOutcome { outcome([["1", text]], types: [23, 701]) }
        for other in ["5", "-Infinity", "NaN"] {
            #expect(difference(number("Infinity"), number(other), tolerance: 1e-9) != nil)
            #expect(difference(number(other), number("Infinity"), tolerance: 1e-9) != nil)
        }
        #expect(difference(number("Infinity"), number("Infinity"), tolerance: 1e-9) == nil)
    }

    @Test func `rows that are not kept are compared by their digests`() {
        func slim(_ rows: [[String?]]) -> StatementOutcome { outcome(rows, contentBytesMax: 0) }
        #expect(slim([["1"]]).content.isEmpty)
        #expect(difference(slim([["1"]]), slim([["2"]])) == .digest)
        #expect(difference(slim([["1"], ["2"]]), slim([["2"], ["1"]])) == nil)
        #expect(difference(slim([["1"], ["2"]]), slim([["2"], ["1"]]), hasOrder: true) == .digest)
        #expect(difference(slim([]), slim([])) == nil)
    }

    @Test(arguments: [0, 1 << 20])
    func `what a function call gives is compared, and is no row`(contentBytesMax: Int) {
        func called(_ value: String?) -> StatementOutcome {
            var writer = MessageWriter()
            writer.message(BackendTag.functionCallResponse) { body in
                body.int32(value.map { Int32($0.utf8.count) } ?? -1)
                body.raw((value ?? "").utf8)
            }
            var reader = ResultReader(contentBytesMax: contentBytesMax, withDigest: true)
            var found = StatementOutcome(.empty)
            writer.bytes.withUnsafeBytes { reader.take($0) { if case .outcome(let outcome) = $0 { found = outcome } } }
            return found
        }
        #expect(called("abc").kind == .answer(.functionResult) && called("abc").rows == 0)
        #expect(difference(called("abc"), called("abc")) == nil)
        for other in ["abd", "", nil] as [String?] { #expect(difference(called("abc"), called(other)) != nil) }
        #expect(difference(called(""), called(nil)) != nil)
        #expect(called("abc").hasSameEnd(as: StatementOutcome(CapturedAnswer(.functionResult))))
    }

    @Test func `a workload is read strictly`() throws {
        let workload = try Workload(yaml: """
            clients: 3
            variables: {id: {from: 1, to: 10, skew: 1.2}}
            transactions: [{weight: 2, sql: "SELECT :id::int"}, {sql: ["SELECT 1", "SELECT 2"]}]
            """)
        #expect(workload.transactions[0].statements == [[.text("SELECT "), .variable(0), .text("::int")]])
        for wrong in ["clients: x\ntransactions: [{sql: a}]", "nothing: 1", "transactions: [{sql: 'SELECT :x'}]", "transactions: []"] {
            #expect(throws: WorkloadError.self) { try Workload(yaml: wrong) }
        }
        var dice = WorkloadDice(seed: 1)
        var counts: [Int: Int] = [:]
        for _ in 0..<5000 { counts[dice.value(of: workload.variables[0]), default: 0] += 1 }
        #expect(counts.keys.allSatisfy { (1...10).contains($0) } && counts[1] ?? 0 > 3 * (counts[10] ?? 0))
    }

    @Test func `a statement is prepared once, and again where it is not there`() throws {
        let workload = try Workload(yaml: "{mode: prepared, transactions: [{sql: SELECT 1}]}")
        var writer = WorkloadWriter(workload, book: StatementBook(), seed: 1)
        func tags() -> String {
            writer.transaction(connection: 1, micros: 0).map { step in
                var (tags, offset) = ("", 0)
                step.bytes.withUnsafeBytes { bytes in
                    while let header = FrameHeader.parse(bytes, at: offset) {
                        tags.unicodeScalars.append(UnicodeScalar(header.tag))
                        offset += header.frameSize
                    }
                }
                return tags
            }.joined()
        }
        #expect(tags() == "CPBES" && tags() == "BES")
        writer.prepareAgain(1)
        #expect(tags() == "CPBES" && tags() == "BES")
    }

    @Test func `a page holds its reports and cannot be broken out of`() throws {
        var side = RunReport.Side(name: "target")
        side.findings = ["</script><script>alert(1)</script>"]
        let report = RunReport(
            kind: "replay", title: "a <b>", startedAt: "", seconds: 1, captured: nil, sides: [side], comparison: nil,
            notes: [], verdict: .equal)
        let page = try ReportPage.page([report, report])
        #expect(page.components(separatedBy: "</script>").count == 2 && !page.contains("<b>"))
        #expect(!page.contains("src=") && !page.contains("href="))
    }
}
