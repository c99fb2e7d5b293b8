/// The head of a request without a body. Immutable.
package struct HTTPRequest: Equatable, Sendable {
    package enum Method: Equatable, Sendable { case get, head, other }

    /// Why the bytes are no request that is answered; the connection is closed behind the status.
    package enum Refusal: Error, Equatable, Sendable {
        case malformed
        case headTooLong
        /// Nothing here takes a body.
        case hasBody
        case versionNotSupported
    }

    /// Bytes of the request line and the header fields together.
    package static let headBytesMax = 8192
    /// Header fields of one request.
    package static let fieldsMax = 64

    package var method: Method
    /// Without its query.
    package var path: String
    /// What follows `Bearer ` in the only Authorization field.
    package var bearerToken: [UInt8]?
    package var keepsAlive: Bool

    /// Reads the request that `bytes` begins with.
    ///
    /// - Returns: nil when its end is not there yet; else the request and its length.
    /// - Protocol: RFC 9112, sections 2 to 5; lines end with CR LF or LF alone, folded fields are refused.
    package static func parse(_ bytes: [UInt8]) throws(Refusal) -> (request: HTTPRequest, length: Int)? {
        guard let (lines, length) = try lines(of: bytes) else { return nil }
        guard let first = lines.first else { throw .malformed }
        let parts = first.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        guard parts.count == 3, isToken(parts[0]), let target = parts[1].first, target == UInt8(ascii: "/"),
            parts[1].allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else { throw .malformed }
        let isMinor1 = parts[2].elementsEqual("HTTP/1.1".utf8)
        if !isMinor1 && !parts[2].elementsEqual("HTTP/1.0".utf8) {
            throw parts[2].starts(with: "HTTP/".utf8) ? .versionNotSupported : .malformed
        }
        let method: Method =
            parts[0].elementsEqual("GET".utf8) ? .get : parts[0].elementsEqual("HEAD".utf8) ? .head : .other
        let path = parts[1].prefix { $0 != UInt8(ascii: "?") }
        var request = HTTPRequest(
            method: method, path: String(decoding: path, as: UTF8.self), bearerToken: nil, keepsAlive: isMinor1)
        try request.read(fields: lines.dropFirst(), isHostNeeded: isMinor1)
        return (request, length)
    }

    /// The head's lines without their ends.
    private static func lines(of bytes: [UInt8]) throws(Refusal) -> (lines: [ArraySlice<UInt8>], length: Int)? {
        var lines: [ArraySlice<UInt8>] = []
        var start = 0
        for index in bytes.indices.prefix(headBytesMax) where bytes[index] == 0x0A {
            let end = index > start && bytes[index - 1] == 0x0D ? index - 1 : index
            if end == start { return (lines, index + 1) }
            if lines.count > fieldsMax { throw .headTooLong }
            lines.append(bytes[start..<end])
            start = index + 1
        }
        if bytes.count >= headBytesMax { throw .headTooLong }
        return nil
    }

    private mutating func read(fields: ArraySlice<ArraySlice<UInt8>>, isHostNeeded: Bool) throws(Refusal) {
        var hosts = 0
        var authorizations = 0
        for field in fields {
            guard let colon = field.firstIndex(of: UInt8(ascii: ":")), Self.isToken(field[..<colon]) else {
                throw .malformed
            }
            let name = String(decoding: field[..<colon], as: UTF8.self).lowercased()
            let value = Self.trimmed(field[(colon + 1)...])
            if value.contains(where: { $0 < 0x20 && $0 != 0x09 || $0 == 0x7F }) { throw .malformed }
            switch name {
            case "host":
                hosts += 1
            case "content-length":
                if !value.elementsEqual("0".utf8) { throw .hasBody }
            case "transfer-encoding":
                throw .hasBody
            case "connection":
                let words = String(decoding: value, as: UTF8.self).lowercased()
                if words.contains("close") { keepsAlive = false }
            case "authorization":
                authorizations += 1
                let scheme = String(decoding: value.prefix(7), as: UTF8.self).lowercased()
                bearerToken = scheme == "bearer " ? Array(value.dropFirst(7)) : nil
            default:
                break
            }
        }
        if hosts > 1 || authorizations > 1 || isHostNeeded && hosts == 0 { throw .malformed }
    }

    private static func trimmed(_ value: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var value = value
        while let first = value.first, first == 0x20 || first == 0x09 { value.removeFirst() }
        while let last = value.last, last == 0x20 || last == 0x09 { value.removeLast() }
        return value
    }

    private static let tokenMarks: [UInt8] = Array("!#$%&'*+-.^_`|~".utf8)

    private static func isToken(_ bytes: ArraySlice<UInt8>) -> Bool {
        !bytes.isEmpty && bytes.allSatisfy { byte in
            (0x30...0x39).contains(byte) || (0x61...0x7A).contains(byte | 0x20) && byte >= 0x41
                || tokenMarks.contains(byte)
        }
    }
}

/// What is answered. Immutable.
package struct HTTPResponse: Sendable {
    package var status: Int
    package var contentType: String
    package var body: [UInt8]

    package init(_ status: Int, _ contentType: String, _ body: [UInt8]) {
        self.status = status
        self.contentType = contentType
        self.body = body
    }

    /// A sentence.
    package init(_ status: Int, _ sentence: String) {
        self.init(status, "text/plain; charset=utf-8", Array("\(sentence)\n".utf8))
    }

    init(_ refusal: HTTPRequest.Refusal) {
        switch refusal {
        case .malformed: self.init(400, "this is no HTTP request that can be read")
        case .headTooLong: self.init(431, "the request's head is too long")
        case .hasBody: self.init(413, "requests here have no body")
        case .versionNotSupported: self.init(505, "HTTP/1.1 and HTTP/1.0 are spoken here")
        }
    }

    /// - Parameter isHead: the body is left out, its length is not.
    func encoded(isHead: Bool, keepsAlive: Bool) -> [UInt8] {
        var head = "HTTP/1.1 \(status) \(reason)\r\nContent-Type: \(contentType)\r\nContent-Length: \(body.count)\r\n"
        head += "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        if status == 401 { head += "WWW-Authenticate: Bearer realm=\"godwit\"\r\n" }
        if status == 405 { head += "Allow: GET, HEAD\r\n" }
        head += keepsAlive ? "\r\n" : "Connection: close\r\n\r\n"
        return isHead ? Array(head.utf8) : Array(head.utf8) + body
    }

    private var reason: String {
        switch status {
        case 200: "OK"
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 413: "Content Too Large"
        case 431: "Request Header Fields Too Large"
        case 503: "Service Unavailable"
        case 505: "HTTP Version Not Supported"
        default: "Status"
        }
    }
}
