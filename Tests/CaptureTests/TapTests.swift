import PGWire
import Primitives
import Synchronization
import Testing

@testable import Capture

/// A capture without a proxy: taps in, records out.
struct TapBench {
    let session: CaptureSession
    let lane: CaptureLane

    init(_ change: (inout CaptureOptions) -> Void = { _ in }, copyBytesMax: Int = 1 << 20) {
        var options = CaptureOptions()
        change(&options)
        session = CaptureSession(
            database: "shop", path: "", options: options, beganAt: MonotonicInstant(nanoseconds: 0), seed: 1, threads: 1,
            copyBytesMax: copyBytesMax)
        lane = CaptureLane(session, thread: 0)
    }

    static let connection = CapturedConnection(
        user: "app", database: "shop", applicationName: "web", settings: [.init(name: "datestyle", statement: "SELECT 1")])

    func tap() -> CaptureTap { CaptureTap(lane, Self.connection, prepared: [], at: Self.instant(1)) }

    static func instant(_ micros: UInt64) -> MonotonicInstant { MonotonicInstant(nanoseconds: micros * 1000) }

    /// Everything that was written, without who it was.
    func contents() throws -> [CaptureRecord.Content] {
        lane.flush()
        var contents: [CaptureRecord.Content] = []
        for chunk in session.take().chunks {
            for record in try RecordReader.records(of: chunk.buffer.bytes) {
                if case .connect = record.content { continue }
                contents.append(record.content)
            }
        }
        return contents
    }
}

extension CaptureTap {
    func received(_ bytes: [UInt8], at micros: UInt64 = 2) {
        bytes.withUnsafeBytes { received($0, at: TapBench.instant(micros)) }
    }

    func sent(_ bytes: [UInt8], at micros: UInt64 = 3) {
        bytes.withUnsafeBytes { sent($0, at: TapBench.instant(micros)) }
    }
}

@Suite struct TapTests {
    /// A client's two pipelined batches and a COPY, and what it was answered.
    private static var client: [UInt8] {
        var writer = MessageWriter()
        writer.query("SELECT 1")
        writer.parse(name: "s", rest: Array("SELECT $1".utf8) + [0, 0, 0])
        writer.sync()
        writer.query("COPY t FROM STDIN")
        writer.message(FrontendTag.copyData) { $0.raw(Array("1\t2\n".utf8)) }
        writer.message(FrontendTag.copyDone) { _ in }
        return writer.bytes
    }

    private static var server: [UInt8] {
        var writer = MessageWriter()
        writer.message(BackendTag.rowDescription) { $0.raw([0, 0]) }
        writer.message(BackendTag.dataRow) { $0.raw([0, 1, 0, 0, 0, 1, 0x31]) }
        writer.message(BackendTag.dataRow) { $0.raw([0, 1, 0, 0, 0, 1, 0x32]) }
        writer.commandComplete("SELECT 2")
        writer.readyForQuery(.idle)
        writer.message(BackendTag.parseComplete) { _ in }
        writer.readyForQuery(.inTransaction)
        ErrorResponse(.error, SQLState("23505"), "duplicate key").write(to: &writer)
        writer.readyForQuery(.failed)
        return writer.bytes
    }

    private static let clientRecords: [CaptureRecord.Content] = [
        .message(tag: FrontendTag.query, answers: 0, body: Array("SELECT 1".utf8) + [0]),
        .message(tag: FrontendTag.parse, answers: 0, body: [0x73, 0] + Array("SELECT $1".utf8) + [0, 0, 0]),
        .message(tag: FrontendTag.sync, answers: 0, body: []),
        .message(tag: FrontendTag.query, answers: 0, body: Array("COPY t FROM STDIN".utf8) + [0]),
        .message(tag: FrontendTag.copyData, answers: 0, body: Array("1\t2\n".utf8)),
        .message(tag: FrontendTag.copyDone, answers: 0, body: []),
    ]

    private static var serverRecords: [CaptureRecord.Content] {
        var answer = CapturedAnswer(.complete)
        answer.rows = 2
        answer.bytes = 14
        answer.tag = "SELECT 2"
        return [
            .answer(answer), .ready(.idle), .ready(.inTransaction),
            .error(state: "23505", isFatal: false, message: "duplicate key"), .ready(.failed),
        ]
    }

    @Test func `both directions give the same records however they are cut`() throws {
        let (client, server) = (Self.client, Self.server)
        for cut in 0...max(client.count, server.count) {
            let bench = TapBench()
            let tap = bench.tap()
            tap.received(Array(client.prefix(cut)))
            tap.received(Array(client.dropFirst(cut)))
            #expect(try bench.contents() == Self.clientRecords, "cut at \(cut)")
            tap.sent(Array(server.prefix(cut)))
            tap.sent(Array(server.dropFirst(cut)))
            #expect(try bench.contents() == Self.serverRecords, "cut at \(cut)")
        }
        let bench = TapBench()
        let tap = bench.tap()
        for byte in client { tap.received([byte]) }
        for byte in server { tap.sent([byte]) }
        #expect(try bench.contents() == Self.clientRecords + Self.serverRecords)
    }

    @Test func `what comes together is one record, for a client's messages and for an answer`() throws {
        let bench = TapBench()
        let tap = bench.tap()
        let (records, bytes) = (bench.lane.buffer.records, bench.lane.buffer.count)
        var unit = MessageWriter()
        unit.parse(name: "", rest: Array("SELECT $1".utf8) + [0, 0, 0])
        unit.message(FrontendTag.execute) { $0.raw([0, 0, 0, 0, 0]) }
        unit.sync()
        tap.received(unit.bytes)
        // Six bytes of its own: kind, connection, two differences, length, answers.
        #expect(bench.lane.buffer.count == bytes + unit.bytes.count + 6)
        #expect(bench.lane.buffer.records == records + 3, "a reader finds three")
        var answer = MessageWriter()
        answer.message(BackendTag.parseComplete) { _ in }
        answer.commandComplete("SELECT 0")
        answer.readyForQuery(.inTransaction)
        tap.sent(answer.bytes)
        #expect(bench.lane.buffer.records == records + 5)
        // As many have answered the next unit as if the two had come apart.
        tap.received(unit.bytes)
        var complete = CapturedAnswer(.complete)
        complete.tag = "SELECT 0"
        let messages: [CaptureRecord.Content] = [
            .message(tag: FrontendTag.parse, answers: 0, body: [0] + Array("SELECT $1".utf8) + [0, 0, 0]),
            .message(tag: FrontendTag.execute, answers: 0, body: [0, 0, 0, 0, 0]),
            .message(tag: FrontendTag.sync, answers: 0, body: []),
        ]
        #expect(try bench.contents() == messages + [.answer(complete), .ready(.inTransaction)] + messages)
    }

    @Test func `whatever a session has set, its record goes into a frame, and says that some is missing`() throws {
        var connection = TapBench.connection
        let value = String(repeating: "x", count: 65_400)
        connection.settings = (0..<170).map { .init(name: "a\($0).\(value)", statement: "SELECT '\($0)\(value)'") }
        let bench = TapBench()
        let tap = CaptureTap(bench.lane, connection, prepared: [], at: TapBench.instant(1))
        tap.received(Self.client)
        bench.lane.flush()
        let encoder = try FrameEncoder()
        var records: [CaptureRecord] = []
        for chunk in bench.session.take().chunks {
            #expect(chunk.buffer.count <= CaptureFormat.payloadMax)
            _ = try encoder.encode(.records, thread: 0, payload: chunk.buffer.bytes)
            records += try RecordReader.records(of: chunk.buffer.bytes)
        }
        guard case .connect(let written)? = records.first?.content else { throw CaptureError.damagedRecord }
        #expect(written.hasUnknownState && records.dropFirst().map(\.content) == Self.clientRecords)
        #expect(written.settings == Array(connection.settings.prefix(written.settings.count)))
        let bytes = written.settings.reduce(0) { $0 + $1.name.utf8.count + $1.statement.utf8.count }
        #expect(bytes <= CaptureFormat.settingsBytesMax && bytes > CaptureFormat.settingsBytesMax - (128 << 10))
    }

    @Test func `an error's message of one endless character is cut`() throws {
        let bench = TapBench()
        let tap = bench.tap()
        var writer = MessageWriter()
        let message = "a" + String(repeating: "\u{301}", count: 1000)
        ErrorResponse(.error, SQLState("22P02"), message).write(to: &writer)
        tap.sent(writer.bytes)
        guard case .error(_, _, let words)? = try bench.contents().first else { throw CaptureError.damagedRecord }
        #expect(words.unicodeScalars.count == 300)
    }

    @Test func `a digest does not depend on how rows are cut, and tells orders apart`() throws {
        func digest(_ server: [UInt8], cut: Int) throws -> RowDigest.Value? {
            let bench = TapBench { $0.withDigest = true }
            let tap = bench.tap()
            tap.sent(Array(server.prefix(cut)))
            tap.sent(Array(server.dropFirst(cut)))
            guard case .answer(let answer)? = try bench.contents().first else { return nil }
            return answer.digest
        }
        func rows(_ values: [UInt8]) -> [UInt8] {
            var writer = MessageWriter()
            for value in values { writer.message(BackendTag.dataRow) { $0.raw([0, 1, 0, 0, 0, 1, value]) } }
            writer.commandComplete("SELECT")
            return writer.bytes
        }
        let forth = try #require(try digest(rows([1, 2, 3]), cut: 0))
        for cut in 1..<rows([1, 2, 3]).count { #expect(try digest(rows([1, 2, 3]), cut: cut) == forth) }
        let back = try #require(try digest(rows([3, 2, 1]), cut: 0))
        #expect(back.unordered == forth.unordered && back.ordered != forth.ordered)
        #expect(try digest(rows([1, 2, 4]), cut: 0)?.unordered != forth.unordered)
    }

    @Test func `a message says how many answers its client had seen`() throws {
        let bench = TapBench()
        let tap = bench.tap()
        tap.received([FrontendTag.flush, 0, 0, 0, 4])
        var writer = MessageWriter()
        writer.message(BackendTag.parseComplete) { _ in }
        writer.message(BackendTag.bindComplete) { _ in }
        tap.sent(writer.bytes)
        tap.received([FrontendTag.sync, 0, 0, 0, 4])
        #expect(try bench.contents() == [
            .message(tag: FrontendTag.flush, answers: 0, body: []),
            .message(tag: FrontendTag.sync, answers: 2, body: []),
        ])
    }

    @Test func `passwords are not kept, nor COPY data beyond the limit`() throws {
        let bench = TapBench(copyBytesMax: 20)
        let tap = bench.tap()
        var writer = MessageWriter()
        writer.password(Array("secret".utf8))
        writer.query("COPY t FROM STDIN")
        for _ in 0..<4 { writer.message(FrontendTag.copyData) { $0.raw([1, 2, 3, 4, 5, 6]) } }
        writer.message(FrontendTag.copyDone) { _ in }
        for byte in writer.bytes { tap.received([byte]) }
        #expect(try bench.contents() == [
            .message(tag: FrontendTag.query, answers: 0, body: Array("COPY t FROM STDIN".utf8) + [0]),
            .message(tag: FrontendTag.copyData, answers: 0, body: [1, 2, 3, 4, 5, 6]),
            .message(tag: FrontendTag.copyData, answers: 0, body: [1, 2, 3, 4, 5, 6]),
            .omitted(bytes: 6), .omitted(bytes: 6), .message(tag: FrontendTag.copyDone, answers: 0, body: []),
        ])
    }

    @Test func `COPY data that was left out is told of before the COPY fails, whose end may never come`() throws {
        let bench = TapBench(copyBytesMax: 20)
        let tap = bench.tap()
        var writer = MessageWriter()
        for _ in 0..<4 { writer.message(FrontendTag.copyData) { $0.raw([1, 2, 3, 4, 5, 6]) } }
        let data = writer.bytes
        let copied = CaptureRecord.Content.message(tag: FrontendTag.copyData, answers: 0, body: [1, 2, 3, 4, 5, 6])
        var query = MessageWriter()
        query.query("SELECT 1")
        for _ in 0..<2 {
            tap.received(data)
            #expect(try bench.contents() == [copied, copied, .omitted(bytes: 6)])
            tap.received(query.bytes)
            #expect(try bench.contents() == [
                .message(tag: FrontendTag.query, answers: 0, body: Array("SELECT 1".utf8) + [0])
            ])
        }
    }

    @Test func `a writer that does not come costs records and nothing else`() throws {
        let bench = TapBench()
        let tap = bench.tap()
        var writer = MessageWriter()
        writer.query(String(repeating: "x", count: 100_000))
        let count = CaptureSession.waitingBytesMax / 100_000 + 10
        for _ in 0..<count { tap.received(writer.bytes) }
        #expect(bench.session.dropped.load(ordering: .relaxed) == 1)
        let kept = try bench.contents()
        #expect(kept.count < count && kept.count >= CaptureSession.waitingBytesMax / 100_000 - 3)
    }

    @Test func `a connection that was dropped says so when there is room again, and others are whole`() throws {
        let bench = TapBench()
        let tap = bench.tap()
        var writer = MessageWriter()
        writer.query(String(repeating: "x", count: 100_000))
        while bench.session.dropped.load(ordering: .relaxed) == 0 { tap.received(writer.bytes) }
        func written() throws -> [CaptureRecord] {
            bench.lane.flush()
            var (chunks, _) = bench.session.take()
            var records: [CaptureRecord] = []
            for index in chunks.indices {
                records += try RecordReader.records(of: chunks[index].buffer.bytes)
                bench.session.giveBack(&chunks[index])
            }
            return records
        }
        let dropped = try #require(try written().first?.connection)
        // There is room again. What it does now is not kept, for something is missing before it.
        tap.received(writer.bytes)
        let other = bench.tap()
        other.received(writer.bytes)
        tap.received(writer.bytes)
        tap.ended(at: TapBench.instant(9))
        other.ended(at: TapBench.instant(9))
        let records = try written()
        #expect(records.filter { $0.connection == dropped }.map(\.content).suffix(1) == [.dropped])
        #expect(records.filter { $0.connection == dropped && $0.content == .dropped }.count == 1)
        #expect(records.filter { $0.connection != dropped }.count == 3 && records.last?.content == .disconnect)
        #expect(bench.session.dropped.load(ordering: .relaxed) == 1)
    }

    @Test func `whoever goes while there is no room is marked when there is some`() throws {
        let bench = TapBench()
        let first = bench.tap()
        var writer = MessageWriter()
        writer.query(String(repeating: "x", count: 1000))
        while bench.session.dropped.load(ordering: .relaxed) == 0 { first.received(writer.bytes) }
        let others = (0..<500).map { _ in bench.tap() }
        for tap in [first] + others { tap.ended(at: TapBench.instant(9)) }
        var last: [UInt64: CaptureRecord.Content] = [:]
        // The first makes room, the second has the marks written, the third hands them over.
        for _ in 0..<3 {
            bench.lane.flush()
            var (chunks, _) = bench.session.take()
            for index in chunks.indices {
                for record in try RecordReader.records(of: chunks[index].buffer.bytes) {
                    last[record.connection] = record.content
                }
                bench.session.giveBack(&chunks[index])
            }
        }
        #expect(last.count == 501 && last.values.allSatisfy { $0 == .dropped || $0 == .disconnect })
    }

    @Test func `an answer comes before what is asked after it, though the clocks of two reactors say otherwise`() throws {
        let session = CaptureSession(
            database: "shop", path: "", options: CaptureOptions(), beganAt: MonotonicInstant(nanoseconds: 0), seed: 1,
            threads: 2, copyBytesMax: 0)
        let lanes = [CaptureLane(session, thread: 0), CaptureLane(session, thread: 1)]
        let taps = lanes.map { CaptureTap($0, TapBench.connection, prepared: [], at: TapBench.instant(1)) }
        let sync: [UInt8] = [FrontendTag.sync, 0, 0, 0, 4]
        var ready = MessageWriter()
        ready.readyForQuery(.idle)
        // The turn of the first reactor began at 90, that of the second at 20 and took long.
        for _ in 0..<3 {
            taps[0].received(sync, at: 90)
            taps[0].sent(ready.bytes, at: 90)
            taps[1].received(sync, at: 20)
            taps[1].sent(ready.bytes, at: 20)
        }
        for lane in lanes { lane.flush() }
        var records: [CaptureRecord] = []
        for chunk in session.take().chunks { records += try RecordReader.records(of: chunk.buffer.bytes) }
        records.sort { $0.number < $1.number }
        #expect(Set(records.map(\.number)).count == records.count)
        #expect(records.dropFirst(2).map { $0.connection % 2 } == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1])
    }

    @Test func `a sample takes its share of the connections`() {
        let bench = TapBench { $0.sampleHundredths = 2500 }
        let count = (1...10_000).filter { bench.lane.wants($0) }.count
        #expect((2300...2700).contains(count))
    }
}
