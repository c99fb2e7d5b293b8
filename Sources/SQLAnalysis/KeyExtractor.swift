package enum KeyExtractor {
    static func percentDecoded(_ bytes: Slice<UnsafeRawBufferPointer>) -> [UInt8] { Array(bytes) }
}
/// What of a shape answers a `column` source: the literal that stands at this place, or a parameter.
package struct ColumnKey: Sendable, Equatable {
    package enum Value: Sendable, Equatable { case literal(Int), parameter(Int) }
    package var source: Int
    package var value: Value
}
