/// One of the two databases of a migration. Immutable, any thread.
@usableFromInline @frozen package enum Side: UInt8, Sendable, CaseIterable, CustomStringConvertible {
    /// The database that the application moves away from.
    case old
    /// The database that the application moves to.
    case new

    @inlinable package var description: String {
        switch self {
        case .old: "old"
        case .new: "new"
        }
    }

    /// Spelled out: the one that comes with the raw type is generic, and called so from other modules.
    @inlinable package static func == (left: Side, right: Side) -> Bool {
        switch (left, right) {
        case (.old, .old), (.new, .new): true
        case (.old, .new), (.new, .old): false
        }
    }

    /// As messages to people name it.
    package var title: String {
        switch self {
        case .old: "OLD"
        case .new: "NEW"
        }
    }

    @inlinable package var other: Side {
        switch self {
        case .old: .new
        case .new: .old
        }
    }
}

/// A client connection, unique within one process run. Immutable, any thread.
@usableFromInline @frozen package struct ClientID: CheaplyHashed {
    @usableFromInline package let value: UInt64
    @inlinable package init(_ value: UInt64) { self.value = value }
}

/// A server connection (ours to a database), unique within one process run. Immutable, any thread.
@usableFromInline @frozen package struct ServerID: CheaplyHashed {
    @usableFromInline package let value: UInt64
    @inlinable package init(_ value: UInt64) { self.value = value }
}

/// A number that we count up ourselves. Tables that have it as their key are looked into several times for each unit,
/// and nobody outside can choose it to make them slow: it needs no keyed hash, which costs some hundred instructions.
@usableFromInline package protocol CheaplyHashed: Hashable, Sendable {
    var value: UInt64 { get }
}

extension CheaplyHashed {
    @inlinable package static func == (left: Self, right: Self) -> Bool { left.value == right.value }

    @inlinable package func hash(into hasher: inout Hasher) { hasher.combine(value) }

    /// What dictionaries and sets ask for. Neighbours get places apart (Knuth, The Art of Computer Programming, 6.4).
    @inlinable package func _rawHashValue(seed: Int) -> Int {
        Int(truncatingIfNeeded: (value &* 0x9E37_79B9_7F4A_7C15) >> 20)
    }
}
