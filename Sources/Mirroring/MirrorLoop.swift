import Glibc
import LibPQ
import Logging
import Primitives

/// Performs what MirrorStateMachine decides: connects, runs batches, waits. Confined to the mirror's thread.
final class MirrorLoop {
    private let database: String
    private let direction: MirrorDirection
    private let sourceConninfo: String
    private let targetConninfo: String
    private let options: MirrorOptions
    private let orders: MirrorOrders
    private let duty: MirrorDuty
    private let horizon: Horizon
    private let logger: Logger
    private let stopDescriptor: CInt
    private let onSchemaChange: @Sendable () -> Void

    private var machine: MirrorStateMachine
    private var actions = ActionList<MirrorStateMachine.Action>(capacity: MirrorStateMachine.actionsMax)
    private var isFinished = false
    private var session: MirrorSession?
    /// Another Godwit mirrors, and this one finds out how far it is.
    private var following: FollowSession?
    /// The last batch that NEW acknowledged to us: after it, NEW must not be found before it.
    private var lastAcknowledged: BatchApplier.Progress?
    private var reportedReason = ""

    init(
        database: String, _ direction: MirrorDirection, sourceConninfo: String, targetConninfo: String,
        options: MirrorOptions, orders: MirrorOrders, duty: MirrorDuty, horizon: Horizon, logger: Logger,
        stopDescriptor: CInt, onSchemaChange: @escaping @Sendable () -> Void
    ) {
        self.duty = duty
        self.onSchemaChange = onSchemaChange
        self.database = database
        self.direction = direction
        self.sourceConninfo = sourceConninfo
        self.targetConninfo = targetConninfo
        self.options = options
        self.orders = orders
        self.horizon = horizon
        self.logger = logger
        self.stopDescriptor = stopDescriptor
        machine = MirrorStateMachine(lagMaxSeconds: options.lagMaxSeconds)
    }

    func run() {
        var event = MirrorStateMachine.Event.start
        while !isFinished {
            machine.handle(event, &actions)
            var next: MirrorStateMachine.Event?
            for action in actions.drain() { next = perform(action) ?? next }
            event = next ?? waitForStop()
        }
    }

    // MARK: actions

    private func perform(_ action: MirrorStateMachine.Action) -> MirrorStateMachine.Event? {
        switch action {
        case .open: return stand() ? open() : .stop
        case .close:
            (session, following) = (nil, nil)
            return nil
        case .runBatch: return runBatch()
        case .backOff(let millis): return pause(millis: millis) ? .backOffElapsed : .stop
        case .setReadable(let readable):
            horizon.setReadable(readable)
            return nil
        case .report(let state, let reason):
            report(state, reason)
            return nil
        case .finish:
            isFinished = true
            return nil
        }
    }

    private func report(_ state: MirrorReport.State, _ reason: String) {
        if orders.isEnding { return }
        let (state, reason) = shown(state, reason)
        horizon.updateReport { report in
            report.state = state
            report.reason = reason
        }
        // It tries again and again: each reason is said once.
        guard reason != reportedReason || (state != .waiting && state != .stopped) else { return }
        reportedReason = reason
        logger.notice("mirror", metadata: [
            "database": "\(database)", "state": "\(state.rawValue)", "reason": "\(reason)",
        ])
    }

    private func shown(_ state: MirrorReport.State, _ reason: String) -> (MirrorReport.State, String) {
        switch state {
        case .waiting where !duty.isOurs: (.standby, reason)
        case .mirroring where following != nil: (.following, "another Godwit mirrors")
        case .backfill where following != nil: (.standby, "another Godwit copies")
        case .off, .starting, .backfill, .mirroring, .following, .paused, .waiting, .standby, .stopped: (state, reason)
        }
    }

    private func open() -> MirrorStateMachine.Event {
        if !duty.isOurs { return openFollowing() }
        do throws(MirrorSession.Failure) {
            let opened = try MirrorSession.open(
                direction, sourceConninfo: sourceConninfo, targetConninfo: targetConninfo, options: options,
                orders: orders, mayEndOthers: duty.mayEndOthers, horizon: horizon, stopDescriptor: stopDescriptor,
                lastAcknowledged: lastAcknowledged, onSlowWait: { [weak self] in self?.waited() },
                onSchemaChange: onSchemaChange)
            session = opened
            logNotices(opened)
            return .opened(backfillLeft: !opened.isBackfillComplete, at: .now())
        } catch {
            return event(for: error)
        }
    }

    private func runBatch() -> MirrorStateMachine.Event {
        if let following { return runBatch(of: following) }
        guard let session else { preconditionFailure("a batch without a session") }
        while true {
            if orders.isPaused, !rest(session) { return .stop }
            guard session.waitForWork(kick: horizon.kickDescriptor, stop: stopDescriptor) else { return .stop }
            while orders.awaitsLastWrites { if Self.isReadable([stopDescriptor], millis: 1)[0] { return .stop } }
            guard stand() else { return .stop }
            if !duty.isOurs { return standBy }
            do throws(MirrorSession.Failure) {
                defer { logNotices(session) }
                switch try session.runBatch() {
                case .applied:
                    lastAcknowledged = session.progress
                    return .applied(backfillLeft: !session.isBackfillComplete, at: .now())
                case .tablesChanged: return .tablesChanged
                case .tableTaken: try session.giveSign()
                }
            } catch {
                return event(for: error)
            }
            waited()
            if Self.isReadable([stopDescriptor], millis: Self.takenMillis)[0] { return .stop }
        }
    }

    /// Milliseconds in which nobody waits for us while somebody else has a table for himself.
    private static let takenMillis: CInt = 50

    private var standBy: MirrorStateMachine.Event {
        .failed(reason: "it stands by: the Godwit that runs the migrations mirrors", at: .now())
    }

    // MARK: another Godwit's mirror

    private func openFollowing() -> MirrorStateMachine.Event {
        if !duty.isInTouch { return .lost(reason: FollowSession.outOfTouch, at: .now()) }
        do throws(MirrorSession.Failure) {
            let opened = try FollowSession.open(
                direction, sourceConninfo: sourceConninfo, targetConninfo: targetConninfo, options: options, duty: duty,
                horizon: horizon, stopDescriptor: stopDescriptor, lastAcknowledged: lastAcknowledged,
                onSlowWait: { [weak self] in self?.waited() }, onSchemaChange: onSchemaChange)
            following = opened
            return .opened(backfillLeft: !opened.isBackfillComplete, at: .now())
        } catch {
            return duty.isOurs ? open() : loss(error)
        }
    }

    private func runBatch(of following: FollowSession) -> MirrorStateMachine.Event {
        guard following.waitForWork(kick: horizon.kickDescriptor, stop: stopDescriptor) else { return .stop }
        if duty.isOurs { return .tablesChanged }
        do throws(MirrorSession.Failure) {
            guard try following.runBatch() else { return .tablesChanged }
            lastAcknowledged = following.progress
            return .applied(backfillLeft: !following.isBackfillComplete, at: .now())
        } catch {
            return loss(error)
        }
    }

    /// Whatever it is: reads are the authority's until it can be told again how far NEW is.
    private func loss(_ failure: MirrorSession.Failure) -> MirrorStateMachine.Event {
        switch failure {
        case .side(_, let postgres) where postgres.kind == .interrupted: .stop
        case .side(let side, let postgres): .lost(reason: "\(side.title): \(postgres)", at: .now())
        case .notReady(let reason), .wrongHistory(let reason): .lost(reason: reason, at: .now())
        }
    }

    private func logNotices(_ session: MirrorSession) {
        for notice in session.notices {
            logger.warning("mirror", metadata: ["database": "\(database)", "notice": "\(notice)"])
        }
        session.notices = []
    }

    private func event(for failure: MirrorSession.Failure) -> MirrorStateMachine.Event {
        switch failure {
        case .side(_, let postgres) where postgres.kind == .interrupted: .stop
        case .side(direction.target, let postgres)
        where postgres.sqlState == CaptureSchema.missedState && !duty.isShared:
            .refused(reason: "\(postgres.message): this one stops. Find the other Godwit, then restart this one")
        // What answers there next may be a standby, or a backup, that has less than this one had.
        case .side(direction.target, let postgres)
        where postgres.isConnectionClass && session?.hasLostSourceAlone != true:
            .lost(reason: "\(direction.target.title): \(postgres)", at: .now())
        case .side(let side, let postgres): .failed(reason: "\(side.title): \(postgres)", at: .now())
        case .notReady(let reason): .failed(reason: reason, at: .now())
        case .wrongHistory(let reason): .suspended(reason: reason)
        }
    }

    // MARK: waits

    private func waited() {
        machine.handle(.waited(at: .now()), &actions)
        for action in actions.drain() { _ = perform(action) }
    }

    /// - Returns: false when told to stop.
    private func pause(millis: UInt64) -> Bool {
        var left = millis
        let began = duty.beginnings
        while left > 0 {
            let turn = min(left, 200)
            if Self.isReadable([stopDescriptor], millis: CInt(turn))[0] { return false }
            left -= turn
            waited()
            if duty.hasBegun(since: began) { return true }
        }
        return true
    }

    /// While an operator has it paused. - Returns: false when told to stop.
    private func rest(_ session: MirrorSession) -> Bool {
        report(.paused, "by an operator: MIRROR RESUME lets it go on")
        while orders.isPaused, duty.isOurs {
            guard pause(millis: 200) else { return false }
            // A NEW that is gone is found out by the next batch.
            _ = try? session.giveSign()
        }
        report(session.isBackfillComplete ? .mirroring : .backfill, "")
        return true
    }

    /// While DDL takes tables: see `MirrorOrders`. - Returns: false when told to stop.
    private func stand() -> Bool {
        guard orders.isToStand else { return true }
        session?.letTablesGo()
        orders.isStanding = true
        defer { orders.isStanding = false }
        var turns = 0
        while orders.isToStand {
            if Self.isReadable([stopDescriptor], millis: Self.standMillis)[0] { return false }
            turns += 1
            if turns % Self.standTurns != 0 { continue }
            waited()
            _ = try? session?.giveSign()
        }
        return true
    }

    /// Milliseconds between looks whether it may go on, and looks between signs of life.
    private static let standMillis: CInt = 5
    private static let standTurns = 40

    private func waitForStop() -> MirrorStateMachine.Event {
        guard !isFinished else { return .stop }
        _ = Self.isReadable([stopDescriptor], millis: -1)
        return .stop
    }

    /// Waits until one of the descriptors is readable (or its other end is closed) or the time is over.
    static func isReadable(_ descriptors: [CInt], millis: CInt) -> [Bool] {
        var polled = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        while poll(&polled, nfds_t(polled.count), millis) < 0 {
            precondition(errno == EINTR, "poll: errno \(errno)")
        }
        return polled.map { $0.revents != 0 }
    }
}

extension MirrorSession {
    /// Of rows that travel from one side to the other the target is named, whichever has gone.
    fileprivate var hasLostSourceAlone: Bool { !reader.source.isConnected && applier.isConnected }
}
