import Primitives
import SQLAnalysis
import Testing

@testable import Shadowing

@Suite struct AnswerComparisonTests {
    private func answer(_ rows: [[String?]], _ columns: [String] = ["id", "v"], type: UInt32 = 25) -> ShadowAnswer {
        var answer = ShadowAnswer(rowsMax: 100, bytesMax: 1 << 20)
        answer.describe(columns.map { .init(name: $0, type: type) })
        for row in rows {
            let hasRoom = answer.beginRow()
            #expect(hasRoom)
            for value in row {
                guard let value else {
                    answer.append(nil)
                    continue
                }
                Array(value.utf8).withUnsafeBytes { answer.append($0) }
            }
        }
        return answer
    }

    private func refused(_ state: String) -> ShadowAnswer {
        var answer = ShadowAnswer(rowsMax: 1, bytesMax: 1)
        answer.end = .refused(state: state, message: "value 'secret'")
        return answer
    }

    private func verdict(
        _ old: [[String?]], _ new: [[String?]], _ text: String = "SELECT id, v FROM t"
    ) throws -> AnswerComparison.Verdict {
        let traits = try #require(ComparisonTraits(Array(text.utf8)))
        return AnswerComparison.compare(answer(old), answer(new), traits)
    }

    private func kind(_ verdict: AnswerComparison.Verdict) -> Difference.Kind? {
        if case .differs(let difference) = verdict { difference.kind } else { nil }
    }

    @Test func `rows are a bag unless they are sorted`() throws {
        let (a, b): ([String?], [String?]) = (["1", "x"], ["2", "y"])
        #expect(try verdict([a, b], [b, a]) == .equal)
        #expect(try verdict([a, a, b], [b, a, a]) == .equal)
        #expect(kind(try verdict([a, a, b], [a, b, b])) == .rows)
        #expect(kind(try verdict([a, b], [b, a], "SELECT id, v FROM t ORDER BY id")) == .order)
        // Who shares a key may stand anywhere among those.
        #expect(try verdict([["1", "x"], ["1", "y"]], [["1", "y"], ["1", "x"]], "SELECT id, v FROM t ORDER BY id") == .equal)
        #expect(try verdict([], []) == .equal && kind(try verdict([], [a])) == .rows)
        // NULL is no empty text, and values do not run into each other.
        #expect(kind(try verdict([["1", nil]], [["1", ""]])) == .rows)
        #expect(kind(try verdict([["1", "23"]], [["12", "3"]])) == .rows)
    }

    @Test(arguments: [
        (["Bob", "bob"], 16_400, true), (["Bob", "bob"], 25, false), (["1.0", "1.00"], 1700, true),
        (["1.0", "1.01"], 1700, false), (["10", "100"], 1700, false),
    ] as [([String], UInt32, Bool)])
    func `values that sort alike may come in any order`(values: [String], type: UInt32, areAlike: Bool) throws {
        let traits = try #require(ComparisonTraits(Array("SELECT v FROM t ORDER BY v".utf8)))
        let rows = values.map { [$0] as [String?] }
        let (old, new) = (answer(rows, ["v"], type: type), answer(rows.reversed(), ["v"], type: type))
        let found = AnswerComparison.compare(old, new, traits)
        #expect(areAlike ? found == .equal : kind(found) == .order)
    }

    @Test func `a difference is told by its rows and columns`() throws {
        guard case .differs(let difference) = try verdict(
            [["1", "x"], ["2", "y"]], [["1", "x"], ["2", "z"]])
        else {
            Issue.record("no difference")
            return
        }
        #expect(difference.columns == ["v"] && difference.onlyOld == 1 && difference.onlyNew == 1)
        #expect(difference.oldRow == "(2,y)" && difference.newRow == "(2,z)")
        #expect(difference.summary == "2 and 2 rows, 1 and 1 of them on one side only, in v")
    }

    @Test func `which rows a LIMIT takes is left open, and no more`() throws {
        let text = "SELECT id, v FROM t ORDER BY id LIMIT 3"
        let rows: [[String?]] = [["1", "a"], ["2", "b"], ["3", "c"]]
        #expect(try verdict(rows, [["1", "a"], ["2", "b"], ["3", "d"]], text) == .open)
        #expect(kind(try verdict(rows, [["1", "a"], ["2", "z"], ["3", "c"]], text)) == .rows)
        #expect(kind(try verdict(rows, [["1", "a"], ["2", "b"], ["4", "c"]], text)) == .rows)
        #expect(kind(try verdict(rows, [["1", "a"], ["2", "b"]], text)) == .rows)
        #expect(try verdict(rows, [["7", "a"], ["8", "b"], ["9", "c"]], "SELECT id, v FROM t LIMIT 3") == .open)
        #expect(kind(try verdict(rows, [["7", "a"]], "SELECT id, v FROM t LIMIT 3")) == .rows)
        #expect(try verdict([["1", "{1,2}"]], [["1", "{2,1}"]], "SELECT id, array_agg(v) FROM t GROUP BY id") == .open)
    }

    @Test func `sums of floating-point numbers may differ by what their order makes`() throws {
        func compare(
            _ old: [[String?]], _ new: [[String?]], _ type: UInt32, _ text: String = "SELECT id, sum(v) AS v FROM t"
        ) throws -> AnswerComparison.Verdict {
            let traits = try #require(ComparisonTraits(Array(text.utf8)))
            return AnswerComparison.compare(answer(old, type: type), answer(new, type: type), traits)
        }
        #expect(try compare([["1", "0.123457"]], [["1", "0.12345"]], 700) == .equal)
        #expect(kind(try compare([["1", "0.123457"]], [["1", "0.124"]], 700)) == .rows)
        #expect(try compare([["1", "1.00000000"], ["2", "8"]], [["1", "1.00000001"], ["2", "8"]], 701) != .equal)
        #expect(try compare([["1", "12345678.9"]], [["1", "12345678.901"]], 701) == .equal)
        #expect(kind(try compare([["1", "12345678.9"]], [["2", "12345678.901"]], 701)) == .rows)
        #expect(kind(try compare([["1", nil]], [["1", "1"]], 701)) == .rows)
        // A column that is no sum of theirs has to be the same, and so is a number of another type.
        #expect(kind(try compare([["1", "12345678.9"]], [["1", "12345678.901"]], 1700)) == .rows)
        #expect(kind(try compare([["1", "12345678.9"]], [["1", "12345678.901"]], 701, "SELECT id, v FROM t")) == .rows)
        let ordered = "SELECT id, sum(v) AS v FROM t GROUP BY id ORDER BY v"
        let (old, new) = ([["1", "12345678.9"], ["2", "12345678.9"]], [["2", "12345678.9"], ["1", "12345678.901"]])
        #expect(try compare(old, new, 701, ordered) == .equal)
        // A sum that stands first does not say which rows belong together, nor does the length of its text.
        func leading(_ old: [[String?]], _ new: [[String?]]) throws -> AnswerComparison.Verdict {
            func answer(_ rows: [[String?]]) -> ShadowAnswer {
                var answer = self.answer(rows)
                answer.describe([.init(name: "sum", type: 700), .init(name: "region", type: 25)])
                return answer
            }
            let traits = try #require(ComparisonTraits(Array("SELECT sum(v), region FROM t GROUP BY region".utf8)))
            return AnswerComparison.compare(answer(old), answer(new), traits)
        }
        let sums: [[String?]] = [["50321.3", "north"], ["49887.254", "south"]]
        #expect(try leading(sums, [["50321.305", "north"], ["49887.25", "south"]]) == .equal)
        #expect(kind(try leading(sums, [["50321.305", "south"], ["49887.25", "north"]])) == .rows)
        #expect(try leading([["1", "a"], ["2", "a"]], [["2.0001", "a"], ["1.0000001", "a"]]) == .equal)
    }

    @Test func `columns and errors are compared`() throws {
        let traits = try #require(ComparisonTraits(Array("SELECT 1".utf8)))
        func compare(_ old: ShadowAnswer, _ new: ShadowAnswer) -> Difference.Kind? {
            kind(AnswerComparison.compare(old, new, traits))
        }
        #expect(compare(answer([]), answer([], ["id"])) == .columns)
        #expect(compare(answer([]), answer([], ["id", "w"])) == .columns)
        #expect(compare(answer([]), answer([], type: 1043)) == .columns)
        // Types of the users' have numbers of their own on each side.
        #expect(compare(answer([], type: 16_400), answer([], type: 20_000)) == nil)
        #expect(compare(refused("22P02"), refused("22P02")) == nil)
        #expect(compare(refused("22P02"), refused("42P01")) == .error)
        #expect(compare(answer([]), refused("42P01")) == .error && compare(refused("42P01"), answer([])) == .error)
        guard case .differs(let difference) = AnswerComparison.compare(answer([]), refused("42P01"), traits) else {
            Issue.record("no difference")
            return
        }
        #expect(!difference.summary.contains("secret") && difference.newRow?.contains("secret") == true)
    }

    @Test func `an answer has room for as many rows as it may have`() {
        var answer = ShadowAnswer(rowsMax: 2, bytesMax: 100)
        let begun = (0..<3).map { _ in answer.beginRow() }
        #expect(begun == [true, true, false] && answer.end == .tooLarge && answer.rowCount == 2)
        var long = ShadowAnswer(rowsMax: 9, bytesMax: 8)
        let isBegun = long.beginRow()
        [UInt8](repeating: 1, count: 4).withUnsafeBytes { long.append($0) }
        let hasMore = long.beginRow()
        #expect(isBegun && !hasMore && long.end == .tooLarge)
    }

    /// Against a comparison that does not sort. Rows of few values, so that many are equal.
    @Test func `random bags are equal when each row is as often in both`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        for _ in 0..<300 {
            func rows() -> [[String?]] {
                (0..<Int.random(in: 0...6, using: &generator)).map { _ in
                    [["1", "2", nil].randomElement(using: &generator) ?? nil, ["a", "", nil].randomElement(using: &generator) ?? nil]
                }
            }
            let old = rows()
            let new = Bool.random(using: &generator) ? old.shuffled(using: &generator) : rows()
            var rest = new
            let areEqual = old.allSatisfy { row in
                rest.firstIndex(of: row).map { rest.remove(at: $0) } != nil
            } && rest.isEmpty
            #expect((try verdict(old, new) == .equal) == areEqual, "seed \(seed): \(old) \(new)")
        }
    }
}
