import PGWire

/// Who a captured connection was, and what its session had set. Immutable, any thread.
package struct CapturedConnection: Equatable, Sendable {
    package struct Setting: Equatable, Sendable {
        package var name: String
        /// One SQL statement that sets it.
        package var statement: String

        package init(name: String, statement: String) {
            self.name = name
            self.statement = statement
        }
    }

    package var user: String
    package var database: String
    package var applicationName: String
    package var settings: [Setting]
    /// It was there before the capture began: `settings` are as they were then.
    package var isJoined = false
    /// Its session held what cannot be told (a temporary table, a lock): what follows may not run elsewhere.
    package var hasUnknownState = false

    package init(user: String, database: String, applicationName: String, settings: [Setting]) {
        self.user = user
        self.database = database
        self.applicationName = applicationName
        self.settings = settings
    }
}

/// What a statement has given. Immutable, any thread.
package struct CapturedAnswer: Equatable, Sendable {
    package enum Kind: UInt8, Sendable {
        case complete = 0x43  // C
        case empty = 0x49  // I
        case suspended = 0x73  // s
        case copyIn = 0x47  // G
        case copyOut = 0x48  // H
        case functionResult = 0x56  // V
    }

    package var kind: Kind
    /// Of a result, or lines of a COPY.
    package var rows: UInt64 = 0
    package var bytes: UInt64 = 0
    /// CommandComplete's words, such as `UPDATE 3`.
    package var tag = ""
    package var digest: RowDigest.Value?

    package init(_ kind: Kind) { self.kind = kind }
}

/// One thing that happened on a captured connection. Immutable, any thread.
package struct CaptureRecord: Equatable, Sendable {
    package enum Content: Equatable, Sendable {
        case connect(CapturedConnection)
        case disconnect
        case prepared(body: [UInt8])
        /// What the client sent, as the protocol has it without type and length.
        ///
        /// - answers: messages that had answered the client since the last ReadyForQuery when it sent this.
        case message(tag: UInt8, answers: UInt64, body: [UInt8])
        case omitted(bytes: UInt64)
        case dropped
        case cancel
        case ready(TransactionStatus)
        case answer(CapturedAnswer)
        case error(state: String, isFatal: Bool, message: String)
    }

    package var connection: UInt64
    /// Since the capture began.
    package var micros: UInt64
    /// The order of records of all threads: see `CaptureSession.nextNumber`.
    package var number: UInt64
    package var content: Content

    package init(connection: UInt64, micros: UInt64, number: UInt64 = 0, content: Content) {
        self.connection = connection
        self.micros = micros
        self.number = number
        self.content = content
    }
}

/// What stands in a record behind its head, as it is written. A value.
struct RecordBody {
    let kind: UInt8
    let bytes: RecordBuffer

    init(_ content: CaptureRecord.Content) {
        var bytes = RecordBuffer(capacity: 64)
        switch content {
        case .connect(let connection):
            kind = RecordKind.connect
            bytes.connect(connection)
        case .disconnect: kind = RecordKind.disconnect
        case .prepared(let content):
            kind = RecordKind.prepared
            content.withUnsafeBytes { bytes.raw($0) }
        case .message(let tag, let answers, let content):
            kind = tag
            bytes.varint(answers)
            content.withUnsafeBytes { bytes.raw($0) }
        case .omitted(let count):
            kind = RecordKind.omitted
            bytes.varint(count)
        case .dropped: kind = RecordKind.dropped
        case .cancel: kind = RecordKind.cancel
        case .ready(let status):
            kind = RecordKind.ready
            bytes.byte(status.rawValue)
        case .answer(let answer):
            kind = RecordKind.answer
            bytes.answer(answer)
        case .error(let state, let isFatal, let message):
            kind = RecordKind.error
            bytes.error(state: state, isFatal: isFatal, message: message)
        }
        self.bytes = bytes
    }
}

extension RecordBuffer {
    /// What a tap writes piece by piece, whole.
    package mutating func append(_ record: CaptureRecord) { append(RecordBody(record.content), of: record) }

    mutating func append(_ body: RecordBody, of record: CaptureRecord) {
        let stamp = RecordStamp(
            connection: record.connection, micros: record.micros, number: record.number, answers: 0)
        self.record(body.kind, stamp, count: body.bytes.count) { pen in body.bytes.withUnsafeBytes { pen.raw($0) } }
    }

    fileprivate mutating func connect(_ connection: CapturedConnection) {
        var bytesLeft = CaptureFormat.settingsBytesMax
        // A part of a statement would be another one.
        let settings = connection.settings.filter {
            max($0.name.utf8.count, $0.statement.utf8.count) <= CaptureFormat.textMax
        }.prefix(CaptureFormat.settingsMax).prefix { setting in
            bytesLeft -= setting.name.utf8.count + setting.statement.utf8.count
            return bytesLeft >= 0
        }
        let isWhole = settings.count == connection.settings.count && !connection.hasUnknownState
        byte((connection.isJoined ? 1 : 0) | (isWhole ? 0 : 2))
        text(connection.user)
        text(connection.database)
        text(connection.applicationName)
        varint(UInt64(settings.count))
        for setting in settings {
            text(setting.name)
            text(setting.statement)
        }
    }

    fileprivate mutating func answer(_ answer: CapturedAnswer) {
        byte(answer.kind.rawValue)
        varint(answer.rows)
        varint(answer.bytes)
        byte(answer.digest == nil ? 0 : 1)
        if let digest = answer.digest {
            word(digest.ordered)
            word(digest.unordered)
        }
        let tag = Array(answer.tag.utf8)
        tag.withUnsafeBytes { raw($0) }
    }

    fileprivate mutating func error(state: String, isFatal: Bool, message: String) {
        byte(isFatal ? 1 : 0)
        text(state)
        let words = Array(message.utf8.prefix(CaptureFormat.textMax))
        words.withUnsafeBytes { raw($0) }
    }
}

/// Takes the records of one frame apart. Lives no longer than the bytes.
package struct RecordReader {
    private var cursor: RecordCursor
    private var connection: UInt64 = 0
    private var micros: UInt64 = 0
    private var number: UInt64 = 0
    /// What is left of a record that holds several messages, and what had answered them.
    private var messages = RecordCursor(UnsafeRawBufferPointer(start: nil, count: 0))
    private var messagesAnswers: UInt64 = 0
    /// Comes behind the answer that was just given.
    private var ready: TransactionStatus?

    package init(_ payload: UnsafeRawBufferPointer) { cursor = RecordCursor(payload) }

    /// All records of a frame.
    package static func records(of payload: [UInt8]) throws(CaptureError) -> [CaptureRecord] {
        var records: [CaptureRecord] = []
        var failure: CaptureError?
        payload.withUnsafeBytes { bytes in
            var reader = RecordReader(bytes)
            do throws(CaptureError) {
                while let record = try reader.next() { records.append(record) }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return records
    }

    /// - Returns: nil behind the last. Kinds that this version does not know are passed over.
    /// - Throws: `.damagedRecord`
    package mutating func next() throws(CaptureError) -> CaptureRecord? {
        if let status = ready {
            ready = nil
            return record(.ready(status))
        }
        if messages.remaining > 0 { return record(try nextMessage()) }
        while cursor.remaining > 0 {
            guard let kind = cursor.byte(), let connection = cursor.varint(), let delta = cursor.varint(),
                let step = cursor.varint(), let count = cursor.varint(), count <= UInt64(CaptureFormat.payloadMax),
                let body = cursor.take(Int(count))
            else { throw .damagedRecord }
            let (sum, isTooMuch) = micros.addingReportingOverflow(delta)
            let (next, isTooFar) = number.addingReportingOverflow(step)
            if isTooMuch || isTooFar { throw .damagedRecord }
            self.connection = connection
            micros = sum
            number = next
            if let content = try content(kind, RecordCursor(body)) { return record(content) }
        }
        return nil
    }

    private func record(_ content: CaptureRecord.Content) -> CaptureRecord {
        CaptureRecord(connection: connection, micros: micros, number: number, content: content)
    }

    private mutating func nextMessage() throws(CaptureError) -> CaptureRecord.Content {
        guard let head = messages.take(FrameHeader.size), let header = FrameHeader.parse(head, at: 0),
            header.length >= 4, let body = messages.take(Int(header.length) - 4), Self.isMessage(header.tag)
        else { throw .damagedRecord }
        return .message(tag: header.tag, answers: messagesAnswers, body: Array(body))
    }

    private static func isMessage(_ kind: UInt8) -> Bool {
        switch kind {
        case FrontendTag.copyData, FrontendTag.copyDone, FrontendTag.copyFail: true
        default: FrontendTap.isOrdinary(kind)
        }
    }

    private mutating func content(
        _ kind: UInt8, _ body: RecordCursor
    ) throws(CaptureError) -> CaptureRecord.Content? {
        var body = body
        switch kind {
        case RecordKind.connect: return .connect(try Self.connect(&body))
        case RecordKind.disconnect: return .disconnect
        case RecordKind.prepared: return .prepared(body: Array(body.rest()))
        case RecordKind.dropped: return .dropped
        case RecordKind.cancel: return .cancel
        case RecordKind.omitted:
            guard let count = body.varint() else { throw .damagedRecord }
            return .omitted(bytes: count)
        case RecordKind.ready: return .ready(try Self.status(&body))
        case RecordKind.answer: return .answer(try Self.answer(&body))
        case RecordKind.lastAnswer:
            let status = try Self.status(&body)
            let answer = try Self.answer(&body)
            ready = status
            return .answer(answer)
        case RecordKind.error:
            guard let isFatal = body.byte(), let state = body.text() else { throw .damagedRecord }
            return .error(
                state: state, isFatal: isFatal & 1 != 0, message: String(decoding: body.rest(), as: UTF8.self))
        case RecordKind.messages:
            guard let answers = body.varint() else { throw .damagedRecord }
            messagesAnswers = answers
            messages = RecordCursor(body.rest())
            return messages.remaining > 0 ? try nextMessage() : nil
        case let kind where Self.isMessage(kind):
            guard let answers = body.varint() else { throw .damagedRecord }
            return .message(tag: kind, answers: answers, body: Array(body.rest()))
        default: return nil
        }
    }

    private static func status(_ body: inout RecordCursor) throws(CaptureError) -> TransactionStatus {
        guard let status = body.byte().flatMap({ TransactionStatus(rawValue: $0) }) else { throw .damagedRecord }
        return status
    }

    private static func connect(_ body: inout RecordCursor) throws(CaptureError) -> CapturedConnection {
        guard let flags = body.byte(), let user = body.text(), let database = body.text(), let name = body.text(),
            let count = body.varint(), count <= UInt64(CaptureFormat.settingsMax)
        else { throw .damagedRecord }
        var connection = CapturedConnection(user: user, database: database, applicationName: name, settings: [])
        connection.isJoined = flags & 1 != 0
        connection.hasUnknownState = flags & 2 != 0
        for _ in 0..<count {
            guard let name = body.text(), let statement = body.text() else { throw .damagedRecord }
            connection.settings.append(.init(name: name, statement: statement))
        }
        return connection
    }

    private static func answer(_ body: inout RecordCursor) throws(CaptureError) -> CapturedAnswer {
        guard let kind = body.byte().flatMap({ CapturedAnswer.Kind(rawValue: $0) }), let rows = body.varint(),
            let bytes = body.varint(), let hasDigest = body.byte()
        else { throw .damagedRecord }
        var answer = CapturedAnswer(kind)
        answer.rows = rows
        answer.bytes = bytes
        if hasDigest & 1 != 0 {
            guard let ordered = body.word(), let unordered = body.word() else { throw .damagedRecord }
            answer.digest = RowDigest.Value(ordered: ordered, unordered: unordered)
        }
        answer.tag = String(decoding: body.rest(), as: UTF8.self)
        return answer
    }
}
