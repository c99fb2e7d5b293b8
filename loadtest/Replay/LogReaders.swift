/// One entry of a server's log, whatever its form. A value.
///
/// What a client sent is bytes: it need not be UTF-8, and as characters a quote and a mark behind it would be one.
package struct LogEntry: Equatable, Sendable {
    package var micros: UInt64
    package var user = ""
    package var database = ""
    package var application = ""
    package var session = ""
    package var severity = ""
    package var state = ""
    package var message: [UInt8] = []
    package var detail: [UInt8] = []
    /// What was being done when it was written, of an error.
    package var statement: [UInt8] = []
}

/// Why a server's log, or a file of pgreplay's, cannot be read.
package enum LogError: Error, Equatable, CustomStringConvertible {
    case prefix(String)
    case truncated(offset: Int)
    /// At this byte stands something that the format does not have.
    case corrupt(offset: Int, String)
    case file(String)
    case nothing

    package var description: String {
        switch self {
        case .prefix(let what): "--prefix: \(what)"
        case .truncated(let offset): "the file ends in the midst of the item that begins at byte \(offset)"
        case .corrupt(let offset, let what): "no file of pgreplay's, or damaged: \(what) at byte \(offset)"
        case .file(let what): what
        case .nothing:
            "no statement was found: is --format what the file is, --prefix what log_line_prefix is, and "
                + "log_statement all?"
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
        guard date.count == 3, (1970...9999).contains(date[0]), (1...12).contains(date[1]), (1...31).contains(date[2]),
            clock.count == 3, let hour = Int(clock[0]), hour < 24, let minute = Int(clock[1]), minute < 60,
            let second = Double(clock[2]), let micros = micros(second, of: 1e6)
        else { return nil }
        // Days from civil (Hinnant).
        let year = date[1] <= 2 ? date[0] - 1 : date[0]
        let era = year / 400, ofEra = year - era * 400
        let ofYear = (153 * (date[1] + (date[1] > 2 ? -3 : 9)) + 2) / 5 + date[2] - 1
        let days = era * 146_097 + ofEra * 365 + ofEra / 4 - ofEra / 100 + ofYear - 719_468
        return UInt64(days * 86_400 + hour * 3600 + minute * 60) * 1_000_000 + micros
    }

    /// - Parameter unit: microseconds of it.
    /// - Returns: nil: no time of this or the next thousands of years.
    static func micros(_ amount: Double, of unit: Double) -> UInt64? {
        let micros = (amount * unit).rounded()
        // No comparison with NaN is true.
        return micros >= 0 && micros < 1e18 ? UInt64(micros) : nil
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
            if let entry = entry(fields) { take(entry) }
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

    private static func entry(_ fields: [[UInt8]]) -> LogEntry? {
        func text(_ index: Int) -> String { String(decoding: fields[index], as: UTF8.self) }
        guard fields.count >= 22, let micros = LogTime.micros(text(0)) else { return nil }
        return LogEntry(
            micros: micros, user: text(1), database: text(2), application: fields.count > 22 ? text(22) : "",
            session: text(5), severity: text(11), state: text(12), message: fields[13], detail: fields[14],
            statement: fields[19])
    }
}

/// The log on standard error: lines that begin with log_line_prefix, and further lines that begin with a tab. Pure.
package struct StderrLog {
    private enum Piece: Equatable {
        case text([UInt8])
        case escape(Character)
    }

    /// Which of an entry's texts a further line belongs to.
    private enum Part { case message, detail, statement, other }

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
            if !text.isEmpty { pieces.append(.text(Array(text.utf8))) }
            text = ""
            if escape == "q" {
                optionalFrom = pieces.count
                continue
            }
            pieces.append(.escape(escape))
            hasTime = hasTime || "mtn".contains(escape)
            hasSession = hasSession || "pc".contains(escape)
        }
        if !text.isEmpty { pieces.append(.text(Array(text.utf8))) }
        if !hasTime || !hasSession { throw .prefix("it must have a time (%m, %n or %t) and a session (%p or %c)") }
    }

    package func entries(_ bytes: [UInt8], _ take: (LogEntry) -> Void) {
        var present: LogEntry?
        var part = Part.other
        for line in bytes.split(separator: 0x0A) {
            if line.first == UInt8(ascii: "\t") {
                let more = [0x0A] + line.dropFirst()
                switch part {
                case .message: present?.message += more
                case .detail: present?.detail += more
                case .statement: present?.statement += more
                case .other: break
                }
                continue
            }
            guard var entry = match(line) else {
                // As of a process without a client, behind %q: lines of its own may follow, such as autovacuum's.
                part = .other
                continue
            }
            switch entry.severity {
            case "DETAIL":
                present?.detail = entry.message
                part = .detail
            case "STATEMENT":
                present?.statement = entry.message
                part = .statement
            case "HINT", "CONTEXT", "QUERY", "LOCATION": part = .other
            default:
                if let entry = present { take(entry) }
                if entry.severity == "ERROR", entry.state.isEmpty { entry.state = "XX000" }
                present = entry
                part = .message
            }
        }
        if let entry = present { take(entry) }
    }

    private func match(_ line: ArraySlice<UInt8>) -> LogEntry? {
        var entry = LogEntry(micros: 0)
        var rest = line
        for (index, piece) in pieces.enumerated() {
            switch piece {
            case .text(let text):
                guard rest.starts(with: text) else {
                    if let optionalFrom, index >= optionalFrom { break }
                    return nil
                }
                rest = rest.dropFirst(text.count)
            case .escape(let escape):
                var value: ArraySlice<UInt8>
                if index + 1 < pieces.count, case .text(let next) = pieces[index + 1] {
                    // A time holds blanks itself.
                    let skipped = "mts".contains(escape) ? 19 : 0
                    guard let end = rest.dropFirst(skipped).firstRange(of: next) else { return nil }
                    value = rest[..<end.lowerBound]
                    if escape == "m" || escape == "t", next.first == UInt8(ascii: " "),
                        let zone = rest[end.upperBound...].firstRange(of: next)
                    {
                        // "… 12:00:00.123 UTC [": the blank before the zone is none of the prefix's.
                        let word = rest[end.upperBound..<zone.lowerBound]
                        if !word.isEmpty, word.allSatisfy({ Self.mayBeInZone($0) }) { value = rest[..<zone.lowerBound] }
                    }
                } else {
                    value = rest.prefix { $0 != UInt8(ascii: " ") && $0 != UInt8(ascii: ":") }
                }
                rest = rest[value.endIndex...]
                note(escape, String(decoding: value, as: UTF8.self), &entry)
            }
        }
        guard let colon = rest.firstRange(of: Array(":  ".utf8)) else { return nil }
        // An application's name may hold blanks: behind `%a ` the rest of it stands before the severity.
        let word = rest[..<colon.lowerBound].split(separator: UInt8(ascii: " ")).last ?? []
        entry.severity = String(decoding: word, as: UTF8.self)
        entry.message = Array(rest[colon.upperBound...])
        return entry.micros > 0 && !entry.session.isEmpty ? entry : nil
    }

    private static func mayBeInZone(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"),
            UInt8(ascii: "-"):
            true
        default: false
        }
    }

    private func note(_ escape: Character, _ value: String, _ entry: inout LogEntry) {
        switch escape {
        case "m", "t": entry.micros = LogTime.micros(value) ?? 0
        case "n": entry.micros = Double(value).flatMap { LogTime.micros($0, of: 1e6) } ?? 0
        case "p": if entry.session.isEmpty { entry.session = value }
        case "c": entry.session = value
        case "u": entry.user = value == "[unknown]" ? "" : value
        case "d": entry.database = value == "[unknown]" ? "" : value
        case "a": entry.application = value == "[unknown]" ? "" : value
        case "e": entry.state = value
        default: break
        }
    }
}

/// The file that `pgreplay -f` makes: items of time, session, type and texts, in network byte order. Pure.
package enum PgreplayFile {
    package typealias Take = (
        _ event: LogTranslator.Event, _ session: String, _ micros: UInt64, _ who: (String, String, String)
    ) -> Void

    /// Where a text would stand there is none.
    private static let null: UInt64 = 0x8000_0000

    package static func events(_ bytes: [UInt8], _ take: Take) throws(LogError) {
        var offset = 0
        // Where the item begins that is being read.
        var start = 0
        var users: [UInt64: (String, String, String)] = [:]
        var texts: [UInt64: [[UInt8]: [UInt8]]] = [:]
        func number(_ count: Int) throws(LogError) -> UInt64 {
            guard offset + count <= bytes.count else { throw .truncated(offset: start) }
            let value = bytes[offset..<(offset + count)].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            offset += count
            return value
        }
        func text() throws(LogError) -> [UInt8]? {
            let place = offset
            let length = try number(4)
            if length == null { return nil }
            if length > null { throw .corrupt(offset: place, "a text of \(length) bytes") }
            guard length <= UInt64(bytes.count - offset) else { throw .truncated(offset: start) }
            offset += Int(length)
            return Array(bytes[(offset - Int(length))..<offset])
        }
        func name() throws(LogError) -> String { String(decoding: try text() ?? [], as: UTF8.self) }
        while offset < bytes.count {
            start = offset
            let micros = try number(4) * 1_000_000 + number(4)
            let session = try number(8)
            let type = try number(1)
            var event: LogTranslator.Event?
            switch type {
            case 0:
                let user = try name(), database = try name()
                users[session] = (user, database, "")
                event = .connect(user: user, database: database, application: "")
            case 1:
                event = .disconnect
                texts[session] = nil
            case 2: event = .simple(try text() ?? [])
            case 3:
                let statement = try text() ?? []
                texts[session, default: [:]][try text() ?? []] = statement
            case 4:
                let name = try text() ?? []
                guard let statement = texts[session]?[name] else {
                    let words = name.isEmpty ? "an unnamed statement" : "\"\(String(decoding: name, as: UTF8.self))\""
                    throw .corrupt(offset: start, "\(words) that was not prepared")
                }
                var values: [[UInt8]?] = []
                for _ in 0..<(try number(2)) { values.append(try text()) }
                event = .execute(name: name, text: statement, parameters: values)
            case 5: event = .cancel
            default: throw .corrupt(offset: offset - 1, "an item of type \(type)")
            }
            if try number(1) != 0x0A { throw .corrupt(offset: offset - 1, "no line feed at the end of an item") }
            if let event { take(event, "\(session)", micros, users[session] ?? ("", "", "")) }
        }
    }
}
