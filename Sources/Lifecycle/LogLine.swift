import Logging
import Primitives

/// One message, before it is written. Immutable.
package struct LogLine {
    /// Metadata of this name is for programs: it stands in JSON only.
    package static let structuredKey = "event"

    let level: Logger.Level
    private(set) var message: String
    private var metadata: Logger.Metadata

    package init(level: Logger.Level, message: String, metadata: Logger.Metadata) {
        self.level = level
        self.message = message
        self.metadata = metadata
    }

    package mutating func leaveOutValues() {
        message = ServerWords.withoutValues(message)
        metadata = metadata.mapValues { value in
            if case .string(let text) = value { .string(ServerWords.withoutValues(text)) } else { value }
        }
    }

    /// `2026-11-21T09:42:01.123Z notice: listening on 127.0.0.1:6432`
    ///
    /// One line whatever a client has called itself: there is a blank for each control character.
    ///
    /// - Parameter micros: since 1970.
    package func text(atMicros micros: Int64) -> String {
        var line = "\(EventRecord.time(micros: micros)) \(level): \(message)"
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) where key != Self.structuredKey {
            line += " \(key)=\(value)"
        }
        // By scalars: "\r\n" is one character, and no "\n".
        let scalars = line.unicodeScalars.map { $0.properties.generalCategory == .control ? " " : $0 }
        return String(String.UnicodeScalarView(scalars))
    }

    /// One object (RFC 8259): `time`, `level`, `message`, and the metadata under their names.
    ///
    /// - Parameter micros: since 1970.
    package func json(atMicros micros: Int64) -> String {
        let time = EventRecord.time(micros: micros)
        var object = "{\"time\":\"\(time)\",\"level\":\"\(level)\",\"message\":\(JSONText.quoted(message))"
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) {
            object += ",\(JSONText.quoted(key)):\(Self.json(value))"
        }
        return object + "}"
    }

    private static func json(_ value: Logger.Metadata.Value) -> String {
        switch value {
        case .string(let text): JSONText.quoted(text)
        case .stringConvertible(let number as any BinaryInteger): "\(number)"
        case .stringConvertible(let number as Double): number.isFinite ? "\(number)" : "null"
        case .stringConvertible(let other): JSONText.quoted("\(other)")
        case .array(let all): "[" + all.map { json($0) }.joined(separator: ",") + "]"
        case .dictionary(let all):
            "{" + all.sorted { $0.key < $1.key }.map { "\(JSONText.quoted($0.key)):\(json($0.value))" }
                .joined(separator: ",") + "}"
        }
    }
}

/// What PostgreSQL says in errors, without the values of rows and parameters that it quotes there. No state.
package enum ServerWords {
    /// Behind each of these stands a value: in brackets, or in quotes.
    private static let beforeBrackets = [")=", "row contains "]
    private static let beforeQuotes = [
        "input syntax for type ", "input value for ", "value out of range: ", "value too long: ", "malformed ",
    ]
    private static let valueBefore = [" is out of range", "\" of type "]

    package static func withoutValues(_ message: String) -> String {
        var text = message
        for mark in beforeBrackets where text.contains(mark + "(") { text = cutBrackets(text, after: mark) }
        for mark in beforeQuotes where text.contains(mark) { text = cutQuotes(text, after: mark) }
        if valueBefore.contains(where: { text.contains($0) }), let start = text.firstRange(of: "value \"") {
            text = cutQuotes(text, after: String(text[start].dropLast()))
        }
        return text
    }

    /// `Key (id)=(7) already exists` to `Key (id)=(...) already exists`. A value may hold brackets: it is cut up to the
    /// last one that could end it.
    private static func cutBrackets(_ text: String, after mark: String) -> String {
        var result = ""
        var rest = text[...]
        while let start = rest.firstRange(of: mark + "(") {
            result += rest[..<start.upperBound] + "..."
            rest = rest[start.upperBound...]
            let end = rest.lastIndex(of: ")") ?? rest.endIndex
            rest = rest[end...]
        }
        return result + rest
    }

    /// `invalid input syntax for type integer: "x"` to `... integer: "..."`
    private static func cutQuotes(_ text: String, after mark: String) -> String {
        guard let start = text.firstRange(of: mark), let first = text[start.upperBound...].firstIndex(of: "\""),
            let last = text.lastIndex(of: "\"")
        else { return text }
        let end = first == last ? text.endIndex : last
        return text[...first] + "..." + text[end...]
    }
}
