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
}
