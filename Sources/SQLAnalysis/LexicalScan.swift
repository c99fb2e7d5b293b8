/// What the words of a text say when the grammar is not asked. No state, no allocation, any thread.
enum LexicalScan {
    /// Bracket levels that are followed; deeper text is too deep whatever the caller's bound.
    private static let levelsMax = 2048

    /// One open bracket or CASE: how deep the tree below it can be.
    private struct Level {
        var isCase = false
        /// Operators since the last comma, AND, OR, WHEN, THEN or ELSE: each may stand on top of the one before.
        var chain = 0
        /// Of `BETWEEN a AND b`: that AND joins nothing, and what comes behind it stands on top of what was before.
        var betweens = 0
        /// The deepest bracket that was closed among them.
        var child = 0
        var deepest = 0

        var depth: Int { max(deepest, chain + child + 1) }

        mutating func cut() {
            deepest = depth
            chain = 0
            child = 0
            betweens = 0
        }
    }

    /// An upper bound, in steps, of how deep the grammar's tree can become, so that neither it nor we recurse without
    /// end. Joins, set operations and functions within functions count over the whole text.
    ///
    /// Behind a dot or AS the grammar takes any word for a name, `a.and` as well: there it ends nothing.
    static func depth(of text: UnsafeRawBufferPointer) -> Int {
        var lexer = SQLLexer(text)
        var levels = [Level()]
        var linear = 0
        var isName = false
        while true {
            let token = lexer.next()
            let wasName = isName
            if token.kind != .lineComment && token.kind != .blockComment { isName = false }
            switch token.kind {
            case .end, .unterminated:
                while levels.count > 1 { close(&levels) }
                return levels[0].depth + linear
            case .operation: levels[levels.count - 1].chain += 1
            case .punctuation:
                switch text[token.start] {
                case 0x28, 0x5B: levels.append(Level())
                case 0x29, 0x5D:
                    while levels[levels.count - 1].isCase { close(&levels) }
                    close(&levels)
                case 0x2C, 0x3B: levels[levels.count - 1].cut()
                case 0x2E: isName = token.end - token.start == 1
                case 0x3A: levels[levels.count - 1].chain += 1
                default: break
                }
            case .identifier where wasName: break
            case .identifier:
                switch word(token, text) {
                case .plain: break
                case .names: isName = true
                case .chains: levels[levels.count - 1].chain += 1
                case .between:
                    levels[levels.count - 1].chain += 1
                    levels[levels.count - 1].betweens += 1
                case .and where levels[levels.count - 1].betweens > 0: levels[levels.count - 1].betweens -= 1
                case .and, .cuts: levels[levels.count - 1].cut()
                case .opens: levels.append(Level(isCase: true))
                // Within brackets END is the name of a column: a CASE in them has ended by then.
                case .closes: if levels[levels.count - 1].isCase { close(&levels) }
                case .joins: linear += 1
                }
            case .quotedIdentifier, .string, .unicodeString, .bitString, .nationalString, .integer, .decimal,
                .parameter, .lineComment, .blockComment, .stray:
                break
            }
            if levels.count > levelsMax { return Int.max }
        }
    }

    private static func close(_ levels: inout [Level]) {
        guard levels.count > 1, let closed = levels.popLast() else { return }
        levels[levels.count - 1].child = max(levels[levels.count - 1].child, closed.depth)
    }

    private enum Word { case plain, names, chains, between, and, cuts, opens, closes, joins }

    private static func word(_ token: SQLToken, _ text: UnsafeRawBufferPointer) -> Word {
        if token.is("as", in: text) { return .names }
        if token.is("and", in: text) { return .and }
        if token.is("between", in: text) { return .between }
        if token.is("or", in: text) || token.is("when", in: text) || token.is("then", in: text)
            || token.is("else", in: text)
        {
            return .cuts
        }
        if token.is("case", in: text) { return .opens }
        if token.is("end", in: text) { return .closes }
        if token.is("join", in: text) || token.is("union", in: text) || token.is("intersect", in: text)
            || token.is("except", in: text) || token.is("atomic", in: text)
        {
            return .joins
        }
        if token.is("not", in: text) || token.is("is", in: text) || token.is("in", in: text)
            || token.is("like", in: text) || token.is("ilike", in: text) || token.is("similar", in: text)
            || token.is("isnull", in: text) || token.is("notnull", in: text) || token.is("collate", in: text)
            || token.is("at", in: text) || token.is("operator", in: text)
            || token.is("explain", in: text) || token.is("any", in: text) || token.is("all", in: text)
        {
            return .chains
        }
        return .plain
    }

    /// For texts that were not parsed: a pin when their words could leave something in the session.
    static func effects(of text: UnsafeRawBufferPointer) -> [SessionEffect] {
        var lexer = SQLLexer(text)
        var isFirst = true
        while true {
            let token = lexer.next()
            switch token.kind {
            case .end, .unterminated: return []
            case .lineComment, .blockComment: continue
            case .identifier:
                if isSuspicious(token, text) || isFirst && isSuspiciousFirst(token, text) {
                    return [.pins(.unknownStatement)]
                }
                isFirst = false
            case .punctuation: isFirst = token.isMark(";", in: text)
            case .quotedIdentifier, .string, .unicodeString, .bitString, .nationalString, .integer, .decimal,
                .parameter, .operation, .stray:
                isFirst = false
            }
        }
    }

    /// The body of a block in PL/pgSQL: a pin when its statements could leave something in the session. What EXECUTE
    /// runs may be anything.
    ///
    /// - Parameter leaves: whether a call of the function may leave something.
    static func effects(
        ofBlock text: UnsafeRawBufferPointer, leaves: (_ function: String) -> Bool
    ) -> [SessionEffect] {
        var lexer = SQLLexer(text)
        var isFirst = true
        var callsLeaving = false
        while true {
            let token = lexer.next()
            switch token.kind {
            case .end: return callsLeaving ? [.pins(.function)] : []
            case .unterminated: return [.pins(.unknownStatement)]
            case .lineComment, .blockComment: continue
            case .identifier:
                let name = String(decoding: text[token.start..<token.end], as: UTF8.self).lowercased()
                if leaves(name) { callsLeaving = true }
                if isSuspicious(token, text) || token.is("execute", in: text)
                    || isFirst && isSuspiciousFirst(token, text)
                {
                    return [.pins(.unknownStatement)]
                }
                isFirst = token.is("begin", in: text) || token.is("then", in: text) || token.is("else", in: text)
                    || token.is("loop", in: text)
            case .punctuation: isFirst = token.isMark(";", in: text)
            case .operation: isFirst = text[token.end - 1] == UInt8(ascii: ">")  // of a label
            case .quotedIdentifier:
                let name = String(decoding: text[(token.start + 1)..<(token.end - 1)], as: UTF8.self)
                if leaves(name) { callsLeaving = true }
                isFirst = false
            case .string, .unicodeString, .bitString, .nationalString, .integer, .decimal,
                .parameter, .stray:
                isFirst = false
            }
        }
    }

    /// Whether there are several statements, and one may begin or end a transaction, as its first word says.
    static func mayMoveBorders(_ text: UnsafeRawBufferPointer) -> Bool {
        let found = borders(text)
        return found.areOfSeveral && found.mayBeThere
    }

    /// Whether a statement of it may begin or end a transaction, or a part of one, as its first word says.
    static func mayHaveBorder(_ text: UnsafeRawBufferPointer) -> Bool {
        let found = borders(text)
        return found.mayBeThere || found.hasSavepoint
    }

    private static func borders(
        _ text: UnsafeRawBufferPointer
    ) -> (mayBeThere: Bool, hasSavepoint: Bool, areOfSeveral: Bool) {
        var lexer = SQLLexer(text)
        var isFirst = true
        var isBehind = false
        var found = (mayBeThere: false, hasSavepoint: false, areOfSeveral: false)
        while true {
            let token = lexer.next()
            switch token.kind {
            case .end, .unterminated: return found
            case .lineComment, .blockComment: continue
            case .punctuation where token.isMark(";", in: text):
                isFirst = true
                isBehind = true
            case .punctuation, .identifier, .quotedIdentifier, .string, .unicodeString, .bitString, .nationalString,
                .integer, .decimal, .parameter, .operation, .stray:
                if isBehind { found.areOfSeveral = true }
                if isFirst && token.kind == .identifier {
                    if isBorder(token, text) { found.mayBeThere = true }
                    if token.is("savepoint", in: text) || token.is("release", in: text) { found.hasSavepoint = true }
                }
                isFirst = false
            }
        }
    }

    /// Whether a statement of it may be DDL of what tables are made of, as its first words say. Where one makes what is
    /// temporary the others may mean that: as with texts that the grammar knows, the mirror notices if they do not.
    static func mayChangeTables(_ text: UnsafeRawBufferPointer) -> Bool {
        var lexer = SQLLexer(text)
        var place = DDLPlace.first
        var isFound = false
        while true {
            let token = lexer.next()
            switch token.kind {
            case .end, .unterminated: return isFound
            case .lineComment, .blockComment: continue
            case .punctuation where token.isMark(";", in: text): place = .first
            case .identifier:
                place = place.next(token, text)
                if place == .temporary { return false }
                if place == .found { isFound = true }
            case .punctuation, .quotedIdentifier, .string, .unicodeString, .bitString, .nationalString, .integer,
                .decimal, .parameter, .operation, .stray:
                place = .behind
            }
        }
    }

    private enum DDLPlace {
        /// Of a statement.
        case first
        /// Behind CREATE, ALTER or DROP: what comes next says of what.
        case verb
        case found, temporary, behind

        func next(_ token: SQLToken, _ text: UnsafeRawBufferPointer) -> DDLPlace {
            func isOne(of words: StaticString...) -> Bool { words.contains { token.is($0, in: text) } }
            switch self {
            case .first: return isOne(of: "create", "alter", "drop") ? .verb : .behind
            case .verb where isOne(of: "table", "type", "domain", "schema"): return .found
            // What is temporary is none of the mirror's.
            case .verb where isOne(of: "temp", "temporary"): return .temporary
            case .verb where isOne(of: "or", "replace", "unlogged", "foreign", "local", "global"): return .verb
            case .verb, .found, .temporary, .behind: return .behind
            }
        }
    }

    /// Whether one of its words is one by which rows are changed.
    static func mayChangeRows(_ text: UnsafeRawBufferPointer) -> Bool {
        var lexer = SQLLexer(text)
        while true {
            let token = lexer.next()
            if token.kind == .end || token.kind == .unterminated { return false }
            if token.is("insert", in: text) || token.is("update", in: text) || token.is("delete", in: text)
                || token.is("merge", in: text)
            {
                return true
            }
        }
    }

    private static func isBorder(_ token: SQLToken, _ text: UnsafeRawBufferPointer) -> Bool {
        token.is("begin", in: text) || token.is("start", in: text) || token.is("commit", in: text)
            || token.is("rollback", in: text) || token.is("end", in: text) || token.is("abort", in: text)
            || token.is("prepare", in: text)
    }

    private static func isSuspicious(_ token: SQLToken, _ text: UnsafeRawBufferPointer) -> Bool {
        if token.is("temp", in: text) || token.is("temporary", in: text) || token.is("set_config", in: text)
            || token.is("hold", in: text)
        {
            return true
        }
        guard token.end - token.start >= 7 else { return false }
        let isOfServer = (text[token.start] | 0x20) == 0x70 && (text[token.start + 1] | 0x20) == 0x67
        return isOfServer && contains("advisory", text, token) || contains("pg_temp", text, token)
    }

    private static func isSuspiciousFirst(_ token: SQLToken, _ text: UnsafeRawBufferPointer) -> Bool {
        token.is("set", in: text) || token.is("reset", in: text) || token.is("listen", in: text)
            || token.is("load", in: text) || token.is("prepare", in: text) || token.is("discard", in: text)
            || token.is("deallocate", in: text)
    }

    private static func contains(_ word: StaticString, _ text: UnsafeRawBufferPointer, _ token: SQLToken) -> Bool {
        let count = word.utf8CodeUnitCount
        guard token.end - token.start >= count else { return false }
        return (token.start...(token.end - count)).contains { start in
            SQLToken(kind: .identifier, start: start, end: start + count).is(word, in: text)
        }
    }
}
