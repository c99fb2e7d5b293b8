import Foundation
import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

@Suite(.serialized) struct MirrorLargeTests {
    /// Kibibytes of this process that are in memory now, or were at most.
    static func memory(_ name: String) throws -> Int {
        let text = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix(name + ":") })
        return try #require(line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) })
    }

    /// GODWIT_LARGE_ROWS: another number; 10,000,000 take a few minutes and gigabytes.
    static let rows = ProcessInfo.processInfo.environment["GODWIT_LARGE_ROWS"].flatMap { Int($0) } ?? 2_000_000

    @Test func `a transaction of millions of rows is one batch, in little memory`() throws {
        let harness = try MirrorHarness.mirroring("CREATE TABLE big (id int PRIMARY KEY, v text, w int)")
        let old = try harness.writer(), new = try harness.connectNew()
        let before = try Self.memory("VmRSS")
        try old.execute("INSERT INTO big SELECT g, 'some text that is not short ' || g, g FROM generate_series(1, \(Self.rows)) g")
        try harness.settle()
        let count = "SELECT count(*), sum(hashtextextended(big::text, 0)) FROM public.big"
        let left = try old.query(count), right = try new.query(count)
        #expect(left[0, 0] == "\(Self.rows)" && left[0, 0] == right[0, 0] && left[0, 1] == right[0, 1])
        #expect(try new.query("SELECT count(DISTINCT xmin::text) FROM public.big").integer(0, 0) == 1, "one transaction")
        let grown = try Self.memory("VmRSS") - before
        print("a transaction of \(Self.rows) rows: \(grown) KiB")
        #expect(grown < 100_000)
        #expect(harness.horizon.report.state == .mirroring)
    }
}
