import Primitives

/// Histograms of how long units take, per side and kind, for one database on one thread: counts in buckets whose ends
/// double. Fixed in size, and nothing is allocated to count. A value, one owner.
struct UnitTimes: Sendable {
    enum Measure: Int, CaseIterable {
        /// A client waits for a server.
        case wait
        /// From a unit's first byte to its ReadyForQuery.
        case query
        case transaction
    }

    /// The first bucket ends at 64 µs, the last but one at 67 s.
    private static let firstExponent = 6
    private static let boundCount = 21
    static let bucketCount = boundCount + 1

    /// Ends of the buckets in seconds; what is above them all has a bucket of its own.
    static let boundsSeconds: [Double] = (0..<boundCount).map { Double(UInt64(1) << UInt64(firstExponent + $0)) / 1e6 }

    /// In place, and not arrays, which would be asked whether they are shared each time: by measure, side and kind,
    /// 12 in all.
    private var counts = InlineArray<12, InlineArray<22, UInt64>>(repeating: InlineArray(repeating: 0))
    private var sums = InlineArray<12, UInt64>(repeating: 0)

    init() {
        precondition(counts.count == Measure.allCases.count * 4, "a histogram for each measure, side and kind")
        precondition(counts[0].count == Self.bucketCount, "a count for each bucket")
    }

    mutating func add(_ micros: UInt64, _ measure: Measure, _ side: Side, isRead: Bool) {
        let place = Self.place(measure, side, isRead)
        counts[place][Self.bucket(of: micros)] &+= 1
        sums[place] &+= micros
    }

    /// A read that was a transaction of its own.
    @inline(__always)
    mutating func addLone(_ micros: UInt64, _ side: Side) {
        let bucket = Self.bucket(of: micros)
        let (query, transaction) = (Self.place(.query, side, true), Self.place(.transaction, side, true))
        counts[query][bucket] &+= 1
        counts[transaction][bucket] &+= 1
        sums[query] &+= micros
        sums[transaction] &+= micros
    }

    func counts(_ measure: Measure, _ side: Side, isRead: Bool) -> ArraySlice<UInt64> {
        let counts = counts[Self.place(measure, side, isRead)]
        return ArraySlice(counts.indices.map { counts[$0] })
    }

    func seconds(_ measure: Measure, _ side: Side, isRead: Bool) -> Double {
        Double(sums[Self.place(measure, side, isRead)]) / 1e6
    }

    static func + (left: UnitTimes, right: UnitTimes) -> UnitTimes {
        var sum = left
        for place in sum.counts.indices {
            for bucket in sum.counts[place].indices { sum.counts[place][bucket] &+= right.counts[place][bucket] }
        }
        for index in sum.sums.indices { sum.sums[index] &+= right.sums[index] }
        return sum
    }

    private static func place(_ measure: Measure, _ side: Side, _ isRead: Bool) -> Int {
        measure.rawValue * 4 + Int(side.rawValue) * 2 + (isRead ? 0 : 1)
    }

    /// An end belongs to the bucket below it, as `le` says.
    static func bucket(of micros: UInt64) -> Int {
        if micros <= 1 << UInt64(firstExponent) { return 0 }
        return min(64 - (micros - 1).leadingZeroBitCount - firstExponent, boundCount)
    }
}
