/// A text of several statements, cut behind the first that ends a transaction: what follows runs in a transaction of
/// its own anyway. A value, any thread.
package struct TextCut: Equatable, Sendable {
    package var first: [UInt8]
    /// Its characters stand where they stood, so that the positions in errors are right, and its comments, for they may
    /// say whose it is, are all there.
    package var rest: [UInt8]

    /// - Parameter end: offset behind the last statement of `first`, in a text that the grammar has accepted.
    init(_ text: UnsafeRawBufferPointer, end: Int) {
        first = Array(text[..<end])
        rest = []
        rest.reserveCapacity(text.count)
        // The semicolon behind the end belongs to nobody then.
        let front = UnsafeRawBufferPointer(rebasing: text[..<min(end + 1, text.count)])
        var lexer = SQLLexer(front)
        var copied = 0
        while true {
            let token = lexer.next()
            if token.kind == .lineComment || token.kind == .blockComment {
                blank(front[copied..<token.start])
                rest += front[token.start..<token.end]
                copied = token.end
            }
            if token.kind == .end || token.kind == .unterminated { break }
        }
        blank(front[copied...])
        rest += text[front.count...]
    }

    private mutating func blank(_ bytes: Slice<UnsafeRawBufferPointer>) {
        for byte in bytes {
            switch byte {
            case 0x0A, 0x0D: rest.append(byte)
            case 0x80...0xBF: continue               // goes on with a character of UTF-8
            default: rest.append(0x20)
            }
        }
    }
}
