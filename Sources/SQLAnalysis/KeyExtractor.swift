/// Finds `name=value` in a comment: `/* user_id=42 */`, or sqlcommenter's `/*user_id='42',traceparent='00-…'*/`.
/// No state, no allocation, any thread.
package enum KeyExtractor {
    /// A bare value ends at a blank, comma, semicolon, quote or the comment's end; a quoted one at its quote, and is
    /// percent-encoded (sqlcommenter). An empty value is none.
    ///
    /// - Parameter comment: offsets of the whole comment in `text`, with its opening and closing signs.
    static func find(
        _ name: [UInt8], in text: UnsafeRawBufferPointer, comment: Range<Int>
    ) -> KeyReference.Form? {
        let end = comment.upperBound - 2
        var position = comment.lowerBound + 2
        while position + name.count < end {
            if isNameStart(text, position, comment.lowerBound + 2), matches(name, text, position) {
                var value = skipBlanks(text, position + name.count, end)
                if value < end, text[value] == 0x3D {
                    value = skipBlanks(text, value + 1, end)
                    return form(text, value, end)
                }
            }
            // A quoted value may hold anything, also what looks like our name.
            if text[position] == 0x27 {
                position = closingQuote(text, position + 1, end)
            }
            position += 1
        }
        return nil
    }

    private static func form(_ text: UnsafeRawBufferPointer, _ start: Int, _ end: Int) -> KeyReference.Form? {
        guard start < end else { return nil }
        if text[start] == 0x27 {
            let close = closingQuote(text, start + 1, end)
            guard close < end, close > start + 1 else { return nil }
            let length = close - start - 1
            let isEncoded = text[(start + 1)..<close].contains { $0 == 0x25 || $0 == 0x5C }
            return isEncoded
                ? .urlEncoded(offset: start + 1, length: length) : .text(offset: start + 1, length: length)
        }
        var stop = start
        while stop < end, isValue(text[stop]) { stop += 1 }
        return stop == start ? nil : .text(offset: start, length: stop - start)
    }

    /// The offset of the quote that ends the value; `end` when there is none. A backslash hides the next byte.
    private static func closingQuote(_ text: UnsafeRawBufferPointer, _ start: Int, _ end: Int) -> Int {
        var position = start
        while position < end, text[position] != 0x27 { position += text[position] == 0x5C ? 2 : 1 }
        return min(position, end)
    }

    private static func isNameStart(_ text: UnsafeRawBufferPointer, _ position: Int, _ first: Int) -> Bool {
        if position == first { return true }
        let before = text[position - 1]
        return SQLLexer.isSpace(before) || before == 0x2C || before == 0x3B
    }

    private static func matches(_ name: [UInt8], _ text: UnsafeRawBufferPointer, _ position: Int) -> Bool {
        for (offset, byte) in name.enumerated() where text[position + offset] != byte { return false }
        return true
    }

    private static func skipBlanks(_ text: UnsafeRawBufferPointer, _ start: Int, _ end: Int) -> Int {
        var position = start
        while position < end, SQLLexer.isSpace(text[position]) { position += 1 }
        return position
    }

    private static func isValue(_ byte: UInt8) -> Bool {
        byte > 0x20 && byte != 0x2C && byte != 0x3B && byte != 0x27 && byte != 0x22
    }

    /// `%41` to `A`, `\'` to `'`; what is not a pair of hex digits stays as it is.
    package static func percentDecoded(_ bytes: Slice<UnsafeRawBufferPointer>) -> [UInt8] {
        var decoded: [UInt8] = []
        decoded.reserveCapacity(bytes.count)
        var position = bytes.startIndex
        while position < bytes.endIndex {
            let byte = bytes[position]
            if byte == 0x25, position + 2 < bytes.endIndex,
                let high = hexDigit(bytes[position + 1]), let low = hexDigit(bytes[position + 2])
            {
                decoded.append(high << 4 | low)
                position += 3
            } else if byte == 0x5C, position + 1 < bytes.endIndex {
                decoded.append(bytes[position + 1])
                position += 2
            } else {
                decoded.append(byte)
                position += 1
            }
        }
        return decoded
    }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }
}
