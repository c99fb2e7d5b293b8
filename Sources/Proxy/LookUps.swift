import Configuration
import PGWire
import Primitives
import Reactor
import Sessions

/// How the secrets of one database's users are asked for. Immutable, any thread.
package struct SecretLookUp: Sendable, Equatable {
    /// Of OLD, with auth_user and its password.
    package var conninfo: String
    /// As the server has to be called in errors.
    package var database: String
    /// With the user's name as `$1`.
    package var query: String

    package init(conninfo: String, database: String, query: String) {
        self.conninfo = conninfo
        self.database = database
        self.query = query
    }
}

/// What a login needs and a reactor cannot find out without waiting. Asked of the look-up threads.
package struct LookUpRequest: Sendable {
    package enum Subject: Sendable {
        case secret(SecretLookUp, user: String)
        /// The name that the system has for this user number.
        case systemUser(UInt32, client: ClientID)
    }

    package var subject: Subject
    package var worker: Int
    package var number: UInt64
}

/// What a `LookUpRequest` has found, posted to the reactor that asked.
package enum LookUpAnswer: Sendable {
    case secret(ClientLogin.LookedUp)
    case systemUser(String?, client: ClientID)
}

extension Worker {
    /// Threads that wait for answers in the reactors' place.
    static var lookUpLanes: Int { 4 }

    /// Finds the secret of a user that the users' file does not have.
    func lookUpSecret(database: String, user: String, for client: ClientConnection) {
        guard let lookUp = lookUp(for: database) else {
            return client.supply(.none(iterations: nil))
        }
        switch secrets.ask(SecretCache.Key(database: database, user: user), for: client.id, now: now) {
        case .known(let answer): client.supply(answer)
        case .wait: break
        case .ask(let number):
            var hasher = Hasher()
            hasher.combine(lookUp.conninfo)
            let lane = Int(UInt(bitPattern: hasher.finalize()) % UInt(lookUps.count))
            lookUps[lane].post(LookUpRequest(subject: .secret(lookUp, user: user), worker: index, number: number))
        case .refused:
            client.supply(.failed(ErrorResponse(
                .fatal, .tooManyConnections, "too many logins wait for auth_query already", hint: "Try again.")))
        }
    }

    private func lookUp(for database: String) -> SecretLookUp? {
        if let route = snapshot.databases[database] { return route.lookUp }
        return snapshot.isConsole(database) ? nil : snapshot.wildcard?.lookUp?.named(database)
    }

    func lookUpSystemUser(_ number: UInt32, for client: ClientConnection) {
        lookUps[0].post(LookUpRequest(subject: .systemUser(number, client: client.id), worker: index, number: 0))
    }

    func lookedUp(_ number: UInt64, _ answer: LookUpAnswer) {
        switch answer {
        case .secret(let found):
            let (waiting, answer) = secrets.answered(number, found, now: now)
            for id in waiting { clients[id]?.supply(answer) }
        case .systemUser(let name, let client):
            clients[client]?.supply(systemUser: name)
        }
    }
}

extension SocketAddress {
    /// As rules see it; nil: a Unix socket.
    var network: NetworkAddress? {
        switch self {
        case .ipv4(let address, _): NetworkAddress(ipv4: address)
        case .ipv6(let high, let low, _, _): NetworkAddress(ipv6: UInt128(high) << 64 | UInt128(low))
        case .unix: nil
        }
    }
}
