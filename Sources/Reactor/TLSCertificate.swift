import COpenSSL
import Glibc

/// What a peer's certificate says. Immutable, any thread.
package struct TLSCertificate: Sendable, Equatable {
    /// The subject's common name; nil when it has none, or one with a NUL in it.
    package var commonName: String?
    /// The subject in one line, as `CN=ann,O=Example`.
    package var subject: String
    package var names: [Name]
    /// The hash for tls-server-end-point (RFC 5929); empty when its signature's algorithm has none.
    package var endpointDigest: [UInt8]

    /// One of the subject's alternative names.
    package enum Name: Sendable, Equatable, CustomStringConvertible {
        case dns(String)
        /// 4 or 16 bytes.
        case address([UInt8])

        package var description: String {
            switch self {
            case .dns(let name): name
            case .address(let bytes): TLSCertificate.text(ofAddress: bytes)
            }
        }
    }

    package init(
        commonName: String?, subject: String = "", names: [Name] = [], endpointDigest: [UInt8] = []
    ) {
        self.commonName = commonName
        self.subject = subject
        self.names = names
        self.endpointDigest = endpointDigest
    }

    init(_ raw: OpaquePointer) {
        commonName = Self.commonName(of: raw)
        subject = Self.subject(of: raw) ?? ""
        names = Self.names(of: raw)
        endpointDigest = Self.endpointDigest(of: raw)
    }

    // MARK: is it that host's?

    /// libpq's rules for sslmode=verify-full: names of the host's kind decide, and only without any the common name.
    package func isFor(host: String) -> Bool {
        let wanted = Self.address(of: host)
        var usesCommonName = true
        for name in names {
            switch name {
            case .dns(let pattern):
                if wanted == nil { usesCommonName = false }
                if Self.matches(pattern, host) { return true }
            case .address(let bytes):
                if wanted != nil { usesCommonName = false }
                if bytes == wanted { return true }
            }
        }
        return usesCommonName && commonName.map { Self.matches($0, host) } == true
    }

    /// The names in words: `db.example, 10.0.0.1`.
    package var namesText: String {
        let all = names.isEmpty ? [commonName].compactMap { $0 } : names.map(\.description)
        return all.isEmpty ? "no name" : all.map { "\"\($0)\"" }.joined(separator: ", ")
    }

    /// The same name, or a wildcard for one leftmost label (RFC 2818 as libpq reads it).
    private static func matches(_ pattern: String, _ host: String) -> Bool {
        let pattern = lowercased(pattern)
        let host = lowercased(host)
        if pattern == host { return true }
        guard pattern.count > 2, pattern[0] == UInt8(ascii: "*"), pattern[1] == UInt8(ascii: "."),
            let dot = host.firstIndex(of: UInt8(ascii: ".")), dot > 0
        else { return false }
        return host[dot...].elementsEqual(pattern[1...])
    }

    private static func lowercased(_ text: String) -> [UInt8] {
        text.utf8.map { $0 &- 0x41 < 26 ? $0 | 0x20 : $0 }
    }

    private static func address(of host: String) -> [UInt8]? {
        var four = in_addr()
        if inet_pton(AF_INET, host, &four) == 1 { return withUnsafeBytes(of: &four) { Array($0) } }
        var six = in6_addr()
        if inet_pton(AF_INET6, host, &six) == 1 { return withUnsafeBytes(of: &six) { Array($0) } }
        return nil
    }

    private static func text(ofAddress bytes: [UInt8]) -> String {
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard bytes.count == 4 || bytes.count == 16,
            inet_ntop(bytes.count == 4 ? AF_INET : AF_INET6, bytes, &buffer, socklen_t(buffer.count)) != nil
        else { return "an address of \(bytes.count) bytes" }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    // MARK: from OpenSSL

    /// The hash of tls-server-end-point.
    static func endpointDigest(of raw: OpaquePointer) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        let count = godwit_endpoint_digest(raw, &digest)
        TLSErrors.clear()
        return Array(digest[..<Int(count)])
    }

    static func subject(of raw: OpaquePointer) -> String? {
        guard let name = X509_get_subject_name(raw), let memory = BIO_new(BIO_s_mem()) else { return nil }
        defer { BIO_free(memory) }
        if godwit_print_name(memory, name) < 0 { return nil }
        var bytes = [UInt8](repeating: 0, count: 1024)
        let count = BIO_read(memory, &bytes, CInt(bytes.count))
        return count < 0 ? "" : String(decoding: bytes[..<Int(count)], as: UTF8.self)
    }

    private static func commonName(of raw: OpaquePointer) -> String? {
        guard let name = X509_get_subject_name(raw) else { return nil }
        let index = X509_NAME_get_index_by_NID(name, NID_commonName, -1)
        guard index >= 0, let entry = X509_NAME_get_entry(name, index),
            let value = X509_NAME_ENTRY_get_data(entry), let bytes = ASN1_STRING_get0_data(value)
        else { return nil }
        return text(UnsafeBufferPointer(start: bytes, count: Int(ASN1_STRING_length(value))))
    }

    private static func names(of raw: OpaquePointer) -> [Name] {
        guard let all = godwit_subject_names(raw) else {
            TLSErrors.clear()
            return []
        }
        defer { godwit_names_free(all) }
        var names: [Name] = []
        for index in 0..<godwit_names_count(all) {
            var start: UnsafePointer<UInt8>?
            var count: CInt = 0
            let kind = godwit_name(all, index, &start, &count)
            let bytes = UnsafeBufferPointer(start: start, count: Int(count))
            if kind == CInt(UInt8(ascii: "D")), let name = text(bytes) {
                names.append(.dns(name))
            } else if kind == CInt(UInt8(ascii: "I")) {
                names.append(.address(Array(bytes)))
            }
        }
        return names
    }

    /// nil with a NUL in it: such a name was made to be read as a shorter one (CVE-2009-4034).
    private static func text(_ bytes: UnsafeBufferPointer<UInt8>) -> String? {
        bytes.contains(0) ? nil : String(decoding: bytes, as: UTF8.self)
    }
}
