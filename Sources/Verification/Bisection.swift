/// Narrows slices that differ down to few enough rows to compare one by one. Pure; used by one thread.
package struct Bisection {
    package enum Step: Equatable {
        /// Ask both sides for the digests of the slice's parts, then call `record`.
        case split(KeySlice, more: Int)
        /// Few rows are left: fetch and compare them.
        case compareRows(KeySlice)
    }

    /// Rows on either side up to which a slice is compared row by row.
    package static let rowsMax: Int64 = 2000
    /// Bits of one split: 16 parts.
    package static let splitBits = 4
    /// Bits after which rows are compared however many there are: so many keys with one hash do not exist.
    package static let bitsMax = 40

    private var pending: [(slice: KeySlice, rows: Int64)] = []

    package init() {}

    package mutating func add(_ slice: KeySlice, rows: Int64) { pending.append((slice, rows)) }

    package mutating func next() -> Step? {
        guard let (slice, rows) = pending.popLast() else { return nil }
        if rows <= Self.rowsMax || slice.bits >= Self.bitsMax { return .compareRows(slice) }
        return .split(slice, more: Self.splitBits)
    }

    /// Takes over the parts in which both sides differ; gives the rows that OLD has in the slice.
    @discardableResult
    package mutating func record(
        _ slice: KeySlice, more: Int, old: [UInt64: RangeDigest], new: [UInt64: RangeDigest]
    ) -> Int64 {
        for bucket in Set(old.keys).union(new.keys).sorted() where old[bucket] != new[bucket] {
            add(slice.part(bucket: bucket, more: more), rows: max(old[bucket]?.rows ?? 0, new[bucket]?.rows ?? 0))
        }
        return old.values.reduce(0) { $0 + $1.rows }
    }
}
