import Console
import PGWire
import Testing

@Suite struct ConsoleReportTests {
    private func bytes(_ report: ConsoleReport) -> [UInt8] {
        var writer = MessageWriter()
        report.write(to: &writer)
        return writer.bytes
    }

    private static let end: [UInt8] =
        [0x43, 0, 0, 0, 9] + Array("SHOW".utf8) + [0] + [0x5A, 0, 0, 0, 5, 0x49]

    @Test func `a report has the bytes of a query's answer`() {
        var report = ConsoleReport([.init("a"), .init("n", .bigint)])
        report.append(["é", nil])
        report.append(["", "12"])
        var expected: [UInt8] = [0x54, 0, 0, 0, 46, 0, 2]
        expected +=
            [0x61, 0] + [0, 0, 0, 0, 0, 0] + [0, 0, 0, 25] + [0xFF, 0xFF] + [0xFF, 0xFF, 0xFF, 0xFF] + [0, 0]
        expected +=
            [0x6E, 0] + [0, 0, 0, 0, 0, 0] + [0, 0, 0, 20] + [0, 8] + [0xFF, 0xFF, 0xFF, 0xFF] + [0, 0]
        expected += [0x44, 0, 0, 0, 16, 0, 2, 0, 0, 0, 2, 0xC3, 0xA9, 0xFF, 0xFF, 0xFF, 0xFF]
        expected += [0x44, 0, 0, 0, 16, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0x31, 0x32]
        #expect(bytes(report) == expected + Self.end)
    }

    @Test(
        arguments: [
            (.text, [0, 0, 0, 25, 0xFF, 0xFF]), (.integer, [0, 0, 0, 23, 0, 4]),
            (.bigint, [0, 0, 0, 20, 0, 8]),
            (.numeric, [0, 0, 6, 164, 0xFF, 0xFF]),
        ] as [(ConsoleReport.ColumnType, [UInt8])])
    func `a column's type is PostgreSQL's`(type: ConsoleReport.ColumnType, wire: [UInt8]) {
        #expect(Array(bytes(ConsoleReport([.init("a", type)]))[15..<21]) == wire)
    }

    @Test func `a report without rows and columns is whole all the same`() {
        #expect(bytes(ConsoleReport([])) == [0x54, 0, 0, 0, 6, 0, 0] + Self.end)
    }

    @Test func `a zero within a value stays, for its length is given`() {
        var report = ConsoleReport([.init("a")])
        report.append(["a\u{0}b"])
        let row: [UInt8] = [0x44, 0, 0, 0, 13, 0, 1, 0, 0, 0, 3, 0x61, 0, 0x62]
        #expect(Array(bytes(report).suffix(row.count + Self.end.count)) == row + Self.end)
    }

    @Test(arguments: [[], ["a"], ["a", "b", "c"]] as [[String?]])
    func `rows are kept as they are appended`(extra: [String?]) {
        var report = ConsoleReport(extra.map { .init($0 ?? "") })
        report.append(extra)
        #expect(report.rows == [extra])
    }

    @Test func `a row with another number of columns is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var report = ConsoleReport([.init("a")])
            report.append(["a", "b"])
        }
    }
}
