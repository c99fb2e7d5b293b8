import Foundation
import LibPQ
import Primitives
import Synchronization
import TestSupport
import Testing

@testable import Verification

/// A comparison that was cut off goes on where it was, and compares again what it cannot stand for.
@Suite(.serialized) struct VerifyLedgerTests {
    static let subject = VerifyLedger.Subject(source: "1/a", target: "2/a")
    static let table = TableName(schema: "public", name: "t")

    /// A file of the test's own, which goes with it.
    final class Scratch {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("ledger-\(UUID().uuidString)").path
        deinit { try? FileManager.default.removeItem(atPath: path) }
    }

    // MARK: the file

    /// Two ranges, and then the last one.
    private func written(_ scratch: Scratch) throws -> (whole: Data, all: Data) {
        let first = try VerifyLedger(path: scratch.path, subject: Self.subject)
        #expect(first.resumedFrom == nil && first.place(of: Self.table, mark: "m") == .init())
        first.record(Self.table, mark: "m", through: ["10"], rows: 10, differing: 0)
        first.record(Self.table, mark: nil, through: ["2|0\n"], rows: 7, differing: 0)
        let whole = try #require(FileManager.default.contents(atPath: scratch.path))
        first.record(Self.table, mark: nil, through: nil, rows: 3, differing: 0)
        return (whole, try #require(FileManager.default.contents(atPath: scratch.path)))
    }

    @Test func `what was recorded is there again, but for a line that was cut off`() throws {
        let scratch = Scratch()
        let (whole, all) = try written(scratch)
        for length in whole.count..<all.count {
            try all.prefix(length).write(to: URL(filePath: scratch.path))
            let again = try VerifyLedger(path: scratch.path, subject: Self.subject)
            #expect(again.resumedFrom != nil)
            #expect(again.place(of: Self.table, mark: "m") == .init(after: ["2|0\n"], rows: 17, ranges: 2))
            #expect(FileManager.default.contents(atPath: scratch.path) == whole, "cut off at \(length)")
        }
        try all.write(to: URL(filePath: scratch.path))
        let done = try VerifyLedger(path: scratch.path, subject: Self.subject)
        #expect(done.place(of: Self.table, mark: "m") == .init(after: nil, rows: 20, ranges: 3, isDone: true))
        done.finish()
        #expect(!FileManager.default.fileExists(atPath: scratch.path))
    }

    @Test func `a table that differs, has changed, or begins anew does not go on`() throws {
        let scratch = Scratch()
        func record(_ mark: String?, _ through: [String], differing: Int) throws {
            let ledger = try VerifyLedger(path: scratch.path, subject: Self.subject)
            ledger.record(Self.table, mark: mark, through: through, rows: 1, differing: differing)
        }
        func place(_ mark: String) throws -> VerifyLedger.Place {
            try VerifyLedger(path: scratch.path, subject: Self.subject).place(of: Self.table, mark: mark)
        }
        try record("m", ["1"], differing: 1)
        try record(nil, ["2"], differing: 0)
        #expect(try place("m") == .init())
        try record("m", ["1"], differing: 0)
        #expect(try place("m") == .init(after: ["1"], rows: 1, ranges: 1))
        #expect(try place("other") == .init())
    }

    @Test func `a file of other databases, or none of ours, is refused and left alone`() throws {
        let scratch = Scratch()
        _ = try VerifyLedger(path: scratch.path, subject: Self.subject)
        let other = VerifyLedger.Subject(source: "1/a", target: "3/a")
        #expect(throws: VerifyLedger.Failure.self) { try VerifyLedger(path: scratch.path, subject: other) }
        for text in ["name,age\n", "name", "name\nage", "{}\n{}\n"] {
            try text.write(toFile: scratch.path, atomically: true, encoding: .utf8)
            #expect(throws: VerifyLedger.Failure.self) { try VerifyLedger(path: scratch.path, subject: Self.subject) }
            #expect(try String(contentsOfFile: scratch.path, encoding: .utf8) == text)
        }
        #expect(throws: VerifyLedger.Failure.self) {
            try VerifyLedger(path: "/nowhere/at/all", subject: Self.subject)
        }
    }

    // MARK: comparisons

    @Test func `a comparison goes on behind the ranges that were compared, and the next one begins anew`() throws {
        let pair = try MirroredPair(schema: """
            CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
            INSERT INTO a SELECT g, g FROM generate_series(1, 5000) g;
            INSERT INTO b SELECT g, g FROM generate_series(1, 50) g
            """)
        let scratch = Scratch()
        var options = Verifier.Options()
        (options.readers, options.rangeRows, options.ledgerPath) = (1, 100, scratch.path)
        let old = try ConnectionString(parsing: pair.oldConninfo), new = try ConnectionString(parsing: pair.newConninfo)
        // As a crash would leave it: the file in mid-comparison.
        let seen = Mutex<Data?>(nil), words = Mutex<[String]>([])
        let path = scratch.path
        let verifier = Verifier(old: old, new: new, options: options) { line in
            words.withLock { $0.append(line) }
            if line.contains("rows compared"), !line.contains("done") {
                seen.withLock { $0 = $0 ?? FileManager.default.contents(atPath: path) }
            }
        }
        let whole = try verifier.run()
        #expect(whole.outcome == .equal && whole.tables.map(\.ranges) == [51, 1])
        #expect(!FileManager.default.fileExists(atPath: path))
        let middle = try #require(seen.withLock { $0 })
        #expect(words.withLock { $0 }.allSatisfy { !$0.hasPrefix("goes on") })

        // What was compared before is not looked at again; what was not, is.
        let session = try Connection.open(new, purpose: "test")
        try session.execute("UPDATE public.a SET v = 'x' WHERE id IN (5, 4900)")
        try middle.write(to: URL(filePath: path))
        let resumed = try verifier.run()
        #expect(words.withLock { $0 }.contains { $0.hasPrefix("goes on") })
        #expect(resumed.tables.map(\.rows) == whole.tables.map(\.rows))
        #expect(resumed.tables.map(\.ranges) == whole.tables.map(\.ranges))
        #expect(resumed.tables[0].keys.map(\.key) == [["4900"]])
        #expect(!FileManager.default.fileExists(atPath: path))
        #expect(try verifier.run().tables[0].differing == 2)

        // Another column: another comparison.
        try middle.write(to: URL(filePath: path))
        for target in [old, new] {
            try Connection.open(target, purpose: "test").execute("ALTER TABLE public.a ADD COLUMN more int")
        }
        #expect(try verifier.run().tables[0].differing == 2)
    }

    @Test func `tables whose names look alike have places of their own`() throws {
        let scratch = Scratch()
        let names = [("s", "caf\u{e9}"), ("s", "cafe\u{301}"), ("a.b", "c"), ("a", "b.c")]
        let tables = names.map { TableName(schema: $0.0, name: $0.1) }
        let first = try VerifyLedger(path: scratch.path, subject: Self.subject)
        for (index, table) in tables.enumerated() {
            first.record(table, mark: "m", through: ["\(index)"], rows: Int64(index), differing: 0)
        }
        for (index, table) in tables.enumerated() {
            first.record(table, mark: nil, through: ["1\(index)"], rows: Int64(index), differing: 0)
        }
        let again = withExtendedLifetime(first) { FileManager.default.contents(atPath: scratch.path) }
        let other = Scratch()
        try again?.write(to: URL(filePath: other.path))
        let second = try VerifyLedger(path: other.path, subject: Self.subject)
        for (index, table) in tables.enumerated() {
            #expect(second.place(of: table, mark: "m") == .init(after: ["1\(index)"], rows: 2 * Int64(index), ranges: 2))
        }
    }
}
