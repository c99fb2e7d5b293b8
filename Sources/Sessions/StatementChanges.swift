/// What messages in flight have changed in a client's names, so that it can be taken back for those that the server
/// refuses or skips: a skipped Parse leaves the name as it was, and so does a skipped Close.
///
/// Bound: the replies that a server may owe, and what a pipeline leaves before it is waited for. Used on its
/// reactor's thread.
package struct StatementChanges: ~Copyable {
    private struct Change {
        let number: UInt32
        let name: [UInt8]
        var previous: StatementID?
    }

    private var changes: [Change] = []
    /// Names that an earlier batch changes: what they stand for behind its Sync is known with its answer.
    private var unsettled: Set<[UInt8]> = []
    private var batchStart = 0

    package init() {}

    package var isEmpty: Bool { changes.isEmpty }
    package var count: Int { changes.count }

    /// - Parameter previous: what the name stood for; it is in use until the change is settled.
    package mutating func note(_ number: UInt32, _ name: UnsafeRawBufferPointer, previous: StatementID?) {
        changes.append(Change(number: number, name: Array(name), previous: previous))
    }

    /// A Sync was sent: an error before it does not skip what follows.
    package mutating func batchEnded() {
        if batchStart == changes.count { return }
        for change in changes[batchStart...] { unsettled.insert(change.name) }
        batchStart = changes.count
    }

    /// What the name stands for depends on the answer to an earlier batch.
    package func isUnsettled(_ name: UnsafeRawBufferPointer) -> Bool {
        !unsettled.isEmpty && unsettled.contains(Array(name))
    }

    /// The message did not take place. Of several, the last comes first.
    ///
    /// - Returns: a statement that nothing names any more.
    package mutating func takeBack(_ number: UInt32, in map: inout StatementMap) -> StatementID? {
        guard let index = changes.lastIndex(where: { $0.number == number }) else { return nil }
        let change = changes.remove(at: index)
        if index < batchStart { batchStart -= 1 }
        if let later = changes[index...].firstIndex(where: { $0.name == change.name }) {
            let unnamed = changes[later].previous
            changes[later].previous = change.previous
            return unnamed
        }
        return change.name.withUnsafeBytes { name in
            let unnamed = map.remove(name)
            if let previous = change.previous { _ = map.define(name, as: previous) }
            return unnamed
        }
    }

    /// Nothing of it took place.
    package mutating func takeBackAll(in map: inout StatementMap) -> [StatementID] {
        var unnamed: [StatementID] = []
        while let last = changes.last {
            if let statement = takeBack(last.number, in: &map) { unnamed.append(statement) }
        }
        _ = settle()
        return unnamed
    }

    package var hasUnsettled: Bool { !unsettled.isEmpty }

    /// All batches are answered but the one that is being sent.
    ///
    /// - Returns: statements that were named before.
    package mutating func settleEarlier() -> [StatementID] {
        let previous = changes[..<batchStart].compactMap(\.previous)
        changes.removeSubrange(..<batchStart)
        unsettled = []
        batchStart = 0
        return previous
    }

    /// Everything is answered.
    ///
    /// - Returns: statements that were named before.
    package mutating func settle() -> [StatementID] {
        if changes.isEmpty && unsettled.isEmpty { return [] }
        let previous = changes.compactMap(\.previous)
        changes.removeAll(keepingCapacity: true)
        unsettled = []
        batchStart = 0
        return previous
    }
}
