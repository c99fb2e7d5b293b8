/// SET, RESET and SHOW of one setting in their plain forms, without the grammar. No state, any thread.
///
/// Applications send `SET godwit.user = '42'` once per request with ever new values, and the grammar would refuse
/// that one: `user` is a reserved word. What is not exactly of this form is left to the grammar (nil).
package struct SimpleSetting {
    private let text: UnsafeRawBufferPointer
    private var lexer: SQLLexer
    /// Where the word behind the dot is, which has no quotes.
    private var lastWord: Range<Int>?

    private init(text: UnsafeRawBufferPointer, lexer: SQLLexer) {
        self.text = text
        self.lexer = lexer
    }

    /// The same with quotes about the name's last word, so that PostgreSQL takes any word there.
    ///
    /// - Returns: nil: it is none of these forms, or has them already.
    package static func quoted(_ text: UnsafeRawBufferPointer) -> [UInt8]? {
        var parser = SimpleSetting(text: text, lexer: SQLLexer(text))
        guard parser.run() != nil, let word = parser.lastWord else { return nil }
        return text[..<word.lowerBound] + [0x22] + text[word] + [0x22] + text[word.upperBound...]
    }

    static func classify(_ text: UnsafeRawBufferPointer) -> Classification? {
        var parser = SimpleSetting(text: text, lexer: SQLLexer(text))
        return parser.run()
    }

    private mutating func run() -> Classification? {
        let first = next()
        if first.is("set", in: text) { return set() }
        let isReset = first.is("reset", in: text)
        guard isReset || first.is("show", in: text), let (name, after) = name(next()), name.contains("."), isEnd(after)
        else { return nil }
        var result = Classification(isReset ? .reset : .show, .sessionState)
        result.objectName = name
        if isReset { result.effects = [.resets(name)] }
        return result
    }

    private mutating func set() -> Classification? {
        var token = next()
        let isLocal = token.is("local", in: text)
        if isLocal || token.is("session", in: text) { token = next() }
        guard let (name, sign) = name(token), !isList(name), sign.isMark("=", in: text) || sign.is("to", in: text)
        else { return nil }
        let value = next()
        let isDefault = value.is("default", in: text)
        let words = isDefault ? nil : plain(value, isWordAllowed: name.contains("."))
        guard isDefault || words != nil, isEnd(next()) else { return nil }
        var result = Classification(.set, .sessionState)
        result.objectName = name
        result.effects = [.sets(SettingChange(name: name, value: words, isLocal: isLocal))]
        return result
    }

    /// The next token that is no comment.
    private mutating func next() -> SQLToken {
        var token = lexer.next()
        while token.kind == .lineComment || token.kind == .blockComment { token = lexer.next() }
        return token
    }

    /// `name` or `class.name` in lower case, and the token after it.
    private mutating func name(_ first: SQLToken) -> (String, SQLToken)? {
        guard first.kind == .identifier, !isKeyword(first) else { return nil }
        let start = string(first.start..<first.end).lowercased()
        let second = next()
        guard second.isMark(".", in: text) else { return (start, second) }
        let third = next()
        guard third.kind == .identifier else { return nil }
        lastWord = third.start..<third.end
        return (start + "." + string(third.start..<third.end).lowercased(), next())
    }

    private mutating func isEnd(_ token: SQLToken) -> Bool {
        var token = token
        while token.isMark(";", in: text) { token = next() }
        return token.kind == .end
    }

    /// Words that begin another form of SET, RESET or SHOW.
    private func isKeyword(_ token: SQLToken) -> Bool {
        token.is("transaction", in: text) || token.is("session", in: text) || token.is("local", in: text)
            || token.is("time", in: text) || token.is("role", in: text) || token.is("xml", in: text)
            || token.is("schema", in: text) || token.is("catalog", in: text) || token.is("names", in: text)
            || token.is("constraints", in: text) || token.is("all", in: text)
    }

    /// Lists of identifiers are quoted one by one.
    private func isList(_ name: String) -> Bool {
        name == "search_path" || name == "temp_tablespaces" || name == "unix_socket_directories"
            || name.hasSuffix("_preload_libraries")
    }

    /// '…' without a backslash, digits, or, where PostgreSQL leaves the meaning to us, a word.
    private func plain(_ token: SQLToken, isWordAllowed: Bool) -> String? {
        switch token.kind {
        // The grammar's number has no leading zeros, by which `set_config` would read it as an octal one. What is none
        // of four bytes it keeps as it is written.
        case .integer, .decimal:
            let digits = string(token.start..<token.end)
            guard digits.utf8.allSatisfy({ 0x30...0x39 ~= $0 }) else { return nil }
            return Int32(digits).map { String($0) } ?? digits
        // It folds the letters of ASCII only.
        case .identifier:
            guard isWordAllowed, text[token.start..<token.end].allSatisfy({ $0 < 0x80 }) else { return nil }
            return string(token.start..<token.end).lowercased()
        case .string:
            guard text[token.start] == 0x27 else { return nil }
            let inner = text[(token.start + 1)..<(token.end - 1)]
            if inner.contains(0x5C) { return nil }
            let value = string(inner.startIndex..<inner.endIndex)
            if !inner.contains(0x27) { return value }
            return value.split(separator: "''", omittingEmptySubsequences: false).joined(separator: "'")
        default: return nil
        }
    }

    private func string(_ range: Range<Int>) -> String { String(decoding: text[range], as: UTF8.self) }
}
