import Glibc

/// One connection of a plain HTTP client, as raw bytes.
package final class HTTPExchange {
    package struct Answer {
        package var status: Int
        package var head: String
        package var body: String

        package init(status: Int, head: String, body: String) {
            self.status = status
            self.head = head
            self.body = body
        }
    }

    private let descriptor: CInt

    package init(port: UInt16) throws {
        descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw TestFailure("socket: \(errno)") }
        var address = sockaddr_in.loopback(port)
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw TestFailure("connect to \(port): \(errno)") }
    }

    deinit { close(descriptor) }

    /// A peer that closes early is found out by `answer`.
    @discardableResult
    package func send(_ text: String) throws -> HTTPExchange {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
            if count <= 0 { break }
            bytes = bytes.dropFirst(count)
        }
        return self
    }

    /// Everything until the server closes; the first answer's head apart.
    package func answer() throws -> Answer {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count <= 0 { break }
            bytes += buffer[..<count]
        }
        let text = String(decoding: bytes, as: UTF8.self)
        guard let end = text.firstRange(of: "\r\n\r\n"), text.hasPrefix("HTTP/1."),
            let status = Int(text.dropFirst(9).prefix(3))
        else { throw TestFailure("no HTTP answer in '\(text.prefix(200))'") }
        return Answer(
            status: status, head: String(text[..<end.lowerBound]), body: String(text[end.upperBound...]))
    }

    /// Something of an answer is there.
    package var hasAnswer: Bool {
        var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&ready, 1, 0) > 0
    }

    /// Reads until these words have come.
    package func read(until words: String) throws {
        var text = ""
        var byte: UInt8 = 0
        while !text.hasSuffix(words) {
            if recv(descriptor, &byte, 1, 0) <= 0 { throw TestFailure("the end behind '\(text.suffix(200))'") }
            text.unicodeScalars.append(Unicode.Scalar(byte))
        }
    }

    package static func get(_ path: String, port: UInt16, token: String? = nil) throws -> Answer {
        let authorization = token.map { "Authorization: Bearer \($0)\r\n" } ?? ""
        return try HTTPExchange(port: port)
            .send("GET \(path) HTTP/1.1\r\nHost: localhost\r\n\(authorization)Connection: close\r\n\r\n").answer()
    }
}
