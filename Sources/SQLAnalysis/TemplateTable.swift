import Glibc

/// Texts seen before with their literals as gaps: a text that is the same but for plain integers and strings in the
/// gaps has the same shape, and is told so by comparing bytes, without being cut into tokens. One thread.
///
/// Why that is right: up to a gap both texts have the same bytes, so the lexer is in the same state there; a gap takes
/// nothing but a token of the same kind, and the byte behind it is the template's, so the token ends where it did.
/// What a gap cannot take (a sign that is not the template's, a decimal, a tenth digit, a number that runs into a
/// word) is not found here, and is looked up by its shape.
package final class TemplateTable {
    /// Bytes of a template, its gaps, templates with one hash, and hashes.
    static let textBytesMax = 512
    static let gapsMax = 16
    private static let ways = 4
    private static let setsCount = 256

    struct Gap {
        /// Of the token, without a sign before it.
        var start: Int
        var end: Int
        /// Bytes before it that belong to the literal: a sign, and blanks behind that.
        var signLength: Int
        var isString: Bool
    }

    /// A class, so that looking at one copies nothing.
    package final class Template {
        fileprivate let text: ContiguousArray<UInt8>
        fileprivate let gaps: ContiguousArray<Gap>
        fileprivate let hasStrings: Bool
        /// The key is among them.
        fileprivate let needsLiterals: Bool
        /// Its texts may have one, in a literal, a parameter or a comment.
        package let hasKey: Bool
        package let statement: AnalysedStatement
        /// A key in a comment before all gaps.
        let commentKey: KeyReference?

        fileprivate init(
            _ text: UnsafeRawBufferPointer, _ gaps: ContiguousArray<Gap>, _ statement: AnalysedStatement,
            _ commentKey: KeyReference?
        ) {
            self.text = ContiguousArray(text)
            self.gaps = gaps
            hasStrings = gaps.contains { $0.isString }
            needsLiterals = if case .literals? = statement.columnKey?.value { true } else { false }
            hasKey = statement.columnKey != nil || commentKey != nil
            self.statement = statement
            self.commentKey = commentKey
        }
    }

    private var templates: ContiguousArray<Template?>
    private var nextWay: ContiguousArray<UInt8>
    /// The one that was found last, which the table has: many texts are like the one before.
    private var latest: Unmanaged<Template>?

    init() {
        templates = ContiguousArray(repeating: nil, count: Self.ways * Self.setsCount)
        nextWay = ContiguousArray(repeating: 0, count: Self.setsCount)
    }

    func removeAll() {
        latest = nil
        for index in templates.indices { templates[index] = nil }
    }

    /// - Parameter literals: replaced by the text's own, where its key is one of them.
    /// - Returns: a template of the table's, that has it until the next `insert` or `removeAll`: its references are not
    ///   counted for each text that is looked up.
    @inline(__always) func find(
        _ text: UnsafeRawBufferPointer, _ literals: inout [ShapeWriter.Literal]
    ) -> Unmanaged<Template>? {
        guard let start = text.baseAddress, text.count <= Self.textBytesMax else { return nil }
        if let latest, latest._withUnsafeGuaranteedRef({ Self.matches($0, start, text.count, &literals) }) {
            return latest
        }
        return search(text, start, &literals)
    }

    private func search(
        _ text: UnsafeRawBufferPointer, _ start: UnsafeRawPointer, _ literals: inout [ShapeWriter.Literal]
    ) -> Unmanaged<Template>? {
        let first = Self.set(of: text) * Self.ways
        for index in first..<first + Self.ways {
            guard let found = templates[index].map({ Unmanaged.passUnretained($0) }) else { continue }
            if found._withUnsafeGuaranteedRef({ Self.matches($0, start, text.count, &literals) }) {
                latest = found
                return found
            }
        }
        return nil
    }

    private static func matches(
        _ template: Template, _ text: UnsafeRawPointer, _ count: Int, _ literals: inout [ShapeWriter.Literal]
    ) -> Bool {
        if !fits(template, text, count, &literals) { return false }
        return !template.hasStrings || PlainText.isValid(UnsafeRawBufferPointer(start: text, count: count))
    }

    @inline(__always) private static func fits(
        _ template: Template, _ text: UnsafeRawPointer, _ count: Int, _ literals: inout [ShapeWriter.Literal]
    ) -> Bool {
        if template.needsLiterals { literals.removeAll(keepingCapacity: true) }
        return template.text.withUnsafeBytes { bytes -> Bool in
            guard let wanted = bytes.baseAddress else { return false }
            var (place, from) = (0, 0)
            let fits = template.gaps.withUnsafeBufferPointer { gaps -> Bool in
                for gap in gaps {
                    let fixed = gap.start - from
                    guard place + fixed < count, memcmp(text + place, wanted + from, fixed) == 0 else { return false }
                    place += fixed
                    let found = gap.isString ? string(text, place, count) : integer(text, place, count)
                    guard let end = found else { return false }
                    if template.needsLiterals {
                        literals.append(ShapeWriter.Literal(
                            offset: place - gap.signLength, length: end - place + gap.signLength))
                    }
                    (place, from) = (end, gap.end)
                }
                return true
            }
            return fits && count - place == bytes.count - from
                && memcmp(text + place, wanted + from, count - place) == 0
        }
    }

    /// The end of one to nine digits; a tenth may make another token of them.
    @inline(__always) private static func integer(_ text: UnsafeRawPointer, _ start: Int, _ count: Int) -> Int? {
        var end = start
        while end < count, SQLLexer.isDigit(text.load(fromByteOffset: end, as: UInt8.self)) { end += 1 }
        return end > start && end - start <= 9 ? end : nil
    }

    /// The end of a string in plain quotes.
    @inline(__always) private static func string(_ text: UnsafeRawPointer, _ start: Int, _ count: Int) -> Int? {
        let quote: UInt8 = 0x27
        guard text.load(fromByteOffset: start, as: UInt8.self) == quote else { return nil }
        var place = start + 1
        while place < count, let found = memchr(text + place, CInt(quote), count - place) {
            place = UnsafeRawPointer(found) - text + 1
            if place == count || text.load(fromByteOffset: place, as: UInt8.self) != quote { return place }
            place += 1
        }
        return nil
    }

    /// Remembers a text whose shape is known.
    func insert(
        _ text: UnsafeRawBufferPointer, _ literals: [ShapeWriter.Literal], _ commentKey: KeyReference?,
        _ statement: AnalysedStatement
    ) {
        guard text.count <= Self.textBytesMax, literals.count <= Self.gapsMax,
            let gaps = Self.gaps(text, literals), Self.isBefore(gaps.first?.start ?? text.count, commentKey)
        else { return }
        let set = Self.set(of: text)
        let way = Int(nextWay[set])
        nextWay[set] = UInt8((way + 1) % Self.ways)
        latest = nil
        templates[set * Self.ways + way] = Template(text, gaps, statement, commentKey)
    }

    /// nil: one of the literals is of another kind, or stands for several.
    private static func gaps(
        _ text: UnsafeRawBufferPointer, _ literals: [ShapeWriter.Literal]
    ) -> ContiguousArray<Gap>? {
        guard let base = text.baseAddress else { return nil }
        var gaps: ContiguousArray<Gap> = []
        for literal in literals {
            if literal.repeats > 0 || literal.isJoined { return nil }
            let end = literal.offset + literal.length
            var start = literal.offset
            if text[start] == UInt8(ascii: "-") {
                // Comments between the sign and the number are not worth a thought.
                while start < end, !SQLLexer.isDigit(text[start]) { start += 1 }
                guard text[literal.offset + 1..<start].allSatisfy(SQLLexer.isSpace) else { return nil }
            }
            let isString = text[start] == 0x27
            guard (isString ? string(base, start, end) : integer(base, start, end)) == end else { return nil }
            gaps.append(Gap(start: start, end: end, signLength: start - literal.offset, isString: isString))
        }
        return gaps
    }

    private static func isBefore(_ start: Int, _ key: KeyReference?) -> Bool {
        switch key?.form {
        case nil: true
        case .text(let offset, let length), .urlEncoded(let offset, let length), .literal(let offset, let length):
            offset + length <= start
        case .parameter, .parameters: false
        }
    }

    /// By up to 32 bytes before the first digit or quote, so that what stands in gaps does not matter.
    private static func set(of text: UnsafeRawBufferPointer) -> Int {
        guard let start = text.baseAddress else { return 0 }
        var mixed: UInt64 = 0
        var offset = 0
        while offset < 32, offset + 8 <= text.count {
            let bytes = start.loadUnaligned(fromByteOffset: offset, as: UInt64.self).littleEndian
            let ends = digitsAndQuotes(bytes)
            let kept = ends == 0 ? bytes : bytes & ~(~0 << UInt64(ends.trailingZeroBitCount & ~7))
            mixed = (mixed ^ kept) &* 0x9E37_79B9_7F4A_7C15
            mixed ^= mixed >> 32
            if ends != 0 { break }
            offset += 8
        }
        return Int(truncatingIfNeeded: mixed >> 8) & (setsCount - 1)
    }

    /// The highest bit of each of eight bytes that is a digit or a quote.
    @inline(__always) private static func digitsAndQuotes(_ bytes: UInt64) -> UInt64 {
        let (sevens, tops): (UInt64, UInt64) = (0x7F7F_7F7F_7F7F_7F7F, 0x8080_8080_8080_8080)
        let digits = bytes ^ 0x3030_3030_3030_3030              // 0 to 9 are left of them
        let isMore = (digits & sevens) &+ 0x7676_7676_7676_7676 | digits
        let quotes = bytes ^ 0x2727_2727_2727_2727              // 0 is left of one
        let isOther = (quotes & sevens) &+ sevens | quotes
        return ~(isMore & isOther) & tops
    }
}
