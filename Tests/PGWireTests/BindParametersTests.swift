import SQLAnalysis
import Testing

@testable import PGWire

@Suite struct BindParametersTests {
    /// A Bind message's body behind the statement's name.
    private func body(_ values: [[UInt8]?], formats: [Int16] = []) -> [UInt8] {
        var bytes: [UInt8] = []
        func int16(_ value: Int) { bytes += [UInt8(truncatingIfNeeded: value >> 8), UInt8(truncatingIfNeeded: value)] }
        int16(formats.count)
        for format in formats { int16(Int(format)) }
        int16(values.count)
        for value in values {
            let length = value?.count ?? -1
            for shift in [24, 16, 8, 0] { bytes.append(UInt8(truncatingIfNeeded: length >> shift)) }
            bytes += value ?? []
        }
        int16(0)
        return bytes
    }

    private func value(_ bytes: [UInt8], _ number: Int) -> (bytes: [UInt8], isBinary: Bool)? {
        bytes.withUnsafeBytes { raw in
            BindParameters(BodyReader(raw))?.value(number).map { (Array($0.bytes), $0.isBinary) }
        }
    }

    @Test func `values are found by their number, NULL and what is not there are none`() {
        let bytes = body([[1], nil, [], [2, 3]])
        #expect(value(bytes, 1)?.bytes == [1])
        #expect(value(bytes, 2) == nil)
        #expect(value(bytes, 3)?.bytes == [])
        #expect(value(bytes, 4)?.bytes == [2, 3])
        #expect(value(bytes, 5) == nil && value(bytes, 0) == nil && value(bytes, -1) == nil)
    }

    @Test func `one format counts for all, several each for their own, none is text`() {
        #expect(value(body([[1], [2]]), 2)?.isBinary == false)
        #expect(value(body([[1], [2]], formats: [1]), 2)?.isBinary == true)
        #expect(value(body([[1], [2]], formats: [1, 0]), 1)?.isBinary == true)
        #expect(value(body([[1], [2]], formats: [1, 0]), 2)?.isBinary == false)
    }

    @Test func `all values are those that their numbers give, and of a body cut short there are none`() throws {
        let bytes = body([[1], nil, [], [2, 3]], formats: [1, 0, 0, 1])
        try bytes.withUnsafeBytes { raw in
            let parameters = try #require(BindParameters(BodyReader(raw)))
            let all = try #require(parameters.all)
            #expect(all.map { $0.map { Array($0.bytes) } } == [[1], nil, [], [2, 3]])
            #expect(all.map { $0?.isBinary } == [true, nil, false, true])
        }
        // Without the last value's last byte and the count of formats behind it.
        bytes.dropLast(3).withUnsafeBytes { raw in
            #expect(BindParameters(BodyReader(raw)).map { $0.all == nil } == true)
        }
        body([]).withUnsafeBytes { raw in #expect(BindParameters(BodyReader(raw))?.all?.isEmpty == true) }
    }

    @Test func `a body cut anywhere gives fewer values and never a wrong one`() {
        let whole = body([[1, 2, 3], [4, 5]], formats: [1, 1])
        for length in 0..<whole.count {
            let cut = Array(whole[..<length])
            for (number, expected) in [(1, [1, 2, 3] as [UInt8]), (2, [4, 5])] {
                #expect(value(cut, number).map { $0.bytes == expected } ?? true)
            }
        }
    }

    /// Literals, text parameters and binary parameters of one value are one key.
    @Test(arguments: [
        ("42", 20, [0, 0, 0, 0, 0, 0, 0, 42], "42"), ("42", 23, [0, 0, 0, 42], "42"), ("42", 21, [0, 42], "42"),
        ("-7", 20, [255, 255, 255, 255, 255, 255, 255, 249], "-7"), ("-7", 21, [255, 249], "-7"),
        ("+007", 20, [0, 0, 0, 0, 0, 0, 0, 7], "7"), ("0", 23, [0, 0, 0, 0], "0"),
        ("alice", 25, Array("alice".utf8), "alice"), ("bob1", 25, Array("bob1".utf8), "bob1"),
        ("bob1", 1043, Array("bob1".utf8), "bob1"), ("bob  ", 1042, Array("bob".utf8), "bob"),
        ("äöü", 25, Array("äöüx".utf8.dropLast()), "äöü"),
        ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", 2950,
         [0xA0, 0xEE, 0xBC, 0x99, 0x9C, 0x0B, 0x4E, 0xF8, 0xBB, 0x6D, 0x6B, 0xB9, 0xBD, 0x38, 0x0A, 0x11],
         "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("{a0eebc999c0b4ef8bb6d6bb9bd380a11}", 2950,
         [0xA0, 0xEE, 0xBC, 0x99, 0x9C, 0x0B, 0x4E, 0xF8, 0xBB, 0x6D, 0x6B, 0xB9, 0xBD, 0x38, 0x0A, 0x11],
         "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ] as [(String, UInt32, [UInt8], String)])
    func `a key is the same in text and in binary`(text: String, type: UInt32, binary: [UInt8], key: String) {
        let fromText = Array(text.utf8).withUnsafeBytes { RoutingKeyText.parameter($0, isBinary: false, type: type) }
        let fromBinary = binary.withUnsafeBytes { RoutingKeyText.parameter($0, isBinary: true, type: type) }
        #expect(fromText == Array(key.utf8))
        #expect(fromBinary == Array(key.utf8))
    }

    @Test func `what is no key of its type is none`() {
        let none: [([UInt8], Bool, UInt32)] = [
            ([], false, 25), (Array("4x".utf8), false, 23), (Array("1.5".utf8), false, 20), ([1, 2, 3], true, 23),
            ([1], true, 2950), ([0, 1, 2, 3, 4, 5, 6, 7], true, 701), ([0xFF, 0xFE, 0xFD], true, 0), ([], true, 0),
            // Of an unknown type: an integer, or a text that looks like one.
            (Array("bob1".utf8), true, 0), ([0, 0, 0, 42], true, 0), (Array("alice".utf8), true, 0),
            ([UInt8](repeating: 65, count: RoutingKeyText.bytesMax + 1), false, 25),
        ]
        for (bytes, isBinary, type) in none {
            #expect(bytes.withUnsafeBytes { RoutingKeyText.parameter($0, isBinary: isBinary, type: type) } == nil)
        }
        let longest = [UInt8](repeating: 65, count: RoutingKeyText.bytesMax)
        #expect(longest.withUnsafeBytes { RoutingKeyText.parameter($0, isBinary: false, type: 25) } == longest)
    }

    /// Drivers give back what they have read, with all blanks.
    @Test func `of char(n) blanks at the end are no part of a key`() {
        Array("bob  ".utf8).withUnsafeBytes { bytes in
            for named: UInt32 in [0, 25, 1042, 1043] {
                let type = RoutingKeyText.valueType(named: named, column: 1042)
                #expect(RoutingKeyText.parameter(bytes, isBinary: false, type: type) == Array("bob".utf8))
            }
            #expect(RoutingKeyText.valueType(named: 25, column: 1043) == 25)
            #expect(RoutingKeyText.valueType(named: 0, column: 1043) == 1043)
            #expect(!RoutingKeyText.isKey(bytes, ofColumnType: 1042))
            #expect(RoutingKeyText.isKey(bytes, ofColumnType: 1043))
            #expect(RoutingKeyText.literalKey(bytes, columnType: 1042) == Array("bob".utf8))
        }
    }

    @Test func `types are read behind the text`() {
        let bytes: [UInt8] = [0, 2, 0, 0, 0, 23, 0, 0, 11, 134]
        bytes.withUnsafeBytes { raw in
            let types = ParameterTypes(BodyReader(raw))
            #expect(types[1] == 23 && types[2] == 2950 && types[3] == 0 && types[0] == 0)
        }
        for length in 0..<bytes.count {
            bytes.withUnsafeBytes { raw in
                #expect(ParameterTypes(BodyReader(UnsafeRawBufferPointer(rebasing: raw[..<length])))[2] == 0)
            }
        }
    }
}
