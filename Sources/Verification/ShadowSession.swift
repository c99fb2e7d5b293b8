import Glibc
import LibPQ
import Shadowing
import SQLAnalysis

/// A session on one side as a client's would be, in which sampled reads run, each in a READ ONLY transaction of its own
/// that leaves nothing. What goes wrong is kept until the read has ended. Used by one thread.
///
/// Each step is told and then awaited, so that both sides are at work at once.
final class ShadowSession {
    struct Limits {
        /// Of one statement.
        var seconds: Double
        var rowsMax: Int
        var bytesMax: Int
    }

    private let connection: Connection
    private let limits: Limits
    private(set) var failure: PostgresFailure?
    /// It has done with the last read, and can have another.
    private(set) var isUsable = true

    init(_ target: ConnectionString, _ limits: Limits, interrupt: CInt) throws(PostgresFailure) {
        connection = try Connection.open(
            target, purpose: "shadow", settings: ["default_transaction_read_only": "on"], isPlain: true,
            interrupt: interrupt)
        self.limits = limits
    }

    /// Once more for the time that the server's own limit takes to be noticed.
    private var deadline: Deadline { Deadline.now().adding(seconds: limits.seconds + 1) }

    private func attempt(_ body: () throws(PostgresFailure) -> Void) {
        if failure != nil { return }
        do throws(PostgresFailure) {
            try body()
        } catch {
            failure = error
            if error.kind != .refused { isUsable = false }
        }
    }

    // MARK: steps

    func begin(_ snapshot: String, settings: String) {
        failure = nil
        let millis = Int(limits.seconds * 1000)
        attempt { () throws(PostgresFailure) in
            try connection.send("""
                BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT \(SQL.literal(snapshot));
                \(settings.isEmpty ? "" : settings + ";")
                SELECT pg_catalog.set_config('statement_timeout', '\(millis)', true),
                    pg_catalog.set_config('lock_timeout', '100', true)
                """)
        }
    }

    func awaitBegin() { attempt(finish) }

    private func finish() throws(PostgresFailure) { try connection.finish(timeoutSeconds: limits.seconds + 1) }

    func ask(_ sample: ShadowSample) {
        attempt { () throws(PostgresFailure) in
            try connection.send(
                statement: sample.text,
                values: sample.parameters.enumerated().map { place, value in
                    WireValue(
                        type: place < sample.types.count ? sample.types[place] : 0, bytes: value.bytes,
                        isBinary: value.isBinary)
                })
        }
    }

    /// - Returns: nil when the side could not answer, and `failure` says why.
    func takeAnswer(_ traits: ComparisonTraits) -> ShadowAnswer? {
        var answer = ShadowAnswer(rowsMax: limits.rowsMax, bytesMax: limits.bytesMax)
        var roundedColumns: Set<Int> = []
        attempt { () throws(PostgresFailure) in
            let isWhole = try connection.takeRows(until: deadline) { rows in
                if answer.columns.isEmpty {
                    answer.describe((0..<rows.columns).map {
                        ShadowAnswer.Column(name: rows.name($0), type: rows.type($0))
                    })
                    if traits.aggregates {
                        let columns = answer.columns
                        roundedColumns = Set(columns.indices.filter { Self.floats.contains(columns[$0].type) })
                    }
                }
                for row in 0..<rows.count where !Self.add(row, of: rows, to: &answer, roundedColumns) { return false }
                return true
            }
            // What is still on its way is not worth reading.
            if !isWhole { isUsable = false }
        }
        guard let failure else { return answer }
        if failure.kind != .refused || Self.isServersOwn(failure.sqlState) { return nil }
        answer.end = .refused(state: failure.sqlState, message: failure.message)
        return answer
    }

    func rollBack() {
        guard isUsable else { return }
        failure = nil
        attempt { () throws(PostgresFailure) in try connection.send("ROLLBACK") }
    }

    func awaitRollBack() {
        guard isUsable else { return }
        attempt(finish)
        if failure != nil { isUsable = false }
    }

    // MARK: values

    private static let floats: Set<UInt32> = [700, 701]

    private static func add(
        _ row: Int, of rows: Rows, to answer: inout ShadowAnswer, _ rounded: Set<Int>
    ) -> Bool {
        if !answer.beginRow() { return false }
        for column in 0..<rows.columns {
            if rows.isNull(row, column) {
                answer.append(nil)
            } else if rounded.contains(column), let number = Double(rows[row, column] ?? "") {
                // A sum of floating-point numbers depends on their order: the last digits say nothing.
                var text = [UInt8](repeating: 0, count: 40)
                let count = withVaList([number]) { list in
                    text.withUnsafeMutableBytes { buffer in
                        vsnprintf(buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count, "%.9g", list)
                    }
                }
                text[..<Int(count)].withUnsafeBytes { answer.append($0) }
            } else {
                answer.append(rows.bytes(row, column))
            }
        }
        return true
    }

    /// What says more of the server, or of our being there, than of the statement.
    private static func isServersOwn(_ state: String) -> Bool {
        ["08", "53", "57", "58", "XX"].contains { state.hasPrefix($0) }
            || ["55P03", "40001", "40P01", "25006"].contains(state)
    }
}
