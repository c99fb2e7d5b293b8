import PGWire
import Primitives
import SQLAnalysis
import Sessions

/// What a session was started with, which RESET goes back to: its server has defaults of its own.
extension ClientConnection {
    /// In a transaction it is put back before the next statement. Behind a transaction the next lease sees to it, where
    /// there is one, and in a failed one the rollback that goes on in it.
    func restoreStartup(_ status: TransactionStatus, on server: ServerConnection) {
        if startupSettings.isEmpty { return }
        // A rollback undoes what was put back before, and what stood over a RESET.
        if status != .inTransaction || unit.session.isEmpty && !unit.session.hasMark { return }
        var names = resetsCommitted
        noteResets(ledger.openEffects, in: &names)
        let entries = Self.settings(startupSettings, for: server).entries.filter { names.contains($0.name) }
        if entries.isEmpty { return }
        startupRestores += 1
        hasRestoredStartup = true
        server.runQuietly(entries.map(\.statement).joined(separator: ";"))
    }

    /// The same outside of transactions for a client that keeps its server: it has no next lease.
    func restoreStartup(of names: Set<String>, on server: ServerConnection) {
        let wanted = settings(for: server)
        var current = wanted
        for name in names { current.reset(name: name) }
        guard let sql = wanted.statements(from: current) else { return }
        startupRestores += 1
        if server.settings != nil { server.settings = wanted }
        server.runQuietly(sql)
    }

    /// A query of `startupRestores` has come to its end.
    func startupRestored(on server: ServerConnection, failure: ErrorResponse?) {
        startupRestores -= 1
        if let failure { return setupFailed(failure, on: server) }
        // It was in the way when its unit ended.
        if !pins.isEmpty { verifyPins(on: server) }
    }

    /// What RESET in flight takes of what the session was started with is put back when it is answered: the next batch
    /// waits for that.
    func waitsForStartup(_ tag: UInt8, _ server: ServerConnection) -> Bool {
        if startupSettings.isEmpty || !unit.session.resets && resetsCommitted.isEmpty { return false }
        if !server.session.isAtBatchStart { return false }
        switch tag {
        case FrontendTag.query, FrontendTag.functionCall, FrontendTag.parse, FrontendTag.bind, FrontendTag.describe,
            FrontendTag.execute, FrontendTag.close:
            return waitsForAnswers(server)
        default:
            // The answer may be to a COPY that waits for what comes now.
            return false
        }
    }

    /// No statement was seen to do it. A function may have; but operators do it to all who are there, by a reload of
    /// the server's own configuration (a disk is full), and take it back in the same way. As what the session has set
    /// it would hold on every server, and for as long as the client stays. So it is nobody's: whoever has the server
    /// next begins from its defaults.
    func readOnlyReported(_ name: String) {
        guard let server, !server.isReadOnly, startupRestores == 0, !unit.session.explains(name) else { return }
        server.settings = nil
    }

    func noteResets(_ effects: [SessionEffect], in names: inout Set<String>) {
        for effect in effects {
            switch effect {
            case .resetsAll: names.formUnion(startupSettings.reachedByResetAll.map(\.name))
            case .discards(.all): names.formUnion(startupSettings.entries.map(\.name))
            case .resets(let name): names.insert(name)
            case .sets(let change) where change.value == nil: if !change.isLocal { names.insert(change.name) }
            case .sets(let change): names.remove(change.name)
            case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides:
                break
            }
        }
    }
}
