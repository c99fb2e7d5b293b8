/// One of the two databases of a migration. Immutable, any thread.
package enum Side: UInt8, Sendable, CaseIterable, CustomStringConvertible {
    /// The database that the application moves away from.
    case old
    /// The database that the application moves to.
    case new

    package var description: String {
        switch self {
        case .old: "old"
        case .new: "new"
        }
    }

    /// As messages to people name it.
    package var title: String {
        switch self {
        case .old: "OLD"
        case .new: "NEW"
        }
    }

    package var other: Side {
        switch self {
        case .old: .new
        case .new: .old
        }
    }
}

/// A client connection, unique within one process run. Immutable, any thread.
package struct ClientID: Hashable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
}

/// A server connection (ours to a database), unique within one process run. Immutable, any thread.
package struct ServerID: Hashable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
}
