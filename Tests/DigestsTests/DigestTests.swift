import Digests
import Testing

@Suite struct DigestTests {
    private static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// RFC 1321, appendix A.5.
    @Test(arguments: [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("a", "0cc175b9c0f1b6a831c399e269772661"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a"
        ),
    ])
    func `md5 gives the vectors of RFC 1321`(text: String, digest: String) {
        #expect(Self.hex(Digest.md5(Array(text.utf8))) == digest)
        #expect(Digest.md5Value(Array(text.utf8)) == UInt128(digest, radix: 16))
    }

    /// FIPS 180-2, appendix B.
    @Test(arguments: [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        ),
    ])
    func `sha256 gives the vectors of FIPS 180-2`(text: String, digest: String) {
        #expect(Self.hex(Digest.sha256(Array(text.utf8))) == digest)
    }

    @Test(
        arguments: [
            (
                [UInt8](repeating: 0x0B, count: 20), Array("Hi There".utf8),
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
            ),
            (
                Array("Jefe".utf8), Array("what do ya want for nothing?".utf8),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
            ),
            (
                [UInt8](repeating: 0xAA, count: 20), [UInt8](repeating: 0xDD, count: 50),
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
            ),
            (
                Array(1...25), [UInt8](repeating: 0xCD, count: 50),
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"
            ),
            (
                [UInt8](repeating: 0xAA, count: 131),
                Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8),
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
            ),
        ] as [([UInt8], [UInt8], String)])
    func `HMAC gives the vectors of RFC 4231`(key: [UInt8], text: [UInt8], digest: String) {
        #expect(Self.hex(Digest.hmacSHA256(key: key, text)) == digest)
    }

    @Test func `HMAC works with an empty key and an empty text`() {
        #expect(
            Self.hex(Digest.hmacSHA256(key: [], []))
                == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
    }

    /// The first is RFC 7914, section 11 (its first 32 bytes);
    /// the others are the usual SHA-256 forms of RFC 6070.
    @Test(arguments: [
        ("passwd", "salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"),
        ("password", "salt", 1, "120fb6cffcf8b32c43e7225256c4f837a86548c92ccc35480805987cb70be17b"),
        ("password", "salt", 2, "ae4d0c95af6b46d32d0adff928f06dd02a303f8ef3c251dfd6e2d85a95474c43"),
        ("password", "salt", 4096, "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"),
    ])
    func `PBKDF2 gives known vectors`(password: String, salt: String, iterations: Int, key: String) {
        let derived = Digest.pbkdf2(
            password: Array(password.utf8), salt: Array(salt.utf8), iterations: iterations)
        #expect(Self.hex(derived) == key)
    }

    @Test func `PBKDF2 takes an empty password`() {
        let derived = Digest.pbkdf2(password: [], salt: [1], iterations: 1)
        #expect(derived.count == 32)
        #expect(derived != Digest.pbkdf2(password: [0x20], salt: [1], iterations: 1))
    }

    @Test(
        arguments: [
            ([], [], true), ([1], [1], true), ([1], [2], false), ([1, 2], [1], false), ([], [0], false),
            ([1, 2, 3], [1, 2, 4], false),
        ] as [([UInt8], [UInt8], Bool)])
    func `bytes are equal only when all are and as many`(left: [UInt8], right: [UInt8], areEqual: Bool) {
        #expect(Digest.equal(left, right) == areEqual)
    }

    @Test func `random bytes are as many as asked for and not twice the same`() {
        #expect(Digest.randomBytes(0) == [])
        #expect(Digest.randomBytes(18).count == 18)
        #expect(Digest.randomBytes(32) != Digest.randomBytes(32))
    }

    @Test func `bytes drawn at once are handed out once, in any size`() {
        var random = RandomBytes()
        var seen: Set<[UInt8]> = []
        for _ in 0..<2000 {
            let bytes = random.take(16)
            #expect(bytes.count == 16)
            seen.insert(bytes)
        }
        #expect(seen.count == 2000)
        #expect(random.take(0) == [])
        #expect(random.take(4096).count == 4096 && random.take(5000).count == 5000)
        #expect(Set(random.take(4096)).count > 200)
    }
}
