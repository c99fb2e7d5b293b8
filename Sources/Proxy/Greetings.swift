import PGWire
import Primitives

/// What a new client is told of the settings that servers report. Immutable.
struct Greeting {
    /// As the authority has reported them at a login of ours.
    let parameters: [StartupPacket.Parameter]
    /// ParameterStatus of all that is the same for every client of the user.
    let common: [UInt8]
    /// What each client has its own values of.
    private(set) var hasApplicationName = false
    private(set) var hasUser = false
    /// Where `parameters` has what; names in lower case, as PostgreSQL compares them.
    private(set) var places: [String: Int] = [:]

    init(_ parameters: [StartupPacket.Parameter]) {
        self.parameters = parameters
        var writer = MessageWriter()
        for (place, parameter) in parameters.enumerated() {
            places[parameter.name.lowercased()] = place
            switch parameter.name {
            case "application_name": hasApplicationName = true
            case "session_authorization": hasUser = true
            default: writer.parameterStatus(parameter.name, parameter.value)
            }
        }
        common = writer.bytes
    }
}

/// Greetings by whom servers are logged in as: a role may have settings of its own (ALTER ROLE ... SET), and a client
/// that is told another's reads dates wrongly, or writes text in an encoding that its server does not take it for.
/// Used on its reactor's thread.
struct Greetings {
    /// Users kept; beyond it all are learnt anew.
    static let usersMax = 1000

    private var own: [ExactName: Greeting] = [:]
    /// Of whoever has logged in last.
    private(set) var latest: Greeting?

    var isEmpty: Bool { latest == nil }

    /// A server has logged in as `user`.
    mutating func note(_ parameters: [StartupPacket.Parameter], of user: String) {
        let name = ExactName(user)
        if let known = own[name], known.parameters == parameters { return latest = known }
        if own.count >= Self.usersMax { own = [:] }
        let made = Greeting(parameters)
        own[name] = made
        latest = made
    }

    func find(_ user: String) -> Greeting? { isEmpty ? nil : own[ExactName(user)] }

    /// The user's own, or another's, which differs in little at most.
    func best(for user: String) -> Greeting? { find(user) ?? latest }
}
