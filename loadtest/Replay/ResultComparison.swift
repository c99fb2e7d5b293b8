import Foundation
import Capture
import PGWire
import Primitives

/// How rows are compared. Immutable, any thread.
package struct ComparisonRules: Sendable {
    /// Floats may differ by this part of the larger one; 0: not at all.
    package var floatTolerance = 0.0

    package init() {}
}

/// What two sides gave for the same statement. Pure.
package enum ResultComparison {
    package enum Difference: Equatable, Sendable {
        /// Tag, number of rows or SQLSTATE.
        case end(String, String)
        /// Rows that only one side has, as text, some of them.
        case rows(onlyFirst: [String], onlySecond: [String])
        /// The same rows, though their order was asked for.
        case order
        case columns(String, String)
        /// Not kept, or too long to be: by their digests they differ.
        case digest

        package var words: String {
            switch self {
            case .end(let first, let second): "\(first) | \(second)"
            case .rows(let first, let second):
                "only first: \(first.joined(separator: "; ")) | only second: \(second.joined(separator: "; "))"
            case .order: "the same rows in another order, though ORDER BY is there"
            case .columns(let first, let second): "columns \(first) | \(second)"
            case .digest: "other rows by their digests: they are not kept, or too long to be"
            }
        }
    }

    private static let samplesMax = 3
    /// From here on databases number what they make themselves, each by itself: PostgreSQL's FirstNormalObjectId.
    private static let ownTypesFrom: UInt32 = 16_384

    /// With its type, but where that is an enum, a domain's array, an extension's: the same one has another number on
    /// each side.
    private static func columnName(_ column: StatementOutcome.Column) -> String {
        "\(column.name) \(column.type < ownTypesFrom ? "\(column.type)" : "of a type of its own")"
    }

    /// - Parameter hasOrder: the statement asks for the order of its rows.
    package static func difference(
        _ first: StatementOutcome, _ second: StatementOutcome, hasOrder: Bool, _ rules: ComparisonRules
    ) -> Difference? {
        if first.kind != second.kind || first.state != second.state || first.rows != second.rows
            || first.tag != second.tag
        {
            return .end(first.summary, second.summary)
        }
        if first.kind == .failed { return nil }
        let names = [first, second].map { $0.columns.map(columnName).joined(separator: ", ") }
        if names[0] != names[1] { return .columns(names[0], names[1]) }
        guard first.isWhole && second.isWhole else {
            let isSame = hasOrder ? first.digest == second.digest : first.digest?.unordered == second.digest?.unordered
            return isSame ? nil : .digest
        }
        if first.content == second.content { return nil }
        let isSet = Set(first.content) == Set(second.content) && counted(first.content) == counted(second.content)
        if isSet { return hasOrder ? .order : nil }
        if rules.floatTolerance > 0, isClose(first, second, hasOrder: hasOrder, rules) { return nil }
        return rows(first, second)
    }

    /// Of all statements of a unit; nil: all are alike. What belongs to one server hides nothing that comes behind it.
    package static func difference(
        _ unit: ScriptUnit, _ first: [StatementOutcome], _ second: [StatementOutcome], _ rules: ComparisonRules
    ) -> (statement: Int, Difference)? {
        var ofOneServer: (statement: Int, Difference)?
        for index in 0..<max(first.count, second.count) {
            guard index < first.count, index < second.count else {
                if let ofOneServer { return ofOneServer }
                let words = [first, second].map { index < $0.count ? $0[index].summary : "(nothing)" }
                return (index, .end(words[0], words[1]))
            }
            let hasOrder = index < unit.statements.count && unit.statements[index].hasOrder
            guard let found = difference(first[index], second[index], hasOrder: hasOrder, rules) else { continue }
            if !unit.isSideDependent(index) { return (index, found) }
            ofOneServer = ofOneServer ?? (index, found)
        }
        return ofOneServer
    }

    private static func counted(_ rows: [[UInt8]]) -> [[UInt8]: Int] {
        var counts: [[UInt8]: Int] = [:]
        for row in rows { counts[row, default: 0] += 1 }
        return counts
    }

    private static func rows(_ first: StatementOutcome, _ second: StatementOutcome) -> Difference {
        var counts = counted(first.content)
        var onlySecond: [[UInt8]] = []
        for row in second.content {
            if let count = counts[row], count > 0 { counts[row] = count - 1 } else { onlySecond.append(row) }
        }
        var onlyFirst: [[UInt8]] = []
        for row in first.content where counts[row] ?? 0 > 0 {
            onlyFirst.append(row)
            counts[row, default: 1] -= 1
        }
        return .rows(
            onlyFirst: onlyFirst.prefix(samplesMax).map { text($0, first) },
            onlySecond: onlySecond.prefix(samplesMax).map { text($0, second) })
    }

    // MARK: values

    /// A row's values; nil: NULL.
    static func values(_ row: [UInt8]) -> [[UInt8]?] {
        row.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            guard let count = reader.int16() else { return [] }
            var values: [[UInt8]?] = []
            for _ in 0..<max(0, count) {
                guard let length = reader.int32() else { return values }
                values.append(length < 0 ? nil : reader.bytes(Int(length)).map { Array($0) })
            }
            return values
        }
    }

    private static func text(_ row: [UInt8], _ outcome: StatementOutcome) -> String {
        if outcome.isCopy { return short(row, isBinary: false) }
        let words = values(row).enumerated().map { index, value in
            guard let value else { return "NULL" }
            let isBinary = index < outcome.columns.count && outcome.columns[index].isBinary
            return short(value, isBinary: isBinary)
        }
        return "(" + words.joined(separator: ", ") + ")"
    }

    private static func short(_ value: [UInt8], isBinary: Bool) -> String {
        let isText = !isBinary && value.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 || $0 == 0x0A }
        let text = isText
            ? String(decoding: value, as: UTF8.self).replacing("\n", with: "")
            : "\\x" + value.prefix(20).hex
        return text.count > 80 ? text.prefix(80) + "…" : text
    }

    private static let floats: Set<UInt32> = [700, 701]

    /// Row by row, in an order that the other columns give; only where the column's types are known.
    private static func isClose(
        _ first: StatementOutcome, _ second: StatementOutcome, hasOrder: Bool, _ rules: ComparisonRules
    ) -> Bool {
        guard first.content.count == second.content.count, !first.columns.isEmpty else { return false }
        var left = first.content.map(values)
        var right = second.content.map(values)
        if !hasOrder {
            func key(_ row: [[UInt8]?]) -> String {
                row.enumerated().map { index, value in
                    let isFloat = index < first.columns.count && floats.contains(first.columns[index].type)
                    return isFloat
                        ? number(value, first.columns[index]).map { String(format: "%.6g", $0) } ?? ""
                        : value.map { String(decoding: $0, as: UTF8.self) } ?? "\u{0}"
                }.joined(separator: "\u{1}")
            }
            left.sort { key($0) < key($1) }
            right.sort { key($0) < key($1) }
        }
        return zip(left, right).allSatisfy { one, other in
            one.count == other.count && zip(one, other).enumerated().allSatisfy { index, pair in
                if pair.0 == pair.1 { return true }
                guard index < first.columns.count, floats.contains(first.columns[index].type),
                    let a = number(pair.0, first.columns[index]), let b = number(pair.1, second.columns[index])
                else { return false }
                // Infinity is within any part of itself.
                guard a.isFinite, b.isFinite else { return false }
                return abs(a - b) <= rules.floatTolerance * max(abs(a), abs(b))
            }
        }
    }

    private static func number(_ value: [UInt8]?, _ column: StatementOutcome.Column) -> Double? {
        guard let value else { return nil }
        if !column.isBinary { return Double(String(decoding: value, as: UTF8.self)) }
        let bits = value.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        switch value.count {
        case 4: return Double(Float(bitPattern: UInt32(truncatingIfNeeded: bits)))
        case 8: return Double(bitPattern: bits)
        default: return nil
        }
    }
}
