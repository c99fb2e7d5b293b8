/// What the message of one log entry means. Pure.
package enum LogMessage {
    /// - Returns: what happened, how long it took where that is said in the same breath; nil: nothing of a client's.
    package static func event(_ entry: LogEntry) -> (event: LogTranslator.Event, micros: UInt64?)? {
        switch entry.severity {
        case "LOG": break
        case "ERROR":
            let state = entry.state.isEmpty ? "XX000" : entry.state
            return (.error(state: state, message: entry.message, text: entry.statement), nil)
        case "FATAL", "PANIC":
            let state = entry.state.isEmpty ? "57P01" : entry.state
            return (.terminated(state: state, message: entry.message), nil)
        default: return nil
        }
        var text = entry.message[...]
        var micros: UInt64?
        if let rest = text.after("duration: "), let end = rest.firstRange(of: Array(" ms".utf8)) {
            let number = String(decoding: rest[..<end.lowerBound], as: UTF8.self)
            micros = Double(number).flatMap { LogTime.micros($0, of: 1000) }
            text = rest[end.upperBound...].drop { $0 == UInt8(ascii: " ") }
            if text.isEmpty { return (.duration(micros: micros ?? 0), nil) }
        }
        if let statement = text.after("statement: ") { return (.simple(Array(statement)), micros) }
        if let rest = text.after("execute ") { return execute(rest, entry.detail, micros) }
        if let rest = text.after("connection authorized: ") { return (connect(rest), nil) }
        if text.after("disconnection: ") != nil { return (.disconnect, nil) }
        return nil
    }

    /// `<unnamed>: SELECT …`, `S_1: …`, `S_1/portal: …`, `fetch from S_1: …`
    private static func execute(
        _ text: ArraySlice<UInt8>, _ detail: [UInt8], _ micros: UInt64?
    ) -> (event: LogTranslator.Event, micros: UInt64?)? {
        guard let colon = text.firstRange(of: Array(": ".utf8)) else { return nil }
        var name = text[..<colon.lowerBound]
        // A part of a portal's rows: the portal is played whole at its first.
        if name.after("fetch from ") != nil { return nil }
        if let slash = name.firstIndex(of: UInt8(ascii: "/")) { name = name[..<slash] }
        let statement = name.elementsEqual("<unnamed>".utf8) ? [] : Array(name)
        return (
            .execute(name: statement, text: Array(text[colon.upperBound...]), parameters: parameters(detail)), micros
        )
    }

    private static func connect(_ text: ArraySlice<UInt8>) -> LogTranslator.Event {
        func field(_ name: String) -> String {
            guard let start = text.firstRange(of: Array("\(name)=".utf8)) else { return "" }
            let rest = text[start.upperBound...]
            // An application's name may hold blanks: it ends where the next field begins.
            let end = [" database=", " application_name=", " SSL enabled", " GSS "].compactMap {
                rest.firstRange(of: Array($0.utf8))?.lowerBound
            }.min() ?? rest.endIndex
            return String(decoding: rest[..<end], as: UTF8.self)
        }
        return .connect(user: field("user"), database: field("database"), application: field("application_name"))
    }

    /// `parameters: $1 = '42', $2 = NULL, $3 = 'it''s'`; PostgreSQL 16 and later begin with a capital.
    package static func parameters(_ detail: [UInt8]) -> [[UInt8]?] {
        guard var rest = detail[...].after("parameters: ") ?? detail[...].after("Parameters: ") else { return [] }
        var values: [[UInt8]?] = []
        while rest.first == UInt8(ascii: "$"), let sign = rest.firstRange(of: Array(" = ".utf8)) {
            rest = rest[sign.upperBound...]
            if let behind = rest.after("NULL") {
                values.append(nil)
                rest = behind
            } else if let quoted = rest.after("'") {
                let (value, behind) = unquoted(quoted)
                values.append(value)
                rest = behind
            }
            guard let next = rest.after(", ") else { break }
            rest = next
        }
        return values
    }

    /// Up to the quote that is not doubled.
    private static func unquoted(_ text: ArraySlice<UInt8>) -> (value: [UInt8], rest: ArraySlice<UInt8>) {
        let quote = UInt8(ascii: "'")
        var value: [UInt8] = []
        var rest = text
        while let end = rest.firstIndex(of: quote) {
            value += rest[..<end]
            rest = rest[(end + 1)...]
            guard rest.first == quote else { return (value, rest) }
            value.append(quote)
            rest = rest.dropFirst()
        }
        return (value + rest, rest[rest.endIndex...])
    }
}

extension ArraySlice<UInt8> {
    /// What stands behind these words, when it begins with them.
    fileprivate func after(_ words: String) -> ArraySlice<UInt8>? {
        starts(with: words.utf8) ? dropFirst(words.utf8.count) : nil
    }
}
