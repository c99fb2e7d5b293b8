import Sessions

/// Which part of a client's bytes goes to the server as it lies, and what goes instead of the rest.
struct ForwardRun {
    let bytes: UnsafeRawBufferPointer
    /// Everything before it has been handled.
    private(set) var offset = 0
    private var runStart = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func pass(to end: Int) { offset = end }

    /// The first messages are not for the server.
    mutating func dropAll(upTo end: Int) {
        precondition(runStart == 0 && offset == 0, "only the first messages can be dropped so")
        offset = end
        runStart = end
    }

    mutating func passIfAt(_ start: Int, to end: Int) {
        if offset == start { offset = end }
    }

    mutating func drop(_ frame: FrontendFrame, _ server: ServerConnection) { replace(frame, with: [], server) }

    mutating func replace(_ frame: FrontendFrame, with message: [UInt8], _ server: ServerConnection) {
        replace(upTo: frame.end, with: message, server)
    }

    mutating func replace(upTo end: Int, with message: [UInt8], _ server: ServerConnection) {
        insert(message, server)
        offset = end
        runStart = end
    }

    /// A message of ours before the one at `offset`.
    mutating func insert(_ message: [UInt8], _ server: ServerConnection) {
        if runStart < offset { server.queue(UnsafeRawBufferPointer(rebasing: bytes[runStart..<offset])) }
        runStart = offset
        server.queue(message)
    }

    mutating func finish(_ server: ServerConnection) {
        server.send(UnsafeRawBufferPointer(rebasing: bytes[runStart..<offset]))
        runStart = offset
    }
}
