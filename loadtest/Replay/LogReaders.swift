import Foundation

/// One entry of a server's log, whatever its form. A value.
package struct LogEntry: Equatable, Sendable {
    package var micros: UInt64
    package var user = ""
    package var database = ""
    package var application = ""
    package var session = ""
    package var severity = ""
    package var state = ""
    package var message = ""
    package var detail = ""
}

package enum LogError: Error, CustomStringConvertible {
    case prefix(String)
    case truncated(offset: Int)
    case nothing

    package var description: String {
        switch self {
        case .prefix(let what): "--prefix: \(what)"
        case .truncated(let offset): "the file ends in mid-item, at byte \(offset)"
        case .nothing: "no entry of the log could be read: is --prefix what log_line_prefix is?"
        }
    }
}

/// `2024-01-31 12:00:00.123 UTC` and its kin, to microseconds since 1970. Zones by name count as UTC: only differences
/// matter. Pure.
enum LogTime {
    static func micros(_ text: some StringProtocol) -> UInt64? {
        let parts = text.split(whereSeparator: { $0 == " " || $0 == "T" })
        guard parts.count >= 2 else { return nil }
        let date = parts[0].split(separator: "-").compactMap { Int($0) }
        let clock = parts[1].prefix { $0.isNumber || $0 == ":" || $0 == "." }.split(separator: ":")
        guard date.count == 3, clock.count == 3, let hour = Int(clock[0]), let minute = Int(clock[1]),
            let second = Double(clock[2])
        else { return nil }
        // Days from civil (Hinnant).
        let year = date[1] <= 2 ? date[0] - 1 : date[0]
        let era = year / 400, ofEra = year - era * 400
        let ofYear = (153 * (date[1] + (date[1] > 2 ? -3 : 9)) + 2) / 5 + date[2] - 1
        let days = era * 146_097 + ofEra * 365 + ofEra / 4 - ofEra / 100 + ofYear - 719_468
        let seconds = days * 86_400 + hour * 3600 + minute * 60
        guard seconds >= 0 else { return nil }
        return UInt64(seconds) * 1_000_000 + UInt64((second * 1e6).rounded())
    }
}

/// PostgreSQL's csvlog. Pure.
package enum CSVLog {
    package static func entries(_ bytes: [UInt8], _ take: (LogEntry) -> Void) {
        var fields: [[UInt8]] = []
        var field: [UInt8] = []
        var isQuoted = false
        var index = 0
        func endField() {
            fields.append(field)
            field = []
        }
        func endRow() {
            endField()
            if let entry = entry(fields.map { String(decoding: $0, as: UTF8.self) }) { take(entry) }
            fields = []
        }
        while index < bytes.count {
            let byte = bytes[index]
            if isQuoted {
                if byte == UInt8(ascii: "\"") {
                    if index + 1 < bytes.count && bytes[index + 1] == byte {
                        field.append(byte)
                        index += 1
                    } else {
                        isQuoted = false
                    }
                } else {
                    field.append(byte)
                }
            } else if byte == UInt8(ascii: "\"") {
                isQuoted = true
            } else if byte == UInt8(ascii: ",") {
                endField()
            } else if byte == 0x0A {
                endRow()
            } else {
                field.append(byte)
            }
            index += 1
        }
        if !isQuoted && !(fields.isEmpty && field.isEmpty) { endRow() }
    }

    private static func entry(_ fields: [String]) -> LogEntry? {
        guard fields.count >= 22, let micros = LogTime.micros(fields[0]) else { return nil }
        return LogEntry(
            micros: micros, user: fields[1], database: fields[2], application: fields.count > 22 ? fields[22] : "",
            session: fields[5], severity: fields[11], state: fields[12], message: fields[13], detail: fields[14])
    }
}

/// The log on standard error: lines that begin with log_line_prefix, and further lines that begin with a tab. Pure.
package struct StderrLog {
    private enum Piece: Equatable {
        case text(String)
        case escape(Character)
    }

    private var pieces: [Piece] = []
    private var optionalFrom: Int?

    /// - Parameter prefix: log_line_prefix.
    package init(prefix: String) throws(LogError) {
        var rest = Substring(prefix)
        var text = ""
        var hasTime = false, hasSession = false
        while let character = rest.popFirst() {
            guard character == "%" else {
                text.append(character)
                continue
            }
            while let digit = rest.first, digit.isNumber || digit == "-" { rest.removeFirst() }
            guard let escape = rest.popFirst() else { throw .prefix("a % with nothing behind it") }
            if escape == "%" {
                text.append("%")
                continue
            }
            if !text.isEmpty { pieces.append(.text(text)) }
            text = ""
            if escape == "q" {
                optionalFrom = pieces.count
                continue
            }
            pieces.append(.escape(escape))
            hasTime = hasTime || "mtn".contains(escape)
            hasSession = hasSession || "pc".contains(escape)
        }
        if !text.isEmpty { pieces.append(.text(text)) }
        if !hasTime || !hasSession { throw .prefix("it must have a time (%m, %n or %t) and a session (%p or %c)") }
    }

    package func entries(_ text: String, _ take: (LogEntry) -> Void) {
        var present: LogEntry?
        func finish() {
            if let entry = present { take(entry) }
            present = nil
        }
        for line in text.split(separator: "\n", omittingEmptySubsequences: true) {
            if line.hasPrefix("\t") {
                if present?.detail.isEmpty == false {
                    present?.detail += "\n" + line.dropFirst()
                } else {
                    present?.message += "\n" + line.dropFirst()
                }
                continue
            }
            guard var entry = match(line) else { continue }
            if ["DETAIL", "HINT", "CONTEXT", "STATEMENT", "QUERY", "LOCATION"].contains(entry.severity) {
                if entry.severity == "DETAIL" { present?.detail = entry.message }
                continue
            }
            finish()
            if entry.severity == "ERROR" { entry.state = "XX000" }
            present = entry
        }
        finish()
    }

    private func match(_ line: Substring) -> LogEntry? {
        var entry = LogEntry(micros: 0)
        var rest = line
        for (index, piece) in pieces.enumerated() {
            switch piece {
            case .text(let text):
                guard rest.hasPrefix(text) else {
                    if let optionalFrom, index >= optionalFrom { break }
                    return nil
                }
                rest = rest.dropFirst(text.count)
            case .escape(let escape):
                var value: Substring
                if index + 1 < pieces.count, case .text(let next) = pieces[index + 1] {
                    // A time holds blanks itself.
                    let skipped = "mts".contains(escape) ? rest.prefix(19).count : 0
                    guard let end = rest.dropFirst(skipped).range(of: next) else { return nil }
                    value = rest[..<end.lowerBound]
                    if escape == "m" || escape == "t", next.hasPrefix(" "),
                        let zone = rest[end.upperBound...].range(of: next)
                    {
                        // "… 12:00:00.123 UTC [": the blank before the zone is none of the prefix's.
                        let word = rest[end.upperBound...][..<zone.lowerBound]
                        if !word.isEmpty, word.allSatisfy({ $0.isUppercase || $0 == "+" || $0 == "-" || $0.isNumber }) {
                            value = rest[..<zone.lowerBound]
                        }
                    }
                } else {
                    value = rest.prefix { $0 != " " && $0 != ":" }
                }
                rest = rest[value.endIndex...]
                note(escape, value, &entry)
            }
        }
        guard let colon = rest.range(of: ":  ") else { return nil }
        entry.severity = String(rest[..<colon.lowerBound].drop { $0 == " " })
        entry.message = String(rest[colon.upperBound...])
        return entry.micros > 0 && !entry.session.isEmpty ? entry : nil
    }

    private func note(_ escape: Character, _ value: Substring, _ entry: inout LogEntry) {
        switch escape {
        case "m", "t": entry.micros = LogTime.micros(value) ?? 0
        case "n": entry.micros = Double(value).map { UInt64($0 * 1e6) } ?? 0
        case "p": if entry.session.isEmpty { entry.session = String(value) }
        case "c": entry.session = String(value)
        case "u": entry.user = value == "[unknown]" ? "" : String(value)
        case "d": entry.database = value == "[unknown]" ? "" : String(value)
        case "a": entry.application = value == "[unknown]" ? "" : String(value)
        case "e": entry.state = String(value)
        default: break
        }
    }
}

/// The file that `pgreplay -f` makes: items of time, session, type and texts, in network byte order. Pure.
package enum PgreplayFile {
    package static func events(
        _ bytes: [UInt8],
        _ take: (
            _ event: LogTranslator.Event, _ session: String, _ micros: UInt64, _ who: (String, String, String)
        ) -> Void
    ) throws(LogError) {
        var offset = 0
        var users: [UInt64: (String, String, String)] = [:]
        var texts: [UInt64: [String: String]] = [:]
        func number(_ count: Int) throws(LogError) -> UInt64 {
            guard offset + count <= bytes.count else { throw .truncated(offset: offset) }
            let value = bytes[offset..<(offset + count)].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            offset += count
            return value
        }
        func text() throws(LogError) -> String? {
            let length = try number(4)
            if length == 0x8000_0000 { return nil }
            guard length <= UInt64(bytes.count - offset) else { throw .truncated(offset: offset) }
            offset += Int(length)
            return String(decoding: bytes[(offset - Int(length))..<offset], as: UTF8.self)
        }
        while offset < bytes.count {
            let start = offset
            let micros = try number(4) * 1_000_000 + number(4)
            let session = try number(8)
            let type = try number(1)
            var event: LogTranslator.Event?
            switch type {
            case 0:
                let user = try text() ?? "", database = try text() ?? ""
                users[session] = (user, database, "")
                event = .connect(user: user, database: database, application: "")
            case 1: event = .disconnect
            case 2: event = .simple(try text() ?? "")
            case 3:
                let statement = try text() ?? ""
                texts[session, default: [:]][try text() ?? ""] = statement
            case 4:
                let name = try text() ?? ""
                var values: [String?] = []
                for _ in 0..<(try number(2)) { values.append(try text()) }
                event = .execute(name: name, text: texts[session]?[name] ?? "", parameters: values)
            case 5: event = .cancel
            default: throw .truncated(offset: start)
            }
            guard try number(1) == 0x0A else { throw .truncated(offset: start) }
            if let event { take(event, "\(session)", micros, users[session] ?? ("", "", "")) }
        }
    }
}
