import Glibc
import Primitives
import Reactor
import Testing

/// Two streams over sockets, as the connections use them.
@Suite struct ByteStreamTests {
    private static func bytes(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 131 >> 3) } }

    /// One end with its buffer.
    private struct End: ~Copyable {
        var stream: ByteStream
        var received: [UInt8] = []
        var isOver = false
        private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)

        init(_ raw: CInt) { stream = ByteStream(SocketDescriptor(owning: raw)) }

        deinit { buffer.deallocate() }

        mutating func read() {
            if isOver { return }
            switch stream.receive(into: buffer) {
            case .bytes(let count): received += buffer[..<count]
            case .wouldBlock: break
            case .closed, .failed: isOver = true
            }
            if stream.isAtEnd { isOver = true }
        }
    }

    private func ends(bufferBytes: CInt? = nil) -> (CInt, CInt) {
        let pair = SocketPair(bufferBytes: bufferBytes)
        return (dup(pair.near.raw), dup(pair.far.raw))
    }

    @Test(arguments: [true, false], [1, 2, 3] as [UInt64])
    func `what is queued and sent arrives in order, over a wire that is often full`(isTLS: Bool, seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let (near, far) = ends(bufferBytes: 4_096)
        var client = End(near)
        var server = End(far)
        if isTLS {
            let scratch = TLSScratch(plaintextBytes: 65_536)
            let contexts = (
                try TLSContext(.server, TestCertificates.serverOptions()),
                try TLSContext(.client, TestCertificates.clientOptions())
            )
            let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
            _ = server.stream.startTLS(TLSStream(contexts.0, scratch), received: nothing)
            _ = client.stream.startTLS(TLSStream(contexts.1, scratch, serverName: "localhost"), received: nothing)
            while !client.stream.isOpen || !server.stream.isOpen {
                server.read()
                client.read()
                _ = server.stream.flush()
                _ = client.stream.flush()
            }
        }
        var expected: (there: [UInt8], back: [UInt8]) = ([], [])
        for _ in 0..<300 {
            let content = Self.bytes(Int.random(in: 0..<9_000, using: &random))
            switch Int.random(in: 0..<4, using: &random) {
            case 0:
                client.stream.queue(content)
                expected.there += content
            case 1:
                _ = content.withUnsafeBytes { client.stream.send($0) }
                expected.there += content
            case 2:
                _ = content.withUnsafeBytes { server.stream.send($0) }
                expected.back += content
            default:
                _ = client.stream.flush()
                _ = server.stream.flush()
            }
            server.read()
            client.read()
        }
        while !client.stream.isEmpty || !server.stream.isEmpty
            || server.received.count < expected.there.count || client.received.count < expected.back.count
        {
            _ = client.stream.flush()
            _ = server.stream.flush()
            server.read()
            client.read()
        }
        #expect(server.received == expected.there, "seed \(seed)")
        #expect(client.received == expected.back, "seed \(seed)")
        #expect(!client.isOver && !server.isOver)
    }

    @Test func `goodbye within TLS ends the stream though the socket stays open`() throws {
        let (near, far) = ends()
        var client = End(near)
        var server = End(far)
        let scratch = TLSScratch(plaintextBytes: 65_536)
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        let context = try TLSContext(.server, TestCertificates.serverOptions())
        _ = server.stream.startTLS(TLSStream(context, scratch), received: nothing)
        let own = try TLSContext(.client, TestCertificates.clientOptions())
        _ = client.stream.startTLS(TLSStream(own, scratch), received: nothing)
        while !client.stream.isOpen || !server.stream.isOpen {
            server.read()
            client.read()
        }
        client.stream.queue([1, 2, 3])
        _ = client.stream.flush()
        client.stream.shutdown()
        while !server.isOver { server.read() }
        #expect(server.received == [1, 2, 3])
        #expect(server.stream.failure == nil)
    }

    @Test func `a peer that sends garbage after the handshake is found out`() throws {
        let (near, far) = ends()
        var server = End(far)
        let plain = SocketDescriptor(owning: near)
        let context = try TLSContext(.server, TestCertificates.serverOptions())
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        _ = server.stream.startTLS(TLSStream(context, TLSScratch(plaintextBytes: 65_536)), received: nothing)
        #expect(plain.sendBytes(Array("SELECT 1".utf8)) == .bytes(8))
        while !server.isOver { server.read() }
        #expect(server.stream.failure == "wrong version number")
        #expect(server.received.isEmpty)
    }
}
