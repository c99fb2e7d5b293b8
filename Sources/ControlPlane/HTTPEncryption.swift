import NIOCore
import Reactor
import Synchronization

/// With which certificate HTTP is served from now on; connections that there are keep theirs. Any thread.
package final class HTTPEncryption: Sendable {
    private let context: Mutex<TLSContext?>

    /// - Parameter context: nil: what comes is not encrypted.
    package init(_ context: TLSContext?) { self.context = Mutex(context) }

    package func set(_ next: TLSContext?) { context.withLock { $0 = next } }

    package var isOn: Bool { current != nil }

    /// See `TLSContext.mark`; nil: nothing is encrypted.
    package var mark: [UInt8]? { current?.mark }

    package var current: TLSContext? { context.withLock { $0 } }
}

/// TLS between a connection and HTTP on it: OpenSSL's, as for PostgreSQL's clients, so that one library judges all
/// certificates and one kind of message tells what is wrong with them. Its channel's thread.
final class HTTPTLSHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Plaintext that is decrypted at once.
    private static let plaintextBytes = 64 * 1024
    /// Plaintext that is encrypted at once: what it becomes must fit into the scratch.
    private static let sliceMax = 256 * 1024

    private let scratch: TLSScratch
    private let stream: TLSStream
    /// HTTP was told that nothing more comes.
    private var hasEnded = false

    init(_ context: TLSContext) {
        scratch = TLSScratch(plaintextBytes: Self.plaintextBytes)
        stream = TLSStream(context, scratch)
    }

    // MARK: from the peer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var ciphertext = unwrapInboundIn(data)
        while !hasEnded, let part = ciphertext.readSlice(length: min(ciphertext.readableBytes, scratch.inputBytesMax)),
            part.readableBytes > 0
        {
            var plaintext = context.channel.allocator.buffer(capacity: Self.plaintextBytes)
            plaintext.writeWithUnsafeMutableBytes(minimumWritableBytes: Self.plaintextBytes) { room in
                part.withUnsafeReadableBytes { stream.decrypt($0, into: room) }
            }
            if let answer = output(context) {
                // To a peer that does not read what it is answered, and asks on: all of it would be kept for it.
                if !context.channel.isWritable {
                    hasEnded = true
                    return context.close(promise: nil)
                }
                context.writeAndFlush(wrapOutboundOut(answer), promise: nil)
            }
            if plaintext.readableBytes > 0 { context.fireChannelRead(wrapInboundOut(plaintext)) }
            switch stream.state {
            case .handshaking, .open: break
            case .peerClosed: end(context)
            case .failed:
                // The alert that says why has been written before.
                hasEnded = true
                context.close(promise: nil)
            }
        }
    }

    /// The peer's goodbye is what the end of its half of a connection is without TLS.
    private func end(_ context: ChannelHandlerContext) {
        if hasEnded { return }
        hasEnded = true
        context.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case ChannelEvent.inputClosed? = event as? ChannelEvent {
            // Nobody who leaves in mid-handshake waits for an answer.
            return stream.state == .handshaking ? context.close(promise: nil) : end(context)
        }
        context.fireUserInboundEventTriggered(event)
    }

    // MARK: to the peer

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        var plaintext = unwrapOutboundIn(data)
        var ciphertext = context.channel.allocator.buffer(capacity: plaintext.readableBytes + 256)
        while let slice = plaintext.readSlice(length: min(plaintext.readableBytes, Self.sliceMax)),
            slice.readableBytes > 0
        {
            slice.withUnsafeReadableBytes { stream.encrypt($0) }
            if var part = output(context) { ciphertext.writeBuffer(&part) }
        }
        switch stream.state {
        case .open, .peerClosed: context.write(wrapOutboundOut(ciphertext), promise: promise)
        case .handshaking, .failed: promise?.fail(ChannelError.outputClosed)
        }
    }

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        if mode != .input {
            stream.shutdown()
            if let goodbye = output(context) { context.writeAndFlush(wrapOutboundOut(goodbye), promise: nil) }
        }
        context.close(mode: mode, promise: promise)
    }

    /// What the stream has encrypted; nil: nothing.
    private func output(_ context: ChannelHandlerContext) -> ByteBuffer? {
        if scratch.output.isEmpty { return nil }
        defer { scratch.clearOutput() }
        return context.channel.allocator.buffer(bytes: scratch.output)
    }
}
