import Foundation
import Glibc
import Synchronization

/// Stands between a client and a server of 127.0.0.1, byte for byte, until it is told to cut. Any thread.
package final class TCPRelay: Sendable {
    package let port: UInt16
    private let upstream: UInt16
    private let listener: CInt
    private let trigger = Mutex<[UInt8]?>(nil)
    private let cutsMade = Atomic<Int>(0)
    private let isClosed = Atomic<Bool>(false)
    private let connections = Mutex<Set<CInt>>([])

    /// How often a connection was cut.
    package var cuts: Int { cutsMade.load(ordering: .acquiring) }

    package init(to upstream: UInt16) throws {
        self.upstream = upstream
        let port = try FreePort.find()
        self.port = port
        listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var yes: CInt = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<CInt>.size))
        var address = sockaddr_in.loopback(port)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard bound == 0, listen(listener, 16) == 0 else { throw TestFailure("the relay cannot listen on \(port)") }
        Thread.detachNewThread { [self] in accept() }
    }

    package func close() {
        guard !isClosed.exchange(true, ordering: .acquiringAndReleasing) else { return }
        shutdown(listener, CInt(SHUT_RDWR))
    }

    /// The next time that a client sends this text: it is passed on, the server answers, and the connection is
    /// reset before the client hears of it.
    package func cutAfterAnswer(to text: String) { trigger.withLock { $0 = Array(text.utf8) } }

    /// Resets every connection that is open now.
    package func cutAll() {
        connections.withLock { for end in $0 { shutdown(end, CInt(SHUT_RDWR)) } }
    }

    private func accept() {
        while !isClosed.load(ordering: .acquiring) {
            let client = Glibc.accept(listener, nil, nil)
            guard client >= 0 else { break }
            Thread.detachNewThread { [self] in relay(client) }
        }
        Glibc.close(listener)
    }

    private func relay(_ client: CInt) {
        let server = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        connections.withLock { $0.formUnion([client, server]) }
        defer {
            connections.withLock { $0.subtract([client, server]) }
            for end in [client, server] {
                var reset = linger(l_onoff: 1, l_linger: 0)
                setsockopt(end, SOL_SOCKET, SO_LINGER, &reset, socklen_t(MemoryLayout<linger>.size))
                Glibc.close(end)
            }
        }
        var address = sockaddr_in.loopback(upstream)
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(server, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard connected == 0 else { return }
        var isCutting = false
        while true {
            var ends = [pollfd(fd: client, events: Int16(POLLIN), revents: 0),
                pollfd(fd: server, events: Int16(POLLIN), revents: 0)]
            guard poll(&ends, 2, -1) > 0 else { return }
            if ends[1].revents != 0, isCutting {
                // The answer is there: the server has done it.
                cutsMade.add(1, ordering: .acquiringAndReleasing)
                return
            }
            if ends[0].revents != 0, !pass(from: client, to: server, isCutting: &isCutting) { return }
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
