/// CAPTURE: what an operator wants written down of a database's traffic. Immutable, any thread.
package enum CaptureCommand: Equatable, Sendable {
    package struct Start: Equatable, Sendable {
        package var file: String
        /// Of the connections, in hundredths of a percent.
        package var sampleHundredths = 10_000
        /// nil: until STOP.
        package var seconds: Double?
        /// Bytes of the file; nil: `capture.file_max`.
        package var bytesMax: Int?
        package var withDigest = false
        package var isRedacted = false

        package init(file: String) { self.file = file }
    }

    case start(Start)
    case stop

    package static let usage = """
        CAPTURE <database> TO '<file>' [SAMPLE <percent>] [FOR <time, as in 90, 10m, 2h>] \
        [MAX <size, as in 500MB>] [DIGEST] [REDACT], or CAPTURE <database> STOP
        """

    /// - Parameter words: behind the verb.
    static func parse(_ words: ArraySlice<ConsoleWords.Word>) throws(ConsoleParser.Failure) -> ConsoleCommand {
        var rest = words
        guard let database = rest.popFirst(), let verb = rest.popFirst(), !verb.isQuoted else { throw .usage(usage) }
        if verb.lowercased == "stop" && rest.isEmpty { return .capture(database: database.text, .stop) }
        guard verb.lowercased == "to", let file = rest.popFirst() else { throw .usage(usage) }
        var start = Start(file: file.text)
        var said: Set<String> = []
        while let word = rest.popFirst() {
            guard !word.isQuoted, said.insert(word.lowercased).inserted else { throw .usage(usage) }
            switch word.lowercased {
            case "sample":
                guard let share = rest.popFirst(), let hundredths = ConsoleParser.percent(share.text), hundredths > 0
                else { throw .usage(usage) }
                start.sampleHundredths = hundredths
            case "for":
                guard let time = rest.popFirst(), let seconds = seconds(time.text) else { throw .usage(usage) }
                start.seconds = seconds
            case "max":
                guard let size = rest.popFirst(), let bytes = bytes(size.text) else { throw .usage(usage) }
                start.bytesMax = bytes
            case "digest": start.withDigest = true
            case "redact": start.isRedacted = true
            default: throw .usage(usage)
            }
        }
        return .capture(database: database.text, .start(start))
    }

    /// `90`, `90s`, `10m`, `2h`
    private static func seconds(_ text: String) -> Double? {
        guard let (number, unit) = split(text), let factor = ["": 1, "s": 1, "m": 60, "min": 60, "h": 3600][unit]
        else { return nil }
        let seconds = Double(number) * Double(factor)
        return seconds > 0 && seconds <= 7 * ConsoleParser.secondsMax ? seconds : nil
    }

    /// `4096`, `100kB`, `500MB`, `2GB`
    private static func bytes(_ text: String) -> Int? {
        let factors = ["": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40]
        guard let (number, unit) = split(text), let factor = factors[unit] else { return nil }
        let (bytes, isTooMuch) = number.multipliedReportingOverflow(by: factor)
        return isTooMuch || bytes < 4096 ? nil : bytes
    }

    private static func split(_ text: String) -> (Int, String)? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard (1...12).contains(digits.count), let number = Int(digits) else { return nil }
        return (number, text.dropFirst(digits.count).lowercased())
    }
}
