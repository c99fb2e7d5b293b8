import PGWire
import Primitives

/// A client's names for its prepared statements. Looked up by bytes, without making a String.
///
/// Bound: `namesMax` per client; beyond it a Parse is refused.
package struct StatementMap: ~Copyable {
    package static let namesMax = 10_000

    private struct Entry {
        var name: [UInt8]
        var statement: StatementID
        var definition: UInt32
    }

    /// Not keyed: a client that chooses its names for it makes each of its own units some microseconds slower.
    private struct NameHash: CheaplyHashed {
        var value: UInt64

        /// FNV-1a; names are compared as well, a collision only costs time.
        init(_ name: UnsafeRawBufferPointer) {
            value = 0xCBF2_9CE4_8422_2325
            for byte in name { value = (value ^ UInt64(byte)) &* 0x100_0000_01B3 }
        }
    }

    private var buckets: [NameHash: [Entry]] = [:]
    package private(set) var count = 0
    private var lastDefinition: UInt32 = 0

    package init() {}

    package func find(_ name: UnsafeRawBufferPointer) -> StatementID? {
        if count == 0 { return nil }
        guard let index = buckets.index(forKey: NameHash(name)) else { return nil }
        for entry in buckets.values[index] where entry.name.withUnsafeBytes({ $0.hasSameBytes(as: name) }) {
            return entry.statement
        }
        return nil
    }

    /// Names a statement, whether or not the name was taken.
    ///
    /// - Returns: the number of this definition, for `undefine`; nil when it would be one name too many.
    package mutating func define(_ name: UnsafeRawBufferPointer, as statement: StatementID) -> UInt32? {
        let hash = NameHash(name)
        let index = buckets[hash]?.firstIndex { $0.name.elementsEqual(name) }
        if index == nil && count >= Self.namesMax { return nil }
        lastDefinition &+= 1
        let entry = Entry(name: Array(name), statement: statement, definition: lastDefinition)
        if let index {
            buckets[hash]?[index] = entry
        } else {
            buckets[hash, default: []].append(entry)
            count += 1
        }
        return lastDefinition
    }

    /// A number that no definition has, for another change of a name.
    package mutating func nextNumber() -> UInt32 {
        lastDefinition &+= 1
        return lastDefinition
    }

    /// The server refused or skipped the Parse of this definition.
    package mutating func undefine(_ definition: UInt32) -> StatementID? {
        for (hash, entries) in buckets {
            if let index = entries.firstIndex(where: { $0.definition == definition }) {
                return remove(hash, index)
            }
        }
        return nil
    }

    package mutating func remove(_ name: UnsafeRawBufferPointer) -> StatementID? {
        let hash = NameHash(name)
        guard let index = buckets[hash]?.firstIndex(where: { $0.name.elementsEqual(name) }) else { return nil }
        return remove(hash, index)
    }

    /// All names, by what they stand for.
    package var named: [(name: [UInt8], statement: StatementID)] {
        buckets.values.joined().map { ($0.name, $0.statement) }
    }

    package mutating func removeAll() -> [StatementID] {
        let statements = buckets.values.joined().map(\.statement)
        buckets = [:]
        count = 0
        return statements
    }

    private mutating func remove(_ hash: NameHash, _ index: Int) -> StatementID? {
        let removed = buckets[hash]?.remove(at: index)
        if buckets[hash]?.isEmpty == true { buckets[hash] = nil }
        count -= 1
        return removed?.statement
    }
}

/// By what a server has read a text when it prepared it: its names, and its literals.
package enum LiteralsRead {
    /// Nothing in it hangs on anything.
    case anyhow
    /// It has no literals whose meaning hangs on the session.
    case names(SessionSettings)
    case by(SessionSettings)
    /// Not known, or at a moment that is over.
    case once

    fileprivate func holds(for session: () -> SessionSettings?) -> Bool {
        switch self {
        case .anyhow: true
        case .once: false
        case .names(let settings):
            if let session = session() { settings.readsNames(as: session) } else { false }
        case .by(let settings):
            if let session = session() { settings.readsLiterals(as: session) } else { false }
        }
    }
}

/// Which statements one server has prepared, the least recently used first to go. Used on its reactor's thread.
package struct ServerStatements {
    private struct Copy {
        var lastUse: UInt64
        var literals = LiteralsRead.once
        /// It may not be there: what prepared it, or prepared it again, was skipped.
        var isDoubtful = false

        mutating func use(at time: UInt64, by session: () -> SessionSettings?) -> Bool {
            if isDoubtful || !literals.holds(for: session) { return false }
            lastUse = time
            return true
        }
    }

    private var copies: [StatementID: Copy] = [:]
    /// Told to go, and not known to have gone.
    private var evicted: Set<StatementID> = []
    private var clock: UInt64 = 0
    /// Statements (`max_prepared_statements`).
    package var bound: Int

    package init(bound: Int) { self.bound = max(1, bound) }

    package var count: Int { copies.count }

    /// Whether the server surely has it; if so it is the most recently used now.
    ///
    /// - Parameter session: what texts are read by now; nil: that is not known.
    package mutating func use(
        _ statement: StatementID, by session: @autoclosure () -> SessionSettings? = SessionSettings()
    ) -> Bool {
        guard let index = copies.index(forKey: statement) else { return false }
        clock += 1
        return copies.values[index].use(at: clock, by: session)
    }

    /// The server is being told of it, and reads its literals.
    ///
    /// - Returns: what to close there before: itself, if it may be there already, or the one that has to go when there
    ///   are too many.
    package mutating func insert(_ statement: StatementID, _ literals: LiteralsRead = .anyhow) -> StatementID? {
        clock += 1
        var victim: StatementID?
        if copies[statement] != nil {
            victim = statement
        } else if copies.count >= bound {
            victim = copies.min { $0.value.lastUse < $1.value.lastUse }?.key
            if let victim {
                copies[victim] = nil
                evicted.insert(victim)
            }
        }
        copies[statement] = Copy(lastUse: clock, literals: literals)
        return victim
    }

    /// Whether the server has it is not known any more.
    package mutating func doubt(_ statement: StatementID) { copies[statement]?.isDoubtful = true }

    /// Nobody knows by what the server has read texts so far.
    package mutating func doubtLiterals() {
        for (statement, copy) in copies {
            switch copy.literals {
            case .names, .by: copies[statement]?.literals = .once
            case .anyhow, .once: break
            }
        }
    }

    /// Everything is answered: what was told to go has gone.
    package mutating func settle() {
        if !evicted.isEmpty { evicted = [] }
    }

    /// A Close of ours was skipped: what was told to go may be there yet.
    package mutating func doubtEvicted() {
        for statement in evicted where copies[statement] == nil {
            copies[statement] = Copy(lastUse: 0, isDoubtful: true)
        }
        evicted = []
    }

    package mutating func removeAll() {
        copies = [:]
        evicted = []
    }
}
