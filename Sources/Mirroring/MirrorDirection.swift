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

/// What tells the mirror's own writes from everybody else's: a setting of its session, which the conditions of the
/// triggers ask for. Neither side's journal gets what the mirror brings, and no fence keeps it out.
enum ApplierMark {
    static let setting = "godwit.applier"
    static let value = "on"
    /// For WHEN: true for everybody but the mirror. Cheaper than a function that would look for itself.
    static let isAbsent = "pg_catalog.current_setting('\(setting)', true) IS DISTINCT FROM '\(value)'"
}
