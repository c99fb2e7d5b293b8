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
    /// Deepest nesting that the grammar is asked about.
    package var depthMax = 500
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

    /// - Parameter seed: of the tables' hash; any number, best one that clients do not know.
    package init(facts: CatalogFacts, keyPlan: KeyPlan, limits: AnalysisLimits = AnalysisLimits(), seed: UInt64) {}

    /// A new loop turn of the reactor: the parsing budget is whole again.
    package func beginTurn() {}

    /// The catalog was read again: everything remembered is forgotten.
    package func replace(facts: CatalogFacts) {}

    /// - Parameter text: without the wire's closing NUL. Not kept.
    package func analyse(_ text: UnsafeRawBufferPointer) -> Analysis {
        Analysis(statement: AnalysedStatement(Classification(.unknown, .refusedByGrammar)), key: nil)
    }
}
