import Foundation

/// Answers of a query, as text: rows by newline, columns by `|`. No state, any thread.
package enum InvariantValue {
    /// Numbers may differ by the tolerance, everything else not at all.
    package static func isEqual(_ left: String, _ right: String, tolerance: Double) -> Bool {
        if left == right { return true }
        if tolerance == 0 { return false }
        let (ours, theirs) = (cells(left), cells(right))
        guard ours.count == theirs.count else { return false }
        return zip(ours, theirs).allSatisfy { one, other in
            if one == other { return true }
            guard let first = Double(one), let second = Double(other) else { return false }
            // Sums have more digits than a Double holds: those behind them are to count, too.
            if abs(first) < exactMax, abs(second) < exactMax, let ours = exact(one), let theirs = exact(other) {
                return abs(ours - theirs) <= Decimal(tolerance)
            }
            return abs(first - second) <= tolerance
        }
    }

    /// A Decimal has 38 digits.
    private static let exactMax = 1e30

    /// - Parameter number: what a Double takes. Of hexadecimal digits a Decimal would read the zero before the `x`.
    private static func exact(_ number: Substring) -> Decimal? {
        if number.utf8.contains(where: { $0 | 0x20 == UInt8(ascii: "x") }) { return nil }
        return Decimal(string: String(number)).flatMap { $0.isNaN ? nil : $0 }
    }

    private static func cells(_ text: String) -> [Substring] {
        text.split(omittingEmptySubsequences: false) { $0 == "|" || $0 == "\n" }
    }
}
