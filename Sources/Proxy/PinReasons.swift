import Configuration
import Primitives
import SQLAnalysis
import Sessions

/// Why a client keeps its server, and for how long: until the server itself says that the state is gone.
extension ClientConnection {
    /// The reason to name.
    var pin: PinReason? { pins.first }

    func pin(_ reason: PinReason) {
        // What was prepared before may mean something else each time; from then on the server has this client alone.
        if reason == .untrackedSetting || reason == .unknownStatement { server?.statements.doubtLiterals() }
        if pins.contains(reason) { return }
        if pins.isEmpty { pinnedAt = worker.now }
        // Whatever else there is says more.
        let isLast = reason == .preparedInSQL || pins.last != .preparedInSQL
        pins.insert(reason, at: isLast ? pins.count : pins.count - 1)
    }

    func unpin(_ reason: PinReason) { pins.removeAll { $0 == reason } }

    // MARK: asking the server

    /// A server can be asked whether it still has what they stand for.
    private static let verifiablePins: Set<PinReason> = [
        .temporaryTable, .holdCursor, .listen, .advisoryLock, .function,
    ]
    /// Functions may have set it free as well, which nobody sees.
    private static let microsBetween: UInt64 = 10_000_000

    /// One row when nothing of that is left: the command tag tells.
    private static let isFreeQuery = """
        SELECT WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks
                            WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                            WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                              AND refobjid = pg_catalog.pg_my_temp_schema())
        """

    /// A unit has ended outside of transactions.
    func verifyPins(on server: ServerConnection) {
        let isDue = maySetFree || worker.now.microseconds(since: pinsVerifiedAt) >= Self.microsBetween
        // Not within a message of the client's: behind a COPY that has failed more of its data may be on its way.
        guard isDue, !isVerifyingPins, passToServer == 0, server.session.isFree, limits?.mode != .session,
            pins.contains(where: Self.verifiablePins.contains)
        else { return }
        maySetFree = false
        isVerifyingPins = true
        pinsVerifiedAt = worker.now
        server.runQuietly(Self.isFreeQuery)
    }

    /// Something of ours has come to its end on the server.
    func quietlyCompleted(_ tag: UnsafeRawBufferPointer) {
        guard isVerifyingPins, tag.elementsEqual("SELECT 1\0".utf8) else { return }
        pins.removeAll(where: Self.verifiablePins.contains)
    }

    func pinsVerified() { isVerifyingPins = false }
}
