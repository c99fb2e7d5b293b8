/// Emptied buffers of a thread, for bytes that are kept for a moment.
struct SpareBuffers {
    private static let buffersMax = 64
    private static let capacityMax = 4096
    private var buffers: [[UInt8]] = []

    mutating func take() -> [UInt8] { buffers.popLast() ?? [] }

    /// - Parameter buffer: empty and without memory afterwards.
    mutating func giveBack(_ buffer: inout [UInt8]) {
        var spare: [UInt8] = []
        swap(&spare, &buffer)
        if spare.capacity == 0 || spare.capacity > Self.capacityMax || buffers.count >= Self.buffersMax { return }
        spare.removeAll(keepingCapacity: true)
        buffers.append(consume spare)
    }
}
