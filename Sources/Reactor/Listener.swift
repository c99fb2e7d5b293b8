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
            if Self.isLeftBehind(path, wanted) { unlink(path) }
        } else {
            var on: CInt = 1
            setsockopt(raw, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<CInt>.size))
        }
        if wanted.withSockaddr({ bind(raw, $0, $1) }) != 0 { throw SocketError(operation: .bind, errno: errno) }
        // As PostgreSQL has it: who may log in is not the directory's affair, nor the umask's.
        if case .unix(let path) = wanted, !path.hasPrefix("@") { chmod(path, 0o777) }
        if listen(raw, CInt(backlog)) != 0 { throw SocketError(operation: .listen, errno: errno) }
        address = Self.localAddress(raw) ?? wanted
        descriptor = owned
    }

    /// A socket that listens already: somebody opened it for us.
    ///
    /// - Parameter raw: owned from here on, also when it is refused.
    /// - Throws: `SocketError` when it is no stream socket that listens.
    package init(inheriting raw: CInt) throws(SocketError) {
        let owned = SocketDescriptor(owning: raw)
        var listens: CInt = 0
        var type: CInt = 0
        var length = socklen_t(MemoryLayout<CInt>.size)
        guard getsockopt(raw, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0,
            getsockopt(raw, SOL_SOCKET, SO_TYPE, &type, &length) == 0
        else { throw SocketError(operation: .inherit, errno: errno) }
        guard listens != 0, type == CInt(SOCK_STREAM.rawValue) || type == CInt(SOCK_SEQPACKET.rawValue) else {
            throw SocketError(operation: .inherit, errno: EINVAL)
        }
        _ = fcntl(raw, F_SETFD, FD_CLOEXEC)
        _ = fcntl(raw, F_SETFL, fcntl(raw, F_GETFL) | O_NONBLOCK)
        address = Self.localAddress(raw) ?? .unix(path: Self.localPath(raw))
        descriptor = owned
    }

    /// Another descriptor of the same socket, closed on exec; nil: there are none left.
    package borrowing func duplicate() -> CInt? {
        descriptor.duplicate()
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
        let address = peer?.unmapped ?? .unix(path: "")
        client.setNoDelay(for: address)
        return .client(client, address)
    }

    /// A socket's file where nobody listens any more: a process that is killed leaves it. Whatever else is there,
    /// another's socket or file, is not ours to take away.
    private static func isLeftBehind(_ path: String, _ address: SocketAddress) -> Bool {
        var status = stat()
        guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return false }
        let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_NONBLOCK.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
        let raw = socket(AF_UNIX, type, 0)
        if raw < 0 { return false }
        let probe = SocketDescriptor(owning: raw)
        return address.withSockaddr { connect(probe.raw, $0, $1) } != 0 && errno == ECONNREFUSED
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

    /// The path of a Unix socket, an abstract name with `@`.
    private static func localPath(_ raw: CInt) -> String {
        var local = sockaddr_un()
        var length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let status = withUnsafeMutablePointer(to: &local) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(raw, $0, &length) }
        }
        let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        guard status == 0, Int(length) > offset else { return "" }
        let count = min(Int(length) - offset, SocketAddress.unixPathMax + 1)
        let bytes = withUnsafeBytes(of: &local.sun_path) { Array($0.prefix(count)) }
        if bytes.first == 0 { return "@" + String(decoding: bytes.dropFirst(), as: UTF8.self) }
        return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}
