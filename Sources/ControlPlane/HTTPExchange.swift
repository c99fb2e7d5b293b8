import NIOCore
import NIOEmbedded
import NIOHTTP1

/// One request and the answer to it, as bytes in and out: NIO's HTTP without NIO's sockets. One owner, one thread.
package struct HTTPExchange: ~Copyable {
    package enum Failure: Error, Sendable, Equatable {
        /// A field cannot be sent as it is.
        case badRequest
        case notHTTP
        /// The connection ended before the answer did.
        case cutOff
    }

    private let channel = EmbeddedChannel()
    /// 0: the head has not come yet.
    package private(set) var status = 0
    /// Where the same is to be asked; empty: nowhere.
    package private(set) var location = ""
    package private(set) var isDone = false
    private var hasBegun = false

    package init() throws {
        try channel.pipeline.syncOperations.addHTTPClientHandlers()
        // Without an address it is not connected, and takes nothing.
        try channel.connect(to: SocketAddress(unixDomainSocketPath: "/")).wait()
    }

    deinit { _ = try? channel.finish(acceptAlreadyClosed: true) }

    /// - Returns: what to send.
    package func request(
        _ method: String, _ path: String, _ fields: [(String, String)], _ body: String
    ) throws(Failure) -> [UInt8] {
        let head = HTTPRequestHead(
            version: .http1_1, method: HTTPMethod(rawValue: method), uri: path, headers: HTTPHeaders(fields))
        var sent: [UInt8] = []
        do {
            try channel.writeOutbound(HTTPClientRequestPart.head(head))
            let content = ByteBuffer(string: body)
            try channel.writeOutbound(HTTPClientRequestPart.body(.byteBuffer(content)))
            try channel.writeOutbound(HTTPClientRequestPart.end(nil))
            while let part = try channel.readOutbound(as: ByteBuffer.self) { sent += part.readableBytesView }
        } catch {
            throw .badRequest
        }
        return sent
    }

    /// - Returns: what of it belongs to the body.
    package mutating func take(_ bytes: [UInt8]) throws(Failure) -> [UInt8] {
        hasBegun = true
        do { try channel.writeInbound(ByteBuffer(bytes: bytes)) } catch { throw .notHTTP }
        return try takeParts()
    }

    /// The peer has ended the connection.
    package mutating func end() throws(Failure) {
        do {
            _ = try channel.finish(acceptAlreadyClosed: true)
        } catch {
            throw hasBegun && status == 0 ? .notHTTP : .cutOff
        }
        _ = try takeParts()
        if !isDone { throw .cutOff }
    }

    private mutating func takeParts() throws(Failure) -> [UInt8] {
        var body: [UInt8] = []
        while let part = try? channel.readInbound(as: HTTPClientResponsePart.self) {
            switch part {
            case .head(let head):
                status = Int(head.status.code)
                location = head.headers.first(name: "Location") ?? ""
            case .body(let bytes): body += bytes.readableBytesView
            case .end: isDone = true
            }
        }
        return body
    }
}
