import Capture
import PGWire
import Testing

@testable import Replay

@Suite struct LogImportTests {
    @Test func `bound values come out of DETAIL as they were`() {
        let detail = "parameters: $1 = '42', $2 = NULL, $3 = 'it''s, $4 = ''x''', $4 = ''"
        #expect(LogMessage.parameters(detail) == ["42", nil, "it's, $4 = 'x'", ""])
        #expect(LogMessage.parameters("Parameters: $1 = 'a\nb'") == ["a\nb"])
        #expect(LogMessage.parameters("Key (id)=(1) already exists.").isEmpty)
    }

    @Test(arguments: [
        ("statement: SELECT 1", LogTranslator.Event.simple("SELECT 1")),
        ("duration: 1.500 ms  statement: SELECT 1", .simple("SELECT 1")),
        ("duration: 0.250 ms", .duration(micros: 250)),
        ("execute <unnamed>: SELECT $1: x", .execute(name: "", text: "SELECT $1: x", parameters: [])),
        ("execute S_1/C_2: SELECT 2", .execute(name: "S_1", text: "SELECT 2", parameters: [])),
        ("connection authorized: user=app database=shop application_name=my app SSL enabled (protocol=TLSv1.3)",
            .connect(user: "app", database: "shop", application: "my app")),
        ("disconnection: session time: 0:00:01.2 user=app", .disconnect),
    ])
    func `a message of the log is an event`(message: String, event: LogTranslator.Event) {
        #expect(LogMessage.event(message, detail: "", severity: "LOG", state: "")?.event == event)
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
        #expect(entries.first?.message == "statement: SELECT \"a\",\n1" && entries.first?.application == "psql")
        #expect(entries.first?.micros == 1_706_702_400_500_000 && entries.first?.session == "65ba.7")
    }

    @Test func `a log on standard error has further lines and DETAIL`() throws {
        let text = """
            2024-01-31 12:00:00.500 UTC [7] app@shop LOG:  statement: SELECT 1
            \t, 2
            2024-01-31 12:00:01.000 UTC [7] app@shop LOG:  execute <unnamed>: SELECT $1
            2024-01-31 12:00:01.000 UTC [7] app@shop DETAIL:  parameters: $1 = 'x'
            no line of ours
            2024-01-31 12:00:02.000 UTC [7] app@shop ERROR:  division by zero
            2024-01-31 12:00:02.000 UTC [7] app@shop STATEMENT:  SELECT 1/0
            """
        var entries: [LogEntry] = []
        try StderrLog(prefix: "%m [%p] %u@%d ").entries(text) { entries.append($0) }
        #expect(entries.map(\.message) == ["statement: SELECT 1\n, 2", "execute <unnamed>: SELECT $1", "division by zero"])
        #expect(entries[1].detail == "parameters: $1 = 'x'" && entries[1].user == "app" && entries[1].database == "shop")
        #expect(entries[0].session == "7" && entries[2].severity == "ERROR")
        #expect(throws: LogError.self) { try StderrLog(prefix: "%u ") }
    }

    @Test func `pgreplay's file is read, and one that is cut short is refused`() throws {
        var writer = MessageWriter()
        func item(_ session: Int32, _ type: UInt8, _ body: (inout MessageWriter) -> Void) {
            for number in [1000, 500, 0, session] as [Int32] { writer.int32(number) }
            writer.byte(type)
            body(&writer)
            writer.byte(0x0A)
        }
        func text(_ value: String?, _ writer: inout MessageWriter) {
            guard let value else { return writer.int32(Int32(bitPattern: 0x8000_0000)) }
            writer.int32(Int32(value.utf8.count))
            writer.raw(value.utf8)
        }
        item(1, 0) { text("app", &$0); text("shop", &$0) }
        item(1, 2) { text("SELECT 1", &$0) }
        item(1, 3) { text("SELECT $1", &$0); text("s", &$0) }
        item(1, 4) { text("s", &$0); $0.int16(2); text("v", &$0); text(nil, &$0) }
        item(1, 5) { _ in }
        item(1, 1) { _ in }
        var events: [LogTranslator.Event] = []
        try PgreplayFile.events(writer.bytes) { event, _, micros, _ in
            #expect(micros == 1_000_000_500)
            events.append(event)
        }
        #expect(events == [
            .connect(user: "app", database: "shop", application: ""), .simple("SELECT 1"),
            .execute(name: "s", text: "SELECT $1", parameters: ["v", nil]), .cancel, .disconnect,
        ])
        for end in 1..<writer.bytes.count where writer.bytes[end - 1] != 0x0A {
            #expect(throws: LogError.self) { try PgreplayFile.events(Array(writer.bytes[..<end])) { _, _, _, _ in } }
        }
    }

    @Test func `a translated session is connect, messages, ready, disconnect`() {
        var translator = LogTranslator()
        var records: [CaptureRecord] = []
        let who = ("app", "shop", "")
        translator.add(.simple("SELECT 1"), session: "a", micros: 100, who: who) { records.append($0) }
        translator.add(.duration(micros: 5), session: "a", micros: 105, who: who) { records.append($0) }
        translator.add(
            .execute(name: "s", text: "SELECT $1", parameters: ["1"]), session: "a", micros: 110, who: who
        ) { records.append($0) }
        translator.add(
            .execute(name: "s", text: "SELECT $1", parameters: ["2"]), session: "a", micros: 120, who: who
        ) { records.append($0) }
        translator.finish { records.append($0) }
        let kinds = records.map { record -> String in
            switch record.content {
            case .connect: "+"
            case .disconnect: "-"
            case .message(let tag, _, _): String(UnicodeScalar(tag))
            case .ready: "z"
            default: "?"
            }
        }
        #expect(kinds.joined() == "+QzPBESzBESz-")
    }
}
