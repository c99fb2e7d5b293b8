import Glibc

/// An IP address as numbers; IPv4 in the lowest 32 bits. Immutable, any thread.
package struct NetworkAddress: Hashable, Sendable, CustomStringConvertible {
    package let bits: UInt128
    package let isIPv6: Bool

    /// An IPv4 address that a socket for both shows as `::ffff:a.b.c.d` is an IPv4 address.
    package init(ipv6 bits: UInt128) {
        isIPv6 = bits >> 32 != 0xFFFF
        self.bits = isIPv6 ? bits : bits & 0xFFFF_FFFF
    }

    package init(ipv4 bits: UInt32) {
        self.bits = UInt128(bits)
        isIPv6 = false
    }

    /// Numbers only: names are not looked up.
    package init?(_ text: String) {
        var four = in_addr()
        if inet_pton(AF_INET, text, &four) == 1 {
            self.init(ipv4: UInt32(bigEndian: four.s_addr))
            return
        }
        var six = in6_addr()
        guard inet_pton(AF_INET6, text, &six) == 1 else { return nil }
        let bits = withUnsafeBytes(of: &six) { UInt128(bigEndian: $0.loadUnaligned(as: UInt128.self)) }
        self.init(bits: bits, isIPv6: true)
    }

    package var width: Int { isIPv6 ? 128 : 32 }

    package var description: String {
        var buffer = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        if isIPv6 {
            var big = bits.bigEndian
            inet_ntop(AF_INET6, &big, &buffer, socklen_t(buffer.count))
        } else {
            var big = UInt32(truncatingIfNeeded: bits).bigEndian
            inet_ntop(AF_INET, &big, &buffer, socklen_t(buffer.count))
        }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Addresses that have their first bits in common. Immutable, any thread.
package struct NetworkRange: Equatable, Sendable {
    private let network: UInt128
    private let mask: UInt128
    private let isIPv6: Bool

    /// - Parameter prefix: bits in common; nil when the address has not so many.
    package init?(_ address: NetworkAddress, prefix: Int) {
        guard (0...address.width).contains(prefix) else { return nil }
        let free = address.width - prefix
        let all: UInt128 = address.isIPv6 ? .max : 0xFFFF_FFFF
        self.init(address, mask: NetworkAddress(bits: free == 128 ? 0 : (all >> free) << free, isIPv6: address.isIPv6))
    }

    /// nil when one is IPv4 and the other IPv6.
    package init?(_ address: NetworkAddress, mask: NetworkAddress) {
        guard address.isIPv6 == mask.isIPv6 else { return nil }
        self.mask = mask.bits
        network = address.bits & mask.bits
        isIPv6 = address.isIPv6
    }

    package func contains(_ address: NetworkAddress) -> Bool {
        address.isIPv6 == isIPv6 && address.bits & mask == network
    }
}

extension NetworkAddress {
    fileprivate init(bits: UInt128, isIPv6: Bool) {
        self.bits = bits
        self.isIPv6 = isIPv6
    }
}

/// This machine's own addresses, for `samehost` and `samenet`. Immutable, any thread.
package struct LocalNetworks: Sendable, Equatable {
    package var hosts: Set<NetworkAddress>
    package var ranges: [NetworkRange]

    package init(hosts: Set<NetworkAddress> = [], ranges: [NetworkRange] = []) {
        self.hosts = hosts
        self.ranges = ranges
    }

    /// Asks the kernel for its interfaces.
    package static func ofThisMachine() -> LocalNetworks {
        var found = LocalNetworks()
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return found }
        defer { freeifaddrs(list) }
        var next = list
        while let interface = next {
            next = interface.pointee.ifa_next
            guard let address = address(interface.pointee.ifa_addr) else { continue }
            found.hosts.insert(address)
            if let mask = Self.address(interface.pointee.ifa_netmask), let range = NetworkRange(address, mask: mask) {
                found.ranges.append(range)
            }
        }
        return found
    }

    private static func address(_ socket: UnsafeMutablePointer<sockaddr>?) -> NetworkAddress? {
        guard let socket else { return nil }
        switch CInt(socket.pointee.sa_family) {
        case AF_INET:
            return socket.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                NetworkAddress(ipv4: UInt32(bigEndian: $0.pointee.sin_addr.s_addr))
            }
        case AF_INET6:
            return socket.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { six in
                var bytes = six.pointee.sin6_addr
                let bits = withUnsafeBytes(of: &bytes) { UInt128(bigEndian: $0.loadUnaligned(as: UInt128.self)) }
                return NetworkAddress(bits: bits, isIPv6: true)
            }
        default:
            return nil
        }
    }
}
