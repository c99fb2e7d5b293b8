import LibPQ
import Logging
import Mirroring
import Primitives

/// Looks, behind a switch, whether the foreign keys hold that its claim has put back (SetAside), on a thread of its
/// own: it reads each table once. Confined to the thread that watches the authority.
final class ForeignKeyValidation {
    private enum Outcome: Sendable { case done, failed }

    private let database: String
    private let logger: Logger
    private let interrupt = Mailbox<Bool>()
    private let outcomes = Mailbox<Outcome>()
    private var thread: OwnThread?
    /// The switch behind which nothing is left to be looked at.
    private var doneFor: Int64 = 0
    private var nextTry = Deadline.now()
    /// Seconds after one that could not be ended: a switch had its way, the server was gone, another Godwit does it.
    private static let retrySeconds = 30.0

    init(_ database: String, logger: Logger) {
        self.database = database
        self.logger = logger
    }

    /// - Parameter epoch: of the switch that gave the writes to the side of this conninfo.
    func look(_ epoch: Int64, _ conninfo: String) {
        if let running = thread {
            guard let outcome = outcomes.take().last else { return }
            running.join()
            thread = nil
            nextTry = Deadline.now().adding(seconds: Self.retrySeconds)
            if outcome == .failed { doneFor = 0 }
        }
        guard epoch > 0, epoch != doneFor, doneFor == 0 ? nextTry.hasPassed : true else { return }
        doneFor = epoch
        start(conninfo)
    }

    private func start(_ conninfo: String) {
        let (database, logger, descriptor, outcomes) = (database, logger, interrupt.descriptor, outcomes)
        thread = OwnThread(name: "validate") {
            do {
                let connection = try Connection.open(
                    try ConnectionString(parsing: conninfo), purpose: SetAside.validationPurpose, interrupt: descriptor)
                // Another Godwit that does it may end before it is done.
                guard try SetAside.mayValidate(connection) else { return outcomes.post(.failed) }
                let broken = try SetAside.validate(connection) {
                    logger.notice("foreign keys of \"\(database)\": \($0)")
                }
                for line in broken { logger.warning("foreign keys of \"\(database)\": \(line)") }
                outcomes.post(.done)
            } catch {
                logger.notice("foreign keys of \"\(database)\" are not all validated yet: \(error)")
                outcomes.post(.failed)
            }
        }
    }

    func end() {
        interrupt.post(true)
        thread?.join()
        thread = nil
    }
}
