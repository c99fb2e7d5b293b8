/// Bytes that the kernel had no room for, in order. Owned by one connection on its reactor's thread.
///
/// Its bound is kept by the sender's reader: above `highWater` the source of the bytes is not read any more.
@usableFromInline package struct SendQueue {
    /// Bytes above which a connection's source is paused.
    @inlinable package static var highWater: Int { 256 * 1024 }
    /// Bytes below which it goes on.
    @inlinable package static var lowWater: Int { 64 * 1024 }
    /// A drained buffer larger than this is given back: an idle connection holds little.
    private static let keptCapacity = 4096

    @usableFromInline var bytes: [UInt8] = []
    @usableFromInline var head = 0

    package init() {}

    @inlinable package var count: Int { bytes.count - head }
    @inlinable package var isEmpty: Bool { bytes.count == head }

    package mutating func append(_ range: UnsafeRawBufferPointer) { bytes.append(contentsOf: range) }

    package mutating func append(_ content: [UInt8]) { bytes.append(contentsOf: content) }

    /// Gives what waits to the kernel.
    package mutating func flush(to socket: borrowing SocketDescriptor) -> SocketDescriptor.Outcome {
        while head < bytes.count {
            let outcome = bytes.withUnsafeBytes { all in
                socket.send(UnsafeRawBufferPointer(rebasing: all[head...]))
            }
            guard case .bytes(let count) = outcome else {
                compact()
                return outcome
            }
            head += count
        }
        clear()
        return .bytes(0)
    }

    /// Sends `range` at once when nothing waits before it; what the kernel does not take waits.
    @inlinable @inline(__always) package mutating func send(
        _ range: UnsafeRawBufferPointer, to socket: borrowing SocketDescriptor
    ) -> SocketDescriptor.Outcome {
        if !isEmpty { return sendBehind(range, to: socket) }
        let outcome = socket.send(range)
        // Mostly the kernel has room for all of it.
        if case .bytes(let count) = outcome, count == range.count { return .bytes(0) }
        return keepRest(of: range, outcome)
    }

    @usableFromInline mutating func sendBehind(
        _ range: UnsafeRawBufferPointer, to socket: borrowing SocketDescriptor
    ) -> SocketDescriptor.Outcome {
        append(range)
        return flush(to: socket)
    }

    @usableFromInline mutating func keepRest(
        of range: UnsafeRawBufferPointer, _ outcome: SocketDescriptor.Outcome
    ) -> SocketDescriptor.Outcome {
        switch outcome {
        case .bytes(let count):
            append(UnsafeRawBufferPointer(rebasing: range[count...]))
            return .bytes(0)
        case .wouldBlock:
            append(range)
            return .wouldBlock
        case .closed, .failed:
            return outcome
        }
    }

    package mutating func clear() {
        head = 0
        if bytes.capacity > Self.keptCapacity {
            bytes = []
        } else {
            bytes.removeAll(keepingCapacity: true)
        }
    }

    private mutating func compact() {
        if head > bytes.count / 2 {
            bytes.removeSubrange(..<head)
            head = 0
        }
    }
}
