import Routing
import SQLAnalysis
import Sessions

/// A session's values of the settings that are routing keys (`godwit.user`), and those that RESET goes back to. A
/// value, used on its client's thread.
struct KeyValues {
    private(set) var current: [String: String] = [:]
    private var startup: [String: String] = [:]
    /// As they were before the open transaction set any that no server knows of; nil: it has not.
    private var before: [String: String]?

    /// Only Godwit needs to know it; any other one is the application's, and means something to servers as well.
    static func isOurs(_ name: String) -> Bool { name.hasPrefix("godwit.") }

    subscript(name: String) -> String? { current[name] }

    mutating func start(_ name: String, with value: String) {
        startup[name] = value
        current[name] = value
    }

    /// What servers of the session have.
    mutating func note(_ name: String, _ value: String?, startup: String?) {
        self.startup[name] = startup
        current[name] = value
    }

    /// - Parameter value: nil: the default.
    mutating func set(_ name: String, to value: String?) { current[name] = value ?? startup[name] }

    /// - Returns: whether it had another value.
    mutating func reset(_ name: String) -> Bool {
        if current[name] == startup[name] { return false }
        current[name] = startup[name]
        return true
    }

    /// - Returns: whether any had another value.
    mutating func resetAll() -> Bool {
        if current == startup { return false }
        current = startup
        return true
    }

    /// What is set from now on goes with the transaction if that is rolled back, as PostgreSQL has it.
    mutating func setInTransaction() { before = before ?? current }

    /// - Returns: whether they may be others now.
    mutating func transactionEnded(isRolledBack: Bool) -> Bool {
        guard let before else { return false }
        self.before = nil
        if isRolledBack { current = before }
        return isRolledBack
    }

    /// The values once the effect counts.
    ///
    /// - Parameter names: of the settings that are keys.
    /// - Returns: nil: it leaves them as they are.
    func with(_ effect: SessionEffect, names: [String]) -> KeyValues? {
        var next = self
        switch effect {
        case .sets(let change):
            guard names.contains(change.name) else { return nil }
            next.set(change.name, to: change.value)
            return next
        case .resets(let name):
            return next.reset(name) ? next : nil
        case .resetsAll, .discards(.all):
            return next.resetAll() ? next : nil
        case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides:
            return nil
        }
    }
}

extension ClientConnection {
    /// A reload may have made keys of what the session has set before.
    func keySourcesChanged() {
        for name in database?.route.table.keySettings ?? [] {
            let value = settings.value(of: name)
            // While ours are keys nobody else knows them, and of some values there is no account.
            if keyValues[name] != nil && (KeyValues.isOurs(name) || value == nil && pins.contains(.untrackedSetting)) {
                continue
            }
            keyValues.note(name, value, startup: startupSettings.value(of: name))
        }
        routingChanged()
    }
}
