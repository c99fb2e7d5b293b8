import Capture
import Foundation
import PGWire
import Primitives

/// A record for people, and as one line of JSON. Pure.
package enum RecordText {
    private static let textMax = 400

    /// Seconds, connection, what happened.
    package static func line(_ record: CaptureRecord) -> String {
        let seconds = String(format: "%12.6f", Double(record.micros) / 1e6)
        return "\(seconds) \(pad(record.connection)) \(words(record.content))"
    }

    private static func pad(_ connection: UInt64) -> String {
        let text = "#\(connection)"
        return text + String(repeating: " ", count: max(0, 6 - text.count))
    }

    private static func words(_ content: CaptureRecord.Content) -> String {
        switch content {
        case .connect(let connection):
            let settings = connection.settings.map(\.name).joined(separator: ", ")
            return "connect user=\(connection.user) database=\(connection.database) "
                + "application_name=\(connection.applicationName)"
                + (settings.isEmpty ? "" : " settings: \(settings)")
                + (connection.isJoined ? " (was there before)" : "")
                + (connection.hasUnknownState ? " (with session state that is not known)" : "")
        case .disconnect: return "disconnect"
        case .prepared(let body): return "prepared before: \(message(FrontendTag.parse, body))"
        case .message(let tag, let answers, let body):
            return "> \(message(tag, body))" + (answers > 0 ? "  [after \(answers) answers]" : "")
        case .omitted(let bytes): return "> (\(bytes) bytes of COPY data were not kept)"
        case .dropped: return "(nothing more was kept of this connection)"
        case .cancel: return "cancel request"
        case .ready(let status): return "< ready, \(words(status))"
        case .answer(let answer): return "< \(words(answer))"
        case .error(let state, let isFatal, let words):
            return "< \(isFatal ? "FATAL" : "ERROR") \(state)\(words.isEmpty ? "" : ": \(words)")"
        }
    }

    private static func words(_ status: TransactionStatus) -> String {
        switch status {
        case .idle: "idle"
        case .inTransaction: "in a transaction"
        case .failed: "in a failed transaction"
        }
    }

    private static func words(_ answer: CapturedAnswer) -> String {
        let digest = answer.digest.map { " digest \(String($0.ordered, radix: 16))/\(String($0.unordered, radix: 16))" }
        let rows = answer.rows > 0 ? " \(answer.rows) rows, \(answer.bytes) bytes" : ""
        return "\(name(answer.kind)) \(answer.tag)\(rows)\(digest ?? "")"
    }

    private static func name(_ kind: CapturedAnswer.Kind) -> String {
        switch kind {
        case .complete: "complete"
        case .empty: "empty"
        case .suspended: "suspended"
        case .copyIn: "copy in"
        case .copyOut: "copy out"
        case .functionResult: "function result"
        }
    }

    // MARK: messages

    package static func message(_ tag: UInt8, _ body: [UInt8]) -> String {
        let fields = MessageFields(tag, body)
        var words = fields.name
        if let statement = fields.statement, !statement.isEmpty { words += " \"\(statement)\"" }
        if let portal = fields.portal, !portal.isEmpty { words += " portal \"\(portal)\"" }
        if let text = fields.text { words += " \(short(text))" }
        if !fields.parameters.isEmpty {
            words += " (" + fields.parameters.map { $0.map(short) ?? "NULL" }.joined(separator: ", ") + ")"
        }
        if let rows = fields.rowsMax, rows > 0 { words += " at most \(rows) rows" }
        return words
    }

    private static func short(_ text: String) -> String {
        let line = text.replacing("\n", with: "\\n").replacing("\t", with: "\\t")
        return line.count > textMax ? line.prefix(textMax) + "…" : line
    }

    // MARK: JSON

    package static func json(_ record: CaptureRecord) -> String {
        var object: [String: Any] = ["us": record.micros, "connection": record.connection]
        switch record.content {
        case .connect(let connection):
            object["kind"] = "connect"
            object["user"] = connection.user
            object["database"] = connection.database
            object["application_name"] = connection.applicationName
            object["settings"] = connection.settings.map { ["name": $0.name, "statement": $0.statement] }
            object["joined"] = connection.isJoined
            object["unknown_state"] = connection.hasUnknownState
        case .disconnect: object["kind"] = "disconnect"
        case .prepared(let body):
            object["kind"] = "prepared"
            add(MessageFields(FrontendTag.parse, body), to: &object)
        case .message(let tag, let answers, let body):
            let fields = MessageFields(tag, body)
            object["kind"] = fields.name
            object["answers"] = answers
            add(fields, to: &object)
        case .omitted(let bytes):
            object["kind"] = "omitted"
            object["bytes"] = bytes
        case .dropped: object["kind"] = "dropped"
        case .cancel: object["kind"] = "cancel"
        case .ready(let status):
            object["kind"] = "ready"
            object["status"] = String(UnicodeScalar(status.rawValue))
        case .answer(let answer):
            object["kind"] = name(answer.kind)
            object["tag"] = answer.tag
            object["rows"] = answer.rows
            object["bytes"] = answer.bytes
            if let digest = answer.digest {
                object["digest"] = [String(digest.ordered, radix: 16), String(digest.unordered, radix: 16)]
            }
        case .error(let state, let isFatal, let words):
            object["kind"] = isFatal ? "fatal" : "error"
            object["sqlstate"] = state
            object["message"] = words
        }
        let options: JSONSerialization.WritingOptions = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? JSONSerialization.data(withJSONObject: object, options: options) else { return "{}" }
        return String(decoding: data, as: UTF8.self)
    }

    private static func add(_ fields: MessageFields, to object: inout [String: Any]) {
        if let text = fields.text { object["text"] = text }
        if let statement = fields.statement { object["statement"] = statement }
        if let portal = fields.portal { object["portal"] = portal }
        if let rows = fields.rowsMax { object["rows_max"] = rows }
        if !fields.types.isEmpty { object["types"] = fields.types }
        if fields.hasParameters {
            object["parameters"] = fields.parameters.map { $0 as Any? ?? NSNull() }
            object["formats"] = fields.formats
        }
    }
}

/// A client's message taken apart, as far as it is in order. A value.
package struct MessageFields {
    package var name: String
    package var text: String?
    package var statement: String?
    package var portal: String?
    package var rowsMax: Int?
    package var types: [UInt32] = []
    package var hasParameters = false
    /// Binary ones in hexadecimal, behind `\x`.
    package var parameters: [String?] = []
    package var formats: [Int] = []

    package init(_ tag: UInt8, _ body: [UInt8]) {
        name = Self.names[tag] ?? "message \(tag)"
        body.withUnsafeBytes { bytes in
            var reader = BodyReader(bytes)
            switch tag {
            case FrontendTag.query: text = reader.cString().map { String(wire: $0) }
            case FrontendTag.parse:
                statement = reader.cString().map { String(wire: $0) }
                text = reader.cString().map { String(wire: $0) }
                let count = reader.int16() ?? 0
                for _ in 0..<max(0, count) { if let type = reader.int32() { types.append(UInt32(bitPattern: type)) } }
            case FrontendTag.bind:
                portal = reader.cString().map { String(wire: $0) }
                statement = reader.cString().map { String(wire: $0) }
                takeParameters(&reader)
            case FrontendTag.execute:
                portal = reader.cString().map { String(wire: $0) }
                rowsMax = reader.int32().map { Int($0) }
            case FrontendTag.describe, FrontendTag.close:
                let isPortal = reader.byte() == UInt8(ascii: "P")
                let found = reader.cString().map { String(wire: $0) }
                if isPortal { portal = found } else { statement = found }
            case FrontendTag.copyData: text = String(wire: bytes)
            case FrontendTag.copyFail: text = reader.cString().map { String(wire: $0) }
            default: break
            }
        }
    }

    private static let names: [UInt8: String] = [
        FrontendTag.query: "query", FrontendTag.parse: "parse", FrontendTag.bind: "bind",
        FrontendTag.describe: "describe", FrontendTag.execute: "execute", FrontendTag.close: "close",
        FrontendTag.sync: "sync", FrontendTag.flush: "flush", FrontendTag.functionCall: "function call",
        FrontendTag.copyData: "copy data", FrontendTag.copyDone: "copy done", FrontendTag.copyFail: "copy fail",
        FrontendTag.terminate: "terminate",
    ]

    private mutating func takeParameters(_ reader: inout BodyReader) {
        hasParameters = true
        let formatCount = Int(UInt16(bitPattern: reader.int16() ?? 0))
        for _ in 0..<formatCount { formats.append(Int(reader.int16() ?? 0)) }
        let count = Int(UInt16(bitPattern: reader.int16() ?? 0))
        for index in 0..<count {
            guard let length = reader.int32() else { return }
            guard length >= 0 else {
                parameters.append(nil)
                continue
            }
            guard let value = reader.bytes(Int(length)) else { return }
            let format = formats.count == 1 ? formats[0] : index < formats.count ? formats[index] : 0
            parameters.append(format == 0 ? String(wire: value) : "\\x" + value.hex)
        }
    }
}
