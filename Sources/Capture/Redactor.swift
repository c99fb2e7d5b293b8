import PGWire
import SQLAnalysis

/// Takes the values out of records: literals of statements, what comments say, parameters, COPY data, errors' words,
/// digests of rows.
/// What remains is the same traffic about other values. One thread.
package struct Redactor {
    private var pseudonyms: Pseudonyms
    /// Of connections that are in the midst of one; nil: it is of text.
    private var copies: [UInt64: BinaryCopyScan?] = [:]
    /// Connections in whose plain quotes a backslash escapes, as far as they have said so.
    private var loose: Set<UInt64> = []
    /// Those that began so.
    private var begunLoose: Set<UInt64> = []
    /// The present record's is one of them.
    private var isLoose = false
    private var strings = StringsSetting()

    /// - Parameter key: random, of this capture alone, and forgotten with it.
    package init(key: [UInt8]) { pseudonyms = Pseudonyms(key: key) }

    package mutating func redact(_ record: CaptureRecord) -> CaptureRecord {
        var record = record
        isLoose = loose.contains(record.connection)
        // A text is read as a whole before what it sets is so.
        defer { noteStrings(of: record) }
        if case .message(FrontendTag.copyData, let answers, let body) = record.content {
            let made = copyData(body, of: record.connection)
            record.content = .message(tag: FrontendTag.copyData, answers: answers, body: made)
            return record
        }
        if endsCopy(record.content) { copies[record.connection] = nil }
        switch record.content {
        case .connect(var connection):
            connection.settings = connection.settings.map { setting in
                // What an application calls its own may say who its user is.
                guard setting.name.contains(".") else { return setting }
                var changed = setting
                changed.statement = String(decoding: sql(Array(setting.statement.utf8)), as: UTF8.self)
                return changed
            }
            record.content = .connect(connection)
        case .prepared(let body):
            record.content = .prepared(body: parse(body))
        case .message(let tag, let answers, let body):
            record.content = .message(tag: tag, answers: answers, body: message(tag, body))
        case .error(let state, let isFatal, _):
            record.content = .error(state: state, isFatal: isFatal, message: "")
        case .answer(var answer):
            answer.digest = nil
            record.content = .answer(answer)
        case .disconnect, .omitted, .dropped, .cancel, .ready:
            break
        }
        return record
    }

    private mutating func noteStrings(of record: CaptureRecord) {
        switch record.content {
        case .connect(let connection):
            for setting in connection.settings where setting.name == StringsSetting.name {
                _ = sql(Array(setting.statement.utf8))
            }
            if strings.isOn == false { begunLoose.insert(record.connection) }
        case .disconnect, .dropped:
            loose.remove(record.connection)
            begunLoose.remove(record.connection)
        case .prepared, .message, .omitted, .cancel, .ready, .answer, .error: break
        }
        if let isOn = strings.isReset ? !begunLoose.contains(record.connection) : strings.isOn {
            if isOn { loose.remove(record.connection) } else { loose.insert(record.connection) }
        }
        strings = StringsSetting()
    }

    private mutating func message(_ tag: UInt8, _ body: [UInt8]) -> [UInt8] {
        switch tag {
        case FrontendTag.query:
            let text = body.last == 0 ? Array(body.dropLast()) : body
            return sql(text) + [0]
        case FrontendTag.parse: return parse(body)
        case FrontendTag.bind: return bind(body)
        case FrontendTag.functionCall: return functionCall(body)
        case FrontendTag.copyFail: return [0]
        default: return body
        }
    }

    // MARK: statements

    /// name, text, types
    private mutating func parse(_ body: [UInt8]) -> [UInt8] {
        guard let nameEnd = body.firstIndex(of: 0), let textEnd = body[(nameEnd + 1)...].firstIndex(of: 0) else {
            return [0, 0, 0, 0]
        }
        return Array(body[...nameEnd]) + sql(Array(body[(nameEnd + 1)..<textEnd])) + Array(body[textEnd...])
    }

    /// The text with its literals replaced; its length stays.
    ///
    /// - Parameter isCode: of a routine's body.
    package mutating func sql(_ text: [UInt8], isCode: Bool = false) -> [UInt8] {
        var made = text
        var place = StatementPlace(isCode: isCode)
        text.withUnsafeBytes { bytes in
            var lexer = SQLLexer(bytes, isLoose: isLoose)
            while true {
                let token = lexer.next()
                let piece = Array(bytes[token.start..<token.end])
                switch token.kind {
                case .end: return
                case .lineComment, .blockComment:
                    replace(&made, token.start, comment(piece, isBlock: token.kind == .blockComment))
                    continue
                case .integer, .decimal: if !place.isSetting { replace(&made, token.start, number(piece)) }
                case .string where place.isBody && Self.hasPlainBody(place, token, lexer, bytes):
                    replace(&made, token.start, quoted(piece, asCode: true))
                case .string where place.isLanguage(piece): break
                case .string, .unicodeString, .nationalString:
                    if !place.isName && !place.isSetting { replace(&made, token.start, quoted(piece)) }
                case .unterminated: replace(&made, token.start, unterminated(piece))
                case .bitString: replace(&made, token.start, bits(piece))
                case .identifier:
                    if place.isSettingValue && !Self.isDefault(piece) {
                        replace(&made, token.start, pseudonyms.of(piece))
                    }
                case .quotedIdentifier: if place.isSettingValue { replace(&made, token.start, quoted(piece)) }
                case .stray:
                    let end = Self.endOfStray(token, piece[0], &lexer)
                    if !place.isSetting { replace(&made, token.start, stray(Array(bytes[token.start..<end]))) }
                case .parameter, .operation, .punctuation: break
                }
                place.pass(token.kind, piece)
                if !isCode { strings.pass(piece) }
            }
        }
        return made
    }

    private func replace(_ text: inout [UInt8], _ start: Int, _ piece: [UInt8]) {
        for (index, byte) in piece.enumerated() where start + index < text.count { text[start + index] = byte }
    }

    /// LANGUAGE may come before a body or behind it.
    private static func hasPlainBody(
        _ place: StatementPlace, _ body: SQLToken, _ lexer: SQLLexer, _ bytes: UnsafeRawBufferPointer
    ) -> Bool {
        var (place, lexer, token) = (place, lexer, body)
        while token.kind != .end {
            let piece = Array(bytes[token.start..<token.end])
            if piece == [UInt8(ascii: ";")] { break }
            if token.kind != .lineComment && token.kind != .blockComment { place.pass(token.kind, piece) }
            token = lexer.next()
        }
        return place.hasPlainBody
    }

    private static func isDefault(_ piece: [UInt8]) -> Bool { piece.map { Form.lower($0) } == Array("default".utf8) }

    /// `12`, `1.5`, `1e10`: the digits before an exponent change.
    private mutating func number(_ piece: [UInt8]) -> [UInt8] {
        let end = piece.firstIndex { Form.isLetter($0) } ?? piece.count
        return pseudonyms.of(Array(piece[..<end])) + piece[end...]
    }

    /// With the quotes and what stands before them.
    private mutating func quoted(_ piece: [UInt8], asCode: Bool = false) -> [UInt8] {
        let start = Self.opening(piece)
        let isDollar = piece[0] == UInt8(ascii: "$")
        let end = max(start, piece.count - (isDollar ? start : 1))
        let inner = Array(piece[start..<end])
        let made: [UInt8]
        switch piece[0] {
        case UInt8(ascii: "$") where asCode: made = sql(inner, isCode: true)
        case UInt8(ascii: "'") where asCode: made = quotedCode(inner)
        default: made = pseudonyms.of(inner)
        }
        return Array(piece[..<start]) + made + Array(piece[end...])
    }

    /// What never ends: all of it is a value.
    private mutating func unterminated(_ piece: [UInt8]) -> [UInt8] {
        let start = piece[0] == UInt8(ascii: "/") ? 2 : Self.opening(piece)
        return Array(piece[..<start]) + pseudonyms.of(Array(piece[start...]))
    }

    /// Where what is in the quotes begins.
    private static func opening(_ piece: [UInt8]) -> Int {
        let isDollar = piece[0] == UInt8(ascii: "$")
        let quote = piece.dropFirst(isDollar ? 1 : 0).firstIndex {
            isDollar ? $0 == UInt8(ascii: "$") : $0 == UInt8(ascii: "'") || $0 == UInt8(ascii: "\"")
        }
        return quote.map { $0 + 1 } ?? 0
    }

    /// A body in quotes has each of its own twice.
    private mutating func quotedCode(_ text: [UInt8]) -> [UInt8] {
        let quote = UInt8(ascii: "'")
        var plain: [UInt8] = []
        var isSecond = false
        for byte in text {
            isSecond = byte == quote && !isSecond && plain.last == quote
            if !isSecond { plain.append(byte) }
        }
        let made = sql(plain, isCode: true).flatMap { $0 == quote ? [quote, quote] : [$0] }
        return made.count == text.count ? made : pseudonyms.of(text)
    }

    // MARK: what is no whole token

    /// Where a number ends that runs into a word: the word is taken, too.
    private static func endOfStray(_ token: SQLToken, _ first: UInt8, _ lexer: inout SQLLexer) -> Int {
        guard Form.isDigit(first) || first == UInt8(ascii: ".") else { return token.end }
        var ahead = lexer
        let word = ahead.next()
        guard word.kind == .identifier && word.start == token.end else { return token.end }
        lexer = ahead
        return word.end
    }

    private mutating func stray(_ piece: [UInt8]) -> [UInt8] {
        if Form.isDigit(piece[0]) || piece[0] == UInt8(ascii: ".") { return looseNumber(piece) }
        // Dollar quotes that are none.
        guard piece[0] == UInt8(ascii: "$"), piece.count > 1, !Form.isDigit(piece[1]) else { return piece }
        return piece[..<1] + pseudonyms.of(Array(piece[1...]))
    }

    /// `4_711` and `0x1F`, which new servers take for numbers, and `4711AND`, which old ones take for two tokens.
    private mutating func looseNumber(_ piece: [UInt8]) -> [UInt8] {
        var made = piece
        var end = Self.endOfBased(piece)
        if end > 0 {
            Self.replaceDigits(&made, 2..<end) { based($0, base: Self.base(piece[1])) }
        } else {
            func digitsEnd(_ start: Int, _ isMore: (UInt8) -> Bool) -> Int {
                piece[start...].firstIndex { !Form.isDigit($0) && !isMore($0) } ?? piece.count
            }
            end = digitsEnd(0) { $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: ".") }
            Self.replaceDigits(&made, 0..<end) { pseudonyms.of($0) }
            if end < piece.count, Form.lower(piece[end]) == UInt8(ascii: "e") {
                let sign = end + 1 < piece.count ? piece[end + 1] : 0
                let digits = end + (sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") ? 2 : 1)
                if digits < piece.count, Form.isDigit(piece[digits]) {
                    end = digitsEnd(digits) { $0 == UInt8(ascii: "_") }
                }
            }
        }
        let word = Array(piece[end...])
        if !Self.mayFollow.contains(word.map { Form.lower($0) }) { replace(&made, end, pseudonyms.of(word)) }
        return made
    }

    private static let mayFollow: Set<[UInt8]> = Set(
        ["and", "as", "asc", "between", "collate", "desc", "else", "end", "except", "fetch", "for", "from", "group",
            "having", "ilike", "in", "intersect", "is", "like", "limit", "not", "offset", "on", "or", "order",
            "returning", "set", "then", "to", "union", "using", "when", "where", "window"].map { Array($0.utf8) })

    private static func base(_ letter: UInt8) -> UInt8 {
        switch Form.lower(letter) {
        case UInt8(ascii: "x"): 16
        case UInt8(ascii: "o"): 8
        case UInt8(ascii: "b"): 2
        default: 0
        }
    }

    /// Behind the last digit of `0x1F`, `0o17`, `0b11`; 0: it is none of these.
    private static func endOfBased(_ piece: [UInt8]) -> Int {
        guard piece.count > 2, piece[0] == UInt8(ascii: "0"), base(piece[1]) > 0 else { return 0 }
        let base = base(piece[1])
        let end = piece[2...].firstIndex { $0 != UInt8(ascii: "_") && digit($0) >= base } ?? piece.count
        return piece[2..<end].contains { $0 != UInt8(ascii: "_") } ? end : 0
    }

    /// Up to 15; 255: it is none.
    private static func digit(_ byte: UInt8) -> UInt8 {
        if Form.isDigit(byte) { return byte - UInt8(ascii: "0") }
        let letter = Form.lower(byte) &- UInt8(ascii: "a")
        return letter < 6 ? 10 + letter : .max
    }

    /// The digits within, without what stands between them.
    private static func replaceDigits(_ text: inout [UInt8], _ range: Range<Int>, _ make: ([UInt8]) -> [UInt8]) {
        let places = range.filter { text[$0] != UInt8(ascii: "_") && text[$0] != UInt8(ascii: ".") }
        for (place, digit) in zip(places, make(places.map { text[$0] })) { text[place] = digit }
    }

    /// As many digits, none before the first that is not zero, and no greater number than its type has.
    private mutating func based(_ digits: [UInt8], base: UInt8) -> [UInt8] {
        guard let first = digits.firstIndex(where: { $0 != UInt8(ascii: "0") }) else { return digits }
        let signs = Array((digits.contains { Self.isUpper($0) } ? "0123456789ABCDEF" : "0123456789abcdef").utf8)
        var made = digits
        // By way of letters, which have no form of their own; another one before them where it gives the same number.
        for letter in UInt8(ascii: "q")...UInt8(ascii: "z") where made == digits {
            let others = pseudonyms.of([letter] + digits.map { UInt8(ascii: "a") + Self.digit($0) }).dropFirst()
            for (place, other) in zip(digits.indices, others) where place >= first {
                let value = other - UInt8(ascii: "a")
                made[place] = signs[Int(place > first ? value % base : base == 16 ? 1 + value % 7 : 1)]
            }
        }
        return made
    }

    private static func isUpper(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "A") < 26 }

    private func bits(_ piece: [UInt8]) -> [UInt8] {
        let isHex = piece.first.map { Form.lower($0) == UInt8(ascii: "x") } ?? false
        var isOne = false
        return piece.enumerated().map { index, byte in
            guard index >= 2, index < piece.count - 1 else { return byte }
            isOne.toggle()
            return isHex ? UInt8(ascii: isOne ? "a" : "5") : UInt8(ascii: isOne ? "1" : "0")
        }
    }

    // MARK: comments

    /// Words of a comment but for names of keys, as in `user_id=42` or `route='/x'`, which routing may need.
    private mutating func comment(_ piece: [UInt8], isBlock: Bool) -> [UInt8] {
        var made = piece
        var index = 2
        // A value in quotes may hold anything, also what looks like a key.
        var quote: UInt8?
        while index < piece.count {
            let end = wordEnd(piece, from: index)
            if end > index {
                let isKey = quote == nil && Self.isKey(piece[..<(piece.count - (isBlock ? 2 : 0))], index..<end)
                if !isKey { replace(&made, index, pseudonyms.of(Array(piece[index..<end]))) }
                index = end
                continue
            }
            let byte = piece[index]
            if let open = quote {
                if byte == UInt8(ascii: "\\") && index + 1 < piece.count && piece[index + 1] == open { index += 1 }
                if byte == open { quote = nil }
            } else if byte == UInt8(ascii: "'") || byte == UInt8(ascii: "\"") && piece[index - 1] == UInt8(ascii: "=") {
                quote = byte
            }
            index += 1
        }
        return made
    }

    /// It stands where routing looks for a key, and has a value: what ends with `=` may be base64.
    private static func isKey(_ comment: ArraySlice<UInt8>, _ word: Range<Int>) -> Bool {
        func isBorder(_ byte: UInt8) -> Bool {
            byte <= UInt8(ascii: " ") || byte == UInt8(ascii: ",") || byte == UInt8(ascii: ";")
        }
        guard word.upperBound + 1 < comment.endIndex, comment[word.upperBound] == UInt8(ascii: "=")
        else { return false }
        let value = comment[word.upperBound + 1]
        if isBorder(value) || value == UInt8(ascii: "=") { return false }
        return word.lowerBound == 2 || isBorder(comment[word.lowerBound - 1])
    }

    private func wordEnd(_ piece: [UInt8], from start: Int) -> Int {
        var end = start
        while end < piece.count,
            Form.isDigit(piece[end]) || Form.isLetter(piece[end]) || piece[end] == UInt8(ascii: "_")
        { end += 1 }
        return end
    }

    // MARK: values

    private mutating func bind(_ body: [UInt8]) -> [UInt8] {
        body.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            guard reader.cString() != nil, reader.cString() != nil else { return [0, 0, 0, 0, 0, 0, 0, 0] }
            return Array(bytes[..<reader.offset]) + values(&reader)
        }
    }

    /// Function, then as in Bind.
    private mutating func functionCall(_ body: [UInt8]) -> [UInt8] {
        body.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            guard reader.int32() != nil else { return body.map { _ in 0 } }
            return Array(bytes[..<reader.offset]) + values(&reader)
        }
    }

    /// Formats, values, and what stands behind them as it is. What is cut short is left out.
    private mutating func values(_ reader: inout BodyReader) -> [UInt8] {
        let start = reader.offset
        // Both counts are without a sign to the server: up to 65,535.
        guard let formatCount = reader.int16().map({ Int(UInt16(bitPattern: $0)) }),
            let formats = reader.bytes(2 * formatCount), let count = reader.int16()
        else { return [0, 0, 0, 0, 0, 0] }
        var made = Array(reader.bytes[start..<reader.offset])
        for index in 0..<Int(UInt16(bitPattern: count)) {
            guard let length = reader.int32() else { return made }
            var writer = MessageWriter()
            writer.int32(length)
            made += writer.bytes
            if length < 0 { continue }
            guard let value = reader.bytes(Int(length)) else { return made }
            let place = formatCount == 1 ? 0 : index
            let isBinary = place < formatCount && formats[2 * place + 1] == 1
            made += isBinary ? binary(Array(value), depth: 0) : pseudonyms.of(Array(value))
        }
        return made + Array(reader.rest())
    }

    /// Types are often not named: told by the size, a value becomes another of its size.
    private mutating func binary(_ value: [UInt8], depth: Int) -> [UInt8] {
        switch value.count {
        case 0: return value
        // Of a boolean, or a small number; anything else is a text of one letter.
        case 1: return value[0] < 0x20 ? value : pseudonyms.of(value)
        case 2, 4, 8: return integer(value)
        default: break
        }
        if depth == 0, let array = array(value) { return array }
        if let numeric = numeric(value) { return numeric }
        // jsonb begins with its version.
        if value[0] == 1, value.count > 1, isText(value.dropFirst()) {
            return [1] + pseudonyms.of(Array(value.dropFirst()))
        }
        if isText(value[...]) { return pseudonyms.of(value) }
        // No type that we know: bytes that follow from the value's, by way of letters, so that none stays for its form.
        var letters: [UInt8] = []
        for byte in value {
            letters.append(UInt8(ascii: "a") + (byte >> 4))
            letters.append(UInt8(ascii: "a") + (byte & 15))
        }
        let others = pseudonyms.of(letters)
        var made: [UInt8] = []
        for index in value.indices { made.append(others[2 * index] &* 16 &+ others[2 * index + 1]) }
        return made
    }

    /// As many digits, and the sign.
    private mutating func integer(_ value: [UInt8]) -> [UInt8] {
        let shift = 64 - 8 * value.count
        let bits = value.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let number = Int64(bitPattern: bits << UInt64(shift)) >> Int64(shift)
        if number == .min { return value.map { _ in 1 } }
        let text = pseudonyms.of(Array(String(abs(number)).utf8))
        let most = UInt64(Int64.max) >> UInt64(shift)
        let made = (UInt64(String(decoding: text, as: UTF8.self)) ?? 1) % (most == .max ? .max : most + 1)
        let signed = UInt64(bitPattern: number < 0 ? -Int64(made) : Int64(made))
        return (0..<value.count).map { UInt8(truncatingIfNeeded: signed >> UInt64(8 * (value.count - 1 - $0))) }
    }

    /// Dimensions, flag, element type; size and bound of each dimension; elements.
    private mutating func array(_ value: [UInt8]) -> [UInt8]? {
        value.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            guard let dimensions = reader.int32(), (0...6).contains(dimensions), let flag = reader.int32(),
                flag == 0 || flag == 1, reader.int32() != nil
            else { return nil }
            var count: Int64 = dimensions == 0 ? 0 : 1
            for _ in 0..<dimensions {
                guard let size = reader.int32(), size >= 0, size < 1 << 24, reader.int32() != nil else { return nil }
                count *= Int64(size)
                if count > 1 << 24 { return nil }
            }
            var made = Array(bytes[..<reader.offset])
            for _ in 0..<count {
                guard let length = reader.int32() else { return nil }
                var writer = MessageWriter()
                writer.int32(length)
                made += writer.bytes
                if length < 0 { continue }
                guard let element = reader.bytes(Int(length)) else { return nil }
                made += binary(Array(element), depth: 1)
            }
            return reader.isAtEnd ? made : nil
        }
    }

    /// Number of digits, weight, sign, scale; digits to the base of 10,000.
    private mutating func numeric(_ value: [UInt8]) -> [UInt8]? {
        guard value.count >= 10, value.count % 2 == 0 else { return nil }
        let words = stride(from: 0, to: value.count, by: 2).map { UInt16(value[$0]) << 8 | UInt16(value[$0 + 1]) }
        guard Int(words[0]) == words.count - 4, [0, 0x4000].contains(words[2]), words[3] <= 0x3FFF,
            words.dropFirst(4).allSatisfy({ $0 < 10_000 })
        else { return nil }
        let made = words.prefix(4) + words.dropFirst(4).map { digit in
            UInt16(String(decoding: pseudonyms.of(Array(String(digit).utf8)), as: UTF8.self)) ?? 1
        }
        return made.flatMap { [UInt8($0 >> 8), UInt8($0 & 0xFF)] }
    }

    private func isText(_ bytes: ArraySlice<UInt8>) -> Bool {
        !bytes.contains { $0 < 0x20 && $0 != 0x09 && $0 != 0x0A && $0 != 0x0D || $0 == 0x7F }
            && String(validating: bytes, as: UTF8.self) != nil
    }

    // MARK: COPY

    /// What the client sends besides COPY data, and its going. Sync and Flush may come before data.
    private func endsCopy(_ content: CaptureRecord.Content) -> Bool {
        switch content {
        case .message(let tag, _, _): tag != FrontendTag.sync && tag != FrontendTag.flush
        case .connect, .disconnect, .dropped, .omitted: true
        case .prepared, .cancel, .ready, .answer, .error: false
        }
    }

    private mutating func copyData(_ body: [UInt8], of connection: UInt64) -> [UInt8] {
        let known = copies[connection]
        var scan = known ?? BinaryCopyScan(beginning: body)
        let made = scan?.replace(body) { binary($0, depth: 0) } ?? textData(body)
        copies[connection] = .some(scan)
        return made
    }

    /// Fields of the text format and of CSV; binary data that did not begin as such is zeroed.
    private mutating func textData(_ body: [UInt8]) -> [UInt8] {
        if body.contains(0) { return body.map { _ in 0 } }
        var made: [UInt8] = []
        made.reserveCapacity(body.count)
        var field: [UInt8] = []
        func isMark(_ byte: UInt8) -> Bool {
            byte == 0x09 || byte == 0x0A || byte == 0x0D || byte == UInt8(ascii: ",") || byte == UInt8(ascii: ";")
                || byte == UInt8(ascii: "|") || byte == UInt8(ascii: "\"")
        }
        for byte in body {
            if !isMark(byte) {
                field.append(byte)
                continue
            }
            made += redacted(field: field)
            field = []
            made.append(byte)
        }
        return made + redacted(field: field)
    }

    private mutating func redacted(field: [UInt8]) -> [UInt8] {
        // NULL, and the end of data of old clients.
        field == Array("\\N".utf8) || field == Array("\\.".utf8) ? field : pseudonyms.of(field)
    }
}
