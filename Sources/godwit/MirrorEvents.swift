import Primitives
import Synchronization

/// Tells of a mirror that stops, waits or goes on; not of each of its attempts. Any thread, one for each mirror.
final class MirrorEvents: Sendable {
    private struct State {
        var told: MirrorReport.State = .off
        var reason = ""
    }

    private let database: String
    private let log: EventLog
    private let state = Mutex(State())

    init(_ database: String, _ log: EventLog) {
        self.database = database
        self.log = log
    }

    func changed(to report: MirrorReport) {
        let isNew = state.withLock { state in
            switch report.state {
            // It tries again and again: that is no news, the reason is.
            case .off:
                // Told to end, which is its orderer's news. When it goes on that is told again.
                state.told = .off
                return false
            case .starting: return false
            case .waiting, .stopped: if state.told == report.state && state.reason == report.reason { return false }
            case .backfill, .mirroring, .following, .paused, .standby: if state.told == report.state { return false }
            }
            state.told = report.state
            state.reason = report.reason
            return true
        }
        if !isNew { return }
        let reason = report.reason.isEmpty ? "" : ": \(report.reason)"
        log.append(EventRecord(.mirror, database: database, cause: "the mirror is \(report.state.rawValue)\(reason)"))
    }
}
