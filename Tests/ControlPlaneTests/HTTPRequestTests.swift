import ControlPlane
import Testing

@Suite struct HTTPRequestTests {
    private func parse(_ text: String) throws -> (HTTPRequest, Int)? {
        try HTTPRequest.parse(Array(text.utf8)).map { ($0.request, $0.length) }
    }

    private func refusal(_ text: String) -> HTTPRequest.Refusal? {
        do throws(HTTPRequest.Refusal) {
            _ = try HTTPRequest.parse(Array(text.utf8))
            return nil
        } catch {
            return error
        }
    }

    @Test func `a request is read without its query, and what follows it stays`() throws {
        let text = "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAuthorization: bearer s3cret \r\n\r\n"
        let (request, length) = try #require(try parse(text + "GET"))
        #expect(request == HTTPRequest.get("/metrics", token: "s3cret"))
        #expect(length == text.utf8.count)
    }

    @Test func `a request that is not whole is waited for, byte by byte`() throws {
        let text = "HEAD / HTTP/1.0\nConnection: Keep-Alive\n\n"
        for end in 0..<text.utf8.count { #expect(try parse(String(text.prefix(end))) == nil, "\(end)") }
        let (request, _) = try #require(try parse(text))
        #expect(request.method == .head)
        #expect(!request.keepsAlive)
    }

    @Test(arguments: [
        "\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1 x\r\nHost: a\r\n\r\n", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\u{0}\r\n\r\n", "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / FTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    ])
    func `what is no request is refused`(text: String) {
        #expect(refusal(text) == .malformed)
    }

    @Test func `bodies and other versions are refused`() {
        #expect(refusal("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n") == .hasBody)
        #expect(refusal("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") == .hasBody)
        #expect(refusal("GET / HTTP/2.0\r\nHost: a\r\n\r\n") == .versionNotSupported)
    }

    @Test func `a head ends within its bytes and fields`() {
        func head(bytes: Int) -> String {
            let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
            return frame.replacing("X: ", with: "X: " + String(repeating: "x", count: bytes - frame.utf8.count))
        }
        #expect(refusal(head(bytes: HTTPRequest.headBytesMax)) == nil)
        #expect(refusal(head(bytes: HTTPRequest.headBytesMax + 1)) == .headTooLong)
        #expect(refusal(String(repeating: "x", count: HTTPRequest.headBytesMax)) == .headTooLong)
        func head(fields: Int) -> String {
            "GET / HTTP/1.1\r\nHost: a\r\n" + String(repeating: "X: y\r\n", count: fields - 1) + "\r\n"
        }
        #expect(refusal(head(fields: HTTPRequest.fieldsMax)) == nil)
        #expect(refusal(head(fields: HTTPRequest.fieldsMax + 1)) == .headTooLong)
    }

    @Test func `random bytes never trap`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("seed \(seed)")
        var state = seed
        let alphabet = Array("GET / HTTP/1.1\r\nHost:a\r\n\r\n \t:\u{0}\u{7f}".utf8)
        for _ in 0..<5000 {
            var bytes: [UInt8] = []
            state = state &* 6364136223846793005 &+ 1442695040888963407
            for _ in 0..<(state >> 58) {
                state = state &* 6364136223846793005 &+ 1442695040888963407
                bytes.append(alphabet[Int(state >> 33) % alphabet.count])
            }
            if let (_, length) = try? HTTPRequest.parse(bytes) { #expect(length <= bytes.count) }
        }
    }
}

extension HTTPRequest {
    static func get(_ path: String, token: String) -> HTTPRequest? {
        let text = "GET \(path) HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \(token)\r\n\r\n"
        return try? HTTPRequest.parse(Array(text.utf8))?.request
    }
}
