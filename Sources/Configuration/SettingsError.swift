/// Why a configuration file was refused. Immutable, any thread.
package struct SettingsError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Reason: Sendable, Equatable {
        case unreadable(String)
        /// Bytes in the file and allowed.
        case tooLarge(Int, max: Int)
        case syntax(String)
        case tooDeep(max: Int)
        case tooManyNodes(max: Int)
        case aliases
        case unknownKey(suggestion: String?)
        case duplicateKey
        case missing
        case expected(String, found: String)
        /// Known, but not working in this version.
        case unsupported(String)
        case conflict(String)
    }

    package var path: String
    /// From 1; 0 when the file could not be read at all.
    package var line: Int
    /// `databases.shop.pool.size`; empty for the file as a whole.
    package var key: String
    package var reason: Reason

    package init(path: String, line: Int, key: String, _ reason: Reason) {
        self.path = path
        self.line = line
        self.key = key
        self.reason = reason
    }

    /// `godwit.yaml:12: databases.shop.pool.size: expected a whole number from 1 to 100000, found "many"`
    package var description: String {
        let place = line > 0 ? "\(path):\(line)" : path
        return key.isEmpty ? "\(place): \(sentence)" : "\(place): \(key): \(sentence)"
    }

    /// Without the place: for what does not stand in the file.
    package var withoutPlace: String { key.isEmpty ? sentence : "\(key): \(sentence)" }

    private var sentence: String {
        switch reason {
        case .unreadable(let why): "cannot be read: \(why)"
        case .tooLarge(let bytes, let max): "is \(bytes) bytes long, expected at most \(max)"
        case .syntax(let what): "is not YAML: \(what)"
        case .tooDeep(let max): "is nested deeper than \(max) levels"
        case .tooManyNodes(let max): "holds more than \(max) values"
        case .aliases: "YAML anchors and aliases are not accepted"
        case .unknownKey(let suggestion?): "unknown key, did you mean '\(suggestion)'?"
        case .unknownKey(nil): "unknown key"
        case .duplicateKey: "is given twice"
        case .missing: "is missing"
        case .expected(let what, let found): "expected \(what), found \(found)"
        case .unsupported(let what): "\(what) is not available in this version"
        case .conflict(let what): what
        }
    }
}

/// Bounds of what a configuration may hold. Their relations are checked by the tests.
package enum SettingsLimits {
    package static let fileBytesMax = 16 << 20
    package static let depthMax = 16
    package static let nodesMax = 1_000_000
    package static let databasesMax = 1000
    /// That `*` makes on demand.
    package static let autoDatabasesMax = 1000
    package static let userSettingsMax = 10_000
    /// The least must hold a startup packet.
    package static let packetSizes = 10_000...2_147_483_647
    package static let keySourcesMax = 16
    package static let cohortsMax = 1000
    package static let rulesMax = 1000
    package static let threadsMax = 64
    package static let clientsMax = 1_000_000
    package static let poolSizeMax = 100_000
    /// A year: longer times are a mistake in the unit.
    package static let secondsMax = 366.0 * 86_400
    package static let usersFileBytesMax = 64 << 20
    package static let hooksMax = 8
    package static let usersMax = 1_000_000
    /// Of an HBA or ident file, and of each list that it names.
    package static let accessFileBytesMax = 4 << 20
    package static let accessRulesMax = 10_000
    /// Bytes of a user's name or secret.
    package static let userFieldBytesMax = 2048
}
