/// One token: what it is and where it stands. A value, any thread.
package struct SQLToken: Sendable, Equatable {
    package enum Kind: UInt8, Sendable {
        case identifier, quotedIdentifier
        /// '…', E'…' and $tag$…$tag$: one constant to the grammar.
        case string
        case unicodeString, bitString, nationalString
        case integer, decimal, parameter
        case operation
        /// `,` `(` `)` `[` `]` `;` `.` `:` `::` `:=` `..`
        case punctuation
        case lineComment, blockComment
        case end
        /// A quote, dollar quote or comment that never ends.
        case unterminated
        /// A byte or a number that no token begins with or that PostgreSQL versions read differently.
        case stray
    }

    package var kind: Kind
    package var start: Int
    package var end: Int
}

/// PostgreSQL's scan.l by hand, over raw bytes, without an allocation. A value, one thread.
///
/// It agrees with standard_conforming_strings on, or off where it is told so, and with encodings in which bytes below
/// 0x80 are ASCII.
/// Where it is not sure it says `stray`: such a text is never remembered by its shape.
/// Strings go over `''`, E-strings over `\'`; `'a'` newline `'b'` are two tokens here, but one where the first is an
/// E-string: backslashes escape in the second as well then.
package struct SQLLexer {
    let text: UnsafeRawBufferPointer
    private(set) var position = 0
    // unsafe: 256 bytes that live for ever; indexed by a byte only.
    private let classes = ByteClass.table
    /// Plain quotes are read as E'…' is.
    private let isLoose: Bool

    package init(_ text: UnsafeRawBufferPointer, isLoose: Bool = false) {
        self.text = text
        self.isLoose = isLoose
    }

    /// The next token; `end` for ever after the last.
    package mutating func next() -> SQLToken {
        skip(ByteClass.space)
        let start = position
        guard start < text.count else { return SQLToken(kind: .end, start: start, end: start) }
        let kind = scan(text[start])
        return SQLToken(kind: kind, start: start, end: position)
    }

    private mutating func scan(_ byte: UInt8) -> SQLToken.Kind {
        switch byte {
        case 0x61...0x7A, 0x41...0x5A, 0x5F, 0x80...0xFF: return word(byte)
        case 0x30...0x39: return number()
        case 0x27: return plain(from: position + 1) ? .string : .unterminated
        case 0x22: return quoted(from: position + 1, by: 0x22, backslashes: false) ? .quotedIdentifier : .unterminated
        case 0x24: return dollar()
        case 0x2E: return dot()
        case 0x3A: return colon()
        case 0x2C, 0x28, 0x29, 0x5B, 0x5D, 0x3B:
            position += 1
            return .punctuation
        case 0x2D where peek(1) == 0x2D: return lineComment()
        case 0x2F where peek(1) == 0x2A: return blockComment()
        case 0x7E, 0x21, 0x40, 0x23, 0x5E, 0x26, 0x7C, 0x60, 0x3F, 0x2B, 0x2D, 0x2A, 0x2F, 0x25, 0x3C, 0x3E, 0x3D:
            return operation()
        default:
            position += 1
            return .stray
        }
    }

    /// Goes over bytes of these classes.
    @inline(__always) private mutating func skip(_ wanted: UInt8) {
        let (bytes, classes) = (text, classes)
        var next = position
        while next < bytes.count, classes[Int(bytes[next])] & wanted != 0 { next += 1 }
        position = next
    }

    /// The byte `distance` further on, 0 beyond the end.
    @inline(__always) private func peek(_ distance: Int) -> UInt8 {
        position + distance < text.count ? text[position + distance] : 0
    }

    // MARK: words and strings

    private mutating func word(_ first: UInt8) -> SQLToken.Kind {
        let second = peek(1)
        if second == 0x27 {
            switch first | 0x20 {
            case 0x65: return escaped(from: position + 2) ? .string : .unterminated
            case 0x62, 0x78: return quoted(from: position + 2, backslashes: false) ? .bitString : .unterminated
            case 0x6E: return plain(from: position + 2) ? .nationalString : .unterminated
            default: break
            }
        }
        if first | 0x20 == 0x75, second == 0x26 {
            if peek(2) == 0x27 {
                return quoted(from: position + 3, backslashes: false) ? .unicodeString : .unterminated
            }
            if peek(2) == 0x22 {
                return quoted(from: position + 3, by: 0x22, backslashes: false) ? .quotedIdentifier : .unterminated
            }
        }
        position += 1
        skip(ByteClass.word)
        return .identifier
    }

    private mutating func plain(from: Int) -> Bool {
        isLoose ? escaped(from: from) : quoted(from: from, backslashes: false)
    }

    /// Behind `E'`, with what it goes on with on further lines.
    private mutating func escaped(from: Int) -> Bool {
        var next: Int? = from
        while let from = next {
            if !quoted(from: from, backslashes: true) { return false }
            next = continuation()
        }
        return true
    }

    /// Behind the quote that takes up a string which was closed on an earlier line: scan.l's `quotecontinue`.
    private func continuation() -> Int? {
        var isOnNewLine = false
        var ahead = SQLLexer(text)
        ahead.position = position
        while ahead.position < text.count {
            switch text[ahead.position] {
            case 0x0A, 0x0D:
                isOnNewLine = true
                ahead.position += 1
            case 0x27: return isOnNewLine ? ahead.position + 1 : nil
            case let byte where SQLLexer.isSpace(byte): ahead.position += 1
            case 0x2D where ahead.peek(1) == 0x2D: _ = ahead.lineComment()
            default: return nil
            }
        }
        return nil
    }

    /// Goes to behind the closing quote. A doubled quote does not close.
    private mutating func quoted(from: Int, by quote: UInt8 = 0x27, backslashes: Bool) -> Bool {
        position = from
        while position < text.count {
            let byte = text[position]
            if byte == quote {
                if peek(1) != quote {
                    position += 1
                    return true
                }
                position += 2
            } else if backslashes && byte == 0x5C {
                position += 2
            } else {
                position += 1
            }
        }
        position = text.count
        return false
    }

    /// `$1`, or `$tag$…$tag$`.
    private mutating func dollar() -> SQLToken.Kind {
        let start = position
        position += 1
        if SQLLexer.isDigit(peek(0)) {
            skip(ByteClass.digit)
            return endsCleanly() ? .parameter : .stray
        }
        while position < text.count, SQLLexer.isWordPart(text[position]), text[position] != 0x24 { position += 1 }
        guard peek(0) == 0x24 else { return .stray }
        position += 1
        let tagLength = position - start
        while position + tagLength <= text.count {
            if text[position] == 0x24, matchesTag(at: start, length: tagLength) {
                position += tagLength
                return .string
            }
            position += 1
        }
        position = text.count
        return .unterminated
    }

    private func matchesTag(at start: Int, length: Int) -> Bool {
        for offset in 0..<length where text[start + offset] != text[position + offset] { return false }
        return true
    }

    // MARK: numbers and signs

    private mutating func number() -> SQLToken.Kind {
        let start = position
        skip(ByteClass.digit)
        var isDecimal = position - start > 9               // may not fit int4: another token to the grammar
        if peek(0) == 0x2E, peek(1) != 0x2E {
            isDecimal = true
            position += 1
            skip(ByteClass.digit)
        }
        if peek(0) | 0x20 == 0x65 { isDecimal = true }
        return exponent() && endsCleanly() ? (isDecimal ? .decimal : .integer) : .stray
    }

    private mutating func exponent() -> Bool {
        guard peek(0) | 0x20 == 0x65 else { return true }
        let isSigned = peek(1) == 0x2B || peek(1) == 0x2D
        guard SQLLexer.isDigit(peek(isSigned ? 2 : 1)) else { return false }
        position += isSigned ? 2 : 1
        skip(ByteClass.digit)
        return true
    }

    /// A number or parameter that runs into a word is an error to new servers and two tokens to old ones.
    private func endsCleanly() -> Bool { !SQLLexer.isWordPart(peek(0)) || position >= text.count }

    private mutating func dot() -> SQLToken.Kind {
        position += 1
        if peek(0) == 0x2E {
            position += 1
            return .punctuation
        }
        guard SQLLexer.isDigit(peek(0)) else { return .punctuation }
        skip(ByteClass.digit)
        return exponent() && endsCleanly() ? .decimal : .stray
    }

    private mutating func colon() -> SQLToken.Kind {
        position += peek(1) == 0x3A || peek(1) == 0x3D ? 2 : 1
        return .punctuation
    }

    /// scan.l's rule: the longest run of operator bytes, cut where a comment begins; a trailing + or - belongs to it
    /// only if one of ~ ! @ # ^ & | ` ? % is in it.
    private mutating func operation() -> SQLToken.Kind {
        let start = position
        var isSpecial = false
        while position < text.count, SQLLexer.isOperator(text[position]) {
            let byte = text[position]
            if byte == 0x2D && peek(1) == 0x2D || byte == 0x2F && peek(1) == 0x2A { break }
            switch byte {
            case 0x7E, 0x21, 0x40, 0x23, 0x5E, 0x26, 0x7C, 0x60, 0x3F, 0x25: isSpecial = true
            default: break
            }
            position += 1
        }
        if !isSpecial {
            while position - start > 1, text[position - 1] == 0x2B || text[position - 1] == 0x2D { position -= 1 }
        }
        return .operation
    }

    // MARK: comments

    private mutating func lineComment() -> SQLToken.Kind {
        while position < text.count, text[position] != 0x0A, text[position] != 0x0D { position += 1 }
        return .lineComment
    }

    private mutating func blockComment() -> SQLToken.Kind {
        var depth = 0
        while position + 1 < text.count {
            if text[position] == 0x2F, text[position + 1] == 0x2A {
                depth += 1
                position += 2
            } else if text[position] == 0x2A, text[position + 1] == 0x2F {
                depth -= 1
                position += 2
                if depth == 0 { return .blockComment }
            } else {
                position += 1
            }
        }
        position = text.count
        return .unterminated
    }

    // MARK: bytes

    static func isSpace(_ byte: UInt8) -> Bool {
        byte == 0x20 || byte == 0x0A || byte == 0x09 || byte == 0x0D || byte == 0x0C
    }

    static func isDigit(_ byte: UInt8) -> Bool { byte &- 0x30 < 10 }

    static func isWordPart(_ byte: UInt8) -> Bool {
        (byte | 0x20) &- 0x61 < 26 || byte == 0x5F || byte >= 0x80 || isDigit(byte) || byte == 0x24
    }

    static func isOperator(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x7E, 0x21, 0x40, 0x23, 0x5E, 0x26, 0x7C, 0x60, 0x3F, 0x2B, 0x2D, 0x2A, 0x2F, 0x25, 0x3C, 0x3E, 0x3D: true
        default: false
        }
    }
}

/// What a byte may be part of, as bits: one load instead of a chain of comparisons. Immutable, any thread.
enum ByteClass {
    static let word: UInt8 = 1
    static let digit: UInt8 = 2
    static let space: UInt8 = 4

    // unsafe: written once, before anybody can read it, and never freed.
    nonisolated(unsafe) static let table: UnsafePointer<UInt8> = {
        let table = UnsafeMutablePointer<UInt8>.allocate(capacity: 256)
        for byte in UInt8.min...UInt8.max {
            table[Int(byte)] = (SQLLexer.isWordPart(byte) ? word : 0) | (SQLLexer.isDigit(byte) ? digit : 0)
                | (SQLLexer.isSpace(byte) ? space : 0)
        }
        return UnsafePointer(table)
    }()
}

extension SQLToken {
    /// True when the token is this word, in any case. `word` is lower case.
    func `is`(_ word: StaticString, in text: UnsafeRawBufferPointer) -> Bool {
        guard kind == .identifier, end - start == word.utf8CodeUnitCount else { return false }
        for offset in 0..<word.utf8CodeUnitCount {
            let byte = text[start + offset]
            let lower = byte &- 0x41 < 26 ? byte | 0x20 : byte
            // unsafe: a StaticString's bytes are only reachable by pointer; the offset is below its count.
            if lower != word.utf8Start[offset] { return false }
        }
        return true
    }

    /// True when the token is this one byte of punctuation or operator.
    func isMark(_ byte: Unicode.Scalar, in text: UnsafeRawBufferPointer) -> Bool {
        (kind == .punctuation || kind == .operation) && end - start == 1 && UInt32(text[start]) == byte.value
    }
}

/// UTF-8 without NUL: the only text that is analysed.
enum PlainText {
    static func isValid(_ text: UnsafeRawBufferPointer) -> Bool {
        var position = 0
        while position + 8 <= text.count {
            let word = text.loadUnaligned(fromByteOffset: position, as: UInt64.self)
            let zeroes = (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
            if word & 0x8080_8080_8080_8080 | zeroes != 0 { return isValidSlowly(text, from: position) }
            position += 8
        }
        return isValidSlowly(text, from: position)
    }

    /// The table of well-formed sequences in the Unicode standard (3-7), plus: no NUL.
    private static func isValidSlowly(_ text: UnsafeRawBufferPointer, from start: Int) -> Bool {
        var position = start
        while position < text.count {
            let lead = text[position]
            var second: ClosedRange<UInt8> = 0x80...0xBF
            let length: Int
            switch lead {
            case 0x01...0x7F: length = 1
            case 0xC2...0xDF: length = 2
            case 0xE0: (length, second) = (3, 0xA0...0xBF)
            case 0xED: (length, second) = (3, 0x80...0x9F)
            case 0xE1...0xEF: length = 3
            case 0xF0: (length, second) = (4, 0x90...0xBF)
            case 0xF4: (length, second) = (4, 0x80...0x8F)
            case 0xF1...0xF3: length = 4
            default: return false
            }
            if position + length > text.count { return false }
            if length > 1, !second.contains(text[position + 1]) { return false }
            for offset in 2..<max(2, length) where text[position + offset] & 0xC0 != 0x80 { return false }
            position += length
        }
        return true
    }
}
