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
        store.observe(term: { duty.set($0) }, news: { bell.post(true) })
        let started = OwnThread(name: "godwit-follow") {
            var isReading = true
            while true {
                var ready = pollfd(fd: bell.descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&ready, 1, -1)
                if bell.take().contains(false) { return }
                do throws(StateStore.Failure) {
                    for name in state.memory.learn(try store.traffic()) {
                        server.control.post(.migration(.adopt(database: name)) { _ in })
                    }
                    if store.held == nil {
                        state.board.rows = MigrationList(shown: try store.shown()).migrations.map {
                            MigrationBoard.Row($0)
                        }
                    }
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
