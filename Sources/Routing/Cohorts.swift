import Configuration

/// Which cohort a key belongs to: the first, in the order of the file, that has it. Immutable, any thread.
package struct Cohorts: Sendable {
    private let indexes: [[UInt8]: UInt16]
    /// Those that are not lists of keys.
    private let others: [(index: UInt16, members: CohortMembers)]

    package init(_ cohorts: [CohortMembers]) {
        precondition(cohorts.count < Int(UInt16.max), "more cohorts than an index holds")
        var indexes: [[UInt8]: UInt16] = [:]
        var others: [(UInt16, CohortMembers)] = []
        for (index, members) in cohorts.enumerated() {
            switch members {
            case .keys(let keys):
                for key in keys where indexes[Array(key.utf8)] == nil { indexes[Array(key.utf8)] = UInt16(index) }
            case .file, .pattern, .range: others.append((UInt16(index), members))
            }
        }
        self.indexes = indexes
        self.others = others
    }

    /// - Parameter digest: the key's MD5 as a number.
    package func index(of key: [UInt8], digest: UInt128) -> UInt16? {
        let listed = indexes.isEmpty ? nil : indexes[key]
        for (index, members) in others {
            if let listed, listed < index { return listed }
            if has(members, key, digest) { return index }
        }
        return listed
    }

    private func has(_ members: CohortMembers, _ key: [UInt8], _ digest: UInt128) -> Bool {
        switch members {
        case .keys: false                            // looked up in `indexes`
        case .file(let file): file.contains(digest)
        case .pattern(let pattern): pattern.matches(key)
        case .range(let range): Cohorts.number(key).map(range.contains) ?? false
        }
    }

    /// A whole number in decimal; nil for anything else.
    static func number(_ key: [UInt8]) -> Int64? {
        guard key.count <= 20, let first = key.first else { return nil }
        let digits = first == 0x2D ? key.dropFirst() : key[...]
        guard !digits.isEmpty, digits.allSatisfy({ $0 &- 0x30 < 10 }) else { return nil }
        return Int64(String(decoding: key, as: UTF8.self))
    }
}
