import Capture
import LibPQ
import PGWire
import Primitives
import Reactor
import Replay

/// Connections of a run: made, set up as they were, lost, and closed.
extension ReplayRun {
    // MARK: connections

    /// Nobody begins before somebody ends, and who is there ends by what the source still has.
    var isFull: Bool {
        guard let most = options.clientsMax else { return false }
        return slots.count - 1 - freeSlots.count >= most * targets.count
    }

    /// So long before it is needed a connection is made, and its login does not count. Not when it is read, far ahead
    /// of its time: where each transaction has a connection, there would be many more at once than there were.
    private static let loginNanos: UInt64 = 200_000_000

    /// When the next connection is to be made that need not be yet.
    var nextStart: UInt64? {
        guard let pair = startQueue.first, pair.opensNanos > now.nanoseconds + Self.loginNanos else { return nil }
        return pair.opensNanos - Self.loginNanos
    }

    func startPairs() {
        while let pair = startQueue.first {
            if isFull || nextStart != nil { return }
            if connecting.contains(where: { $0 >= Self.connectingMax }) { return }
            startQueue.removeFirst()
            // Where sides go in step, one that could not even begin has taken the other with it.
            for side in pair.sides where !side.isGone { connect(side) }
        }
    }

    func connect(_ side: PlayedConnection) {
        let conninfo = targets[side.side].conninfo(
            user: side.pair.captured.user, database: side.pair.captured.database)
        do throws(PostgresFailure) {
            side.session = try WireSession(conninfo)
        } catch {
            return fail(side, "cannot connect: \(error.message)")
        }
        side.state = .connecting
        connecting[side.side] += 1
        // 0 and less: as long as it takes, as libpq has it.
        if let seconds = conninfo.connectTimeoutSeconds, seconds > 0 {
            logins.add(side, due: now.nanoseconds + UInt64(min(seconds, 1_000_000)) * 1_000_000_000)
        }
        let slot = freeSlots.popLast() ?? slots.count
        if slot == slots.count {
            slots.append(side)
            generations.append(0)
        } else {
            slots[slot] = side
        }
        side.registration = Registration(slot: UInt32(slot), generation: generations[slot])
        register(side, .write)
    }

    func register(_ side: PlayedConnection, _ interest: Interest) {
        guard let registration = side.registration, let session = side.session else { return }
        // libpq may have tried another address, with another socket: the kernel has forgotten the old one.
        if side.registeredDescriptor >= 0 { loop.unregister(side.registeredDescriptor) }
        loop.register(session.descriptor, interest, as: registration)
        side.registeredDescriptor = session.descriptor
        side.interest = interest
    }

    func advance(_ side: PlayedConnection) {
        guard let session = side.session else { return }
        // The old socket may be closed within: its place in epoll goes with it, or with the next registration.
        loop.unregister(side.registeredDescriptor)
        side.registeredDescriptor = -1
        switch session.advance() {
        case .wantsReading: register(side, .read)
        case .wantsWriting: register(side, .write)
        case .failed(let reason):
            fail(side, "cannot connect: \(reason)")
        case .done:
            connecting[side.side] -= 1
            statistics[side.side].side.connections += 1
            isDown[side.side] = false
            register(side, .read)
            setUp(side)
        }
    }

    /// What the session had when the capture met it: settings and statements.
    func setUp(_ side: PlayedConnection) {
        var writer = MessageWriter()
        for setting in side.pair.captured.settings {
            writer.query(setting.statement)
            side.setUpReplies += 1
        }
        // Each by itself: with one that cannot be prepared here all behind it would be passed over.
        for body in side.pair.prepared {
            writer.message(FrontendTag.parse) { $0.raw(body) }
            writer.sync()
            side.setUpReplies += 1
        }
        side.state = side.setUpReplies == 0 ? .open : .settingUp
        if side.state == .settingUp { settingUp += 1 }
        if !writer.bytes.isEmpty { send(writer.bytes, to: side) }
        goOn(side.pair)
        closeIfDone(side)
    }

    /// libpq keeps no time of a login that goes step by step: a server that takes connections and never answers would
    /// be waited for, and the run with it.
    func endLongLogins() {
        while let side = logins.take(dueBy: now.nanoseconds) {
            if side.state == .connecting { fail(side, "cannot connect: connect_timeout is over") }
        }
    }

    func fail(_ side: PlayedConnection, _ words: String) {
        isDown[side.side] = true
        statistics[side.side].side.connectionsFailed += 1
        statistics[side.side].found(words)
        end(side, as: .lost)
    }

    func lose(_ side: PlayedConnection, _ words: String) {
        if side.isGone { return }
        // One that ends in the capture as well may have been closed there, too, and the next may come much later.
        if !side.player.isClosing { isDown[side.side] = true }
        statistics[side.side].side.connectionsLost += 1
        statistics[side.side].found("a connection was lost: \(words)")
        end(side, as: .lost)
    }

    func end(_ side: PlayedConnection, as state: PlayedConnection.State) {
        if side.isGone { return }
        if side.state == .connecting { connecting[side.side] -= 1 }
        if side.state == .settingUp { settingUp -= 1 }
        let hasLogin = side.state == .open || side.state == .settingUp
        side.state = state
        waitingBytes -= side.player.bytesWaiting
        let (unanswered, unsent) = side.player.abandon()
        running -= unanswered.count
        if state == .lost {
            statistics[side.side].lost(unanswered.count)
            for _ in unanswered { statistics[side.side].side.errors["08006", default: 0] += 1 }
            for unit in unsent { noteUnplayed(unit, side) }
        }
        for unit in unanswered { finishedOnSide(unit.unit) }
        if let registration = side.registration {
            let slot = Int(registration.slot)
            generations[slot] &+= 1
            slots[slot] = nil
            freeSlots.append(slot)
            side.registration = nil
        }
        if side.registeredDescriptor >= 0 { loop.unregister(side.registeredDescriptor) }
        side.registeredDescriptor = -1
        if state == .closed, hasLogin, let session = side.session, !session.hasUnsent {
            _ = session.send([FrontendTag.terminate, 0, 0, 0, 4])
        }
        side.session = nil
        if side.pair.rerun != nil { finishRerun(side.pair) }
        if side.pair.isGone && side.player.isClosing { pairs[side.pair.connection] = nil }
        // In step, one side does not go on without the other.
        if state == .lost && options.compares {
            for other in side.pair.sides where !other.isGone { end(other, as: .lost) }
        } else if state == .lost {
            goOn(side.pair)
        }
    }

    func closeIfDone(_ side: PlayedConnection) {
        if side.isGone {
            if side.pair.isGone && side.player.isClosing { pairs[side.pair.connection] = nil }
            return
        }
        // In step, one side's answer may have to be asked for again when the other's has come.
        if options.compares && !side.pair.sides.allSatisfy({ $0.isGone || $0.player.hasEnded }) { return }
        if side.player.hasEnded && (side.state == .open || side.state == .waiting) && side.pair.rerun == nil {
            if side.state == .waiting { startQueue.removeAll { $0 === side.pair } }
            end(side, as: .closed)
        }
    }
}
