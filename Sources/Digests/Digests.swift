import COpenSSL

/// The digests that PostgreSQL's authentication and our buckets need, by OpenSSL. Any thread, no state.
package enum Digest {
    // OpenSSL 3 looks for the implementation of EVP_sha256() and its kin again with each use, which takes longer than
    // to digest a little.
    // unsafe: set once, and never written to: any thread may use them.
    private nonisolated(unsafe) static let sha256Type = EVP_MD_fetch(nil, "SHA256", nil)
    private nonisolated(unsafe) static let md5Type = EVP_MD_fetch(nil, "MD5", nil)

    package static func md5(_ bytes: [UInt8]) -> [UInt8] { digest(bytes, md5Type, size: 16) }

    /// MD5 as one number, the first byte the most significant. Allocates nothing of ours: each routed statement asks.
    package static func md5Value(_ bytes: [UInt8]) -> UInt128 {
        var value: UInt128 = 0
        withUnsafeMutableBytes(of: &value) { fill($0, bytes, md5Type) }
        return UInt128(bigEndian: value)
    }

    package static func sha256(_ bytes: [UInt8]) -> [UInt8] { digest(bytes, sha256Type, size: 32) }

    /// By RFC 2104 itself: OpenSSL's one-shot HMAC spends four fifths of its time on looking for what it is to use.
    package static func hmacSHA256(key: [UInt8], _ bytes: [UInt8]) -> [UInt8] {
        let blockBytes = 64
        let key = key.count > blockBytes ? sha256(key) : key
        var inner = [UInt8](repeating: 0x36, count: blockBytes)
        var outer = [UInt8](repeating: 0x5C, count: blockBytes)
        for index in key.indices {
            inner[index] ^= key[index]
            outer[index] ^= key[index]
        }
        return sha256(outer + sha256(inner + bytes))
    }

    /// PBKDF2 with HMAC-SHA-256 (RFC 8018), as SCRAM's Hi().
    package static func pbkdf2(password: [UInt8], salt: [UInt8], iterations: Int) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: 32)
        let done = password.withUnsafeBytes { raw in
            PKCS5_PBKDF2_HMAC(
                raw.baseAddress?.assumingMemoryBound(to: CChar.self), CInt(password.count), salt, CInt(salt.count),
                CInt(iterations), EVP_sha256(), 32, &output)
        }
        precondition(done == 1, "OpenSSL has no PBKDF2")
        return output
    }

    /// Equal or not, in a time that does not depend on where they differ.
    package static func equal(_ left: [UInt8], _ right: [UInt8]) -> Bool {
        left.count == right.count && CRYPTO_memcmp(left, right, left.count) == 0
    }

    /// Bytes from the system's secure generator.
    package static func randomBytes(_ count: Int) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: count)
        precondition(RAND_bytes(&output, CInt(count)) == 1, "no random bytes from OpenSSL")
        return output
    }

    private static func digest(_ bytes: [UInt8], _ type: OpaquePointer?, size: Int) -> [UInt8] {
        var output = [UInt8](repeating: 0, count: size)
        output.withUnsafeMutableBytes { fill($0, bytes, type) }
        return output
    }

    private static func fill(_ output: UnsafeMutableRawBufferPointer, _ bytes: [UInt8], _ type: OpaquePointer?) {
        var length: UInt32 = 0
        let done = EVP_Digest(
            bytes, bytes.count, output.baseAddress?.assumingMemoryBound(to: UInt8.self), &length, type, nil)
        precondition(done == 1 && Int(length) == output.count, "OpenSSL lacks a digest")
    }
}
