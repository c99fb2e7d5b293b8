import Capture
import PGWire
import SQLAnalysis

/// From what a server's log says of sessions to the records of a capture. A log has no results: the units that come of
/// it are answered by nothing that could be compared. One thread.
package struct LogTranslator {
    /// What a client sent is bytes, as it was.
    package enum Event: Equatable, Sendable {
        case connect(user: String, database: String, application: String)
        case simple([UInt8])
        /// - name: of the statement; empty: unnamed.
        case execute(name: [UInt8], text: [UInt8], parameters: [[UInt8]?])
        /// The last statement took so long.
        case duration(micros: UInt64)
        /// - text: of the statement that failed, where the log has it.
        case error(state: String, message: [UInt8], text: [UInt8])
        case cancel
        /// The server ended the session, in the midst of a statement or not.
        case terminated(state: String, message: [UInt8])
        case disconnect
    }

    private struct Session {
        var number: UInt64
        var prepared: [[UInt8]: [UInt8]] = [:]
        /// A unit has been sent and not been said to be over: its text.
        var open: [UInt8]?
        /// The text of the last one that was too long: its error is of nothing that is played.
        var tooLong: [UInt8]?
        var lastMicros: UInt64 = 0
    }

    /// A statement that was cancelled and is logged only then began at most so long before: nobody knows when.
    private static let beforeCancelMicros: UInt64 = 1_000_000

    private let database: String?
    private var sessions: [String: Session] = [:]
    private var lastNumber: UInt64 = 0
    private var origin: UInt64?
    package private(set) var statements = 0
    /// COPY FROM STDIN, whose rows no log has: played, it would wait for them.
    package private(set) var copiesLeftOut = 0
    /// Statements longer than a message of a capture may be, with what was bound.
    package private(set) var longLeftOut = 0
    /// Statements of which nothing tells when they ended: they are said to when their session goes on.
    private var guessedEnds = 0
    /// A few stand in any log: the last of a session that broke off.
    package var hasTimes: Bool { guessedEnds * 10 <= statements }

    /// - Parameter database: sessions in others are left out; nil: none are.
    package init(database: String? = nil) { self.database = database }

    /// What a line of a log says.
    package mutating func add(_ entry: LogEntry, _ emit: (CaptureRecord) -> Void) {
        guard let (event, took) = LogMessage.event(entry) else { return }
        let who = (entry.user, entry.database, entry.application)
        // A line with a duration is written at the end.
        let start = entry.micros - min(entry.micros, took ?? 0)
        add(event, session: entry.session, micros: start, who: who, emit)
        guard let took else { return }
        add(.duration(micros: took), session: entry.session, micros: entry.micros, who: who, emit)
    }

    /// - Parameter micros: any clock's; the first is the capture's beginning.
    package mutating func add(
        _ event: Event, session id: String, micros: UInt64, who: (user: String, database: String, application: String),
        _ emit: (CaptureRecord) -> Void
    ) {
        let first = origin ?? micros
        origin = first
        var at = micros >= first ? micros - first : 0
        // Its number was another one's, and no log has that one's end: its server crashed.
        if case .connect = event, let last = sessions.removeValue(forKey: id) {
            at = max(at, last.lastMicros)
            if last.open != nil {
                guessedEnds += 1
                emit(CaptureRecord(connection: last.number, micros: at, content: .ready(.idle)))
            }
            emit(CaptureRecord(connection: last.number, micros: at, content: .disconnect))
        }
        guard var session = sessions.removeValue(forKey: id) ?? begin(event, at: at, who, emit) else { return }
        let lastMicros = session.lastMicros
        at = max(at, lastMicros)
        session.lastMicros = at
        let (number, time) = (session.number, at)
        func tell(_ content: CaptureRecord.Content, at micros: UInt64? = nil) {
            emit(CaptureRecord(connection: number, micros: micros ?? time, content: content))
        }
        func end() {
            if session.open != nil { tell(.ready(.idle)) }
            session.open = nil
        }
        func endByGuess() {
            if session.open != nil { guessedEnds += 1 }
            end()
        }
        func query(_ text: [UInt8], at micros: UInt64? = nil) {
            tell(.message(tag: FrontendTag.query, answers: 0, body: text + [0]), at: micros)
            session.open = text
            statements += 1
        }
        func forgetNames(_ text: [UInt8]) {
            // They are prepared anew where they are met again, and closed before, lest they are still there.
            if LogStatement.forgetsNames(text) { session.prepared = session.prepared.mapValues { _ in [] } }
        }
        switch event {
        case .connect: break
        case .simple(let text):
            endByGuess()
            if mayBePlayed(text, bound: [], &session) { query(text) }
            forgetNames(text)
        case .execute(let name, let text, let parameters):
            endByGuess()
            if mayBePlayed(text, bound: parameters, &session) {
                execute(name, text, parameters, &session) { tell($0) }
                statements += 1
            }
            forgetNames(text)
        case .duration: end()
        case .error(let state, let message, let text):
            let isCancelled = message.starts(with: "canceling statement due to user request".utf8)
            // What is wrong before it is run is not logged as a statement: it fails its transaction all the same.
            if !text.isEmpty && session.open != text {
                endByGuess()
                let begin = isCancelled ? max(lastMicros, time - min(time, Self.beforeCancelMicros)) : time
                if session.tooLong != text && LogStatement.mayBePlayed(text) {
                    if isShort(text, bound: [], &session) { query(text, at: begin) }
                }
            }
            if session.open != nil {
                if isCancelled { tell(.cancel) }
                let words = String(decoding: message, as: UTF8.self)
                tell(.error(state: state, isFatal: false, message: words))
            }
            end()
        case .cancel: tell(.cancel)
        case .terminated(let state, let message):
            // Nobody ends the session when it is played: what was under way would go on.
            if session.open != nil {
                tell(.cancel)
                tell(.error(state: state, isFatal: false, message: String(decoding: message, as: UTF8.self)))
            }
            end()
            tell(.disconnect)
            return
        case .disconnect:
            endByGuess()
            tell(.disconnect)
            return
        }
        sessions[id] = session
    }

    /// - Returns: nil: nothing that a session of a client's begins with. Errors of the server's own processes have a
    ///   statement too.
    private mutating func begin(
        _ event: Event, at micros: UInt64, _ who: (user: String, database: String, application: String),
        _ emit: (CaptureRecord) -> Void
    ) -> Session? {
        var (user, database, application) = who
        switch event {
        case .disconnect, .terminated, .error, .duration, .cancel: return nil
        case .connect(let ownUser, let ownDatabase, let ownApplication):
            (user, database, application) = (ownUser, ownDatabase, ownApplication)
        case .simple, .execute: break
        }
        if let only = self.database, only != database { return nil }
        lastNumber += 1
        emit(CaptureRecord(connection: lastNumber, micros: micros, content: .connect(CapturedConnection(
            user: user, database: database, applicationName: application, settings: []))))
        return Session(number: lastNumber)
    }

    private func execute(
        _ name: [UInt8], _ text: [UInt8], _ parameters: [[UInt8]?], _ session: inout Session,
        _ tell: (CaptureRecord.Content) -> Void
    ) {
        if name.isEmpty || session.prepared[name] != text {
            if session.prepared[name] != nil && !name.isEmpty {
                tell(.message(tag: FrontendTag.close, answers: 0, body: [UInt8(ascii: "S")] + name + [0]))
            }
            if !name.isEmpty { session.prepared[name] = text }
            tell(.message(tag: FrontendTag.parse, answers: 0, body: name + [0] + text + [0, 0, 0]))
        }
        tell(.message(tag: FrontendTag.bind, answers: 0, body: Self.bind(name, parameters)))
        tell(.message(tag: FrontendTag.execute, answers: 0, body: [0, 0, 0, 0, 0]))
        tell(.message(tag: FrontendTag.sync, answers: 0, body: []))
        session.open = text
    }

    /// The log is over: so are its sessions.
    package mutating func finish(_ emit: (CaptureRecord) -> Void) {
        let last = sessions.values.map(\.lastMicros).max() ?? 0
        for session in sessions.values.sorted(by: { $0.number < $1.number }) {
            if session.open != nil {
                emit(CaptureRecord(connection: session.number, micros: last, content: .ready(.idle)))
            }
            emit(CaptureRecord(connection: session.number, micros: last, content: .disconnect))
        }
        sessions = [:]
    }

    // MARK: what is left out

    private mutating func mayBePlayed(_ text: [UInt8], bound: [[UInt8]?], _ session: inout Session) -> Bool {
        if LogStatement.mayBePlayed(text) { return isShort(text, bound: bound, &session) }
        if LogStatement.copiesIn(text) { copiesLeftOut += 1 }
        return false
    }

    /// A log may have more in one line than PostgreSQL's protocol in one message that is captured.
    private mutating func isShort(_ text: [UInt8], bound: [[UInt8]?], _ session: inout Session) -> Bool {
        // Names of statements, formats and counts beside it.
        let room = CaptureFormat.messageMax - 2 * CaptureFormat.textMax
        session.tooLong = nil
        if text.count <= room && bound.reduce(0, { $0 + 4 + ($1?.count ?? 0) }) <= room { return true }
        session.tooLong = text
        longLeftOut += 1
        return false
    }

    /// All values as text.
    private static func bind(_ name: [UInt8], _ parameters: [[UInt8]?]) -> [UInt8] {
        var writer = MessageWriter()
        writer.cString("")
        writer.raw(name + [0])
        writer.int16(0)
        writer.int16(Int16(truncatingIfNeeded: parameters.count))
        for parameter in parameters {
            guard let parameter else {
                writer.int32(-1)
                continue
            }
            writer.int32(Int32(parameter.count))
            writer.raw(parameter)
        }
        writer.int16(0)
        return writer.bytes
    }
}

/// What cannot be played as the log has it. Pure.
enum LogStatement {
    static func mayBePlayed(_ text: [UInt8]) -> Bool { !copiesIn(text) && !setsEncoding(text) }

    /// COPY … FROM STDIN, also as one of several statements.
    static func copiesIn(_ text: [UInt8]) -> Bool {
        var isCopy = false, isFirst = true, isFrom = false
        return hasWord(text) { word in
            if word == ";" {
                (isCopy, isFirst, isFrom) = (false, true, false)
                return false
            }
            if isFirst { isCopy = word == "copy" }
            isFirst = false
            if isCopy && isFrom && word == "stdin" { return true }
            isFrom = word == "from"
            return false
        }
    }

    /// DISCARD or DEALLOCATE, also as one of several statements: from then on names may stand for nothing.
    static func forgetsNames(_ text: [UInt8]) -> Bool {
        var isFirst = true
        return hasWord(text) { word in
            if isFirst && (word == "discard" || word == "deallocate") { return true }
            isFirst = word == ";"
            return false
        }
    }

    /// A log is in the database's encoding, whatever the client's was.
    static func setsEncoding(_ text: [UInt8]) -> Bool {
        var words: [String] = []
        return !hasWord(text) { word in
            if word == "session" || word == "local" { return false }
            words.append(word)
            // SET client_encoding, SET NAMES, and nothing else beside it.
            if words.count == 1 { return word != "set" }
            if words.count == 2 { return word != "client_encoding" && word != "names" }
            return words.dropLast().last == ";"
        } && words.count >= 2
    }

    /// - Parameter isFound: is asked with each word in small letters, and with ";", until it says so.
    private static func hasWord(_ text: [UInt8], _ isFound: (String) -> Bool) -> Bool {
        text.withUnsafeBytes { bytes in
            var lexer = SQLLexer(bytes)
            while true {
                let token = lexer.next()
                switch token.kind {
                case .end, .unterminated: return false
                case .lineComment, .blockComment: continue
                case .punctuation where bytes[token.start] == UInt8(ascii: ";"):
                    if isFound(";") { return true }
                case .identifier:
                    let word = String(decoding: bytes[token.start..<token.end], as: UTF8.self).lowercased()
                    if isFound(word) { return true }
                case .punctuation, .quotedIdentifier, .string, .unicodeString, .bitString, .nationalString, .integer,
                    .decimal, .parameter, .operation, .stray:
                    if isFound("") { return true }
                }
            }
        }
    }
}
