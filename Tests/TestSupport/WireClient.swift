import Foundation
import Glibc
import Synchronization

/// A frontend that speaks the protocol by hand over a blocking socket: for what a driver would never send.
package final class WireClient {
    package struct Message: Equatable, CustomStringConvertible {
        package let type: Character
        package let body: [UInt8]

        /// The values of an ErrorResponse or NoticeResponse by field type (`C` is the SQLSTATE).
        package var fields: [Character: String] {
            var result: [Character: String] = [:]
            for field in body.split(separator: 0) {
                if let type = field.first {
                    result[Character(UnicodeScalar(type))] = String(decoding: field.dropFirst(), as: UTF8.self)
                }
            }
            return result
        }

        package var sqlState: String? { type == "E" ? fields["C"] : nil }

        /// The columns of a DataRow in text format.
        package var columns: [String?] {
            guard type == "D" else { return [] }
            var result: [String?] = []
            var rest = body.dropFirst(2)
            while rest.count >= 4 {
                let length = rest.prefix(4).reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
                rest = rest.dropFirst(4)
                if length == UInt32.max {
                    result.append(nil)
                } else {
                    result.append(String(decoding: rest.prefix(Int(length)), as: UTF8.self))
                    rest = rest.dropFirst(Int(length))
                }
            }
            return result
        }

        /// The names in a RowDescription.
        package var columnNames: [String] {
            guard type == "T" else { return [] }
            var names: [String] = []
            var rest = body.dropFirst(2)
            while let end = rest.firstIndex(of: 0) {
                names.append(String(decoding: rest[..<end], as: UTF8.self))
                // Behind the name: table, column, type, size, modifier, format.
                rest = rest[(end + 1)...].dropFirst(18)
            }
            return names
        }

        package var description: String {
            switch type {
            case "E", "N": "\(type) \(fields)"
            case "D": "D \(columns)"
            default: "\(type) \(body.prefix(40))"
            }
        }
    }

    private let descriptor: CInt
    private let port: UInt16
    private var buffered: [UInt8] = []
    private var isOpen = true
    private let senders = Senders()
    /// From BackendKeyData, for a cancel request.
    package private(set) var cancelKey: [UInt8] = []

    package init(port: UInt16) throws {
        self.port = port
        descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in.loopback(port)
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw TestFailure("connect to port \(port): errno \(errno)") }
        var one: CInt = 1
        setsockopt(descriptor, CInt(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<CInt>.size))
    }

    deinit { close() }

    /// Connects and logs in without a password; reads to ReadyForQuery.
    package convenience init(
        port: UInt16, database: String, user: String = "app", parameters: [(String, String)] = [],
        minor: UInt32 = 0, _ file: StaticString = #fileID, _ line: UInt = #line
    ) throws {
        try self.init(port: port)
        send(FrameBuilder.startup(
            [("user", user), ("database", database)] + parameters, version: 0x0003_0000 | minor))
        let messages = try readToReady(file, line)
        cancelKey = messages.first { $0.type == "K" }?.body ?? []
    }

    // MARK: Sending

    /// Bytes that the peer no longer takes are dropped: what it answered is still to be read.
    package func send(_ bytes: [UInt8]) { Self.send(bytes, to: descriptor) }

    /// On a thread of its own, so that the answers can be left unread meanwhile. The client must outlive it.
    package func sendMeanwhile(_ bytes: [UInt8]) {
        let (descriptor, senders) = (descriptor, senders)
        senders.count.add(1, ordering: .acquiringAndReleasing)
        Thread {
            Self.send(bytes, to: descriptor)
            senders.count.subtract(1, ordering: .acquiringAndReleasing)
        }.start()
    }

    /// Threads that send for it.
    private final class Senders: Sendable {
        let count = Atomic<Int>(0)
    }

    private static func send(_ bytes: [UInt8], to descriptor: CInt) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes { buffer in
                Glibc.send(descriptor, buffer.baseAddress! + sent, bytes.count - sent, CInt(MSG_NOSIGNAL))
            }
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { return }
            sent += count
        }
    }

    /// One send per byte: TCP_NODELAY makes each its own segment.
    package func sendByteByByte(_ bytes: [UInt8]) {
        for byte in bytes { send([byte]) }
    }

    /// No more from us; the peer's answers can still be read.
    package func endSending() { shutdown(descriptor, CInt(SHUT_WR)) }

    /// Goes away without Terminate.
    package func close() {
        if isOpen {
            // The number is the next one's who opens something: nobody may send to it any more.
            if senders.count.load(ordering: .acquiring) > 0 { shutdown(descriptor, CInt(SHUT_RDWR)) }
            while senders.count.load(ordering: .acquiring) > 0 { Awaited.pause() }
            Glibc.close(descriptor)
        }
        isOpen = false
    }

    /// Goes away so that the peer gets a reset instead of the end of the stream.
    package func reset() {
        var abort = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &abort, socklen_t(MemoryLayout<linger>.size))
        close()
    }

    // MARK: Reading

    /// The watchdog of `endWaiting` has ended a read.
    package private(set) var hasGivenUp = false
    /// The peer has closed the connection.
    package private(set) var hasEnded = false

    /// A watchdog, for tests that find out whether an answer comes at all: after so long, the peer counts as gone.
    package func endWaiting(afterSeconds seconds: Int) {
        var limit = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// - Returns: nil when the peer has closed the connection.
    package func read(_ file: StaticString = #fileID, _ line: UInt = #line) throws -> Message? {
        return try Awaited.wait(for: "a message, behind \(buffered.count) bytes", Place(file, line)) {
            guard let header = receive(5) else { return nil }
            let length = header[1...].reduce(0) { $0 << 8 | Int($1) }
            guard length >= 4, let body = receive(length - 4) else { throw TestFailure("cut off after \(header)") }
            return Message(type: Character(UnicodeScalar(header[0])), body: body)
        }
    }

    /// A read would not wait.
    package var hasSomethingToRead: Bool {
        var look = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return !buffered.isEmpty || poll(&look, 1, 0) == 1
    }

    /// Of the server that answers, where it is PostgreSQL itself.
    package var processID: Int { cancelKey.prefix(4).reduce(0) { $0 << 8 | Int($1) } }

    /// One byte, as after an SSLRequest; nil when the connection is closed.
    package func readByte(_ file: StaticString = #fileID, _ line: UInt = #line) -> UInt8? {
        Awaited.wait(for: "a byte", Place(file, line)) { receive(1)?.first }
    }

    /// All messages up to ReadyForQuery, which is the last.
    package func readToReady(_ file: StaticString = #fileID, _ line: UInt = #line) throws -> [Message] {
        var messages: [Message] = []
        while let message = try read(file, line) {
            messages.append(message)
            if message.type == "Z" { return messages }
        }
        throw TestFailure("closed before ReadyForQuery, after \(messages)")
    }

    /// The next ErrorResponse; nil when the connection is closed without one.
    package func readToError(_ file: StaticString = #fileID, _ line: UInt = #line) throws -> Message? {
        while let message = try read(file, line) {
            if message.type == "E" { return message }
        }
        return nil
    }

    /// All messages until the peer closes the connection.
    package func readToEnd(_ file: StaticString = #fileID, _ line: UInt = #line) throws -> [Message] {
        var messages: [Message] = []
        while let message = try read(file, line) { messages.append(message) }
        return messages
    }

    // MARK: In one step

    /// Asks for the client's query to be cancelled, and waits until that has been passed on.
    package func cancel(_ file: StaticString = #fileID, _ line: UInt = #line) throws {
        let canceller = try WireClient(port: port)
        canceller.send(FrameBuilder.bigEndian(UInt32(8 + cancelKey.count)) + [0x04, 0xd2, 0x16, 0x2e] + cancelKey)
        _ = try canceller.readToEnd(file, line)
    }

    /// Sends a simple query and reads its answers.
    package func query(_ sql: String, _ file: StaticString = #fileID, _ line: UInt = #line) throws -> [Message] {
        send(FrameBuilder.query(sql))
        return try readToReady(file, line)
    }

    /// The first column of the first row of a simple query.
    package func value(_ sql: String, _ file: StaticString = #fileID, _ line: UInt = #line) throws -> String? {
        let messages = try query(sql, file, line)
        if let error = messages.first(where: { $0.type == "E" }) { throw TestFailure("\(sql): \(error)") }
        return messages.first { $0.type == "D" }?.columns.first ?? nil
    }

    private func receive(_ count: Int) -> [UInt8]? {
        while buffered.count < count {
            var chunk = [UInt8](repeating: 0, count: 65_536)
            let received = recv(descriptor, &chunk, chunk.count, 0)
            if received < 0 && errno == EINTR { continue }
            if received < 0 && errno == EAGAIN {
                hasGivenUp = true
            } else if received <= 0 {
                hasEnded = true
            }
            if received <= 0 { return nil }
            buffered += chunk[..<received]
        }
        let result = Array(buffered.prefix(count))
        buffered.removeFirst(count)
        return result
    }
}
