import Configuration
import Glibc
import Logging
import PGWire
import Primitives
import Proxy

/// DDL that runs on both sides (`mirror.ddl: barrier`): each database's on a thread of its own, one after the other.
/// Used on the control thread.
final class ChangeDesk {
    private let server: ProxyServer
    private let engine: SwitchEngine
    private let events: EventLog
    private let logger: Logger
    private var lanes: [String: ChangeLane] = [:]
    private var seen: ProxySnapshot?

    init(_ server: ProxyServer, _ engine: SwitchEngine, events: EventLog, logger: Logger) {
        self.server = server
        self.engine = engine
        self.events = events
        self.logger = logger
    }

    /// Called after whatever may have changed the snapshot.
    func follow(_ snapshot: ProxySnapshot) {
        if snapshot === seen { return }
        seen = snapshot
        let wanted = snapshot.settings.databases.filter {
            $0.mirror.mode != .off && $0.mirror.ddl == .barrier && !$0.isWildcard
        }
        for name in lanes.keys where !wanted.contains(where: { $0.name == name }) {
            lanes.removeValue(forKey: name)?.stop()
        }
        for database in wanted where lanes[database.name] == nil {
            lanes[database.name] = ChangeLane(database.name, server, engine, events: events, logger: logger)
        }
    }

    /// - Parameter mayBegin: no other process has taken this one's place. What has begun goes on all the same.
    func take(_ order: ChangeOrder, worker: Int, client: ClientID, _ snapshot: ProxySnapshot, mayBegin: Bool) {
        follow(snapshot)
        guard let lane = lanes[order.database], let settings = snapshot.databases[order.database]?.settings else {
            switch order.part {
            case .goBack: return
            case .end(let end) where !end.waits: return
            case .whole, .statement, .commit, .end: break
            }
            return server.answer(worker: worker, client: client, .done)
        }
        if !settings.mirror.tables.isEmpty && order.part.isFirst {
            return server.answer(worker: worker, client: client, .failed(ErrorResponse(
                .error, .featureNotSupported, "DDL runs on both sides only where their tables are alike",
                detail: "mirror.tables of \"\(order.database)\" names tables that are others on NEW.",
                hint: "Change both sides directly, and mirror.tables, and run godwit prepare.")))
        }
        lane.take(ChangeTask(order: order, settings: settings, worker: worker, client: client, mayBegin: mayBegin))
    }

    func stop() {
        for name in lanes.keys { lanes.removeValue(forKey: name)?.stop() }
    }
}

/// One database's DDL, and what an earlier process has left half done of it. Any thread.
private final class ChangeLane: Sendable {
    private let requests = Mailbox<ChangeRequest>()
    private let thread: OwnThread

    init(_ database: String, _ server: ProxyServer, _ engine: SwitchEngine, events: EventLog, logger: Logger) {
        let requests = requests
        thread = OwnThread(name: "godwit-ddl") {
            let run = ChangeRun(database, requests, server, engine, events: events, logger: logger)
            while true {
                var ready = pollfd(fd: requests.descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&ready, 1, run.waitMillis)
                if !run.hasRequests() { run.look() }
                while let request = run.nextRequest() {
                    switch request {
                    case .stop: return run.abandon()
                    case .perform(let task):
                        // The mirror, and with it this task, may wait for that; more tasks may follow without a pause.
                        // What is known of is settled by the task itself, within its `ddl_wait`.
                        if !run.isHalfDone { run.look() }
                        run.take(task)
                    }
                }
                run.checkTime()
            }
        }
    }

    func take(_ task: ChangeTask) { requests.post(.perform(task)) }

    /// What is under way by itself comes to its end, or is settled by the next process; a client's open transaction
    /// does not go on.
    func stop() { requests.post(.stop) }
}
