import CEpoll
import Glibc
import Reactor

/// Between the Godwit that serves and the one that takes over: messages, each whole, with descriptors in them, over a
/// SOCK_SEQPACKET Unix socket. Used by one thread at a time.
///
/// The name of the socket is an abstract one, so that nothing is left behind by a process that is killed; any user of
/// the system may connect to it, so each end asks the kernel who the other one is.
struct HandOverChannel: ~Copyable {
    /// Bytes of one message.
    static let messageBytesMax = 64 * 1024

    let socket: SocketDescriptor

    enum Received {
        case message(String, descriptors: [CInt])
        case ended
        case timedOut
    }

    init(owning raw: CInt) { socket = SocketDescriptor(owning: raw) }

    /// Gives the descriptor away.
    consuming func release() -> CInt { socket.release() }

    private static func open() throws(SocketError) -> CInt {
        let raw = Glibc.socket(AF_UNIX, CInt(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue), 0)
        if raw < 0 { throw SocketError(operation: .open, errno: errno) }
        return raw
    }

    /// A listening descriptor, the caller's.
    static func listen(_ address: SocketAddress) throws(SocketError) -> CInt {
        let raw = try open()
        if address.withSockaddr({ bind(raw, $0, $1) }) != 0 || Glibc.listen(raw, 4) != 0 {
            let code = errno
            close(raw)
            throw SocketError(operation: .bind, errno: code)
        }
        return raw
    }

    static func connect(to address: SocketAddress) throws(SocketError) -> HandOverChannel {
        let raw = try open()
        if address.withSockaddr({ Glibc.connect(raw, $0, $1) }) != 0 {
            let code = errno
            close(raw)
            throw SocketError(operation: .connect, errno: code)
        }
        return HandOverChannel(owning: raw)
    }

    /// The other end's user is ours, or root.
    var isTrusted: Bool {
        let user = godwit_peer_user(socket.raw, nil)
        return user == geteuid() || user == 0
    }

    var peerProcess: Int32 {
        var process: CInt = 0
        _ = godwit_peer_user(socket.raw, &process)
        return process
    }

    /// - Returns: false when the other end is gone.
    @discardableResult
    func send(_ text: String, descriptors: [CInt] = []) -> Bool {
        let bytes = Array(text.utf8)
        precondition(bytes.count <= Self.messageBytesMax, "a message that the other end would not take")
        while true {
            let sent = godwit_send_descriptors(socket.raw, bytes, bytes.count, descriptors, descriptors.count)
            if sent >= 0 { return true }
            if errno != EINTR { return false }
        }
    }

    /// - Parameter millis: -1: however long it takes.
    func receive(millis: CInt) -> Received {
        var ready = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
        while true {
            let count = poll(&ready, 1, millis)
            if count == 0 { return .timedOut }
            if count > 0 { break }
            if errno != EINTR { return .ended }
        }
        var bytes = [UInt8](repeating: 0, count: Self.messageBytesMax)
        var descriptors = [CInt](repeating: -1, count: Int(GODWIT_DESCRIPTORS_MAX))
        var held = 0
        let received = godwit_receive_descriptors(socket.raw, &bytes, bytes.count, &descriptors, &held)
        guard received > 0 else { return .ended }
        return .message(
            String(decoding: bytes.prefix(received), as: UTF8.self), descriptors: Array(descriptors.prefix(held)))
    }

    /// As above, but no word gets lost in between: whoever speaks when it is too late is told so by its `send`.
    func receiveOrClose(millis: CInt) -> Received {
        let received = receive(millis: millis)
        guard case .timedOut = received else { return received }
        shutdown(socket.raw, CInt(SHUT_RD))
        return receive(millis: 0)
    }
}
