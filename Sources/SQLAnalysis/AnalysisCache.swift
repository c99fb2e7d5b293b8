/// One analysed text. Immutable and shared: hand the reference around.
package final class AnalysedStatement: Sendable {
    package let classification: Classification
    package let columnKey: ColumnKey?

    package var kind: StatementKind { classification.kind }

    package init(_ classification: Classification, columnKey: ColumnKey? = nil) {
        self.classification = classification
        self.columnKey = columnKey
    }
}

/// The answer for one text: the verdict, shared by all texts of its shape, and the key of this very text.
package struct Analysis: Sendable {
    package let statement: AnalysedStatement
    package let key: KeyReference?

    package var kind: StatementKind { statement.kind }
    package var classification: Classification { statement.classification }

    package init(statement: AnalysedStatement, key: KeyReference?) {
        self.statement = statement
        self.key = key
    }
}

/// How large a cache may become; each bound is per cache, that is per database and reactor thread.
package struct AnalysisLimits: Sendable {
    /// Texts kept whole; rounded up to a power of two.
    package var textEntriesMax = 4096
    /// Shapes kept; rounded up to a power of two.
    package var shapeEntriesMax = 4096
    /// Bytes of keys kept in each of the two tables.
    package var tableBytesMax = 4 << 20
    /// Texts longer than this are looked up by shape only.
    package var cachedTextBytesMax = 4096
    /// Longest text that is looked at; a longer one is unknown.
    package var textBytesMax = 1 << 20
    /// Longest text that the grammar is asked about.
    package var parsedBytesMax = 64 << 10
    /// Deepest nesting that the grammar is asked about; its functions and ours recurse some kilobytes a level.
    package var depthMax = 200
    /// Stack that the thread of an `AnalysisCache` must have for `depthMax` (measured: between 1 and 2 MiB).
    package static let stackBytesMin = 4 << 20
    /// Times that the grammar is asked between two `beginTurn()`.
    package var parsesPerTurnMax = 64

    package init() {}
}

package struct AnalysisCounters: Sendable, Equatable {
    package var textHits: UInt64 = 0
    package var shapeHits: UInt64 = 0
    /// The grammar was asked.
    package var parses: UInt64 = 0
    /// The budget of the turn was spent: the verdict was `unknown`.
    package var refusals: UInt64 = 0

    package init() {}
}

/// Text to verdict, remembered by exact text and by shape. One per database and reactor thread; never shared.
package final class AnalysisCache {
    package private(set) var counters = AnalysisCounters()

    private let keyPlan: KeyPlan
    private let limits: AnalysisLimits
    private let seed: UInt64
    private let texts: TextTable<Analysis>
    private let shapes: TextTable<AnalysedStatement>
    private let writer: ShapeWriter
    private var analyzer: StatementAnalyzer
    private var parsesLeft: Int
    /// Hashes of texts seen once: a text is kept whole at its second sight, so that a stream of texts that never
    /// come back does not push out those that do.
    private var seenOnce: [UInt64]
    private let undecided: [ClassificationReason: AnalysedStatement]

    private static let seenOnceCount = 4096

    /// - Parameter seed: of the tables' hash; any number, best one that clients do not know.
    package init(facts: CatalogFacts, keyPlan: KeyPlan, limits: AnalysisLimits = AnalysisLimits(), seed: UInt64) {
        precondition(limits.parsedBytesMax <= limits.textBytesMax, "more parsed than looked at")
        self.keyPlan = keyPlan
        self.limits = limits
        self.seed = seed
        texts = TextTable(entriesMax: limits.textEntriesMax, bytesMax: limits.tableBytesMax)
        shapes = TextTable(entriesMax: limits.shapeEntriesMax, bytesMax: limits.tableBytesMax)
        writer = ShapeWriter(keyPlan: keyPlan)
        analyzer = StatementAnalyzer(facts: facts, keyPlan: keyPlan)
        parsesLeft = limits.parsesPerTurnMax
        seenOnce = Array(repeating: 0, count: AnalysisCache.seenOnceCount)
        let reasons: [ClassificationReason] = [.tooLong, .tooDeep, .notText, .unterminated, .parseBudgetSpent]
        undecided = Dictionary(
            uniqueKeysWithValues: reasons.map { ($0, AnalysedStatement(Classification(.unknown, $0))) })
    }

    /// A new loop turn of the reactor: the parsing budget is whole again.
    package func beginTurn() { parsesLeft = limits.parsesPerTurnMax }

    /// The catalog was read again: everything remembered is forgotten.
    package func replace(facts: CatalogFacts) {
        texts.removeAll()
        shapes.removeAll()
        analyzer = StatementAnalyzer(facts: facts, keyPlan: keyPlan)
    }

    /// - Parameter text: without the wire's closing NUL. Not kept.
    package func analyse(_ text: UnsafeRawBufferPointer) -> Analysis {
        let isKept = text.count <= limits.cachedTextBytesMax
        var hash: UInt64 = 0
        if isKept {
            hash = TextHash.hash(text, seed: seed)
            if let known = texts.find(text, hash: hash) {
                counters.textHits += 1
                return known
            }
        } else if text.count > limits.textBytesMax {
            let head = UnsafeRawBufferPointer(rebasing: text[0..<limits.cachedTextBytesMax])
            _ = writer.write(head)                   // for its comments: a write needs its key also when it is long
            return unknown(.tooLong, head)
        }
        let outcome = writer.write(text)
        if !PlainText.isValid(text) { return unknown(.notText, text) }
        if outcome == .unterminated { return unknown(.unterminated, nil) }
        let shapeHash = TextHash.hash(writer.shape, seed: seed)
        if outcome == .shape, let known = shapes.find(writer.shape, hash: shapeHash) {
            counters.shapeHits += 1
            return remember(text, hash, isKept, Analysis(statement: known, key: key(known.columnKey, text)))
        }
        if let setting = SimpleSetting.classify(text) {
            let analysis = Analysis(statement: AnalysedStatement(setting), key: writer.commentKey)
            return remember(text, hash, isKept, analysis)
        }
        if text.count > limits.parsedBytesMax { return unknown(.tooLong, text) }
        if parsesLeft == 0 {
            counters.refusals += 1
            return unknown(.parseBudgetSpent, text)
        }
        if LexicalScan.depth(of: text) > limits.depthMax { return unknown(.tooDeep, text) }
        parsesLeft -= 1
        counters.parses += 1
        let result = analyzer.analyse(text)
        let statement = AnalysedStatement(result.classification, columnKey: columnKey(result.columnKey))
        if outcome == .shape, result.isByShape { shapes.insert(writer.shape, hash: shapeHash, statement) }
        return remember(text, hash, isKept, Analysis(statement: statement, key: key(statement.columnKey, text)))
    }

    // MARK: memory

    private func remember(
        _ text: UnsafeRawBufferPointer, _ hash: UInt64, _ isKept: Bool, _ analysis: Analysis
    ) -> Analysis {
        guard isKept else { return analysis }
        let place = Int(truncatingIfNeeded: hash) & (AnalysisCache.seenOnceCount - 1)
        if seenOnce[place] == hash {
            texts.insert(text, hash: hash, analysis)
        } else {
            seenOnce[place] = hash
        }
        return analysis
    }

    /// - Parameter scanned: the part of the text whose words are looked at; nil: they cannot be told apart, and the
    ///   server will refuse the text as well.
    private func unknown(_ reason: ClassificationReason, _ scanned: UnsafeRawBufferPointer?) -> Analysis {
        let effects = scanned.map { LexicalScan.effects(of: $0) } ?? []
        let key = writer.commentKey
        if effects.isEmpty, let statement = undecided[reason] { return Analysis(statement: statement, key: key) }
        var classification = Classification(.unknown, reason)
        classification.effects = effects
        return Analysis(statement: AnalysedStatement(classification), key: key)
    }

    // MARK: keys

    private func columnKey(_ candidate: ColumnCandidate?) -> ColumnKey? {
        guard let candidate else { return nil }
        switch candidate.value {
        case .parameter(let number): return ColumnKey(source: candidate.source, value: .parameter(number))
        case .offset(let offset):
            return writer.literals.firstIndex { $0.offset == offset }.map { index in
                ColumnKey(source: candidate.source, value: .literal(index))
            }
        }
    }

    /// The text's key by the first source of the plan that it answers.
    private func key(_ column: ColumnKey?, _ text: UnsafeRawBufferPointer) -> KeyReference? {
        guard let column else { return writer.commentKey }
        if let comment = writer.commentKey, comment.source < column.source { return comment }
        switch column.value {
        case .parameter(let number): return KeyReference(source: column.source, form: .parameter(number))
        case .literal(let index):
            guard index < writer.literals.count, let form = literalForm(writer.literals[index], text)
            else { return writer.commentKey }
            return KeyReference(source: column.source, form: form)
        }
    }

    /// A literal whose bytes are its value; strings with escapes in them are no keys.
    private func literalForm(
        _ literal: (offset: Int, length: Int), _ text: UnsafeRawBufferPointer
    ) -> KeyReference.Form? {
        let first = text[literal.offset]
        if first == 0x27 {
            let inner = text[(literal.offset + 1)..<(literal.offset + literal.length - 1)]
            if inner.isEmpty || inner.contains(0x27) { return nil }
            return .text(offset: literal.offset + 1, length: literal.length - 2)
        }
        let isNumber = SQLLexer.isDigit(first) || first == 0x2D && SQLLexer.isDigit(text[literal.offset + 1])
        return isNumber ? .text(offset: literal.offset, length: literal.length) : nil
    }
}
