import PGWire
import Primitives
import Testing

@Suite struct Base64Tests {
    /// RFC 4648, section 10.
    @Test(arguments: [
        ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ])
    func `the vectors of RFC 4648 go both ways`(text: String, encoded: String) {
        #expect(Base64.encode(Array(text.utf8)) == Array(encoded.utf8))
        #expect(Base64.decode(encoded.utf8) == Array(text.utf8))
    }

    @Test func `all digits go both ways`() {
        let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        #expect(Base64.decode(digits.utf8).map(Base64.encode) == Array(digits.utf8))
    }

    @Test(arguments: [
        "Z", "Zg", "Zg=", "Zg===", "Zm8", "Zm8==", "Zm9v=", "Zm9v==", "Zm9v====", "=", "==", "====", "=Zg=",
        "Z=g=",
        "Zg==Zg==", " Zg==", "Zg== ", "Zm 9v", "Zm9v\n", "Zm-v", "Zm_v", "Zm9v\u{0}", "Zé==",
    ])
    func `what is not Base64 is refused`(text: String) {
        #expect(Base64.decode(text.utf8) == nil)
    }

    @Test(arguments: [41, 42] as [UInt64])
    func `random bytes come back`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for size in 0..<200 {
            let bytes = (0..<size).map { _ in UInt8.random(in: .min ... .max, using: &random) }
            #expect(Base64.decode(Base64.encode(bytes)) == bytes, "seed \(seed)")
        }
    }
}
