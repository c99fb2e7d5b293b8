import Dispatch
import Glibc
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import Primitives
import Reactor
import Synchronization

/// HTTP for operators and their tools, on a thread of its own. Any thread.
///
/// Hummingbird speaks HTTP and finds the route; connections are accepted here, so that nothing a client does costs more
/// than its bounds: one client too many takes the place of the one that has waited longest for nothing.
package final class HTTPService: Sendable {
    /// Connections at once.
    package static let connectionsMax = 64
    /// Bytes and fields of a request's head.
    package static let headBytesMax = 8 * 1024
    package static let headFieldsMax = 64
    /// Seconds for a whole head, from the connection's begin or from the answer before.
    package static let requestSeconds: Int64 = 30
    /// Seconds in which an answer must be begun, and each part of it be taken.
    package static let answerSeconds: Int64 = 10
    /// Connections that the kernel keeps to be accepted.
    package static let backlog = 64

    /// Where it listens.
    package let address: Reactor.SocketAddress
    private let group: MultiThreadedEventLoopGroup
    private let server: Task<Void, Never>
    private let ended: TaskEnd
    private let isStopped = Mutex(false)

    package init(
        on listener: consuming Listener, routes: [HTTPRoute], access: HTTPAccess, encryption: HTTPEncryption,
        logger: Logger
    ) throws(SocketError) {
        address = listener.address
        // NIO owns the socket from here on: the number is taken over, and closed with its channel.
        guard let raw = listener.duplicate() else { throw SocketError(operation: .open, errno: EMFILE) }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        self.group = group
        let connections = HTTPConnections(max: Self.connectionsMax)
        let channel = HTTP1Channel(
            responder: Self.responder(routes, access, logger),
            configuration: HTTP1Channel.Configuration(
                additionalChannelHandlers: [HTTPConnectionWatch(connections)],
                httpDecoderConfiguration: .init(
                    maxHeaderFieldSize: Self.headBytesMax, maxHeaderListSize: Self.headBytesMax,
                    maxHeaderFieldCount: Self.headFieldsMax)))
        let ended = TaskEnd()
        self.ended = ended
        // Without a hop to another thread and back for each step of an answer.
        server = Task(executorPreference: LoopExecutor(group.next())) {
            await Self.serve(raw, channel, encryption, group, logger)
            ended.signal()
        }
    }

    /// Ends what is under way too. Further calls wait for the first one's end, and do nothing.
    package func stop() {
        isStopped.withLock { isStopped in
            if isStopped { return }
            isStopped = true
            server.cancel()
            // Nothing of it is left to the few threads that run tasks: this may be one, and others may wait like it.
            ended.wait()
            let closed = TaskEnd()
            group.shutdownGracefully(queue: DispatchQueue(label: "godwit-http-end")) { _ in closed.signal() }
            closed.wait()
        }
    }

    private static func serve(
        _ raw: CInt, _ channel: HTTP1Channel, _ encryption: HTTPEncryption, _ group: MultiThreadedEventLoopGroup,
        _ logger: Logger
    ) async {
        do {
            let listening = try await ServerBootstrap(group: group)
                .childChannelOption(ChannelOptions.allowRemoteHalfClosure, value: true)
                .bind(raw) { child in
                    child.eventLoop.makeCompletedFuture {
                        guard let context = encryption.current else { return }
                        try child.pipeline.syncOperations.addHandler(HTTPTLSHandler(context))
                    }.flatMap { channel.setup(channel: child, logger: logger) }
                }
            try await withThrowingDiscardingTaskGroup { tasks in
                try await listening.executeThenClose { clients in
                    for try await client in clients {
                        tasks.addTask { await channel.handle(value: client, logger: logger) }
                    }
                }
            }
        } catch is CancellationError {
            return
        } catch {
            logger.error("HTTP has ended: \(error)")
        }
    }

    private static func responder(
        _ routes: [HTTPRoute], _ access: HTTPAccess, _ logger: Logger
    ) -> HTTPChannelHandler.Responder {
        let router = Router(context: BasicRequestContext.self, options: .autoGenerateHeadEndpoints)
        router.add(middleware: HTTPProblems(routes: routes))
        router.add(middleware: access)
        for route in routes {
            router.on(RouterPath(route.path), method: route.method) { request, context in
                try await route.answer(HTTPCall(request, context))
            }
        }
        let responder = router.buildResponder()
        return { request, writer, channel in
            let context = BasicRequestContext(source: ApplicationRequestContextSource(channel: channel, logger: logger))
            let response = try await responder.respond(to: request, context: context)
            try await writer.write(response: response.head, body: response.body)
        }
    }
}

/// Runs tasks on the thread of an event loop. Any thread.
private final class LoopExecutor: TaskExecutor {
    private let loop: any NIOCore.EventLoop

    init(_ loop: any NIOCore.EventLoop) { self.loop = loop }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        loop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}

/// A thread waits until a task has done something. Any thread.
private final class TaskEnd: Sendable {
    private let mailbox = Mailbox<Void>()

    func signal() { mailbox.post(()) }

    func wait() {
        var ready = pollfd(fd: mailbox.descriptor, events: Int16(POLLIN), revents: 0)
        while poll(&ready, 1, -1) < 0 && errno == EINTR {}
    }
}
