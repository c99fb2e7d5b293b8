extension Sequence<UInt8> {
    /// Two digits for each byte, in small letters.
    package var hex: String { map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }
}
