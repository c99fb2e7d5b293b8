/// One analysed text. Immutable and shared: hand the reference around.
package final class AnalysedStatement: Sendable {
    package let classification: Classification
    package let columnKey: ColumnKey?
    /// nil: the text is not told by its shape (it was not analysed, or its literals matter).
    package let shape: ShapeID?
    /// The shape as text, cut to `ShapeID.textBytesMax` bytes; empty without a shape.
    package let shapeText: String
    /// The tables that it names, in the order of the grammar's tree; none when it was not analysed.
    package let relations: [RelationReference]
    /// It may change the rows of a user whom its columns, or comments that nobody has looked at, name.
    package let hidesKey: Bool
    /// It does nothing to its session or transaction, and uses no name of one: most are so. Kept, for to ask the
    /// classification from another module copies it.
    package let isWithoutTrace: Bool

    /// A read that leaves nothing, changes nothing, and asks for nothing that the session or the transaction has.
    package let isPlainRead: Bool

    /// The classification's, kept for the same reason.
    package let kind: StatementKind
    /// Its key, if it has one, is in the Bind message.
    package let hasBoundKey: Bool

    package init(
        _ classification: Classification, columnKey: ColumnKey? = nil, shape: ShapeID? = nil, shapeText: String = "",
        relations: [RelationReference] = [], hidesKey: Bool = false
    ) {
        self.classification = classification
        kind = classification.kind
        hasBoundKey = if case .parameters? = columnKey?.value { true } else { false }
        self.hidesKey = hidesKey
        self.columnKey = columnKey
        self.shape = shape
        self.shapeText = shapeText
        self.relations = relations
        isWithoutTrace = classification.leavesNothing && classification.statementNames.isEmpty
            && !classification.dropsStatements
        isPlainRead = isWithoutTrace && classification.kind == .read && !classification.readsSequence
            && !classification.seesTransactionTime && !classification.changesSchema && !classification.changesTables
            && classification.copy == nil && classification.transaction == TransactionOptions()
    }
}

extension AnalysedStatement {
    /// The same read where its Parse names a type that PostgreSQL has not come with: on another server another type, or
    /// none, has that number.
    package var withForeignTypes: AnalysedStatement {
        if kind != .read { return self }
        var classification = classification
        classification.kind = .sideDependent
        classification.reason = .parameterType
        return AnalysedStatement(
            classification, columnKey: columnKey, shape: shape, shapeText: shapeText, relations: relations)
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
    /// Deepest nesting that the grammar is asked about; its functions and ours recurse some kilobytes a level. It takes
    /// between 1 and 2 MiB of stack (measured), of which an `OwnThread` has enough.
    package var depthMax = 200
    /// Times that the grammar is asked between two `beginTurn()`, or in a turn of the reactor.
    package var parsesPerTurnMax = 64

    package init() {}
}

/// How statements were analysed, counted since the start of a thread.
package struct AnalysisCounters: Sendable, Equatable {
    package var textHits: UInt64 = 0
    package var shapeHits: UInt64 = 0
    /// Those of them that were found by comparing bytes: see `TemplateTable`.
    package var templateHits: UInt64 = 0
    /// The grammar was asked.
    package var parses: UInt64 = 0
    /// The budget of the turn was spent: the verdict was `unknown`.
    package var refusals: UInt64 = 0

    package init() {}

    package static func + (left: AnalysisCounters, right: AnalysisCounters) -> AnalysisCounters {
        var sum = left
        sum.textHits += right.textHits
        sum.shapeHits += right.shapeHits
        sum.templateHits += right.templateHits
        sum.parses += right.parses
        sum.refusals += right.refusals
        return sum
    }
}

/// Turns of one reactor's loop. Its caches look at it when they need to: to tell each of them would cost every turn as
/// much as there are databases. Used on its thread.
package final class AnalysisTurns {
    fileprivate private(set) var number: UInt64 = 0

    package init() {}

    package func begin() { number += 1 }
}

/// Text to verdict, remembered by exact text and by shape. One per database and reactor thread; never shared.
package final class AnalysisCache {
    package private(set) var counters = AnalysisCounters()

    private let keyPlan: KeyPlan
    /// Columns are among its sources, or comments.
    private let hasColumns: Bool
    private let hasComments: Bool
    private let limits: AnalysisLimits
    private let seed: UInt64
    private let texts: TextTable<Analysis>
    private let shapes: TextTable<AnalysedStatement>
    private let templates = TemplateTable()
    private let writer: ShapeWriter
    private var analyzer: StatementAnalyzer
    private let turns: AnalysisTurns
    /// In the turn of this number.
    private var parsesLeft: Int
    private var turn: UInt64
    /// Hashes of texts seen once: a text is kept whole at its second sight, so that a stream of texts that never
    /// come back does not push out those that do.
    private var seenOnce: [UInt64]
    private let undecided: [ClassificationReason: AnalysedStatement]

    private static let seenOnceCount = 4096

    /// - Parameters:
    ///   - seed: of the tables' hash; any number, best one that clients do not know.
    ///   - turns: of the reactor that has it.
    package init(
        facts: CatalogFacts, keyPlan: KeyPlan, limits: AnalysisLimits = AnalysisLimits(), seed: UInt64,
        turns: AnalysisTurns = AnalysisTurns()
    ) {
        precondition(limits.parsedBytesMax <= limits.textBytesMax, "more parsed than looked at")
        self.keyPlan = keyPlan
        hasColumns = keyPlan.sources.contains { if case .column = $0 { true } else { false } }
        hasComments = keyPlan.sources.contains { if case .comment = $0 { true } else { false } }
        self.limits = limits
        self.seed = seed
        texts = TextTable(entriesMax: limits.textEntriesMax, bytesMax: limits.tableBytesMax)
        shapes = TextTable(entriesMax: limits.shapeEntriesMax, bytesMax: limits.tableBytesMax)
        writer = ShapeWriter(keyPlan: keyPlan)
        analyzer = StatementAnalyzer(facts: facts, keyPlan: keyPlan)
        self.turns = turns
        turn = turns.number
        parsesLeft = limits.parsesPerTurnMax
        seenOnce = Array(repeating: 0, count: AnalysisCache.seenOnceCount)
        let reasons: [ClassificationReason] = [.tooLong, .tooDeep, .notText, .unterminated, .parseBudgetSpent]
        undecided = Dictionary(uniqueKeysWithValues: reasons.map { reason in
            var classification = Classification(.unknown, reason)
            if reason != .tooLong { classification.borders = .none }
            return (reason, AnalysedStatement(classification))
        })
    }

    /// A new loop turn of the reactor: the parsing budget is whole again.
    package func beginTurn() { turns.begin() }

    /// The catalog was read again: everything remembered is forgotten.
    package func replace(facts: CatalogFacts) {
        templates.removeAll()
        texts.removeAll()
        shapes.removeAll()
        analyzer = StatementAnalyzer(facts: facts, keyPlan: keyPlan)
    }

    /// Cuts a text behind the first statement that ends a transaction.
    ///
    /// - Returns: nil: nothing ends in it, or nothing follows.
    package func cut(_ text: UnsafeRawBufferPointer) -> TextCut? { analyzer.cut(text) }

    /// For a text that the grammar was not asked about, or has refused: whether the first words of its statements let
    /// one begin or end a transaction, or a part of one.
    package static func mayHaveBorder(_ text: UnsafeRawBufferPointer) -> Bool { LexicalScan.mayHaveBorder(text) }

    /// A template that the text is of, which the cache has until the next text is looked at; what it says is the text's
    /// analysis, where it has no key.
    package func template(of text: UnsafeRawBufferPointer) -> Unmanaged<TemplateTable.Template>? {
        guard let found = templates.find(text, &writer.literals) else { return nil }
        counters.shapeHits += 1
        counters.templateHits += 1
        return found
    }

    /// - Parameter text: without the wire's closing NUL. Not kept.
    package func analyse(_ text: UnsafeRawBufferPointer) -> Analysis { analyse(text, as: template(of: text)) }

    /// - Parameter template: what `template(of:)` has just said of it.
    package func analyse(
        _ text: UnsafeRawBufferPointer, as template: Unmanaged<TemplateTable.Template>?
    ) -> Analysis {
        if let template {
            return template._withUnsafeGuaranteedRef { template in
                if !template.hasKey { return Analysis(statement: template.statement, key: nil) }
                writer.commentKey = template.commentKey
                return Analysis(statement: template.statement, key: key(template.statement.columnKey, text))
            }
        }
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
            return unknown(.tooLong, head, hidesComments: hasComments)
        }
        let outcome = writer.write(text)
        if !PlainText.isValid(text) { return unknown(.notText, text) }
        if outcome == .unterminated { return unknown(.unterminated, nil) }
        let shapeHash = TextHash.hash(writer.shape, seed: seed)
        if outcome == .shape, let known = shapes.find(writer.shape, hash: shapeHash) {
            counters.shapeHits += 1
            templates.insert(text, writer.literals, writer.commentKey, known)
            return remember(text, hash, isKept, Analysis(statement: known, key: key(known.columnKey, text)))
        }
        if let setting = SimpleSetting.classify(text) {
            let analysis = Analysis(statement: AnalysedStatement(setting), key: writer.commentKey)
            return remember(text, hash, isKept, analysis)
        }
        if text.count > limits.parsedBytesMax { return unknown(.tooLong, text) }
        if turn != turns.number { (turn, parsesLeft) = (turns.number, limits.parsesPerTurnMax) }
        // DDL comes seldom, and must not pass for want of a look at it.
        if parsesLeft == 0 && !LexicalScan.mayChangeTables(text) {
            counters.refusals += 1
            return unknown(.parseBudgetSpent, text)
        }
        if LexicalScan.depth(of: text) > limits.depthMax { return unknown(.tooDeep, text) }
        parsesLeft = max(0, parsesLeft - 1)
        counters.parses += 1
        let result = analyzer.analyse(text)
        let isByShape = outcome == .shape && result.isByShape
        let column = columnKey(result.columnKey)
        let isUnknown = result.classification.kind == .unknown
        let statement = AnalysedStatement(
            result.classification, columnKey: column,
            shape: isByShape ? ShapeID(writer.shape) : nil, shapeText: isByShape ? ShapeID.text(writer.shape) : "",
            relations: references(result.relations, text),
            hidesKey: isUnknown ? mayHideKey(text) : result.writesForUser && column == nil)
        if isByShape { shapes.insert(writer.shape, hash: shapeHash, statement) }
        return remember(text, hash, isKept, Analysis(statement: statement, key: key(statement.columnKey, text)))
    }

    /// Of a text that goes on before it is whole.
    package func analyse(head: UnsafeRawBufferPointer) -> AnalysedStatement {
        _ = writer.write(head)
        return unknown(.tooLong, head).statement
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
    private func unknown(
        _ reason: ClassificationReason, _ scanned: UnsafeRawBufferPointer?, hidesComments: Bool = false
    ) -> Analysis {
        let effects = scanned.map { LexicalScan.effects(of: $0) } ?? []
        let mayMove = scanned.map { LexicalScan.mayMoveBorders($0) } ?? false
        let mayChange = scanned.map { LexicalScan.mayChangeTables($0) } ?? false
        let hidesKey = hidesComments || scanned.map { mayHideKey($0) } ?? false
        let key = writer.commentKey
        if effects.isEmpty, !mayMove, !mayChange, !hidesKey, let statement = undecided[reason] {
            return Analysis(statement: statement, key: key)
        }
        var classification = Classification(.unknown, reason)
        classification.effects = effects
        if !mayMove && reason != .tooLong { classification.borders = .none }
        if mayChange { TableChange.note(unknown: &classification) }
        return Analysis(statement: AnalysedStatement(classification, hidesKey: hidesKey), key: key)
    }

    /// Of a text that the grammar has not told of.
    private func mayHideKey(_ text: UnsafeRawBufferPointer) -> Bool { hasColumns && LexicalScan.mayChangeRows(text) }

    /// Where the tables' names stand, by the number of the word: texts of one shape have the same words.
    private func references(_ found: [FoundRelation], _ text: UnsafeRawBufferPointer) -> [RelationReference] {
        if found.isEmpty { return [] }
        let words = TableRewriter.words(at: Set(found.map(\.offset)), in: text)
        return found.map { relation in
            let word = words[relation.offset]
            return RelationReference(
                schema: relation.schema, name: relation.name, word: word ?? 0, parts: relation.parts,
                takesAlias: relation.takesAlias, isTable: relation.isTable && word != nil)
        }
    }

    // MARK: figures

    package var textEntries: Int { texts.count }
    package var shapeEntries: Int { shapes.count }
    package var bytesHeld: Int { texts.bytesHeld + shapes.bytesHeld }

    // MARK: keys

    /// A list whose length the shape does not show has a key when it has one element; a shape that shows more has none.
    private func columnKey(_ candidate: ColumnCandidate?) -> ColumnKey? {
        guard let candidate, !candidate.values.isEmpty else { return nil }
        var places: [Int] = []
        var numbers: [Int] = []
        for value in candidate.values {
            switch value {
            case .parameter(let number): numbers.append(number)
            case .offset(let offset, let items):
                guard let place = writer.literals.firstIndex(where: { $0.offset == offset }),
                    writer.literals[place].repeats == items - 1, !writer.literals[place].isJoined
                else { return nil }
                places.append(place)
            }
        }
        if numbers.isEmpty { return ColumnKey(source: candidate.source, value: .literals(places)) }
        return places.isEmpty ? ColumnKey(source: candidate.source, value: .parameters(numbers)) : nil
    }

    /// The text's key by the first source of the plan that it answers.
    private func key(_ column: ColumnKey?, _ text: UnsafeRawBufferPointer) -> KeyReference? {
        guard let column else { return writer.commentKey }
        if let comment = writer.commentKey, comment.source < column.source { return comment }
        switch column.value {
        case .parameters(let numbers):
            return KeyReference(
                source: column.source, form: numbers.count == 1 ? .parameter(numbers[0]) : .parameters(numbers))
        case .literals(let places):
            guard let form = literalForm(places, text) else { return writer.commentKey }
            return KeyReference(source: column.source, form: form)
        }
    }

    /// The key of a literal, or of several that mean one value.
    private func literalForm(_ places: [Int], _ text: UnsafeRawBufferPointer) -> KeyReference.Form? {
        var first: [UInt8]?
        for place in places {
            guard place < writer.literals.count, writer.literals[place].repeats == 0 else { return nil }
            let literal = writer.literals[place]
            let token = text[literal.offset..<(literal.offset + literal.length)]
            if places.count == 1, RoutingKeyText.isPlain(token) {
                let quote = token.first == 0x27 ? 1 : 0
                return .text(offset: literal.offset + quote, length: literal.length - 2 * quote)
            }
            guard let value = RoutingKeyText.literal(token) else { return nil }
            if let first, first != value { return nil }
            first = value
        }
        guard let place = places.first, first != nil else { return nil }
        return .literal(offset: writer.literals[place].offset, length: writer.literals[place].length)
    }
}
