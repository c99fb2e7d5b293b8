import Digests

/// Remembers the digests of the keys seen last, so that md5 runs once per user and not once per query.
/// Owned by one thread; make a new one for a new `RoutingTable`, for it also remembers cohorts.
package final class KeyResolver {
    /// Bytes; longer keys are digested each time and not remembered.
    package static let keyBytesMax = 256
    /// Keys remembered; a newer one takes the place of an older one with the same low hash bits.
    package static let entriesMax = 8192

    private let table: RoutingTable
    private let hasher = MD5Hasher()
    private var keys: [[UInt8]]
    private var identities: [KeyIdentity?]
    package private(set) var hits: UInt64 = 0
    package private(set) var misses: UInt64 = 0

    package init(table: RoutingTable) {
        self.table = table
        keys = Array(repeating: [], count: KeyResolver.entriesMax)
        identities = Array(repeating: nil, count: KeyResolver.entriesMax)
    }

    /// - Returns: nil for an empty key: it is as good as none.
    package func identity(of key: UnsafeRawBufferPointer) -> KeyIdentity? {
        if key.isEmpty { return nil }
        let hash = KeyResolver.hash(key)
        let place = Int(truncatingIfNeeded: hash) & (KeyResolver.entriesMax - 1)
        if let identity = identities[place], identity.hash == hash, KeyResolver.equal(keys[place], key) {
            hits += 1
            return identity
        }
        misses += 1
        let digest = hasher.value(of: key)
        let cohort = table.cohortHundredths.isEmpty ? nil : table.cohorts.index(of: Array(key), digest: digest)
        let identity = KeyIdentity(hash: hash, bucket: UserBucket(digest: digest), cohort: cohort)
        if key.count <= KeyResolver.keyBytesMax {
            keys[place].removeAll(keepingCapacity: true)
            keys[place].append(contentsOf: key)
            identities[place] = identity
        }
        return identity
    }

    package func identity(of key: [UInt8]) -> KeyIdentity? { key.withUnsafeBytes { identity(of: $0) } }
    package func identity(of key: String) -> KeyIdentity? { identity(of: Array(key.utf8)) }

    private static func equal(_ left: [UInt8], _ right: UnsafeRawBufferPointer) -> Bool {
        guard left.count == right.count else { return false }
        for (index, byte) in left.enumerated() where byte != right[index] { return false }
        return true
    }

    /// FNV-1a with a last mix, the same in all threads: `ReadStamps` is shared by them.
    private static func hash(_ key: UnsafeRawBufferPointer) -> UInt64 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in key { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
        hash = (hash ^ (hash >> 32)) &* 0xD6E8_FEB8_6659_FD93
        return hash ^ (hash >> 32)
    }
}
