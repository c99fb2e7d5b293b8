import Foundation
import Primitives
import Yams

/// What is wrong in a workload file, and where.
package struct WorkloadError: Error, CustomStringConvertible {
    package var description: String
    init(_ description: String) { self.description = description }
}

/// Traffic that is made up, as a workload file describes it (loadtest/README.md). Immutable, any thread.
package struct Workload: Sendable {
    package enum Mode: String, Sendable, CaseIterable { case simple, extended, prepared }

    /// Values of `:name` in a statement.
    package struct Variable: Sendable {
        package var name: String
        package var range: ClosedRange<Int>
        /// 0: all alike; higher: the first ones more often (a Zipf exponent): hot keys.
        package var skew: Double
    }

    package struct Transaction: Sendable {
        package var name: String
        package var weight: Int
        /// More than one: between BEGIN and COMMIT.
        package var statements: [[Part]]
    }

    package enum Part: Equatable, Sendable {
        case text(String)
        /// By its place in `variables`.
        case variable(Int)
    }

    package var clients = 10
    package var seconds = 10.0
    /// Transactions a second over all clients; 0: each client begins the next when it has its answer.
    package var rate = 0.0
    package var mode = Mode.simple
    /// Statements that a client sends before it waits for answers.
    package var pipeline = 1
    /// A transaction's routing key, in a comment before each statement; nil: none.
    package var users: Variable?
    package var userComment = "user_id"
    package var variables: [Variable] = []
    package var transactions: [Transaction] = []
    /// Run before, by one client.
    package var setUp: [String] = []
    /// Further transactions of a client's connection before it connects anew; 0: it stays.
    package var reconnectAfter = 0

    private static let keys: Set<String> = [
        "clients", "seconds", "rate", "mode", "pipeline", "users", "variables", "transactions", "setup",
        "reconnect_after",
    ]

    package init(yaml: String) throws {
        let node: Any?
        do { node = try Yams.load(yaml: yaml) } catch { throw WorkloadError("not YAML: \(error)") }
        guard let top = node as? [String: Any] else { throw WorkloadError("a workload is a mapping of keys") }
        try Self.refuse(top, beyond: Self.keys, "")
        clients = try Self.number(top, "clients", 1...100_000) ?? clients
        seconds = try Self.real(top, "seconds") ?? seconds
        rate = try Self.real(top, "rate") ?? 0
        pipeline = try Self.number(top, "pipeline", 1...10_000) ?? 1
        reconnectAfter = try Self.number(top, "reconnect_after", 0...1_000_000_000) ?? 0
        if let text = top["mode"] {
            guard let found = (text as? String).flatMap({ Mode(rawValue: $0) }) else {
                throw WorkloadError("mode: expected simple, extended or prepared")
            }
            mode = found
        }
        setUp = try Self.texts(top["setup"], "setup")
        for (name, value) in (top["variables"] as? [String: Any] ?? [:]).sorted(by: { $0.key < $1.key }) {
            variables.append(try Self.variable(name, value))
        }
        if let value = top["users"] {
            var value = value as? [String: Any] ?? [:]
            if let comment = value.removeValue(forKey: "comment") as? String { userComment = comment }
            users = try Self.variable("users", value)
        }
        guard let list = top["transactions"] as? [[String: Any]], !list.isEmpty else {
            throw WorkloadError("transactions: expected a list of at least one, each with sql")
        }
        for (index, entry) in list.enumerated() { transactions.append(try transaction(entry, index)) }
    }

    private func transaction(_ entry: [String: Any], _ index: Int) throws -> Transaction {
        let place = "transactions[\(index)]"
        try Self.refuse(entry, beyond: ["name", "weight", "sql"], place + ".")
        let texts = try Self.texts(entry["sql"], place + ".sql")
        if texts.isEmpty { throw WorkloadError("\(place).sql: expected a statement, or a list of them") }
        return Transaction(
            name: entry["name"] as? String ?? texts[0], weight: try Self.number(entry, "weight", 1...1_000_000) ?? 1,
            statements: try texts.map { try parts($0, place) })
    }

    /// `:name` is a variable; `::type` is none.
    private func parts(_ sql: String, _ place: String) throws -> [Part] {
        var parts: [Part] = []
        var text = ""
        var rest = Substring(sql)
        while let character = rest.popFirst() {
            guard character == ":" else {
                text.append(character)
                continue
            }
            if rest.first == ":" {
                text += "::"
                rest.removeFirst()
                continue
            }
            let name = rest.prefix { $0.isLetter || $0.isNumber || $0 == "_" }
            guard let number = variables.firstIndex(where: { $0.name == name }) else {
                throw WorkloadError("\(place): \":\(name)\" is none of variables")
            }
            rest = rest.dropFirst(name.count)
            parts.append(.text(text))
            parts.append(.variable(number))
            text = ""
        }
        parts.append(.text(text))
        return parts
    }

    // MARK: reading

    private static func refuse(_ found: [String: Any], beyond known: Set<String>, _ place: String) throws {
        if let key = found.keys.sorted().first(where: { !known.contains($0) }) {
            throw WorkloadError("\(place)\(key): unknown; known are \(known.sorted().joined(separator: ", "))")
        }
    }

    private static func number(_ found: [String: Any], _ key: String, _ range: ClosedRange<Int>) throws -> Int? {
        guard let value = found[key] else { return nil }
        guard let number = value as? Int, range.contains(number) else {
            throw WorkloadError("\(key): expected a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    private static func real(_ found: [String: Any], _ key: String) throws -> Double? {
        guard let value = found[key] else { return nil }
        guard let number = value as? Double ?? (value as? Int).map(Double.init), number >= 0 else {
            throw WorkloadError("\(key): expected a number, 0 or more")
        }
        return number
    }

    private static func texts(_ value: Any?, _ key: String) throws -> [String] {
        if value == nil { return [] }
        if let text = value as? String { return [text] }
        guard let texts = value as? [String] else { throw WorkloadError("\(key): expected SQL, or a list of it") }
        return texts
    }

    private static func variable(_ name: String, _ value: Any) throws -> Variable {
        guard let value = value as? [String: Any] else { throw WorkloadError("\(name): expected {from, to, skew}") }
        try refuse(value, beyond: ["from", "to", "skew"], "\(name).")
        let from = try number(value, "from", -1_000_000_000_000...1_000_000_000_000) ?? 1
        guard let to = try number(value, "to", -1_000_000_000_000...1_000_000_000_000), to >= from else {
            throw WorkloadError("\(name).to: expected a whole number, not below from")
        }
        return Variable(name: name, range: from...to, skew: try real(value, "skew") ?? 0)
    }
}

/// Draws values, with the first ones more often where there is a skew. One thread.
package struct WorkloadDice {
    private var generator: SeededGenerator

    package init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

    package mutating func value(of variable: Workload.Variable) -> Int {
        let count = Double(variable.range.count)
        let chance = Double.random(in: 0..<1, using: &generator)
        guard variable.skew > 0 else { return variable.range.lowerBound + Int(chance * count) }
        // The continuous inverse of Zipf's distribution: near enough, and without a table of all keys.
        let place: Double
        if abs(variable.skew - 1) < 1e-9 {
            place = exp(chance * log(count + 1)) - 1
        } else {
            let power = 1 - variable.skew
            place = pow(chance * (pow(count + 1, power) - 1) + 1, 1 / power) - 1
        }
        return variable.range.lowerBound + min(Int(place), variable.range.count - 1)
    }

    package mutating func choose(_ transactions: [Workload.Transaction]) -> Int {
        let total = transactions.reduce(0) { $0 + $1.weight }
        var drawn = Int.random(in: 0..<total, using: &generator)
        for (index, transaction) in transactions.enumerated() {
            drawn -= transaction.weight
            if drawn < 0 { return index }
        }
        return transactions.count - 1
    }

    /// Seconds to the next of so many a second, as they come independently of each other.
    package mutating func gap(rate: Double) -> Double { -log(1 - Double.random(in: 0..<1, using: &generator)) / rate }
}
