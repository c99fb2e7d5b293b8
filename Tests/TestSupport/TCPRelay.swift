import Foundation
import Glibc
import Synchronization

/// Stands between a client and a server of 127.0.0.1, byte for byte, until it is told to cut or to be a bad network.
/// Any thread.
package final class TCPRelay: Sendable {
    package enum Mode: Equatable, Sendable {
        case passing
        /// Connections are made and kept, and nothing comes through.
        case silent
        /// Nobody answers, not even to a SYN; nothing comes through connections that are there.
        case deaf
        /// What the server says comes so many milliseconds later.
        case delaying(millis: Int32)
        /// Connections are refused, and those that are there reset.
        case refusing

        var isStill: Bool { self == .silent || self == .deaf }
    }

    package let port: UInt16
    private let upstream: UInt16
    private let trigger = Mutex<[UInt8]?>(nil)
    private let cutsMade = Atomic<Int>(0)
    private let isClosed = Atomic<Bool>(false)
    private let connections = Mutex<Set<CInt>>([])
    private let clients = Mutex<Set<CInt>>([])
    private struct State {
        var mode: Mode = .passing
        /// Those who wait until the mode is in force.
        var waiting: [DispatchSemaphore] = []
        /// The relay is closed: nothing comes into force any more.
        var isOver = false
    }

    private let state = Mutex(State())

    /// Milliseconds between two looks at the mode.
    private static let pauseMillis: CInt = 5

    /// How often a connection was cut.
    package var cuts: Int { cutsMade.load(ordering: .acquiring) }

    package var mode: Mode { state.withLock { $0.mode } }

    package init(to upstream: UInt16) throws {
        self.upstream = upstream
        var port = try FreePort.find()
        var listener = Self.listen(port)
        for _ in 0..<10 where listener == nil {
            port = try FreePort.find()      // somebody else took it in between
            listener = Self.listen(port)
        }
        guard let listener else { throw TestFailure("the relay cannot listen on \(port): errno \(errno)") }
        self.port = port
        Thread.detachNewThread { [self] in accept(on: listener) }
    }

    package func close() { isClosed.store(true, ordering: .releasing) }

    /// When it returns it is so, for connections that are there too.
    package func become(_ mode: Mode) {
        let isInForce = DispatchSemaphore(value: 0)
        let isOver = state.withLock { state in
            state.mode = mode
            if !state.isOver { state.waiting.append(isInForce) }
            return state.isOver
        }
        if mode == .refusing { cutAll() }
        if !isOver { isInForce.wait() }
    }

    /// The next time that a client sends this text: it is passed on, the server answers, and the connection is
    /// reset before the client hears of it.
    package func cutAfterAnswer(to text: String) { trigger.withLock { $0 = Array(text.utf8) } }

    /// Resets every connection that is open now.
    package func cutAll() {
        connections.withLock { for end in $0 { shutdown(end, CInt(SHUT_RDWR)) } }
    }

    /// Tells all clients what their servers have not said, while nothing else is on its way to them.
    package func say(_ bytes: [UInt8]) {
        clients.withLock { clients in
            for client in clients {
                bytes.withUnsafeBytes { _ = send(client, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
            }
        }
    }

    // MARK: listening

    private static func listen(_ port: UInt16) -> CInt? {
        let listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var yes: CInt = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<CInt>.size))
        var address = sockaddr_in.loopback(port)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if bound == 0, Glibc.listen(listener, 16) == 0 { return listener }
        Glibc.close(listener)
        return nil
    }

    private func accept(on first: CInt) {
        var listener: CInt? = first
        var fillers: [CInt] = []
        while !isClosed.load(ordering: .acquiring) {
            let (mode, waiting) = state.withLock { state in
                defer { state.waiting = [] }
                return (state.mode, state.waiting)
            }
            switch mode {
            case .refusing:
                if let open = listener { Glibc.close(open) }
                listener = nil
                cutAll()
            case .deaf:
                if let open = listener, fillers.isEmpty {
                    // A queue that is full of connections that nobody takes: the kernel drops further SYNs.
                    _ = Glibc.listen(open, 0)
                    fillers = (0..<4).map { _ in Self.begin(to: port) }
                }
            case .passing, .silent, .delaying:
                for filler in fillers { Glibc.close(filler) }
                if let open = listener, !fillers.isEmpty { _ = Glibc.listen(open, 16) }
                fillers = []
                if listener == nil { listener = Self.listen(port) }
            }
            let takes = mode != .refusing && mode != .deaf
            if takes && listener == nil {
                state.withLock { $0.waiting += waiting }
            } else {
                for one in waiting { one.signal() }
            }
            if takes, let open = listener, Self.isReadable(open) {
                let client = Spawn.accept(open)
                if client >= 0 { Thread.detachNewThread { [self] in relay(client) } }
                continue
            }
            poll(nil, 0, Self.pauseMillis)
        }
        for open in fillers + (listener.map { [$0] } ?? []) { Glibc.close(open) }
        let waiting = state.withLock { state in
            defer { state.waiting = [] }
            state.isOver = true
            return state.waiting
        }
        for one in waiting { one.signal() }
    }

    private static func isReadable(_ descriptor: CInt) -> Bool {
        var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&ready, 1, pauseMillis) > 0
    }

    /// A connection that is not waited for.
    private static func begin(to port: UInt16) -> CInt {
        let type = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(AF_INET, type, 0)
        _ = connect(descriptor, port)
        return descriptor
    }

    private static func connect(_ descriptor: CInt, _ port: UInt16) -> Bool {
        var address = sockaddr_in.loopback(port)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        } == 0
    }

    // MARK: passing on

    private func relay(_ client: CInt) {
        let server = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        connections.withLock { $0.formUnion([client, server]) }
        clients.withLock { _ = $0.insert(client) }
        defer {
            clients.withLock { _ = $0.remove(client) }
            connections.withLock { $0.subtract([client, server]) }
            for end in [client, server] {
                var reset = linger(l_onoff: 1, l_linger: 0)
                setsockopt(end, SOL_SOCKET, SO_LINGER, &reset, socklen_t(MemoryLayout<linger>.size))
                Glibc.close(end)
            }
        }
        guard Self.connect(server, upstream) else { return }
        var isCutting = false
        while !isClosed.load(ordering: .acquiring) {
            var ends = [pollfd(fd: client, events: Int16(POLLIN), revents: 0),
                pollfd(fd: server, events: Int16(POLLIN), revents: 0)]
            if mode.isStill {
                // A client that has given up is let go of; what it has sent stays unread.
                if poll(&ends, 1, 0) > 0, Int32(ends[0].revents) & (POLLHUP | POLLERR) != 0 { return }
                poll(nil, 0, Self.pauseMillis)
                continue
            }
            let count = poll(&ends, 2, 4 * Self.pauseMillis)
            if count < 0 { return }
            if count == 0 || mode.isStill { continue }
            if ends[1].revents != 0, isCutting {
                // The answer is there: the server has done it.
                cutsMade.add(1, ordering: .acquiringAndReleasing)
                return
            }
            if ends[0].revents != 0, !pass(from: client, to: server, isCutting: &isCutting) { return }
            if case .delaying(let millis) = mode, ends[1].revents != 0 { poll(nil, 0, millis) }
            var ignored = false
            if ends[1].revents != 0, !pass(from: server, to: client, isCutting: &ignored) { return }
        }
    }

    private func pass(from: CInt, to: CInt, isCutting: inout Bool) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let count = recv(from, &buffer, buffer.count, 0)
        guard count > 0 else { return false }
        let wanted = trigger.withLock { $0 }
        if let wanted, !isCutting, buffer[0..<count].firstRange(of: wanted) != nil {
            isCutting = true
            trigger.withLock { $0 = nil }
        }
        var sent = 0
        while sent < count {
            let more = buffer.withUnsafeBytes { bytes in
                send(to, bytes.baseAddress?.advanced(by: sent), count - sent, CInt(MSG_NOSIGNAL))
            }
            guard more > 0 else { return false }
            sent += more
        }
        return true
    }
}
