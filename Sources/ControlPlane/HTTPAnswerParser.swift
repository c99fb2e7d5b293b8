/// Reads the answer to one request (RFC 9112), in whatever pieces it comes. A value, one owner.
package struct HTTPAnswerParser: Sendable {
    package enum Failure: Error, Sendable, Equatable {
        case notHTTP
        case headTooLong
        case badChunk
        /// The connection ended before the answer did.
        case cutOff
    }

    package static let headBytesMax = 64 * 1024
    /// Bytes of the line that begins a chunk.
    private static let chunkLineMax = 1024

    private enum State: Equatable {
        case head
        /// Bytes that are left.
        case counted(Int)
        case chunkLine
        case chunk(Int)
        case chunkEnd
        case trailers
        case untilEnd
        case done
    }

    private var state: State = .head
    /// What came and is not whole yet.
    private var rest: [UInt8] = []
    /// 0: the head has not come yet.
    package private(set) var status = 0

    package init() {}

    package var isDone: Bool { state == .done }

    /// - Returns: what of it belongs to the body.
    package mutating func take(_ bytes: [UInt8]) throws(Failure) -> [UInt8] {
        rest += bytes
        var body: [UInt8] = []
        while try step(&body) {}
        return body
    }

    /// The peer has ended the connection.
    package mutating func end() throws(Failure) {
        switch state {
        case .done: return
        case .untilEnd: state = .done
        case .head where status == 0 && rest.isEmpty: throw .cutOff
        case .head: throw .notHTTP
        case .counted, .chunkLine, .chunk, .chunkEnd, .trailers: throw .cutOff
        }
    }

    /// - Returns: there may be more to do.
    private mutating func step(_ body: inout [UInt8]) throws(Failure) -> Bool {
        switch state {
        case .done:
            return false
        case .head:
            guard let lines = try takeHead() else { return false }
            state = try Self.state(lines, status: &status)
            return true
        case .untilEnd:
            body += rest
            rest = []
            return false
        case .counted(let left):
            let count = takeBody(left, &body)
            state = count == left ? .done : .counted(left - count)
            return state == .done
        case .chunkLine:
            guard let line = try takeLine(bytesMax: Self.chunkLineMax) else { return false }
            let digits = line.prefix { $0 != ";" }.trimmingWhitespace
            guard let size = Int(digits, radix: 16), size >= 0, !digits.hasPrefix("+") else { throw .badChunk }
            state = size == 0 ? .trailers : .chunk(size)
            return true
        case .chunk(let left):
            let count = takeBody(left, &body)
            state = count == left ? .chunkEnd : .chunk(left - count)
            return count == left
        case .chunkEnd:
            guard let line = try takeLine(bytesMax: 2) else { return false }
            if !line.isEmpty { throw .badChunk }
            state = .chunkLine
            return true
        case .trailers:
            guard let line = try takeLine(bytesMax: Self.headBytesMax) else { return false }
            if line.isEmpty { state = .done }
            return true
        }
    }

    private mutating func takeBody(_ most: Int, _ body: inout [UInt8]) -> Int {
        let count = min(most, rest.count)
        body += rest[..<count]
        rest.removeFirst(count)
        return count
    }

    /// Without its end; nil: it is not whole yet.
    private mutating func takeLine(bytesMax: Int) throws(Failure) -> String? {
        guard let end = rest.firstIndex(of: UInt8(ascii: "\n")) else {
            if rest.count > bytesMax { throw .badChunk }
            return nil
        }
        var line = rest[..<end]
        if line.last == UInt8(ascii: "\r") { line.removeLast() }
        defer { rest.removeFirst(end + 1) }
        return String(decoding: line, as: UTF8.self)
    }

    /// The lines of a head; nil: it is not whole yet.
    private mutating func takeHead() throws(Failure) -> [Substring]? {
        let prefix = Array("HTTP/1.".utf8)
        if !zip(rest, prefix).allSatisfy({ $0 == $1 }) { throw .notHTTP }
        let mark = Array("\r\n\r\n".utf8)
        guard let end = rest.firstRange(of: mark) else {
            if rest.count > Self.headBytesMax { throw .headTooLong }
            return nil
        }
        let head = String(decoding: rest[..<end.lowerBound], as: UTF8.self)
        rest.removeFirst(end.upperBound)
        return head.split(separator: "\r\n", omittingEmptySubsequences: false)
    }

    /// What follows a head.
    private static func state(_ lines: [Substring], status: inout Int) throws(Failure) -> State {
        let words = lines[0].split(separator: " ", maxSplits: 2)
        guard words.count >= 2, words[1].utf8.count == 3, let code = Int(words[1]), code >= 100 else { throw .notHTTP }
        // Another head follows one that only says that something is under way.
        if code < 200 { return .head }
        status = code
        if code == 204 || code == 304 { return .done }
        var length: Int?
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2 else { throw .notHTTP }
            let value = parts[1].trimmingWhitespace
            switch parts[0].lowercased() {
            case "transfer-encoding":
                if value.lowercased() != "chunked" { throw .notHTTP }
                return .chunkLine
            case "content-length":
                guard let count = Int(value), count >= 0 else { throw .notHTTP }
                length = count
            default: break
            }
        }
        guard let length else { return .untilEnd }
        return length == 0 ? .done : .counted(length)
    }
}

extension StringProtocol {
    fileprivate var trimmingWhitespace: String {
        func isBlank(_ character: Character) -> Bool { character == " " || character == "\t" }
        return String(drop(while: isBlank).reversed().drop(while: isBlank).reversed())
    }
}
