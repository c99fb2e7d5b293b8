import CEpoll
import Glibc
import Primitives

/// A nonblocking socket, owned by one holder and closed with it. Used on its reactor's thread.
@usableFromInline package struct SocketDescriptor: ~Copyable, Sendable {
    @usableFromInline package let raw: CInt

    /// Takes ownership of `raw`.
    package init(owning raw: CInt) { self.raw = raw }

    deinit { _ = close(raw) }

    /// Gives the descriptor away, to be owned by somebody else.
    package consuming func release() -> CInt {
        let given = raw
        discard self
        return given
    }

    /// Another descriptor of the same socket, closed on exec, to be owned by the caller; nil: there are none left.
    package borrowing func duplicate() -> CInt? {
        let copy = fcntl(raw, F_DUPFD_CLOEXEC, 3)
        return copy < 0 ? nil : copy
    }

    @usableFromInline @frozen package enum Outcome: Equatable, Sendable {
        case bytes(Int)
        /// The kernel has no bytes or no room now.
        case wouldBlock
        /// The peer closed its side.
        case closed
        case failed(errno: CInt)
    }

    @inlinable @inline(__always) package func receive(into buffer: UnsafeMutableRawBufferPointer) -> Outcome {
        let count = godwit_receive(raw, buffer.baseAddress, buffer.count)
        return count > 0 ? .bytes(count) : receivedNothing(count, into: buffer)
    }

    @usableFromInline func receivedNothing(_ result: Int, into buffer: UnsafeMutableRawBufferPointer) -> Outcome {
        if result == 0 { return .closed }
        if errno == EINTR { return receive(into: buffer) }
        return errno == EAGAIN ? .wouldBlock : .failed(errno: errno)
    }

    @inlinable @inline(__always) package func send(_ bytes: UnsafeRawBufferPointer) -> Outcome {
        let count = godwit_send(raw, bytes.baseAddress, bytes.count)
        return count >= 0 ? .bytes(count) : sentNothing(bytes)
    }

    @usableFromInline func sentNothing(_ bytes: UnsafeRawBufferPointer) -> Outcome {
        if errno == EINTR { return send(bytes) }
        return errno == EAGAIN ? .wouldBlock : .failed(errno: errno)
    }

    /// After a nonblocking connect became writable: 0, or why it failed.
    package func connectError() -> CInt {
        var error: CInt = 0
        var length = socklen_t(MemoryLayout<CInt>.size)
        return getsockopt(raw, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno
    }

    /// Our end of the connection; nil: the kernel does not say.
    package var localAddress: SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                getsockname(raw, address, &length) == 0 ? SocketAddress(sockaddr: address) : nil
            }
        }
    }

    /// The system's user at the other end of a Unix socket; nil: of another socket, or not known.
    package func peerUserID() -> UInt32? {
        var credentials = (pid: Int32(0), uid: UInt32(0), gid: UInt32(0))  // struct ucred, which Glibc keeps to itself
        var length = socklen_t(MemoryLayout.size(ofValue: credentials))
        let result = getsockopt(raw, SOL_SOCKET, SO_PEERCRED, &credentials, &length)
        return result == 0 && credentials.pid > 0 ? credentials.uid : nil
    }

    /// Starts a connection; it is made when the socket becomes writable.
    package static func connect(to address: SocketAddress) throws(SocketError) -> SocketDescriptor {
        if address.isTooLong { throw SocketError(operation: .connect, errno: ENAMETOOLONG) }
        let type = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_NONBLOCK.rawValue) | CInt(SOCK_CLOEXEC.rawValue)
        let raw = socket(address.family, type, 0)
        if raw < 0 { throw SocketError(operation: .open, errno: errno) }
        let descriptor = SocketDescriptor(owning: raw)
        descriptor.setNoDelay(for: address)
        let result = address.withSockaddr { Glibc.connect(raw, $0, $1) }
        // EAGAIN is a Unix socket whose listener's queue is full: no connection is under way.
        if result != 0 && errno != EINPROGRESS {
            throw SocketError(operation: .connect, errno: errno)
        }
        return descriptor
    }

    /// Small messages go out at once; a Unix socket has no such option.
    package func setNoDelay(for address: SocketAddress) {
        if case .unix = address { return }
        var on: CInt = 1
        setsockopt(raw, CInt(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<CInt>.size))
        setsockopt(raw, SOL_SOCKET, SO_KEEPALIVE, &on, socklen_t(MemoryLayout<CInt>.size))
    }
}

/// How the kernel finds out that a peer has gone; 0: its own default. Immutable, any thread.
package struct TCPOptions: Equatable, Sendable {
    package var keepalive = true
    package var keepaliveCount = 0
    package var keepaliveIdleSeconds = 0
    package var keepaliveIntervalSeconds = 0
    /// Milliseconds that sent bytes may stay unacknowledged.
    package var userTimeoutMillis = 0

    package init() {}
}

extension SocketDescriptor {
    /// Nothing happens to a Unix socket.
    package func apply(_ options: TCPOptions, for address: SocketAddress) {
        if case .unix = address { return }
        set(SOL_SOCKET, SO_KEEPALIVE, options.keepalive ? 1 : 0)
        if options.keepalive {
            if options.keepaliveCount > 0 { set(CInt(IPPROTO_TCP), TCP_KEEPCNT, options.keepaliveCount) }
            if options.keepaliveIdleSeconds > 0 { set(CInt(IPPROTO_TCP), TCP_KEEPIDLE, options.keepaliveIdleSeconds) }
            if options.keepaliveIntervalSeconds > 0 {
                set(CInt(IPPROTO_TCP), TCP_KEEPINTVL, options.keepaliveIntervalSeconds)
            }
        }
        if options.userTimeoutMillis > 0 { set(CInt(IPPROTO_TCP), TCP_USER_TIMEOUT, options.userTimeoutMillis) }
    }

    /// Tells the peer at once what has come. Nothing happens to a Unix socket.
    package func acknowledge() { set(CInt(IPPROTO_TCP), TCP_QUICKACK, 1) }

    private func set(_ level: CInt, _ name: CInt, _ value: Int) {
        var value = CInt(truncatingIfNeeded: value)
        setsockopt(raw, level, name, &value, socklen_t(MemoryLayout<CInt>.size))
    }
}

/// A system call that makes or takes over a socket failed.
package struct SocketError: Error, Equatable, Sendable {
    package enum Operation: String, Sendable { case open, bind, listen, connect, accept, inherit }
    package let operation: Operation
    package let errno: CInt

    package init(operation: Operation, errno: CInt) {
        self.operation = operation
        self.errno = errno
    }

    /// The system's words for `errno`.
    package var reason: String { String(cString: strerror(errno)) }
}

/// Where a socket connects to or listens: resolved, ready for the kernel. Immutable, any thread.
package enum SocketAddress: Hashable, Sendable, CustomStringConvertible {
    case ipv4(address: UInt32, port: UInt16)
    case ipv6(high: UInt64, low: UInt64, scope: UInt32, port: UInt16)
    /// A path that starts with `@` is a name in Linux's abstract namespace, as libpq has it.
    case unix(path: String)

    /// Bytes of a Unix socket's path: sun_path without its NUL.
    package static let unixPathMax = 107

    /// A path that the kernel could only be given a part of.
    var isTooLong: Bool { if case .unix(let path) = self { path.utf8.count > Self.unixPathMax } else { false } }

    /// Reads an address in numbers; names are resolved elsewhere, for that blocks.
    package init?(host: String, port: UInt16) {
        if host.hasPrefix("/") || host.hasPrefix("@") {
            self = .unix(path: "\(host)/.s.PGSQL.\(port)")
            return
        }
        var four = in_addr()
        if inet_pton(AF_INET, host, &four) == 1 {
            self = .ipv4(address: UInt32(bigEndian: four.s_addr), port: port)
            return
        }
        var six = in6_addr()
        if inet_pton(AF_INET6, host, &six) == 1 {
            let (high, low) = Self.halves(&six)
            self = .ipv6(high: high, low: low, scope: 0, port: port)
            return
        }
        return nil
    }

    /// Asks the resolver. Blocks: never on a reactor's thread.
    package static func resolve(host: String, port: UInt16) -> SocketAddress? {
        resolveAll(host: host, port: port).first
    }

    /// Where to listen: `*` is every IPv4 address of this machine; the resolver would take it for a loopback address.
    package static func resolve(listening host: String, port: UInt16) -> SocketAddress? {
        resolve(host: host == "*" ? "0.0.0.0" : host, port: port)
    }

    /// All that the resolver knows, best first. Blocks.
    package static func resolveAll(host: String, port: UInt16) -> [SocketAddress] {
        if let literal = SocketAddress(host: host, port: port) { return [literal] }
        var hints = addrinfo()
        hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, String(port), &hints, &found) == 0 else { return [] }
        defer { freeaddrinfo(found) }
        return sequence(first: found, next: { $0?.pointee.ai_next }).prefix { $0 != nil }
            .compactMap { $0?.pointee.ai_addr.flatMap { SocketAddress(sockaddr: $0) } }
    }

    /// Only this machine comes to it.
    package var isLoopback: Bool {
        switch self {
        case .ipv4(let address, _): address >> 24 == 127
        case .ipv6(let high, let low, _, _): high == 0 && (low == 1 || low >> 24 == 0xFFFF7F)
        case .unix: true
        }
    }

    package init?(sockaddr: UnsafePointer<sockaddr>) {
        switch CInt(sockaddr.pointee.sa_family) {
        case AF_INET:
            self = sockaddr.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                .ipv4(
                    address: UInt32(bigEndian: $0.pointee.sin_addr.s_addr),
                    port: UInt16(bigEndian: $0.pointee.sin_port))
            }
        case AF_INET6:
            self = sockaddr.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { six in
                var address = six.pointee.sin6_addr
                let (high, low) = Self.halves(&address)
                return .ipv6(
                    high: high, low: low, scope: six.pointee.sin6_scope_id,
                    port: UInt16(bigEndian: six.pointee.sin6_port))
            }
        case AF_UNIX:
            self = .unix(path: "")
        default:
            return nil
        }
    }

    /// An IPv4 address that a socket for both shows as `::ffff:a.b.c.d` is an IPv4 address, as rules, keys and the log
    /// have it.
    var unmapped: SocketAddress {
        guard case .ipv6(let high, let low, _, let port) = self, high == 0, low >> 32 == 0xFFFF else { return self }
        return .ipv4(address: UInt32(truncatingIfNeeded: low), port: port)
    }

    package var family: CInt {
        switch self {
        case .ipv4: AF_INET
        case .ipv6: AF_INET6
        case .unix: AF_UNIX
        }
    }

    /// The address without its port: what SHOW CLIENTS prints.
    package var host: String {
        switch self {
        case .ipv4(let address, _):
            [24, 16, 8, 0].map { String((address >> $0) & 255) }.joined(separator: ".")
        case .ipv6(let high, let low, _, _):
            SocketAddress.text(high, low)
        case .unix:
            "unix"
        }
    }

    package var port: UInt16 {
        switch self {
        case .ipv4(_, let port), .ipv6(_, _, _, let port): port
        case .unix: 0
        }
    }

    package var description: String {
        switch self {
        case .ipv4: "\(host):\(port)"
        case .ipv6: "[\(host)]:\(port)"
        case .unix(let path): path
        }
    }

    /// A socket that listens here is what is wanted; port 0 is any.
    package func serves(_ wanted: SocketAddress) -> Bool {
        switch (self, wanted) {
        case (.ipv4(let address, _), .ipv4(let other, port: 0)): address == other
        case (.ipv6(let high, let low, _, _), .ipv6(let otherHigh, let otherLow, _, port: 0)):
            high == otherHigh && low == otherLow
        case (.ipv4, _), (.ipv6, _), (.unix, _): self == wanted
        }
    }

    package func withSockaddr<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        switch self {
        case .ipv4(let address, let port):
            var four = sockaddr_in()
            four.sin_family = sa_family_t(AF_INET)
            four.sin_port = port.bigEndian
            four.sin_addr.s_addr = address.bigEndian
            return Self.rebound(&four, body)
        case .ipv6(let high, let low, let scope, let port):
            var six = sockaddr_in6()
            six.sin6_family = sa_family_t(AF_INET6)
            six.sin6_port = port.bigEndian
            six.sin6_scope_id = scope
            withUnsafeMutableBytes(of: &six.sin6_addr) {
                $0.storeBytes(of: high.bigEndian, as: UInt64.self)
                $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
            }
            return Self.rebound(&six, body)
        case .unix(let path):
            var local = sockaddr_un()
            local.sun_family = sa_family_t(AF_UNIX)
            let name = path.utf8.prefix(Self.unixPathMax)
            withUnsafeMutableBytes(of: &local.sun_path) { $0.copyBytes(from: name) }
            if name.first != UInt8(ascii: "@") { return Self.rebound(&local, body) }
            // An abstract name starts with NUL and is as long as the length says.
            local.sun_path.0 = 0
            let length = MemoryLayout<sockaddr_un>.offset(of: \.sun_path).map { $0 + name.count }
            return Self.rebound(&local) { pointer, whole in body(pointer, length.map { socklen_t($0) } ?? whole) }
        }
    }

    private static func halves(_ address: inout in6_addr) -> (high: UInt64, low: UInt64) {
        withUnsafeBytes(of: &address) {
            (
                UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self)),
                UInt64(bigEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            )
        }
    }

    private static func rebound<Address, Result>(
        _ address: inout Address, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
    ) -> Result {
        withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<Address>.size))
            }
        }
    }

    private static func text(_ high: UInt64, _ low: UInt64) -> String {
        var six = in6_addr()
        withUnsafeMutableBytes(of: &six) {
            $0.storeBytes(of: high.bigEndian, as: UInt64.self)
            $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        inet_ntop(AF_INET6, &six, &buffer, socklen_t(buffer.count))
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
