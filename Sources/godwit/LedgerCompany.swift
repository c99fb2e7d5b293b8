import Configuration
import ControlPlane
import Migration
import Mirroring
import Primitives

/// Several Godwits with one state: one runs the migrations, and all tell of them.
extension MigrationLedger {
    /// What HTTP and consoles of the other Godwits say of it.
    func showOthers(_ now: Int64) {
        guard parts.store.isShared, !isAway else { return }
        for entry in entries {
            let text = String(decoding: Document.bytes(document(entry, now)), as: UTF8.self)
            if text == entry.shown { continue }
            do throws(StateStore.Failure) {
                try parts.store.show(text, of: entry.migration.id)
                entry.shown = text
            } catch {
                return
            }
        }
    }

    /// nil: it is ours to answer.
    func elsewhere(_ order: MigrationOrder) -> MigrationOutcome? {
        let isLook: Bool
        switch order {
        case .list, .status: isLook = true
        case .start, .command: isLook = false
        }
        if held != nil {
            guard isAway, !isLook else { return nil }
            return .refused(HTTPProblem(
                503, "the state store does not answer", "try again when it does. Meanwhile READS <database> 0 in the "
                    + "console of each Godwit brings the reads back, and ROLLBACK <database> in this one's the writes"))
        }
        if isLook, parts.store.isShared { return shown(order) }
        switch parts.store.term() {
        case .others(let process, let address) where parts.store.isShared:
            return .elsewhere(process: process, address: address)
        case .ours, .others:
            return .refused(HTTPProblem(
                503, "another Godwit runs the migrations", "ask that one, or try again when it has ended"))
        case .nobody, .unknown:
            return .refused(HTTPProblem(
                503, "it is not known yet who runs the migrations", "the state store has not said: try again"))
        }
    }

    /// As the Godwit that runs them has shown it last.
    private func shown(_ order: MigrationOrder) -> MigrationOutcome {
        let all: [MigrationDocument]
        do throws(StateStore.Failure) { all = MigrationList(shown: try parts.store.shown()).migrations } catch {
            return .refused(HTTPProblem(503, "the state store does not answer", "\(error)"))
        }
        guard case .status(let id) = order else { return .all(all) }
        return all.first { $0.id == id }.map { .one($0) } ?? Self.unknown(id)
    }

    // MARK: taken over in the midst of its work

    /// Asks the databases who has the writes, on a thread of its own; what was cut off is settled by that.
    func confirm(_ entry: LedgerEntry) {
        guard !entry.isConfirming, let settings = settings(entry) else { return }
        entry.isConfirming = true
        let (id, inbox) = (entry.migration.id, inbox)
        let (old, new) = (settings.controlOrOwn(.old), settings.controlOrOwn(.new))
        _ = OwnThread(name: "godwit-confirm") {
            inbox.post(.owner(id, SwitchRecovery.settle(old: old, new: new).ownership))
        }
    }

    /// Once this process routes as the databases say, the migration goes on.
    func confirmed(_ entry: LedgerEntry, _ owner: Ownership, _ now: Int64) {
        entry.isConfirming = false
        if entry.isConfirmed || owner.standing != .settled { return }
        let name = entry.machine.manifest.database
        guard parts.engine.ownership(of: name).map({ $0.authority == owner.authority }) ?? true else { return }
        entry.isConfirmed = true
        handle(entry, .restored(now: now))
    }

    /// nil: it may be ordered now.
    func unconfirmed(_ entry: LedgerEntry, _ command: MigrationMachine.Command) -> MigrationOutcome? {
        if entry.isConfirmed { return nil }
        // The reads go back at once, whoever has the writes.
        if case .abort = command, !entry.machine.state.isSwitched, entry.machine.state.work == nil { return nil }
        return .refused(HTTPProblem(
            503, "this Godwit has just taken the migration over",
            "it asks the databases yet who has the writes: try again in a moment"))
    }
}
