import Configuration
import Console
import Glibc
import LibPQ
import Logging
import Migration
import Mirroring
import PGWire
import Primitives
import Proxy

/// What a client asks of its database's lane. Immutable, any thread.
struct ChangeTask: Sendable {
    var order: ChangeOrder
    var settings: DatabaseSettings
    var worker: Int
    var client: ClientID
    /// No other process has taken this one's place.
    var mayBegin: Bool

    /// How the threads know its client.
    var asker: GateAsker { GateAsker(worker: worker, client: client.value) }

    /// It is of the same open transaction.
    func isOfSame(_ other: ChangeTask) -> Bool {
        order.change == other.order.change && worker == other.worker && client == other.client
    }
}

enum ChangeRequest: Sendable { case stop, perform(ChangeTask) }

extension ChangeOrder.Part {
    /// It may be the first that is heard of a change.
    var isFirst: Bool {
        switch self {
        case .whole, .statement: true
        case .goBack, .commit, .end: false
        }
    }
}

/// DDL of a client's own open transaction. The client runs it on the authority by its own server, one statement after
/// the other, each when the other side has it already; here is the other side's half, and what all others wait for.
extension ChangeRun {
    /// From the first statement on, to the end of the transaction.
    struct Followed {
        /// Its first.
        let task: ChangeTask
        let entry: SwitchEngine.Entry
        let direction: MirrorDirection
        let change: FollowedChange
        let heldSince: MonotonicInstant
        let deadline: Deadline
        /// The record is written, and the commit may be on its way.
        var mayCommit = false
        /// Milliseconds that writes were held; nil: they are.
        var heldMillis: Double?

        var isLate: Bool { deadline.millisLeft < 20 }
        var waitSeconds: Double { task.settings.mirror.ddlWaitSeconds }
        /// Behind it nobody asks the authority any more, but whoever settles what is half done.
        var lastQuestion: Deadline { deadline.adding(seconds: SchemaChange.questionSeconds) }
    }

    /// Milliseconds until something is due, or is to be looked for.
    var waitMillis: CInt {
        if hasArrived { return 0 }
        guard let followed else { return Self.lookMillis }
        let due = followed.heldMillis == nil ? followed.deadline : followed.lastQuestion
        return min(Self.lookMillis, due.millisLeft + 1)
    }

    func take(_ task: ChangeTask) {
        switch task.order.part {
        case .whole where followed != nil: waiting.append(task)
        case .whole where !task.mayBegin: answer(task, .done)
        case .whole: perform(task)
        case .statement:
            if let followed, followed.task.isOfSame(task) {
                goOn(task)
            } else if task.order.standing > 0 {
                answer(task, .failed(Self.gone))
            } else if followed != nil {
                waiting.append(task)
            } else if task.mayBegin {
                begin(task)
            } else {
                answer(task, .done)
            }
        case .goBack: goBack(task)
        case .commit(let transaction): prepareCommit(task, transaction)
        case .end(let end): ended(task, end)
        }
    }

    /// When all requests have been looked at: first who has a transaction open, for which everybody else would wait; of
    /// those one.
    private func takeWaiting() {
        while followed == nil, !waiting.isEmpty {
            let first = waiting.remove(at: waiting.firstIndex { $0.order.part == .statement } ?? 0)
            if first.order.part == .statement {
                for task in waiting where isDeadlock(task) { refuseDeadlock(task) }
                waiting.removeAll(where: isDeadlock)
            }
            take(first)
        }
    }

    /// It is the first DDL of an open transaction whose end others wait for: one that has done something already.
    func isDeadlock(_ task: ChangeTask) -> Bool {
        task.order.part == .statement && task.order.mayHoldLocks && followed?.task.isOfSame(task) != true
    }

    func refuseDeadlock(_ task: ChangeTask) {
        answer(task, .failed(ErrorResponse(
            .error, SQLState("40P01"),
            "another client's DDL waits for the end of this transaction, which cannot wait for it in turn",
            hint: "ROLLBACK, and begin it anew.")))
    }

    private func answer(_ task: ChangeTask, _ outcome: ControlOutcome) {
        if case .failed(let error) = outcome {
            logger.notice("DDL in a transaction on \"\(database)\" was refused: \(error.message)")
        }
        server.answer(worker: task.worker, client: task.client, outcome)
    }

    // MARK: statements

    private func begin(_ task: ChangeTask) {
        beginner = task
        defer { beginner = nil }
        do throws(ErrorResponse) {
            try open(task)
        } catch {
            return answer(task, .failed(error))
        }
        goOn(task)
    }

    /// Holds the writes, and has the mirror stand still. Before the authority's tables are locked: the mirror's reader
    /// would wait for them.
    private func open(_ task: ChangeTask) throws(ErrorResponse) {
        let entry = try takeTurn()
        let wait = task.settings.mirror.ddlWaitSeconds
        let direction = MirrorDirection(from: entry.ownership.authority)
        let order = SchemaChange.Order(user: task.order.user, statement: "", settings: task.order.settings)
        do throws(ErrorResponse) {
            let change = try openInTurn(
                entry, direction, task.settings, mayHoldLocks: task.order.mayHoldLocks
            ) { () throws(SchemaChange.Failure) in
                try FollowedChange.open(
                    direction, old: entry.old, new: entry.new, bulk: task.settings.mirror.bulkTables, order: order,
                    login: login)
            }
            followed = Followed(
                task: task, entry: entry, direction: direction, change: change, heldSince: .now(),
                deadline: .now().adding(seconds: wait))
        } catch {
            engine.end(database)
            throw error
        }
        do throws(ErrorResponse) {
            guard let deadline = followed?.deadline else { return }
            try hold(wait, for: task.asker)
            try drain(entry, until: deadline, wait)
            try stand(entry, until: deadline, wait)
        } catch {
            over()
            throw error
        }
    }

    private func goOn(_ task: ChangeTask) {
        guard let followed else { return }
        if followed.mayCommit || !goBack(followed, to: task.order.standing) {
            return answer(task, .failed(Self.gone))
        }
        dieIfTold(.statement)
        do throws(SchemaChange.Failure) {
            try followed.change.run(
                task.order.statement, localSettings: task.order.localSettings, mayGoBack: task.order.hasSavepoint,
                until: followed.deadline)
        } catch {
            let isKept = task.order.hasSavepoint && task.order.standing > 0 && !followed.isLate
            if isKept, (try? followed.change.goBack(to: task.order.standing, until: followed.deadline)) != nil {
                // The client may go back to a savepoint before it.
                return answer(task, .failed(response(
                    to: error, followed.direction, followed.waitSeconds, isLate: false)))
            }
            return giveUp(task, error)
        }
        answer(task, .noticed(""))
    }

    // MARK: savepoints

    private func goBack(_ task: ChangeTask) {
        guard let followed, followed.task.isOfSame(task), !followed.mayCommit else { return }
        if task.order.standing == 0 {
            rollBack()
        } else if !goBack(followed, to: task.order.standing) {
            server.endFollowed(worker: task.worker, client: task.client, change: task.order.change, Self.gone)
        }
    }

    /// - Returns: false: it was given up, for the other side cannot go back so far.
    private func goBack(_ followed: Followed, to standing: Int) -> Bool {
        do throws(SchemaChange.Failure) {
            try followed.change.goBack(to: standing, until: followed.deadline)
            return true
        } catch {
            logger.warning("DDL in a transaction on \"\(database)\" was given up: \(error)")
            rollBack()
            return false
        }
    }

    /// The other side has refused it, or cannot be asked: the transaction is over there, and must not commit.
    private func giveUp(_ task: ChangeTask, _ failure: SchemaChange.Failure) {
        guard let followed else { return }
        let error = response(
            to: failure, followed.direction, followed.waitSeconds, isLate: followed.isLate)
        rollBack()
        answer(task, .failed(error))
    }

    // MARK: the end

    private func prepareCommit(_ task: ChangeTask, _ transaction: String) {
        guard let followed, followed.task.isOfSame(task), !followed.mayCommit,
            goBack(followed, to: task.order.standing)
        else { return answer(task, .failed(Self.gone)) }
        if task.order.standing == 0 {
            rollBack()
            return answer(task, .noticed(""))
        }
        do throws(SchemaChange.Failure) {
            try followed.change.mayCommit(transaction, before: dieIfTold)
        } catch {
            // Whether a record was written may not be known: one of what is rolled back is taken away then.
            isHalfDone = true
            return giveUp(task, error)
        }
        self.followed?.mayCommit = true
        answer(task, .noticed(""))
    }

    private func ended(_ task: ChangeTask, _ end: ChangeEnd) {
        var waits = end.waits
        func tell(_ outcome: ControlOutcome) {
            if waits { answer(task, outcome) }
            waits = false
        }
        if let followed, followed.task.isOfSame(task) {
            if !followed.mayCommit {
                rollBack()
            // What is left behind the commits waits for locks, perhaps for those of what the client has begun anew.
            } else if !settle(isOver: end.isOver, onCommitted: { if !end.isOver { tell(.done) } }) {
                tell(.noticed("open"))
            }
        } else {
            waiting.removeAll { $0.isOfSame(task) }
        }
        tell(.done)
    }

    /// Does what the authority has done.
    ///
    /// - Parameter onCommitted: both sides have it, or all that can be done now is done.
    /// - Returns: false: nothing yet, the transaction goes on.
    private func settle(isOver: Bool, onCommitted: () -> Void = {}) -> Bool {
        while let followed {
            let status = (try? followed.change.status()) ?? nil
            switch status {
            case .committed?:
                commit(onCommitted)
                return true
            case .rolledBack?:
                takeBack()
                rollBack()
                return true
            case .open? where !isOver:
                takeBack()
                self.followed?.mayCommit = false
                return false
            case .open?, .unknown?, nil:
                // Its server may be at it still, or be gone for a moment.
                expire()
                if self.followed == nil { return true }
                usleep(Self.questionMicros)
            }
        }
        return true
    }

    private static let questionMicros: UInt32 = 20_000

    private func takeBack() {
        // What is left of a transaction that was rolled back whoever settles takes away.
        do { try followed?.change.takeBack() } catch { isHalfDone = true }
    }

    private func commit(_ onCommitted: () -> Void) {
        guard let followed else { return }
        let limit = followed.deadline.hasPassed ? followed.lastQuestion : followed.deadline
        let outcome = followed.change.commit(until: limit, before: dieIfTold) {
            letGo()
            onCommitted()
        }
        letGo()
        tell(outcome, followed.direction, how: ", in a transaction", heldMillis: self.followed?.heldMillis ?? 0)
        over()
    }

    private func rollBack() {
        letGo()
        followed?.change.rollBack()
        over()
    }

    /// Writes go on. The mirror does when it knows of the tables as they are now: a batch that did not could count as
    /// what the client waits for before it reads on the other side, and a new table would have no rows there.
    private func letGo() {
        guard let followed, followed.heldMillis == nil else { return }
        ask(.letGo(database: database))
        let nanos = MonotonicInstant.now().nanoseconds(since: followed.heldSince)
        self.followed?.heldMillis = Double(nanos) / 1e6
    }

    private func over() {
        letGo()
        guard let entry = followed?.entry else { return }
        followed = nil
        entry.orders.isToStand = false
        engine.end(database)
        entry.horizon.kick()
    }

    // MARK: time

    func checkTime() {
        expire()
        takeWaiting()
    }

    /// Writes are held for no longer than `ddl_wait`, whatever the client does.
    private func expire() {
        guard let followed, followed.deadline.hasPassed else { return }
        if !followed.mayCommit {
            server.endFollowed(
                worker: followed.task.worker, client: followed.task.client, change: followed.task.order.change,
                Self.late(followed.waitSeconds, database))
            events.append(EventRecord(
                .ddl, database: database,
                cause: "a transaction with DDL was rolled back: it had not ended within mirror.ddl_wait"))
            rollBack()
        } else if followed.heldMillis == nil {
            // Its commit takes long. What is written meanwhile does no harm.
            letGo()
        } else if followed.lastQuestion.hasPassed {
            isHalfDone = true
            rollBack()
        }
    }

    /// The lane ends: the database has no such mirror any more, or the process ends.
    func abandon() {
        for task in waiting { answer(task, .done) }
        waiting = []
        if followed?.mayCommit == true { _ = settle(isOver: true) }
        guard let followed else { return }
        server.endFollowed(
            worker: followed.task.worker, client: followed.task.client, change: followed.task.order.change, Self.gone)
        followed.change.rollBack()
        // Nobody may be there to answer any more.
        server.control.post(.switching(.letGo(database: database), reply: nil))
        self.followed?.heldMillis = 0
        over()
    }

    private static func late(_ seconds: Double, _ database: String) -> ErrorResponse {
        ErrorResponse(
            .fatal, SQLState("55P03"),
            "a transaction with DDL held the writes of database \"\(database)\" for longer than mirror.ddl_wait "
                + "(\(seconds) s)",
            detail: "It was rolled back on both sides.",
            hint: "Send its statements without a pause, what takes long in transactions of its own, or raise "
                + "mirror.ddl_wait (a reload, or SET): writes are held for that long at most.")
    }

    static var gone: ErrorResponse {
        ErrorResponse(
            .fatal, SQLState("55000"), "the transaction's DDL was given up on the other side",
            detail: "It is rolled back on both sides.",
            hint: "Begin it anew. SHOW EVENTS on Godwit's console says more.")
    }
}
