import Capture
import PGWire

/// What one statement has given: in a capture, or on a side that it was played on. A value.
package struct StatementOutcome: Equatable, Sendable {
    package enum Kind: Equatable, Sendable { case answer(CapturedAnswer.Kind), failed }

    package struct Column: Equatable, Sendable {
        package var name: String
        /// In pg_type.
        package var type: UInt32
        package var isBinary: Bool
    }

    package var kind: Kind
    package var tag = ""
    package var rows: UInt64 = 0
    package var digest: RowDigest.Value?
    package var state = ""
    package var message = ""
    /// `content` is what COPY sent, or a function call gave, and no rows of a result.
    package var isCopy = false
    /// Of a binary COPY without its header, which the digest of a capture has.
    package var lacksHeader = false
    /// Bodies of messages, such as DataRow's, as far as they are kept.
    package var content: [[UInt8]] = []
    package var isWhole = true
    package var columns: [Column] = []

    package init(_ kind: CapturedAnswer.Kind) { self.kind = .answer(kind) }

    package init(_ answer: CapturedAnswer) {
        kind = .answer(answer.kind)
        tag = answer.tag
        rows = answer.rows
        digest = answer.digest
    }

    package init(state: String, message: String) {
        kind = .failed
        self.state = state
        self.message = message
    }

    /// Kind, words, rows and SQLSTATE, without a look at the rows.
    package func hasSameEnd(as other: StatementOutcome) -> Bool {
        kind == other.kind && state == other.state && rows == other.rows && tag == other.tag
    }

    /// In a few words.
    package var summary: String {
        switch kind {
        case .failed: "ERROR \(state)\(message.isEmpty ? "" : ": \(message)")"
        case .answer(.complete): "\(tag)\(tag.hasSuffix(" \(rows)") || rows == 0 ? "" : " (\(rows) rows)")"
        case .answer(.empty): "(empty)"
        case .answer(.suspended): "\(rows) rows, more to come"
        case .answer(.copyIn): "COPY asks for data"
        case .answer(.copyOut): "COPY sends data"
        case .answer(.functionResult): "a function's result"
        }
    }
}

/// From a server's bytes, in pieces of any size, to outcomes. One connection's value.
package struct ResultReader: ~Copyable {
    package enum Event: Equatable {
        case outcome(StatementOutcome)
        case ready(TransactionStatus)
        /// A message that answers something and ends nothing.
        case progress
        /// The server breaks the protocol.
        case violation
    }

    /// Bytes of rows kept of one statement; 0: none are, and only their digest can be compared.
    private let contentBytesMax: Int
    private var pending: [UInt8] = []
    private var rows: UInt64 = 0
    private var digest: RowDigest?
    private var content: [[UInt8]] = []
    private var isCopy = false
    private var lacksHeader = false
    private var contentBytes = 0
    private var isWhole = true
    private var columns: [StatementOutcome.Column] = []

    package init(contentBytesMax: Int = 0, withDigest: Bool = false) {
        self.contentBytesMax = contentBytesMax
        digest = withDigest ? RowDigest() : nil
    }

    package mutating func take(_ bytes: UnsafeRawBufferPointer, _ tell: (Event) -> Void) {
        if pending.isEmpty {
            let used = process(bytes, tell)
            if used < bytes.count { pending.append(contentsOf: bytes[used...]) }
            return
        }
        pending.append(contentsOf: bytes)
        let whole = pending
        pending = []
        let used = whole.withUnsafeBytes { process($0, tell) }
        // Of a message that is long and not whole nothing is copied: there may be thousands of pieces.
        if used == 0 { pending = whole } else if used < whole.count { pending = Array(whole[used...]) }
    }

    private mutating func process(_ bytes: UnsafeRawBufferPointer, _ tell: (Event) -> Void) -> Int {
        var offset = 0
        while let header = FrameHeader.parse(bytes, at: offset) {
            if header.backendError() != nil {
                tell(.violation)
                return bytes.count
            }
            if bytes.count - offset < header.frameSize { break }
            let body = UnsafeRawBufferPointer(
                rebasing: bytes[(offset + FrameHeader.size)..<(offset + header.frameSize)])
            message(header.tag, body, tell)
            offset += header.frameSize
        }
        return offset
    }

    private mutating func message(_ tag: UInt8, _ body: UnsafeRawBufferPointer, _ tell: (Event) -> Void) {
        switch tag {
        case BackendTag.dataRow: row(body)
        case BackendTag.copyData:
            isCopy = true
            let part = rows == 0 && contentBytesMax > 0 ? Self.withoutHeader(body) : body
            if part.count < body.count { lacksHeader = true }
            row(part)
        case BackendTag.rowDescription:
            columns = Self.columns(body)
            tell(.progress)
        case BackendTag.commandComplete:
            finish(.complete, String(wire: UnsafeRawBufferPointer(rebasing: body.prefix { $0 != 0 })), tell)
        case BackendTag.emptyQueryResponse: finish(.empty, "", tell)
        case BackendTag.portalSuspended: finish(.suspended, "", tell)
        case BackendTag.copyInResponse: finish(.copyIn, "", tell)
        case BackendTag.copyOutResponse: finish(.copyOut, "", tell)
        case BackendTag.functionCallResponse:
            // Compared as a row is, and counted as none: the capture has none either.
            keep(body)
            isCopy = true
            finish(.functionResult, "", tell)
        case BackendTag.errorResponse:
            let error = ErrorResponse.parse(body: body)
            forget()
            tell(.outcome(StatementOutcome(state: error.state.code, message: error.message)))
        case BackendTag.readyForQuery:
            forget()
            tell(.ready(body.first.flatMap { TransactionStatus(rawValue: $0) } ?? .idle))
        case BackendTag.parseComplete, BackendTag.bindComplete, BackendTag.closeComplete, BackendTag.noData,
            BackendTag.parameterDescription:
            tell(.progress)
        default: break
        }
    }

    private mutating func row(_ body: UnsafeRawBufferPointer) {
        rows += 1
        keep(body)
    }

    private mutating func keep(_ body: UnsafeRawBufferPointer) {
        digest?.add(row: body)
        contentBytes += body.count + 24
        if contentBytes > contentBytesMax {
            isWhole = false
        } else {
            content.append(Array(body))
        }
    }

    private mutating func finish(_ kind: CapturedAnswer.Kind, _ tag: String, _ tell: (Event) -> Void) {
        var outcome = StatementOutcome(kind)
        outcome.tag = tag
        outcome.rows = rows
        outcome.digest = digest?.value
        outcome.content = content
        outcome.isCopy = isCopy
        outcome.lacksHeader = lacksHeader
        outcome.isWhole = isWhole
        outcome.columns = columns
        forget()
        tell(.outcome(outcome))
    }

    private mutating func forget() {
        rows = 0
        digest?.reset()
        content = []
        isCopy = false
        lacksHeader = false
        contentBytes = 0
        isWhole = true
        columns = []
    }

    /// Signature, flags, and the length of an extension, none of which ever differs.
    private static let copyHeader = Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0] + [UInt8](repeating: 0, count: 8)

    /// The header of a binary COPY comes with its first row, whichever that is: another one on each side, it may be,
    /// where no order was asked for.
    private static func withoutHeader(_ body: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        body.starts(with: copyHeader) ? UnsafeRawBufferPointer(rebasing: body[copyHeader.count...]) : body
    }

    private static func columns(_ body: UnsafeRawBufferPointer) -> [StatementOutcome.Column] {
        var reader = BodyReader(body)
        guard let count = reader.int16() else { return [] }
        var columns: [StatementOutcome.Column] = []
        for _ in 0..<max(0, count) {
            guard let name = reader.cString(), reader.bytes(6) != nil, let type = reader.int32(),
                reader.bytes(6) != nil, let format = reader.int16()
            else { return columns }
            columns.append(.init(name: String(wire: name), type: UInt32(bitPattern: type), isBinary: format == 1))
        }
        return columns
    }
}
