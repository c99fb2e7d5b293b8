/// Texts of sessions with standard_conforming_strings off, in which backslashes escape in plain quotes as well. No
/// state, any thread.
package enum LooseStrings {
    /// The text as it is written where the setting is on, which is how texts are analysed.
    ///
    /// - Returns: nil: it is the same.
    package static func standard(_ text: UnsafeRawBufferPointer) -> [UInt8]? {
        if !text.contains(0x5C) { return nil }
        var lexer = SQLLexer(text, isLoose: true)
        var output: [UInt8] = []
        var copied = 0
        while true {
            let token = lexer.next()
            if token.kind == .end || token.kind == .unterminated { break }
            let isNational = token.kind == .nationalString
            guard isNational || token.kind == .string && text[token.start] == 0x27,
                text[token.start..<token.end].contains(0x5C)
            else { continue }
            output += text[copied..<token.start]
            output += " E".utf8
            copied = isNational ? token.start + 1 : token.start
        }
        return output.isEmpty ? nil : output + text[copied...]
    }
}
