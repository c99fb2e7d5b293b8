import SQLAnalysis

/// What stands before a literal, as far as it tells whether the literal is a value of the application's. A value.
struct StatementPlace {
    private enum Head { case start, create, routine, block, alter, other }

    /// How far a SET has come whose setting may be the application's own: `SET app.user TO a, b`.
    private enum Setting { case none, name, named, dot, dotted, value, listed }

    /// What a routine's body is written in: `plain` is what reads as SQL does.
    private enum Language { case unknown, plain, other }

    /// SET of a setting of PostgreSQL's own.
    private(set) var isSetting = false
    /// `nextval(` and its kin: a literal is a name.
    private(set) var isName = false
    /// In a routine's body already.
    private let isCode: Bool
    private var head = Head.start
    private var setting = Setting.none
    private var language = Language.unknown
    private var hasBody = false
    private var isFunction = false
    private var parentheses = 0
    private var lastWord = ""

    init(isCode: Bool) { self.isCode = isCode }

    /// Functions whose first argument names something of the schema, or a setting.
    private static let named: Set<String> = [
        "nextval", "currval", "setval", "set_config", "current_setting", "pg_get_serial_sequence", "to_regclass",
    ]
    private static let plainLanguages: Set<String> = ["sql", "plpgsql"]
    private static let otherLanguages: Set<String> = [
        "c", "internal", "plperl", "plperlu", "plpython3u", "pltcl", "pltclu", "plv8",
    ]
    /// Behind these a statement of PL/pgSQL begins.
    private static let openers: Set<String> = ["begin", "then", "else", "loop"]

    /// A string that stands here is the body of a routine, or of DO.
    var isBody: Bool {
        if isCode || hasBody || parentheses != 0 { return false }
        return head == .routine ? lastWord == "as" : head == .block && lastWord != "language"
    }

    /// What has been passed says that the body reads as SQL does.
    var hasPlainBody: Bool { language == .plain || language == .unknown && head == .block }

    /// A word or a name in quotes that stands here is a value: of a setting that is the application's own.
    var isSettingValue: Bool { setting == .value }

    /// A string that stands here names a language.
    func isLanguage(_ piece: [UInt8]) -> Bool {
        let name = Self.unquoted(piece)
        return isBehindLanguage && (Self.plainLanguages.contains(name) || Self.otherLanguages.contains(name))
    }

    private var isBehindLanguage: Bool {
        lastWord == "language" && parentheses == 0 && (head == .routine || head == .block)
    }

    private static func unquoted(_ piece: [UInt8]) -> String {
        let isQuoted = piece.count >= 2 && (piece[0] == UInt8(ascii: "'") || piece[0] == UInt8(ascii: "\""))
        return String(decoding: isQuoted ? piece.dropFirst().dropLast() : piece[...], as: UTF8.self).lowercased()
    }

    mutating func pass(_ kind: SQLToken.Kind, _ piece: [UInt8]) {
        let mark = piece.count == 1 ? piece[0] : 0
        if mark == UInt8(ascii: ";") {
            self = StatementPlace(isCode: isCode)
            return
        }
        let word = kind == .identifier ? String(decoding: piece, as: UTF8.self).lowercased() : ""
        isName = isFunction && mark == UInt8(ascii: "(")
        isFunction = Self.named.contains(word)
        if isBody && kind == .string { hasBody = true }
        if isBehindLanguage {
            let isPlain = language != .other && Self.plainLanguages.contains(Self.unquoted(piece))
            language = isPlain ? .plain : .other
        }
        if mark == UInt8(ascii: "(") { parentheses += 1 }
        if mark == UInt8(ascii: ")") { parentheses -= 1 }
        passSetting(kind, piece, word, mark)
        passHead(word)
        lastWord = word
    }

    private mutating func passHead(_ word: String) {
        switch head {
        case .start:
            switch word {
            case "create": head = .create
            case "do": head = .block
            case "alter": head = .alter
            default: head = .other
            }
        case .create:
            if word == "function" || word == "procedure" {
                head = .routine
            } else if word != "or" && word != "replace" {
                head = .other
            }
        // A body of the SQL standard: statements of their own.
        case .routine: if word == "begin" { head = .other }
        case .block, .alter, .other: break
        }
    }

    /// In UPDATE, `SET a.b = c` is about a column.
    private var maySet: Bool {
        head == .start || head == .alter || head == .routine || isCode && Self.openers.contains(lastWord)
    }

    private mutating func passSetting(_ kind: SQLToken.Kind, _ piece: [UInt8], _ word: String, _ mark: UInt8) {
        if isSetting && mark == UInt8(ascii: ".") { isSetting = false }
        switch setting {
        case .none:
            if word != "set" || !maySet { return }
            setting = .name
            isSetting = head == .start
        case .name:
            if word == "local" || word == "session" { return }
            // It was no word of SET's, and a setting's name begins with it.
            if mark == UInt8(ascii: ".") && (lastWord == "local" || lastWord == "session") {
                setting = .dot
                return
            }
            let isQuoted = kind == .quotedIdentifier
            // As an escape of Unicode a dot would not be seen.
            let isOwn = isQuoted && (piece[0] != UInt8(ascii: "\"") || piece.contains(UInt8(ascii: ".")))
            if isOwn { isSetting = false }
            setting = isOwn ? .dotted : isQuoted || kind == .identifier ? .named : .none
        case .named: setting = mark == UInt8(ascii: ".") ? .dot : .none
        case .dot: setting = kind == .identifier || kind == .quotedIdentifier ? .dotted : .none
        case .dotted:
            let isAssigned = mark == UInt8(ascii: "=") || word == "to"
            setting = isAssigned ? .value : mark == UInt8(ascii: ".") ? .dot : .none
        case .value: if kind != .operation { setting = .listed }
        case .listed: setting = mark == UInt8(ascii: ",") ? .value : .none
        }
    }
}
