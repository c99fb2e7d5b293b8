import PGWire
import Primitives
import Sessions

/// What a client's startup packet gives to settings that servers report. A driver goes by what it is told of them: it
/// encodes by `client_encoding`, quotes by `standard_conforming_strings`, reads dates by `DateStyle`. So it is greeted
/// with its own values, as the server spells them. Used on its reactor's thread.
final class ReportedStartup {
    struct Value {
        /// In lower case.
        let name: String
        /// As the client has written it.
        let given: String
        /// As a server writes it; nil: none has been asked.
        var spelled: String?
        /// What the client was told last.
        var told: String?

        /// What to tell it: without a server, what is most likely.
        var best: String { spelled ?? Self.likely(name, given) }

        /// As PostgreSQL spells it, as far as that is known without it.
        static func likely(_ name: String, _ given: String) -> String {
            switch name {
            case "client_encoding":
                return given.uppercased()
            case "intervalstyle":
                return given.lowercased()
            case "standard_conforming_strings", "default_transaction_read_only":
                switch given.lowercased() {
                case "on", "true", "t", "yes", "y", "1": return "on"
                case "off", "of", "false", "f", "no", "n", "0": return "off"
                default: return given
                }
            default:
                return given
            }
        }
    }

    /// At most `SessionSettings.entriesMax`.
    var values: [Value]
    /// Places in `values` that its server was asked for last; nil: nothing is awaited.
    var asked: [Int]?
    var answers: [String] = []
    /// Names of settings that have gone back to what the startup packet has, of which a server tells its own default.
    var untold: Set<String> = []

    /// What another user's server has reported, where the client was told that; nil: it was told its own.
    var others: [StartupPacket.Parameter]?

    init(_ values: [Value]) { self.values = values }
}

/// What the authority has answered to `SessionSettings.spellingQuery`.
struct SpelledValues: Sendable {
    var side: Side
    /// Whom the server is logged in as: a role may have defaults of its own.
    var user: String
    /// What that server reported at its login.
    var login: [StartupPacket.Parameter]
    var values: [(given: StartupPacket.Parameter, spelled: String)]
}

/// How the authority spells values that startup packets have had. Used on its reactor's thread.
struct StartupSpellings {
    /// Values kept; beyond it all are asked for anew.
    static let valuesMax = 1000

    private struct Key: Hashable {
        var user: ExactName
        var name: ExactName
        var given: ExactName
    }

    private struct Known {
        var spelled: String
        var login: [StartupPacket.Parameter]
    }

    private var known: [Key: Known] = [:]

    init() {}

    func find(user: String, name: String, given: String) -> String? {
        if known.isEmpty { return nil }
        return known[Key(user: ExactName(user), name: ExactName(name), given: ExactName(given))]?.spelled
    }

    mutating func note(_ answer: SpelledValues) {
        if known.count + answer.values.count > Self.valuesMax { known = [:] }
        let user = ExactName(answer.user)
        for (given, spelled) in answer.values.prefix(Self.valuesMax) {
            known[Key(user: user, name: ExactName(given.name), given: ExactName(given.value))] =
                Known(spelled: spelled, login: answer.login)
        }
    }

    /// Where its defaults are others than they were, so may be the rest of a value that says a part only.
    mutating func loggedIn(_ user: String, _ login: [StartupPacket.Parameter]) {
        if known.isEmpty { return }
        let user = ExactName(user)
        known = known.filter { $0.key.user != user || $0.value.login == login }
    }
}
