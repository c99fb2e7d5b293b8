import PGWire
import SQLAnalysis

/// From a workload to the steps of its clients. One thread.
package struct WorkloadWriter {
    private let workload: Workload
    private let book: StatementBook
    private var dice: WorkloadDice
    private var lastUnit: UInt64 = 0
    /// Statements that a connection has prepared, by transaction and place.
    private var prepared: [UInt64: Set<Int>] = [:]
    private var readies: [UInt64: UInt64] = [:]
    private var shapes: [Int: ScriptUnit.Statement] = [:]

    package init(_ workload: Workload, book: StatementBook, seed: UInt64) {
        self.workload = workload
        self.book = book
        dice = WorkloadDice(seed: seed)
    }

    package mutating func gap() -> Double { dice.gap(rate: workload.rate) }

    package mutating func forget(_ connection: UInt64) {
        prepared[connection] = nil
        readies[connection] = nil
    }

    /// A statement of it is not there: its Parse came when the transaction had failed, as by a deadlock.
    package mutating func prepareAgain(_ connection: UInt64) { prepared[connection] = [] }

    /// One transaction's steps; a later step waits for the answers of the one before.
    package mutating func transaction(connection: UInt64, micros: UInt64) -> [ScriptStep] {
        let chosen = dice.choose(workload.transactions)
        let statements = workload.transactions[chosen].statements
        let user = workload.users.map { dice.value(of: $0) }
        var steps: [ScriptStep] = []
        let isBlock = statements.count > 1
        if isBlock { steps.append(step(simple: "BEGIN", -1, connection, micros)) }
        for (place, parts) in statements.enumerated() {
            steps.append(statement(chosen * 1000 + place, parts, user, connection, micros))
        }
        if isBlock { steps.append(step(simple: "COMMIT", -2, connection, micros)) }
        return steps
    }

    /// Which answers the next transaction's first step waits for: none of the last `pipeline - 1` ones.
    private mutating func makeStep(
        _ bytes: [UInt8], _ unit: ScriptUnit, _ connection: UInt64, _ micros: UInt64
    ) -> ScriptStep {
        let sent = readies[connection] ?? 0
        readies[connection] = sent + 1
        let open = UInt64(workload.pipeline - 1)
        return ScriptStep(
            micros: micros, bytes: bytes, readies: sent - min(sent, open), answers: 0, unit: unit, endsUnit: true,
            isCopyData: false, unitsBefore: 0)
    }

    private mutating func makeUnit(_ key: Int, _ text: String, _ connection: UInt64) -> ScriptUnit {
        lastUnit += 1
        let unit = ScriptUnit(connection: connection, number: lastUnit)
        let found = shapes[key] ?? book.statement(Array(text.utf8)[...])
        shapes[key] = found
        unit.statements = [found]
        unit.repeatable = nil
        return unit
    }

    private mutating func step(simple text: String, _ key: Int, _ connection: UInt64, _ micros: UInt64) -> ScriptStep {
        var writer = MessageWriter()
        writer.query(text)
        return makeStep(writer.bytes, makeUnit(key, text, connection), connection, micros)
    }

    private mutating func statement(
        _ key: Int, _ parts: [Workload.Part], _ user: Int?, _ connection: UInt64, _ micros: UInt64
    ) -> ScriptStep {
        let comment = user.map { "/* \(workload.userComment)=\($0) */ " } ?? ""
        var values: [String] = []
        var text = comment
        for part in parts {
            switch part {
            case .text(let piece): text += piece
            case .variable(let number):
                let value = "\(dice.value(of: workload.variables[number]))"
                values.append(value)
                text += workload.mode == .simple ? value : "$\(values.count)"
            }
        }
        if workload.mode == .simple { return step(simple: text, key, connection, micros) }
        var writer = MessageWriter()
        // A comment that changes makes another text of each: with users it is prepared anew.
        let isNamed = workload.mode == .prepared && user == nil
        let name = isNamed ? "s\(key)" : ""
        if !isNamed || prepared[connection, default: []].insert(key).inserted {
            // Others of the connection may be there.
            if isNamed { writer.closeStatement(name: name) }
            writer.message(FrontendTag.parse) {
                $0.cString(name)
                $0.cString(text)
                $0.int16(0)
            }
        }
        writer.message(FrontendTag.bind) { body in
            body.cString("")
            body.cString(name)
            body.int16(0)
            body.int16(Int16(values.count))
            for value in values {
                body.int32(Int32(value.utf8.count))
                body.raw(value.utf8)
            }
            body.int16(0)
        }
        writer.message(FrontendTag.execute) {
            $0.cString("")
            $0.int32(0)
        }
        writer.sync()
        return makeStep(writer.bytes, makeUnit(key, text, connection), connection, micros)
    }
}
