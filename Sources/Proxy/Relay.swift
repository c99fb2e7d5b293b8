/// Which part of a receive buffer goes to the client: runs of forwarded messages are sent as they lie.
struct Relay {
    let bytes: UnsafeRawBufferPointer
    /// Everything before it has been decided on.
    private(set) var offset = 0
    private var runStart = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func step(to end: Int, isForwarded: Bool, _ client: ClientConnection?) {
        if !isForwarded {
            queueRun(client)
            runStart = end
        }
        offset = end
    }

    /// A message of ours between those of the server.
    mutating func insert(_ tag: UInt8, _ client: ClientConnection?) {
        queueRun(client)
        runStart = offset
        client?.queueAnswer(tag)
    }

    mutating func insert(_ message: [UInt8], _ client: ClientConnection) {
        queueRun(client)
        runStart = offset
        message.withUnsafeBytes { client.queueFromServer($0) }
    }

    /// What has not been handed on yet is not for the client.
    mutating func discard() { runStart = offset }

    private func queueRun(_ client: ClientConnection?) {
        if runStart < offset { client?.queueFromServer(UnsafeRawBufferPointer(rebasing: bytes[runStart..<offset])) }
    }

    mutating func finish(_ client: ClientConnection) {
        client.sendFromServer(UnsafeRawBufferPointer(rebasing: bytes[runStart..<offset]))
        runStart = offset
    }
}
