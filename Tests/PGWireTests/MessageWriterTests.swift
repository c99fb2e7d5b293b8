import PGWire
import Testing

@Suite struct MessageWriterTests {
    private func written(_ body: (inout MessageWriter) -> Void) -> [UInt8] {
        var writer = MessageWriter()
        body(&writer)
        return writer.bytes
    }

    @Test func `messages have the bytes of the protocol`() {
        #expect(written { $0.readyForQuery(.failed) } == [0x5A, 0, 0, 0, 5, 0x45])
        #expect(written { $0.sync() } == [0x53, 0, 0, 0, 4])
        #expect(written { $0.query("é") } == [0x51, 0, 0, 0, 7, 0xC3, 0xA9, 0])
        #expect(written { $0.commandComplete("SET") } == [0x43, 0, 0, 0, 8] + Array("SET".utf8) + [0])
        #expect(written { $0.closeStatement(name: "s") } == [0x43, 0, 0, 0, 7, 0x53, 0x73, 0])
        #expect(written { $0.parse(name: "n", rest: [1, 2]) } == [0x50, 0, 0, 0, 8, 0x6E, 0, 1, 2])
        #expect(
            written { $0.authentication(5, [1, 2, 3, 4]) } == [0x52, 0, 0, 0, 12, 0, 0, 0, 5, 1, 2, 3, 4])
        #expect(written { $0.parameterStatus("a", "") } == [0x53, 0, 0, 0, 7, 0x61, 0, 0])
        #expect(
            written { $0.backendKeyData(processID: -2, secret: [9]) }
                == [0x4B, 0, 0, 0, 9, 0xFF, 0xFF, 0xFF, 0xFE, 9])
        #expect(written { $0.password([7]) } == [0x70, 0, 0, 0, 5, 7])
        #expect(written { $0.int16(-2) } == [0xFF, 0xFE])
    }

    @Test func `messages follow each other and may be nested in length`() {
        let bytes = written {
            $0.sync()
            $0.message(0x41) { $0.framed { $0.byte(1) } }
        }
        #expect(bytes == [0x53, 0, 0, 0, 4, 0x41, 0, 0, 0, 9, 0, 0, 0, 5, 1])
    }

    @Test func `a zero within a name cannot end it early`() {
        #expect(written { $0.cString("a\u{0}b") } == [0x61, 0x62, 0])
        let long = String(repeating: "zoë", count: 20)
        #expect(written { $0.cString(long + "\u{0}" + long) } == Array((long + long).utf8) + [0])
        #expect(written { $0.cString(long) } == Array(long.utf8) + [0])
    }

    @Test func `a startup packet is read as it was written`() throws {
        let parameters: [StartupPacket.Parameter] = [
            .init(name: "user", value: "zoë"), .init(name: "options", value: "-c a=b"),
            .init(name: "x", value: ""),
        ]
        let bytes = written { $0.startup(parameters: parameters) }
        try bytes.withUnsafeBytes { raw in
            let parsed = try StartupPacket.parse(raw)
            #expect(parsed?.packet == .startup(minor: 0, parameters: parameters))
            #expect(parsed?.size == bytes.count)
        }
    }

    @Test(arguments: [4, 256])
    func `a cancel request is read as it was written`(size: Int) throws {
        let secret = [UInt8](repeating: 0xA5, count: size)
        let bytes = written { $0.cancelRequest(processID: 77, secret: secret) }
        try bytes.withUnsafeBytes { raw in
            let packet = try StartupPacket.parse(raw)?.packet
            #expect(packet == .cancelRequest(processID: 77, secret: secret))
        }
    }
}
