import PGWire
import Testing

@Suite struct PreparedPasswordTests {
    /// What RFC 4013, section 3, and PostgreSQL's own preparation make of these; nil: it cannot be prepared.
    static let examples: [(String, String?)] = [
        ("I\u{AD}X", "IX"), ("user", "user"), ("USER", "USER"), ("\u{AA}", "a"), ("\u{2168}", "IX"),
        ("\u{7}\u{E9}", nil), ("\u{627}1", nil), ("\u{627}1\u{627}", "\u{627}1\u{627}"), ("a\u{627}", nil),
        ("\u{AD}", nil), ("\u{FB01}ne", "fine"), ("e\u{301}", "\u{E9}"), ("\u{1E9B}\u{323}", "\u{1E69}"),
        ("\u{FF21}\u{FF22}", "AB"), ("a\u{A0}b", "a b"), ("\u{3000}x\u{1680}", " x "), ("\u{AC00}", "\u{AC00}"),
        ("\u{1100}\u{1161}", "\u{AC00}"), ("\u{212B}", "\u{C5}"), ("\u{2126}", "\u{3A9}"),
        ("\u{958}", "\u{915}\u{93C}"), ("\u{344}", "\u{308}\u{301}"), ("\u{3D3}", "\u{38E}"), ("\u{221}x", nil),
        ("\u{E000}", nil), ("\u{200D}z", "z"), ("\u{378}", nil), ("\u{1D400}", "A"),
        ("\u{5D0}\u{5D1}", "\u{5D0}\u{5D1}"),
    ]

    @Test(arguments: examples)
    func `a password is prepared, or taken as it is`(password: String, prepared: String?) {
        #expect(PreparedPassword.bytes(password) == Array((prepared ?? password).utf8))
    }

    @Test(arguments: [[], [0xFF], [0x61, 0xC3], [0xED, 0xA0, 0x80], [7], Array("a b\u{7F}".utf8)] as [[UInt8]])
    func `what is not UTF-8 is taken as it is, and so is all ASCII`(password: [UInt8]) {
        #expect(PreparedPassword.bytes(password) == password)
    }

    @Test func `both ends come to the same keys`() throws {
        let secret = SCRAMSecret(password: "\u{FB01}ne\u{AD}", salt: [1])
        #expect(secret == SCRAMSecret(password: "fine", salt: [1]))
    }
}
