/// Counts of times in microseconds in buckets that grow with the time: eight to each doubling, so that a percentile is
/// within an eighth of the truth. Fixed in size. A value, one owner.
package struct LatencyHistogram: Sendable {
    /// Up to about 2.4 hours; longer times count as that.
    package static let bucketCount = 256

    /// In place, and not an array, which would be asked whether it is shared with each call: `bucketCount` of them.
    private var counts = InlineArray<256, UInt32>(repeating: 0)
    package private(set) var count: UInt64 = 0

    package init() {}

    package mutating func add(_ micros: UInt64) {
        let place = LatencyHistogram.bucket(of: micros)
        if counts[place] < .max { counts[place] += 1 }
        count += 1
    }

    package mutating func removeAll() {
        counts = InlineArray(repeating: 0)
        count = 0
    }

    /// The time that `share` (0...1) of the calls in both did not exceed; nil without calls.
    package static func percentile(
        _ share: Double, of left: LatencyHistogram, and right: LatencyHistogram
    ) -> UInt64? {
        let total = left.count + right.count
        if total == 0 { return nil }
        let wanted = max(1, UInt64((Double(total) * share).rounded(.up)))
        var seen: UInt64 = 0
        for place in 0..<bucketCount {
            seen += UInt64(left.counts[place]) + UInt64(right.counts[place])
            if seen >= wanted { return upperBound(of: place) }
        }
        return upperBound(of: bucketCount - 1)
    }

    static func bucket(of micros: UInt64) -> Int {
        if micros < 8 { return Int(micros) }
        let octave = 63 - micros.leadingZeroBitCount
        let place = (octave - 2) * 8 + Int((micros >> UInt64(octave - 3)) & 7)
        return min(place, bucketCount - 1)
    }

    /// The greatest time that falls into a bucket.
    static func upperBound(of place: Int) -> UInt64 {
        if place < 8 { return UInt64(place) }
        let octave = place / 8 + 2
        let width: UInt64 = 1 << UInt64(octave - 3)
        return (8 + UInt64(place % 8)) * width + width - 1
    }
}
