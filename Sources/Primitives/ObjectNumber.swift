/// What PostgreSQL numbers its objects by. No state, any thread.
@usableFromInline package enum ObjectNumber {
    /// From here on databases number what users make, each by itself (FirstNormalObjectId): what has such a number has
    /// another one on the other side.
    @inlinable package static var userMin: UInt32 { 16_384 }
}
