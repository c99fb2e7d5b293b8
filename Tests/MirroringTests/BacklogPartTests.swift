import Testing

@testable import Mirroring

@Suite struct BacklogPartTests {
    /// The key and the row of one line; nil: it is none.
    private static func parsed(_ text: String, keys: Int) -> (key: String, row: String?)? {
        let part = BacklogPart(keyCount: keys, bytesMax: 100)
        return Array(text.utf8).withUnsafeBytes { bytes in
            part.parse(bytes).map { line in
                (String(decoding: line.key, as: UTF8.self), line.row.map { String(decoding: $0, as: UTF8.self) })
            }
        }
    }

    @Test(arguments: [
        ("t\t1\t1\ta\n", 1, "1", "1\ta\n"), ("t\t1\tb\t\\N\n", 2, "1\tb", "\\N\n"), ("t\t\t\t\n", 2, "\t", "\n"),
        ("t\ta\\tb\tx\\\\\n", 1, "a\\tb", "x\\\\\n"),
    ])
    func `a line is a mark, its key and its row`(line: String, keys: Int, key: String, row: String) throws {
        let found = try #require(Self.parsed(line, keys: keys))
        #expect(found.key == key && found.row == row)
    }

    @Test func `a key without a row has none`() throws {
        let found = try #require(Self.parsed("f\t7\t8\t\\N\t\\N\n", keys: 2))
        #expect(found.key == "7\t8" && found.row == nil)
    }

    @Test(arguments: ["", "t", "t\t", "t\t1", "t\t1\t2", "x\t1\t2\t3\n", "t1\t2\t3\n"])
    func `what is cut or marked otherwise is no line`(text: String) {
        #expect(Self.parsed(text, keys: 2) == nil)
    }

    /// What is left of a part that was given these lines, and how many of them found room.
    private static func filled(_ lines: [String], bytesMax: Int) -> (part: BacklogPart, taken: Int) {
        var part = BacklogPart(keyCount: 1, bytesMax: bytesMax), taken = 0
        for line in lines {
            Array(line.utf8).withUnsafeBytes { bytes in
                guard let line = part.parse(bytes), part.hasRoom(for: line) else { return }
                part.append(line)
                taken += 1
            }
        }
        return (part, taken)
    }

    @Test func `a part holds as many bytes of rows as it may, and not one more`() {
        let lines = ["t\t1\t1\taaaaa\n", "t\t2\t2\tbbbbb\n"]
        #expect(Self.filled(lines, bytesMax: 16).taken == 2)
        #expect(Self.filled(lines, bytesMax: 15).taken == 1)
    }

    @Test func `a part holds as many bytes of keys as it may, and not one more`() {
        let lines = ["f\t123\t\\N\n", "f\t456\t\\N\n"]
        #expect(Self.filled(lines, bytesMax: 8).taken == 2)
        #expect(Self.filled(lines, bytesMax: 7).taken == 1)
    }

    @Test func `keys without a row are among the keys and by themselves`() {
        let part = Self.filled(["t\t1\t1\n", "f\t2\t\\N\n", "t\t3\t3\n"], bytesMax: 100).part
        #expect(String(decoding: part.keys, as: UTF8.self) == "1\n2\n3\n")
        #expect(String(decoding: part.absent, as: UTF8.self) == "2\n")
        #expect(String(decoding: part.rows, as: UTF8.self) == "1\n3\n" && part.rowCount == 2)
    }

    @Test func `a part knows its first and its last key, as they are without COPY's escapes`() throws {
        let one = try #require(Self.filled(["t\ta\\tb\\\\\t1\n"], bytesMax: 100).part.bounds)
        #expect(one.first == ["a\tb\\"] && one.last == one.first)
        let some = try #require(Self.filled(["f\t1\t\\N\n", "t\t2\t2\n", "t\t30\t1\n"], bytesMax: 100).part.bounds)
        #expect(some.first == ["1"] && some.last == ["30"])
        #expect(Self.filled([], bytesMax: 100).part.bounds == nil)
        #expect(Self.filled(["f\t\\N\t1\n"], bytesMax: 100).part.bounds == nil)
    }

    @Test(arguments: [
        (#"\\x5c"#, #"\x5c"#), (#"\b\f\n\r\t\v"#, "\u{8}\u{c}\n\r\t\u{b}"), (#"é\\N"#, #"é\N"#), ("", ""),
    ])
    func `COPY's escapes are undone`(written: String, value: String) {
        #expect(CopyText.values(Array(written.utf8)[...]) == [value])
        #expect(CopyText.values(Array("a\t\(written)\tb".utf8)[...]) == ["a", value, "b"])
        #expect(CopyText.values(Array("\(written)\t\\N".utf8)[...]) == nil)
    }

    @Test func `rows that NEW has are updated, and it is looked again after some parts`() {
        var way = BacklogWay()
        way.replaced(deleted: 5, rows: 10)
        #expect(way.way == .replace)
        way.replaced(deleted: 6, rows: 10)
        for _ in 0..<BacklogWay.upsertsMax {
            #expect(way.way == .upsert)
            way.upserted()
        }
        #expect(way.way == .replace)
    }
}
