import Glibc

/// A name of PostgreSQL's: equal to another when their bytes are. Swift's String takes `é` and `e` with an accent
/// behind it for equal; to PostgreSQL they are two users. Immutable, any thread.
package struct ExactName: Hashable, Sendable, Codable, ExpressibleByStringLiteral, CustomStringConvertible {
    package let text: String

    package init(_ text: String) { self.text = text }
    package init(stringLiteral text: String) { self.text = text }

    package var description: String { text }

    package static func == (left: ExactName, right: ExactName) -> Bool { left.text.hasSameBytes(as: right.text) }

    package func hash(into hasher: inout Hasher) {
        var text = text
        text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}

extension String {
    package func hasSameBytes(as other: String) -> Bool {
        // By elementsEqual it costs ten times as much: that takes each byte by itself.
        if utf8.count != other.utf8.count { return false }
        var (one, two) = (self, other)
        return one.withUTF8 { one in
            two.withUTF8 { two in
                guard let first = one.baseAddress, let second = two.baseAddress else { return true }
                return memcmp(first, second, one.count) == 0
            }
        }
    }
}

/// A dictionary from names to values, by the names' bytes.
package struct NameTable<Value> {
    private var entries: [ExactName: Value] = [:]

    package init() {}

    /// A later value takes the place of an earlier one of the same name.
    package init(_ pairs: some Sequence<(String, Value)>) {
        for (name, value) in pairs { entries[ExactName(name)] = value }
    }

    package subscript(name: String) -> Value? {
        get { entries[ExactName(name)] }
        set { entries[ExactName(name)] = newValue }
    }

    package var count: Int { entries.count }
    package var isEmpty: Bool { entries.isEmpty }
    package var values: Dictionary<ExactName, Value>.Values { entries.values }
    package var names: [String] { entries.keys.map(\.text) }

    /// Names with their values, as they are now.
    package var pairs: [(name: String, value: Value)] { entries.map { (name: $0.key.text, value: $0.value) } }

    package func mapValues<Other>(_ transform: (Value) throws -> Other) rethrows -> NameTable<Other> {
        var mapped = NameTable<Other>()
        for (name, value) in entries { mapped[name.text] = try transform(value) }
        return mapped
    }
}

extension NameTable: Sendable where Value: Sendable {}
extension NameTable: Equatable where Value: Equatable {}

extension NameTable: ExpressibleByDictionaryLiteral {
    package init(dictionaryLiteral elements: (String, Value)...) { self.init(elements.map { ($0.0, $0.1) }) }
}
