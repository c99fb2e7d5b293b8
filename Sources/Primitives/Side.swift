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

    package var other: Side {
        switch self {
        case .old: .new
        case .new: .old
        }
    }
}
