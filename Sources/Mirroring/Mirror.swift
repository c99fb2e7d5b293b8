import Glibc
import LibPQ
import Logging
import Primitives
import Synchronization

/// Keeps one side equal to the other, as its direction says, on a thread of its own. Any thread may start and stop it;
/// each once.
package final class Mirror: Sendable {
    private let database: String
    package let direction: MirrorDirection
    private let sourceConninfo: String
    private let targetConninfo: String
    private let options: MirrorOptions
    /// What the operator wants of it.
    package let orders: MirrorOrders
    private let duty: MirrorDuty
    private let horizon: Horizon
    private let logger: Logger
    private let onSchemaChange: @Sendable () -> Void
    /// A pipe: closing its write end ends every wait of the mirror's thread.
    private let stopPipe: (read: CInt, write: CInt)
    private let thread = Mutex<OwnThread?>(nil)

    /// - Parameter onSchemaChange: called on the mirror's thread when OLD has tables that are not mirrored, or no more.
    package init(
        database: String, _ direction: MirrorDirection = .forward, oldConninfo: String, newConninfo: String,
        settings: MirrorOptions, duty: MirrorDuty = MirrorDuty(isShared: false), horizon: Horizon, logger: Logger,
        onSchemaChange: @escaping @Sendable () -> Void = {}
    ) {
        self.onSchemaChange = onSchemaChange
        self.database = database
        self.direction = direction
        (sourceConninfo, targetConninfo) = direction.ends(old: oldConninfo, new: newConninfo)
        options = settings
        orders = MirrorOrders(rowsPerSecond: settings.copyRowsPerSecond)
        self.duty = duty
        self.horizon = horizon
        self.logger = logger
        var ends: [CInt] = [-1, -1]
        let status = pipe(&ends)
        precondition(status == 0, "pipe: out of file descriptors")
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        stopPipe = (ends[0], ends[1])
    }

    deinit {
        stop()
        close(stopPipe.read)
    }

    package func start() {
        thread.withLock { thread in
            precondition(thread == nil, "a mirror is started once")
            let (database, direction, source, target) = (database, direction, sourceConninfo, targetConninfo)
            let (onSchemaChange, orders, duty) = (onSchemaChange, orders, duty)
            let (options, horizon, logger, descriptor) = (options, horizon, logger, stopPipe.read)
            thread = OwnThread(name: "mirror-\(database)") {
                let loop = MirrorLoop(
                    database: database, direction, sourceConninfo: source, targetConninfo: target, options: options,
                    orders: orders, duty: duty, horizon: horizon, logger: logger, stopDescriptor: descriptor,
                    onSchemaChange: onSchemaChange)
                loop.run()
            }
        }
    }

    /// Ends the mirror at the next wait and joins its thread. Further calls do nothing.
    package func stop() {
        let running = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        guard let running else { return }
        close(stopPipe.write)
        running.join()
    }
}
