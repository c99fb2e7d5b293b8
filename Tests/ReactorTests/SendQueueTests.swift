import Glibc
import Primitives
import Reactor
import Testing

@Suite struct SendQueueTests {
    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func `bytes arrive once and in order however little the kernel takes`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let pair = SocketPair(bufferBytes: 4_096)
        var queue = SendQueue()
        var sent: [UInt8] = []
        var received: [UInt8] = []
        var blocked = 0
        for step in 0..<400 {
            let chunk = (0..<Int.random(in: 0..<9_000, using: &random)).map {
                UInt8(truncatingIfNeeded: sent.count + $0)
            }
            switch Int.random(in: 0..<4, using: &random) {
            case 0: queue.append(chunk)
            case 1: chunk.withUnsafeBytes { queue.append($0) }
            case 2:
                let outcome = chunk.withUnsafeBytes { queue.send($0, to: pair.near) }
                #expect(outcome == .bytes(0) || outcome == .wouldBlock, "seed \(seed), step \(step)")
            default:
                let outcome = queue.flush(to: pair.near)
                if outcome == .wouldBlock { blocked += 1 }
                #expect(queue.isEmpty == (outcome == .bytes(0)), "seed \(seed), step \(step)")
                received += pair.far.receiveBytes(Int.random(in: 1..<20_000, using: &random)).bytes
                continue
            }
            sent += chunk
            received += pair.far.receiveBytes(Int.random(in: 1..<6_000, using: &random)).bytes
        }
        #expect(blocked > 0, "seed \(seed) never filled the kernel's buffer")
        while true {
            let outcome = queue.flush(to: pair.near)
            let part = pair.far.receiveBytes().bytes
            received += part
            if outcome == .bytes(0) && part.isEmpty { break }
        }
        #expect(queue.isEmpty)
        #expect(queue.count == 0)
        #expect(received == sent, "seed \(seed)")
    }

    @Test func `what the kernel does not take waits and is counted`() {
        let pair = SocketPair(bufferBytes: 4_096)
        var queue = SendQueue()
        let bytes = [UInt8](repeating: 7, count: 1_000_000)
        let first = bytes.withUnsafeBytes { queue.send($0, to: pair.near) }
        #expect(first == .bytes(0) || first == .wouldBlock)
        let waiting = queue.count
        #expect(waiting > 0 && waiting < bytes.count)
        #expect(queue.flush(to: pair.near) == .wouldBlock)
        let again = [1, 2, 3].withUnsafeBytes { queue.send($0, to: pair.near) }
        #expect(again == .wouldBlock)
        #expect(queue.count == waiting + 3 * MemoryLayout<Int>.size)
        queue.clear()
        #expect(queue.isEmpty)
    }

    @Test func `a peer that has gone is told of and never kills the process`() {
        let pair = SocketPair()
        let raw = pair.near.raw
        shutdown(raw, CInt(SHUT_WR))
        var queue = SendQueue()
        #expect([1].withUnsafeBytes { queue.send($0, to: pair.near) } == .failed(errno: EPIPE))
        #expect(queue.isEmpty)
        queue.append([1])
        #expect(queue.flush(to: pair.near) == .failed(errno: EPIPE))
        #expect(pair.far.receiveBytes().outcome == .closed)
        #expect(pair.near.receiveBytes().outcome == .wouldBlock)
    }

    @Test func `nothing to send is nothing`() {
        let pair = SocketPair()
        var queue = SendQueue()
        #expect(queue.flush(to: pair.near) == .bytes(0))
        #expect(queue.send(UnsafeRawBufferPointer(start: nil, count: 0), to: pair.near) == .bytes(0))
        #expect(pair.far.receiveBytes().outcome == .wouldBlock)
    }

    @Test func `a descriptor is closed with its owner, and not when it was given away`() {
        let pair = SocketPair()
        do {
            let copy = SocketDescriptor(owning: dup(pair.near.raw))
            _ = copy.sendBytes([1])
        }
        let given = SocketDescriptor(owning: dup(pair.near.raw)).release()
        let owned = SocketDescriptor(owning: given)
        #expect(owned.sendBytes([2]) == .bytes(1))
        #expect(pair.far.receiveBytes().bytes == [1, 2])
    }
}
