import CEpoll
import Glibc
import Primitives

/// A listening socket. Owned by the thread that accepts.
package struct Listener: ~Copyable {
    package let descriptor: SocketDescriptor
    /// Where it really listens: the port is the kernel's choice when 0 was asked for.
    package let address: SocketAddress

    /// - Parameter backlog: connections that the kernel keeps to be accepted.
    package init(on wanted: SocketAddress, backlog: Int = 4096) throws(SocketError) {
        if wanted.isTooLong { throw SocketError(operation: .bind, errno: ENAMETOOLONG) }
        let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_NONBLOCK.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
        let raw = socket(wanted.family, type, 0)
        if raw < 0 { throw SocketError(operation: .open, errno: errno) }
        let owned = SocketDescriptor(owning: raw)
        if case .unix(let path) = wanted {
            unlink(path)  // left by a process that was killed; a live one would hold the TCP port
        } else {
            var on: CInt = 1
            setsockopt(raw, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<CInt>.size))
        }
        if wanted.withSockaddr({ bind(raw, $0, $1) }) != 0 { throw SocketError(operation: .bind, errno: errno) }
        if listen(raw, CInt(backlog)) != 0 { throw SocketError(operation: .listen, errno: errno) }
        address = Self.localAddress(raw) ?? wanted
        descriptor = owned
    }

    package enum Accepted: ~Copyable {
        case client(SocketDescriptor, SocketAddress)
        case none
        case failed(errno: CInt)
    }

    package borrowing func accept() -> Accepted {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let raw = godwit_accept(descriptor.raw, &storage, &length)
        if raw < 0 { return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? .none : .failed(errno: errno) }
        let client = SocketDescriptor(owning: raw)
        let peer = withUnsafePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { SocketAddress(sockaddr: $0) }
        }
        let address = peer ?? .unix(path: "")
        client.setNoDelay(for: address)
        return .client(client, address)
    }

    private static func localAddress(_ raw: CInt) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                guard getsockname(raw, address, &length) == 0 else { return nil }
                let found = SocketAddress(sockaddr: address)
                if case .unix = found { return nil }
                return found
            }
        }
    }
}
