import CEpoll
import Glibc
import Reactor
import Testing

@Suite struct SocketAddressTests {
    @Test(
        arguments: [
            ("127.0.0.1", 5432, "127.0.0.1:5432", "127.0.0.1"), ("0.0.0.0", 0, "0.0.0.0:0", "0.0.0.0"),
            ("255.255.255.255", 65_535, "255.255.255.255:65535", "255.255.255.255"),
            ("::1", 1, "[::1]:1", "::1"),
            ("::", 6432, "[::]:6432", "::"), ("2001:DB8:0:0:0:0:0:7", 9, "[2001:db8::7]:9", "2001:db8::7"),
            ("::ffff:10.1.2.3", 9, "[::ffff:10.1.2.3]:9", "::ffff:10.1.2.3"),
            ("/run/pg", 5432, "/run/pg/.s.PGSQL.5432", "unix"), ("@pg", 1, "@pg/.s.PGSQL.1", "unix"),
        ] as [(String, UInt16, String, String)])
    func `an address in numbers is read and printed`(
        text: String, port: UInt16, printed: String, host: String
    ) throws {
        let address = try #require(SocketAddress(host: text, port: port))
        #expect(address.description == printed)
        #expect(address.host == host)
        #expect(address.port == (host == "unix" ? 0 : port))
        #expect(SocketAddress.resolve(host: text, port: port) == address)
        let family = address.withSockaddr { pointer, _ in CInt(pointer.pointee.sa_family) }
        #expect(family == address.family)
        if host != "unix" {
            #expect(address.withSockaddr { pointer, _ in SocketAddress(sockaddr: pointer) } == address)
        }
    }

    @Test(arguments: [
        "", "localhost", "127.0.0", "127.0.0.1 ", "256.0.0.1", "1.2.3.4.5", ":::", "12345::", "[::1]", "a/b",
    ])
    func `what is not an address in numbers is left to the resolver`(text: String) {
        #expect(SocketAddress(host: text, port: 1) == nil)
    }

    @Test(arguments: ["*", "0.0.0.0"]) func `to listen on all addresses is not to listen on loopback`(text: String) {
        let address = SocketAddress.resolve(listening: text, port: 7)
        #expect(address == .ipv4(address: 0, port: 7))
        #expect(address?.isLoopback == false)
    }

    @Test func `a family that we do not have is no address`() {
        var other = sockaddr()
        other.sa_family = sa_family_t(AF_NETLINK)
        #expect(SocketAddress(sockaddr: &other) == nil)
    }
}

@Suite struct TCPOptionsTests {
    @Test func `what is said is set, and what is not is the kernel's`() {
        let plain = SocketDescriptor(owning: socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0))
        let kernel = option(plain.raw, CInt(IPPROTO_TCP), TCP_KEEPINTVL)
        var options = TCPOptions()
        options.keepaliveCount = 3
        options.keepaliveIdleSeconds = 41
        options.userTimeoutMillis = 1234
        plain.apply(options, for: .ipv4(address: 0, port: 0))
        #expect(option(plain.raw, SOL_SOCKET, SO_KEEPALIVE) == 1)
        #expect(option(plain.raw, CInt(IPPROTO_TCP), TCP_KEEPCNT) == 3)
        #expect(option(plain.raw, CInt(IPPROTO_TCP), TCP_KEEPIDLE) == 41)
        #expect(option(plain.raw, CInt(IPPROTO_TCP), TCP_KEEPINTVL) == kernel)
        #expect(option(plain.raw, CInt(IPPROTO_TCP), TCP_USER_TIMEOUT) == 1234)
        options.keepalive = false
        plain.apply(options, for: .ipv4(address: 0, port: 0))
        #expect(option(plain.raw, SOL_SOCKET, SO_KEEPALIVE) == 0)
    }

    private func option(_ raw: CInt, _ level: CInt, _ name: CInt) -> CInt {
        var value: CInt = -1
        var length = socklen_t(MemoryLayout<CInt>.size)
        getsockopt(raw, level, name, &value, &length)
        return value
    }
}
