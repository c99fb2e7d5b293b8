import TestSupport
import Testing

/// What the kernel is told of Godwit's connections, as the kernel itself says.
@Suite(.serialized) struct SocketOptionTests {
    let servers: Servers

    init() throws { servers = try Servers.shared.get() }

    /// Of the clients' and the servers' connections: keepalive, count, idle, interval, user time-out.
    private func options(_ godwit: GodwitProcess) throws -> (clients: [String], servers: [String]) {
        let lines = try runDriver("socket_options", ["\(godwit.process.pid)"]).split(separator: "\n")
        let rows = lines.map { $0.split(separator: " ", maxSplits: 2).map(String.init) }
        return (
            rows.filter { $0[0] == "\(godwit.port)" }.map { $0[2] },
            rows.filter { $0[1] == "\(servers.old.port)" }.map { $0[2] }
        )
    }

    @Test func `keepalive and user time-out are set towards clients and servers, and follow a reload`() throws {
        let database = try servers.makeDatabase()
        let godwit = try servers.godwit(database) {
            $0.listen = [
                "tcp_keepcnt": "4", "tcp_keepidle": "77", "tcp_keepintvl": "11", "tcp_user_timeout": "22000",
            ]
        }
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try client.value("SELECT 1") == "1")
        let set = try options(godwit)
        #expect(set.clients == ["1 4 77 11 22000"])
        #expect(set.servers.contains("1 4 77 11 22000"))
        _ = try godwit.console("SET listen.tcp_keepidle = 99")
        let later = try WireClient(port: godwit.port, database: database)
        #expect(try later.value("SELECT 1") == "1")
        #expect(try options(godwit).clients.sorted() == ["1 4 77 11 22000", "1 4 99 11 22000"])
    }

    @Test func `without keepalive the kernel asks nobody`() throws {
        let database = try servers.makeDatabase()
        let godwit = try servers.godwit(database) { $0.listen = ["tcp_keepalive": "0"] }
        let client = try WireClient(port: godwit.port, database: database)
        #expect(try client.value("SELECT 1") == "1")
        let found = try options(godwit)
        #expect(found.clients.allSatisfy { $0.hasPrefix("0 ") } && found.clients.count == 1)
        #expect(found.servers.contains { $0.hasPrefix("0 ") })
    }
}
