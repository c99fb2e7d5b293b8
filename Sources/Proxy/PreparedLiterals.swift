import SQLAnalysis
import Sessions

/// A server reads the literals of a text when it prepares it: '2020-01-01' is a time in the zone of that session, also
/// for whoever runs the statement later. So are types of parameters those of the table that search_path led to then. So
/// what one client has prepared there is another's only where both read alike.
extension ClientConnection {
    /// What the server reads texts by now; nil: what is on its way may have changed it, or the open transaction has, in
    /// a way that is not known.
    var literalSettings: SessionSettings? {
        // Nearly always.
        if ledger.isEmpty && settledEffects.isEmpty && unit.session.isEmpty { return settings }
        if ledger.isUncertain || settledEffects.contains(where: Self.changesLiterals)
            || unit.session.hasEffect(Self.changesLiterals) { return nil }
        // Many applications give each transaction its path (SET LOCAL).
        var open = settings
        for effect in ledger.openEffects where Self.changesLiterals(effect) {
            guard case .sets(let change) = effect, let value = change.value else { return nil }
            open.set(name: change.name, value: value)
        }
        return open
    }

    /// How a server would take the statement's names and literals if it prepared it now.
    func literalsRead(_ reading: LiteralReading) -> LiteralsRead {
        switch reading {
        case .anyhow: literalSettings.map(LiteralsRead.names) ?? .once
        case .bySession: literalSettings.map(LiteralsRead.by) ?? .once
        case .once: .once
        }
    }

    private static func changesLiterals(_ effect: SessionEffect) -> Bool {
        switch effect {
        case .sets(let change): SessionSettings.isOfLiterals(change.name) || SessionSettings.isOfNames(change.name)
        case .resets(let name): SessionSettings.isOfLiterals(name) || SessionSettings.isOfNames(name)
        case .resetsAll, .discards(.all), .pins(.untrackedSetting), .pins(.unknownStatement): true
        case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides: false
        }
    }
}
