import Glibc

/// Bytes to value, bounded in entries and in bytes, without chains that a flood could lengthen. One thread.
///
/// A text's hash picks a set of eight places; a full set gives up the first place that was not used since it was last
/// looked at. Texts are compared byte by byte: two with one hash are two texts.
final class TextTable<Value> {
    private struct Entry {
        var hash: UInt64 = 0
        var count = 0
        // unsafe: the key's bytes, allocated and freed by this table only.
        var bytes: UnsafeMutableRawPointer?
        var value: Value?
        var isUsed = false
    }

    private static var ways: Int { 8 }

    private var entries: ContiguousArray<Entry>
    private let setMask: Int
    private let bytesMax: Int
    private var hand = 0
    private(set) var bytesHeld = 0
    private(set) var count = 0

    /// - Parameter entriesMax: rounded up to a power of two, at least 8.
    init(entriesMax: Int, bytesMax: Int) {
        precondition(entriesMax > 0 && bytesMax > 0, "a table without room")
        var sets = 1
        while sets * Self.ways < entriesMax { sets *= 2 }
        setMask = sets - 1
        self.bytesMax = bytesMax
        entries = ContiguousArray(repeating: Entry(), count: sets * Self.ways)
    }

    deinit { removeAll() }

    func find(_ key: UnsafeRawBufferPointer, hash: UInt64) -> Value? {
        guard let start = key.baseAddress else { return nil }
        let first = place(hash)
        for index in first..<first + Self.ways where entries[index].hash == hash && entries[index].count == key.count {
            guard let bytes = entries[index].bytes, memcmp(bytes, start, key.count) == 0 else { continue }
            entries[index].isUsed = true
            return entries[index].value
        }
        return nil
    }

    /// Remembers; the key must not be there yet. A key longer than all room is not taken.
    func insert(_ key: UnsafeRawBufferPointer, hash: UInt64, _ value: Value) {
        guard let start = key.baseAddress, key.count > 0, key.count <= bytesMax else { return }
        let index = victim(in: place(hash))
        remove(index)
        while bytesHeld + key.count > bytesMax { sweep() }
        let bytes = UnsafeMutableRawPointer.allocate(byteCount: key.count, alignment: 1)
        bytes.copyMemory(from: start, byteCount: key.count)
        entries[index] = Entry(hash: hash, count: key.count, bytes: bytes, value: value, isUsed: false)
        bytesHeld += key.count
        count += 1
    }

    func removeAll() {
        for index in entries.indices { remove(index) }
    }

    private func place(_ hash: UInt64) -> Int { (Int(truncatingIfNeeded: hash >> 7) & setMask) * Self.ways }

    private func victim(in first: Int) -> Int {
        for index in first..<first + Self.ways where entries[index].bytes == nil { return index }
        for index in first..<first + Self.ways {
            if !entries[index].isUsed { return index }
            entries[index].isUsed = false
        }
        return first
    }

    /// Gives up the next entry in turn, to make room in bytes.
    private func sweep() {
        precondition(count > 0, "bytes held by no entry")
        while entries[hand].bytes == nil { hand = hand + 1 == entries.count ? 0 : hand + 1 }
        remove(hand)
    }

    private func remove(_ index: Int) {
        guard let bytes = entries[index].bytes else { return }
        bytes.deallocate()
        bytesHeld -= entries[index].count
        count -= 1
        entries[index] = Entry()
    }
}

/// A fast hash of short texts, keyed so that clients cannot aim at one set. No state, any thread.
enum TextHash {
    static func hash(_ text: UnsafeRawBufferPointer, seed: UInt64) -> UInt64 {
        var state = seed ^ UInt64(truncatingIfNeeded: text.count) &* 0x9E37_79B9_7F4A_7C15
        var position = 0
        while position + 16 <= text.count {
            let low = text.loadUnaligned(fromByteOffset: position, as: UInt64.self)
            let high = text.loadUnaligned(fromByteOffset: position + 8, as: UInt64.self)
            state = fold(low ^ 0xA076_1D64_78BD_642F, high ^ state)
            position += 16
        }
        var low: UInt64 = 0
        var high: UInt64 = 0
        if text.count - position >= 8 {
            low = text.loadUnaligned(fromByteOffset: position, as: UInt64.self)
            position += 8
        }
        while position < text.count {
            high = high << 8 | UInt64(text[position])
            position += 1
        }
        state = fold(low ^ 0xE703_7ED1_A0B4_28DB, high ^ state)
        return fold(state ^ 0x8EBC_6AF0_9C88_C6E3, seed ^ 0x5899_65CC_7537_4CC3)
    }

    private static func fold(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let product = left.multipliedFullWidth(by: right)
        return product.high ^ product.low ^ right &* 3
    }
}
