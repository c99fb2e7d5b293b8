/// The numbers of `pg_advisory_lock` that Godwit takes in the databases it works on, as SQL writes them. In one place:
/// two purposes with one number would wait for each other.
package enum AdvisoryLock {
    /// On the mirror's target: one applier writes there at a time.
    package static let applier = "7451605421"
    /// On both sides: whoever moves the writes, or runs DDL on both sides. Nobody may have the mirror hold meanwhile:
    /// all writers wait for it.
    package static let coordinator = "7451605422"
    /// On the side that takes the writes: one session validates the foreign keys that a switch has put back.
    package static let validation = "7451605423"
    /// On the mirror's source: who wants the mirror to hold. It holds for one at a time.
    package static let asker = "7451605424"
}
