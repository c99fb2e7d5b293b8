import ControlPlane
import Testing

@Suite struct HTTPExchangeTests {
    private static let whole: [(answer: String, status: Int, body: String)] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        ("HTTP/1.1 422 \r\ncontent-length:0\r\n\r\n", 422, ""),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nab", 201, "ab"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: u\r\n\r\n", 200, "abc0123456789"),
    ]

    private func asking() throws -> HTTPExchange {
        let exchange = try HTTPExchange()
        _ = try exchange.request("GET", "/", [("Host", "here")], "")
        return exchange
    }

    @Test func `a request is sent as it is meant`() throws {
        let exchange = try HTTPExchange()
        let fields = [("Host", "here"), ("Content-Length", "2")]
        let sent = try exchange.request("POST", "/a?b=c", fields, "{}")
        #expect(String(decoding: sent, as: UTF8.self) == "POST /a?b=c HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}")
        for value in ["a\r\nb", "a\nb", "\u{0}"] {
            let other = try HTTPExchange()
            #expect(throws: HTTPExchange.Failure.badRequest) { try other.request("GET", "/", [("By", value)], "") }
        }
    }

    @Test func `an answer is read whole, and byte by byte`() throws {
        for (answer, status, body) in Self.whole {
            for piece in [1, 3, answer.utf8.count] {
                var exchange = try asking()
                var found: [UInt8] = []
                var rest = Array(answer.utf8)[...]
                while !rest.isEmpty {
                    let isDone = exchange.isDone
                    #expect(!isDone, "\(answer)")
                    found += try exchange.take(Array(rest.prefix(piece)))
                    rest = rest.dropFirst(piece)
                }
                let (isDone, got) = (exchange.isDone, exchange.status)
                #expect(isDone && got == status, "\(answer)")
                #expect(String(decoding: found, as: UTF8.self) == body)
            }
        }
    }

    @Test func `without a length the body ends with the connection, with one it may not`() throws {
        var exchange = try asking()
        #expect(try exchange.take(Array("HTTP/1.1 200 OK\r\n\r\nabc".utf8)) == Array("abc".utf8))
        #expect(throws: Never.self) { try exchange.end() }
        let isDone = exchange.isDone
        #expect(isDone)
        for (answer, _, _) in Self.whole where answer.contains("abc") || answer.contains("hello") {
            for count in 0..<answer.utf8.count - 1 {
                var exchange = try asking()
                _ = try exchange.take(Array(answer.utf8.prefix(count)))
                #expect(throws: HTTPExchange.Failure.self, "\(count) of \(answer)") { try exchange.end() }
            }
        }
    }

    @Test(arguments: [
        "SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nX: " + String(repeating: "x", count: 1 << 20),
    ])
    func `what is no such answer is refused`(text: String) throws {
        var exchange = try asking()
        #expect(throws: HTTPExchange.Failure.self) { try exchange.take(Array(text.utf8)) }
    }
}
