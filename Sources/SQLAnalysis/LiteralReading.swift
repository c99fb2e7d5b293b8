/// What the meaning of a text's literals hangs on besides the text. PostgreSQL reads them when it prepares a statement,
/// and not when it runs it. A value, any thread.
package enum LiteralReading: UInt8, Sendable {
    /// There are none but numbers.
    case anyhow
    /// On the session: what zone a time is in, what a backslash does, which character a byte is.
    case bySession
    /// On the moment as well: 'now', 'today'.
    case once

    /// Of a text without the wire's closing NUL.
    package init(of text: UnsafeRawBufferPointer) {
        self = text.contains { $0 >= 0x80 } ? .bySession : .anyhow
        var lexer = SQLLexer(text)
        while true {
            let token = lexer.next()
            switch token.kind {
            case .end: return
            case .unterminated:
                self = .once  // its session reads quotes in another way
                return
            case .string, .unicodeString, .nationalString:
                self = Self.namesMoment(token, text) ? .once : .bySession
                if self == .once { return }
            case .identifier, .quotedIdentifier, .bitString, .integer, .decimal, .parameter, .operation, .punctuation,
                .lineComment, .blockComment, .stray:
                break
            }
        }
    }

    /// One of its words is a time that goes on.
    private static func namesMoment(_ literal: SQLToken, _ text: UnsafeRawBufferPointer) -> Bool {
        var start = literal.start
        while start < literal.end {
            var end = start
            while end < literal.end, (text[end] | 0x20) &- 0x61 < 26 { end += 1 }
            let word = SQLToken(kind: .identifier, start: start, end: end)
            if word.is("now", in: text) || word.is("today", in: text) || word.is("tomorrow", in: text)
                || word.is("yesterday", in: text)
            {
                return true
            }
            start = end + 1
        }
        return false
    }
}
