import Glibc
import Reactor

/// Two connected, nonblocking sockets.
struct SocketPair: ~Copyable {
    let near: SocketDescriptor
    let far: SocketDescriptor

    /// - Parameter bufferBytes: what the kernel is asked to hold between them; it rounds up.
    init(bufferBytes: CInt? = nil) {
        var ends: [CInt] = [-1, -1]
        let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
        precondition(socketpair(AF_UNIX, type, 0, &ends) == 0, "socketpair: \(errno)")
        if var size = bufferBytes {
            for end in ends {
                setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, socklen_t(MemoryLayout<CInt>.size))
                setsockopt(end, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<CInt>.size))
            }
        }
        near = SocketDescriptor(owning: ends[0])
        far = SocketDescriptor(owning: ends[1])
    }
}

extension SocketDescriptor {
    /// What is there now, `most` bytes of it.
    borrowing func receiveBytes(_ most: Int = 65_536) -> (bytes: [UInt8], outcome: Outcome) {
        var buffer = [UInt8](repeating: 0, count: most)
        let outcome = buffer.withUnsafeMutableBytes { receive(into: $0) }
        guard case .bytes(let count) = outcome else { return ([], outcome) }
        return (Array(buffer[..<count]), outcome)
    }

    borrowing func sendBytes(_ bytes: [UInt8]) -> Outcome { bytes.withUnsafeBytes { send($0) } }

    /// Blocks until it can be read or written.
    borrowing func wait(for events: Int32) {
        var entry = pollfd(fd: raw, events: Int16(events), revents: 0)
        while poll(&entry, 1, -1) != 1 {}
    }
}
