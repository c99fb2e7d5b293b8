import Primitives
import SQLAnalysis

/// Two answers to one read, held against each other. Pure, any thread.
package enum AnswerComparison {
    package enum Verdict: Sendable, Equatable {
        case equal
        /// They differ only in what SQL leaves open.
        case open
        case differs(Difference)
    }

    /// - Parameters:
    ///   - old: the answer of the authority.
    ///   - new: that of the other side.
    package static func compare(_ old: ShadowAnswer, _ new: ShadowAnswer, _ traits: ComparisonTraits) -> Verdict {
        switch (old.end, new.end) {
        case (.refused(let state, _), .refused(let other, _)):
            if state == other { return .equal }
            return .differs(Difference(.error, old, new, detail: "fails with \(state) and with \(other)"))
        case (.refused(let state, let message), _):
            var difference = Difference(.error, old, new, detail: "fails with \(state), and not on the other side")
            difference.oldRow = message
            return .differs(difference)
        case (_, .refused(let state, let message)):
            var difference = Difference(.error, old, new, detail: "fails with \(state) on the other side only")
            difference.newRow = message
            return .differs(difference)
        case (.complete, _), (.tooLarge, _): break
        }
        if let detail = columnDifference(old.columns, new.columns) {
            return .differs(Difference(.columns, old, new, detail: detail))
        }
        let (onlyOld, onlyNew) = leftOver(old, new)
        let keys = positions(traits.sortKeys, old.columns)
        let sums = traits.aggregates ? old.columns.map { tolerances[$0.type] } : []
        let isSame = onlyOld.isEmpty && onlyNew.isEmpty
        if isSame || areClose(old, onlyOld, new, onlyNew, sums) {
            // Rows with equal keys may come in any order, and which of two sums is larger their last digits tell.
            let told = isSame ? keys : Array(keys.prefix { sums[$0] == nil })
            let isOrdered = told.isEmpty || keySequence(old, told) == keySequence(new, told)
            return isOrdered ? .equal : .differs(Difference(.order, old, new))
        }
        var difference = Difference(.rows, old, new)
        difference.note(onlyOld, onlyNew, old, new)
        if traits.leavesChoice { return .open }
        if traits.isLimited && isOpen(old, onlyOld, new, onlyNew, keys) { return .open }
        return .differs(difference)
    }

    private static func columnDifference(_ old: [ShadowAnswer.Column], _ new: [ShadowAnswer.Column]) -> String? {
        if old.count != new.count { return "\(old.count) and \(new.count) columns" }
        for (mine, theirs) in zip(old, new) {
            if mine.name != theirs.name { return "column \(mine.name) is \(theirs.name)" }
            let areBuiltIn = max(mine.type, theirs.type) < ObjectNumber.userMin
            if areBuiltIn && mine.type != theirs.type {
                return "column \(mine.name) has type \(mine.type) and \(theirs.type) of pg_type"
            }
        }
        return nil
    }

    // MARK: rows

    /// Rows of each that the other has not, as often as it has not.
    private static func leftOver(_ old: ShadowAnswer, _ new: ShadowAnswer) -> (old: [Int], new: [Int]) {
        let (mine, theirs) = (sorted(old), sorted(new))
        var onlyOld: [Int] = [], onlyNew: [Int] = []
        var (left, right) = (0, 0)
        while left < mine.count && right < theirs.count {
            let (a, b) = (old.row(mine[left]), new.row(theirs[right]))
            if a.elementsEqual(b) {
                left += 1
                right += 1
            } else if a.lexicographicallyPrecedes(b) {
                onlyOld.append(mine[left])
                left += 1
            } else {
                onlyNew.append(theirs[right])
                right += 1
            }
        }
        return (onlyOld + mine[left...], onlyNew + theirs[right...])
    }

    private static func sorted(_ answer: ShadowAnswer) -> [Int] {
        (0..<answer.rowCount).sorted { answer.row($0).lexicographicallyPrecedes(answer.row($1)) }
    }

    // MARK: sums

    /// By how much of their size two sums of the same numbers may differ, by their type (real, double precision): in
    /// which order they are added is left open, and each step rounds.
    private static let tolerances: [UInt32: Double] = [700: 1e-4, 701: 1e-9]

    /// The rows differ in nothing but the last digits of sums. By what is no sum they find each other.
    private static func areClose(
        _ old: ShadowAnswer, _ onlyOld: [Int], _ new: ShadowAnswer, _ onlyNew: [Int], _ tolerances: [Double?]
    ) -> Bool {
        guard onlyOld.count == onlyNew.count, tolerances.contains(where: { $0 != nil }) else { return false }
        func number(_ value: ArraySlice<UInt8>?) -> Double? {
            value.flatMap { Double(String(decoding: $0, as: UTF8.self)) }
        }
        func precedes(_ left: [ArraySlice<UInt8>?], _ right: [ArraySlice<UInt8>?]) -> Bool {
            for place in left.indices where tolerances[place] == nil && left[place] != right[place] {
                guard let mine = left[place], let theirs = right[place] else { return left[place] == nil }
                return mine.lexicographicallyPrecedes(theirs)
            }
            for place in left.indices where tolerances[place] != nil {
                let (mine, theirs) = (number(left[place]) ?? -.infinity, number(right[place]) ?? -.infinity)
                if mine.isNaN != theirs.isNaN { return theirs.isNaN }
                if mine < theirs || theirs < mine { return mine < theirs }
            }
            return false
        }
        let mine = onlyOld.map { old.values(old.row($0)) }.sorted(by: precedes)
        let theirs = onlyNew.map { new.values(new.row($0)) }.sorted(by: precedes)
        return zip(mine, theirs).allSatisfy { left, right in
            zip(zip(left, right), tolerances).allSatisfy { pair, tolerance in
                if pair.0 == pair.1 { return true }
                guard let tolerance, let left = number(pair.0), let right = number(pair.1) else { return false }
                return abs(left - right) <= tolerance * max(abs(left), abs(right))
            }
        }
    }

    // MARK: order

    /// The leading sort keys that are columns of the result.
    private static func positions(_ keys: [ComparisonTraits.SortKey], _ columns: [ShadowAnswer.Column]) -> [Int] {
        var positions: [Int] = []
        for key in keys {
            switch key {
            case .position(let place):
                guard place < columns.count else { return positions }
                positions.append(place)
            case .name(let name):
                let places = columns.indices.filter { columns[$0].name == name }
                guard places.count == 1 else { return positions }
                positions.append(places[0])
            }
        }
        return positions
    }

    private static func key(_ answer: ShadowAnswer, _ row: Int, _ keys: [Int]) -> [[UInt8]?] {
        let values = answer.values(answer.row(row))
        return keys.map { place in values[place].map { sorted(as: $0, answer.columns[place].type) } }
    }

    /// numeric, as numbered in pg_type.
    private static let numeric: UInt32 = 1700

    /// One text for all values that sort alike: 1.0 and 1.00 do, and so do the cases of a letter in citext, which is no
    /// type of PostgreSQL's own. Those may come in any order.
    private static func sorted(as value: ArraySlice<UInt8>, _ type: UInt32) -> [UInt8] {
        if type >= ObjectNumber.userMin { return Array(String(decoding: value, as: UTF8.self).lowercased().utf8) }
        var text = Array(value)
        guard type == numeric, text.contains(UInt8(ascii: ".")) else { return text }
        while text.last == UInt8(ascii: "0") { text.removeLast() }
        if text.last == UInt8(ascii: ".") { text.removeLast() }
        return text
    }

    private static func keySequence(_ answer: ShadowAnswer, _ keys: [Int]) -> [[[UInt8]?]] {
        (0..<answer.rowCount).map { key(answer, $0, keys) }
    }

    /// Of a part of the rows: which come of those that share the first or the last key is left open, and without a
    /// key which come at all. How many come is not.
    private static func isOpen(
        _ old: ShadowAnswer, _ onlyOld: [Int], _ new: ShadowAnswer, _ onlyNew: [Int], _ keys: [Int]
    ) -> Bool {
        guard old.rowCount == new.rowCount, old.rowCount > 0 else { return false }
        if keys.isEmpty { return true }
        let last = old.rowCount - 1
        let borders = [key(old, 0, keys), key(old, last, keys)]
        guard borders == [key(new, 0, keys), key(new, last, keys)] else { return false }
        return onlyOld.allSatisfy { borders.contains(key(old, $0, keys)) }
            && onlyNew.allSatisfy { borders.contains(key(new, $0, keys)) }
    }
}

/// In what two answers differ. Immutable, any thread.
package struct Difference: Sendable, Equatable {
    package enum Kind: String, Sendable, CaseIterable {
        case rows, order, columns, error
    }

    /// Bytes of a row that are shown.
    private static let rowBytesMax = 200

    package var kind: Kind
    package var oldRows: Int
    package var newRows: Int
    package var onlyOld = 0
    package var onlyNew = 0
    /// Names of columns in which a row differs, where rows can be told to be the same one.
    package var columns: [String] = []
    package var detail: String
    /// One row that the other side has not, or the server's message: values of the application's may be in it.
    package var oldRow: String?
    package var newRow: String?

    init(_ kind: Kind, _ old: ShadowAnswer, _ new: ShadowAnswer, detail: String = "") {
        self.kind = kind
        self.detail = detail
        (oldRows, newRows) = (old.rowCount, new.rowCount)
    }

    mutating func note(_ onlyOld: [Int], _ onlyNew: [Int], _ old: ShadowAnswer, _ new: ShadowAnswer) {
        (self.onlyOld, self.onlyNew) = (onlyOld.count, onlyNew.count)
        oldRow = onlyOld.first.map { Self.cut(old.text(old.row($0))) }
        newRow = onlyNew.first.map { Self.cut(new.text(new.row($0))) }
        // Sorted alike, and as many on both sides: most likely the first ones are one row.
        guard onlyOld.count == onlyNew.count, let mine = onlyOld.first, let theirs = onlyNew.first else { return }
        let pairs = zip(old.values(old.row(mine)), new.values(new.row(theirs)))
        columns = zip(old.columns, pairs).compactMap { column, pair in
            switch pair {
            case (nil, nil): nil
            case (let left?, let right?): left.elementsEqual(right) ? nil : column.name
            case (nil, _), (_, nil): column.name
            }
        }
    }

    private static func cut(_ text: String) -> String {
        text.utf8.count <= rowBytesMax ? text : String(decoding: text.utf8.prefix(rowBytesMax), as: UTF8.self) + "…"
    }

    /// Without values of the application's.
    package var summary: String {
        switch kind {
        case .rows:
            let names = columns.isEmpty ? "" : ", in \(columns.joined(separator: ", "))"
            return "\(oldRows) and \(newRows) rows, \(onlyOld) and \(onlyNew) of them on one side only\(names)"
        case .order: return "the same \(oldRows) rows in another order"
        case .columns, .error: return detail
        }
    }
}
