import LibPQ

/// What a set of rows amounts to, in any order: their number and two sums of independent 64-bit hashes of
/// each row's text. Sums, not XOR: a row that is there twice must not vanish. Immutable, any thread.
package struct RangeDigest: Sendable, Equatable {
    package var rows: Int64 = 0
    /// Decimal: the sum of many 64-bit numbers.
    package var first = "0"
    package var second = "0"

    package init(rows: Int64 = 0, first: String = "0", second: String = "0") {
        self.rows = rows
        self.first = first
        self.second = second
    }

    /// Answers of `KeyRangePlan.digest`, by bucket. Empty buckets are absent.
    package static func collect(_ answer: Rows) -> [UInt64: RangeDigest] {
        var digests: [UInt64: RangeDigest] = [:]
        for row in 0..<answer.count {
            guard let bucket = answer.integer(row, 0), let rows = answer.integer(row, 1), rows > 0 else { continue }
            digests[UInt64(bitPattern: bucket)] = RangeDigest(
                rows: rows, first: answer[row, 2] ?? "", second: answer[row, 3] ?? "")
        }
        return digests
    }
}
