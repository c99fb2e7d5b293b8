/// Records one after the other, as a frame holds them. A value of its owner's thread.
///
/// A record: kind (1 byte), connection, microseconds since the one before (since the capture began for the first of a
/// buffer), how much its number is above that of the one before, bytes of the body, body. Numbers are varints of seven
/// bits each, the lowest first.
package struct RecordBuffer: Sendable {
    package private(set) var bytes: [UInt8]
    package private(set) var records = 0
    private var lastMicros: UInt64 = 0
    private var lastNumber: UInt64 = 0

    package init(capacity: Int) {
        bytes = []
        bytes.reserveCapacity(capacity)
    }

    /// What a record may need beyond its body.
    package static let overhead = 48

    package mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        records = 0
        lastMicros = 0
        lastNumber = 0
    }

    /// Writes what stands before a record's body; the caller appends exactly `count` bytes.
    @inline(__always)
    package mutating func begin(_ kind: UInt8, connection: UInt64, micros: UInt64, number: UInt64, count: Int) {
        bytes.append(kind)
        varint(connection)
        varint(micros >= lastMicros ? micros - lastMicros : 0)
        varint(number >= lastNumber ? number - lastNumber : 0)
        varint(UInt64(count))
        lastMicros = max(lastMicros, micros)
        lastNumber = max(lastNumber, number)
        records += 1
    }

    @inline(__always) package mutating func byte(_ value: UInt8) { bytes.append(value) }

    @inline(__always) package mutating func raw(_ content: UnsafeRawBufferPointer) { bytes.append(contentsOf: content) }

    @inline(__always)
    package mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }

    package static func varintSize(_ value: UInt64) -> Int {
        value < 0x80 ? 1 : (64 - value.leadingZeroBitCount + 6) / 7
    }

    /// Eight bytes, the lowest first.
    package mutating func word(_ value: UInt64) { withUnsafeBytes(of: value.littleEndian) { raw($0) } }

    package mutating func text(_ value: String) {
        let bytes = Array(value.utf8)
        varint(UInt64(bytes.count))
        bytes.withUnsafeBytes { raw($0) }
    }
}

/// Takes numbers and texts out of a record; every read past the end gives nil. Lives no longer than the bytes.
struct RecordCursor {
    let bytes: UnsafeRawBufferPointer
    private(set) var offset = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var remaining: Int { bytes.count - offset }

    mutating func byte() -> UInt8? {
        if remaining < 1 { return nil }
        offset += 1
        return bytes[offset - 1]
    }

    mutating func varint() -> UInt64? {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while let next = byte() {
            if shift == 63 && next > 1 { return nil }
            value |= UInt64(next & 0x7F) << shift
            if next & 0x80 == 0 { return value }
            shift += 7
            if shift > 63 { return nil }
        }
        return nil
    }

    mutating func word() -> UInt64? {
        guard let piece = take(8) else { return nil }
        return UInt64(littleEndian: piece.loadUnaligned(as: UInt64.self))
    }

    mutating func take(_ count: Int) -> UnsafeRawBufferPointer? {
        if count < 0 || count > remaining { return nil }
        offset += count
        return UnsafeRawBufferPointer(rebasing: bytes[(offset - count)..<offset])
    }

    mutating func text(max: Int = CaptureFormat.textMax) -> String? {
        guard let count = varint(), count <= UInt64(max), let piece = take(Int(count)) else { return nil }
        return String(decoding: piece, as: UTF8.self)
    }

    mutating func rest() -> UnsafeRawBufferPointer {
        let piece = UnsafeRawBufferPointer(rebasing: bytes[offset...])
        offset = bytes.count
        return piece
    }
}
