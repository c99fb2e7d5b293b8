import Digests
import PGWire

/// Our login to a server, from a made connection to the first ReadyForQuery. Pure; one connection's value.
package struct ServerLogin {
    /// What we know to prove ourselves with.
    package struct Credentials: Sendable, Equatable {
        package var user: String
        package var password: String?
        /// Serves the md5 method where no password is known.
        package var md5Secret: String?
        /// Serve SCRAM where no password is known: what a client has proven to us.
        package var scramKeys: SCRAMKeys?

        package init(user: String, password: String?, md5Secret: String?, scramKeys: SCRAMKeys? = nil) {
            self.user = user
            self.password = password
            self.md5Secret = md5Secret
            self.scramKeys = scramKeys
        }

        /// What its own conninfo says comes first, then the users' file, then what the client has proven: that was the
        /// file's word too, where it has the user, and the file may have been read again since.
        package init(user: String, password: String?, proof: ServerProof?, policy: AuthPolicy) {
            self.init(
                user: user, password: password ?? policy.plainPassword(of: user),
                md5Secret: policy.md5Secret(of: user))
            switch proof {
            case .password(let proven)?: self.password = self.password ?? proven
            case .md5(let proven)?: md5Secret = md5Secret ?? proven
            case .scram(let proven)?: scramKeys = proven
            case nil: break
            }
        }
    }

    package enum Action: Equatable {
        case send([UInt8])
        case ready
        case failed(ErrorResponse)
    }

    private enum State { case authenticating, saslFinal, saslDone, starting, ended }
    private var state: State = .authenticating
    private let credentials: Credentials
    private var scram: SCRAMClient?
    private let randomBytes: [UInt8]
    private let channelBinding: ServerEncryption.ChannelBinding
    /// What the channel is known by, once TLS is on it; empty: no TLS, or a certificate whose signature has no hash.
    private var endpointDigest: [UInt8] = []
    /// The exchange was bound to the channel.
    private var isBound = false
    /// The server has let us in: what fails from now on is not the login.
    package var isAuthenticated: Bool { state == .starting }
    /// The minor version of protocol 3: what we ask for, and from the server's answer on what both speak.
    package private(set) var minor: UInt16

    /// As reported before the first ReadyForQuery, in order.
    package private(set) var parameters: [StartupPacket.Parameter] = []
    package private(set) var processID: Int32 = 0
    package private(set) var cancelSecret: [UInt8] = []

    private static let standbyName = "in_hot_standby"
    /// The server takes no writes: it follows another one.
    package var isStandby: Bool { parameters.contains { $0.name == Self.standbyName && $0.value == "on" } }

    /// Of what was reported only this changes without a session that does it: a standby is promoted.
    ///
    /// - Returns: false where it is something else that was reported.
    package mutating func noteStandby(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool {
        guard name.elementsEqual(Self.standbyName.utf8),
            let index = parameters.firstIndex(where: { $0.name == Self.standbyName })
        else { return false }
        parameters[index].value = String(wire: value)
        return true
    }

    /// Parameters that a server may report before it is ready: a hostile one must not fill our memory.
    package static let parametersMax = 100

    /// - Parameter randomBytes: 18 bytes from a secure generator.
    package init(
        credentials: Credentials, randomBytes: [UInt8], minor: UInt16 = 0,
        channelBinding: ServerEncryption.ChannelBinding = .prefer
    ) {
        self.credentials = credentials
        self.channelBinding = channelBinding
        self.randomBytes = randomBytes
        self.minor = minor
    }

    /// TLS is on the channel.
    package mutating func secured(endpointDigest: [UInt8]) { self.endpointDigest = endpointDigest }

    package func startupPacket(database: String, parameters: [StartupPacket.Parameter]) -> [UInt8] {
        var writer = MessageWriter()
        writer.startup(
            minor: minor,
            parameters: [
                .init(name: "user", value: credentials.user), .init(name: "database", value: database),
            ] + parameters)
        return writer.bytes
    }

    package mutating func receive(tag: UInt8, body: UnsafeRawBufferPointer, _ actions: inout [Action]) {
        switch (state, tag) {
        case (.ended, _):
            break
        case (_, BackendTag.errorResponse):
            fail(ErrorResponse.parse(body: body), &actions)
        case (_, BackendTag.noticeResponse):
            break
        case (.authenticating, BackendTag.negotiateProtocolVersion):
            negotiate(body, &actions)
        case (.authenticating, BackendTag.authentication), (.saslFinal, BackendTag.authentication),
            (.saslDone, BackendTag.authentication):
            authenticate(body, &actions)
        case (.starting, BackendTag.parameterStatus):
            var reader = BodyReader(body)
            guard let name = reader.cString(), let value = reader.cString(),
                parameters.count < Self.parametersMax
            else { return fail(Self.unexpected(tag), &actions) }
            parameters.append(.init(name: String(wire: name), value: String(wire: value)))
        case (.starting, BackendTag.backendKeyData):
            var reader = BodyReader(body)
            guard let processID = reader.int32(), reader.remaining <= StartupPacket.cancelSecretMax else {
                return fail(Self.unexpected(tag), &actions)
            }
            self.processID = processID
            cancelSecret = Array(reader.rest())
        case (.starting, BackendTag.readyForQuery):
            state = .ended
            actions.append(.ready)
        case (.authenticating, _), (.saslFinal, _), (.saslDone, _), (.starting, _):
            fail(Self.unexpected(tag), &actions)
        }
    }

    /// The server speaks an older minor version than we asked for. We ask for no extensions: none can be unknown.
    private mutating func negotiate(_ body: UnsafeRawBufferPointer, _ actions: inout [Action]) {
        var reader = BodyReader(body)
        guard let version = reader.int32(), let unknown = reader.int32(), unknown == 0, reader.isAtEnd,
            version >> 16 == 3, let newest = UInt16(exactly: version & 0xFFFF), newest <= minor
        else { return fail(Self.unexpected(BackendTag.negotiateProtocolVersion), &actions) }
        minor = newest
    }

    private mutating func authenticate(_ body: UnsafeRawBufferPointer, _ actions: inout [Action]) {
        var reader = BodyReader(body)
        guard let code = reader.int32() else { return fail(Self.unexpected(BackendTag.authentication), &actions) }
        switch (state, code) {
        case (.authenticating, 0), (.saslDone, 0):
            if channelBinding == .require && !isBound {
                return fail(unbound("the server has let us in without it"), &actions)
            }
            state = .starting
        case (.authenticating, 3) where channelBinding == .require,
            (.authenticating, 5) where channelBinding == .require:
            fail(unbound("the server asks for authentication method \(code), which has none"), &actions)
        case (.authenticating, 3):
            guard let password = credentials.password else { return fail(noPassword, &actions) }
            answer(Array(password.utf8) + [0], &actions)
        case (.authenticating, 5):
            guard let salt = reader.bytes(4) else { return fail(Self.unexpected(BackendTag.authentication), &actions) }
            let secret = credentials.password.map { MD5Password.secret(password: $0, user: credentials.user) }
            guard let secret = secret ?? credentials.md5Secret else { return fail(noPassword, &actions) }
            answer(Array(MD5Password.response(secret: secret, salt: Array(salt)).utf8) + [0], &actions)
        case (.authenticating, 10):
            startSCRAM(&reader, &actions)
        case (.saslFinal, 11):
            guard var exchange = scram else { preconditionFailure("SASL without an exchange") }
            do {
                answer(try exchange.final(serverFirst: Array(reader.rest())), &actions)
                scram = exchange
            } catch {
                fail(error == .otherSecret ? otherSecret : Self.badSCRAM, &actions)
            }
        case (.saslFinal, 12):
            do {
                try scram?.verify(serverFinal: Array(reader.rest()))
                state = .saslDone
            } catch {
                fail(Self.badSCRAM, &actions)
            }
        default:
            fail(ErrorResponse(
                .fatal, .featureNotSupported,
                "the server asks for authentication method \(code), which Godwit does not have",
                hint: "Use scram-sha-256, md5, password or trust for Godwit in the server's pg_hba.conf."), &actions)
        }
    }

    private mutating func startSCRAM(_ reader: inout BodyReader, _ actions: inout [Action]) {
        var offered: [SCRAMMechanism] = []
        while let name = reader.cString(), !name.isEmpty {
            if let mechanism = SCRAMMechanism(rawValue: String(wire: name)) { offered.append(mechanism) }
        }
        let binding = binding(offered)
        guard offered.contains(binding.mechanism) else { return fail(Self.badSCRAM, &actions) }
        isBound = binding.mechanism == .plus
        if channelBinding == .require && !isBound {
            return fail(unbound("the server does not offer SCRAM-SHA-256-PLUS over this connection"), &actions)
        }
        let exchange: SCRAMClient
        if let password = credentials.password {
            exchange = SCRAMClient(password: password, randomBytes: randomBytes, binding: binding)
        } else if let keys = credentials.scramKeys {
            exchange = SCRAMClient(keys: keys, randomBytes: randomBytes, binding: binding)
        } else {
            return fail(noPassword, &actions)
        }
        let first = exchange.first()
        scram = exchange
        state = .saslFinal
        var writer = MessageWriter()
        writer.message(FrontendTag.password) { body in
            body.cString(binding.mechanism.rawValue)
            body.int32(Int32(first.count))
            body.raw(first)
        }
        actions.append(.send(writer.bytes))
    }

    /// The binding that both ends can have; what we say when the server cannot tells it if somebody hid its offer.
    private func binding(_ offered: [SCRAMMechanism]) -> SCRAMClient.Binding {
        if endpointDigest.isEmpty || channelBinding == .disable { return .none }
        return offered.contains(.plus) ? .endpoint(endpointDigest) : .notOffered
    }

    private func unbound(_ why: String) -> ErrorResponse {
        ErrorResponse(
            .fatal, .invalidAuthorization, "channel binding is required (channel_binding=require), and \(why)",
            hint: "Use TLS (sslmode=require or stronger) and scram-sha-256 for Godwit in the server's pg_hba.conf.")
    }

    private func answer(_ content: [UInt8], _ actions: inout [Action]) {
        var writer = MessageWriter()
        writer.password(content)
        actions.append(.send(writer.bytes))
    }

    private mutating func fail(_ error: ErrorResponse, _ actions: inout [Action]) {
        state = .ended
        actions.append(.failed(error))
    }

    private var otherSecret: ErrorResponse {
        ErrorResponse(
            .fatal, .invalidPassword,
            "the server has another SCRAM secret for user \"\(credentials.user)\" than its client has proven",
            hint: "Give the role the same secret there: ALTER ROLE ... PASSWORD with the SCRAM-SHA-256 text that the "
                + "other server has in pg_authid. Or put the plain password into the users' file.")
    }

    private var noPassword: ErrorResponse {
        ErrorResponse(
            .fatal, .invalidPassword,
            "the server wants a password for user \"\(credentials.user)\" and Godwit has none",
            hint: "Put the password into the database's conninfo, or the plain password into the users' file.")
    }

    private static let badSCRAM = ErrorResponse(
        .fatal, .protocolViolation,
        "the server's SCRAM messages are malformed, or it does not know the password either")

    private static func unexpected(_ tag: UInt8) -> ErrorResponse {
        ErrorResponse(.fatal, .protocolViolation, "the server sent message type \(tag) where login does not have it")
    }
}
