import TestSupport
import Testing

/// Whatever comes in, the answer is a clear error or a closed socket, and Godwit goes on.
@Suite(.serialized) struct BadInputTests {
    typealias Frame = FrameBuilder

    /// One Godwit for all of them: each finds it in the state the others left it in.
    static let godwit = Result {
        let servers = try Servers.shared.get()
        let name = try servers.makeDatabase()
        return (try servers.godwit(name), name)
    }

    let godwit: GodwitProcess
    let database: String

    init() throws {
        (godwit, database) = try Self.godwit.get()
        guard !godwit.process.hasEnded else { throw TestFailure("Godwit has ended:\n\(godwit.log.text)") }
    }

    func expectAlive() throws {
        #expect(!godwit.process.hasEnded)
        #expect(try godwit.psql("SELECT 'alive'", database: database) == "alive")
    }

    @Test func `an unknown database is said to be so`() throws {
        let client = try WireClient(port: godwit.port)
        client.send(Frame.startup([("user", "app"), ("database", "nowhere")]))
        let answers = try client.readToEnd()
        #expect(answers.last?.sqlState == "3D000")
        #expect(answers.last?.fields["M"]?.contains("nowhere") == true)
        try expectAlive()
    }

    /// What comes instead of a startup packet.
    static let startups: [(String, [UInt8])] = [
        ("a length of zero", [0, 0, 0, 0]),
        ("a length below the least", [0, 0, 0, 7, 0, 3, 0, 0]),
        ("an absurd length", [0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0]),
        ("a negative length", [0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0]),
        ("text", Array("GET / HTTP/1.1\r\nHost: godwit\r\n\r\n".utf8)),
        ("a TLS hello without SSLRequest", [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3] + Array(repeating: 7, count: 600)),
        ("zeros", Array(repeating: 0, count: 4096)),
        ("protocol 4", FrameBuilder.startup([("user", "app")], version: 262_144)),
        ("no user", FrameBuilder.startup([("database", "x")])),
        ("nothing in it", FrameBuilder.startup([])),
        ("a name without a value", [0, 0, 0, 13, 0, 3, 0, 0] + Array("user\0".utf8)),
        ("no final zero", [0, 0, 0, 17, 0, 3, 0, 0] + Array("user\0app".utf8) + [0x41]),
        ("a user of 9,000 bytes",
            FrameBuilder.startup([("user", String(repeating: "u", count: 9000)), ("database", "nowhere")])),
        ("a query", FrameBuilder.query("SELECT 1")),
    ]

    @Test func `protocol 2 is told in its own form what we speak`() throws {
        let client = try WireClient(port: godwit.port)
        client.send(FrameBuilder.startup([("user", "app")], version: 131_072))
        var answer: [UInt8] = []
        while let byte = client.readByte() { answer.append(byte) }
        let line = "EFATAL:  unsupported frontend protocol 2.0: Godwit supports 3.0 to 3.2\n\0"
        #expect(answer == Array(line.utf8))
    }

    @Test(arguments: startups)
    func `a bad startup packet is refused`(what: String, bytes: [UInt8]) throws {
        let client = try WireClient(port: godwit.port)
        client.send(bytes)
        client.endSending()
        // A user that is let in (R) before its database is looked for is still refused.
        let answers = try client.readToEnd()
        #expect(answers.isEmpty || answers.last?.type == "E", "\(what): \(answers)")
        #expect(answers.allSatisfy { "RE".contains($0.type) }, "\(what): \(answers)")
        try expectAlive()
    }

    /// What comes after a login.
    static let messages: [(String, [UInt8])] = [
        ("an absurd length", FrameBuilder.message("Q", [], length: 0x7fff_ffff)),
        ("a negative length", FrameBuilder.message("Q", [], length: 0xffff_ffff)),
        ("a length below the least", FrameBuilder.message("Q", [], length: 3)),
        ("an absurd length of a Sync", FrameBuilder.message("S", [], length: 100_000_000)),
        ("an unknown type", FrameBuilder.message("~", Array("what".utf8))),
        ("a type of the server", FrameBuilder.message("Z", [0x49])),
        ("a password nobody asked for", FrameBuilder.message("p", FrameBuilder.string("secret"))),
        ("a second startup", FrameBuilder.startup([("user", "app"), ("database", "x")])),
        ("a query without its zero", FrameBuilder.message("Q", Array("SELECT 1".utf8))),
        ("a Parse that ends in its name", FrameBuilder.message("P", Array("abc".utf8))),
        ("a Bind that ends in its counts", FrameBuilder.message("B", [0, 0, 0])),
        ("a Bind with a parameter longer than itself",
            FrameBuilder.message("B", [0, 0, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0, 0])),
        ("a Describe of neither", FrameBuilder.message("D", [0x58, 0])),
        ("an empty Execute", FrameBuilder.message("E")),
    ]

    @Test(arguments: messages)
    func `a bad message gets an error or a closed socket`(what: String, bytes: [UInt8]) throws {
        let client = try WireClient(port: godwit.port, database: database)
        client.send(bytes + FrameBuilder.sync)
        client.endSending()
        let answers = try client.readToEnd()
        // S: a parameter that the last client had set is reset, at any time.
        #expect(answers.allSatisfy { "ENZ1S".contains($0.type) }, "\(what): \(answers)")
        try expectAlive()
    }

    @Test(arguments: messages)
    func `a bad message in a transaction leaves nothing behind`(what: String, bytes: [UInt8]) throws {
        let client = try WireClient(port: godwit.port, database: database)
        _ = try client.query("BEGIN")
        _ = try client.query("SELECT pg_advisory_xact_lock(42)")
        client.send(bytes)
        client.endSending()
        _ = try? client.readToEnd()
        // Waits until the lock is free.
        try Servers.shared.get().old.psql("SELECT pg_advisory_lock(42); SELECT pg_advisory_unlock(42)", database: database)
        try expectAlive()
    }

    @Test func `a client may leave at any byte of its login and of a batch`() throws {
        let login = Frame.startup([("user", "app"), ("database", database)])
        for count in 0..<login.count {
            let client = try WireClient(port: godwit.port)
            client.send(Array(login[..<count]))
            client.close()
        }
        let batch = Frame.parse("SELECT 1") + Frame.bind() + Frame.execute() + Frame.sync
        for count in 0..<batch.count {
            let client = try WireClient(port: godwit.port, database: database)
            client.send(Array(batch[..<count]))
            client.close()
        }
        try expectAlive()
    }

    /// A name or text without its end, in the extended protocol's first message of a unit and within a transaction.
    @Test(arguments: ["P", "B", "D", "C", "E", "Q", "F"] as [Character])
    func `a string without an end closes its connection, and no other waits for it`(type: Character) throws {
        for begins in [false, true] {
            let client = try WireClient(port: godwit.port, database: database)
            if begins { _ = try client.query("BEGIN; SELECT 1") }
            client.send(FrameBuilder.message(type, Array("S without end".utf8)) + FrameBuilder.sync)
            #expect(try client.readToError() != nil)
            client.close()
            #expect(try WireClient(port: godwit.port, database: database).value("SELECT 1") == "1")
        }
    }

    @Test func `random bytes do no harm`() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("random bytes: seed \(seed)")
        var generator = Splitmix(state: seed)
        for turn in 0..<100 {
            let bytes = (0..<Int.random(in: 1...300, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            let isLoggedIn = turn % 2 == 0
            let client = isLoggedIn
                ? try WireClient(port: godwit.port, database: database) : try WireClient(port: godwit.port)
            client.send(bytes)
            client.endSending()
            _ = try? client.readToEnd()
            try #require(!godwit.process.hasEnded, "seed \(seed), turn \(turn)")
        }
        try expectAlive()
    }

    private struct Splitmix: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var z = state
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
    }

    /// Files that must be refused, with what the error must name.
    static let configurations: [(String, String)] = [
        ("listen: {port: 6432}\nnonsense: 1\n", "nonsense"),
        ("listen: {port: many}\n", "port"),
        ("listen: {port: 70000}\n", "port"),
        ("databases:\n  shop:\n    old: \"host=a\"\n    new: \"host=b\"\n    reads: {percent: 101}\n", "percent"),
        ("databases:\n  shop:\n    old: \"host=a\"\n    new: \"host=b\"\n    pool: {sizes: 3}\n", "sizes"),
        ("auth: {method: guess}\n", "method"),
        ("listen: [", ""),
    ]

    @Test(arguments: configurations)
    func `a bad configuration is refused with file, line and key`(text: String, key: String) throws {
        let path = try TestResources.file("bad", text)
        for command in [["serve"], ["check"]] {
            let godwit = try GodwitProcess.command(command + ["--config", path])
            #expect(godwit.wait() != .code(0))
            #expect(godwit.errors.text.contains(path))
            #expect(godwit.errors.text.contains(key))
        }
    }
}
