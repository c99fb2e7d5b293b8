import Foundation
import PGWire
import Primitives
import Testing

@testable import Capture

@Suite struct CaptureDecoderTests {
    private static func records(_ frame: Int) -> [CaptureRecord] {
        (0..<20).map { index in
            CaptureRecord(
                connection: UInt64(index % 3), micros: UInt64(1000 * frame + index),
                content: .message(tag: FrontendTag.query, answers: 0, body: Array("SELECT \(frame) + \(index)".utf8) + [0]))
        }
    }

    /// A file of three frames of records.
    private static func file(hasEnd: Bool = true) throws -> (bytes: [UInt8], frameEnds: [Int]) {
        let encoder = try FrameEncoder()
        var bytes = FrameEncoder.fileHeader([.digests])
        let beginning = CaptureBeginning(wallMicros: 5, database: "shop", sampleHundredths: 10_000, writer: "test")
        bytes += try encoder.encode(.begin, thread: 0, payload: beginning.payload)
        var ends: [Int] = []
        for frame in 0..<3 {
            var buffer = RecordBuffer(capacity: 0)
            for record in records(frame) { buffer.append(record) }
            bytes += try encoder.encode(.records, thread: frame, payload: buffer.bytes)
            ends.append(bytes.count)
        }
        if hasEnd { bytes += try encoder.encode(.end, thread: 0, payload: []) }
        return (bytes, ends)
    }

    private static func read(_ pieces: [[UInt8]]) throws -> (records: [CaptureRecord], decoder: CaptureDecoder) {
        var decoder = CaptureDecoder()
        var records: [CaptureRecord] = []
        for (index, piece) in pieces.enumerated() {
            piece.withUnsafeBytes { decoder.append($0) }
            while let frame = try decoder.next(isAtEnd: index == pieces.count - 1) {
                if frame.kind == .records { records += try RecordReader.records(of: frame.payload) }
            }
        }
        return (records, decoder)
    }

    @Test func `what was written is read, however the file is cut`() throws {
        let (bytes, _) = try Self.file()
        let all = (0..<3).flatMap(Self.records)
        for cut in 0...bytes.count {
            let (records, decoder) = try Self.read([Array(bytes[..<cut]), Array(bytes[cut...])])
            #expect(records == all && decoder.hasEnd && decoder.tailBytes == 0 && decoder.damagedBytes == 0)
        }
        #expect(try Self.read(bytes.map { [$0] }).records == all)
    }

    @Test func `a file that was torn anywhere gives its whole frames`() throws {
        let (bytes, ends) = try Self.file(hasEnd: false)
        for end in CaptureFormat.fileHeaderSize..<bytes.count {
            let (records, decoder) = try Self.read([Array(bytes[..<end])])
            let whole = ends.filter { $0 <= end }.count
            #expect(records == (0..<whole).flatMap(Self.records) && !decoder.hasEnd && decoder.damagedBytes == 0)
        }
    }

    @Test func `a damaged frame is passed over, and told`() throws {
        let (bytes, ends) = try Self.file()
        for place in stride(from: ends[0], to: ends[1], by: 3) {
            var damaged = bytes
            damaged[place] ^= 0x40
            let (records, decoder) = try Self.read([damaged])
            #expect(records == Self.records(0) + Self.records(2), "byte \(place)")
            #expect(decoder.damagedBytes == UInt64(ends[1] - ends[0]) && decoder.missingFrames == 1 && decoder.hasEnd)
        }
    }

    @Test func `other files are refused`() {
        #expect(throws: CaptureError.notACapture) { try Self.read([Array("PGDMP nothing of ours".utf8)]) }
        var newer = FrameEncoder.fileHeader([])
        newer[8] = 9
        #expect(throws: CaptureError.unknownVersion(9)) { try Self.read([newer]) }
        var first = newer
        first[8] = 1
        #expect(throws: CaptureError.unknownVersion(1)) { try Self.read([first]) }
    }

    @Test func `a file of version 2 is read`() throws {
        let (bytes, _) = try Self.file()
        var older = bytes
        older[8] = 2
        let (expected, _) = try Self.read([bytes])
        let (records, _) = try Self.read([older])
        #expect(records == expected && !records.isEmpty)
    }

    @Test func `several messages in one record are read whole or not at all`() throws {
        func read(_ frames: [UInt8]) throws(CaptureError) -> [CaptureRecord] {
            var buffer = RecordBuffer(capacity: 0)
            let stamp = RecordStamp(connection: 1, micros: 5, number: 7, answers: 3)
            buffer.record(RecordKind.messages, stamp, count: 1 + frames.count) { pen in
                pen.varint(3)
                frames.withUnsafeBytes { pen.raw($0) }
            }
            return try RecordReader.records(of: buffer.bytes)
        }
        var writer = MessageWriter()
        writer.message(FrontendTag.execute) { $0.raw([0, 0, 0, 0, 0]) }
        let first = writer.bytes.count
        writer.sync()
        let whole = writer.bytes
        let expected: [CaptureRecord.Content] = [
            .message(tag: FrontendTag.execute, answers: 3, body: [0, 0, 0, 0, 0]),
            .message(tag: FrontendTag.sync, answers: 3, body: []),
        ]
        #expect(try read(whole) == expected.map { CaptureRecord(connection: 1, micros: 5, number: 7, content: $0) })
        #expect(try read([]) == [])
        for count in 1..<whole.count where count != first {
            #expect(throws: CaptureError.damagedRecord, "\(count) bytes") { try read(Array(whole.prefix(count))) }
        }
        var short = whole
        short[first + 4] = 3
        #expect(throws: CaptureError.damagedRecord) { try read(short) }
        var other = whole
        other[first] = UInt8(ascii: "p")
        #expect(throws: CaptureError.damagedRecord) { try read(other) }
    }

    @Test func `a frame may have any number`() throws {
        func frame(_ number: UInt64) throws -> [UInt8] {
            var bytes = try FrameEncoder().encode(.records, thread: 0, payload: [])
            func store(_ value: UInt64, at place: Int) {
                for index in 0..<8 { bytes[place + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
            }
            store(number, at: 16)
            let seed = bytes[..<24].withUnsafeBytes { Checksum.of($0) }
            store(bytes[32...].withUnsafeBytes { Checksum.of($0, seed: seed) }, at: 24)
            return bytes
        }
        var decoder = CaptureDecoder()
        let file = try FrameEncoder.fileHeader([]) + frame(.max) + frame(0) + frame(.max) + frame(.max)
        file.withUnsafeBytes { decoder.append($0) }
        var numbers: [UInt64] = []
        while let frame = try decoder.next() { numbers.append(frame.sequence) }
        #expect(numbers == [.max, 0, .max, .max] && decoder.missingFrames == .max && decoder.damagedBytes == 0)
    }

    @Test func `every record comes back as it was`() throws {
        var answer = CapturedAnswer(.complete)
        answer.rows = 1 << 40
        answer.bytes = .max
        answer.tag = "INSERT 0 5"
        answer.digest = RowDigest.Value(ordered: .max, unordered: 7)
        var joined = TapBench.connection
        joined.isJoined = true
        joined.hasUnknownState = true
        let contents: [CaptureRecord.Content] = [
            .connect(joined), .prepared(body: [1, 2, 3]), .message(tag: FrontendTag.bind, answers: 300, body: [0, 0, 9]),
            .omitted(bytes: 1 << 33), .answer(answer), .answer(CapturedAnswer(.suspended)),
            .error(state: "40001", isFatal: true, message: "überall"), .ready(.failed), .cancel, .dropped, .disconnect,
        ]
        var buffer = RecordBuffer(capacity: 0)
        var records: [CaptureRecord] = []
        for (index, content) in contents.enumerated() {
            let record = CaptureRecord(
                connection: UInt64(index) << 20, micros: UInt64(index) << 30, number: UInt64(index) << 40, content: content)
            records.append(record)
            buffer.append(record)
        }
        #expect(try RecordReader.records(of: buffer.bytes) == records)
    }

    @Test func `what is too long for a reader is not written`() throws {
        let long = String(repeating: "x", count: CaptureFormat.textMax + 1)
        var connection = TapBench.connection
        connection.applicationName = long
        let kept = connection.settings
        connection.settings += [.init(name: "work_mem", statement: long), .init(name: long, statement: "SELECT 1")]
        var buffer = RecordBuffer(capacity: 0)
        buffer.append(CaptureRecord(connection: 1, micros: 0, content: .connect(connection)))
        buffer.append(CaptureRecord(
            connection: 1, micros: 0, content: .error(state: long, isFatal: false, message: "")))
        connection.applicationName = String(long.dropLast())
        connection.settings = kept
        connection.hasUnknownState = true
        #expect(try RecordReader.records(of: buffer.bytes).map(\.content) == [
            .connect(connection), .error(state: String(long.dropLast()), isFatal: false, message: ""),
        ])
    }

    @Test func `records of kinds that come later are passed over`() throws {
        var buffer = RecordBuffer(capacity: 0)
        buffer.record(UInt8(ascii: "?"), RecordStamp(connection: 1, micros: 5, number: 7, answers: 3), count: 3) { pen in
            for byte in [1, 2, 3] as [UInt8] { pen.byte(byte) }
        }
        let known = CaptureRecord(connection: 1, micros: 9, number: 8, content: .disconnect)
        buffer.append(known)
        #expect(try RecordReader.records(of: buffer.bytes) == [known])
    }

    @Test func `a record of another length than it says is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var buffer = RecordBuffer(capacity: 100)
            buffer.record(UInt8(ascii: "?"), RecordStamp(connection: 1, micros: 5, number: 7, answers: 3), count: 3) { $0.word(1) }
        }
        await #expect(processExitsWith: .failure) {
            var buffer = RecordBuffer(capacity: 100)
            buffer.record(UInt8(ascii: "?"), RecordStamp(connection: 1, micros: 5, number: 7, answers: 3), count: 3) { pen in
                [UInt8](repeating: 0, count: 200).withUnsafeBytes { pen.raw($0) }
            }
        }
    }

    @Test func `a file is never written over, and may be read while it grows`() throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "godwit-capture-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let writer = try CaptureFileWriter(path: path, flags: [])
        try writer.write(.records, thread: 0, payload: [])
        #expect(throws: CaptureError.file(path: path, errno: EEXIST)) { try CaptureFileWriter(path: path, flags: []) }
        let reader = try CaptureFileReader(path: path)
        #expect(try reader.next()?.payload == [] && reader.next() == nil && !reader.hasEnd)
        // It grows while it is being read.
        try writer.write(.records, thread: 0, payload: [1])
        try writer.write(.end, thread: 0, payload: [])
        #expect(try reader.next()?.payload == [1] && reader.next() == nil && reader.hasEnd)
    }

    @Test func `records that no reader would take are refused before they are written`() throws {
        let encoder = try FrameEncoder()
        let most = [UInt8](repeating: 0, count: CaptureFormat.payloadMax)
        let frame = try encoder.encode(.records, thread: 0, payload: most)
        guard case .frame(let read, _) = frame.withUnsafeBytes({ CaptureFrame.parse($0) }) else {
            throw CaptureError.damagedRecord
        }
        #expect(read.payload == most)
        #expect(throws: CaptureError.tooLong(bytes: most.count + 1)) {
            try encoder.encode(.records, thread: 0, payload: most + [0])
        }
    }
}
