import Primitives

/// Whose changes are brought to whom. Immutable, any thread.
package struct MirrorDirection: Sendable, Equatable {
    /// The authority: it has the journal.
    package let source: Side
    package var target: Side { source.other }

    package init(from source: Side) { self.source = source }

    /// As long as OLD takes the writes.
    package static let forward = MirrorDirection(from: .old)

    /// What belongs to OLD and to NEW, as what belongs to the source and to the target.
    package func ends<Value>(old: Value, new: Value) -> (source: Value, target: Value) {
        source == .old ? (old, new) : (new, old)
    }
}
