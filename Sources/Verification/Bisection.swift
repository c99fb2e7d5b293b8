/// Narrows slices that differ down to few enough rows to compare one by one. Pure; used by one thread.
package struct Bisection {
    package enum Step: Equatable {
        /// Ask both sides for the digests of the slices' parts, then call `record`.
        case split([KeySlice], more: Int)
        /// Few rows are left in each: fetch and compare them.
        case compareRows([KeySlice])
    }

    /// Rows on either side up to which a slice is compared row by row.
    package static let rowsMax: Int64 = 2000
    /// Bits of one split: 16 parts.
    package static let splitBits = 4
    /// Bits after which rows are compared however many there are: so many keys with one hash do not exist.
    package static let bitsMax = 40
    /// Slices that are asked for at once, and rows that are fetched at once. Each question reads all of the range,
    /// however few of its slices it is about: where half of a large table differs, one by one would never end.
    package static let slicesMax = 4096
    package static let rowsAtOnceMax: Int64 = 20_000

    /// Of one range.
    private var pending: [(slice: KeySlice, rows: Int64)] = []

    package init() {}

    package mutating func add(_ slice: KeySlice, rows: Int64) { pending.append((slice, rows)) }

    package mutating func next() -> Step? {
        func isSmall(_ part: (slice: KeySlice, rows: Int64)) -> Bool {
            part.rows <= Self.rowsMax || part.slice.bits >= Self.bitsMax
        }
        guard let last = pending.last else { return nil }
        var taken: [KeySlice] = [], left: [(slice: KeySlice, rows: Int64)] = []
        var rows: Int64 = 0
        for part in pending {
            let isAlike = part.slice.bits == last.slice.bits && isSmall(part) == isSmall(last)
            let hasRoom = taken.count < Self.slicesMax && (!isSmall(last) || rows + part.rows <= Self.rowsAtOnceMax)
            guard isAlike, taken.isEmpty || hasRoom else {
                left.append(part)
                continue
            }
            taken.append(part.slice)
            rows += part.rows
        }
        pending = left
        return isSmall(last) ? .compareRows(taken) : .split(taken, more: Self.splitBits)
    }

    /// Takes over the parts in which both sides differ; gives the rows that OLD has in the slices.
    @discardableResult
    package mutating func record(
        _ slices: [KeySlice], more: Int, old: [UInt64: RangeDigest], new: [UInt64: RangeDigest]
    ) -> Int64 {
        let known = Dictionary(slices.map { ($0.bucket, $0) }) { first, _ in first }
        let mask: UInt64 = (1 << UInt64(slices.first?.bits ?? 0)) - 1
        for bucket in Set(old.keys).union(new.keys).sorted() where old[bucket] != new[bucket] {
            guard let slice = known[bucket & mask] else { preconditionFailure("a bucket of no slice") }
            add(slice.part(bucket: bucket, more: more), rows: max(old[bucket]?.rows ?? 0, new[bucket]?.rows ?? 0))
        }
        return old.values.reduce(0) { $0 + $1.rows }
    }
}
