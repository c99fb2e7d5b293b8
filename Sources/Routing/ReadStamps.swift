import Primitives
import Synchronization

/// Which batch of the mirror NEW must have applied before a user may read there. Shared by all threads, no lock.
///
/// The rule (see `Horizon`): when the authority has acknowledged a commit of a user, the thread that got the answer
/// loads `Horizon.taking`, calls it n, and stamps the user *before* it passes the answer on. The user's reads may go to
/// NEW once batch n + 1 is applied.
///
/// Why that is enough: let C be the commit, n what the thread loaded from `taking` after it was told of C.
/// 1. `beginBatch` raises `taking` by a read-modify-write *before* the batch's snapshot is taken. Our load saw n, so in
///    the modification order of `taking` batch n + 1 begins after our load, which is after the acknowledgement of C.
/// 2. PostgreSQL makes a commit visible to new snapshots before it acknowledges it. So batch n + 1's snapshot sees C,
///    and so does every later one: `applied >= n + 1` means that NEW holds C.
/// 3. A later read of the user is received after the acknowledgement of C was sent (else the user cannot know of C, and
///    no order is promised). The stamp is a sequentially consistent read-modify-write that precedes the send in program
///    order, and the slot is loaded sequentially consistently after the receive: the load sees the stamp or a greater
///    one, on whichever thread it runs.
/// 4. Slots only grow, and `applied` only grows: a value of either that is out of date when it is compared keeps a
///    read away from NEW, never the other way round.
/// 5. Two keys in one slot see the greater stamp of both: again the safe side. So a fixed table will do, and memory
///    is bounded however many users there are.
package final class ReadStamps: Sendable {
    /// Slots; a power of two. About 2.5 MiB in all.
    package static let slotCount = 1 << 16

    /// The batch that must be applied: `taking + 1` at the stamp, 0 for "never wrote".
    private let slots: [Slot]
    /// The same, whatever the key.
    private let neededByAll = Atomic<UInt64>(0)

    private final class Slot: Sendable {
        let needed = Atomic<UInt64>(0)
    }

    package init() { slots = (0..<ReadStamps.slotCount).map { _ in Slot() } }

    /// Notes a commit of the key that was acknowledged while batch `taking` was being taken.
    package func stamp(_ keyHash: UInt64, taking: UInt64) {
        _ = slot(keyHash).needed.max(taking + 1, ordering: .sequentiallyConsistent)
    }

    /// The same for a commit whose keys are not all known.
    package func stampAll(taking: UInt64) {
        _ = neededByAll.max(taking + 1, ordering: .sequentiallyConsistent)
    }

    /// The first batch that holds all stamped commits of the key; 0 when there are none.
    package func needed(by keyHash: UInt64) -> UInt64 {
        max(
            slot(keyHash).needed.load(ordering: .sequentiallyConsistent),
            neededByAll.load(ordering: .sequentiallyConsistent))
    }

    private func slot(_ keyHash: UInt64) -> Slot { slots[Int(truncatingIfNeeded: ReadStamps.slot(of: keyHash))] }

    /// What counts of a key's hash: it stands for all keys of its slot.
    package static func slot(of keyHash: UInt64) -> UInt64 { keyHash & UInt64(slotCount - 1) }
}
