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
///
/// Anybody may set a name of that kind: by SET, set_config, a connection's options, ALTER ROLE. So the session must be
/// in the role of a replica too, which takes a superuser, or whom one has granted it: such a one could take the
/// triggers away as well.
enum ApplierMark {
    static let setting = "godwit.applier"
    static let value = "on"
    static let role = "session_replication_role"
    static let roleValue = "replica"
    static let settings = [role: roleValue, setting: value]
    /// For WHEN: true for everybody but the mirror. Cheaper than a function that would look for itself, and others
    /// are told by its first half.
    static let isAbsent = """
        pg_catalog.current_setting('\(setting)', true) IS DISTINCT FROM '\(value)' \
        OR pg_catalog.current_setting('\(role)') IS DISTINCT FROM '\(roleValue)'
        """
}
