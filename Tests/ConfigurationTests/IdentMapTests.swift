import Testing

@testable import Configuration

@Suite struct IdentMapTests {
    private func map(_ text: String) throws -> IdentMap { try IdentMap.parse(text: text, path: "ident", map: "m") }

    @Test(arguments: [
        ("m ann ann", "ann", "ann", true), ("m ann ann", "ann", "bob", false), ("m ann ann", "bob", "ann", false),
        ("m ann bob\nm ann eve", "ann", "eve", true), ("# m ann ann\nm x y", "ann", "ann", false),
        ("m \"ann b\" ann # comment", "ann b", "ann", true), ("m ann all", "ann", "anybody", true),
        ("m ann \"all\"", "ann", "anybody", false), ("other ann ann\nm x y", "ann", "ann", false),
        ("m /^a[a-z]+$ app", "ann", "app", true), ("m /^a[a-z]+$ app", "xann", "app", false),
        ("m /^(.*)@example\\.com$ \\1", "ann@example.com", "ann", true),
        ("m /^(.*)@example\\.com$ \\1", "ann@example.com", "bob", false),
        ("m /^(.*)@example\\.com$ \\1", "ann@exampleXcom", "ann", false),
        ("m /^(.*)@example\\.com$ \\1", "@example.com", "ann", false),
        ("m /^svc-(.*)$ \\1_role", "svc-pay", "pay_role", true),
        ("m\tann\tann\r\n", "ann", "ann", true),
    ])
    func `a line lets a name be a user`(text: String, name: String, user: String, isAllowed: Bool) throws {
        #expect(try map(text).allows(name, as: user) == isAllowed)
    }

    @Test(arguments: [
        ("m ann", "ident:1: expected map, system name and user, found 2 words"),
        ("m a b\nm a b c", "ident:2: expected map, system name and user, found 4 words"),
        ("m \"ann ann", "ident:1: expected a closing quote, found the end of the line"),
        ("m /a(b ann", "cannot read the regular expression"),
        ("m ann \\1", "\\1 needs a regular expression"),
        ("m /a.*(.*)$ \\1", "\\1 needs a regular expression of the form"),
        ("other a b", "ident: expected lines of the map \"m\", found none"),
        ("", "ident: expected lines of the map \"m\", found none"),
    ])
    func `what is wrong is named with its line`(text: String, words: String) {
        do {
            _ = try IdentMap.parse(text: text, path: "ident", map: "m")
            Issue.record("accepted")
        } catch {
            #expect("\(error)".contains(words), "\(error)")
        }
    }
}
