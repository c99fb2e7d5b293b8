import PGWire
import Testing

@Suite struct BodyReaderTests {
    @Test func `fields come in order and a read past the end gives nil and consumes nothing`() {
        let bytes: [UInt8] = [7, 0xFF, 0xFE, 0x80, 0, 0, 1, 0x61, 0x62, 0, 9, 8]
        bytes.withUnsafeBytes { raw in
            var reader = BodyReader(raw)
            #expect(reader.byte() == 7)
            #expect(reader.int16() == -2)
            #expect(reader.int32() == Int32.min + 1)
            #expect(reader.cString().map { String(wire: $0) } == "ab")
            #expect(reader.cString() == nil)
            #expect(reader.int32() == nil)
            #expect(reader.bytes(3) == nil)
            #expect(reader.bytes(-1) == nil)
            #expect(reader.remaining == 2)
            #expect(reader.bytes(1).map(Array.init) == [9])
            #expect(reader.int16() == nil)
            #expect(Array(reader.rest()) == [8])
            #expect(reader.isAtEnd)
            #expect(reader.byte() == nil)
            #expect(Array(reader.rest()) == [])
            #expect(reader.bytes(0).map(Array.init) == [])
        }
    }

    @Test func `an empty text is a text, and its zero is consumed`() {
        let bytes: [UInt8] = [0, 0, 0x61, 0, 0]
        bytes.withUnsafeBytes { raw in
            var reader = BodyReader(raw)
            #expect(reader.cString()?.isEmpty == true)
            #expect(reader.cString()?.isEmpty == true)
            #expect(reader.cString().map { String(wire: $0) } == "a")
            #expect(reader.cString()?.isEmpty == true)
            #expect(reader.cString() == nil && reader.isAtEnd)
        }
    }

    @Test func `an empty body has no fields`() {
        var reader = BodyReader(UnsafeRawBufferPointer(start: nil, count: 0))
        #expect(reader.isAtEnd)
        #expect(reader.byte() == nil)
        #expect(reader.cString() == nil)
        #expect(Array(reader.rest()) == [])
    }
}
