import SQLAnalysis

/// The statement shapes of a run, numbered as they are met. One thread.
package final class StatementBook {
    /// Shapes that are told apart; further ones are one.
    package static let shapesMax = 2000
    /// Statements of one text that are told apart.
    private static let statementsMax = 10_000

    /// By number; 0 is for what has no shape.
    package private(set) var texts = ["(statements that are not known)"]
    private var numbers: [String: Int] = [:]
    private let analysis: AnalysisCache
    private static let otherShapes = "(further statement shapes)"

    package init() {
        var limits = AnalysisLimits()
        limits.parsesPerTurnMax = .max
        analysis = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), limits: limits, seed: 0)
    }

    package var unknown: ScriptUnit.Statement { .init(shape: 0, kind: .unknown, hasOrder: false) }

    package func statement(_ text: ArraySlice<UInt8>) -> ScriptUnit.Statement {
        let found = text.withUnsafeBytes { analysis.analyse($0) }
        let words = found.statement.shapeText
        let shape = number(words.isEmpty ? Self.head(text) : words)
        return .init(shape: shape, kind: found.kind, hasOrder: Self.hasOrder(text))
    }

    /// Of a simple query's text, one for each statement: each has an outcome of its own.
    package func statements(_ text: ArraySlice<UInt8>) -> [ScriptUnit.Statement] {
        let whole = statement(text)
        let orders = Self.orders(text)
        if orders.count < 2 || orders.count > Self.statementsMax { return [whole] }
        return orders.map { .init(shape: whole.shape, kind: whole.kind, hasOrder: $0) }
    }

    package func number(_ text: String) -> Int {
        if let known = numbers[text] { return known }
        if texts.count >= Self.shapesMax && text != Self.otherShapes { return number(Self.otherShapes) }
        texts.append(text)
        numbers[text] = texts.count - 1
        return texts.count - 1
    }

    /// Without a shape there are literals in it, which a report should not be full of.
    private static func head(_ text: ArraySlice<UInt8>) -> String {
        let words = String(decoding: text.prefix(200), as: UTF8.self).split(whereSeparator: \.isWhitespace)
        if words.isEmpty { return "(empty)" }
        return words.prefix(4).joined(separator: " ") + (words.count > 4 ? " …" : "")
    }

    /// The rows' order is asked for: ORDER BY outside of brackets.
    static func hasOrder(_ text: ArraySlice<UInt8>) -> Bool { orders(text).contains(true) }

    /// The same, of each statement of a text.
    private static func orders(_ text: ArraySlice<UInt8>) -> [Bool] {
        text.withUnsafeBytes { bytes in
            var lexer = SQLLexer(bytes)
            var depth = 0
            var isOrder = false
            var found: [Bool] = []
            var isWithin = false
            while true {
                let token = lexer.next()
                if token.kind == .end || token.kind == .unterminated { return found }
                if token.kind == .lineComment || token.kind == .blockComment { continue }
                if depth == 0 && token.kind == .punctuation && bytes[token.start] == UInt8(ascii: ";") {
                    // Between two semicolons there may be nothing.
                    (isWithin, isOrder) = (false, false)
                    continue
                }
                if !isWithin { found.append(false) }
                isWithin = true
                switch token.kind {
                case .punctuation:
                    if bytes[token.start] == UInt8(ascii: "(") { depth += 1 }
                    if bytes[token.start] == UInt8(ascii: ")") { depth -= 1 }
                    isOrder = false
                case .identifier:
                    let word = String(decoding: bytes[token.start..<token.end], as: UTF8.self).lowercased()
                    if isOrder && depth == 0 && word == "by" { found[found.count - 1] = true }
                    isOrder = word == "order"
                case .quotedIdentifier, .string, .unicodeString, .bitString, .nationalString, .integer, .decimal,
                    .parameter, .operation, .stray, .lineComment, .blockComment, .end, .unterminated:
                    isOrder = false
                }
            }
        }
    }
}
