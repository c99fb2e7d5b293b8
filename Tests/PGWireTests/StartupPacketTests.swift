import PGWire
import Primitives
import Testing

@Suite struct StartupPacketTests {
    private struct Parsed: Equatable {
        var packet: StartupPacket
        var size: Int
    }

    private func parse(_ bytes: [UInt8]) throws(WireError) -> Parsed? {
        let result: Result<Parsed?, WireError> = bytes.withUnsafeBytes { raw in
            do throws(WireError) {
                return .success(try StartupPacket.parse(raw).map { Parsed(packet: $0.packet, size: $0.size) })
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private static func word(_ value: UInt32) -> [UInt8] {
        [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> UInt32($0)) }
    }

    private static func packet(_ code: UInt32, _ body: [UInt8]) -> [UInt8] {
        word(UInt32(body.count + 8)) + word(code) + body
    }

    private static let version3: UInt32 = 0x0003_0000
    private static let cancel: UInt32 = 1234 << 16 | 5678

    @Test(arguments: [0, 1, 4, 7, 10_001, 0x7FFF_FFFF, 0x8000_0000, UInt32.max] as [UInt32])
    func `a length outside its bounds is refused as soon as it is there`(length: UInt32) {
        #expect(throws: WireError.malformedStartup) { try parse(Self.word(length)) }
        #expect(throws: WireError.malformedStartup) {
            try parse(Self.word(length) + [UInt8](repeating: 0, count: 10_100))
        }
    }

    @Test func `a packet is as long as the bound and not longer`() throws {
        func startup(valueSize: Int) -> [UInt8] {
            Self.packet(
                Self.version3, Array("user".utf8) + [0] + [UInt8](repeating: 0x61, count: valueSize) + [0, 0])
        }
        let overhead = startup(valueSize: 0).count
        let whole = startup(valueSize: WireLimits.startupPacketMax - overhead)
        #expect(whole.count == WireLimits.startupPacketMax)
        #expect(try parse(whole)?.size == WireLimits.startupPacketMax)
        #expect(throws: WireError.malformedStartup) {
            try parse(startup(valueSize: WireLimits.startupPacketMax - overhead + 1))
        }
    }

    @Test(
        arguments: [
            ("no parameters and no end", []),
            ("a name without NUL", Array("user".utf8)),
            ("a name without a value", Array("user\u{0}".utf8)),
            ("a value without NUL", Array("user\u{0}a".utf8)),
            ("no end after the last value", Array("user\u{0}a\u{0}".utf8)),
            ("an odd number of strings", Array("user\u{0}a\u{0}database\u{0}\u{0}".utf8)),
            ("bytes behind the end", Array("user\u{0}a\u{0}\u{0}x".utf8)),
            ("a NUL behind the end", Array("user\u{0}a\u{0}\u{0}\u{0}".utf8)),
        ] as [(String, [UInt8])])
    func `parameters that are not pairs of strings are refused`(what: String, body: [UInt8]) {
        #expect(throws: WireError.malformedStartup, "\(what)") { try parse(Self.packet(Self.version3, body)) }
    }

    @Test(
        arguments: [
            (0x0002_0000, 2, 0), (0, 0, 0), (0x0001_0000, 1, 0), (0x0004_0000, 4, 0),
            (0xFFFF_FFFF, 65_535, 65_535),
            (1234 << 16 | 5677, 1234, 5677), (1234 << 16 | 5681, 1234, 5681),
        ] as [(UInt32, UInt16, UInt16)])
    func `a protocol that we do not speak is named`(code: UInt32, major: UInt16, minor: UInt16) {
        #expect(throws: WireError.unsupportedProtocol(major: major, minor: minor)) {
            try parse(Self.packet(code, [0]))
        }
    }

    @Test(arguments: [0, 1, 2, 9_999] as [UInt16])
    func `every minor version of protocol 3 is taken`(minor: UInt16) throws {
        let bytes = Self.packet(Self.version3 | UInt32(minor), Array("user\u{0}ann\u{0}\u{0}".utf8))
        let expected = StartupPacket.startup(minor: minor, parameters: [.init(name: "user", value: "ann")])
        #expect(try parse(bytes) == Parsed(packet: expected, size: bytes.count))
    }

    @Test func `parameters keep their order and what is no UTF-8 is repaired`() throws {
        let body = Array("b\u{0}1\u{0}a\u{0}\u{0}c\u{0}".utf8) + [0xFF, 0, 0]
        let parsed = try parse(Self.packet(Self.version3, body))
        #expect(
            parsed?.packet
                == .startup(
                    minor: 0,
                    parameters: [
                        .init(name: "b", value: "1"), .init(name: "a", value: ""),
                        .init(name: "c", value: "\u{FFFD}"),
                    ]))
    }

    @Test func `parameters in another Unicode form are others`() {
        let composed = StartupPacket.Parameter(name: "app.tenant", value: "caf\u{E9}")
        #expect(composed != .init(name: "app.tenant", value: "cafe\u{301}"))
        #expect(StartupPacket.Parameter(name: "\u{E9}.a", value: "") != .init(name: "e\u{301}.a", value: ""))
        #expect(composed == .init(name: "app.tenant", value: "caf\u{E9}"))
    }

    @Test(arguments: ["user", "database"])
    func `names that are no UTF-8 are not repaired`(name: String) {
        let body = Array("\(name)\u{0}".utf8) + [0xFF, 0, 0]
        #expect(throws: WireError.nameNotUTF8) { try parse(Self.packet(Self.version3, body)) }
    }

    @Test(arguments: [1234 << 16 | 5679, 1234 << 16 | 5680] as [UInt32])
    func `requests for encryption have no body`(code: UInt32) throws {
        let expected: StartupPacket = code & 1 == 1 ? .sslRequest : .gssEncryptionRequest
        #expect(try parse(Self.packet(code, [])) == Parsed(packet: expected, size: 8))
        #expect(throws: WireError.malformedStartup) { try parse(Self.packet(code, [0])) }
    }

    @Test(arguments: [4, 5, 32, 255, 256])
    func `a cancel key has 4 to 256 bytes`(size: Int) throws {
        let secret = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
        let bytes = Self.packet(Self.cancel, Self.word(0x8000_0001) + secret)
        let expected = StartupPacket.cancelRequest(processID: Int32(bitPattern: 0x8000_0001), secret: secret)
        #expect(try parse(bytes) == Parsed(packet: expected, size: bytes.count))
    }

    @Test(arguments: [0, 1, 3, 257, 9_000])
    func `a cancel key of another size is refused`(size: Int) {
        #expect(throws: WireError.malformedStartup) {
            try parse(Self.packet(Self.cancel, Self.word(1) + [UInt8](repeating: 1, count: size)))
        }
    }

    @Test(arguments: 0..<4)
    func `a cancel request without a whole process number is refused`(size: Int) {
        #expect(throws: WireError.malformedStartup) {
            try parse(Self.packet(Self.cancel, [UInt8](repeating: 0, count: size)))
        }
    }

    @Test func `a packet that is not whole is waited for, byte by byte`() throws {
        let bytes = Self.packet(Self.version3, Array("user\u{0}ann\u{0}\u{0}".utf8))
        for count in 0..<bytes.count { #expect(try parse(Array(bytes[..<count])) == nil) }
        #expect(try parse(bytes + [1, 2, 3])?.size == bytes.count)
    }

    @Test(arguments: [21, 22, 23] as [UInt64])
    func `random bytes are parsed or refused and never read past their end`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let codes: [UInt32] = [Self.version3, Self.cancel, 1234 << 16 | 5679, 1234 << 16 | 5680]
        for _ in 0..<5_000 {
            let size = Int.random(in: 0..<40, using: &random)
            let body = (0..<size).map { _ in UInt8.random(in: 0...3, using: &random) &* 0x21 }
            let bytes = Self.packet(codes.randomElement(using: &random) ?? 0, body)
            if let parsed = try? parse(bytes) { #expect(parsed.size == bytes.count, "seed \(seed)") }
        }
    }
}
