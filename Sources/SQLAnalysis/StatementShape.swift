/// Names a statement shape: the same in every thread and process. Two shapes may share one, with a chance of 1 in 2^64.
package struct ShapeID: Sendable, Hashable {
    package let value: UInt64

    /// Of the text that is shown to people.
    package static let textBytesMax = 300
    private static let seed: UInt64 = 0x676F_6477_6974

    package init(_ value: UInt64) { self.value = value }

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

    // unsafe: one scratch buffer that outlives each text; written below `shapeBytesMax` only, freed in deinit.
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: ShapeWriter.shapeBytesMax, alignment: 8)
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

    private(set) var literals: [Literal] = []
    /// The constant written last is the last of `literals`.
    private var isLastLiteralNoted = false
    private(set) var commentKey: KeyReference?
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
            case .punctuation where token.isMark(",", in: text):
                if case .inside = list, !heldComma {
                    heldComma = true
                } else {
                    copy(token, text)
                }
                signAllowed = true
            case .identifier, .quotedIdentifier, .parameter, .operation, .punctuation:
                if token.isMark("-", in: text), signAllowed {
                    sign = token
                    previousString = -1
                    continue
                }
                flush(&heldComma)
                advance(&list, token, text)
                signAllowed = allowsSign(after: token, text)
                copy(token, text)
            }
            previousString = token.kind == .string ? token.end : -1
        }
    }

    // MARK: lists

    private func advance(_ list: inout List, _ token: SQLToken, _ text: UnsafeRawBufferPointer) {
        switch list {
        case .opening where token.isMark("(", in: text) || token.isMark("[", in: text):
            list = .inside(lastPlaceholder: 0)
        case .none, .opening, .inside:
            list = token.is("in", in: text) || token.is("array", in: text) ? .opening : .none
        }
    }

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

    /// After these a minus is a sign: folding it into the number cannot change what the grammar makes of the text.
    private func allowsSign(after token: SQLToken, _ text: UnsafeRawBufferPointer) -> Bool {
        switch token.kind {
        case .punctuation: token.isMark("(", in: text) || token.isMark("[", in: text)
        case .operation:
            token.isMark("=", in: text) || token.isMark("<", in: text) || token.isMark(">", in: text)
        case .identifier:
            token.is("select", in: text) || token.is("and", in: text) || token.is("between", in: text)
                || token.is("then", in: text) || token.is("else", in: text) || token.is("or", in: text)
                || token.is("when", in: text)
        case .quotedIdentifier, .parameter, .string, .unicodeString, .bitString, .nationalString, .integer,
            .decimal, .lineComment, .blockComment, .end, .unterminated, .stray:
            false
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
        guard length < buffer.count else { return }
        buffer[length] = byte
        length += 1
    }

    /// Unquoted words in lower case, everything else as it stands.
    private func copy(_ token: SQLToken, _ text: UnsafeRawBufferPointer) {
        append(0x20)
        let count = token.end - token.start
        guard length + count < buffer.count else {
            length = buffer.count
            return
        }
        if token.kind == .identifier {
            for offset in 0..<count {
                let byte = text[token.start + offset]
                buffer[length + offset] = byte &- 0x41 < 26 ? byte | 0x20 : byte
            }
        } else {
            for offset in 0..<count { buffer[length + offset] = text[token.start + offset] }
        }
        length += count
    }
}
