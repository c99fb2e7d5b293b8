import PGWire

/// The startup packet that came last, and what it said: most connections of an application begin with the same bytes,
/// of which nothing has to be made out again then. One thread's value.
package struct StartupMemory {
    /// Longer packets are read each time.
    private static let bytesMax = 1024

    private var bytes: [UInt8] = []
    private var request = LoginRequest(user: "", database: "", settings: [])

    package init() {}

    /// - Parameter received: from the packet's first byte on.
    /// - Returns: what the packet in front says, and its size; nil: it is another one, or not whole.
    func find(_ received: UnsafeRawBufferPointer) -> (request: LoginRequest, size: Int)? {
        // A packet begins with its size: another one of the same beginning has as many bytes.
        guard !bytes.isEmpty, received.count >= bytes.count,
            bytes.withUnsafeBytes({ $0.hasSameBytes(as: UnsafeRawBufferPointer(rebasing: received[..<$0.count])) })
        else { return nil }
        return (request, bytes.count)
    }

    /// - Parameter packet: the whole of one that led to the request and to no other answer.
    mutating func note(_ packet: UnsafeRawBufferPointer, _ request: LoginRequest) {
        if packet.count > Self.bytesMax { return }
        bytes = Array(packet)
        self.request = request
    }
}
