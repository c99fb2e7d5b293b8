import Glibc

/// A socket, TLS on it when the peers agreed to that, and what waits to be sent. Owned by one connection on its
/// reactor's thread.
@usableFromInline package struct ByteStream: ~Copyable {
    @usableFromInline package let socket: SocketDescriptor
    /// What the kernel had no room for: ciphertext where there is TLS.
    @usableFromInline var out = SendQueue()
    @usableFromInline var tls: TLSStream?
    /// Plaintext that goes into one record with what follows it.
    @usableFromInline var gathered: [UInt8] = []
    private static let keptCapacity = 4096
    /// Plaintext encrypted at once: what it becomes must fit into the thread's buffer.
    private static let sliceMax = 256 * 1024

    package init(_ socket: consuming SocketDescriptor) { self.socket = socket }

    /// A connection that comes from another thread, where nothing waited to be sent.
    ///
    /// - Parameter scratch: this thread's.
    package init(_ socket: consuming SocketDescriptor, resuming tls: TLSStream?, _ scratch: TLSScratch) {
        self.socket = socket
        self.tls = tls
        tls?.move(to: scratch)
    }

    /// Bytes that wait to be sent.
    @inlinable package var count: Int { out.count + gathered.count }
    @inlinable package var isEmpty: Bool { out.isEmpty && gathered.isEmpty }

    // MARK: TLS

    @inlinable package var isEncrypted: Bool { tls != nil }
    /// What is known of the peer and the connection, once `isOpen`.
    package var security: TLSStream? { tls }

    /// The handshake is done, or there is none to do.
    package var isOpen: Bool { tls.map { $0.state != .handshaking } ?? true }

    /// The peer has ended the connection within TLS: nothing comes any more, though the socket may be open.
    @inlinable package var isAtEnd: Bool { tls != nil && isEndedWithin }

    @usableFromInline var isEndedWithin: Bool {
        switch tls?.state {
        case .handshaking, .open, nil: false
        case .peerClosed, .failed: true
        }
    }

    /// What TLS says of a failure; nil when it was not TLS that failed.
    package var failure: String? {
        if case .failed(let words)? = tls?.state { words } else { nil }
    }

    /// From here on everything is TLS.
    ///
    /// - Parameter received: ciphertext that has been read already.
    package mutating func startTLS(_ stream: TLSStream, received: UnsafeRawBufferPointer) -> SocketDescriptor.Outcome {
        precondition(tls == nil && isEmpty, "TLS within TLS, or behind plaintext that waits")
        tls = stream
        stream.begin(with: received)
        return sendOutput(stream)
    }

    // MARK: bytes

    /// - Returns: plaintext; `.wouldBlock` also when all that came belonged to TLS itself.
    @inlinable @inline(__always)
    package mutating func receive(into buffer: UnsafeMutableRawBufferPointer) -> SocketDescriptor.Outcome {
        tls == nil ? socket.receive(into: buffer) : receiveEncrypted(into: buffer)
    }

    @usableFromInline
    mutating func receiveEncrypted(into buffer: UnsafeMutableRawBufferPointer) -> SocketDescriptor.Outcome {
        guard let tls, !isAtEnd else { return .closed }
        let input = tls.scratch.input
        let outcome = socket.receive(into: input)
        guard case .bytes(let received) = outcome else { return outcome }
        let wasOpen = isOpen
        let count = tls.decrypt(UnsafeRawBufferPointer(rebasing: input[..<received]), into: buffer)
        if !tls.scratch.output.isEmpty {
            // Answers to a peer that does not read them: it is not one of ours. Nor are they for whoever of the thread
            // encrypts next, as its server may, when it is let go of.
            if out.count > SendQueue.highWater {
                tls.scratch.clearOutput()
                return .failed(errno: EPROTO)
            }
            _ = sendOutput(tls)
        } else if !wasOpen && isOpen && count == 0 {
            // The end of a handshake is not answered: a peer that waits for that (Nagle's algorithm) is not to wait for
            // our kernel, which acknowledges late (RFC 1122, 4.2.3.2).
            socket.acknowledge()
        }
        if count > 0 { return .bytes(count) }
        switch tls.state {
        case .handshaking, .open: return .wouldBlock
        case .peerClosed: return .closed
        case .failed: return .failed(errno: EPROTO)
        }
    }

    /// Queues without a system call; `send` or `flush` follows in the same event.
    package mutating func queue(_ range: UnsafeRawBufferPointer) {
        if tls == nil { out.append(range) } else { gathered.append(contentsOf: range) }
    }

    package mutating func queue(_ content: [UInt8]) {
        if tls == nil { out.append(content) } else { gathered.append(contentsOf: content) }
    }

    /// Sends `range` and before it what waits; what the kernel does not take waits.
    @inlinable @inline(__always)
    package mutating func send(_ range: UnsafeRawBufferPointer) -> SocketDescriptor.Outcome {
        tls == nil ? out.send(range, to: socket) : sendEncrypted(range)
    }

    @usableFromInline mutating func sendEncrypted(_ range: UnsafeRawBufferPointer) -> SocketDescriptor.Outcome {
        guard let tls else { preconditionFailure("TLS that is not there") }
        if gathered.isEmpty { return send(range, tls) }
        gathered.append(contentsOf: range)
        return sendGathered(tls)
    }

    package mutating func flush() -> SocketDescriptor.Outcome {
        if let tls, !gathered.isEmpty { return sendGathered(tls) }
        return out.flush(to: socket)
    }

    private mutating func sendGathered(_ tls: TLSStream) -> SocketDescriptor.Outcome {
        var content: [UInt8] = []
        swap(&content, &gathered)
        let outcome = content.withUnsafeBytes { send($0, tls) }
        if content.capacity <= Self.keptCapacity {
            content.removeAll(keepingCapacity: true)
            swap(&content, &gathered)
        }
        return outcome
    }

    private mutating func send(_ range: UnsafeRawBufferPointer, _ tls: TLSStream) -> SocketDescriptor.Outcome {
        var rest = range
        while true {
            let slice = UnsafeRawBufferPointer(rebasing: rest.prefix(Self.sliceMax))
            tls.encrypt(slice)
            let outcome = sendOutput(tls)
            switch outcome {
            case .bytes, .wouldBlock: break
            case .closed, .failed: return outcome
            }
            if slice.count == rest.count { return outcome }
            rest = UnsafeRawBufferPointer(rebasing: rest[slice.count...])
        }
    }

    private mutating func sendOutput(_ tls: TLSStream) -> SocketDescriptor.Outcome {
        let outcome = out.send(tls.scratch.output, to: socket)
        tls.scratch.clearOutput()
        if case .failed = tls.state, case .bytes = outcome { return .failed(errno: EPROTO) }
        return outcome
    }

    // MARK: the end

    /// Says goodbye within TLS, as far as the kernel takes it at once.
    package mutating func shutdown() {
        guard let tls else { return }
        tls.shutdown()
        _ = sendOutput(tls)
    }

    /// Drops what waits.
    package mutating func clear() {
        out = SendQueue()
        gathered = []
    }
}
