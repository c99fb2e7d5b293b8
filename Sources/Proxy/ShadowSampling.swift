import Configuration
import PGWire
import Primitives
import Routing
import SQLAnalysis
import Sessions
import Shadowing

/// Which reads of one database are sampled on this reactor. A value, one owner.
struct ShadowSampler {
    /// Shapes whose calls are counted; others are sampled by chance alone.
    private static let shapesMax = 2048

    let book: ShadowBook
    private let hundredths: Int
    private var generator: SeededGenerator
    /// Calls, for shapes that are too rare to be met by chance.
    private var calls: [ShapeID: UInt32] = [:]

    init?(_ route: DatabaseRoute) {
        guard let book = route.shadow, route.settings.shadow.hundredths > 0 else { return nil }
        self.book = book
        hundredths = route.settings.shadow.hundredths
        generator = SeededGenerator(seed: .random(in: 0 ... .max))
    }

    /// Whether this call is in the sample: by chance, or as the first, second, fourth, eighth ... of its shape.
    mutating func wants(_ statement: AnalysedStatement) -> Bool {
        if Int(generator.next() % 10_000) < hundredths { return true }
        guard let shape = statement.shape else { return false }
        if calls[shape] == nil && calls.count >= Self.shapesMax { return false }
        let count = calls[shape, default: 0] &+ 1
        calls[shape] = count
        return count & (count &- 1) == 0
    }
}

/// Reads that are looked at again, on both sides, while nobody waits for them.
extension ClientConnection {
    /// A Query on its way to a server. - Parameter body: of the message.
    func sampleShadow(query body: UnsafeRawBufferPointer) {
        guard unit.statementCount == 1, let statement = unit.notes.statement, isComparable(statement) else { return }
        var reader = BodyReader(body)
        guard let text = reader.cString(), wantsShadow(statement), let database else { return }
        let other = rewritten(text, database)
        offer(other ?? Array(text), types: [], parameters: [], statement)
    }

    /// A Bind on its way to a server.
    ///
    /// - Parameter values: positioned behind the statement's name.
    func sampleShadow(bind name: UnsafeRawBufferPointer, _ values: BodyReader) {
        guard let database else { return }
        let statement: AnalysedStatement, parseBody: [UInt8]
        if name.isEmpty {
            guard let unnamed else { return }
            (statement, parseBody) = (unnamed.analysis, unnamed.parseBody)
        } else if let id = statements.find(name) ?? names.own.find(name) {
            (statement, parseBody) = (database.analysis(of: id).0, database.statements[id].parseBody)
        } else {
            return
        }
        guard isComparable(statement), wantsShadow(statement), let bound = BindParameters(values)?.all else { return }
        parseBody.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            guard let text = reader.cString() else { return }
            let types = ParameterTypes(reader)
            let parameters = bound.map { value in
                ShadowSample.Parameter(bytes: value.map { Array($0.bytes) }, isBinary: value?.isBinary ?? false)
            }
            offer(Array(text), types: (1..<(bound.count + 1)).map { types[$0] }, parameters: parameters, statement)
        }
    }

    private func wantsShadow(_ statement: AnalysedStatement) -> Bool { database?.shadow?.wants(statement) ?? false }

    /// A read whose answer depends on nothing but what is committed and what the session has set.
    private func isComparable(_ statement: AnalysedStatement) -> Bool {
        let classification = statement.classification
        // Types of a server's own have no number there: see `ShadowSample.portable`.
        let isRead = statement.kind == .read || classification.reason == .parameterType
        return isRead && classification.statementCount == 1 && classification.copy == nil
            && !classification.readsSequence && !transaction.hasWritten && ledger.openEffects.isEmpty
            && unit.session.isEmpty && !unit.isReplay && isTextTrusted && (pins.isEmpty || pins == [.poolMode])
            && status != .failed && unit.notes.outcome != .old
    }

    private func offer(
        _ text: [UInt8], types: [UInt32], parameters: [ShadowSample.Parameter], _ statement: AnalysedStatement
    ) {
        guard let book = database?.shadow?.book else { return }
        var own = settings.withoutReadOnly
        own.reset(name: "application_name")
        let sample = ShadowSample(
            worker: worker.index, user: user, settings: own.statements(from: SessionSettings()) ?? "", text: text,
            types: types, parameters: parameters, statement: statement)
        if sample.byteCount <= ShadowSample.bytesMax { book.offer(sample) }
    }
}
