import Configuration
import Glibc
import Lifecycle
import Logging
import Primitives
import Testing

/// What is written into one end of a pipe.
private final class Lines {
    private var ends: [CInt] = [-1, -1]
    var output: CInt { ends[1] }

    init() { precondition(pipe(&ends) == 0) }

    deinit { for end in ends where end >= 0 { close(end) } }

    /// Takes one line away.
    func waitForLine() {
        var byte: UInt8 = 0
        while Glibc.read(ends[0], &byte, 1) == 1, byte != 10 {}
    }

    func hasMore(withinMillis millis: CInt) -> Bool {
        var ready = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
        return poll(&ready, 1, millis) == 1
    }

    /// Everything so far; nobody writes after it.
    func read() -> [String] {
        var all: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        // Not up to its end: a process that another test has started may hold the other end as well.
        while hasMore(withinMillis: 0) {
            let count = Glibc.read(ends[0], &buffer, buffer.count)
            if count <= 0 { break }
            all += buffer[..<count]
        }
        return String(decoding: all, as: UTF8.self).split(separator: "\n").map(String.init)
    }
}

@Suite struct LogLineTests {
    private let time: Int64 = 1_700_000_000_123_456

    @Test func `a line of text has the time, the level, the message, and what belongs to it`() {
        let line = LogLine(
            level: .notice, message: "mirror\nstarts", metadata: ["database": "shop", "event": .string("not here")])
        #expect(line.text(atMicros: time) == "2023-11-14T22:13:20.123Z notice: mirror starts database=shop")
    }

    @Test func `nothing in a message begins a line or moves a terminal's cursor`() {
        let user = "x\"\r\n2026-11-21T09:42:01.123Z notice: cutover done\u{1B}[2K\u{9B}A\u{7F}\u{85}"
        let text = LogLine(level: .warning, message: user, metadata: ["user": "a\r\nb"]).text(atMicros: time)
        #expect(!text.unicodeScalars.contains { $0.value < 0x20 || (0x7F...0x9F).contains($0.value) })
        #expect(text.contains("x\"  2026-11-21") && text.hasSuffix(" user=a  b"))
    }

    @Test func `a line of JSON is one object, with nothing lost`() {
        let line = LogLine(
            level: .warning, message: "a \"b\"\n\u{1}\\",
            metadata: ["number": .stringConvertible(7), "event": ["kind": "trip", "list": ["x", .stringConvertible(0.5)]]])
        #expect(
            line.json(atMicros: time)
                == #"{"time":"2023-11-14T22:13:20.123Z","level":"warning","message":"a \"b\"\u000a\u0001\\","#
                + #""event":{"kind":"trip","list":["x",0.5]},"number":7}"#)
    }

    @Test(arguments: [
        ("duplicate key (23505); Key (id, name)=(7, O'Neil (jr)) already exists.",
            "duplicate key (23505); Key (id, name)=(...) already exists."),
        ("Failing row contains (1, secret, (x)).", "Failing row contains (...)."),
        (#"invalid input syntax for type integer: "4711 x""#, #"invalid input syntax for type integer: "...""#),
        (#"value "99999999999" is out of range for type integer"#, #"value "..." is out of range for type integer"#),
        ("cannot connect to OLD at db:5432: refused", "cannot connect to OLD at db:5432: refused"),
        ("", ""),
        ("Key (a)=(unended", "Key (a)=(..."),
    ])
    func `values that a server quotes are left out`(message: String, expected: String) {
        #expect(ServerWords.withoutValues(message) == expected)
    }
}

@Suite struct LogRateLimitTests {
    private let start = MonotonicInstant(nanoseconds: 1_000_000_000)
    private let cause = LogRateLimit.Cause(file: "a", line: 1)

    @Test func `of one cause so many a second are written, and then how many there were`() {
        var limit = LogRateLimit()
        for index in 0..<10 {
            let taken = limit.take(cause, .warning, "m\(index)", limit: 3, now: start.advanced(byMillis: UInt64(index)))
            #expect(taken.isWritten == (index < 3))
            #expect(taken.ended.isEmpty)
        }
        #expect(!limit.isQuiet)
        #expect(limit.expire(now: start.advanced(byMillis: 999)).isEmpty)
        #expect(
            limit.expire(now: start.advanced(byMillis: 1000)) == [.init(level: .warning, count: 7, example: "m9")])
        #expect(limit.isQuiet)
        #expect(limit.take(cause, .warning, "again", limit: 3, now: start.advanced(byMillis: 1001)).isWritten)
    }

    @Test func `another cause is not kept back, and ends the first one's second`() {
        var limit = LogRateLimit()
        for _ in 0..<3 { _ = limit.take(cause, .error, "x", limit: 1, now: start) }
        let other = limit.take(.init(file: "a", line: 2), .info, "y", limit: 1, now: start.advanced(bySeconds: 2))
        #expect(other.isWritten)
        #expect(other.ended == [.init(level: .error, count: 2, example: "x")])
    }
}

@Suite struct LogSwitchTests {
    private func settings(_ change: (inout LogSettings) -> Void) -> LogSettings {
        var settings = LogSettings()
        change(&settings)
        return settings
    }

    @Test func `level, format, rate and literals are those of the settings, from the next message on`() {
        let lines = Lines()
        let output = LogSwitch(descriptor: lines.output)
        let logger = Logger(label: "test") { _ in LineLogHandler(output) }
        output.set(settings { $0.level = .warning })
        logger.notice("too quiet")
        logger.warning("Key (a)=(1)")
        output.set(settings { $0.format = .json; $0.literals = true })
        logger.warning("Key (a)=(2)", metadata: ["database": "shop"])
        output.set(settings { $0.rate = 2 })
        for index in 0..<100 { logger.error("storm \(index)") }
        output.set(settings { $0.rate = 0 })
        for index in 0..<5 { logger.info("free \(index)") }
        let written = lines.read()
        #expect(written.first?.hasSuffix(" warning: Key (a)=(...)") == true, "\(written)")
        #expect(written.dropFirst().first?.hasPrefix("{\"time\":") == true)
        #expect(written.dropFirst().first?.contains(#""message":"Key (a)=(2)","database":"shop"}"#) == true)
        // Two of the hundred, unless a second ended between them.
        let storm = written.count { $0.contains("storm") }
        #expect(storm >= 2 && storm < 20, "\(written)")
        #expect(written.count { $0.contains("free") } == 5)
    }

    @Test func `what was left out is told when the storm is over, without another message`() {
        let lines = Lines()
        let output = LogSwitch(descriptor: lines.output)
        output.set(settings { $0.rate = 1 })
        let logger = Logger(label: "test") { _ in LineLogHandler(output) }
        for index in 0..<50 { logger.error("storm \(index)") }
        // The one that was written, and then the word about the others.
        lines.waitForLine()
        while !lines.hasMore(withinMillis: 50) { output.flush() }
        let written = lines.read()
        #expect(written.contains { $0.contains("suppressed") && $0.contains("storm") }, "\(written)")
    }

    @Test func `a log that nobody reads stops nobody, and tells later how much it lacks`() {
        let lines = Lines()
        let output = LogSwitch(descriptor: lines.output)
        let logger = Logger(label: "test") { _ in LineLogHandler(output, isLimited: false) }
        // Ten times what a pipe holds; some lines are longer than what goes into it at once.
        for index in 0..<200 { logger.notice("\(index) \(String(repeating: "x", count: index % 2 == 0 ? 6000 : 60))") }
        let early = lines.read()
        #expect(early.count < 200 && early.first?.contains("notice: 0 x") == true)
        logger.notice("somebody reads again")
        let late = lines.read()
        #expect(late.contains { $0.contains("messages were left out") })
        #expect(late.last?.hasSuffix("notice: somebody reads again") == true)
    }

    @Test func `a logger of decisions is never cut short`() {
        let lines = Lines()
        let output = LogSwitch(descriptor: lines.output)
        output.set(settings { $0.rate = 1 })
        let logger = Logger(label: "test") { _ in LineLogHandler(output, isLimited: false) }
        for index in 0..<50 { logger.notice("event \(index)") }
        #expect(lines.read().count == 50)
    }
}
