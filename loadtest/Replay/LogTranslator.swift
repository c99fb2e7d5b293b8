import Capture
import Foundation
import PGWire

/// From what a server's log says of sessions to the records of a capture. A log has no results: the units that come of
/// it are answered by nothing that could be compared. One thread.
package struct LogTranslator {
    package enum Event: Equatable, Sendable {
        case connect(user: String, database: String, application: String)
        case simple(String)
        /// - name: of the statement; empty: unnamed.
        case execute(name: String, text: String, parameters: [String?])
        /// The last statement took so long.
        case duration(micros: UInt64)
        case error(state: String, message: String)
        case cancel
        case disconnect
    }

    private struct Session {
        var number: UInt64
        var prepared: [String: String] = [:]
        /// A unit has been sent and not been said to be over.
        var isOpen = false
        var lastMicros: UInt64 = 0
    }

    private var sessions: [String: Session] = [:]
    private var lastNumber: UInt64 = 0
    private var origin: UInt64?
    package private(set) var statements = 0

    package init() {}

    /// - Parameter micros: any clock's; the first is the capture's beginning.
    package mutating func add(
        _ event: Event, session id: String, micros: UInt64, who: (user: String, database: String, application: String),
        _ emit: (CaptureRecord) -> Void
    ) {
        let first = origin ?? micros
        origin = first
        var at = micros >= first ? micros - first : 0
        var session: Session
        if let known = sessions.removeValue(forKey: id) {
            session = known
        } else {
            if case .disconnect = event { return }
            lastNumber += 1
            session = Session(number: lastNumber)
            var (user, database, application) = who
            if case .connect(let ownUser, let ownDatabase, let ownApplication) = event {
                (user, database, application) = (ownUser, ownDatabase, ownApplication)
            }
            emit(CaptureRecord(connection: session.number, micros: at, content: .connect(CapturedConnection(
                user: user, database: database, applicationName: application, settings: []))))
        }
        at = max(at, session.lastMicros)
        session.lastMicros = at
        func tell(_ content: CaptureRecord.Content) {
            emit(CaptureRecord(connection: session.number, micros: at, content: content))
        }
        func end() {
            if session.isOpen { tell(.ready(.idle)) }
            session.isOpen = false
        }
        switch event {
        case .connect: break
        case .simple(let text):
            end()
            tell(.message(tag: FrontendTag.query, answers: 0, body: Array(text.utf8) + [0]))
            session.isOpen = true
            statements += 1
        case .execute(let name, let text, let parameters):
            end()
            if name.isEmpty || session.prepared[name] != text {
                if session.prepared[name] != nil && !name.isEmpty {
                    let body = [UInt8(ascii: "S")] + Array(name.utf8) + [0]
                    tell(.message(tag: FrontendTag.close, answers: 0, body: body))
                }
                if !name.isEmpty { session.prepared[name] = text }
                tell(.message(
                    tag: FrontendTag.parse, answers: 0, body: Array(name.utf8) + [0] + Array(text.utf8) + [0, 0, 0]))
            }
            tell(.message(tag: FrontendTag.bind, answers: 0, body: Self.bind(name, parameters)))
            tell(.message(tag: FrontendTag.execute, answers: 0, body: [0, 0, 0, 0, 0]))
            tell(.message(tag: FrontendTag.sync, answers: 0, body: []))
            session.isOpen = true
            statements += 1
        case .duration: end()
        case .error(let state, let message):
            if session.isOpen { tell(.error(state: state, isFatal: false, message: message)) }
            end()
        case .cancel: tell(.cancel)
        case .disconnect:
            end()
            tell(.disconnect)
            return
        }
        sessions[id] = session
    }

    /// The log is over: so are its sessions.
    package mutating func finish(_ emit: (CaptureRecord) -> Void) {
        let last = sessions.values.map(\.lastMicros).max() ?? 0
        for session in sessions.values.sorted(by: { $0.number < $1.number }) {
            if session.isOpen {
                emit(CaptureRecord(connection: session.number, micros: last, content: .ready(.idle)))
            }
            emit(CaptureRecord(connection: session.number, micros: last, content: .disconnect))
        }
        sessions = [:]
    }

    /// All values as text.
    private static func bind(_ name: String, _ parameters: [String?]) -> [UInt8] {
        var writer = MessageWriter()
        writer.cString("")
        writer.cString(name)
        writer.int16(0)
        writer.int16(Int16(truncatingIfNeeded: parameters.count))
        for parameter in parameters {
            guard let parameter else {
                writer.int32(-1)
                continue
            }
            let bytes = Array(parameter.utf8)
            writer.int32(Int32(bytes.count))
            writer.raw(bytes)
        }
        writer.int16(0)
        return writer.bytes
    }
}

/// What the message of one log entry means. Pure.
package enum LogMessage {
    /// - Parameter detail: DETAIL of the same entry, where bound values stand.
    /// - Returns: what happened, how long it took where that is said in the same breath; nil: nothing of a client's.
    package static func event(
        _ message: String, detail: String, severity: String, state: String
    ) -> (event: LogTranslator.Event, micros: UInt64?)? {
        switch severity {
        case "LOG": break
        case "ERROR": return (.error(state: state.isEmpty ? "XX000" : state, message: message), nil)
        case "FATAL", "PANIC": return (.disconnect, nil)
        default: return nil
        }
        var text = Substring(message)
        var micros: UInt64?
        if text.hasPrefix("duration: "), let end = text.range(of: " ms") {
            let number = text[text.index(text.startIndex, offsetBy: 10)..<end.lowerBound]
            micros = Double(number).map { UInt64(max(0, $0 * 1000)) }
            text = text[end.upperBound...].drop { $0 == " " }
            if text.isEmpty { return (.duration(micros: micros ?? 0), nil) }
        }
        if text.hasPrefix("statement: ") { return (.simple(String(text.dropFirst(11))), micros) }
        if text.hasPrefix("execute ") { return execute(text.dropFirst(8), detail, micros) }
        if text.hasPrefix("connection authorized: ") { return (connect(text.dropFirst(23)), nil) }
        if text.hasPrefix("disconnection: ") { return (.disconnect, nil) }
        return nil
    }

    /// `<unnamed>: SELECT …`, `S_1: …`, `S_1/portal: …`, `fetch from S_1: …`
    private static func execute(
        _ text: Substring, _ detail: String, _ micros: UInt64?
    ) -> (event: LogTranslator.Event, micros: UInt64?)? {
        guard let colon = text.range(of: ": ") else { return nil }
        var name = text[..<colon.lowerBound]
        // A part of a portal's rows: the portal is played whole at its first.
        if name.hasPrefix("fetch from ") { return nil }
        if let slash = name.firstIndex(of: "/") { name = name[..<slash] }
        let statement = name == "<unnamed>" ? "" : String(name)
        return (
            .execute(name: statement, text: String(text[colon.upperBound...]), parameters: parameters(detail)), micros
        )
    }

    private static func connect(_ text: Substring) -> LogTranslator.Event {
        func field(_ name: String) -> String {
            guard let start = text.range(of: "\(name)=") else { return "" }
            let rest = text[start.upperBound...]
            // An application's name may hold blanks: it ends where the next field begins.
            let end = [" database=", " application_name=", " SSL enabled", " GSS "].compactMap {
                rest.range(of: $0)?.lowerBound
            }.min() ?? rest.endIndex
            return String(rest[..<end])
        }
        return .connect(user: field("user"), database: field("database"), application: field("application_name"))
    }

    /// `parameters: $1 = '42', $2 = NULL, $3 = 'it''s'`; PostgreSQL 16 and later begin with a capital.
    package static func parameters(_ detail: String) -> [String?] {
        guard let start = detail.range(of: "arameters: ") else { return [] }
        var rest = detail[start.upperBound...]
        var values: [String?] = []
        while rest.hasPrefix("$"), let sign = rest.range(of: " = ") {
            rest = rest[sign.upperBound...]
            if rest.hasPrefix("NULL") {
                values.append(nil)
                rest = rest.dropFirst(4)
            } else if rest.hasPrefix("'") {
                rest = rest.dropFirst()
                var value = ""
                while let scalar = rest.unicodeScalars.popFirst() {
                    if scalar == "'" {
                        guard rest.unicodeScalars.first == "'" else { break }
                        rest = Substring(rest.unicodeScalars.dropFirst())
                    }
                    value.unicodeScalars.append(scalar)
                }
                values.append(value)
            }
            guard rest.hasPrefix(", ") else { break }
            rest = rest.dropFirst(2)
        }
        return values
    }
}
