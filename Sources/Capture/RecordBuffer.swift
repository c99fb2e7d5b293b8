/// Records one after the other, as a frame holds them. A value of its owner's thread.
///
/// A record: kind (1 byte), connection, microseconds since the one before (since the capture began for the first of a
/// buffer), how much its number is above that of the one before, bytes of the body, body. Numbers are varints of seven
/// bits each, the lowest first.
package struct RecordBuffer: Sendable {
    /// Memory that is there already; the first `count` bytes are written.
    private var storage: [UInt8]
    package private(set) var count = 0
    /// As many as a reader finds.
    package private(set) var records = 0
    private var lastMicros: UInt64 = 0
    private var lastNumber: UInt64 = 0

    package init(capacity: Int) { storage = [UInt8](repeating: 0, count: capacity) }

    /// What a record may need beyond its body.
    package static let overhead = 48
    private static let varintMax = 10

    package var capacity: Int { storage.count }

    /// A copy of what is written.
    package var bytes: [UInt8] { Array(storage[..<count]) }

    package func withUnsafeBytes<Value, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        try storage.withUnsafeBufferPointer { (all) throws(Failure) in
            try body(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: all[..<count])))
        }
    }

    package mutating func removeAll() {
        count = 0
        records = 0
        lastMicros = 0
        lastNumber = 0
    }

    /// Writes a record; `body` writes exactly `count` bytes.
    ///
    /// - Parameter standsFor: what a reader makes of it.
    @inline(__always)
    mutating func record(
        _ kind: UInt8, _ stamp: RecordStamp, count bodyCount: Int, standsFor: Int = 1, _ body: (inout RecordPen) -> Void
    ) {
        let sinceMicros = stamp.micros > lastMicros ? stamp.micros - lastMicros : 0
        let sinceNumber = stamp.number > lastNumber ? stamp.number - lastNumber : 0
        write(Self.overhead + bodyCount) { pen in
            pen.byte(kind)
            pen.varint(stamp.connection)
            pen.varint(sinceMicros)
            pen.varint(sinceNumber)
            pen.varint(UInt64(bodyCount))
            let start = pen.place
            body(&pen)
            precondition(pen.place - start == bodyCount, "a record of another length than it says")
        }
        lastMicros += sinceMicros
        lastNumber += sinceNumber
        records += standsFor
    }

    /// - Parameter room: bytes that are written at most.
    @inline(__always)
    private mutating func write(_ room: Int, _ body: (inout RecordPen) -> Void) {
        if storage.count - count < room { grow(room) }
        count = storage.withUnsafeMutableBytes { all in
            // There is room, so there is memory.
            guard let start = all.baseAddress else { return 0 }
            var pen = RecordPen(start + count, before: start + all.count)
            body(&pen)
            return pen.place - start
        }
    }

    @inline(never)
    private mutating func grow(_ room: Int) {
        storage += [UInt8](repeating: 0, count: max(room, storage.count))
    }

    package mutating func byte(_ value: UInt8) { write(1) { $0.byte(value) } }

    package mutating func raw(_ content: UnsafeRawBufferPointer) { write(content.count) { $0.raw(content) } }

    package mutating func varint(_ value: UInt64) { write(Self.varintMax) { $0.varint(value) } }

    static func varintSize(_ value: UInt64) -> Int {
        value < 0x80 ? 1 : longVarintSize(value)
    }

    @inline(never)
    private static func longVarintSize(_ value: UInt64) -> Int {
        (64 - value.leadingZeroBitCount + 6) / 7
    }

    /// Eight bytes, the lowest first.
    package mutating func word(_ value: UInt64) { write(8) { $0.word(value) } }

    /// Cut at what a reader takes.
    package mutating func text(_ value: String) {
        let bytes = Array(value.utf8.prefix(CaptureFormat.textMax))
        varint(UInt64(bytes.count))
        bytes.withUnsafeBytes { raw($0) }
    }
}

/// Writes one after the other into memory that has room for it. Lives no longer than the memory.
struct RecordPen {
    private(set) var place: UnsafeMutableRawPointer
    private let end: UnsafeMutableRawPointer

    @inline(__always)
    init(_ place: UnsafeMutableRawPointer, before end: UnsafeMutableRawPointer) {
        self.place = place
        self.end = end
    }

    @inline(__always)
    mutating func byte(_ value: UInt8) {
        place.storeBytes(of: value, as: UInt8.self)
        place += 1
    }

    @inline(__always)
    mutating func varint(_ value: UInt64) {
        if value < 0x80 { byte(UInt8(truncatingIfNeeded: value)) } else { place = Self.longVarint(value, at: place) }
    }

    /// Apart: nearly all are short, and what is not run should not lie in between.
    @inline(never)
    private static func longVarint(_ value: UInt64, at start: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        var (rest, place) = (value, start)
        while rest >= 0x80 {
            place.storeBytes(of: UInt8(truncatingIfNeeded: rest) | 0x80, as: UInt8.self)
            place += 1
            rest >>= 7
        }
        place.storeBytes(of: UInt8(truncatingIfNeeded: rest), as: UInt8.self)
        return place + 1
    }

    @inline(__always)
    mutating func word(_ value: UInt64) {
        place.storeBytes(of: value.littleEndian, as: UInt64.self)
        place += 8
    }

    @inline(__always)
    mutating func raw(_ content: UnsafeRawBufferPointer) {
        precondition(content.count <= end - place, "more than there is room for")
        if let source = content.baseAddress { place.copyMemory(from: source, byteCount: content.count) }
        place += content.count
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
