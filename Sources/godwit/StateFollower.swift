import ControlPlane
import Glibc
import Logging
import Migration
import Mirroring
import Primitives
import Proxy
import Synchronization

/// Brings what other Godwits with the same state have decided to this one: shares of reads, and what consoles are shown
/// of migrations. On a thread of its own, for it blocks.
final class StateFollower: Sendable {
    private let bell = Mailbox<Bool>()
    private let thread = Mutex<OwnThread?>(nil)

    /// - Parameter server: is told what to take.
    init(_ store: StateStore, _ state: ServeState, _ server: ProxyServer, logger: Logger) {
        let (bell, duty) = (bell, state.duty)
        let memory = state.memory
        // Who knows nothing of what is stored mirrors nothing.
        store.observe(term: { if memory.isInformed { duty.set($0) } }, news: { bell.post(true) })
        let started = OwnThread(name: "godwit-follow") {
            var view = View(store, state, server)
            var isReading = true
            while true {
                var ready = pollfd(fd: bell.descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&ready, 1, -1)
                if bell.take().contains(false) { return }
                do throws(StateStore.Failure) {
                    try view.look()
                    if !isReading { logger.notice("\(store.path) answers again") }
                    isReading = true
                } catch {
                    if isReading { logger.warning("\(error); what other Godwits decide is not known meanwhile") }
                    isReading = false
                }
            }
        }
        thread.withLock { $0 = started }
    }

    /// What has been read so far. Confined to the follower's thread.
    private struct View {
        private let store: StateStore
        private let state: ServeState
        private let server: ProxyServer
        private var seen: (traffic: Int64, shown: String)?

        init(_ store: StateStore, _ state: ServeState, _ server: ProxyServer) {
            (self.store, self.state, self.server) = (store, state, server)
        }

        /// Reads what is new.
        mutating func look() throws(StateStore.Failure) {
            let began = MonotonicInstant.now()
            let (before, store, memory, duty) = (seen, store, state.memory, state.duty)
            // Forgotten until all is taken.
            seen = nil
            let marks = try store.marks()
            var changed: [String] = []
            if memory.takeBehind() || before?.traffic != marks.traffic {
                changed = memory.learn(try store.traffic())
            }
            @Sendable func isInForce() {
                duty.hear(at: began)
                if memory.isInformed { return }
                memory.becomeInformed()
                // Another one may be told of meanwhile.
                var term: StateTerm
                repeat {
                    term = store.presentTerm
                    duty.set(term)
                } while term != store.presentTerm
            }
            // One after the other, so with the last of them all are.
            for name in changed.dropLast() { server.control.post(.migration(.adopt(database: name)) { _ in }) }
            if let last = changed.last {
                server.control.post(.migration(.adopt(database: last)) { _ in isInForce() })
            } else {
                isInForce()
            }
            // Whoever runs the migrations shows them by himself.
            let isRunner = store.held != nil
            if !isRunner, before?.shown != marks.shown {
                state.board.rows = MigrationList(shown: try store.shown()).migrations.map { MigrationBoard.Row($0) }
            }
            seen = (marks.traffic, isRunner ? "" : marks.shown)
        }
    }

    func stop() {
        bell.post(false)
        thread.join()
    }
}

extension MigrationBoard.Row {
    init(_ document: MigrationDocument) {
        let required = document.gates.filter(\.required)
        let blocking = required.first { $0.holds != true }
        self.init(
            id: document.id, database: document.database, phase: document.phase, standing: document.standing,
            place: document.place, writes: document.writes,
            readsPercent: GateJudge.text(document.progress.readsPercent), since: document.since,
            gates: "\(required.count { $0.holds == true })/\(required.count)",
            cause: blocking.map { "\($0.name): \($0.value)" } ?? document.cause)
    }
}

extension MirrorDuty {
    /// While nobody knows who runs the migrations all stays as it is: the mirror needs the two databases only.
    func set(_ term: StateTerm) {
        switch term {
        case .ours: (isOurs, mayEndOthers) = (true, true)
        case .others: (isOurs, mayEndOthers) = (false, false)
        case .nobody, .unknown: mayEndOthers = false
        }
    }
}
