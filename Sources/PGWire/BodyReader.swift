import Glibc

/// Reads the fields of one message body in order; every read past the end gives nil. Lives no longer than the bytes.
@usableFromInline @frozen package struct BodyReader {
    @usableFromInline package let bytes: UnsafeRawBufferPointer
    @usableFromInline package internal(set) var offset: Int

    @inlinable
    package init(_ bytes: UnsafeRawBufferPointer) {
        self.init(bytes, offset: 0)
    }

    @inlinable
    package init(_ bytes: UnsafeRawBufferPointer, offset: Int) {
        self.bytes = bytes
        self.offset = offset
    }

    @inlinable package var remaining: Int { bytes.count - offset }
    @inlinable package var isAtEnd: Bool { offset == bytes.count }

    @inlinable package mutating func byte() -> UInt8? {
        if remaining < 1 { return nil }
        offset += 1
        return bytes[offset - 1]
    }

    @inlinable package mutating func int16() -> Int16? {
        if remaining < 2 { return nil }
        offset += 2
        return Int16(bigEndian: bytes.loadUnaligned(fromByteOffset: offset - 2, as: Int16.self))
    }

    @inlinable package mutating func int32() -> Int32? {
        if remaining < 4 { return nil }
        offset += 4
        return Int32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset - 4, as: Int32.self))
    }

    /// The bytes before the next NUL; the NUL is consumed too.
    @inlinable package mutating func cString() -> UnsafeRawBufferPointer? {
        // Most names are empty.
        if offset < bytes.count, bytes[offset] == 0 {
            offset += 1
            return UnsafeRawBufferPointer(rebasing: bytes[(offset - 1)..<(offset - 1)])
        }
        // unsafe: memchr looks at the bytes from the offset to the end only.
        guard let start = bytes.baseAddress, let end = memchr(start + offset, 0, bytes.count - offset) else {
            return nil
        }
        let text = UnsafeRawBufferPointer(start: start + offset, count: UnsafeRawPointer(end) - (start + offset))
        offset += text.count + 1
        return text
    }

    @inlinable package mutating func bytes(_ count: Int) -> UnsafeRawBufferPointer? {
        if count < 0 || remaining < count { return nil }
        offset += count
        return UnsafeRawBufferPointer(rebasing: bytes[(offset - count)..<offset])
    }

    @inlinable package mutating func rest() -> UnsafeRawBufferPointer {
        let text = UnsafeRawBufferPointer(rebasing: bytes[offset...])
        offset = bytes.count
        return text
    }
}

extension UnsafeRawBufferPointer {
    @inlinable package func hasSameBytes(as other: UnsafeRawBufferPointer) -> Bool {
        if count != other.count { return false }
        guard count > 0, let start = baseAddress, let otherStart = other.baseAddress else { return true }
        return memcmp(start, otherStart, count) == 0
    }
}

extension String {
    /// The bytes as UTF-8, repaired where they are not.
    package init(wire bytes: UnsafeRawBufferPointer) { self.init(decoding: bytes, as: UTF8.self) }
}
