import PGWire
import Primitives
import SQLAnalysis
import Sessions

/// The statement texts that clients of one database and thread have named, each once however many clients use it.
/// Used on its reactor's thread. Bounded by the clients' own bound on names: an unused text is forgotten.
struct StatementRegistry {
    /// A class, so that asking for one thing of it copies nothing else.
    final class Statement {
        /// What servers know it as, with the closing NUL.
        let serverName: [UInt8]
        /// A Parse message's body behind the name: text, NUL, parameter types.
        let parseBody: [UInt8]
        let literals: LiteralReading
        fileprivate(set) var analysis: AnalysedStatement
        /// The routing key that the text carries, and its place among the sources.
        fileprivate(set) var key: StatementKey?
        /// The registry's when it was analysed; 0: it is to be analysed again anyway.
        fileprivate var generation: UInt32
        fileprivate var uses = 1

        fileprivate init(
            number: UInt64, _ parseBody: [UInt8], _ literals: LiteralReading, _ analysis: AnalysedStatement,
            _ key: StatementKey?, generation: UInt32
        ) {
            serverName = Array("\(StatementRegistry.namePrefix)\(number)".utf8) + [0]
            precondition(serverName.count <= StatementRegistry.serverNameMax, "a name longer than any number's")
            self.parseBody = parseBody
            self.literals = literals
            self.analysis = analysis
            self.key = key
            self.generation = generation
        }
    }

    private var statements: [StatementID: Statement] = [:]
    private var byBody: [[UInt8]: StatementID] = [:]
    private var lastID: UInt64 = 0
    /// What was analysed in an earlier one may mean something else now: see `outdateAll`.
    private(set) var generation: UInt32 = 1

    /// Names that begin so are ours; an application's own cannot, for it has a control character.
    static let namePrefix = "godwit_\u{1}"
    /// Bytes of a `serverName`: the prefix, a number and the NUL.
    static let serverNameMax = 8 + 20 + 1

    var count: Int { statements.count }

    subscript(id: StatementID) -> Statement {
        guard let statement = statements[id] else { preconditionFailure("a statement that nobody uses") }
        return statement
    }

    /// What is asked of it with each Bind.
    ///
    /// - Returns: nil: it has to be analysed again.
    func analysis(of id: StatementID) -> (AnalysedStatement, StatementKey?)? {
        // The table has it.
        let known = withUncounted(statements[id]) { statement -> (AnalysedStatement, StatementKey?)? in
            statement.generation == generation ? (statement.analysis, statement.key) : nil
        }
        guard let known else { preconditionFailure("a statement that nobody uses") }
        return known
    }

    mutating func renew(_ id: StatementID, _ found: (analysis: AnalysedStatement, key: StatementKey?)) {
        let generation = generation(of: found.analysis)
        statements[id]?.analysis = found.analysis
        statements[id]?.key = found.key
        statements[id]?.generation = generation
    }

    /// A verdict for want of time does not stay.
    func generation(of analysis: AnalysedStatement) -> UInt32 {
        !analysis.isPlainRead && analysis.classification.reason == .parseBudgetSpent ? 0 : generation
    }

    /// Counts one more use of the text, which `release` takes back.
    mutating func intern(
        _ parseBody: UnsafeRawBufferPointer, _ analysis: @autoclosure () -> (AnalysedStatement, StatementKey?)
    ) -> StatementID {
        let body = Array(parseBody)
        if let id = byBody[body] {
            statements[id]?.uses += 1
            return id
        }
        lastID += 1
        let id = StatementID(lastID)
        var types = BodyReader(parseBody)
        let text = types.cString() ?? parseBody
        let (analysed, key) = DatabaseState.judged(analysis(), types: types)
        statements[id] = Statement(
            number: lastID, body, LiteralReading(of: text), analysed, key, generation: generation(of: analysed))
        byBody[body] = id
        return id
    }

    mutating func release(_ id: StatementID) {
        guard let statement = statements[id] else { return }
        if statement.uses > 1 {
            statements[id]?.uses -= 1
        } else {
            statements[id] = nil
            if byBody[statement.parseBody] == id { byBody[statement.parseBody] = nil }
        }
    }

    /// The schema has changed: a text may have a result of another type now, which PostgreSQL refuses to those who
    /// prepared it before (0A000) and gives to those who prepare it from now on. They get another statement.
    mutating func retireAll() { byBody = [:] }

    /// The same of one text, for a transaction that has changed the schema and is open.
    mutating func retire(_ parseBody: UnsafeRawBufferPointer) {
        if !byBody.isEmpty { byBody[Array(parseBody)] = nil }
    }

    /// What texts are judged by has changed, or where keys come from, or whose they are.
    mutating func outdateAll() { generation += 1 }
}
