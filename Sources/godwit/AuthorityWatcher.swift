import Configuration
import Glibc
import LibPQ
import Logging
import Migration
import Mirroring
import Primitives
import Proxy
import Synchronization

/// Asks the databases each second who takes the writes, and settles what a switch that was cut off has left: another
/// Godwit may have switched, or died in the midst of it. On a thread of its own, for it blocks.
final class AuthorityWatcher: Sendable {
    private static let pauseMillis: CInt = 1000

    private enum Request: Sendable {
        case stop
        case watch([DatabaseSettings])
    }

    private let requests = Mailbox<Request>()
    private let thread: Mutex<OwnThread?>

    init(_ first: [DatabaseSettings], control: Mailbox<ControlMessage>, engine: SwitchEngine, logger: Logger) {
        let requests = requests
        thread = Mutex(OwnThread(name: "godwit-authority") {
            var databases = first
            var notes: [String: [String]] = [:]
            while true {
                var ready = pollfd(fd: requests.descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&ready, 1, Self.pauseMillis)
                for request in requests.take() {
                    switch request {
                    case .stop: return
                    case .watch(let settings): databases = settings
                    }
                }
                for database in databases where database.mirror.mode != .off && !database.isWildcard {
                    guard let known = engine.ownership(of: database.name) else { continue }
                    let found = SwitchRecovery.settle(
                        old: database.controlOrOwn(.old), new: database.controlOrOwn(.new),
                        interrupt: requests.descriptor)
                    if found.notes != notes[database.name] ?? [] {
                        notes[database.name] = found.notes
                        for note in found.notes { logger.notice("authority of \"\(database.name)\": \(note)") }
                    }
                    if found.ownership.standing == .settled, found.ownership != known {
                        control.post(.switching(
                            .own(
                                database: database.name, side: found.ownership.authority, epoch: found.ownership.epoch),
                            reply: nil))
                        control.post(.switching(.turnMirror(database: database.name), reply: nil))
                    }
                }
            }
        })
    }

    func watch(_ databases: [DatabaseSettings]) { requests.post(.watch(databases)) }

    func stop() {
        let running = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        requests.post(.stop)
        running?.join()
    }
}

extension DatabaseSettings {
    /// The conninfo for control connections.
    func controlOrOwn(_ side: Side) -> String {
        switch side {
        case .old: controlOld.isEmpty ? old : controlOld
        case .new: controlNew.isEmpty ? new : controlNew
        }
    }
}
