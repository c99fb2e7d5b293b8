/// One text for one user, however its key travels: integers in decimal, UUIDs in lower case with dashes, any other
/// text as it is. So a literal, a text parameter and a binary parameter of one value are one key. No state, any thread.
package enum RoutingKeyText {
    /// Bytes; a longer value is no key.
    package static let bytesMax = 1024

    /// Types that a Parse message may name, by their number in pg_type.
    private enum TypeNumber {
        static let integers: ClosedRange<UInt32> = 20...23      // int8, int2, int2vector, int4
        static let int2vector: UInt32 = 22
        static let uuid: UInt32 = 2950
        static let blankPadded: UInt32 = 1042
        static let texts: Set<UInt32> = [18, 19, 25, 1042, 1043]  // "char", name, text, bpchar, varchar
    }

    // MARK: literals

    /// - Parameter token: the literal as it stands: quotes, sign and all.
    /// - Returns: nil for what is not surely one value: fractions, escapes but for `\\`, nothing.
    static func literal(_ token: Slice<UnsafeRawBufferPointer>) -> [UInt8]? {
        guard let first = token.first else { return nil }
        switch first {
        case 0x27: return quoted(token.dropFirst().dropLast())
        // As libpq writes what has a backslash in it.
        case 0x45, 0x65: return quoted(token.dropFirst(2).dropLast(), hasEscapes: true)
        case 0x24:
            guard let end = token.dropFirst().firstIndex(of: 0x24) else { return nil }
            let tag = end - token.startIndex + 1
            return token.count < 2 * tag ? nil : text(token.dropFirst(tag).dropLast(tag))
        case 0x2D: return integer(token.dropFirst().drop(while: SQLLexer.isSpace), isNegative: true)
        default: return integer(token, isNegative: false)
        }
    }

    /// True when the bytes between the quotes, or of the number, are the key already.
    static func isPlain(_ token: Slice<UnsafeRawBufferPointer>) -> Bool {
        guard let first = token.first, token.count <= bytesMax else { return false }
        if first == 0x27 {
            let inner = token.dropFirst().dropLast()
            return !inner.isEmpty && !inner.contains(0x27) && (inner.count < 32 || uuid(inner) == nil)
        }
        return token.allSatisfy(SQLLexer.isDigit) && (first != 0x30 || token.count == 1)
    }

    /// nil also for a string that goes on on another line.
    private static func quoted(_ inner: Slice<UnsafeRawBufferPointer>, hasEscapes: Bool = false) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(inner.count)
        /// A quote, or backslash, that is to be followed by another one.
        var escape: UInt8?
        for byte in inner {
            if let sign = escape {
                if byte != sign { return nil }
                escape = nil
            } else if byte == 0x27 || hasEscapes && byte == 0x5C {
                escape = byte
                continue
            }
            bytes.append(byte)
        }
        return text(bytes)
    }

    // MARK: values

    /// What a bound value is read as. A column of char(n) compares without the blanks at the value's end, whatever text
    /// that is said to be.
    ///
    /// - Parameters:
    ///   - named: by Parse; 0: it names none.
    ///   - column: 0: not known.
    package static func valueType(named: UInt32, column: UInt32) -> UInt32 {
        let isPadded = column == TypeNumber.blankPadded && TypeNumber.texts.contains(named)
        return named == 0 || isPadded ? column : named
    }

    /// UUIDs in their usual form, everything else as it is; nil for nothing.
    package static func text(_ bytes: some Collection<UInt8>) -> [UInt8]? {
        if bytes.isEmpty || bytes.count > bytesMax { return nil }
        return uuid(bytes) ?? Array(bytes)
    }

    /// A bound parameter's value.
    ///
    /// - Parameter type: its number in pg_type: as Parse gave it, else the column's; 0 when neither is known. A binary
    ///   value is no key then: its bytes may be those of an integer, or of a text that looks like one.
    package static func parameter(_ bytes: UnsafeRawBufferPointer, isBinary: Bool, type: UInt32) -> [UInt8]? {
        let isInteger = TypeNumber.integers.contains(type) && type != TypeNumber.int2vector
        if type == TypeNumber.blankPadded { return text(bytes.prefix((bytes.lastIndex { $0 != 0x20 } ?? -1) + 1)) }
        if !isBinary {
            if !isInteger { return text(bytes) }
            let trimmed = Slice(base: bytes, bounds: 0..<bytes.count).drop(while: SQLLexer.isSpace)
            let isSigned = trimmed.first == 0x2D || trimmed.first == 0x2B
            return integer(isSigned ? trimmed.dropFirst() : trimmed, isNegative: trimmed.first == 0x2D)
        }
        if TypeNumber.texts.contains(type) { return text(bytes) }
        if type == TypeNumber.uuid { return bytes.count == 16 ? dashed(bytes) : nil }
        guard isInteger else { return nil }
        // By its length: the column may be of another width than what the statement compares it with.
        switch bytes.count {
        case 2: return decimal(bytes.loadUnaligned(as: Int16.self).bigEndian)
        case 4: return decimal(bytes.loadUnaligned(as: Int32.self).bigEndian)
        case 8: return decimal(bytes.loadUnaligned(as: Int64.self).bigEndian)
        default: return nil
        }
    }

    /// A literal's key where the column has this type: a quoted integer is one too.
    ///
    /// - Returns: nil when it is no value of the type.
    package static func literalKey(_ key: UnsafeRawBufferPointer, columnType type: UInt32) -> [UInt8]? {
        parameter(key, isBinary: false, type: type)
    }

    /// Whether `literalKey` would give back the same bytes.
    package static func isKey(_ key: UnsafeRawBufferPointer, ofColumnType type: UInt32) -> Bool {
        if type == TypeNumber.blankPadded { return key.last != 0x20 }
        guard TypeNumber.integers.contains(type) else { return true }
        return key.allSatisfy(SQLLexer.isDigit) && (key.first != 0x30 || key.count == 1)
    }

    private static func decimal(_ value: some FixedWidthInteger) -> [UInt8] { Array(String(value).utf8) }

    /// Digits only, blanks behind them aside; leading zeros are dropped.
    private static func integer(_ digits: Slice<UnsafeRawBufferPointer>, isNegative: Bool) -> [UInt8]? {
        let number = digits.prefix(while: SQLLexer.isDigit)
        guard !number.isEmpty, digits.count <= bytesMax,
            digits.dropFirst(number.count).allSatisfy(SQLLexer.isSpace)
        else { return nil }
        let significant = number.drop { $0 == 0x30 }
        if significant.isEmpty { return [0x30] }
        return isNegative ? [0x2D] + significant : Array(significant)
    }

    // MARK: UUIDs

    /// PostgreSQL's forms: 32 digits, a dash allowed behind each group of four, in braces or not; nil for others.
    package static func uuid(_ bytes: some Collection<UInt8>) -> [UInt8]? {
        guard (32...41).contains(bytes.count) else { return nil }
        let isBraced = bytes.first == 0x7B
        var digits: [UInt8] = []
        digits.reserveCapacity(36)
        var count = 0
        var wasDash = true
        for (index, byte) in bytes.enumerated() {
            if isBraced, index == 0 { continue }
            if isBraced, index == bytes.count - 1 {
                if byte != 0x7D { return nil }
                continue
            }
            if byte == 0x2D {
                if wasDash || !count.isMultiple(of: 4) || count == 32 { return nil }
                wasDash = true
                continue
            }
            guard let lower = hexDigit(byte), count < 32 else { return nil }
            if count == 8 || count == 12 || count == 16 || count == 20 { digits.append(0x2D) }
            digits.append(lower)
            count += 1
            wasDash = false
        }
        return count == 32 && !wasDash ? digits : nil
    }

    private static func dashed(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        var digits: [UInt8] = []
        digits.reserveCapacity(36)
        for (index, byte) in bytes.enumerated() {
            if index == 4 || index == 6 || index == 8 || index == 10 { digits.append(0x2D) }
            for digit in [byte >> 4, byte & 0xF] { digits.append(digit < 10 ? 0x30 + digit : 0x57 + digit) }
        }
        return digits
    }

    /// A hexadecimal digit in lower case.
    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39, 0x61...0x66: byte
        case 0x41...0x46: byte | 0x20
        default: nil
        }
    }
}
