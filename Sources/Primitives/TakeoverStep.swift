/// How far another process is in taking the place of this one, as the control thread is told. Immutable, any thread.
package enum TakeoverStep: Equatable, Sendable {
    /// It asks for our sockets.
    case asked(process: Int32)
    /// It could begin now.
    case ready
    /// It has begun: its clients are served there.
    case serving(process: Int32)
    /// It has given up, for this reason; before `serving` nothing has changed.
    case lost(String)
    /// A cancel request that came to it is for one of our clients, or for nobody.
    case cancel(number: UInt64, processID: Int32, secret: [UInt8])
    /// We took over: the one before us has ended.
    case predecessorEnded
    /// The one before us has passed our cancel request on.
    case canceled(number: UInt64)
    /// We have left our place: what operators order of all traffic there, ours is to follow.
    case gate(String)
    /// We took over: how far the one before us has followed.
    case gateStanding(String)
    /// The program that was started to take over has ended.
    case successorExited(process: Int32, status: Int32)
}
