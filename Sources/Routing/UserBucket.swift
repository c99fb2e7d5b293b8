import Digests

/// The place of a routing key on the scale from 0.00 to 99.99, the same in every process and for all time.
///
/// h = md5(key) as a 128-bit integer; the whole part is h mod 100, the hundredths are (h div 100) mod 100. At whole
/// percents `bucket < percent` is therefore the well-known md5 mod 100. A value, any thread.
package struct UserBucket: Sendable, Equatable, Comparable, CustomStringConvertible {
    /// 0...9999.
    package let hundredths: UInt16

    package init(hundredths: UInt16) {
        precondition(hundredths < 10_000, "a bucket beyond 99.99")
        self.hundredths = hundredths
    }

    package init(key: [UInt8]) { self.init(digest: Digest.md5Value(key)) }

    /// - Parameter value: the key's MD5 as a number.
    package init(digest value: UInt128) {
        self.init(hundredths: UInt16(truncatingIfNeeded: value % 100 * 100 + value / 100 % 100))
    }

    /// True when a share of `hundredths` (0...10000) includes this bucket. Grows with the share, never shrinks.
    package func isWithin(share hundredths: Int) -> Bool { Int(self.hundredths) < hundredths }

    package static func < (left: UserBucket, right: UserBucket) -> Bool { left.hundredths < right.hundredths }

    /// `0.00` … `99.99`.
    package var description: String {
        let whole = hundredths / 100
        let part = hundredths % 100
        return part < 10 ? "\(whole).0\(part)" : "\(whole).\(part)"
    }
}
