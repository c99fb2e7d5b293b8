/// Names a statement shape: the same in every thread and process. Two shapes may share one, with a chance of 1 in 2^64.
@usableFromInline @frozen package struct ShapeID: Sendable, Hashable {
    @usableFromInline package let value: UInt64

    /// Of the text that is shown to people.
    package static let textBytesMax = 300
    private static let seed: UInt64 = 0x676F_6477_6974

    @inlinable package init(_ value: UInt64) { self.value = value }

    /// Spelled out: what the compiler makes is not inlined into other modules.
    @inlinable package static func == (left: ShapeID, right: ShapeID) -> Bool { left.value == right.value }

    /// What dictionaries ask for, once for each unit: the value is a hash already. The factor keeps those who can
    /// choose texts from choosing places (Dietzfelbinger et al. 1997, multiply-shift).
    @usableFromInline package func _rawHashValue(seed: Int) -> Int {
        Int(truncatingIfNeeded: (value &* ShapeID.factor) >> 24)
    }

    private static let factor = UInt64.random(in: 0 ... .max) | 1

    init(_ shape: UnsafeRawBufferPointer) { self.init(TextHash.hash(shape, seed: ShapeID.seed)) }

    /// Of an example; nil when its text has no shape.
    package init?(ofText text: String) {
        let writer = ShapeWriter(keyPlan: KeyPlan([]))
        let found = Array(text.utf8).withUnsafeBytes { bytes in
            writer.write(bytes) == .shape ? ShapeID(writer.shape) : nil
        }
        guard let found else { return nil }
        self = found
    }

    /// A shape for people: literals are `?`.
    static func text(_ shape: UnsafeRawBufferPointer) -> String {
        let head = shape.prefix(textBytesMax).map { $0 < 0x20 ? UInt8(ascii: "?") : $0 }
        return String(decoding: head.first == 0x20 ? head.dropFirst() : head[...], as: UTF8.self)
    }
}

/// A text with its literals cut out: the same bytes for all texts that differ in literals, blanks, comments, the case
/// of unquoted words and the length of IN lists only. One thread; the buffers are reused from text to text.
///
/// Tokens are separated by one blank, so that two texts of one shape have the same tokens to the grammar but for the
/// values of constants. Constants are single bytes below 0x20, which no token holds.
final class ShapeWriter {
    /// Longer shapes are not remembered.
    static let shapeBytesMax = 16 << 10
    /// Literals whose place is noted, for keys found by column.
    static let literalsMax = 64

    private enum Placeholder {
        static let integer: UInt8 = 0x01
        static let decimal: UInt8 = 0x02
        static let string: UInt8 = 0x03
        static let unicodeString: UInt8 = 0x04
        static let bitString: UInt8 = 0x05
        static let nationalString: UInt8 = 0x06
        /// Between two strings with a line break between them, which the grammar takes as one.
        static let lineBreak: UInt8 = 0x0A
    }

    enum Outcome {
        /// May be looked up and remembered.
        case shape
        /// The text is in order, but its shape is not to be remembered.
        case unshaped
        case unterminated
    }

    // unsafe: one scratch buffer that outlives each text; freed in deinit. Words are written eight bytes at once.
    private let buffer = UnsafeMutableRawBufferPointer.allocate(
        byteCount: ShapeWriter.shapeBytesMax + 8, alignment: 8)
    private var length = 0
    /// A constant of the text, its sign included.
    struct Literal {
        var offset: Int
        var length: Int
        /// Further constants of its list that the shape does not show.
        var repeats = 0
        /// The grammar takes it and the next one, on another line, as one string.
        var isJoined = false
    }

    /// Of the text looked at last, also where that was found by a template.
    var literals: [Literal] = []
    /// The constant written last is the last of `literals`.
    private var isLastLiteralNoted = false
    var commentKey: KeyReference?
    private var commentSources: [(source: Int, name: [UInt8])] = []

    init(keyPlan: KeyPlan) {
        literals.reserveCapacity(ShapeWriter.literalsMax)
        for (index, source) in keyPlan.sources.enumerated() {
            if case .comment(let name) = source { commentSources.append((index, Array(name.utf8))) }
        }
    }

    deinit { buffer.deallocate() }

    var shape: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: buffer[0..<length]) }

    /// What the list state machine has seen: literals that follow one another in `IN (…)` or `ARRAY[…]` become one.
    private enum List { case none, opening, inside(lastPlaceholder: UInt8) }

    func write(_ text: UnsafeRawBufferPointer) -> Outcome {
        length = 0
        literals.removeAll(keepingCapacity: true)
        isLastLiteralNoted = false
        commentKey = nil
        var lexer = SQLLexer(text)
        var list = List.none
        var heldComma = false
        var sign: SQLToken?
        var previousString = -1
        var signAllowed = true
        var isShape = true
        while true {
            let token = lexer.next()
            if let minus = sign {
                sign = nil
                if token.kind == .integer || token.kind == .decimal {
                    literal(token, from: minus.start, &list, &heldComma)
                    signAllowed = false
                    continue
                }
                flush(&heldComma)
                list = .none
                copy(minus, text)
            }
            switch token.kind {
            case .end: return isShape && length < ShapeWriter.shapeBytesMax ? .shape : .unshaped
            case .unterminated: return .unterminated
            case .stray: isShape = false
            case .lineComment: continue
            case .blockComment:
                findKey(text, token)
                continue
            case .integer, .decimal, .bitString, .nationalString, .unicodeString:
                literal(token, from: token.start, &list, &heldComma)
                signAllowed = false
            case .string:
                if previousString >= 0, hasLineBreak(text, previousString..<token.start) {
                    append(Placeholder.lineBreak)
                    if isLastLiteralNoted { literals[literals.count - 1].isJoined = true }
                }
                literal(token, from: token.start, &list, &heldComma)
                signAllowed = false
            case .punctuation where text[token.start] == UInt8(ascii: ","):
                if case .inside = list, !heldComma {
                    heldComma = true
                } else {
                    copy(token, text)
                }
                signAllowed = true
            case .identifier:
                flush(&heldComma)
                let word = copyWord(token, text)
                list = word == Word.in || word == Word.array ? .opening : .none
                signAllowed = Word.allowsSign(after: word)
            case .quotedIdentifier, .parameter, .operation, .punctuation:
                let mark = mark(token, text)
                if mark == UInt8(ascii: "-"), signAllowed {
                    sign = token
                    previousString = -1
                    continue
                }
                flush(&heldComma)
                if case .opening = list, mark == UInt8(ascii: "(") || mark == UInt8(ascii: "[") {
                    list = .inside(lastPlaceholder: 0)
                } else {
                    list = .none
                }
                signAllowed = ShapeWriter.allowsSign(after: mark)
                copy(token, text)
            }
            previousString = token.kind == .string ? token.end : -1
        }
    }

    // MARK: lists

    private func literal(_ token: SQLToken, from start: Int, _ list: inout List, _ heldComma: inout Bool) {
        let placeholder = placeholder(of: token.kind)
        switch list {
        case .none: break
        case .opening: list = .none
        case .inside(let last):
            list = .inside(lastPlaceholder: placeholder)
            if heldComma, last == placeholder {
                heldComma = false
                if isLastLiteralNoted { literals[literals.count - 1].repeats += 1 }
                return
            }
        }
        flush(&heldComma)
        append(0x20)
        append(placeholder)
        isLastLiteralNoted = literals.count < ShapeWriter.literalsMax
        if isLastLiteralNoted { literals.append(Literal(offset: start, length: token.end - start)) }
    }

    private func flush(_ heldComma: inout Bool) {
        guard heldComma else { return }
        heldComma = false
        append(0x20)
        append(0x2C)
    }

    private func placeholder(of kind: SQLToken.Kind) -> UInt8 {
        switch kind {
        case .integer: Placeholder.integer
        case .decimal: Placeholder.decimal
        case .unicodeString: Placeholder.unicodeString
        case .bitString: Placeholder.bitString
        case .nationalString: Placeholder.nationalString
        case .string: Placeholder.string
        case .identifier, .quotedIdentifier, .parameter, .operation, .punctuation, .lineComment, .blockComment,
            .end, .unterminated, .stray:
            preconditionFailure("not a literal")
        }
    }

    // MARK: signs

    /// The byte of a punctuation or operator of one byte; 0: it is another token.
    private func mark(_ token: SQLToken, _ text: UnsafeRawBufferPointer) -> UInt8 {
        guard token.end - token.start == 1, token.kind == .punctuation || token.kind == .operation else { return 0 }
        return text[token.start]
    }

    /// After these a minus is a sign: folding it into the number cannot change what the grammar makes of the text.
    private static func allowsSign(after mark: UInt8) -> Bool {
        switch mark {
        case UInt8(ascii: "("), UInt8(ascii: "["), UInt8(ascii: "="), UInt8(ascii: "<"), UInt8(ascii: ">"): true
        default: false
        }
    }

    /// Words of up to eight bytes in lower case, the first byte lowest: compared in one step.
    private enum Word {
        static var `in`: UInt64 { 0x6E_69 }
        static var array: UInt64 { 0x79_61_72_72_61 }
        private static var select: UInt64 { 0x74_63_65_6C_65_73 }
        private static var and: UInt64 { 0x64_6E_61 }
        private static var or: UInt64 { 0x72_6F }
        private static var between: UInt64 { 0x6E_65_65_77_74_65_62 }
        private static var then: UInt64 { 0x6E_65_68_74 }
        private static var `else`: UInt64 { 0x65_73_6C_65 }
        private static var when: UInt64 { 0x6E_65_68_77 }

        static func allowsSign(after word: UInt64) -> Bool {
            word == select || word == and || word == or || word == between || word == then || word == `else`
                || word == when
        }
    }

    // MARK: keys and bytes

    private func findKey(_ text: UnsafeRawBufferPointer, _ comment: SQLToken) {
        for (source, name) in commentSources {
            if let key = commentKey, key.source <= source { return }
            if let form = KeyExtractor.find(name, in: text, comment: comment.start..<comment.end) {
                commentKey = KeyReference(source: source, form: form)
                return
            }
        }
    }

    private func hasLineBreak(_ text: UnsafeRawBufferPointer, _ range: Range<Int>) -> Bool {
        for offset in range where text[offset] == 0x0A || text[offset] == 0x0D { return true }
        return false
    }

    private func append(_ byte: UInt8) {
        guard length < ShapeWriter.shapeBytesMax else { return }
        buffer[length] = byte
        length += 1
    }

    /// A token as it stands.
    private func copy(_ token: SQLToken, _ text: UnsafeRawBufferPointer) {
        let count = token.end - token.start
        guard let target = room(for: count) else { return }
        if count == 1 {
            target.storeBytes(of: text[token.start], as: UInt8.self)
        } else {
            target.copyMemory(from: text.baseAddress.unsafelyUnwrapped + token.start, byteCount: count)
        }
    }

    /// An unquoted word in lower case.
    ///
    /// - Returns: its bytes as a number; 0 when there are more than eight.
    private func copyWord(_ token: SQLToken, _ text: UnsafeRawBufferPointer) -> UInt64 {
        let count = token.end - token.start
        guard let target = room(for: count) else { return 0 }
        if count > 8 {
            var offset = 0
            while offset < count {
                // The last step goes over some bytes again.
                let place = min(offset, count - 8)
                let bytes = text.loadUnaligned(fromByteOffset: token.start + place, as: UInt64.self)
                target.storeBytes(of: Self.lowered(bytes), toByteOffset: place, as: UInt64.self)
                offset += 8
            }
            return 0
        }
        var word: UInt64 = 0
        if token.start + 8 <= text.count {
            word = text.loadUnaligned(fromByteOffset: token.start, as: UInt64.self) & (~0 >> UInt64(64 - 8 * count))
        } else {
            for offset in 0..<count { word |= UInt64(text[token.start + offset]) << UInt64(8 * offset) }
        }
        word = Self.lowered(word)
        // What is behind the word is written over, or not looked at.
        target.storeBytes(of: word, as: UInt64.self)
        return word
    }

    /// Eight bytes at once: A to Z in lower case, all others as they are.
    @inline(__always) private static func lowered(_ bytes: UInt64) -> UInt64 {
        let low = bytes & 0x7F7F_7F7F_7F7F_7F7F
        let isFromA = low &+ 0x3F3F_3F3F_3F3F_3F3F
        let isBehindZ = low &+ 0x2525_2525_2525_2525
        return bytes | ((isFromA ^ isBehindZ) & ~bytes & 0x8080_8080_8080_8080) >> 2
    }

    /// Writes a blank and gives the place for so many bytes behind it, or some more; nil: the shape becomes too long.
    @inline(__always) private func room(for count: Int) -> UnsafeMutableRawPointer? {
        guard length + 1 + count < ShapeWriter.shapeBytesMax else {
            length = ShapeWriter.shapeBytesMax
            return nil
        }
        // unsafe: checked right above.
        let place = buffer.baseAddress.unsafelyUnwrapped + length
        place.storeBytes(of: 0x20, as: UInt8.self)
        length += count + 1
        return place + 1
    }
}
