import Digests

/// What a server keeps of a password for SCRAM-SHA-256 (RFC 5802; PostgreSQL's `SCRAM-SHA-256$…` form). Immutable.
package struct SCRAMSecret: Equatable, Sendable {
    package static let defaultIterations = 4096
    /// More would let one login hold a thread for seconds.
    package static let iterationsMax = 1_000_000

    package let iterations: Int
    package let salt: [UInt8]
    package let storedKey: [UInt8]
    package let serverKey: [UInt8]

    package init(iterations: Int, salt: [UInt8], storedKey: [UInt8], serverKey: [UInt8]) {
        self.iterations = iterations
        self.salt = salt
        self.storedKey = storedKey
        self.serverKey = serverKey
    }

    /// Derives the secret of a password; takes about a millisecond at the default iterations.
    package init(password: String, salt: [UInt8], iterations: Int = defaultIterations) {
        let keys = SCRAMKeys(password: password, salt: salt, iterations: iterations)
        self.init(
            iterations: iterations, salt: salt, storedKey: Digest.sha256(keys.clientKey), serverKey: keys.serverKey)
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; nil when it is not of that form.
    package init?(parsing text: String) {
        let parts = text.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "SCRAM-SHA-256" else { return nil }
        let head = parts[1].split(separator: ":", omittingEmptySubsequences: false)
        let keys = parts[2].split(separator: ":", omittingEmptySubsequences: false)
        guard head.count == 2, keys.count == 2, let iterations = Int(head[0]),
            iterations > 0, iterations <= Self.iterationsMax,
            let salt = Base64.decode(head[1].utf8), !salt.isEmpty,
            let stored = Base64.decode(keys[0].utf8), stored.count == 32,
            let server = Base64.decode(keys[1].utf8), server.count == 32
        else { return nil }
        self.init(iterations: iterations, salt: salt, storedKey: stored, serverKey: server)
    }
}

/// What is derived of a password and opens everything that has the same salt and iterations, but is not the password.
/// Immutable; never logged.
package struct SCRAMKeys: Equatable, Sendable {
    package let iterations: Int
    package let salt: [UInt8]
    package let clientKey: [UInt8]
    package let serverKey: [UInt8]

    package init(iterations: Int, salt: [UInt8], clientKey: [UInt8], serverKey: [UInt8]) {
        self.iterations = iterations
        self.salt = salt
        self.clientKey = clientKey
        self.serverKey = serverKey
    }

    /// Derives them of a password; takes about a millisecond at the default iterations.
    package init(password: String, salt: [UInt8], iterations: Int) {
        let salted = Digest.pbkdf2(password: PreparedPassword.bytes(password), salt: salt, iterations: iterations)
        self.init(
            iterations: iterations, salt: salt,
            clientKey: Digest.hmacSHA256(key: salted, Array("Client Key".utf8)),
            serverKey: Digest.hmacSHA256(key: salted, Array("Server Key".utf8)))
    }
}

/// Base64 (RFC 4648, section 4), strict: no white space, padding required.
package enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    package static func encode(_ bytes: [UInt8]) -> [UInt8] {
        var text: [UInt8] = []
        text.reserveCapacity((bytes.count + 2) / 3 * 4)
        var index = 0
        while index < bytes.count {
            let left = bytes.count - index
            let first = bytes[index]
            let second = left > 1 ? bytes[index + 1] : 0
            let third = left > 2 ? bytes[index + 2] : 0
            text.append(alphabet[Int(first >> 2)])
            text.append(alphabet[Int((first & 3) << 4 | second >> 4)])
            text.append(left > 1 ? alphabet[Int((second & 15) << 2 | third >> 6)] : UInt8(ascii: "="))
            text.append(left > 2 ? alphabet[Int(third & 63)] : UInt8(ascii: "="))
            index += 3
        }
        return text
    }

    package static func decode(_ text: some Sequence<UInt8>) -> [UInt8]? {
        var bytes: [UInt8] = []
        var accumulator: UInt32 = 0
        var digits = 0
        var padding = 0
        for unit in text {
            if unit == UInt8(ascii: "=") {
                padding += 1
                continue
            }
            guard padding == 0, let value = value(of: unit) else { return nil }
            accumulator = accumulator << 6 | value
            digits += 1
            if digits % 4 == 0 {
                for shift in [16, 8, 0] as [UInt32] { bytes.append(UInt8(truncatingIfNeeded: accumulator >> shift)) }
                accumulator = 0
            }
        }
        switch (digits % 4, padding) {
        case (0, 0):
            return bytes
        case (2, 2):
            bytes.append(UInt8(truncatingIfNeeded: accumulator >> 4))
            return bytes
        case (3, 1):
            bytes.append(UInt8(truncatingIfNeeded: accumulator >> 10))
            bytes.append(UInt8(truncatingIfNeeded: accumulator >> 2))
            return bytes
        default:
            return nil
        }
    }

    private static func value(of unit: UInt8) -> UInt32? {
        switch unit {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(unit - UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(unit - UInt8(ascii: "a")) + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(unit - UInt8(ascii: "0")) + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}
