import Digests
import Foundation
import Primitives
import Testing

@testable import Configuration

@Suite struct LinearPatternTests {
    @Test(arguments: [
        ("abc", "xabcx", true), ("^abc$", "abc", true), ("^abc$", "abcd", false), ("a.c", "aäc", true), ("a.c", "ac", false),
        ("a*", "", true), ("^a+$", "aaa", true), ("^a+$", "", false), ("^(ab|cd)+$", "abcdab", true), ("^(ab|cd)+$", "abc", false),
        ("^a?b$", "b", true), ("^a{2,3}$", "aa", true), ("^a{2,3}$", "aaaa", false), ("^a{2}$", "aaa", false), ("^a{2,}$", "aaaaa", true),
        ("[a-c]+", "xxb", true), ("^[^a-c]$", "d", true), ("^[^a-c]$", "ü", true), ("^[^a-c]$", "b", false), ("\\d+", "x7", true),
        ("^\\w+$", "a_1", true), ("^\\D$", "7", false), ("\\s", "a b", true), ("\\.", "a", false), ("(?i)^copy ", "COPY t", true),
        ("a|b|c", "c", true), ("^(a|b|c)$", "d", false), ("(?:ab)+c", "ababc", true), ("^[]a]$", "]", true), ("^[a-]$", "-", true),
        ("^a*?b$", "aab", true), ("", "anything", true), ("^$", "", true), ("^$", "x", false), ("x|", "y", true), ("a{0}b", "b", true),
    ])
    func `a regular expression matches as everywhere`(pattern: String, text: String, isMatch: Bool) throws {
        #expect(try LinearPattern(regex: pattern).matches(text) == isMatch)
    }

    @Test(arguments: [
        ("eu-*", "eu-7", true), ("eu-*", "xeu-7", false), ("*7", "eu-7", true), ("a?c", "aüc", true), ("a?c", "ac", false), ("*", "", true),
        ("a*b*c", "aXXbYYc", true), ("a*b*c", "aXXbYY", false), ("a.c", "abc", false), ("a[b]", "a[b]", true), ("", "", true), ("", "a", false),
    ])
    func `a glob matches the whole text`(pattern: String, text: String, isMatch: Bool) throws {
        #expect(try LinearPattern(glob: pattern).matches(text) == isMatch)
    }

    @Test(arguments: [
        ("(", LinearPattern.Failure.unclosed("'('")), (")", .unknown("')'")), ("[a", .unclosed("'['")), ("*", .nothingToRepeat),
        ("a{101}", .repeatsTooOften(max: 100)), ("a{3,2}", .unknown("'{'")), ("\\b", .unknown("'\\b'")), ("(?=a)", .unknown("'(?'")),
        ("[ä]", .unknown("a character beyond ASCII within '['")), ("(a{100}){100}", .tooLong(max: 500)), ("a\\", .unclosed("'\\'")),
        (String(repeating: "(", count: 60), .nestedTooDeeply(max: 50)), (String(repeating: "a", count: 500), .tooLong(max: 500)),
    ])
    func `what cannot be read is refused`(pattern: String, failure: LinearPattern.Failure) {
        #expect(throws: failure) { try LinearPattern(regex: pattern) }
    }

    @Test func `the most steps are taken`() throws {
        let pattern = String(repeating: "a", count: LinearPattern.stepsMax - 1)
        #expect(try LinearPattern(regex: pattern).matches(pattern))
    }

    /// Each of these takes longer than the universe has existed where matching tries again.
    @Test(arguments: ["^(a+)+$", "^(a|aa)+$", "^(a|a)*$", "(a*)*(a*)*(a*)*b", "^(.*a){20}$"])
    func `no pattern is catastrophic`(pattern: String) throws {
        let start = MonotonicInstant.now()
        _ = try LinearPattern(regex: pattern).matches(String(repeating: "a", count: 2000) + "!")
        #expect(MonotonicInstant.now().nanoseconds(since: start) < 20_000_000_000)
    }
}

@Suite struct CohortFileTests {
    private func load(_ text: String) throws -> CohortFile {
        let path = "/tmp/godwit-cohort-\(UInt64.random(in: 0...UInt64.max)).txt"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: path) }
        return try CohortFile.load(path: path)
    }

    @Test func `each line is a key, blanks at its end and empty lines are none`() throws {
        let file = try load("alice\nbob  \r\n\n  \ncarol\nalice")
        #expect(file.count == 3)
        for key in ["alice", "bob", "carol"] { #expect(file.contains(Digest.md5Value(Array(key.utf8)))) }
        for key in ["dave", "", "bob  ", "alic"] { #expect(!file.contains(Digest.md5Value(Array(key.utf8)))) }
    }

    @Test func `a file without keys has none`() throws {
        #expect(try load("").count == 0)
        #expect(try !load("\n").contains(0))
    }

    @Test func `a line of the most bytes is a key, a byte more is refused with its line`() throws {
        let most = String(repeating: "k", count: CohortFile.lineBytesMax)
        #expect(try load(most).count == 1)
        #expect(throws: SettingsError.Reason.self) { try load("a\n\(most)k\n") }
    }

    @Test func `two hundred thousand keys are all found, and no others`() throws {
        let file = try load((0..<200_000).map { "user-\($0)" }.joined(separator: "\n"))
        #expect(file.count == 200_000)
        let strangers = (200_000..<210_000).count { file.contains(Digest.md5Value(Array("user-\($0)".utf8))) }
        let members = stride(from: 0, to: 200_000, by: 37).count { !file.contains(Digest.md5Value(Array("user-\($0)".utf8))) }
        #expect(strangers == 0 && members == 0)
    }
}
