import Configuration
import Console
import Glibc
import LibPQ
import Logging
import Migration
import Mirroring
import Primitives
import Proxy
import Synchronization

/// Asks the databases each second who takes the writes: another Godwit may switch, which this one has to hold for and
/// to follow, or may have died in the midst of it, which is settled here. It blocks, so each database has a thread of
/// its own: one whose server does not answer keeps no other from giving its sign of life in time.
final class AuthorityWatcher: Sendable {
    private enum Request: Sendable {
        case stop
        case watch([DatabaseSettings])
    }

    private let requests = Mailbox<Request>()
    private let thread: Mutex<OwnThread?>

    init(
        _ first: [DatabaseSettings], _ leases: WriteLeases, _ duty: MirrorDuty, control: Mailbox<ControlMessage>,
        engine: SwitchEngine, logger: Logger
    ) {
        let requests = requests
        thread = Mutex(OwnThread(name: "godwit-authority") {
            var watches: [WatchedSides: (end: Mailbox<Bool>, thread: OwnThread)] = [:]
            /// One that goes on as it was is left alone: it may hold for a switch, and its lease runs.
            func watch(_ databases: [DatabaseSettings]) {
                let wanted = Set(databases.filter { $0.mirror.mode != .off && !$0.isWildcard }.map(WatchedSides.init))
                let ended = watches.filter { !wanted.contains($0.key) }
                for watch in ended.values { watch.end.post(true) }
                for (sides, watch) in ended {
                    watch.thread.join()
                    watches[sides] = nil
                }
                for sides in wanted where watches[sides] == nil {
                    let end = Mailbox<Bool>()
                    watches[sides] = (end, OwnThread(name: "godwit-watch") {
                        AuthorityWatch(
                            sides, leases.of(sides.database), duty, control: control, engine: engine,
                            logger: logger, interrupt: end.descriptor
                        ).run()
                    })
                }
            }
            watch(first)
            while true {
                var ready = pollfd(fd: requests.descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&ready, 1, -1)
                for request in requests.take() {
                    switch request {
                    case .stop: return watch([])
                    case .watch(let databases): watch(databases)
                    }
                }
            }
        })
    }

    func watch(_ databases: [DatabaseSettings]) { requests.post(.watch(databases)) }

    func stop() {
        requests.post(.stop)
        thread.join()
    }
}

/// What a watch needs of a database's settings: whatever else changes does not concern it.
private struct WatchedSides: Hashable, Sendable {
    let database: String
    /// For control connections.
    let old: String
    let new: String

    init(_ settings: DatabaseSettings) {
        database = settings.name
        old = settings.controlOrOwn(.old)
        new = settings.controlOrOwn(.new)
    }

    func conninfo(_ side: Side) -> String { side == .old ? old : new }
}

/// One database's watch. Confined to its thread.
private final class AuthorityWatch {
    private static let idleMillis: CInt = 1000
    private static let alertMillis: CInt = 4
    private static let lateMillis: CInt = 20
    private static let busyMillis: CInt = 100
    private static let leaseSeconds = AuthorityProbe.leaseSeconds
    /// Seconds for which a switch that is near, or under way elsewhere, is looked at often.
    private static let alertSeconds = 20.0
    /// Seconds for which writes are held for a switch of another one, of which nothing is heard: who lets go before its
    /// deadline sends its clients' writes into the fence.
    private static let holdSeconds = Double(SwitchOrder.deadlineMillisMax) / 1000 + 10
    /// Seconds between attempts to settle what another one has left.
    private static let settleSeconds = 2.0

    private let sides: WatchedSides
    private let lease: WriteLease
    private let duty: MirrorDuty
    private let control: Mailbox<ControlMessage>
    private let engine: SwitchEngine
    private let logger: Logger
    /// Readable from when the watch is to end.
    private let interrupt: CInt
    private let probes: (old: AuthorityProbe, new: AuthorityProbe)
    /// What was left is settled on a thread of its own: a side that does not answer must not delay the signs of life.
    private var settling: (known: Ownership, thread: OwnThread)?
    private let settled = Mailbox<SwitchRecovery.Outcome>()
    private let replies = Mailbox<SwitchReply>()
    private let validation: ForeignKeyValidation
    private var notes: [String] = []
    /// The last question to the authority, and whether it was answered.
    private var askedAt = MonotonicInstant.now()
    private var isAnswered = false
    /// Since when nothing of Godwit's is there, and whether that may be news of long ago; nil: it is there.
    private var gone: (at: MonotonicInstant, hasSlept: Bool)?
    /// Something was left that a later look may settle.
    private var isUnsettled = true
    private var alertedFor: Int64?
    private var alertEnds = Deadline.now()
    private var heldFor: Int64?
    private var isHoldReached = false
    private var nextSign = Deadline.now()
    /// As whose our last sign was: behind a switch the next one, which may come at once, must find us on its side.
    private var signedEpoch: Int64?
    private var isBusy = false
    private var nextSettle = Deadline.now()
    /// Numbers that were looked out for, or held for, once: never again.
    private var lastAlert: Int64 = 0
    private var lastHeld: Int64 = 0
    /// What this watch has found, and the control thread may not have taken yet.
    private var found: Ownership?

    init(
        _ sides: WatchedSides, _ lease: WriteLease, _ duty: MirrorDuty, control: Mailbox<ControlMessage>,
        engine: SwitchEngine, logger: Logger, interrupt: CInt
    ) {
        self.sides = sides
        self.lease = lease
        self.duty = duty
        self.control = control
        self.engine = engine
        self.logger = logger
        self.interrupt = interrupt
        validation = ForeignKeyValidation(sides.database, logger: logger)
        probes = (
            AuthorityProbe(sides.conninfo(.old), interrupt: interrupt),
            AuthorityProbe(sides.conninfo(.new), interrupt: interrupt))
    }

    func run() {
        // At once, for a switch waits only for those that have given a sign.
        look()
        while true {
            var ready = [interrupt, settled.descriptor].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            _ = poll(&ready, nfds_t(ready.count), pauseMillis)
            if ready[0].revents != 0 { return end() }
            look()
        }
    }

    /// Until the next look.
    private var pauseMillis: CInt {
        if alertedFor != nil || heldFor != nil { return Self.alertMillis }
        if isLate && isAnswered { return Self.lateMillis }
        return isBusy ? Self.busyMillis : Self.idleMillis
    }

    private func probe(_ side: Side) -> AuthorityProbe { side == .old ? probes.old : probes.new }

    private func look() {
        let settled = endOfSettling()
        // Its mirror has ended.
        guard let taken = engine.ownership(of: sides.database) else { return rest() }
        if let settled { take(settled.found, of: settled.known, newer(taken)) }
        let known = newer(taken)
        isBusy = engine.isBusy(sides.database)
        askedAt = MonotonicInstant.now()
        let word = probe(known.authority).ask()
        isAnswered = word != nil
        gone = probe(known.authority).isUnprepared ? gone ?? (.now(), hasSlept(known)) : nil
        if let gone { removed(known, since: gone.at, hasSlept: gone.hasSlept) }
        let isCalm = word.map { $0.claim.fencedFor == nil && $0.claim.epoch == known.epoch } ?? false
        if isCalm || gone?.hasSlept == false { noteCalm(askedAt) }
        let isKnown = isCalm && known == taken
        if !isBusy { follow(known, word, isSure: isKnown) }
        let isSure = isBusy || isHoldReached || isKnown
        if nextSign.hasPassed || isLate && isSure || signedEpoch != known.epoch {
            nextSign = Deadline.now().adding(seconds: 1)
            giveSign(known, isSure: isSure)
        }
        if isBusy { return isUnsettled = true }
        guard word != nil else {
            // It does not answer: the other side may know that it has the writes now.
            if let other = probe(known.authority.other).ask()?.claim, other.epoch > known.epoch { settle(known) }
            return
        }
        if isCalm ? isUnsettled : heldFor == nil { settle(known) }
        if isCalm { validation.look(known.epoch, sides.conninfo(known.authority)) }
    }

    /// What was Godwit's there is gone, by another one's hand. Who was there all along knows that nobody had moved the
    /// writes before: they stay. Who slept does not. NEW without it, and without the word in the state that it has all
    /// for good, with which our mirror had ended: the writes went back. No fence is left. Until we have heard all that
    /// the others had decided by then, writes wait for as long as the lease lets them.
    private func removed(_ known: Ownership, since: MonotonicInstant, hasSlept: Bool) {
        guard known.authority == .new, duty.isShared, hasSlept else { return rest() }
        if !duty.hasHeard(since: since) || engine.ownership(of: sides.database) == nil { return }
        own(.initial)
        control.post(.switching(.turnMirror(database: sides.database), reply: nil))
    }

    /// Whichever side is asked next.
    private func noteCalm(_ instant: MonotonicInstant) { (probes.old.calmAt, probes.new.calmAt) = (instant, instant) }

    /// When the last question was asked the authority had not been heard of for longer than the lease: others may have
    /// moved the writes without us.
    private func hasSlept(_ known: Ownership) -> Bool {
        probe(known.authority).calmAt.advanced(bySeconds: Self.leaseSeconds) < askedAt
    }

    /// Nobody moves its writes, and no sign of ours is taken or waited for. Switches that come are numbered anew.
    private func rest() {
        lease.giveUp()
        (lastAlert, lastHeld) = (0, 0)
    }

    /// What the control thread has taken, or what we have found since.
    private func newer(_ taken: Ownership) -> Ownership {
        guard let found, found.epoch > taken.epoch else { return taken }
        return found
    }

    /// Clients' writes wait for us.
    private var isLate: Bool { lease.hasRunOut(at: MonotonicInstant.now(), epoch: .max) }

    /// - Parameter isSure: nobody else had moved the writes when the authority was asked, or they are held here. We may
    ///   have slept since: the lease begins with the question, not with the sign.
    private func giveSign(_ known: Ownership, isSure: Bool) {
        let others = probe(known.authority).giveSign(
            engine.id, alertFor: alertedFor, holdsFor: isHoldReached ? heldFor : nil)
        guard let others else { return }
        signedEpoch = known.epoch
        if !isSure { return }
        if others == 0 {
            lease.giveUp()
        } else {
            lease.renew(at: askedAt, forSeconds: Self.leaseSeconds, epoch: known.epoch)
        }
    }

    private func end() {
        settling?.thread.join()
        validation.end()
        // Nobody else would open it.
        if heldFor != nil { control.post(.switching(.letGo(database: sides.database), reply: nil)) }
        guard let known = engine.ownership(of: sides.database) else { return }
        // The interrupt of the other probes is readable by now.
        AuthorityProbe(sides.conninfo(known.authority), interrupt: -1).sayGoodbye(engine.id)
    }

    // MARK: a switch of another Godwit

    private func follow(_ known: Ownership, _ word: AuthorityProbe.Word?, isSure: Bool) {
        if heldFor != nil { return followHold(known, word) }
        if let announced = word?.announced, announced > max(known.epoch, lastHeld) {
            lastHeld = announced
            heldFor = announced
            nextSettle = Deadline.now().adding(seconds: Self.settleSeconds)
            isHoldReached = false
            alertEnds = Deadline.now().adding(seconds: Self.holdSeconds)
            _ = replies.take()
            control.post(.switching(
                .hold(database: sides.database, limitSeconds: Self.holdSeconds, endsPinned: false), reply: replies))
            return
        }
        if let alert = word?.alert, alert > max(known.epoch, lastAlert) {
            lastAlert = alert
            alertedFor = alert
            alertEnds = Deadline.now().adding(seconds: Self.alertSeconds)
            control.post(.switching(.warm(database: sides.database, limitSeconds: 0), reply: nil))
            return giveSign(known, isSure: isSure)
        }
        if word?.alert != alertedFor || alertEnds.hasPassed { alertedFor = nil }
    }

    /// Ours is held, or about to be, for the sake of a switch that another Godwit performs.
    private func followHold(_ known: Ownership, _ word: AuthorityProbe.Word?) {
        guard let epoch = heldFor else { return }
        if !isHoldReached, case .gate(.done, _)? = replies.take().last {
            isHoldReached = true
            giveSign(known, isSure: true)
        }
        if let other = probe(known.authority.other).ask()?.claim, other.epoch >= epoch {
            return letGo(Ownership(authority: known.authority.other, epoch: other.epoch, standing: .settled))
        }
        let isGivenUp = word.map { $0.announced != epoch && $0.claim.fencedFor == nil } ?? false
        if isGivenUp { return letGo(nil) }
        // Whoever performs it may be gone: then what is under way is settled here, and the next look finds it so.
        if nextSettle.hasPassed {
            nextSettle = Deadline.now().adding(seconds: Self.settleSeconds)
            settle(known)
        }
        if alertEnds.hasPassed { letGo(nil) }
    }

    private func letGo(_ next: Ownership?) {
        if let next {
            own(next, letsGo: true)
            control.post(.switching(.turnMirror(database: sides.database), reply: nil))
        } else {
            control.post(.switching(.letGo(database: sides.database), reply: nil))
        }
        heldFor = nil
        isHoldReached = false
        alertedFor = nil
        nextSign = Deadline.now()
        isUnsettled = true
    }

    private func own(_ next: Ownership, letsGo: Bool = false) {
        found = next
        // The sides have just said so.
        noteCalm(.now())
        // Before its writes go there. Whether it is still so is asked with the next look, and so is the lease.
        giveSign(next, isSure: false)
        control.post(.switching(
            .own(database: sides.database, side: next.authority, epoch: next.epoch, letsGo: letsGo), reply: nil))
    }

    // MARK: what was left

    private func settle(_ known: Ownership) {
        if settling != nil { return }
        let (sides, interrupt, settled) = (sides, interrupt, settled)
        settling = (known, OwnThread(name: "godwit-settle") {
            settled.post(SwitchRecovery.settle(
                old: sides.old, new: sides.new, interrupt: interrupt))
        })
    }

    private func endOfSettling() -> (known: Ownership, found: SwitchRecovery.Outcome)? {
        guard let settling, let found = settled.take().last else { return nil }
        settling.thread.join()
        self.settling = nil
        return (settling.known, found)
    }

    /// - Parameter before: what was known when that began. If it is not now, that is of yesterday, and the next look
    ///   begins anew.
    private func take(_ found: SwitchRecovery.Outcome, of before: Ownership, _ known: Ownership) {
        guard before == known else { return isUnsettled = true }
        isUnsettled = !found.notes.isEmpty || found.isLeft || found.ownership.standing != .settled
        if found.notes != notes {
            notes = found.notes
            for note in found.notes { logger.notice("authority of \"\(sides.database)\": \(note)") }
        }
        if found.ownership.standing == .settled, found.ownership != known, !engine.isBusy(sides.database) {
            own(found.ownership)
            control.post(.switching(.turnMirror(database: sides.database), reply: nil))
        }
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

    /// The same, taken apart.
    func controlTarget(_ side: Side) throws(ConnectionStringError) -> ConnectionString {
        try ConnectionString(parsing: controlOrOwn(side))
    }
}
