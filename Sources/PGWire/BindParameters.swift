import Primitives

/// The values of one Bind message, found by number without copying. Lives no longer than the bytes.
///
/// - Protocol: protocol-message-formats, PROTOCOL-MESSAGE-FORMATS-BIND
package struct BindParameters {
    package struct Value {
        package let bytes: UnsafeRawBufferPointer
        package let isBinary: Bool
    }

    private let formatCount: Int
    private let formats: UnsafeRawBufferPointer
    private let values: BodyReader
    package let count: Int

    /// - Parameter reader: positioned behind the statement's name.
    /// - Returns: nil when the body is cut short or its counts cannot be.
    package init?(_ reader: BodyReader) {
        var reader = reader
        guard let formatCount = reader.int16(), formatCount >= 0,
            let formats = reader.bytes(2 * Int(formatCount)), let count = reader.int16()
        else { return nil }
        self.formatCount = Int(formatCount)
        self.formats = formats
        self.count = Int(UInt16(bitPattern: count))
        values = reader
    }

    /// - Parameter number: from 1, as in `$1`.
    /// - Returns: nil for NULL, a number that is not there, and a body cut short.
    package func value(_ number: Int) -> Value? {
        guard number >= 1, number <= count else { return nil }
        var reader = values
        for index in 1...number {
            guard let length = reader.int32() else { return nil }
            if length < 0 {
                if index == number { return nil }
                continue
            }
            guard let bytes = reader.bytes(Int(length)) else { return nil }
            if index == number { return Value(bytes: bytes, isBinary: isBinary(number)) }
        }
        return nil
    }

    /// All of them in their order, in one pass: with `value` each is looked for from the first on.
    ///
    /// - Returns: nil when the body is cut short.
    package var all: [Value?]? {
        var reader = values
        var found: [Value?] = []
        found.reserveCapacity(count)
        for index in 0..<count {
            guard let length = reader.int32() else { return nil }
            guard length >= 0 else {
                found.append(nil)
                continue
            }
            guard let bytes = reader.bytes(Int(length)) else { return nil }
            found.append(Value(bytes: bytes, isBinary: isBinary(index + 1)))
        }
        return found
    }

    /// Whether the body goes on to that value's end: of a message that comes in pieces the first one may not.
    package func reaches(_ number: Int) -> Bool {
        var reader = values
        for _ in 0..<max(0, min(number, count)) {
            guard let length = reader.int32(), length < 0 || reader.bytes(Int(length)) != nil else { return false }
        }
        return true
    }

    /// No format code: text; one: that of all; otherwise each has its own.
    private func isBinary(_ number: Int) -> Bool {
        let index = formatCount == 1 ? 0 : number - 1
        guard index < formatCount else { return false }
        return Int16(bigEndian: formats.loadUnaligned(fromByteOffset: 2 * index, as: Int16.self)) == 1
    }
}

/// The parameter types that a Parse message names. Lives no longer than the bytes.
package struct ParameterTypes {
    private let numbers: UnsafeRawBufferPointer

    /// - Parameter reader: positioned behind the statement's text. A body cut short names no types.
    package init(_ reader: BodyReader) {
        var reader = reader
        let count = reader.int16().map { Int(UInt16(bitPattern: $0)) } ?? 0
        numbers = reader.bytes(4 * count) ?? UnsafeRawBufferPointer(start: nil, count: 0)
    }

    /// Whether it names one that PostgreSQL has not come with.
    package var hasOwn: Bool {
        // Most drivers name none.
        if numbers.isEmpty { return false }
        return (1...(numbers.count / 4)).contains { self[$0] >= ObjectNumber.userMin }
    }

    /// The type of `$number`, as numbered in pg_type; 0: not named.
    package subscript(number: Int) -> UInt32 {
        guard number >= 1, number * 4 <= numbers.count else { return 0 }
        return UInt32(bigEndian: numbers.loadUnaligned(fromByteOffset: 4 * (number - 1), as: UInt32.self))
    }
}
