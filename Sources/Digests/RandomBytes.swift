/// Bytes from the system's secure generator, drawn many at once: a call of the generator costs as much as a login.
/// What was handed out is wiped here. Used on one thread.
package struct RandomBytes {
    private static let drawnAtOnce = 4096
    private var drawn: [UInt8] = []
    private var used = 0

    package init() {}

    package mutating func take(_ count: Int) -> [UInt8] {
        if count > Self.drawnAtOnce { return Digest.randomBytes(count) }
        if drawn.count - used < count {
            drawn = Digest.randomBytes(Self.drawnAtOnce)
            used = 0
        }
        let taken = Array(drawn[used..<used + count])
        for index in used..<used + count { drawn[index] = 0 }
        used += count
        return taken
    }
}
