import CXXHash

/// A digest of a result, row by row as the rows come in pieces: one in the rows' order, and one for all orders alike.
/// Of DataRow's bodies, so that it depends on the format that the client asked for. One thread.
package struct RowDigest: ~Copyable {
    package struct Value: Equatable, Hashable, Sendable {
        package var ordered: UInt64
        /// The sum of the rows' hashes.
        package var unordered: UInt64

        package init(ordered: UInt64, unordered: UInt64) {
            self.ordered = ordered
            self.unordered = unordered
        }
    }

    package private(set) var value = Value(ordered: 0, unordered: 0)
    private let row: OpaquePointer
    private var isWithinRow = false

    package init?() {
        guard let state = XXH64_createState() else { return nil }
        row = state
    }

    deinit { _ = XXH64_freeState(row) }

    package mutating func add(row bytes: UnsafeRawBufferPointer) {
        take(XXH64(bytes.baseAddress, bytes.count, 0))
    }

    /// A part of a row; `isLast`: with it the row is whole.
    package mutating func add(piece bytes: UnsafeRawBufferPointer, isLast: Bool) {
        if !isWithinRow { _ = XXH64_reset(row, 0) }
        isWithinRow = true
        _ = XXH64_update(row, bytes.baseAddress, bytes.count)
        if !isLast { return }
        isWithinRow = false
        take(XXH64_digest(row))
    }

    private mutating func take(_ hash: UInt64) {
        value.unordered &+= hash
        value.ordered = (value.ordered &* 0x9E37_79B9_7F4A_7C15) ^ hash
    }

    package mutating func reset() {
        value = Value(ordered: 0, unordered: 0)
        isWithinRow = false
    }
}
