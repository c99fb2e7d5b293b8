import Capture
import PGWire
import Testing

@testable import Replay

@Suite struct LogImportTests {
    @Test func `bound values come out of DETAIL as they were`() {
        let detail = "parameters: $1 = '42', $2 = NULL, $3 = 'it''s, $4 = ''x''', $4 = ''"
        #expect(texts(detail) == ["42", nil, "it's, $4 = 'x'", ""])
        #expect(texts("Parameters: $1 = 'a\nb'") == ["a\nb"])
        #expect(texts("Key (id)=(1) already exists.").isEmpty)
        // As characters, the quote and the mark behind it are one.
        #expect(texts("parameters: $1 = '\u{301}a', $2 = '\u{FE0F}''\u{200D}'") == ["\u{301}a", "\u{FE0F}'\u{200D}"])
        let latin: [UInt8] = Array("parameters: $1 = 'Z".utf8) + [0xFC] + Array("rich'".utf8)
        #expect(LogMessage.parameters(latin) == [[UInt8(ascii: "Z"), 0xFC] + Array("rich".utf8)])
    }

    private func texts(_ detail: String) -> [String?] {
        LogMessage.parameters(bytes(detail)).map { $0.map { String(decoding: $0, as: UTF8.self) } }
    }

    private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

    @Test(arguments: [
        ("statement: SELECT 1", LogTranslator.Event.simple(Array("SELECT 1".utf8))),
        ("duration: 1.500 ms  statement: SELECT 1", .simple(Array("SELECT 1".utf8))),
        ("duration: 0.250 ms", .duration(micros: 250)),
        ("execute <unnamed>: SELECT $1: x", .execute(name: [], text: Array("SELECT $1: x".utf8), parameters: [])),
        ("execute S_1/C_2: SELECT 2", .execute(name: Array("S_1".utf8), text: Array("SELECT 2".utf8), parameters: [])),
        ("connection authorized: user=app database=shop application_name=my app SSL enabled (protocol=TLSv1.3)",
            .connect(user: "app", database: "shop", application: "my app")),
        ("disconnection: session time: 0:00:01.2 user=app", .disconnect),
    ])
    func `a message of the log is an event`(message: String, event: LogTranslator.Event) {
        let entry = LogEntry(micros: 1, severity: "LOG", message: bytes(message))
        #expect(LogMessage.event(entry)?.event == event)
    }

    @Test func `csvlog has quotes and lines within fields`() {
        let line = """
            2024-01-31 12:00:00.500 UTC,"app","shop",7,"127.0.0.1:5",65ba.7,1,"SELECT",2024-01-31 12:00:00 UTC,3/4,0,LOG,00000,\
            "statement: SELECT ""a"",
            1",,,,,,,,,"psql","client backend",,0

            """
        var entries: [LogEntry] = []
        CSVLog.entries(Array(line.utf8)) { entries.append($0) }
        #expect(entries.count == 1)
        #expect(entries.first?.message == bytes("statement: SELECT \"a\",\n1") && entries.first?.application == "psql")
        #expect(entries.first?.micros == 1_706_702_400_500_000 && entries.first?.session == "65ba.7")
    }

    @Test func `a log on standard error has further lines and DETAIL`() throws {
        let text = """
            2024-01-31 12:00:00.500 UTC [7] app@shop LOG:  statement: SELECT 1
            \t, 2\r
            \t, 3
            2024-01-31 12:00:01.000 UTC [7] app@shop LOG:  execute <unnamed>: SELECT $1
            2024-01-31 12:00:01.000 UTC [7] app@shop DETAIL:  parameters: $1 = 'x'
            no line of ours
            2024-01-31 12:00:02.000 UTC [7] app@shop ERROR:  division by zero
            2024-01-31 12:00:02.000 UTC [7] app@shop STATEMENT:  SELECT
            \t 1/0
            """
        var entries: [LogEntry] = []
        try StderrLog(prefix: "%m [%p] %u@%d ").entries(bytes(text)) { entries.append($0) }
        #expect(entries.map { String(decoding: $0.message, as: UTF8.self) } == [
            "statement: SELECT 1\n, 2\r\n, 3", "execute <unnamed>: SELECT $1", "division by zero",
        ])
        #expect(entries[2].statement == bytes("SELECT\n 1/0"))
        #expect(entries[1].detail == bytes("parameters: $1 = 'x'") && entries[1].user == "app" && entries[1].database == "shop")
        #expect(entries[0].session == "7" && entries[2].severity == "ERROR")
        #expect(throws: LogError.self) { try StderrLog(prefix: "%u ") }
    }

    @Test func `an application's name may hold blanks`() throws {
        let text = """
            2024-01-31 12:00:00.500 UTC [7] app@shop PostgreSQL JDBC Driver LOG:  execute S_1: SELECT $1
            2024-01-31 12:00:00.500 UTC [7] app@shop PostgreSQL JDBC Driver DETAIL:  parameters: $1 = 'x'
            2024-01-31 12:00:01.000 UTC [8] app@shop psql LOG:  statement: SELECT 1
            """
        var entries: [LogEntry] = []
        try StderrLog(prefix: "%m [%p] %q%u@%d %a ").entries(bytes(text)) { entries.append($0) }
        #expect(entries.map(\.severity) == ["LOG", "LOG"])
        #expect(entries[0].detail == bytes("parameters: $1 = 'x'") && entries[0].user == "app")
        #expect(entries[1].application == "psql" && entries[1].message == bytes("statement: SELECT 1"))
    }

    @Test func `further lines of an entry that is nobody's belong to no statement`() throws {
        let text = """
            2024-01-31 12:00:00.500 UTC [7] app@shop LOG:  statement: UPDATE t
            \t SET a = 1
            2024-01-31 12:00:00.700 UTC [9] LOG:  automatic vacuum of table "shop.public.t": index scans: 0
            \tpages: 0 removed, 1 remain
            2024-01-31 12:00:01.000 UTC [7] app@shop LOG:  statement: SELECT 1
            """
        var entries: [LogEntry] = []
        try StderrLog(prefix: "%m [%p] %q%u@%d ").entries(bytes(text)) { entries.append($0) }
        #expect(entries.map { String(decoding: $0.message, as: UTF8.self) } == [
            "statement: UPDATE t\n SET a = 1", "statement: SELECT 1",
        ])
    }

    // MARK: pgreplay

    private func item(_ session: Int32, _ type: UInt8, _ body: (inout MessageWriter) -> Void = { _ in }) -> [UInt8] {
        var writer = MessageWriter()
        for number in [1000, 500, 0, session] as [Int32] { writer.int32(number) }
        writer.byte(type)
        body(&writer)
        writer.byte(0x0A)
        return writer.bytes
    }

    private func text(_ value: String?, _ writer: inout MessageWriter) {
        guard let value else { return writer.int32(Int32(bitPattern: 0x8000_0000)) }
        writer.int32(Int32(value.utf8.count))
        writer.raw(value.utf8)
    }

    @Test func `pgreplay's file is read, and one that is cut short is refused with the place`() throws {
        let items = [
            item(1, 0) { text("app", &$0); text("shop", &$0) },
            item(1, 2) { text("SELECT 1", &$0) },
            item(1, 3) { text("SELECT $1", &$0); text("s", &$0) },
            item(1, 4) { text("s", &$0); $0.int16(2); text("v\n\u{301}", &$0); text(nil, &$0) },
            item(1, 5),
            item(1, 1),
        ]
        let file = items.flatMap { $0 }
        var events: [LogTranslator.Event] = []
        try PgreplayFile.events(file) { event, _, micros, _ in
            #expect(micros == 1_000_000_500)
            events.append(event)
        }
        #expect(events == [
            .connect(user: "app", database: "shop", application: ""), .simple(bytes("SELECT 1")),
            .execute(name: bytes("s"), text: bytes("SELECT $1"), parameters: [bytes("v\n\u{301}"), nil]), .cancel,
            .disconnect,
        ])
        var begins = 0
        for item in items {
            for end in (begins + 1)..<(begins + item.count) {
                #expect(throws: LogError.truncated(offset: begins)) {
                    try PgreplayFile.events(Array(file[..<end])) { _, _, _, _ in }
                }
            }
            begins += item.count
        }
    }

    @Test func `what cannot be in pgreplay's file is refused with the place`() {
        let connect = item(1, 0) { text("app", &$0); text("shop", &$0) }
        func refusal(_ more: [UInt8]) -> LogError? {
            do throws(LogError) {
                try PgreplayFile.events(connect + more) { _, _, _, _ in }
                return nil
            } catch { return error }
        }
        let start = connect.count
        #expect(refusal(item(1, 6)) == .corrupt(offset: start + 16, "an item of type 6"))
        #expect(refusal(item(1, 4) { text("s", &$0); $0.int16(0) })
            == .corrupt(offset: start, "\"s\" that was not prepared"))
        #expect(refusal(item(1, 2) { $0.int32(-1) }) == .corrupt(offset: start + 17, "a text of 4294967295 bytes"))
        var noEnd = item(1, 5)
        noEnd[noEnd.count - 1] = 0
        #expect(refusal(noEnd) == .corrupt(offset: start + 17, "no line feed at the end of an item"))
        // A statement is its session's own.
        let prepared = item(1, 3) { text("SELECT 1", &$0); text("s", &$0) }
        #expect(refusal(prepared + item(2, 4) { text("s", &$0); $0.int16(0) })
            == .corrupt(offset: start + prepared.count, "\"s\" that was not prepared"))
    }

    // MARK: sessions

    @Test func `a translated session is connect, messages, ready, disconnect`() {
        var translator = LogTranslator()
        var records: [CaptureRecord] = []
        let who = ("app", "shop", "")
        translator.add(.simple(bytes("SELECT 1")), session: "a", micros: 100, who: who) { records.append($0) }
        translator.add(.duration(micros: 5), session: "a", micros: 105, who: who) { records.append($0) }
        translator.add(
            .execute(name: bytes("s"), text: bytes("SELECT $1"), parameters: [bytes("1")]), session: "a", micros: 110, who: who
        ) { records.append($0) }
        translator.add(
            .execute(name: bytes("s"), text: bytes("SELECT $1"), parameters: [bytes("2")]), session: "a", micros: 120, who: who
        ) { records.append($0) }
        translator.finish { records.append($0) }
        #expect(kinds(records) == "+QzPBESzBESz-")
    }

    private func kinds(_ records: [CaptureRecord]) -> String {
        records.map { record in
            switch record.content {
            case .connect: "+"
            case .disconnect: "-"
            case .message(let tag, _, _): String(UnicodeScalar(tag))
            case .ready: "z"
            case .error: "e"
            case .cancel: "x"
            default: "?"
            }
        }.joined()
    }

    @Test(arguments: [
        // Said to be run before it failed, and not: wrong before it is run.
        ([.simple("SELECT 1/0"), .error("SELECT 1/0")], "+Qez-"),
        ([.simple("BEGIN"), .error("SELEC"), .simple("COMMIT")], "+QzQezQz-"),
        ([.simple("SELECT 1"), .error("")], "+Qez-"),
        ([.simple("SELECT 1"), .error("SELECT 1", "canceling statement due to user request")], "+Qxez-"),
        ([.simple("SELECT 1"), .error("SELECT 1", "canceling statement due to statement timeout")], "+Qez-"),
        ([.simple("SELECT 1"), .terminated], "+Qxez-"), ([.terminated], ""),
        // The server's own processes have errors and statements, too.
        ([.error("SELECT 1")], ""),
        // No log has the rows, and a log is in the database's encoding.
        ([.simple("COPY t (a, b) FROM STDIN"), .simple("copy t to stdout")], "+Qz-"),
        ([.simple("/* x */ SELECT 1; Copy t From stdin"), .error("COPY t FROM STDIN")], "+-"),
        ([.simple("SET client_encoding TO 'latin1';"), .simple("set names 'latin1'")], "+-"),
        ([.simple("SET client_encoding TO 'latin1'; SELECT 1"), .simple("SET search_path = names")], "+QzQz-"),
        ([.simple("SELECT 'copy x from stdin'"), .simple("SELECT copy FROM stdin")], "+QzQz-"),
    ] as [([LoggedEvent], String)])
    func `a session has what failed, and not what no log has`(events: [LoggedEvent], expected: String) {
        var translator = LogTranslator()
        var records: [CaptureRecord] = []
        for (index, event) in events.enumerated() {
            translator.add(event.event, session: "a", micros: UInt64(index), who: ("app", "shop", "")) {
                records.append($0)
            }
        }
        translator.finish { records.append($0) }
        #expect(kinds(records) == expected)
    }

    @Test func `a session that nobody has ended ends where another one has its number`() {
        var translator = LogTranslator()
        var records: [CaptureRecord] = []
        let events: [LogTranslator.Event] = [
            .connect(user: "one", database: "d", application: ""), .simple(bytes("BEGIN")), .duration(micros: 1),
            .simple(bytes("UPDATE t SET a = 1")), .connect(user: "other", database: "d", application: ""),
            .simple(bytes("COMMIT")), .disconnect,
        ]
        for (index, event) in events.enumerated() {
            translator.add(event, session: "7", micros: UInt64(index), who: ("", "", "")) { records.append($0) }
        }
        translator.finish { records.append($0) }
        #expect(kinds(records) == "+QzQz-+Qz-")
        let users = records.compactMap { if case .connect(let one) = $0.content { one.user } else { nil } }
        #expect(users == ["one", "other"] && records.map(\.connection) == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2])
    }

    @Test func `what a session has prepared is prepared again when it was forgotten`() {
        var translator = LogTranslator()
        var records: [CaptureRecord] = []
        let execute = LogTranslator.Event.execute(name: bytes("s"), text: bytes("SELECT 1"), parameters: [])
        let events: [LogTranslator.Event] = [
            execute, execute, .simple(bytes("/* x */ Discard ALL")), execute, execute,
            .simple(bytes("SELECT 1; DEALLOCATE s")), execute, .simple(bytes("SELECT discard FROM t")), execute,
        ]
        for (index, event) in events.enumerated() {
            translator.add(event, session: "a", micros: UInt64(index), who: ("app", "shop", "")) { records.append($0) }
        }
        translator.finish { records.append($0) }
        #expect(kinds(records) == "+PBESzBESzQzCPBESzBESzQzCPBESzQzBESz-")
    }

    @Test func `what a capture cannot hold is left out and counted once, and so is its error`() {
        let long = [UInt8](repeating: UInt8(ascii: "1"), count: 17 << 20)
        let insert = bytes("INSERT INTO t VALUES ($1)")
        let failed = { (text: [UInt8]) in
            LogTranslator.Event.error(state: "XX000", message: self.bytes("wrong"), text: text)
        }
        var translator = LogTranslator()
        var records: [CaptureRecord] = []
        let events: [LogTranslator.Event] = [
            .simple(bytes("BEGIN")), .simple(long), failed(long), failed(long + [0x31]),
            .execute(name: [], text: insert, parameters: [long]), failed(insert), .simple(bytes("COMMIT")),
        ]
        for (index, event) in events.enumerated() {
            translator.add(event, session: "a", micros: UInt64(index), who: ("app", "shop", "")) { records.append($0) }
        }
        translator.finish { records.append($0) }
        #expect(kinds(records) == "+QzQz-" && translator.longLeftOut == 3 && translator.statements == 2)
    }
}

/// An event in a table of tests.
struct LoggedEvent: Sendable, CustomTestStringConvertible {
    var event: LogTranslator.Event
    var testDescription: String { "\(event)" }

    static func simple(_ text: String) -> Self { Self(event: .simple(Array(text.utf8))) }

    static let terminated = Self(event: .terminated(state: "57P01", message: []))

    static func error(_ text: String, _ message: String = "wrong") -> Self {
        Self(event: .error(state: "XX000", message: Array(message.utf8), text: Array(text.utf8)))
    }
}
