import COpenSSL

/// The digests that PostgreSQL's authentication and our buckets need, by OpenSSL. Any thread, no state.
package enum Digest {
    // OpenSSL 3 looks for the implementation of EVP_sha256() and its kin again with each use, which takes longer than
    // to digest a little.
    // unsafe: set once, and never written to: any thread may use them.
    private nonisolated(unsafe) static let sha256Type = EVP_MD_fetch(nil, "SHA256", nil)
    private nonisolated(unsafe) static let md5Type = EVP_MD_fetch(nil, "MD5", nil)

    package static func md5(_ bytes: [UInt8]) -> [UInt8] { digest(bytes, md5Type, size: 16) }

    /// MD5 as one number, the first byte the most significant. For many in a row there is `MD5Hasher`.
    package static func md5Value(_ bytes: [UInt8]) -> UInt128 {
        var value: UInt128 = 0
        withUnsafeMutableBytes(of: &value) { fill($0, bytes, md5Type) }
        return UInt128(bigEndian: value)
    }

    fileprivate static func beginMD5(_ context: OpaquePointer?) -> Bool {
        EVP_DigestInit_ex(context, md5Type, nil) == 1
    }

    package static func sha256(_ bytes: [UInt8]) -> [UInt8] { digest(bytes, sha256Type, size: 32) }

    // OpenSSL's one-shot HMAC spends four fifths of its time on looking for what it is to use.
    // unsafe: set up once, and only copied from: any thread may do that.
    private nonisolated(unsafe) static let hmacSHA256Context: OpaquePointer? = {
        guard let hmac = EVP_MAC_fetch(nil, "HMAC", nil), let context = EVP_MAC_CTX_new(hmac) else { return nil }
        var digest = Array("SHA256".utf8CString)
        return digest.withUnsafeMutableBufferPointer { name in
            var settings = [
                OSSL_PARAM_construct_utf8_string("digest", name.baseAddress, 0), OSSL_PARAM_construct_end(),
            ]
            return EVP_MAC_CTX_set_params(context, &settings) == 1 ? context : nil
        }
    }()

    package static func hmacSHA256(key: [UInt8], _ bytes: [UInt8]) -> [UInt8] {
        let context = EVP_MAC_CTX_dup(hmacSHA256Context)
        defer { EVP_MAC_CTX_free(context) }
        var output = [UInt8](repeating: 0, count: 32)
        var length = 0
        let isDone = EVP_MAC_init(context, key, key.count, nil) == 1
            && EVP_MAC_update(context, bytes, bytes.count) == 1
            && EVP_MAC_final(context, &output, &length, output.count) == 1
        precondition(isDone && length == 32, "OpenSSL has no HMAC-SHA-256")
        return output
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

/// MD5 again and again, with the memory of the first time. One thread.
package final class MD5Hasher {
    private let context = EVP_MD_CTX_new()

    package init() {}

    deinit { EVP_MD_CTX_free(context) }

    /// As one number, the first byte the most significant.
    package func value(of bytes: UnsafeRawBufferPointer) -> UInt128 {
        var value: UInt128 = 0
        let isDone = withUnsafeMutableBytes(of: &value) { digest in
            Digest.beginMD5(context) && EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) == 1
                && EVP_DigestFinal_ex(context, digest.baseAddress?.assumingMemoryBound(to: UInt8.self), nil) == 1
        }
        precondition(isDone, "OpenSSL has no MD5")
        return UInt128(bigEndian: value)
    }
}
