/// Puts whole numbers of a range in the place of others, each in the place of exactly one, none in its own: what was
/// unique stays unique. Follows from a key. Immutable.
///
/// p⁻¹(p(x) + c): p is a Feistel network over the range (it is walked until it is back within), of eight rounds of
/// SipHash-2-4.
struct NumberPermutation {
    private static let rounds: UInt64 = 8

    private let key: (UInt64, UInt64)

    /// - Parameter key: 16 bytes or more.
    init(key bytes: [UInt8]) {
        precondition(bytes.count >= 16, "a key that is too short")
        func word(_ from: Int) -> UInt64 { bytes[from..<(from + 8)].reduce(0) { $0 << 8 | UInt64($1) } }
        key = (word(0), word(8))
    }

    func image(of value: UInt64, in range: ClosedRange<UInt64>) -> UInt64 {
        precondition(range.contains(value) && range.lowerBound < range.upperBound, "a value outside of its range")
        let last = range.upperBound - range.lowerBound
        precondition(last < 1 << 63, "a range that cannot be counted")
        let size = last + 1
        let halfBits = UInt64(max(1, (65 - last.leadingZeroBitCount) / 2))
        let place = walk(value - range.lowerBound, last, halfBits, range.lowerBound, isForward: true)
        let step = 1 + hash(range.lowerBound, last, round: Self.rounds) % last
        let moved = place >= size - step ? place - (size - step) : place + step
        return range.lowerBound + walk(moved, last, halfBits, range.lowerBound, isForward: false)
    }

    private func walk(
        _ value: UInt64, _ last: UInt64, _ halfBits: UInt64, _ tweak: UInt64, isForward: Bool
    ) -> UInt64 {
        let mask: UInt64 = (1 << halfBits) - 1
        var made = value
        repeat {
            var (left, right) = (made >> halfBits, made & mask)
            for step in 0..<Self.rounds {
                let round = isForward ? step : Self.rounds - 1 - step
                if isForward {
                    (left, right) = (right, left ^ (hash(right, tweak, round: round) & mask))
                } else {
                    (left, right) = (right ^ (hash(left, tweak, round: round) & mask), left)
                }
            }
            made = left << halfBits | right
        } while made > last
        return made
    }

    /// SipHash-2-4 of 24 bytes.
    private func hash(_ first: UInt64, _ second: UInt64, round: UInt64) -> UInt64 {
        var v0 = key.0 ^ 0x736F_6D65_7073_6575
        var v1 = key.1 ^ 0x646F_7261_6E64_6F6D
        var v2 = key.0 ^ 0x6C79_6765_6E65_7261
        var v3 = key.1 ^ 0x7465_6462_7974_6573
        func turned(_ word: UInt64, _ bits: UInt64) -> UInt64 { word << bits | word >> (64 - bits) }
        func mix() {
            v0 &+= v1
            v1 = turned(v1, 13) ^ v0
            v0 = turned(v0, 32)
            v2 &+= v3
            v3 = turned(v3, 16) ^ v2
            v0 &+= v3
            v3 = turned(v3, 21) ^ v0
            v2 &+= v1
            v1 = turned(v1, 17) ^ v2
            v2 = turned(v2, 32)
        }
        for word in [first, second, round, 24 << 56] {
            v3 ^= word
            mix()
            mix()
            v0 ^= word
        }
        v2 ^= 0xFF
        for _ in 0..<4 { mix() }
        return v0 ^ v1 ^ v2 ^ v3
    }
}
