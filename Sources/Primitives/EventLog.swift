import Glibc
import Synchronization

/// Where events go besides the ring: the log, hooks, a state store.
///
/// `append` is called on the thread that decided, maybe a reactor's, right after the decision and outside of any lock:
/// it must not block. Threads may overtake each other between the ring and here; `number` tells the order.
package protocol EventSink: Sendable {
    func append(_ event: EventRecord)
}

/// The latest events, in a ring. Any thread; its lock is taken for decisions, not for units.
package final class EventLog: Sendable {
    /// Events kept; the oldest goes first.
    package static let eventsMax = 1000

    private struct State {
        var ring = BoundedQueue<EventRecord>(bound: EventLog.eventsMax)
        var lastNumber: UInt64 = 0
        var counts: [EventRecord.Kind: UInt64] = [:]
        var sinks: [any EventSink] = []
    }

    private let state = Mutex(State())

    package init() {}

    /// It gets every event from now on.
    package func add(_ sink: any EventSink) { state.withLock { $0.sinks.append(sink) } }

    package func append(_ event: EventRecord) {
        var event = event
        event.micros = WallClock.micros()
        let sinks = state.withLock { state in
            state.lastNumber += 1
            event.number = state.lastNumber
            state.counts[event.kind, default: 0] += 1
            if state.ring.isFull { _ = state.ring.popFirst() }
            _ = state.ring.append(event)
            return state.sinks
        }
        for sink in sinks { sink.append(event) }
    }

    /// Oldest first.
    package var events: [EventRecord] {
        state.withLock { state in (0..<state.ring.count).map { state.ring[$0] } }
    }

    /// Since the start, those that were given up for later ones too.
    package var counts: [EventRecord.Kind: UInt64] { state.withLock { $0.counts } }
}
