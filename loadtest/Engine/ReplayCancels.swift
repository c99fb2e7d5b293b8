import LibPQ
import Primitives
import Replay

/// Cancel requests of a run. One may come before its statement has begun, where this server is slower than the captured
/// one: PostgreSQL passes it over, and the statement would go on for as long as it likes.
extension ReplayRun {
    /// A request goes out again after so many nanoseconds, then after twice as many, up to the most.
    private static let againNanos: UInt64 = 100_000_000
    private static let againNanosMax: UInt64 = 5_000_000_000
    static let queryCancelled = "57014"

    func cancel(_ step: ScriptStep, _ side: PlayedConnection) {
        guard side.player.cancelNanos(step, speed: 1) != nil else { return }
        side.session?.cancel()
        side.cancelling = .init(unit: step.unit, nanos: now.nanoseconds + Self.againNanos, wait: Self.againNanos)
        cancelAgain(side)
    }

    /// Until what was cancelled has ended.
    func cancelAgain(_ side: PlayedConnection) {
        guard var cancelling = side.cancelling else { return }
        guard !side.isGone, side.player.running.contains(where: { $0.unit === cancelling.unit }) else {
            side.cancelling = nil
            return
        }
        if cancelling.nanos <= now.nanoseconds {
            let isFirst = side.player.running.first?.unit === cancelling.unit
            // A request that came too late when it was captured may do so again.
            if isFirst, !source.hasOutcomes || cancelling.unit.expected.contains(where: { $0.state == Self.queryCancelled }) {
                side.session?.cancel()
            }
            cancelling.wait = min(cancelling.wait * 2, Self.againNanosMax)
            cancelling.nanos = now.nanoseconds + cancelling.wait
            side.cancelling = cancelling
        }
        wait(side.pair, until: cancelling.nanos)
    }
}
