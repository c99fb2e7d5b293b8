import Testing

@testable import SQLAnalysis

@Suite struct LooseStringsTests {
    @Test(arguments: [
        (#"SELECT 'it\'s'; SET a.b = 'c'"#, #"SELECT  E'it\'s'; SET a.b = 'c'"#),
        (#"SELECT 'a\\', N'b\'', E'c\'', $$\'$$"#, #"SELECT  E'a\\',  E'b\'', E'c\'', $$\'$$"#),
        ("SELECT 'a'\n '\\''", "SELECT  E'a'\n '\\''"),
        ("SELECT 'a', E'\\n'", nil), ("SELECT 1", nil),
    ] as [(String, String?)])
    func `what plain quotes hold is written as an E-string`(text: String, standard: String?) {
        let found = Array(text.utf8).withUnsafeBytes { LooseStrings.standard($0) }
        #expect(found.map { String(decoding: $0, as: UTF8.self) } == standard)
    }

    @Test func `what stands behind an escaped quote is seen`() throws {
        let text = Array(#"UPDATE t SET a = 'it\'s'; SET work_mem = 64 /* user_id=7 */"#.utf8)
        let standard = try #require(text.withUnsafeBytes { LooseStrings.standard($0) })
        let analysis = analysed(String(decoding: standard, as: UTF8.self))
        let change = SettingChange(name: "work_mem", value: "64", isLocal: false)
        #expect(analysis.classification.effects == [.sets(change)])
        #expect(analysis.key != nil)
    }
}
