import Yams

/// One mapping of the file with the keys it may hold; says where it stands in every error. One thread.
struct Section {
    let path: String
    /// `databases.shop.pool`; empty at the top.
    let key: String
    let line: Int
    private let entries: [String: Node]

    /// - Throws: when the node is no mapping, or holds a key that is not in `keys`.
    /// - Parameter aliases: other names of keys, with the names they stand for.
    init(
        _ node: Node, path: String, key: String, keys: [String]?, aliases: [String: String] = [:]
    ) throws(SettingsError) {
        self.path = path
        self.key = key
        line = node.mark?.line ?? 1
        guard case .mapping(let mapping) = node else {
            throw SettingsError(
                path: path, line: line, key: key, .expected("a mapping (key: value)", found: Section.name(node)))
        }
        var entries: [String: Node] = [:]
        for (name, value) in mapping {
            let place = name.mark?.line ?? line
            guard case .scalar(let scalar) = name else {
                throw SettingsError(
                    path: path, line: place, key: key, .expected("a plain key", found: Section.name(name)))
            }
            let full = Section.join(key, scalar.string)
            let known = aliases[scalar.string] ?? scalar.string
            if let keys, !keys.contains(known) {
                // Who comes from PgBouncer writes its names.
                let suggestion = SettingName.pgBouncer[scalar.string]
                    ?? Spelling.closest(to: scalar.string, among: keys)
                throw SettingsError(path: path, line: place, key: full, .unknownKey(suggestion: suggestion))
            }
            if entries.updateValue(value, forKey: known) != nil {
                throw SettingsError(path: path, line: place, key: full, .duplicateKey)
            }
        }
        self.entries = entries
    }

    static func join(_ key: String, _ name: String) -> String { key.isEmpty ? name : "\(key).\(name)" }

    func error(_ name: String, _ reason: SettingsError.Reason) -> SettingsError {
        SettingsError(path: path, line: entries[name]?.mark?.line ?? line, key: Section.join(key, name), reason)
    }

    func node(_ name: String) -> Node? { entries[name] }

    func section(
        _ name: String, keys: [String]?, aliases: [String: String] = [:]
    ) throws(SettingsError) -> Section? {
        guard let node = entries[name] else { return nil }
        return try Section(node, path: path, key: Section.join(key, name), keys: keys, aliases: aliases)
    }

    func list(_ name: String, max: Int) throws(SettingsError) -> [Node]? {
        guard let node = entries[name] else { return nil }
        guard case .sequence(let sequence) = node else {
            throw error(name, .expected("a list ([a, b])", found: Section.name(node)))
        }
        if sequence.count > max {
            throw error(name, .expected("at most \(max) entries", found: "\(sequence.count)"))
        }
        return Array(sequence)
    }

    // MARK: values; each leaves `target` alone when the key is not there

    func flag(_ name: String, _ target: inout Bool) throws(SettingsError) {
        guard let node = entries[name] else { return }
        switch Section.plain(node) {
        case "true"?: target = true
        case "false"?: target = false
        default: throw error(name, .expected("true or false", found: Section.name(node)))
        }
    }

    func text(_ name: String, _ target: inout String) throws(SettingsError) {
        guard let node = entries[name] else { return }
        target = try Section.text(node, path: path, key: Section.join(key, name))
    }

    func number(_ name: String, _ range: ClosedRange<Int>, _ target: inout Int) throws(SettingsError) {
        guard let node = entries[name] else { return }
        guard let text = Section.plain(node), let value = Int(text), range.contains(value) else {
            let what = "a whole number from \(range.lowerBound) to \(range.upperBound)"
            throw error(name, .expected(what, found: Section.name(node)))
        }
        target = value
    }

    /// Whether the key is there and not left empty.
    func isSaid(_ name: String) -> Bool {
        guard let node = entries[name] else { return false }
        if case .scalar(let scalar) = node { return !Section.isNothing(scalar) }
        return true
    }

    /// nil: not there, or left empty.
    func optionalNumber(_ name: String, _ range: ClosedRange<Int>) throws(SettingsError) -> Int? {
        guard isSaid(name) else { return nil }
        var value = range.lowerBound
        try number(name, range, &value)
        return value
    }

    func optionalSeconds(_ name: String) throws(SettingsError) -> Double? {
        guard isSaid(name) else { return nil }
        var value = 0.0
        try seconds(name, &value)
        return value
    }

    func port(_ name: String, _ range: ClosedRange<Int>, _ target: inout UInt16) throws(SettingsError) {
        var value = Int(target)
        try number(name, range, &value)
        target = UInt16(truncatingIfNeeded: value)
    }

    func seconds(_ name: String, least: Double = 0, _ target: inout Double) throws(SettingsError) {
        guard let node = entries[name] else { return }
        guard let text = Section.plain(node), text.allSatisfy({ $0.isASCII && $0.isNumber || $0 == "." }),
            let value = Double(text), value >= least, value <= SettingsLimits.secondsMax
        else {
            let range = least > 0 ? "seconds, at least \(least)" : "seconds, 0 or more"
            let what = "\(range), at most \(Int(SettingsLimits.secondsMax))"
            throw error(name, .expected(what, found: Section.name(node)))
        }
        target = value
    }

    func factor(_ name: String, _ range: ClosedRange<Double>, _ target: inout Double) throws(SettingsError) {
        guard let node = entries[name] else { return }
        guard let text = Section.plain(node), text.allSatisfy({ $0.isASCII && $0.isNumber || $0 == "." }),
            let value = Double(text), range.contains(value)
        else {
            let what = "a number from \(range.lowerBound) to \(range.upperBound)"
            throw error(name, .expected(what, found: Section.name(node)))
        }
        target = value
    }

    /// 0 to 100 in steps of 0.01, to hundredths; by digits, because 0.29 is no binary fraction.
    func percent(_ name: String, _ target: inout Int) throws(SettingsError) {
        guard let node = entries[name] else { return }
        guard let text = Section.plain(node), let value = Percent.hundredths(text) else {
            throw error(name, .expected("a percentage from 0 to 100 in steps of 0.01", found: Section.name(node)))
        }
        target = value
    }

    func choice<Choice: RawRepresentable & CaseIterable>(
        _ name: String, _ target: inout Choice, aliases: [String: Choice] = [:]
    ) throws(SettingsError) where Choice.RawValue == String {
        guard let node = entries[name] else { return }
        let text = try Section.text(node, path: path, key: Section.join(key, name))
        if let value = aliases[text] ?? Choice(rawValue: text) {
            target = value
        } else {
            let all = Choice.allCases.map(\.rawValue).joined(separator: ", ")
            throw error(name, .expected("one of \(all)", found: Section.name(node)))
        }
    }

    // MARK: nodes

    static func text(_ node: Node, path: String, key: String) throws(SettingsError) -> String {
        guard case .scalar(let scalar) = node, !isNothing(scalar) else {
            throw SettingsError(
                path: path, line: node.mark?.line ?? 1, key: key, .expected("text", found: name(node)))
        }
        if scalar.string.utf8.contains(0) {
            throw SettingsError(
                path: path, line: node.mark?.line ?? 1, key: key, .expected("text without NUL", found: "NUL"))
        }
        return scalar.string
    }

    /// A scalar without quotes: numbers are written so.
    private static func plain(_ node: Node) -> String? {
        guard case .scalar(let scalar) = node, scalar.style == .plain || scalar.style == .any else { return nil }
        return scalar.string
    }

    private static func isNothing(_ scalar: Node.Scalar) -> Bool {
        (scalar.style == .plain || scalar.style == .any) && ["", "~", "null", "Null", "NULL"].contains(scalar.string)
    }

    /// What a node is, for the operator.
    static func name(_ node: Node) -> String {
        switch node {
        case .scalar(let scalar):
            isNothing(scalar) ? "nothing" : "\"\(scalar.string.prefix(60))\""
        case .mapping: "a mapping"
        case .sequence: "a list"
        case .alias: "an alias"
        }
    }
}

/// Percentages as exact hundredths. No state, any thread.
package enum Percent {
    /// `12`, `12.3`, `12.34`, `12.340`; nil for anything else or beyond 100.
    package static func hundredths(_ text: String) -> Int? {
        let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard let whole = parts.first, (1...3).contains(whole.count), isDigits(whole), let units = Int(whole)
        else { return nil }
        var fraction = 0
        if parts.count == 2 {
            guard !parts[1].isEmpty, isDigits(parts[1]), parts[1].dropFirst(2).allSatisfy({ $0 == "0" })
            else { return nil }
            let digits = parts[1].prefix(2)
            fraction = (Int(digits) ?? 0) * (digits.count == 1 ? 10 : 1)
        }
        let value = units * 100 + fraction
        return value <= 10_000 ? value : nil
    }

    /// `12.34`, without trailing zeros.
    package static func text(_ hundredths: Int) -> String {
        let (whole, part) = (hundredths / 100, hundredths % 100)
        if part == 0 { return "\(whole)" }
        return part % 10 == 0 ? "\(whole).\(part / 10)" : part < 10 ? "\(whole).0\(part)" : "\(whole).\(part)"
    }

    private static func isDigits(_ text: Substring) -> Bool { text.utf8.allSatisfy { $0 &- 0x30 < 10 } }
}

/// "Did you mean". No state, any thread.
enum Spelling {
    /// The word within two slips of the pen, nearest first.
    static func closest(to word: String, among candidates: [String]) -> String? {
        guard word.utf8.count <= 64 else { return nil }
        let near = candidates.map { (distance(Array(word.utf8), Array($0.utf8)), $0) }.filter { $0.0 <= 2 }
        return near.min { $0.0 < $1.0 }?.1
    }

    /// Levenshtein, one row at a time.
    private static func distance(_ left: [UInt8], _ right: [UInt8]) -> Int {
        var row = Array(0...right.count)
        for (index, byte) in left.enumerated() {
            var diagonal = row[0]
            row[0] = index + 1
            for (column, other) in right.enumerated() {
                let above = row[column + 1]
                row[column + 1] = min(above + 1, row[column] + 1, diagonal + (byte == other ? 0 : 1))
                diagonal = above
            }
        }
        return row[right.count]
    }
}
