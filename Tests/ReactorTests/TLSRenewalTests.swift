import COpenSSL
import Glibc
import TestSupport
import Testing

@testable import Reactor

/// Peers that want other keys in the midst of a connection.
@Suite struct TLSRenewalTests {
    private func pair(_ version: TLSVersion) throws -> TLSPair {
        var options = try TestCertificates.clientOptions()
        options.least = version
        options.most = version
        let pair = try TLSPair(try TestCertificates.serverOptions(), options)
        pair.shakeHands()
        #expect(pair.server.stream.state == .open && pair.client.stream.state == .open)
        return pair
    }

    @Test(arguments: [1, 7, .max], [SSL_KEY_UPDATE_REQUESTED, SSL_KEY_UPDATE_NOT_REQUESTED])
    func `a peer may renew its keys as often as it likes, and bytes go on both ways`(piece: Int, kind: CInt) throws {
        let pair = try pair(.v13)
        for round in 0..<50 {
            let bytes = (0..<(round * 100)).map { UInt8(truncatingIfNeeded: $0) }
            #expect(SSL_key_update(pair.client.stream.raw, kind) == 1)
            pair.client.send(bytes + [1])
            pair.carry(piece: piece)
            pair.server.send(bytes + [2])
            pair.carry(piece: piece)
            #expect(pair.server.plaintext == bytes + [1])
            #expect(pair.client.plaintext == bytes + [2])
            pair.server.plaintext = []
            pair.client.plaintext = []
        }
        #expect(pair.server.stream.state == .open && pair.client.stream.state == .open)
    }

    @Test func `renegotiation is refused, and what was sent before it is there`() throws {
        let pair = try pair(.v12)
        pair.client.send([1, 2, 3])
        // Our own contexts do not even ask: SSL_OP_NO_RENEGOTIATION.
        SSL_clear_options(pair.client.stream.raw, 1 << 30)
        #expect(SSL_renegotiate(pair.client.stream.raw) == 1)
        pair.client.send([4])
        let toServer = pair.client.outgoing
        pair.client.outgoing = []
        pair.server.receive(toServer)
        #expect(pair.server.plaintext == [1, 2, 3])
        // The alert no_renegotiation, in a record of its own; the connection itself goes on.
        #expect(pair.server.outgoing.first == 0x15)
        #expect(pair.server.stream.state == .open)
    }

    @Test func `what was to answer a peer that does not read is nobody else's`() throws {
        let sockets = SocketPair(bufferBytes: 4_096)
        var server = ByteStream(SocketDescriptor(owning: dup(sockets.near.raw)))
        var client = ByteStream(SocketDescriptor(owning: dup(sockets.far.raw)))
        // The server's is its thread's: whoever encrypts next sends what is in it.
        let scratch = TLSScratch(plaintextBytes: 65_536)
        var options = try TestCertificates.clientOptions()
        options.most = .v12
        let peer = TLSStream(
            try TLSContext(.client, options), TLSScratch(plaintextBytes: 65_536), serverName: "localhost")
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        let context = try TLSContext(.server, TestCertificates.serverOptions())
        _ = server.startTLS(TLSStream(context, scratch), received: nothing)
        _ = client.startTLS(peer, received: nothing)
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
        defer { room.deallocate() }
        while !client.isOpen || !server.isOpen {
            _ = server.receive(into: room)
            _ = client.receive(into: room)
            _ = server.flush()
            _ = client.flush()
        }
        let answer = [UInt8](repeating: 1, count: 2 * SendQueue.highWater)
        _ = answer.withUnsafeBytes { server.send($0) }
        SSL_clear_options(peer.raw, 1 << 30)
        #expect(SSL_renegotiate(peer.raw) == 1)
        _ = answer[..<1].withUnsafeBytes { client.send($0) }
        let outcome = server.receive(into: room)
        #expect(outcome == .failed(errno: EPROTO))
        #expect(scratch.output.isEmpty)
    }
}
