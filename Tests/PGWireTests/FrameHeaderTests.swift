import PGWire
import Testing

@Suite struct FrameHeaderTests {
    @Test func `fewer than five bytes are no header and five are`() {
        let bytes: [UInt8] = [0x51, 0, 0, 1, 2, 0xFF]
        bytes.withUnsafeBytes { raw in
            for count in 0..<5 {
                #expect(FrameHeader.parse(UnsafeRawBufferPointer(rebasing: raw[..<count]), at: 0) == nil)
            }
            let header = FrameHeader.parse(UnsafeRawBufferPointer(rebasing: raw[..<5]), at: 0)
            #expect(header == FrameHeader(tag: 0x51, length: 258))
            #expect(header?.frameSize == 259)
            #expect(FrameHeader.parse(raw, at: 1) == FrameHeader(tag: 0, length: 0x0001_02FF))
            #expect(FrameHeader.parse(raw, at: 2) == nil)
            #expect(FrameHeader.parse(raw, at: 6) == nil)
        }
    }

    struct Bound: Sendable {
        var tag: Character
        var most: UInt32
        init(_ tag: Character, _ most: Int) {
            self.tag = tag
            self.most = UInt32(most)
        }
    }

    @Test(arguments: [
        Bound("Q", WireLimits.messageMax), Bound("P", WireLimits.messageMax),
        Bound("B", WireLimits.messageMax),
        Bound("d", WireLimits.messageMax), Bound("F", WireLimits.messageMax),
        Bound("f", WireLimits.messageMax),
        Bound("S", 4), Bound("H", 4), Bound("E", WireLimits.smallMessageMax), Bound("D", WireLimits.smallMessageMax),
        Bound("C", WireLimits.smallMessageMax), Bound("c", WireLimits.smallMessageMax),
        Bound("X", WireLimits.smallMessageMax), Bound("p", WireLimits.authenticationMessageMax),
    ])
    func `a client's message is as long as its type may be and not longer`(bound: Bound) {
        let tag = bound.tag.asciiValue ?? 0
        for length in [4, bound.most] {
            #expect(FrameHeader(tag: tag, length: length).frontendError() == nil, "length \(length)")
        }
        for length in [0, 1, 3, bound.most + 1, 0x7FFF_FFFF, 0x8000_0000, UInt32.max] {
            #expect(
                FrameHeader(tag: tag, length: length).frontendError()
                    == .lengthOutOfRange(tag: tag, length: length))
        }
    }

    @Test func `a client's type that the protocol does not have is refused whatever its length`() {
        let known = Set("QPBdFfSEHDCcXp".utf8)
        for tag in UInt8.min...UInt8.max where !known.contains(tag) {
            #expect(FrameHeader(tag: tag, length: 4).frontendError() == .unexpectedMessage(tag: tag))
        }
    }

    @Test func `a server's message of any type has a bounded length`() {
        let most = UInt32(WireLimits.messageMax)
        for tag in [UInt8.min, 0x5A, UInt8.max] {
            for length in [4, most] { #expect(FrameHeader(tag: tag, length: length).backendError() == nil) }
            for length in [0, 3, most + 1, UInt32.max] {
                #expect(
                    FrameHeader(tag: tag, length: length).backendError()
                        == .lengthOutOfRange(tag: tag, length: length))
            }
        }
    }
}
