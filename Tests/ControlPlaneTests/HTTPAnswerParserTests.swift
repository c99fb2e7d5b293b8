import ControlPlane
import Testing

@Suite struct HTTPAnswerParserTests {
    private static let whole: [(answer: String, status: Int, body: String)] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, ""),
        ("HTTP/1.1 422\r\ncontent-length:0\r\n\r\n", 422, ""),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nab", 201, "ab"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA ;x=y\r\n0123456789\r\n0\r\nT: u\r\n\r\n", 200, "abc0123456789"),
    ]

    @Test func `an answer is read whole, and byte by byte`() throws {
        for (answer, status, body) in Self.whole {
            for piece in [1, 3, answer.utf8.count] {
                var parser = HTTPAnswerParser()
                var found: [UInt8] = []
                var rest = Array(answer.utf8)[...]
                while !rest.isEmpty {
                    #expect(!parser.isDone, "\(answer)")
                    found += try parser.take(Array(rest.prefix(piece)))
                    rest = rest.dropFirst(piece)
                }
                #expect(parser.isDone && parser.status == status, "\(answer)")
                #expect(String(decoding: found, as: UTF8.self) == body)
            }
        }
    }

    @Test func `without a length the body ends with the connection, with one it may not`() throws {
        var parser = HTTPAnswerParser()
        #expect(try parser.take(Array("HTTP/1.1 200 OK\r\n\r\nabc".utf8)) == Array("abc".utf8))
        #expect(!parser.isDone)
        try parser.end()
        #expect(parser.isDone)
        for (answer, _, _) in Self.whole where answer.contains("abc") || answer.contains("hello") {
            for count in 0..<answer.utf8.count - 1 {
                var parser = HTTPAnswerParser()
                _ = try parser.take(Array(answer.utf8.prefix(count)))
                #expect(throws: HTTPAnswerParser.Failure.self, "\(count) of \(answer)") { try parser.end() }
            }
        }
    }

    @Test(arguments: [
        "SSH-2.0-x\r\n", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    ])
    func `what is no such answer is refused`(text: String) {
        var parser = HTTPAnswerParser()
        #expect(throws: HTTPAnswerParser.Failure.self) { try parser.take(Array(text.utf8)) }
    }

    @Test func `a head may have so many bytes, and not one more`() throws {
        let begin = "HTTP/1.1 200 OK\r\nX: "
        let most = HTTPAnswerParser.headBytesMax
        var parser = HTTPAnswerParser()
        let padding = String(repeating: "x", count: most - begin.utf8.count)
        #expect(try parser.take(Array((begin + padding).utf8)).isEmpty)
        #expect(throws: HTTPAnswerParser.Failure.headTooLong) { try parser.take([0x78]) }
    }
}
