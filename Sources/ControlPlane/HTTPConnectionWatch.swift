import HTTPTypes
import NIOCore
import NIOHTTPTypes
import Synchronization

/// Connections that there are, so that one too many finds room. Any thread.
final class HTTPConnections: Sendable {
    private struct Entry {
        var channel: any Channel
        /// nil: a request is being answered.
        var awaitsSince: NIODeadline?
    }

    private let bound: Int
    private let entries = Mutex<[ObjectIdentifier: Entry]>([:])

    init(max: Int) { bound = max }

    /// Whoever has waited longest for a request gives way; where nobody waits, the new one does.
    func add(_ channel: any Channel) {
        let closed = entries.withLock { entries -> (any Channel)? in
            var given: (any Channel)?
            if entries.count >= bound {
                let waiting = entries.filter { $0.value.awaitsSince != nil }
                let oldest = waiting.min { left, right in
                    (left.value.awaitsSince ?? .distantFuture) < (right.value.awaitsSince ?? .distantFuture)
                }
                guard let oldest else { return channel }
                given = oldest.value.channel
                entries[oldest.key] = nil
            }
            entries[ObjectIdentifier(channel)] = Entry(channel: channel, awaitsSince: .now())
            return given
        }
        closed?.close(promise: nil)
    }

    func setAwaiting(_ awaits: Bool, _ channel: any Channel) {
        entries.withLock { $0[ObjectIdentifier(channel)]?.awaitsSince = awaits ? .now() : nil }
    }

    func remove(_ channel: any Channel) { entries.withLock { _ = $0.removeValue(forKey: ObjectIdentifier(channel)) } }
}

/// Sees to it that a connection gets on: a head in time, an answer in time, and each of its parts taken in time. Its
/// channel's thread.
final class HTTPConnectionWatch: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    private let connections: HTTPConnections
    private var deadline: NIODeadline?
    /// One at a time: what is put off is looked at again, and nothing is scheduled for each step of an answer.
    private var look: Scheduled<Void>?

    init(_ connections: HTTPConnections) { self.connections = connections }

    func handlerAdded(context: ChannelHandlerContext) {
        connections.add(context.channel)
        arm(HTTPService.requestSeconds, context)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        disarm()
        connections.remove(context.channel)
    }

    func channelInactive(context: ChannelHandlerContext) {
        disarm()
        connections.remove(context.channel)
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if case .head = unwrapInboundIn(data) {
            connections.setAwaiting(false, context.channel)
            arm(HTTPService.answerSeconds * 2, context)
        }
        context.fireChannelRead(data)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        let isEnd = if case .end = unwrapOutboundIn(data) { true } else { false }
        if isEnd { connections.setAwaiting(true, context.channel) }
        // From its being written on: a stream that has nothing to say says so more often than that.
        arm(isEnd ? HTTPService.requestSeconds : HTTPService.answerSeconds * 3, context)
        context.write(data, promise: promise)
    }

    private func arm(_ seconds: Int64, _ context: ChannelHandlerContext) {
        let next = NIODeadline.now() + .seconds(seconds)
        let isEarlier = deadline.map { next < $0 } ?? true
        deadline = next
        if !isEarlier { return }
        lookAt(next, context.eventLoop, NIOLoopBound(self, eventLoop: context.eventLoop), context.channel)
    }

    private func disarm() {
        deadline = nil
        look?.cancel()
        look = nil
    }

    private func lookAt(
        _ time: NIODeadline, _ loop: any EventLoop, _ watch: NIOLoopBound<HTTPConnectionWatch>, _ channel: any Channel
    ) {
        look?.cancel()
        look = loop.scheduleTask(deadline: time) {
            guard let deadline = watch.value.deadline else { return }
            if deadline <= .now() { return channel.close(promise: nil) }
            watch.value.lookAt(deadline, loop, watch, channel)
        }
    }
}
