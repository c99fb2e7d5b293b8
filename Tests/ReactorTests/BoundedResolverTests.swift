import Dispatch
import Primitives
import Reactor
import Testing

@Suite struct BoundedResolverTests {
    @Test func `what the resolver says is what is found`() throws {
        let known = try #require(SocketAddress(host: "10.0.0.1", port: 7))
        let resolver = BoundedResolver(patienceMillis: 60_000) { host, port in
            host == "db" && port == 7 ? [known] : []
        }
        #expect(resolver.addresses(host: "db", port: 7) == [known])
        #expect(resolver.addresses(host: "nobody", port: 7) == [])
        #expect(resolver.addresses(host: "db", port: 7) == [known])
    }

    @Test func `a resolver that is silent is waited for once, and not for each name`() throws {
        let asked = Mailbox<String>()
        let end = DispatchSemaphore(value: 0)
        let resolver = BoundedResolver(patienceMillis: 10) { host, _ in
            asked.post(host)
            end.wait()
            return []
        }
        defer { end.signal() }
        #expect(resolver.addresses(host: "db", port: 7) == [])
        #expect(resolver.addresses(host: "other", port: 7) == [])
        let literal = try #require(SocketAddress(host: "10.0.0.1", port: 7))
        #expect(resolver.addresses(host: "10.0.0.1", port: 7) == [literal])
        #expect(!asked.take().contains("other"))
    }

    @Test func `what is known of a name stays while the resolver knows nothing else`() throws {
        let known = try #require(SocketAddress(host: "10.0.0.1", port: 7))
        let other = try #require(SocketAddress(host: "10.0.0.2", port: 7))
        func address(_ found: [SocketAddress], known: SocketAddress?) -> SocketAddress? {
            BoundedResolver(patienceMillis: 60_000) { _, _ in found }.address(host: "db", port: 7, known: known)
        }
        #expect(address([], known: known) == known)
        #expect(address([known], known: known) == known)
        #expect(address([other], known: known) == other)
        #expect(address([other], known: nil) == other)
        #expect(address([], known: nil) == nil)
    }

    @Test func `of a name with several addresses one is taken that takes connections`() throws {
        let first = try Listener(on: Self.loopback(0))
        let second = try Listener(on: Self.loopback(0))
        // Nobody listens on a port that was just given back.
        let nobody = try { () throws -> SocketAddress in try Listener(on: Self.loopback(0)).address }()
        func address(_ found: [SocketAddress], known: SocketAddress?) -> SocketAddress? {
            BoundedResolver(patienceMillis: 60_000) { _, _ in found }.address(host: "db", port: 7, known: known)
        }
        #expect(address([nobody, first.address, second.address], known: nil) == first.address)
        #expect(address([first.address, second.address], known: second.address) == second.address)
        #expect(address([nobody, first.address], known: nobody) == first.address)
        #expect(address([first.address, second.address], known: nobody) == first.address)
        // Where nobody takes any it is as the resolver has it: whoever is told of a failure is told of that one.
        #expect(address([nobody, Self.loopback(1)], known: nil) == nobody)
        #expect(address([Self.loopback(1), nobody], known: nobody) == nobody)
    }

    private static func loopback(_ port: UInt16) -> SocketAddress { .ipv4(address: 0x7F00_0001, port: port) }
}
