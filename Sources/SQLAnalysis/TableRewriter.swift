/// A table that a statement names. A value, any thread.
package struct RelationReference: Sendable, Equatable {
    package let schema: String?
    package let name: String
    /// Which of the text's words and quoted identifiers it begins at, from 0: the same in all texts of a shape.
    let word: Int
    /// Words of its name: 1 to 3.
    let parts: Int
    /// An alias may be added behind it.
    let takesAlias: Bool
    /// False where the name may mean something else: a WITH query, or an alias in FOR UPDATE OF.
    package let isTable: Bool
}

/// One table's name, to be replaced. A value, any thread.
package struct TableEdit: Sendable {
    let relation: RelationReference
    let schema: String?
    let name: String

    package init(_ relation: RelationReference, schema: String?, name: String) {
        self.relation = relation
        self.schema = schema
        self.name = name
    }

    fileprivate var replacement: String {
        let table = (schema.map { Self.quoted($0) + "." } ?? "") + Self.quoted(name)
        return table
    }

    fileprivate static func quoted(_ name: String) -> String {
        "\"" + name.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
    }
}

/// Replaces names of tables, token by token. No state, any thread.
package enum TableRewriter {
    /// - Returns: nil when the text's tokens are not those that the edits were made for.
    package static func apply(_ edits: [TableEdit], to text: UnsafeRawBufferPointer) -> [UInt8]? {
        let edits = edits.sorted { $0.relation.word < $1.relation.word }
        var output: [UInt8] = []
        output.reserveCapacity(text.count + 64 * edits.count)
        var copied = 0
        var next = 0
        var word = -1
        var lexer = SQLLexer(text)
        /// The two tokens before the present one, comments aside: `ONLY (`, `TABLE`.
        var before = (SQLToken(kind: .end, start: 0, end: 0), SQLToken(kind: .end, start: 0, end: 0))
        while next < edits.count {
            let token = lexer.next()
            switch token.kind {
            case .end, .unterminated: return nil
            case .lineComment, .blockComment: continue
            default: break
            }
            let isWord = token.kind == .identifier || token.kind == .quotedIdentifier
            if isWord { word += 1 }
            if isWord, word == edits[next].relation.word {
                var last = token
                for _ in 1..<edits[next].relation.parts {
                    last = significant(&lexer)
                    guard last.isMark(".", in: text) else { return nil }
                    last = significant(&lexer)
                    guard last.kind == .identifier || last.kind == .quotedIdentifier else { return nil }
                    word += 1
                }
                output.append(contentsOf: text[copied..<token.start])
                output.append(contentsOf: edits[next].replacement.utf8)
                var follow = lexer
                let behind = significant(&follow)
                let isBare = before.1.is("table", in: text)
                    || before.1.isMark("(", in: text) && before.0.is("only", in: text) || behind.isMark("*", in: text)
                if edits[next].relation.takesAlias, !isBare {
                    output.append(contentsOf: " AS \(TableEdit.quoted(edits[next].relation.name))".utf8)
                }
                copied = last.end
                next += 1
                before = (token, last)
                continue
            }
            before = (before.1, token)
        }
        output.append(contentsOf: text[copied...])
        return output
    }

    /// The word number of each offset at which a word begins.
    static func words(at offsets: Set<Int>, in text: UnsafeRawBufferPointer) -> [Int: Int] {
        var found: [Int: Int] = [:]
        var lexer = SQLLexer(text)
        var word = 0
        while found.count < offsets.count {
            let token = lexer.next()
            if token.kind == .end || token.kind == .unterminated { break }
            guard token.kind == .identifier || token.kind == .quotedIdentifier else { continue }
            if offsets.contains(token.start) { found[token.start] = word }
            word += 1
        }
        return found
    }

    private static func significant(_ lexer: inout SQLLexer) -> SQLToken {
        var token = lexer.next()
        while token.kind == .lineComment || token.kind == .blockComment { token = lexer.next() }
        return token
    }
}
