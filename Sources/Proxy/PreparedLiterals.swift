import SQLAnalysis
import Sessions

/// A server reads the literals of a text when it prepares it: '2020-01-01' is a time in the zone of that session, also
/// for whoever runs the statement later. So what one client has prepared there is another's only where both read alike.
extension ClientConnection {
    /// What the server reads literals by now; nil: the open transaction, or what is on its way, may have changed it.
    var literalSettings: SessionSettings? {
        let isChanged = ledger.isUncertain || ledger.openEffects.contains(where: Self.changesLiterals)
            || settledEffects.contains(where: Self.changesLiterals) || unit.session.hasEffect(Self.changesLiterals)
        return isChanged ? nil : settings
    }

    /// How a server would take the statement's literals if it prepared it now.
    func literalsRead(_ reading: LiteralReading) -> LiteralsRead {
        switch reading {
        case .anyhow: .anyhow
        case .bySession: literalSettings.map(LiteralsRead.by) ?? .once
        case .once: .once
        }
    }

    private static func changesLiterals(_ effect: SessionEffect) -> Bool {
        switch effect {
        case .sets(let change): SessionSettings.isOfLiterals(change.name)
        case .resets(let name): SessionSettings.isOfLiterals(name)
        case .resetsAll, .discards(.all), .pins(.untrackedSetting), .pins(.unknownStatement): true
        case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides: false
        }
    }
}
